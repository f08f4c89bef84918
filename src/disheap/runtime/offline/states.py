"""Builds the state of a group outside of a node. Owns the parts that this needs: the machine, the codec, the storage.
Keeps one state in memory, as a node does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError
from disheap.interfaces import Codec, CodecContext, Forwarding, MachineContext, Storage, StorageContext
from disheap.plugins.registry import Registry
from disheap.runtime import tuning
from disheap.runtime.clocks.log_clock import SystemClock
from disheap.runtime.state.machine_stats import read_stats
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.sessions import Sessions


class Contents(msgspec.Struct, frozen=True):
    """What a state holds, for people."""

    sessions: int
    machine_stats: dict[str, int]


class OfflineParts:
    """Builds plugins by the settings of `config`. `clock` and `random` are the process's own."""

    def __init__(self, config: NodeConfig, registry: Registry) -> None:
        self.config = config
        self.clock = SystemClock()
        self.random = random.Random(os.urandom(16))
        self.registry = registry

    def codec(self, name: str) -> Codec:
        """The codec or chain of codecs of that name. Raises `PluginError`."""
        config = self.config
        return self.registry.codec(name, config.table("codec"), CodecContext(self.random), config.source)

    def storage(self, data_dir: Path, group: int) -> Storage:
        """The storage of a group below `data_dir`. It is not opened. Raises `ConfigError`."""
        config = self.config
        context = StorageContext(
            str(data_dir / "groups" / str(group)), self.codec(config.codec), config.codec, self.clock, self.random
        )
        return self.registry.build("storage", config.storage, config.table("storage"), context, config.source)

    def fresh_state(self, group: int, machine: str) -> Sessions:
        """An empty state of a group with that machine. Raises `ConfigError`."""
        config = self.config
        built = self.registry.build("machine", machine, config.table("machine"), MachineContext(group), config.source)
        return Sessions(built, tuning.session_limits(config), ReplySink())

    def check_machine(self, group: int, machine: str) -> None:
        """Raises `ConfigError` unless the group has that machine in the configuration."""
        if self.config.machine_of(group) != machine:
            raise ConfigError(
                f"group {group} holds the state of machine {machine!r}, and the configuration says "
                f"{self.config.machine_of(group)!r}. Set machine, or group_machines; nothing was changed"
            )


def restore_state(state: Sessions, pieces: Iterable[bytes]) -> None:
    """Fill `state` from a snapshot, and read the pieces to their end. Raises `SnapshotDamaged`, `VersionUnsupported`,
    and what `pieces` raises."""
    rest = iter(pieces)
    state.restore(rest)
    for _ in rest:  # a machine need not ask for the piece behind its last
        pass


def begin_anew(state: Sessions, time_ms: int) -> int:
    """Makes a state of an old cluster the first one of a new cluster. All sessions end at this log time. Messages to
    other groups are numbered anew in all groups, because the states of the groups are not of one moment. Returns how
    many sessions ended."""
    ended = len(state.table)
    state.end_all(time_ms)
    if isinstance(state.machine, Forwarding):
        state.machine.renumber()
    return ended


def contents_of(state: Sessions) -> Contents:
    """What a state holds."""
    return Contents(len(state.table), read_stats(state.machine.stats)[0])
