"""Answers what other nodes ask when they repair their logs, from a running node and from one in repair.

Owns the reads for others: what this node holds, entries, and the newest snapshot piece by piece. Repairs nothing itself
(`repairer`). A running node answers from its kernel where the disk may be one write behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from disheap.errors import LogDamaged, StorageError
from disheap.interfaces import Holding, Repairable, Storage
from disheap.kernel import membership
from disheap.kernel.raft import Raft
from disheap.kernel.types import Index, NodeId, SnapshotMeta
from disheap.protocol import repair as wire
from disheap.protocol.repair import Answer, Ask, AskEntries, AskSnapshot, AskStanding, Entries, SnapshotPiece, Standing
from disheap.runtime.disk.thread import Disk
from disheap.runtime.replica.lifecycle import Lifecycle, State
from disheap.runtime.state.snapshot_source import SnapshotSource

T = TypeVar("T")


class Snapshots(Protocol):
    """Takes the snapshots of a group."""

    def take(self) -> None:
        """Take a snapshot of the present state. Does nothing while one is being written."""


class Group(Protocol):
    """The group that other nodes ask about."""

    raft: Raft
    applied: SnapshotMeta

    @property
    def is_running(self) -> bool:
        """Whether the replica takes part."""

    @property
    def snapshotter(self) -> Snapshots:
        """Takes the snapshots of this group."""

    def fail(self, error: BaseException) -> None:
        """End the group with this error. Damage starts a repair instead."""


class Host(Protocol):
    """What answering asks of its replica."""

    lifecycle: Lifecycle

    @property
    def group(self) -> Group:
        """The present group of the replica."""

    def storage(self) -> Storage:
        """Returns the open storage."""

    def disk(self) -> Disk:
        """Returns the thread that reads and writes the directory."""

    def send_repair(self, target: NodeId, message: Answer) -> None:
        """Send an answer about repair. Dropped while there is no connection."""

    def failed(self, error: BaseException) -> None:
        """End the node with this error."""


class Responder:
    """The answers of one replica. An answer has at most `entry_bytes` of entries, or `chunk_bytes` of a snapshot."""

    def __init__(self, host: Host, group: int, entry_bytes: int, chunk_bytes: int) -> None:
        self._host = host
        self._group = group
        self._entry_bytes = entry_bytes
        self._source = SnapshotSource(chunk_bytes)

    def received(self, node: NodeId, message: Ask) -> None:
        """Answer a request of the member `node`."""
        match message:
            case AskStanding():
                self._answer(node, self._holding, self._standing)
            case AskEntries(_, first, last):
                self._answer(node, lambda: self._read(first, last), lambda answer: answer)
            case AskSnapshot():
                self._answer_snapshot(node, message)

    def close_reader(self) -> None:
        """Close the snapshot that is being read for others. Called on the disk's thread, before the storage is
        closed."""
        self._source.close()

    def _answer(self, node: NodeId, work: Callable[[], T], to_answer: Callable[[T], Answer]) -> None:
        """Answer from the disk. If reading fails, no answer is sent, and the error is handled as one of this node's own
        reads."""

        def done(result: T, error: BaseException | None) -> None:
            if error is None:
                self._host.send_repair(node, to_answer(result))
            elif not isinstance(error, StorageError):
                self._host.failed(error)
            else:
                self._host.group.fail(error)  # while it is not running, the repair finds the same

        if isinstance(self._host.storage(), Repairable):
            self._host.disk().submit(work, done)

    def _holding(self) -> Holding:
        storage = self._host.storage()
        assert isinstance(storage, Repairable)
        return storage.holding()

    def _standing(self, holding: Holding) -> Standing:
        """A running node reports what its kernel holds, because the disk may be one write behind."""
        group = self._host.group
        raft = group.raft
        first, last, runs = holding.first, holding.last, holding.runs
        ambiguous, commit = holding.ambiguous, Index(0)
        if group.is_running:
            commit = min(raft.commit, holding.last)
            first, last, runs = raft.first_index, raft.last_index, raft.runs
            ambiguous = raft.is_ambiguous
        runs = runs[-wire.MAX_RUNS :]
        return Standing(
            group=self._group,
            term=holding.hard_state.term,
            has_leader=group.is_running and bool(raft.leader),
            commit=commit,
            commit_term=(raft.term_at(commit) or 0) if commit else 0,
            snapshot=holding.snapshot,
            snapshot_term=holding.snapshot_term,
            first=runs[0].first if runs else first,
            last=last,
            runs=tuple((int(run.first), int(run.term)) for run in runs),
            damaged=wire.joined(((int(place.first), int(place.last)) for place in holding.damaged), last),
            ambiguous=ambiguous,
        )

    def _read(self, first: int, last: int) -> Entries:
        """Reads entries for another node. In repair, damage is no error: the others know of it already."""
        try:
            entries = self._host.storage().read(Index(first), Index(last), self._entry_bytes)
        except LogDamaged:
            if self._host.group.is_running:
                raise
            entries = ()
        return Entries(self._group, first, tuple((e.term, e.index, int(e.kind), e.time_ms, e.data) for e in entries))

    def _answer_snapshot(self, node: NodeId, ask: AskSnapshot) -> None:
        group = self._host.group
        if not ask.index and group.is_running and group.applied.index >= ask.needed > group.raft.snapshot_index:
            group.snapshotter.take()
        self._answer(node, lambda: self._piece(ask), lambda answer: answer)

    def _piece(self, ask: AskSnapshot) -> SnapshotPiece:
        nothing = SnapshotPiece(self._group, 0, 0, 0, b"", 0, b"", True)
        if self._host.lifecycle.state is State.QUARANTINED:
            return nothing
        piece = self._source.read(self._host.storage(), Index(ask.index) if ask.index else None, ask.offset)
        if piece is None:
            return nothing
        index, term, time_ms, members = piece.meta
        data, is_last = piece.data, piece.is_last
        return SnapshotPiece(self._group, index, term, time_ms, membership.encode(members), ask.offset, data, is_last)
