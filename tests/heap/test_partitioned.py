"""The mapping by number: it is a dict to its callers, copies few entries at once, and gives memory back."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disheap_heap.tables import partitioned
from disheap_heap.tables.partitioned import MERGED_MAX, PARTITION_MAX, SPARE_BYTES, PartitionedDict

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "put", "take", "take", "take first", "popitem", "many", "many back"]),
        st.integers(0, 40),
    ),
    max_size=200,
)


def check(table: PartitionedDict[int]) -> None:
    """Every entry is in its partition. None but the last is empty, and none has too many entries."""
    starts, partitions = zip(*table.partitions(), strict=True)
    assert starts[0] == 0 and list(starts) == sorted(set(starts))
    assert all(partitions[:-1]) and len(table) == sum(map(len, partitions))
    for start, end, partition in zip(starts, [*starts[1:], 1 << 64], partitions, strict=True):
        assert len(partition) <= partitioned.PARTITION_MAX
        assert all(start <= key < end for key in partition)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few entries fill a partition that a short test splits, merges and shrinks them."""
    for name, value in {"PARTITION_MAX": 6, "MERGED_MAX": 3, "FEW": 4, "LOOK_MASK": 1, "SPARE_BYTES": 100}.items():
        monkeypatch.setattr(partitioned, name, value)
    monkeypatch.setattr(partitioned, "LEVELS", (1, 3, 6))


def do(table: PartitionedDict[int], plain: dict[int, int], step: str, value: int) -> None:
    highest = max(plain, default=0)
    if step == "append":
        table.put(highest + 1 + value, value)
        plain[highest + 1 + value] = value
    elif step == "put":
        table[value] = plain[value] = 2 * value
    elif step.startswith("many"):
        keys = [key for key in range(highest + value) if key > highest or (key not in plain and step == "many back")]
        table.put_many(keys, keys)
        plain.update(zip(keys, keys, strict=True))
    elif step == "take":
        assert table.take(value) == plain.pop(value, None)
    elif step == "take first" and plain:
        assert table.take(min(plain)) == plain.pop(min(plain))
    elif step == "popitem" and plain:
        key, item = table.popitem()
        assert plain.pop(key) == item


@pytest.mark.usefixtures("small")
@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_it_is_a_dict_that_is_read_in_the_order_of_its_keys(steps: list[tuple[str, int]]) -> None:
    table, plain = PartitionedDict[int](), dict[int, int]()
    for step, value in steps:
        do(table, plain, step, value)
        check(table)
        assert (len(table), value in table, table.get(value)) == (len(plain), value in plain, plain.get(value))
    assert list(table.items()) == sorted(plain.items()) and table == plain
    keys = list(range(60))
    assert table.missing(keys) == [key for key in keys if key not in plain]
    assert table.found(keys) == {key: plain[key] for key in keys if key in plain}
    for key in keys:
        assert (table.get(key, -1), key in table) == (plain.get(key, -1), key in plain)
    assert (table.an_early_value() is None) == (not plain)


@pytest.mark.usefixtures("small")
@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_two_tables_with_equal_entries_are_read_in_the_same_order(steps: list[tuple[str, int]]) -> None:
    """One has a history, and the other was filled from a snapshot. Both go on, and are still read alike."""
    table, restored, plain = PartitionedDict[int](), PartitionedDict[int](), dict[int, int]()
    half = len(steps) // 2
    for step in steps[:half]:
        do(table, plain, *step)
    for key in random.Random(half).sample(sorted(plain), len(plain)):
        restored.put(key, plain[key])
    for step, value in steps[half:]:
        if step != "popitem":  # it takes any entry
            do(table, dict(plain), step, value)
            do(restored, plain, step, value)
    assert list(table) == list(restored) and list(table.values()) == list(restored.values())


def test_a_missing_key_is_an_error_where_it_is_one_for_a_dict() -> None:
    table = PartitionedDict[int]()
    table.put(3, 3)
    for refused in (lambda: table[4], lambda: table.pop(4), lambda: table.__delitem__(4)):
        with pytest.raises(KeyError):
            refused()
    del table[3]
    with pytest.raises(KeyError):
        table.popitem()


KEYS: dict[str, Callable[[int], Iterable[int]]] = {
    "ascending": range,
    "descending": lambda count: reversed(range(count)),
    "at random": lambda count: random.Random(1).sample(range(count), count),
    "two in turn": lambda count: (key // 2 + key % 2 * count for key in range(count)),
}


@pytest.mark.parametrize("order", KEYS)
def test_no_insertion_and_no_removal_copies_more_than_a_partition(order: str) -> None:
    """A dict that is made or has grown is one that was copied."""
    table, count = PartitionedDict[int](), 10 * PARTITION_MAX
    changes = [*((table.put, key, 0) for key in KEYS[order](count)), *((table.take, key) for key in KEYS[order](count))]
    before = dict[int, int]()
    most = 0
    for change, *arguments in changes:
        change(*arguments)
        sizes = {id(one): one.__sizeof__() for _, one in table.partitions()}
        copied = [len(one) for _, one in table.partitions() if sizes[id(one)] != before.get(id(one))]
        most = max(most, sum(copied))
        before = sizes
    assert len(table) == 0 and most <= PARTITION_MAX + 1


def test_ascending_keys_fill_their_partitions() -> None:
    """A dict that is full takes 27 bytes for an entry."""
    table = PartitionedDict[int]()
    for key in range(20 * PARTITION_MAX):
        table.put(key, 0)
    assert [len(one) for _, one in table.partitions()] == [PARTITION_MAX] * 20
    assert sum(one.__sizeof__() for _, one in table.partitions()) < 28 * len(table)
    many = PartitionedDict[int]()
    many.put_many(list(range(20 * PARTITION_MAX)), [0] * 20 * PARTITION_MAX)
    assert many.partitions() == table.partitions()


@pytest.mark.parametrize("kept", [1, 3, 50])
@pytest.mark.parametrize("order", ["ascending", "at random"])
def test_few_survivors_hold_little_memory(order: str, kept: int) -> None:
    """The survivors are a few of each partition. In one dict they would hold the whole of it."""
    table, count = PartitionedDict[int](), 100 * PARTITION_MAX
    for key in range(count):
        table.put(key, 0)
    for key in KEYS[order](count):
        if key % PARTITION_MAX >= kept:
            table.take(key)
    held = sum(one.__sizeof__() for _, one in table.partitions())
    print(
        f"{order} {kept}: {len(table)} entries in {len(table.partitions())} partitions, {held / len(table):.0f} bytes"
    )
    assert len(table) == 100 * kept and held < 120 * len(table) + 2 * SPARE_BYTES


def test_an_empty_table_holds_nothing_however_large_it_was() -> None:
    table = PartitionedDict[int]()
    for count in (PARTITION_MAX, 10 * PARTITION_MAX):
        for key in range(count):
            table.put(key, 0)
        for key in range(count):
            table.take(key)
        assert table.partitions() == [(0, {})]
        assert sys.getsizeof(table.partitions()[0][1]) < SPARE_BYTES + 100


def test_a_table_that_grows_and_shrinks_by_one_is_not_copied_each_time() -> None:
    """The bounds for a split and for a merge are far apart."""
    for count in (1, 31, 32, MERGED_MAX, PARTITION_MAX - 1, PARTITION_MAX, PARTITION_MAX + 1, 3 * PARTITION_MAX):
        for key in (0, count // 2, count):
            table = PartitionedDict[int]()
            for one in range(count):
                table.put(2 * one, 0)
            seen = set[int]()
            kept = []  # so that no address is used again
            for _ in range(50):
                table.put(2 * key + 1, 0)
                table.take(2 * key + 1)
                kept.append([one for _, one in table.partitions()])
                seen |= {id(one) for one in kept[-1]}
            assert len(seen) <= len(table.partitions()) + 3
