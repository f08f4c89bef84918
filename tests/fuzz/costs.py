"""Search for what costs more than it may: `python -m tests.fuzz.costs --objective share --minutes 3`.

A hill climb over sequences of steps (`costs_world`). A cost is a number of calls of functions, counted by the
interpreter, so it is the same on every machine. Wall time is reported and decides nothing. The objectives:

- `share`: the calls between two pauses of the loop, as a share of those allowed. Allowed are so many for each byte of
  the step and of its answer, and for each unit of work that the machine counts. It must not be above 1.
- `pause`: the calls between two pauses. At most `MAX_CALLS_BETWEEN_PAUSES`.
- `amplification`: the calls of a whole sequence, what it puts off included, for each byte that was sent. Nothing bounds
  it, because a publish to 2,500 topics is meant to work. It leads to the commands that are worth a look.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from random import Random
from typing import Any

from disheap.protocol import broker
from disheap.protocol.frames import Kind
from tests.fuzz.costs_world import Admin, Advance, Attach, Call, Cost, Large, Leave, NewTerm, Open, Step, World

CALLS_BASE = 300
"""The calls of any step, whatever it does."""
CALLS_OF_A_PIECE = 25_000
"""The calls of a piece of a hash, which may look at 2,048 ids and find nothing, and of the other admin requests: 1
ms."""
CALLS_PER_UNIT = 60
CALLS_PER_BYTE = 8
"""The calls for each byte of a command and of its answer: an Ack of many tokens, a list of many topics."""
MAX_CALLS_BETWEEN_PAUSES = 400_000
"""About 20 ms."""
LONGEST = 40
OBJECTIVES = ("share", "pause", "amplification")


@dataclass(frozen=True)
class Worst:
    """The worst of a sequence by an objective. `value` above `limit` is too much."""

    value: float
    limit: float
    cost: Cost | None
    sequence: list[Step]

    @property
    def is_too_much(self) -> bool:
        return self.value > self.limit


def measure(sequence: list[Step], objective: str) -> Worst:
    world = World()
    worst, value, calls = None, 0.0, 0
    for cost in world.run(sequence):
        calls += cost.calls
        found = _share(cost) if objective == "share" else float(cost.calls)
        if found > value:
            worst, value = cost, found
    if objective == "amplification":
        return Worst(calls / max(1, world.input_bytes), float("inf"), worst, sequence)
    return Worst(value, 1.0 if objective == "share" else MAX_CALLS_BETWEEN_PAUSES, worst, sequence)


def climb(seed: int, steps: int, objective: str = "share", until: float = float("inf")) -> Worst:
    """The worst that so many steps find, or those that fit in until `time.monotonic()` is `until`. Ends at once when
    something costs too much."""
    random = Random(seed)
    worst = measure([_invent(random, objective) for _ in range(10)], objective)
    for _ in range(steps):
        if worst.is_too_much or time.monotonic() > until:
            break
        found = measure(_change(worst.sequence, random, objective), objective)
        if found.value >= worst.value:
            worst = found
    return worst


def _share(cost: Cost) -> float:
    base = CALLS_OF_A_PIECE if isinstance(cost.step, Admin) else CALLS_BASE
    return cost.calls / (base + CALLS_PER_UNIT * cost.units + CALLS_PER_BYTE * cost.size)


def _change(sequence: list[Step], random: Random, objective: str) -> list[Step]:
    changed = list(sequence)
    place = random.randrange(len(changed))
    match random.randrange(4):
        case 0 if len(changed) < LONGEST:
            changed.insert(place, _invent(random, objective))
        case 1 if len(changed) > 1:
            del changed[place]
        case 2 if len(changed) < LONGEST:
            changed[place:place] = changed[place : place + random.randint(1, 8)][: LONGEST - len(changed)]
        case _:
            changed[place] = _invent(random, objective)
    return changed


def _invent(random: Random, objective: str) -> Step:
    """Large steps belong to `pause` alone: what is only looked at has no units and no bytes, and is bounded there."""
    kinds = [_invent_command] * 6 + [_invent_event] * 3
    if objective == "pause":
        kinds += [_invent_large] * 2
    return random.choice(kinds)(random)


def _invent_large(random: Random) -> Step:
    return Large(random.choice(["topics", "consumers", "sessions"]), random.choice([300, 1000]))


def _invent_event(random: Random) -> Step:
    session, count = random.randrange(3), random.choice([1, 10, 300])
    return random.choice(
        [
            Open("x" * random.choice([1, 255])),
            Attach(session, random.randint(1, 300), count),
            Attach(session, 1, 0),
            Leave(random.choice([Kind.DETACH, Kind.EXPIRE, Kind.CLOSE]), session),
            Advance(random.choice([1, 10, 100_000])),
            NewTerm(),
            Admin(random.choice(["hash", "status", "sessions"])),
        ]
    )


def _invent_command(random: Random) -> Step:
    topic, exchange = random.choice("ab"), random.choice("ef")
    count = random.choice([1, 10, 300])
    pattern = ".".join(random.choices(["#", "*", "x"], k=random.choice([1, 5, 40, 120])))
    key = ".".join(random.choices("xy", k=random.choice([1, 5, 120])))
    lease_ms, session = random.choice([0, 0, 9]), random.choice([0, 0, 1])
    asked: Any = random.choice(
        [
            broker.CreateTopic(topic),
            broker.CreateTopic(topic, broker.TopicSettings(auto_delete=True)),
            broker.CreateTopic(topic, broker.TopicSettings(exclusive=True, max_messages=50, overflow="drop")),
            broker.CreateExchange(exchange, random.choice(["topic", "fanout", "topic"])),
            broker.Bind(exchange, topic, pattern),
            broker.Bind(exchange, topic, pattern),
            broker.Unbind(exchange, topic, pattern),
            broker.CreateExchange("h", "headers"),
            broker.Bind("h", topic, key[:1], _some_arguments(random)),
            broker.Bind("h", topic, key, _some_arguments(random)),
            broker.Unbind("h", topic, key[:1], _some_arguments(random)),
            broker.Publish("h", key, _with_headers(random.choice([1, 5, 200]))),
            broker.Publish(exchange, key, broker.NewMessage(b"x")),
            broker.Publish(exchange, key, broker.NewMessage(b"x")),
            broker.EnqueueMany(topic, [broker.NewMessage(b"", random.randrange(3), random.choice([0, 9]))] * count),
            broker.EnqueueMany(topic, [broker.NewMessage(b"", random.randrange(3), 0, 9)] * count),
            broker.EnqueueMany(topic, [broker.NewMessage(b"", random.randrange(3))] * count),
            broker.EnqueueMany(topic, [_with_headers(random.choice([1, 5, 200]))] * count),
            broker.Enqueue(topic, _with_headers(random.choice([1, 200]))),
            broker.Batch([broker.Enqueue(topic, broker.NewMessage(b"", random.randrange(3), 0, 9))] * count),
            broker.Batch([broker.Enqueue(topic, _with_headers(random.choice([1, 200])))] * count),
            broker.Batch([broker.Publish(exchange, f"{key}.{number}", broker.NewMessage(b"")) for number in range(9)]),
            broker.Batch([broker.Ack([(number, 1)]) for number in range(1, count + 1)]),
            broker.Prepare(key[:1], 1, random.choice([0, 5]), [broker.Ack([(count, 1)])]),
            broker.Prepare(key[:1], 1, 5, [broker.Enqueue(topic, broker.NewMessage(b"", 1, 0, 9))] * count),
            broker.Prepare(key[:1], 1, 5, [broker.Enqueue(topic, broker.NewMessage(b"", 1, 0, 9))] * count, [1, 2]),
            broker.Commit(key[:1], 1),
            broker.Abort(key[:1], random.choice([1, 2])),
            broker.ListTransactions(),
            broker.Subscribe(topic, count, lease_ms=lease_ms, group=random.choice([0, 1])),
            broker.Subscribe(topic, count, no_ack=True),
            broker.SetCredit(0, count, 0, 1),
            broker.Overtake(1, random.choice([0, 1])),
            broker.Pop(topic, count, 10, lease_ms),
            broker.Ack([(number, 1) for number in range(1, count + 1)]),
            broker.Nack([(number, 1) for number in range(1, count + 1)], random.choice([0, 9])),
            broker.Extend([(number, 1) for number in range(1, count + 1)], random.choice([0, 9])),
            broker.Recover(list(range(1, 4))),
            broker.Cancel(random.randint(1, 4), True),
            broker.Purge(topic),
            broker.UpdateTopic(topic, {"max_messages": random.choice([0, 5]), "overflow": "drop"}),
            broker.PauseTopic(topic, random.choice([False, False, True]), random.choice([None, False])),
            broker.DeleteTopic(topic),
            broker.DeleteExchange(random.choice([exchange, "h"])),
            broker.Peek(topic, count),
            broker.Browse(topic, random.choice([0, 1, count]), count),
            broker.Explain(topic, count),
            broker.ListTopics(),
            broker.ListExchanges(),
            broker.GetStats(),
        ]
    )
    return Call(asked, session)


def _with_headers(count: int) -> broker.NewMessage:
    return broker.NewMessage(b"", encoded_headers=broker.encode_headers({f"n{n}": n for n in range(count)}), key="k")


def _some_arguments(random: Random) -> bytes:
    """Arguments of a binding to a headers exchange, for the names of `_with_headers`."""
    names = random.sample(range(20), random.choice([0, 1, 4, 15]))
    match = random.choice(broker.MATCHES)
    return broker.encode_arguments({"x-match": match, **{f"n{n}": random.choice([n, None]) for n in names}})


def main() -> int:
    parser = argparse.ArgumentParser(description="Search for steps that cost more than they may.")
    parser.add_argument("--objective", choices=OBJECTIVES, default="share")
    parser.add_argument("--steps", type=int, default=1 << 30)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    worst = climb(options.seed, options.steps, options.objective, time.monotonic() + 60 * options.minutes)
    print(f"seed {options.seed}, {options.objective}: {worst.value:.2f} of at most {worst.limit}")
    cost = worst.cost
    if cost is not None:
        print(f"{cost.calls} calls, {cost.units} units, {cost.size} bytes, {cost.seconds * 1000:.1f} ms")
        print(f"{cost.step!s:.300}")
    if worst.is_too_much or options.objective == "amplification":
        print("\n".join(f"  {step!s:.200}" for step in worst.sequence))
    return worst.is_too_much


if __name__ == "__main__":
    sys.exit(main())
