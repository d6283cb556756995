"""One call, from its first try to its last answer, without doing any input or output itself.

An exchange is a generator. It yields what is to be done next (connect, receive, sleep), and is sent what came of it, or has
thrown in why it failed; what it returns is the call's result, or what a stream's generator returned. To close it cancels what is
open at the service. `_client.py` drives it, blocking or in asyncio. So calls and streams of both kinds follow one rule of what is
tried again:

- A call that was certainly not begun is made again whatever its function, at most `_NOT_TAKEN` times: its connection had ended
  before it was sent, or the service answered that it ends. The first few times at once, for a service that was restarted
  leaves as many dead connections idle; then after a wait that doubles.
- A call that was sent, and whose connection ended before anything was answered, is made again only if its function is
  idempotent, at most `_SENDS` times in all. So is a stream, until it has brought something.
- A connection that ended before its greeting is made again at most `_CONNECTS` times.
"""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from . import _context, _version
from ._connection import IDLE, Connection, NotSent, as_exception, give_back, not_there, take
from ._errors import ConnectionLost, ProtocolError, RpcError, SignatureMismatch
from ._messages import END, ITEM, OK, Err, GoAway, Value, parse_answer

if TYPE_CHECKING:
    from collections.abc import Generator

    from ._function import Function

_SENDS, _CONNECTS, _NOT_TAKEN = 5, 16, 50
#: Items of a stream that may be on their way.
_WINDOW = 16


class Connect(NamedTuple):
    """Connect to the service, until the deadline at most."""

    connection: Connection
    deadline: float | None


class Receive(NamedTuple):
    """Receive a message, until the deadline at most."""

    connection: Connection
    deadline: float | None


class Sleep(NamedTuple):
    """Wait before it is tried anew."""

    seconds: float


class Item:
    """A stream's next item, for whoever reads it. An exchange has one of these, which is good until it goes on."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None


Action = Union[Connect, Receive, Sleep, Item]
if TYPE_CHECKING:
    Exchange = Generator[Action, Any, Any]


class NotTaken(Exception):
    """The call was certainly not begun. `error` is what to raise if it is not made again."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Unanswered(Exception):
    """The call was sent, and its connection ended before anything was answered."""

    def __init__(self, error: ConnectionLost) -> None:
        super().__init__(error)
        self.error = error


def until(function: Function) -> float | None:
    """The deadline of a call of this function that is made now."""
    outer = _context.until()
    if function.timeout is None or function.is_stream:
        return outer
    own = monotonic() + function.timeout
    return own if outer is None or own < outer else outer


def load(function: Function, value: Any) -> Any:
    """A result as the function's hints have it."""
    try:
        return function.signature.result.load(value)
    except Exception as error:  # it is not of its type, or the type's own code refuses it
        raise _broken(f"the result of {function.name}: {error}") from None


def call(function: Function, args: Any, kwargs: Any, sent: int = 0) -> Exchange:
    """A call with these arguments, as they are on the wire; it was sent so often already, and not answered."""
    deadline = until(function)
    not_taken = 0
    while True:
        connection = take(function.service)
        if connection is None:
            connection = yield from _connected(function.service, deadline)
        try:
            identity = _sent(function, connection, args, kwargs, deadline)
            return (yield from answers(function, connection, identity, deadline))
        except NotTaken as refusal:
            not_taken += 1
            if not_taken == _NOT_TAKEN:
                raise refusal.error from None
        except Unanswered as lost:
            sent += 1
            if not function.idempotent or sent == _SENDS:
                raise lost.error from None
        yield Sleep(_pause(not_taken - IDLE))


def _pause(times: int) -> float:
    """How long to wait before it is tried anew, after so many times."""
    return 0.0 if times <= 0 else min(0.1, 0.001 * (1 << times))


def _connected(service: str, deadline: float | None) -> Exchange:
    """A greeted connection. While the service is down, its supervisor holds the socket, and this waits."""
    _version.compare()
    for attempt in range(1, _CONNECTS + 1):
        connection = Connection(service)
        try:
            yield Connect(connection, deadline)
            connection.greeted((yield Receive(connection, deadline)))
            return connection
        except ConnectionLost:
            # It ended between accepting and greeting.
            connection.close()
            if attempt == _CONNECTS:
                raise
        except OSError as error:
            connection.close()
            if isinstance(error, RpcError):
                raise
            raise not_there(service, error) from None
        except BaseException:
            connection.close()
            raise
        yield Sleep(_pause(attempt))
    raise AssertionError


def _sent(function: Function, connection: Connection, args: Any, kwargs: Any, deadline: float | None) -> int:
    try:
        return connection.send_call(function, args, kwargs, deadline, _WINDOW if function.is_stream else None)
    except NotSent as gone:
        connection.close()
        raise NotTaken(ConnectionLost(str(gone))) from None
    except (SignatureMismatch, TypeError, ValueError):
        give_back(connection)  # nothing was sent
        raise
    except BaseException:
        connection.close()
        raise


def answers(
    function: Function, connection: Connection, identity: int, deadline: float | None, first: list[Any] | None = None
) -> Exchange:
    """What comes in answer to a call that was sent: the items that its stream brings, and at last its value. `first`: what the
    core received already. Raises `NotTaken` and `Unanswered`."""
    kinds = _KINDS[function.is_stream]
    usable = answered = leaving = False
    had = 0
    wait, item = Receive(connection, deadline), Item()
    load_item = function.signature.item.load
    message = first
    try:
        while True:
            try:
                reply = parse_answer((yield wait) if message is None else message)
            except RpcError as error:
                error.may_have_run = True
                if isinstance(error, ConnectionLost) and not answered:
                    raise Unanswered(error) from None
                raise
            message = None
            if isinstance(reply, GoAway):
                # It ends, and answers first what it has.
                leaving = True
                continue
            if isinstance(reply, Err) and not answered and reply.turned_away:
                raise NotTaken(as_exception(reply))
            answered = True
            connection.out_area.free = True
            if isinstance(reply, Err) and reply.identity in (identity, 0):
                usable = reply.identity == identity and not leaving
                raise as_exception(reply)
            if not isinstance(reply, Value) or reply.identity != identity or reply.kind not in kinds:
                raise _broken(f"{function.service} answered what was not asked")
            if reply.kind != ITEM:
                usable = not leaving
                return load(function, reply.value)
            try:
                item.value = load_item(reply.value)
            except Exception as error:
                raise _broken(f"an item of {function.name}: {error}") from None
            yield item
            had += 1
            if had == _WINDOW // 2:
                connection.send_credit(identity, had)
                had = 0
    finally:
        if usable:
            give_back(connection)
        else:
            connection.close()


#: What a call is answered with, and what a stream is, but for ERR.
_KINDS = {False: (OK,), True: (ITEM, END)}


def _broken(text: str) -> ProtocolError:
    """What came in answer to a call is malformed: its function may have run."""
    error = ProtocolError(text)
    error.may_have_run = True
    return error


def lost(function: Function) -> ConnectionLost:
    """What it is that a call was not answered."""
    error = ConnectionLost(f"{function.service} ended the connection")
    error.may_have_run = True
    return error
