"""A service's SQLite file: one connection a thread."""

import os
import sqlite3
import threading

#: Where the resources are; elsewhere when all of this is one process.
FOLDER = os.environ.get("ZOOBAR_DB", "/zoobar/db")


class Database:
    """The tables of one service, made once by `create`. `with database() as it:` is a transaction."""

    def __init__(self, name: str, schema: str) -> None:
        self._path = os.path.join(FOLDER, name)
        self._schema = schema
        self._of_thread = threading.local()

    def __call__(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=30, isolation_level="IMMEDIATE")
            connection.execute("pragma synchronous = normal")
            self._of_thread.connection = connection
        return connection

    def create(self) -> None:
        """Makes the file and its tables."""
        with sqlite3.connect(self._path) as connection:
            connection.executescript("pragma journal_mode = wal;" + self._schema)
