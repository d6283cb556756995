"""The compiled core (python/core), as the files beside it see it. `_codec.py` takes it where it is built; else the plain
classes of the same names, which differ only in what is theirs alone.
"""

from typing import Any, Callable, final

from ._function import Function

__all__ = [
    "Admission",
    "Area",
    "Call",
    "ClientConn",
    "Counters",
    "FastCall",
    "FastHandler",
    "FastHandlers",
    "Leader",
    "Message",
    "PeerArea",
    "ServerConn",
    "open_call",
    "open_message",
    "pack",
    "seal",
    "unpack",
]

@final
class Area:
    """A memfd that is sent once and used for the large bytes of many messages."""

    free: bool
    def __new__(cls) -> Area: ...
    def close(self) -> None: ...

@final
class PeerArea:
    """The area of the peer's that lies at this end, and how many messages used it."""

    def __new__(cls) -> PeerArea: ...
    @property
    def read(self) -> int: ...
    @property
    def cost(self) -> int: ...
    def close(self) -> None: ...

@final
class Counters:
    """The numbers of the page of figures, which is a memfd."""

    def __new__(cls, fd: int) -> Counters: ...
    def ended(self, slot: int, seconds: float, failed: bool) -> None: ...
    def denied(self, slot: int) -> None: ...
    def read(self, slot: int) -> list[int]: ...

@final
class Message:
    """One message as it is sent: its bytes, and the descriptors that go along."""

    @property
    def data(self) -> bytes: ...
    @property
    def in_area(self) -> bool: ...
    @property
    def large(self) -> int: ...
    @property
    def fds(self) -> list[int]: ...
    def keep(self) -> None: ...
    def close(self) -> None: ...

class ClientConn:
    """What of a caller's connection the fast path needs."""

    fd: int
    next_id: int
    limit: float
    functions: dict[str, int]
    def __new__(cls, *_rest: Any) -> Any: ...
    @property
    def out_area(self) -> Area: ...
    @property
    def peer_area(self) -> PeerArea: ...

@final
class FastCall:
    """The core's way of calling one function."""

    def __new__(
        cls,
        function: Function,
        service: str,
        name: str,
        hash: int,
        plans: tuple[Any, ...],
        needed: int,
        result: Any,
        timeout: float | None,
        hooks: Any,
    ) -> FastCall: ...
    def __call__(self, idle: Any, args: tuple[Any, ...], /) -> Any: ...
    @property
    def packed(self) -> bytes: ...

@final
class Leader:
    """Who of a service's threads waits for events."""

    def __new__(cls) -> Leader: ...
    def begin(self, slow: bool) -> int: ...
    def done(self, run: int) -> None: ...
    @property
    def leading(self) -> bool: ...
    def is_pinned(self, fd: int) -> bool: ...
    def end(self) -> None: ...
    def forked(self) -> None: ...
    def watch(self) -> None: ...
    def run(self, server: Any, epoll: int) -> None: ...

@final
class Call:
    """A call that is open, and what the running function can ask of it."""

    connection: Any
    id: int
    function: Function
    caller: str | None
    deadline: float | None
    traceparent: str | None
    credit: int
    args: Any
    kwargs: Any
    stream: Any
    pumping: bool
    begun: float
    task: Any
    wake: Any
    answered: bool
    cancelled: bool
    cost: int
    def __new__(
        cls,
        connection: Any,
        identity: int,
        function: Function,
        deadline: float | None,
        trace: str | None,
        credit: int,
    ) -> Call: ...

@final
class Admission:
    """How many calls run, and those that wait because as many run as may."""

    def __new__(cls, limit: int, waits: int) -> Admission: ...
    @property
    def running(self) -> int: ...
    @property
    def stopping(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    def caller(self) -> int: ...
    def enter(self, call: Call, work: Callable[[Call], None], always: bool, caller: int) -> str: ...
    def leave(self, caller: int) -> tuple[Call, Callable[[Call], None]] | None: ...
    def stop(self) -> list[tuple[Call, Callable[[Call], None]]]: ...

@final
class FastHandler:
    """The core's way of serving one function."""

    def __new__(
        cls,
        function: Function,
        run: Callable[..., Any],
        plans: tuple[Any, ...],
        needed: int,
        result: Any,
        slot: int | None,
    ) -> FastHandler: ...

@final
class FastHandlers:
    """What one caller may call of that which can be served by the fast path."""

    def __new__(cls, functions: dict[str, FastHandler]) -> FastHandlers: ...

class ServerConn:
    """What of a service's connection the fast path needs."""

    fd: int
    closed: bool
    leaving: bool
    caller: str | None
    backlog: Any
    fast: FastHandlers | None
    out_area: Area | None
    number: int
    def __new__(cls, *_rest: Any) -> Any: ...
    @property
    def calls(self) -> dict[int, Call]: ...
    @property
    def peer_area(self) -> PeerArea: ...
    def forget(self) -> None: ...

def pack(value: object) -> bytes: ...
def unpack(data: bytes) -> Any: ...
def seal(elements: Any, area: Area | None = None) -> Message: ...
def open_call(data: bytes, fds: list[int], peer_area: PeerArea, functions: dict[str, Any]) -> list[Any]: ...
def open_message(data: bytes, fds: list[int], peer_area: PeerArea) -> list[Any]: ...
