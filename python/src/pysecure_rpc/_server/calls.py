"""The life of a call: it begins, it is cancelled, and it is answered once, with a value or an exception."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable

from .. import _messages
from .._codec import MAX_MESSAGE, pack
from .._errors import Busy, TooLarge, name_of
from . import forked
from .saying import say, text_of

if TYPE_CHECKING:
    from .._codec import Call
    from .._figures import Page
    from .connection import Connection, Connections

#: What stays of an exception's arguments where they cannot cross as they are.
_MOST_ARGS = 8


class Calls:
    """What becomes of all calls of a process."""

    def __init__(self, connections: Connections, figures: Page, tracebacks: bool) -> None:
        self._connections = connections
        self._figures = figures
        self._tracebacks = tracebacks
        self._lock = threading.Lock()
        self._pid = os.getpid()
        #: Closes a generator, in the thread that runs those.
        self.close: Callable[[Any], None] = self.close_here

    def only_here(self, error: BaseException | None = None) -> None:
        """The service's own code has come back, with this error if there was one. In a process that it forked, that is the end."""
        if os.getpid() != self._pid:
            forked.end(error)

    def close_here(self, stream: Any) -> None:
        """Closes a generator."""
        try:
            getattr(stream, "close", int)()
        except BaseException as error:
            self.only_here(error)
            say(f"a generator failed while it was closed: {text_of(error)}")
        self.only_here()

    def begin(self, call: Call) -> bool:
        """Marks a call as begun. False if it is late, or nobody waits; then it is answered."""
        self.only_here()
        now = monotonic()
        with call.connection.lock:
            late = call.deadline is not None and now >= call.deadline
            waited_for = not (call.cancelled or call.answered)
            if waited_for and not late:
                call.begun = now
        if not waited_for:
            self.fail(call, "pysecure.Cancelled", "cancelled before it began", False)
            return False
        if late:
            self.fail(call, "pysecure.DeadlineExceeded", "its time was over before it began", False)
            return False
        return True

    def returned(self, call: Call, result: Any) -> None:
        """Its function has come to this."""
        self.only_here()
        if call.deadline is not None and monotonic() > call.deadline:
            self.fail(call, "pysecure.DeadlineExceeded", "it took longer than it had time", True)
            return
        self.answer(call, _messages.ok, result)

    def answer(self, call: Call, message: Callable[[int, Any], list[Any]], value: Any) -> None:
        """The last message of a call, which has a value: an OK or an END."""
        self.only_here()
        try:
            plain = call.function.signature.result.dump(value)
        except BaseException as error:
            self.fail(call, "pysecure.InvalidResult", f"{call.function.name}() returned: {text_of(error)}", True)
            return
        if not self._finish(call, False):
            return
        try:
            self._connections.send(call.connection, message(call.id, plain))
        except BaseException as error:
            if isinstance(error, (TooLarge, Busy)):
                name, text = ("pysecure.Busy" if isinstance(error, Busy) else "pysecure.TooLarge"), str(error)
            else:
                name, text = "pysecure.InvalidResult", f"{call.function.name}() returned: {text_of(error)}"
            self._connections.send(call.connection, _messages.err(call.id, name, text, ran=True))

    def item(self, call: Call, value: Any) -> bool:
        """The next item of a stream. False if it cannot cross; then the call is answered."""
        self.only_here()
        try:
            plain = call.function.signature.item.dump(value)
            self._connections.send(call.connection, _messages.item(call.id, plain), call)
            return True
        except BaseException as error:
            self.fail(call, "pysecure.InvalidResult", f"{call.function.name}() yielded: {text_of(error)}", True)
            return False

    def fail(self, call: Call, name: str, text: str, ran: bool) -> None:
        """An error of the service's own is the answer, if there is none yet."""
        if self._finish(call, True):
            self._connections.send(call.connection, _messages.err(call.id, name, text, ran=ran))

    def refuse(self, connection: Connection, identity: int, name: str, text: str) -> None:
        """It is not even a call."""
        self._connections.send(connection, _messages.err(identity, name, text, ran=False))

    def raised(self, call: Call, error: BaseException) -> None:
        """Its function raised this."""
        self.only_here(error)
        if _is_cancelled(error):
            name = "pysecure.DeadlineExceeded" if not call.cancelled else "pysecure.Cancelled"
            self.fail(call, name, "the coroutine was cancelled", True)
            return
        if not isinstance(error, Exception):
            # SystemExit and the like end the call, not the service.
            error = RuntimeError(f"{type(error).__name__}: {error}")
        if not self._finish(call, True):
            return
        try:
            self._connections.send(call.connection, self._told(call, error))
        except BaseException as untold:
            # What it says of itself is its own code, and may fail as well.
            text = f"{type(error).__name__}, of which nothing more can be told: {text_of(untold)}"
            self._connections.send(call.connection, _messages.err(call.id, "RuntimeError", text, [text], ran=True))

    def _told(self, call: Call, error: BaseException) -> list[Any]:
        traceback = None
        if self._tracebacks:
            import traceback as module

            traceback = "".join(module.format_exception(type(error), error, error.__traceback__))[-32_000:]

        def message(args: list[Any]) -> list[Any]:
            return _messages.err(call.id, name_of(type(error)), text_of(error), args, traceback, ran=True)

        whole = message(list(error.args))
        try:
            if len(pack(whole)) <= MAX_MESSAGE:
                return whole
        except Exception:
            pass
        return message([_shortened(arg) for arg in error.args[:_MOST_ARGS]])

    def count(self, name: str, seconds: float, failed: bool) -> None:
        """A call has ended, for the figures."""
        with self._lock:
            self._figures.ended(name, seconds, failed)

    def _finish(self, call: Call, failed: bool) -> bool:
        """Marks a call as answered. False if it was, or if nobody waits."""
        connection = call.connection
        with connection.lock:
            # Whoever takes it out of the open calls answers it.
            if call.answered or connection.calls.get(call.id) is not call:
                return False
            del connection.calls[call.id]
            call.answered = True
        connection.principal.release(call)
        self.count(call.function.name, monotonic() - call.begun if call.begun else 0.0, failed)
        return True

    def cancel_asked(self, call: Call) -> None:
        """Its caller does not want the answer."""
        with call.connection.lock:
            # From here on it is not begun, or it was before: `begin` asks under the lock as well.
            waits = call.begun == 0.0
            call.cancelled = True
        self._cancel(call)
        if waits or call.stream is not None:
            self.fail(call, "pysecure.Cancelled", "the caller cancelled it", not waits)

    def abandon(self, call: Call) -> None:
        """Its connection has ended: nobody will read an answer."""
        call.connection.principal.release(call)
        self._cancel(call)

    def _cancel(self, call: Call) -> None:
        call.cancelled = True
        task = call.task
        if task is not None:
            task.get_loop().call_soon_threadsafe(task.cancel)
        elif call.stream is not None:
            with call.connection.lock:
                if call.pumping:
                    return  # whoever runs it sees it
                call.pumping = True
            self.close(call.stream)


def _shortened(arg: Any) -> Any:
    """As much of an exception's argument as surely crosses: its beginning, or its text."""
    if type(arg) in (str, bytes):
        return arg[: _messages.MOST_TEXT]
    return arg if type(arg) in (type(None), bool, int, float) else text_of(arg)


def _is_cancelled(error: BaseException) -> bool:
    # Another thread may be importing it just now; then this is no error of its.
    cancelled = getattr(sys.modules.get("asyncio.exceptions"), "CancelledError", None)
    return cancelled is not None and isinstance(error, cancelled)
