"""From disheap's errors to gRPC's statuses.

`CODES` is the table of `docs/reference/grpc.md`. A status never says UNAVAILABLE if something may have been done,
because clients repeat that by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from disheap import errors

DOMAIN = "disheap"
DETAILS_KEY = "grpc-status-details-bin"
MESSAGE_CHARACTERS = 1000

CODES: tuple[tuple[type[errors.DisheapError], grpc.StatusCode], ...] = (
    (errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.UnknownCommand, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.VersionTooOld, grpc.StatusCode.UNIMPLEMENTED),
    (errors.WrongMachine, grpc.StatusCode.UNIMPLEMENTED),
    (errors.TopicNotFound, grpc.StatusCode.NOT_FOUND),
    (errors.ConsumerNotFound, grpc.StatusCode.NOT_FOUND),
    (errors.UnknownGroup, grpc.StatusCode.NOT_FOUND),
    (errors.TopicMismatch, grpc.StatusCode.ALREADY_EXISTS),
    (errors.TopicLocked, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.TopicInUse, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.LeaseLost, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.TopicFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.TopicPaused, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.DiskFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.MemoryFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.WindowExceeded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unauthorized, grpc.StatusCode.PERMISSION_DENIED),
    (errors.NotLeader, grpc.StatusCode.UNAVAILABLE),
    (errors.NotSent, grpc.StatusCode.UNAVAILABLE),
    (errors.SessionExpired, grpc.StatusCode.ABORTED),
    (errors.RequestTimeout, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.OutcomeUnknown, grpc.StatusCode.UNKNOWN),
    (errors.ConnectionLost, grpc.StatusCode.UNKNOWN),
    (errors.InternalError, grpc.StatusCode.INTERNAL),
    (errors.CommandRefused, grpc.StatusCode.FAILED_PRECONDITION),
)
"""The first row that fits counts."""


def code_of(error: errors.DisheapError) -> grpc.StatusCode:
    """The status of an error. UNKNOWN for one that the table does not have."""
    return next((code for kind, code in CODES if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)


def refuse(context: Any, error: errors.DisheapError, more: Mapping[str, str] | None = None) -> None:
    """Ends a request with an error. The handler returns after it."""
    end(context, code_of(error), getattr(error, "code", "internal-error"), str(error), more)


def end(context: Any, code: grpc.StatusCode, reason: str, message: str, more: Mapping[str, str] | None = None) -> None:
    """Sets the status of a request and its details."""
    message = message[:MESSAGE_CHARACTERS]
    packed = AnyMessage()
    packed.Pack(ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(more or {})))
    status = Status(code=code.value[0], message=message, details=[packed])
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.set_code(code)
    context.set_details(message)
