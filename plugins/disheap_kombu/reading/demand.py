"""Messages for a pool of workers wait here, the most urgent first, until the pool has a free slot.

So a message that comes later may still overtake them: the queue of the pool itself holds no message that has not begun.
While the credit is used up, the broker is asked for one message that is more urgent than the least urgent one here
(`Overtake`). What is then too much goes back to its old place, the least urgent message first. Messages of equal
priority never overtake each other, so nothing is asked twice for them.

Decides and sends nothing: `Demand.settle` says what to send. Does not know whose pool it is. Who does calls `use_pool`.
"""

from __future__ import annotations

from bisect import insort
from itertools import count
from threading import Lock
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from disheap.protocol import broker

CREDIT_MAX = broker.CREDIT_MAX


class Pool(Protocol):
    """The pool that processes the messages of one channel."""

    @property
    def keeps_buffer(self) -> bool:
        """Whether messages may wait for it. If not, only as many are taken as it has free slots."""

    def takes_from(self, channel: Any) -> bool:
        """Whether it processes the messages of this channel."""

    def free_slots(self) -> int:
        """How many messages it would begin to process at once."""


class PoolChannel(Protocol):
    """What is asked of the channel whose messages a pool processes."""

    @property
    def unacked(self) -> int:
        """How many messages were delivered to callbacks and are not settled."""

    @property
    def credit(self) -> int:
        """How many messages its consumers may hold, over all groups."""

    @property
    def credit_limit(self) -> int | None:
        """The bound on the credit that is in force, if there is one."""

    def credit_groups(self) -> list[int]:
        """The groups of consumers that share a credit."""

    def limit_credit(self, limit: int) -> list[broker.SetCredit]:
        """Bounds the credit of each group. Returns what to send for it."""


class Watcher(Protocol):
    """A connection that wants to know when a slot may be free."""

    def pool_changed(self) -> None:
        """From any thread."""

    def leave_pool(self) -> None:
        """The pool begins nothing any more. On the event loop's thread, perhaps in the handler of a signal."""


class _Registry:
    """The pool of this process, and who watches it."""

    def __init__(self) -> None:
        self.pool: Pool | None = None
        self.watchers: WeakSet[Any] = WeakSet()


_registry = _Registry()


def use_pool(pool: Pool | None) -> None:
    """From now on messages for this pool wait for a free slot. None: no messages do."""
    _registry.pool = pool


def watch_pool(watcher: Watcher) -> None:
    """Tells the watcher when a slot may be free, as long as it exists."""
    _registry.watchers.add(watcher)


def pool_changed() -> None:
    """A slot of the pool may be free. From any thread."""
    for watcher in list(_registry.watchers):
        watcher.pool_changed()


def leave_pool() -> None:
    """The pool begins nothing any more: what waits for it goes to others. On the event loop's thread."""
    for watcher in list(_registry.watchers):
        watcher.leave_pool()


class Settlement(NamedTuple):
    """What is to be sent, in this order."""

    commands: list[broker.Command]
    given_back: list[broker.Token]


NOTHING = Settlement([], [])


class Demand:
    """The messages of one connection that wait for the pool."""

    def __init__(self, holds_back: bool = True) -> None:
        """`holds_back`: whether messages wait at all."""
        self.holds_back = holds_back
        self._waiting: list[tuple[int, int, int, broker.Deliver]] = []  # the least urgent one first
        self._arrivals = count()
        self._lock = Lock()  # another thread may end a consumer
        self._channel: PoolChannel | None = None
        self._asked: int | None = None  # the priority above which a message was asked for
        self._starting = 0  # messages that were taken and have no slot of the pool yet

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._waiting)

    def accepts(self, channel: Any, no_ack: bool) -> bool:
        """Whether messages of this channel wait for the pool."""
        pool = _registry.pool
        return self.holds_back and not no_ack and pool is not None and pool.takes_from(channel)

    def add(self, push: broker.Deliver, channel: PoolChannel) -> None:
        """Lets a message wait. `channel` is the one that `accepts` named."""
        if channel is not self._channel:
            self._channel, self._asked = channel, None
        with self._lock:
            insort(self._waiting, (push.priority, -push.id, next(self._arrivals), push))
        if self._asked is not None and push.priority > self._asked:
            self._asked = None  # it may be the one that was asked for

    def serves(self, channel: Any) -> bool:
        """Whether the messages of this channel are for the pool, also if they do not wait here."""
        pool = _registry.pool
        return pool is not None and pool.takes_from(channel)

    @property
    def can_start(self) -> bool:
        """Whether the pool would begin the most urgent message now."""
        if not self._waiting:
            return False
        pool = _registry.pool
        return pool is None or pool.free_slots() > 0

    def first(self, number: int) -> list[broker.Deliver]:
        """Returns so many of the messages, the most urgent first. They go on waiting."""
        with self._lock:
            return [entry[-1] for entry in self._waiting[: -number - 1 : -1]]

    def take(self) -> broker.Deliver | None:
        """The most urgent message, or None."""
        with self._lock:
            if not self._waiting:
                return None
            self._starting = 1
            return self._waiting.pop()[-1]

    def began(self) -> None:
        """The message that was taken last has its slot of the pool."""
        self._starting = 0

    def take_all_of(self, consumers: set[int]) -> list[broker.Deliver]:
        """Removes and returns the messages of these consumers."""
        self._asked = None  # a group ends with its last consumer, and what it asked for ends too
        with self._lock:
            taken = [entry[-1] for entry in self._waiting if entry[-1].consumer in consumers]
            self._waiting = [entry for entry in self._waiting if entry[-1].consumer not in consumers]
        return taken

    def consumers(self) -> set[int]:
        """The numbers of the consumers whose messages wait."""
        with self._lock:
            return {entry[-1].consumer for entry in self._waiting}

    def settle(self) -> Settlement:
        """What is to be sent now: a request for something more urgent, and the messages that are too many."""
        channel = self._channel
        if channel is None or not self._waiting:
            return NOTHING
        limit = self._credit_limit()
        excess = channel.unacked + len(self._waiting) - (channel.credit if limit is None else limit)
        if excess < 0:
            return NOTHING  # the broker sends more by itself
        if not excess and self._waiting[0][0] == self._asked:
            return NOTHING  # nearly always
        with self._lock:
            given_back = [entry[-1] for entry in self._waiting[:excess]]
            del self._waiting[:excess]
        commands: list[broker.Command] = []
        if self._waiting and self._waiting[0][0] != self._asked and len(self._waiting) > self._free_slots():
            self._asked = self._waiting[0][0]
            commands = [broker.Overtake(group, self._asked) for group in channel.credit_groups()]
        return Settlement(commands, [(push.id, push.epoch) for push in given_back])

    def changed_credit(self) -> list[broker.SetCredit]:
        """What to send for the credit of a pool that takes no more than it can begin. It goes before acks: each ack
        gives credit back, which may not be for another message."""
        channel, limit = self._channel, self._credit_limit()
        return [] if channel is None or limit is None else channel.limit_credit(limit)

    @property
    def has_other_credit(self) -> bool:
        """Whether `changed_credit` returns something."""
        channel, limit = self._channel, self._credit_limit()
        return channel is not None and limit is not None and channel.credit_limit != limit

    @property
    def is_watching(self) -> bool:
        """Whether a free slot changes anything."""
        return bool(self._waiting) or self.has_other_credit

    def _credit_limit(self) -> int | None:
        pool, channel = _registry.pool, self._channel
        if pool is None or channel is None or pool.keeps_buffer:
            return None
        return min(channel.unacked + self._free_slots(), CREDIT_MAX)

    def _free_slots(self) -> int:
        pool = _registry.pool
        return max(0, pool.free_slots() - self._starting) if pool is not None else 0

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._waiting = []
        self._channel, self._asked = None, None
