"""AMQP's verbs, over a client without a node."""

from __future__ import annotations

import gc
import os
import socket
import threading
import warnings
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from amqp.exceptions import (
    AMQPNotImplementedError,
    ChannelError,
    ConsumerCancelled,
    NotFound,
    PreconditionFailed,
    RecoverableConnectionError,
    ResourceLocked,
)
from kombu_fakes import delivery

from disheap.client.core.broker_session import SessionLost
from disheap.errors import ConnectionLost, ExchangeNotFound, NotSent, OutcomeUnknown, TopicLocked, TopicNotFound
from disheap.protocol import broker
from disheap.protocol.broker import deaths
from disheap_kombu.channel import UNLIMITED_BYTES
from disheap_kombu.connection import Connection
from disheap_kombu.failures import PublishOutcomeUnknown
from disheap_kombu.publishing import messages
from disheap_kombu.publishing.messages import Outgoing
from disheap_kombu.reading.waker import Waker


def consume(channel, **options):
    got = []
    channel.basic_consume("q", consumer_tag="c", callback=got.append, **options)
    return got


def test_acknowledging_a_message_of_a_no_ack_consumer_does_nothing(channel, driver):
    got = consume(channel, no_ack=True)
    driver.receive(delivery(1, 10))
    channel.connection.drain_events(timeout=1)
    sent = len(driver.commands)
    got[0].ack()
    assert len(driver.commands) == sent
    channel.basic_cancel("c")
    got = consume(channel)
    driver.receive(delivery(2, 11))
    channel.connection.drain_events(timeout=1)
    got[0].ack()  # the tag is used again, by a consumer with acks
    channel.connection.flush()
    assert driver.commands_of(broker.Ack)[-1].tokens == [(11, 1)]


# --- publishing ---


def test_a_publish_waits_for_its_confirm(channel, driver):
    channel.basic_publish(channel.prepare_message("x", priority=-7), exchange="e", routing_key="k")
    (command,) = driver.commands_of(broker.Publish)
    message = command.message
    assert (command.exchange, command.routing_key, message.priority, message.expires_ms) == ("e", "k", -7, 0)


def test_a_transient_publish_is_sent_and_never_waited_for(channel, driver):
    message = channel.prepare_message("x", properties={"delivery_mode": 1, "expiration": "500"})
    channel.basic_publish(message, routing_key="q")
    ((mark, command),) = driver.commands
    assert mark == "transient" and command.message.expires_ms == 500
    assert driver.flushed_commands == 1


@pytest.mark.parametrize("exchange", ["celery.pidbox", "reply.celery.pidbox"])
def test_remote_control_is_transient_whatever_its_messages_say(channel, driver, exchange):
    """kombu publishes it as persistent, and a worker that waits for its confirm ends with it."""
    channel.basic_publish(channel.prepare_message("x", properties={"delivery_mode": 2}), exchange=exchange)
    ((mark, command),) = driver.commands
    assert mark == "transient" and command.exchange == exchange


def test_reply_to_that_kombu_fills_in_late_is_published(channel, driver):
    properties = {"reply_to": None}
    message = channel.prepare_message("x", properties=properties)
    properties["reply_to"] = "late"
    channel.basic_publish(message, routing_key="q")
    from disheap_kombu.publishing import messages

    assert messages.decode(driver.commands_of(broker.Publish)[0].message.payload).properties == {"reply_to": "late"}


def test_an_unroutable_mandatory_message_is_returned(channel, driver):
    driver.answers[broker.Publish] = broker.Published(0)
    with pytest.raises(ChannelError) as raised:
        channel.basic_publish(channel.prepare_message("x"), routing_key="nowhere", mandatory=True)
    assert raised.value.reply_code == 312
    returned = []
    channel.events["basic_return"].add(lambda *given: returned.append(given[1:3]))
    channel.basic_publish(channel.prepare_message("x"), exchange="e", routing_key="nowhere", mandatory=True)
    assert returned == [("e", "nowhere")]
    channel.basic_publish(channel.prepare_message("x"), routing_key="nowhere")  # without: dropped, as in AMQP


def test_a_publish_without_an_answer_raises_outcome_unknown(channel, driver):
    driver.answers[broker.Publish] = OutcomeUnknown("lost")
    with pytest.raises(PublishOutcomeUnknown):
        channel.basic_publish(channel.prepare_message("x"), routing_key="q")


def test_a_publish_that_was_taken_back_may_be_tried_again(channel, driver):
    driver.answers[broker.Publish] = NotSent("nobody there")
    with pytest.raises(RecoverableConnectionError, match="nobody there"):
        channel.basic_publish(channel.prepare_message("x"), routing_key="q")


@pytest.mark.parametrize(
    ("exchange", "answer"), [("", broker.Published(0)), ("e", broker.Published(0)), ("e", ExchangeNotFound("e"))]
)
def test_a_broker_that_lost_the_declarations_is_a_recoverable_error(connection, channel, driver, exchange, answer):
    channel.queue_declare("q")
    channel.queue_bind("q", "e", "q")
    driver.answers[broker.Publish] = answer
    driver.session_id = 2  # the first one lapsed
    with pytest.raises(RecoverableConnectionError, match="declare again"):
        channel.basic_publish(channel.prepare_message("x"), exchange=exchange, routing_key="q")
    assert not connection.connected


@pytest.mark.parametrize(("exchange", "routing_key"), [("", "another"), ("news", "q")])
def test_a_publish_without_a_declared_route_is_dropped(channel, driver, exchange, routing_key):
    channel.queue_declare("q")
    driver.answers[broker.Publish] = broker.Published(0)
    driver.session_id = 2
    channel.basic_publish(channel.prepare_message("x"), exchange=exchange, routing_key=routing_key)


# --- consuming ---


def test_deliveries_reach_their_consumers_callback(connection, channel, driver):
    got = consume(channel)
    driver.receive(delivery(1, 10, body="a", priority=9), delivery(1, 11, body="b"))
    connection.drain_events(timeout=1)
    assert [message.body for message in got] == [b"a", b"b"]
    assert got[0].properties["priority"] == got[0].delivery_info["priority"] == 9


def test_each_message_dispatched_ahead_answers_one_later_call(connection, channel, driver):
    got = consume(channel)
    driver.receive(*(delivery(1, number) for number in range(3)))
    for _ in range(3):
        connection.drain_events(timeout=0)
    assert len(got) == 3
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=0.01)


def test_what_comes_after_a_batch_is_dispatched_by_the_next_call_and_counted(connection, channel, driver):
    got = consume(channel)
    driver.receive(*(delivery(1, number) for number in range(3)))
    connection.drain_events(timeout=0)
    driver.receive(delivery(1, 3, body="urgent"))
    connection.drain_events(timeout=0)
    assert got[-1].body == b"urgent"
    for _ in range(2):
        connection.drain_events(timeout=0)
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=0.01)


def test_prefetch_is_credit_and_none_is_a_named_bound(channel, driver):
    consume(channel)
    channel.basic_qos(0, 8, True)
    channel.basic_consume("other", consumer_tag="d")
    channel.basic_qos(1000, 8, True)
    first, second = driver.commands_of(broker.Subscribe)
    assert (first.credit, first.credit_bytes) == (broker.CREDIT_MAX, UNLIMITED_BYTES)
    assert (second.credit, second.credit_bytes) == (8, broker.CREDIT_BYTES_MAX), "the count alone decides"
    assert driver.commands_of(broker.SetCredit) == [
        broker.SetCredit(0, 8, broker.CREDIT_BYTES_MAX, 1),
        broker.SetCredit(0, 8, 1000, 1),
    ]


def test_the_consumers_of_a_channel_share_their_prefetch_count(connection, channel, driver):
    other = connection.channel()
    for number, one in ((1, channel), (2, channel), (3, other)):
        one.basic_qos(0, number, False)
        one.basic_consume("q", consumer_tag=str(number))
    other.basic_consume("q", no_ack=True)
    first, second, third, no_ack = driver.commands_of(broker.Subscribe)
    assert first.group == second.group != third.group
    assert no_ack.group == 0
    assert driver.commands_of(broker.SetCredit)[-1] == broker.SetCredit(0, 2, broker.CREDIT_BYTES_MAX, first.group)


def test_more_consumers_than_may_share_a_credit_have_another(channel, driver, monkeypatch):
    monkeypatch.setattr(broker, "CREDIT_GROUP_CONSUMERS_MAX", 2)
    for number in range(5):
        channel.basic_consume("q", consumer_tag=str(number))
    assert [command.group for command in driver.commands_of(broker.Subscribe)] == [1, 1, 2, 2, 3]
    channel.basic_qos(0, 4, True)
    assert [command.group for command in driver.commands_of(broker.SetCredit)] == [1, 2, 3]


def test_a_no_ack_consumer_has_nothing_to_acknowledge(connection, channel, driver):
    got = consume(channel, no_ack=True)
    driver.receive(delivery(1, 10))
    connection.drain_events(timeout=1)
    assert [ack.tokens for ack in driver.commands_of(broker.Ack)] == [[(10, 1)]]
    (subscribed,) = driver.commands_of(broker.Subscribe)
    assert not subscribed.no_ack and subscribed.credit_bytes, "no more is on its way than it can take"
    with pytest.raises(PreconditionFailed):
        channel.basic_ack(got[0].delivery_tag)


@pytest.mark.parametrize(
    ("queue", "exchange", "without_leases"),
    [
        ({"auto_delete": True}, "celeryev", True),
        ({"exclusive": True, "auto_delete": False}, "celery.pidbox", True),
        ({"auto_delete": True}, "", False),  # an rpc:// result goes to its queue by name
        ({"auto_delete": False}, "news", False),  # it outlives its consumer
    ],
)
def test_only_transient_queues_are_consumed_without_leases(channel, driver, queue, exchange, without_leases):
    channel.queue_declare("q", **queue)
    channel.queue_bind("q", exchange, "#")
    channel.basic_consume("q", no_ack=True)
    channel.basic_consume("q")
    without, with_acks = driver.commands_of(broker.Subscribe)
    assert without.no_ack is without_leases
    assert with_acks.no_ack is False


def test_a_message_without_a_lease_is_not_acknowledged(connection, channel, driver):
    channel.queue_declare("q", auto_delete=True)
    channel.queue_bind("q", "celeryev", "#")
    got = consume(channel, no_ack=True)
    driver.receive(delivery(1, 10, epoch=0))
    connection.drain_events(timeout=1)
    got[0].ack()
    connection.flush()
    assert len(got) == 1
    assert driver.commands_of(broker.Ack) == []


def test_a_message_is_not_acknowledged_before_somebody_says_so(connection, channel, driver):
    got = consume(channel)
    driver.receive(delivery(1, 10))
    connection.drain_events(timeout=1)
    connection.flush()
    assert driver.commands_of(broker.Ack) == []
    channel.basic_ack(got[0].delivery_tag)
    assert [ack.tokens for ack in driver.commands_of(broker.Ack)] == [[(10, 1)]]


def test_acks_inside_a_callback_go_together(connection, channel, driver):
    channel.basic_consume("q", consumer_tag="c", callback=lambda raw: channel.basic_ack(raw.delivery_tag))
    driver.receive(*(delivery(1, number) for number in range(5)))
    connection.drain_events(timeout=1)
    tokens = [token for ack in driver.commands_of(broker.Ack) for token in ack.tokens]
    assert tokens == [(number, 1) for number in range(5)]
    assert len(driver.commands_of(broker.Ack)) < 5
    assert driver.flushed_commands == len(driver.commands)


def test_an_ack_outside_a_callback_goes_at_once(connection, channel, driver):
    got = consume(channel)
    driver.receive(delivery(1, 10, epoch=2))
    connection.drain_events(timeout=1)
    got[0].ack()
    assert driver.commands_of(broker.Ack) == [broker.Ack([(10, 2)])]
    assert driver.flushed_commands == len(driver.commands)


def test_an_ack_of_another_thread_does_not_wait_for_a_callback_that_takes_long(connection, channel, driver):
    got = consume(channel)
    driver.receive(delivery(1, 10))
    connection.drain_events(timeout=1)
    channel.basic_consume("q", consumer_tag="long", callback=lambda _: _elsewhere(got[0].ack))
    driver.receive(delivery(2, 11))
    connection.drain_events(timeout=1)
    assert driver.commands_of(broker.Ack) == [broker.Ack([(10, 1)])]


def _elsewhere(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)


def test_multiple_acknowledges_everything_up_to_the_tag(connection, channel, driver):
    got = consume(channel)
    driver.receive(*(delivery(1, number) for number in range(4)))
    connection.drain_events(timeout=1)
    channel.basic_ack(got[2].delivery_tag, multiple=True)
    assert [ack.tokens for ack in driver.commands_of(broker.Ack)] == [[(0, 1), (1, 1), (2, 1)]]
    channel.basic_ack(0, multiple=True)
    assert [ack.tokens for ack in driver.commands_of(broker.Ack)][1:] == [[(3, 1)]]
    with pytest.raises(PreconditionFailed, match="unknown delivery tag"):
        channel.basic_ack(got[2].delivery_tag)


@pytest.mark.parametrize(("requeue", "discard"), [(True, False), (False, True)])
def test_reject_gives_back_or_drops(connection, channel, driver, requeue, discard):
    got = consume(channel)
    driver.receive(delivery(1, 10))
    connection.drain_events(timeout=1)
    got[0].reject(requeue=requeue)
    assert driver.commands_of(broker.Nack) == [broker.Nack([(10, 1)], 0, discard)]


def test_recover_gives_back_all_that_callbacks_have_seen(connection, channel, driver):
    consume(channel)
    driver.receive(delivery(1, 10), delivery(1, 11))
    connection.drain_events(timeout=1)
    channel.basic_recover(requeue=True)
    assert driver.commands_of(broker.Nack) == [broker.Nack([(10, 1), (11, 1)], 0, False)]


def test_get_takes_one_message_and_leaves_other_deliveries_in_their_turn(connection, channel, driver):
    got = consume(channel)

    def pop(command):
        driver.receive_during_call(delivery(1, 10), delivery(99, 20, body="popped"), broker.PopDone(99, 1))
        return broker.Subscribed(99)

    driver.answers[broker.Pop] = pop
    message = channel.basic_get("q")
    assert message.body == b"popped" and got == []
    message.ack()
    connection.drain_events(timeout=0)
    assert [m.delivery_tag for m in got] == [2]
    assert driver.commands_of(broker.Ack) == [broker.Ack([(20, 1)])]


def test_get_from_an_empty_queue_is_none(channel, driver):
    def pop(command):
        driver.receive_during_call(broker.PopDone(5, 0))
        return broker.Subscribed(5)

    driver.answers[broker.Pop] = pop
    assert channel.basic_get("q") is None


def test_deliveries_to_an_ended_consumer_go_back_unseen(connection, channel, driver):
    got = consume(channel)
    driver.receive_during_call(delivery(1, 10))
    channel.basic_cancel("c")
    assert driver.commands_of(broker.Cancel) == [broker.Cancel(1, False)]
    assert got == [] and driver.commands_of(broker.Nack) == [broker.Nack([(10, 1)], release=True)]


def test_late_deliveries_to_a_cancelled_consumer_go_back_without_a_drain(connection, channel, driver):
    got = consume(channel)
    driver.receive(delivery(1, 10))
    connection.read()  # it waits for its callback
    channel.basic_cancel("c", nowait=True)
    assert driver.commands_of(broker.Nack) == [broker.Nack([(10, 1)], release=True)]
    driver.receive(delivery(1, 11))
    connection.heartbeat()
    assert got == [] and driver.commands_of(broker.Nack)[1:] == [broker.Nack([(11, 1)], release=True)]


def test_the_end_of_a_consumer_or_channel_waits_for_the_broker_by_default(channel, driver):
    consume(channel)
    channel.basic_cancel("c", nowait=True)
    assert driver.waits == 0
    consume(channel)
    channel.basic_cancel("c")
    waited = driver.waits
    assert waited
    channel.close()
    assert driver.waits > waited


def test_a_query_waits_for_the_commands_before_it(channel, driver):
    driver.answers[broker.ListExchanges] = broker.ExchangeInfos([("e", "direct")], [])
    channel.basic_publish(channel.prepare_message("x", properties={"delivery_mode": 1}), routing_key="q")
    channel.exchange_declare("e", passive=True)
    assert driver.commands[-2:] == [broker.Ack([]), broker.ListExchanges("e", 0, 1)] and driver.waits == 1


def test_a_consumer_that_the_broker_ended_is_told(connection, channel, driver):
    ended = []
    consume(channel, on_cancel=ended.append)
    driver.receive(broker.ConsumerEnded(1, "topic deleted"))
    connection.drain_events(timeout=1)
    assert ended == ["c"]
    consume(channel)
    driver.receive(broker.ConsumerEnded(2, "topic deleted"))
    with pytest.raises(ConsumerCancelled, match="topic deleted"):
        connection.drain_events(timeout=1)


def test_a_lapsed_session_is_a_recoverable_error_and_ends_the_connection(connection, channel, driver):
    consume(channel)
    driver.receive(SessionLost())
    with pytest.raises(RecoverableConnectionError, match=r"lapsed.* for too long .*ended .*started again"):
        connection.drain_events(timeout=1)
    assert not connection.connected and channel.connection is None
    with pytest.raises(RecoverableConnectionError):
        channel.basic_ack(1)


# --- declarations ---


def test_a_queues_arguments_become_its_topics_settings(channel, driver):
    arguments = channel.prepare_queue_arguments(
        {"x-queue-type": "quorum"}, expires=10.0, message_ttl=300.0, max_length=5, max_priority=10
    )
    declared = channel.queue_declare("q", exclusive=True, auto_delete=True, arguments=arguments)
    assert declared == ("q", 0, 0)
    (command,) = driver.commands_of(broker.CreateTopic)
    assert command.settings == broker.TopicSettings(
        max_messages=5,
        message_ttl_ms=300_000,
        expires_ms=10_000,
        auto_delete=True,
        exclusive=True,
        overflow="drop",
        priority_max=10,
    )


def test_a_queue_without_a_name_gets_one(channel):
    first, second = channel.queue_declare("").queue, channel.queue_declare("").queue
    assert first.startswith("amq.gen-") and first != second


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("x-expires", value) for value in ("1000", -1, 1.5, True, 0, 1 << 60)],
        *[("x-message-ttl", value) for value in ("1", -1, False, 1 << 60)],
        *[("x-max-length", value) for value in (0, -1, "5", True)],
        *[("x-max-length-bytes", value) for value in (0, -1, "5")],
        *[("x-max-priority", value) for value in (-1, "9", True, 1 << 63)],
        *[("x-overflow", value) for value in ("explode", "", 0, ["drop-head"])],
        *[("x-queue-type", value) for value in ("stream", "quorums", "", 1)],
        *[("x-delivery-limit", value) for value in (-1, "3")],
        ("x-dead-letter-exchange", 7),
        ("x-dead-letter-routing-key", b"key"),
        ("x-single-active-consumer", 1),
    ],
)
def test_an_argument_without_a_meaning_is_refused_by_its_name(channel, driver, name, value):
    with pytest.raises(PreconditionFailed, match=name) as raised:
        channel.queue_declare("q", arguments={name: value})
    assert raised.value.reply_code == 406
    assert not driver.commands_of(broker.CreateTopic)


def test_a_length_of_zero_is_refused_and_not_taken_for_no_limit(channel, driver):
    with pytest.raises(PreconditionFailed, match="whole number from 1, not 0; leave it out for no limit"):
        channel.queue_declare("q", arguments=channel.prepare_queue_arguments({}, max_length=0))
    assert not driver.commands_of(broker.CreateTopic)


def test_a_time_to_live_of_zero_is_at_once(channel, driver):
    channel.queue_declare("q", auto_delete=False, arguments={"x-message-ttl": 0})
    assert driver.commands[-1].settings == broker.TopicSettings(message_ttl_ms=1)


def test_a_passive_declaration_asks_and_creates_nothing(channel, driver):
    driver.answers[broker.DescribeTopic] = broker.TopicInfo("q", broker.TopicSettings(), 4, 1, 2, 3, 9)
    assert channel.queue_declare("q", passive=True) == ("q", 4, 3)
    driver.answers[broker.DescribeTopic] = TopicNotFound("no topic q")
    with pytest.raises(NotFound) as raised:
        channel.queue_declare("q", passive=True)
    assert raised.value.reply_code == 404
    assert not driver.commands_of(broker.CreateTopic)


def test_an_exclusive_queue_of_a_connected_owner_is_405(channel, driver):
    driver.answers[broker.CreateTopic] = TopicLocked("owned")
    with pytest.raises(ResourceLocked) as raised:
        channel.queue_declare("q", exclusive=True)
    assert raised.value.code == 405


def test_purge_and_delete_count(channel, driver):
    assert channel.queue_purge("q") == 3
    assert channel.queue_delete("q", if_empty=True) == 3
    assert driver.commands_of(broker.DeleteTopic) == [broker.DeleteTopic("q", False, True)]
    driver.answers[broker.DeleteTopic] = TopicNotFound("q")
    assert channel.queue_delete("q") == 0


def test_exchanges_and_bindings(channel, driver):
    channel.exchange_declare("e", "topic", auto_delete=False)
    channel.queue_bind("q", "e", "a.#")
    channel.queue_bind("q", "", "q")  # the default exchange binds every queue by itself
    channel.queue_unbind("q", "e", "a.#")
    channel.exchange_delete("e")
    assert driver.commands == [
        broker.CreateExchange("e", "topic"),
        broker.Bind("e", "q", "a.#"),
        broker.Unbind("e", "q", "a.#"),
        broker.DeleteExchange("e"),
    ]
    driver.answers[broker.ListExchanges] = broker.ExchangeInfos([("e", "topic")], [])
    channel.exchange_declare("e", passive=True)
    with pytest.raises(NotFound):
        channel.exchange_declare("other", passive=True)
    with pytest.raises(AMQPNotImplementedError, match="direct, topic, fanout, headers"):
        channel.exchange_declare("e", "x-random")


# --- the end ---


def test_a_closed_channel_gives_back_what_it_held(connection, channel, driver):
    consume(channel)
    driver.receive(delivery(1, 10))
    connection.drain_events(timeout=1)
    channel.close()
    assert driver.commands_of(broker.Cancel) == [broker.Cancel(1, True, True)]
    assert driver.commands_of(broker.Nack) == [broker.Nack([(10, 1)])], "a callback has had it"
    channel.close()
    assert connection.connected and not channel.is_open


def test_closing_the_connection_sends_the_acks_that_wait(connection, channel, driver):
    got = consume(channel)
    driver.receive(delivery(1, 10))
    connection.drain_events(timeout=1)
    connection._outbox.add_acks([(10, 1)])
    connection.close()
    assert driver.commands_of(broker.Ack) == [broker.Ack([(10, 1)])]
    assert driver.closed == "closed" and len(got) == 1


def test_a_forked_child_closes_the_socket_and_sends_nothing(connection, channel, driver):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, f"{driver.closed} {connection.connected}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as output:
        assert output.read() == "aborted False"
    os.waitpid(child, 0)
    assert connection.connected and driver.closed is None


def test_a_get_keeps_deliveries_that_follow_its_answer(connection, channel, driver):
    got = consume(channel)
    driver.receive_during_call(delivery(2, 10), broker.PopDone(2, 1), delivery(1, 11))
    assert channel.basic_get("other") is not None
    connection.drain_events(timeout=1)
    assert len(got) == 1


def test_an_ack_before_a_callback_closes_its_channel_is_sent(connection, channel, driver):
    def callback(raw):
        channel.basic_ack(raw.delivery_tag)
        channel.close()

    channel.basic_consume("q", consumer_tag="c", callback=callback)
    driver.receive(delivery(1, 10), delivery(1, 11))
    connection.drain_events(timeout=1)
    kinds = [type(command) for command in driver.commands if isinstance(command, broker.Ack | broker.Cancel)]
    assert kinds[:2] == [broker.Ack, broker.Cancel]


def test_the_only_message_is_acknowledged_before_its_callback_goes_on_working(connection, channel, driver):
    ack_counts = []

    def callback(raw):
        channel.basic_ack(raw.delivery_tag)
        ack_counts.append(len(driver.commands_of(broker.Ack)))

    channel.basic_consume("q", consumer_tag="c", callback=callback)
    driver.receive(delivery(1, 10))
    connection.drain_events(timeout=1)
    assert ack_counts == [1]


@pytest.mark.parametrize("reads", ["heartbeat", "get"])
def test_a_delivery_read_by_another_thread_wakes_the_waiting_thread(connection, channel, driver, monkeypatch, reads):
    """The one is about to sleep when the other takes its delivery out of the socket."""
    got = consume(channel)
    other = connection.channel()
    woken = []

    def wait(waker, descriptor, seconds):
        driver.receive(delivery(1, 10), broker.PopDone(2, 0))
        _elsewhere(connection.heartbeat if reads == "heartbeat" else lambda: other.basic_get("other"))
        woken.append(waker._is_woken)

    monkeypatch.setattr(Waker, "wait", wait)
    connection.drain_events(timeout=1)
    assert len(got) == 1 and woken == [True]


# --- declaring ---


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-max-length-bytes": 1},
        {"x-single-active-consumer": True},
        {"x-message-deduplication": True},
        {"x-consumer-timeout": 5},
    ],
)
def test_an_argument_without_effect_warns(channel, driver, arguments):
    with pytest.warns(UserWarning, match=f"'q': {next(iter(arguments))} has no effect"):
        channel.queue_declare("q", arguments=arguments)
    assert driver.commands_of(broker.CreateTopic)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ({"x-dead-letter-exchange": "dlx"}, {"dead_letter_exchange": "dlx", "dead_letter_key": "q"}),
        (
            {"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "k"},
            {"dead_letter_exchange": "dlx", "dead_letter_key": "k"},
        ),
        ({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}, {"dead_letter_topic": "dead"}),
        ({"x-delivery-limit": 3}, {"delivery_limit": 4}),
        ({"x-delivery-limit": 0}, {"delivery_limit": 1}),
    ],
)
def test_arguments_for_dead_letters_are_honoured(channel, driver, arguments, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        channel.queue_declare("q", auto_delete=False, arguments=arguments)
    assert driver.commands[-1].settings == broker.TopicSettings(**settings)


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-dead-letter-exchange": ""},
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"},
        {"x-dead-letter-routing-key": "k"},
    ],
)
def test_dead_letters_that_would_go_nowhere_are_refused(channel, driver, arguments):
    with pytest.raises(PreconditionFailed, match="x-dead-letter-"):
        channel.queue_declare("q", arguments=arguments)
    assert not driver.commands_of(broker.CreateTopic)


def test_a_dead_letter_tells_of_its_deaths_in_rabbitmqs_words(channel, driver):
    headers = {
        deaths.REASON: "overflow", deaths.TOPIC: "work", deaths.TIME_MS: 9000, deaths.COUNT: 3, deaths.ERROR: "no",
        deaths.FIRST_TOPIC: "early", deaths.FIRST_REASON: "rejected",
        deaths.HISTORY: broker.encode_history(
            (broker.PastDeath("work", "overflow", 2, 5000, 9000), broker.PastDeath("early", "rejected", 1, 1000, 1000))
        ),
    }  # fmt: skip
    payload = messages.encode(Outgoing("x", headers={"own": 1}), "ex", "key")
    push = broker.Deliver(1, 7, 2, 0, 0, payload, 0, 2, broker.encode_headers(headers))
    found = channel.incoming(push, "tag").headers
    assert found["x-death"] == [
        {
            "queue": queue, "reason": reason, "count": count, "time": datetime(1970, 1, 1, 0, 0, second, tzinfo=UTC),
            "exchange": "ex", "routing-keys": ["key"],
        }
        for queue, reason, count, second in (("work", "maxlen", 2, 5), ("early", "rejected", 1, 1))
    ]  # fmt: skip
    assert (found["own"], found["x-delivery-count"], found["x-death-error"]) == (1, 1, "no")
    assert (found["x-first-death-queue"], found["x-first-death-reason"]) == ("early", "rejected")
    assert (found["x-last-death-queue"], found["x-last-death-exchange"]) == ("work", "ex")


def test_a_message_at_its_first_delivery_has_no_history(channel):
    payload = messages.encode(Outgoing("x", headers={"own": 1}), "ex", "key")
    assert channel.incoming(broker.Deliver(1, 7, 1, 0, 0, payload), "tag").headers == {"own": 1}


def test_arguments_that_every_queue_fulfils_are_accepted_silently(channel):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        channel.queue_declare(
            "q",
            arguments={
                "x-queue-type": "quorum",
                "x-max-priority": 9,
                "x-overflow": "reject-publish",
                "x-queue-mode": "lazy",
                "x-single-active-consumer": False,
                "x-dead-letter-exchange": None,
            },
        )


def test_an_argument_of_a_consumer_without_effect_is_warned_of(channel, driver):
    with pytest.warns(UserWarning, match="consumer of queue 'q': x-priority has no effect"):
        channel.basic_consume("q", arguments={"x-priority": 5})
    assert driver.commands_of(broker.Subscribe)


def test_an_immediate_publish_is_refused(channel, driver):
    with pytest.raises(AMQPNotImplementedError, match="immediate"):
        channel.basic_publish(channel.prepare_message("x"), routing_key="q", immediate=True)
    assert not driver.commands_of(broker.Publish)


# --- nobody calls ---


def test_a_keepalive_thread_runs_while_a_connection_holds_something(keepalive_threads, connection, channel, driver):
    driver.heartbeat_s = 0.01
    channel.basic_publish(channel.prepare_message("x"), routing_key="q")
    assert keepalive_threads() == []
    driver.holds_anything = True
    consume(channel)
    (thread_of_keepalive,) = keepalive_threads()
    beaten = threading.Event()
    poll = driver.poll
    driver.poll = lambda timeout_s: beaten.set() or poll(timeout_s)
    assert beaten.wait(5)
    driver.holds_anything = False
    thread_of_keepalive.join(5)
    assert not thread_of_keepalive.is_alive()
    driver.holds_anything = True
    consume(connection.channel())
    (thread_of_keepalive,) = keepalive_threads()
    connection.close()
    thread_of_keepalive.join(5)
    assert not thread_of_keepalive.is_alive()


def test_a_delivery_read_by_the_keepalive_thread_wakes_the_waiter(connection, channel, driver, monkeypatch):
    driver.holds_anything = True
    got = consume(channel)

    def wait(waker, descriptor, seconds):
        driver.receive(delivery(1, 10))
        _elsewhere(connection.keepalive_tick)
        assert waker._is_woken

    monkeypatch.setattr(Waker, "wait", wait)
    connection.drain_events(timeout=1)
    assert len(got) == 1


def test_an_unreferenced_connection_is_freed(keepalive_threads, driver):
    driver.holds_anything = True
    driver.heartbeat_s = 0.01
    dropped = Connection(driver, SimpleNamespace(declared_entities=set()))
    consume(dropped.channel())
    (thread_of_keepalive,) = keepalive_threads()
    del dropped
    driver.on_socket_change = None  # a real one would go with it
    for _ in range(100):  # while the thread sends a heartbeat it holds the connection, and a collection finds it in use
        gc.collect()
        thread_of_keepalive.join(0.05)
        if not thread_of_keepalive.is_alive():
            break
    assert not thread_of_keepalive.is_alive()


def test_an_event_loop_takes_over_from_the_thread(keepalive_threads, connection, channel, driver):
    driver.holds_anything = True
    consume(channel)
    (thread_of_keepalive,) = keepalive_threads()
    connection.attach_hub(SimpleNamespace(socket_changed=None, detach=lambda: None, thread=threading.get_ident()))
    thread_of_keepalive.join(5)
    assert not thread_of_keepalive.is_alive()
    channel.basic_qos(0, 1, True)
    channel.basic_consume("q", consumer_tag="d")
    assert keepalive_threads() == []


def test_an_exchange_may_have_an_alternate(channel, driver):
    channel.exchange_declare("e", "direct", auto_delete=False, arguments={"alternate-exchange": "rest"})
    assert driver.commands[-1] == broker.CreateExchange("e", "direct", False, "rest")
    with pytest.raises(PreconditionFailed, match="alternate-exchange"):
        channel.exchange_declare("e", arguments={"alternate-exchange": 7})


def test_an_argument_of_an_exchange_without_effect_is_warned_of(channel, driver):
    with pytest.warns(UserWarning, match=r"exchange 'e': x-delayed-type has no effect"):
        channel.exchange_declare("e", "direct", arguments={"x-delayed-type": "direct"})


def test_without_a_session_a_publish_fails_after_the_time_for_a_connection(connection, channel, driver):
    waited = []

    def connect(timeout_s=None):
        waited.append(timeout_s)
        raise ConnectionLost("no node takes a session")

    channel.queue_declare("q")
    connection.client.connect_timeout = 0.5
    driver.ready, driver.connect = False, connect
    with pytest.raises(RecoverableConnectionError):
        channel.basic_publish(channel.prepare_message("x"), routing_key="q")
    assert waited == [0.5]
    assert not driver.commands_of(broker.Publish)


def test_a_consumer_waits_for_a_leader_as_long_as_for_a_request(connection, channel, driver):
    channel.basic_consume("q", "tag", callback=lambda message: None)
    connection.client.connect_timeout = 0.5
    driver.ready, driver.connect = False, None
    channel.basic_publish(channel.prepare_message("x"), routing_key="q")
    assert driver.commands_of(broker.Publish)


@pytest.mark.parametrize(
    ("arguments", "overflow"),
    [({}, "drop"), ({"x-overflow": "drop-head"}, "drop"), ({"x-overflow": "reject-publish"}, "reject")],
)
def test_a_full_queue_drops_unless_it_is_told_to_refuse(channel, driver, arguments, overflow):
    channel.queue_declare("q", auto_delete=False, arguments={"x-max-length": 5, **arguments})
    assert driver.commands[-1].settings == broker.TopicSettings(max_messages=5, overflow=overflow)


def test_a_full_queue_that_would_dead_letter_warns_and_refuses(channel, driver):
    arguments = {"x-max-length": 5, "x-overflow": "reject-publish-dlx"}
    with pytest.warns(UserWarning, match="not dead-lettered"):
        channel.queue_declare("q", arguments=arguments)
    assert driver.commands[-1].settings.overflow == "reject"
