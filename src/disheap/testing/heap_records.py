"""The records of the model of the heap machine (`heap_model`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from disheap.protocol import broker


@dataclass(eq=False)
class ModelMessage:
    """A message. It is delayed while `due_ms` is set, and leased while `holder` is set. Otherwise it is ready."""

    id: int
    topic: ModelTopic
    new: broker.NewMessage
    enqueued_ms: int
    expires_at_ms: int
    attempts: int = 0  # leases so far, the present one included, without those that were released
    released: int = 0  # leases that were released
    passed: tuple[int, ...] = ()  # numbers of topics that it left without a consumer
    due_ms: int = 0  # delayed while this is set
    holder: ModelConsumer | None = None  # leased while this is set
    until_ms: int = 0
    transaction: ModelTransaction | None = None  # frozen while this is set
    bound: int = 0  # the priority_max of the topic when it came

    @property
    def state(self) -> str:
        """What a query calls it."""
        return "leased" if self.holder is not None else "delayed" if self.due_ms else "ready"

    def peeked(self) -> broker.PeekedMessage:
        """What a query shows of it."""
        held_by = (self.holder.session, self.holder.number) if self.holder is not None else (0, 0)
        shown = (self.id, self.priority, self.attempts, self.enqueued_ms, self.state, self.due_ms)
        body = (self.new.payload, self.new.encoded_headers, self.new.key)
        return broker.PeekedMessage(*shown, *body, *held_by, self.expires_at_ms)

    @property
    def priority(self) -> int:
        """As it was enqueued, within the bounds that the topic had then."""
        if not self.bound:
            return self.new.priority
        return min(max(self.new.priority, min(0, self.bound)), max(0, self.bound))

    @property
    def epoch(self) -> int:
        """The epoch of its present lease, which grows with each lease."""
        return self.attempts + (self.released << 32)

    def size(self) -> int:
        """Bytes of payload, headers and key: what counts for credit."""
        return len(self.new.payload) + len(self.new.encoded_headers) + len(self.new.key.encode())

    def urgency(self) -> int:
        """The priority, negated where the smallest comes first."""
        return -self.rank()[0]

    def rank(self) -> tuple[int, int]:
        """The key by which ready messages are sorted: priority, then the order of enqueueing."""
        return (self.priority if self.topic.settings.mode == "min" else -self.priority, self.id)


@dataclass(eq=False)
class ModelGroup:
    """Consumers of a session that share one credit. `turns`: the next consumer comes first. If `above` is set, the
    group waits for a message more urgent than that."""

    credit: int
    credit_bytes: int
    turns: list[ModelConsumer] = field(default_factory=list)
    above: int | None = None  # it may be sent one message more that is more urgent
    armed: int = 0  # the lower number was armed first


@dataclass(eq=False)
class ModelConsumer:
    """A consumer, or a pop if `limit` is set."""

    number: int
    session: int
    topic: ModelTopic
    credit: int
    credit_bytes: int
    no_ack: bool = False
    lease_ms: int = 0
    limit: int = 0
    exclusive: bool = False
    group: ModelGroup | None = None
    until_ms: int = 0
    delivered: int = 0
    ended: bool = False


@dataclass(eq=False)
class ModelTopic:
    """A topic. `turns`: the consumers that can receive, the next one first."""

    name: str
    number: int
    settings: broker.TopicSettings
    owner: int | None = None
    alive: bool = True
    turns: list[ModelConsumer] = field(default_factory=list)
    expires_at_ms: int = 0
    revision: int = 1
    holds_back: bool = False  # deliveries are paused
    is_closed: bool = False  # enqueues are paused


@dataclass(eq=False)
class ModelTransaction:
    """A transaction that waits for its decision. `prepared`: messages, each with the topics that it goes to."""

    number: int
    name: str
    epoch: int
    session: int
    prepared_ms: int
    deadline_ms: int
    prepared: list[tuple[broker.NewMessage, list[ModelTopic]]] = field(default_factory=list)
    frozen: list[ModelMessage] = field(default_factory=list)
    participants: tuple[int, ...] = ()
    coordinator: int = -1
    asks_at_ms: int = 0
    pause_ms: int = 0
    inquiry: int = 0


@dataclass(eq=False)
class ModelOutcome:
    """How a transaction ended."""

    epoch: int
    is_committed: bool
    first: int
    count: int
