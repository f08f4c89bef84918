"""Changes of members that cannot be now: a second one at once, and a node of a release that does not fit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.runtime.test_membership import growing
from tests.support.nodes import Node, TestRegistry
from tests.support.wire import wait_until

from disheap.errors import ChangeInProgress, MemberAlive, QuorumAtRisk
from disheap.kernel.membership import voters_of
from disheap.kernel.types import NodeId
from disheap.testing.counter import CounterMachine
from disheap.testing.simulator.cluster.releases import next_release


class NextRegistry(TestRegistry):
    """The machines as the next release has them."""

    machines = {**TestRegistry.machines, "counter": next_release(CounterMachine)}  # noqa: RUF012


async def test_of_two_changes_at_once_the_second_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        first, second = (name for name in ("n1", "n2", "n3") if name != leader.name)
        done, refused = await asyncio.gather(
            leader.membership.change("demote", first),
            leader.membership.change("remove", second, force=True),
            return_exceptions=True,
        )
        assert not isinstance(done, BaseException) and done.role == "learner"
        assert isinstance(refused, ChangeInProgress) and "repeat in a moment" in str(refused)
        assert len(leader.group.raft.membership.members) == 3 and len(voters_of(leader.group.raft.membership)) == 2
        await leader.membership.change("remove", second, force=True)
        assert len(leader.group.raft.membership.members) == 2


def pause(leader: Node, monkeypatch: pytest.MonkeyPatch, come_back: bool = True) -> list[None]:
    """Nobody seems to be in touch until the leader has looked three times, or ever. Returns a list that grows with each
    look."""
    contact, asked = leader.group.contact, list[None]()
    in_touch = contact.members_in_touch

    def after_a_pause() -> set[NodeId]:
        asked.append(None)
        return in_touch() if come_back and len(asked) > 3 else set()

    monkeypatch.setattr(contact, "members_in_touch", after_a_pause)
    return asked


@pytest.mark.parametrize("come_back", [True, False])
async def test_a_change_waits_a_moment_for_members_that_do_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, come_back: bool
) -> None:
    """After a pause of the leader its peers' answers wait to be read."""
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        asked = pause(leader, monkeypatch, come_back)
        other = next(name for name in ("n1", "n2", "n3") if name != leader.name)
        if come_back:
            assert (await leader.membership.change("remove", other)).role == "removed"
        else:
            with pytest.raises(QuorumAtRisk):
                await leader.membership.change("remove", other)
        assert len(asked) > 3
        assert len(leader.group.raft.membership.members) == (2 if come_back else 3)


async def test_a_member_is_not_replaced_whose_answers_wait_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause of the leader no member seems to be in touch. One that was replaced has lost its vote for ever."""
    async with growing(tmp_path) as cluster:
        await cluster.wait_leader()
        await cluster.grow("n2", "n3")
        leader = await cluster.wait_leader()
        asked = pause(leader, monkeypatch)
        other = next(name for name in ("n1", "n2", "n3") if name != leader.name)
        with pytest.raises(MemberAlive, match="so it has its data"):
            await leader.membership.change("replace", other)
        assert len(asked) > 3 and len(voters_of(leader.group.raft.membership)) == 3


async def test_a_node_that_does_not_run_the_clusters_version_is_not_let_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with growing(tmp_path) as cluster:
        older = cluster.registry
        await cluster.stop("n1")
        cluster.registry = NextRegistry.load()
        leader = await cluster.start("n1")
        await wait_until(lambda: leader.group.sessions.machine_version == 2, "the version is raised")
        node = Node(cluster.config("n2"), registry=older)
        task = asyncio.create_task(node.start())
        await wait_until(lambda: "the cluster does not let this node in" in caplog.text, "it says why")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await node.stop()
        assert "machine_version 2" in caplog.text and "n2 (release" in caplog.text and "runs 1 to 1" in caplog.text
        assert "Install the release that the other members run" in caplog.text
        assert len(leader.group.raft.membership.members) == 1
