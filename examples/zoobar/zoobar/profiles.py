"""profilesvc: what users say of themselves, as text or by a program, which runs where it can do no harm."""

import os

import auth
import bank
import pysecure_rpc
from database import Database
from pysecure_rpc import rpc

database = Database(
    "profile/profile.db", "create table if not exists profiles (user text primary key, profile text not null);"
)


@rpc(run_as="profilesvc", idempotent=True)
def profile(user: str) -> str:
    """A user's text, as it was written: whoever shows it has to escape it."""
    row = database().execute("select profile from profiles where user = ?", (user,)).fetchone()
    return str(row[0]) if row else ""


#: A profile that begins so is a program in Python.
PROGRAM = "#!python"
#: Where programs keep their files, a folder each.
PEOPLE = os.environ.get("ZOOBAR_PEOPLE", "/zoobar/people")


@rpc(run_as="profilesvc")
def visit(token: str, user: str) -> str:
    """What a user's profile says to the token's user: its text or, if it is a program, what that prints."""
    visitor = auth.check_token(token)
    if visitor is None:
        raise PermissionError("Log in first.")
    text = profile(user)
    return run(user, visitor, text) if text.startswith(PROGRAM) else text


def run(owner: str, visitor: str, program: str) -> str:
    """Runs a profile for its visitor. It has its owner's folder and these functions, and nothing that `profilesvc` has."""
    from pysecure_sandbox import Function, Sandbox, userdir_for

    def get_self() -> str:
        return owner

    def get_visitor() -> str:
        return visitor

    def get_user(name: str) -> dict[str, object] | None:
        zoobars = bank.balance(name)
        return None if zoobars is None else {"name": name, "zoobars": zoobars, "profile": profile(name)}

    def get_xfers(name: str) -> list[dict[str, object]]:
        return [vars(transfer) for transfer in bank.transfers(name)]

    def give() -> int:
        """A zoobar of the owner's for the visitor; says how many the owner has left."""
        return bank.give(owner, visitor)

    api = {each.__name__: each for each in (get_self, get_visitor, get_user, get_xfers)}
    with Sandbox("profile") as sandbox:
        result = sandbox.run(program, userdir_for(PEOPLE, owner), {**api, "give": Function(give, calls=1)})
    if result.limit:
        return f"{result.stdout}\n(It was ended: {result.limit}.)"
    # The last line of a traceback says what went wrong.
    return result.stdout + "".join(result.stderr.splitlines(keepends=True)[-1:])


@rpc(run_as="profilesvc", idempotent=True)
def change_profile(token: str, text: str) -> None:
    """The token's user has this text from now on."""
    user = auth.check_token(token)
    if user is None:
        raise PermissionError("Log in first.")
    if len(text) > 5000:
        raise ValueError("A profile has 5,000 characters at most.")
    with database() as transaction:
        transaction.execute("insert or replace into profiles values (?, ?)", (user, text))


if __name__ == "__main__":
    pysecure_rpc.start_service("profilesvc")
