"""Knows the passwords, and hands out tokens."""

import hashlib
import hmac
import secrets
import sqlite3

import pysecure_rpc
from pysecure_rpc import rpc

_tokens: dict[str, str] = {}


def _database() -> sqlite3.Connection:
    database = sqlite3.connect("/data/auth/passwords.db")
    database.execute("create table if not exists users (name text primary key, salt blob, hash blob)")
    return database


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=4096, r=8, p=1)


@rpc(run_as="auth")
def register(user: str, password: str) -> None:
    """Makes a user, or gives one a new password."""
    salt = secrets.token_bytes(16)
    with _database() as database:
        database.execute("insert or replace into users values (?, ?, ?)", (user, salt, _hash(password, salt)))


@rpc(run_as="auth")
def login(user: str, password: str) -> str:
    """A token for who knows the password."""
    row = _database().execute("select salt, hash from users where name = ?", (user,)).fetchone()
    if row is None or not hmac.compare_digest(_hash(password, row[0]), row[1]):
        raise PermissionError("wrong user or password")
    token = secrets.token_hex(16)
    _tokens[token] = user
    return token


@rpc(run_as="auth", idempotent=True)
def check_token(token: str) -> str:
    """Whose token it is."""
    print(f"check_token for {pysecure_rpc.caller()}", flush=True)
    return _tokens[token]


if __name__ == "__main__":
    pysecure_rpc.start_service("auth")
