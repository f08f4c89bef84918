"""disheap: a replicated priority message broker.

Owns the public names: `connect`, `sync`, `Node`, the errors. Applications import them from here. What is exported is
loaded when it is first used: a client loads no server, and `import disheap` loads next to nothing. It knows no plugin.
Start reading at `client.api.asynchronous` or `runtime.node`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from disheap.announce import announce as _announce
from disheap.version import __version__ as __version__

if TYPE_CHECKING:
    from disheap import errors as errors
    from disheap import sync as sync
    from disheap.client.api.asynchronous import Batch as Batch
    from disheap.client.api.asynchronous import Client as Client
    from disheap.client.api.asynchronous import Topic as Topic
    from disheap.client.api.asynchronous import connect as connect
    from disheap.client.api.consuming import Consumer as Consumer
    from disheap.client.api.consuming import Delivery as Delivery
    from disheap.config.node_config import NodeConfig as NodeConfig
    from disheap.protocol.broker import NewMessage as NewMessage
    from disheap.protocol.broker import encode_headers as encode_headers
    from disheap.runtime.node import Node as Node

_HOMES = {
    "Batch": "disheap.client.api.asynchronous",
    "Client": "disheap.client.api.asynchronous",
    "Topic": "disheap.client.api.asynchronous",
    "connect": "disheap.client.api.asynchronous",
    "Consumer": "disheap.client.api.consuming",
    "Delivery": "disheap.client.api.consuming",
    "NewMessage": "disheap.protocol.broker",
    "encode_headers": "disheap.protocol.broker",
    "Node": "disheap.runtime.node",
    "NodeConfig": "disheap.config.node_config",
}
_MODULES = ("errors", "sync")

__all__ = [
    "Batch",
    "Client",
    "Consumer",
    "Delivery",
    "NewMessage",
    "Node",
    "NodeConfig",
    "Topic",
    "connect",
    "encode_headers",
    "errors",
    "sync",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"disheap.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'disheap' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


_announce()  # makes disheap:// known to kombu, now or when kombu is imported
