"""`publish`: a message through an exchange."""

from __future__ import annotations

import click

from disheap.cli.asking import connect_broker
from disheap.cli.messages import named_once, read_payloads
from disheap.cli.terminal.failures import EXIT_EMPTY
from disheap.cli.terminal.options import Invocation, client_options, duration, header, pass_invocation, text
from disheap.cli.terminal.output import emit_json
from disheap.protocol.broker import PRIORITY_MAX, PRIORITY_MIN


@click.command()
@click.argument("exchange", type=text)
@click.argument("routing_key", type=text)
@click.argument("payload", required=False)
@click.option(
    "--priority", type=click.IntRange(PRIORITY_MIN, PRIORITY_MAX), default=0, metavar="N", help="As of `enqueue`."
)
@click.option("--delay", type=duration, default=0, metavar="TIME", help="Not to be delivered before.")
@click.option("--expires", type=duration, default=0, metavar="TIME", help="Dropped when not delivered within.")
@click.option(
    "--header", "headers", type=header, multiple=True, metavar="NAME=VALUE", help="A header, as text. May repeat."
)
@click.option("--key", type=text, default="", metavar="TEXT", help="What the message is about, such as a customer.")
@client_options
@pass_invocation
def publish(
    invocation: Invocation,
    /,
    exchange: str,
    routing_key: str,
    payload: str | None,
    priority: int,
    delay: int,
    expires: int,
    headers: tuple[tuple[str, str], ...],
    key: str,
) -> int:
    """Publish a message to EXCHANGE with ROUTING_KEY. Without PAYLOAD, or with -, standard input is the message.

    When it returns, a majority of the nodes has it on disk, once for each topic. The exit code is 9 when no binding
    led anywhere: then nothing was kept.

    Example: disheap publish mail mail.urgent.today 'the house burns' --priority 9
    """
    named = named_once(headers)
    (body,) = read_payloads(invocation, payload)
    with connect_broker(invocation) as client:
        reached = client.publish(
            exchange, routing_key, body, priority=priority, delay_ms=delay, expires_ms=expires, headers=named, key=key
        )
    if invocation.json:
        emit_json({"exchange": exchange, "routing_key": routing_key, "topics": reached})
    else:
        where = f"is in {reached} topic{'' if reached == 1 else 's'}" if reached else "went nowhere: no binding matches"
        click.echo(f"the message {where}")
    return 0 if reached else EXIT_EMPTY
