"""An interpreter that is kept: cells run in it one after another, and find what those before them left."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import heapq
import os
import shutil
import tempfile
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any

from . import _userdir
from ._errors import Closed, SandboxError
from ._result import Result, told

if TYPE_CHECKING:
    from ._functions import Functions
    from ._run import Run
    from ._sandbox import Code, Options, Sandbox
    from ._userdir import PathText

#: After an interrupt a cell has so many seconds to end by itself.
_GRACE = 1.0


class Session:
    """A session of a sandbox. One cell runs at a time; many sessions run at once."""

    def __init__(
        self, sandbox: Sandbox, userdir: PathText | None, api: Functions | None, idle: float | None, options: Options
    ) -> None:
        self._temporary = tempfile.mkdtemp(prefix="pysecure-session-") if userdir is None else None
        self.userdir: PathText = self._temporary or userdir or ""
        self._idle = idle
        self._lock = threading.Lock()
        self._running = False
        self._used = monotonic()
        self._files: dict[str, tuple[int, int, int]] = {}
        #: Why it is over, and what it came to.
        self._over: str | None = None
        self._last: Result | None = None
        try:
            self._run: Run = sandbox._begin(None, None, self.userdir, api, options, session=True)
        except BaseException:
            self._clean()
            raise
        if idle is not None:
            _idle.add(self, self._used + idle)

    def run(self, cell: Code, *, wall: float | None = None) -> Result:
        """Runs a cell. `wall`: after so many seconds it is interrupted, and the session ended if that does not help."""
        with self._lock:
            self._check()
            self._running = True
            try:
                return self._cell(cell, None if wall is None else monotonic() + wall)
            except BaseException as error:
                if not isinstance(error, SandboxError):
                    self._end(f"a cell was given up: {type(error).__name__}")
                raise
            finally:
                self._running = False
                self._used = monotonic()

    async def arun(self, cell: Code, *, wall: float | None = None) -> Result:
        """As `run`, in a thread of the event loop's; its functions run there as well. Cancelled, the session ends."""
        import asyncio

        work = asyncio.get_running_loop().run_in_executor(None, lambda: self.run(cell, wall=wall))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self.kill()
            raise

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt in the cell that runs; the session goes on."""
        self._run.interrupt()

    def kill(self) -> None:
        """Ends it at once, and with it the cell that runs."""
        self._run.kill()

    def put(self, path: PathText, data: Code) -> None:
        """Writes a file into its folder."""
        _userdir.put(self.userdir, path, data)

    def get(self, path: PathText, most: int | None = None) -> bytes:
        """Reads a file of its folder."""
        return _userdir.get(self.userdir, path, most)

    @property
    def ended(self) -> bool:
        return self._over is not None

    def close(self) -> None:
        """Ends it, and removes its folder if that is its own."""
        if self._running:
            self.kill()
        with self._lock:
            self._end("it was closed")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._over is not None:
            error = Closed(f"the session has ended: {self._over}")
            error.result = self._last
            raise error

    def _cell(self, cell: Code, until: float | None) -> Result:
        serving = self._run._serving
        if serving is None:
            raise Closed("the session has ended")
        if not self._waits():  # it is only just beginning
            return self._died()
        if not self._files:
            self._files = _userdir.listed(self.userdir)
        serving.outcome = None
        serving.answer_cell(cell)
        if not self._waits(until):
            return self._died()
        stdout, stderr = self._run.printed()
        result = Result(stdout, stderr, exit=0)
        outcome = serving.outcome
        told(result, outcome)
        code: Any = None if outcome is None else outcome.get("exit")
        if type(code) is int:
            result.exit = code & 0xFF
        result.made = self._made()
        return result

    def _waits(self, until: float | None = None) -> bool:
        """Waits until the session wants its next cell. False if it has ended."""
        run, serving = self._run, self._run._serving
        interrupted = False
        while serving is not None and serving.waiting is None:
            if run.ended:
                return False
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                if interrupted:
                    run._order({"kill": "wall"})
                    until = None
                else:
                    run.interrupt()
                    interrupted, until = True, monotonic() + _GRACE
                continue
            run._turn(left)
        return not run.ended

    def _made(self) -> list[str]:
        """Files that are new or changed since the last cell."""
        before, self._files = self._files, _userdir.listed(self.userdir)
        return sorted(path for path, found in self._files.items() if before.get(path) != found)

    def _died(self) -> Result:
        """The session ended in this cell: its result is the cell's."""
        result = self._last = self._run.wait()
        why = f"its limit `{result.limit}`" if result.limit else "its code ended it"
        self._end(why)
        return result

    def _end(self, why: str) -> None:
        if self._over is None:
            self._over = why
            self._run.close()
            self._clean()

    def _clean(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _end_if_idle(self, now: float) -> float | None:
        """Ends it if nobody has used it for long. When to ask again."""
        idle = self._idle
        if idle is None or self._over is not None:
            return None
        if self._running or now < self._used + idle:
            return max(self._used + idle, now + min(idle, 0.1))
        if not self._lock.acquire(blocking=False):
            return now + 0.1
        try:
            if now >= self._used + idle:
                self._end(f"nobody used it for {idle:g} s")
        finally:
            self._lock.release()
        return None


class _Idle:
    """Ends sessions that nobody uses, in one thread for all of them, which is there while there are any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, weakref.ref[Session]]] = []
        self._number = 0
        self._runs = False

    def add(self, session: Session, at: float) -> None:
        with self._changed:
            self._number += 1
            heapq.heappush(self._waiting, (at, self._number, weakref.ref(session)))
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._watch, name="pysecure-sandbox-idle", daemon=True).start()
            self._changed.notify()

    def forget(self) -> None:
        """In a child of this process, in which no thread watches."""
        self.__init__()  # type: ignore[misc]

    def _watch(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._runs = False
                    return
                at, _, session = self._waiting[0]
                now = monotonic()
                if at > now:
                    self._changed.wait(at - now)
                    continue
                heapq.heappop(self._waiting)
            found = session()
            again = None if found is None else found._end_if_idle(monotonic())
            if found is not None and again is not None:
                self.add(found, again)
            del found


_idle = _Idle()
os.register_at_fork(after_in_child=lambda: _idle.forget())
