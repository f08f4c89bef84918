"""Revoked tasks that wait in the broker: the broker remembers them, and not the workers.

Celery tells all workers of a revoke, and each remembers 50,000 ids for three hours. A task may wait for longer than
that, or start on a worker that was started later. So the broadcast leaves a mark in the broker as well, a value without
content, for `KEPT_MS`. A task that has waited for its eta, or for long, is looked up before the worker gets it. Celery
then does with it what it does with any revoked task: it stores the state REVOKED, and acknowledges.

Owns the keys of the marks, and which tasks are looked up. It refuses to know connections: `Connection` asks and sends.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from kombu.serialization import loads

from disheap.protocol import broker
from disheap_kombu.publishing import messages
from disheap_kombu.publishing.delays import KEPT, TASK

KEPT_MS = 366 * 86_400_000
"""For how long a mark is kept. A task that waits for longer is run although it was revoked."""
WAITED_MS = 60_000
"""A task without an eta is looked up if it has waited for so long. A worker that was started before has heard of the
revoke."""
LOOKED_UP_AT_ONCE = 100
BY_ID, BY_STAMP = "revoke", "revoke_by_stamped_headers"
"""Celery's commands of remote control."""


def revoked_by(message: Any, namespace: str) -> list[str]:
    """The keys of the marks that a broadcast of remote control leaves. It leaves none if it is for some workers only,
    or for something else."""
    if not _may_revoke(message.body):
        return []
    try:
        read: Any = loads
        sent = read(message.body, message.content_type, message.content_encoding, accept=[message.content_type])
        method, arguments, destination = sent["method"], sent["arguments"], sent.get("destination")
    except Exception:  # a serializer raises what it wants; the worker says what is wrong with the message
        return []
    if destination:
        return []
    if method == BY_ID:
        return [key_of_id(one, namespace) for one in _listed(arguments.get("task_id"))]
    if method == BY_STAMP:
        return [
            key_of_stamp(name, value, namespace)
            for name, values in _stamps(arguments.get("headers"))
            for value in _listed(values)
        ]
    return []


def keys_of(headers: dict[str, Any], namespace: str) -> list[str]:
    """The keys under which a task may be marked, that of its id first."""
    found = [key_of_id(headers.get("id"), namespace)]
    for name, values in _stamps(headers.get("stamps")):
        found += [key_of_stamp(name, value, namespace) for value in _listed(values)]
    return found


def key_of_id(task_id: Any, namespace: str) -> str:
    """The key of a task's mark."""
    return _key("id", str(task_id), namespace)


def key_of_stamp(name: Any, value: Any, namespace: str) -> str:
    """The key of the mark for all tasks with this stamp."""
    return _key("stamp", f"{name}={value}", namespace)


class Lookups:
    """Which of the tasks that wait in this process were looked up, and which of them are revoked."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._found: dict[broker.Token, bool] = {}

    def concerns(self, push: broker.Deliver, headers: dict[str, Any]) -> bool:
        """Whether the task has to be looked up before the worker gets it."""
        if TASK not in headers or not push.epoch:
            return False
        return KEPT in headers or time.time() * 1000 - push.enqueued_ms > WAITED_MS

    def take(self, push: broker.Deliver) -> bool | None:
        """Whether the task is revoked, if it was looked up with another one; else None."""
        return self._found.pop((push.id, push.epoch), None)

    def query(self, pushes: Iterable[broker.Deliver]) -> tuple[broker.GetValues, dict[broker.Token, list[str]]]:
        """What to ask for these tasks, as many as fit, and which keys each has."""
        keys: dict[broker.Token, list[str]] = {}
        number = 0
        for push in pushes:
            of_task = keys_of(headers_of(push), self._namespace)
            number += len(of_task)
            if keys and (number > broker.KEYS_MAX or len(keys) >= LOOKED_UP_AT_ONCE):
                break
            keys[push.id, push.epoch] = of_task[: broker.KEYS_MAX]
        return broker.GetValues([key for of_task in keys.values() for key in of_task]), keys

    def learn(self, keys: dict[broker.Token, list[str]], reply: broker.Values) -> None:
        """Takes in the answer."""
        marked = {value.key for value in reply.values} | set(reply.left)
        self._found = {token: not marked.isdisjoint(of_task) for token, of_task in keys.items()}


def headers_of(push: broker.Deliver) -> dict[str, Any]:
    """The headers of a message; none for one that kombu did not write."""
    return messages.decode(push.payload).headers


def _may_revoke(body: Any) -> bool:
    text = body if isinstance(body, bytes) else str(body).encode(errors="replace")
    return b"revoke" in text


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _stamps(headers: Any) -> Iterator[tuple[str, Any]]:
    """Celery takes a dict, or a list of texts `name=value`."""
    if isinstance(headers, dict):
        yield from headers.items()
        return
    for one in _listed(headers):
        name, _, value = str(one).partition("=")
        yield name, value


def _key(kind: str, text: str, namespace: str) -> str:
    key = f"celery-revoked/{namespace}/{kind}/{text}"
    if len(key) <= broker.NAME_CHARACTERS:
        return key
    return f"celery-revoked/{namespace}/{kind}/{blake2b(text.encode(), digest_size=20).hexdigest()}"
