"""`disheap verify DIR` and `disheap recover`: what one node's disk holds, and a new cluster made of it."""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from disheap.interfaces import KnownPeers
from disheap.kernel.membership import voters_of
from disheap.kernel.types import NodeId
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage
from disheap.testing.inspected import InspectedMember
from disheap_filelog.filesystem import OsFilesystem
from disheap_filelog.small_files import members
from tests.cli.command_line import Ended, run
from tests.support.nodes import Cluster, transfer
from tests.support.wire import wait_until

PLAIN = ("--set", "codec=none")
NEW = ("recover", "--force-new-cluster", *PLAIN)


async def told(*words: str, **more: Any) -> Ended:
    return await asyncio.to_thread(run, *words, **more)


async def do(node: InspectedMember, command: broker.Command) -> None:
    await node.apply(broker.encode(command))


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def new_cluster(directory: Path) -> Cluster:
    """The node n1 with what was recovered, and a node n4 without data that joins it."""
    cluster = Cluster(directory.parent, nodes=1, storage="file", machine="heap")
    founder = msgspec.structs.replace(cluster.configs["n1"], bootstrap=True, members=(), data_dir=str(directory))
    cluster.configs["n1"] = founder
    changes: dict[str, Any] = {"name": "n4", "peer_listen": "n4:8300", "client_listen": "n4:8400", "bootstrap": False}
    changes |= {"join_addresses": ("n1:8300",), "data_dir": str(directory.with_name("n4"))}
    cluster.configs["n4"] = msgspec.structs.replace(founder, **changes)
    return cluster


async def live(directory: Path) -> None:
    """A cluster writes two snapshots, and three messages behind them. A session holds one of them."""
    async with Cluster(directory, storage="file", machine="heap") as cluster:
        node = await cluster.wait_leader()
        own = cluster.nodes["n1"].group
        for count, topic in enumerate(("before", "jobs"), 1):
            await do(node, broker.CreateTopic(topic))
            await node.admin({"op": "snapshot"})
            await wait_until(lambda count=count: own.counters.raft_snapshots_total == count, "n1 has a snapshot")
        for number in range(3):
            await do(node, broker.Enqueue("jobs", NewMessage(b"%d" % number)))
        await do(node, broker.Subscribe("jobs", 1))
        await wait_until(lambda: own.applied.index == node.group.applied.index, "n1 has everything")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the three nodes. Made once, in a loop of its own."""
    directory = tmp_path_factory.mktemp("lived")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(live(directory))).result()
    return directory


@pytest.fixture
def survivor(lived: Path, tmp_path: Path) -> Path:
    """What n1 has left. The others are gone, but for a copy of n2 that somebody kept."""
    shutil.copytree(lived / "n1", tmp_path / "n1")
    shutil.copytree(lived / "n2", tmp_path / "n2.kept")
    return tmp_path / "n1"


async def test_what_a_node_that_is_stopped_holds_is_told_and_nothing_of_it_changes(survivor: Path) -> None:
    before = files_of(survivor)
    found = await told("verify", str(survivor), *PLAIN, "--json")
    assert found.code == 0, found.err
    (group,) = found.json["groups"]
    assert found.json["sound"] and (group["name"], group["members"]) == ("n1", ["n1", "n2", "n3"])
    assert group["rebuilt_index"] == group["last_index"] > group["snapshot_index"] > 0
    assert (group["machine_stats"]["ready"], group["machine_stats"]["leased"]) == (2, 1)
    shown = await told("verify", str(survivor), *PLAIN)
    assert shown.code == 0 and "It is sound" in shown.text and "n1, n2, n3" in shown.text
    assert files_of(survivor) == before


@pytest.mark.parametrize(("damaged", "words"), [(0, "suffices"), (1, "and the log are to stand in for it")])
async def test_each_snapshot_of_a_directory_is_read(survivor: Path, damaged: int, words: str) -> None:
    """The state can be built all the same: of the newer one, or of the older one and the log."""
    files = sorted(survivor.glob("groups/0/snapshot-*"))
    assert len(files) == 2
    content = bytearray(files[damaged].read_bytes())
    content[len(content) // 2] ^= 1
    files[damaged].write_bytes(content)
    before = files_of(survivor)
    found = await told("verify", str(survivor), *PLAIN, "--json")
    assert found.code == 3 and not found.json["sound"]
    (group,) = found.json["groups"]
    entries = [int(file.name.split("-")[1]) for file in files]
    term = int(files[damaged].name.split("-")[2])
    assert group["snapshots"] == entries and group["snapshot_index"] == entries[1 - damaged]
    (problem,) = group["spare_problems"]
    assert problem.startswith(f"the snapshot at entry {entries[damaged]} of term {term} is damaged (")
    assert words in problem
    assert group["problems"] == [] and group["rebuilt_index"] == group["last_index"]
    assert (group["machine_stats"]["ready"], group["machine_stats"]["leased"]) == (2, 1)
    shown = await told("verify", str(survivor), *PLAIN)
    assert shown.code == 3 and "damaged where nothing is lost" in shown.text and words in shown.text
    assert files_of(survivor) == before


async def test_a_majority_that_is_lost_for_good_is_given_up_and_one_survivor_goes_on(survivor: Path) -> None:
    """Rehearsal: two of three nodes are gone. Everything that the third one has is served again, leases included."""
    before = files_of(survivor)
    done = await told(*NEW, str(survivor), "--yes", "--json")
    assert done.code == 0, done.err
    target = Path(done.json["data_dir"])
    assert target == survivor.with_name("n1.recovered") and done.json["from_cluster_id"] != done.json["cluster_id"]
    assert files_of(survivor) == before, "it can be done again"
    async with new_cluster(target) as cluster:
        node = cluster.nodes["n1"]
        await wait_until(lambda: len(voters_of(node.group.applied.membership)) == 2, "n4 joins and gets a vote")
        await do(node, broker.Enqueue("jobs", NewMessage(b"goes on")))
        await cluster.wait_equal()
        await transfer(node, "n4")
        asked = await cluster.nodes["n4"].query(broker.encode(broker.Peek("jobs", 10)))
        found = broker.decode_reply.decode(asked).messages
        assert [bytes(one.payload) for one in found] == [b"0", b"1", b"2", b"goes on"]
        shutil.move(survivor.with_name("n2.kept"), survivor.with_name("n2"))
        cluster.configs["n2"] = Cluster(survivor.parent, storage="file", machine="heap").configs["n2"]
        old = await cluster.start("n2")
        await wait_until(lambda: "belongs to cluster" in old.refusal_by(NodeId(1)), "the old member is told why")
        assert node.book.ids() == [1, 2]


async def test_a_log_that_is_damaged_is_recovered_up_to_the_damage(survivor: Path) -> None:
    segment = max(survivor.glob("groups/0/log-*"))
    content = bytearray(segment.read_bytes())
    at = content.rindex(b"\xc4\x011")  # the payload of the second message behind the snapshot
    content[at + 2] ^= 1
    segment.write_bytes(content)
    before = files_of(survivor)
    found = await told("verify", str(survivor), *PLAIN, "--json")
    assert found.code == 3 and not found.json["sound"]
    (group,) = found.json["groups"]
    assert "cannot be read" in group["problems"][0] and group["rebuilt_index"] < group["last_index"]
    assert group["machine_stats"]["ready"] == 1
    shown = await told("verify", str(survivor), *PLAIN)
    assert shown.code == 3 and "It is damaged" in shown.text
    asked = await told(*NEW, str(survivor))
    assert f"Entries from {group['rebuilt_index'] + 1} on cannot be used" in asked.text
    done = await told(*NEW, str(survivor), "--yes", "--json")
    assert done.code == 0 and done.json["groups"][0]["index"] == group["rebuilt_index"]
    assert files_of(survivor) == before


async def test_what_may_be_lost_is_told_before_anything_is_done(survivor: Path) -> None:
    asked = await told(*NEW, str(survivor))
    assert asked.code == 2 and "repeat the command with --yes" in asked.err
    for text in ("it has entries up to", "They are lost", "can never come back: n2, n3", "Stop every node"):
        assert text in asked.text
    assert not survivor.with_name("n1.recovered").exists()


async def test_a_node_that_was_removed_long_ago_is_not_taken_for_the_newest_survivor(survivor: Path) -> None:
    """Its data are whole and end at its removal. Whoever has a choice takes another directory."""
    members.write(OsFilesystem(), str(survivor / "groups/0"), KnownPeers(True, (), (2, 3), True))
    text = "ts cluster had removed this node"
    asked = await told(*NEW, str(survivor))
    assert asked.code == 2 and text in asked.text
    found = await told("verify", str(survivor), *PLAIN, "--json")
    assert found.code == 0 and [group["is_removed"] for group in found.json["groups"]] == [True]
    assert text in (await told("verify", str(survivor), *PLAIN)).text
    kept = survivor.with_name("n2.kept")
    assert text not in (await told(*NEW, str(kept))).text + (await told("verify", str(kept), *PLAIN)).text


async def test_a_new_cluster_is_refused_where_it_would_do_harm(survivor: Path, tmp_path: Path) -> None:
    unforced = await told("recover", str(survivor), "--yes")
    assert unforced.code == 2 and "add --force-new-cluster" in unforced.err
    nothing = await told(*NEW, str(tmp_path), "--yes")
    assert nothing.code == 3 and "is no data directory of a node" in nothing.err
    assert (await told(*NEW, str(survivor), "--yes")).code == 0
    again = await told(*NEW, str(survivor), "--yes")
    assert again.code == 3 and "they are not overwritten" in again.err
    coded = await told("recover", "--force-new-cluster", str(survivor), "--yes", "--to", str(tmp_path / "other"))
    assert coded.code == 2 and "was written with codec 'none'" in coded.err
    assert not (tmp_path / "other").exists()


async def test_the_data_of_a_running_node_are_left_alone(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file", machine="heap"):
        for words in (("verify", str(tmp_path / "n1"), *PLAIN), (*NEW, str(tmp_path / "n1"), "--yes")):
            refused = await told(*words)
            assert refused.code == 3 and "is in use by another process" in refused.err
