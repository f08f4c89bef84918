"""Tables of settings into frozen msgspec structs: one door for the node's own settings and for every plugin's.

Strict, because a setting that is quietly ignored is worse than a node that does not start. An unknown key is an error
that names the key, its table and the keys there are. A value out of its bounds is an error that names the bound. Knows
nothing about files or environments: `config.sources` collects the values. A value from the environment or from a flag
is a `Text`, and its type is only known here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect, structs

from disheap.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)


class Text(str):
    """Words from outside a typed file. `origin` says where they stood: `DISHEAP_RAFT__TICK_MS`, `--name`."""

    __slots__ = ("origin",)
    origin: str

    def __new__(cls, words: str, origin: str) -> Text:
        text = super().__new__(cls, words)
        text.origin = origin
        return text


class Setting(NamedTuple):
    """One row of what `disheap plugins NAME` prints. `default` is "" if the setting must be given."""

    name: str
    type: str
    default: str
    bounds: str
    description: str


def convert(cls: type[S], table: Mapping[str, Any], where: str, origin: str) -> S:
    """`table` as a `cls`. `where` is the table's name, "" at the top; `origin` the file. Raises `ConfigError`."""
    fields = {field.encode_name: field for field in _fields(cls)}
    for key in table:
        if key not in fields:
            raise ConfigError(unknown_key(key, where, origin_of(table[key], origin), list(fields)))
    values = {}
    for key, field in fields.items():
        if key in table:
            values[field.name] = _convert_value(field.type, table[key], key, where, origin)
        elif field.required:
            raise ConfigError(f"{origin}: {_path(where, key)} is missing, and has no default. Set it.")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:  # a struct's own __post_init__
        raise ConfigError(f"{origin}: {f'[{where}]' if where else 'settings'}: {error}") from None


@cache
def _fields(cls: type[msgspec.Struct]) -> tuple[structs.FieldInfo, ...]:
    """Asked once for each class: each time msgspec looks, it leaves a cycle that only the garbage collector frees."""
    return structs.fields(cls)


def check_bounds(settings: msgspec.Struct, where: str) -> None:
    """Checks the bounds of a struct that somebody built in Python. Raises `ConfigError`."""
    for field in _fields(type(settings)):
        value = getattr(settings, field.name)
        if not isinstance(value, msgspec.Struct):
            _convert_value(field.type, value, field.encode_name, where, "given in Python")


def describe(cls: type[msgspec.Struct]) -> tuple[Setting, ...]:
    """What can be set, in the order of the struct."""
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    return tuple(_setting(field) for field in info.fields)


def origin_of(value: Any, origin: str) -> str:
    """Where a value came from, or the first words inside a table; `origin` when it stood in the file."""
    if isinstance(value, Mapping):
        return next((origin_of(inner, origin) for inner in value.values() if origin_of(inner, "")), origin)
    return value.origin if isinstance(value, Text) else origin


def unknown_key(key: str, where: str, origin: str, known: list[str]) -> str:
    """The sentence for a key that nobody reads."""
    near = difflib.get_close_matches(key, known, n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    table = f"[{where}]" if where else "the top level"
    return f"{origin}: unknown setting {key!r} in {table}.{guess} Known here: {', '.join(known) or 'none'}."


def _convert_value(kind: Any, value: Any, key: str, where: str, origin: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, Mapping):
        return convert(kind, value, f"{where}.{key}" if where else key, origin)
    try:
        if isinstance(value, Text):
            return msgspec.convert(_words(kind, value), kind, strict=False)
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        shown = str(value) if isinstance(value, Text) else repr(value)
        source = origin_of(value, origin)
        bare = _bare(inspect.type_info(kind))
        choice = f"; one of {_type_name(bare)}" if isinstance(bare, inspect.LiteralType | inspect.EnumType) else ""
        choice = "; true or false" if isinstance(bare, inspect.BoolType) else choice
        raise ConfigError(f"{source}: {_path(where, key)} = {shown} does not fit: {error}{choice}.") from None


def _words(kind: Any, value: Text) -> str | list[str]:
    """A list is spelled with commas where there is only text."""
    if isinstance(_bare(inspect.type_info(kind)), inspect.VarTupleType | inspect.ListType):
        return [word.strip() for word in value.split(",") if word.strip()]
    return str(value)


def _path(where: str, key: str) -> str:
    return f"[{where}] {key}" if where else key


# --- describing ------------------------------------------------------------------------------------------------------


def _setting(field: inspect.Field) -> Setting:
    kind = _bare(field.type)
    default = "" if field.required else _default(field)
    return Setting(field.encode_name, _type_name(field.type), default, _bounds(kind), _description(field.type))


def _default(field: inspect.Field) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return msgspec.json.encode(value).decode()


def _bare(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind


def _description(kind: inspect.Type) -> str:
    extra = kind.extra_json_schema if isinstance(kind, inspect.Metadata) else None
    return str((extra or {}).get("description", ""))


def _type_name(kind: inspect.Type) -> str:
    match _bare(kind):
        case inspect.UnionType(types=types):
            return " | ".join(_type_name(part) for part in types)
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return f"list of {_type_name(item)}"
        case inspect.LiteralType(values=values):
            return " | ".join(repr(value) for value in values)
        case inspect.EnumType(cls=cls) | inspect.StructType(cls=cls):
            return cls.__name__
        case bare:
            return type(bare).__name__.removesuffix("Type").lower()


_COMPARISONS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("multiple_of", "a multiple of"))
_LENGTHS = (("min_length", "length >="), ("max_length", "length <="), ("pattern", "matches"))


def _bounds(kind: inspect.Type) -> str:
    limits = []
    for attribute, sign in _COMPARISONS + _LENGTHS:
        bound = getattr(kind, attribute, None)
        if bound is not None:
            limits.append(f"{sign} {bound}")
    return ", ".join(limits)
