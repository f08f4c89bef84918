"""A cluster in one event loop: real nodes over any plugins, with short timings, that can be stopped, cut and
restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from disheap.config.node_config import Limits, MemberConfig, NodeConfig, RaftConfig
from disheap.errors import Overloaded
from disheap.interfaces import Transport, TransportContext
from disheap.plugins.registry import Registry
from disheap.protocol.handshake import SUPPORTED, Versions
from disheap.testing.counter import CounterMachine
from disheap.testing.inspected import InspectedMember as Node
from tests.support.relay import Relay
from tests.support.wire import PATIENCE_S, WireClient, wait_until

T = TypeVar("T")
FAST = RaftConfig(tick_ms=10, heartbeat_ms=20, election_timeout_ms=150, commit_timeout_ms=10)


Tables = dict[str, dict[str, dict[str, Any]]]
"""kind -> plugin -> settings."""


class TestRegistry(Registry):
    """The installed plugins, and the machines of the tests."""

    __test__ = False
    machines: dict[str, Any] = {"counter": CounterMachine, "relay": Relay}  # noqa: RUF012

    def get(self, kind: str, name: str) -> type[Any]:  # type: ignore[override]
        machine = self.machines.get(name) if kind == "machine" else None
        return machine or super().get(kind, name)


class Cluster:
    """`async with Cluster(tmp_path, nodes=3) as cluster`: started, and led."""

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        *,
        transport: str = "inproc",
        storage: str = "memory",
        codec: str = "none",
        machine: str = "counter",
        raft: RaftConfig = FAST,
        limits: Limits | None = None,
        tables: Tables | Callable[[str], Tables] | None = None,
        addresses: list[tuple[str, str]] | None = None,
        registry: Registry | None = None,
        secret: str = "",
        versions: dict[str, Versions] | None = None,
    ) -> None:
        self.versions = versions or {}
        self.registry = registry or TestRegistry.load()
        self.nodes: dict[str, Node] = {}
        names = [f"n{number}" for number in range(1, nodes + 1)]
        addresses = addresses or [(f"{name}:8300", f"{name}:8400") for name in names]
        members = tuple(MemberConfig(name, *pair) for name, pair in zip(names, addresses, strict=True))
        self.configs = {
            member.name: NodeConfig(
                name=member.name,
                members=members,
                data_dir=str(directory / member.name),
                peer_listen=member.peer,
                client_listen=member.client,
                transport=transport,
                storage=storage,
                codec=codec,
                machine=machine,
                raft=raft,
                limits=limits or Limits(),
                cluster_secret=secret,
                plugins=(tables(member.name) if callable(tables) else tables) or {},
            )
            for member in members
        }
        self.transport: Transport

    async def __aenter__(self) -> Cluster:
        config = next(iter(self.configs.values()))
        context = TransportContext(asyncio.get_running_loop())
        self.transport = self.registry.build("transport", config.transport, config.table("transport"), context)
        await asyncio.gather(*(self.start(name) for name in self.configs))
        await self.wait_leader()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(node.stop(hand_over=False) for node in self.nodes.values()))

    async def start(self, name: str, **changes: Any) -> Node:
        config = msgspec.structs.replace(self.configs[name], **changes)
        node = self.nodes[name] = Node(
            config, registry=self.registry, protocol_versions=self.versions.get(name, SUPPORTED)
        )
        await node.start()
        return node

    async def stop(self, name: str, hand_over: bool = False) -> None:
        await self.nodes.pop(name).stop(hand_over)

    async def restart(self, name: str) -> Node:
        await self.stop(name)
        return await self.start(name)

    async def wait_leader(self) -> Node:
        """The node that leads in the newest term, once it has committed there."""

        def leaders() -> list[Node]:
            found = [node for node in self.nodes.values() if node.group.leads]
            return [node for node in found if node.group.applied.term == node.group.raft.term]

        await wait_until(lambda: len(leaders()) == 1, "one node leads")
        return leaders()[0]

    def followers(self) -> list[Node]:
        return [node for node in self.nodes.values() if not node.group.leads]

    async def client(self, timeout_ms: int = 60_000) -> WireClient:
        return await WireClient.opened(self.transport, (await self.wait_leader()).client_address, timeout_ms)

    async def wait_equal(self) -> bytes:
        """All nodes have applied the same index, and hold the same state. Returns its hash."""

        def places() -> set[int]:
            return {node.group.applied.index for node in self.nodes.values()}

        commit = max(node.group.raft.commit for node in self.nodes.values())
        await wait_until(lambda: len(places()) == 1 and min(places()) >= commit, "all nodes at one index")
        hashes = {node.group.sessions.state_hash() for node in self.nodes.values()}
        assert len(hashes) == 1, "the replicas differ"
        return hashes.pop()


async def transfer(node: Node, target: str = "", group: int = 0) -> dict[str, Any]:
    """Hand leadership over, until it is taken over."""
    return await repeated(lambda: node.admin({"op": "transfer", "target": target}, group))


async def repeated(ask: Callable[[], Awaitable[T]]) -> T:
    """What was asked for, of a node that may be overloaded: it is asked again, as its error says."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Overloaded):
                return await ask()
