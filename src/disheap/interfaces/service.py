"""The contract of services: what a node offers beside its own protocol, such as HTTP or gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from disheap.interfaces.machine import Principal
from disheap.interfaces.metrics import Metric
from disheap.interfaces.plugin import Plugin


class ServiceContext(Protocol):
    """What a service gets of its node. It never gets the kernel, the log or another client's session."""

    loop: (
        asyncio.AbstractEventLoop
    )  # the node's; a call that takes more than a few milliseconds has to pause in between
    node: str  # the node's name

    async def status(self, group: int = 0) -> dict[str, Any]:
        """What `disheap status --json` shows of this node and its part of a group. Asks the disk, so it may take long.
        Raises `UnknownGroup` and `StorageError`."""

    def unready(self) -> Sequence[str]:
        """Why this node should get no traffic now, a sentence for each reason. Empty if it takes part in every group:
        it knows a leader, has applied what is committed, has disk space, and is not stopping. Cheap."""

    def metrics(self) -> dict[str, int | float]:
        """The node's counters and gauges by name, such as `raft_applied_entries_total`. Cheap."""

    async def apply(self, command: bytes, timeout_s: float) -> bytes:
        """One command through the log, in a session of this node's own. Returns the machine's reply. Raises what the
        machine refused, `NotLeader` (nothing was done), `OutcomeUnknown` and `RequestTimeout`."""

    async def query(self, request: bytes, timeout_s: float) -> bytes:
        """A linearizable read of the machine. Raises what the machine refused, `NotLeader` and `RequestTimeout`."""

    async def measure(self) -> Sequence[Metric]:
        """All metrics of the node, its replicas and their machines. Takes at most some milliseconds of the loop at a
        time, and half a second for each replica whose disk does not answer."""

    def list_stats(self, group: int, prefix: str, after: str, limit: int) -> tuple[Sequence[dict[str, Any]], int]:
        """A page of what the group's machine has many of, such as topics (`interfaces.Measuring`), as this node has
        applied it. Nothing for a machine without that power. Ask for at most 50 at a time. Raises `UnknownGroup`."""

    def check_listen(self, address: str, is_secure: bool) -> None:
        """Raises `ConfigError` for an address (`host:port`) that other machines reach, unless the node's user insists
        (`insecure`). `is_secure`: the service encrypts, and every client has to prove who it is."""

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
        """Called once when the node stops, also after a `start` that failed or was never called. Ends every task,
        connection and listener of the service before it returns, within a few seconds. Raises nothing."""


@runtime_checkable
class Binding(Protocol):
    """Optional power of a service: it takes its addresses before the node opens its data. So a port in use keeps the
    node from starting before anything is written."""

    async def bind(self) -> None:
        """Called once, before `start`. Nothing is served yet. Raises `ConfigError` for an address that cannot be
        used."""
