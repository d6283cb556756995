"""Keys that a caller chose so that a dict or a set takes long for them. (Objects/dictobject.c, Objects/setobject.c.)"""

from __future__ import annotations

import os
import sys
from typing import Any

#: How many keys cannot take long, however they crowd; and how often may be looked for each: twice is usual.
FEW, _LOOKS = 64, 40
#: Are hashes of text such that somebody outside knows them?
_KNOWN = not sys.flags.hash_randomization or os.environ.get("PYTHONHASHSEED", "") not in ("", "random")


def crowd(keys: list[Any], in_set: bool) -> bool:
    """Would a dict or a set have to look in too many places for these? (Objects/dictobject.c, Objects/setobject.c.)

    A caller can choose numbers, and what is made of them, so that each is looked for in the same places, which takes a time
    that grows with the square of their number. The core does the same (core/src/crowd.rs)."""
    if not _KNOWN and all(type(key) is str or type(key) is bytes for key in keys):
        return False
    hashes = [hash(key) & 0xFFFF_FFFF_FFFF_FFFF for key in keys]
    row = 9 if in_set else 0
    left = FEW * FEW + _LOOKS * len(hashes)
    # Those with equal hashes are compared with each other, wherever they lie.
    same, before = 0, -1
    for each in sorted(hashes):
        same = same + 1 if each == before else 0
        before = each
        left -= same
    if left < 0:
        return True
    mask = 7
    taken = bytearray(8)
    begin = used = 0
    while True:
        # The table as it is, then the next one with all of them again.
        end = len(hashes)
        for at in range(begin, end):
            jump = hashes[at]
            place = jump & mask
            while True:
                many = row if place + row <= mask else 0
                free = taken.find(0, place, place + many + 1)
                if free >= 0:
                    break
                # A row costs no more than one place: it is read at once.
                left -= 1
                if left < 0:
                    return True
                jump >>= 5
                place = (place * 5 + jump + 1) & mask
            taken[free] = 1
            used = at + 1
            full = 5 * used >= 3 * mask if in_set else used >= 2 * (mask + 1) // 3
            if full and used < end:
                break
        else:
            return False
        least = (2 * used if used > 50_000 else 4 * used) + 1 if in_set else 3 * used
        mask = 7
        while mask + 1 < least:
            mask = 2 * mask + 1
        taken = bytearray(mask + 1)
        begin = 0
