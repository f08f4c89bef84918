"""The relay keeps the contract of state machines, and that of the power `Forwarding`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from disheap.interfaces import Forwarding, MachineContext
from disheap.testing.conformance.test_machine import *  # noqa: F403

from .relay import Relay


@pytest.fixture
def machine_factory() -> Callable[[], Relay]:
    return lambda: Relay(Relay.Settings(), MachineContext())


def test_the_relay_forwards_from_its_own_group() -> None:
    relay = Relay(Relay.Settings(), MachineContext(group=3))
    assert isinstance(relay, Forwarding)
    relay.apply(1, 0, 5, b">1:ash")
    relay.apply(2, 0, 5, b">1:oak")
    assert relay.outbox(1, 1, 9) == [(2, b"<3:2:oak")]
