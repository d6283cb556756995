"""The answer of `pysecure.describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._function import Function


def describe(functions: dict[str, Function]) -> list[dict[str, Any]]:
    """What there is to know of functions, as docs/reference/rpc-protocol.md has it."""
    import inspect

    return [
        {
            "name": name,
            "signature": function.signature.text,
            "hash": function.signature.hash,
            "doc": inspect.cleandoc(function.doc) if function.doc else None,
            "idempotent": function.idempotent,
            "stream": function.is_stream,
            "async": function.is_async,
            "parameters": function.signature.parameters,
            "returns": function.signature.item.text if function.is_stream else function.signature.result.text,
        }
        for name, function in functions.items()
    ]
