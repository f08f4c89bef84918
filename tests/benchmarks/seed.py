"""The benchmarks of the Go program that disheap grew from, under their names there.

That program's document gives 64.48, 18.84 and 89.23 us for one operation, and does not say what its state held. Here:

- `HeapFSM_ApplyEnqueue`: the state machine applies an encoded Enqueue of 256 bytes. The topic holds 10,000 messages at
  the start.
- `HeapFSM_Snapshot`: the state machine takes the view of a state of one topic and ten messages. That is what `Snapshot`
  does in the library that the Go program used. There, `Persist` writes it later.
- `HeapFSM_Snapshot, written`: the same, and all pieces of the view are written. It has no figure of the seed.
- `Node_Apply`: `Node.apply` of the same Enqueue, one after another, on a node that runs alone with its log in memory.
  The event loop runs meanwhile, as in a program with a node in it. To start and stop it each time would take as long as
  the command. Durable commands are measured by `disheap bench`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import disheap
from disheap.interfaces import MachineContext, Principal
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings

from .conftest import Reference, Row

ENQUEUE = broker.encode(broker.Enqueue("jobs", NewMessage(b"x" * 256, 5)))
ROUNDS = 50
OPERATIONS = 1000
"""In one round."""


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """As `disheap serve` runs."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def filled(messages: int) -> HeapMachine:
    machine = HeapMachine(HeapSettings(), MachineContext())
    machine.session_opened(1, Principal())
    machine.apply(1, 0, 1, broker.encode(broker.CreateTopic("jobs")))
    for number in range(messages):
        machine.apply(2 + number, 0, 1, broker.encode(broker.Enqueue("jobs", NewMessage(b"x" * 256, number % 10))))
    return machine


def record(benchmark: Any, rows: list[Row], name: str, reference: Reference, operations: int = 1) -> None:
    rows.append(Row(name, benchmark.stats.stats.median * 1e6 / operations, reference))


def test_heap_apply_enqueue(benchmark: Any, rows: list[Row]) -> None:
    machine, index = filled(10_000), itertools.count(10_002)

    def apply_enqueue() -> None:
        machine.apply(next(index), 0, 1, ENQUEUE)

    benchmark.pedantic(apply_enqueue, rounds=ROUNDS, iterations=OPERATIONS, warmup_rounds=2)
    assert machine.stats()["ready"] == next(index) - 2  # 1 created the topic
    record(benchmark, rows, "HeapFSM_ApplyEnqueue", Reference(64.48, 3))


def test_heap_snapshot(benchmark: Any, rows: list[Row]) -> None:
    machine = filled(10)

    def snapshot() -> Iterator[bytes]:
        return machine.snapshot()

    view = benchmark.pedantic(snapshot, rounds=ROUNDS, iterations=OPERATIONS, warmup_rounds=2)
    check_snapshot(machine, view)
    record(benchmark, rows, "HeapFSM_Snapshot", Reference(18.84, 19))


def test_heap_snapshot_written(benchmark: Any, rows: list[Row]) -> None:
    machine = filled(10)

    def snapshot() -> list[bytes]:
        return list(machine.snapshot())

    pieces = benchmark.pedantic(snapshot, rounds=ROUNDS, iterations=OPERATIONS, warmup_rounds=2)
    check_snapshot(machine, pieces)
    record(benchmark, rows, "HeapFSM_Snapshot, written", Reference())


def check_snapshot(machine: HeapMachine, pieces: Iterable[bytes]) -> None:
    other = HeapMachine(HeapSettings(), MachineContext())
    other.restore(pieces)
    assert other.state_hash() == machine.state_hash()


def test_node_apply(benchmark: Any, rows: list[Row]) -> None:
    loop, calls = new_loop(), itertools.count()
    node = disheap.Node(disheap.NodeConfig(name="n1", alone=True, storage="memory", client_listen="127.0.0.1:0"))

    async def start() -> None:
        await node.start()
        await node.wait_for_leader()
        await node.apply(broker.encode(broker.CreateTopic("jobs")))

    async def messages() -> int:
        return (await node.status())["machine_stats"]["ready"]

    async def apply_many() -> None:
        for _ in range(OPERATIONS):
            next(calls)
            await node.apply(ENQUEUE)

    def run_round() -> None:
        loop.run_until_complete(apply_many())

    loop.run_until_complete(start())
    try:
        benchmark.pedantic(run_round, rounds=ROUNDS, iterations=1, warmup_rounds=2)
        assert loop.run_until_complete(messages()) == next(calls)
        record(benchmark, rows, "Node_Apply", Reference(89.23, 60), OPERATIONS)
    finally:
        loop.run_until_complete(node.stop())
        loop.close()


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed, as `disheap serve` uses it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
