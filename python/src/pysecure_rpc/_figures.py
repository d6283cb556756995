"""Counts and times of each function, in a page of memory that the supervisor reads when somebody asks it.

docs/reference/rpc-protocol.md, "Figures", has the layout. Counting takes a few additions and sends nothing.
"""

from __future__ import annotations

import fcntl
import os
import socket
from array import array
from typing import TYPE_CHECKING, Any

from ._codec import Counters

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE = 65_536
#: In bytes: the header before the slots, a slot, and the name in it with its NUL.
_HEAD, _SLOT, _NAME = 16, 320, 64
#: A page has room for so many functions, the empty name among them.
SLOTS = (SIZE - _HEAD) // _SLOT
#: F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW: the supervisor maps the page, which must not become shorter under it.
_SEALS = 1 | 2 | 4


class Page:
    """The figures of one process of a service. The caller of each method that counts holds a lock."""

    def __init__(self, names: Iterable[str]) -> None:
        self.fd = os.memfd_create("rpc-figures", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, SIZE)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        #: The slot of each name, which is the same in all pages with these names. Calls of unknown functions count under the empty name.
        self._slots: dict[str, int] = {}
        for number, name in enumerate(["", *names][:SLOTS]):
            text = name.encode()[: _NAME - 1].decode("utf-8", "ignore").encode()
            os.pwrite(self.fd, text, _HEAD + number * _SLOT)
            self._slots[name] = number
        os.pwrite(self.fd, b"PSRPCFG1" + len(self._slots).to_bytes(4, "little"), 0)
        #: The counters in the page.
        self.numbers = Counters(self.fd)

    def slot(self, name: str) -> int | None:
        """The number of a function's slot, if there is room for it."""
        return self._slots.get(name)

    def ended(self, name: str, seconds: float, failed: bool) -> None:
        """A call has ended."""
        slot = self._slots.get(name)
        if slot is not None:
            self.numbers.ended(slot, seconds, failed)

    def denied(self, name: str) -> None:
        """A caller was refused a function: it has no grant for it, or the function does not exist (`""`)."""
        slot = self._slots.get(name)
        if slot is not None:
            self.numbers.denied(slot)

    def figures(self) -> dict[str, dict[str, Any]]:
        """All counters, by function."""
        result: dict[str, dict[str, Any]] = {}
        for name, slot in self._slots.items():
            if name:
                count, errors, denied, spent, *buckets = self.numbers.read(slot)
                result[name] = {
                    "count": count,
                    "errors": errors,
                    "denied": denied,
                    "seconds": spent / 1e9,
                    "buckets": buckets,
                }
        return result

    def hand_over(self, address: str) -> None:
        """Gives the page to the supervisor, as sd_pid_notify_with_fds(3) does. If that fails, only the figures are lost."""
        data = b"FDSTORE=1\nFDNAME=rpc-figures"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect("\0" + address[1:] if address.startswith("@") else address)
                sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [self.fd]))])
        except OSError:
            pass

    def close(self) -> None:
        """Closes this process's descriptor. The memory stays, and so does the supervisor's descriptor."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
