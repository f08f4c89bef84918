"""Faults aimed at a moment, or made of several that belong together.

Most faults come by chance, and what takes three of them in a row comes seldom. These wait for the moment that matters
(an election, a snapshot about to have its name), or build a situation on purpose. Examples are a leader that is cut off
together with its clients, and an entry of which one good copy is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from disheap.kernel.types import Term
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.faults.actions import FaultActions
from disheap.testing.simulator.world.network import SimConnection

Kind = tuple[Callable[[], None], int]

LOOK_S = 0.002
"""How often a node is looked at that is about to do what a fault waits for."""
MAX_WAIT_S = 3.0


class TargetedFaults:
    """Faults at chosen moments, such as the election of a leader."""

    def __init__(self, actions: FaultActions) -> None:
        self._actions = actions
        self._cluster = actions.cluster
        self._rng = actions.rng
        self._is_over = False
        self._on_next_election: Callable[[Host], None] | None = None  # for who is elected next

    def kinds(self) -> list[Kind]:
        """The kinds of faults and the weight of each."""
        kinds: list[Kind] = [
            (self._isolate_leader, 3),
            (self._wait_for_election, 3),
            (self._slow_election, 2),
            (self._isolate_two, 4 if len(self._cluster.hosts) >= 5 else 0),
            (self._crash_in_a_snapshot, 2),
            (self._leave_one_copy, self._rng.pick((2, 8))),
            (self._lose_what_superseded, 2),
            (self._half_open, 3),
        ]
        return [(call, weight) for call, weight in kinds if weight]

    def stop(self) -> None:
        """Begins no more faults."""
        self._on_next_election = None
        self._is_over = True

    def elected(self, host: Host) -> None:
        """Told of each election. Makes the fault that waits for one, at once or a moment later."""
        fault, self._on_next_election = self._on_next_election, None
        if fault is not None:
            loop = self._cluster.loop
            loop.at(loop.now + self._rng.pick((0.0, 0.002, 0.02, 0.2)), self._if_up, (fault, host, host.process))

    def _if_up(self, call: Callable[[Host], None], host: Host, process: object) -> None:
        if host.is_up and host.process is process and not self._is_over:
            call(host)

    # --- elections ---

    def _wait_for_election(self) -> None:
        actions = self._actions
        self._on_next_election = self._rng.pick(
            (actions.kill, actions.freeze, actions.lose_power, self._isolate, self._slow)
        )

    def _leader(self) -> Host | None:
        """The leader of any group."""
        return self._cluster.leader(self._actions.pick_group())

    def _isolate_leader(self) -> None:
        leader = self._leader()
        if leader is not None:
            self._isolate(leader)

    def _isolate(self, host: Host) -> None:
        """With some clients, which go on talking to it. Often without a reset that would tell."""
        actions, rng = self._actions, self._rng
        others = [one.name for one in self._cluster.hosts if one is not host]
        clients = [worker.name for worker in actions.workers if rng.chance(0.6)]
        far = others + [worker.name for worker in actions.workers if worker.name not in clients]
        near = [host.name, *clients]
        actions.record("isolated", host, f"with {clients}")
        reset = rng.pick((0.0, 0.0, 0.3))
        actions.cut([pair for one in near for other in far for pair in ((one, other), (other, one))], reset=reset)

    def _isolate_two(self) -> None:
        """The leader and one that follows it, slowly: what that one writes and still has to acknowledge is of a leader
        that nobody else hears. It hears of the next one as soon as there is one."""
        leader, actions, rng = self._leader(), self._actions, self._rng
        others = [host for host in self._cluster.hosts if host is not leader and host.is_up]
        if leader is None or not others:
            return
        slow, *rest = rng.shuffled(others)
        near = [leader.name, slow.name, *(worker.name for worker in actions.workers if rng.chance(0.7))]
        far = [host.name for host in rest]
        actions.slow_disk(slow, rng.pick((300.0, 1500.0)))
        actions.record("isolated", slow, f"with {near}")
        actions.cut([pair for one in near for other in far for pair in ((one, other), (other, one))], 4.0, 8.0, 0.0)

        def rejoin(_: Host) -> None:
            for other in far:
                self._cluster.network.heal(other, slow.name)
                self._cluster.network.heal(slow.name, other)

        self._on_next_election = rejoin

    def _slow_election(self) -> None:
        """The leader dies, and who comes after it has a slow disk."""
        leader = self._leader()
        others = [host for host in self._cluster.hosts if host is not leader]
        if leader is not None and others:
            self._slow(self._rng.pick(others))
            self._actions.kill(leader)

    def _slow(self, host: Host) -> None:
        self._actions.slow_disk(host, self._rng.pick((30.0, 100.0, 300.0)))

    # --- disks ---

    def _crash_in_a_snapshot(self) -> None:
        actions = self._actions
        host = actions.pick_host(lambda host: host.is_up and actions.may_lose_power(host))
        if host is not None:
            actions.crash_in_write(host, self._rng.below(8), near="/snapshot-")

    def _leave_one_copy(self) -> None:
        """The newest entries are on a bare majority. All of it goes down, one of it with a spoilt log, and only that
        one comes back at first. What it lost it may neither deny nor do without."""
        actions, group = self._actions, self._actions.pick_group()
        leader = self._cluster.leader(group)
        hosts = self._rng.shuffled(self._cluster.members())
        late = len(hosts) // 2
        hosts.sort(key=lambda host: host is not leader)  # which goes on while the others lag behind
        lagging, rest = hosts[len(hosts) - late :], self._rng.shuffled(hosts[: len(hosts) - late])
        damaged, holders = rest[0], rest[1:]
        if len(hosts) < 3 or leader is None or not actions.have_started() or not actions.may_lose_writes(damaged):
            return
        if all(host.is_up and host.has_group for host in hosts):
            actions.record("one copy left", damaged, f"{[host.name for host in holders]} keep it")
            self._cluster.loop.create_task(self._leave_copies(group, damaged, holders, lagging))

    async def _leave_copies(self, group: int, damaged: Host, holders: list[Host], lagging: list[Host]) -> None:
        actions, rng = self._actions, self._rng
        names = [host.name for host in lagging]
        others = [host.name for host in (damaged, *holders)]
        lag_s = rng.seconds(0.5, 3.0)
        pairs = [pair for one in names for other in others for pair in ((one, other), (other, one))]
        actions.cut(pairs, lag_s, lag_s, reset=0.0)
        await asyncio.sleep(lag_s * 0.9)
        if self._is_over or not actions.may_lose_writes(damaged):
            return
        for host in (damaged, *holders):
            if host.state == "up":
                self._cluster.kill(host)
        if damaged.state == "down":
            damaged.uncertain = True
            actions.record("damage", damaged, self._cluster.damage_end(damaged, group))
        actions.later(lag_s, lag_s + 1.0, actions.start_if_down(damaged))
        for host in holders:
            actions.later(lag_s + 2.0, lag_s + 9.0, actions.start_if_down(host))

    def _lose_what_superseded(self) -> None:
        """A leader that is cut off with some clients goes on writing. When it is back its entries are superseded, and
        the write that does so is lost at once: what it holds then was never committed."""
        actions, group = self._actions, self._actions.pick_group()
        leader = self._cluster.leader(group)
        if leader is None or len(self._cluster.hosts) < 3 or not actions.may_lose_writes(leader):
            return
        cut_s = self._rng.seconds(2.0, 4.0)
        others = [host.name for host in self._cluster.hosts if host is not leader]
        near = [leader.name, *(worker.name for worker in actions.workers if self._rng.chance(0.5))]
        actions.record("superseded", leader, f"with {near}")
        actions.cut([pair for one in near for other in others for pair in ((one, other), (other, one))], cut_s, cut_s)
        own = leader.replica(group).group.raft.term
        self._cluster.loop.create_task(self._lose_the_newest_write(group, leader, leader.process, own, cut_s))

    async def _lose_the_newest_write(self, group: int, host: Host, process: object, own: Term, cut_s: float) -> None:
        actions, loop = self._actions, self._cluster.loop
        durable = self._cluster.groups[group].safety.durable_models[host.id]
        deadline = loop.now + cut_s + MAX_WAIT_S
        while (durable.term_at(durable.last) or 0) <= own:
            await asyncio.sleep(LOOK_S)
            is_late = self._is_over or loop.now > deadline
            if is_late or host.process is not process or not host.is_up or not actions.may_lose_writes(host):
                return
        self._cluster.kill(host)
        host.uncertain = True
        actions.record("damage", host, self._cluster.damage_end(host, group))
        actions.later(0.05, 1.0, actions.start_if_down(host))

    # --- connections ---

    def _half_open(self) -> None:
        """A client's end is gone, and the node does not hear of it for a while; the client comes back at once."""
        ends = self._clients_ends()
        if ends:
            self._break(self._rng.pick(ends))

    def half_open_all(self) -> None:
        """The last thing that goes wrong, when all else is healed."""
        for end in self._clients_ends():
            self._break(end)

    def _clients_ends(self) -> list[SimConnection]:
        names = [worker.name for worker in self._actions.workers]
        return [end for end in self._cluster.network.connections() if end.host in names]

    def _break(self, end: SimConnection) -> None:
        self._actions.record("half open", what=f"{end.host} and {end.other.host}")
        self._cluster.network.break_connection(end, self._rng.seconds(0.0, 3.0))
