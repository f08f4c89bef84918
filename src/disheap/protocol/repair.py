"""What nodes ask each other when one of them cannot read all of its log (Alagappan et al., FAST'18; storage-rules 4).

Beside Raft's own messages, because a node that is being repaired takes no part in Raft: it neither votes nor is
counted. Every question can be asked again; an answer says by its content what it answers. Both are MessagePack arrays
in the body of a `REPAIR_ASK` or `REPAIR_ANSWER` frame, the first element being the tag; the group is in each.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from enum import Enum

import msgspec

from disheap.errors import MalformedFrame, ProtocolError, WrongVersion
from disheap.kernel import membership
from disheap.kernel.types import Entry, EntryKind, Index, Term
from disheap.protocol import frames
from disheap.protocol.frames import Kind

MAX_RUNS = 10_000
"""Term runs told of one log; of a log with more, the oldest are left out and count as not known."""


MAX_PLACES = 10_000
"""Damaged places told of one log; of a log with more, everything from the last of these on counts as damaged."""
MAX_NUMBER = (1 << 63) - 1
"""The largest term, index, offset or number of milliseconds: what the formats on disk hold."""


class Verdict(Enum):
    """What a node says of an entry, by index and term."""

    HAVE = "have"
    NEVER_HAD = "never had"  # its log holds another there, or ends before
    DAMAGED = "damaged"  # it cannot read it, or cannot tell whether it had it
    COMPACTED = "compacted"  # a snapshot of its own stands for it


class AskStanding(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Asks what a node holds. Answer: `Standing`."""

    group: int


class AskEntries(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Asks for the entries from `first` to `last`. Answer: `Entries`."""

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
        """Returns the term of the entry at `index`, or None if the log does not hold it."""
        if not self.first <= index <= self.last:
            return None
        at = bisect.bisect_right(self.runs, index, key=lambda run: run[0])
        return self.runs[at - 1][1] if at else None

    def verdict(self, index: int, term: int) -> Verdict:
        """Returns whether the node has the entry (`index`, `term`), never had it, or may have lost it."""
        if index < self.first:
            return Verdict.COMPACTED if index <= self.snapshot else Verdict.DAMAGED
        if index > self.last:
            return Verdict.DAMAGED if self.ambiguous else Verdict.NEVER_HAD
        if self.term_at(index) != term:
            # What a lost write had superseded may show again: with an ambiguous end only what is committed is certain.
            is_sure = not self.ambiguous or index <= self.commit
            return Verdict.NEVER_HAD if is_sure else Verdict.DAMAGED
        return Verdict.DAMAGED if self.is_damaged_at(index) else Verdict.HAVE

    def is_damaged_at(self, index: int) -> bool:
        """Returns whether the entry at `index` is damaged."""
        return any(first <= index <= last for first, last in self.damaged)


class Entries(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """From `first` on, as many as fit; none where they cannot be read."""

    group: int
    first: int
    entries: tuple[tuple[int, int, int, int, bytes], ...]  # term, index, kind, time_ms, data

    def decoded(self) -> tuple[Entry, ...]:
        """Returns the entries as the kernel has them."""
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
    """Raises `MalformedFrame`, and `WrongVersion` for an entry that a newer release wrote."""
    try:
        decoder: msgspec.msgpack.Decoder[Ask] | msgspec.msgpack.Decoder[Answer]
        decoder = _ask if kind == Kind.REPAIR_ASK else _answer
        message = decoder.decode(frames.open_plain(frame))
        _check(message)
    except WrongVersion:
        raise
    except (*frames.UNREADABLE, ProtocolError, ValueError) as error:
        raise MalformedFrame(f"a question or an answer about repair cannot be read: {error}") from error
    return message


def _check(message: Ask | Answer) -> None:
    """Everything that whoever acts on it takes for granted. Raises `ValueError` or `ProtocolError`."""
    match message:
        case AskStanding(group):
            _check_numbers(group)
        case AskEntries(group, first, last):
            _check_numbers(group, first, last)
            _hold(1 <= first <= last, "it asks for no entries")
        case AskSnapshot(group, index, offset, needed):
            _check_numbers(group, index, offset, needed)
        case Standing():
            _check_standing(message)
        case Entries():
            _check_entries(message)
        case SnapshotPiece():
            _check_numbers(message.group, message.index, message.term, abs(message.time_ms), message.offset)
            _hold(message.done or bool(message.data), "a piece of nothing, and more to come")
            if message.index:
                membership.decode(message.membership)


def _check_standing(told: Standing) -> None:
    runs, damaged = told.runs, told.damaged
    _check_numbers(told.group, told.term, told.commit, told.commit_term, told.snapshot, told.snapshot_term)
    _check_numbers(told.first, told.last, *(number for pair in (*runs, *damaged) for number in pair))
    _hold(len(runs) <= MAX_RUNS, f"{len(runs)} term runs are more than {MAX_RUNS}")
    _hold(len(damaged) <= MAX_PLACES, f"{len(damaged)} damaged places are more than {MAX_PLACES}")
    _hold(1 <= told.first <= told.last + 1, f"a log from {told.first} to {told.last}")
    _hold(bool(runs) == (told.first <= told.last), "the terms of its entries are missing")
    if runs:
        _hold(runs[0][0] == told.first and runs[-1][0] <= told.last, "its term runs are of another log")
    firsts, terms = [first for first, _ in runs], [term for _, term in runs]
    _hold(firsts == sorted(set(firsts)) and terms == sorted(terms), "its term runs do not rise")
    _hold(all(1 <= first <= last for first, last in damaged), "a damaged place ends before it begins")


def _check_entries(told: Entries) -> None:
    entries = told.decoded()
    _check_numbers(told.group, told.first)
    terms = [entry.term for entry in entries]
    _check_numbers(*terms, *(abs(entry.time_ms) for entry in entries))
    _hold(terms == sorted(terms), "the terms of its entries go back")
    _hold(all(entry.index == told.first + at for at, entry in enumerate(entries)), "its entries have gaps")
    for entry in entries:
        if entry.kind is EntryKind.MEMBERSHIP:
            membership.decode(entry.data)
        elif entry.kind is EntryKind.COMMANDS:
            frames.check_envelopes(entry.data)


def _check_numbers(*numbers: int) -> None:
    _hold(all(0 <= number <= MAX_NUMBER for number in numbers), f"a number is not between 0 and {MAX_NUMBER}")


def _hold(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise ValueError(otherwise)


def joined(places: Iterable[tuple[int, int]], log_end: int) -> tuple[tuple[int, int], ...]:
    """Damaged places by index, neighbours as one, and no more than may be told."""
    found: list[tuple[int, int]] = []
    for first, last in places:
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        elif len(found) == MAX_PLACES:
            found[-1] = (found[-1][0], max(log_end, found[-1][1]))
            break
        else:
            found.append((first, last))
    return tuple(found)


def without_snapshot(standing: Standing) -> Standing:
    """Returns the standing of a node that was asked for its snapshot and did not deliver it. The snapshot does not
    count."""
    return msgspec.structs.replace(standing, snapshot=0, snapshot_term=0, commit=0, commit_term=0)


def with_damage(standing: Standing, damaged: tuple[tuple[int, int], ...]) -> Standing:
    """Returns the standing with other places damaged."""
    return msgspec.structs.replace(standing, damaged=damaged)
