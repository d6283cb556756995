"""The kinds of value, and which of them come back as they went: the same type, and the same value.

    python3 benches/rpc/peers/python/value_types.py CODEC      a line of JSON: {kind: what came back}

Ours makes real calls, to the service that PYSECURE_RPC_DIR leads to; of the others only the codec is asked.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import sys
import typing
import uuid
from collections.abc import Callable
from typing import Any


class Colour(enum.Enum):
    RED = "r"


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


class Pair(typing.NamedTuple):
    a: int
    b: str


#: Name: a value, and its hint.
VALUE_TYPES: dict[str, tuple[Any, Any]] = {
    "none": (None, typing.Optional[int]),
    "int over 64 bits": (1 << 70, int),
    "int of 64 bits": ((1 << 64) - 1, int),
    "nan": (float("nan"), float),
    "infinity": (float("inf"), float),
    "complex": (1j, complex),
    "lone surrogate": ("\ud800", str),
    "bytes": (b"\x00\xff", bytes),
    "bytearray": (bytearray(b"x"), bytearray),
    "tuple": ((1, "a"), tuple[int, str]),
    "set": ({1, 2}, set[int]),
    "ints as keys": ({1: 2}, dict[int, int]),
    "tuples as keys": ({(1, 2): 3}, dict[tuple[int, int], int]),
    "datetime": (datetime.datetime(2026, 1, 2), datetime.datetime),
    "datetime of a zone": (datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), datetime.datetime),
    "date": (datetime.date(2026, 1, 2), datetime.date),
    "timedelta": (datetime.timedelta(seconds=1.5), datetime.timedelta),
    "decimal": (decimal.Decimal("1.10"), decimal.Decimal),
    "uuid": (uuid.UUID(int=5), uuid.UUID),
    "enum": (Colour.RED, Colour),
    "dataclass": (Point(1, [2]), Point),
    "named tuple": (Pair(1, "b"), Pair),
}


def _ours() -> Callable[[str, Any, Any], Any]:
    import functions

    return lambda name, value, _: functions.same[name](value)


def _msgspec() -> Callable[[str, Any, Any], Any]:
    from msgspec import msgpack

    return lambda _, value, hint: msgpack.decode(msgpack.encode(value), type=hint)


def _msgspec_without_hints() -> Callable[[str, Any, Any], Any]:
    from msgspec import msgpack

    return lambda _, value, __: msgpack.decode(msgpack.encode(value))


def _msgpack() -> Callable[[str, Any, Any], Any]:
    import msgpack

    return lambda _, value, __: msgpack.unpackb(msgpack.packb(value, datetime=True), timestamp=3, strict_map_key=False)


def _serpent() -> Callable[[str, Any, Any], Any]:
    import serpent

    return lambda _, value, __: serpent.loads(serpent.dumps(value))


def _json() -> Callable[[str, Any, Any], Any]:
    return lambda _, value, __: json.loads(json.dumps(value))


CODECS = {
    "ours": _ours,
    "msgspec": _msgspec,
    "msgspec-without-hints": _msgspec_without_hints,
    "serpent": _serpent,
    "msgpack": _msgpack,
    "json": _json,
}
SAME = "same"


def outcome(there_and_back: Callable[[str, Any, Any], Any], name: str) -> str:
    value, hint = VALUE_TYPES[name]
    try:
        back = there_and_back(name, value, hint)
    except Exception as error:  # each codec has its own
        return type(error).__name__
    if type(back) is not type(value):
        return f"a {type(back).__name__}"
    return SAME if back == value or (back != back and value != value) else "another value"


if __name__ == "__main__":
    import child

    child.find_package()
    # By its name, so that its classes are those that `functions` knows.
    import value_types

    codec = value_types.CODECS[sys.argv[1]]()
    print(json.dumps({name: value_types.outcome(codec, name) for name in value_types.VALUE_TYPES}))
