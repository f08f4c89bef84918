"""`dlq ls|show|replay|purge|export`: what became of messages that died, and how they get another chance.

A dead letter is replayed by one batch: it is enqueued where it came from and acknowledged, or neither. So a command
that is killed half way has lost no message and doubled none.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from disheap.cli.asking import connect_broker
from disheap.cli.looking.fields import Shown
from disheap.cli.looking.peeking import PEEK_MAX
from disheap.cli.looking.searching import filter_of
from disheap.cli.messages import preview
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json, emit_table, header_fields, json_text, payload_fields, size
from disheap.cli.terminal.progress import Show, Silent
from disheap.cli.terminal.progress import show as progress
from disheap.cli.topics import PRIORITY, purge_topic
from disheap.protocol.broker import REASONS

if TYPE_CHECKING:
    from disheap.protocol.broker import Death, HeaderValue, PeekedMessage
    from disheap.sync import Client, Delivery

TAKEN_AT_ONCE = 50
"""Messages of one batch. Headers count as parts of a batch too, so it stays far below the limit of 1,500."""


@click.group(no_args_is_help=False)
@client_options
def dlq() -> None:
    """List, show, replay, purge and export dead letters."""


@dlq.command()
@client_options
@pass_invocation
def ls(invocation: Invocation, /) -> None:
    """List the topics that get dead letters, and from which topics.

    Example: disheap dlq ls
    """
    with connect_broker(invocation) as client:
        topics = {one.topic: one for one in client.topics()}
    origins: dict[str, list[str]] = {}
    exchanges: dict[str, list[str]] = {}
    for one in topics.values():
        if one.settings.dead_letter_topic:
            origins.setdefault(one.settings.dead_letter_topic, []).append(one.topic)
        if one.settings.dead_letter_exchange:
            exchanges.setdefault(one.settings.dead_letter_exchange, []).append(one.topic)
    rows = []
    for name, sources in sorted(origins.items()):
        found = topics.get(name)  # it is created when the first dead letter comes
        counts = (found.ready, found.leased, found.ready_bytes) if found is not None else (0, 0, 0)
        rows.append((name, *counts, sources))
    if invocation.json:
        keys = ("topic", "ready", "leased", "ready_bytes", "origins")
        others = [{"exchange": name, "origins": sources} for name, sources in sorted(exchanges.items())]
        emit_json({"topics": [dict(zip(keys, row, strict=True)) for row in rows], "exchanges": others})
        return
    shown: list[tuple[object, ...]] = [
        (name, ready, leased, size(held), ", ".join(sources)) for name, ready, leased, held, sources in rows
    ]
    shown += [(f"exchange {name}", "-", "-", "-", ", ".join(sources)) for name, sources in sorted(exchanges.items())]
    emit_table(["dead letters", "ready", "leased", "bytes", "from"], shown)


@dlq.command()
@click.argument("topic", type=text)
@click.option(
    "--count", type=click.IntRange(1, PEEK_MAX), default=20, show_default=True, metavar="N", help="At most so many."
)
@client_options
@pass_invocation
def show(invocation: Invocation, /, topic: str, count: int) -> None:
    """Show why the next messages of TOPIC died. Nothing changes.

    Example: disheap dlq show jobs.dead
    """
    from disheap.protocol import broker

    with connect_broker(invocation) as client:
        found = client.topic(topic).peek(count)
    deaths = [broker.death_of(message.headers) for message in found]
    if invocation.json:
        rows = [
            {"id": one.id, "priority": one.priority, "death": _fields(death), **payload_fields(one.payload)}
            for one, death in zip(found, deaths, strict=True)
        ]
        emit_json({"topic": topic, "messages": rows})
        return
    cells = [
        (one.id, one.priority, *_cells(death), preview(one.payload)) for one, death in zip(found, deaths, strict=True)
    ]
    emit_table(["id", "priority", "reason", "from", "attempts", "deaths", "died", "error", "payload"], cells)


@dlq.command()
@click.argument("topic", type=text)
@click.option("--to", "target", type=text, default="", metavar="TOPIC", help="Not to where each came from, but there.")
@click.option("--count", type=click.IntRange(1), default=None, metavar="N", help="At most so many; else all.")
@click.option("--priority", type=PRIORITY, default=None, metavar="N", help="With this priority; else with their own.")
@click.option("--reason", type=click.Choice(REASONS), default=None, help="Only those that died of this.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), default=None, metavar="N", help="At most N a second.")
@click.option("--dry-run", is_flag=True, help="Only say where they would go.")
@client_options
@pass_invocation
def replay(
    invocation: Invocation,
    /,
    topic: str,
    target: str,
    count: int | None,
    priority: int | None,
    reason: str | None,
    rate: float | None,
    dry_run: bool,
) -> None:
    """Move dead letters back to the topics that they left, where their attempts begin anew.

    Each is enqueued there and removed here in one step, so none is lost or doubled if the command is killed. One that
    is no dead letter stays, unless --to names a topic. The first one that is refused ends the command.

    Example: disheap dlq replay jobs.dead --rate 100
    """
    with connect_broker(invocation) as client:
        total = client.topic(topic).stats().ready
        total = total if count is None else min(count, total)
        pace = Pace(total, rate)
        plan = Plan(target, priority, reason)
        seen = Silent() if invocation.json or dry_run else progress(sys.stderr)
        with seen as shown:
            moved, kept = _replay(client, topic, plan, pace, dry_run, shown)
    if invocation.json:
        emit_json({"topic": topic, "replayed_messages": moved, "kept_messages": kept, "dry_run": dry_run})
        return
    verb = "would go" if dry_run else "went"
    for name, messages in sorted(moved.items()):
        click.echo(f"{messages} message{'' if messages == 1 else 's'} {verb} to {name}")
    if kept or not moved:
        click.echo(f"{kept} message{'' if kept == 1 else 's'} stayed in {topic}")


@dlq.command()
@click.argument("topic", type=text)
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_options
@pass_invocation
def purge(invocation: Invocation, /, topic: str, yes: bool) -> None:
    """Drop every message that waits in TOPIC. Asks unless --yes.

    Example: disheap dlq purge jobs.dead --yes
    """
    purge_topic(invocation, topic, yes)


@dlq.command()
@click.argument("topic", type=text)
@click.option("--where", metavar="FILTER", help="Only those for which the filter holds.")
@click.option("--count", type=click.IntRange(1), default=None, metavar="N", help="At most so many; else all.")
@client_options
@pass_invocation
def export(invocation: Invocation, /, topic: str, where: str | None, count: int | None) -> None:
    """Print the messages that wait in TOPIC, one JSON object a line, in the order of their ids. They stay in the topic.

    Example: disheap dlq export jobs.dead > dead.jsonl
    """
    holds = filter_of(invocation, where)
    with connect_broker(invocation) as client:
        now_ms = client.stats().time_ms
        waiting = client.topic(topic).browse(delayed=False, leased=False)
        for message in islice((one for one in waiting if holds(Shown(one, now_ms))), count):
            click.echo(json_text(_exported(message), ensure_ascii=True))


class Pace(NamedTuple):
    """How many messages, and how many a second."""

    total: int
    rate: float | None

    def wait(self, done: int, began: float) -> None:
        """Waits until so many may be done."""
        if self.rate is not None:
            time.sleep(max(0.0, began + done / self.rate - time.monotonic()))


class Plan(NamedTuple):
    """Which dead letters go where."""

    target: str
    priority: int | None
    reason: str | None

    def topic_of(self, delivery: Delivery) -> str:
        """Where a message goes; "" if it stays."""
        death = delivery.death
        if self.reason is not None and (death is None or death.reason != self.reason):
            return ""
        return self.target or (death.topic if death is not None else "")


def _replay(
    client: Client, topic: str, plan: Plan, pace: Pace, dry_run: bool, shown: Show
) -> tuple[dict[str, int], int]:
    """Returns how many messages went where, and how many stayed."""
    moved: dict[str, int] = {}
    kept: list[Delivery] = []
    began, done = time.monotonic(), 0
    shown.stage(f"replaying {topic}", pace.total)
    at_once = TAKEN_AT_ONCE if pace.rate is None else max(1, min(TAKEN_AT_ONCE, int(pace.rate)))
    try:
        for deliveries in _taken(client, topic, pace.total, at_once):
            going = [(one, name) for one in deliveries if (name := plan.topic_of(one))]
            names = dict.fromkeys(id(one) for one, _ in going)
            kept += [one for one in deliveries if id(one) not in names]
            if dry_run:
                kept += [one for one, _ in going]
            elif going:
                _move(client, going, plan.priority, sum(moved.values()))
            for _, name in going:
                moved[name] = moved.get(name, 0) + 1
            done += len(deliveries)
            shown.at(done)
            if not dry_run:
                pace.wait(done, began)
    finally:
        _release(client, kept)
    return moved, len(kept) - (sum(moved.values()) if dry_run else 0)


def _move(client: Client, going: list[tuple[Delivery, str]], priority: int | None, before: int) -> None:
    """One batch: all of these messages go, or none. Raises what the cluster refuses, after they were given back.
    `before`: how many went before."""
    from disheap.errors import CommandRefused
    from disheap.protocol import broker

    try:
        with client.batch() as batch:
            for one, name in going:
                rank = one.priority if priority is None else priority
                headers: dict[str, HeaderValue] = broker.without_death(one.headers)
                batch.enqueue(name, one.payload, rank, headers=headers, key=one.key)
                batch.ack(one)
    except CommandRefused as refusal:
        _release(client, [one for one, _ in going])
        raise type(refusal)(f"{refusal}. {before} messages went before; the others stayed where they were") from None


def _taken(client: Client, topic: str, total: int, at_once: int = TAKEN_AT_ONCE) -> Iterator[list[Delivery]]:
    """Takes up to `total` messages, some at a time, until there are no more."""
    left = total
    while left > 0 and (deliveries := client.topic(topic).pop(min(at_once, left))):
        left -= len(deliveries)
        yield deliveries


def _release(client: Client, deliveries: list[Delivery]) -> None:
    """Gives messages back as if nobody had taken them."""
    client.driver.give_back([one.token for one in deliveries])
    if deliveries:
        client.driver.wait_answers()


def _exported(message: PeekedMessage) -> dict[str, Any]:
    from disheap.protocol import broker

    return {
        "id": message.id,
        "priority": message.priority,
        "enqueued_ms": message.enqueued_ms,
        "key": message.key,
        "death": _fields(broker.death_of(message.headers)),
        "headers": header_fields(broker.without_death(message.headers)),
        **payload_fields(message.payload),
    }


def _fields(death: Death | None) -> dict[str, Any] | None:
    if death is None:
        return None
    fields = {name: getattr(death, name) for name in death.__struct_fields__}
    rows = [{name: getattr(one, name) for name in one.__struct_fields__} for one in death.history]
    return fields | {"history": rows}


def _cells(death: Death | None) -> tuple[object, ...]:
    if death is None:
        return ("-",) * 6
    died = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(death.time_ms / 1000))
    return death.reason, death.topic, death.attempts, death.count, died, preview(death.error.encode()) or "-"
