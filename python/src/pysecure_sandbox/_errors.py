"""What can go wrong with a sandbox, as exceptions. What the code in it does wrong is in the result, and never raised."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._result import Result


class SandboxError(Exception):
    """There is no sandbox, or it was lost. The message says what to do."""


class Refused(SandboxError):
    """What was asked for is not allowed here, or this host cannot do it."""


class Closed(SandboxError):
    """The sandbox or the session has ended. `result` is what a session came to, where that is known."""

    result: Result | None = None


class BudgetExceeded(RuntimeError):
    """Raised inside: a function has been called as often, or has carried as many bytes, as it may in one run."""


class NotApproved(PermissionError):
    """Raised inside: who was asked did not approve of the call."""
