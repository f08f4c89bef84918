"""No session of a group lapses while a majority is up and its client can reach it (Raft dissertation §6.3).

A *reachable majority* of a client is a set of hosts for which this holds at all times. Its nodes run, vote and are
certain of their logs. Their disks and links are as fast as usual. Each of them reaches each other one and the client,
in both directions. Every other node is down, stands still, is cut off from all of the set, or reaches all of the set
and the client. So whoever leads is in reach of the client, or is replaced.

A client that had no such majority may have been silent for nearly a whole timeout. It has `GRACE_S` to be heard of
again, in which a leader may have to be elected first. From there on its session must not end by itself, whatever
happens to the other nodes.
"""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from disheap.kernel.types import Entry, EntryKind
from disheap.protocol.frames import Kind
from disheap.testing.simulator.checks.envelopes import read_envelopes
from disheap.testing.simulator.cluster.cluster import CLOCK_OFF_S

if TYPE_CHECKING:
    from disheap.testing.simulator.clients.client import SimulatedClient
    from disheap.testing.simulator.cluster.cluster import Cluster, GroupChecks
    from disheap.testing.simulator.cluster.hosts import Host

LOOK_S = 0.1
"""Between two looks at what reaches what. Half as long as the shortest cut; a restart is known by its number."""
GRACE_S = 12.0
"""Two elections of at most 3 s each, should the first one split the votes. Besides: a node that is given up after 2 s,
the pauses of a client that searches, and an ATTACH."""


class Connectivity(NamedTuple):
    """What reaches what at one moment. A set of hosts is a number; bit N - 1 is the host with the number N."""

    good: int
    alive: int
    cut: dict[int, int]  # by bit of a host: to or from whom a way is cut
    severed: dict[int, int]  # by bit of a host: to and from whom it is
    clients: dict[str, int]  # by client: the hosts to or from which a way is cut

    def needed(self, majority: int) -> int:
        """The hosts that a client must reach, so that this majority is reachable to it. 0 if nobody's is."""
        if majority & ~self.good or any(self.cut[host] & majority for host in _hosts_of(majority)):
            return 0
        needed = majority
        for host in _hosts_of(self.alive & ~majority):
            if not self.cut[host] & majority:
                needed |= 1 << host
            elif self.severed[host] & majority != majority:
                return 0
        return needed


class SessionLiveness:
    """Looks from time to time, and remembers since when each client has had each majority in reach."""

    def __init__(self, cluster: Cluster, checks: GroupChecks, workers: list[SimulatedClient]) -> None:
        self.watched_s = 0.0  # how long sessions were not allowed to lapse, of all clients together
        self.objections: dict[tuple[int, int], str] = {}  # (index, session): why it must not end there
        self._cluster = cluster
        self._group = checks.number
        self._workers = workers
        self._changes = checks.safety.changes
        self._counted = -1  # the number of changes that the majorities are of
        self._majorities: list[int] = []
        self._since: dict[tuple[str, int], tuple[object, float]] = {}  # (client, majority) -> (which lives, when)

    async def watch(self) -> None:
        """Watches until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.note_reach()
            self.watched_s += LOOK_S * sum(self._must_live(worker) for worker in self._workers)

    def note_reach(self) -> None:
        """Note since when each client can reach each majority. Called every `LOOK_S`."""
        if self._counted != self._changes.number:
            self._count_majorities()
        links, now = self._connectivity(), self._cluster.loop.now
        hosts = {host.number - 1: host for host in self._cluster.hosts}
        known = {worker.name: self._known_to(worker) for worker in self._workers}
        for majority in self._majorities:
            needed = links.needed(majority) if links is not None else 0
            lives = tuple(hosts[host].lives for host in _hosts_of(majority))
            for worker in self._workers:
                key, which = (worker.name, majority), (worker.process, lives)
                is_here = worker.process.alive and not worker.process.frozen and not majority & ~known[worker.name]
                if links is None or not needed or not is_here or links.clients[worker.name] & needed:
                    self._since.pop(key, None)
                elif self._since.get(key, (None, 0.0))[0] != which:
                    self._since[key] = which, now

    def _known_to(self, worker: SimulatedClient) -> int:
        """The hosts that it was told of when it started, or by a node since."""
        hosts, known = self._cluster.hosts, worker.known_addresses
        return sum(1 << host.number - 1 for host in hosts if host.config.client_listen in known)

    def _count_majorities(self) -> None:
        """A set that is a majority by each membership in question, and would be none with a host less. What holds for
        a set holds for these in it. A set that goes on being one keeps its time."""
        self._counted = self._changes.number
        places = {host.id: host.number - 1 for host in self._cluster.hosts}
        sets = [sum(1 << places[node] for node in voters if node in places) for voters in self._changes.voter_sets()]
        sizes = [len(voters) for voters in self._changes.voter_sets()]
        union = functools.reduce(operator.or_, sets)

        def is_majority(some: int) -> bool:
            return all(2 * (some & one).bit_count() > size for one, size in zip(sets, sizes, strict=True))

        self._majorities = [
            some
            for some in _subsets_of(union)
            if is_majority(some) and not any(is_majority(some & ~(1 << host)) for host in _hosts_of(some))
        ]
        self._since = {key: since for key, since in self._since.items() if key[1] in self._majorities}

    def committed(self, entry: Entry) -> None:
        """A new entry of the log: whose sessions does it end by itself?"""
        if entry.kind != EntryKind.COMMANDS:
            return
        ending = set(_expired(entry.data))
        holders = [worker for worker in self._workers if worker.session_id in ending] if ending else []
        if holders:
            self.note_reach()
        for worker in holders:
            if self._must_live(worker):
                number, passed_s = worker.session_id, self._reachable_s(worker)
                self.objections[int(entry.index), number] = (
                    f"session {number} lapses at {entry.index}, and {worker.name} had a majority in reach for the last "
                    f"{passed_s:.1f} s"
                )
                self._cluster.say_check(self.objections[int(entry.index), number])

    def _must_live(self, worker: SimulatedClient) -> bool:
        return worker.session_id != 0 and self._reachable_s(worker) >= GRACE_S

    def _reachable_s(self, worker: SimulatedClient) -> float:
        """For how long one and the same majority has been in reach."""
        begins = [began for (name, _), (_, began) in self._since.items() if name == worker.name]
        return self._cluster.loop.now - min(begins, default=self._cluster.loop.now)

    def _connectivity(self) -> Connectivity | None:
        """None while a node or a link between nodes is slow or loses messages: such a one may lead, and badly."""
        hosts = self._cluster.hosts
        places = {host.name: host.number - 1 for host in hosts}
        none = dict.fromkeys(places.values(), 0)
        links = Connectivity(0, 0, none, dict(none), {worker.name: 0 for worker in self._workers})
        good = alive = 0
        for host in hosts:
            place = host.number - 1
            if host.is_up:
                alive |= 1 << place
                good |= self._is_good(host) << place
                if host.slowness != 1.0:
                    return None
        network = self._cluster.network
        for source, target, link in network.links():
            if source in places and target in places:
                if link.is_poor:
                    return None
                if link.cut:
                    for one, other in ((source, target), (target, source)):
                        links.cut[places[one]] |= 1 << places[other]
                        links.severed[places[one]] |= network.link(target, source).cut << places[other]
            elif link.cut:
                client, host_name = (source, target) if target in places else (target, source)
                if client in links.clients and host_name in places:
                    links.clients[client] |= 1 << places[host_name]
        return links._replace(good=good, alive=alive)

    def _is_good(self, host: Host) -> bool:
        is_sound = host.votes_in(self._group) and not host.faults.full
        return is_sound and abs(host.wall_off_s) <= CLOCK_OFF_S


def _hosts_of(some: int) -> Iterator[int]:
    while some:
        host = some & -some
        yield host.bit_length() - 1
        some ^= host


def _subsets_of(some: int) -> Iterator[int]:
    subset = some
    while subset:
        yield subset
        subset = (subset - 1) & some


def _expired(data: bytes) -> Iterator[int]:
    """The sessions that an entry ends because nothing was heard of them."""
    return (envelope.session for envelope in read_envelopes(data) if envelope.kind == Kind.EXPIRE)
