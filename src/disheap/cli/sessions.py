"""`session ls` and `session end`: who is connected, what they hold, and how to make an end of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from disheap.cli.asking import ask_leader
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json, emit_table

if TYPE_CHECKING:
    from disheap.sync import Client

PAGE = 100
PAGE_MAX = 500


@click.group(no_args_is_help=False)
@client_options
def session() -> None:
    """List the sessions of clients, and end one."""


@session.command()
@click.option("--label", type=text, default="", metavar="TEXT", help="Only those whose label begins so.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="N", help="Only those with larger numbers than N.")
@click.option(
    "--limit", type=click.IntRange(1, PAGE_MAX), default=PAGE, show_default=True, metavar="N", help="At most so many."
)
@client_options
@pass_invocation
def ls(invocation: Invocation, /, label: str, after: int, limit: int) -> None:
    """List the sessions, the oldest first. The leader answers; nothing of it needs a session.

    Example: disheap session ls --label celery
    """
    page = ask_leader(invocation, {"op": "sessions", "after": after, "limit": limit, "label": label})
    if invocation.json:
        emit_json(page)
        return
    rows = page["sessions"]
    stats = list(dict.fromkeys(name for row in rows for name in row["machine_stats"]))
    headers = ["session", "label", "address", "principal", "age", "attached", "silent"]
    emit_table([*headers, *(name.replace("_", " ") for name in stats)], [_cells(row, stats) for row in rows])
    if page["next_after"] is not None:
        click.echo(f"\nThere are more, {page['total']} in all: disheap session ls --after {page['next_after']}")


@session.command()
@click.argument("number", type=click.IntRange(1), metavar="SESSION")
@client_options
@pass_invocation
def end(invocation: Invocation, /, number: int) -> None:
    """End a session. What it holds goes back at once, and its exclusive topics are deleted.

    A client that lives opens another session and goes on.

    Example: disheap session end 117834121052160
    """
    ended = ask_leader(invocation, {"op": "end-session", "session": number})
    if invocation.json:
        emit_json(ended)
    else:
        label = f" ({ended['label']})" if ended["label"] else ""
        click.echo(f"session {number}{label} is ended")


def labels_of(client: Client, numbers: Iterable[int]) -> dict[int, str]:
    """The labels of sessions, by number. `client` is connected to the leader. A session that has ended has none."""
    labels = {}
    for number in dict.fromkeys(numbers):
        for row in client.driver.admin({"op": "sessions", "after": number - 1, "limit": 1})["sessions"]:
            if row["session"] == number:
                labels[number] = row["label"]
    return labels


def _cells(row: dict[str, Any], stats: list[str]) -> list[object]:
    attached = "yes" if row["attached"] else "no"
    times = [_seconds(row["age_ms"]), attached, _seconds(row["silent_ms"])]
    held = [row["machine_stats"].get(name, "-") for name in stats]
    return [row["session"], row["label"] or "-", row["address"], row["principal"] or "-", *times, *held]


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.1f}s" if milliseconds < 60_000 else f"{milliseconds // 60_000}m"
