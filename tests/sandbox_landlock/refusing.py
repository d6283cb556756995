"""Runs a program under a filter of system calls, such as a container has: refusing.py CALL=ERRNO... -- PROGRAM ARGUMENT...

CALL is clone3, unshare or landlock_create_ruleset, or `namespaces`, for clone(2) with any of their flags. `death=0`: nobody is sent a signal
when its parent ends, and is told that it will be (PR_SET_PDEATHSIG).
"""

import ctypes
import errno
import os
import struct
import sys

NUMBERS = {
    "x86_64": {"clone3": 435, "unshare": 272, "landlock_create_ruleset": 444, "namespaces": 56, "death": 157},
    "aarch64": {"clone3": 435, "unshare": 97, "landlock_create_ruleset": 444, "namespaces": 220, "death": 167},
}[os.uname().machine]
LOAD, EQUAL, ANY, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NAMESPACES = 0x7E020000

at = sys.argv.index("--")
code = [(LOAD, 0, 0, 0)]
for refused in sys.argv[1:at]:
    name, _, number = refused.partition("=")
    answer = (RETURN, 0, 0, ERRNO | getattr(errno, number, 0))
    if name == "death":
        code += [(EQUAL, 0, 4, NUMBERS[name]), (LOAD, 0, 0, 16), (EQUAL, 0, 1, 1), answer, (RETURN, 0, 0, ALLOW)]
    elif name == "namespaces":
        code += [(EQUAL, 0, 4, NUMBERS[name]), (LOAD, 0, 0, 16), (ANY, 0, 1, NAMESPACES), answer, (RETURN, 0, 0, ALLOW)]
    else:
        code += [(EQUAL, 0, 1, NUMBERS[name]), answer]
code.append((RETURN, 0, 0, ALLOW))
program = b"".join(struct.pack("HBBI", *each) for each in code)
buffer = ctypes.create_string_buffer(program, len(program))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs"
filter = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
assert libc.prctl(22, 2, ctypes.c_char_p(filter), 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])
