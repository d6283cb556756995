"""A stand-in for the supervisor: it makes the sockets, and starts services that are handed them."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Any

HERE = pathlib.Path(__file__).parent
#: The package, which has the compiled core in it or not.
SRC = pathlib.Path(os.environ.get("PYSECURE_RPC_PACKAGE") or HERE.parent / "src")
sys.path[:0] = [str(HERE), str(SRC)]

from pysecure_rpc import _codec  # noqa: E402

if "PYSECURE_RPC_PACKAGE" in os.environ:
    assert _codec.COMPILED, f"{SRC} has no compiled core that can be loaded"


def until(ask: Any) -> Any:
    """Asks again and again until there is an answer that is true."""
    while True:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.005)


def until_at_rest(pid: int) -> None:
    """Waits until all threads of a process sleep, so that nothing of what was asked of it is left to be done: by the kernel's account,
    twice the same with no thread woken in between."""

    def account() -> list[str] | None:
        found = []
        for thread in sorted(os.listdir(f"/proc/{pid}/task")):
            try:
                with open(f"/proc/{pid}/task/{thread}/status") as file:
                    lines = file.read().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                # It has ended since.
                return None
            if "State:\tS (sleeping)" not in lines:
                return None
            found += [thread, *(line for line in lines if "ctxt_switches" in line)]
        return found

    until(lambda: (before := account()) is not None and before == account())


class Supervisor:
    """Sockets for pairs of caller and callee; a folder for each caller."""

    def __init__(self) -> None:
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="pysecure-rpc-"))
        self.sockets: dict[tuple[str, str], socket.socket] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        #: What services gave to be kept: the name and the descriptor.
        self.stored: list[tuple[str, int]] = []

    def folder(self, caller: str) -> str:
        path = self.root / caller
        path.mkdir(exist_ok=True)
        return str(path)

    def start(self, service: str, callers: dict[str, Any], *options: str, wait: bool = True,
              environment: dict[str, str] | None = None, script: str = "functions.py",
              redirect: str = "", before: str = "", program: str = "") -> subprocess.Popen[bytes]:  # fmt: skip
        pairs = []
        for caller in callers:
            key = (caller, service)
            if key not in self.sockets:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                sock.bind(f"{self.folder(caller)}/{service}.sock")
                sock.listen(4096)
                self.sockets[key] = sock
            pairs.append(self.sockets[key])
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = self.root / f"notify-{service}"
        address.unlink(missing_ok=True)
        ready.bind(str(address))

        # Bash puts them where they belong; Python's own pipe to its child could be at these numbers.
        high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 100) for s in pairs]
        place = " ".join(f"{3 + n}<&{fd} {fd}<&-" for n, fd in enumerate(high))
        env = {
            **os.environ,
            "PYTHONPATH": f"{SRC}:{HERE}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LISTEN_FDS": str(len(pairs)),
            "LISTEN_FDNAMES": ":".join(callers),
            "PYSECURE_RPC_CALLERS": json.dumps(callers),
            "PYSECURE_RPC_DIR": self.folder(service),
            "NOTIFY_SOCKET": str(address),
            **(environment or {}),
        }
        process = subprocess.Popen(
            ["bash", "-c", f'{before} exec "$@" {place} {redirect}', "bash",
             *([program] if program else [sys.executable, str(HERE / script), service]), *options],
            env={k: v for k, v in env.items() if v},
            pass_fds=high,
            stderr=subprocess.PIPE if not wait else None,
        )
        for fd in high:
            os.close(fd)
        self.running[service] = process
        while wait:
            said, fds, _, _ = socket.recv_fds(ready, 4096, 4)
            if said == b"READY=1":
                break
            store, _, name = said.decode().partition("\nFDNAME=")
            assert store == "FDSTORE=1" and len(fds) == 1, said
            self.stored.append((name, fds[0]))
        ready.close()
        return process

    def act_as(self, caller: str) -> None:
        """This process is `caller` from now on."""
        from pysecure_rpc import _client

        _client.close_connections()
        os.environ["PYSECURE_RPC_DIR"] = self.folder(caller)

    def raw(self, caller: str, service: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(f"{self.folder(caller)}/{service}.sock")
        return sock

    def stop(self, service: str, number: int = signal.SIGTERM) -> int:
        process = self.running.pop(service)
        process.send_signal(number)
        return process.wait()

    def close(self) -> None:
        for service in list(self.running):
            self.stop(service, signal.SIGKILL)
        for sock in self.sockets.values():
            sock.close()
        for _, fd in self.stored:
            os.close(fd)
        shutil.rmtree(self.root)


class WithServices(unittest.TestCase):
    def setUp(self) -> None:
        self.supervisor = Supervisor()
        self.addCleanup(self.supervisor.close)
