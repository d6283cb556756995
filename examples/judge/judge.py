#!/usr/bin/env python3
"""A judge of programming exercises, over HTTP: what pupils hand in is compiled and run in sandboxes.

    GET  /exercises                      what there is to solve
    POST /exercises/NAME  {"language": "c" | "python", "source": "..."}     the verdict

A compiler reads what the pupil wrote (`#include "/etc/passwd"`, a template that never ends), so it runs in a sandbox as well, and not in
those that the program gets: each test has a sandbox of its own, with a folder that holds the finished program and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pysecure_sandbox import Result, Sandbox, get, put, userdir_for

EXERCISES = Path(__file__).resolve().parent / "exercises"
#: The longest request.
LONGEST = 256 * 1024


@dataclass
class Verdict:
    """`verdict`: accepted, wrong answer, time limit, memory limit, output limit, runtime error or compile error."""

    verdict: str
    #: The test that it failed at, from 1; or how many there are.
    test: int = 0
    detail: str = ""


def exercises() -> dict[str, dict[str, Any]]:
    found = {}
    for folder in sorted(EXERCISES.iterdir()):
        found[folder.name] = json.loads((folder / "exercise.json").read_text())
    return found


class Judge:
    def __init__(self) -> None:
        # A pupil's program needs one process; a compiler starts others.
        self._compiles = Sandbox(wall=10, cpu=10, memory="1G", processes=16, at_once=2)
        self._runs = Sandbox(wall=6, cpu=2, memory="64M", processes=1, output="64K", at_once=2)

    def close(self) -> None:
        self._compiles.close()
        self._runs.close()

    def judge(self, exercise: dict[str, Any], language: str, source: str) -> Verdict:
        if language == "python":
            return self._tests(exercise, lambda stdin: self._runs.run(source, stdin=stdin))
        with tempfile.TemporaryDirectory(prefix="judge-") as folder:
            program = self._compiled(source, folder)
            if isinstance(program, Verdict):
                return program
            return self._tests(exercise, lambda stdin: self._run(program, folder, stdin))

    def _compiled(self, source: str, folder: str) -> bytes | Verdict:
        userdir = userdir_for(folder, "compile")
        command = ["cc", "-O2", "-std=c17", "-o", "program", "program.c", "-lm"]
        result = self._compiles.command(command, userdir, put={"program.c": source})
        if not result.ok:
            # The compiler's own words, if it ended by itself.
            return Verdict("compile error", detail=result.explain() if result.limit else result.stderr[-2000:])
        return get(userdir, "program", most=16 << 20)

    def _run(self, program: bytes, folder: str, stdin: str) -> Result:
        with tempfile.TemporaryDirectory(dir=folder) as userdir:
            put(userdir, "program", program)
            os.chmod(Path(userdir) / "program", 0o755)
            return self._runs.command(["./program"], userdir, stdin=stdin)

    def _tests(self, exercise: dict[str, Any], run: Any) -> Verdict:
        for number, test in enumerate(exercise["tests"], 1):
            result: Result = run(test["stdin"])
            verdict = verdict_of(result, test["stdout"])
            if verdict is not None:
                return Verdict(verdict, number, result.explain() if verdict != "wrong answer" else "")
        return Verdict("accepted", len(exercise["tests"]))


LIMITS = {"wall": "time limit", "cpu": "time limit", "memory": "memory limit", "output": "output limit"}


def verdict_of(result: Result, wanted: str) -> str | None:
    """What a run was, if it was not right."""
    if result.limit is not None:
        return LIMITS.get(result.limit, "runtime error")
    if not result.ok:
        return "runtime error"
    return None if result.stdout.split() == wanted.split() else "wrong answer"


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30

    def do_GET(self) -> None:
        if self.path != "/exercises":
            return self._answer(404, {"error": "there is GET /exercises, and POST /exercises/NAME"})
        self._answer(200, {name: each["text"] for name, each in self.server.exercises.items()})

    def do_POST(self) -> None:
        exercise = self.server.exercises.get(self.path.removeprefix("/exercises/"))
        if exercise is None:
            return self._answer(404, {"error": "no such exercise: GET /exercises lists them"})
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            return self._answer(413, {"error": f"send a body of at most {LONGEST} bytes, and its Content-Length"})
        try:
            body = json.loads(self.rfile.read(int(length)))
            language, source = body["language"], body["source"]
            source.encode()
            if language not in ("c", "python"):
                raise ValueError("the language is c or python")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return self._answer(400, {"error": f"send {{\"language\": …, \"source\": …}} as JSON: {error}"})
        self._answer(200, asdict(self.server.judge.judge(exercise, language, source)))

    def _answer(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self, port: int, judge: Judge) -> None:
        self.judge = judge
        self.exercises = exercises()
        super().__init__(("127.0.0.1", port), Handler)


@contextlib.contextmanager
def serving(port: int) -> Iterator[Server]:
    judge = Judge()
    try:
        with Server(port, judge) as server:
            yield server
    finally:
        judge.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A judge of programming exercises, on this host's loopback.")
    parser.add_argument("--port", type=int, default=8000)
    with serving(parser.parse_args().port) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_port}/exercises", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
