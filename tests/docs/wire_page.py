"""Makes the second part of the page on the wire protocol from the code: `python -m tests.docs.wire_page`.

Everything below `MARK` is made from `disheap.protocol` and `disheap.errors`. A test holds it against them. The tables
above `MARK` are written by hand, and the test compares them with the code as well.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import inspect as types

from disheap.errors import ProtocolError, RequestError
from disheap.protocol import broker, frames, handshake

PAGE = Path(__file__).parents[2] / "docs/reference/wire-protocol.md"
MARK = "<!-- from here on made by `python -m tests.docs.wire_page` from disheap.protocol and disheap.errors -->"

MAPS = (
    handshake.Hello,
    handshake.Welcome,
    handshake.ClientLimits,
    handshake.Members,
    handshake.Goodbye,
    frames.SessionOptions,
)
PARTS = (
    broker.NewMessage,
    broker.TopicSettings,
    broker.PeekedMessage,
    broker.Held,
    broker.Decision,
    broker.Inquiry,
)
CODES = """\
Other pages name an error by its class: `TopicNotFound` has the code `topic-not-found`. The codes of a GOODBYE after a
protocol error:"""
RENAMED = {"SeenSettings": "TopicSettings"}
RECORDS = """\
Commands, replies, pushes and queries of the `heap` machine are MessagePack arrays. The first element is the tag, a
number. Fields with a default may be left out from the end. New fields are only added at the end, and a tag is never
used again. A node refuses a command with a field that it does not know: such a command would not mean the same on every
replica. A client ignores fields that it does not know."""
BOUNDS = {
    "a priority": (broker.PRIORITY_MIN, broker.PRIORITY_MAX),
    "a duration, in milliseconds": (0, broker.DURATION_MAX_MS),
    "the name of a topic or an exchange, in characters": (1, broker.NAME_CHARACTERS),
    "bytes of `encoded_headers`": (0, broker.HEADERS_BYTES_MAX),
    "headers of a message": (0, broker.HEADERS_MAX),
    "headers of all messages of an EnqueueMany": (0, broker.BATCH_HEADERS_MAX),
    "the name of a header, in characters": (1, broker.NAME_CHARACTERS),
    "a key, in bytes of UTF-8": (0, broker.KEY_BYTES_MAX),
    "`credit`": (1, broker.CREDIT_MAX),
    "`credit_bytes`": (0, broker.CREDIT_BYTES_MAX),
    "the number of a credit group": (1, broker.CREDIT_GROUP_MAX),
    "consumers of a credit group": (1, broker.CREDIT_GROUP_CONSUMERS_MAX),
    "parts of a Batch: messages for one topic, and tokens": (1, broker.BATCH_PARTS_MAX),
    "messages of an EnqueueMany, consumers of a Recover": (1, broker.BATCH_MAX),
    "tokens of an Ack, Nack or Extend": (1, broker.TOKENS_MAX),
    "leases that an ATTACH names": (0, broker.HELD_MAX),
    "pops and consumers that an ATTACH names, each": (0, broker.NAMED_MAX),
    "`limit` of a query": (1, broker.PAGE_ROWS),
}
FAMILIES = {
    "Commands": get_args(broker.Command),
    "Replies": get_args(broker.Reply),
    "Pushes": get_args(broker.Push),
    "Queries": get_args(broker.Query),
}


def render() -> str:
    """The part of the page below `MARK`."""
    out = [
        "## Maps",
        "These are MessagePack maps from the names of the fields to their values.",
    ]
    for each in MAPS:
        out += [f"### {each.__name__}", text_of(each), "\n".join(map_rows(each))]
    out += ["## Records of the broker", RECORDS]
    for family, records in FAMILIES.items():
        out += [f"### {family}", *(part for each in records for part in record(each))]
    out += ["### Parts of records", "These arrays have no tag.", *(part for each in PARTS for part in record(each))]
    out += ["### Bounds", "\n".join(bound_rows())]
    out += ["## Codes", CODES, "\n".join(code_rows(ProtocolError))]
    out += [
        "The codes of refused requests. Clients raise `connection-lost`, `not-sent` and `timeout` themselves.",
        "\n".join(code_rows(RequestError)),
    ]
    return "\n\n".join(out) + "\n"


def record(kind: type[msgspec.Struct]) -> Iterator[str]:
    """One record: its array, and what it means."""
    tag = kind.__struct_config__.tag
    fields = [f"{field.encode_name}: {type_name(field.type)}{default(field)}" for field in fields_of(kind)]
    yield f"**{kind.__name__}** `[{', '.join([str(tag)] * (tag is not None) + fields)}]`"
    if kind.__doc__:
        yield text_of(kind)


def map_rows(kind: type[msgspec.Struct]) -> Iterator[str]:
    """The table of a map's fields."""
    comments = comments_of(kind)
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for field in fields_of(kind):
        value = default(field).removeprefix(" = ")
        shown = f"`{value}`" if value else ""
        yield f"| {field.encode_name} | {type_name(field.type)} | {shown} | {comments.get(field.name, '')} |"


def code_rows(root: type[ProtocolError] | type[RequestError]) -> Iterator[str]:
    """The table of the codes below an error."""
    yield "| code | meaning |"
    yield "|---|---|"
    for each in heirs(root):
        if "code" in vars(each):
            yield f"| `{each.code}` | {text_of(each)} |"


def bound_rows() -> Iterator[str]:
    """The table of what numbers may be."""
    yield "| what | from | to |"
    yield "|---|---|---|"
    for what, (least, most) in BOUNDS.items():
        yield f"| {what} | {least} | {most} |"


def comments_of(kind: type[Any]) -> dict[str, str]:
    """The comments behind the fields of a class."""
    source = textwrap.dedent(inspect.getsource(kind))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    lines = source.splitlines()
    return {
        part.target.id: lines[part.lineno - 1].partition("  # ")[2]
        for part in tree.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


def heirs(root: type[Any]) -> Iterator[type[Any]]:
    """The class and all below it, in the order of the source."""
    yield root
    for child in root.__subclasses__():
        yield from heirs(child)


def fields_of(kind: type[msgspec.Struct]) -> tuple[types.Field, ...]:
    """The fields of a struct, as msgspec understands them."""
    found = types.type_info(kind)
    assert isinstance(found, types.StructType)
    return found.fields


def type_name(kind: types.Type) -> str:
    """The type in the words of the page."""
    match kind:
        case types.IntType():
            return "int"
        case types.StrType():
            return "text"
        case types.BytesType():
            return "bytes"
        case types.BoolType():
            return "bool"
        case types.FloatType():
            return "float"
        case types.ListType() | types.VarTupleType():
            return f"array of {type_name(kind.item_type)}"
        case types.TupleType():
            return f"[{', '.join(map(type_name, kind.item_types))}]"
        case types.DictType():
            return f"map of {type_name(kind.key_type)} to {type_name(kind.value_type)}"
        case types.UnionType():
            return " or ".join(type_name(each) for each in kind.types)
        case types.NoneType():
            return "nil"
        case types.StructType():
            return RENAMED.get(kind.cls.__name__, kind.cls.__name__)
        case _:
            raise AssertionError(f"no word for {kind}")


def default(field: types.Field) -> str:
    """` = value`, or "" for a field that has to be there."""
    if field.required:
        return ""
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(value, msgspec.Struct | bytes):
        value = [] if isinstance(value, msgspec.Struct) else ""
    return f" = {json.dumps(value)}"


def text_of(kind: type[Any]) -> str:
    """The docstring on one line."""
    return " ".join((inspect.getdoc(kind) or "").split())


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(f"{PAGE.read_text().partition(MARK)[0]}{MARK}\n\n{render()}")


if __name__ == "__main__":
    main()
