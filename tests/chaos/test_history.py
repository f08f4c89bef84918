"""The judge of histories: a good one passes, and each broken promise is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.history import Delivered, Enqueue, History, Outcome, Settle, judge


def good() -> History:
    """Two messages in and out, one given twice, one of unknown outcome that was carried out; drained in order."""
    history = History()
    history.enqueues += [
        Enqueue(b"one", 0, 1.0, 1.1, Outcome.OK, 1),
        Enqueue(b"two", 7, 1.2, 1.3, Outcome.OK, 2),
        Enqueue(b"maybe", 0, 1.4, 2.0, Outcome.UNKNOWN),
        Enqueue(b"no", 0, 1.5, 1.6, Outcome.REFUSED),
    ]
    history.deliveries += [
        Delivered("a", 1, 1, 0, b"one", 2.0),
        Delivered("b", 1, 2, 0, b"one", 3.0),
        Delivered("drain", 2, 1, 7, b"two", 5.0, 0),
        Delivered("drain", 3, 1, 0, b"maybe", 5.0, 1),
    ]
    history.settles += [
        Settle(1, 1, 3.5, 3.6, Outcome.REFUSED),
        Settle(1, 2, 3.5, 3.6, Outcome.OK),
        Settle(2, 1, 6.0, 6.1, Outcome.OK),
        Settle(3, 1, 6.0, 6.1, Outcome.OK),
    ]
    return history


def test_a_history_without_a_broken_promise_has_no_complaints() -> None:
    assert judge(good()).complaints() == []


def lose(history: History) -> None:
    del history.settles[2]


def refuse_an_ack(history: History) -> None:
    history.settles[2].outcome = Outcome.REFUSED


def deliver_after_the_ack(history: History) -> None:
    history.deliveries.append(Delivered("c", 1, 3, 0, b"one", 4.0))


def enqueue_twice(history: History) -> None:
    history.deliveries.append(Delivered("c", 4, 1, 0, b"one", 4.0))


def carry_out_an_unknown_one_twice(history: History) -> None:
    history.deliveries.append(Delivered("c", 4, 1, 0, b"maybe", 4.0))


def give_one_lease_to_two(history: History) -> None:
    history.deliveries.append(Delivered("c", 1, 2, 0, b"one", 3.0))


def take_a_stale_ack(history: History) -> None:
    history.settles[0].outcome = Outcome.OK


def number_against_time(history: History) -> None:
    history.enqueues[0].id, history.enqueues[1].id = 2, 1
    history.deliveries.clear()


def drain_out_of_order(history: History) -> None:
    history.deliveries[2].place, history.deliveries[3].place = 1, 0


def deliver_the_refused(history: History) -> None:
    history.deliveries.append(Delivered("c", 5, 1, 0, b"no", 4.0))


def change_a_priority(history: History) -> None:
    history.deliveries[0].priority = 1


def deliver_what_nobody_sent(history: History) -> None:
    history.deliveries.append(Delivered("c", 5, 1, 0, b"who", 4.0))


def deliver_before_it_was_sent(history: History) -> None:
    history.deliveries[0].at = 0.5


@pytest.mark.parametrize(
    ("breaks", "kind"),
    [
        (lose, "lost"),
        (refuse_an_ack, "lost"),
        (deliver_after_the_ack, "doubled"),
        (enqueue_twice, "doubled"),
        (carry_out_an_unknown_one_twice, "doubled"),
        (give_one_lease_to_two, "two_leases"),
        (take_a_stale_ack, "two_leases"),
        (number_against_time, "order"),
        (drain_out_of_order, "order"),
        (deliver_the_refused, "wrong"),
        (change_a_priority, "wrong"),
        (deliver_what_nobody_sent, "wrong"),
        (deliver_before_it_was_sent, "wrong"),
    ],
)
def test_a_broken_promise_is_named(breaks: Callable[[History], None], kind: str) -> None:
    history = good()
    breaks(history)
    assert getattr(judge(history), kind)


def test_the_longest_time_without_a_confirmed_operation_is_found() -> None:
    assert good().longest_gap_s(1.0, 6.5) == (pytest.approx(2.5), pytest.approx(3.6))
