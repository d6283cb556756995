"""What can go wrong with a call, as exceptions.

A class is made out of a name from the wire only if the name is in a table that this process filled beforehand:
the builtin exceptions, and those given to `register_error`. Nothing is ever looked up in a module.
"""

from __future__ import annotations

import builtins
import os
import sys

# What `typing` is for is read by type checkers alone, and it is half of what this package takes to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    E = TypeVar("E", bound=type[Exception])


class RpcError(Exception):
    """A call that did not come to an answer of its function. `may_have_run` says whether the function may have run."""

    may_have_run: bool = False


class RemoteError(RpcError):
    """An exception of the service's whose class this process does not know."""

    may_have_run = True

    def __init__(self, class_name: str, message: str, remote_args: tuple[object, ...] = ()) -> None:
        super().__init__(class_name, message, remote_args)
        self.class_name = class_name
        self.message = message
        self.remote_args = remote_args

    def __str__(self) -> str:
        return f"{self.class_name}: {self.message}"


class RemoteTraceback(Exception):
    """The cause of an exception that came from a service which sends tracebacks; its text is the traceback."""

    def __str__(self) -> str:
        return "\n" + "".join(str(a) for a in self.args)


class NotGranted(RpcError, PermissionError):
    """There is no socket to this service: it does not name this one in its `callers`."""


class NoSuchFunction(RpcError, LookupError):
    """The service has no such function, or not for this caller."""


class InvalidArguments(RpcError, TypeError):
    """An argument is missing, too many, or not of the type that the function's hints say."""


class InvalidResult(RpcError, TypeError):
    """The result is not of the type that the function's hints say, or cannot cross."""

    may_have_run = True


class SignatureMismatch(RpcError, TypeError):
    """Caller and service have different signatures for a function: they are of different versions."""


class Busy(RpcError):
    """The service has as many calls waiting as it may have."""


class DeadlineExceeded(RpcError, TimeoutError):
    """The time for the call is over."""


class Cancelled(RpcError):
    """The call was cancelled."""


class GoingAway(RpcError, ConnectionError):
    """The service ends."""


class ConnectionLost(RpcError, ConnectionError):
    """The service went away before it answered."""


class TooLarge(RpcError, ValueError):
    """A message would be larger than may be."""


class ProtocolError(RpcError):
    """A message that breaks the protocol."""


#: Classes that a service itself answers with, by their names on the wire.
OWN: dict[str, type[RpcError]] = {
    "pysecure.NoSuchFunction": NoSuchFunction,
    "pysecure.InvalidArguments": InvalidArguments,
    "pysecure.InvalidResult": InvalidResult,
    "pysecure.Busy": Busy,
    "pysecure.DeadlineExceeded": DeadlineExceeded,
    "pysecure.Cancelled": Cancelled,
    "pysecure.GoingAway": GoingAway,
    "pysecure.TooLarge": TooLarge,
    "pysecure.BadMessage": ProtocolError,
}

# Those that steer iteration are left out: one that came over the wire could end a caller's loop in silence.
_known: dict[str, type[Exception]] = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception) and value not in (StopIteration, StopAsyncIteration)
}

# What a function met in a call of its own is this package's, but not the service's own answer: the function has run.
_known.update(
    (f"pysecure_rpc.{name}", value)
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, RpcError)
)


def register_error(cls: E) -> E:
    """Lets an exception class of your own come back as itself. Usable as a decorator."""
    _known[name_of(cls)] = cls
    return cls


def name_of(cls: type[BaseException]) -> str:
    """The name of an exception class on the wire."""
    module = cls.__module__
    if module == "builtins":
        return cls.__qualname__
    if module == "__main__":
        module = main_name() or module
    if module == __name__:
        module = "pysecure_rpc"
    return f"{module}.{cls.__qualname__}"


def main_name() -> str | None:
    """What others call the module that runs as the program."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    path = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else None


def revive(name: str, message: str, args: list[Any], traceback: str | None, ran: bool) -> Exception:
    """The exception that an ERR message stands for."""
    error: Exception
    own = OWN.get(name)
    if own is not None:
        error = own(message)
        error.may_have_run = ran
    else:
        known = _known.get(name)
        error = RemoteError(name, message, tuple(args))
        if known is not None:
            try:
                error = known(*args)
            except Exception:  # its constructor wants something else
                pass
            if isinstance(error, RpcError):
                error.may_have_run = ran
    if traceback:
        error.__cause__ = RemoteTraceback(traceback)
    return error
