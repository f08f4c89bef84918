"""`enqueue` and `pop`.

Payloads are bytes from end to end. Arguments and standard input are not decoded, and output is not changed. A message
is acknowledged only after it has been written and flushed. If the reader of the output has gone, the message goes back
to its topic.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from disheap.cli.asking import CONNECT_TIMEOUT_S, check_machine, connect_broker
from disheap.cli.terminal.failures import EXIT_EMPTY
from disheap.cli.terminal.options import Invocation, client_options, duration, header, pass_invocation, text
from disheap.cli.terminal.output import emit_json, header_fields, payload_fields, printable, printable_lines
from disheap.errors import PayloadTooLarge, RequestError
from disheap.protocol.broker import BATCH_HEADERS_MAX, BATCH_MAX, PRIORITY_MAX, PRIORITY_MIN

if TYPE_CHECKING:
    from disheap.protocol.broker import HeaderValue
    from disheap.sync import Client, Delivery

BATCH_MESSAGES = 1000
BATCH_BYTES = 256 << 10
"""One command holds as much of a stream: a round trip pays for many lines, and stays far below a node's frame limit."""
POP_MAX = BATCH_MAX  # what one command may take
PREVIEW_CHARACTERS = 60  # of a payload in a table
UTF8_BYTES = 4  # of one character, at most


@click.command()
@click.argument("topic", type=text)
@click.argument("payload", required=False)
@click.option(
    "--priority",
    type=click.IntRange(PRIORITY_MIN, PRIORITY_MAX),
    default=0,
    metavar="N",
    help="A signed 64-bit number; the largest goes first, unless the topic's mode is min.",
)
@click.option("--delay", type=duration, default=0, metavar="TIME", help="Not to be delivered before.")
@click.option("--expires", type=duration, default=0, metavar="TIME", help="Dropped when not delivered within.")
@click.option(
    "--header", "headers", type=header, multiple=True, metavar="NAME=VALUE", help="A header, as text. May repeat."
)
@click.option("--key", type=text, default="", metavar="TEXT", help="What the message is about, such as a customer.")
@click.option("--count", type=click.IntRange(1), default=1, metavar="N", help="The same message N times.")
@click.option("--lines", is_flag=True, help="Each line of standard input is a message.")
@client_options
@pass_invocation
def enqueue(
    invocation: Invocation,
    /,
    topic: str,
    payload: str | None,
    priority: int,
    delay: int,
    expires: int,
    headers: tuple[tuple[str, str], ...],
    key: str,
    count: int,
    lines: bool,
) -> None:
    """Put messages into TOPIC. PAYLOAD is the message; without one, or with -, standard input is.

    When it returns, a majority of the nodes has them on disk.

    Example: disheap enqueue jobs '{"id": 7}' --priority 9
    """
    from disheap.protocol.broker import NewMessage, check_key, encode_headers

    encoded = encode_headers(named_once(headers))
    check_key(key)
    payloads = read_payloads(invocation, payload, count, lines)
    total, first, last = 0, None, None
    with connect_broker(invocation) as client:
        try:
            for batch in _batches(payloads, len(encoded) + len(key), len(headers)):
                new = [NewMessage(body, priority, delay, expires, encoded, key) for body in batch]
                ids = client.topic(topic).enqueue_many(new)
                total, first, last = total + len(ids), ids[0] if first is None else first, ids[-1]
        except RequestError as error:
            if total:
                error.args = (f"{error}; the first {total} messages are in {topic}",)
            raise
    if invocation.json:
        emit_json({"topic": topic, "enqueued_messages": total, "first_id": first, "last_id": last})
    elif total == 1:
        click.echo(f"message {first} is in {topic}")
    else:
        click.echo(f"{total} messages are in {topic}{f', ids {first} to {last}' if total else ''}")


@click.command()
@click.argument("topic", type=text)
@click.option(
    "--count", type=click.IntRange(1, POP_MAX), default=1, show_default=True, metavar="N", help="At most so many."
)
@click.option("--wait", type=duration, default=0, metavar="TIME", help="Wait so long for them to come.")
@click.option("--ack/--nack", "settle", default=True, help="Take them for good (the default), or give them back.")
@click.option("--headers", is_flag=True, help="Print key and headers above each payload.")
@click.option("--raw", is_flag=True, help="Do not escape control characters, even on a terminal.")
@client_options
@pass_invocation
def pop(invocation: Invocation, /, topic: str, count: int, wait: int, settle: bool, headers: bool, raw: bool) -> int:
    """Take the next messages of TOPIC and print each payload with a line feed.

    They are acknowledged after they have been printed. On a terminal, control characters are escaped; a pipe or a
    file gets the bytes as they are. The exit code is 9 when nothing came.

    Example: disheap pop jobs --count 10 --wait 5s
    """
    with connect_broker(invocation) as client:
        deliveries = client.topic(topic).pop(count, wait)
        _print_deliveries(invocation, topic, deliveries, headers, raw or not sys.stdout.isatty())
        _settle(client, deliveries, settle)
    return 0 if deliveries else EXIT_EMPTY


# --- in --------------------------------------------------------------------------------------------------------------


def read_payloads(invocation: Invocation, payload: str | None, count: int = 1, lines: bool = False) -> Iterable[bytes]:
    """What to enqueue. Standard input is read as it is needed, and never more of it than a node would take."""
    if lines:
        if payload not in (None, "-") or count != 1:
            raise click.UsageError("--lines reads the messages from standard input; leave PAYLOAD and --count out.")
        return _read_lines(_frame_bytes(invocation))
    if payload not in (None, "-"):
        return (os.fsencode(str(payload)) for _ in range(count))
    if payload is None and sys.stdin.isatty():
        raise click.UsageError("there is no PAYLOAD; give one, or - to type it and end it with Ctrl-D.")
    limit = _frame_bytes(invocation)
    body = sys.stdin.buffer.read(limit + 1)
    if len(body) > limit:
        raise _too_large("standard input holds", limit)
    return (body for _ in range(count))


def _read_lines(limit: int) -> Iterator[bytes]:
    number = 0
    while line := sys.stdin.buffer.readline(limit + 2):
        number += 1
        line = line.removesuffix(b"\n")
        if len(line) > limit:
            raise _too_large(f"line {number} of standard input holds", limit)
        yield line


def _frame_bytes(invocation: Invocation) -> int:
    """The largest frame that the nodes take, which no payload may reach. Asked for before standard input is read."""
    from disheap import sync

    with sync.connect(invocation.broker_url, observer=True, timeout_s=CONNECT_TIMEOUT_S) as client:
        check_machine(client)
        welcome = client.driver.welcome
    assert welcome is not None
    return welcome.limits.frame_bytes


def _too_large(what: str, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"{what} more than the {limit} bytes that the nodes take in one frame; --lines makes each line a message. Keep "
        "large data elsewhere and send where it is, or raise payload_bytes ([machine.heap]) on every node"
    )


def named_once(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Headers as a map. Fails if a name is given twice."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in found:
            raise click.UsageError(f"--header {name!r} is given twice; a message has each header once.")
        found[name] = value
    return found


def _batches(payloads: Iterable[bytes], extra_bytes: int = 0, headers: int = 0) -> Iterator[list[bytes]]:
    """What was read before an error of the input still makes a batch: the error then names what follows. Each message
    has so many bytes and headers beside its payload."""
    most = min(BATCH_MESSAGES, BATCH_HEADERS_MAX // headers) if headers else BATCH_MESSAGES
    batch: list[bytes] = []
    held = 0
    try:
        for payload in payloads:
            if batch and (len(batch) >= most or held + len(payload) + extra_bytes > BATCH_BYTES):
                yield batch
                batch, held = [], 0
            batch.append(payload)
            held += len(payload) + extra_bytes
    except PayloadTooLarge:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


# --- out -------------------------------------------------------------------------------------------------------------


def _print_deliveries(invocation: Invocation, topic: str, deliveries: list[Delivery], headers: bool, raw: bool) -> None:
    if invocation.json:
        emit_json({"topic": topic, "messages": [delivery_fields(delivery) for delivery in deliveries]})
    elif not deliveries:
        click.echo(f"disheap: nothing to pop from {printable(topic)}", err=True)
    else:
        for delivery in deliveries:
            print_delivery(delivery, headers, raw)
    sys.stdout.buffer.flush()


def print_delivery(delivery: Delivery, headers: bool, raw: bool) -> None:
    """Prints a payload with a line feed, and before it key and headers if they are asked for. Does not flush."""
    shown = delivery.payload if raw else _escaped(delivery.payload)
    above = _header_lines(delivery) if headers else ""
    sys.stdout.buffer.write(above.encode(sys.stdout.encoding or "utf-8", "backslashreplace") + shown + b"\n")


def _header_lines(delivery: Delivery) -> str:
    """Key and headers, one a line, and an empty line. Escaped wherever they go: a line is one header."""
    lines = [f"key: {printable(delivery.key)}"] if delivery.key else []
    lines += [f"header {printable(name)}: {header_text(value)}" for name, value in delivery.headers.items()]
    return "".join(f"{line}\n" for line in [*lines, ""])


def _escaped(payload: bytes) -> bytes:
    """For a terminal: what is not text, and what would steer it, is escaped."""
    text = printable_lines(payload.decode(errors="backslashreplace"))
    return text.encode(sys.stdout.encoding or "utf-8", "backslashreplace")


def _settle(client: Client, deliveries: list[Delivery], ack: bool) -> None:
    from disheap.errors import LeaseLost
    from disheap.protocol import broker

    if not deliveries:
        return
    tokens = [delivery.token for delivery in deliveries]
    lost = 0
    for start in range(0, len(tokens), broker.TOKENS_MAX):
        some = tokens[start : start + broker.TOKENS_MAX]
        lost += len(client.driver.request(broker.Ack(some) if ack else broker.Nack(some)).stale)
    if lost:
        raise LeaseLost(f"the lease was lost on {lost} of {len(tokens)} messages, which will be delivered again")


def delivery_fields(delivery: Delivery) -> dict[str, Any]:
    """A delivery as JSON has it."""
    return {
        "id": delivery.id,
        "priority": delivery.priority,
        "attempts": delivery.attempts,
        "redelivered": delivery.redelivered,
        "enqueued_ms": delivery.enqueued_ms,
        "key": delivery.key,
        "headers": header_fields(delivery.headers),
        **payload_fields(delivery.payload),
    }


def header_text(value: HeaderValue) -> str:
    """A header for people: bytes in hexadecimal, a boolean as in JSON."""
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return printable(value) if isinstance(value, str) else json.dumps(value)


def preview(payload: bytes) -> str:
    """The beginning of a payload for a table, escaped."""
    shown = payload[: PREVIEW_CHARACTERS * UTF8_BYTES].decode(errors="backslashreplace")
    return shortened(printable(shown))


def shortened(shown: str) -> str:
    """The beginning of a text, for a column of a table."""
    return shown if len(shown) <= PREVIEW_CHARACTERS else shown[: PREVIEW_CHARACTERS - 1] + "…"
