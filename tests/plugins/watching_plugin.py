"""A plugin that implements every observer hook and brings services: for the tests of both, and an example of each."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from tests.support.nodes import TestRegistry

from disheap.errors import ConfigError
from disheap.interfaces import Provenance, ServiceContext
from disheap.plugins import hookimpl

Facts = tuple[str, dict[str, Any]]


class Settings(msgspec.Struct, frozen=True):
    greeting: str = "hello"


class Echo:
    """Listens on a free port of this machine and answers each line with the greeting and the node's role."""

    name, api, Settings = "echo", 1, Settings

    def __init__(self, settings: Settings, context: ServiceContext) -> None:
        self._settings, self._context = settings, context
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        status = await self._context.status()
        writer.write(f"{self._settings.greeting} from {self._context.node}, {status['role']}\n".encode())
        writer.close()


class Unstartable:
    """Raises what its user has to change."""

    name, api, Settings = "unstartable", 1, Settings
    stopped = 0

    def __init__(self, settings: Settings, context: ServiceContext) -> None: ...

    async def start(self) -> None:
        raise ConfigError("port 80 needs a privilege that this user does not have; choose another port")

    async def stop(self) -> None:
        Unstartable.stopped += 1


class Unstoppable:
    """Fails while it stops."""

    name, api, Settings = "unstoppable", 1, Settings

    def __init__(self, settings: Settings, context: ServiceContext) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None:
        raise RuntimeError("a bug of this service")


class Leaky(Echo):
    """Leaves a task behind."""

    name = "leaky"

    async def start(self) -> None:
        self.task = asyncio.ensure_future(asyncio.sleep(60))

    async def stop(self) -> None: ...


class Watcher:
    """A plugin module, as an object: every observer hook, noted in `facts`."""

    def __init__(self) -> None:
        self.facts: list[Facts] = []

    def told(self, hook: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.facts if name == hook]

    @hookimpl
    def disheap_register_service(self) -> list[type[Any]]:
        return [Echo, Leaky, Unstartable, Unstoppable]

    @hookimpl
    def disheap_leader_changed(self, node: str, group: int, term: int, leader: str) -> None:
        self.facts.append(("leader_changed", {"node": node, "group": group, "term": term, "leader": leader}))

    @hookimpl
    def disheap_member_changed(self, node: str, group: int, index: int, members: tuple[str, ...]) -> None:
        self.facts.append(("member_changed", {"node": node, "group": group, "index": index, "members": members}))

    @hookimpl
    def disheap_snapshot_taken(self, node: str, group: int, index: int, size_bytes: int) -> None:
        self.facts.append(("snapshot_taken", {"node": node, "group": group, "index": index, "size_bytes": size_bytes}))

    @hookimpl
    def disheap_quarantined(self, node: str, group: int, reason: str) -> None:
        self.facts.append(("quarantined", {"node": node, "group": group, "reason": reason}))

    @hookimpl
    def disheap_damage_found(self, node: str, what: str) -> None:
        self.facts.append(("damage_found", {"node": node, "what": what}))

    @hookimpl
    def disheap_session_expired(self, node: str, session: int, label: str) -> None:
        self.facts.append(("session_expired", {"node": node, "session": session, "label": label}))


class Raising:
    """An observer with a bug."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def disheap_leader_changed(self, leader: str) -> None:
        self.calls += 1
        raise RuntimeError(f"cannot send a mail about {leader}")


class _EntryPoint:
    def __init__(self, module: object) -> None:
        self.load = lambda: module


def registry_with(*modules: object) -> TestRegistry:
    """What is installed, and these modules of hooks as if each were a distribution of its own."""
    registry = TestRegistry.load()
    for module in modules:
        name = type(module).__name__.lower()
        registry._load_hooks(_EntryPoint(module), Provenance(f"disheap-{name}", "1", name))  # type: ignore[arg-type]
    return registry
