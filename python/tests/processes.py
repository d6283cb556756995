"""Services whose functions fork, and that ask which thread they are in: `python3 processes.py NAME [threads=N …]`."""

import asyncio
import dataclasses
import multiprocessing
import os
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pysecure_rpc
from pysecure_rpc import rpc

database: sqlite3.Connection
closed: list[str] = []


def wait_for(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@rpc(run_as="one")
def pid() -> int:
    return os.getpid()


@rpc(run_as="two")
def who() -> tuple[str | None, int]:
    return pysecure_rpc.caller(), os.getpid()


@rpc(run_as="two")
def few() -> Iterator[int]:
    yield from range(100)


# Functions that fork. The child comes back from each of them in some way.


def _end_as(how: str) -> None:
    if how == "raises":
        raise ValueError("a child's own")
    if how == "exits":
        sys.exit(7)
    if how == "exits with text":
        sys.exit("a child's own")


@rpc(run_as="one")
def forks(how: str) -> tuple[int, int]:
    """This process and the child's status; for the child it would be another."""
    child = os.fork()
    if child == 0:
        _end_as(how)
        return os.getpid(), -1
    return os.getpid(), wait_for(child)


@rpc(run_as="one")
def forks_past_python() -> tuple[int, int]:
    import ctypes

    child = ctypes.CDLL(None).fork()
    return os.getpid(), wait_for(child) if child else -1


@rpc(run_as="one")
def forks_a_terminal() -> tuple[int, int]:
    child, terminal = os.forkpty()
    if child == 0:
        return os.getpid(), -1
    status = wait_for(child)
    os.close(terminal)
    return os.getpid(), status


@rpc(run_as="one")
def forks_and_yields(to: int, at: int) -> Iterator[int]:
    for n in range(to):
        if n == at and (child := os.fork()):
            assert wait_for(child) == 0
        yield os.getpid()


@rpc(run_as="one")
def forks_when_closed() -> Iterator[int]:
    try:
        while True:
            yield os.getpid()
    finally:
        if child := os.fork():
            closed.append(str(wait_for(child)))


@rpc(run_as="one")
def what_closed() -> list[str]:
    return closed


@rpc(run_as="one")
async def forks_in_a_coroutine(how: str) -> tuple[int, int]:
    child = os.fork()
    if child == 0:
        if how == "awaits":
            await asyncio.sleep(0)
        _end_as(how)
        return os.getpid(), -1
    return os.getpid(), wait_for(child)


@rpc(run_as="one")
async def forks_in_a_stream() -> AsyncIterator[int]:
    for n in range(3):
        if n == 1 and (child := os.fork()):
            assert wait_for(child) == 0
        yield os.getpid()


@rpc(run_as="one")
def forks_in_a_thread() -> tuple[int, int]:
    found: list[int] = []

    def run() -> None:
        if child := os.fork():
            found.append(wait_for(child))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return os.getpid(), found[0]


@dataclasses.dataclass
class Forked:
    text: str

    def __post_init__(self) -> None:
        if child := os.fork():
            assert wait_for(child) == 0


@rpc(run_as="one")
def forked_by_its_type(_value: Forked) -> int:
    return os.getpid()


def _in_pipe(work: Callable[[], str]) -> str:
    """What a process of multiprocessing's says of this."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(False)
    process = context.Process(target=lambda: theirs.send(work()))
    process.start()
    theirs.close()
    text: str = ours.recv()
    process.join()
    return f"{text} {process.exitcode}"


@rpc(run_as="one", timeout=50)
def child_calls() -> tuple[list[str], tuple[str | None, int]]:
    """What children found that call by themselves, while this process has idle connections, an open stream, and a call that waits."""
    who()
    stream = iter(few())
    next(stream)

    def work() -> str:
        try:
            rest = len(list(stream))
        except pysecure_rpc.RpcError as error:
            rest = type(error).__name__  # type: ignore[assignment]
        return f"{who()[0]} {len(list(few()))} {rest} {pysecure_rpc.caller()} {pysecure_rpc.time_remaining()}"

    said = [_in_pipe(work) for _ in range(3)]
    assert list(stream) == list(range(1, 100))
    return said, who()


@rpc(run_as="one")
def terminates() -> int | None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


@rpc(run_as="one")
def leaves_one() -> list[str]:
    """A child that stays: what it has open of its parent's sockets, epoll sets and pipes."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        kept = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and _is_there(fd)]
        os.write(theirs, "\n".join(kept).encode() or b"\n")
        os.close(theirs)
        while True:
            time.sleep(1000)
    os.close(theirs)
    with open(ours) as file:
        return file.read().split("\n")


def _is_there(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# Functions that say in which thread they run, and use a connection that `__main__` made.


def _here() -> tuple[bool, int]:
    return threading.current_thread() is threading.main_thread(), database.execute("select 40 + 2").fetchone()[0]


@rpc(run_as="one")
def plain(seconds: float = 0.0) -> tuple[bool, int]:
    time.sleep(seconds)
    return _here()


@rpc(run_as="one")
def cancelled_soon() -> bool:
    while not pysecure_rpc.cancelled():
        time.sleep(0.005)
    closed.append("cancelled")
    return True


@rpc(run_as="one")
def runs_a_loop() -> tuple[bool, int]:
    async def inner() -> tuple[bool, int]:
        await asyncio.sleep(0)
        return _here()

    return asyncio.run(inner())


@rpc(run_as="one")
def stream() -> Iterator[tuple[bool, int]]:
    try:
        for _ in range(1000):
            yield _here()
    finally:
        closed.append(str(_here()))


@rpc(run_as="one")
async def coroutine(seconds: float = 0.0) -> tuple[bool, int]:
    await asyncio.sleep(seconds)
    return _here()


@rpc(run_as="one")
async def coroutine_stream() -> AsyncIterator[tuple[bool, int]]:
    for _ in range(40):
        yield _here()
        await asyncio.sleep(0)


@dataclasses.dataclass
class Looked:
    text: str

    def __post_init__(self) -> None:
        if "database" in globals():
            self.text = str(_here())


@rpc(run_as="one")
def type_s_own_code(value: Looked) -> str:
    return value.text


@rpc(run_as="one")
def refuses(value: Looked) -> int:
    raise ValueError(value.text)


if __name__ == "__main__":
    database = sqlite3.connect(":memory:")
    pysecure_rpc.start_service(sys.argv[1], **{k: int(v) for k, v in (a.split("=") for a in sys.argv[2:])})  # type: ignore[arg-type]
