"""Reads streams more slowly than they come: what comes is whole and in order, or an error."""

import threading
import time

import counter
from pysecure_rpc import RpcError
from single import RUN, Book

book = Book("/data/slow", "told")


def reads(thread: int) -> None:
    number = 0
    while True:
        number += 1
        stream = f"{RUN}.{thread}.{number}"
        seen = 0
        try:
            for item in counter.items(50):
                if not item.startswith(f"{seen} ") or len(item) < 20_000:
                    book.line(f"wrong {stream} item {seen}")
                seen += 1
                time.sleep(0.02 if thread else 0)
        except RpcError as error:
            book.line(f"cut {stream} {type(error).__name__}")
        except Exception as error:
            book.line(f"wrong {stream} {error!r}")
        else:
            book.line(f"{'whole' if seen == 50 else 'wrong'} {stream} {seen}")


for number in range(3):
    threading.Thread(target=reads, args=(number,)).start()
