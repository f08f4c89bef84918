"""What a storage says that it takes of memory against what CPython really allocates."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from disheap.interfaces import MemoryEstimating, Storage, StorageContext
from disheap.kernel.types import HardState, Index, NodeId, Term
from disheap_filelog.settings import FileSettings
from disheap_memory.storage import MemorySettings, MemoryStorage
from tests.storage.parts import IDENTITY, StillClock, build, codec, entries, entry, meta
from tests.support.memory import held_bytes

ROUNDS = 2000
FACTOR = 1.5


def memory() -> MemoryStorage:
    context = StorageContext("", codec("none"), "none", StillClock(), random.Random(1))
    return MemoryStorage(MemorySettings(), context)


def estimate(storage: Storage) -> int:
    assert isinstance(storage, MemoryEstimating)
    return storage.memory_bytes()


@pytest.mark.parametrize("size", [30, 2000])
def test_the_memory_storage_counts_what_it_holds(size: int) -> None:
    storage = memory()
    storage.open(IDENTITY, 0, alone=False)
    storage.save_hard_state(HardState(Term(9), NodeId(1)))

    def grow() -> None:
        for index in range(1, ROUNDS + 1):
            storage.append([entry(index, size=size)])

    real = held_bytes(grow)
    assert real / FACTOR < estimate(storage) < real * FACTOR, f"{real // ROUNDS}, {estimate(storage) // ROUNDS} each"


def test_the_memory_storage_forgets_what_it_no_longer_holds() -> None:
    storage = memory()
    storage.open(IDENTITY, 0, alone=False)
    storage.save_hard_state(HardState(Term(9), NodeId(1)))
    storage.append(entries(1, 5))
    storage.append(entries(6, 10))
    full = estimate(storage)
    storage.append(entries(8, 10, term=2))
    assert estimate(storage) <= full + 300
    storage.compact(Index(6))
    assert estimate(storage) < full
    writer = storage.begin_snapshot(meta(20), replaces_log=True)
    writer.write(b"x" * 1000)
    writer.commit()
    assert estimate(storage) == 1000


def test_the_file_storage_counts_its_index_of_the_log(tmp_path: Path) -> None:
    """A block for each of 25,000 small entries took 9 MiB, and was counted by nobody."""
    storage = build(directory=str(tmp_path), settings=FileSettings())
    storage.open(IDENTITY, 0, alone=False)
    storage.save_hard_state(HardState(Term(9), NodeId(1)))
    storage.append(entries(1, 1))

    def grow() -> None:
        for index in range(2, 502):
            storage.append([entry(index)])

    before = estimate(storage)
    real, counted = held_bytes(grow), estimate(storage) - before
    assert real / FACTOR < counted < real * FACTOR, f"{real // 500} bytes each, estimated {counted // 500}"
    storage.close()
