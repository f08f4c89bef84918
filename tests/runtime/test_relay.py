"""Pushes that pass without the log: when they are sent, and when they are dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from disheap.protocol import frames
from disheap.runtime.clients.relay import GATHER_S, GATHERED_MAX, LARGE_BYTES, UNSENT_BYTES_MAX, Relay


class Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call, self.is_cancelled = call, False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """Keeps the timers; `pass_period` lets the pending ones fire."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        assert delay_s == GATHER_S
        self.timers.append(Timer(call))
        return self.timers[-1]

    def pass_period(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            if not timer.is_cancelled:
                timer.call()


class Client:
    """A connection: `writes` has what each write sent."""

    def __init__(self) -> None:
        self.closed = False
        self.unsent_now = 0
        self.queue: list[bytes] = []
        self.gathered: list[bytes] = []
        self.writes: list[list[bytes]] = []

    def unsent(self) -> int:
        return self.unsent_now

    def gather(self, push: bytes) -> None:
        self.gathered.append(push)

    def drop_gathered(self) -> None:
        self.gathered.clear()

    def send_unasked(self, push: bytes) -> None:
        self.queue.append(push)
        if not self.closed:
            self.flush()

    def flush(self) -> None:
        self.writes.append([frames.open_numbered(frame)[1] for frame in (*self.gathered, *self.queue)])
        self.gathered.clear()
        self.queue.clear()


@pytest.fixture
def clients() -> dict[int, Client]:
    return {1: Client(), 2: Client()}


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def relay(loop: Loop, clients: dict[int, Any]) -> Relay:
    return Relay(loop, clients)  # type: ignore[arg-type]


def test_the_first_push_after_a_pause_is_sent_at_once(relay: Relay, clients: dict[int, Client], loop: Loop) -> None:
    relay.send(7, [(1, b"a"), (2, b"b")])
    assert [client.writes for client in clients.values()] == [[[b"a"]], [[b"b"]]]
    loop.pass_period()
    relay.send(7, [(1, b"c")])
    assert clients[1].writes == [[b"a"], [b"c"]]


def test_pushes_that_follow_go_together(relay: Relay, clients: dict[int, Client], loop: Loop) -> None:
    for body in (b"a", b"b", b"c"):
        relay.send(7, [(1, body)])
    assert clients[1].writes == [[b"a"]]
    loop.pass_period()
    assert clients[1].writes == [[b"a"], [b"b", b"c"]]
    relay.send(7, [(1, b"d")])
    assert len(clients[1].writes) == 2, "a stream goes on in periods"
    loop.pass_period()
    loop.pass_period()
    assert clients[1].writes[2:] == [[b"d"]]
    assert loop.timers == [], "no timer runs when nobody is sent anything"


def test_many_or_large_pushes_do_not_wait(relay: Relay, clients: dict[int, Client]) -> None:
    large = b"x" * (LARGE_BYTES + 1)
    relay.send(7, [(1, b"a"), (1, b"b"), (1, large)])
    assert clients[1].writes == [[b"a"], [b"b", large]]
    relay.send(7, [(2, b"x")] * (1 + GATHERED_MAX))
    assert [len(write) for write in clients[2].writes] == [1, GATHERED_MAX]


def test_a_push_behind_frames_of_the_log_does_not_wait(relay: Relay, clients: dict[int, Client]) -> None:
    relay.send(7, [(1, b"a"), (1, b"b")])
    clients[1].queue.append(frames.push(8, b"of the log"))
    relay.send(8, [(1, b"c")])
    assert clients[1].writes == [[b"a"], [b"b", b"of the log", b"c"]]


def test_a_client_that_is_gone_or_reads_too_slowly_loses_pushes(relay: Relay, clients: dict[int, Client]) -> None:
    clients[1].unsent_now = UNSENT_BYTES_MAX + 1
    relay.send(7, [(1, b"a"), (2, b"b"), (3, b"c")])
    clients[2].closed = True
    relay.send(7, [(2, b"d")])
    assert (clients[1].writes, clients[2].writes) == ([], [[b"b"]])
    assert (relay.sent, relay.dropped) == (1, 3)


def test_nothing_waits_on_a_node_that_leads_no_more(relay: Relay, clients: dict[int, Client], loop: Loop) -> None:
    relay.send(7, [(1, b"a"), (1, b"b")])
    relay.clear()
    loop.pass_period()
    assert clients[1].writes == [[b"a"]]
    relay.send(7, [(1, b"c")])
    assert clients[1].writes == [[b"a"], [b"c"]]
