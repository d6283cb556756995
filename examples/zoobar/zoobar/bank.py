"""banksvc: who has how many zoobars. Whose a token is it asks `authsvc`, and believes no caller's word for it."""

import time
from dataclasses import dataclass

import auth
import pysecure_rpc
from database import Database
from pysecure_rpc import rpc

database = Database(
    "bank/bank.db",
    """
    create table if not exists accounts (user text primary key, zoobars integer not null check (zoobars >= 0));
    create table if not exists transfers (
        id integer primary key, sender text not null, recipient text not null, zoobars integer not null, time real not null
    );
    create index if not exists transfers_of_sender on transfers (sender);
    create index if not exists transfers_of_recipient on transfers (recipient);
    """,
)
#: What everybody begins with.
_GIFT = 10


@dataclass
class Transfer:
    sender: str
    recipient: str
    zoobars: int
    time: float


def _open(user: str) -> None:
    """Everybody that `authsvc` knows has an account."""
    with database() as transaction:
        transaction.execute("insert into accounts values (?, ?) on conflict do nothing", (user, _GIFT))


@rpc(run_as="banksvc", idempotent=True)
def balance(user: str) -> int | None:
    """How many zoobars a user has, which everybody may know; None if there is no such user."""
    row = database().execute("select zoobars from accounts where user = ?", (user,)).fetchone()
    if row is not None:
        found: int = row[0]
        return found
    return _GIFT if auth.exists(user) else None


@rpc(run_as="banksvc")
def transfer(token: str, recipient: str, zoobars: int) -> int:
    """Moves zoobars from the token's user, and says how many that one has left."""
    sender = auth.check_token(token)
    if sender is None:
        raise PermissionError("Log in first.")
    return _move(sender, recipient, zoobars)


@rpc(run_as="banksvc")
def give(sender: str, recipient: str) -> int:
    """A zoobar for who visits a profile, by the profile's program. Only `profilesvc` may call it, and it decides whose program ran."""
    return _move(sender, recipient, 1)


def _move(sender: str, recipient: str, zoobars: int) -> int:
    if not 0 < zoobars < 2**31:
        raise ValueError("Send one zoobar or more.")
    if sender == recipient:
        raise ValueError("They are yours already.")
    if not auth.exists(recipient):
        raise ValueError(f"There is no user {recipient}.")
    _open(sender)
    _open(recipient)
    with database() as transaction:
        taken = transaction.execute(
            "update accounts set zoobars = zoobars - ? where user = ? and zoobars >= ? returning zoobars",
            (zoobars, sender, zoobars),
        ).fetchone()
        if taken is None:
            raise ValueError("You do not have so many.")
        transaction.execute("update accounts set zoobars = zoobars + ? where user = ?", (zoobars, recipient))
        transaction.execute(
            "insert into transfers (sender, recipient, zoobars, time) values (?, ?, ?, ?)",
            (sender, recipient, zoobars, time.time()),
        )
    left: int = taken[0]
    return left


@rpc(run_as="banksvc", idempotent=True)
def transfers(user: str) -> list[Transfer]:
    """The last of what a user has sent and got, newest first."""
    rows = database().execute(
        "select sender, recipient, zoobars, time from transfers where sender = ? or recipient = ? order by id desc limit 20",
        (user, user),
    )
    return [Transfer(*row) for row in rows]


if __name__ == "__main__":
    pysecure_rpc.start_service("banksvc")
