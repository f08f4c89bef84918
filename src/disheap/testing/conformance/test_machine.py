"""The conformance suite of state machines (`interfaces.StateMachine`).

`disheap.testing.fixtures` runs it over each machine. The suite does not know what a command means. So it sends garbage,
sessions and time. If the machine is `interfaces.Sampling`, it also sends some hundreds of its samples, from several
sessions and in an order drawn from a fixed seed. If it is `interfaces.SamplingQueries`, it sends those queries. Better
samples find more. The docstring of each test says what the contract demands, then when the test fails.
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

from disheap.errors import CommandRefused, SnapshotDamaged, UnknownCommand, VersionUnsupported
from disheap.interfaces import (
    API,
    AllowedWhenFull,
    Buckets,
    CrossChecking,
    FixedConstants,
    Forwarding,
    GroupKnowing,
    MachineContext,
    Measuring,
    MemoryEstimating,
    Relaying,
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
GROUPS = range(16)
PAIRS = 40
"""States with one hash that are compared."""


@pytest.fixture
def versioned_factory(
    disheap_registry: Registry, disheap_tables: dict[str, Any], machine_name: str
) -> Callable[[int], StateMachine]:
    """Builds the machine as the runtime does: it sets a version before it calls anything else. A `GroupKnowing` one is
    told of `GROUPS`, so that its sample commands may name them."""

    def build(version: int) -> StateMachine:
        tables = disheap_tables["machine"]
        machine = disheap_registry.build("machine", machine_name, tables, MachineContext(), "--disheap-set")
        machine.set_version(version)
        command = machine.know_groups(GROUPS) if isinstance(machine, GroupKnowing) else None
        if command is not None:
            machine.apply(0, 0, 0, command)
        return machine

    return build


@pytest.fixture
def machine_factory(machine_factory: Factory, versioned_factory: Callable[[int], StateMachine]) -> Factory:
    """Builds the machine at its highest version, which knows the most commands."""
    highest = machine_factory().versions[1]
    return lambda: versioned_factory(highest)


@pytest.fixture
def machine_commands(machine_factory: Factory) -> list[bytes]:
    """The machine's sample commands, or none if it offers none."""
    machine = machine_factory()
    return list(machine.sample_commands()) if isinstance(machine, Sampling) else []


@pytest.fixture
def machine_queries(machine_factory: Factory) -> list[bytes]:
    """The machine's sample queries if it offers any, and garbage."""
    machine = machine_factory()
    return [*(machine.sample_queries() if isinstance(machine, SamplingQueries) else ()), *GARBAGE]


def test_it_says_what_it_is(machine_factory: Factory) -> None:
    """A machine has a name, the version of the contracts, and the range of versions that it runs. It fails if one of
    them is missing, or if `versions` is not (lowest, highest)."""
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
    """Two instances with the same calls give the same replies, effects, deadlines and hashes. It fails if the machine
    uses randomness, or state that instances share."""
    first, second = machine_factory(), machine_factory()
    for index, step in enumerate(script(machine_commands, seed)):
        assert play(first, step, index) == play(second, step, index), step
        assert first.next_deadline() == second.next_deadline()
        assert first.backlog() == second.backlog()
    assert first.state_hash() == second.state_hash()


def test_another_process_gives_the_same_replies_effects_and_hash(
    machine_name: str, disheap_tables: dict[str, Any]
) -> None:
    """A process with another hash seed, clock and memory layout gives the same results. It fails if the machine
    iterates over a set in hash order, or uses `hash`, `id`, a clock or the system's entropy."""
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
    """A replica restored from a snapshot answers every later call as the original does. It fails if a part of the state
    is missing in the snapshot, or if its order is lost."""
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
    """A reply is `bytes`, and an effect is a session's number and `bytes`. It fails if the machine returns text, None
    or objects, because the runtime sends them unchanged."""
    machine = machine_factory()
    for index, step in enumerate(script(machine_commands, 7)):
        outcome = play(machine, step, index)
        if step.method in ("apply", "session_attached") and isinstance(outcome[1][1], list):
            assert isinstance(outcome[1][0], bytes), step
        for session, push in effects_of(step, outcome):
            assert isinstance(push, bytes) and session in SESSIONS, step


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hash_in_slices_is_of_one_moment_and_the_same_on_every_replica(
    machine_factory: Factory, machine_commands: list[bytes], seed: int
) -> None:
    """The slices of `hashing` show the state at the moment of the call, and are equal after a restore. It fails if the
    machine reads the live state while it makes the slices. A machine without `Hashing` is checked by its
    `state_hash`."""
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
    """Two states with one hash answer every later call alike. It fails if `state_hash` leaves out a part of the state
    that decides a reply."""
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
    """A command is refused with the same error and text at any index and time. It fails if the text contains them."""
    outcomes = []
    for index, time_ms in ((1, 1000), (7, 9000)):
        machine = machine_factory()
        outcomes.append([play(machine, Step("apply", 1, time_ms, body), index)[1] for body in GARBAGE])
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("body", GARBAGE, ids=[repr(body[:12]) for body in GARBAGE])
def test_garbage_is_refused_and_changes_nothing(
    machine_factory: Factory, machine_commands: list[bytes], body: bytes
) -> None:
    """Bytes that are not a command raise `CommandRefused` with a text, and change nothing. It fails if decoding errors
    leave the machine as another exception."""
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
    """A refused command leaves the state as it was, also for every later call. It fails if the machine changes
    something before it has checked everything."""
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
    """Queries, statistics, hashes and snapshots leave no trace. It fails if a read changes the state, for example by
    removing expired records."""
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
    """`stats` maps names to integers, and the hash has 16 bytes. It fails if a count is a float, a bool or None."""
    machine = played(machine_factory, machine_commands)
    assert all(type(name) is str and type(count) is int for name, count in machine.stats().items())
    assert len(machine.state_hash()) == HASH_BYTES


def test_a_query_answers_with_bytes_or_is_refused(
    machine_factory: Factory, machine_commands: list[bytes], machine_queries: list[bytes]
) -> None:
    """A query returns `bytes` or raises `CommandRefused` with a text, and changes nothing. It fails if a query that the
    machine cannot decode raises another error."""
    machine = played(machine_factory, machine_commands)
    before = machine.state_hash()
    for query in machine_queries:
        try:
            assert isinstance(machine.query(LATER_MS, 1, query), bytes)
        except CommandRefused as refusal:
            assert str(refusal)
    assert machine.state_hash() == before


def test_what_is_not_admitted_would_do_nothing(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """A command that a `Screening` machine does not admit would change nothing and push nothing. It fails if `admits`
    returns False for a command that has an effect, because the leader drops that command."""
    machine = machine_factory()
    for index, step in enumerate(script(machine_commands, 3)):
        play(machine, step._replace(method="advance"), index)
        refuses = isinstance(machine, Screening) and step.method == "apply" and not machine.admits(step.body)
        before = machine.state_hash()
        outcome = play(machine, step, index)
        if refuses:
            assert machine.state_hash() == before, f"{step.body!r} was not admitted, and does something"
            assert not effects_of(step, outcome)


def test_what_is_relayed_changes_nothing(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """A `Relaying` machine that was asked to relay goes on like one that was not, and its pushes are for open sessions.
    It fails if `relay` changes what a later call answers, or raises for bytes that are no command."""
    asked, other = machine_factory(), machine_factory()
    if not isinstance(asked, Relaying):
        return
    for index, step in enumerate(script(machine_commands, 3)):
        for command in (step.body, *GARBAGE):
            pushes = asked.relay(LATER_MS, command)
            assert pushes is None or all(session in SESSIONS and isinstance(body, bytes) for session, body in pushes)
        assert play(asked, step, index) == play(other, step, index), step
    assert asked.state_hash() == other.state_hash()


def test_what_a_session_has_is_told_under_the_same_names_for_all(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """The counts of a `SessionReporting` machine have the same names for every session, known or not. It fails if a
    name is missing for a session that has nothing, or if an unknown session raises."""
    machine = played(machine_factory, machine_commands)
    if not isinstance(machine, SessionReporting):
        return
    before = machine.state_hash()
    stats = [machine.session_stats(session) for session in (*SESSIONS, 999)]
    assert len({tuple(one) for one in stats}) == 1
    assert all(isinstance(count, int) for one in stats for count in one.values())
    assert machine.state_hash() == before


def test_what_is_measured_is_bounded_and_changes_nothing(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """The metrics of a `Measuring` machine have unique names and labels. Under the first label are no more names than
    `limit_series` allows, and "". `list_stats` gives no more rows than were asked for, in the order of names, so that
    the next page begins after the last name. It fails if either changes the state."""
    machine = machine_factory()
    if not isinstance(machine, Measuring):
        return
    machine.limit_series(1)
    for index, step in enumerate(script(machine_commands, 5)):
        play(machine, step._replace(method="advance"), index)
        play(machine, step, index)
    before = machine.state_hash()
    metrics = machine.metrics(0)
    assert len({metric.name for metric in metrics}) == len(metrics)
    for metric in metrics:
        labels = [sample[0] for sample in metric.samples]
        assert len(set(labels)) == len(labels) and {len(one) for one in labels} <= {len(metric.labels)}, metric.name
        assert len({one[0] for one in labels if one and one[0]}) <= 1, f"{metric.name} has more series than allowed"
        are_buckets = {isinstance(value, Buckets) for _, value in metric.samples}
        assert are_buckets <= {metric.kind == "histogram"}, metric.name
    names: list[str] = []
    matching = machine.list_stats(0, "", "", 1)[1]
    while rows := machine.list_stats(0, "", names[-1] if names else "", 1)[0]:
        assert len(rows) == 1 and json.dumps(rows)
        names.append(rows[0]["name"])
    assert len(names) == matching and names == sorted(set(names))
    prefix = names[-1][:1] if names else "a"
    rows, matching = machine.list_stats(0, prefix, "", 50)
    assert [row["name"] for row in rows] == [name for name in names if name.startswith(prefix)][:50]
    assert machine.state_hash() == before


def test_what_is_allowed_when_full_depends_on_the_command_alone(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """`allowed_when_full` gives one answer for a command in any state, and False for bytes that are not a command. It
    fails if the answer depends on the state, or if the method raises."""
    empty, machine = machine_factory(), played(machine_factory, machine_commands)
    if not isinstance(machine, AllowedWhenFull) or not isinstance(empty, AllowedWhenFull):
        return  # without the power all commands are refused then
    before = machine.state_hash()
    for body in machine_commands:
        assert machine.allowed_when_full(body) is empty.allowed_when_full(body)
    assert not any(machine.allowed_when_full(body) for body in GARBAGE), "what is no command brings something in"
    assert machine.state_hash() == before


def test_a_memory_estimate_follows_the_state(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """The estimate of a `MemoryEstimating` machine grows with the stored data, and a restore sets it anew. It fails if
    the machine counts only additions, or does not count again in `restore`."""
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
    """A session that opens, attaches, detaches and expires without a command leaves the state as it was. It fails if
    the machine keeps a record of it after `session_expired`."""
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
    """No timer, postponed work or other session's command pushes to a session after `session_expired`. It fails if the
    machine keeps a reference to the session, such as a consumer or a ticket."""
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
    """Pieces of a snapshot have at most 1 MiB, and `restore` takes the same bytes in any other pieces. It fails if the
    machine decodes piece by piece."""
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
    """A snapshot shows the state at the moment of the call, whatever is applied later. It fails if `snapshot` is a
    generator function, or if it reads live containers."""
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
    """Two snapshots at once each show their own moment. It fails if the machine keeps one copy-on-write view for
    all."""
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
    """`restore` leaves nothing of the previous state. It fails if a field is not reset, such as a timer or a
    counter."""
    empty = machine_factory()
    machine = played(machine_factory, machine_commands)
    machine.restore(list(empty.snapshot()))
    assert machine.state_hash() == empty.state_hash()
    assert machine.next_deadline() == empty.next_deadline()


def test_a_damaged_snapshot_is_refused_and_leaves_the_state(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """A snapshot that is cut, too long or empty raises `SnapshotDamaged`, and the state stays as it was. It fails if
    the machine changes fields before it has decoded everything, or ignores bytes behind the end."""
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
    """`advance` does at most `limit` units of work, and repeated calls end the backlog. It fails if one call does all
    work, or if `backlog` stays True."""
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
    """`advance` has nothing to do before `next_deadline` if there is no backlog. It fails if the machine hides a timer
    or postponed work. Then the leader of an idle cluster does not let the time pass, and the timer is late."""
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
    """A replica restored in the middle of postponed work does the rest of it in the same way. It fails if the list of
    postponed work, or its order, is missing in the snapshot."""
    machine = loaded(machine_factory, machine_commands)
    replica = restored(machine_factory, list(machine.snapshot()))
    while True:
        outcomes = [(units, list(effects)) for units, effects in (one.advance(50_000, 2) for one in (machine, replica))]
        assert outcomes[0] == outcomes[1]
        assert machine.state_hash() == replica.state_hash()
        replica = restored(machine_factory, list(machine.snapshot()))
        if not machine.backlog():
            break


# --- messages for other groups ---------------------------------------------------------------------------------------


def _waiting(machine: StateMachine) -> dict[int, list[tuple[int, bytes]]]:
    """The whole outbox, by group."""
    assert isinstance(machine, Forwarding)
    return {group: list(machine.outbox(group, 0, PLENTY)) for group in machine.waiting()}


def test_what_waits_for_other_groups_is_numbered_without_gaps(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """A `Forwarding` machine lists its messages by group, in the order of their numbers, and does not change by that.
    It fails if a number is missing, if `waiting` miscounts, or if `outbox` does not keep to `after` and `limit`."""
    machine = played(machine_factory, machine_commands)
    if not isinstance(machine, Forwarding):
        return
    before = machine.state_hash()
    targets = list(machine.waiting())
    assert targets == sorted(set(targets)) and targets, "the samples put nothing into the outbox"
    for group, waiting in _waiting(machine).items():
        numbers = [number for number, _ in waiting]
        assert numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert machine.waiting()[group] == len(numbers)
        assert all(isinstance(command, bytes) for _, command in waiting)
        for after in (numbers[0] - 1, numbers[0], numbers[-1]):
            assert list(machine.outbox(group, after, 2)) == [one for one in waiting if one[0] > after][:2]
    assert list(machine.outbox(max(targets) + 1, 0, PLENTY)) == []
    assert machine.state_hash() == before


def test_what_is_confirmed_is_forgotten_and_nothing_else(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """`forget` names a command that removes the messages up to a number. It fails if others go with them, or if the
    same command removes more when it comes again. It fails if a number is given to a second message."""
    machine = played(machine_factory, machine_commands)
    if not isinstance(machine, Forwarding):
        return
    before, last = _waiting(machine), {group: waiting[-1][0] for group, waiting in _waiting(machine).items()}
    for group, waiting in before.items():
        confirmed = waiting[0][0]
        command = machine.forget(group, confirmed)
        for _ in range(2):
            machine.apply(PLENTY, LATER_MS, 0, command)
            left = {**before, group: waiting[1:]}
            assert _waiting(machine) == {one: messages for one, messages in left.items() if messages}
        machine.apply(PLENTY, LATER_MS, 0, machine.forget(group, waiting[-1][0]))
        before = _waiting(machine)
        assert group not in before
    for index, step in enumerate(more_script(machine_commands, 1, 200, LATER_MS)):
        play(machine, step, PLENTY + index)
        for group, waiting in _waiting(machine).items():
            assert all(number > last.get(group, 0) for number, _ in waiting), "a number is used a second time"


def test_what_waits_is_in_the_snapshot_and_in_the_hash(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """A restored replica has the same outbox, and replicas with different outboxes have different hashes. It fails if
    the outbox is no part of the state: then a new leader does not send what it lacks."""
    machine = played(machine_factory, machine_commands)
    if not isinstance(machine, Forwarding):
        return
    replica = restored(machine_factory, machine.snapshot())
    assert _waiting(replica) == _waiting(machine)
    before = hashed(machine)
    group, waiting = next(iter(_waiting(machine).items()))
    machine.apply(PLENTY, LATER_MS, 0, machine.forget(group, waiting[0][0]))
    assert hashed(machine) != before, "the hash does not cover the outbox"


def test_what_waits_is_numbered_anew_for_a_new_cluster(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """`renumber` begins every way between two groups with number 1. It fails if a message that waits is lost, or if the
    old numbers go on, which the other group of a restored cluster refuses."""
    machine = played(machine_factory, machine_commands)
    if not isinstance(machine, Forwarding):
        return
    for group, waiting in _waiting(machine).items():
        machine.apply(PLENTY, LATER_MS, 0, machine.forget(group, waiting[0][0]))
    before = _waiting(machine)
    machine.renumber()
    after = _waiting(machine)
    assert {group: len(messages) for group, messages in after.items()} == {
        group: len(messages) for group, messages in before.items()
    }
    for messages in after.values():
        assert [number for number, _ in messages] == list(range(1, len(messages) + 1))


def test_a_message_is_taken_once_and_in_order(machine_factory: Factory, machine_commands: list[bytes]) -> None:
    """A machine that takes the messages of its own kind takes each once, and none before the one in front of it. It
    fails if a message that is sent again changes the state, or if one is taken although others are missing."""
    machine, target = machine_factory(), machine_factory()
    if not isinstance(machine, Forwarding):
        return
    sent: dict[int, dict[int, bytes]] = {}
    for index, step in enumerate(script(machine_commands, 2)):
        play(machine, step, index)
        for group, waiting in _waiting(machine).items():
            sent.setdefault(group, {}).update(waiting)
    messages = next(messages for messages in sent.values() if len(messages) > 2)
    try:
        target.apply(1, LATER_MS, 0, messages[1])
    except UnknownCommand:
        return  # its messages are for machines of another kind
    after_first = target.state_hash()
    reply, _ = target.apply(2, LATER_MS, 0, messages[1])
    assert isinstance(reply, bytes) and target.state_hash() == after_first, "a message that came again is taken again"
    with pytest.raises(CommandRefused):
        target.apply(3, LATER_MS, 0, messages[3])
    assert target.state_hash() == after_first, "a message is taken before the one in front of it"
    target.apply(4, LATER_MS, 0, messages[2])
    target.apply(5, LATER_MS, 0, messages[3])
    assert target.state_hash() != after_first


def test_a_machine_that_knows_groups_says_so_after_a_restart_as_well(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """`know_groups` gives a command until it was applied. It fails if a restored replica does not know the groups, or
    if a client can tell the machine of groups that are not there."""
    machine = played(machine_factory, machine_commands)
    if not isinstance(machine, GroupKnowing):
        return
    command = machine.know_groups(range(5))
    assert command is not None, "it knows what nobody has told it"
    with pytest.raises(CommandRefused):
        machine.apply(PLENTY, LATER_MS, SESSIONS[0], command)
    before = machine.state_hash()
    machine.apply(PLENTY, LATER_MS, 0, command)
    assert machine.state_hash() != before
    replica = restored(machine_factory, machine.snapshot())
    assert isinstance(replica, GroupKnowing)
    assert machine.know_groups(range(5)) is None and replica.know_groups(range(5)) is None
    assert replica.know_groups(range(4)) is not None


def test_what_it_told_other_groups_is_found_missing_in_a_state_without_it(
    machine_factory: Factory, machine_commands: list[bytes]
) -> None:
    """A `CrossChecking` machine finds what another group told it and it has not got. It fails if a state that never
    heard of it lacks nothing, if a restored state tells other things, or if looking changes a state."""
    machine, empty = played(machine_factory, machine_commands), machine_factory()
    if not isinstance(machine, CrossChecking) or not isinstance(empty, CrossChecking):
        return
    told = list(machine.told())
    assert told, "the samples tell other groups nothing"
    replica = restored(machine_factory, machine.snapshot())
    assert isinstance(replica, CrossChecking) and list(replica.told()) == told
    before = empty.state_hash()
    assert all(group in GROUPS and empty.lacks(message) for group, message in told)
    assert empty.state_hash() == before


# --- versions --------------------------------------------------------------------------------------------------------


def test_it_runs_every_version_that_it_says(
    machine_factory: Factory, versioned_factory: Callable[[int], StateMachine], machine_commands: list[bytes]
) -> None:
    """Each version from the lowest to the highest runs, and two replicas stay equal, one of them restored. It fails if
    a version is listed in `versions` and not implemented."""
    lowest, highest = machine_factory().versions
    for version in range(lowest, highest + 1):
        machine, replica = versioned_factory(version), versioned_factory(version)
        for index, step in enumerate(script(machine_commands, version, 50)):
            assert play(machine, step, index) == play(replica, step, index), step
            if index % 10 == 0:
                replica = restored(partial(versioned_factory, version), machine.snapshot(), version)
        assert machine.state_hash() == replica.state_hash()


def test_its_constants_are_whole_numbers_and_the_same_at_each_call(machine_factory: Factory) -> None:
    """A `FixedConstants` machine names constants for each of its versions, and the same ones whatever it did. It fails
    if a constant is drawn, follows the settings, or is missing for a version."""
    machine, other = machine_factory(), machine_factory()
    if not isinstance(machine, FixedConstants) or not isinstance(other, FixedConstants):
        return
    for version in range(machine.versions[0], machine.versions[1] + 1):
        named = dict(machine.constants(version))
        assert named and all(isinstance(name, str) and type(value) is int for name, value in named.items()), named
        assert named == dict(other.constants(version))


def test_a_version_below_the_lowest_is_refused(
    machine_factory: Factory, versioned_factory: Callable[[int], StateMachine]
) -> None:
    """`set_version` raises `VersionUnsupported` for a version below the lowest. It fails if the machine accepts an
    older stored state that it cannot run."""
    for version in range(1, machine_factory().versions[0]):
        with pytest.raises(VersionUnsupported):
            versioned_factory(version)
