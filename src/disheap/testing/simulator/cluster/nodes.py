"""The real node, wired to a simulated machine and watched by the safety checker.

Nothing of the product is replaced. Its plugins are built here with a simulated filesystem and transport. The few places
where a step ends are wrapped so that the checker can look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from disheap.config.node_config import NodeConfig
from disheap.errors import RequestError
from disheap.interfaces import Identity, Recovered
from disheap.kernel.types import Entry, HardState, Index, Membership, Message, SnapshotMeta
from disheap.plugins.registry import Registry
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.memory.process import MemorySource
from disheap.runtime.replica.group import Group
from disheap.runtime.replica.lifecycle import State
from disheap.runtime.replica.recovery import Found
from disheap.runtime.shared import ReplicaNode, Shared
from disheap.runtime.state.sessions import Sessions
from disheap.testing.counter import CounterMachine
from disheap.testing.inspected import InspectedMember
from disheap.testing.simulator.checks.messages import MessageChecker
from disheap.testing.simulator.checks.safety import SafetyChecker, Watched
from disheap.testing.simulator.world.disk import SimDisk
from disheap.testing.simulator.world.filesystem import SimFilesystem
from disheap.testing.simulator.world.loop import EPOCH_S, Process
from disheap.testing.simulator.world.network import SimTransport
from disheap.testing.simulator.world.rng import Rng

HASH_EVERY = 8
"""Entries between two looks at the state's hash."""


class SimClock:
    """A process's clock, and a wall clock that may be wrong."""

    def __init__(self, process: Process) -> None:
        self.wall_off_s = 0.0
        self._process = process

    def monotonic(self) -> float:
        """Seconds by the clock of the process, which may run fast or slow."""
        return self._process.clock()

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, by the wall clock of the host, which may be wrong."""
        return int((EPOCH_S + self._process.clock() - self._process.skew_s + self.wall_off_s) * 1000)


PARTS: dict[tuple[str, str], type[Any]] = {("transport", "sim"): SimTransport, ("machine", "counter"): CounterMachine}
"""What no distribution installs."""


class SimRegistry(Registry):
    """The installed plugins, with what touches the outside replaced by what is given here."""

    def __init__(
        self,
        installed: Registry,
        made: dict[tuple[str, str], Callable[[Any, Any], Any]],
        replaced: dict[tuple[str, str], type[Any]],
    ) -> None:
        super().__init__()
        self._installed = installed
        self._made = made
        self._replaced = {**PARTS, **replaced}

    def get(self, kind: str, name: str) -> type[Any]:
        """The simulated transport, the tests' counter, a plugin of another release, or an installed one."""
        return self._replaced.get((kind, name)) or self._installed.get(kind, name)

    def build(self, kind: str, name: str, tables: Any, context: Any, origin: str = "the simulation") -> Any:
        """Builds a plugin. The simulation makes the parts that it replaces."""
        make = self._made.get((kind, name))
        if make is None:
            return super().build(kind, name, tables, context, origin)
        return make(self.settings(kind, name, tables.get(name, {}), origin), context)


def watched_storage(file_storage: type[Any]) -> type[Any]:
    """The storage class, telling the safety checker what is durable.

    Built as `cls(settings, context, filesystem, safety)`.
    """

    class WatchedStorage(file_storage):  # type: ignore[misc]
        def __init__(self, settings: Any, context: Any, filesystem: SimFilesystem, safety: SafetyChecker) -> None:
            super().__init__(settings, context, filesystem)
            self._safety = safety
            self._node: int

        def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
            self._node = identity.node_id
            found: Recovered = super().open(identity, tail_bytes, alone)
            self._safety.recovered(self._node, found)
            return found

        def save_hard_state(self, state: HardState) -> None:
            self._safety.saving(self._node, state)
            super().save_hard_state(state)
            self._safety.saved(self._node, state)

        def append(self, entries: Sequence[Entry]) -> None:
            self._safety.appending(self._node, entries)
            super().append(entries)
            self._safety.appended(self._node, entries)

        def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
            entries: tuple[Entry, ...] = super().read(first, last, max_bytes)
            self._safety.read(self._node, entries)
            return entries

        def mend(self, entries: Sequence[Entry]) -> None:
            self._safety.read(self._node, entries)
            super().mend(entries)

        def cut(self, first: Index) -> None:
            self._safety.cutting(self._node, first)
            super().cut(first)
            self._safety.cut(self._node, first)

        def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> Any:
            writer = super().begin_snapshot(meta, replaces_log)
            commit = writer.commit

            def committed() -> None:
                if replaces_log:
                    self._safety.installing(self._node, meta)
                commit()
                if replaces_log:
                    self._safety.installed(self._node, meta)
                else:
                    self._safety.snapshot_taken(self._node, meta)

            writer.commit = committed
            return writer

        def compact(self, first_index: Index) -> Index:
            self._safety.compacting(self._node, first_index)
            kept: Index = super().compact(first_index)
            return kept

        def clear_ambiguity(self) -> None:
            self._safety.ambiguity_ends(self._node)
            super().clear_ambiguity()

    return WatchedStorage


class Watches(NamedTuple):
    """Who sees the steps of a node's replicas. `said` and `elected` are told the number of the group."""

    safety: tuple[SafetyChecker, ...]  # by group
    said: Callable[[int, str], None]  # what is worth a line of the trace
    elected: Callable[[int], None]
    named: Callable[[int], None]  # told the id of the node, when it knows that


class SimNode(InspectedMember):
    """`disks` has one for each group."""

    def __init__(
        self,
        config: NodeConfig,
        registry: Registry,
        clock: SimClock,
        rng: Rng,
        disks: Sequence[SimDisk],
        watches: Watches,
        memory: MemorySource,
    ) -> None:
        replicas_disks = iter(disks)  # replicas are made in the order of their numbers
        super().__init__(
            config,
            registry=registry,
            clock=clock,
            random_generator=rng.generator,
            entropy=rng.generator.randbytes,
            disk=lambda _: next(replicas_disks),
            memory=memory,
        )
        self._watches = watches

    def _make_replica(self, group: int) -> Replica:
        return SimReplica(group, self, self._shared(), self._watches)


class SimReplica(Replica):
    """A replica whose steps its group's safety checker sees."""

    def __init__(self, number: int, node: ReplicaNode, shared: Shared, watches: Watches) -> None:
        self._id = int(shared.own)
        watches.named(self._id)
        self._safety = watches.safety[number]
        self._said = partial(watches.said, number)
        self._elected = partial(watches.elected, number)
        self._watched: Watched
        super().__init__(number, node, shared)

    def _make_group(self, found: Found) -> Group:
        group = super()._make_group(found)
        config = group.raft._state.config
        message_checker = MessageChecker(self._id, group.raft, config.election_ticks, self._safety.require)
        self._watched = Watched(self._id, group.raft, message_checker)
        self._watch(group, found)
        if self._id % 2 == 0:
            group.applier.slice_s = 0.0  # every pause that there can be
        return group

    def _lifecycle_changed(self, before: State, now: State) -> None:
        self._said(f"{before.value} -> {now.value}")
        if now is State.RUNNING:
            self._safety.takes_part(self._id)

    def _watch(self, group: Group, found: Found) -> None:
        pump, apply, safety = group._pump, group._apply, self._safety

        def watched_pump() -> None:
            pump()
            safety.check_kernel(self._watched)

        def watched_apply(entries: tuple[Entry, ...]) -> None:
            safety.applied(self._watched, entries, group.applied.index)
            apply(entries)

        group._pump = watched_pump  # type: ignore[method-assign]
        group._apply = watched_apply  # type: ignore[method-assign]
        self._watch_submissions(group)
        self._watch_changes(group)
        self._watch_snapshots(group, found)
        self._watch_messages(group, self._watched.message_checker)

    def _watch_submissions(self, group: Group) -> None:
        submit = group.submit

        def watched_submit(envelopes: bytes) -> None:
            self._safety.submits(self._id, int(group.raft.term), envelopes)
            submit(envelopes)

        group.submit = watched_submit  # type: ignore[method-assign]

    def _watch_changes(self, group: Group) -> None:
        """What an answer has committed since the last pump is judged by the voters of that moment. It is committed, so
        the leader may change the voters before the next pump."""
        change_members = group.proposals.change_members

        def watched_change_members(members: Membership) -> Index:
            self._safety.check_kernel(self._watched)
            return change_members(members)

        group.proposals.change_members = watched_change_members  # type: ignore[method-assign]

    def _watch_messages(self, group: Group, message_checker: MessageChecker) -> None:
        step, tick = group.step, group.tick

        def watched_step(message: Message) -> None:
            before = message_checker.before(message)
            step(message)
            if group.is_running:
                message_checker.after(message, before, self._safety.sound_model(int(message.source)))

        def watched_tick() -> None:
            tick()
            if group.is_running:
                message_checker.ticked()

        group.step = watched_step  # type: ignore[method-assign]
        group.tick = watched_tick  # type: ignore[method-assign]

    def _watch_snapshots(self, group: Group, found: Found) -> None:
        """What is restored, from whoever's snapshot, is what was there when the snapshot was taken."""
        take, installed = group.snapshotter.take, group.snapshotter.installed

        def hashed() -> None:
            self._safety.hashed(self._id, group.applied.index, group.sessions.state_hash())

        def watched_take() -> None:
            if not group.snapshotter.running and not group.applier.is_midway:
                hashed()
            take()

        def watched_installed(meta: SnapshotMeta) -> None:
            installed(meta)
            hashed()

        group.snapshotter.take = watched_take  # type: ignore[method-assign]
        group.snapshotter.installed = watched_installed  # type: ignore[method-assign]
        if not found.needs_repair:
            hashed()

    def _fresh_sessions(self) -> Sessions:
        sessions = super()._fresh_sessions()
        applying, safety, node = sessions.applying, self._safety, self._id

        def watched_applying(entry: Entry) -> Iterator[None]:
            yield from applying(entry)
            if entry.index % HASH_EVERY == 0:
                safety.hashed(node, entry.index, sessions.state_hash())
                if entry.index not in safety.tables:
                    rows = sessions.table.items()
                    safety.tables[entry.index] = {one: (row.confirmed, sorted(row.replies)) for one, row in rows}

        sessions.applying = watched_applying  # type: ignore[method-assign]
        return sessions

    def refuse(self, kind: type[RequestError], reason: RequestError | None, takes_transient: bool) -> None:
        """Checks that a replica whose node is short of space or memory does refuse messages."""
        super().refuse(kind, reason, takes_transient)
        refuses = self.server.short is not None
        self._safety.require(refuses or reason is None, f"{self.name} takes messages although {reason}")

    def quarantine(self, reason: str) -> None:
        """Fails the run: no node may differ from the others, unless somebody spoilt its state."""
        is_spoilt = self._id in self._safety.spoilt_states
        self._safety.require(is_spoilt, f"{self.name} puts itself in quarantine: {reason}")
        super().quarantine(reason)

    def _send(self, message: Message) -> None:
        self._safety.sent(self._id, message)
        super()._send(message)

    def _on_lead(self, leads: bool) -> None:
        self._said(f"{'leads' if leads else 'leads no more'}, term {self.group.raft.term}")
        super()._on_lead(leads)
        if leads:
            self._elected()
