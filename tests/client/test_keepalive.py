"""When to ping, and when to give a node up."""

from __future__ import annotations

import pytest

from disheap.client.core.keepalive import PING_EVERY_S, SILENCE_MAX_S, KeepAlive, Verdict


def verdicts(keepalive: KeepAlive, start: float, seconds: float, every_s: float = 0.25) -> list[tuple[float, Verdict]]:
    """What each check says, unless there is nothing to do."""
    times = [start + every_s * number for number in range(1, int(seconds / every_s) + 1)]
    return [(now, verdict) for now in times if (verdict := keepalive.check(now)) is not Verdict.FINE]


def test_a_ping_is_due_when_nothing_was_heard_for_a_while() -> None:
    keepalive = KeepAlive(15_000, now=0.0)
    assert verdicts(keepalive, 0.0, 1.0) == [(PING_EVERY_S, Verdict.PING)]
    keepalive.heard()
    assert verdicts(keepalive, 1.0, 1.0) == [(2.0, Verdict.PING)]


def test_what_comes_by_itself_saves_the_ping_until_the_client_has_to_write() -> None:
    keepalive = KeepAlive(9000, now=0.0)
    pinged = []
    for number in range(1, 33):
        keepalive.heard()
        if keepalive.check(0.25 * number) is Verdict.PING:
            pinged.append(0.25 * number)
            keepalive.wrote(0.25 * number)
    assert pinged == [3.0, 6.0]


@pytest.mark.parametrize(("timeout_ms", "within_s"), [(86_400_000, 2.0), (15_000, 2.0), (5000, 1.8), (1000, 0.5)])
def test_a_silent_node_is_given_up_in_a_time_that_scales_with_the_session(timeout_ms: int, within_s: float) -> None:
    keepalive = KeepAlive(timeout_ms, now=0.0)
    (_, first), (given_up_at, second) = verdicts(keepalive, 0.0, within_s + 0.3, keepalive.check_every_s)[:2]
    assert (first, second) == (Verdict.PING, Verdict.SILENT)
    assert within_s / 3 < given_up_at <= within_s < timeout_ms / 1000


def test_any_byte_shows_that_it_lives() -> None:
    keepalive = KeepAlive(15_000, now=0.0)
    assert verdicts(keepalive, 0.0, 1.0) == [(PING_EVERY_S, Verdict.PING)]
    keepalive.heard()
    assert Verdict.SILENT not in [verdict for _, verdict in verdicts(keepalive, 1.0, 1.75)]


def test_time_in_which_nobody_listened_is_not_the_nodes_silence() -> None:
    """An application that did not call for an hour, and a loop that was busy: the answer may lie in the socket."""
    keepalive = KeepAlive(15_000, now=0.0)
    assert keepalive.check(3600.0) is Verdict.PING
    assert keepalive.check(7200.0) is Verdict.FINE
    assert keepalive.check(7200.0 + SILENCE_MAX_S) is Verdict.SILENT


def test_what_is_still_on_its_way_to_the_node_prolongs_the_wait_up_to_a_bound() -> None:
    for size, silent_at in ((2_000_000, 3.75), (1 << 30, 6.75)):
        keepalive = KeepAlive(15_000, now=0.0)
        keepalive.wrote(0.0, size)
        assert verdicts(keepalive, 0.0, 10.0)[:2] == [(PING_EVERY_S, Verdict.PING), (silent_at, Verdict.SILENT)]


def test_a_node_whose_machine_takes_more_is_not_silent() -> None:
    keepalive = KeepAlive(15_000, now=0.0)
    assert keepalive.check(1.0) is Verdict.PING
    for number in range(40):
        keepalive.progressed()
        assert keepalive.check(1.25 + 0.25 * number) is Verdict.FINE


def test_the_timeout_that_was_granted_counts() -> None:
    keepalive = KeepAlive(15_000, now=0.0)
    keepalive.set_timeout(600)
    assert keepalive.check(0.09) is Verdict.FINE and keepalive.check(0.1) is Verdict.PING
    assert keepalive.attach_timeout_s == pytest.approx(0.2)


def test_after_a_long_silence_of_the_client_the_session_may_have_lapsed() -> None:
    keepalive = KeepAlive(9000, now=0.0)
    assert not keepalive.may_have_lapsed(6.0) and keepalive.may_have_lapsed(6.1)
    keepalive.wrote(6.0)
    assert keepalive.unwritten_s(8.0) == 2.0
    assert not keepalive.may_have_lapsed(12.0) and keepalive.may_have_lapsed(12.1)


def test_a_driver_is_told_when_to_check_next() -> None:
    keepalive = KeepAlive(15_000, now=0.0)
    assert keepalive.check_in_s(0.5) == 0.25
    assert keepalive.check(0.75) is Verdict.PING
    assert keepalive.check_in_s(0.75) == SILENCE_MAX_S / 2
    keepalive.heard()
    assert keepalive.check_in_s(0.8) == PING_EVERY_S
