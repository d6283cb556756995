"""Calls: connections of this thread, a call's way there and back, streams, asyncio.

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
from array import array
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from . import _function
from ._codec import BLOB, COMPILED, MAX_MESSAGE, Kept, Link, Quick, open_message, pack, seal, seal_call
from ._errors import (
    ConnectionLost,
    DeadlineExceeded,
    GoingAway,
    NotGranted,
    ProtocolError,
    RpcError,
    SignatureMismatch,
    revive,
)
from ._function import Function

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

#: How often a call is made again that is idempotent; how often a connection that ended before its greeting; and how often a
#: call that was not sent, or that a service which ends did not take: it may be restarted several times meanwhile.
_ATTEMPTS, _CONNECTS, _TURNED_AWAY = 5, 16, 50
#: Connections to one service that a thread keeps when it needs no more at once.
_IDLE = 4
#: Items of a stream that may be on their way.
_WINDOW = 16
_ROOM = socket.CMSG_SPACE(16 * 4)
# As plain integers: `|` of the socket module's enumerations takes longer than the system call.
_FLAGS = int(socket.MSG_CMSG_CLOEXEC)
_BAD = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
DONTWAIT = int(socket.MSG_DONTWAIT)


def receive(sock: socket.socket, flags: int) -> tuple[bytes, list[int]]:
    """One message and its descriptors; no bytes at the end of the connection."""
    data, control, received, _ = sock.recvmsg(MAX_MESSAGE, _ROOM, flags | _FLAGS)
    fds: list[int] = []
    if control:
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


class _NotSent(Exception):
    """The connection had ended before the call was sent."""


class Connection(Link):
    """A connection to one service."""

    __slots__ = ("sock", "service", "caller", "cooperative")

    def __init__(self, service: str, sock: socket.socket) -> None:
        super().__init__()
        self.service = service
        self.sock = sock
        self.caller: str | None = None
        #: Is it gevent's, that waits by itself and lets others run meanwhile?
        self.cooperative = not isinstance(sock, _socket.socket)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not self.cooperative:
            self.fd = sock.fileno()

    def close(self) -> None:
        self.fd = -1
        self.sock.close()
        self.out_area.close()
        self.kept.close()

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError, TypeError):
            pass

    def connect(self, path: str, deadline: float | None) -> None:
        """Waits for no longer than the deadline where as many wait to be accepted as may."""
        while True:
            wanted = 0.0
            if deadline is not None:
                wanted = deadline - monotonic()
                if wanted <= 0:
                    raise DeadlineExceeded(f"{self.service} accepts no connection in time")
            self._bound(socket.SO_SNDTIMEO, wanted)
            try:
                self.sock.connect(path)
                break
            except (BlockingIOError, TimeoutError):
                continue
        if wanted:
            self._bound(socket.SO_SNDTIMEO, 0.0)

    def _bound(self, option: int, seconds: float) -> None:
        if self.cooperative:
            self.sock.settimeout(seconds or None)
            return
        # All of it 0 would be no end.
        micros = int(seconds * 1e6) or (1 if seconds else 0)
        self.sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", *divmod(micros, 1_000_000)))

    def wait_at_most(self, deadline: float | None) -> None:
        """Bounds the next receive. The option is only set anew if the old one would wait too long or far too short."""
        if deadline is None:
            wanted = 0.0
            if self.limit == 0.0:
                return
        else:
            wanted = deadline - monotonic()
            if wanted <= 0:
                raise DeadlineExceeded(f"{self.service} did not answer in time")
            if 0.5 * wanted <= self.limit <= wanted:
                return
            wanted = max(wanted * 0.9, 0.001)
        self._bound(socket.SO_RCVTIMEO, wanted)
        self.limit = wanted

    def receive(self, deadline: float | None) -> list[Any]:
        while True:
            self.wait_at_most(deadline)
            try:
                data, fds = receive(self.sock, 0)
                break
            except (BlockingIOError, TimeoutError):
                continue
            except OSError:
                data, fds = b"", []
                break
        return self.decode(data, fds)

    def decode(self, data: bytes, fds: list[int]) -> list[Any]:
        if not data:
            raise ConnectionLost(f"{self.service} ended the connection")
        return open_message(data, fds, self.kept)

    def hello(self, reply: list[Any]) -> None:
        if reply[0] == 9:
            # It was accepted, and then the service ended: nothing was sent.
            raise ConnectionLost(f"{self.service} ends")
        if reply[0] == 4 and len(reply) >= 7:
            refused = _error(reply)
            if isinstance(refused, RpcError):
                refused.may_have_run = False  # nothing was sent
            raise refused
        if reply[0] != 1 or len(reply) < 5 or type(reply[4]) is not dict:
            raise ProtocolError(f"{self.service} did not greet")
        if reply[1] != 1:
            raise ProtocolError(f"{self.service} speaks another version of the protocol than this side, which speaks 1")
        self.caller = reply[3]
        self.functions = reply[4]

    def send_call(self, function: Function, args: Any, kwargs: Any, deadline: float | None, credit: int | None) -> int:
        known = self.functions.get(function.name)
        if known is not None and known != function.signature.hash:
            raise SignatureMismatch(
                f"{self.service} has another signature for {function.name} than {function.signature.text}: "
                "restart what runs an older version"
            )
        identity = self.next_id
        self.next_id = identity + 1
        name = function.packed
        if not name:
            name = function.packed = pack(function.name)
        left = None if deadline is None else max(0, int((deadline - monotonic()) * 1000))
        trace = _function.traceparent()
        message = seal_call(identity, name, args, kwargs, left, trace, self.kept.read, credit, self.out_area)
        try:
            transmit(self.sock, message.data, message.fds)
        except OSError as error:
            raise _NotSent(f"{self.service} is gone ({error.strerror})") from None
        finally:
            message.close()
        return identity


def _thread_local() -> type[threading.local]:
    """Threads' own, even if gevent has put greenlets in their place: those would keep connections for a request each."""
    patched = sys.modules.get("gevent.monkey")
    if patched is None:
        return threading.local
    original: type[threading.local] = patched.get_original("threading", "local")
    return original


class _Pool(_thread_local()):  # type: ignore[misc]
    """The idle connections of this thread."""

    def __init__(self) -> None:
        self.idle: dict[str, list[Connection]] = {}


_pool = _Pool()


def _forget() -> None:
    # A child has its parent's connections, and must not use them. They are closed with these objects.
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_forget)


def close_connections() -> None:
    """Closes the idle connections of this thread."""
    for connections in _pool.idle.values():
        for connection in connections:
            connection.close()
    _pool.idle.clear()


def path_of(service: str) -> str:
    if not service or "/" in service or service.startswith("."):
        raise ValueError(f"{service!r} cannot be a service's name")
    return os.path.join(os.environ.get("PYSECURE_RPC_DIR") or "/run/pysecure/rpc", service + ".sock")


def _new(service: str) -> tuple[socket.socket, str]:
    path = path_of(service)
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC), path


def _not_there(service: str, path: str, error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError):
        return NotGranted(f"there is no {path}: {service} does not name this service in its `callers`, or is not up")
    if isinstance(error, PermissionError):
        return NotGranted(f"{path} is another's socket")
    return ConnectionLost(f"{path}: {error.strerror}; is {service} up?")


def connect(service: str, deadline: float | None) -> Connection:
    """A greeted connection. While the service is down, its supervisor holds the socket, and this waits."""
    for attempt in range(_CONNECTS):
        sock, path = _new(service)
        connection = Connection(service, sock)
        try:
            connection.connect(path, deadline)
            connection.hello(connection.receive(deadline))
            return connection
        except ConnectionLost:
            # It ended between accepting and greeting.
            connection.close()
            if attempt + 1 == _CONNECTS:
                raise
            sleep(_moment(attempt + 1))
        except OSError as error:
            connection.close()
            if isinstance(error, RpcError):
                raise
            raise _not_there(service, path, error) from None
        except BaseException:
            connection.close()
            raise
    raise AssertionError


def _broken(text: str) -> ProtocolError:
    """What came in answer to a call is none: its function may have run."""
    error = ProtocolError(text)
    error.may_have_run = True
    return error


def _error(reply: list[Any]) -> Exception:
    name, text, args, traceback, ran = reply[2:7]
    if type(name) is not str or type(text) is not str or type(args) is not list or type(ran) is not bool:
        return _broken("an error of wrong types")
    shown = traceback if type(traceback) is str else None
    return revive(name, text, args, shown, ran)  # pyright: ignore[reportUnknownArgumentType]


def _until(function: Function) -> float | None:
    outer = _function.until()
    if function.timeout is None or function.is_stream:
        return outer
    own = monotonic() + function.timeout
    return own if outer is None or own < outer else outer


def _not_taken(reply: list[Any]) -> bool:
    """Was the call refused only because the service is about to end?"""
    return reply[0] == 4 and len(reply) >= 7 and reply[2] == "pysecure.GoingAway" and reply[6] is False


def _moment(attempt: int) -> float:
    """How long to wait before it is tried anew."""
    return min(0.1, 0.001 * (1 << attempt))


def _keep(connection: Connection) -> None:
    idle = _pool.idle.get(connection.service)
    if idle is None:
        idle = _pool.idle[connection.service] = []
    if len(idle) < _IDLE:
        idle.append(connection)
    else:
        connection.close()


def _result(function: Function, reply: list[Any], identity: int) -> Any:
    if len(reply) >= 3 and reply[1] == identity:
        if reply[0] == 3:
            return _load(function, reply[2])
        if reply[0] == 4 and len(reply) >= 7:
            raise _error(reply)
    if reply[0] == 9:
        raise GoingAway(f"{function.service} ends")
    if reply[0] == 4 and len(reply) >= 7 and reply[1] == 0:
        raise _error(reply)
    raise _broken(f"{function.service} answered what was not asked")


#: What a quick way returns when it did nothing, or nothing that counts.
_NOT_DONE = object()


def call(function: Function, args: Any, kwargs: Any) -> Any:
    """Calls a function that runs elsewhere."""
    if not kwargs:
        quick = function.quick
        if quick is None:
            quick = function.quick = _quick(function)
        if quick:
            result = quick(_pool.idle, args)
            if result is not _NOT_DONE:
                return result
    name = _function.local_caller.get()
    if name is not None:
        return _locally(function, args, kwargs, name[0])
    plain, named = function.signature.convert(args, kwargs, False)
    deadline = _until(function)
    service = function.service
    attempt = 0
    while True:
        idle = _pool.idle.get(service)
        connection = idle.pop() if idle else connect(service, deadline)
        attempt += 1
        usable = False
        try:
            try:
                identity = connection.send_call(function, plain, named, deadline, None)
            except _NotSent as error:
                if attempt < _TURNED_AWAY:
                    sleep(_moment(attempt) if attempt > _IDLE else 0)
                    continue
                raise ConnectionLost(str(error)) from None
            except (SignatureMismatch, TypeError, ValueError):
                usable = True  # nothing was sent
                raise
            leaving = False
            try:
                reply = connection.receive(deadline)
                while reply[0] == 9:
                    # It ends, and answers first what it has.
                    leaving = True
                    reply = connection.receive(deadline)
            except RpcError as error:
                if isinstance(error, ConnectionLost) and function.idempotent and attempt < _ATTEMPTS:
                    continue
                error.may_have_run = True
                raise
            if _not_taken(reply) and attempt < _TURNED_AWAY:
                sleep(_moment(attempt))
                continue
            connection.out_area.free = True
            usable = not leaving and len(reply) > 1 and reply[1] == identity
        finally:
            if usable:
                _keep(connection)
            else:
                connection.close()
        return _result(function, reply, identity)


# The quick way's other ends.


def _quick(function: Function) -> Any:
    plans = function.signature.plans() if COMPILED else None
    if plans is None:
        return False
    signature = function.signature
    here = (_function.deadline_here, _function.traceparent_here)
    variables: tuple[Any, ...] = (_function.local_caller, _function.context, *here)
    traces = (sys.modules, _function.traceparent)
    return Quick(
        function,
        function.service,
        function.name,
        signature.hash,
        plans[0],
        plans[1],
        signature.result.plan,
        function.timeout,
        (*(each.get for each in variables), *traces, _NOT_DONE, _other, _lost, _late, _load),
    )


def _other(function: Function, connection: Connection, identity: int, deadline: float | None, reply: list[Any]) -> Any:
    """The service answered, and not with a result."""
    usable = leaving = False
    try:
        try:
            while reply[0] == 9:
                leaving = True
                reply = connection.receive(deadline)
        except ConnectionLost:
            return _lost(function)
        except DeadlineExceeded:
            return _late(function)
        except RpcError as error:
            error.may_have_run = True
            raise
        if _not_taken(reply):
            return _NOT_DONE
        connection.out_area.free = True
        usable = not leaving and len(reply) > 1 and reply[1] == identity
    finally:
        if usable:
            _keep(connection)
        else:
            connection.close()
    return _result(function, reply, identity)


def _lost(function: Function) -> Any:
    if function.idempotent:
        return _NOT_DONE
    error = ConnectionLost(f"{function.service} ended the connection")
    error.may_have_run = True
    raise error


def _late(function: Function) -> Any:
    error = DeadlineExceeded(f"{function.service} did not answer in time")
    error.may_have_run = True
    raise error


def _load(function: Function, value: Any) -> Any:
    try:
        return function.signature.result.load(value)
    except Exception as error:  # it is not of its type, or the type's own code refuses it
        raise _broken(f"the result of {function.name}: {error}") from None


def stream(function: Function, args: Any, kwargs: Any) -> Any:
    """Calls a generator that runs elsewhere. Arguments are checked at once; it starts with the first item wanted."""
    name = _function.local_caller.get()
    if name is not None:
        return _locally(function, args, kwargs, name[0])
    plain, named = function.signature.convert(args, kwargs, False)
    if function.is_async:
        return _stream_async(function, plain, named)
    return _stream(function, plain, named)


def _item(function: Function, reply: list[Any], identity: int) -> tuple[bool, Any]:
    """(is it the end?, the value)"""
    if len(reply) >= 3 and reply[1] == identity and reply[0] in (5, 6):
        try:
            if reply[0] == 5:
                return False, function.signature.item.load(reply[2])
            return True, function.signature.result.load(reply[2])
        except Exception as error:
            raise _broken(f"an item of {function.name}: {error}") from None
    _result(function, reply, identity)
    raise _broken(f"{function.service} answered a stream with one value")


def _stream(function: Function, args: Any, kwargs: Any) -> Generator[Any, None, Any]:
    deadline = _until(function)
    attempt = 0
    while True:
        idle = _pool.idle.get(function.service)
        connection = idle.pop() if idle else connect(function.service, deadline)
        attempt += 1
        usable = leaving = begun = False
        try:
            try:
                identity = connection.send_call(function, args, kwargs, deadline, _WINDOW)
            except _NotSent as error:
                if attempt < _TURNED_AWAY:
                    sleep(_moment(attempt) if attempt > _IDLE else 0)
                    continue
                raise ConnectionLost(str(error)) from None
            except (SignatureMismatch, TypeError, ValueError):
                usable = True  # nothing was sent
                raise
            had = 0
            while True:
                try:
                    reply = connection.receive(deadline)
                except RpcError as error:
                    error.may_have_run = True
                    raise
                connection.out_area.free = True
                if reply[0] == 9:
                    leaving = True
                    continue
                if not begun and _not_taken(reply) and attempt < _TURNED_AWAY:
                    sleep(_moment(attempt))
                    break
                begun = True
                end, value = _item(function, reply, identity)
                if end:
                    usable = not leaving
                    return value
                yield value
                had += 1
                if had == _WINDOW // 2:
                    _give_credit(connection, identity, had)
                    had = 0
        finally:
            if usable:
                _keep(connection)
            else:
                connection.close()


def _give_credit(connection: Connection, identity: int, more: int) -> None:
    try:
        connection.sock.send(pack([7, identity, more, connection.kept.read]))
    except OSError:
        pass  # the next receive says what is the matter


# The same for asyncio.


async def _wait(sock: socket.socket, deadline: float | None) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, lambda: None if ready.done() else ready.set_result(None))
    try:
        if deadline is None:
            await ready
        else:
            await asyncio.wait_for(ready, max(0.0, deadline - monotonic()))
    except asyncio.TimeoutError:
        raise DeadlineExceeded("no answer in time") from None
    finally:
        loop.remove_reader(sock)


async def _receive_async(connection: Connection, deadline: float | None) -> list[Any]:
    while True:
        await _wait(connection.sock, deadline)
        try:
            data, fds = receive(connection.sock, DONTWAIT)
        except BlockingIOError:
            continue
        except OSError:
            data, fds = b"", []
        return connection.decode(data, fds)


async def _connect_async(service: str, deadline: float | None) -> Connection:
    import asyncio

    for attempt in range(_CONNECTS):
        sock, path = _new(service)
        connection = Connection(service, sock)
        try:
            sock.setblocking(False)
            while True:
                try:
                    sock.connect(path)
                    break
                except BlockingIOError:  # as many wait to be accepted as may
                    if deadline is not None and monotonic() > deadline:
                        raise DeadlineExceeded(f"{service} accepts no connection in time") from None
                    await asyncio.sleep(0.01)
            sock.setblocking(True)
            connection.hello(await _receive_async(connection, deadline))
            return connection
        except ConnectionLost:
            connection.close()
            if attempt + 1 == _CONNECTS:
                raise
            await asyncio.sleep(_moment(attempt + 1))
        except OSError as error:
            connection.close()
            if isinstance(error, RpcError):
                raise
            raise _not_there(service, path, error) from None
        except BaseException:
            connection.close()
            raise
    raise AssertionError


async def call_async(function: Function, args: Any, kwargs: Any) -> Any:
    """Calls a coroutine that runs elsewhere."""
    import asyncio

    name = _function.local_caller.get()
    if name is not None:
        return await _locally_async(function, args, kwargs, name[0])
    plain, named = function.signature.convert(args, kwargs, False)
    deadline = _until(function)
    service = function.service
    attempt = 0
    while True:
        idle = _pool.idle.get(service)
        connection = idle.pop() if idle else await _connect_async(service, deadline)
        attempt += 1
        usable = False
        try:
            try:
                identity = connection.send_call(function, plain, named, deadline, None)
            except _NotSent as error:
                if attempt < _TURNED_AWAY:
                    await asyncio.sleep(_moment(attempt) if attempt > _IDLE else 0)
                    continue
                raise ConnectionLost(str(error)) from None
            except (SignatureMismatch, TypeError, ValueError):
                usable = True  # nothing was sent
                raise
            leaving = False
            try:
                reply = await _receive_async(connection, deadline)
                while reply[0] == 9:
                    # It ends, and answers first what it has.
                    leaving = True
                    reply = await _receive_async(connection, deadline)
            except RpcError as error:
                if isinstance(error, ConnectionLost) and function.idempotent and attempt < _ATTEMPTS:
                    continue
                error.may_have_run = True
                raise
            if _not_taken(reply) and attempt < _TURNED_AWAY:
                await asyncio.sleep(_moment(attempt))
                continue
            connection.out_area.free = True
            usable = not leaving and len(reply) > 1 and reply[1] == identity
        finally:
            if usable:
                _keep(connection)
            else:
                connection.close()
        return _result(function, reply, identity)


async def _stream_async(function: Function, args: Any, kwargs: Any) -> AsyncIterator[Any]:
    import asyncio

    deadline = _until(function)
    attempt = 0
    while True:
        connection = await _connect_async(function.service, deadline)
        attempt += 1
        usable = leaving = begun = False
        try:
            try:
                identity = connection.send_call(function, args, kwargs, deadline, _WINDOW)
            except _NotSent as error:
                if attempt < _TURNED_AWAY:
                    await asyncio.sleep(_moment(attempt) if attempt > _IDLE else 0)
                    continue
                raise ConnectionLost(str(error)) from None
            had = 0
            while True:
                try:
                    reply = await _receive_async(connection, deadline)
                except RpcError as error:
                    error.may_have_run = True
                    raise
                connection.out_area.free = True
                if reply[0] == 9:
                    leaving = True
                    continue
                if not begun and _not_taken(reply) and attempt < _TURNED_AWAY:
                    await asyncio.sleep(_moment(attempt))
                    break
                begun = True
                end, value = _item(function, reply, identity)
                if end:
                    usable = not leaving
                    return
                yield value
                had += 1
                if had == _WINDOW // 2:
                    _give_credit(connection, identity, had)
                    had = 0
        finally:
            if usable:
                _keep(connection)
            else:
                connection.close()


# Calls within this process, for tests.


def _through(value: Any) -> Any:
    """There and back over the wire, so that a test finds what could not cross."""
    message = seal([0x7F, value])
    try:
        return open_message(message.data, [os.dup(fd) for fd in message.fds], Kept())[1]
    finally:
        message.close()


def _arrived(function: Function, args: Any, kwargs: Any, name: str | None) -> tuple[Any, Any, Any]:
    signature = function.signature
    plain, named = signature.convert(args, kwargs, False)
    plain, named = signature.convert(_through(plain), _through(named), True)
    return plain, named, _function.Context(name, _until(function), _function.traceparent())


def _locally(function: Function, args: Any, kwargs: Any, name: str | None) -> Any:
    plain, named, current = _arrived(function, args, kwargs, name)
    signature = function.signature
    if function.is_stream:
        return function.run(*plain, **named)
    token = _function.enter(current)
    try:
        result = function.run(*plain, **named)
        return signature.result.load(_through(signature.result.dump(result)))
    finally:
        _function.leave(token)


async def _locally_async(function: Function, args: Any, kwargs: Any, name: str | None) -> Any:
    plain, named, current = _arrived(function, args, kwargs, name)
    signature = function.signature
    token = _function.enter(current)
    try:
        result = await function.run(*plain, **named)
        return signature.result.load(_through(signature.result.dump(result)))
    finally:
        _function.leave(token)


__all__ = ["BLOB", "call", "call_async", "close_connections", "connect", "path_of", "receive", "stream", "transmit"]


def describe(service: str) -> list[dict[str, Any]]:
    """What every service answers of its functions."""

    def pysecure_describe() -> list[dict[str, Any]]:
        raise NotImplementedError

    function = Function(pysecure_describe, service, True, 60.0, None)
    function.name = "pysecure.describe"
    answer: list[dict[str, Any]] = call(function, (), {})
    return answer
