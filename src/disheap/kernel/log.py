"""The replicated log, as far as the kernel keeps it (Raft §5.3, §7).

Owns a tail of entries of at most `log_cache_bytes` of memory, and the marks on the log. Owns a run-length table of the
terms of all that storage holds. Never reads or writes storage: a `Fetch` asks for what is not in the tail. In order:

    snapshot.index, first_index - 1 <= applied <= handed <= commit;  stable <= written <= last_index

`written` is what some `Write` carried and `stable` what is durable. A truncation moves both back, so a confirmation
that comes late for a `Write` with overwritten entries counts only what was not overwritten.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from disheap.kernel.types import Entry, Index, Restored, SnapshotMeta, Term, TermRun

ENTRY_OVERHEAD_BYTES = 64
"""What an entry without data costs on the wire, roughly."""
ENTRY_MEMORY_BYTES = 245
"""What an entry without data costs in memory: a tuple, three numbers, the header of its data, an entry in a dict."""


def size_of(entry: Entry) -> int:
    """On the wire, in bytes."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


def memory_of(entry: Entry) -> int:
    """In the tail, in bytes."""
    return len(entry.data) + ENTRY_MEMORY_BYTES


def within(entries: tuple[Entry, ...], max_bytes: int, last: Index) -> tuple[Entry, ...]:
    """As many as fit, one at least, none behind `last`. Storage counts data alone, and may have given more."""
    size = 0
    for position, entry in enumerate(entries):
        size += size_of(entry)
        if position and (size > max_bytes or entry.index > last):
            return entries[:position]
    return entries


class Log:
    """The tail of the log in memory, the terms of the whole log, and its marks."""

    def __init__(self, restored: Restored, cache_bytes: int) -> None:
        self._cache_limit = cache_bytes
        self.reset(restored.snapshot)
        if _continues(restored):
            self._restore(restored)

    # --- marks -------------------------------------------------------------------------------------------------------

    def reset(self, snapshot: SnapshotMeta) -> None:
        """The snapshot stands for everything; the log behind it is gone, whatever it held (§7)."""
        self.snapshot = snapshot
        self.first_index = Index(snapshot.index + 1)
        self.last_index = self.stable = self.written = snapshot.index
        self.commit = self.handed = self.applied = snapshot.index
        self.last_time_ms = snapshot.time_ms
        self._runs = [TermRun(snapshot.index, snapshot.term)]
        self._cache: dict[int, Entry] = {}
        self._cache_first = self.first_index
        self._cache_bytes = 0

    def commit_to(self, index: int) -> bool:
        """Move the commit index forward, never back; whether it moved."""
        if index <= self.commit:
            return False
        assert index <= self.last_index, "committed beyond the end of the log"
        self.commit = Index(index)
        return True

    def persisted(self) -> None:
        """The one `Write` in flight is durable: all that it carried and that was not overwritten since."""
        self.stable = self.written
        if self._cache_bytes > self._cache_limit:
            self._evict()

    def snapshot_taken(self, snapshot: SnapshotMeta, first_index: Index) -> None:
        """Storage has a snapshot of ours and holds the log from `first_index` on."""
        assert first_index <= snapshot.index + 1 and snapshot.index <= self.applied, "snapshot of what is not applied"
        if snapshot.index > self.snapshot.index:
            self.snapshot = snapshot
        if first_index > self.first_index:
            self._compact(first_index)

    # --- terms -------------------------------------------------------------------------------------------------------

    @property
    def last_term(self) -> Term:
        """The term of the last entry, or of the snapshot if the log is empty."""
        return self._runs[-1].term

    def term_at(self, index: int) -> Term | None:
        """The term of the entry at `index`; None if the log does not reach that index, or does so no longer."""
        runs = self._runs
        if index > self.last_index or index < runs[0].first:
            return None
        if index >= runs[-1].first:
            return runs[-1].term
        return runs[bisect_right(runs, Index(index), key=_first_of) - 1].term

    @property
    def runs(self) -> tuple[TermRun, ...]:
        """The terms of the entries that storage holds or will hold, `first_index` to `last_index`."""
        later = [run for run in self._runs if self.first_index < run.first <= self.last_index]
        term = self.term_at(self.first_index)
        return () if term is None else (TermRun(self.first_index, term), *later)

    def backtrack(self, index: int, term: Term) -> tuple[Index, Term]:
        """The last place at or before `index` whose term is not over `term`: where two logs may agree (§5.3). Term 0
        when that lies before everything known here."""
        end = min(index, self.last_index)
        for run in reversed(self._runs):
            if run.first <= end and run.term <= term:
                return Index(end), run.term
            end = min(end, run.first - 1)
        return Index(max(end, 0)), Term(0)

    def is_not_ahead_of(self, last_index: Index, last_term: Term) -> bool:
        """Whether a log that ends so is at least as up to date as this one (§5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    # --- entries -----------------------------------------------------------------------------------------------------

    def new_in(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Those that are missing or conflict, with all that follow. What is there already is not touched: a delayed
        message must not cut off what came after it (§5.3)."""
        for position, entry in enumerate(entries):
            if entry.index > self.last_index or self.term_at(entry.index) != entry.term:
                return entries[position:]
        return ()

    def append(self, entries: Sequence[Entry]) -> None:
        """Add at the end; entries that begin at or before the end supersede what is there."""
        if entries[0].index <= self.last_index:
            self._truncate(entries[0].index)
        for entry in entries:
            if entry.term != self._runs[-1].term:
                self._runs.append(TermRun(entry.index, entry.term))
            self._cache[entry.index] = entry
            self._cache_bytes += memory_of(entry)
        self.last_index = entries[-1].index
        self.last_time_ms = entries[-1].time_ms
        if self._cache_bytes > self._cache_limit:
            self._evict()

    def unwritten(self) -> tuple[Entry, ...]:
        """What no `Write` has carried yet; it is written from now on."""
        first, self.written = self.written + 1, self.last_index
        if first == self.last_index:
            return (self._cache[first],)
        return tuple(self._cache[index] for index in range(first, self.last_index + 1))

    def is_cached(self, index: int) -> bool:
        """Whether the entry at `index` is in memory."""
        return index >= self._cache_first

    @property
    def cache_bytes(self) -> int:
        """How much memory the tail of the log takes."""
        return self._cache_bytes

    @property
    def cache_first(self) -> Index:
        """The index of the first entry that is in memory."""
        return self._cache_first

    def cached(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `first` on that are in memory, as many as fit, one at least."""
        if first == last == self.last_index:
            return (self._cache[first],)
        found: list[Entry] = []
        for index in range(first, min(last, self.last_index) + 1):
            entry = self._cache[index]
            max_bytes -= size_of(entry)
            if found and max_bytes < 0:
                break
            found.append(entry)
        return tuple(found)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _restore(self, restored: Restored) -> None:
        snapshot = restored.snapshot
        self.first_index = restored.first_index
        self.last_index = self.stable = self.written = restored.last_index
        self._runs = _known_runs(restored)
        self._cache_first = Index(restored.last_index + 1)
        for entry in restored.tail:
            self._cache[entry.index] = entry
            self._cache_bytes += memory_of(entry)
        if restored.tail:
            self._cache_first = restored.tail[0].index
            self.last_time_ms = restored.tail[-1].time_ms
        applied = Index(min(max(restored.applied, snapshot.index), restored.last_index))
        self.commit = self.handed = self.applied = applied
        self._evict()  # storage counted data alone

    def _truncate(self, index: Index) -> None:
        assert index > self.commit, "a committed entry is never overwritten"
        for gone in range(max(index, self._cache_first), self.last_index + 1):
            self._cache_bytes -= memory_of(self._cache.pop(gone))
        self._cache_first = min(self._cache_first, index)
        while self._runs[-1].first >= index:
            self._runs.pop()
        self.last_index = Index(index - 1)
        self.written = min(self.written, self.last_index)
        self.stable = min(self.stable, self.last_index)

    def _evict(self) -> None:
        """Keep the tail within its bound; what is not durable, and the last entry, stay."""
        while self._cache_bytes > self._cache_limit and self._cache_first <= min(self.stable, self.last_index - 1):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._cache_bytes -= memory_of(self._cache.pop(self._cache_first))
        self._cache_first = Index(self._cache_first + 1)

    def _compact(self, first_index: Index) -> None:
        before = Index(first_index - 1)
        term = self.term_at(before)
        assert term is not None, "compaction beyond the end of the log"
        later = [run for run in self._runs if run.first > before]
        self._runs = [TermRun(before, term), *later]
        self.first_index = first_index
        while self._cache_first < first_index:
            self._drop_oldest()


def _first_of(run: TermRun) -> Index:
    return run.first


def _known_runs(restored: Restored) -> list[TermRun]:
    """The table of storage, begun one entry earlier if that entry's term is known. A peer that holds exactly that much
    can then be sent entries and needs no snapshot."""
    before, snapshot = Index(restored.first_index - 1), restored.snapshot
    if before == snapshot.index:
        return _joined([TermRun(before, snapshot.term), *restored.runs])
    if before == 0:
        return _joined([TermRun(before, Term(0)), *restored.runs])
    return list(restored.runs)


def _joined(runs: Iterable[TermRun]) -> list[TermRun]:
    joined: list[TermRun] = []
    for run in runs:
        if not joined or joined[-1].term != run.term:
            joined.append(run)
    return joined


def _continues(restored: Restored) -> bool:
    """Whether the stored log goes on from the snapshot. One that ends before it, or disagrees with it, was left behind
    by a crash while a snapshot was being installed, and means nothing."""
    snapshot = restored.snapshot
    if restored.last_index < snapshot.index or restored.first_index > snapshot.index + 1:
        return False
    if restored.first_index == snapshot.index + 1:
        return True
    runs = restored.runs
    return runs[bisect_right(runs, snapshot.index, key=_first_of) - 1].term == snapshot.term
