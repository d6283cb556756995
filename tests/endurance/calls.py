"""Calls on and on from several threads, and writes down what was said to each."""

import threading
import time

import counter
from pysecure_rpc import RpcError
from single import RUN, Book

book = Book("/data/calls", "told")


def calls(thread: int) -> None:
    number = 0
    while True:
        number += 1
        call = f"{RUN}.{thread}.{number}"
        book.line(f"begun {call}")
        try:
            got = counter.once(call)
        except RpcError as error:
            book.line(f"{'unsure' if error.may_have_run else 'refused'} {call} {type(error).__name__}")
        except Exception as error:
            book.line(f"wrong {call} {error!r}")
        else:
            book.line(f"{'answered' if got == call else 'wrong'} {call}")
        time.sleep(0.01)


for number in range(3):
    threading.Thread(target=calls, args=(number,)).start()
