"""MessagePack as docs/reference/rpc-protocol.md has it: plain values to bytes and back, in plain Python. It is for where the compiled core is
not, and is written to be simple.

Nothing here knows of functions or hints, and nothing here can make anything but plain values. Every length is held
against what is there before memory is taken for it.
"""
# Values are of no known type here until they have been looked at, and what a list or dict holds not even then.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false

from __future__ import annotations

import os
import struct
import sys
from typing import Any, Callable, Protocol

from ._crowd import FEW, crowd
from ._errors import ProtocolError, TooLarge
from ._values import Fd, Member

#: The most bytes of a message, as the app's manifest says.
MAX_LARGE = int(os.environ.get("PYSECURE_RPC_MAX_MESSAGE") or 64 * 1024 * 1024)
MAX_DEPTH = 64
MAX_VALUES = 1_000_000
#: More bytes than this go through a memfd, where there can be one.
BLOB = 16 * 1024

BIG_INT, TUPLE, SET, FROZENSET, DATETIME, DATE, TIME, TIMEDELTA = 1, 2, 3, 4, 5, 6, 7, 8
DECIMAL, UUID, COMPLEX, MEMBER, SURROGATES, MEMFD, DESCRIPTOR = 9, 10, 11, 12, 13, 20, 21

#: Numbers in their shortest form: the first byte, how the rest is packed, the least and the most.
_INTS = (
    (0xCC, ">B", 0, (1 << 8) - 1),
    (0xCD, ">H", 0, (1 << 16) - 1),
    (0xCE, ">I", 0, (1 << 32) - 1),
    (0xCF, ">Q", 0, (1 << 64) - 1),
    (0xD0, ">b", -(1 << 7), -1),
    (0xD1, ">h", -(1 << 15), -1),
    (0xD2, ">i", -(1 << 31), -1),
    (0xD3, ">q", -(1 << 63), -1),
)
_NUMBERS = {first: form for first, form, _, _ in _INTS} | {0xCA: ">f", 0xCB: ">d"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _Form:
    """How a length is written: within the first byte, below `most`, or behind one of these, in 1, 2 or 4 bytes."""

    def __init__(self, small: int, most: int, one: int | None, two: int, four: int) -> None:
        self.small, self.most, self.one, self.two, self.four = small, most, one, two, four


STR = _Form(0xA0, 32, 0xD9, 0xDA, 0xDB)
_BIN = _Form(0, 0, 0xC4, 0xC5, 0xC6)
ARRAY = _Form(0x90, 16, None, 0xDC, 0xDD)
_MAP = _Form(0x80, 16, None, 0xDE, 0xDF)
_EXT = _Form(0, 0, 0xC7, 0xC8, 0xC9)
_FIXED_EXT = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}
#: What follows a length, and how that is read, by the first byte.
_SIZED = {
    first: (form, packed)
    for form in (STR, _BIN, ARRAY, _MAP, _EXT)
    for first, packed in ((form.one, ">B"), (form.two, ">H"), (form.four, ">I"))
    if first is not None
}


# Writing.


class Out(bytearray):
    """A message that is written, and how many values are in its containers so far."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        super().__init__()
        self.values = 0


class Attachments(Protocol):
    """What goes along with a message that is written."""

    def blob(self, out: Out, data: Any) -> None:
        """Large bytes, which are referred to in the message or stand in it."""
        ...

    def add(self, fd: int) -> int:
        """A descriptor: its number in the message."""
        ...


_Packer = Callable[[Out, Any, int, "Attachments | None"], None]


def _pack_none(out: Out, _v: Any, _depth: int, _to: Attachments | None) -> None:
    out.append(0xC0)


def _pack_bool(out: Out, v: Any, _depth: int, _to: Attachments | None) -> None:
    out.append(0xC3 if v else 0xC2)


def _pack_int(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    if -0x20 <= v < 0x80:
        out.append(v & 0xFF)
        return
    for first, form, least, most in _INTS:
        if least <= v <= most:
            out.append(first)
            out += struct.pack(form, v)
            return
    size = (v if v >= 0 else v + 1).bit_length() // 8 + 1
    ext(out, BIG_INT, v.to_bytes(size, "big", signed=True), depth)


def _pack_float(out: Out, v: Any, _depth: int, _to: Attachments | None) -> None:
    out.append(0xCB)
    out += struct.pack(">d", v)


def _pack_str(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    try:
        data = v.encode()
    except UnicodeEncodeError:
        ext(out, SURROGATES, v.encode("utf-8", "surrogatepass"), depth)
        return
    _length(out, STR, len(data))
    out += data


def _pack_bytes(out: Out, v: Any, depth: int, to: Attachments | None) -> None:
    # A reference to a memfd is an extension with an array in it.
    if len(v) > BLOB and to is not None and depth + 1 < MAX_DEPTH:
        to.blob(out, v)
    else:
        pack_bin(out, v)


def pack_bin(out: Out, v: Any) -> None:
    """Bytes that stand in the message."""
    _length(out, _BIN, len(v))
    out += v


def _length(out: Out, form: _Form, size: int) -> None:
    if size < form.most:
        out.append(form.small | size)
    elif form.one is not None and size < 0x100:
        out += bytes((form.one, size))
    elif size < 0x10000:
        out.append(form.two)
        out += struct.pack(">H", size)
    elif len(out) + size > MAX_LARGE:
        raise TooLarge(f"a message of more than {MAX_LARGE} bytes")
    else:
        out.append(form.four)
        out += struct.pack(">I", size)


def pack_array(out: Out, v: Any, depth: int, to: Attachments | None) -> None:
    """A list, or what else has a length and is iterated over."""
    _check_depth(depth)
    out.values += len(v)
    _length(out, ARRAY, len(v))
    for item in v:
        _packer(item)(out, item, depth + 1, to)


def _pack_map(out: Out, v: Any, depth: int, to: Attachments | None) -> None:
    _check_depth(depth)
    out.values += 2 * len(v)
    _length(out, _MAP, len(v))
    for key, item in v.items():
        # A key is never in a memfd: two of them could be equal without looking so.
        _packer(key)(out, key, depth + 1, None)
        _packer(item)(out, item, depth + 1, to)


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise TooLarge(f"values nested more than {MAX_DEPTH} deep")


def _nested(kind: int) -> _Packer:
    def pack_nested(out: Out, v: Any, depth: int, to: Attachments | None) -> None:
        body = Out()
        pack_array(body, v, depth + 1, to)
        ext(out, kind, body, depth, 1 + body.values)

    return pack_nested


def ext(out: Out, kind: int, data: Any, depth: int, inside: int = 0) -> None:
    """An extension. `inside`: how many values its data are."""
    out.values += inside
    _check_depth(depth)
    fixed = _FIXED_EXT.get(len(data))
    if fixed is not None:
        out.append(fixed)
    else:
        _length(out, _EXT, len(data))
    out.append(kind)
    out += data


def _pack_complex(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    ext(out, COMPLEX, struct.pack(">dd", v.real, v.imag), depth)


def _pack_member(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    ext(out, MEMBER, pack(v.name), depth, 1)


def _pack_fd(out: Out, v: Any, depth: int, to: Attachments | None) -> None:
    if to is None:
        raise TypeError("a descriptor cannot cross here")
    ext(out, DESCRIPTOR, pack([to.add(v.fileno())]), depth + 1, 2)


def _offset(v: Any) -> int | None:
    offset = v.utcoffset()
    if offset is None:
        return None
    return (offset.days * 86_400 + offset.seconds) * 1_000_000 + offset.microseconds  # type: ignore[no-any-return]


def _pack_datetime(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    parts = [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, _offset(v), v.fold]
    ext(out, DATETIME, pack(parts), depth + 1, 10)


def _pack_date(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    ext(out, DATE, pack([v.year, v.month, v.day]), depth + 1, 4)


def _pack_time(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    ext(out, TIME, pack([v.hour, v.minute, v.second, v.microsecond, _offset(v), v.fold]), depth + 1, 7)


def _pack_timedelta(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    ext(out, TIMEDELTA, pack([v.days, v.seconds, v.microseconds]), depth + 1, 4)


def _pack_decimal(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    ext(out, DECIMAL, str(v).encode(), depth)


def _pack_uuid(out: Out, v: Any, depth: int, _to: Attachments | None) -> None:
    ext(out, UUID, v.bytes, depth)


_PACKERS: dict[type, _Packer] = {
    type(None): _pack_none,
    bool: _pack_bool,
    int: _pack_int,
    float: _pack_float,
    str: _pack_str,
    bytes: _pack_bytes,
    bytearray: _pack_bytes,
    list: pack_array,
    dict: _pack_map,
    tuple: _nested(TUPLE),
    set: _nested(SET),
    frozenset: _nested(FROZENSET),
    complex: _pack_complex,
    Member: _pack_member,
    Fd: _pack_fd,
}

# Classes of modules that are only loaded if the program uses them.
_LATE: dict[tuple[str, str], _Packer] = {
    ("datetime", "datetime"): _pack_datetime,
    ("datetime", "date"): _pack_date,
    ("datetime", "time"): _pack_time,
    ("datetime", "timedelta"): _pack_timedelta,
    ("decimal", "Decimal"): _pack_decimal,
    ("uuid", "UUID"): _pack_uuid,
}


def _packer(value: Any) -> _Packer:
    cls = type(value)
    known = _PACKERS.get(cls)
    if known is not None:
        return known
    for (module, name), packer in _LATE.items():
        if getattr(sys.modules.get(module), name, None) is cls:
            return packer
    if hasattr(cls, "__members__"):
        if isinstance(value, int):
            return lambda out, v, depth, to: _pack_int(out, int(v), depth, to)
        raise TypeError(f"{value!r} needs a hint: a member of an enumeration crosses by the function's hints")
    if hasattr(cls, "__dataclass_fields__"):
        raise TypeError(f"{cls.__qualname__} needs a hint: a dataclass crosses by the function's hints")
    # A subclass of a plain type crosses as what it is at heart, such as a template engine's "safe" string.
    for base in (str, int, float, bytes):
        if isinstance(value, base):
            return lambda out, v, depth, to: _PACKERS[base](out, base(v), depth, to)
    raise TypeError(f"a value of type {cls.__qualname__} cannot cross")


def pack(value: Any, to: Attachments | None = None) -> bytes:
    """One value as MessagePack."""
    out = Out()
    _packer(value)(out, value, 0, to)
    return bytes(out)


# Reading.


class Attached(Protocol):
    """What came along with a message that is read."""

    def blob(self, parts: Any) -> bytes:
        """The bytes that a reference to a memfd is of."""
        ...

    def descriptor(self, parts: Any) -> Fd:
        """The descriptor that a reference is of."""
        ...


class Reader:
    """Reads one message. Every method leaves `pos` behind what it has read."""

    def __init__(self, buf: bytes, given: Attached | None = None) -> None:
        self.buf = buf
        self.pos = 0
        self.end = len(buf)
        #: The message itself is one.
        self.left = MAX_VALUES - 1
        self.given = given

    def whole(self) -> Any:
        """The one value that these bytes are."""
        value = self.value(0)
        if self.pos != self.end:
            raise ProtocolError("something stands after a message's end")
        return value

    def take(self, size: int) -> bytes:
        """So many bytes."""
        end = self.pos + size
        if end > self.end:
            raise ProtocolError("a message ends too soon")
        data = self.buf[self.pos : end]
        self.pos = end
        return data

    def number(self, form: str) -> Any:
        """One in this form of `struct`'s."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def next(self) -> int:
        """The next value's first byte, which is not taken yet; -1 at the end."""
        return self.buf[self.pos] if self.pos < self.end else -1

    def an_integer(self) -> bool:
        """Is that what comes next?"""
        first = self.next()
        if 0xC7 <= first <= 0xC9 or 0xD4 <= first <= 0xD8:
            kind = self.pos + (1 if first >= 0xD4 else 2 if first == 0xC7 else 3 if first == 0xC8 else 5)
            return kind < self.end and self.buf[kind] == BIG_INT
        return 0 <= first < 0x80 or first >= 0xE0 or 0xCC <= first <= 0xD3

    def length(self, wanted: _Form) -> int | None:
        """The length of a value of this form, if that is what comes next."""
        first = self.next()
        if wanted.small <= first < wanted.small + wanted.most:
            self.take(1)
            return first - wanted.small
        form, packed = _SIZED.get(first, (None, ""))
        if form is not wanted:
            return None
        self.take(1)
        many: int = self.number(packed)
        return many

    def value(self, depth: int) -> Any:
        """Whatever comes next."""
        for form, read in _READ:
            size = self.length(form)
            if size is not None:
                return read(self, size, depth)
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _NUMBERS:
            return self.number(_NUMBERS[first])
        if 0xD4 <= first <= 0xD8:
            return self.extension(1 << (first - 0xD4), depth)
        raise ProtocolError(f"0x{first:02x} begins no value")

    def text(self, size: int, _depth: int = 0) -> str:
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise ProtocolError("text that is not UTF-8") from None

    def count(self, many: int, depth: int) -> None:
        """Holds the values of a container against all bounds, before memory is taken for them."""
        # Every value takes a byte at least, so the message's own length bounds what is taken for it.
        if many > self.end - self.pos:
            raise ProtocolError("a message ends too soon")
        self.left -= many
        if self.left < 0:
            raise ProtocolError(f"more than {MAX_VALUES} values")
        if depth >= MAX_DEPTH:
            raise ProtocolError(f"nested more than {MAX_DEPTH} deep")

    def array(self, many: int, depth: int) -> list[Any]:
        self.count(many, depth)
        return [self.value(depth + 1) for _ in range(many)]

    def map(self, many: int, depth: int) -> dict[Any, Any]:
        self.count(2 * many, depth)
        pairs = [(self.value(depth + 1), self.value(depth + 1)) for _ in range(many)]
        try:
            if many > FEW and crowd([key for key, _ in pairs], False):
                raise ProtocolError("keys that crowd each other")
            result = dict(pairs)
        except TypeError:
            raise ProtocolError("a key that cannot be one") from None
        if len(result) != many:
            raise ProtocolError("a key twice")
        return result

    def extension(self, size: int, depth: int) -> Any:
        kind = self.take(1)[0]
        end = self.pos + size
        if end > self.end:
            raise ProtocolError("a message ends too soon")
        if kind in _RAW:
            if depth >= MAX_DEPTH:
                raise ProtocolError(f"nested more than {MAX_DEPTH} deep")
            return _made(kind, _RAW[kind], self.take(size))
        if kind not in _BUILT and kind not in (MEMFD, DESCRIPTOR):
            raise ProtocolError(f"an unknown extension, {kind}")
        self.count(1, depth)
        outer, self.end = self.end, end
        inner = self.value(depth + 1)
        if self.pos != end:
            raise ProtocolError("an extension is longer than its value")
        self.end = outer
        if kind in _BUILT:
            return _made(kind, _BUILT[kind], inner)
        if self.given is None:
            raise ProtocolError("a descriptor where there can be none")
        return self.given.blob(inner) if kind == MEMFD else self.given.descriptor(inner)


def _made(kind: int, make: Callable[[Any], Any], of: Any) -> Any:
    try:
        return make(of)
    except ProtocolError:
        raise
    except (ValueError, TypeError, ArithmeticError, struct.error):
        raise ProtocolError(f"a malformed extension of type {kind}") from None


_READ: tuple[tuple[_Form, Callable[[Reader, int, int], Any]], ...] = (
    (STR, Reader.text),
    (_BIN, lambda reader, size, _: reader.take(size)),
    (ARRAY, Reader.array),
    (_MAP, Reader.map),
    (_EXT, Reader.extension),
)


def _array(value: Any, size: int | None = None) -> list[Any]:
    if type(value) is not list or (size is not None and len(value) != size):
        raise ProtocolError("an extension does not hold its array")
    return value


def _ints(value: Any, size: int) -> list[int]:
    for each in _array(value, size):
        if type(each) is not int:
            raise ProtocolError("an extension holds something else than integers")
    return value  # type: ignore[no-any-return]


def _unique(value: Any) -> set[Any]:
    if len(_array(value)) > FEW and crowd(value, True):
        raise ProtocolError("elements that crowd each other")
    items = set(value)
    if len(items) != len(value):
        raise ProtocolError("an element of a set twice")
    return items


def _zone(offset: Any) -> Any:
    from datetime import timedelta, timezone

    if offset is None:
        return None
    if type(offset) is not int:
        raise ProtocolError("an offset from UTC that is no integer")
    return timezone.utc if offset == 0 else timezone(timedelta(microseconds=offset))


def _built_datetime(value: Any) -> Any:
    from datetime import datetime

    parts = _array(value, 9)
    numbers, fold = _ints(parts[:7], 7), _ints(parts[8:], 1)[0]
    return datetime(*numbers, tzinfo=_zone(parts[7]), fold=fold)  # type: ignore[misc, arg-type]


def _built_date(value: Any) -> Any:
    from datetime import date

    return date(*_ints(value, 3))


def _built_time(value: Any) -> Any:
    from datetime import time

    parts = _array(value, 6)
    numbers, fold = _ints(parts[:4], 4), _ints(parts[5:], 1)[0]
    return time(*numbers, tzinfo=_zone(parts[4]), fold=fold)  # type: ignore[misc, arg-type]


def _built_timedelta(value: Any) -> Any:
    from datetime import timedelta

    days, seconds, microseconds = _ints(value, 3)
    return timedelta(days, seconds, microseconds)


def _built_member(value: Any) -> Member:
    if type(value) not in (str, int):
        raise ProtocolError("a member of an enumeration is neither name nor number")
    return Member(value)


_BUILT: dict[int, Callable[[Any], Any]] = {
    TUPLE: lambda v: tuple(_array(v)),
    SET: _unique,
    FROZENSET: lambda v: frozenset(_unique(v)),
    DATETIME: _built_datetime,
    DATE: _built_date,
    TIME: _built_time,
    TIMEDELTA: _built_timedelta,
    MEMBER: _built_member,
}

_DECIMAL_CHARACTERS = frozenset(b"0123456789+-.EeNnaIifty sS") - frozenset(b" ")


def _raw_decimal(data: bytes) -> Any:
    from decimal import Decimal

    if not _DECIMAL_CHARACTERS.issuperset(data):
        raise ProtocolError("a decimal number of other characters")
    return Decimal(data.decode("ascii"))


def _raw_uuid(data: bytes) -> Any:
    from uuid import UUID as Uuid

    return Uuid(bytes=data)


def _raw_int(data: bytes) -> int:
    if not data:
        raise ProtocolError("an integer of no bytes")
    return int.from_bytes(data, "big", signed=True)


_RAW: dict[int, Callable[[bytes], Any]] = {
    BIG_INT: _raw_int,
    DECIMAL: _raw_decimal,
    UUID: _raw_uuid,
    COMPLEX: lambda data: complex(*struct.unpack(">dd", data)),
    SURROGATES: lambda data: data.decode("utf-8", "surrogatepass"),
}


def unpack(data: bytes, given: Attached | None = None) -> Any:
    """The one value that these bytes are."""
    return Reader(data, given).whole()
