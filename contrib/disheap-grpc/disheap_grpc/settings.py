"""The settings of the service, and the bounds that nobody has to set."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

METADATA_BYTES = 8 << 10
"""The size of the headers of one request. It is gRPC's own limit."""
COUNT_MAX = 1000
"""Messages of one Pop or Peek, topics of one page, and leases of one Ack, Nack or Extend."""
CREDIT_DEFAULT = 64
CREDIT_MAX = 10_000
LEASE_MS = 60_000
"""The lease of a Pop that names none. A client that has gone holds its messages no longer."""
WAIT_MAX_MS = 3_600_000
"""How long a Pop may wait: an hour."""
PIPELINED_MAX = 256
"""Messages of an EnqueueStream, or settlements of a Consume, that are not answered yet."""
PIPELINED_BYTES = 1 << 20
"""The size of those messages. One message always passes."""
START_S = 10.0
"""A Consume has so long to say what it wants."""

Path = Annotated[str, Meta(max_length=4096)]


class GrpcSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the service `grpc`, from the table `[service.grpc]`."""

    listen: Annotated[str, Meta(min_length=1, max_length=255, description="HOST:PORT")] = "127.0.0.1:8500"
    certfile: Annotated[Path, Meta(description="PEM: the certificate and its chain; empty: no TLS")] = ""
    keyfile: Annotated[Path, Meta(description="PEM: the private key, unencrypted")] = ""
    shared_keyfile: Annotated[
        bool, Meta(description="take a key file that others than its owner may read, where something else guards it")
    ] = False  # a mounted secret may have no other mode
    cafile: Annotated[
        Path, Meta(description="PEM: the authorities of clients' certificates, which are then required")
    ] = ""
    broker_url: Annotated[
        str, Meta(max_length=4096, description="how the service reaches the cluster; empty: by this node's own address")
    ] = ""
    message_bytes: Annotated[int, Meta(ge=4 << 10, le=256 << 20, description="of one request or answer")] = (
        4 << 20
    )  # gRPC's clients take no more unless they are told
    connections: Annotated[int, Meta(ge=1, le=10_000, description="open at a time; more are closed at once")] = 256
    streams_per_connection: Annotated[
        int, Meta(ge=1, le=10_000, description="requests of one connection at a time; more wait at the client")
    ] = 100
    requests: Annotated[
        int, Meta(ge=1, le=10_000, description="at a time; more are refused with RESOURCE_EXHAUSTED")
    ] = 256  # with `message_bytes` this bounds what requests hold: 1 GiB if all are as large as they may be
    consumers: Annotated[int, Meta(ge=1, le=10_000, description="Consume streams at a time; a part of `requests`")] = (
        128
    )
    consume_bytes: Annotated[
        int, Meta(ge=1 << 10, le=1 << 30, description="deliveries that one Consume has not settled")
    ] = 1 << 20  # what a slow reader makes the node hold; times `consumers` it is 128 MiB
    timeout_s: Annotated[float, Meta(gt=0, le=3600, description="of a request without a deadline")] = 30.0
    idle_timeout_s: Annotated[
        float, Meta(gt=0, le=86_400, description="a connection without a request is closed after it")
    ] = 300.0
