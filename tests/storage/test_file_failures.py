"""A disk that says no (storage rule 6): the first error is the last thing that happens."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from disheap.errors import DiskFailed, StorageError, StorageFull
from disheap.interfaces import KnownPeers
from disheap.kernel.types import HardState, Index, NodeId, Term
from disheap.testing.crashing_disk import CrashingDisk, PowerCut
from disheap_filelog.filesystem import OsFilesystem
from disheap_filelog.storage import FileStorage
from tests.storage.parts import IDENTITY, build, entries, entry, meta, opened, read_log, write_snapshot


def fail_at(disk: CrashingDisk, operation: str, error: int = errno.EIO) -> None:
    """The next such operation fails, and only that one: whoever tries again would succeed."""

    def watch(happening: str, path: str, offset: int) -> None:
        if happening == operation:
            disk.watch = lambda operation, path, offset: None
            raise OSError(error, "the disk says no", path)

    disk.watch = watch


def snapshot(storage: FileStorage) -> None:
    write_snapshot(storage, 2, bytes(5000))


CALLS: dict[str, tuple[str, Callable[[FileStorage], None]]] = {
    "append, write": ("write", lambda storage: storage.append([entry(4)])),
    "append, fsync": ("sync", lambda storage: storage.append([entry(4)])),
    "hard state, write": ("write", lambda storage: storage.save_hard_state(HardState(Term(10), NodeId(2)))),
    "hard state, fsync": ("sync", lambda storage: storage.save_hard_state(HardState(Term(10), NodeId(2)))),
    "flush, fsync": ("sync", lambda storage: storage.flush()),
    "snapshot, create": ("create", snapshot),
    "snapshot, write": ("write", snapshot),
    "snapshot, fsync": ("sync", snapshot),
    "snapshot, close": ("close", snapshot),
    "snapshot, rename": ("rename", snapshot),
    "snapshot, fsync of the directory": ("sync_directory", snapshot),
}


@pytest.mark.parametrize("case", CALLS)
def test_after_an_error_every_call_raises_and_nothing_is_written(case: str) -> None:
    operation, call = CALLS[case]
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 3))
    fail_at(disk, operation)
    with pytest.raises(DiskFailed) as caught:
        call(storage)
    for words in ("/data/groups/0", "the disk says no", "kernel's log", "start the node again"):
        assert words in str(caught.value)
    before = {path: bytes(inode.now) for path, inode in disk.now.items()}
    for again in (
        call,
        lambda storage: storage.append([entry(4)]),
        lambda storage: storage.save_hard_state(HardState(Term(11), NodeId(2))),
        lambda storage: storage.read(Index(1), Index(3), 100),
        lambda storage: storage.flush(),
        lambda storage: storage.compact(Index(1)),
        lambda storage: storage.open_snapshot(),
        lambda storage: storage.begin_snapshot(meta(2), False),
        lambda storage: storage.usage(),
        lambda storage: storage.clear_ambiguity(),
    ):
        with pytest.raises(DiskFailed):
            again(storage)
    storage.close()
    storage.close()
    assert {path: bytes(inode.now) for path, inode in disk.now.items()} == before
    with pytest.raises(DiskFailed):
        storage.open(IDENTITY, 0, alone=False)
    storage = build(disk)
    assert storage.open(IDENTITY, 0, alone=False).last_index in (3, 4)
    assert read_log(storage, 1, 3) == entries(1, 3)


def test_a_failed_close_is_an_error_and_unlocks_all_the_same() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 3))
    fail_at(disk, "close")
    with pytest.raises(DiskFailed):
        storage.close()
    storage.close()
    assert build(disk).open(IDENTITY, 0, alone=False).last_index == 3


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_at_an_fsync_is_an_error_like_any_other(error: int) -> None:
    """What it could not write is lost, and marked clean."""
    disk = CrashingDisk()
    storage = opened(disk)
    fail_at(disk, "sync", error)
    with pytest.raises(DiskFailed, match="free space"):
        storage.append([entry(1)])


def test_an_append_without_room_leaves_nothing_and_works_when_there_is_some() -> None:
    for room in range(0, 2000, 111):
        disk = CrashingDisk()
        storage = opened(disk)
        storage.append(entries(1, 3))
        before = {path: bytes(inode.now) for path, inode in disk.now.items()}
        disk.room = room
        with pytest.raises(StorageFull, match="free space"):
            storage.append(entries(4, 6, size=800))
        assert {path: len(inode.now) for path, inode in disk.now.items()} == {p: len(d) for p, d in before.items()}
        storage.save_hard_state(HardState(Term(10), NodeId(3)))  # elections need no room
        killed = build(disk.copy())
        recovered = killed.open(IDENTITY, 0, alone=False)
        assert (recovered.last_index, recovered.ambiguous_after) == (3, None)
        assert recovered.hard_state == HardState(Term(10), NodeId(3))
        disk.room = -1
        storage.append(entries(4, 6, size=800))
        storage = build(disk.copy())
        assert storage.open(IDENTITY, 0, alone=False).last_index == 6
        assert read_log(storage, 1, 6) == [*entries(1, 3), *entries(4, 6, size=800)]


@pytest.mark.parametrize("seed", range(10))
def test_after_a_power_cut_an_append_without_room_is_gone_or_known_as_torn(seed: int) -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 3))
    disk.room = 1000
    with pytest.raises(StorageFull):
        storage.append(entries(4, 6, size=800))
    left = disk.after_power_cut(random.Random(seed))
    recovered = build(left.copy()).open(IDENTITY, 0, alone=False)
    assert recovered.last_index == 3 or [place.first for place in recovered.damaged] == [4]
    storage = build(left)
    assert storage.open(IDENTITY, 0, alone=True).last_index == 3
    assert read_log(storage, 1, 3) == entries(1, 3)


def test_a_life_on_a_disk_that_fills_up_again_and_again_loses_nothing() -> None:
    """Each step is repeated when there is room: appends, new files of the log, snapshots."""
    disk = CrashingDisk()
    storage = opened(disk)
    full = 0

    def insist(step: Callable[[], None]) -> None:
        nonlocal full
        disk.room = generator.randrange(0, 6000)
        while True:
            try:
                return step()
            except StorageFull:
                full += 1
                disk.room += 20_000

    generator = random.Random(4)
    for first in range(1, 400, 4):
        batch = entries(first, first + 3, size=700)
        insist(lambda batch=batch: storage.append(batch))  # type: ignore[misc]
        if first % 40 == 1:
            insist(lambda at=first: write_snapshot(storage, at, bytes(9000)))  # type: ignore[misc]
            storage.compact(Index(first - 20))
    assert full > 50
    first = storage.holding().first
    assert first > 1
    assert [name for name in disk.list("/data/groups/0") if name.endswith(".tmp")] == []
    storage = build(disk.copy())
    recovered = storage.open(IDENTITY, 0, alone=False)
    assert (recovered.first_index, recovered.last_index, recovered.ambiguous_after) == (first, 400, None)
    assert read_log(storage, first, 400) == entries(first, 400, size=700)


def test_how_much_room_is_left_is_part_of_the_usage() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    disk.room = 12345
    assert storage.usage().free_bytes == 12345


def test_a_failure_while_opening_unlocks() -> None:
    disk = CrashingDisk()
    opened(disk).close()
    disk.now["/data/groups/0/meta"].now[20] ^= 1  # so that opening has something to repair
    fail_at(disk, "sync")
    with pytest.raises(DiskFailed):
        build(disk).open(IDENTITY, 0, alone=False)
    assert build(disk).open(IDENTITY, 0, alone=False).hard_state == (9, 1)


def test_what_open_finds_is_durable_when_it_returns() -> None:
    """A run that ended between a rename and the sync of its directory leaves a name. The next power cut takes it back,
    after the node has acted on what it found."""
    met = KnownPeers(True, ((2, 77),))
    for seed in range(10):
        disk = CrashingDisk()
        storage = opened(disk)
        fail_at(disk, "sync_directory")
        with pytest.raises(DiskFailed):
            storage.save_known_peers(met)
        disk = disk.killed()
        again = build(disk)
        again.open(IDENTITY, 0, alone=False)
        assert again.known_peers() == met
        found = build(disk.after_power_cut(random.Random(seed)))
        found.open(IDENTITY, 0, alone=False)
        assert found.known_peers() == met


class FailingOnce(OsFilesystem):
    """The `at`-th sync of a directory fails."""

    def __init__(self, at: int = -1) -> None:
        self.synced: list[str] = []
        self._left = at

    def sync_directory(self, path: str) -> None:
        self._left -= 1
        if self._left == -1:
            raise OSError(errno.EIO, "the disk says no", path)
        self.synced.append(path)


def test_a_directory_whose_name_is_not_durable_is_synced_at_the_next_start(tmp_path: Path) -> None:
    for at, directory in enumerate(("a", "a/b", "a/b/c")):
        base = tmp_path / str(at)
        base.mkdir()
        wanted = str(base / "a/b/c")
        with pytest.raises(OSError, match="says no"):
            FailingOnce(at + 1).make_directory(wanted)
        assert (base / directory).is_dir()
        again = FailingOnce()
        again.make_directory(wanted)
        assert str((base / directory).parent) in again.synced


def test_a_directory_that_lies_where_the_node_may_not_look_is_no_error(tmp_path: Path) -> None:
    class Refusing(OsFilesystem):
        def sync_directory(self, path: str) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", path)

    Refusing().make_directory(str(tmp_path))
    with pytest.raises(PermissionError):
        Refusing().make_directory(str(tmp_path / "new"))


def test_an_aborted_snapshot_leaves_no_file() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 3))
    names = disk.list("/data/groups/0")
    writer = storage.begin_snapshot(meta(2), False)
    writer.write(bytes(300_000))
    assert disk.list("/data/groups/0") != names
    writer.abort()
    writer.abort()
    assert disk.list("/data/groups/0") == names


def test_a_commit_that_failed_may_be_aborted() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 3))
    writer = storage.begin_snapshot(meta(2), False)
    fail_at(disk, "sync")
    with pytest.raises(DiskFailed):
        writer.commit()
    writer.abort()


def test_temporary_files_are_removed_at_open() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 3))
    storage.begin_snapshot(meta(2), False).write(bytes(300_000))
    disk = disk.copy()
    assert [name for name in disk.list("/data/groups/0") if name.endswith(".tmp")]
    build(disk).open(IDENTITY, 0, alone=False)
    assert not [name for name in disk.list("/data/groups/0") if name.endswith(".tmp")]


def test_a_storage_that_was_never_opened_says_so() -> None:
    storage = build(CrashingDisk())
    with pytest.raises(StorageError, match=r"not open; call open\(\) first"):
        storage.append([entry(1)])
    storage.close()


def test_a_term_that_a_damaged_directory_tells_of_is_durable() -> None:
    """The process died between the write and its sync: the cache shows a term that the disk may not have. Others decide
    by it what can never be committed (found by the simulator, seed 154)."""
    disk = CrashingDisk()
    storage = opened(disk)
    for first in (1, 2, 3):
        storage.append(entries(first, first))
    (place,) = (located.block.end - 5 for located, last in storage._log.index.backwards() if last == 2)
    log = disk.now[storage._log.segments[-1].path]
    log.now[place] ^= 1
    log.durable[place] ^= 1
    disk.cut_after = 1
    with pytest.raises(PowerCut):
        storage.save_hard_state(HardState(Term(10), NodeId(2)))
    found = disk.killed()
    told = build(found).open(IDENTITY, 0, alone=False)
    assert told.is_damaged and told.hard_state == HardState(Term(10), NodeId(2))
    for seed in range(16):
        again = build(found.after_power_cut(random.Random(seed))).open(IDENTITY, 0, alone=False)
        assert again.hard_state == told.hard_state
