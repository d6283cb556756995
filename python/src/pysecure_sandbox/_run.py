"""One run, from the message that asks for it to its result.

Whoever waits for it does all the work, in one thread: reads what it prints, serves its functions, and hears how it ended. When the pool
says that it has ended, nothing of it goes on, so all that it wrote lies in the pipes.
"""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import _socket
import json
import os
import select
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable

from pysecure_rpc._codec import PeerArea
from pysecure_rpc._errors import ProtocolError

from . import _result
from ._errors import Closed, Refused, SandboxError

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import AsyncIterator, Iterator

    from ._result import Result
    from ._serving import Serving

    #: Is called with "stdout" or "stderr" and what was printed there.
    OnOutput = Callable[[str, str], Any]

_PIECE = 65_536
#: A message of the pool's, with all that was denied.
_EVENT = 1 << 20
#: For so many milliseconds a run whose output nobody waits for may fill its pipes, before they are looked at. Most runs are over by then,
#: and have woken this program once.
_PATIENCE = 5


class Channels:
    """What a run is connected by: this program's ends, and those that it is given."""

    __slots__ = ("run", "its_run", "stdout", "its_stdout", "stderr", "its_stderr")

    def __init__(self) -> None:
        self.run, self.its_run = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.stdout, self.its_stdout = os.pipe()
        self.stderr, self.its_stderr = os.pipe()
        os.set_blocking(self.stdout, False)
        os.set_blocking(self.stderr, False)

    def given(self) -> None:
        """They are the run's now."""
        self.its_run.close()
        os.close(self.its_stdout)
        os.close(self.its_stderr)

    def close(self) -> None:
        """Closes this program's ends."""
        self.run.close()
        os.close(self.stdout)
        os.close(self.stderr)


class Run:
    """A run that was asked for. `wait()` brings its result; until somebody waits, its functions are not served.

    Iterating over it brings what it prints, as it comes: `for stream, text in run: …`, or `async for`.
    """

    def __init__(
        self,
        channels: Channels,
        api: socket.socket | None,
        serving: Serving | None,
        output: int,
        on_output: OnOutput | None,
        end: Callable[[Run, Result], None],
        closed: Callable[[], bool],
    ) -> None:
        self._channels: Channels | None = channels
        self._sock = channels.run
        self._api = api
        self._serving = serving
        self._output = output
        self._on_output = on_output
        self._end = end
        self._sandbox_closed = closed
        self._printed: tuple[list[bytes], list[bytes]] = ([], [])
        self._room = output
        self._over = False
        self._event: dict[str, Any] | None = None
        self._result: Result | None = None
        self._poll: select.poll | None = None
        self._decoders: Any = None
        self._pieces: deque[tuple[str, str]] | None = None
        self._wake = -1
        #: What of the functions' socket.
        self._waited_for = 0
        #: The id that it has, once it is known.
        self.uid: int | None = None

    # What a program can do.

    def wait(self, timeout: float | None = None) -> Result:
        """Waits for its end. TimeoutError if that does not come in so many seconds; the run goes on then."""
        end = None if timeout is None else monotonic() + timeout
        if self._result is None and self._channels is None:
            raise Closed("the run was closed")
        if self._poll is None and self._result is None and end is None and self._on_output is None:
            self._wait_briefly()
        while self._result is None:
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("the run has not ended yet")
            self._turn(left)
        return self._result

    def kill(self) -> None:
        """Ends it. Its result says `limit = "stopped"`."""
        self._order({"kill": "stopped"})

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt in its code."""
        self._order({"interrupt": True})

    @property
    def ended(self) -> bool:
        return self._result is not None

    def close(self) -> None:
        """Gives it up: what still runs of it is killed."""
        channels, self._channels = self._channels, None
        if self._serving is not None:
            self._serving.close()
        elif self._api is not None:
            self._api.close()
        self._api = None
        if channels is not None:
            channels.close()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError, TypeError):
            pass

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self._pieces = deque()
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self._result is not None:
                return
            self._turn(None)

    # Waiting in this thread.

    def _wait_briefly(self) -> None:
        """Waits for what has to be answered, and not for output: most runs end without filling a pipe."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        serving = self._serving
        if serving is not None:
            if serving.has_coroutines:
                return  # another thread may want to wake this one
            poll.register(serving.fd, select.POLLIN)
        end = monotonic() + _PATIENCE / 1000
        while self._result is None and (left := end - monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                if serving is not None and fd == serving.fd:
                    serving.arrived()
                    if serving.fd < 0 or serving.connections.events != select.POLLIN:
                        return
                elif self._result is None:
                    self._hear()

    def _turn(self, seconds: float | None) -> None:
        """Waits for something, and does what it asks for."""
        poll = self._poll or self._polled()
        serving = self._serving
        if serving is not None and serving.connections.events != self._waited_for and serving.fd >= 0:
            self._waited_for = serving.connections.events
            poll.register(serving.fd, self._waited_for)
        channels = self._channels
        if channels is None:
            raise Closed("the run was closed")
        for fd, event in poll.poll(None if seconds is None else seconds * 1000):
            if fd == self._wake:
                os.eventfd_read(fd)
            elif fd == channels.stdout or fd == channels.stderr:
                if not self._read(fd, fd == channels.stderr):
                    poll.unregister(fd)
            elif serving is not None and fd == serving.fd:
                if event & select.POLLOUT:
                    serving.writable()
                else:
                    serving.arrived()
                if serving.fd < 0:
                    poll.unregister(fd)
            elif self._result is None and fd == self._sock.fileno():
                self._hear()
            if self._result is not None:
                return

    def _polled(self) -> select.poll:
        channels = self._channels
        if channels is None:
            raise Closed("the run was closed")
        poll = self._poll = select.poll()
        for fd in (self._sock.fileno(), channels.stdout, channels.stderr):
            poll.register(fd, select.POLLIN)
        if self._serving is not None and self._serving.has_coroutines:
            # They run in another thread, which says so when an answer has to wait.
            self._wake = wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._serving.wake_by(lambda: os.eventfd_write(wake, 1))
            poll.register(wake, select.POLLIN)
        return poll

    # What comes of it.

    def _hear(self) -> None:
        """Takes a message of the pool's."""
        try:
            try:
                said = self._sock.recv(_EVENT)
            except ConnectionResetError:
                # It had let go of this run before it read an order, which is told first. What it said before comes after.
                said = self._sock.recv(_EVENT)
        except OSError:
            said = b""
        if not said:
            self.close()
            if self._sandbox_closed():
                raise Closed("the sandbox was closed before the run had ended")
            raise SandboxError("the pool of sandboxes ended before the run did")
        event: dict[str, Any] = json.loads(said.decode())
        what = event.get("event")
        if what == "started":
            self.uid = event.get("uid")
        elif what == "output":
            self._hold_to(event["bytes"])
        elif what == "refused":
            self.close()
            raise Refused(str(event.get("error") or "the run was refused"))
        elif what == "ended":
            self._ended(event)

    def _hold_to(self, most: int) -> None:
        """The manifest lets it print less than this program does."""
        if most < self._output:
            self._room = max(0, self._room - (self._output - most))
            self._output = most

    def _ended(self, event: dict[str, Any]) -> None:
        channels = self._channels
        if channels is None:
            raise Closed("the run was closed")
        for fd, is_stderr in ((channels.stdout, False), (channels.stderr, True)):
            while self._read(fd, is_stderr, at_end=True):
                pass
        self._flush_decoders()
        stdout, stderr = self._printed
        result = _result.from_event(event, b"".join(stdout), b"".join(stderr))
        if self._over and result.limit is None:
            result.limit = "output"
        _result.told(result, self._said())
        if event.get("changes") is not None:
            result._settle = _Settling(self._kept(channels))
        self._end(self, result)
        self._result = result
        self.close()

    def _said(self) -> dict[Any, Any] | None:
        """What the sandbox said of its end."""
        if self._serving is not None:
            self._serving.at_end()
            return self._serving.outcome
        if self._api is None:
            return None
        from ._serving import outcome, read

        area = PeerArea()
        said = None
        while True:
            try:
                data, fds = read(self._api)
            except (OSError, ProtocolError):
                return said
            if not data:
                return said
            said = outcome(data, fds, area) or said

    def _kept(self, channels: Channels) -> _socket.socket:
        """The connection to the pool, which an overlay still needs."""
        return _socket.socket(fileno=os.dup(channels.run.fileno()))

    def _read(self, fd: int, is_stderr: bool, at_end: bool = False) -> bool:
        """Takes what was printed. False if there is no more."""
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return not at_end
        except OSError:
            return False
        if not data:
            return False
        whole = len(data) < _PIECE
        if len(data) > self._room:
            data = data[: self._room]
            if not self._over:
                self._over = True
                self._order({"kill": "output"})
        self._room -= len(data)
        if data:
            self._printed[is_stderr].append(data)
            if self._on_output is not None or self._pieces is not None:
                self._tell(is_stderr, data)
        # Nobody writes any more at the end: where there was less than asked for, that was all.
        return not (at_end and whole)

    def _tell(self, is_stderr: bool, data: bytes, final: bool = False) -> None:
        if self._decoders is None:
            import codecs

            decoder = codecs.getincrementaldecoder("utf-8")
            self._decoders = (decoder("replace"), decoder("replace"))
        text: str = self._decoders[is_stderr].decode(data, final)
        if not text:
            return
        stream = "stderr" if is_stderr else "stdout"
        if self._on_output is not None:
            self._on_output(stream, text)
        if self._pieces is not None:
            self._pieces.append((stream, text))

    def _flush_decoders(self) -> None:
        if self._decoders is not None:
            for is_stderr in (False, True):
                self._tell(is_stderr, b"", final=True)

    def printed(self) -> tuple[bytes, bytes]:
        """What it has printed since this was last asked; there is room for as much again."""
        channels = self._channels
        if channels is not None:
            for fd, is_stderr in ((channels.stdout, False), (channels.stderr, True)):
                while self._read(fd, is_stderr, at_end=True):
                    pass
        stdout, stderr = self._printed
        self._printed = ([], [])
        self._room = self._output
        return b"".join(stdout), b"".join(stderr)

    def _order(self, order: dict[str, Any]) -> None:
        try:
            self._sock.send(json.dumps(order).encode())
        except OSError:
            pass  # it has ended already

    # Waiting in asyncio.

    async def finished(self) -> Result:
        """As `wait()`, in asyncio. Where it is cancelled, the run is killed."""
        async for _ in self._events(False):
            pass
        if self._result is None:
            raise Closed("the run was closed")
        return self._result

    def __aiter__(self) -> AsyncIterator[tuple[str, str]]:
        self._pieces = deque()
        return self._events(True)

    async def _events(self, wanted: bool) -> AsyncIterator[tuple[str, str]]:
        import asyncio

        watch = _Watch(self, asyncio.get_running_loop())
        try:
            while self._result is None or self._pieces:
                while wanted and self._pieces:
                    yield self._pieces.popleft()
                if self._result is None:
                    await watch.happened()
        except BaseException:
            self.close()
            raise
        finally:
            watch.close()


class _Watch:
    """A run's descriptors in an event loop."""

    def __init__(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        self._run = run
        self._loop = loop
        self._woken: asyncio.Future[None] = loop.create_future()
        self._writes = False
        self._fds: set[int] = set()
        channels, serving = run._channels, run._serving
        if channels is None:
            return
        self._serving = serving
        self._watch(channels.stdout, lambda: self._printed(channels.stdout, False))
        self._watch(channels.stderr, lambda: self._printed(channels.stderr, True))
        self._watch(run._sock.fileno(), run._hear)
        if serving is not None:
            serving.in_loop(loop)
            self._api = serving.fd
            self._watch(self._api, self._asked)
            serving.wake_by(self._wake)
            serving.connections.closing = self._unwatch_api

    async def happened(self) -> None:
        """Waits until something has."""
        await self._woken
        self._woken = self._loop.create_future()

    def close(self) -> None:
        serving = self._run._serving
        if serving is not None:
            self._unwatch_api()
            serving.connections.changed = serving.connections.closing = None
        for fd in list(self._fds):
            self._forget(fd)

    def _unwatch_api(self) -> None:
        self._forget(self._api)
        if self._writes:
            self._writes = False
            self._loop.remove_writer(self._api)

    def _watch(self, fd: int, do: Callable[[], None]) -> None:
        self._fds.add(fd)
        self._loop.add_reader(fd, self._do, do)

    def _forget(self, fd: int) -> None:
        if fd in self._fds:
            self._fds.discard(fd)
            self._loop.remove_reader(fd)

    def _do(self, do: Callable[[], None]) -> None:
        try:
            do()
        except BaseException as error:
            if not self._woken.done():
                self._woken.set_exception(error)
        else:
            if not self._woken.done():
                self._woken.set_result(None)
        if self._run._channels is None:  # it has ended, and its descriptors with it
            for fd in list(self._fds):
                self._forget(fd)

    def _printed(self, fd: int, is_stderr: bool) -> None:
        if not self._run._read(fd, is_stderr):
            self._forget(fd)

    def _asked(self) -> None:
        serving = self._run._serving
        if serving is not None:
            serving.arrived()

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(self._changed)

    def _changed(self) -> None:
        """The functions' answers wait for the sandbox to read, or do so no longer."""
        serving = self._run._serving
        writes = serving is not None and serving.fd >= 0 and serving.connections.events == select.POLLOUT
        if writes and not self._writes and serving is not None:
            self._loop.add_writer(self._api, self._do, serving.writable)
        elif self._writes and not writes:
            self._loop.remove_writer(self._api)
        self._writes = writes


class _Settling:
    """Ends an overlay, by the connection that its run had."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock

    def __call__(self, how: str) -> None:
        with_answer = b""
        try:
            self._sock.send(json.dumps({how: True}).encode())
            with_answer = self._sock.recv(_EVENT)
        except OSError:
            pass
        finally:
            self._sock.close()
        answer: dict[str, Any] = json.loads(with_answer) if with_answer else {}
        if answer.get("event") not in ("committed", "discarded"):
            raise SandboxError(f"cannot {how} the changes: {answer.get('error') or 'the pool has ended'}")
