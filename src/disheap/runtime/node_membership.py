"""This node as a member of its cluster: who the others are, what it asks of them, and whether it still belongs there.

Owns that everything follows the members that the logs name: the address book, the connections, what clients are told.
Owns also the end of it: a node that the cluster has removed goes quiet. Group 0's leader decides about members
(`membership.steering`); how a node finds its cluster is in `joining`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from disheap.config.node_config import NodeConfig
from disheap.errors import NotLeader
from disheap.interfaces import Transport
from disheap.kernel.types import NOBODY, Index, Membership, NodeId
from disheap.logs import get_logger
from disheap.protocol.gossip import Gossip
from disheap.protocol.peers import MembershipAnswer, MembershipRequest, PeerHello
from disheap.runtime import leaving, tuning
from disheap.runtime.joining import Joining
from disheap.runtime.membership.directory import AddressBook
from disheap.runtime.membership.incarnation_checks import IncarnationChecks
from disheap.runtime.membership.origin import NOBODY_YET, Origin
from disheap.runtime.membership.steering import Changed, Op, SteeredReplica, Steering, decode_request
from disheap.runtime.replica.lifecycle import State
from disheap.runtime.replicas import Replicas

log = get_logger(__name__)


class Host(Protocol):
    """What is asked of the node."""

    config: NodeConfig
    book: AddressBook
    replicas: Replicas

    @property
    def peer_address(self) -> str:
        """Where peers reach this node."""

    def members_followed(self) -> None:
        """The address book has other members, or other addresses: dial them, and tell clients."""

    def go_quiet(self) -> None:
        """This node was removed: talk to nobody any more."""


class NodeMembership:
    """`tick` it, and `follow` once the replicas are open. `origin` says who this node is, `joining` how to ask."""

    def __init__(
        self, node: Host, origin: Origin, joining: Joining, transport: Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        config = node.config
        self.book = node.book
        self.config = config
        self.name = config.name
        self.replicas = node.replicas
        self.is_removed = False
        """Whether the cluster has removed this node."""
        self.incarnation_checks = IncarnationChecks(
            lambda: [one.maintenance.incarnation_check for one in node.replicas], self._joined_with
        )
        self._node = node
        self._own, self._first = origin.own, origin.first
        self._joining = joining
        self._transport = transport
        self._loop = loop
        self._is_following = False
        self._steering = Steering(
            self, origin.own, loop, config.raft.election_timeout_ms / 1000, tuning.contact_s(config)
        )

    # --- what it is told ---------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Every `tick_ms`."""
        self._steering.tick()

    def changed(self) -> None:
        """Another membership of a group is in force, or committed, or a member has another address. The connections
        follow in the loop's next turn."""
        if not self._is_following:
            self._is_following = True
            self._loop.call_soon(self.follow)

    def applied(self, group: int, index: Index, members: Membership) -> None:
        """A membership of a group is committed and applied."""
        self._steering.applied(group, index, members)
        self.changed()

    def led(self, group: int, leads: bool) -> None:
        """This node starts or stops leading a group."""
        self._steering.led(group, leads)

    def heard(self, gossip: Gossip) -> None:
        """A peer tells the members of group 0, as it knows them."""
        self._steering.heard(gossip)

    def removed(self, reason: str) -> None:
        """The cluster has removed this node. It goes quiet: it takes no part, and dials nobody."""
        if self.is_removed:
            return
        self.is_removed = True
        log.warning(
            "this node was removed from the cluster, and takes no part any more",
            advice="stop it, and empty its data directory before it joins again",
            id=self._own, reason=reason,
        )  # fmt: skip
        for replica in self.replicas:
            replica.retire(reason)
        self._node.go_quiet()

    def was_removed(self) -> None:
        """The data directory says that the cluster has removed this node."""
        self.is_removed = True

    def end(self) -> None:
        """The node stops."""
        self._steering.end()

    def follow(self) -> None:
        """Take over the members that the logs name."""
        self._is_following = False
        if any(replica.lifecycle.is_over for replica in self.replicas):
            return
        opened = [one.group for one in self.replicas if one.lifecycle.state not in (State.OPENING, State.REPAIRING)]
        self.book.follow(
            [group.raft.membership for group in opened] or [self._first],
            [group.applied.membership for group in opened] + [NOBODY_YET] * (len(self.replicas) - len(opened)),
        )
        self._node.members_followed()
        if self.book.is_removed(self._own):
            self.removed("the log says so")

    def _joined_with(self, node: NodeId) -> tuple[int, ...]:
        record = self.book.record(node)
        return record.incarnations if record else ()

    # --- what somebody asks ------------------------------------------------------------------------------------------

    async def answer(self, hello: PeerHello) -> MembershipAnswer:
        """A node asks to be let in, or to be removed. Raises `DisheapError`."""
        return await self._steering.answer(hello, decode_request(hello.request))

    async def change(self, op: Op, target: str, force: bool = False) -> Changed:
        """Promote, demote or remove a member, if this node leads group 0. Raises `RequestError`."""
        self._check_belongs()
        return await self._steering.change(op, target, force)

    async def move(self, target: str, peer: str, client: str) -> Changed:
        """Give a member other addresses, if this node leads group 0. Raises `RequestError`."""
        self._check_belongs()
        return await self._steering.move(target, peer, client)

    async def leave(self, timeout_s: float = 30.0) -> Changed:
        """See `Node.leave`. Returns when the removal is committed. The node takes no part any more then."""
        request = MembershipRequest("leave")
        asker = self._joining.asker(self._transport, request, self._own, self.replicas.describe())
        return await leaving.leave(self, self._own, asker, timeout_s)

    async def wait_joined(self, as_learner: bool = False) -> NodeId:
        """Wait until this node's own log says that it is a member, with a vote unless it joined `as_learner`. Returns
        its id."""
        while not any(
            one.id == self._own and (one.voter or as_learner)
            for one in self.replicas[0].group.applied.membership.members
        ):
            await asyncio.sleep(self.config.raft.tick_ms / 1000)
        return self._own

    def _check_belongs(self) -> None:
        if self.is_removed:
            raise NotLeader()

    # --- what steering and leaving ask -------------------------------------------------------------------------------

    def steered(self) -> list[SteeredReplica]:
        """Returns the replicas that are running, by number."""
        return list(self.replicas.running())

    @property
    def peer_address(self) -> str:
        """Where peers reach this node."""
        return self._node.peer_address

    def leader_address(self) -> str:
        """Returns the client address of the leader of group 0; "" if it is not known, or is this node."""
        return self.replicas[0].leader_address()

    def leader_peer_address(self) -> str:
        """Returns the peer address of the leader of group 0; "" if it is not known, or is this node."""
        leader = self.replicas[0].known_leader() or NOBODY
        return "" if leader in (NOBODY, self._own) else self.book.peer(leader)

    def any_peer_address(self) -> str:
        """Returns the peer address of another member; "" if none is known."""
        return next((address for one in self.book.others() if (address := self.book.peer(one))), "")

    async def hand_over_group(self, number: int) -> None:
        """Hand leadership of a group to another member. Raises nothing."""
        await self.replicas[number].hand_over()
