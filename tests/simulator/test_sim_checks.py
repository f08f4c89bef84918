"""The checks are worth something: bugs put into the product on purpose are found, each within a few seeds.

Each bug is a function replaced by a wrong one. The catalogue of all bugs, class by class, is `tests/mutants`; these few
hold each kind of check to account.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import disheap_filelog.segments.segment
import disheap_filelog.small_files.meta
import disheap_heap.delivery.leases
import disheap_heap.delivery.returning
from disheap.client.core.keepalive import KeepAlive, Verdict
from disheap.client.core.session import Session as ClientSession
from disheap.client.core.session import State as ClientState
from disheap.kernel.raft import Raft
from disheap.kernel.state import State
from disheap.kernel.types import NOBODY, HardState, Index, Role, SnapshotMeta, Term
from disheap.plugins.registry import Registry
from disheap.protocol.proofs import Transcript
from disheap.runtime.replica.group import Group
from disheap.runtime.replica.reads import Reads
from disheap.runtime.state.session_table import Session
from disheap.runtime.state.sessions import Sessions
from disheap.testing.simulator.checks.membership import MembershipChecks
from disheap.testing.simulator.cluster.nodes import SimReplica
from disheap.testing.simulator.liveness_checks import LivenessChecks
from disheap.testing.simulator.run import Plan, simulate
from tests.kernel.harness import blank, config, group

SEEDS = range(1, 81)
"""More than any of these bugs needs; most need three."""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load()


def found(registry: Registry, first: int = SEEDS[0]) -> str:
    """What the first seed from `first` on that has a violation says, or ""."""
    for seed in range(first, SEEDS[-1] + 1):
        violation = simulate(Plan(seed), registry).violation
        if violation:
            return violation
    return ""


def test_messages_sent_before_the_write_is_durable(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    start_write = Group._write

    def too_early(self: Group, write: Any, held: Any, *rest: Any) -> None:
        for message in held:
            self._send(message)
        start_write(self, write, (), *rest)

    monkeypatch.setattr(Group, "_write", too_early)
    assert "before it is durable" in found(registry)


def test_a_log_that_is_not_synced(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    append = disheap_filelog.segments.segment.Segment.append

    class Unsynced:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def sync(self) -> None: ...

    def lazy(self: Any, *arguments: Any) -> Any:
        file, self._file = self._file, Unsynced(self._file)
        try:
            return append(self, *arguments)
        finally:
            self._file = file

    monkeypatch.setattr(disheap_filelog.segments.segment.Segment, "append", lazy)
    assert found(registry)


def test_a_vote_that_is_not_saved(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: Any, state: HardState) -> None:
        self.state = self.state._replace(hard_state=state)

    monkeypatch.setattr(disheap_filelog.small_files.meta.Meta, "save_hard_state", forget)
    assert "comes back with" in found(registry)


def test_a_vote_forgotten_within_its_term(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 3."""

    def become_follower(self: State, term: Any, leader: Any) -> None:
        self.outbox.set_hard_state(term, NOBODY)
        self._leave_role()
        self.role, self.leader = Role.FOLLOWER, leader
        self.restart_timer()

    monkeypatch.setattr(State, "become_follower", become_follower)
    assert "vote" in found(registry)


def test_reads_without_a_quorum(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 16."""

    def at_once(self: Reads) -> None:
        answers, self._new = self._new, []
        for answer in answers:
            answer(True)

    monkeypatch.setattr(Reads, "ask", at_once)
    assert "stale read" in found(registry)


def test_commands_carried_out_twice(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = Sessions._execute

    def forgetful(self: Sessions, session: Session, index: int, time_ms: int, seq: int, body: bytes) -> Any:
        done = execute(self, session, index, time_ms, seq, body)
        session.replies.pop(seq, None)
        return done

    monkeypatch.setattr(Sessions, "_execute", forgetful)
    assert found(registry)


def test_a_snapshot_of_live_state(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 29: the view is taken when the first piece is asked for."""
    snapshot = Sessions.snapshot

    def late(self: Sessions) -> Iterator[bytes]:
        yield from snapshot(self)

    monkeypatch.setattr(Sessions, "snapshot", late)
    assert "another state after entry" in found(registry, first=23)  # those before have no entry at that moment


def test_acks_of_an_older_epoch(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = disheap_heap.delivery.leases

    def careless(state: Any, session: int, token: Any) -> bytes:
        lease = state.leases.get(token[0])
        if lease is None or lease.consumer.session.number != session:
            return leases.encode(leases.Settled(0, [token]))
        topic = leases.release_lease(state, lease)
        state.message_bytes -= len(lease.message.body)
        leases.serve(state, topic)
        return leases.SETTLED_ONE

    monkeypatch.setattr(leases, "_ack_one", careless)
    assert found(registry)


def test_messages_that_come_back_to_another_place(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ready = disheap_heap.delivery.returning.make_ready

    def at_the_back(state: Any, topic: Any, message: Any) -> None:
        rank = max(message.rank - 1, -(1 << 63) + 1)  # else it is a number that cannot be sent, and found for that
        make_ready(state, topic, message._replace(rank=rank) if message.attempts else message)

    monkeypatch.setattr(disheap_heap.delivery.returning, "make_ready", at_the_back)
    assert "not Deliver" in found(registry) or "was answered" in found(registry)


def test_a_client_that_repeats_a_command_under_a_new_number(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = ClientSession._become_ready

    def anew(self: ClientSession, event: Any, events: Any) -> None:
        if self.state is not ClientState.READY and event.resumed and self._commands:
            seq, command = next(iter(self._commands.items()))
            del self._commands[seq]
            self._commands[self._next_seq] = command
            self._next_seq += 1
        go(self, event, events)

    monkeypatch.setattr(ClientSession, "_become_ready", anew)
    assert found(registry)


def test_a_session_that_lapses_while_a_majority_is_in_reach(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that pings nobody. The checks would see it, too; here nothing but the client's own life is left."""

    async def no_liveness_checks(self: LivenessChecks, transport: Any) -> None: ...

    monkeypatch.setattr(KeepAlive, "check", lambda self, now: Verdict.FINE)
    monkeypatch.setattr(LivenessChecks, "run", no_liveness_checks)
    assert "had a majority in reach" in found(registry, first=14)  # those before cut no idle client off for so long


def test_a_stranger_that_needs_no_proof(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transcript, "check", lambda self, part, frame: None)
    assert "welcomes a stranger" in found(registry)


def test_a_snapshot_is_not_taken_for_a_change_of_the_members() -> None:
    """A kernel that begins with a snapshot knows its oldest membership by the snapshot's index."""

    def require(holds: bool, what: str) -> None:
        assert holds, what

    three = group([1, 2, 3])
    snapshot = SnapshotMeta(Index(3), Term(1), 0, three)
    restored = blank(three, snapshot=snapshot, first_index=Index(4), last_index=Index(3))
    checks = MembershipChecks(three, {3: (1, 1)}, require)
    assert checks.voters_in_force(Raft(config(2), restored, random.Random(1))) == (1, 2, 3)
    assert checks.number == 0


def test_a_commit_is_judged_by_the_voters_before_the_next_change() -> None:
    """An answer has committed an entry, and the leader changes the voters before the pump, after which checks look."""
    seen: list[str] = []
    replica = SimpleNamespace(_safety=SimpleNamespace(check_kernel=seen.append), _watched="the leader")
    proposals = SimpleNamespace(change_members=seen.append)
    SimReplica._watch_changes(replica, SimpleNamespace(proposals=proposals))  # type: ignore[arg-type]
    proposals.change_members("the change")
    assert seen == ["the leader", "the change"]
