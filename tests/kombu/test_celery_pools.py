"""Each pool of a Celery worker, and programs under gevent and eventlet: order, delays, chords and a warm shutdown."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from celery import Celery, chord, group
from kombu_cluster import HERE, TIMEOUT_S, NodeProcess, Worker, environment, wait_until

import disheap.sync

POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")
GREEN = ("gevent", "eventlet")
URGENT = 1 << 40
GREEN_PROGRAM = """
import sys, time
kind, url = sys.argv[1:]
if kind == "gevent":
    from gevent import monkey, spawn
    monkey.patch_all()
    wait = lambda thread: thread.get()
else:
    import eventlet
    eventlet.monkey_patch()
    spawn, wait = eventlet.spawn, lambda thread: thread.wait()
from celery import Celery
app = Celery("asks", broker=url, backend=url)

def ask(number):
    return app.signature("kombu_app.number", (number, 0.02)).apply_async().get(timeout=20)

def count_ticks():
    ticks = 0
    while not ended:
        time.sleep(0.01)
        ticks += 1
    return ticks

ended = []
ticking = spawn(count_ticks)
answers = [wait(thread) for thread in [spawn(ask, number) for number in range(20)]]
ended.append(True)
assert answers == list(range(20)), answers
assert wait(ticking) > 3, "others run while an answer is awaited"
print("done")
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = NodeProcess(tmp_path_factory.mktemp("pools"))
    yield node
    node.kill()


@pytest.fixture
def asks(node):
    app = Celery("asks", broker=node.url, backend=node.url)
    yield app
    app.backend.result_consumer.stop()
    app.backend.results.close()
    app.close()


@pytest.fixture
def start(node, tmp_path):
    """Start a worker of a pool with so many slots. It ends with the test."""
    workers = []

    def started(pool, slots):
        log = tmp_path / f"{pool}.log"
        worker = Worker(node.url, log, "-P", pool, "-c", str(slots), "--without-mingle", RESULTS=node.url)
        workers.append(worker)
        worker.wait_ready()
        return worker

    yield started
    for worker in workers:
        if not worker.ended:
            worker.kill()


def task(app, name, *arguments, **options):
    return app.signature(f"kombu_app.{name}", arguments).set(**options)


def held(node):
    """The priorities of the tasks that a worker has taken."""
    with disheap.sync.connect(node.url) as client:
        return [message.priority for message in client.topic("celery").peek(10, leased=True, ready=False)]


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_runs_tasks_by_priority_and_time_and_ends_warm(start, asks, node, tmp_path, pool):
    worker = start(pool, 1)
    path = str(tmp_path / "trace")
    task(asks, "append_when_released", path, "first").apply_async()
    wait_until(lambda: (tmp_path / "trace.first").exists(), "the first task has begun")
    late = task(asks, "give", time.time()).apply_async(countdown=1)
    for text, priority in (("low", -5), ("high", URGENT), ("middle", 3)):
        task(asks, "note", path, text).apply_async(priority=priority)
    if pool != "solo":  # which looks at what has come when its task ends
        wait_until(lambda: URGENT in held(node), "the worker has the most urgent one")
    (tmp_path / "trace.go").touch()
    sent_at = late.get(timeout=TIMEOUT_S)
    assert time.time() - sent_at >= 1
    wait_until(lambda: len((tmp_path / "trace").read_text().split()) == 4, "all have run")
    assert (tmp_path / "trace").read_text().split() == ["first", "high", "middle", "low"]
    body = chord([task(asks, "number", number) for number in range(5)])(task(asks, "give"))
    assert body.get(timeout=TIMEOUT_S) == list(range(5))
    last = task(asks, "append_late", path, "last", 1.0).apply_async()
    wait_until(lambda: (tmp_path / "trace.last").exists(), "the last task has begun")
    assert worker.stop() == 0
    assert last.get(timeout=TIMEOUT_S) is None
    with disheap.sync.connect(node.url) as client:
        assert client.topic("celery").peek(10, delayed=True, leased=True) == [], worker.log_text()


@pytest.mark.parametrize("pool", ["threads", *GREEN])
def test_a_pool_of_threads_runs_as_many_tasks_at_once_as_it_has_slots(start, asks, pool):
    start(pool, 8)
    began = time.monotonic()
    assert group(task(asks, "number", n, 0.5) for n in range(8)).apply_async().get(timeout=TIMEOUT_S) == list(range(8))
    assert time.monotonic() - began < 4 * 0.5 + 1


@pytest.mark.parametrize("kind", GREEN)
def test_a_program_of_green_threads_publishes_and_waits(start, node, kind):
    start("threads", 4)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GREEN_PROGRAM, kind, node.url],
        env=environment(node.url), cwd=HERE, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
