"""Calls beside the peers' and beside bare sockets, in Python and in Rust, in one run and in turn.

    python3 benches/rpc/peers/python [--rounds N] [--core PACKAGE] [--rust PROGRAM] [--quick] …

`benches/rpc/peers/run` builds and installs all of it and runs this. Every round asks every implementation once. A figure is the median of the rounds',
a ratio the median of the rounds' ratios. What cannot be measured is named at the end. `--quick` takes a moment and its figures mean
nothing: it asks only what needs no more than the standard library, so that this program is known to work, and fails if it does not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
from typing import Callable

from implementations import ANSWERED, ASKED
from processes import HERE, Caller, Participant, Server, Unavailable, end_all, on
from value_types import SAME, VALUE_TYPES

SOURCE = HERE.parents[3] / "python/src"
STANDARD = ("stream", "packet", "json", "xmlrpc")
#: What each implementation is, in the order of the table.
PYTHON = {
    "stream": "raw stream",
    "packet": "raw SEQPACKET",
    "msgspec": "msgspec on SEQPACKET",
    "json": "a line of JSON",
    "pyro5-msgpack": "Pyro5, msgpack",
    "rpyc": "rpyc",
    "varlink": "varlink",
    "pyro5": "Pyro5, serpent",
    "xmlrpc": "xmlrpc",
    "grpc": "gRPC",
    "zerorpc": "zerorpc",
}
RUST = {
    "stream": "raw stream",
    "packet": "raw SEQPACKET",
    "rmp": "rmp-serde on SEQPACKET",
    "ours": "ours",
    "varlink": "varlink",
    "tarpc": "tarpc, bincode",
    "tonic": "tonic",
}
CORE, PLAIN, TWICE = "ours, compiled core", "ours, plain Python", "ours, compiled core, 2 processes"
STILL, RUST_STILL = "ours, compiled core, no spin", "ours, no spin"

#: Seconds that an implementation is asked for, in a round.
TURN = 0.1

Figures = dict[str, list[float]]


class Run:
    def __init__(self, options: argparse.Namespace, root: pathlib.Path) -> None:
        self.quick = options.quick
        self.rounds = 1 if options.quick else options.rounds
        self.root = root
        #: What cannot be measured, and why.
        self.absent: dict[str, str] = {}
        self.participants: dict[str, Participant] = {}
        self.core = options.core
        for implementation, label in PYTHON.items():
            if not self.quick or implementation in STANDARD:
                self.add(Participant(f"Python: {label}", implementation))
        self.add(Participant(f"Python: {PLAIN}", "ours", options.core or SOURCE, plain=True))
        for label, implementation, spins in ((CORE, "ours", True), (STILL, "ours", False), (TWICE, "ours-twice", True)):
            if options.core:
                self.add(Participant(f"Python: {label}", implementation, options.core, spins=spins))
            elif not self.quick:
                self.absent[f"Python: {label}"] = "it was not built"
        for implementation, label in [*RUST.items(), ("ours", RUST_STILL)]:
            if options.rust:
                spins = label != RUST_STILL
                self.add(Participant(f"Rust: {label}", implementation, program=options.rust, spins=spins))
            elif not self.quick:
                self.absent[f"Rust: {label}"] = "it was not built"
        self.small: Figures = {}
        self.large: Figures = {}
        self.unpinned: Figures = {}
        #: Server and caller each on a CPU of its own.
        self.apart: Figures = {}
        self.rate: Figures = {}
        self.memory: dict[str, float] = {}
        self.imports: Figures = {}
        self.same: dict[str, dict[str, str]] = {}

    def add(self, participant: Participant) -> None:
        self.participants[participant.label] = participant

    def start(self, policy: object = ("login", "echo")) -> list[Server]:
        """A server of each implementation that can be had."""
        servers = []
        for label, participant in list(self.participants.items()):
            try:
                servers.append(Server(participant, self.root, policy))
            except Unavailable as why:
                self.drop(label, why)
        return servers

    def drop(self, label: str, why: Unavailable) -> None:
        self.absent[label] = str(why)
        self.participants.pop(label, None)

    def callers(self, servers: list[Server]) -> list[Caller]:
        callers = []
        for server in servers:
            caller = Caller(server)
            try:
                caller.ready()
                callers.append(caller)
            except Unavailable as why:
                self.drop(server.participant.label, why)
                caller.end()
        return callers

    def latency(self, figures: Figures, asked: str, most: int, servers_on: set[int], callers_on: set[int]) -> None:
        """Medians in microseconds of one caller an implementation, in turn."""
        with on(servers_on):
            servers = self.start()
        with on(callers_on):
            callers = self.callers(servers)
        times: dict[str, int] = {}
        for turn in range(-1, self.rounds):
            say(f"{asked} calls, servers on {servers_on}, callers on {callers_on}, round {turn + 1} of {self.rounds}")
            # There and back again, so that none is always after the same one.
            for caller in callers if turn % 2 else callers[::-1]:
                label = caller.participant.label
                if label not in self.participants or (turn >= 0 and label not in times):
                    continue
                try:
                    taken = caller.ask(f"{asked} {times.get(label, 5)}")
                except Unavailable as why:
                    self.drop(label, why)
                    continue
                if taken is None:
                    continue
                if turn < 0:  # how many of its calls make a turn
                    times[label] = 5 if self.quick else max(5, min(most, int(TURN * 1e6 / taken)))
                else:
                    figures.setdefault(label, []).append(taken)
        for process in [*callers, *servers]:
            process.end()

    def throughput(self, clients: int, seconds: float, rounds: int) -> None:
        servers = self.start()
        for turn in range(rounds):
            say(f"{clients} clients, round {turn + 1} of {rounds}")
            for server in servers if turn % 2 else servers[::-1]:
                label = server.participant.label
                if label not in self.participants:
                    continue
                running = [Caller(server) for _ in range(clients)]
                try:
                    for each in running:
                        each.ready()
                    for each in running:
                        each.tell(f"run {seconds}")
                    counts = [each.hear() for each in running]
                    if not all(counts):
                        raise Unavailable(f"one of {clients} callers ended")
                    self.rate.setdefault(label, []).append(sum(map(float, counts)))
                except Unavailable as why:
                    self.drop(label, why)
                finally:
                    for each in running:
                        each.end()
        for server in servers:
            server.end()

    def idle(self, connections: int) -> None:
        """What a connection that has made a call and waits adds to its server."""
        say(f"memory of {connections} connections")
        for label, participant in self.participants.items():
            if not participant.ours and participant.implementation not in ("stream", "packet") or participant.implementation == "ours-twice":
                continue
            server = Server(participant, self.root)
            # The first ones find memory that was freed before. A service in Rust takes no more than 256 of one caller.
            first, added = (50, min(connections, 200)) if participant.program else (connections, connections)
            kept = [connect(server, participant) for _ in range(first)]
            before = server.memory()
            kept += [connect(server, participant) for _ in range(added)]
            self.memory[label] = (server.memory() - before) / added
            for sock in kept:
                sock.close()
            server.end()

    def kinds(self) -> None:
        for label, participant in self.participants.items():
            if participant.ours and participant.language == "Python" and participant.implementation == "ours" and not label.endswith(STILL):
                server = Server(participant, self.root, "*")
                self.same[label.removeprefix("Python: ")] = self.ask_kinds("ours", participant.environment(server.folder))
                server.end()
        for codec in ("json",) if self.quick else ("msgspec", "msgspec-without-hints", "serpent", "msgpack", "json"):
            try:
                environment = {**os.environ, "PYSECURE_RPC_PACKAGE": str(SOURCE)}
                self.same[codec.replace("-", " ")] = self.ask_kinds(codec, environment)
            except Unavailable as why:
                self.absent[f"kinds of value by {codec}"] = str(why)

    def ask_kinds(self, codec: str, environment: dict[str, str]) -> dict[str, str]:
        ended = subprocess.run(
            [sys.executable, str(HERE / "value_types.py"), codec], env=environment, capture_output=True, text=True
        )
        if ended.returncode:
            raise Unavailable((ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"])[-1])
        return json.loads(ended.stdout)

    def importing(self, rounds: int) -> None:
        """Milliseconds, each in a fresh interpreter, which times it itself; the first of each, that may compile, does not count."""
        ask = "import time; start = time.perf_counter(); import {}; print((time.perf_counter() - start) * 1e3)"
        modules = ["pysecure_rpc"] if self.quick else ["pysecure_rpc", "msgspec", "grpc"]
        environment = {**os.environ, "PYTHONPATH": str(self.core or SOURCE)}
        for turn in range(rounds + 1):
            for module in modules:
                command = [sys.executable, "-c", ask.format(module)]
                ended = subprocess.run(command, env=environment, capture_output=True, text=True)
                if ended.returncode:
                    self.absent[f"import of {module}"] = ended.stderr.strip().splitlines()[-1]
                elif turn:
                    self.imports.setdefault(module, []).append(float(ended.stdout))


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def connect(server: Server, participant: Participant) -> socket.socket:
    """A connection over which one call was made."""
    stream = participant.implementation == "stream"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if stream else socket.SOCK_SEQPACKET)
    sock.connect(server.path)
    if participant.ours:
        sock.recv(65_536)  # its HELLO
    if stream:
        sock.sendall(struct.pack("<II", len(ASKED), len(ANSWERED)))
    sock.send(ASKED)
    if len(sock.recv(65_536)) != len(ANSWERED):
        raise SystemExit(f"{participant.label}: a wrong answer")
    return sock


def ratio(figures: Figures, above: str, below: str) -> float | None:
    """The median of the rounds' ratios."""
    if above not in figures or below not in figures:
        return None
    return statistics.median(a / b for a, b in zip(figures[above], figures[below]))


def us(value: float) -> str:
    return f"{value:.1f} µs" if value < 100 else f"{value:,.0f} µs"


def per_second(value: float) -> str:
    return f"{value / 1e3:.1f} k/s"


def ms(value: float) -> str:
    return f"{value:.1f} ms"


class Table:
    def __init__(self) -> None:
        print("| what | ours | peer | ratio | must reach | met? |")
        print("| --- | --- | --- | --- | --- | --- |")

    def row(self, what: str, ours: str, peer: str, seen: float | None, sign: str, bound: float, unit: str = "") -> None:
        if seen is None:
            print(f"| {what} | | | not measured | {sign} {bound:g}{unit} | |")
            return
        met = seen <= bound if sign == "≤" else seen >= bound
        said = str(seen) if isinstance(seen, int) else f"{seen:.2f}"
        verdict = "met" if met else "**missed**"
        print(f"| {what} | {ours} | {peer} | {said}{unit} | {sign} {bound:g}{unit} | {verdict} |")

    def compared(self, what: str, figures: Figures, ours: str, peer: str, show: Callable[[float], str], sign: str,
                 bound: float, turned: bool = False) -> None:  # fmt: skip
        """`turned`: how many times the peer's figure is ours, and not the other way round."""
        seen = ratio(figures, peer, ours) if turned else ratio(figures, ours, peer)
        name = peer.split(": ", 1)[1]
        mine = show(statistics.median(figures[ours])) if ours in figures else ""
        theirs = f"{name}: {show(statistics.median(figures[peer]))}" if peer in figures else ""
        self.row(what, mine, theirs, seen, sign, bound)


def report(run: Run, clients: int) -> None:
    core, plain, stream = f"Python: {CORE}", f"Python: {PLAIN}", "Python: raw stream"
    rust, rust_stream = "Rust: ours", "Rust: raw stream"
    grpc, pyro = "Python: gRPC", "Python: Pyro5, serpent"
    table = Table()
    small, large, rate = run.small, run.large, run.rate
    table.compared("Python, small call, pinned", small, core, stream, us, "≤", 1)
    table.compared("the same, times as fast", small, core, pyro, us, "≥", 6, turned=True)
    table.compared("the same, times as fast", small, core, grpc, us, "≥", 30, turned=True)
    table.compared("the same in plain Python", small, plain, stream, us, "≤", 2.5)
    table.compared(f"Python, {clients} clients", rate, core, stream, per_second, "≥", 1.5)
    table.compared("the same", rate, core, grpc, per_second, "≥", 25)
    table.compared("1 MiB of bytes there and back, Python, pinned", large, core, stream, us, "≤", 0.5)
    table.compared("the same, Rust", large, rust, rust_stream, us, "≤", 0.5)
    table.compared("Rust, small call, pinned", small, rust, rust_stream, us, "≤", 1)
    table.compared(f"Rust, {clients} clients", rate, rust, "Rust: tarpc, bincode", per_second, "≥", 2.5)
    table.compared("Python, one client, not pinned", run.unpinned, core, stream, us, "≤", 0.25)
    table.compared("the same, Rust", run.unpinned, rust, rust_stream, us, "≤", 0.25)
    table.compared("Python, one client, it and the server each on a CPU", run.apart, core, stream, us, "≤", 0.25)
    table.compared("the same, Rust", run.apart, rust, rust_stream, us, "≤", 0.25)
    table.compared(f"what the spin costs {clients} clients, Python", rate, core, f"Python: {STILL}", per_second, "≥", 0.9)
    table.compared("the same, Rust", rate, rust, f"Rust: {RUST_STILL}", per_second, "≥", 0.9)
    imports = {f"x: {k}": v for k, v in run.imports.items()}
    table.compared("first import of `pysecure_rpc`", imports, "x: pysecure_rpc", "x: msgspec", ms, "≤", 0.25)
    for label, seen in run.same.items():
        if label in (CORE, PLAIN):
            others = ", ".join(f"{k} {count(v)}" for k, v in run.same.items() if k not in (CORE, PLAIN))
            table.row(f"{len(VALUE_TYPES)} kinds of value come back identical, {label}", str(count(seen)), others, count(seen), "≥", len(VALUE_TYPES))
    for label, seen in run.memory.items():
        if run.participants[label].ours and not label.endswith("no spin"):
            bare = run.memory.get(f"{run.participants[label].language}: raw SEQPACKET")
            peer = f"raw SEQPACKET: {bare / 1024:.1f} KiB" if bare is not None else ""
            table.row(f"memory per idle connection, {label}", f"{seen / 1024:.1f} KiB", peer, seen / 1024, "≤", 8, " KiB")  # fmt: skip

    print("\n| implementation | small call, pinned | × raw stream | 1 MiB | × | not pinned | × | on two CPUs | × "
          f"| {clients} clients | × |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for label, participant in sorted(run.participants.items(), key=lambda p: (p[1].language, statistics.median(small.get(p[0], [0])))):
        bare = f"{participant.language}: raw stream"
        cells = [label]
        for figures, show in ((small, us), (large, us), (run.unpinned, us), (run.apart, us), (rate, per_second)):
            seen = ratio(figures, label, bare)
            cells += [show(statistics.median(figures[label])), f"{seen:.2f}"] if seen is not None else ["", ""]
        print("| " + " | ".join(cells) + " |")

    for label, kinds in run.same.items():
        lost = ", ".join(f"{kind} ({what})" for kind, what in kinds.items() if what != SAME)
        if lost:
            print(f"\nOf the {len(VALUE_TYPES)} kinds, not identical by {label}: {lost}")
    if run.absent:
        print("\nNot measured:")
        for label, why in run.absent.items():
            print(f"- {label}: {why}")


def count(kinds: dict[str, str]) -> int:
    return sum(what == SAME for what in kinds.values())


def machine() -> None:
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{model}, {len(os.sched_getaffinity(0))} CPUs, Linux {platform.release()}, Python {platform.python_version()}; "
          f"load before it {os.getloadavg()[0]:.2f}")  # fmt: skip
    versions = []
    for line in (HERE / "requirements.txt").read_text().split():
        name = line.partition("==")[0]
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} is not installed")
    lock = (HERE.parent / "rust/Cargo.lock").read_text().split("[[package]]")
    for package in lock:
        words = package.split('"')
        if len(words) > 3 and words[1] in ("rmp-serde", "tarpc", "tonic", "varlink"):
            versions.append(f"{words[1]} (Rust) {words[3]}")
    print(", ".join(versions) + "\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--core", type=pathlib.Path, help="a folder with pysecure_rpc and its compiled core")
    parser.add_argument("--rust", type=pathlib.Path, help="the program of benches/rpc/peers/rust")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    clients, connections = (2, 20) if options.quick else (8, 1000)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and what was started ends
    root = pathlib.Path(tempfile.mkdtemp(prefix="pysecure-peers-"))
    try:
        machine()
        run = Run(options, root)
        every = os.sched_getaffinity(0)
        one, another = {max(every)}, {min(every)}
        run.latency(run.small, "small", 5000, one, one)
        run.latency(run.large, "large", 100, one, one)
        run.latency(run.unpinned, "small", 5000, every, every)
        if one != another:
            run.latency(run.apart, "small", 5000, one, another)
        run.throughput(clients, 0.05 if options.quick else 1.0, max(1, run.rounds // 3))
        run.idle(connections)
        run.kinds()
        run.importing(run.rounds)
        report(run, clients)
    finally:
        end_all()
        shutil.rmtree(root)
    if options.quick:
        lost = [label for label, kinds in run.same.items() if label in (CORE, PLAIN) and count(kinds) < len(VALUE_TYPES)]
        if run.absent or lost:
            sys.exit(f"did not work: {', '.join([*run.absent, *lost])}")


if __name__ == "__main__":
    main()
