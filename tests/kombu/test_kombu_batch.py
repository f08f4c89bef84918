"""`Producer.batch` of kombu 5.7: one command, all or none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from amqp.exceptions import ChannelError, NotFound, RecoverableConnectionError

from disheap.errors import BatchTooLarge, OutcomeUnknown, TopicFull, TopicNotFound
from disheap.protocol import broker
from disheap_kombu.failures import PublishOutcomeUnknown, QueueFull
from disheap_kombu.publishing.publish_batch import COMMAND_BYTES
from kombu import Producer

pytestmark = pytest.mark.skipif(not hasattr(Producer, "batch"), reason="kombu has it since 5.7")


@pytest.fixture
def producer(channel):
    return Producer(channel)


def allow(driver, command_bytes):
    driver.welcome = SimpleNamespace(limits=SimpleNamespace(command_bytes=command_bytes))


def test_a_batch_is_one_command_at_its_end(producer, driver):
    producer.channel.exchange_declare("e")
    driver.commands.clear()
    with producer.batch():
        producer.publish("a", routing_key="q")
        producer.publish("b", exchange="e", routing_key="k", priority=5)
        assert driver.commands == []
    (command,) = driver.commands
    assert [(one.exchange, one.routing_key, one.message.priority) for one in command.items] == [
        ("", "q", 0),
        ("e", "k", 5),
    ]


def test_an_exception_discards_the_batch(producer, driver):
    with pytest.raises(KeyError), producer.batch():
        producer.publish("a", routing_key="q")
        raise KeyError
    assert driver.commands == []


def test_an_inner_batch_belongs_to_the_outer_one(producer, driver):
    with producer.batch():
        producer.publish("a", routing_key="q")
        with producer.batch():
            producer.publish("b", routing_key="q")
    assert [len(command.items) for command in driver.commands] == [2]


def test_a_batch_is_sent_when_it_has_its_size(producer, driver):
    with producer.batch(max_size=2) as batch:
        for _ in range(5):
            producer.publish("a", routing_key="q")
        assert [len(command.items) for command in driver.commands] == [2, 2]
        batch.flush()
        assert [len(command.items) for command in driver.commands] == [2, 2, 1]
    assert len(driver.commands) == 3


@pytest.mark.parametrize("limit", [COMMAND_BYTES, 1 << 12])
def test_a_batch_is_sent_before_its_command_is_too_large(producer, driver, limit):
    allow(driver, 2 * limit if limit == COMMAND_BYTES else limit)
    with producer.batch():
        for _ in range(3):
            producer.publish(b"x" * (limit // 2), routing_key="q", serializer="raw")
        producer.publish(b"x", routing_key="q", serializer="raw")
    assert [len(command.items) for command in driver.commands] == [1, 1, 2]
    assert all(len(broker.encode(command)) < limit for command in driver.commands)


def test_a_command_has_no_more_parts_than_the_broker_takes(producer, driver):
    allow(driver, COMMAND_BYTES)
    with producer.batch(max_size=1_000_000):
        for _ in range(broker.BATCH_PARTS_MAX + 1):
            producer.publish("a", routing_key="q")
    assert [len(command.items) for command in driver.commands] == [broker.BATCH_PARTS_MAX, 1]


def test_a_command_that_leads_to_too_many_queues_is_sent_in_halves(producer, driver):
    def answer(command):
        if len(command.items) > 1:
            raise BatchTooLarge("too many")
        return broker.Batched([7])

    driver.answers[broker.Batch] = answer
    with producer.batch():
        for _ in range(3):
            producer.publish("a", routing_key="q")
    assert [len(command.items) for command in driver.commands] == [3, 1, 2, 1, 1]


def test_transient_messages_go_with_the_others(producer, driver):
    with producer.batch():
        producer.publish("a", routing_key="q", delivery_mode=1)
        producer.publish("b", routing_key="q")
    assert [len(command.items) for command in driver.commands] == [2]


def test_an_unroutable_mandatory_message_is_returned(producer, channel, driver):
    driver.answers[broker.Batch] = broker.Batched([1, 0])
    returned = []
    channel.events["basic_return"].add(lambda error, exchange, key, message: returned.append((error.reply_code, key)))
    with producer.batch():
        producer.publish("a", routing_key="q", mandatory=True)
        producer.publish("b", routing_key="nowhere", mandatory=True)
    assert returned == [(312, "nowhere")]
    channel.events.clear()
    with pytest.raises(ChannelError, match="no queue takes 'nowhere'"), producer.batch():
        producer.publish("a", routing_key="q")
        producer.publish("b", routing_key="nowhere", mandatory=True)


@pytest.mark.parametrize(
    ("answer", "error"), [(TopicFull("full"), QueueFull), (OutcomeUnknown("lost"), PublishOutcomeUnknown)]
)
def test_after_an_error_nothing_more_goes_through_the_batch(producer, driver, answer, error):
    driver.answers[broker.Batch] = answer
    with producer.batch() as batch:
        producer.publish("a", routing_key="q")
        with pytest.raises(error):
            batch.flush()
        with pytest.raises(RuntimeError, match="takes no more messages: a part of it was refused"):
            producer.publish("b", routing_key="q")
        batch.state.abort()
    assert len(driver.commands) == 1


def test_a_broker_that_lost_the_declarations_is_a_recoverable_error(producer, connection, channel, driver):
    channel.queue_declare("q")
    driver.commands.clear()
    driver.session_id = 2
    driver.answers[broker.Batch] = TopicNotFound("no q")
    with pytest.raises(RecoverableConnectionError, match="declare again"), producer.batch():
        producer.publish("a", routing_key="q")
        producer.publish("b", routing_key="unheard-of")
    (command,) = driver.commands
    assert [one.mandatory for one in command.items] == [True, False]


def test_an_unknown_exchange_is_404(producer, driver):
    driver.answers[broker.Batch] = TopicNotFound("none")
    with pytest.raises(NotFound), producer.batch():
        producer.publish("a", routing_key="q")
