for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'):
    assert int(status(name), 16) == 0, (name, status(name))
assert status('NoNewPrivs') == '1' and status('Seccomp') == '2'
assert libc.prctl(27) == 3, 'SECBIT_NOROOT, and locked'
assert int(status('Seccomp_filters')) >= 1
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
def refused(name, got, *errors):
    if got not in (errors or ('EPERM', 'ENOSYS', 'EACCES')):
        print(name, got)
refused('unshare user', call(272, CLONE_NEWUSER))
refused('unshare mount', call(272, CLONE_NEWNS))
refused('clone user', call(56, CLONE_NEWUSER | 17, 0, 0, 0, 0))
refused('clone user with high bits', call(56, 1 << 40 | CLONE_NEWUSER | 17, 0, 0, 0, 0))
refused('clone3', call(435, ctypes.create_string_buffer(88), 88), 'ENOSYS')
# What programs try before an older way: a refusal would end them where an older kernel would not.
for newer in (457, 458, 459, 460, 461, 467, 468, 469, 500, 100000):
    refused('call %d' % newer, call(newer, 0, 0, 0, 0, 0), 'ENOSYS')
refused('mount', call(165, b'none', b'/tmp', b'tmpfs', 0, 0))
refused('umount', call(166, b'/proc', 2))
refused('pivot_root', call(155, b'/', b'/'))
refused('chroot', call(161, b'/tmp'))
refused('open_tree', call(428, -100, b'/', 1))
refused('move_mount', call(429, -100, b'/', -100, b'/tmp', 0))
refused('fsopen', call(430, b'tmpfs', 0))
refused('mount_setattr', call(442, -100, b'/', 0, 0, 0))
for kind in ('user', 'mnt', 'pid', 'net'):
    refused('setns', call(308, os.open('/proc/self/ns/' + kind, os.O_RDONLY), 0))
refused('ptrace me', call(101, 0, 0, 0, 0))
refused('ptrace child', call(101, 16, os.getpid(), 0, 0))
refused('bpf', call(321, 0, 0, 0))
refused('keyctl', call(250, 0, -3, 1))
refused('add_key', call(248, b'user', b'x', b'y', 1, -3))
refused('io_uring', call(425, 8, ctypes.create_string_buffer(120)))
refused('perf', call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0))
refused('userfaultfd', call(323, 0))
refused('kexec', call(246, 0, 0, 0, 0))
refused('init_module', call(175, 0, 0, b''))
refused('open_by_handle', call(304, -100, ctypes.create_string_buffer(32), 0))
refused('reboot', call(169, 0, 0, 0, 0))
refused('sethostname', call(170, b'x', 1))
refused('x32', call(0x40000000 + 272, CLONE_NEWUSER))
refused('setgroups to none', tried(os.setgroups, []))
for number in (0, 1, 65534, 61000, 1000):
    refused('setuid %d' % number, tried(os.setuid, number) if number != os.getuid() else 'EPERM', 'EPERM', 'EINVAL')
    refused('setgid %d' % number, tried(os.setgid, number) if number != os.getgid() else 'EPERM', 'EPERM', 'EINVAL')
for family in (40, 17, 16, 38, 31, 29, 44):
    kind = socket.SOCK_RAW if family in (16, 17) else socket.SOCK_STREAM
    got = tried(socket.socket, family, kind, 0)
    if family != 16:
        refused('socket %d' % family, got, 'EPERM', 'EACCES', 'EAFNOSUPPORT')
refused('raw socket', tried(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1))
refused('mknod', tried(os.mknod, '/tmp/mem', 0o20666, os.makedev(1, 1)))
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/proc/sys/vm/drop_caches',
             '/sys/kernel/uevent_helper', '/proc/self/uid_map', '/proc/self/setgroups', '/etc/passwd', '/usr/bin/new', '/bin/sh', '/new'):
    def write(path):
        with open(path, 'wb', buffering=0) as f:
            f.write(b'x')
    refused('write ' + path, tried(write, path), 'EROFS', 'EACCES', 'EPERM', 'ENOENT')
for path in ('/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/sched_debug', '/dev/mem', '/dev/kmsg'):
    got = tried(lambda: open(path, 'rb').read(10))
    refused('read ' + path, got, b'', 'ENOENT', 'EACCES', 'EPERM')
for path in ('/proc/acpi', '/proc/scsi', '/sys/firmware', '/sys/fs/cgroup', '/sys/kernel'):
    refused('list ' + path, tried(lambda: str(os.listdir(path))), '[]', 'ENOENT', 'EACCES')
for top, folders, files in os.walk('/sys'):
    for name in files:
        if name in ('release_agent', 'uevent_helper', 'cgroup.procs'):
            print('found', top, name)
nodes = set()
for top, folders, files in os.walk('/dev'):
    for name in files:
        found = os.lstat(os.path.join(top, name))
        if found.st_rdev:
            nodes.add((name, os.major(found.st_rdev), os.minor(found.st_rdev)))
print('nodes', sorted(nodes))
