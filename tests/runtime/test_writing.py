"""The write that is under way, and what becomes of it on a full disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from disheap.errors import DiskFailed, StorageFull
from disheap.kernel.types import Entry, HardState, Message, NodeId, Term, Write
from disheap.runtime.replica import writer
from disheap.runtime.replica.writer import Writer

WRITE = Write(1, HardState(Term(1), NodeId(1)), ())


class Desk:
    """Loop, disk, storage and clock in one: jobs and timers wait until they are told to go on."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []
        self.timers: list[Callable[[], None]] = []
        self.error: BaseException | None = None
        self.writer = Writer(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            loop=self,  # type: ignore[arg-type]
            clock=self,  # type: ignore[arg-type]
            written=self.written,
            failed=self.events.append,
        )

    def monotonic(self) -> float:
        return 0.0

    def save_hard_state(self, state: HardState) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(state)

    def append(self, entries: tuple[Entry, ...]) -> None:
        raise AssertionError("there are none")

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self.jobs.append((work, done))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        assert seconds == writer.ROOM_RETRY_S
        self.timers.append(callback)
        return self  # type: ignore[return-value]

    def cancel(self) -> None:
        self.timers.clear()

    def written(self, write: Write, held: tuple[Message, ...]) -> None:
        self.events.append("written")

    def go_on(self) -> None:
        work, done = self.jobs.pop(0)
        try:
            work()
        except BaseException as error:
            done(None, error)
        else:
            done(None, None)


def test_a_write_is_made_again_until_there_is_room() -> None:
    desk = Desk()
    desk.error = StorageFull("no room")
    desk.writer.start(WRITE, ())
    for _ in range(3):
        desk.go_on()
        assert desk.writer.is_busy and desk.events == [] and len(desk.timers) == 1
        desk.timers.pop()()
    desk.error = None
    desk.go_on()
    assert desk.events == [WRITE.hard_state, "written"] and not desk.writer.is_busy and not desk.timers


def test_any_other_error_is_told_and_nothing_is_tried_again() -> None:
    desk = Desk()
    desk.error = DiskFailed("no")
    desk.writer.start(WRITE, ())
    desk.go_on()
    assert desk.events == [desk.error] and not desk.timers and not desk.jobs


@pytest.mark.parametrize("error", [None, StorageFull("no room"), DiskFailed("no")])
def test_after_the_end_whatever_comes_back_is_left_alone(error: BaseException | None) -> None:
    desk = Desk()
    desk.writer.start(WRITE, ())
    desk.writer.close()
    desk.error = error
    desk.go_on()
    assert "written" not in desk.events and not desk.timers and not desk.jobs
    assert error not in desk.events or error is None


def test_what_waits_for_room_is_given_up_at_the_end() -> None:
    desk = Desk()
    desk.error = StorageFull("no room")
    desk.writer.start(WRITE, ())
    desk.go_on()
    desk.writer.close()
    assert not desk.timers
