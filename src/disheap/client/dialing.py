"""From a URL to a transport plugin. Loaded by drivers only; the session below knows neither."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from disheap.client.url import TLS_FILES, BrokerUrl
from disheap.errors import ConfigError
from disheap.interfaces import BlockingConnect, BlockingSocket, Transport, TransportContext
from disheap.plugins import Registry

Dial = Callable[[str, float], BlockingSocket]
"""(address, timeout in seconds) -> a connected socket."""


def blocking_dial(url: BrokerUrl, registry: Registry | None = None) -> Dial:
    """Raises `ConfigError` for a transport that has no blocking sockets."""
    plugin, settings = _plugin(url, registry)
    if not issubclass(plugin, BlockingConnect):
        raise ConfigError(f"the transport {url.transport!r} has no blocking sockets; use the asyncio client with it")
    connect = plugin.connect_blocking
    return lambda address, timeout_s: connect(settings, address, timeout_s)


def open_transport(url: BrokerUrl, registry: Registry | None = None) -> Transport:
    """For the running loop."""
    plugin, settings = _plugin(url, registry)
    transport: Transport = plugin(settings, TransportContext(asyncio.get_running_loop()))
    return transport


def _plugin(url: BrokerUrl, registry: Registry | None) -> tuple[type[Any], Any]:
    registry = registry or Registry.load()
    settings = registry.settings("transport", url.transport, _typed(url.transport_table), "the broker URL")
    return registry.get("transport", url.transport), settings


def _typed(table: dict[str, str]) -> dict[str, Any]:
    """Parameters of a URL are text, settings have types: what looks like a number or a truth is one, but for names."""
    return {key: value if key in TLS_FILES else _value(value) for key, value in table.items()}


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text
