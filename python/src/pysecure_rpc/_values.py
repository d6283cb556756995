"""Values of a kind that Python has not."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in `_errors`
if TYPE_CHECKING:
    from typing import Any


class Fd:
    """A descriptor that is handed to a service or back. What arrives is the receiver's: it is closed with this object."""

    __slots__ = ("_fd", "_owned", "__weakref__")

    def __init__(self, file: Any, owned: bool = False) -> None:
        self._fd: int = file if isinstance(file, int) else file.fileno()
        self._owned = owned

    def fileno(self) -> int:
        if self._fd < 0:
            raise ValueError("the descriptor is closed")
        return self._fd

    def detach(self) -> int:
        """The number, which is the caller's to close from now on."""
        fd, self._fd = self.fileno(), -1
        return fd

    def close(self) -> None:
        if self._owned and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError):
            pass

    def __enter__(self) -> Fd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Fd({self._fd})"


class Member:
    """A member of an enumeration of which only the name is known, or the value of a combination of flags."""

    __slots__ = ("name",)

    def __init__(self, name: str | int) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and other.name == self.name

    def __hash__(self) -> int:
        return hash(("pysecure_rpc.Member", self.name))

    def __repr__(self) -> str:
        return f"Member({self.name!r})"
