"""A node among its peers: the links to them, and who is let in.

Owns dialling every other member and accepting those that dial. `peer_checks` decides at the handshake whether the other
side belongs here. A member that was never met is recorded only when it has proved who it is. It proves it by the
cluster's secret, by its certificate, or by its address, where this node dials it and finds the same incarnation.

What arrives goes to the group or, before a node is whole, to its repair. Refuses to know Raft.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from disheap.errors import DisheapError, WrongCluster
from disheap.interfaces import Transport
from disheap.kernel.types import Message, NodeId
from disheap.logs import LineLimiter, get_logger
from disheap.protocol.forwarding import Forwarded
from disheap.protocol.gossip import Gossip
from disheap.protocol.handshake import SUPPORTED, Versions
from disheap.protocol.peers import MembershipAnswer, PeerGroup, PeerHello
from disheap.protocol.proofs import NONCE_BYTES, Challenge, Transcript
from disheap.protocol.repair import Answer, Ask
from disheap.runtime.membership.incarnations import Done
from disheap.runtime.peers.links import IncomingLink, OutgoingLink
from disheap.runtime.peers.peer_checks import NodeFacts, PeerChecks, Standing
from disheap.version import __version__

log = get_logger(__name__)

MAX_UNIDENTIFIED_LINKS = 64
"""Connections that have not identified themselves. Members need one each, for milliseconds."""
REFUSALS_REMEMBERED = 100
"""The newest reasons for refusing peers: each is logged once while it is among them."""


class Unproved(NamedTuple):
    """A member that was not recorded yet, and has proved nothing. It is dropped with its connection."""

    peer: NodeId
    hello: PeerHello
    done: Done


Answered = Callable[[MembershipAnswer | None, DisheapError | None], None]
"""Called once, with the answer to a request, or with the error that refuses it."""


class PeeringNode(NodeFacts, Protocol):
    """The node that is among its peers."""

    @property
    def peer_address(self) -> str:
        """Where peers reach this node."""

    def wall_ms(self) -> int:
        """Returns this node's wall clock, in milliseconds since the epoch."""


class PeeringMembership(Standing, Protocol):
    """This node as a member of its cluster."""

    def changed(self) -> None:
        """A member may have another address than before."""

    def removed(self, reason: str) -> None:
        """The cluster has removed this node."""

    async def answer(self, hello: PeerHello) -> MembershipAnswer:
        """A node asks to be let in, or to be removed. Raises `DisheapError`."""


class PeerReceiver(Protocol):
    """Gets what arrives from peers."""

    def has_group(self, group: int, /) -> bool:
        """Whether this node hosts the group."""

    def heard_clock(self, peer: NodeId, wall_ms: int) -> None:
        """A peer's wall clock, in milliseconds since the epoch."""

    def received(self, group: int, message: Message) -> None:
        """A Raft message of a peer. Raises `ProtocolError` if it cannot be read."""

    def received_repair(self, peer: NodeId, message: Ask | Answer) -> None:
        """A request or an answer about repair."""

    def received_gossip(self, peer: NodeId, gossip: Gossip) -> None:
        """A peer's report about itself."""

    def received_forwarded(self, peer: NodeId, message: Forwarded) -> None:
        """A message of one group for another, or the answer to one."""

    def unreachable(self, peer: NodeId) -> None:
        """The connection to a peer was lost: messages on it may be lost too."""


class Peering:
    """The owner of all links. A frame has at most `frame_bytes`; `buffer_bytes` may wait for one peer."""

    def __init__(
        self,
        node: PeeringNode,
        membership: PeeringMembership,
        messages: PeerReceiver,
        own_id: NodeId,
        secrets: tuple[bytes, ...],
        entropy: Callable[[int], bytes],
        loop: asyncio.AbstractEventLoop,
        frame_bytes: int,
        buffer_bytes: int,
        versions: Versions = SUPPORTED,
    ) -> None:
        self.versions = versions  # of the protocol
        self.refusals: dict[str, None] = {}
        self._node = node
        self._membership = membership
        self._messages = messages
        checks = PeerChecks(node, membership, own_id)
        self.check_hello, self.check_request = checks.check_hello, checks.check_request  # for the links
        self.has_group, self.received = messages.has_group, messages.received  # for the links, with each message
        self._id = own_id
        self._secrets = secrets
        self._entropy = entropy
        self._at_address: dict[NodeId, tuple[int, ...]] = {}  # the incarnations that answered last where we dialled
        self._unproved: deque[Unproved] = deque(maxlen=MAX_UNIDENTIFIED_LINKS)
        self._loop = loop
        self._lines = LineLimiter(loop)
        self._frame_bytes, self._buffer_bytes = frame_bytes, buffer_bytes
        self._outgoing: dict[NodeId, OutgoingLink] = {}
        self._transport: Transport | None = None  # there is one while this node dials
        self._incoming: dict[IncomingLink, None] = {}
        self._welcome: dict[NodeId, IncomingLink] = {}
        self._tasks: dict[NodeId, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    # --- for the node ------------------------------------------------------------------------------------------------

    def accept(self) -> IncomingLink:
        """Returns the receiver of a connection that a peer dialled."""
        return IncomingLink(self, self._frame_bytes, self._loop)

    def dial(self, transport: Transport) -> None:
        """Keep a connection to every other member, until `close` or `be_quiet`."""
        self._transport = transport
        self.follow()

    def follow(self) -> None:
        """The members have changed, or a node of the cluster was met that is not among them. Dial those that are new.
        Those that the cluster has removed are told so, and dialled no more."""
        if self._transport is None:
            return
        wanted = self._node.book.peers()
        for peer in wanted:
            if peer not in self._outgoing:
                self._dial(peer, self._transport)
        for peer in [one for one in self._outgoing if one not in wanted]:
            self._let_go(peer)

    def be_quiet(self) -> None:
        """The cluster has removed this node: dial nobody any more."""
        self._transport = None
        for peer in list(self._outgoing):
            self._let_go(peer)

    def _dial(self, peer: NodeId, transport: Transport) -> None:
        link = OutgoingLink(self, self._buffer_bytes, peer, self._addresses_of(peer), transport, self._loop)
        self._outgoing[peer] = link
        self._tasks[peer] = self._loop.create_task(link.keep_up(), name=f"link to {peer}")

    def _let_go(self, peer: NodeId) -> None:
        link, task = self._outgoing.pop(peer), self._tasks.pop(peer)
        if removal := self.removal_of(peer):
            link.say_removed(removal)
        link.close()
        task.cancel()
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def removal_of(self, peer: NodeId) -> str:
        """What a node is told that the cluster has removed; "" for every other node."""
        if not self._node.book.is_removed(peer):
            return ""
        return (
            f"node {peer} was removed from the cluster. It takes no part any more, and its id is never used again. "
            "Stop it. To bring the machine back, empty the data directory and let it join (join_addresses)"
        )

    def send(self, group: int, message: Message) -> None:
        """Send a Raft message to its target. Dropped while there is no connection."""
        link = self._outgoing.get(message.target)
        if link is not None:
            link.send(group, message)

    def flush(self) -> bool:
        """Hand the queued frames to the network now, and not at the end of the loop's turn. Returns whether all were
        written."""
        has_left = True
        for link in self._outgoing.values():
            if not link.flush():
                has_left = False
        return has_left

    def send_repair(self, target: NodeId, message: Ask | Answer) -> None:
        """Send a request or an answer about repair. Dropped while there is no connection."""
        link = self._outgoing.get(target)
        if link is not None:
            link.send_repair(message)

    def send_forwarded(self, target: NodeId, message: Forwarded) -> str:
        """Returns "", or why it was not sent."""
        link = self._outgoing.get(target)
        return link.send_forwarded(message) if link is not None else "this node has no connection to other members"

    def broadcast(self, gossip: Gossip) -> None:
        """Send the report to every peer that can be reached now."""
        for link in self._outgoing.values():
            link.send_gossip(gossip)

    def held_bytes(self) -> int:
        """The bytes unsent to peers, and those of unfinished frames from peers."""
        return sum(link.held_bytes() for link in (*self._outgoing.values(), *self._incoming))

    def is_connected(self, peer: NodeId) -> bool:
        """Whether the peer has welcomed this node on the present connection. True for this node itself."""
        link = self._outgoing.get(peer)
        return link.up if link is not None else peer == self._id

    def refusal_by(self, peer: NodeId) -> str:
        """Why that member refuses this node; "" if it does not."""
        link = self._outgoing.get(peer)
        return link.refusal if link is not None else ""

    async def close(self) -> None:
        """Stop dialling and close all links."""
        self._transport = None
        tasks = [*self._tasks.values(), *self._closing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        for link in self._outgoing.values():
            link.close()
        self._outgoing.clear()
        for incoming in list(self._incoming):
            incoming.close()

    def _addresses_of(self, peer: NodeId) -> Callable[[], list[str]]:
        return lambda: self._node.book.peer_addresses(peer)

    # --- for the links -----------------------------------------------------------------------------------------------

    def dialled(self, link: IncomingLink) -> None:
        """A peer has connected. If too many connections have not identified themselves, the oldest is closed. A member
        needs milliseconds."""
        self._incoming[link] = None
        welcome = self._welcome.values()
        strangers = [known for known in self._incoming if known not in welcome]
        if len(strangers) > MAX_UNIDENTIFIED_LINKS:
            oldest = strangers[0]
            self.refused(oldest.remote, "too many connections have not identified themselves; the oldest was closed")
            oldest.abort()
            self.link_lost(oldest)

    def welcomes(self, link: IncomingLink, peer: NodeId) -> None:
        """The link is the member's connection from now on. An earlier one is broken, even if it was not reported
        yet."""
        earlier, self._welcome[peer] = self._welcome.get(peer), link
        if earlier is not None:
            earlier.close()

    def link_lost(self, link: IncomingLink) -> None:
        """Forget an incoming link, and a member that waits on it to be met."""
        self._incoming.pop(link, None)
        for peer in [one for one, known in self._welcome.items() if known is link]:
            self._node.book.forget_stranger(peer)
            self.follow()
        for waiting in [one for one in self._unproved if one.done == link.welcome]:
            self._unproved.remove(waiting)
            self._node.book.forget_stranger(waiting.peer)
            self.follow()
        for peer, known in list(self._welcome.items()):
            if known is link:
                del self._welcome[peer]

    def received_repair(self, peer: NodeId, message: Ask | Answer) -> None:
        """Hand a request or an answer about repair to the node."""
        self._messages.received_repair(peer, message)

    def received_gossip(self, peer: NodeId, gossip: Gossip) -> None:
        """Hand a peer's report to the node."""
        self._messages.received_gossip(peer, gossip)

    def received_forwarded(self, peer: NodeId, message: Forwarded) -> None:
        """Hand a message between groups, or the answer to one, to the node."""
        self._messages.received_forwarded(peer, message)

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""
        return self._node.book.label(node)

    def unreachable(self, peer: NodeId) -> None:
        """Tell the node that the connection to a peer was lost."""
        self._messages.unreachable(peer)

    def hello_to(self, target: NodeId) -> PeerHello:
        """Returns this node's hello for the peer `target`, with a fresh nonce."""
        node = self._node
        return PeerHello(
            cluster_id=node.cluster_id,
            node_id=self._id,
            name=node.name,
            target=target,
            client_address=node.book.client(self._id),
            groups=node.peer_groups(),
            nonce=self._entropy(NONCE_BYTES),
            wall_ms=node.wall_ms(),
            release=__version__,
            cluster=node.cluster_name,
            peer_address=node.peer_address,
        )

    def transcript(self) -> Transcript:
        """Returns an empty transcript with the cluster's secrets, for one handshake."""
        return Transcript(self._secrets)

    def challenge(self) -> Challenge:
        """Returns the challenge for a peer that dialled: a fresh nonce and this node's incarnations."""
        return Challenge(self._entropy(NONCE_BYTES), _incarnations(self._node.peer_groups()))

    def requested(self, hello: PeerHello, answered: Answered) -> None:
        """A node asks for a change of the members, and has proved that it may."""
        task = self._loop.create_task(self._answer(hello, answered), name="request of a node")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _answer(self, hello: PeerHello, answered: Answered) -> None:
        try:
            answered(await self._membership.answer(hello), None)
        except DisheapError as error:
            self._lines.write(log.info, "a node is not let in", member=hello.name, reason=str(error))
            answered(None, error)

    def removed(self, peer: NodeId, reason: str) -> None:
        """A member that has proved itself says that the cluster has removed this node."""
        self._membership.removed(f"{self.member_name(peer) or peer} says: {reason}")

    def meet(self, peer: NodeId, hello: PeerHello, is_proved: bool, done: Done) -> None:
        """The schedule that is prevented: an impostor claims to be a member that has not started yet, and is recorded.
        Then the member itself is refused for ever. So a new member whose connection proves nothing waits until we have
        dialled its address and found it there."""
        if self.removal_of(peer):
            done(True)
            return
        if peer not in self._node.book.ids():
            self._node.book.learn(peer, hello)  # where it says it is, it has to be found, unless it has proved itself
            self.follow()
        is_known = self._membership.incarnation_checks.has_met(peer)
        if not is_proved:
            hello = self._without_new_address(peer, hello)
        if is_proved or is_known or self._at_address.get(peer) == _incarnations(hello.groups):
            self._meet(peer, hello, done)
        else:
            self._unproved.append(Unproved(peer, hello, done))

    def _without_new_address(self, peer: NodeId, hello: PeerHello) -> PeerHello:
        """Whoever proves nothing may say that he is a member, and does not move that member somewhere else. It may be
        where this node's own settings say."""
        known = self._node.book.peer_addresses(peer)
        if not known[0] or hello.peer_address in ("", *known):
            return hello
        return msgspec.structs.replace(hello, peer_address="", client_address="")

    def answered(self, peer: NodeId, incarnations: tuple[int, ...]) -> None:
        """The member that we dialled has these incarnations. Record members that waited for this proof."""
        self._at_address[peer] = incarnations
        for waiting in [one for one in self._unproved if one.peer == peer]:
            self._unproved.remove(waiting)
            if _incarnations(waiting.hello.groups) == incarnations:
                self._meet(peer, waiting.hello, waiting.done)
            else:
                self.refused(
                    self._node.book.peer(peer),
                    f"somebody says that it is node {peer} ({self._node.book.name(peer)}), and another process answers "
                    "at that node's address",
                )
                waiting.done(False)

    def _meet(self, peer: NodeId, hello: PeerHello, done: Done) -> None:
        """Check again before recording: another incarnation may have been recorded since the hello was checked."""
        try:
            self._membership.incarnation_checks.check(peer, hello)
        except WrongCluster as error:
            self.refused(self._node.book.peer(peer), str(error))
            done(False)
            return
        self._learn(peer, hello)
        self._membership.incarnation_checks.meet(peer, hello, done)

    def _learn(self, peer: NodeId, hello: PeerHello) -> None:
        self._node.book.learn(peer, hello)
        self._messages.heard_clock(peer, hello.wall_ms)
        self.follow()
        self._membership.changed()

    def welcomed(self, peer: NodeId, hello: PeerHello, done: Done) -> None:
        """Learn what the member says of itself, and record that it has welcomed this node."""
        self._learn(peer, hello)
        self._membership.incarnation_checks.welcomed(peer, hello, done)

    def refused(self, remote: str, reason: str) -> None:
        """Log why a peer is refused, once for each reason. A reason is logged again after `REFUSALS_REMEMBERED`
        others."""
        is_known = reason in self.refusals
        self.refusals.pop(reason, None)
        self.refusals[reason] = None  # the newest
        if not is_known:
            self._lines.write(log.warning, "a peer's connection is refused", remote=remote, reason=reason)
        if len(self.refusals) > REFUSALS_REMEMBERED:
            del self.refusals[next(iter(self.refusals))]


def _incarnations(groups: Sequence[PeerGroup]) -> tuple[int, ...]:
    return tuple(group.incarnation for group in groups)
