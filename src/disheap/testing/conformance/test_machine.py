"""What every state machine holds to: `interfaces.StateMachine`. Run over each machine by the pytest plugin.

What a command means is the machine's own business, so the suite sends garbage, sessions and time. To a machine that is
`interfaces.Sampling` it sends some hundreds of its samples as well, from several sessions and in an order drawn from a
fixed seed. The better the samples, the more the suite can find.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from disheap.errors import CommandRefused, SnapshotDamaged
from disheap.interfaces import API, AllowedWhenFull, Hashing, MemoryEstimating, Sampling, StateMachine

Factory = Callable[[], StateMachine]

SESSIONS = (1, 2, 3)
STEPS = 400
SEEDS = range(6)
PLENTY = 10_000
"""A work limit beyond what the samples can set off."""
PIECE_BYTES = 1 << 20
HASH_BYTES = 16

GARBAGE = [b"", b"\x00", b"\xff" * 9, b"\xc1\xc1", b"no such command", bytes(range(256)), b"\x93" + b"\x7f" * 30]


class Step(NamedTuple):
    """One call of the machine, as the runtime makes it."""

    method: str
    session: int
    time_ms: int
    body: bytes


@pytest.fixture
def machine_commands(machine_factory: Factory) -> list[bytes]:
    """Commands that mean something to the machine, where it offers any."""
    machine = machine_factory()
    return list(machine.sample_commands()) if isinstance(machine, Sampling) else []


def script(commands: list[bytes], seed: int, steps: int = STEPS) -> list[Step]:
    """Sessions come and go, time passes, commands good and bad are sent. An expired session opens again."""
    source = random.Random(seed)
    time_ms = 1000
    calls = [Step("session_opened", session, time_ms, b"") for session in SESSIONS]
    for _ in range(steps):
        session = source.choice(SESSIONS)
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


def play(machine: StateMachine, step: Step, index: int = 1) -> Any:
    """Everything that comes out of one call, in a form that can be compared. Time passes first, as in an entry."""
    passed = machine.advance(step.time_ms, PLENTY)
    outcome = (passed[0], list(passed[1]))
    try:
        return outcome, _call(machine, step, index)
    except CommandRefused as refusal:
        return outcome, (type(refusal), str(refusal))


def _call(machine: StateMachine, step: Step, index: int) -> Any:
    match step.method:
        case "apply":
            reply, effects = machine.apply(index, step.time_ms, step.session, step.body)
            return reply, list(effects)
        case "session_attached":
            reply, effects = machine.session_attached(step.session, b"")
            return reply, list(effects)
        case "session_opened":
            return machine.session_opened(step.session)
        case "session_detached":
            return list(machine.session_detached(step.session))
        case "session_expired":
            return list(machine.session_expired(step.session))
        case _:
            return None


def played(machine_factory: Factory, commands: list[bytes], seed: int = 0, steps: int = STEPS) -> StateMachine:
    machine = machine_factory()
    for index, step in enumerate(script(commands, seed, steps)):
        play(machine, step, index)
    return machine


def restored(machine_factory: Factory, pieces: Sequence[bytes]) -> StateMachine:
    machine = machine_factory()
    machine.restore(pieces)
    return machine


def test_it_says_what_it_is(machine_factory: Factory) -> None:
    machine = machine_factory()
    lowest, highest = machine.versions
    assert machine.name
    assert machine.api == API
    assert 1 <= lowest <= highest


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_calls_give_the_same_replies_effects_and_hash(
    machine_factory: Factory, machine_commands: list[bytes], seed: int
) -> None:
    first, second = machine_factory(), machine_factory()
    for index, step in enumerate(script(machine_commands, seed)):
        assert play(first, step, index) == play(second, step, index), step
        assert first.next_deadline() == second.next_deadline()
        assert first.backlog() == second.backlog()
    assert first.state_hash() == second.state_hash()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restored_replica_goes_on_in_step(machine_factory: Factory, machine_commands: list[bytes], seed: int) -> None:
    original = machine_factory()
    replica = restored(machine_factory, list(original.snapshot()))
    for index, step in enumerate(script(machine_commands, seed)):
        assert play(original, step, index) == play(replica, step, index), step
        if index % 25 == 0:
            assert original.state_hash() == replica.state_hash()
            replica = restored(machine_factory, list(original.snapshot()))
            assert original.state_hash() == replica.state_hash()
    assert original.state_hash() == replica.state_hash()


def test_the_hash_has_16_bytes_and_looking_changes_nothing(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    machine = played(machine_factory, machine_commands)
    before = machine.state_hash()
    assert len(before) == HASH_BYTES
    for look in (machine.stats, machine.backlog, machine.next_deadline, machine.snapshot, machine.state_hash):
        look()
    assert machine.state_hash() == before
    assert all(isinstance(name, str) and isinstance(count, int) for name, count in machine.stats().items())


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_hashed_in_slices_is_of_one_moment_and_the_same_on_every_replica(
    machine_factory: Factory, machine_commands: list[bytes], seed: int
) -> None:
    """Of a machine without the power `Hashing`, `state_hash` is what replicas compare."""
    original = machine_factory()
    replica = restored(machine_factory, list(original.snapshot()))
    slices, before = hashing(original), hashed(replica)
    for index, step in enumerate(script(machine_commands, seed)):
        play(original, step, index)
        play(replica, step, index)
        if index % 25 == 0:
            assert b"".join(slices) == before, "an earlier view has changed"
            slices, before = hashing(original), hashed(restored(machine_factory, list(replica.snapshot())))
    assert hashed(original) == hashed(replica)


def hashing(machine: StateMachine) -> Iterator[bytes]:
    return machine.hashing() if isinstance(machine, Hashing) else iter((machine.state_hash(),))


def hashed(machine: StateMachine) -> bytes:
    return b"".join(hashing(machine))


def test_an_index_and_a_time_alone_do_not_change_a_refusal(machine_factory: Factory) -> None:
    outcomes = []
    for index, time_ms in ((1, 1000), (7, 9000)):
        machine = machine_factory()
        outcomes.append([play(machine, Step("apply", 1, time_ms, body), index)[1] for body in GARBAGE])
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("body", GARBAGE, ids=[repr(body[:12]) for body in GARBAGE])
def test_garbage_is_refused_and_changes_nothing(
    machine_factory: Factory, machine_commands: list[bytes], body: bytes
) -> None:
    machine = played(machine_factory, machine_commands)
    before = machine.state_hash()
    with pytest.raises(CommandRefused) as caught:
        machine.apply(9999, 1_000_000, 1, body)
    assert str(caught.value)
    assert machine.state_hash() == before


@pytest.mark.parametrize("body", GARBAGE, ids=[repr(body[:12]) for body in GARBAGE])
def test_a_query_answers_or_is_refused_and_changes_nothing(
    machine_factory: Factory, machine_commands: list[bytes], body: bytes
) -> None:
    machine = played(machine_factory, machine_commands)
    before = machine.state_hash()
    try:
        assert isinstance(machine.query(1_000_000, 1, body), bytes)
    except CommandRefused as refusal:
        assert str(refusal)
    assert machine.state_hash() == before


def test_what_is_allowed_when_full_depends_on_the_command_alone(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    empty, machine = machine_factory(), played(machine_factory, machine_commands)
    if not isinstance(machine, AllowedWhenFull) or not isinstance(empty, AllowedWhenFull):
        return  # without the power all commands are refused then
    before = machine.state_hash()
    for body in machine_commands:
        assert machine.allowed_when_full(body) is empty.allowed_when_full(body)
    assert not any(machine.allowed_when_full(body) for body in GARBAGE), "what is no command brings something in"
    assert machine.state_hash() == before


def test_a_memory_estimate_follows_the_state(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    empty, machine = machine_factory(), machine_factory()
    if not isinstance(machine, MemoryEstimating) or not isinstance(empty, MemoryEstimating):
        return  # without the power the node relies on the size of its process
    estimates = []
    for index, step in enumerate(script(machine_commands, 0)):
        play(machine, step, index)
        before = machine.state_hash()
        estimates.append(machine.memory_bytes())
        assert machine.state_hash() == before
    assert min(estimates) >= empty.memory_bytes() >= 0
    if machine_commands:
        assert max(estimates) > empty.memory_bytes(), "what is stored takes memory"
    replica = restored(machine_factory, list(machine.snapshot()))
    assert isinstance(replica, MemoryEstimating)
    assert machine.memory_bytes() / 2 <= replica.memory_bytes() <= machine.memory_bytes() * 2
    machine.restore(list(empty.snapshot()))
    assert machine.memory_bytes() == empty.memory_bytes(), "a state that was replaced takes no memory"


def test_a_snapshot_comes_in_pieces_that_may_be_cut_elsewhere(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    machine = played(machine_factory, machine_commands)
    pieces = list(machine.snapshot())
    assert max(map(len, pieces)) <= PIECE_BYTES
    whole = b"".join(pieces)
    for size in (1, 13, len(whole)):
        cut = [whole[start : start + size] for start in range(0, len(whole), size)]
        assert restored(machine_factory, cut).state_hash() == machine.state_hash()


def test_a_view_is_of_the_moment_it_was_taken(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    machine = played(machine_factory, machine_commands)
    then, view = machine.state_hash(), machine.snapshot()
    pieces = [next(view)]
    for index, step in enumerate(script(machine_commands, 99, 100)):
        play(machine, step._replace(time_ms=step.time_ms + 1_000_000), index)
        pieces += [piece for piece in [next(view, None)] if piece is not None]
    assert restored(machine_factory, [*pieces, *view]).state_hash() == then


def test_a_restore_replaces_the_whole_state(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    empty = machine_factory()
    machine = played(machine_factory, machine_commands)
    machine.restore(list(empty.snapshot()))
    assert machine.state_hash() == empty.state_hash()
    assert machine.next_deadline() == empty.next_deadline()


def test_a_damaged_snapshot_is_refused_and_leaves_the_state(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    machine = played(machine_factory, machine_commands)
    whole, before = b"".join(machine.snapshot()), machine.state_hash()
    for damaged in (b"", b"\xff" * 100, whole[:-1], whole[: len(whole) // 2], whole + b"\x00"):
        with pytest.raises(SnapshotDamaged):
            machine.restore([damaged])
    assert machine.state_hash() == before


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_advancing_does_no_more_than_it_may_and_comes_to_an_end(
    machine_factory: Factory, machine_commands: list[bytes], limit: int
) -> None:
    machine = played(machine_factory, machine_commands)
    for session in SESSIONS:
        machine.session_expired(session)
    calls = 0
    while calls == 0 or machine.backlog():
        units, _ = machine.advance(10_000_000, limit)
        assert 0 <= units <= limit
        calls += 1
        assert calls < PLENTY
    deadline = machine.next_deadline()
    assert deadline is None or deadline > 10_000_000


def test_however_the_work_is_cut_the_end_is_the_same_on_every_replica(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    machine = played(machine_factory, machine_commands)
    replica = restored(machine_factory, list(machine.snapshot()))
    while True:
        outcomes = [(units, list(effects)) for units, effects in (one.advance(50_000, 2) for one in (machine, replica))]
        assert outcomes[0] == outcomes[1]
        assert machine.state_hash() == replica.state_hash()
        replica = restored(machine_factory, list(machine.snapshot()))
        if not machine.backlog():
            break


def test_it_runs_every_version_that_it_says(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    machine = machine_factory()
    lowest, highest = machine.versions
    for version in range(lowest, highest + 1):
        machine.set_version(version)
        for index, step in enumerate(script(machine_commands, version, 50)):
            play(machine, step, index)
    assert len(machine.state_hash()) == HASH_BYTES
