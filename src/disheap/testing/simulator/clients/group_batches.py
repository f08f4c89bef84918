"""Clients that make batches over several heap groups, and what is checked of them: atomic, once, and not for ever.

Owns what each batch was promised. A batch puts one message with its own payload into `sent` of each of its groups, and
may acknowledge a message of `owed` in one of them. At the end every batch is in all of its groups or in none. What was
committed is there once, what was aborted is nowhere, and the coordinator's group agrees. A message whose ack was
committed is gone, and all others are there. No lease is handed out twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from disheap.client.api.asynchronous import Batch, Client
from disheap.client.api.consuming import Delivery
from disheap.client.core.url import BrokerUrl
from disheap.client.io.asyncio_driver import Driver
from disheap.errors import CommandRefused, DisheapError, OutcomeUnknown, RequestError
from disheap.protocol import broker
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.world.loop import Process
from disheap.testing.simulator.world.rng import Rng

SENT, OWED = "sent", "owed"
"""The topics: what batches bring, and what they acknowledge. Nobody takes from the first."""
STEP_TIMEOUT_S = 4.0
SESSION_TIMEOUT_MS = 5000
REFUSED_SHARE = 0.15
"""The share of batches that the highest group refuses in part, after the others have prepared."""
PREFIX = "batch-"
"""The names of the batches' transactions begin with this."""
COMMITTED, ABORTED, UNKNOWN = "committed", "aborted", ""
Lease = tuple[int, int, int]
"""(group, message, epoch)"""
OnStep = Callable[["GroupBatcher", str, int], None]
"""Called before a client sends a command of a transaction: with its name and the group."""


@dataclass
class Attempt:
    """One batch. `acked`: the lease that it acknowledges. `outcome`: what the client was told."""

    payload: bytes
    groups: tuple[int, ...]
    acked: Lease | None = None
    transaction: str = ""
    outcome: str = UNKNOWN


@dataclass
class Ledger:
    """What all clients did. `leases`: handed to a client. `owed`: messages in `owed`, by group, as far as known."""

    attempts: list[Attempt] = field(default_factory=list)
    leases: set[Lease] = field(default_factory=set)
    owed: dict[int, set[int]] = field(default_factory=dict)
    gone: set[tuple[int, int]] = field(default_factory=set)  # (group, message): its ack is known to be committed
    objections: list[str] = field(default_factory=list)

    def count(self) -> Counter[str]:
        """How many attempts ended in each way."""
        return Counter(one.outcome for one in self.attempts)


def told_outcome(error: DisheapError) -> str:
    """What the error of a batch says of it. "committed or aborted in all groups" says nothing."""
    if isinstance(error, OutcomeUnknown):
        return UNKNOWN
    is_aborted = isinstance(error, CommandRefused) or "is aborted in all groups" in str(error)
    return ABORTED if is_aborted else UNKNOWN


class SteppedBatch(Batch):
    """A batch that tells before each command."""

    def __init__(self, driver: Driver, timeout_s: float, tell: Callable[[str, int], None]) -> None:
        super().__init__(driver, timeout_s)
        self._tell = tell

    async def _call(self, driver: Driver, asked: broker.Command | broker.Query) -> Any:
        self._tell(type(asked).__name__, driver.url.group)
        return await super()._call(driver, asked)


class GroupBatcher:
    """One client process with a session in each group."""

    def __init__(
        self,
        cluster: Cluster,
        ledger: Ledger,
        name: str,
        rng: Rng,
        groups: Sequence[int],
        pace_s: float = 0.3,
        *,
        always_all: bool = False,
    ) -> None:
        """`groups`: two or more, and with `always_all` each batch is for all of them."""
        self.cluster = cluster
        self.ledger = ledger
        self.name = name
        self.rng = rng
        self.groups = tuple(groups)
        self.on_step: OnStep = lambda batcher, step, group: None
        self.process: Process
        self.stopped = False
        self.done: asyncio.Task[Any]
        self._pace_s = pace_s
        self._fewest = len(self.groups) if always_all else 2
        self._made = 0
        self._lives = 0

    def start(self) -> None:
        """A new process, with new sessions."""
        self._lives += 1
        self.process, _ = self.cluster.client_process(self.name, self.groups[0])
        process = self.process
        transports = {group: self.cluster.transport_of(process, self.name, group) for group in self.groups}
        self.done = process.start(self._live(transports))

    def kill(self) -> None:
        """Kills the process."""
        self.cluster.end_client(self.process)

    def stop(self) -> None:
        """It ends after the batch that it is at."""
        self.stopped = True

    # --- its life ---

    async def _live(self, transports: Mapping[int, Any]) -> None:
        while not self.stopped:
            drivers = [self._driver(group, transports[group]) for group in self.groups]
            try:
                await asyncio.gather(*(driver.open(timeout_s=20.0) for driver in drivers))
                await self._work({driver.url.group: Client(driver) for driver in drivers})
            except RequestError as error:
                self.cluster.trace.add(self.name, f"begins anew: {type(error).__name__}")
            finally:
                for driver in drivers:
                    await driver.close(end_session=self.rng.chance(0.7))

    def _driver(self, group: int, transport: Any) -> Driver:
        addresses = tuple(self.rng.shuffled(self.cluster.addresses()))
        url = BrokerUrl(addresses, "sim", SESSION_TIMEOUT_MS, 2.0, STEP_TIMEOUT_S, self.name, group=group)
        return Driver(url, transport, client="batcher", generator=self.rng.fork().generator)

    async def _work(self, clients: Mapping[int, Client]) -> None:
        for client in clients.values():
            for topic in (SENT, OWED):
                await client.create_topic(topic)
        for _ in range(self.rng.between(5, 30)):
            if self.stopped:
                return
            await self._make_one(clients)
            await asyncio.sleep(self.rng.seconds(0.0, self._pace_s))

    async def _make_one(self, clients: Mapping[int, Client]) -> None:
        rng = self.rng
        groups = tuple(rng.shuffled(self.groups)[: rng.between(self._fewest, len(self.groups))])
        self._made += 1
        attempt = Attempt(b"%s-%d-%d" % (self.name.encode(), self._lives, self._made), groups)
        delivery = await self._take(clients[groups[0]], groups[0]) if rng.chance(0.6) else None
        self.ledger.attempts.append(attempt)
        if delivery is not None:
            attempt.acked = (groups[0], *delivery.token)
        try:
            await self._send(clients, attempt, delivery)
        except DisheapError as error:
            attempt.outcome = told_outcome(error)
            self.cluster.trace.add(self.name, f"{attempt.payload.decode()}: {type(error).__name__}")
            self.cluster.trace.note(self.name, str(error))
            return
        attempt.outcome = COMMITTED
        if attempt.acked is not None:
            self.ledger.gone.add(attempt.acked[:2])

    async def _send(self, clients: Mapping[int, Client], attempt: Attempt, delivery: Delivery | None) -> None:
        first, *_ = attempt.groups
        tell = lambda step, group: self.on_step(self, step, group)  # noqa: E731
        batch = SteppedBatch(clients[first].driver, STEP_TIMEOUT_S, tell)
        attempt.transaction = batch.transaction
        async with batch:
            for group in attempt.groups:
                batch.on(clients[group]).enqueue(SENT, attempt.payload)
            if self.rng.chance(REFUSED_SHARE):
                batch.on(clients[max(attempt.groups)]).enqueue("nowhere", b"")
            if delivery is not None:
                batch.ack(delivery)

    async def _take(self, client: Client, group: int) -> Delivery | None:
        """Brings a message into `owed`, and takes the first one there."""
        number = await client.topic(OWED).enqueue(b"owed by %s-%d-%d" % (self.name.encode(), self._lives, self._made))
        self.ledger.owed.setdefault(group, set()).add(number)
        deliveries = await client.topic(OWED).pop()
        for delivery in deliveries:
            lease = (group, *delivery.token)
            if lease in self.ledger.leases:
                self.ledger.objections.append(f"the lease {lease} is handed out twice")
            if lease[:2] in self.ledger.gone:
                self.ledger.objections.append(f"message {lease[:2]} is delivered after its ack was committed")
            self.ledger.leases.add(lease)
        return deliveries[0] if deliveries else None


class GroupBatches:
    """The clients of a run that make batches over several groups. They die and come back now and then."""

    def __init__(self, cluster: Cluster, rng: Rng, groups: Sequence[int]) -> None:
        self.cluster = cluster
        self.ledger = Ledger()
        self._rng = rng
        self._groups = tuple(groups)
        pace_s = rng.pick((0.5, 2.0))
        self.batchers = [
            GroupBatcher(cluster, self.ledger, f"x{number}", rng.fork(), groups, pace_s)
            for number in (1, 2)[: rng.pick((1, 1, 2))]
        ]

    def start(self) -> asyncio.Task[None]:
        """Starts the clients. Returns the task that kills them."""
        for batcher in self.batchers:
            batcher.start()
        task: asyncio.Task[None] = self.cluster.loop.create_task(self._disturb())
        return task

    async def _disturb(self) -> None:
        while True:
            await asyncio.sleep(self._rng.seconds(2.0, 15.0))
            batcher = self._rng.pick(self.batchers)
            batcher.kill()
            batcher.start()

    def are_over(self) -> bool:
        """Has the clients stop. Whether they have."""
        for batcher in self.batchers:
            batcher.stop()
        return all(batcher.done.done() for batcher in self.batchers)

    def are_decided(self) -> bool:
        """Whether no batch is open, and no group has something for another one."""
        states = self._states()
        return len(states) == len(self._groups) and not any(one.open or one.forwarding for one in states.values())

    def check(self) -> None:
        """Fails the run for whatever does not hold."""
        for batcher in self.batchers:
            batcher.done.result()
        for objection in object_to(self.ledger, self._states()):
            self.cluster.fail(objection)

    def _states(self) -> dict[int, GroupState]:
        """The states of the groups that have a leader."""
        leaders = {group: self.cluster.leader(group) for group in self._groups}
        return {
            group: read_state(host.replica(group).group.sessions.machine)
            for group, host in leaders.items()
            if host is not None
        }


# --- the end ---------------------------------------------------------------------------------------------------------


@dataclass
class GroupState:
    """What one group's machine holds at the end."""

    sent: Counter[bytes]
    owed: set[int]
    outcomes: dict[str, str]
    open: list[str]
    forwarding: int


def read_state(machine: Any) -> GroupState:
    """Reads it by queries, as a client would."""

    def ask(query: Any) -> Any:
        return broker.decode_reply.decode(machine.query(0, 0, broker.encode(query)))

    names = {one.topic for one in ask(broker.ListTopics()).topics}
    peeked = {
        topic: ask(broker.Peek(topic, 1000, delayed=True, leased=True)).messages if topic in names else []
        for topic in (SENT, OWED)
    }
    finished = machine._state.transactions.finished
    return GroupState(
        Counter(one.payload for one in peeked[SENT]),
        {one.id for one in peeked[OWED]},
        {name: COMMITTED if one.is_committed else ABORTED for name, one in finished.items()},
        [one.transaction for one in ask(broker.ListTransactions()).transactions if one.transaction.startswith(PREFIX)],
        ask(broker.GetStats()).forwarding,
    )


def object_to(ledger: Ledger, states: Mapping[int, GroupState]) -> list[str]:
    """Everything that does not hold, in words."""
    found = list(ledger.objections)
    for group, state in states.items():
        if state.open or state.forwarding:
            found.append(f"group {group} is left with {state.open} open, and {state.forwarding} messages to others")
    acked: dict[tuple[int, int], str] = {}
    for attempt in ledger.attempts:
        here = [states[group].sent[attempt.payload] for group in attempt.groups]
        if set(here) not in ({0}, {1}):
            found.append(f"{attempt} is there {here} times in its groups")
            continue
        outcome = COMMITTED if here[0] else ABORTED
        if attempt.outcome not in (UNKNOWN, outcome):
            found.append(f"{attempt} was told, and is {outcome}")
        told = states[min(attempt.groups)].outcomes.get(attempt.transaction, ABORTED)
        if told != outcome:
            found.append(f"{attempt} is {outcome}, and the coordinator's group says {told}")
        if attempt.acked is not None and outcome == COMMITTED:
            if attempt.acked[:2] in acked:
                found.append(f"{attempt} acknowledges what {acked[attempt.acked[:2]]} has acknowledged")
            acked[attempt.acked[:2]] = attempt.transaction
    found += [f"payload {payload!r} is nobody's" for payload in _strangers(ledger, states)]
    for group, numbers in ledger.owed.items():
        for number in numbers:
            is_acked = (group, number) in acked
            if (number in states[group].owed) == is_acked:
                found.append(
                    f"message {number} of group {group} is {'acknowledged, and there' if is_acked else 'lost'}"
                )
    return found


def _strangers(ledger: Ledger, states: Mapping[int, GroupState]) -> set[bytes]:
    known = {attempt.payload for attempt in ledger.attempts}
    return {payload for state in states.values() for payload in state.sent if payload not in known}
