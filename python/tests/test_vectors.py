"""specs/rpc-vectors.json against the codec: each value and message decodes to what stands there, or is refused; and what is written
in the shortest form is written the same. What is wrong with a message as such is refused by who reads it of a caller's, or of a service's."""

from __future__ import annotations

import fcntl
import json
import math
import os
import struct
import subprocess
import sys
import unittest
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import support

from pysecure_rpc import Fd, ProtocolError, _codec, _messages
from pysecure_rpc._values import Member

SPECS = support.HERE.parent.parent / "specs"
VECTORS = json.loads((SPECS / "rpc-vectors.json").read_text())


def data(parts: Any) -> bytes:
    """Bytes as they stand in the file: in hexadecimal, or such and parts that stand several times."""
    if isinstance(parts, str):
        return bytes.fromhex(parts)
    return b"".join(bytes.fromhex(p) if isinstance(p, str) else bytes.fromhex(p[0]) * p[1] for p in parts)


def zone(micros: int | None) -> timezone | None:
    return None if micros is None else timezone(timedelta(microseconds=micros))


def double(bits: str) -> float:
    return float(struct.unpack(">d", bytes.fromhex(bits))[0])


def value(written: Any, descriptors: list[int] | None = None) -> Any:
    """A value as it stands in the file."""
    if isinstance(written, list):
        return [value(v, descriptors) for v in written]
    if not isinstance(written, dict):
        return written
    ((kind, of),) = written.items()
    match kind:
        case "repeat":
            return of[0] * of[1] if isinstance(of[0], str) else [value(of[0])] * of[1]
        case "int":
            return int.from_bytes(bytes.fromhex(of), "big", signed=True)
        case "float":
            return double(of)
        case "surrogates":
            return bytes.fromhex(of).decode("utf-8", "surrogatepass")
        case "bytes":
            return bytes.fromhex(of) if isinstance(of, str) else bytes.fromhex(of["repeat"][0]) * of["repeat"][1]
        case "map":
            return {value(k, descriptors): value(v, descriptors) for k, v in of}
        case "tuple" | "set" | "frozenset":
            return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](value(of, descriptors))
        case "datetime":
            return datetime(*of[:7], tzinfo=zone(of[7]), fold=of[8])
        case "date":
            return date(*of)
        case "time":
            return time(*of[:4], tzinfo=zone(of[4]), fold=of[5])
        case "timedelta":
            return timedelta(*of)
        case "decimal":
            return Decimal(of)
        case "uuid":
            return UUID(of)
        case "complex":
            return complex(double(of[0]), double(of[1]))
        case "member":
            return Member(of)
        case "fd":
            assert descriptors is not None
            return os.fstat(descriptors[of])
        case _:
            raise AssertionError(kind)


def plain(value: Any) -> Any:
    """So that it can be compared with another: NaN, the zeros' signs, types, and descriptors by what they are of."""
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else struct.pack(">d", value))
    if isinstance(value, Fd):
        value = os.fstat(value.fileno())
    if isinstance(value, os.stat_result):
        return (value.st_dev, value.st_ino, value.st_rdev)
    if isinstance(value, list | tuple):
        return (type(value), [plain(v) for v in value])
    if isinstance(value, set | frozenset):
        return (type(value), value)
    if isinstance(value, dict):
        return (dict, [(plain(k), plain(v)) for k, v in value.items()])
    if isinstance(value, datetime | time):
        return (type(value), value.isoformat(), value.fold)
    if isinstance(value, Decimal | complex | Member):
        return (type(value), repr(value))
    return (type(value), value)


def descriptor(what: Any) -> int:
    if what == "null":
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    if what == "pipe":
        ours, theirs = os.pipe()
        os.close(theirs)
        return ours
    fd = os.memfd_create("vector", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data(what["memfd"]))
    if what["sealed"]:
        fcntl.fcntl(fd, getattr(fcntl, "F_ADD_SEALS", 1033), 2)  # F_SEAL_SHRINK
    return fd


def elements(means: Any) -> list[Any]:
    """A message's elements, as far as it says what they are."""
    kind, *rest = means.items()
    number = ["LARGE", "HELLO", "CALL", "OK", "ERR", "ITEM", "END", "CREDIT", "CANCEL", "GOAWAY"].index(kind[1])
    return [number, *[{"map": v} if k in ("kwargs", "functions") else v for k, v in rest]]


class Values(unittest.TestCase):
    def test_values_are_what_the_file_says(self) -> None:
        for vector in VECTORS["values"]:
            with self.subTest(vector["name"]):
                encoded = data(vector["bytes"])
                if "error" in vector:
                    with self.assertRaises(ProtocolError):
                        _codec.unpack(encoded)
                    continue
                decoded = _codec.unpack(encoded)
                if "value" in vector:
                    expected = value(vector["value"])
                    self.assertEqual(plain(decoded), plain(expected))
                    if vector["shortest"]:
                        self.assertEqual(_codec.pack(expected), encoded)


class Messages(unittest.TestCase):
    def test_messages_are_what_the_file_says(self) -> None:
        for vector in VECTORS["messages"]:
            with self.subTest(vector["name"]):
                fds = [descriptor(what) for what in vector["descriptors"]]
                known = [os.dup(fd) for fd in fds]
                try:
                    if "error" in vector:
                        with self.assertRaises(ProtocolError):
                            if vector["from"] == "caller":
                                _messages.parse(_codec.open_call(data(vector["bytes"]), fds, _codec.PeerArea(), {"add": None}))
                            else:
                                _messages.parse_answer(_codec.open_message(data(vector["bytes"]), fds, _codec.PeerArea()))
                        continue
                    if vector["from"] == "service" and list(vector["means"].values())[0] != "LARGE":
                        again = [os.dup(fd) for fd in fds]
                        _messages.parse_answer(_codec.open_message(data(vector["bytes"]), again, _codec.PeerArea()))
                    came = _codec.open_message(data(vector["bytes"]), fds, _codec.PeerArea())
                    expected = [value(v, known) for v in elements(vector["means"])]
                    came += [None] * (len(expected) - len(came))
                    self.assertEqual(plain(came[: len(expected)]), plain(expected))
                finally:
                    for fd in known:
                        os.close(fd)


class File(unittest.TestCase):
    def test_it_is_what_its_generator_writes(self) -> None:
        subprocess.run([sys.executable, SPECS / "rpc_vectors.py", "--check"], check=True)


if __name__ == "__main__":
    unittest.main()
