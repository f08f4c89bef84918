"""`topic edit|pause|resume`: what changes a topic between its creation and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from disheap.cli.asking import connect_broker
from disheap.cli.terminal.failures import EXIT_DIFFERENT, EXIT_OK
from disheap.cli.terminal.options import Invocation, client_options, duration, pass_invocation, text
from disheap.cli.terminal.output import emit_json
from disheap.protocol.broker import DELIVERY_LIMIT_MAX, PRIORITY_MAX, PRIORITY_MIN

if TYPE_CHECKING:
    from disheap.protocol.broker import TopicInfo


@click.command()
@click.argument("name", type=text)
@click.option("--max-messages", type=click.IntRange(0), metavar="N", help="How many fit; 0: no limit.")
@click.option("--overflow", type=click.Choice(["reject", "drop"]), help="What a full topic does.")
@click.option("--message-ttl", "message_ttl_ms", type=duration, metavar="TIME", help="For new messages; 0: none.")
@click.option("--expires", "expires_ms", type=duration, metavar="TIME", help="Delete it when unused for; 0: never.")
@click.option("--auto-delete/--no-auto-delete", default=None, help="Delete it when its last consumer is gone.")
@click.option("--priority-max", type=click.IntRange(PRIORITY_MIN, PRIORITY_MAX), metavar="N", help="0: no limit.")
@click.option("--delivery-limit", type=click.IntRange(0, DELIVERY_LIMIT_MAX), metavar="N", help="0: no limit.")
@click.option("--dead-letter-topic", type=text, metavar="NAME", help='Where dead letters go; "": nowhere.')
@click.option("--dead-letter-exchange", type=text, metavar="NAME", help="Where they go instead.")
@click.option("--dead-letter-key", type=text, metavar="KEY", help="With this routing key.")
@click.option("--retry-delay", "retry_delay_ms", type=duration, metavar="TIME", help="The first pause; 0: none.")
@click.option("--retry-delay-max", "retry_delay_max_ms", type=duration, metavar="TIME", help="The bound of the pauses.")
@click.option("--revision", type=click.IntRange(1), metavar="N", help="Refuse if the topic has another one by now.")
@click.option("--dry-run", is_flag=True, help="Only show the difference; exit code 1 if there is one.")
@client_options
@pass_invocation
def edit(invocation: Invocation, /, name: str, revision: int | None, dry_run: bool, **options: Any) -> int:
    """Change settings of a topic. Those that are not given stay.

    Example: disheap topic edit jobs --max-messages 1000 --overflow drop --dry-run
    """
    from disheap.protocol import broker

    changes = {field: value for field, value in options.items() if value is not None}
    if not changes:
        raise click.UsageError("name a setting that changes; `disheap topic edit --help` lists them.")
    with connect_broker(invocation) as client:
        found: TopicInfo = client.driver.query(broker.DescribeTopic(name))
        different = broker.difference(found.settings, broker.changed_settings(found.settings, changes))
        if not dry_run:
            found = client.update_topic(name, revision=revision or found.revision, **changes)
    if invocation.json:
        shown = {field: {"old": old, "new": new} for field, (old, new) in different.items()}
        emit_json({"topic": name, "revision": found.revision, "changes": shown, "dry_run": dry_run})
    else:
        for field, (old, new) in different.items():
            click.echo(f"- {field} = {old!r}\n+ {field} = {new!r}")
        if not different:
            click.echo(f"topic {name} has these settings already", err=True)
    return EXIT_DIFFERENT if dry_run and different else EXIT_OK


@click.command()
@click.argument("name", type=text)
@click.option("--deliveries", is_flag=True, help="It hands out no messages.")
@click.option("--enqueues", is_flag=True, help="It takes no messages.")
@client_options
@pass_invocation
def pause(invocation: Invocation, /, name: str, deliveries: bool, enqueues: bool) -> None:
    """Pause a topic: its deliveries, its enqueues, or by default both.

    Example: disheap topic pause jobs --deliveries
    """
    _set_paused(invocation, name, deliveries, enqueues, True)


@click.command()
@click.argument("name", type=text)
@click.option("--deliveries", is_flag=True, help="It hands out messages again.")
@click.option("--enqueues", is_flag=True, help="It takes messages again.")
@client_options
@pass_invocation
def resume(invocation: Invocation, /, name: str, deliveries: bool, enqueues: bool) -> None:
    """Let a topic go on that was paused: its deliveries, its enqueues, or by default both.

    Example: disheap topic resume jobs
    """
    _set_paused(invocation, name, deliveries, enqueues, False)


def paused_words(info: TopicInfo) -> str:
    """What of a topic is paused: "deliveries", "enqueues", "both", or "no"."""
    if info.deliveries_paused and info.enqueues_paused:
        return "both"
    return "deliveries" if info.deliveries_paused else "enqueues" if info.enqueues_paused else "no"


def _set_paused(invocation: Invocation, name: str, deliveries: bool, enqueues: bool, is_paused: bool) -> None:
    is_both = deliveries == enqueues
    states = {
        "deliveries": is_paused if deliveries or is_both else None,
        "enqueues": is_paused if enqueues or is_both else None,
    }
    with connect_broker(invocation) as client:
        info = client.set_paused(name, **states)
    if invocation.json:
        emit_json({"topic": name, "paused": paused_words(info)})
    else:
        click.echo(f"topic {name}: paused: {paused_words(info)}")
