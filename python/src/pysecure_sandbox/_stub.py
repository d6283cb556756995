"""What code in a sandbox may call, as Python with hints and no bodies: for a type checker, a person, or a model that writes the code."""
# The type of a hint is unknown until it has been looked at.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# What begins with _ is private to these packages.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections import abc
from typing import Any, Callable

from pysecure_rpc._hints import _hints_of, _unqualified
from pysecure_rpc._values import Fd

from ._functions import Function, Functions, signature_of

_STREAMS = (abc.Iterator, abc.Iterable, abc.Generator, abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator)
_MODULES = ("datetime", "decimal", "uuid")


def stub(api: Functions) -> str:
    """The functions of `api` as code in the sandbox sees them: coroutines are called as others are, records are dicts, and members of
    enumerations are their names."""
    types_of = _Types()
    functions = [_function(name, given, types_of) for name, given in api.items()]
    head = ["from __future__ import annotations", ""]
    head += [f"import {module}" for module in sorted(types_of.modules)]
    head.append(f"from typing import {', '.join(sorted(types_of.typing))}" if types_of.typing else "")
    parts = ["\n".join(head).rstrip(), *types_of.records.values(), *functions]
    return "\n\n\n".join(part for part in parts if part) + "\n"


def _function(name: str, given: Callable[..., Any] | Function, types_of: _Types) -> str:
    run, _ = signature_of(name, given)
    try:
        found = inspect.signature(run)
        hints = _hints_of(run)
    except (TypeError, ValueError, NameError, AttributeError):
        return f"def {name}(*args: {types_of.any()}, **kwargs: {types_of.any()}) -> {types_of.any()}: ..."
    parameters = [
        parameter.replace(
            annotation=_Text(types_of.text(hints[parameter.name])) if parameter.name in hints else parameter.empty,
            default=parameter.empty if parameter.default is parameter.empty else _Text(_default(parameter.default)),
        )
        for parameter in found.parameters.values()
    ]
    returned = hints.get("return", Any)
    result = _items(run, returned, types_of) or types_of.text(returned)
    text = str(found.replace(parameters=parameters, return_annotation=_Text(result)))
    doc = run.__doc__
    lines = (inspect.cleandoc(doc) if doc else "").replace("\\", "\\\\").replace('"""', r"\"\"\"").splitlines()
    lines += _budget(given)
    if not lines:
        return f"def {name}{text}: ..."
    lines[-1] += '"""'
    doc = "\n".join(f"    {line}".rstrip() for line in ['"""' + lines[0], *lines[1:]])
    return f"def {name}{text}:\n{doc}\n    ..."


def _budget(given: Any) -> list[str]:
    if not isinstance(given, Function):
        return []
    said = [f"at most {given.calls} calls"] if given.calls is not None else []
    said += [f"at most {given.bytes} bytes"] if given.bytes is not None else []
    return [f"In one run: {', '.join(said)}."] if said else []


def _items(run: Any, returned: Any, types_of: _Types) -> str | None:
    """The result of a generator."""
    while hasattr(run, "__wrapped__"):
        run = run.__wrapped__
    if not (inspect.isgeneratorfunction(run) or inspect.isasyncgenfunction(run)):
        return None
    types_of.typing.add("Iterator")
    args = typing.get_args(returned)
    item = types_of.text(args[0]) if typing.get_origin(returned) in _STREAMS and args else types_of.any()
    return f"Iterator[{item}]"


class _Text:
    """Is shown as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _default(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return repr(value.name)
    return repr(value) if isinstance(value, (str, bytes, int, float, type(None))) and len(repr(value)) <= 60 else "..."


class _Types:
    """Hints as text, and what they need."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.typing: set[str] = set()
        #: Records, by the class that they are made of.
        self.records: dict[Any, str] = {}
        self._names: dict[Any, str] = {}

    def any(self) -> str:
        self.typing.add("Any")
        return "Any"

    def text(self, hint: Any) -> str:
        """A hint, as it is written in code that has nothing but Python."""
        if hint is None or hint is type(None):
            return "None"
        if hint is Any or hint is object or hint is inspect.Parameter.empty:
            return self.any()
        origin = typing.get_origin(hint)
        if origin is not None:
            return self._generic(origin, typing.get_args(hint))
        if isinstance(hint, typing.TypeVar):
            return self.any() if hint.__bound__ is None else self.text(hint.__bound__)
        if hasattr(hint, "__supertype__"):
            return self.text(hint.__supertype__)
        return self._class(hint) if isinstance(hint, type) else self.any()

    def _class(self, of: Any) -> str:
        if hasattr(of, "__members__"):
            if issubclass(of, enum.Flag):
                return "int"
            self.typing.add("Literal")
            return f"Literal[{', '.join(repr(name) for name in of.__members__)}]"
        fields = _fields(of)
        if fields is not None:
            return self._record(of, fields)
        name: str = of.__qualname__
        if of is Fd:
            return "int"
        if of.__module__ in _MODULES:
            self.modules.add(of.__module__)
            return f"{of.__module__}.{name}"
        return name if of.__module__ == "builtins" else self.any()

    def _record(self, of: Any, fields: list[tuple[str, Any, bool]]) -> str:
        known = self._names.get(of)
        if known is not None:
            return known
        plain: str = of.__name__
        name, number = plain, 1
        while name in self._names.values():
            number += 1
            name = f"{plain}{number}"
        self._names[of] = name
        self.typing.add("TypedDict")
        lines = []
        for field, hint, optional in fields:
            text = self.text(hint)
            if optional:
                self.typing.add("NotRequired")
                text = f"NotRequired[{text}]"
            lines.append(f"    {field}: {text}")
        self.records[of] = "\n".join([f"class {name}(TypedDict):", *(lines or ["    pass"])])
        return name

    def _generic(self, origin: Any, args: tuple[Any, ...]) -> str:
        if origin is typing.Union or origin is types.UnionType:
            return " | ".join(dict.fromkeys(self.text(arg) for arg in args))
        if origin is typing.Literal:
            self.typing.add("Literal")
            return f"Literal[{', '.join(map(repr, args))}]"
        if origin is typing.Annotated:
            return self.text(args[0])
        name = _GENERIC.get(origin)
        if name is None:
            return self.any()
        if not args:
            return name
        inside = ["..." if arg is Ellipsis else "()" if arg == () else self.text(arg) for arg in args]
        return f"{name}[{', '.join(inside)}]"


_GENERIC = {
    list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", dict: "dict", abc.Set: "set", abc.MutableSet: "set",
    abc.Mapping: "dict", abc.MutableMapping: "dict", abc.Sequence: "list", abc.Collection: "list",
}  # fmt: skip


def _fields(of: Any) -> list[tuple[str, Any, bool]] | None:
    """The fields of a record: name, hint, and whether it may be left out when it is sent."""
    if hasattr(of, "__dataclass_fields__"):
        import dataclasses

        hints, none = _hints_of(of), dataclasses.MISSING
        return [
            (f.name, hints[f.name], f.default is not none or f.default_factory is not none)
            for f in dataclasses.fields(of)
            if f.init
        ]
    if hasattr(of, "__total__") and issubclass(of, dict):
        found: Any = of
        return [(n, _unqualified(h), n in found.__optional_keys__) for n, h in _hints_of(of, True).items()]
    if issubclass(of, tuple) and hasattr(of, "_fields"):
        named: Any = of
        hints = _hints_of(of)
        return [(n, hints.get(n, Any), n in named._field_defaults) for n in named._fields]
    return None
