"""The simulated disk loses what may be lost, and nothing else."""

from __future__ import annotations

import pytest

from disheap.testing.simulator.world.filesystem import SECTOR, DiskImage, NoFaults, SimFile, SimFilesystem
from disheap.testing.simulator.world.rng import Rng

SEEDS = range(60)


def new_disk(seed: int = 1) -> tuple[DiskImage, SimFilesystem]:
    disk_image = DiskImage(Rng(seed))
    return disk_image, SimFilesystem(disk_image, NoFaults())


def content(disk_image: DiskImage, path: str) -> bytes | None:
    inode = disk_image.names.get(path)
    return bytes(inode.now) if inode is not None else None


def test_what_was_synced_survives_every_power_cut() -> None:
    for seed in SEEDS:
        disk_image, disk = new_disk(seed)
        file = disk.create("/d/log")
        file.write(b"a" * 2000, 0)
        file.sync()
        disk.sync_directory("/d")
        file.write(b"b" * 2000, 2000)
        disk_image.cut_power()
        assert (content(disk_image, "/d/log") or b"")[:2000] == b"a" * 2000


def test_an_unsynced_write_comes_in_part_in_whole_or_not_at_all() -> None:
    found: dict[bytes, None] = {}
    for seed in SEEDS:
        disk_image, disk = new_disk(seed)
        file = disk.create("/d/log")
        file.write(b"a" * 4 * SECTOR, 0)
        file.sync()
        disk.sync_directory("/d")
        file.write(b"b" * 4 * SECTOR, 0)
        disk_image.cut_power()
        data = content(disk_image, "/d/log") or b""
        sectors = [data[at : at + SECTOR] for at in range(0, len(data), SECTOR)]
        assert all(sector in (b"a" * SECTOR, b"b" * SECTOR) for sector in sectors)
        found[b"".join(sector[:1] for sector in sectors)] = None
    assert b"aaaa" in found
    assert b"bbbb" in found
    assert len(found) > 4


def test_a_rename_that_was_not_synced_happens_whole_or_not() -> None:
    outcomes: dict[tuple[bytes | None, bytes | None], None] = {}
    for seed in SEEDS:
        disk_image, disk = new_disk(seed)
        file = disk.create("/d/x.tmp")
        file.write(b"data", 0)
        file.sync()
        disk.sync_directory("/d")
        disk.rename("/d/x.tmp", "/d/x")
        disk_image.cut_power()
        outcomes[content(disk_image, "/d/x.tmp"), content(disk_image, "/d/x")] = None
    assert sorted(outcomes, key=str) == sorted([(b"data", None), (None, b"data")], key=str)


def test_a_size_may_come_without_its_data() -> None:
    found = []
    for seed in SEEDS:
        disk_image, disk = new_disk(seed)
        file = disk.create("/d/log")
        disk.sync_directory("/d")
        file.write(b"x" * 100, 0)
        disk_image.cut_power()
        found.append(content(disk_image, "/d/log") or b"")
    assert any(data and not any(data) for data in found)
    assert all(data in (b"x" * 100, bytes(len(data))) for data in found)


def test_a_killed_process_leaves_what_it_wrote_and_no_lock() -> None:
    disk_image, disk = new_disk()
    disk.create("/d/log").write(b"unsynced", 0)
    assert disk.lock("/d/lock") is not None
    other = SimFilesystem(disk_image, NoFaults())
    assert other.lock("/d/lock") is None
    disk.died()
    assert other.lock("/d/lock") is not None
    assert other.open("/d/log").read(100, 0) == b"unsynced"


def test_a_missing_file_is_an_oserror() -> None:
    _, disk = new_disk()
    with pytest.raises(FileNotFoundError):
        disk.open("/d/none")
    with pytest.raises(FileNotFoundError):
        disk.remove("/d/none")


def test_damage_changes_one_place_of_a_file_that_was_chosen() -> None:
    for seed in SEEDS:
        disk_image, disk = new_disk(seed)
        for name in ("log", "meta"):
            file = disk.create(f"/d/{name}")
            file.write(bytes(range(256)) * 8, 0)
            file.sync()
        assert disk_image.damage(lambda path: path.endswith("log")).endswith("/d/log")
        assert content(disk_image, "/d/meta") == bytes(range(256)) * 8
        differing = [at for at, byte in enumerate(content(disk_image, "/d/log") or b"") if byte != at % 256]
        assert differing
        assert differing[-1] - differing[0] < SECTOR


class Failing:
    """A sync that fails, once."""

    free_bytes = 1 << 50

    def __init__(self) -> None:
        self.fails = False

    def happens(self, operation: str, path: str) -> None:
        if self.fails and operation == "sync":
            self.fails = False
            raise OSError(5, "Input/output error", path)


def after_a_failed_sync(seed: int) -> tuple[DiskImage, SimFile]:
    """A file of one sector that is durable, and over it another one that a sync failed for."""
    disk_image, faults = DiskImage(Rng(seed)), Failing()
    disk = SimFilesystem(disk_image, faults)
    file = disk.create("/d/log")
    file.write(b"a" * SECTOR, 0)
    file.sync()
    disk.sync_directory("/d")
    file.write(b"b" * SECTOR, 0)
    faults.fails = True
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    return disk_image, file


def test_what_a_failed_sync_was_to_write_no_later_one_does() -> None:
    """The page cache shows it, and the disk has it or not (Rebello et al., ATC'20)."""
    found: dict[bytes, None] = {}
    for seed in SEEDS:
        disk_image, file = after_a_failed_sync(seed)
        file.write(b"c" * SECTOR, SECTOR)
        file.sync()
        assert file.read(SECTOR, 0) == b"b" * SECTOR
        disk_image.cut_power()
        data = content(disk_image, "/d/log") or b""
        assert data[SECTOR : 2 * SECTOR] == b"c" * SECTOR
        found[data[:1]] = None
    assert sorted(found) == [b"a", b"b"]


def test_what_is_written_again_after_a_failed_sync_and_synced_stays() -> None:
    """What that sync was to write does not come back over it (found by seed 3005402)."""
    for seed in SEEDS:
        disk_image, file = after_a_failed_sync(seed)
        file.write(b"c" * SECTOR, 0)
        file.sync()
        disk_image.cut_power()
        assert content(disk_image, "/d/log") == b"c" * SECTOR
