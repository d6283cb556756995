"""What is called: `login`, `echo`, and a function for each kind of value, which gives back what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import value_types
from pysecure_rpc import rpc

SERVICE = "bench"


@rpc(run_as=SERVICE)
def login(user: str, password: str) -> bool:
    return user == "alice" and password == "secret"


@rpc(run_as=SERVICE)
def echo(data: bytes) -> bytes:
    return data


def _same(name: str, hint: Any) -> Callable[[Any], Any]:
    def same(value: Any) -> Any:
        return value

    same.__name__ = same.__qualname__ = "same_" + name.replace(" ", "_")
    same.__annotations__ = {"value": hint, "return": hint}
    return rpc(run_as=SERVICE)(same)


same = {name: _same(name, hint) for name, (_, hint) in value_types.VALUE_TYPES.items()}
