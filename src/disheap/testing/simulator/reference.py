"""The heap machine's commands and queries over the plain model: who is refused with which code, and what is replied.

Exchanges are written down here; topics, messages, leases and turns are the model's. No bound of work is known: the
workload stays below those of the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from disheap.protocol import broker
from disheap.testing.heap_model import Item, Model, Reader, Shelf

CREDIT_BYTES = 16 << 20
"""What holds where a consumer names no bound of its own."""


class Refused(Exception):
    """The command fails with this code, and changes nothing."""


class Binding(NamedTuple):
    """A binding: the key, and the topic to which it routes."""

    key: str
    shelf: Shelf


class ReferenceExchange:
    """An exchange."""

    def __init__(self, kind: str, auto_delete: bool, alternate: str) -> None:
        self.kind = kind
        self.auto_delete = auto_delete
        self.alternate = alternate
        self.bindings: list[Binding] = []

    def leads(self, pattern: str, key: str) -> bool:
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
        self.messages: dict[int, tuple[str, bytes]] = {}  # every message there ever was: topic, payload
        self.seen: Counter[str] = Counter()  # how often the rarer ways were taken, so that a test can require them

    def do(self, command: broker.Command, session: int) -> broker.Reply:
        """Raises `Refused`."""
        self._sweep()
        carry_out: Callable[[Any, int], broker.Reply] = getattr(self, f"_{type(command).__name__.lower()}")
        reply = carry_out(command, session)
        self.model.settle_groups()
        return reply

    def ask(self, query: broker.Query, now_ms: int) -> broker.Reply:
        """Raises `Refused`."""
        self._sweep()
        match query:
            case broker.Peek():
                return self._peek(query)
            case broker.DescribeTopic():
                return self._info(self._shelf(query.topic))
            case broker.ListTopics():
                return self._list(query)
            case broker.GetStats():
                return self._stats(now_ms)
            case broker.ListExchanges():
                return self._list_exchanges(query)

    def prune(self) -> None:
        """Readers that have ended and hold nothing are of no interest to anybody."""
        model = self.model
        holding = {id(item.holder) for item in model.items if item.holder is not None}
        model.readers = [one for one in model.readers if not one.ended or id(one) in holding]
        live = {item.id for item in model.items}
        model.order = [number for number in model.order if number in live]

    # --- messages in ---

    def _shelf(self, name: str) -> Shelf:
        shelf = self.model.shelf(name)
        if shelf is None:
            raise Refused("topic-not-found")
        return shelf

    def _in(self, shelf: Shelf) -> list[Item]:
        return [item for item in self.model.items if item.topic is shelf]

    def _check_room(self, shelf: Shelf, *messages: broker.NewMessage) -> None:
        most = shelf.settings.max_messages
        if most and shelf.settings.overflow == "reject" and len(self._in(shelf)) + len(messages) > most:
            raise Refused("topic-full")
        delayed = sum(message.delay_ms > 0 for message in messages)
        if delayed and self.model.delayed_full(shelf, delayed):
            raise Refused("topic-full")

    def _put(self, shelf: Shelf, message: broker.NewMessage) -> int:
        self.messages[self.model.last_item + 1] = (shelf.name, message.payload)
        return self.model.enqueue(
            shelf, message.payload, message.priority, message.delay_ms, message.expires_ms
        )  # fmt: skip

    def _enqueue(self, command: broker.Enqueue, session: int) -> broker.Reply:
        shelf = self._shelf(command.topic)
        self._check_room(shelf, command.message)
        return broker.Enqueued(self._put(shelf, command.message))

    def _enqueuemany(self, command: broker.EnqueueMany, session: int) -> broker.Reply:
        """All are there before the first is delivered."""
        shelf = self._shelf(command.topic)
        self._check_room(shelf, *command.messages)
        first = self.model.last_item + 1
        ring, shelf.ring = shelf.ring, []
        for message in command.messages:
            self._put(shelf, message)
        shelf.ring = ring
        self.model.serve(shelf)
        return broker.EnqueuedMany(first, len(command.messages))

    def _publish(self, command: broker.Publish, session: int) -> broker.Reply:
        shelves = self._routed(command.exchange, command.routing_key)
        if not shelves and command.mandatory:
            raise Refused("topic-not-found")
        taking = [shelf for shelf in shelves if self._has_room(shelf, command.message)]
        if shelves and not taking:
            raise Refused("topic-full")
        self.seen["partly refused"] += len(taking) < len(shelves)
        for shelf in taking:
            self._put(shelf, command.message)
        return broker.Published(len(taking), len(shelves) - len(taking))

    def _has_room(self, shelf: Shelf, message: broker.NewMessage) -> bool:
        try:
            self._check_room(shelf, message)
        except Refused:
            return False
        return True

    # --- consumers ---

    def _own(self, name: str, session: int) -> Shelf:
        """A shared topic, or one of this session's own."""
        shelf = self._shelf(name)
        if shelf.owner is not None and shelf.owner != session:
            raise Refused("topic-locked")
        return shelf

    def _reading(self, name: str, session: int) -> Shelf:
        shelf = self._own(name, session)
        if any(reader.exclusive for reader in self.model.active(shelf)):
            raise Refused("topic-in-use")
        return shelf

    def _subscribe(self, command: broker.Subscribe, session: int) -> broker.Reply:
        shelf = self._reading(command.topic, session)
        if command.exclusive and self.model.active(shelf):
            raise Refused("topic-in-use")
        if command.group and command.no_ack:
            raise Refused("invalid-argument")
        reader = self.model.subscribe(
            session, shelf, credit=command.credit, credit_bytes=command.credit_bytes or CREDIT_BYTES,
            no_ack=command.no_ack, lease_ms=command.lease_ms, exclusive=command.exclusive, group=command.group,
        )  # fmt: skip
        return broker.Subscribed(reader.number)

    def _pop(self, command: broker.Pop, session: int) -> broker.Reply:
        shelf = self._reading(command.topic, session)
        reader = self.model.pop(
            session, shelf, command.wait_ms, credit=command.count, credit_bytes=CREDIT_BYTES,
            no_ack=command.no_ack, lease_ms=command.lease_ms, limit=command.count,
        )  # fmt: skip
        return broker.Subscribed(reader.number)

    def _reader(self, number: int, session: int) -> Reader | None:
        """None for one that is gone."""
        for reader in self.model.readers:
            if reader.number == number and (not reader.ended or self.model.held(reader)):
                if reader.session == session:
                    return reader
                raise Refused("consumer-not-found")
        if 0 < number <= self.model.last_reader:
            return None
        raise Refused("consumer-not-found")

    def _setcredit(self, command: broker.SetCredit, session: int) -> broker.Reply:
        if command.group:
            self.model.prune_groups()
            group = self.model.groups.get((session, command.group))
            if command.consumer:
                raise Refused("invalid-argument")
            if group is None:
                raise Refused("consumer-not-found")
            self.model.set_group_credit(group, command.credit, command.credit_bytes or CREDIT_BYTES)
            return broker.Done()
        reader = self._reader(command.consumer, session)
        if reader is None or reader.ended or reader.limit:
            raise Refused("consumer-not-found")
        if reader.group is not None:
            raise Refused("invalid-argument")
        self.model.set_credit(reader, command.credit, command.credit_bytes or CREDIT_BYTES)
        return broker.Done()

    def _cancel(self, command: broker.Cancel, session: int) -> broker.Reply:
        reader = self._reader(command.consumer, session)
        if reader is not None:
            self.model.cancel(reader, command.give_back)
        return broker.Done()

    def _recover(self, command: broker.Recover, session: int) -> broker.Reply:
        readers = [self._reader(number, session) for number in dict.fromkeys(command.consumers)]
        self.model.recover([reader for reader in readers if reader is not None])
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
        shelf = model.shelf(command.topic)
        if shelf is None:
            return self._info(model.create(command.topic, command.settings, session), created=True)
        taken = shelf.owner is not None and shelf.owner != session
        if taken and model.attached.get(shelf.owner or 0):
            raise Refused("topic-locked")
        if command.settings != shelf.settings:
            raise Refused("topic-mismatch")
        if taken:
            model.take_over(shelf, session)
        model.watch(shelf)
        return self._info(shelf)

    def _deletetopic(self, command: broker.DeleteTopic, session: int) -> broker.Reply:
        shelf = self._own(command.topic, session)
        if command.if_unused and self.model.active(shelf):
            raise Refused("topic-in-use")
        if command.if_empty and self._in(shelf):
            raise Refused("topic-in-use")
        return broker.Removed(self.model.delete(shelf, "the topic was deleted"))

    def _purge(self, command: broker.Purge, session: int) -> broker.Reply:
        return broker.Removed(self.model.purge(self._own(command.topic, session)))

    # --- exchanges ---

    def _sweep(self) -> None:
        """A deleted topic takes its bindings with it, and those the exchanges that live by them."""
        for name, known in list(self.exchanges.items()):
            left = [binding for binding in known.bindings if binding.shelf.alive]
            if known.auto_delete and known.bindings and not left:
                del self.exchanges[name]
            known.bindings = left

    def _known_exchange(self, name: str) -> ReferenceExchange:
        known = self.exchanges.get(name)
        if known is None:
            raise Refused("exchange-not-found" if name else "invalid-argument")
        return known

    def _routed(self, exchange: str, key: str) -> list[Shelf]:
        if not exchange:
            shelf = self.model.shelf(key)
            return [] if shelf is None else [shelf]
        found: dict[int, Shelf] = {}
        tried: list[str] = []
        while not found and exchange:
            if exchange in tried:
                raise Refused("invalid-argument")
            tried.append(exchange)
            known = self._known_exchange(exchange)
            leading = [binding for binding in known.bindings if known.leads(binding.key, key)]
            found.update((id(binding.shelf), binding.shelf) for binding in leading)
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
        known, shelf = self._known_exchange(command.exchange), self._own(command.topic, session)
        if not any(one.key == command.routing_key and one.shelf is shelf for one in known.bindings):
            known.bindings.append(Binding(command.routing_key, shelf))
        return broker.Done()

    def _unbind(self, command: broker.Unbind, session: int) -> broker.Reply:
        known, shelf = self._known_exchange(command.exchange), self._own(command.topic, session)
        left = [one for one in known.bindings if one.key != command.routing_key or one.shelf is not shelf]
        if len(left) < len(known.bindings) and known.auto_delete and not left:
            del self.exchanges[command.exchange]
        known.bindings = left
        return broker.Done()

    # --- queries ---

    def _info(self, shelf: Shelf, created: bool = False) -> broker.TopicInfo:
        ready, here = self.model.ready(shelf), self._in(shelf)
        return broker.TopicInfo(
            shelf.name, shelf.settings, len(ready), sum(item.due_ms > 0 for item in here),
            sum(item.holder is not None for item in here), len(self.model.subscribers(shelf)),
            sum(len(item.payload) for item in ready), created, ready[0].enqueued_ms if ready else 0,
        )  # fmt: skip

    def _peek(self, query: broker.Peek) -> broker.Reply:
        ready = self.model.ready(self._shelf(query.topic))[: query.count]
        return broker.Peeked(
            [
                broker.PeekedMessage(one.id, one.priority, one.attempts, one.enqueued_ms, "ready", 0, one.payload)
                for one in ready
            ]
        )

    def _list(self, query: broker.ListTopics) -> broker.Reply:
        names = sorted(shelf.name for shelf in self.model.shelves if shelf.name.startswith(query.prefix))
        later = [name for name in names if name > query.after] if query.after else names
        return broker.TopicInfos([self._info(self._shelf(name)) for name in later[: query.limit]], len(names))

    def _stats(self, now_ms: int) -> broker.Reply:
        model = self.model
        live = [item for item in model.items if item.topic.alive]
        return broker.Stats(
            topics=len(model.shelves),
            exchanges=len(self.exchanges),
            bindings=sum(len(known.bindings) for known in self.exchanges.values()),
            consumers=sum(len(model.subscribers(shelf)) for shelf in model.shelves),
            ready=sum(not item.due_ms and item.holder is None for item in live),
            delayed=sum(item.due_ms > 0 for item in live),
            leased=sum(item.holder is not None for item in live),
            message_bytes=sum(len(item.payload) for item in model.items),
            time_ms=now_ms,
            pops=sum(bool(one.limit) for shelf in model.shelves for one in model.active(shelf)),
        )

    def _list_exchanges(self, query: broker.ListExchanges) -> broker.Reply:
        chosen = list(self.exchanges.items())
        if query.exchange:
            chosen = [(query.exchange, self._known_exchange(query.exchange))]
        rows: list[tuple[str, ...]] = []
        for name, known in chosen:
            rows += [(name, known.kind), *((name, one.shelf.name, one.key) for one in known.bindings)]
        page = rows[query.skip : query.skip + query.limit]
        told = {row[0] for row in page if len(row) == 2}
        return broker.ExchangeInfos(
            [row for row in page if len(row) == 2],
            [row for row in page if len(row) == 3],
            len(rows),
            {name: known.alternate for name, known in chosen if known.alternate and name in told},
        )


def _matches(pattern: list[str], words: list[str]) -> bool:
    """By the definition: `*` is one word, `#` any number of them. `ends`: how many of the words the parts so far may
    stand for, so that a long pattern takes no more steps than parts times words."""
    ends = {0}
    for part in pattern:
        if part == "#":
            ends = set(range(min(ends), len(words) + 1)) if ends else set()
        else:
            ends = {end + 1 for end in ends if end < len(words) and part in ("*", words[end])}
    return len(words) in ends
