"""`disheap backup`: one file with all groups of a running cluster, or none."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import msgspec
import pytest

from disheap.cli.processes.local_cluster import free_ports
from disheap.client.core.url import parse
from disheap.client.io.blocking_driver import BlockingClient
from disheap.runtime.replica.backups import IDLE_S
from tests.cli.command_line import Ended, run
from tests.support.nodes import Cluster

backup: Any = importlib.import_module("disheap.cli.backup")
Running = tuple[Cluster, str]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Three nodes with two groups."""
    ports = [f"127.0.0.1:{port}" for port in free_ports(6)]
    addresses = list(zip(ports[::2], ports[1::2], strict=True))
    cluster = Cluster(tmp_path / "nodes", transport="tcp", storage="file", machine="heap", addresses=addresses)
    for name, config in cluster.configs.items():
        cluster.configs[name] = msgspec.structs.replace(config, groups=2)
    async with cluster:
        for node in cluster.nodes.values():
            for group in range(2):
                await node.wait_for_leader(group=group)
        yield cluster, "disheap://" + ",".join(client for _, client in addresses)


async def told(*words: str, **more: Any) -> Ended:
    return await asyncio.to_thread(run, *words, **more)


async def test_a_backup_holds_the_messages_of_every_group(running: Running, tmp_path: Path) -> None:
    cluster, url = running
    for group in range(2):
        for words in (("topic", "create", "jobs"), ("enqueue", "jobs", f"of group {group}")):
            assert (await told(*words, "--url", f"{url}?group={group}")).code == 0
    file = tmp_path / "all.backup"
    done = await told("backup", str(file), "--url", url, "--json")
    assert done.code == 0, done.err
    assert done.json["groups"] == 2 and done.json["file_bytes"] == file.stat().st_size
    assert file.stat().st_mode & 0o077 == 0
    found = (await told("verify", str(file), "--json")).json
    assert found["cluster_id"] == done.json["cluster_id"] == cluster.nodes["n1"].cluster_id
    assert [group["machine_stats"]["ready"] for group in found["groups"]] == [1, 1]
    assert [group["members"] for group in found["groups"]] == [["n1", "n2", "n3"]] * 2
    again = await told("backup", str(file), "--url", url)
    assert again.code == 2 and "exists; give another name, or --overwrite" in again.err
    piped = await told("backup", "--to", "-", "--url", url)
    assert piped.code == 0 and (await told("verify", "-", stdin=piped.out)).code == 0
    assert "group 1" in piped.err, "standard error shows how far it is"
    replaced = await told("backup", str(file), "--overwrite", "--url", url)
    assert replaced.code == 0, replaced.err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["all.backup"]


async def test_the_snapshot_of_the_highest_group_is_taken_first(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has begun before the next one is, and all are written before the first one is copied. So a coordinator's
    group is not older than its participants, and not much younger."""
    _, url = running
    ask, log = BlockingClient.admin, []

    def logged(client: BlockingClient, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        answer = ask(client, request, timeout_s)
        if request["op"] == "backup" or (request["op"] == "backup-read" and answer["ready"]):
            log.append((request["op"], client.url.group))
            assert request["op"] != "backup" or answer["begun"]
        return answer

    monkeypatch.setattr(BlockingClient, "admin", logged)
    assert (await told("backup", str(tmp_path / "x.backup"), "--url", url)).code == 0
    assert log[:4] == [("backup", 1), ("backup", 0), ("backup-read", 1), ("backup-read", 0)]
    assert [one for one in log[4:] if one[0] == "backup"] == []
    assert list(dict.fromkeys(group for _, group in log[4:])) == [0, 1]


def test_the_next_group_waits_until_the_moment_of_this_one_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry is half applied in group 1, or an older snapshot is being written there."""
    log: list[tuple[int, str]] = []
    answers = {1: iter([(False, False), (False, True), (True, True), (True, True)]), 0: iter([(True, True)] * 2)}

    def ask(url: Any, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        log.append((url.group, request["op"]))
        begun = {"backup": 7, "group": url.group, "cluster_id": "c", "begun": False, "groups": [0, 1]}

        def admin(request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            ready, has_begun = next(answers[url.group])
            log.append((url.group, request["op"]))
            return {"ready": ready, "begun": has_begun}

        client = MagicMock(driver=SimpleNamespace(admin=admin))
        return client, begun

    monkeypatch.setattr(backup, "asked_leader", ask)
    with ExitStack() as clients:
        taken = backup._take_all(parse("disheap://h"), clients, MagicMock())
    assert [one.group for one in taken] == [0, 1]
    first, second = (1, "backup-read"), (0, "backup-read")
    assert log == [(0, "status"), (1, "backup"), first, first, (0, "backup"), second, first, second]


def test_a_snapshot_that_waits_for_its_turn_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node gives up what nobody has read for `IDLE_S`."""
    now, read = [0.0], []
    monkeypatch.setattr(backup.time, "monotonic", lambda: now[0])
    admin = lambda request, timeout_s: read.append((now[0], request["offset"])) or {"ready": True}  # noqa: E731
    client: Any = SimpleNamespace(driver=SimpleNamespace(admin=admin))
    waiting = backup._Snapshot(client, {"backup": 7, "group": 1, "cluster_id": "c"})
    for now[0] in range(61):
        waiting.renew()
    assert read == [(16, 0), (32, 0), (48, 0)]
    assert backup.KEEP_EVERY_S + backup.PAGE_TIMEOUT_S < IDLE_S


async def test_a_backup_that_fails_leaves_no_file(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node forgets it, as after a restart, when half of it is written."""
    _, url = running
    ask = BlockingClient.admin

    def failing(client: BlockingClient, request: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        if request["op"] == "backup-read" and client.url.group == 1:
            ask(client, {"op": "backup-end", "backup": request["backup"]})
        return ask(client, request, timeout_s)

    monkeypatch.setattr(BlockingClient, "admin", failing)
    file = tmp_path / "half.backup"
    failed = await told("backup", str(file), "--url", url, "--json")
    assert failed.code == 5 and '"error": "backup-lost"' in failed.err and failed.out == b""
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "name one FILE"),
        (("a", "--to", "b"), 2, "name one FILE"),
        (("missing/file.backup",), 3, "cannot be written (No such file or directory)"),
    ],
)
def test_a_backup_that_cannot_be_written_asks_no_node(words: tuple[str, ...], code: int, text: str) -> None:
    ended = run("backup", *words, "--url", "disheap://127.0.0.1:1?timeout_s=0.01")
    assert ended.code == code and text in ended.err


def test_a_terminal_gets_no_backup() -> None:
    ended = run("backup", "-", screen=True)
    assert ended.code == 2 and "standard output is a terminal" in ended.err
