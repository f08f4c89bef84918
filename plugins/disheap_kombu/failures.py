"""disheap's errors in kombu's words.

kombu and Celery act by class. A *recoverable* connection error makes a worker restart its consumer and a producer
publish again. A recoverable channel error makes a producer try again at once. Anything else reaches the application. So
the table below decides who does what. A publish whose outcome is not known raises `PublishOutcomeUnknown`. That is a
recoverable connection error: with `retry=True` (Celery's `task_publish_retry`) kombu publishes again, and the task may
run twice, as with other brokers. With `retry=False` it reaches the caller. A worker that meets it, or a full disk,
starts its consumer again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from amqp.exceptions import (
    AccessRefused,
    ChannelError,
    ConnectionError,
    InternalError,
    IrrecoverableChannelError,
    NotFound,
    PreconditionFailed,
    RecoverableChannelError,
    RecoverableConnectionError,
    ResourceLocked,
)
from kombu.exceptions import OperationalError

from disheap import errors
from disheap.protocol import broker


class PublishOutcomeUnknown(errors.OutcomeUnknown, OperationalError):
    """The message may or may not be in its queue. Look before publishing again."""


class FailedPublish(NamedTuple):
    """A message whose publish had returned before it failed. `message`, `exchange` and `routing_key` are what
    `Channel.basic_publish` got."""

    message: Any
    exchange: str
    routing_key: str
    error: Exception
    """`PublishOutcomeUnknown` if the message may be in its queue. After any other error it is not there."""


class EarlierPublishesFailed(OperationalError):
    """Messages that were published before, with `{"confirm": "window"}`, failed. kombu does not publish again after
    this error. It would hide what failed. A publish that raises it has sent nothing."""

    def __init__(self, failed: list[FailedPublish]) -> None:
        """`failed` has the messages in the order of their failures."""
        self.failed = failed
        first = failed[0]
        super().__init__(
            f"{len(failed)} messages that were published before have failed, and are in `failed` of this error. The "
            f"first one, to exchange {first.exchange!r} with routing key {first.routing_key!r}: {first.error}. If a "
            "publish raised this, its own message was not sent"
        )


class BrokerUnreachable(RecoverableConnectionError, OSError):  # type: ignore[misc]
    """No node took a session in time. An `OSError`, as with other transports, for programs that catch that."""


class QueueFull(IrrecoverableChannelError):  # type: ignore[misc]
    """The queue is at its `x-max-length`; the message was not taken."""

    code = 311


class BatchTooLarge(PreconditionFailed):  # type: ignore[misc]
    """The messages of a batch lead to more queues than one command may. Nothing was done."""


class BrokerFull(RecoverableChannelError):  # type: ignore[misc]
    """The broker's disks or its memory are nearly full; the message was not taken. There is room again when queues are
    drained."""

    code = 506


CONNECTION_ERRORS = (
    ConnectionError,
    errors.ConnectionLost,
    errors.SessionExpired,
    OSError,
    PublishOutcomeUnknown,
    BrokerFull,
)
"""What makes a worker start its consumer again. Celery counts no channel error among these, unless it is told to."""
CHANNEL_ERRORS = (ChannelError,)
RECOVERABLE_CONNECTION_ERRORS = (
    RecoverableConnectionError,
    errors.ConnectionLost,
    errors.SessionExpired,
    OSError,
    PublishOutcomeUnknown,
)
RECOVERABLE_CHANNEL_ERRORS = (RecoverableChannelError,)


_BY_ERROR: dict[type[errors.RequestError], Callable[[str], Exception]] = {
    errors.ConnectionLost: BrokerUnreachable,
    errors.TopicNotFound: NotFound,
    errors.ExchangeNotFound: NotFound,
    errors.TopicLocked: ResourceLocked,
    errors.BatchTooLarge: BatchTooLarge,
    errors.TopicMismatch: PreconditionFailed,
    errors.ExchangeMismatch: PreconditionFailed,
    errors.TopicInUse: PreconditionFailed,
    errors.ConsumerNotFound: NotFound,
    errors.TopicFull: QueueFull,
    errors.TopicPaused: QueueFull,
    errors.DiskFull: BrokerFull,
    errors.MemoryFull: BrokerFull,
    errors.InternalError: InternalError,
    errors.VersionTooOld: AccessRefused,
    errors.CommandRefused: PreconditionFailed,
    errors.RequestError: RecoverableConnectionError,
}


def refusal_of_full_queues(reply: broker.Published) -> str:
    """What `QueueFull` says."""
    count = reply.refused + reply.routed
    return f"{reply.refused} of {count} queues are full or paused and refused the message; the others have it"


def translated(error: errors.DisheapError, publishing: bool = False) -> Exception:
    """What kombu expects in place of `error`."""
    if isinstance(error, (errors.OutcomeUnknown, errors.RequestTimeout)) and publishing:
        return PublishOutcomeUnknown(str(error))
    for kind in type(error).__mro__:
        if kind in _BY_ERROR:
            return _BY_ERROR[kind](str(error))
    return error
