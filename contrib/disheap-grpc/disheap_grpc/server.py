"""The gRPC server: its limits, its port, and which handler answers which method.

It runs in a process of its own (`process.py`), on asyncio. gRPC reads and writes the sockets in threads of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from disheap.errors import AddressInUse, ConfigError
from disheap_grpc import calls, messages, topics
from disheap_grpc.cluster import Cluster
from disheap_grpc.consuming import Consumers
from disheap_grpc.credentials import Credentials, server_credentials
from disheap_grpc.enqueueing import enqueue_stream
from disheap_grpc.health import BROKER, CLUSTER, SERVICE_NAME, Health
from disheap_grpc.leases import Leases
from disheap_grpc.node_view import Node
from disheap_grpc.settings import METADATA_BYTES, GrpcSettings
from disheap_grpc.v1 import broker_pb2 as pb

GRACE_S = 1.0
"""Requests under way have so long to end when the node stops. The node gives a service five seconds."""
HANDSHAKE_MS = 5_000
PINGS_MIN_MS = 10_000
"""A client that pings more often is cut off."""
KEEPALIVE_MS = 60_000
"""A connection whose other end is silent gets a ping, and is closed without an answer in `KEEPALIVE_TIMEOUT_MS`."""
KEEPALIVE_TIMEOUT_MS = 20_000

UNARY: dict[str, calls.Work] = {
    "Enqueue": messages.enqueue,
    "Pop": messages.pop,
    "Peek": messages.peek,
    "Ack": messages.ack,
    "Nack": messages.nack,
    "Extend": messages.extend,
    "ListTopics": topics.list_topics,
    "DescribeTopic": topics.describe_topic,
    "CreateTopic": topics.create_topic,
    "DeleteTopic": topics.delete_topic,
    "PurgeTopic": topics.purge_topic,
    "GetStatus": topics.get_status,
}
"""By the names in `broker.proto`."""


class GrpcServer:
    """One server, until it is stopped."""

    def __init__(
        self, settings: GrpcSettings, node: Node, cluster: Cluster, tell_failed: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._credentials = Credentials(settings)
        self._consumers = Consumers(settings.consumers)
        self._site = calls.Site(settings, node, cluster, Leases(secrets.token_bytes(32)), tell_failed)
        self._health = Health(node)
        self._server: Any = None

    async def bind(self) -> int:
        """Takes the port, and returns it. Nobody is served yet. Raises `AddressInUse`."""
        listen, options = self._settings.listen, server_options(self._settings)
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=self._settings.requests)
        self._server.add_generic_rpc_handlers((*self._handlers(), self._health.handlers()))
        reflection.enable_server_reflection((BROKER, CLUSTER, SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        try:
            if self._credentials.is_secure:
                return int(self._server.add_secure_port(listen, server_credentials(self._credentials)))
            return int(self._server.add_insecure_port(listen))
        except RuntimeError:
            raise cannot_listen(listen) from None

    async def start(self) -> None:
        """Serves."""
        await self._server.start()

    async def stop(self) -> None:
        """Ends all requests. Leases go back."""
        self._health.stop()
        self._consumers.stop()
        if self._server is not None:
            await self._server.stop(GRACE_S)

    def reload(self) -> None:
        """Connections made from now on use the certificates as they are now."""
        self._credentials.reload()

    def _handlers(self) -> tuple[Any, ...]:
        return tuple(
            grpc.method_handlers_generic_handler(
                service.full_name,
                {method.name: handler(method, self._site, self._consumers) for method in service.methods},
            )
            for service in pb.DESCRIPTOR.services_by_name.values()
        )


def handler(method: Any, site: calls.Site, consumers: Consumers) -> Any:
    """The handler of one method. It reads the request itself: gRPC would write a traceback for bytes that are none."""
    encode = type(getattr(pb, method.output_type.name)()).SerializeToString
    match method.name:
        case "Consume":
            return grpc.stream_stream_rpc_method_handler(
                streaming(partial(calls.stream, site, consumers.consume)), None, encode
            )
        case "EnqueueStream":
            return grpc.stream_unary_rpc_method_handler(
                streaming(partial(calls.stream, site, enqueue_stream)), None, encode
            )
        case name:
            kind = getattr(pb, method.input_type.name)
            return grpc.unary_unary_rpc_method_handler(single(site, kind, UNARY[name]), None, encode)


def streaming(run: Callable[[Any], Any]) -> Any:
    """gRPC looks whether a handler is a coroutine function, and takes a `partial` for none."""

    async def handle(requests: Any, context: Any) -> Any:
        return await run(context)

    return handle


def single(site: calls.Site, kind: type[Any], work: calls.Work) -> Any:
    """The handler of a request with one message."""

    async def handle(raw: bytes, context: Any) -> Any:
        return await calls.answer(site, kind, work, raw, context)

    return handle


def server_options(settings: GrpcSettings) -> list[tuple[str, int]]:
    """The bounds that gRPC itself keeps."""
    return [
        ("grpc.max_receive_message_length", settings.message_bytes),
        ("grpc.max_send_message_length", settings.message_bytes),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * METADATA_BYTES),
        ("grpc.max_concurrent_streams", settings.streams_per_connection),
        ("grpc.max_allowed_incoming_connections", settings.connections),
        ("grpc.max_connection_idle_ms", int(settings.idle_timeout_s * 1000)),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", PINGS_MIN_MS),
        ("grpc.so_reuseport", 0),  # two nodes on one port would share its clients
        ("grpc.enable_http_proxy", 0),
    ]


def cannot_listen(address: str) -> ConfigError:
    """gRPC does not say why."""
    port = address.rpartition(":")[2]
    return AddressInUse(
        f"cannot listen for gRPC on {address}: another process does, or the address is not this machine's. Find it "
        f"with `ss -ltnp sport = :{port}`, or choose another one: listen in [service.grpc]."
    )
