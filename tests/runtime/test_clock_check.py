"""A clock that is far ahead of the log moves no log time, unless a majority of the members' clocks agree with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.test_clocks import ManualClock
from tests.support.nodes import Cluster
from tests.support.wire import wait_until

from disheap.config.node_config import Limits
from disheap.kernel.types import NodeId
from disheap.runtime.clocks import clock_check, member_clocks
from disheap.runtime.clocks.clock_check import ClockCheck
from disheap.runtime.clocks.log_clock import LogClock, SystemClock
from disheap.runtime.clocks.member_clocks import MemberClocks
from disheap.runtime.clocks.timekeeping import Timekeeper

ONE, TWO, THREE = NodeId(1), NodeId(2), NodeId(3)
THREE_VOTERS = (ONE, TWO, THREE)
MINUTE_MS, WEEK_MS, YEAR_MS = 60_000, 7 * 86_400_000, 365 * 86_400_000
NOW_MS = 1_700_000_000_000


class Checked:
    """Node 1 of three, and its clock."""

    def __init__(self, log_time_ms: int = NOW_MS) -> None:
        self.clock = ManualClock()
        self.clock.wall = NOW_MS
        self.members = MemberClocks(self.clock, lambda node: f"n{node}")
        self.check = ClockCheck(self.clock, self.members, ONE, MINUTE_MS, YEAR_MS)
        self.check.seen(log_time_ms)

    def others(self, *ahead_ms: int | None) -> Checked:
        """The clocks of nodes 2, 3 ..., by how far they are ahead of ours; None says nothing."""
        for node, ahead in enumerate(ahead_ms, 2):
            if ahead is not None:
                self.members.heard(NodeId(node), self.clock.wall + ahead)
        return self

    def may_lead(self, *voters: NodeId) -> bool:
        return not self.check.objection(voters or THREE_VOTERS)


def test_a_clock_close_to_the_log_needs_nobody() -> None:
    assert Checked(NOW_MS - MINUTE_MS).may_lead()
    assert not Checked(NOW_MS - MINUTE_MS - 1).may_lead()


def test_a_clock_behind_the_log_moves_it_nowhere_and_is_no_reason() -> None:
    assert Checked(NOW_MS + 10 * YEAR_MS).may_lead()


@pytest.mark.parametrize(
    ("ahead", "may_lead"),
    [
        ((0, 0), True),  # off over the weekend
        ((0, None), True),  # and one is still off
        ((None, None), False),  # nobody was heard yet
        ((-10 * YEAR_MS, None), False),  # one of two is wrong, and nobody knows which
        ((-10 * YEAR_MS, -10 * YEAR_MS), False),  # ours is ten years ahead
        ((-10 * YEAR_MS, 0), True),  # another one's is wrong
        ((MINUTE_MS, MINUTE_MS), True),
        ((MINUTE_MS + 1, -MINUTE_MS - 1), False),
    ],
)
def test_a_majority_of_the_clocks_decides(ahead: tuple[int | None, ...], may_lead: bool) -> None:
    assert Checked(NOW_MS - WEEK_MS).others(*ahead).may_lead() is may_lead


def test_the_first_start_of_a_cluster_needs_a_majority_too() -> None:
    """An empty log has no time that a wrong clock would be ahead of."""
    assert not Checked(0).may_lead()
    assert not Checked(0).others(-10 * YEAR_MS, -10 * YEAR_MS).may_lead()
    assert Checked(0).others(0, None).may_lead()


def test_a_node_that_has_run_since_the_newest_entry_knows_how_late_it_is() -> None:
    """An idle cluster elects without a word from others; a clock that jumped meanwhile shows."""
    checked = Checked()
    checked.clock.pass_ms(WEEK_MS)
    assert checked.may_lead()
    checked.clock.wall += 10 * YEAR_MS
    assert not checked.may_lead()


def test_our_own_jump_does_not_pass_for_the_others() -> None:
    """They were heard before it."""
    checked = Checked().others(0, 0)
    checked.clock.wall += 10 * YEAR_MS
    assert not checked.may_lead()


def test_a_clock_is_known_for_a_while_only() -> None:
    checked = Checked(NOW_MS - WEEK_MS).others(0, 0)
    checked.clock.pass_ms(int(member_clocks.BELIEVED_S * 1000) + 1)
    assert not checked.may_lead()
    assert "that of n2 is not known" in checked.check.objection(THREE_VOTERS)


def test_the_clock_of_a_member_that_is_lost_agrees_with_nobody() -> None:
    """Its clock was ten years ahead and is set right while it is down. Then ours goes ten years ahead."""
    checked = Checked().others(10 * YEAR_MS, 0)
    checked.members.lost(TWO)
    checked.clock.wall += 10 * YEAR_MS
    assert not checked.may_lead()
    assert "that of n2 is not known" in checked.check.objection(THREE_VOTERS)


@pytest.mark.parametrize(("off_ms", "may_lead"), [(WEEK_MS, True), (YEAR_MS, True), (10 * YEAR_MS, False)])
def test_a_node_alone_believes_its_clock_up_to_a_year(off_ms: int, may_lead: bool) -> None:
    assert Checked(NOW_MS - off_ms).may_lead(ONE) is may_lead
    assert Checked(0).may_lead(ONE)


def test_an_objection_says_whose_clock_is_how_wrong_and_what_to_do() -> None:
    text = (
        Checked(NOW_MS - WEEK_MS)
        .others(-10 * YEAR_MS, 0, None)
        .check.objection((ONE, TWO, THREE, NodeId(4), NodeId(5)))
    )
    assert "7 days, 0:00:00 ahead of the log" in text
    assert "that of n2 is 3650 days, 0:00:00 behind ours" in text and "n3" not in text
    assert "Set the wrong clocks right" in text
    assert "max_downtime_ms" in Checked(NOW_MS - 2 * YEAR_MS).check.objection((ONE,))


def test_log_time_follows_a_clock_that_is_far_off_only_if_others_agree() -> None:
    """The clock of a leader jumps, or the machines of all members were suspended."""
    checked = Checked().others(0, 0)
    assert checked.check.is_right(THREE_VOTERS)
    checked.clock.wall += WEEK_MS
    assert not checked.check.is_right(THREE_VOTERS)
    checked.others(0, 0)
    assert checked.check.is_right(THREE_VOTERS)


def test_log_time_keeps_the_monotonic_pace_when_the_clock_is_not_believed() -> None:
    clock = ManualClock()
    log_clock = LogClock(clock)
    log_clock.begin_term(1_000_000)
    log_clock.follows_wall = False
    clock.pass_ms(1000, wall_ms=3_600_000)
    assert log_clock.now_ms() == 1_000_000 + 1000
    assert log_clock.begin_term(2_000_000, follows_wall=False) == 0


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        ((-10 * YEAR_MS, -10 * YEAR_MS + 5), -10 * YEAR_MS + 5),  # ours was set ahead since we asked for votes
        ((-10 * YEAR_MS, None), -10 * YEAR_MS),  # the lower one of two
        ((7, None), 0),
        ((0, 0), 0),
    ],
)
async def test_a_log_begins_at_the_clock_of_the_members(ahead: tuple[int | None, ...], expected: int) -> None:
    """Seed 1796034253: an empty log has no time to go on from, and the clock jumped just before the election."""
    checked = Checked(0).others(*ahead)
    keeper = Timekeeper(checked.clock, asyncio.get_running_loop(), checked.check, 0, list)
    assert keeper.begin(THREE_VOTERS) == 0
    assert keeper.now_ms() == NOW_MS + expected


async def test_a_log_goes_on_at_its_own_time_if_our_clock_is_not_believed() -> None:
    checked = Checked(NOW_MS - WEEK_MS).others(-10 * YEAR_MS, -10 * YEAR_MS)
    keeper = Timekeeper(checked.clock, asyncio.get_running_loop(), checked.check, NOW_MS - WEEK_MS, list)
    assert keeper.begin(THREE_VOTERS) == 0
    assert keeper.now_ms() == NOW_MS - WEEK_MS


# --- whole nodes -----------------------------------------------------------------------------------------------------


class WrongClock(SystemClock):
    def __init__(self, ahead_ms: int) -> None:
        self.ahead_ms = ahead_ms

    def wall_ms(self) -> int:
        return super().wall_ms() + self.ahead_ms


async def start(cluster: Cluster, name: str, ahead_ms: int, **changes: Any) -> Any:
    from disheap.testing.inspected import InspectedMember as Node

    config = msgspec.structs.replace(cluster.configs[name], **changes)
    node = cluster.nodes[name] = Node(config, registry=cluster.registry, clock=WrongClock(ahead_ms))
    await node.start()
    return node


@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_a_node_ten_years_ahead_does_not_lead_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    monkeypatch.setattr(clock_check, "OBJECTION_S", 0.2)
    async with Cluster(tmp_path, storage=storage) as cluster:
        await (await cluster.wait_leader()).apply(b"+1")
        names = list(cluster.nodes)
        for name in names:
            await cluster.stop(name)
        wrong = await start(cluster, "n1", 10 * YEAR_MS)
        for name in names[1:]:
            await cluster.start(name)
        leader = await cluster.wait_leader()
        assert leader is not wrong
        await leader.apply(b"+1")
        await cluster.wait_equal()
        await wait_until(lambda: bool(wrong.group.clock_objection), "it says so")
        assert "3650 days" in (await wrong.status())["clock"]["objection"]
        assert leader.group.clock_objection == ""
        assert abs(wrong.group.now_ms() - SystemClock().wall_ms()) < MINUTE_MS
        leader.group.transfer(NodeId(1))
        await asyncio.sleep(3 * cluster.configs["n1"].raft.election_timeout_ms / 1000)
        assert not wrong.group.leads


async def test_a_cluster_that_was_off_for_a_week_starts_by_itself(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        await (await cluster.wait_leader()).apply(b"+1")
        names = list(cluster.nodes)
        for name in names:
            await cluster.stop(name)
        for name in names[:2]:
            await start(cluster, name, WEEK_MS)
        leader = await cluster.wait_leader()
        assert await leader.apply(b"+1") == b"2"
        assert abs(leader.group.now_ms() - WEEK_MS - SystemClock().wall_ms()) < MINUTE_MS


async def test_a_node_alone_that_was_off_for_longer_waits_for_its_operator(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        await cluster.nodes["n1"].apply(b"+1")
        await cluster.stop("n1")
        node = await start(cluster, "n1", 2 * YEAR_MS)
        await asyncio.sleep(3 * cluster.configs["n1"].raft.election_timeout_ms / 1000)
        assert not node.group.leads
        await cluster.stop("n1")
        node = await start(cluster, "n1", 2 * YEAR_MS, limits=Limits(max_downtime_ms=3 * YEAR_MS))
        assert await (await cluster.wait_leader()).apply(b"+1") == b"2"
        assert abs(node.group.now_ms() - 2 * YEAR_MS - SystemClock().wall_ms()) < MINUTE_MS


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_clusters_of_every_size_elect_a_leader_whose_clock_is_right(
    data: st.DataObject,
) -> None:
    """All were off for a week and are up again. Right is whoever is at most half a minute off."""
    size = data.draw(st.sampled_from([2, 3, 4, 5]))
    right = data.draw(st.integers(size // 2 + 1, size))
    off_ms = data.draw(st.lists(st.integers(-MINUTE_MS // 2, MINUTE_MS // 2), min_size=right, max_size=right))
    wrong = st.integers(2 * MINUTE_MS, 10 * YEAR_MS).flatmap(lambda off: st.sampled_from([off, -off]))
    off_ms += data.draw(st.lists(wrong, min_size=size - right, max_size=size - right))
    voters = tuple(NodeId(number) for number in range(1, size + 1))
    clocks, known, checks = [], [], []
    for number, off in zip(voters, off_ms, strict=True):
        clock = ManualClock()
        clock.wall = NOW_MS + off
        clocks.append(clock)
        known.append(MemberClocks(clock, str))
        checks.append(ClockCheck(clock, known[-1], number, MINUTE_MS, YEAR_MS))
        checks[-1].seen(NOW_MS - WEEK_MS)
    for members in known:
        for number, clock in zip(voters, clocks, strict=True):
            members.heard(number, clock.wall)
    assert any(not check.objection(voters) for check in checks[:right])
    for check, clock in zip(checks, clocks, strict=True):
        if not check.objection(voters):
            log_clock = LogClock(clock)
            log_clock.begin_term(NOW_MS - WEEK_MS, True)
            assert log_clock.now_ms() <= NOW_MS + MINUTE_MS
