"""`FileStorage` on a real directory: locks, permissions, a process that is killed, the number of fsyncs."""

from __future__ import annotations

import ast
import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from disheap.errors import StorageLocked, WrongDirectory
from disheap.interfaces import Identity
from disheap.kernel.types import Index
from disheap.testing.crashing_disk import CrashingDisk
from disheap_filelog.filesystem import OsFilesystem
from tests.storage.parts import IDENTITY, build, entries, entry, opened, read_log

KILLS = 4


def test_two_storages_in_one_process_conflict(tmp_path: Path) -> None:
    first = opened(None, f"{tmp_path}/a/b/c")
    with pytest.raises(StorageLocked) as caught:
        build(None, f"{tmp_path}/a/b/c").open(IDENTITY, 0, alone=False)
    for words in (f"{tmp_path}/a/b/c is in use", "lock", "Stop that node", "data_dir of its own"):
        assert words in str(caught.value)
    first.append([entry(1)])
    first.close()
    assert build(None, f"{tmp_path}/a/b/c").open(IDENTITY, 0, alone=False).last_index == 1


def test_one_storage_is_opened_once(tmp_path: Path) -> None:
    storage = opened(None, str(tmp_path))
    with pytest.raises(StorageLocked, match="open already"):
        storage.open(IDENTITY, 0, alone=False)
    storage.append([entry(1)])


def test_two_processes_conflict(tmp_path: Path) -> None:
    storage = opened(None, str(tmp_path))
    command = [sys.executable, "-m", "tests.storage.appender", str(tmp_path), "1"]
    child = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=30)
    assert child.returncode != 0
    assert "StorageLocked" in child.stderr
    storage.close()


def test_a_refused_directory_is_unlocked_again(tmp_path: Path) -> None:
    opened(None, str(tmp_path)).close()
    with pytest.raises(WrongDirectory) as caught:
        build(None, str(tmp_path)).open(Identity("decaf", 2, "n2", 1), 0, alone=False)
    assert str(caught.value) == (
        f"{tmp_path} belongs to node 1 (n1) of cluster c0ffee, and this is node 2 (n2) of cluster decaf. Point "
        "data_dir at this node's own directory; nothing was changed"
    )
    build(None, str(tmp_path)).open(IDENTITY, 0, alone=False)


def test_a_changed_list_of_members_is_not_taken_for_another_nodes_directory(tmp_path: Path) -> None:
    """The way out is the old list, and never an empty directory: its node would be refused, or the messages gone."""
    opened(None, str(tmp_path)).close()
    with pytest.raises(WrongDirectory, match="Set them back, here and on the other nodes") as caught:
        build(None, str(tmp_path)).open(Identity("decaf", 1, "n1", 1), 0, alone=False)
    assert "data_dir" not in str(caught.value)


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "groups" / "0"
    opened(None, str(directory)).close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_a_directory_that_cannot_be_made_is_not_a_failed_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WrongDirectory, match="file/data cannot be this node's data directory"):
        build(None, f"{tmp_path}/file/data").open(IDENTITY, 0, alone=False)


def test_each_reason_to_refuse_a_directory_has_a_way_out_in_the_docs() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/how-to/recover-a-node.md").read_text()
    reasons: list[str] = []
    for path in sorted((root / "plugins/disheap_filelog").rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            place = {"LogDamaged": 2, "_damaged": 1}.get(name)
            if place is not None and len(call.args) > place:
                reasons += _said(call.args[place])
    assert len(reasons) >= 8
    assert {reason for reason in reasons if reason not in page} == set()


def _said(reason: ast.expr) -> list[str]:
    """The longest part that is always the same."""
    parts = reason.values if isinstance(reason, ast.JoinedStr) else [reason]
    texts = [str(part.value).strip(" ,").removesuffix(" any more") for part in parts if isinstance(part, ast.Constant)]
    return [max(texts, key=len)] if any(texts) else []


def test_an_append_is_one_write_of_blocks_and_one_fsync() -> None:
    disk = CrashingDisk()
    storage = opened(disk)
    storage.append([entry(1)])
    seen: list[str] = []
    disk.watch = lambda operation, path, offset: seen.append(operation)
    for index in range(2, 12):
        storage.append([entry(index)])
    assert seen == ["write", "write", "sync"] * 10, "the identity of the block before, the block, one fsync for both"


def test_a_file_is_read_and_written_whole(tmp_path: Path) -> None:
    file = OsFilesystem().create(f"{tmp_path}/f")
    data = random.Random(1).randbytes(300_000)
    file.write(data, 100)
    file.sync()
    assert (file.size(), file.read(1 << 20, 100), file.read(10, 400_000)) == (300_100, data, b"")
    assert file.read(100, 0) == bytes(100)
    file.close()
    file.close()


def test_what_a_killed_process_acknowledged_is_there(tmp_path: Path) -> None:
    """SIGKILL at some moment of an appending process, several times over one log."""
    generator, acknowledged = random.Random(3), 0
    for _ in range(KILLS):
        command = [sys.executable, "-m", "tests.storage.appender", str(tmp_path), str(acknowledged + 1)]
        with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(generator.randint(1, 60)):
                acknowledged = int(child.stdout.readline())
            os.kill(child.pid, signal.SIGKILL)
            rest = child.stdout.read().split("\n")
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        storage = build(None, str(tmp_path))
        recovered = storage.open(IDENTITY, 0, alone=True)
        assert recovered.last_index >= acknowledged
        assert read_log(storage, 1, recovered.last_index) == entries(1, recovered.last_index)
        acknowledged = recovered.last_index
        storage.close()
    assert storage.name == "file"
    assert Index(acknowledged) > KILLS
