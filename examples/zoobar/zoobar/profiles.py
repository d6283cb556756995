"""profilesvc: what users say of themselves."""

import auth
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
