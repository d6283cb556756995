"""No two processes of a service at once, and lines that are there as soon as they are written."""

import fcntl
import os
import sys
import uuid

#: Of this process, among all that there have been.
RUN = uuid.uuid4().hex[:12]


class Book:
    """A file of lines that are appended, each by one write(2): what is written outlives who wrote it."""

    def __init__(self, folder: str, name: str) -> None:
        self._lock = os.open(f"{folder}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with open(f"{folder}/twice", "a") as told:
                told.write(f"{name} {RUN}\n")
            sys.exit("another one runs")
        self._book = os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def line(self, text: str) -> None:
        os.write(self._book, f"{text}\n".encode())
