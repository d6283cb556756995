"""A service that has not imported asyncio when its first coroutine is called."""

import sys

import pysecure_rpc
from pysecure_rpc import rpc

assert "asyncio" not in sys.modules


@rpc(run_as="late")
async def nap() -> str:
    return "slept"


@rpc(run_as="late")
def bad() -> None:
    raise ValueError("bad")


if __name__ == "__main__":
    pysecure_rpc.start_service("late")
