"""Publishes that return before their confirm: their bounds, their order, and who hears of those that fail."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
import weakref
from types import SimpleNamespace

import pytest
from celery import signals
from kombu.exceptions import OperationalError
from kombu_cluster import HERE, Cluster, wait_until
from kombu_fakes import FakeDriver

import disheap.sync
from disheap.errors import ConfigError, ConnectionLost, DiskFull, OutcomeUnknown, PayloadTooLarge, TopicFull
from disheap.protocol import broker
from disheap_kombu import options, transport
from disheap_kombu.connection import Connection
from disheap_kombu.failures import (
    BrokerFull,
    BrokerUnreachable,
    EarlierPublishesFailed,
    PublishOutcomeUnknown,
    QueueFull,
)
from disheap_kombu.publishing import window as windows
from disheap_kombu.publishing.messages import decode
from disheap_kombu.publishing.window import Window, flush_publishes
from kombu import Connection as KombuConnection
from kombu import Queue

OK = broker.Published(1)


@pytest.fixture
def connection(driver):
    connection = Connection(driver, SimpleNamespace(declared_entities=set()), window=Window(3))
    yield connection
    connection.collect()


def publish(channel, text="x", **more):
    channel.basic_publish(channel.prepare_message(text), routing_key="q", **more)


def publish_all(channel, *texts):
    for text in texts:
        publish(channel, text)


def bodies(driver):
    return [decode(command.message.payload).body for command in driver.commands_of(broker.Publish)]


# --- what returns when ---


def test_a_publish_in_the_window_leaves_at_once_and_waits_for_no_answer(channel, driver):
    publish_all(channel, "a", "b", "c")
    assert bodies(driver) == [b"a", b"b", b"c"] and len(driver.unanswered) == 3
    assert driver.flushed_commands == len(driver.commands)


def test_a_full_window_waits_for_the_oldest(channel, driver):
    publish_all(channel, "a", "b", "c")
    driver.arriving.append(OK)
    publish(channel, "d")
    assert bodies(driver) == [b"a", b"b", b"c", b"d"] and len(driver.unanswered) == 3


def test_a_window_that_stays_full_refuses_what_was_not_sent(channel, driver):
    publish_all(channel, "a", "b", "c")
    with pytest.raises(BrokerUnreachable, match=r"3 messages wait.*This message was not sent"):
        publish(channel, "d")
    assert bodies(driver) == [b"a", b"b", b"c"]


def test_the_window_bounds_bytes_as_well(channel, driver, monkeypatch):
    monkeypatch.setattr(windows, "WINDOW_BYTES_MAX", 1000)
    publish(channel, "a" * 700)
    with pytest.raises(BrokerUnreachable):
        publish(channel, "b" * 700)
    driver.answer_sent(OK)
    publish(channel, "b" * 2000)  # larger than the bound, and alone
    assert len(driver.unanswered) == 1


def test_a_mandatory_publish_waits_for_its_own_answer(channel, driver):
    publish(channel, "a")
    publish(channel, "b", mandatory=True)
    assert len(driver.unanswered) == 1 and len(driver.timeouts) == 1


def test_a_message_that_is_too_large_raises_at_its_own_publish(channel, driver):
    driver.answers[broker.Publish] = PayloadTooLarge("too large")
    with pytest.raises(Exception, match="too large") as caught:
        publish(channel)
    assert not isinstance(caught.value, EarlierPublishesFailed)
    del driver.answers[broker.Publish]
    publish_all(channel, "a", "b", "c")
    assert len(driver.unanswered) == 3, "it takes no room in the window"


# --- what fails ---


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (TopicFull("full"), QueueFull),
        (DiskFull("full"), BrokerFull),
        (OutcomeUnknown("the session is over"), PublishOutcomeUnknown),
        (ConnectionLost("closed"), PublishOutcomeUnknown),
        (broker.Published(0, 1), QueueFull),
    ],
)
def test_a_failure_is_raised_by_the_next_publish_which_sends_nothing(channel, driver, answer, error):
    publish_all(channel, "a", "b")
    driver.answer_sent(OK, answer)
    with pytest.raises(EarlierPublishesFailed, match="routing key 'q'") as caught:
        publish(channel, "c")
    (failed,) = caught.value.failed
    assert (failed.message.body, failed.exchange, failed.routing_key, type(failed.error)) == ("b", "", "q", error)
    assert bodies(driver) == [b"a", b"b"]
    publish(channel, "c")  # once raised, it is over
    assert bodies(driver) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("how", ["mandatory", "batch", "flush", "close"])
def test_a_failure_is_raised_by_whatever_comes_next(channel, connection, driver, how):
    publish(channel)
    driver.answer_sent(TopicFull("full"))
    with pytest.raises(EarlierPublishesFailed):
        match how:
            case "mandatory":
                publish(channel, mandatory=True)
            case "batch":
                batch = channel.create_publish_batch(10)
                batch.publish(channel.prepare_message("b"), routing_key="q")
                batch.flush()
            case "flush":
                connection._window.flush()
            case "close":
                connection.close()
    assert len(driver.commands_of(broker.Publish)) == 1 and not driver.commands_of(broker.Batch)


def test_kombu_does_not_publish_again_after_the_failure_of_another_message():
    assert issubclass(EarlierPublishesFailed, OperationalError)
    shown = transport.Transport
    retried = (*shown.recoverable_connection_errors, *shown.recoverable_channel_errors)
    assert not issubclass(EarlierPublishesFailed, (*retried, *shown.connection_errors, *shown.channel_errors))


def test_a_message_without_a_queue_in_another_session_has_failed(channel, driver):
    channel.queue_declare("q")
    publish(channel)
    driver.answer_sent(broker.Published(0))
    publish(channel)  # in the session that declared, nobody wants it, as with AMQP
    driver.session_id = 2
    driver.answer_sent(broker.Published(0))
    with pytest.raises(EarlierPublishesFailed, match="declare again"):
        publish(channel)


# --- the end ---


def test_closing_waits_for_the_confirmations(channel, connection, driver):
    publish_all(channel, "a", "b")
    driver.arriving.extend([OK, OK])
    connection.close()
    assert driver.closed == "closed" and not driver.unanswered


def test_closing_reports_what_got_no_confirmation(channel, connection, driver):
    publish_all(channel, "a", "b")
    driver.arriving.append(OK)
    with pytest.raises(EarlierPublishesFailed) as caught:
        connection.close()
    (failed,) = caught.value.failed
    assert failed.message.body == "b" and isinstance(failed.error, PublishOutcomeUnknown)
    assert driver.closed == "closed"
    connection.close()


def test_a_flush_whose_time_is_over_leaves_the_messages_under_way(channel, connection, driver):
    publish(channel)
    with pytest.raises(PublishOutcomeUnknown, match="1 published messages have no confirmation"):
        connection._window.flush(0.1)
    driver.arriving.append(OK)
    connection._window.flush(0.1)


def test_a_dropped_connection_leaves_its_failures_to_the_next_one(channel, connection, driver):
    publish(channel)
    driver.holds_anything = True
    connection.suspend_or_collect()
    assert driver.closed == "aborted"
    driver = FakeDriver()
    following = Connection(driver, SimpleNamespace(declared_entities=set()), window=connection._window)
    with pytest.raises(EarlierPublishesFailed, match="given up"):
        publish(following.channel())
    following.collect()
    driver.close()


def test_a_session_with_unconfirmed_messages_waits_for_the_next_connection(channel, connection, driver):
    class Owner(SimpleNamespace):
        __hash__ = object.__hash__

    connection.client = Owner()
    publish(channel)
    connection.suspend_or_collect()
    assert driver.suspended and driver.closed is None
    driver.answer_sent(OK)
    connection._window.flush()


def test_the_end_of_a_process_raises_what_has_failed():
    class Owner(SimpleNamespace):
        __hash__ = object.__hash__

    owner, driver = Owner(), FakeDriver()
    window = windows.window_of(owner, 3)
    assert windows.window_of(owner, 4) is window and window.limit == 4
    channel = Connection(driver, owner, window=window).channel()
    publish_all(channel, "a", "b")
    driver.arriving.extend([OK, TopicFull("full")])
    with pytest.raises(EarlierPublishesFailed, match="1 messages"):
        windows.flush_at_exit(sender=None, pid=1, exitcode=0)  # as Celery's signal calls it
    channel.connection.close()


def test_a_process_of_celerys_pool_confirms_before_it_ends(driver):
    class Owner(SimpleNamespace):
        __hash__ = object.__hash__

    owner = Owner()
    channel = Connection(driver, owner, window=windows.window_of(owner, 3)).channel()
    windows._watch_the_end()  # an earlier test may have made the first window before Celery was loaded
    publish_all(channel, "a", "b")
    driver.arriving.extend([OK, TopicFull("full")])
    said = dict(signals.worker_process_shutdown.send(sender=None, pid=1, exitcode=0))
    assert isinstance(said[windows.flush_at_exit], EarlierPublishesFailed) and not driver.unanswered
    channel.connection.close()


@pytest.mark.parametrize("end", ["close", "collect"])
def test_a_connection_that_has_ended_is_freed_with_its_window(end):
    class Owner(SimpleNamespace):
        __hash__ = object.__hash__

    owner, driver = Owner(), FakeDriver()
    window, freed = windows.window_of(owner, 3), weakref.ref(owner)
    channel = Connection(driver, owner, window=window).channel()
    publish(channel)
    driver.answer_sent(OK)
    getattr(channel.connection, end)()
    del owner, driver, window, channel
    gc.collect()
    assert freed() is None


def test_a_failure_outlives_the_connection_that_nobody_refers_to():
    class Owner(SimpleNamespace):
        __hash__ = object.__hash__

    owner, driver = Owner(), FakeDriver()
    channel, freed = Connection(driver, owner, window=windows.window_of(owner, 3)).channel(), weakref.ref(owner)
    publish(channel)
    driver.answer_sent(TopicFull("full"))
    del owner, driver, channel
    gc.collect()
    with pytest.raises(EarlierPublishesFailed, match="full"):
        flush_publishes()
    gc.collect()
    assert freed() is None


def test_in_the_child_of_a_fork_nothing_is_under_way(channel, connection, driver):
    publish_all(channel, "a", "b")
    connection.abort_in_child()
    assert len(connection._window) == 0
    connection._window.flush()


def test_the_session_of_an_idle_program_lives_until_the_window_is_empty(channel, keepalive_threads, driver):
    publish(channel)
    assert len(keepalive_threads()) == 1
    assert channel.connection.keepalive_tick()
    driver.answer_sent(OK)
    assert not channel.connection.keepalive_tick()


# --- the options ---


def test_the_options_of_the_window_and_their_bounds():
    assert options.confirm_window({}) == options.confirm_window({"confirm": "wait"}) == 0
    assert options.confirm_window({"confirm": "window"}) == options.CONFIRM_WINDOW_DEFAULT
    assert options.confirm_window({"confirm": "window", "confirm_window": 7}) == 7


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"confirm": "never"}, "confirm is 'wait'.*or 'window'.*not 'never'"),
        ({"confirm_window": 10}, "no effect without confirm"),
        ({"confirm": "window", "confirm_window": 0}, "from 1 to 8192, not 0"),
        ({"confirm": "window", "confirm_window": 9000}, "from 1 to 8192, not 9000"),
        ({"confirm": "window", "confirm_window": "10"}, "from 1 to 8192, not '10'"),
        ({"confirm": "window", "confirm_window": True}, "from 1 to 8192, not True"),
    ],
)
def test_options_of_the_window_that_make_no_sense_are_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        options.confirm_window(given)


def test_the_options_of_the_window_do_not_warn():
    owner = SimpleNamespace(
        hostname="disheap://h1",
        port=None,
        alt=[],
        ssl=None,
        transport_options={"confirm": "window", "confirm_window": 9},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert options.broker_url(owner, "disheap") == "disheap://h1"


# --- with nodes ---


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path / "data", "file")
    cluster.leader()
    yield cluster
    cluster.thaw()
    cluster.kill()


def taken(cluster, number):
    """The bodies in the queue, in order."""
    with disheap.sync.connect(cluster.url) as client:
        found = client.topic("q").pop(number + 1)
        return [decode(message.payload).body for message in found]


@pytest.mark.proof
def test_messages_in_the_window_of_a_killed_leader_arrive_once_and_in_order(cluster):
    """The leader is stopped first, so that the window is full of messages without an answer when it is killed."""
    number, at = 600, 300
    options_ = {"confirm": "window", "confirm_window": 100}
    with KombuConnection(cluster.url, transport_options=options_, connect_timeout=20) as connection:
        Queue("q", channel=connection, auto_delete=False).declare()
        producer = connection.Producer(serializer=None)
        for one in range(number):
            if one == at:
                leader = cluster.leader()
                flush_publishes()
                leader.signal(19)
            if one == at + 99:  # the window has room for one more
                leader.kill()
                cluster.nodes.remove(leader)
            producer.publish(str(one), routing_key="q", retry=False)
        flush_publishes()
    found = taken(cluster, number)
    assert found == [str(one).encode() for one in range(number)]


PROGRAM = """
import kombu, sys
connection = kombu.Connection(sys.argv[1], transport_options={"confirm": "window"})
kombu.Queue("q", channel=connection, auto_delete=False).declare()
producer = connection.Producer(serializer=None)
for number in range(500):
    exchange = sys.argv[2] if number == 250 else ""
    producer.publish(str(number), routing_key="q", exchange=exchange)
"""


def run_program(cluster, exchange):
    done = subprocess.run(
        [sys.executable, "-c", "import disheap" + PROGRAM, cluster.url, exchange],
        cwd=HERE,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr


def test_a_program_that_ends_without_closing_loses_nothing(cluster):
    assert run_program(cluster, "") == ""
    with disheap.sync.connect(cluster.url) as client:
        wait_until(lambda: client.topic("q").stats().ready == 500, "every message is there")


def test_a_program_that_ends_shows_what_failed(cluster):
    said = run_program(cluster, "nowhere")
    assert "1 messages that were published before have failed" in said and "'nowhere'" in said
