"""The faults that others are made of: each does one thing to a cluster, and undoes it after a while.

`FaultInjector` draws from them at random. `TargetedFaults` uses them at chosen moments. One bound is kept: hosts that
may have lost part of their newest writes, or all of their data, are a minority. Beyond it a cluster has to wait for
people, and rightly makes no progress.
"""

from __future__ import annotations

from collections.abc import Callable

from disheap.runtime.membership.directory import record_of
from disheap.testing.simulator.clients.client import SimulatedClient
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.cluster.probes import Probes
from disheap.testing.simulator.world.rng import Rng

Undo = Callable[[], None]


class FaultActions:
    """Makes single faults, and undoes each after a while."""

    def __init__(self, cluster: Cluster, workers: list[SimulatedClient], probes: Probes, rng: Rng) -> None:
        self.cluster = cluster
        self.probes = probes
        self.workers = workers
        self.rng = rng
        self.learner = 0  # the node whose vote was taken, and may not be back
        self.learner_group = 0  # in which group
        self.calm_until = 0.0  # no fault is drawn before
        self._is_over = False
        self.leader_promotes = False
        """Whether members change, so that a leader may give a vote to the node that a fault befalls."""
        self.leaving: list[int] = []
        """The nodes whose votes a leader may be about to take, because an operator has asked for it."""

    def later(self, least_s: float, most_s: float, undo: Undo) -> None:
        """Calls `undo` after a random time between `least_s` and `most_s`."""
        loop = self.cluster.loop
        loop.at(loop.now + self.rng.seconds(least_s, most_s), undo, ())

    def record(self, kind: str, host: Host | None = None, what: str = "") -> None:
        """Writes a fault into the trace and counts it."""
        self.cluster.trace.fault(kind, host.name if host else "FAULTS", what)

    def pick_group(self) -> int:
        """Any of the groups."""
        count = len(self.cluster.groups)
        return self.rng.below(count) if count > 1 else 0

    def pick_scope(self) -> int | None:
        """The group whose files alone a fault of a disk affects. None for all groups."""
        return self.pick_group() if len(self.cluster.groups) > 1 and self.rng.chance(0.5) else None

    def pick_host(self, fits: Callable[[Host], bool]) -> Host | None:
        """Often a leader, which has most to lose."""
        leader = self.cluster.leader(self.pick_group())
        if leader is not None and fits(leader) and self.rng.chance(0.4):
            return leader
        fitting = [host for host in self.cluster.hosts if fits(host)]
        return self.rng.pick(fitting) if fitting else None

    def may_lose_writes(self, host: Host) -> bool:
        """Whether the others are a majority that votes and is certain of its logs, counting those that are only
        down."""
        certain = [one for one in self.cluster.hosts if one is not host and self._counts(one)]
        is_learner = self.leader_promotes and host.id in self.cluster.member_ids()
        return self.cluster.are_quorum(certain, host.id if is_learner else 0, self.leaving)

    def may_take_vote(self, node: int) -> bool:
        """Whether the others that have their data are a majority without this node. An operator who has just lost a
        disk looks first. A leader does not know of the loss before the node has been silent for a while."""
        kept = [one for one in self.cluster.hosts if not (one.wiped or one.state == "lost")]
        return self.cluster.are_quorum(kept, leaving=[*self.leaving, node])

    def may_lose_power(self, host: Host) -> bool:
        """Likewise; and a node that is alone knows that what was torn was never acknowledged."""
        return self.cluster.is_alone(host) or self.may_lose_writes(host)

    def is_found(self, host: Host) -> bool:
        """Whether it and the others would find each other, if a damaged snapshot left it without any member. A node
        that joined has no list of members. It is looked for where a log says, and has to be there."""
        logs = [
            one.replica(0).group.applied.membership for one in self.cluster.hosts if one is not host and one.has_group
        ]
        at = {record_of(member).peer for log in logs for member in log.members if member.id == host.id}
        return bool(host.config.members) or host.config.peer_listen in at

    def _counts(self, host: Host) -> bool:
        is_gone = host.wiped or host.rotten or host.state == "lost" or host.id == self.learner
        return not is_gone and not self._is_uncertain(host)

    def _is_uncertain(self, host: Host) -> bool:
        if host.uncertain and host.votes and not host.faults.are_due:
            host.uncertain = host.has_lost_a_copy = False
        return host.uncertain

    def start_if_down(self, host: Host) -> Undo:
        """A call that starts the host if it is down by then."""

        def start() -> None:
            if host.state == "down":
                self.cluster.start(host)

        return start

    def kill(self, host: Host) -> None:
        """Kills a host as SIGKILL does, and starts it again later."""
        self.record("kill", host)
        self.cluster.kill(host)
        self.later(0.05, 6.0, self.start_if_down(host))

    def crash_in_write(self, host: Host, in_operations: int, near: str = "") -> None:
        """`near`: counted from the first operation on such a path."""
        host.uncertain = True
        host.cut_power_on_crash = self.rng.chance(0.6)
        host.faults.crash_in, host.faults.crash_near = in_operations, near
        self.record("crash in a write", host, f"in {in_operations} {near}, power {host.cut_power_on_crash}")
        self.later(2.0, 8.0, self.start_if_down(host))

    def freeze(self, host: Host) -> None:
        """Stops a host as SIGSTOP does, and lets it go on later."""
        self.record("freeze", host)
        process = host.process
        self.cluster.freeze(host)
        for checks in self.cluster.groups:
            if host.has_opened(checks.number):  # else it still starts
                self.probes.ask(host, checks.number)  # the first that it sees when it goes on, whoever leads by then

        def thaw() -> None:
            if host.process is process and host.state == "frozen":
                self.cluster.say(host, "goes on")
                self.cluster.thaw(host)

        self.later(0.2, 12.0, thaw)

    def have_started(self) -> bool:
        """Whether every node has taken part. Before it has, a member that is lost for good keeps them all waiting."""
        members = self.cluster.members()
        for host in members:
            replicas = host.node.replicas if host.has_group else ()
            if replicas and all(one.maintenance.incarnation_check.all_met for one in replicas):
                host.has_taken_part = True
        return all(host.has_taken_part for host in members)

    def lose_power(self, host: Host) -> None:
        """Cuts a host's power, if a minority only may then have lost data, and starts it again later."""
        if host.state in ("up", "frozen") and self.may_lose_power(host) and not self._is_over:
            self.record("power cut", host)
            host.uncertain = True
            self.cluster.kill(host, power=True)
            self.later(0.5, 6.0, self.start_if_down(host))

    def slow_disk(self, host: Host, factor: float) -> None:
        """Makes a disk slower by `factor` for some seconds, or the files of one group on it."""
        scope = self.pick_scope()
        self.record("slow disk", host, f"{factor:g} times{words_of(scope)}")
        host.set_slowness(factor, scope)
        self.later(1.0, 8.0, lambda: host.set_slowness(1.0, scope))

    def cut(self, pairs: list[tuple[str, str]], least_s: float = 0.2, most_s: float = 8.0, reset: float = 0.3) -> None:
        """Cuts the links of these pairs, one way each, and heals them later."""
        for source, target in pairs:
            self.cluster.network.cut(source, target, reset)

        def heal() -> None:
            for source, target in pairs:
                self.cluster.network.heal(source, target)

        self.later(least_s, most_s, heal)


def words_of(scope: int | None) -> str:
    """Returns the words for the trace that name the group of a fault; "" for all groups."""
    return "" if scope is None else f", group {scope}"
