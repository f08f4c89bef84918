"""What nodes ask each other when one of them cannot read all of its log (Alagappan et al., FAST'18; storage-rules 4).

Beside Raft's own messages, because a node that is being repaired takes no part in Raft: it neither votes nor is
counted. Every question can be asked again; an answer says by its content what it answers. Both are MessagePack arrays
in the body of a `REPAIR_ASK` or `REPAIR_ANSWER` frame, the first element being the tag; the group is in each.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from disheap.errors import MalformedFrame
from disheap.kernel.types import Entry, EntryKind, Index, Term
from disheap.protocol import frames
from disheap.protocol.frames import Kind

RUNS_MOST = 10_000
"""Term runs told of one log; of a log with more, the oldest are left out and count as not known."""


class Verdict(Enum):
    """What a node says of an entry, by index and term."""

    HAVE = "have"
    NEVER_HAD = "never had"  # its log holds another there, or ends before
    DAMAGED = "damaged"  # it cannot read it, or cannot tell whether it had it
    COMPACTED = "compacted"  # a snapshot of its own stands for it


class AskStanding(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """What do you hold?"""

    group: int


class AskEntries(msgspec.Struct, array_like=True, frozen=True, tag=2):
    group: int
    first: int
    last: int


class AskSnapshot(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """The piece at `offset` of the snapshot at `index`; 0 asks for the newest at or behind `needed`."""

    group: int
    index: int
    offset: int
    needed: int


class Standing(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """What a node holds, and how far it knows what is committed: `commit` is 0 on a node that takes no part itself."""

    group: int
    term: int
    has_leader: bool
    commit: int
    commit_term: int
    snapshot: int
    snapshot_term: int
    first: int
    last: int
    runs: tuple[tuple[int, int], ...]  # (first index, term)
    damaged: tuple[tuple[int, int], ...]  # (first, last index)
    ambiguous: bool  # there may have been more behind `last`

    def term_at(self, index: int) -> int | None:
        if not self.first <= index <= self.last:
            return None
        return next((term for first, term in reversed(self.runs) if first <= index), None)

    def verdict(self, index: int, term: int) -> Verdict:
        if index < self.first:
            return Verdict.COMPACTED if index <= self.snapshot else Verdict.DAMAGED
        if index > self.last:
            return Verdict.DAMAGED if self.ambiguous else Verdict.NEVER_HAD
        if self.term_at(index) != term:
            return Verdict.NEVER_HAD
        return Verdict.DAMAGED if self.is_damaged_at(index) else Verdict.HAVE

    def is_damaged_at(self, index: int) -> bool:
        return any(first <= index <= last for first, last in self.damaged)


class Entries(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """From `first` on, as many as fit; none where they cannot be read."""

    group: int
    first: int
    entries: tuple[tuple[int, int, int, int, bytes], ...]  # term, index, kind, time_ms, data

    def decoded(self) -> tuple[Entry, ...]:
        return tuple(
            Entry(Term(term), Index(index), EntryKind(kind), time_ms, data)
            for term, index, kind, time_ms, data in self.entries
        )


class SnapshotPiece(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """`index` 0: there is none that would do."""

    group: int
    index: int
    term: int
    time_ms: int
    membership: bytes
    offset: int
    data: bytes
    done: bool


Ask = AskStanding | AskEntries | AskSnapshot
Answer = Standing | Entries | SnapshotPiece

_ask = msgspec.msgpack.Decoder(Ask)
_answer = msgspec.msgpack.Decoder(Answer)


def encode(message: Ask | Answer) -> bytes:
    """One whole frame."""
    is_ask = isinstance(message, AskStanding | AskEntries | AskSnapshot)
    return frames.plain(Kind.REPAIR_ASK if is_ask else Kind.REPAIR_ANSWER, msgspec.msgpack.encode(message))


def decode(kind: int, frame: bytes) -> Ask | Answer:
    """Raises `MalformedFrame`."""
    try:
        decoder: msgspec.msgpack.Decoder[Ask] | msgspec.msgpack.Decoder[Answer]
        decoder = _ask if kind == Kind.REPAIR_ASK else _answer
        message = decoder.decode(frames.open_plain(frame))
        if isinstance(message, Entries):
            message.decoded()
    except (*frames.UNREADABLE, ValueError) as error:
        raise MalformedFrame(f"a question or an answer about repair cannot be read: {error}") from error
    return message


def with_damage(standing: Standing, damaged: tuple[tuple[int, int], ...]) -> Standing:
    """The same with other places damaged."""
    return msgspec.structs.replace(standing, damaged=damaged)
