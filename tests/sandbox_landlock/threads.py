"""A server of several threads, each of which has code run in one sandbox of the Landlock level."""

import threading

from pysecure_sandbox import Sandbox

results = []
stop = threading.Event()
idle = [threading.Thread(target=stop.wait) for _ in range(8)]
for thread in idle:
    thread.start()


def serve(sandbox, number):
    for turn in range(5):
        result = sandbox.run(f"double({number}) + {turn}", api={"double": lambda n: 2 * n})
        results.append((result.isolation, result.value == 2 * number + turn, result.explain() if not result.ok else ""))


with Sandbox(isolation="landlock", at_once=4) as sandbox:
    threads = [threading.Thread(target=serve, args=(sandbox, n)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
stop.set()
for thread in idle:
    thread.join()
assert len(results) == 30, len(results)
assert set(results) == {("landlock", True, "")}, results
print("served by", len(threads), "threads")
