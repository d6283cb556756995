"""What a call brings along for whoever runs it: its caller, its deadline, its trace, and whether it was cancelled."""

from __future__ import annotations

import sys
from contextvars import ContextVar

TYPE_CHECKING = False  # as in `_errors`
if TYPE_CHECKING:
    from typing import Any


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


def caller() -> str | None:
    """The service that called the running function; None outside of a call, or if callers have no names."""
    current = context.get()
    return None if current is None else current.caller


def cancelled() -> bool:
    """Does nobody wait for the running function any more?"""
    current = context.get()
    return current is not None and current.cancelled


def time_remaining() -> float | None:
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
