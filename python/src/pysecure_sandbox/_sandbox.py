"""`Sandbox`: where code runs, with what limits, and what it may call."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import _socket
import fcntl
import json
import os
import re
import sys
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, TypedDict, Union

from . import _userdir
from ._errors import Closed
from ._pool import Pool, granted, usable
from ._run import Channels, Run

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from typing_extensions import Unpack  # pyright: ignore[reportMissingModuleSource]

    from ._functions import Approve, Functions
    from ._result import Result
    from ._run import OnOutput
    from ._session import Session
    from ._userdir import PathText

    Code = Union[str, bytes]
    #: A number of bytes, or as `"64M"`.
    Size = Union[int, str]
    Stdin = Union[str, bytes, int, "socket.SocketType", Any, None]


class Limits(TypedDict, total=False):
    """What a run may take. A run's own can only lower those of its sandbox."""

    #: Seconds, and seconds of processors.
    wall: float
    cpu: float
    memory: Size
    #: Processes and threads at once.
    processes: int
    #: Bytes of one file; how many files; bytes of `userdir` in all, and of /tmp.
    file_size: Size
    files: int
    userdir_size: Size
    tmp: Size


class Profile(Limits, total=False):
    """How a sandbox is made. A manifest's sandbox (`name`) has its own, and takes none of these but `output`."""

    #: "landlock" is for hosts that refuse user namespaces: it must be asked for by name.
    isolation: str
    #: The interpreter; this one's, unless it is said. Folders for its `sys.path`; this one's site-packages.
    python: str
    packages: Sequence[PathText]
    #: Modules that are imported once, before any code runs; and `module:function` that is called in each run before its code.
    preload: Sequence[str]
    after_fork: str
    #: Paths that code may read.
    readable: Sequence[PathText]
    #: How many sandboxes are kept ready, and how many run at once.
    ready: int
    at_once: int
    #: False: each run starts an interpreter of its own.
    warm: bool
    jail: str
    #: Bytes of output of a run.
    output: Size


class Options(Limits, total=False):
    """What of a run is unlike others."""

    #: Asked before each call of a function; see `ApiCall`.
    approve: Approve
    stdin: Stdin
    arguments: Sequence[str]
    environment: Mapping[str, str]
    readable: Sequence[PathText]
    output: Size
    #: Is called with "stdout" or "stderr", and what was printed there.
    on_output: OnOutput
    #: Changes of `userdir` are kept aside: see `Result.changes`.
    overlay: bool
    #: Denied accesses of files are told, too; that is slower.
    explain: bool
    #: Files that are put into `userdir` before, and those that are taken out of it afterwards.
    put: Mapping[str, Code]
    get: Sequence[str]


#: Made once, which is most of what it takes.
_as_json = json.JSONEncoder(separators=(",", ":")).encode
#: What a run prints at most, unless it is said.
OUTPUT = 1 << 20
#: A longer text goes by a descriptor.
_SHORT = 16_384
#: How many connections are kept for the next runs.
_SPARE = 2
_LIMITS = {
    "wall": "wall", "cpu": "cpu", "memory": "memory", "processes": "processes", "file_size": "file_size", "files": "files",
    "userdir_size": "userdir", "tmp": "tmp",
}  # fmt: skip
_SIZES = frozenset(("memory", "file_size", "userdir_size", "tmp"))
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(value: Size) -> int:
    """Bytes of `"64M"` or `65536`; the letters are powers of 1,024, as in a manifest."""
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"([0-9]+) ?([KMGT]?)(?:I?B)?", value.upper())
    if found is None:
        raise ValueError(f"{value!r} is no size: write bytes, or a number with K, M, G or T")
    return int(found[1]) * _UNITS[found[2]]


def _limits(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: size(value) if name in _SIZES else value
        for name, key in _LIMITS.items()
        if (value := given.get(name)) is not None
    }


def _check(given: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    unknown = sorted(given.keys() - known)
    if "rootfs" in unknown and "jail" in known:
        # For one release, as src/former.rs of the launcher.
        raise TypeError("`rootfs` is called `jail` now: write that")
    if unknown:
        raise TypeError(f"{what} has no option {unknown[0]!r}: there are {', '.join(sorted(known))}")


_PROFILE, _OPTIONS = frozenset(Profile.__annotations__), frozenset(Options.__annotations__)


class Sandbox:
    """Runs what you do not trust. One for many runs, from many threads, at once; close it, or use it in `with`.

    `name` is a sandbox of the manifest, where this is a service that may use it. Everywhere else the sandbox has a pool of its own,
    made as `profile` says when it is first needed.
    """

    def __init__(self, name: str | None = None, **profile: Unpack[Profile]) -> None:
        _check(profile, _PROFILE, "a sandbox")
        self.name = name
        path = granted(name) if name is not None else None
        manifest = usable().get(name or "", {}) if path is not None else {}
        self._output = size(profile.get("output", manifest.get("output", OUTPUT)))
        self._pool = Pool(path, {} if path is not None else _profile(name, profile))
        self._spare: deque[Channels] = deque()
        self._spare_api: deque[tuple[Any, Any]] = deque()
        self._closed = False
        _all.add(self)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lost(self) -> bool:
        """The pool says no more of a run. Is it because this sandbox was closed? If the pool has ended, the next run has another one."""
        if not self._closed:
            self._pool.end_if_gone()
        return self._closed

    def start_pool(self) -> None:
        """Has the pool ready: the first run does it otherwise."""
        self._pool.connect()

    def close(self) -> None:
        """Ends it, and what still runs in it."""
        self._closed = True
        self._pool.close()
        self._close_spare()

    def run(
        self, code: Code, userdir: PathText | None = None, api: Functions | None = None, **options: Unpack[Options]
    ) -> Result:
        """Runs Python, and waits for what it comes to. The functions in `api` run in this thread, while it waits."""
        run = self.start(code, userdir, api, **options)
        try:
            return run.wait()
        except BaseException:
            run.close()
            raise

    def start(
        self, code: Code, userdir: PathText | None = None, api: Functions | None = None, **options: Unpack[Options]
    ) -> Run:
        """Has Python begin. Its functions are served while somebody waits for it."""
        return self._begin(code, None, userdir, api, options)

    async def arun(
        self, code: Code, userdir: PathText | None = None, api: Functions | None = None, **options: Unpack[Options]
    ) -> Result:
        """As `run`, in asyncio: functions that are coroutines run in this loop, others in its threads. Cancelled, it is killed."""
        await self._connected()
        return await self.start(code, userdir, api, **options).finished()

    def command(self, command: Sequence[str], userdir: PathText | None = None, **options: Unpack[Options]) -> Result:
        """Runs a program, and waits for what it comes to."""
        run = self.start_command(command, userdir, **options)
        try:
            return run.wait()
        except BaseException:
            run.close()
            raise

    def start_command(self, command: Sequence[str], userdir: PathText | None = None, **options: Unpack[Options]) -> Run:
        """Has a program begin."""
        if isinstance(command, (str, bytes)) or not command:
            raise TypeError("a command is a list: its program, and its arguments")
        return self._begin(None, list(command), userdir, None, options)

    async def acommand(self, command: Sequence[str], userdir: PathText | None = None, **options: Unpack[Options]) -> Result:
        """As `command`, in asyncio."""
        await self._connected()
        return await self.start_command(command, userdir, **options).finished()

    def session(
        self,
        userdir: PathText | None = None,
        api: Functions | None = None,
        *,
        idle: float | None = 600.0,
        **options: Unpack[Options],
    ) -> Session:
        """An interpreter that is kept. `idle`: it ends when it was not used for so many seconds."""
        from ._session import Session

        return Session(self, userdir, api, idle, options)

    async def _connected(self) -> None:
        if not self._pool.is_connected:
            import asyncio

            await asyncio.get_running_loop().run_in_executor(None, self._pool.connect)

    def _begin(
        self,
        code: Code | None,
        command: list[str] | None,
        userdir: PathText | None,
        api: Functions | None,
        options: Options,
        session: bool = False,
    ) -> Run:
        """Sends what is to be run."""
        _check(options, _OPTIONS, "a run")
        if self._closed:
            raise Closed("this sandbox is closed")
        asked: dict[str, Any] = {}
        task: dict[str, Any] = {}
        handed = None
        if api or session:
            from ._functions import Handed

            handed = Handed(api or {}, options.get("approve"))
            task["functions"] = handed.listed()
        folder = None if userdir is None else _absolute(userdir)
        files = _Files(folder, options)
        with _Descriptors() as extra:
            if command is None:
                task["value"] = True
                if session:
                    task["session"] = asked["session"] = True
                _code(code or "", task, extra)
                asked["task"] = task
            else:
                asked["command"] = command
            _describe(asked, task, folder, options, extra)
            files.put()
            return self._sent(asked, extra, handed, files, options, command is None)

    def _sent(
        self, asked: dict[str, Any], extra: _Descriptors, handed: Any, files: _Files, options: Options, told: bool
    ) -> Run:
        output = size(options["output"]) if "output" in options else self._output
        if not self._pool.owned:
            # The manifest may allow less than is known here.
            asked.setdefault("limits", {})["output"] = output
        channels = self._channels()
        api = its_api = None
        try:
            names = ["run", "stdout", "stderr"]
            fds = [channels.its_run.fileno(), channels.its_stdout, channels.its_stderr]
            if told:
                api, its_api = self._api_ends()
                names.append("api")
                fds.append(its_api.fileno())
            asked["fds"] = names + extra.names
            serving = None
            if handed is not None and api is not None:
                from ._serving import Serving

                serving = Serving(api, handed)
            self._pool.send(_as_json({"run": asked}).encode(), fds + extra.fds)
        except BaseException:
            channels.close()
            if api is not None:
                api.close()
            raise
        finally:
            channels.given()
            if its_api is not None:
                its_api.close()
        run = Run(channels, api, serving, output, options.get("on_output"), files.end, self._lost)
        # While the run begins there is time for this.
        if len(self._spare) < _SPARE:
            self._spare.append(Channels())
            self._spare_api.append(_api_ends())
        return run

    def _channels(self) -> Channels:
        try:
            return self._spare.popleft()
        except IndexError:
            return Channels()

    def _api_ends(self) -> tuple[Any, Any]:
        try:
            return self._spare_api.popleft()
        except IndexError:
            return _api_ends()

    def _close_spare(self) -> None:
        while self._spare:
            channels = self._spare.pop()
            channels.given()
            channels.close()
        while self._spare_api:
            for end in self._spare_api.pop():
                end.close()

    def _forget(self) -> None:
        # These are copies of the parent's, who goes on with its own.
        self._close_spare()
        self._pool.forget()


def _api_ends() -> tuple[Any, Any]:
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


_all: weakref.WeakSet[Sandbox] = weakref.WeakSet()


def _forget_all() -> None:
    for sandbox in list(_all):
        sandbox._forget()


os.register_at_fork(after_in_child=_forget_all)


class _Descriptors:
    """What goes along with a run beside its connections. They are closed here when it was sent."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.fds: list[int] = []
        self._own: list[int] = []

    def add(self, name: str, fd: int, own: bool) -> None:
        self.names.append(name)
        self.fds.append(fd)
        if own:
            self._own.append(fd)

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._own:
            os.close(fd)


class _Files:
    """Files that go in and out."""

    def __init__(self, folder: str | None, options: Options) -> None:
        self._folder = folder
        self._put: Mapping[str, Code] = options.get("put") or {}
        self._get = options.get("get") or ()
        if (self._put or self._get) and folder is None:
            raise ValueError("files are put into `userdir` and got out of it: name one")

    def put(self) -> None:
        for path, data in self._put.items():
            _userdir.put(self._folder or "", path, data)

    def end(self, _run: Run, result: Result) -> None:
        """Takes out what is there."""
        for path in self._get:
            try:
                result.files[path] = _userdir.get(self._folder or "", path)
            except OSError:
                pass  # it was not made, or is nothing that is taken


def _code(code: Code, task: dict[str, Any], extra: _Descriptors) -> None:
    """Adds the code: in the task where it is short, else in a file of memory."""
    if isinstance(code, str):
        if len(code) <= _SHORT:
            try:
                code.encode()
                task["code"] = code
                return
            except UnicodeEncodeError:
                pass  # it has halves of characters, which JSON has not; the interpreter says what is wrong
        task["source"] = "text"
        code = code.encode("utf-8", "surrogatepass")
    elif not isinstance(code, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"code is text or bytes, not {type(code).__name__}")
    else:
        task["source"] = "bytes"
    extra.add("code", _memory("pysecure-code", code), True)


def _describe(
    asked: dict[str, Any], task: dict[str, Any], folder: str | None, options: Options, extra: _Descriptors
) -> None:
    """Adds what else there is to say of a run, if anything."""
    if folder is not None:
        asked["userdir"] = folder
    if not options:
        return
    limits = _limits(options)
    if limits:
        asked["limits"] = limits
    environment, arguments = options.get("environment"), [str(each) for each in options.get("arguments") or ()]
    if environment:
        asked["environment"] = {str(name): str(value) for name, value in environment.items()}
    if arguments:
        if "command" in asked:
            asked["command"] += arguments
        else:
            task["arguments"] = arguments
    readable = [_absolute(path) for path in options.get("readable") or ()]
    if readable:
        asked["readable"] = readable
    for flag in ("overlay", "explain"):
        if options.get(flag):
            asked[flag] = True
    stdin: Any = options.get("stdin")
    if stdin is None:
        return
    if isinstance(stdin, str):
        stdin = stdin.encode()
    if isinstance(stdin, (bytes, bytearray, memoryview)):
        extra.add("stdin", _memory("pysecure-stdin", stdin), True)
    else:
        extra.add("stdin", stdin if isinstance(stdin, int) else stdin.fileno(), False)


def _absolute(path: PathText) -> str:
    found: str = os.path.abspath(os.fspath(path))
    return found


def _memory(name: str, data: Any) -> int:
    """A file of memory with this in it, which nobody can change."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, 1033, 1 | 2 | 4 | 8)  # F_ADD_SEALS: SEAL, SHRINK, GROW, WRITE
    return fd


def _profile(name: str | None, given: Profile) -> dict[str, Any]:
    """The profile of a pool of this program's own."""
    profile: dict[str, Any] = {"name": name or "sandbox"}
    for key in ("isolation", "after_fork", "ready", "at_once", "warm", "jail"):
        value = given.get(key)
        if value is not None:
            profile[key] = value
    preload = list(given.get("preload") or ())
    if preload:
        profile["preload"] = preload
    readable = [_absolute(path) for path in given.get("readable") or ()]
    python = given.get("python") or _own_python()
    if python is not None:
        profile["python"] = python
        if "python" not in given:
            readable.append(sys.base_prefix)
    packages = given.get("packages")
    paths = _own_packages() if packages is None else [_absolute(path) for path in packages]
    if paths:
        profile["paths"] = paths
    if readable:
        profile["readable"] = readable
    limits = _limits(given)
    if limits:
        profile["limits"] = limits
    return profile


def _own_python() -> str | None:
    """This interpreter; None if it is the one that the sandbox has anyway."""
    own = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    return None if own == os.path.realpath("/usr/bin/python3") else own


def _own_packages() -> list[str]:
    """The folders of packages that this interpreter has beside its own."""
    return [
        path
        for path in sys.path
        if os.path.basename(path) in ("site-packages", "dist-packages") and os.path.isdir(path)
    ]


# The original's call.

_default: dict[str | None, Sandbox] = {}
_default_lock = threading.Lock()
#: Languages whose interpreters read a program from standard input.
_LANGUAGES = {
    "sh": ["sh", "-s"], "bash": ["bash", "-s"], "javascript": ["node", "-"], "perl": ["perl", "-"], "ruby": ["ruby", "-"],
}  # fmt: skip


def run_sandboxed_code(
    pcode: Code,
    userdir: PathText | None = None,
    api: Functions | None = None,
    *,
    profile: str | None = None,
    language: str = "python",
    command: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> str:
    """Runs a user's code, jailed in that user's directory and able to call only the functions in `api`, and returns what it printed.

    That is its standard output. What went wrong, with its traceback, is on standard error, which `Sandbox.run` has beside much else.
    `profile`: a sandbox of the manifest. `command`: this program runs, with the code on its standard input; `language` names a usual one.
    """
    sandbox = _shared(profile)
    if command is None and language != "python":
        if language not in _LANGUAGES:
            raise ValueError(f"no language {language!r}: there are python, {', '.join(sorted(_LANGUAGES))}; or give a command")
        command = _LANGUAGES[language]
    if command is None:
        return sandbox.run(pcode, userdir, api, **options).stdout
    if api or options.get("stdin") is not None:
        raise ValueError("a command reads the code from its standard input, and calls no functions: leave out `api` and `stdin`")
    options["stdin"] = pcode
    return sandbox.command(command, userdir, **options).stdout


def _shared(name: str | None) -> Sandbox:
    """The sandbox of this process for whoever makes none."""
    with _default_lock:
        sandbox = _default.get(name)
        if sandbox is None:
            path = granted(name)
            of = name if name is not None or path is None else os.path.basename(path)[: -len(".sock")]
            sandbox = _default[name] = Sandbox(of)
            if len(_default) == 1:
                import atexit

                atexit.register(_close_shared)
        return sandbox


def _close_shared() -> None:
    for sandbox in _default.values():
        sandbox.close()


