"""Reads a whole backup, or the data directory of a node that does not run, and says what it holds.

Every byte that is needed is compared with its checksum, and every state is built. So a backup that was verified can be
restored by this release, and a directory can be recovered from. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from disheap.backup.layout import BackupHead, GroupHead
from disheap.backup.reading import BackupReader
from disheap.errors import StorageError
from disheap.runtime.offline.halves import Half, HalfSearch
from disheap.runtime.offline.states import Contents, OfflineParts, contents_of, restore_state
from disheap.runtime.offline.surviving import Survivor, groups_in, is_damage

Progress = Callable[[int], None]
"""Called with the number of bytes that were read so far."""


class VerifiedGroup(msgspec.Struct, frozen=True):
    """What a backup holds of one group."""

    head: GroupHead
    contents: Contents


class VerifiedBackup(msgspec.Struct, frozen=True):
    """What a backup holds. It is sound. `halves`: transactions that it holds in part only."""

    head: BackupHead
    groups: list[VerifiedGroup]
    file_bytes: int
    halves: list[Half]


def verify_backup(parts: OfflineParts, read: Callable[[int], bytes], name: str, progress: Progress) -> VerifiedBackup:
    """Read a backup to its end. Raises `BackupDamaged`, `SnapshotDamaged`, `VersionUnsupported` and `PluginError`."""
    reader = BackupReader(read, name, parts.codec)
    groups, search = [], HalfSearch()
    for head in reader.groups():
        state = parts.fresh_state(head.group, head.machine)
        restore_state(state, reporting(reader, progress))
        search.add(head.group, state.machine)
        groups.append(VerifiedGroup(head, contents_of(state)))
    return VerifiedBackup(reader.head, groups, reader.file_bytes, search.found)


def reporting(reader: BackupReader, progress: Progress) -> Iterator[bytes]:
    """The pieces of the group that is being read."""
    for piece in reader.pieces():
        progress(reader.file_bytes)
        yield piece


class VerifiedDirectory(msgspec.Struct, frozen=True):
    """What a group's data hold. `problems`: what is damaged; the data are sound if there are none. `spare_problems`:
    what is damaged of snapshots that are not needed for the state, unless another one is damaged, too. `snapshots`:
    the entries of all snapshots. `note`: what a crash has left at the end of the log, which a node settles by
    itself. `is_removed`: the cluster had removed the node. `rebuilt_index`: the last entry of the state that could be
    built; `contents` is None if none could be."""

    group: int
    problems: list[str]
    cluster_id: str = ""
    node_id: int = 0
    name: str = ""
    term: int = 0
    snapshot_index: int = 0
    first_index: int = 0
    last_index: int = 0
    last_term: int = 0
    rebuilt_index: int = 0
    time_ms: int = 0
    members: list[str] = []
    snapshots: list[int] = []
    spare_problems: list[str] = []
    note: str = ""
    is_removed: bool = False
    contents: Contents | None = None


def verify_directory(parts: OfflineParts, data_dir: Path, progress: Progress) -> list[VerifiedDirectory]:
    """Read the data of all groups. `progress` is called with the entries that were applied. Raises `StorageLocked`
    while the node runs, `WrongDirectory`, `WrongCodec`, `DiskFailed`, `VersionUnsupported` and `ConfigError`."""
    return [_verify_group(parts, data_dir, group, progress) for group in groups_in(data_dir)]


def _verify_group(parts: OfflineParts, data_dir: Path, group: int, progress: Progress) -> VerifiedDirectory:
    try:
        survivor = Survivor(parts, data_dir, group)
    except StorageError as error:
        if not is_damage(error):
            raise
        return VerifiedDirectory(group, [str(error)])
    try:
        spare_problems = survivor.check_spare()  # first: it frees its states
        found, rebuilt = survivor.found, survivor.rebuild(progress)
        problems = survivor.problems()
        if rebuilt.stopped and not problems:
            problems = [rebuilt.stopped]
        return VerifiedDirectory(
            group=group,
            problems=problems,
            cluster_id=found.identity.cluster_id,
            node_id=found.identity.node_id,
            name=found.identity.name,
            term=found.hard_state.term,
            snapshot_index=found.snapshot.index if found.snapshot else 0,
            first_index=found.first_index,
            last_index=max(found.last_index, rebuilt.applied.index),
            last_term=found.last_term,
            rebuilt_index=rebuilt.applied.index,
            time_ms=rebuilt.applied.time_ms,
            members=survivor.members(),
            snapshots=[index for index, _ in found.snapshots],
            spare_problems=spare_problems,
            note=found.torn,
            is_removed=found.is_removed,
            contents=contents_of(rebuilt.state),
        )
    finally:
        survivor.close()
