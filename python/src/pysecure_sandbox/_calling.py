"""The sandbox's end of the shared socket: functions of the calling program, as code in the sandbox calls them.

The protocol is that of docs/reference/rpc-protocol.md; the sandbox is the caller. Several threads may call at once: whoever waits reads,
and puts what is for another aside.
"""
# What begins with _ is private to these packages.
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from pysecure_rpc import _messages
from pysecure_rpc._codec import Area, PeerArea, open_message, seal
from pysecure_rpc._connection import as_exception, receive, transmit
from pysecure_rpc._errors import ConnectionLost, ProtocolError, register_error
from pysecure_rpc._messages import END, ITEM, OK, Err, Hello, Value
from pysecure_rpc._values import Member

from ._errors import BudgetExceeded, NotApproved

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Sequence

    Answer = _messages.Err | _messages.Value

register_error(BudgetExceeded)
register_error(NotApproved)

#: Items of a stream that may be on their way.
_WINDOW = 16
#: What the task says of a function: it is a stream; members of enumerations are in its signature.
STREAM, ENUMERATIONS = 1, 2


class Calling:
    """The one connection to the calling program."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._next = 1
        self._out_area = Area()
        self._peer_area = PeerArea()
        self._greeted = False
        #: Why nothing can be called any more.
        self._over: str | None = None
        self._state = threading.Condition()
        #: Is a thread reading?
        self._reading = False
        #: What came for calls that are open, by number.
        self._open: dict[int, deque[Answer]] = {}

    def call(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Calls a function, and waits for its result."""
        identity, answers = self._send(name, args, kwargs, None)
        try:
            answer = self._answer(answers)
        finally:
            self._closed(identity)
        if answer.kind != OK:
            raise ProtocolError(f"{name} was not answered with one value")
        return answer.value

    def stream(self, name: str, args: Any, kwargs: dict[str, Any]) -> Generator[Any, None, Any]:
        """Calls a generator. It begins with the first item that is wanted."""
        identity, answers = self._send(name, args, kwargs, _WINDOW)
        had = 0
        ended = False
        try:
            while True:
                try:
                    answer = self._answer(answers)
                except BaseException:
                    ended = True
                    raise
                if answer.kind == END:
                    ended = True
                    return answer.value
                if answer.kind != ITEM:
                    raise ProtocolError(f"{name} was not answered with items")
                yield answer.value
                had += 1
                if had == _WINDOW // 2:
                    self._put(_messages.credit(identity, had, self._peer_area.read))
                    had = 0
        finally:
            self._closed(identity)
            if not ended and self._over is None:
                self._put(_messages.cancel(identity))

    def tell(self, name: str, value: Any) -> None:
        """Calls a function, and does not wait. Raises what `seal` does for a value that cannot cross."""
        with self._state:
            identity, self._next = self._next, self._next + 1
        message = seal(_messages.call(identity, name, [value], {}, None, None, self._peer_area.read, None))
        try:
            transmit(self._sock, message.data, message.fds)
        finally:
            message.close()

    def close(self) -> None:
        """Ends the connection."""
        self._sock.close()

    def end(self, why: str) -> None:
        """Nothing can be called from now on."""
        with self._state:
            self._over = why
            self._state.notify_all()

    def _send(self, name: str, args: Any, kwargs: dict[str, Any], credit: int | None) -> tuple[int, deque[Answer]]:
        if self._over is not None:
            raise ConnectionLost(self._over)
        with self._state:
            identity, self._next = self._next, self._next + 1
            # The area is one call's at a time.
            area = None if self._open else self._out_area
            answers = self._open[identity] = deque()
        try:
            message = seal(_messages.call(identity, name, list(args), kwargs, None, None, self._peer_area.read, credit), area)
            try:
                transmit(self._sock, message.data, message.fds)
            finally:
                message.close()
        except OSError as error:
            self._closed(identity)
            self.end("the calling program takes no more calls")
            raise ConnectionLost(f"the calling program takes no more calls ({error.strerror})") from None
        except BaseException:
            self._closed(identity)
            raise
        return identity, answers

    def _put(self, message: list[Any]) -> None:
        try:
            self._sock.send(seal(message).data)
        except OSError:
            pass  # the next receive says what is the matter

    def _closed(self, identity: int) -> None:
        with self._state:
            self._open.pop(identity, None)

    def _answer(self, answers: deque[Answer]) -> Value:
        """The next message of a call."""
        while True:
            with self._state:
                while not answers and self._reading and self._over is None:
                    self._state.wait()
                if answers:
                    answer = answers.popleft()
                    break
                if self._over is not None:
                    raise ConnectionLost(self._over)
                self._reading = True
            came: tuple[int, Answer] | None = None
            why: str | None = None
            try:
                came = self._receive()
            except (OSError, ProtocolError) as error:
                why = str(error) or "the calling program ended the connection"
            finally:
                with self._state:
                    self._reading = False
                    if came is not None:
                        self._hand_over(*came)
                    elif why is not None:
                        self._over = why
                    self._state.notify_all()
        if isinstance(answer, Err):
            raise as_exception(answer)
        return answer

    def _hand_over(self, identity: int, answer: Answer) -> None:
        if identity == 0:  # of the connection, and so of all that is open
            for answers in self._open.values():
                answers.append(answer)
            self._over = "the calling program ended the connection"
            return
        of = self._open.get(identity)
        if of is not None:
            of.append(answer)
            if len(self._open) == 1:
                self._out_area.free = True

    def _receive(self) -> tuple[int, Answer]:
        while True:
            data, fds = receive(self._sock, 0)
            if not data:
                raise ProtocolError("the calling program ended the connection")
            answer = _messages.parse_answer(open_message(data, fds, self._peer_area))
            if isinstance(answer, (Err, Value)):
                return answer.identity, answer
            if isinstance(answer, Hello) and not self._greeted:
                self._greeted = True


def functions(calling: Calling, named: list[list[Any]]) -> dict[str, Callable[..., Any]]:
    """The functions of a task, by name."""
    return {each[0]: _function(calling, *each) for each in named}


def _function(
    calling: Calling, name: str, flags: int, positions: Sequence[int] = (), names: Sequence[str] = ()
) -> Callable[..., Any]:
    if flags & STREAM:

        def function(*args: Any, **kwargs: Any) -> Any:
            return calling.stream(name, args, kwargs)
    elif flags & ENUMERATIONS:

        def function(*args: Any, **kwargs: Any) -> Any:
            args = tuple(_member(value) if at in positions else value for at, value in enumerate(args))
            kwargs = {key: _member(value) if key in names else value for key, value in kwargs.items()}
            return _named(calling.call(name, args, kwargs))
    else:

        def function(*args: Any, **kwargs: Any) -> Any:
            return calling.call(name, args, kwargs)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "api"
    return function


def _member(value: Any) -> Any:
    return Member(value) if isinstance(value, str) else value


def _named(value: Any) -> Any:
    """A result in which members of enumerations are their names: the classes are not here."""
    kind: Any = type(value)
    if kind is Member:
        return value.name
    of: Any = value
    if kind is dict:
        return {_named(key): _named(each) for key, each in of.items()}
    return kind(map(_named, of)) if kind in (list, tuple, set, frozenset) else value


#: The connection of this process, for its children: they have a copy, and must not use it.
_here: list[Calling] = []


def belongs_here(calling: Calling) -> None:
    """Only this process may use it."""
    _here[:] = [calling]


def _forget() -> None:
    for calling in _here:
        calling._over = "the functions are for the process that was started, and not for its children"
    _here.clear()


os.register_at_fork(after_in_child=_forget)
