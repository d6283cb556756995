"""The service's side: which sockets it has, who may call what on them, and threads that serve them.

One thread leads: it waits on an epoll set and runs what comes by itself, so that a quick call costs no hand-over; before a
slow one it has another thread lead (`Lead`). There is one thread more than calls may run at once: while all run, it reads on,
lets calls wait, refuses what is too much, and sees callers cancel and go. Nothing ever waits for a caller to read. Only who
leads closes a connection's descriptor: others shut it down, and the leader hears of it.
"""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import stat
import sys
import termios
import threading
from collections import deque
from time import monotonic, sleep
from typing import Any, Callable, cast

from . import _errors, _function
from ._client import DONTWAIT, receive, transmit
from ._codec import (
    COMPILED,
    MAX_MESSAGE,
    Area,
    Call,
    Gate,
    Lead,
    Message,
    Peer,
    Served,
    Table,
    open_call,
    pack,
    seal,
    unpack,
)
from ._errors import Busy, InvalidArguments, ProtocolError, TooLarge
from ._figures import Page
from ._function import Function, State

_IN = select.EPOLLIN | select.EPOLLRDHUP
_OUT = select.EPOLLOUT | select.EPOLLRDHUP
_FIRST_FD = 3
#: What may wait to be sent to a caller that does not read.
_BACKLOG_BYTES, _BACKLOG_MESSAGES = 1 << 20, 256
#: Calls that one connection may have open.
_OPEN_CALLS = 256
#: What a caller has not read yet, and what its open calls brought, in bytes: with so much its calls are refused, and with so much
#: nothing is added to it.
_LARGEST = int(os.environ.get("PYSECURE_RPC_LARGEST") or 64 << 20)
_MUCH, _TOO_MUCH = max(2 * _LARGEST, 8 << 20), max(4 * _LARGEST, 16 << 20)
#: Calls whose arguments take less are not counted.
_SMALL = 16 << 10
#: So many connections of a caller have areas, which stay as long as they do.
_AREAS = 16
#: A connection takes so many descriptors: its socket, and an area for each direction.
_OF_CONNECTION = 3
#: How often streams are looked at that wait until their caller has read more.
_MOMENT = 0.01
#: So many milliseconds, 31 years, are no deadline: timers need not count so far.
_NO_DEADLINE = 1_000_000_000_000
#: A function that took longer has the lead given away before it runs the next time, or times: twice as many each time
#: that it is slow again, up to so many. That it lost its CPU for a moment does not make it slow.
SLOW, SLOW_TURNS = 0.0005, 64


class ServiceError(Exception):
    """The service cannot start; the message says what to do."""


class _Connection(Peer):
    __slots__ = ("sock", "table", "lock", "pending", "used", "unread", "unread_fds", "waits", "waits_fds", "has_area")

    def __init__(self, sock: socket.socket, caller: str | None, table: _Table) -> None:
        super().__init__()
        self.sock = sock
        self.fd = sock.fileno()
        self.caller = caller
        self.table = table
        self.number = table.number
        self.quick = table.quick
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


class _Table:
    """What one caller may call, as it is told."""

    __slots__ = ("functions", "hello", "connections", "quick", "number", "lock", "held", "fds", "asked", "coroutines", "areas",
                 "heavy")  # fmt: skip

    def __init__(
        self, service: str, caller: str | None, functions: dict[str, Function], figures: Page, number: int
    ) -> None:
        self.functions = functions
        self.connections = 0
        #: At the gate.
        self.number = number
        self.lock = threading.Lock()
        #: What its connections' `unread` and `waits` come to, and which they are.
        self.held = self.fds = 0
        self.heavy: set[_Connection] = set()
        #: What arguments of open calls take; open coroutines; connections that have an area.
        self.asked = self.coroutines = self.areas = 0
        #: Those that the core can serve by itself.
        self.quick = None
        if COMPILED:
            ways = {
                name: Served(function, function.run, plans[0], plans[1], function.signature.result.plan, figures.slot(name))
                for name, function in functions.items()
                if not function.is_stream and not function.is_async and (plans := function.signature.plans())
            }
            self.quick = Table(ways)
        self.hello = pack([1, 1, service, caller, {n: f.signature.hash for n, f in functions.items()}])


class Server:
    """Serves the functions of one service. `start_service` is what most programs want."""

    def __init__(
        self,
        name: str,
        *,
        threads: int = 8,
        queue: int = 64,
        connections: int = 1024,
        tracebacks: bool = False,
        drain: float = 8.0,
    ) -> None:
        if threads < 1 or queue < 0 or connections < 1:
            raise ServiceError("threads and connections are at least 1, queue at least 0")
        self.name = name
        self.threads = threads
        self.queue_limit = queue
        self.connection_limit = connections
        # Under PySecure it is the manifest that says so.
        self.tracebacks: bool = os.environ.get("PYSECURE_RPC_TRACEBACKS", "1" if tracebacks else "0") == "1"
        self.drain = drain
        self.functions: dict[str, Function] = State.functions.get(name, {})
        self._check_functions()
        self.gate: Gate = Gate(threads, queue)
        self._lead = Lead()
        self.listeners: list[tuple[socket.socket, str | None, _Table]] = []
        self._bound: list[str] = []
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._connections: dict[int, _Connection] = {}
        self._workers: list[threading.Thread] = []
        self.epoll: select.epoll
        self._stop_fd = self._stop_end = -1
        self._stopping = False
        self._share = 1 << 20
        #: Streams that wait until their caller has read more, and whether a thread looks at them.
        self._paused: list[Call] = []
        self._looked_at = False
        self._loop: Any = None
        #: Made anew in each process that serves.
        self._figures = Page(self.functions)
        #: Where the supervisor is told of it, if there is one that asks.
        self._told_at = os.environ.get("NOTIFY_SOCKET") if "PYSECURE_RPC_CALLERS" in os.environ else None
        #: Calls refused because the caller may not make them, by caller and, if there is such a function, its name.
        self._denied: dict[tuple[str | None, str], int] = {}

    def _check_functions(self) -> None:
        started = os.environ.get("PYSECURE_SERVICE", self.name)
        if started != self.name:
            raise ServiceError(f"this is the service {started!r}, and start_service names {self.name!r}")
        if not self.functions:
            others = ", ".join(sorted(State.functions)) or "none"
            raise ServiceError(
                f"{self.name}: no function has @rpc(run_as={self.name!r}); services with functions: {others}. "
                "Import the modules that hold them before start_service"
            )
        for function in self.functions.values():
            function.signature  # noqa: B018: hints that cannot cross show now, and not at the first call
            if function.is_async:
                import asyncio  # noqa: F401  # pyright: ignore[reportUnusedImport]: while nothing else runs

    # Sockets.

    def listen(self) -> None:
        """Takes the sockets that it was handed, or binds its own where there are none."""
        environ = os.environ
        policy = environ.get("PYSECURE_RPC_CALLERS")
        pid = environ.get("LISTEN_PID", str(os.getpid()))
        count = int(environ.get("LISTEN_FDS", "0") or "0")
        if count and pid != str(os.getpid()):
            if policy is not None:
                raise ServiceError(
                    f"{self.name}: its sockets were handed to process {pid}, and this is {os.getpid()}: "
                    "a script that starts it should end in `exec python3 …`"
                )
            count = 0
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        handed: list[tuple[socket.socket, str]] = []
        for at in range(count):
            fd = _FIRST_FD + at
            name = names[at] if at < len(names) else ""
            if name == "listen" or not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            sock = socket.socket(fileno=os.dup(fd))
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
                sock.close()
                continue
            os.set_inheritable(sock.fileno(), False)
            os.set_inheritable(fd, False)
            handed.append((sock, name))
        if handed or policy is not None:
            if policy is None:
                raise ServiceError(
                    f"{self.name}: it has callers' sockets, but PYSECURE_RPC_CALLERS does not say what each may call"
                )
            self._granted(handed, policy)
            return
        folder = environ.get("PYSECURE_RPC_DIR")
        if not folder:
            raise ServiceError(
                f"{self.name}: it was handed no sockets (is it started by pysecure, and does its manifest name "
                "`callers`?). Outside of pysecure, set PYSECURE_RPC_DIR to a folder for sockets"
            )
        table = _Table(
            self.name,
            None,
            {n: f for n, f in self.functions.items() if f.callers is None},
            self._figures,
            self.gate.caller(),
        )
        self.listeners.append((self._bind(folder), None, table))

    def _granted(self, handed: list[tuple[socket.socket, str]], policy: str) -> None:
        try:
            found = json.loads(policy)
            if not isinstance(found, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise ServiceError(f"{self.name}: PYSECURE_RPC_CALLERS is not the JSON it should be: {error}") from None
        callers = cast("dict[str, Any]", found)
        for caller, granted in callers.items():
            names: list[Any] = [] if granted == "*" else granted
            is_list = isinstance(names, list)  # pyright: ignore[reportUnnecessaryIsInstance]
            if not is_list or not all(isinstance(name, str) for name in names):
                raise ServiceError(f"{self.name}: PYSECURE_RPC_CALLERS: {caller} has neither \"*\" nor a list of names")
            forgotten = sorted(set(names) - set(self.functions))
            if forgotten:
                raise ServiceError(
                    f"{self.name}: its `callers` grant {', '.join(forgotten)} to {caller}, but no function of that name "
                    f"has @rpc(run_as={self.name!r}) in what it has imported: import its module before start_service, "
                    "or mend the manifest"
                )
        for sock, caller in handed:
            granted = callers.get(caller, [])
            functions = {
                name: function
                for name, function in self.functions.items()
                if (granted == "*" or name in granted) and (function.callers is None or caller in function.callers)
            }
            table = _Table(self.name, caller, functions, self._figures, self.gate.caller())
            self.listeners.append((sock, caller, table))

    def _bind(self, folder: str) -> socket.socket:
        path = os.path.join(folder, self.name + ".sock")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(path)
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            os.unlink(path)  # left by one that is gone
        else:
            sock.close()
            raise ServiceError(f"{self.name}: {path} is served already")
        old = os.umask(0o177)
        try:
            sock.bind(path)
        except OSError as error:
            raise ServiceError(f"{self.name}: cannot make {path}: {error.strerror}") from None
        finally:
            os.umask(old)
        sock.listen(4096)
        self._bound.append(path)
        return sock

    # Life.

    def start(self) -> None:
        """Begins to serve, in threads of its own."""
        State.serving = self.name
        if not self.listeners:
            self.listen()
        # Each caller has its share of the descriptors, and some are the service's own.
        limit = _raise_limit()
        self._share = (limit - min(limit // 4, 128)) // len(self.listeners)
        if self._told_at:
            self._figures.hand_over(self._told_at)
        self._figures.close()
        self.epoll = select.epoll()
        # Readable for ever once its other end is closed.
        self._stop_fd, self._stop_end = os.pipe()
        self.epoll.register(self._stop_fd, select.EPOLLIN)
        for sock, _, _ in self.listeners:
            sock.setblocking(False)
        for number in range(self.threads + 1):
            worker = threading.Thread(target=self._work, name=f"pysecure-rpc-{number}", daemon=True)
            worker.start()
            self._workers.append(worker)
        watch = threading.Thread(target=self._lead.watch, name="pysecure-rpc-watch", daemon=True)
        watch.start()
        self._workers.append(watch)
        acceptor = threading.Thread(target=self._accept, name="pysecure-rpc-accept", daemon=True)
        acceptor.start()
        self._workers.append(acceptor)

    def stop(self) -> None:
        """Takes no more calls, ends those that run, and is gone."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            waiting = self.gate.stop()
            connections = list(self._connections.values())
        for call, _ in waiting:
            self._fail(call, "pysecure.GoingAway", f"{self.name} ends", False)
        for connection in connections:
            connection.leaving = True
            self._send(connection, [9, "the service ends"])
        end = monotonic() + self.drain
        with self._idle:
            while (self.gate.running or any(c.calls for c in connections)) and monotonic() < end:
                self._idle.wait(max(0.0, min(0.05, end - monotonic())))
        self._lead.end()
        os.close(self._stop_end)
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join(1.0)
        for connection in connections:
            self._turn_away(connection)
            self._drop(connection, owner=True)
        for sock, _, _ in self.listeners:
            sock.close()
        for path in self._bound:
            try:
                os.unlink(path)
            except OSError:
                pass
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
        if State.serving == self.name:
            State.serving = None

    def _turn_away(self, connection: _Connection) -> None:
        """Answers calls that crossed the GOAWAY, so that their callers know that they were not begun."""
        sock = connection.sock
        try:
            sock.shutdown(socket.SHUT_RD)
            while True:
                data, fds = receive(sock, DONTWAIT)
                if not data:
                    return
                # Of no call anything has to be known but its number.
                call = open_call(data, fds, connection.kept, {})
                if call[0] == 2:
                    self._refuse(connection, call[1], "pysecure.GoingAway", f"{self.name} ends")
        except (OSError, ProtocolError):
            return  # it is gone already, or speaks something else

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stats(self) -> dict[str, Any]:
        """Counts of each function, and of refusals."""
        with self._lock:
            return {
                "functions": self._figures.figures(),
                "denied": [
                    {"caller": caller, "function": name or None, "count": count}
                    for (caller, name), count in self._denied.items()
                ],
                "connections": len(self._connections),
                "running": self.gate.running,
                "waiting": self.gate.waiting,
            }

    def _accept(self) -> None:
        poll = select.poll()
        by_fd: dict[int, tuple[socket.socket, str | None, _Table]] = {}
        for listener in self.listeners:
            by_fd[listener[0].fileno()] = listener
            poll.register(listener[0], select.POLLIN)
        poll.register(self._stop_fd, select.POLLIN)
        failed = 0
        while not self._stopping:
            for fd, _ in poll.poll():
                if fd == self._stop_fd or self._stopping:
                    return
                sock, caller, table = by_fd[fd]
                try:
                    accepted, _ = sock.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    # As many descriptors as may be: what waits, waits.
                    failed += 1
                    if str(failed).strip("0") == "1":
                        self._say(f"it cannot accept a connection: {error.strerror}, {failed} times so far")
                    sleep(0.1)
                    continue
                self._greet(accepted, caller, table)

    def _greet(self, sock: socket.socket, caller: str | None, table: _Table) -> None:
        connection = _Connection(sock, caller, table)
        try:
            # Until it has been greeted nothing else is sent on it, and no GOAWAY either.
            with connection.lock:
                with self._lock:
                    if self._stopping:
                        sock.close()  # before its greeting: the caller knows that nothing was taken, and connects anew
                        return
                    share = (table.connections + 1) * _OF_CONNECTION + table.fds
                    full = table.connections >= self.connection_limit or (table.connections and share > self._share)
                    if not full:
                        table.connections += 1
                        self._connections[sock.fileno()] = connection
                if full:
                    text = f"{self.name} has {table.connections} connections of this caller, and takes no more"
                    transmit(sock, pack([4, 0, "pysecure.Busy", text, [], None, False]), [], DONTWAIT)
                    sock.close()
                    return
                if len(table.hello) <= MAX_MESSAGE:
                    transmit(sock, table.hello, [], DONTWAIT)
                else:
                    hello = seal(unpack(table.hello))
                    transmit(sock, hello.data, hello.fds, DONTWAIT)
                    hello.close()
            self.epoll.register(sock.fileno(), _IN)
        except OSError:
            if self._connections.get(sock.fileno()) is connection:
                self._drop(connection, owner=True)
            else:
                sock.close()

    def _work(self) -> None:
        self._lead.run(self, self.epoll.fileno())

    def _say(self, text: str) -> None:
        _say(f"{self.name}: {text}")

    def _defect(self, connection: _Connection, error: BaseException) -> None:
        # It must not take a thread away.
        self._say(f"{type(error).__name__}: {_text(error)}")
        self._drop(connection, owner=self._lead.leading)

    # Connections.

    def _event(self, connection: _Connection, event: int) -> None:
        if connection.closed:
            self._drop(connection, owner=True)
            return
        if event & select.EPOLLOUT and connection.backlog:
            streams = self._flush(connection)
            if streams is None:
                return
            for call in streams:
                self._resume(call)
            return
        if event & select.EPOLLOUT and not self._want(connection, _IN):
            self._drop(connection, owner=True)
            return
        try:
            data, fds = receive(connection.sock, DONTWAIT)
        except BlockingIOError:
            return
        except ProtocolError as error:
            self._malformed(connection, error)
            return
        except OSError:
            self._drop(connection, owner=True)
            return
        if not data:
            self._drop(connection, owner=True)
            return
        self._arrived(connection, data, fds)

    def _arrived(self, connection: _Connection, data: bytes, fds: list[int]) -> None:
        """Does what a message asks for."""
        try:
            # Of what this caller may not call nothing is decoded but the name.
            work = self._message(connection, open_call(data, fds, connection.kept, connection.table.functions))
        except ProtocolError as error:
            self._malformed(connection, error)
            return
        except Exception as error:
            # Whatever a message does to who reads it, it is the message that is at fault.
            self._malformed(connection, ProtocolError(type(error).__name__))
            return
        if work is not None:
            self._admit(*work)

    def _malformed(self, connection: _Connection, error: Exception) -> None:
        self._send(connection, [4, 0, "pysecure.BadMessage", str(error), [], None, False])
        self._drop(connection, owner=True)

    def _drop(self, connection: _Connection, owner: bool = False) -> None:
        """Ends a connection and all its calls. Only the thread that leads closes the descriptor."""
        with connection.lock:
            first = not connection.closed
            connection.closed = True
            calls = list(connection.calls.values())
            connection.calls.clear()
            if connection.backlog:
                for each in connection.backlog:
                    each.close()
                connection.backlog = None
            table = connection.table
            with table.lock:
                table.held -= connection.unread + connection.waits
                table.fds -= connection.unread_fds + connection.waits_fds
                connection.unread = connection.unread_fds = connection.waits = connection.waits_fds = 0
                table.heavy.discard(connection)
            if first and not owner:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        for call in calls:
            self._release(call)
            self._cancel(call)
        if not owner:
            return
        with self._lock:
            fd = connection.fd
            if fd < 0:
                return
            connection.fd = -1
            if self._connections.pop(fd, None) is not None:
                connection.table.connections -= 1
                connection.table.areas -= connection.has_area
            connection.sock.close()
        with connection.lock:
            connection.forget()

    def _flush(self, connection: _Connection) -> list[Call] | None:
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
                large, fds = message.large, len(message.fds)
                self._hold(connection, -len(message.data) - large, -fds, True)
                if large or fds:
                    self._hold(connection, large, fds, False)
                message.close()
            streams: list[Call] = []
            if not lost and not backlog:
                # What waited to be sent came before what might be asked next.
                connection.backlog = None
                lost = not self._want(connection, _IN)
                streams = [c for c in connection.calls.values() if c.stream is not None]
        if lost:
            self._drop(connection, owner=True)
            return None
        return streams

    def _send(self, connection: _Connection, reply: list[Any], of: Call | None = None) -> None:
        """Sends a message, or lets it wait if the caller does not read. Raises for what cannot be sent at all. `of`: not if
        this call has been answered, for nothing may follow that."""
        with connection.lock:
            if connection.closed or (of is not None and of.answered):
                return
            area = connection.out_area
            if area is None:
                with self._lock:
                    if connection.has_area or connection.table.areas < _AREAS:
                        connection.table.areas += not connection.has_area
                        connection.has_area = True
                        area = connection.out_area = Area()
            message = seal(reply, area)
            connection.used += message.in_area
            if message.large and not self._has_room(connection.table, message.large, len(message.fds)):
                message.close()
                if message.in_area and area is not None:
                    area.close()
                raise Busy(f"{self.name} holds as much for this caller as may be that it has not read")
            full = self._put_locked(connection, message)
        if full:
            self._drop(connection)

    # What callers make the service hold.

    def _hold(self, connection: _Connection, more: int, fds: int, waits: bool) -> None:
        """Counts what was sent and is not read, or waits to be sent. Whoever calls has the connection's lock."""
        if not more and not fds:
            return
        table = connection.table
        with table.lock:
            if waits:
                connection.waits += more
                connection.waits_fds += fds
            else:
                connection.unread += more
                connection.unread_fds += fds
            table.held += more
            table.fds += fds
            if connection.unread or connection.unread_fds:
                table.heavy.add(connection)
            else:
                table.heavy.discard(connection)

    def _has_room(self, table: _Table, more: int, fds: int, most: int = _TOO_MUCH) -> bool:
        """May so much more be held for a caller? What it has read meanwhile is held no longer."""
        for again in (False, True):
            if again:
                self._recount(table)
            with table.lock:
                taken = table.fds + fds + table.connections * _OF_CONNECTION
                if table.held + more <= most and (not fds + table.fds or taken <= self._share):
                    return True
        return False

    def _recount(self, table: _Table) -> None:
        with table.lock:
            for connection in list(table.heavy):
                try:
                    unread = fcntl.ioctl(connection.fd, termios.TIOCOUTQ, b"\0\0\0\0") != b"\0\0\0\0"
                except (OSError, ValueError):
                    continue  # whoever closes it counts it
                if not unread:
                    table.held -= connection.unread
                    table.fds -= connection.unread_fds
                    connection.unread = connection.unread_fds = 0
                    table.heavy.discard(connection)

    def _much(self, connection: _Connection) -> bool:
        """Does its caller have to read first?"""
        table = connection.table
        return (table.held > _MUCH or table.fds > self._share // 2) and not self._has_room(table, 0, 0, _MUCH)

    def _release(self, call: Call) -> None:
        """A call is open no longer."""
        if call.cost or call.function.is_async:
            table = call.connection.table
            with table.lock:
                table.asked -= call.cost
                table.coroutines -= call.function.is_async

    def _too_much(self, call: Call) -> str | None:
        """Why a call is not taken, if its caller makes the service hold too much. If it is, it counts from now on."""
        connection = call.connection
        table = connection.table
        if self._much(connection):
            return f"{self.name} holds {table.held} bytes for this caller that it has not read"
        cost = connection.kept.cost
        cost = cost if cost > _SMALL else 0
        if not cost and not call.function.is_async:
            return None
        with table.lock:
            if cost and table.asked and table.asked + cost > _TOO_MUCH:
                return f"{self.name} holds {table.asked} bytes that open calls of this caller brought"
            if call.function.is_async and table.coroutines >= self.connection_limit:
                return f"{table.coroutines} calls of this caller are open"
            call.cost = cost
            table.asked += cost
            table.coroutines += call.function.is_async
        return None

    def _pause(self, call: Call) -> None:
        """A stream goes on when its caller has read more, which no event tells."""
        with self._lock:
            self._paused.append(call)
            if self._looked_at:
                return
            self._looked_at = True
        threading.Thread(target=self._look, name="pysecure-rpc-streams", daemon=True).start()

    def _look(self) -> None:
        while True:
            sleep(_MOMENT)
            with self._lock:
                paused, self._paused = self._paused, []
                if not paused:
                    self._looked_at = False
                    return
            still: list[Call] = []
            for call in paused:
                if call.answered or call.connection.closed:
                    continue
                if self._much(call.connection):
                    still.append(call)
                else:
                    try:
                        self._resume(call)
                    except BaseException as error:
                        self._defect(call.connection, error)
            with self._lock:
                self._paused += still

    def _put(self, connection: _Connection, data: bytes) -> None:
        """Sends what is a message already."""
        with connection.lock:
            if connection.closed:
                return
            full = self._put_locked(connection, _Ready(data))
        if full:
            self._drop(connection)

    def _put_locked(self, connection: _Connection, message: Message | _Ready) -> bool:
        """Is it too much, or is nobody there?"""
        if not connection.backlog:
            try:
                transmit(connection.sock, message.data, message.fds, DONTWAIT)
                if message.large or message.fds:
                    self._hold(connection, message.large, len(message.fds), False)
                message.close()
                return False
            except BlockingIOError:
                pass
            except OSError:
                message.close()
                return True
        if connection.backlog is None:
            connection.backlog = deque()
            if not self._want(connection, _OUT):
                message.close()
                return True
        more = len(message.data) + message.large
        if not self._has_room(connection.table, more, len(message.fds)):
            message.close()
            return True
        message.keep()
        self._hold(connection, more, len(message.fds), True)
        connection.backlog.append(message)
        connection.pending += len(message.data)
        return connection.pending > _BACKLOG_BYTES or len(connection.backlog) > _BACKLOG_MESSAGES

    def _want(self, connection: _Connection, events: int) -> bool:
        """Has the epoll set tell of that. If it cannot, nobody would ever hear of the connection again."""
        with self._lock:
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

    # Messages.

    def _message(self, connection: _Connection, parts: list[Any]) -> tuple[Call, Callable[[Call], None]] | None:
        kind = parts[0]
        if kind == 2:
            return self._call(connection, parts)
        identity = parts[1] if len(parts) > 1 else None
        if type(identity) is not int or not 0 < identity <= 1 << 53:
            raise ProtocolError("a message without the number of its call")
        if kind == 7:
            more = parts[2] if len(parts) > 2 else None
            if type(more) is not int or not 0 < more <= 1 << 31:
                raise ProtocolError("CREDIT of no number")
            self._have_read(connection, parts[3] if len(parts) > 3 else None)
            call = connection.calls.get(identity)
            if call is not None and call.function.is_stream:
                with connection.lock:
                    call.credit = min(call.credit + more, 1 << 53)
                if not call.function.is_async and call.stream is not None:
                    return call, self._pump
                self._resume(call)
            return None
        if kind == 8:
            call = connection.calls.get(identity)
            if call is not None:
                with connection.lock:
                    # From here on it is not begun, or it was before: `_begin` asks under the lock as well.
                    waits = call.begun == 0.0
                    call.cancelled = True
                self._cancel(call)
                if waits or call.stream is not None:
                    self._fail(call, "pysecure.Cancelled", "the caller cancelled it", not waits)
            return None
        raise ProtocolError("a message of another kind than callers send")

    def _have_read(self, connection: _Connection, read: Any) -> None:
        if read is None:
            return
        if type(read) is not int or not 0 <= read < 1 << 64:
            raise ProtocolError("`read` is no number")
        with connection.lock:
            if connection.out_area is not None and read == connection.used:
                connection.out_area.free = True

    def _call(self, connection: _Connection, parts: list[Any]) -> tuple[Call, Callable[[Call], None]] | None:
        if len(parts) == 3:
            if parts[1] in connection.calls:
                raise ProtocolError("a call's number twice")
            self._other(connection, parts[1], parts[2])
            return None
        if len(parts) < 9:
            parts = parts + [None] * (9 - len(parts))
        _, identity, name, args, kwargs, left, trace, read, credit = parts[:9]
        if (
            type(identity) is not int
            or not 0 < identity <= 1 << 53
            or type(name) is not str
            or type(args) is not list
            or type(kwargs) is not dict
            or (left is not None and (type(left) is not int or not 0 <= left < 1 << 64))
            or (trace is not None and (type(trace) is not str or not _whole(trace)))
            or (credit is not None and (type(credit) is not int or not 0 <= credit <= 1 << 31))
        ):
            raise ProtocolError("a CALL of wrong types")
        for key in kwargs:  # pyright: ignore[reportUnknownVariableType]
            if type(key) is not str:  # pyright: ignore[reportUnknownArgumentType]
                raise ProtocolError("a keyword argument whose name is no text")
        if read:
            self._have_read(connection, read)
        elif read is not None and type(read) is not int:
            raise ProtocolError("`read` is no number")
        if identity in connection.calls:
            raise ProtocolError("a call's number twice")
        function = connection.table.functions[name]
        deadline = None if left is None or left >= _NO_DEADLINE else monotonic() + left / 1000
        call = Call(connection, identity, function, deadline, trace, 1 if credit is None else credit)
        try:
            call.args, call.kwargs = function.signature.convert(args, kwargs, True)
        except InvalidArguments as error:
            self._count(function.name, 0.0, True)
            self._refuse(connection, identity, "pysecure.InvalidArguments", str(error))
            return None
        if connection.leaving:
            self._refuse(connection, identity, "pysecure.GoingAway", f"{self.name} ends")
            return None
        if len(connection.calls) >= _OPEN_CALLS:
            self._refuse(connection, identity, "pysecure.Busy", f"{_OPEN_CALLS} calls are open on this connection")
            return None
        held = self._too_much(call)
        if held is not None:
            self._refuse(connection, identity, "pysecure.Busy", held)
            return None
        connection.calls[identity] = call
        return call, self._run_async if function.is_async else self._run

    def _other(self, connection: _Connection, identity: int, name: str) -> None:
        """A call of what this caller has not: the two functions that everybody has, or a refusal."""
        if name == "pysecure.ping":
            self._send(connection, [3, identity, None])
        elif name == "pysecure.describe":
            self._send(connection, [3, identity, describe(connection.table.functions)])
        else:
            if not _whole(name):
                raise ProtocolError("a CALL of wrong types")
            # Names that are not ours are counted as one: they could be without end.
            key = (connection.caller, name if name in self.functions else "")
            with self._lock:
                count = self._denied[key] = self._denied.get(key, 0) + 1
                self._figures.denied(key[1])
            if str(count).strip("0") == "1":
                who = connection.caller or "a caller"
                _say(f"{self.name} refused {name[:64]!r} to {who}, {count} so far")
            self._refuse(connection, identity, "pysecure.NoSuchFunction", f"{self.name} has no function {name[:64]!r}")

    def _refuse(self, connection: _Connection, identity: int, name: str, text: str) -> None:
        self._send(connection, [4, identity, name, text[:2000], [], None, False])

    def _admit(self, call: Call, work: Callable[[Call], None]) -> None:
        """Runs a call in this thread, or lets it wait, or refuses it."""
        if call.stream is not None:
            self._resume(call)  # it was admitted long ago
            return
        verdict = self.gate.enter(call, work, False, call.connection.number)
        if verdict == "run":
            self._work_through(call, work)
        elif verdict == "stopping":
            self._fail(call, "pysecure.GoingAway", f"{self.name} ends", False)
        elif verdict == "busy":
            self._fail(call, "pysecure.Busy", f"{self.name} is busy: {self.queue_limit} calls of this caller wait", False)

    def _work_through(self, call: Call, work: Callable[[Call], None]) -> None:
        """Runs a call, and then those that waited for it."""
        lead = self._lead
        while True:
            function = call.function
            slow = function.slow
            if slow:
                function.slow = slow - 1
            run = lead.begin(slow > 0)
            start = monotonic()
            try:
                work(call)
            except BaseException as error:
                self._defect(call.connection, error)
            finally:
                if monotonic() - start > SLOW:
                    function.slow = function.slowness = min(2 * function.slowness or 1, SLOW_TURNS)
                else:
                    function.slowness >>= 1
                lead.done(run)
                following = self.gate.leave(call.connection.number)
                if following is None and self._stopping:
                    self._at_rest()
            if following is None:
                return
            call, work = following

    def _at_rest(self) -> None:
        with self._idle:
            self._idle.notify_all()

    # Running.

    def _begin(self, call: Call) -> bool:
        now = monotonic()
        with call.connection.lock:
            late = call.deadline is not None and now >= call.deadline
            waited_for = not (call.cancelled or call.answered)
            if waited_for and not late:
                call.begun = now
        if not waited_for:
            self._fail(call, "pysecure.Cancelled", "cancelled before it began", False)
            return False
        if late:
            self._fail(call, "pysecure.DeadlineExceeded", "its time was over before it began", False)
            return False
        return True

    def _run(self, call: Call) -> None:
        if not self._begin(call):
            return
        function = call.function
        token = _function.enter(call)
        try:
            result = function.run(*call.args, **call.kwargs)
            if function.is_stream:
                call.stream = iter(result)
        except BaseException as error:
            self._raised(call, error)
            return
        finally:
            _function.leave(token)
            call.args = call.kwargs = None
        if function.is_stream:
            self._pump(call)
        else:
            self._returned(call, result)

    def _returned(self, call: Call, result: Any) -> None:
        if call.deadline is not None and monotonic() > call.deadline:
            self._fail(call, "pysecure.DeadlineExceeded", "it took longer than it had time", True)
            return
        self._answer(call, 3, call.function.signature.result, result)

    def _answer(self, call: Call, kind: int, hint: Any, value: Any) -> None:
        """The last message of a call, which has a value."""
        try:
            plain = hint.dump(value)
        except BaseException as error:
            self._fail(call, "pysecure.InvalidResult", f"{call.function.name}() returned: {_text(error)}", True)
            return
        if not self._finish(call, False):
            return
        try:
            self._send(call.connection, [kind, call.id, plain])
        except (TooLarge, Busy) as error:
            name = f"pysecure.{type(error).__name__}" if type(error) in (TooLarge, Busy) else "pysecure.TooLarge"
            self._send(call.connection, [4, call.id, name, str(error)[:2000], [], None, True])
        except BaseException as error:
            text = f"{call.function.name}() returned: {_text(error)}"[:2000]
            self._send(call.connection, [4, call.id, "pysecure.InvalidResult", text, [], None, True])

    def _finish(self, call: Call, failed: bool) -> bool:
        """Marks a call as answered. False if it was, or if nobody waits."""
        connection = call.connection
        with connection.lock:
            if call.answered:
                return False
            # Whoever takes it out of the open calls answers it.
            found = connection.calls.pop(call.id, None)
            if found is not call:
                if found is not None:
                    connection.calls[call.id] = found
                return False
            call.answered = True
        self._release(call)
        self._count(call.function.name, monotonic() - call.begun if call.begun else 0.0, failed)
        return True

    def _count(self, name: str, seconds: float, failed: bool) -> None:
        with self._lock:
            self._figures.ended(name, seconds, failed)

    def _fail(self, call: Call, name: str, text: str, ran: bool) -> None:
        if self._finish(call, True):
            self._send(call.connection, [4, call.id, name, text[:2000], [], None, ran])

    def _raised(self, call: Call, error: BaseException) -> None:
        if not isinstance(error, Exception) and not _is_cancelled(error):
            # SystemExit and the like end the call, not the service.
            error = RuntimeError(f"{type(error).__name__}: {error}")
        if _is_cancelled(error):
            name = "pysecure.DeadlineExceeded" if not call.cancelled else "pysecure.Cancelled"
            self._fail(call, name, "the coroutine was cancelled", True)
            return
        if not self._finish(call, True):
            return
        try:
            self._tell(call, error)
        except BaseException as untold:
            # What it says of itself is its own code, and may fail as well.
            text = f"{type(error).__name__}, of which nothing more can be told: {_text(untold)}"
            self._send(call.connection, [4, call.id, "RuntimeError", text[:2000], [text[:2000]], None, True])

    def _tell(self, call: Call, error: BaseException) -> None:
        traceback = None
        if self.tracebacks:
            import traceback as module

            traceback = "".join(module.format_exception(type(error), error, error.__traceback__))[-32_000:]
        reply = [4, call.id, _errors.name_of(type(error)), _text(error), list(error.args), traceback, True]
        try:
            size = len(pack(reply))
        except Exception:
            size = MAX_MESSAGE + 1
        if size > MAX_MESSAGE:
            reply[5] = [a[:2000] if type(a) is str else a for a in error.args if type(a) in (str, int, float, bool)][:8]
            reply[5], reply[6] = traceback, True
            reply[4] = [_text(error)]
        self._send(call.connection, reply)

    def _cancel(self, call: Call) -> None:
        call.cancelled = True
        task = call.task
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)
        elif call.stream is not None:
            with call.connection.lock:
                if call.pumping:
                    return  # whoever runs it sees it
                call.pumping = True
            _close(call.stream)

    # Streams: a generator is run on when there is credit, by whichever thread hears of it, and holds none in between.

    def _resume(self, call: Call) -> None:
        if call.function.is_async:
            if call.wake is not None:
                self._loop.call_soon_threadsafe(call.wake.set)
            return
        if call.stream is not None and not call.pumping:
            self._admit_resume(call)

    def _admit_resume(self, call: Call) -> None:
        if self.gate.enter(call, self._pump, True, call.connection.number) == "run":  # at most one waits for each open call, which are bounded
            self._work_through(call, self._pump)

    def _pump(self, call: Call) -> None:
        connection = call.connection
        with connection.lock:
            if call.pumping or call.answered:
                return
            call.pumping = True
        token = _function.enter(call)
        try:
            while True:
                with connection.lock:
                    if connection.closed or call.cancelled or call.answered:
                        break
                    if call.credit <= 0 or connection.backlog:
                        call.pumping = False
                        return
                    much = self._much(connection)
                    if much:
                        call.pumping = False
                    else:
                        call.credit -= 1
                if much:
                    self._pause(call)
                    return
                if call.deadline is not None and monotonic() > call.deadline:
                    self._fail(call, "pysecure.DeadlineExceeded", "the stream took longer than it had time", True)
                    break
                try:
                    value = next(call.stream)
                except StopIteration as end:
                    self._answer(call, 6, call.function.signature.result, end.value)
                    return
                except BaseException as error:
                    self._raised(call, error)
                    return
                try:
                    self._send(connection, [5, call.id, call.function.signature.item.dump(value)], call)
                except BaseException as error:
                    self._fail(call, "pysecure.InvalidResult", f"{call.function.name}() yielded: {_text(error)}", True)
                    break
            _close(call.stream)
            self._fail(call, "pysecure.Cancelled", "the caller cancelled it", True)
        finally:
            _function.leave(token)

    # Coroutines: one event loop, in a thread of its own.

    def _run_async(self, call: Call) -> None:
        if not self._begin(call):
            return
        with self._lock:
            if self._loop is None:
                import asyncio

                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="pysecure-rpc-asyncio", daemon=True).start()
        self._loop.call_soon_threadsafe(self._begin_task, call)

    def _begin_task(self, call: Call) -> None:
        call.task = self._loop.create_task(self._stream_task(call) if call.function.is_stream else self._task(call))
        if call.cancelled:
            call.task.cancel()

    async def _task(self, call: Call) -> None:
        import asyncio

        _function.enter(call)
        try:
            work = call.function.run(*call.args, **call.kwargs)
            if call.deadline is None:
                result = await work
            else:
                try:
                    result = await asyncio.wait_for(work, max(0.0, call.deadline - monotonic()))
                except asyncio.TimeoutError:
                    if monotonic() < call.deadline:
                        raise  # the function's own
                    self._fail(call, "pysecure.DeadlineExceeded", "it took longer than it had time", True)
                    return
        except BaseException as error:
            self._raised(call, error)
            return
        self._returned(call, result)

    async def _stream_task(self, call: Call) -> None:
        import asyncio

        _function.enter(call)
        call.wake = asyncio.Event()
        connection = call.connection
        items = call.function.run(*call.args, **call.kwargs)
        try:
            while True:
                while True:
                    call.wake.clear()
                    with connection.lock:
                        if call.credit > 0 and not connection.backlog:
                            much = self._much(connection)
                            if not much:
                                call.credit -= 1
                                break
                        else:
                            much = False
                    if much:
                        await asyncio.sleep(_MOMENT)
                        continue
                    left = None if call.deadline is None else max(0.0, call.deadline - monotonic())
                    try:
                        await asyncio.wait_for(call.wake.wait(), left)
                    except asyncio.TimeoutError:
                        self._fail(call, "pysecure.DeadlineExceeded", "the stream took longer than it had time", True)
                        return
                try:
                    value = await items.__anext__()
                except StopAsyncIteration:
                    self._answer(call, 6, call.function.signature.result, None)
                    return
                try:
                    self._send(connection, [5, call.id, call.function.signature.item.dump(value)], call)
                except BaseException as error:
                    self._fail(call, "pysecure.InvalidResult", f"{call.function.name}() yielded: {_text(error)}", True)
                    return
        except BaseException as error:
            self._raised(call, error)
        finally:
            await items.aclose()


def _whole(text: str) -> bool:
    """Is it text as it stands on the wire, without halves of characters?"""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_cancelled(error: BaseException) -> bool:
    # Another thread may be importing it just now; then this is no error of its.
    cancelled = getattr(sys.modules.get("asyncio.exceptions"), "CancelledError", None)
    return cancelled is not None and isinstance(error, cancelled)


def _say(text: str) -> None:
    """For whoever reads what the service prints; there may be nobody, or no place for it."""
    try:
        print(f"pysecure_rpc: {text}", file=sys.stderr, flush=True)
    except Exception:
        pass


def _text(error: BaseException) -> str:
    try:
        return str(error)[:2000].encode("utf-8", "replace").decode()
    except BaseException:
        return "(its text cannot be made)"


def _close(stream: Any) -> None:
    close = getattr(stream, "close", None)
    if close is not None:
        try:
            close()
        except BaseException as error:
            _say(f"a generator failed while it was closed: {_text(error)}")


class _Ready:
    """A message that has no descriptors."""

    __slots__ = ("data", "fds", "large")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.large = 0
        self.fds: list[int] = []

    def keep(self) -> None:
        pass

    close = keep


def _raise_limit() -> int:
    """As many descriptors as may be: connections take them. How many those are."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            pass
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def describe(functions: dict[str, Function]) -> list[dict[str, Any]]:
    """The answer of `pysecure.describe`."""
    import inspect

    return [
        {
            "name": name,
            "signature": function.signature.text,
            "hash": function.signature.hash,
            "doc": inspect.cleandoc(function.doc) if function.doc else None,
            "idempotent": function.idempotent,
            "stream": function.is_stream,
            "async": function.is_async,
            "parameters": function.signature.parameters,
            "returns": function.signature.item.text if function.is_stream else function.signature.result.text,
        }
        for name, function in functions.items()
    ]


def notify(state: str) -> None:
    """sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.send(state.encode())
    except OSError:
        pass


def start_service(
    service_name: str,
    *,
    threads: int = 8,
    processes: int = 1,
    queue: int = 64,
    connections: int = 1024,
    tracebacks: bool = False,
    drain: float = 8.0,
) -> None:
    """Serves the functions with `@rpc(run_as=service_name)` until SIGTERM or SIGINT; then ends what runs, and returns.

    `threads`: how many calls run at once in a process; `queue`: how many may wait beyond them.
    `processes`: so many processes share the work. `connections`: how many each caller may have.
    `tracebacks`: exceptions carry theirs to the caller, unless the manifest says otherwise. `drain`: seconds for what runs when it ends.
    """
    patched = sys.modules.get("gevent.monkey")
    if patched is not None and any(patched.is_module_patched(m) for m in ("threading", "socket", "select")):
        raise SystemExit(
            f"pysecure_rpc: {service_name}: gevent has put its own in the place of threads and sockets, and a service "
            "serves by threads: take monkey.patch_all() out of it. Callers may have it"
        )
    try:
        server = Server(
            service_name, threads=threads, queue=queue, connections=connections, tracebacks=tracebacks, drain=drain
        )
        server.listen()
    except ServiceError as error:
        raise SystemExit(f"pysecure_rpc: {error}") from None
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if processes > 1:
        _prefork(server, processes)
    else:
        _serve(server, lambda: notify("READY=1"))


def _serve(server: Server, ready: Callable[[], None]) -> None:
    asked = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    before: dict[int, Any] = {}

    def stop(*_: Any) -> None:
        asked.set()

    if main:
        for each in (signal.SIGTERM, signal.SIGINT):
            before[int(each)] = signal.signal(each, stop)
    server.start()
    ready()
    try:
        asked.wait()
    finally:
        notify("STOPPING=1")
        server.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _prefork(server: Server, processes: int) -> None:
    """Children that share the sockets; the parent starts one anew that ends unasked."""
    State.serving = server.name
    children: set[int] = set()
    ending = False
    up, says_up = os.pipe()
    read = True

    def say_up() -> None:
        # Those that are started in the place of others are waited for by nobody, and what they wrote would fill the pipe.
        if read:
            os.write(says_up, b".")
        os.close(says_up)

    def flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass  # there is no place for it

    def begin() -> None:
        flush()
        parent = os.getpid()
        # Whoever is told to end while this forks: both of the two must know.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        pid = os.fork()
        if pid:
            children.add(pid)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return
        code = 1
        try:
            # The parent's way to end is to end its children.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(up)
            _make_own(server)
            os.environ.pop("NOTIFY_SOCKET", None)
            _die_with(parent)
            _serve(server, say_up)
            code = 0
        finally:
            flush()
            os._exit(code)

    def end(*_: Any) -> None:
        nonlocal ending
        ending = True
        for pid in children:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    server._figures.close()  # each has its own
    for _ in range(processes):
        begin()
    before: dict[int, Any] = {int(n): signal.signal(n, end) for n in (signal.SIGTERM, signal.SIGINT)}
    seen = 0
    while seen < processes and not ending:
        # One that ends before it serves would not be seen by reading alone.
        if select.select([up], [], [], 0.2)[0]:
            seen += len(os.read(up, processes - seen))
        elif os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            ending = True
            end()
            _say(f"a process of {server.name} could not start")
    read = False
    if not ending:
        notify("READY=1")
    while children:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            break
        if pid in children:
            children.discard(pid)
            if not ending:
                code = os.waitstatus_to_exitcode(status)
                _say(f"a process of {server.name} ended with {code}")
                sleep(0.1)
                if not ending:
                    begin()
    notify("STOPPING=1")
    for each, handler in before.items():
        signal.signal(each, handler)
    for path in server._bound:
        try:
            os.unlink(path)
        except OSError:
            pass
    os.close(up)
    os.close(says_up)


def _make_own(server: Server) -> None:
    """What a process of several has for itself."""
    # The path is the parent's to remove.
    server._bound = []
    server._figures = Page(server.functions)


def _die_with(parent: int) -> None:
    """PR_SET_PDEATHSIG of prctl(2), which says nothing of a parent that has ended already."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
