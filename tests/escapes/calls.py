libc.mmap.restype = ctypes.c_void_p
child = os.fork()
if child == 0:
    time.sleep(100)
    os._exit(0)
here = ctypes.create_string_buffer(b'readable', 8)
there = ctypes.create_string_buffer(8)
class iovec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
local, remote = iovec(ctypes.addressof(there), 8), iovec(ctypes.addressof(here), 8)
handle = ctypes.create_string_buffer(struct.pack('<Ii', 128, 0) + bytes(128))
mount = ctypes.c_int()
pidfd = call(434, child, 0)
region = iovec(libc.mmap(None, 4096, 3, 0x22, -1, 0), 4096)
attr = ctypes.create_string_buffer(struct.pack('<IIQ', 1, 128, 1) + bytes(112))   # a software clock, of this process
print({
    'process_vm_readv': call(310, child, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0),
    'process_vm_writev': call(311, child, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0),
    'ptrace': call(101, 0x4206, child, 0, 0),
    'kcmp': call(312, os.getpid(), child, 0, 0, 0),
    'name_to_handle_at': call(303, -100, b'/proc/self/fd', handle, ctypes.byref(mount), 0),
    'syslog': call(103, 10, None, 0),
    'modify_ldt': call(154, 0, ctypes.create_string_buffer(64), 64),
    'process_madvise': call(440, pidfd, ctypes.byref(region), 1, 20, 0),
    'memfd_secret': call(447, 0),
    'userfaultfd': call(323, 1),
    'perf_event_open': call(298, attr, 0, -1, -1, 0),
    'request_key': call(249, b'user', b'nothing', None, 0),
    'personality': call(135, 0x0400000),
    'uts by clone': call(56, 0x04000000 | 17, 0, 0, 0, 0),
    'io_uring': call(425, 8, ctypes.create_string_buffer(120)),
})
os.kill(child, 9)
