"""Writes of the log on the loop's thread: when they are allowed, and what holds for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.nodes import Cluster, TestRegistry
from tests.support.wire import wait_until

from disheap.errors import DiskFailed, StorageFull
from disheap.kernel.types import AppendReply, AppendRequest, Entry, EntryKind, Index, Message, NodeId, Term
from disheap.plugins.registry import Registry
from disheap.protocol import frames
from disheap.protocol.frames import Kind
from disheap.runtime.disk.loop_writes import (
    MAX_BYTES,
    QUICK_S,
    QUICK_WRITES,
    REST_FIRST_S,
    REST_MAX_S,
    STALL_S,
    LoopWrites,
)
from disheap.runtime.disk.thread import DiskThread, run_on
from disheap_memory.storage import MemoryStorage

PATIENCE_S = 10.0
LEADER, TERM = NodeId(2), Term(5)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def command(size: int = 100) -> bytes:
    return frames.envelope(Kind.COMMAND, 0, 1, 1, 0, bytes(size - frames.ENVELOPE.size))


def entry(data: bytes, kind: EntryKind = EntryKind.COMMANDS, index: int = 1) -> Entry:
    return Entry(TERM, Index(index), kind, 1000, data)


ONE = (entry(command()),)


def opened() -> tuple[LoopWrites, Clock]:
    clock = Clock()
    writes = LoopWrites(clock)  # type: ignore[arg-type]
    for _ in range(QUICK_WRITES):
        assert not writes.allows(ONE)
        writes.took(QUICK_S / 2)
    return writes, clock


def test_the_loop_writes_after_a_number_of_quick_writes_in_a_row() -> None:
    writes, _ = opened()
    assert writes.allows(ONE)
    writes.took(QUICK_S)
    assert not writes.allows(ONE)
    for _ in range(QUICK_WRITES):
        writes.took(QUICK_S / 2)
    assert writes.allows(ONE)


def test_a_stall_sends_writes_to_the_thread_for_a_time_that_doubles() -> None:
    writes, clock = opened()
    rest_s = REST_FIRST_S
    while rest_s < REST_MAX_S:
        writes.took(STALL_S)
        for _ in range(QUICK_WRITES):
            writes.took(0.0)
        clock.now += rest_s - 0.1
        assert not writes.allows(ONE)
        clock.now += 0.1
        assert writes.allows(ONE)
        rest_s *= 2
    clock.now += 3 * REST_MAX_S
    writes.took(STALL_S)
    for _ in range(QUICK_WRITES):
        writes.took(0.0)
    clock.now += REST_FIRST_S
    assert writes.allows(ONE), "a disk that was quick for long is trusted again as at first"


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (*ONE, entry(command(), index=2)),
        (entry(command() + command()),),
        (entry(command(MAX_BYTES + 1)),),
        (entry(b"", EntryKind.NOOP),),
        (entry(b"short"),),
    ],
    ids=["none", "two entries", "two commands", "large", "no command", "no envelope"],
)
def test_only_a_single_command_is_written_on_the_loop(entries: tuple[Entry, ...]) -> None:
    writes, _ = opened()
    assert writes.allows(ONE) and not writes.allows(entries)


async def test_a_job_runs_at_once_only_while_no_other_is_under_way() -> None:
    disk = DiskThread(asyncio.get_running_loop())
    gate, began, order = threading.Event(), threading.Event(), list[Any]()

    def slow() -> str:
        began.set()
        assert gate.wait(PATIENCE_S)
        return "slow"

    disk.submit(slow, lambda result, error: order.append(result))
    await asyncio.to_thread(began.wait, PATIENCE_S)
    assert not disk.run_now(lambda: order.append("too early"), lambda *_: None)
    gate.set()
    disk._thread.join(0.1)  # the job has ended by now, or does so soon: its `done` waits for the loop's turn
    assert not disk.run_now(lambda: order.append("too early"), lambda *_: None)
    await wait_until(lambda: order == ["slow"], "the job is done")
    assert disk.run_now(threading.get_ident, lambda result, error: order.append((result, error)))
    assert order == ["slow", (threading.get_ident(), None)]
    error = DiskFailed("gone")

    def fail() -> None:
        raise error

    assert disk.run_now(fail, lambda result, error: order.append((result, error)))
    assert order[-1] == (None, error)
    assert await run_on(disk, threading.get_ident) != threading.get_ident()
    await disk.close()
    assert not disk.run_now(lambda: None, lambda *_: None)


class Witness(MemoryStorage):
    """Notes on which thread it appends, and what was sent before."""

    appends: list[tuple[bool, int]]
    sent: list[Message]
    error: Exception | None

    def append(self, entries: Sequence[Entry]) -> None:
        if self.error is not None:
            raise self.error
        super().append(entries)
        self.appends.append((threading.current_thread() is threading.main_thread(), len(self.sent)))


def registry_of() -> tuple[Registry, type[Witness]]:
    class Fresh(Witness):
        appends: list[tuple[bool, int]] = []  # noqa: RUF012
        sent: list[Message] = []  # noqa: RUF012
        error = None

    class Replaced(TestRegistry):
        def get(self, kind: str, name: str) -> type[Any]:
            return Fresh if (kind, name) == ("storage", "memory") else super().get(kind, name)

    return Replaced.load(), Fresh


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write counts as quick. On a busy machine the thread of the disk may wait long for a processor."""
    took = LoopWrites.took
    monkeypatch.setattr(LoopWrites, "took", lambda self, seconds: took(self, 0.0))


@pytest.mark.usefixtures("quick_disk")
async def test_one_command_at_a_time_is_written_on_the_loop(tmp_path: Path) -> None:
    registry, witness = registry_of()
    async with Cluster(tmp_path, nodes=1, registry=registry) as cluster:
        client = await cluster.client()
        for number in range(1, 2 * QUICK_WRITES):
            assert await client.call(b"+1") == (0, b"%d" % number)
        assert witness.appends[0][0] is False
        assert cluster.nodes["n1"].group._writer._loop_writes.allows(ONE)
        async with asyncio.timeout(PATIENCE_S):
            while not witness.appends[-1][0]:  # the disk's thread was busy with something else, such as a flush
                await client.call(b"+1")


@pytest.mark.usefixtures("quick_disk")
async def test_a_disk_that_fails_on_the_loop_ends_the_node_and_nothing_is_confirmed(tmp_path: Path) -> None:
    registry, witness = registry_of()
    async with Cluster(tmp_path, nodes=1, registry=registry) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        while not witness.appends or not witness.appends[-1][0]:
            await client.call(b"+1")
        before, witness.error = node.group.applied.index, DiskFailed("gone")
        client.send(b"+1")
        await wait_until(lambda: not node.group.is_running, "the node ends")
        assert isinstance(node.failure, DiskFailed) and node.group.applied.index == before


@pytest.mark.usefixtures("quick_disk")
async def test_a_full_disk_on_the_loop_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disheap.runtime.replica.writer.ROOM_RETRY_S", 0.01)
    registry, witness = registry_of()
    async with Cluster(tmp_path, nodes=1, registry=registry) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        while not witness.appends or not witness.appends[-1][0]:
            await client.call(b"+1")
        witness.error = StorageFull("no room")
        answer = asyncio.ensure_future(client.call(b"+1"))
        await wait_until(lambda: node.group._writer.is_busy, "the write waits for room")
        witness.error = None
        status, _ = await answer
        assert status == 0


@pytest.mark.usefixtures("quick_disk")
async def test_a_follower_acknowledges_what_it_has_written_on_the_loop(tmp_path: Path) -> None:
    registry, witness = registry_of()
    cluster = Cluster(tmp_path, nodes=3, registry=registry)
    node = await cluster.start("n1")
    group, raft, sent = node.group, node.group.raft, witness.sent
    group._send = sent.append
    flushed: list[int] = []
    group._flush = lambda: flushed.append(len(sent)) or True  # type: ignore[func-returns-value]
    opening = frames.envelope(Kind.CONTINUE, 0, 0, 0, 0)
    while not (witness.appends and witness.appends[-1][0]):
        term = raft.term_at(raft.last_index)
        assert term is not None
        index = Index(raft.last_index + 1)
        one = Entry(TERM, index, EntryKind.COMMANDS, 1000, opening)
        group.step(AppendRequest(LEADER, raft.id, TERM, raft.last_index, term, (one,), Index(0)))
        await wait_until(partial(_is_acknowledged, sent, index), "it is acknowledged")
    on_loop, sent_before = witness.appends[-1]
    assert on_loop and not _is_acknowledged(sent[:sent_before], index)
    assert flushed[-1] == len(sent), "the acknowledgement leaves at once"
    await node.stop(hand_over=False)


def _is_acknowledged(sent: Sequence[Message], index: Index) -> bool:
    replies = [message for message in sent if isinstance(message, AppendReply)]
    return any(reply.success and reply.index == index for reply in replies)


@pytest.mark.usefixtures("quick_disk")
async def test_what_has_not_left_for_the_followers_keeps_the_write_off_the_loop(tmp_path: Path) -> None:
    """The leader and its followers write at the same time: the entries go to the network first."""
    registry, _ = registry_of()
    async with Cluster(tmp_path, nodes=3, registry=registry) as cluster:
        client = await cluster.client()
        leader = await cluster.wait_leader()
        mine = leader.storage()
        assert isinstance(mine, Witness)
        mine.appends = []
        flush = leader.group._flush
        leader.group._flush = lambda: flush() and False
        for _ in range(2 * QUICK_WRITES):
            await client.call(b"+1")
        assert mine.appends and not any(on_loop for on_loop, _ in mine.appends)
