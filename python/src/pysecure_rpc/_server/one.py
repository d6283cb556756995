"""`threads=1`: all of the service's own code runs in one thread, which is that of `start_service`.

Another thread, which runs none of it, waits for what comes meanwhile: it lets calls wait, refuses what is too much, and sees callers
cancel and go.
"""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import signal
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Callable

from . import forked

if TYPE_CHECKING:
    Job = Callable[[], None]


class Overdue(BaseException):
    """Is raised in what still runs when the time is over that it had to end."""


class OneThread:
    """Runs jobs in turn, and coroutines between them."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        #: The event loop, once there was a coroutine.
        self._loop: Any = None
        self._thread = 0
        self._runs = self._ended = False
        #: Is what runs to be interrupted? Whoever handles signals raises `Overdue` then.
        self.overdue = False

    def post(self, job: Job | None) -> None:
        """Has this done; from any thread."""
        with self._lock:
            self._jobs.put(job)
            loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    def take_loop(self, loop: Any) -> None:
        """From now on this event loop runs between the jobs. In this thread."""
        with self._lock:
            self._loop = loop

    def run(self) -> None:
        """Does what there is to do, until the end."""
        self._thread = threading.get_ident()
        try:
            while not self._ended:
                if self._loop is None:
                    self._do(self._jobs.get())
                else:
                    # A job is done outside of it, so that one may run an event loop of its own. Who posts one stops this.
                    self._loop_once()
                self._do_all()
        except Overdue:
            pass

    def _loop_once(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            if os.getpid() != self._pid:
                forked.end(forked.no_loop())

    def _do_all(self) -> None:
        while not self._ended:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            self._do(job)

    def _do(self, job: Job | None) -> None:
        if os.getpid() != self._pid:
            forked.end()
        if job is None:
            return
        with self._lock:
            self._runs = True
        try:
            job()
        finally:
            with self._lock:
                self._runs = False

    def end(self, interrupt: bool) -> None:
        """No more. `interrupt`: what runs still is interrupted by a signal."""
        self.post(self._stop)
        with self._lock:
            if interrupt and self._runs:
                self.overdue = True
                signal.pthread_kill(self._thread, signal.SIGTERM)

    def _stop(self) -> None:
        self._ended = True

    def forked(self) -> None:
        """In a child, whose thread may be this one, and wait."""
        self._jobs.put(None)
