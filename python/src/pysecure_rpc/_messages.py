"""The messages of docs/reference/rpc-protocol.md as functions that make them and types that they are read as.

No other file knows at which place of a message an element stands.
"""
# What came over the wire is of no known type until it has been looked at here.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from enum import IntEnum
from typing import Any, Callable, NamedTuple

from ._errors import ProtocolError

VERSION = 1
#: The highest number of a call.
_LAST_ID = 1 << 53
#: The most items that a stream may be allowed at once, and the most that `read` and `deadline` can say.
_MOST_CREDIT, _MOST_NUMBER = 1 << 31, (1 << 64) - 1
#: Characters of a text that says what went wrong.
MOST_TEXT = 2000


class Kind(IntEnum):
    """The first element of a message."""

    LARGE = 0
    HELLO = 1
    CALL = 2
    OK = 3
    ERR = 4
    ITEM = 5
    END = 6
    CREDIT = 7
    CANCEL = 8
    GOAWAY = 9


# As plain integers: that is what is written, and what comes.
LARGE, HELLO, CALL, OK, ERR, ITEM, END, CREDIT, CANCEL, GOAWAY = (int(kind) for kind in Kind)
_VALUES = (OK, ITEM, END)

#: A message, as it is written and read.
Message = list[Any]


def hello(service: str, caller: str | None, functions: dict[str, int]) -> Message:
    """The service's first message. `functions`: the signatures' hashes of those that this caller may call."""
    return [HELLO, VERSION, service, caller, functions]


def call(
    identity: int,
    function: str,
    args: Any,
    kwargs: dict[str, Any],
    left: int | None,
    trace: str | None,
    read: int,
    credit: int | None,
) -> Message:
    """A CALL with `left` milliseconds until its deadline."""
    return [CALL, identity, function, args, kwargs, left, trace, read, credit]


def ok(identity: int, value: Any) -> Message:
    """The result of a call."""
    return [OK, identity, value]


def err(
    identity: int,
    class_name: str,
    text: str,
    args: list[Any] | None = None,
    traceback: str | None = None,
    *,
    ran: bool,
) -> Message:
    """The exception that a call ended with; 0 is for the connection."""
    return [ERR, identity, class_name, text[:MOST_TEXT], args or [], traceback, ran]


def item(identity: int, value: Any) -> Message:
    """One item of a stream."""
    return [ITEM, identity, value]


def end(identity: int, value: Any) -> Message:
    """The end of a stream, and what its generator returned."""
    return [END, identity, value]


def credit(identity: int, more: int, read: int) -> Message:
    """The service may send so many items more."""
    return [CREDIT, identity, more, read]


def cancel(identity: int) -> Message:
    """The caller wants no answer of this call."""
    return [CANCEL, identity]


def goaway(reason: str) -> Message:
    """The service ends."""
    return [GOAWAY, reason]


# What callers are sent.


class Hello(NamedTuple):
    """A service's greeting."""

    version: int
    service: str
    caller: str | None
    functions: dict[str, int]


class Err(NamedTuple):
    """How a call failed."""

    identity: int
    class_name: str
    message: str
    args: list[Any]
    traceback: str | None
    ran: bool

    @property
    def turned_away(self) -> bool:
        """Was the call refused only because the service is about to end?"""
        return self.class_name == "pysecure.GoingAway" and not self.ran


class Value(NamedTuple):
    """What a call, or a stream so far, came to: an OK, an ITEM or an END."""

    kind: int
    identity: int
    value: Any


#: What `Value(...)` comes to, without a function of Python's in between: one is made of most messages.
_value: Callable[[type[Value], tuple[int, int, Any]], Value] = tuple.__new__  # pyright: ignore[reportUnknownMemberType]


class GoAway(NamedTuple):
    """The service ends, and answers first what it has."""

    reason: str


def parse_answer(parts: Message) -> Hello | Err | Value | GoAway:
    """What a service sent, as `open_message` gives it."""
    kind = parts[0]
    if kind in _VALUES:
        if len(parts) < 3 or type(parts[1]) is not int or not 0 < parts[1] <= _LAST_ID:
            raise ProtocolError("a value of no call")
        return _value(Value, (kind, parts[1], parts[2]))
    if kind == ERR:
        return _parse_err(parts)
    if kind == HELLO:
        return _parse_hello(parts)
    if kind == GOAWAY and len(parts) > 1 and type(parts[1]) is str:
        return GoAway(parts[1])
    raise ProtocolError("a message that services do not send")


def _parse_err(parts: Message) -> Err:
    identity, name, text, args, traceback, ran = (parts[1:] + [None] * 6)[:6]
    if (
        type(identity) is not int
        or not 0 <= identity <= _LAST_ID
        or type(name) is not str
        or type(text) is not str
        or type(args) is not list
        or (traceback is not None and type(traceback) is not str)
        or type(ran) is not bool
    ):
        raise ProtocolError("an ERR of wrong types")
    return Err(identity, name, text, args, traceback, ran)


def _parse_hello(parts: Message) -> Hello:
    version, service, caller, functions = (parts[1:] + [None] * 4)[:4]
    if version != VERSION:
        raise ProtocolError(f"another version of the protocol than this side speaks, which is {VERSION}")
    if (
        type(service) is not str
        or (caller is not None and type(caller) is not str)
        or type(functions) is not dict
        or not all(type(name) is str and type(of) is int for name, of in functions.items())
    ):
        raise ProtocolError("a HELLO of wrong types")
    return Hello(version, service, caller, functions)


# What services are sent.


class Call(NamedTuple):
    """What a caller asks for. `function` is one that it may call, unless the rest is None: that was not even decoded."""

    identity: int
    function: str
    args: list[Any] | None
    kwargs: dict[str, Any]
    left: int | None
    trace: str | None
    read: int | None
    credit: int


class Credit(NamedTuple):
    """A stream's reader allows more items."""

    identity: int
    more: int
    read: int | None


class Cancel(NamedTuple):
    """A call is not wanted any more."""

    identity: int


def parse(parts: Message) -> Call | Credit | Cancel:
    """What a caller sent, as `open_call` gives it."""
    kind = parts[0]
    if kind == CALL:
        return _parse_call(parts)
    if kind not in (CREDIT, CANCEL):
        raise ProtocolError("a message of a kind that callers do not send")
    identity = parts[1] if len(parts) > 1 else None
    if type(identity) is not int or not 0 < identity <= _LAST_ID:
        raise ProtocolError("a message without the number of its call")
    if kind == CANCEL:
        return Cancel(identity)
    more = parts[2] if len(parts) > 2 else None
    if type(more) is not int or not 0 < more <= _MOST_CREDIT:
        raise ProtocolError("a CREDIT without a count")
    return Credit(identity, more, _parse_read(parts[3] if len(parts) > 3 else None))


def _parse_call(parts: Message) -> Call:
    if len(parts) == 3:
        if not is_whole(parts[2]):
            raise ProtocolError("a CALL of wrong types")
        return Call(parts[1], parts[2], None, {}, None, None, None, 0)
    _, identity, name, args, kwargs, left, trace, read, more = (parts + [None] * 9)[:9]
    if (
        type(identity) is not int
        or not 0 < identity <= _LAST_ID
        or type(name) is not str
        or type(args) is not list
        or type(kwargs) is not dict
        or not all(type(key) is str for key in kwargs)
        or (left is not None and (type(left) is not int or not 0 <= left <= _MOST_NUMBER))
        or (trace is not None and (type(trace) is not str or not is_whole(trace)))
        or (more is not None and (type(more) is not int or not 0 <= more <= _MOST_CREDIT))
    ):
        raise ProtocolError("a CALL of wrong types")
    return Call(identity, name, args, kwargs, left, trace, _parse_read(read), 1 if more is None else more)


def _parse_read(read: Any) -> int | None:
    if read is not None and (type(read) is not int or not 0 <= read <= _MOST_NUMBER):
        raise ProtocolError("`read` is no number")
    return read


def is_whole(text: str) -> bool:
    """Is it text without halves of characters (lone surrogates), as the wire has it?"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
