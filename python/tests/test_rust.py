"""A service in Rust, `crates/pysecure-rpc/examples/vault.rs`, and callers that mean it ill. `PYSECURE_VAULT` is the program."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import unittest
from typing import Any

from support import WithServices, until
from test_engine import Peer, large

from pysecure_rpc import _codec as _wire

VAULT = os.environ["PYSECURE_VAULT"]


class Rust(WithServices):
    def serve(self, callers: dict[str, Any], **more: Any) -> Any:
        return self.supervisor.start("vault", callers, program=VAULT, **more)

    def memory(self, pid: int) -> int:
        """In KiB."""
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))

    def test_the_grant_comes_before_the_arguments(self) -> None:
        process = self.serve({"web": ["add"], "two": "*"})
        before = len(os.listdir(f"/proc/{process.pid}/fd"))
        sock = self.supervisor.raw("web", "vault")
        sock.recv(65536)
        number = 0
        for arguments in (b"\x91\xc1\x80", b"\xdd\xff\xff\xff\xff\x80", b"\x91\xd4\x15\x91\x80", b"\x93\xa1"):
            for name in (b"\xa6secret", b"\xa8not_here", b"\xdb\x01\x00\x00\x00" + b"x" * (1 << 24)):
                for by_large in (False, True):
                    if len(name) > 60_000 and not by_large:
                        continue
                    number += 1
                    data = b"\x95\x02" + _wire.pack(number) + name + arguments
                    fds = [os.open("/dev/null", os.O_RDONLY)]
                    if by_large:
                        data, fd = large(data)
                        fds.append(fd)
                    socket.send_fds(sock, [data], fds)
                    for fd in fds:
                        os.close(fd)
                    answer = _wire.unpack(sock.recv(65536))
                    self.assertEqual((answer[1], answer[2], answer[6]), (number, "pysecure.NoSuchFunction", False))
            number += 1
            sock.send(b"\x95\x02" + _wire.pack(number) + b"\xadpysecure.ping" + arguments)
            self.assertEqual(_wire.unpack(sock.recv(65536)), [3, number, None])
        until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) <= before + 1)
        sock.close()

    def test_names_that_were_refused_are_not_kept(self) -> None:
        process = self.serve({"web": ["add"]})
        sock = self.supervisor.raw("web", "vault")
        sock.recv(65536)

        def refuse(many: int) -> None:
            for number in range(many):
                name = bytes([97 + number % 26]) * (30 << 20)
                data, fd = large(b"\x95\x02" + _wire.pack(1) + b"\xdb" + len(name).to_bytes(4, "big") + name + b"\x90\x80")
                socket.send_fds(sock, [data], [fd])
                os.close(fd)
                self.assertEqual(_wire.unpack(sock.recv(65536))[2], "pysecure.NoSuchFunction")
            for number in range(3000):
                sock.send(_wire.pack([2, 1, f"{many}-{number}" + "x" * 4000, [], {}]))
                self.assertEqual(_wire.unpack(sock.recv(65536))[2], "pysecure.NoSuchFunction")

        refuse(2)
        before = self.memory(process.pid)
        refuse(10)
        self.assertLess(self.memory(process.pid) - before, 8 << 10)
        sock.close()

    def test_more_large_values_than_descriptors(self) -> None:
        self.serve({"web": "*"})
        peer = Peer(self.supervisor.raw("web", "vault"))
        for size, many in ((100 << 10, 30), (9 << 20, 6), (20_000, 40)):
            number = peer.call("pieces", size, many)
            answer = peer.last(number)
            self.assertEqual([len(piece) for piece in answer[2]], [size] * many)
        # So many values are no message, and none is sent.
        number = peer.call("pieces", 1, 1_000_000)
        answer = peer.last(number)
        self.assertEqual((answer[2], answer[6]), ("pysecure.TooLarge", True))
        peer.sock.close()

    def test_answers_that_are_not_read_are_bounded(self) -> None:
        self.serve({"web": "*", "two": "*"}, environment={"PYSECURE_RPC_MAX_MESSAGE": str(4 << 20)})
        peers = [Peer(self.supervisor.raw("web", "vault")) for _ in range(8)]
        for _ in range(10):
            for peer in peers:
                peer.call("pieces", 3 << 20, 1)
        other = Peer(self.supervisor.raw("two", "vault"))
        self.assertEqual(other.settle(other.call("pieces", 3 << 20, 1)), [3])
        answered = 0
        for peer in peers:
            while (found := peer.read(wait=True)) != [0]:
                answered += found[0] == 3
        # Of 80 answers of 3 MiB; what was read made room for others.
        self.assertLess(answered, 8 + 24)
        self.assertGreater(answered, 3)
        for peer in peers:
            self.assertEqual(peer.settle(peer.call("pieces", 3 << 20, 1)), [3])
            peer.sock.close()
        other.sock.close()

    def test_no_caller_takes_all_descriptors(self) -> None:
        self.serve({"web": "*", "two": "*"}, before="ulimit -n 400;")
        mine = []
        for _ in range(400):
            sock = self.supervisor.raw("web", "vault")
            mine.append(sock)
            if _wire.unpack(sock.recv(65536))[0] == 4:
                break
            # Each with a message that has as many descriptors as may be, and one that waits.
            sock.send(_wire.pack([2, 1, "linger", [100_000], {}]))
            socket.send_fds(sock, [b"\x95\x02\x02\xa3add\x90\x80"], [0] * 16)
        self.assertTrue(10 < len(mine) < 100, len(mine))
        peer = Peer(self.supervisor.raw("two", "vault"))
        self.assertEqual(peer.settle(peer.call("pieces", 9 << 20, 5)), [3])
        peer.sock.close()
        for sock in mine:
            sock.close()

    def test_sets_in_sets_are_told_apart(self) -> None:
        self.serve({"web": "*"})
        # Of 20,000 integers, in as many sets as may be within each other; and twice the same, far inside.
        inside: Any = frozenset(range(20_000))
        for _ in range(29):
            inside = frozenset([inside, 5])
        body = _wire.pack(inside)
        for value, refused in ((body, "pysecure.InvalidArguments"), (self.twice(body), "pysecure.BadMessage")):
            sock = self.supervisor.raw("web", "vault")
            sock.recv(65536)
            data, fd = large(b"\x95\x02\x01\xa3add\x92" + value + b"\x01\x80")
            socket.send_fds(sock, [data], [fd])
            os.close(fd)
            self.assertEqual(_wire.unpack(sock.recv(65536))[2], refused)
            sock.close()

    @staticmethod
    def twice(body: bytes) -> bytes:
        changed = body.replace(_wire.pack(19_999), _wire.pack(19_998))
        assert len(changed) == len(body) and changed != body
        return changed

    def test_bytes_that_could_vanish_are_refused(self) -> None:
        self.serve({"web": "*"})
        for seals in (0, 1, 4, 8, 1 | 2 | 4):
            fd = os.memfd_create("x", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
            os.write(fd, b"abcd")
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            sock = self.supervisor.raw("web", "vault")
            sock.recv(65536)
            blob = _wire.pack([0, 0, 4, False])
            socket.send_fds(sock, [b"\x95\x02\x01\xa7reverse\x91\xc7" + bytes([len(blob), 20]) + blob + b"\x80"], [fd])
            os.close(fd)
            answer = _wire.unpack(sock.recv(65536))
            self.assertEqual(answer[2], b"dcba" if seals & 2 else "pysecure.BadMessage", seals)
            sock.close()

    def test_a_stream_waits_for_its_reader(self) -> None:
        self.serve({"web": "*"})
        peer = Peer(self.supervisor.raw("web", "vault"))
        stream = peer.call("count", 100_000, credit=100)
        until(lambda: select.select([peer.sock], [], [], 0)[0])
        for _ in range(1000):
            peer.send([7, stream, 100])
            for _ in range(100):
                peer.read(wait=True)
        self.assertEqual(peer.settle(stream)[-1], 6)
        peer.sock.close()


if __name__ == "__main__":
    unittest.main()
