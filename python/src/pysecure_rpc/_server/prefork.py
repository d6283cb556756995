"""A service of several processes: children that share the sockets, and a parent that starts one anew which ends unasked."""

from __future__ import annotations

import os
import select
import signal
from time import sleep
from typing import Any

from .._function import State
from . import forked
from .forked import SIGNALS, flush
from .notify import notify
from .saying import say
from .service import Server, serve


class Prefork:
    """The parent of a service's processes."""

    def __init__(self, server: Server, processes: int) -> None:
        self._server = server
        self._processes = processes
        self._children: set[int] = set()
        self._ending = False
        #: Each of the first children writes a byte when it serves.
        self._up, self._says_up = os.pipe()
        self._waited_for = True

    def run(self) -> None:
        """Serves until it is told to end."""
        State.serving = self._server.name
        self._server.close_figures()
        for _ in range(self._processes):
            self._begin()
        before: dict[int, Any] = {int(n): signal.signal(n, self._end) for n in SIGNALS}
        self._server.before = before
        self._wait_until_up()
        if not self._ending:
            notify("READY=1")
        self._replace()
        notify("STOPPING=1")
        for number, handler in before.items():
            signal.signal(number, handler)
        self._server.remove_paths()
        os.close(self._up)
        os.close(self._says_up)

    def _wait_until_up(self) -> None:
        seen = 0
        while seen < self._processes and not self._ending:
            # One that ends before it serves would not be seen by reading alone.
            if select.select([self._up], [], [], 0.2)[0]:
                seen += len(os.read(self._up, self._processes - seen))
            elif os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                self._end()
                say(f"a process of {self._server.name} could not start")
        self._waited_for = False

    def _replace(self) -> None:
        """Starts children anew that end, until none is left at the end."""
        while self._children:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                return
            if pid not in self._children:
                continue
            self._children.discard(pid)
            if not self._ending:
                say(f"a process of {self._server.name} ended with {os.waitstatus_to_exitcode(status)}")
                sleep(0.1)
                if not self._ending:
                    self._begin()

    def _end(self, *_: Any) -> None:
        self._ending = True
        for pid in self._children:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    def _begin(self) -> None:
        flush()
        parent = os.getpid()
        # Whoever is told to end while this forks: both of the two must know.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        with forked.to_serve():
            pid = os.fork()
        if pid:
            self._children.add(pid)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return
        code = 1
        try:
            # The parent's way to end is to end its children.
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._serve(parent)
            code = 0
        finally:
            flush()
            os._exit(code)

    def _serve(self, parent: int) -> None:
        """In the child."""
        os.close(self._up)
        self._server.become_child()
        os.environ.pop("NOTIFY_SOCKET", None)
        _die_with(parent)
        serve(self._server, self._say_up)

    def _say_up(self) -> None:
        # Those that are started in the place of others are waited for by nobody, and what they wrote would fill the pipe.
        if self._waited_for:
            os.write(self._says_up, b".")
        os.close(self._says_up)


def _die_with(parent: int) -> None:
    """PR_SET_PDEATHSIG of prctl(2), which says nothing of a parent that has ended already."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
