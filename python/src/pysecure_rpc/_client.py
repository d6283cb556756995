"""Calls, blocking and in asyncio: both do what an exchange (`_exchange.py`) says is to be done next."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import sys
from time import monotonic, sleep
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _context, _exchange, _local
from ._codec import COMPILED, FastCall
from ._connection import Connection, close_connections, pool, receive
from ._errors import DeadlineExceeded
from ._exchange import Connect, Item, Receive
from ._function import Function

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Generator

    from ._exchange import Exchange


def call(function: Function, args: Any, kwargs: Any) -> Any:
    """Calls a function that runs elsewhere."""
    sent = 0
    fast = function.fast
    if fast is None:
        fast = function.fast = _compiled(function)
    if fast:
        by_position = function.signature.by_position(args, kwargs) if kwargs else args
        if by_position is not None:
            result = fast(pool.idle, by_position)
            if result is _UNANSWERED:
                sent = 1
            elif result is not _NOT_DONE:
                return result
    here = _context.local_caller.get()
    if here is not None:
        return _local.call(function, args, kwargs, here[0])
    plain, named = function.signature.convert(args, kwargs, False)
    return _result(_exchange.call(function, plain, named, sent))


def stream(function: Function, args: Any, kwargs: Any) -> Any:
    """Calls a generator that runs elsewhere. Arguments are checked at once; it starts with the first item wanted."""
    here = _context.local_caller.get()
    if here is not None:
        return _local.call(function, args, kwargs, here[0])
    plain, named = function.signature.convert(args, kwargs, False)
    if function.is_async:
        return _stream_async(function, plain, named)
    return _stream(function, plain, named)


async def call_async(function: Function, args: Any, kwargs: Any) -> Any:
    """Calls a coroutine that runs elsewhere."""
    here = _context.local_caller.get()
    if here is not None:
        return await _local.call_async(function, args, kwargs, here[0])
    plain, named = function.signature.convert(args, kwargs, False)
    exchange = _exchange.call(function, plain, named)
    try:
        return (await _next_async(exchange)).value
    finally:
        exchange.close()


def _result(exchange: Exchange) -> Any:
    try:
        return _next(exchange).value
    finally:
        exchange.close()


def _stream(function: Function, args: Any, kwargs: Any) -> Generator[Any, None, Any]:
    exchange = _exchange.call(function, args, kwargs)
    try:
        while isinstance(found := _next(exchange), Item):
            yield found.value
        return found.value
    finally:
        exchange.close()


async def _stream_async(function: Function, args: Any, kwargs: Any) -> AsyncIterator[Any]:
    exchange = _exchange.call(function, args, kwargs)
    try:
        while isinstance(found := await _next_async(exchange), Item):
            yield found.value
    finally:
        exchange.close()


# Doing what is to be done.


class Done(NamedTuple):
    """What an exchange returned."""

    value: Any


def _next(exchange: Exchange) -> Item | Done:
    """Goes on until there is something for the caller."""
    try:
        action = exchange.send(None)
        while not isinstance(action, Item):
            outcome: Any = None
            try:
                if isinstance(action, Receive):
                    outcome = action.connection.receive(action.deadline)
                elif isinstance(action, Connect):
                    action.connection.connect(action.deadline)
                else:
                    sleep(action.seconds)
            except BaseException as error:
                action = exchange.throw(error)
            else:
                action = exchange.send(outcome)
    except StopIteration as end:
        return Done(end.value)
    return action


async def _next_async(exchange: Exchange) -> Item | Done:
    """As `_next`, in asyncio."""
    import asyncio

    try:
        action = exchange.send(None)
        while not isinstance(action, Item):
            outcome: Any = None
            try:
                if isinstance(action, Receive):
                    while outcome is None:
                        await _readable(action.connection.sock, action.deadline)
                        outcome = action.connection.try_receive()
                elif isinstance(action, Connect):
                    while not action.connection.try_connect(action.deadline):
                        await asyncio.sleep(0.01)
                else:
                    await asyncio.sleep(action.seconds)
            except BaseException as error:
                action = exchange.throw(error)
            else:
                action = exchange.send(outcome)
    except StopIteration as end:
        return Done(end.value)
    return action


async def _readable(sock: socket.socket, deadline: float | None) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    # By its number: of a socket that it does not know the loop makes a text first, which takes longer than all else here.
    fd = sock.fileno()
    loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        if deadline is None:
            await ready
        else:
            await asyncio.wait_for(ready, max(0.0, deadline - monotonic()))
    except asyncio.TimeoutError:
        raise DeadlineExceeded("no answer in time") from None
    finally:
        loop.remove_reader(fd)


# The core's fast path, for a call whose arguments and answer are like most, and what it hands back.

#: Nothing was done, or nothing that counts; the call was sent, and not answered.
_NOT_DONE, _UNANSWERED = object(), object()


def _compiled(function: Function) -> Any:
    """False where the function is of no kind that the core calls by itself."""
    plans = function.signature.plans() if COMPILED else None
    if plans is None:
        return False
    signature = function.signature
    hooks = SimpleNamespace(
        local_caller=_context.local_caller.get,
        context=_context.context.get,
        deadline_here=_context.deadline_here.get,
        traceparent_here=_context.traceparent_here.get,
        modules=sys.modules,
        traceparent=_context.traceparent,
        not_done=_NOT_DONE,
        other=_other,
        lost=_lost,
        late=_late,
        load=_exchange.load,
    )
    return FastCall(
        function,
        function.service,
        function.name,
        signature.hash,
        plans[0],
        plans[1],
        signature.result.plan,
        function.timeout,
        hooks,
    )


def _other(function: Function, connection: Connection, identity: int, deadline: float | None, reply: list[Any]) -> Any:
    """The service answered, and not with a result."""
    try:
        return _result(_exchange.answers(function, connection, identity, deadline, reply))
    except _exchange.NotTaken:
        return _NOT_DONE
    except _exchange.Unanswered:
        return _lost(function)


def _lost(function: Function) -> Any:
    if function.idempotent:
        return _UNANSWERED
    raise _exchange.lost(function)


def _late(function: Function) -> Any:
    error = DeadlineExceeded(f"{function.service} did not answer in time")
    error.may_have_run = True
    raise error


def describe(service: str) -> list[dict[str, Any]]:
    """What every service answers of its functions."""

    def pysecure_describe() -> list[dict[str, Any]]:
        raise NotImplementedError

    function = Function(pysecure_describe, service, True, 60.0, None)
    function.name = "pysecure.describe"
    answer: list[dict[str, Any]] = call(function, (), {})
    return answer


__all__ = ["call", "call_async", "close_connections", "describe", "receive", "stream"]
