"""What can be seen of calls from outside: figures in a page of memory, tracebacks if the manifest asks for them."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import unittest
from typing import Any

import support  # noqa: F401  first: it says where the packages are
import functions as f  # isort: skip
from support import WithServices

import pysecure_rpc
from pysecure_rpc import _figures, _wire


def read_page(fd: int) -> dict[str, dict[str, Any]]:
    """The page as docs/reference/rpc-protocol.md has it."""
    page = os.pread(fd, 65_536, 0)
    assert len(page) == 65_536 and page[:8] == b"PSRPCFG1"
    count, zero = struct.unpack_from("<II", page, 8)
    assert zero == 0
    result = {}
    for at in range(16, 16 + 320 * count, 320):
        name = page[at : at + 64].partition(b"\0")[0].decode()
        calls, errors, denied, spent, *buckets = struct.unpack_from("<32Q", page, at + 64)
        assert calls == sum(buckets)
        result[name] = {"calls": calls, "errors": errors, "denied": denied, "ns": spent, "buckets": buckets}
    return result


class Figures(WithServices):
    def test_calls_errors_refusals_and_times(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": ["login"]})
        ((name, fd),) = self.supervisor.stored
        self.assertEqual(name, "rpc-figures")
        self.assertEqual(os.readlink(f"/proc/self/fd/{fd}"), "/memfd:rpc-figures (deleted)")
        # F_GET_SEALS: SEAL, SHRINK, GROW; and not WRITE, for the service writes on.
        self.assertEqual(fcntl.fcntl(fd, 1034), 1 | 2 | 4)
        before = read_page(fd)
        self.assertEqual(set(before) - {""}, set(pysecure_rpc._function.State.functions["one"]))
        self.assertTrue(all(f["calls"] == 0 for f in before.values()))
        self.supervisor.act_as("web")
        for n in range(5):
            f.login("a", str(n))
        f.slow(0.05)
        with self.assertRaises(ValueError):
            f.fail("value")
        list(f.count(3))
        raw = self.supervisor.raw("two", "one")
        raw.recv(65536)
        for at, function in enumerate(["who", "os.system", "login", "x" * 1000]):
            raw.send(_wire.pack([2, at + 1, function, [], {}]))
            raw.recv(65536)
        raw.close()
        after = read_page(fd)
        self.assertEqual((after["login"]["calls"], after["login"]["errors"]), (6, 1))  # the last lacked arguments
        self.assertEqual((after["fail"]["calls"], after["fail"]["errors"]), (1, 1))
        self.assertEqual((after["count"]["calls"], after["count"]["errors"]), (1, 0))
        self.assertEqual((after["who"]["calls"], after["who"]["denied"]), (0, 1))
        self.assertEqual((after[""]["calls"], after[""]["denied"]), (0, 2))
        slow = after["slow"]
        self.assertGreaterEqual(slow["ns"], 50_000_000)
        # 2^15 µs are 33 ms: nothing shorter is in it.
        self.assertEqual(sum(slow["buckets"][16:]), 1)

    def test_each_process_has_a_page_of_its_own(self) -> None:
        self.supervisor.start("one", {"web": "*"}, "processes=3")
        self.assertEqual(len(self.supervisor.stored), 3)
        self.supervisor.act_as("web")
        threads = [threading.Thread(target=lambda: [f.pid() for _ in range(20)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        calls = [read_page(fd)["pid"]["calls"] for _, fd in self.supervisor.stored]
        self.assertEqual(sum(calls), 160)

    def test_bounds(self) -> None:
        page = _figures.Page([f"f{n}" for n in range(1000)] + ["later"])
        self.addCleanup(page.close)
        seen = read_page(page.fd)
        self.assertEqual(len(seen), 204)
        page.ended("later", 1.0, False)  # there is no room for it
        for seconds, bucket in [(0.0, 0), (0.9e-6, 0), (1.5e-6, 1), (2.5e-6, 2), (3.5e-6, 2), (0.001, 10), (1e9, 27)]:
            before = read_page(page.fd)["f0"]["buckets"]
            page.ended("f0", seconds, True)
            after = read_page(page.fd)["f0"]["buckets"]
            self.assertEqual([a - b for a, b in zip(after, before)], [int(n == bucket) for n in range(28)], seconds)
        long = _figures.Page(["é" * 40])
        self.addCleanup(long.close)
        self.assertEqual(list(read_page(long.fd)), ["", "é" * 31])
        with self.assertRaises(OSError):
            os.ftruncate(page.fd, 0)

    def test_none_is_sent_where_nobody_asked(self) -> None:
        self.supervisor.start("one", {"web": "*"}, environment={"PYSECURE_RPC_CALLERS": ""}, wait=False)
        self.supervisor.running["one"].communicate()
        self.assertEqual(self.supervisor.stored, [])


class Refusals(WithServices):
    def test_the_first_the_tenth_and_the_hundredth_are_printed(self) -> None:
        printed = self.supervisor.root / "printed"
        self.supervisor.start("one", {"web": ["who"]}, redirect=f"2>{printed}")
        raw = self.supervisor.raw("web", "one")
        raw.recv(65536)
        for number in range(1, 201):
            raw.send(_wire.pack([2, number, "login", [], {}]))
            self.assertEqual(_wire.unpack(raw.recv(65536))[:3], [4, number, "pysecure.NoSuchFunction"])
        raw.close()
        told = [f"pysecure_rpc: one refused 'login' to web, {count} so far" for count in (1, 10, 100)]
        self.assertEqual(printed.read_text().splitlines(), told)


class Tracebacks(WithServices):
    def test_only_if_the_manifest_asks_for_them(self) -> None:
        for asked, environment in ((False, {}), (False, {"PYSECURE_RPC_TRACEBACKS": "0"}), (True, {"PYSECURE_RPC_TRACEBACKS": "1"})):
            # What the program says counts only where there is no manifest.
            option = ("tracebacks=1",) if environment.get("PYSECURE_RPC_TRACEBACKS") == "0" else ()
            self.supervisor.start("one", {"web": "*"}, *option, environment=environment)
            self.supervisor.act_as("web")
            with self.assertRaises(ValueError) as caught:
                f.fail("value")
            cause = caught.exception.__cause__
            if asked:
                self.assertIsInstance(cause, pysecure_rpc.RemoteTraceback)
                self.assertIn("functions.py", str(cause))
                self.assertIn("in fail", str(cause))
            else:
                self.assertIsNone(cause)
            self.supervisor.stop("one")


class Nested(WithServices):
    def test_a_trace_is_handed_on(self) -> None:
        self.supervisor.start("one", {"web": "*", "two": "*"})
        self.supervisor.start("two", {"web": "*", "one": "*"})
        self.supervisor.act_as("web")
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        with pysecure_rpc.trace(parent):
            self.assertEqual(f.traced_nested(), [parent, parent])
            self.assertEqual(list(f.traced_stream()), [parent])
        self.assertEqual(f.traced_nested(), [None, None])


if __name__ == "__main__":
    unittest.main()
