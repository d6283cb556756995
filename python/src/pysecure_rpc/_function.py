"""Which functions there are that run in a service. A function is known by (service, name), whichever module object it
was reached through.
"""

from __future__ import annotations

from ._context import bounded

TYPE_CHECKING = False  # as in `_errors`
if TYPE_CHECKING:
    from typing import Any, Callable, Collection

    from ._hints import Signature


class Function:
    """A function that is called across services."""

    __slots__ = ("run", "service", "name", "idempotent", "timeout", "callers", "is_async", "is_stream", "_signature",
                 "doc", "slow", "slowness", "fast")  # fmt: skip

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
        self.doc = run.__doc__
        #: So many calls more are taken to be slow; what nobody has measured is.
        self.slow = 1
        #: So many were, when it last was found to be.
        self.slowness = 0
        #: The core's fast path of calling it, made at first use; False where there is none.
        self.fast: Any = None

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


def register(function: Function) -> None:
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
