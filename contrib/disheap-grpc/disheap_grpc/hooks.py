"""What `disheap_grpc` brings: the service `grpc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.plugins import hookimpl

if TYPE_CHECKING:
    from disheap_grpc.service import GrpcService


@hookimpl
def disheap_register_service() -> type[GrpcService]:
    """The service `grpc`. gRPC is loaded when somebody asks for a service."""
    from disheap_grpc.service import GrpcService

    return GrpcService
