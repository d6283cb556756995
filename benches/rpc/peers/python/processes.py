"""Servers and callers of all implementations: how they are started, placed on CPUs, asked and ended."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: All that was started: none outlives the benchmark.
STARTED: list[subprocess.Popen[bytes] | subprocess.Popen[str]] = []
HERE = pathlib.Path(__file__).resolve().parent
CALLER = "web"


class Unavailable(Exception):
    """An implementation that cannot be measured here, and why."""


@dataclasses.dataclass(frozen=True)
class Participant:
    """An implementation, and what runs it."""

    label: str
    implementation: str
    #: Of our implementation in Python: the package, and whether it leaves its core out.
    package: pathlib.Path | None = None
    plain: bool = False
    #: Of our implementations: whether they spin before they wait.
    spins: bool = True
    #: Of an implementation in Rust: the program.
    program: pathlib.Path | None = None

    @property
    def ours(self) -> bool:
        return self.implementation.startswith("ours")

    @property
    def language(self) -> str:
        return "Rust" if self.program else "Python"

    def command(self, action: str, folder: pathlib.Path) -> list[str]:
        run = [str(self.program)] if self.program else [sys.executable, str(HERE / "child.py")]
        return [*run, action, self.implementation, str(folder)]

    def environment(self, folder: pathlib.Path) -> dict[str, str]:
        return {
            **os.environ,
            "PYSECURE_RPC_DIR": str(folder),
            "PYSECURE_RPC_PACKAGE": str(self.package or HERE),
            "PYSECURE_RPC_PURE": "1" if self.plain else "0",
            "PYSECURE_RPC_SPIN": "1" if self.spins else "0",
        }


@contextmanager
def on(cpus: set[int]) -> Iterator[None]:
    """What is started meanwhile runs on these CPUs alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """Ours is handed its socket with a caller's name and a policy, as the supervisor does it: all that it checks is on."""

    def __init__(self, participant: Participant, root: pathlib.Path, policy: object = ("login", "echo")) -> None:
        self.folder = root / str(len(list(root.iterdir())))
        self.folder.mkdir()
        self.participant = participant
        self.path = str(self.folder / "bench.sock")
        command, environment = participant.command("serve", self.folder), participant.environment(self.folder)
        handed = None
        if participant.ours:
            handed = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            handed.bind(self.path)
            handed.listen(4096)
            environment |= {
                "LISTEN_FDS": "1",
                "LISTEN_FDNAMES": CALLER,
                "PYSECURE_RPC_CALLERS": json.dumps({CALLER: policy}),
            }
            # Bash puts it where it belongs: Python's own pipe to its child could be at that number.
            command = ["bash", "-c", f'exec "$@" 3<&{handed.fileno()}', "bash", *command]
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, stderr=log, stdout=log, pass_fds=(handed.fileno(),) if handed else ()
            )
        STARTED.append(self.process)
        if handed:
            handed.close()
        while not self._answers():
            if self.process.poll() is not None:
                raise Unavailable(last_line(self.log))
            time.sleep(0.01)

    def _answers(self) -> bool:
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            with socket.socket(socket.AF_UNIX, kind) as probe:
                try:
                    probe.connect(self.path)
                    return True
                except OSError:
                    pass
        return False

    def memory(self) -> int:
        """Bytes of its own and its share of others'."""
        with open(f"/proc/{self.process.pid}/smaps_rollup") as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Caller:
    def __init__(self, server: Server) -> None:
        self.participant = server.participant
        self.log = server.folder / f"log-{len(list(server.folder.iterdir()))}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                server.participant.command("call", server.folder),
                env=server.participant.environment(server.folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        STARTED.append(self.process)

    def ready(self) -> None:
        if self.hear() != "ready":
            raise Unavailable(last_line(self.log))

    def tell(self, asked: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(asked + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ask(self, asked: str) -> float | None:
        try:
            self.tell(asked)
            said = self.hear()
        except BrokenPipeError:
            said = ""
        if not said:
            raise Unavailable(last_line(self.log))
        return None if said == "none" else float(said)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def last_line(log: pathlib.Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it ended without a word"


def end_all() -> None:
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.wait()
