"""The replicated state: sessions, consumers, leases, topics, and the tables that hold them.

Owns the records and what one record can say about itself. The other modules change them: `delivery` moves messages,
`consumers`, `sessions` and `topics` create and end the records of their name, `exchanges` routes, and `work` fires
timers. Nothing here reads a clock: `now_ms` is the latest time that the log has given.

Every dict is read in its order of insertion, which the log decides. A `PartitionedDict` is read in the order of its
keys. No set is ever iterated.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple
from weakref import ref

from disheap.protocol.broker import Token, TopicSettings
from disheap_heap.settings import (
    FREED_BYTES_PER_CALL,
    MAX_DEAD_LETTER_UNITS_PER_CALL,
    MAX_DELIVERIES_PER_CALL,
    MAX_END_UNITS_PER_CALL,
    MAX_PUSH_BYTES_PER_CALL,
    MAX_RETURNS_PER_CALL,
    HeapSettings,
)
from disheap_heap.state.counts import SERIES_MAX, Counts, Series
from disheap_heap.state.dying import Dying
from disheap_heap.state.kept import Kept
from disheap_heap.state.messages import Message
from disheap_heap.state.outbox import Outbox
from disheap_heap.state.prepared import Transactions
from disheap_heap.state.ready import ReadyMessages
from disheap_heap.state.routing import Exchange, RouteCache
from disheap_heap.state.turns import Turns
from disheap_heap.state.values import Value, Values
from disheap_heap.tables.arrivals import Arrivals
from disheap_heap.tables.ordered import OrderedRecords
from disheap_heap.tables.partitioned import PartitionedDict
from disheap_heap.tables.timers import Timer, Timers

Delayed = tuple[int, Message]
"""(due_ms, message)"""


class Resend:
    """The leases that a session is sent again after it attached, in slices. Nothing is removed from the lists while it
    is used or a view is open, so a view only keeps three numbers."""

    __slots__ = ("consumers", "held", "scanned", "sent", "tokens")

    def __init__(self, held: dict[Token, None], consumers: list[int]) -> None:
        self.held = held  # the leases that the client has
        self.consumers = consumers  # the consumers whose leases are compared with `held`
        self.scanned = 0  # the number of consumers that are compared
        self.tokens: list[Token] = []  # the leases that the client does not have
        self.sent = 0  # the number of tokens that are sent

    def is_scanned(self) -> bool:
        """Whether the leases of all consumers are compared."""
        return self.scanned >= len(self.consumers)

    def memory_records(self) -> int:
        """How many tokens it holds."""
        return len(self.held) + len(self.tokens)

    def free(self, limit: int) -> int:
        """Frees at most `limit` tokens of a resend that is over. Returns how many."""
        count = min(limit, len(self.tokens))
        del self.tokens[len(self.tokens) - count :]
        while count < limit and self.held:
            self.held.popitem()
            count += 1
        return count


class Session:
    """A client's session. `attached`: it has a connection, as far as the log knows. `is_served`: its consumers are
    given messages, because it is attached and all its leases were compared. `principal`: the name that its client
    proved. `owned`: its exclusive topics, by number. `watches`: the keys that it watches."""

    __slots__ = ("attached", "consumers", "groups", "is_served", "number", "owned", "principal", "resend", "watches")

    def __init__(self, number: int, attached: bool, principal: str = "") -> None:
        self.number = number
        self.principal = principal
        self.attached = self.is_served = attached
        self.consumers: dict[int, Consumer] = {}
        self.owned: dict[int, Topic] = {}
        self.resend: Resend | None = None
        self.groups: dict[int, CreditGroup] = {}
        self.watches: dict[str, None] = {}


class CreditGroup:
    """One credit for several consumers of a session. `consumers`: those that have not ended, the next one first. `held`
    and `held_bytes` count the messages that they and ended consumers hold."""

    __slots__ = ("above", "armed", "consumers", "credit", "credit_bytes", "held", "held_bytes", "key")

    def __init__(self, session: int, number: int, credit: int, credit_bytes: int) -> None:
        self.key = (session, number)
        self.credit = credit
        self.credit_bytes = credit_bytes
        self.held = 0
        self.held_bytes = 0
        self.above: int | None = None  # it may be sent one message that is more urgent: see `overtaking`
        self.armed = 0  # grows with each group that is armed. Only the order is state
        self.consumers: OrderedDict[int, Consumer] = OrderedDict()

    def is_full(self) -> bool:
        """Whether the group has used up its credit."""
        return self.held >= self.credit or self.held_bytes >= self.credit_bytes


class Consumer:
    """A subscription, or a pop if `limit` is set. An ended consumer stays until its last lease has ended."""

    __slots__ = (
        "credit",
        "credit_bytes",
        "delivered",
        "ended",
        "exclusive",
        "group",
        "held_bytes",
        "lease_ms",
        "leases",
        "limit",
        "no_ack",
        "number",
        "releases",
        "returning",
        "session",
        "topic",
        "until_ms",
    )

    def __init__(self, number: int, session: Session, topic: Topic, credit: int, credit_bytes: int) -> None:
        self.number = number
        self.session = session
        self.topic = topic
        self.credit = credit
        self.credit_bytes = credit_bytes
        self.no_ack = False
        self.lease_ms = 0
        self.exclusive = False
        self.group: CreditGroup | None = None  # if set, the credit of the group applies instead of its own
        self.limit = 0  # the messages that a pop takes; 0 for a subscription
        self.until_ms = 0  # when a pop ends; 0 if it does not wait
        self.delivered = 0
        self.ended = False
        self.returning = False  # its leases are given back, in slices
        self.releases = False  # those leases do not count as attempts
        self.held_bytes = 0
        self.leases: dict[int, Lease] = {}

    def can_receive(self) -> bool:
        """Whether it can receive a message now. Then it is in the turns of its topic, except if its group is freed."""
        if self.ended or self.returning or not self.session.is_served:
            return False
        if self.limit and self.delivered >= self.limit:
            return False
        if self.group is not None:
            return not self.group.is_full()
        return self.no_ack or (len(self.leases) < self.credit and self.held_bytes < self.credit_bytes)


class Lease(NamedTuple):
    """A message that a consumer holds. Its token is (message.id, epoch)."""

    message: Message
    epoch: int
    until_ms: int  # the deadline; 0 for none: the lease lasts as long as the session
    consumer: Consumer
    order: int  # grows with each lease of the consumer, and stays below `Consumer.delivered`. Not state


class Topic:
    """A topic: its messages, consumers and bindings."""

    __slots__ = (
        "active",
        "alive",
        "arrivals",
        "binding_units",
        "bindings",
        "clamps",
        "consumers",
        "counts",
        "dead_letters_to",
        "delayed",
        "delayed_bytes",
        "drops",
        "expires_at_ms",
        "holds_back",
        "is_closed",
        "leased",
        "limits",
        "name",
        "number",
        "overtaking",
        "owner",
        "ready",
        "ready_bytes",
        "reserved",
        "reserved_delayed",
        "retries",
        "revision",
        "settings",
        "sign",
        "subscribers",
        "turns",
    )

    def __init__(self, number: int, name: str, settings: TopicSettings, owner: Session | None) -> None:
        self.number = number
        self.name = name
        self.owner = owner
        self.sign = -1 if settings.mode == "max" else 1
        self.alive = True
        self.revision = 1  # of the settings: grows with each change
        self.holds_back = False  # deliveries are paused
        self.is_closed = False  # enqueues are paused
        self.use(settings)
        self.ready = ReadyMessages()
        self.ready_bytes = 0
        self.delayed: PartitionedDict[Delayed] = PartitionedDict()
        self.delayed_bytes = 0
        self.leased = 0
        self.consumers: dict[int, Consumer] = {}
        self.active = 0  # consumers and pops that have not ended
        self.subscribers = 0  # consumers that have not ended, without pops
        self.turns: Turns[Consumer] = Turns()
        self.overtaking: list[tuple[int, int, int, Consumer]] = []
        """(bound, order of arming, number, consumer), sorted: see `overtaking`"""
        self.bindings: dict[tuple[Exchange[Topic], str, bytes], None] = {}  # (exchange, routing key, arguments)
        self.binding_units = 0  # of work, to remove them
        self.expires_at_ms = 0  # when it is deleted because it is unused; 0 while it is used
        self.arrivals = Arrivals()
        self.counts = Counts()  # of its events; not state
        self.reserved = 0  # room for messages of open transactions: prepared ones, and frozen ones that may come back
        self.reserved_delayed = 0  # of these, for messages that will be delayed

    def use(self, settings: TopicSettings) -> None:
        """Takes these settings."""
        self.settings = settings
        self.drops = settings.overflow == "drop" and settings.max_messages > 0
        self.clamps = settings.priority_max != 0
        self.retries = settings.delivery_limit > 0 or settings.retry_delay_ms > 0
        self.dead_letters_to = _place_of_dead_letters(self.name, settings)
        self._update_limits()

    def pause(self, holds_back: bool, is_closed: bool) -> None:
        """Pauses deliveries (`holds_back`) and enqueues (`is_closed`), or lets them go on."""
        self.holds_back, self.is_closed = holds_back, is_closed
        self._update_limits()

    def _update_limits(self) -> None:
        self.limits = self.settings.max_messages > 0 or self.is_closed  # whether a new message may be refused

    def reserve(self, is_delayed: bool) -> None:
        """Keeps room for one message of an open transaction."""
        self.reserved += 1
        self.reserved_delayed += is_delayed

    def unreserve(self, is_delayed: bool) -> None:
        """Gives the room for one message up."""
        self.reserved -= 1
        self.reserved_delayed -= is_delayed

    def rank_of(self, priority: int) -> int:
        """The rank of a message that is put into the topic with this priority."""
        if self.clamps:
            lowest, highest = sorted((0, self.settings.priority_max))
            priority = min(max(priority, lowest), highest)
        return priority * self.sign

    def messages(self) -> int:
        """How many messages the topic has, leased ones included."""
        return len(self.ready) + len(self.delayed) + self.leased


def _place_of_dead_letters(name: str, settings: TopicSettings) -> tuple[str, str] | None:
    """The exchange and the routing key of the topic's dead letters, or None if it has none."""
    if settings.dead_letter_exchange:
        return settings.dead_letter_exchange, settings.dead_letter_key or name
    return ("", settings.dead_letter_topic) if settings.dead_letter_topic else None


class PurgedMessages(NamedTuple):
    """The messages of a purged topic. They are not visible any more, and are freed in slices."""

    ready: ReadyMessages
    delayed: PartitionedDict[Delayed]
    timers: OrderedRecords[Timer] | None


class Dropped(NamedTuple):
    """Messages that were dropped by a call which must not free them. See `dropped`."""

    messages: list[Message | Value]


class State:
    """All tables. `effects` collects the pushes of the call in progress. `deliveries_left`, `returns_left`,
    `end_units_left`, `dead_letters_left`, `push_bytes_left` and `free_bytes_left` are what this call may still do. The
    rest is postponed."""

    def __init__(self, settings: HeapSettings, group: int = 0, series_max: int = SERIES_MAX) -> None:
        self.settings = settings
        self.series: Series[Topic] = Series(series_max)  # not state
        self.group = group  # whose state this is: the same on every replica
        self.version = 1
        self.now_ms = 0
        self.last_message = 0
        self.last_consumer = 0
        self.last_topic = 0
        self.message_bytes = 0
        self.copies: PartitionedDict[int] = PartitionedDict()  # of a shared body, by its address: see `footprint`
        self.repeated_bytes = 0  # of shared bodies, for each copy but the first: not state
        self.contents = 0  # bodies with headers or a key, of purged messages as well: not state
        self.purged_messages = self.purged_bytes = 0  # purged and not freed yet: not state
        self.sessions: dict[int, Session] = {}
        self.ready = self.delayed = 0  # ready and delayed messages of all topics
        self.active = self.subscribers = 0  # of all topics
        self.topics: dict[str, Topic] = {}
        self.topic_names: list[str] = []  # of the topics, sorted
        self.topics_by_number: dict[int, Topic] = {}
        self.consumers: dict[int, Consumer] = {}
        self.leases: PartitionedDict[Lease] = PartitionedDict()
        self.exchanges: dict[str, Exchange[Topic]] = {}
        self.transactions = Transactions()
        self.groups: tuple[int, ...] = (group,)  # that take messages of others, as far as the leader has told
        self.outbox = Outbox()
        self.values: Values[Session] = Values()
        self.bindings = 0
        self.pattern_nodes = self.argument_bytes = 0  # of all bindings
        self.routes: RouteCache[Topic] = RouteCache()  # not state
        self.timers = Timers()
        self.dying = Dying()  # postponed: they are dead-lettered
        self.unserved: OrderedDict[int, Topic] = OrderedDict()  # postponed: they are served later
        self.freed: OrderedDict[tuple[int, int], CreditGroup] = OrderedDict()  # have credit again: see `credit`
        self.armed: OrderedDict[tuple[int, int], int] = OrderedDict()  # bounds of groups, in the order of arming
        self.last_armed = 0  # not state
        self.trimming: OrderedDict[int, Topic] = OrderedDict()  # postponed: they drop what is too much
        self.returning: OrderedDict[int, Consumer] = OrderedDict()  # postponed: their leases are given back
        self.ending: OrderedDict[int, Session] = OrderedDict()  # postponed: they end, with their topics and consumers
        self.resending: OrderedDict[int, Session] = OrderedDict()  # postponed: their leases are sent again
        self.unfreed: list[
            PurgedMessages | Dropped | Exchange[Topic] | Topic | Kept | Resend
        ] = []  # not state: see `work`
        self.views: list[ref[Any]] = []  # open `view.View`s
        self.purged_in_views: list[PurgedMessages] = []  # not to be freed before these views are closed
        self.resends_in_views: list[Resend] = []  # are over, and not to be freed before all views are closed
        self.begin_call()
        self.units = 0  # of work, counted, not state: see `interfaces.WorkCounting`
        self.delivered = self.settled = self.returned = self.expired = self.dropped = 0  # counted, not state
        self.dead_lettered = 0  # likewise

    def __del__(self) -> None:
        """Breaks the reference cycles between consumers, sessions, topics and exchanges. A replica that installs a
        snapshot drops a whole state, and no garbage collector runs there. Records that a view holds stay."""
        for consumer in self.consumers.values():
            consumer.leases = {}
            consumer.group = None
        for session in (*self.sessions.values(), *self.ending.values()):
            session.consumers, session.owned, session.groups = {}, {}, {}
        for topic in self.topics.values():
            topic.consumers, topic.bindings, topic.owner, topic.overtaking = {}, {}, None, []
            topic.turns.clear()

    def begin_call(self) -> list[tuple[int, bytes]]:
        """Begins a call with fresh limits. Returns the list in which its pushes will be."""
        effects: list[tuple[int, bytes]] = []
        self.effects = effects
        self.deliveries_left, self.returns_left = MAX_DELIVERIES_PER_CALL, MAX_RETURNS_PER_CALL
        self.push_bytes_left, self.free_bytes_left = MAX_PUSH_BYTES_PER_CALL, FREED_BYTES_PER_CALL
        self.end_units_left, self.dead_letters_left = MAX_END_UNITS_PER_CALL, MAX_DEAD_LETTER_UNITS_PER_CALL
        return effects

    def push(self, session: Session, body: bytes) -> None:
        """Adds a push for a session. Does nothing if the session has no connection: it is told when it attaches."""
        if session.attached:
            self.effects.append((session.number, body))
