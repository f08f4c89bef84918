"""`peek`: the next messages of a topic."""

from __future__ import annotations

import click

from disheap.cli.asking import connect_broker
from disheap.cli.looking.tables import emit_peeked, peeked_fields
from disheap.cli.sessions import labels_of
from disheap.cli.terminal.failures import EXIT_EMPTY
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json

PEEK_MAX = 1000


@click.command()
@click.argument("topic", type=text)
@click.option(
    "--count", type=click.IntRange(1, PEEK_MAX), default=10, show_default=True, metavar="N", help="At most so many."
)
@click.option("--delayed", is_flag=True, help="Those whose time has not come, too.")
@click.option("--leased", is_flag=True, help="Those that consumers hold, too.")
@click.option("--ready/--no-ready", default=True, help="Those that are ready (the default), or the others alone.")
@client_options
@pass_invocation
def peek(invocation: Invocation, /, topic: str, count: int, delayed: bool, leased: bool, ready: bool) -> int:
    """Show the next messages of TOPIC in the order of delivery. Nothing changes.

    The exit code is 9 when there are none.

    Example: disheap peek jobs --count 3 --json
    """
    if not (ready or delayed or leased):
        raise click.UsageError("--no-ready alone shows nothing; add --delayed or --leased")
    with connect_broker(invocation) as client:
        found = client.topic(topic).peek(count, delayed=delayed, leased=leased, ready=ready)
        labels = labels_of(client, (message.session for message in found if message.session))
    if invocation.json:
        emit_json({"topic": topic, "messages": [peeked_fields(message, labels) for message in found]})
    elif found:
        emit_peeked(found, labels)
    else:
        click.echo(f"disheap: nothing waits in {topic}", err=True)
    return 0 if found else EXIT_EMPTY
