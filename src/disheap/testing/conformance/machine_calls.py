"""The calls that the suite of state machines makes: a script drawn from a seed, played as the runtime would.

Owns which calls come in which order. What must hold is in `test_machine`. `machine_child` plays the same script in
another process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from disheap.errors import CommandRefused
from disheap.interfaces import Effects, Hashing, Principal, StateMachine

Factory = Callable[[], StateMachine]
Outcome = tuple[tuple[int, list[Any]], Any]
"""(units, effects) of the passing of time, then what the call itself gave."""

SESSIONS = (1, 2, 3)
PRINCIPALS = (Principal(), Principal("worker"))
STEPS = 400
PLENTY = 10_000
"""A work limit beyond what the samples can set off."""

GARBAGE = [b"", b"\x00", b"\xff" * 9, b"\xc1\xc1", b"no such command", bytes(range(256)), b"\x93" + b"\x7f" * 30]


class Step(NamedTuple):
    """One call of the machine, as the runtime makes it."""

    method: str
    session: int
    time_ms: int
    body: bytes


def principal_of(session: int) -> Principal:
    """The principal with which the suite opens this session."""
    return PRINCIPALS[session % len(PRINCIPALS)]


def script(commands: Sequence[bytes], seed: int, steps: int = STEPS) -> list[Step]:
    """Sessions come and go, time passes, commands good and bad are sent. An expired session opens again."""
    opened = [Step("session_opened", session, 1000, b"") for session in SESSIONS]
    return [*opened, *more_script(commands, seed, steps, 1000)]


def more_script(
    commands: Sequence[bytes], seed: int, steps: int, time_ms: int, sessions: Sequence[int] = SESSIONS
) -> list[Step]:
    """Goes on from `time_ms` with sessions that are open already."""
    source = random.Random(seed)
    calls: list[Step] = []
    for _ in range(steps):
        session = source.choice(sessions)
        time_ms += source.choice((0, 0, 1, 7, 40))
        chance = source.random()
        if chance < 0.03:
            calls += [Step("session_detached", session, time_ms, b""), Step("session_attached", session, time_ms, b"")]
        elif chance < 0.05:
            calls += [Step("session_expired", session, time_ms, b""), Step("session_opened", session, time_ms, b"")]
        elif chance < 0.08:
            calls.append(Step("apply", session, time_ms, source.choice(GARBAGE)))
        elif chance < 0.2 or not commands:
            calls.append(Step("advance", 0, time_ms, b""))
        else:
            calls.append(Step("apply", session, time_ms, source.choice(commands)))
    return calls


def play(machine: StateMachine, step: Step, index: int = 1) -> Outcome:
    """Everything that comes out of one call, in a form that can be compared. Time passes first, as in an entry."""
    units, effects = machine.advance(step.time_ms, PLENTY)
    passed = (units, list(effects))
    try:
        return passed, _call(machine, step, index)
    except CommandRefused as refusal:
        return passed, (type(refusal), str(refusal))


def _call(machine: StateMachine, step: Step, index: int) -> Any:
    match step.method:
        case "apply":
            reply, effects = machine.apply(index, step.time_ms, step.session, step.body)
            return reply, list(effects)
        case "session_attached":
            reply, effects = machine.session_attached(step.session, b"")
            return reply, list(effects)
        case "session_opened":
            return machine.session_opened(step.session, principal_of(step.session))
        case "session_detached":
            return list(machine.session_detached(step.session))
        case "session_expired":
            return list(machine.session_expired(step.session))
        case _:
            return None


def effects_of(step: Step, outcome: Outcome) -> Effects:
    """What the passing of time pushed, then what the call pushed."""
    (_, passed), called = outcome
    if step.method in ("session_detached", "session_expired"):
        return [*passed, *called]
    if step.method in ("apply", "session_attached") and isinstance(called[1], list):
        return [*passed, *called[1]]
    return passed


def played(machine_factory: Factory, commands: Sequence[bytes], seed: int = 0, steps: int = STEPS) -> StateMachine:
    """A machine after `steps` steps of the script drawn from `seed`."""
    machine = machine_factory()
    for index, step in enumerate(script(commands, seed, steps)):
        play(machine, step, index)
    return machine


def loaded(machine_factory: Factory, commands: Sequence[bytes]) -> StateMachine:
    """With timers set and work postponed: many commands in one entry, so that no time passes between them."""
    machine = played(machine_factory, commands)
    for index, step in enumerate(more_script(commands, 11, STEPS, 50_000)):
        try:
            _call(machine, step._replace(time_ms=50_000), index)
        except CommandRefused:
            pass
    return machine


def restored(machine_factory: Factory, pieces: Iterable[bytes], version: int = 0) -> StateMachine:
    """From an iterator that can be read once, and with the version set again, as the runtime restores. 0 stands for the
    highest version."""
    machine = machine_factory()
    machine.restore(iter(pieces))
    machine.set_version(version or machine.versions[1])
    return machine


def hashing(machine: StateMachine) -> Iterator[bytes]:
    """The pieces that replicas compare. A machine without the power `Hashing` has one: its `state_hash`."""
    return machine.hashing() if isinstance(machine, Hashing) else iter((machine.state_hash(),))


def hashed(machine: StateMachine) -> bytes:
    """All slices of `hashing` in one."""
    return b"".join(hashing(machine))
