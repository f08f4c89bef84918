"""Builds a node's plugins from its settings. Each plugin gets its table of settings and its context. Owns nothing that
runs. A storage is made anew each time it is opened, a machine for each state that there is.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.errors import WrongDirectory
from disheap.interfaces import (
    Clock,
    CodecContext,
    CommandSizing,
    Forwarding,
    MachineContext,
    StateMachine,
    Storage,
    StorageContext,
    Transport,
    TransportContext,
)
from disheap.plugins.registry import Registry
from disheap.protocol.peers import PeerGroup
from disheap.runtime import tuning


class Parts:
    """Builds the plugins of a node from its configuration."""

    def __init__(self, config: NodeConfig, registry: Registry, clock: Clock, random_generator: random.Random) -> None:
        self._config = config
        self._registry = registry
        self._clock = clock
        self._random = random_generator

    @property
    def _groups_dir(self) -> Path:
        return Path(self._config.data_dir, "groups")

    def check_groups(self) -> None:
        """Raises `WrongDirectory` if the data directory has groups that the settings leave out."""
        if not self._config.data_dir or not self._groups_dir.is_dir():
            return
        held = [int(path.name) for path in self._groups_dir.iterdir() if path.name.isdigit()]
        left_out = sorted(group for group in held if group >= self._config.groups)
        if left_out:
            raise WrongDirectory(
                f"{self._config.data_dir} has data of the groups {left_out}, and groups is {self._config.groups}: "
                f"their messages would be out of reach. Set groups to {left_out[-1] + 1}; nothing was changed"
            )

    def transport(self, use: str, loop: asyncio.AbstractEventLoop) -> Transport:
        """`use` is "transport", between nodes, or "client_transport", which is the same unless it is set."""
        config = self._config
        name = (config.client_transport if use == "client_transport" else "") or config.transport
        return self._registry.build("transport", name, config.table("transport"), TransportContext(loop), config.source)

    def storage(self, group: int) -> Storage:
        """The storage of one group. It is not opened yet."""
        config, registry = self._config, self._registry
        codec = registry.codec(config.codec, config.table("codec"), CodecContext(self._random), config.source)
        directory = str(self._groups_dir / str(group))
        context = StorageContext(directory, codec, config.codec, self._clock, self._random)
        return registry.build("storage", config.storage, config.table("storage"), context, config.source)

    def machine(self, group: int) -> StateMachine:
        """The machine of a group, in its first state."""
        config = self._config
        name, table = config.machine_of(group), config.table("machine")
        return self._registry.build("machine", name, table, MachineContext(group), config.source)

    def taking_groups(self) -> list[int]:
        """The groups whose machines take messages of other groups."""
        config = self._config
        kinds = [self._registry.get("machine", config.machine_of(group)) for group in range(config.groups)]
        return [group for group, kind in enumerate(kinds) if issubclass(kind, Forwarding)]

    def max_command_bytes(self) -> int:
        """The bytes of the largest command of any group's machine; 0 if no machine bounds its commands."""
        return max(map(self._max_command_bytes, range(self._config.groups)))

    def _max_command_bytes(self, group: int) -> int:
        plugin = self._registry.get("machine", self._config.machine_of(group))
        return plugin.max_command_bytes(self._machine_settings(group)) if issubclass(plugin, CommandSizing) else 0

    def describe(self, group: int, incarnation: int) -> PeerGroup:
        """What a cluster is told of a replica that has not been opened yet."""
        name = self._config.machine_of(group)
        versions = self._registry.get("machine", name).versions
        return PeerGroup(incarnation, name, versions, self.settings_digest(group), self.constants_digests(group))

    def settings_digest(self, group: int) -> str:
        """The digest of all settings that decide replies of the group."""
        return tuning.shared_settings_digest(self._config, self._machine_settings(group))

    def constants_digests(self, group: int) -> dict[int, str]:
        """The digests of the constants of the group's machine, by version."""
        return tuning.constants_digests(self._registry.get("machine", self._config.machine_of(group)))

    def _machine_settings(self, group: int) -> msgspec.Struct:
        config = self._config
        name = config.machine_of(group)
        table = config.table("machine").get(name, {})
        settings: msgspec.Struct = self._registry.settings("machine", name, table, config.source)
        return settings
