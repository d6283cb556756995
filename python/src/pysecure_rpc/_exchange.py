"""One call, from its first try to its last answer, without doing any input or output itself.

An `Exchange` says what is to be done next (connect, receive, sleep), and is told what came of it; `_client.py` does that,
blocking or in asyncio. So calls and streams of both kinds follow one rule of what is tried again:

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

from . import _context, _messages, _version
from ._connection import IDLE, Connection, NotSent, as_exception, give_back, not_there, take
from ._errors import ConnectionLost, ProtocolError, RpcError, SignatureMismatch

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


class Item(NamedTuple):
    """A stream's next item, for whoever reads it."""

    value: Any


class Done(NamedTuple):
    """The call's result, or what a stream's generator returned."""

    value: Any


Action = Union[Connect, Receive, Sleep, Item]
if TYPE_CHECKING:
    Steps = Generator[Action, Any, Any]


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


class Exchange:
    """What is to be done next, one action after the other."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def first(self) -> Action | Done:
        """The first action."""
        return self.done(None)

    def done(self, outcome: Any) -> Action | Done:
        """The last action came to this: the next."""
        try:
            return self._steps.send(outcome)
        except StopIteration as end:
            return Done(end.value)

    def failed(self, error: BaseException) -> Action | Done:
        """The last action failed: the next, if there is one."""
        try:
            return self._steps.throw(error)
        except StopIteration as end:
            return Done(end.value)

    def close(self) -> None:
        """Nobody wants the rest: what is open at the service is cancelled."""
        self._steps.close()


def begin(function: Function, args: Any, kwargs: Any, sent: int = 0) -> Exchange:
    """A call with these arguments, as they are on the wire; it was sent so often already, and not answered."""
    return Exchange(_call(function, args, kwargs, sent))


def go_on(function: Function, connection: Connection, identity: int, deadline: float | None, reply: list[Any]) -> Exchange:
    """A call that the core sent, and to which this was answered first. Raises `NotTaken` and `Unanswered`."""
    return Exchange(_answers(function, connection, identity, deadline, reply))


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


def _call(function: Function, args: Any, kwargs: Any, sent: int) -> Steps:
    deadline = until(function)
    not_taken = 0
    while True:
        connection = take(function.service)
        if connection is None:
            connection = yield from _connected(function.service, deadline)
        try:
            identity = _sent(function, connection, args, kwargs, deadline)
            return (yield from _answers(function, connection, identity, deadline))
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


def _connected(service: str, deadline: float | None) -> Steps:
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


def _answers(
    function: Function, connection: Connection, identity: int, deadline: float | None, first: list[Any] | None = None
) -> Steps:
    """What comes in answer to a call that was sent: the items that its stream brings, and at last its value."""
    kinds = _KINDS[function.is_stream]
    usable = answered = leaving = False
    had = 0
    wait = Receive(connection, deadline)
    message = first
    try:
        while True:
            try:
                if message is None:
                    message = yield wait
                reply = _messages.parse_answer(message)
            except RpcError as error:
                error.may_have_run = True
                if isinstance(error, ConnectionLost) and not answered:
                    raise Unanswered(error) from None
                raise
            message = None
            if isinstance(reply, _messages.GoAway):
                # It ends, and answers first what it has.
                leaving = True
                continue
            if isinstance(reply, _messages.Err) and not answered and reply.turned_away:
                raise NotTaken(as_exception(reply))
            answered = True
            connection.out_area.free = True
            if isinstance(reply, _messages.Err) and reply.identity in (identity, 0):
                usable = reply.identity == identity and not leaving
                raise as_exception(reply)
            if not isinstance(reply, _messages.Value) or reply.identity != identity or reply.kind not in kinds:
                raise _broken(f"{function.service} answered what was not asked")
            if reply.kind != _messages.ITEM:
                usable = not leaving
                return load(function, reply.value)
            yield Item(_item(function, reply.value))
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
_KINDS = {False: (_messages.OK,), True: (_messages.ITEM, _messages.END)}


def _item(function: Function, value: Any) -> Any:
    try:
        return function.signature.item.load(value)
    except Exception as error:
        raise _broken(f"an item of {function.name}: {error}") from None


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
