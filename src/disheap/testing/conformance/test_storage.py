"""What every storage holds to: `interfaces.Storage`. Run over each storage and codec by `disheap.testing.fixtures`.

What happens when the process is killed, the disk is full or the power goes is in `test_storage_faults`.

"Opened again" is a new object over the same place for a storage that is durable, and the same object for one that is
not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from disheap.errors import DiskFailed, StorageError, StorageLocked, WrongDirectory
from disheap.interfaces import Identity, KnownPeers, PeerStore, Recovered, Rereadable, Storage
from disheap.kernel.types import Entry, EntryKind, HardState, Index, NodeId, Term, TermRun
from disheap.testing.conformance.storage_parts import (
    IDENTITY,
    entries,
    entry,
    meta,
    read_all,
    read_log,
    write_snapshot,
)

Factory = Callable[[Path], Storage]

TAIL_BYTES = 1 << 20


class Node:
    """One storage over its restarts."""

    def __init__(self, factory: Factory, directory: Path) -> None:
        self._factory, self.directory = factory, directory
        self.storage = factory(directory)
        self.recovered = self.open()

    def open(self, identity: Identity = IDENTITY, tail_bytes: int = TAIL_BYTES) -> Recovered:
        self.recovered = self.storage.open(identity, tail_bytes, alone=False)
        return self.recovered

    def again(self, tail_bytes: int = TAIL_BYTES) -> Recovered:
        self.storage.close()
        if self.storage.durable:
            self.storage = self._factory(self.directory)
        return self.open(tail_bytes=tail_bytes)

    def read(self, first: int, last: int, max_bytes: int = 1 << 30) -> list[Entry]:
        return read_log(self.storage, first, last, max_bytes)

    def snapshot(self, index: int, raw: bytes = b"state", term: int = 1, replaces_log: bool = False) -> None:
        write_snapshot(self.storage, index, raw, term, replaces_log)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data" / "groups" / "0"


@pytest.fixture
def node(storage_factory: Factory, directory: Path) -> Iterator[Node]:
    node = Node(storage_factory, directory)
    node.storage.save_hard_state(HardState(Term(9), NodeId(1)))
    yield node
    node.storage.close()


# --- opening ------------------------------------------------------------------------------------------------------


def test_an_empty_storage_takes_the_identity_and_says_so(storage_factory: Factory, directory: Path) -> None:
    """A storage that was just made has the identity it was given, and says that it is fresh; once."""
    node = Node(storage_factory, directory)
    assert node.recovered == Recovered(
        IDENTITY, True, HardState(Term(0), NodeId(0)), None, Index(1), Index(0), (), (), (), None
    )
    again = node.again()
    assert (again.fresh, again.identity) == (False, IDENTITY)
    node.storage.close()


def test_the_incarnation_stored_wins_over_the_one_given(node: Node) -> None:
    """The incarnation is drawn when the storage is made, and never again."""
    node.storage.close()
    node.storage = node.storage if not node.storage.durable else node._factory(node.directory)
    other = Identity(IDENTITY.cluster_id, IDENTITY.node_id, IDENTITY.name, incarnation=777)
    assert node.open(other).identity.incarnation == 42


@pytest.mark.parametrize(
    "other",
    [Identity("decaf", 1, "n1", 42), Identity("c0ffee", 2, "n1", 42), Identity("c0ffee", 1, "n2", 42)],
    ids=["cluster", "node id", "name"],
)
def test_data_of_somebody_else_is_refused_with_both_names(node: Node, other: Identity) -> None:
    """`WrongDirectory` for another cluster, node id or name says what is stored and what was asked. Nothing changes."""
    node.storage.append(entries(1, 3))
    node.storage.close()
    node.storage = node.storage if not node.storage.durable else node._factory(node.directory)
    with pytest.raises(WrongDirectory) as caught:
        node.open(other)
    for word in ("c0ffee", other.cluster_id, "n1", other.name):
        assert word in str(caught.value)
    assert node.open().last_index == 3


def test_a_storage_that_is_open_cannot_be_opened_again(node: Node) -> None:
    """`StorageLocked` for a second opening, and the first goes on."""
    second = node._factory(node.directory) if node.storage.durable else node.storage
    with pytest.raises(StorageLocked):
        second.open(IDENTITY, TAIL_BYTES, alone=False)
    node.storage.append(entries(1, 1))
    assert node.again().last_index == 1


def test_a_closed_storage_refuses_everything_but_close(node: Node) -> None:
    """After `close` every call is a `StorageError`; `close` may be called again."""
    node.storage.close()
    node.storage.close()
    with pytest.raises(StorageError):
        node.storage.append(entries(1, 1))
    with pytest.raises(StorageError):
        node.storage.read(Index(1), Index(1), 100)
    with pytest.raises(StorageError):
        node.storage.save_hard_state(HardState(Term(10), NodeId(0)))


def test_a_write_to_data_that_were_taken_away_is_not_confirmed(node: Node) -> None:
    """When the directory of an open storage is removed, an `append` raises `DiskFailed`, or the next opening finds what
    it wrote. A storage that keeps nothing there is not concerned."""
    node.storage.append(entries(1, 3))
    shutil.rmtree(node.directory, ignore_errors=True)
    try:
        node.storage.append([entry(4)])
    except DiskFailed:
        return
    assert node.again().last_index == 4


# --- hard state ---------------------------------------------------------------------------------------------------


def test_hard_state_survives(node: Node) -> None:
    """Term and vote are what was saved last."""
    for term, vote in ((10, 2), (11, 0), (12, 3)):
        node.storage.save_hard_state(HardState(Term(term), NodeId(vote)))
        assert node.again().hard_state == (term, vote)


def test_hard_state_survives_what_happens_to_the_log(node: Node) -> None:
    """Appends, truncations, snapshots and compaction leave term and vote alone."""
    node.storage.append(entries(1, 10))
    node.storage.save_hard_state(HardState(Term(2**40), NodeId(2**33)))
    node.storage.append(entries(3, 4, term=2))
    node.snapshot(4)
    node.storage.compact(Index(5))
    node.snapshot(100, replaces_log=True)
    assert node.again().hard_state == (2**40, 2**33)


# --- the log ------------------------------------------------------------------------------------------------------


def test_entries_come_back_as_they_were(node: Node) -> None:
    """Every field of every kind of entry comes back, with any bytes, before and after a restart."""
    written = [
        Entry(Term(1), Index(1), EntryKind.NOOP, -5, b""),
        Entry(Term(1), Index(2), EntryKind.COMMANDS, 2**62, bytes(range(256)) * 300),
        Entry(Term(2), Index(3), EntryKind.MEMBERSHIP, 7, b"m"),
        Entry(Term(9), Index(4), EntryKind.SNAPSHOT_MARK, 7, b"\0\0"),
    ]
    node.storage.append(written)
    assert node.read(1, 4) == written
    recovered = node.again()
    assert node.read(1, 4) == written
    assert list(recovered.tail) == written


def test_an_append_of_nothing_is_nothing(node: Node) -> None:
    """An append of no entries changes nothing."""
    node.storage.append([])
    assert node.again().last_index == 0


def test_many_appends_are_one_log(node: Node) -> None:
    """Entries of many appends are contiguous, and the log goes on after a restart."""
    for first in range(1, 200, 4):
        node.storage.append(entries(first, first + 3))
    recovered = node.again()
    assert (recovered.first_index, recovered.last_index) == (1, 200)
    assert node.read(1, 200) == entries(1, 200)
    node.storage.append(entries(201, 201))
    assert node.again().tail == tuple(entries(1, 201))


def test_a_later_append_supersedes_what_is_stored_from_there_on(node: Node) -> None:
    """An append within the log ends the log behind it; nothing of what was there comes back."""
    node.storage.append(entries(1, 10))
    node.storage.append(entries(11, 20))
    node.storage.append(entries(5, 6, term=2))
    expected = entries(1, 4) + entries(5, 6, term=2)
    assert node.read(1, 20) == expected
    recovered = node.again()
    assert recovered.last_index == 6
    assert recovered.runs == (TermRun(Index(1), Term(1)), TermRun(Index(5), Term(2)))
    assert list(recovered.tail) == expected
    node.storage.append(entries(7, 8, term=3))
    node.again()
    assert node.read(1, 20) == [*expected, *entries(7, 8, term=3)]


def test_the_whole_log_can_be_superseded_again_and_again(node: Node) -> None:
    """An append at the first index replaces the whole log."""
    for term in range(1, 10):
        node.storage.append(entries(1, 10 - term, term=term))
    assert node.read(1, 100) == entries(1, 1, term=9)
    assert node.again().runs == (TermRun(Index(1), Term(9)),)
    assert node.read(1, 100) == entries(1, 1, term=9)


def test_runs_are_the_table_of_terms(node: Node) -> None:
    """`Recovered.runs` has one row for each run of entries of one term."""
    node.storage.append(entries(1, 2, term=1) + entries(3, 5, term=4))
    node.storage.append(entries(6, 6, term=4) + entries(7, 7, term=7))
    assert node.again().runs == ((1, 1), (3, 4), (7, 7))


def test_memberships_after_the_snapshot_are_found_and_superseded_ones_are_not(node: Node) -> None:
    """`Recovered.memberships` has those behind the snapshot that are in the log."""
    for index in (2, 5, 8):
        node.storage.append(entries(index - 1, index - 1))
        node.storage.append([entry(index, kind=EntryKind.MEMBERSHIP), entry(index + 1)])
    assert node.again().memberships == tuple((index, entry(index).data) for index in (2, 5, 8))
    node.storage.append(entries(8, 9, term=2))
    node.snapshot(3)
    assert node.again().memberships == ((5, entry(5).data),)


def test_the_tail_is_bounded_by_bytes_and_ends_at_the_last_entry(node: Node) -> None:
    """`Recovered.tail` has the last entries, whole, as many as fit `tail_bytes`."""
    node.storage.append(entries(1, 6, size=100))
    node.storage.append(entries(7, 9, size=100))
    for tail_bytes, first in ((0, 10), (99, 10), (100, 9), (250, 8), (450, 6), (10_000, 1)):
        assert node.again(tail_bytes).tail == tuple(entries(first, 9, size=100))


# --- reading ------------------------------------------------------------------------------------------------------


def test_read_gives_at_least_one_entry_and_else_stays_within_the_bytes(node: Node) -> None:
    """`read` keeps to `max_bytes`, but gives one entry however large it is."""
    node.storage.append(entries(1, 5, size=1000))
    node.storage.append(entries(6, 9, size=1000))
    assert [len(node.storage.read(Index(1), Index(9), size)) for size in (0, 999, 1000, 1999, 2000, 7000, 9000)] == [
        1, 1, 1, 1, 2, 7, 9,
    ]  # fmt: skip
    assert node.storage.read(Index(4), Index(7), 1 << 20) == tuple(entries(4, 7, size=1000))


def test_read_outside_of_the_log_gives_nothing(node: Node) -> None:
    """`read` gives () where the log does not reach, and no error."""
    node.storage.append(entries(1, 5))
    assert node.storage.read(Index(6), Index(9), 1 << 20) == ()
    assert node.storage.read(Index(4), Index(3), 1 << 20) == ()
    assert node.storage.read(Index(4), Index(99), 1 << 20) == tuple(entries(4, 5))


def test_large_entries_and_large_appends_come_back(node: Node) -> None:
    """Entries of megabytes come back whole."""
    large = entries(1, 5, size=700_000)
    node.storage.append(large)
    node.storage.append(entries(6, 6, size=3 << 20))
    assert node.again(0).last_index == 6
    assert node.read(1, 6, max_bytes=1_000_000) == large + entries(6, 6, size=3 << 20)


# --- snapshots and compaction -------------------------------------------------------------------------------------


def test_there_is_no_snapshot_at_first(node: Node) -> None:
    """`open_snapshot` gives None where there is none."""
    assert node.storage.open_snapshot() is None
    assert node.storage.open_snapshot(Index(3)) is None


@pytest.mark.parametrize("size", [0, 1, 5, 300_000, 3_000_001])
def test_a_snapshot_comes_back_as_it_was(node: Node, size: int) -> None:
    """A snapshot of any size comes back with its meta, before and after a restart, by index or as the newest."""
    raw = bytes(index * 7 % 251 for index in range(min(size, 5000))) * (size // 5000 + 1)
    raw = raw[:size]
    node.storage.append(entries(1, 4))
    node.snapshot(3, raw)
    assert read_all(node.storage.open_snapshot()) == raw
    recovered = node.again()
    assert recovered.snapshot == meta(3)
    assert (recovered.last_index, recovered.first_index <= 4) == (4, True)
    reader = node.storage.open_snapshot(Index(3))
    assert reader is not None
    assert reader.meta == meta(3)
    assert read_all(reader) == raw


def test_a_snapshot_is_read_from_any_offset(node: Node) -> None:
    """`read` gives exactly `size` bytes from any offset, fewer at the end alone, and b"" behind it."""
    raw = bytes(index % 253 for index in range(10_000)) * 60
    node.storage.append(entries(1, 3))
    node.snapshot(3, raw)
    reader = node.storage.open_snapshot()
    assert reader is not None
    for offset, size in ((599_990, 100), (0, 10), (300_000, 200_000), (17, 1), (600_000, 5), (700_000, 5)):
        assert reader.read(offset, size) == raw[offset : offset + size]
    reader.close()


def test_a_snapshot_that_was_not_committed_never_was(node: Node) -> None:
    """What was written and not committed is seen by nobody, and is gone after `abort` or a restart."""
    node.storage.append(entries(1, 4))
    writer = node.storage.begin_snapshot(meta(3), False)
    writer.write(b"half" * 100_000)
    assert node.storage.open_snapshot() is None
    writer.abort()
    left = node.storage.begin_snapshot(meta(4), False)
    left.write(b"more")
    assert node.again().snapshot is None
    assert node.storage.open_snapshot() is None


def test_two_snapshots_are_kept_and_the_newest_counts(node: Node) -> None:
    """The newest and the one before are kept; older ones go."""
    node.storage.append(entries(1, 9))
    for index in (2, 5, 8):
        node.snapshot(index, b"at %d" % index)
    node.again()
    assert read_all(node.storage.open_snapshot()) == b"at 8"
    assert read_all(node.storage.open_snapshot(Index(5))) == b"at 5"
    assert node.storage.open_snapshot(Index(2)) is None


def test_a_reader_goes_on_while_newer_snapshots_come(node: Node) -> None:
    """A reader that is open reads to its end, although its snapshot is removed meanwhile."""
    node.storage.append(entries(1, 9))
    node.snapshot(2, b"old state")
    reader = node.storage.open_snapshot()
    for index in (4, 6, 8):
        node.snapshot(index, b"new")
    assert read_all(reader, size=4) == b"old state"


def test_appending_goes_on_while_a_snapshot_is_written(node: Node) -> None:
    """A snapshot is written between appends."""
    node.storage.append(entries(1, 4))
    writer = node.storage.begin_snapshot(meta(4), False)
    for index in range(5, 25):
        node.storage.append(entries(index, index))
        writer.write(bytes([index]) * 1000)
    writer.commit()
    recovered = node.again()
    assert (recovered.snapshot, recovered.last_index) == (meta(4), 24)
    assert len(read_all(node.storage.open_snapshot())) == 20_000


def test_compaction_keeps_what_is_asked_for_and_tells_what_it_holds(node: Node) -> None:
    """`compact` returns the oldest index that can be read; that is never beyond the one asked for."""
    for first in range(1, 400, 2):
        node.storage.append(entries(first, first + 1, size=2000))
    node.snapshot(300)
    held = node.storage.compact(Index(290))
    assert 1 <= held <= 290
    assert node.read(held, 400) == entries(held, 400, size=2000)
    assert node.storage.read(Index(held - 1), Index(400), 1 << 20) == ()
    recovered = node.again(tail_bytes=0)
    assert recovered.first_index <= held
    assert recovered.last_index == 400
    assert recovered.runs == (TermRun(recovered.first_index, Term(1)),)
    assert node.read(290, 400) == entries(290, 400, size=2000)


def test_compaction_of_everything_leaves_a_log_that_goes_on(node: Node) -> None:
    """A log without entries goes on behind its snapshot."""
    node.storage.append(entries(1, 30))
    node.snapshot(30)
    node.storage.compact(Index(31))
    node.storage.append(entries(31, 32, term=2))
    recovered = node.again()
    assert recovered.last_index == 32
    assert recovered.first_index <= 31
    assert node.read(31, 99) == entries(31, 32, term=2)


def test_a_snapshot_from_the_leader_replaces_the_log(node: Node) -> None:
    """With `replaces_log` the commit drops the whole log, which goes on behind the snapshot."""
    node.storage.append(entries(1, 30))
    node.snapshot(100, b"from the leader", term=5, replaces_log=True)
    assert node.storage.read(Index(1), Index(30), 1 << 20) == ()
    recovered = node.again()
    assert recovered.snapshot == meta(100, 5)
    assert (recovered.first_index, recovered.last_index) == (101, 100)
    assert (recovered.runs, recovered.tail, recovered.memberships) == ((), (), ())
    assert read_all(node.storage.open_snapshot()) == b"from the leader"
    node.storage.append(entries(101, 103, term=6))
    recovered = node.again()
    assert (recovered.first_index, recovered.last_index) == (101, 103)
    assert node.read(101, 200) == entries(101, 103, term=6)


def test_a_snapshot_from_the_leader_also_drops_the_entries_behind_it(node: Node) -> None:
    """Entries behind such a snapshot were never a majority's: they go with the others."""
    node.storage.append(entries(1, 30))
    node.snapshot(20, term=5, replaces_log=True)
    assert node.storage.read(Index(21), Index(30), 1 << 20) == ()
    assert node.again().last_index == 20
    node.storage.append(entries(21, 21, term=6))
    assert node.read(21, 99) == entries(21, 21, term=6)


def test_a_snapshot_from_the_leader_is_read_before_it_replaces_anything(node: Node) -> None:
    """Of a storage that has the power to."""
    node.storage.append(entries(1, 30))
    writer = node.storage.begin_snapshot(meta(100), True)
    raw = bytes(range(256)) * 3000
    for at in range(0, len(raw), 100_000):
        writer.write(raw[at : at + 100_000])
    if isinstance(writer, Rereadable):
        assert read_all(writer.reread()) == raw
        assert node.storage.open_snapshot() is None
        assert node.read(1, 30) == entries(1, 30)
    writer.commit()
    assert read_all(node.storage.open_snapshot()) == raw
    assert node.storage.read(Index(1), Index(30), 1 << 20) == ()


def test_an_aborted_snapshot_from_the_leader_leaves_the_log(node: Node) -> None:
    """Before the commit the log is whole."""
    node.storage.append(entries(1, 30))
    writer = node.storage.begin_snapshot(meta(100), True)
    writer.write(b"x")
    writer.abort()
    recovered = node.again()
    assert (recovered.snapshot, recovered.last_index) == (None, 30)


# --- the rest -----------------------------------------------------------------------------------------------------


def test_flush_may_be_called_at_any_time(node: Node) -> None:
    """`flush` changes nothing that can be seen."""
    node.storage.flush()
    node.storage.append(entries(1, 3))
    node.storage.flush()
    node.storage.flush()
    node.storage.append(entries(4, 4))
    recovered = node.again()
    assert (recovered.last_index, recovered.ambiguous_after) == (4, None)


def test_usage_grows_with_the_log_and_counts_from_the_snapshot(node: Node) -> None:
    """`usage` counts the bytes since the newest snapshot, also after a restart."""
    before = node.storage.usage()
    node.storage.append(entries(1, 50, size=1000))
    grown = node.storage.usage()
    assert grown.log_bytes > before.log_bytes
    assert grown.log_bytes_since_snapshot > before.log_bytes_since_snapshot == 0
    assert grown.snapshot_bytes == 0
    node.snapshot(50, b"s" * 5000)
    after = node.storage.usage()
    assert after.snapshot_bytes > 0
    assert after.log_bytes_since_snapshot == 0
    node.storage.append(entries(51, 51))
    since = node.storage.usage().log_bytes_since_snapshot
    assert since > 0
    node.again()
    assert node.storage.usage().log_bytes_since_snapshot == since


def test_a_doubt_may_be_cleared_where_there_was_none(node: Node) -> None:
    """`clear_ambiguity` is allowed at any time."""
    node.storage.clear_ambiguity()
    assert node.again().ambiguous_after is None


def test_the_storage_survives_many_restarts(node: Node) -> None:
    """Each restart adds to the log and loses nothing."""
    numbers = count(1)
    for _ in range(12):
        index = next(numbers)
        node.storage.append(entries(index, index))
        assert node.again().last_index == index
    assert node.read(1, 12) == entries(1, 12)


# --- whom a node has met ---------------------------------------------------------------------------------------------


def test_a_new_storage_that_remembers_members_has_met_nobody(node: Node) -> None:
    """A durable storage is `PeerStore`; a new one has met nobody and takes no part."""
    assert isinstance(node.storage, PeerStore) == node.storage.durable
    if isinstance(node.storage, PeerStore):
        assert node.storage.known_peers() == KnownPeers(False, ())


def test_members_that_were_remembered_are_known_when_the_storage_is_opened_again(node: Node) -> None:
    """`remember` replaces what was remembered before, as a whole."""
    met = KnownPeers(True, ((2, (1 << 63) - 1), (3, 7)))
    if isinstance(node.storage, PeerStore):
        node.storage.save_known_peers(KnownPeers(False, met.incarnations[:1]))
        node.storage.save_known_peers(met)
        assert node.storage.known_peers() == met
    node.again()
    if isinstance(node.storage, PeerStore):
        assert node.storage.known_peers() == met
