"""Generators: one is run on when there is credit, by whichever thread hears of it, and holds none in between."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING

from .. import _context, _messages
from .limits import MOMENT

if TYPE_CHECKING:
    from .._codec import Call
    from .calls import Calls
    from .scheduler import Scheduler


class Streams:
    """All streams of a process; those of coroutines are run by `Coroutines`, and only woken here."""

    def __init__(self, calls: Calls, scheduler: Scheduler) -> None:
        self._calls = calls
        self._scheduler = scheduler
        self._lock = threading.Lock()
        #: Those that wait until their caller has read more, and whether a thread looks at them.
        self._paused: list[Call] = []
        self._looked_at = False

    def credit(self, call: Call, more: int) -> None:
        """Its caller allows so many items more."""
        if call.function.is_stream:
            with call.connection.lock:
                call.credit = min(call.credit + more, 1 << 53)
            self.resume(call)

    def resume(self, call: Call) -> None:
        """It may be that it can go on."""
        if call.function.is_async:
            if call.wake is not None:
                call.task.get_loop().call_soon_threadsafe(call.wake.set)
        elif call.stream is not None and not call.pumping:
            self._scheduler.readmit(call, self.pump)

    def pump(self, call: Call) -> None:
        """Runs it for as long as there is credit and its caller reads."""
        with call.connection.lock:
            if call.pumping or call.answered:
                return
            call.pumping = True
        token = _context.enter(call)
        try:
            while self._may_go_on(call):
                if not self._one(call):
                    return
        finally:
            _context.leave(token)

    def _may_go_on(self, call: Call) -> bool:
        """Takes the credit for one item. If there is none it pauses, and it ends if nobody reads it any more."""
        connection = call.connection
        with connection.lock:
            over = connection.closed or call.cancelled or call.answered
            waits = not over and (call.credit <= 0 or bool(connection.backlog))
            unread = not over and not waits and connection.principal.must_read()
            if waits or unread:
                call.pumping = False
            elif not over:
                call.credit -= 1
        if unread:
            self._pause(call)
        if over:
            self._end(call)
        return not (over or waits or unread)

    def _one(self, call: Call) -> bool:
        """One item. False if it was the end."""
        if call.deadline is not None and monotonic() > call.deadline:
            self._calls.fail(call, "pysecure.DeadlineExceeded", "the stream took longer than it had time", True)
            self._end(call)
            return False
        try:
            value = next(call.stream)
        except StopIteration as end:
            self._calls.answer(call, _messages.end, end.value)
            return False
        except BaseException as error:
            self._calls.raised(call, error)
            return False
        if self._calls.item(call, value):
            return True
        self._end(call)
        return False

    def _end(self, call: Call) -> None:
        self._calls.close_here(call.stream)
        self._calls.fail(call, "pysecure.Cancelled", "the caller cancelled it", True)

    def _pause(self, call: Call) -> None:
        """It goes on when its caller has read more, which no event tells."""
        with self._lock:
            self._paused.append(call)
            if self._looked_at:
                return
            self._looked_at = True
        threading.Thread(target=self._look, name="pysecure-rpc-streams", daemon=True).start()

    def _look(self) -> None:
        while True:
            sleep(MOMENT)
            with self._lock:
                paused, self._paused = self._paused, []
                if not paused:
                    self._looked_at = False
                    return
            still: list[Call] = []
            for call in paused:
                if call.answered or call.connection.closed:
                    continue
                if call.connection.principal.must_read():
                    still.append(call)
                    continue
                try:
                    self.resume(call)
                except BaseException as error:
                    self._scheduler.defect(call.connection, error)
            with self._lock:
                self._paused += still
