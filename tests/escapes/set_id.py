libc.mmap.restype = ctypes.c_void_p
def int80(number, path, mode):
    "The same call as a program of 32 bits makes it, whose strings lie below 4 GiB."
    page = libc.mmap(None, 4096, 7, 0x22 | 0x40, -1, 0)
    text = page + 2048
    ctypes.memmove(text, path + b'\0', len(path) + 1)
    code = b'\x53\xb8' + struct.pack('<I', number) + b'\xbb' + struct.pack('<I', text) + b'\xb9' + struct.pack('<I', mode) + b'\xcd\x80\x5b\xc3'
    ctypes.memmove(page, code, len(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(page)()
here = FOLDER.encode()
def fresh(name):
    path = here + b'/' + name.encode()
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o755))
    return path
def tmpfile(bits):
    fd = call(257, -100, here, 0o20200002, bits)
    if isinstance(fd, int):
        call(265, -100, b'/proc/self/fd/%d' % fd, -100, here + b'/tmpfile%o' % bits, 0x400)
    return fd
done = []
for bits in (0o4755, 0o2755, 0o6755):
    f = fresh('file%o' % bits)
    fd = os.open(f, os.O_RDONLY)
    new = lambda name: here + b'/%s%o' % (name.encode(), bits)
    how = struct.pack('<QQQ', 0o102, bits, 0)
    done += [
        ('chmod', call(90, f, bits)),
        ('chmod with more bits', call(90, fresh('more%o' % bits), 1 << 32 | 0o200000 | bits)),
        ('fchmod', call(91, os.open(fresh('fchmod%o' % bits), os.O_RDONLY), bits)),
        ('fchmodat', call(268, -100, fresh('fchmodat%o' % bits), bits)),
        ('fchmodat2', call(452, -100, fresh('fchmodattwo%o' % bits), bits, 0)),
        ('open', call(2, new('open'), 0o102, bits)),
        ('creat', call(85, new('creat'), bits)),
        ('openat', call(257, -100, new('openat'), 0o102, bits)),
        ('O_TMPFILE', tmpfile(bits)),
        ('openat2', call(437, -100, new('openattwo'), ctypes.c_char_p(how), 24)),
        ('mknod', call(133, new('mknod'), 0o100000 | bits, 0)),
        ('mknodat', call(259, -100, new('mknodat'), 0o100000 | bits, 0)),
        ('mkdir', call(83, new('mkdir'), bits)),
        ('mkdirat', call(258, -100, new('mkdirat'), bits)),
    ]
allowed = sorted({name for name, got in done if isinstance(got, int)})
strange = sorted({(name, got) for name, got in done if got not in ('EPERM', 'ENOSYS') and not isinstance(got, int)})
print('allowed', allowed, strange)
def bits_of(path):
    return os.lstat(path).st_mode & 0o6000
print('set', sorted(n.rstrip('0123456789') for n in os.listdir(FOLDER) if bits_of(os.path.join(FOLDER, n)) == 0o6000))
# What programs do every day goes on.
for mode in (0o700, 0o755, 0o1777, 0o644):
    os.chmod(fresh('plain'), mode)
os.mkdir(here + b'/folder', 0o750)
os.close(os.open(here + b'/made', os.O_CREAT | os.O_WRONLY, 0o664))
os.close(call(2, here + b'/made', 0, 0o6755))                        # without O_CREAT it is no mode
os.mkfifo(here + b'/pipe', 0o622)
shut = os.fork()
if shut == 0:
    os._exit(int80(15, fresh('wide'), 0o6755) & 0xff)
print('32 bits', os.waitpid(shut, 0)[1], '%o' % bits_of(here + b'/wide'))
