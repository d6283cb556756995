"""Connections of callers: what is sent on them, what waits until they read, and how they end.

Nothing ever waits for a caller to read. Only the thread that leads closes a connection's descriptor, and one that is pinned the
thread that has it: others shut it down, and those hear of it.
"""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable

from .._codec import Area, Message, ServerConn, seal
from .._connection import DONTWAIT, transmit
from .._errors import Busy
from .limits import BACKLOG_BYTES, BACKLOG_MESSAGES

if TYPE_CHECKING:
    from .._codec import Call
    from .principal import Principal

IN = select.EPOLLIN | select.EPOLLRDHUP
OUT = select.EPOLLOUT | select.EPOLLRDHUP


class Connection(ServerConn):
    """One connection of a caller's."""

    __slots__ = ("sock", "principal", "lock", "pending", "used", "unread", "unread_fds", "waits", "waits_fds", "has_area")

    def __init__(self, sock: socket.socket, principal: Principal) -> None:
        super().__init__()
        self.sock = sock
        self.fd = sock.fileno()
        self.caller = principal.name
        self.principal = principal
        self.number = principal.number
        self.fast = principal.fast
        self.lock = threading.Lock()
        #: Bytes that wait until the caller reads.
        self.pending = 0
        #: Messages sent that used the area.
        self.used = 0
        #: What was sent by memfd since the caller had last read all: bytes, and descriptors.
        self.unread = self.unread_fds = 0
        #: What waits to be sent, in bytes with those in memfds, and its descriptors.
        self.waits = self.waits_fds = 0
        self.has_area = False


class Connections:
    """All that a process has."""

    def __init__(self, service: str) -> None:
        self.service = service
        #: By descriptor.
        self.by_fd: dict[int, Connection] = {}
        self.lock = threading.Lock()
        self.epoll: select.epoll
        #: What becomes of the calls that are open on a connection that ends.
        self.abandon: Callable[[Call], None]
        #: Does a thread have the connection with this descriptor to itself? (`Leader.is_pinned`)
        self.is_pinned: Callable[[int], bool]

    def open(self) -> None:
        """From now on there can be some."""
        self.epoll = select.epoll()

    def send(self, connection: Connection, reply: list[Any], of: Call | None = None) -> None:
        """Sends a message, or lets it wait if the caller does not read. Raises for what cannot be sent at all. `of`: not if
        this call has been answered, for nothing may follow that."""
        with connection.lock:
            if connection.closed or (of is not None and of.answered):
                return
            area = connection.out_area
            if area is None and connection.principal.may_have_area(connection):
                area = connection.out_area = Area()
            message = seal(reply, area)
            connection.used += message.in_area
            fds = len(message.fds)
            if (message.large or fds) and not connection.principal.reserve(message.large, fds):
                message.close()
                if message.in_area and area is not None:
                    area.close()
                raise Busy(f"{self.service} holds as much for this caller as may be that it has not read")
            full = self._put(connection, message)
        if full:
            self.drop(connection)

    def put(self, connection: Connection, data: bytes) -> None:
        """Sends what is a message already, and has no descriptors."""
        with connection.lock:
            if connection.closed:
                return
            full = self._put(connection, _Encoded(data))
        if full:
            self.drop(connection)

    def _put(self, connection: Connection, message: Message | _Encoded) -> bool:
        """Is it too much, or is nobody there? Whoever calls has the connection's lock, and has reserved what is large, and its
        descriptors."""
        principal, large, fds = connection.principal, message.large, len(message.fds)
        lost = False
        if not connection.backlog:
            try:
                transmit(connection.sock, message.data, message.fds, DONTWAIT)
                principal.hold(connection, large, fds, waits=False)
                message.close()
                return False
            except BlockingIOError:
                pass
            except OSError:
                lost = True
        if lost or not self._may_wait(connection, message):
            principal.unreserve(large, fds)
            message.close()
            return True
        # Its reservation stays what it is: given up for a moment, another connection could take the room.
        principal.hold(connection, len(message.data) + large, fds, waits=True)
        connection.backlog.append(message)
        connection.pending += len(message.data)
        return connection.pending > BACKLOG_BYTES or len(connection.backlog) > BACKLOG_MESSAGES

    def _may_wait(self, connection: Connection, message: Message | _Encoded) -> bool:
        """Makes a message ready to wait, and reserves its data."""
        if connection.backlog is None:
            connection.backlog = deque()
            if not self.want(connection, OUT):
                return False
        if not connection.principal.reserve(len(message.data), 0):
            return False
        try:
            message.keep()
        except OSError:
            connection.principal.unreserve(len(message.data), 0)
            return False
        return True

    def flush(self, connection: Connection) -> list[Call] | None:
        """Sends what waits. The streams that may go on, or None if the connection is gone."""
        lost = False
        with connection.lock:
            backlog = connection.backlog
            while backlog:
                message = backlog[0]
                try:
                    transmit(connection.sock, message.data, message.fds, DONTWAIT)
                except BlockingIOError:
                    break
                except OSError:
                    lost = True
                    break
                backlog.popleft()
                connection.pending -= len(message.data)
                connection.principal.sent(connection, len(message.data), message.large, len(message.fds))
                message.close()
            streams: list[Call] = []
            if not lost and not backlog:
                # What waited to be sent came before what might be asked next.
                connection.backlog = None
                lost = not self.want(connection, IN)
                streams = [c for c in connection.calls.values() if c.stream is not None or c.wake is not None]
        if lost:
            self.drop(connection, owner=True)
            return None
        return streams

    def want(self, connection: Connection, events: int) -> bool:
        """Has the epoll set tell of that. If it cannot, nobody would ever hear of the connection again."""
        with self.lock:
            fd = connection.fd
            if fd < 0:
                return True
            try:
                try:
                    self.epoll.modify(fd, events)
                except FileNotFoundError:
                    # A thread of the core's stays with it, and would put it back to be read alone.
                    self.epoll.register(fd, events)
            except (OSError, ValueError):
                return False
        return True

    def have_read(self, connection: Connection, read: int) -> None:
        """The caller has read so many messages that used the area."""
        with connection.lock:
            if connection.out_area is not None and read == connection.used:
                connection.out_area.free = True

    def drop(self, connection: Connection, owner: bool = False) -> None:
        """Ends a connection and all its calls. `owner`: this thread leads, and closes the descriptor if it is not pinned."""
        with connection.lock:
            first = not connection.closed
            connection.closed = True
            calls = list(connection.calls.values())
            connection.calls.clear()
            for each in connection.backlog or ():
                each.close()
            connection.backlog = None
            connection.principal.forget(connection)
            if first and not owner:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        for call in calls:
            self.abandon(call)
        if not owner:
            return
        with self.lock:
            fd = connection.fd
            if fd < 0:
                return
            if self.is_pinned(fd):
                # It may be waited on just now. Whoever it is pinned to closes it afterwards; until then the leader is to hear no
                # more of it.
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
                with suppress(OSError):
                    self.epoll.unregister(fd)
                if self.is_pinned(fd):
                    return
                # The monitor put it back just now: nobody uses it, nor hears of it any more.
            connection.fd = -1
            if self.by_fd.pop(fd, None) is not None:
                connection.principal.disconnected(connection)
            connection.sock.close()
        with connection.lock:
            connection.forget()


class _Encoded:
    """A message that has no descriptors."""

    __slots__ = ("data", "fds", "large")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.large = 0
        self.fds: list[int] = []

    def keep(self) -> None:
        pass

    close = keep
