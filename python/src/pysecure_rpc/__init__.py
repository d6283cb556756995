"""Functions that run in another service.

    import pysecure_rpc
    from pysecure_rpc import rpc

    @rpc(run_as="authsvc")
    def login(user: str, password: str) -> bool:
        ...

    if __name__ == "__main__":
        pysecure_rpc.start_service("authsvc")

In the service `authsvc` the function runs; everywhere else it is a call. Who calls is known from the socket that a call
comes in on: see docs/how-to/rpc.md.
"""

from __future__ import annotations

from contextlib import contextmanager

from ._context import bounded, caller, cancelled, deadline_here, local_caller, time_remaining, traceparent, traceparent_here, until
from ._decorator import rpc
from ._errors import (
    Busy,
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    GoingAway,
    InvalidArguments,
    InvalidResult,
    NoSuchFunction,
    NotGranted,
    ProtocolError,
    RemoteError,
    RemoteTraceback,
    RpcError,
    SignatureMismatch,
    TooLarge,
    register_error,
)
from ._values import Fd
from ._version import __version__

# What `typing` is for is read by type checkers alone, and it is half of what this package takes to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from ._server import Server, ServiceError

__all__ = [
    "Busy",
    "Cancelled",
    "ConnectionLost",
    "DeadlineExceeded",
    "Fd",
    "GoingAway",
    "InvalidArguments",
    "InvalidResult",
    "NoSuchFunction",
    "NotGranted",
    "ProtocolError",
    "RemoteError",
    "RemoteTraceback",
    "RpcError",
    "Server",
    "ServiceError",
    "SignatureMismatch",
    "TooLarge",
    "__version__",
    "caller",
    "cancelled",
    "describe",
    "local",
    "register_error",
    "rpc",
    "start_service",
    "time_remaining",
    "timeout",
    "trace",
    "traceparent",
]


def start_service(service_name: str, **options: Any) -> None:
    """Serves the functions with `@rpc(run_as=service_name)` until SIGTERM. Options: see `Server` and docs/how-to/rpc.md."""
    from ._server import start_service as serve

    serve(service_name, **options)


@contextmanager
def timeout(seconds: float | None) -> Generator[None, None, None]:
    """Limits the total time of all calls in this block."""
    from time import monotonic

    own = bounded(seconds)
    outer = until()
    at = None if own is None else monotonic() + own
    token = deadline_here.set(outer if at is None or (outer is not None and outer < at) else at)
    try:
        yield
    finally:
        deadline_here.reset(token)


@contextmanager
def trace(parent: str) -> Generator[None, None, None]:
    """Calls made in this block carry this W3C trace context."""
    token = traceparent_here.set(parent)
    try:
        yield
    finally:
        traceparent_here.reset(token)


@contextmanager
def local(caller: str | None = None) -> Generator[None, None, None]:
    """All calls made in this block run in this process, as if `caller` made them: for tests."""
    token = local_caller.set((caller,))
    try:
        yield
    finally:
        local_caller.reset(token)


def describe(service: str) -> list[dict[str, Any]]:
    """The functions of a service that this one may call: names, signatures, documentation."""
    from ._client import describe as ask

    return ask(service)


def __getattr__(name: str) -> Any:
    # The server's side is loaded by those who serve.
    if name in ("Server", "ServiceError"):
        from . import _server

        return getattr(_server, name)
    # Names of before version 1, for one release.
    new = {"deadline": "time_remaining"}.get(name)
    told = f": it is called {new!r} now" if new else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{told}")
