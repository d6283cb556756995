"""What a message of a caller's asks for, and having it done."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable

from .. import _context, _messages
from .._codec import Call, open_call
from .._errors import InvalidArguments, ProtocolError
from .limits import NO_DEADLINE, OPEN_CALLS
from .reflection import describe
from .saying import is_milestone, say

if TYPE_CHECKING:
    from .._figures import Page
    from .._function import Function
    from .calls import Calls
    from .connection import Connection, Connections
    from .coroutines import Coroutines
    from .one import OneThread
    from .scheduler import Scheduler
    from .streams import Streams


class Dispatcher:
    """Takes messages, and has calls run."""

    def __init__(
        self,
        service: str,
        functions: dict[str, Function],
        figures: Page,
        connections: Connections,
        calls: Calls,
        scheduler: Scheduler,
        streams: Streams,
        coroutines: Coroutines,
        one: OneThread | None = None,
    ) -> None:
        self._service = service
        self._functions = functions
        self._figures = figures
        self._connections = connections
        self._calls = calls
        self._scheduler = scheduler
        self._streams = streams
        self._coroutines = coroutines
        self._one = one
        self._lock = threading.Lock()
        #: Calls refused because the caller may not make them, by caller and, if there is such a function, its name.
        self._denied: dict[tuple[str | None, str], int] = {}

    def arrived(self, connection: Connection, data: bytes, fds: list[int]) -> None:
        """Does what a message asks for."""
        try:
            # Of what this caller may not call nothing is decoded but the name.
            message = _messages.parse(open_call(data, fds, connection.peer_area, connection.principal.functions))
            call = self.take(connection, message)
        except ProtocolError as error:
            self.malformed(connection, error)
            return
        except Exception as error:
            # Whatever a message does to who reads it, it is the message that is at fault.
            self.malformed(connection, ProtocolError(type(error).__name__))
            return
        if call is not None:
            self._scheduler.admit(call, self._work(call) if self._one is None else self._convert_and_run)

    def _work(self, call: Call) -> Callable[[Call], None]:
        return self._coroutines.run if call.function.is_async else self.run

    @staticmethod
    def _convert(call: Call) -> None:
        """Makes of its arguments what the function's hints say, which may be code of the service's own."""
        call.args, call.kwargs = call.function.signature.convert(call.args, call.kwargs, True)

    def _convert_and_run(self, call: Call) -> None:
        """In the one thread."""
        try:
            self._convert(call)
        except InvalidArguments as error:
            self._calls.fail(call, "pysecure.InvalidArguments", str(error), False)
            return
        self._work(call)(call)

    def malformed(self, connection: Connection, error: Exception) -> None:
        """A message breaks the protocol: it is the last of its connection's."""
        self._connections.send(connection, _messages.err(0, "pysecure.BadMessage", str(error), ran=False))
        self._connections.drop(connection, owner=True)

    def take(self, connection: Connection, message: _messages.Call | _messages.Credit | _messages.Cancel) -> Call | None:
        """The call that is to be admitted, if it is one; all else is done."""
        if isinstance(message, _messages.Call):
            return self._call(connection, message)
        call = connection.calls.get(message.identity)
        if isinstance(message, _messages.Credit):
            if message.read is not None:
                self._connections.have_read(connection, message.read)
            if call is not None:
                self._streams.credit(call, message.more)
        elif call is not None:
            self._calls.cancel_asked(call)
        return None

    def _call(self, connection: Connection, asked: _messages.Call) -> Call | None:
        identity = asked.identity
        if identity in connection.calls:
            raise ProtocolError("a call's number twice")
        if asked.args is None:
            self._other(connection, identity, asked.function)
            return None
        if asked.read:
            self._connections.have_read(connection, asked.read)
        function = connection.principal.functions[asked.function]
        left = asked.left
        deadline = None if left is None or left >= NO_DEADLINE else monotonic() + left / 1000
        call = Call(connection, identity, function, deadline, asked.trace, asked.credit)
        call.args, call.kwargs = asked.args, asked.kwargs
        if self._one is None:
            try:
                self._convert(call)
            except InvalidArguments as error:
                self._calls.count(function.name, 0.0, True)
                self._calls.refuse(connection, identity, "pysecure.InvalidArguments", str(error))
                return None
        if connection.leaving:
            self._calls.refuse(connection, identity, "pysecure.GoingAway", f"{self._service} ends")
            return None
        busy = f"{OPEN_CALLS} calls are open on this connection" if len(connection.calls) >= OPEN_CALLS else None
        busy = busy or connection.principal.why_not(self._service, call, connection.peer_area.cost)
        if busy is not None:
            self._calls.refuse(connection, identity, "pysecure.Busy", busy)
            return None
        connection.calls[identity] = call
        return call

    def _other(self, connection: Connection, identity: int, name: str) -> None:
        """A call of what this caller has not: the two functions that everybody has, or a refusal."""
        if name == "pysecure.ping":
            self._connections.send(connection, _messages.ok(identity, None))
        elif name == "pysecure.describe":
            self._connections.send(connection, _messages.ok(identity, describe(connection.principal.functions)))
        else:
            self._deny(connection, identity, name)

    def _deny(self, connection: Connection, identity: int, name: str) -> None:
        # Names that are not ours are counted as one: they could be without end.
        key = (connection.caller, name if name in self._functions else "")
        with self._lock:
            count = self._denied[key] = self._denied.get(key, 0) + 1
            self._figures.denied(key[1])
        if is_milestone(count):
            who = connection.caller or "a caller"
            say(f"{self._service} refused {name[:64]!r} to {who}, {count} so far")
        text = f"{self._service} has no function {name[:64]!r}"
        self._calls.refuse(connection, identity, "pysecure.NoSuchFunction", text)

    def denied(self) -> list[dict[str, Any]]:
        """All refusals so far."""
        with self._lock:
            return [
                {"caller": caller, "function": name or None, "count": count}
                for (caller, name), count in self._denied.items()
            ]

    def run(self, call: Call) -> None:
        """Runs a function that is no coroutine, in this thread."""
        if not self._calls.begin(call):
            return
        function = call.function
        token = _context.enter(call)
        try:
            result = function.run(*call.args, **call.kwargs)
            if function.is_stream:
                call.stream = iter(result)
        except BaseException as error:
            self._calls.raised(call, error)
            return
        finally:
            _context.leave(token)
            call.args = call.kwargs = None
        if function.is_stream:
            self._streams.pump(call)
        else:
            self._calls.returned(call, result)
