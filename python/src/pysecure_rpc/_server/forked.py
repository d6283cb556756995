"""Processes that a service's own code forks. Such a child serves nothing and answers nothing: it is given up all that its parent
serves with as it begins, and ends where its code comes back to what would serve.
"""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from .. import _context

if TYPE_CHECKING:
    from collections.abc import Generator

    from .service import Server

#: Those that have sockets in this process.
_servers: set[Server] = set()
#: The thread whose fork is this package's own.
_ours: int | None = None
#: What a service handles, and which signals each thread that forks just now had blocked before.
SIGNALS = (signal.SIGTERM, signal.SIGINT)
_masks: dict[int, set[Any]] = {}


def add(server: Server) -> None:
    """It has sockets from now on."""
    _servers.add(server)


def remove(server: Server) -> None:
    """It has none any more."""
    _servers.discard(server)


@contextmanager
def to_serve() -> Generator[None, None, None]:
    """The child that is forked in here serves as well."""
    global _ours
    _ours = threading.get_ident()
    try:
        yield
    finally:
        _ours = None


def _before() -> None:
    # A signal that comes before the child has its handlers back would be taken by its parent's, and be lost.
    if _servers:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    # No lock is taken here: a thread that there is no more may have had it.
    if _ours != threading.get_ident():
        _give_up()
    _after()
    _masks.clear()


def _give_up() -> None:
    for server in list(_servers):
        with suppress(Exception):
            server.forked()
    _servers.clear()
    call = _context.context.get()
    if call is not None:
        # Nobody waits for this process, so the call's time is not its own.
        _context.context.set(_context.Context(call.caller, None, call.traceparent))


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)


def end(error: BaseException | None = None) -> NoReturn:
    """Ends a child whose code came back, with this error if there was one. As with multiprocessing, atexit's functions are not run."""
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = _code(error.code)
        elif error is not None:
            code = 1
            import traceback

            traceback.print_exception(type(error), error, error.__traceback__)
        flush()
    finally:
        os._exit(code)


def _code(code: object) -> int:
    """As sys.exit() has it."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def no_loop() -> Exception:
    """What is wrong where a coroutine's child comes back to the loop."""
    return RuntimeError("a coroutine has forked this process, which awaits something: it has no event loop of its own, and ends")


def flush() -> None:
    """Writes what standard output and standard error hold."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # there is no place for it
