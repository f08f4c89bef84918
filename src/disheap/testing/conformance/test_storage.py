"""The conformance suite of storages (`interfaces.Storage`).

`disheap.testing.fixtures` runs it over each storage and codec. `test_storage_faults` tests kills, full disks and power
cuts. "Opened again" means a new object over the same place if the storage is durable, and else the same object. The
docstring of each test says what the contract demands, then when the test fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from disheap.errors import DiskFailed, StorageError, StorageLocked, WrongDirectory
from disheap.interfaces import (
    Identity,
    IdentityStore,
    Inspectable,
    KnownPeers,
    PeerStore,
    Recovered,
    Rereadable,
    Storage,
)
from disheap.kernel.types import Entry, EntryKind, HardState, Index, NodeId, Term, TermRun
from disheap.testing.conformance.storage_parts import (
    IDENTITY,
    check_entries,
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
        """Opens the storage, and keeps and returns what it recovered."""
        self.recovered = self.storage.open(identity, tail_bytes, alone=False)
        return self.recovered

    def again(self, tail_bytes: int = TAIL_BYTES) -> Recovered:
        """Closes the storage and opens it again, as a restart does."""
        self.storage.close()
        if self.storage.durable:
            self.storage = self._factory(self.directory)
        return self.open(tail_bytes=tail_bytes)

    def read(self, first: int, last: int, max_bytes: int = 1 << 30) -> list[Entry]:
        """Reads the entries from `first` to `last`."""
        return read_log(self.storage, first, last, max_bytes)

    def snapshot(self, index: int, raw: bytes = b"state", term: int = 1, replaces_log: bool = False) -> None:
        """Writes and commits a snapshot of `raw` at `index`."""
        write_snapshot(self.storage, index, raw, term, replaces_log)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory that is given to the storage."""
    return tmp_path / "data" / "groups" / "0"


@pytest.fixture
def node(storage_factory: Factory, directory: Path) -> Iterator[Node]:
    """A node with an open storage in term 9."""
    node = Node(storage_factory, directory)
    node.storage.save_hard_state(HardState(Term(9), NodeId(1)))
    yield node
    node.storage.close()


# --- opening ------------------------------------------------------------------------------------------------------


def test_an_empty_storage_takes_the_identity_and_says_so(storage_factory: Factory, directory: Path) -> None:
    """A new storage takes the identity that it is given, and reports `fresh` at the first opening only. It fails if the
    identity is not stored, or if `fresh` stays True."""
    node = Node(storage_factory, directory)
    assert node.recovered == Recovered(
        IDENTITY, True, HardState(Term(0), NodeId(0)), None, Index(1), Index(0), (), (), (), None
    )
    again = node.again()
    assert (again.fresh, again.identity) == (False, IDENTITY)
    node.storage.close()


def test_the_incarnation_stored_wins_over_the_one_given(node: Node) -> None:
    """A storage keeps the incarnation of its first opening. It fails if a later `open` overwrites it, because then a
    wiped node is not recognised."""
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
    """`open` raises `WrongDirectory` for another cluster, node id or name, and the text names both. It fails if the
    storage compares only a part of the identity, or changes data first."""
    node.storage.append(entries(1, 3))
    node.storage.close()
    node.storage = node.storage if not node.storage.durable else node._factory(node.directory)
    with pytest.raises(WrongDirectory) as caught:
        node.open(other)
    for word in ("c0ffee", other.cluster_id, "n1", other.name):
        assert word in str(caught.value)
    assert node.open().last_index == 3


def test_a_storage_that_is_open_cannot_be_opened_again(node: Node) -> None:
    """A second `open` raises `StorageLocked`, and the first continues to work. It fails if the storage takes no lock,
    because two processes would then write one log."""
    second = node._factory(node.directory) if node.storage.durable else node.storage
    with pytest.raises(StorageLocked):
        second.open(IDENTITY, TAIL_BYTES, alone=False)
    node.storage.append(entries(1, 1))
    assert node.again().last_index == 1


def test_a_closed_storage_refuses_everything_but_close(node: Node) -> None:
    """After `close` every call raises `StorageError`, and `close` may be called again. It fails if a closed storage
    still writes."""
    node.storage.close()
    node.storage.close()
    with pytest.raises(StorageError):
        node.storage.append(entries(1, 1))
    with pytest.raises(StorageError):
        node.storage.read(Index(1), Index(1), 100)
    with pytest.raises(StorageError):
        node.storage.save_hard_state(HardState(Term(10), NodeId(0)))


def test_a_write_to_data_that_were_taken_away_is_not_confirmed(node: Node) -> None:
    """If the directory of an open storage is removed, `append` raises `DiskFailed`, or the entry is there after a
    restart. It fails if the storage writes into a file that has no name any more. A storage that keeps nothing in the
    directory passes."""
    node.storage.append(entries(1, 3))
    shutil.rmtree(node.directory, ignore_errors=True)
    try:
        node.storage.append([entry(4)])
    except DiskFailed:
        return
    assert node.again().last_index == 4


# --- hard state ---------------------------------------------------------------------------------------------------


def test_hard_state_survives(node: Node) -> None:
    """Term and vote are what was saved last. It fails if `save_hard_state` returns before both are stored."""
    for term, vote in ((10, 2), (11, 0), (12, 3)):
        node.storage.save_hard_state(HardState(Term(term), NodeId(vote)))
        assert node.again().hard_state == (term, vote)


def test_hard_state_survives_what_happens_to_the_log(node: Node) -> None:
    """Appends, truncations, snapshots and compaction do not change term and vote. It fails if the storage keeps them in
    the log, and drops them with it."""
    node.storage.append(entries(1, 10))
    node.storage.save_hard_state(HardState(Term(2**40), NodeId(2**33)))
    node.storage.append(entries(3, 4, term=2))
    node.snapshot(4)
    node.storage.compact(Index(5))
    node.snapshot(100, replaces_log=True)
    assert node.again().hard_state == (2**40, 2**33)


# --- the log ------------------------------------------------------------------------------------------------------


def test_entries_come_back_as_they_were(node: Node) -> None:
    """Every field of every kind of entry comes back, before and after a restart. It fails if the storage limits a
    field, such as a negative or large time, or confuses kinds."""
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
    """An append without entries changes nothing. It fails if the storage raises or writes an empty block that it cannot
    read."""
    node.storage.append([])
    assert node.again().last_index == 0


def test_many_appends_are_one_log(node: Node) -> None:
    """The entries of many appends are contiguous, and the log continues after a restart. It fails if a restart loses
    the end of the log or repeats entries."""
    for first in range(1, 200, 4):
        node.storage.append(entries(first, first + 3))
    recovered = node.again()
    assert (recovered.first_index, recovered.last_index) == (1, 200)
    check_entries(node.read(1, 200), entries(1, 200))
    node.storage.append(entries(201, 201))
    assert node.again().tail == tuple(entries(1, 201))


def test_a_later_append_supersedes_what_is_stored_from_there_on(node: Node) -> None:
    """An append at an index within the log ends the log behind it. It fails if old entries behind the new ones are read
    again, at once or after a restart."""
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
    """An append at the first index replaces the whole log. It fails if the storage cannot go back to the beginning."""
    for term in range(1, 10):
        node.storage.append(entries(1, 10 - term, term=term))
    check_entries(node.read(1, 100), entries(1, 1, term=9))
    assert node.again().runs == (TermRun(Index(1), Term(9)),)
    check_entries(node.read(1, 100), entries(1, 1, term=9))


def test_runs_are_the_table_of_terms(node: Node) -> None:
    """`Recovered.runs` has one row for each run of entries of one term. It fails if appends of one term give several
    rows."""
    node.storage.append(entries(1, 2, term=1) + entries(3, 5, term=4))
    node.storage.append(entries(6, 6, term=4) + entries(7, 7, term=7))
    assert node.again().runs == ((1, 1), (3, 4), (7, 7))


def test_memberships_after_the_snapshot_are_found_and_superseded_ones_are_not(node: Node) -> None:
    """`Recovered.memberships` has the membership entries of the log behind the snapshot. It fails if the storage misses
    one, or reports one that was superseded or is covered by the snapshot."""
    for index in (2, 5, 8):
        node.storage.append(entries(index - 1, index - 1))
        node.storage.append([entry(index, kind=EntryKind.MEMBERSHIP), entry(index + 1)])
    assert node.again().memberships == tuple((index, entry(index).data) for index in (2, 5, 8))
    node.storage.append(entries(8, 9, term=2))
    node.snapshot(3)
    assert node.again().memberships == ((5, entry(5).data),)


def test_the_tail_is_bounded_by_bytes_and_ends_at_the_last_entry(node: Node) -> None:
    """`Recovered.tail` has as many whole entries from the end of the log as fit into `tail_bytes`. It fails if the tail
    exceeds the bound or does not end at the last entry."""
    node.storage.append(entries(1, 6, size=100))
    node.storage.append(entries(7, 9, size=100))
    for tail_bytes, first in ((0, 10), (99, 10), (100, 9), (250, 8), (450, 6), (10_000, 1)):
        assert node.again(tail_bytes).tail == tuple(entries(first, 9, size=100))


# --- reading ------------------------------------------------------------------------------------------------------


def test_read_gives_at_least_one_entry_and_else_stays_within_the_bytes(node: Node) -> None:
    """`read` stays within `max_bytes`, but returns at least one entry however large it is. It fails if a large entry is
    never returned, because then a follower never catches up."""
    node.storage.append(entries(1, 5, size=1000))
    node.storage.append(entries(6, 9, size=1000))
    assert [len(node.storage.read(Index(1), Index(9), size)) for size in (0, 999, 1000, 1999, 2000, 7000, 9000)] == [
        1, 1, 1, 1, 2, 7, 9,
    ]  # fmt: skip
    assert node.storage.read(Index(4), Index(7), 1 << 20) == tuple(entries(4, 7, size=1000))


def test_read_outside_of_the_log_gives_nothing(node: Node) -> None:
    """`read` returns `()` if the log does not reach the index. It fails if the storage raises an error instead."""
    node.storage.append(entries(1, 5))
    assert node.storage.read(Index(6), Index(9), 1 << 20) == ()
    assert node.storage.read(Index(4), Index(3), 1 << 20) == ()
    assert node.storage.read(Index(4), Index(99), 1 << 20) == tuple(entries(4, 5))


def test_large_entries_and_large_appends_come_back(node: Node) -> None:
    """Entries of megabytes come back whole. It fails if the storage has a smaller limit, or splits an append
    wrongly."""
    large = entries(1, 5, size=700_000)
    node.storage.append(large)
    node.storage.append(entries(6, 6, size=3 << 20))
    assert node.again(0).last_index == 6
    assert node.read(1, 6, max_bytes=1_000_000) == large + entries(6, 6, size=3 << 20)


# --- snapshots and compaction -------------------------------------------------------------------------------------


def test_there_is_no_snapshot_at_first(node: Node) -> None:
    """`open_snapshot` returns None if there is no snapshot. It fails if the storage raises."""
    assert node.storage.open_snapshot() is None
    assert node.storage.open_snapshot(Index(3)) is None


@pytest.mark.parametrize("size", [0, 1, 5, 300_000, 3_000_001])
def test_a_snapshot_comes_back_as_it_was(node: Node, size: int) -> None:
    """A snapshot of any size comes back with its meta, by index or as the newest, also after a restart. It fails if the
    storage loses bytes, or the meta, or cannot store an empty snapshot."""
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
    """A reader returns `size` bytes from any offset, fewer only at the end, and `b""` behind the end. It fails if the
    reader returns what one chunk holds, instead of the whole range."""
    raw = bytes(index % 253 for index in range(10_000)) * 60
    node.storage.append(entries(1, 3))
    node.snapshot(3, raw)
    reader = node.storage.open_snapshot()
    assert reader is not None
    for offset, size in ((599_990, 100), (0, 10), (300_000, 200_000), (17, 1), (600_000, 5), (700_000, 5)):
        assert reader.read(offset, size) == raw[offset : offset + size]
    reader.close()


def test_a_snapshot_that_was_not_committed_never_was(node: Node) -> None:
    """A snapshot is not visible before `commit`, and is gone after `abort` or a restart. It fails if the storage opens
    an unfinished file."""
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
    """The storage keeps the newest snapshot and the one before. It fails if it keeps only one, because a damaged
    snapshot then has no replacement. It also fails if old ones stay."""
    node.storage.append(entries(1, 9))
    for index in (2, 5, 8):
        node.snapshot(index, b"at %d" % index)
    node.again()
    assert read_all(node.storage.open_snapshot()) == b"at 8"
    assert read_all(node.storage.open_snapshot(Index(5))) == b"at 5"
    assert node.storage.open_snapshot(Index(2)) is None


def test_a_reader_goes_on_while_newer_snapshots_come(node: Node) -> None:
    """An open reader reads to its end, although its snapshot is removed meanwhile. It fails if removing the file breaks
    the reader."""
    node.storage.append(entries(1, 9))
    node.snapshot(2, b"old state")
    reader = node.storage.open_snapshot()
    for index in (4, 6, 8):
        node.snapshot(index, b"new")
    assert read_all(reader, size=4) == b"old state"


def test_appending_goes_on_while_a_snapshot_is_written(node: Node) -> None:
    """Appends and writes of a snapshot may alternate. It fails if one disturbs the other."""
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
    """`compact` returns the oldest index that can still be read, at most the one asked for. It fails if the storage
    drops entries from that index on, or returns a wrong index."""
    for first in range(1, 400, 2):
        node.storage.append(entries(first, first + 1, size=2000))
    node.snapshot(300)
    held = node.storage.compact(Index(290))
    assert 1 <= held <= 290
    check_entries(node.read(held, 400), entries(held, 400, size=2000))
    assert node.storage.read(Index(held - 1), Index(400), 1 << 20) == ()
    recovered = node.again(tail_bytes=0)
    assert recovered.first_index <= held
    assert recovered.last_index == 400
    assert recovered.runs == (TermRun(recovered.first_index, Term(1)),)
    check_entries(node.read(290, 400), entries(290, 400, size=2000))


def test_compaction_of_everything_leaves_a_log_that_goes_on(node: Node) -> None:
    """A log without entries continues behind its snapshot. It fails if the storage loses its place in the log when all
    entries are compacted away."""
    node.storage.append(entries(1, 30))
    node.snapshot(30)
    node.storage.compact(Index(31))
    node.storage.append(entries(31, 32, term=2))
    recovered = node.again()
    assert recovered.last_index == 32
    assert recovered.first_index <= 31
    check_entries(node.read(31, 99), entries(31, 32, term=2))


def test_a_snapshot_from_the_leader_replaces_the_log(node: Node) -> None:
    """With `replaces_log` the commit drops the whole log, and the log continues behind the snapshot. It fails if old
    entries come back after a restart."""
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
    check_entries(node.read(101, 200), entries(101, 103, term=6))


def test_a_snapshot_from_the_leader_also_drops_the_entries_behind_it(node: Node) -> None:
    """With `replaces_log` the commit also drops the entries behind the snapshot, because they were never a majority's.
    It fails if the storage keeps entries with larger indexes."""
    node.storage.append(entries(1, 30))
    node.snapshot(20, term=5, replaces_log=True)
    assert node.storage.read(Index(21), Index(30), 1 << 20) == ()
    assert node.again().last_index == 20
    node.storage.append(entries(21, 21, term=6))
    check_entries(node.read(21, 99), entries(21, 21, term=6))


def test_a_snapshot_from_the_leader_is_read_before_it_replaces_anything(node: Node) -> None:
    """A `Rereadable` writer returns the written bytes before `commit`, and neither log nor snapshot has changed by
    then. It fails if the storage drops the log before the commit."""
    node.storage.append(entries(1, 30))
    writer = node.storage.begin_snapshot(meta(100), True)
    raw = bytes(range(256)) * 3000
    for at in range(0, len(raw), 100_000):
        writer.write(raw[at : at + 100_000])
    if isinstance(writer, Rereadable):
        assert read_all(writer.reread()) == raw
        assert node.storage.open_snapshot() is None
        check_entries(node.read(1, 30), entries(1, 30))
    writer.commit()
    assert read_all(node.storage.open_snapshot()) == raw
    assert node.storage.read(Index(1), Index(30), 1 << 20) == ()


def test_an_aborted_snapshot_from_the_leader_leaves_the_log(node: Node) -> None:
    """`abort` leaves the log whole. It fails if `begin_snapshot` with `replaces_log` already drops entries."""
    node.storage.append(entries(1, 30))
    writer = node.storage.begin_snapshot(meta(100), True)
    writer.write(b"x")
    writer.abort()
    recovered = node.again()
    assert (recovered.snapshot, recovered.last_index) == (None, 30)


# --- the rest -----------------------------------------------------------------------------------------------------


def test_flush_may_be_called_at_any_time(node: Node) -> None:
    """`flush` may be called at any time, and changes no data. It fails if `flush` raises without appends, or leaves a
    ambiguity about the end of the log."""
    node.storage.flush()
    node.storage.append(entries(1, 3))
    node.storage.flush()
    node.storage.flush()
    node.storage.append(entries(4, 4))
    recovered = node.again()
    assert (recovered.last_index, recovered.ambiguous_after) == (4, None)


def test_usage_grows_with_the_log_and_counts_from_the_snapshot(node: Node) -> None:
    """`usage` counts the bytes since the newest snapshot, also after a restart. It fails if the count is lost at a
    restart, because then the next snapshot is due too late."""
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


def test_an_ambiguity_may_be_cleared_where_there_was_none(node: Node) -> None:
    """`clear_ambiguity` may be called at any time. It fails if it raises without an ambiguity."""
    node.storage.clear_ambiguity()
    assert node.again().ambiguous_after is None


def test_the_storage_survives_many_restarts(node: Node) -> None:
    """Each restart keeps the log and lets it grow. It fails if opening changes or loses entries."""
    numbers = count(1)
    for _ in range(12):
        index = next(numbers)
        node.storage.append(entries(index, index))
        assert node.again().last_index == index
    check_entries(node.read(1, 12), entries(1, 12))


# --- whom a node has met ---------------------------------------------------------------------------------------------


def test_a_new_storage_that_remembers_members_has_met_nobody(node: Node) -> None:
    """A durable storage is `PeerStore`. A new one knows no members and takes no part. It fails if a durable storage
    lacks the power, because then a wiped node may vote again."""
    assert isinstance(node.storage, PeerStore) == node.storage.durable
    if isinstance(node.storage, PeerStore):
        assert node.storage.known_peers() == KnownPeers(False, ())


def test_remembered_members_are_known_when_the_storage_is_opened_again(node: Node) -> None:
    """`save_known_peers` replaces the known members as a whole, also after a restart. It fails if the storage merges
    old and new lists, or cuts large numbers off."""
    met = KnownPeers(True, ((2, (1 << 63) - 1), (3, 7)), (1, 2, 3), True, 3)
    if isinstance(node.storage, PeerStore):
        node.storage.save_known_peers(KnownPeers(False, met.incarnations[:1]))
        node.storage.save_known_peers(met)
        assert node.storage.known_peers() == met
    node.again()
    if isinstance(node.storage, PeerStore):
        assert node.storage.known_peers() == met


def test_a_storage_says_whose_it_is_before_it_is_opened(node: Node) -> None:
    """`stored` reads what an earlier run has stored, and changes nothing. It fails if a node that has joined a cluster
    would not know its id after a restart."""
    if not isinstance(node.storage, IdentityStore):
        return
    assert isinstance(node.storage, PeerStore)
    known = KnownPeers(True, ((2, 7),), (1, 2))
    node.storage.save_known_peers(known)
    node.storage.close()
    stored = node.storage.stored()
    assert stored is not None
    assert stored.peers == known
    assert node.again().identity == stored.identity


# --- a look at the data of a node that does not run ------------------------------------------------------------------


def test_a_look_at_the_data_finds_everything_and_changes_nothing(node: Node) -> None:
    """`inspect` finds what `open` finds, and log and snapshot can be read. No file changes, and the next `open` finds
    the same. It fails if the storage repairs or writes something, or reports another log."""
    node.storage.append(entries(1, 20))
    node.snapshot(10, b"state of 10")
    node.storage.compact(Index(6))
    node.storage.append([entry(21, 9), entry(22, 9, kind=EntryKind.MEMBERSHIP)])
    expected = node.again()
    if isinstance(node.storage, PeerStore):
        node.storage.save_known_peers(KnownPeers(True, (), (), is_removed=True))
    node.storage.close()
    looking = node._factory(node.directory)
    if not (looking.durable and isinstance(looking, Inspectable)):
        return
    before = files_of(node.directory)
    found = looking.inspect()
    assert found is not None
    assert (found.identity, found.hard_state, found.snapshot) == (IDENTITY, expected.hard_state, expected.snapshot)
    assert (found.first_index, found.last_index, found.last_term) == (expected.first_index, 22, 9)
    assert found.memberships == ((22, entry(22, 9).data),)
    assert (found.damaged, found.lost_snapshot, found.torn, found.is_removed) == ((), None, "", True)
    assert read_log(looking, 11, 22) == [*entries(11, 20), entry(21, 9), entry(22, 9, kind=EntryKind.MEMBERSHIP)]
    assert read_all(looking.open_snapshot()) == b"state of 10"
    looking.close()
    assert files_of(node.directory) == before
    node.storage = node._factory(node.directory)
    assert node.open() == expected


def test_a_look_at_nothing_finds_nothing_and_leaves_nothing(storage_factory: Factory, directory: Path) -> None:
    """`inspect` returns None for a storage that was never opened, and makes no files. It fails if it makes a directory
    or takes the data for lost ones."""
    looking = storage_factory(directory)
    if looking.durable and isinstance(looking, Inspectable):
        assert looking.inspect() is None
        assert not directory.exists()
        looking.close()


def test_a_look_at_data_in_use_is_refused(node: Node) -> None:
    """`inspect` raises `StorageLocked` while a node has the data open, and the node continues. It fails if it reads
    what is being written."""
    looking = node._factory(node.directory)
    if looking.durable and isinstance(looking, Inspectable):
        with pytest.raises(StorageLocked):
            looking.inspect()
        node.storage.append(entries(1, 1))


def files_of(directory: Path) -> dict[str, bytes]:
    """The contents of all files. Empty for a storage without files."""
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}
