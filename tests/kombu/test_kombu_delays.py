"""Tasks with an eta or a countdown: what the broker is told, and what the worker gets."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.app.task import Context
from celery.signals import task_prerun
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import EncodeError

from disheap.errors import RequestTimeout
from disheap.protocol import broker
from disheap_kombu.failures import PublishOutcomeUnknown
from disheap_kombu.publishing import delays, messages
from disheap_kombu.publishing.delays import ETA, KEPT
from disheap_kombu.transport import Transport

NOW_S = 1_800_000_000.25
YEAR_MS = 365 * 86_400_000


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """This machine's clock, which the test sets."""
    now = [NOW_S]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def iso(seconds: float, zone=UTC) -> str:
    return datetime.fromtimestamp(NOW_S + seconds, zone).isoformat()


def task(eta, **more):
    """Headers of task protocol 2."""
    return {"lang": "py", "task": "shop.mail", "id": "1", ETA: eta, "expires": None, **more}


def published(channel, driver, headers, **options):
    channel.basic_publish(channel.prepare_message(b"x", headers=headers, **options), routing_key="q")
    message = driver.commands_of(broker.Publish)[-1].message
    return message, messages.decode(message.payload).headers


def test_a_task_with_an_eta_waits_and_reaches_the_worker_without_it(channel, driver):
    given_headers = task(iso(60))
    message, headers = published(channel, driver, given_headers, priority=7)
    assert (message.delay_ms, message.priority) == (60_000, 7)
    assert headers == task(None, **{KEPT: iso(60)})
    assert given_headers == task(iso(60)), "the caller's headers are its own"


@pytest.mark.parametrize(
    ("seconds", "delay_ms"), [(0.0004, 1), (365 * 86_400, YEAR_MS), (0, 0), (-1, 0), (-YEAR_MS / 1000, 0)]
)
def test_a_task_waits_until_it_is_due_and_one_of_the_past_does_not(channel, driver, seconds, delay_ms):
    message, headers = published(channel, driver, task(iso(seconds)))
    assert (message.delay_ms, headers[ETA], headers[KEPT]) == (delay_ms, None, iso(seconds))


def test_the_delay_counts_from_the_publish_not_from_the_packing(channel, driver, clock):
    message = channel.prepare_message(b"x", headers=task(iso(60)))
    clock[0] += 20
    channel.basic_publish(message, routing_key="q")
    assert driver.commands_of(broker.Publish)[-1].message.delay_ms == 40_000


def test_a_batch_delays_each_task_by_itself(channel, driver):
    batch = channel.create_publish_batch(10)
    for seconds in (5, None):
        headers = task(iso(seconds) if seconds else None)
        batch.publish(channel.prepare_message(b"x", headers=headers), routing_key="q")
    driver.answers[broker.Batch] = broker.Batched([1, 1])
    batch.flush()
    (command,) = driver.commands_of(broker.Batch)
    assert [item.message.delay_ms for item in command.items] == [5000, 0]


@pytest.mark.parametrize("headers", [{}, {ETA: iso(60)}, {"task": "t"}, task(None), {ETA: 5, "id": "1"}])
def test_headers_without_a_time_of_a_task_are_sent_as_they_are(channel, driver, headers):
    message, sent = published(channel, driver, headers)
    assert (message.delay_ms, sent) == (0, headers)


def test_a_task_that_follows_one_with_a_time_does_not_keep_that_time(channel, driver):
    """Celery copies the headers that it does not know from a task to its retry, and to those of its canvas."""
    message, headers = published(channel, driver, task(None, **{KEPT: iso(-60)}))
    assert (message.delay_ms, headers) == (0, task(None))
    message, headers = published(channel, driver, task(iso(9), **{KEPT: iso(-60)}))
    assert (message.delay_ms, headers[KEPT]) == (9000, iso(9))


@pytest.mark.parametrize("eta", ["tomorrow", "", 17, ["2030-01-01"], "2030-13-01T00:00:00", b"2030-01-01"])
def test_a_time_that_cannot_be_read_is_refused_and_nothing_is_sent(channel, driver, eta):
    with pytest.raises(EncodeError, match=r"is no time: .*Give a datetime"):
        channel.prepare_message(b"x", headers=task(eta))
    assert not driver.commands_of(broker.Publish)


def test_a_time_without_a_zone_is_in_the_zone_of_the_application():
    naive = datetime(2030, 7, 1, 12)
    with Celery(set_as_current=True, broker="memory://") as app:
        assert delays.take_due_time(task(naive.isoformat()))[1] == naive.replace(tzinfo=UTC).timestamp()
        app.conf.timezone = "Europe/Berlin"
        headers, due_s = delays.take_due_time(task(naive))
        assert due_s == naive.replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
        assert headers[KEPT] == naive.isoformat()


@given(
    st.datetimes(
        datetime(1990, 1, 1),
        datetime(2200, 1, 1),
        timezones=st.sampled_from([UTC, ZoneInfo("Asia/Kolkata"), ZoneInfo("America/New_York")]),
    )
)
def test_a_task_comes_at_most_a_millisecond_after_its_time(due):
    headers, due_s = delays.take_due_time(task(due.isoformat()))
    assert headers[ETA] is None
    wanted_ms = (due.astimezone(UTC) - datetime.fromtimestamp(NOW_S, UTC)) / timedelta(milliseconds=1)
    microsecond = 0.001  # what a float of seconds leaves
    assert max(0, wanted_ms) - microsecond <= delays.delay_ms(due_s) <= max(0, wanted_ms) + 1


def test_a_time_beyond_the_longest_delay_waits_for_the_longest_delay():
    assert delays.delay_ms(delays.take_due_time(task("9999-12-31T00:00:00+00:00"))[1]) == broker.DURATION_MAX_MS


def test_a_repetition_is_recognized_though_its_delay_is_shorter(channel, driver, clock):
    driver.answers[broker.Publish] = RequestTimeout("not in time")
    with pytest.raises(PublishOutcomeUnknown):
        published(channel, driver, task(iso(60)))
    answer = driver.on_reply
    del driver.answers[broker.Publish]
    clock[0] += 12
    answer(broker.Published(1))
    sent = len(driver.commands_of(broker.Publish))
    channel.basic_publish(channel.prepare_message(b"x", headers=task(iso(60))), routing_key="q")
    assert len(driver.commands_of(broker.Publish)) == sent, "it waits for the first one's answer"
    channel.basic_publish(channel.prepare_message(b"x", headers=task(iso(61))), routing_key="q")
    assert len(driver.commands_of(broker.Publish)) == sent + 1, "another time is another task"


def test_a_task_that_runs_sees_its_eta_again():
    Transport(client=None)
    waited, other = Context({ETA: None, KEPT: iso(60)}), Context({ETA: None})
    for request in (waited, other):
        task_prerun.send(sender=None, task_id="1", task=SimpleNamespace(request=request), args=(), kwargs={})
    assert (waited.eta, other.eta) == (iso(60), None)
