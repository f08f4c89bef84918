"""Moves the messages of queues, batch by batch: take, publish, wait for the confirmation, remove.

The order of these steps is the promise. A message is removed at its source only after a majority of the target's nodes
has it on disk. If the command ends in between, the messages of one batch are at both ends, and the next run moves them
again. Does not know which broker the source is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from disheap.cli.migrate.sources import Source
from disheap.cli.migrate.waiting import Waiting
from disheap.errors import MigrationStopped

DUE = "eta"


class Moved(NamedTuple):
    """`delayed`: those with an eta, due or not. `taken_meanwhile`: also taken by somebody else, so they may run
    twice."""

    messages: int = 0
    delayed: int = 0
    taken_meanwhile: int = 0


class Target:
    """A channel of disheap's transport."""

    def __init__(self, connection: Any) -> None:
        self._channel = connection.channel()
        self._errors = connection.connection_errors + connection.channel_errors
        self._known: set[str] = set()

    def publish(self, taken: list[tuple[str, Waiting]]) -> None:
        """Publishes all of them, and returns when they are confirmed. Raises `MigrationStopped`."""
        batch = self._channel.create_publish_batch(len(taken))
        try:
            for queue, message in taken:
                self._declare(queue)
                batch.publish(self._prepared(message), "", queue)
            batch.flush()
        except self._errors as error:
            raise MigrationStopped(
                f"the target does not take the messages: {error}. What it has not confirmed is still at the source; "
                "repeat the command when the reason is gone"
            ) from error
        finally:
            batch.close()

    def _prepared(self, message: Waiting) -> Any:
        return self._channel.prepare_message(
            message.body,
            priority=message.priority,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=message.headers,
            properties=message.properties,
        )

    def _declare(self, queue: str) -> None:
        """A queue that is there stays as it is. A new one is durable, and has no arguments."""
        if queue in self._known:
            return
        try:
            self._channel.queue_declare(queue, passive=True)
        except self._errors:
            self._channel.queue_declare(queue, durable=True, auto_delete=False)
        self._known.add(queue)


def move(source: Source, target: Target, batch: int, total: int, at: Callable[[int], None]) -> Moved:
    """Moves at most `total` messages, so that a source which is still written to does not keep it busy for ever. `at`
    is told how many are moved."""
    done = Moved()
    while done.messages < total:
        taken = source.take(min(batch, total - done.messages))
        if not taken:
            break
        target.publish(taken)
        missing = source.remove([message for _, message in taken])
        delayed = sum(1 for _, message in taken if message.headers.get(DUE))
        done = Moved(done.messages + len(taken), done.delayed + delayed, done.taken_meanwhile + missing)
        at(done.messages)
    return done
