"""The state: everything that every replica has in common, and the three kinds of things in it that change.

Owns the tables and the questions that can be asked of one record. Who may change what lies in the modules beside it:
`delivery` moves messages, `consumers` and `topics` open and end what they are named for, `exchanges` routes, `work`
lets time pass. Nothing here has a clock: `now_ms` is what the log said last.

Every dict is read in its order of insertion, which the log decides; no set is read at all.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple
from weakref import ref

from disheap.protocol.broker import Token, TopicSettings
from disheap_heap.arrivals import Arrivals
from disheap_heap.messages import Message
from disheap_heap.ready import ReadyMessages, no_messages
from disheap_heap.routing import Exchange, RouteCache
from disheap_heap.settings import (
    MAX_DELIVERIES_PER_CALL,
    MAX_END_UNITS_PER_CALL,
    MAX_PUSH_BYTES_PER_CALL,
    MAX_RETURNS_PER_CALL,
    HeapSettings,
)
from disheap_heap.timers import Timers
from disheap_heap.turns import Turns

Delayed = tuple[int, Message]
"""(due_ms, message)"""


class Resend:
    """Leases that a session is sent again after it attached, in slices. The lists grow and never lose anything, so that
    a view keeps three numbers."""

    __slots__ = ("consumers", "held", "scanned", "sent", "tokens")

    def __init__(self, held: dict[Token, None], consumers: list[int]) -> None:
        self.held = held  # what the client has
        self.consumers = consumers  # whose leases are compared with that
        self.scanned = 0  # consumers that are done
        self.tokens: list[Token] = []  # what the client does not have
        self.sent = 0  # tokens that are done

    def is_scanned(self) -> bool:
        return self.scanned >= len(self.consumers)


class Session:
    """`attached`: it has a connection, as far as the log knows. `is_served`: its consumers are given
    messages, since it is attached and all its leases were compared. `principal`: the name that its client proved."""

    __slots__ = ("attached", "consumers", "groups", "is_served", "number", "owned", "principal", "resend")

    def __init__(self, number: int, attached: bool, principal: str = "") -> None:
        self.number = number
        self.principal = principal
        self.attached = self.is_served = attached
        self.consumers: dict[int, Consumer] = {}
        self.owned: dict[int, Topic] = {}
        self.resend: Resend | None = None
        self.groups: dict[int, CreditGroup] = {}


class CreditGroup:
    """One credit for several consumers of a session. `consumers`: those that take messages, the one whose turn is next
    first. `held` counts what they and ended ones hold."""

    __slots__ = ("consumers", "credit", "credit_bytes", "held", "held_bytes", "key")

    def __init__(self, session: int, number: int, credit: int, credit_bytes: int) -> None:
        self.key = (session, number)
        self.credit = credit
        self.credit_bytes = credit_bytes
        self.held = 0
        self.held_bytes = 0
        self.consumers: OrderedDict[int, Consumer] = OrderedDict()

    def is_full(self) -> bool:
        """Whether the group has used up its credit."""
        return self.held >= self.credit or self.held_bytes >= self.credit_bytes


class Consumer:
    """A subscription, or with `limit` a pop's ticket. An ended one stays until its last lease is settled."""

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
        self.group: CreditGroup | None = None  # where it shares its credit, its own does not count
        self.limit = 0  # a ticket's count; 0 for a subscription
        self.until_ms = 0  # when a ticket has waited long enough
        self.delivered = 0
        self.ended = False
        self.returning = False  # its leases are being given back, in slices
        self.held_bytes = 0
        self.leases: dict[int, Lease] = {}

    def can_receive(self) -> bool:
        """Would take a message now. Its place in the topic's ring and this answer agree, but for freed groups."""
        if self.ended or self.returning or not self.session.is_served:
            return False
        if self.limit and self.delivered >= self.limit:
            return False
        if self.group is not None:
            return not self.group.is_full()
        return self.no_ack or (len(self.leases) < self.credit and self.held_bytes < self.credit_bytes)


class Lease(NamedTuple):
    """A message in the hands of a consumer. (message.id, epoch) is the token."""

    message: Message
    epoch: int
    until_ms: int  # 0: as long as the session lives
    consumer: Consumer


class Topic:
    """A topic: its messages, consumers and bindings."""

    __slots__ = (
        "active",
        "alive",
        "arrivals",
        "bindings",
        "consumers",
        "delayed",
        "delayed_bytes",
        "drops",
        "expires_at_ms",
        "leased",
        "name",
        "number",
        "owner",
        "ready",
        "ready_bytes",
        "settings",
        "sign",
        "subscribers",
        "turns",
    )

    def __init__(self, number: int, name: str, settings: TopicSettings, owner: Session | None) -> None:
        self.number = number
        self.name = name
        self.settings = settings
        self.owner = owner
        self.sign = -1 if settings.mode == "max" else 1
        self.alive = True
        self.drops = settings.overflow == "drop" and settings.max_messages > 0
        self.ready = no_messages(self.drops)
        self.ready_bytes = 0
        self.delayed: dict[int, Delayed] = {}
        self.delayed_bytes = 0
        self.leased = 0
        self.consumers: dict[int, Consumer] = {}
        self.active = 0  # consumers and tickets that have not ended
        self.subscribers = 0  # the same without tickets
        self.turns: Turns[Consumer] = Turns()
        self.bindings: dict[tuple[Exchange[Topic], str], None] = {}  # (exchange, routing key)
        self.expires_at_ms = 0  # when it is deleted as unused; 0 while used
        self.arrivals = Arrivals()

    def messages(self) -> int:
        """How many messages the topic has, leased ones included."""
        return len(self.ready) + len(self.delayed) + self.leased


class PurgedMessages(NamedTuple):
    """What a purge left behind. Nobody can see it any more; it is freed in slices."""

    ready: ReadyMessages
    delayed: dict[int, Delayed]


class State:
    """The tables. `effects` is where the call in progress collects its pushes, `deliveries_left`, `returns_left`,
    `end_units_left` and `push_bytes_left` (bytes) are what it may still do at once."""

    def __init__(self, settings: HeapSettings) -> None:
        self.settings = settings
        self.version = 1
        self.now_ms = 0
        self.last_message = 0
        self.last_consumer = 0
        self.last_topic = 0
        self.message_bytes = 0
        self.copies: dict[int, int] = {}  # of a shared payload, by its address: see `footprint`
        self.repeated_bytes = 0  # of shared payloads, for each copy but the first: not state
        self.purged_messages = self.purged_bytes = 0  # purged and not freed yet: not state
        self.sessions: dict[int, Session] = {}
        self.ready = self.delayed = 0  # messages of all topics that wait so
        self.active = self.subscribers = 0  # of all topics
        self.topics: dict[str, Topic] = {}
        self.topic_names: list[str] = []  # of the topics, sorted
        self.topics_by_number: dict[int, Topic] = {}
        self.consumers: dict[int, Consumer] = {}
        self.leases: dict[int, Lease] = {}
        self.exchanges: dict[str, Exchange[Topic]] = {}
        self.bindings = 0
        self.pattern_nodes = 0
        self.routes: RouteCache[Topic] = RouteCache()  # not state
        self.timers = Timers()
        self.unserved: OrderedDict[int, Topic] = OrderedDict()  # have messages and hungry consumers: postponed
        self.freed: OrderedDict[tuple[int, int], CreditGroup] = OrderedDict()  # have room again: see `credit`
        self.returning: OrderedDict[int, Consumer] = OrderedDict()  # give everything back: postponed
        self.ending: OrderedDict[int, Session] = OrderedDict()  # are over, with what they leave behind: postponed
        self.resending: OrderedDict[int, Session] = OrderedDict()  # are sent their leases again: postponed
        self.unfreed: list[PurgedMessages | Exchange[Topic] | Topic] = []  # not state: see `work`
        self.views: list[ref[Any]] = []  # open `view.View`s
        self.purged_in_views: list[PurgedMessages] = []  # not to be freed before these views are closed
        self.effects: list[tuple[int, bytes]] = []
        self.deliveries_left, self.returns_left = MAX_DELIVERIES_PER_CALL, MAX_RETURNS_PER_CALL
        self.push_bytes_left = MAX_PUSH_BYTES_PER_CALL
        self.end_units_left = MAX_END_UNITS_PER_CALL
        self.units = 0  # of work, counted, not state: see `interfaces.WorkCounting`
        self.delivered = self.settled = self.returned = self.expired = self.dropped = 0  # counted, not state

    def __del__(self) -> None:
        """The records hold each other: consumers, sessions, topics and exchanges. A replica that takes over a leader's
        snapshot drops a whole state, and no garbage collector runs there. What a snapshot's view holds stays."""
        for consumer in self.consumers.values():
            consumer.leases = {}
            consumer.group = None
        for session in (*self.sessions.values(), *self.ending.values()):
            session.consumers, session.owned, session.groups = {}, {}, {}
        for topic in self.topics.values():
            topic.consumers, topic.bindings, topic.owner = {}, {}, None
            topic.turns.clear()

    def begin_call(self) -> list[tuple[int, bytes]]:
        """A call begins; returns the list that its pushes will be in."""
        effects: list[tuple[int, bytes]] = []
        self.effects = effects
        self.deliveries_left, self.returns_left = MAX_DELIVERIES_PER_CALL, MAX_RETURNS_PER_CALL
        self.push_bytes_left = MAX_PUSH_BYTES_PER_CALL
        self.end_units_left = MAX_END_UNITS_PER_CALL
        return effects

    def push(self, session: Session, body: bytes) -> None:
        """For the session's connection; one that has none hears of it when it attaches."""
        if session.attached:
            self.effects.append((session.number, body))
