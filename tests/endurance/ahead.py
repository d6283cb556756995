"""Speaks the protocol itself: sends a hundred calls before it reads an answer, or leaves without reading any."""

import random
import select
import socket
import time

from pysecure_rpc import _wire
from single import RUN, Book

OK, ERR, GOAWAY, CALL = 3, 4, 9, 2
PATH = "/run/pysecure/rpc/counter.sock"

book = Book("/data/ahead", "told")


def answer(message: list, waiting: dict) -> None:
    kind, number = message[0], message[1]
    if kind in (OK, ERR) and number in waiting:
        call = waiting.pop(number)
        if kind == OK:
            book.line(f"{'answered' if message[2] == call else 'wrong'} {call}")
        else:
            book.line(f"{'unsure' if message[6] else 'refused'} {call} {message[2]}")
    elif kind != GOAWAY:
        book.line(f"wrong {RUN} {message!r:.100}")


def round_of(number: int) -> None:
    leaves = number % 5 == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(PATH)
        waiting: dict = {}
        # HELLO, and what is said before it.
        if not connection.recv(65536):
            return
        for call in range(1, 101):
            waiting[call] = f"{RUN}.{number}.{call}"
            book.line(f"begun {waiting[call]}")
            message = _wire.pack([CALL, call, "once", [waiting[call]], {}])
            # Whoever does not read while it sends may wait for ever; so this one reads if it has to, and not before.
            while not select.select([], [connection], [], 0)[1]:
                if select.select([connection], [connection], [])[0]:
                    received = connection.recv(65536)
                    if not received:
                        return
                    answer(_wire.unpack(received), waiting)
            connection.send(message)
        time.sleep(random.random() / 2)
        if leaves:
            return
        while waiting:
            received = connection.recv(65536)
            if not received:
                return
            answer(_wire.unpack(received), waiting)


number = 0
while True:
    number += 1
    try:
        round_of(number)
    except OSError as error:
        book.line(f"cut {RUN}.{number} {type(error).__name__}")
        time.sleep(0.05)
