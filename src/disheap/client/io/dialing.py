"""From a URL to a transport plugin. Loaded by drivers only; the session below knows neither."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from disheap.client.core.route import LastNodes
from disheap.client.core.url import TLS_KEYS, BrokerUrl
from disheap.errors import ConfigError
from disheap.interfaces import BlockingConnect, PendingSocket, Transport, TransportContext
from disheap.plugins.registry import Registry

Dial = Callable[[str], PendingSocket]
"""address -> a connection that is being made."""
LAST_NODES = LastNodes()
"""A process makes many clients for one cluster (kombu makes one for each connection), and each would look for the
leader anew."""
ORIGIN = "the broker URL"


def blocking_dial(url: BrokerUrl) -> Dial:
    """Raises `ConfigError` for a transport without blocking sockets; the dial does for settings that are of no use."""
    plugin, settings = _plugin(url)
    if not issubclass(plugin, BlockingConnect):
        raise ConfigError(f"the transport {url.transport!r} has no blocking sockets; use the asyncio client with it")
    start = plugin.start_connecting

    def dial(address: str) -> PendingSocket:
        with _of_the_url():
            return start(settings, address)

    return dial


def open_transport(url: BrokerUrl) -> Transport:
    """For the running loop. Raises `ConfigError`."""
    plugin, settings = _plugin(url)
    with _of_the_url():
        transport: Transport = plugin(settings, TransportContext(asyncio.get_running_loop()))
    return transport


@cache
def _installed() -> Registry:
    """Loaded once: what is installed stays so while a process runs. Only the garbage collector frees a registry."""
    return Registry.load()


def _plugin(url: BrokerUrl) -> tuple[type[Any], Any]:
    registry = _installed()
    settings = registry.settings("transport", url.transport, _typed(url.transport_table), ORIGIN)
    return registry.get("transport", url.transport), settings


@contextmanager
def _of_the_url() -> Iterator[None]:
    """Adds the origin of the settings to an error. A plugin does not know where its settings come from."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{ORIGIN}: {error}") from error


def _typed(table: dict[str, str]) -> dict[str, Any]:
    """Parameters of a URL are text, settings have types: what looks like a number or a truth is one, but for names."""
    return {key: value if key in TLS_KEYS else _value(value) for key, value in table.items()}


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text
