"""What the heap machine should do, said as plainly as can be: lists that are sorted whenever somebody looks.

Slow, without heaps or timers. Nothing is postponed beyond the call, whose end is `settle_groups`;
docs/reference/topics-and-messages.md says it in words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from disheap.protocol import broker


@dataclass(eq=False)
class Item:
    """A message. It is delayed while `due_ms` is set, leased while `holder` is set, and else ready."""

    id: int
    topic: Shelf
    payload: bytes
    priority: int
    enqueued_ms: int
    expires_at_ms: int
    attempts: int = 0
    due_ms: int = 0  # delayed while this is set
    holder: Reader | None = None  # leased while this is set
    until_ms: int = 0

    def rank(self) -> tuple[int, int]:
        """The key by which ready messages are sorted: priority, then the order of enqueueing."""
        return (self.priority if self.topic.settings.mode == "min" else -self.priority, self.id)


@dataclass(eq=False)
class Group:
    """Readers of a session that share one credit. `turns`: the one that is next comes first."""

    credit: int
    credit_bytes: int
    turns: list[Reader] = field(default_factory=list)


@dataclass(eq=False)
class Reader:
    """A consumer, or a pop if `limit` is set."""

    number: int
    session: int
    topic: Shelf
    credit: int
    credit_bytes: int
    no_ack: bool = False
    lease_ms: int = 0
    limit: int = 0
    exclusive: bool = False
    group: Group | None = None
    until_ms: int = 0
    delivered: int = 0
    ended: bool = False


@dataclass(eq=False)
class Shelf:
    """A topic, with the ring of the readers that can take a message."""

    name: str
    number: int
    settings: broker.TopicSettings
    owner: int | None = None
    alive: bool = True
    ring: list[Reader] = field(default_factory=list)
    expires_at_ms: int = 0


class Model:
    """The whole state: messages, readers, topics, sessions, groups. Its methods are the commands and events of the
    machine."""

    def __init__(self) -> None:
        self.now = 0
        self.items: list[Item] = []
        self.readers: list[Reader] = []
        self.shelves: list[Shelf] = []
        self.attached: dict[int, bool] = {}
        self.groups: dict[tuple[int, int], Group] = {}  # by session and number
        self.freed: list[Group] = []  # have room again, in this call
        self.last_item = self.last_reader = self.last_shelf = 0
        self.pushed: list[tuple[int, Any]] = []
        self.dropped = 0  # messages, by topics that were full
        self.order: list[int] = []  # message ids in the order in which their present leases were granted

    # --- looking ---

    def shelf(self, name: str) -> Shelf | None:
        """The topic with this name, or None."""
        return next((one for one in self.shelves if one.name == name), None)

    def ready(self, shelf: Shelf) -> list[Item]:
        """The ready messages of a topic, in the order of delivery."""
        here = [one for one in self.items if one.topic is shelf and not one.due_ms and one.holder is None]
        return sorted(here, key=Item.rank)

    def held(self, reader: Reader) -> list[Item]:
        """The messages that a reader holds."""
        return [one for one in self.items if one.holder is reader]

    def active(self, shelf: Shelf) -> list[Reader]:
        """The readers of a topic that have not ended, pops included."""
        return [one for one in self.readers if one.topic is shelf and not one.ended]

    def subscribers(self, shelf: Shelf) -> list[Reader]:
        """The consumers of a topic that have not ended, without pops."""
        return [one for one in self.active(shelf) if not one.limit]

    def hungry(self, reader: Reader) -> bool:
        """Whether a reader can take another message now."""
        if reader.ended or not self.attached.get(reader.session):
            return False
        if reader.limit and reader.delivered >= reader.limit:
            return False
        if reader.group is not None:
            return not self.is_full(reader.group)
        held = self.held(reader)
        size = sum(len(one.payload) for one in held)
        return reader.no_ack or (len(held) < reader.credit and size < reader.credit_bytes)

    def is_full(self, group: Group) -> bool:
        """Whether a group has used up its credit."""
        held = [one for one in self.items if one.holder is not None and one.holder.group is group]
        return len(held) >= group.credit or sum(len(one.payload) for one in held) >= group.credit_bytes

    def lease(self, session: int, token: tuple[int, int]) -> Item | None:
        """The message that this session holds under this token, or None."""
        return next(
            (
                one
                for one in self.items
                if one.id == token[0] and one.holder and one.holder.session == session and one.attempts == token[1]
            ),
            None,
        )

    # --- commands ---

    def enqueue(self, shelf: Shelf, payload: bytes, priority: int, delay_ms: int, expires_ms: int) -> int:
        """Puts a message into a topic and serves the readers. Returns its id."""
        self.last_item += 1
        lifetime = expires_ms or shelf.settings.message_ttl_ms
        expires_at_ms = self.now + lifetime if lifetime else 0
        item = Item(self.last_item, shelf, payload, priority, self.now, expires_at_ms)
        item.due_ms = self.now + delay_ms if delay_ms else 0
        self.items.append(item)
        self.trim(shelf)
        self.serve(shelf)
        return item.id

    def create(self, name: str, settings: broker.TopicSettings, session: int) -> Shelf:
        """Makes a topic."""
        self.last_shelf += 1
        shelf = Shelf(name, self.last_shelf, settings, session if settings.exclusive else None)
        self.shelves.append(shelf)
        self.watch(shelf)
        return shelf

    def subscribe(self, session: int, shelf: Shelf, group: int = 0, **shape: Any) -> Reader:
        """Makes a reader, in a group if `group` is not 0, and serves the topic."""
        self.last_reader += 1
        reader = Reader(self.last_reader, session, shelf, **shape)
        if group:
            self.prune_groups()
            reader.group = self.groups.setdefault((session, group), Group(0, 0))
            if reader.group.turns:
                self.set_group_credit(reader.group, reader.credit, reader.credit_bytes)
            reader.group.credit, reader.group.credit_bytes = reader.credit, reader.credit_bytes
            fresh = [one for one in reader.group.turns if not one.delivered]
            reader.group.turns = [*fresh, reader, *(one for one in reader.group.turns if one.delivered)]
        self.readers.append(reader)
        self.watch(shelf)
        self.feed(reader)
        self.serve(shelf)
        return reader

    def pop(self, session: int, shelf: Shelf, wait_ms: int, **shape: Any) -> Reader:
        """Makes a reader with a limit, which ends at once or after `wait_ms`."""
        reader = self.subscribe(session, shelf, **shape)
        if not reader.ended and wait_ms:
            reader.until_ms = self.now + wait_ms
        elif not reader.ended:
            self.finish(reader)
        return reader

    def set_credit(self, reader: Reader, credit: int, credit_bytes: int) -> None:
        """Changes the credit of a reader."""
        reader.credit, reader.credit_bytes = credit, credit_bytes
        if not self.hungry(reader) and reader in reader.topic.ring:
            reader.topic.ring.remove(reader)
        self.feed(reader)
        self.serve(reader.topic)

    def set_group_credit(self, group: Group, credit: int, credit_bytes: int) -> None:
        """Changes the credit of a group."""
        group.credit, group.credit_bytes = credit, credit_bytes
        self.leave_or_free(group)

    def leave_or_free(self, group: Group) -> None:
        """Takes the readers of a full group out of their rings, or notes that the group has credit again."""
        if self.is_full(group):
            self.freed = [one for one in self.freed if one is not group]
            for reader in group.turns:
                if reader in reader.topic.ring:
                    reader.topic.ring.remove(reader)
        elif group not in self.freed:
            self.freed.append(group)

    def settle_groups(self) -> None:
        """The end of a call: the readers of each group that has room again join their rings, each before the next."""
        while self.freed:
            for reader in list(self.freed.pop(0).turns):
                if self.feed(reader):
                    self.serve(reader.topic)

    def prune_groups(self) -> None:
        """A group ends with its last reader, which lives as long as it takes messages or holds one."""
        for key, group in list(self.groups.items()):
            group.turns = [one for one in group.turns if not one.ended or self.held(one)]
            if not group.turns:
                del self.groups[key]
                self.freed = [one for one in self.freed if one is not group]

    def cancel(self, reader: Reader, give_back: bool) -> None:
        """Ends a reader. With `give_back` its messages come back."""
        if not reader.ended:
            self.end(reader)
            self.left(reader)
        if give_back:
            self.recover([reader])

    def recover(self, readers: list[Reader]) -> None:
        """Takes back all messages that these readers hold."""
        for reader in readers:
            for item in self.held(reader):
                self.release(item)
                self.come_back(item)
        for reader in readers:
            self.serve(reader.topic)

    def settle(self, session: int, tokens: list[tuple[int, int]], how: str, by_ms: int = 0) -> list[Any]:
        """Ack, nack, discard or extend; returns the stale tokens."""
        stale, touched = [], []
        for token in tokens:
            item = self.lease(session, token)
            if item is None:
                stale.append(token)
                continue
            if how == "extend":
                item.until_ms = self.now + by_ms if by_ms else 0
                continue
            touched.append(item.topic)
            self.release(item)
            if how == "nack":
                self.come_back(item, by_ms)
            else:
                self.items.remove(item)
        for shelf in dict.fromkeys(touched):
            self.serve(shelf)
        return stale

    def purge(self, shelf: Shelf) -> int:
        """Drops all ready and delayed messages of a topic. Returns how many there were."""
        gone = [one for one in self.items if one.topic is shelf and one.holder is None]
        self.items = [one for one in self.items if one not in gone]
        return len(gone)

    def delete(self, shelf: Shelf, reason: str) -> int:
        """Removes a topic with its messages and readers. Returns how many messages there were."""
        count = sum(one.topic is shelf for one in self.items)
        shelf.alive = False
        self.shelves.remove(shelf)
        self.purge(shelf)
        self.end_readers(shelf, reason)
        return count

    def take_over(self, shelf: Shelf, session: int) -> None:
        """Gives an exclusive topic to another session. Its readers end, and the messages that they hold come back."""
        shelf.owner = session
        self.end_readers(shelf, "another session has taken the topic over")
        self.watch(shelf)

    # --- sessions ---

    def attach(self, session: int, held: broker.Held) -> tuple[list[Any], list[Any]]:
        """Attaches a session. Returns the deliveries that it did not name, and its readers that have ended
        meanwhile."""
        self.attached[session] = True
        missing = [
            self.delivery(item, reader)
            for reader in self.readers
            if reader.session == session
            for item in sorted(self.held(reader), key=lambda one: self.order.index(one.id))
            if (item.id, item.attempts) not in held.tokens
        ]
        live = [one.number for one in self.readers if one.session == session and not one.ended]
        ended: list[Any] = [broker.PopDone(number, 0) for number in held.tickets if number not in live]
        why = "it ended while the session had no connection"
        ended += [broker.ConsumerEnded(number, why) for number in held.consumers if number not in live]
        for (owner, _), group in self.groups.items():
            if owner == session and not self.is_full(group):
                self.leave_or_free(group)
        touched = [one.topic for one in self.readers if one.session == session and self.feed(one)]
        for shelf in dict.fromkeys(touched):
            self.serve(shelf)
        return missing, ended

    def detach(self, session: int) -> None:
        """Detaches a session. Its readers leave their rings and keep their messages."""
        self.attached[session] = False
        for shelf in self.shelves:
            shelf.ring = [one for one in shelf.ring if one.session != session]

    def expire(self, session: int) -> None:
        """Ends a session: its topics are deleted, its readers end, and its messages come back."""
        self.attached.pop(session)
        for shelf in self.shelves:
            shelf.ring = [one for one in shelf.ring if one.session != session]
        for reader in self.readers:
            if reader.session == session and reader.group is not None:
                self.freed = [one for one in self.freed if one is not reader.group]
                reader.group = None
        self.groups = {key: group for key, group in self.groups.items() if key[0] != session}
        for shelf in [one for one in self.shelves if one.owner == session]:
            self.delete(shelf, "its owner's session is over")
        for reader in [one for one in self.readers if one.session == session]:
            if not reader.ended:
                self.end(reader)
                self.left(reader)
            self.recover([reader])

    # --- time ---

    def advance(self, now: int) -> None:
        """Lets the time pass up to `now`: fires all timers that are due, in the order of their deadlines."""
        self.now = now
        while True:
            due = [event for event in self.events() if event[0] <= now]
            if not due:
                return
            deadline = min(due)[0]
            touched: list[Shelf] = []
            while True:
                due = sorted(event for event in self.events() if event[0] == deadline)
                if not due:
                    break
                touched += self.fire(due[0][2], due[0][1])
            for shelf in dict.fromkeys(touched):
                self.serve(shelf)
            self.settle_groups()

    def events(self) -> list[tuple[int, int, int]]:
        """(deadline, number, kind) of everything that has a time."""
        events = []
        for item in self.items:
            if item.due_ms:
                events.append((item.due_ms, item.id, 0))
            if item.expires_at_ms and item.holder is None:
                events.append((item.expires_at_ms, item.id, 1))
            if item.holder is not None and item.until_ms:
                events.append((item.until_ms, item.id, 2))
        events += [(one.until_ms, one.number, 3) for one in self.readers if one.until_ms and not one.ended]
        events += [(one.expires_at_ms, one.number, 4) for one in self.shelves if one.expires_at_ms]
        return events

    def fire(self, kind: int, number: int) -> list[Shelf]:
        """Fires one timer. Returns the topics to serve afterwards."""
        if kind == 4:
            self.delete(next(one for one in self.shelves if one.number == number), "it was unused for too long")
            return []
        if kind == 3:
            self.finish(next(one for one in self.readers if one.number == number))
            return []
        item = next(one for one in self.items if one.id == number)
        if kind == 0:
            item.due_ms = 0
            self.trim(item.topic)
        elif kind == 1:
            self.items.remove(item)
        else:
            self.release(item)
            self.come_back(item)
        return [item.topic]

    # --- the few things that happen ---

    def trim(self, shelf: Shelf) -> None:
        """A topic that drops keeps the ready messages of the highest priorities, and the newest among equals."""
        ready = self.ready(shelf)
        if shelf.settings.overflow == "drop" and 0 < shelf.settings.max_messages < len(ready):
            self.items.remove(max(ready, key=lambda one: (one.rank()[0], -one.id)))
            self.dropped += 1

    def delayed_full(self, shelf: Shelf, more: int = 1) -> bool:
        """Whether a topic that drops cannot take so many more delayed messages, which it never drops."""
        count = sum(one.topic is shelf and one.due_ms > 0 for one in self.items)
        return shelf.settings.overflow == "drop" and 0 < shelf.settings.max_messages < count + more

    def serve(self, shelf: Shelf) -> None:
        """Delivers ready messages of a topic while its ring has readers."""
        while shelf.ring and self.ready(shelf):
            self.hand_over(self.ready(shelf)[0], shelf.ring.pop(0))

    def hand_over(self, item: Item, reader: Reader) -> None:
        """Delivers a message to a reader: by a lease, or for good if the reader is no-ack."""
        if reader.no_ack:
            self.items.remove(item)
            message = broker.Deliver(reader.number, item.id, 0, item.priority, item.enqueued_ms, item.payload)
        else:
            item.attempts += 1
            item.holder, item.until_ms = reader, self.now + reader.lease_ms if reader.lease_ms else 0
            self.order = [one for one in self.order if one != item.id] + [item.id]
            message = self.delivery(item, reader)
        if reader.group is not None:
            reader.group.turns.remove(reader)
            reader.group.turns.append(reader)
            if self.is_full(reader.group):
                self.leave_or_free(reader.group)
        reader.delivered += 1
        self.pushed.append((reader.session, message))
        self.feed(reader)
        if reader.limit and reader.delivered >= reader.limit:
            self.finish(reader)

    def delivery(self, item: Item, reader: Reader) -> broker.Deliver:
        """The push that delivers this message to this reader."""
        return broker.Deliver(
            reader.number, item.id, item.attempts, item.priority, item.enqueued_ms, item.payload, item.until_ms
        )

    def release(self, item: Item) -> None:
        """Ends the lease of a message and frees the credit."""
        reader = item.holder
        assert reader is not None
        was_full = reader.group is not None and self.is_full(reader.group)
        item.holder, item.until_ms = None, 0
        if reader.group is not None and was_full and not self.is_full(reader.group):
            self.leave_or_free(reader.group)
        self.feed(reader)

    def come_back(self, item: Item, delay_ms: int = 0) -> None:
        """Puts a released message back to its place, at once or after a delay. Drops it if it has expired."""
        expired = item.expires_at_ms and item.expires_at_ms <= self.now
        if expired or not item.topic.alive:
            self.items.remove(item)
        elif delay_ms:
            item.due_ms = self.now + delay_ms
        else:
            self.trim(item.topic)

    def feed(self, reader: Reader) -> bool:
        """Join the ring, when hungry and not in it."""
        joins = reader not in reader.topic.ring and self.hungry(reader) and reader.group not in self.freed
        if joins:
            reader.topic.ring.append(reader)
        return joins

    def finish(self, reader: Reader) -> None:
        """Ends a pop and tells its session how many messages came."""
        if self.attached.get(reader.session):
            self.pushed.append((reader.session, broker.PopDone(reader.number, reader.delivered)))
        self.end(reader)

    def end(self, reader: Reader) -> None:
        """Marks a reader as ended and takes it out of the ring."""
        reader.ended = True
        if reader in reader.topic.ring:
            reader.topic.ring.remove(reader)
        self.watch(reader.topic)

    def left(self, reader: Reader) -> None:
        """Deletes an `auto_delete` topic whose last consumer has left."""
        shelf = reader.topic
        if shelf.alive and shelf.settings.auto_delete and not reader.limit and not self.subscribers(shelf):
            self.delete(shelf, "its last consumer left")

    def end_readers(self, shelf: Shelf, reason: str) -> None:
        """Ends all readers of a topic, tells their sessions why, and takes back the messages that they hold."""
        for reader in [one for one in self.readers if one.topic is shelf]:
            if not reader.ended:
                if self.attached.get(reader.session):
                    self.pushed.append((reader.session, broker.ConsumerEnded(reader.number, reason)))
                self.end(reader)
            for item in self.held(reader):
                self.release(item)
                self.come_back(item)

    def watch(self, shelf: Shelf) -> None:
        """Starts the expiry timer of a topic, or stops it while the topic has readers."""
        lifetime = shelf.settings.expires_ms
        shelf.expires_at_ms = self.now + lifetime if lifetime and not self.active(shelf) else 0
