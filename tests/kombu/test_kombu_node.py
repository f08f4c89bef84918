"""kombu against a real node."""

from __future__ import annotations

import socket
import time
import uuid
from itertools import count

import pytest
from amqp.exceptions import ChannelError, NotFound, PreconditionFailed, ResourceLocked
from kombu_cluster import NodeProcess, wait_until

import disheap.sync
from disheap.protocol import broker
from kombu import Connection, Consumer, Exchange, Producer, Queue


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = NodeProcess(tmp_path_factory.mktemp("node"))
    yield node
    node.kill()


@pytest.fixture
def connection(node):
    with Connection(node.url) as connection:
        yield connection


@pytest.fixture
def other(node):
    with Connection(node.url) as connection:
        yield connection


@pytest.fixture
def name():
    return f"q-{uuid.uuid4().hex[:8]}"


def declared(connection, name, **options):
    queue = Queue(name, **options)(connection.default_channel)
    queue.declare()
    return queue


def topics(node):
    with disheap.sync.connect(node.url) as client:
        return [info.topic for info in client.topics()]


def topic_ready(node, name):
    with disheap.sync.connect(node.url) as client:
        return client.topic(name).stats().ready


def receive(connection, queues, expected, no_ack=False, prefetch=None):
    got = []

    def on_message(message):
        got.append(message)
        if not no_ack:
            message.ack()

    with Consumer(connection, queues, on_message=on_message, no_ack=no_ack, prefetch_count=prefetch):
        for _ in range(expected):
            connection.drain_events(timeout=10)
    return got


def bodies(messages):
    return [message.payload for message in messages]


def test_a_message_arrives_whole(connection, name):
    queue = declared(connection, name)
    Producer(connection).publish(
        {"number": 1}, routing_key=name, correlation_id="c-1", reply_to="there", headers={"id": "abc", "n": [1, None]}
    )
    (message,) = receive(connection, [queue], 1)
    assert message.payload == {"number": 1}
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert message.properties["correlation_id"] == "c-1" and message.properties["reply_to"] == "there"
    assert message.headers == {"id": "abc", "n": [1, None]}


@pytest.mark.skipif(not hasattr(Producer, "batch"), reason="kombu has it since 5.7")
def test_a_batch_of_a_producer_arrives_whole_or_not_at_all(connection, name):
    queue = declared(connection, name)
    producer = Producer(connection)
    assert producer.supports_batch_publish
    with producer.batch():
        producer.publish("a", routing_key=name)
        producer.publish("b", routing_key=name, priority=9)
    assert sorted(bodies(receive(connection, [queue], 2))) == ["a", "b"]
    with pytest.raises(NotFound), producer.batch():
        producer.publish("c", routing_key=name)
        producer.publish("d", exchange="not-there", routing_key=name)
    assert queue.get() is None


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_serializers_and_compression_pass_through(connection, name, serializer, compression):
    queue = declared(connection, name)
    Producer(connection, serializer=serializer).publish({"a": [1, 2]}, routing_key=name, compression=compression)
    message = queue.get(accept=["json", "pickle", "yaml"])
    assert message.payload == {"a": [1, 2]}
    message.ack()


def test_the_larger_priority_goes_first_and_equals_keep_their_order(connection, name):
    queue = declared(connection, name)
    priorities = [0, 5, broker.PRIORITY_MIN, 9, 5, broker.PRIORITY_MAX, -1, 255]
    for number, priority in enumerate(priorities):
        Producer(connection).publish(number, routing_key=name, priority=priority)
    got = receive(connection, [queue], len(priorities), prefetch=1)
    assert bodies(got) == [n for n, p in sorted(enumerate(priorities), key=lambda pair: -pair[1])]
    assert [m.properties["priority"] for m in got] == sorted(priorities, reverse=True)


@pytest.mark.parametrize(
    ("options", "order", "seen"),
    [({}, [3, 2, 0, 1], [10, 5, 0, 0]), ({"priority_order": "redis"}, [0, 1, 2, 3], [0, 0, 5, 10])],
    ids=["amqp", "redis"],
)
def test_priorities_are_clamped_to_the_bound_of_the_queue(node, name, options, order, seen):
    with Connection(node.url, transport_options=options) as connection:
        queue = declared(connection, name, max_priority=10)
        for number, priority in enumerate((-3, 0, 5, 77)):
            Producer(connection).publish(number, routing_key=name, priority=priority)
        got = receive(connection, [queue], 4, prefetch=1)
        assert [m.delivery_info["priority"] for m in got] == seen
        assert bodies(got) == order
        with pytest.raises(PreconditionFailed, match="priority_max"):
            declared(connection, name, max_priority=9)


def test_in_redis_order_the_smaller_priority_goes_first(node, connection, name):
    queue = declared(connection, name)
    options = {"priority_order": "redis"}
    priorities = [9, 0, 3, 3, -1, broker.PRIORITY_MAX, -broker.PRIORITY_MAX]
    with Connection(node.url, transport_options=options) as from_redis:
        for number, priority in enumerate(priorities):
            Producer(from_redis).publish(number, routing_key=name, priority=priority)
        Producer(from_redis).publish("urgent", routing_key=name)  # without a priority: 0, as in Redis
        got = receive(from_redis, [queue(from_redis)], len(priorities) + 1, prefetch=1)
        with pytest.raises(PreconditionFailed, match="the smaller goes first"):
            Producer(from_redis).publish(1, routing_key=name, priority=-(1 << 63))
    assert bodies(got) == [6, 4, 1, "urgent", 2, 3, 0, 5]
    told = [(m.properties["priority"], m.delivery_info["priority"]) for m in got]
    assert told == [(p, p) for p in sorted([*priorities, 0])], "a retry copies it"


def test_a_priority_out_of_range_raises_and_nothing_is_queued(connection, name):
    queue = declared(connection, name)
    with pytest.raises(PreconditionFailed, match="out of range"):
        Producer(connection).publish(1, routing_key=name, priority=1 << 63)
    assert queue.queue_declare(passive=True).message_count == 0


@pytest.mark.parametrize("size", [8_390_000, 12_000_000])
def test_a_transient_message_that_is_too_large_raises_and_the_next_one_passes(connection, name, size):
    queue = declared(connection, name)
    producer = Producer(connection)
    with pytest.raises(PreconditionFailed, match="limit"):
        producer.publish(b"x" * size, routing_key=name, delivery_mode=1)
    producer.publish(b"x" * 900_000, routing_key=name, delivery_mode=1)
    producer.publish(b"small", routing_key=name)
    assert [len(message.body) for message in receive(connection, [queue], 2)] == [900_000, 5]


@pytest.mark.parametrize("prefetch", [None, 30])
def test_where_messages_are_counted_more_than_the_machines_bytes_are_in_hand(connection, name, prefetch):
    queue = declared(connection, name)
    for _ in range(20):
        Producer(connection).publish(b"x" * 900_000, routing_key=name)
    got = []
    with Consumer(connection, [queue], on_message=got.append, prefetch_count=prefetch):
        while len(got) < 20:
            connection.drain_events(timeout=10)
    for message in got:
        message.ack()


def test_deliveries_to_a_cancelled_consumer_are_back_when_cancel_returns(connection, other, name):
    queue = declared(connection, name)
    for number in range(10):
        Producer(connection).publish(number, routing_key=name)
    with connection.channel() as channel, Consumer(channel, [queue], on_message=pytest.fail):
        pass
    found = other.default_channel.queue_declare(name, passive=True)
    assert (found.message_count, found.consumer_count) == (10, 0)


def test_a_passive_declare_sees_what_its_connection_did_before(connection, name):
    queue = declared(connection, name)
    Producer(connection).publish("x", routing_key=name, delivery_mode=1)
    assert queue.queue_declare(passive=True).message_count == 1
    queue.get().reject(requeue=True)
    assert queue.queue_declare(passive=True).message_count == 1


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_amqps_own_exchanges_are_there(connection, other, name, kind):
    exchange = Exchange(f"amq.{kind}", type=kind)
    exchange(other.default_channel).declare(passive=True)
    Producer(other, exchange=exchange).publish("to nobody", routing_key=name)
    queue = declared(connection, name, exchange=exchange, routing_key=name)
    Producer(other, exchange=exchange).publish("to it", routing_key=name)
    assert queue.get(no_ack=True).payload == "to it"


def test_no_more_than_the_prefetch_count_is_in_hand(connection, other, name):
    queue = declared(connection, name)
    for number in range(10):
        Producer(other).publish(number, routing_key=name)
    got = []
    with Consumer(connection, [queue], on_message=got.append, prefetch_count=3) as consumer:
        with pytest.raises(socket.timeout):
            while True:
                connection.drain_events(timeout=0.3)
        assert bodies(got) == [0, 1, 2]
        got[0].ack()
        connection.drain_events(timeout=5)
        assert bodies(got) == [0, 1, 2, 3]
        consumer.qos(prefetch_count=5, apply_global=True)  # live, as Celery does
        for _ in range(2):
            connection.drain_events(timeout=5)
        assert bodies(got) == [0, 1, 2, 3, 4, 5]


def test_a_rejected_message_keeps_its_place_or_is_gone(connection, name):
    queue = declared(connection, name)
    for number in range(3):
        Producer(connection).publish(number, routing_key=name)
    first = queue.get()
    first.reject(requeue=True)
    again = queue.get()
    assert again.payload == 0 and again.delivery_info["redelivered"] and not first.delivery_info["redelivered"]
    again.reject(requeue=False)
    assert queue.get().payload == 1


def test_get_from_an_empty_queue_is_none(connection, name):
    assert declared(connection, name).get() is None


def test_get_without_ack_takes_the_message_at_once(connection, other, name):
    queue = declared(connection, name)
    Producer(connection).publish(1, routing_key=name)
    assert queue.get(no_ack=True).payload == 1
    connection.collect()  # as if the process had died
    assert declared(other, name).get() is None


def test_unacknowledged_messages_come_back_when_channel_or_connection_closes(node, connection, name):
    queue = declared(connection, name)
    for number in range(4):
        Producer(connection).publish(number, routing_key=name)
    channel = connection.channel()
    assert [queue(channel).get().payload for _ in range(2)] == [0, 1]
    channel.close()
    with Connection(node.url) as short:
        assert [declared(short, name).get().payload for _ in range(2)] == [0, 1]
    assert [queue.get().payload for _ in range(4)] == [0, 1, 2, 3]


def test_recover_gives_back_everything_in_hand(connection, name):
    queue = declared(connection, name)
    for number in range(3):
        Producer(connection).publish(number, routing_key=name)
    got = []
    with Consumer(connection, [queue], on_message=got.append, prefetch_count=3) as consumer:
        for _ in range(3):
            connection.drain_events(timeout=5)
        consumer.recover(requeue=True)
        for _ in range(3):
            connection.drain_events(timeout=5)
        assert bodies(got) == [0, 1, 2, 0, 1, 2]
        for message in got[3:]:
            message.ack()
    assert queue.queue_declare(passive=True).message_count == 0


def test_a_passive_declaration_counts_or_raises_404(connection, name):
    with pytest.raises(NotFound) as raised:
        Queue(name)(connection.default_channel).queue_declare(passive=True)
    assert raised.value.reply_code == 404
    assert isinstance(raised.value, connection.channel_errors)
    queue = declared(connection, name)
    Producer(connection).publish(1, routing_key=name)
    assert queue.queue_declare(passive=True) == (name, 1, 0)


def test_purge_and_delete_say_how_many_messages_went(connection, name):
    queue = declared(connection, name)
    for number in range(5):
        Producer(connection).publish(number, routing_key=name)
    assert queue.purge() == 5
    Producer(connection).publish(1, routing_key=name)
    with pytest.raises(PreconditionFailed):
        queue.delete(if_empty=True)
    assert queue.delete() == 1
    assert queue.delete() == 0


def test_messages_expire_unless_they_are_taken_in_time(connection, name):
    queue = declared(connection, name)
    short = declared(connection, name + "-short", message_ttl=0.05)
    Producer(connection).publish("gone", routing_key=name, expiration=0.05)
    Producer(connection).publish("stays", routing_key=name, expiration=60)
    Producer(connection).publish("gone too", routing_key=short.name)
    wait_until(lambda: queue.queue_declare(passive=True).message_count == 1, "one message expired")
    wait_until(lambda: short.queue_declare(passive=True).message_count == 0, "the queue's own time to live")
    assert queue.get().payload == "stays"


def test_a_full_queue_that_refuses_says_so(connection, name):
    declared(connection, name, max_length=1, queue_arguments={"x-overflow": "reject-publish"})
    Producer(connection).publish(1, routing_key=name)
    with pytest.raises(ChannelError, match="at most 1 messages"):
        Producer(connection).publish(2, routing_key=name)


def test_direct_topic_and_fanout_exchanges_route(connection, name):
    kinds = {
        "direct": ("a", ["a"]),
        "topic": ("a.#", ["a", "a.b", "a.b.c"]),
        "fanout": ("", ["a", "a.b", "a.b.c", "z"]),
    }
    for kind, (key, expected) in kinds.items():
        exchange = Exchange(f"{name}-{kind}", kind)
        queue = declared(connection, f"{name}-{kind}", exchange=exchange, routing_key=key)
        for routing_key in ("a", "a.b", "a.b.c", "z"):
            Producer(connection, exchange).publish(routing_key, routing_key=routing_key)
        got = receive(connection, [queue], len(expected))
        assert bodies(got) == expected
        assert [m.delivery_info["routing_key"] for m in got] == expected
        assert {m.delivery_info["exchange"] for m in got} == {exchange.name}
        assert queue.get() is None


def test_an_unbound_key_goes_nowhere_and_an_unknown_exchange_is_404(connection, name):
    queue = declared(connection, name, exchange=Exchange(name, "direct"), routing_key="k")
    queue.unbind_from(queue.exchange, "k")
    Producer(connection).publish(1, exchange=name, routing_key="k")
    assert queue.get() is None
    with pytest.raises(NotFound):
        Producer(connection).publish(1, exchange=f"no-{name}", routing_key="k")
    with pytest.raises(NotFound):
        Exchange(f"no-{name}", passive=True)(connection.default_channel).declare()
    with pytest.raises(PreconditionFailed):
        Exchange(name, "fanout")(connection.default_channel).declare()


def test_transient_messages_reach_a_consumer_that_is_there(connection, other, name):
    queue = declared(connection, name, exchange=Exchange(name, "fanout"))
    for number in range(3):
        Producer(other).publish(number, exchange=name, delivery_mode=1)
    assert bodies(receive(connection, [queue], 3, no_ack=True)) == [0, 1, 2]


def test_an_exclusive_queue_is_locked_while_its_owner_is_connected(node, other, name):
    dying = Connection(node.url)
    declared(dying, name, exclusive=True, auto_delete=True, expires=10)
    with pytest.raises(ResourceLocked) as raised:
        declared(other, name, exclusive=True, auto_delete=True, expires=10)
    assert raised.value.code == 405
    stranger = Queue(name)(other.default_channel)
    for access in (stranger.purge, stranger.delete, stranger.get, lambda: stranger.queue_declare(passive=True)):
        with pytest.raises(ResourceLocked):
            access()
    Producer(other).publish("a reply", routing_key=name)
    dying.collect()  # as a process that is killed: no goodbye

    def taken_over():
        try:
            return declared(other, name, exclusive=True, auto_delete=True, expires=10)
        except ResourceLocked:
            return None

    wait_until(taken_over, "the queue is taken over", timeout_s=3)


def test_exclusive_and_auto_delete_queues_end_with_whoever_uses_them(node, other, name):
    with Connection(node.url) as owner:
        declared(owner, name, exclusive=True)
        assert name in topics(node)
    assert name not in topics(node)
    queue = declared(other, name, auto_delete=True)
    with Consumer(other, [queue], on_message=print):
        assert name in topics(node)
    wait_until(lambda: name not in topics(node), "the last consumer is gone")


def test_a_consumer_hears_that_its_queue_was_deleted(connection, other, name):
    queue = declared(connection, name)
    queue(connection.default_channel)
    with Consumer(connection, [queue], on_message=print):
        assert Queue(name)(other.default_channel).delete() == 0
        with pytest.raises(connection.recoverable_connection_errors, match="deleted"):
            connection.drain_events(timeout=5)


def test_an_idle_producer_publishes_after_its_session_has_lapsed(node, name):
    with Connection(f"{node.url}?session_timeout_ms=1000") as idle:
        queue = declared(idle, name)
        time.sleep(2.5)  # the lapse itself is what is awaited, and nobody tells a client that does not read
        Producer(idle).publish("late", routing_key=name)
        assert queue.get(no_ack=True).payload == "late"  # else it comes back with the lapse
        time.sleep(2.5)
        Producer(idle).publish("later", routing_key=name, delivery_mode=1)  # an answer to a remote control command, say
        wait_until(lambda: topic_ready(node, name) == 1, "the transient message came")


def test_a_quiet_client_finds_its_answer_however_late_it_looks(node, connection, name):
    """As `rpc://` does: consume from a queue of one's own, ask, and look for the answer at leisure."""
    with Connection(f"{node.url}?session_timeout_ms=1000") as quiet:
        queue, got = declared(quiet, name, auto_delete=True, expires=3600), []
        with Consumer(quiet, [queue], on_message=got.append):
            Producer(connection).publish("early", routing_key=name)
            time.sleep(2.5)  # more than two sessions' time: that nothing happens is what is awaited
            Producer(connection).publish("late", routing_key=name)
            while len(got) < 2:
                quiet.drain_events(timeout=10)
            for message in got:
                message.ack()


def test_a_native_clients_message_is_readable_and_the_other_way_round(node, connection, name):
    queue = declared(connection, name)
    with disheap.sync.connect(node.url) as client:
        client.topic(name).enqueue(b"\x00raw", priority=3)
        message = queue.get()
        assert (message.body, message.content_type) == (b"\x00raw", "application/data")
        assert message.properties["priority"] == 3
        message.ack()


def test_simple_queues_work(connection, name):
    numbers = count()
    with connection.SimpleQueue(name) as queue:
        for _ in range(3):
            queue.put({"n": next(numbers)})
        assert queue.qsize() == 3
        for expected in range(3):
            message = queue.get(timeout=5)
            assert message.payload == {"n": expected}
            message.ack()
        with pytest.raises(queue.Empty):
            queue.get(timeout=0.1)
