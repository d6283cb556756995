"""Messages that are none, sent to a service that has `add`, `reverse` and `count`: whatever its language, each is answered
as docs/reference/rpc-protocol.md says, and the service goes on.

`python3 malformed.py serve` is such a service in Python; `python3 malformed.py SOCKET PID` sends to one, and PID is the
process whose descriptors are counted.
"""

from __future__ import annotations

import array
import fcntl
import os
import pathlib
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from pysecure_rpc import _wire

SHRINK = fcntl.F_SEAL_SHRINK if hasattr(fcntl, "F_SEAL_SHRINK") else 2


class Raw(bytes):
    """Stands in a message as it is."""


def pack(value: Any) -> bytes:
    if isinstance(value, Raw):
        return value
    if type(value) is list:
        head = bytes([0x90 | len(value)]) if len(value) < 16 else struct.pack(">BH", 0xDC, len(value))
        return head + b"".join(pack(v) for v in value)
    if type(value) is dict:
        return bytes([0x80 | len(value)]) + b"".join(pack(k) + pack(v) for k, v in value.items())
    return _wire.pack(value)


def ext(kind: int, data: bytes) -> Raw:
    return Raw(struct.pack(">BHB", 0xC8, len(data), kind) + data)


def integer(data: bytes) -> Raw:
    """By the extension for integers that are too large for all else."""
    return ext(1, data)


WIDE = Raw(b"\xcf" + b"\xff" * 8)  # 2**64 - 1
BEYOND = integer((2**64).to_bytes(9, "big"))
ENDLESS = integer(b"\x7f" + b"\xff" * 20_000)  # more digits than Python shows
SURROGATE = ext(13, b"\xed\xb0\x80")
#: What is no number, and the numbers that no place has.
NO_NUMBERS = ["1", b"1", 1.0, float("nan"), float("inf"), True, [], {}, [1], -1, -(2**63), BEYOND, ENDLESS, ext(2, b"\x90"),
              ext(9, b"1"), Raw(b"\xd3" + b"\xff" * 8)]  # fmt: skip


def memfd(content: bytes = b"", seals: int = SHRINK, flags: int | None = None) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    if seals:
        fcntl.fcntl(fd, _wire.F_ADD_SEALS, seals)
    if flags is None:
        return fd
    other = os.open(f"/proc/self/fd/{fd}", flags)
    os.close(fd)
    return other


def not_memfds() -> Iterator[tuple[str, int]]:
    ours, theirs = os.pipe()
    os.close(theirs)
    yield "a pipe", ours
    yield "a device", os.open("/dev/zero", os.O_RDONLY)
    yield "a folder", os.open("/", os.O_RDONLY)
    yield "a file", os.open(tempfile.mkstemp()[1], os.O_RDWR)
    yield "a socket", socket.socket(socket.AF_UNIX).detach()
    yield "an unsealed memfd", memfd(b"x" * 100, 0)
    yield "a memfd that can shrink", memfd(b"x" * 100, _wire.F_SEAL_GROW)
    yield "a memfd for writing only", memfd(b"x" * 100, flags=os.O_WRONLY)
    yield "a memfd as a path", memfd(b"x" * 100, flags=os.O_PATH)
    yield "a memfd that is shorter", memfd(b"x" * 99)


Case = tuple[str, Any, list[int], str]


def cases() -> Iterator[Case]:
    """A name, the message, its descriptors, and what comes: an error's class, "ok", or "" for nothing."""
    add = [2, 1, "add", [40, 2], {}]

    def instead(at: int, value: Any, *more: Any) -> list[Any]:
        message = [*add, None, None, None, None]
        message[at] = value
        return [*message, *more]

    yield "a call", add, [], "ok"
    yield "a call with all that it may have", [*add, 1000, "00-x", 0, 5], [], "ok"
    yield "elements that nobody knows", instead(8, None, 1, "x", {}, [], SURROGATE), [], "ok"
    for size in range(1, 5):
        yield f"a call of {size} elements", add[:size], [], "BadMessage"
    # What is no message at all.
    for name, raw in {
        "nothing in it": b"\x90", "text": b"\xa1x", "a map": b"\x80", "a number": b"\x02", "nil": b"\xc0",
        "the byte that is none": b"\xc1", "cut short": pack(add)[:-1], "something behind": pack(add) + b"\xc0",
        "two": pack(add) * 2, "an array of 2**32 - 1": b"\xdd\xff\xff\xff\xff\x02", "text of 2**32 - 1": b"\x92\x02\xdb\xff\xff\xff\xff",
        "deep": b"\x91" * 200 + b"\x02", "not UTF-8": b"\x95\x02\x01\xa1\xff\x90\x80",
    }.items():  # fmt: skip
        yield name, Raw(raw), [], "BadMessage"
    for kind in [1, 3, 4, 5, 6, 9, 10, 11, 200, 2**31, 2**63 - 1, WIDE, None, *NO_NUMBERS]:
        yield f"kind {str(kind)[:20]}", instead(0, kind), [], "BadMessage"
    # Each place of a CALL.
    yield "id 2**53", instead(1, 2**53), [], "ok"
    for number in [0, 2**53 + 1, 2**63 - 1, WIDE, None, *NO_NUMBERS]:
        yield f"id {str(number)[:20]}", instead(1, number), [], "BadMessage"
    yield "no such function", instead(2, "nothing"), [], "NoSuchFunction"
    for name in [None, 1, b"add", ["add"], {}, True, 1.5, SURROGATE, ENDLESS]:
        yield f"function {str(name)[:20]}", instead(2, name), [], "BadMessage"
    for args in [None, 1, "x", b"x", {}, True, 1.5, ext(2, b"\x92\x01\x02"), ext(3, b"\x92\x01\x02")]:
        yield f"args {str(args)[:20]}", instead(3, args), [], "BadMessage"
    for args in [[], [1], [1, 2, 3], [1, "2"], [1, None], [1, 1.5], [SURROGATE, 1], [1, ext(9, b"1")], [[], {}]]:
        yield f"args {str(args)[:20]}", instead(3, args), [], "InvalidArguments"
    for kwargs in [None, 1, "x", [], True, {1: 2}, {b"a": 1}, {None: 1}, Raw(b"\x81\x90\x01"), Raw(b"\x82\xa1a\x01\xa1a\x01")]:
        yield f"kwargs {str(kwargs)[:30]}", instead(4, kwargs), [], "BadMessage"
    yield "kwargs that do not fit", instead(4, {"c": 1}), [], "InvalidArguments"
    yield "kwargs given twice", instead(4, {"a": 1}), [], "InvalidArguments"
    yield "kwargs", [2, 1, "add", [], {"a": 40, "b": 2}], [], "ok"
    for left in [1000, 2**31, 10**12, 2**53, 2**63 - 1, Raw(b"\xcf\x80" + bytes(7)), WIDE, Raw(b"\xd3" + (1000).to_bytes(8, "big"))]:
        yield f"deadline {str(left)[:20]}", instead(5, left), [], "ok"
        yield f"deadline {str(left)[:20]} of a stream", [2, 1, "count", [0], {}, left], [], "END"
    yield "deadline 0", instead(5, 0), [], "DeadlineExceeded"
    for left in NO_NUMBERS:
        yield f"deadline {str(left)[:20]}", instead(5, left), [], "BadMessage"
    for trace in ["", "00-" + "a" * 1000, "ä"]:
        yield f"trace {trace[:5]}", instead(6, trace), [], "ok"
    for trace in [1, b"x", [], {}, True, 1.5, SURROGATE]:
        yield f"trace {str(trace)[:20]}", instead(6, trace), [], "BadMessage"
    for read in [0, 1, 2**63 - 1, WIDE]:
        yield f"read {str(read)[:20]}", instead(7, read), [], "ok"
    for read in [*NO_NUMBERS, False, 0.0, ""]:
        yield f"read {str(read)[:20]}", instead(7, read), [], "BadMessage"
    for credit in [0, 1, 2**31]:
        yield f"credit {credit}", instead(8, credit), [], "ok"
    for credit in [2**31 + 1, 2**53, 2**63 - 1, WIDE, *NO_NUMBERS, False]:
        yield f"credit {str(credit)[:20]}", instead(8, credit), [], "BadMessage"
    # CREDIT and CANCEL.
    for kind, rest in [(7, [1]), (8, [])]:
        for number in [99, 2**53]:
            yield f"{kind} of {number}, which is not open", [kind, number, *rest, None, "x"], [], ""
        for number in [0, 2**53 + 1, WIDE, None, *NO_NUMBERS]:
            yield f"{kind} of {str(number)[:20]}", [kind, number, *rest], [], "BadMessage"
        yield f"{kind} alone", [kind], [], "BadMessage"
    for more in [1, 2**31]:
        yield f"credit of {more}", [7, 99, more], [], ""
    for more in [0, 2**31 + 1, WIDE, None, *NO_NUMBERS]:
        yield f"credit of {str(more)[:20]}", [7, 99, more], [], "BadMessage"
    yield "credit that is missing", [7, 99], [], "BadMessage"
    for read in [None, 0, 5, WIDE]:
        yield f"credit, read {str(read)[:20]}", [7, 99, 1, read], [], ""
    for read in NO_NUMBERS:
        yield f"credit, read {str(read)[:20]}", [7, 99, 1, read], [], "BadMessage"

    # Bytes in a memfd.
    def reverse(parts: Any) -> list[Any]:
        return [2, 1, "reverse", [ext(20, pack(parts))], {}]

    yield "bytes in a memfd", reverse([0, 0, 100, False]), [memfd(b"x" * 100)], "ok"
    yield "bytes in a memfd, and more", reverse([0, 50, 50, False, "x", {}]), [memfd(b"x" * 100)], "ok"
    yield "bytes to be kept", reverse([0, 0, 100, True]), [memfd(b"x" * 100)], "ok"
    yield "no bytes in a memfd", reverse([0, 0, 0, False]), [memfd()], "ok"
    yield "bytes in a memfd for reading only", reverse([0, 0, 100, False]), [memfd(b"x" * 100, flags=os.O_RDONLY)], "ok"
    for name, fd in not_memfds():
        yield f"bytes in {name}", reverse([0, 0, 100, False]), [fd], "BadMessage"
    for name, fd in not_memfds():
        yield f"bytes in {name}, to be kept", reverse([0, 0, 100, True]), [fd], "BadMessage"
    for at in range(4):
        for value in [2**62, 2**63 - 1, WIDE, None, *NO_NUMBERS, *([1] if at in (0, 3) else []), *([2, 101] if at == 1 else []), *([101] if at == 2 else [])]:
            if at == 3 and value is True:
                continue
            parts: list[Any] = [0, 0, 100, False]
            parts[at] = value
            yield f"bytes with {str(value)[:20]} at {at}", reverse(parts), [memfd(b"x" * 100)], "BadMessage"
    for parts in [[], [0], [0, 0], [0, 0, 100], {}, "x", 0, None]:
        yield f"bytes of {parts}", reverse(parts), [memfd(b"x" * 100)], "BadMessage"
    yield "bytes in no memfd", reverse([0, 0, 100, False]), [], "BadMessage"
    yield "bytes in no area", reverse([-1, 0, 100, False]), [], "BadMessage"
    yield "a descriptor that nothing names", add, [memfd()], "BadMessage"
    both = [ext(20, pack([0, 0, 100, False]))] * 2
    yield "a descriptor named twice", [2, 1, "reverse", both, {}], [memfd(b"x" * 100)], "BadMessage"
    yield "too many descriptors", add, [memfd() for _ in range(17)], "BadMessage"

    # LARGE.
    long = pack(add)
    yield "LARGE", [0, len(long)], [memfd(long)], "ok"
    yield "LARGE, and more", [0, len(long), "x", None], [memfd(long)], "ok"
    yield "LARGE in other words", Raw(b"\xdc\x00\x02\xcc\x00" + pack(len(long))), [memfd(long)], "ok"
    for name, fd in not_memfds():
        yield f"LARGE in {name}", [0, 100], [fd], "BadMessage"
    for length in [0, 1, len(long) - 1, len(long) + 1, 2**26 + 1, 2**63 - 1, WIDE, None, *NO_NUMBERS]:
        yield f"LARGE of {str(length)[:20]}", [0, length], [memfd(long)], "BadMessage"
    yield "LARGE without a length", [0], [memfd(long)], "BadMessage"
    yield "LARGE without a memfd", [0, len(long)], [], "BadMessage"
    within = pack([0, 5])
    yield "LARGE within LARGE", [0, len(within)], [memfd(long), memfd(within)], "BadMessage"


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(path)
    hello = _wire.unpack(sock.recv(65536))
    assert hello[0] == 1, hello
    return sock


def answer(sock: socket.socket) -> Any:
    data, fds, _, _ = socket.recv_fds(sock, 65536, 16)
    for fd in fds:
        os.close(fd)
    return _wire.unpack(data) if data else None


def goes_on(sock: socket.socket, number: int) -> bool:
    sock.send(pack([2, number, "pysecure.ping", [], {}]))
    return answer(sock) == [3, number, None]


def one(path: str, case: Case) -> str | None:
    """What is wrong with what came."""
    name, message, fds, wanted = case
    sock = connect(path)
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([pack(message)], control)
    for fd in fds:
        os.close(fd)
    came = answer(sock) if wanted else None
    if wanted == "BadMessage":
        if came is None or came[:3] != [4, 0, "pysecure.BadMessage"] or came[6] is not False:
            return f"{name}: {came}"
        end = answer(sock)
        return None if end is None else f"{name}: goes on after its end: {end}"
    number = message[1] if type(message) is list and type(message[1]) is int and message[0] == 2 else 1
    expected = {"ok": [3, number], "END": [6, number]}.get(wanted, [4, number, f"pysecure.{wanted}"])
    if wanted and (came is None or came[: len(expected)] != expected):
        return f"{name}: {came}"
    if not goes_on(sock, 5):
        return f"{name}: the connection does not go on"
    sock.close()
    return None


def main(path: str, pid: str) -> None:
    sys.set_int_max_str_digits(0)
    folder = pathlib.Path("/proc", pid, "fd")
    assert goes_on(connect(path), 1)
    before = len(list(folder.iterdir()))
    all_cases = 0
    wrong = []
    for case in cases():
        all_cases += 1
        try:
            problem = one(path, case)
        except (OSError, AssertionError) as error:
            problem = f"{case[0]}: {type(error).__name__}: {error}"
        if problem:
            wrong.append(problem)
    assert not wrong, f"{len(wrong)} of {all_cases}:\n" + "\n".join(wrong)
    # What came along was closed, as soon as the last connections are gone.
    while len(list(folder.iterdir())) > before:
        time.sleep(0.01)
    print(f"{all_cases} messages")


def serve() -> None:
    import pysecure_rpc
    from pysecure_rpc import rpc

    def add(a: int, b: int) -> int:
        return a + b

    def reverse(data: bytes) -> bytes:
        return data[::-1]

    def count(to: int) -> Iterator[int]:
        yield from range(to)

    for function in (add, reverse, count):
        rpc(run_as="vault")(function)
    pysecure_rpc.start_service("vault")


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else main(*sys.argv[1:])
