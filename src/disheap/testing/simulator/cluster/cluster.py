"""Machines with nodes on them, and everything that can be done to them.

A host outlives the processes on it: its files, its name in the network, its place in the cluster. What happens to a
node is written to the trace. A node that ends by itself is a violation, unless its disk was made to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.errors import VersionUnsupported
from disheap.kernel.types import NodeId
from disheap.plugins.registry import Registry
from disheap.runtime.membership.directory import first_membership, record_of
from disheap.testing.simulator.checks.history import History
from disheap.testing.simulator.checks.machines import reference_of
from disheap.testing.simulator.checks.safety import SafetyChecker, Violation
from disheap.testing.simulator.cluster.configs import MEMORY_MARKS, founding, joining, node_configs
from disheap.testing.simulator.cluster.ends import state_after
from disheap.testing.simulator.cluster.hosts import Host, group_of
from disheap.testing.simulator.cluster.nodes import PARTS, SimClock, SimNode, SimRegistry, Watches, watched_storage
from disheap.testing.simulator.cluster.releases import Releases
from disheap.testing.simulator.world.disk import SimDisk
from disheap.testing.simulator.world.filesystem import SimFilesystem, used_bytes
from disheap.testing.simulator.world.loop import OWNER, Process, SimLoop
from disheap.testing.simulator.world.network import Network, SimTransport
from disheap.testing.simulator.world.rng import Rng
from disheap.testing.simulator.world.trace import Trace

DRIFT = 0.02
"""Clocks run fast or slow by up to this share: far more than any clock that keeps time."""
EMPTY_LOG_BYTES = 16 << 10
"""A log file of the smallest kind without entries."""
BLOCK_MAGIC = b"DHB1"
"""With which its blocks begin."""
COPIED = ("/meta", "/members")
"""Files that hold what they say twice."""
CLOCK_OFF_S = 25.0
"""How wrong a clock may be that counts as right: two of them are closer to each other than `max_clock_jump_ms`."""
WRONG_CLOCK_S = 10 * 365 * 86_400.0
"""How wrong a clock may be."""


class GroupChecks:
    """What is checked of one group: its replicas' steps, and what its clients saw."""

    def __init__(self, number: int, machine: str, safety: SafetyChecker) -> None:
        self.number = number
        self.machine = machine
        self.safety = safety
        self.history = History(reference_of(machine, number), lambda: self.safety.last_committed, safety.fail)


class Cluster:
    """All hosts, the network, the clients' processes, and the checks of all that they do. Two clusters may share a
    loop; each has a network of its own. `machines` names the machine of each group; () is one group with a heap.
    With `is_founded` the first node founds the cluster and the others join it; else all know the same list. With
    `founder_asks` it asks them first whether they have a cluster."""

    def __init__(
        self,
        rng: Rng,
        registry: Registry,
        count: int,
        *,
        keep_trace: bool = False,
        loop: SimLoop | None = None,
        machines: tuple[str, ...] = (),
        is_founded: bool = False,
        founder_asks: bool = False,
    ) -> None:
        self.loop = loop or SimLoop()  # type: ignore[abstract]
        self.trace = Trace(self.loop, keep_trace)
        self.rng = rng
        self.network = Network(self.loop, rng.fork())
        configs = node_configs(count, rng.fork(), machines)
        if is_founded:
            founder, *others = configs
            asked = [one.peer_listen for one in others] if founder_asks else []
            joined = (founder.peer_listen, *asked)
            configs = [founding(founder, asked), *(joining(founder, one.name, one.name, joined) for one in others)]
        self.first_config = configs[0]
        self.groups = [
            GroupChecks(group, machine, self._safety_of(group, configs[0]))
            for group, machine in enumerate(machines or (configs[0].machine,))
        ]
        self.hosts: list[Host] = []
        """Machines in play. One whose node was removed for good leaves the list."""
        self.count = 0  # of all hosts that there ever were
        self.cluster_id = ""  # as the first node says that knows it
        for config in configs:
            self._add(config, rng.fork())
        if is_founded:
            self.hosts[0].id = 1
        self.retired: list[Host] = []
        self.failure: Violation | None = None
        self.on_lead: Callable[[Host, int], None] = lambda host, group: None  # told of each election
        self._registry = registry
        self.releases = Releases(
            self.plugin_of, lambda: self.loop.now, lambda: [at for one in self.groups for at in one.safety.raises]
        )
        self._segment_bytes = rng.pick((20 << 10, 20 << 10, 64 << 10))  # less than the product allows
        self._storage = watched_storage(registry.get("storage", "file"))

    @property
    def safety(self) -> SafetyChecker:
        """That of the first group, for clusters that have one."""
        return self.groups[0].safety

    @property
    def history(self) -> History:
        """That of the first group, for clusters that have one."""
        return self.groups[0].history

    # --- machines ---

    def add(self, rng: Rng, config: NodeConfig, machine: str) -> Host:
        """A machine with an empty disk. Start its node with `start`."""
        host = self._add(config, rng, machine)
        self.releases.added(host)
        return host

    def plugin_of(self, kind: str, name: str) -> type[Any]:
        """The class of a plugin of this release."""
        return PARTS.get((kind, name)) or self._registry.get(kind, name)

    def _add(self, config: NodeConfig, rng: Rng, machine: str = "") -> Host:
        self.count += 1
        host = Host(self.count, config, rng, machine)
        host.faults.late = partial(self._writes_after_failure, host)
        self.hosts.append(host)
        return host

    def retire(self, host: Host) -> None:
        """The machine is gone for good."""
        if host.state in ("up", "frozen"):
            self.kill(host)
        self.say(host, "is gone")
        host.state = "gone"
        self.hosts.remove(host)
        self.retired.append(host)

    def _named(self, host: Host, node: int) -> None:
        """A node knows its id. One that has lost its data may have joined anew, under another one. There is one cluster
        only."""
        self.cluster_id = self.cluster_id or host.node.cluster_id
        if host.node.cluster_id != self.cluster_id and not self._goes_by_its_own_list(host):
            self.fail(f"{host.name} belongs to cluster {host.node.cluster_id}, and the others to {self.cluster_id}")
        if host.id != node:
            self.say(host, f"is node {node}")
            host.id, host.wiped, host.has_taken_part = node, False, False

    def _goes_by_its_own_list(self, host: Host) -> bool:
        """Whether it moved, and then lost its data. Its list of members has its new address and nobody else's has, so
        it names a cluster that nobody else knows. It waits there for ever, see `SafetyChecker.takes_part`."""
        has_other_list = bool(host.config.members) and host.config.members != self.first_config.members
        return host.wiped and has_other_list and host.node.cluster_id == host.config.cluster_id()

    # --- judging ---

    def _safety_of(self, group: int, config: NodeConfig) -> SafetyChecker:
        first = first_membership(config.member_list())
        return SafetyChecker(lambda what: self.fail(self.in_group(group, what)), first, lambda: self.loop.now)

    def _writes_after_failure(self, host: Host, operation: str, path: str) -> None:
        self.groups[group_of(path) or 0].safety.writes_after_failure(host.id, operation, path)

    def in_group(self, group: int, what: str) -> str:
        """Returns `what`, after the number of the group if there are several."""
        return f"group {group}: {what}" if len(self.groups) > 1 else what

    def fail(self, what: str) -> None:
        """The first violation ends the run."""
        if self.failure is None:
            self.failure = self.loop.stopping = Violation(what)
            self.trace.add("CHECK", f"VIOLATION: {what}")
        raise self.failure

    def say_check(self, what: str) -> None:
        """What a check has seen, and judges later."""
        self.trace.add("CHECK", what)

    def say(self, host: Host, what: str) -> None:
        """Writes a line about a host into the trace."""
        self.trace.add(host.name, what)

    # --- a node's life ---

    def start(self, host: Host) -> None:
        """Boot the machine where it is off, and start the node on it."""
        assert host.state in ("down", "lost")
        host.lives += 1
        if host.rotten:  # now it reads all that it has
            host.rotten, host.uncertain = False, True
        host.is_stopping = False
        host.faults.begin_life()
        for one in self.groups:
            one.safety.spoilt_states.discard(host.id)
        rng = host.rng.fork()
        rate = 1.0 + rng.seconds(-DRIFT, DRIFT)
        process = host.process = Process(self.loop, host.name, rate, rng.seconds(0.0, 1000.0))
        host.clock = SimClock(process)
        host.clock.wall_off_s = host.wall_off_s
        host.filesystem = SimFilesystem(host.disk_image, host.faults)
        host.disks = [SimDisk(process, rng.fork(), lambda: self._crashed(host, process)) for _ in self.groups]
        host.state = "up"
        host.set_slowness(host.slowness)
        self.network.started(host.name)
        self.say(host, "starts")
        registry = self._registry_of(host, process)
        watches = Watches(
            tuple(one.safety for one in self.groups),
            lambda group, what: self.say(host, self.in_group(group, what)),
            lambda group: self.on_lead(host, group),
            lambda node: self._named(host, node),
        )
        host.node = SimNode(host.config, registry, host.clock, rng, host.disks, watches, host.memory)
        process.start(self._live(host, process))

    def give_memory(self, host: Host) -> None:
        """As much as the state may ever need: where nobody consumes, a low mark would be reached for good."""
        host.memory.resident = 0
        limits = msgspec.structs.replace(host.config.limits, memory_high_water_bytes=max(MEMORY_MARKS))
        host.config = msgspec.structs.replace(host.config, limits=limits)
        if host.state == "down":
            return
        if hasattr(host.node, "memory"):
            host.node.memory.high_water_bytes = max(MEMORY_MARKS)
        else:  # it still asks to join, and reads its settings later
            own = msgspec.structs.replace(host.node.config.limits, memory_high_water_bytes=max(MEMORY_MARKS))
            host.node.config = msgspec.structs.replace(host.node.config, limits=own)

    def kill(self, host: Host, power: bool = False) -> None:
        """SIGKILL, or the power goes: then what was not synced may be lost."""
        assert host.state in ("up", "frozen")
        self._end(host, silently=power)
        if power:
            host.disk_image.cut_power()

    def stop(self, host: Host) -> None:
        """SIGTERM."""
        process = host.process
        host.is_stopping = host.node.failure is None

        async def leave() -> None:
            try:
                await host.node.stop()
            except Exception as error:
                if process.alive:
                    self._failed(host, error)
                return
            if process.alive:
                self.say(host, "has stopped")
                self._end(host, silently=False)

        process.start(leave())

    def freeze(self, host: Host) -> None:
        """Stops a host as SIGSTOP does."""
        host.state = "frozen"
        host.process.freeze()

    def thaw(self, host: Host) -> None:
        """Lets a frozen host go on."""
        host.state = "up"
        self.releases.thawed()
        host.process.thaw()

    def wipe(self, host: Host) -> None:
        """Its files are gone. It comes back as somebody who must not vote, and stays outside."""
        assert host.state in ("down", "lost")
        host.disk_image.wipe()
        self._wiped(host)

    def set_clock(self, host: Host, off_s: float) -> None:
        """Puts a host's wall clock `off_s` ahead of the right time."""
        host.wall_off_s = off_s
        if host.lives:
            host.clock.wall_off_s = off_s

    def remove_files(self, host: Host) -> None:
        """As `wipe`, of a host that is up."""
        host.disk_image.wipe()
        host.lost_files = True
        self._wiped(host)

    def _wiped(self, host: Host) -> None:
        """A node that founded the cluster would found another one, unless it asks first at a node that has its data.
        Where no such node is left, its operator has it join instead."""
        host.wiped = True
        self.releases.wiped(host)
        for one in self.hosts:
            if one.wiped and one.config.bootstrap and not self._asks_a_member(one):
                others = [other.config.peer_listen for other in self.hosts if other is not one]
                one.config = joining(one.config, one.config.name, one.name, others or [one.config.peer_listen])
        for group in self.groups:
            group.safety.wiped(host.id)

    def _asks_a_member(self, host: Host) -> bool:
        return any(not one.wiped and one.config.peer_listen in host.config.join_addresses for one in self.hosts)

    def damage(self, host: Host) -> str:
        """Spoil a file of a host that is down. Returns what was done. Of what is kept in two copies at most one is
        spoilt, until the host was whole again. A node that loses one copy and has an old state in the other cannot
        know."""
        spared = ("/lock", "/identity", *(COPIED if host.has_lost_a_copy else ()))
        small = self.rng.chance(0.4)  # what is no log: of that there are many files
        done = host.disk_image.damage(lambda path: not path.endswith(spared) and not (small and "/log-" in path))
        self._spoilt(host, done)
        host.has_lost_a_copy |= done.endswith(COPIED)
        return done

    def damage_end(self, host: Host, group: int = 0) -> str:
        """Damages the end of the newest log file of a group that has entries. Returns what was done."""
        sizes = {
            path: used_bytes(inode.now)
            for path, inode in host.disk_image.names.items()
            if "/log-" in path and group_of(path) == group
        }
        newest = max((path for path, size in sizes.items() if size > EMPTY_LOG_BYTES), default="")
        done = host.disk_image.damage(lambda path: path == newest, at_end=True, begins=BLOCK_MAGIC)
        self._spoilt(host, done)
        return done

    def rot(self, host: Host) -> str:
        """Spoil a file of a host that is up, which is not being written. It is a log file that was left for another
        one, a snapshot, or one of two copies. Returns what was done."""
        paths = sorted(host.disk_image.names)
        newest = [
            max((path for path in paths if "/log-" in path and group_of(path) == one.number), default="")
            for one in self.groups
        ]
        spared = ("/lock", "/identity", ".tmp", *(COPIED if host.has_lost_a_copy else ()))
        done = host.disk_image.damage(lambda path: not path.endswith(spared) and path not in newest)
        self._spoilt(host, done)
        host.has_lost_a_copy |= done.endswith(COPIED)
        return done

    def _spoilt(self, host: Host, done: str) -> None:
        """`done` ends with the path of the file that was damaged; "" if none was."""
        if done:
            self.groups[group_of(done) or 0].safety.durable_models[host.id].spoil()

    def spoil_state(self, host: Host, group: int, spoil: Callable[[Any], None]) -> None:
        """Changes the state of a group's machine in the memory of one node, as a flipped bit would."""
        self.groups[group].safety.spoilt_states.add(host.id)
        spoil(host.replica(group).group.sessions.machine)
        self.say(host, self.in_group(group, "its state is spoilt"))

    def _registry_of(self, host: Host, process: Process) -> Registry:
        def storage(settings: Any, context: Any) -> Any:
            settings = msgspec.structs.replace(settings, segment_bytes=self._segment_bytes)
            safety = self.groups[group_of(context.directory) or 0].safety
            return self._storage(settings, context, host.filesystem, safety)

        def transport(settings: Any, context: Any) -> Any:
            return SimTransport(self.network, process, host.name)

        made: dict[tuple[str, str], Any] = {("storage", "file"): storage, ("transport", "sim"): transport}
        return SimRegistry(self._registry, made, self.releases.starts(host))

    async def _live(self, host: Host, process: Process) -> None:
        try:
            await host.node.start()
            self.say(host, "is up")
            error = await host.node.wait_failed()
            if host.is_stopping:
                return
        except Exception as failure:
            error = failure
        if process.alive and not self.loop.is_closed():  # else what it was in the middle of is thrown away
            self._failed(host, error)

    def _failed(self, host: Host, error: BaseException) -> None:
        """The node ends by itself."""
        self.say(host, f"ends: {type(error).__name__}")
        self.trace.note(host.name, str(error))
        is_damaged = any(one.safety.durable_models[host.id].damaged for one in self.groups)
        self._end(host, silently=False)
        if isinstance(error, VersionUnsupported):
            if wrong := self.releases.is_too_old(host):
                self.fail(f"{host.name} ends by itself, {wrong}: {error}")
            return
        if state := state_after(host, error, is_damaged):
            host.state = state
        elif self.failure is None:
            self.trace.note(host.name, repr(error))
            self.fail(f"{host.name} ends by itself: {type(error).__name__}: {error}")

    def _crashed(self, host: Host, process: Process) -> None:
        """In the middle of a write."""
        if process.alive:
            self.say(host, "dies in the middle of a write")
            self.kill(host, power=host.cut_power_on_crash)

    def _end(self, host: Host, silently: bool) -> None:
        host.process.kill()
        host.filesystem.died()
        host.faults.crash_in, host.faults.crash_near = -1, ""
        host.state = "down"
        self.network.killed(host.process, host.name, silently)

    # --- looking ---

    def leader(self, group: int = 0) -> Host | None:
        """The one that leads the group in the newest term."""
        leaders = [
            host for host in self.hosts if host.is_up and host.has_opened(group) and host.replica(group).group.leads
        ]
        return max(leaders, key=lambda host: host.replica(group).group.raft.term, default=None)

    def voters(self, group: int = 0) -> list[Host]:
        """The hosts that have a vote in the group."""
        voters = self.groups[group].safety.changes.voters
        return [host for host in self.hosts if host.id in voters and host.votes_in(group)]

    def members(self) -> list[Host]:
        """The hosts of the members by the last committed memberships. Each group has its own."""
        ids = self.member_ids()
        return [host for host in self.hosts if host.id in ids]

    def member_ids(self) -> frozenset[int]:
        """The ids of the members of any group, by its last committed membership."""
        return frozenset[int]().union(*(one.safety.changes.ids for one in self.groups))

    def voter_sets(self) -> list[tuple[int, ...]]:
        """The voters by each membership that is, or may still be, committed in a group."""
        return [voters for one in self.groups for voters in one.safety.changes.voter_sets()]

    def are_quorum(self, hosts: Iterable[Host], promoted: int = 0, leaving: Iterable[int] = ()) -> bool:
        """Whether these hosts are a majority by each such membership, also when `promoted` has got a vote, and when
        those that leave have lost theirs."""
        ids, leaving = {host.id for host in hosts}, set(leaving)
        sets = [{*voters, promoted} - {0} for voters in self.voter_sets()]
        sets += [voters - gone for voters in sets for gone in (*({one} for one in leaving), leaving) if voters - gone]
        return all(2 * len(ids & voters) > len(voters) for voters in sets)

    def majority(self, group: int) -> int:
        """How many voters of a group are a majority, by the last committed membership."""
        return len(self.groups[group].safety.changes.voters) // 2 + 1

    def host_of(self, node: int) -> Host:
        """The host of a node, by the node's id."""
        return next(host for host in self.hosts if host.id == node)

    def is_alone(self, host: Host) -> bool:
        """Whether the host is the only voter, and nobody else may become one."""
        return all(voters == (host.id,) for voters in self.voter_sets())

    def addresses(self) -> tuple[str, ...]:
        """The addresses for clients, of all hosts."""
        return tuple(host.config.client_listen for host in self.hosts)

    def known_addresses(self, leader: Host) -> set[str]:
        """Where clients are told to look for the members. One that lost its data before it could tell the others where
        it had moved is known by the address in the log."""
        in_log = {int(one.id): record_of(one).client for one in leader.replica(0).group.raft.membership.members}
        return {
            in_log.get(host.id, "") if host.wiped or host.state == "lost" else host.config.client_listen
            for host in self.members()
        }

    def node_id(self, host: Host) -> NodeId:
        """The node id of a host."""
        return NodeId(host.id)

    def client_process(self, name: str, group: int = 0) -> tuple[Process, SimTransport]:
        """A process for a client of a group, and its transport."""
        process = Process(self.loop, name)
        return process, SimTransport(self.network, process, name, self.groups[group].history.tap)

    def transport_of(self, process: Process, name: str, group: int) -> SimTransport:
        """Another transport of a client's process, for another group."""
        return SimTransport(self.network, process, name, self.groups[group].history.tap)

    def end_client(self, process: Process) -> None:
        """Kills a client's process. Its connections are reset."""
        process.kill()
        self.network.killed(process, process.name, silently=False)

    def check_errors(self) -> None:
        """Whatever a callback raised, or nobody looked at, is a bug."""
        for context in self.loop.errors:
            error = context.get("exception")
            if isinstance(error, Violation) or OWNER.get() is not None:
                continue
            self.fail(f"{context.get('message')}: {error!r}")
        self.loop.errors.clear()

    def forget(self) -> None:
        """Let go of everything big, whoever still holds an end of this cluster (an exception's traceback, say)."""
        processes, self.loop.processes = self.loop.processes, []
        checks = [part for one in self.groups for part in (one.safety, one.history)]
        for holder in (*processes, *self.hosts, *self.retired, *checks, self.network, self):
            holder.__dict__.clear()
