import ctypes, errno, os, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    "A system call: its result, or the name of its errno."
    args = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    got = libc.syscall(ctypes.c_long(number), *args)
    return got if got >= 0 else errno.errorcode[ctypes.get_errno()]
def tried(what, *args, **kwargs):
    try:
        return what(*args, **kwargs)
    except OSError as e:
        return errno.errorcode[e.errno]
def status(name):
    return [l.split(':')[1].strip() for l in open('/proc/self/status') if l.startswith(name + ':')][0]
