"""Results and chords of real workers, also of workers and leaders that are killed."""

from __future__ import annotations

import time

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import ChordError
from celery.result import AsyncResult
from kombu_cluster import TIMEOUT_S, Cluster, NodeProcess, Worker, wait_until

import disheap.sync

MEMBERS = 10_000


@pytest.fixture(scope="module")
def asks(tmp_path_factory):
    """The application that asks a node and a worker."""
    directory = tmp_path_factory.mktemp("results")
    node = NodeProcess(directory / "data")
    worker = Worker(node.url, directory / "worker.log", RESULTS=node.url)
    worker.wait_ready()
    yield Celery("asks", broker=node.url, backend=node.url)
    for process in (worker, node):
        process.kill()


def task(app, name, *arguments, **named):
    return app.signature(f"kombu_app.{name}", arguments, named)


def numbers(app, count):
    return [task(app, "number", n) for n in range(count)]


def test_results_of_a_worker_come_by_push(asks):
    assert task(asks, "make_text", 5).apply_async().get(timeout=TIMEOUT_S) == "xxxxx"
    with pytest.raises(ValueError, match="no"):
        task(asks, "fail", "no").apply_async().get(timeout=TIMEOUT_S)


def test_a_result_over_the_limit_fails_its_task_and_no_other(asks):
    large, after = (task(asks, "make_text", size).apply_async() for size in (9 << 20, 2))
    with pytest.raises(Exception, match=r"over the (node's )?limit of \d+ .*`payload_bytes` in \[machine\.heap\]"):
        large.get(timeout=TIMEOUT_S)
    assert after.get(timeout=TIMEOUT_S) == "xx"


def test_a_group_gives_its_results_in_order(asks):
    assert group(numbers(asks, 50)).apply_async().get(timeout=TIMEOUT_S) == list(range(50))


def test_progress_of_a_task_is_pushed(asks):
    seen = []
    result = task(asks, "progress").apply_async()
    assert result.get(timeout=TIMEOUT_S, on_message=lambda meta: seen.append(meta["status"])) == "ready"
    assert seen[-1] == "SUCCESS"


def test_a_chord_gives_the_results_in_the_order_of_its_header(asks):
    assert chord(numbers(asks, 30))(task(asks, "give")).get(timeout=TIMEOUT_S) == list(range(30))


def test_the_parent_of_a_body_is_a_member_of_the_chord(asks):
    body = chord(numbers(asks, 3))(task(asks, "tell_parent"))
    assert body.get(timeout=TIMEOUT_S) in [one.id for one in body.parent.results]


def test_a_chord_with_one_member_and_an_empty_one(asks):
    assert chord(numbers(asks, 1))(task(asks, "give")).get(timeout=TIMEOUT_S) == [0]
    assert chord([])(task(asks, "give")).get(timeout=TIMEOUT_S) == []


def test_chords_stand_in_chains_and_in_chords(asks):
    inner = chord(numbers(asks, 3), task(asks, "give"))
    assert chain(inner, task(asks, "give"))().get(timeout=TIMEOUT_S) == [0, 1, 2]
    nested = chord([inner, task(asks, "number", 7)])(task(asks, "give"))
    assert nested.get(timeout=TIMEOUT_S) == [[0, 1, 2], 7]


def test_a_body_may_be_a_chain_or_a_group(asks):
    body = chain(task(asks, "give"), task(asks, "give"))
    assert chord(numbers(asks, 3))(body).get(timeout=TIMEOUT_S) == [0, 1, 2]
    both = chord(numbers(asks, 2))(group(task(asks, "give"), task(asks, "give")))
    assert both.get(timeout=TIMEOUT_S) == [[0, 1], [0, 1]]


def test_a_failed_member_fails_the_body_and_calls_its_error_callback(asks, tmp_path):
    noted = tmp_path / "noted"
    body = task(asks, "give").on_error(task(asks, "note_error", path=str(noted)))
    result = chord([*numbers(asks, 2), task(asks, "fail", "no")])(body)
    with pytest.raises(ChordError, match=r"raised ValueError\('no'\)"):
        AsyncResult(result.id, app=asks).get(timeout=TIMEOUT_S)
    wait_until(noted.exists, "the error callback was called")
    assert noted.read_text().startswith("ChordError: Dependency")


def test_a_body_that_is_too_large_says_so(asks):
    result = chord([task(asks, "make_text", 3_000_000) for _ in range(3)])(task(asks, "total_size"))
    with pytest.raises(ChordError, match=r"Callback error: .*`payload_bytes`"):
        AsyncResult(result.id, app=asks).get(timeout=TIMEOUT_S)


def test_results_are_apart_from_the_queues(asks):
    group(numbers(asks, 20)).apply_async().get(timeout=TIMEOUT_S)
    with disheap.sync.connect(asks.conf.broker_url) as client:
        assert client.stats().values >= 20
        assert not [one for one in client.topics() if "meta" in one.topic]


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path, "file")
    yield cluster
    for node in cluster.nodes:
        node.kill()


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def run_with_kills(cluster, directory, count, pause_s=0.0):
    """A chord of so many members while a worker is killed, then the leader. Returns the result and the seconds."""
    app = Celery("asks", broker=cluster.url, backend=cluster.url)
    workers = [
        Worker(cluster.url, directory / f"{n}.log", "-c", "2", "-n", f"w{n}@%h", RESULTS=cluster.url) for n in range(3)
    ]
    noted = directory / "noted"
    try:
        for worker in workers:
            worker.wait_ready()
        began = time.monotonic()
        header = [task(app, "number", n, pause_s) for n in range(count)]
        result = chord(header)(task(app, "note_body", path=str(noted)))
        barrier = app.backend.barrier_of(result.parent.id)
        wait_until(lambda: app.backend.results.info(barrier).arrived > count // 4, "a quarter has ended", 300)
        workers[0].kill()
        wait_until(lambda: app.backend.results.info(barrier).arrived > count // 2, "half has ended", 300)
        leader = leader_of(cluster)
        leader.kill()
        assert result.get(timeout=300) == [0, count - 1]
        took_s = time.monotonic() - began
        leader.start()
        again = [task(app, "number", n).apply_async() for n in range(20)]
        assert [one.get(timeout=TIMEOUT_S) for one in again] == list(range(20))
    finally:
        for worker in workers:
            if not worker.ended:
                worker.kill()
    return lines(noted), took_s


def leader_of(cluster):
    with disheap.sync.connect(cluster.url) as client:
        name = client.status()["leader"]
    return next(node for node in cluster.nodes if node.name == name)


def test_a_body_is_carried_out_once_though_worker_and_leader_die(cluster, tmp_path):
    noted, _ = run_with_kills(cluster, tmp_path, 200, 0.02)
    assert noted == [f"200 {sum(range(200))}"]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_body_of_a_chord_of_ten_thousand_is_carried_out_once(cluster, tmp_path):
    noted, took_s = run_with_kills(cluster, tmp_path, MEMBERS)
    print(f"a chord of {MEMBERS} members with a killed worker and a killed leader: {took_s:.1f} s")
    assert noted == [f"{MEMBERS} {sum(range(MEMBERS))}"]
