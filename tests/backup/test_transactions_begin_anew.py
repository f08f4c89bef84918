"""What becomes of transactions over several groups in states that begin a new cluster."""

from __future__ import annotations

import pytest

from disheap.interfaces import MachineContext, Principal
from disheap.protocol import broker
from disheap.protocol.broker import Enqueue, NewMessage, Prepare
from disheap.runtime.offline.halves import Half, HalfSearch
from disheap.runtime.offline.states import begin_anew
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import SessionLimits
from disheap.runtime.state.sessions import Sessions
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import INQUIRE_AFTER_MS, HeapSettings

NOW_MS = 1_700_000_000_000
ITEMS: list[Enqueue | broker.Publish | broker.Ack] = [Enqueue("jobs", NewMessage(b"x"))]


class Group:
    """The state of one group, and of later and earlier moments."""

    def __init__(self, number: int, **settings: int) -> None:
        self.number = number
        self.machine = HeapMachine(HeapSettings(**settings), MachineContext(number))
        self.sessions = Sessions(self.machine, SessionLimits(), ReplySink())
        self.machine.session_opened(1, Principal())
        self.do(broker.SetGroups([0, 1, 2, 3]), 0)
        self.do(broker.CreateTopic("jobs"))

    def do(self, command: broker.Command, session: int = 1) -> None:
        self.machine.apply(1, NOW_MS, session, broker.encode(command))

    def saved(self) -> list[bytes]:
        return list(self.machine.snapshot())

    def begin_anew(self, saved: list[bytes]) -> None:
        self.machine.restore(saved)
        begin_anew(self.sessions, NOW_MS)

    def pass_time(self, milliseconds: int) -> None:
        self.machine.advance(NOW_MS + milliseconds, 1000)

    @property
    def ready(self) -> int:
        return self.machine.stats()["ready"]


def exchange(first: Group, second: Group) -> None:
    """All that waits in one group arrives in the other one, as nodes carry it; a refusal would stop it for ever."""
    for _ in range(3):
        for source, target in ((first, second), (second, first)):
            for number, command in source.machine.outbox(target.number, 0, 100):
                target.machine.apply(1, NOW_MS, 0, command)
                source.machine.apply(1, NOW_MS, 0, source.machine.forget(target.number, number))


@pytest.fixture
def groups() -> tuple[Group, Group]:
    """They have spoken before: two transactions were aborted, and both were told."""
    coordinator, participant = Group(0), Group(1)
    for name in ("a", "b"):
        coordinator.do(Prepare(name, 1, 1000, ITEMS, [1]))
        coordinator.do(broker.Abort(name, 1))
    exchange(coordinator, participant)
    return coordinator, participant


def test_a_participant_of_an_earlier_moment_gets_what_was_committed(groups: tuple[Group, Group]) -> None:
    coordinator, participant = groups
    participant.do(Prepare("tx", 1, 0, ITEMS, coordinator=0))
    earlier = participant.saved()
    coordinator.do(Prepare("tx", 1, 1000, ITEMS, [1]))
    coordinator.do(broker.Commit("tx", 1))
    exchange(coordinator, participant)
    participant.begin_anew(earlier)
    coordinator.begin_anew(coordinator.saved())
    participant.pass_time(INQUIRE_AFTER_MS)
    exchange(coordinator, participant)
    assert (coordinator.ready, participant.ready) == (1, 1)


def test_a_prepared_transaction_without_a_record_is_aborted(groups: tuple[Group, Group]) -> None:
    coordinator, participant = groups
    earlier = coordinator.saved()
    coordinator.do(Prepare("tx", 1, 1000, ITEMS, [1]))
    participant.do(Prepare("tx", 1, 0, ITEMS, coordinator=0))
    coordinator.begin_anew(earlier)
    participant.begin_anew(participant.saved())
    participant.pass_time(INQUIRE_AFTER_MS)
    exchange(coordinator, participant)
    assert participant.machine.stats()["transactions"] == 0
    assert (coordinator.ready, participant.ready) == (0, 0)


def test_an_undecided_transaction_is_aborted_when_its_time_is_over(groups: tuple[Group, Group]) -> None:
    coordinator, participant = groups
    coordinator.do(Prepare("tx", 1, 1000, ITEMS, [1]))
    participant.do(Prepare("tx", 1, 0, ITEMS, coordinator=0))
    for one in groups:
        one.begin_anew(one.saved())
    coordinator.pass_time(1000)
    exchange(coordinator, participant)
    assert [one.machine.stats()["transactions"] for one in groups] == [0, 0]
    assert [one.ready for one in groups] == [0, 0]


def halves(*groups: Group) -> list[Half]:
    search = HalfSearch()
    for one in groups:
        search.add(one.number, one.machine)
    return search.found


def copy_of(group: Group, saved: list[bytes] | None = None, **settings: int) -> Group:
    """The state that an operator's command builds, of this moment or of an earlier one."""
    copy = Group(group.number, **settings)
    copy.machine.restore(saved if saved is not None else group.saved())
    return copy


def commit(coordinator: Group, *participants: Group, name: str = "tx") -> None:
    coordinator.do(Prepare(name, 1, 1000, ITEMS, [one.number for one in participants]))
    for one in participants:
        one.do(Prepare(name, 1, 0, ITEMS, coordinator=0))
    coordinator.do(broker.Commit(name, 1))


@pytest.mark.parametrize("is_told", [False, True], ids=["under way", "confirmed and forgotten"])
def test_what_a_participant_of_an_earlier_moment_lacks_is_found(groups: tuple[Group, Group], is_told: bool) -> None:
    coordinator, participant = groups
    earlier = participant.saved()
    commit(coordinator, participant)
    if is_told:
        exchange(coordinator, participant)
    assert halves(copy_of(coordinator), copy_of(participant)) == []
    assert halves(copy_of(coordinator), copy_of(participant, earlier)) == [Half("tx", 0, 1)]
    coordinator.begin_anew(coordinator.saved())
    participant.begin_anew(earlier)
    assert halves(coordinator, participant) == [], "it was told once, and the numbers are others now"


def test_what_a_participant_has_prepared_is_not_half(groups: tuple[Group, Group]) -> None:
    coordinator, participant = groups
    coordinator.do(Prepare("tx", 1, 1000, ITEMS, [1]))
    participant.do(Prepare("tx", 1, 0, ITEMS, coordinator=0))
    earlier = participant.saved()
    coordinator.do(broker.Commit("tx", 1))
    exchange(coordinator, participant)
    assert halves(copy_of(coordinator), copy_of(participant, earlier)) == []


def test_what_a_participant_has_done_and_forgotten_is_not_half() -> None:
    coordinator, participant = Group(0), Group(1, finished_transactions=1)
    for name in ("tx", "later"):
        commit(coordinator, participant, name=name)
        exchange(coordinator, participant)
    assert halves(copy_of(coordinator), copy_of(participant, finished_transactions=1)) == []


def test_an_aborted_transaction_and_one_that_was_forced_are_not_half(groups: tuple[Group, Group]) -> None:
    coordinator, participant = groups
    coordinator.do(Prepare("aborted", 1, 1000, ITEMS, [1]))
    coordinator.do(broker.Abort("aborted", 1))
    commit(coordinator, participant, name="forced")
    participant.do(broker.Commit("forced", 1, force=True))
    assert halves(coordinator, participant) == []


def test_each_missing_part_is_found_by_itself() -> None:
    coordinator, participants = Group(0), [Group(1), Group(2), Group(3)]
    commit(coordinator, *participants)
    found = halves(coordinator, participants[0], Group(2), Group(3))
    assert found == [Half("tx", 0, 2), Half("tx", 0, 3)]


@pytest.mark.parametrize("which", [0, 1], ids=["coordinator", "participant"])
def test_groups_of_different_moments_understand_each_other(groups: tuple[Group, Group], which: int) -> None:
    """One of them is of a moment before they had spoken: numbers that it gives are taken, or those that it gets are
    too high."""
    coordinator, participant = groups
    fresh = Group(which)
    groups[which].begin_anew(fresh.saved())
    groups[1 - which].begin_anew(groups[1 - which].saved())
    coordinator.do(Prepare("later", 1, 1000, ITEMS, [1]))
    participant.do(Prepare("later", 1, 0, ITEMS, coordinator=0))
    coordinator.do(broker.Commit("later", 1))
    exchange(coordinator, participant)
    assert (coordinator.ready, participant.ready) == (1, 1)
    assert coordinator.machine.waiting() == participant.machine.waiting() == {}
