"""Publishes whose confirm did not come in time, and how a repetition of one is kept from running twice.

A publish that has left and was not answered is still under way. The session sends it again under the same number on
each new connection, and the broker carries out a number once. kombu and the application know that the outcome is
unknown, and publish the same message again. Such a repetition is recognized here: it waits for the answer to the first
sending.

Owns which publishes wait, and the clients that kombu has given up while some did. Such a client keeps its session until
the same kombu connection asks for the next one. This holds within one process and one kombu connection, as long as the
session lives. Refuses to know channels and event loops.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

from msgspec import structs

from disheap.client.core.url import BrokerUrl
from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import OutcomeUnknown, RequestTimeout
from disheap.protocol import broker

UNCONFIRMED_MAX = 1000
"""Publishes remembered for each connection: a digest and a list each. The oldest is forgotten, and may run twice."""
DIGEST_BYTES = 16

Box = list[Any]
"""Where the driver puts the answer when it comes: a reply, or the error in its place."""


class Unconfirmed:
    """The publishes of one session that are still without an answer."""

    def __init__(self) -> None:
        self._boxes: dict[bytes, Box] = {}

    def __len__(self) -> int:
        return len(self._boxes)

    def __contains__(self, command: broker.Command) -> bool:
        return (
            bool(self._boxes) and isinstance(command, broker.Publish | broker.Batch) and _digest(command) in self._boxes
        )

    def publish(self, driver: BlockingClient, command: broker.Publish | broker.Batch, timeout_s: float | None) -> Any:
        """The reply to `command`: it is sent, unless the same message is under way from before. Raises what the broker
        refused, `NotSent`, `RequestTimeout`, and `OutcomeUnknown` once the session is over."""
        box = self._take(command)
        try:
            if box is None:
                driver.room(timeout_s)  # so that a timeout below means that the command is on its way
                box = []
                reply: Any = driver.request(command, timeout_s=timeout_s, on_reply=box.append)
            else:
                reply = driver.wait_answer(box, driver.deadline(timeout_s), type(command).__name__)
        except RequestTimeout:
            if box is not None:
                self._add(command, box)
            raise
        except BaseException:
            if box:
                box.clear()  # the traceback of an error holds this frame, and the frame holds the box
            raise
        return reply

    def _take(self, command: broker.Publish | broker.Batch) -> Box | None:
        """None if the message has to be sent. Once the session is over nothing is known of what it sent, and whoever
        publishes again wants it sent."""
        box = self._boxes.pop(_digest(command), None) if self._boxes else None
        return None if box and isinstance(box[0], OutcomeUnknown) else box

    def _add(self, command: broker.Publish | broker.Batch, box: Box) -> None:
        self._boxes[_digest(command)] = box
        if len(self._boxes) > UNCONFIRMED_MAX:
            del self._boxes[next(iter(self._boxes))]


def _digest(command: broker.Publish | broker.Batch) -> bytes:
    return blake2b(broker.encode(_without_delays(command)), digest_size=DIGEST_BYTES).digest()


def _without_delays(command: Any) -> Any:
    """A repetition has a shorter delay until the same time. That time itself is in the message's headers."""
    if isinstance(command, broker.Batch):
        return structs.replace(command, items=[_without_delays(item) for item in command.items])
    return structs.replace(command, message=structs.replace(command.message, delay_ms=0))


class Suspended(NamedTuple):
    """A client whose session goes on in the next connection, and its publishes under way."""

    client: BlockingClient
    unconfirmed: Unconfirmed


_suspended: weakref.WeakKeyDictionary[Any, Suspended] = weakref.WeakKeyDictionary()


def suspend(owner: Any, client: BlockingClient, unconfirmed: Unconfirmed) -> None:
    """Keep the client for the next connection of `owner`, a kombu connection, and with it the session."""
    client.suspend()
    _suspended[owner] = Suspended(client, unconfirmed)


def resume(owner: Any, url: BrokerUrl) -> Suspended | None:
    """The client that was kept for `owner`. None if there is none of this process and for this URL. The label does not
    count: a Celery worker has another one as soon as it knows its name."""
    kept = _suspended.pop(owner, None)
    if kept is None or kept.client.is_over:
        return None
    if replace(kept.client.url, label=url.label) != url:
        kept.client.close(end_session=False)
        return None
    return kept
