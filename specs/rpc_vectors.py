#!/usr/bin/env python3
"""Writes specs/rpc-vectors.json; its format is docs/reference/rpc-protocol.md's, "Test vectors".

    python3 specs/rpc_vectors.py            writes the file
    python3 specs/rpc_vectors.py --check    fails if the file is not what would be written

Messages are put together here byte by byte, and by no encoder that is to be tested.
"""

from __future__ import annotations

import json
import pathlib
import struct
import sys
from typing import Any

FILE = pathlib.Path(__file__).resolve().parent / "rpc-vectors.json"

Json = Any
#: Bytes, or a part that stands so many times.
Part = bytes | tuple[bytes, int]


def hexed(parts: list[Part] | bytes) -> Json:
    """One text where there is nothing to repeat."""
    if isinstance(parts, bytes):
        return parts.hex()
    return [part.hex() if isinstance(part, bytes) else [part[0].hex(), part[1]] for part in parts]


# MessagePack's heads, in the shortest form.


def uint(n: int) -> bytes:
    for most, form in ((0x7F, "B"), (0xFF, "BB"), (0xFFFF, ">BH"), (0xFFFF_FFFF, ">BI"), (2**64 - 1, ">BQ")):
        if n <= most:
            marker = {"BB": 0xCC, ">BH": 0xCD, ">BI": 0xCE, ">BQ": 0xCF}.get(form)
            return struct.pack(form, n) if marker is None else struct.pack(form, marker, n)
    raise ValueError(n)


def integer(n: int) -> bytes:
    if n >= 0:
        return uint(n)
    if n >= -32:
        return struct.pack("b", n)
    for least, form, marker in ((-(2**7), ">Bb", 0xD0), (-(2**15), ">Bh", 0xD1), (-(2**31), ">Bi", 0xD2), (-(2**63), ">Bq", 0xD3)):
        if n >= least:
            return struct.pack(form, marker, n)
    raise ValueError(n)


def head(size: int, fix: int, below: int, wide: tuple[int | None, int, int]) -> bytes:
    if size < below:
        return bytes([fix | size])
    if size <= 0xFF and wide[0] is not None:
        return struct.pack("BB", wide[0], size)
    return struct.pack(">BH", wide[1], size) if size <= 0xFFFF else struct.pack(">BI", wide[2], size)


def text(value: str) -> bytes:
    data = value.encode()
    return head(len(data), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + data


def binary(data: bytes) -> bytes:
    return head(len(data), 0, 0, (0xC4, 0xC5, 0xC6)) + data


def array(*items: bytes) -> bytes:
    return head(len(items), 0x90, 16, (None, 0xDC, 0xDD)) + b"".join(items)


def mapping(*items: bytes) -> bytes:
    return head(len(items) // 2, 0x80, 16, (None, 0xDE, 0xDF)) + b"".join(items)


def ext(kind: int, data: bytes) -> bytes:
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(len(data))
    begin = bytes([fixed]) if fixed else head(len(data), 0, 0, (0xC7, 0xC8, 0xC9))
    return begin + struct.pack("b", kind) + data


def double(value: float) -> bytes:
    return b"\xcb" + struct.pack(">d", value)


NIL, FALSE, TRUE = b"\xc0", b"\xc2", b"\xc3"


def bits(value: float) -> Json:
    return {"float": struct.pack(">d", value).hex()}


# Values.

VALUES: list[Json] = []


def value(name: str, encoded: bytes | list[Part], is_: Json, shortest: bool = True) -> None:
    VALUES.append({"name": name, "bytes": hexed(encoded), "value": is_, "shortest": shortest})


def accepted(name: str, encoded: bytes | list[Part]) -> None:
    VALUES.append({"name": name, "bytes": hexed(encoded)})


def broken(name: str, encoded: bytes | list[Part], error: str) -> None:
    VALUES.append({"name": name, "bytes": hexed(encoded), "error": error})


def scalars() -> None:
    value("nil", NIL, None)
    value("true", TRUE, True)
    value("false", FALSE, False)
    edges = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
    for n in [*edges, -1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63)]:
        value(f"the integer {n}", integer(n), n)
    for n, longer in [
        (1, b"\xcc\x01"), (1, b"\xcd\x00\x01"), (1, b"\xce\x00\x00\x00\x01"), (1, b"\xcf" + bytes(7) + b"\x01"),
        (1, b"\xd0\x01"), (1, b"\xd1\x00\x01"), (1, b"\xd2\x00\x00\x00\x01"), (1, b"\xd3" + bytes(7) + b"\x01"),
        (-1, b"\xd0\xff"), (-1, b"\xd3" + b"\xff" * 8), (5, ext(1, b"\x05")), (-1, ext(1, b"\xff")), (5, ext(1, bytes(20) + b"\x05")),
        (2**64 - 1, ext(1, b"\x00" + b"\xff" * 8)),
    ]:  # fmt: skip
        value(f"the integer {n} as {longer.hex()}", longer, n, shortest=False)
    for data in [b"\x01" + bytes(8), b"\xff\x7f" + b"\xff" * 7, b"\x7f" + b"\xff" * 30]:
        value(f"the integer {int.from_bytes(data, 'big', signed=True):.3e}", ext(1, data), {"int": data.hex()})
    for number in [0.0, -0.0, 1.5, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")]:
        value(f"the float {number!r}", double(number), bits(number))
    value("a float of 32 bits", b"\xca\x3f\xc0\x00\x00", bits(1.5), shortest=False)
    value("no text", text(""), "")
    for size in [1, 31, 32, 255, 256, 65_535, 65_536]:
        value(f"text of {size} bytes", [text("a" * size)[: -size], (b"a", size)], {"repeat": ["a", size]})
    value("text of other scripts", text("ä€𝄞\0"), "ä€𝄞\0")
    for longer in [b"\xd9\x01a", b"\xda\x00\x01a", b"\xdb\x00\x00\x00\x01a"]:
        value(f"text as {longer.hex()}", longer, "a", shortest=False)
    value("text with a lone surrogate", ext(13, b"a\xed\xb0\x80"), {"surrogates": "61edb080"})
    value("no bytes", binary(b""), {"bytes": ""})
    for size in [1, 255, 256, 16_384]:
        value(f"{size} bytes", [binary(bytes(size))[: -size], (b"\x00", size)], {"bytes": {"repeat": ["00", size]}})
    value("bytes as c6", b"\xc6\x00\x00\x00\x01\xff", {"bytes": "ff"}, shortest=False)


def containers() -> None:
    value("an empty list", array(), [])
    value("a list of 15", [b"\x9f", (NIL, 15)], {"repeat": [None, 15]})
    value("a list of 16", [b"\xdc\x00\x10", (NIL, 16)], {"repeat": [None, 16]})
    value("a list of 65,536", [b"\xdd\x00\x01\x00\x00", (NIL, 65_536)], {"repeat": [None, 65_536]})
    value("lists of other lengths' forms", b"\xdc\x00\x01\xdd\x00\x00\x00\x01\xc3", [[True]], shortest=False)
    value("an empty map", mapping(), {"map": []})
    value("a map", mapping(text("a"), uint(1), text("b"), array(NIL)), {"map": [["a", 1], ["b", [None]]]})
    value("a map as de", b"\xde\x00\x01\xa1a\x01", {"map": [["a", 1]]}, shortest=False)
    value("a map as df", b"\xdf\x00\x00\x00\x01\xa1a\x01", {"map": [["a", 1]]}, shortest=False)
    sixteen = [part for n in range(16) for part in (uint(n), NIL)]
    value("a map of 16", mapping(*sixteen), {"map": [[n, None] for n in range(16)]})
    keys: list[tuple[bytes, Json]] = [
        (NIL, None), (uint(1), 1), (text("1"), "1"), (binary(b"1"), {"bytes": "31"}), (double(2.5), bits(2.5)),
        (ext(2, array(uint(1), text("x"))), {"tuple": [1, "x"]}), (ext(4, array(uint(1))), {"frozenset": [1]}),
        (ext(6, array(integer(2024), uint(2), uint(29))), {"date": [2024, 2, 29]}),
        (ext(10, bytes(range(16))), {"uuid": bytes(range(16)).hex()}),
    ]  # fmt: skip
    value("keys of every kind", mapping(*[part for key, _ in keys for part in (key, TRUE)]), {"map": [[key, True] for _, key in keys]})
    value("a tuple", ext(2, array(uint(1), text("x"), array())), {"tuple": [1, "x", []]})
    value("an empty tuple", ext(2, array()), {"tuple": []})
    value("a set", ext(3, array(uint(1))), {"set": [1]})
    value("a set of several", ext(3, array(uint(3), text("3"), NIL)), {"set": [3, "3", None]}, shortest=False)
    value("an empty set", ext(3, array()), {"set": []})
    value("a frozenset", ext(4, array(text("a"))), {"frozenset": ["a"]})
    value("a set of tuples", ext(3, array(ext(2, array(uint(1), uint(2))))), {"set": [{"tuple": [1, 2]}]})
    moment = [2024, 2, 29, 23, 59, 59, 999_999]
    for name, offset, fold in [("without a zone", None, 0), ("in UTC", 0, 0), ("an hour before UTC", -3_600_000_000, 1)]:
        parts = [*moment, offset, fold]
        value(f"a date and time {name}", ext(5, array(*[NIL if p is None else integer(p) for p in parts])), {"datetime": parts})
    for day in [[1, 1, 1], [9999, 12, 31], [2024, 2, 29]]:
        value(f"the date {day}", ext(6, array(*map(integer, day))), {"date": day})
    value("a time of day", ext(7, array(*map(integer, [23, 59, 59, 0]), integer(7_200_000_000), uint(0))), {"time": [23, 59, 59, 0, 7_200_000_000, 0]})
    value("a time of day without a zone", ext(7, array(*map(integer, [0, 0, 0, 1]), NIL, uint(1))), {"time": [0, 0, 0, 1, None, 1]})
    for span in [[0, 0, 0], [-999_999_999, 0, 0], [999_999_999, 86_399, 999_999]]:
        value(f"the span {span}", ext(8, array(*map(integer, span))), {"timedelta": span})
    for number in ["0", "-1.50", "1E+3", "NaN", "-Infinity", "0.1", "1E-7"]:
        value(f"the decimal {number}", ext(9, number.encode()), {"decimal": number})
    value("a complex number", ext(11, struct.pack(">dd", 1.5, -0.0)), {"complex": [bits(1.5)["float"], bits(-0.0)["float"]]})
    value("a member by name", ext(12, text("RED")), {"member": "RED"})
    value("a member by number", ext(12, uint(6)), {"member": 6})
    # The outermost is 1 deep, so 64 may lie in each other.
    accepted("64 lists in each other", [(b"\x91", 63), array()])
    accepted("63 lists and a tuple's two in each other", [(b"\x91", 62), ext(2, array())])
    accepted("a million values", [b"\xdd" + struct.pack(">I", 999_999), (NIL, 999_999)])


def broken_values() -> None:
    broken("nothing", b"", "truncated")
    for data in [b"\xcc", b"\xcd\x01", b"\xce\x01\x02\x03", b"\xcf" + bytes(7), b"\xd0", b"\xd3" + bytes(7), b"\xca\x00\x00\x00", b"\xcb" + bytes(7),
                 b"\xa2a", b"\xd9", b"\xd9\x02a", b"\xda\x00", b"\xc4\x01", b"\xc5\x00", b"\x91", b"\x92\x01", b"\xdc\x00", b"\x81\xa1a",
                 b"\xd4", b"\xd4\x01", b"\xc7\x02\x01\x00", b"\xc8\x00"]:  # fmt: skip
        broken(f"{data.hex()}, which ends too soon", data, "truncated")
    for what, data in {"text": b"\xdb", "bytes": b"\xc6", "a list": b"\xdd", "a map": b"\xdf", "an extension": b"\xc9"}.items():
        broken(f"{what} of 2³²−1", data + b"\xff" * 4 + b"\x02", "truncated")
    broken("a second value", b"\x01\x02", "trailing")
    broken("something within an extension, behind its value", ext(2, array() + NIL), "trailing")
    broken("the byte that is none", b"\xc1", "reserved")
    for what, data in {"a byte of its own": b"\xff", "cut short": b"\xe2\x82", "longer than need be": b"\xc0\x80", "a surrogate": b"\xed\xb0\x80",
                       "beyond Unicode": b"\xf4\x90\x80\x80"}.items():  # fmt: skip
        broken(f"text that is not UTF-8: {what}", head(len(data), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + data, "utf8")
    broken("text with surrogates that is not even that", ext(13, b"\xff"), "extension")
    broken("65 lists in each other", [(b"\x91", 64), array()], "depth")
    broken("64 lists and a tuple's two in each other", [(b"\x91", 63), ext(2, array())], "depth")
    broken("10,000 lists in each other", [(b"\x91", 10_000), NIL], "depth")
    broken("10,000 maps in each other", [(b"\x81\xa1a", 10_000), NIL], "depth")
    broken("a million values and one", [b"\xdd" + struct.pack(">I", 1_000_000), (NIL, 1_000_000)], "values")
    for what, key, again in [
        ("text", text("a"), text("a")), ("an integer", uint(1), b"\xcc\x01"), ("nil", NIL, NIL), ("both zeros", double(0.0), double(-0.0)),
        ("a tuple", ext(2, array(uint(1))), ext(2, array(uint(1)))), ("bytes", binary(b"a"), b"\xc5\x00\x01a"),
    ]:  # fmt: skip
        broken(f"a key twice: {what}", mapping(key, uint(1), key if key == again else again, uint(2)), "duplicate")
    names = [text(f"k{n}") for n in range(20)]
    broken("a key twice among many", mapping(*[part for name in [*names, names[3]] for part in (name, NIL)]), "duplicate")
    broken("an element twice", ext(3, array(uint(1), uint(1))), "duplicate")
    broken("an element of a frozenset twice", ext(4, array(text("a"), NIL, text("a"))), "duplicate")
    for what, key in {"a list": array(), "a map": mapping()}.items():
        broken(f"{what} as key", mapping(key, uint(1)), "key")
    for kind in [0, 14, 19, 22, 99, 127, -1, -128]:
        broken(f"extension {kind}", ext(kind, b"\x00"), "extension")
    for what, data in {
        "an integer of no bytes": ext(1, b""), "a tuple of text": ext(2, text("a")), "a tuple of nothing": ext(2, b""), "a set of a map": ext(3, mapping()),
        "a date and time of 8": ext(5, array(*map(integer, [2024, 1, 1, 0, 0, 0, 0, 0]))),
        "month 13": ext(6, array(integer(2024), uint(13), uint(1))), "30 February": ext(6, array(integer(2024), uint(2), uint(30))),
        "29 February in another year": ext(6, array(integer(2023), uint(2), uint(29))),
        "year 0": ext(6, array(uint(0), uint(1), uint(1))), "year 10,000": ext(6, array(integer(10_000), uint(1), uint(1))),
        "day 0": ext(6, array(integer(2024), uint(1), uint(0))), "a date with a fraction": ext(6, array(integer(2024), uint(1), double(1.0))),
        "a date that is a boolean": ext(6, array(integer(2024), uint(1), TRUE)), "a date with nil": ext(6, array(integer(2024), uint(1), NIL)),
        "hour 24": ext(7, array(uint(24), uint(0), uint(0), uint(0), NIL, uint(0))),
        "a million microseconds": ext(7, array(uint(0), uint(0), uint(0), integer(1_000_000), NIL, uint(0))),
        "a day's offset": ext(7, array(uint(0), uint(0), uint(0), uint(0), integer(86_400_000_000), uint(0))),
        "fold 2": ext(7, array(uint(0), uint(0), uint(0), uint(0), NIL, uint(2))),
        "a span of a thousand million days": ext(8, array(integer(1_000_000_000), uint(0), uint(0))),
        "no decimal": ext(9, b""), "a decimal in words": ext(9, b"one"), "a decimal with two points": ext(9, b"1.2.3"),
        "a decimal beyond ASCII": ext(9, "½".encode()), "a UUID of 15 bytes": ext(10, bytes(15)), "half a complex number": ext(11, bytes(8)),
        "a member that is a list": ext(12, array()), "a member that is nil": ext(12, NIL),
    }.items():  # fmt: skip
        broken(what, data, "truncated" if what == "a tuple of nothing" else "extension")


# Messages.

MESSAGES: list[Json] = []
CALL = [uint(2), uint(1), text("add"), array(uint(40), uint(2)), mapping()]
TAIL = [NIL, NIL, NIL, NIL]


def message(name: str, by: str, encoded: bytes | list[Part], descriptors: list[Json] | None = None, **outcome: Json) -> None:
    MESSAGES.append({"name": name, "from": by, "bytes": hexed(encoded), "descriptors": descriptors or [], **outcome})


def good(name: str, by: str, elements: list[bytes], means: Json, descriptors: list[Json] | None = None) -> None:
    message(name, by, array(*elements), descriptors, means=means)


def bad(name: str, by: str, elements: list[bytes], error: str, descriptors: list[Json] | None = None) -> None:
    message(name, by, array(*elements), descriptors, error=error)


def memfd(content: list[Part] | bytes, sealed: bool = True) -> Json:
    return {"memfd": hexed(content), "sealed": sealed}


def call(**other: Json) -> Json:
    means: Json = {"kind": "CALL", "id": 1, "function": "add", "args": [40, 2], "kwargs": []}
    return means | {"deadline": None, "traceparent": None, "read": None, "credit": None} | other


def instead(at: int, element: bytes, *more: bytes) -> list[bytes]:
    elements = [*CALL, *TAIL]
    elements[at] = element
    return [*elements, *more]


#: What is no number of any element, nor the largest of any.
NO_NUMBERS = {"text": text("1"), "bytes": binary(b"1"), "a float": double(1.0), "a boolean": TRUE, "a list": array(), "a map": mapping(),
              "-1": integer(-1), "-2⁶³": integer(-(2**63)), "2⁶⁴": ext(1, b"\x01" + bytes(8)), "a tuple": ext(2, array()), "a decimal": ext(9, b"1")}  # fmt: skip
SURROGATE = ext(13, b"\xed\xb0\x80")


def calls() -> None:
    good("a CALL", "caller", CALL, call())
    full = [*CALL, uint(1000), text("00-x"), uint(0), uint(5)]
    good("a CALL with all that it may have", "caller", full, call(deadline=1000, traceparent="00-x", read=0, credit=5))
    for many in range(1, 4):
        good(f"a CALL with {many} of what may be left out", "caller", [*CALL, *TAIL[:many]], call())
    good("a CALL with elements that nobody knows", "caller", [*CALL, *TAIL, uint(1), text("x"), mapping(), SURROGATE], call())
    bad("a CALL with an element that nobody knows and that is none", "caller", [*CALL, *TAIL, mapping(NIL, NIL, NIL, NIL)], "duplicate")
    named = [uint(2), uint(1), text("add"), array(), mapping(text("a"), uint(40), text("b"), uint(2))]
    good("a CALL with named arguments", "caller", named, call(args=[], kwargs=[["a", 40], ["b", 2]]))
    good("a CALL of a function with a long name", "caller", [uint(2), uint(1), text("f" * 300), array(), mapping()], call(function="f" * 300, args=[]))
    longer = b"\xdc\x00\x05\xcc\x02\xcd\x00\x01\xd9\x03add\xdc\x00\x02\xcc\x28\xcc\x02\xde\x00\x00"
    message("a CALL in longer forms", "caller", longer, means=call())
    message("a CALL of 65,536 bytes", "caller", [b"\x95\x02\x01\xa3add\x92\x28\xda" + struct.pack(">H", 65_536 - 12), (b"a", 65_536 - 12), b"\x80"], means=call(args=[40, {"repeat": ["a", 65_536 - 12]}]))
    for size in range(1, 5):
        bad(f"a CALL of {size} elements", "caller", CALL[:size], "missing")
    good("id 2⁵³", "caller", instead(1, uint(2**53)), call(id=2**53))
    for what, element in {"0": uint(0), "2⁵³ + 1": uint(2**53 + 1), "2⁶⁴ − 1": uint(2**64 - 1), "nil": NIL, **NO_NUMBERS}.items():
        bad(f"a CALL whose id is {what}", "caller", instead(1, element), "id")
    for what, element in {"nil": NIL, "a number": uint(1), "bytes": binary(b"add"), "a list": array(text("add")), "text with surrogates": SURROGATE}.items():
        bad(f"a CALL whose function is {what}", "caller", instead(2, element), "function")
    for what, element in {"nil": NIL, "a number": uint(1), "text": text("x"), "a map": mapping(), "a tuple": ext(2, array(uint(40), uint(2)))}.items():
        bad(f"a CALL whose args are {what}", "caller", instead(3, element), "args")
    for what, element in {"nil": NIL, "a list": array(), "a map by number": mapping(uint(1), uint(2)), "a map by bytes": mapping(binary(b"a"), uint(1))}.items():
        bad(f"a CALL whose kwargs are {what}", "caller", instead(4, element), "kwargs")
    bad("a CALL with a named argument twice", "caller", instead(4, mapping(text("a"), uint(1), text("a"), uint(1))), "duplicate")
    for left in [0, 1000, 10**12, 2**63, 2**64 - 1]:
        good(f"deadline {left}", "caller", instead(5, uint(left)), call(deadline=left))
    good("read 2⁶⁴ − 1", "caller", instead(7, uint(2**64 - 1)), call(read=2**64 - 1))
    for credit in [0, 1, 2**31]:
        good(f"credit {credit}", "caller", instead(8, uint(credit)), call(credit=credit))
    for what, element in NO_NUMBERS.items():
        bad(f"a CALL whose deadline is {what}", "caller", instead(5, element), "deadline")
        bad(f"a CALL whose read is {what}", "caller", instead(7, element), "read")
        bad(f"a CALL whose credit is {what}", "caller", instead(8, element), "credit")
    bad("a CALL whose credit is 2³¹ + 1", "caller", instead(8, uint(2**31 + 1)), "credit")
    for what, element in {"a number": uint(1), "bytes": binary(b"x"), "a list": array(), "text with surrogates": SURROGATE}.items():
        bad(f"a CALL whose traceparent is {what}", "caller", instead(6, element), "traceparent")


def other_messages() -> None:
    good("CREDIT", "caller", [uint(7), uint(9), uint(1)], {"kind": "CREDIT", "id": 9, "count": 1, "read": None})
    full = {"kind": "CREDIT", "id": 9, "count": 2**31, "read": 5}
    good("CREDIT with all but more", "caller", [uint(7), uint(9), uint(2**31), uint(5)], full)
    good("CREDIT with more", "caller", [uint(7), uint(9), uint(2**31), uint(5), text("x")], full)
    good("CANCEL", "caller", [uint(8), uint(2**53)], {"kind": "CANCEL", "id": 2**53})
    for what, element in {"0": uint(0), "2⁵³ + 1": uint(2**53 + 1), "nil": NIL, **NO_NUMBERS}.items():
        bad(f"CREDIT whose id is {what}", "caller", [uint(7), element, uint(1)], "id")
        bad(f"CANCEL whose id is {what}", "caller", [uint(8), element], "id")
    for what, element in {"0": uint(0), "2³¹ + 1": uint(2**31 + 1), "nil": NIL, **NO_NUMBERS}.items():
        bad(f"CREDIT of {what}", "caller", [uint(7), uint(9), element], "credit")
    for what, element in NO_NUMBERS.items():
        bad(f"CREDIT whose read is {what}", "caller", [uint(7), uint(9), uint(1), element], "read")
    bad("CREDIT without a count", "caller", [uint(7), uint(9)], "missing")
    bad("CREDIT alone", "caller", [uint(7)], "missing")
    bad("CANCEL alone", "caller", [uint(8)], "missing")
    hello = [uint(1), uint(1), text("auth"), text("web"), mapping(text("login"), uint(17325774674193137378))]
    means = {"kind": "HELLO", "version": 1, "service": "auth", "caller": "web", "functions": [["login", 17325774674193137378]]}
    good("HELLO", "service", hello, means)
    good("HELLO to nobody by name", "service", [*hello[:3], NIL, mapping()], means | {"caller": None, "functions": []})
    good("HELLO with more", "service", [*hello, uint(1)], means)
    bad("HELLO of another version", "service", [uint(1), uint(2), *hello[2:]], "version")
    bad("HELLO of no version", "service", [uint(1), text("1"), *hello[2:]], "version")
    bad("HELLO of nobody", "service", [uint(1), uint(1), NIL, *hello[3:]], "hello")
    bad("HELLO to a number", "service", [*hello[:3], uint(1), hello[4]], "hello")
    bad("HELLO with a list of functions", "service", [*hello[:4], array(text("login"))], "hello")
    bad("HELLO with a hash that is none", "service", [*hello[:4], mapping(text("login"), text("x"))], "hello")
    bad("HELLO with a function without a name", "service", [*hello[:4], mapping(uint(1), uint(1))], "hello")
    bad("HELLO without functions", "service", hello[:4], "missing")
    for number, kind in [(3, "OK"), (5, "ITEM"), (6, "END")]:
        good(kind, "service", [uint(number), uint(1), text("x")], {"kind": kind, "id": 1, "value": "x"})
        good(f"{kind} with more", "service", [uint(number), uint(1), NIL, uint(1)], {"kind": kind, "id": 1, "value": None})
        bad(f"{kind} without a value", "service", [uint(number), uint(1)], "missing")
        bad(f"{kind} of nothing", "service", [uint(number), uint(0), NIL], "id")
        bad(f"{kind} of text", "service", [uint(number), text("1"), NIL], "id")
    error = [uint(4), uint(1), text("ValueError"), text("no such user"), array(text("alice")), NIL, TRUE]
    means = {"kind": "ERR", "id": 1, "class": "ValueError", "message": "no such user", "args": ["alice"], "traceback": None, "ran": True}
    good("ERR", "service", error, means)
    good("ERR of the connection", "service", [uint(4), uint(0), *error[2:]], means | {"id": 0})
    good("ERR with a traceback, before it ran", "service", [*error[:5], text("line 1"), FALSE], means | {"traceback": "line 1", "ran": False})
    for at, what in [(2, "class"), (3, "message"), (4, "args"), (6, "ran")]:
        bad(f"ERR whose {what} is nil", "service", [*error[:at], NIL, *error[at + 1 :]], "error")
    bad("ERR whose traceback is a list", "service", [*error[:5], array(), TRUE], "error")
    bad("ERR that does not say whether it ran", "service", error[:6], "missing")
    good("GOAWAY", "service", [uint(9), text("the service ends")], {"kind": "GOAWAY", "reason": "the service ends"})
    bad("GOAWAY without a reason", "service", [uint(9)], "missing")
    bad("GOAWAY for a number", "service", [uint(9), uint(1)], "goaway")
    # What is no message, and what only the other side says.
    for by in ("caller", "service"):
        for what, data in {"text": text("x"), "a map": mapping(), "a number": uint(2), "nil": NIL, "an empty list": array()}.items():
            message(f"{what} from a {by}", by, data, error="array" if what != "an empty list" else "missing")
        for what, element in {"10": uint(10), "2⁶³ − 1": uint(2**63 - 1), "nil": NIL, **NO_NUMBERS}.items():
            bad(f"a message from a {by} of the kind {what}", by, [element, uint(1), text("x"), array(), mapping()], "kind")
        message(f"a message from a {by} that ends too soon", by, array(*CALL)[:-1] if by == "caller" else array(*error)[:-1], error="truncated")
        message(f"two messages from a {by}", by, (array(*CALL) if by == "caller" else array(*error)) * 2, error="trailing")
    for number in (1, 3, 4, 5, 6, 9):
        bad(f"{number} from a caller", "caller", [uint(number), uint(1), text("x"), array(), mapping(), NIL, NIL], "kind")
    for number in (2, 7, 8):
        bad(f"{number} from a service", "service", [uint(number), uint(1), text("x"), array(), mapping()], "kind")


def by_descriptor() -> None:
    hundred = memfd([(b"x", 100)])

    def taking(*parts: bytes) -> list[bytes]:
        return [uint(2), uint(1), text("add"), array(ext(20, array(*parts))), mapping()]

    def taken(size: int) -> Json:
        return call(args=[{"bytes": {"repeat": ["78", size]}}])

    good("bytes in a memfd", "caller", taking(uint(0), uint(0), uint(100), FALSE), taken(100), [hundred])
    good("some of the bytes in a memfd, and more", "caller", taking(uint(0), uint(50), uint(50), FALSE, text("x")), taken(50), [hundred])
    good("bytes to be kept", "caller", taking(uint(0), uint(0), uint(100), TRUE), taken(100), [hundred])
    good("no bytes in a memfd", "caller", taking(uint(0), uint(0), uint(0), FALSE), taken(0), [memfd(b"")])
    good("bytes in a memfd in an answer", "service", [uint(3), uint(1), ext(20, array(uint(0), uint(0), uint(100), FALSE))],
         {"kind": "OK", "id": 1, "value": {"bytes": {"repeat": ["78", 100]}}}, [hundred])  # fmt: skip
    kept = [uint(2), uint(1), text("add"), array(ext(20, array(uint(0), uint(0), uint(100), TRUE)), ext(20, array(integer(-1), uint(50), uint(50), FALSE))), mapping()]
    good("bytes in the area that came before them", "caller", kept, call(args=[{"bytes": {"repeat": ["78", 100]}}, {"bytes": {"repeat": ["78", 50]}}]), [hundred])
    no_memfds = {"a memfd without a seal": memfd([(b"x", 100)], sealed=False), "a pipe": "pipe", "a device": "null"}
    for what, other in no_memfds.items():
        bad(f"bytes in {what}", "caller", taking(uint(0), uint(0), uint(100), FALSE), "memfd", [other])
        bad(f"bytes in {what}, to be kept", "caller", taking(uint(0), uint(0), uint(100), TRUE), "memfd", [other])
    for offset, size in [(0, 101), (1, 100), (101, 0), (2**62, 1)]:
        bad(f"{size} bytes from {offset} of 100", "caller", taking(uint(0), uint(offset), uint(size), FALSE), "beyond", [hundred])
    bad("more bytes than a message may have", "caller", taking(uint(0), uint(0), uint(2**26 + 1), FALSE), "large", [hundred])
    for at, what in enumerate(["descriptor", "offset", "length", "keep"]):
        for name, element in {"nil": NIL, **NO_NUMBERS}.items():
            if (at == 3 and name == "a boolean") or (at == 0 and name in ("-1", "-2⁶³")):
                continue
            parts = [uint(0), uint(0), uint(100), FALSE]
            parts[at] = element
            # A container within is found before it is known for what it would stand.
            bad(f"bytes whose {what} is {name}", "caller", taking(*parts), "extension", [hundred])
    for many in range(4):
        bad(f"bytes of {many} parts", "caller", taking(*[uint(0), uint(0), uint(100), FALSE][:many]), "extension", [hundred])
    bad("bytes in no list", "caller", [*CALL[:3], array(ext(20, mapping())), mapping()], "extension", [hundred])
    bad("bytes in a descriptor that did not come", "caller", taking(uint(0), uint(0), uint(100), FALSE), "descriptor")
    bad("bytes in the descriptor before the first", "caller", taking(integer(-2), uint(0), uint(100), FALSE), "descriptor", [hundred])
    bad("bytes in an area that there is not", "caller", taking(integer(-1), uint(0), uint(100), FALSE), "area")
    bad("bytes to be kept in an area", "caller", taking(integer(-1), uint(0), uint(100), TRUE), "area")
    once = ext(20, array(uint(0), uint(0), uint(100), FALSE))
    bad("a descriptor that is named twice", "caller", [*CALL[:3], array(once, once), mapping()], "descriptor", [hundred])
    bad("a descriptor that nothing names", "caller", CALL, "unnamed", [hundred])
    bad("a descriptor of an answer that nothing names", "service", [uint(3), uint(1), NIL], "unnamed", ["null"])
    good("a descriptor", "caller", [*CALL[:3], array(ext(21, array(uint(0)))), mapping()], call(args=[{"fd": 0}]), ["null"])
    sixteen = [ext(21, array(uint(n))) for n in range(15, -1, -1)]
    good("16 descriptors", "caller", [*CALL[:3], array(*sixteen), mapping()], call(args=[{"fd": n} for n in range(15, -1, -1)]), ["null"] * 16)
    bad("a descriptor that did not come", "caller", [*CALL[:3], array(ext(21, array(uint(1)))), mapping()], "descriptor", ["null"])
    for what, inner in {"nothing": array(), "text": array(text("0")), "a map": mapping(), "a boolean": array(FALSE)}.items():
        bad(f"a descriptor by {what}", "caller", [*CALL[:3], array(ext(21, inner)), mapping()], "extension", ["null"])
    # LARGE.
    long = array(*CALL)
    by = "caller"
    good("LARGE", by, [uint(0), uint(len(long))], call(), [memfd(long)])
    good("LARGE with more", by, [uint(0), uint(len(long)), text("x"), NIL], call(), [memfd(long)])
    message("LARGE in longer forms", by, b"\xdc\x00\x02\xcc\x00" + b"\xcd" + struct.pack(">H", len(long)), [memfd(long)], means=call())
    body = [array(*CALL[:3], NIL, NIL)[:-2] + b"\x92\x28\xdb" + struct.pack(">I", 200_000), (b"a", 200_000), b"\x80"]
    size = sum(len(p) if isinstance(p, bytes) else len(p[0]) * p[1] for p in body)
    good("a CALL of 200,000 bytes", by, [uint(0), uint(size)], call(args=[40, {"repeat": ["a", 200_000]}]), [memfd(body)])
    answer = array(uint(3), uint(1), text("x"))
    good("LARGE from a service", "service", [uint(0), uint(len(answer))], {"kind": "OK", "id": 1, "value": "x"}, [memfd(answer)])
    both = array(*CALL[:3], array(ext(21, array(uint(0)))), mapping())
    good("LARGE with a descriptor", by, [uint(0), uint(len(both))], call(args=[{"fd": 0}]), ["null", memfd(both)])
    for what, element in {"0": uint(0), "2²⁶ + 1": uint(2**26 + 1), "2⁶⁴ − 1": uint(2**64 - 1), "nil": NIL, **NO_NUMBERS}.items():
        bad(f"LARGE whose length is {what}", by, [uint(0), element], "large", [memfd(long)])
    bad("LARGE without a length", by, [uint(0)], "missing", [memfd(long)])
    bad("LARGE without a memfd", by, [uint(0), uint(len(long))], "descriptor")
    bad("LARGE that is longer than its memfd", by, [uint(0), uint(len(long) + 1)], "beyond", [memfd(long)])
    bad("LARGE that is cut short", by, [uint(0), uint(len(long) - 1)], "truncated", [memfd(long)])
    for what, other in no_memfds.items():
        bad(f"LARGE in {what}", by, [uint(0), uint(100)], "memfd", [other])
    within = array(uint(0), uint(5))
    bad("LARGE within LARGE", by, [uint(0), uint(len(within))], "kind", [memfd(long), memfd(within)])
    cancel = array(uint(8), uint(1))
    bad("CANCEL by LARGE", by, [uint(0), uint(len(cancel))], "kind", [memfd(cancel)])
    bad("LARGE with a descriptor that nothing names", by, [uint(0), uint(len(long))], "unnamed", ["null", memfd(long)])


def corpus() -> str:
    scalars()
    containers()
    broken_values()
    calls()
    other_messages()
    by_descriptor()
    for vectors in (VALUES, MESSAGES):
        names = [vector["name"] for vector in vectors]
        assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)

    def lines(vectors: list[Json]) -> str:
        return "[\n" + ",\n".join("  " + json.dumps(vector, ensure_ascii=False) for vector in vectors) + "\n ]"

    about = "Written by specs/rpc_vectors.py; docs/reference/rpc-protocol.md, Test vectors, says how to read it."
    return f'{{\n "about": {json.dumps(about)},\n "version": 1,\n "values": {lines(VALUES)},\n "messages": {lines(MESSAGES)}\n}}\n'


def main() -> None:
    text = corpus()
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text() != text:
            sys.exit(f"{FILE} is not what {pathlib.Path(__file__).name} writes: run it without --check")
    else:
        FILE.write_text(text)
        print(f"{len(VALUES)} values and {len(MESSAGES)} messages")


if __name__ == "__main__":
    main()
