"""The counter is a state machine as good as any: it passes the conformance suite, and counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from disheap.interfaces import MachineContext
from disheap.testing.conformance.test_machine import *  # noqa: F403
from disheap.testing.counter import CounterMachine, CounterSettings


@pytest.fixture
def machine_factory() -> Callable[[], CounterMachine]:
    return lambda: CounterMachine(CounterSettings(), MachineContext())


def test_the_counter_adds_subtracts_replies_and_pushes() -> None:
    counter = CounterMachine(CounterSettings(), MachineContext())
    assert counter.apply(1, 0, 5, b"+3") == (b"3", [(5, b"3")])
    assert counter.apply(2, 0, 6, b"+-10") == (b"-7", [(6, b"-7")])
    assert counter.apply(3, 0, 6, b"-2") == (b"-9", [(6, b"-9")])
    assert counter.query(0, 5, b"total") == b"-9"
