"""The heap of a topic: strict order, removal by key, and memory in proportion to the live records."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disheap_heap import heap as heap_module
from disheap_heap.heap import GARBAGE_MIN, PART_RECORDS, StrictHeap

Item = tuple[int, int]


def filled(ranks: list[int]) -> StrictHeap[Item]:
    heap: StrictHeap[Item] = StrictHeap()
    for key, rank in enumerate(ranks):
        heap.push((rank, key))
    return heap


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "push new", "again", "pop", "remove", "remove many", "load"]),
        st.integers(0, 60),
    ),
    max_size=300,
)


@pytest.mark.parametrize("part_records", [4, 16, PART_RECORDS])
def test_it_gives_what_a_sorted_list_gives(part_records: int) -> None:
    @settings(max_examples=150, deadline=None)
    @given(STEPS)
    def run(steps: list[tuple[str, int]]) -> None:
        heap: StrictHeap[Item] = StrictHeap()
        key = 0
        plain: list[Item] = []
        gone: list[int] = []
        for step, value in steps:
            key += 1
            if step == "push":
                heap.push((value, key))
                plain.append((value, key))
            elif step == "push new":
                records = [(value * 7 % (key + more), key + more) for more in range(value % 20)]
                heap.push_new(records)
                plain += records
                key += len(records)
            elif step == "remove many":
                doomed = sorted(plain, key=lambda record: record[1] * value % 61)[: value % 20]
                assert heap.remove_many([record[1] for record in doomed]) == doomed
                plain = [record for record in plain if record not in doomed]
                gone += [record[1] for record in doomed]
            elif step == "again" and gone:  # a message that comes back has a key among those of others
                record = (value, gone.pop(value % len(gone)))
                heap.push(record)
                plain.append(record)
            elif step == "load":
                heap.load(dict(heap.by_id()))
            elif plain:
                record = min(plain) if step == "pop" else plain[value % len(plain)]
                assert (heap.pop() if step == "pop" else heap.remove(record[1])) == record
                plain.remove(record)
                gone.append(record[1])
            assert heap.first() == (min(plain) if plain else None)
            assert list(heap.by_id().values()) == plain
            if value % 7 == 0:
                assert heap.smallest(5) == sorted(plain)[:5]
            heap.check()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heap_module, "PART_RECORDS", part_records)
        patch.setattr(heap_module, "GARBAGE_MIN", min(part_records, GARBAGE_MIN))
        run()


def test_the_first_record_of_a_part_is_never_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap_module, "PART_RECORDS", 64)
    heap = filled([key % 7 for key in range(640)])
    for _, key in heap.smallest(60):
        heap.remove(key)
        heap.check()
    assert heap.first() == (0, 420)


class Counted(tuple[int, int]):
    """A record that counts how often two are compared, and how often a key is looked at."""

    looks = 0

    def __lt__(self, other: tuple[int, ...]) -> bool:
        Counted.looks += 1
        return tuple.__lt__(self, other)

    def __getitem__(self, place: object) -> int:  # type: ignore[override]
        Counted.looks += 1
        return tuple.__getitem__(self, place)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("order", ["from the front", "from the back", "at random"])
def test_no_call_passes_over_more_than_the_garbage_of_some_parts(order: str) -> None:
    """A third of the records lies above the others and is removed, all but the first. The next pop has to pass it."""
    records, removed = 60_000, 20_000
    heap: StrictHeap[Counted] = StrictHeap()
    keys = list(range(records))
    random.Random(5).shuffle(keys)
    for key in sorted(keys):
        heap.push(Counted((keys[key], key)))
    doomed = [record[1] for record in heap.smallest(removed)][1:]
    if order == "from the back":
        doomed.reverse()
    elif order == "at random":
        random.Random(6).shuffle(doomed)
    worst = 0
    for key in doomed:
        Counted.looks = 0
        heap.remove(key)
        worst = max(worst, Counted.looks)
    assert worst <= 8 * PART_RECORDS
    for call in (heap.pop, heap.pop, heap.first, lambda: heap.smallest(10)):
        Counted.looks = 0
        call()
        assert Counted.looks <= 4 * PART_RECORDS
    heap.check()


def test_removals_leave_no_more_garbage_than_there_are_records() -> None:
    heap = filled(random.Random(7).choices(range(1000), k=20_000))
    for key in random.Random(8).sample(range(20_000), 19_000):
        assert heap.remove(key) is not None
        assert heap.entries() <= 3 * len(heap) + 2 * GARBAGE_MIN
    heap.check()


def test_a_key_pushed_again_counts_once_and_at_its_new_place() -> None:
    heap = filled([5, 6])
    heap.remove(0)
    heap.push((9, 0))
    assert [heap.pop(), heap.pop(), heap.first()] == [(6, 1), (9, 0), None]


def test_removing_a_missing_key_does_nothing() -> None:
    assert filled([1]).remove(77) is None


def test_a_walk_for_the_smallest_changes_nothing_and_skips_garbage() -> None:
    heap = filled([3, 1, 2, 1])
    heap.remove(1)
    assert heap.smallest(2) == [(1, 3), (2, 2)]
    assert heap.smallest(10) == [(1, 3), (2, 2), (3, 0)]


def test_draining_takes_everything_out() -> None:
    heap = filled(list(range(500)))
    for key in range(200):
        heap.remove(key)
    while heap.drain() is not None:
        pass
    assert heap.by_id() == {}
    assert heap.entries() == 0
