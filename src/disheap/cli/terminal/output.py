"""What is printed: tables for a terminal, columns for a pipe, one JSON document for a program.

Owns how things look; refuses to know where they came from. rich draws on a terminal that is wide enough. Anywhere else
a table is plain columns, as wide as they need to be, so that no address is cut.
"""

from __future__ import annotations

import base64
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

Rows = Sequence[Sequence[object]]

GAP = "  "
FRAME = 3  # what a drawn column is wider than its words
_BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB")


def emit_json(value: Any) -> None:
    """One document on one line, snake_case keys, units last."""
    click.echo(json_text(value, ensure_ascii=(sys.stdout.encoding or "").lower() != "utf-8"))


def json_text(value: Any, ensure_ascii: bool = False) -> str:
    """JSON on one line. What `printable` escapes is escaped: no terminal is steered, a program reads the same."""
    text = json.dumps(value, ensure_ascii=ensure_ascii)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def emit_table(headers: Sequence[str], rows: Rows, title: str = "", names: Sequence[str] = ()) -> None:
    """Drawn where it fits a terminal, in plain columns elsewhere. `names` head further columns, and are somebody's own:
    they are written as they are."""
    words, headers = headers, [*headers, *names]
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(headers, *cells, strict=True)]
    if sys.stdout.isatty() and sum(widths) + FRAME * len(widths) <= shutil.get_terminal_size().columns:
        _draw(headers, cells, title)
    else:
        _columns([*(word.upper().replace(" ", "_") for word in words), *names], cells, widths)


def emit_pairs(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, one pair a line."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        click.echo(f"{name:<{width}}{GAP}{printable(str(value))}")


def payload_fields(payload: bytes) -> dict[str, str]:
    """`payload` as text, or `payload_base64` where it is not UTF-8."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode()}


def header_fields(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as JSON has them. Bytes become `{"base64": ...}`. A float that JSON has no form for becomes text."""
    return {name: _json_value(value) for name, value in headers.items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str) -> str:
    """The text with control characters escaped, so that it cannot steer a terminal: ESC becomes `\\x1b`. Invisible
    ones that change the direction of writing count as well."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, and keeps line feeds and tabs."""
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def size(count: int) -> str:
    """Bytes for people: 512 B, 4.0 KiB."""
    if count < 1024:
        return f"{count} B"
    power = min(len(_BINARY_UNITS), (count.bit_length() - 1) // 10)
    return f"{count / 1024**power:.1f} {_BINARY_UNITS[power - 1]}"


def period(milliseconds: int) -> str:
    """A duration for people, as it could be typed again: 0, 250ms, 10s, 90m."""
    for unit, unit_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % unit_ms == 0:
            return f"{milliseconds // unit_ms}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0"


def _draw(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, title=title or None, box=box.SIMPLE_HEAD, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _columns(headers: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    for line in [headers, *rows]:
        padded = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        click.echo(GAP.join(padded).rstrip())


def _width(cell: str) -> int:
    """In columns of a terminal: an East Asian character takes two, a combining one none."""
    if cell.isascii():
        return len(cell)
    from rich.cells import cell_len

    return cell_len(cell)
