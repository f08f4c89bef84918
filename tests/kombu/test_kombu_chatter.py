"""What Celery workers say while they have nothing to do: it passes by the leader's memory, and leaves nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from kombu_app import app
from kombu_chatter import HEARTBEAT_S, SETTLE_S, Crowd, Meter
from kombu_cluster import NodeProcess, wait_until

import disheap.sync
import kombu

WORKERS = 100


@pytest.fixture
def node(tmp_path):
    node = NodeProcess(tmp_path, storage="file")
    yield node
    node.kill()


def topics(node):
    with disheap.sync.connect(node.url, observer=True) as client:
        return sorted(info.topic for info in client.topics())


def counters(node):
    with disheap.sync.connect(node.url, observer=True) as client:
        return client.status()["counters"]


def test_a_hundred_idle_workers_write_nothing_and_hear_each_other(node):
    crowd = Crowd(node.url, WORKERS)
    crowd.run(SETTLE_S)
    crowd.hear_all()
    meter, sent = Meter(node), crowd.sent
    before = meter.read()
    crowd.run(3 * HEARTBEAT_S)
    done = meter.since(before)
    assert crowd.sent >= sent + 2 * WORKERS
    assert (done["entries"], done["bytes"], done["syncs"]) == (0, 0, 0)
    crowd.hear_all()
    assert len(topics(node)) == 2 * WORKERS
    crowd.close()
    assert topics(node) == []


def test_every_worker_answers_a_broadcast(node):
    crowd = Crowd(node.url, 50)
    crowd.run(0.1)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(crowd.app.control.inspect(timeout=20, limit=50).ping)
        while not answers.done():
            crowd.run(0.1)
    assert answers.result() == {worker.name: {"ok": "pong"} for worker in crowd.workers}
    crowd.close()


def test_events_for_a_monitor_that_died_are_dropped(node):
    crowd = Crowd(node.url, 3)
    monitor = app.connection_for_read(node.url)
    receiver = app.events.Receiver(monitor.channel(), routing_key="#")
    kombu.Consumer(receiver.channel, [receiver.queue], no_ack=True, callbacks=[list]).consume()
    crowd.run(SETTLE_S)
    before = counters(node)
    assert before["disheap_relay_dropped_total"] == 0
    monitor.connection.driver.abort()  # as if its process had been killed
    crowd.run(HEARTBEAT_S)
    after = counters(node)
    assert after["disheap_relay_dropped_total"] > 0
    entries = after["raft_applied_entries_total"] - before["raft_applied_entries_total"]
    assert entries <= 2, "that its session has no connection, and that it ends"
    wait_until(lambda: len(topics(node)) == 6, "its queue ends with its session")
    crowd.close()
