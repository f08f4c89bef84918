"""Machines with nodes on them, and everything that can be done to them.

A host outlives the processes on it: its files, its name in the network, its place in the cluster. What happens to a
node is told to the trace; a node that ends by itself is a violation, unless its disk was made to fail.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from disheap.config.node_config import Limits, MemberConfig, NodeConfig, RaftConfig
from disheap.errors import CodecError, DiskFailed, LogDamaged, SnapshotDamaged, StorageError, StorageGone
from disheap.kernel.types import NodeId
from disheap.plugins.registry import Registry
from disheap.runtime.membership.directory import first_membership
from disheap.runtime.replica.lifecycle import State
from disheap.testing.simulator.disk import SimDisk
from disheap.testing.simulator.durable_model import DurableModel
from disheap.testing.simulator.filesystem import Crash, DiskImage, SimFilesystem
from disheap.testing.simulator.history import History
from disheap.testing.simulator.loop import OWNER, Process, SimLoop
from disheap.testing.simulator.network import Network, SimTransport
from disheap.testing.simulator.nodes import SimClock, SimNode, SimRegistry, watched_storage
from disheap.testing.simulator.rng import Rng
from disheap.testing.simulator.safety import SafetyChecker, Violation
from disheap.testing.simulator.trace import Trace

DRIFT = 0.02
"""Clocks run fast or slow by up to this share: far more than any clock that keeps time."""
EMPTY_LOG_BYTES = 16 << 10
"""A log file of the smallest kind without entries."""
BLOCK_MAGIC = b"DHB1"
"""With which its blocks begin."""
COPIED = ("/meta", "/members")
"""Files that hold what they say twice."""
FREE_BYTES = 1 << 40
"""Free on a disk that has room."""
CLOCK_OFF_S = 25.0
"""How wrong a clock may be that counts as right: two of them are closer to each other than `max_clock_jump_ms`."""
WRONG_CLOCK_S = 10 * 365 * 86_400.0
"""How wrong a clock may be."""
MIN_FREE_BYTES = 1 << 20
MEMORY_MARKS = (1 << 30, 1 << 30, 100 << 10)
"""High-water marks. The lowest is reached by some hundred messages and an end of the log."""
DAMAGE_ERRORS = (LogDamaged, SnapshotDamaged, CodecError)
"""What a node may end with, if somebody spoilt its files."""


NOT_OPEN = (State.OPENING, State.FAILED, State.CLOSED)
"""Of a replica whose group may not be there, or does nothing more."""
SYNCS = ("sync", "sync_directory")
CHANGES = (*SYNCS, "write", "extend", "create", "rename", "remove", "truncate")


class DiskFaults:
    """What one host's disk does wrong. Counts down operations."""

    def __init__(self) -> None:
        self.crash_in = -1  # operations until the process ends in the middle of one
        self.crash_near = ""  # counted from the first operation on such a path
        self.error_in = -1  # operations, of the kinds below, until they fail
        self.error_on: tuple[str, ...] = SYNCS
        self.full = False
        self.has_failed = False  # in this life of the node; it may be well again before the node has ended
        self.has_been_full = False  # likewise
        self.free_bytes = FREE_BYTES
        self.late: Callable[[str, str], None] = lambda operation, path: None  # told of what is done after a failure

    def happens(self, operation: str, path: str) -> None:
        """Raises the crash or the error that is planned for this operation."""
        if self.has_failed and operation != "remove":
            self.late(operation, path)
        if self.crash_near in path:
            self.crash_near = ""
            if self.crash_in == 0:
                raise Crash(operation, path)
            self.crash_in -= self.crash_in > 0
        if operation in self.error_on:
            if self.error_in == 0:
                self.has_failed = True
                raise OSError(errno.EIO, "Input/output error", path)
            self.error_in -= self.error_in > 0
        if self.full and operation in ("extend", "create"):
            self.has_been_full = True
            raise OSError(errno.ENOSPC, "No space left on device", path)

    def closes(self, path: str) -> None:
        """Does nothing: closing a file never fails here."""

    @property
    def are_due(self) -> bool:
        """Whether one is still to come."""
        return self.crash_in >= 0 or self.error_in >= 0 or self.full

    def clear(self) -> None:
        """Ends all planned faults."""
        self.crash_in = self.error_in = -1
        self.crash_near = ""
        self.full = False
        self.free_bytes = FREE_BYTES


class SimMemory:
    """How large a process is, as the faults want it: otherwise its own estimate of its state counts."""

    def __init__(self) -> None:
        self.resident = 0

    def limit_bytes(self) -> int | None:
        """None: the simulation sets no limit."""
        return None

    def resident_bytes(self) -> int | None:
        """The size of the process that the simulation pretends."""
        return self.resident

    def return_free_memory(self) -> None:
        """Does nothing."""


class Host:
    """`state`: "down", "up" (also while it starts), "frozen"; "lost" when its node refuses its damaged files."""

    def __init__(self, number: int, config: NodeConfig, rng: Rng) -> None:
        self.number = number
        self.name = config.name
        self.config = config
        self.rng = rng
        self.disk_image = DiskImage(rng)
        self.faults = DiskFaults()
        self.memory = SimMemory()
        self.state = "down"
        self.lives = 0
        self.is_stopping = False  # told to: from then on nobody waits for the node to fail, and its `stop` has to tell
        self.wiped = False
        self.lost_files = False  # while it ran
        self.has_taken_part = False
        self.uncertain = False  # its newest writes may be torn; until it votes again
        self.has_lost_a_copy = False  # of two; until it votes again
        self.rotten = False  # its files were spoilt while it runs; until it starts anew
        self.cut_power_on_crash = False
        self.slowness = 1.0
        self.wall_off_s = 0.0
        self.process: Process
        self.node: SimNode
        self.disk: SimDisk
        self.clock: SimClock
        self.filesystem: SimFilesystem

    @property
    def is_up(self) -> bool:
        """Whether the node runs and is not frozen."""
        return self.state == "up"

    @property
    def has_group(self) -> bool:
        """Whether the node runs, perhaps frozen, and has opened its group."""
        return self.state in ("up", "frozen") and self.node.lifecycle.state not in NOT_OPEN

    @property
    def votes(self) -> bool:
        """Running, and certain of its own log."""
        if not self.is_up or self.wiped or not self.has_group:
            return False
        return self.node.group.is_running and not self.node.group.raft.is_ambiguous


class Cluster:
    """All hosts, the network, the clients' processes, and the checks of all that they do. Two clusters may share a
    loop; each has a network of its own."""

    def __init__(
        self, rng: Rng, registry: Registry, count: int, *, keep_trace: bool = False, loop: SimLoop | None = None
    ) -> None:
        self.loop = loop or SimLoop()  # type: ignore[abstract]
        self.trace = Trace(self.loop, keep_trace)
        self.rng = rng
        self.network = Network(self.loop, rng.fork())
        configs = _configs(count, rng.fork())
        self.safety = SafetyChecker(self.fail, first_membership(configs[0].member_list()), lambda: self.loop.now)
        self.history = History(lambda: self.safety.last_committed, self.fail)
        self.hosts = [Host(number, config, rng.fork()) for number, config in enumerate(configs, 1)]
        for host in self.hosts:
            self.safety.durable_models[host.number] = DurableModel()
            host.faults.late = partial(self.safety.writes_after_failure, host.number)
        self.failure: Violation | None = None
        self.on_lead: Callable[[Host], None] = lambda host: None  # told of each election
        self._registry = registry
        self._segment_bytes = rng.pick((20 << 10, 20 << 10, 64 << 10))  # less than the product allows
        self._storage = watched_storage(registry.get("storage", "file"))

    # --- judging ---

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
        host.faults.has_failed = host.faults.has_been_full = False
        rng = host.rng.fork()
        rate = 1.0 + rng.seconds(-DRIFT, DRIFT)
        process = host.process = Process(self.loop, host.name, rate, rng.seconds(0.0, 1000.0))
        host.clock = SimClock(process)
        host.clock.wall_off_s = host.wall_off_s
        host.filesystem = SimFilesystem(host.disk_image, host.faults)
        host.disk = SimDisk(process, rng.fork(), lambda: self._crashed(host, process))
        host.disk.slowness = host.slowness
        host.state = "up"
        self.network.started(host.name)
        self.say(host, "starts")
        registry = self._registry_of(host, process)
        host.node = SimNode(
            host.config, registry, process, host.clock, rng, host.disk, self.safety, lambda what: self.say(host, what),
            lambda: self.on_lead(host), host.memory,
        )  # fmt: skip
        process.start(self._live(host, process))

    def give_memory(self, host: Host) -> None:
        """As much as the state may ever need: where nobody consumes, a low mark would be reached for good."""
        host.memory.resident = 0
        limits = msgspec.structs.replace(host.config.limits, memory_high_water_bytes=max(MEMORY_MARKS))
        host.config = msgspec.structs.replace(host.config, limits=limits)
        if host.state != "down" and hasattr(host.node, "memory"):
            host.node.memory.high_water_bytes = max(MEMORY_MARKS)

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
        host.process.thaw()

    def wipe(self, host: Host) -> None:
        """Its files are gone. It comes back as somebody who must not vote, and stays outside."""
        assert host.state in ("down", "lost")
        host.disk_image.wipe()
        host.wiped = True
        self.safety.wiped(host.number)

    def set_clock(self, host: Host, off_s: float) -> None:
        """Puts a host's wall clock `off_s` ahead of the right time."""
        host.wall_off_s = off_s
        if host.lives:
            host.clock.wall_off_s = off_s

    def remove_files(self, host: Host) -> None:
        """As `wipe`, of a host that is up."""
        host.disk_image.wipe()
        host.wiped = host.lost_files = True
        self.safety.wiped(host.number)

    def damage(self, host: Host) -> str:
        """Spoil a file of a host that is down. Returns what was done. Of what is kept in two copies one at most, until
        the host was whole again: who loses one and has an old state in the other cannot know."""
        spared = ("/lock", "/identity", *(COPIED if host.has_lost_a_copy else ()))
        small = self.rng.chance(0.4)  # what is no log: of that there are many files
        done = host.disk_image.damage(lambda path: not path.endswith(spared) and not (small and "/log-" in path))
        if done:
            self.safety.durable_models[host.number].spoil()
            host.has_lost_a_copy |= done.endswith(COPIED)
        return done

    def damage_end(self, host: Host) -> str:
        """The same, at the end of the newest log file that has entries."""
        sizes = {path: len(inode.now) for path, inode in host.disk_image.names.items() if "/log-" in path}
        newest = max((path for path, size in sizes.items() if size > EMPTY_LOG_BYTES), default="")
        done = host.disk_image.damage(lambda path: path == newest, at_end=True, begins=BLOCK_MAGIC)
        if done:
            self.safety.durable_models[host.number].spoil()
        return done

    def rot(self, host: Host) -> str:
        """Spoil a file that is not being written, of a host that is up: a log file that was left for another one, a
        snapshot, or one of two copies. Returns what was done."""
        paths = sorted(host.disk_image.names)
        newest = max((path for path in paths if "/log-" in path), default="")
        spared = ("/lock", "/identity", ".tmp", *(COPIED if host.has_lost_a_copy else ()))
        done = host.disk_image.damage(lambda path: not path.endswith(spared) and path != newest)
        if done:
            self.safety.durable_models[host.number].spoil()
            host.has_lost_a_copy |= done.endswith(COPIED)
        return done

    def _registry_of(self, host: Host, process: Process) -> Registry:
        def storage(settings: Any, context: Any) -> Any:
            settings = msgspec.structs.replace(settings, segment_bytes=self._segment_bytes)
            return self._storage(settings, context, host.filesystem, self.safety, host.number)

        def transport(settings: Any, context: Any) -> Any:
            return SimTransport(self.network, process, host.name)

        return SimRegistry(self._registry, {("storage", "file"): storage, ("transport", "sim"): transport})

    async def _live(self, host: Host, process: Process) -> None:
        try:
            await host.node.start()
            self.say(host, "is up")
            error = await host.node.wait_failed()
            if host.is_stopping:
                return
        except Exception as failure:
            error = failure
        if process.alive:
            self._failed(host, error)

    def _failed(self, host: Host, error: BaseException) -> None:
        """The node ends by itself."""
        self.say(host, f"ends: {type(error).__name__}")
        self.trace.note(host.name, str(error))
        durable = self.safety.durable_models[host.number]
        self._end(host, silently=False)
        if isinstance(error, StorageGone) and host.lost_files:
            return
        if isinstance(error, StorageError) and host.lost_files:
            host.state = "lost"  # a part of what it was writing then is in its directory: it is refused, and rightly
            return
        if isinstance(error, DiskFailed) and host.faults.has_failed:
            return
        if isinstance(error, DiskFailed) and host.faults.has_been_full:
            return  # it was making its directory, or had taken in a snapshot in the place of its log: no way back then
        if isinstance(error, DAMAGE_ERRORS) and durable.damaged:
            host.state = "lost"
            return
        if self.failure is None:
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

    def leader(self) -> Host | None:
        """The one that leads in the newest term."""
        leaders = [host for host in self.hosts if host.is_up and host.has_group and host.node.group.leads]
        return max(leaders, key=lambda host: host.node.group.raft.term, default=None)

    def voters(self) -> list[Host]:
        """The hosts that have a vote."""
        return [host for host in self.hosts if host.votes]

    @property
    def majority(self) -> int:
        """How many of all hosts are a majority."""
        return len(self.hosts) // 2 + 1

    def addresses(self) -> tuple[str, ...]:
        """The addresses for clients, of all hosts."""
        return tuple(host.config.client_listen for host in self.hosts)

    def node_id(self, host: Host) -> NodeId:
        """The node id of a host."""
        return NodeId(host.number)

    def client_process(self, name: str) -> tuple[Process, SimTransport]:
        """A process for a client, and its transport."""
        process = Process(self.loop, name)
        return process, SimTransport(self.network, process, name, self.history.tap)

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
        for holder in (*processes, *self.hosts, self.safety, self.history, self.network, self):
            holder.__dict__.clear()


def _configs(count: int, rng: Rng) -> list[NodeConfig]:
    """Bounds far below the defaults, so that a few hundred commands reach them."""
    members = tuple(MemberConfig(f"n{number}", f"n{number}:8300", f"n{number}:8400") for number in range(1, count + 1))
    raft = RaftConfig(
        tick_ms=100,
        heartbeat_ms=200,
        election_timeout_ms=rng.pick((1000, 1500)),
        commit_timeout_ms=100,
        snapshot_log_bytes=rng.pick((4 << 10, 16 << 10, 1 << 20)),
        snapshot_threshold=rng.pick((15, 40, 150)),
        trailing_entries=rng.pick((0, 5, 40)),
        trailing_bytes=rng.pick((0, 2 << 10, 64 << 10)),
        append_bytes=rng.pick((4 << 10, 64 << 10)),
        inflight_messages=rng.pick((1, 4, 16)),
        inflight_bytes=64 << 10,
        log_cache_bytes=rng.pick((4 << 10, 64 << 10)),
        chunk_bytes=4 << 10,
        compare_interval_s=rng.pick((1, 5)),
        scrub_interval_s=rng.pick((2.0, 10.0, 1000.0)),
    )
    limits = Limits(
        frame_bytes=64 << 10,
        entry_bytes=rng.pick((4 << 10, 64 << 10)),
        session_window=rng.pick((16, 256)),
        max_reply_bytes=rng.pick((4 << 10, 128 << 20)),
        min_free_bytes=MIN_FREE_BYTES,
        memory_high_water_bytes=rng.pick(MEMORY_MARKS),
    )
    first = NodeConfig(
        name="n1",
        members=members,
        data_dir="/disk",
        transport="sim",
        storage="file",
        codec=rng.pick(("none", "none", "zstd")),
        cluster_secret=rng.pick(("", "of a simulated cluster, in the clear".replace(" ", "-"))),
        raft=raft,
        limits=limits,
        plugins={"storage": {"file": {"segment_bytes": 64 << 10, "block_bytes": rng.pick((4 << 10, 64 << 10))}}},
    )
    return [
        msgspec.structs.replace(first, name=member.name, peer_listen=member.peer, client_listen=member.client)
        for member in members
    ]
