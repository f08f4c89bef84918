"""`sub`: the messages of a topic, printed as they come.

It asks for one message after the other, so it holds none that it has not printed. `pop` takes those that are there, and
ends.
"""

from __future__ import annotations

import sys

import click

from disheap.cli.asking import connect_broker
from disheap.cli.messages import POP_MAX, delivery_fields, print_delivery
from disheap.cli.terminal.options import Invocation, client_options, duration, pass_invocation, text
from disheap.cli.terminal.output import emit_json


@click.command()
@click.argument("topic", type=text)
@click.option("--count", type=click.IntRange(1), default=None, metavar="N", help="End after so many.")
@click.option("--idle", type=duration, default=0, metavar="TIME", help="End when nothing came for so long; 0: never.")
@click.option("--ack/--nack", "settle", default=True, help="Take them for good (the default), or give them back.")
@click.option("--headers", is_flag=True, help="Print key and headers above each payload.")
@click.option("--raw", is_flag=True, help="Do not escape control characters, even on a terminal.")
@client_options
@pass_invocation
def sub(
    invocation: Invocation, /, topic: str, count: int | None, idle: int, settle: bool, headers: bool, raw: bool
) -> None:
    """Consume TOPIC, and print each payload with a line feed, until Ctrl-C.

    A message is acknowledged after it has been printed. With --nack all are given back at the end, so --count has to
    say how many to hold. With --json each line is one message.

    Example: disheap sub jobs --count 100 --idle 10s
    """
    if not settle and (count is None or count > POP_MAX):
        raise click.UsageError(
            f"--nack holds what it prints until the end; say how many with --count, up to {POP_MAX}."
        )
    printed = 0
    with connect_broker(invocation) as client:
        credit = 1 if settle else count or 1
        with client.topic(topic).consume(credit=credit, idle_s=idle / 1000 or None) as consumer:
            for delivery in consumer:
                if invocation.json:
                    emit_json({"topic": topic, **delivery_fields(delivery)})
                else:
                    print_delivery(delivery, headers, raw or not sys.stdout.isatty())
                sys.stdout.buffer.flush()
                if settle:
                    delivery.ack()
                printed += 1
                if printed == count:
                    break
            reason = consumer.reason
    if reason:
        click.echo(f"disheap: {topic} has no more messages: {reason}", err=True)
