# PIDS: processes of others, as the host counts. For each, what it is told of what it tries.
import fcntl, signal
space = ctypes.create_string_buffer(4096)
class iovec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
local = iovec(ctypes.addressof(space), 8)
info = struct.pack('iii', signal.SIGUSR1, 0, -1).ljust(128, b'\0')
attributes = struct.pack('<IIQiIQQQ', 48, 5, 0, 0, 0, 0, 0, 0)
def by_file(pid):
    "A signal that the kernel sends, of a socket that can be read; fcntl(2)."
    one, other = socket.socketpair()
    fcntl.fcntl(one, 10, int(signal.SIGUSR1))
    fcntl.fcntl(one, fcntl.F_SETOWN, pid)
    fcntl.fcntl(one, fcntl.F_SETFL, fcntl.fcntl(one, fcntl.F_GETFL) | os.O_ASYNC)
    other.send(b'x')
    return 'asked'
for pid in PIDS:
    by_pidfd = call(434, pid, 0)
    opened = isinstance(by_pidfd, int)
    print('by_file', tried(by_file, pid))
    print('tried', {
        'kill': call(62, pid, 10), 'group': call(62, -pid, 10), 'tkill': call(200, pid, 10), 'tgkill': call(234, pid, pid, 10),
        'rt_sigqueueinfo': call(129, pid, 10, info), 'rt_tgsigqueueinfo': call(297, pid, pid, 10, info),
        'pidfd_send_signal': call(424, by_pidfd, 10, 0, 0) if opened else by_pidfd,
        'pidfd_getfd': call(438, by_pidfd, 0, 0) if opened else by_pidfd,
        'ptrace': call(101, 0x4206, pid, 0, 0),
        'process_vm_readv': call(310, pid, ctypes.byref(local), 1, ctypes.byref(local), 1, 0),
        'kcmp': call(312, pid, pid, 0, 0, 0),
        'prlimit64': call(302, pid, 4, struct.pack('<QQ', 0, 0), None), 'limits': call(302, pid, 4, None, space),
        'setpriority': call(141, 0, pid, 7), 'ioprio_set': call(251, 1, pid, 3 << 13),
        'sched_setaffinity': call(203, pid, 8, struct.pack('<Q', 1)),
        'sched_setscheduler': call(144, pid, 5, struct.pack('<i', 0)), 'sched_setattr': call(314, pid, attributes, 0),
        'migrate_pages': call(256, pid, 64, space, space),
        'mem': tried(open, '/proc/%d/mem' % pid), 'environ': tried(open, '/proc/%d/environ' % pid),
        'fd': tried(os.listdir, '/proc/%d/fd' % pid), 'cwd': tried(os.stat, '/proc/%d/cwd/.' % pid),
        'root': tried(os.stat, '/proc/%d/root/.' % pid),
    })
