"""Which version this is, and whether that of the launcher is another."""

from __future__ import annotations

import sys

__version__ = "0.1.0"

#: The packages that the launcher carries and shows to services.
_CARRIED = "/run/pysecure/python/carried/pysecure_rpc/_version.py"
_said = False


def compare() -> None:
    """Says once if the launcher that started this process is of another version than this package."""
    global _said
    if _said:
        return
    _said = True
    try:
        with open(_CARRIED) as file:
            lines = file.read(4096).splitlines()
    except (OSError, ValueError):
        return  # it was started by no launcher, or shows nothing of itself
    launcher = next((line.split('"')[1] for line in lines if line.startswith("__version__ = \"")), None)
    if launcher is not None and launcher != __version__:
        text = f"pysecure_rpc: this package is version {__version__}, and the launcher is {launcher}: install the same one"
        try:
            print(text, file=sys.stderr, flush=True)
        except Exception:
            pass  # there is no place for it
