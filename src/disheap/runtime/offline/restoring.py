"""Makes a new cluster of a backup.

Every member of a static list restores the same file, and gets the same state. Otherwise one node founds the cluster
(`bootstrap`), and the others join it with empty directories.
Sessions of the old cluster end: their clients cannot come back under another cluster id. Their leases end, and the
messages return to their places. Delays and lifetimes are absolute log time, and log time goes on from the backup. The
first leader moves it to its wall clock, as after any time in which the cluster was down.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from disheap.backup.layout import BackupHead
from disheap.backup.reading import BackupReader
from disheap.config.node_config import NodeConfig, check_cluster
from disheap.errors import ConfigError
from disheap.runtime.offline.founding import Founding, log_time_of
from disheap.runtime.offline.halves import Half, HalfSearch
from disheap.runtime.offline.states import Contents, OfflineParts, begin_anew, contents_of, restore_state
from disheap.runtime.offline.verifying import Progress, reporting


class RestoredGroup(msgspec.Struct, frozen=True):
    """What a group of the new cluster begins with."""

    group: int
    index: int
    term: int
    time_ms: int
    ended_sessions: int
    contents: Contents


class Restored(msgspec.Struct, frozen=True):
    """The new cluster. `halves`: transactions that it has in part only."""

    cluster_id: str
    from_cluster_id: str
    groups: list[RestoredGroup]
    halves: list[Half]


Confirm = Callable[[int, int], bool]
"""Asked with the end of a log (log time) and its age, both in milliseconds: whether this machine's clock is right."""


def restore_backup(
    parts: OfflineParts,
    founding: Founding,
    read: Callable[[int], bytes],
    name: str,
    progress: Progress,
    confirm: Confirm,
) -> Restored | None:
    """Fill the directory of `founding` from a backup, and finish it. Returns None if `confirm` says no. Raises
    `BackupDamaged`, `SnapshotDamaged`, `VersionUnsupported`, `ConfigError` and `StorageError`; then nothing is left."""
    config = parts.config
    check_cluster(config)
    if config.join_addresses:
        raise ConfigError(
            "a node that joins a cluster gets its data from the others. Restore the node that founds it (bootstrap), "
            "and let this one join with an empty directory"
        )
    reader = BackupReader(read, name, parts.codec)
    _check_fits(config, reader.head)
    founding.begin(f"{reader.head.cluster_id} {reader.head.created_ms}")
    groups: list[RestoredGroup] = []
    search = HalfSearch()
    for head in reader.groups():
        parts.check_machine(head.group, head.machine)
        time_ms = log_time_of(founding, head.time_ms, partial(confirm, head.time_ms))
        if time_ms is None:
            return None
        state = parts.fresh_state(head.group, head.machine)
        restore_state(state, reporting(reader, progress))
        search.add(head.group, state.machine)
        ended = begin_anew(state, head.time_ms)
        founding.add(head.group, head.index, head.term, time_ms, state)
        groups.append(RestoredGroup(head.group, head.index, head.term, time_ms, ended, contents_of(state)))
    founding.finish()
    return Restored(founding.cluster_id, reader.head.cluster_id, groups, search.found)


def _check_fits(config: NodeConfig, head: BackupHead) -> None:
    if config.groups != head.groups:
        raise ConfigError(
            f"the backup has {head.groups} groups, and the configuration says groups = {config.groups}. Set it to "
            f"{head.groups}; nothing was changed"
        )
