"""What goes wrong, and when: one fault after another, drawn at random, each undone after a while.

Every run draws which kinds of faults it has (swarm testing: a run with few kinds goes deeper into each).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf

from disheap.errors import RequestError
from disheap.kernel.types import Membership
from disheap.runtime.clocks.member_clocks import BELIEVED_S
from disheap.testing.simulator.clients.client import SimulatedClient
from disheap.testing.simulator.cluster.cluster import CLOCK_OFF_S, WRONG_CLOCK_S, Cluster
from disheap.testing.simulator.cluster.configs import MIN_FREE_BYTES
from disheap.testing.simulator.cluster.hosts import CHANGES, FREE_BYTES, SYNCS, Host
from disheap.testing.simulator.cluster.probes import Probes
from disheap.testing.simulator.faults.actions import FaultActions, Undo, words_of
from disheap.testing.simulator.faults.targeted import TargetedFaults
from disheap.testing.simulator.world.loop import Process
from disheap.testing.simulator.world.network import Link
from disheap.testing.simulator.world.rng import Rng

FILES_GONE_BOUND_S = 5.0
"""Within which a node notices that its files are gone; it looks once a second."""
MIN_NODES_FOR_VOTER_CHANGE = 5
"""Nodes from which on one may lose its vote: four voters still bear one that is uncertain."""


class FaultInjector(FaultActions):
    """Makes faults, and undoes each after a while."""

    def __init__(
        self, cluster: Cluster, workers: list[SimulatedClient], probes: Probes, rng: Rng, pace_s: float
    ) -> None:
        super().__init__(cluster, workers, probes, rng)
        self._pace_s = pace_s
        self._set_right_at: dict[str, float] = {}  # by host: when a wrong clock was set right
        self.changes_votes = True  # where nothing else changes the members
        self._has_changed = False  # somebody's log may hold a change of voters, committed or not
        self.targeted = TargetedFaults(self)
        self._kinds = self._choose_kinds()

    async def inject(self, duration_s: float) -> None:
        """Faults for so long. What is still broken at the end is healed by `heal_all`."""
        loop = self.cluster.loop
        over_at = loop.now + duration_s
        while loop.now < over_at:
            await asyncio.sleep(self._pace_s * self.rng.seconds(0.1, 2.0))
            if loop.now < self.calm_until:
                continue
            fault = self.rng.weighted(self._kinds)
            if len(self.cluster.hosts) > 1 or fault not in self._between_nodes():
                fault()

    def heal_all(self) -> None:
        """Everything works again, and everybody who can be started is."""
        cluster = self.cluster
        cluster.trace.add("FAULTS", "all is healed")
        self._is_over = True
        self.targeted.stop()
        cluster.network.heal_all()
        for host in cluster.hosts:
            host.faults.clear()
            cluster.give_memory(host)
            if abs(host.wall_off_s) > CLOCK_OFF_S:
                self._set_clock(host, 0.0)
            host.set_slowness(1.0)
            if host.state == "frozen":
                cluster.thaw(host)
            if host.state == "down":
                cluster.start(host)

    # --- kinds ---

    def _between_nodes(self) -> tuple[Callable[[], None], ...]:
        """Those for which there must be two nodes."""
        return self._partition, self._one_way, self._bridge, self._slow_link, self._lossy_links

    def _choose_kinds(self) -> list[tuple[Callable[[], None], int]]:
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._kill, 4),
            (self._cut_power, 4),
            (self._crash_in_a_write, 5),
            (self._stop, 2),
            (self._kill_all, 1),
            (self._freeze, 3),
            (self._partition, 4),
            (self._one_way, 3),
            (self._bridge, 1),
            (self._slow_link, 3),
            (self._lossy_links, 2),
            (self._reset, 4),
            (self._disk_error, 2),
            (self._disk_full, 1),
            (self._short_of_room, 1),
            (self._short_of_memory, 1),
            (self._slow_disk, 2),
            (self._damage, self.rng.pick((1, 6))),
            (self._rot, self.rng.pick((1, 4))),
            (self._jump_clock, 2),
            (self._change_voters, 2),
            (self._kill_client, 3),
            (self._cut_client, 3),
            (self._freeze_client, 2),
            (self._wipe, self.rng.pick((1, 3))),
            (self._remove_files, self.rng.pick((1, 3))),
            *self.targeted.kinds(),
        ]
        if len(self.cluster.hosts) == 1:
            kinds = [kind for kind in kinds if kind[0] not in self._between_nodes()]
        share = self.rng.pick((0.2, 0.5, 0.8))
        chosen = [kind for kind in kinds if self.rng.chance(share)]
        return chosen or kinds[:1]

    # --- nodes ---

    def _kill(self) -> None:
        host = self.pick_host(lambda host: host.state in ("up", "frozen"))
        if host is not None:
            self.kill(host)

    def _cut_power(self) -> None:
        host = self.pick_host(lambda host: host.state in ("up", "frozen") and self.may_lose_power(host))
        if host is not None:
            self.lose_power(host)

    def _crash_in_a_write(self) -> None:
        host = self.pick_host(lambda host: host.is_up and self.may_lose_power(host))
        if host is not None:
            self.crash_in_write(host, self.rng.below(self.rng.pick((3, 12, 60))))

    def _stop(self) -> None:
        host = self.pick_host(lambda host: host.is_up and host.has_group)
        if host is not None:
            self.record("stop", host)
            self.cluster.stop(host)
            self.later(3.0, 8.0, self.start_if_down(host))

    def _kill_all(self) -> None:
        self.record("kill all")
        for host in self.cluster.hosts:
            if host.state in ("up", "frozen"):
                self.cluster.kill(host)
                self.later(0.1, 4.0, self.start_if_down(host))

    def _freeze(self) -> None:
        """SIGSTOP, often beyond every timeout."""
        host = self.pick_host(lambda host: host.is_up)
        if host is not None:
            self.freeze(host)

    def _wipe(self) -> None:
        """After the first start: before it, a cluster starts anew, from empty directories all. Not where voters have
        changed: what is left may be a minority of those whom an uncommitted change made voters."""
        if self._has_changed or not self.have_started():
            return
        host = self.pick_host(lambda host: host.state != "lost" and self.may_lose_writes(host) and not host.wiped)
        if host is not None:
            self.record("wipe", host)
            if host.state != "down":
                self.cluster.kill(host)
                self.later(0.1, 6.0, self.start_if_down(host))
            self.cluster.wipe(host)

    def _remove_files(self) -> None:
        """rm -rf under a node that runs. It ends by itself, and confirms nothing meanwhile. One that has not opened its
        files yet makes new ones, as after `_wipe`."""
        if self._has_changed or not self.have_started():
            return
        host = self.pick_host(
            lambda host: host.is_up and host.has_group and self.may_lose_writes(host) and not host.wiped
        )
        if host is not None:
            self.record("files removed", host)
            self.cluster.remove_files(host)
            self.later(FILES_GONE_BOUND_S, FILES_GONE_BOUND_S, partial(self._check_ended, host, host.process))

    def _check_ended(self, host: Host, process: Process) -> None:
        if host.process is process and host.is_up and host.slowness == 1.0:
            self.cluster.fail(f"{host.name} goes on {FILES_GONE_BOUND_S:g} s after its files were removed")
        self.start_if_down(host)()

    def _change_voters(self) -> None:
        """A single-server change, at the kernel's level: one of five becomes a learner, or gets its vote back.
        `membership_changes` has the changes that the runtime makes."""
        if (
            not self.changes_votes
            or len(self.cluster.hosts) < MIN_NODES_FOR_VOTER_CHANGE
            or any(host.wiped for host in self.cluster.hosts)
        ):
            return
        if self.learner:
            self.give_vote_back()
            return
        host, self.learner_group = self.pick_host(lambda host: self.may_lose_writes(host)), self.pick_group()
        if host is not None and self._propose_vote(host.id, False):
            self.learner, self._has_changed = host.id, True
            self.record("vote taken", host)

    def give_vote_back(self) -> None:
        """For as long as it takes: a leader may be gone before the change is committed."""
        leader = self.cluster.leader(self.learner_group)
        if leader is None or not self.learner:
            return
        members = leader.replica(self.learner_group).group.applied.membership.members
        if any(member.id == self.learner and member.voter for member in members):
            self.learner = 0
        elif self._propose_vote(self.learner, True):
            self.record("vote given back", self.cluster.host_of(self.learner))

    def _propose_vote(self, node: int, voter: bool) -> bool:
        leader = self.cluster.leader(self.learner_group)
        if leader is None:
            return False
        group = leader.replica(self.learner_group).group
        members = group.raft.membership.members
        if any(member.id == node and member.voter == voter for member in members):
            return False
        new = tuple(member._replace(voter=voter) if member.id == node else member for member in members)
        try:
            group.raft.propose_change(Membership(new), group.now_ms())
        except RequestError as error:
            self.cluster.trace.add(leader.name, f"no change: {type(error).__name__}")
            return False
        group.tick()
        return True

    def _damage(self) -> None:
        host = self.pick_host(lambda host: host.state == "down" and self.may_lose_writes(host) and not host.wiped)
        if host is not None and self.have_started() and self.is_found(host):
            host.uncertain = True
            self.record("damage", host, self.cluster.damage(host))

    def _rot(self) -> None:
        """Under a node that runs: a scrub, or whoever reads the place next, finds it."""
        host = self.pick_host(lambda host: host.votes and self.may_lose_writes(host))
        if host is not None and self.have_started() and self.is_found(host):
            done = self.cluster.rot(host)
            if done:
                host.rotten = True
                self.record("rot", host, done)

    # --- disks and clocks ---

    def _disk_error(self) -> None:
        host = self.pick_host(lambda host: host.is_up and self.may_lose_power(host))
        if host is not None:
            host.uncertain = True
            host.faults.error_in = self.rng.below(20)
            host.faults.error_on = self.rng.pick((SYNCS, SYNCS, CHANGES))
            host.faults.only = self.pick_scope()
            kind = "fsync error" if host.faults.error_on is SYNCS else "disk error"
            self.record(kind, host, f"in {host.faults.error_in}{words_of(host.faults.only)}")
            self.later(2.0, 6.0, self._mend(host))
            if self.rng.chance(0.6):  # what the disk did not take shows only without power
                self.later(6.0, 10.0, partial(self.lose_power, host))

    def _disk_full(self) -> None:
        host = self.pick_host(lambda host: host.is_up and self.may_lose_power(host))
        if host is not None:
            host.uncertain = True
            host.faults.full = True
            host.faults.only = self.pick_scope()
            host.faults.free_bytes = 0
            self.record("disk full", host, words_of(host.faults.only))
            self.later(1.0, 6.0, self._mend(host))

    def _short_of_room(self) -> None:
        """Below the mark on some nodes, or on all."""
        hosts = [host for host in self.cluster.hosts if self.rng.chance(0.5)]
        for host in hosts:
            host.faults.free_bytes = MIN_FREE_BYTES - 1
        self.record("short of room", what=" ".join(host.name for host in hosts))

        def make_room() -> None:
            for host in hosts:
                host.faults.free_bytes = FREE_BYTES

        self.later(1.0, 10.0, make_room)

    def _short_of_memory(self) -> None:
        """Above the mark on some nodes, or on all. One is enough for the leader to refuse."""
        hosts = [host for host in self.cluster.hosts if self.rng.chance(0.5)]
        for host in hosts:
            host.memory.resident = host.config.limits.memory_high_water_bytes + 1
        self.record("short of memory", what=" ".join(host.name for host in hosts))

        def free_memory() -> None:
            for host in hosts:
                host.memory.resident = 0

        self.later(1.0, 10.0, free_memory)

    def _mend(self, host: Host) -> Undo:
        def mend() -> None:
            host.faults.clear()
            self.start_if_down(host)()

        return mend

    def _slow_disk(self) -> None:
        host = self.pick_host(lambda host: host.is_up)
        if host is not None:
            self.slow_disk(host, self.rng.pick((10.0, 100.0, 500.0)))

    def _jump_clock(self) -> None:
        """Mostly by what operators live with; sometimes by days or years, of a minority, for a while."""
        host = self.pick_host(lambda host: host.is_up)
        if host is None:
            return
        right = [one for one in self.cluster.hosts if one is not host and not self._is_wild(one)]
        if self.cluster.are_quorum(right) and self.rng.chance(0.5):
            self._set_clock(host, self.rng.pick((-WRONG_CLOCK_S, 86_400.0, WRONG_CLOCK_S, WRONG_CLOCK_S)))
            self.later(3.0, 20.0, lambda: self._set_clock(host, 0.0))
            if self.rng.chance(0.5) and host.is_up:
                self.kill(host)  # it comes back with the wrong clock
        else:
            self._set_clock(host, self.rng.seconds(-CLOCK_OFF_S, CLOCK_OFF_S))

    def _is_wild(self, host: Host) -> bool:
        """Whether the host's clock is wrong, or was so lately that others may not know better yet."""
        is_believed = self.cluster.loop.now - self._set_right_at.get(host.name, -inf) <= BELIEVED_S
        return abs(host.wall_off_s) > CLOCK_OFF_S or is_believed

    def _set_clock(self, host: Host, off_s: float) -> None:
        if abs(host.wall_off_s) > CLOCK_OFF_S:
            self._set_right_at[host.name] = self.cluster.loop.now
        self.cluster.set_clock(host, off_s)
        self.record("clock jump", host, f"{off_s:.3f} s off")

    # --- the network ---

    def _partition(self) -> None:
        """Two sides; clients may be on either."""
        names = [host.name for host in self.cluster.hosts]
        shuffled = self.rng.shuffled(names)
        split = self.rng.between(1, len(names) - 1)
        left = shuffled[:split] + [worker.name for worker in self.workers if self.rng.chance(0.3)]
        right = [name for name in shuffled if name not in left]
        self.record("partition", what=f"{sorted(left)} | {sorted(right)}")
        self.cut([pair for one in left for other in right for pair in ((one, other), (other, one))])

    def _one_way(self) -> None:
        one, other = self.rng.shuffled([host.name for host in self.cluster.hosts])[:2]
        self.record("one-way cut", what=f"{one} to {other}")
        self.cut([(one, other)])

    def _bridge(self) -> None:
        """One node hears everybody, the others only it (or their own half)."""
        middle, *rest = self.rng.shuffled([host.name for host in self.cluster.hosts])
        half = len(rest) // 2 or 1
        self.record("bridge", what=f"{middle} between {sorted(rest[:half])} and {sorted(rest[half:])}")
        self.cut([pair for one in rest[:half] for other in rest[half:] for pair in ((one, other), (other, one))])

    def _slow_link(self) -> None:
        one, other = self.rng.shuffled([host.name for host in self.cluster.hosts])[:2]
        link = self.cluster.network.link(one, other)
        link.least, link.most = 0.01, self.rng.pick((0.1, 0.5, 2.0))
        self.record("slow link", what=f"{one} to {other}, up to {link.most:g} s")

        def heal() -> None:
            link.least, link.most = Link().least, Link().most

        self.later(1.0, 8.0, heal)

    def _lossy_links(self) -> None:
        names = [host.name for host in self.cluster.hosts]
        drop, double, reorder = (self.rng.pick((0.0, 0.02, 0.1)) for _ in range(3))
        self.record("lossy links", what=f"drop {drop:g}, double {double:g}, reorder {reorder:g}")
        links = [self.cluster.network.link(one, other) for one in names for other in names if one != other]
        for link in links:
            link.drop, link.double, link.reorder = drop, double, reorder

        def heal() -> None:
            for link in links:
                link.drop = link.double = link.reorder = 0.0

        self.later(1.0, 8.0, heal)

    def _reset(self) -> None:
        connections = self.cluster.network.connections()
        if connections:
            end = self.rng.pick(connections)
            self.record("reset", what=f"{end.host} and {end.other.host}")
            self.cluster.network.break_connection(end)

    # --- clients ---

    def _kill_client(self) -> None:
        worker = self.rng.pick(self.workers)
        if worker.process.alive and not worker.process.frozen:
            self.cluster.trace.fault("kill client", worker.name)
            worker.kill()

            def start() -> None:
                if not worker.process.alive:
                    worker.start()

            self.later(0.1, 3.0, start)

    def _cut_client(self) -> None:
        worker = self.rng.pick(self.workers)
        hosts = [host.name for host in self.cluster.hosts if self.rng.chance(0.7)]
        self.cluster.trace.fault("cut client", worker.name, " ".join(hosts))
        pairs = [pair for host in hosts for pair in ((worker.name, host), (host, worker.name)) if self.rng.chance(0.8)]
        self.cut(pairs)

    def _freeze_client(self) -> None:
        worker = self.rng.pick(self.workers)
        process = worker.process
        if process.alive and not process.frozen:
            self.cluster.trace.fault("freeze client", worker.name)
            process.freeze()

            def thaw() -> None:
                if process.alive and process.frozen:
                    process.thaw()

            self.later(0.5, 10.0, thaw)
