"""`@rpc`: which functions there are, and whether one runs here or is called.

A function is known by (service, name), whichever module object it was reached through: a module that is run as the
service (`__main__`) and imported by name as well is made one.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from functools import wraps

from ._errors import main_name

TYPE_CHECKING = False  # as in `_errors`
if TYPE_CHECKING:
    from typing import Any, Callable, Collection, ParamSpec, TypeVar

    from ._hints import Signature

    P = ParamSpec("P")
    R = TypeVar("R")

_RESERVED = ("pysecure.ping", "pysecure.describe")


def bounded(seconds: float | None) -> float | None:
    """A time that clocks, sockets and the wire can hold; one of more than thirty years is no end, like None."""
    if seconds is None or seconds > 1e9:
        return None
    if seconds != seconds:
        raise ValueError("a timeout that is no number")
    return seconds


class Context:
    """What a running function can ask of the call that it answers."""

    __slots__ = ("caller", "deadline", "traceparent", "cancelled")

    def __init__(self, caller: str | None, deadline: float | None, traceparent: str | None) -> None:
        self.caller = caller
        #: On this process's monotonic clock.
        self.deadline = deadline
        self.traceparent = traceparent
        self.cancelled = False


context: ContextVar[Context | None] = ContextVar("pysecure_rpc.context", default=None)
#: The deadline that `timeout()` set, on this process's monotonic clock.
deadline_here: ContextVar[float | None] = ContextVar("pysecure_rpc.deadline", default=None)
traceparent_here: ContextVar[str | None] = ContextVar("pysecure_rpc.traceparent", default=None)
#: The caller's name in `local()`, or None outside it. A tuple, so that None can be a name.
local_caller: ContextVar[tuple[str | None] | None] = ContextVar("pysecure_rpc.local", default=None)


class Function:
    """A function that is called across services."""

    __slots__ = ("run", "service", "name", "idempotent", "timeout", "callers", "is_async", "is_stream", "_signature",
                 "packed", "doc", "slow", "slowness", "quick")  # fmt: skip

    def __init__(
        self,
        run: Callable[..., Any],
        service: str,
        idempotent: bool,
        timeout: float | None,
        callers: Collection[str] | None,
    ) -> None:
        self.run = run
        self.service = service
        self.name = run.__name__
        self.idempotent = idempotent
        self.timeout = bounded(timeout)
        self.callers = callers
        code = run.__code__.co_flags
        # inspect's CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR; importing it for this would be dear.
        self.is_stream = bool(code & (0x20 | 0x200))
        self.is_async = bool(code & (0x80 | 0x200))
        self._signature: Signature | None = None
        self.packed = b""
        self.doc = run.__doc__
        #: So many calls more are taken to be slow; what nobody has measured is.
        self.slow = 1
        #: So many were, when it last was found to be.
        self.slowness = 0
        #: The core's way of calling it, made at first use; False where there is none.
        self.quick: Any = None

    @property
    def signature(self) -> Signature:
        """Made at first use: hints may name what is defined further down."""
        found = self._signature
        if found is None:
            from ._hints import Signature

            found = self._signature = Signature(self.run, self.name, self.is_stream)
        return found


class State:
    """What this process is."""

    #: The service that runs here.
    serving: str | None = None
    functions: dict[str, dict[str, Function]] = {}


def rpc(
    run_as: str | None = None,
    *,
    idempotent: bool = False,
    timeout: float | None = 60.0,
    callers: Collection[str] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Has the service `run_as` execute the function: there it runs, everywhere else it is a call.

    `idempotent`: it may be called again by itself if the connection ends before the answer.
    `timeout`: seconds for a call; None for no end. A caller's own deadline may be shorter.
    `callers`: the only services that may call it, of those that the manifest grants it to.
    """
    # `@rpc` without parentheses, for whoever has no type checker.
    if run_as is not None and not isinstance(run_as, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError("write @rpc(run_as='SERVICE'), with the service's name")

    def decorate(run: Callable[P, R]) -> Callable[P, R]:
        if run_as is None:
            return run
        if not hasattr(run, "__code__"):
            raise TypeError(f"@rpc is for functions, not for {run!r}")
        if isinstance(callers, str):
            raise TypeError(f"{run.__name__}: callers is a list of names, not one name")
        _one_main(run)
        function = Function(run, run_as, idempotent, timeout, callers)
        _register(function)

        if function.is_async and not function.is_stream:

            async def call_async(*args: Any, **kwargs: Any) -> Any:
                if State.serving == run_as:
                    return await run(*args, **kwargs)  # type: ignore[misc]
                from ._client import call_async

                return await call_async(function, args, kwargs)

            wrapper: Any = wraps(run)(call_async)
        else:
            from ._client import call as remote
            from ._client import stream

            other = stream if function.is_stream else remote

            def call(*args: Any, **kwargs: Any) -> Any:
                if State.serving == run_as:
                    return run(*args, **kwargs)
                return other(function, args, kwargs)

            wrapper = wraps(run)(call)
        wrapper.rpc = function
        return wrapper  # type: ignore[no-any-return]

    return decorate


def _register(function: Function) -> None:
    known = State.functions.setdefault(function.service, {})
    other = known.get(function.name)
    if other is not None:
        mine, its = function.run.__code__, other.run.__code__
        if (mine.co_filename, function.run.__qualname__) != (its.co_filename, other.run.__qualname__):
            raise ValueError(
                f"{function.service} has two functions named {function.name!r}, in {its.co_filename} and "
                f"{mine.co_filename}: rename one, since callers know them by that name"
            )
        # The module was loaded twice. What runs as the service is the program's own.
        if other.run.__module__ == "__main__":
            return
    known[function.name] = function


def _one_main(run: Callable[..., Any]) -> None:
    """A program and the module of its name are one: who imports it later gets what runs."""
    if run.__module__ != "__main__":
        return
    name = main_name()
    if name:
        sys.modules.setdefault(name, sys.modules["__main__"])


def caller() -> str | None:
    """The service that called the running function; None outside of a call, or if callers have no names."""
    current = context.get()
    return None if current is None else current.caller


def cancelled() -> bool:
    """Does nobody wait for the running function any more?"""
    current = context.get()
    return current is not None and current.cancelled


def deadline() -> float | None:
    """Seconds left for what runs here; None if there is no end."""
    from time import monotonic

    at = until()
    return None if at is None else max(0.0, at - monotonic())


def until() -> float | None:
    """The nearer of the running call's deadline and that of `timeout()`."""
    current = context.get()
    ours = deadline_here.get()
    if current is None or current.deadline is None:
        return ours
    return current.deadline if ours is None or current.deadline < ours else ours


def traceparent() -> str | None:
    """The W3C trace context here: that of `trace()`, or of OpenTelemetry's current span if the process has it loaded, or
    of the running call."""
    given = traceparent_here.get()
    if given is not None:
        return given
    # Another thread may be importing it just now.
    current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if current_span is not None:
        span = current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    current = context.get()
    return None if current is None else current.traceparent


def enter(call: Context) -> tuple[Any, Any]:
    """What runs from now on answers this call: for `caller()` and the like, and for OpenTelemetry if that is loaded. (The
    core does the same by itself for a call without a trace context: it sets `context`, and resets it.)"""
    token = context.set(call)
    telemetry = sys.modules.get("opentelemetry.trace")
    if telemetry is None or call.traceparent is None:
        return token, None
    try:
        return token, _enter_trace(telemetry, call.traceparent)
    except (AttributeError, KeyError):  # another thread is importing it just now
        return token, None


def leave(token: tuple[Any, Any]) -> None:
    """The end of `enter`."""
    context.reset(token[0])
    if token[1] is not None:
        sys.modules["opentelemetry.context"].detach(token[1])


def _enter_trace(telemetry: Any, parent: str) -> Any:
    """Makes the caller's span the parent of those that begin here. What is no trace context is none."""
    parts = parent.split("-")
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:4])
        span = telemetry.SpanContext(trace_id, span_id, True, telemetry.TraceFlags(flags))
    except (ValueError, TypeError):
        return None
    if not span.is_valid:
        return None
    around = telemetry.set_span_in_context(telemetry.NonRecordingSpan(span))
    return sys.modules["opentelemetry.context"].attach(around)
