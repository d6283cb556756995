"""Which calls run now, which wait, and in which thread: one leads (`Leader`), which waits on the epoll set and runs what comes by
itself, so that a quick call costs no hand-over.
"""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Callable

from .._codec import Admission, Leader
from .limits import SLOW, SLOW_TURNS
from .saying import say, text_of

if TYPE_CHECKING:
    from .._codec import Call
    from .calls import Calls
    from .connection import Connection, Connections
    from .one import OneThread

    Work = Callable[[Call], None]


class Scheduler:
    """There is one thread more than calls may run at once: while all run, it reads on, lets calls wait, refuses what is too
    much, and sees callers cancel and go."""

    def __init__(
        self, service: str, threads: int, queue: int, connections: Connections, calls: Calls, one: OneThread | None
    ) -> None:
        self.service = service
        self._queue = queue
        self._connections = connections
        self._calls = calls
        #: The thread in which all calls run, if that is one.
        self.one = one
        self.gate = Admission(threads, queue)
        self.lead = Leader()
        self.idle = threading.Condition()

    def admit(self, call: Call, work: Work) -> None:
        """Runs a call, or lets it wait, or refuses it."""
        verdict = self.gate.enter(call, work, False, call.connection.number)
        if verdict == "run":
            self._run(call, work)
        elif verdict == "stopping":
            self._calls.fail(call, "pysecure.GoingAway", f"{self.service} ends", False)
        elif verdict == "busy":
            text = f"{self.service} is busy: {self._queue} calls of this caller wait"
            self._calls.fail(call, "pysecure.Busy", text, False)

    def readmit(self, call: Call, work: Work) -> None:
        """The same for a call that was admitted before, such as a stream that goes on: it waits whatever waits. At most one
        of these waits for each open call, which are bounded."""
        if self.gate.enter(call, work, True, call.connection.number) == "run":
            self._run(call, work)

    def _run(self, call: Call, work: Work) -> None:
        if self.one is None:
            self.work_through(call, work)
        else:
            self.one.post(lambda: self.work_through(call, work))

    def work_through(self, call: Call, work: Work) -> None:
        """Runs a call, and then those that waited for it."""
        while True:
            function = call.function
            slow = function.slow
            if slow:
                function.slow = slow - 1
            run = self.lead.begin(slow > 0)
            start = monotonic()
            try:
                work(call)
            except BaseException as error:
                self.defect(call.connection, error)
            finally:
                if monotonic() - start > SLOW:
                    function.slow = function.slowness = min(2 * function.slowness or 1, SLOW_TURNS)
                else:
                    function.slowness >>= 1
                self.lead.done(run)
                following = self.gate.leave(call.connection.number)
                if following is None and self.gate.stopping:
                    self.at_rest()
            if following is None:
                return
            call, work = following

    def at_rest(self) -> None:
        """A call has ended, and whoever stops the service waits for that."""
        with self.idle:
            self.idle.notify_all()

    def defect(self, connection: Connection, error: BaseException) -> None:
        """An error of this package's own. It must not take a thread away."""
        say(f"{self.service}: {type(error).__name__}: {text_of(error)}")
        self._connections.drop(connection, owner=self.lead.leading)
