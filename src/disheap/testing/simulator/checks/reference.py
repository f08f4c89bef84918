"""The heap machine's commands and queries over the plain model: who is refused with which code, and what is replied.

Topics, messages, leases and turns are those of the model, and exchanges those of `reference_exchanges`. The bounds of
work per call are not modelled: the workload stays below those of the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from disheap.protocol import broker
from disheap.testing import heap_batches, heap_queries, heap_transactions
from disheap.testing.heap_model import Model
from disheap.testing.heap_records import ModelConsumer, ModelMessage, ModelTopic, ModelTransaction
from disheap.testing.simulator.checks.reference_exchanges import ReferenceExchanges, Refused

CREDIT_BYTES = 16 << 20
"""The bound on the bytes of a consumer that does not name its own."""


class Reference:
    """The machine's commands and queries over a `Model`, and the exchanges."""

    def __init__(self, group: int = 0) -> None:
        self.model = Model(group)
        self.messages: dict[int, tuple[str, broker.NewMessage]] = {}  # every message there ever was, with its topic
        self.seen: Counter[str] = Counter()  # how often the rarer ways were taken, so that a test can require them
        self.exchanges = ReferenceExchanges(self.model.topic, self.seen)
        self.model.route = self._route

    def do(self, command: broker.Command, session: int) -> broker.Reply:
        """Carries out a command and returns its reply. Raises `Refused`."""
        self.exchanges.remove_deleted_topics()
        carry_out: Callable[[Any, int], broker.Reply] = getattr(self, f"_{type(command).__name__.lower()}")
        reply = carry_out(command, session)
        self.model.serve_freed_groups()
        self.note_dead_letters()
        return reply

    def note_dead_letters(self) -> None:
        """After each call: notes the dead letters that it made."""
        for number, topic, new in self.model.letters:
            self.messages[number] = (topic, new)
        self.seen["dead letter"] += len(self.model.letters)
        self.model.letters.clear()

    def _route(self, exchange: str, key: str, headers: dict[str, Any]) -> list[ModelTopic]:
        try:
            return self.exchanges.routed(exchange, key, headers)
        except Refused:
            return []

    def ask(self, query: broker.Query, now_ms: int) -> broker.Reply:
        """Answers a query. Raises `Refused`."""
        self.exchanges.remove_deleted_topics()
        match query:
            case broker.Peek():
                return self._peek(query)
            case broker.Browse():
                return heap_queries.browsed(self._messages_of(self._topic(query.topic)), query)
            case broker.Explain():
                return heap_queries.explained(self.model, self._topic(query.topic), query.id, now_ms)
            case broker.DescribeTopic():
                return self._info(self._topic(query.topic))
            case broker.ListTopics():
                return self._list(query)
            case broker.GetStats():
                return self._stats(now_ms)
            case broker.ListExchanges():
                return self.exchanges.list(query)
            case broker.ListTransactions():
                return self._list_transactions(query)
            case broker.GetValues():
                return self.model.values.found(query.keys)
            case broker.GetParts():
                return self.model.values.parts(query)

    def prune(self) -> None:
        """Forgets the consumers that have ended and hold nothing."""
        model = self.model
        holding = {id(message.holder) for message in model.messages if message.holder is not None}
        model.consumers = [one for one in model.consumers if not one.ended or id(one) in holding]
        live = {message.id for message in model.messages}
        model.lease_order = [number for number in model.lease_order if number in live]

    # --- enqueue and publish ---

    def _topic(self, name: str) -> ModelTopic:
        topic = self.model.topic(name)
        if topic is None:
            raise Refused("topic-not-found")
        return topic

    def _messages_of(self, topic: ModelTopic) -> list[ModelMessage]:
        return [one for one in self.model.messages if one.topic is topic and one.transaction is None]

    def _check_capacity(self, topic: ModelTopic, *messages: broker.NewMessage) -> None:
        if topic.is_closed:
            self.seen["paused"] += 1
            raise Refused("topic-paused")
        if self.model.is_topic_full(topic, len(messages)):
            raise Refused("topic-full")
        delayed = sum(message.delay_ms > 0 for message in messages)
        if delayed and self.model.delayed_full(topic, delayed):
            raise Refused("topic-full")

    def _put(self, topic: ModelTopic, message: broker.NewMessage) -> int:
        self.messages[self.model.last_message + 1] = (topic.name, message)
        return self.model.enqueue(topic, message)

    def _enqueue(self, command: broker.Enqueue, session: int) -> broker.Reply:
        topic = self._topic(command.topic)
        self._check_capacity(topic, command.message)
        return broker.Enqueued(self._put(topic, command.message))

    def _enqueuemany(self, command: broker.EnqueueMany, session: int) -> broker.Reply:
        """All messages are in the topic before the first is delivered. What it drops dies in the order of arrival."""
        topic = self._topic(command.topic)
        self._check_capacity(topic, *command.messages)
        first, before = self.model.last_message + 1, len(self.model.dying)
        for message in command.messages:
            self.messages[self.model.last_message + 1] = (topic.name, message)
            self.model.put(topic, message)
        self.model.dying[before:] = sorted(self.model.dying[before:], key=lambda one: one.message.id)
        self.model.serve(topic)
        return broker.EnqueuedMany(first, len(command.messages))

    def _publish(self, command: broker.Publish, session: int) -> broker.Reply:
        topics = self.exchanges.routed(command.exchange, command.routing_key, command.message.headers)
        if not topics and command.mandatory:
            raise Refused("topic-not-found")
        taking = [topic for topic in topics if self._has_capacity(topic, command.message)]
        if topics and not taking:
            raise Refused("topic-paused" if topics[-1].is_closed else "topic-full")
        self.seen["partly refused"] += len(taking) < len(topics)
        for topic in taking:
            self._put(topic, command.message)
        return broker.Published(len(taking), len(topics) - len(taking))

    def _batch(self, command: broker.Batch, session: int) -> broker.Reply:
        """The first item that is refused decides with which code."""
        items = self._checked_items(command.items, session)
        first = self.model.last_message
        for item, topics in items:
            if isinstance(item, broker.Enqueue | broker.Publish):
                for topic in topics:
                    first += 1
                    self.messages[first] = (topic.name, item.message)
        self.seen["batch"] += 1
        return broker.Batched(heap_batches.carry_out(self.model, session, items))

    def _checked_items(self, commands: Iterable[broker.BatchItem], session: int) -> list[heap_batches.Item]:
        items: list[heap_batches.Item] = []
        for item in commands:
            items.append((item, self._topics_of(item)))
            code = heap_batches.refusal(self.model, session, items)
            if code:
                self.seen["refused batch"] += 1
                raise Refused(code)
        return items

    # --- transactions ---

    def _require_known(self, command: broker.Prepare | broker.Commit | broker.Abort) -> None:
        code = heap_transactions.refusal(self.model, command)
        if code:
            self.seen[f"{type(command).__name__} {code}"] += 1
            raise Refused(code)

    def _prepare(self, command: broker.Prepare, session: int) -> broker.Reply:
        code = heap_transactions.role_refusal(self.model, command)
        if code:
            raise Refused(code)
        self._require_known(command)
        if command.transaction not in self.model.transactions:
            items = self._checked_items(command.items, session)
            heap_transactions.prepare(self.model, session, command, items)
            self.seen["prepared ack"] += any(isinstance(item, broker.Ack) for item in command.items)
        return broker.Done()

    def _commit(self, command: broker.Commit, session: int) -> broker.Reply:
        self._require_known(command)
        known = self.model.transactions.get(command.transaction)
        self._note_committed(known)
        self.seen["commit" if known is not None else "repeated commit"] += 1
        return broker.Committed(*heap_transactions.commit(self.model, command))

    def _abort(self, command: broker.Abort, session: int) -> broker.Reply:
        self._require_known(command)
        self.seen["abort"] += command.transaction in self.model.transactions
        heap_transactions.abort(self.model, command)
        return broker.Done()

    def _note_committed(self, transaction: ModelTransaction | None) -> None:
        """The messages that a COMMIT brings get these numbers."""
        number = self.model.last_message
        for new, topics in transaction.prepared if transaction is not None else ():
            for topic in topics:
                if topic.alive:
                    number += 1
                    self.messages[number] = (topic.name, new)

    def _groupmessage(self, command: broker.GroupMessage, session: int) -> broker.Reply:
        self._require_leader(session)
        message, known = command.message, self.model.transactions.get(command.message.transaction)
        if isinstance(message, broker.Decision) and heap_transactions.is_decided_here(self.model, command):
            self.seen["told commit" if message.is_committed else "told abort"] += 1
            if message.is_committed:
                self._note_committed(known)
        self.seen["inquiry"] += isinstance(message, broker.Inquiry)
        code = heap_transactions.take_message(self.model, command)
        if code:
            raise Refused(code)
        return broker.Done()

    def _confirm(self, command: broker.Confirm, session: int) -> broker.Reply:
        self._require_leader(session)
        heap_transactions.confirm(self.model, command)
        return broker.Done()

    def _setgroups(self, command: broker.SetGroups, session: int) -> broker.Reply:
        self._require_leader(session)
        self.model.known_groups = list(command.groups)
        return broker.Done()

    def _require_leader(self, session: int) -> None:
        if session:
            raise Refused("invalid-argument")

    def _topics_of(self, item: broker.BatchItem) -> list[ModelTopic]:
        if isinstance(item, broker.Enqueue):
            return [self._topic(item.topic)]
        if isinstance(item, broker.Publish):
            topics = self.exchanges.routed(item.exchange, item.routing_key, item.message.headers)
            if not topics and item.mandatory:
                raise Refused("topic-not-found")
            return topics
        return []

    def _has_capacity(self, topic: ModelTopic, message: broker.NewMessage) -> bool:
        try:
            self._check_capacity(topic, message)
        except Refused:
            return False
        return True

    # --- consumers ---

    def _accessible_topic(self, name: str, session: int) -> ModelTopic:
        """A topic that is shared, or exclusive to this session."""
        topic = self._topic(name)
        if topic.owner is not None and topic.owner != session:
            raise Refused("topic-locked")
        return topic

    def _open_topic(self, name: str, session: int) -> ModelTopic:
        topic = self._accessible_topic(name, session)
        if any(consumer.exclusive for consumer in self.model.active(topic)):
            raise Refused("topic-in-use")
        return topic

    def _subscribe(self, command: broker.Subscribe, session: int) -> broker.Reply:
        topic = self._open_topic(command.topic, session)
        if command.exclusive and self.model.active(topic):
            raise Refused("topic-in-use")
        if command.group and command.no_ack:
            raise Refused("invalid-argument")
        consumer = self.model.subscribe(
            session, topic, credit=command.credit, credit_bytes=command.credit_bytes or CREDIT_BYTES,
            no_ack=command.no_ack, lease_ms=command.lease_ms, exclusive=command.exclusive, group=command.group,
        )  # fmt: skip
        return broker.Subscribed(consumer.number)

    def _pop(self, command: broker.Pop, session: int) -> broker.Reply:
        topic = self._open_topic(command.topic, session)
        consumer = self.model.pop(
            session, topic, command.wait_ms, credit=command.count, credit_bytes=CREDIT_BYTES,
            no_ack=command.no_ack, lease_ms=command.lease_ms, limit=command.count,
        )  # fmt: skip
        return broker.Subscribed(consumer.number)

    def _consumer(self, number: int, session: int) -> ModelConsumer | None:
        """The consumer, or None if it has ended and holds nothing."""
        for consumer in self.model.consumers:
            if consumer.number == number and (not consumer.ended or self.model.held(consumer)):
                if consumer.session == session:
                    return consumer
                raise Refused("consumer-not-found")
        if 0 < number <= self.model.last_consumer:
            return None
        raise Refused("consumer-not-found")

    def _setcredit(self, command: broker.SetCredit, session: int) -> broker.Reply:
        if command.group:
            self.model.remove_unused_groups()
            group = self.model.groups.get((session, command.group))
            if command.consumer:
                raise Refused("invalid-argument")
            if group is None:
                raise Refused("consumer-not-found")
            self.model.set_group_credit(group, command.credit, command.credit_bytes or CREDIT_BYTES)
            return broker.Done()
        consumer = self._consumer(command.consumer, session)
        if consumer is None or consumer.ended or consumer.limit:
            raise Refused("consumer-not-found")
        if consumer.group is not None:
            raise Refused("invalid-argument")
        self.model.set_credit(consumer, command.credit, command.credit_bytes or CREDIT_BYTES)
        return broker.Done()

    def _overtake(self, command: broker.Overtake, session: int) -> broker.Reply:
        self.model.remove_unused_groups()
        group = self.model.groups.get((session, command.group))
        if group is None:
            raise Refused("consumer-not-found")
        self.seen["overtake"] += 1
        self.model.overtake(group, command.above)
        return broker.Done()

    def _cancel(self, command: broker.Cancel, session: int) -> broker.Reply:
        consumer = self._consumer(command.consumer, session)
        if consumer is not None:
            self.model.cancel(consumer, command.give_back, command.release)
        return broker.Done()

    def _recover(self, command: broker.Recover, session: int) -> broker.Reply:
        consumers = [self._consumer(number, session) for number in dict.fromkeys(command.consumers)]
        self.model.recover([consumer for consumer in consumers if consumer is not None])
        return broker.Done()

    def _settle(
        self, tokens: list[broker.Token], session: int, how: str, by_ms: int = 0, error: str = ""
    ) -> broker.Reply:
        stale = self.model.settle(session, tokens, how, by_ms, error)
        return broker.Settled(len(tokens) - len(stale), stale)

    def _ack(self, command: broker.Ack, session: int) -> broker.Reply:
        return self._settle(command.tokens, session, "ack")

    def _nack(self, command: broker.Nack, session: int) -> broker.Reply:
        how = "drop" if command.discard else "release" if command.release else "nack"
        self.seen["release"] += command.release
        return self._settle(command.tokens, session, how, command.delay_ms, command.error)

    def _extend(self, command: broker.Extend, session: int) -> broker.Reply:
        return self._settle(command.tokens, session, "extend", command.lease_ms)

    # --- values ---

    def _setvalue(self, command: broker.SetValue, session: int) -> broker.Reply:
        reply = self.model.values.set_value(command, self._publish_anyhow)
        self.seen["final value kept"] += not reply.is_stored
        return reply

    def _deletevalues(self, command: broker.DeleteValues, session: int) -> broker.Reply:
        return broker.Removed(self.model.values.delete(command.keys))

    def _watch(self, command: broker.Watch, session: int) -> broker.Reply:
        return self.model.values.watch(session, command.keys)

    def _unwatch(self, command: broker.Unwatch, session: int) -> broker.Reply:
        self.model.values.unwatch(session, command.keys)
        return broker.Done()

    def _setbarrier(self, command: broker.SetBarrier, session: int) -> broker.Reply:
        return self.model.values.set_barrier(command, self._publish_anyhow)

    def _closebarrier(self, command: broker.CloseBarrier, session: int) -> broker.Reply:
        if not self.model.values.is_open(command.barrier):
            raise Refused("barrier-closed")
        return broker.Removed(self.model.values.close(command.barrier))

    def _publish_anyhow(self, message: broker.Publish) -> None:
        """The message of a complete barrier, which full topics take as well."""
        self.seen["barrier"] += 1
        try:
            topics = self.exchanges.routed(message.exchange, message.routing_key, message.message.headers)
        except Refused:
            return
        for topic in topics:
            self.messages[self.model.last_message + 1] = (topic.name, message.message)
            self.model.put(topic, message.message)
        for topic in topics:
            self.model.serve(topic)

    # --- topics ---

    def _createtopic(self, command: broker.CreateTopic, session: int) -> broker.Reply:
        model = self.model
        topic = model.topic(command.topic)
        if topic is None:
            return self._info(model.create(command.topic, command.settings, session), created=True)
        taken = topic.owner is not None and topic.owner != session
        if taken and model.attached.get(topic.owner or 0):
            raise Refused("topic-locked")
        if command.settings != topic.settings:
            raise Refused("topic-mismatch")
        if taken:
            model.take_over(topic, session)
        model.update_expiry(topic)
        return self._info(topic)

    def _updatetopic(self, command: broker.UpdateTopic, session: int) -> broker.Reply:
        topic = self._accessible_topic(command.topic, session)
        if command.revision not in (0, topic.revision):
            raise Refused("topic-mismatch")
        settings = broker.changed_settings(topic.settings, command.changes)
        self.seen["update"] += settings != topic.settings
        self.model.update(topic, settings)
        return self._info(topic)

    def _pausetopic(self, command: broker.PauseTopic, session: int) -> broker.Reply:
        topic = self._accessible_topic(command.topic, session)
        self.model.pause(topic, command.deliveries, command.enqueues)
        return self._info(topic)

    def _deletetopic(self, command: broker.DeleteTopic, session: int) -> broker.Reply:
        topic = self._accessible_topic(command.topic, session)
        if command.if_unused and self.model.active(topic):
            raise Refused("topic-in-use")
        prepared = any(topic in found for one in self.model.transactions.values() for _, found in one.prepared)
        if command.if_empty and (prepared or any(one.topic is topic for one in self.model.messages)):
            raise Refused("topic-in-use")
        return broker.Removed(self.model.delete(topic, "the topic was deleted"))

    def _purge(self, command: broker.Purge, session: int) -> broker.Reply:
        return broker.Removed(self.model.purge(self._accessible_topic(command.topic, session)))

    # --- exchanges ---

    def _createexchange(self, command: broker.CreateExchange, session: int) -> broker.Reply:
        return self.exchanges.create(command)

    def _deleteexchange(self, command: broker.DeleteExchange, session: int) -> broker.Reply:
        return self.exchanges.delete(command)

    def _bind(self, command: broker.Bind, session: int) -> broker.Reply:
        return self.exchanges.bind(command, lambda: self._accessible_topic(command.topic, session))

    def _unbind(self, command: broker.Unbind, session: int) -> broker.Reply:
        return self.exchanges.unbind(command, lambda: self._accessible_topic(command.topic, session))

    # --- queries ---

    def _info(self, topic: ModelTopic, created: bool = False) -> broker.TopicInfo:
        ready, here = self.model.ready(topic), self._messages_of(topic)
        return broker.TopicInfo(
            topic.name, topic.settings, len(ready), sum(message.due_ms > 0 for message in here),
            sum(message.holder is not None for message in here), len(self.model.subscribers(topic)),
            sum(message.size() for message in ready), created, ready[0].enqueued_ms if ready else 0,
            revision=topic.revision, deliveries_paused=topic.holds_back, enqueues_paused=topic.is_closed,
        )  # fmt: skip

    def _peek(self, query: broker.Peek) -> broker.Reply:
        ready = self.model.ready(self._topic(query.topic))[: query.count] if query.ready else []
        return broker.Peeked([one.peeked() for one in ready])

    def _list(self, query: broker.ListTopics) -> broker.Reply:
        names = sorted(topic.name for topic in self.model.topics if topic.name.startswith(query.prefix))
        later = [name for name in names if name > query.after] if query.after else names
        return broker.TopicInfos([self._info(self._topic(name)) for name in later[: query.limit]], len(names))

    def _stats(self, now_ms: int) -> broker.Reply:
        model = self.model
        live = [message for message in model.messages if message.topic.alive]
        return broker.Stats(
            topics=len(model.topics),
            exchanges=len(self.exchanges.by_name),
            bindings=sum(len(known.bindings) for known in self.exchanges.by_name.values()),
            consumers=sum(len(model.subscribers(topic)) for topic in model.topics),
            ready=sum(not one.due_ms and one.holder is None and one.transaction is None for one in live),
            delayed=sum(message.due_ms > 0 for message in live),
            leased=sum(message.holder is not None for message in live),
            message_bytes=sum(message.size() for message in model.messages),
            time_ms=now_ms,
            pops=sum(bool(one.limit) for topic in model.topics for one in model.active(topic)),
            transactions=len(model.transactions),
            prepared=sum(len(one.prepared) for one in model.transactions.values()),
            frozen=sum(len(one.frozen) for one in model.transactions.values()),
            forwarding=len(model.outbox),
            values=len(model.values.values),
            value_bytes=sum(len(key.encode()) + len(one.command.value) for key, one in model.values.values.items()),
            watches=len(model.values.watches),
            barriers=len(model.values.barriers),
        )

    def _list_transactions(self, query: broker.ListTransactions) -> broker.Reply:
        rows = [heap_queries.transaction_info(one) for one in self.model.transactions.values()]
        if not query.transaction:
            return broker.TransactionInfos(rows[query.skip : query.skip + query.limit], len(rows))
        found = [one for one in rows if one.transaction == query.transaction]
        finished = self.model.finished.get(query.transaction)
        if found or finished is None:
            return broker.TransactionInfos(found, len(found))
        outcome = "committed" if finished.is_committed else "aborted"
        return broker.TransactionInfos([], 0, outcome, finished.first, finished.count)
