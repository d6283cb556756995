"""The engine in states that are rare: callers that send ahead, read slowly, take back and go, in any order; code of values
that refuses; nowhere to print; ends in the midst of beginnings."""

from __future__ import annotations

import asyncio
import datetime
import decimal
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
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import support
import functions as f  # isort: skip
from support import WithServices, until

import pysecure_rpc
from pysecure_rpc import _client, _exchange, _figures, _messages
from pysecure_rpc import _codec as _wire
from pysecure_rpc._server import calls as _calls
from pysecure_rpc._server import connection as _connection
from pysecure_rpc._server import engine as _engine
from pysecure_rpc._server import limits as _limits


class Peer:
    """A caller that reads when it wants to, and knows what it may be answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.peer_area = _wire.PeerArea()
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
        found = _wire.open_message(data, fds, self.peer_area)
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
            # 120 is CPython's own word for what it could not flush at its end.
            self.assertIn(self.supervisor.stop("one"), (0, 120) if "full" in redirect else (0,))

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
        engine, connection, ours = self.engine()
        engine.gate.enter(None, None, False, 0)  # type: ignore[arg-type]
        call = engine.dispatcher.take(connection, _messages.parse(_messages.call(1, "login", ["a", "b"], {}, None, None, 0, None)))
        assert call is not None
        original = _calls.monotonic

        def now() -> float:
            _calls.monotonic = original
            engine.dispatcher.take(connection, _messages.Cancel(1))
            return original()

        _calls.monotonic = now
        self.addCleanup(setattr, _calls, "monotonic", original)
        f.ran.clear()
        engine.dispatcher.run(call)
        answer = _wire.unpack(ours.recv(65536))
        self.assertEqual((answer[2], answer[6]), ("pysecure.Cancelled", bool(f.ran)), answer)

    def test_a_coroutine_that_is_cancelled_before_its_first_step_is_answered(self) -> None:
        engine, connection, ours = self.engine()
        call = engine.dispatcher.take(connection, _messages.parse(_messages.call(1, "later", [0.0, "x"], {}, None, None, 0, None)))
        assert call is not None
        begin = engine.coroutines._begin

        def late(call: Any) -> None:
            # It has begun for everybody who asks, and its task is not made yet.
            engine.dispatcher.take(connection, _messages.Cancel(1))
            begin(call)

        engine.coroutines._begin = late  # type: ignore[method-assign]
        engine.coroutines.run(call)
        answer = _wire.unpack(ours.recv(65536))
        self.assertEqual((answer[0], answer[2], answer[6]), (4, "pysecure.Cancelled", False), answer)
        engine.coroutines.stop()

    def test_an_answer_that_waits_just_now_is_not_left_unsent(self) -> None:
        engine, connection, ours = self.engine()
        engine.connections.open()
        epoll = engine.connections.epoll
        self.addCleanup(epoll.close)
        # It was full, is so again, and the set still asks for room: the leader hears of that, and finds nothing to send.
        connection.sock.setblocking(False)
        with self.assertRaises(BlockingIOError):
            while True:
                connection.sock.send(_wire.pack([9, "x" * 60_000]))
        epoll.register(connection.fd, _connection.OUT)
        answer = _wire.pack([3, 1, "late"])
        other = threading.Thread(target=engine.connections.put, args=(connection, answer))
        want = engine.connections.want

        def interrupted(connection: _connection.Connection, events: int) -> bool:
            if events == _connection.IN and other.ident is None:
                # Just before the leader asks for no room any more, another thread has an answer. It is done before the leader goes
                # on, unless the leader has the connection's lock.
                held = connection.lock.locked()
                other.start()
                if not held:
                    other.join()
            return want(connection, events)

        engine.connections.want = interrupted  # type: ignore[method-assign]
        engine._event(connection, select.EPOLLOUT)
        other.join()
        self.assertEqual(len(connection.backlog or ()), 1)
        # The caller reads all that was sent: then there is room, and the leader is to hear of it.
        ours.setblocking(False)
        with self.assertRaises(BlockingIOError):
            while True:
                ours.recv(65536)
        self.assertEqual(epoll.poll(0), [(connection.fd, select.EPOLLOUT)])
        engine._event(connection, select.EPOLLOUT)
        self.assertEqual(ours.recv(65536), answer)

    def test_a_connection_is_not_closed_while_a_thread_has_it_to_itself(self) -> None:
        function = pysecure_rpc._function.State.functions["one"]["who"]
        self.addCleanup(setattr, function, "run", function.run)
        inside, go_on = threading.Event(), threading.Event()

        def who() -> str | None:
            if lead.is_pinned(theirs):
                inside.set()
                go_on.wait()
            return None

        function.run = who
        engine, connection, ours = self.engine()
        lead, theirs = engine.scheduler.lead, connection.fd
        engine.connections.open()
        engine.epoll = engine.connections.epoll
        self.addCleanup(engine.epoll.close)
        stopped, stop = os.pipe()
        self.addCleanup(os.close, stopped)
        engine.epoll.register(stopped, select.EPOLLIN)
        engine.connections.by_fd[theirs] = connection
        engine.epoll.register(theirs, _connection.IN)
        leader = threading.Thread(target=lead.run, args=(engine, engine.epoll.fileno()))

        def end() -> None:
            go_on.set()
            lead.end()
            os.close(stop)
            leader.join()

        leader.start()
        self.addCleanup(end)
        # It calls alone, until it is pinned; in plain Python it never is.
        number = 0
        while not inside.is_set() and (_wire.COMPILED or number < 100):
            number += 1
            ours.send(_wire.pack([2, number, "who", [], {}]))
            while not inside.is_set() and not select.select([ours], [], [], 0.01)[0]:
                pass
            if not inside.is_set():
                self.assertEqual(_wire.unpack(ours.recv(65536)), [3, number, None])
        # Another thread, which leads meanwhile, finds that it is over.
        engine.connections.drop(connection, owner=True)
        self.assertEqual(connection.fd, theirs if _wire.COMPILED else -1)
        self.assertEqual(connection.sock.fileno(), connection.fd)
        self.assertEqual(ours.recv(65536), b"")
        go_on.set()
        until(lambda: connection.fd == -1 and connection.sock.fileno() == -1)
        self.assertEqual(engine.connections.by_fd, {})

    def test_what_waits_to_be_sent_stays_counted_until_it_is_read(self) -> None:
        engine, connection, ours = self.engine()
        engine.connections.open()
        self.addCleanup(engine.connections.epoll.close)
        engine.connections.epoll.register(connection.fd, _connection.IN)
        principal = connection.principal
        connection.sock.setblocking(False)
        with self.assertRaises(BlockingIOError):
            while True:
                connection.sock.send(_wire.pack([9, "x" * 60_000]))
        counted: list[tuple[int, int]] = []
        lock = principal._lock

        class Watched:
            """What others see of what is counted."""

            def __enter__(self) -> None:
                lock.acquire()

            def __exit__(self, *_: object) -> None:
                counted.append((principal.held, principal.fds))
                lock.release()

        principal._lock = Watched()  # type: ignore[assignment]
        size = 1 << 20
        with open("/dev/null", "rb") as file:
            engine.connections.send(connection, [3, 1, [bytes(size), pysecure_rpc.Fd(file.fileno())]])
        self.assertEqual(len(connection.backlog or ()), 1)
        ours.setblocking(False)
        with self.assertRaises(BlockingIOError):
            while True:
                ours.recv(65536)
        engine.connections.flush(connection)
        self.assertIsNone(connection.backlog)
        self.assertEqual((connection.waits, connection.waits_fds), (0, 0))
        self.assertEqual((connection.unread, connection.unread_fds), (size, 2))
        # Its room was never another's, and only what is large of it is counted still.
        before = counted.index((size, 2))
        self.assertEqual([each for each in counted[before:] if each[0] < size or each[1] != 2], [])
        self.assertEqual(counted[-1], (size, 2))
        data, fds = _client.receive(ours, 0)
        for fd in fds:
            os.close(fd)
        self.assertTrue(principal._has_room(_limits.TOO_MUCH, 0, _limits.TOO_MUCH, take=False))
        self.assertEqual(counted[-1], (0, 0))

    def test_descriptors_alone_are_reserved_for_too(self) -> None:
        engine, connection, ours = self.engine()
        principal = connection.principal
        principal.share = 3
        with open("/dev/null", "rb") as file:
            answer = [3, 1, [pysecure_rpc.Fd(file.fileno())] * 2]
            engine.connections.send(connection, answer)
            self.assertEqual((principal.held, principal.fds), (0, 2))
            with self.assertRaises(pysecure_rpc.Busy):
                engine.connections.send(connection, answer)
            self.assertEqual((principal.held, principal.fds), (0, 2))
            # What the caller reads makes room.
            for fd in _client.receive(ours, 0)[1]:
                os.close(fd)
            engine.connections.send(connection, answer)
        self.assertEqual((principal.held, principal.fds), (0, 2))

    def engine(self) -> tuple[_engine.Engine, _connection.Connection, socket.socket]:
        """An engine without threads, a connection that it has, and the caller's end of that."""
        functions = pysecure_rpc._function.State.functions["one"]
        page = _figures.Page(functions)
        self.addCleanup(page.close)
        engine = _engine.Engine("one", functions, page, threads=2, queue=1, connections=1, tracebacks=False)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        return engine, _connection.Connection(theirs, engine.principal(None, functions)), ours

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


P = 2**61 - 1


def large(data: bytes) -> tuple[bytes, int]:
    """A message by LARGE, and its memfd."""
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 1 | 2 | 4)
    return _wire.pack([0, len(data)]), fd


class Dear(WithServices):
    """What would take long, or much memory, is refused before it does."""

    CROWDS: dict[str, Any] = {
        "equal integers": lambda n: [k * P for k in range(1, n)],
        "negative ones": lambda n: [-k * P for k in range(1, n)],
        "decimals": lambda n: [decimal.Decimal(k * P) for k in range(1, n)],
        "uuids": lambda n: [uuid.UUID(int=k * P) for k in range(1, n)],
        "tuples": lambda n: [(k * P, 5) for k in range(1, n)],
        "tuples of tuples": lambda n: [(0, (k * P,)) for k in range(1, n)],
        "frozensets": lambda n: [frozenset([k * P]) for k in range(1, n)],
        "complex numbers": lambda n: [complex(-1000003 * k, k) for k in range(1, n)],
        "mixed": lambda n: [each for k in range(1, n // 2) for each in (k * P, str(k))],
    }
    ORDINARY: dict[str, Any] = {
        "a row": lambda n: list(range(n)),
        "negative": lambda n: list(range(-n, n)),
        "floats": lambda n: [k / 7 for k in range(n)],
        "whole floats": lambda n: [float(k << 20) for k in range(n)],
        "tuples": lambda n: [(k, k) for k in range(n)],
        "dates": lambda n: [datetime.date.fromordinal(k + 1) for k in range(n)],
        "times": lambda n: [datetime.datetime.fromtimestamp(k, datetime.timezone.utc) for k in range(n)],
        "decimals": lambda n: [decimal.Decimal(k) / 8 for k in range(n)],
        "uuids": lambda n: [uuid.UUID(int=k << 64) for k in range(n)],
        "text": lambda n: [str(k) for k in range(n)],
        **{f"times 2**{s}": (lambda n, s=s: [k << s for k in range(n)]) for s in range(0, 60, 5)},
    }

    def test_keys_that_crowd_are_refused_and_others_are_not(self) -> None:
        for name, make in self.CROWDS.items():
            for container in (set, frozenset, lambda keys: dict.fromkeys(keys, 0)):
                with self.subTest(name), self.assertRaises(pysecure_rpc.ProtocolError):
                    _wire.unpack(_wire.pack(container(make(3000))))
                # So few cannot take long.
                few = container(make(40))
                self.assertEqual(_wire.unpack(_wire.pack(few)), few)
        for name, make in self.ORDINARY.items():
            for container in (set, lambda keys: dict.fromkeys(keys, 0)):
                with self.subTest(name):
                    value = container(make(5_000))
                    self.assertEqual(_wire.unpack(_wire.pack(value)), value)

    def test_places_that_are_looked_at_in_turn_are_found_out_too(self) -> None:
        # Hashes that differ, and lead along one way: where a look ends, the next key's looks go on.
        places, fill = 1 << 15, 15_000
        at, row = 1, []
        for _ in range(fill):
            row.append(at)
            at = (5 * at + 1) % places
        there = set(row)
        keys, step = list(row), 0
        while len(keys) < fill + 3000:
            step += 1
            hashed = row[step % 50] + (step << 20)
            jump, place, looks = hashed, hashed % places, 0
            while place in there and looks < 200:
                jump >>= 5
                place = (5 * place + jump + 1) % places
                looks += 1
            if looks == 200:
                keys.append(hashed)
        with self.assertRaises(pysecure_rpc.ProtocolError):
            _wire.unpack(_wire.pack(dict.fromkeys(keys, 0)))

    def test_a_service_is_not_held_up(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": ["who"]})
        keys = {k * P for k in range(1, 3_000)}
        for caller, function, refused in (
            ("web", "same_any", "pysecure.BadMessage"),
            # What may not be called is not even decoded.
            ("two", "same_any", "pysecure.NoSuchFunction"),
            ("two", "none", "pysecure.NoSuchFunction"),
        ):
            sock = self.supervisor.raw(caller, "one")
            sock.recv(65536)
            data, fd = large(_wire.pack([2, 1, function, [keys], {}]))
            socket.send_fds(sock, [data], [fd])
            os.close(fd)
            self.assertEqual(_wire.unpack(sock.recv(65536))[2], refused)
            sock.close()

    def test_the_grant_comes_before_the_arguments(self) -> None:
        process = self.supervisor.start("one", {"web": "*", "two": ["who"]})
        before = len(os.listdir(f"/proc/{process.pid}/fd"))
        good, bad = self.supervisor.raw("two", "one"), self.supervisor.raw("web", "one")
        for sock in (good, bad):
            sock.recv(65536)
        number = 0
        # None of these arguments can be decoded.
        for arguments in (b"\x91\xc1\x80", b"\xdd\xff\xff\xff\xff\x80", b"\x91\xd4\x15\x91\x80", b"\x93\xa1"):
            for name in (b"\xa4echo", b"\xaddoes.not.exist", b"\xdb\x01\x00\x00\x00" + b"x" * (1 << 24)):
                for by_large in (False, True):
                    if len(name) > 60_000 and not by_large:
                        continue
                    number += 1
                    data = b"\x95\x02" + _wire.pack(number) + name + arguments
                    fds = [os.open("/dev/null", os.O_RDONLY)]
                    if by_large:
                        data, fd = large(data)
                        fds.append(fd)
                    socket.send_fds(good, [data], fds)
                    for fd in fds:
                        os.close(fd)
                    answer = _wire.unpack(good.recv(65536))
                    self.assertEqual((answer[1], answer[2], answer[6]), (number, "pysecure.NoSuchFunction", False))
            # Everybody has these two, and they take nothing.
            number += 1
            good.send(b"\x95\x02" + _wire.pack(number) + b"\xadpysecure.ping" + arguments)
            self.assertEqual(_wire.unpack(good.recv(65536)), [3, number, None])
        until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) <= before + 2)
        number += 1
        good.send(_wire.pack([2, number, "who", [], {}]))
        self.assertEqual(_wire.unpack(good.recv(65536)), [3, number, "two"])
        # Who may call it is told that they are none.
        bad.send(b"\x95\x02\x01\xa4echo\x91\xc1\x80")
        self.assertEqual(_wire.unpack(bad.recv(65536))[2], "pysecure.BadMessage")
        for data in (b"\x93\x08\x01" + b"\xc0", b"\x93\x07\x01\x01"):
            long, fd = large(data)
            sock = self.supervisor.raw("two", "one")
            sock.recv(65536)
            socket.send_fds(sock, [long], [fd])
            os.close(fd)
            self.assertEqual(_wire.unpack(sock.recv(65536))[2], "pysecure.BadMessage")
            sock.close()
        good.close()
        bad.close()

    def test_more_large_values_than_descriptors(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        for size, many, files in ((100 << 10, 30, 0), (9 << 20, 6, 12), (20_000, 40, 15), (1 << 20, 14, 3), (9 << 20, 1, 15)):
            found = f.pieces(size, many, files)
            self.assertEqual([len(p) for p in found[:many]], [size] * many)
            for file in found[many:]:
                os.fstat(file.fileno())
            if not files:
                self.assertEqual(f.same["any"](found), found)
        with self.assertRaises(pysecure_rpc.TooLarge):
            f.pieces(1, 1, 17)

    def test_as_many_values_as_a_message_may_have(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        # The message, its kind, its number and the list are values as well.
        self.assertEqual(len(f.numbers(999_996)), 999_996)
        for many in (999_997, 1_000_001):
            with self.assertRaises(pysecure_rpc.TooLarge) as caught:
                f.numbers(many)
            self.assertTrue(caught.exception.may_have_run)
            with self.assertRaises(pysecure_rpc.TooLarge) as caught:
                f.size([7] * many)
            self.assertFalse(caught.exception.may_have_run)
        # Whoever writes it and whoever reads it count alike.
        kinds: list[Any] = [7, -7, -700, 2**70, 1.5, "x", b"x" * 300, (1, 2), {3}, {"a": 1}, None, True, decimal.Decimal(1), uuid.UUID(int=1),
                            datetime.datetime(2026, 1, 1), datetime.date(2026, 1, 1), datetime.time(1), datetime.timedelta(1),
                            1j, "\ud800", pysecure_rpc._values.Member("x"), {(1, 2): 3}]  # fmt: skip
        inside = sum(map(self.inside, kinds))
        most, padding = divmod(1_000_000 - 2, inside)
        message = _wire.seal([kinds * most + [0] * padding])
        fds = [os.dup(fd) for fd in message.fds]
        message.close()
        with self.assertRaises(pysecure_rpc.ProtocolError) as refused:
            _wire.open_message(message.data, fds, _wire.PeerArea())
        self.assertIn("begins with its kind", str(refused.exception))
        with self.assertRaises(pysecure_rpc.TooLarge):
            _wire.seal([kinds * most + [0] * (padding + 1)])

    @staticmethod
    def inside(kind: Any) -> int:
        """How many values it is on the wire."""
        if type(kind) in (tuple, set):
            return 2 + len(kind)
        if type(kind) is dict:
            return 1 + sum(Dear.inside(k) + Dear.inside(v) for k, v in kind.items())
        return {
            datetime.datetime: 11, datetime.date: 5, datetime.time: 8, datetime.timedelta: 5, pysecure_rpc._values.Member: 2,
        }.get(type(kind), 1)  # fmt: skip


class Share(WithServices):
    """What one caller does takes nothing of the others'."""

    #: Bounds that are reached soon: 8 MiB that are not read, and 16.
    SMALL = {"PYSECURE_RPC_MAX_MESSAGE": str(4 << 20)}

    def test_answers_that_are_not_read_are_bounded(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": "*"}, environment=self.SMALL)
        peers = [Peer(self.supervisor.raw("web", "one")) for _ in range(4)]
        calls = [(peer, [peer.call("pieces", 3 << 20, 1) for _ in range(20)]) for peer in peers]
        other = Peer(self.supervisor.raw("two", "one"))
        self.assertEqual(other.settle(other.call("pieces", 3 << 20, 1)), [3])
        until(lambda: all(select.select([peer.sock], [], [], 0)[0] for peer in peers))
        kinds = [peer.settle(number)[0] for peer, numbers in calls for number in numbers]
        self.assertEqual(set(kinds), {3, 4})
        # Those that were answered were not all read by far when others had to be refused.
        for peer in peers:
            self.assertEqual(peer.settle(peer.call("pieces", 3 << 20, 1)), [3])
            peer.sock.close()
        other.sock.close()

    def test_what_is_held_unread_stays_below_its_bound(self) -> None:
        service = self.supervisor.start("one", {"web": "*"}, environment=self.SMALL)
        peers = [Peer(self.supervisor.raw("web", "one")) for _ in range(8)]
        calls = [(peer, peer.call("pieces", 3 << 20, 1)) for _ in range(10) for peer in peers]
        # Nothing is read before all have been received, and answered or put aside: what is read makes room for others.
        until(lambda: all(self.unreceived(peer) == 0 for peer in peers))
        support.until_at_rest(service.pid)
        answered = sum(peer.settle(number) == [3] for peer, number in calls)
        # Of 80 answers of 3 MiB five fit into 16 MiB, and from 8 MiB on no call is taken.
        self.assertIn(answered, (3, 4, 5))
        for peer in peers:
            peer.sock.close()

    @staticmethod
    def unreceived(peer: Peer) -> int:
        return struct.unpack("i", fcntl.ioctl(peer.sock, termios.TIOCOUTQ, b"\0" * 4))[0]

    def test_a_stream_of_large_items_waits_for_its_reader(self) -> None:
        self.supervisor.start("one", {"web": "*"}, environment=self.SMALL)
        peer = Peer(self.supervisor.raw("web", "one"))
        asking = Peer(self.supervisor.raw("web", "one"))
        for function in ("chunks", "chunks_async"):
            stream = peer.call(function, 3 << 20, 20, credit=100)
            # Until it has sent as much as may be, and its caller's calls are refused.
            until(lambda: asking.settle(asking.call("rest", 1, 2)) == [4])
            self.assertEqual(peer.settle(stream), [5] * 20 + [6])
            self.assertEqual(asking.settle(asking.call("rest", 1, 2)), [3])
        for each in (peer, asking):
            each.sock.close()

    def test_arguments_of_open_calls_are_bounded(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": "*"}, "threads=2", environment=self.SMALL)
        peer = Peer(self.supervisor.raw("web", "one"))
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.truncate(fd, 3 << 20)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 1 | 2 | 4)
        numbers = []
        for _ in range(20):
            peer.number += 1
            peer.kinds[peer.number] = []
            blob = _wire.pack([0, 0, 3 << 20, False])
            data = b"\x95\x02" + _wire.pack(peer.number) + b"\xa4kept\x92\xc7" + bytes([len(blob), 20]) + blob + _wire.pack(0.3) + b"\x80"
            socket.send_fds(peer.sock, [data], [fd])
            numbers.append(peer.number)
        os.close(fd)
        kinds = [peer.settle(number)[0] for number in numbers]
        self.assertTrue(3 <= kinds.count(3) <= 8, kinds)
        self.assertEqual(peer.settle(peer.call("who")), [3])
        peer.sock.close()

    def test_no_caller_takes_the_queue_or_the_threads(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": "*"}, "threads=2", "queue=4")
        greedy = [Peer(self.supervisor.raw("web", "one")) for _ in range(3)]
        for peer in greedy:
            for _ in range(20):
                peer.call("slow", 1000.0, "greedy")
        other = Peer(self.supervisor.raw("two", "one"))
        for _ in range(12):
            self.assertEqual(other.settle(other.call("slow", 0.01, "other")), [3])
        # And several at once.
        several = [other.call("slow", 0.01, "other") for _ in range(4)]
        self.assertEqual([other.settle(number) for number in several], [[3]] * 4)
        for peer in (*greedy, other):
            peer.sock.close()

    def test_no_caller_takes_all_descriptors(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": "*"}, before="ulimit -n 300;")
        mine = []
        for _ in range(300):
            sock = self.supervisor.raw("web", "one")
            mine.append(sock)
            if _wire.unpack(sock.recv(65536))[0] == 4:
                break
        self.assertTrue(10 < len(mine) < 100, len(mine))
        # Nor by what it passes along.
        peer = Peer(self.supervisor.raw("two", "one"))
        self.assertEqual(peer.settle(peer.call("pieces", 100_000, 10, 2)), [3])
        peer.sock.close()
        for sock in mine:
            sock.close()


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

    def in_four_ways(self, idempotent: bool) -> list[tuple[str, Any]]:
        """A call, a coroutine's, a generator's and an asynchronous generator's, each to its end."""

        def plain() -> None:
            raise NotImplementedError

        async def coroutine() -> None:
            raise NotImplementedError

        def generator() -> Iterator[int]:
            yield 1

        async def asynchronous() -> AsyncIterator[int]:
            yield 1

        async def read(items: Any) -> list[Any]:
            return [each async for each in items]

        def made(run: Any) -> Any:
            return pysecure_rpc._function.Function(run, "one", idempotent, 60.0, None)

        return [
            ("a call", lambda: _client.call(made(plain), (), {})),
            ("a coroutine", lambda: asyncio.run(_client.call_async(made(coroutine), (), {}))),
            ("a generator", lambda: list(_client.stream(made(generator), (), {}))),
            ("an asynchronous generator", lambda: asyncio.run(read(_client.stream(made(asynchronous), (), {})))),
        ]

    def serve(self, listener: socket.socket, deaf: int) -> list[int]:
        """A service that ends, `deaf` times, after its greeting and before it reads, and then each time after it has read. It
        returns the numbers of all CALLs that it has read."""
        read: list[int] = []

        def accept() -> None:
            nonlocal deaf
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    if deaf:
                        # From here on nothing can be sent to it.
                        sock.shutdown(socket.SHUT_RD)
                        deaf -= 1
                    sock.send(_wire.pack([1, 1, "one", "web", {}]))
                    if data := sock.recv(65536):
                        read.append(_wire.unpack(data)[1])

        thread = threading.Thread(target=accept)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)
        return read

    def test_a_service_that_goes_between_its_greeting_and_the_call(self) -> None:
        # It goes on for longer otherwise.
        self.addCleanup(setattr, _exchange, "_NOT_TAKEN", _exchange._NOT_TAKEN)
        _exchange._NOT_TAKEN = 8
        read = self.serve(self.listener(100), deaf=10_000)
        for way, ask in self.in_four_ways(idempotent=False):
            with self.subTest(way), self.assertRaises(pysecure_rpc.ConnectionLost) as caught:
                ask()
            self.assertFalse(caught.exception.may_have_run)
        self.assertEqual(read, [])

    def test_all_calls_are_made_again_by_one_rule(self) -> None:
        read = self.serve(self.listener(100), deaf=0)
        for idempotent, times in ((True, 5), (False, 1)):
            for way, ask in self.in_four_ways(idempotent):
                del read[:]
                with self.subTest(way), self.assertRaises(pysecure_rpc.ConnectionLost) as caught:
                    ask()
                self.assertTrue(caught.exception.may_have_run)
                self.assertEqual(len(read), times, (way, idempotent))

    def test_a_service_that_accepts_nobody_is_left_at_the_deadline(self) -> None:
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
