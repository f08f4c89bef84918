"""Changes the members, while this node leads.

Owns the steps of a leader: it lets nodes join, promotes learners that are close, takes over new addresses, and does
what an operator asks. The pure rules are in `changes`. The kernel holds one change at a time.

Members are members of all groups, and each group has its own log. Group 0 decides. Whoever leads another group compares
its members with those that group 0 has applied on this node. It makes the group follow, one change at a time. A leader
whose group 0 lags behind does nothing wrong. It removes only members that its group 0 has known. An id that was removed
is never added again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import msgspec

from disheap.errors import (
    ChangeInProgress,
    InvalidArgument,
    MemberAlive,
    NotCaughtUp,
    NotLeader,
    OutcomeUnknown,
    QuorumAtRisk,
    RequestError,
    RequestTimeout,
)
from disheap.kernel.membership import last_id_of, voters_of
from disheap.kernel.types import NOBODY, Index, Member, Membership, NodeId
from disheap.logs import get_logger
from disheap.protocol.gossip import Gossip
from disheap.protocol.peers import MembershipAnswer, MembershipRequest, PeerHello
from disheap.runtime.membership import changes
from disheap.runtime.membership.directory import AddressBook, MemberRecord, record_of, role_of
from disheap.runtime.membership.rounds import Rounds
from disheap.runtime.replica.group import Group

log = get_logger(__name__)

CHANGE_TIMEOUT_S = 10.0
"""How long a change waits for the one before it, and then for a majority. Both take milliseconds as a rule."""
LAG_MAX = 1000
"""Entries that a learner may be behind, if an operator promotes it: some tenths of a second of a busy log."""

Op = Literal["promote", "demote", "remove", "replace"]


class SteeredReplica(Protocol):
    """One group of this node."""

    number: int

    @property
    def group(self) -> Group:
        """The present group of the replica."""


class Host(Protocol):
    """What steering asks of its node."""

    book: AddressBook

    def steered(self) -> list[SteeredReplica]:
        """Returns the replicas that are running, by number. Empty before the node has started."""

    @property
    def peer_address(self) -> str:
        """Where peers reach this node."""

    def leader_address(self) -> str:
        """Returns the client address of the leader of group 0; "" if it is not known, or is this node."""

    def leader_peer_address(self) -> str:
        """Returns the peer address of the leader of group 0; "" if it is not known, or is this node."""

    async def hand_over_group(self, number: int) -> None:
        """Hand leadership of a group to another member. Raises nothing."""


class Changed(NamedTuple):
    """A change that is committed in group 0."""

    node: NodeId
    name: str
    role: str  # "voter", "joining", "learner" or "removed"
    at: Index  # the entry with the change


class _Waiting(NamedTuple):
    members: Membership
    done: asyncio.Future[None]


class Steering:
    """`tick` it. `applied` and `lost_leadership` tell what becomes of a change. `touch_s` is the time within which a
    member that is in touch has answered."""

    def __init__(
        self, host: Host, own: NodeId, loop: asyncio.AbstractEventLoop, election_timeout_s: float, touch_s: float
    ) -> None:
        self._host = host
        self._own = own
        self._loop = loop
        self._election_timeout_s = election_timeout_s
        self._touch_s = touch_s
        self._rounds: dict[int, Rounds] = {}
        self._waiting: dict[Index, _Waiting] = {}  # in group 0
        self._is_busy = False  # with what somebody has asked for
        self._handing_over: dict[int, asyncio.Task[None]] = {}
        self._heard_at = 0  # the entry of group 0 up to which the newest gossip knows the members
        self._is_gone = False  # group 0 has removed this node, by that gossip
        self._refused: dict[int, str] = {}  # by group: why it does not follow group 0, as it was logged

    # --- what it is told ---------------------------------------------------------------------------------------------

    def applied(self, group: int, index: Index, members: Membership) -> None:
        """A membership is committed and applied."""
        if group == 0 and (waiting := self._waiting.pop(index, None)) and not waiting.done.done():
            if waiting.members == members:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(
                    OutcomeUnknown("another change was committed in its place; look, and repeat")
                )

    def led(self, group: int, leads: bool) -> None:
        """This node starts or stops leading a group."""
        self._rounds.pop(group, None)
        if group == 0 and not leads:
            waiting, self._waiting = self._waiting, {}
            for one in waiting.values():
                if not one.done.done():
                    one.done.set_exception(
                        OutcomeUnknown("leadership was lost; the change may or may not be carried out: look")
                    )

    def heard(self, gossip: Gossip) -> None:
        """A peer tells the members of group 0. The schedule that is prevented: group 0 removes the leader of another
        group. It gets no entries of group 0 any more, and would keep itself in its group for ever."""
        if gossip.members and gossip.members_at >= self._heard_at:
            self._heard_at = gossip.members_at
            self._is_gone = self._own not in gossip.members and self._own <= gossip.last_id

    def end(self) -> None:
        """The node stops."""
        self.led(0, False)
        for task in self._handing_over.values():
            task.cancel()

    # --- by itself ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do the next step of each group that this node leads, if there is one."""
        for replica in self._host.steered():
            group = replica.group
            if group.leads and group.proposals.is_change_possible and not (replica.number == 0 and self._is_busy):
                self._step(replica)

    def _step(self, replica: SteeredReplica) -> None:
        try:
            new = self._next_of_first(replica) if replica.number == 0 else self._next_to_follow(replica)
            if new is not None:
                replica.group.proposals.change_members(new)
            self._refused.pop(replica.number, None)
        except RequestError as error:
            if self._refused.get(replica.number) != str(error):
                self._refused[replica.number] = str(error)
                log.warning("the members of a group stay as they are", group=replica.number, reason=str(error))

    def _next_of_first(self, replica: SteeredReplica) -> Membership | None:
        group = replica.group
        members = group.raft.membership
        for member in members.members:
            moved = self._moved(members, member)
            if moved is not None:
                return moved
        return self._promoted(replica, [one for one in members.members if role_of(one) == "joining"])

    def _moved(self, members: Membership, member: Member) -> Membership | None:
        """A member has said at a handshake that it is somewhere else now, or this node itself is."""
        learned, record = self._host.book.learned(member.id), record_of(member)
        peer = learned.peer_address if learned else ""
        client = learned.client_address if learned else ""
        if member.id == self._own and len(members.members) > 1:
            peer, client = self._host.peer_address, self._host.book.client(self._own)
        if not (peer and peer != record.peer) and not (client and client != record.client):
            return None
        if not record.name or any(record_of(one).peer == peer for one in members.members if one.id != member.id):
            return None
        log.info("a member has moved", member=record.name, peer=peer, client=client)
        return changes.move(members, member.id, peer, client)

    def _promoted(self, replica: SteeredReplica, learners: list[Member]) -> Membership | None:
        """The first learner that is close becomes a voter."""
        group = replica.group
        rounds = self._rounds.setdefault(replica.number, Rounds(self._election_timeout_s))
        match = {peer.id: peer.match for peer in group.raft.peers()}
        in_touch = group.contact.members_in_touch()
        for learner in learners:
            held = match.get(learner.id, Index(0))
            if rounds.is_close(learner.id, held, group.raft.last_index, self._loop.time()) and learner.id in in_touch:
                new = changes.promote(group.raft.membership, learner.id)
                changes.check_quorum(new, in_touch)
                log.info("a learner has caught up", member=record_of(learner).name, group=replica.number)
                return new
        return None

    def _next_to_follow(self, replica: SteeredReplica) -> Membership | None:
        """The next difference between a group and group 0, by id."""
        if self._is_gone and self._gives_up_lead(replica, self._own):
            return self._successor(replica)
        group, first = replica.group, self._host.steered()[0]
        wanted = first.group.applied.membership
        if first.number != 0 or not wanted.members:
            return None
        own = group.raft.membership
        in_touch = group.contact.members_in_touch()
        theirs = {one.id: one for one in own.members}
        for member in wanted.members:
            if member.id not in theirs:
                if member.id <= last_id_of(own):
                    continue  # this group has removed it, and group 0 lags behind here
                return changes.insert(own, member._replace(voter=False))
        for member in own.members:
            if member.id <= last_id_of(wanted) and all(one.id != member.id for one in wanted.members):
                if self._gives_up_lead(replica, member.id):
                    return self._successor(replica)
                new = changes.remove(own, member.id)
                changes.check_quorum(new, in_touch)
                return new
        if last_id_of(own) < last_id_of(wanted):  # who came and went meanwhile is never told so otherwise
            return Membership(own.members, last_id_of(wanted))
        return self._roles_followed(replica, wanted)

    def _roles_followed(self, replica: SteeredReplica, wanted: Membership) -> Membership | None:
        own = replica.group.raft.membership
        theirs = {one.id: one for one in own.members}
        to_promote = []
        for member in wanted.members:
            here = theirs.get(member.id)
            if here is None:
                continue
            if role_of(member) == "learner" and here.voter:
                if self._gives_up_lead(replica, member.id):
                    return self._successor(replica)
                new = changes.demote(own, member.id)
                changes.check_quorum(new, replica.group.contact.members_in_touch())
                return new
            if role_of(member) != "learner" and not here.voter:
                to_promote.append(here)
            elif here.record != member.record and not record_of(member).is_joining:
                return changes.replaced(own, here._replace(record=member.record))
        return self._promoted(replica, to_promote)

    def _gives_up_lead(self, replica: SteeredReplica, node: NodeId) -> bool:
        """Whether the member is this node: then another one has to lead before it loses its vote."""
        if node != self._own:
            return False
        task = self._handing_over.get(replica.number)
        if task is None or task.done():
            work = self._host.hand_over_group(replica.number)
            self._handing_over[replica.number] = self._loop.create_task(work, name="hand over")
        return True

    def _successor(self, replica: SteeredReplica) -> Membership | None:
        """A group whose only voter is this node, which has to go, gets another voter. That one leads next, and makes
        the group follow. If it is to be a learner, its successor takes its vote again."""
        own = replica.group.raft.membership
        if voters_of(own) != (self._own,):
            return None
        learners = [one for one in own.members if not one.voter]
        return self._promoted(replica, sorted(learners, key=lambda one: role_of(one) != "joining"))

    # --- what somebody asks ------------------------------------------------------------------------------------------

    async def change(self, op: Op, target: str, force: bool = False) -> Changed:
        """Promote, demote or remove a member. Returns when that is committed. Raises `RequestError`."""
        group = self._first()
        node = self._host.book.find(target)
        if op == "replace" and not force:
            await self._check_dead(node)
        if node == self._own and op != "promote":
            await self._hand_over_first(group, op, node)
        return await self._do(lambda old: self._changed(op, old, node, group, force), node)

    async def move(self, target: str, peer: str, client: str) -> Changed:
        """Give a member other addresses. Raises `RequestError`."""
        self._first()
        node = self._host.book.find(target)
        return await self._do(lambda old: changes.move(old, node, peer, client), node)

    async def answer(self, hello: PeerHello, request: MembershipRequest) -> MembershipAnswer:
        """Let a node join, or remove one that leaves. Raises `RequestError`; `NotLeader` has the peer address of the
        leader."""
        if not (self._host.steered() and self._host.steered()[0].group.leads):
            raise NotLeader(self._host.leader_peer_address())
        changed = await (self._join(hello, request) if request.op == "join" else self._leave(NodeId(hello.node_id)))
        return MembershipAnswer(changed.node, changed.at)

    async def _leave(self, node: NodeId) -> Changed:
        group = self._first()
        return await self._do(lambda old: self._changed("remove", old, node, group, False), node)

    async def _join(self, hello: PeerHello, request: MembershipRequest) -> Changed:
        record = MemberRecord(
            name=hello.name,
            peer=hello.peer_address,
            client=hello.client_address,
            incarnations=tuple(one.incarnation for one in hello.groups),
            is_joining=not request.is_learner,
            machine_versions=tuple(one.machine_versions for one in hello.groups),
            log_versions=hello.groups[0].log_versions,
            release=hello.release,
        )
        group = self._first()
        for member in group.raft.membership.members:
            if not member.voter and record_of(member).incarnations == record.incarnations:
                return await self._joined_before(member, group)
            if self._is_broken_off(member, record, group):
                log.info("a node that was let in has never come; it asks again", member=record.name)
                await self._do(lambda old, gone=member.id: changes.remove(old, gone), member.id)  # type: ignore[misc]
        given: list[NodeId] = []

        def added(old: Membership) -> Membership:
            node, new = changes.add(old, record)
            given[:] = [node]
            return new

        changed = await self._do(added, None)
        log.info("a node joins the cluster", member=record.name, id=given[0], peer=record.peer)
        return changed._replace(node=given[0], name=record.name, role="joining")

    async def _joined_before(self, member: Member, group: Group) -> Changed:
        """A node that was let in asks again. The answer was lost, or it stopped before its directories were made."""
        if not group.proposals.is_change_possible:
            raise ChangeInProgress("the change that lets this node in is not committed yet; it is asked for again")
        index = group.raft.membership_index
        return Changed(member.id, record_of(member).name, role_of(member), index)

    def _is_broken_off(self, member: Member, record: MemberRecord, group: Group) -> bool:
        """Whether that member was let in under this name and address, and has never held anything."""
        known = record_of(member)
        if member.voter or (known.name, known.peer) != (record.name, record.peer):
            return False
        return all(peer.match == 0 for peer in group.raft.peers() if peer.id == member.id)

    def _changed(self, op: Op, old: Membership, node: NodeId, group: Group, force: bool) -> Membership:
        in_touch = group.contact.members_in_touch()
        match op:
            case "promote":
                new = changes.promote(old, node)
                if not force:
                    self._check_caught_up(group, node)
            case "demote":
                new = changes.demote(old, node)
            case "remove" | "replace":
                new = changes.remove(old, node)
        if not force:
            changes.check_quorum(new, in_touch)
            for other in self._host.steered()[1:] if op != "promote" else ():
                changes.check_other_group(other.number, other.group.applied.membership, node, in_touch)
        return new

    def _check_caught_up(self, group: Group, node: NodeId) -> None:
        held = max((peer.match for peer in group.raft.peers() if peer.id == node), default=0)
        lag = group.raft.last_index - held
        if node != self._own and (not held or lag > LAG_MAX or node not in group.contact.members_in_touch()):
            raise NotCaughtUp(
                f"{self._host.book.label(node)} lacks {lag} entries, or does not answer: as a voter it would hold up "
                "commits. Nothing was done. Wait until it has caught up (disheap node ls), or insist with --force"
            )

    async def _check_dead(self, node: NodeId) -> None:
        """Raises `MemberAlive` for a member that answers within `_touch_s`. After a pause of this node its answers wait
        to be read."""
        until = self._loop.time() + self._touch_s
        while node not in self._first().contact.members_in_touch():
            if self._loop.time() >= until:
                return
            await asyncio.sleep(self._touch_s / 10)
        name = self._host.book.label(node)
        raise MemberAlive(
            f"{name} answers as node {node}, so it has its data. Nothing was done. Stop it first, or remove it for "
            f"good: disheap node rm {name}"
        )

    async def _hand_over_first(self, group: Group, op: Op, node: NodeId) -> None:
        """A leader that loses its vote would leave the cluster without a leader for an election timeout. Another one
        leads first, and does it. Raises `NotLeader`, and what is wrong with the change."""
        await self._make(lambda old: self._changed(op, old, node, group, False))
        await self._host.hand_over_group(0)
        if group.leads:
            raise RequestTimeout("leadership could not be handed over in time, and a leader is not removed; repeat")
        raise NotLeader(self._host.leader_address())

    def _first(self) -> Group:
        """Returns group 0, if this node leads it. Raises `NotLeader`."""
        steered = self._host.steered()
        if not steered or steered[0].number != 0 or not steered[0].group.leads:
            raise NotLeader(self._host.leader_address())
        return steered[0].group

    async def _do(self, make: Callable[[Membership], Membership], node: NodeId | None) -> Changed:
        """Make the change, and wait until it is committed."""
        if self._is_busy:
            raise ChangeInProgress("another change of the members is under way; repeat in a moment")
        self._is_busy = True
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                return await self._carry_out(make, node)
        except TimeoutError:
            raise RequestTimeout(
                f"the change was not committed within {CHANGE_TIMEOUT_S:g} s. It may be carried out later: look "
                "(disheap node ls) before you repeat it"
            ) from None
        finally:
            self._is_busy = False

    async def _carry_out(self, make: Callable[[Membership], Membership], node: NodeId | None) -> Changed:
        group, new = await self._make(make)
        if new.members == group.raft.membership.members:
            return self._outcome(node, new, group.raft.membership_index)
        index = group.proposals.change_members(new)
        waiting = self._waiting[index] = _Waiting(group.raft.membership, self._loop.create_future())
        try:
            await waiting.done
        finally:
            self._waiting.pop(index, None)
        return self._outcome(node, waiting.members, index)

    async def _make(self, make: Callable[[Membership], Membership]) -> tuple[Group, Membership]:
        """Make the new membership as soon as there may be one. After a pause of this node the answers of the others
        wait to be read, and none seems to be in touch. So that refusal counts only if it lasts for `_touch_s`."""
        until = self._loop.time() + self._touch_s
        while True:
            group = self._first()
            if group.proposals.is_change_possible:
                try:
                    return group, make(group.raft.membership)
                except QuorumAtRisk:
                    if self._loop.time() >= until:
                        raise
            await asyncio.sleep(self._touch_s / 10)

    def _outcome(self, node: NodeId | None, members: Membership, index: Index) -> Changed:
        for member in members.members:
            if member.id == node:
                return Changed(member.id, record_of(member).name, role_of(member), index)
        return Changed(node or NOBODY, self._host.book.label(node or NOBODY), "removed", index)


def decode_request(data: bytes) -> MembershipRequest:
    """Raises `InvalidArgument`."""
    try:
        return msgspec.msgpack.decode(data, type=MembershipRequest)
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"a request about members that cannot be read: {error}") from error
