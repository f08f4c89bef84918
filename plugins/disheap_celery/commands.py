"""`celery -A APP disheap scheduled`: the tasks that wait in the broker for their eta.

Celery loads the group of commands by the entry point group `celery.commands`. `celery inspect scheduled` asks workers,
and no worker has these tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click
from celery.signals import import_modules
from kombu.exceptions import OperationalError

from disheap_celery.flower import introduce

LIMIT_MAX = 1000
ARGUMENTS_SHOWN = 60
COLUMNS = ("DUE", "PRIORITY", "QUEUE", "TASK", "ID", "STATE", "ARGUMENTS")


import_modules.connect(introduce, weak=False, dispatch_uid="disheap")
"""Flower sends it when it starts. This module is loaded by the same entry point group as Flower's command."""


@click.group()
def disheap() -> None:
    """Look at what waits in disheap."""


@disheap.command()
@click.option("-Q", "--queues", metavar="NAMES", help="Separated by commas; the default is the application's queues.")
@click.option("-n", "--limit", type=click.IntRange(1, LIMIT_MAX), default=100, show_default=True, help="Of each queue.")
@click.option("--json", "-j", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def scheduled(context: click.Context, queues: str | None, limit: int, as_json: bool) -> None:
    """List tasks that wait in the broker for their eta, the next one first."""
    app = context.obj.app
    names = [name.strip() for name in queues.split(",")] if queues else list(app.amqp.queues)
    try:
        with app.connection_for_read() as connection:
            if connection.transport.driver_type != "disheap":
                raise click.ClickException(
                    f"the broker of this application is {connection.as_uri()}; set broker_url to a disheap:// URL"
                )
            channel = connection.default_channel
            rows = [row for name in names for row in _rows(connection, channel, name, limit)]
    except OperationalError as error:
        raise click.ClickException(f"the broker does not answer: {error}") from error
    rows.sort(key=lambda row: str(row["due"]))
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        _print(rows)
    else:
        click.echo(f"no task waits for its eta in {', '.join(names)}")


def _rows(connection: Any, channel: Any, queue: str, limit: int) -> list[dict[str, Any]]:
    try:
        total = channel.delayed_total(queue)
        found = channel.delayed(queue, limit)
    except connection.channel_errors as error:
        click.echo(f"{queue}: {error}", err=True)
        return []
    if total > len(found):
        click.echo(f"{queue}: {len(found)} of {total} tasks, in the order of publication; see --limit", err=True)
    tasks = [channel.headers_of(message) for message in found]
    revoked = channel.revoked(tasks)
    return [
        {
            "due": datetime.fromtimestamp(message.due_ms / 1000, UTC).isoformat(timespec="milliseconds"),
            "priority": message.priority * channel.priority_sign,
            "queue": queue,
            "task": headers.get("task", ""),
            "id": headers.get("id", ""),
            "state": "revoked" if is_revoked else "waits",
            "arguments": f"{headers.get('argsrepr', '')} {headers.get('kwargsrepr', '')}".strip(),
        }
        for message, headers, is_revoked in zip(found, tasks, revoked, strict=True)
    ]


def _print(rows: Iterable[dict[str, Any]]) -> None:
    lines: list[tuple[str, ...]] = [COLUMNS]
    for row in rows:
        shown = [str(value) for value in row.values()]
        shown[-1] = shown[-1] if len(shown[-1]) <= ARGUMENTS_SHOWN else shown[-1][: ARGUMENTS_SHOWN - 1] + "…"
        lines.append(tuple(shown))
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
