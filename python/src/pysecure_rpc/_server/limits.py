"""What one process that serves may hold and wait for."""

from __future__ import annotations

import os

#: What may wait to be sent to a caller that does not read, in bytes and in messages.
BACKLOG_BYTES, BACKLOG_MESSAGES = 1 << 20, 256
#: Calls that one connection may have open.
OPEN_CALLS = 256
#: The most bytes of a message, as the app's manifest says.
LARGEST = int(os.environ.get("PYSECURE_RPC_MAX_MESSAGE") or 64 << 20)
#: What a caller has not read yet, and what its open calls brought, in bytes: with so much its calls are refused, and with so much
#: nothing is added to it.
MUCH, TOO_MUCH = max(2 * LARGEST, 8 << 20), max(4 * LARGEST, 16 << 20)
#: Calls whose arguments take less are not counted.
SMALL = 16 << 10
#: So many connections of a caller have areas, which stay as long as they do.
AREAS = 16
#: A connection takes so many descriptors: its socket, and an area for each direction.
OF_CONNECTION = 3
#: How often streams are looked at that wait until their caller has read more, in seconds.
MOMENT = 0.01
#: So many milliseconds, 31 years, are no deadline: timers need not count so far.
NO_DEADLINE = 1_000_000_000_000
#: A function that took longer, in seconds, has the lead given away before it runs the next time, or times: twice as many each
#: time that it is slow again, up to so many. That it lost its CPU for a moment does not make it slow.
SLOW, SLOW_TURNS = 0.0005, 64


def raise_limit() -> int:
    """As many descriptors as may be: connections take them. How many those are."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            pass
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
