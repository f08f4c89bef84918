"""Members that come and go while a run lasts, as operators and supervisors would have them do.

Nodes join with empty disks, leave, and move to other addresses. They lose their vote and get it back. Some are removed
while they are cut off, and some are replaced after they lost their disk. Some ask to be let in and must not be. Nodes
move where they share a secret, because without one nobody would believe it.

Everything goes through the requests that the command line makes. The draws are of a generator of their own. What must
hold meanwhile is in `checks.membership`.

A removed node goes on running for a while, and is started again. It must do no harm, and know what became of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from disheap.errors import InternalError, InvalidArgument, RequestError
from disheap.runtime.membership.directory import record_of, role_of
from disheap.testing.simulator.cluster.cluster import Cluster
from disheap.testing.simulator.cluster.configs import joining
from disheap.testing.simulator.cluster.hosts import Host
from disheap.testing.simulator.faults.actions import FaultActions
from disheap.testing.simulator.world.rng import Rng

Answer = dict[str, Any]
Kind = tuple[Callable[[], Awaitable[None]], int]

ANSWER_S = 12.0
"""Longer than a node waits for a change."""
OPEN_S = 31.0
"""For so long after `ANSWER_S` a request without an answer may still be carried out. `leave` takes up to 30 s."""
MAX_ASKED = 6
"""Times that an operator asks again, because the leader is another one by now."""
MAX_VOTERS = 5
MAX_HOSTS = 6
"""At a time. Each costs the run as much as each of the others."""
NEVER = (InvalidArgument, InternalError)
"""What a node never answers to these requests."""


class MembershipChanges:
    """`make` changes until it is cancelled, then `finish`."""

    def __init__(self, cluster: Cluster, actions: FaultActions, rng: Rng, pace_s: float) -> None:
        self._cluster = cluster
        self._actions = actions
        self._rng = rng
        self._pace_s = pace_s
        self._largest = max(4, len(cluster.hosts))
        self._removed: dict[Host, None] = {}  # that still run; they are known to be removed
        self._outsiders: dict[Host, int] = {}  # that must not be let in, and the member whose name they have; or 0
        self._kinds = self._choose_kinds()

    def _choose_kinds(self) -> list[Kind]:
        kinds: list[Kind] = [
            (self._join, 6),
            (self._remove, 3),
            (self._remove_leader, 2),
            (self._remove_while_cut_off, 2),
            (self._leave, 2),
            (self._demote, 2),
            (self._promote, 2),
            (self._replace, 4),
            (self._move, 4 if self._cluster.first_config.cluster_secret else 0),
            (self._two_at_once, 2),
            (self._ask_in_vain, 1),
        ]
        chosen = [kind for kind in kinds if self._rng.chance(0.6) and kind[1]]
        return chosen or kinds[:2]

    async def make(self) -> None:
        """One change after another."""
        while True:
            await asyncio.sleep(self._pace_s * self._rng.seconds(0.3, 1.7))
            self.note_removals()
            kind = self._rng.weighted(self._kinds)
            if self._have_started():
                await kind()

    def _have_started(self) -> bool:
        """Whether each member of a static list has taken part once. One whose first start is not over waits for the
        welcome of all others for ever, also of one that is removed meanwhile. So the page says to wait for it."""
        self._actions.have_started()
        return all(host.has_taken_part or not host.config.members for host in self._cluster.members())

    def note_removals(self) -> None:
        """Notices who was removed, whoever has asked for that."""
        groups = [one.safety.changes for one in self._cluster.groups]
        for host in self._cluster.hosts:
            is_removed = bool(host.id) and all(host.id in one.removed for one in groups)
            if not is_removed:
                self._removed.pop(host, None)  # it has lost its disk, and joined anew
            elif host not in self._removed:
                self._removed[host] = None
                self._cluster.say(host, "is removed")
                self._actions.later(0.5, 4.0, lambda host=host: self._restart_removed(host))  # type: ignore[misc]
                self._actions.later(5.0, 12.0, lambda host=host: self._retire_removed(host))  # type: ignore[misc]

    # --- the end ---

    def are_settled(self) -> bool:
        """Whether nothing is left to change by itself, and each removed node that runs knows of it."""
        self.note_removals()
        self._follow_members()
        leader = self._cluster.leader(0)
        if leader is None:
            return False
        given_up = {host.id for host in self._cluster.hosts if self._is_given_up(host, leader)}
        members = leader.replica(0).group.raft.membership.members
        joins = any(role_of(member) == "joining" and member.id not in given_up for member in members)
        return not joins and self._are_equal(given_up) and not self._untold()

    def _follow_members(self) -> None:
        """A node that asks to join where no member is left asks at the present ones, as its operator would have it."""
        peers = [one.config.peer_listen for one in self._cluster.members() if one.has_group and not one.wiped]
        for host in self._cluster.hosts:
            asks = host.is_up and not host.node.replicas and host not in self._outsiders
            asked = host.config.join_addresses
            if asks and peers and asked and not set(asked) & set(peers):
                self._cluster.say(host, f"asks at {peers} from now on, and no more at {list(asked)}")
                host.config = msgspec.structs.replace(host.config, join_addresses=tuple(peers))
                self._cluster.kill(host)
                self._cluster.start(host)

    def _is_given_up(self, host: Host, leader: Host) -> bool:
        """Whether its data are gone for good, so that no group gives it a vote any more. A node that asks to join,
        and of whose data the leader has never heard, is let in under another id. So it is waited for."""
        group = leader.replica(0).group
        learners = {int(one.id): record_of(one).peer for one in group.raft.membership.members if not one.voter}
        is_new = all(peer.match == 0 for peer in group.raft.peers() if peer.id == host.id)
        is_let_in = is_new and bool(host.config.join_addresses) and learners.get(host.id) == host.config.peer_listen
        return host.state == "lost" or (host.wiped and not is_let_in)

    def _are_equal(self, given_up: set[int]) -> bool:
        """Whether all groups have the same members and voters, and none is about to change them. A node that lost its
        data when it had its vote in some groups never gets it in the others."""
        groups = [one.safety.changes for one in self._cluster.groups]
        known = {(one.ids, frozenset(one.voters) - given_up) for one in groups}
        return all(len(one.voter_sets()) == 1 for one in groups) and len(known) == 1

    def _untold(self) -> list[Host]:
        return [host for host in self._removed if host.is_up and not host.wiped and not host.is_told_of_its_removal]

    def retire_all(self) -> None:
        """Who does not belong to the cluster is gone."""
        for host in [*self._removed, *self._outsiders]:
            self._retire(host)

    # --- kinds ---

    async def _join(self) -> None:
        """A node with an empty disk. Sometimes it is to stay without a vote."""
        if len(self._cluster.hosts) < MAX_HOSTS and len(self._cluster.member_ids()) < min(self._largest, MAX_VOTERS):
            self._add(f"n{self._cluster.count + 1}", f"n{self._cluster.count + 1}", self._rng.chance(0.2), "joins")

    async def _remove(self) -> None:
        host = self._pick(lambda host: True)
        if host is not None:
            await self._change("remove", host)

    async def _remove_leader(self) -> None:
        """It hands over first, and its successor removes it."""
        leader = self._cluster.leader(0)
        if leader is not None:
            await self._change("remove", leader)

    async def _remove_while_cut_off(self) -> None:
        """It hears of nothing, and goes on asking for votes."""
        host = self._pick(lambda host: host.is_up and host is not self._cluster.leader(0))
        if host is not None:
            others = [one.name for one in self._cluster.hosts if one is not host]
            self._actions.record("isolated", host, "to be removed")
            pairs = [pair for one in others for pair in ((host.name, one), (one, host.name))]
            self._actions.cut(pairs, 3.0, 10.0, self._rng.pick((0.0, 0.3)))
            await self._change("remove", host)

    async def _leave(self) -> None:
        host = self._pick(lambda host: host.is_up and host.has_group)
        if host is not None:
            await self._ask(host, {"op": "leave"})

    async def _demote(self) -> None:
        host = self._pick(lambda host: True)
        if host is not None:
            await self._change("demote", host)

    async def _promote(self) -> None:
        voters = self._cluster.groups[0].safety.changes.voters
        host = self._pick(lambda host: host.id not in voters)
        if host is not None:
            await self._change("promote", host)

    async def _replace(self) -> None:
        """A node that has lost its disk: another one gets its name, on the same machine or on another one."""
        lost = self._pick(lambda host: host.wiped)
        if lost is None:
            lost = self._pick(lambda host: host.has_taken_part and self._actions.may_lose_writes(host))
            if lost is None or len(self._cluster.member_ids()) < 3:
                return
            self._actions.record("wipe", lost, "to be replaced")
            if lost.state in ("up", "frozen"):
                self._cluster.kill(lost)
            self._cluster.wipe(lost)
            if self._rng.chance(0.5):
                self._cluster.start(lost)  # under its old identity: it must stay outside
                await asyncio.sleep(self._rng.seconds(0.5, 4.0))
        name = lost.config.name
        if await self._change("replace", lost) is None:
            return
        is_same = self._rng.chance(0.5) and lost in self._cluster.hosts
        machine = lost.name if is_same else f"n{self._cluster.count + 1}"
        if is_same and lost.config.join_addresses:  # it asks by itself, and may have been let in before the answer came
            self._actions.start_if_down(lost)()
            return
        if is_same:
            self._retire(lost)
        self._add(name, machine, False, "joins as a replacement")

    async def _move(self) -> None:
        """To another port. The node says so itself when it is back. One at a time, as the page says: it knows where the
        others are. See `FaultActions.is_found` for one whose files are spoilt."""
        host = self._pick(lambda host: host.is_up and host.has_group and not host.wiped and self._knows_members(host))
        if host is not None and (host.config.members or not host.rotten):
            self._cluster.kill(host)
            config, port = host.config, int(host.config.peer_listen.rpartition(":")[2]) + 1
            peer, client = f"{host.name}:{port}", f"{host.name}:{port + 100}"
            members = tuple(
                msgspec.structs.replace(one, peer=peer, client=client) if one.name == config.name else one
                for one in config.members
            )
            self._actions.record("move", host, f"to {peer}")
            host.config = msgspec.structs.replace(config, peer_listen=peer, client_listen=client, members=members)
            self._actions.later(0.1, 3.0, self._actions.start_if_down(host))

    def _knows_members(self, host: Host) -> bool:
        """Whether each of its logs has a membership that is committed and durable. Before, the configured list counts,
        and must not change."""
        groups = [host.replica(one.number).group for one in self._cluster.groups]
        logged = {record_of(one).peer for one in groups[0].applied.membership.members}
        are_found = all(one.config.peer_listen in logged for one in self._cluster.members() if one is not host)
        return are_found and all(0 < group.raft.membership_index <= group.applied.index for group in groups)

    async def _two_at_once(self) -> None:
        one, other = self._pick(lambda host: True), self._pick(lambda host: True)
        if one is not None and other is not None:
            ops = self._rng.pick((("demote", "promote"), ("remove", "demote"), ("promote", "remove")))
            await asyncio.gather(*(self._change(op, host) for op, host in zip(ops, (one, other), strict=True)))

    async def _ask_in_vain(self) -> None:
        """A node with the name of a member, or of another cluster. It must not get in."""
        taken = self._pick(lambda host: host.has_taken_part and host.id not in self._cluster.groups[0].safety.gone)
        if taken is None or len(self._cluster.hosts) >= MAX_HOSTS or self._outsiders:
            return
        machine, name_of = f"n{self._cluster.count + 1}", taken.id
        if self._rng.chance(0.5):
            host = self._add(taken.config.name, machine, False, "asks with a name that is taken")
        else:
            host, name_of = self._add(machine, machine, False, "asks another cluster", cluster="another"), 0
        self._outsiders[host] = name_of
        self._actions.later(2.0, 8.0, lambda: self._retire_outsider(host))

    # --- machines ---

    def _add(self, name: str, machine: str, learner: bool, what: str, **changes: Any) -> Host:
        """A machine whose node asks one or two members to let it in."""
        members = self._rng.shuffled(self._cluster.members() or self._cluster.hosts)[:2]
        addresses = [host.config.peer_listen for host in members]
        config = joining(self._cluster.first_config, name, machine, addresses, learner)
        host = self._cluster.add(self._rng.fork(), msgspec.structs.replace(config, **changes), machine)
        self._actions.record(what, host, f"by {addresses}")
        self._cluster.start(host)
        return host

    def _restart_removed(self, host: Host) -> None:
        if host in self._cluster.hosts and host.is_up:
            self._cluster.kill(host)
            self._cluster.start(host)

    def _retire_removed(self, host: Host) -> None:
        """Retires the host, unless it has lost its disk and asks to be let in. It may be a member by now."""
        self.note_removals()
        if host in self._removed and not (host.wiped and host.config.join_addresses):
            self._retire(host)

    def _retire_outsider(self, host: Host) -> None:
        """Retires the host, unless it turned out since that it may be a member."""
        if host in self._outsiders:
            self._retire(host)

    def _retire(self, host: Host) -> None:
        if host not in self._cluster.hosts:
            return
        if host in self._outsiders and self._may_be_let_in(host):
            del self._outsiders[host]  # it joins like every other node, and may have done so
            if host not in self._removed:
                return
        self._removed.pop(host, None)
        self._outsiders.pop(host, None)
        self._cluster.retire(host)

    def _may_be_let_in(self, host: Host) -> bool:
        """Whether the member whose name the outsider has was removed meanwhile. Fails the run if it is in before."""
        changes, other = self._cluster.groups[0].safety.changes, self._outsiders[host]
        is_free = other in changes.removed
        if host.id and not (is_free and changes.added_at(host.id) > changes.removed[other]):
            self._cluster.fail(f"{host.name} was let in as node {host.id}, and must not be")
        return is_free

    def _pick(self, fits: Callable[[Host], bool]) -> Host | None:
        """One of the members."""
        fitting = [host for host in self._cluster.members() if fits(host)]
        return self._rng.pick(fitting) if fitting else None

    # --- requests ---

    async def _change(self, op: str, host: Host) -> Answer | None:
        """As an operator asks for it, of whoever leads by then. Returns None if it was refused or not answered."""
        self._cluster.trace.fault(f"{op} a member", "OPERATOR", host.name)
        for _ in range(MAX_ASKED):
            leader = self._cluster.leader(0)
            if leader is not None:
                answer, error = await self._ask(leader, {"op": op, "target": str(host.id)})
                if answer is not None or error not in ("NotLeader", "ChangeInProgress", "MemberAlive"):
                    return answer
            await asyncio.sleep(self._rng.seconds(0.3, 1.0))
        return None

    async def _ask(self, host: Host, request: Answer) -> tuple[Answer | None, str]:
        """Returns (answer, ""), or (None, the kind of the error). It is "" if there was no answer in time, or if the
        change would leave too few that have their data."""
        if request["op"] == "promote":
            return await self._ask_node(host, request)
        node, leaving = int(request.get("target", host.id)), self._actions.leaving
        if not self._actions.may_take_vote(node):
            return None, ""
        leaving.append(node)
        answer, error = await self._ask_node(host, request)
        over_s = 0.0 if answer is not None or error else OPEN_S
        self._cluster.loop.at(self._cluster.loop.now + over_s, lambda: leaving.remove(node), ())
        return answer, error

    async def _ask_node(self, host: Host, request: Answer) -> tuple[Answer | None, str]:
        answers: list[tuple[Answer | None, str]] = []

        async def ask() -> None:
            try:
                answers.append((await host.node.admin(dict(request)), ""))
            except NEVER as error:
                self._cluster.fail(f"{host.name}: {request} is refused: {type(error).__name__}: {error}")
            except RequestError as error:
                self._cluster.trace.note("OPERATOR", str(error))
                answers.append((None, type(error).__name__))

        process = host.process
        process.start(ask())
        over_at = self._cluster.loop.now + ANSWER_S
        while not answers and process.alive and self._cluster.loop.now < over_at:
            await asyncio.sleep(0.1)
        answer = answers[0] if answers else (None, "")
        self._cluster.trace.add(
            "OPERATOR", f"{request} at {host.name}: {answer[1] or ('done' if answers else 'no answer')}"
        )
        return answer
