"""The repair phase by itself: a node of paper, whose peers answer what the test says."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from disheap.errors import DiskFailed, LogDamaged, RepairIneffective, SnapshotDamaged
from disheap.interfaces import Damage, Holding, LostSnapshot
from disheap.kernel import membership
from disheap.kernel.types import Entry, HardState, Index, Member, Membership, NodeId, SnapshotMeta, Term, TermRun
from disheap.protocol.repair import Answer, Ask, AskEntries, AskSnapshot, AskStanding, Entries, SnapshotPiece, Standing
from disheap.runtime.repair import progress, repairer
from disheap.runtime.repair.repairer import Repairer
from disheap.runtime.repair.responder import Responder
from disheap.runtime.replica.lifecycle import Lifecycle
from disheap.runtime.replica.recovery import Found
from disheap.testing.simulator.world.loop import SimLoop

OWN, SECOND, THIRD = NodeId(1), NodeId(2), NodeId(3)
THREE = Membership(tuple(Member(node, True, b"") for node in (OWN, SECOND, THIRD)))
MEMBERS = membership.encode(THREE)
DAMAGE = LogDamaged("log", 0, "bad", "mend it")
ELECTION_TICKS = 10


class Thing:
    """What has the attributes that it is given."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Paper:
    """Storage, disk, group and node in one. `answers` says what a peer replies to a question, None for nothing."""

    def __init__(self, own: Holding) -> None:
        self.own, self.name = own, "n1"
        self.asked: list[tuple[NodeId, Ask]] = []
        self.sent: list[tuple[NodeId, Any]] = []
        self.done: list[Any] = []
        self.failures: list[BaseException] = []
        self.lifecycle = Lifecycle()
        self.damaged_again = 0
        self.answers: Callable[[NodeId, Ask], Answer | None] = lambda node, question: None
        self.raft = Thing(is_ambiguous=False, leader=NodeId(0), snapshot_index=0, membership=THREE)
        snapshotter = Thing(take=lambda: self.done.append("a snapshot is taken"))
        self.group: Any = Thing(
            is_running=False, raft=self.raft, snapshotter=snapshotter, applied=Thing(index=5), fail=self.failures.append
        )
        self.repairing = Repairer(cast("Any", self), 0, OWN, asyncio.get_running_loop())
        self.responder = Responder(cast("Any", self), 0, entry_bytes=1 << 20, chunk_bytes=1 << 20)

    def found(self, needs_repair: bool = True) -> Found:
        return Found(*cast("Any", (None,) * 5), needs_repair=needs_repair, voters=(OWN, SECOND, THIRD))

    async def repaired(self) -> None:
        self.repairing.begin(self.found())
        await self.ended()

    async def ended(self) -> None:
        task = self.repairing._task
        assert task is not None
        async with asyncio.timeout(3600):
            await task

    # the node
    def storage(self) -> Any:
        return self

    def disk(self) -> Any:
        return self

    def member_name(self, node: NodeId) -> str:
        return f"n{node}"

    def failed(self, error: BaseException) -> None:
        self.failures.append(error)

    def repair(self, reason: str) -> None:
        self.repairing.begin_again()

    def damage_shows(self, error: Exception) -> bool:
        """What a node does when its group cannot go on. Returns whether the repair begins."""
        if not self.repairing.can_repair(error):
            return False
        self.repairing.count_retry()
        self.repair(str(error))
        return True

    async def recover_again(self, follow: bool) -> Found:
        self.done.append("read anew")
        self.damaged_again -= 1
        return self.found(needs_repair=self.damaged_again >= 0)

    def send_repair(self, target: NodeId, message: Any) -> None:
        if not isinstance(message, AskStanding | AskEntries | AskSnapshot):
            self.sent.append((target, message))
            return
        self.asked.append((target, message))
        answer = self.answers(target, message)
        if answer is not None:
            asyncio.get_running_loop().call_soon(self.repairing.received, target, answer)

    # the disk
    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        try:
            result, error = work(), None
        except Exception as failure:
            result, error = None, failure
        asyncio.get_running_loop().call_soon(done, result, error)

    # the storage
    def holding(self) -> Holding:
        return self.own

    def mend(self, entries: list[Entry]) -> None:
        self.done.append(("mended", [entry.index for entry in entries]))
        self.own = self.own._replace(damaged=())

    def cut(self, first: Index) -> None: ...

    def clear_ambiguity(self) -> None:
        self.done.append("settled")

    def save_hard_state(self, state: HardState) -> None:
        self.done.append(state)
        self.own = self.own._replace(hard_state=state)

    def append(self, entries: tuple[Entry, ...]) -> None:
        self.done.append(("appended", [entry.index for entry in entries]))
        self.own = self.own._replace(last=entries[-1].index, ambiguous=False)

    def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> Any:
        self.done.append(("snapshot begun", meta.index))

        def commit() -> None:
            self.done.append("committed")
            self.own = self.own._replace(lost_snapshot=None)

        return Thing(write=lambda data: None, commit=commit, abort=lambda: self.done.append("aborted"))

    def open_snapshot(self, index: Index | None) -> Any:
        return None


def virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Who does not answer is waited for in no time; and who answers is in time, on a machine that is busy too."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        SimLoop().run_until_complete(test(*args, **kwargs))

    return run


def holding(last: int, *, damaged: tuple[int, ...] = (), ambiguous: bool = False, lost: int = 0) -> Holding:
    places = tuple(Damage(Index(n), Index(n), Term(1), "log", n) for n in damaged)
    lost_snapshot = LostSnapshot(Index(lost), "bad") if lost else None
    runs = (TermRun(Index(1), Term(1)),) if last else ()
    state = HardState(Term(1), NodeId(0))
    return Holding(state, Index(0), Term(0), Index(1), Index(last), runs, places, ambiguous, lost_snapshot)


def standing(last: int, *, term: int = 1, commit: int = 0, snapshot: int = 0) -> Standing:
    return Standing(0, term, False, commit, 1, snapshot, 1, 1, last, ((1, term),), (), False)


def entries(first: int, last: int, term: int = 1) -> Entries:
    return Entries(0, first, tuple((term, index, 2, 9, b"") for index in range(first, last + 1)))


def piece(index: int, *, data: bytes = b"", done: bool = True, offset: int = 0) -> SnapshotPiece:
    return SnapshotPiece(0, index, 1, 9, MEMBERS, offset, data, done)


@virtual_time
async def test_damage_found_at_run_time_brings_the_node_into_repair_for_a_while() -> None:
    paper = Paper(holding(3))
    paper.repairing.begin(paper.found(needs_repair=False))
    for error in (DAMAGE, SnapshotDamaged("bad"), DAMAGE):
        assert paper.damage_shows(error)
        await paper.ended()
    assert paper.done == ["read anew"] * repairer.MAX_RETRIES
    assert not paper.damage_shows(DAMAGE), "read three times, nothing found, and still it cannot be read"


@virtual_time
async def test_damage_that_was_found_and_repaired_does_not_count_towards_the_end() -> None:
    paper = Paper(holding(3))
    paper.answers = lambda node, question: standing(3)
    paper.repairing.begin(paper.found(needs_repair=False))
    for _ in range(2 * repairer.MAX_RETRIES):
        paper.damaged_again = 1
        assert paper.damage_shows(DAMAGE)
        await paper.ended()
    assert paper.failures == []


@virtual_time
async def test_a_repair_that_changes_nothing_is_not_tried_for_ever() -> None:
    """It finds nothing to do, and whoever opens the storage says that something is missing."""
    paper = Paper(holding(3))
    paper.damaged_again = 1_000_000
    await paper.repaired()
    assert paper.done == ["read anew"] * progress.MAX_INEFFECTIVE_REPAIRS
    (error,) = paper.failures
    assert isinstance(error, RepairIneffective)
    assert "3 repairs of group 0 in a row have changed nothing" in str(error)


@virtual_time
async def test_a_repair_that_gets_on_may_take_many_rounds() -> None:
    paper = Paper(holding(3))
    paper.damaged_again = rounds = 10 * progress.MAX_INEFFECTIVE_REPAIRS
    opened = paper.recover_again

    async def one_entry_more(follow: bool) -> Found:
        paper.own = paper.own._replace(last=Index(paper.own.last + 1))
        return await opened(follow)

    paper.recover_again = one_entry_more  # type: ignore[method-assign]
    await paper.repaired()
    assert paper.failures == []
    assert paper.done == ["read anew"] * (rounds + 1)


@virtual_time
async def test_neither_a_failed_disk_nor_a_node_alone_is_taken_back() -> None:
    paper = Paper(holding(3))
    paper.repairing.begin(paper.found(needs_repair=False))
    assert not paper.damage_shows(DiskFailed("gone"))
    paper.raft.membership = Membership(THREE.members[:1])
    assert not paper.damage_shows(DAMAGE)


@virtual_time
async def test_a_node_that_has_grown_asks_the_members_of_today() -> None:
    """It was alone when it started. Without them it would ask nobody, and end."""
    paper = Paper(holding(3, damaged=(3,)))
    paper.repairing.begin(paper.found(needs_repair=False)._replace(voters=(OWN,)))
    paper.answers = lambda node, question: standing(5) if isinstance(question, AskStanding) else entries(3, 3)
    paper.damaged_again = 1
    assert paper.damage_shows(DAMAGE)
    await paper.ended()
    assert {node for node, question in paper.asked if isinstance(question, AskStanding)} == {SECOND, THIRD}


@virtual_time
async def test_what_was_mended_is_opened_anew_before_an_ambiguous_end_is_settled() -> None:
    """Nothing is appended to files that were not put right, nor over what they may hold behind their end."""
    paper = Paper(holding(3, damaged=(3,), ambiguous=True))
    paper.answers = lambda node, question: standing(5) if isinstance(question, AskStanding) else entries(3, 3)
    await paper.repaired()
    assert paper.done == [("mended", [3]), "read anew"]


@virtual_time
async def test_a_node_with_an_ambiguous_end_and_no_leader_asks_the_others_again() -> None:
    paper = Paper(holding(3))
    paper.group.is_running = paper.raft.is_ambiguous = True
    enough = repairer.AMBIGUOUS_TIMEOUTS * ELECTION_TICKS
    for leader, ticks in ((NodeId(0), enough), (SECOND, 1), (NodeId(0), enough)):
        paper.raft.leader = leader
        for _ in range(ticks):
            paper.repairing.tick(ELECTION_TICKS)
        assert paper.repairing._task is None, "a leader that was known in between begins the count again"
    paper.repairing.tick(ELECTION_TICKS)
    await paper.ended()
    assert paper.done == ["read anew"]


@virtual_time
async def test_what_others_have_behind_an_ambiguous_end_is_taken_term_first() -> None:
    paper = Paper(holding(3, ambiguous=True))
    paper.answers = lambda node, question: (
        entries(4, 5, term=2)
        if isinstance(question, AskEntries)
        else Standing(0, 2, False, 0, 0, 0, 0, 1, 5, ((1, 1), (4, 2)), (), False)
    )
    await paper.repaired()
    assert paper.done == [HardState(Term(2), NodeId(0)), ("appended", [4, 5]), "read anew"]


@pytest.mark.parametrize("bad", [None, entries(2, 2, term=7), Entries(0, 2, ())], ids=["none", "foreign", "empty"])
@virtual_time
async def test_a_source_that_does_not_deliver_an_entry_is_passed_over(bad: Answer | None) -> None:
    paper = Paper(holding(3, damaged=(2,)))

    def answer(node: NodeId, question: Ask) -> Answer | None:
        if isinstance(question, AskStanding):
            return standing(3)
        return bad if node == SECOND else entries(2, 2)

    paper.answers = answer
    await paper.repaired()
    assert [node for node, question in paper.asked if isinstance(question, AskEntries)] == [SECOND, THIRD]
    assert paper.done == [("mended", [2]), "read anew"]
    assert paper.failures == []


@pytest.mark.parametrize(
    "bad", [None, piece(9, data=b"x", done=False)], ids=["no answer", "the first piece again and again"]
)
@virtual_time
async def test_a_source_whose_snapshot_does_not_come_whole_is_passed_over(bad: Answer | None) -> None:
    paper = Paper(holding(3, lost=4))

    def answer(node: NodeId, question: Ask) -> Answer | None:
        if isinstance(question, AskStanding):
            return standing(9, snapshot=9 if node == SECOND else 5)
        return bad if node == SECOND else piece(5)

    paper.answers = answer
    await paper.repaired()
    assert paper.done[-3:] == [("snapshot begun", 5), "committed", "read anew"]


@virtual_time
async def test_a_snapshot_that_is_being_made_is_waited_for_and_not_for_ever() -> None:
    paper = Paper(holding(3, lost=4))

    def answer(node: NodeId, question: Ask) -> Answer | None:
        if isinstance(question, AskStanding):
            return standing(9, commit=9 if node == SECOND else 5)
        waiting = paper.repairing.status()
        assert node == THIRD or not paper.repairing._waiting or "being made" in waiting["missing"]
        return piece(5) if node == THIRD else piece(0)

    paper.answers = answer
    await paper.repaired()
    tries = [node for node, question in paper.asked if isinstance(question, AskSnapshot)]
    assert tries == [SECOND] * repairer.MAX_SNAPSHOT_ROUNDS + [THIRD]


@virtual_time
async def test_a_snapshot_is_taken_for_whoever_asks_when_there_is_none_that_would_do() -> None:
    paper = Paper(holding(3))
    paper.group.is_running = True
    for needed, has, is_taken in ((4, 3, True), (4, 4, False), (6, 3, False)):
        paper.raft.snapshot_index, paper.done = has, []
        paper.responder.received(SECOND, AskSnapshot(0, 0, 0, needed))
        assert paper.done == ["a snapshot is taken"] * is_taken, (needed, has)
    await asyncio.sleep(0)
    assert [answer.index for _, answer in paper.sent] == [0, 0, 0], "and meanwhile that there is none yet"


@virtual_time
async def test_a_bug_in_repair_ends_the_node_instead_of_leaving_it_waiting() -> None:
    paper = Paper(holding(3, damaged=(2,)))
    paper.holding = None  # type: ignore[assignment, method-assign]
    await paper.repaired()
    paper.recover_again = None  # type: ignore[assignment, method-assign]
    assert paper.damage_shows(DAMAGE)
    await paper.ended()
    assert [type(failure) for failure in paper.failures] == [TypeError, TypeError]
