"""Processes and threads of a service: what its functions fork serves nothing, and which thread runs what."""

from __future__ import annotations

import os
import signal
import threading
import time
import unittest
from typing import Any

import support  # first: it says where the packages are
import processes as p  # isort: skip
from support import WithServices, until

import pysecure_rpc
from pysecure_rpc import _codec as _wire

IN_MAIN = (True, 42)


class Forks(WithServices):
    """A child of a service's function serves nothing and answers nothing, and its parent goes on as before."""

    threads = "threads=8"

    def setUp(self) -> None:
        super().setUp()
        self.supervisor.start("one", {"web": "*"}, self.threads, script="processes.py")
        self.supervisor.start("two", {"web": "*", "one": "*"}, script="processes.py")
        self.supervisor.act_as("web")
        self.pid = self.supervisor.running["one"].pid

    def test_one_answer_which_is_the_parent_s(self) -> None:
        for name, args, status in [
            ("forks", ["returns"], 0), ("forks", ["raises"], 1), ("forks", ["exits"], 7), ("forks", ["exits with text"], 1),
            ("forks_past_python", [], 0), ("forks_a_terminal", [], 0), ("forks_in_a_thread", [], 0),
            ("forks_in_a_coroutine", ["returns"], 0), ("forks_in_a_coroutine", ["exits"], 7),
            ("forks_in_a_coroutine", ["awaits"], 1),
        ]:  # fmt: skip
            with self.subTest(name, args=args):
                raw = self.supervisor.raw("web", "one")
                raw.recv(65536)
                # The core serves a caller that calls alone in another way after some calls.
                for number in range(1, 41):
                    raw.send(_wire.pack([2, number, "pid", [], {}]))
                    self.assertEqual(_wire.unpack(raw.recv(65536)), [3, number, self.pid])
                raw.send(_wire.pack([2, 50, name, args, {}]))
                self.assertEqual(_wire.unpack(raw.recv(65536)), [3, 50, (self.pid, status)])
                raw.send(_wire.pack([2, 51, "pid", [], {}]))
                self.assertEqual(_wire.unpack(raw.recv(65536)), [3, 51, self.pid])
                raw.close()

    def test_streams(self) -> None:
        for at in (0, 3, 20):
            self.assertEqual(list(p.forks_and_yields(40, at)), [self.pid] * 40)
        self.assertEqual([self.pid] * 3, self.items_of_a_coroutine())
        some = p.forks_when_closed()
        self.assertEqual(next(some), self.pid)  # type: ignore[call-overload]
        some.close()  # type: ignore[attr-defined]
        until(lambda: p.what_closed() == ["0"])

    def items_of_a_coroutine(self) -> list[int]:
        import asyncio

        async def items() -> list[int]:
            return [item async for item in p.forks_in_a_stream()]

        return asyncio.run(items())

    def test_a_type_s_own_code_forks(self) -> None:
        raw = self.supervisor.raw("web", "one")
        raw.recv(65536)
        for number in range(1, 4):
            raw.send(_wire.pack([2, number, "forked_by_its_type", [{"text": "x"}], {}]))
            self.assertEqual(_wire.unpack(raw.recv(65536)), [3, number, self.pid])
        raw.close()

    def test_a_child_s_own_calls(self) -> None:
        said, (caller, _) = p.child_calls()
        self.assertEqual(caller, "one")
        # Its parent's stream is not its own, and neither is the time of the call.
        self.assertEqual(said, ["one 100 ConnectionLost web None 0"] * 3)
        self.assertEqual(p.pid(), self.pid)

    def test_signals_end_a_child_as_they_end_others(self) -> None:
        self.assertEqual(p.terminates(), -signal.SIGTERM)

    def test_a_child_that_stays_has_nothing_of_its_parent_s(self) -> None:
        raw = self.supervisor.raw("web", "one")
        raw.recv(65536)
        kept = p.leaves_one()
        # The sockets that the supervisor handed over are open by their first numbers, too.
        self.assertLessEqual(sum("socket" in name for name in kept), 1, kept)
        self.assertFalse([name for name in kept if "eventpoll" in name and not self.of_the_core(name)], kept)
        children = f"/proc/{self.pid}/task"
        found = [c for t in os.listdir(children) for c in open(f"{children}/{t}/children").read().split()]
        self.assertEqual(len(found), 1)
        self.addCleanup(os.kill, int(found[0]), signal.SIGTERM)
        # Callers hear of the end, which comes as soon as ever, though the child lives.
        begun = time.monotonic()
        self.assertEqual(self.supervisor.stop("one"), 0)
        self.assertLess(time.monotonic() - begun, 5)
        self.assertEqual(_wire.unpack(raw.recv(65536))[0], 9)
        self.assertEqual(raw.recv(65536), b"")

    def of_the_core(self, name: str) -> bool:
        return _wire.COMPILED and "eventpoll" in name

    def test_many_at_once(self) -> None:
        wrong: list[Any] = []

        def many(how: str) -> None:
            for _ in range(10):
                found = p.forks(how), p.pid()
                if found[0][0] != self.pid or found[1] != self.pid:
                    wrong.append(found)

        threads = [threading.Thread(target=many, args=(how,)) for how in ("returns", "exits", "raises") * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])


class ForksOfOneThread(Forks):
    threads = "threads=1"


class OneThread(WithServices):
    """With `threads=1` all of the service's own code runs in the main thread, where `__main__` made its connection."""

    def start(self, *options: str) -> None:
        self.supervisor.start("one", {"web": "*"}, "threads=1", *options, script="processes.py")
        self.supervisor.act_as("web")

    def all_kinds(self) -> None:
        import asyncio

        for _ in range(3):
            self.assertEqual(p.plain(), IN_MAIN)
            self.assertEqual(p.runs_a_loop(), IN_MAIN)
            some = p.stream()
            self.assertEqual([next(some) for _ in range(40)], [IN_MAIN] * 40)  # type: ignore[call-overload]
            some.close()  # type: ignore[attr-defined]
            self.assertEqual(p.type_s_own_code(p.Looked("")), str(IN_MAIN))
            with self.assertRaises(ValueError) as caught:
                p.refuses(p.Looked(""))
            self.assertEqual(caught.exception.args, (str(IN_MAIN),))

        async def coroutines() -> None:
            self.assertEqual(await asyncio.gather(*(p.coroutine(0.01) for _ in range(20))), [IN_MAIN] * 20)
            self.assertEqual([item async for item in p.coroutine_stream()], [IN_MAIN] * 40)

        asyncio.run(coroutines())

    def test_all_runs_in_the_main_thread(self) -> None:
        self.start()
        self.all_kinds()
        until(lambda: p.what_closed() == [str(IN_MAIN)] * 3)
        self.all_kinds()
        self.assertEqual(self.supervisor.stop("one"), 0)

    def test_many_callers_at_once(self) -> None:
        self.start("queue=1000")
        wrong: list[Any] = []

        def many() -> None:
            for _ in range(50):
                found = p.plain()
                if found != IN_MAIN:
                    wrong.append(found)

        threads = [threading.Thread(target=many) for _ in range(10)]
        for thread in threads:
            thread.start()
        self.all_kinds()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_processes_of_one_thread_each(self) -> None:
        self.start("processes=3")
        seen: set[int] = set()

        def some() -> None:
            seen.add(p.pid())
            self.all_kinds()

        while len(seen) < 2:
            thread = threading.Thread(target=some)
            thread.start()
            thread.join()
        self.assertNotIn(self.supervisor.running["one"].pid, seen)
        self.assertEqual(self.supervisor.stop("one"), 0)

    def test_what_comes_while_a_function_runs(self) -> None:
        self.start()
        with pysecure_rpc.timeout(0.2), self.assertRaises(pysecure_rpc.DeadlineExceeded):
            p.cancelled_soon()
        until(lambda: "cancelled" in p.what_closed())

    def test_the_end_waits_for_what_runs_and_interrupts_it_at_last(self) -> None:
        for options, answered in ((["drain=60"], True), (["drain=0"], False)):
            self.start(*options)
            raw = self.supervisor.raw("web", "one")
            raw.recv(65536)
            raw.send(_wire.pack([2, 1, "plain", [0.5 if answered else 1000.0], {}]))
            # It runs once it is answered that another has to wait.
            time.sleep(0.2)
            self.assertEqual(self.supervisor.stop("one"), 0)
            self.assertEqual(_wire.unpack(raw.recv(65536))[0], 9)
            if answered:
                self.assertEqual(_wire.unpack(raw.recv(65536)), [3, 1, IN_MAIN])
            self.assertEqual(raw.recv(65536), b"")
            raw.close()

    def test_coroutines_go_on_while_it_ends(self) -> None:
        self.start("drain=60")
        raw = self.supervisor.raw("web", "one")
        raw.recv(65536)
        raw.send(_wire.pack([2, 1, "coroutine", [0.5], {}]))
        raw.send(_wire.pack([2, 2, "plain", [0.1], {}]))
        self.assertEqual(_wire.unpack(raw.recv(65536)), [3, 2, IN_MAIN])
        self.assertEqual(self.supervisor.stop("one"), 0)
        self.assertEqual(_wire.unpack(raw.recv(65536))[0], 9)
        self.assertEqual(_wire.unpack(raw.recv(65536)), [3, 1, IN_MAIN])
        raw.close()


if __name__ == "__main__":
    unittest.main()
