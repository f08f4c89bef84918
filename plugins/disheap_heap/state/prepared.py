"""The records of transactions: what is prepared, what is frozen, and how finished transactions ended.

Owns the tables and their counts. `transactions` decides what may happen to them. A transaction and what it holds never
change between PREPARE and the decision, so a view of a snapshot needs no copies of them. They name sessions and topics
by number, and so keep none alive.
"""

from __future__ import annotations

from typing import NamedTuple

from disheap.protocol.broker import NewMessage
from disheap_heap.state.messages import Body, Message
from disheap_heap.tables.partitioned import PartitionedDict

NO_GROUP = -1
"""The coordinator of a transaction that is decided from outside."""


class PreparedMessage(NamedTuple):
    """A message that nobody can see yet. `new` decides its priority, delay and expiry, and `body` is what is stored."""

    topics: tuple[int, ...]  # their numbers
    new: NewMessage
    body: Body


class FrozenMessage(NamedTuple):
    """A leased message whose ack is prepared. `message` is as it would come back to its topic."""

    message: Message
    topic: int  # its number


class Transaction:
    """A transaction that waits for its decision. `deadline_ms` is 0 for a participant, which waits for ever.
    `participants` are the groups that a coordinator tells its decision. `coordinator` is the group that a participant
    gets it from, or -1."""

    __slots__ = (
        "coordinator",
        "deadline_ms",
        "epoch",
        "frozen",
        "messages",
        "name",
        "number",
        "participants",
        "prepared_ms",
        "session",
        "size",
    )

    def __init__(
        self,
        number: int,
        name: str,
        epoch: int,
        session: int,
        prepared_ms: int,
        deadline_ms: int,
        participants: tuple[int, ...] = (),
        coordinator: int = NO_GROUP,
    ) -> None:
        self.number = number
        self.name = name
        self.epoch = epoch
        self.session = session
        self.prepared_ms = prepared_ms
        self.deadline_ms = deadline_ms
        self.participants = participants
        self.coordinator = coordinator
        self.messages: list[PreparedMessage] = []
        self.frozen: list[FrozenMessage] = []
        self.size = 0  # bytes of the prepared messages; one for several topics counts once

    def hold(self, message: PreparedMessage) -> None:
        """Adds a message, before the transaction is added to the table."""
        self.messages.append(message)
        self.size += len(message.body)


class Finished(NamedTuple):
    """How a transaction ended. Of a committed one also the ids of its messages, so that a repeated COMMIT is answered
    as the first one was. `told`: of a committed one of this group, (participant, number of the decision for it)."""

    epoch: int
    is_committed: bool
    first: int = 0
    messages: int = 0
    told: tuple[tuple[int, int], ...] = ()


class Asking(NamedTuple):
    """When a participant asks for the decision, and the number of its last question; 0 before the first one.
    `pause_ms`: for so long it waits now."""

    at_ms: int
    inquiry: int
    pause_ms: int


class Transactions:
    """All transactions of a state. The counts follow from the tables."""

    def __init__(self) -> None:
        self.last_number = 0
        self.open: dict[str, Transaction] = {}
        self.by_number: dict[int, Transaction] = {}  # of the open ones
        self.finished: dict[str, Finished] = {}  # the oldest first
        self.asking: dict[int, Asking] = {}  # the open ones that have a coordinator, by number
        self.frozen: PartitionedDict[FrozenMessage] = PartitionedDict()  # by the id of the message
        self.prepared = 0  # messages, of all open transactions
        self.prepared_bytes = 0
        self.of_session: dict[int, int] = {}  # how many are open
        self.told = 0  # decisions that are remembered with the outcomes

    def add(self, transaction: Transaction) -> None:
        """Adds an open transaction, with all that it holds."""
        self.open[transaction.name] = self.by_number[transaction.number] = transaction
        for one in transaction.frozen:
            self.frozen.put(one.message.id, one)
        self.prepared += len(transaction.messages)
        self.prepared_bytes += transaction.size
        self.of_session[transaction.session] = self.of_session.get(transaction.session, 0) + 1

    def finish(self, transaction: Transaction, outcome: Finished, limit: int) -> None:
        """Removes an open transaction, and remembers its outcome."""
        del self.open[transaction.name], self.by_number[transaction.number]
        self.asking.pop(transaction.number, None)
        for one in transaction.frozen:
            self.frozen.take(one.message.id)
        self.prepared -= len(transaction.messages)
        self.prepared_bytes -= transaction.size
        left = self.of_session.pop(transaction.session) - 1
        if left:
            self.of_session[transaction.session] = left
        self.remember(transaction.name, outcome, limit)

    def remember(self, name: str, outcome: Finished, limit: int) -> None:
        """Remembers how a transaction ended. Forgets the oldest outcome beyond `limit`."""
        before = self.finished.pop(name, None)
        self.finished[name] = outcome
        self.told += len(outcome.told) - (len(before.told) if before is not None else 0)
        if len(self.finished) > limit:
            self.told -= len(self.finished.pop(next(iter(self.finished))).told)

    def forget_told(self) -> None:
        """The numbers of decisions do not hold any more."""
        self.finished = {name: one._replace(told=()) for name, one in self.finished.items()}
        self.told = 0
