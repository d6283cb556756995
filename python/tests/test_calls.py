"""Calls between processes: what they mean, and what becomes of them when something goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

import support  # first: it says where the packages are
import functions as f  # isort: skip
from support import WithServices, until

import pysecure_rpc
from pysecure_rpc import _codec as _wire


class Calls(unittest.TestCase):
    """One service for all tests that leave it as it is."""

    supervisor: support.Supervisor

    @classmethod
    def setUpClass(cls) -> None:
        cls.supervisor = support.Supervisor()
        cls.supervisor.start("one", {"web": "*", "two": "*"}, "threads=4")
        cls.supervisor.start("two", {"web": "*", "one": "*"}, "threads=4")

    @classmethod
    def tearDownClass(cls) -> None:
        cls.supervisor.close()

    def setUp(self) -> None:
        self.supervisor.act_as("web")

    def test_arguments(self) -> None:
        self.assertEqual(f.login("a", "b"), "a/b/False/None")
        self.assertEqual(f.login("a", password="b", remember=True, token="t"), "a/b/True/t")
        self.assertEqual(f.rest(1, 2, 3, a="x"), ["1", "2", "3", "a=x"])
        self.assertEqual(f.login.__name__, "login")

    def test_wrong_arguments_are_refused_by_the_caller(self) -> None:
        for args, kwargs in [
            (("a",), {}), (("a", 1), {}), (("a", "b", 1), {}), (("a", "b", True, "t"), {}), (("a", "b"), {"user": "a"}),
            (("a", "b"), {"none": 1}), ((), {}), (("a", "b"), {"token": 3}),
        ]:  # fmt: skip
            with self.assertRaises(TypeError) as caught:
                f.login(*args, **kwargs)  # type: ignore[arg-type]
            self.assertIsInstance(caught.exception, pysecure_rpc.InvalidArguments)
            self.assertFalse(caught.exception.may_have_run)

    def test_wrong_arguments_are_refused_by_the_service_before_the_function_runs(self) -> None:
        before = len(f.history())
        raw = self.supervisor.raw("web", "one")
        raw.recv(65536)
        for at, (args, kwargs) in enumerate([([1, 2], {}), (["a"], {}), (["a", "b"], {"x": 1}), (["a", "b", 1], {})]):
            raw.send(_wire.pack([2, at + 1, "login", args, kwargs]))
            self.assertEqual(_wire.unpack(raw.recv(65536))[:3], [4, at + 1, "pysecure.InvalidArguments"])
        raw.close()
        self.assertEqual(len(f.history()), before)

    def test_all_kinds_of_values_come_back_identical(self) -> None:
        for name, (_, values) in f.KINDS.items():
            for value in values:
                with self.subTest(name):
                    back = f.same[name](value)
                    self.assertEqual(back, value)
                    self.assertIs(type(back), type(value))

    def test_who_calls(self) -> None:
        self.assertEqual(f.who(), "web")
        self.supervisor.act_as("two")
        self.assertEqual(f.who(), "two")

    def test_streams(self) -> None:
        self.assertEqual(list(f.count(100)), list(range(100)))

        def whole():  # type: ignore[no-untyped-def]
            return (yield from f.count(3))

        stream = whole()
        self.assertEqual([next(stream), next(stream), next(stream)], [0, 1, 2])
        with self.assertRaises(StopIteration) as end:
            next(stream)
        self.assertEqual(end.exception.value, "all")
        got = []
        with self.assertRaises(ValueError):
            for n in f.count(10, fail_at=4):
                got.append(n)
        self.assertEqual(got, [0, 1, 2, 3])
        self.assertEqual([len(c) for c in f.chunks(100_000, 40)], [100_000] * 40)
        self.assertEqual(b"".join(f.chunks(20_000, 30)), b"".join(bytes([n]) * 20_000 for n in range(30)))

    def test_a_stream_is_not_run_ahead_of_its_reader_and_is_closed_with_it(self) -> None:
        stream = f.count(100_000)
        self.assertEqual(next(stream), 0)
        time.sleep(0.1)
        self.assertLessEqual(f.how_many_produced(), 17)
        before = f.what_closed().count("count")
        stream.close()
        until(lambda: f.what_closed().count("count") > before)

    def test_many_open_streams_take_no_threads(self) -> None:
        streams = [f.count(1000) for _ in range(20)]
        for stream in streams:
            next(stream)
        self.assertEqual(f.login("a", "b"), "a/b/False/None")
        for stream in streams:
            self.assertEqual(len(list(stream)), 999)

    def test_asyncio(self) -> None:
        async def main() -> None:
            self.assertEqual(await f.later(0.01, "x"), "x")
            start = time.monotonic()
            got = await asyncio.gather(*(f.later(0.3, str(n)) for n in range(50)))
            self.assertEqual(got, [str(n) for n in range(50)])
            self.assertLess(time.monotonic() - start, 10)
            self.assertEqual([n async for n in f.count_async(40)], list(range(40)))
            task = asyncio.ensure_future(f.later(1000, "cancelled"))
            await asyncio.sleep(0.1)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        until(lambda: "cancelled" in f.what_closed())

    def test_deadlines(self) -> None:
        with self.assertRaises(TimeoutError) as caught, pysecure_rpc.timeout(0.1):
            f.slow(1000.0, "deadline")
        self.assertIsInstance(caught.exception, pysecure_rpc.DeadlineExceeded)
        self.assertTrue(caught.exception.may_have_run)
        until(lambda: "deadline" in f.what_closed())
        left = f.left()
        assert left is not None
        self.assertTrue(50 < left <= 60)
        with pysecure_rpc.timeout(5):
            left = f.left_of_nested()
            assert left is not None
            self.assertTrue(0 < left <= 5)
            with pysecure_rpc.timeout(50):
                left = f.left()
                assert left is not None and left <= 5
        with self.assertRaises(TimeoutError), pysecure_rpc.timeout(0.1):
            asyncio.run(f.later(1000.0, "async deadline"))
        until(lambda: "async deadline" in f.what_closed())

    def test_a_service_that_calls_back(self) -> None:
        self.assertEqual(f.up(3), 3)

    def test_trace_context(self) -> None:
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        with pysecure_rpc.trace(parent):
            self.assertEqual(f.traced(), parent)
        self.assertIsNone(f.traced())

    def test_large_values(self) -> None:
        for size in (16_384, 16_385, 65_536, 1 << 20, 20 << 20):
            data = os.urandom(1024) * (size // 1024) + b"x" * (size % 1024)
            self.assertEqual(f.echo(data), data)
        self.assertEqual(f.size(list(range(200_000))), 200_000)
        with self.assertRaises(pysecure_rpc.TooLarge):
            f.echo(bytes(65 << 20))
        self.assertEqual(f.echo(b"still here"), b"still here")

    def test_no_descriptor_is_left_behind(self) -> None:
        f.echo(bytes(100_000))
        before = len(os.listdir("/proc/self/fd"))
        there = len(os.listdir(f"/proc/{self.supervisor.running['one'].pid}/fd"))
        for _ in range(50):
            f.echo(bytes(100_000))
            f.echo(bytes(9 << 20))
            with self.assertRaises(TypeError):
                f.same["list"]([1, bytes(100_000)])
        self.assertLessEqual(len(os.listdir("/proc/self/fd")), before)
        # The service closes its memfd after it has sent the answer; one that it forgot would stay for ever.
        until(lambda: len(os.listdir(f"/proc/{self.supervisor.running['one'].pid}/fd")) <= there)

    def test_descriptors(self) -> None:
        ours, theirs = os.pipe()
        f.write_to(pysecure_rpc.Fd(theirs), "over there")
        os.close(theirs)
        with os.fdopen(ours) as file:
            self.assertEqual(file.read(), "over there")
        with f.read_end("back again") as end:
            self.assertFalse(os.get_inheritable(end.fileno()))
            self.assertEqual(os.read(end.fileno(), 100), b"back again")

    def test_exceptions(self) -> None:
        with self.assertRaises(ValueError) as value:
            f.fail("value")
        self.assertEqual(value.exception.args, ("bad", 3))
        with self.assertRaises(BrokenPipeError):
            f.fail("pipe")
        with self.assertRaises(KeyError):
            f.fail("key")
        with self.assertRaises(pysecure_rpc.RemoteError) as unknown:
            f.fail("unknown")
        self.assertEqual(unknown.exception.class_name, "functions.Unknown")
        self.assertEqual(unknown.exception.remote_args, ("what", 1))
        self.assertTrue(unknown.exception.may_have_run)
        # What is too long, or cannot cross, is shortened, and stands where it stood.
        with self.assertRaises(ValueError) as long:
            f.fail("long")
        self.assertEqual(long.exception.args[:4], ("x" * 2000, 7, b"y" * 2000, None))
        self.assertIn("TextIOWrapper", long.exception.args[4])
        for kind in ("exit", "stop"):
            with self.assertRaises((RuntimeError, pysecure_rpc.RemoteError)):
                f.fail(kind)
        with self.assertRaises(pysecure_rpc.InvalidResult):
            f.lies()
        with self.assertRaises(pysecure_rpc.InvalidResult):
            f.unserialisable()
        self.assertEqual(f.login("a", "b"), "a/b/False/None")

    def test_a_registered_exception(self) -> None:
        # It runs as `__main__` there, and is `functions` here.
        with self.assertRaises(f.Refused) as caught:
            f.fail("refused")
        self.assertEqual(caught.exception.args, ("no", 7))

    def test_threads(self) -> None:
        wrong: list[str] = []

        def many(name: str) -> None:
            for n in range(200):
                if f.login(name, str(n)) != f"{name}/{n}/False/None":
                    wrong.append(name)

        threads = [threading.Thread(target=many, args=(str(n),)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_fork_after_the_first_call(self) -> None:
        f.login("a", "b")
        children = []
        for n in range(4):
            pid = os.fork()
            if not pid:
                try:
                    same = all(f.login(str(n), str(m)) == f"{n}/{m}/False/None" for m in range(100))
                    os._exit(0 if same else 1)
                except BaseException:
                    os._exit(2)
            children.append(pid)
        for m in range(100):
            self.assertEqual(f.login("p", str(m)), f"p/{m}/False/None")
        self.assertEqual([os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in children], [0] * 4)

    def test_a_signal_in_the_middle_of_a_read(self) -> None:
        seen: list[int] = []
        before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        try:
            self.assertEqual(f.slow(0.2), "slow")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        self.assertGreater(len(seen), 3)

        class Stop(Exception):
            pass

        def stop(*_: object) -> None:
            raise Stop

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with self.assertRaises(Stop):
                f.slow(1000.0, "interrupted")
        finally:
            signal.signal(signal.SIGALRM, before)
        until(lambda: "interrupted" in f.what_closed())

    def test_a_caller_that_dies_in_the_middle_of_a_call(self) -> None:
        code = "import functions as f; f.slow(1000.0, 'orphan')"
        env = {**os.environ, "PYTHONPATH": f"{support.SRC}:{support.HERE}"}
        child = subprocess.Popen([sys.executable, "-c", code], env=env)
        until(lambda: "orphan" in f.history())
        child.kill()
        child.wait()
        until(lambda: "orphan" in f.what_closed())

    def test_reflection(self) -> None:
        found = {d["name"]: d for d in pysecure_rpc.describe("two")}
        self.assertEqual(set(found), {"down", "left_of_nested", "traced_nested"})
        self.assertEqual(found["down"]["signature"], "down(n:int)->int")

    def test_a_malformed_message_ends_its_own_connection_alone(self) -> None:
        good = self.supervisor.raw("web", "one")
        good.recv(65536)
        for data in [
            b"\xc1", b"\x90", b"\x91\x0b", b"\x94\x02\x01\xa1f\x90", b"\x95\x02\x00\xa5login\x90\x80", b"x" * 60_000,
            b"\x91" * 10_000, b"\x92\x00\x05", b"\x95\x02\x01\xa4echo\x91\xc7\x05\x14\x94\x00\x00\x01\xc2\x80",
            b"\x95\x02\x01\xa5login\x90\x81\x01\x01", b"\x93\x07\x01\x00", b"\x92\x01\x01",
            b"\xdd\xff\xff\xff\xff\x02", b"\x95\x02\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa5login\x90\x80",
        ]:  # fmt: skip
            bad = self.supervisor.raw("web", "one")
            bad.recv(65536)
            bad.send(data)
            answer = _wire.unpack(bad.recv(65536))
            self.assertEqual(answer[:3], [4, 0, "pysecure.BadMessage"], data[:20])
            self.assertEqual(bad.recv(65536), b"")
            bad.close()
        good.send(_wire.pack([2, 1, "who", [], {}]))
        self.assertEqual(_wire.unpack(good.recv(65536)), [3, 1, "web"])
        good.close()

    def test_a_descriptor_that_nothing_names(self) -> None:
        before = len(os.listdir(f"/proc/{self.supervisor.running['one'].pid}/fd"))
        for _ in range(20):
            bad = self.supervisor.raw("web", "one")
            bad.recv(65536)
            socket.send_fds(bad, [_wire.pack([2, 1, "who", [], {}])], [0, 1, 2])
            self.assertEqual(_wire.unpack(bad.recv(65536))[2], "pysecure.BadMessage")
            bad.close()
        until(lambda: len(os.listdir(f"/proc/{self.supervisor.running['one'].pid}/fd")) <= before)

    def test_callers_that_never_read_or_never_speak(self) -> None:
        silent = [self.supervisor.raw("web", "one") for _ in range(100)]
        deaf = [self.supervisor.raw("web", "one") for _ in range(10)]
        for sock in deaf:
            sock.setblocking(False)
            try:
                for n in range(10_000):
                    sock.send(_wire.pack([2, n + 1, "echo", [b"x" * 10_000], {}]))
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
        start = time.monotonic()
        for _ in range(20):
            self.assertEqual(f.login("a", "b"), "a/b/False/None")
        self.assertLess(time.monotonic() - start, 10)
        for sock in silent + deaf:
            sock.close()


class Lives(WithServices):
    """Services that start, end, hang and restart."""

    def test_an_idle_connection_outlives_a_restart(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.supervisor.start("one", {"web": "*"})
            self.supervisor.act_as("web")
            first = f.pid()
            stream = f.count(100_000)
            next(stream)
            self.supervisor.stop("one", number)
            self.supervisor.start("one", {"web": "*"})
            self.assertNotEqual(f.pid(), first)
            with self.assertRaises(pysecure_rpc.RpcError):
                list(stream)
            self.supervisor.stop("one")

    def test_a_call_waits_for_a_service_that_is_down(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        self.supervisor.stop("one")
        got: list[str] = []
        thread = threading.Thread(target=lambda: got.append(f.login("a", "b")))
        thread.start()
        time.sleep(0.1)
        self.assertEqual(got, [])
        with self.assertRaises(TimeoutError) as caught, pysecure_rpc.timeout(0.1):
            f.login("a", "b")
        self.assertFalse(caught.exception.may_have_run)
        self.supervisor.start("one", {"web": "*"})
        thread.join()
        self.assertEqual(got, ["a/b/False/None"])

    def test_a_service_that_dies_in_the_middle_of_a_call(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        outcome: list[object] = []

        def call() -> None:
            try:
                outcome.append(f.slow(1000.0))
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        until(lambda: "slow" in f.history())
        self.supervisor.stop("one", signal.SIGKILL)
        self.supervisor.start("one", {"web": "*"})
        thread.join()
        self.assertIsInstance(outcome[0], pysecure_rpc.ConnectionLost)
        self.assertTrue(outcome[0].may_have_run)  # type: ignore[attr-defined]
        self.assertEqual(f.history(), [], "a call was made twice")

    def test_an_idempotent_call_is_made_again(self) -> None:
        first = self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        outcome: list[int] = []
        thread = threading.Thread(target=lambda: outcome.append(f.slow_idempotent(0.3)))
        thread.start()
        time.sleep(0.15)
        self.supervisor.stop("one", signal.SIGKILL)
        second = self.supervisor.start("one", {"web": "*"})
        thread.join()
        self.assertEqual(outcome, [second.pid])
        self.assertNotEqual(first.pid, second.pid)

    def test_sigterm_lets_end_what_runs(self) -> None:
        self.supervisor.start("one", {"web": "*"}, "drain=60")
        self.supervisor.act_as("web")
        outcome: list[str] = []
        thread = threading.Thread(target=lambda: outcome.append(f.slow(0.5)))
        thread.start()
        until(lambda: "slow" in f.history())
        self.assertEqual(self.supervisor.stop("one"), 0)
        thread.join()
        self.assertEqual(outcome, ["slow"])

    def test_restarts_under_load_fail_no_call(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        failed: list[Exception] = []
        counts = [0] * 4
        over = threading.Event()

        def many(number: int) -> None:
            while not over.is_set():
                try:
                    assert f.login("a", str(counts[number])) == f"a/{counts[number]}/False/None"
                    counts[number] += 1
                except Exception as error:
                    failed.append(error)

        threads = [threading.Thread(target=many, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            before = list(counts)
            until(lambda: failed or all(now > then for now, then in zip(counts, before)))
            self.assertEqual(self.supervisor.stop("one"), 0)
            self.supervisor.start("one", {"web": "*"})
        over.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])

    def test_a_cancel_is_heard_while_a_stream_runs(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        raw = self.supervisor.raw("web", "one")
        raw.recv(65536)
        # Credit without end, and a reader: the stream would run for ever.
        raw.send(_wire.pack([2, 1, "count", [10**12], {}, None, None, 0, 1 << 31]))
        for n in range(100):
            self.assertEqual(_wire.unpack(raw.recv(65536)), [5, 1, n])
        raw.send(_wire.pack([8, 1]))
        while (answer := _wire.unpack(raw.recv(65536)))[0] == 5:
            pass
        self.assertEqual(answer[:3], [4, 1, "pysecure.Cancelled"])
        raw.send(_wire.pack([2, 2, "count", [10**12], {}, None, None, 0, 1]))
        self.assertEqual(_wire.unpack(raw.recv(65536)), [5, 2, 0])
        raw.send(_wire.pack([7, 2, 1 << 31]))
        for n in range(1, 100):
            self.assertEqual(_wire.unpack(raw.recv(65536)), [5, 2, n])
        raw.close()
        until(lambda: f.what_closed().count("count") == 2)

    def test_busy(self) -> None:
        self.supervisor.start("one", {"web": "*"}, "threads=2", "queue=1")
        self.supervisor.act_as("web")
        outcomes: list[str] = []

        def call() -> None:
            try:
                outcomes.append(f.slow(1.0))
            except pysecure_rpc.Busy as error:
                assert not error.may_have_run
                outcomes.append("busy")

        threads = [threading.Thread(target=call) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(outcomes), ["busy"] * 3 + ["slow"] * 3)

    def test_a_bound_of_connections(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": "*"}, "connections=50")
        held = [self.supervisor.raw("web", "one") for _ in range(60)]
        answers = [_wire.unpack(s.recv(65536)) for s in held]
        self.assertEqual([a[0] for a in answers], [1] * 50 + [4] * 10)
        self.assertEqual(answers[-1][2], "pysecure.Busy")
        self.supervisor.act_as("web")
        with self.assertRaises(pysecure_rpc.Busy):
            f.who()
        self.supervisor.act_as("two")
        self.assertEqual(f.who(), "two")
        for sock in held:
            sock.close()
        self.supervisor.act_as("web")

        def free() -> bool:
            try:
                return f.who() == "web"
            except pysecure_rpc.Busy:
                return False

        until(free)

    def test_ten_thousand_connections(self) -> None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.assertGreater(hard, 10_100, "this test wants a hard limit of 10,100 open files: `ulimit -Hn`")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        process = self.supervisor.start("one", {"web": "*"}, "connections=20000")
        self.supervisor.act_as("web")
        f.who()

        def memory() -> int:
            with open(f"/proc/{process.pid}/statm") as file:
                return int(file.read().split()[1]) * 4096

        before = memory()
        held = [self.supervisor.raw("web", "one") for _ in range(10_000)]
        for sock in held:
            self.assertNotEqual(sock.recv(65536), b"")
        each = (memory() - before) / len(held)
        self.assertLess(each, 8192, "bytes of a connection in the service")
        self.assertEqual(f.who(), "web")
        for sock in held:
            sock.close()

    def test_processes(self) -> None:
        self.supervisor.start("one", {"web": "*"}, "processes=3")
        self.supervisor.act_as("web")
        pids: set[int] = set()

        def call() -> None:
            pids.add(f.pid())

        while len(pids) < 3:
            threads = [threading.Thread(target=call) for _ in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        os.kill(min(pids), signal.SIGKILL)
        time.sleep(0.3)
        for _ in range(20):
            f.pid()
        self.assertEqual(self.supervisor.stop("one"), 0)

    def test_what_is_not_granted_does_not_exist(self) -> None:
        self.supervisor.start("one", {"web": ["login", "who"], "two": ["who"], "spy": []})
        self.supervisor.act_as("web")
        self.assertEqual(f.who(), "web")
        with self.assertRaises(pysecure_rpc.NoSuchFunction) as denied:
            f.granted_to_nobody()
        with self.assertRaises(pysecure_rpc.NoSuchFunction):
            f.only_web()
        self.assertEqual({d["name"] for d in pysecure_rpc.describe("one")}, {"login", "who"})
        raw = self.supervisor.raw("web", "one")
        self.assertEqual(set(_wire.unpack(raw.recv(65536))[4]), {"login", "who"})
        raw.send(_wire.pack([2, 1, "granted_to_nobody", [], {}]))
        refused = _wire.unpack(raw.recv(65536))
        raw.send(_wire.pack([2, 2, "there_is_no_such", [], {}]))
        absent = _wire.unpack(raw.recv(65536))
        raw.send(_wire.pack([2, 3, "os.system", ["true"], {}]))
        imported = _wire.unpack(raw.recv(65536))
        raw.close()
        for answer, name in ((refused, "granted_to_nobody"), (absent, "there_is_no_such"), (imported, "os.system")):
            self.assertEqual(answer[2:], ["pysecure.NoSuchFunction", f"one has no function '{name}'", [], None, False])
        self.assertFalse(denied.exception.may_have_run)
        self.supervisor.act_as("two")
        with self.assertRaises(pysecure_rpc.NoSuchFunction):
            f.login("a", "b")
        self.supervisor.act_as("spy")
        self.assertEqual(pysecure_rpc.describe("one"), [])
        self.supervisor.act_as("stranger")
        with self.assertRaises(pysecure_rpc.NotGranted):
            f.who()

    def test_a_decorator_can_only_narrow(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": "*"})
        self.supervisor.act_as("web")
        self.assertEqual(f.only_web(), "web")
        self.supervisor.act_as("two")
        with self.assertRaises(pysecure_rpc.NoSuchFunction):
            f.only_web()

    def test_services_that_cannot_start_say_why(self) -> None:
        for callers, environment, service, text in [
            ({"web": ["logni"]}, {}, "one", b"grant logni to web, but no function of that name"),
            ({"web": "*"}, {"PYSECURE_RPC_CALLERS": ""}, "one", b"PYSECURE_RPC_CALLERS does not say"),
            ({"web": "*"}, {"PYSECURE_RPC_CALLERS": "{"}, "one", b"is not the JSON"),
            ({"web": "*"}, {}, "three", b"no function has @rpc(run_as='three'); services with functions: one, two"),
            ({"web": "*"}, {"LISTEN_PID": "1"}, "one", b"exec python3"),
            ({"web": "*"}, {"PYSECURE_SERVICE": "two"}, "one", b"this is the service 'two'"),
        ]:
            process = self.supervisor.start(service, callers, environment=environment, wait=False)
            _, said = process.communicate()
            del self.supervisor.running[service]
            self.assertIn(text, said)
            self.assertEqual(process.returncode, 1)

    def test_another_version_of_a_function_is_noticed_before_anything_is_sent(self) -> None:
        self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")

        def who(more: int = 0) -> str:
            raise NotImplementedError

        from pysecure_rpc import _client, _function

        other = _function.Function(who, "one", False, 5.0, None)
        with self.assertRaises(pysecure_rpc.SignatureMismatch):
            _client.call(other, (), {})
        self.assertEqual(f.who(), "web")

    def test_outside_of_pysecure_it_binds_its_own_socket(self) -> None:
        folder = self.supervisor.folder("plain")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("LISTEN_", "PYSECURE_"))}
        env |= {"PYSECURE_RPC_DIR": folder, "PYTHONPATH": f"{support.SRC}:{support.HERE}"}
        for _ in range(2):
            process = subprocess.Popen([sys.executable, str(support.HERE / "functions.py"), "one"], env=env)
            until(lambda: os.path.exists(f"{folder}/one.sock"))
            self.supervisor.act_as("plain")

            def answers() -> bool:
                try:
                    return f.login("a", "b") == "a/b/False/None" and f.who() is None
                except (pysecure_rpc.ConnectionLost, pysecure_rpc.NotGranted):
                    # What the first left is there until the second takes it away, and then nothing for a moment.
                    return False

            until(answers)
            self.assertEqual(os.stat(f"{folder}/one.sock").st_mode & 0o777, 0o600)
            process.send_signal(signal.SIGKILL if _ == 0 else signal.SIGTERM)
            process.wait()
        self.assertFalse(os.path.exists(f"{folder}/one.sock"))

    def test_random_messages_end_in_errors_and_the_service_stays(self) -> None:
        import random

        process = self.supervisor.start("one", {"web": "*"})
        self.supervisor.act_as("web")
        chance = random.Random(7)
        good = _wire.pack([2, 1, "echo", [b"abc"], {"k": [1, {"a": (1, 2)}]}, 5, None, 0, 1])

        def some(count: int) -> None:
            raw = None
            for _ in range(count):
                if raw is None:
                    raw = self.supervisor.raw("web", "one")
                    raw.recv(65536)
                data = bytearray(good)
                for _ in range(chance.randrange(1, 4)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                try:
                    raw.send(bytes(data))
                    answer = _wire.unpack(raw.recv(65536))
                    if answer[:2] == [4, 0]:
                        raise ConnectionResetError
                except (BrokenPipeError, ConnectionResetError):
                    raw.close()
                    raw = None

        def memory() -> int:
            with open(f"/proc/{process.pid}/statm") as file:
                return int(file.read().split()[1]) * 4

        some(1000)
        before = memory()
        some(10_000)
        self.assertLess(memory() - before, 2048)
        self.assertEqual(f.who(), "web")
        self.assertEqual(f.history(), [])


class Local(unittest.TestCase):
    def test_all_in_one_process(self) -> None:
        with pysecure_rpc.local("web"):
            self.assertEqual(f.login("a", "b"), "a/b/False/None")
            self.assertEqual(f.who(), "web")
            self.assertEqual(list(f.count(3)), [0, 1, 2])
            self.assertEqual(f.up(4), 4)
            self.assertEqual(asyncio.run(f.later(0.0, "x")), "x")
            with self.assertRaises(TypeError):
                f.login("a", 1)  # type: ignore[arg-type]
            for name, (_, values) in f.KINDS.items():
                for value in values:
                    self.assertEqual(f.same[name](value), value)



if __name__ == "__main__":
    unittest.main()
