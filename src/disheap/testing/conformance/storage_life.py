"""Lives of a storage on a disk that loses power: random calls, a cut at a random change, and what must be found again.

A life has several runs. Each ends in a power cut, also while the storage is being opened, and leaves any legal part of
what was not synced. `Model` is what the storage was acknowledged to hold. A call that did not return may have been
carried out, and one with several parts in part. Whatever is found has to be one of these.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from disheap.interfaces import Preallocating, Recovered, Repairable, Storage
from disheap.kernel.types import Entry, EntryKind, HardState, Index, NodeId, SnapshotMeta, Term
from disheap.testing.conformance.storage_parts import IDENTITY, entry, meta, read_log, read_snapshot
from disheap.testing.crashing_disk import CrashingDisk, PowerCut

Build = Callable[[CrashingDisk, int], Storage]
"""A storage on that disk, and a seed for its generator."""

TAIL_BYTES = 3000
RUNS = 6


@dataclass(frozen=True)
class Model:
    """What a storage holds; `log` by index, from `snapshot.index` + 1 at the latest."""

    hard_state: HardState = HardState(Term(0), NodeId(0))
    log: dict[int, Entry] = field(default_factory=dict)
    snapshot: SnapshotMeta | None = None
    state: bytes | None = None

    @property
    def last(self) -> int:
        """The index of the last entry, or of the snapshot if the log ends before it."""
        return max([*self.log, self.snapshot.index if self.snapshot else 0])

    def without(self, index: int) -> Model:
        """A copy of the model without the entry at `index`."""
        return replace(self, log={held: item for held, item in self.log.items() if held != index})

    def appended(self, new: list[Entry]) -> Model:
        """A copy of the model after `new` was appended. Entries from the first new index on are superseded."""
        log = {index: old for index, old in self.log.items() if index < new[0].index}
        return replace(self, log=log | {item.index: item for item in new})


class Life:
    """One life of a storage: several runs on one disk, each ended by a power cut. The seed decides everything."""

    def __init__(self, seed: int, build: Build) -> None:
        self.random = random.Random(seed)
        self.disk = CrashingDisk()
        self.model = Model()  # acknowledged
        self.under_way: list[Model] = []  # what a call that did not return may have made of it
        self.committed = 0  # entries up to here are never superseded
        self.ambiguity = False  # whether `ambiguous_after` must be reported
        self._build = build

    def live(self) -> None:
        """Runs the whole life. Raises `AssertionError` if a run finds what nobody wrote, or misses what was
        acknowledged."""
        for _ in range(RUNS):
            self._run()

    def _run(self) -> None:
        self.disk.cut_after = self.random.choice((-1, self.random.randint(1, 12), self.random.randint(1, 150)))
        storage = self._build(self.disk, self.random.getrandbits(30))
        try:
            recovered = storage.open(IDENTITY, TAIL_BYTES, alone=False)
            if recovered.damaged:
                storage, recovered = self._drop(storage, recovered)
            self._check(storage, recovered)
            for _ in range(self.random.randint(1, 40)):
                self._act(storage)
            if self.random.random() < 0.5:
                storage.close()
        except PowerCut:
            pass
        self.disk = self.disk.after_power_cut(self.random)

    def _drop(self, storage: Storage, recovered: Recovered) -> tuple[Storage, Recovered]:
        """A torn append whose header is whole: nobody else has it, so the node is told to do without."""
        assert self.under_way, "what was acknowledged is damaged"
        assert recovered.lost_snapshot is None
        assert isinstance(storage, Repairable), "damage is told by a storage that cannot be repaired"
        first = recovered.damaged[0].first
        self.under_way.append(self.model.appended([entry(first)]).without(first))
        storage.cut(first)
        storage.close()
        storage = self._build(self.disk, self.random.getrandbits(30))
        return storage, storage.open(IDENTITY, TAIL_BYTES, alone=False)

    # --- calls ---

    def _act(self, storage: Storage) -> None:
        calls = (self._append, self._vote, self._snapshot, self._install, self._compact, self._flush)
        self.random.choices(calls, (60, 6, 6, 1, 4, 6))[0](storage)
        self.under_way = []

    def _append(self, storage: Storage) -> None:
        first = self.model.last + 1
        if self.random.random() < 0.15:
            first = self.random.randint(min(self.committed + 1, first), first)
        count = self.random.choice((1, 1, 2, 5, 40))
        size, term = self.random.choice((0, 30, 700, 3000)), self.model.hard_state.term
        kinds = (EntryKind.COMMANDS, EntryKind.COMMANDS, EntryKind.MEMBERSHIP)
        new = [entry(i, term, size, self.random.choice(kinds)) for i in range(first, first + count)]
        self.under_way = [self.model.appended(new[:end]) for end in range(1, count + 1)]
        storage.append(new)
        self.model = self.under_way[-1]
        if self.random.random() < 0.5:
            self.committed = self.random.randint(self.committed, self.model.last)

    def _vote(self, storage: Storage) -> None:
        term = Term(self.model.hard_state.term + self.random.randint(0, 1))
        state = HardState(term, NodeId(self.random.randint(0, 3)))
        self.under_way = [replace(self.model, hard_state=state)]
        storage.save_hard_state(state)
        self.model = self.under_way[0]

    def _snapshot(self, storage: Storage) -> None:
        base = self.model.snapshot.index if self.model.snapshot else 0
        if self.committed <= base:
            return
        index = self.random.randint(base + 1, self.committed)
        taken = meta(index, self.model.log[index].term)
        self._write(storage, taken, replace(self.model, snapshot=taken, state=self._some_state()), replaces_log=False)

    def _install(self, storage: Storage) -> None:
        index = self.model.last + self.random.randint(-1, 5)
        if index > self.committed:
            taken = meta(index, self.model.hard_state.term)
            new = Model(self.model.hard_state, {}, taken, self._some_state())
            self._write(storage, taken, new, replaces_log=True)
            self.committed = max(self.committed, self.model.snapshot.index if self.model.snapshot else 0)

    def _write(self, storage: Storage, taken: SnapshotMeta, new: Model, replaces_log: bool) -> None:
        self.under_way = [new]
        assert new.state is not None
        writer = storage.begin_snapshot(taken, replaces_log)
        writer.write(new.state[:5000])
        writer.write(new.state[5000:])
        if self.random.random() < 0.1:
            writer.abort()
        else:
            writer.commit()
            self.model = new

    def _compact(self, storage: Storage) -> None:
        base = self.model.snapshot.index if self.model.snapshot else 0
        if base:
            storage.compact(Index(self.random.randint(1, base + 1)))

    def _flush(self, storage: Storage) -> None:
        if isinstance(storage, Preallocating) and self.random.random() < 0.5:
            storage.preallocate()
        else:
            storage.flush()
        if self.ambiguity and self.random.random() < 0.5:
            self.ambiguity = False  # a power cut in the call may leave it, or not
            storage.clear_ambiguity()

    def _some_state(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 10, 6000)))

    # --- what is found ---

    def _check(self, storage: Storage, recovered: Recovered) -> None:
        model = self._match(storage, recovered)
        snapshot_index = model.snapshot.index if model.snapshot else 0
        assert recovered.first_index <= snapshot_index + 1
        expected = [model.log[index] for index in range(recovered.first_index, recovered.last_index + 1)]
        assert recovered.tail == tuple(expected[len(expected) - len(recovered.tail) :])
        assert recovered.memberships == tuple(
            (item.index, item.data)
            for item in expected
            if item.kind == EntryKind.MEMBERSHIP and item.index > snapshot_index
        )
        assert [run.term for run in recovered.runs] == list(dict.fromkeys(item.term for item in expected))
        if self.ambiguity:
            assert recovered.ambiguous_after is not None, "a second crash hid the ambiguity that the first one left"
        self.ambiguity = recovered.ambiguous_after is not None
        self.model, self.under_way = model, []
        self.committed = max(self.committed, snapshot_index)
        assert self.committed <= model.last

    def _match(self, storage: Storage, recovered: Recovered) -> Model:
        """The one that was acknowledged, or one that was under way. A log that a snapshot has overtaken is void."""
        log = {item.index: item for item in read_log(storage, recovered.first_index, recovered.last_index, 10_000)}
        state = read_snapshot(storage)
        for model in [self.model, *self.under_way]:
            held = {index: item for index, item in model.log.items() if index >= recovered.first_index}
            if (recovered.hard_state, recovered.snapshot, state, log) == (
                model.hard_state, model.snapshot, model.state, held,
            ):  # fmt: skip
                return model
        found = (recovered.hard_state, recovered.snapshot and recovered.snapshot.index, recovered.first_index, len(log))
        raise AssertionError(f"{found} is neither what was acknowledged nor what was under way")
