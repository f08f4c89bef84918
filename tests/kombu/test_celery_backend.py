"""The result backend against a node, without a worker: what is stored, what is waited for, and what is refused."""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import timedelta
from itertools import count
from types import SimpleNamespace

import pytest
from celery import Celery, signals, states
from celery._state import _task_stack
from celery.app.task import Context
from celery.exceptions import ChordError, TimeoutError
from celery.result import GroupResult
from celery.utils.functional import regen
from kombu_cluster import NodeProcess, wait_until

import disheap.sync
from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import UrlError
from disheap.protocol import broker
from disheap_celery import register
from disheap_celery.consumer import WATCHED_MAX
from disheap_celery.failures import BackendUnreachable, ResultTooLarge
from disheap_celery.options import results_url
from disheap_kombu.publishing import messages

numbers = count()


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = NodeProcess(tmp_path_factory.mktemp("backend"))
    yield node
    node.kill()


@pytest.fixture
def app(node):
    app = Celery(f"asks-{next(numbers)}", broker=node.url, backend=node.url)
    yield app
    app.backend.result_consumer.stop()
    app.backend.results.close()


@pytest.fixture
def backend(app):
    return app.backend


@pytest.fixture
def task_id():
    return f"task-{next(numbers)}"


def member(task_id, group_id, index, body):
    return Context(id=task_id, group=group_id, group_index=index, chord=body, children=[], errbacks=[])


def stats(node):
    with disheap.sync.connect(node.url) as client:
        return client.stats()


# --- results ---


def test_a_result_is_stored_and_read(app, backend, task_id):
    backend.mark_as_done(task_id, {"a": [1, "ü", None]})
    result = app.AsyncResult(task_id)
    assert (result.state, result.get(timeout=5)) == (states.SUCCESS, {"a": [1, "ü", None]})
    assert app.AsyncResult("unknown").state == states.PENDING


def test_a_failure_is_raised(app, backend, task_id):
    backend.mark_as_failure(task_id, KeyError("missing"), traceback="Traceback")
    with pytest.raises(KeyError, match="missing"):
        app.AsyncResult(task_id).get(timeout=5)
    assert app.AsyncResult(task_id).traceback == "Traceback"


def test_a_success_is_not_replaced_by_what_comes_later(app, backend, task_id):
    backend.mark_as_done(task_id, 1)
    backend.mark_as_failure(task_id, ValueError("a second attempt"))
    backend.store_result(task_id, None, states.STARTED)
    assert app.AsyncResult(task_id).get(timeout=5) == 1


def test_a_failure_is_replaced_by_a_success(app, backend, task_id):
    backend.mark_as_failure(task_id, ValueError("a first attempt"))
    backend.mark_as_done(task_id, 1)
    assert app.AsyncResult(task_id).get(timeout=5) == 1


def test_forget_drops_the_result(app, backend, node, task_id):
    backend.mark_as_done(task_id, 1)
    app.AsyncResult(task_id).forget()
    assert app.AsyncResult(task_id).state == states.PENDING


def test_results_expire(node, task_id):
    app = Celery("expires", broker=node.url, backend=node.url)
    app.conf.result_expires = 1
    app.backend.mark_as_done(task_id, 1)
    assert app.AsyncResult(task_id).state == states.SUCCESS
    wait_until(lambda: app.backend.get(app.backend.get_key_for_task(task_id)) is None, "it has expired")
    assert app.backend.supports_autoexpire


def test_results_without_expiry_stay(node, task_id):
    app = Celery("keeps", broker=node.url, backend=node.url)
    app.conf.result_expires = None
    app.backend.mark_as_done(task_id, 1)
    with disheap.sync.connect(node.url) as client:
        found = client.driver.query(broker.GetValues([app.backend.get_key_for_task(task_id)]))
    assert found.values[0].stage == broker.STAGE_FINAL


def test_extended_results_have_the_name_and_the_arguments(node, task_id):
    app = Celery("extended", broker=node.url, backend=node.url)
    app.conf.result_extended = True
    request = Context(id=task_id, task="some.task", args=[1], kwargs={"b": 2}, hostname="w", retries=1, children=[])
    app.backend.mark_as_done(task_id, 1, request=request)
    result = app.AsyncResult(task_id)
    assert (result.name, result.args, result.kwargs, result.worker) == ("some.task", [1], {"b": 2}, "w")


def test_a_result_that_is_too_large_is_refused_with_its_size(app, backend, task_id):
    with pytest.raises(ResultTooLarge, match=r"\d+ bytes is over the .*limit of \d+ .*`payload_bytes`"):
        backend.mark_as_done(task_id, "x" * (9 << 20))
    assert app.AsyncResult(task_id).state == states.PENDING


def test_a_failure_that_is_too_large_is_stored_without_what_makes_it_so(app, backend, task_id):
    backend.mark_as_failure(task_id, ValueError("x" * (9 << 20)), traceback="t" * 100_000 + "the end")
    with pytest.raises(ResultTooLarge, match="cannot be stored"):
        app.AsyncResult(task_id).get(timeout=5)
    assert app.AsyncResult(task_id).traceback.endswith("the end")


def test_a_large_result_comes_as_a_whole(app, backend, task_id):
    waiting = app.AsyncResult(task_id)
    thread = threading.Timer(0.1, backend.mark_as_done, (task_id, "x" * 8_000_000))
    thread.start()
    assert waiting.get(timeout=10) == "x" * 8_000_000
    thread.join()


def test_a_group_is_saved_and_restored_elsewhere(app, backend, node):
    ids = [f"member-{next(numbers)}" for _ in range(3)]
    for place, one in enumerate(ids):
        backend.mark_as_done(one, place)
    group_id = f"group-{next(numbers)}"
    GroupResult(group_id, [app.AsyncResult(one) for one in ids], app=app).save()
    other = Celery("elsewhere", broker=node.url, backend=node.url)
    restored = GroupResult.restore(group_id, app=other, backend=other.backend)
    assert restored.get(timeout=5) == [0, 1, 2]
    restored.delete()
    assert GroupResult.restore(group_id, app=other, backend=other.backend) is None


def test_get_many_gives_what_is_there_and_then_what_comes(app, backend):
    ids = [f"many-{next(numbers)}" for _ in range(4)]
    for one in ids[:2]:
        backend.mark_as_done(one, one)
    assert sorted(one for one, _ in backend.get_many(ids, max_iterations=1)) == sorted(ids[:2])
    thread = threading.Timer(0.1, lambda: [backend.mark_as_done(one, one) for one in ids[2:]])
    thread.start()
    assert sorted(one for one, _ in backend.get_many(ids, timeout=5)) == sorted(ids)
    thread.join()
    with pytest.raises(TimeoutError):
        list(backend.get_many(["never"], timeout=0.1))


# --- waiting ---


def test_get_ends_at_its_timeout(app, task_id):
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        app.AsyncResult(task_id).get(timeout=0.3)
    assert 0.25 < time.monotonic() - began < 5


def test_a_wait_sends_one_watch_and_nothing_more(app, node, task_id, monkeypatch):
    """Nobody polls, however long it takes."""
    sent = []
    for name in ("send", "request", "query"):
        monkeypatch.setattr(BlockingClient, name, noting(getattr(BlockingClient, name), sent))
    with pytest.raises(TimeoutError):
        app.AsyncResult(task_id).get(timeout=2.5)
    assert sent == [broker.Watch]


def noting(method, sent):
    def call(self, command, *arguments, **named):
        sent.append(type(command))
        return method(self, command, *arguments, **named)

    return call


def test_the_watch_ends_with_the_result(app, backend, node, task_id):
    waiting = app.AsyncResult(task_id)
    thread = threading.Thread(target=lambda: waiting.get(timeout=20))
    thread.start()
    wait_until(lambda: stats(node).watches == 1, "the key is watched")
    backend.mark_as_done(task_id, 1)
    thread.join(10)
    assert not thread.is_alive()
    assert stats(node).watches == 0


def test_states_on_the_way_are_pushed_too(app, backend, task_id):
    seen = []
    waiting = app.AsyncResult(task_id)

    def work():
        wait_until(lambda: backend.result_consumer._watched, "it is watched")
        backend.store_result(task_id, {"done": 1}, "PROGRESS")
        backend.mark_as_done(task_id, 2)

    thread = threading.Thread(target=work)
    thread.start()
    assert waiting.get(timeout=10, on_message=lambda meta: seen.append(meta["status"])) == 2
    thread.join()
    assert seen == ["PROGRESS", states.SUCCESS]


def test_several_threads_wait_for_several_results(app, backend):
    ids = [f"thread-{next(numbers)}" for _ in range(8)]
    got = {}

    def wait(one):
        got[one] = app.AsyncResult(one, backend=backend).get(timeout=20)

    threads = [threading.Thread(target=wait, args=(one,)) for one in ids]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(backend.result_consumer._watched) == len(ids), "all are watched")
    began = time.monotonic()
    for one in ids:
        backend.mark_as_done(one, one)
    for thread in threads:
        thread.join(20)
    assert got == {one: one for one in ids}
    assert time.monotonic() - began < 5


def test_a_new_session_watches_again_what_is_awaited(app, backend, node, task_id):
    waiting = app.AsyncResult(task_id)
    got = []
    thread = threading.Thread(target=lambda: got.append(waiting.get(timeout=30)))
    thread.start()
    wait_until(lambda: stats(node).watches == 1, "the key is watched")
    with disheap.sync.connect(node.url) as client:
        client.driver.admin({"op": "end-session", "session": backend.result_consumer._client.session_id})
    wait_until(lambda: stats(node).watches == 0, "the session is over")
    wait_until(lambda: stats(node).watches == 1, "the key is watched again")
    backend.mark_as_done(task_id, 1)
    thread.join(20)
    assert got == [1]


def test_a_large_group_is_watched_in_parts(app, backend, monkeypatch):
    monkeypatch.setattr("disheap_celery.consumer.WATCHED_MAX", 3)
    assert WATCHED_MAX == 10_000
    ids = [f"large-{next(numbers)}" for _ in range(10)]
    thread = threading.Timer(0.2, lambda: [backend.mark_as_done(one, one) for one in reversed(ids)])
    thread.start()
    assert GroupResult("large", [app.AsyncResult(one) for one in ids], app=app).get(timeout=10) == ids
    thread.join()


def test_results_that_nobody_waits_for_are_not_remembered(app, backend, node):
    for number in range(100):
        result = app.AsyncResult(f"dropped-{number}")
        backend.add_pending_result(result)
        backend.remove_pending_result(result)
    consumer = backend.result_consumer
    assert not (consumer._new or consumer._watched or consumer._unwanted)


def test_a_process_that_only_stores_has_one_session_and_no_watch(app, backend, node, task_id):
    before = stats(node)
    backend.mark_as_done(task_id, 1)
    assert backend.result_consumer._client is None
    assert stats(node).watches == before.watches
    with disheap.sync.connect(node.url) as client:
        labels = [one["label"] for one in client.driver.admin({"op": "sessions"})["sessions"]]
    assert f", pid {os.getpid()}" in next(label for label in labels if label.startswith("celery results "))


def test_the_session_ends_with_the_workers_process(node, task_id):
    app = Celery("ends", broker=node.url, backend=f"{node.url}?label=ends-with-it")
    app.backend.mark_as_done(task_id, 1)
    signals.worker_process_shutdown.send(sender=None, pid=1, exitcode=0)
    with disheap.sync.connect(node.url) as client:
        assert "ends-with-it" not in [one["label"] for one in client.driver.admin({"op": "sessions"})["sessions"]]
    app.backend.mark_as_done(task_id, 2)
    assert app.AsyncResult(task_id).get(timeout=5) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_has_a_connection_of_its_own(app, backend, task_id):
    backend.mark_as_done(task_id, "parent")
    child = os.fork()
    if not child:
        try:
            backend.mark_as_done(f"{task_id}-child", "child")
            os._exit(0 if backend.get_result(task_id) == "parent" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    backend.mark_as_done(f"{task_id}-again", "parent again")
    assert app.AsyncResult(f"{task_id}-child").get(timeout=5) == "child"
    assert app.AsyncResult(f"{task_id}-again").get(timeout=5) == "parent again"


def test_threads_share_one_connection(app, node):
    found = []
    threads = [threading.Thread(target=lambda: found.append(app.backend.results)) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len({id(one) for one in found}) == 1


def test_a_broker_that_is_away_is_an_error_that_may_be_tried_again(task_id):
    app = Celery("nobody", broker="memory://", backend="disheap://127.0.0.1:1?timeout_s=0.3&connect_timeout_s=0.1")
    with pytest.raises(BackendUnreachable) as caught:
        app.backend.mark_as_done(task_id, 1)
    assert app.backend.exception_safe_to_retry(caught.value)
    assert not app.backend.exception_safe_to_retry(ValueError())
    with pytest.raises(BackendUnreachable, match="no node took a session"):
        app.AsyncResult(task_id).get(timeout=10)


def test_time_in_which_nobody_waits_is_not_time_without_a_broker(backend):
    """One wait ended while the connection was new. At the next one, a minute later, the session has lapsed."""
    looks = []
    client = SimpleNamespace(ready=False, clock=lambda: looks[-1])

    def look(now):
        looks.append(now)
        backend.result_consumer._check_ready(client)

    for now in (0.0, 60.0, 120.0):
        look(now)
    client.ready = True
    look(120.0)
    client.ready = False
    with pytest.raises(BackendUnreachable, match="no node took a session within 30 s"):
        for second in range(121, 200):
            look(float(second))
    assert looks[-1] == 151.0


# --- chords ---


@pytest.mark.parametrize(
    ("conf", "member_ms", "chord_ms"),
    [
        ({"result_expires": 60}, 86_400_000, 86_400_000),
        ({"result_expires": 90_000}, 90_000_000, 90_000_000),
        ({"result_expires": 60, "result_chord_expires": 5}, 60_000, 5000),
        ({"result_expires": 60, "result_chord_expires": 120.0}, 120_000, 120_000),
        ({"result_expires": 60, "result_chord_expires": timedelta(minutes=3)}, 180_000, 180_000),
        ({"result_expires": 60, "result_chord_expires": 0}, 0, 0),
        ({"result_expires": 0, "result_chord_expires": 5}, 0, 5000),
    ],
)
def test_a_chord_is_kept_as_long_as_the_application_says(node, monkeypatch, conf, member_ms, chord_ms):
    app = Celery("chords", broker=node.url, backend=node.url)
    app.conf.update(conf)
    sent = []
    monkeypatch.setattr(app.backend.results, "call", sent.append)
    app.backend.set_chord_size("g", 2)
    one = member("g-0", "g", 0, app.signature("kombu_app.total_size"))
    app.backend.mark_as_done(one.id, 1, one)
    app.backend.mark_as_done("alone", 1)
    assert [command.lifetime_ms for command in sent if isinstance(command, broker.SetBarrier)] == [chord_ms]
    expires = {command.key: command.expires_ms for command in sent if isinstance(command, broker.SetValue)}
    assert list(expires.values()) == [member_ms, conf["result_expires"] * 1000]


def begin_chord(app, backend, size):
    group_id = f"chord-{next(numbers)}"
    body = app.signature("kombu_app.total_size").set(task_id=f"body-{group_id}")
    backend.apply_chord((group_id, [app.AsyncResult(f"{group_id}-{n}") for n in range(size)]), body)
    backend.set_chord_size(group_id, size)
    return group_id, body


def waiting_tasks(node):
    with disheap.sync.connect(node.url) as client:
        return client.topic("celery").stats().ready


def test_a_header_from_a_generator_is_not_read_before_its_tasks_are_sent(app, backend):
    group_id, read = f"chord-{next(numbers)}", []
    members = regen(read.append(n) or app.AsyncResult(f"{group_id}-{n}") for n in range(3))
    backend.apply_chord((group_id, members), app.signature("kombu_app.total_size"))
    assert read == []
    assert not backend.results.info(backend.barrier_of(group_id)).is_complete


def test_members_are_counted_once_and_the_last_one_publishes(app, backend, node):
    group_id, body = begin_chord(app, backend, 2)
    before = waiting_tasks(node)
    first, second = (member(f"{group_id}-{n}", group_id, n, body) for n in range(2))
    for _ in range(2):
        backend.mark_as_done(first.id, 1, first)
    assert waiting_tasks(node) == before
    backend.mark_as_done(second.id, 1, second)
    backend.mark_as_done(second.id, 1, second)
    assert waiting_tasks(node) == before + 1


@pytest.mark.parametrize("how", ["failure", "revoked", "result ignored"])
def test_every_end_of_a_member_is_counted(app, backend, node, how):
    group_id, body = begin_chord(app, backend, 1)
    one = member(f"{group_id}-0", group_id, 0, body)
    if how == "failure":
        backend.mark_as_failure(one.id, ValueError(), request=one)
    elif how == "revoked":
        backend.mark_as_revoked(one.id, "revoked", request=one)
    else:
        one.ignore_result = True
        backend.mark_as_done(one.id, 1, one)
    assert backend.results.info(backend.barrier_of(group_id)).is_complete


def test_a_state_that_is_no_end_is_not_counted(app, backend):
    group_id, body = begin_chord(app, backend, 1)
    one = member(f"{group_id}-0", group_id, 0, body)
    backend.store_result(one.id, None, states.STARTED, request=one)
    backend.store_result(one.id, 5, states.SUCCESS, request=one)  # `update_state` of the task itself
    assert backend.results.info(backend.barrier_of(group_id)).arrived == 0
    backend.mark_as_done(one.id, 5, one)
    assert backend.results.info(backend.barrier_of(group_id)).arrived == 1


def test_a_member_that_is_added_is_waited_for(app, backend):
    group_id, body = begin_chord(app, backend, 1)
    backend.add_to_chord(group_id, None)
    one = member(f"{group_id}-0", group_id, 0, body)
    backend.mark_as_done(one.id, 5, one)
    assert not backend.results.info(backend.barrier_of(group_id)).is_complete


def finish(app, group_id, body):
    app.tasks["disheap.finish_chord"].run(group_id, dict(body))


def test_the_body_is_sent_once_with_the_results_in_the_order_of_the_header(app, backend, node):
    group_id, body = begin_chord(app, backend, 3)
    for n in (2, 0, 1):
        one = member(f"{group_id}-{n}", group_id, n, body)
        backend.mark_as_done(one.id, n * 10, one)
    before = waiting_tasks(node)
    for _ in range(3):
        finish(app, group_id, body)
    assert waiting_tasks(node) == before + 1
    with disheap.sync.connect(node.url) as client:
        assert b"[0, 10, 20]" in client.topic("celery").peek(1000)[-1].payload


def test_the_parent_of_a_body_is_the_member_that_ended_last(app, backend, node):
    group_id, body = begin_chord(app, backend, 2)
    for n in (1, 0):
        one = member(f"{group_id}-{n}", group_id, n, body)
        backend.mark_as_done(one.id, n, one)
    task = app.tasks["disheap.finish_chord"]
    task.push_request(id="finisher", called_directly=False, is_eager=False)
    _task_stack.push(task)
    try:
        finish(app, group_id, body)
        assert task.request.id == "finisher"
    finally:
        _task_stack.pop()
        task.pop_request()
    with disheap.sync.connect(node.url) as client:
        sent = client.topic("celery").peek(1000)[-1]
    assert messages.decode(sent.payload).headers["parent_id"] == f"{group_id}-0"


def test_a_chord_with_a_member_that_failed_fails_its_body(app, backend):
    group_id, body = begin_chord(app, backend, 2)
    good, bad = (member(f"{group_id}-{n}", group_id, n, body) for n in range(2))
    backend.mark_as_done(good.id, 1, good)
    backend.mark_as_failure(bad.id, ValueError("no"), request=bad)
    finish(app, group_id, body)
    with pytest.raises(ChordError, match=rf"Dependency {bad.id} raised ValueError\('no'\)"):
        app.AsyncResult(body.id).get(timeout=5)


def test_a_chord_with_a_result_that_is_gone_fails_its_body(app, backend):
    group_id, body = begin_chord(app, backend, 1)
    one = member(f"{group_id}-0", group_id, 0, body)
    backend.mark_as_done(one.id, 1, one)
    backend.forget(one.id)
    finish(app, group_id, body)
    with pytest.raises(ChordError, match=f"Dependency {one.id} has no result any more"):
        app.AsyncResult(body.id).get(timeout=5)


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_chord_that_is_forgotten_fails_its_body_unless_that_was_sent(app, backend, is_sent):
    group_id, body = begin_chord(app, backend, 1)
    backend.results.call(broker.CloseBarrier(backend.barrier_of(group_id)))
    unknown = f"{group_id}-unknown"
    if is_sent:
        backend.mark_as_done(body.id, 5)
    finish(app, unknown, body)
    if is_sent:
        assert app.AsyncResult(body.id).get(timeout=5) == 5
    else:
        with pytest.raises(ChordError, match="the chord is forgotten"):
            app.AsyncResult(body.id).get(timeout=5)


def test_a_chord_whose_tasks_go_through_another_broker_is_left_to_celery(node):
    app = Celery("elsewhere", broker="memory://", backend=node.url)
    asked = []
    app.backend.fallback_chord_unlock = lambda header, body, **_: asked.append(header.id)
    app.backend.apply_chord(("group", [app.AsyncResult("a")]), app.signature("some.task"))
    assert asked == ["group"]


# --- options ---


def test_options_and_urls_name_the_same_things():
    url, _ = results_url(
        "disheap://a,b?timeout_s=3", {"timeout_s": 9, "group": 2, "global_keyprefix": "x", "label": None}
    )
    assert (url.addresses, url.timeout_s, url.group) == (("a:8400", "b:8400"), 3, 2)
    assert url.label.startswith("celery results ")
    assert results_url("disheaps://a;disheaps://b?label=mine", {"cafile": "c"})[0].transport_table == {"cafile": "c"}
    with pytest.raises(UrlError):
        results_url("disheap://a?nonsense=1", {})


def test_a_prefix_and_a_virtual_host_keep_applications_apart(node, task_id):
    apps = [Celery(name, backend=node.url) for name in ("one", "two")]
    apps[1].conf.result_backend_transport_options = {"global_keyprefix": "two"}
    apps.append(Celery("three", backend=f"{node.url}/three"))
    for place, app in enumerate(apps):
        app.backend.mark_as_done(task_id, place)
    assert [app.AsyncResult(task_id).get(timeout=5) for app in apps] == [0, 1, 2]


def test_every_application_with_this_backend_has_the_task():
    assert "disheap.finish_chord" in Celery("one", backend="disheap://").tasks
    assert "disheap.finish_chord" not in Celery("two", backend="cache+memory://").tasks
    assert not any(isinstance(one, register.AfterCelery) for one in sys.meta_path)


def test_the_task_waits_until_celery_is_there(monkeypatch):
    finder, connected = register.AfterCelery(), []
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.delitem(sys.modules, register.STATE)
    finder.find_spec("celery.app")
    assert finder in sys.meta_path
    monkeypatch.setitem(sys.modules, register.STATE, type("State", (), {"connect_on_app_finalize": connected.append}))
    finder.find_spec("json.other")
    assert connected == []
    finder.find_spec("celery.app.base")
    assert connected and finder not in sys.meta_path


def test_the_backend_can_be_pickled(backend):
    made, arguments = backend.__reduce__()[0], backend.__reduce__()[1]
    assert made(*arguments)._url == backend._url
