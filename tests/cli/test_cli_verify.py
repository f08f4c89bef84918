"""`disheap verify`: what a backup holds, and whether it is sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from disheap.interfaces import MachineContext
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import SessionLimits
from disheap.runtime.state.sessions import Sessions
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings
from tests.cli.command_line import run
from tests.support.backups import backup_of, group_head


def state() -> list[bytes]:
    return list(Sessions(HeapMachine(HeapSettings(), MachineContext()), SessionLimits(), ReplySink()).snapshot())


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "x.backup"
    path.write_bytes(backup_of([state(), state()]))
    return path


def test_a_sound_backup_says_what_it_holds(backup: Path) -> None:
    ended = run("verify", str(backup))
    assert ended.code == 0, ended.err
    assert "0123456789abcdef" in ended.text and "It is sound" in ended.text
    found = run("verify", str(backup), "--json")
    assert found.code == 0 and found.err == ""
    assert found.json["sound"] and [group["index"] for group in found.json["groups"]] == [120, 120]
    assert found.json["groups"][0]["machine_stats"]["topics"] == 0


def test_a_backup_is_read_from_a_pipe(backup: Path) -> None:
    ended = run("verify", "-", "--json", stdin=backup.read_bytes())
    assert ended.code == 0 and ended.json["file_bytes"] == backup.stat().st_size


def test_what_is_wrong_with_a_backup_is_told_with_its_exit_code(backup: Path, tmp_path: Path) -> None:
    whole = backup.read_bytes()
    for content, code, error in (
        (whole[:-1], 3, "backup-truncated"),
        (whole[:-1] + b"\0", 3, "backup-damaged"),
        (b"hello, this is no backup", 3, "backup-damaged"),
        (backup_of([[b"no state"]]), 3, "snapshot-damaged"),
        (backup_of([state()], [group_head(machine="abacus")]), 2, "plugin-error"),
    ):
        backup.write_bytes(content)
        ended = run("verify", str(backup), "--json")
        assert (ended.code, ended.out) == (code, b"")
        assert f'"error": "{error}"' in ended.err
    missing = run("verify", str(tmp_path / "none"))
    assert missing.code == 3 and "cannot be read (No such file or directory)" in missing.err
