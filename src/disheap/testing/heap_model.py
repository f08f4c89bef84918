"""A model of the heap machine: what it must do, written with lists that are sorted at each look.

It is slow, and has neither heaps nor timers. It postpones nothing beyond the call, whose end is `serve_freed_groups`.
docs/reference/topics-and-messages.md describes the same behaviour in words. `heap_records` has the records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from disheap.protocol import broker
from disheap.protocol.broker import deaths
from disheap.testing import heap_deaths
from disheap.testing.heap_records import (
    ModelConsumer,
    ModelGroup,
    ModelMessage,
    ModelOutcome,
    ModelTopic,
    ModelTransaction,
)
from disheap.testing.heap_values import ModelValues

INQUIRE_AFTER_MS = 5_000
INQUIRE_PAUSE_MAX_MS = 60_000
"""A participant asks for the decision so long after PREPARE, and again after as long."""


class Model:
    """The whole state: messages, consumers, topics, sessions, groups. Its methods are the commands and events of the
    machine."""

    def __init__(self, group: int = 0) -> None:
        self.group = group
        self.now = 0
        self.messages: list[ModelMessage] = []
        self.consumers: list[ModelConsumer] = []
        self.topics: list[ModelTopic] = []
        self.attached: dict[int, bool] = {}
        self.groups: dict[tuple[int, int], ModelGroup] = {}  # by session and number
        self.freed: list[ModelGroup] = []  # have credit again, in this call
        self.last_message = self.last_consumer = self.last_topic = self.last_transaction = self.last_armed = 0
        self.transactions: dict[str, ModelTransaction] = {}
        self.finished: dict[str, ModelOutcome] = {}
        self.known_groups = [group]  # that take messages of others
        self.outbox: list[tuple[int, int, broker.Decision | broker.Inquiry]] = []  # (group, number, message)
        self.last_sent: dict[int, int] = {}  # by group
        self.taken: dict[int, int] = {}  # by group
        self.pushed: list[tuple[int, Any]] = []
        self.dropped = 0  # messages, by topics that were full
        self.dying: list[heap_deaths.ModelDeath] = []
        self.letters: list[tuple[int, str, broker.NewMessage]] = []  # dead letters: number and topic
        self.acked: list[ModelMessage] = []  # for good, and those that were discarded for good
        self.route: Callable[[str, str, dict[str, Any]], list[ModelTopic]] = lambda *_: []  # leads nowhere
        self.values = ModelValues(self.attached, lambda session, push: self.pushed.append((session, push)))
        self.lease_order: list[int] = []  # message ids in the order in which their present leases were granted

    # --- questions ---

    def topic(self, name: str) -> ModelTopic | None:
        """The topic with this name, or None."""
        return next((one for one in self.topics if one.name == name), None)

    def ready(self, topic: ModelTopic) -> list[ModelMessage]:
        """The ready messages of a topic, in the order of delivery."""
        here = [one for one in self.messages if one.topic is topic and not one.due_ms and one.holder is None]
        return sorted((one for one in here if one.transaction is None), key=ModelMessage.rank)

    def held(self, consumer: ModelConsumer) -> list[ModelMessage]:
        """The messages that a consumer holds."""
        return [one for one in self.messages if one.holder is consumer]

    def held_in_order(self, consumer: ModelConsumer) -> list[ModelMessage]:
        """The messages that a consumer holds, the oldest lease first."""
        return sorted(self.held(consumer), key=lambda one: self.lease_order.index(one.id))

    def active(self, topic: ModelTopic) -> list[ModelConsumer]:
        """The consumers of a topic that have not ended, pops included."""
        return [one for one in self.consumers if one.topic is topic and not one.ended]

    def subscribers(self, topic: ModelTopic) -> list[ModelConsumer]:
        """The consumers of a topic that have not ended, without pops."""
        return [one for one in self.active(topic) if not one.limit]

    def can_receive(self, consumer: ModelConsumer) -> bool:
        """Whether a consumer can receive another message now."""
        if consumer.ended or not self.attached.get(consumer.session):
            return False
        if consumer.limit and consumer.delivered >= consumer.limit:
            return False
        if consumer.group is not None:
            return not self.is_full(consumer.group)
        held = self.held(consumer)
        size = sum(one.size() for one in held)
        return consumer.no_ack or (len(held) < consumer.credit and size < consumer.credit_bytes)

    def is_full(self, group: ModelGroup) -> bool:
        """Whether a group has used up its credit."""
        held = [one for one in self.messages if one.holder is not None and one.holder.group is group]
        return len(held) >= group.credit or sum(one.size() for one in held) >= group.credit_bytes

    def lease(self, session: int, token: tuple[int, int]) -> ModelMessage | None:
        """The message that this session holds under this token, or None."""
        return next(
            (
                one
                for one in self.messages
                if one.id == token[0] and one.holder and one.holder.session == session and one.epoch == token[1]
            ),
            None,
        )

    # --- commands ---

    def enqueue(self, topic: ModelTopic, new: broker.NewMessage) -> int:
        """Puts a message into a topic and serves the consumers. Returns its id."""
        number = self.put(topic, new)
        self.serve(topic)
        return number

    def put(self, topic: ModelTopic, new: broker.NewMessage, passed: tuple[int, ...] = ()) -> int:
        """Puts a message into a topic. Returns its id. The caller serves the topic."""
        self.last_message += 1
        lifetime = new.expires_ms or topic.settings.message_ttl_ms
        expires_at_ms = self.now + lifetime if lifetime else 0
        message = ModelMessage(self.last_message, topic, new, self.now, expires_at_ms)
        message.bound = topic.settings.priority_max
        message.due_ms = self.now + new.delay_ms if new.delay_ms else 0
        message.passed = passed
        self.messages.append(message)
        self.drop_lowest(topic)
        return message.id

    def create(self, name: str, settings: broker.TopicSettings, session: int) -> ModelTopic:
        """Creates a topic."""
        self.last_topic += 1
        topic = ModelTopic(name, self.last_topic, settings, session if settings.exclusive else None)
        self.topics.append(topic)
        self.update_expiry(topic)
        return topic

    def subscribe(self, session: int, topic: ModelTopic, group: int = 0, **shape: Any) -> ModelConsumer:
        """Creates a consumer, in a group if `group` is not 0, and serves the topic."""
        self.last_consumer += 1
        consumer = ModelConsumer(self.last_consumer, session, topic, **shape)
        if group:
            self.remove_unused_groups()
            consumer.group = self.groups.setdefault((session, group), ModelGroup(0, 0))
            if consumer.group.turns:
                self.set_group_credit(consumer.group, consumer.credit, consumer.credit_bytes)
            consumer.group.credit, consumer.group.credit_bytes = consumer.credit, consumer.credit_bytes
            fresh = [one for one in consumer.group.turns if not one.delivered]
            consumer.group.turns = [*fresh, consumer, *(one for one in consumer.group.turns if one.delivered)]
        self.consumers.append(consumer)
        self.update_expiry(topic)
        self.join_turns(consumer)
        self.serve(topic)
        return consumer

    def pop(self, session: int, topic: ModelTopic, wait_ms: int, **shape: Any) -> ModelConsumer:
        """Creates a consumer with a limit. It ends at once, or after `wait_ms`."""
        consumer = self.subscribe(session, topic, **shape)
        if not consumer.ended and wait_ms:
            consumer.until_ms = self.now + wait_ms
        elif not consumer.ended:
            self.finish_pop(consumer)
        return consumer

    def set_credit(self, consumer: ModelConsumer, credit: int, credit_bytes: int) -> None:
        """Changes the credit of a consumer."""
        consumer.credit, consumer.credit_bytes = credit, credit_bytes
        if not self.can_receive(consumer) and consumer in consumer.topic.turns:
            consumer.topic.turns.remove(consumer)
        self.join_turns(consumer)
        self.serve(consumer.topic)

    def set_group_credit(self, group: ModelGroup, credit: int, credit_bytes: int) -> None:
        """Changes the credit of a group."""
        group.credit, group.credit_bytes = credit, credit_bytes
        self.update_group_turns(group)

    def update_group_turns(self, group: ModelGroup) -> None:
        """Takes the consumers of a full group out of their turns, or notes that the group has credit again."""
        if self.is_full(group):
            self.freed = [one for one in self.freed if one is not group]
            for consumer in group.turns:
                if consumer in consumer.topic.turns:
                    consumer.topic.turns.remove(consumer)
        elif group not in self.freed:
            self.freed.append(group)

    def serve_freed_groups(self) -> None:
        """The end of a call: messages that died are dead-lettered. Then the consumers of each group that has credit
        again join their turns. Each topic is served before the next consumer joins."""
        for topic in heap_deaths.publish(self):
            self.serve(topic)
        while self.freed:
            group = self.freed.pop(0)
            for consumer in list(group.turns):
                if self.join_turns(consumer):
                    self.serve(consumer.topic)
            self.serve_overtaking_group(group)

    def overtake(self, group: ModelGroup, above: int) -> None:
        """Lets a group have one message beyond its credit that is more urgent than `above`."""
        self.last_armed += 1
        group.above, group.armed = above, self.last_armed
        self.serve_overtaking_group(group)

    def serve_overtaking_group(self, group: ModelGroup) -> None:
        """Serves the topic with the most urgent message that an armed group may be sent."""
        topics = [one.topic for one in group.turns if not one.ended and self.overtaking(one.topic) is not None]
        if group.above is not None and self.is_full(group) and topics:
            self.serve(min(topics, key=lambda one: self.ready(one)[0].rank()[0]))

    def overtaking(self, topic: ModelTopic) -> ModelConsumer | None:
        """The consumer that is sent the first ready message of a topic beyond its credit, or None."""
        waiting = [
            (one.group.above, one.group.armed, one.number, one)
            for one in self.active(topic)
            if one.group is not None and one.group.above is not None and self.is_full(one.group)
            if self.attached.get(one.session)
        ]
        ready = self.ready(topic)
        if topic.holds_back or not waiting or not ready or ready[0].urgency() <= min(waiting)[0]:
            return None
        return min(waiting)[3]

    def remove_unused_groups(self) -> None:
        """Removes the groups without consumers. An ended consumer counts while it holds a message."""
        for key, group in list(self.groups.items()):
            group.turns = [one for one in group.turns if not one.ended or self.held(one)]
            if not group.turns:
                del self.groups[key]
                self.freed = [one for one in self.freed if one is not group]

    def cancel(self, consumer: ModelConsumer, give_back: bool, releases: bool = False) -> None:
        """Ends a consumer. With `give_back` its leases are given back; with `releases` they do not count."""
        if not consumer.ended:
            self.end(consumer)
            self.delete_if_unused(consumer)
        if give_back:
            self.recover([consumer], releases)

    def recover(self, consumers: list[ModelConsumer], releases: bool = False) -> None:
        """Gives back all messages that these consumers hold."""
        for consumer in consumers:
            for message in self.held_in_order(consumer):
                self.settle_one(message, "release" if releases else "nack", error=heap_deaths.HOLDER_OVER)
        for consumer in consumers:
            self.serve(consumer.topic)

    def settle(
        self, session: int, tokens: list[tuple[int, int]], how: str, by_ms: int = 0, error: str = ""
    ) -> list[Any]:
        """Ack, nack, release, discard or extend. Returns the stale tokens."""
        stale, touched = [], []
        for token in tokens:
            message = self.lease(session, token)
            if message is None:
                stale.append(token)
                continue
            if how == "extend":
                message.until_ms = self.now + by_ms if by_ms else 0
                continue
            touched.append(message.topic)
            self.settle_one(message, how, by_ms, error)
        for topic in dict.fromkeys(touched):
            self.serve(topic)
        return stale

    def settle_one(self, message: ModelMessage, how: str, by_ms: int = 0, error: str = "") -> None:
        """Ends the lease of a message, which is given back with "nack" and "release" and removed otherwise. The caller
        serves its topic."""
        self.release(message)
        if how == "nack":
            self.requeue(message, by_ms, error)
        elif how == "release":
            message.attempts, message.released = message.attempts - 1, message.released + 1
            self.requeue(message, by_ms, counts=False)
        elif how == "drop":
            heap_deaths.die(self, message, deaths.REJECTED, error)
        else:
            self.messages.remove(message)
            self.acked.append(message)

    def purge(self, topic: ModelTopic) -> int:
        """Drops all ready and delayed messages of a topic. Returns how many there were."""
        gone = [one for one in self.messages if one.topic is topic and one.holder is None and one.transaction is None]
        self.messages = [one for one in self.messages if one not in gone]
        return len(gone)

    def delete(self, topic: ModelTopic, reason: str) -> int:
        """Removes a topic with its messages and consumers. Returns how many messages there were."""
        count = sum(one.topic is topic and one.transaction is None for one in self.messages)
        topic.alive = False
        self.topics.remove(topic)
        self.purge(topic)
        self.end_consumers(topic, reason)
        return count

    def update(self, topic: ModelTopic, settings: broker.TopicSettings) -> None:
        """Changes the settings of a topic. What is too much for it dies in the order of arrival."""
        if settings == topic.settings:
            return
        old, topic.settings = topic.settings, settings
        topic.revision += 1
        if settings.expires_ms != old.expires_ms:
            topic.expires_at_ms = 0
            self.update_expiry(topic)
        before = len(self.dying)
        for _ in range(len(self.ready(topic))):
            self.drop_lowest(topic)
        self.dying[before:] = sorted(self.dying[before:], key=lambda one: one.message.id)

    def pause(self, topic: ModelTopic, deliveries: bool | None, enqueues: bool | None) -> None:
        """Pauses a topic or lets it go on. None leaves either as it is."""
        topic.holds_back = topic.holds_back if deliveries is None else deliveries
        topic.is_closed = topic.is_closed if enqueues is None else enqueues
        self.serve(topic)

    def take_over(self, topic: ModelTopic, session: int) -> None:
        """Gives an exclusive topic to another session. Its consumers end, and their leases are given back."""
        topic.owner = session
        self.end_consumers(topic, "another session has taken the topic over")
        self.update_expiry(topic)

    # --- transactions ---

    def reserved(self, topic: ModelTopic, delayed: bool = False) -> int:
        """How many messages of open transactions the topic has to take; with `delayed`, of those alone."""
        return sum(
            one is topic and (new.delay_ms > 0 or not delayed)
            for transaction in self.transactions.values()
            for new, topics in transaction.prepared
            for one in topics
        )

    def undo(self, transaction: ModelTransaction) -> list[ModelTopic]:
        """Aborts a transaction: the frozen messages go back. Returns the topics to serve."""
        del self.transactions[transaction.name]
        touched = []
        for message in transaction.frozen:
            message.transaction = None
            if message.topic.alive:
                touched.append(message.topic)
            self.requeue(message, error=heap_deaths.ABORTED)
        self.finish(transaction.name, transaction.epoch, False)
        self.send_decision(transaction, False)
        return touched

    def send(self, group: int, message: broker.Decision | broker.Inquiry) -> int:
        """Puts a message for another group into the outbox. Returns its number."""
        self.last_sent[group] = self.last_sent.get(group, 0) + 1
        self.outbox.append((group, self.last_sent[group], message))
        return self.last_sent[group]

    def send_decision(self, transaction: ModelTransaction, is_committed: bool) -> None:
        """Sends the decision to the participants."""
        for group in transaction.participants:
            self.send(group, broker.Decision(transaction.name, transaction.epoch, is_committed))

    def inquire(self, one: ModelTransaction) -> None:
        """A participant asks for the decision, unless its last question is still under way."""
        if (one.coordinator, one.inquiry) not in [(group, number) for group, number, _ in self.outbox]:
            one.inquiry = self.send(one.coordinator, broker.Inquiry(one.name, one.epoch))
        one.pause_ms = min(2 * one.pause_ms, INQUIRE_PAUSE_MAX_MS)
        one.asks_at_ms = self.now + one.pause_ms

    def begin_anew(self) -> None:
        """Numbers what waits for other groups from 1. The participants ask as if for the first time."""
        waiting, self.outbox, self.last_sent, self.taken = self.outbox, [], {}, {}
        for group, _, message in waiting:
            self.send(group, message)
        for one in self.transactions.values():
            if one.coordinator >= 0:
                one.inquiry, one.pause_ms, one.asks_at_ms = 0, INQUIRE_AFTER_MS, self.now + INQUIRE_AFTER_MS

    def finish(self, name: str, epoch: int, is_committed: bool, first: int = 0, count: int = 0) -> None:
        """Remembers how a transaction ended."""
        self.finished[name] = ModelOutcome(epoch, is_committed, first, count)

    # --- sessions ---

    def attach(self, session: int, held: broker.Held) -> tuple[list[Any], list[Any]]:
        """Attaches a session. Returns the deliveries that it did not name, and its consumers that have ended
        meanwhile. Its consumers are last in their turns."""
        self.detach(session)
        self.attached[session] = True
        missing = [
            self.delivery(message, consumer)
            for consumer in self.consumers
            if consumer.session == session
            for message in self.held_in_order(consumer)
            if (message.id, message.epoch) not in held.tokens
        ]
        live = [one.number for one in self.consumers if one.session == session and not one.ended]
        ended: list[Any] = [broker.PopDone(number, 0) for number in held.tickets if number not in live]
        why = "it ended while the session had no connection"
        ended += [broker.ConsumerEnded(number, why) for number in held.consumers if number not in live]
        for (owner, _), group in self.groups.items():
            if owner == session and not self.is_full(group):
                self.update_group_turns(group)
        touched = [one.topic for one in self.consumers if one.session == session and self.join_turns(one)]
        for topic in dict.fromkeys(touched):
            self.serve(topic)
        for (owner, _), group in self.groups.items():
            if owner == session:
                self.serve_overtaking_group(group)
        return missing, ended

    def detach(self, session: int) -> None:
        """Detaches a session. Its consumers leave their turns and keep their messages."""
        self.attached[session] = False
        for topic in self.topics:
            topic.turns = [one for one in topic.turns if one.session != session]

    def expire(self, session: int) -> None:
        """Ends a session: its topics are deleted, its consumers end, and its leases are given back."""
        self.attached.pop(session)
        for topic in self.topics:
            topic.turns = [one for one in topic.turns if one.session != session]
        for consumer in self.consumers:
            if consumer.session == session and consumer.group is not None:
                self.freed = [one for one in self.freed if one is not consumer.group]
                consumer.group = None
        self.groups = {key: group for key, group in self.groups.items() if key[0] != session}
        for topic in [one for one in self.topics if one.owner == session]:
            self.delete(topic, "its owner's session is over")
        for consumer in [one for one in self.consumers if one.session == session]:
            if not consumer.ended:
                self.end(consumer)
                self.delete_if_unused(consumer)
            self.recover([consumer])
        self.values.expire_session(session)

    # --- time ---

    def advance(self, now: int) -> None:
        """Sets the time, and fires all timers that are due, in the order of their deadlines."""
        self.now = self.values.now = now
        while True:
            due = [event for event in self.events() if event[0] <= now]
            if not due:
                return
            deadline = min(due)[0]
            touched: list[ModelTopic] = []
            while True:
                due = sorted(event for event in self.events() if event[0] == deadline)
                if not due:
                    break
                touched += self.fire(due[0][2], due[0][1])
            touched += heap_deaths.publish(self)
            for topic in dict.fromkeys(touched):
                self.serve(topic)
            self.serve_freed_groups()

    def events(self) -> list[tuple[int, int, int]]:
        """(deadline in ms, number, kind) of everything that has a deadline."""
        events = []
        for message in self.messages:
            if message.due_ms:
                events.append((message.due_ms, message.id, 0))
            if message.expires_at_ms and message.holder is None and message.transaction is None:
                events.append((message.expires_at_ms, message.id, 1))
            if message.holder is not None and message.until_ms:
                events.append((message.until_ms, message.id, 2))
        events += [(one.until_ms, one.number, 3) for one in self.consumers if one.until_ms and not one.ended]
        events += [(one.deadline_ms, one.number, 5) for one in self.transactions.values() if one.deadline_ms]
        events += [(one.asks_at_ms, one.number, 6) for one in self.transactions.values() if one.asks_at_ms]
        events += [(one.expires_at_ms, one.number, 4) for one in self.topics if one.expires_at_ms]
        return events + self.values.events()

    def fire(self, kind: int, number: int) -> list[ModelTopic]:
        """Fires one timer. Returns the topics to serve afterwards."""
        if kind == 4:
            self.delete(next(one for one in self.topics if one.number == number), "it was unused for too long")
            return []
        if kind in (7, 8):
            self.values.fire(kind, number)
            return []
        if kind == 6:
            self.inquire(next(one for one in self.transactions.values() if one.number == number))
            return []
        if kind == 5:
            return self.undo(next(one for one in self.transactions.values() if one.number == number))
        if kind == 3:
            self.finish_pop(next(one for one in self.consumers if one.number == number))
            return []
        message = next(one for one in self.messages if one.id == number)
        if kind == 0:
            message.due_ms = 0
            self.drop_lowest(message.topic)
        elif kind == 1:
            heap_deaths.die(self, message, deaths.EXPIRED)
        else:
            self.release(message)
            self.requeue(message, error=heap_deaths.LEASE_OVER)
        return [message.topic]

    # --- steps of the commands ---

    def drop_lowest(self, topic: ModelTopic) -> None:
        """Drops one ready message of a topic that drops when it is full: the lowest priority, and its oldest
        message."""
        ready = self.ready(topic)
        if topic.settings.overflow == "drop" and 0 < topic.settings.max_messages < len(ready):
            heap_deaths.die(self, max(ready, key=lambda one: (one.rank()[0], -one.id)), deaths.OVERFLOW)
            self.dropped += 1

    def delayed_full(self, topic: ModelTopic, more: int = 1) -> bool:
        """Whether a topic that drops when it is full cannot take so many more delayed messages. It never drops
        those."""
        count = sum(one.topic is topic and one.due_ms > 0 for one in self.messages) + self.reserved(topic, True)
        return topic.settings.overflow == "drop" and 0 < topic.settings.max_messages < count + more

    def is_topic_full(self, topic: ModelTopic, more: int = 1) -> bool:
        """Whether a topic that refuses when it is full cannot take so many more messages."""
        count = sum(one.topic is topic for one in self.messages) + self.reserved(topic)
        return topic.settings.overflow == "reject" and 0 < topic.settings.max_messages < count + more

    def serve(self, topic: ModelTopic) -> None:
        """Delivers ready messages of a topic while consumers can receive, and then to groups that wait for something
        more urgent."""
        while topic.turns and not topic.holds_back and self.ready(topic):
            self.deliver(self.ready(topic)[0], topic.turns.pop(0))
        while not topic.turns and (consumer := self.overtaking(topic)) is not None:
            assert consumer.group is not None
            consumer.group.above = None
            self.deliver(self.ready(topic)[0], consumer)

    def deliver(self, message: ModelMessage, consumer: ModelConsumer) -> None:
        """Delivers a message to a consumer: with a lease, or without one if the consumer is no-ack."""
        if consumer.no_ack:
            self.messages.remove(message)
            self.acked.append(message)
            push = self.delivery(message, consumer, no_ack=True)
        else:
            message.attempts += 1
            message.holder, message.until_ms = consumer, self.now + consumer.lease_ms if consumer.lease_ms else 0
            self.lease_order = [one for one in self.lease_order if one != message.id] + [message.id]
            push = self.delivery(message, consumer)
        if consumer.group is not None:
            consumer.group.turns.remove(consumer)
            consumer.group.turns.append(consumer)
            if self.is_full(consumer.group):
                self.update_group_turns(consumer.group)
        consumer.delivered += 1
        self.pushed.append((consumer.session, push))
        self.join_turns(consumer)
        if consumer.limit and consumer.delivered >= consumer.limit:
            self.finish_pop(consumer)

    def delivery(self, message: ModelMessage, consumer: ModelConsumer, no_ack: bool = False) -> broker.Deliver:
        """The push that delivers this message to this consumer."""
        return broker.Deliver(
            consumer.number,
            message.id,
            0 if no_ack else message.epoch,
            message.priority,
            message.enqueued_ms,
            message.new.payload,
            0 if no_ack else message.until_ms,
            message.attempts + no_ack,
            message.new.encoded_headers,
            message.new.key,
        )

    def release(self, message: ModelMessage) -> None:
        """Ends the lease of a message and frees the credit."""
        consumer = message.holder
        assert consumer is not None
        was_full = consumer.group is not None and self.is_full(consumer.group)
        message.holder, message.until_ms = None, 0
        if consumer.group is not None and was_full and not self.is_full(consumer.group):
            self.update_group_turns(consumer.group)
        self.join_turns(consumer)

    def requeue(self, message: ModelMessage, delay_ms: int = 0, error: str = "", counts: bool = True) -> None:
        """Gives a message without a lease back to its topic, at once or after a delay. It dies if it has expired or its
        attempts are used up."""
        limit = message.topic.settings.delivery_limit
        delay_ms = delay_ms or (heap_deaths.retry_delay_ms(message) if counts else 0)
        if not message.topic.alive:
            self.messages.remove(message)
        elif message.expires_at_ms and message.expires_at_ms <= self.now:
            heap_deaths.die(self, message, deaths.EXPIRED, error)
        elif limit and message.attempts >= limit:
            heap_deaths.die(self, message, deaths.DELIVERY_LIMIT, error)
        elif delay_ms:
            message.due_ms = self.now + delay_ms
        else:
            self.drop_lowest(message.topic)

    def join_turns(self, consumer: ModelConsumer) -> bool:
        """Adds a consumer to the turns of its topic, if it can receive and is not there. Returns whether it was
        added."""
        joins = consumer not in consumer.topic.turns and self.can_receive(consumer) and consumer.group not in self.freed
        if joins:
            consumer.topic.turns.append(consumer)
        return joins

    def finish_pop(self, consumer: ModelConsumer) -> None:
        """Ends a pop and tells its session how many messages came."""
        if self.attached.get(consumer.session):
            self.pushed.append((consumer.session, broker.PopDone(consumer.number, consumer.delivered)))
        self.end(consumer)

    def end(self, consumer: ModelConsumer) -> None:
        """Marks a consumer as ended and takes it out of the turns."""
        consumer.ended = True
        if consumer in consumer.topic.turns:
            consumer.topic.turns.remove(consumer)
        self.update_expiry(consumer.topic)

    def delete_if_unused(self, consumer: ModelConsumer) -> None:
        """Deletes an `auto_delete` topic whose last consumer has ended."""
        topic = consumer.topic
        if topic.alive and topic.settings.auto_delete and not consumer.limit and not self.subscribers(topic):
            self.delete(topic, "its last consumer left")

    def end_consumers(self, topic: ModelTopic, reason: str) -> None:
        """Ends all consumers of a topic, tells their sessions why, and gives their leases back."""
        for consumer in [one for one in self.consumers if one.topic is topic]:
            if not consumer.ended:
                if self.attached.get(consumer.session):
                    self.pushed.append((consumer.session, broker.ConsumerEnded(consumer.number, reason)))
                self.end(consumer)
            for message in self.held_in_order(consumer):
                self.release(message)
                self.requeue(message, error=heap_deaths.HOLDER_OVER)

    def update_expiry(self, topic: ModelTopic) -> None:
        """Starts the expiry timer of a topic, or stops it while the topic has consumers."""
        lifetime = topic.settings.expires_ms
        topic.expires_at_ms = self.now + lifetime if lifetime and not self.active(topic) else 0
