"""The services that the tests call: `python3 functions.py NAME [threads=N …]` is the service NAME."""

import asyncio
import dataclasses
import datetime
import decimal
import enum
import os
import sys
import time
import typing
import uuid
from collections.abc import AsyncIterator, Generator, Iterator

import pysecure_rpc
from pysecure_rpc import Fd, rpc

if os.environ.get("PYSECURE_TEST_TELEMETRY"):
    from opentelemetry import trace

ran: list[str] = []
produced = 0
closed: list[str] = []


class Colour(enum.Enum):
    RED = 1
    GREEN = object()


class Right(enum.Flag):
    R = 4
    W = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    others: list["Point"] = dataclasses.field(default_factory=list)
    colour: Colour | None = None


class Options(typing.TypedDict, total=False):
    deep: bool
    names: list[str]


class Pair(typing.NamedTuple):
    left: str
    right: int = 7


@dataclasses.dataclass(frozen=True)
class Fussy:
    """What comes for it, it may refuse, in any way that there is."""

    about: str

    def __post_init__(self) -> None:
        for error in (ValueError, RecursionError, MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration):
            if self.about == error.__name__:
                raise error("not this")
        if self.about == "unspeakable":
            raise Unspeakable

    def __hash__(self) -> int:
        if self.about == "unhashable":
            raise OSError("no hash")
        return hash(self.about)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit

    @property
    def args(self) -> typing.Any:
        raise ValueError("nor that")

    @args.setter
    def args(self, _: typing.Any) -> None:
        pass


@pysecure_rpc.register_error
class Refused(Exception):
    pass


class Unknown(Exception):
    pass


@rpc(run_as="one")
def login(user: str, password: str, remember: bool = False, *, token: str | None = None) -> str:
    ran.append("login")
    return f"{user}/{password}/{remember}/{token}"


@rpc(run_as="one")
def rest(first: int, *more: int, **named: str) -> list[str]:
    return [str(first), *map(str, more), *(f"{k}={v}" for k, v in named.items())]


@rpc(run_as="one")
def history() -> list[str]:
    return ran


@rpc(run_as="one")
def who() -> str | None:
    return pysecure_rpc.caller()


@rpc(run_as="one")
def pid() -> int:
    time.sleep(0.01)
    return os.getpid()


@rpc(run_as="one")
def granted_to_nobody() -> None:
    ran.append("granted_to_nobody")


@rpc(run_as="one", callers=["web"])
def only_web() -> str:
    return "web"


@rpc(run_as="one")
async def later(seconds: float, value: str) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        closed.append(value)
        raise
    return value


@rpc(run_as="one")
def count(to: int, fail_at: int = -1) -> Generator[int, None, str]:
    global produced
    produced = 0
    try:
        for n in range(to):
            if n == fail_at:
                raise ValueError(f"at {n}")
            produced = n + 1
            yield n
        return "all"
    finally:
        closed.append("count")


@rpc(run_as="one")
def chunks(size: int, many: int) -> Iterator[bytes]:
    for n in range(many):
        yield bytes([n % 256]) * size


@rpc(run_as="one")
async def chunks_async(size: int, many: int) -> AsyncIterator[bytes]:
    for n in range(many):
        yield bytes([n % 256]) * size


@rpc(run_as="one")
def texts(size: int, many: int) -> Iterator[str]:
    for n in range(many):
        yield chr(97 + n % 26) * size


@rpc(run_as="one")
async def count_async(to: int) -> AsyncIterator[int]:
    try:
        for n in range(to):
            yield n
    finally:
        closed.append("count_async")


@rpc(run_as="one")
def how_many_produced() -> int:
    return produced


@rpc(run_as="one")
def what_closed() -> list[str]:
    return closed


@rpc(run_as="one")
def slow(seconds: float, name: str = "slow") -> str:
    ran.append(name)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if pysecure_rpc.cancelled():
            closed.append(name)
            break
        time.sleep(0.005)
    return name


@rpc(run_as="one", timeout=float("inf"))
def patient(name: str) -> float | None:
    return pysecure_rpc.time_remaining()


@rpc(run_as="one")
def fuss(over: Fussy) -> str:
    ran.append("fuss")
    return over.about


@rpc(run_as="one")
def fusses(over: set[Fussy]) -> int:
    ran.append("fuss")
    return len(over)


@rpc(run_as="one", idempotent=True)
def slow_idempotent(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@rpc(run_as="one")
def left() -> float | None:
    return pysecure_rpc.time_remaining()


@rpc(run_as="one")
def traced() -> str | None:
    return pysecure_rpc.traceparent()


@rpc(run_as="one")
def traced_stream() -> Iterator[str | None]:
    yield pysecure_rpc.traceparent()


@rpc(run_as="two")
def traced_nested() -> list[str | None]:
    return [pysecure_rpc.traceparent(), traced()]


def _span() -> str | None:
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return None
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"


@rpc(run_as="one")
def span() -> str | None:
    return _span()


@rpc(run_as="one")
async def span_async() -> str | None:
    await asyncio.sleep(0)
    return _span()


@rpc(run_as="one")
def span_stream() -> Iterator[str | None]:
    yield _span()
    yield _span()


@rpc(run_as="one")
def echo(data: bytes) -> bytes:
    return data


@rpc(run_as="one")
def pieces(size: int, many: int, files: int = 0) -> typing.Any:
    return [bytes([n % 256]) * size for n in range(many)] + [Fd(os.open("/dev/null", os.O_RDONLY), owned=True) for _ in range(files)]


@rpc(run_as="one")
def kept(data: bytes, seconds: float) -> int:
    time.sleep(seconds)
    return len(data)


@rpc(run_as="one")
def numbers(many: int) -> list[int]:
    ran.append("numbers")
    return [7] * many


@rpc(run_as="one")
def size(data: list[int]) -> int:
    return len(data)


@rpc(run_as="one")
def write_to(file: Fd, text: str) -> None:
    os.write(file.fileno(), text.encode())


@rpc(run_as="one")
def read_end(text: str) -> Fd:
    ours, theirs = os.pipe()
    os.write(theirs, text.encode())
    os.close(theirs)
    return Fd(ours, owned=True)


@rpc(run_as="one")
def fail(kind: str) -> None:
    if kind == "refused":
        raise Refused("no", 7)
    if kind == "unspeakable":
        raise Unspeakable
    if kind == "unknown":
        raise Unknown("what", 1)
    if kind == "long":
        raise ValueError("x" * 100_000, 7, b"y" * 100_000, None, sys.stdout)
    if kind == "exit":
        sys.exit(3)
    if kind == "stop":
        raise StopIteration
    raise {"value": ValueError("bad", 3), "pipe": BrokenPipeError(32, "x"), "key": KeyError("k")}[kind]


@rpc(run_as="one")
def lies() -> int:
    return typing.cast(int, "text")


@rpc(run_as="one")
def unserialisable() -> typing.Any:
    return sys.stdout


@rpc(run_as="one")
def up(n: int) -> int:
    return n if n <= 0 else down(n - 1) + 1


@rpc(run_as="two")
def down(n: int) -> int:
    return n if n <= 0 else up(n - 1) + 1


@rpc(run_as="two")
def left_of_nested() -> float | None:
    return left()


KINDS: dict[str, tuple[typing.Any, list[typing.Any]]] = {
    "none": (None, [None]),
    "bool": (bool, [True, False]),
    "int": (int, [0, -1, 127, 128, -32, -33, 2**31, -(2**63), 2**64 - 1]),
    "big_int": (int, [2**64, -(2**63) - 1, 3**500, -(3**500), 2**127, -(2**127)]),
    "float": (float, [0.0, -0.0, 1.5, 1e308, float("inf"), 5]),
    "complex": (complex, [1 + 2j]),
    "str": (str, ["", "é", "x" * 40, "y" * 300, "z" * 70_000, "\0"]),
    "surrogates": (str, ["\ud800x"]),
    "bytes": (bytes, [b"", b"\xff\0", b"b" * 100_000]),
    "bytearray": (bytearray, [bytearray(b"ab")]),
    "list": (list[int], [[], [1, 2], list(range(5000))]),
    "tuple": (tuple[int, str], [(1, "a")]),
    "tuples": (tuple[int, ...], [(), (1, 2, 3)]),
    "set": (set[int], [set(), {1, 2}]),
    "frozenset": (frozenset[str], [frozenset({"a"})]),
    "dict": (dict[str, list[int]], [{}, {"a": [1]}]),
    "keys": (dict[tuple[int, str], float], [{(1, "a"): 2.0}]),
    "datetime": (datetime.datetime, [datetime.datetime(2024, 2, 29, 1, 2, 3, 4)]),
    "aware": (
        datetime.datetime,
        [
            datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
            datetime.datetime(2024, 1, 1, fold=1, tzinfo=datetime.timezone(datetime.timedelta(hours=-5, minutes=-30))),
        ],
    ),
    "date": (datetime.date, [datetime.date(1, 1, 1)]),
    "time": (datetime.time, [datetime.time(23, 59, 59, 999_999)]),
    "timedelta": (datetime.timedelta, [datetime.timedelta(days=-3, microseconds=1), datetime.timedelta.max]),
    "decimal": (decimal.Decimal, [decimal.Decimal("-1.50"), decimal.Decimal("1E+3"), decimal.Decimal("-Infinity")]),
    "uuid": (uuid.UUID, [uuid.UUID(int=5)]),
    "enum": (Colour, [Colour.RED, Colour.GREEN]),
    "flags": (Right, [Right.R | Right.W, Right(0)]),
    "dataclass": (Point, [Point(1), Point(1, 2, [Point(3, others=[Point(4)])], Colour.GREEN)]),
    "typed_dict": (Options, [{}, {"deep": True, "names": ["a"]}]),
    "named_tuple": (Pair, [Pair("a"), Pair("a", 2)]),
    "union": (int | str | None | Point, [1, "a", None, Point(2)]),
    "literal": (typing.Literal["a", 1], ["a", 1]),
    "any": (typing.Any, [[1, {"a": (1, {2})}]]),
}


def _make(name: str, hint: typing.Any) -> typing.Any:
    def same(value):  # type: ignore[no-untyped-def]
        return value

    same.__name__ = same.__qualname__ = f"same_{name}"
    same.__annotations__ = {"value": hint, "return": hint}
    return rpc(run_as="one")(same)


same = {name: _make(name, hint) for name, (hint, _) in KINDS.items()}


if __name__ == "__main__":
    import imported

    # It was loaded by `imported`, which imports this module: it must be this one.
    assert imported.functions.ran is ran, "two module objects"
    options = dict(option.split("=") for option in sys.argv[2:])
    pysecure_rpc.start_service(sys.argv[1], **{k: float(v) if k == "drain" else int(v) for k, v in options.items()})
