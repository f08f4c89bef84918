"""When to ping, and when to give a connection up."""

from __future__ import annotations

from disheap.client.pulse import Pulse


def test_a_ping_is_due_every_third_of_the_timeout() -> None:
    pulse = Pulse(9000, now=0.0)
    assert [second for second in range(10) if pulse.due(float(second))] == [3, 6, 9]


def test_a_connection_is_dead_when_half_of_the_timeout_was_silent() -> None:
    pulse = Pulse(9000, now=0.0)
    assert pulse.due(3.0)
    assert not pulse.dead(4.5)
    assert pulse.dead(4.6)


def test_any_byte_shows_that_it_lives() -> None:
    pulse = Pulse(9000, now=0.0)
    assert pulse.due(3.0)
    pulse.heard()
    assert not pulse.dead(100.0)


def test_silence_that_nobody_asked_into_is_no_sign_of_death() -> None:
    """An application that did not call for an hour."""
    pulse = Pulse(9000, now=0.0)
    assert not pulse.dead(3600.0)
    assert pulse.due(3600.0)
    assert not pulse.dead(3601.0)


def test_the_timeout_that_was_granted_counts() -> None:
    pulse = Pulse(9000, now=0.0)
    pulse.set_timeout(900)
    assert not pulse.due(0.2) and pulse.due(0.3)


def test_after_a_long_silence_of_ours_the_session_is_in_doubt() -> None:
    pulse = Pulse(9000, now=0.0)
    assert not pulse.doubtful(6.0) and pulse.doubtful(6.1)
    pulse.spoke(6.0)
    assert pulse.quiet_s(8.0) == 2.0
    assert not pulse.doubtful(12.0) and pulse.doubtful(12.1)
