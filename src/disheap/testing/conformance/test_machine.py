"""What every state machine holds to: `interfaces.StateMachine`. Run over each machine by `disheap.testing.fixtures`.

What a command means is the machine's own business, so the suite sends garbage, sessions and time. To a machine that is
`interfaces.Sampling` it sends some hundreds of its samples as well, from several sessions and in an order drawn from a
fixed seed; to one that is `interfaces.SamplingQueries` it sends those queries. The better the samples, the more the
suite can find.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from disheap.errors import CommandRefused, SnapshotDamaged, VersionUnsupported
from disheap.interfaces import (
    API,
    AllowedWhenFull,
    MachineContext,
    MemoryEstimating,
    Sampling,
    SamplingQueries,
    Screening,
    SessionReporting,
    StateMachine,
)
from disheap.plugins.registry import Registry
from disheap.testing.conformance.machine_calls import (
    GARBAGE,
    PLENTY,
    SESSIONS,
    Factory,
    Step,
    effects_of,
    hashed,
    hashing,
    loaded,
    more_script,
    play,
    played,
    principal_of,
    restored,
    script,
)

SEEDS = range(6)
PIECE_BYTES = 1 << 20
HASH_BYTES = 16
LATER_MS = 1_000_000
"""Time beyond every script, so that what goes on after one does not go back."""
CHILD_S = 60
PAIRS = 40
"""States with one hash that are compared."""


@pytest.fixture
def versioned_factory(
    disheap_registry: Registry, disheap_tables: dict[str, Any], machine_name: str
) -> Callable[[int], StateMachine]:
    """Builds the machine as the runtime does: a version is set before anything else is called."""

    def build(version: int) -> StateMachine:
        tables = disheap_tables["machine"]
        machine = disheap_registry.build("machine", machine_name, tables, MachineContext(), "--disheap-set")
        machine.set_version(version)
        return machine

    return build


@pytest.fixture
def machine_factory(machine_factory: Factory, versioned_factory: Callable[[int], StateMachine]) -> Factory:
    """At the highest version, which knows the most commands."""
    highest = machine_factory().versions[1]
    return lambda: versioned_factory(highest)


@pytest.fixture
def machine_commands(machine_factory: Factory) -> list[bytes]:
    """Commands that mean something to the machine, where it offers any."""
    machine = machine_factory()
    return list(machine.sample_commands()) if isinstance(machine, Sampling) else []


@pytest.fixture
def machine_queries(machine_factory: Factory) -> list[bytes]:
    """Queries that mean something to the machine, where it offers any, and garbage."""
    machine = machine_factory()
    return [*(machine.sample_queries() if isinstance(machine, SamplingQueries) else ()), *GARBAGE]


def test_it_says_what_it_is(machine_factory: Factory) -> None:
    """A machine has a name, the version of the contracts, and the range of versions that it runs."""
    machine = machine_factory()
    lowest, highest = machine.versions
    assert machine.name
    assert machine.api == API
    assert 1 <= lowest <= highest


# --- the same on every replica ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_calls_give_the_same_replies_effects_and_hash(
    machine_factory: Factory, machine_commands: list[bytes], seed: int
) -> None:
    """Two instances in one process that get the same calls give the same replies, effects, deadlines and hashes."""
    first, second = machine_factory(), machine_factory()
    for index, step in enumerate(script(machine_commands, seed)):
        assert play(first, step, index) == play(second, step, index), step
        assert first.next_deadline() == second.next_deadline()
        assert first.backlog() == second.backlog()
    assert first.state_hash() == second.state_hash()


def test_another_process_gives_the_same_replies_effects_and_hash(
    machine_name: str, disheap_tables: dict[str, Any]
) -> None:
    """Neither the order of a hash, nor the clock, nor a place in memory, nor the system's entropy has an effect: a
    process with other hash seeds, other clocks and a crowded memory gives the same."""
    asked = {"name": machine_name, "settings": disheap_tables["machine"].get(machine_name, {}), "seeds": list(SEEDS)}
    here = _in_a_process("1", asked | {"shift_s": 0, "disorder": False})
    there = _in_a_process("2", asked | {"shift_s": 86_400 * 400, "disorder": True})
    for seed, (ours, theirs) in enumerate(zip(here, there, strict=True)):
        differing = [at for at, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        assert not differing, f"two processes differ at call {differing[0]} of the script with seed {seed}"


def _in_a_process(hash_seed: str, asked: dict[str, Any]) -> list[list[str]]:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "disheap.testing.conformance.machine_child"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=CHILD_S,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restored_replica_goes_on_in_step(machine_factory: Factory, machine_commands: list[bytes], seed: int) -> None:
    """A replica that is restored from a snapshot answers every later call as the original does, in the same order."""
    original = machine_factory()
    replica = restored(machine_factory, list(original.snapshot()))
    for index, step in enumerate(script(machine_commands, seed)):
        assert play(original, step, index) == play(replica, step, index), step
        if index % 25 == 0:
            assert original.state_hash() == replica.state_hash()
            replica = restored(machine_factory, list(original.snapshot()))
            assert original.state_hash() == replica.state_hash()
    assert original.state_hash() == replica.state_hash()


def test_a_reply_is_bytes_and_an_effect_is_a_session_and_bytes(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """The runtime sends replies and pushes as they are, so they are bytes and nothing else."""
    machine = machine_factory()
    for index, step in enumerate(script(machine_commands, 7)):
        outcome = play(machine, step, index)
        if step.method in ("apply", "session_attached") and isinstance(outcome[1][1], list):
            assert isinstance(outcome[1][0], bytes), step
        for session, push in effects_of(step, outcome):
            assert isinstance(push, bytes) and session in SESSIONS, step


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_hashed_in_slices_is_of_one_moment_and_the_same_on_every_replica(
    machine_factory: Factory, machine_commands: list[bytes], seed: int
) -> None:
    """The slices show the state of the call, whatever is applied before they are made, and are the same after a
    restore. Of a machine without the power `Hashing`, `state_hash` is what replicas compare."""
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


@pytest.mark.parametrize("seed", SEEDS)
def test_states_with_the_same_hash_answer_alike(
    machine_factory: Factory, machine_commands: list[bytes], seed: int
) -> None:
    """The hash covers all that decides a later reply: where two states have the same hash, both go on alike."""
    machine = machine_factory()
    views: defaultdict[bytes, dict[bytes, None]] = defaultdict(dict)
    for index, step in enumerate(script(machine_commands, seed)):
        play(machine, step, index)
        views[machine.state_hash()][b"".join(machine.snapshot())] = None
    pairs = [(next(iter(found)), other) for found in views.values() for other in list(found)[1:]]
    for one, other in pairs[:: max(1, len(pairs) // PAIRS)]:
        first, second = restored(machine_factory, [one]), restored(machine_factory, [other])
        for index, step in enumerate(more_script(machine_commands, seed, 60, LATER_MS)):
            assert play(first, step, index) == play(second, step, index), "a hash stands for two states"


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_index_and_a_time_alone_do_not_change_a_refusal(machine_factory: Factory) -> None:
    """What is refused is refused with the same words at any index and time."""
    outcomes = []
    for index, time_ms in ((1, 1000), (7, 9000)):
        machine = machine_factory()
        outcomes.append([play(machine, Step("apply", 1, time_ms, body), index)[1] for body in GARBAGE])
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("body", GARBAGE, ids=[repr(body[:12]) for body in GARBAGE])
def test_garbage_is_refused_and_changes_nothing(
    machine_factory: Factory, machine_commands: list[bytes], body: bytes
) -> None:
    """Bytes that are no command raise `CommandRefused` with a text, and the hash stays."""
    machine = played(machine_factory, machine_commands)
    before = machine.state_hash()
    with pytest.raises(CommandRefused) as caught:
        machine.apply(9999, 1_000_000, 1, body)
    assert str(caught.value)
    assert machine.state_hash() == before


@pytest.mark.parametrize("seed", SEEDS)
def test_a_command_that_is_refused_changes_nothing(
    machine_factory: Factory, machine_commands: list[bytes], seed: int
) -> None:
    """Whatever a refused command was, the state behind it is the state before it, also for every later call."""
    machine = machine_factory()
    for index, step in enumerate(script(machine_commands, seed)):
        play(machine, step._replace(method="advance"), index)
        before, view = machine.state_hash(), list(machine.snapshot())
        _, called = play(machine, step, index)
        if step.method == "apply" and isinstance(called[0], type):
            assert machine.state_hash() == before, f"{step.body!r} was refused, and changed the state"
            if index % 5 == 0:
                _assert_in_step(machine_factory, machine_commands, list(machine.snapshot()), view)


def _assert_in_step(factory: Factory, commands: list[bytes], one: list[bytes], other: list[bytes]) -> None:
    first, second = restored(factory, one), restored(factory, other)
    for index, step in enumerate(more_script(commands, 5, 40, LATER_MS)):
        assert play(first, step, index) == play(second, step, index), step


# --- looking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_looking_changes_nothing(
    machine_factory: Factory, machine_commands: list[bytes], machine_queries: list[bytes], seed: int
) -> None:
    """Queries, statistics, hashes, snapshots that nobody reads and every other look leave no trace: a machine that is
    looked at answers as one that is not."""
    seen, unseen = machine_factory(), machine_factory()
    for index, step in enumerate(script(machine_commands, seed)):
        _look(seen, machine_queries[index % len(machine_queries)], step)
        assert play(seen, step, index) == play(unseen, step, index), "the machine has noticed that it was looked at"
    assert seen.state_hash() == unseen.state_hash()


def _look(machine: StateMachine, query: bytes, step: Step) -> None:
    for look in (machine.stats, machine.backlog, machine.next_deadline, machine.state_hash):
        look()
    for views in (machine.snapshot(), hashing(machine)):
        next(views, None)
    if isinstance(machine, Screening):
        machine.admits(step.body)
    if isinstance(machine, AllowedWhenFull):
        machine.allowed_when_full(step.body)
    if isinstance(machine, MemoryEstimating):
        machine.memory_bytes()
    try:
        machine.query(step.time_ms, step.session, query)
    except CommandRefused as refusal:
        assert str(refusal)


def test_statistics_are_numbers_by_name(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """`stats` maps names to integers, and the hash has 16 bytes."""
    machine = played(machine_factory, machine_commands)
    assert all(type(name) is str and type(count) is int for name, count in machine.stats().items())
    assert len(machine.state_hash()) == HASH_BYTES


def test_a_query_answers_with_bytes_or_is_refused(
    machine_factory: Factory, machine_commands: list[bytes], machine_queries: list[bytes]
) -> None:
    """A query returns bytes, or raises `CommandRefused` with a text, and the hash stays."""
    machine = played(machine_factory, machine_commands)
    before = machine.state_hash()
    for query in machine_queries:
        try:
            assert isinstance(machine.query(LATER_MS, 1, query), bytes)
        except CommandRefused as refusal:
            assert str(refusal)
    assert machine.state_hash() == before


def test_what_is_not_admitted_would_do_nothing(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """Of a machine that is `Screening`: a command that it does not admit changes nothing and pushes nothing."""
    machine = machine_factory()
    for index, step in enumerate(script(machine_commands, 3)):
        play(machine, step._replace(method="advance"), index)
        refuses = isinstance(machine, Screening) and step.method == "apply" and not machine.admits(step.body)
        before = machine.state_hash()
        outcome = play(machine, step, index)
        if refuses:
            assert machine.state_hash() == before, f"{step.body!r} was not admitted, and does something"
            assert not effects_of(step, outcome)


def test_what_a_session_has_is_told_under_the_same_names_for_all_and_changes_nothing(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """Of a machine that is `SessionReporting`: the counts have the same names for every session, known or not."""
    machine = played(machine_factory, machine_commands)
    if not isinstance(machine, SessionReporting):
        return
    before = machine.state_hash()
    stats = [machine.session_stats(session) for session in (*SESSIONS, 999)]
    assert len({tuple(one) for one in stats}) == 1
    assert all(isinstance(count, int) for one in stats for count in one.values())
    assert machine.state_hash() == before


def test_what_is_allowed_when_full_depends_on_the_command_alone(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """`allowed_when_full` gives the same answer in any state, and False for what is no command."""
    empty, machine = machine_factory(), played(machine_factory, machine_commands)
    if not isinstance(machine, AllowedWhenFull) or not isinstance(empty, AllowedWhenFull):
        return  # without the power all commands are refused then
    before = machine.state_hash()
    for body in machine_commands:
        assert machine.allowed_when_full(body) is empty.allowed_when_full(body)
    assert not any(machine.allowed_when_full(body) for body in GARBAGE), "what is no command brings something in"
    assert machine.state_hash() == before


def test_a_memory_estimate_follows_the_state(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """Of a machine that is `MemoryEstimating`: the estimate grows with what is stored and falls with a restore."""
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


# --- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_that_did_nothing_leaves_nothing(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """A session that opens, attaches, detaches and expires without a command leaves the state as it was."""
    machine = played(machine_factory, machine_commands)
    machine.advance(LATER_MS, PLENTY)
    while machine.backlog():
        machine.advance(LATER_MS, PLENTY)
    before = machine.state_hash()
    for session in (77, 78):
        machine.session_opened(session, principal_of(session))
        machine.session_attached(session, b"")
        machine.session_detached(session)
        machine.session_expired(session)
    while machine.backlog():
        machine.advance(LATER_MS, PLENTY)
    assert machine.state_hash() == before


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_pushed_to_a_session_that_is_over(
    machine_factory: Factory, machine_commands: list[bytes], seed: int
) -> None:
    """After `session_expired` no timer, no postponed work and no other session's command pushes to it."""
    machine = played(machine_factory, machine_commands, seed)
    machine.advance(LATER_MS, 1)  # leaves most of what is due for later
    machine.session_expired(2)
    over: list[int] = []
    for index, step in enumerate(more_script(machine_commands, seed, 300, LATER_MS, sessions=(1, 3))):
        over += [session for session, _ in effects_of(step, play(machine, step, index))]
    assert 2 not in over


# --- snapshots -------------------------------------------------------------------------------------------------------


def test_a_snapshot_comes_in_pieces_that_may_be_cut_elsewhere(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """Pieces have at most 1 MiB, and `restore` takes the same bytes in any other pieces."""
    machine = played(machine_factory, machine_commands)
    pieces = list(machine.snapshot())
    assert max(map(len, pieces)) <= PIECE_BYTES
    whole = b"".join(pieces)
    for size in (1, 13, len(whole)):
        cut = [whole[start : start + size] for start in range(0, len(whole), size)]
        assert restored(machine_factory, cut).state_hash() == machine.state_hash()


@pytest.mark.parametrize("first", [0, 40, 200])
def test_a_view_is_of_the_moment_it_was_taken(
    machine_factory: Factory, machine_commands: list[bytes], first: int
) -> None:
    """Commands that are applied before the first piece is asked for, between two pieces and after the last do not show
    in the view. A `snapshot` that is a generator function takes its view too late."""
    machine, twin = played(machine_factory, machine_commands), played(machine_factory, machine_commands)
    then, view = machine.state_hash(), machine.snapshot()
    pieces: list[bytes] = []
    for index, step in enumerate(more_script(machine_commands, 99, 300, LATER_MS)):
        if index >= first:
            pieces += [piece for piece in [next(view, None)] if piece is not None]
        play(machine, step, index)
    found = restored(machine_factory, [*pieces, *view])
    assert found.state_hash() == then, "what was applied after the view was taken shows in it"
    for index, step in enumerate(more_script(machine_commands, 98, 60, LATER_MS)):
        assert play(found, step, index) == play(twin, step, index), step


def test_two_views_do_not_disturb_each_other(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """A view that is taken while another is half written is of its own moment, and so is the other."""
    machine = played(machine_factory, machine_commands)
    expected, views = [], []
    for part in range(3):
        expected.append(machine.state_hash())
        views.append(machine.snapshot())
        for index, step in enumerate(more_script(machine_commands, part, 50, LATER_MS * (part + 1))):
            play(machine, step, index)
    pieces: list[list[bytes]] = [[], [], []]
    for number in (2, 0, 1):
        pieces[number] += [piece for piece in [next(views[number], None)] if piece is not None]
    for number in range(3):
        assert restored(machine_factory, [*pieces[number], *views[number]]).state_hash() == expected[number]


def test_a_restore_replaces_the_whole_state(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """Nothing of the state before is left after `restore`."""
    empty = machine_factory()
    machine = played(machine_factory, machine_commands)
    machine.restore(list(empty.snapshot()))
    assert machine.state_hash() == empty.state_hash()
    assert machine.next_deadline() == empty.next_deadline()


def test_a_damaged_snapshot_is_refused_and_leaves_the_state(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """A snapshot that is cut, too long or none at all raises `SnapshotDamaged`, and the state stays as it was."""
    machine = played(machine_factory, machine_commands)
    whole, before = b"".join(machine.snapshot()), machine.state_hash()
    for damaged in (b"", b"\xff" * 100, whole[:-1], whole[: len(whole) // 2], whole + b"\x00"):
        with pytest.raises(SnapshotDamaged):
            machine.restore([damaged])
    assert machine.state_hash() == before


# --- time and postponed work -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_advancing_does_no_more_than_it_may_and_comes_to_an_end(
    machine_factory: Factory, machine_commands: list[bytes], limit: int
) -> None:
    """`advance` reports at most `limit` units, and repeated calls end the backlog."""
    machine = loaded(machine_factory, machine_commands)
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


@pytest.mark.parametrize("seed", SEEDS)
def test_a_timer_is_told_by_its_deadline_and_work_by_the_backlog(
    machine_factory: Factory, machine_commands: list[bytes], seed: int
) -> None:
    """`advance` finds nothing to do at a time before `next_deadline` when there was no backlog. Otherwise the leader
    of an idle cluster would not let the time pass, and the timer would be late."""
    machine = machine_factory()
    for index, step in enumerate(script(machine_commands, seed)):
        deadline, backlog = machine.next_deadline(), machine.backlog()
        units, effects = machine.advance(step.time_ms, PLENTY)
        if not backlog and (deadline is None or deadline > step.time_ms):
            assert (units, list(effects)) == (0, []), f"nothing was due at {step.time_ms}, and something was done"
        play(machine, step, index)


def test_however_the_work_is_cut_the_end_is_the_same_on_every_replica(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """A replica that is restored in the middle of postponed work does the rest of it alike."""
    machine = loaded(machine_factory, machine_commands)
    replica = restored(machine_factory, list(machine.snapshot()))
    while True:
        outcomes = [(units, list(effects)) for units, effects in (one.advance(50_000, 2) for one in (machine, replica))]
        assert outcomes[0] == outcomes[1]
        assert machine.state_hash() == replica.state_hash()
        replica = restored(machine_factory, list(machine.snapshot()))
        if not machine.backlog():
            break


# --- versions --------------------------------------------------------------------------------------------------------


def test_it_runs_every_version_that_it_says(
    machine_factory: Factory, versioned_factory: Callable[[int], StateMachine], machine_commands: list[bytes]
) -> None:
    """Each version from the lowest to the highest runs, the same on two replicas, one of which was restored."""
    lowest, highest = machine_factory().versions
    for version in range(lowest, highest + 1):
        machine, replica = versioned_factory(version), versioned_factory(version)
        for index, step in enumerate(script(machine_commands, version, 50)):
            assert play(machine, step, index) == play(replica, step, index), step
            if index % 10 == 0:
                replica = restored(partial(versioned_factory, version), machine.snapshot(), version)
        assert machine.state_hash() == replica.state_hash()


def test_a_version_below_the_lowest_is_refused(
    machine_factory: Factory, versioned_factory: Callable[[int], StateMachine]
) -> None:
    """A stored state may be older than what this machine runs: `set_version` raises `VersionUnsupported` then."""
    for version in range(1, machine_factory().versions[0]):
        with pytest.raises(VersionUnsupported):
            versioned_factory(version)
