"""When to ping, and when to doubt a node."""

from __future__ import annotations

import pytest

from disheap.client.core.pulse import PING_EVERY_S, SILENCE_MAX_S, Pulse, Verdict


def looks(pulse: Pulse, start: float, seconds: float, every_s: float = 0.25) -> list[tuple[float, Verdict]]:
    """What each look says that says something."""
    times = [start + every_s * number for number in range(1, int(seconds / every_s) + 1)]
    return [(now, verdict) for now in times if (verdict := pulse.look(now)) is not Verdict.FINE]


def test_a_ping_is_due_when_nothing_was_heard_for_a_while() -> None:
    pulse = Pulse(15_000, now=0.0)
    assert looks(pulse, 0.0, 1.0) == [(PING_EVERY_S, Verdict.PING)]
    pulse.heard()
    assert looks(pulse, 1.0, 1.0) == [(2.0, Verdict.PING)]


def test_what_comes_by_itself_saves_the_ping_until_we_have_to_say_something() -> None:
    pulse = Pulse(9000, now=0.0)
    pinged = []
    for number in range(1, 33):
        pulse.heard()
        if pulse.look(0.25 * number) is Verdict.PING:
            pinged.append(0.25 * number)
            pulse.spoke(0.25 * number)
    assert pinged == [3.0, 6.0]


@pytest.mark.parametrize(("timeout_ms", "within_s"), [(86_400_000, 2.0), (15_000, 2.0), (5000, 1.8), (1000, 0.5)])
def test_a_silent_node_is_doubted_in_a_time_that_scales_with_the_session(timeout_ms: int, within_s: float) -> None:
    pulse = Pulse(timeout_ms, now=0.0)
    (_, first), (doubted_at, second) = looks(pulse, 0.0, within_s + 0.3, pulse.look_every_s)[:2]
    assert (first, second) == (Verdict.PING, Verdict.SILENT)
    assert within_s / 3 < doubted_at <= within_s < timeout_ms / 1000


def test_any_byte_shows_that_it_lives() -> None:
    pulse = Pulse(15_000, now=0.0)
    assert looks(pulse, 0.0, 1.0) == [(PING_EVERY_S, Verdict.PING)]
    pulse.heard()
    assert Verdict.SILENT not in [verdict for _, verdict in looks(pulse, 1.0, 1.75)]


def test_time_in_which_nobody_listened_is_not_the_nodes_silence() -> None:
    """An application that did not call for an hour, and a loop that was busy: the answer may lie in the socket."""
    pulse = Pulse(15_000, now=0.0)
    assert pulse.look(3600.0) is Verdict.PING
    assert pulse.look(7200.0) is Verdict.FINE
    assert pulse.look(7200.0 + SILENCE_MAX_S) is Verdict.SILENT


def test_what_is_still_on_its_way_to_the_node_prolongs_the_wait_up_to_a_bound() -> None:
    for size, silent_at in ((2_000_000, 3.75), (1 << 30, 6.75)):
        pulse = Pulse(15_000, now=0.0)
        pulse.spoke(0.0, size)
        assert looks(pulse, 0.0, 10.0)[:2] == [(PING_EVERY_S, Verdict.PING), (silent_at, Verdict.SILENT)]


def test_a_node_whose_machine_takes_more_is_not_silent() -> None:
    pulse = Pulse(15_000, now=0.0)
    assert pulse.look(1.0) is Verdict.PING
    for number in range(40):
        pulse.progressed()
        assert pulse.look(1.25 + 0.25 * number) is Verdict.FINE


def test_the_timeout_that_was_granted_counts() -> None:
    pulse = Pulse(15_000, now=0.0)
    pulse.set_timeout(600)
    assert pulse.look(0.09) is Verdict.FINE and pulse.look(0.1) is Verdict.PING
    assert pulse.entry_s == pytest.approx(0.2)


def test_after_a_long_silence_of_ours_the_session_is_in_doubt() -> None:
    pulse = Pulse(9000, now=0.0)
    assert not pulse.doubtful(6.0) and pulse.doubtful(6.1)
    pulse.spoke(6.0)
    assert pulse.quiet_s(8.0) == 2.0
    assert not pulse.doubtful(12.0) and pulse.doubtful(12.1)


def test_a_driver_is_told_when_to_look_next() -> None:
    pulse = Pulse(15_000, now=0.0)
    assert pulse.look_in_s(0.5) == 0.25
    assert pulse.look(0.75) is Verdict.PING
    assert pulse.look_in_s(0.75) == SILENCE_MAX_S / 2
    pulse.heard()
    assert pulse.look_in_s(0.8) == PING_EVERY_S
