"""Space that `FileStorage` allocates ahead: no append needs it, and no zeros of it are taken for entries, or for lost
ones."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest

from disheap.errors import DiskFailed, LogDamaged, StorageFull
from disheap.kernel.types import Entry, HardState, NodeId, Term
from disheap.testing.crashing_disk import CrashingDisk, MemoryFile
from disheap_filelog.segments import segment
from disheap_filelog.segments.identities import SLOT_BYTES
from disheap_filelog.segments.segment import SLOTS_AT
from disheap_filelog.settings import FileSettings
from disheap_filelog.storage import FileStorage
from tests.storage.parts import DIRECTORY, IDENTITY, build, entries, entry, opened, read_log

LOG_1 = f"{DIRECTORY}/log-{1:020d}"
LOG_2 = f"{DIRECTORY}/log-{2:020d}"
SEGMENT_BYTES = 64 << 10


def allocated(*appends: list[Entry]) -> tuple[CrashingDisk, FileStorage]:
    """A storage that has allocated space after its first append, and made the others since."""
    disk = CrashingDisk()
    storage = opened(disk)
    for number, batch in enumerate(appends):
        storage.append(batch)
        if number == 0:
            storage.preallocate()
    return disk, storage


def content(disk: CrashingDisk, path: str = LOG_1) -> bytearray:
    return disk.now[path].now


def used(data: bytearray) -> int:
    return len(data.rstrip(b"\0"))


def put_slot(data: bytearray, number: int, slot: bytes) -> None:
    at = SLOTS_AT + number * SLOT_BYTES
    data[at : at + SLOT_BYTES] = slot


def reopen(disk: CrashingDisk, alone: bool = False) -> tuple[FileStorage, Any]:
    storage = build(disk)
    return storage, storage.open(IDENTITY, 1 << 20, alone)


def test_an_append_into_allocated_space_does_not_change_the_size_of_the_file() -> None:
    disk, storage = allocated([entry(1)])
    size = len(content(disk))
    assert size == SEGMENT_BYTES, "a segment this small is allocated whole"
    for index in range(2, 60):
        storage.append([entry(index)])
    assert len(content(disk)) == size
    assert bytes(disk.now[LOG_1].durable) == bytes(content(disk))


def test_space_is_allocated_for_small_appends_alone_and_never_twice() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    changes: list[str] = []
    disk.watch = lambda operation, path, offset: changes.append(operation)
    storage.preallocate()
    assert changes == [], "nothing was appended"
    storage.append(entries(1, 4, size=3000))
    size = len(content(disk))
    storage.preallocate()
    assert len(content(disk)) == size, "the appends are large"
    storage.append([entry(5)])
    storage.preallocate()
    assert len(content(disk)) == SEGMENT_BYTES
    storage.append([entry(6)])
    changes.clear()
    storage.preallocate()
    assert changes == []


@pytest.mark.parametrize("alone", [True, False])
def test_zeros_behind_the_last_block_are_no_lost_block_if_no_mark_says_so(alone: bool) -> None:
    disk, _ = allocated(entries(1, 3), [entry(4)])
    disk = disk.copy()
    assert len(content(disk)) - used(content(disk)) > 1000
    storage, recovered = reopen(disk, alone)
    assert (recovered.last_index, recovered.ambiguous_after, recovered.damaged) == (4, None, ())
    assert list(recovered.tail) == entries(1, 4)
    storage.append([entry(5)])
    storage.close()
    assert read_log(reopen(disk, alone)[0], 1, 99) == entries(1, 5)


def test_a_lost_block_is_damage_for_a_member_and_dropped_by_a_node_alone() -> None:
    disk, _ = allocated(entries(1, 3), [entry(4)], entries(5, 6))
    disk = disk.copy()
    data = content(disk)
    block = data.rindex(b"DHB1")
    data[block:] = bytes(len(data) - block)
    found = disk.copy()
    storage, recovered = reopen(found)
    assert [(place.first, place.last, place.term) for place in recovered.damaged] == [(5, 6, 1)]
    storage.mend(entries(5, 6))
    storage.close()
    storage, recovered = reopen(found)
    assert (recovered.damaged, recovered.ambiguous_after) == ((), None)
    assert read_log(storage, 1, 99) == entries(1, 6)
    assert reopen(disk, alone=True)[1].last_index == 4


def test_an_append_of_several_blocks_that_lost_its_end_is_ambiguous() -> None:
    """Its mark was lost, too. The last block that is there says that another one follows."""
    disk, _ = allocated([entry(1)], entries(2, 5, size=3000))
    disk = disk.copy()
    data = content(disk)
    block = data.rindex(b"DHB1")
    data[block:] = bytes(len(data) - block)
    put_slot(data, 1, bytes(SLOT_BYTES))
    _, recovered = reopen(disk)
    assert recovered.last_index < 5
    assert recovered.ambiguous_after == recovered.last_index


def test_an_append_of_several_blocks_of_which_nothing_is_left_is_ambiguous() -> None:
    """Its mark tells of the first block alone."""
    disk, _ = allocated([entry(1)], entries(2, 5, size=3000))
    disk = disk.copy()
    data = content(disk)
    first = data.index(b"DHB1", data.index(b"1/1:"))
    data[first:] = bytes(len(data) - first)
    _, recovered = reopen(disk)
    assert (recovered.last_index, recovered.ambiguous_after, recovered.damaged) == (1, 1, ())


def test_zeros_whose_mark_is_damaged_are_ambiguous() -> None:
    disk, _ = allocated(entries(1, 3), [entry(4)])
    disk = disk.copy()
    data = content(disk)
    put_slot(data, 2, b"\1" + bytes(SLOT_BYTES - 1))
    _, recovered = reopen(disk)
    assert (recovered.last_index, recovered.ambiguous_after) == (4, 4)


def test_damage_in_a_slot_further_on_is_none_of_the_log() -> None:
    disk, _ = allocated(entries(1, 3), [entry(4)])
    disk = disk.copy()
    put_slot(content(disk), 9, b"\1" + bytes(SLOT_BYTES - 1))
    _, recovered = reopen(disk)
    assert (recovered.last_index, recovered.ambiguous_after, recovered.damaged) == (4, None, ())


def test_a_lost_block_that_was_durable_is_damage_in_allocated_space_too() -> None:
    disk, storage = allocated(entries(1, 3), [entry(4)])
    storage.flush()
    disk = disk.copy()
    data = content(disk)
    block = data.rindex(b"DHB1")
    data[block:] = bytes(len(data) - block)
    _, recovered = reopen(disk)
    assert [(place.first, place.last) for place in recovered.damaged] == [(4, 4)]


def test_zeros_of_a_segment_without_marks_are_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(segment, "VERSION", 1)
        disk, _ = allocated(entries(1, 3), [entry(4)])
        disk = disk.copy()
    put_slot(content(disk), 1, bytes(SLOT_BYTES))
    storage, recovered = reopen(disk)
    assert (recovered.last_index, recovered.ambiguous_after) == (4, 4)
    storage.append([entry(5)])
    assert disk.list(DIRECTORY).count(LOG_2.removeprefix(f"{DIRECTORY}/")) == 1


def test_an_empty_segment_of_an_earlier_version_is_not_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(segment, "VERSION", 1)
        disk = CrashingDisk()
        opened(disk).close()
    storage, _ = reopen(disk)
    storage.append(entries(1, 3))
    assert b"DHB1" not in content(disk)
    assert b"DHB1" in content(disk, LOG_2)


def test_unused_space_is_freed_when_the_next_segment_begins() -> None:
    disk, storage = allocated([entry(1)])
    storage.close()
    end = used(content(disk))
    reopen(disk)
    assert len(content(disk)) == end


def test_a_segment_is_never_allocated_beyond_its_size() -> None:
    disk, storage = allocated([entry(1)])
    for index in range(2, 400):
        storage.append([entry(index, size=400)])
        storage.preallocate()
    sizes = [len(inode.now) for path, inode in disk.now.items() if "/log-" in path]
    assert len(sizes) > 2
    assert all(size < SEGMENT_BYTES + 600 for size in sizes)
    assert read_log(storage, 2, 399) == [entry(index, size=400) for index in range(2, 400)]


@pytest.mark.parametrize("room", [0, 1, 5000])
def test_a_disk_without_room_allocates_nothing_and_goes_on(room: int) -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append([entry(1)])
    size = len(content(disk))
    disk.room = room
    storage.preallocate()
    assert len(content(disk)) == size
    disk.room = -1
    storage.append([entry(2)])
    storage.preallocate()
    assert len(content(disk)) == SEGMENT_BYTES
    assert read_log(reopen(disk.without_unsynced())[0], 1, 9) == entries(1, 2)


def test_an_append_without_room_behind_the_allocated_space_leaves_nothing() -> None:
    disk, storage = allocated([entry(1)], [entry(2)])
    batch = entries(3, 30, size=3000)
    assert sum(len(item.data) for item in batch) > SEGMENT_BYTES
    disk.room = 100
    with pytest.raises(StorageFull):
        storage.append(batch)
    disk.room = -1
    for _ in range(2):
        _, recovered = reopen(disk.copy())
        assert (recovered.last_index, recovered.ambiguous_after, recovered.damaged) == (2, None, ())
        storage.preallocate()  # zeros where the append was begun
    assert len(content(disk)) == SEGMENT_BYTES
    storage.append(batch)
    assert read_log(reopen(disk.copy())[0], 1, 99) == [*entries(1, 2), *batch]


def test_the_usage_counts_what_is_used() -> None:
    disk, storage = allocated([entry(1)])
    assert storage.usage().log_bytes == used(content(disk))


def test_an_error_while_space_is_allocated_is_final() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append([entry(1)])

    def watch(operation: str, path: str, offset: int) -> None:
        if operation == "sync":
            raise OSError(errno.EIO, "the disk says no", path)

    disk.watch = watch
    with pytest.raises(DiskFailed):
        storage.preallocate()
    disk.watch = lambda operation, path, offset: None
    with pytest.raises(DiskFailed):
        storage.append([entry(2)])


def test_nothing_is_allocated_in_a_damaged_log() -> None:
    disk, _ = allocated([entry(1)], [entry(2)], [entry(3)])
    disk = disk.copy()
    data = content(disk)
    data[data.index(b"1/2:")] ^= 1
    storage, recovered = reopen(disk)
    assert recovered.is_damaged
    before = bytes(content(disk))
    storage.preallocate()
    assert bytes(content(disk)) == before


def test_a_power_cut_around_an_allocation_leaves_acknowledged_entries_certain() -> None:
    """Blocks of one sector each: what was under way is there, or was begun, or was not."""
    for seed in range(60):
        generator = random.Random(seed)
        disk, storage = CrashingDisk(), None
        storage = opened(disk)
        storage.append([entry(1)])
        acknowledged = 1
        disk.cut_after = generator.randint(1, 12)
        try:
            storage.preallocate()
            for index in range(2, 9):
                storage.append([entry(index)])
                acknowledged = index
        except BaseException as error:
            assert type(error).__name__ == "PowerCut"
        storage, recovered = reopen(disk.after_power_cut(generator))
        if recovered.damaged:
            assert [(place.first, place.last) for place in recovered.damaged] == [(acknowledged + 1,) * 2]
        else:
            assert recovered.last_index in (acknowledged, acknowledged + 1)
            assert read_log(storage, 1, 99) == entries(1, recovered.last_index)


def test_a_damaged_block_with_a_damaged_mark_stops_only_a_node_alone() -> None:
    """The slot may have been its identity: then the block was durable."""
    disk, _ = allocated(entries(1, 3), [entry(4)])
    disk = disk.copy()
    data = content(disk)
    data[data.rindex(b"DHB1")] ^= 1
    data[SLOTS_AT + SLOT_BYTES + 5] ^= 1
    with pytest.raises(LogDamaged):
        reopen(disk.copy(), alone=True)
    _, recovered = reopen(disk)
    assert (recovered.last_index, recovered.ambiguous_after, recovered.damaged) == (3, 3, ())


def test_space_is_written_in_small_pieces() -> None:
    """Linux keeps a large write in large folios, and every later fsync of a page in them is slower."""
    disk = CrashingDisk()
    storage = build(disk, settings=FileSettings(segment_bytes=4 << 20))
    sizes: list[int] = []
    write = MemoryFile.write
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MemoryFile, "write", lambda file, data, at: (sizes.append(len(data)), write(file, data, at))[1])
        storage.open(IDENTITY, 0, alone=True)
        storage.save_hard_state(HardState(Term(1), NodeId(1)))
        storage.append([entry(1)])
        storage.preallocate()
    assert max(sizes) <= 16 << 10
    assert len(content(disk)) - used(content(disk)) >= 250 << 10
