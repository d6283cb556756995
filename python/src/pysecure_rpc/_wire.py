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

    __slots__ = ("fd", "read")

    def __init__(self) -> None:
        self.fd = -1
        self.read = 0

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

    __slots__ = ("data", "fds", "in_area", "made")

    def __init__(self, data: bytes, fds: list[int], in_area: bool, made: list[int]) -> None:
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

    __slots__ = ("area", "use", "offset", "fds", "made", "blobs", "total")

    def __init__(self, area: Area | None) -> None:
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
            raise TooLarge(f"more than {MAX_DESCRIPTORS} descriptors in one message")
        self.fds.append(fd)
        return len(self.fds) - 1

    def memfd(self, data: Any) -> int:
        fd = os.memfd_create("pysecure-rpc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.made.append(fd)
        _write(fd, data, 0)
        # Not against writing: the reader copies before he looks, and that seal fails with EBUSY while the kernel has a page in hand.
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
        return fd

    def blob(self, out: bytearray, data: Any) -> None:
        size = len(data)
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
        _ext(out, MEMFD, body, 0)

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

_Packer = Callable[[bytearray, Any, int, "Outgoing | None"], None]
_u16, _u32, _u64, _i64, _f64 = (struct.Struct(f) for f in (">BH", ">BI", ">BQ", ">Bq", ">Bd"))


def _pack_none(out: bytearray, _v: Any, _depth: int, _to: Outgoing | None) -> None:
    out.append(0xC0)


def _pack_bool(out: bytearray, v: Any, _depth: int, _to: Outgoing | None) -> None:
    out.append(0xC3 if v else 0xC2)


def _pack_int(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
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


def _pack_float(out: bytearray, v: Any, _depth: int, _to: Outgoing | None) -> None:
    out += _f64.pack(0xCB, v)


def _pack_str(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
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


def _pack_bytes(out: bytearray, v: Any, depth: int, to: Outgoing | None) -> None:
    # A reference to a memfd is an extension with an array in it.
    if len(v) > BLOB and to is not None and depth + 1 < MAX_DEPTH:
        to.blob(out, v)
    else:
        _pack_bin(out, v)


def _pack_bin(out: bytearray, v: Any) -> None:
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


def _array_header(out: bytearray, size: int) -> None:
    if size < 16:
        out.append(0x90 | size)
    elif size < 0x10000:
        out += _u16.pack(0xDC, size)
    else:
        _room(out, size)
        out += _u32.pack(0xDD, size)


def _pack_array(out: bytearray, v: Any, depth: int, to: Outgoing | None) -> None:
    if depth >= MAX_DEPTH:
        raise TooLarge(f"values nested more than {MAX_DEPTH} deep")
    _array_header(out, len(v))
    depth += 1
    for item in v:
        (_PACKERS.get(type(item)) or _packer(item))(out, item, depth, to)


def _pack_map(out: bytearray, v: Any, depth: int, to: Outgoing | None) -> None:
    if depth >= MAX_DEPTH:
        raise TooLarge(f"values nested more than {MAX_DEPTH} deep")
    size = len(v)
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
    def pack_nested(out: bytearray, v: Any, depth: int, to: Outgoing | None) -> None:
        body = bytearray()
        _pack_array(body, v, depth + 1, to)
        _ext(out, kind, body, depth)

    return pack_nested


def _ext(out: bytearray, kind: int, data: Any, depth: int) -> None:
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


def _pack_complex(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, COMPLEX, struct.pack(">dd", v.real, v.imag), depth)


def _pack_member(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, MEMBER, pack(v.name), depth)


def _pack_fd(out: bytearray, v: Any, depth: int, to: Outgoing | None) -> None:
    if to is None:
        raise TypeError("a descriptor cannot cross here")
    _ext(out, DESCRIPTOR, pack([to.add(v.fileno())]), depth + 1)


def _offset(v: Any) -> int | None:
    offset = v.utcoffset()
    if offset is None:
        return None
    return (offset.days * 86_400 + offset.seconds) * 1_000_000 + offset.microseconds  # type: ignore[no-any-return]


def _pack_datetime(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
    parts = [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, _offset(v), v.fold]
    _ext(out, DATETIME, pack(parts), depth + 1)


def _pack_date(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, DATE, pack([v.year, v.month, v.day]), depth + 1)


def _pack_time(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, TIME, pack([v.hour, v.minute, v.second, v.microsecond, _offset(v), v.fold]), depth + 1)


def _pack_timedelta(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, TIMEDELTA, pack([v.days, v.seconds, v.microseconds]), depth + 1)


def _pack_decimal(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
    _ext(out, DECIMAL, str(v).encode(), depth)


def _pack_uuid(out: bytearray, v: Any, depth: int, _to: Outgoing | None) -> None:
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
    out = bytearray()
    (_PACKERS.get(type(value)) or _packer(value))(out, value, 0, to)
    return bytes(out)


def seal(elements: Any, area: Area | None = None) -> Message:
    """A message with these elements, whose large bytes go to the area if that is free."""
    to = Outgoing(area)
    try:
        out = bytearray()
        _pack_array(out, elements, 0, to)
        return _sealed(out, to)
    except BaseException:
        _unsent(to)
        raise


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
    to = Outgoing(area)
    try:
        out = bytearray(b"\x99\x02")
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
        return _sealed(out, to)
    except BaseException:
        _unsent(to)
        raise


def _sealed(out: bytearray, to: Outgoing) -> Message:
    data = bytes(out) if len(out) <= MAX_MESSAGE else to.large(out)
    return Message(data, to.fds, to.blobs, to.made)


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
        result: dict[Any, Any] = {}
        for _ in range(many):
            key = self.value(depth)
            try:
                if key in result:
                    raise ProtocolError("a key twice")
                result[key] = self.value(depth)
            except TypeError:
                raise ProtocolError("a key that cannot be one") from None
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


def _unique(value: Any) -> set[Any]:
    items = set(_array(value))
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
    reader = Reader(data, given)
    value = reader.value(0)
    if reader.pos != reader.end:
        raise ProtocolError("something stands after a message's end")
    return value


def open_message(data: bytes, fds: list[int], kept: Kept) -> list[Any]:
    """The elements of a message that came with these descriptors, which are closed if nothing in it takes them; with LARGE,
    of that which lies in its memfd."""
    given = Incoming(fds, kept)
    try:
        value = unpack(data, given)
        if type(value) is list and value and value[0] == 0 and type(value[0]) is int:
            length = value[1] if len(value) > 1 else None
            if type(length) is not int or not 0 < length <= MAX_LARGE or not given.fds:
                raise ProtocolError("LARGE without its length or its memfd")
            given.total += length
            if given.total > MAX_LARGE:
                raise ProtocolError(f"more than {MAX_LARGE} bytes in memfds")
            last = given.take(len(given.fds) - 1)
            value = unpack(read_memfd(last, 0, length), given)
            if type(value) is list and value and value[0] == 0:
                raise ProtocolError("LARGE within LARGE")
        if type(value) is not list or not value or type(value[0]) is not int:
            raise ProtocolError("a message is not an array that begins with its kind")
        if not all(given.used):
            raise ProtocolError("a descriptor came that nothing names")
        if given.from_area:
            kept.read += 1
        return value
    finally:
        given.close()
