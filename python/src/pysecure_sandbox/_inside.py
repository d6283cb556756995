"""What runs in the sandbox, before and around the user's code.

The warm interpreter imports this once, before it forks: all that it needs is imported here. The child, confined already, calls
`serve`, which does only what has to be new in each run. Nothing here protects anything: what holds the code is outside.
"""
# What begins with _ is private to these packages.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import _ast
import builtins
import errno
import json
import os
import resource
import signal
import socket
import sys
import time
import types
from functools import partial
from typing import Any, NoReturn

import pysecure_rpc
from pysecure_rpc import _messages
from pysecure_rpc._codec import seal
from pysecure_rpc._connection import receive

from ._calling import Api, Calling, belongs_here, functions

#: Flags of `compile`: the tree, and not its code.
_ONLY_AST = 0x400
#: Longer sources are compiled at once, without a look at their last expression.
_MOST_SOURCE = 1 << 20
#: Characters of a text that is told.
_MOST_TEXT = 4000
#: Where these packages are.
_OWN = (os.path.dirname(__file__) + "/", os.path.dirname(pysecure_rpc.__file__) + "/")
_RESULT, _CELL = "pysecure.result", "pysecure.cell"

#: What the code wanted of the network. There is none, so all of it was denied.
_denied: list[dict[str, str]] = []
_MOST_DENIED, _MOST_TARGET = 16, 200
_NETWORK = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes what asks for the network: `sys.addaudithook`."""
    at = _NETWORK.get(event)
    if at is None or len(_denied) >= _MOST_DENIED:
        return
    if at:
        address: Any = arguments[1]
        if isinstance(address, (str, bytes)) or str(address[0]).startswith(("127.", "::1", "localhost")):
            return  # a Unix socket, or its own loopback
        target = ":".join(str(part) for part in address[:2])
    else:
        target = f"{arguments[0]!s}:{arguments[1]!s}"
    note = {
        "kind": "network",
        "target": target[:_MOST_TARGET],
        "rule": "a sandbox has no network",
        "allow": "a function of the api that does it outside",
    }
    if note not in _denied:
        _denied.append(note)


sys.addaudithook(_audit)

_streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
_stdin: Any = sys.stdin
for _stream in _streams:
    # What was printed is not lost when the code is killed, so each line is written at once.
    if hasattr(_stream, "reconfigure"):
        _stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=False)
if hasattr(_stdin, "reconfigure"):
    _stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
for _name in ("exit", "quit"):
    if not hasattr(builtins, _name):  # python3 -S
        setattr(builtins, _name, sys.exit)


def main() -> NoReturn:
    """In an interpreter that was started for one run: its first socket is the pool's, and it is confined already."""
    control = socket.socket(fileno=3)
    control.set_inheritable(False)
    control.send(b'{"confined":true}')
    serve(control)


def serve(control: socket.socket) -> NoReturn:
    """Runs what `control` asks for, and ends this process."""
    data, fds = receive(control, 0)
    if not data:
        os._exit(0)  # nobody needs it any more
    asked = json.loads(data)
    task: dict[str, Any] = asked["task"]
    given = dict(zip(asked["fds"], fds))
    source = _source(task, given)
    _place(given)
    _surroundings(asked, task)
    _renew()
    run = _Run(task, source, given.get("api"))
    _bound(asked)
    status = run.session() if task.get("session") else run.once()
    if os.getpid() != run.process:
        _flush()
        os._exit(status)
    done: dict[str, Any] = {"exit": status, "denied": _denied[:_MOST_DENIED]}
    if run.limit is not None:
        done["limit"] = run.limit
    try:
        control.send(json.dumps({"done": done}).encode())
    except OSError:
        pass  # it was closed by the code, or nobody is there
    os._exit(status)


def rehearse() -> None:
    """Does once what each run does, so that the memory that this writes to is a copy's own before its run begins."""
    main, handler = sys.modules["__main__"], signal.getsignal(signal.SIGINT)
    asked = json.loads(json.dumps({"task": {"code": "x = [1]\ndef f(): return x\nf()", "functions": [["f", 0]], "value": True}}))
    _renew()
    try:
        run = _Run(asked["task"], asked["task"]["code"], None)
        outcome = run._cell(run._source, run._name, True)
        _rehearse_call(outcome)
        _flush()
    finally:
        sys.modules["__main__"] = main
        signal.signal(signal.SIGINT, handler)


def _rehearse_call(outcome: dict[str, Any]) -> None:
    """A call whose answer is there before it is made."""
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:
        return
    with ours, theirs:
        for message in (_messages.hello("api", None, {}), _messages.ok(1, 1)):
            theirs.send(seal(message).data)
        calling = Calling(ours)
        functions(calling, [["f", 0]])["f"](1)
        calling.tell(_RESULT, outcome)


# What has to be new in each run.


def _source(task: dict[str, Any], given: dict[str, int]) -> Any:
    """The code: text, or bytes that say themselves what they are in. Of text that is none the bytes."""
    fd = given.pop("code", None)
    if fd is None:
        return task.get("code", "")
    with open(fd, "rb") as file:
        file.seek(0)
        source = file.read()
    if task.get("source") != "text":
        return source
    try:
        return source.decode()
    except UnicodeDecodeError:
        return source


def _place(given: dict[str, int]) -> None:
    """Puts what came at 0, 1 and 2. What did not come leads nowhere."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        fd = given.pop(name, None)
        if fd is None:
            try:
                fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                read, write = os.pipe()
                fd, other = (write, read) if number else (read, write)
                os.close(other)
        os.dup2(fd, number)
        os.close(fd)


def _surroundings(asked: dict[str, Any], task: dict[str, Any]) -> None:
    environment: dict[str, str] = asked.get("environment") or {}
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    directory = asked.get("directory") or "/"
    os.environ["HOME"] = directory
    os.environ.update(environment)
    if "TZ" in environment:
        time.tzset()
    os.chdir(directory)
    sys.path.insert(0, directory)
    sys.path += [path for path in asked.get("paths") or () if path not in sys.path]
    sys.argv = [task.get("name") or "<code>", *(task.get("arguments") or ())]


def _bound(asked: dict[str, Any]) -> None:
    """Limits of this process, which its own beginning does not count against."""
    for kind, soft, hard in asked.get("rlimits") or ():
        resource.setrlimit(kind, (soft, hard))
    memory = asked.get("memory")
    if memory is not None:
        try:
            with open("/proc/self/statm", "rb", 0) as file:
                used = int(file.read(256).split()[0]) * resource.getpagesize()
        except (OSError, ValueError):
            used = 0
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


def _limit_of(error: BaseException) -> str | None:
    """Which limit it was that an error tells of, where it can tell of nothing else."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.ENOMEM):
        return "file_size" if error.errno == errno.EFBIG else "memory"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "processes"
    return None


def _renew() -> None:
    """What a copy of another process must not share with its siblings."""
    modules = sys.modules
    if "random" in modules:
        modules["random"].seed()
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "_ssl" in modules:
        modules["_ssl"].RAND_add(os.urandom(32), 32.0)
    if "uuid" in modules:
        # A node of this run's own, made when it is first asked for; the system's generator has a state that was copied.
        uuid: Any = modules["uuid"]
        uuid._node = int.from_bytes(os.urandom(6), "big") | (1 << 40)
        uuid._last_timestamp = uuid._generate_time_safe = uuid._UuidCreate = None
    if "tempfile" in modules:
        tempfile: Any = modules["tempfile"]
        tempfile._name_sequence = None


class _Run:
    """One task."""

    def __init__(self, task: dict[str, Any], source: Any, api: int | None) -> None:
        self.process = os.getpid()
        self._task = task
        self._source = source
        self._name: str = task.get("name") or "<code>"
        #: Sources that a traceback may show, by name.
        self._sources: dict[str, Any] = {}
        #: Which limit ended it, as far as that can be known here.
        self.limit: str | None = None
        #: May an interrupt be raised now?
        self._interruptible = False
        self._calling = None if api is None else Calling(socket.socket(fileno=api))
        self._main = types.ModuleType("__main__")
        self._main.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = self._main
        if self._calling is not None:
            belongs_here(self._calling)
            named = functions(self._calling, task.get("functions") or [])
            self._main.__dict__.update(named, api=Api(named))
        else:
            self._main.__dict__["api"] = Api({})
        signal.signal(signal.SIGINT, self._interrupted)

    def _interrupted(self, *_: Any) -> None:
        # Where it could come while nothing runs, it is too late.
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt

    def once(self) -> int:
        """Runs the code, and is over."""
        outcome = self._cell(self._source, self._name, bool(self._task.get("value")))
        status = _finish(int(outcome.pop("exit", 0)))
        calling = self._calling
        if outcome and calling is not None and os.getpid() == self.process:
            try:
                self._told(outcome, partial(calling.tell, _RESULT))
            except Exception:
                pass  # it was closed by the code: the exit says enough
        return status

    def session(self) -> int:
        """Runs one cell after another, as they are asked for."""
        calling = self._calling
        if calling is None:
            return 2
        outcome: dict[str, Any] = {}
        number = 0
        while True:
            cell = self._told(outcome, partial(_next_cell, calling))
            if cell is None:
                return _finish(0)
            number += 1
            outcome = self._cell(cell, f"<cell {number}>", True)
            _flush()
            if os.getpid() != self.process:
                return int(outcome.get("exit", 0))

    def _told(self, outcome: dict[str, Any], tell: Any) -> Any:
        """Tells an outcome; of a value that cannot cross, its text."""
        try:
            return tell(outcome)
        except (TypeError, ValueError, RecursionError):
            if "value" not in outcome:
                raise
            value = outcome.pop("value")
            outcome["text"] = _text(value)
            return tell(outcome)

    def _cell(self, source: Any, name: str, wanted: bool) -> dict[str, Any]:
        """Runs code, and says what came of it."""
        self._sources[name] = source
        try:
            first, last = _compiled(source, name, wanted)
            names = self._main.__dict__
            value = None
            self._interruptible = True
            exec(first, names)
            if last is not None:
                value = eval(last, names)
            self._interruptible = False
            return {} if value is None else {"value": value}
        except SystemExit as error:
            return _left(error)
        except BaseException as error:
            self._interruptible = False
            told = self._raised(error)
            self.limit = _limit_of(error)
            return told
        finally:
            self._interruptible = False

    def _raised(self, error: BaseException) -> dict[str, Any]:
        kind = type(error)
        told: dict[str, Any] = {"type": kind.__qualname__, "message": _text(error, str), "line": None}
        try:
            frame = error.__traceback__
            while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
                frame = frame.tb_next
            told["line"] = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else _line(frame, self._sources)
            self._show(error.with_traceback(frame))
        except BaseException:
            try:
                sys.stderr.write(f"{kind.__name__}, whose traceback cannot be shown\n")
            except BaseException:
                pass
        return {"exit": 130 if kind is KeyboardInterrupt else 1, "error": told}

    def _show(self, error: BaseException) -> None:
        import linecache

        for name, source in self._sources.items():
            text = source if isinstance(source, str) else source.decode("utf-8", "replace")
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(error), error, error.__traceback__)
            return
        import traceback

        shown = traceback.TracebackException(type(error), error, error.__traceback__)
        _only_code(shown, set())
        for part in shown.format():
            sys.stderr.write(part)


def _next_cell(calling: Calling, outcome: dict[str, Any]) -> Any:
    return calling.call(_CELL, [outcome], {})


def _only_code(shown: Any, seen: set[int]) -> None:
    """Takes these packages' own frames out of a traceback, and of those that led to it: they say nothing of the code."""
    if shown is None or id(shown) in seen:
        return
    seen.add(id(shown))
    shown.stack[:] = [frame for frame in shown.stack if not frame.filename.startswith(_OWN)]
    for other in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        _only_code(other, seen)


def _compiled(source: Any, name: str, wanted: bool) -> tuple[Any, Any]:
    """The code, and that of its last expression, if its value is wanted and it ends with one."""
    if wanted and len(source) <= _MOST_SOURCE:
        tree: Any = compile(source, name, "exec", _ONLY_AST, True)
        if tree.body and type(tree.body[-1]) is _ast.Expr:
            last = _ast.Expression(tree.body.pop().value)
            return compile(tree, name, "exec", 0, True), compile(last, name, "eval", 0, True)
        return compile(tree, name, "exec", 0, True), None
    return compile(source, name, "exec", 0, True), None


def _line(frame: Any, sources: dict[str, Any]) -> int | None:
    """The line of the user's own code in which it happened."""
    line: int | None = None
    while frame is not None:
        if frame.tb_frame.f_code.co_filename in sources:
            line = frame.tb_lineno
        frame = frame.tb_next
    return line


def _left(end: SystemExit) -> dict[str, Any]:
    """What `sys.exit()` comes to."""
    code: Any = end.code
    if code is None:
        return {}
    if isinstance(code, int):
        return {"exit": code & 0xFF} if code & 0xFF else {}
    try:
        print(code, file=sys.stderr)
    except BaseException:
        pass
    return {"exit": 1}


def _text(value: Any, of: Any = repr) -> str:
    """The text of a value, whose own code makes it and may fail."""
    try:
        return str(of(value))[:_MOST_TEXT].encode("utf-8", "replace").decode()
    except BaseException:
        return f"a {type(value).__name__}, whose text cannot be made"


def _finish(status: int) -> int:
    """What Python does at its end: threads are waited for, what was registered is called, all is written."""
    try:
        threading: Any = sys.modules.get("threading")
        if threading is not None and len(threading._active) > 1:
            threading._shutdown()
        atexit: Any = sys.modules.get("atexit")
        if atexit is not None:
            atexit._run_exitfuncs()
    except BaseException:
        status = status or 1
    return status if _flush() else status or 120


def _flush() -> bool:
    written = True
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name, None)
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException:
            written = False
    return written
