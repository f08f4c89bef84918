"""The hash of the state for an operator: one at a time, however many ask."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from disheap.kernel.types import Index
from disheap.runtime.state.hash_requests import OnView, StateHasher


class CountingSessions:
    """Its state is a number. It counts how many hashes are being made at once."""

    def __init__(self) -> None:
        self.state = 0
        self.being_made = self.most_at_once = self.made = 0
        self.fails = False

    def hashing(self) -> Iterator[bytes]:
        if self.fails:
            raise ValueError("cannot be hashed")
        return self._slices(str(self.state).encode())

    def _slices(self, view: bytes) -> Iterator[bytes]:
        self.being_made += 1
        self.most_at_once = max(self.most_at_once, self.being_made)
        for _ in range(3):
            yield view
        self.being_made -= 1
        self.made += 1


def hasher_of(sessions: Any) -> StateHasher:
    def view(call: OnView) -> None:
        call(Index(sessions.state), sessions)

    return StateHasher(asyncio.get_running_loop(), view)


async def test_twenty_who_ask_at_once_share_two_hashes() -> None:
    sessions = CountingSessions()
    hasher = hasher_of(sessions)
    results = await asyncio.gather(*(hasher.hash_state() for _ in range(20)))
    assert len(set(results)) == 1
    assert (sessions.most_at_once, sessions.made) == (1, 2)


async def test_a_hash_is_never_of_a_state_older_than_the_request() -> None:
    sessions = CountingSessions()
    hasher = hasher_of(sessions)
    first = asyncio.create_task(hasher.hash_state())
    while not sessions.being_made:
        await asyncio.sleep(0)
    sessions.state = 7
    second = await hasher.hash_state()
    assert (await first)[0] == 0
    assert second[0] == 7
    assert second[1] != (await first)[1]


async def test_a_state_that_cannot_be_hashed_is_an_error_for_all_who_asked() -> None:
    sessions = CountingSessions()
    hasher = hasher_of(sessions)
    sessions.fails = True
    results = await asyncio.gather(*(hasher.hash_state() for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 3
    sessions.fails = False
    assert (await hasher.hash_state())[0] == 0


async def test_nobody_waits_for_a_node_that_stops() -> None:
    hasher = hasher_of(CountingSessions())
    asked = asyncio.create_task(hasher.hash_state())
    await asyncio.sleep(0)
    hasher.end()
    with pytest.raises(asyncio.CancelledError):
        await asked
