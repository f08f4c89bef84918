"""The last judgement of a run: what clients of a group saw and were promised, against its committed log."""

from __future__ import annotations

from collections import Counter

from disheap.protocol import broker
from disheap.runtime.state.sessions import SESSION_TIME_SHIFT
from disheap.testing.simulator.checks.machines import HeapReference, reference_of
from disheap.testing.simulator.checks.replay import Replay
from disheap.testing.simulator.clients.promises import Promises
from disheap.testing.simulator.clients.shapes import DEAD, GUARDED
from disheap.testing.simulator.cluster.cluster import Cluster, GroupChecks

Objections = dict[tuple[int, int], str]
"""(index, session): why the session must not end there."""


def judge(cluster: Cluster, checks: GroupChecks, promises: Promises, objections: Objections) -> dict[str, int]:
    """Fails the run for whatever does not hold. Returns how often the rarer ways through the machine were taken."""
    safety, machine, limits = checks.safety, reference_of(checks.machine, checks.number), cluster.first_config.limits
    replay = Replay(machine, SESSION_TIME_SHIFT, limits.session_window, limits.max_reply_bytes, safety.submitted)
    checks.history.check(safety.log, replay, safety.tables)
    for expired in replay.expired:
        if expired in objections:
            safety.fail(objections[expired])
    if isinstance(machine, HeapReference):
        _check_messages(checks, machine, promises)
    return machine.rare()


def _check_messages(checks: GroupChecks, machine: HeapReference, promises: Promises) -> None:
    fail, messages = checks.safety.fail, machine.messages
    for number, message in promises.enqueued.items():
        if number not in messages or messages[number][1] != message:
            fail(f"message {number} was confirmed as {message}, and is {messages.get(number)}")
    present = {message.payload for _, message in messages.values()}
    for payload, code in promises.refused.items():
        if payload in present:
            fail(f"{payload[:40]!r} was refused ({code}), and is there")
    _check_twice(checks, machine)
    _check_guarded(checks, machine, promises)


def _check_guarded(checks: GroupChecks, machine: HeapReference, promises: Promises) -> None:
    """A confirmed message of a topic with dead letters is acked, waiting, or dead-lettered, once. Both topics live for
    the whole run, and nothing there is dropped."""
    model = machine._model
    there = Counter(one.new.payload for one in (*model.messages, *model.acked) if one.topic.name in (GUARDED, DEAD))
    for number, message in promises.enqueued.items():
        topic, count = machine.messages[number][0], there[message.payload]
        if topic == GUARDED and count != 1:
            checks.safety.fail(f"message {number} of {topic!r} was confirmed, and is there {count} times")


def _check_twice(checks: GroupChecks, machine: HeapReference) -> None:
    """One command, one message in a topic. A dead letter counts its deaths."""
    seen: dict[tuple[str, bytes, int], int] = {}
    for number, (topic, message) in machine.messages.items():
        death = broker.death_of(message.headers)
        place = topic, message.payload, death.count if death is not None else 0
        if place in seen:
            checks.safety.fail(f"{place[1][:40]!r} is in {topic!r} twice: messages {seen[place]} and {number}")
        seen[place] = number
