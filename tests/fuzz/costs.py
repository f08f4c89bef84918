"""Search for what costs more than it says: `python -m tests.fuzz.costs --steps 20000`.

A hill climb over sequences of commands and queries. The cost of a call is the number of calls of functions that it
makes, counted by the interpreter, so it is the same on every machine. What a call may cost follows from its bytes, from
the units of work that the machine counts for it, and from the rows that it answers with. The climb keeps a sequence
whose worst call costs more for what it may cost. Wall time is reported and decides nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from random import Random
from typing import Any

from disheap.errors import CommandRefused
from disheap.interfaces import MachineContext, Principal
from disheap.protocol import broker
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings

CALLS_BASE = 300
"""Of any command or query, whatever it does."""
CALLS_PER_UNIT = 60
CALLS_PER_BYTE = 8
"""Of the command and of the answer: an Ack of many tokens, a list of many topics."""
LONGEST = 40


@dataclass(frozen=True)
class Worst:
    """The call of a sequence that cost most for what it may cost. `share` is above 1 where that is too much."""

    share: float
    asked: Any
    calls: int
    units: int
    size: int
    seconds: float


def measure(sequence: list[Any]) -> Worst:
    machine = HeapMachine(HeapSettings(), MachineContext())
    machine.session_opened(1, Principal())
    worst = Worst(0.0, None, 0, 0, 0, 0.0)
    for index, asked in enumerate(sequence):
        body, before, began = broker.encode(asked), machine.work_done(), time.perf_counter()
        calls, answer = _counted(machine, index, asked, body)
        units, size = machine.work_done() - before, len(body) + len(answer)
        share = calls / (CALLS_BASE + CALLS_PER_UNIT * units + CALLS_PER_BYTE * size)
        if share > worst.share:
            worst = Worst(share, asked, calls, units, size, time.perf_counter() - began)
    return worst


def climb(seed: int, steps: int) -> Worst:
    """The worst that so many steps find. Ends at once when something costs too much."""
    random = Random(seed)
    best = [_invent(random) for _ in range(10)]
    worst = measure(best)
    for _ in range(steps):
        changed = _change(best, random)
        found = measure(changed)
        if found.share >= worst.share:
            best, worst = changed, found
        if worst.share > 1:
            break
    return worst


def _counted(machine: HeapMachine, index: int, asked: Any, body: bytes) -> tuple[int, bytes]:
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    answer = b""
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        is_query = isinstance(asked, broker.Query)
        answer = machine.query(0, 1, body) if is_query else machine.apply(index, 0, 1, body)[0]
    except CommandRefused:
        pass
    finally:
        sys.setprofile(before)
    return calls, answer


def _change(sequence: list[Any], random: Random) -> list[Any]:
    changed = list(sequence)
    place = random.randrange(len(changed))
    match random.randrange(4):
        case 0 if len(changed) < LONGEST:
            changed.insert(place, _invent(random))
        case 1 if len(changed) > 1:
            del changed[place]
        case 2 if len(changed) < LONGEST:
            changed[place:place] = changed[place : place + random.randint(1, 8)][: LONGEST - len(changed)]
        case _:
            changed[place] = _invent(random)
    return changed


def _invent(random: Random) -> Any:
    topic, exchange = random.choice("ab"), random.choice("ef")
    count = random.choice([1, 10, 300])
    pattern = ".".join(random.choices(["#", "*", "x"], k=random.choice([1, 5, 40, 120])))
    key = ".".join(random.choices("xy", k=random.choice([1, 5, 120])))
    return random.choice(
        [
            broker.CreateTopic(topic),
            broker.CreateTopic(topic, broker.TopicSettings(auto_delete=True)),
            broker.CreateExchange(exchange, random.choice(["topic", "fanout", "topic"])),
            broker.Bind(exchange, topic, pattern),
            broker.Bind(exchange, topic, pattern),
            broker.Unbind(exchange, topic, pattern),
            broker.Publish(exchange, key, broker.NewMessage(b"x")),
            broker.Publish(exchange, key, broker.NewMessage(b"x")),
            broker.EnqueueMany(topic, [broker.NewMessage(b"", random.randrange(3), random.choice([0, 9]))] * count),
            broker.EnqueueMany(topic, [broker.NewMessage(b"", random.randrange(3))] * count),
            broker.EnqueueMany(topic, [_with_headers(random.choice([1, 5, 200]))] * count),
            broker.Enqueue(topic, _with_headers(random.choice([1, 200]))),
            broker.Subscribe(topic, count),
            broker.Pop(topic, count, 10),
            broker.Ack([(number, 1) for number in range(1, count + 1)]),
            broker.Nack([(number, 1) for number in range(1, count + 1)], random.choice([0, 9])),
            broker.Recover(list(range(1, 4))),
            broker.Cancel(random.randint(1, 4), True),
            broker.Purge(topic),
            broker.DeleteTopic(topic),
            broker.DeleteExchange(exchange),
            broker.Peek(topic, count),
            broker.ListTopics(),
            broker.ListExchanges(),
            broker.GetStats(),
        ]
    )


def _with_headers(count: int) -> broker.NewMessage:
    return broker.NewMessage(b"", encoded_headers=broker.encode_headers({f"n{n}": n for n in range(count)}), key="k")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Search for commands and queries that cost more than they say.")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    worst = climb(options.seed, options.steps)
    print(
        f"seed {options.seed}: {worst.share:.2f} of what it may cost: {worst.calls} calls, {worst.units} units of work,"
    )
    print(f"{worst.size} bytes, {worst.seconds * 1000:.1f} ms: {str(worst.asked)[:300]}")
    sys.exit(worst.share > 1)
