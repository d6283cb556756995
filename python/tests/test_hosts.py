"""Callers in programs that have ways of their own with processes, threads and sockets: gunicorn and gevent."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import unittest

import support
import functions as f  # isort: skip
from support import WithServices, until


def get(path: str, what: str) -> str:
    """The body of a response over HTTP on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        sock.sendall(f"GET /{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while piece := sock.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(head.decode())
    return body.decode()


class Hosts(WithServices):
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": f"{support.SRC}:{support.HERE}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYSECURE_RPC_DIR": self.supervisor.folder("web"),
        }


class Gunicorn(Hosts):
    def serve(self, *options: str) -> str:
        program = shutil.which("gunicorn")
        assert program, "install `gunicorn`"
        self.supervisor.start("one", {"web": "*"}, "threads=16")
        path = str(self.supervisor.root / "http.sock")
        command = [sys.executable, program, "--bind", f"unix:{path}", "--log-level", "warning", *options, "wsgi:app"]
        self.gunicorn = subprocess.Popen(command, cwd=support.HERE, env=self.environment())
        self.addCleanup(self.end)

        def answers() -> bool:
            assert self.gunicorn.poll() is None, "gunicorn ended"
            try:
                return get(path, "up") != ""
            except (OSError, ConnectionError):
                return False

        until(answers)
        return path

    def end(self) -> None:
        self.gunicorn.terminate()
        self.gunicorn.wait()

    def requests(self, path: str, workers: int) -> None:
        """Many at once, until each worker has answered; all answers are those to what was asked."""
        wrong: list[str] = []
        pids: set[str] = set()

        def many(name: str) -> None:
            for _ in range(5):
                pid, _, text = get(path, name).partition(" ")
                pids.add(pid)
                if name == "stream":
                    right = text == ",".join(map(str, range(40)))
                elif name == "wait":
                    right = text == "wait"
                else:
                    right = text.startswith(name + "/")
                if not right:
                    wrong.append(f"{name}: {text}")

        while len(pids) < workers:
            names = [f"n{n}" for n in range(8)] + ["stream", "wait"]
            threads = [threading.Thread(target=many, args=(name,)) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(wrong, [])
        self.assertEqual(get(path, "late").partition(" ")[2], "DeadlineExceeded")

    def test_prefork(self) -> None:
        for options in (("--preload",), ("--preload", "--worker-class", "gthread", "--threads", "4"), ()):
            with self.subTest(options):
                path = self.serve("--workers", "3", *options)
                self.requests(path, 3)
                # A worker dies, and the service restarts: both are replaced, and nothing is mixed up.
                worker = int(get(path, "x").partition(" ")[0])
                os.kill(worker, signal.SIGKILL)
                self.supervisor.stop("one")
                self.supervisor.start("one", {"web": "*"}, "threads=16")
                self.requests(path, 3)
                self.end()
                self.supervisor.stop("one")

    def test_gevent_workers(self) -> None:
        path = self.serve("--workers", "2", "--worker-class", "gevent", "--worker-connections", "50")
        self.requests(path, 2)


GEVENT = """
from gevent import monkey
if "early" in __import__("sys").argv:
    import pysecure_rpc                    # some programs patch late
monkey.patch_all()
import gevent, gc, os, time
import functions as f
import pysecure_rpc

begun = time.monotonic()
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
ticker = gevent.spawn(tick)
waiting = [gevent.spawn(f.slow, 0.5, str(n)) for n in range(8)]
quick = [gevent.spawn(f.login, str(n), "x") for n in range(50)]
gevent.joinall(waiting + quick, raise_error=True)
assert [w.value for w in waiting] == [str(n) for n in range(8)], waiting
assert [q.value for q in quick] == [f"{n}/x/False/None" for n in range(50)]
# Others ran meanwhile, and calls waited beside each other.
assert len(ticks) > 10, len(ticks)
assert list(f.count(100)) == list(range(100))
assert f.echo(b"x" * 1_000_000) == b"x" * 1_000_000
try:
    with pysecure_rpc.timeout(0.2):
        f.slow(1000.0, "late")
    print("no end")
except pysecure_rpc.DeadlineExceeded as error:
    assert error.may_have_run
# A greenlet that is killed leaves no half-read answer behind.
killed = gevent.spawn(f.slow, 1000.0, "killed")
gevent.sleep(0.1)
killed.kill()
assert f.login("after", "x") == "after/x/False/None"
# gevent's own time limit as well.
try:
    with gevent.Timeout(0.1):
        f.slow(1000.0, "limited")
except gevent.Timeout:
    pass
assert f.login("after", "y") == "after/y/False/None"
pid = os.fork()
if not pid:
    os._exit(0 if f.login("child", "x") == "child/x/False/None" else 1)
assert os.waitpid(pid, 0)[1] == 0
gc.collect()
# Greenlets that are gone hold no connections.
ticker.kill()
assert len(os.listdir("/proc/self/fd")) < 40
print("all well")
"""


class Gevent(Hosts):
    def test_a_caller_whose_sockets_are_gevent_s(self) -> None:
        self.supervisor.start("one", {"web": "*"}, "threads=16")
        for when in ("late", "early"):
            done = subprocess.run(
                [sys.executable, "-c", GEVENT, when], env=self.environment(), capture_output=True, text=True, cwd=support.HERE
            )
            self.assertEqual((done.returncode, done.stdout), (0, "all well\n"), when + done.stderr)
        self.supervisor.act_as("web")
        until(lambda: {"late", "killed", "limited"} <= set(f.what_closed()))

    def test_a_service_says_that_it_cannot(self) -> None:
        code = "from gevent import monkey; monkey.patch_all()\nimport functions, pysecure_rpc\npysecure_rpc.start_service('one')"
        done = subprocess.run([sys.executable, "-c", code], env=self.environment(), capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("take monkey.patch_all() out of it", done.stderr)


if __name__ == "__main__":
    unittest.main()
