"""The mapping by text: as a dict, in which no insertion copies many entries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from disheap_heap.tables.keyed import SHARDS, KeyedDict

keys = st.text(max_size=3)


@given(st.lists(st.tuples(st.sampled_from(["put", "take", "get"]), keys, st.integers())))
def test_it_is_a_mapping(steps: list[tuple[str, str, int]]) -> None:
    table: KeyedDict[int] = KeyedDict()
    expected: dict[str, int] = {}
    for how, key, value in steps:
        if how == "put":
            table.put(key, value)
            expected[key] = value
        elif how == "take":
            assert table.take(key) == expected.pop(key, None)
        assert table.get(key) == expected.get(key)
        assert len(table) == len(expected)
    drained = [table.drain() for _ in expected]
    assert sorted(drained) == sorted(expected.values())  # type: ignore[type-var]
    assert (table.drain(), len(table)) == (None, 0)


def test_entries_are_spread_over_the_shards() -> None:
    table: KeyedDict[int] = KeyedDict()
    for number in range(20 * SHARDS):
        table.put(f"celery-task-meta-{number}", number)
    assert max(map(len, table._shards)) < 60
