"""The settings of the service, and the bounds that nobody has to set."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

HEAD_BYTES_MAX = 16 << 10
"""The size of a request's first line and headers. Browsers send 1 to 2 KiB."""
QUERY_FIELDS_MAX = 16
"""How many fields the query of one URL may have."""
WRITE_BYTES = 64 << 10
"""A body is written in pieces of this size. So a slow reader holds no more than about two of them."""
LINGER_S = 1.0
"""A connection that is being closed has so long to take its last bytes."""

Path = Annotated[str, Meta(max_length=4096)]


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the service `http`, from the table `[service.http]`."""

    listen: Annotated[
        str, Meta(min_length=1, max_length=255, description="HOST:PORT of all pages; `none`: nowhere")
    ] = "127.0.0.1:8080"
    metrics_listen: Annotated[
        str, Meta(min_length=1, max_length=255, description="HOST:PORT of /stats and /metrics alone; `none`: nowhere")
    ] = "127.0.0.1:9090"
    certfile: Annotated[Path, Meta(description="PEM: the certificate and its chain; empty: no TLS")] = ""
    keyfile: Annotated[Path, Meta(description="PEM: the private key, unencrypted")] = ""
    shared_keyfile: Annotated[
        bool, Meta(description="take a key file that others than its owner may read, where something else guards it")
    ] = False  # a mounted secret may have no other mode
    cafile: Annotated[
        Path, Meta(description="PEM: the authorities of clients' certificates, which are then required")
    ] = ""
    connections: Annotated[
        int, Meta(ge=1, le=10_000, description="open at a time; at the limit the longest idle one is closed")
    ] = 128  # a scraper or a probe needs one for a moment; a page in a browser has six
    request_timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="for a request and its answer; an idle connection lasts as long")
    ] = 10.0  # Prometheus gives up a scrape after 10 s
