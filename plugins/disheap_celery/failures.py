"""The errors of the result backend, by the classes that Celery acts on."""

from __future__ import annotations

from celery.exceptions import BackendStoreError
from kombu.exceptions import EncodeError, OperationalError

from disheap import errors


class BackendUnreachable(OperationalError):
    """No node answered in time. What was under way may still be carried out. Try again: Celery does so by itself with
    `result_backend_always_retry`."""


class BackendFull(OperationalError):
    """The disks or the memory of the nodes are nearly full, and the result was not stored. Try again when there is
    room."""


class ResultTooLarge(EncodeError, BackendStoreError):  # type: ignore[misc]
    """The result is larger than the broker takes. The task fails with this error, so whoever waits for the result is
    told."""


CONNECTION_ERRORS: tuple[type[Exception], ...] = (OperationalError, errors.ConnectionLost, OSError)


def translated(error: errors.DisheapError) -> Exception:
    """The error in Celery's words, or itself if Celery has no other word for it."""
    if isinstance(error, errors.PayloadTooLarge):
        return ResultTooLarge(f"the result cannot be stored: {error}")
    if isinstance(error, errors.DiskFull | errors.MemoryFull):
        return BackendFull(str(error))
    if isinstance(error, errors.CommandRefused):
        return error
    return BackendUnreachable(f"the result backend: {error}")
