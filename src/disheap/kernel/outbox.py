"""What waits to leave (Raft §5.1, Figure 2: updated on stable storage before responding).

Owns the order between durability and messages: which go now, which with the next `Write`, which when the `Write` in
flight is durable. Never decides what is sent. At most one `Write` is in flight; what comes meanwhile gathers.
"""

from __future__ import annotations

from disheap.kernel.log import Log
from disheap.kernel.types import (
    AppendReply,
    ChunkRead,
    ChunkWrite,
    Fetch,
    HardState,
    Index,
    Message,
    NodeId,
    Read,
    Term,
    Write,
    new_record,
)

NOTHING = Index(0)
"""What a message claims to be durable that speaks of no entry."""


class Outbox:
    """Messages, writes and requests that wait for the next `Ready`. Holds back what a message claims until it is
    durable."""

    def __init__(self, hard_state: HardState, log: Log) -> None:
        self._log = log
        self.hard_state = hard_state  # as it is
        self.durable = hard_state
        self.number = 0
        self.in_flight = False
        self._written = hard_state  # as the last `Write` carried it
        self._messages: list[Message] = []
        self._held: list[Message] = []  # for the next `Write`
        self._waiting: list[Message] = []  # for the `Write` in flight
        self._clear_requests()

    @property
    def is_settled(self) -> bool:
        """Nothing is being written, and nothing waits for it."""
        return not self.in_flight and not self._is_unwritten

    @property
    def has_something(self) -> bool:
        """Messages that may go, requests, or a `Write` that may begin."""
        if self._messages or self.fetches or self.chunk_reads or self.chunk_writes or self.reads:
            return True
        if self.in_flight:
            return False
        return self._log.written < self._log.last_index or self.hard_state != self._written

    def send(self, message: Message, claims: Index = NOTHING) -> None:
        """`claims` is the index that the message says is durable. The hard state it was made under always is."""
        if self.hard_state != self._written or claims > self._log.written:
            _add(self._held, message)
        elif self.in_flight and (self._written != self.durable or claims > self._log.stable):
            _add(self._waiting, message)
        else:
            _add(self._messages, message)

    def set_hard_state(self, term: Term, vote: NodeId) -> None:
        """Messages of an older term that were not released yet are dropped. What they claim may be overwritten before
        they go (pitfall 12), and nobody needs them."""
        if term > self.hard_state.term:
            self._held.clear()
            self._waiting.clear()
        self.hard_state = HardState(term, vote)

    def take_messages(self) -> tuple[Message, ...]:
        """Return the messages that may be sent at once, and forget them."""
        if not self._messages:
            return ()
        messages, self._messages = tuple(self._messages), []
        return messages

    def take_write(self) -> tuple[Write | None, tuple[Message, ...]]:
        """The next `Write`, if there is something to write and none is in flight, and the messages that it holds."""
        if self.in_flight or not self._is_unwritten:
            return None, ()
        changed = self.hard_state if self.hard_state != self._written else None
        self._written = self.hard_state
        self.number += 1
        self.in_flight = True
        held, self._held = tuple(self._held), []
        return new_record(Write, (self.number, changed, self._log.unwritten())), held

    def take_requests(
        self,
    ) -> tuple[tuple[Fetch, ...], tuple[ChunkRead, ...], tuple[ChunkWrite, ...], tuple[Read, ...]]:
        """What storage is asked for, and the reads that are decided."""
        if not (self.fetches or self.chunk_reads or self.chunk_writes or self.reads):
            return (), (), (), ()
        taken = tuple(self.fetches), tuple(self.chunk_reads), tuple(self.chunk_writes), tuple(self.reads)
        self._clear_requests()
        return taken

    def persisted(self, number: int) -> bool:
        """Whether this was the `Write` in flight; then it is durable."""
        if not self.in_flight or number != self.number:
            return False
        self.in_flight = False
        self.durable = self._written
        self._log.persisted()
        if self._waiting:
            self._messages += self._waiting
            self._waiting.clear()
        return True

    def _clear_requests(self) -> None:
        self.fetches: list[Fetch] = []
        self.chunk_reads: list[ChunkRead] = []
        self.chunk_writes: list[ChunkWrite] = []
        self.reads: list[Read] = []

    @property
    def _is_unwritten(self) -> bool:
        return self.hard_state != self._written or self._log.written < self._log.last_index


def _add(queue: list[Message], message: Message) -> None:
    """A later acknowledgement says all that the one before it said."""
    last = queue[-1] if queue else None
    if (
        last is not None
        and isinstance(message, AppendReply)
        and isinstance(last, AppendReply)
        and message.success
        and last.success
        and (message.target, message.term) == (last.target, last.term)
        and message.index >= last.index
    ):
        queue[-1] = message
    else:
        queue.append(message)
