"""One caller: what it may call, and what it makes the service hold."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import fcntl
import termios
import threading
from typing import TYPE_CHECKING, Any

from .limits import AREAS, MUCH, OF_CONNECTION, SMALL, TOO_MUCH

if TYPE_CHECKING:
    from .._codec import Call
    from .._function import Function
    from .connection import Connection


class Principal:
    """What one caller may call, and what all of its connections together make the service hold for it."""

    def __init__(self, name: str | None, functions: dict[str, Function], number: int, fast: Any, most_connections: int) -> None:
        #: None: callers have no names.
        self.name = name
        self.functions = functions
        #: At the admission.
        self.number = number
        #: Those functions that the core can serve by itself.
        self.fast = fast
        self.most_connections = most_connections
        #: Its share of the service's descriptors.
        self.share = 1 << 20
        self.connections = 0
        self._lock = threading.Lock()
        #: What its connections' `unread` and `waits` come to in bytes and in descriptors, and which of them have any.
        self.held = self.fds = 0
        self._heavy: set[Connection] = set()
        #: What arguments of open calls take; open coroutines; connections that have an area.
        self.asked = self.coroutines = self._areas = 0

    def may_connect(self) -> bool:
        """May it have one more connection?"""
        share = (self.connections + 1) * OF_CONNECTION + self.fds
        return self.connections < self.most_connections and (not self.connections or share <= self.share)

    def may_have_area(self, connection: Connection) -> bool:
        """May this connection have an area, which it then has until it ends?"""
        with self._lock:
            if not connection.has_area and self._areas >= AREAS:
                return False
            self._areas += not connection.has_area
            connection.has_area = True
            return True

    def reserve(self, more: int, fds: int, most: int = TOO_MUCH) -> bool:
        """Counts so much more as held, if that may be; in one step, for other connections of the caller's send meanwhile. It is
        a connection's by `hold`, or nobody's by `unreserve`."""
        return self._has_room(more, fds, most, take=True)

    def unreserve(self, more: int, fds: int) -> None:
        """What was reserved is not sent."""
        with self._lock:
            self.held -= more
            self.fds -= fds

    def hold(self, connection: Connection, more: int, fds: int, waits: bool) -> None:
        """What was reserved was sent and is not read, or waits to be sent. Whoever calls has the connection's lock."""
        if not more and not fds:
            return
        with self._lock:
            if waits:
                connection.waits += more
                connection.waits_fds += fds
            else:
                connection.unread += more
                connection.unread_fds += fds
                self._heavy.add(connection)

    def sent(self, connection: Connection, data: int, large: int, fds: int) -> None:
        """What waited was sent: what is large of it, and its descriptors, are unread now. In one step, for what is free in between
        another connection could take. Whoever calls has the connection's lock."""
        with self._lock:
            self.held -= data
            connection.waits -= data + large
            connection.waits_fds -= fds
            connection.unread += large
            connection.unread_fds += fds
            if large or fds:
                self._heavy.add(connection)

    def forget(self, connection: Connection) -> None:
        """A connection has ended, and with it all that was held for it."""
        with self._lock:
            self.held -= connection.unread + connection.waits
            self.fds -= connection.unread_fds + connection.waits_fds
            connection.unread = connection.unread_fds = connection.waits = connection.waits_fds = 0
            self._heavy.discard(connection)

    def disconnected(self, connection: Connection) -> None:
        """A connection is closed."""
        with self._lock:
            self.connections -= 1
            self._areas -= connection.has_area

    def _has_room(self, more: int, fds: int, most: int, take: bool) -> bool:
        """May so much more be held for it? What it has read meanwhile is held no longer."""
        for again in (False, True):
            if again:
                self._recount()
            with self._lock:
                taken = self.fds + fds + self.connections * OF_CONNECTION
                if self.held + more <= most and (not fds + self.fds or taken <= self.share):
                    if take:
                        self.held += more
                        self.fds += fds
                    return True
        return False

    def _recount(self) -> None:
        with self._lock:
            for connection in list(self._heavy):
                try:
                    unread = fcntl.ioctl(connection.fd, termios.TIOCOUTQ, b"\0\0\0\0") != b"\0\0\0\0"
                except (OSError, ValueError):
                    continue  # whoever closes it counts it
                if not unread:
                    self.held -= connection.unread
                    self.fds -= connection.unread_fds
                    connection.unread = connection.unread_fds = 0
                    self._heavy.discard(connection)

    def must_read(self) -> bool:
        """Does it have to read before more is done for it?"""
        return (self.held > MUCH or self.fds > self.share // 2) and not self._has_room(0, 0, MUCH, take=False)

    def why_not(self, service: str, call: Call, cost: int) -> str | None:
        """Why a call is not taken, if the caller makes the service hold too much. If it is, it counts until `release`."""
        if self.must_read():
            return f"{service} holds {self.held} bytes for this caller that it has not read"
        cost = cost if cost > SMALL else 0
        is_async = call.function.is_async
        if not cost and not is_async:
            return None
        with self._lock:
            if cost and self.asked and self.asked + cost > TOO_MUCH:
                return f"{service} holds {self.asked} bytes that open calls of this caller brought"
            if is_async and self.coroutines >= self.most_connections:
                return f"{self.coroutines} calls of this caller are open"
            call.cost = cost
            self.asked += cost
            self.coroutines += is_async
        return None

    def release(self, call: Call) -> None:
        """A call is open no longer."""
        if call.cost or call.function.is_async:
            with self._lock:
                self.asked -= call.cost
                self.coroutines -= call.function.is_async
