"""Timers fire in the order of their deadlines, those of messages of many topics among them."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from disheap_heap.timers import DUE, EXPIRY, LEASE, POP, Timers

KINDS = (DUE, EXPIRY, LEASE, POP)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), st.sampled_from(KINDS), st.integers(1, 9), st.integers(1, 20)),
        st.tuples(st.just("disarm"), st.sampled_from(KINDS), st.integers(1, 9)),
        st.tuples(st.just("purge"), st.integers(1, 3)),
        st.tuples(st.just("pop")),
    ),
    max_size=80,
)


def topic_of(number: int) -> int:
    return 1 + number % 3


@given(steps)
@settings(max_examples=300, deadline=None)
def test_timers_behave_as_a_sorted_list(some: list[Any]) -> None:
    timers, model = Timers(), dict[tuple[int, int], int]()
    for step in some:
        match step:
            case ("arm", kind, number, deadline):
                timers.arm(kind, number, deadline, topic_of(number) if kind <= EXPIRY else 0)
                model[number, kind] = deadline
            case ("disarm", kind, number):
                timers.disarm(kind, number, topic_of(number))
                model.pop((number, kind), None)
            case ("purge", topic):
                timers.disarm_messages(topic)
                model = {key: at for key, at in model.items() if key[1] > EXPIRY or topic_of(key[0]) != topic}
            case _ if model:
                number, kind = min(model, key=lambda key: (model[key], *key))
                assert timers.pop() == (kind, number, topic_of(number) if kind <= EXPIRY else 0)
                del model[number, kind]
        assert timers.next_deadline() == min(model.values(), default=None)
        assert len(timers) == len(model)
    while timers.drain():
        pass
    assert timers.next_deadline() is None


def test_a_first_timer_that_comes_and_goes_leaves_no_garbage_behind() -> None:
    timers = Timers()
    timers.arm(DUE, 1, 1000, 1)
    for number in range(2, 5000):
        timers.arm(DUE, number, 10, 1)
        timers.disarm(DUE, number, 1)
    assert timers._heap.entries() < 500
    assert timers._of_topics[1].entries() < 500
