"""Calls within this process, for tests: `pysecure_rpc.local()`."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import _context
from ._codec import PeerArea, open_message, seal
from ._exchange import until

if TYPE_CHECKING:
    from ._function import Function


def call(function: Function, args: Any, kwargs: Any, caller: str | None) -> Any:
    """Runs a function here, as if `caller` called it. A generator is returned as it is."""
    plain, named, current = _arrived(function, args, kwargs, caller)
    if function.is_stream:
        return function.run(*plain, **named)
    token = _context.enter(current)
    try:
        return _returned(function, function.run(*plain, **named))
    finally:
        _context.leave(token)


async def call_async(function: Function, args: Any, kwargs: Any, caller: str | None) -> Any:
    """The same for a coroutine."""
    plain, named, current = _arrived(function, args, kwargs, caller)
    token = _context.enter(current)
    try:
        return _returned(function, await function.run(*plain, **named))
    finally:
        _context.leave(token)


def _arrived(function: Function, args: Any, kwargs: Any, caller: str | None) -> tuple[Any, Any, _context.Context]:
    signature = function.signature
    plain, named = signature.convert(args, kwargs, False)
    plain, named = signature.convert(_through(plain), _through(named), True)
    return plain, named, _context.Context(caller, until(function), _context.traceparent())


def _returned(function: Function, result: Any) -> Any:
    hint = function.signature.result
    return hint.load(_through(hint.dump(result)))


def _through(value: Any) -> Any:
    """There and back over the wire, so that a test finds what could not cross."""
    message = seal([0x7F, value])
    try:
        return open_message(message.data, [os.dup(fd) for fd in message.fds], PeerArea())[1]
    finally:
        message.close()
