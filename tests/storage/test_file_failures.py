"""A disk that says no (storage rule 6): the first error is the last thing that happens."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from disheap.errors import DiskFailed, StorageError
from disheap.kernel.types import HardState, Index, NodeId, Term
from disheap_filelog.storage import FileStorage
from tests.storage.crashing_disk import CrashingDisk
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


def test_a_full_disk_is_an_error_like_any_other() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    fail_at(disk, "write", errno.ENOSPC)
    with pytest.raises(DiskFailed, match="free space"):
        storage.append([entry(1)])


def test_a_failure_while_opening_unlocks() -> None:
    disk = CrashingDisk()
    opened(disk).close()
    disk.now["/data/groups/0/meta"].now[20] ^= 1  # so that opening has something to repair
    fail_at(disk, "sync")
    with pytest.raises(DiskFailed):
        build(disk).open(IDENTITY, 0, alone=False)
    assert build(disk).open(IDENTITY, 0, alone=False).hard_state == (9, 1)


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
