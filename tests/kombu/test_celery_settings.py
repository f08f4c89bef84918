"""Settings of Celery and of its queues, each seen at the broker: hosts, routes, queues, sizes, and lost connections."""

from __future__ import annotations

import json
import threading
import time
import uuid

import pytest
from celery import Celery
from kombu_cluster import TIMEOUT_S, NodeProcess, Worker, wait_until

import disheap.sync
from disheap.cli.processes.local_cluster import free_ports
from kombu import Exchange, Queue

LARGE = 20 << 20


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = NodeProcess(tmp_path_factory.mktemp("settings"))
    yield node
    node.kill()


@pytest.fixture
def large_node(tmp_path, monkeypatch):
    """A node whose operator allows large messages."""
    monkeypatch.setenv("HEAP", json.dumps({"payload_bytes": LARGE + (1 << 20)}))
    node = NodeProcess(tmp_path)
    yield node
    node.kill()


@pytest.fixture
def named():
    """A name that no other test uses."""
    return f"q-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def configure(node):
    """An application of the node with these settings."""
    apps = []

    def configured(**conf):
        app = Celery("settings", broker=conf.pop("broker_url", node.url), set_as_current=False)
        app.conf.update(task_ignore_result=True, task_publish_retry=False, **conf)
        apps.append(app)
        return app

    yield configured
    for app in apps:
        app.close()


def ready(node, name):
    with disheap.sync.connect(node.url) as client:
        return client.topic(name).stats().ready


# --- where the broker is ---


@pytest.mark.parametrize(
    "spelling",
    [
        "list", "tuple", "disheap://{dead};disheap://{live}", "disheap://{dead};{live}", "disheap://{dead},{live}",
        "disheap://{dead},disheap://{live}", "disheap://{live}//", "disheap://{dead} , {live}/",
    ],
)  # fmt: skip
def test_an_application_may_spell_several_hosts_in_any_way(node, configure, named, spelling):
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    several = [f"disheap://{dead}", node.url]
    urls = {"list": several, "tuple": tuple(several)}
    url = urls.get(spelling) or spelling.format(dead=dead, live=node.address)
    configure(broker_url=url, broker_connection_timeout=20).send_task("t", queue=named)
    assert ready(node, named) == 1


def test_hosts_may_have_ipv6_addresses(tmp_path, configure):
    peer, client = free_ports(2)
    node = NodeProcess(tmp_path, members=(f"n1=[::1]:{peer}=[::1]:{client}",))
    try:
        configure(broker_url=f"disheap://[::1]:{client}").send_task("t", queue="q")
        assert ready(node, "q") == 1
    finally:
        node.kill()


@pytest.mark.parametrize("path", ["my%20shop", "my shop", "ünïcode", "a+b&c=d%25"])
def test_a_virtual_host_may_have_odd_characters(node, configure, named, path):
    configure(broker_url=f"{node.url}/{path}").send_task("t", queue=named)
    configure(broker_vhost=path).send_task("t", queue=named) if "%" not in path else None
    with disheap.sync.connect(node.url) as client:
        (topic,) = [info.topic for info in client.topics() if info.topic.endswith(named)]
    assert topic == {"my%20shop": "my shop", "a+b&c=d%25": "a+b&c=d%"}.get(path, path) + f"/{named}"


def test_reading_and_writing_may_have_urls_of_their_own(node, configure, named):
    dead = f"disheap://127.0.0.1:{free_ports(1)[0]}"
    configure(broker_read_url=dead, broker_write_url=node.url, broker_url=dead).send_task("t", queue=named)
    assert ready(node, named) == 1


# --- queues and routes ---


def test_the_options_of_queues_are_those_of_topics(node, configure, named):
    queue = Queue(
        named, Exchange(named, durable=False), named, durable=False, auto_delete=True,
        max_length=7, message_ttl=60, expires=90, max_priority=5,
    )  # fmt: skip
    configure(task_queues=[queue]).send_task("t", queue=named)
    with disheap.sync.connect(node.url) as client:
        found = client.topic(named).stats()
        assert (named, "direct") in client.exchanges(named).exchanges
    settings = found.settings
    assert (settings.max_messages, settings.message_ttl_ms, settings.expires_ms) == (7, 60_000, 90_000)
    assert (settings.priority_max, settings.auto_delete, settings.overflow, found.ready) == (5, True, "drop", 1)


def test_task_routes_lead_to_queues_and_keys(node, configure, named):
    exchange = Exchange(f"{named}.x", type="topic")
    queues = [Queue(f"{named}.feeds", exchange, "feed.#"), Queue(f"{named}.video", exchange, "media.video")]
    app = configure(
        task_queues=queues,
        task_routes={
            "feed.tasks.*": {"exchange": exchange.name, "routing_key": "feed.import"},
            "video.encode": {"queue": f"{named}.video", "priority": 9},
            "web.*": {"queue": f"{named}.web"},
        },
        task_default_queue=f"{named}.default",
    )
    with app.connection_for_write() as connection:
        for queue in queues:
            queue(connection.default_channel).declare()
    for task in ("feed.tasks.one", "feed.tasks.two", "video.encode", "web.show", "other"):
        app.send_task(task)
    counts = [ready(node, f"{named}.{queue}") for queue in ("feeds", "video", "web", "default")]
    assert counts == [2, 1, 1, 1]
    with disheap.sync.connect(node.url) as client:
        assert client.topic(f"{named}.video").peek(1)[0].priority == 9


# --- large messages ---


def test_a_task_over_the_limit_is_refused_with_the_setting(configure, named):
    app = configure()
    with pytest.raises(app.connection_for_write().channel_errors, match="payload_bytes"):
        app.send_task("t", ("x" * LARGE,), queue=named)


@pytest.mark.proof
def test_a_task_of_20_mib_runs_where_the_operator_allows_it(large_node, tmp_path):
    """Others publish meanwhile, each within seconds."""
    worker = Worker(large_node.url, tmp_path / "worker.log", RESULTS=large_node.url)
    app = Celery("large", broker=large_node.url, backend=large_node.url, set_as_current=False)
    slowest, ended = [0.0], threading.Event()

    def publish_small():
        with Celery("small", broker=large_node.url, set_as_current=False) as small:
            while not ended.is_set():
                began = time.monotonic()
                small.send_task("t", queue="small", ignore_result=True)
                slowest[0] = max(slowest[0], time.monotonic() - began)

    thread = threading.Thread(target=publish_small)
    try:
        worker.wait_ready()
        thread.start()
        texts = ["x" * LARGE]
        sizes = [app.signature("kombu_app.total_size", (texts,)).apply_async() for _ in range(3)]
        assert [result.get(timeout=TIMEOUT_S) for result in sizes] == [LARGE] * 3
        ended.set()
        thread.join()
        assert 0 < slowest[0] < 5
        assert worker.stop() == 0
    finally:
        ended.set()
        app.backend.result_consumer.stop()
        app.backend.results.close()
        app.close()
        if not worker.ended:
            worker.kill()


# --- a broker that is away ---


def start_worker(address, tmp_path, **conf):
    return Worker(f"disheap://{address}", tmp_path / "worker.log", CONF=json.dumps(conf))


@pytest.mark.proof
def test_a_worker_waits_for_its_broker_at_the_start(tmp_path):
    peer, client = free_ports(2)
    address = f"127.0.0.1:{client}"
    worker = start_worker(address, tmp_path, broker_connection_retry_on_startup=True, broker_connection_timeout=0.5)
    try:
        wait_until(lambda: "Cannot connect to" in worker.log_text(), "the worker has no broker")
        node = NodeProcess(tmp_path, members=(f"n1=127.0.0.1:{peer}={address}",))
        try:
            worker.wait_ready()
            assert worker.stop() == 0
        finally:
            node.kill()
    finally:
        if not worker.ended:
            worker.kill()


@pytest.mark.proof
@pytest.mark.parametrize(
    "conf",
    [
        {"broker_connection_retry_on_startup": False, "broker_connection_retry": False},
        {"broker_connection_retry_on_startup": True, "broker_connection_max_retries": 1},
    ],
)
def test_a_worker_that_may_not_wait_for_its_broker_ends(tmp_path, conf):
    address = f"127.0.0.1:{free_ports(1)[0]}"
    worker = start_worker(address, tmp_path, broker_connection_timeout=0.5, **conf)
    assert worker.wait() != 0
    assert address in worker.log_text()
