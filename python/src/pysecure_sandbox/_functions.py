"""The functions that a program hands to a sandbox: what is asked before one runs, and how often and with how much it may be called."""
# What begins with _ is private to these packages.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import keyword
import re
import threading
import weakref
from typing import TYPE_CHECKING, Any, Callable, Mapping, NamedTuple, Union

from pysecure_rpc import _codec, _messages
from pysecure_rpc._function import Function as Remote
from pysecure_rpc._hints import _hints_of as hints_of

from ._calling import ENUMERATIONS, STREAM
from ._errors import BudgetExceeded, NotApproved

if TYPE_CHECKING:
    import asyncio

    from pysecure_rpc._hints import Signature


class Function:
    """A function with a budget: `Function(send_mail, calls=3)`. Both bounds are for one run, or one session.

    `calls`: how often it may be called. `bytes`: how many bytes its arguments and results may come to, as they cross.
    """

    __slots__ = ("run", "calls", "bytes")

    def __init__(self, run: Callable[..., Any], calls: int | None = None, bytes: int | None = None) -> None:
        if not callable(run):
            raise TypeError(f"Function(…) is for something that can be called, not for {run!r}")
        self.run = run
        self.calls = calls
        self.bytes = bytes


class ApiCall(NamedTuple):
    """A call that an approval hook is asked about."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Which of this function's calls in this run it is, from 1.
    number: int


#: Says whether a call may be made: True; False, or a text that says why not. Under `arun` it may be a coroutine function.
Approve = Callable[[ApiCall], Any]
#: Functions by the names that code in the sandbox calls them by.
Functions = Mapping[str, Union[Callable[..., Any], Function]]


class Handed:
    """All functions of a run, as they are served."""

    def __init__(self, api: Functions, approve: Approve | None) -> None:
        self.functions: dict[str, Remote] = {}
        self._approve = approve
        #: What stopped the calling program in one of its functions, which is for the program and not for the sandbox.
        self.stopped: BaseException | None = None
        #: Where the program is in asyncio, its loop; functions that are no coroutines run in other threads then.
        self.loop: asyncio.AbstractEventLoop | None = None
        for name, given in api.items():
            _check_name(name)
            self.functions[name] = self._function(name, given)

    def listed(self) -> list[list[Any]]:
        """The functions as a task names them."""
        return [_described(name, function) for name, function in self.functions.items()]

    def hello(self) -> list[Any]:
        """The greeting of whoever serves them."""
        return _messages.hello("api", None, {name: function.signature.hash for name, function in self.functions.items()})

    def _function(self, name: str, given: Callable[..., Any] | Function) -> Remote:
        run = given.run if isinstance(given, Function) else given
        if not callable(run):
            raise TypeError(f"api: {name} is no function: {run!r}")
        known = _known(name, run)
        remote = known.remote(name)
        used = _Used(name, given if isinstance(given, Function) else None, known.signature)
        remote.run = self._coroutine(name, run, used) if known.is_async and not known.is_stream else self._plain(
            name, run, used, known
        )
        return remote

    def _plain(self, name: str, run: Callable[..., Any], used: _Used, known: _Known) -> Callable[..., Any]:
        if self._approve is None and not used.is_bounded:

            def plain(*args: Any, **kwargs: Any) -> Any:
                try:
                    return run(*args, **kwargs)
                except KeyboardInterrupt as error:
                    self.stopped = error
                    raise

            return plain

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                number = used.begin(args, kwargs)
                if self._approve is not None:
                    self._ask(ApiCall(name, args, kwargs, number))
                result = run(*args, **kwargs)
                if not used.counts_bytes:
                    return result
                if not known.is_stream:
                    return used.end(result)
                return used.each_async(result) if known.is_async else used.each(result)
            except KeyboardInterrupt as error:
                self.stopped = error
                raise

        return call

    def _coroutine(self, name: str, run: Callable[..., Any], used: _Used) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            number = used.begin(args, kwargs)
            if self._approve is not None:
                answer = self._approve(ApiCall(name, args, kwargs, number))
                _may(name, await answer if hasattr(answer, "__await__") else answer)
            result = await run(*args, **kwargs)
            return used.end(result) if used.counts_bytes else result

        return call

    def _ask(self, call: ApiCall) -> None:
        answer: Any = self._approve(call) if self._approve is not None else True
        if hasattr(answer, "__await__"):
            if self.loop is None:
                answer.close()
                raise NotApproved(f"{call.function}: who approves is a coroutine function, which is for arun() alone")
            import asyncio

            answer = asyncio.run_coroutine_threadsafe(answer, self.loop).result()
        _may(call.function, answer)


def _described(name: str, function: Remote) -> list[Any]:
    signature = function.signature
    flags = STREAM * function.is_stream
    if "enum[" not in signature.text:
        return [name, flags]
    # Where a member is wanted, its name is given.
    members = [_MEMBER.fullmatch(parameter["type"]) is not None for parameter in signature.parameters]
    names = [parameter["name"] for parameter, is_member in zip(signature.parameters, members) if is_member]
    return [name, flags | ENUMERATIONS, [at for at, is_member in enumerate(members) if is_member], names]


#: The type of a parameter that is a member of an enumeration, and may be left empty.
_MEMBER = re.compile(r"(nil\|)?enum\[\w+\](\|nil)?")


def _may(name: str, answer: Any) -> None:
    if answer is not True:
        raise NotApproved(f"{name}: {answer}" if isinstance(answer, str) else f"{name} was not approved")


class _Used:
    """What of a function's budget is used up."""

    __slots__ = ("_name", "_budget", "_signature", "_calls", "_bytes", "_lock", "is_bounded", "counts_bytes")

    def __init__(self, name: str, budget: Function | None, signature: Signature) -> None:
        self._name = name
        self._budget = budget
        self._signature = signature
        self._calls = self._bytes = 0
        self._lock = threading.Lock()
        self.is_bounded = budget is not None
        self.counts_bytes = budget is not None and budget.bytes is not None

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """One more call, if there may be one. Its number."""
        most = None if self._budget is None else self._budget.calls
        with self._lock:
            if most is not None and self._calls >= most:
                raise BudgetExceeded(f"{self._name} may be called {'once' if most == 1 else f'{most} times'} in a run")
            self._calls += 1
            number = self._calls
        if self.counts_bytes:
            self._add(self._signature.convert(args, kwargs, False))
        return number

    def end(self, result: Any) -> Any:
        """Its result counts as well."""
        self._add(self._signature.result.dump(result))
        return result

    def each(self, items: Any) -> Any:
        """The items of a stream count, one by one."""
        for item in items:
            self._add(self._signature.item.dump(item))
            yield item

    async def each_async(self, items: Any) -> Any:
        """The same for a stream of coroutines."""
        async for item in items:
            self._add(self._signature.item.dump(item))
            yield item

    def _add(self, value: Any) -> None:
        most = None if self._budget is None else self._budget.bytes
        try:
            many = len(_codec.pack(value))
        except (TypeError, ValueError):
            return  # it has a descriptor in it, or cannot cross, which is told in its own way
        with self._lock:
            if most is not None and self._bytes + many > most:
                raise BudgetExceeded(f"{self._name} may carry {most} bytes in a run, and {self._bytes + many} would be more")
            self._bytes += many


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"api: {name!r} cannot be the name of a function")
    if name == "api" or name.startswith("__"):
        raise ValueError(f"api: {name!r} is taken: give the function another name")


# What is known of a function, which is found out once: hints take long.


class _Known:
    __slots__ = ("signature", "is_async", "is_stream", "doc")

    def __init__(self, name: str, run: Callable[..., Any]) -> None:
        remote = Remote(with_code(run), "api", False, None, None)
        remote.name = name
        try:
            self.signature = remote.signature
        except (TypeError, ValueError) as error:
            raise TypeError(f"api: {error}") from None
        self.is_async, self.is_stream, self.doc = remote.is_async, remote.is_stream, run.__doc__

    def remote(self, name: str) -> Remote:
        """It, as RPC knows functions; what it runs is still to be said."""
        remote = Remote(_nothing, "api", False, None, None)
        remote.name, remote.doc = name, self.doc
        remote.is_async, remote.is_stream = self.is_async, self.is_stream
        remote._signature = self.signature
        return remote


def _nothing() -> None:
    pass


_found: weakref.WeakKeyDictionary[Any, dict[tuple[str, bool], _Known]] = weakref.WeakKeyDictionary()


def _known(name: str, run: Callable[..., Any]) -> _Known:
    # A method is made anew each time that it is looked up; its function is not.
    of: Any = getattr(run, "__func__", run)
    try:
        here = _found.setdefault(of, {})
    except TypeError:  # it cannot be referred to weakly
        return _Known(name, run)
    key = (name, of is not run)
    known = here.get(key)
    if known is None:
        known = here[key] = _Known(name, run)
    return known


def signature_of(name: str, given: Callable[..., Any] | Function) -> tuple[Callable[..., Any], Signature]:
    """A function and its signature, for whoever writes about it."""
    _check_name(name)
    run = given.run if isinstance(given, Function) else given
    return with_code(run), _known(name, run).signature


def with_code(run: Any) -> Callable[..., Any]:
    """A function that calls what has no code of its own (a partial, an object, a function of C), with its parameters and hints."""
    if hasattr(run, "__code__"):
        return run  # type: ignore[no-any-return]
    import inspect

    def call(*args, **kwargs):  # type: ignore[no-untyped-def] # pyright: ignore
        return run(*args, **kwargs)

    try:
        call.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
        of = getattr(run, "func", None) or type(run).__call__
        call.__annotations__ = hints_of(of) if hasattr(of, "__code__") else {}
    except (AttributeError, TypeError, ValueError):
        pass  # it says nothing of its parameters
    call.__doc__ = run.__doc__ if hasattr(run, "__name__") else None
    return call  # pyright: ignore[reportUnknownVariableType]
