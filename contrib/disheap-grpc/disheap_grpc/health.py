"""gRPC's own health service (`grpc.health.v1`): SERVING while the node should get traffic.

It answers for "", `disheap.v1.Broker` and `disheap.v1.Cluster`. The servicer that comes with grpcio writes to watchers
under a lock, so a watcher that reads nothing would stop it. This one holds no lock.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME

from disheap.errors import InvalidArgument
from disheap_grpc import statuses
from disheap_grpc.calls import parse
from disheap_grpc.node_view import Node

EVERY_S = 0.25
BROKER, CLUSTER = "disheap.v1.Broker", "disheap.v1.Cluster"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
__all__ = ["BROKER", "CLUSTER", "SERVICE_NAME", "Health"]

UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Answers Check and Watch. A watcher looks every `EVERY_S`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """NOT_SERVING from here on. Watchers end when they have said so."""
        self._stopping.set()

    def status(self, service: str) -> int:
        """A `ServingStatus`. The cluster's status is served always; the rest depends on the node's readiness."""
        if service not in ("", BROKER, CLUSTER, SERVICE_NAME):
            return int(UNKNOWN)
        if self._stopping.is_set():
            return int(NOT_SERVING)
        return int(SERVING if service in (CLUSTER, SERVICE_NAME) or not self._node.unready() else NOT_SERVING)

    def handlers(self) -> Any:
        """For the server."""

        async def check(raw: bytes, context: Any) -> Any:
            return self._check(raw, context)

        async def watch(raw: bytes, context: Any) -> None:
            await self._watch(raw, context)

        encode = health_pb2.HealthCheckResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(check, None, encode),
                "Watch": grpc.unary_stream_rpc_method_handler(watch, None, encode),
            },
        )

    def _check(self, raw: bytes, context: Any) -> Any:
        service = self._service(raw, context)
        if service is None:
            return None
        status = self.status(service)
        if status == UNKNOWN:
            statuses.end(context, grpc.StatusCode.NOT_FOUND, "unknown-service", f"no service {service[:100]!r} here")
            return None
        return health_pb2.HealthCheckResponse(status=status)

    async def _watch(self, raw: bytes, context: Any) -> None:
        service = self._service(raw, context)
        said = None
        while service is not None:
            status = self.status(service)
            if status != said:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                said = status
            if self._stopping.is_set():
                return
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _service(self, raw: bytes, context: Any) -> str | None:
        try:
            return str(parse(health_pb2.HealthCheckRequest, raw).service)
        except InvalidArgument as error:
            statuses.refuse(context, error)
            return None
