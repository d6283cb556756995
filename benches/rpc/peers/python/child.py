"""One implementation's server or caller, in a process of its own, that the benchmark starts and asks.

    python3 benches/rpc/peers/python/child.py serve SIDE FOLDER     serves on FOLDER/bench.sock
    python3 benches/rpc/peers/python/child.py call SIDE FOLDER      each line of its standard input asks for a figure

`small N`: the median of N small calls in microseconds. `large N`: the same of a mebibyte there and back, or `none` where the
implementation cannot carry it. `run S`: calls a second, over S seconds. The Rust implementations (benches/rpc/peers/rust) are asked the same.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from time import perf_counter

MIB = 1 << 20


def find_package() -> None:
    """Has `pysecure_rpc` be imported from where the benchmark says, with its compiled core or without."""
    sys.path.insert(0, os.environ["PYSECURE_RPC_PACKAGE"])


def median(call: Callable[[], object], times: int) -> float:
    clock = perf_counter
    taken = []
    for _ in range(times):
        start = clock()
        call()
        taken.append(clock() - start)
    return statistics.median(taken) * 1e6


def rate(call: Callable[[], object], seconds: float) -> float:
    count, start = 0, perf_counter()
    while (lasted := perf_counter() - start) < seconds:
        for _ in range(50):
            call()
        count += 50
    return count / lasted


def answer(implementation: str, folder: str) -> None:
    import implementations

    caller = implementations.IMPLEMENTATIONS[implementation].connect(f"{folder}/bench.sock")
    for _ in range(50):
        if caller.login("alice", "secret") is not True:
            sys.exit(f"{implementation}: a wrong answer")
    print("ready", flush=True)
    login, data = caller.login, os.urandom(MIB)
    for line in sys.stdin:
        asked, number = line.split()
        if asked == "small":
            said: object = median(lambda: login("alice", "secret"), int(number))
        elif asked == "large":
            said = None
            if caller.carries_bytes:
                if caller.echo(data) != data:
                    sys.exit(f"{implementation}: other bytes came back")
                said = median(lambda: caller.echo(data), int(number))
        elif asked == "run":
            said = rate(lambda: login("alice", "secret"), float(number))
        else:
            sys.exit(f"{asked} is not measured")
        print("none" if said is None else said, flush=True)


if __name__ == "__main__":
    find_package()
    action, name, where = sys.argv[1:]
    if action == "serve":
        import implementations

        implementations.IMPLEMENTATIONS[name].serve(f"{where}/bench.sock")
    else:
        answer(name, where)
