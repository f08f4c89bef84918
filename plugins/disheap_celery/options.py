"""From Celery's `result_backend` and `result_backend_transport_options` to the client's URL.

Every parameter that a broker URL takes may stand in either; where both name one, the URL counts.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, quote

from disheap.client.core import url as urls
from disheap.client.core.url import BrokerUrl

LABEL_CHARACTERS = 255
"""The most that a node takes."""


def results_url(text: str, options: dict[str, Any]) -> tuple[BrokerUrl, str]:
    """The URL of the backend, with the options of the application, and a label. Then the virtual host, or "". Raises
    `UrlError`."""
    text, virtual_host = urls.without_path(text)
    first, separator, others = text.partition(";")
    named = dict(parse_qsl(first.partition("?")[2], keep_blank_values=True))
    known = (*urls.PARAMETERS, *urls.TLS_KEYS)
    more = "&".join(
        f"{key}={quote(str(value), safe='')}"
        for key, value in options.items()
        if value is not None and key not in named and (key in known or key.startswith(urls.PLUGIN_PREFIX))
    )
    if more:
        first = f"{first}{'&' if '?' in first else '?'}{more}"
    url = urls.parse(first + separator + others)
    return (url if url.label else replace(url, label=default_label())), virtual_host


def default_label() -> str:
    """`celery results worker1@host, pid 4711` in a worker and its pool processes, and the host's name elsewhere."""
    kept = getattr(sys.modules.get("celery.app.trace"), "_localized", None)
    node = kept[-1] if isinstance(kept, list) and kept and isinstance(kept[-1], str) else socket.gethostname()
    tail = f", pid {os.getpid()}"
    return f"celery results {node}"[: LABEL_CHARACTERS - len(tail)] + tail
