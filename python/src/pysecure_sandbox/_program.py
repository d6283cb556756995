"""The user's code, as an interpreter in a sandbox runs it: what is placed before, and what is said after.

An interpreter that is started for one run imports this and nothing else: each further module would be waited for.
"""
# What begins with _ is private to these packages.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import builtins
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any, NoReturn
else:
    import _signal  # all of `signal` but its enumerations

#: Flags of `compile`: the tree, and not its code.
_ONLY_AST = 0x400
#: Longer sources are compiled at once, without a look at their last expression.
_MOST_SOURCE = 1 << 20
#: A line that is no longer may well be one expression.
_MOST_LINE = 200
#: Characters of a text that is told.
_MOST_TEXT = 4000

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


def source_of(task: dict[str, Any], given: dict[str, int]) -> Any:
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


def place(given: dict[str, int]) -> None:
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


def surround(asked: dict[str, Any], task: dict[str, Any]) -> None:
    """Environment, working directory, `sys.path` and `sys.argv`."""
    environment: dict[str, str] = asked.get("environment") or {}
    directory = asked.get("directory") or "/"
    os.environ["HOME"] = directory
    if environment:
        os.environ.update(environment)
    if "TZ" in environment:
        import time

        time.tzset()
    os.chdir(directory)
    sys.path.insert(0, directory)
    sys.path += [path for path in asked.get("paths") or () if path not in sys.path]
    sys.argv = [task.get("name") or "<code>", *(task.get("arguments") or ())]


def bound(asked: dict[str, Any]) -> None:
    """Limits of this process, which its own beginning does not count against."""
    limits: Any = asked.get("rlimits")
    memory = asked.get("memory")
    if not limits and memory is None:
        return
    import resource

    for kind, soft, hard in limits:
        resource.setrlimit(kind, (soft, hard))
    if memory is not None:
        used = used_before[1] if used_before and used_before[0] == os.getpid() else used_memory()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


def used_memory() -> int:
    """Bytes of the address space of this process; proc_pid_statm(5)."""
    try:
        with open("/proc/self/statm", "rb", 0) as file:
            return int(file.read(256).split()[0]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError):
        return 0


def _limit_of(error: BaseException) -> str | None:
    """Which limit it was that an error tells of, where it can tell of nothing else."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno is not None:
        import errno

        return {errno.EFBIG: "file_size", errno.ENOMEM: "memory"}.get(error.errno)
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return "processes"
    return None


def leave(control: Any, program: Program, status: int) -> NoReturn:
    """Says that the code has ended, and ends this process."""
    if os.getpid() != program.process:
        flush()
        os._exit(status)
    try:
        control.send(done(status, program.limit))
        control.recv(1)  # What it has used is read, and then it is killed.
    except OSError:
        pass  # it was closed by the code, or nobody is there
    os._exit(status)


def done(status: int, limit: str | None) -> bytes:
    """The message that says so."""
    if limit is None and not _denied:
        return b'{"done":{"exit":%d}}' % status
    said: dict[str, Any] = {"exit": status, "denied": _denied[:_MOST_DENIED]}
    if limit is not None:
        said["limit"] = limit
    import json

    return json.dumps({"done": said}).encode()


#: A process, and the memory that it had used before it had a task.
used_before: list[int] = []


class Api:
    """The functions that this code may call. `help(api)` lists them."""

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.__dict__.update(functions)

    def __repr__(self) -> str:
        return f"<api: {', '.join(vars(self)) or 'no functions'}>"


class Program:
    """Code that runs as `__main__`."""

    def __init__(self, name: str, functions: dict[str, Callable[..., Any]]) -> None:
        self.process = os.getpid()
        self._name = name
        #: Sources that a traceback may show, by name.
        self._sources: dict[str, Any] = {}
        #: Which limit ended it, as far as that can be known here.
        self.limit: str | None = None
        #: May an interrupt be raised now?
        self._interruptible = False
        self._main = type(sys)("__main__")
        self._main.__dict__.update(functions, __builtins__=builtins, api=Api(functions))
        sys.modules["__main__"] = self._main
        _signal.signal(_signal.SIGINT, self._interrupted)

    def _interrupted(self, *_: Any) -> None:
        # Where it could come while nothing runs, it is too late.
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt

    def run(self, source: Any, wanted: bool, name: str | None = None) -> dict[str, Any]:
        """Runs code, and says what came of it."""
        name = name or self._name
        self._sources[name] = source
        try:
            first, last = _compiled(source, name, wanted)
            names = self._main.__dict__
            value = None
            self._interruptible = True
            if first is not None:
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
        told: dict[str, Any] = {"type": kind.__qualname__, "message": text_of(error, str), "line": None}
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


def _own() -> tuple[str, ...]:
    """Where these packages are."""
    modules = (sys.modules.get(name) for name in ("pysecure_sandbox", "pysecure_rpc"))
    return tuple(os.path.dirname(module.__file__ or "") + "/" for module in modules if module is not None)


def _only_code(shown: Any, seen: set[int]) -> None:
    """Takes these packages' own frames out of a traceback, and of those that led to it: they say nothing of the code."""
    if shown is None or id(shown) in seen:
        return
    seen.add(id(shown))
    shown.stack[:] = [frame for frame in shown.stack if not frame.filename.startswith(_own())]
    for other in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        _only_code(other, seen)


def _compiled(source: Any, name: str, wanted: bool) -> tuple[Any, Any]:
    """The code, and that of its last expression, if its value is wanted and it ends with one."""
    if wanted and len(source) <= _MOST_LINE and isinstance(source, str) and "\n" not in source and not source[:1].isspace():
        try:
            return None, compile(source, name, "eval", 0, True)
        except SyntaxError:
            pass  # no expression alone
    if wanted and len(source) <= _MOST_SOURCE:
        import _ast

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


def text_of(value: Any, of: Any = repr) -> str:
    """The text of a value, whose own code makes it and may fail."""
    try:
        return str(of(value))[:_MOST_TEXT].encode("utf-8", "replace").decode()
    except BaseException:
        return f"a {type(value).__name__}, whose text cannot be made"


def finish(status: int) -> int:
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
    return status if flush() else status or 120


def flush() -> bool:
    written = True
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name, None)
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException:
            written = False
    return written
