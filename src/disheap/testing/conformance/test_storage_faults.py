"""The conformance suite of durable storages under faults: kills, full and damaged disks, power cuts.

There are two kinds of tests. The first kind runs over any durable storage. A child process is killed with SIGKILL while
it appends, its files may grow no further, and the files in its directory are damaged. These tests cannot tell whether a
storage syncs, because the data of a killed process stays in the system's cache.

The second kind needs the power `OnFilesystem`. Then the storage runs on a disk in memory, `testing.crashing_disk`. That
disk loses power at a random write and keeps any legal part of the unsynced data, has no free space, or fails. For a
storage without the power these tests pass without doing anything.

The docstring of each test says what the contract demands, then when the test fails.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from disheap.errors import DiskFailed, StorageError, StorageFull
from disheap.interfaces import (
    Codec,
    KnownPeers,
    LoopAppending,
    OnFilesystem,
    PeerStore,
    Preallocating,
    Recovered,
    Storage,
    StorageContext,
)
from disheap.kernel.types import Entry, HardState, Index, NodeId, Term
from disheap.plugins.registry import Registry
from disheap.testing.conformance.storage_child import ENTRY_BYTES
from disheap.testing.conformance.storage_life import Life
from disheap.testing.conformance.storage_parts import (
    IDENTITY,
    check_entries,
    entries,
    meta,
    read_all,
    read_log,
    read_snapshot,
    write_snapshot,
)
from disheap.testing.crashing_disk import CrashingDisk
from disheap.testing.fixtures import SystemClock

Factory = Callable[[Path], Storage]
Build = Callable[..., Storage]

CHILD_S = 60
LIVES = 80
"""Lives of six runs each; a storage that forgets one sync fails within a few."""
FLIPS = 60
KILLS = 3
STATE = HardState(Term(9), NodeId(1))
MET = KnownPeers(True, ((2, 77),))
PLACE = "/data/groups/0"


# --- any durable storage ---------------------------------------------------------------------------------------------


@pytest.fixture
def durable(storage_factory: Factory, tmp_path: Path) -> Iterator[Factory | None]:
    """The factory of the storage. None if it is not durable, because then it has nothing to lose."""
    yield storage_factory if storage_factory(tmp_path / "probe").durable else None


class Child:
    """A process that appends to a storage of the kind under test."""

    def __init__(self, asked: dict[str, Any]) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "disheap.testing.conformance.storage_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        self._lines = self._process.stdout

    def kill_after(self, count: int) -> list[str]:
        """Kills the process after it has printed `count` lines, and returns all lines that it printed."""
        lines = list(itertools.islice(self._lines, count))
        self._process.send_signal(signal.SIGKILL)
        return [line.strip() for line in (*lines, *self._lines)]

    def wait_lines(self) -> list[str]:
        """Returns all lines of a process that ends by itself."""
        lines = [line.strip() for line in self._lines]
        assert self._process.wait(CHILD_S) == 0, "the storage ended the process with another error than StorageError"
        return lines

    def close(self) -> None:
        """Kills the process if it still runs, and closes its pipes."""
        self._process.kill()
        self._process.wait(CHILD_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def start_child(
    storage_name: str, codec_name: str, disheap_tables: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[..., Child]]:
    """Starts processes that append to the storage under test, and ends them after the test."""
    children: list[Child] = []

    def start(first: int, room_bytes: int = 0) -> Child:
        tables = {kind: disheap_tables[kind] for kind in ("storage", "codec")}
        place = {"storage": storage_name, "codec": codec_name, "tables": tables, "directory": str(tmp_path / "data")}
        children.append(Child(place | {"first": first, "room_bytes": room_bytes}))
        return children[-1]

    yield start
    for child in children:
        child.close()


def test_what_was_acknowledged_survives_a_kill(
    durable: Factory | None, start_child: Callable[..., Child], tmp_path: Path
) -> None:
    """Every entry whose `append` returned is there after a SIGKILL at any moment, and no entry is changed. It fails if
    `append` returns while data is still in a buffer of the process."""
    last = 0
    for number in range(KILLS if durable else 0):
        printed = start_child(last + 1).kill_after(20 + 37 * number)
        assert durable is not None
        storage = durable(tmp_path / "data")
        recovered = storage.open(IDENTITY, 0, alone=True)
        assert recovered.hard_state == STATE
        assert recovered.last_index >= int(printed[-1])
        last = recovered.last_index
        check_entries(read_log(storage, 1, last), entries(1, last, size=ENTRY_BYTES))
        storage.close()


def test_what_was_acknowledged_survives_files_that_cannot_grow(
    durable: Factory | None, start_child: Callable[..., Child], tmp_path: Path
) -> None:
    """A write that fails raises an error in its `append`, and all earlier entries are there. It fails if the storage
    ignores a short write, or damages the log with the part that it wrote."""
    if durable is None:
        return
    printed = start_child(1, room_bytes=100_000).wait_lines()
    acknowledged = [int(line) for line in printed if line.isdigit()]
    assert acknowledged, f"the first append failed: {printed}"
    storage = durable(tmp_path / "data")
    recovered = storage.open(IDENTITY, 0, alone=True)
    assert recovered.last_index >= max(acknowledged)
    check_entries(read_log(storage, 1, recovered.last_index), entries(1, recovered.last_index, size=ENTRY_BYTES))
    storage.append(entries(recovered.last_index + 1, recovered.last_index + 5, size=ENTRY_BYTES))
    storage.close()


class Promised:
    """A directory with a log, a vote, a snapshot and members, and a check of what a storage says about it when it is
    damaged."""

    def __init__(self, factory: Factory, directory: Path) -> None:
        self._factory, self.directory = factory, directory
        self.entries = entries(1, 60, size=400)
        self.raw = random.Random(3).randbytes(50_000)
        storage = factory(directory)
        storage.open(IDENTITY, 0, alone=False)
        storage.save_hard_state(STATE)
        if isinstance(storage, PeerStore):
            storage.save_known_peers(MET)
        for at in range(0, 60, 5):
            storage.append(self.entries[at : at + 5])
            if isinstance(storage, Preallocating):
                storage.preallocate()
        write_snapshot(storage, 20, self.raw)
        storage.flush()
        storage.close()

    def files(self) -> list[Path]:
        """All files of the directory that are not empty."""
        return sorted(path for path in self.directory.rglob("*") if path.is_file() and path.stat().st_size)

    def check(self, what: str) -> None:
        """Opens the storage. It must refuse, report the damage, or return everything unchanged. It never returns other
        data than was written."""
        storage = self._factory(self.directory)
        try:
            recovered = storage.open(IDENTITY, 0, alone=False)
            log = self._read(storage, recovered)
            assert all(found == self.entries[found.index - 1] for found in log), f"{what}: an entry is another"
            if recovered.is_damaged:
                return
            assert recovered.hard_state == STATE, f"{what}: term or vote is another, and nothing is said"
            if isinstance(storage, PeerStore):
                assert storage.known_peers() == MET, f"{what}: the members are others, and nothing is said"
            if recovered.snapshot is not None:
                assert read_snapshot(storage) == self.raw, f"{what}: the snapshot is another"
            assert recovered.snapshot is not None or recovered.first_index == 1, f"{what}: the snapshot is gone"
            if recovered.last_index < len(self.entries):
                assert recovered.ambiguous_after is not None, f"{what}: entries are lost, and nothing is said"
        except StorageError as error:
            assert str(error)
        finally:
            storage.close()

    @staticmethod
    def _read(storage: Storage, recovered: Recovered) -> list[Entry]:
        first = recovered.first_index
        if not recovered.is_damaged:
            return read_log(storage, first, recovered.last_index)
        found: list[Entry] = []
        for index in range(first, recovered.last_index + 1):
            try:
                found += storage.read(Index(index), Index(index), 1 << 20)
            except StorageError:
                continue
        return found


def test_a_file_with_a_flipped_bit_is_refused_or_told_or_makes_no_difference(
    durable: Factory | None, tmp_path: Path
) -> None:
    """A flipped bit in any file never changes what is read, and never makes data vanish silently. It fails if a part of
    a file has no checksum, or if the storage treats a bad record as the end of the log."""
    if durable is None:
        return
    promised, generator = Promised(durable, tmp_path / "data"), random.Random(7)
    files = {path: path.read_bytes() for path in promised.files()}
    for _ in range(FLIPS if files else 0):
        path = generator.choice(list(files))
        spoilt = bytearray(files[path])
        written = [at for at, byte in enumerate(spoilt) if byte]  # most of a file may be zeros that nobody reads
        at = generator.choice(written or range(len(spoilt)))
        spoilt[at] ^= 1 << generator.randrange(8)
        path.write_bytes(spoilt)
        promised.check(f"a bit of byte {at} of {path.name}")
        for other, content in files.items():
            other.write_bytes(content)
        for other in set(promised.files()) - set(files):
            other.unlink()


def test_a_file_that_lost_its_end_is_refused_or_told_or_makes_no_difference(
    durable: Factory | None, tmp_path: Path
) -> None:
    """Entries that may be lost with the end of a file are reported by `ambiguous_after` or `damaged`. It fails if the
    storage takes a file with a missing or zeroed end for a complete, shorter one."""
    if durable is None:
        return
    promised = Promised(durable, tmp_path / "data")
    files = {path: path.read_bytes() for path in promised.files()}
    for path, content in files.items():
        used = len(content.rstrip(b"\0"))  # space that is allocated behind it holds nothing to lose
        for lost in sorted({1, 7, 30, used // 3} & set(range(1, used))):
            for filler in (b"", bytes(len(content) - used + lost)):
                path.write_bytes(content[: used - lost] + filler)
                promised.check(f"the last {lost} bytes of {path.name}, {'zeroed' if filler else 'cut off'}")
                for other in promised.files():
                    if other not in files:
                        other.unlink()
                for other, whole in files.items():
                    other.write_bytes(whole)


# --- a storage that runs on a given filesystem -----------------------------------------------------------------------


@pytest.fixture
def build(
    disheap_registry: Registry, storage_name: str, codec_name: str, codec_factory: Callable[..., Codec]
) -> Build | None:
    """Builds the storage on a given disk, as `build(disk, seed)`. None without the power `OnFilesystem`."""
    plugin = disheap_registry.get("storage", storage_name)
    if not issubclass(plugin, OnFilesystem):
        return None

    def build(disk: CrashingDisk, seed: int = 1) -> Storage:
        context = StorageContext(PLACE, codec_factory(seed), codec_name, SystemClock(), random.Random(seed))
        return plugin.on_filesystem(context, disk)

    return build


def opened(build: Build, disk: CrashingDisk) -> tuple[Storage, Recovered]:
    """Builds the storage on this disk and opens it."""
    storage = build(disk, 2)
    return storage, storage.open(IDENTITY, 1 << 20, alone=False)


def started(build: Build, disk: CrashingDisk) -> Storage:
    """Opens the storage and saves a term beyond the terms of all entries that these tests append."""
    storage, _ = opened(build, disk)
    storage.save_hard_state(HardState(Term(20), NodeId(1)))
    return storage


@pytest.mark.parametrize("block", range(4))
def test_a_power_cut_at_any_write_loses_nothing_that_was_acknowledged(build: Build | None, block: int) -> None:
    """After a power cut the storage holds everything that it acknowledged, with or without the call under way. It fails
    if a call returns before its data and names are synced. It also fails if the storage returns data that nobody
    wrote."""
    for seed in range(block * LIVES // 4, (block + 1) * LIVES // 4 if build else 0):
        assert build is not None
        try:
            Life(seed, build).live()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_an_append_that_returned_is_synced(build: Build | None) -> None:
    """An entry is there after the loss of all unsynced data, once its `append` has returned. It fails if the storage
    does not sync the file, or not the directory of a new file."""
    if build is None:
        return
    disk = CrashingDisk()
    storage = started(build, disk)
    for first in range(1, 600, 20):
        storage.append(entries(first, first + 9, size=300))
        storage.append(entries(first + 10, first + 19, size=300))
        again, recovered = opened(build, disk.without_unsynced())
        assert recovered.last_index == first + 19
        check_entries(read_log(again, 1, first + 19), entries(1, first + 19, size=300))


def test_an_append_on_the_loop_that_returned_is_synced(build: Build | None) -> None:
    """`append_on_loop` promises what `append` promises, and the calls may come from different threads. It fails if the
    storage does not sync there, or is bound to one thread."""
    if build is None:
        return
    disk = CrashingDisk()
    storage = started(build, disk)
    if not isinstance(storage, LoopAppending):
        return
    with ThreadPoolExecutor(1) as thread:
        for first in range(1, 100, 2):
            thread.submit(storage.append, entries(first, first, size=300)).result()
            storage.append_on_loop(entries(first + 1, first + 1, size=300))
            again, recovered = opened(build, disk.without_unsynced())
            assert recovered.last_index == first + 1
            check_entries(read_log(again, 1, first + 1), entries(1, first + 1, size=300))


def test_an_append_into_space_that_was_allocated_before_is_synced(build: Build | None) -> None:
    """`preallocate` changes nothing that is read, and nothing of what `append` promises. It fails if the storage takes
    allocated space for entries or for lost ones, or trusts in a size that was not synced."""
    if build is None:
        return
    disk = CrashingDisk()
    storage = started(build, disk)
    if not isinstance(storage, Preallocating):
        return
    for last in range(1, 60):
        storage.append(entries(last, last, size=300))
        if last % 7 == 1:
            storage.preallocate()
        again, recovered = opened(build, disk.without_unsynced())
        assert (recovered.last_index, recovered.ambiguous_after, recovered.damaged) == (last, None, ())
        check_entries(read_log(again, 1, last), entries(1, last, size=300))


def test_a_full_disk_is_no_error_while_space_is_allocated(build: Build | None) -> None:
    """`preallocate` allocates nothing on a full disk, and the next append still says whether there is room. It fails if
    the storage raises `StorageFull` there, or keeps a part of the space and calls it a lost append."""
    if build is None:
        return
    disk = CrashingDisk()
    storage = started(build, disk)
    if not isinstance(storage, Preallocating):
        return
    storage.append(entries(1, 1))
    disk.room = 3000
    storage.preallocate()
    with pytest.raises(StorageFull):
        for first in range(2, 2000):
            storage.append(entries(first, first, size=3000))
    disk.room = -1
    _, recovered = opened(build, disk.without_unsynced())
    assert recovered.ambiguous_after is None and not recovered.is_damaged


def test_term_and_vote_and_members_that_were_saved_are_synced(build: Build | None) -> None:
    """Term, vote and members are synced when the call returns. It fails if the storage does not sync them, because a
    node that forgets its vote votes twice in one term."""
    if build is None:
        return
    disk = CrashingDisk()
    storage, _ = opened(build, disk)
    for term in range(3, 9):
        storage.save_hard_state(HardState(Term(term), NodeId(term % 3)))
        met = KnownPeers(True, ((2, term),))
        if isinstance(storage, PeerStore):
            storage.save_known_peers(met)
        again, recovered = opened(build, disk.without_unsynced())
        assert recovered.hard_state == (term, term % 3)
        assert not isinstance(again, PeerStore) or again.known_peers() == met


def test_a_snapshot_that_was_committed_is_synced_with_its_name(build: Build | None) -> None:
    """A snapshot is synced with its name when `commit` returns, also before the log is compacted and when it replaces
    the log. It fails if the storage renames a file without syncing it, or without syncing the directory."""
    if build is None:
        return
    disk = CrashingDisk()
    storage = started(build, disk)
    storage.append(entries(1, 100, size=300))
    write_snapshot(storage, 60, b"first" * 1000)
    again, recovered = opened(build, disk.without_unsynced())
    assert recovered.snapshot == meta(60)
    assert read_all(again.open_snapshot()) == b"first" * 1000
    storage.compact(Index(61))
    write_snapshot(storage, 200, b"second" * 1000, replaces_log=True)
    again, recovered = opened(build, disk.without_unsynced())
    assert (recovered.snapshot, recovered.first_index, recovered.last_index) == (meta(200), 201, 200)
    assert read_all(again.open_snapshot()) == b"second" * 1000


def test_entries_that_were_superseded_do_not_come_back(build: Build | None) -> None:
    """Superseded entries stay away after the loss of all unsynced data. It fails if the storage finds them again in an
    old file or behind the new end."""
    if build is None:
        return
    disk = CrashingDisk()
    storage = started(build, disk)
    storage.append(entries(1, 50, size=300))
    for term in range(2, 12):
        storage.append(entries(20, 50 - term, term, size=300))
        again, recovered = opened(build, disk.without_unsynced())
        assert recovered.last_index == 50 - term
        check_entries(read_log(again, 1, 99), entries(1, 19, size=300) + entries(20, 50 - term, term, size=300))


def test_a_torn_end_stays_ambiguous_until_it_is_cleared(build: Build | None) -> None:
    """A torn end that may have been acknowledged is reported by `ambiguous_after` or `damaged` at every opening until
    `clear_ambiguity`. It fails if the storage cuts the end off silently, or forgets the ambiguity at the next
    opening."""
    if build is None:
        return
    disk, ambiguities = CrashingDisk(), 0
    storage = started(build, disk)
    storage.append(entries(1, 19, size=300))
    before = disk.copy()
    storage.append(entries(20, 20, size=300))
    for path, start, end in _changed(before, disk):
        for size in range(start + 1, end, 3):  # where nothing of it is left, it never was
            torn, alone = disk.copy(), disk.copy()
            del torn.now[path].now[size:]
            alone.now[path].now[:] = before.now[path].now + disk.now[path].now[start:size]  # nothing else has arrived
            ambiguities += _is_ambiguous_until_cleared(build, torn) + _is_ambiguous_until_cleared(build, alone)
    assert ambiguities, "the last entry was torn at each of its bytes, and the storage was never ambiguous"


def _changed(before: CrashingDisk, after: CrashingDisk) -> Iterator[tuple[str, int, int]]:
    """Files that have grown, and from where to where."""
    for path, inode in after.now.items():
        start = len(before.now[path].now) if path in before.now else 0
        if len(inode.now) > start:
            yield path, start, len(inode.now)


def _is_ambiguous_until_cleared(build: Build, torn: CrashingDisk) -> bool:
    try:
        storage, recovered = opened(build, torn)
    except StorageError:
        return False
    if recovered.ambiguous_after is None:
        assert recovered.last_index == 20 or recovered.is_damaged, "an entry is lost, and nothing is said"
        return False
    assert recovered.ambiguous_after <= 19
    storage.close()
    storage, recovered = opened(build, torn)
    assert recovered.ambiguous_after is not None, "the ambiguity is forgotten before it was cleared"
    storage.clear_ambiguity()
    storage.close()
    assert opened(build, torn)[1].ambiguous_after is None
    return True


@pytest.mark.parametrize("room", [0, 100, 5_000, 40_000, 200_000])
def test_a_full_disk_is_said_by_the_append_that_needs_room(build: Build | None, room: int) -> None:
    """The `append` that finds no free space raises `StorageFull`. Acknowledged entries stay, refused ones do not count,
    and the storage continues when there is space. It fails if the storage leaves a part of the refused append behind,
    or raises only in a later call."""
    if build is None:
        return
    disk = CrashingDisk()
    storage = started(build, disk)
    storage.append(entries(1, 3, size=3000))
    disk.room = room
    last = 3
    with pytest.raises(StorageFull) as caught:
        for first in range(4, 20_000, 5):
            storage.append(entries(first, first + 4, size=3000))
            last = first + 4
    assert str(caught.value)
    check_entries(read_log(storage, 1, last), entries(1, last, size=3000))
    _, recovered = opened(build, disk.without_unsynced())
    assert recovered.last_index == last, "what was acknowledged on a full disk is not on it"
    disk.room = -1
    storage.append(entries(last + 1, last + 5, size=3000))
    again, recovered = opened(build, disk.without_unsynced())
    check_entries(read_log(again, 1, last + 5), entries(1, last + 5, size=3000))


def test_a_snapshot_without_room_is_given_up_and_leaves_the_one_before(build: Build | None) -> None:
    """A snapshot that finds no free space raises `StorageFull`. After `abort` the previous snapshot and the log are
    whole. It fails if the storage removes the previous snapshot first, or cannot continue."""
    if build is None:
        return
    disk = CrashingDisk()
    storage = started(build, disk)
    storage.append(entries(1, 50))
    write_snapshot(storage, 20, b"before" * 100)
    disk.room = 20_000
    writer = storage.begin_snapshot(meta(40), False)
    with pytest.raises(StorageFull):
        for number in range(100):
            writer.write(random.Random(number).randbytes(10_000))
        writer.commit()
    writer.abort()
    disk.room = -1
    assert read_all(storage.open_snapshot()) == b"before" * 100
    storage.append(entries(51, 52))
    again, recovered = opened(build, disk.without_unsynced())
    assert (recovered.snapshot, recovered.last_index) == (meta(20), 52)
    assert read_all(again.open_snapshot()) == b"before" * 100


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("at", range(4))
def test_a_disk_that_fails_once_is_not_trusted_again(build: Build | None, operation: str, at: int) -> None:
    """An error of the disk raises `DiskFailed` in that call and in every later call, and nothing more is written. It
    fails if the storage tries again, because a sync after a failed sync succeeds without the data."""
    if build is None:
        return
    disk = CrashingDisk()
    storage = started(build, disk)
    failing = Failing(disk, operation, at)
    last = 0
    with pytest.raises(DiskFailed):
        for first in range(1, 2000, 5):
            storage.append(entries(first, first + 4, size=2000))
            last = first + 4
    assert failing.has_failed
    calls: list[Callable[[], object]] = [
        lambda: storage.append(entries(last + 1, last + 1)),
        lambda: storage.save_hard_state(HardState(Term(99), NodeId(3))),
        lambda: storage.begin_snapshot(meta(2), False),
        lambda: storage.flush(),
    ]
    for call in calls:
        with pytest.raises(DiskFailed):
            call()
    storage.close()
    assert failing.written_after == [], "after an error of the disk something was written"
    again, recovered = opened(build, disk.killed().after_power_cut(random.Random(at)))
    if not recovered.is_damaged:
        assert recovered.last_index >= last
        check_entries(read_log(again, 1, last), entries(1, last, size=2000))


class Failing:
    """Makes the `at`-th operation of one kind fail, and notes every change after it."""

    def __init__(self, disk: CrashingDisk, operation: str, at: int) -> None:
        self.has_failed = False
        self.written_after: list[str] = []
        self._operation, self._left = operation, at
        disk.watch = self._watch

    def _watch(self, operation: str, path: str, offset: int) -> None:
        if self.has_failed:
            if operation != "close":
                self.written_after.append(f"{operation} of {path}")
        elif operation == self._operation:
            self._left -= 1
            if self._left < 0:
                self.has_failed = True
                raise OSError(errno.EIO, "Input/output error", path)
