"""Observer hooks: each is told its fact by real nodes, and an observer cannot hurt its node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.nodes import FAST, Cluster, TestRegistry
from tests.support.wire import wait_until
from watching_plugin import Raising, Watcher, registry_with

from disheap.config.node_config import Limits
from disheap.errors import LogDamaged
from disheap.kernel.types import Member, Membership, NodeId
from disheap.plugins import hookimpl, hookspecs
from disheap.runtime.observers import MAX_CALL_S, Observers


async def test_every_node_tells_who_leads(tmp_path: Path) -> None:
    watcher = Watcher()
    async with Cluster(tmp_path, registry=registry_with(watcher)) as cluster:
        leader = await cluster.wait_leader()

        def told() -> list[dict[str, Any]]:
            return [facts for facts in watcher.told("leader_changed") if facts["leader"] == leader.name]

        await wait_until(lambda: {facts["node"] for facts in told()} == {"n1", "n2", "n3"}, "all tell it")
        assert {(facts["group"], facts["term"]) for facts in told()} == {(0, leader.group.raft.term)}


async def test_a_snapshot_and_a_session_that_lapses_are_told(tmp_path: Path) -> None:
    watcher = Watcher()
    async with Cluster(
        tmp_path, nodes=1, registry=registry_with(watcher), limits=Limits(session_timeout_min_ms=1)
    ) as cluster:
        client, node = await cluster.client(timeout_ms=50), cluster.nodes["n1"]
        await client.call(b"+1")
        node.group.proposals.mark_snapshot()
        await wait_until(lambda: watcher.told("snapshot_taken"), "the snapshot is told")
        (taken,) = watcher.told("snapshot_taken")
        assert (taken["node"], taken["group"], taken["index"]) == ("n1", 0, node.group.raft.snapshot_index)
        assert taken["size_bytes"] > 0
        client.close()
        await wait_until(lambda: watcher.told("session_expired"), "the end of the session is told")
        assert watcher.told("session_expired") == [{"node": "n1", "session": client.session, "label": ""}]


async def test_a_session_that_its_client_closes_has_not_expired(tmp_path: Path) -> None:
    watcher = Watcher()
    async with Cluster(tmp_path, nodes=1, registry=registry_with(watcher)) as cluster:
        node = cluster.nodes["n1"]
        await cluster.client()
        (session,) = node.group.sessions.table
        await node.clients.end_session(session)
        assert not node.group.sessions.table
        assert watcher.told("session_expired") == []


async def test_quarantine_damage_and_a_change_of_members_are_told(tmp_path: Path) -> None:
    watcher = Watcher()
    async with Cluster(tmp_path, registry=registry_with(watcher)) as cluster:
        leader, follower = await cluster.wait_leader(), cluster.followers()[0]
        members = leader.group.raft.membership.members
        leader.group.raft.propose_change(Membership((*members, Member(NodeId(9), False, b""))), leader.group.now_ms())
        await wait_until(lambda: len(watcher.told("member_changed")) == 3, "every node tells of the learner")
        assert {facts["node"] for facts in watcher.told("member_changed")} == set(cluster.nodes)
        assert all(len(facts["members"]) == 4 for facts in watcher.told("member_changed"))
        leader.quarantine("its state differs from the others'")
        assert watcher.told("quarantined") == [
            {"node": leader.name, "group": 0, "reason": "its state differs from the others'"}
        ]
        follower.group.fail(LogDamaged("log", 0, "a block cannot be read", "repair it"))
        assert [facts["node"] for facts in watcher.told("damage_found")] == [follower.name]
        assert "a block cannot be read" in watcher.told("damage_found")[0]["what"]


async def test_an_observer_that_raises_is_logged_and_not_called_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raising, watcher = Raising(), Watcher()
    async with Cluster(tmp_path, registry=registry_with(raising, watcher)) as cluster:
        for _ in range(2):
            await cluster.stop((await cluster.wait_leader()).name)
            if len(cluster.nodes) == 2:
                await cluster.wait_leader()
        assert len(watcher.told("leader_changed")) > 3
    assert raising.calls == 3, "once by each node"
    said = [text for text in caplog.messages if "an observer failed" in text]
    assert len(said) == 3
    assert all("disheap-raising" in text and "disheap_leader_changed" in text for text in said)


def test_an_observer_that_stops_the_loop_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    times = iter((0.0, 2 * MAX_CALL_S, 10.0, 10.0 + 2 * MAX_CALL_S))
    observers = Observers("n1", registry_with(Watcher()).observers(), lambda: next(times))
    observers.quarantined(0, "x")
    observers.quarantined(0, "y")
    assert len([text for text in caplog.messages if "stopped the node's loop" in text]) == 1


def test_every_observer_hook_is_documented_and_tells_its_node_and_group() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/write-a-plugin.md").read_text()
    for name in hookspecs.OBSERVERS:
        hook = getattr(hookspecs, name)
        assert f"`{name}" in page
        assert list(hook.__annotations__)[:2] == ["node", "group"]
        assert callable(getattr(Observers, name.removeprefix("disheap_")))


class Misspelt:
    """An argument that the hook does not have."""

    @hookimpl
    def disheap_quarantined(self, cause: str) -> None: ...


def test_an_observer_with_an_unknown_argument_is_refused_when_it_is_loaded() -> None:
    registry = registry_with(Misspelt())
    assert registry.observers() == ()
    (broken,) = [row for row in registry.listing() if row.error]
    assert "cause" in broken.error


def test_a_module_of_hooks_that_is_registered_twice_is_told_once() -> None:
    watcher = Watcher()
    registry = registry_with(watcher, watcher)
    assert [one.hook for one in registry.observers()] == list(hookspecs.OBSERVERS)
    assert isinstance(registry, TestRegistry) and FAST
