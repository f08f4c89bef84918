"""`import`: enqueues the messages of a file that `export` has written.

The whole file is read and checked first. So a file with a damaged line changes nothing.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from disheap.cli.asking import connect_broker
from disheap.cli.files.lines import BadLine, Line, read
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json
from disheap.cli.terminal.progress import Show, Silent
from disheap.cli.terminal.progress import show as progress
from disheap.errors import RequestError
from disheap.protocol.broker import BATCH_HEADERS_MAX, count_headers

if TYPE_CHECKING:
    from disheap.protocol.broker import NewMessage
    from disheap.sync import Client

BATCH_MESSAGES = 500
BATCH_BYTES = 256 << 10
LINE_BYTES = 128 << 20
"""A line has at most so many: a payload of 64 MiB in base64, and more. A longer one is damage, and would fill the
memory."""
SPOOLED_BYTES = 16 << 20
"""Standard input is kept in memory up to there, and in a temporary file above."""


@click.command(name="import")
@click.argument("topic", type=text)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path), default="-")
@click.option("--from-line", type=click.IntRange(1), default=1, metavar="N", help="Begin there; 1 is the first line.")
@click.option("--dry-run", is_flag=True, help="Only check the file, and count.")
@client_options
@pass_invocation
def import_(invocation: Invocation, /, topic: str, file: Path, from_line: int, dry_run: bool) -> None:
    """Enqueue into TOPIC the messages of FILE, which `disheap export` has written; of standard input without FILE.

    Every line is checked before the first message is sent. Messages keep payload, priority, key, headers, and the times
    at which they are due and expire. Those that have expired are left out.

    Example: disheap import jobs jobs.jsonl --dry-run
    """
    with _opened(file) as stream:
        total = sum(1 for _ in _lines(stream))
        stream.seek(0)
        if dry_run:
            _say(invocation, topic, max(0, total - from_line + 1), 0, dry_run)
            return
        with connect_broker(invocation) as client:
            seen = Silent() if invocation.json else progress(sys.stderr)
            with seen as shown:
                shown.stage(f"importing into {topic}", total)
                lines = islice(_lines(stream), from_line - 1, None)
                enqueued, expired = _enqueue(client, topic, lines, from_line, shown)
    _say(invocation, topic, enqueued, expired, dry_run)


def _enqueue(client: Client, topic: str, lines: Iterator[Line], from_line: int, shown: Show) -> tuple[int, int]:
    """Returns how many messages went into the topic, and how many had expired."""
    done, enqueued, expired = from_line - 1, 0, 0
    for batch in _batches(lines):
        new = _at(batch, client)
        try:
            client.topic(topic).enqueue_many(new)
        except RequestError as error:
            if done >= from_line:
                error.args = (f"{error}; lines up to {done} are imported, go on with --from-line {done + 1}",)
            raise
        done += len(batch)
        enqueued, expired = enqueued + len(new), expired + len(batch) - len(new)
        shown.at(done)
    return enqueued, expired


def _say(invocation: Invocation, topic: str, enqueued: int, expired: int, dry_run: bool) -> None:
    if invocation.json:
        counts = {"enqueued_messages": enqueued, "expired_messages": expired, "dry_run": dry_run}
        emit_json({"topic": topic, **counts})
        return
    messages = f"{enqueued} message{'' if enqueued == 1 else 's'}"
    click.echo(f"{messages} would go into {topic}" if dry_run else f"{messages} went into {topic}")
    if expired:
        click.echo(f"{expired} had expired and {'was' if expired == 1 else 'were'} left out")


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """The file, or a copy of standard input: it is read twice."""
    if str(file) != "-":
        with file.open("rb") as stream:
            yield stream
        return
    with tempfile.SpooledTemporaryFile(max_size=SPOOLED_BYTES) as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.seek(0)
        yield copy  # type: ignore[misc]


def _lines(stream: BinaryIO) -> Iterator[Line]:
    """The messages of the file. Raises `UsageError` at the first bad one."""
    number = 0
    while line := stream.readline(LINE_BYTES):
        number += 1
        try:
            if len(line) == LINE_BYTES:
                raise BadLine(f"it has more than {LINE_BYTES} bytes")
            yield read(line)
        except BadLine as error:
            raise click.UsageError(
                f"line {number} is no message: {error}; nothing was imported, correct the file or take it out"
            ) from None


def _batches(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """What fits into one command."""
    batch: list[Line] = []
    size = headers = 0
    for line in lines:
        new = line.new
        more = len(new.payload) + len(new.encoded_headers) + len(new.key)
        more_headers = count_headers(new.encoded_headers) if new.encoded_headers else 0
        is_full = len(batch) == BATCH_MESSAGES or size + more > BATCH_BYTES
        if batch and (is_full or headers + more_headers > BATCH_HEADERS_MAX):
            yield batch
            batch, size, headers = [], 0, 0
        batch.append(line)
        size, headers = size + more, headers + more_headers
    if batch:
        yield batch


def _at(lines: list[Line], client: Client) -> list[NewMessage]:
    """What is to be enqueued now, by the cluster's clock. Expired messages are left out."""
    now_ms = client.stats().time_ms
    return [new for line in lines if (new := line.at(now_ms)) is not None]
