"""A service's SQLite file: one connection a thread."""

import os
import sqlite3
import threading

#: Where the resources are; elsewhere when all of this is one process.
FOLDER = os.environ.get("ZOOBAR_DB", "/zoobar/db")


class Database:
    """The tables of one service. `with database() as it:` is a transaction."""

    def __init__(self, name: str, schema: str) -> None:
        self._path = os.path.join(FOLDER, name)
        self._schema = schema
        self._of_thread = threading.local()

    def __call__(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=30, isolation_level="IMMEDIATE")
            connection.executescript("pragma journal_mode = wal; pragma synchronous = normal;" + self._schema)
            self._of_thread.connection = connection
        return connection
