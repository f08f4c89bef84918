"""Storages that break one rule each, made from the shipped `file`, which keeps all of them.

Some lie themselves, and some believe a filesystem that lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from unittest.mock import patch

from disheap.errors import DiskFailed, StorageFull
from disheap.interfaces import Identity, Inspected, KnownPeers, Recovered, StorageContext, StorageUsage
from disheap.kernel.types import Entry, EntryKind, HardState, Index, NodeId, SnapshotMeta, Term
from disheap_filelog import opening
from disheap_filelog.filesystem import File, Filesystem, OsFilesystem
from disheap_filelog.guard import Guard
from disheap_filelog.settings import FileSettings
from disheap_filelog.storage import FileStorage


class LyingFile:
    def __init__(self, inner: File, path: str) -> None:
        self.inner, self.path = inner, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def sync(self) -> None:
        self.inner.sync()


class LyingFilesystem:
    file: ClassVar[type[LyingFile]] = LyingFile

    def __init__(self, inner: Filesystem) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def open(self, path: str) -> Any:
        return self.file(self.inner.open(path), path)

    def create(self, path: str) -> Any:
        return self.file(self.inner.create(path), path)


class Believing(FileStorage):
    """Runs on a filesystem that lies."""

    lie: ClassVar[type[LyingFilesystem]] = LyingFilesystem

    def __init__(self, settings: FileSettings, context: StorageContext, filesystem: Filesystem | None = None) -> None:
        super().__init__(settings, context, self.lie(filesystem or OsFilesystem()))  # type: ignore[arg-type]


class NoSyncOnLoop(LyingFilesystem):
    on_loop = False

    def __init__(self, inner: Filesystem) -> None:
        super().__init__(inner)
        lie = self

        class LoopFile(LyingFile):
            def sync(self) -> None:
                if not lie.on_loop:
                    super().sync()

        self.file = LoopFile  # type: ignore[misc]


class UnsyncedOnLoop(Believing):
    """Syncs on the disk's thread alone."""

    lie = NoSyncOnLoop

    def append_on_loop(self, entries: Sequence[Entry]) -> None:
        self._filesystem.on_loop = True  # type: ignore[attr-defined]
        super().append_on_loop(entries)
        self._filesystem.on_loop = False  # type: ignore[attr-defined]


# --- syncs -----------------------------------------------------------------------------------------------------------


class NoSync(LyingFilesystem):
    class file(LyingFile):
        def sync(self) -> None: ...


class NeverSyncs(Believing):
    """Leaves it to the system when something reaches the disk."""

    lie = NoSync


class NoVoteSync(LyingFilesystem):
    class file(LyingFile):
        def sync(self) -> None:
            if "/meta" not in self.path:
                self.inner.sync()


class UnsyncedVote(Believing):
    """Syncs the log alone."""

    lie = NoVoteSync


class NoSnapshotSync(LyingFilesystem):
    class file(LyingFile):
        def sync(self) -> None:
            if "/snapshot" not in self.path:
                self.inner.sync()


class UnsyncedSnapshot(Believing):
    """Renames a snapshot whose contents are not on the disk."""

    lie = NoSnapshotSync


class NoNameSync(LyingFilesystem):
    def sync_directory(self, path: str) -> None: ...


class UnsyncedNames(Believing):
    """Does not know that a rename has to be synced."""

    lie = NoNameSync


class SecondTry(LyingFilesystem):
    class file(LyingFile):
        def sync(self) -> None:
            try:
                self.inner.sync()
            except OSError:
                self.inner.sync()


class SyncsAgain(Believing):
    """Tries a sync again that has failed."""

    lie = SecondTry


class ReusedNames(LyingFilesystem):
    def rename(self, source: str, target: str) -> None:
        place, _, number = target.rpartition("log-")
        self.inner.rename(source, f"{place}log-{1 + (int(number) - 1) % 2:020d}" if number.isdigit() else target)


class ReusesNames(Believing):
    """Begins a file of the log under the name of an older one."""

    lie = ReusedNames


class OpenLock(LyingFilesystem):
    def lock(self, path: str) -> Any:
        return self.inner.create(path)


class IgnoredLock(Believing):
    """Opens a directory that is open already."""

    lie = OpenLock


class BelievesInItsFiles(FileStorage):
    """Confirms what it writes to files that were removed."""

    def _check_in_place(self, *files: Any) -> None: ...


# --- appending -------------------------------------------------------------------------------------------------------


class Buffered(FileStorage):
    """Gathers what is appended, and writes it when it is read or closed."""

    def __init__(self, settings: FileSettings, context: StorageContext, filesystem: Filesystem | None = None) -> None:
        super().__init__(settings, context, filesystem)
        self.waiting: list[Entry] = []

    def append(self, entries: Sequence[Entry]) -> None:
        self.waiting += entries

    def write(self) -> None:
        waiting, self.waiting = self.waiting, []
        super().append(waiting)

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        self.write()
        return super().read(first, last, max_bytes)

    def close(self) -> None:
        if self.waiting:
            self.write()
        super().close()


class LateFull(FileStorage):
    """Says with the next call that the disk was full."""

    late: StorageFull | None = None

    def append(self, entries: Sequence[Entry]) -> None:
        if self.late is not None:
            raise self.late
        try:
            super().append(entries)
        except StorageFull as error:
            self.late = error


class FatalFull(FileStorage):
    """Takes a full disk for one that fails."""

    def append(self, entries: Sequence[Entry]) -> None:
        try:
            super().append(entries)
        except StorageFull as error:
            raise DiskFailed(str(error)) from error


class ForgivingStorage(FileStorage):
    """Goes on after an error of the disk."""

    def append(self, entries: Sequence[Entry]) -> None:
        try:
            super().append(entries)
        except DiskFailed:
            self._guard = Guard(self._directory)
            self._guard.opened()
            raise


class BareErrors(FileStorage):
    """Raises what the system raises."""

    def append(self, entries: Sequence[Entry]) -> None:
        try:
            super().append(entries)
        except DiskFailed as error:
            raise OSError(str(error)) from error


class UnnoticedLoss(FileStorage):
    """Writes into files that were removed, and confirms it."""

    def _check_in_place(self, *files: Any) -> None: ...

    def _check_all_in_place(self) -> None: ...


class ShowsSuperseded(FileStorage):
    """Goes on behind the end of the log with entries that were superseded."""

    def __init__(self, settings: FileSettings, context: StorageContext, filesystem: Filesystem | None = None) -> None:
        super().__init__(settings, context, filesystem)
        self.seen: dict[int, Entry] = {}

    def append(self, entries: Sequence[Entry]) -> None:
        super().append(entries)
        self.seen |= {entry.index: entry for entry in entries}

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        found = super().read(first, last, max_bytes)
        return found or tuple(self.seen[index] for index in (first,) if index in self.seen)


# --- opening ---------------------------------------------------------------------------------------------------------


class ForgottenVote(FileStorage):
    """Votes anew after a restart."""

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        return super().open(identity, tail_bytes, alone)._replace(hard_state=HardState(Term(0), NodeId(0)))


class NewIncarnation(FileStorage):
    """Takes the incarnation that it is given for its own."""

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        return super().open(identity, tail_bytes, alone)._replace(identity=identity)


class LostMemberships(FileStorage):
    """Does not look for changes of the membership."""

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        return super().open(identity, tail_bytes, alone)._replace(memberships=())


class EndlessTail(FileStorage):
    """Gives the whole log at once."""

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        return super().open(identity, 1 << 40, alone)


class IgnoredAmbiguity(FileStorage):
    """Takes a torn end for the end."""

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        return super().open(identity, tail_bytes, alone)._replace(ambiguous_after=None)


class ShortAmbiguity(FileStorage):
    """Tells of an ambiguity once."""

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        recovered = super().open(identity, tail_bytes, alone)
        if recovered.ambiguous_after is not None:
            self.clear_ambiguity()
        return recovered


class DroppedDamage(FileStorage):
    """Cuts the log off where it is damaged."""

    def __init__(self, settings: FileSettings, context: StorageContext, filesystem: Filesystem | None = None) -> None:
        super().__init__(settings, context, filesystem)
        self.parts = (settings, context, filesystem)

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        recovered = super().open(identity, tail_bytes, alone)
        if not recovered.damaged:
            return recovered
        self.cut(recovered.damaged[0].first)
        self.close()
        type(self).__init__(self, *self.parts)
        return self.open(identity, tail_bytes, alone)._replace(ambiguous_after=None)


class TornEntry(DroppedDamage):
    """Takes what is there of a torn entry for the entry."""

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        recovered = FileStorage.open(self, identity, tail_bytes, alone)
        if recovered.ambiguous_after is None or recovered.is_damaged:
            return recovered
        index, term = Index(recovered.last_index + 1), recovered.hard_state.term
        self.append([Entry(term, index, EntryKind.COMMANDS, 0, b"half of it")])
        self.clear_ambiguity()
        self.close()
        type(self).__init__(self, *self.parts)
        return FileStorage.open(self, identity, tail_bytes, alone)


# --- snapshots, members, the rest ------------------------------------------------------------------------------------


class ShortReader:
    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.meta: SnapshotMeta = inner.meta

    def read(self, offset: int, size: int) -> bytes:
        found: bytes = self.inner.read(offset, min(size, 1000))
        return found

    def close(self) -> None:
        self.inner.close()


class ShortReads(FileStorage):
    """Reads a snapshot in pieces of its own size."""

    def open_snapshot(self, index: Index | None = None) -> Any:
        reader = super().open_snapshot(index)
        return None if reader is None else ShortReader(reader)


class GreedyCompaction(FileStorage):
    """Says that it has dropped more than it was asked to."""

    def compact(self, first_index: Index) -> Index:
        super().compact(first_index)
        return Index(first_index + 5)


class ForgottenMembers(FileStorage):
    """Keeps in memory whom the node has met."""

    met = KnownPeers(False, ())

    def known_peers(self) -> KnownPeers:
        return self.met

    def save_known_peers(self, peers: KnownPeers) -> None:
        self.met = peers


class StillUsage(FileStorage):
    """Never finds that a snapshot is due."""

    def usage(self) -> StorageUsage:
        return super().usage()._replace(log_bytes_since_snapshot=0)


class RepairingLook(FileStorage):
    """Prepares the log for writing while an operator only looks."""

    def inspect(self) -> Inspected | None:
        found = super().inspect()
        if found is not None:
            self._log.rotate()
        return found


class LookWithoutLock(FileStorage):
    """Reads what a node writes."""

    def inspect(self) -> Inspected | None:
        with patch.object(
            opening, "lock_directory", lambda filesystem, directory: filesystem.open(f"{directory}/lock")
        ):
            return super().inspect()


RIGHT = FileStorage
MEANT: dict[type[FileStorage], str] = {
    NeverSyncs: "test_an_append_that_returned_is_synced",
    UnsyncedOnLoop: "test_an_append_on_the_loop_that_returned_is_synced",
    UnsyncedVote: "test_term_and_vote_and_members_that_were_saved_are_synced",
    UnsyncedSnapshot: "test_a_snapshot_that_was_committed_is_synced_with_its_name",
    UnsyncedNames: "test_a_snapshot_that_was_committed_is_synced_with_its_name",
    SyncsAgain: "test_a_disk_that_fails_once_is_not_trusted_again",
    ForgivingStorage: "test_a_disk_that_fails_once_is_not_trusted_again",
    ReusesNames: "test_an_append_that_returned_is_synced",
    IgnoredLock: "test_a_storage_that_is_open_cannot_be_opened_again",
    BelievesInItsFiles: "test_a_write_to_data_that_were_taken_away_is_not_confirmed",
    Buffered: "test_what_was_acknowledged_survives_a_kill",
    LateFull: "test_a_full_disk_is_said_by_the_append_that_needs_room",
    FatalFull: "test_a_full_disk_is_said_by_the_append_that_needs_room",
    BareErrors: "test_what_was_acknowledged_survives_files_that_cannot_grow",
    RepairingLook: "test_a_look_at_the_data_finds_everything_and_changes_nothing",
    LookWithoutLock: "test_a_look_at_data_in_use_is_refused",
    UnnoticedLoss: "test_a_write_to_data_that_were_taken_away_is_not_confirmed",
    ShowsSuperseded: "test_a_later_append_supersedes_what_is_stored_from_there_on",
    ForgottenVote: "test_hard_state_survives",
    NewIncarnation: "test_the_incarnation_stored_wins_over_the_one_given",
    LostMemberships: "test_memberships_after_the_snapshot_are_found_and_superseded_ones_are_not",
    EndlessTail: "test_the_tail_is_bounded_by_bytes_and_ends_at_the_last_entry",
    IgnoredAmbiguity: "test_a_torn_end_stays_ambiguous_until_it_is_cleared",
    ShortAmbiguity: "test_a_torn_end_stays_ambiguous_until_it_is_cleared",
    DroppedDamage: "test_a_file_with_a_flipped_bit_is_refused_or_told_or_makes_no_difference",
    TornEntry: "test_a_power_cut_at_any_write_loses_nothing_that_was_acknowledged",
    ShortReads: "test_a_snapshot_is_read_from_any_offset",
    GreedyCompaction: "test_compaction_keeps_what_is_asked_for_and_tells_what_it_holds",
    ForgottenMembers: "test_remembered_members_are_known_when_the_storage_is_opened_again",
    StillUsage: "test_usage_grows_with_the_log_and_counts_from_the_snapshot",
}
