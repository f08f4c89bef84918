"""`explain`: where one message is, and why it is not delivered."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from disheap.cli.asking import connect_broker
from disheap.cli.looking.tables import peeked_fields
from disheap.cli.sessions import labels_of
from disheap.cli.terminal.failures import EXIT_EMPTY
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json, printable
from disheap.protocol.broker import ID_MAX

if TYPE_CHECKING:
    from disheap.protocol.broker import Explained, PeekedMessage

GONE = "it was acknowledged, dropped, expired or moved, or never was there"


@click.command()
@click.argument("topic", type=text)
@click.argument("number", metavar="ID", type=click.IntRange(1, ID_MAX))
@client_options
@pass_invocation
def explain(invocation: Invocation, /, topic: str, number: int) -> int:
    """Say where the message ID of TOPIC is, and why it is not delivered. Nothing changes.

    `disheap search` finds ids. The exit code is 9 when TOPIC has no such message.

    Example: disheap explain jobs 17
    """
    with connect_broker(invocation) as client:
        found = client.topic(topic).explain(number)
        labels = labels_of(client, [found.message.session] if found.message and found.message.session else [])
    if invocation.json:
        emit_json(_fields(topic, number, found, labels))
    else:
        click.echo(f"message {number} of {topic}")
        for line in _lines(found, labels):
            click.echo(f"  {line}")
    return 0 if found.state else EXIT_EMPTY


def _fields(topic: str, number: int, found: Explained, labels: dict[int, str]) -> dict[str, object]:
    return {
        "topic": topic,
        "id": number,
        "state": found.state or None,
        "ahead": found.ahead,
        "ready": found.ready,
        "consumers": found.consumers,
        "receiving": found.receiving,
        "expires_at_ms": found.expires_at_ms,
        "lease_until_ms": found.lease_until_ms,
        "connected": found.connected,
        "deliveries_paused": found.deliveries_paused,
        "time_ms": found.time_ms,
        "message": peeked_fields(found.message, labels) if found.message is not None else None,
    }


def _lines(found: Explained, labels: dict[int, str]) -> Iterator[str]:
    if not found.state:
        yield f"is not there: {GONE}"
        return
    if found.state == "frozen" or found.message is None:
        yield "was delivered, and a transaction has prepared its ack: `disheap tx ls` shows those that wait"
        return
    message = found.message
    since = _span(found.time_ms - message.enqueued_ms)
    attempts = f"{message.attempts} attempt{'s' * (message.attempts != 1)}"
    yield f"priority {message.priority}, enqueued {since} ago, {attempts}"
    if found.state == "ready":
        yield from _why_it_waits(found)
    elif found.state == "delayed":
        yield f"delayed: it is due in {_span(message.due_ms - found.time_ms)}, at {_moment(message.due_ms)}"
    else:
        yield from _who_holds_it(found, message, labels)
    if found.expires_at_ms:
        yield f"is dropped if it is not delivered within {_span(found.expires_at_ms - found.time_ms)}"


def _why_it_waits(found: Explained) -> Iterator[str]:
    ahead = f"{found.ahead} of {found.ready} ready messages are ahead of it" if found.ahead else "the next one"
    yield f"ready: {ahead}"
    if found.deliveries_paused:
        yield "deliveries of the topic are paused: `disheap topic resume` lets them go on"
    many = f"{found.consumers} consumer{'s' * (found.consumers != 1)}"
    if not found.consumers:
        yield "the topic has no consumer: start a worker"
    elif not found.receiving:
        yield f"{many}, and none can take more now: each holds as many as its credit allows, or has no connection"
    else:
        yield f"{many}, of which {found.receiving} can take a message now"


def _who_holds_it(found: Explained, message: PeekedMessage, labels: dict[int, str]) -> Iterator[str]:
    label = f" ({printable(labels[message.session])})" if labels.get(message.session) else ""
    until = (
        f"until {_moment(found.lease_until_ms)}, in {_span(found.lease_until_ms - found.time_ms)}"
        if found.lease_until_ms
        else "as long as its session lives"
    )
    yield f"leased: consumer {message.consumer} of session {message.session}{label} holds it {until}"
    if not found.connected:
        yield "that session has no connection now: if its client does not come back, the message goes back to its place"
    yield "`disheap session ls` shows the session"


def _moment(time_ms: int) -> str:
    """A moment of the cluster's clock, in UTC."""
    try:
        return datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC).isoformat(" ", "seconds")
    except (OverflowError, ValueError):
        return f"{time_ms} ms"


def _span(milliseconds: int) -> str:
    """A length of time for people. One that is over is 0."""
    if milliseconds < 10_000:
        return f"{max(0, milliseconds)} ms"
    seconds = milliseconds // 1000
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds % 60, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2])
