"""A real `celery worker` against a real node."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import celery
import pytest
from kombu_app import app, append, append_late, append_request, append_when_released
from kombu_cluster import Cluster, NodeProcess, Worker, command, wait_until

import disheap.sync

CELERY = tuple(int(number) for number in celery.__version__.split(".")[:3])
REMOTE_SHUTDOWN_CODE = 0 if CELERY >= (5, 3, 6) else 1
"""The exit code of a worker that `control shutdown` ended: Celery gave its message as the code before."""
TO_W1 = ("--destination", "w1@here", "--timeout", "10")  # ends with the first answer


@pytest.fixture
def node(tmp_path):
    node = NodeProcess(tmp_path / "data")
    yield node
    node.kill()


@pytest.fixture
def durable_node(tmp_path):
    node = NodeProcess(tmp_path / "data", storage="file")
    yield node
    node.kill()


@pytest.fixture
def run(tmp_path):
    """Start workers that end with the test."""
    workers = []

    def start(node, *options, session_timeout_ms=4000):
        worker = Worker(f"{node.url}?session_timeout_ms={session_timeout_ms}", tmp_path / "worker.log", *options)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        if not worker.ended:
            worker.kill()


@pytest.fixture
def trace(tmp_path):
    """Where tasks leave their names, and how to read it."""
    path = tmp_path / "trace"
    path.touch()

    def lines():
        return path.read_text().split()

    lines.path = str(path)
    lines.has_begun = lambda text: (tmp_path / f"trace.{text}").exists()
    lines.release_storage = (tmp_path / "trace.go").touch
    return lines


def publish(node, task, trace, *texts, pause_s=0.0, **options):
    with app.connection_for_write(node.url) as connection:
        for text in texts:
            pause = (pause_s,) if pause_s else ()
            task.apply_async((trace.path, str(text), *pause), connection=connection, **options)


def topics(node):
    with disheap.sync.connect(node.url) as client:
        return sorted(info.topic for info in client.topics())


def delayed(node, topic):
    with disheap.sync.connect(node.url) as client:
        return next(info.delayed for info in client.topics() if info.topic == topic)


def labels(node):
    with disheap.sync.connect(node.url) as client:
        return [session["label"] for session in client.driver.admin({"op": "sessions"})["sessions"]]


def test_a_worker_runs_tasks_answers_remote_control_and_leaves_no_topic_behind(node, run, trace):
    worker = run(node, "-n", "w1@here")
    worker.wait_ready()
    assert f"celery w1@here, pid {worker.pid}" in labels(node)
    publish(node, append, trace, *range(20))
    wait_until(lambda: len(trace()) == 20, "20 tasks ran")
    assert sorted(trace(), key=int) == [str(n) for n in range(20)]
    publish(node, append_when_released, trace, "long")
    wait_until(lambda: trace.has_begun("long"), "the long task is under way")
    assert "pong" in command(node.url, "inspect", *TO_W1, "ping")
    assert "kombu_app.append_when_released" in command(node.url, "inspect", *TO_W1, "active")
    assert "new rate limit set" in command(node.url, "control", *TO_W1, "rate_limit", "kombu_app.append", "100/s")
    assert [t for t in topics(node) if "reply" in t] == []
    command(node.url, "control", "shutdown")
    trace.release_storage()
    assert worker.wait() == REMOTE_SHUTDOWN_CODE
    assert "long" in trace()  # a warm shutdown lets it end
    assert topics(node) == ["celery"]


def test_waiting_tasks_run_by_priority(node, run, trace):
    with app.connection_for_write(node.url) as connection:
        for priority in (0, 9, -5, 1000, 4):
            append.apply_async((trace.path, str(priority)), connection=connection, priority=priority)
    run(node, "-n", "w1@here")
    wait_until(lambda: len(trace()) == 5, "5 tasks ran")
    assert trace() == ["1000", "9", "4", "0", "-5"]


def test_tasks_with_a_time_wait_in_the_broker_until_they_are_due(node, run, trace):
    worker = run(node, "-n", "w1@here")
    worker.wait_ready()
    soon = datetime.now(UTC) + timedelta(seconds=3)
    in_a_year = {"countdown": 365 * 86_400}
    with app.connection_for_write(node.url) as connection:
        append_request.apply_async((trace.path,), connection=connection, eta=soon, priority=7)
        for _ in range(100):
            append.apply_async((trace.path, "late"), connection=connection, priority=9, **in_a_year)
    assert delayed(node, "celery") == 101 and trace() == []
    publish(node, append, trace, "now")
    wait_until(lambda: len(trace()) == 2, "the task that was due ran, after the one that waits for nothing")
    assert trace()[0] == "now" and delayed(node, "celery") == 100
    ran = json.loads(trace()[1])
    assert (ran["eta"], ran["kept_eta"], ran["priority"]) == (soon.isoformat(), soon.isoformat(), 7)
    assert soon.timestamp() <= ran["at_s"] < soon.timestamp() + 2
    assert worker.log_text().count("received") == 2, "the worker never saw those that wait"


def test_a_retry_with_a_countdown_waits_in_the_broker_and_keeps_its_priority(node, run, trace):
    run(node, "-n", "w1@here").wait_ready()
    with app.connection_for_write(node.url) as connection:
        append_request.apply_async((trace.path, 2), connection=connection, priority=-3)
    wait_until(lambda: len(trace()) == 1 and delayed(node, "celery") == 1, "its retry waits in the broker")
    wait_until(lambda: len(trace()) == 3, "it was repeated twice")
    runs = [json.loads(line) for line in trace()]
    assert [(ran["retries"], ran["priority"]) for ran in runs] == [(0, -3), (1, -3), (2, -3)]
    assert runs[0]["eta"] is None
    for ran, before in zip(runs[1:], runs, strict=False):
        assert ran["eta"] == ran["kept_eta"]
        assert datetime.fromisoformat(ran["eta"]).timestamp() <= ran["at_s"] and ran["at_s"] >= before["at_s"] + 1


def test_tasks_that_wait_for_their_eta_are_listed(node, trace):
    """No worker runs. One of them is revoked."""
    publish(node, append, trace, "later", countdown=7200, task_id="t2", priority=5)
    publish(node, append, trace, "sooner", countdown=3600, task_id="t1")
    publish(node, append, trace, "ready")
    command(node.url, "control", "revoke", "t1")
    rows = [json.loads(line) for line in command(node.url, "disheap", "scheduled", "--json").splitlines()]
    assert [(row["id"], row["state"], row["priority"], row["queue"]) for row in rows] == [
        ("t1", "revoked", 0, "celery"),
        ("t2", "waits", 5, "celery"),
    ]
    assert rows[0]["task"] == "kombu_app.append" and "sooner" in rows[0]["arguments"]
    due_s = datetime.fromisoformat(rows[1]["due"]).timestamp() - time.time()
    assert 7100 < due_s < 7201
    table = command(node.url, "disheap", "scheduled", "-n", "1")
    assert "1 of 2 tasks" in table and "t2" in table and "t1" not in table
    assert "there is no topic 'nobody'" in command(node.url, "disheap", "scheduled", "-Q", "nobody")


def test_a_task_that_is_revoked_while_no_worker_runs_is_not_run(node, run, trace):
    """By its id, and by a stamp. Both wait in the broker."""
    publish(node, append, trace, "revoked", countdown=8, task_id="r1")
    publish(node, append, trace, "stamped", countdown=8, stamped_headers=["order"], order="o7")
    publish(node, append, trace, "wanted", countdown=8)
    command(node.url, "control", "revoke", "r1")
    command(node.url, "control", "revoke_by_stamped_headers", "order=o7")
    worker = run(node, "-n", "w1@here", "-c", "1")
    wait_until(lambda: worker.log_text().count("Discarding revoked task") == 2, "both are discarded")
    wait_until(lambda: trace() == ["wanted"] and not delayed(node, "celery"), "the other one has run")


def test_a_killed_worker_starts_again_under_its_name_at_once(node, run, trace):
    first = run(node, "-n", "w1@here")
    first.wait_ready()
    publish(node, append_late, trace, "held", pause_s=1)
    wait_until(lambda: "received" in first.log_text(), "the task is in the worker's hands")
    first.kill()
    second = run(node, "-n", "w1@here")
    second.wait_ready(times=2)
    assert "Unrecoverable" not in second.log_text() and "already using this process mailbox" not in second.log_text()
    publish(node, append, trace, "next")
    wait_until(lambda: "next" in trace() and "held" in trace(), "what the dead one held came back")
    assert second.stop() == 0
    wait_until(lambda: topics(node) == ["celery"], "what the dead one owned is gone with its session")


def test_a_node_that_is_killed_and_comes_back_shows_to_the_worker_as_a_pause(durable_node, run, trace):
    node = durable_node
    worker = run(node, "-n", "w1@here")
    worker.wait_ready()
    publish(node, append_late, trace, *range(30), pause_s=0.05)
    wait_until(lambda: len(trace()) >= 5, "some tasks ran")
    node.kill()
    node.start()
    wait_until(lambda: len(set(trace())) == 30, "all tasks ran")
    assert "Connection to broker lost" not in worker.log_text()
    publish(node, append, trace, "after")
    wait_until(lambda: "after" in trace(), "the worker goes on")
    assert sorted(trace(), key=str) == sorted([*(str(n) for n in range(30)), "after"], key=str)  # none twice
    assert worker.stop() == 0


@pytest.mark.proof
def test_a_failover_is_invisible_to_the_worker(tmp_path, run, trace):
    cluster = Cluster(tmp_path / "data", storage="file")
    try:
        worker = run(cluster, "-n", "w1@here")
        worker.wait_ready()
        publish(cluster, append_late, trace, *range(60), pause_s=0.03)
        wait_until(lambda: len(trace()) >= 10, "some tasks ran")
        dead = cluster.leader()
        dead.kill()
        publish(cluster, append_late, trace, "urgent", priority=9)  # waits for the new leader
        wait_until(lambda: len(set(trace())) == 61, "all tasks ran")
        dead.start()
        assert "Connection to broker lost" not in worker.log_text()
        assert len(trace()) == 61  # none twice
        assert trace().index("urgent") < 60
        assert "pong" in command(cluster.url, "inspect", *TO_W1, "ping")
        assert worker.stop() == 0
    finally:
        cluster.kill()


def test_a_long_task_under_the_solo_pool_keeps_its_session(node, run, trace):
    worker = run(node, "-n", "w1@here", "-P", "solo", session_timeout_ms=2000)
    worker.wait_ready()
    publish(node, append_late, trace, "long", pause_s=3)  # half as long again as the session's timeout
    publish(node, append_late, trace, "next")
    wait_until(lambda: len(trace()) >= 2, "both ran")
    assert trace() == ["long", "next"]
    assert "Connection to broker lost" not in worker.log_text()
    assert worker.stop() == 0


@pytest.mark.proof
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_warm_shutdown_waits_for_a_long_task_and_acknowledges_it(node, run, trace, pool):
    worker = run(node, "-n", "w1@here", "-P", pool, session_timeout_ms=2000)
    worker.wait_ready()
    publish(node, append_late, trace, "long", pause_s=3.5)
    wait_until(
        lambda: trace.has_begun("long"), "the task is under way"
    )  # one that a worker has received and not begun, it gives back
    assert worker.stop() == 0
    assert trace() == ["long"]
    with disheap.sync.connect(node.url) as client:
        stats = client.topic("celery").stats()
    assert (stats.ready, stats.leased) == (0, 0)  # or another worker would run it again


@pytest.mark.proof
def test_a_lapsed_session_makes_the_worker_start_its_consumer_anew(node, run, trace):
    worker = run(node, "-n", "w1@here")
    worker.wait_ready()
    node.kill()
    node.start()  # in memory: a new cluster, that knows neither the session nor the queues
    publish_when_there(node, trace)
    wait_until(lambda: "Connection to broker lost" in worker.log_text(), "the worker heard of it")
    wait_until(lambda: trace() == ["anew"], "and works again")
    assert worker.stop() == 0


def publish_when_there(node, trace):
    with app.connection_for_write(node.url) as connection:
        append.apply_async((trace.path, "anew"), connection=connection)


def test_threads_acknowledge_late(node, run, trace):
    worker = run(node, "-n", "w1@here", "-P", "threads", "-c", "4")
    worker.wait_ready()
    started = time.monotonic()
    publish(node, append_late, trace, *range(8), pause_s=0.2)
    wait_until(lambda: len(trace()) == 8, "8 tasks ran")
    assert time.monotonic() - started < 5
    assert worker.stop() == 0
    with disheap.sync.connect(node.url) as client:
        stats = client.topic("celery").stats()
    assert (stats.ready, stats.leased) == (0, 0)


@pytest.mark.proof
def test_workers_outlive_a_node_in_memory_that_is_restarted(node, run, trace):
    """The node has forgotten everything: sessions, queues and what was under way."""
    workers = [run(node, "-n", f"w{n}@here") for n in (1, 2)]
    for worker in workers:
        worker.wait_ready(times=2)
    node.kill()
    node.start()
    wait_until(
        lambda: workers[0].log_text().count("mingle: searching") == 4 or any(w.ended for w in workers),
        "both mingle again",
    )
    publish(node, append, trace, *range(4))
    wait_until(lambda: len(trace()) == 4, "tasks run on the new node")
    assert "pong" in command(node.url, "inspect", *TO_W1, "ping")
    assert [worker.stop() for worker in workers] == [0, 0], workers[0].log_text()
    assert "Unrecoverable" not in workers[0].log_text()


@pytest.mark.proof
def test_a_worker_of_many_queues_takes_one_task_at_a_time(node, run, trace):
    names = "abcde"
    first = run(node, "-n", "w1@here", "-Q", ",".join(names))
    first.wait_ready()
    for name in names:
        publish(node, append_when_released, trace, name, queue=name)
    wait_until(lambda: any(trace.has_begun(name) for name in names), "one is under way")
    with disheap.sync.connect(node.url) as client:
        leased = [client.topic(name).stats().leased for name in names]
    assert sum(leased) <= 2, "one runs, and another is taken when Celery has acknowledged it, as it began"
    second = run(node, "-n", "w2@here", "-Q", ",".join(names))
    second.wait_ready(times=2)
    wait_until(lambda: sum(trace.has_begun(name) for name in names) == 2, "another runs in the other worker")
    trace.release_storage()
    wait_until(lambda: len(trace()) == 5, "all ran")
    assert [worker.stop() for worker in (first, second)] == [0, 0]


def applied_entries(node):
    with disheap.sync.connect(node.url) as client:
        return client.status()["counters"]["raft_applied_entries_total"]


@pytest.mark.proof
def test_idle_workers_without_chatter_write_nothing(durable_node, run):
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    workers = [run(durable_node, "-n", f"w{n}@here", *quiet) for n in (1, 2)]
    workers[0].wait_ready(times=2)
    before = applied_entries(durable_node)
    time.sleep(5)  # nothing is awaited: nothing may happen
    own = applied_entries(durable_node) - before
    assert own <= 4, "the session of whoever counts: opened, closed"
    assert [worker.stop() for worker in workers] == [0, 0]


@pytest.mark.proof
def test_idle_workers_with_all_their_chatter_write_nothing(durable_node, run):
    workers = [run(durable_node, "-E", "-n", f"w{n}@here", session_timeout_ms=15_000) for n in (1, 2, 3)]
    workers[0].wait_ready(times=3)
    before = applied_entries(durable_node)
    time.sleep(8)  # nothing is awaited: nothing may happen
    assert applied_entries(durable_node) - before <= 4, "the session of whoever counts: opened, closed"
    assert [worker.stop() for worker in workers] == [0, 0, 0]
