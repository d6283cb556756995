"""Messages as docs/reference/rpc-protocol.md has them, and the descriptors that go along, in plain Python; `_codec.py` says whether it is this
or the compiled core.

Large bytes are sent in a memfd for each message. The core keeps one, an area, and writes to it again and again; here it is
only read, if the other end does that.
"""
# What came over the wire is of no known type until it has been looked at.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import fcntl
import os
from typing import Any

from ._errors import ProtocolError, TooLarge
from ._msgpack import ARRAY, BLOB, MAX_LARGE, MAX_VALUES, MEMFD, STR, Out, Reader, ext, pack, pack_array, pack_bin, unpack
from ._values import Fd

MAX_MESSAGE = 65_536
MAX_DESCRIPTORS = 16

F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4


class _Crowded(TooLarge):
    """There are too many descriptors, the large bytes' own counted. With those bytes in the message there may not be."""


class Area:
    """Where the core has a memfd that it sends once and uses for many messages. Plain Python makes none."""

    __slots__ = ("free",)

    def __init__(self) -> None:
        self.free = True

    def close(self) -> None:
        pass


class PeerArea:
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


# Making messages.


class Message:
    """One message as it is sent: its bytes, and the descriptors that go along."""

    __slots__ = ("data", "fds", "made", "large")
    #: Does any of it lie in the area?
    in_area = False

    def __init__(self, data: bytes, fds: list[int], made: list[int], large: int) -> None:
        #: How many bytes of it lie in memfds.
        self.large = large
        self.data = data
        self.fds = fds
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
    """The descriptors of one message that is being made. `within`: large bytes stand in the message."""

    def __init__(self, within: bool) -> None:
        self.within = within
        self.fds: list[int] = []
        self.made: list[int] = []
        self.total = 0

    def add(self, fd: int) -> int:
        if len(self.fds) >= MAX_DESCRIPTORS:
            raise _Crowded(f"more than {MAX_DESCRIPTORS} descriptors in one message")
        self.fds.append(fd)
        return len(self.fds) - 1

    def blob(self, out: Out, data: Any) -> None:
        if not self.within:
            self._grow(len(data))
        # One descriptor has to be left for the message itself, by LARGE.
        if self.within or len(self.fds) >= MAX_DESCRIPTORS - 1:
            pack_bin(out, data)
        else:
            ext(out, MEMFD, pack([self.add(self._memfd(data)), 0, len(data), False]), 0, 5)

    def whole(self, message: Out) -> bytes:
        """What is sent for a message, which is in a memfd if it is long."""
        if len(message) <= MAX_MESSAGE:
            return bytes(message)
        self._grow(len(message))
        self.add(self._memfd(message))
        return pack([0, len(message)])

    def _grow(self, more: int) -> None:
        self.total += more
        if self.total > MAX_LARGE:
            raise TooLarge(f"more than {MAX_LARGE} bytes in one message")

    def _memfd(self, data: Any) -> int:
        fd = os.memfd_create("pysecure-rpc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.made.append(fd)
        view = memoryview(data)
        done = 0
        while done < len(data):
            done += os.write(fd, view[done:])
        # Not against writing: the reader copies before he looks, and that seal fails with EBUSY while the kernel has a page in hand.
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
        return fd

    def close(self) -> None:
        for fd in self.made:
            os.close(fd)
        self.made.clear()


def seal(elements: Any, area: Area | None = None) -> Message:
    """A message with these elements."""
    try:
        return _sealed(elements, Outgoing(within=False))
    except _Crowded:
        # Large bytes took the descriptors: they go within the message, all of it by memfd.
        return _sealed(elements, Outgoing(within=True))


def _sealed(elements: Any, to: Outgoing) -> Message:
    try:
        out = Out()
        pack_array(out, elements, 0, to)
        # What the receiver would refuse is not sent.
        if 1 + out.values > MAX_VALUES:
            raise TooLarge(f"more than {MAX_VALUES} values in one message")
        return Message(to.whole(out), to.fds, to.made, to.total)
    except BaseException:
        to.close()
        raise


# Reading messages.


class Incoming:
    """The descriptors that came with one message."""

    def __init__(self, fds: list[int], peer_area: PeerArea) -> None:
        self.fds = fds
        self.used: list[bool] = [False] * len(fds)
        self.peer_area = peer_area
        self.total = 0
        self.from_area = False

    def take(self, index: Any) -> int:
        """One of them, which is taken once."""
        if type(index) is not int or not 0 <= index < len(self.fds) or self.used[index]:
            raise ProtocolError("a descriptor is named that did not come, or twice")
        self.used[index] = True
        return self.fds[index]

    def grow(self, more: int) -> None:
        """So many bytes lie in memfds, besides the others."""
        self.total += more
        if self.total > MAX_LARGE:
            raise ProtocolError(f"more than {MAX_LARGE} bytes in memfds")

    def blob(self, parts: Any) -> bytes:
        if type(parts) is not list or len(parts) < 4:
            raise ProtocolError("a reference to a memfd is not four values")
        index, offset, length, keep = parts[:4]
        if type(offset) is not int or type(length) is not int or type(keep) is not bool or offset < 0 or length < 0:
            raise ProtocolError("a reference to a memfd has wrong types")
        self.grow(length)
        if type(index) is int and index == -1:
            if self.peer_area.fd < 0 or keep:
                raise ProtocolError("no area has been sent before")
            self.from_area = True
            return read_memfd(self.peer_area.fd, offset, length)
        fd = self.take(index)
        data = read_memfd(fd, offset, length)
        if keep:
            self.peer_area.close()
            self.peer_area.fd = fd
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
    """Copies bytes out of a memfd. All else than a memfd that cannot shrink is refused: reading it could take for ever. It is
    never mapped: pages that the sender left out would be taken from the reader's memory, or end the reader with SIGBUS."""
    try:
        seals = fcntl.fcntl(fd, F_GET_SEALS)
    except OSError as error:
        raise ProtocolError("a descriptor for bytes is not a memfd") from error
    if not seals & F_SEAL_SHRINK:
        raise ProtocolError("a memfd lacks F_SEAL_SHRINK")
    if offset + length > os.fstat(fd).st_size:
        raise ProtocolError("a memfd is shorter than the message says")
    data = b""
    while len(data) < length:
        try:
            more = os.pread(fd, length - len(data), offset + len(data))
        except OSError as error:
            # Opened for writing only, for one.
            raise ProtocolError(f"a memfd cannot be read: {error.strerror}") from error
        if not more:
            raise ProtocolError("a memfd is shorter than the message says")
        data += more
    return data


#: The longest name of a function that is looked for; a longer one is none, whatever follows.
_LONGEST_NAME = 1 << 12
#: What a value that came takes of memory, about.
_VALUE = 32


def _asked(data: bytes, whole: int) -> tuple[int, str | None] | None:
    """The number and the function of a CALL, before anything is made of its arguments; the name is None if it is longer than
    any. None for what is no CALL. `data` is the message's beginning, all of it or 8 KiB at the least; `whole` its length."""
    reader = Reader(data)
    if not data:
        raise ProtocolError("a message ends too soon")
    elements = reader.length(ARRAY)
    if not elements or not reader.an_integer() or reader.value(1) != 2:
        return None
    if elements < 5:
        raise ProtocolError("a CALL of less than five values")
    identity = reader.value(1) if reader.an_integer() else None
    if identity is None or not 0 < identity <= 1 << 53:
        raise ProtocolError("a CALL without a number")
    size = reader.length(STR)
    if size is None:
        raise ProtocolError("a CALL without a function's name")
    if size > _LONGEST_NAME and reader.pos + size <= whole:
        return identity, None
    return identity, reader.text(size)


def _refused(data: bytes, whole: int, functions: dict[str, Any] | None) -> list[Any] | None:
    """A CALL of what is none of these: its kind, number and name."""
    asked = None if functions is None else _asked(data, whole)
    if asked is None or functions is None or asked[1] in functions:
        return None
    return [2, asked[0], asked[1] or "(a name longer than any)"]


def open_call(data: bytes, fds: list[int], peer_area: PeerArea, functions: dict[str, Any]) -> list[Any]:
    """As `open_message`, in a service: a CALL of what is not in `functions` comes as its kind, number and name, and nothing is
    made of the rest."""
    return open_message(data, fds, peer_area, functions)


def open_message(data: bytes, fds: list[int], peer_area: PeerArea, functions: dict[str, Any] | None = None) -> list[Any]:
    """The elements of a message that came with these descriptors, which are closed if nothing in it takes them; with LARGE,
    of that which lies in its memfd."""
    given = Incoming(fds, peer_area)
    try:
        refused = _refused(data, len(data), functions)
        if refused is not None:
            return refused
        reader = Reader(data, given)
        value = reader.whole()
        if type(value) is list and value and value[0] == 0 and type(value[0]) is int:
            memfd, length = _large(value, given)
            if functions is not None:
                beginning = read_memfd(memfd, 0, min(length, 2 * _LONGEST_NAME))
                if _asked(beginning, length) is None:
                    raise ProtocolError("LARGE that is no CALL")  # what else a caller sends is short
                refused = _refused(beginning, length, functions)
                if refused is not None:
                    return refused
            reader = Reader(read_memfd(memfd, 0, length), given)
            value = reader.whole()
            if type(value) is list and value and value[0] == 0:
                raise ProtocolError("LARGE within LARGE")
        if type(value) is not list or not value or type(value[0]) is not int:
            raise ProtocolError("a message is not an array that begins with its kind")
        if not all(given.used):
            raise ProtocolError("a descriptor came that nothing names")
        peer_area.read += given.from_area
        peer_area.cost = len(data) + given.total + _VALUE * (MAX_VALUES - reader.left)
        return value
    finally:
        given.close()


def _large(message: list[Any], given: Incoming) -> tuple[int, int]:
    """The memfd of a LARGE, and how many bytes of it are a message."""
    length = message[1] if len(message) > 1 else None
    if type(length) is not int or not 0 < length <= MAX_LARGE or not given.fds:
        raise ProtocolError("LARGE without its length or its memfd")
    given.grow(length)
    return given.take(len(given.fds) - 1), length


__all__ = ["BLOB", "Area", "PeerArea", "Message", "open_call", "open_message", "pack", "seal", "unpack"]
