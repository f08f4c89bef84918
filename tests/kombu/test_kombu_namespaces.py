"""Virtual hosts: the path of a URL, and names that do not meet."""

from __future__ import annotations

import pytest
from kombu_app import app, append
from kombu_cluster import NodeProcess, Worker, command, wait_until

import kombu
from disheap.client.core.url import without_path
from disheap.errors import UrlError
from disheap.protocol import broker
from disheap_kombu.namespaces import NAMES, Namespace

SHOP = Namespace("shop")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    node = NodeProcess(tmp_path_factory.mktemp("namespaces"))
    yield node.url
    node.kill()


@pytest.mark.parametrize(
    ("url", "other", "rest", "name"),
    [
        ("disheap://h1,h2:1", "", "disheap://h1,h2:1", ""),
        ("disheap://h1/", "/", "disheap://h1", ""),
        ("disheap://h1,h2:1/shop?label=x/y", "", "disheap://h1,h2:1?label=x/y", "shop"),
        ("disheap://h1//shop", "", "disheap://h1", "shop"),
        ("disheap://[::1]:1/a%20b", "", "disheap://[::1]:1", "a b"),
        ("disheap://h1/shop;disheap://h2/shop;disheap://h3", "", "disheap://h1;disheap://h2;disheap://h3", "shop"),
        ("disheap://h1", "shop", "disheap://h1", "shop"),
        ("disheap://h1/shop", "other", "disheap://h1", "shop"),
        ("disheap:///shop", "", "disheap://", "shop"),
        ("disheap://h1/shop,disheap://h2/shop", "", "disheap://h1;disheap://h2", "shop"),
    ],
)
def test_the_path_of_a_url_names_the_virtual_host(url, other, rest, name):
    assert without_path(url, other) == (rest, name)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("disheap://h1/a;disheap://h2/b", "name the virtual hosts a, b"),
        ("disheap://h1/a/b", "is no name of a virtual host"),
        ("disheap://h1/a%2Fb", "is no name of a virtual host"),
        ("disheap://h1/%00", "is no name of a virtual host"),
        (f"disheap://h1/{'x' * 65}", "at most 64"),
    ],
)
def test_a_path_that_names_none_is_refused(url, told):
    with pytest.raises(UrlError, match=told):
        without_path(url)


def test_every_command_with_a_name_is_translated():
    """A new command or query with such a field has to be in the table."""
    fields = {"topic", "exchange", "alternate"}
    for kinds in (broker.Command, broker.Query):
        for kind in kinds.__args__:
            named = fields & set(kind.__struct_fields__)
            if kind is not broker.Publish:
                assert named <= set(NAMES.get(kind, ())), kind


def test_places_for_dead_letters_are_translated():
    """A place of another name would be a topic, or an exchange, of another application."""
    settings = broker.TopicSettings(dead_letter_exchange="dlx", dead_letter_key="a.b")
    assert SHOP.inward(broker.CreateTopic("jobs", settings)).settings == broker.TopicSettings(
        dead_letter_exchange="shop/dlx", dead_letter_key="a.b"
    )
    named = SHOP.inward(broker.CreateTopic("jobs", broker.TopicSettings(dead_letter_topic="dead")))
    assert named == broker.CreateTopic("shop/jobs", broker.TopicSettings(dead_letter_topic="shop/dead"))
    assert SHOP.queue_of("shop/jobs") == "jobs"


def test_names_go_in_and_come_out():
    publish = broker.Publish("", "jobs", broker.NewMessage(b"x"))
    assert SHOP.inward(publish).routing_key == "shop/jobs"
    routed = SHOP.inward(broker.Publish("all", "a.b", broker.NewMessage(b"x")))
    assert (routed.exchange, routed.routing_key) == ("shop/all", "a.b")
    assert SHOP.inward(broker.Batch([publish])).items == [SHOP.inward(publish)]
    assert SHOP.inward(broker.CreateExchange("e", alternate="f")).alternate == "shop/f"
    assert SHOP.inward(broker.CreateExchange("e")).alternate == ""
    assert SHOP.inward(broker.ListExchanges()).exchange == ""
    assert Namespace().inward(publish) is publish
    infos = broker.ExchangeInfos([("shop/e", "direct")], [])
    assert SHOP.outward(infos).exchanges == [("e", "direct")]


def test_queues_and_exchanges_of_one_name_do_not_meet(url):
    with (
        kombu.Connection(f"{url}/shop") as shop,
        kombu.Connection(f"{url}/mail") as mail,
        kombu.Connection(url) as bare,
    ):
        everywhere = (shop, mail, bare)
        for number, connection in enumerate(everywhere):
            channel = connection.default_channel
            queue = kombu.Queue("same", kombu.Exchange("all", "fanout"), durable=True, channel=channel)
            queue.declare()
            assert channel.queue_declare("same", passive=True).queue == "same"
            channel.exchange_declare("all", "fanout", passive=True)
            connection.Producer().publish(number, exchange="all", routing_key="")
        for number, connection in enumerate(everywhere):
            channel = connection.default_channel
            messages = [channel.basic_get("same", no_ack=True) for _ in range(2)]
            assert messages[0].decode() == number and messages[1] is None
            assert messages[0].delivery_info["exchange"] == "all"
        shop.default_channel.queue_delete("same")
        assert mail.default_channel.queue_declare("same", passive=True).message_count == 0
        with pytest.raises(shop.channel_errors):
            shop.default_channel.queue_declare("same", passive=True)
        assert shop.as_uri().endswith("/shop")


def test_a_worker_serves_its_own_virtual_host_only(url, tmp_path):
    """Tasks, remote control and its replies."""
    trace = tmp_path / "trace"
    trace.touch()
    worker = Worker(f"{url}/shop", tmp_path / "worker.log", "-n", "w1@here")
    try:
        worker.wait_ready()
        for name in ("mail", "shop"):
            with app.connection_for_write(f"{url}/{name}") as connection:
                append.apply_async((str(trace), name), connection=connection)
        wait_until(lambda: trace.read_text().split() == ["shop"], "the worker runs its own task")
        assert "pong" in command(f"{url}/shop", "inspect", "--timeout", "10", "--destination", "w1@here", "ping")
        assert "No nodes replied" in command(f"{url}/mail", "inspect", "ping")
        with kombu.Connection(f"{url}/mail") as connection:
            assert connection.default_channel.queue_declare("celery", passive=True).message_count == 1
    finally:
        worker.kill()
