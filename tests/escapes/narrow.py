libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, 4096, 7, 0x22 | 0x40, -1, 0)
# clone(CLONE_NEWUSER | SIGCHLD); the child ends at once by exit(7), both by int $0x80
code = bytes.fromhex('53 b8 78000000 bb 11000010 31c9 31d2 31f6 31ff cd80 85c0 75 0c b8 01000000 bb 07000000 cd80 5b c3'.replace(' ', ''))
ctypes.memmove(page, code, len(code))
tried = os.fork()
if tried == 0:
    made = ctypes.CFUNCTYPE(ctypes.c_int)(page)()
    if made < 0:
        os._exit(100 - made & 0xff)
    os._exit(os.waitpid(made, 0)[1] >> 8)
print(os.waitpid(tried, 0)[1])
