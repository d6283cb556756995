"""What a copy of the warm interpreter does to itself before it waits for a task.

It joins the namespaces that the pool has made, takes on the ids of the run, and gives up every right: setns(2), capabilities(7),
landlock(7), seccomp(2). Any call that fails ends the process. The pool reads from the kernel whether all of it was done, so nobody
has to believe this file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource

_libc = ctypes.CDLL(None, use_errno=True)
# It keeps the interpreter's lock, which the child has then.
_fork = ctypes.PyDLL(None, use_errno=True).fork
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

# Numbers of linux/sched.h, linux/prctl.h, linux/seccomp.h and linux/capability.h, which are the same on all machines.
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 4, 24, 47, 4
_PR_SET_SECUREBITS, _PR_SET_CHILD_SUBREAPER = 28, 36
# No id is root, whatever a program's file says, and that stays so; capabilities(7).
_NOROOT_LOCKED = 3
_SECCOMP_SET_MODE_FILTER = 1
_CAPABILITY_VERSION = 0x20080522
_MOST_CAPABILITIES = 64

# asm/unistd_64.h, and asm-generic/unistd.h, which aarch64 has. landlock(7) has the same everywhere.
_CAPSET, _SECCOMP = {"x86_64": (126, 317), "aarch64": (91, 277)}[os.uname().machine]
_LANDLOCK_RESTRICT_SELF = 446


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint32 * 6)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


_header, _none = _Header(_CAPABILITY_VERSION, 0), _Sets()


class Filter:
    """A filter of system calls, as the pool has made it: an array of struct sock_filter."""

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        self.program = _Program(len(code) // 8, ctypes.addressof(self._code))


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def adopt_copies() -> None:
    """From now on this process hears of the end of its children's children."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become a reaper")


def fork() -> int:
    """fork(2), without what Python does around it: for a child that calls `join` and forks again."""
    pid: int = _fork()
    if pid < 0:
        _check(pid, "fork")
    return pid


def join(namespaces: list[int]) -> None:
    """Into these namespaces, the user namespace first; the PID namespace is that of the next child."""
    for namespace in namespaces:
        _check(_libc.setns(namespace, 0), "join the sandbox")


def enter(cgroup: int) -> None:
    """Into the cgroup of which this is the file `tasks`. Where that fails, it is taken in from outside."""
    try:
        os.write(cgroup, b"0")
    except OSError:
        pass


def give_up(uid: int, gid: int, groups: bool, limits: list[list[int]], joined: bool) -> None:
    """Takes on the ids of the run, and no right, for good. `groups`: may they be set here? `joined`: has it namespaces of its own?"""
    for kind, soft, hard in limits:
        resource.setrlimit(kind, (soft, hard))
    # Who has no right to say so without namespaces of its own has none to get back either: no_new_privs is set.
    if _libc.prctl(_PR_SET_SECUREBITS, _NOROOT_LOCKED, 0, 0, 0) < 0 and (joined or ctypes.get_errno() != errno.EPERM):
        _check(-1, "give up root's rights")
    for capability in range(_MOST_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # The kernel has no more.
    if groups:
        os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "drop capabilities")
    _check(_syscall(_CAPSET, ctypes.byref(_header), ctypes.byref(_none)), "drop capabilities")
    # What the change of id took away, as execve(2) gives it back: nothing here is kept from this id.
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "become dumpable")
    os.umask(0o077)


def restrict(ruleset: int) -> None:
    """Uses no file from now on but those of these rules; landlock_restrict_self(2)."""
    _check(_syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "apply Landlock rules")


def load(code: Filter) -> None:
    """Uses no system call from now on but those of the filter; seccomp(2)."""
    _check(_syscall(_SECCOMP, _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(code.program)), "load the filter of system calls")
