"""`export`: the messages of a topic, one a line."""

from __future__ import annotations

import click

from disheap.cli.asking import connect_broker
from disheap.cli.files.lines import written
from disheap.cli.looking.fields import Shown
from disheap.cli.looking.searching import filter_of
from disheap.cli.terminal.failures import EXIT_EMPTY
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text


@click.command()
@click.argument("topic", type=text)
@click.option("--where", metavar="FILTER", help="Only those for which the filter holds.")
@click.option("--count", type=click.IntRange(1), default=None, metavar="N", help="At most so many; else all.")
@client_options
@pass_invocation
def export(invocation: Invocation, /, topic: str, where: str | None, count: int | None) -> int:
    """Print the messages of TOPIC, one JSON object a line, in the order of their ids. They stay in the topic.

    Delayed and leased ones are among them. `disheap import` enqueues what is printed. The exit code is 9 when there are
    none.

    Example: disheap export jobs > jobs.jsonl
    """
    holds = filter_of(invocation, where)
    printed = 0
    with connect_broker(invocation) as client:
        now_ms = client.stats().time_ms
        for message in client.topic(topic).browse():
            if holds(Shown(message, now_ms)):
                click.echo(written(message))
                printed += 1
                if printed == count:
                    break
    return 0 if printed else EXIT_EMPTY
