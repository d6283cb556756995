"""Keeps the accounts; asks `auth` who somebody is."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import auth
import pysecure_rpc
from pysecure_rpc import rpc

_accounts = {"alice": Decimal("100.00"), "bob": Decimal("5.50")}
_statement: list["Entry"] = []


@dataclass
class Entry:
    sender: str
    receiver: str
    amount: Decimal


@rpc(run_as="bank")
def balance(token: str) -> Decimal:
    return _accounts[auth.check_token(token)]


@rpc(run_as="bank")
def transfer(token: str, to: str, amount: Decimal) -> Decimal:
    """Moves money, and says what is left."""
    sender = auth.check_token(token)
    if not 0 < amount <= _accounts[sender]:
        raise ValueError(f"{sender} does not have {amount}")
    _accounts[sender] -= amount
    _accounts[to] = _accounts.get(to, Decimal(0)) + amount
    _statement.append(Entry(sender, to, amount))
    return _accounts[sender]


@rpc(run_as="bank")
def statement(token: str) -> Iterator[Entry]:
    """All that one has sent or got, one by one."""
    user = auth.check_token(token)
    for entry in _statement:
        if user in (entry.sender, entry.receiver):
            yield entry


@rpc(run_as="bank")
def print_money(to: str, amount: Decimal) -> None:
    """Granted to nobody in the manifest."""
    _accounts[to] += amount


if __name__ == "__main__":
    pysecure_rpc.start_service("bank")
