"""One node alone, the test playing everybody else, and the words that the others say."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

from disheap.kernel.raft import Raft
from disheap.kernel.types import (
    AppendReply,
    AppendRequest,
    ChunkRead,
    ChunkWrite,
    Entry,
    Fetch,
    Heartbeat,
    HeartbeatReply,
    Index,
    Message,
    NodeId,
    Read,
    Role,
    Term,
    VoteReply,
    VoteRequest,
)

from .harness import ELECTION_TICKS, Disk, WriteJob, config, group, log_of

M = TypeVar("M")


class Solo:
    """One node and its disk, with the test playing everybody else."""

    def __init__(
        self,
        terms: tuple[int, ...] = (),
        *,
        term: int | None = None,
        vote: int = 0,
        voters: Iterable[int] = (1, 2, 3),
        learners: Iterable[int] = (),
        id: int = 1,
        ambiguous_after: int | None = None,
        **settings: object,
    ) -> None:
        entries = log_of(*terms)
        current = term if term is not None else max(terms, default=0)
        self.disk = Disk.holding(group(voters, learners), entries, (current, vote))
        self.id = NodeId(id)
        after = None if ambiguous_after is None else Index(ambiguous_after)
        self.raft = Raft(config(id, **settings), self.disk.restored(ambiguous_after=after), random.Random(1))
        self.pending: WriteJob | None = None
        self.applied: list[Entry] = []
        self.reads: list[Read] = []
        self.requests: list[Fetch | ChunkRead | ChunkWrite] = []

    def ready(self) -> list[Message]:
        """What may go now. A write stays in flight until `persist`."""
        sent: list[Message] = []
        while self.raft.has_ready():
            ready = self.raft.ready()
            sent += ready.messages
            if ready.write is not None:
                self.pending = WriteJob(ready.write, ready.held)
            self.requests += (*ready.fetches, *ready.chunk_reads, *ready.chunk_writes)
            self.reads += ready.reads
            self.applied += ready.committed
            if ready.committed:
                self.raft.applied_to(ready.committed[-1].index)
        return sent

    def persist(self) -> list[Message]:
        """The write in flight becomes durable; what it held, and what follows from it."""
        assert self.pending is not None
        job, self.pending = self.pending, None
        self.disk.write(job.write.hard_state, job.write.entries)
        self.raft.persisted(job.write.number)
        return [*job.held, *self.ready()]

    def run(self) -> list[Message]:
        """Everything, with a disk that takes no time."""
        sent = self.ready()
        while self.pending is not None:
            sent += self.persist()
        return sent

    def hear(self, message: Message) -> list[Message]:
        self.raft.step(message)
        return self.run()

    def tick(self, times: int) -> list[Message]:
        sent: list[Message] = []
        for _ in range(times):
            self.raft.tick()
            sent += self.run()
        return sent

    def time_out(self) -> list[Message]:
        """Tick until it campaigns."""
        for _ in range(2 * ELECTION_TICKS + 1):
            sent = self.tick(1)
            if self.raft.is_leader or any(isinstance(message, VoteRequest) for message in sent):
                return sent
        raise AssertionError("no campaign")

    def lead(self) -> list[Message]:
        """Win an election with every vote; the messages that the new leader sends."""
        sent = self.time_out() if self.raft.role is Role.FOLLOWER else []
        while not self.raft.is_leader:
            request = next(message for message in sent if isinstance(message, VoteRequest))
            sent = [m for voter in self._others() for m in self.hear(self._granted(voter, request))]
        return sent

    def acknowledge(self, peer: int, index: int) -> list[Message]:
        return self.hear(append_reply(peer, self.id, self.raft.term, index))

    def _others(self) -> list[int]:
        return [member.id for member in self.raft.membership.members if member.voter and member.id != self.id]

    def _granted(self, voter: int, request: VoteRequest) -> Message:
        return VoteReply(NodeId(voter), self.id, request.term, True, request.pre, request.round)


def append(
    source: int, term: int, previous: tuple[int, int], entries: tuple[Entry, ...] = (), commit: int = 0, target: int = 1
) -> AppendRequest:
    """`previous` is (index, term)."""
    index, previous_term = Index(previous[0]), Term(previous[1])
    return AppendRequest(NodeId(source), NodeId(target), Term(term), index, previous_term, entries, Index(commit))


def append_reply(source: int, target: int, term: int, index: int) -> AppendReply:
    return AppendReply(NodeId(source), NodeId(target), Term(term), True, Index(index), Index(0), Term(0))


def append_refusal(source: int, term: int, index: int, hint: tuple[int, int], target: int = 1) -> AppendReply:
    return AppendReply(NodeId(source), NodeId(target), Term(term), False, Index(index), Index(hint[0]), Term(hint[1]))


def heartbeat(
    source: int, term: int, commit: int = 0, read: int = 0, target: int = 1, transferee: int = 0
) -> Heartbeat:
    return Heartbeat(NodeId(source), NodeId(target), Term(term), Index(commit), read, NodeId(transferee))


def heartbeat_reply(source: int, term: int, read: int = 0, target: int = 1) -> HeartbeatReply:
    return HeartbeatReply(NodeId(source), NodeId(target), Term(term), read)


def vote_request(
    source: int,
    term: int,
    last: tuple[int, int] = (99, 99),
    *,
    pre: bool = False,
    transfer: bool = False,
    target: int = 1,
) -> VoteRequest:
    """`last` is (index, term)."""
    return VoteRequest(NodeId(source), NodeId(target), Term(term), Index(last[0]), Term(last[1]), pre, transfer)


def vote_reply(
    source: int, term: int, granted: bool, *, pre: bool = False, target: int = 1, round: int = 1
) -> VoteReply:
    """`round` is of the pre-vote that it answers: the node's first, unless told otherwise."""
    return VoteReply(NodeId(source), NodeId(target), Term(term), granted, pre, round if pre else 0)


def only(kind: type[M], messages: Iterable[object]) -> list[M]:
    return [message for message in messages if isinstance(message, kind)]
