"""One request: what it brings with it, and how its outcome becomes a status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from disheap.client.io.asyncio_driver import Driver
from disheap.errors import DisheapError, InvalidArgument
from disheap_grpc import statuses
from disheap_grpc.cluster import Cluster
from disheap_grpc.leases import Leases
from disheap_grpc.node_view import Node
from disheap_grpc.settings import GrpcSettings

ANSWER_SPARE_BYTES = 1024
"""What an answer takes beside its messages."""
FRAMING_BYTES = 8
"""A message in a list has so many bytes around it."""


class Site(NamedTuple):
    """What all requests of a service share."""

    settings: GrpcSettings
    node: Node
    cluster: Cluster
    leases: Leases
    tell_failed: Callable[[str], None]  # for the node's log

    @property
    def answer_bytes(self) -> int:
        """The size of the messages in one answer."""
        return self.settings.message_bytes - ANSWER_SPARE_BYTES


class Call:
    """One request. `timeout_s` is what its deadline leaves, or the setting if that is less."""

    def __init__(self, site: Site, context: Any) -> None:
        self.site = site
        self.context = context
        left_s = context.time_remaining()
        self.timeout_s = site.settings.timeout_s if left_s is None else min(left_s, site.settings.timeout_s)
        self.principal = principal_of(context)

    async def driver(self) -> Driver:
        """The session with the cluster. Raises `NotSent`."""
        return (await self.site.cluster.client(self.timeout_s)).driver

    async def request(self, command: Any) -> Any:
        """The reply to a command. Raises what the cluster refused."""
        return await (await self.driver()).request(command, timeout_s=self.timeout_s)

    async def query(self, query: Any) -> Any:
        """The answer to a query. Raises what the cluster refused."""
        return await (await self.driver()).query(query, timeout_s=self.timeout_s)


Work = Callable[[Call, Any], Awaitable[Any]]


async def answer(site: Site, kind: Any, work: Work, raw: bytes, context: Any) -> Any:
    """Runs the handler of a request with one message. Returns its answer, or None and sets a status."""
    try:
        return await work(Call(site, context), parse(kind, raw))
    except DisheapError as error:
        statuses.refuse(context, error)
    except Exception as error:
        fail(site, context, error)
    return None


async def stream(site: Site, work: Callable[[Call], Awaitable[Any]], context: Any) -> Any:
    """Runs the handler of a request with many messages. Returns its answer, or None and sets a status."""
    try:
        return await work(Call(site, context))
    except DisheapError as error:
        statuses.refuse(context, error)
    except Exception as error:
        fail(site, context, error)
    return None


def parse(kind: Any, raw: bytes) -> Any:
    """Raises `InvalidArgument` for bytes that are no message of this kind."""
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidArgument(f"these {len(raw)} bytes are no {kind.__name__} of disheap.v1") from None


def fail(site: Site, context: Any, error: Exception) -> None:
    """An error of ours."""
    site.tell_failed(f"{type(error).__name__}: {error}")
    statuses.end(context, grpc.StatusCode.INTERNAL, "internal-error", "the node failed on this request; see its log")


def principal_of(context: Any) -> str:
    """The first name of the client's certificate. "" without one."""
    identities = context.peer_identities()
    return next(iter(identities), b"").decode("utf-8", "replace") if identities else ""


def retrieve(future: asyncio.Future[Any]) -> None:
    """For a future that nobody waits for any more: its error is no news."""
    if not future.cancelled():
        future.exception()
