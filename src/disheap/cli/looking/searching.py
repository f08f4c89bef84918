"""`search`: page by page through a topic, and what is as the filter says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from disheap.cli.asking import connect_broker
from disheap.cli.looking.fields import Shown
from disheap.cli.looking.filters import FilterError, Predicate, parse
from disheap.cli.looking.tables import emit_peeked, peeked_fields
from disheap.cli.sessions import labels_of
from disheap.cli.terminal.failures import EXIT_EMPTY
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json, printable
from disheap.cli.terminal.progress import Show, Silent
from disheap.cli.terminal.progress import show as progress

if TYPE_CHECKING:
    from disheap.protocol.broker import PeekedMessage
    from disheap.sync import Client

COUNT_MAX = 100_000
SHOWN_AFTER = 10_000
"""Messages that are looked at before the progress is shown. So a short search prints its table alone."""


@click.command()
@click.argument("topic", type=text)
@click.option("--where", metavar="FILTER", help="Which ones: 'priority >= 5 and age > 10m and task = \"shop.pay\"'.")
@click.option(
    "--count", type=click.IntRange(1, COUNT_MAX), default=100, show_default=True, metavar="N", help="At most so many."
)
@client_options
@pass_invocation
def search(invocation: Invocation, /, topic: str, where: str | None, count: int) -> int:
    """Find messages of TOPIC: ready, delayed and leased ones, in the order of their ids. Nothing changes.

    The exit code is 9 when none is found.

    Example: disheap search jobs --where 'state = delayed and priority > 3'
    """
    holds = filter_of(invocation, where)
    with connect_broker(invocation) as client:
        with Silent() if invocation.json else progress(sys.stderr) as shown:
            found, looked_at = matching(client, topic, holds, count, shown)
        labels = labels_of(client, (message.session for message in found if message.session))
    if invocation.json:
        rows = [peeked_fields(message, labels) for message in found]
        emit_json({"topic": topic, "messages": rows, "looked_at": looked_at})
    elif found:
        emit_peeked(found, labels)
    if not invocation.json and (not found or len(found) == count):
        many = f"{looked_at} message{'' if looked_at == 1 else 's'}"
        ended = f"--count {count} was reached after {many}" if found else f"none of {many} in {topic} is like that"
        click.echo(f"disheap: {ended}", err=True)
    return 0 if found else EXIT_EMPTY


def filter_of(invocation: Invocation, where: str | None) -> Predicate:
    """The filter of `--where`; without one, every message. Says where the filter is wrong, by a mark under the place.
    Raises `UsageError`."""
    if where is None:
        return lambda shown: True
    try:
        return parse(where)
    except FilterError as error:
        if not invocation.json:
            click.echo(f"  {printable(where)}\n  {' ' * len(printable(where[: error.place]))}^", err=True)
        place = f"character {error.place + 1}"
        raise click.UsageError(f"--where, {place}: {error}; the language is in docs/reference/filters.md") from None


def matching(client: Client, topic: str, holds: Predicate, count: int, shown: Show) -> tuple[list[PeekedMessage], int]:
    """At most `count` messages for which the filter holds, and how many were looked at."""
    now_ms, info = client.stats().time_ms, client.topic(topic).stats()
    found: list[PeekedMessage] = []
    looked_at = 0
    for message in client.topic(topic).browse():
        looked_at += 1
        if looked_at == SHOWN_AFTER:
            shown.stage("messages", info.ready + info.delayed + info.leased)
        if looked_at >= SHOWN_AFTER and not looked_at % 1000:
            shown.at(looked_at)
        if holds(Shown(message, now_ms)):
            found.append(message)
            if len(found) == count:
                break
    return found, looked_at
