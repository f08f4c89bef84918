"""Which commands exist at a version. A release that knows later commands must give the same replies as one that does
not."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import msgspec
import pytest

from disheap.errors import InvalidArgument, RequestError, VersionTooOld
from disheap.interfaces import MachineContext
from disheap.protocol import broker
from disheap.protocol.broker.fields import Exact
from disheap_heap.command_set import Handlers, tag_of
from disheap_heap.machine import HANDLERS, HeapMachine
from disheap_heap.settings import HeapSettings
from disheap_heap.state.state import State


class Count(Exact, tag=120, frozen=True):
    """A command of the next version."""

    topic: str


class PurgeSome(Exact, tag=13, frozen=True):
    """The next version's form of `Purge`, under the same tag."""

    topic: str
    at_most: int = 10


def _count(state: State, session: int, command: Count) -> bytes:
    return broker.encode(broker.Removed(state.topics[command.topic].messages()))


def _purge_some(state: State, session: int, command: PurgeSome) -> bytes:
    return broker.encode(broker.Removed(command.at_most))


class Newer(HeapMachine):
    versions: ClassVar[tuple[int, int]] = (1, 2)
    handlers: ClassVar[Handlers] = {**HANDLERS, Count: (2, _count), PurgeSome: (2, _purge_some)}


BODIES: list[Any] = [
    Count("jobs"),
    [120],
    [120, 7],
    [120, "jobs", "more"],
    broker.Purge("jobs"),
    [13, "jobs", 3],
    [13, 5],
    [41, "of neither"],
    {"no": "array"},
]


def _outcome(machine: HeapMachine, body: bytes) -> tuple[str, bytes]:
    try:
        return "", bytes(machine.apply(1, 1, 1, body)[0])
    except RequestError as error:
        return f"{error.code}: {error}", b""


def _made(kind: type[HeapMachine]) -> HeapMachine:
    machine = kind(HeapSettings(), MachineContext())
    machine.set_version(1)
    machine.apply(1, 1, 1, broker.encode(broker.CreateTopic("jobs")))
    return machine


@pytest.mark.parametrize("value", BODIES, ids=str)
@pytest.mark.parametrize("cut", [0, 1])
def test_below_a_version_old_and_new_code_answer_alike(value: Any, cut: int) -> None:
    body = msgspec.msgpack.encode(value)
    body = body[: len(body) - cut]
    old, new = _made(HeapMachine), _made(Newer)
    assert _outcome(new, body) == _outcome(old, body)
    assert new.state_hash() == old.state_hash()
    assert new.admits(body) == old.admits(body)


def test_a_command_exists_from_its_version_on() -> None:
    machine = _made(Newer)
    with pytest.raises(VersionTooOld, match="tag 120 at machine_version 1"):
        machine.apply(2, 2, 1, broker.encode(Count("jobs")))
    with pytest.raises(InvalidArgument, match="Purge does not fit"):
        machine.apply(3, 3, 1, broker.encode(PurgeSome("jobs", 3)))
    machine.set_version(2)
    assert machine.apply(4, 4, 1, broker.encode(Count("jobs"))) == (broker.encode(broker.Removed(0)), [])
    assert machine.apply(5, 5, 1, broker.encode(PurgeSome("jobs", 3))) == (broker.encode(broker.Removed(3)), [])


def test_every_command_has_the_version_since_which_it_exists() -> None:
    assert set(HANDLERS) == set(get_args(broker.Command))
    assert {since for since, _ in HANDLERS.values()} == {1}
    assert len({tag_of(kind) for kind in HANDLERS}) == len(HANDLERS)
    assert all(1 <= since <= HeapMachine.versions[1] for since, _ in HANDLERS.values())
