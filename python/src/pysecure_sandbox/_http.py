"""Runs over HTTP on a unix socket, as version 2 of Piston's API has them: `/api/v2/runtimes` and `/api/v2/execute`.

Whoever may connect to the socket may run code. Every request has a folder and sandboxes of its own.
"""
# What begins with _ is private to this package; and what a request holds is of no known type until it was looked at.
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import base64
import binascii
import errno
import json
import os
import re
import signal
import socket
import socketserver
import stat
import sys
import tempfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Callable

from . import _userdir
from ._errors import SandboxError
from ._sandbox import Sandbox

if TYPE_CHECKING:
    import argparse

    from ._result import Result

#: A longer request is refused.
LONGEST = 16 << 20
#: A connection that says nothing for so many seconds is closed.
PATIENCE = 60.0
#: Files of a request, and arguments.
MOST_FILES = 200
MOST_ARGUMENTS = 1000


class BadRequest(Exception):
    """What the request is answered with, with status 400."""


@dataclass(frozen=True)
class Runtime:
    """A language, and how programs in it are compiled and run."""

    language: str
    version: str
    #: The command that runs a file; None for Python, which runs as a copy of the warm interpreter.
    run: Callable[[str], list[str]] | None
    compile: Callable[[list[str]], list[str]] | None = None
    aliases: tuple[str, ...] = ()

    def listed(self) -> dict[str, Any]:
        return {"language": self.language, "version": self.version, "aliases": list(self.aliases)}


def runtimes(sandbox: Sandbox) -> list[Runtime]:
    """What a sandbox has, as it says itself."""
    python = sandbox.run("import platform; platform.python_version()")
    if not isinstance(python.value, str):
        raise SandboxError(f"the sandbox runs no Python: {python.explain()}")
    found = [Runtime("python", _numbers(python.value), None, aliases=("py", "py3", "python3"))]
    compiler = sandbox.command(["/bin/sh", "-c", "cc -dumpfullversion -dumpversion"])
    if compiler.ok:
        found.append(Runtime("c", _numbers(compiler.stdout), lambda _: ["./a.out"], _compile_c, ("gcc",)))
    bash = sandbox.command(["/bin/sh", "-c", "bash --version"])
    if bash.ok:
        found.append(Runtime("bash", _numbers(bash.stdout), lambda file: ["bash", file], aliases=("sh",)))
    return found


def _compile_c(files: list[str]) -> list[str]:
    return ["cc", "-O2", "-o", "a.out", *(name for name in files if name.endswith(".c")), "-lm"]


def _numbers(said: str) -> str:
    """The first version that stands in a text, as three numbers."""
    found = re.search(r"\d+(\.\d+){0,2}", said)
    numbers = found[0].split(".") if found else []
    return ".".join((numbers + ["0", "0", "0"])[:3])


def selects(wanted: str, version: str) -> bool:
    """Does a version answer to `*`, `3`, `3.x`, `3.11.2`, `^3.1`, `~3.11` or `>=3.1`?"""
    match = re.fullmatch(r"(\^|~|>=|=)?\s*v?([\dxX*]+(?:\.[\dxX*]+){0,2})", wanted.strip())
    if match is None:
        return False
    sign, parts = match[1] or "", match[2].split(".")
    numbers: list[int] = []
    for part in parts:
        if not part.isdigit():
            break
        numbers.append(int(part))
    have = [int(each) for each in version.split(".")]
    if sign in ("", "="):
        return have[: len(numbers)] == numbers
    if have < numbers + [0] * (3 - len(numbers)):
        return False
    kept = {">=": 0, "^": 1, "~": min(2, len(numbers))}[sign]
    return have[:kept] == numbers[:kept]


@dataclass
class Request:
    """A request of `/api/v2/execute`, looked at."""

    runtime: Runtime
    files: list[tuple[str, bytes]]
    stdin: str
    args: list[str]
    #: Of the compiler and of the program: options of a run.
    limits: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @classmethod
    def read(cls, body: Any, known: list[Runtime]) -> Request:
        if not isinstance(body, dict):
            raise BadRequest("the body is no JSON object")
        language, version = _text(body, "language"), _text(body, "version")
        fitting = [each for each in known if language in (each.language, *each.aliases) and selects(version, each.version)]
        if not fitting:
            raise BadRequest(f"{language}-{version} runtime is unknown")
        stdin, args = body.get("stdin", ""), body.get("args", [])
        if not isinstance(stdin, str):
            raise BadRequest("stdin must be a string")
        if not isinstance(args, list) or len(args) > MOST_ARGUMENTS or not all(isinstance(each, str) for each in args):
            raise BadRequest(f"args must be an array of at most {MOST_ARGUMENTS} strings")
        if any("\0" in each for each in args):
            raise BadRequest("args may hold no NUL")
        limits = {stage: _limits_of(body, stage) for stage in ("compile", "run")}
        return cls(fitting[0], _files(body), stdin, args, limits)


def _text(body: dict[Any, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{key} is required as a string")
    return value


def _files(body: dict[Any, Any]) -> list[tuple[str, bytes]]:
    given = body.get("files")
    if not isinstance(given, list) or not given:
        raise BadRequest("files is required as an array")
    if len(given) > MOST_FILES:
        raise BadRequest(f"files may be at most {MOST_FILES}")
    found: list[tuple[str, bytes]] = []
    for number, file in enumerate(given):
        if not isinstance(file, dict) or not isinstance(file.get("content"), str):
            raise BadRequest(f"files[{number}].content is required as a string")
        name, encoding = file.get("name") or f"file{number}.code", file.get("encoding", "utf8")
        if not isinstance(name, str) or len(name) > 200:
            raise BadRequest(f"files[{number}].name must be a string of at most 200 characters")
        try:
            _userdir._parts(name)
            name.encode()
            found.append((name, _DECODERS[encoding](file["content"])))
        except (ValueError, KeyError, TypeError) as error:
            wrong = "encoding must be utf8, base64 or hex" if isinstance(error, (KeyError, TypeError)) else f"{error}"
            raise BadRequest(f"files[{number}]: {wrong}") from None
    return found


_DECODERS: dict[Any, Callable[[str], bytes]] = {
    "utf8": lambda text: text.encode(),
    "base64": lambda text: base64.b64decode(text, validate=True),
    "hex": binascii.unhexlify,
}


def _limits_of(body: dict[Any, Any], stage: str) -> dict[str, Any]:
    """The limits of a request; milliseconds there, bytes, and -1 for none."""
    limits: dict[str, Any] = {}
    for key, name, unit in (("timeout", "wall", 1000), ("cpu_time", "cpu", 1000), ("memory_limit", "memory", 1)):
        value = body.get(f"{stage}_{key}")
        if value is None or value == -1:
            continue
        if type(value) is not int or not 0 < value < 1 << 53:
            raise BadRequest(f"{stage}_{key} must be a positive number")
        limits[name] = value / unit if unit > 1 else value
    return limits


def execute(sandbox: Sandbox, request: Request) -> dict[str, Any]:
    """Compiles, if that is to be done, and runs."""
    runtime = request.runtime
    answer: dict[str, Any] = {"language": runtime.language, "version": runtime.version}
    with tempfile.TemporaryDirectory(prefix="pysecure-serve-") as above:
        folder = _userdir.userdir_for(above, "run")
        for name, content in request.files:
            try:
                _userdir.put(folder, name, content)
            except OSError as error:
                if error.errno not in _WRONG_NAMES:
                    raise
                raise BadRequest(f"the file {name!r}: {error.strerror}") from None
        names = [name for name, _ in request.files]
        if runtime.compile is not None:
            if not any(name.endswith(".c") for name in names):
                raise BadRequest("a program in C needs a file whose name ends with .c")
            compiled = _stage(sandbox, runtime.compile(names), folder, {}, request.limits["compile"])
            answer["compile"] = compiled
            if compiled["status"] is not None:
                answer["run"] = {**_NOTHING, "message": "it was not compiled"}
                return answer
        options = {"stdin": request.stdin.encode("utf-8", "replace"), "arguments": request.args}
        what: bytes | list[str] = request.files[0][1] if runtime.run is None else runtime.run(names[0])
        answer["run"] = _stage(sandbox, what, folder, options, request.limits["run"])
    return answer


#: Why a file cannot be written, where its name is to blame.
_WRONG_NAMES = frozenset((errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG))
_NOTHING: dict[str, Any] = {
    "stdout": "", "stderr": "", "output": "", "code": None, "signal": None, "message": None, "status": None, "cpu_time": 0,
    "wall_time": 0, "memory": 0,
}  # fmt: skip


def _stage(
    sandbox: Sandbox, what: bytes | list[str], folder: str, options: dict[str, Any], limits: dict[str, Any]
) -> dict[str, Any]:
    """Runs Python, or a command."""
    output: list[str] = []

    def printed(_stream: str, text: str) -> None:
        output.append(text)

    options = {**options, **limits, "on_output": printed}
    if isinstance(what, bytes):
        result = sandbox.run(what, folder, **options)
    else:
        result = sandbox.command(what, folder, **options)
    status = _status(result)
    return {
        "stdout": result.stdout,
        "stderr": result.stderr,
        "output": "".join(output),
        "code": result.exit,
        "signal": _signal(result),
        "message": None if status is None else result.explain().splitlines()[0],
        "status": status,
        "cpu_time": round(result.usage.cpu * 1000),
        "wall_time": round(result.usage.wall * 1000),
        "memory": result.usage.memory,
    }


def _status(result: Result) -> str | None:
    """Two letters, as Piston has them: TO for time, OL for output, SG for a signal, RE for an exit code. Other limits are XX."""
    if result.limit is not None:
        return {"wall": "TO", "cpu": "TO", "output": "OL"}.get(result.limit, "XX")
    return "SG" if result.signal is not None else "RE" if result.exit != 0 else None


def _signal(result: Result) -> str | None:
    if result.signal is None:
        return None
    try:
        return signal.Signals(result.signal).name
    except ValueError:
        return f"SIG{result.signal}"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each connection in a thread of its own."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: str, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.runtimes = runtimes(sandbox)
        super().__init__(path, _Handler, bind_and_activate=False)
        _make_way(path)
        before = os.umask(0o177)
        try:
            self.server_bind()
        finally:
            os.umask(before)
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Who asked has gone away: that is his business.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def _make_way(path: str) -> None:
    """Removes the socket of a server that has ended."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(f"{path} is no socket: remove it, or name another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(f"another server answers on {path}: end it, or name another path")


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def version_string(self) -> str:
        return "pysecure"

    def do_GET(self) -> None:
        if self._path() == "/api/v2/runtimes":
            self._answer(200, [each.listed() for each in self.server.runtimes])
        elif self._path() in ("/api/v2/execute", "/api/v2/execute/"):
            self._answer(405, {"message": "write POST"}, close=False)
        else:
            self._answer(404, {"message": "there are GET /api/v2/runtimes and POST /api/v2/execute"})

    def do_POST(self) -> None:
        if self._path() != "/api/v2/execute":
            self._answer(404, {"message": "there are GET /api/v2/runtimes and POST /api/v2/execute"}, close=True)
            return
        try:
            request = Request.read(self._body(), self.server.runtimes)
        except BadRequest as error:
            self._answer(400, {"message": str(error)}, close=True)
            return
        except _TooLong:
            self._answer(413, {"message": f"the body is longer than {LONGEST} bytes"}, close=True)
            return
        try:
            answer = execute(self.server.sandbox, request)
        except (BadRequest, ValueError) as error:
            self._answer(400, {"message": str(error)})
        except (SandboxError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            self._answer(500, {"message": str(error)})
        else:
            self._answer(200, answer)

    def _path(self) -> str:
        path = self.path.split("?")[0]
        return path.rstrip("/") or "/"

    def _body(self) -> Any:
        if self.headers.get("Transfer-Encoding"):
            raise BadRequest("the body must have a Content-Length")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise BadRequest("the body must have a Content-Length")
        if int(length) > LONGEST:
            raise _TooLong
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise BadRequest("the body ends too early")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON: {error}") from None

    def _answer(self, status: int, answer: Any, close: bool = False) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if close:  # what else it sent is not read
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


class _TooLong(Exception):
    pass


def main(given: argparse.Namespace, sandbox: Sandbox) -> int:
    """Serves until it is told to end."""
    path = os.path.abspath(given.socket)
    with sandbox:
        sandbox.start_pool()
        with Server(path, sandbox) as server:
            made = os.lstat(path)
            signal.signal(signal.SIGTERM, _stopped)
            print(f"serving on {path}", file=sys.stderr, flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                pass
            finally:
                _remove(path, made)
    return 0


def _stopped(*_: object) -> None:
    raise KeyboardInterrupt


def _remove(path: str, made: os.stat_result) -> None:
    """Removes its own socket, and not one that has taken its place."""
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
            os.unlink(path)
    except FileNotFoundError:
        pass
