"""A caller's connections: finding the service's socket, waiting within a deadline, and those of this thread that are idle.

A connection carries one call at a time and belongs to one thread; what is open during it gets another. Whatever goes
wrong in the middle of a call ends its connection, which is what cancels the call at the service.
"""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import _socket
import os
import socket
import struct
import sys
import threading
import weakref
from array import array
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from . import _context, _messages
from ._codec import MAX_MESSAGE, ClientConn, open_message, seal
from ._errors import (
    ConnectionLost,
    DeadlineExceeded,
    NotGranted,
    ProtocolError,
    RpcError,
    SignatureMismatch,
    revive,
)

if TYPE_CHECKING:
    from ._function import Function

#: Connections to one service that a thread keeps when it needs no more at once.
IDLE = 4
_ROOM = socket.CMSG_SPACE(16 * 4)
_FLAGS = int(socket.MSG_CMSG_CLOEXEC)
_BAD = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
DONTWAIT = int(socket.MSG_DONTWAIT)


def receive(sock: socket.socket, flags: int) -> tuple[bytes, list[int]]:
    """One message and its descriptors; no bytes at the end of the connection."""
    data, control, received, _ = sock.recvmsg(MAX_MESSAGE, _ROOM, flags | _FLAGS)
    fds: list[int] = []
    for level, kind, content in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array("i")
            numbers.frombytes(content[: len(content) - len(content) % 4])
            fds += numbers
    if received & _BAD:
        for fd in fds:
            os.close(fd)
        raise ProtocolError("a message is longer than may be, or has too many descriptors")
    return data, fds


def transmit(sock: socket.socket, data: bytes, fds: list[int], flags: int = 0) -> None:
    """Sends one message."""
    if fds:
        sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))], flags)
    else:
        sock.send(data, flags)


class NotSent(Exception):
    """The connection had ended before the call was sent. Never leaves this package."""


#: All that are open in this process.
_open: weakref.WeakSet[Connection] = weakref.WeakSet()


class Connection(ClientConn):
    """A connection to one service."""

    __slots__ = ("__weakref__", "sock", "service", "caller", "cooperative")

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self.caller: str | None = None
        #: Is it gevent's, which waits by itself and lets others run meanwhile?
        self.cooperative = not isinstance(self.sock, _socket.socket)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not self.cooperative:
            self.fd = self.sock.fileno()
            _open.add(self)

    def close(self) -> None:
        self.fd = -1
        self.sock.close()
        self.out_area.close()
        self.peer_area.close()

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError, TypeError):
            pass

    def connect(self, deadline: float | None) -> None:
        """Waits until the deadline at most, where as many wait to be accepted as may."""
        path = path_of(self.service)
        while True:
            wanted = self._left(deadline, "accepts no connection")
            self._bound(socket.SO_SNDTIMEO, wanted)
            try:
                self.sock.connect(path)
                break
            except (BlockingIOError, TimeoutError):
                continue
        if wanted:
            self._bound(socket.SO_SNDTIMEO, 0.0)

    def try_connect(self, deadline: float | None) -> bool:
        """Connects without waiting. False where as many wait to be accepted as may."""
        self._left(deadline, "accepts no connection")
        self.sock.setblocking(False)
        try:
            self.sock.connect(path_of(self.service))
        except BlockingIOError:
            return False
        self.sock.setblocking(True)
        return True

    def _left(self, deadline: float | None, missed: str) -> float:
        """Seconds until the deadline; 0 for none."""
        if deadline is None:
            return 0.0
        left = deadline - monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"{self.service} {missed} in time")
        return left

    def _bound(self, option: int, seconds: float) -> None:
        if self.cooperative:
            self.sock.settimeout(seconds or None)
            return
        # All of it 0 would be no end.
        micros = int(seconds * 1e6) or (1 if seconds else 0)
        self.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", *divmod(micros, 1_000_000)))

    def receive(self, deadline: float | None) -> list[Any]:
        """The next message, which is waited for."""
        while True:
            left = 0.0 if deadline is None else self._left(deadline, "did not answer")
            # The bound stays with the socket, and the core, too, has to know what it is. It is set anew where it would have the
            # next receive wait too long, or far too short: for most messages that is a system call less.
            if not 0.5 * left <= self.limit <= left:
                self.limit = max(0.9 * left, 0.001) if left else 0.0
                self._bound(socket.SO_RCVTIMEO, self.limit)
            try:
                data, fds = receive(self.sock, 0)
                break
            except (BlockingIOError, TimeoutError):
                continue
            except OSError:
                data, fds = b"", []
                break
        return self._opened(data, fds)

    def try_receive(self) -> list[Any] | None:
        """The next message, if it is there already."""
        try:
            data, fds = receive(self.sock, DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            data, fds = b"", []
        return self._opened(data, fds)

    def _opened(self, data: bytes, fds: list[int]) -> list[Any]:
        if not data:
            raise ConnectionLost(f"{self.service} ended the connection")
        return open_message(data, fds, self.peer_area)

    def greeted(self, message: list[Any]) -> None:
        """Takes the service's first message."""
        hello = _messages.parse_answer(message)
        if isinstance(hello, _messages.GoAway):
            # It was accepted, and then the service ended: nothing was sent.
            raise ConnectionLost(f"{self.service} ends")
        if isinstance(hello, _messages.Err):
            error = as_exception(hello)
            if isinstance(error, RpcError):
                error.may_have_run = False  # nothing was sent
            raise error
        if not isinstance(hello, _messages.Hello):
            raise ProtocolError(f"{self.service} did not greet")
        self.caller = hello.caller
        self.functions = hello.functions

    def send_call(self, function: Function, args: Any, kwargs: Any, deadline: float | None, credit: int | None) -> int:
        """Sends a CALL; its number."""
        known = self.functions.get(function.name)
        if known is not None and known != function.signature.hash:
            raise SignatureMismatch(
                f"{self.service} has another signature for {function.name} than {function.signature.text}: "
                "restart what runs an older version"
            )
        identity = self.next_id
        self.next_id = identity + 1
        left = None if deadline is None else max(0, int((deadline - monotonic()) * 1000))
        trace = _context.traceparent()
        call = _messages.call(identity, function.name, args, kwargs, left, trace, self.peer_area.read, credit)
        message = seal(call, self.out_area)
        try:
            transmit(self.sock, message.data, message.fds)
        except OSError as error:
            raise NotSent(f"{self.service} is gone ({error.strerror})") from None
        finally:
            message.close()
        return identity

    def send_credit(self, identity: int, more: int) -> None:
        """Allows a stream so many items more."""
        message = seal(_messages.credit(identity, more, self.peer_area.read))
        try:
            self.sock.send(message.data)
        except OSError:
            pass  # the next receive says what is the matter


def as_exception(err: _messages.Err) -> Exception:
    """The exception that an ERR stands for."""
    return revive(err.class_name, err.message, err.args, err.traceback, err.ran)


# Those of this thread that are idle.


def _thread_local() -> type[threading.local]:
    """Threads' own, even if gevent has put greenlets in their place: those would keep connections for a request each."""
    patched = sys.modules.get("gevent.monkey")
    if patched is None:
        return threading.local
    original: type[threading.local] = patched.get_original("threading", "local")
    return original


class _Pool(_thread_local()):  # type: ignore[misc]
    """The idle connections of this thread, by service."""

    def __init__(self) -> None:
        self.idle: dict[str, list[Connection]] = {}


pool = _Pool()


def _forget() -> None:
    # A child must not use its parent's connections; and while it had them open, no service would hear that its parent has closed one.
    # Those of gevent are closed with their objects.
    pool.idle = {}
    for connection in list(_open):
        with suppress(Exception):
            connection.sock.close()
            connection.close()


os.register_at_fork(after_in_child=_forget)


def take(service: str) -> Connection | None:
    """One that is idle."""
    connections: list[Connection] | None = pool.idle.get(service)
    return connections.pop() if connections else None


def give_back(connection: Connection) -> None:
    """It is idle from now on, or closed where there are enough."""
    connections: list[Connection] = pool.idle.setdefault(connection.service, [])
    if len(connections) < IDLE:
        connections.append(connection)
    else:
        connection.close()


def close_connections() -> None:
    """Closes the idle connections of this thread."""
    for connections in pool.idle.values():
        for connection in connections:
            connection.close()
    pool.idle.clear()


def path_of(service: str) -> str:
    """Where a service's socket lies for this one."""
    if not service or "/" in service or service.startswith("."):
        raise ValueError(f"{service!r} cannot be a service's name")
    return os.path.join(os.environ.get("PYSECURE_RPC_DIR") or "/run/pysecure/rpc", service + ".sock")


def not_there(service: str, error: OSError) -> Exception:
    """What it means that a service's socket cannot be connected to."""
    path = path_of(service)
    if isinstance(error, FileNotFoundError):
        return NotGranted(f"there is no {path}: {service} does not name this service in its `callers`, or is not up")
    if isinstance(error, PermissionError):
        return NotGranted(f"{path} is another's socket")
    return ConnectionLost(f"{path}: {error.strerror}; is {service} up?")
