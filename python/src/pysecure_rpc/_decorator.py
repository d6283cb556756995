"""`@rpc`: whether a function runs here or is called.

A module that is run as the service (`__main__`) and imported by its name as well is made one.
"""

from __future__ import annotations

import sys
from functools import wraps

from ._errors import main_name
from ._function import Function, State, register

TYPE_CHECKING = False  # as in `_errors`
if TYPE_CHECKING:
    from typing import Any, Callable, Collection, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")


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
        register(function)

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


def _one_main(run: Callable[..., Any]) -> None:
    """A program and the module of its name are one: who imports it later gets what runs."""
    if run.__module__ != "__main__":
        return
    name = main_name()
    if name:
        sys.modules.setdefault(name, sys.modules["__main__"])
