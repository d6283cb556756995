"""The warm interpreter: it has imported what sandboxed code needs, and never sees any of that code.

The pool asks it for copies over descriptor 3. Each joins a sandbox and confines itself (`_confine`) before it is heard of; what
the copy runs then is the pool's to say (`_inside`). This process stays as it is: whatever one copy does, the next one is made of
what the pool has booted.
"""
# What begins with _ is private to these packages.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from . import _confine, _inside

#: The longest message, and the most descriptors that come with one.
_LONGEST, _DESCRIPTORS = 64 << 10, 16


def main() -> NoReturn:
    pool = socket.socket(fileno=3)
    pool.set_inheritable(False)
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    boot, fds = _receive(pool)
    if boot is None:
        os._exit(0)
    try:
        warm = _Warm(pool, boot["boot"], fds)
    except BaseException as error:
        _say(pool, {"failed": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _say(pool, {"ready": True})
    warm.serve()


class _Warm:
    def __init__(self, pool: socket.socket, boot: dict[str, Any], fds: list[int]) -> None:
        self._pool = pool
        with open(fds[0], "rb") as file:
            file.seek(0)
            self._filter = _confine.Filter(file.read())
        sys.path += [path for path in boot["paths"] if path not in sys.path]
        for name in boot["preload"]:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ImportError(f"preload {name!r}: {error}; `packages` names where modules are") from None
        self._after_fork = _function(boot["after_fork"])
        _confine.adopt_copies()
        #: Copies that stay in the namespaces of this process: the process group of each is to end with it.
        self._groups: set[int] = set()
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        _inside.rehearse()
        # What is here now is never collected, so that no copy has pages of its own for that.
        gc.collect()
        gc.freeze()

    def serve(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._pool, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._woken:
                    os.read(self._woken, 4096)
                    self._reap()
                    continue
                asked, fds = _receive(self._pool)
                if asked is None:
                    for pid in self._groups:
                        _end(pid)
                    os._exit(0)
                self._copy(asked["fork"], fds)

    def _copy(self, asked: dict[str, Any], fds: list[int]) -> None:
        """A copy of this process, in the sandbox whose PID 1 came along. Its parent is gone before it does anything."""
        namespaces = fds[1 + asked["landlock"] + asked["cgroups"] :]
        joiner = _confine.fork() if namespaces else os.fork()
        if joiner == 0:
            try:
                if namespaces:
                    _confine.join(namespaces)
                    if os.fork():
                        os._exit(0)
                waiting = self._be_copy(asked, fds)
            except BaseException as error:
                # The pool knows whether the sandbox has ended meanwhile, which is what most errors come of.
                _say(socket.socket(fileno=fds[0]), {"failed": f"confine an interpreter: {error}"})
                os._exit(125)
            try:
                _inside.serve(waiting, self._restrict if asked["later"] else None)
            finally:
                # Whatever the code has made of this interpreter: it ends here.
                os._exit(1)
        if not namespaces:
            self._groups.add(joiner)
        for fd in fds:
            os.close(fd)

    def _be_copy(self, asked: dict[str, Any], fds: list[int]) -> socket.socket:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control, *rest = fds
        ruleset = rest.pop(0) if asked["landlock"] else None
        namespaces = rest[asked["cgroups"] :]
        for cgroup in rest[: asked["cgroups"]]:
            _confine.enter(cgroup)
        os.setsid()
        # Code that nobody trusts waits its turn: it takes no processor from who is at work when it is woken.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        _keep_only(control, ruleset)
        waiting = socket.socket(fileno=control)
        _confine.give_up(asked["uid"], asked["gid"], asked["groups"], asked["rlimits"], bool(namespaces))
        if ruleset is not None:
            _confine.restrict(ruleset)
            os.close(ruleset)
        _confine.load(self._filter)
        _inside.renew()
        if not asked["later"]:
            self._renewed()
        if asked["rehearse"]:
            _inside.rehearse()
        waiting.send(b'{"confined":true}')
        return waiting

    def _restrict(self, fds: list[int]) -> None:
        """To the rules that came with a task: which files its run may use was not known before."""
        ruleset = fds.pop(0)
        _confine.restrict(ruleset)
        os.close(ruleset)
        self._renewed()

    def _renewed(self) -> None:
        if self._after_fork is not None:
            self._after_fork()

    def _reap(self) -> None:
        while True:
            try:
                # It keeps its number until all of its group is ended.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is not None and ended.si_pid in self._groups:
                    self._groups.discard(ended.si_pid)
                    _end(ended.si_pid)
                pid, status, usage = os.wait4(ended.si_pid if ended else -1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            _say(self._pool, {"ended": [pid, status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10]})


def _end(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass  # it is none yet, or none any more


def _nothing(*_: object) -> None:
    """A handler, without which no signal wakes this process."""


def _function(name: str | None) -> Callable[[], object] | None:
    if name is None:
        return None
    module, _, function = name.partition(":")
    found: Callable[[], object] = getattr(importlib.import_module(module), function)
    return found


def _keep_only(*kept: int | None) -> None:
    """Closes all descriptors but the standard ones and these."""
    first = 3
    for fd in sorted(fd for fd in kept if fd is not None):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 1 << 16)


def _receive(pool: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    space = socket.CMSG_SPACE(_DESCRIPTORS * array.array("i").itemsize)
    try:
        data, ancillary, _, _ = pool.recvmsg(_LONGEST, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None, []  # it is gone, and had not heard all
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return (json.loads(data) if data else None), list(fds)


def _say(pool: socket.socket, message: dict[str, Any]) -> None:
    try:
        pool.send(json.dumps(message).encode())
    except OSError:
        pass  # The pool is gone, which is heard next.
