"""The calling program's end of the shared socket: its functions are served by whoever waits for the run, in that thread.

The parts are those of a service (`pysecure_rpc._server`), for one connection: what may be sent, how much is held for a
caller that does not read, streams, coroutines, and what a malformed message leads to. What a service has threads for is done here by
`arrived` and `writable`, which whoever waits calls.
"""
# What begins with _ is private to these packages.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import select
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Callable

from pysecure_rpc import _messages
from pysecure_rpc._codec import PeerArea, open_call, seal
from pysecure_rpc._connection import DONTWAIT, receive, transmit
from pysecure_rpc._errors import ProtocolError
from pysecure_rpc._function import Function as Remote
from pysecure_rpc._server.calls import Calls
from pysecure_rpc._server.connection import Connection, Connections
from pysecure_rpc._server.coroutines import Coroutines
from pysecure_rpc._server.dispatch import Dispatcher
from pysecure_rpc._server.principal import Principal
from pysecure_rpc._server.reflection import describe
from pysecure_rpc._server.saying import say, text_of
from pysecure_rpc._server.streams import Streams

if TYPE_CHECKING:
    import asyncio
    import socket

    from pysecure_rpc._codec import Call

    from ._functions import Handed

RESULT, CELL = "pysecure.result", "pysecure.cell"
#: Descriptors that may wait in messages that the sandbox does not read.
_FDS = 256


def _reserved(name: str) -> Remote:
    def told(outcome: Any) -> Any:
        return outcome

    remote = Remote(told, "api", False, None, None)
    remote.name = name
    remote.signature  # noqa: B018: made once
    return remote


_RESERVED = {name: _reserved(name) for name in (RESULT, CELL)}


class _Uncounted:
    """Figures that nobody asks for."""

    def ended(self, name: str, seconds: float, failed: bool) -> None:
        pass

    def denied(self, name: str) -> None:
        pass


_UNCOUNTED: Any = _Uncounted()


class _OneConnection(Connections):
    """What is sent on it, and whether something waits to be."""

    def __init__(self) -> None:
        super().__init__("the calling program")
        self.is_pinned = lambda _fd: False
        #: The events of the socket that are waited for.
        self.events = select.POLLIN
        self.changed: Callable[[], None] | None = None
        #: Is called before the socket is closed, by the thread that does it.
        self.closing: Callable[[], None] | None = None

    def drop(self, connection: Connection, owner: bool = False) -> None:
        if owner and self.closing is not None and connection.fd >= 0:
            self.closing()
        super().drop(connection, owner)

    def want(self, connection: Connection, events: int) -> bool:
        self.events = select.POLLOUT if events & select.EPOLLOUT else select.POLLIN
        if self.changed is not None:
            self.changed()
        return connection.fd >= 0


class _Dispatcher(Dispatcher):
    """Says nothing of what the sandbox asks for in vain: it would be the calling program's own log that it fills."""

    def _other(self, connection: Connection, identity: int, name: str) -> None:
        if name == "pysecure.ping":
            self._connections.send(connection, _messages.ok(identity, None))
        elif name == "pysecure.describe":
            functions = {n: f for n, f in connection.principal.functions.items() if n not in _RESERVED}
            self._connections.send(connection, _messages.ok(identity, describe(functions)))
        else:
            self._calls.refuse(connection, identity, "pysecure.NoSuchFunction", f"there is no function {name[:64]!r}")


class Serving:
    """The functions of one run."""

    def __init__(self, sock: socket.socket, handed: Handed) -> None:
        self._handed = handed
        self.connections = _OneConnection()
        self.calls = Calls(self.connections, _UNCOUNTED, False)
        self.connections.abandon = self.calls.abandon
        functions = {**handed.functions, **_RESERVED}
        principal = Principal(None, functions, 0, None, 1)
        principal.share = _FDS
        principal.connections = 1
        scheduler: Any = self
        self._streams = Streams(self.calls, scheduler)
        self._coroutines = Coroutines(self.calls)
        self._dispatcher = _Dispatcher(
            "the calling program", functions, _UNCOUNTED, self.connections, self.calls, scheduler, self._streams,
            self._coroutines,
        )  # fmt: skip
        self._connection = Connection(sock, principal)
        self.connections.by_fd[sock.fileno()] = self._connection
        self._loop: asyncio.AbstractEventLoop | None = None
        self.has_coroutines = any(function.is_async for function in handed.functions.values())
        #: What the sandbox said of its end, or of its last cell: untrusted.
        self.outcome: dict[Any, Any] | None = None
        #: The call by which a session waits for its next cell.
        self.waiting: Call | None = None
        message = seal(handed.hello())
        transmit(sock, message.data, message.fds, DONTWAIT)
        message.close()

    @property
    def fd(self) -> int:
        """The socket's, or -1 where the connection is over."""
        return self._connection.fd

    def in_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Coroutines run in this loop, and all else in its threads."""
        self._loop = self._coroutines._loop = self._handed.loop = loop

    def wake_by(self, changed: Callable[[], None]) -> None:
        """Is called, from any thread, when other events are waited for than before."""
        self.connections.changed = changed

    def arrived(self) -> None:
        """There is a message to read, and a function may run. One at a time: the rest has its turn, too."""
        self._one()
        stopped = self._handed.stopped
        if stopped is not None:
            self._handed.stopped = None
            raise stopped

    def writable(self) -> None:
        """What waited can be sent."""
        for call in self.connections.flush(self._connection) or ():
            self._streams.resume(call)

    def at_end(self) -> None:
        """The run is over: only what it said of its end is looked for."""
        while not self._connection.closed:
            try:
                data, fds = read(self._connection.sock)
            except (OSError, ProtocolError):
                return
            if not data:
                return
            told = outcome(data, fds, self._connection.peer_area)
            if told is not None:
                self.outcome = told

    def answer_cell(self, cell: Any) -> bool:
        """Gives a session its next cell; None is its end. False if it does not wait for one."""
        call, self.waiting = self.waiting, None
        if call is None or self._connection.closed:
            return False
        self.calls.returned(call, cell)
        return True

    def close(self) -> None:
        """Ends the connection, and cancels what is open on it."""
        self.connections.drop(self._connection, owner=True)
        if self._loop is None:
            self._coroutines.stop()

    def _one(self) -> None:
        connection = self._connection
        if connection.closed:
            self.connections.drop(connection, owner=True)
            return
        try:
            data, fds = read(connection.sock)
        except BlockingIOError:
            return
        except ProtocolError as error:
            self._dispatcher.malformed(connection, error)
            return
        except OSError:
            data, fds = b"", []
        if data:
            self._dispatcher.arrived(connection, data, fds)
        else:
            self.connections.drop(connection, owner=True)

    # What the parts of a service ask of their scheduler.

    def admit(self, call: Call, work: Callable[[Call], None]) -> None:
        """Runs a call: here, or in a thread of the loop's."""
        name = call.function.name
        if name in _RESERVED:
            self.outcome = _dict(call.args[0]) if call.args else None
            self.waiting = call if name == CELL else self.waiting
            return
        if self._loop is None or call.function.is_async:
            work(call)
        else:
            context = copy_context()
            self._loop.run_in_executor(None, lambda: context.run(self._guarded, call, work))

    readmit = admit

    def defect(self, connection: Connection, error: BaseException) -> None:
        """An error of this package's own: it ends the connection, and not the program."""
        say(f"sandbox: {type(error).__name__}: {text_of(error)}")
        self.connections.drop(connection)

    def _guarded(self, call: Call, work: Callable[[Call], None]) -> None:
        try:
            work(call)
        except BaseException as error:
            self.defect(call.connection, error)


def read(sock: socket.socket) -> tuple[bytes, list[int]]:
    """A message, if there is one. A sandbox that ended without having read all is an error first, and only then what it had sent."""
    try:
        return receive(sock, DONTWAIT)
    except ConnectionResetError:
        return receive(sock, DONTWAIT)


def outcome(data: bytes, fds: list[int], peer_area: PeerArea) -> dict[Any, Any] | None:
    """What a message says of the end of a run, if that is what it is. It is untrusted."""
    try:
        asked = _messages.parse(open_call(data, fds, peer_area, _RESERVED))
    except Exception:  # whatever a message does to who reads it, it is the message that is at fault
        return None
    if not isinstance(asked, _messages.Call) or asked.function != RESULT or not asked.args:
        return None
    return _dict(asked.args[0])


def _dict(value: Any) -> dict[Any, Any] | None:
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]
