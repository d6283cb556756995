"""The codec: all values come back, and no message does harm."""

from __future__ import annotations

import os
import random
import resource
import struct
import subprocess
import sys
import unittest

import support
from functions import KINDS

from pysecure_rpc import ProtocolError, TooLarge, _hints
from pysecure_rpc import _codec as _wire


def there_and_back(hint: object, value: object) -> object:
    kind = _hints.compile_hint(hint)
    area = _wire.Area()
    message = _wire.seal([3, 1, kind.dump(value)], area)
    fds = [os.dup(fd) for fd in message.fds]
    message.close()
    return kind.load(_wire.open_message(message.data, fds, _wire.PeerArea())[2])


class Values(unittest.TestCase):
    def test_all_kinds_come_back_identical(self) -> None:
        for name, (hint, values) in KINDS.items():
            for value in values:
                with self.subTest(name):
                    back = there_and_back(hint, value)
                    self.assertEqual(back, value)
                    self.assertIs(type(back), type(value))

    def test_nan_and_signed_zero(self) -> None:
        self.assertEqual(str(there_and_back(float, float("nan"))), "nan")
        self.assertEqual(str(there_and_back(float, -0.0)), "-0.0")

    def test_what_another_implementation_sends(self) -> None:
        # From MessagePack's specification, in encodings that are not the shortest, too.
        for data, value in [
            (b"\xcc\x01", 1), (b"\xcf" + b"\0" * 7 + b"\1", 1), (b"\xd3" + b"\xff" * 8, -1), (b"\xca\x3f\xc0\0\0", 1.5),
            (b"\xd9\x01a", "a"), (b"\xdb\0\0\0\1a", "a"), (b"\xdc\0\1\xc0", [None]), (b"\xdd\0\0\0\1\xc3", [True]),
            (b"\xde\0\1\xa1a\x01", {"a": 1}), (b"\xdf\0\0\0\1\xa1a\x01", {"a": 1}), (b"\xc6\0\0\0\1x", b"x"),
            (b"\xc7\x02\x02\x91\x05", (5,)),
        ]:  # fmt: skip
            self.assertEqual(_wire.unpack(data), value)

    def test_what_cannot_cross_is_refused_by_the_sender(self) -> None:
        deep: list[object] = []
        for _ in range(100):
            deep = [deep]
        with self.assertRaises(TooLarge):
            _wire.pack(deep)
        for value in (object(), os, KINDS["enum"][1][0], KINDS["dataclass"][1][0], lambda: 1):
            with self.assertRaises(TypeError):
                _wire.pack(value)

    def test_signature_text_and_hash(self) -> None:
        def login(user: str, password: str, remember: bool = False) -> bool:
            raise NotImplementedError

        signature = _hints.Signature(login, "login", False)
        self.assertEqual(signature.text, "login(user:str,password:str,remember:bool=)->bool")
        document = (support.HERE.parent.parent / "docs" / "reference" / "rpc-protocol.md").read_text()
        self.assertIn(f"`{signature.text}` hashes to `{signature.hash}`", document)


class Hostile(unittest.TestCase):
    def refuse(self, data: bytes) -> None:
        with self.assertRaises(ProtocolError, msg=data[:50]):
            _wire.unpack(data)

    def test_named_ones(self) -> None:
        for data in [
            b"", b"\xc1", b"\x92\x01", b"\x01\x02", b"\xa5abc", b"\xa2\xff\xfe", b"\xdb\xff\xff\xff\xff",
            b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc6\xff\xff\xff\xffx", b"\xc9\xff\xff\xff\xff\x02",
            b"\x82\xa1a\x01\xa1a\x02", b"\x81\x90\x01", b"\x81\x80\x01", b"\xd4\x63\x00", b"\xd4\x80\x00", b"\xd4\x02\x01",
            b"\xd5\x02\x91\x00\x00", b"\xd4\x09\xff", b"\xd4\x0a\x00", b"\xd4\x05\x90", b"\xc7\x00\x01",
            b"\xc7\x03\x03\x92\x01\x01", b"\xd6\x06\x93\x00\x00\x00", b"\xd5\x14\x91\x00", b"\xd4\x15\x90",
            b"\x91" * 10_000 + b"\xc0", b"\x81\xa1a" * 10_000 + b"\xc0", b"\xd4\x02" * 10_000,
        ]:  # fmt: skip
            self.refuse(data)
        nested = b"\xc0"
        for _ in range(200):
            nested = b"\xc8" + struct.pack(">H", len(nested) + 1) + b"\x02\x91" + nested
        self.refuse(nested)
        self.refuse(b"\xdd" + struct.pack(">I", 1_000_001) + b"\xc0" * 1_000_001)

    def test_every_beginning_of_a_message(self) -> None:
        for hint, values in KINDS.values():
            data = _wire.pack([2, 1, "f", [_hints.compile_hint(hint).dump(values[-1])], {}])[:3000]
            for end in range(len(data) - 1):
                self.refuse(data[:end])

    def test_a_bound_that_the_manifest_sets(self) -> None:
        probe = (
            "import support, pysecure_rpc\n"
            "from pysecure_rpc import _codec\n"
            "def seal(size):\n"
            "    try:\n"
            "        made = _codec.seal([3, 1, 'x' * size], None)\n"
            "        return 'ok'\n"
            "    except pysecure_rpc.TooLarge:\n"
            "        return 'too large'\n"
            "print(seal(900_000), seal(1_100_000), seal(80 << 20), sep=', ')\n"
        )
        for bound, expected in (
            ("1000000", "ok, too large, too large"),
            ("", "ok, ok, too large"),
            (str(1 << 30), "ok, ok, ok"),
        ):
            environment = {**os.environ, "PYSECURE_RPC_MAX_MESSAGE": bound}
            said = subprocess.run([sys.executable, "-c", probe], env=environment, text=True, capture_output=True)
            self.assertEqual(said.stdout.strip(), expected, said.stderr)

    def test_a_million_and_no_growth_in_memory(self) -> None:
        many = int(os.environ.get("PYSECURE_RPC_FRAMES", "1000000"))
        chance = random.Random(4)
        seeds = [
            _wire.pack([2, 1, "f", [_hints.compile_hint(hint).dump(v)], {"k": 1}, 5, None, 0, 1])
            for hint, values in KINDS.values()
            for v in values
            if len(repr(v)) < 2000
        ]
        interesting = bytes(range(0xC0, 0x100)) + b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\x01\x02\x14\x15"
        outcomes = {True: 0, False: 0}
        peer_area = _wire.PeerArea()

        def one() -> None:
            pick = chance.random()
            if pick < 0.2:
                data = chance.randbytes(chance.randrange(64))
            else:
                changed = bytearray(chance.choice(seeds))
                for _ in range(chance.randrange(1, 4)):
                    at = chance.randrange(len(changed) + 1)
                    if pick < 0.5 and at < len(changed):
                        changed[at] = chance.choice(interesting)
                    elif pick < 0.75:
                        changed[at:at] = chance.choices(interesting, k=chance.randrange(1, 6))
                    else:
                        del changed[at : at + chance.randrange(1, 6)]
                data = bytes(changed)
            try:
                _wire.open_message(data, [], peer_area)
                outcomes[True] += 1
            except ProtocolError:
                outcomes[False] += 1
            # Anything else ends the test.

        for _ in range(many // 10):
            one()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(many):
            one()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        self.assertLess(grown, 2048, f"the memory grew by {grown} KiB")
        self.assertGreater(outcomes[False], many // 2)

    def test_a_descriptor_that_is_no_memfd_is_refused_and_closed(self) -> None:
        for make in (os.pipe, lambda: (os.open("/dev/zero", os.O_RDONLY), os.memfd_create("unsealed"))):
            ours, other = make()
            before = len(os.listdir("/proc/self/fd"))
            for fd in (ours, other):
                with self.assertRaises(ProtocolError):
                    _wire.open_message(b"\x93\x03\x01\xc7\x05\x14\x94\x00\x00\x01\xc2", [os.dup(fd)], _wire.PeerArea())
            self.assertEqual(len(os.listdir("/proc/self/fd")), before)
            os.close(ours)
            os.close(other)


if __name__ == "__main__":
    unittest.main()
