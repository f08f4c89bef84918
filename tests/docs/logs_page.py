"""Makes the tables of the page on log events from the code: `python -m tests.docs.logs_page`.

Everything below `MARK` is made, except for the last column. What an event means is written into the page by hand. It is
kept for as long as the event is there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/logs.md"
MARK = "<!-- from here on made by `python -m tests.docs.logs_page` from the code, except for the last column -->"
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
LOGGERS = ("log", "_log")
LEFT_OUT = ("src/disheap/testing", "src/disheap/example")
CONTRIB = ("contrib/disheap-grpc/disheap_grpc", "contrib/disheap-redis/disheap_redis")

PARTS = {
    "The process": ("src/disheap/cli",),
    "The node": (
        *("src/disheap/runtime/member.py", "src/disheap/runtime/joining", "src/disheap/runtime/services"),
        "src/disheap/runtime/observers",
    ),
    "Members": (
        *("src/disheap/runtime/membership", "src/disheap/runtime/node_membership"),
        "src/disheap/runtime/peers/asking",
    ),
    "Peers": ("src/disheap/runtime/peers",),
    "Clients": ("src/disheap/runtime/clients", "plugins/disheap_tcp"),
    "Groups": ("src/disheap/runtime/replica", "src/disheap/runtime/hosted_replica", "src/disheap/runtime/state"),
    "Repair": ("src/disheap/runtime/repair",),
    "Disk, memory and clock": ("src/disheap/runtime/disk", "src/disheap/runtime/memory", "src/disheap/runtime/clocks"),
    "The file log": ("plugins/disheap_filelog",),
    "HTTP": ("plugins/disheap_http",),
    "gRPC": ("contrib/disheap-grpc",),
}
"""Titles, and what the paths of the modules begin with. The first that fits counts."""

OF_A_GROUP = tuple(
    f"src/disheap/runtime/{name}" for name in (
        "replica", "hosted_replica", "state", "repair", "clocks", "disk", "membership/incarnations",
    )
)  # fmt: skip
"""Modules whose events all belong to one group."""


class LogCall(NamedTuple):
    """One place that logs."""

    event: str | None  # None if it is no literal
    level: str
    fields: tuple[str, ...]
    is_limited: bool
    place: str  # file and line

    @property
    def part(self) -> str:
        """The title of the part that it stands in."""
        return next((title for title, paths in PARTS.items() if self.place.startswith(paths)), "Other")


def find_calls() -> list[LogCall]:
    """Every place in the product that logs, in the order of files and lines."""
    found = []
    for directory in ("src", "plugins", *CONTRIB):
        for file in sorted((ROOT / directory).rglob("*.py")):
            place = str(file.relative_to(ROOT))
            if not place.startswith(LEFT_OUT):
                found.extend(calls_in(file.read_text(), place))
    return found


def calls_in(source: str, place: str) -> Iterator[LogCall]:
    """The places in one module."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if (level := _level(node.func)) is not None:
            event, is_limited = node.args[0], False
        elif node.func.attr == "write" and len(node.args) == 2 and (level := _level(node.args[0])) is not None:
            event, is_limited = node.args[1], True
        else:
            continue
        text = event.value if isinstance(event, ast.Constant) and isinstance(event.value, str) else None
        fields = tuple(keyword.arg or "**" for keyword in node.keywords if keyword.arg != "exc_info")
        yield LogCall(text, level, fields, is_limited, f"{place}:{node.lineno}")


def _level(node: ast.expr) -> str | None:
    """The level, if this is a method of a logger."""
    if not isinstance(node, ast.Attribute) or node.attr not in LEVELS:
        return None
    owner = node.value
    if isinstance(owner, ast.Call):  # get_logger(__name__).info
        is_logger = isinstance(owner.func, ast.Name) and owner.func.id == "get_logger"
    else:
        is_logger = (isinstance(owner, ast.Name) and owner.id in LOGGERS) or (
            isinstance(owner, ast.Attribute) and owner.attr in LOGGERS
        )
    return LEVELS[node.attr] if is_logger else None


def meanings(page: str) -> dict[str, str]:
    """What the page says of each event."""
    rows = [line.strip("|").split(" | ") for line in page.partition(MARK)[2].splitlines() if line.startswith("| `")]
    return {cells[0].strip().strip("`"): cells[-1].strip() for cells in rows}


def render(calls: list[LogCall], meant: dict[str, str]) -> str:
    """The part of the page below `MARK`."""
    out = []
    for title in PARTS:
        rows = ["| event | level | fields | what it means |", "|---|---|---|---|"]
        for event in sorted({call.event for call in calls if call.part == title and call.event}):
            same = [call for call in calls if call.event == event]
            fields = dict.fromkeys(field for call in same for field in call.fields)
            level = same[0].level + (", limited" if any(call.is_limited for call in same) else "")
            names = ", ".join(f"`{field}`" for field in fields)
            rows.append(f"| `{event}` | {level} | {names} | {meant.get(event, '')} |")
        out += [f"## {title}", "\n".join(rows)]
    return "\n\n".join(out) + "\n"


def main() -> None:
    page = PAGE.read_text()
    PAGE.write_text(page.partition(MARK)[0] + f"{MARK}\n\n{render(find_calls(), meanings(page))}")


if __name__ == "__main__":
    main()
