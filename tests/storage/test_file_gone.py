"""Files of an open directory that are removed, moved or replaced. Nothing more is confirmed, nobody starts there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from disheap.errors import DiskFailed, StorageGone, StorageLocked
from disheap.interfaces import KnownPeers
from disheap.kernel.types import HardState, Index, NodeId, SnapshotMeta, Term
from disheap_filelog.storage import FileStorage
from tests.storage.parts import IDENTITY, MEMBERS, build, entries, entry, opened
from tests.support.mounts import bind_mount, why_no_bind_mounts

NO_MOUNTS = why_no_bind_mounts()


def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def filled(tmp_path: Path) -> FileStorage:
    """With a snapshot, and entries behind it."""
    storage = opened(None, str(data(tmp_path)))
    storage.append(entries(1, 6))
    writer = storage.begin_snapshot(SnapshotMeta(Index(4), Term(1), 4000, MEMBERS), replaces_log=False)
    writer.write(b"state")
    writer.commit()
    storage.usage()
    return storage


def remove_all(directory: Path) -> None:
    shutil.rmtree(directory)


def move(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def replace_by_another(directory: Path) -> None:
    move(directory)
    directory.mkdir()


def replace_by_a_file(directory: Path) -> None:
    move(directory)
    directory.write_text("")


def remove_lock(directory: Path) -> None:
    (directory / "lock").unlink()


def replace_lock(directory: Path) -> None:
    remove_lock(directory)
    (directory / "lock").write_text("")


def remove_newest_segment(directory: Path) -> None:
    max(directory.glob("log-*")).unlink()


def empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def remove_meta(directory: Path) -> None:
    (directory / "meta").unlink()


def remove_identity(directory: Path) -> None:
    (directory / "identity").unlink()


def remove_members(directory: Path) -> None:
    (directory / "members").unlink()


def remove_snapshot(directory: Path) -> None:
    next(directory.glob("snapshot-*")).unlink()


def remove_oldest_segment(directory: Path) -> None:
    min(directory.glob("log-*")).unlink()


AT_A_WRITE = [remove_all, move, replace_by_another, replace_by_a_file, remove_lock, replace_lock, empty]
AT_A_LOOK = [*AT_A_WRITE, remove_newest_segment, remove_meta, remove_identity, remove_members, remove_snapshot]


@pytest.mark.parametrize("happens", [*AT_A_WRITE, remove_newest_segment])
def test_an_append_to_files_that_are_gone_is_not_confirmed(tmp_path: Path, happens: Callable[[Path], None]) -> None:
    storage = filled(tmp_path)
    happens(data(tmp_path))
    with pytest.raises(StorageGone, match="removed, moved or replaced"):
        storage.append([entry(7)])
    with pytest.raises(DiskFailed):
        storage.append([entry(7)])
    storage.close()


@pytest.mark.parametrize("happens", [*AT_A_WRITE, remove_meta])
def test_a_vote_in_files_that_are_gone_is_not_given(tmp_path: Path, happens: Callable[[Path], None]) -> None:
    storage = filled(tmp_path)
    happens(data(tmp_path))
    with pytest.raises(StorageGone):
        storage.save_hard_state(HardState(Term(10), NodeId(2)))
    storage.close()


@pytest.mark.parametrize("happens", [*AT_A_LOOK, remove_oldest_segment])
def test_a_node_that_only_looks_notices_it_too(tmp_path: Path, happens: Callable[[Path], None]) -> None:
    storage = filled(tmp_path)
    happens(data(tmp_path))
    with pytest.raises(StorageGone):
        storage.usage()
    storage.close()


def begin_snapshot(storage: FileStorage) -> None:
    storage.begin_snapshot(SnapshotMeta(Index(6), Term(1), 6000, MEMBERS), replaces_log=False)


def remember(storage: FileStorage) -> None:
    storage.save_known_peers(KnownPeers(True, ()))


def begin_a_segment(storage: FileStorage) -> None:
    storage.append(entries(7, 70, size=4096))


@pytest.mark.parametrize("happens", [remove_all, empty, replace_by_another])
@pytest.mark.parametrize("makes_a_file", [begin_snapshot, remember, begin_a_segment])
def test_no_file_is_made_where_the_files_are_gone(
    tmp_path: Path, happens: Callable[[Path], None], makes_a_file: Callable[[FileStorage], None]
) -> None:
    """A file of its own would make the next start fail, and say that others were lost."""
    storage = filled(tmp_path)
    happens(data(tmp_path))
    with pytest.raises(StorageGone):
        makes_a_file(storage)
    storage.close()
    assert not data(tmp_path).exists() or not list(data(tmp_path).iterdir())


def test_a_snapshot_into_a_directory_that_is_gone_stands_for_nothing(tmp_path: Path) -> None:
    storage = filled(tmp_path)
    writer = storage.begin_snapshot(SnapshotMeta(Index(6), Term(1), 6000, MEMBERS), replaces_log=False)
    writer.write(b"state")
    remove_lock(data(tmp_path))
    with pytest.raises(StorageGone):
        writer.commit()
    storage.close()


def test_what_the_storage_removes_itself_is_not_missed(tmp_path: Path) -> None:
    storage = filled(tmp_path)
    for index in range(7, 200):
        storage.append([entry(index, size=2000)])
    for at in (100, 150, 190):
        writer = storage.begin_snapshot(SnapshotMeta(Index(at), Term(1), 4000, MEMBERS), replaces_log=False)
        writer.write(b"state")
        writer.commit()
        storage.compact(Index(at + 1))
        storage.usage()
    writer = storage.begin_snapshot(SnapshotMeta(Index(300), Term(1), 4000, MEMBERS), replaces_log=True)
    writer.write(b"state")
    writer.commit()
    storage.usage()
    storage.append([entry(301)])
    storage.close()
    assert build(None, str(data(tmp_path))).open(IDENTITY, 0, alone=False).last_index == 301


@pytest.mark.parametrize("happens", [remove_lock, replace_lock])
def test_nobody_else_starts_where_the_lock_was_removed(tmp_path: Path, happens: Callable[[Path], None]) -> None:
    storage = filled(tmp_path)
    happens(data(tmp_path))
    with pytest.raises(StorageLocked):
        build(None, str(data(tmp_path))).open(IDENTITY, 0, alone=False)
    storage.close()
    build(None, str(data(tmp_path))).open(IDENTITY, 0, alone=False)


@contextmanager
def by_symlink(directory: Path) -> Iterator[Path]:
    path = directory.with_name("linked")
    path.symlink_to(directory)
    yield path


@contextmanager
def by_a_winding_path(directory: Path) -> Iterator[Path]:
    yield directory / ".." / directory.name / "."


@contextmanager
def by_bind_mount(directory: Path) -> Iterator[Path]:
    path = directory.with_name("mounted")
    path.mkdir()
    with bind_mount(directory, path):
        yield path


MOUNTS = pytest.mark.skipif(bool(NO_MOUNTS), reason=NO_MOUNTS)
PATHS = [by_symlink, by_a_winding_path, pytest.param(by_bind_mount, marks=MOUNTS)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("happens", [remove_lock, replace_lock, lambda directory: None])
def test_nobody_else_starts_there_by_another_path(
    tmp_path: Path, path: Callable[[Path], AbstractContextManager[Path]], happens: Callable[[Path], None]
) -> None:
    storage = filled(tmp_path)
    happens(data(tmp_path))
    with path(data(tmp_path)) as other:
        with pytest.raises(StorageLocked):
            build(None, str(other)).open(IDENTITY, 0, alone=False)
        storage.close()
        second = build(None, str(other))
        assert second.open(IDENTITY, 0, alone=False).last_index == 6
        second.close()


@MOUNTS
def test_a_directory_that_is_covered_by_a_mount_is_noticed(tmp_path: Path) -> None:
    storage = filled(tmp_path)
    (tmp_path / "other").mkdir()
    with bind_mount(tmp_path / "other", data(tmp_path)):
        with pytest.raises(StorageGone):
            storage.append([entry(7)])
        assert list((tmp_path / "other").iterdir()) == [], "nothing is written where it does not belong"
    storage.close()
    again = build(None, str(data(tmp_path)))
    assert again.open(IDENTITY, 0, alone=False).last_index >= 6, "what was confirmed"
    again.close()


@MOUNTS
def test_a_node_that_runs_in_a_bind_mount_notices_that_it_is_unmounted(tmp_path: Path) -> None:
    """Its files are still there, at a path that nobody told it. What it would write there nobody would find."""
    (tmp_path / "source").mkdir()
    data(tmp_path).mkdir()
    with bind_mount(tmp_path / "source", data(tmp_path)):
        storage = filled(tmp_path)
    with pytest.raises(StorageGone):
        storage.append([entry(7)])
    storage.close()


def test_a_directory_that_was_moved_can_be_opened_where_it_is_now(tmp_path: Path) -> None:
    storage = filled(tmp_path)
    move(data(tmp_path))
    with pytest.raises(StorageGone):
        storage.usage()
    storage.close()
    moved = build(None, str(tmp_path / "elsewhere"))
    assert moved.open(IDENTITY, 0, alone=False).last_index == 6
    moved.close()
