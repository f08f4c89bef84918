"""Power goes at any moment, and whatever `FileStorage` acknowledged is there afterwards, and nothing that nobody wrote.

Each seed is a life of several runs: random calls, the power cut at a random change of the disk (also while opening), a
disk that holds any legal part of what was not synced. The model knows what was acknowledged and what was under way.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from disheap.interfaces import Recovered
from disheap.kernel.types import Entry, EntryKind, HardState, Index, NodeId, SnapshotMeta, Term
from disheap_filelog.storage import FileStorage
from tests.storage.crashing_disk import CrashingDisk, PowerCut
from tests.storage.parts import IDENTITY, build, entry, meta, read_log, read_snapshot

LIVES = 320
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
        return max([*self.log, self.snapshot.index if self.snapshot else 0])

    def without(self, index: int) -> Model:
        return replace(self, log={held: item for held, item in self.log.items() if held != index})

    def appended(self, new: list[Entry]) -> Model:
        log = {index: old for index, old in self.log.items() if index < new[0].index}
        return replace(self, log=log | {item.index: item for item in new})


class Life:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.disk = CrashingDisk()
        self.model = Model()  # acknowledged
        self.under_way: list[Model] = []  # what a call that did not return may have made of it
        self.committed = 0  # entries up to here are never superseded
        self.fresh = True
        self.doubt = False  # whether `ambiguous_after` must be reported

    def run(self) -> None:
        self.disk.cut_after = self.random.choice((-1, self.random.randint(1, 12), self.random.randint(1, 150)))
        storage = build(self.disk, seed=self.random.getrandbits(30))
        try:
            recovered = storage.open(IDENTITY, 3000, alone=False)
            if recovered.damaged:
                storage, recovered = self.drop(storage, recovered)
            self.check(storage, recovered)
            self.fresh = False
            for _ in range(self.random.randint(1, 40)):
                self.act(storage)
            if self.random.random() < 0.5:
                storage.close()
        except PowerCut:
            pass
        self.disk = self.disk.after_power_cut(self.random)

    def drop(self, storage: FileStorage, recovered: Recovered) -> tuple[FileStorage, Recovered]:
        """A torn append whose header is whole: nobody else has it, so the node is told to do without."""
        assert self.under_way, "what was acknowledged is damaged"
        assert recovered.lost_snapshot is None
        first = recovered.damaged[0].first
        self.under_way.append(self.model.appended([entry(first)]).without(first))
        storage.cut(first)
        storage.close()
        storage = build(self.disk, seed=self.random.getrandbits(30))
        return storage, storage.open(IDENTITY, 3000, alone=False)

    def act(self, storage: FileStorage) -> None:
        kind = self.random.choices(
            (self.append, self.vote, self.snapshot, self.install, self.compact, self.flush), (60, 6, 6, 1, 4, 6)
        )[0]
        kind(storage)
        self.under_way = []

    def append(self, storage: FileStorage) -> None:
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

    def vote(self, storage: FileStorage) -> None:
        state = HardState(
            Term(self.model.hard_state.term + self.random.randint(0, 1)), NodeId(self.random.randint(0, 3))
        )
        self.under_way = [replace(self.model, hard_state=state)]
        storage.save_hard_state(state)
        self.model = self.under_way[0]

    def snapshot(self, storage: FileStorage) -> None:
        base = self.model.snapshot.index if self.model.snapshot else 0
        if self.committed <= base:
            return
        index = self.random.randint(base + 1, self.committed)
        taken = meta(index, self.model.log[index].term)
        self.write(storage, taken, replace(self.model, snapshot=taken, state=self.some_state()), replaces_log=False)

    def install(self, storage: FileStorage) -> None:
        index = self.model.last + self.random.randint(-1, 5)
        if index > self.committed:
            taken = meta(index, self.model.hard_state.term)
            new = Model(self.model.hard_state, {}, taken, self.some_state())
            self.write(storage, taken, new, replaces_log=True)
            self.committed = max(self.committed, self.model.snapshot.index if self.model.snapshot else 0)

    def write(self, storage: FileStorage, taken: SnapshotMeta, new: Model, replaces_log: bool) -> None:
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

    def compact(self, storage: FileStorage) -> None:
        base = self.model.snapshot.index if self.model.snapshot else 0
        if base:
            storage.compact(Index(self.random.randint(1, base + 1)))

    def flush(self, storage: FileStorage) -> None:
        storage.flush()
        if self.doubt and self.random.random() < 0.5:
            storage.clear_ambiguity()
            self.doubt = False

    def some_state(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 10, 6000)))

    def check(self, storage: FileStorage, recovered: Recovered) -> None:
        model = self.match(storage, recovered)
        snapshot_index = model.snapshot.index if model.snapshot else 0
        assert recovered.first_index <= snapshot_index + 1
        expected = [model.log[index] for index in range(recovered.first_index, recovered.last_index + 1)]
        assert recovered.tail == tuple(expected[len(expected) - len(recovered.tail) :])
        assert recovered.memberships == tuple(
            (item.index, item.data) for item in expected if item.kind == 3 and item.index > snapshot_index
        )
        assert [run.term for run in recovered.runs] == list(dict.fromkeys(item.term for item in expected))
        if self.doubt:
            assert recovered.ambiguous_after is not None, "a second crash hid the doubt that the first one left"
        self.doubt = recovered.ambiguous_after is not None
        self.model, self.under_way = model, []
        self.committed = max(self.committed, snapshot_index)
        assert self.committed <= model.last

    def match(self, storage: FileStorage, recovered: Recovered) -> Model:
        """The one that was acknowledged, or one that was under way. A log that a snapshot has overtaken is void."""
        log = {item.index: item for item in read_log(storage, recovered.first_index, recovered.last_index)}
        state = read_snapshot(storage)
        for model in [self.model, *self.under_way]:
            held = {index: item for index, item in model.log.items() if index >= recovered.first_index}
            if (recovered.hard_state, recovered.snapshot, state, log) == (
                model.hard_state, model.snapshot, model.state, held,
            ):  # fmt: skip
                return model
        found = (recovered.hard_state, recovered.snapshot and recovered.snapshot.index, recovered.first_index, len(log))
        raise AssertionError(f"{found} is neither what was acknowledged nor what was under way")


@pytest.mark.parametrize("block", range(8))
def test_what_was_acknowledged_survives_and_nothing_is_invented(block: int) -> None:
    for seed in range(block * LIVES // 8, (block + 1) * LIVES // 8):
        life = Life(seed)
        try:
            for _ in range(RUNS):
                life.run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
