"""disheap's errors in kombu's words.

kombu and Celery act by class: a *recoverable* connection error makes a worker restart its consumer and a producer
publish again; a recoverable channel error makes a producer try again at once; anything else reaches the application.
So the table below decides who does what. One rule stands out: a publish whose outcome is not known is **not**
repeated on its own, because that could run a task twice. It reaches the caller as `PublishOutcomeUnknown`.
"""

from __future__ import annotations

from collections.abc import Callable

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

CONNECTION_ERRORS = (ConnectionError, errors.ConnectionLost, errors.SessionExpired, OSError)
CHANNEL_ERRORS = (ChannelError,)
RECOVERABLE_CONNECTION_ERRORS = (RecoverableConnectionError, errors.ConnectionLost, errors.SessionExpired, OSError)
RECOVERABLE_CHANNEL_ERRORS = (RecoverableChannelError,)


class PublishOutcomeUnknown(errors.OutcomeUnknown, OperationalError):
    """The message may or may not be in its queue. Look before publishing again."""


class QueueFull(IrrecoverableChannelError):  # type: ignore[misc]
    """The queue is at its `x-max-length`; the message was not taken."""

    code = 311


class BrokerFull(IrrecoverableChannelError):  # type: ignore[misc]
    """The broker's disks are nearly full; the message was not taken. Trying again at once would not help."""

    code = 506


_BY_ERROR: dict[type[errors.RequestError], Callable[[str], Exception]] = {
    errors.TopicNotFound: NotFound,
    errors.ExchangeNotFound: NotFound,
    errors.TopicLocked: ResourceLocked,
    errors.TopicMismatch: PreconditionFailed,
    errors.ExchangeMismatch: PreconditionFailed,
    errors.TopicInUse: PreconditionFailed,
    errors.ConsumerNotFound: NotFound,
    errors.TopicFull: QueueFull,
    errors.DiskFull: BrokerFull,
    errors.InternalError: InternalError,
    errors.VersionTooOld: AccessRefused,
    errors.CommandRefused: PreconditionFailed,
    errors.RequestError: RecoverableConnectionError,
}


def translated(error: errors.DisheapError, publishing: bool = False) -> Exception:
    """What kombu expects in place of `error`."""
    if isinstance(error, (errors.OutcomeUnknown, errors.RequestTimeout)) and publishing:
        return PublishOutcomeUnknown(str(error))
    for kind in type(error).__mro__:
        if kind in _BY_ERROR:
            return _BY_ERROR[kind](str(error))
    return error
