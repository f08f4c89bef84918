"""Timers fire in the order of their deadlines, those of messages of many topics among them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disheap_heap.tables.timers import LEASE, MESSAGE, POP, TOPIC, Timers
from tests.support.calls import CallCounter

OTHERS = (LEASE, POP, TOPIC)
CALLS_PER_TIMER = 1
"""The calls for each timer of a batch: to push it into a heap."""

deadlines = st.integers(1, 20)
topics = st.integers(1, 3)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.sampled_from(OTHERS), st.integers(1, 9), deadlines),
        st.tuples(st.just("disarm"), st.sampled_from(OTHERS), st.integers(1, 9)),
        st.tuples(st.just("arm message"), topics, deadlines),
        st.tuples(st.just("arm batch"), topics, st.lists(deadlines, max_size=12)),
        st.tuples(st.just("arm again"), st.integers(0, 50), deadlines),
        st.tuples(st.just("disarm message"), st.integers(0, 50)),
        st.tuples(st.just("disarm many"), topics, st.integers(1, 3)),
        st.tuples(st.just("purge"), topics),
        st.tuples(st.just("pop")),
    ),
    max_size=80,
)


@given(steps)
@settings(max_examples=500, deadline=None)
def test_timers_behave_as_a_sorted_list(some: list[Any]) -> None:
    timers, model = Timers(), dict[tuple[int, int], int]()
    topic_of: dict[int, int] = {}  # by message
    for step in some:
        armed = [number for number, kind in model if kind == MESSAGE]
        match step:
            case ("arm", kind, number, deadline):
                timers.arm(kind, number, deadline)
                model[number, kind] = deadline
            case ("disarm", kind, number):
                timers.disarm(kind, number)
                model.pop((number, kind), None)
            case ("arm message", topic, deadline):
                number = len(topic_of) + 1
                topic_of[number], model[number, MESSAGE] = topic, deadline
                timers.arm_message(number, deadline, topic)
            case ("arm batch", topic, many):
                numbers = list(range(len(topic_of) + 1, len(topic_of) + 1 + len(many)))
                topic_of.update(dict.fromkeys(numbers, topic))
                model.update({(number, MESSAGE): at for number, at in zip(numbers, many, strict=True)})
                timers.arm_messages(topic, numbers, many)
            case ("arm again", place, deadline) if len(armed) < len(topic_of):  # a message that comes back
                gone = [number for number in topic_of if number not in armed]
                number = gone[place % len(gone)]
                model[number, MESSAGE] = deadline
                timers.arm_message(number, deadline, topic_of[number])
            case ("disarm message", place) if topic_of:
                number = place % len(topic_of) + 1
                model.pop((number, MESSAGE), None)
                timers.disarm_message(number, topic_of[number])
            case ("disarm many", topic, each):
                doomed = [number for number in armed if topic_of[number] == topic][::-each]
                timers.disarm_messages(doomed, topic)
                model = {key: at for key, at in model.items() if key[1] != MESSAGE or key[0] not in doomed}
            case ("purge", topic):
                timers.disarm_topic(topic)
                model = {key: at for key, at in model.items() if key[1] != MESSAGE or topic_of[key[0]] != topic}
            case ("pop",) if model:
                number, kind = min(model, key=lambda key: (model[key], *key))
                assert timers.pop() == (kind, number, topic_of[number] if kind == MESSAGE else 0)
                del model[number, kind]
        assert timers.next_deadline() == min(model.values(), default=None)
        assert len(timers) == len(model)
    while timers.drain():
        pass
    assert timers.next_deadline() is None


@pytest.mark.parametrize("batch", [100, 10_000])
@pytest.mark.parametrize(
    "deadline_of", [lambda number: 1000, lambda number: number, lambda number: 20_000 - number], ids=["=", "<", ">"]
)
def test_a_timer_of_a_batch_costs_no_more_calls_than_are_stated(deadline_of: Any, batch: int) -> None:
    """In a batch whose deadlines descend each timer became the first of its topic, which took 3 us more."""
    timers = Timers()
    timers.arm_message(1, 500, 1)
    for start in range(2, 20_000, batch):
        numbers = list(range(start, start + batch))
        due = [deadline_of(number) for number in numbers]
        with CallCounter(max_calls=CALLS_PER_TIMER * batch + 100):
            timers.arm_messages(1, numbers, due)
    with CallCounter(max_calls=10):
        timers.next_deadline()


def test_timers_fall_due_by_deadline_and_then_by_id() -> None:
    timers = Timers()
    timers.arm(LEASE, 9, 50)
    timers.arm(LEASE, 3, 50)
    timers.arm_message(3, 50, 1)
    timers.arm(POP, 99, 10)
    assert timers.next_deadline() == 10
    assert [timers.pop() for _ in range(4)] == [(POP, 99, 0), (MESSAGE, 3, 1), (LEASE, 3, 0), (LEASE, 9, 0)]
    assert timers.next_deadline() is None


def test_a_timer_armed_again_replaces_the_earlier_one_and_keeps_memory_bounded() -> None:
    timers = Timers()
    for deadline in range(10_000):
        timers.arm(LEASE, 1, 20_000 - deadline)
    timers._order.check()
    assert (timers.next_deadline(), len(timers)) == (10_001, 1)


def test_a_first_timer_that_comes_and_goes_leaves_no_garbage_behind() -> None:
    timers = Timers()
    timers.arm_message(1, 1000, 1)
    for number in range(2, 5000):
        timers.arm_message(number, 10, 1)
        assert len(timers._later) == 1
        timers.disarm_message(number, 1)
    timers._order.check()
    assert len(timers) == len(timers._order) == 1
    assert not timers._later
