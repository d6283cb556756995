"""Both codecs held against msgspec's MessagePack, which is somebody else's: plain values are the same bytes, and of what is
hostile we take nothing that it would take for something else, and refuse nothing of what it takes but by a rule of ours."""

from __future__ import annotations

import os
import random
import struct
import typing
import unittest

import msgspec
import support  # noqa: F401
from test_both import alike, mutated

from pysecure_rpc import ProtocolError, _core, _wire

CODECS = (_wire, _core)
#: What docs/reference/rpc-protocol.md forbids and MessagePack does not.
STRICTER = ("twice", "key", "extension", "deep", "nested", "many values", "array", "0xc1")


def plain(chance: random.Random, depth: int = 0) -> typing.Any:
    """What MessagePack has by itself, without an extension."""
    pick = chance.randrange(6 if depth > 4 else 9)
    if pick == 0:
        return chance.choice([None, True, False])
    if pick in (1, 2):
        number = chance.getrandbits(chance.randrange(1, 65))
        return number if chance.random() < 0.5 else -(number >> 1) - 1
    if pick == 3:
        return struct.unpack(">d", chance.randbytes(8))[0]
    if pick == 4:
        return "".join(chr(chance.randrange(1, 0x800)) for _ in range(chance.choice([0, 5, 31, 32, 255, 256])))
    if pick == 5:
        return chance.randbytes(chance.choice([0, 1, 255, 256, 16_384]))
    many = chance.choice([0, 1, 3, 15, 16])
    if pick < 8:
        return [plain(chance, depth + 1) for _ in range(many)]
    return {chance.choice([str, int])(chance.getrandbits(60)): plain(chance, depth + 1) for _ in range(many)}


class AgainstMsgspec(unittest.TestCase):
    def test_plain_values_are_the_same_bytes(self) -> None:
        chance = random.Random(3)
        for _ in range(10_000):
            each = plain(chance)
            data = msgspec.msgpack.encode(each)
            for codec in CODECS:
                self.assertEqual(codec.pack(each), data)
                self.assertTrue(alike(codec.unpack(data), each), each)
            self.assertTrue(alike(msgspec.msgpack.decode(data), each), each)

    def test_hostile_messages(self) -> None:
        many = int(os.environ.get("PYSECURE_RPC_FRAMES", "40000"))
        chance = random.Random(5)
        seeds = [data for _ in range(400) if len(data := msgspec.msgpack.encode([plain(chance)])) < 600]
        both = refused = 0
        for _ in range(many):
            data = mutated(chance, seeds)
            try:
                theirs: typing.Any = [msgspec.msgpack.decode(data)]
            except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
                theirs = None
            for codec in CODECS:
                try:
                    ours = codec.unpack(data)
                except ProtocolError as error:
                    if theirs is not None and not extended(theirs[0]):
                        self.assertTrue(any(rule in str(error) for rule in STRICTER), (data, error, theirs))
                    refused += 1
                    continue
                if extended(theirs) or (theirs is None and has_extension(ours)):
                    continue
                both += 1
                self.assertIsNotNone(theirs, (data, ours))
                self.assertTrue(alike(ours, theirs[0]), (data, ours, theirs))
        self.assertGreater(both, many // 50)
        self.assertGreater(refused, many // 3)


def extended(value: typing.Any) -> bool:
    """Is there an extension in what msgspec made of it?"""
    if isinstance(value, (list, tuple)):
        return any(map(extended, value))
    if isinstance(value, dict):
        return any(extended(part) for pair in value.items() for part in pair)
    return type(value).__name__ in ("Ext", "datetime")


def has_extension(value: typing.Any) -> bool:
    """A value of ours that plain MessagePack has not."""
    if isinstance(value, list):
        return any(map(has_extension, value))
    if isinstance(value, dict):
        return any(has_extension(part) for pair in value.items() for part in pair)
    if type(value) is int:
        return not -(2**63) <= value < 2**64
    return type(value) not in (bool, float, str, bytes, type(None))


if __name__ == "__main__":
    unittest.main()
