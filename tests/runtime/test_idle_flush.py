"""What was confirmed is known to be durable soon after, and heartbeats cost no sync of their own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.runtime.test_clocks import ManualClock

import disheap
from disheap.config.node_config import NodeConfig
from disheap.kernel.types import Entry, EntryKind, Index, Term
from disheap.protocol import frames
from disheap.protocol.frames import Flags, Kind
from disheap.runtime.member import Member
from disheap.runtime.replica import idle_flush
from disheap.runtime.replica.idle_flush import FLUSH_S, MAX_ENVELOPES, TRANSIENT_FLUSH_S, IdleFlush, is_transient

TRANSIENT = frames.envelope(Kind.COMMAND, Flags.TRANSIENT, 7, 0, 0, b"heartbeat")
CONFIRMED = frames.envelope(Kind.COMMAND, 0, 7, 1, 0, b"enqueue")
CONTINUE = frames.envelope(Kind.CONTINUE, 0, 0, 0, 0)
OPERATORS_CLOSE = frames.envelope(Kind.CLOSE, 0, 7, 0, 0)


def entry(data: bytes, kind: int = EntryKind.COMMANDS) -> Entry:
    return Entry(Term(1), Index(1), kind, 0, data)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry(TRANSIENT)], True),
        ([entry(TRANSIENT + CONTINUE), entry(CONTINUE)], True),
        ([entry(CONFIRMED)], False),
        ([entry(TRANSIENT + CONFIRMED + TRANSIENT)], False),
        ([entry(CONFIRMED), entry(TRANSIENT)], False),
        ([entry(OPERATORS_CLOSE)], False),
        ([entry(b"", EntryKind.NOOP)], False),
        ([entry(CONTINUE * MAX_ENVELOPES)], True),
        ([entry(CONTINUE * (MAX_ENVELOPES + 1))], False),
    ],
)
def test_what_carries_no_promise_is_transient(entries: list[Entry], expected: bool) -> None:
    assert is_transient(entries) is expected


@pytest.mark.parametrize(
    ("data", "wait_s"), [(CONFIRMED, FLUSH_S), (TRANSIENT, TRANSIENT_FLUSH_S)], ids=["confirmed", "transient"]
)
def test_a_flush_is_due_once_after_each_idle_time(data: bytes, wait_s: float) -> None:
    clock = ManualClock()
    flush = IdleFlush(clock)
    assert not flush.is_due()
    flush.appended([entry(data)])
    for _ in range(3):
        clock.pass_ms(int(wait_s * 250))
        assert not flush.is_due()
    clock.pass_ms(int(wait_s * 500))
    assert [flush.is_due(), flush.is_due()] == [True, False]


def test_heartbeats_every_two_seconds_are_never_followed_by_a_flush() -> None:
    clock = ManualClock()
    flush = IdleFlush(clock)
    for _ in range(10):
        flush.appended([entry(TRANSIENT)])
        for _ in range(20):
            clock.pass_ms(100)
            assert not flush.is_due()


async def test_a_node_flushes_soon_after_a_confirmed_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a crash in the next seconds, and damage of that block, let the node drop it as torn."""
    monkeypatch.setattr(idle_flush, "TRANSIENT_FLUSH_S", 3600.0)
    config = NodeConfig(name="n1", alone=True, data_dir=str(tmp_path), client_listen="127.0.0.1:0", log_level="error")
    async with Member(config) as node, disheap.connect(f"disheap://{node.client_address}") as client:
        topic = await client.create_topic("work")
        flushed, loop, storage = asyncio.Event(), asyncio.get_running_loop(), node.replicas[0].storage()
        flush = storage.flush

        def watched() -> None:
            flush()
            loop.call_soon_threadsafe(flushed.set)

        monkeypatch.setattr(storage, "flush", watched)
        await topic.enqueue(b"a")
        await asyncio.wait_for(flushed.wait(), 60)
