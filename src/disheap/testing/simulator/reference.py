"""The heap machine's commands and queries over the plain model: who is refused with which code, and what is replied.

Exchanges are implemented here. Topics, messages, leases and turns are those of the model. The bounds of work per call
are not modelled: the workload stays below those of the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from disheap.protocol import broker
from disheap.testing.heap_model import Model
from disheap.testing.heap_records import ModelConsumer, ModelMessage, ModelTopic

CREDIT_BYTES = 16 << 20
"""The bound on the bytes of a consumer that does not name its own."""


class Refused(Exception):
    """A command was refused with this code. It has changed nothing."""


class Binding(NamedTuple):
    """A binding: the key, and the topic to which it routes."""

    key: str
    topic: ModelTopic


class ReferenceExchange:
    """An exchange with its bindings, the oldest first."""

    def __init__(self, kind: str, auto_delete: bool, alternate: str) -> None:
        self.kind = kind
        self.auto_delete = auto_delete
        self.alternate = alternate
        self.bindings: list[Binding] = []

    def matches(self, pattern: str, key: str) -> bool:
        """Whether a binding with this pattern routes a message with this key."""
        if self.kind == "fanout":
            return True
        if self.kind == "direct":
            return pattern == key
        return _matches(pattern.split(".") if pattern else [], key.split(".") if key else [])


class Reference:
    """The machine's commands and queries over a `Model`, and the exchanges."""

    def __init__(self) -> None:
        self.model = Model()
        self.exchanges: dict[str, ReferenceExchange] = {}
        self.messages: dict[int, tuple[str, broker.NewMessage]] = {}  # every message there ever was, with its topic
        self.seen: Counter[str] = Counter()  # how often the rarer ways were taken, so that a test can require them

    def do(self, command: broker.Command, session: int) -> broker.Reply:
        """Carries out a command and returns its reply. Raises `Refused`."""
        self._remove_deleted_topics()
        carry_out: Callable[[Any, int], broker.Reply] = getattr(self, f"_{type(command).__name__.lower()}")
        reply = carry_out(command, session)
        self.model.serve_freed_groups()
        return reply

    def ask(self, query: broker.Query, now_ms: int) -> broker.Reply:
        """Answers a query. Raises `Refused`."""
        self._remove_deleted_topics()
        match query:
            case broker.Peek():
                return self._peek(query)
            case broker.DescribeTopic():
                return self._info(self._topic(query.topic))
            case broker.ListTopics():
                return self._list(query)
            case broker.GetStats():
                return self._stats(now_ms)
            case broker.ListExchanges():
                return self._list_exchanges(query)

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
        return [message for message in self.model.messages if message.topic is topic]

    def _check_capacity(self, topic: ModelTopic, *messages: broker.NewMessage) -> None:
        most = topic.settings.max_messages
        if most and topic.settings.overflow == "reject" and len(self._messages_of(topic)) + len(messages) > most:
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
        """All messages are in the topic before the first of them is delivered."""
        topic = self._topic(command.topic)
        self._check_capacity(topic, *command.messages)
        first = self.model.last_message + 1
        turns, topic.turns = topic.turns, []
        for message in command.messages:
            self._put(topic, message)
        topic.turns = turns
        self.model.serve(topic)
        return broker.EnqueuedMany(first, len(command.messages))

    def _publish(self, command: broker.Publish, session: int) -> broker.Reply:
        topics = self._routed(command.exchange, command.routing_key)
        if not topics and command.mandatory:
            raise Refused("topic-not-found")
        taking = [topic for topic in topics if self._has_capacity(topic, command.message)]
        if topics and not taking:
            raise Refused("topic-full")
        self.seen["partly refused"] += len(taking) < len(topics)
        for topic in taking:
            self._put(topic, command.message)
        return broker.Published(len(taking), len(topics) - len(taking))

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

    def _cancel(self, command: broker.Cancel, session: int) -> broker.Reply:
        consumer = self._consumer(command.consumer, session)
        if consumer is not None:
            self.model.cancel(consumer, command.give_back)
        return broker.Done()

    def _recover(self, command: broker.Recover, session: int) -> broker.Reply:
        consumers = [self._consumer(number, session) for number in dict.fromkeys(command.consumers)]
        self.model.recover([consumer for consumer in consumers if consumer is not None])
        return broker.Done()

    def _settle(self, tokens: list[broker.Token], session: int, how: str, by_ms: int = 0) -> broker.Reply:
        stale = self.model.settle(session, tokens, how, by_ms)
        return broker.Settled(len(tokens) - len(stale), stale)

    def _ack(self, command: broker.Ack, session: int) -> broker.Reply:
        return self._settle(command.tokens, session, "ack")

    def _nack(self, command: broker.Nack, session: int) -> broker.Reply:
        return self._settle(command.tokens, session, "drop" if command.discard else "nack", command.delay_ms)

    def _extend(self, command: broker.Extend, session: int) -> broker.Reply:
        return self._settle(command.tokens, session, "extend", command.lease_ms)

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

    def _deletetopic(self, command: broker.DeleteTopic, session: int) -> broker.Reply:
        topic = self._accessible_topic(command.topic, session)
        if command.if_unused and self.model.active(topic):
            raise Refused("topic-in-use")
        if command.if_empty and self._messages_of(topic):
            raise Refused("topic-in-use")
        return broker.Removed(self.model.delete(topic, "the topic was deleted"))

    def _purge(self, command: broker.Purge, session: int) -> broker.Reply:
        return broker.Removed(self.model.purge(self._accessible_topic(command.topic, session)))

    # --- exchanges ---

    def _remove_deleted_topics(self) -> None:
        """Removes the bindings of deleted topics, and `auto_delete` exchanges without bindings."""
        for name, known in list(self.exchanges.items()):
            left = [binding for binding in known.bindings if binding.topic.alive]
            if known.auto_delete and known.bindings and not left:
                del self.exchanges[name]
            known.bindings = left

    def _known_exchange(self, name: str) -> ReferenceExchange:
        known = self.exchanges.get(name)
        if known is None:
            raise Refused("exchange-not-found" if name else "invalid-argument")
        return known

    def _routed(self, exchange: str, key: str) -> list[ModelTopic]:
        if not exchange:
            topic = self.model.topic(key)
            return [] if topic is None else [topic]
        found: dict[int, ModelTopic] = {}
        tried: list[str] = []
        while not found and exchange:
            if exchange in tried:
                raise Refused("invalid-argument")
            tried.append(exchange)
            known = self._known_exchange(exchange)
            leading = [binding for binding in known.bindings if known.matches(binding.key, key)]
            found.update((id(binding.topic), binding.topic) for binding in leading)
            self.seen["long pattern"] += known.kind == "topic" and any("#." in one.key for one in leading)
            self.seen["alternate"] += bool(found) and len(tried) > 1
            exchange = known.alternate
        return list(found.values())

    def _createexchange(self, command: broker.CreateExchange, session: int) -> broker.Reply:
        known = self.exchanges.get(command.exchange)
        if known is None:
            self.exchanges[command.exchange] = ReferenceExchange(command.kind, command.auto_delete, command.alternate)
        elif (known.kind, known.auto_delete, known.alternate) != (
            command.kind, command.auto_delete, command.alternate,
        ):  # fmt: skip
            raise Refused("exchange-mismatch")
        return broker.Done()

    def _deleteexchange(self, command: broker.DeleteExchange, session: int) -> broker.Reply:
        known = self.exchanges.get(command.exchange)
        if known is not None and known.bindings and command.if_unused:
            raise Refused("topic-in-use")
        self.exchanges.pop(command.exchange, None)
        return broker.Done()

    def _bind(self, command: broker.Bind, session: int) -> broker.Reply:
        known, topic = self._known_exchange(command.exchange), self._accessible_topic(command.topic, session)
        if not any(one.key == command.routing_key and one.topic is topic for one in known.bindings):
            known.bindings.append(Binding(command.routing_key, topic))
        return broker.Done()

    def _unbind(self, command: broker.Unbind, session: int) -> broker.Reply:
        known, topic = self._known_exchange(command.exchange), self._accessible_topic(command.topic, session)
        left = [one for one in known.bindings if one.key != command.routing_key or one.topic is not topic]
        if len(left) < len(known.bindings) and known.auto_delete and not left:
            del self.exchanges[command.exchange]
        known.bindings = left
        return broker.Done()

    # --- queries ---

    def _info(self, topic: ModelTopic, created: bool = False) -> broker.TopicInfo:
        ready, here = self.model.ready(topic), self._messages_of(topic)
        return broker.TopicInfo(
            topic.name, topic.settings, len(ready), sum(message.due_ms > 0 for message in here),
            sum(message.holder is not None for message in here), len(self.model.subscribers(topic)),
            sum(message.size() for message in ready), created, ready[0].enqueued_ms if ready else 0,
        )  # fmt: skip

    def _peek(self, query: broker.Peek) -> broker.Reply:
        ready = self.model.ready(self._topic(query.topic))[: query.count]
        return broker.Peeked(
            [
                broker.PeekedMessage(
                    one.id,
                    one.priority,
                    one.attempts,
                    one.enqueued_ms,
                    "ready",
                    0,
                    one.new.payload,
                    one.new.encoded_headers,
                    one.new.key,
                )
                for one in ready
            ]
        )

    def _list(self, query: broker.ListTopics) -> broker.Reply:
        names = sorted(topic.name for topic in self.model.topics if topic.name.startswith(query.prefix))
        later = [name for name in names if name > query.after] if query.after else names
        return broker.TopicInfos([self._info(self._topic(name)) for name in later[: query.limit]], len(names))

    def _stats(self, now_ms: int) -> broker.Reply:
        model = self.model
        live = [message for message in model.messages if message.topic.alive]
        return broker.Stats(
            topics=len(model.topics),
            exchanges=len(self.exchanges),
            bindings=sum(len(known.bindings) for known in self.exchanges.values()),
            consumers=sum(len(model.subscribers(topic)) for topic in model.topics),
            ready=sum(not message.due_ms and message.holder is None for message in live),
            delayed=sum(message.due_ms > 0 for message in live),
            leased=sum(message.holder is not None for message in live),
            message_bytes=sum(message.size() for message in model.messages),
            time_ms=now_ms,
            pops=sum(bool(one.limit) for topic in model.topics for one in model.active(topic)),
        )

    def _list_exchanges(self, query: broker.ListExchanges) -> broker.Reply:
        chosen = list(self.exchanges.items())
        if query.exchange:
            chosen = [(query.exchange, self._known_exchange(query.exchange))]
        rows: list[tuple[str, ...]] = []
        for name, known in chosen:
            rows += [(name, known.kind), *((name, one.topic.name, one.key) for one in known.bindings)]
        page = rows[query.skip : query.skip + query.limit]
        told = {row[0] for row in page if len(row) == 2}
        return broker.ExchangeInfos(
            [row for row in page if len(row) == 2],
            [row for row in page if len(row) == 3],
            len(rows),
            {name: known.alternate for name, known in chosen if known.alternate and name in told},
        )


def _matches(pattern: list[str], words: list[str]) -> bool:
    """By the definition: `*` is one word, `#` any number of them. `ends`: how many words the parts so far may match. So
    a long pattern takes no more steps than parts times words."""
    ends = {0}
    for part in pattern:
        if part == "#":
            ends = set(range(min(ends), len(words) + 1)) if ends else set()
        else:
            ends = {end + 1 for end in ends if end < len(words) and part in ("*", words[end])}
    return len(words) in ends
