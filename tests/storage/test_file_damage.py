"""What `FileStorage` makes of a disk that lies: torn tails, rot, files that are gone (storage rules 1 to 5)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from disheap.errors import RESTORE, LogDamaged, SnapshotDamaged, StorageError, WrongCodec, WrongDirectory
from disheap.interfaces import KnownPeers, Recovered
from disheap.kernel.types import Entry, HardState, Index, NodeId, Term
from disheap.testing.crashing_disk import CrashingDisk, PowerCut
from disheap_filelog.segments.identities import Slots
from disheap_filelog.storage import FileStorage
from tests.storage.parts import (
    DIRECTORY,
    IDENTITY,
    build,
    entries,
    entry,
    meta,
    opened,
    read_log,
    read_snapshot,
    write_snapshot,
)  # fmt: skip

LOG_1 = f"{DIRECTORY}/log-{1:020d}"
LOG_2 = f"{DIRECTORY}/log-{2:020d}"


def killed(*appends: list[Entry]) -> CrashingDisk:
    """The disk of a process that was killed after these appends: the last one has no identity yet."""
    disk = CrashingDisk()
    storage = opened(disk)
    for batch in appends:
        storage.append(batch)
    return disk.copy()


def content(disk: CrashingDisk, path: str) -> bytearray:
    return disk.now[path].now


def end_of(disk: CrashingDisk, path: str) -> int:
    return len(content(disk, path))


def reopen(disk: CrashingDisk, alone: bool = False) -> tuple[FileStorage, Recovered]:
    storage = build(disk)
    return storage, storage.open(IDENTITY, 1 << 20, alone)


def damage_last_byte(disk: CrashingDisk, path: str = LOG_1) -> None:
    content(disk, path)[-1] ^= 1


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.msg for record in caplog.records if isinstance(record.msg, dict)]


def damage_header(disk: CrashingDisk, path: str = LOG_1) -> None:
    """Damages the header of the last block, and its mark: nothing tells any more what was in it."""
    data = content(disk, path)
    data[data.rindex(b"DHB1")] ^= 1
    erase_mark(data)


def erase_mark(data: bytearray) -> None:
    """The mark of the last block, as if it had not arrived: the last slot that is written."""
    start, end = 12288, data.index(b"DHB1") & ~31
    last = start + (len(data[start:end].rstrip(b"\0")) - 1) // 32 * 32
    data[last : last + 32] = bytes(32)


def cut_header(data: bytearray) -> None:
    del data[-80:]


def zero_block(data: bytearray) -> None:
    data[-119:] = bytes(119)


# --- the tail -----------------------------------------------------------------------------------------------------

TAILS: dict[str, Callable[[bytearray], None]] = {
    "a damaged block": lambda data: data.__setitem__(-1, data[-1] ^ 1),
    "a block cut short": lambda data: data.__delitem__(slice(-10, None)),
    "a header cut short": cut_header,
    "a block of zeros": zero_block,
    "zeros from the block on": lambda data: (zero_block(data), data.extend(bytes(4096)))[0],
    "a header cut short, without its mark": lambda data: (cut_header(data), erase_mark(data))[0],
    "garbage": lambda data: data.extend(random.Random(5).randbytes(3000)),
    "zeros and one other byte": lambda data: data.extend(bytes(4000) + b"\1"),
}


TOLD = tuple(TAILS)[:5]
"""The header or the mark is whole, so it is known what may be lost."""

ENDS_AT_4 = ("garbage", "zeros and one other byte")
"""What lies behind the last block."""


def test_only_what_the_snapshot_does_not_stand_for_is_damage_in_a_block() -> None:
    """The rest was asked of nodes that had compacted it, in vain (found by the simulator)."""
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 2))
    storage.append(entries(3, 6))
    storage.append([entry(7)])
    write_snapshot(storage, 4, b"state")
    storage.close()
    data = content(disk, LOG_1)
    block = [at for at in range(len(data)) if data[at : at + 4] == b"DHB1"][1]
    data[block + 80] ^= 1
    storage, recovered = reopen(disk)
    assert [(place.first, place.last) for place in recovered.damaged] == [(5, 6)]
    storage.mend(entries(5, 6))
    storage.close()
    storage, recovered = reopen(disk)
    assert not recovered.is_damaged
    assert read_log(storage, 5, 7) == [entry(5), entry(6), entry(7)]


@pytest.mark.parametrize("tail", TOLD)
def test_a_member_reports_a_torn_block_whose_range_is_known_as_damage(tail: str) -> None:
    disk = killed(entries(1, 3), [entry(4)])
    TAILS[tail](content(disk, LOG_1))
    storage, recovered = reopen(disk)
    (place,) = recovered.damaged
    assert (place.first, place.last, place.term, place.file) == (4, 4, 1, LOG_1)
    assert (recovered.last_index, recovered.ambiguous_after) == (4, None)
    storage.mend([entry(4)])
    storage.close()
    storage, recovered = reopen(disk)
    assert (recovered.damaged, recovered.tail) == ((), tuple(entries(1, 4)))


@pytest.mark.parametrize("tail", [tail for tail in TAILS if tail not in TOLD])
def test_a_member_of_a_cluster_reports_an_ambiguous_tail_until_told_otherwise(tail: str) -> None:
    disk = killed(entries(1, 3), [entry(4)])
    TAILS[tail](content(disk, LOG_1))
    last = 4 if tail in ENDS_AT_4 else 3
    storage, recovered = reopen(disk)
    assert (recovered.last_index, recovered.ambiguous_after) == (last, last)
    assert list(recovered.tail) == entries(1, last)
    storage.append(entries(last + 1, last + 2, term=2))
    storage.close()
    storage, recovered = reopen(disk)
    assert (recovered.last_index, recovered.ambiguous_after) == (last + 2, last), "the ambiguity outlives a restart"
    assert read_log(storage, 1, 99) == entries(1, last) + entries(last + 1, last + 2, term=2)
    storage.clear_ambiguity()
    storage.close()
    assert reopen(disk)[1].ambiguous_after is None


@pytest.mark.parametrize("tail", TAILS)
def test_a_single_node_drops_an_ambiguous_tail_and_says_so(tail: str, caplog: pytest.LogCaptureFixture) -> None:
    disk = killed(entries(1, 3), [entry(4)])
    TAILS[tail](content(disk, LOG_1))
    last = 4 if tail in ENDS_AT_4 else 3
    storage, recovered = reopen(disk, alone=True)
    assert (recovered.last_index, recovered.ambiguous_after) == (last, None)
    (line,) = [line for line in events(caplog) if "torn or lost" in line["event"]]
    assert line["is_dropped"]
    assert (line["file"], line["last_index"]) == (LOG_1, last)
    storage.append(entries(last + 1, last + 1))
    storage.close()
    assert reopen(disk)[1].tail == tuple(entries(1, last + 1))


def test_a_second_ambiguity_lies_behind_the_first() -> None:
    disk = killed(entries(1, 3), [entry(4)])
    damage_header(disk)
    storage, _ = reopen(disk)
    storage.append(entries(4, 6))
    storage.append(entries(7, 7))
    disk = disk.copy()
    damage_header(disk, LOG_2)
    assert reopen(disk)[1].ambiguous_after == 6


def behind_its_snapshot() -> CrashingDisk:
    """A leader applies and snapshots what others made durable; its own last block was torn."""
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 3))
    storage.append(entries(4, 5))
    write_snapshot(storage, 5, b"state")
    disk = disk.copy()
    damage_header(disk)
    return disk.copy()


def test_a_log_that_ends_before_its_snapshot_goes_on_behind_it() -> None:
    disk = behind_its_snapshot()
    storage, recovered = reopen(disk)
    assert (recovered.first_index, recovered.last_index, recovered.ambiguous_after) == (6, 5, 5)
    storage.append(entries(6, 7))
    storage.close()
    storage, recovered = reopen(disk)
    assert (recovered.first_index, recovered.last_index, recovered.ambiguous_after) == (6, 7, 5)
    assert read_snapshot(storage) == b"state"


def test_the_power_may_go_while_such_a_log_is_put_right() -> None:
    for cut_after in range(1, 30):
        for seed in range(10):
            disk = behind_its_snapshot()
            disk.cut_after = cut_after
            with contextlib.suppress(PowerCut):
                storage, _ = reopen(disk)
                storage.append(entries(6, 7))
            storage, recovered = reopen(disk.after_power_cut(random.Random(seed)))
            assert recovered.ambiguous_after in (5, 7)
            assert (recovered.first_index, recovered.last_index in (5, 6, 7)) == (6, True)
            assert read_snapshot(storage) == b"state"


def test_nothing_of_a_torn_tail_is_cut_off() -> None:
    """It may be the only copy of what a majority rests on."""
    disk = killed(entries(1, 3), [entry(4)])
    damage_header(disk)
    before = bytes(content(disk, LOG_1)[-119:])
    storage, _ = reopen(disk)
    storage.append([entry(4, term=2)])
    storage.close()
    assert bytes(content(disk, LOG_1)[-119:]) == before


def test_a_torn_append_of_several_blocks_is_one_ambiguity() -> None:
    """Blocks of one fsync arrive in any order: a good one behind a bad one of its append proves nothing."""
    disk = killed([entry(1)], entries(2, 9, size=3000))
    at = content(disk, LOG_1).index(b"1/4:")
    content(disk, LOG_1)[at] ^= 1
    storage, recovered = reopen(disk)
    assert (recovered.last_index, recovered.ambiguous_after) == (3, 3)
    assert read_log(storage, 1, 99) == [entry(1), *entries(2, 3, size=3000)]


# --- damage -------------------------------------------------------------------------------------------------------


def test_a_damaged_block_with_an_identity_stops_a_single_node() -> None:
    disk = killed(entries(1, 3), [entry(4)], [entry(5)])
    at = content(disk, LOG_1).index(b"1/4:")
    content(disk, LOG_1)[at] ^= 1
    before = {path: bytes(inode.now) for path, inode in disk.now.items()}
    with pytest.raises(LogDamaged) as caught:
        reopen(disk, alone=True)
    assert caught.value.file == LOG_1
    assert at - 200 < caught.value.offset < at
    for words in ("was durable before", RESTORE, "forgotten its votes", "Nothing was changed"):
        assert words in str(caught.value)
    storage, recovered = reopen(disk)
    storage.close()
    assert [(place.first, place.last) for place in recovered.damaged] == [(4, 4)]
    assert {path: bytes(inode.now) for path, inode in disk.now.items()} == before


@pytest.mark.parametrize("identified", [lambda s: s.flush(), lambda s: s.close()], ids=["flush", "close"])
def test_the_last_block_has_an_identity_after(identified: Callable[[FileStorage], None]) -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 2))
    identified(storage)
    disk = disk.copy()
    damage_last_byte(disk)
    with pytest.raises(LogDamaged):
        reopen(disk, alone=True)
    assert [(place.first, place.last) for place in reopen(disk)[1].damaged] == [(1, 2)]


def test_a_missing_end_that_was_durable_is_damage() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 2))
    storage.close()
    del content(disk, LOG_1)[-119:]
    with pytest.raises(LogDamaged, match="block"):
        reopen(disk, alone=True)
    assert [(place.first, place.last) for place in reopen(disk)[1].damaged] == [(1, 2)]


def test_a_bad_block_before_a_later_append_is_damage_even_without_identity() -> None:
    disk = killed([entry(1)], [entry(2)], [entry(3)])
    data = content(disk, LOG_1)
    data[12288 : 12288 + 2048] = bytes(2048)  # every identity is lost
    data[data.index(b"1/2:")] ^= 1
    with pytest.raises(LogDamaged, match="a later one follows"):
        reopen(disk, alone=True)


@pytest.mark.parametrize("broken", ["the headers", "all of it"])
def test_what_lay_behind_a_damaged_block_whose_end_nothing_tells_is_ambiguous(broken: str) -> None:
    """One bad sector takes the last two blocks: of the first its identity is left, of the last one nothing at all."""
    disk = killed(entries(1, 3), entries(4, 4), entries(5, 5))
    data = content(disk, LOG_1)
    erase_mark(data)
    last = data.rindex(b"DHB1")
    first = data.rindex(b"DHB1", 0, last)
    if broken == "all of it":
        data[first:] = bytes(len(data) - first)
    else:
        data[first] ^= 1
        data[last] ^= 1
    storage, recovered = reopen(disk)
    assert [(damage.first, damage.last) for damage in recovered.damaged] == [(4, 4)]
    assert recovered.last_index == 4
    assert recovered.ambiguous_after == 4
    assert storage.holding().ambiguous


def test_what_lay_behind_a_durable_block_in_which_the_file_ends_is_ambiguous() -> None:
    """Its identity was written, and that is done together with the next append."""
    disk = killed(entries(1, 3), entries(4, 4), entries(5, 5))
    data = content(disk, LOG_1)
    del data[data.rindex(b"DHB1") - 5 :]
    _, recovered = reopen(disk)
    assert [(damage.first, damage.last) for damage in recovered.damaged] == [(4, 4)]
    assert (recovered.last_index, recovered.ambiguous_after) == (4, 4)


def test_a_snapshot_that_comes_while_the_log_is_damaged_leaves_the_files() -> None:
    """However much is in them: where they end is not settled yet."""
    disk = killed(entries(1, 8, size=2000), entries(9, 16, size=2000), entries(17, 17))
    place = next(at for at in range(len(content(disk, LOG_1))) if content(disk, LOG_1)[at : at + 4] == b"1/1:")
    content(disk, LOG_1)[place] ^= 1
    storage, found = reopen(disk)
    assert found.is_damaged
    before = [path for path in sorted(disk.now) if "/log-" in path]
    writer = storage.begin_snapshot(meta(4), False)
    writer.write(b"state")
    writer.commit()
    assert [path for path in sorted(disk.now) if "/log-" in path] == before
    storage.close()


def test_identities_are_written_only_after_the_fsync_of_their_block() -> None:
    """A power cut may persist two writes of one fsync in any order."""
    disk = CrashingDisk()
    storage = opened(disk)
    seen: list[tuple[str, int]] = []
    disk.watch = lambda operation, path, offset: seen.append((operation, offset))
    start = end_of(disk, LOG_1)
    storage.append([entry(1)])
    middle = end_of(disk, LOG_1)
    storage.append([entry(2)])
    end = end_of(disk, LOG_1)
    storage.append(entries(3, 9, size=3000))
    slot = 12288
    written = Slots(bytes(content(disk, LOG_1)[slot : slot + 2048]))
    assert (written.used, written.is_identity(0), written.is_identity(1), written.is_mark(2)) == (3, True, True, True)
    storage.flush()
    assert seen == [
        ("write", start), ("write", slot), ("sync", 0),
        ("write", middle), ("write", slot), ("sync", 0),
        ("write", end), ("write", slot + 32), ("sync", 0),
        ("write", slot + 64), ("sync", 0),
    ]  # fmt: skip
    written = Slots(bytes(content(disk, LOG_1)[slot : slot + 2048]))
    assert all(written.is_identity(number) for number in range(written.used))


def test_good_blocks_without_identity_are_written_again_at_open() -> None:
    """After a failed fsync they can be in the page cache and nowhere else (Rebello et al., ATC'20)."""
    disk = killed(entries(1, 3), [entry(4)])
    seen: list[tuple[str, int]] = []
    at = content(disk, LOG_1).index(b"1/4:")
    disk.watch = lambda operation, path, offset: seen.append((operation, offset)) if path == LOG_1 else None
    reopen(disk)
    assert seen[0][0] == "write"
    assert at - 100 < seen[0][1] < at
    assert seen[1][0] == "sync"


# --- files that are gone or foreign -------------------------------------------------------------------------------


def rotated() -> CrashingDisk:
    """Segments 1, 2 and 3, all in force."""
    disk = CrashingDisk()
    storage = opened(disk)
    for index in range(1, 150):
        storage.append([entry(index)])
    storage.close()
    assert f"log-{3:020d}" in disk.list(DIRECTORY)
    return disk


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_missing_segment_is_noticed(number: int) -> None:
    disk = rotated()
    del disk.now[f"{DIRECTORY}/log-{number:020d}"]
    with pytest.raises(LogDamaged, match="missing"):
        reopen(disk)


def test_a_log_without_any_segment_is_noticed() -> None:
    disk = rotated()
    for number in (1, 2, 3):
        del disk.now[f"{DIRECTORY}/log-{number:020d}"]
    with pytest.raises(LogDamaged, match="every file of the log is missing"):
        reopen(disk)


def test_a_segment_in_anothers_place_is_noticed() -> None:
    disk = rotated()
    disk.now[LOG_2] = disk.now[LOG_1]
    with pytest.raises(LogDamaged, match="this is segment 1"):
        reopen(disk)


def test_an_older_copy_of_a_full_segment_is_noticed() -> None:
    disk = rotated()
    del content(disk, LOG_1)[-119:]
    with pytest.raises(LogDamaged):
        reopen(disk)


def test_a_directory_with_data_and_no_identity_is_not_initialised() -> None:
    for path in (LOG_1, LOG_2, f"{DIRECTORY}/meta"):
        disk = rotated()
        for name in disk.list(DIRECTORY):
            if f"{DIRECTORY}/{name}" != path:
                del disk.now[f"{DIRECTORY}/{name}"]
        with pytest.raises(WrongDirectory, match="no file 'identity'"):
            reopen(disk)
        assert disk.list(DIRECTORY) == sorted(["lock", path.removeprefix(f"{DIRECTORY}/")])


def test_a_damaged_identity_file_is_not_taken_for_a_fresh_directory() -> None:
    disk = rotated()
    content(disk, f"{DIRECTORY}/identity")[10] ^= 1
    with pytest.raises(LogDamaged, match="whose data these are"):
        reopen(disk)


def test_a_log_of_another_codec_is_refused_with_the_way_back() -> None:
    disk = rotated()
    with pytest.raises(
        WrongCodec, match=r"written with codec 'none'.*configuration says 'zstd'.*Set codec back to 'none'"
    ):
        build(disk, codec_name="zstd").open(IDENTITY, 0, alone=False)
    storage, recovered = reopen(disk)
    assert recovered.last_index == 149
    storage.close()


# --- hard state ---------------------------------------------------------------------------------------------------


def test_either_copy_of_the_hard_state_may_rot() -> None:
    for slot in (0, 4096):
        disk = rotated()
        content(disk, f"{DIRECTORY}/meta")[slot + 20] ^= 1
        storage, recovered = reopen(disk)
        assert recovered.hard_state == (9, 1)
        storage.close()
        content(disk, f"{DIRECTORY}/meta")[4096 - slot + 20] ^= 1
        assert reopen(disk)[1].hard_state == (9, 1), "the rotten copy was repaired"


@pytest.mark.parametrize("loss", ["both copies", "the file"])
def test_a_lost_hard_state_stops_the_node(loss: str) -> None:
    disk = rotated()
    if loss == "the file":
        del disk.now[f"{DIRECTORY}/meta"]
    else:
        content(disk, f"{DIRECTORY}/meta")[20] ^= 1
        content(disk, f"{DIRECTORY}/meta")[4096 + 20] ^= 1
    with pytest.raises(LogDamaged, match="vote twice in one term"):
        reopen(disk)


# --- whom the node has met -----------------------------------------------------------------------------------------

MET = KnownPeers(True, ((2, 5), (3, 6)))


def test_either_copy_of_the_members_met_may_rot() -> None:
    for copy in (0, 4096):
        disk = rotated()
        storage = reopen(disk)[0]
        storage.save_known_peers(MET)
        storage.close()
        content(disk, f"{DIRECTORY}/members")[copy + 10] ^= 1
        disk.create(f"{DIRECTORY}/members.tmp")  # what a repair left that did not come to its end
        storage = reopen(disk)[0]
        assert storage.known_peers() == MET
        storage.close()
        content(disk, f"{DIRECTORY}/members")[4096 - copy + 10] ^= 1
        storage = reopen(disk)[0]
        assert storage.known_peers() == MET, "the rotten copy was repaired"
        storage.close()


@pytest.mark.proof
def test_no_byte_of_the_members_met_can_rot_into_others() -> None:
    disk = rotated()
    storage = reopen(disk)[0]
    storage.save_known_peers(MET)
    storage.close()
    for place in range(len(content(disk, f"{DIRECTORY}/members"))):
        content(disk, f"{DIRECTORY}/members")[place] ^= 0x41
        storage = reopen(disk)[0]
        assert storage.known_peers() == MET
        storage.close()


def test_a_node_that_cannot_know_whom_it_has_met_does_not_start() -> None:
    disk = rotated()
    for copy in (0, 4096):
        content(disk, f"{DIRECTORY}/members")[copy + 5] ^= 0xFF
    with pytest.raises(LogDamaged, match="neither copy of the list of members"):
        reopen(disk)


def test_hard_state_is_durable_before_any_block_of_its_term() -> None:
    storage = opened(CrashingDisk(), term=3)
    with pytest.raises(AssertionError, match="an entry of term 4, and the term saved is 3"):
        storage.append([entry(1, term=4)])
    storage.save_hard_state(HardState(Term(4), NodeId(0)))
    storage.append([entry(1, term=4)])


def test_a_hard_state_that_was_saved_survives_a_power_cut() -> None:
    """Raft Figure 2: it is durable when the call returns, whatever the disk makes of what was not synced."""
    for seed in range(20):
        disk = CrashingDisk()
        opened(disk, term=3).save_hard_state(HardState(Term(4), NodeId(2)))
        left = disk.after_power_cut(random.Random(seed))
        _, recovered = reopen(left)
        assert recovered.hard_state == HardState(Term(4), NodeId(2)), f"seed {seed}"


# --- snapshots ----------------------------------------------------------------------------------------------------


def with_snapshots(*indexes: int, compacted: bool = False) -> CrashingDisk:
    disk = CrashingDisk()
    storage = opened(disk)
    for index in range(1, 150):
        storage.append([entry(index)])
    for index in indexes:
        write_snapshot(storage, index, b"state at %d" % index)
    if compacted:
        storage.compact(Index(indexes[-1] + 1))
    storage.close()
    return disk


def snapshot_path(index: int) -> str:
    return f"{DIRECTORY}/snapshot-{index:020d}-{1:020d}"


def test_a_damaged_snapshot_gives_way_to_the_older_one_and_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = with_snapshots(50, 100)
    content(disk, snapshot_path(100))[-80] ^= 1
    storage, recovered = reopen(disk)
    assert recovered.snapshot == meta(50)
    assert read_snapshot(storage) == b"state at 50"
    assert any(snapshot_path(100) in line.get("file", "") for line in events(caplog))
    write_snapshot(storage, 120, b"state at 120")
    assert [name[:29] for name in disk.list(DIRECTORY) if "snapshot" in name] == [
        f"snapshot-{index:020d}" for index in (50, 120)
    ]


@pytest.mark.parametrize("alone", [True, False])
def test_a_damaged_snapshot_gives_way_to_a_complete_log(alone: bool) -> None:
    disk = with_snapshots(140)
    content(disk, snapshot_path(140))[-80] ^= 1
    storage, recovered = reopen(disk, alone=alone)
    assert recovered.snapshot is None and recovered.lost_snapshot is None
    assert (recovered.first_index, recovered.last_index) == (1, 149)
    assert storage.read(Index(1), Index(149), 1 << 20) == tuple(entry(index) for index in range(1, 150))


def test_a_damaged_snapshot_without_a_substitute_stops_only_a_single_node() -> None:
    for disk in (with_snapshots(50, 140, compacted=True), with_snapshots(140, compacted=True)):
        content(disk, snapshot_path(140))[-80] ^= 1
        with pytest.raises(SnapshotDamaged) as caught:
            reopen(disk, alone=True)
        storage, recovered = reopen(disk)
        storage.close()
        assert recovered.lost_snapshot is not None
        assert recovered.lost_snapshot.needed >= recovered.first_index - 1
        for words in (
            snapshot_path(140),
            "not taken for an empty state",
            RESTORE,
        ):
            assert words in str(caught.value)


def test_a_missing_snapshot_is_noticed_when_the_log_was_compacted() -> None:
    disk = with_snapshots(140, compacted=True)
    del disk.now[snapshot_path(140)]
    with pytest.raises(LogDamaged, match=r"entries from 1 on are missing"):
        reopen(disk)


def test_a_snapshot_that_rots_while_the_node_runs_is_noticed_by_the_reader() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 5))
    write_snapshot(storage, 5, bytes(1000))
    content(disk, snapshot_path(5))[-500] ^= 1
    with pytest.raises(SnapshotDamaged, match="does not match"):
        read_snapshot(storage)


def test_a_block_that_rots_while_the_node_runs_is_noticed_by_read() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append(entries(1, 5))
    content(disk, LOG_1)[content(disk, LOG_1).index(b"1/3:")] ^= 1
    with pytest.raises(LogDamaged, match="does not match any more"):
        storage.read(Index(2), Index(2), 1000)


# --- every byte ---------------------------------------------------------------------------------------------------


class Truth(NamedTuple):
    """What there is to be told, whole."""

    hard_state: HardState
    snapshot: object
    state: bytes | None
    log: list[Entry]


def truth(storage: FileStorage, recovered: Recovered) -> Truth:
    log = read_log(storage, recovered.first_index, recovered.last_index)
    return Truth(recovered.hard_state, recovered.snapshot, read_snapshot(storage), log)


def small_log(codec_name: str, is_closed: bool) -> CrashingDisk:
    disk = CrashingDisk()
    storage = build(disk, codec_name=codec_name)
    storage.open(IDENTITY, 0, alone=False)
    storage.save_hard_state(HardState(Term(9), NodeId(1)))
    storage.append(entries(1, 2))
    storage.close()
    storage = build(disk, codec_name=codec_name)
    storage.open(IDENTITY, 0, alone=False)
    storage.append([entry(3, kind=3)])  # type: ignore[arg-type]
    write_snapshot(storage, 2, b"the state" * 40)
    assert storage.compact(Index(3)) == 3  # so that nothing makes up for the snapshot
    storage.append(entries(3, 5, term=2, size=300))
    storage.close()
    storage = build(disk, codec_name=codec_name)
    storage.open(IDENTITY, 0, alone=False)
    storage.append(entries(6, 7, term=3))
    storage.append(entries(8, 8, term=3))
    if is_closed:
        storage.close()
    return disk.copy()


@pytest.mark.proof
@pytest.mark.parametrize("alone", [False, True], ids=["member", "alone"])
@pytest.mark.parametrize("is_closed", [False, True], ids=["killed", "closed"])
@pytest.mark.parametrize("used", ["none", "zstd"])
def test_no_flipped_bit_ever_leads_to_wrong_data(used: str, is_closed: bool, alone: bool) -> None:
    disk = small_log(used, is_closed)
    storage = build(disk.copy(), codec_name=used)
    expected = truth(storage, storage.open(IDENTITY, 0, alone))
    outcomes: dict[str, int] = {}
    for path in sorted(disk.now):
        for position in places(disk.now[path].now):
            damaged = disk.copy()
            damaged.now[path].now[position] ^= 1 << position % 8
            outcome = judge(lambda damaged=damaged: build(damaged, codec_name=used), alone, expected)  # type: ignore[misc]
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            assert outcome in ("same", "refused", "ambiguity", "repaired"), f"{outcome}: byte {position} of {path}"
    assert outcomes["refused"] > (500 if alone else 100)
    assert outcomes["same"] > 100
    is_told = is_closed or not alone  # the last block has an identity, or a mark that says what it was
    assert outcomes.get("ambiguity", 0) == 0 if is_told else outcomes["ambiguity"] > 50
    assert outcomes.get("repaired", 0) == 0 if alone else outcomes["repaired"] > 400


def places(data: bytearray) -> list[int]:
    """Every byte that says something and its neighbours, and some of the padding."""
    return [at for at in range(len(data)) if any(data[max(0, at - 8) : at + 9]) or at % 257 == 0]


def judge(make: Callable[[], FileStorage], alone: bool, expected: Truth) -> str:
    storage = make()
    try:
        recovered = storage.open(IDENTITY, 1 << 20, alone)
        if recovered.is_damaged:
            assert not alone
            repair(storage, recovered, expected)
            storage.close()
            storage = make()
            recovered = storage.open(IDENTITY, 1 << 20, alone)
            found = truth(storage, recovered)
            return "repaired" if _says_the_same(found, expected) and not recovered.is_damaged else "wrong"
        found = truth(storage, recovered)
    except StorageError:
        return "refused"
    if found == expected and recovered.tail == tuple(found.log):
        return "same" if recovered.ambiguous_after is None else "ambiguity"
    if _says_the_same(found, expected) and recovered.first_index > 1 and recovered.ambiguous_after is None:
        return "same"  # what the snapshot stands for is damaged, and is not counted to the log any more
    is_tail_lost = found._replace(log=expected.log) == expected and found.log == expected.log[: len(found.log)]
    is_said = alone or recovered.ambiguous_after == recovered.last_index
    return "ambiguity" if is_tail_lost and is_said and len(found.log) == len(expected.log) - 1 else "wrong"


def repair(storage: FileStorage, recovered: Recovered, expected: Truth) -> None:
    """Another node has everything."""
    if recovered.lost_snapshot is not None:
        assert expected.state is not None
        write_snapshot(storage, 2, expected.state)
    for place in recovered.damaged:
        storage.mend([item for item in expected.log if place.first <= item.index <= place.last])


def _says_the_same(found: Truth, expected: Truth) -> bool:
    return found._replace(log=expected.log) == expected and found.log == expected.log[-len(found.log) :]


def test_a_block_of_another_file_does_not_pass_for_one_of_this() -> None:
    disk = killed([entry(1)], [entry(2)])
    erase_mark(content(disk, LOG_1))
    other = CrashingDisk()
    storage = build(other, seed=77)
    storage.open(IDENTITY, 0, alone=False)
    storage.save_hard_state(HardState(Term(9), NodeId(1)))
    storage.append([entry(1)])
    storage.append([entry(2)])
    content(disk, LOG_1)[-119:] = content(other.copy(), LOG_1)[-119:]
    assert reopen(disk)[1].ambiguous_after == 1
