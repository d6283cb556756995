"""The parts of one process that serves, put together; and what the threads that lead know of them."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import _messages
from .._codec import COMPILED, FastHandler, FastHandlers, open_call
from .._connection import DONTWAIT, receive
from .._errors import ProtocolError
from .accept import Acceptor
from .calls import Calls
from .connection import Connection, Connections
from .coroutines import Coroutines
from .dispatch import Dispatcher
from .limits import raise_limit
from .one import OneThread
from .principal import Principal
from .saying import say
from .scheduler import Scheduler
from .streams import Streams

if TYPE_CHECKING:
    from .._figures import Page
    from .._function import Function
    from .sockets import Listener


class Engine:
    """One process that serves.

    Whoever leads (`Leader.run`, in plain Python or in the core) is given it, and uses these by their names: `epoll`, `gate`,
    `_connections`, `_figures`, and the methods that begin with _.
    """

    def __init__(
        self,
        service: str,
        functions: dict[str, Function],
        figures: Page,
        *,
        threads: int,
        queue: int,
        connections: int,
        tracebacks: bool,
    ) -> None:
        self.service = service
        self._functions = functions
        self._figures = figures
        self._threads = threads
        self._most_connections = connections
        self.connections = Connections(service)
        self.calls = Calls(self.connections, figures, tracebacks)
        one = self.one = OneThread() if threads == 1 else None
        self.scheduler = Scheduler(service, threads, queue, self.connections, self.calls, one)
        self.streams = Streams(self.calls, self.scheduler)
        self.coroutines = Coroutines(self.calls, one)
        self.dispatcher = Dispatcher(
            service, functions, figures, self.connections, self.calls, self.scheduler, self.streams, self.coroutines, one
        )
        if one is not None:
            post = one.post
            self.calls.close = lambda stream: post(lambda: self.calls.close_here(stream))
        self.connections.abandon = self.calls.abandon
        self.connections.is_pinned = self.scheduler.lead.is_pinned
        self._acceptor: Acceptor | None = None
        self._stop_fd = self._stop_end = -1
        self._workers: list[threading.Thread] = []
        #: Of `one`, unless that is whoever started it.
        self._thread: threading.Thread | None = None

        self.gate = self.scheduler.gate
        self._connections = self.connections.by_fd
        self._drop = self.connections.drop
        self._put = self.connections.put
        self._have_read = self.connections.have_read
        self._raised = self.calls.raised
        self._returned = self.calls.returned
        self._arrived = self.dispatcher.arrived
        self._malformed = self.dispatcher.malformed
        self._work_through = self.scheduler.work_through
        self._at_rest = self.scheduler.at_rest
        self._defect = self.scheduler.defect

    def _say(self, text: str) -> None:
        say(f"{self.service}: {text}")

    def _event(self, connection: Connection, event: int) -> None:
        """Something can be done on a connection, and nothing was done yet."""
        if connection.closed:
            self._drop(connection, owner=True)
            return
        if event & select.EPOLLOUT:
            # Be there something to send or not: that is known under the connection's lock alone, and whoever takes the interest
            # in it away without that leaves what another thread has put there just now unsent for ever.
            for call in self.connections.flush(connection) or ():
                self.streams.resume(call)
            return
        try:
            data, fds = receive(connection.sock, DONTWAIT)
        except BlockingIOError:
            return
        except ProtocolError as error:
            self._malformed(connection, error)
            return
        except OSError:
            data, fds = b"", []
        if data:
            self._arrived(connection, data, fds)
        else:
            self._drop(connection, owner=True)

    def principal(self, name: str | None, functions: dict[str, Function]) -> Principal:
        """One more caller, which may call these."""
        fast: Any = None
        if COMPILED and self.one is None:
            served = {
                n: FastHandler(f, f.run, plans[0], plans[1], f.signature.result.plan, self._figures.slot(n))
                for n, f in functions.items()
                if not f.is_stream and not f.is_async and (plans := f.signature.plans())
            }
            fast = FastHandlers(served)
        return Principal(name, functions, self.gate.caller(), fast, self._most_connections)

    def start(self, listeners: list[Listener], here: bool = False) -> None:
        """Begins to serve, in threads of its own. `here`: where it has `one`, this thread is that, which calls `one.run`."""
        callers = [(listener, self.principal(listener.caller, listener.functions)) for listener in listeners]
        # Each caller has its share of the descriptors, and some are the service's own.
        limit = raise_limit()
        for _, principal in callers:
            principal.share = (limit - min(limit // 4, 128)) // len(callers)
        self.connections.open()
        self.epoll = self.connections.epoll
        # Readable for ever once its other end is closed.
        self._stop_fd, self._stop_end = os.pipe()
        self.epoll.register(self._stop_fd, select.EPOLLIN)
        for listener in listeners:
            listener.sock.setblocking(False)
        self._acceptor = Acceptor(self.service, callers, self.connections, self._stop_fd)
        if self.one is not None and not here:
            self._thread = self._work(self.one.run, "one")
        for number in range(1 if self.one is not None else self._threads + 1):
            self._workers.append(self._work(self._lead, str(number)))
        self._workers.append(self._work(self.scheduler.lead.watch, "watch"))
        self._workers.append(self._work(self._acceptor.run, "accept"))

    def _lead(self) -> None:
        self.scheduler.lead.run(self, self.epoll.fileno())
        self.calls.only_here()

    def _work(self, target: Any, name: str) -> threading.Thread:
        worker = threading.Thread(target=target, name=f"pysecure-rpc-{name}", daemon=True)
        worker.start()
        return worker

    def stop(self, drain: float) -> None:
        """Takes no more calls, ends within `drain` seconds those that run, and is gone."""
        with self.connections.lock:
            if self._acceptor is not None:
                self._acceptor.stopping = True
            waiting = self.gate.stop()
            connections = list(self._connections.values())
        for call, _ in waiting:
            self.calls.fail(call, "pysecure.GoingAway", f"{self.service} ends", False)
        for connection in connections:
            connection.leaving = True
            self.connections.send(connection, _messages.goaway("the service ends"))
        end = monotonic() + drain
        with self.scheduler.idle:
            while (self.gate.running or any(c.calls for c in connections)) and monotonic() < end:
                self.scheduler.idle.wait(max(0.0, min(0.05, end - monotonic())))
        self.scheduler.lead.end()
        # A process that was forked past Python may have this end open, too.
        end_fd, self._stop_end = self._stop_end, -1
        os.write(end_fd, b".")
        os.close(end_fd)
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join(1.0)
        for connection in connections:
            self._turn_away(connection)
            self._drop(connection, owner=True)
        self.coroutines.stop()
        if self.one is not None:
            self.one.end(interrupt=self._thread is None)
            if self._thread is not None:
                self._thread.join(1.0)

    def forked(self) -> None:
        """In a child: gives up what it has of its parent's, which notices nothing of it. No lock may be taken."""
        self.scheduler.lead.forked()
        for connection in list(self._connections.values()):
            with suppress(Exception):
                connection.sock.close()
            with suppress(Exception):
                connection.closed = True
                connection.fd = -1
                connection.calls.clear()
                connection.backlog = None
        self._connections.clear()
        for fd in (self._stop_fd, self._stop_end):
            with suppress(OSError):
                os.close(fd)
        self.epoll.close()
        self.coroutines.forked()
        if self.one is not None:
            self.one.forked()

    def _turn_away(self, connection: Connection) -> None:
        """Answers calls that crossed the GOAWAY, so that their callers know that they were not begun."""
        sock = connection.sock
        try:
            sock.shutdown(socket.SHUT_RD)
            while True:
                data, fds = receive(sock, DONTWAIT)
                if not data:
                    return
                # Of no call anything has to be known but its number.
                message = _messages.parse(open_call(data, fds, connection.peer_area, {}))
                if isinstance(message, _messages.Call):
                    self.calls.refuse(connection, message.identity, "pysecure.GoingAway", f"{self.service} ends")
        except (OSError, ProtocolError):
            return  # it is gone already, or speaks something else
