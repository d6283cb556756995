"""What an interpreter in a sandbox is asked for: one task, or the cells of a session, with the functions of the calling program.

The warm interpreter imports this once, before it forks: all that it needs is imported here. The child, confined already, calls
`serve`, which does only what has to be new in each run. Nothing here protects anything: what holds the code is outside.
"""
# What begins with _ is private to these packages.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import _socket
import json
import os
import socket
import sys
from array import array
from functools import partial
from typing import Any, NoReturn

from pysecure_rpc import _messages
from pysecure_rpc._codec import seal
from pysecure_rpc._connection import receive

from . import _program
from ._calling import Calling, belongs_here, functions
from ._program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
else:
    import _signal  # all of `signal` but its enumerations

_RESULT, _CELL = "pysecure.result", "pysecure.cell"


def serve(control: socket.socket, restrict: Callable[[list[int]], None] | None) -> NoReturn:
    """Runs what `control` asks for, and ends this process. `restrict` comes before, and takes of the descriptors what is its own."""
    data, fds = receive(control, 0)
    if not data:
        os._exit(0)  # nobody needs it any more
    if restrict is not None:
        restrict(fds)
    answer(control, json.loads(data), fds)


def answer(control: Any, asked: dict[str, Any], fds: list[int]) -> NoReturn:
    """Runs what was asked for, and ends this process."""
    run = _prepared(asked, fds)
    _program.bound(asked)
    status = run.session() if asked["task"].get("session") else run.once()
    _program.leave(control, run.program, status)


def _prepared(asked: dict[str, Any], fds: list[int]) -> _Run:
    """All that comes before the code."""
    task: dict[str, Any] = asked["task"]
    given = dict(zip(asked["fds"], fds))
    source = _program.source_of(task, given)
    _program.place(given)
    _program.surround(asked, task)
    return _Run(task, source, given.get("api"))


def rehearse() -> None:
    """Does once what each run does, so that the memory that this writes to is a copy's own before its run begins."""
    main, argv, home = sys.modules["__main__"], sys.argv, os.environ.get("HOME")
    try:
        handler = _signal.getsignal(_signal.SIGINT)
        pairs: list[tuple[Any, Any]] = [_socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET) for _ in range(2)]
    except OSError:
        return
    (pool, control), (api, its_api) = pairs
    try:
        rights = array("i", [1, 2, its_api.fileno()])
        pool.sendmsg([_REHEARSAL], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        for message in (_messages.hello("api", None, {}), _messages.ok(1, 1)):
            api.send(seal(message).data)
        data, fds = receive(control, 0)
        asked = json.loads(data)
        run = _prepared(asked, fds)
        sys.path.pop(0)
        _program.bound(asked)
        run.rehearse()
        control.send(_program.done(0, None))
        _program.used_before[:] = [os.getpid(), _program.used_memory()]
    finally:
        for pair in pairs:
            for end in pair:
                end.close()
        sys.modules["__main__"], sys.argv = main, argv
        if home is not None:
            os.environ["HOME"] = home
        _signal.signal(_signal.SIGINT, handler)


#: A task that calls a function, of which the answer is there before it is asked, and ends with an expression.
_REHEARSAL = (
    b'{"task":{"code":"x = [1]\\ndef g(): return x\\nprint(end=\'\')\\nf(1)","functions":[["f",0]],"value":true},'
    b'"fds":["stdout","stderr","api"],"directory":"/","environment":{},"rlimits":[],"memory":null}'
)

def renew() -> None:
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


def _seqpacket(fd: int) -> Any:
    """A socket whose kind is known, and need not be asked for."""
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)


class _Run:
    """One task."""

    def __init__(self, task: dict[str, Any], source: Any, api: int | None) -> None:
        self._task = task
        self._source = source
        self._calling = None if api is None else Calling(_seqpacket(api))
        named = {}
        if self._calling is not None:
            belongs_here(self._calling)
            named = functions(self._calling, task.get("functions") or [])
        self.program = Program(task.get("name") or "<code>", named)

    def rehearse(self) -> None:
        """All of `once`, but for what happens at an interpreter's end."""
        outcome = self.program.run(self._source, True)
        if self._calling is not None:
            self._told(outcome, partial(self._calling.tell, _RESULT))
            self._calling.close()
        _program.flush()

    def once(self) -> int:
        """Runs the code, and is over."""
        outcome = self.program.run(self._source, bool(self._task.get("value")))
        status = _program.finish(int(outcome.pop("exit", 0)))
        calling = self._calling
        if outcome and calling is not None and os.getpid() == self.program.process:
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
                return _program.finish(0)
            number += 1
            outcome = self.program.run(cell, True, f"<cell {number}>")
            _program.flush()
            if os.getpid() != self.program.process:
                return int(outcome.get("exit", 0))

    def _told(self, outcome: dict[str, Any], tell: Any) -> Any:
        """Tells an outcome; of a value that cannot cross, its text."""
        try:
            return tell(outcome)
        except (TypeError, ValueError, RecursionError):
            if "value" not in outcome:
                raise
            value = outcome.pop("value")
            outcome["text"] = _program.text_of(value)
            return tell(outcome)

def _next_cell(calling: Calling, outcome: dict[str, Any]) -> Any:
    return calling.call(_CELL, [outcome], {})
