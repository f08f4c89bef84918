"""One run: a cluster, its clients, faults, healing, progress, judgement. All of it follows from the seed."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import nullcontext
from typing import Any

import msgspec

from disheap.client.api.asynchronous import Client
from disheap.client.core.url import BrokerUrl
from disheap.client.io.asyncio_driver import Driver
from disheap.errors import RequestError
from disheap.plugins.registry import Registry
from disheap.protocol import broker
from disheap.runtime.state.sessions import SESSION_TIME_SHIFT
from disheap.testing.simulator.cluster import Cluster, Host
from disheap.testing.simulator.faults import FaultInjector
from disheap.testing.simulator.liveness_checks import LivenessChecks
from disheap.testing.simulator.loop import Livelock
from disheap.testing.simulator.probes import Probes
from disheap.testing.simulator.replay import Replay
from disheap.testing.simulator.rng import Rng
from disheap.testing.simulator.safety import Violation
from disheap.testing.simulator.session_liveness import SessionLiveness
from disheap.testing.simulator.stranger import Stranger
from disheap.testing.simulator.trace import product_logs_in
from disheap.testing.simulator.workload import Promises, Worker

LEADER_BOUND_S = 60.0
"""Virtual time after healing within which a leader has committed in its own term."""
ROOM_BOUND_S = 10.0
"""Each node has looked at its disk."""
SERVED_BOUND_S = 60.0
"""Each client has had an answer from the log."""
STRANGER_SEED, STRANGER_SHARE = 0x57A26E2, 0.6
"""A stranger comes in this share of the runs. Its draws are its own, so the other runs are as they would be without."""
DRAIN_BOUND_S = 120.0
"""And every topic is empty."""

LIVENESS_BOUND_S = 200.0
"""All checks have ended; each has a bound of its own."""


class Plan(msgspec.Struct, frozen=True):
    """What to simulate: the seed, and what it may not choose itself."""

    seed: int
    nodes: int = 0  # 0: the seed says how many
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
        self.cluster = Cluster(rng.fork(), registry, count, keep_trace=plan.keep_trace)
        self.promises = Promises()
        pace_s = rng.pick((0.1, 0.3, 0.6))
        self.workers = [
            Worker(self.cluster, self.promises, f"c{number}", rng.fork(), pace_s)
            for number in range(1, rng.between(2, 4) + 1)
        ]
        self.probes = Probes(self.cluster, rng.fork(), rng.pick((0.2, 1.0, 3.0)))
        self.cluster.on_lead = self._elected
        self.injector = FaultInjector(
            self.cluster, self.workers, self.probes, rng.fork(), rng.pick((0.5, 1.5, 4.0, 10.0))
        )
        self.session_liveness = SessionLiveness(self.cluster, self.workers, lambda: self.injector.learner)
        self.cluster.safety.on_commit = self.session_liveness.committed
        self.duration_s = rng.seconds(15.0, 45.0)
        self._rare: dict[str, int] = {}
        self._rng = rng
        own = Rng(plan.seed ^ STRANGER_SEED)
        is_there = own.chance(STRANGER_SHARE)
        self.stranger = Stranger(self.cluster, own, own.pick((0.3, 1.0, 3.0))) if is_there else None

    def _elected(self, host: Host) -> None:
        self.probes.ask(host)
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
        probing = cluster.loop.create_task(self.probes.make())
        watching = cluster.loop.create_task(self.session_liveness.watch())
        if self.stranger is not None:
            self.stranger.start()
        await self.injector.inject(self.duration_s)
        if self.stranger is not None:
            self.stranger.end()
        self.injector.heal_all()
        cluster.check_errors()
        await self._wait(self._leads, LEADER_BOUND_S, "no leader although all is healed")
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
        await self._drain()
        await self._wait(self._all_equal, LEADER_BOUND_S, "a node does not catch up although all is healed")
        await self._wait(self._have_room, ROOM_BOUND_S, "a node is short of room although there is some")
        probing.cancel()
        watching.cancel()
        await self._check_liveness()
        self.probes.check()

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

    def _leads(self) -> bool:
        leader = self.cluster.leader()
        if leader is None:
            return False
        group = leader.node.group
        return group.applied.term == group.raft.term

    def _all_equal(self) -> bool:
        hosts = [host for host in self.cluster.hosts if host.state == "up" and not host.wiped]
        if not all(host.has_group for host in hosts):
            return False
        return len({host.node.group.applied.index for host in hosts}) == 1

    def _have_room(self) -> bool:
        """On the disks and in memory; and nobody refuses any more."""
        nodes = [host.node for host in self.cluster.hosts if host.has_group]
        watches = [watch.status() for node in nodes for watch in (node.maintenance.disk_space, node.memory)]
        return not any(status["is_short"] or status["refuses"] for status in watches)

    def _describe_nodes(self) -> str:
        words = []
        for host in self.cluster.hosts:
            if host.has_group:
                raft = host.node.group.raft
                words.append(
                    f"{host.name} {host.state} {raft.role.value} term {raft.term} last {raft.last_index} commit "
                    f"{raft.commit} applied {host.node.group.applied.index}{' ambiguous' if raft.is_ambiguous else ''}"
                    f" {host.node.lifecycle.state.value}"
                    f"{' wiped' if host.wiped else ''}"
                )
            else:
                words.append(f"{host.name} {host.state}")
        return "; ".join(words)

    async def _check_liveness(self) -> None:
        """What a healthy cluster can do."""
        process, transport = self.cluster.client_process("check")
        done = process.start(LivenessChecks(self.cluster, self._rng.fork()).run(transport))
        await self._wait(done.done, LIVENESS_BOUND_S, "the checks do not end")
        done.result()
        await self._wait(self._all_equal, LEADER_BOUND_S, "a node does not catch up after the checks")

    # --- the end ---

    async def _drain(self) -> None:
        """A client of its own takes everything out of every topic."""
        cluster = self.cluster
        process, transport = cluster.client_process("drain")
        done = process.start(self._take_everything(transport))
        await self._wait(done.done, DRAIN_BOUND_S, "the topics are not empty although all is healed")
        done.result()

    async def _take_everything(self, transport: Any) -> None:
        url = BrokerUrl(self.cluster.addresses(), "sim", 5000, 2.0, DRAIN_BOUND_S, "drain")
        driver = Driver(url, transport, client="drain", generator=self._rng.fork().generator)
        client = Client(driver)
        await driver.open()
        while True:
            infos = await client.topics()
            left = [info for info in infos if info.ready or info.delayed or info.leased]
            if not left:
                break
            for info in left:
                await self._empty(client, info)
            await asyncio.sleep(0.5)
        self.cluster.trace.add("drain", "all topics are empty")
        await driver.close()

    async def _empty(self, client: Client, info: broker.TopicInfo) -> None:
        try:
            for delivery in await client.topic(info.topic).pop(50):
                await delivery.ack()
        except RequestError as error:  # another session's own, or deleted meanwhile
            self.cluster.trace.add("drain", f"{info.topic}: {type(error).__name__}")

    def _judge(self) -> None:
        cluster = self.cluster
        safety = cluster.safety
        limits = cluster.hosts[0].config.limits
        replay = Replay(SESSION_TIME_SHIFT, limits.session_window, limits.max_reply_bytes, safety.submitted)
        cluster.history.check(safety.log, replay, safety.tables)
        for expired in replay.expired:
            if expired in self.session_liveness.objections:
                cluster.fail(self.session_liveness.objections[expired])
        self._rare = {**replay.machine.seen, "dropped": replay.model.dropped}
        messages = replay.machine.messages
        for number, message in self.promises.enqueued.items():
            if number not in messages or messages[number][1] != message:
                cluster.fail(f"message {number} was confirmed as {message}, and is {messages.get(number)}")
        present = {message.payload for _, message in messages.values()}
        for payload, code in self.promises.refused.items():
            if payload in present:
                cluster.fail(f"{payload[:40]!r} was refused ({code}), and is there")
        self._check_twice(replay)

    def _log_digest(self) -> str:
        """Everything that was committed, in one word: the runs of one seed have the same log, byte by byte."""
        digest = hashlib.blake2b(digest_size=16)
        for entry in self.cluster.safety.log:
            digest.update(f"{entry.term} {entry.index} {entry.kind} {entry.time_ms} ".encode() + entry.data)
        return digest.hexdigest()

    def _check_twice(self, replay: Replay) -> None:
        """One command, one message in a topic."""
        seen: dict[tuple[str, bytes], int] = {}
        for number, (topic, message) in replay.machine.messages.items():
            place = topic, message.payload
            if place in seen:
                self.cluster.fail(f"{place[1][:40]!r} is in {topic!r} twice: messages {seen[place]} and {number}")
            seen[place] = number

    def _result(self, violation: str, real_s: float) -> Result:
        cluster, promises = self.cluster, self.promises
        return Result(
            seed=self.plan.seed,
            nodes=len(cluster.hosts),
            violation=violation,
            lines=list(cluster.trace.lines),
            digest=cluster.trace.digest(),
            simulated_s=cluster.loop.now,
            real_s=real_s,
            operations=promises.operations,
            failed_operations=promises.failed,
            by_kind=promises.by_kind,
            rare=self._rare,
            faults=cluster.trace.counts,
            entries=len(cluster.safety.log),
            elections=cluster.safety.elections,
            deliveries=cluster.history.deliveries,
            checks=cluster.safety.checks,
            watched_s=self.session_liveness.watched_s,
            steps=cluster.loop.steps,
        )


def simulate(plan: Plan, registry: Registry | None = None) -> Result:
    """Runs one plan with the installed plugins."""
    return Run(plan, registry or Registry.load()).carry_out()
