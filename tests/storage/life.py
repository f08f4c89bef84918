"""The whole life of a storage as a script, and what it was promised at each step.

Every operation that changes a file occurs in it. It has a fresh directory, terms and votes, members, appends, new
segments, and entries that are superseded. It has snapshots, compaction, and a snapshot that replaces the log. It has a
torn end, damage that is repaired, a cut, a scrub, closing and opening. `Promises` is what must be found again, wherever
the script breaks off.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

from disheap.interfaces import KnownPeers, Recovered
from disheap.kernel.types import Entry, HardState, Index, NodeId, Term
from disheap.testing.crashing_disk import CrashingDisk
from disheap_filelog.storage import FileStorage
from tests.storage.parts import DIRECTORY, IDENTITY, build, entries, meta, read_log, read_snapshot

Step = Callable[[], None]


class Promises:
    """What was acknowledged, and what was only asked for: that may be there or not."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.asked: dict[int, list[Entry]] = {}
        self.snapshot = 0
        self.snapshots: dict[int, bytes] = {}  # that were asked for
        self.hard_states = [HardState(Term(0), NodeId(0))]  # the one acknowledged, and what was asked for since
        self.met = [KnownPeers(False, ())]

    def copy(self) -> Promises:
        return copy.deepcopy(self)

    def append(self, batch: list[Entry]) -> None:
        """Asked for: what it supersedes may be gone."""
        self.void_from(batch[0].index)
        for entry in batch:
            self.asked.setdefault(entry.index, []).append(entry)

    def appended(self, batch: list[Entry]) -> None:
        self.entries |= {entry.index: entry for entry in batch}

    def void_from(self, index: int) -> None:
        self.entries = {at: entry for at, entry in self.entries.items() if at < index}

    def needed(self, snapshot: int) -> list[Entry]:
        return [entry for index, entry in sorted(self.entries.items()) if index > snapshot]

    def check(self, storage: FileStorage, found: Recovered) -> None:
        """That a directory which was opened holds them, and nothing that nobody asked for. What it was found to hold is
        promised from now on: a node that has been told so has built on it."""
        assert found.hard_state in self.hard_states, f"{found.hard_state}, of {self.hard_states}"
        assert storage.known_peers() in self.met, f"{storage.known_peers()}, of {self.met}"
        self.hard_states, self.met = [found.hard_state], [storage.known_peers()]
        snapshot = found.snapshot.index if found.snapshot else 0
        assert snapshot >= self.snapshot, f"the snapshot at {self.snapshot} is lost; there is {snapshot}"
        assert not snapshot or read_snapshot(storage) == self.snapshots[snapshot]
        assert found.first_index <= snapshot + 1
        log = {entry.index: entry for entry in read_log(storage, found.first_index, found.last_index)}
        assert list(log) == list(range(found.first_index, found.last_index + 1))
        for entry in self.needed(snapshot):
            assert log.get(entry.index) == entry, f"entry {entry.index} is lost or another"
        for entry in log.values():
            assert entry in self.asked[entry.index], f"entry {entry.index} was never written"
        self.snapshot, self.entries = snapshot, log


class Life:
    """`steps()` are to be called one after another; `storage` is the one of the present step."""

    def __init__(self, disk: CrashingDisk) -> None:
        self.disk = disk
        self.storage = build(disk)
        self.promises = Promises()

    def steps(self) -> Iterator[tuple[str, Step]]:
        yield "open a fresh directory", self._open
        yield "hard state", lambda: self._save(5)
        yield "members", lambda: self._meet(False, 77)
        yield "members, taking part", lambda: self._meet(True, 77, 88)
        yield "append", lambda: self._append(1, 3, 5)
        yield "flush", lambda: self.storage.flush()
        yield "allocate space", lambda: self.storage.preallocate()
        yield "append into it", lambda: self._append(4, 4, 5)
        yield "supersede", lambda: self._append(4, 4, 5, 20)
        for first in range(5, 17, 3):
            yield "append blocks", lambda first=first: self._append(first, first + 2, 5, 9000)
        yield "snapshot", lambda: self._snapshot(7, 300_000)
        yield "compact", lambda: self._compact(8)
        yield "hard state", lambda: self._save(6)
        yield "supersede", lambda: self._append(14, 17, 6, 9000)
        yield "snapshot", lambda: self._snapshot(10, 5000)
        yield "snapshot", lambda: self._snapshot(12, 5000)
        yield "compact", lambda: self._compact(12)
        yield "aborted snapshot", self._abort
        yield "close", lambda: self.storage.close()
        yield "open", self._open
        for first in range(18, 27, 3):
            yield "append blocks", lambda first=first: self._append(first, first + 2, 6, 9000)
        yield "close", lambda: self.storage.close()
        yield "rot", lambda: self._rot(17)
        yield "open with damage", self._open_damaged
        yield "mend", self._mend
        yield "close", lambda: self.storage.close()
        yield "open what was mended", self._open
        yield "append", lambda: self._append(27, 29, 6)
        yield "cut", lambda: self._cut(28)
        yield "close", lambda: self.storage.close()
        yield "open what was cut", self._open
        yield "append", lambda: self._append(28, 29, 6)
        yield "close", lambda: self.storage.close()
        yield "tear", self._tear
        yield "open ambiguous", self._open
        yield "end the ambiguity", lambda: self.storage.clear_ambiguity()
        yield "install", lambda: self._install(40)
        yield "append", lambda: self._append(41, 43, 6)
        yield "snapshot", lambda: self._snapshot(42, 3000)
        yield "older snapshot rots", lambda: self._spoil("snapshot-" + f"{40:020d}", 90)
        yield "scrub", self._scrub
        yield "usage", lambda: self.storage.usage() and None
        yield "close", lambda: self.storage.close()
        yield "open", self._open
        yield "close", lambda: self.storage.close()

    def _open(self) -> None:
        self.storage = build(self.disk)
        self.promises.check(self.storage, self.storage.open(IDENTITY, 1 << 20, alone=False))

    def _save(self, term: int) -> None:
        state = HardState(Term(term), NodeId(1))
        self.promises.hard_states.append(state)
        self.storage.save_hard_state(state)
        self.promises.hard_states = [state]

    def _meet(self, takes_part: bool, *incarnations: int) -> None:
        state = KnownPeers(takes_part, tuple(enumerate(incarnations, 2)))
        self.promises.met.append(state)
        self.storage.save_known_peers(state)
        self.promises.met = [state]

    def _append(self, first: int, last: int, term: int, size: int = 30) -> None:
        batch = entries(first, last, term, size)
        self.promises.append(batch)
        self.storage.append(batch)
        self.promises.appended(batch)

    def _snapshot(self, index: int, size: int, replaces_log: bool = False) -> None:
        data = self.promises.snapshots[index] = bytes([index]) * size
        writer = self.storage.begin_snapshot(meta(index, self._term_at(index)), replaces_log)
        writer.write(data)
        writer.commit()
        self.promises.snapshot = index

    def _term_at(self, index: int) -> int:
        entry = self.promises.entries.get(index)
        return entry.term if entry else 6

    def _compact(self, first: int) -> None:
        self.storage.compact(Index(first))

    def _abort(self) -> None:
        writer = self.storage.begin_snapshot(meta(13), False)
        writer.write(bytes(300_000))
        writer.abort()

    def _install(self, index: int) -> None:
        self._snapshot(index, 3000, replaces_log=True)
        self.promises.entries = {}

    def _cut(self, first: int) -> None:
        self.promises.void_from(first)
        self.storage.cut(Index(first))

    def _scrub(self) -> None:
        cursor = self.storage.scrub((), 10_000).cursor
        while cursor:
            cursor = self.storage.scrub(cursor, 10_000).cursor

    # --- what happens to the files meanwhile ---

    def _names(self) -> list[str]:
        return sorted(path.removeprefix(f"{DIRECTORY}/") for path in self.disk.now)

    def _rot(self, index: int) -> None:
        """In the payload of the block that holds the entry, which is no longer in the last file."""
        mark = f"{self.promises.entries[index].term}/{index}:".encode()
        names = [name for name in self._names() if name.startswith("log-")]
        place = max((self.disk.now[f"{DIRECTORY}/{name}"].now.rfind(mark), name) for name in names)
        self._spoil(place[1], place[0])

    def _spoil(self, name: str, place: int) -> None:
        name = next(found for found in self._names() if found.startswith(name))
        for content in (self.disk.now[f"{DIRECTORY}/{name}"].now, self.disk.now[f"{DIRECTORY}/{name}"].durable):
            content[place] ^= 1

    def _tear(self) -> None:
        """What a power cut leaves of an append."""
        name = next(name for name in reversed(self._names()) if name.startswith("log-"))
        inode = self.disk.now[f"{DIRECTORY}/{name}"]
        inode.now += b"DHB1" + bytes(500)
        inode.durable += b"DHB1" + bytes(500)

    def _open_damaged(self) -> None:
        self.storage = build(self.disk)
        assert self.storage.open(IDENTITY, 1 << 20, alone=False).damaged

    def _mend(self) -> None:
        mend(self.storage, self.promises)


def mend(storage: FileStorage, promises: Promises) -> None:
    """As other nodes would: they have every entry that was acknowledged."""
    for place in storage.holding().damaged:
        storage.mend([promises.entries[index] for index in range(place.first, place.last + 1)])


def reopened(disk: CrashingDisk, promises: Promises) -> FileStorage:
    """Opened, with everything that was promised; what of it the script spoilt comes from other nodes, and what nobody
    was told of is dropped."""
    storage = build(disk)
    found = storage.open(IDENTITY, 1 << 20, alone=False)
    for _ in range(2):
        if not found.damaged:
            break
        if all(index in promises.entries for place in found.damaged for index in range(place.first, place.last + 1)):
            mend(storage, promises)
        else:
            first = min(place.first for place in found.damaged)
            assert not promises.needed(first - 1), "what is acknowledged is damaged, and nobody spoilt it"
            storage.cut(first)
        storage.close()
        storage = build(disk)
        found = storage.open(IDENTITY, 1 << 20, alone=False)
    promises.check(storage, found)
    return storage
