"""`FileStorage` and `MemoryStorage` against a model: hypothesis looks for calls that tell them apart."""

from __future__ import annotations

import random
from itertools import groupby
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from disheap.interfaces import Recovered, Storage, StorageContext
from disheap.kernel.types import Entry, EntryKind, HardState, Index, NodeId, SnapshotMeta, Term
from disheap.testing.crashing_disk import CrashingDisk
from disheap_memory.storage import MemorySettings, MemoryStorage
from tests.storage.parts import IDENTITY, StillClock, build, codec, entry, meta

KINDS = st.sampled_from([EntryKind.COMMANDS, EntryKind.COMMANDS, EntryKind.NOOP, EntryKind.MEMBERSHIP])
SIZES = st.sampled_from([0, 1, 50, 3000, 9000])
CODECS = st.sampled_from(["none", "zstd"])


class StorageMachine(RuleBasedStateMachine):
    """The model: a dict of entries, the hard state, the snapshots by index."""

    def __init__(self) -> None:
        super().__init__()
        self.hard_state = HardState(Term(0), NodeId(0))
        self.log: dict[int, Entry] = {}
        self.snapshots: dict[int, tuple[SnapshotMeta, bytes]] = {}
        self.committed = 0
        self.floor = 0  # entries up to here may have been compacted away

    def make(self) -> Storage:
        raise NotImplementedError

    @initialize(codec_name=CODECS)
    def start(self, codec_name: str) -> None:
        self.codec_name = codec_name
        self.storage = self.make()
        assert self.storage.open(IDENTITY, 0, alone=False).fresh

    @property
    def last(self) -> int:
        return max([*self.log, *self.snapshots, 0])

    @rule(back=st.integers(0, 6), count=st.integers(1, 12), size=SIZES, kind=KINDS)
    def append(self, back: int, count: int, size: int, kind: EntryKind) -> None:
        first = max(self.committed + 1, self.last + 1 - back)
        new = [entry(index, self.hard_state.term, size, kind) for index in range(first, first + count)]
        self.storage.append(new)
        self.log = {index: old for index, old in self.log.items() if index < first} | {item.index: item for item in new}

    @rule(step=st.integers(0, 1), vote=st.integers(0, 3))
    def vote(self, step: int, vote: int) -> None:
        self.hard_state = HardState(Term(self.hard_state.term + step), NodeId(vote))
        self.storage.save_hard_state(self.hard_state)

    @rule(step=st.integers(1, 20))
    def commit(self, step: int) -> None:
        self.committed = min(self.last, self.committed + step)

    @precondition(lambda self: self.committed > max(self.snapshots, default=0))
    @rule(size=st.sampled_from([0, 10, 300_000]), is_aborted=st.sampled_from([False, False, True]))
    def take_snapshot(self, size: int, is_aborted: bool) -> None:
        taken = meta(self.committed, self.log[self.committed].term)
        self.write(taken, bytes([self.committed % 256]) * size, False, is_aborted)

    @rule(ahead=st.integers(0, 5))
    def install_snapshot(self, ahead: int) -> None:
        index = self.committed + 1 + ahead
        self.write(meta(index, self.hard_state.term), b"from the leader", True, False)
        self.log, self.committed, self.floor = {}, index, index

    def write(self, taken: SnapshotMeta, state: bytes, replaces_log: bool, is_aborted: bool) -> None:
        writer = self.storage.begin_snapshot(taken, replaces_log)
        writer.write(state)
        if is_aborted:
            writer.abort()
            return
        writer.commit()
        self.snapshots[taken.index] = (taken, state)
        for index in sorted(self.snapshots)[:-2]:
            del self.snapshots[index]

    @precondition(lambda self: self.snapshots)
    @rule(back=st.integers(0, 10))
    def compact(self, back: int) -> None:
        first = max(1, max(self.snapshots) + 1 - back)
        self.floor = max(self.floor, first - 1)
        assert self.storage.compact(Index(first)) <= self.floor + 1

    @rule()
    def flush(self) -> None:
        self.storage.flush()

    @rule(tail_bytes=st.sampled_from([0, 5000, 1 << 20]))
    def reopen(self, tail_bytes: int) -> None:
        self.storage.close()
        self.storage = self.make()
        self.check_recovered(self.storage.open(IDENTITY, tail_bytes, alone=False), tail_bytes)

    def check_recovered(self, recovered: Recovered, tail_bytes: int) -> None:
        newest = max(self.snapshots, default=0)
        held = [self.log[index] for index in range(recovered.first_index, recovered.last_index + 1)]
        size = 0
        fitting = [item for item in reversed(held) if (size := size + len(item.data)) <= tail_bytes]
        assert recovered == Recovered(
            identity=IDENTITY,
            fresh=False,
            hard_state=self.hard_state,
            snapshot=self.snapshots[newest][0] if newest else None,
            first_index=recovered.first_index,
            last_index=Index(self.last),
            runs=tuple((next(run).index, term) for term, run in groupby(held, key=lambda item: item.term)),  # type: ignore[arg-type]
            memberships=tuple((item.index, item.data) for item in held if item.kind == 3 and item.index > newest),
            tail=tuple(reversed(fitting)),
            ambiguous_after=None,
        )
        assert recovered.first_index <= self.floor + 1

    @invariant()
    def everything_that_is_needed_can_be_read(self) -> None:
        if not hasattr(self, "storage"):
            return
        found: list[Entry] = []
        index = self.floor + 1
        while part := self.storage.read(Index(index), Index(self.last), 8000):
            found += part
            index = part[-1].index + 1
        assert found == [item for index, item in sorted(self.log.items()) if index > self.floor]
        reader = self.storage.open_snapshot()
        assert (reader is None) == (not self.snapshots)
        if reader is not None:
            taken, state = self.snapshots[max(self.snapshots)]
            assert (reader.meta, reader.read(0, 1 << 20)) == (taken, state)
            reader.close()

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            self.storage.close()


class FileMachine(StorageMachine):
    def __init__(self) -> None:
        super().__init__()
        self.disk = CrashingDisk()
        self.seeds = random.Random(1)

    def make(self) -> Storage:
        return build(self.disk, codec_name=self.codec_name, seed=self.seeds.getrandbits(30))

    @rule()
    def kill(self) -> None:
        """Without closing: a process that is killed leaves what it wrote."""
        self.disk = self.disk.copy()
        self.storage = self.make()
        self.check_recovered(self.storage.open(IDENTITY, 5000, alone=False), 5000)


class MemoryMachine(StorageMachine):
    def make(self) -> Storage:
        if hasattr(self, "storage"):
            return self.storage
        used: Any = codec(self.codec_name)
        return MemoryStorage(
            MemorySettings(), StorageContext("", used, self.codec_name, StillClock(), random.Random(1))
        )


TestFileStorageIsTheModel = FileMachine.TestCase
TestFileStorageIsTheModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMemoryStorageIsTheModel = MemoryMachine.TestCase
TestMemoryStorageIsTheModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
