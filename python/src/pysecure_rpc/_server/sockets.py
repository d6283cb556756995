"""The sockets that a service was handed, and who may call what on them."""

from __future__ import annotations

import json
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from .._function import Function

_FIRST_FD = 3


class ServiceError(Exception):
    """The service cannot start; the message says what to do."""


class Listener(NamedTuple):
    """A listening socket, whose it is, and which functions that caller may call. None: callers have no names."""

    sock: socket.socket
    caller: str | None
    functions: dict[str, Function]


def listeners(service: str, functions: dict[str, Function]) -> tuple[list[Listener], list[str]]:
    """The sockets of a service, and the paths of those that it bound itself where it was handed none."""
    policy = os.environ.get("PYSECURE_RPC_CALLERS")
    handed = _handed(service, policy is not None)
    if handed or policy is not None:
        if policy is None:
            raise ServiceError(
                f"{service}: it has callers' sockets, but PYSECURE_RPC_CALLERS does not say what each may call"
            )
        return _granted(service, functions, handed, policy), []
    folder = os.environ.get("PYSECURE_RPC_DIR")
    if not folder:
        raise ServiceError(
            f"{service}: it was handed no sockets (is it started by pysecure, and does its manifest name "
            "`callers`?). Outside of pysecure, set PYSECURE_RPC_DIR to a folder for sockets"
        )
    path = os.path.join(folder, service + ".sock")
    everybody = {name: function for name, function in functions.items() if function.callers is None}
    return [Listener(_bound(service, path), None, everybody)], [path]


def _handed(service: str, wanted: bool) -> list[tuple[socket.socket, str]]:
    """sd_listen_fds_with_names(3): the sockets of callers, and their names. `wanted`: it cannot start without."""
    count = int(os.environ.get("LISTEN_FDS", "0") or "0")
    pid = os.environ.get("LISTEN_PID", str(os.getpid()))
    if count and pid != str(os.getpid()):
        if wanted:
            raise ServiceError(
                f"{service}: its sockets were handed to process {pid}, and this is {os.getpid()}: "
                "a script that starts it should end in `exec python3 …`"
            )
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found: list[tuple[socket.socket, str]] = []
    for at in range(count):
        fd = _FIRST_FD + at
        name = names[at] if at < len(names) else ""
        if name == "listen" or not stat.S_ISSOCK(os.fstat(fd).st_mode):
            continue
        sock = socket.socket(fileno=os.dup(fd))
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
            sock.close()
            continue
        os.set_inheritable(sock.fileno(), False)
        os.set_inheritable(fd, False)
        found.append((sock, name))
    return found


def _granted(
    service: str, functions: dict[str, Function], handed: list[tuple[socket.socket, str]], policy: str
) -> list[Listener]:
    try:
        found = json.loads(policy)
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ServiceError(f"{service}: PYSECURE_RPC_CALLERS is not the JSON it should be: {error}") from None
    callers = cast("dict[str, Any]", found)
    for caller, granted in callers.items():
        _check_grant(service, functions, caller, granted)
    result: list[Listener] = []
    for sock, caller in handed:
        granted = callers.get(caller, [])
        may = {
            name: function
            for name, function in functions.items()
            if (granted == "*" or name in granted) and (function.callers is None or caller in function.callers)
        }
        result.append(Listener(sock, caller, may))
    return result


def _check_grant(service: str, functions: dict[str, Function], caller: str, granted: Any) -> None:
    names: list[Any] = [] if granted == "*" else granted
    is_list = isinstance(names, list)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_list or not all(isinstance(name, str) for name in names):
        raise ServiceError(f"{service}: PYSECURE_RPC_CALLERS: {caller} has neither \"*\" nor a list of names")
    forgotten = sorted(set(names) - set(functions))
    if forgotten:
        raise ServiceError(
            f"{service}: its `callers` grant {', '.join(forgotten)} to {caller}, but no function of that name "
            f"has @rpc(run_as={service!r}) in what it has imported: import its module before start_service, "
            "or mend the manifest"
        )


def _bound(service: str, path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except FileNotFoundError:
        pass
    except ConnectionRefusedError:
        os.unlink(path)  # left by one that is gone
    else:
        sock.close()
        raise ServiceError(f"{service}: {path} is served already")
    old = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError as error:
        raise ServiceError(f"{service}: cannot make {path}: {error.strerror}") from None
    finally:
        os.umask(old)
    sock.listen(4096)
    return sock
