"""The engine in states that are rare: callers that send ahead, read slowly, take back and go, in any order; code of values
that refuses; nowhere to print; ends in the midst of beginnings."""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import socket
import struct
import sys
import termios
import threading
import types
import unittest
from typing import Any

import support
import functions as f  # isort: skip
from support import WithServices, until

import pysecure_rpc
from pysecure_rpc import _client, _server
from pysecure_rpc import _codec as _wire


class Peer:
    """A caller that reads when it wants to, and knows what it may be answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.kept = _wire.Kept()
        self.number = 0
        #: What was answered, by the number of its call: the kinds in their order.
        self.kinds: dict[int, list[int]] = {}
        while (greeting := self.read(wait=True)) == [0]:
            pass
        assert greeting[0] == 1

    def call(self, function: str, *args: Any, credit: int | None = None) -> int:
        self.send([2, self.number + 1, function, list(args), {}, None, None, None, credit])
        self.number += 1
        self.kinds[self.number] = []
        return self.number

    def send(self, message: list[Any]) -> None:
        self.sock.send(_wire.pack(message))

    def read(self, wait: bool) -> list[Any]:
        """One message; none is [0], where none is waited for or none comes for a moment."""
        try:
            if wait and not select.select([self.sock], [], [], 0.1)[0]:
                return [0]
            data, fds = _client.receive(self.sock, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return [0]
        assert data, "the service ended the connection"
        found = _wire.open_message(data, fds, self.kept)
        if found[0] in (3, 4, 5, 6):
            if self.number and found[1]:
                self.kinds[found[1]].append(found[0])
        return found

    def over(self, number: int) -> bool:
        return any(kind in (3, 4, 6) for kind in self.kinds[number])

    def last(self, number: int) -> list[Any]:
        """The last message of a call."""
        while True:
            found = self.read(wait=True)
            if found[1:2] == [number] and self.over(number):
                return found

    def settle(self, number: int) -> list[int]:
        while not self.over(number):
            self.read(wait=True)
        return self.kinds[number]


class Rare(WithServices):
    def test_a_stream_that_is_read_slowly_after_its_caller_was_alone(self) -> None:
        for threads in ("threads=1", "threads=8"):
            self.supervisor.start("one", {"web": "*"}, threads)
            peer = Peer(self.supervisor.raw("web", "one"))
            for _ in range(3):
                peer.settle(peer.call("texts", 10, 2, credit=10))
            for _ in range(200):
                peer.settle(peer.call("who"))
            stream = peer.call("texts", 60_000, 40, credit=100)
            # Nothing is read until no more of it can be on its way.
            until(lambda: self.unread(peer) >= 60_000)
            self.assertEqual(peer.settle(stream), [5] * 40 + [6])
            # And so where the core stays with it again.
            for _ in range(200):
                peer.settle(peer.call("who"))
            answers = [peer.call("same_any", "x" * 60_000) for _ in range(4)]
            for each in answers:
                self.assertEqual(peer.settle(each), [3])
            peer.sock.close()
            self.supervisor.stop("one")

    @staticmethod
    def unread(peer: Peer) -> int:
        return struct.unpack("i", fcntl.ioctl(peer.sock, termios.FIONREAD, b"\0" * 4))[0]

    def test_orders_of_any_kind_end_in_an_answer_each(self) -> None:
        for seed in range(6):
            self.supervisor.start("one", {"web": "*"}, f"threads={1 + seed % 3}")
            chance = random.Random(seed)
            peer = Peer(self.supervisor.raw("web", "one"))
            other = Peer(self.supervisor.raw("web", "one"))
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 1000))
            streams: list[int] = []
            for _ in range(400):
                pick = chance.randrange(12)
                try:
                    if pick < 3:  # alone, for long enough that the core stays with it
                        for _ in range(chance.choice([1, 5, 70])):
                            peer.settle(peer.call("who"))
                    elif pick < 5:
                        peer.call("same_any", "x" * chance.choice([1, 1000, 60_000]))
                    elif pick == 5:
                        streams.append(peer.call("texts", chance.choice([10, 60_000]), chance.randrange(30), credit=chance.randrange(20)))
                    elif pick == 6:
                        streams.append(peer.call("count_async", chance.randrange(30), credit=chance.randrange(20)))
                    elif pick == 7 and streams:
                        peer.send([7, chance.choice(streams), chance.randrange(1, 20)])
                    elif pick == 8 and peer.number:
                        peer.send([8, chance.randrange(1, peer.number + 1)])
                    elif pick == 9:
                        peer.call("slow", chance.choice([0.0, 0.002]), "x")
                    elif pick == 10:
                        other.settle(other.call("who"))
                    else:
                        for _ in range(chance.randrange(40)):
                            peer.read(wait=False)
                except BlockingIOError:
                    # It is not read on there, or waits to be read here; what was not sent is not asked for.
                    peer.read(wait=True)
            for number in peer.kinds:
                while not peer.over(number):
                    if number in streams:
                        try:
                            peer.send([7, number, 100])
                        except BlockingIOError:
                            pass
                    peer.read(wait=True)
                self.assertEqual(sum(kind != 5 for kind in peer.kinds[number]), 1, (seed, number, peer.kinds[number]))
                self.assertNotEqual(peer.kinds[number][-1], 5, (seed, number))
            for each in (peer, other):
                each.settle(each.call("who"))
                each.sock.close()
            self.assertEqual(self.supervisor.stop("one"), 0)

    def test_what_refuses_a_value_refuses_the_call_alone(self) -> None:
        # Where there is a place to print to, where there is none, and where it has gone.
        for redirect in ("", "2>&-", "2>/dev/full"):
            self.supervisor.start("one", {"web": "*"}, redirect=redirect)
            peer = Peer(self.supervisor.raw("web", "one"))
            open_one = peer.call("slow", 1000.0, "open")
            refused = ["ValueError", "RecursionError", "MemoryError", "SystemExit", "KeyboardInterrupt", "GeneratorExit",
                       "StopIteration", "unspeakable"]  # fmt: skip
            calls = [("fuss", {"about": each}) for each in refused]
            calls += [("fusses", frozenset())]
            calls += [("fuss", {"about": 1 << 20_000}), ("fuss", {"about": [1 << 20_000]}), ("login", 1 << 200_000)]
            for function, value in calls:
                number = peer.call(function, value)
                answer = peer.last(number)
                self.assertEqual((answer[0], answer[2], answer[6]), (4, "pysecure.InvalidArguments", False), (function, answer))
            kind = _wire.pack([2, 1, "fusses", [], {}])
            self.assertTrue(kind)
            # What cannot be told of an exception.
            number = peer.call("fail", "unspeakable")
            answer = peer.last(number)
            self.assertEqual((answer[0], answer[2], answer[6]), (4, "RuntimeError", True))
            peer.call("nothing_that_there_is")  # it prints that
            self.assertEqual(peer.settle(peer.call("fuss", {"about": "x"})), [3])
            self.assertEqual(peer.kinds[open_one], [])
            peer.send([8, open_one])
            self.assertEqual(peer.settle(open_one), [3])
            peer.sock.send(b"\xc1")
            other = Peer(self.supervisor.raw("web", "one"))
            self.assertEqual(other.settle(other.call("who")), [3])
            other.sock.close()
            peer.sock.close()
            self.assertEqual(self.supervisor.stop("one"), 0)

    def test_a_coroutine_that_is_the_first_harms_no_other_call(self) -> None:
        for _ in range(5):
            self.supervisor.start("late", {"web": "*"}, script="late.py")
            first = Peer(self.supervisor.raw("web", "late"))
            other = Peer(self.supervisor.raw("web", "late"))
            napped = first.call("nap")
            for _ in range(100):
                self.assertEqual(other.settle(other.call("bad")), [4])
            self.assertEqual(first.settle(napped), [3])
            for each in (first, other):
                each.sock.close()
            self.supervisor.stop("late")

    def test_what_is_cancelled_before_it_begins_does_not_run(self) -> None:
        # The caller takes it back between the last look at that and the beginning.
        server = _server.Server("one", threads=1)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        table = _server._Table("one", None, server.functions, server._figures)
        connection = _server._Connection(theirs, None, table)
        server.gate.enter(None, None, False)  # type: ignore[arg-type]
        work = server._message(connection, [2, 1, "login", ["a", "b"], {}])
        assert work is not None
        original = _server.monotonic

        def now() -> float:
            _server.monotonic = original
            server._message(connection, [8, 1])
            return original()

        _server.monotonic = now
        self.addCleanup(setattr, _server, "monotonic", original)
        f.ran.clear()
        work[1](work[0])
        answer = _wire.unpack(ours.recv(65536))
        self.assertEqual((answer[2], answer[6]), ("pysecure.Cancelled", bool(f.ran)), answer)
        ours.close()
        theirs.close()

    def test_processes_that_are_started_anew_fill_no_pipe(self) -> None:
        parent = self.supervisor.start("one", {"web": "*"}, "processes=2")
        children = f"/proc/{parent.pid}/task/{parent.pid}/children"

        def running() -> list[int]:
            with open(children) as file:
                return [int(pid) for pid in file.read().split()]

        for _ in range(3):
            victim = until(lambda: len(running()) == 2 and running()[0])
            os.kill(victim, signal.SIGKILL)
            until(lambda: victim not in running())
        until(lambda: len(running()) == 2)
        self.supervisor.act_as("web")
        f.who()
        found = 0
        for name in os.listdir(f"/proc/{parent.pid}/fd"):
            path = f"/proc/{parent.pid}/fd/{name}"
            if os.readlink(path).startswith("pipe:") and int(name) > 2:
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                self.assertEqual(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0], 0)
                os.close(fd)
                found += 1
        self.assertGreater(found, 0)


class Ends(WithServices):
    """Callers of services that end, or do not answer."""

    def test_streams_over_restarts(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        failed: list[BaseException] = []
        over = threading.Event()

        def stream() -> None:
            while not over.is_set():
                try:
                    items = f.count(2)
                    first = next(items)
                except pysecure_rpc.RpcError as error:
                    # What had begun may be lost.
                    if not error.may_have_run:
                        failed.append(error)
                    continue
                assert first == 0
                try:
                    list(items)
                except pysecure_rpc.RpcError:
                    pass

        threads = [threading.Thread(target=stream) for _ in range(4)]
        for each in threads:
            each.start()
        for _ in range(12):
            self.supervisor.stop("one")
            self.supervisor.start("one", {"web": "*"})
        over.set()
        for each in threads:
            each.join()
        self.assertEqual([f"{type(e).__name__}: {e}" for e in failed], [])

    def listener(self, backlog: int) -> socket.socket:
        path = f"{self.supervisor.folder('web')}/one.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen(backlog)
        self.addCleanup(listener.close)
        self.supervisor.act_as("web")
        self.addCleanup(_client.close_connections)
        return listener

    def test_a_goaway_before_the_greeting_is_no_more_than_a_wait(self) -> None:
        listener = self.listener(10)
        hashes = {n: g.signature.hash for n, g in pysecure_rpc._function.State.functions["one"].items()}

        def serve(kind: int, value: Any) -> None:
            for first in (True, False):
                sock, _ = listener.accept()
                if first:
                    sock.send(_wire.pack([9, "the service ends"]))
                    sock.close()
                else:
                    sock.send(_wire.pack([1, 1, "one", "web", hashes]))
                    number = _wire.unpack(sock.recv(65536))[1]
                    sock.send(_wire.pack([kind, number, value]))
                    sock.close()

        import asyncio

        for kind, ask in (
            (3, f.who),
            (3, lambda: asyncio.run(f.later(0.0, "x"))),
            (6, lambda: list(f.count(0))),
        ):
            _client.close_connections()
            thread = threading.Thread(target=serve, args=(kind, "web"))
            thread.start()
            self.assertIn(ask(), ("web", []))
            thread.join()

    def test_a_service_that_accepts_nobody_is_left_at_the_deadline(self) -> None:
        import asyncio

        listener = self.listener(0)
        path = listener.getsockname()
        waiting = []
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.setblocking(False)
            waiting.append(sock)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        for ask in (f.who, lambda: list(f.count(1)), lambda: asyncio.run(f.later(0.0, "x"))):
            with self.assertRaises(pysecure_rpc.DeadlineExceeded) as caught, pysecure_rpc.timeout(0.2):
                ask()
            self.assertFalse(caught.exception.may_have_run)
        for sock in waiting:
            sock.close()

    def test_no_end_at_all(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        for _ in range(2):  # the usual way, and the core's
            self.assertIsNone(f.patient("x"))
            for seconds in (float("inf"), 1e300, None):
                with pysecure_rpc.timeout(seconds):
                    self.assertIsNone(f.patient("x"))
                    left = f.left()
                    assert left is not None and left > 50
            with pysecure_rpc.timeout(100), pysecure_rpc.timeout(float("inf")):
                left = f.patient("x")
                assert left is not None and left <= 100
        with self.assertRaises(ValueError), pysecure_rpc.timeout(float("nan")):
            pass

    def test_a_value_s_own_code_that_uses_connections_meanwhile(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        taken: list[socket.socket] = []

        class Sly(str):
            def __str__(self) -> str:
                # The idle ones go, and their numbers are somebody else's now.
                _client.close_connections()
                taken.extend(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                return "honest"

        def sly() -> Any:
            str(Sly())
            context = types.SimpleNamespace(is_valid=False)
            return types.SimpleNamespace(get_span_context=lambda: context)

        tracing = types.SimpleNamespace(get_current_span=sly)
        for at in range(6):
            f.who()
            if at % 2:
                self.assertEqual(f.same["any"]([Sly("x")]), ["honest"])
            else:
                sys.modules["opentelemetry.trace"] = tracing  # type: ignore[assignment]
                try:
                    self.assertEqual(f.who(), "web")
                finally:
                    del sys.modules["opentelemetry.trace"]
            for sock in taken:
                sock.setblocking(False)
                with self.assertRaises(BlockingIOError):
                    sock.recv(65536)
            while taken:
                taken.pop().close()


if __name__ == "__main__":
    unittest.main()
