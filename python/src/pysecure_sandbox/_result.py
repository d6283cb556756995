"""What a run came to."""
# What a sandbox says is of no known type until it has been looked at.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Usage:
    """What a run took: seconds, seconds of processors, and bytes at the highest."""

    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class Denied:
    """Something that a run wanted and was not allowed: of what kind, what exactly, by which rule, and what would allow it."""

    kind: str
    target: str
    rule: str = ""
    allow: str = ""


@dataclass(frozen=True)
class Change:
    """A file that a run with an overlay added, modified or deleted."""

    path: str
    kind: str
    size: int = 0


@dataclass(frozen=True)
class Raised:
    """An exception that ended the code: its class and text, and the line of the code. The sandbox says so, so it is untrusted."""

    type: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass
class Result:
    """What a run came to. `ok` says whether it ended by itself and well; `explain()` says what happened in words."""

    #: What it printed, as far as its limit lets it. What is no UTF-8 is replaced; `stdout_bytes` has it as it came.
    stdout_bytes: bytes = b""
    stderr_bytes: bytes = b""
    #: Of its last expression, if it can cross; else None, and `text` has its repr.
    value: Any = None
    text: str | None = None
    #: The exit code; None if a signal ended it, and then which.
    exit: int | None = None
    signal: int | None = None
    #: The limit that ended it: "wall", "cpu", "memory", "processes", "file_size", "files", "userdir", "output", or "stopped" for
    #: whoever killed it.
    limit: str | None = None
    usage: Usage = field(default_factory=Usage)
    #: "namespaces" or "landlock".
    isolation: str = ""
    denied: list[Denied] = field(default_factory=list[Denied])
    error: Raised | None = None
    #: With an overlay: what it did to its folder.
    changes: list[Change] = field(default_factory=list[Change])
    #: What was asked for by `get`, by name; in a session, the files that a cell made or changed.
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    made: list[str] = field(default_factory=list[str])
    #: How the overlay is ended.
    _settle: Callable[[str], None] | None = field(default=None, repr=False, compare=False)

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        """Did it end by itself, with 0, within its limits?"""
        return self.exit == 0 and self.limit is None

    def commit(self) -> None:
        """Makes the changes of an overlay those of its folder."""
        self._settled("commit")

    def discard(self) -> None:
        """Drops the changes of an overlay."""
        self._settled("discard")

    def _settled(self, how: str) -> None:
        settle, self._settle = self._settle, None
        if settle is None:
            raise SandboxError("there are no changes to decide on: the run had no overlay, or it was decided already")
        settle(how)

    def explain(self) -> str:
        """What happened and what can be done about it, as text for whoever wrote the code: a person or a model."""
        lines = [self._ending()]
        if self.limit in _LIMITS:
            lines.append(_LIMITS[self.limit])
        for denied in self.denied:
            rule = f" ({denied.rule})" if denied.rule else ""
            lines.append(f"Not allowed: {denied.kind}: {denied.target}{rule}.")
            if denied.allow:
                lines.append(f"  It would be allowed by: {denied.allow}")
        tail = self.stderr.rstrip().splitlines()[-20:]
        if tail and not self.ok:
            lines += ["The end of stderr:", *(f"  {line[:400]}" for line in tail)]
        return "\n".join(lines)

    def _ending(self) -> str:
        took = f"{self.usage.wall:.2f} s, {self.usage.cpu:.2f} s of CPU, {self.usage.memory / (1 << 20):.0f} MiB"
        if self.limit == "stopped":
            return f"The run was stopped from outside ({took})."
        if self.limit is not None:
            return f"The run was ended by its limit `{self.limit}` ({took})."
        if self.error is not None:
            where = f" in line {self.error.line}" if self.error.line else ""
            return f"The code raised {self.error}{where} ({took})."
        if self.signal is not None:
            return f"The run was ended by signal {self.signal} ({took})."
        return f"The run ended {'well' if self.exit == 0 else f'with exit code {self.exit}'} ({took})."


_LIMITS = {
    "wall": "It took too long. Do less at once, wait for nothing that does not come, and look for a loop without an end.",
    "cpu": "It computed for too long. Do less at once, use a faster algorithm, and look for a loop without an end.",
    "memory": "It needed too much memory. Read and keep less at once: go through data in parts.",
    "processes": "It started too many processes or threads.",
    "file_size": "It wrote a file that is too large. Write less, or several files.",
    "files": "It made too many files.",
    "userdir": "Its folder is full. Remove files that are not needed, or write less.",
    "output": "It printed too much. Print a summary, or write to a file.",
}


def from_event(event: dict[str, Any], stdout: bytes, stderr: bytes) -> Result:
    """What the pool says of a run that ended."""
    usage: dict[str, Any] = event.get("usage") or {}
    return Result(
        stdout,
        stderr,
        exit=event.get("exit"),
        signal=event.get("signal"),
        limit=event.get("limit"),
        usage=Usage(usage.get("wall") or 0.0, usage.get("cpu") or 0.0, usage.get("memory") or 0),
        isolation=event.get("isolation") or "",
        denied=[_denied(each) for each in event.get("denied") or ()],
        changes=[Change(each["path"], each["kind"], each.get("size") or 0) for each in event.get("changes") or ()],
    )


def _denied(each: dict[str, Any]) -> Denied:
    def text(name: str) -> str:
        return str(each.get(name) or "")

    return Denied(text("kind"), text("target"), text("rule"), text("allow"))


def told(result: Result, said: dict[Any, Any] | None) -> None:
    """Adds what the sandbox itself says of its end. It is untrusted, so nothing is taken but what is of its type."""
    if said is None:
        return
    text: Any = said.get("text")
    error: Any = said.get("error")
    result.value = said.get("value")
    result.text = text if isinstance(text, str) else None
    if not isinstance(error, dict):
        return
    kind, message, line = error.get("type"), error.get("message"), error.get("line")
    if isinstance(kind, str) and isinstance(message, str):
        result.error = Raised(kind[:200], message, line if type(line) is int else None)
        if kind == "MemoryError" and result.limit is None:
            result.limit = "memory"
