"""What sandboxes cost beside their peers, in one run on one machine: medians, and ratios of them.

    target/packaging/bin/python benches/sandbox.py [ROUNDS]

Wants a release build of `pysecure` (PYSECURE_BINARY names it), gcc, bubblewrap, and of PyPI: numpy, sandlock, pydantic-monty. What is not there is
said, and left out. Floors are what no sandbox can do without: `sandbox_floor.c`, and forks of a warm interpreter. In each round each contender runs once, in an order that changes, so that all of them meet the same machine.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python", "src"))
from pysecure_sandbox import Sandbox  # noqa: E402

PYTHON = "/usr/bin/python3"
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 60


def shell(*command: str) -> Callable[[], None]:
    def once() -> None:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    return once


def of(sandbox: Sandbox, code: str = "1 + 1") -> Callable[[], None]:
    def once() -> None:
        result = sandbox.run(code)
        assert result.exit == 0, result.stderr

    return once


def bubblewrap(*command: str) -> list[str]:
    shown = [word for path in ("/usr", "/bin", "/lib", "/lib64") for word in ("--ro-bind", path, path)]
    return ["bwrap", "--unshare-all", "--die-with-parent", *shown, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", *command]


def medians(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for once in contenders.values():
        once()
    for _ in range(rounds):
        order = list(contenders)
        random.shuffle(order)
        for name in order:
            time.sleep(0.01)  # what the last one left behind is done elsewhere
            begin = time.perf_counter()
            contenders[name]()
            times[name].append((time.perf_counter() - begin) * 1000)
    return {name: statistics.median(each) for name, each in times.items()}


def floor(folder: str) -> str:
    """The program of `sandbox_floor.c`."""
    program = os.path.join(folder, "floor")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox_floor.c")
    subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
    return program


def hops(program: str) -> Callable[[], None]:
    """Four: to a process, on to another one, and back."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subprocess.Popen([program, "hops"], stdin=its.fileno())
    its.close()

    def once() -> None:
        ours.send(b"1 + 1")
        assert ours.recv(100) == b"1 + 1"

    return once


def fork_server(forks: int = 1, modules: str = "") -> Callable[[], None]:
    """A warm Python that forks for each code and confines nothing: what a copy costs by itself, with its output and end waited for."""
    serve = f"""
import os, socket, sys
{modules}
asked = socket.socket(fileno=0)
while code := asked.recv(65536):
    pid = os.fork()
    if pid == 0:
        for _ in range({forks - 1}):
            if between := os.fork():
                os.waitpid(between, 0)
                os._exit(0)
        asked.send(repr(eval(compile(code, "<code>", "eval"))).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    asked.send(b"ended")
"""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # As many modules as the warm interpreter of a sandbox has.
    boot = f"import sys; sys.path.insert(0, {sys.path[0]!r}); from pysecure_sandbox import _inside; exec({serve!r})"
    options = ["-I", "-S"] if not modules else []
    subprocess.Popen([sys.executable if modules else PYTHON, *options, "-c", boot], stdin=its.fileno())
    its.close()

    def once() -> None:
        ours.send(b"1 + 1")
        assert ours.recv(100) == b"2" and ours.recv(100) == b"ended"

    return once


def numpys() -> list[str]:
    try:
        import numpy
    except ImportError:
        return []
    return [os.path.dirname(os.path.dirname(numpy.__file__))]


def contenders(open_ones: list[Sandbox], program: str) -> dict[str, Callable[[], None]]:
    def sandbox(**profile: object) -> Sandbox:
        made = Sandbox(**profile)  # type: ignore[arg-type]
        open_ones.append(made)
        made.run("1")
        return made

    out: dict[str, Callable[[], None]] = {
        "python3 -I -S -c": shell(PYTHON, "-I", "-S", "-c", "1 + 1"),
        "fresh": of(sandbox(ready=0)),
        "ready": of(sandbox(ready=4)),
        "cold (`sandbox run`)": shell(os.environ["PYSECURE_BINARY"], "sandbox", "run", os.devnull),
        "launch floor (`sandbox -- true`)": shell(os.environ["PYSECURE_BINARY"], "sandbox", "--", "true"),
    }
    out["fork alone"] = fork_server()
    out["floor of a fresh run: two forks"] = fork_server(2)
    out["floor of a ready run: four hops"] = hops(program)
    try:
        landlock = sandbox(isolation="landlock")
        out["landlock level"] = of(landlock)
        out["landlock level, ready"] = of(sandbox(isolation="landlock", ready=4))
    except Exception as error:
        print(f"left out: the landlock level: {error}")
    if shutil.which("bwrap"):
        out["bubblewrap + python"] = shell(*bubblewrap(PYTHON, "-I", "-S", "-c", "1 + 1"))
    paths = numpys()
    if paths:
        numpy = {"packages": paths, "preload": ["numpy"]}
        out["python3 -c 'import numpy'"] = shell(sys.executable, "-c", "import numpy")
        out["floor of a fresh run with numpy: two forks"] = fork_server(2, "import numpy")
        out["fresh, numpy preloaded"] = of(sandbox(ready=0, **numpy), "import numpy; numpy.zeros(3).sum()")
        out["ready, numpy preloaded"] = of(sandbox(ready=4, **numpy), "import numpy; numpy.zeros(3).sum()")
    try:
        import sandlock

        policy = {"fs_readable": ["/usr", "/lib", "/lib64", "/etc", "/bin", "/proc", "/dev"]}
        out["sandlock + python"] = lambda: sandlock.Sandbox(**policy).run([PYTHON, "-I", "-S", "-c", "1 + 1"])
    except ImportError:
        print("left out: sandlock is not installed")
    try:
        import pydantic_monty

        monty = pydantic_monty.Monty().__enter__()

        def checkout() -> None:
            with monty.checkout() as session:
                session.feed_run("1 + 1")

        out["monty: checkout and run"] = checkout
    except ImportError:
        print("left out: pydantic-monty is not installed")
    return out


def sustained(program: str, seconds: float = 4.0) -> None:
    """Runs a second, as many at once as there are processors."""
    workers = os.cpu_count() or 1

    def rate(once: Callable[[], None]) -> float:
        end, counts = time.perf_counter() + seconds, [0] * workers

        def work(number: int) -> None:
            while time.perf_counter() < end:
                once()
                counts[number] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / seconds

    with Sandbox(ready=8, at_once=16) as sandbox:
        sandbox.run("1")
        ours = rate(of(sandbox))
    print(f"\nsustained: {ours:.0f} runs a second", end="")
    if shutil.which("bwrap"):
        theirs = rate(shell(*bubblewrap(PYTHON, "-I", "-S", "-c", "1 + 1")))
        print(f"; bubblewrap + python {theirs:.0f}; ratio {ours / theirs:.2f} (to reach: 5)", end="")
    both = [subprocess.Popen([program, "namespaces", "600"], stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    print(f"; floor, namespaces and mounts alone: {sum(float(each.communicate()[0]) for each in both):.0f}")


def at_once(count: int = 200) -> None:
    """From the moment that all are asked for to the end of each."""

    async def all_of_them(sandbox: Sandbox) -> list[float]:
        begin = time.perf_counter()

        async def one() -> float:
            result = await sandbox.arun("sum(range(10000))")
            assert result.exit == 0, result.stderr
            return time.perf_counter() - begin

        return sorted(await asyncio.gather(*(one() for _ in range(count))))

    with Sandbox(ready=8, at_once=16) as sandbox:
        sandbox.run("1")
        ends = asyncio.run(all_of_them(sandbox))
    p50, p99 = ends[count // 2], ends[int(count * 0.99)]
    print(f"{count} at once: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms; ratio {p99 / p50:.2f} (to reach: 5)")


def calls(count: int = 3000, rounds: int = 5) -> None:
    """A call of a function of this program from inside, beside one to a service, both in plain Python and turn by turn."""
    loop = f"""
import time
for _ in range(200): f(1)
begin = time.perf_counter()
for _ in range({count}): f(1)
print((time.perf_counter() - begin) / {count} * 1e6)
"""
    rpc = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rpc", "call.py")
    client = f"import sys; sys.path.insert(0, {os.path.dirname(rpc)!r}); import call; f = lambda x: call.login('alice', 'x'){loop}"
    inside, plain = [], []
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        env = {**os.environ, "PYSECURE_RPC_DIR": folder, "PYSECURE_RPC_PURE": "1"}
        server = subprocess.Popen([sys.executable, rpc, "serve"], env=env)
        while not os.path.exists(os.path.join(folder, "bench.sock")):
            time.sleep(0.01)
        for _ in range(rounds):
            inside.append(float(sandbox.run(loop, api={"f": lambda x: x}, wall=60, cpu=60).stdout))
            plain.append(float(subprocess.run([sys.executable, "-c", client], env=env, check=True, capture_output=True).stdout))
        server.kill()
        server.wait()
    ours, theirs = statistics.median(inside), statistics.median(plain)
    print(f"API call from inside: {ours:.1f} us; a plain RPC call {theirs:.1f} us; ratio {ours / theirs:.2f} (to reach: 1.3)")


def memory() -> None:
    def pss(sandbox_pool: int) -> dict[str, int]:
        out = {}
        for pid in os.listdir("/proc"):
            if not pid.isdigit():
                continue
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    command = file.read()
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    rollup = file.read()
            except OSError:
                continue
            if "pysecure_sandbox._warm" in command:
                out[pid] = int(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))
        return out

    sums = []
    for ready in (0, 8):
        with Sandbox(ready=ready) as sandbox:
            sandbox.run("1")
            time.sleep(1)
            found = pss(0)
            sums.append(sum(found.values()))
            print(f"memory: {len(found)} interpreters with {ready} ready: {sums[-1]} KiB (Pss) in all")
    print(f"a warm interpreter {sums[0] / 1024:.1f} MiB (to reach: 12); each that is ready {(sums[1] - sums[0]) / 8 / 1024:.2f} MiB more (to reach: 2)")


def main() -> None:
    os.environ.setdefault("PYSECURE_BINARY", os.path.join(os.path.dirname(__file__), "../target/x86_64-unknown-linux-gnu/release/pysecure"))
    open_ones: list[Sandbox] = []
    folder = tempfile.mkdtemp()
    program = floor(folder)
    found = medians(contenders(open_ones, program), ROUNDS)
    for sandbox in open_ones:
        sandbox.close()
    base, numpy = found["python3 -I -S -c"], found.get("python3 -c 'import numpy'")
    print(f"\n| what | median, ms | beside `python3 -I -S -c` | beside `import numpy` |\n| --- | ---: | ---: | ---: |")
    for name, median in found.items():
        beside = f"{median / numpy:.4f}" if numpy and "numpy" in name else ""
        print(f"| {name} | {median:.2f} | {median / base:.3f} | {beside} |")
    if "monty: checkout and run" in found:
        print(f"\nready beside monty: {found['ready'] / found['monty: checkout and run']:.2f} (to reach: 3)")
    if "landlock level" in found:
        for name in ("landlock level", "landlock level, ready"):
            print(f"the {name} beside fork alone: {found[name] / found['fork alone']:.2f} (to reach: 1.15)")
    launch = found["launch floor (`sandbox -- true`)"]
    print(f"cold beside python plus the launch floor: {found['cold (`sandbox run`)'] / (base + launch):.2f} (to reach: 1.15)")
    sustained(program)
    at_once()
    calls()
    memory()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
