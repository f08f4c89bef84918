"""The snapshots of a directory: which one counts, and how many are kept.

Two generations are kept: a follower may still fetch the older one, and the newer may rot. An older snapshot, or the
empty state, may replace a damaged one. That needs a log that holds every entry from it up to the damaged one. Otherwise
acknowledged entries would be gone, and the node reports that instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from disheap.errors import SnapshotDamaged
from disheap.interfaces import Codec
from disheap.kernel.types import Index, SnapshotMeta, Term
from disheap.logs import get_logger
from disheap_filelog.filesystem import Filesystem
from disheap_filelog.guard import Guard
from disheap_filelog.segments.index import LogIndex
from disheap_filelog.snapshots import snapshot
from disheap_filelog.snapshots.snapshot import FileSnapshotReader, Stored

GENERATIONS = 2

_log = get_logger(__name__)


class DamagedSnapshot(NamedTuple):
    """A snapshot that cannot be read, and why."""

    name: str
    at: Index
    term: int
    error: SnapshotDamaged


class SnapshotFiles:
    """The snapshots of a directory: which count, which are read, and which go."""

    def __init__(
        self, filesystem: Filesystem, guard: Guard, directory: str, codec: Codec, codec_name: str, names: Sequence[str]
    ) -> None:
        self._filesystem, self._guard, self._directory = filesystem, guard, directory
        self._codec, self._codec_name = codec, codec_name
        self._sizes = {name: self._size(name) for name in names if snapshot.parse_name(name)}  # in order of index
        self._loaded: dict[str, Stored] = {}
        self.newest: Stored | None = None
        self._bad: list[DamagedSnapshot] = []
        self._choose()

    @property
    def index(self) -> int:
        """The last entry that the newest snapshot replaces; 0 without a snapshot."""
        return self.newest.meta.index if self.newest else 0

    @property
    def meta(self) -> SnapshotMeta | None:
        """The meta of the newest snapshot, or None."""
        return self.newest.meta if self.newest else None

    @property
    def oldest_segment(self) -> int:
        """The number of the oldest segment that counts behind the newest snapshot. 0: all do."""
        return self.newest.oldest_segment if self.newest else 0

    def uncovered(self, index: LogIndex) -> DamagedSnapshot | None:
        """Returns a damaged snapshot that cannot be restored from the one before it (or the empty state) and the log.
        None if there is none."""
        for bad in self._bad:
            if index.first > self.index + 1 or index.term_at(bad.at) != bad.term:
                return bad
            _log.warning(
                "a snapshot is damaged; the log and what is before it hold the same",
                file=f"{self._directory}/{bad.name}",
            )
        return None

    def add(self, stored: Stored) -> None:
        """A new snapshot is durable. Damaged ones go, and those beyond two generations. The older one goes too if it is
        larger than the free space, because no other of its size could be written."""
        name = snapshot.file_name(stored.meta)
        self._loaded[name] = stored
        if stored.meta.index >= self.index:  # one that was begun before a leader's was taken in may end behind it
            self.newest = stored
        self._sizes = dict(sorted({**self._sizes, name: stored.file_bytes}.items()))
        bad = [item.name for item in self._bad if item.name != name]
        good = [held for held in self._sizes if held not in bad]
        generations = GENERATIONS
        if len(good) > 1 and self._sizes[good[-GENERATIONS]] > self._filesystem.free_bytes(self._directory):
            generations = 1
        surplus = [*bad, *good[:-generations]]
        self._bad = []
        for old in surplus:
            self._filesystem.remove(f"{self._directory}/{old}")
            del self._sizes[old]
            self._loaded.pop(old, None)
        if surplus:
            self._filesystem.sync_directory(self._directory)

    def open(self, index: Index | None) -> FileSnapshotReader | None:
        """A reader of the snapshot at `index`, or of the newest. None if there is none."""
        if index is None:
            index = Index(self.index)
        for name in reversed(self._sizes):
            if (snapshot.parse_name(name) or (0, 0))[0] == index:
                return FileSnapshotReader(self._filesystem, self._guard, self._codec, self._load(name))
        return None

    def held(self) -> list[int]:
        """The indexes of the snapshots that are not known to be damaged."""
        bad = [item.name for item in self._bad]
        return [(snapshot.parse_name(name) or (0, 0))[0] for name in self._sizes if name not in bad]

    def stored(self) -> tuple[tuple[Index, Term], ...]:
        """(index, term) of all snapshots, the oldest first, those that are damaged included."""
        found = [snapshot.parse_name(name) or (0, 0) for name in self._sizes]
        return tuple((Index(index), Term(term)) for index, term in found)

    def check(self, index: int, position: int, max_bytes: int) -> tuple[int, int]:
        """Checks up to `max_bytes` from a position. Returns the next position (0 at the end) and the bytes read. Raises
        `SnapshotDamaged`."""
        return snapshot.check(self._filesystem, f"{self._directory}/{self._name_of(index)}", position, max_bytes)

    def drop(self, index: Index) -> None:
        """Deletes a snapshot that is not the newest."""
        name = self._name_of(index)
        self._filesystem.remove(f"{self._directory}/{name}")
        del self._sizes[name]
        self._loaded.pop(name, None)
        self._filesystem.sync_directory(self._directory)

    def _name_of(self, index: int) -> str:
        return next(name for name in self._sizes if (snapshot.parse_name(name) or (0, 0))[0] == index)

    @property
    def names(self) -> list[str]:
        """The names of the files."""
        return list(self._sizes)

    def usage(self) -> int:
        """The size of all snapshots in bytes."""
        return sum(self._sizes.values())

    def _choose(self) -> None:
        for name in reversed(self._sizes):
            try:
                self.newest = self._load(name)
                return
            except SnapshotDamaged as error:
                index, term = snapshot.parse_name(name) or (0, 0)
                self._bad.append(DamagedSnapshot(name, Index(index), term, error))

    def _load(self, name: str) -> Stored:
        if name not in self._loaded:
            self._loaded[name] = snapshot.load(self._filesystem, self._directory, name, self._codec_name)
        return self._loaded[name]

    def _size(self, name: str) -> int:
        file = self._filesystem.open(f"{self._directory}/{name}")
        try:
            return file.size()
        finally:
            file.close()
