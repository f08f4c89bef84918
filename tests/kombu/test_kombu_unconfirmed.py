"""Publishes that get no answer in time: how long they wait, and that a repetition does not run twice."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from kombu_cluster import Cluster
from kombu_fakes import FakeDriver

import disheap.sync
from disheap.client.core.url import BrokerUrl
from disheap.errors import ConnectionLost, OutcomeUnknown, RequestTimeout, TopicFull
from disheap.protocol import broker
from disheap_kombu import transport
from disheap_kombu.connection import Connection
from disheap_kombu.failures import PublishOutcomeUnknown, QueueFull
from disheap_kombu.publishing import unconfirmed
from kombu import Connection as KombuConnection
from kombu import Queue

PATIENT = {"max_retries": 60, "interval_start": 0.0, "interval_step": 0.2, "interval_max": 0.2}


def publish(channel, text="x", **options):
    channel.basic_publish(channel.prepare_message(text), routing_key="q", **options)


def leave_unanswered(channel, driver, text="x"):
    """Publishes without an answer; returns what the driver calls when it comes after all."""
    driver.answers[broker.Publish] = RequestTimeout("not in time")
    with pytest.raises(PublishOutcomeUnknown):
        publish(channel, text)
    del driver.answers[broker.Publish]
    return driver.on_reply


# --- how long ---


@pytest.mark.parametrize(
    ("url", "seconds"),
    [
        (BrokerUrl(), 10.0),
        (BrokerUrl(session_timeout_ms=120_000), 20.0),
        (BrokerUrl(session_timeout_ms=1000), 4.0),
        (BrokerUrl(session_timeout_ms=86_400_000), 30.0),
        (BrokerUrl(timeout_s=2.0), 2.0),
        (BrokerUrl(confirm_timeout_s=60.0), 60.0),
    ],
)
def test_the_time_for_a_confirm_scales_with_the_session_timeout(url, seconds):
    assert url.confirm_s == seconds


def test_a_publish_and_what_it_declares_wait_no_longer_than_for_a_confirm(channel, driver):
    driver.url = BrokerUrl(confirm_timeout_s=3.0)
    channel.queue_declare("q")
    publish(channel)
    publish(channel, timeout=1.5)
    assert driver.timeouts == [3.0, 3.0, 1.5]


def test_a_consumer_waits_for_each_answer_as_long_as_for_any_request(channel, driver):
    channel.basic_consume("q", "tag")
    publish(channel)
    assert driver.timeouts[-1] is None


# --- publishing the same message again ---


def test_a_repetition_waits_for_the_answer_to_the_first_and_sends_nothing(channel, driver):
    answer = leave_unanswered(channel, driver)
    with pytest.raises(PublishOutcomeUnknown):
        publish(channel)  # still none
    answer(broker.Published(1))
    publish(channel)
    assert len(driver.commands_of(broker.Publish)) == 1
    publish(channel)
    assert len(driver.commands_of(broker.Publish)) == 2, "the same message once more is another one"


def test_another_message_is_sent(channel, driver):
    leave_unanswered(channel, driver)
    publish(channel, "y")
    assert len(driver.commands_of(broker.Publish)) == 2


def test_a_refusal_that_comes_late_reaches_the_repetition(channel, driver):
    answer = leave_unanswered(channel, driver)
    answer(TopicFull("no room"))
    with pytest.raises(QueueFull):
        publish(channel)
    publish(channel)
    assert len(driver.commands_of(broker.Publish)) == 2


def test_a_publish_of_an_ended_session_is_sent_again(channel, driver):
    answer = leave_unanswered(channel, driver)
    answer(OutcomeUnknown("the session is over"))
    publish(channel)
    assert len(driver.commands_of(broker.Publish)) == 2


def test_a_publish_that_was_never_sent_is_sent_by_its_repetition(channel, driver, monkeypatch):
    def room(timeout_s):
        raise RequestTimeout("the window stayed full")

    with monkeypatch.context() as full:
        full.setattr(driver, "room", room)
        with pytest.raises(PublishOutcomeUnknown):
            publish(channel)
    publish(channel)
    assert len(driver.commands_of(broker.Publish)) == 1


def test_a_repetition_is_not_refused_for_want_of_a_session(channel, driver, connection):
    answer = leave_unanswered(channel, driver)
    connection.client.connect_timeout, driver.ready = 0.5, False
    answer(broker.Published(1))
    publish(channel)
    assert len(driver.commands_of(broker.Publish)) == 1


def test_no_more_than_a_bound_are_remembered(channel, driver, monkeypatch):
    monkeypatch.setattr(unconfirmed, "UNCONFIRMED_MAX", 2)
    for text in ("a", "b", "c"):
        leave_unanswered(channel, driver, text)
    publish(channel, "a")
    assert len(driver.commands_of(broker.Publish)) == 4, "the oldest was forgotten, and is sent"
    for text in ("b", "c"):
        with pytest.raises(PublishOutcomeUnknown):
            publish(channel, text)
    assert len(driver.commands_of(broker.Publish)) == 4


# --- after the connection was given up ---


class Owner(SimpleNamespace):
    """kombu's connection."""

    __hash__ = object.__hash__

    def __init__(self):
        super().__init__(
            hostname="disheap://h1", port=None, alt=[], ssl=None, transport_options={}, connect_timeout=1.0, cycle=None
        )
        self.declared_entities = set()


@pytest.fixture
def drivers(monkeypatch):
    made = []

    def make(url, client):
        made.append(FakeDriver())
        made[-1].url = url
        return made[-1]

    monkeypatch.setattr(transport, "BlockingClient", make)
    yield made
    for driver in made:
        driver.close()


def test_the_next_connection_continues_a_session_with_an_unconfirmed_publish(drivers):
    shown = transport.Transport(Owner())
    first = shown.establish_connection()
    answer = leave_unanswered(first.channel(), drivers[0])
    shown._collect(first)
    assert not first.connected and drivers[0].suspended and drivers[0].closed is None
    second = shown.establish_connection()
    answer(broker.Published(1))
    publish(second.channel())
    assert len(drivers) == 1 and len(drivers[0].commands_of(broker.Publish)) == 1


def test_the_session_goes_on_in_a_worker_that_has_learned_its_name(drivers, monkeypatch):
    shown = transport.Transport(Owner())
    first = shown.establish_connection()
    leave_unanswered(first.channel(), drivers[0])
    shown._collect(first)
    monkeypatch.setattr(transport, "default_label", lambda: "celery w1@here, pid 1")
    assert shown.establish_connection().driver is drivers[0]


def test_a_connection_without_unconfirmed_publishes_is_closed(drivers):
    shown = transport.Transport(Owner())
    first = shown.establish_connection()
    publish(first.channel())
    shown._collect(first)
    assert drivers[0].closed == "aborted"
    shown.establish_connection()
    assert len(drivers) == 2


def test_a_consumers_session_is_left_so_that_others_get_what_it_held(drivers):
    shown = transport.Transport(Owner())
    first = shown.establish_connection()
    leave_unanswered(first.channel(), drivers[0])
    drivers[0].holds_anything = True
    shown._collect(first)
    assert drivers[0].closed == "aborted"


def test_another_kombu_connection_gets_a_session_of_its_own(drivers):
    shown = transport.Transport(Owner())
    first = shown.establish_connection()
    leave_unanswered(first.channel(), drivers[0])
    shown._collect(first)
    transport.Transport(Owner()).establish_connection()
    assert len(drivers) == 2


def test_while_no_node_answers_the_outcome_is_unknown_and_the_session_is_kept(drivers):
    shown = transport.Transport(Owner())
    first = shown.establish_connection()
    leave_unanswered(first.channel(), drivers[0])
    shown._collect(first)

    def connect(timeout_s):
        raise ConnectionLost("no node takes a session")

    drivers[0].connect, reachable = connect, drivers[0].connect
    with pytest.raises(PublishOutcomeUnknown, match="no node takes a session"):
        shown.establish_connection()
    drivers[0].connect = reachable
    assert isinstance(shown.establish_connection(), Connection)
    assert len(drivers) == 1


# --- with nodes ---


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path / "data")
    cluster.leader()  # waits for one: the tests' own connections have little time
    yield cluster
    cluster.thaw()
    cluster.kill()


@pytest.mark.proof
@pytest.mark.parametrize("again", ["kombu", "caller"])
def test_a_publish_without_quorum_is_enqueued_once_however_often_repeated(cluster, again):
    with KombuConnection(f"{cluster.url}?confirm_timeout_s=0.5", connect_timeout=0.5) as connection:
        queue = Queue("q", channel=connection, auto_delete=False)
        queue.declare()
        producer = connection.Producer()
        producer.publish("warm", routing_key="q", retry=False)
        cluster.freeze_followers()
        if again == "kombu":
            threading.Timer(3.0, cluster.thaw).start()
            producer.publish("x", routing_key="q", retry=True, retry_policy=PATIENT)
        else:
            with pytest.raises(PublishOutcomeUnknown):
                producer.publish("x", routing_key="q", retry=False)
            cluster.thaw()
            producer.publish("x", routing_key="q", retry=True, retry_policy=PATIENT)
    with disheap.sync.connect(cluster.url) as client:
        assert client.topic("q").stats().ready == 2
