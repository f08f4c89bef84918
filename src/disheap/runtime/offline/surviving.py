"""Reads the data directory of a node that does not run: what it holds, what is damaged, and the state it stands for.

Nothing in the directory changes. Needs a storage with the power `Inspectable`. The state is built from the newest
snapshot and the log behind it, up to the first entry that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from disheap.errors import (
    ConfigError,
    DiskFailed,
    LogDamaged,
    SnapshotDamaged,
    StorageError,
    StorageLocked,
    WrongCodec,
    WrongDirectory,
)
from disheap.interfaces import Inspectable, Inspected, Storage
from disheap.kernel import membership
from disheap.kernel.types import Entry, EntryKind, Index, Membership, SnapshotMeta, Term
from disheap.runtime.membership.directory import AddressBook
from disheap.runtime.offline.founding import GROUPS
from disheap.runtime.offline.states import OfflineParts, restore_state
from disheap.runtime.state.sessions import Sessions
from disheap.runtime.state.snapshot_source import pieces

READ_BYTES = 1 << 20
"""How much of the log or of a snapshot is read at once."""
REMOVED = "its cluster had removed this node, so it lacks what came after: use another node's data if there are any"
NOTHING = SnapshotMeta(Index(0), Term(0), 0, Membership(()))
"""Where a log without a snapshot begins. Its first members may be in the configuration alone."""

Applied = Callable[[int], None]
"""Called with the index that the state has come to."""


class Rebuilt(NamedTuple):
    """The state of a group, and up to where it was built. `stopped`: why it was not built up to the end of the log; ""
    if it was."""

    state: Sessions
    applied: SnapshotMeta
    stopped: str


class Survivor:
    """A group's data. Locked from `__init__` until `close`."""

    def __init__(self, parts: OfflineParts, data_dir: Path, group: int) -> None:
        """Raises `StorageError` and `ConfigError`."""
        storage = parts.storage(data_dir, group)
        if not isinstance(storage, Inspectable):
            raise ConfigError(f"storage {parts.config.storage!r} cannot be read without its node (power Inspectable)")
        self._machine = machine_of(parts, group)
        found = storage.inspect()
        if found is None:
            raise WrongDirectory(f"{data_dir} holds no data of group {group}: it was never used, or something is lost")
        self.group = group
        self.found: Inspected = found
        self._parts = parts
        self._storage: Storage = storage

    def close(self) -> None:
        """Frees the lock."""
        self._storage.close()

    def problems(self) -> list[str]:
        """What is damaged."""
        found = self.found
        damaged = [
            f"entries {one.first} to {one.last} of term {one.term} cannot be read ({one.file}, byte {one.offset})"
            for one in found.damaged
        ]
        return damaged + ([f"a snapshot is lost: {found.lost_snapshot.reason}"] if found.lost_snapshot else [])

    def check_spare(self) -> list[str]:
        """Builds the states of the snapshots that are not the one to begin with. Returns what is damaged of them."""
        found: list[str] = []
        own = self._begin.index
        for index, term in self.found.snapshots:
            if index == own:
                continue
            try:
                self._restore(self._parts.fresh_state(self.group, self._machine), index)
            except SnapshotDamaged as error:
                rest = (
                    f"the newer one, at entry {own}, suffices"
                    if index < own
                    else f"the one before, at entry {own}, and the log are to stand in for it"
                    if own
                    else "the log from its first entry on is to stand in for it"
                )
                found.append(f"the snapshot at entry {index} of term {term} is damaged ({error}); {rest}")
        return found

    @property
    def last_readable(self) -> int:
        """The last entry that the state can be built up to."""
        found, at = self.found, self._begin
        if found.first_index > at.index + 1:
            return at.index
        damaged = [one.first - 1 for one in found.damaged if one.last > at.index]
        return max(at.index, min([found.last_index, *damaged]))

    def members(self) -> list[str]:
        """The names of the newest members that the data name. Empty if only the configuration has them."""
        found = self.found
        newest = membership.decode(found.memberships[-1][1]) if found.memberships else self._begin.membership
        book = AddressBook(newest)
        return [book.label(member) for member in book.ids()]

    def rebuild(self, applied: Applied) -> Rebuilt:
        """Build the state, as a node does when it starts. Raises `VersionUnsupported`, `DiskFailed` and
        `PluginError`."""
        state = self._parts.fresh_state(self.group, self._machine)
        at = self._begin
        try:
            if self.found.snapshot is not None:
                self._restore(state, self.found.snapshot.index)
        except SnapshotDamaged as error:
            return Rebuilt(self._parts.fresh_state(self.group, self._machine), NOTHING, str(error))
        end, stopped = self.last_readable, "; ".join(self.problems())
        while at.index < end:
            try:
                entries = self._storage.read(Index(at.index + 1), Index(end), READ_BYTES)
            except LogDamaged as error:
                return Rebuilt(state, at, str(error))
            for entry in entries:
                at = _apply(state, at, entry)
            applied(at.index)
        return Rebuilt(state, at, stopped if end < self.found.last_index or self.found.lost_snapshot else "")

    @property
    def _begin(self) -> SnapshotMeta:
        return self.found.snapshot or NOTHING

    def _restore(self, state: Sessions, index: int) -> None:
        reader = self._storage.open_snapshot(Index(index))
        if reader is None:
            raise SnapshotDamaged(f"the snapshot at entry {index} is gone")
        try:
            restore_state(state, pieces(reader, READ_BYTES))
        finally:
            reader.close()


def _apply(state: Sessions, at: SnapshotMeta, entry: Entry) -> SnapshotMeta:
    members = at.membership
    if entry.kind == EntryKind.COMMANDS:
        state.apply(entry)
    else:
        state.apply(entry._replace(data=b""))  # to the machine only its time matters
        if entry.kind == EntryKind.MEMBERSHIP:
            members = membership.decode(entry.data)
    return SnapshotMeta(entry.index, entry.term, entry.time_ms, members)


def machine_of(parts: OfflineParts, group: int) -> str:
    """The machine of a group. Raises `ConfigError` if the configuration names machines, and not this group's."""
    names = parts.config.group_machines
    if names and group >= len(names):
        raise ConfigError(f"group_machines names {len(names)} machines, and the directory holds group {group}")
    return parts.config.machine_of(group)


def groups_in(data_dir: Path) -> list[int]:
    """The numbers of the groups in a data directory. Raises `WrongDirectory` if there are none."""
    try:
        found = sorted(int(path.name) for path in (data_dir / GROUPS).iterdir() if path.name.isdigit())
    except OSError as error:
        raise WrongDirectory(
            f"{data_dir} is no data directory of a node ({error.strerror}); name the one that has `{GROUPS}` in it"
        ) from None
    if found != list(range(len(found))) or not found:
        raise WrongDirectory(f"{data_dir} holds the groups {found}, and a node has all from 0 on; some are lost")
    return found


NO_DAMAGE = (StorageLocked, WrongCodec, DiskFailed, WrongDirectory)
"""Errors that say nothing about the data."""


def is_damage(error: StorageError) -> bool:
    """Whether the error says that data are damaged, and not that they cannot be looked at."""
    return not isinstance(error, NO_DAMAGE)
