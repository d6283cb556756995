"""Coroutines: one event loop, which is made for the first of them, in a thread of its own or in that of all else (`one`)."""
# What begins with _ is private to this package.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import _context, _messages
from . import forked
from .limits import MOMENT

if TYPE_CHECKING:
    from .._codec import Call
    from .calls import Calls
    from .one import OneThread


class Coroutines:
    """All that run in a process."""

    def __init__(self, calls: Calls, one: OneThread | None = None) -> None:
        self._calls = calls
        self._one = one
        self._lock = threading.Lock()
        self._loop: Any = None

    def run(self, call: Call) -> None:
        """Begins a call in the event loop."""
        if not self._calls.begin(call):
            return
        with self._lock:
            if self._loop is None:
                import asyncio

                self._loop = asyncio.new_event_loop()
                if self._one is not None:
                    self._one.take_loop(self._loop)
                else:
                    threading.Thread(target=self._run_loop, name="pysecure-rpc-asyncio", daemon=True).start()
        self._loop.call_soon_threadsafe(self._begin, call)

    def _run_loop(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._calls.only_here(forked.no_loop())

    def forked(self) -> None:
        """In a child. If it was forked by a coroutine, it comes back to the loop where that next waits, and nothing else may run."""
        if self._loop is not None:
            ready = getattr(self._loop, "_ready", None)
            if ready is not None:
                ready.clear()
            with suppress(Exception):
                self._loop.stop()

    def stop(self) -> None:
        """No more."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _begin(self, call: Call) -> None:
        if call.cancelled:
            self._calls.fail(call, "pysecure.Cancelled", "cancelled before it began", False)
            return
        call.task = self._loop.create_task(self._stream(call) if call.function.is_stream else self._call(call))
        if call.cancelled:
            # After its first step: a task that never began could not answer.
            self._loop.call_soon(call.task.cancel)

    async def _call(self, call: Call) -> None:
        import asyncio

        _context.enter(call)
        try:
            work = call.function.run(*call.args, **call.kwargs)
            if call.deadline is None:
                result = await work
            else:
                try:
                    result = await asyncio.wait_for(work, max(0.0, call.deadline - monotonic()))
                except asyncio.TimeoutError:
                    if monotonic() < call.deadline:
                        raise  # the function's own
                    self._calls.fail(call, "pysecure.DeadlineExceeded", "it took longer than it had time", True)
                    return
        except BaseException as error:
            self._calls.raised(call, error)
            return
        self._calls.returned(call, result)

    async def _stream(self, call: Call) -> None:
        import asyncio

        _context.enter(call)
        call.wake = asyncio.Event()
        items = call.function.run(*call.args, **call.kwargs)
        try:
            while await self._may_go_on(call):
                try:
                    value = await items.__anext__()
                except StopAsyncIteration:
                    self._calls.answer(call, _messages.end, None)
                    return
                if not self._calls.item(call, value):
                    return
        except BaseException as error:
            self._calls.raised(call, error)
        finally:
            await items.aclose()
            self._calls.only_here()

    async def _may_go_on(self, call: Call) -> bool:
        """Waits until there is credit, and takes it for one item. False if its time is over."""
        import asyncio

        connection = call.connection
        while True:
            call.wake.clear()
            with connection.lock:
                unread = False
                if call.credit > 0 and not connection.backlog:
                    unread = connection.principal.must_read()
                    if not unread:
                        call.credit -= 1
                        return True
            if unread:
                await asyncio.sleep(MOMENT)
                continue
            left = None if call.deadline is None else max(0.0, call.deadline - monotonic())
            try:
                await asyncio.wait_for(call.wake.wait(), left)
            except asyncio.TimeoutError:
                self._calls.fail(call, "pysecure.DeadlineExceeded", "the stream took longer than it had time", True)
                return False
