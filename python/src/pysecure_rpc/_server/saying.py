"""What a service prints of itself, and the texts of errors, whose own code may fail."""

from __future__ import annotations

import sys

from .._messages import MOST_TEXT


def say(text: str) -> None:
    """For whoever reads what the service prints; there may be nobody, or no place for it."""
    try:
        print(f"pysecure_rpc: {text}", file=sys.stderr, flush=True)
    except Exception:
        pass


def is_milestone(count: int) -> bool:
    """Is the count to be told of? The 1st, 10th, 100th …: whoever causes many does not fill the log. As in Rust."""
    return str(count).strip("0") == "1"


def text_of(value: object) -> str:
    """The text of an exception or of what it holds, as it can be sent."""
    try:
        return str(value)[:MOST_TEXT].encode("utf-8", "replace").decode()
    except BaseException:
        return "(its text cannot be made)"
