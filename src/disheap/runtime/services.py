"""The services of a node: built, started and stopped with it (`disheap.interfaces.Service`).

Owns their order and what they get of the node. A service that cannot start keeps the node from starting, because its
user asked for it. A service that fails later does not end the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from disheap.addresses import is_loopback
from disheap.config.node_config import NodeConfig
from disheap.config.node_config import is_loopback as is_loopback_listen
from disheap.errors import ConfigError, Unauthorized, UnsafeListen
from disheap.interfaces import Binding, Metric, Principal, Reloading, Service
from disheap.logs import get_logger
from disheap.plugins.registry import Registry

log = get_logger(__name__)

STOP_S = 5.0
"""A service that has not stopped by then is given up, so that the node can stop."""


class ServiceHost(Protocol):
    """The node, as services use it."""

    config: NodeConfig
    name: str

    async def status(self, *, group: int = 0) -> dict[str, Any]:
        """What `disheap status --json` shows of this node."""

    def unready(self) -> Sequence[str]:
        """Why this node should get no traffic now. Empty if it takes part in every group."""

    async def apply(self, command: bytes, timeout_s: float) -> bytes:
        """Apply a command of the machine and return its reply. Raises a `RequestError`."""

    async def query(self, request: bytes, timeout_s: float) -> bytes:
        """Answer a query of the machine. Raises a `RequestError`."""

    def metrics(self) -> dict[str, int | float]:
        """The node's counters and gauges by name."""

    async def measure(self) -> Sequence[Metric]:
        """All metrics of the node, its replicas and their machines."""

    def list_stats(self, group: int, prefix: str, after: str, limit: int) -> tuple[Sequence[dict[str, Any]], int]:
        """A page of rows of the group's machine. Raises `UnknownGroup`."""


class Context:
    """Implements `disheap.interfaces.ServiceContext`."""

    def __init__(self, host: ServiceHost, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.node = host.name
        self._host = host

    async def status(self, group: int = 0) -> dict[str, Any]:
        """As `interfaces.ServiceContext` says."""
        return await self._host.status(group=group)

    def unready(self) -> Sequence[str]:
        """As `interfaces.ServiceContext` says."""
        return self._host.unready()

    def metrics(self) -> dict[str, int | float]:
        """As `interfaces.ServiceContext` says."""
        return self._host.metrics()

    async def apply(self, command: bytes, timeout_s: float) -> bytes:
        """As `interfaces.ServiceContext` says."""
        return await self._host.apply(command, timeout_s)

    async def query(self, request: bytes, timeout_s: float) -> bytes:
        """As `interfaces.ServiceContext` says."""
        return await self._host.query(request, timeout_s)

    async def measure(self) -> Sequence[Metric]:
        """As `interfaces.ServiceContext` says."""
        return await self._host.measure()

    def list_stats(self, group: int, prefix: str, after: str, limit: int) -> tuple[Sequence[dict[str, Any]], int]:
        """As `interfaces.ServiceContext` says."""
        return self._host.list_stats(group, prefix, after, limit)

    def check_listen(self, address: str, is_secure: bool) -> None:
        """As `interfaces.ServiceContext` says."""
        config = self._host.config
        if is_secure or config.insecure or is_loopback_listen(address):
            return
        raise UnsafeListen(
            f"refusing to listen on {address} without TLS and clients' certificates: whoever reaches it could see the "
            "node's state. Set certfile, keyfile and cafile, listen on 127.0.0.1, or insist with --insecure "
            "(DISHEAP_INSECURE=1)."
        )

    def check_operator(self, principal: Principal, remote: str) -> None:
        """Raises `Unauthorized` unless the client is on this machine or its certificate names an operator."""
        if is_loopback(remote) or principal.name in self._host.config.limits.operator_names:
            return
        who = repr(principal.name) if principal.name else "a client without a certificate name"
        raise Unauthorized(
            f"{who} from {remote} may not do this: it is for operators. Connect from the node's own machine, or add "
            "the certificate's name to limits.operator_names"
        )


class Services:
    """The services of a node: built, started and stopped with it."""

    def __init__(self, host: ServiceHost, registry: Registry) -> None:
        self._host = host
        self._registry = registry
        self._running: list[tuple[str, Service]] = []

    def build(self, loop: asyncio.AbstractEventLoop) -> list[tuple[str, Service]]:
        """Builds the services in the order of the configuration. Raises `ConfigError` and `PluginError`."""
        config = self._host.config
        check_names(config.services)
        context = Context(self._host, loop)
        tables = config.table("service")
        for name in tables:
            self._registry.settings("service", name, tables[name], config.source)  # a table that nobody reads is wrong
        return [
            (name, self._registry.build("service", name, tables, context, config.source)) for name in config.services
        ]

    async def bind(self, services: Sequence[tuple[str, Service]]) -> None:
        """The services take their addresses. From here on they have to be stopped. Raises what one of them raised."""
        for name, service in services:
            self._running.append((name, service))
            if isinstance(service, Binding):
                await service.bind()

    async def start(self) -> None:
        """Starts the services one after another. Raises what one of them raised."""
        for name, service in self._running:
            await service.start()
            log.info("service started", service=name)

    def reload(self) -> None:
        """The services read their files again. Raises `ConfigError`: that service goes on with what it had."""
        for _, service in self._running:
            if isinstance(service, Reloading):
                service.reload()

    async def stop(self) -> None:
        """Stops the services, the last one started first. Raises nothing."""
        while self._running:
            name, service = self._running.pop()
            try:
                async with asyncio.timeout(STOP_S):
                    await service.stop()
            except TimeoutError:
                log.error("a service has not stopped in time, and is given up", service=name, seconds=STOP_S)
            except Exception:
                log.exception("a service failed while it stopped", service=name)


def check_names(names: Sequence[str]) -> None:
    """Raises `ConfigError` for a service that is named twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"services: {twice[0]!r} is named twice; a node runs each service once.")
