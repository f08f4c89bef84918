"""What goes wrong, and when: one fault after another from the dice, each undone after a while.

Every run draws which kinds of faults it has (swarm testing: a run with few kinds goes deeper into each). One bound is
kept: hosts that may have lost part of their newest writes, or all of their data, are a minority. Beyond it a cluster
has to wait for people, and rightly makes no progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from disheap.errors import RequestError
from disheap.kernel.types import Membership
from disheap.testing.simulator.ambushes import Ambushes
from disheap.testing.simulator.cluster import (
    CHANGES,
    CLOCK_OFF_S,
    MIN_FREE_BYTES,
    PLENTY_BYTES,
    SYNCS,
    WILD_S,
    Cluster,
    Host,
)
from disheap.testing.simulator.dice import Dice
from disheap.testing.simulator.loop import Process
from disheap.testing.simulator.network import Link
from disheap.testing.simulator.probes import Probes
from disheap.testing.simulator.workload import Worker

Undo = Callable[[], None]

GONE_S = 5.0
"""Within which a node notices that its files are gone; it looks once a second."""
CHANGEABLE = 5
"""Nodes from which on one may lose its vote: four voters still bear one that is uncertain."""


class Mischief:
    """Makes faults, and undoes each after a while."""

    def __init__(self, cluster: Cluster, workers: list[Worker], probes: Probes, dice: Dice, pace_s: float) -> None:
        self.cluster = cluster
        self.probes = probes
        self.workers = workers
        self.dice = dice
        self._pace_s = pace_s
        self.learner = 0  # the one whose vote was taken, and may not be back
        self._has_changed = False  # somebody's log may hold a change of voters, committed or not
        self._is_over = False
        self.ambushes = Ambushes(self)
        self._kinds = self._choose_kinds()

    async def make(self, duration_s: float) -> None:
        """Faults for so long. What is still broken at the end is healed by `heal_all`."""
        loop = self.cluster.loop
        over_at = loop.now + duration_s
        while loop.now < over_at:
            await asyncio.sleep(self._pace_s * self.dice.seconds(0.1, 2.0))
            fault = self.dice.weighted(self._kinds)
            fault()

    def heal_all(self) -> None:
        """Everything works again, and everybody who can be started is."""
        cluster = self.cluster
        cluster.trace.add("FAULTS", "all is healed")
        self._is_over = True
        self.ambushes.over()
        cluster.network.heal_all()
        for host in cluster.hosts:
            host.faults.clear()
            cluster.give_memory(host)
            if abs(host.wall_off_s) > CLOCK_OFF_S:
                self._set_clock(host, 0.0)
            self._set_slowness(host, 1.0)
            if host.state == "frozen":
                cluster.thaw(host)
            if host.state == "down":
                cluster.start(host)

    # --- kinds ---

    def _choose_kinds(self) -> list[tuple[Callable[[], None], int]]:
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._kill, 4),
            (self._cut_power, 4),
            (self._die_writing, 5),
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
            (self._damage, self.dice.pick((1, 6))),
            (self._rot, self.dice.pick((1, 4))),
            (self._jump_clock, 2),
            (self._change_voters, 2),
            (self._kill_client, 3),
            (self._cut_client, 3),
            (self._freeze_client, 2),
            (self._wipe, self.dice.pick((1, 3))),
            (self._remove_files, self.dice.pick((1, 3))),
            *self.ambushes.kinds(),
        ]
        if len(self.cluster.hosts) == 1:
            between_nodes = (self._partition, self._one_way, self._bridge, self._slow_link, self._lossy_links)
            kinds = [kind for kind in kinds if kind[0] not in between_nodes]
        share = self.dice.pick((0.2, 0.5, 0.8))
        chosen = [kind for kind in kinds if self.dice.chance(share)]
        return chosen or kinds[:1]

    def later(self, least_s: float, most_s: float, undo: Undo) -> None:
        """Calls `undo` after a random time between `least_s` and `most_s`."""
        loop = self.cluster.loop
        loop.at(loop.now + self.dice.seconds(least_s, most_s), undo, ())

    def said(self, kind: str, host: Host | None = None, what: str = "") -> None:
        """Writes a fault into the trace and counts it."""
        self.cluster.trace.fault(kind, host.name if host else "FAULTS", what)

    def some(self, fits: Callable[[Host], bool]) -> Host | None:
        """Often the leader, which has most to lose."""
        leader = self.cluster.leader()
        if leader is not None and fits(leader) and self.dice.chance(0.4):
            return leader
        fitting = [host for host in self.cluster.hosts if fits(host)]
        return self.dice.pick(fitting) if fitting else None

    def may_lose_writes(self, host: Host) -> bool:
        """Whether the others are a majority that votes and is certain of its logs, counting those that are only
        down."""
        certain = [one for one in self.cluster.hosts if one is not host and self._counts(one)]
        return len(certain) >= self.cluster.majority

    def may_lose_power(self, host: Host) -> bool:
        """Likewise; and a node that is alone knows that what was torn was never acknowledged."""
        return len(self.cluster.hosts) == 1 or self.may_lose_writes(host)

    def _counts(self, host: Host) -> bool:
        is_gone = host.wiped or host.rotten or host.state == "lost" or host.number == self.learner
        return not is_gone and not self._is_uncertain(host)

    def _is_uncertain(self, host: Host) -> bool:
        if host.uncertain and host.votes and not host.faults.are_due:
            host.uncertain = host.has_lost_a_copy = False
        return host.uncertain

    # --- nodes ---

    def starting(self, host: Host) -> Undo:
        """A call that starts the host if it is down by then."""

        def start() -> None:
            if host.state == "down":
                self.cluster.start(host)

        return start

    def _kill(self) -> None:
        host = self.some(lambda host: host.state in ("up", "frozen"))
        if host is not None:
            self.kill(host)

    def kill(self, host: Host) -> None:
        """Kills a host as SIGKILL does, and starts it again later."""
        self.said("kill", host)
        self.cluster.kill(host)
        self.later(0.05, 6.0, self.starting(host))

    def _cut_power(self) -> None:
        host = self.some(lambda host: host.state in ("up", "frozen") and self.may_lose_power(host))
        if host is not None:
            self.lose_power(host)

    def _die_writing(self) -> None:
        host = self.some(lambda host: host.is_up and self.may_lose_power(host))
        if host is not None:
            self.dies_writing(host, self.dice.below(self.dice.pick((3, 12, 60))))

    def dies_writing(self, host: Host, in_operations: int, near: str = "") -> None:
        """`near`: counted from the first operation on such a path."""
        host.uncertain = True
        host.cut_power_on_crash = self.dice.chance(0.6)
        host.faults.crash_in, host.faults.crash_near = in_operations, near
        self.said("crash in a write", host, f"in {in_operations} {near}, power {host.cut_power_on_crash}")
        self.later(2.0, 8.0, self.starting(host))

    def _stop(self) -> None:
        host = self.some(lambda host: host.is_up and host.has_group)
        if host is not None:
            self.said("stop", host)
            self.cluster.stop(host)
            self.later(3.0, 8.0, self.starting(host))

    def _kill_all(self) -> None:
        self.said("kill all")
        for host in self.cluster.hosts:
            if host.state in ("up", "frozen"):
                self.cluster.kill(host)
                self.later(0.1, 4.0, self.starting(host))

    def _freeze(self) -> None:
        """SIGSTOP, often beyond every timeout."""
        host = self.some(lambda host: host.is_up)
        if host is not None:
            self.freeze(host)

    def freeze(self, host: Host) -> None:
        """Stops a host as SIGSTOP does, and lets it go on later."""
        self.said("freeze", host)
        process = host.process
        self.cluster.freeze(host)
        if host.has_group:  # else it still starts
            self.probes.ask(host)  # the first that it sees when it goes on, whoever leads by then

        def thaw() -> None:
            if host.process is process and host.state == "frozen":
                self.cluster.say(host, "goes on")
                self.cluster.thaw(host)

        self.later(0.2, 12.0, thaw)

    def _wipe(self) -> None:
        """After the first start: before it, a cluster starts anew, from empty directories all. Not where voters have
        changed: what is left may be a minority of those whom an uncommitted change made voters."""
        if self._has_changed or not self.have_started():
            return
        host = self.some(lambda host: host.state != "lost" and self.may_lose_writes(host) and not host.wiped)
        if host is not None:
            self.said("wipe", host)
            if host.state != "down":
                self.cluster.kill(host)
                self.later(0.1, 6.0, self.starting(host))
            self.cluster.wipe(host)

    def _remove_files(self) -> None:
        """rm -rf under a node that runs. It ends by itself, and confirms nothing meanwhile."""
        if self._has_changed or not self.have_started():
            return
        host = self.some(lambda host: host.is_up and self.may_lose_writes(host) and not host.wiped)
        if host is not None:
            self.said("files removed", host)
            self.cluster.remove_files(host)
            self.later(GONE_S, GONE_S, partial(self._check_ended, host, host.process))

    def _check_ended(self, host: Host, process: Process) -> None:
        if host.process is process and host.is_up and host.slowness == 1.0:
            self.cluster.fail(f"{host.name} goes on {GONE_S:g} s after its files were removed")
        self.starting(host)()

    def have_started(self) -> bool:
        """Whether every node has taken part. Before it has, a member that is lost for good keeps them all waiting."""
        for host in self.cluster.hosts:
            if host.has_group and host.node.maintenance.incarnation_check.takes_part:
                host.has_taken_part = True
        return all(host.has_taken_part for host in self.cluster.hosts)

    def _change_voters(self) -> None:
        """A single-server change, at the kernel's level: one of five becomes a learner, or gets its vote back. Joining
        and leaving at run time have their place here."""
        if len(self.cluster.hosts) < CHANGEABLE or any(host.wiped for host in self.cluster.hosts):
            return
        if self.learner:
            self.give_vote_back()
            return
        host = self.some(lambda host: self.may_lose_writes(host))
        if host is not None and self._propose_vote(host.number, False):
            self.learner, self._has_changed = host.number, True
            self.said("vote taken", host)

    def give_vote_back(self) -> None:
        """For as long as it takes: a leader may be gone before the change is committed."""
        leader = self.cluster.leader()
        if leader is None or not self.learner:
            return
        members = leader.node.group.applied.membership.members
        if any(member.id == self.learner and member.voter for member in members):
            self.learner = 0
        elif self._propose_vote(self.learner, True):
            self.said("vote given back", self.cluster.hosts[self.learner - 1])

    def _propose_vote(self, node: int, voter: bool) -> bool:
        leader = self.cluster.leader()
        if leader is None:
            return False
        group = leader.node.group
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
        host = self.some(lambda host: host.state == "down" and self.may_lose_writes(host) and not host.wiped)
        if host is not None and self.have_started():
            host.uncertain = True
            self.said("damage", host, self.cluster.damage(host))

    def _rot(self) -> None:
        """Under a node that runs: a scrub, or whoever reads the place next, finds it."""
        host = self.some(lambda host: host.votes and self.may_lose_writes(host))
        if host is not None and self.have_started():
            done = self.cluster.rot(host)
            if done:
                host.rotten = True
                self.said("rot", host, done)

    # --- disks and clocks ---

    def _disk_error(self) -> None:
        host = self.some(lambda host: host.is_up and self.may_lose_power(host))
        if host is not None:
            host.uncertain = True
            host.faults.error_in = self.dice.below(20)
            host.faults.error_on = self.dice.pick((SYNCS, SYNCS, CHANGES))
            kind = "fsync error" if host.faults.error_on is SYNCS else "disk error"
            self.said(kind, host, f"in {host.faults.error_in}")
            self.later(2.0, 6.0, self._mend(host))
            if self.dice.chance(0.6):  # what the disk did not take shows only without power
                self.later(6.0, 10.0, partial(self.lose_power, host))

    def lose_power(self, host: Host) -> None:
        """Cuts a host's power, if a minority only may then have lost data, and starts it again later."""
        if host.state in ("up", "frozen") and self.may_lose_power(host) and not self._is_over:
            self.said("power cut", host)
            host.uncertain = True
            self.cluster.kill(host, power=True)
            self.later(0.5, 6.0, self.starting(host))

    def _disk_full(self) -> None:
        host = self.some(lambda host: host.is_up and self.may_lose_power(host))
        if host is not None:
            host.uncertain = True
            host.faults.full = True
            host.faults.free_bytes = 0
            self.said("disk full", host)
            self.later(1.0, 6.0, self._mend(host))

    def _short_of_room(self) -> None:
        """Below the mark on some nodes, or on all."""
        hosts = [host for host in self.cluster.hosts if self.dice.chance(0.5)]
        for host in hosts:
            host.faults.free_bytes = MIN_FREE_BYTES - 1
        self.said("short of room", what=" ".join(host.name for host in hosts))

        def make_room() -> None:
            for host in hosts:
                host.faults.free_bytes = PLENTY_BYTES

        self.later(1.0, 10.0, make_room)

    def _short_of_memory(self) -> None:
        """Above the mark on some nodes, or on all. One is enough for the leader to refuse."""
        hosts = [host for host in self.cluster.hosts if self.dice.chance(0.5)]
        for host in hosts:
            host.memory.resident = host.config.limits.memory_high_water_bytes + 1
        self.said("short of memory", what=" ".join(host.name for host in hosts))

        def free_memory() -> None:
            for host in hosts:
                host.memory.resident = 0

        self.later(1.0, 10.0, free_memory)

    def _mend(self, host: Host) -> Undo:
        def mend() -> None:
            host.faults.clear()
            self.starting(host)()

        return mend

    def _slow_disk(self) -> None:
        host = self.some(lambda host: host.is_up)
        if host is not None:
            self.slow_disk(host, self.dice.pick((10.0, 100.0, 500.0)))

    def slow_disk(self, host: Host, factor: float) -> None:
        """Makes a disk slower by `factor` for some seconds."""
        self.said("slow disk", host, f"{factor:g} times")
        self._set_slowness(host, factor)
        self.later(1.0, 8.0, lambda: self._set_slowness(host, 1.0))

    def _set_slowness(self, host: Host, factor: float) -> None:
        host.slowness = factor
        if host.state != "down" and host.lives:
            host.disk.slowness = factor

    def _jump_clock(self) -> None:
        """Mostly by what operators live with; sometimes by days or years, of a minority, for a while."""
        host = self.some(lambda host: host.is_up)
        if host is None:
            return
        wild = [one for one in self.cluster.hosts if one is not host and abs(one.wall_off_s) > CLOCK_OFF_S]
        if len(wild) + 1 <= len(self.cluster.hosts) - self.cluster.majority and self.dice.chance(0.5):
            self._set_clock(host, self.dice.pick((-WILD_S, 86_400.0, WILD_S, WILD_S)))
            self.later(3.0, 20.0, lambda: self._set_clock(host, 0.0))
            if self.dice.chance(0.5) and host.is_up:
                self.kill(host)  # it comes back with the wrong clock
        else:
            self._set_clock(host, self.dice.seconds(-CLOCK_OFF_S, CLOCK_OFF_S))

    def _set_clock(self, host: Host, off_s: float) -> None:
        self.cluster.set_clock(host, off_s)
        self.said("clock jump", host, f"{off_s:.3f} s off")

    # --- the network ---

    def cut(self, pairs: list[tuple[str, str]], least_s: float = 0.2, most_s: float = 8.0, reset: float = 0.3) -> None:
        """Cuts the links of these pairs, one way each, and heals them later."""
        for source, target in pairs:
            self.cluster.network.cut(source, target, reset)

        def heal() -> None:
            for source, target in pairs:
                self.cluster.network.heal(source, target)

        self.later(least_s, most_s, heal)

    def _partition(self) -> None:
        """Two sides; clients may be on either."""
        names = [host.name for host in self.cluster.hosts]
        shuffled = self.dice.shuffled(names)
        split = self.dice.between(1, len(names) - 1)
        left = shuffled[:split] + [worker.name for worker in self.workers if self.dice.chance(0.3)]
        right = [name for name in shuffled if name not in left]
        self.said("partition", what=f"{sorted(left)} | {sorted(right)}")
        self.cut([pair for one in left for other in right for pair in ((one, other), (other, one))])

    def _one_way(self) -> None:
        one, other = self.dice.shuffled([host.name for host in self.cluster.hosts])[:2]
        self.said("one-way cut", what=f"{one} to {other}")
        self.cut([(one, other)])

    def _bridge(self) -> None:
        """One node hears everybody, the others only it (or their own half)."""
        middle, *rest = self.dice.shuffled([host.name for host in self.cluster.hosts])
        half = len(rest) // 2 or 1
        self.said("bridge", what=f"{middle} between {sorted(rest[:half])} and {sorted(rest[half:])}")
        self.cut([pair for one in rest[:half] for other in rest[half:] for pair in ((one, other), (other, one))])

    def _slow_link(self) -> None:
        one, other = self.dice.shuffled([host.name for host in self.cluster.hosts])[:2]
        link = self.cluster.network.link(one, other)
        link.least, link.most = 0.01, self.dice.pick((0.1, 0.5, 2.0))
        self.said("slow link", what=f"{one} to {other}, up to {link.most:g} s")

        def heal() -> None:
            link.least, link.most = Link().least, Link().most

        self.later(1.0, 8.0, heal)

    def _lossy_links(self) -> None:
        names = [host.name for host in self.cluster.hosts]
        drop, double, reorder = (self.dice.pick((0.0, 0.02, 0.1)) for _ in range(3))
        self.said("lossy links", what=f"drop {drop:g}, double {double:g}, reorder {reorder:g}")
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
            end = self.dice.pick(connections)
            self.said("reset", what=f"{end.host} and {end.other.host}")
            self.cluster.network.break_connection(end)

    # --- clients ---

    def _kill_client(self) -> None:
        worker = self.dice.pick(self.workers)
        if worker.process.alive and not worker.process.frozen:
            self.cluster.trace.fault("kill client", worker.name)
            worker.kill()

            def start() -> None:
                if not worker.process.alive:
                    worker.start()

            self.later(0.1, 3.0, start)

    def _cut_client(self) -> None:
        worker = self.dice.pick(self.workers)
        hosts = [host.name for host in self.cluster.hosts if self.dice.chance(0.7)]
        self.cluster.trace.fault("cut client", worker.name, " ".join(hosts))
        pairs = [pair for host in hosts for pair in ((worker.name, host), (host, worker.name)) if self.dice.chance(0.8)]
        self.cut(pairs)

    def _freeze_client(self) -> None:
        worker = self.dice.pick(self.workers)
        process = worker.process
        if process.alive and not process.frozen:
            self.cluster.trace.fault("freeze client", worker.name)
            process.freeze()

            def thaw() -> None:
                if process.alive and process.frozen:
                    process.thaw()

            self.later(0.5, 10.0, thaw)
