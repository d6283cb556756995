"""What the compiled core has beside the wire, in plain Python: calls that are open and those that wait, who of a
service's threads leads, and the fields of a connection. Both have the same names and the same meaning; see core/src.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from ._context import Context
from ._wire import Area, PeerArea

if TYPE_CHECKING:
    from ._function import Function

#: The page of figures, in words of 8 bytes: what comes before the slots, and a slot; in a slot.
_HEAD, _SLOT = 2, 40
_CALLS, _ERRORS, _DENIED, _TIME, _BUCKETS = 8, 9, 10, 11, 12
_LAST_BUCKET = _SLOT - _BUCKETS - 1


class ClientConn:
    """What of a caller's connection the fast path needs."""

    __slots__ = ("fd", "next_id", "limit", "functions", "out_area", "peer_area")
    fd: int
    next_id: int
    limit: float

    def __init__(self) -> None:
        self.fd = -1
        self.next_id = 1
        #: What SO_RCVTIMEO is set to; 0 is no end.
        self.limit = 0.0
        self.functions: dict[str, int] = {}
        self.out_area = Area()
        self.peer_area = PeerArea()


class Call(Context):
    """A call that is open, and what the running function can ask of it."""

    __slots__ = ("id", "function", "args", "kwargs", "connection", "stream", "credit", "pumping", "begun", "task",
                 "wake", "answered", "cost")  # fmt: skip

    def __init__(
        self,
        connection: Any,
        identity: int,
        function: Function,
        deadline: float | None,
        trace: str | None,
        credit: int,
    ) -> None:
        self.caller = connection.caller
        self.deadline = deadline
        self.traceparent = trace
        self.cancelled = False
        self.connection = connection
        self.id = identity
        self.function = function
        self.args: Any = None
        self.kwargs: Any = None
        self.stream: Any = None
        self.credit = credit
        self.pumping = False
        self.begun = 0.0
        self.task: Any = None
        self.wake: Any = None
        self.answered = False
        #: What its arguments take of memory, about, if that counts.
        self.cost = 0


class Counters:
    """The numbers of the page of figures (docs/reference/rpc-protocol.md, "Figures"), which is a memfd. Whoever counts holds a lock."""

    __slots__ = ("_words",)

    def __init__(self, fd: int) -> None:
        # Words of the machine, whose order is little-endian wherever PySecure runs.
        self._words = memoryview(mmap.mmap(fd, 0)).cast("Q")

    def ended(self, slot: int, seconds: float, failed: bool) -> None:
        """A call has ended."""
        at = _HEAD + slot * _SLOT
        words = self._words
        words[at + _CALLS] += 1
        if failed:
            words[at + _ERRORS] += 1
        words[at + _TIME] += int(seconds * 1e9)
        bucket = int(seconds * 1e6).bit_length()
        words[at + _BUCKETS + (bucket if bucket < _LAST_BUCKET else _LAST_BUCKET)] += 1

    def denied(self, slot: int) -> None:
        """A caller was refused it."""
        self._words[_HEAD + slot * _SLOT + _DENIED] += 1

    def read(self, slot: int) -> list[int]:
        """Calls, errors, refusals, nanoseconds, and the buckets."""
        at = _HEAD + slot * _SLOT
        return list(self._words[at + _CALLS : at + _SLOT])


class Admission:
    """How many calls run, and those that wait because as many run as may. No caller has all threads while others have none,
    and each has a queue of its own: whose turn it is goes round."""

    __slots__ = ("running", "stopping", "_limit", "_waits", "_queues", "_runs", "_idle", "_turn", "_lock")

    def __init__(self, limit: int, waits: int) -> None:
        self.running = 0
        self.stopping = False
        self._limit = limit
        #: For each caller.
        self._waits = waits
        self._queues: list[deque[tuple[Call, Callable[[Call], None]]]] = []
        self._runs: list[int] = []
        #: How many callers have nothing that runs, and whose turn is next.
        self._idle = self._turn = 0
        self._lock = threading.Lock()

    def caller(self) -> int:
        """One more caller: its number."""
        self._queues.append(deque())
        self._runs.append(0)
        self._idle += 1
        return len(self._runs) - 1

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues))

    def _may_run(self, caller: int) -> bool:
        # For each caller that has none a thread is left, but of all no more than half.
        kept = min(self._idle, self._limit // 2) if self._runs[caller] else 0
        return self.running + kept < self._limit

    def _begins(self, caller: int) -> None:
        self.running += 1
        if not self._runs[caller]:
            self._idle -= 1
        self._runs[caller] += 1

    def enter(self, call: Call, work: Callable[[Call], None], always: bool, caller: int) -> str:
        """"run", "wait", or why not: "stopping", "busy". `always`: it was admitted before, and waits whatever waits."""
        with self._lock:
            if self.stopping and not always:
                return "stopping"
            if self._may_run(caller):
                self._begins(caller)
                return "run"
            queue = self._queues[caller]
            if always or len(queue) < self._waits:
                queue.append((call, work))
                return "wait"
            return "busy"

    def leave(self, caller: int) -> tuple[Call, Callable[[Call], None]] | None:
        """A call of this caller's has ended: the one that runs in its place."""
        with self._lock:
            self.running -= 1
            self._runs[caller] -= 1
            if not self._runs[caller]:
                self._idle += 1
            many = len(self._queues)
            for at in range(self._turn, self._turn + many):
                following = at % many
                if self._queues[following] and self._may_run(following):
                    self._turn = following + 1
                    self._begins(following)
                    return self._queues[following].popleft()
            return None

    def stop(self) -> list[tuple[Call, Callable[[Call], None]]]:
        """No more: what waited."""
        with self._lock:
            self.stopping = True
            waited = [each for queue in self._queues for each in queue]
            for queue in self._queues:
                queue.clear()
            return waited


class ServerConn:
    """What of a service's connection the fast path needs."""

    __slots__ = ("fd", "closed", "leaving", "number", "caller", "calls", "backlog", "fast", "out_area", "_peer_area")

    def __init__(self) -> None:
        self.fd = -1
        self.closed = False
        self.leaving = False
        #: Its caller's number at the gate.
        self.number = 0
        self.caller: str | None = None
        #: The open calls, by number.
        self.calls: dict[int, Call] = {}
        #: What waits until the caller reads.
        self.backlog: Any = None
        self.fast: Any = None
        self.out_area: Area | None = None
        self._peer_area: PeerArea | None = None

    @property
    def peer_area(self) -> PeerArea:
        # Made when it is first needed: most connections send no large bytes.
        peer_area = self._peer_area
        if peer_area is None:
            peer_area = self._peer_area = PeerArea()
        return peer_area

    def forget(self) -> None:
        """Closes what the caller keeps here."""
        for each in (self._peer_area, self.out_area):
            if each is not None:
                each.close()
        self._peer_area = self.out_area = None


class Leader:
    """Which of a service's threads waits for events: one leads, and gives that up before it runs a function. (The core gives
    it up only if that takes long.)"""

    def __init__(self) -> None:
        self._vacant = threading.Lock()
        self._leader = 0
        self._ended = threading.Event()
        self._forked = False

    def begin(self, _slow: bool) -> int:
        """Before a function runs. What it returns is for `done`."""
        if self.leading:
            self._leader = 0
            self._vacant.release()
        return 0

    def done(self, run: int) -> None:
        """After it ran."""

    @property
    def leading(self) -> bool:
        """May this thread close what an event was for?"""
        return self._leader == threading.get_ident()

    def is_pinned(self, _fd: int) -> bool:
        """Does a thread wait for a connection's messages apart from the others'? (The core's do.)"""
        return False

    def end(self) -> None:
        """No more."""
        self._ended.set()

    def forked(self) -> None:
        """In a child, where nobody leads."""
        self._forked = True

    def watch(self) -> None:
        """In a thread of its own, where the core looks for functions that take long."""
        self._ended.wait()

    def run(self, server: Any, _epoll: int) -> None:
        """Leads, again and again, until the end."""
        while not self._ended.is_set() and not self._forked:
            self._vacant.acquire()
            self._leader = threading.get_ident()
            try:
                if not self._ended.is_set():
                    self._one(server)
            finally:
                if self.leading:
                    self._leader = 0
                    self._vacant.release()

    def _one(self, server: Any) -> None:
        for fd, event in server.epoll.poll(-1, 1):
            connection = server._connections.get(fd)
            if connection is None:
                continue  # the descriptor that says stop, or one that is gone
            try:
                server._event(connection, event)
            except BaseException as error:  # a thread that ended with the lead would take the service with it
                server._defect(connection, error)


#: The fast path is the core's alone.
FastCall: Any = None
FastHandler: Any = None
FastHandlers: Any = None
