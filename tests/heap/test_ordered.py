"""Records in strict order: removal by key, bounded work for each call, and memory in proportion to the records."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disheap_heap.tables import ordered
from disheap_heap.tables.ordered import MAX_CHUNK, OrderedRecords

Item = tuple[int, int]


def filled(ranks: list[int]) -> OrderedRecords[Item]:
    records: OrderedRecords[Item] = OrderedRecords()
    for key, rank in enumerate(ranks):
        records.push((rank, key))
    return records


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "push many", "again", "pop", "remove", "remove many", "last"]),
        st.integers(0, 60),
    ),
    max_size=300,
)


@pytest.mark.parametrize("max_chunk", [4, 16, MAX_CHUNK])
def test_it_gives_what_a_sorted_list_gives(max_chunk: int) -> None:
    @settings(max_examples=150, deadline=None)
    @given(STEPS)
    def run(steps: list[tuple[str, int]]) -> None:
        records: OrderedRecords[Item] = OrderedRecords()
        key = 0
        plain: list[Item] = []
        gone: list[int] = []
        for step, value in steps:
            key += 1
            if step == "push":
                records.push((value, key))
                plain.append((value, key))
            elif step == "push many":
                some = [(value * 7 % (key + more), key + more) for more in range(value)]
                records.push_many(some)
                plain += some
                key += len(some)
            elif step == "remove many":
                doomed = sorted(plain, key=lambda record: record[1] * value % 61)[:value]
                assert records.remove_many([record[1] for record in doomed]) == doomed
                plain = [record for record in plain if record not in doomed]
                gone += [record[1] for record in doomed]
            elif step == "again" and gone:  # a message that comes back has a key among those of others
                record = (value, gone.pop(value % len(gone)))
                records.push(record)
                plain.append(record)
            elif step == "last" and plain:
                last = sorted(record for record in plain if record[0] == max(plain)[0])
                taken = records.take_last_rank(value + 1)
                assert taken and taken == last[: len(taken)] and len(taken) <= value + 1
                plain = [record for record in plain if record not in taken]
                gone += [record[1] for record in taken]
            elif plain:
                record = min(plain) if step == "pop" else plain[value % len(plain)]
                assert (records.pop() if step == "pop" else records.remove(record[1])) == record
                plain.remove(record)
                gone.append(record[1])
            assert records.first() == (min(plain) if plain else None)
            assert list(records.by_id().values()) == sorted(plain, key=lambda record: record[1])
            if value % 7 == 0:
                assert records.smallest(5) == sorted(plain)[:5]
            records.check()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered, "MAX_CHUNK", max_chunk)
        patch.setattr(ordered, "FEW", max_chunk // 4)
        run()


class Counted(tuple[int, int]):
    """A record that counts how often two are compared, and how often a key is looked at."""

    looks = 0

    def __lt__(self, other: tuple[int, ...]) -> bool:
        Counted.looks += 1
        return tuple.__lt__(self, other)

    def __getitem__(self, place: object) -> int:  # type: ignore[override]
        Counted.looks += 1
        return tuple.__getitem__(self, place)  # type: ignore[call-overload, no-any-return]


def worst_looks(calls: list[Callable[[], object]]) -> int:
    worst = 0
    for call in calls:
        Counted.looks = 0
        call()
        worst = max(worst, Counted.looks)
    return worst


@pytest.mark.parametrize("order", ["from the front", "from the back", "at random"])
def test_no_call_looks_at_more_than_a_few_records_whatever_was_removed_before(order: str) -> None:
    """A third of the records lies above the others and is removed, all but the first. The next pop has to pass nothing.
    Bisection of 60,000 records looks at 17; a queue with removed entries in it passed over thousands."""
    count, removed = 60_000, 20_000
    records: OrderedRecords[Counted] = OrderedRecords()
    keys = list(range(count))
    random.Random(5).shuffle(keys)
    made = [Counted((keys[key], key)) for key in range(count)]
    assert worst_looks([lambda one=one: records.push(one) for one in made]) <= 100  # type: ignore[misc]
    doomed = [record[1] for record in records.smallest(removed)][1:]
    if order == "from the back":
        doomed.reverse()
    elif order == "at random":
        random.Random(6).shuffle(doomed)
    assert worst_looks([lambda key=key: records.remove(key) for key in doomed]) <= 100  # type: ignore[misc]
    last: Callable[[], object] = lambda: records.take_last_rank(1)  # noqa: E731
    assert worst_looks([records.pop, records.pop, records.first, lambda: records.smallest(10), last]) <= 100
    records.check()


def test_removals_leave_little_memory_behind() -> None:
    """One record of each chunk stays, which is the worst that removals can do."""
    records = filled(list(range(100 * MAX_CHUNK)))
    for key in range(100 * MAX_CHUNK):
        if key % MAX_CHUNK:
            records.remove(key)
    records.check()
    assert len(records) == len(records.chunks) == 100
    assert max(sys.getsizeof(chunk) for chunk in records.chunks) <= 200


def test_a_batch_that_is_pushed_into_the_middle_is_spread_over_chunks() -> None:
    records = filled([0] * 1000 + [2] * 1000)
    records.push_many([(1, 5000 + key) for key in range(10 * MAX_CHUNK)])
    records.check()
    assert [record[0] for record in records.smallest(10_000)] == [0] * 1000 + [1] * 10 * MAX_CHUNK + [2] * 1000


def test_a_key_pushed_again_counts_once_and_at_its_new_place() -> None:
    records = filled([5, 6])
    records.remove(0)
    records.push((9, 0))
    assert [records.pop(), records.pop(), records.first()] == [(6, 1), (9, 0), None]


def test_removing_a_missing_key_does_nothing() -> None:
    assert filled([1]).remove(77) is None


def test_a_walk_for_the_smallest_changes_nothing() -> None:
    records = filled([3, 1, 2, 1])
    records.remove(1)
    assert records.smallest(2) == [(1, 3), (2, 2)]
    assert records.smallest(10) == [(1, 3), (2, 2), (3, 0)]


def test_the_oldest_records_of_the_last_rank_are_taken_first() -> None:
    records = filled([1, 9, 9, 5, 9])
    assert records.take_last_rank(2) == [(9, 1), (9, 2)]
    assert records.take_last_rank(2) == [(9, 4)]
    assert records.take_last_rank(2) == [(5, 3)]


def test_draining_takes_everything_out() -> None:
    records = filled(list(range(1500)))
    for key in range(200):
        records.remove(key)
    drained = 0
    while records.drain() is not None:
        records.check()
        drained += 1
    assert drained == 1300
    assert (records.by_id(), records.first()) == ({}, None)
