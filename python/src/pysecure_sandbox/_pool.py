"""The way to whoever makes sandboxes: the supervisor's pool, by its socket, or one of this program's own.

A run is one message with the descriptors that belong to it; nothing comes back on this connection, so threads share it without a lock.
"""

from __future__ import annotations

import _socket
import json
import os
import shutil
import signal
import socket
import sys
import threading
from array import array
from typing import TYPE_CHECKING, Any

from ._errors import Closed, Refused, SandboxError

if TYPE_CHECKING:
    import subprocess

#: Where a service finds the sandboxes that it was granted.
FOLDER = "/run/pysecure/sandbox"
#: The longest message.
MOST = 65_536


def program() -> str:
    """The launcher: as PYSECURE_BINARY says, beside the interpreter, or in PATH."""
    given = os.environ.get("PYSECURE_BINARY")
    if given:
        return given
    found = shutil.which("pysecure", path=os.path.dirname(sys.executable)) or shutil.which("pysecure")
    if found is None:
        raise SandboxError("there is no `pysecure` in PATH: install it, or set PYSECURE_BINARY to where it is")
    return found


def usable() -> dict[str, dict[str, Any]]:
    """The manifest's sandboxes that this service may use, and what of their limits is this package's to hold.

    The folder does not tell: a service may pass it, and not list it.
    """
    try:
        found = json.loads(os.environ.get("PYSECURE_SANDBOXES") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def granted(name: str | None) -> str | None:
    """The socket of a manifest's sandbox, if this is a service that may use it. Without a name: the only one."""
    names = sorted(usable())
    if name is not None:
        if not name or "/" in name or name.startswith("."):
            raise ValueError(f"{name!r} cannot be the name of a sandbox")
        if names and name not in names:
            raise SandboxError(f"this service may not use the sandbox {name!r}, but {', '.join(names)}: see its `used_by`")
        path = os.path.join(FOLDER, name + ".sock")
        return path if name in names or os.path.exists(path) else None
    if len(names) > 1:
        raise SandboxError(f"this service may use several sandboxes, so say which: name= {' or '.join(names)}")
    return os.path.join(FOLDER, names[0] + ".sock") if names else None


#: Seconds within which all of a pool has ended of which a process has.
_SOON = 1.0


class Pool:
    """A connection to a pool, made when it is first needed and again when it was lost."""

    def __init__(self, path: str | None, profile: dict[str, Any]) -> None:
        #: The supervisor's socket; None for a pool of this program's own.
        self._path = path
        self._profile = profile
        self._lock = threading.Lock()
        self._control: _socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def owned(self) -> bool:
        """Is it this program's own?"""
        return self._path is None

    @property
    def is_connected(self) -> bool:
        return self._control is not None

    def send(self, message: bytes, fds: list[int]) -> None:
        """Asks for a run."""
        if len(message) > MOST:
            raise ValueError(f"a run's arguments, environment and names come to more than {MOST} bytes: use files or stdin")
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", fds))]
        for again in (False, True):
            control = self._control or self._connected()
            try:
                control.sendmsg([message], rights)
                return
            except OSError as error:
                if again or not isinstance(error, ConnectionError):
                    raise SandboxError(f"the pool of sandboxes takes no run: {error.strerror}") from None
                # The pool has ended since: nothing of this was taken.
                self._lost(control)

    def connect(self) -> None:
        """Has it ready, so that the first run need not wait for that."""
        if self._control is None:
            self._connected()

    def close(self) -> None:
        """Ends it, and all runs that it has."""
        with self._lock:
            self._closed = True
            control, self._control = self._control, None
            process, self._process = self._process, None
        if control is not None:
            control.close()
        if process is not None:
            process.wait()

    def forget(self) -> None:
        """In a child of this process, which makes a pool of its own when it needs one."""
        self._lock = threading.Lock()
        control, self._control = self._control, None
        process, self._process = self._process, None
        if control is not None:
            control.close()
        if process is not None:
            process.returncode = 0  # it is no child of this one's

    def end_if_gone(self) -> None:
        """Lets go of a pool of which a process has ended: the others follow, and until then they take runs that nobody carries out."""
        import subprocess

        control, process = self._control, self._process
        if control is None or process is None:
            return
        try:
            process.wait(_SOON)
        except subprocess.TimeoutExpired:
            return  # it goes on
        self._lost(control)

    def _lost(self, control: _socket.socket) -> None:
        with self._lock:
            if self._control is control:
                self._control = None
                control.close()
                process, self._process = self._process, None
                if process is not None:
                    _kill(process)

    def _connected(self) -> _socket.socket:
        with self._lock:
            if self._closed:
                raise Closed("this sandbox is closed")
            if self._control is None:
                self._control = self._own() if self._path is None else self._supervisor(self._path)
            return self._control

    def _supervisor(self, path: str) -> _socket.socket:
        control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            control.connect(path)
        except OSError as error:
            control.close()
            raise SandboxError(f"{path}: {error.strerror}; is the app up, and its supervisor's pool?") from None
        return control

    def _own(self) -> _socket.socket:
        import subprocess

        binary = program()
        control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            try:
                # In a session of its own: an interrupt from the terminal is for the program, which ends its runs itself.
                process = subprocess.Popen(
                    [binary, "sandbox", "pool"], stdin=its.fileno(), stdout=subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:
                raise SandboxError(f"{binary} cannot be started: {error.strerror}") from None
            finally:
                its.close()
            try:
                self._ready(control, process, binary)
            except BaseException:
                _kill(process)
                raise
        except BaseException:
            control.close()
            raise
        self._process = process
        return _socket.socket(fileno=control.detach())

    def _ready(self, control: socket.socket, process: subprocess.Popen[bytes], binary: str) -> None:
        try:
            control.send(json.dumps({"profile": self._profile}).encode())
            said = control.recv(MOST)
        except OSError:
            said = b""
        if not said:
            raise SandboxError(
                f"`{binary} sandbox pool` ended with {process.wait()} before it was ready"
                ": what it said is on standard error; is it of the same version as this package?"
            )
        event: dict[str, Any] = json.loads(said)
        if event.get("event") != "ready":
            raise Refused(str(event.get("error") or "the pool refused this profile"))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a pool and all that it has made: they are a session of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended already
    process.wait()
