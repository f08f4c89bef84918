"""Measures the longest insertion while tables grow: `python -m tests.heap.table_growth [ENTRIES]`.

A row is one table that grows from 0. The figures are the processor's time of the longest insertion, and the mean of
all. The last rows are commands of a machine with as many messages: the longest Enqueue, and the longest Ack that is
followed by a delivery. Figures of one machine: docs/explanation/cost-of-commands.md.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from disheap.interfaces import MachineContext, Principal
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings
from disheap_heap.tables.partitioned import PartitionedDict

ENTRIES = 2_500_000


def measure(name: str, call: Callable[[Any], object], arguments: Iterable[Any]) -> None:
    """Prints the longest call and the mean of all."""
    clock, longest, count = time.thread_time, 0.0, 0
    start = clock()
    for argument in arguments:
        before = clock()
        call(argument)
        longest = max(longest, clock() - before)
        count += 1
    mean = (clock() - start) / count
    print(f"| {name} | {longest * 1e3:.1f} | {mean * 1e6:.2f} |", flush=True)


def main(count: int) -> None:
    gc.disable()
    shuffled = random.Random(1).sample(range(count), count)
    plain: dict[int, int] = {}
    measure("a dict, ascending keys", lambda key: plain.__setitem__(key, key), range(count))
    plain.clear()
    for order, keys in (("ascending keys", range(count)), ("keys at random", shuffled)):
        table = PartitionedDict[int]()
        measure(f"the table, {order}", lambda key, table=table: table.put(key, key), keys)
        measure(f"the table, {order}, taken out in that order", table.take, keys)
    machine = HeapMachine(HeapSettings(), MachineContext())
    machine.session_opened(1, Principal())
    machine.apply(1, 0, 1, broker.encode(broker.CreateTopic("q")))
    enqueue = broker.encode(broker.Enqueue("q", NewMessage(b"x", expires_ms=1_000_000)))
    measure("`Enqueue` of a message that expires", lambda at: machine.apply(at + 2, 0, 1, enqueue), range(count))
    for _ in range(8):
        machine.apply(count + 2, 0, 1, broker.encode(broker.Subscribe("q", broker.CREDIT_MAX, lease_ms=60_000)))
    measure("slices of deliveries", lambda _: machine.advance(0, 500), range(8 * broker.CREDIT_MAX // 500 + 1))
    acks = ((at, broker.encode(broker.Ack([(at, 1)]))) for at in range(1, count - 8 * broker.CREDIT_MAX))
    measure("`Ack` and a delivery", lambda ack: machine.apply(count + ack[0] + 3, 0, 1, ack[1]), acks)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES)
