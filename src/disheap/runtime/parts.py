"""From a node's settings to its parts: each plugin found, given its table of settings and what it may touch.

Owns nothing that runs. A storage is made anew each time it is opened, a machine for each state that there is.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.interfaces import (
    Clock,
    CodecContext,
    CommandSizing,
    MachineContext,
    StateMachine,
    Storage,
    StorageContext,
    Transport,
    TransportContext,
)
from disheap.plugins.registry import Registry
from disheap.runtime import tuning


class Parts:
    """Builds the plugins of a node from its configuration."""

    def __init__(self, config: NodeConfig, registry: Registry, clock: Clock, random_generator: random.Random) -> None:
        self._config = config
        self._registry = registry
        self._clock = clock
        self._random = random_generator

    def transport(self, use: str, loop: asyncio.AbstractEventLoop) -> Transport:
        """`use` is "transport", between nodes, or "client_transport", which is the same unless it is set."""
        config = self._config
        name = (config.client_transport if use == "client_transport" else "") or config.transport
        return self._registry.build("transport", name, config.table("transport"), TransportContext(loop), config.source)

    def storage(self, group: int) -> Storage:
        """The storage of one group. It is not opened yet."""
        config, registry = self._config, self._registry
        codec = registry.codec(config.codec, config.table("codec"), CodecContext(self._random), config.source)
        directory = str(Path(config.data_dir) / "groups" / str(group))
        context = StorageContext(directory, codec, config.codec, self._clock, self._random)
        return registry.build("storage", config.storage, config.table("storage"), context, config.source)

    def machine(self) -> StateMachine:
        """In its first state."""
        config = self._config
        return self._registry.build("machine", config.machine, config.table("machine"), MachineContext(), config.source)

    def max_command_bytes(self) -> int:
        """Of the machine's largest command; 0 where it does not say."""
        plugin = self._registry.get("machine", self._config.machine)
        return plugin.max_command_bytes(self._machine_settings()) if issubclass(plugin, CommandSizing) else 0

    def settings_digest(self) -> str:
        """Of all settings that decide replies."""
        return tuning.shared_settings_digest(self._config, self._machine_settings())

    def constants_digests(self) -> dict[int, str]:
        """Of the machine's constants, by version."""
        return tuning.constants_digests(self._registry.get("machine", self._config.machine))

    def _machine_settings(self) -> msgspec.Struct:
        config = self._config
        table = config.table("machine").get(config.machine, {})
        settings: msgspec.Struct = self._registry.settings("machine", config.machine, table, config.source)
        return settings
