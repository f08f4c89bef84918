"""Batches over several groups: the steps of a transaction, and what each failure leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from disheap.client.api.asynchronous import Batch
from disheap.client.api.receiving import Delivery
from disheap.client.api.synchronous import Batch as BlockingBatch
from disheap.client.core import two_phase
from disheap.client.core.two_phase import RESULT_PAUSES_S, TRANSACTION_TIMEOUT_MS, ids_of, outcome_of
from disheap.errors import (
    BatchTooLarge,
    CredentialsRefused,
    DiskFull,
    InvalidArgument,
    LeaseLost,
    MemoryFull,
    NotSent,
    OutcomeUnknown,
    RequestTimeout,
    TopicFull,
    TransactionNotFound,
    TransactionOver,
    WindowExceeded,
    WrongCluster,
)
from disheap.protocol import broker
from disheap.protocol.broker import Abort, Ack, Commit, Committed, Done, Enqueue, NewMessage, Prepare

FIRST, SECOND, THIRD = 0, 1, 2
FOR_EVER = object()
"""An answer that does not come."""
OPEN = broker.TransactionInfos([broker.TransactionInfo("batch-7", 1, 1, 0, 0, 1, 1, 0)], 1)


def infos(outcome: str, first: int = 0, count: int = 0) -> broker.TransactionInfos:
    return broker.TransactionInfos([], 0, outcome, first, count)


class Group:
    """A client of one group. `answers` has the answer to each kind of command; an error is raised."""

    def __init__(self, number: int, log: list[Any], answers: dict[type, Any], cluster: str = "c") -> None:
        self.url = SimpleNamespace(group=number)
        self.welcome = SimpleNamespace(cluster_id=cluster)
        self.log = log
        self.reached = asyncio.Event()  # the answer that does not come is waited for
        self.answers: dict[type, Any] = {
            Prepare: Done(),
            Commit: Committed(10 * number + 1, 1),
            Abort: Done(),
            broker.ListTransactions: infos("committed", 10 * number + 1, 1),
        } | answers

    @property
    def driver(self) -> Group:
        return self

    def draw_name(self) -> str:
        return "batch-7"

    def request(self, command: Any, *, timeout_s: float | None = None) -> Any:
        self.log.append((self.url.group, type(command).__name__))
        self.commands = [*getattr(self, "commands", []), command]
        return self._answer(command)

    def query(self, query: Any, timeout_s: float | None = None) -> Any:
        self.log.append((self.url.group, type(query).__name__))
        return self._answer(query)

    def send(self, command: Any, *, wait: bool = True) -> Any:
        assert not wait
        return self.request(command)

    def flush(self) -> None:
        """Nothing waits."""

    def _answer(self, asked: Any) -> Any:
        answer = self.answers[type(asked)]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


class AsyncGroup(Group):
    async def request(self, command: Any, *, timeout_s: float | None = None) -> Any:
        answer = super().request(command, timeout_s=timeout_s)
        if answer is FOR_EVER:
            self.reached.set()
            await asyncio.Event().wait()
        return answer

    def send(self, command: Any, *, wait: bool = True) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.request(command))

    async def query(self, query: Any, timeout_s: float | None = None) -> Any:
        answer = super().query(query, timeout_s)
        if answer is FOR_EVER:
            self.reached.set()
            await asyncio.Event().wait()
        return answer


def delivery(group: Group, number: int) -> Delivery:
    return Delivery(group, broker.Deliver(1, number, 1, 0, 0, b"x"))  # type: ignore[arg-type]


class World:
    """Three groups, and a batch that enqueues into the highest first and acknowledges in the other two."""

    def __init__(self, kind: type[Group], **answers: dict[type, Any]) -> None:
        self.log: list[Any] = []
        self.groups = [kind(number, self.log, answers.get(f"g{number}", {})) for number in range(3)]
        self.held = [delivery(group, 7) for group in self.groups]
        self.is_async = kind is AsyncGroup

    def fill(self, batch: Any) -> None:
        for group in reversed(self.groups):
            part = batch.on(group)
            part.enqueue("t", b"for %d" % group.url.group)
            if group.url.group < THIRD:
                part.ack(self.held[group.url.group])

    def run(self, fill: Callable[[Any], None] | None = None) -> Any:
        fill = fill or self.fill
        driver: Any = self.groups[SECOND]
        if not self.is_async:
            with BlockingBatch(driver, 3.0) as batch:
                fill(batch)
            return batch

        async def run() -> Any:
            async with Batch(driver, 3.0) as batch:
                fill(batch)
            return batch

        return asyncio.run(run())

    def cancel(self, step: tuple[int, type]) -> None:
        """Runs a batch of the asyncio client, and cancels it at the step whose answer does not come."""
        driver: Any = self.groups[SECOND]
        self.batch = Batch(driver, 3.0)

        async def run() -> None:
            async with self.batch:
                self.fill(self.batch)

        async def cancel() -> None:
            task = asyncio.ensure_future(run())
            await self.groups[step[0]].reached.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await asyncio.sleep(0)

        asyncio.run(cancel())

    @property
    def settled(self) -> list[bool]:
        return [one.settled for one in self.held[:2]]


@pytest.fixture(params=[Group, AsyncGroup], ids=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


PREPARES = [(FIRST, "Prepare"), (SECOND, "Prepare"), (THIRD, "Prepare")]
ASKED = "ListTransactions"
COMMITS = [(FIRST, "Commit"), (SECOND, ASKED), (THIRD, ASKED)]
"""The decision, and what it came to in the other groups."""


def test_the_lowest_group_prepares_first_and_decides(kind: type[Group]) -> None:
    world = World(kind)
    batch = world.run()
    assert world.log == [*PREPARES, *COMMITS]
    assert batch.results == [21, 11, 1, 1, 1]
    assert world.settled == [True, True]
    name = batch.transaction
    assert world.groups[FIRST].commands == [
        Prepare(name, 1, TRANSACTION_TIMEOUT_MS, [Enqueue("t", NewMessage(b"for 0")), Ack([(7, 1)])], [SECOND, THIRD]),
        Commit(name, 1),
    ]
    assert world.groups[THIRD].commands == [
        Prepare(name, 1, 0, [Enqueue("t", NewMessage(b"for 2"))], coordinator=FIRST)
    ], "only the coordinator's group commits a participant"


def test_a_participant_is_asked_until_it_has_the_decision(kind: type[Group], monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(kind, g2={broker.ListTransactions: [OPEN, OPEN, infos("committed", 31, 1)]})
    assert world.run().results == [31, 11, 1, 1, 1]
    assert world.log == [*PREPARES, *COMMITS, (THIRD, ASKED), (THIRD, ASKED)]
    assert RESULT_PAUSES_S[:3] == (0, 0.0005, 0.001) and 1.0 < sum(RESULT_PAUSES_S) < 1.1
    monkeypatch.setattr(two_phase, "RESULT_PAUSES_S", RESULT_PAUSES_S[:4])
    world = World(kind, g1={broker.ListTransactions: OPEN}, g2={broker.ListTransactions: infos("")})
    assert world.run().results == [0, 0, 1, 1, 1], "one is late, and the other one has forgotten it"
    assert world.log == [*PREPARES, *COMMITS, *[(SECOND, ASKED)] * 3]


def test_parts_for_one_other_group_alone_are_one_command(kind: type[Group]) -> None:
    world = World(kind, g2={broker.Batch: broker.Batched([5])})
    assert world.run(lambda batch: batch.on(world.groups[THIRD]).enqueue("t", b"")).results == [5]
    assert world.log == [(THIRD, "Batch")]


def test_what_the_coordinators_group_refuses_reaches_no_other_group(kind: type[Group]) -> None:
    world = World(kind, g0={Prepare: LeaseLost("item 2 of the batch, Ack: lost")})
    with pytest.raises(
        LeaseLost, match=r"^group 0: item 2 of the batch, Ack: lost. The batch is aborted in all groups$"
    ):
        world.run()
    assert world.log == [(FIRST, "Prepare")]
    assert world.settled == [False, False]


def test_what_a_participant_refuses_is_aborted(kind: type[Group]) -> None:
    world = World(kind, g1={Prepare: TopicFull("full")})
    with pytest.raises(TopicFull, match=r"^group 1: full"):
        world.run()
    assert world.log == [*PREPARES, (FIRST, "Abort")]
    assert world.settled == [True, False], "the lease in group 0 was frozen, and has ended"


@pytest.mark.parametrize("error", [RequestTimeout("late"), NotSent("nobody leads")], ids=repr)
def test_a_participant_without_a_leader_aborts(kind: type[Group], error: Exception) -> None:
    world = World(kind, g1={Prepare: error})
    with pytest.raises(NotSent if isinstance(error, NotSent) else TransactionOver, match=r"^group 1: ") as raised:
        world.run()
    assert isinstance(raised.value.__cause__ or raised.value, type(error))
    assert world.log == [*PREPARES, (FIRST, "Abort")]
    assert world.settled == [True, isinstance(error, RequestTimeout)]


@pytest.mark.parametrize("shortage", [DiskFull("disk"), MemoryFull("memory")], ids=repr)
def test_a_shortage_leaves_the_leases_as_they_were(kind: type[Group], shortage: Exception) -> None:
    world = World(kind, g0={Prepare: shortage})
    with pytest.raises(type(shortage), match=r"^group 0: "):
        world.run()
    assert world.log == [(FIRST, "Prepare")], "nothing is to be aborted"
    assert world.settled == [False, False]
    world = World(kind, g1={Prepare: shortage})
    with pytest.raises(type(shortage), match=r"^group 1: "):
        world.run()
    assert world.log == [*PREPARES, (FIRST, "Abort")]
    assert world.settled == [True, False]


@pytest.mark.parametrize("error", [WrongCluster("another"), CredentialsRefused("not you")], ids=repr)
def test_a_client_that_ends_for_good_aborts_the_others(kind: type[Group], error: Exception) -> None:
    world = World(kind, g1={Prepare: error})
    with pytest.raises(type(error), match=r"^group 1: "):
        world.run()
    assert world.log == [*PREPARES, (FIRST, "Abort")]
    assert world.settled == [True, True]


def test_a_client_that_ends_for_good_after_the_decision_fails_no_batch(kind: type[Group]) -> None:
    world = World(kind, g1={broker.ListTransactions: CredentialsRefused("not you any more")})
    assert world.run().results == [21, 0, 1, 1, 1]


def test_a_first_prepare_without_an_answer_is_aborted(kind: type[Group]) -> None:
    world = World(kind, g0={Prepare: RequestTimeout("late"), Abort: RequestTimeout("late")})
    with pytest.raises(TransactionOver, match=r"^group 0: late. The batch is aborted"):
        world.run()
    assert world.log == [(FIRST, "Prepare"), (FIRST, "Abort")]
    assert world.settled == [True, False]


def test_a_commit_after_the_timeout_is_refused(kind: type[Group]) -> None:
    world = World(kind, g0={Commit: TransactionOver("is aborted")})
    with pytest.raises(TransactionOver, match=r"^group 0: is aborted"):
        world.run()
    assert world.log == [*PREPARES, (FIRST, "Commit")]
    assert world.settled == [True, True]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (infos("committed", 1, 1), None),
        (infos("aborted"), TransactionOver),
        (infos(""), OutcomeUnknown),
        (RequestTimeout("nobody"), OutcomeUnknown),
    ],
    ids=["committed", "aborted", "not known", "no answer"],
)
def test_a_commit_without_an_answer_is_asked_for(kind: type[Group], found: Any, expected: Any) -> None:
    world = World(kind, g0={Commit: RequestTimeout("late"), broker.ListTransactions: found})
    if expected is None:
        assert world.run().results == [21, 11, 1, 1, 1]
        assert world.log == [*PREPARES, COMMITS[0], (FIRST, "ListTransactions"), *COMMITS[1:]]
        return
    with pytest.raises(expected) as raised:
        world.run()
    assert ("transaction_outcome('batch-" in str(raised.value)) == (expected is OutcomeUnknown)
    assert world.log == [*PREPARES, COMMITS[0], (FIRST, "ListTransactions")]
    assert world.settled == [True, True]


def test_a_decided_batch_does_not_fail_because_a_participant_is_away(kind: type[Group]) -> None:
    world = World(kind, g1={broker.ListTransactions: RequestTimeout("late")})
    assert world.run().results == [21, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("step", "settled", "asked"),
    [
        ((FIRST, Prepare), [True, False], [*PREPARES[:1], (FIRST, "Abort")]),
        ((SECOND, Prepare), [True, True], [*PREPARES, (FIRST, "Abort")]),
        ((FIRST, Commit), [True, True], [*PREPARES, COMMITS[0], (FIRST, "Abort")]),
    ],
    ids=["first prepare", "second prepare", "decision"],
)
def test_a_batch_that_is_cancelled_is_aborted_at_once(
    step: tuple[int, type], settled: list[bool], asked: list[Any]
) -> None:
    world = World(AsyncGroup, **{f"g{step[0]}": {step[1]: FOR_EVER}})
    world.cancel(step)
    assert world.log == asked
    assert world.settled == settled
    with pytest.raises(InvalidArgument, match="without an exception"):
        _ = world.batch.results


def test_a_batch_that_is_cancelled_after_the_decision_has_results() -> None:
    world = World(AsyncGroup, g1={broker.ListTransactions: FOR_EVER})
    world.cancel((SECOND, broker.ListTransactions))
    assert world.log == [*PREPARES, *COMMITS]
    assert world.batch.results == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("group", "command", "settled", "asked"),
    [
        (FIRST, Prepare, [True, False], [*PREPARES[:1], (FIRST, "Abort")]),
        (SECOND, Prepare, [True, True], [*PREPARES[:2], (FIRST, "Abort")]),
    ],
)
def test_a_blocking_batch_that_is_interrupted_is_aborted(
    group: int, command: type, settled: list[bool], asked: list[Any]
) -> None:
    world = World(Group, **{f"g{group}": {command: KeyboardInterrupt()}})
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert world.log == asked
    assert world.settled == settled


def test_a_client_without_room_for_an_abort_leaves_it_to_the_time() -> None:
    world = World(Group, g0={Abort: WindowExceeded("full")}, g1={Prepare: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert world.log == [*PREPARES[:2], (FIRST, "Abort")]


def test_what_cannot_be_in_a_batch_over_groups_sends_nothing(kind: type[Group]) -> None:
    world = World(kind)

    def with_nack(batch: Any) -> None:
        batch.enqueue("t", b"")
        batch.on(world.groups[FIRST]).nack(world.held[FIRST])

    def with_another_cluster(batch: Any) -> None:
        batch.on(kind(THIRD, world.log, {}, "another"))

    def with_two_clients_of_a_group(batch: Any) -> None:
        batch.on(world.groups[THIRD])
        batch.on(kind(THIRD, world.log, {}))

    def with_a_second_own_client(batch: Any) -> None:
        batch.on(kind(SECOND, world.log, {}))

    def with_a_foreign_delivery(batch: Any) -> None:
        batch.on(world.groups[FIRST]).ack(world.held[SECOND])

    def too_large(batch: Any) -> None:
        for _ in range(broker.BATCH_PARTS_MAX):
            batch.enqueue("t", b"")
        batch.on(world.groups[FIRST]).enqueue("t", b"")

    wrong = [
        (with_nack, InvalidArgument, "takes no nack"),
        (with_another_cluster, InvalidArgument, "clusters c and another"),
        (with_two_clients_of_a_group, InvalidArgument, "another client of group 2"),
        (with_a_second_own_client, InvalidArgument, "another client of group 1"),
        (with_a_foreign_delivery, InvalidArgument, r"batch.on\(client\).ack"),
        (too_large, BatchTooLarge, "1500 messages"),
    ]
    for fill, error, words in wrong:
        with pytest.raises(error, match=words):
            world.run(fill)
    assert world.log == [] and world.settled == [False, False]


def test_an_outcome_has_three_words_and_one_error() -> None:
    info = broker.TransactionInfo("tx", 1, 1, 0, 0, 1, 1, 0)
    assert outcome_of("tx", broker.TransactionInfos([info], 1)) == "open"
    assert outcome_of("tx", infos("aborted")) == "aborted"
    with pytest.raises(TransactionNotFound, match="lowest group"):
        outcome_of("tx", infos(""))


def test_ids_are_told_only_if_each_is_known() -> None:
    enqueue, publish, ack = Enqueue("t", NewMessage(b"")), broker.Publish("e", "k", NewMessage(b"")), Ack([(1, 1)])
    assert ids_of([enqueue, ack, enqueue], Committed(5, 2)) == [5, 1, 6]
    assert ids_of([enqueue, ack, enqueue], Committed(5, 1)) == [0, 1, 0], "a topic was deleted"
    assert ids_of([enqueue, publish], Committed(5, 1)) == [0, 0]
    assert ids_of([enqueue, ack], None) == [0, 1]
