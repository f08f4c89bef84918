"""Headers exchanges of kombu: which headers reach the broker, and where messages go. With a node and without one."""

from __future__ import annotations

import uuid
import warnings

import pytest
from amqp.exceptions import NotFound, PreconditionFailed
from celery import Celery
from kombu_cluster import NodeProcess

from disheap.errors import ExchangeNotFound
from disheap.protocol import broker
from disheap_kombu.namespaces import Namespace
from kombu import Connection, Consumer, Exchange, Producer, Queue

CELERY = {"id": "1", "task": "t", "timelimit": [None, None], "group": None, "stamps": {"a": 1}, "retries": 0}
FLAT = {"id": "1", "task": "t", "retries": 0}


def sent(driver):
    """The headers beside the payload of the last publish."""
    return driver.commands_of(broker.Publish)[-1].message.headers


def publish(channel, exchange="h", headers=CELERY, **options):
    channel.basic_publish(channel.prepare_message(b"x", headers=dict(headers)), exchange, "k", **options)


# --- what is sent ---


def test_only_a_headers_exchange_is_sent_the_headers_apart(channel, driver):
    for kind in broker.EXCHANGE_KINDS:
        channel.exchange_declare(f"e-{kind}", kind)
        publish(channel, f"e-{kind}")
        assert sent(driver) == (FLAT if kind == "headers" else {})
    publish(channel, "")
    assert sent(driver) == {}
    assert not driver.commands_of(broker.ListExchanges)


def test_values_that_are_not_flat_take_no_part(channel, driver):
    channel.exchange_declare("h", "headers")
    given = {"text": "ü", "number": -1, "float": 0.5, "yes": True, "raw": b"\0", "": 1, "n" * 256: 1}
    publish(channel, headers={**given, "none": None, "list": [], "map": {}, "tuple": (1,)})
    assert sent(driver) == {"text": "ü", "number": -1, "float": 0.5, "yes": True, "raw": b"\0"}


def test_the_kind_of_an_exchange_is_asked_for_once(channel, driver):
    driver.answers[broker.ListExchanges] = broker.ExchangeInfos([("h", "headers")], [])
    for _ in range(2):
        publish(channel)
        assert sent(driver) == FLAT
    assert driver.commands_of(broker.ListExchanges) == [broker.ListExchanges("h", 0, 1)]


def test_an_exchange_that_is_not_there_is_asked_for_again(channel, driver):
    driver.answers[broker.ListExchanges] = ExchangeNotFound("h")
    publish(channel)
    assert sent(driver) == {}
    driver.answers[broker.ListExchanges] = broker.ExchangeInfos([("h", "headers")], [])
    publish(channel)
    assert sent(driver) == FLAT


def test_a_deleted_exchange_may_come_back_with_another_kind(channel, driver):
    channel.exchange_declare("h", "direct")
    channel.exchange_delete("h")
    driver.answers[broker.ListExchanges] = broker.ExchangeInfos([("h", "headers")], [])
    publish(channel)
    assert sent(driver) == FLAT


def test_an_alternate_that_routes_by_headers_is_sent_them_too(channel, driver):
    channel.exchange_declare("first", "direct", arguments={"alternate-exchange": "second"})
    driver.answers[broker.ListExchanges] = broker.ExchangeInfos([("second", "topic")], [], 1, {"second": "h"})
    channel.exchange_declare("h", "headers")
    publish(channel, "first")
    assert sent(driver) == FLAT
    channel.exchange_declare("ring", "direct", arguments={"alternate-exchange": "ring"})
    publish(channel, "ring")
    assert sent(driver) == {}


def test_headers_that_are_too_many_to_route_by_are_refused(channel, driver):
    channel.exchange_declare("h", "headers")
    with pytest.raises(PreconditionFailed, match="limit of 16384"):
        publish(channel, headers={"a": "x" * 20_000})
    assert not driver.commands_of(broker.Publish)


def test_arguments_of_a_binding_reach_a_headers_exchange(channel, driver):
    channel.exchange_declare("h", "headers")
    arguments = {"x-match": "any", "type": "pdf", "pages": None}
    encoded = broker.encode_arguments(arguments)
    channel.queue_bind(queue="q", exchange="h", routing_key="", arguments=arguments, nowait=False)
    channel.queue_unbind(queue="q", exchange="h", routing_key="", arguments=arguments, nowait=False)
    assert driver.commands[-2:] == [broker.Bind("h", "q", "", encoded), broker.Unbind("h", "q", "", encoded)]


@pytest.mark.parametrize(
    "arguments", [{"x-match": "some"}, {"a": [1]}, {"a": {}}, {1: "a"}, {"a": "x" * 5000}, {"a": 1 << 65}]
)
def test_bad_arguments_are_refused_with_406(channel, driver, arguments):
    channel.exchange_declare("h", "headers")
    with pytest.raises(PreconditionFailed):
        channel.queue_bind("q", "h", "", arguments=arguments)
    assert not driver.commands_of(broker.Bind)


def test_arguments_for_another_exchange_are_warned_of(channel, driver):
    channel.exchange_declare("d", "direct")
    with pytest.warns(UserWarning, match="queue 'q' to exchange 'd': type has no effect"):
        channel.queue_bind("q", "d", "k", arguments={"type": "pdf"})
    assert driver.commands[-1] == broker.Bind("d", "q", "k")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        channel.queue_unbind("q", "d", "k", arguments={"type": "pdf"})


def test_a_binding_to_an_exchange_that_is_not_there_does_not_warn(channel, driver):
    driver.answers[broker.ListExchanges] = driver.answers[broker.Bind] = ExchangeNotFound("h")
    with warnings.catch_warnings(), pytest.raises(NotFound):
        warnings.simplefilter("error")
        channel.queue_bind("q", "h", "", arguments={"type": "pdf"})


def test_the_names_of_alternates_come_out_of_a_virtual_host():
    reply = broker.ExchangeInfos([("shop/h", "headers")], [], 1, {"shop/h": "shop/rest"})
    assert Namespace("shop").outward(reply).alternates == {"h": "rest"}


# --- with a node ---


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = NodeProcess(tmp_path_factory.mktemp("exchanges"))
    yield node
    node.kill()


@pytest.fixture
def client(node):
    with Connection(f"{node.url}/vhost-{uuid.uuid4().hex[:8]}") as client:
        yield client


def receive(client, queue, count=1):
    got = []
    with Consumer(client, [queue], on_message=lambda message: (got.append(message), message.ack())):
        for _ in range(count):
            client.drain_events(timeout=10)
    return got


@pytest.mark.parametrize("name", ["documents", "amq.headers", "amq.match"])
def test_messages_go_where_their_headers_lead(client, name):
    exchange = Exchange(name, type="headers")
    wanted = {"pdf": {"type": "pdf", "x-match": "all"}, "any": {"type": "ps", "pages": 2, "x-match": "any"}}
    queues = [Queue(kind, exchange, binding_arguments=given) for kind, given in wanted.items()]
    for queue in queues:
        queue(client.default_channel).declare()
    producer = Producer(client, exchange=exchange)
    for type_, pages in (("pdf", 1), ("pdf", 2), ("doc", 1)):
        producer.publish(f"{type_} {pages}", headers={"type": type_, "pages": pages, "nested": [1]})
    pdfs, others = receive(client, queues[0], 2), receive(client, queues[1])
    assert [message.payload for message in pdfs] == ["pdf 1", "pdf 2"]
    assert [message.payload for message in others] == ["pdf 2"]
    assert others[0].headers == {"type": "pdf", "pages": 2, "nested": [1]}
    queues[0](client.default_channel).unbind_from(exchange, arguments=wanted["pdf"])
    producer.publish("pdf 3", headers={"type": "pdf", "pages": 2})
    assert [message.payload for message in receive(client, queues[1])] == ["pdf 3"]
    assert queues[0](client.default_channel).get() is None


def test_another_connection_routes_by_headers_without_a_declaration(client):
    exchange = Exchange("documents", type="headers")
    Queue("pdf", exchange, binding_arguments={"type": "pdf"})(client.default_channel).declare()
    with client.clone() as other:
        message = other.default_channel.prepare_message("x", headers={"type": "pdf"})
        other.default_channel.basic_publish(message, "documents", "", mandatory=True)
    assert len(receive(client, Queue("pdf", no_declare=True))) == 1


def test_a_publish_to_an_exchange_that_is_not_there_is_404(client):
    with pytest.raises(NotFound):
        publish(client.default_channel, "nowhere")


def test_tasks_are_routed_by_their_headers(node):
    exchange = Exchange("by-customer", type="headers", auto_delete=True)
    queues = [
        Queue(name, exchange, binding_arguments={"customer": name, "task": None}, auto_delete=True)
        for name in ("blue", "green")
    ]
    app = Celery("shop", broker=node.url)
    app.conf.update(task_queues=queues, task_default_queue="blue", task_ignore_result=True)
    with app.connection_for_write() as connection:
        for queue in queues:
            queue(connection.default_channel).declare()
        for customer in ("green", "blue", "green"):
            app.send_task("shop.pack", exchange="by-customer", headers={"customer": customer}, retry=False)
        for queue, count in zip(queues, (1, 2), strict=True):
            customers = [message.headers["customer"] for message in receive(connection, queue, count)]
            assert customers == [queue.name] * count
