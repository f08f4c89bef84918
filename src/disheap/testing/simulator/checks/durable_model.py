"""What one node's disk has made durable, and what has to be there when the node comes back.

A model changes only when a write of the storage has returned. What a restart finds is compared with it. There must be
everything that was durable and nothing that was dropped, and damage only where the files were spoilt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from disheap.interfaces import Recovered
from disheap.kernel.types import NOBODY, Entry, HardState, SnapshotMeta, Term


class DurableModel:
    """What one node's disk has made durable, as far as its storage has said so."""

    def __init__(self) -> None:
        self.hard_state = HardState(Term(0), NOBODY)
        self.base = 0  # a snapshot stands for everything up to here
        self.base_term = 0
        self.terms: list[int] = []  # of base + 1, base + 2, ...
        self.saving: HardState | None = None
        self.writing: tuple[Entry, ...] = ()
        self.installing: SnapshotMeta | None = None
        self.cut_from = 0  # entries from there on are being dropped
        self.damaged = False  # somebody spoilt its files
        self.spoilt = 0  # how often somebody did, ever
        self.snapshot = 0  # the newest one that is durable
        self.settled = 0  # blocks up to here are known to be durable by a later write: what spoils them is damage
        self.is_ambiguous = False  # it said that its log may have lost its end, and has not caught up since

    @property
    def last(self) -> int:
        """The index of the last durable entry."""
        return self.base + len(self.terms)

    def term_at(self, index: int) -> int | None:
        """The term of the durable entry at `index`, or None if there is none."""
        if index <= self.base:
            return self.base_term if index == self.base else None
        return self.terms[index - self.base - 1] if index <= self.last else None

    def holds(self, index: int, term: int) -> bool:
        """A snapshot beyond it holds it too."""
        return index <= self.base or self.term_at(index) == term

    def spoil(self) -> None:
        """Notes that the simulation has damaged a file of this node."""
        self.damaged = True
        self.spoilt += 1

    def appended(self, entries: Sequence[Entry]) -> None:
        """Takes in entries whose append has returned. They supersede all entries from the first index on."""
        first = entries[0].index
        self.settled = first - 1
        terms = [int(entry.term) for entry in entries if entry.index > self.base]
        del self.terms[max(0, first - self.base - 1) :]
        self.terms += terms

    def reset(self, meta: SnapshotMeta) -> None:
        """Starts the log anew behind an installed snapshot."""
        self.base, self.base_term, self.terms = meta.index, meta.term, []
        self.snapshot = self.settled = meta.index

    # --- after a restart ---

    def judge(self, found: Recovered) -> Iterator[tuple[bool, str]]:
        """What must hold of what a storage found, each with what is wrong where it does not."""
        now = self.after(found)
        yield (
            found.hard_state in (self.hard_state, self.saving),
            f"comes back with {found.hard_state}, durable was {self.hard_state}",
        )
        for index in range(self.base + 1, self._certain_up_to(found) + 1):
            term = self.term_at(index) or 0
            is_there = now.holds(index, term) or self._may_be_what_it_superseded(found, index, now.term_at(index), term)
            yield is_there, f"entry {index} of term {term} was durable, and is lost"
        begins = found.snapshot.index + 1 if found.snapshot else 1
        is_told = found.lost_snapshot is not None
        yield is_told or found.first_index <= begins, f"its log begins at {found.first_index}, and says nothing"
        is_forgotten = self.is_ambiguous and not found.is_damaged and found.ambiguous_after is None
        yield not is_forgotten, "its log may lack its end, and a restart made it forget that"
        if not self.spoilt:
            yield from self._judge_a_good_disk(found, now)
        elif self.spoilt == 1 and found.ambiguous_after is not None and not self.is_ambiguous and not self.cut_from:
            after = int(found.ambiguous_after)
            yield after >= min(self.settled, self.last), f"takes damage behind {after} for a torn end"

    def _judge_a_good_disk(self, found: Recovered, now: DurableModel) -> Iterator[tuple[bool, str]]:
        """Nobody spoilt anything: nothing is damaged but what was being written, no snapshot is lost, and what was
        dropped does not come back."""
        under_way = {int(entry.index): int(entry.term) for entry in self.writing}
        for damage in found.damaged:
            is_torn = damage.first in under_way and damage.last in under_way
            yield is_torn, f"takes for damaged what nobody spoilt: {damage}"
        yield found.lost_snapshot is None, f"takes its snapshot for lost: {found.lost_snapshot}"
        index = found.snapshot.index if found.snapshot else 0
        yield index >= self.snapshot, f"the snapshot at {self.snapshot} was durable, and is lost"
        if self.installing is not None or self.cut_from:
            return
        for index in range(max(self.last, now.base) + 1, now.last + 1):
            yield now.term_at(index) == under_way.get(index), f"comes back with entry {index}, which it had dropped"

    def _may_be_what_it_superseded(self, found: Recovered, index: int, now: int | None, term: int) -> bool:
        """Where the end of a log is lost and that is told, what its last write had superseded shows again."""
        is_told = self.damaged and found.ambiguous_after is not None
        return is_told and index > self.settled and now is not None and now < term

    def _certain_up_to(self, found: Recovered) -> int:
        """A write in flight may have superseded what lies behind its first entry, a snapshot from the leader all that
        it does not stand for. Damage that looks like a torn tail is told as ambiguous, and may cost entries."""
        certain = self.last
        if self.writing:
            certain = min(certain, self.writing[0].index - 1)
        if self.cut_from:
            certain = min(certain, self.cut_from - 1)
        if self.installing is not None and found.snapshot and found.snapshot.index == self.installing.index:
            certain = min(certain, found.snapshot.index)
        if self.damaged and found.ambiguous_after is not None:
            certain = min(certain, found.ambiguous_after, found.last_index)  # it may have been ambiguous further on
        return certain

    def after(self, found: Recovered) -> DurableModel:
        """What the disk says after a restart is what is durable."""
        now = DurableModel()
        now._take(found)
        now.spoilt = self.spoilt
        now.writing = self.writing if found.is_damaged else ()  # it may be told of once more
        now.snapshot = found.snapshot.index if found.snapshot else 0
        now.settled = min(self.settled, now.last)
        now.is_ambiguous = found.ambiguous_after is not None or (self.is_ambiguous and found.is_damaged)
        return now

    def _take(self, found: Recovered) -> None:
        self.hard_state = found.hard_state
        self.base, self.base_term = (found.snapshot.index, found.snapshot.term) if found.snapshot else (0, 0)
        if found.lost_snapshot is not None and found.lost_snapshot.needed > self.base:
            self.base, self.base_term = found.lost_snapshot.needed, 0
        terms = [0] * (found.last_index - found.first_index + 1)
        for run in found.runs:
            for index in range(max(run.first, found.first_index), found.last_index + 1):
                terms[index - found.first_index] = run.term
        self.terms = terms[max(0, self.base + 1 - found.first_index) :]
