"""MessagePack as docs/rpc-protocol.md has it: plain values to bytes and back, and bytes that lie in a memfd. This is the
wire in plain Python, for where the compiled core is not; `_codec.py` says which it is.

Nothing here knows of functions or hints, and nothing here can make anything but plain values. Every length is held
against what is there before memory is taken for it.
"""
# Values are of no known type here until they have been looked at, and what a list or dict holds not even then.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false

from __future__ import annotations

import fcntl
import os
import struct
import sys
from typing import Any, Callable

from ._errors import ProtocolError, TooLarge
from ._values import Fd, Member


class _Crowded(TooLarge):
    """There are too many descriptors, the large bytes' own counted. With those bytes in the message there may not be."""


class _Out(bytearray):
    """A message that is written, and how many values are in its containers so far."""

    __slots__ = ("values",)

    def __init__(self, begun: bytes = b"", values: int = 0) -> None:
        super().__init__(begun)
        self.values = values


MAX_MESSAGE = 65_536
#: The most bytes of a message, as the app's manifest says.
MAX_LARGE = int(os.environ.get("PYSECURE_RPC_LARGEST") or 64 * 1024 * 1024)
MAX_DEPTH = 64
MAX_VALUES = 1_000_000
MAX_DESCRIPTORS = 16
#: More bytes than this go through a memfd.
BLOB = 16 * 1024
#: A kept area does not grow beyond this; larger bytes get a memfd for themselves.
KEEP = 8 * 1024 * 1024

BIG_INT, TUPLE, SET, FROZENSET, DATETIME, DATE, TIME, TIMEDELTA = 1, 2, 3, 4, 5, 6, 7, 8
DECIMAL, UUID, COMPLEX, MEMBER, SURROGATES, MEMFD, DESCRIPTOR = 9, 10, 11, 12, 13, 20, 21

F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4


class Area:
    """A memfd that is sent once and used for the large bytes of many messages."""

    __slots__ = ("fd", "size", "sent", "free", "map")

    def __init__(self) -> None:
        self.fd = -1
        self.size = 0
        #: It is written through a mapping, which is ours alone. It is read by pread, never through a mapping: pages that
        #: the sender left out would be taken from the reader's memory, or end the reader with SIGBUS.
        self.map: Any = None
        self.sent = False
        #: Has all that lies in it been read?
        self.free = True

    def reserve(self, size: int) -> None:
        if self.fd < 0:
            self.fd = os.memfd_create("pysecure-rpc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            fcntl.fcntl(self.fd, F_ADD_SEALS, F_SEAL_SHRINK)
        if size > self.size:
            import mmap

            self.size = min(max(size, 1 << 20, 2 * self.size), KEEP)
            os.ftruncate(self.fd, self.size)
            self.map = mmap.mmap(self.fd, self.size)

    def close(self) -> None:
        """The next use begins another."""
        if self.fd >= 0:
            self.map = None
            os.close(self.fd)
            self.fd = -1
        self.size = 0
        self.sent = False
        self.free = True

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError):
            pass


class Kept:
    """The area of the peer's that lies at this end, and how many messages used it."""

    __slots__ = ("fd", "read", "cost")

    def __init__(self) -> None:
        self.fd = -1
        self.read = 0
        #: What the last message took of memory, about, in bytes.
        self.cost = 0

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError):
            pass


class Message:
    """One message as it is sent: its bytes, and the descriptors that go along."""

    __slots__ = ("data", "fds", "in_area", "made", "large")

    def __init__(self, data: bytes, fds: list[int], in_area: bool, made: list[int], large: int) -> None:
        #: How many bytes of it lie in memfds.
        self.large = large
        self.data = data
        self.fds = fds
        #: Does any of it lie in the area?
        self.in_area = in_area
        self.made = made

    def keep(self) -> None:
        """It is not sent at once, and its descriptors may be closed before."""
        copies = [os.dup(fd) for fd in self.fds]
        self.close()
        self.fds = self.made = copies

    def close(self) -> None:
        for fd in self.made:
            os.close(fd)
        self.made = []


class Outgoing:
    """The descriptors of one message that is being made."""

    __slots__ = ("area", "use", "offset", "fds", "made", "blobs", "total", "within")

    def __init__(self, area: Area | None, within: bool = False) -> None:
        #: Do large bytes stand in the message, since they have no descriptors?
        self.within = within
        self.area = area
        #: May the area be written to? It stays so for the whole message.
        self.use = area is not None and area.free
        self.offset = 0
        self.fds: list[int] = []
        self.made: list[int] = []
        self.blobs = False
        self.total = 0

    def add(self, fd: int) -> int:
        if len(self.fds) >= MAX_DESCRIPTORS:
            raise _Crowded(f"more than {MAX_DESCRIPTORS} descriptors in one message")
        self.fds.append(fd)
        return len(self.fds) - 1

    def memfd(self, data: Any) -> int:
        fd = os.memfd_create("pysecure-rpc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.made.append(fd)
        _write(fd, data, 0)
        # Not against writing: the reader copies before he looks, and that seal fails with EBUSY while the kernel has a page in hand.
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
        return fd

    def blob(self, out: _Out, data: Any) -> None:
        size = len(data)
        if self.within:
            _pack_bin(out, data)
            return
        self.total += size
        if self.total > MAX_LARGE:
            raise TooLarge(f"more than {MAX_LARGE} bytes in one message")
        area = self.area
        if area is not None and self.use and self.offset + size <= KEEP:
            area.reserve(self.offset + size)
            area.map[self.offset : self.offset + size] = data
            keep = not area.sent
            index = self.add(area.fd) if keep else -1
            body = pack([index, self.offset, size, keep])
            self.offset = (self.offset + size + 4095) & ~4095
            area.sent = True
            area.free = False
            self.blobs = True
        elif len(self.fds) >= MAX_DESCRIPTORS - 1:
            _pack_bin(out, data)  # no descriptor left for it: it goes inline, and the message by LARGE
            return
        else:
            body = pack([self.add(self.memfd(data)), 0, size, False])
        _ext(out, MEMFD, body, 0, 5)

    def large(self, message: bytes | bytearray) -> bytes:
        """Puts a whole message that is too long into a memfd."""
        self.total += len(message)
        if self.total > MAX_LARGE:
            raise TooLarge(f"a message of {self.total} bytes, of {MAX_LARGE} at most")
        self.add(self.memfd(message))
        return pack([0, len(message)])

    def close(self) -> None:
        for fd in self.made:
            os.close(fd)
        self.made.clear()


def _write(fd: int, data: Any, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    view = memoryview(data)
    while done < len(data):
        done += os.pwrite(fd, view[done:], offset + done)


# Making messages.

_Packer = Callable[[_Out, Any, int, "Outgoing | None"], None]
_u16, _u32, _u64, _i64, _f64 = (struct.Struct(f) for f in (">BH", ">BI", ">BQ", ">Bq", ">Bd"))


def _pack_none(out: bytearray, _v: Any, _depth: int, _to: Outgoing | None) -> None:
    out.append(0xC0)


def _pack_bool(out: _Out, v: Any, _depth: int, _to: Outgoing | None) -> None:
    out.append(0xC3 if v else 0xC2)


def _pack_int(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    if 0 <= v < 0x80:
        out.append(v)
    elif v >= 0:
        if v < 0x100:
            out += bytes((0xCC, v))
        elif v < 0x10000:
            out += _u16.pack(0xCD, v)
        elif v < 0x1_0000_0000:
            out += _u32.pack(0xCE, v)
        elif v < 0x1_0000_0000_0000_0000:
            out += _u64.pack(0xCF, v)
        else:
            _ext(out, BIG_INT, v.to_bytes(v.bit_length() // 8 + 1, "big", signed=True), depth)
    elif v >= -0x20:
        out.append(v + 0x100)
    elif v >= -0x80:
        out += bytes((0xD0, v + 0x100))
    elif v >= -0x8000:
        out += _u16.pack(0xD1, v + 0x10000)
    elif v >= -0x8000_0000:
        out += _u32.pack(0xD2, v + 0x1_0000_0000)
    elif v >= -0x8000_0000_0000_0000:
        out += _i64.pack(0xD3, v)
    else:
        _ext(out, BIG_INT, v.to_bytes((v + 1).bit_length() // 8 + 1, "big", signed=True), depth)


def _pack_float(out: _Out, v: Any, _depth: int, _to: Outgoing | None) -> None:
    out += _f64.pack(0xCB, v)


def _pack_str(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    try:
        data = v.encode()
    except UnicodeEncodeError:
        _ext(out, SURROGATES, v.encode("utf-8", "surrogatepass"), depth)
        return
    size = len(data)
    if size < 32:
        out.append(0xA0 | size)
    elif size < 0x100:
        out += bytes((0xD9, size))
    elif size < 0x10000:
        out += _u16.pack(0xDA, size)
    else:
        _room(out, size)
        out += _u32.pack(0xDB, size)
    out += data


def _pack_bytes(out: _Out, v: Any, depth: int, to: Outgoing | None) -> None:
    # A reference to a memfd is an extension with an array in it.
    if len(v) > BLOB and to is not None and depth + 1 < MAX_DEPTH:
        to.blob(out, v)
    else:
        _pack_bin(out, v)


def _pack_bin(out: _Out, v: Any) -> None:
    size = len(v)
    if size < 0x100:
        out += bytes((0xC4, size))
    elif size < 0x10000:
        out += _u16.pack(0xC5, size)
    else:
        _room(out, size)
        out += _u32.pack(0xC6, size)
    out += v


def _room(out: bytearray, size: int) -> None:
    if len(out) + size > MAX_LARGE:
        raise TooLarge(f"a message of more than {MAX_LARGE} bytes")


def _array_header(out: _Out, size: int) -> None:
    out.values += size
    if size < 16:
        out.append(0x90 | size)
    elif size < 0x10000:
        out += _u16.pack(0xDC, size)
    else:
        _room(out, size)
        out += _u32.pack(0xDD, size)


def _pack_array(out: _Out, v: Any, depth: int, to: Outgoing | None) -> None:
    if depth >= MAX_DEPTH:
        raise TooLarge(f"values nested more than {MAX_DEPTH} deep")
    _array_header(out, len(v))
    depth += 1
    for item in v:
        (_PACKERS.get(type(item)) or _packer(item))(out, item, depth, to)


def _pack_map(out: _Out, v: Any, depth: int, to: Outgoing | None) -> None:
    if depth >= MAX_DEPTH:
        raise TooLarge(f"values nested more than {MAX_DEPTH} deep")
    size = len(v)
    out.values += 2 * size
    if size < 16:
        out.append(0x80 | size)
    elif size < 0x10000:
        out += _u16.pack(0xDE, size)
    else:
        _room(out, size)
        out += _u32.pack(0xDF, size)
    depth += 1
    for key, item in v.items():
        # A key is never in a memfd: two of them could be equal without looking so.
        (_PACKERS.get(type(key)) or _packer(key))(out, key, depth, None)
        (_PACKERS.get(type(item)) or _packer(item))(out, item, depth, to)


def _nested(kind: int) -> _Packer:
    def pack_nested(out: _Out, v: Any, depth: int, to: Outgoing | None) -> None:
        body = _Out()
        _pack_array(body, v, depth + 1, to)
        _ext(out, kind, body, depth, 1 + body.values)

    return pack_nested


def _ext(out: _Out, kind: int, data: Any, depth: int, inside: int = 0) -> None:
    """`inside`: how many values its data are."""
    out.values += inside
    if depth >= MAX_DEPTH:
        raise TooLarge(f"values nested more than {MAX_DEPTH} deep")
    size = len(data)
    if size == 1:
        out += bytes((0xD4, kind))
    elif size == 2:
        out += bytes((0xD5, kind))
    elif size == 4:
        out += bytes((0xD6, kind))
    elif size == 8:
        out += bytes((0xD7, kind))
    elif size == 16:
        out += bytes((0xD8, kind))
    elif size < 0x100:
        out += bytes((0xC7, size, kind))
    elif size < 0x10000:
        out += _u16.pack(0xC8, size)
        out.append(kind)
    else:
        _room(out, size)
        out += _u32.pack(0xC9, size)
        out.append(kind)
    out += data


def _pack_complex(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, COMPLEX, struct.pack(">dd", v.real, v.imag), depth)


def _pack_member(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, MEMBER, pack(v.name), depth, 1)


def _pack_fd(out: _Out, v: Any, depth: int, to: Outgoing | None) -> None:
    if to is None:
        raise TypeError("a descriptor cannot cross here")
    _ext(out, DESCRIPTOR, pack([to.add(v.fileno())]), depth + 1, 2)


def _offset(v: Any) -> int | None:
    offset = v.utcoffset()
    if offset is None:
        return None
    return (offset.days * 86_400 + offset.seconds) * 1_000_000 + offset.microseconds  # type: ignore[no-any-return]


def _pack_datetime(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    parts = [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, _offset(v), v.fold]
    _ext(out, DATETIME, pack(parts), depth + 1, 10)


def _pack_date(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, DATE, pack([v.year, v.month, v.day]), depth + 1, 4)


def _pack_time(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, TIME, pack([v.hour, v.minute, v.second, v.microsecond, _offset(v), v.fold]), depth + 1, 7)


def _pack_timedelta(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, TIMEDELTA, pack([v.days, v.seconds, v.microseconds]), depth + 1, 4)


def _pack_decimal(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, DECIMAL, str(v).encode(), depth)


def _pack_uuid(out: _Out, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, UUID, v.bytes, depth)


_PACKERS: dict[type, _Packer] = {
    type(None): _pack_none,
    bool: _pack_bool,
    int: _pack_int,
    float: _pack_float,
    str: _pack_str,
    bytes: _pack_bytes,
    bytearray: _pack_bytes,
    list: _pack_array,
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
    for (module, name), packer in _LATE.items():
        loaded = sys.modules.get(module)
        if loaded is not None and getattr(loaded, name, None) is cls:
            _PACKERS[cls] = packer
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
            packer = _PACKERS[base]
            return lambda out, v, depth, to: packer(out, base(v), depth, to)
    raise TypeError(f"a value of type {cls.__qualname__} cannot cross")


def pack(value: Any, to: Outgoing | None = None) -> bytes:
    """One value as MessagePack."""
    out = _Out()
    (_PACKERS.get(type(value)) or _packer(value))(out, value, 0, to)
    return bytes(out)


def seal(elements: Any, area: Area | None = None) -> Message:
    """A message with these elements, whose large bytes go to the area if that is free."""
    def fill(to: Outgoing) -> _Out:
        out = _Out()
        _pack_array(out, elements, 0, to)
        return out

    return _filled(fill, area)


def seal_call(
    identity: int,
    name: bytes,
    args: Any,
    kwargs: Any,
    left: int | None,
    trace: str | None,
    read: int,
    credit: int | None,
    area: Area,
) -> Message:
    """A CALL. `name` is the function's, as MessagePack."""
    def fill(to: Outgoing) -> _Out:
        out = _Out(b"\x99\x02", 9)
        _pack_int(out, identity, 1, to)
        out += name
        _pack_array(out, args, 1, to)
        if kwargs:
            _pack_map(out, kwargs, 1, to)
        else:
            out.append(0x80)
        for item in (left, trace, read, credit):
            if item is None:
                out.append(0xC0)
            else:
                _PACKERS[type(item)](out, item, 1, to)
        return out

    return _filled(fill, area)


def _filled(fill: Callable[[Outgoing], _Out], area: Area | None) -> Message:
    to = Outgoing(area)
    try:
        return _sealed(fill(to), to)
    except _Crowded:
        _unsent(to)
    except BaseException:
        _unsent(to)
        raise
    # Large bytes took the descriptors: they go within the message, all of it by memfd.
    to = Outgoing(None, True)
    try:
        return _sealed(fill(to), to)
    except BaseException:
        _unsent(to)
        raise


def _sealed(out: _Out, to: Outgoing) -> Message:
    # What the receiver would refuse is not sent.
    if 1 + out.values > MAX_VALUES:
        raise TooLarge(f"more than {MAX_VALUES} values in one message")
    data = bytes(out) if len(out) <= MAX_MESSAGE else to.large(out)
    return Message(data, to.fds, to.blobs, to.made, to.total)


def _unsent(to: Outgoing) -> None:
    to.close()
    if to.blobs and to.area is not None:
        # Part of it lies there, which the peer may not even know: begin another.
        to.area.close()


# Reading messages.


class Incoming:
    """The descriptors that came with one message."""

    __slots__ = ("fds", "used", "kept", "total", "from_area")

    def __init__(self, fds: list[int], kept: Kept) -> None:
        self.fds = fds
        self.used: list[bool] = [False] * len(fds)
        self.kept = kept
        self.total = 0
        self.from_area = False

    def take(self, index: Any) -> int:
        if type(index) is not int or not 0 <= index < len(self.fds) or self.used[index]:
            raise ProtocolError("a descriptor is named that did not come, or twice")
        self.used[index] = True
        return self.fds[index]

    def blob(self, parts: Any) -> bytes:
        if type(parts) is not list or len(parts) < 4:
            raise ProtocolError("a reference to a memfd is not four values")
        index, offset, length, keep = parts[:4]
        if type(offset) is not int or type(length) is not int or type(keep) is not bool or offset < 0 or length < 0:
            raise ProtocolError("a reference to a memfd has wrong types")
        self.total += length
        if self.total > MAX_LARGE:
            raise ProtocolError(f"more than {MAX_LARGE} bytes in memfds")
        if type(index) is int and index == -1:
            if self.kept.fd < 0 or keep:
                raise ProtocolError("no area has been sent before")
            self.from_area = True
            return read_memfd(self.kept.fd, offset, length)
        fd = self.take(index)
        data = read_memfd(fd, offset, length)
        if keep:
            self.kept.close()
            self.kept.fd = fd
            self.from_area = True
        else:
            os.close(fd)
        self.fds[index] = -1
        return data

    def descriptor(self, parts: Any) -> Fd:
        if type(parts) is not list or len(parts) < 1:
            raise ProtocolError("a reference to a descriptor is not a list")
        fd = self.take(parts[0])
        self.fds[parts[0]] = -1
        return Fd(fd, owned=True)

    def close(self) -> None:
        for fd in self.fds:
            if fd >= 0:
                os.close(fd)
        self.fds = []


def read_memfd(fd: int, offset: int, length: int) -> bytes:
    """Copies bytes out of a memfd. All else than a memfd that cannot shrink is refused: reading it could take for ever."""
    try:
        seals = fcntl.fcntl(fd, F_GET_SEALS)
    except OSError as error:
        raise ProtocolError("a descriptor for bytes is not a memfd") from error
    if not seals & F_SEAL_SHRINK:
        raise ProtocolError("a memfd lacks F_SEAL_SHRINK")
    if offset + length > os.fstat(fd).st_size:
        raise ProtocolError("a memfd is shorter than the message says")
    try:
        data = os.pread(fd, length, offset)
        while len(data) < length:
            more = os.pread(fd, length - len(data), offset + len(data))
            if not more:
                raise ProtocolError("a memfd is shorter than the message says")
            data += more
    except OSError as error:
        # Opened for writing only, for one.
        raise ProtocolError(f"a memfd cannot be read: {error.strerror}") from error
    return data


_from_u16, _from_u32, _from_u64 = (struct.Struct(f).unpack_from for f in (">H", ">I", ">Q"))
_from_i8, _from_i16, _from_i32, _from_i64 = (struct.Struct(f).unpack_from for f in (">b", ">h", ">i", ">q"))
_from_f32, _from_f64 = (struct.Struct(f).unpack_from for f in (">f", ">d"))

_NUMBERS: dict[int, tuple[Callable[..., Any], int]] = {
    0xCA: (_from_f32, 4),
    0xCB: (_from_f64, 8),
    0xCC: (struct.Struct(">B").unpack_from, 1),
    0xCD: (_from_u16, 2),
    0xCE: (_from_u32, 4),
    0xCF: (_from_u64, 8),
    0xD0: (_from_i8, 1),
    0xD1: (_from_i16, 2),
    0xD2: (_from_i32, 4),
    0xD3: (_from_i64, 8),
}
# First byte → how the length is read, and its size.
_LENGTHS: dict[int, tuple[Callable[..., Any], int]] = {
    first + at: size
    for first, at_least in ((0xC4, 0), (0xC7, 0), (0xD9, 0), (0xDC, 1), (0xDE, 1))
    for at, size in enumerate(((struct.Struct(">B").unpack_from, 1), (_from_u16, 2), (_from_u32, 4))[at_least:])
}


class Reader:
    """Reads one message. Every method leaves `pos` behind what it has read."""

    __slots__ = ("buf", "pos", "end", "left", "given")

    def __init__(self, buf: bytes, given: Incoming | None = None) -> None:
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

    def an_integer(self) -> bool:
        """Is that what comes next?"""
        first = self.buf[self.pos] if self.pos < self.end else 0xC0
        if 0xC7 <= first <= 0xC9 or 0xD4 <= first <= 0xD8:
            kind = self.pos + (1 if first >= 0xD4 else 2 if first == 0xC7 else 3 if first == 0xC8 else 5)
            return kind < self.end and self.buf[kind] == BIG_INT
        return first < 0x80 or first >= 0xE0 or 0xCC <= first <= 0xD3

    def value(self, depth: int) -> Any:
        pos = self.pos
        if pos >= self.end:
            raise ProtocolError("a message ends too soon")
        first = self.buf[pos]
        pos += 1
        if first < 0x80:
            self.pos = pos
            return first
        if 0xA0 <= first < 0xC0:
            return self.text(pos, first & 0x1F)
        if first < 0x90:
            self.pos = pos
            return self.map(first & 0x0F, depth)
        if first < 0xA0:
            self.pos = pos
            return self.array(first & 0x0F, depth)
        self.pos = pos
        if first >= 0xE0:
            return first - 0x100
        if first == 0xC2:
            return False
        if first == 0xC3:
            return True
        if first == 0xC0:
            return None
        number = _NUMBERS.get(first)
        if number is not None:
            unpack, size = number
            if pos + size > self.end:
                raise ProtocolError("a message ends too soon")
            self.pos = pos + size
            return unpack(self.buf, pos)[0]
        if 0xD4 <= first <= 0xD8:
            return self.extension(1 << (first - 0xD4), depth)
        length = _LENGTHS.get(first)
        if length is None:
            raise ProtocolError(f"0x{first:02x} begins no value")
        unpack, size = length
        if pos + size > self.end:
            raise ProtocolError("a message ends too soon")
        many: int = unpack(self.buf, pos)[0]
        pos += size
        if first <= 0xC6:
            if pos + many > self.end:
                raise ProtocolError("a message ends too soon")
            self.pos = pos + many
            return self.buf[pos : pos + many]
        if first >= 0xDE:
            self.pos = pos
            return self.map(many, depth)
        if first >= 0xDC:
            self.pos = pos
            return self.array(many, depth)
        if first >= 0xD9:
            return self.text(pos, many)
        self.pos = pos
        return self.extension(many, depth)

    def text(self, pos: int, size: int) -> str:
        end = pos + size
        if end > self.end:
            raise ProtocolError("a message ends too soon")
        self.pos = end
        try:
            return self.buf[pos:end].decode()
        except UnicodeDecodeError:
            raise ProtocolError("text that is not UTF-8") from None

    def count(self, many: int, depth: int) -> None:
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
        depth += 1
        value = self.value
        buf = self.buf
        end = self.end
        items: list[Any] = []
        for _ in range(many):
            pos = self.pos
            # What most arrays hold is read here, and not by a call each.
            if pos < end:
                first = buf[pos]
                if first < 0x80:
                    self.pos = pos + 1
                    items.append(first)
                    continue
                if first == 0xC0:
                    self.pos = pos + 1
                    items.append(None)
                    continue
                if 0xA0 <= first < 0xC0:
                    items.append(self.text(pos + 1, first & 0x1F))
                    continue
            items.append(value(depth))
        return items

    def map(self, many: int, depth: int) -> dict[Any, Any]:
        self.count(2 * many, depth)
        depth += 1
        keys: list[Any] = []
        values: list[Any] = []
        value = self.value
        for _ in range(many):
            keys.append(value(depth))
            values.append(value(depth))
        try:
            if many > _FEW and _crowd(keys, False):
                raise ProtocolError("keys that crowd each other")
            result = dict(zip(keys, values))
        except TypeError:
            raise ProtocolError("a key that cannot be one") from None
        if len(result) != many:
            raise ProtocolError("a key twice")
        return result

    def extension(self, size: int, depth: int) -> Any:
        pos = self.pos
        # The type stands before the data.
        end = pos + 1 + size
        if end > self.end:
            raise ProtocolError("a message ends too soon")
        kind = self.buf[pos]
        self.pos = pos + 1
        if kind in _RAW:
            if depth >= MAX_DEPTH:
                raise ProtocolError(f"nested more than {MAX_DEPTH} deep")
            self.pos = end
            try:
                return _RAW[kind](self.buf[pos + 1 : end])
            except ProtocolError:
                raise
            except (ValueError, ArithmeticError, struct.error):
                raise ProtocolError(f"an extension of type {kind} that is none") from None
        if kind not in _BUILT:
            raise ProtocolError(f"an unknown extension, {kind}")
        self.count(1, depth)
        outer, self.end = self.end, end
        inner = self.value(depth + 1)
        if self.pos != end:
            raise ProtocolError("an extension is longer than its value")
        self.end = outer
        if kind == MEMFD or kind == DESCRIPTOR:
            if self.given is None:
                raise ProtocolError("a descriptor where there can be none")
            return self.given.blob(inner) if kind == MEMFD else self.given.descriptor(inner)
        try:
            return _BUILT[kind](inner)
        except ProtocolError:
            raise
        except (ValueError, TypeError, OverflowError):
            raise ProtocolError(f"an extension of type {kind} that is none") from None


def _array(value: Any, size: int | None = None) -> list[Any]:
    if type(value) is not list or (size is not None and len(value) != size):
        raise ProtocolError("an extension does not hold its array")
    return value


def _ints(value: Any, size: int) -> list[int]:
    for each in _array(value, size):
        if type(each) is not int:
            raise ProtocolError("an extension holds something else than integers")
    return value  # type: ignore[no-any-return]


#: How many keys cannot take long, however they crowd; and how often may be looked for each: twice is usual.
_FEW, _LOOKS = 64, 40
#: Are hashes of text such that somebody outside knows them?
_KNOWN = not sys.flags.hash_randomization or os.environ.get("PYTHONHASHSEED", "") not in ("", "random")


def _crowd(keys: list[Any], in_set: bool) -> bool:
    """Would a dict or a set have to look in too many places for these? (Objects/dictobject.c, Objects/setobject.c.)

    A caller can choose numbers, and what is made of them, so that each is looked for in the same places, which takes a time
    that grows with the square of their number. The core does the same (core/src/crowd.rs)."""
    if not _KNOWN and all(type(key) is str or type(key) is bytes for key in keys):
        return False
    hashes = [hash(key) & 0xFFFF_FFFF_FFFF_FFFF for key in keys]
    row = 9 if in_set else 0
    left = _FEW * _FEW + _LOOKS * len(hashes)
    # Those with equal hashes are compared with each other, wherever they lie.
    same, before = 0, -1
    for each in sorted(hashes):
        same = same + 1 if each == before else 0
        before = each
        left -= same
    if left < 0:
        return True
    mask = 7
    taken = bytearray(8)
    begin = used = 0
    while True:
        # The table as it is, then the next one with all of them again.
        end = len(hashes)
        for at in range(begin, end):
            jump = hashes[at]
            place = jump & mask
            while True:
                many = row if place + row <= mask else 0
                free = taken.find(0, place, place + many + 1)
                if free >= 0:
                    break
                # A row costs no more than one place: it is read at once.
                left -= 1
                if left < 0:
                    return True
                jump >>= 5
                place = (place * 5 + jump + 1) & mask
            taken[free] = 1
            used = at + 1
            full = 5 * used >= 3 * mask if in_set else used >= 2 * (mask + 1) // 3
            if full and used < end:
                break
        else:
            return False
        least = (2 * used if used > 50_000 else 4 * used) + 1 if in_set else 3 * used
        mask = 7
        while mask + 1 < least:
            mask = 2 * mask + 1
        taken = bytearray(mask + 1)
        begin = 0


def _unique(value: Any) -> set[Any]:
    if len(_array(value)) > _FEW and _crowd(value, True):
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
    MEMFD: lambda v: v,
    DESCRIPTOR: lambda v: v,
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


def unpack(data: bytes, given: Incoming | None = None) -> Any:
    """The one value that these bytes are."""
    return Reader(data, given).whole()


#: The longest name of a function that is looked for; a longer one is none, whatever follows.
_LONGEST_NAME = 1 << 12


def _asked(data: bytes, whole: int) -> tuple[int, str | None] | None:
    """The number and the function of a CALL, before anything is made of its arguments; the name is None if it is longer than
    any. None for what is no CALL. `data` is the message's beginning, all of it or 8 KiB at the least; `whole` its length."""
    reader = Reader(data)
    if not data:
        raise ProtocolError("a message ends too soon")
    first = data[0]
    if 0x90 <= first < 0xA0:
        elements = first & 0x0F
        reader.pos = 1
    elif first in (0xDC, 0xDD):
        unpack, size = _LENGTHS[first]
        if size >= len(data):
            raise ProtocolError("a message ends too soon")
        elements = unpack(data, 1)[0]
        reader.pos = 1 + size
    else:
        return None
    if not elements or not reader.an_integer() or reader.value(1) != 2:
        return None
    if elements < 5:
        raise ProtocolError("a CALL of less than five values")
    identity = reader.value(1) if reader.an_integer() else None
    if identity is None or not 0 < identity <= 1 << 53:
        raise ProtocolError("a CALL without a number")
    at = reader.pos
    first = data[at] if at < len(data) else 0
    if 0xA0 <= first < 0xC0:
        size, at = first & 0x1F, at + 1
    elif 0xD9 <= first <= 0xDB:
        unpack, width = _LENGTHS[first]
        if at + 1 + width > len(data):
            raise ProtocolError("a message ends too soon")
        size, at = unpack(data, at + 1)[0], at + 1 + width
    else:
        raise ProtocolError("a CALL without a function's name")
    if size > _LONGEST_NAME and at + size <= whole:
        return identity, None
    return identity, reader.text(at, size)


#: Where the name follows a number that begins with this.
_SMALL_NUMBERS = {0xCC: 4, 0xCD: 5, 0xCE: 7}


def _refused(data: bytes, whole: int, functions: dict[str, Any] | None) -> list[Any] | None:
    """A CALL of what is none of these: its kind, number and name."""
    if functions is not None and len(data) > 3 and 0x95 <= data[0] < 0xA0 and data[1] == 2:
        # As most are: a number of few bytes, and a name that is known.
        at = 3 if data[2] < 0x80 else _SMALL_NUMBERS.get(data[2], whole)
        size = data[at] - 0xA0 if at < len(data) else -1
        if 0 <= size < 32 and data[at + 1 : at + 1 + size].decode("utf-8", "replace") in functions:
            return None
    asked = None if functions is None else _asked(data, whole)
    if asked is None or functions is None or asked[1] in functions:
        return None
    return [2, asked[0], asked[1] or "(a name longer than any)"]


def open_call(data: bytes, fds: list[int], kept: Kept, functions: dict[str, Any]) -> list[Any]:
    """As `open_message`, in a service: a CALL of what is not in `functions` comes as its kind, number and name, and nothing is
    made of the rest."""
    return open_message(data, fds, kept, functions)


def open_message(data: bytes, fds: list[int], kept: Kept, functions: dict[str, Any] | None = None) -> list[Any]:
    """The elements of a message that came with these descriptors, which are closed if nothing in it takes them; with LARGE,
    of that which lies in its memfd."""
    given = Incoming(fds, kept)
    try:
        refused = _refused(data, len(data), functions)
        if refused is not None:
            return refused
        reader = Reader(data, given)
        value = reader.whole()
        if type(value) is list and value and value[0] == 0 and type(value[0]) is int:
            length = value[1] if len(value) > 1 else None
            if type(length) is not int or not 0 < length <= MAX_LARGE or not given.fds:
                raise ProtocolError("LARGE without its length or its memfd")
            given.total += length
            if given.total > MAX_LARGE:
                raise ProtocolError(f"more than {MAX_LARGE} bytes in memfds")
            last = given.take(len(given.fds) - 1)
            if functions is not None:
                beginning = read_memfd(last, 0, min(length, 2 * _LONGEST_NAME))
                if _asked(beginning, length) is None:
                    raise ProtocolError("LARGE that is no CALL")  # what else a caller sends is short
                refused = _refused(beginning, length, functions)
                if refused is not None:
                    return refused
            reader = Reader(read_memfd(last, 0, length), given)
            value = reader.whole()
            if type(value) is list and value and value[0] == 0:
                raise ProtocolError("LARGE within LARGE")
        if type(value) is not list or not value or type(value[0]) is not int:
            raise ProtocolError("a message is not an array that begins with its kind")
        if not all(given.used):
            raise ProtocolError("a descriptor came that nothing names")
        if given.from_area:
            kept.read += 1
        kept.cost = len(data) + given.total + _VALUE * (MAX_VALUES - reader.left)
        return value
    finally:
        given.close()


#: What a value that came takes of memory, about.
_VALUE = 32
