"""authsvc: knows the passwords' hashes, and whose a token is."""

import hashlib
import hmac
import re
import secrets
import time

import pysecure_rpc
from database import Database
from pysecure_rpc import rpc

database = Database(
    "cred/cred.db",
    """
    create table if not exists users (name text primary key, password text not null);
    create table if not exists tokens (hash blob primary key, user text not null, expires integer not null);
    """,
)
_NAME = re.compile("[a-z0-9_]{1,32}")
_TOKEN_SECONDS = 24 * 3600
#: Of scrypt, as OWASP asks today for 16 MiB: n, r, p.
_COST = (2**14, 8, 5)


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=2**26)


def _hash(password: str) -> str:
    salt = secrets.token_bytes(16)
    return "$".join(["scrypt", *map(str, _COST), salt.hex(), _scrypt(password, salt, *_COST).hex()])


def _matches(password: str, stored: str) -> bool:
    _, n, r, p, salt, wanted = stored.split("$")
    return hmac.compare_digest(_scrypt(password, bytes.fromhex(salt), int(n), int(r), int(p)).hex(), wanted)


#: What a wrong name is compared with, so that it takes as long as a wrong password.
_NOBODY = "$".join(["scrypt", *map(str, _COST), "00" * 16, "00" * 64])


def _new_token(user: str) -> str:
    token, now = secrets.token_urlsafe(32), int(time.time())
    with database() as transaction:
        transaction.execute("delete from tokens where expires <= ?", (now,))
        # Only its hash, so that who reads the database is logged in as nobody.
        transaction.execute("insert into tokens values (?, ?, ?)", (_of(token), user, now + _TOKEN_SECONDS))
    return token


def _of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


@rpc(run_as="authsvc")
def register(user: str, password: str) -> str:
    """Makes a user, and a token for it."""
    if not _NAME.fullmatch(user):
        raise ValueError("A name is 1 to 32 letters, digits and underscores.")
    if not 8 <= len(password) <= 1024:
        raise ValueError("A password has 8 characters or more.")
    stored = _hash(password)
    with database() as transaction:
        done = transaction.execute("insert into users values (?, ?) on conflict do nothing", (user, stored))
    if done.rowcount != 1:
        raise ValueError("That name is taken.")
    return _new_token(user)


@rpc(run_as="authsvc")
def login(user: str, password: str) -> str:
    """A token for who knows the password."""
    row = database().execute("select password from users where name = ?", (user,)).fetchone()
    if not _matches(password[:1024], row[0] if row else _NOBODY):
        raise PermissionError("Wrong name or password.")
    return _new_token(user)


@rpc(run_as="authsvc", idempotent=True)
def logout(token: str) -> None:
    """The token is worth nothing from now on."""
    with database() as transaction:
        transaction.execute("delete from tokens where hash = ?", (_of(token),))


@rpc(run_as="authsvc", idempotent=True)
def check_token(token: str) -> str | None:
    """Whose it is; None if nobody's."""
    row = database().execute("select user, expires from tokens where hash = ?", (_of(token),)).fetchone()
    return row[0] if row and row[1] > time.time() else None


@rpc(run_as="authsvc", idempotent=True)
def exists(user: str) -> bool:
    """Is there such a user?"""
    return database().execute("select 1 from users where name = ?", (user,)).fetchone() is not None


if __name__ == "__main__":
    pysecure_rpc.start_service("authsvc")
