"""Hostile peers and mishaps: services that lie to their callers, lengths that cannot be, calls that go round in circles."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import threading
import time
import unittest
from array import array
from typing import Any, Callable

import support
import functions as f  # isort: skip
from support import WithServices, until

import pysecure_rpc
from pysecure_rpc import _client, _hints, _wire

SEALS = 1 | 2 | 4 | 8


def memfd(content: bytes, seals: int = SEALS) -> int:
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def blob(fd: int, offset: Any, length: Any, keep: bool = False) -> bytes:
    data = _wire.pack([fd, offset, length, keep])
    return b"\xc7" + bytes([len(data), 20]) + data


class Liar(WithServices):
    """A service that answers with whatever a test wants."""

    def serve(self, hello: bytes | None, answer: Callable[[socket.socket, list[Any]], None]) -> None:
        path = f"{self.supervisor.folder('web')}/one.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(path)
        listener.listen(100)
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        self.addCleanup(listener.close)
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)

        def each(sock: socket.socket) -> None:
            with sock:
                if hello is not None:
                    sock.send(hello)
                while data := sock.recv(65536):
                    answer(sock, _wire.unpack(data))

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=self.quietly, args=(each, sock), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        self.supervisor.act_as("web")

    @staticmethod
    def quietly(work: Callable[[socket.socket], None], sock: socket.socket) -> None:
        try:
            work(sock)
        except OSError:
            pass

    def hello(self) -> bytes:
        table = {n: _hints.Signature(g.run, n, g.is_stream).hash for n, g in pysecure_rpc._function.State.functions["one"].items()}
        return _wire.pack([1, 1, "one", "web", table])

    def unlink(self) -> None:
        _client.close_connections()
        os.unlink(f"{self.supervisor.folder('web')}/one.sock")

    def test_answers_that_are_none(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with_fd = [
            _wire.pack([0, 1 << 63]), _wire.pack([0, -1]), _wire.pack([0, 5]), _wire.pack([0, "x"]), _wire.pack([0]),
            b"\x93\x03\x01" + blob(0, 0, 1 << 63), b"\x93\x03\x01" + blob(0, 1 << 63, 1), b"\x93\x03\x01" + blob(0, -1, 1),
            b"\x93\x03\x01" + blob(0, 0, -1), b"\x93\x03\x01" + blob(1, 0, 1), b"\x93\x03\x01" + blob(0, 0, 5),
            b"\x93\x03\x01" + blob(0, 0, (64 << 20) + 1), b"\x93\x03\x01\xc0", b"\x93\x03\x01" + blob(0, (1 << 64) - 1, 2),
        ]  # fmt: skip
        without = [
            b"", b"\xc1", b"\x90", b"\x93\x03\x01\x01", b"\x93\x03\x02\xc4\x01x", b"\x93\x03\x63\xc4\x01x", b"\x91\x03",
            b"\x92\x03\x01", b"\x93\x05\x01\xc4\x01x", b"\x94\x02\x01\xa1f\x90", b"\x91" * 10_000, b"\x93\x03\x01\xdd\xff\xff\xff\xff",
            b"\x93\x03\x01\xa2\xff\xfe", b"\x93\x03\x01\x82\x01\x01\x01\x01", b"\x97\x04\x01\x01\x01\x90\xc0\xc2",
            b"\x97\x04\x01\xa1x\xa1y\xc0\xc0\xc2", b"\x97\x04\x01\xa1x\xa1y\x90\xc0\xa1x", b"\x94\x04\x01\xa1x\xa1y",
            b"\x93\x03\x01" + blob(-1, 0, 1), b"\x93\x03\x01" + blob(0, 0, 1), _wire.pack([0, 1 << 63]),
        ]  # fmt: skip
        sent: list[tuple[bytes, list[int]]] = [(w, []) for w in without] + [(w, [memfd(b"abcd")]) for w in with_fd]
        # One that may shrink under the reader, a pipe, and more than may be.
        ours, theirs = os.pipe()
        sent += [
            (b"\x93\x03\x01" + blob(0, 0, 4), [memfd(b"abcd", 0)]),
            (b"\x93\x03\x01" + blob(0, 0, 1), [ours]),
            (b"\x93\x03\x01\xc4\x01x", [os.dup(theirs) for _ in range(20)]),
        ]
        now: list[tuple[bytes, list[int]]] = [(b"", [])]

        def answer(sock: socket.socket, _: list[Any]) -> None:
            data, fds = now[0]
            if not data and not fds:
                sock.shutdown(socket.SHUT_RDWR)
                return
            sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else [])

        self.serve(self.hello(), answer)
        for data, fds in sent:
            now[0] = (data, fds)
            with self.subTest(data[:40]):
                with self.assertRaises(pysecure_rpc.RpcError), pysecure_rpc.timeout(60):
                    f.echo(b"x")
                if fds != [ours] and len(fds) < 20:
                    with self.assertRaises(pysecure_rpc.RpcError), pysecure_rpc.timeout(60):
                        asyncio.run(f.later(0.0, "x"))
                    with self.assertRaises((pysecure_rpc.RpcError, TypeError)), pysecure_rpc.timeout(60):
                        list(f.count(3))
            for fd in fds:
                os.close(fd)
        os.close(theirs)
        _client.close_connections()
        until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)  # the listener, and at most one that ends just now

    def test_greetings_that_are_none(self) -> None:
        for hello in (
            b"\xc1", b"\x90", _wire.pack([1, 2, "one", "web", {}]), _wire.pack([1, 1, "one"]), _wire.pack([3, 1, None]),
            _wire.pack([1, 1, "one", "web", []]), _wire.pack([4, 0, "pysecure.Busy", "full", [], None, False]),
            _wire.pack([4, 0, 1, 2, 3, 4, 5]),
        ):  # fmt: skip
            with self.subTest(hello):
                self.serve(hello, lambda *_: None)
                with self.assertRaises(pysecure_rpc.RpcError) as caught, pysecure_rpc.timeout(60):
                    f.who()
                self.assertFalse(caught.exception.may_have_run)
                self.unlink()

    def test_one_that_is_silent_is_left_at_the_deadline(self) -> None:
        for hello in (None, self.hello()):
            self.serve(hello, lambda *_: None)
            begun = time.monotonic()
            with self.assertRaises(pysecure_rpc.DeadlineExceeded) as caught, pysecure_rpc.timeout(0.3):
                f.who()
            self.assertGreaterEqual(time.monotonic() - begun, 0.25)
            # Only what was sent may have run.
            self.assertEqual(caught.exception.may_have_run, hello is not None)
            with self.assertRaises(pysecure_rpc.DeadlineExceeded), pysecure_rpc.timeout(0.2):
                asyncio.run(f.later(0.0, "x"))
            self.unlink()


class Mishaps(WithServices):
    def test_lengths_that_cannot_be(self) -> None:
        process = self.supervisor.start("one", {"web": "*"})
        before = len(os.listdir(f"/proc/{process.pid}/fd"))
        head = b"\x95\x02\x01\xa4echo\x91"
        for message in [
            _wire.pack([0, 1 << 63]), _wire.pack([0, -1]), _wire.pack([0, 5]), _wire.pack([0, None]), _wire.pack([0, 1 << 40]),
            *(head + blob(0, o, n) + b"\x80" for o, n in [(0, 1 << 63), (1 << 63, 1), ((1 << 64) - 1, 2), (-1, 1), (0, -1), (0, 5), (3, 2)]),
            head + blob(1, 0, 1) + b"\x80", head + blob(-1, 0, 1) + b"\x80", head + blob(-2, 0, 1) + b"\x80",
            head + blob(1 << 63, 0, 1) + b"\x80",
        ]:  # fmt: skip
            raw = self.supervisor.raw("web", "one")
            raw.recv(65536)
            fd = memfd(b"abcd")
            socket.send_fds(raw, [message], [fd])
            os.close(fd)
            self.assertEqual(_wire.unpack(raw.recv(65536))[:3], [4, 0, "pysecure.BadMessage"], message)
            self.assertEqual(raw.recv(65536), b"")
            raw.close()
        until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) <= before)
        self.supervisor.act_as("web")
        self.assertEqual(f.echo(b"y"), b"y")

    def test_calls_that_go_round_in_circles_end(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": "*"}, "threads=3", "queue=2")
        self.supervisor.start("two", {"web": "*", "one": "*"}, "threads=3", "queue=2")
        self.supervisor.act_as("web")
        self.assertEqual(f.up(4), 4)
        # Deeper than there are threads: nobody waits for ever, and the services are well afterwards.
        with self.assertRaises((pysecure_rpc.DeadlineExceeded, pysecure_rpc.Busy)) as caught, pysecure_rpc.timeout(1):
            f.up(100)
        self.assertTrue(caught.exception.may_have_run)

        def well() -> bool:
            try:
                return f.up(4) == 4
            except pysecure_rpc.RpcError:
                return False

        until(well)

    def test_one_that_calls_alone_holds_up_nothing(self) -> None:
        # The core waits for the messages of who calls again and again, and alone, and for nothing else in that thread.
        for threads in ("threads=1", "threads=8"):
            self.supervisor.start("one", {"web": "*"}, threads)
            process = self.supervisor.running["one"]
            alone, other = self.supervisor.raw("web", "one"), self.supervisor.raw("web", "one")
            numbers = {alone: 0, other: 0}

            def send(sock: socket.socket, function: str, *args: Any) -> int:
                numbers[sock] += 1
                sock.send(_wire.pack([2, numbers[sock], function, list(args), {}, 60_000]))
                return numbers[sock]

            def answer(sock: socket.socket, number: int) -> Any:
                kind, found, value, *_ = _wire.unpack(sock.recv(65536))
                self.assertEqual((kind, found), (3, number))
                return value

            def calls(sock: socket.socket, many: int) -> None:
                for _ in range(many):
                    self.assertEqual(answer(sock, send(sock, "login", "a", "b")), "a/b/False/None")

            for sock in (alone, other):
                self.assertEqual(_wire.unpack(sock.recv(65536))[0], 1)
            for times in range(3):
                calls(alone, 100)
                calls(other, 100)  # now this one
                calls(alone, 100)
                # What was quick and lasts now.
                for _ in range(100):
                    self.assertEqual(answer(alone, send(alone, "slow", 0.0, "quick")), "quick")
                long = send(alone, "slow", 1000.0, f"alone{times}")
                calls(other, 1 if threads == "threads=8" else 0)
                alone.send(_wire.pack([8, long]))
                ended = _wire.unpack(alone.recv(65536))
                if ended[0] == 4:
                    # It was taken back before it began.
                    self.assertEqual((ended[1], ended[2], ended[6]), (long, "pysecure.Cancelled", False))
                else:
                    self.assertEqual(ended, [3, long, f"alone{times}"])
                    self.assertIn(f"alone{times}", answer(alone, send(alone, "what_closed")))
            calls(alone, 100)
            # Several at once, a stream, nonsense in values, and what is no function.
            several = [send(alone, "login", "a", "b") for _ in range(50)]
            # Answers come in any order.
            answers = [_wire.unpack(alone.recv(65536)) for _ in several]
            self.assertEqual(sorted(answers), [[3, n, "a/b/False/None"] for n in several])
            calls(alone, 100)
            stream = send(alone, "count", 3)
            alone.send(_wire.pack([7, stream, 10]))
            self.assertEqual([_wire.unpack(alone.recv(65536))[0] for _ in range(4)], [5, 5, 5, 6])
            calls(alone, 100)
            for function, args in (("login", [1, 2]), ("none", [])):
                number = send(alone, function, *args)
                self.assertEqual(_wire.unpack(alone.recv(65536))[:2], [4, number])
                calls(alone, 100)
            # It goes, and leaves nothing; and so does one whose message is none.
            open_before = len(os.listdir(f"/proc/{process.pid}/fd"))
            alone.close()
            until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) == open_before - 1)
            calls(other, 100)
            other.send(b"\xc1")
            self.assertEqual(_wire.unpack(other.recv(65536))[2], "pysecure.BadMessage")
            self.assertEqual(other.recv(65536), b"")
            other.close()
            until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) == open_before - 2)
            # The service ends while it waits for one.
            last = self.supervisor.raw("web", "one")
            numbers[last] = 0
            last.recv(65536)
            calls(last, 100)
            self.assertEqual(self.supervisor.stop("one"), 0)
            self.assertEqual(_wire.unpack(last.recv(65536))[0], 9)
            self.assertEqual(last.recv(65536), b"")
            last.close()

    def test_a_queue_is_bounded_and_busy_comes_at_once(self) -> None:
        self.supervisor.start("one", {"web": "*"}, "threads=1", "queue=1")
        self.supervisor.act_as("web")
        running = threading.Thread(target=lambda: f.slow(1.0, "first"))
        running.start()
        raws = []
        until(lambda: self.busy(raws))
        running.join()
        for raw in raws:
            raw.close()
        until(lambda: self.answered())

    def busy(self, raws: list[socket.socket]) -> bool:
        raw = self.supervisor.raw("web", "one")
        raws.append(raw)
        raw.recv(65536)
        raw.send(_wire.pack([2, 1, "slow", [1.0, "more"], {}]))
        raw.setblocking(False)
        time.sleep(0.01)
        try:
            answer = _wire.unpack(raw.recv(65536))
        except BlockingIOError:
            return False
        self.assertEqual((answer[2], answer[6]), ("pysecure.Busy", False))
        return True

    def answered(self) -> bool:
        try:
            return f.login("a", "b") == "a/b/False/None"
        except pysecure_rpc.Busy:
            return False

    def test_a_service_that_dies_before_a_call_and_in_the_middle(self) -> None:
        # What was not begun is made by the next process; what was, is not made again.
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        f.who()
        self.supervisor.stop("one", signal.SIGKILL)
        self.supervisor.start("one", {"web": "*"})
        self.assertEqual(f.who(), "web")
        outcome: list[BaseException] = []

        async def both() -> None:
            call = asyncio.ensure_future(f.later(1000.0, "x"))
            await asyncio.sleep(0.2)
            await asyncio.get_running_loop().run_in_executor(None, self.supervisor.stop, "one", signal.SIGKILL)
            try:
                await call
            except BaseException as error:
                outcome.append(error)

        asyncio.run(both())
        self.assertIsInstance(outcome[0], pysecure_rpc.ConnectionLost)
        self.assertTrue(outcome[0].may_have_run)  # type: ignore[attr-defined]

    def test_what_does_not_cross_says_so_and_harms_nothing(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        for call in (f.lies, f.unserialisable):
            with self.assertRaises(pysecure_rpc.InvalidResult) as caught:
                call()
            self.assertTrue(caught.exception.may_have_run)
            self.assertIn(call.__name__, str(caught.exception))
        self.assertEqual(f.who(), "web")

    def test_a_stream_whose_reader_goes_and_whose_service_goes(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        for _ in range(30):
            stream = f.count(1_000_000)
            next(stream)
            del stream
        until(lambda: f.what_closed().count("count") == 30)
        stream = f.count(1_000_000)
        next(stream)
        self.supervisor.stop("one", signal.SIGKILL)
        with self.assertRaises(pysecure_rpc.ConnectionLost):
            list(stream)


if __name__ == "__main__":
    unittest.main()
