"""The heap machine against a model of plain lists: order, turns, leases, credit, attempts, expiry, sessions.

Every call goes to two machines. At moments that hypothesis chooses, the second is replaced by one that is restored from
a snapshot of the first. It must give the same replies, the same pushes and the same hash.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from disheap.errors import (
    BarrierClosed,
    CommandRefused,
    InvalidArgument,
    LeaseLost,
    TopicFull,
    TopicInUse,
    TopicLocked,
    TopicMismatch,
    TopicPaused,
)
from disheap.interfaces import Principal
from disheap.protocol import broker
from disheap.testing import heap_batches, heap_transactions
from disheap.testing.heap_model import Model
from disheap.testing.heap_records import ModelConsumer, ModelTopic
from disheap_heap.commands import sessions as heap_sessions
from disheap_heap.state import state

from .driver import Driver
from .view_rules import ViewRules, in_order_of_ids

SESSIONS = (1, 2, 3)
OWN, LOWER, HIGHER = 2, (0, 1), (3, 4)
"""The number of the group, and of groups that coordinate its transactions, or take part in them."""
NAMES = ("a", "b", "c")
SHAPES = (
    broker.TopicSettings(),
    broker.TopicSettings(mode="min"),
    broker.TopicSettings(message_ttl_ms=30),
    broker.TopicSettings(auto_delete=True),
    broker.TopicSettings(expires_ms=40),
    broker.TopicSettings(exclusive=True),
    broker.TopicSettings(max_messages=3, overflow="drop", priority_max=1),
    broker.TopicSettings(max_messages=4, priority_max=-1),
)
SHAPES_WITH_DEATHS = (
    broker.TopicSettings(delivery_limit=2, dead_letter_topic="b"),
    broker.TopicSettings(message_ttl_ms=30, dead_letter_topic="c"),
    broker.TopicSettings("min", message_ttl_ms=20, dead_letter_topic="a"),
    broker.TopicSettings(
        max_messages=3,
        overflow="drop",
        delivery_limit=3,
        dead_letter_topic="a",
        retry_delay_ms=7,
        retry_delay_max_ms=20,
    ),
    broker.TopicSettings(delivery_limit=1, dead_letter_exchange="nowhere", max_messages=2, overflow="drop"),
    broker.TopicSettings(retry_delay_ms=5, delivery_limit=2),
)

CHANGES: tuple[dict[str, Any], ...] = (
    {"max_messages": 2, "overflow": "drop"},
    {"max_messages": 1},
    {"max_messages": 0, "overflow": "reject", "priority_max": 1},
    {"message_ttl_ms": 25, "priority_max": 0},
    {"message_ttl_ms": 0, "auto_delete": False},
    {"expires_ms": 30},
    {"expires_ms": 0, "delivery_limit": 2},
    {"dead_letter_topic": "b", "dead_letter_exchange": ""},
    {"dead_letter_topic": "", "dead_letter_exchange": ""},
    {"retry_delay_ms": 6, "retry_delay_max_ms": 0},
    {},
)

sessions = st.sampled_from(SESSIONS)
pauses = st.sampled_from([None, False, False, True])
names = st.sampled_from(NAMES)
picks = st.integers(0, 1 << 30)
priorities = st.integers(-2, 2) | st.sampled_from([broker.PRIORITY_MIN, broker.PRIORITY_MAX])
delays = st.sampled_from([0, 0, 0, 5, 20])
groups = st.sampled_from([0, 1, 1, 2])
lease_times = st.sampled_from([0, 0, 10, 25])
seldom = st.sampled_from([False, False, False, True])  # rules that remove much are rare, so that the state stays large
payloads = st.sampled_from([b"", b"x", b"y" * 10])
encoded_headers = st.sampled_from([b"", b"", broker.encode_headers({"n": 1, "raw": b"\xff"})])
keys = st.sampled_from(["", "", "k", "ä"])
value_keys = st.sampled_from(["r", "s", "ü"])


class HeapAgainstModel(ViewRules):
    in_slices = False
    shapes = SHAPES + SHAPES_WITH_DEATHS

    @initialize()
    def start(self) -> None:
        self.driver = Driver(sessions=0, group=OWN)
        self.twin = self.driver.restored()
        self.model = Model(OWN)
        self.model.known_groups = list(range(broker.GROUPS_MAX))
        self.tokens: list[tuple[int, int, int]] = []  # (session, id, epoch) of every lease there ever was
        for session in SESSIONS:
            self.open(session)
        self.make(NAMES[0], SHAPES[0], 1)

    # --- both machines, compared with the model ---

    def open(self, session: int) -> None:
        for driver in (self.driver, self.twin):
            driver.machine.session_opened(session, Principal())
        self.model.attached[session] = True

    def both(self, call: Any) -> Any:
        """The answer, or the exception, that both machines give."""
        answers = []
        for driver in (self.driver, self.twin):
            try:
                answers.append((call(driver), None))
            except CommandRefused as error:
                answers.append((None, (type(error), str(error))))
            self.work_off(driver)
        assert answers[0] == answers[1]
        self.compare_pushes()
        return answers[0][0] if answers[0][1] is None else answers[0][1][0]

    def do(self, command: Any, session: int) -> Any:
        return self.both(lambda driver: driver.do(command, session))

    def compare_pushes(self) -> None:
        self.seen, twins = self.driver.pushed, self.twin.pushed
        assert self.seen == twins
        self.driver.pushed, self.twin.pushed = [], []
        for session, push in self.seen:
            if isinstance(push, broker.Deliver) and push.epoch:
                self.tokens.append((session, push.id, push.epoch))

    def expect_pushes(self) -> None:
        self.model.serve_freed_groups()
        assert self.seen == self.model.pushed
        self.model.pushed = []

    def work_off(self, driver: Driver) -> None:
        """Does the postponed work. Here there is none."""

    def live_session(self, session: int) -> bool:
        return bool(self.model.attached.get(session))

    def make(self, name: str, shape: broker.TopicSettings, session: int) -> None:
        model, topic = self.model, self.model.topic(name)
        answer = self.do(broker.CreateTopic(name, shape), session)
        if shape.dead_letter_topic == name:
            assert answer is InvalidArgument
        elif topic is None:
            assert answer.created
            model.create(name, shape, session)
        elif topic.owner not in (None, session) and model.attached.get(topic.owner or 0):
            assert answer is TopicLocked
        elif topic.settings != shape:
            assert answer is TopicMismatch
        else:
            assert not answer.created
            if topic.owner not in (None, session):
                model.take_over(topic, session)
            model.update_expiry(topic)
        self.expect_pushes()

    def some_topic(self, pick: int) -> ModelTopic | None:
        return self.model.topics[pick % len(self.model.topics)] if self.model.topics else None

    def some_tokens(self, session: int, pick: int, count: int) -> list[tuple[int, int]]:
        mine = [(number, epoch) for owner, number, epoch in self.tokens if owner == session or pick % 7 == 0]
        return list(dict.fromkeys(mine[(pick + step) % len(mine)] for step in range(count))) if mine else [(9999, 1)]

    def some_consumer(self, pick: int) -> ModelConsumer | None:
        there = [one for one in self.model.consumers if not one.ended or self.model.held(one)]
        there = [one for one in there if self.live_session(one.session)]
        return there[pick % len(there)] if there else None

    # --- rules ---

    @rule(name=names, pick=picks, session=sessions)
    def create_topic(self, name: str, pick: int, session: int) -> None:
        if self.live_session(session):
            self.make(name, self.shapes[pick % len(self.shapes)], session)

    @rule(pick=picks, session=sessions, changes=st.sampled_from(CHANGES), revision=st.sampled_from([0, 0, 0, 1]))
    def update_topic(self, pick: int, session: int, changes: dict[str, Any], revision: int) -> None:
        topic = self.some_topic(pick)
        if topic is None or not self.live_session(session):
            return
        answer = self.do(broker.UpdateTopic(topic.name, changes, revision), session)
        if self.refused_as_locked(answer, topic, session):
            return
        if revision not in (0, topic.revision):
            assert answer is TopicMismatch
            return
        settings = broker.changed_settings(topic.settings, changes)
        if settings.dead_letter_topic == topic.name or (settings.dead_letter_topic and settings.dead_letter_exchange):
            assert answer is InvalidArgument
            return
        if 0 < settings.retry_delay_max_ms < max(1, settings.retry_delay_ms):
            assert answer is InvalidArgument
            return
        if settings.retry_delay_max_ms and not settings.retry_delay_ms:
            assert answer is InvalidArgument
            return
        self.model.update(topic, settings)
        assert not broker.difference(answer.settings, settings)
        assert answer.revision == topic.revision
        self.expect_pushes()

    @rule(pick=picks, session=sessions, deliveries=pauses, enqueues=pauses)
    def pause_topic(self, pick: int, session: int, deliveries: bool | None, enqueues: bool | None) -> None:
        topic = self.some_topic(pick)
        if topic is None or not self.live_session(session):
            return
        answer = self.do(broker.PauseTopic(topic.name, deliveries, enqueues), session)
        if self.refused_as_locked(answer, topic, session):
            return
        self.model.pause(topic, deliveries, enqueues)
        assert (answer.deliveries_paused, answer.enqueues_paused) == (topic.holds_back, topic.is_closed)
        self.expect_pushes()

    @rule(
        pick=picks,
        payload=payloads,
        some=st.lists(priorities, min_size=1, max_size=4),
        delay=delays,
        expires=delays,
        headers=encoded_headers,
        key=keys,
    )
    def enqueue(
        self, pick: int, payload: bytes, some: list[int], delay: int, expires: int, headers: bytes, key: str
    ) -> None:
        topic = self.some_topic(pick)
        if topic is None:
            return
        for priority in some:
            full = self.model.is_topic_full(topic) or (delay and self.model.delayed_full(topic))
            new = broker.NewMessage(payload, priority, delay, expires, headers, key)
            answer = self.do(broker.Enqueue(topic.name, new), 1)
            if topic.is_closed:
                assert answer is TopicPaused
                continue
            if full:
                assert answer is TopicFull
                continue
            assert answer.id == self.model.enqueue(topic, new)
            self.expect_pushes()

    @rule(
        pick=picks,
        session=sessions,
        credit=st.integers(1, 4),
        size=st.sampled_from([0, 1, 15]),
        no_ack=st.sampled_from([False, False, True]),
        lease=lease_times,
        group=groups,
    )
    def subscribe(self, pick: int, session: int, credit: int, size: int, no_ack: bool, lease: int, group: int) -> None:
        topic = self.some_topic(pick)
        if topic is None or not self.live_session(session) or len(self.model.consumers) > 60:
            return
        group = 0 if no_ack or self.in_slices else group
        answer = self.do(broker.Subscribe(topic.name, credit, size, no_ack, lease, group=group), session)
        if self.refused_as_locked(answer, topic, session):
            return
        shape = {"credit": credit, "credit_bytes": size or 1 << 24, "no_ack": no_ack, "lease_ms": lease}
        assert answer.consumer == self.model.subscribe(session, topic, group, **shape).number
        self.expect_pushes()

    @rule(pick=picks, session=sessions, count=st.integers(1, 4), wait=delays, lease=lease_times, no_ack=st.booleans())
    def pop(self, pick: int, session: int, count: int, wait: int, lease: int, no_ack: bool) -> None:
        topic = self.some_topic(pick)
        if topic is None or not self.live_session(session) or len(self.model.consumers) > 60:
            return
        answer = self.do(broker.Pop(topic.name, count, wait, lease, no_ack), session)
        if self.refused_as_locked(answer, topic, session):
            return
        shape = {"credit": count, "credit_bytes": 1 << 24, "limit": count, "no_ack": no_ack, "lease_ms": lease}
        assert answer.consumer == self.model.pop(session, topic, wait, **shape).number
        self.expect_pushes()

    def refused_as_locked(self, answer: Any, topic: ModelTopic, session: int) -> bool:
        if topic.owner in (None, session):
            return False
        assert answer is TopicLocked
        return True

    @rule(pick=picks, credit=st.integers(0, 5), size=st.sampled_from([0, 5]))
    def set_credit(self, pick: int, credit: int, size: int) -> None:
        consumer = self.some_consumer(pick)
        if consumer is None or consumer.ended or consumer.limit:
            return
        if consumer.group is not None:
            self.set_group_credit(consumer, credit, size)
            return
        credit = max(1, credit)
        self.do(broker.SetCredit(consumer.number, credit, size), consumer.session)
        self.model.set_credit(consumer, credit, size or 1 << 24)
        self.expect_pushes()

    def set_group_credit(self, consumer: ModelConsumer, credit: int, size: int) -> None:
        number = next(key[1] for key, group in self.model.groups.items() if group is consumer.group)
        assert self.do(broker.SetCredit(consumer.number, credit, size), consumer.session) is InvalidArgument
        self.do(broker.SetCredit(0, credit, size, number), consumer.session)
        assert consumer.group is not None
        self.model.set_group_credit(consumer.group, credit, size or 1 << 24)
        self.expect_pushes()

    @rule(pick=picks, above=st.integers(-2, 2))
    def overtake(self, pick: int, above: int) -> None:
        self.model.remove_unused_groups()
        groups = list(self.model.groups.items())
        if not groups or self.in_slices:
            return
        (session, number), group = groups[pick % len(groups)]
        self.do(broker.Overtake(number, above), session)
        self.model.overtake(group, above)
        self.expect_pushes()

    @rule(pick=picks, give_back=st.booleans(), releases=st.booleans())
    def cancel(self, pick: int, give_back: bool, releases: bool) -> None:
        consumer = self.some_consumer(pick)
        if consumer is not None:
            self.do(broker.Cancel(consumer.number, give_back, releases and give_back), consumer.session)
            self.model.cancel(consumer, give_back, releases)
            self.expect_pushes()

    @rule(pick=picks)
    def recover(self, pick: int) -> None:
        consumer = self.some_consumer(pick)
        if consumer is not None:
            self.do(broker.Recover([consumer.number]), consumer.session)
            self.model.recover([consumer])
            self.expect_pushes()

    @rule(
        session=sessions,
        pick=picks,
        count=st.integers(1, 3),
        how=st.sampled_from(["ack", "nack", "nack", "release", "drop"]),
        by=delays,
        error=st.sampled_from(["", "no ä"]),
    )
    def settle(self, session: int, pick: int, count: int, how: str, by: int, error: str) -> None:
        tokens = self.some_tokens(session, pick, count)
        error = "" if how == "release" else error
        nack = broker.Nack(tokens, by, how == "drop", how == "release", error)
        answer = self.do(broker.Ack(tokens) if how == "ack" else nack, session)
        assert answer.stale == self.model.settle(session, tokens, how, by, error)
        assert answer.count == len(tokens) - len(answer.stale)
        self.expect_pushes()

    @rule(session=sessions, pick=picks, by=lease_times)
    def extend(self, session: int, pick: int, by: int) -> None:
        tokens = self.some_tokens(session, pick, 2)
        assert self.do(broker.Extend(tokens, by), session).stale == self.model.settle(session, tokens, "extend", by)
        self.expect_pushes()

    @rule(session=sessions, pick=picks, kinds=st.lists(st.integers(0, 7), min_size=1, max_size=5), delay=delays)
    def batch(self, session: int, pick: int, kinds: list[int], delay: int) -> None:
        """Several enqueues and settlements, of which some may be refused."""
        if not self.live_session(session):
            return
        items = [one for place, kind in enumerate(kinds) if (one := self.some_item(session, pick + place, kind, delay))]
        if not items:
            return
        answer = self.do(broker.Batch([item for item, _ in items]), session)
        code = heap_batches.refusal(self.model, session, items)
        if code:
            refused = {
                "topic-full": TopicFull,
                "topic-paused": TopicPaused,
                "lease-lost": LeaseLost,
                "invalid-argument": InvalidArgument,
                "barrier-closed": BarrierClosed,
            }
            assert answer is refused[code]
        else:
            assert answer.results == heap_batches.carry_out(self.model, session, items)
        self.expect_pushes()

    @rule(
        session=sessions,
        pick=picks,
        kinds=st.lists(st.integers(0, 3), min_size=1, max_size=4),
        delay=delays,
        name=st.sampled_from(["x", "y", "z"]),
        epoch=st.integers(1, 3),
        role=st.sampled_from([
            (0, [], -1), (10, [], -1), (10, [3], -1), (30, [3, 4], -1), (30, [4], -1), (0, [], 0), (0, [], 1),
            (0, [], 1), (10, [1], -1), (10, [4, 3], -1), (0, [3], -1), (10, [3], 0), (10, [], 1), (0, [], 3),
        ]),
    )  # fmt: skip
    def prepare(
        self,
        session: int,
        pick: int,
        kinds: list[int],
        delay: int,
        name: str,
        epoch: int,
        role: tuple[int, list[int], int],
    ) -> None:
        if not self.live_session(session):
            return
        items = [one for place, kind in enumerate(kinds) if (one := self.some_item(session, pick + place, kind, delay))]
        if not items:
            return
        timeout, *groups = role
        command = broker.Prepare(name, epoch, timeout, [item for item, _ in items], *groups)  # type: ignore[misc,arg-type]
        code = heap_transactions.role_refusal(self.model, command) or heap_transactions.refusal(self.model, command)
        if not code and name not in self.model.transactions:
            code = heap_batches.refusal(self.model, session, items)
        answer = self.do(command, session)
        if code:
            assert answer.code == code
        else:
            assert isinstance(answer, broker.Done)
            heap_transactions.prepare(self.model, session, command, items)
        self.expect_pushes()

    @rule(
        name=st.sampled_from(["x", "y", "z"]),
        epoch=st.integers(1, 3),
        commits=st.booleans(),
        session=sessions,
        force=st.booleans(),
    )
    def decide(self, name: str, epoch: int, commits: bool, session: int, force: bool) -> None:
        known = self.model.transactions.get(name)
        epoch = known.epoch if known is not None and epoch < 3 else epoch
        command = broker.Commit(name, epoch, force) if commits else broker.Abort(name, epoch, force)
        code = heap_transactions.refusal(self.model, command)
        answer = self.do(command, session)
        if code:
            assert answer.code == code
        elif isinstance(command, broker.Commit):
            assert (answer.first, answer.count) == heap_transactions.commit(self.model, command)
        else:
            heap_transactions.abort(self.model, command)
        self.expect_pushes()

    @rule(
        source=st.sampled_from(LOWER + HIGHER),
        ahead=st.sampled_from([1, 1, 1, 1, 0, -1, 2]),
        name=st.sampled_from(["x", "y", "z"]),
        epoch=st.integers(1, 3),
        kind=st.sampled_from(["commit", "abort", "inquiry"]),
    )
    def take_message(self, source: int, ahead: int, name: str, epoch: int, kind: str) -> None:
        known = self.model.transactions.get(name)
        if known is not None and epoch < 3:
            epoch, source = known.epoch, known.coordinator if known.coordinator >= 0 else source
        is_inquiry = kind == "inquiry"
        message = broker.Inquiry(name, epoch) if is_inquiry else broker.Decision(name, epoch, kind == "commit")
        command = broker.GroupMessage(source, max(1, self.model.taken.get(source, 0) + ahead), message)
        answer = self.do(command, 0)
        code = heap_transactions.take_message(self.model, command)
        assert answer.code == code if code else isinstance(answer, broker.Done)
        self.expect_pushes()

    @rule(group=st.sampled_from(LOWER + HIGHER), back=st.integers(0, 2))
    def confirm(self, group: int, back: int) -> None:
        command = broker.Confirm(group, max(0, self.model.last_sent.get(group, 0) - back))
        assert isinstance(self.do(command, 0), broker.Done)
        heap_transactions.confirm(self.model, command)

    @rule(known=st.sampled_from([(OWN,), (*LOWER, OWN, *HIGHER), (*LOWER, OWN, *HIGHER), (LOWER[0], OWN, HIGHER[-1])]))
    def the_leader_tells_which_groups_there_are(self, known: tuple[int, ...]) -> None:
        command = self.driver.machine.know_groups(known)
        assert (command is None) == (list(known) == self.model.known_groups)
        if command is not None:
            assert isinstance(self.do(broker.decode_command.decode(command), 0), broker.Done)
        self.model.known_groups = list(known)

    @rule()
    def the_cluster_begins_anew(self) -> None:
        for driver in (self.driver, self.twin):
            driver.machine.renumber()
        self.model.begin_anew()

    @invariant()
    def the_outbox_is_the_models(self) -> None:
        machine = self.driver.machine
        for group in LOWER + HIGHER:
            sent = [broker.decode_command.decode(command) for _, command in machine.outbox(group, 0, 1000)]
            assert sent == [
                broker.GroupMessage(OWN, number, one) for to, number, one in self.model.outbox if to == group
            ]
        assert sum(machine.waiting().values()) == len(self.model.outbox)

    # --- values ---

    @rule(
        key=value_keys,
        value=payloads,
        expires=delays,
        stage=st.sampled_from([0, 1, 1, 2]),
        barrier=st.sampled_from(["", "", "one", "two"]),
        order=st.integers(-1, 1),
        session=sessions,
    )
    def set_value(
        self, key: str, value: bytes, expires: int, stage: int, barrier: str, order: int, session: int
    ) -> None:
        if not self.live_session(session):
            return
        command = broker.SetValue(key, value, expires, stage, barrier, order)
        assert self.do(command, session) == self.model.values.set_value(command, self.publish)
        self.expect_pushes()

    def publish(self, message: broker.Publish) -> None:
        topic = self.model.topic(message.routing_key)
        if topic is not None:
            self.model.enqueue(topic, message.message)

    @rule(keys=st.lists(value_keys, min_size=1, max_size=3), session=sessions, how=st.integers(0, 3))
    def watch(self, keys: list[str], session: int, how: int) -> None:
        if not self.live_session(session):
            return
        model = self.model.values
        if how == 0:
            assert self.do(broker.DeleteValues(keys), session) == broker.Removed(model.delete(keys))
        elif how == 1:
            assert isinstance(self.do(broker.Unwatch(keys), session), broker.Done)
            model.unwatch(session, keys)
        else:
            assert self.do(broker.Watch(keys), session) == model.watch(session, keys)
        assert self.driver.ask(broker.GetValues(keys)) == model.found(keys)

    @rule(
        barrier=st.sampled_from(["one", "two"]),
        size=st.sampled_from([0, 0, 1, 2, 3]),
        more=st.sampled_from([0, 0, 0, 1]),
        topic=st.sampled_from([*NAMES, None]),
        delay=delays,
        lifetime=delays,
        reopens=seldom,
        session=sessions,
    )
    def set_barrier(
        self,
        barrier: str,
        size: int,
        more: int,
        topic: str | None,
        delay: int,
        lifetime: int,
        reopens: bool,
        session: int,
    ) -> None:
        if not self.live_session(session):
            return
        message = None if topic is None else broker.Publish("", topic, broker.NewMessage(b"all", 1, delay))
        command = broker.SetBarrier(barrier, size, more, message, lifetime, reopens)
        assert self.do(command, session) == self.model.values.set_barrier(command, self.publish)
        self.expect_pushes()

    @rule(barrier=st.sampled_from(["one", "two"]), session=sessions)
    def close_barrier(self, barrier: str, session: int) -> None:
        model = self.model.values
        if not self.live_session(session):
            return
        parts = broker.GetParts(barrier)
        assert self.driver.ask(parts) == model.parts(parts)
        answer = self.do(broker.CloseBarrier(barrier), session)
        if model.is_open(barrier):
            assert answer == broker.Removed(model.close(barrier))
        else:
            assert answer is BarrierClosed

    @invariant()
    def values_are_the_models(self) -> None:
        model, state = self.model.values, self.driver.machine._state.values
        assert (len(state.by_key), len(state.by_number)) == (len(model.values), len(model.values))
        assert state.size == sum(len(key.encode()) + len(one.command.value) for key, one in model.values.items())
        assert [one.number for one in state.by_number.values()] == [one.number for one in model.values.values()]
        assert state.watches == len(model.watches) == sum(len(one.watches) for one in self.sessions_with_watches())
        assert list(state.barriers) == list(model.barriers)
        assert state.parts == sum(len(one.parts) for one in model.barriers.values())
        messages = [one.message for one in model.barriers.values() if one.message is not None]
        assert state.message_bytes == sum(len(broker.encode(one)) for one in messages)

    def sessions_with_watches(self) -> list[Any]:
        state = self.driver.machine._state
        return [*state.sessions.values(), *state.ending.values()]

    def some_item(self, session: int, pick: int, kind: int, delay: int) -> heap_batches.Item | None:
        topic = self.some_topic(pick)
        held = [one for one in self.model.messages if one.holder is not None and one.holder.session == session]
        if kind == 6:
            return broker.CloseBarrier("one"), []
        if kind < 3:
            if topic is None:
                return None
            message = broker.NewMessage(b"batch", pick % 3, delay if kind == 0 else 0, 20 * (kind == 1))
            return broker.Enqueue(topic.name, message), [topic]
        if not held and pick % 4:
            return None
        token = (held[pick % len(held)].id, held[pick % len(held)].epoch) if held else (9999, 1)
        return (broker.Ack([token]) if kind == 3 else broker.Nack([token], delay, kind == 5, kind == 7)), []

    @rule(name=names, session=sessions, now=seldom)
    def purge(self, name: str, session: int, now: bool) -> None:
        topic = self.model.topic(name)
        if not now or topic is None:
            return
        answer = self.do(broker.Purge(name), session)
        if not self.refused_as_locked(answer, topic, session):
            assert answer.count == self.model.purge(topic)

    @rule(name=names, session=sessions, unused=st.booleans(), empty=st.booleans(), now=seldom)
    def delete_topic(self, name: str, session: int, unused: bool, empty: bool, now: bool) -> None:
        topic = self.model.topic(name)
        if not now or topic is None:
            return
        answer = self.do(broker.DeleteTopic(name, unused, empty), session)
        if self.refused_as_locked(answer, topic, session):
            return
        filled = any(one.topic is topic for one in self.model.messages) or any(
            topic in topics for one in self.model.transactions.values() for _, topics in one.prepared
        )
        if (unused and self.model.active(topic)) or (empty and filled):
            assert answer is TopicInUse
        else:
            assert answer.count == self.model.delete(topic, "the topic was deleted")
        self.expect_pushes()

    @rule(session=sessions, now=seldom)
    def detach(self, session: int, now: bool) -> None:
        if now and self.live_session(session):
            self.both(lambda driver: driver.detach(session))
            self.model.detach(session)
            self.expect_pushes()

    @rule(session=sessions, pick=picks, share=st.integers(0, 3))
    def attach(self, session: int, pick: int, share: int) -> None:
        if session not in self.model.attached:
            return
        tokens = self.some_tokens(session, pick, share)
        numbers = [one.number for one in self.model.consumers if one.session == session][-5:]
        held = broker.Held(tokens, numbers[::2], numbers[1::2])
        answer = self.both(
            lambda driver: driver.attach(session, *tokens, tickets=held.tickets, consumers=held.consumers)
        )
        deliveries, ended = self.model.attach(session, held)
        assert [*answer.deliveries, *self.take_resent(session, deliveries)] == deliveries
        assert answer.ended == ended
        self.expect_pushes()

    def take_resent(self, session: int, deliveries: list[Any]) -> list[Any]:
        """Pushes of leases that did not fit the reply to an ATTACH. New messages may come between them."""
        again = {(one.id, one.epoch) for one in deliveries}
        is_again = [
            to == session and isinstance(push, broker.Deliver) and (push.id, push.epoch) in again
            for to, push in self.seen
        ]
        resent = [push for (_, push), found in zip(self.seen, is_again, strict=True) if found]
        self.seen = [one for one, found in zip(self.seen, is_again, strict=True) if not found]
        return resent

    @rule(session=sessions, now=seldom)
    def expire(self, session: int, now: bool) -> None:
        if now and session in self.model.attached:
            self.both(lambda driver: driver.expire(session))
            self.model.expire(session)
            self.expect_pushes()
            self.open(session)

    @rule(by=st.sampled_from([1, 5, 10, 50]))
    def time_passes(self, by: int) -> None:
        self.both(lambda driver: driver.wait(by))
        self.model.advance(self.driver.now)
        self.expect_pushes()

    @rule()
    def a_replica_is_restored(self) -> None:
        self.twin = self.driver.restored()

    # --- invariants ---

    @invariant()
    def counts_and_order_are_the_models(self) -> None:
        for name in NAMES:
            topic = self.model.topic(name)
            if topic is None:
                assert name not in self.driver.machine._state.topics
                continue
            info, here = self.driver.info(name), [one for one in self.model.messages if one.topic is topic]
            assert info.leased == sum(one.holder is not None for one in here)
            assert info.delayed == sum(one.due_ms > 0 for one in here)
            assert info.consumers == len(self.model.subscribers(topic))
            ready = self.model.ready(topic)
            assert (info.ready, info.ready_bytes) == (len(ready), sum(one.size() for one in ready))
            peeked = self.driver.ask(broker.Peek(name, 1000), topic.owner or 1).messages
            assert [(one.id, one.attempts, one.priority, one.encoded_headers, one.key) for one in peeked] == [
                (one.id, one.attempts, one.priority, one.new.encoded_headers, one.new.key) for one in ready
            ]
            if ready:
                last = self.driver.ask(broker.Explain(name, ready[-1].id), topic.owner or 1)
                assert (last.state, last.ahead, last.ready) == ("ready", len(ready) - 1, len(ready))
                receiving = sum(self.model.can_receive(one) for one in self.model.active(topic))
                assert (last.consumers, last.receiving) == (len(self.model.active(topic)), receiving)
            whole = sorted((one for one in here if one.transaction is None), key=lambda one: one.id)
            assert self.driver.browse(name, 3, topic.owner or 1) == [one.peeked() for one in whole]

    @invariant()
    def the_replicas_are_equal_and_keep_their_books(self) -> None:
        assert self.driver.machine.state_hash() == self.twin.machine.state_hash()
        assert in_order_of_ids(self.driver.machine._state) == in_order_of_ids(self.twin.machine._state)
        state = self.driver.machine._state
        for topic in state.topics.values():
            topic.ready.check()
            waiting = [number for chunk in [*topic.arrivals.chunks, topic.arrivals.tail] for number in chunk]
            assert waiting == sorted(waiting)
            assert {*topic.ready.by_id(), *topic.delayed} <= set(waiting)
            assert topic.turns.order() == [one.number for one in self.model.topic(topic.name).turns]  # type: ignore[union-attr]
        assert state.message_bytes == sum(one.size() for one in self.model.messages)
        assert not state.dying

    @precondition(lambda self: not self.driver.machine._state.unfreed)
    @precondition(lambda self: not self.driver.machine._state.purged_in_views)
    @invariant()
    def the_next_deadline_is_the_earliest(self) -> None:
        deadlines = [event[0] for event in self.model.events()]
        assert self.driver.machine.next_deadline() == (min(deadlines) if deadlines else None)


class HeapInSlicesAgainstModel(HeapAgainstModel):
    """Each call delivers one message and postpones the rest. The postponed work is then done one unit at a time."""

    in_slices = True  # then the topics of a group are not served one after the other
    shapes = SHAPES  # a dead letter is published before the postponed deliveries
    expire = None  # type: ignore[assignment]  # in slices, messages are given back and delivered one by one

    def __init__(self) -> None:
        super().__init__()
        self.patches = [
            patch.object(state, "MAX_DELIVERIES_PER_CALL", 1),
            patch.object(heap_sessions, "MAX_RESENT_PER_REPLY", 1),
            patch.object(heap_sessions, "MAX_SCANNED_PER_CALL", 1),
        ]
        for one in self.patches:
            one.start()

    def teardown(self) -> None:
        super().teardown()
        for one in self.patches:
            one.stop()

    def work_off(self, driver: Driver) -> None:
        driver.work_off(1)


class HeapWithLateDeadLettersAgainstModel(HeapAgainstModel):
    """Each dead letter is postponed. The postponed work is then done one unit at a time."""

    in_slices = True  # a freed group is served before a postponed dead letter
    shapes = SHAPES + SHAPES_WITH_DEATHS

    def __init__(self) -> None:
        super().__init__()
        self.patch = patch.object(state, "MAX_DEAD_LETTER_UNITS_PER_CALL", 0)
        self.patch.start()

    def teardown(self) -> None:
        super().teardown()
        self.patch.stop()

    def work_off(self, driver: Driver) -> None:
        driver.work_off(1)


TestHeapAgainstModel = HeapAgainstModel.TestCase
TestHeapInSlicesAgainstModel = pytest.mark.proof(HeapInSlicesAgainstModel.TestCase)
TestHeapWithLateDeadLettersAgainstModel = pytest.mark.proof(HeapWithLateDeadLettersAgainstModel.TestCase)
TestHeapWithLateDeadLettersAgainstModel.settings = TestHeapAgainstModel.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHeapInSlicesAgainstModel.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
