"""Accepting connections, in a thread of its own, and greeting them."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import select
import socket
from time import sleep
from typing import TYPE_CHECKING, Any

from .. import _messages
from .._codec import pack, seal
from .._connection import DONTWAIT, transmit
from .connection import IN, Connection
from .saying import is_milestone, say

if TYPE_CHECKING:
    from .connection import Connections
    from .principal import Principal
    from .sockets import Listener


class Acceptor:
    """Accepts until `stop_fd` is readable."""

    def __init__(
        self, service: str, listeners: list[tuple[Listener, Principal]], connections: Connections, stop_fd: int
    ) -> None:
        self._service = service
        self._listeners = {
            listener.sock.fileno(): (listener.sock, principal, self._hello(principal)) for listener, principal in listeners
        }
        self._connections = connections
        self._stop_fd = stop_fd
        self.stopping = False

    def run(self) -> None:
        """Accepts, until the end."""
        poll = select.poll()
        for fd in (*self._listeners, self._stop_fd):
            poll.register(fd, select.POLLIN)
        failed = 0
        while not self.stopping:
            for fd, _ in poll.poll():
                if fd == self._stop_fd or self.stopping:
                    return
                sock, principal, hello = self._listeners[fd]
                try:
                    accepted, _ = sock.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    # As many descriptors as may be: what waits, waits.
                    failed += 1
                    if is_milestone(failed):
                        say(f"{self._service}: it cannot accept a connection: {error.strerror}, {failed} times so far")
                    sleep(0.1)
                    continue
                self._greet(accepted, principal, hello)

    def _hello(self, principal: Principal) -> list[Any]:
        hashes = {name: function.signature.hash for name, function in principal.functions.items()}
        return _messages.hello(self._service, principal.name, hashes)

    def _greet(self, sock: socket.socket, principal: Principal, hello: list[Any]) -> None:
        connection = Connection(sock, principal)
        try:
            # Until it has been greeted nothing else is sent on it, and no GOAWAY either.
            with connection.lock:
                with self._connections.lock:
                    if self.stopping:
                        sock.close()  # before its greeting: the caller knows that nothing was taken, and connects anew
                        return
                    full = not principal.may_connect()
                    if not full:
                        principal.connections += 1
                        self._connections.by_fd[sock.fileno()] = connection
                if full:
                    text = f"{self._service} has {principal.connections} connections of this caller, and takes no more"
                    transmit(sock, pack(_messages.err(0, "pysecure.Busy", text, ran=False)), [], DONTWAIT)
                    sock.close()
                    return
                message = seal(hello)
                transmit(sock, message.data, message.fds, DONTWAIT)
                message.close()
            self._connections.epoll.register(sock.fileno(), IN)
        except OSError:
            if self._connections.by_fd.get(sock.fileno()) is connection:
                self._connections.drop(connection, owner=True)
            else:
                sock.close()
