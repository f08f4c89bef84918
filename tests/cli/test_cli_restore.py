"""`disheap restore`: a new cluster that begins with the state of a backup."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from disheap import sync
from disheap.cli.processes.local_cluster import free_ports
from disheap.config.node_config import MemberConfig, NodeConfig
from disheap.interfaces import MachineContext
from disheap.protocol import broker
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import SessionLimits
from disheap.runtime.state.sessions import Sessions
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings
from tests.cli.command_line import Ended, run
from tests.support.backups import backup_of, group_head
from tests.support.nodes import Cluster
from tests.support.wire import wait_until

GROUPS = ("--set", "groups=2")
DELAY_MS = 3_600_000


async def told(*words: str, **more: Any) -> Ended:
    return await asyncio.to_thread(run, *words, **more)


def state() -> list[bytes]:
    return list(Sessions(HeapMachine(HeapSettings(), MachineContext()), SessionLimits(), ReplySink()).snapshot())


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "x.backup"
    path.write_bytes(backup_of([state()], [msgspec.structs.replace(group_head(), time_ms=time.time_ns() // 1_000_000)]))
    return path


def alone(backup: Path, *words: str, data: str = "data") -> tuple[str, ...]:
    """The words for a cluster of one."""
    place = ("--data", str(backup.parent / data))
    return ("restore", str(backup), "--cluster", "second", "--name", "n1", "--alone", *place, *words)


async def test_a_cluster_that_has_lost_every_node_lives_on_as_a_new_one(tmp_path: Path) -> None:
    """Rehearsal: three nodes with two groups, a message that is leased, one that is delayed, one that waits. All
    directories are removed. The leased message is delivered again, and nothing comes twice or too early."""
    ports = [f"127.0.0.1:{port}" for port in free_ports(6)]
    addresses = list(zip(ports[::2], ports[1::2], strict=True))
    url = "disheap://" + ",".join(client for _, client in addresses)
    cluster = Cluster(tmp_path / "nodes", transport="tcp", storage="file", machine="heap", addresses=addresses)
    for name, config in cluster.configs.items():
        cluster.configs[name] = msgspec.structs.replace(config, groups=2)
    file = str(tmp_path / "x.backup")

    def fill() -> None:
        with sync.connect(f"{url}?group=1") as client:
            jobs = client.create_topic("jobs")
            jobs.enqueue(b"later", priority=9, delay_ms=DELAY_MS)
            jobs.enqueue(b"leased", priority=5)
            jobs.enqueue(b"waiting", priority=1)
            (held,) = jobs.pop(1)
            assert held.payload == b"leased"
            assert run("backup", file, "--url", url).code == 0

    async with cluster:
        for node in cluster.nodes.values():
            for group in range(2):
                await node.wait_for_leader(group=group)
        await asyncio.to_thread(fill)
    shutil.rmtree(tmp_path / "nodes")

    second = Cluster(tmp_path / "nodes", transport="tcp", storage="file", machine="heap", addresses=addresses)
    members = [f"{name}={peer}/{client}" for name, (peer, client) in zip(second.configs, addresses, strict=True)]
    for name, config in second.configs.items():
        second.configs[name] = msgspec.structs.replace(config, groups=2)
        words = [word for member in members for word in ("--member", member)]
        place = ("--name", name, "--data", config.data_dir, "--set", "codec=none")
        restored = await told("restore", file, *place, *words, *GROUPS, "--json")
        assert restored.code == 0, restored.err
        assert restored.json["groups"][1]["ended_sessions"] >= 1
        stats = restored.json["groups"][1]["machine_stats"]
        assert (stats["ready"], stats["delayed"], stats["leased"]) == (2, 1, 0)
    assert restored.json["from_cluster_id"] == config.cluster_id() != restored.json["cluster_id"]

    def drain() -> list[tuple[bytes, int]]:
        with sync.connect(f"{url}?group=1") as client:
            found = [(one.payload, one.attempts) for one in client.topic("jobs").pop(10)]
            assert client.topics()[0].delayed == 1
            return found

    async with second:
        await asyncio.gather(*(node.wait_for_leader(group=1) for node in second.nodes.values()))
        assert await asyncio.to_thread(drain) == [(b"leased", 2), (b"waiting", 1)]
        groups = [node.replica(1).group for node in second.nodes.values()]
        await wait_until(lambda: len({group.applied.index for group in groups}) == 1, "all at one index")
        assert len({group.sessions.state_hash() for group in groups}) == 1


def test_transactions_that_are_there_by_half_are_told(backup: Path) -> None:
    """Group 1 was read first, and then both prepared, and group 0 decided before it was read."""
    states = [
        Sessions(HeapMachine(HeapSettings(), MachineContext(number)), SessionLimits(), ReplySink()) for number in (0, 1)
    ]
    publish = broker.Publish("", "nowhere", broker.NewMessage(b"x"))
    first = states[0].machine
    for session, command in (
        (0, broker.SetGroups([0, 1])),
        (1, broker.Prepare("order-7", 1, 1000, [publish], [1])),
        (1, broker.Commit("order-7", 1)),
    ):
        first.apply(1, 1, session, broker.encode(command))
    pieces = [list(one.snapshot()) for one in states]
    heads = [msgspec.structs.replace(group_head(group), time_ms=time.time_ns() // 1_000_000) for group in (0, 1)]
    backup.write_bytes(backup_of(pieces, heads))
    half = [{"transaction": "order-7", "done": 0, "missing": 1}]
    found = run("verify", str(backup), "--json")
    assert found.code == 12 and found.json["half_transactions"] == half and found.json["sound"]
    shown = run("verify", str(backup))
    assert shown.code == 12 and "Done by half: 1 parts" in shown.text and "order-7" in shown.text
    restored = run(*alone(backup, *GROUPS, "--json"))
    assert restored.code == 12 and restored.json["half_transactions"] == half
    shown = run(*alone(backup, *GROUPS, data="again"))
    assert shown.code == 12 and "MISSING_IN_GROUP" in shown.text and "Start the node now" in shown.text


def test_a_directory_with_data_is_refused_and_left_as_it_is(backup: Path) -> None:
    assert run(*alone(backup)).code == 0
    files = {path: path.read_bytes() for path in (backup.parent / "data").rglob("*") if path.is_file()}
    again = run(*alone(backup))
    assert again.code == 3 and "holds the data of a node, and they are not overwritten" in again.err
    assert {path: path.read_bytes() for path in (backup.parent / "data").rglob("*") if path.is_file()} == files


@pytest.mark.parametrize(
    ("content", "words", "code", "text"),
    [
        (lambda whole: whole[:-1], (), 3, "was cut off"),
        (lambda whole: whole[:-1] + b"\0", (), 3, "is damaged at byte"),
        (lambda whole: whole, GROUPS, 2, "the backup has 1 groups, and the configuration says groups = 2"),
        (lambda whole: whole, ("--set", "machine=none"), 2, "holds the state of machine 'heap'"),
        (lambda whole: whole, ("--bootstrap",), 2, "alone and bootstrap are set. Keep one"),
        (lambda whole: whole, ("--set", "storage=memory"), 2, "keeps nothing beyond its process"),
    ],
    ids=["cut", "damaged", "groups", "machine", "two ways", "memory"],
)
def test_a_backup_that_does_not_fit_leaves_nothing(
    backup: Path, content: Any, words: tuple[str, ...], code: int, text: str
) -> None:
    backup.write_bytes(content(backup.read_bytes()))
    ended = run(*alone(backup, *words))
    assert ended.code == code and text in ended.err, ended.err
    assert [path.name for path in backup.parent.iterdir()] == ["x.backup"]


def test_a_new_cluster_never_has_the_id_of_another_one(backup: Path) -> None:
    """It is not that of the old cluster or of an earlier restore. It is not that of a node with the same settings and
    no data. The members of one list get the same id, and from another backup another one."""
    first, second = (run(*alone(backup, data=data), "--json").json for data in ("1", "2"))
    other = backup.parent / "other.backup"
    other.write_bytes(backup_of([state()], cluster_id=first["cluster_id"]))
    members = ("--member", "n1=a:1/a:2", "--member", "n2=b:1/b:2", "--json")
    listed = [
        run("restore", str(file), "--name", name, "--data", str(backup.parent / f"{file.stem}-{name}"), *members).json
        for file in (backup, other)
        for name in ("n1", "n2")
    ]
    ids = [one["cluster_id"] for one in (first, second, *listed)]
    assert ids[2] == ids[3] and ids[4] == ids[5]
    both = (MemberConfig("n1", "a:1", "a:2"), MemberConfig("n2", "b:1", "b:2"))
    configs = NodeConfig(cluster="second", name="n1", alone=True), NodeConfig(name="n1", members=both)
    unrestored = [config.cluster_id() for config in configs]
    assert len({*ids, *unrestored, first["from_cluster_id"]}) == 7


def test_what_another_restore_has_not_finished_is_not_touched(backup: Path) -> None:
    unfinished = backup.parent / "data" / "unfinished.tmp"
    unfinished.mkdir(parents=True)
    refused = run(*alone(backup))
    assert refused.code == 3 and "another restore is running, or one was broken off" in refused.err
    assert unfinished.exists()


async def test_a_backup_of_years_ago_is_restored_after_a_question_and_its_node_leads(backup: Path) -> None:
    """Its log ends in 2023. A node alone would not believe its clock, and would not lead."""
    backup.write_bytes(backup_of([state()]))
    asked = await told(*alone(backup))
    assert asked.code == 2 and "days ago" in asked.err and "--yes" in asked.err
    assert not (backup.parent / "data").exists()
    done = await told(*alone(backup, "--yes"), "--json")
    assert done.code == 0, done.err
    assert abs(done.json["groups"][0]["time_ms"] - time.time_ns() // 1_000_000) < 60_000
    cluster = Cluster(backup.parent, nodes=1, storage="file", codec="zstd", machine="heap")
    config = msgspec.structs.replace(
        cluster.configs["n1"], cluster="second", alone=True, members=(), data_dir=str(backup.parent / "data")
    )
    cluster.configs["n1"] = config
    async with cluster:
        assert cluster.nodes["n1"].group.applied.index > 120
