"""The compiled core's codec held against the plain one: the same bytes for the same value, and of every message the same
value or a refusal by both."""

from __future__ import annotations

import os
import random
import resource
import struct
import typing
import unittest

import support  # noqa: F401
from functions import KINDS

from pysecure_rpc import ProtocolError, TooLarge, _core, _hints, _wire

INTERESTING = bytes(range(0xC0, 0x100)) + b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf" + bytes(range(1, 22))


def alike(one: typing.Any, other: typing.Any) -> bool:
    """Equal, of the same types all the way down, and with NaN equal to itself."""
    if type(one) is not type(other):
        return False
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if type(one) is dict:
        return len(one) == len(other) and all(map(alike, one.items(), other.items()))
    if type(one) is float:
        return struct.pack(">d", one) == struct.pack(">d", other) or (one != one and other != other)
    return one == other or repr(one) == repr(other)


def value(chance: random.Random, depth: int = 0) -> typing.Any:
    pick = chance.randrange(12 if depth > 4 else 18)
    if pick == 0:
        return chance.choice([None, True, False])
    if pick in (1, 2):
        return chance.choice([1, -1]) * chance.getrandbits(chance.randrange(1, 140))
    if pick == 3:
        return struct.unpack(">d", chance.randbytes(8))[0]
    if pick in (4, 5):
        return "".join(chr(chance.randrange(1, 0x800)) for _ in range(chance.randrange(40)))
    if pick == 6:
        return chance.randbytes(chance.choice([0, 1, 255, 256, 70_000]))
    if pick < 12:
        hint, values = chance.choice(list(KINDS.values()))
        return _hints.compile_hint(hint).dump(chance.choice(values))
    many = chance.randrange(5)
    if pick < 14:
        return [value(chance, depth + 1) for _ in range(many)]
    if pick == 14:
        return tuple(value(chance, depth + 1) for _ in range(many))
    if pick == 15:
        return {chance.getrandbits(40) for _ in range(many)}
    return {chance.randbytes(3): value(chance, depth + 1) for _ in range(many)}


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    pick = chance.random()
    if pick < 0.15:
        return chance.randbytes(chance.randrange(64))
    changed = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(changed) + 1)
        if pick < 0.5 and at < len(changed):
            changed[at] = chance.choice(INTERESTING)
        elif pick < 0.75:
            changed[at:at] = chance.choices(INTERESTING, k=chance.randrange(1, 6))
        else:
            del changed[at : at + chance.randrange(1, 6)]
    return bytes(changed)


class Both(unittest.TestCase):
    def test_the_same_bytes_for_the_same_value(self) -> None:
        chance = random.Random(7)
        for _ in range(20_000):
            each = value(chance)
            data = _wire.pack(each)
            self.assertEqual(_core.pack(each), data)
            self.assertTrue(alike(_core.unpack(data), _wire.unpack(data)), each)

    def test_the_same_refusals_of_values(self) -> None:
        deep: typing.Any = 2**70
        for depth in range(70):
            for each in ([deep], (deep,), {1: deep}, [b"x" * 20_000] if depth == 0 else [deep]):
                outcomes = []
                for codec in (_wire, _core):
                    try:
                        outcomes.append(codec.pack(each))
                    except TooLarge:
                        outcomes.append(None)
                self.assertEqual(outcomes[0], outcomes[1], depth)
            deep = chance_nest(deep, depth)
        for each in (object(), os, KINDS["enum"][1][0], KINDS["dataclass"][1][0], lambda: 1):
            for codec in (_wire, _core):
                with self.assertRaises(TypeError):
                    codec.pack(each)

    def test_the_same_of_hostile_messages(self) -> None:
        many = int(os.environ.get("PYSECURE_RPC_FRAMES", "200000"))
        chance = random.Random(11)
        seeds = [data for _ in range(400) if len(data := _wire.pack([2, 1, "f", [value(chance)], {}])) < 600]
        taken = refused = 0
        plain_area, peer_area = _wire.PeerArea(), _core.PeerArea()
        before = 0
        for at in range(many):
            data = mutated(chance, seeds)
            try:
                expected: typing.Any = _wire.open_message(data, [], plain_area)
                taken += 1
            except ProtocolError:
                expected = None
                refused += 1
            try:
                got: typing.Any = _core.open_message(data, [], peer_area)
            except ProtocolError:
                got = None
            self.assertTrue(alike(got, expected), (data, got, expected))
            if at == many // 10:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        self.assertLess(grown, 2048, f"the memory grew by {grown} KiB")
        self.assertGreater(refused, many // 3)
        self.assertGreater(taken, many // 50)

    def test_large_values_go_from_either_to_the_other(self) -> None:
        blob = os.urandom(100_000)
        for sender, receiver in ((_wire, _core), (_core, _wire)):
            area, peer_area = sender.Area(), receiver.PeerArea()
            for turn in range(3):
                message = sender.seal([3, 1, [blob, b"x" * 20_000]], area)
                fds = [os.dup(fd) for fd in message.fds]
                # The core has an area, and sends it once; plain Python makes a memfd for each value.
                self.assertEqual(len(fds), 2 if sender is _wire else 1 if turn == 0 else 0)
                message.close()
                self.assertEqual(receiver.open_message(message.data, fds, peer_area)[2], [blob, b"x" * 20_000])
                self.assertEqual(peer_area.read, 0 if sender is _wire else turn + 1)
                area.free = True
            long = sender.seal([3, 1, list(range(100_000))], area)
            fds = [os.dup(fd) for fd in long.fds]
            long.close()
            self.assertEqual(receiver.open_message(long.data, fds, peer_area)[2], list(range(100_000)))


def chance_nest(inner: typing.Any, depth: int) -> typing.Any:
    return [inner] if depth % 3 else (inner,)


if __name__ == "__main__":
    unittest.main()
