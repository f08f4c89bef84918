"""Commands that a leader proposes without a client: when their outcome is told, and whether they are taken."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.relay import Relay

from disheap.errors import InvalidArgument, MemoryFull, NotLeader, OutcomeUnknown, Overloaded, RequestError
from disheap.interfaces import MachineContext
from disheap.protocol import frames
from disheap.protocol.frames import Kind, Status
from disheap.runtime.replica import node_commands
from disheap.runtime.replica.node_commands import NodeCommands

DRAWN = 7_000_000_000


class Place:
    """The `CommandHost`, its group and the sessions of that, as far as they are asked."""

    machine_name = "relay"

    def __init__(self) -> None:
        self.is_leader, self.is_full = True, False
        self.shortage: RequestError | None = None
        self.machine = Relay(Relay.Settings(), MachineContext(1))
        self.submitted: list[bytes] = []
        self.told: list[RequestError | None] = []
        self.drawn = DRAWN
        self.commands = NodeCommands(self, self.draw)  # type: ignore[arg-type]

    @property
    def group(self) -> Any:
        return self

    sessions = group

    def submit(self, envelopes: bytes) -> None:
        self.submitted.append(envelopes)

    def full(self) -> bool:
        return self.is_full

    def leads(self) -> bool:
        return self.is_leader

    def refusal_when_short(self, command: bytes) -> RequestError | None:
        return self.shortage

    def draw(self) -> int:
        self.drawn += 1
        return self.drawn

    def take(self, command: bytes = b"<0:1:a") -> int:
        """The number in the envelope."""
        self.commands.take(command, self.told.append)
        return frames.open_envelope(self.submitted[-1]).seq if self.submitted else 0


def test_an_outcome_is_told_when_the_command_is_applied_and_not_before() -> None:
    place = Place()
    number = place.take()
    assert place.submitted == [frames.envelope(Kind.NODE_COMMAND, 0, 0, number, 0, b"<0:1:a")]
    assert place.told == []
    place.commands.applied(number, Status.OK, b"1")
    assert place.told == [None]
    place.commands.applied(number, Status.OK, b"1")
    place.commands.end()
    assert place.told == [None], "once"


def test_a_refusal_of_the_machine_is_told() -> None:
    place = Place()
    number = place.take()
    place.commands.applied(number, Status.ERROR, frames.fault(InvalidArgument("a gap")))
    (error,) = place.told
    assert isinstance(error, InvalidArgument) and str(error) == "a gap"


def test_what_is_under_way_when_leadership_is_lost_has_an_unknown_outcome() -> None:
    place = Place()
    number = place.take()
    place.commands.end()
    assert [type(error) for error in place.told] == [OutcomeUnknown]
    place.commands.applied(number, Status.OK, b"1")
    assert len(place.told) == 1


def test_an_entry_of_an_earlier_life_answers_for_nothing() -> None:
    place = Place()
    place.take()
    for number in range(100):
        place.commands.applied(number, Status.OK, b"1")
    assert place.told == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"is_leader": False}, NotLeader),
        ({"is_full": True}, Overloaded),
        ({"shortage": MemoryFull("memory is short")}, MemoryFull),
    ],
)
def test_what_cannot_be_taken_is_refused_at_once_and_logged_nowhere(
    change: dict[str, Any], error: type[RequestError]
) -> None:
    place = Place()
    vars(place).update(change)
    place.take()
    assert [type(told) for told in place.told] == [error] and place.submitted == []


def test_what_frees_room_is_proposed_while_there_is_none() -> None:
    place = Place()
    place.is_full, place.shortage = True, MemoryFull("memory is short")
    place.commands.propose(b"~1:1", place.told.append)
    assert place.told == [] and len(place.submitted) == 1


def test_commands_without_an_outcome_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_commands, "MAX_WAITING", 2)
    place = Place()
    numbers = [place.take() for _ in range(3)]
    assert [type(told) for told in place.told] == [Overloaded] and len(place.submitted) == 2
    place.commands.applied(numbers[0], Status.OK, b"1")
    place.take()
    assert len(place.submitted) == 3
