"""Revoked tasks that wait in the broker: the marks, and when they are looked up."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from kombu.serialization import dumps

from disheap.protocol import broker
from disheap_kombu import connection as connections
from disheap_kombu.namespaces import Namespace
from disheap_kombu.publishing import messages
from disheap_kombu.publishing.delays import KEPT
from disheap_kombu.revocations import KEPT_MS, LOOKED_UP_AT_ONCE, WAITED_MS, Lookups, keys_of, revoked_by

PIDBOX = "celery.pidbox"


def broadcast(method, arguments, destination=None, serializer="json"):
    content_type, encoding, body = dumps(
        {"method": method, "arguments": arguments, "destination": destination}, serializer=serializer
    )
    return messages.Outgoing(body, content_type=content_type, content_encoding=encoding)


def delivery(task_id, number=1, waited_ms=0, **headers):
    payload = messages.encode(messages.Outgoing(b"[]", headers={"task": "t", "id": task_id, **headers}), "", "q")
    return broker.Deliver(1, number, 1, 0, int(time.time() * 1000) - waited_ms, payload)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_revoke_for_all_workers_leaves_a_mark_for_each_task(serializer):
    one = broadcast("revoke", {"task_id": "a", "terminate": True, "signal": "SIGTERM"}, serializer=serializer)
    assert revoked_by(one, "") == ["celery-revoked//id/a"]
    many = broadcast("revoke", {"task_id": ["a", "b"]}, serializer=serializer)
    assert revoked_by(many, "shop") == ["celery-revoked/shop/id/a", "celery-revoked/shop/id/b"]


@pytest.mark.parametrize("headers", [{"m": ["x", "y"]}, ["m=x", "m=y"]])
def test_a_revoke_by_stamps_leaves_a_mark_for_each_stamp(headers):
    marks = revoked_by(broadcast("revoke_by_stamped_headers", {"headers": headers}), "")
    assert marks == ["celery-revoked//stamp/m=x", "celery-revoked//stamp/m=y"]
    task = {"id": "1", "stamped_headers": ["m"], "stamps": {"m": ["y"]}}
    assert keys_of(task, "") == ["celery-revoked//id/1", "celery-revoked//stamp/m=y"]


@pytest.mark.parametrize(
    "message",
    [
        broadcast("revoke", {"task_id": "a"}, destination=["w1@here"]),
        broadcast("ping", {"text": "revoke"}),
        broadcast("revoke", {}),
        messages.Outgoing(b"revoke {", content_type="application/json", content_encoding="utf-8"),
        messages.Outgoing(b"revoke", content_type="application/x-unknown", content_encoding="binary"),
        messages.Outgoing('["revoke"]', content_type="application/json", content_encoding="utf-8"),
    ],
)
def test_what_is_no_revoke_for_all_leaves_none(message):
    assert revoked_by(message, "") == []


def test_a_long_id_has_a_key_that_fits():
    (key,) = keys_of({"id": "x" * 1000}, "shop")
    assert len(key) <= broker.NAME_CHARACTERS and key != keys_of({"id": "x" * 999}, "shop")[0]


@pytest.mark.parametrize(
    ("waited_ms", "headers", "expected"),
    [
        (0, {"task": "t"}, False),
        (0, {"task": "t", KEPT: "2030-01-01"}, True),
        (WAITED_MS + 1000, {"task": "t"}, True),
        (WAITED_MS + 1000, {}, False),
    ],
)
def test_a_task_is_looked_up_if_it_has_waited(waited_ms, headers, expected):
    assert Lookups("").concerns(delivery("a", waited_ms=waited_ms), headers) is expected


def test_tasks_that_wait_together_are_looked_up_together():
    lookups = Lookups("")
    pushes = [delivery(f"t{number}", number) for number in range(1, 2 * LOOKED_UP_AT_ONCE)]
    query, keys = lookups.query(pushes)
    assert len(query.keys) == len(keys) == LOOKED_UP_AT_ONCE
    lookups.learn(keys, broker.Values([broker.ValueSet("celery-revoked//id/t2", b"", 1)], []))
    assert [lookups.take(push) for push in pushes[:3]] == [False, True, False]
    assert lookups.take(pushes[1]) is None and lookups.take(pushes[LOOKED_UP_AT_ONCE]) is None


def test_a_broadcast_is_sent_when_its_marks_are_on_disk(channel, driver):
    message = broadcast("revoke", {"task_id": ["a", "b"]})
    channel.basic_publish(message, exchange=PIDBOX, routing_key="")
    marks = driver.commands_of(broker.SetValue)
    assert [(mark.key, mark.expires_ms) for mark in marks] == [
        ("celery-revoked//id/a", KEPT_MS), ("celery-revoked//id/b", KEPT_MS)
    ]  # fmt: skip
    (sent,) = (place for place, command in enumerate(driver.commands) if type(command) is tuple)
    assert driver.commands.index(marks[-1]) < sent


def test_the_worker_learns_of_a_mark_before_it_gets_the_task(channel, driver, monkeypatch):
    told, order = [], []
    monkeypatch.setattr(connections, "has_worker", lambda: True)
    monkeypatch.setattr(connections, "revoke_here", told.append)
    answer = broker.Values([broker.ValueSet("celery-revoked//id/b", b"", 1)], [])
    monkeypatch.setattr(driver, "query", lambda query, timeout_s=None: order.append(query) or answer, raising=False)
    channel.basic_consume("q", callback=lambda message: order.append((message.headers["id"], list(told))))
    driver.receive(delivery("a", 1, **{KEPT: "2030"}), delivery("b", 2, **{KEPT: "2030"}), delivery("c", 3))
    channel.connection.drain_events(timeout=1)
    queries = [one for one in order if isinstance(one, broker.GetValues)]
    assert [query.keys for query in queries] == [["celery-revoked//id/a"], ["celery-revoked//id/b"]]
    assert [one for one in order if isinstance(one, tuple)] == [("a", []), ("b", ["b"]), ("c", ["b"])]


def test_a_program_that_is_no_worker_looks_nothing_up(channel, driver, monkeypatch):
    monkeypatch.setattr(connections, "has_worker", lambda: False)
    got = []
    channel.basic_consume("q", callback=lambda message: got.append(message.headers["id"]))
    driver.receive(delivery("a", 1, **{KEPT: "2030"}))
    channel.connection.drain_events(timeout=1)
    assert got == ["a"]


def test_marks_of_two_virtual_hosts_do_not_meet():
    assert Namespace("shop").name == "shop"
    stamps = SimpleNamespace(headers={"id": "1", "stamps": {"m": "x"}}).headers
    assert set(keys_of(stamps, "shop")).isdisjoint(keys_of(stamps, "mail"))
    assert json.dumps(keys_of(stamps, "shop")) == '["celery-revoked/shop/id/1", "celery-revoked/shop/stamp/m=x"]'
