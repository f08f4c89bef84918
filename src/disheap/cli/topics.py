"""`topic create|ls|info|rm` and `purge`. `topic_life` has what changes a topic meanwhile."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from disheap.cli.asking import connect_broker
from disheap.cli.sessions import labels_of
from disheap.cli.terminal.options import Invocation, client_options, duration, pass_invocation, text
from disheap.cli.terminal.output import emit_json, emit_pairs, emit_table, period, size
from disheap.cli.topic_life import edit, pause, paused_words, resume
from disheap.protocol.broker import DELIVERY_LIMIT_MAX, NAME_CHARACTERS, PRIORITY_MAX, PRIORITY_MIN

if TYPE_CHECKING:
    from disheap.protocol.broker import TopicInfo


PRIORITY = click.IntRange(PRIORITY_MIN, PRIORITY_MAX)


@click.group(no_args_is_help=False)
@client_options
def topic() -> None:
    """Create, list, show and remove topics."""


topic.add_command(edit)
topic.add_command(pause)
topic.add_command(resume)


def new_name(words: str) -> str:
    """Use it as `type=new_name`. Of a topic that must be there, the nodes say that there is none."""
    if not 1 <= len(text(words)) <= NAME_CHARACTERS:
        raise click.BadParameter(f"a topic's name has 1 to {NAME_CHARACTERS} characters, not {len(words)}.")
    return words


@topic.command()
@click.argument("name", type=new_name)
@click.option("--mode", type=click.Choice(["max", "min"]), default="max", show_default=True, help="Which goes first.")
@click.option("--max-messages", type=click.IntRange(0), default=0, metavar="N", help="How many fit; 0: no limit.")
@click.option(
    "--overflow",
    type=click.Choice(["reject", "drop"]),
    default="reject",
    show_default=True,
    help="Whether a full topic refuses the new message or drops its least one.",
)
@click.option("--message-ttl", type=duration, default=0, metavar="TIME", help="Drop messages not delivered within.")
@click.option("--expires", type=duration, default=0, metavar="TIME", help="Delete the topic when unused for so long.")
@click.option("--auto-delete", is_flag=True, help="Delete it when its last consumer is gone.")
@click.option("--priority-max", type=PRIORITY, default=0, metavar="N", help="Lower higher ones to it; 0: no limit.")
@click.option("--delivery-limit", type=click.IntRange(0, DELIVERY_LIMIT_MAX), default=0, metavar="N", help="Attempts.")
@click.option("--dead-letter-topic", type=text, default="", metavar="NAME", help="Where dead letters go.")
@click.option("--dead-letter-exchange", type=text, default="", metavar="NAME", help="Where they go instead.")
@click.option("--dead-letter-key", type=text, default="", metavar="KEY", help="With this routing key.")
@click.option("--retry-delay", type=duration, default=0, metavar="TIME", help="The pause after the first attempt.")
@click.option("--retry-delay-max", type=duration, default=0, metavar="TIME", help="The bound of the pauses.")
@client_options
@pass_invocation
def create(
    invocation: Invocation,
    /,
    name: str,
    mode: str,
    max_messages: int,
    overflow: str,
    message_ttl: int,
    expires: int,
    auto_delete: bool,
    priority_max: int,
    delivery_limit: int,
    dead_letter_topic: str,
    dead_letter_exchange: str,
    dead_letter_key: str,
    retry_delay: int,
    retry_delay_max: int,
) -> None:
    """Create a topic. The same settings again are fine.

    Example: disheap topic create jobs --message-ttl 1h
    """
    from disheap.protocol import broker

    lifetimes = (message_ttl, expires, auto_delete, False)
    place = (dead_letter_topic, dead_letter_exchange, dead_letter_key)
    settings = broker.TopicSettings(
        mode, max_messages, *lifetimes, overflow, priority_max, delivery_limit, *place, retry_delay, retry_delay_max
    )
    if delivery_limit and not (dead_letter_topic or dead_letter_exchange):
        click.echo("note: messages over the delivery limit will be dropped; --dead-letter-topic keeps them", err=True)
    with connect_broker(invocation) as client:
        info: TopicInfo = client.driver.request(broker.CreateTopic(name, settings))
    if invocation.json:
        emit_json(_described(info) | {"created": info.created})
    else:
        click.echo(f"topic {name} {'is created' if info.created else 'was there already'}")


@topic.command()
@click.option("--prefix", type=text, default="", help="Only names that begin so.")
@client_options
@pass_invocation
def ls(invocation: Invocation, /, prefix: str) -> None:
    """List the topics.

    Example: disheap topic ls --prefix mail.
    """
    with connect_broker(invocation) as client:
        topics = client.topics(prefix)
    if invocation.json:
        emit_json({"topics": [_described(info) for info in topics]})
        return
    headers = ["topic", "mode", "ready", "delayed", "leased", "consumers", "bytes", "paused"]
    rows = [
        (t.topic, t.settings.mode, t.ready, t.delayed, t.leased, t.consumers, size(t.ready_bytes), paused_words(t))
        for t in topics
    ]
    emit_table(headers, rows)


@topic.command()
@click.argument("name", type=text)
@client_options
@pass_invocation
def info(invocation: Invocation, /, name: str) -> None:
    """Show one topic: its settings, what it holds, and who holds its leased messages.

    Example: disheap topic info jobs
    """
    from disheap.protocol import broker

    with connect_broker(invocation) as client:
        found: TopicInfo = client.driver.query(broker.DescribeTopic(name, holders=broker.HOLDERS_MAX))
        labels = labels_of(client, (holder.session for holder in found.holders))
    if invocation.json:
        holders = [
            {
                "session": one.session,
                "label": labels.get(one.session, ""),
                "consumer": one.consumer,
                "leased": one.leased,
            }
            for one in found.holders
        ]
        emit_json(_described(found) | {"holders": holders})
        return
    emit_pairs(_pairs(found))
    if found.holders:
        click.echo()
        rows = [(one.session, labels.get(one.session) or "-", one.consumer, one.leased) for one in found.holders]
        emit_table(["session", "label", "consumer", "leased"], rows)


@topic.command()
@click.argument("name", type=text)
@click.option("--if-empty", is_flag=True, help="Refuse when it holds messages.")
@click.option("--if-unused", is_flag=True, help="Refuse when it has consumers.")
@click.option("--yes", is_flag=True, help="Do not ask, though it holds messages.")
@client_options
@pass_invocation
def rm(invocation: Invocation, /, name: str, if_empty: bool, if_unused: bool, yes: bool) -> None:
    """Remove a topic and its messages. Asks where there are any, unless --yes.

    Example: disheap topic rm jobs --if-empty
    """
    with connect_broker(invocation) as client:
        if not (yes or if_empty):
            found = client.topic(name).stats()
            _confirm(name, found.ready + found.delayed + found.leased)
        removed = client.delete_topic(name, if_unused=if_unused, if_empty=if_empty)
    if invocation.json:
        emit_json({"topic": name, "removed_messages": removed})
    else:
        click.echo(f"topic {name} is removed, and {_messages(removed)} with it")


@click.command()
@click.argument("name", type=text, metavar="TOPIC")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_options
@pass_invocation
def purge(invocation: Invocation, /, name: str, yes: bool) -> None:
    """Drop every message that waits in TOPIC; those that are leased stay. Asks unless --yes.

    Example: disheap purge jobs --yes
    """
    purge_topic(invocation, name, yes)


def purge_topic(invocation: Invocation, name: str, yes: bool) -> None:
    """Drop every message that waits in a topic, and say how many there were."""
    with connect_broker(invocation) as client:
        if not yes:
            found = client.topic(name).stats()
            _confirm(name, found.ready + found.delayed)
        purged = client.topic(name).purge()
    if invocation.json:
        emit_json({"topic": name, "purged_messages": purged})
    else:
        click.echo(f"{_messages(purged)} purged from {name}")


def _confirm(name: str, messages: int) -> None:
    """Ask before messages go. Where nobody can answer, --yes has to have been said."""
    if not messages:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{name} holds {_messages(messages)}, which would be lost; insist with --yes.")
    click.confirm(f"{name} holds {_messages(messages)}, which will be lost. Go on?", abort=True, err=True)


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


def _described(info: TopicInfo) -> dict[str, Any]:
    settings = info.settings
    return {
        "topic": info.topic,
        "mode": settings.mode,
        "max_messages": settings.max_messages,
        "overflow": settings.overflow,
        "message_ttl_ms": settings.message_ttl_ms,
        "expires_ms": settings.expires_ms,
        "auto_delete": settings.auto_delete,
        "exclusive": settings.exclusive,
        "priority_max": settings.priority_max,
        "delivery_limit": settings.delivery_limit,
        "dead_letter_topic": settings.dead_letter_topic,
        "dead_letter_exchange": settings.dead_letter_exchange,
        "dead_letter_key": settings.dead_letter_key,
        "retry_delay_ms": settings.retry_delay_ms,
        "retry_delay_max_ms": settings.retry_delay_max_ms,
        "revision": info.revision,
        "paused": paused_words(info),
        "ready": info.ready,
        "delayed": info.delayed,
        "leased": info.leased,
        "consumers": info.consumers,
        "ready_bytes": info.ready_bytes,
        "oldest_enqueued_ms": info.oldest_enqueued_ms,
    }


def _pairs(info: TopicInfo) -> list[tuple[str, object]]:
    settings = info.settings
    return [
        ("topic", info.topic),
        ("mode", settings.mode),
        ("max messages", settings.max_messages or "no limit"),
        ("overflow", settings.overflow),
        ("message ttl", period(settings.message_ttl_ms) if settings.message_ttl_ms else "none"),
        ("expires", period(settings.expires_ms) if settings.expires_ms else "never"),
        ("auto delete", "yes" if settings.auto_delete else "no"),
        ("exclusive", "yes" if settings.exclusive else "no"),
        ("priority max", settings.priority_max or "no limit"),
        ("delivery limit", settings.delivery_limit or "no limit"),
        ("dead letters", _place(info)),
        ("retry delay", _pauses(info)),
        ("revision", info.revision),
        ("paused", paused_words(info)),
        ("ready", info.ready),
        ("delayed", info.delayed),
        ("leased", info.leased),
        ("consumers", info.consumers),
        ("ready bytes", size(info.ready_bytes)),
    ]


def _place(info: TopicInfo) -> str:
    """Where the dead letters of a topic go."""
    settings = info.settings
    if settings.dead_letter_exchange:
        return f"exchange {settings.dead_letter_exchange}, key {settings.dead_letter_key or info.topic}"
    return f"topic {settings.dead_letter_topic}" if settings.dead_letter_topic else "dropped"


def _pauses(info: TopicInfo) -> str:
    first, bound = info.settings.retry_delay_ms, info.settings.retry_delay_max_ms
    if not first:
        return "none"
    return f"{period(first)}, doubled up to {period(bound)}" if bound else f"{period(first)}, doubled each time"
