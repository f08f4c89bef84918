"""Large results of real workers: a chord's, and those that go through the broker (`rpc://`). The limit is that of a
message, 8 MiB."""

from __future__ import annotations

import pytest
from celery import Celery, chord
from celery.exceptions import ChordError
from kombu_cluster import TIMEOUT_S, NodeProcess, Worker

LIMIT = 8 << 20
ROOM = 4096  # for what stands around a result in its message
NAMES_THE_LIMIT = r"over the (node's )?limit of \d+ .*`payload_bytes` in \[machine\.heap\]"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A node, and a worker with a result backend: the application that asks it."""
    started = []

    def start(backend):
        directory = tmp_path_factory.mktemp("results")
        node = NodeProcess(directory / "data")
        worker = Worker(node.url, directory / "worker.log", RESULTS=backend)
        started.extend([worker, node])
        worker.wait_ready()
        return Celery("asks", broker=node.url, backend=backend)

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def chords(start, tmp_path_factory):
    return start(f"file://{tmp_path_factory.mktemp('backend')}")


@pytest.fixture(scope="module")
def rpc(start):
    return start("rpc://")


def run(app, task, *arguments):
    return app.signature(f"kombu_app.{task}", arguments).apply_async()


def run_chord(app, *sizes):
    """Celery's file backend writes a result in place, and `get` reads those of the header first. So it might read half
    of one: without its parent, the result waits for the body alone."""
    result = chord([app.signature("kombu_app.make_text", (size,)) for size in sizes])(
        app.signature("kombu_app.total_size")
    )
    result.parent = None
    return result


@pytest.mark.parametrize("sizes", [(600_000, 600_000), (2_700_000,) * 3, (LIMIT - ROOM, 0)])
def test_a_chords_results_may_add_up_to_the_limit_of_a_message(chords, sizes):
    assert run_chord(chords, *sizes).get(timeout=TIMEOUT_S) == sum(sizes)


def test_a_chord_over_the_limit_says_so_and_the_worker_goes_on(chords):
    with pytest.raises(ChordError, match=NAMES_THE_LIMIT):
        run_chord(chords, *(3_000_000,) * 3).get(timeout=TIMEOUT_S)
    assert run_chord(chords, 3, 4).get(timeout=TIMEOUT_S) == 7


@pytest.mark.parametrize("size", [1_200_000, LIMIT - ROOM])
def test_an_rpc_result_may_have_the_size_of_a_message(rpc, size):
    assert len(run(rpc, "make_text", size).get(timeout=TIMEOUT_S)) == size


@pytest.mark.parametrize("size", [LIMIT, 2 * LIMIT])
def test_an_rpc_result_over_the_limit_fails_its_task_and_no_other(rpc, size):
    before, large, after = run(rpc, "make_text", 1), run(rpc, "make_text", size), run(rpc, "make_text", 2)
    with pytest.raises(Exception, match=NAMES_THE_LIMIT):
        large.get(timeout=TIMEOUT_S)
    assert [one.get(timeout=TIMEOUT_S) for one in (before, after)] == ["x", "xx"]
    assert run(rpc, "make_text", 3).get(timeout=TIMEOUT_S) == "xxx"
