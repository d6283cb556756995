"""What type checkers make of a program that uses the packages: a function with @rpc keeps its signature. Checked by mypy
--strict and by pyright's strict mode (tests/wheel.rs), and never run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypedDict

import pysecure_rpc
from pysecure import (
    PySecure,
    PySecureBundle,
    PySecureConfig,
    PySecureResource,
    PySecureService,
    PySecureSharedBundle,
)
from pysecure_rpc import Fd, rpc

if TYPE_CHECKING:
    # typing has it from Python 3.11.
    from typing_extensions import assert_type  # pyright: ignore[reportMissingModuleSource]


@dataclass
class Account:
    owner: str
    balance: Decimal = Decimal(0)


class Row(TypedDict):
    name: str
    amount: int


@rpc(run_as="auth")
def login(user: str, password: str = "", *, remember: bool = False) -> bool:
    return bool(user and password and remember)


@rpc(run_as="bank", timeout=None, idempotent=True, callers=["web"])
def largest(accounts: list[Account]) -> Account | None:
    return max(accounts, key=lambda a: a.balance, default=None)


@rpc(run_as="bank")
def rows(*names: str, **amounts: int) -> list[Row]:
    return [Row(name=n, amount=amounts.get(n, 0)) for n in names]


@rpc(run_as="bank")
def statement(owner: str) -> Iterator[Decimal]:
    yield Decimal(len(owner))


@rpc(run_as="bank")
async def rate(day: int) -> float:
    return 1.5 * day


@rpc(run_as="bank")
async def rates() -> AsyncIterator[float]:
    yield 1.5


@rpc()
def here(text: str) -> bytes:
    return text.encode()


@rpc(run_as="bank")
def write(file: Fd) -> None:
    with file:
        file.fileno()


def calls() -> None:
    assert_type(login("alice", "secret", remember=True), bool)
    assert_type(login("alice"), bool)
    assert_type(largest([Account("a")]), "Account | None")
    assert_type(rows("a", a=1), "list[Row]")
    assert_type(statement("a"), "Iterator[Decimal]")
    assert_type(here("a"), bytes)
    assert_type(pysecure_rpc.caller(), "str | None")
    assert_type(pysecure_rpc.time_remaining(), "float | None")
    assert_type(pysecure_rpc.describe("auth"), "list[dict[str, Any]]")
    with pysecure_rpc.timeout(2), pysecure_rpc.local("web"), pysecure_rpc.trace("00-0-0-00"):
        write(Fd(3))


async def asynchronous_calls() -> None:
    waited: Awaitable[float] = rate(1)
    assert_type(await waited, float)
    assert_type(rates(), "AsyncIterator[float]")
    async for each in rates():
        assert_type(each, float)


@pysecure_rpc.register_error
class Overdrawn(Exception):
    pass


def errors() -> None:
    try:
        login("alice")
    except Overdrawn:
        pass
    except pysecure_rpc.Busy as error:
        assert_type(error.may_have_run, bool)
    except pysecure_rpc.RemoteError as error:
        assert_type(error.class_name, str)


def configuration() -> PySecureConfig:
    database = PySecureResource("/bank/db/", "rw", "", "")
    shared = PySecureSharedBundle([database], used_by_dynamic_svc=True)
    also: PySecureBundle = shared
    auth = PySecureService("auth", "/bank", "/bank/auth.py", [database], also, False, callers={"web": ["login"]})
    web = PySecureService("web", "/bank", ["/bank/web.py"], bundle=shared, environment={"A": "b"}, restart="always")
    config = PySecureConfig("bank", (61000, 61999), (61000, 61999), code={"/bank": "./bank"})
    config.register_resources([database])
    config.register_bundles([shared])
    config.register_services([auth, web])
    assert_type(config.to_json(), str)
    return config


if __name__ == "__main__":
    pysecure_rpc.start_service("auth", threads=4)
    PySecure.run_with_config(configuration(), "-d")
