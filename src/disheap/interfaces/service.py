"""The contract of services: what a node offers beside its own protocol, such as HTTP or gRPC."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from disheap.interfaces.machine import Principal
from disheap.interfaces.plugin import Plugin


class ServiceContext(Protocol):
    """What a service gets of its node. It never gets the kernel, the log or another client's session."""

    loop: (
        asyncio.AbstractEventLoop
    )  # the node's; a call that takes more than a few milliseconds has to pause in between
    node: str  # the node's name

    async def status(self) -> dict[str, Any]:
        """What `disheap status --json` shows of this node."""

    def metrics(self) -> dict[str, int | float]:
        """The node's counters and gauges by name, such as `raft_applied_entries_total`. Cheap."""

    async def apply(self, command: bytes, timeout_s: float) -> bytes:
        """One command through the log, in a session of this node's own. Returns the machine's reply. Raises what the
        machine refused, `NotLeader` (nothing was done), `OutcomeUnknown` and `RequestTimeout`."""

    async def query(self, request: bytes, timeout_s: float) -> bytes:
        """A linearizable read of the machine. Raises what the machine refused, `NotLeader` and `RequestTimeout`."""

    def check_operator(self, principal: Principal, remote: str) -> None:
        """Raises `Unauthorized` unless this client may do what only operators may. `remote` is its address, as
        `host:port`: this machine's own users are operators, and so is a name of `limits.operator_names`."""


class Service(Plugin, Protocol):
    """Something that a node runs beside its own protocol. It is built when the node starts, runs on the node's loop,
    and is stopped before the node gives up its state. An error in a service never ends the node."""

    def __init__(self, settings: Any, context: ServiceContext) -> None: ...

    async def start(self) -> None:
        """Returns when the service is ready, such as when it listens. The node serves already, but may not know a
        leader. Raises `ConfigError` for what its user has to change; then the node does not start."""

    async def stop(self) -> None:
        """Called once for each `start`, also for one that failed. Ends every task, connection and listener of the
        service before it returns, within a few seconds. Raises nothing."""
