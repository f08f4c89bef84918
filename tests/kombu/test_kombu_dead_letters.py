"""Dead letters of kombu's queues, against a real node."""

from __future__ import annotations

import uuid

import pytest
from kombu_cluster import NodeProcess, wait_until

import disheap.sync
from kombu import Connection, Exchange, Queue


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = NodeProcess(tmp_path_factory.mktemp("node"))
    yield node
    node.kill()


@pytest.fixture(params=["", "shop"], ids=["no path", "virtual host"])
def connection(node, request):
    with Connection(f"{node.url.rstrip('/')}/{request.param}" if request.param else node.url) as connection:
        yield connection


@pytest.fixture
def name():
    return f"q-{uuid.uuid4().hex[:8]}"


def declared(connection, name, exchange=None, key="", **arguments):
    queue = Queue(name, exchange, key, queue_arguments=arguments)(connection.default_channel)
    queue.declare()
    return queue


def put(connection, name, body="x"):
    connection.default_channel.basic_publish(connection.default_channel.prepare_message(body), "", name)


def test_a_rejected_message_goes_through_the_exchange_and_tells_why(connection, name):
    dead = declared(connection, f"{name}.dead", Exchange(f"{name}.dlx", "direct"), name)
    queue = declared(connection, name, **{"x-dead-letter-exchange": f"{name}.dlx"})
    put(connection, name)
    queue.get().reject()
    message = dead.get()
    assert message.body == b"x" and not message.delivery_info["redelivered"]
    assert (message.headers["x-first-death-queue"], message.headers["x-first-death-reason"]) == (name, "rejected")
    (death,) = message.headers["x-death"]
    assert (death["queue"], death["count"], death["routing-keys"]) == (name, 1, [name])
    message.ack()


def test_a_delivery_limit_counts_what_comes_back(connection, name):
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}.dead", "x-delivery-limit": 1}
    queue = declared(connection, name, **arguments)
    put(connection, name)
    counts = []
    for _ in range(2):
        message = queue.get()
        counts.append((message.delivery_info["redelivered"], message.headers.get("x-delivery-count")))
        message.requeue()
    assert counts == [(False, None), (True, 1)]
    assert queue.get() is None
    message = Queue(f"{name}.dead")(connection.default_channel).get()
    assert message.headers["x-death"][0]["reason"] == "delivery_limit"
    message.ack()


def test_a_message_waits_in_another_queue_and_comes_back(connection, name):
    wait = f"{name}.wait"
    queue = declared(connection, name, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": wait})
    back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name, "x-message-ttl": 50}
    declared(connection, wait, **back)
    put(connection, name)
    for count in (1, 2):
        message = _wait(queue)
        message.reject()
        message = _wait(queue)
        deaths = {(one["queue"], one["reason"]): one["count"] for one in message.headers["x-death"]}
        assert deaths == {(name, "rejected"): 2 * count - 1, (wait, "expired"): 2 * count - 1}
        message.reject()
    _wait(queue).ack()


def _wait(queue):
    found = []

    def came():
        message = queue.get()
        found.extend([message] if message is not None else [])
        return bool(found)

    wait_until(came, "a message")
    return found[0]


def test_a_message_that_waited_unseen_is_not_redelivered(node, name):
    with Connection(node.url) as connection, Connection(node.url) as other:
        queue = declared(connection, name, **{"x-delivery-limit": 0})
        put(connection, name)
        channel = connection.channel()
        channel.basic_consume(name, no_ack=False, callback=lambda message: None, consumer_tag="c")
        with disheap.sync.connect(node.url) as client:
            assert client.topic(name).stats().leased == 1
        channel.close()
        message = queue(other.default_channel).get()
        assert message is not None and not message.delivery_info["redelivered"]
        message.ack()
