"""Credit, turns and counts are consistent while work is postponed, whatever is done between two slices.

There is no model of the order here, unlike in `test_against_model`. Two replicas get the same calls, and each call may
deliver and give back very little. The second replica is restored from a snapshot at any moment, also while work is
postponed. When all work is done, no consumer that can receive waits while there is a message: no credit was lost.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from disheap.errors import CommandRefused
from disheap.interfaces import Principal
from disheap.protocol import broker
from disheap_heap.delivery.overtaking import next_consumer
from disheap_heap.state import state
from disheap_heap.state.messages import Content
from disheap_heap.state.state import Consumer, CreditGroup, State, Topic

from .driver import Driver
from .view_rules import ViewRules, in_order_of_ids

SESSIONS = (1, 2)
NAMES = ("a", "b", "c")
SHAPES = (
    broker.TopicSettings(),
    broker.TopicSettings(max_messages=3, overflow="drop"),
    broker.TopicSettings(auto_delete=True),
    broker.TopicSettings(expires_ms=40),
    broker.TopicSettings(exclusive=True),
    broker.TopicSettings(message_ttl_ms=15),
)
sessions = st.sampled_from(SESSIONS)
names = st.sampled_from(NAMES)
picks = st.integers(0, 1 << 20)
HEADERS = b"", broker.encode_headers({"n": 1})
times = st.sampled_from([0, 0, 5, 20])


class HeapInSlices(ViewRules):
    @initialize(serve=st.integers(1, 3), push=st.sampled_from([1, 3, 1000]), give_back=st.integers(1, 3))
    def start(self, serve: int, push: int, give_back: int) -> None:
        limits = {"MAX_DELIVERIES_PER_CALL": serve, "MAX_PUSH_BYTES_PER_CALL": push, "MAX_RETURNS_PER_CALL": give_back}
        self.patches = [patch.object(state, name, limit) for name, limit in limits.items()]
        self.patches.append(patch("disheap_heap.commands.sessions.MAX_SCANNED_PER_CALL", 1))
        for one in self.patches:
            one.start()
        self.driver, self.tokens = Driver(sessions=0), [(0, 9999, 1)]
        self.driver.wait(1)  # a pop that ends at 0 would not end; the time of a log is never 0
        self.numbers, self.last_session = {}, 0  # the number of a session is never used again
        self.twin = self.driver.restored()
        for session in SESSIONS:
            self.open(session)
        for name, shape in zip(NAMES, SHAPES, strict=False):
            self.do(broker.CreateTopic(name, shape), 1)
        for session in SESSIONS:
            for name in NAMES:
                self.do(broker.Subscribe(name, 2, group=1), session)

    def teardown(self) -> None:
        super().teardown()
        for one in self.patches:
            one.stop()

    # --- both replicas ---

    def both(self, call: Any) -> None:
        answers = []
        for driver in (self.driver, self.twin):
            try:
                answers.append(call(driver))
            except CommandRefused as error:
                answers.append(str(error))
        assert answers[0] == answers[1]
        assert self.driver.pushed == self.twin.pushed
        for session, push in self.driver.pushed:
            if isinstance(push, broker.Deliver) and push.epoch:
                self.tokens.append((session, push.id, push.epoch))
        self.driver.pushed, self.twin.pushed = [], []

    def do(self, command: Any, session: int) -> None:
        """`session` is one of `SESSIONS`, or the number of a session that has ended."""
        number = self.numbers.get(session, session)
        self.both(lambda driver: driver.do(command, number))

    def open(self, session: int) -> None:
        self.last_session += 1
        number = self.numbers[session] = 10 + self.last_session
        for driver in (self.driver, self.twin):
            driver.machine.session_opened(number, Principal())
            driver.machine.session_attached(number, b"")

    def some_tokens(self, session: int, pick: int, count: int) -> list[tuple[int, int]]:
        mine = [token for owner, *token in self.tokens[-20:] if owner == self.numbers[session]] or [(9999, 1)]
        return [tuple(mine[(pick + step) % len(mine)]) for step in range(count)]

    def some_consumer(self, pick: int) -> Consumer | None:
        there = list(self.driver.machine._state.consumers.values())
        return there[pick % len(there)] if there else None

    # --- rules ---

    @rule(name=names, shape=st.sampled_from(SHAPES), session=sessions)
    def create_topic(self, name: str, shape: broker.TopicSettings, session: int) -> None:
        self.do(broker.CreateTopic(name, shape), session)

    @rule(name=names, count=st.integers(1, 4), priority=st.integers(-1, 1), delay=times, expires=times)
    def enqueue(self, name: str, count: int, priority: int, delay: int, expires: int) -> None:
        messages = [
            broker.NewMessage(b"x" * (number % 3), priority, delay, expires, HEADERS[number % 2], "kk"[: number // 2])
            for number in range(count)
        ]
        self.do(broker.EnqueueMany(name, messages), 1)

    @rule(
        name=names,
        session=sessions,
        credit=st.integers(1, 4),
        size=st.sampled_from([0, 1, 4]),
        lease=times,
        group=st.sampled_from([0, 1, 1, 2]),
        no_ack=st.sampled_from([False, False, False, True]),
    )
    def subscribe(self, name: str, session: int, credit: int, size: int, lease: int, group: int, no_ack: bool) -> None:
        self.do(broker.Subscribe(name, credit, size, no_ack, lease, group=group), session)

    @rule(name=names, session=sessions, count=st.integers(1, 3), wait=times)
    def pop(self, name: str, session: int, count: int, wait: int) -> None:
        self.do(broker.Pop(name, count, wait), session)

    @rule(session=sessions, group=st.integers(1, 2), above=st.integers(-2, 1))
    def overtake(self, session: int, group: int, above: int) -> None:
        self.do(broker.Overtake(group, above), session)

    @rule(session=sessions, group=st.integers(1, 2), credit=st.integers(0, 4), size=st.sampled_from([0, 2]))
    def set_group_credit(self, session: int, group: int, credit: int, size: int) -> None:
        self.do(broker.SetCredit(0, credit, size, group), session)

    @rule(pick=picks, credit=st.integers(1, 4))
    def set_credit(self, pick: int, credit: int) -> None:
        if consumer := self.some_consumer(pick):
            self.do(broker.SetCredit(consumer.number, credit), consumer.session.number)

    @rule(pick=picks, how=st.sampled_from(["cancel", "cancel", "cancel, give back", "recover"]))
    def leave_or_recover(self, pick: int, how: str) -> None:
        if consumer := self.some_consumer(pick):
            number = consumer.number
            command = broker.Recover([number]) if how == "recover" else broker.Cancel(number, how != "cancel")
            self.do(command, consumer.session.number)

    @rule(session=sessions, pick=picks, count=st.integers(1, 4), how=st.sampled_from(["ack", "nack", "drop"]), by=times)
    def settle(self, session: int, pick: int, count: int, how: str, by: int) -> None:
        tokens = self.some_tokens(session, pick, count)
        self.do(broker.Ack(tokens) if how == "ack" else broker.Nack(tokens, by, how == "drop"), session)

    @rule(session=sessions, pick=picks, lease=times)
    def extend(self, session: int, pick: int, lease: int) -> None:
        self.do(broker.Extend(self.some_tokens(session, pick, 2), lease), session)

    @rule(name=names, session=sessions, deletes=st.booleans())
    def purge_or_delete(self, name: str, session: int, deletes: bool) -> None:
        self.do(broker.DeleteTopic(name) if deletes else broker.Purge(name), session)

    @rule(session=sessions)
    def detach(self, session: int) -> None:
        number = self.numbers[session]
        self.both(lambda driver: driver.detach(number))

    @rule(session=sessions)
    def attach(self, session: int) -> None:
        number = self.numbers[session]
        self.both(lambda driver: driver.attach(number))

    @rule(session=sessions)
    def expire(self, session: int) -> None:
        number = self.numbers[session]
        self.both(lambda driver: driver.expire(number))
        self.open(session)

    @rule(by=times, limit=st.integers(1, 5))
    def some_work_is_done(self, by: int, limit: int) -> None:
        self.both(lambda driver: driver.wait(by, limit))

    @rule()
    def a_replica_is_restored(self) -> None:
        self.twin = self.driver.restored()

    @rule(limit=st.integers(1, 5))
    def everything_put_off_is_done(self, limit: int) -> None:
        for driver in (self.driver, self.twin):
            driver.work_off(limit)
        self.both(lambda driver: None)
        for driver in (self.driver, self.twin):
            check_all_served(driver.machine._state)

    # --- invariants ---

    @invariant()
    def the_replicas_are_equal_and_their_books_are_right(self) -> None:
        assert self.driver.machine.state_hash() == self.twin.machine.state_hash()
        assert in_order_of_ids(self.driver.machine._state) == in_order_of_ids(self.twin.machine._state)
        for driver in (self.driver, self.twin):
            check_consistency(driver.machine._state)


def check_consistency(machine: State) -> None:
    assert machine.message_bytes == sum(
        len(message.body)
        for topic in machine.topics.values()
        for message in (*topic.ready.by_id().values(), *(delayed for _, delayed in topic.delayed.values()))
    ) + sum(len(lease.message.body) for lease in machine.leases.values())
    if not machine.unfreed and not machine.purged_in_views:
        check_contents(machine)
    for topic in machine.topics.values():
        topic.ready.check()
        assert not topic.drops or len(topic.ready) <= topic.settings.max_messages
        assert all(topic.consumers[number].can_receive() for number in topic.turns.order())
        assert topic.active == sum(not one.ended for one in topic.consumers.values())
        assert topic.leased == sum(len(one.leases) for one in topic.consumers.values())
        check_overtaking(topic)
    for session in machine.sessions.values():
        for group in session.groups.values():
            check_group(machine, group)
    for consumer in machine.consumers.values():
        assert consumer.held_bytes == sum(len(lease.message.body) for lease in consumer.leases.values())
        assert consumer.returning == (consumer.number in machine.returning)
        is_waiting = consumer.group is not None and consumer.group.key in machine.freed
        assert is_waiting or consumer.can_receive() == (consumer in consumer.topic.turns)


def check_contents(machine: State) -> None:
    """Nothing is purged and not freed."""
    waiting = [one for topic in machine.topics.values() for one in topic.ready.by_id().values()]
    waiting += [one for topic in machine.topics.values() for _, one in topic.delayed.values()]
    bodies = {id(one.body): one.body for one in (*waiting, *(lease.message for lease in machine.leases.values()))}
    assert machine.contents == sum(type(one) is Content for one in bodies.values())


def check_group(machine: State, group: CreditGroup) -> None:
    members = [one for one in machine.consumers.values() if one.group is group]
    assert members, "a group ends with its last consumer"
    assert {one.number for one in members if not one.ended} == set(group.consumers)
    assert group.held == sum(len(one.leases) for one in members)
    assert group.held_bytes == sum(one.held_bytes for one in members)


def check_overtaking(topic: Topic) -> None:
    """The topic lists the consumers whose groups are armed and full, and whom nothing else keeps from receiving."""
    expected = []
    for one in topic.consumers.values():
        group, is_kept = one.group, one.ended or one.returning or not one.session.is_served
        if group is not None and group.above is not None and group.is_full() and not is_kept:
            expected.append((group.above, group.armed, one.number, one))
    assert topic.overtaking == sorted(expected, key=lambda entry: entry[:3])


def check_all_served(machine: State) -> None:
    assert not (machine.freed or machine.unserved or machine.returning)
    for topic in machine.topics.values():
        can_receive = [one.number for one in topic.consumers.values() if one.can_receive()]
        waits = topic.ready and not topic.holds_back
        assert not (can_receive and waits), f"consumers {can_receive} of {topic.name} wait, and messages as well"
        assert next_consumer(topic) is None, f"a message of {topic.name} waits that a group asked for"
    armed = {group.key: group.above for session in machine.sessions.values() for group in session.groups.values()}
    assert machine.armed == {key: above for key, above in armed.items() if above is not None}


TestHeapInSlices = pytest.mark.proof(HeapInSlices.TestCase)
TestHeapInSlices.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
