"""What each function has come to: counts and times, in a page of memory that the supervisor reads when it is asked.

The layout is that of docs/rpc-protocol.md, "Figures". To count is a few additions; nothing is sent.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

SIZE = 65_536
#: Room for so many functions, and for what is none.
SLOTS = (SIZE - 16) // 320
BUCKETS = 28
_NAME = 64
#: In words of 8 bytes: what comes before the slots, and a slot.
_HEAD, _SLOT = 2, 40
_CALLS, _ERRORS, _DENIED, _TIME, _BUCKETS = 8, 9, 10, 11, 12
#: F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW: whoever reads it need not fear that it ends.
_SEALS = 1 | 2 | 4


class Page:
    """The figures of one process of a service. Whoever counts holds a lock."""

    def __init__(self, names: Iterable[str]) -> None:
        self.fd = os.memfd_create("rpc-figures", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, SIZE)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._map = mmap.mmap(self.fd, SIZE)
        #: Words of the machine, whose order is little-endian wherever PySecure runs.
        self._words = memoryview(self._map).cast("Q")
        self._map[:8] = b"PSRPCFG1"
        #: Where each name's slot begins, in words. The empty name is for names that are no function.
        self._at: dict[str, int] = {}
        for number, name in enumerate(["", *names][:SLOTS]):
            at = _HEAD + number * _SLOT
            text = name.encode()[: _NAME - 1].decode("utf-8", "ignore").encode()
            self._map[at * 8 : at * 8 + len(text)] = text
            self._at[name] = at
        self._words[1] = len(self._at)

    def ended(self, name: str, seconds: float, failed: bool) -> None:
        """A call has ended."""
        at = self._at.get(name)
        if at is None:
            return
        words = self._words
        words[at + _CALLS] += 1
        if failed:
            words[at + _ERRORS] += 1
        words[at + _TIME] += int(seconds * 1e9)
        bucket = int(seconds * 1e6).bit_length()
        words[at + _BUCKETS + (bucket if bucket < BUCKETS else BUCKETS - 1)] += 1

    def denied(self, name: str) -> None:
        """A caller was refused a function that it has no grant for, or a name that is none (`""`)."""
        at = self._at.get(name)
        if at is not None:
            self._words[at + _DENIED] += 1

    def figures(self) -> dict[str, dict[str, Any]]:
        """All that was counted, by function."""
        result = {}
        for name, at in self._at.items():
            if name:
                words = self._words[at : at + _SLOT]
                result[name] = {
                    "count": words[_CALLS],
                    "errors": words[_ERRORS],
                    "denied": words[_DENIED],
                    "seconds": words[_TIME] / 1e9,
                    "buckets": list(words[_BUCKETS:]),
                }
        return result

    def hand_over(self, address: str) -> None:
        """Gives the page to the supervisor, as sd_pid_notify_with_fds(3) does. Without it nothing is lost but figures."""
        data = b"FDSTORE=1\nFDNAME=rpc-figures"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect("\0" + address[1:] if address.startswith("@") else address)
                sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [self.fd]))])
        except OSError:
            pass

    def close(self) -> None:
        """Closes the descriptor; the memory stays, and so does the supervisor's."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
