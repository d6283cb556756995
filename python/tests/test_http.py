"""`pysecure sandbox serve`: Piston's API over HTTP on a unix socket, by the real command."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import unittest
from typing import Any

BINARY = os.environ.get("PYSECURE_BINARY", "pysecure")


class Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("sandbox")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def started(path: str) -> subprocess.Popen[str]:
    server = subprocess.Popen([BINARY, "sandbox", "serve", "--socket", path], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = server.stderr.readline()
    assert line == f"serving on {path}\n", line + server.stderr.read()
    return server


def ended(server: subprocess.Popen[str]) -> int:
    server.send_signal(signal.SIGTERM)
    assert server.stderr is not None
    server.stderr.close()
    return server.wait()


class Serve(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory(prefix="pysecure-test-http-")
        cls.addClassCleanup(folder.cleanup)
        cls.path = os.path.join(folder.name, "socket")
        cls.server = started(cls.path)
        cls.addClassCleanup(ended, cls.server)

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        connection = Connection(self.path)
        with contextlib.closing(connection):
            data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def execute(self, language: str, *files: str | dict[str, str], **more: Any) -> Any:
        given = [{"content": file} if isinstance(file, str) else file for file in files]
        status, answer = self.ask("POST", "/api/v2/execute", {"language": language, "version": "*", "files": given, **more})
        self.assertEqual(status, 200, answer)
        return answer

    def test_what_there_is(self) -> None:
        status, found = self.ask("GET", "/api/v2/runtimes")
        self.assertEqual(status, 200)
        self.assertEqual([each["language"] for each in found], ["python", "c", "bash"])
        for each in found:
            self.assertRegex(each["version"], r"^[1-9]\d*\.\d+\.\d+$")
        self.assertIn("sh", found[2]["aliases"])
        for version in ("3", "3.x", found[0]["version"], "^3.1.0", ">=3.10", "~3", "*"):
            answer = self.execute("py", "print(1)", version=version)
            self.assertEqual((answer["language"], answer["version"]), ("python", found[0]["version"]), version)

    def test_the_socket_is_its_users_alone(self) -> None:
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)

    def test_python(self) -> None:
        main = "import sys, second\nprint(input(), sys.argv[1:], second.x)\nprint('err', file=sys.stderr)\nsys.exit(3)"
        answer = self.execute("python", main, {"name": "second.py", "content": "783d35", "encoding": "hex"}, stdin="hi", args=["a b"])
        run = answer["run"]
        self.assertEqual((run["stdout"], run["stderr"]), ("hi ['a b'] 5\n", "err\n"))
        self.assertEqual(sorted(run["output"].splitlines()), ["err", "hi ['a b'] 5"])
        self.assertEqual((run["code"], run["signal"], run["status"]), (3, None, "RE"))
        self.assertNotIn("compile", answer)

    def test_c_is_compiled_and_run(self) -> None:
        source = '#include <stdio.h>\nint main(int n, char **a) { int c = getchar(); printf("%c %d %s\\n", c, n, a[1]); return 7; }'
        answer = self.execute("c", {"name": "main.c", "content": source}, stdin="x", args=["one"])
        self.assertEqual((answer["compile"]["code"], answer["compile"]["stderr"]), (0, ""))
        self.assertEqual((answer["run"]["stdout"], answer["run"]["code"]), ("x 2 one\n", 7))
        answer = self.execute("c", {"name": "main.c", "content": "int main(void) { return x; }"})
        self.assertEqual(answer["compile"]["code"], 1)
        self.assertIn("undeclared", answer["compile"]["stderr"])
        self.assertEqual((answer["run"]["code"], answer["run"]["stdout"]), (None, ""))

    def test_how_a_run_ends(self) -> None:
        run = self.execute("sh", "echo $1; kill -9 $$", args=["said"])["run"]
        self.assertEqual((run["stdout"], run["code"], run["signal"], run["status"]), ("said\n", None, "SIGKILL", "SG"))
        run = self.execute("python", "while True: pass", run_timeout=300)["run"]
        self.assertEqual((run["status"], run["code"], run["signal"]), ("TO", None, "SIGKILL"))
        self.assertIn("`wall`", run["message"])
        run = self.execute("python", "b = bytearray(1 << 30)", run_memory_limit=100 << 20)["run"]
        self.assertEqual(run["status"], "XX")
        self.assertIn("`memory`", run["message"])
        run = self.execute("python", "while True: print('x' * 9999)")["run"]
        self.assertEqual((run["status"], len(run["output"])), ("OL", 1 << 20))
        # Of a C program, each stage has limits of its own.
        answer = self.execute("c", {"name": "a.c", "content": "int main(void) { for (;;); }"}, run_timeout=300, compile_timeout=20000)
        self.assertEqual((answer["compile"]["code"], answer["run"]["status"]), (0, "TO"))

    def test_nothing_of_a_request_is_there_for_the_next(self) -> None:
        look = "import os; print(sorted(os.listdir()), os.listdir('/tmp')); open('kept', 'w'); open('/tmp/kept', 'w')"
        first, second = self.execute("python", look), self.execute("python", look)
        self.assertEqual(first["run"]["stdout"], "['file0.code'] []\n")
        self.assertEqual(second["run"]["stdout"], first["run"]["stdout"])

    def test_many_at_once(self) -> None:
        found: dict[int, str] = {}

        def one(number: int) -> None:
            found[number] = self.execute("python", f"print({number})")["run"]["stdout"]

        threads = [threading.Thread(target=one, args=[number]) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, {number: f"{number}\n" for number in range(24)})

    def test_bad_requests(self) -> None:
        good: dict[str, Any] = {"language": "python", "version": "*", "files": [{"content": ""}]}
        for change, says in (
            ({"language": None}, "language is required"),
            ({"language": 5}, "language is required"),
            ({"version": ""}, "version is required"),
            ({"language": "cobol"}, "cobol-* runtime is unknown"),
            ({"version": "99.x"}, "python-99.x runtime is unknown"),
            ({"version": "; rm"}, "runtime is unknown"),
            ({"files": []}, "files is required"),
            ({"files": {}}, "files is required"),
            ({"files": [{"content": ""}] * 201}, "files may be at most 200"),
            ({"files": ["x"]}, "files[0].content"),
            ({"files": [{"content": 5}]}, "files[0].content"),
            ({"files": [{"content": "", "name": "../x"}]}, "files[0]: "),
            ({"files": [{"content": "", "name": "/etc/x"}]}, "files[0]: "),
            ({"files": [{"content": "", "name": "a\0b"}]}, "files[0]: "),
            ({"files": [{"content": "", "name": "\ud800"}]}, "files[0]: "),
            ({"files": [{"content": "\ud800"}]}, "files[0]: "),
            ({"files": [{"content": "!", "encoding": "base64"}]}, "files[0]: "),
            ({"files": [{"content": "", "encoding": ["hex"]}]}, "encoding must be"),
            ({"files": [{"content": "", "name": "a/b"}, {"content": "", "name": "a"}]}, ""),
            ({"stdin": 1}, "stdin must be"),
            ({"args": "x"}, "args must be"),
            ({"args": ["x"] * 1001}, "args must be"),
            ({"args": ["\0"]}, "NUL"),
            ({"run_timeout": "1"}, "run_timeout must be"),
            ({"run_timeout": 0}, "run_timeout must be"),
            ({"run_memory_limit": True}, "run_memory_limit must be"),
        ):
            with self.subTest(change):
                status, answer = self.ask("POST", "/api/v2/execute", {**good, **change})
                self.assertEqual(status, 400, answer)
                self.assertIn(says, answer["message"])
        for body in (b"", b"x", b"[]", b"\xff", b"[" * 100_000):
            with self.subTest(body[:9]):
                self.assertEqual(self.ask("POST", "/api/v2/execute", body)[0], 400)
        status, answer = self.ask("POST", "/api/v2/execute", {"language": "c", "version": "*", "files": [{"content": ""}]})
        self.assertEqual((status, ".c" in answer["message"]), (400, True))
        for method, path, wanted in (("GET", "/", 404), ("POST", "/x", 404), ("GET", "/api/v2/execute", 405)):
            self.assertEqual(self.ask(method, path)[0], wanted, path)
        # After all of that it answers as before.
        self.assertEqual(self.execute("python", "print(1)")["run"]["stdout"], "1\n")

    def test_a_body_that_is_too_long_is_not_read(self) -> None:
        for head, wanted in (
            ("Content-Length: 16777217", 413),
            ("Content-Length: 99999999999999999999999", 400),
            ("Content-Length: -1", 400),
            ("Content-Length: 1e3", 400),
            ("Transfer-Encoding: chunked", 400),
        ):
            with self.subTest(head), socket.socket(socket.AF_UNIX) as sock:
                sock.connect(self.path)
                sock.sendall(f"POST /api/v2/execute HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
                answer = http.client.HTTPResponse(sock)
                answer.begin()
                self.assertEqual(answer.status, wanted)
                answer.read()
                self.assertEqual(sock.recv(1), b"")

    def test_whoever_goes_away_keeps_nobody(self) -> None:
        body = json.dumps({"language": "python", "version": "*", "files": [{"content": "print(1)"}]}).encode()
        for sent in (b"POST /api", b"POST /api/v2/execute HTTP/1.1\r\nContent-Length: 500\r\n\r\n{", b"\0\xff\r\n\r\n",
                     b"POST /api/v2/execute HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)):  # fmt: skip
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(self.path)
                sock.sendall(sent)
        self.assertEqual(self.execute("python", "print(1)")["run"]["stdout"], "1\n")


class Socket(unittest.TestCase):
    def test_it_is_one_server_s_and_goes_with_it(self) -> None:
        with tempfile.TemporaryDirectory(prefix="pysecure-test-http-") as folder:
            path = os.path.join(folder, "socket")
            # One that a server has left which was killed.
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(path)
            server = started(path)
            second = subprocess.run([BINARY, "sandbox", "serve", "--socket", path], capture_output=True, text=True, check=False)
            self.assertEqual(second.returncode, 1)
            self.assertIn("another server answers on", second.stderr)
            self.assertEqual(ended(server), 0)
            self.assertEqual(os.listdir(folder), [])
            with open(path, "w") as file:
                file.write("mine")
            third = subprocess.run([BINARY, "sandbox", "serve", "--socket", path], capture_output=True, text=True, check=False)
            self.assertIn("is no socket", third.stderr)
            with open(path) as file:
                self.assertEqual(file.read(), "mine")


if __name__ == "__main__":
    unittest.main()
