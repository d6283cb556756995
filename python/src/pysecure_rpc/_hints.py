"""Type hints, compiled once for each function into converters of its arguments and its result.

`dump` turns a value into a plain one that can cross. `load` turns a plain value that came into one of the hint's type. Both
refuse a value of another type. docs/reference/rpc-protocol.md defines the text of a signature and its hash.
"""
# The type of a value is unknown here until it is checked, and that of a container's items even then.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections import abc
from typing import Any, Callable

from ._errors import InvalidArguments
from ._values import Fd, Member

Convert = Callable[[Any], Any]


class Mismatch(TypeError):
    """A value is not of the type that its hint names. The message says where."""


class Type:
    """One hint. `plan` describes the values that pass unconverted, as a tuple that begins with a word (core/src/check.rs lists
    the words). It is None if only `dump` and `load` can tell."""

    __slots__ = ("text", "dump", "load", "plan")

    def __init__(self, text: str, dump: Convert, load: Convert, plan: tuple[Any, ...] | None = None) -> None:
        self.text = text
        self.dump = dump
        self.load = load
        self.plan = plan


def _same(value: Any) -> Any:
    return value


ANY = Type("any", _same, _same, ("any",))


def _short(value: Any) -> str:
    text = ""
    # A long integer gets no text: making it takes long, and Python may refuse to.
    if isinstance(value, int):
        text = repr(value) if value.bit_length() <= 128 else ""
    elif isinstance(value, (str, float, bytes, type(None))):
        text = repr(value) if not isinstance(value, (str, bytes)) or len(value) <= 40 else ""
    kind = type(value).__name__
    return f"{text} ({kind})" if text and len(text) <= 40 else f"a {kind}"


def _wrong(wanted: str, value: Any) -> Mismatch:
    return Mismatch(f"{wanted} is wanted, not {_short(value)}")


def _scalar(text: str, *classes: type) -> Type:
    exact = classes[0]
    rest = classes[1:]

    def load(value: Any) -> Any:
        kind = type(value)
        if kind is exact or kind in rest:
            return value
        raise _wrong(text, value)

    def dump(value: Any) -> Any:
        kind = type(value)
        if kind is exact or kind in rest:
            return value
        if isinstance(value, classes) and not hasattr(kind, "__members__"):
            return exact(value)
        raise _wrong(text, value)

    return Type(text, dump, load, ("types", *classes))


def _exact(text: str, cls: Any) -> Type:
    def convert(value: Any) -> Any:
        if type(value) is cls:
            return value
        raise _wrong(text, value)

    return Type(text, convert, convert, ("types", cls))


def _bytes_like(text: str, cls: Any) -> Type:
    def dump(value: Any) -> Any:
        if type(value) is cls:
            return value
        raise _wrong(text, value)

    def load(value: Any) -> Any:
        if type(value) is bytes:
            return cls(value)
        raise _wrong(text, value)

    return Type(text, dump, load)


def _sequence(text: str, cls: Any, item: Type) -> Type:
    def converter(one: Convert) -> Convert:
        if one is _same:

            def whole(value: Any) -> Any:
                if type(value) is cls:
                    return value
                raise _wrong(text, value)

            return whole

        def each(value: Any) -> Any:
            if type(value) is not cls:
                raise _wrong(text, value)
            return cls([one(v) for v in value])

        return each

    plan = None if item.plan is None else ("each", cls, item.plan)
    return Type(text, converter(item.dump), converter(item.load), plan)


def _mapping(text: str, key: Type, item: Type) -> Type:
    def converter(key_of: Convert, item_of: Convert) -> Convert:
        def each(value: Any) -> Any:
            if type(value) is not dict:
                raise _wrong(text, value)
            return {key_of(k): item_of(v) for k, v in value.items()}

        return each

    plan = None if key.plan is None or item.plan is None else ("map", key.plan, item.plan)
    return Type(text, converter(key.dump, item.dump), converter(key.load, item.load), plan)


def _fixed_tuple(items: list[Type]) -> Type:
    text = f"tuple[{','.join(i.text for i in items)}]"
    size = len(items)

    def converter(each: list[Convert]) -> Convert:
        def convert(value: Any) -> Any:
            if type(value) is not tuple or len(value) != size:
                raise _wrong(text, value)
            return tuple([one(v) for one, v in zip(each, value)])

        return convert

    plan = ("tuple", *(i.plan for i in items))
    return Type(text, converter([i.dump for i in items]), converter([i.load for i in items]), plan)


def _union(options: list[Type]) -> Type:
    text = "|".join(o.text for o in options)

    def converter(each: list[Convert]) -> Convert:
        def convert(value: Any) -> Any:
            for one in each:
                try:
                    return one(value)
                except Mismatch:
                    pass
            raise _wrong(text, value)

        return convert

    plan = ("union", *(o.plan for o in options))
    return Type(text, converter([o.dump for o in options]), converter([o.load for o in options]), plan)


def _enumeration(cls: Any) -> Type:
    members = cls.__members__
    import enum

    flags = issubclass(cls, enum.Flag)
    text = f"enum[{cls.__name__}]"

    def dump(value: Any) -> Any:
        if type(value) is not cls:
            raise _wrong(text, value)
        return Member(value.value if flags else value.name)

    def load(value: Any) -> Any:
        if type(value) is Member:
            if flags and type(value.name) is int:
                try:
                    return cls(value.name)
                except ValueError:
                    pass
            elif value.name in members:
                return members[value.name]
            raise Mismatch(f"{cls.__name__} has no member {value.name!r}")
        raise _wrong(text, value)

    return Type(text, dump, load)


def _literal(values: tuple[Any, ...]) -> Type:
    import json

    text = f"literal[{','.join(json.dumps(v) if not isinstance(v, bytes) else repr(v) for v in values)}]"
    allowed = {(type(v), v) for v in values}

    def convert(value: Any) -> Any:
        try:
            if (type(value), value) in allowed:
                return value
        except TypeError:
            pass
        raise _wrong(text, value)

    return Type(text, convert, convert)


def _record(cls: Any, fields: list[tuple[str, Any, bool]], inside: dict[Any, Type], make: Any, take: Any) -> Type:
    """A class with named fields. Each field is (name, hint, may it be left out)."""
    # A field that refers to the class itself gets `whole`, which converts as the result does.
    whole = Type(f"@{cls.__name__}", lambda value: dump(value), lambda value: load(value))
    inside[cls] = whole
    types_of = {name: compile_hint(hint, inside) for name, hint, _ in fields}
    optional = {name for name, _, may in fields if may}
    text = "{" + ",".join(f"{n}:{types_of[n].text}{'=' if n in optional else ''}" for n, _, _ in fields) + "}"
    name_of = cls.__name__

    def dump(value: Any) -> Any:
        result = {}
        for name, field in take(value):
            kind = types_of.get(name)
            if kind is None:
                raise Mismatch(f"{name_of} has no field {name!r}")
            try:
                result[name] = kind.dump(field)
            except Mismatch as error:
                raise Mismatch(f"{name_of}.{name}: {error}") from None
        if len(result) < len(types_of):
            _all_there(result)
        return result

    def load(value: Any) -> Any:
        if type(value) is not dict:
            raise _wrong(name_of, value)
        result = {}
        for name, field in value.items():
            kind = types_of.get(name)
            if kind is None:
                raise Mismatch(f"{name_of} has no field {name!r}")
            try:
                result[name] = kind.load(field)
            except Mismatch as error:
                raise Mismatch(f"{name_of}.{name}: {error}") from None
        if len(result) < len(types_of):
            _all_there(result)
        return make(result)

    def _all_there(result: dict[str, Any]) -> None:
        missing = [n for n in types_of if n not in result and n not in optional]
        if missing:
            raise Mismatch(f"{name_of}: {', '.join(missing)} missing")

    del inside[cls]
    return Type(text, dump, load)


def _hints_of(of: Any, extras: bool = False) -> dict[str, Any]:
    hints = typing.get_type_hints(of, include_extras=extras)
    if sys.version_info < (3, 11):
        names: dict[str, Any] = getattr(of, "__globals__", None) or vars(sys.modules[of.__module__])
        hints = {name: _resolved(hint, names) for name, hint in hints.items()}
    return hints


if sys.version_info < (3, 11):

    def _resolved(hint: Any, names: dict[str, Any]) -> Any:
        """Python 3.10 does not resolve names that are text inside `list[...]` and the like."""
        if isinstance(hint, str):
            stand_in = types.SimpleNamespace(__annotations__={"of": hint})
            return _resolved(typing.get_type_hints(stand_in, names)["of"], names)
        args = typing.get_args(hint)
        origin: Any = typing.get_origin(hint)
        if isinstance(hint, types.GenericAlias):
            return types.GenericAlias(origin, tuple(_resolved(a, names) for a in args))
        if origin is typing.Union or origin is types.UnionType:
            return typing.Union[tuple(_resolved(a, names) for a in args)]
        return hint


def _dataclass(cls: Any, inside: dict[Any, Type]) -> Type:
    import dataclasses

    hints = _hints_of(cls)
    missing = dataclasses.MISSING
    fields = [
        (f.name, hints[f.name], f.default is not missing or f.default_factory is not missing)
        for f in dataclasses.fields(cls)
        if f.init
    ]
    names = [f[0] for f in fields]

    def take(value: Any) -> Any:
        if type(value) is not cls:
            raise _wrong(cls.__name__, value)
        return [(n, getattr(value, n)) for n in names]

    return _record(cls, fields, inside, lambda found: cls(**found), take)


def _typed_dict(cls: Any, inside: dict[Any, Type]) -> Type:
    hints = {n: _unqualified(h) for n, h in _hints_of(cls, True).items()}
    fields = [(n, h, n in cls.__optional_keys__) for n, h in hints.items()]

    def take(value: Any) -> Any:
        if type(value) is not dict:
            raise _wrong(cls.__name__, value)
        return value.items()

    return _record(cls, fields, inside, _same, take)


def _unqualified(hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is not None and getattr(origin, "_name", None) in ("Required", "NotRequired", "ReadOnly"):
        return typing.get_args(hint)[0]
    return hint


def _named_tuple(cls: Any, inside: dict[Any, Type]) -> Type:
    hints = _hints_of(cls)
    fields = [(n, hints.get(n, Any), n in cls._field_defaults) for n in cls._fields]

    def take(value: Any) -> Any:
        if type(value) is not cls:
            raise _wrong(cls.__name__, value)
        return zip(cls._fields, value)

    return _record(cls, fields, inside, lambda found: cls(**found), take)


_FLOAT = Type("float", _same, _same, ("types", float, int))


def _float(value: Any) -> Any:
    kind = type(value)
    # Python's typing accepts an integer as a float. It crosses as an integer.
    if kind is float or kind is int:
        return value
    if isinstance(value, float):
        return float(value)
    raise _wrong("float", value)


_FLOAT.dump = _FLOAT.load = _float

_NONE: type = type(None)

_PLAIN: dict[Any, Type] = {
    Any: ANY,
    object: ANY,
    inspect.Parameter.empty: ANY,
    None: _exact("nil", _NONE),
    type(None): _exact("nil", _NONE),
    bool: _exact("bool", bool),
    int: _scalar("int", int, bool),
    float: _FLOAT,
    complex: _exact("complex", complex),
    str: _scalar("str", str),
    bytes: _scalar("bytes", bytes),
    bytearray: _bytes_like("bytearray", bytearray),
    Fd: _exact("fd", Fd),
    list: _sequence("list[any]", list, ANY),
    tuple: _sequence("tuple[any,...]", tuple, ANY),
    set: _sequence("set[any]", set, ANY),
    frozenset: _sequence("frozenset[any]", frozenset, ANY),
    dict: _mapping("map[any,any]", ANY, ANY),
}

_MODULES = {
    ("datetime", "datetime"): "datetime",
    ("datetime", "date"): "date",
    ("datetime", "time"): "time",
    ("datetime", "timedelta"): "timedelta",
    ("decimal", "Decimal"): "decimal",
    ("uuid", "UUID"): "uuid",
}


def compile_hint(hint: Any, inside: dict[Any, Type] | None = None) -> Type:
    """Compiles a hint. Raises TypeError for a hint whose values cannot cross."""
    inside = {} if inside is None else inside
    try:
        known = _PLAIN.get(hint) or inside.get(hint)
    except TypeError:  # not hashable
        known = None
    if known is not None:
        return known
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    if origin is not None:
        return _generic(hint, origin, args, inside)
    if isinstance(hint, typing.TypeVar):
        return compile_hint(hint.__bound__, inside) if hint.__bound__ is not None else ANY
    if hasattr(hint, "__supertype__"):
        return compile_hint(hint.__supertype__, inside)
    if isinstance(hint, type):
        name = _MODULES.get((hint.__module__, hint.__qualname__))
        if name is not None and getattr(sys.modules.get(hint.__module__), hint.__qualname__, None) is hint:
            return _exact(name, hint)
        if hasattr(hint, "__members__"):
            return _enumeration(hint)
        if hasattr(hint, "__dataclass_fields__"):
            return _dataclass(hint, inside)
        if hasattr(hint, "__total__") and issubclass(hint, dict):
            return _typed_dict(hint, inside)
        if issubclass(hint, tuple) and hasattr(hint, "_fields"):
            return _named_tuple(hint, inside)
        if hint in (abc.Sequence, abc.Mapping):
            return _generic(hint, hint, (), inside)
    raise TypeError(f"values of {hint!r} cannot cross: use plain types, dataclasses, enumerations, or bytes")


def _generic(hint: Any, origin: Any, args: tuple[Any, ...], inside: dict[Any, Type]) -> Type:
    def arg(at: int) -> Type:
        return compile_hint(args[at], inside) if at < len(args) else ANY

    if origin is typing.Union or origin is types.UnionType:
        return _union([compile_hint(a, inside) for a in args])
    if origin is typing.Literal:
        return _literal(args)
    if origin is typing.Annotated:
        return compile_hint(args[0], inside)
    if origin is list:
        item = arg(0)
        return _sequence(f"list[{item.text}]", list, item)
    if origin in (set, abc.Set, abc.MutableSet):
        item = arg(0)
        return _sequence(f"set[{item.text}]", set, item)
    if origin is frozenset:
        item = arg(0)
        return _sequence(f"frozenset[{item.text}]", frozenset, item)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            item = arg(0)
            return _sequence(f"tuple[{item.text},...]", tuple, item)
        return _fixed_tuple([compile_hint(a, inside) for a in args if a != ()])
    if origin in (dict, abc.Mapping, abc.MutableMapping):
        key, item = arg(0), arg(1)
        return _mapping(f"map[{key.text},{item.text}]", key, item)
    if origin in (abc.Sequence, abc.Collection):
        item = arg(0)
        return _union(
            [_sequence(f"list[{item.text}]", list, item), _sequence(f"tuple[{item.text},...]", tuple, item)]
        )
    raise TypeError(f"values of {hint!r} cannot cross: use plain types, dataclasses, enumerations, or bytes")


def fnv(text: str) -> int:
    """64-bit FNV-1a."""
    value = 14695981039346656037
    for byte in text.encode():
        value = ((value ^ byte) * 1099511628211) & 0xFFFF_FFFF_FFFF_FFFF
    return value


def _name(of: str) -> str:
    return of if len(of) <= 64 else of[:64] + "…"


def _told(error: BaseException) -> str:
    """The text of an error. Its class makes that text, and may fail."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return type(error).__name__


_STREAMS = (abc.Iterator, abc.Iterable, abc.Generator, abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator)
_KINDS = {0: "positional", 1: "any", 2: "rest", 3: "keyword", 4: "keywords"}


class Signature:
    """A function's parameters and result."""

    __slots__ = ("name", "text", "hash", "parameters", "result", "item", "_positional", "_needed", "_rest",
                 "_by_name", "_keywords", "_required", "_rest_name")  # fmt: skip

    def __init__(self, function: Callable[..., Any], name: str, stream: bool) -> None:
        found = inspect.signature(function)
        try:
            hints = _hints_of(function)
        except NameError as error:
            raise TypeError(f"{name}: a hint names what is not there: {error}") from None
        self.name = name
        positional: list[tuple[str, Type]] = []
        self._by_name: dict[str, Type] = {}
        self._rest: Type | None = None
        self._keywords: Type | None = None
        self._needed = 0
        self._required: list[str] = []
        self.parameters: list[dict[str, Any]] = []
        texts: list[str] = []
        last = None
        for parameter in found.parameters.values():
            try:
                hint = compile_hint(hints.get(parameter.name, Any))
            except TypeError as error:
                raise TypeError(f"{name}({parameter.name}): {error}") from None
            optional = parameter.default is not parameter.empty
            kind = parameter.kind
            if last == 0 and kind != 0:
                texts.append("/")
            if kind == 3 and last not in (2, 3):
                texts.append("*")
            last = int(kind)
            text = f"{parameter.name}:{hint.text}{'=' if optional else ''}"
            if kind in (0, 1):
                positional.append((parameter.name, hint))
                if not optional:
                    self._needed = len(positional)
                    self._required.append(parameter.name)
            if kind == 1 or kind == 3:
                self._by_name[parameter.name] = hint
            if kind == 3 and not optional:
                self._required.append(parameter.name)
            if kind == 2:
                self._rest = hint
                text = "*" + text
            if kind == 4:
                self._keywords = hint
                text = "**" + text
            texts.append(text)
            self.parameters.append(
                {"name": parameter.name, "kind": _KINDS[kind], "type": hint.text, "optional": optional}
            )
        if last == 0:
            texts.append("/")
        self._positional = positional
        returned = hints.get("return", Any)
        self.item = ANY
        try:
            if stream:
                args = typing.get_args(returned)
                if typing.get_origin(returned) in _STREAMS and args:
                    self.item = compile_hint(args[0])
                    self.result = compile_hint(args[2]) if len(args) == 3 else ANY
                else:
                    self.result = ANY
                outcome = f"stream[{self.item.text}]"
            else:
                self.result = compile_hint(returned)
                outcome = self.result.text
        except TypeError as error:
            raise TypeError(f"{name}, its result: {error}") from None
        self.text = f"{name}({','.join(texts)})->{outcome}"
        self.hash = fnv(self.text)

    def convert(self, args: Any, kwargs: Any, loading: bool) -> tuple[list[Any], dict[str, Any]]:
        """Checks and converts arguments. A parameter that has its default is left out."""
        positional = self._positional
        many = len(args)
        result: list[Any] = []
        at = "?"
        try:
            for (at, hint), value in zip(positional, args):
                result.append(hint.load(value) if loading else hint.dump(value))
            if many > len(positional):
                if self._rest is None:
                    raise InvalidArguments(f"{self.name}() takes {len(positional)} positional arguments, not {many}")
                at = "*"
                one = self._rest.load if loading else self._rest.dump
                result += [one(value) for value in args[len(positional) :]]
            if not kwargs:
                if many < self._needed or len(self._required) > self._needed:
                    self._missing(many, kwargs)
                return result, kwargs
            named: dict[str, Any] = {}
            taken = {name for name, _ in positional[:many]}
            for at, value in kwargs.items():
                by_name = self._by_name.get(at)
                if by_name is None:
                    by_name = self._keywords
                    if by_name is None:
                        raise InvalidArguments(f"{self.name}() has no parameter {_name(at)!r}")
                elif at in taken:
                    raise InvalidArguments(f"{self.name}() was given {_name(at)!r} twice")
                named[at] = by_name.load(value) if loading else by_name.dump(value)
            self._missing(many, kwargs)
            return result, named
        except Mismatch as error:
            raise InvalidArguments(f"{self.name}({_name(at)}): {error}") from None
        except InvalidArguments:
            raise
        except BaseException as error:
            if not loading:
                raise
            # Code of the type refused it, such as a dataclass's __post_init__. The function has not run.
            raise InvalidArguments(f"{self.name}({_name(at)}): {_told(error)}") from error

    def by_position(self, args: Any, kwargs: Any) -> tuple[Any, ...] | None:
        """The same arguments, all by position. None if there is a gap between them, or one can be given by name only."""
        following = self._positional[len(args) : len(args) + len(kwargs)]
        if all(name in kwargs and name in self._by_name for name, _ in following) and len(following) == len(kwargs):
            return (*args, *(kwargs[name] for name, _ in following))
        return None

    def plans(self) -> tuple[tuple[Any, ...], int] | None:
        """The plans of the parameters that can be given by position, and how many of those are required. None if a parameter
        without default can be given by name only."""
        if len(self._required) > self._needed:
            return None
        return tuple(hint.plan for _, hint in self._positional), self._needed

    def _missing(self, many: int, kwargs: dict[str, Any]) -> None:
        given = {name for name, _ in self._positional[:many]}
        missing = [n for n in self._required if n not in given and not (n in kwargs and n in self._by_name)]
        if missing:
            raise InvalidArguments(f"{self.name}() lacks {', '.join(repr(n) for n in missing)}")
