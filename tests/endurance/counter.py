"""Counts what it was asked for: a line for each call, before the answer."""

import os
from collections.abc import Iterator

import pysecure_rpc
from pysecure_rpc import rpc

_book = None


@rpc(run_as="counter")
def once(call: str) -> str:
    """Runs once for each call, or somebody has made it twice."""
    assert _book is not None
    _book.line(call)
    return call


@rpc(run_as="counter")
def items(count: int) -> Iterator[str]:
    """More than a reader takes at a time."""
    for number in range(count):
        yield f"{number} " + "x" * 20_000


if __name__ == "__main__":
    from single import Book

    _book = Book("/data/ran", "ran")
    pysecure_rpc.start_service("counter")
