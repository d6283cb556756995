"""Code that nobody trusts, run by a pool of sandboxes: what it comes to, what it may call, and what it cannot do to its caller."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import dataclasses
import datetime
import enum
import functools
import os
import pathlib
import random
import re
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import typing
import unittest
from collections.abc import AsyncIterator, Iterator
from typing import Any

import support
from support import until

import pysecure_sandbox
from pysecure_sandbox import Function, Sandbox, run_sandboxed_code, stub, userdir_for
from pysecure_sandbox import _session, _userdir

#: Finds the socket that code in a sandbox shares with its caller, as hostile code would.
FIND = """
import gc, socket, struct, array
sock = next(o._sock for o in gc.get_objects() if type(o).__name__ == 'Calling')
"""


@dataclasses.dataclass
class Transfer:
    sender: str
    amount: int = 1


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


def get_xfers(username: str) -> list[Transfer]:
    """The transfers of a user."""
    return [Transfer(username, 3), Transfer("bob", 4)]


def add(a: int, b: int = 1) -> int:
    return a + b


def fail(text: str) -> None:
    raise KeyError(text, 5)


def count(to: int) -> Iterator[int]:
    yield from range(to)


async def slowly(x: int) -> int:
    await asyncio.sleep(0.01)
    return x * 2


async def items(to: int) -> AsyncIterator[int]:
    for each in range(to):
        yield each


class WithSandbox(unittest.TestCase):
    sandbox: Sandbox

    @classmethod
    def setUpClass(cls) -> None:
        cls.sandbox = Sandbox(at_once=8)
        cls.addClassCleanup(cls.sandbox.close)

    def folder(self) -> str:
        found = tempfile.TemporaryDirectory(prefix="pysecure-sandbox-")
        self.addCleanup(found.cleanup)
        return found.name

    def out(self, code: str, api: Any = None, **options: Any) -> str:
        result = self.sandbox.run(code, None, api, **options)
        self.assertTrue(result.ok, result.explain())
        return result.stdout


class TheOriginal(unittest.TestCase):
    def test_its_call_as_it_was(self) -> None:
        pcode = "print('visits:', get_xfers('alice')[0]['amount'])\nopen('counter', 'w').write('1')"
        with tempfile.TemporaryDirectory(prefix="pysecure-sandbox-") as userdir:
            api = {"get_xfers": get_xfers}
            output = run_sandboxed_code(pcode, userdir, api)
            self.assertEqual(output, "visits: 3\n")
            self.assertEqual(os.listdir(userdir), ["counter"])
            # The same user's files come back to the same owner, and are his to change.
            self.assertEqual(run_sandboxed_code("print(open('counter').read())\nopen('counter', 'w').write('22')", userdir, api), "1\n")
            self.assertEqual(run_sandboxed_code("print(open('counter').read())", userdir, api), "22\n")

    def test_other_languages_read_the_code(self) -> None:
        self.assertEqual(run_sandboxed_code("echo $((6 * 7))", language="sh"), "42\n")
        self.assertEqual(run_sandboxed_code("a b", command=["cat"]), "a b")
        with self.assertRaisesRegex(ValueError, "no language 'cobol'"):
            run_sandboxed_code("", language="cobol")
        with self.assertRaisesRegex(ValueError, "leave out `api`"):
            run_sandboxed_code("", None, {"add": add}, command=["cat"])


class Results(WithSandbox):
    def test_what_code_prints_and_comes_to(self) -> None:
        result = self.sandbox.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\nx = 4\n[x, {'a': (1, None)}]")
        self.assertEqual((result.stdout, result.stderr), ("out\n", "err\n"))
        self.assertEqual(result.value, [4, {"a": (1, None)}])
        self.assertEqual((result.exit, result.signal, result.limit, result.error), (0, None, None, None))
        self.assertTrue(result.ok and result.usage.wall > 0 and result.isolation)
        self.assertIn("ended well", result.explain())
        self.assertEqual(self.sandbox.run("x = 4").value, None)
        # What cannot cross has a text.
        result = self.sandbox.run("object()")
        self.assertEqual(result.value, None)
        self.assertRegex(result.text or "", "^<object object")
        result = self.sandbox.run("class A:\n  def __repr__(self): raise ValueError\nA()")
        self.assertIn("text cannot be made", result.text or "")

    def test_every_code_has_a_clear_result(self) -> None:
        for code, exit, error in [
            ("", 0, None),
            (b"", 0, None),
            ("\n\n# nothing\n", 0, None),
            ("\0", 1, "null"),
            (b"print(1)\0", 1, "null"),
            ("'''", 1, "SyntaxError"),
            (b"\xff\xfe", 1, "SyntaxError"),
            ("print('\ud800')", 1, "SyntaxError"),
            (b"# coding: latin-1\nprint('\xe9')", 0, None),
            (b"# coding: no-such-thing\n", 1, "SyntaxError"),
            ("# coding: latin-1\nassert 'é' == chr(233)", 0, None),
            (bytearray(b"x = 1"), 0, None),
            ("(" * 10_000, 1, "Error"),
        ]:
            with self.subTest(code=code[:40]):
                result = self.sandbox.run(code)  # type: ignore[arg-type]
                self.assertEqual(result.exit, exit, result)
                if error is None:
                    self.assertEqual((result.error, result.stderr), (None, ""))
                else:
                    self.assertIn(error, f"{result.error}")
                    self.assertIn(error, result.stderr)
        with self.assertRaisesRegex(TypeError, "code is text or bytes"):
            self.sandbox.run(5)  # type: ignore[arg-type]
        with self.assertRaisesRegex(TypeError, "`rootfs` is called `jail` now"):
            Sandbox(rootfs="python")  # type: ignore[call-arg]
        with self.assertRaisesRegex(TypeError, "no option 'walls'"):
            self.sandbox.run("", walls=5)  # type: ignore[call-arg]

    def test_ten_megabytes_of_code(self) -> None:
        comment = self.sandbox.run("#" * 10_000_000 + "\nprint(5)")
        self.assertEqual(comment.stdout, "5\n", comment.explain())
        names = self.sandbox.run("x = 1\n" * 1_700_000, wall=20)
        self.assertTrue(names.ok or names.limit in ("memory", "cpu", "wall"), names.explain())

    def test_exceptions_are_shown_with_the_code_s_own_lines(self) -> None:
        result = self.sandbox.run("def f(x):\n    return 1 / x\n\nf(0)\n")
        self.assertEqual(result.exit, 1)
        self.assertEqual((result.error.type, result.error.line) if result.error else None, ("ZeroDivisionError", 2))
        lines = result.stderr.splitlines()
        self.assertEqual(lines[0], "Traceback (most recent call last):")
        self.assertIn("    return 1 / x", lines)
        self.assertEqual(lines[-1], "ZeroDivisionError: division by zero")
        self.assertNotIn("pysecure", result.stderr)
        self.assertIn("ZeroDivisionError: division by zero in line 2", result.explain())
        # Of a function of the caller's, too, only the code's own frames are shown.
        result = self.sandbox.run("fail('no')", None, {"fail": fail})
        self.assertIn('File "<code>", line 1', result.stderr)
        self.assertNotIn("_calling.py", result.stderr)
        result = self.sandbox.run("class E(Exception):\n  def __str__(self): raise ValueError\nraise E")
        self.assertEqual(result.exit, 1)
        self.assertTrue(result.error and result.error.type == "E")

    def test_ends(self) -> None:
        for code, exit, stderr in [
            ("import sys; sys.exit(3)", 3, ""),
            ("exit(4)", 4, ""),
            ("import sys; sys.exit('why')", 1, "why\n"),
            ("raise SystemExit", 0, ""),
            ("import os; os._exit(7)", 7, ""),
            ("import os; os.close(1); os.close(2)", 0, ""),
            ("import sys; sys.stdout.close()", 0, ""),
            ("import sys\nsys.stdout = None", 0, ""),
            ("import atexit; atexit.register(print, 'last')", 0, ""),
            ("import os\nif os.fork() == 0: os._exit(9)\nos.wait()", 0, ""),
        ]:
            with self.subTest(code=code):
                result = self.sandbox.run(code)
                self.assertEqual((result.exit, result.stderr, result.error), (exit, stderr, None))
        self.assertEqual(self.sandbox.run("import os; os.kill(os.getpid(), 9)").signal, signal.SIGKILL)
        # A thread that is no daemon is waited for, as in any program, and a child's end is not its parent's.
        self.assertEqual(self.out("import threading, time\nthreading.Thread(target=lambda: (time.sleep(.1), print('late'))).start()"), "late\n")
        self.assertEqual(self.out("import os\npid = os.fork()\nif pid: os.wait()\nprint('both')"), "both\nboth\n")

    def test_an_uncaught_memory_error_is_the_limit(self) -> None:
        result = self.sandbox.run("x = bytearray(1 << 40)")
        self.assertEqual((result.limit, result.exit), ("memory", 1))
        self.assertIn("too much memory", result.explain())
        result = self.sandbox.run("try: x = bytearray(1 << 40)\nexcept MemoryError: print('mended')")
        self.assertEqual((result.limit, result.stdout), (None, "mended\n"))

    def test_output_is_bounded(self) -> None:
        result = self.sandbox.run("while True: print('x' * 1000)", output=10_000)
        self.assertEqual((result.limit, len(result.stdout_bytes), result.ok), ("output", 10_000, False))
        self.assertIn("printed too much", result.explain())
        result = self.sandbox.run("import sys\nprint('a' * 20_000)\nprint('b', file=sys.stderr)", output=10_000)
        self.assertEqual((result.limit, len(result.stdout_bytes) + len(result.stderr_bytes)), ("output", 10_000))
        self.assertEqual(len(self.out("print('x' * 500_000)")), 500_001)

    def test_time_is_bounded(self) -> None:
        for code in ("import time\nprint('begun')\ntime.sleep(60)", "print('begun')\nwhile True: pass"):
            result = self.sandbox.run(code, wall=0.5)
            self.assertEqual((result.limit, result.stdout), ("wall", "begun\n"), result)
            self.assertIn("took too long", result.explain())

    def test_what_goes_in(self) -> None:
        self.assertEqual(self.out("print(input(), input())", stdin="one\ntwo\n"), "one two\n")
        self.assertEqual(self.out("import sys; print(len(sys.stdin.buffer.read()))", stdin=b"\xff" * 300_000), "300000\n")
        with tempfile.TemporaryFile() as file:
            file.write(b"from a file\n")
            file.seek(0)
            self.assertEqual(self.out("print(input())", stdin=file), "from a file\n")
        self.assertIn("EOFError", self.sandbox.run("input()").stderr)
        self.assertEqual(self.out("import sys; print(sys.argv[1:])", arguments=["a", "b c"]), "['a', 'b c']\n")
        self.assertEqual(self.out("import os; print(os.environ['X'], 'PYSECURE_BINARY' in os.environ)", environment={"X": "ä"}), "ä False\n")
        with self.assertRaisesRegex(ValueError, "more than 65536 bytes"):
            self.sandbox.run("", arguments=["x" * 70_000])

    def test_names(self) -> None:
        self.assertEqual(self.out("print(__name__, api)"), "__main__ <api: no functions>\n")
        self.assertEqual(self.out("import __main__; x = 1; print(__main__.x)"), "1\n")
        self.assertEqual(self.out("import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)"), "True\n")

    def test_a_program(self) -> None:
        result = self.sandbox.command(["sh", "-c", "cat; echo $X $0 >&2; exit 4", "name"], stdin=b"in", environment={"X": "y"})
        self.assertEqual((result.stdout, result.stderr, result.exit), ("in", "y name\n", 4), result)
        self.assertEqual(self.sandbox.command(["sleep", "60"], wall=0.3).limit, "wall")
        with self.assertRaises(TypeError):
            self.sandbox.command("ls -l")

    def test_a_program_that_ends_at_once(self) -> None:
        found = {(result.exit, result.signal, result.limit) for result in (self.sandbox.command(["/bin/true"]) for _ in range(100))}
        self.assertEqual(found, {(0, None, None)})

    def test_files_that_were_denied_are_told_where_it_is_asked_for(self) -> None:
        code = "import socket\ntry: open('/usr/own', 'w')\nexcept OSError: pass\nopen('/etc/profile')"
        result = self.sandbox.run(code, explain=True)
        told = {each.target: each for each in result.denied}
        self.assertEqual(set(told), {"/usr/own", "/etc/profile"}, result)
        self.assertEqual({each.kind for each in result.denied}, {"file"})
        self.assertEqual(told["/usr/own"].rule, "/usr is mounted read-only")
        self.assertTrue(told["/etc/profile"].allow.startswith('readable=["/etc/profile"]'), result)
        for part in ("Not allowed: file: /usr/own (/usr is mounted read-only).", 'It would be allowed by: readable=["/etc/profile"]'):
            self.assertIn(part, result.explain())
        self.assertEqual(self.sandbox.run(code).denied, [])
        self.assertEqual(self.sandbox.run("open('/usr/bin/env').close()", explain=True).denied, [])
        command = self.sandbox.command(["sh", "-c", ": > /usr/own"], explain=True)
        self.assertEqual([each.target for each in command.denied], ["/usr/own"], command)

    def test_nothing_of_one_run_is_seen_by_the_next(self) -> None:
        for code in (
            "import json; json.secret = 1",
            "import builtins; builtins.secret = 1",
            "import os; os.environ['SECRET'] = '1'",
            "open('/tmp/secret', 'w').write('1')",
        ):
            self.out(code)
        seen = self.out(
            "import json, builtins, os\n"
            "print(hasattr(json, 'secret'), hasattr(builtins, 'secret'), 'SECRET' in os.environ, os.path.exists('/tmp/secret'))"
        )
        self.assertEqual(seen, "False False False False\n")

    def test_each_run_has_randomness_of_its_own(self) -> None:
        code = "import random, uuid, tempfile\nprint(random.random(), uuid.uuid1(), uuid.uuid4(), next(tempfile._get_candidate_names()))"
        with Sandbox(preload=["random", "uuid", "tempfile", "ssl"]) as sandbox:
            seen = [sandbox.run(code).stdout.split() for _ in range(10)]
        for at in range(4):
            self.assertEqual(len({each[at] for each in seen}), 10, at)
        self.assertEqual(len({each[1].split("-")[-1] for each in seen}), 10, "each has a node of its own")


class Running(WithSandbox):
    def test_what_is_printed_comes_as_it_is_printed(self) -> None:
        code = "import sys, time\nfor i in range(3):\n  print(i, 'é')\n  print(i, file=sys.stderr)\n  time.sleep(.05)"
        told: list[tuple[str, str]] = []
        result = self.sandbox.run(code, on_output=lambda stream, text: told.append((stream, text)))
        self.assertEqual("".join(text for stream, text in told if stream == "stdout"), result.stdout)
        self.assertGreaterEqual(len(told), 3)
        run = self.sandbox.start(code)
        pieces = list(run)
        self.assertGreaterEqual(len(pieces), 3)
        self.assertEqual("".join(text for stream, text in pieces if stream == "stderr"), "0\n1\n2\n")
        self.assertEqual(run.wait().stdout, result.stdout)
        # Half of a character waits for the other.
        told.clear()
        self.sandbox.run(
            "import os, time\nos.write(1, b'\\xc3')\ntime.sleep(.05)\nos.write(1, b'\\xa9\\xc3')", on_output=lambda s, t: told.append((s, t))
        )
        self.assertEqual("".join(text for _, text in told), "é\ufffd")

    def test_waiting_and_ending(self) -> None:
        run = self.sandbox.start("import time\nprint('begun')\ntime.sleep(60)")
        with self.assertRaises(TimeoutError):
            run.wait(0.05)
        self.assertFalse(run.ended)
        run.kill()
        result = run.wait()
        self.assertEqual((result.limit, run.ended), ("stopped", True))
        self.assertIs(run.wait(), result)
        run.kill()
        self.assertIn("stopped from outside", result.explain())
        run = self.sandbox.start("import time\ntry:\n  print('begun')\n  time.sleep(60)\nexcept KeyboardInterrupt: print('interrupted')")
        for _, text in run:
            if "begun" in text:
                run.interrupt()
        self.assertEqual(run.wait().stdout, "begun\ninterrupted\n")
        run = self.sandbox.start("while True: pass")
        for _ in range(3):
            run.close()
        with self.assertRaises(pysecure_sandbox.Closed):
            run.wait()
        threading.Timer(0.1, (run := self.sandbox.start("import time; time.sleep(60)")).kill).start()
        self.assertEqual(run.wait().limit, "stopped")

    def test_many_at_once(self) -> None:
        results: list[str] = []

        def one(number: int) -> None:
            result = self.sandbox.run(f"print(add({number}))\nimport time; time.sleep(.02)", None, {"add": add})
            results.append(result.stdout)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(results), sorted(f"{number + 1}\n" for number in range(40)))

    def test_nothing_is_left_open(self) -> None:
        self.sandbox.run("1", None, {"add": add})

        def one(number: int) -> None:
            self.sandbox.run("add(1)", None, {"add": add})
            self.sandbox.run("while 1: print('x' * 10_000)", output=10)
            self.sandbox.run(b"x" * 5, stdin=b"y")
            run = self.sandbox.start("import time; time.sleep(60)")
            run.close()
            with self.sandbox.session() as session:
                session.run("1")

        one(0)
        before = len(os.listdir("/proc/self/fd"))
        for number in range(5):
            one(number)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_a_closed_sandbox(self) -> None:
        sandbox = Sandbox()
        run = sandbox.start("import time; time.sleep(60)")
        sandbox.close()
        sandbox.close()
        try:
            self.assertFalse(run.wait().ok)
        except pysecure_sandbox.Closed:
            pass
        with self.assertRaisesRegex(pysecure_sandbox.Closed, "closed"):
            sandbox.run("1")

    def test_a_pool_that_ends_is_made_again(self) -> None:
        with Sandbox() as sandbox:
            for number in range(4):
                self.assertEqual(sandbox.run(f"{number}").value, number)
                run = sandbox.start("import time; time.sleep(60)")
                process = sandbox._pool._process
                assert process is not None
                os.killpg(process.pid, signal.SIGKILL)
                with self.assertRaisesRegex(pysecure_sandbox.SandboxError, "the pool of sandboxes ended"):
                    run.wait()
            self.assertEqual(sandbox.run("2").value, 2)

    def test_what_cannot_be_started_says_so(self) -> None:
        before = os.environ["PYSECURE_BINARY"]
        try:
            os.environ["PYSECURE_BINARY"] = "/no/such/program"
            with self.assertRaisesRegex(pysecure_sandbox.SandboxError, "/no/such/program cannot be started"):
                Sandbox().run("1")
            os.environ["PYSECURE_BINARY"] = "/bin/false"
            with self.assertRaisesRegex(pysecure_sandbox.SandboxError, "ended with 1 before it was ready"):
                Sandbox().run("1")
        finally:
            os.environ["PYSECURE_BINARY"] = before
        for wrong in ({"memory": "lots"}, {"no_such": 1}):
            with self.assertRaises((ValueError, TypeError)):
                Sandbox(**wrong)  # type: ignore[arg-type]

    def test_a_child_of_the_program_has_a_pool_of_its_own(self) -> None:
        self.assertEqual(self.sandbox.run("1").value, 1)
        child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if self.sandbox.run("5").value == 5 else 2
                self.sandbox.close()
            finally:
                os._exit(status)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(self.sandbox.run("2").value, 2)

    def test_a_program_that_is_killed_takes_its_runs_along(self) -> None:
        folder = self.folder()
        program = (
            "import sys\nfrom pysecure_sandbox import Sandbox\n"
            "run = Sandbox().start('import time\\nwhile 1: open(\"beat\", \"a\").write(\"x\"); time.sleep(.01)', sys.argv[1])\n"
            "print(flush=True)\nrun.wait()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, folder], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(support.SRC)}
        )
        beat = pathlib.Path(folder, "beat")
        until(beat.exists)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

        def rests() -> bool:
            before = beat.stat().st_size
            time.sleep(0.2)
            return beat.stat().st_size == before

        until(rests)


class Api(WithSandbox):
    def test_functions_by_bare_name_and_below_api(self) -> None:
        api = {"get_xfers": get_xfers, "add": add, "get": functools.partial(add, 5), "size": len}
        self.assertEqual(self.out("print(get_xfers('x')[0], api.get_xfers('y')[1])", api), "{'sender': 'x', 'amount': 3} {'sender': 'bob', 'amount': 4}\n")
        self.assertEqual(self.out("print(add(1), add(1, b=5), get(), size([1, 2]), add)", api)[:12], "2 6 6 2 <fun")
        self.assertEqual(self.out("import __main__\nprint(__main__.add(1), api)", {"add": add}), "2 <api: add>\n")

        class Bank:
            def balance(self, of: str) -> int:
                return len(of)

        self.assertEqual(self.out("print(balance('abc'))", {"balance": Bank().balance}), "3\n")

    def test_types_are_checked_both_ways(self) -> None:
        def wrong() -> int:
            return "text"  # type: ignore[return-value]

        api = {"add": add, "wrong": wrong}
        for code, error in [
            ("add('1')", "InvalidArguments"),
            ("add()", "InvalidArguments"),
            ("add(1, c=2)", "InvalidArguments"),
            ("wrong()", "InvalidResult"),
            ("add(object())", "TypeError"),
        ]:
            result = self.sandbox.run(code, None, api)
            self.assertEqual((result.exit, result.error.type if result.error else ""), (1, error), code)
        for wrong_api in ({"a b": add}, {"class": add}, {"api": add}, {"__x__": add}, {5: add}, {"f": 5}):
            with self.assertRaises((ValueError, TypeError, AttributeError)):
                self.sandbox.run("", None, wrong_api)  # type: ignore[arg-type]

        def unheard(x: object, y: "no_such") -> None:  # type: ignore[name-defined]  # noqa: F821
            pass

        with self.assertRaisesRegex(TypeError, "api: f: a hint names what is not there"):
            self.sandbox.run("", None, {"f": unheard})

    def test_values_of_all_kinds_cross(self) -> None:
        def same(value: Any) -> Any:
            return value

        code = (
            "import datetime, decimal, uuid\n"
            "for v in [None, True, 5, 2**70, 1.5, 'é', b'x' * 200_000, 'y' * 200_000, [1, (2, {3})], {'a': 1},\n"
            "          datetime.date(2020, 1, 2), decimal.Decimal('1.5'), uuid.UUID(int=5), 1j]:\n"
            "    assert same(v) == v, v\n"
        )
        self.out(code, {"same": same})

        def paint(colour: Colour) -> list[Colour]:
            return [colour, Colour.RED]

        self.assertEqual(self.out("print(paint('GREEN'))", {"paint": paint}), "['GREEN', 'RED']\n")

    def test_exceptions_cross(self) -> None:
        code = "try: fail('what')\nexcept KeyError as e: print(type(e) is KeyError, e.args)"
        self.assertEqual(self.out(code, {"fail": fail}), "True ('what', 5)\n")

        class Own(Exception):
            pass

        def own() -> None:
            raise Own("text")

        def leave() -> None:
            raise SystemExit(5)

        for function in (own, leave):
            self.assertEqual(self.out("try: f()\nexcept Exception as e: print(e)", {"f": function})[-6:], ".Own: text\n"[-6:] if function is own else "xit: 5\n"[-6:])

    def test_functions_run_in_the_thread_that_waits(self) -> None:
        database = sqlite3.connect(":memory:")  # refuses other threads
        self.addCleanup(database.close)
        context: contextvars.ContextVar[str] = contextvars.ContextVar("context", default="?")
        context.set("the caller's")

        def ask() -> list[Any]:
            return [database.execute("select 6 * 7").fetchone()[0], context.get()]

        self.assertEqual(self.out("print(ask())", {"ask": ask}), "[42, \"the caller's\"]\n")

    def test_streams_and_coroutines(self) -> None:
        api = {"count": count, "slowly": slowly, "items": items, "add": add}
        self.assertEqual(self.out("print(sum(count(100)), slowly(21), list(items(40))[-1])", api), "4950 42 39\n")
        self.assertEqual(self.out("for i in count(3):\n  print(add(i), end=' ')\n  if i == 1: break\nprint(add(9))", api), "1 2 10\n")

    def test_from_threads_and_children(self) -> None:
        code = (
            "import threading, os\nfound = []\n"
            "def one(n):\n  for i in range(20): found.append(add(n * 100, i) == n * 100 + i)\n"
            "threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]\n"
            "[t.start() for t in threads]; [t.join() for t in threads]\nprint(len(found), all(found))\n"
            "if not os.fork():\n  try: add(1)\n  except ConnectionError as e: print(e)\n  os._exit(0)\n"
            "os.wait()\nprint(add(1))"
        )
        out = self.out(code, {"add": add})
        self.assertEqual(out, "120 True\nthe functions are for the process that was started, and not for its children\n2\n")

    def test_a_function_that_runs_another_sandbox(self) -> None:
        def deeper(n: int) -> int:
            if n == 0:
                return 0
            result = self.sandbox.run(f"deeper({n - 1}) + 1", None, {"deeper": deeper})
            assert result.ok, result.explain()
            value: int = result.value
            return value

        self.assertEqual(self.sandbox.run("deeper(3)", None, {"deeper": deeper}).value, 3)

    def test_budgets(self) -> None:
        code = "made = 0\ntry:\n  while True: f(); made += 1\nexcept RuntimeError as e: print(made, type(e).__name__, e)"
        called: list[int] = []
        api = {"f": Function(lambda: called.append(1), calls=3)}
        for _ in range(2):  # of each run
            self.assertEqual(self.out(code, api), "3 BudgetExceeded f may be called 3 times in a run\n")
        self.assertEqual(len(called), 6)

        def echo(data: bytes) -> bytes:
            return data

        self.assertIn("carry 5000 bytes", self.out(code.replace("f()", "f(b'x' * 1000)"), {"f": Function(echo, bytes=5000)}))

        def history() -> list[Transfer]:
            return get_xfers("alice")

        self.assertRegex(self.out(code, {"f": Function(history, bytes=70)}), "^1 BudgetExceeded f may carry 70 bytes")
        streamed = "try:\n  for n, x in enumerate(count(10 ** 9)): pass\nexcept RuntimeError as e: print(n < 200)"
        self.assertEqual(self.out(streamed, {"count": Function(count, bytes=100)}), "True\n")

    def test_approval(self) -> None:
        asked: list[Any] = []

        def approve(call: pysecure_sandbox.ApiCall) -> Any:
            asked.append(call)
            return "not today" if call.function == "fail" else call.number < 3

        code = (
            "print(add(1), add(2))\n"
            "for f in (lambda: add(3), lambda: fail('x')):\n"
            "  try: f()\n"
            "  except PermissionError as e: print(type(e).__name__, e)"
        )
        out = self.out(code, {"add": add, "fail": fail}, approve=approve)
        self.assertEqual(out, "2 3\nNotApproved add was not approved\nNotApproved fail: not today\n")
        self.assertEqual(asked[1], ("add", (2,), {}, 2))

    def test_an_interrupt_of_the_program_is_the_program_s(self) -> None:
        def stop() -> None:
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            self.sandbox.run("stop()", None, {"stop": stop})
        self.assertEqual(self.sandbox.run("1").value, 1)

    def test_nothing_that_is_said_harms_the_program(self) -> None:
        api = {"add": add, "count": count, "large": lambda: b"x" * 1_000_000}
        hostile = [
            "sock.close()",
            "import os; os.close(sock.fileno())",
            "sock.send(b'\\xc1')",
            "sock.shutdown(2)",
            "[sock.send(bytes([0x94, 2, n, 0xa1, 97]) + b'\\x90') for n in range(1, 100)]",
            # Calls without reading what they are answered with, of all sizes.
            "for n in range(1, 20_000):\n  try: sock.send(b'\\x95\\x02\\xcd' + struct.pack('>H', n) + b'\\xa5large\\x90\\x80', socket.MSG_DONTWAIT)\n  except BlockingIOError: pass",
            "for n in range(1, 5_000): sock.send(b'\\x95\\x02\\xcd' + struct.pack('>H', n) + b'\\xa3add\\x91\\x01\\x80', socket.MSG_DONTWAIT)",
            # A stream with all the credit that there is.
            "sock.send(b'\\x99\\x02\\x01\\xa5count\\x91\\xce\\x7f\\xff\\xff\\xff\\x80\\xc0\\xc0\\xc0\\xce\\x7f\\xff\\xff\\xff')\nimport time; time.sleep(.3)",
            # Descriptors without end.
            "import os\nfor n in range(200):\n  try: socket.send_fds(sock, [b'\\x91\\x02'], [0] * 16)\n  except OSError: break",
            # Names that are reserved.
            "from pysecure_rpc._wire import pack\nfor n in (5, None, {'error': 5}, {'error': {'type': [], 'message': {}}}, {'value': sock.fileno()}, {'text': 5}, [1]):\n  sock.send(pack([2, id(n), 'pysecure.result', [n], {}]))",
            "from pysecure_rpc._wire import pack\nfor n in range(300): sock.send(pack([2, n + 1, 'pysecure.cell', [{}], {}]))",
            "import os\nwhile True: sock.send(os.urandom(300))",
        ]
        for code in hostile:
            with self.subTest(code=code[:60]):
                self.sandbox.run(f"{FIND}\n{code}", None, api, wall=3)
        for code in (f"{FIND}\nwhile True: sock.send(b'\\x95\\x02\\x01\\xa3add\\x91\\x01\\x80')", "while True: add(1)"):
            self.assertIn(self.sandbox.run(code, None, api, wall=0.5).limit, ("wall", None))
        self.assertEqual(self.sandbox.run("add(1)", None, api).value, 2)

    def test_random_messages(self) -> None:
        code = (
            f"{FIND}\nimport random\nrandom.seed(SEED)\nfrom pysecure_rpc._wire import pack\n"
            "good = [pack(m) for m in ([2, 1, 'add', [1], {}], [2, 2, 'count', [9], {}, None, None, None, 3], [7, 2, 5], [8, 2],\n"
            "        [2, 3, 'pysecure.describe', [], {}], [2, 4, 'pysecure.ping', [], {}], [2, 5, 'none', [], {}])]\n"
            "for n in range(300):\n"
            "  m = bytearray(random.choice(good))\n"
            "  for _ in range(random.choice((0, 0, 1, 2))): m[random.randrange(len(m))] = random.randrange(256)\n"
            "  try: sock.send(m)\n"
            "  except OSError: break\n"
        )
        seed = int(os.environ.get("PYSECURE_SEED", "0")) or random.randrange(1 << 30)
        for each in range(seed, seed + 10):
            with self.subTest(seed=each):
                self.sandbox.run(code.replace("SEED", str(each)), None, {"add": add, "count": count}, wall=5)

    def test_what_is_said_of_the_end_is_taken_for_no_more_than_that(self) -> None:
        told = {"value": 5, "error": {"type": "X" * 500, "message": "m", "line": "no"}, "text": 5, "exit": 7, "limit": "wall"}
        code = f"{FIND}\nfrom pysecure_rpc._wire import pack\nsock.send(pack([2, 1 << 40, 'pysecure.result', [{told!r}], {{}}]))\nimport os; os._exit(3)"
        result = self.sandbox.run(code)
        self.assertEqual((result.exit, result.limit, result.value, result.text), (3, None, 5, None))
        self.assertTrue(result.error and len(result.error.type) == 200 and result.error.line is None)


    def test_the_value_of_code_that_called_nothing_arrives(self) -> None:
        # It has not read what it was greeted with, which its caller hears of first. Both are there when the other end is looked at.
        def late(run: Any) -> Any:
            poll = select.poll()
            poll.register(run._api, 0)
            until(lambda: poll.poll(0))  # it hung up
            return run.wait()

        runs = [self.sandbox.start("5", None, {"add": add}) for _ in range(4)]
        self.assertEqual([late(run).value for run in runs], [5] * 4)


class Asyncio(WithSandbox):
    def test_runs_and_functions_in_a_loop(self) -> None:
        async def main() -> None:
            loop_thread = threading.get_ident()
            where: dict[str, bool] = {}

            async def here(x: int) -> int:
                where["coroutine"] = threading.get_ident() == loop_thread
                await asyncio.sleep(0)
                return x

            def there(x: int) -> int:
                where["function"] = threading.get_ident() == loop_thread
                return x

            api = {"here": here, "there": there, "count": count, "items": items}
            result = await self.sandbox.arun("print(here(1), there(2), sum(count(50)), list(items(20))[-1])\n5", None, api)
            self.assertEqual((result.stdout, result.value), ("1 2 1225 19\n", 5), result.explain())
            self.assertEqual(where, {"coroutine": True, "function": False})
            results = await asyncio.gather(*(self.sandbox.arun(f"add({n})", None, {"add": add}) for n in range(20)))
            self.assertEqual([each.value for each in results], list(range(1, 21)))
            self.assertEqual((await self.sandbox.acommand(["echo", "x"])).stdout, "x\n")
            self.assertEqual((await self.sandbox.arun("print('x' * 300_000)")).stdout, "x" * 300_000 + "\n")
            pieces = [text async for _, text in self.sandbox.start("import time\nprint(1)\ntime.sleep(.05)\nprint(2)")]
            self.assertEqual("".join(pieces), "1\n2\n")

            async def approve(call: pysecure_sandbox.ApiCall) -> bool:
                await asyncio.sleep(0)
                return call.args == (1,)

            code = "def t(f):\n  try: return f()\n  except PermissionError: return 'no'\nprint(t(lambda: here(1)), t(lambda: here(2)), t(lambda: there(1)), t(lambda: there(2)))"
            self.assertEqual((await self.sandbox.arun(code, None, api, approve=approve)).stdout, "1 no 1 no\n")

        asyncio.run(main())

    def test_cancelled_is_killed(self) -> None:
        folder = self.folder()

        async def main() -> None:
            code = "import time\nwhile True:\n  open('beat', 'a').write('x')\n  time.sleep(.01)"
            task = asyncio.ensure_future(self.sandbox.arun(code, folder))
            while not os.path.exists(f"{folder}/beat"):
                await asyncio.sleep(0.01)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(self.sandbox.arun("while True: pass"), 0.2)
            self.assertEqual((await self.sandbox.arun("7")).value, 7)

        asyncio.run(main())
        beat = pathlib.Path(folder, "beat")

        def rests() -> bool:
            before = beat.stat().st_size
            time.sleep(0.1)
            return beat.stat().st_size == before

        until(rests)

    def test_a_sandbox_that_does_not_read(self) -> None:
        async def main() -> None:
            code = f"{FIND}\nfor n in range(1, 3000): sock.send(b'\\x95\\x02\\xcd' + struct.pack('>H', n) + b'\\xa4text\\x90\\x80')\nimport time; time.sleep(.2)\nprint('over')"
            result = await self.sandbox.arun(code, None, {"text": lambda: "x" * 10_000}, wall=5)
            self.assertIn(result.limit, (None, "wall"))

        asyncio.run(main())


class Sessions(WithSandbox):
    def test_cells_see_what_was_before_them(self) -> None:
        with self.sandbox.session(api={"add": add}) as session:
            first = session.run("import math\nx = 5\nprint('printed')\ndef f(y): return x * y")
            self.assertEqual((first.stdout, first.value, first.exit), ("printed\n", None, 0))
            self.assertEqual(session.run("f(add(2))").value, 15)
            failed = session.run("\nf('a' / 2)")
            self.assertEqual((failed.exit, failed.error.type if failed.error else "", failed.error and failed.error.line), (1, "TypeError", 2))
            self.assertIn('File "<cell 3>", line 2', failed.stderr)
            self.assertEqual(session.run("x").value, 5)
            self.assertEqual(session.run("import sys; sys.exit(3)").exit, 3)
            self.assertEqual(session.run("x").stdout, "")
            self.assertIn("def f(y): return x * y", session.run("x = None\nf(1) + None").stderr)
            self.assertRegex(session.run("object()").text or "", "^<object")
            self.assertEqual(len(session.run("print('x' * 200_000)").stdout), 200_001)
            self.assertEqual(session.run("'y' * 200_000").value, "y" * 200_000)
            self.assertEqual(session.run("#" * 500_000 + "\n6").value, 6)

    def test_files(self) -> None:
        with self.sandbox.session() as session:
            session.put("in/data.csv", "1,2\n")
            made = session.run("import os\nprint(open('in/data.csv').read())\nos.mkdir('out')\nopen('out/a.txt', 'w').write('A')")
            self.assertEqual((made.stdout, made.made), ("1,2\n\n", ["out/a.txt"]))
            self.assertEqual(session.get("out/a.txt"), b"A")
            self.assertEqual(session.run("1").made, [])
            self.assertEqual(session.run("open('out/a.txt', 'a').write('B')\nopen('b', 'w').close()").made, ["b", "out/a.txt"])
            folder = session.userdir
        self.assertFalse(os.path.exists(folder))

    def test_interrupts_and_ends(self) -> None:
        with self.sandbox.session() as session:
            self.assertEqual(session.run("x = 1").exit, 0)
            threading.Timer(0.2, session.interrupt).start()
            result = session.run("import time\nprint('begun')\nwhile True: time.sleep(.01)")
            self.assertEqual((result.exit, result.stdout), (130, "begun\n"))
            session.interrupt()  # of nothing
            self.assertEqual(session.run("x").value, 1)
            result = session.run("while True: pass", wall=0.2)
            self.assertEqual((result.exit, session.ended), (130, False))
            self.assertEqual(session.run("x").value, 1)
            # In a function: what a loop's own jump raises is not caught around it, by CPython 3.11.
            result = session.run("def f():\n  while True: pass\nwhile True:\n  try: f()\n  except BaseException: pass", wall=0.2)
            self.assertEqual((result.limit, session.ended), ("wall", True))
            with self.assertRaisesRegex(pysecure_sandbox.Closed, "its limit `wall`") as raised:
                session.run("x")
            self.assertIs(raised.exception.result, result)
        with self.sandbox.session() as session:
            self.assertEqual(session.run("import os; os._exit(4)").exit, 4)
            with self.assertRaisesRegex(pysecure_sandbox.Closed, "its code ended it"):
                session.run("1")
        session = self.sandbox.session()
        session.close()
        session.close()
        with self.assertRaisesRegex(pysecure_sandbox.Closed, "it was closed"):
            session.run("1")
        session = self.sandbox.session()
        threading.Timer(0.2, session.close).start()
        self.assertEqual(session.run("while True: pass").limit, "stopped")

    def test_one_that_nobody_uses_ends(self) -> None:
        session = self.sandbox.session(idle=0.3)
        folder = session.userdir
        self.assertEqual(session.run("1").value, 1)
        until(lambda: session.ended and not os.path.exists(folder))
        with self.assertRaisesRegex(pysecure_sandbox.Closed, "nobody used it for 0.3 s"):
            session.run("1")
        # One that is used does not.
        with self.sandbox.session(idle=0.5) as session:
            for _ in range(4):
                session.run("import time; time.sleep(.3)")
            self.assertFalse(session.ended)
        self.assertIsNotNone(_session._idle)

    def test_many_at_once(self) -> None:
        sessions = [self.sandbox.session(api={"add": add}) for _ in range(5)]
        try:
            for number, session in enumerate(sessions):
                session.run(f"n = {number}")

            async def main() -> list[Any]:
                return await asyncio.gather(*(session.arun("import time; time.sleep(.05)\nadd(n)") for session in sessions))

            self.assertEqual([result.value for result in asyncio.run(main())], [1, 2, 3, 4, 5])
        finally:
            for session in sessions:
                session.close()

    def test_what_hostile_code_says_of_cells(self) -> None:
        with self.sandbox.session() as session:
            session.run(f"{FIND}\nfrom pysecure_rpc._wire import pack\nfor n in range(5): sock.send(pack([2, (1 << 40) + n, 'pysecure.cell', [{{'exit': 'x', 'value': 9}}], {{}}]))")
            for _ in range(3):
                try:
                    session.run("5", wall=1)
                except pysecure_sandbox.SandboxError:
                    break


class Folders(unittest.TestCase):
    def setUp(self) -> None:
        found = tempfile.TemporaryDirectory(prefix="pysecure-sandbox-")
        self.addCleanup(found.cleanup)
        self.root = found.name

    def test_any_text_has_a_place_of_its_own(self) -> None:
        users = [
            "alice", "Alice", "ALICE", "../x", "..", ".", "", "a/.", "a/", "a", "/a", "a\0", "\0", "é", "e\u0301", "É", "%41", "%2e", "+",
            "a+b", "x" * 66, "x" * 200, "x" * 201, "x" * 10_000, "x" * 9_999 + "y", "é" * 70, "\ud800", "\udfff", "con", "a b", "a\n", "~root",
            "lost+found", ".hidden", "-rf", "ﬁ", "fi", "İ", "i",
        ]  # fmt: skip
        places = [userdir_for(self.root, user) for user in users]
        names = [os.path.basename(place) for place in places]
        self.assertEqual(len({name.lower() for name in names}), len(users))
        self.assertEqual(sorted(os.listdir(self.root)), sorted(names))
        for place, name in zip(places, names):
            self.assertEqual(os.path.dirname(place), self.root)
            self.assertTrue(name.isascii() and len(name) <= 255 and not name.startswith("."))
            self.assertEqual(os.stat(place).st_mode & 0o777, 0o700)
        self.assertEqual(userdir_for(self.root, "alice"), places[0])
        self.assertEqual(names[0], "alice")
        with self.assertRaises(TypeError):
            userdir_for(self.root, b"alice")  # type: ignore[arg-type]
        for _ in range(3000):
            one, other = ("".join(random.choices("aA./%+é\0\ud800", k=random.randrange(4))) for _ in range(2))
            self.assertEqual(_userdir.folder_name(one) == _userdir.folder_name(other), one == other, (one, other))
        os.symlink("/tmp", f"{self.root}/mallory")
        with self.assertRaises(NotADirectoryError):
            userdir_for(self.root, "mallory")

    def test_files_go_in_and_out_through_no_link(self) -> None:
        folder = userdir_for(self.root, "u")
        pysecure_sandbox.put(folder, "a/b/c.txt", "text")
        pysecure_sandbox.put(folder, "a/b/c.txt", b"other")
        self.assertEqual(pysecure_sandbox.get(folder, "a/b/c.txt"), b"other")
        self.assertEqual(os.listdir(f"{folder}/a/b"), ["c.txt"])
        outside = f"{self.root}/outside"
        os.mkdir(outside)
        pathlib.Path(outside, "secret").write_text("secret")
        os.symlink(f"{outside}/secret", f"{folder}/link")
        os.symlink(outside, f"{folder}/way")
        os.symlink("..", f"{folder}/up")
        os.mkfifo(f"{folder}/fifo")
        os.mkdir(f"{folder}/folder")
        for path in ("link", "way/secret", "up/outside/secret"):
            with self.assertRaises(PermissionError):
                pysecure_sandbox.get(folder, path)
        for path in ("way/new", "up/new"):
            with self.assertRaises(PermissionError):
                pysecure_sandbox.put(folder, path, "x")
        pysecure_sandbox.put(folder, "link", "mine")  # in its place
        self.assertEqual(pathlib.Path(outside, "secret").read_text(), "secret")
        self.assertEqual(pysecure_sandbox.get(folder, "link"), b"mine")
        for path in ("fifo", "folder", "none"):
            with self.assertRaises(OSError):
                pysecure_sandbox.get(folder, path)
        for path in ("", "/etc/passwd", "../x", "a/../../x", "a\0b", "."):
            with self.assertRaises(ValueError):
                pysecure_sandbox.get(folder, path)
        with self.assertRaisesRegex(OSError, "longer than 3 bytes"):
            pysecure_sandbox.get(folder, "a/b/c.txt", 3)
        self.assertEqual(sorted(_userdir.listed(folder)), ["a/b/c.txt", "link"])
        self.assertEqual(os.listdir(outside), ["secret"])

    def test_of_a_run(self) -> None:
        folder = userdir_for(self.root, "runner")
        with Sandbox() as sandbox:
            code = "import os\nopen('out', 'w').write(open('in').read().upper())\nos.symlink('/etc/passwd', 'passwd')"
            result = sandbox.run(code, folder, put={"in": "text"}, get=["out", "passwd", "none"])
            self.assertEqual((result.exit, result.files), (0, {"out": b"TEXT"}), result.explain())
            with self.assertRaisesRegex(ValueError, "name one"):
                sandbox.run("", put={"in": "text"})


    def test_changes_are_told_before_they_are_kept(self) -> None:
        folder = userdir_for(self.root, "changer")
        for name in ("old", "gone"):
            pysecure_sandbox.put(folder, name, "1")
        code = "import os\nopen('old', 'a').write('2')\nopen('new', 'w').write('n')\nos.remove('gone')"
        with Sandbox() as sandbox:
            result = sandbox.run(code, folder, overlay=True)
            told = [(change.path, change.kind, change.size) for change in result.changes]
            self.assertEqual(told, [("gone", "deleted", 0), ("new", "added", 1), ("old", "modified", 2)], result)
            result.discard()
            self.assertEqual(sorted(os.listdir(folder)), ["gone", "old"])
            result = sandbox.run(code, folder, overlay=True)
            result.commit()
            self.assertEqual(sandbox.run("import os; print(sorted(os.listdir()), open('old').read())", folder).stdout, "['new', 'old'] 12\n")
            for again in (result.commit, result.discard):
                with self.assertRaisesRegex(pysecure_sandbox.SandboxError, "no changes to decide on"):
                    again()


class Stub(unittest.TestCase):
    def test_it_is_what_code_may_call(self) -> None:
        class Row(typing.TypedDict):
            name: str
            when: datetime.date

        def everything(
            a: int, b: str | None = None, *rest: float, c: Colour = Colour.RED, d: typing.Literal["x", 1] = "x", **more: Any
        ) -> dict[str, list[Row]]:
            """What it does.

            With "quotes" and \\ and \"\"\" more.
            """
            return {}

        everything.__annotations__["return"] = dict[str, list[Row]]
        api = {
            "get_xfers": get_xfers, "everything": everything, "count": count, "items": items, "slowly": slowly,
            "add": Function(add, calls=3, bytes=100), "size": len, "partial": functools.partial(add, 1), "plain": lambda x: x,
        }  # fmt: skip
        text = stub(api)
        tree = ast.parse(text)
        self.assertEqual({n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, set(api))
        for line in (
            "class Transfer(TypedDict):",
            "    amount: NotRequired[int]",
            "def get_xfers(username: str) -> list[Transfer]:",
            "def count(to: int) -> Iterator[int]: ...",
            "def items(to: int) -> Iterator[int]: ...",
            "def slowly(x: int) -> int: ...",
            "    when: datetime.date",
            "import datetime",
            "    In one run: at most 3 calls, at most 100 bytes.\"\"\"",
        ):
            self.assertIn(line, text.replace('"""In one', "In one"), text)
        self.assertIn("c: Literal['RED', 'GREEN'] = 'RED', d: Literal['x', 1] = 'x', **more: Any) -> dict[str, list[Row]]:", text)
        names: dict[str, Any] = {}
        if sys.version_info >= (3, 11):
            exec(text, names)
            self.assertIn('"""', names["everything"].__doc__)
        self.assertEqual(ast.parse(stub({})).body[0].__class__, ast.ImportFrom)
        with self.assertRaises(ValueError):
            stub({"a b": add})


class Documentation(unittest.TestCase):
    def test_what_is_shown_works(self) -> None:
        text = (support.HERE.parent.parent / "docs" / "how-to" / "sandbox.md").read_text()
        blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
        self.assertGreaterEqual(len(blocks), 6)
        with tempfile.TemporaryDirectory(prefix="pysecure-sandbox-") as folder:
            program = pathlib.Path(folder, "shown.py")
            program.write_text("\n".join(blocks))
            environment = {**os.environ, "PYTHONPATH": str(support.SRC), "TMPDIR": folder}
            ended = subprocess.run([sys.executable, "-B", program], env=environment, capture_output=True, text=True)
            self.assertEqual((ended.returncode, ended.stderr), (0, ""))
            self.assertIn("limit `wall`", ended.stdout)
            self.assertIn("def send(to: str, text: str) -> bool:", ended.stdout)


if __name__ == "__main__":
    unittest.main()
