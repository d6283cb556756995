#!/usr/bin/env python3
"""What a call costs beside bytes on a raw socket, all in one run, turn by turn, on one machine.

    python3 benches/rpc/call.py [ROUNDS]

Latency is measured with both ends on one CPU, for a wake-up across CPUs costs more than all else and hides it; and across two, and
as the kernel places them. Each figure is the best of the rounds' medians. Ratios are what to look at; microseconds are this machine's.
"""

from __future__ import annotations

import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

SRC = pathlib.Path(__file__).resolve().parents[2] / "python/src"
sys.path.insert(0, str(SRC))

import pysecure_rpc  # noqa: E402
from pysecure_rpc import rpc  # noqa: E402

MIB = 1 << 20


@rpc(run_as="bench")
def login(user: str, password: str) -> bool:
    return user == "alice" and password == "secret"


@rpc(run_as="bench")
def echo(data: bytes) -> bytes:
    return data


def raw_server(path: str, kind: int) -> None:
    """Bytes there and back: a thread a connection, as plain as can be."""
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(path)
    listener.listen(64)

    def serve(sock: socket.socket) -> None:
        while True:
            data = sock.recv(65536)
            if not data:
                return
            if data[:1] == b"L":  # a large one follows
                left = MIB - (len(data) - 1)
                parts = [data[1:]]
                while left:
                    part = sock.recv(left)
                    parts.append(part)
                    left -= len(part)
                sock.sendall(b"".join(parts))
            else:
                sock.send(b"\x01")

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def connect(path: str, kind: int) -> socket.socket:
    while True:
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.connect(path)
            return sock
        except OSError:
            sock.close()
            time.sleep(0.01)


def median(call: Callable[[], object], times: int) -> float:
    """Microseconds."""
    clock = time.perf_counter
    taken = []
    for _ in range(times):
        start = clock()
        call()
        taken.append(clock() - start)
    return statistics.median(taken) * 1e6


@contextmanager
def pinned(here: set[int], there: set[int], children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pin(here: set[int], there: set[int]) -> None:
        for pid, to in [(os.getpid(), here), *((c.pid, there) for c in children)]:
            for task in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(task), to)

    every = os.sched_getaffinity(0)
    pin(here, there)
    try:
        yield
    finally:
        pin(every, every)


def throughput(arguments: list[str], clients: int, seconds: float) -> float:
    """Calls a second of so many client processes together."""
    command = [sys.executable, __file__, *arguments, str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(clients)]
    return sum(float(r.communicate()[0]) for r in running)


def as_client(call: Callable[[], object], seconds: float) -> None:
    call()
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(50):
            call()
        count += 50
    print(count / seconds)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    folder = tempfile.mkdtemp()
    os.environ["PYSECURE_RPC_DIR"] = folder
    modes = [["stream"], ["seqpacket"], ["serve"]]
    children = [subprocess.Popen([sys.executable, __file__, *m]) for m in modes]
    try:
        stream = connect(f"{folder}/stream.raw", socket.SOCK_STREAM)
        packet = connect(f"{folder}/seqpacket.raw", socket.SOCK_SEQPACKET)
        connect(f"{folder}/bench.sock", socket.SOCK_SEQPACKET).close()
        large = os.urandom(MIB)

        def raw_stream() -> None:
            stream.send(b"alice\0secret")
            stream.recv(65536)

        def raw_packet() -> None:
            packet.send(b"alice\0secret")
            packet.recv(65536)

        def raw_large() -> None:
            stream.sendall(b"L")
            stream.sendall(large)
            left = MIB
            parts = []
            while left:
                parts.append(stream.recv(left))
                left -= len(parts[-1])
            assert len(b"".join(parts)) == MIB

        small = {"raw stream": raw_stream, "raw seqpacket": raw_packet, "pysecure_rpc": lambda: login("alice", "secret")}
        big = {"raw stream": raw_large, "pysecure_rpc": lambda: echo(large)}
        assert echo(large) == large and login("alice", "secret")
        cpus = sorted(os.sched_getaffinity(0))
        places: list[tuple[str, int | None, int | None]] = [("one CPU", cpus[0], cpus[0]), ("not pinned", None, None)]
        if len(cpus) > 1:
            places.insert(1, ("two CPUs", cpus[0], cpus[-1]))
        best: dict[tuple[str, str], float] = {}
        for _ in range(rounds):
            for where, here, there in places:
                with nullcontext() if here is None or there is None else pinned({here}, {there}, children):
                    for label, calls, times in (("small", small, 3000), ("1 MiB", big, 100)):
                        for name, call in calls.items() if label == "small" or where == "one CPU" else ():
                            key = (f"{label}, {where}", name)
                            taken = median(call, times)  # type: ignore[arg-type]
                            best[key] = min(taken, best.get(key, taken))
        print("microseconds a call, by the CPUs that the two ends are on:")
        for (label, name), taken in best.items():
            print(f"  {label:18} {name:14} {taken:8.1f}   x {taken / best[label, 'raw stream']:.2f}")
        rates: dict[str, float] = {}
        for _ in range(max(1, rounds // 2)):
            for name, mode in (("raw stream", "client-raw"), ("pysecure_rpc", "client-rpc")):
                rates[name] = max(rates.get(name, 0), throughput([mode], 8, 2.0))
        print("8 clients, calls a second:")
        for name, rate in rates.items():
            print(f"  {name:21} {rate:8.0f}   x {rate / rates['raw stream']:.2f}")
    finally:
        for child in children:
            child.kill()


if __name__ == "__main__":
    mode = sys.argv[1] if len(sys.argv) > 1 else ""
    folder = os.environ.get("PYSECURE_RPC_DIR", "")
    if mode == "stream":
        raw_server(f"{folder}/stream.raw", socket.SOCK_STREAM)
    elif mode == "seqpacket":
        raw_server(f"{folder}/seqpacket.raw", socket.SOCK_SEQPACKET)
    elif mode == "serve":
        pysecure_rpc.start_service("bench")
    elif mode == "client-raw":
        sock = connect(f"{folder}/stream.raw", socket.SOCK_STREAM)
        as_client(lambda: (sock.send(b"alice\0secret"), sock.recv(65536)), float(sys.argv[2]))
    elif mode == "client-rpc":
        as_client(lambda: login("alice", "secret"), float(sys.argv[2]))
    else:
        main()
