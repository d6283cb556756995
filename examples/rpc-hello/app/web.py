"""What the world sees: it has no secret and no account, only calls. Then it plays the attacker."""

import os
import socket
from decimal import Decimal

import auth
import bank
import pysecure_rpc


def attempt(what: str, do) -> None:
    try:
        do()
        print(f"BROKEN: {what}", flush=True)
    except (OSError, LookupError, PermissionError) as error:
        print(f"refused: {what} ({type(error).__name__})", flush=True)


auth.register("alice", "secret")
token = auth.login("alice", password="secret")
print(f"alice has {bank.balance(token)}", flush=True)
print(f"after a transfer she has {bank.transfer(token, to='bob', amount=Decimal('12.50'))}", flush=True)
for entry in bank.statement(token):
    print(f"{entry.sender} sent {entry.receiver} {entry.amount}", flush=True)
try:
    bank.transfer(token, "bob", Decimal(1000))
except ValueError as error:
    print(f"no: {error}", flush=True)

attempt("log in with a wrong password", lambda: auth.login("alice", "guess"))
attempt("a function of bank that was not granted", lambda: bank.print_money("alice", Decimal(1000)))
attempt("a function of auth that only bank may call", lambda: auth.check_token(token))
attempt("a socket made by itself, to be called in bank's place", lambda: os.mknod("/run/pysecure/rpc/mine.sock"))
attempt("bank's socket to auth", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(
    "/run/pysecure/rpc/../bank/auth.sock"))
print("functions of auth, to web:", [f["name"] for f in pysecure_rpc.describe("auth")], flush=True)
print("that was all", flush=True)
