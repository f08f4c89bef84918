"""One run: a cluster, its clients, faults, healing, progress, judgement. All of it follows from the seed, and from the
number of groups."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import nullcontext
from typing import Any

import msgspec

from disheap.plugins.registry import Registry
from disheap.testing.simulator.checks.safety import Violation
from disheap.testing.simulator.clients.client import SimulatedClient
from disheap.testing.simulator.clients.group_batches import GroupBatches
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.cluster.probes import Probes
from disheap.testing.simulator.faults.injector import FaultInjector
from disheap.testing.simulator.faults.membership_changes import MembershipChanges
from disheap.testing.simulator.faults.static_moves import StaticMoves
from disheap.testing.simulator.faults.stranger import Stranger
from disheap.testing.simulator.faults.upgrades import Upgrades
from disheap.testing.simulator.group_run import DRAIN_BOUND_S, GroupRun
from disheap.testing.simulator.liveness_checks import LivenessChecks
from disheap.testing.simulator.world.loop import Livelock
from disheap.testing.simulator.world.rng import Rng
from disheap.testing.simulator.world.trace import product_logs_in

LEADER_BOUND_S = 60.0
"""Virtual time after healing within which a leader has committed in its own term."""
ROOM_BOUND_S = 10.0
"""Each node has looked at its disk."""
SERVED_BOUND_S = 60.0
"""Each client has had an answer from the log."""
STRANGER_SEED, STRANGER_SHARE = 0x57A26E2, 0.6
"""A stranger comes in this share of the runs. Its draws are its own, so the other runs are as they would be without."""
CHANGES_SEED, CHANGES_PACE_S = 0x3E3BE25, (2.0, 5.0, 12.0)
"""The seed and the pace of changes of members. They draw from a generator of their own, too."""
MOVES_SEED, MOVES_SHARE = 0x50A110E, 0.25
"""The seed of moves of all members at once. They draw from a generator of their own, too."""
FOUNDED_SHARE = 0.25
"""In so many of the runs one node founds the cluster, and the others join it. In half of these it asks them first."""
UPGRADES_SEED, UPGRADES_SHARE, UPGRADES_PACE_S = 0x0B9A4DE, 0.4, (2.0, 5.0, 12.0)
"""Nodes are upgraded in this share of the runs. The draws are their own, likewise."""
RAISED_BOUND_S = 60.0
"""Virtual time after healing within which the version is raised, where every member runs the next release."""
SETTLED_BOUND_S = 60.0
"""Virtual time after healing within which every node that joins has its vote, and every removed one knows of it."""
KNOWN_BOUND_S = 20.0
"""Virtual time after that within which every client with a session knows where the members are."""
MACHINES = ("counter", "heap", "heap")
"""The machines of the groups, if there are three."""
HEAPS = (1, 2)
"""The groups that batches go to."""
BATCHES_SEED = 0xBA7C4E5
"""The seed of the clients that make batches over the heaps. They draw from a generator of their own, too."""
DECIDED_BOUND_S = 60.0
"""Virtual time after the last batch within which all are decided: 30 s is the timeout of one."""
LIVENESS_BOUND_S = 200.0
"""All checks have ended; each has a bound of its own."""


class Plan(msgspec.Struct, frozen=True):
    """What to simulate: the seed, and what it may not choose itself."""

    seed: int
    nodes: int = 0  # 0: the seed says how many
    groups: int = 1  # or 3, see `MACHINES`
    members_change: bool = True  # while the run lasts
    all_move: bool | None = False  # the members of a static list, at once; None: in a share of the runs
    releases_change: bool = False  # likewise, in a share of the runs
    keep_trace: bool = False


class Result(msgspec.Struct):
    """What a run found, and how much it did. `violation` is empty if all checks held."""

    seed: int
    nodes: int = 0
    violation: str = ""
    lines: list[str] = []
    digest: str = ""
    simulated_s: float = 0.0
    real_s: float = 0.0
    operations: int = 0
    failed_operations: int = 0
    by_kind: dict[str, int] = {}
    rare: dict[str, int] = {}  # how often the rarer ways through the machine were taken
    faults: dict[str, int] = {}
    entries: int = 0
    elections: int = 0
    commands: int = 0
    deliveries: int = 0
    checks: int = 0
    watched_s: float = 0.0  # how long sessions were not allowed to lapse
    steps: int = 0


class Run:
    """One simulated run from its seed."""

    def __init__(self, plan: Plan, registry: Registry) -> None:
        self.plan = plan
        rng = Rng(plan.seed)
        count = plan.nodes or rng.pick((3, 3, 3, 3, 5, 5, 1, 4))
        machines = MACHINES if plan.groups > 1 else ()
        changes_rng = Rng(plan.seed ^ CHANGES_SEED)
        is_founded, founder_asks = changes_rng.chance(FOUNDED_SHARE), changes_rng.chance(0.5)
        self.cluster = Cluster(
            rng.fork(),
            registry,
            count,
            keep_trace=plan.keep_trace,
            machines=machines,
            is_founded=plan.members_change and is_founded,
            founder_asks=founder_asks,
        )
        pace_s = rng.pick((0.1, 0.3, 0.6))
        self.parts = [self._part(group, rng, pace_s) for group in range(plan.groups)]
        self.workers: list[SimulatedClient] = [worker for part in self.parts for worker in part.workers]
        self.probes = Probes(self.cluster, rng.fork(), rng.pick((0.2, 1.0, 3.0)))
        self.cluster.on_lead = self._elected
        self.injector = FaultInjector(
            self.cluster, self.workers, self.probes, rng.fork(), rng.pick((0.5, 1.5, 4.0, 10.0))
        )
        for part in self.parts:
            part.watch_sessions()
        self.duration_s = rng.seconds(15.0, 45.0)
        self._rare: dict[str, int] = {}
        self._rng = rng
        pace_s = changes_rng.pick(CHANGES_PACE_S)
        self.changes = (
            MembershipChanges(self.cluster, self.injector, changes_rng, pace_s) if plan.members_change else None
        )
        own = Rng(plan.seed ^ UPGRADES_SEED)
        has_upgrades = plan.releases_change and own.chance(UPGRADES_SHARE)
        pace_s = own.pick(UPGRADES_PACE_S)
        self.upgrades = Upgrades(self.cluster, self.injector, own, pace_s) if has_upgrades else None
        self.injector.changes_votes = self.changes is None
        self.injector.leader_promotes = self.changes is not None
        is_in_share = Rng(plan.seed ^ MOVES_SEED).chance(MOVES_SHARE)
        moves_rng = Rng(plan.seed ^ MOVES_SEED)
        all_move = is_in_share if plan.all_move is None else plan.all_move
        self.moves = StaticMoves(self.cluster, self.injector, moves_rng) if all_move else None
        own = Rng(plan.seed ^ STRANGER_SEED)
        is_there = own.chance(STRANGER_SHARE)
        self.batches = GroupBatches(self.cluster, Rng(plan.seed ^ BATCHES_SEED), HEAPS) if plan.groups > 1 else None
        self.stranger = Stranger(self.cluster, own, own.pick((0.3, 1.0, 3.0))) if is_there else None

    def _part(self, group: int, rng: Rng, pace_s: float) -> GroupRun:
        """With two to four clients; with several groups each has fewer."""
        if self.plan.groups == 1:
            names = [f"c{number}" for number in range(1, rng.between(2, 4) + 1)]
        else:
            names = [f"g{group}c{number}" for number in range(1, rng.between(1, 2) + 1)]
        return GroupRun(self.cluster, self.cluster.groups[group], names, rng, pace_s)

    def _elected(self, host: Host, group: int) -> None:
        self.probes.ask(host, group)
        self.injector.targeted.elected(host)

    def carry_out(self) -> Result:
        """Runs the plan to its end and returns the result."""
        started = time.perf_counter()
        with product_logs_in(self.cluster.trace) if self.plan.keep_trace else nullcontext():
            violation = self._violation()
        result = self._result(violation, time.perf_counter() - started)
        self.cluster.forget()
        return result

    def _violation(self) -> str:
        cluster = self.cluster
        task = cluster.loop.create_task(self._whole())
        try:
            cluster.loop.run_until(task.done)
            task.result()
            cluster.check_errors()
            self._judge()
            cluster.trace.add("SAFETY", self._log_digest())
        except Violation as found:
            return str(found)
        except Livelock as found:
            return f"livelock: {found}"
        finally:
            cluster.loop.close()
        return ""

    async def _whole(self) -> None:
        cluster = self.cluster
        for host in cluster.hosts:
            cluster.start(host)
        for worker in self.workers:
            worker.start()
        disturbing = self.batches.start() if self.batches is not None else None
        probing = cluster.loop.create_task(self.probes.make())
        watching = [cluster.loop.create_task(part.session_liveness.watch()) for part in self.parts]
        await self._disturb()
        cluster.check_errors()
        await self._wait(self._leads, LEADER_BOUND_S, "no leader although all is healed")
        if self.changes is not None:
            await self._settle_members(self.changes)
        if self.upgrades is not None:
            await self._wait(self.upgrades.are_raised, RAISED_BOUND_S, "the version is not raised although all is new")
        if self._rng.chance(0.5):
            await asyncio.sleep(1.0)
            self.injector.targeted.half_open_all()
            healed_at = cluster.loop.now
            await self._wait(
                lambda: all(worker.served_at > healed_at for worker in self.workers),
                SERVED_BOUND_S,
                "a client is not served although all is healed",
            )
        for worker in self.workers:
            worker.stop()
        if self.batches is not None and disturbing is not None:
            disturbing.cancel()
            await self._wait(self.batches.are_over, SERVED_BOUND_S, "a batch does not end although all is healed")
            await self._wait(self.batches.are_decided, DECIDED_BOUND_S, "a batch is open although all is healed")
            self.batches.check()
        await self._drain()
        await self._wait(self._all_equal, LEADER_BOUND_S, "a node does not catch up although all is healed")
        await self._wait(self._have_room, ROOM_BOUND_S, "a node is short of room although there is some")
        probing.cancel()
        for watch in watching:
            watch.cancel()
        await self._check_liveness()
        self.probes.check()

    async def _disturb(self) -> None:
        """Faults and changes, until all is healed."""
        loop = self.cluster.loop
        if self.stranger is not None:
            self.stranger.start()
        making = [loop.create_task(one.make()) for one in (self.changes, self.moves, self.upgrades) if one]
        await self.injector.inject(self.duration_s)
        for task in making:
            task.cancel()
        if self.stranger is not None:
            self.stranger.end()
        if self.upgrades is not None:
            self.upgrades.finish()
        self.injector.heal_all()

    async def _settle_members(self, changes: MembershipChanges) -> None:
        await self._wait(changes.are_settled, SETTLED_BOUND_S, "the members do not settle although all is healed")
        changes.retire_all()
        for worker in self.workers:
            worker.follow_members()
        await self._wait(self._clients_know_members, KNOWN_BOUND_S, "a client does not know where the members are")

    async def _wait(self, holds: Any, bound_s: float, otherwise: str) -> None:
        loop = self.cluster.loop
        over_at = loop.now + bound_s
        while not holds():
            if loop.now > over_at:
                self.cluster.fail(f"{otherwise}: {self._describe_nodes()}")
            self._restart_stopped()
            await asyncio.sleep(0.1)

    def _restart_stopped(self) -> None:
        """A supervisor would."""
        self.injector.give_vote_back()
        for host in self.cluster.hosts:
            if host.state == "down":
                self.cluster.start(host)
        for worker in self.workers:
            if worker.process.frozen:
                worker.process.thaw()
            if not worker.process.alive and not worker.stopped:
                worker.start()

    def _clients_know_members(self) -> bool:
        return all(worker.knows_members() for worker in self.workers)

    def _leads(self) -> bool:
        return all(part.is_led() for part in self.parts)

    def _all_equal(self) -> bool:
        return all(part.is_equal() for part in self.parts)

    def _have_room(self) -> bool:
        """On the disks and in memory; and nobody refuses any more."""
        nodes = [host.node for host in self.cluster.hosts if host.has_group]
        watches = [replica.maintenance.disk_space.status() for node in nodes for replica in node.replicas]
        watches += [node.memory.status() for node in nodes]
        return not any(status["is_short"] or status["refuses"] for status in watches)

    def _describe_nodes(self) -> str:
        return "; ".join(
            self.cluster.in_group(part.number, self._describe(host, part.number))
            for part in self.parts
            for host in self.cluster.hosts
        )

    def _describe(self, host: Host, group: int) -> str:
        if not host.has_opened(group):
            return f"{host.name} {host.state}"
        replica = host.replica(group)
        raft = replica.group.raft
        return (
            f"{host.name} {host.state} {raft.role.value} term {raft.term} last {raft.last_index} commit "
            f"{raft.commit} applied {replica.group.applied.index}{' ambiguous' if raft.is_ambiguous else ''}"
            f" {replica.lifecycle.state.value}{' wiped' if host.wiped else ''}"
        )

    async def _check_liveness(self) -> None:
        """What a healthy cluster can do."""
        heaps = [part.number for part in self.parts if part.can_be_drained]
        group = self._rng.pick(heaps) if len(heaps) > 1 else heaps[0]
        process, transport = self.cluster.client_process("check", group)
        done = process.start(LivenessChecks(self.cluster, self._rng.fork(), group).run(transport))
        await self._wait(done.done, LIVENESS_BOUND_S, "the checks do not end")
        done.result()
        await self._wait(self._all_equal, LEADER_BOUND_S, "a node does not catch up after the checks")

    # --- the end ---

    async def _drain(self) -> None:
        cluster = self.cluster
        for part in self.parts:
            if part.can_be_drained:
                process, transport = cluster.client_process("drain", part.number)
                done = process.start(part.drain(transport, self._rng))
                await self._wait(done.done, DRAIN_BOUND_S, "the topics are not empty although all is healed")
                done.result()

    def _judge(self) -> None:
        for part in self.parts:
            for way, times in part.judge().items():
                self._rare[way] = self._rare.get(way, 0) + times

    def _log_digest(self) -> str:
        """Everything that was committed, in one word: the runs of one seed have the same log, byte by byte."""
        digest = hashlib.blake2b(digest_size=16)
        for checks in self.cluster.groups:
            for entry in checks.safety.log:
                digest.update(f"{entry.term} {entry.index} {entry.kind} {entry.time_ms} ".encode() + entry.data)
        return digest.hexdigest()

    def _result(self, violation: str, real_s: float) -> Result:
        cluster, safeties = self.cluster, [checks.safety for checks in self.cluster.groups]
        by_kind: dict[str, int] = {}
        for part in self.parts:
            for kind, times in part.promises.by_kind.items():
                by_kind[kind] = by_kind.get(kind, 0) + times
        return Result(
            seed=self.plan.seed,
            nodes=len(cluster.hosts),
            violation=violation,
            lines=list(cluster.trace.lines),
            digest=cluster.trace.digest(),
            simulated_s=cluster.loop.now,
            real_s=real_s,
            operations=sum(part.promises.operations for part in self.parts),
            failed_operations=sum(part.promises.failed for part in self.parts),
            by_kind=by_kind,
            rare=self._rare,
            faults=cluster.trace.counts,
            entries=sum(len(safety.log) for safety in safeties),
            elections=sum(safety.elections for safety in safeties),
            deliveries=sum(checks.history.deliveries for checks in cluster.groups),
            checks=sum(safety.checks for safety in safeties),
            watched_s=sum(part.session_liveness.watched_s for part in self.parts),
            steps=cluster.loop.steps,
        )


def simulate(plan: Plan, registry: Registry | None = None) -> Result:
    """Runs one plan with the installed plugins."""
    return Run(plan, registry or Registry.load()).carry_out()
