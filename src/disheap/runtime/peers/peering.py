"""A node among its peers: the links to them, and who is let in.

Owns dialling every other member and accepting those that dial; decides at the handshake whether the other side belongs
here. A member that was never met is recorded only when it has proved who it is. It proves it by the cluster's secret,
by its certificate, or by its address, where this node dials it and finds the same incarnation.

What arrives goes to the group or, before a node is whole, to its repair. Refuses to know Raft.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from disheap.errors import WrongCluster
from disheap.interfaces import Transport
from disheap.kernel.types import Message, NodeId
from disheap.logs import LineLimiter, get_logger
from disheap.protocol.forwarding import Forwarded
from disheap.protocol.gossip import Gossip
from disheap.protocol.handshake import SUPPORTED, Versions
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.protocol.proofs import NONCE_BYTES, Challenge, Transcript
from disheap.protocol.repair import Answer, Ask
from disheap.runtime.membership.directory import AddressBook, supported_by
from disheap.runtime.membership.incarnation_checks import IncarnationChecks
from disheap.runtime.membership.incarnations import Done
from disheap.runtime.peers.links import IncomingLink, OutgoingLink
from disheap.runtime.replica.versions import check_supported
from disheap.version import __version__

log = get_logger(__name__)

MAX_UNIDENTIFIED_LINKS = 64
"""Connections that have not identified themselves. Members need one each, for milliseconds."""
MAX_NAMES_SHOWN = 5
"""Names of a certificate in a refusal, which has to fit one small frame."""
REFUSALS_REMEMBERED = 100
"""The newest reasons for refusing peers: each is logged once while it is among them."""


class Unproved(NamedTuple):
    """A member that was not recorded yet, and has proved nothing. It is dropped with its connection."""

    peer: NodeId
    hello: PeerHello
    done: Done


class PeeringHost(Protocol):
    """The node that is among its peers."""

    cluster_id: str
    name: str
    book: AddressBook
    incarnation_checks: IncarnationChecks

    def peer_groups(self) -> tuple[PeerGroup, ...]:
        """Returns what peers are told of each replica."""

    def has_group(self, group: int) -> bool:
        """Whether this node hosts the group."""

    def client_address_of(self, node: NodeId) -> str:
        """Returns the address where clients reach the member; "" if it is not known."""

    def wall_ms(self) -> int:
        """Returns this node's wall clock, in milliseconds since the epoch."""

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

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""


class Peering:
    """The owner of all links. A frame has at most `frame_bytes`; `buffer_bytes` may wait for one peer."""

    def __init__(
        self,
        node: PeeringHost,
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
        self.has_group, self.received = node.has_group, node.received  # for the links, with each message
        self._id = own_id
        self._secrets = secrets
        self._entropy = entropy
        self._at_address: dict[NodeId, tuple[int, ...]] = {}  # the incarnations that answered last where we dialled
        self._unproved: deque[Unproved] = deque(maxlen=MAX_UNIDENTIFIED_LINKS)
        self._loop = loop
        self._lines = LineLimiter(loop)
        self._frame_bytes, self._buffer_bytes = frame_bytes, buffer_bytes
        self._outgoing: dict[NodeId, OutgoingLink] = {}
        self._incoming: dict[IncomingLink, None] = {}
        self._welcome: dict[NodeId, IncomingLink] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # --- for the node ------------------------------------------------------------------------------------------------

    def accept(self) -> IncomingLink:
        """Returns the receiver of a connection that a peer dialled."""
        return IncomingLink(self, self._frame_bytes, self._loop)

    def dial(self, transport: Transport) -> None:
        """Keep a connection to every other member, until `close`."""
        for peer in self._node.book.ids():
            if peer != self._id:
                link = OutgoingLink(
                    self, self._buffer_bytes, peer, self._address_of(peer), transport,
                    self._loop,
                )  # fmt: skip
                self._outgoing[peer] = link
                self._tasks.append(self._loop.create_task(link.keep_up(), name=f"link to {peer}"))

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
            has_left = link.flush() and has_left
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
        """Whether the peer has welcomed this node on the present connection."""
        link = self._outgoing.get(peer)
        return link is not None and link.up

    def refusal_by(self, peer: NodeId) -> str:
        """Why that member refuses this node; "" if it does not."""
        link = self._outgoing.get(peer)
        return link.refusal if link is not None else ""

    async def close(self) -> None:
        """Stop dialling and close all links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for link in self._outgoing.values():
            link.close()
        self._outgoing.clear()
        for incoming in list(self._incoming):
            incoming.close()

    def _address_of(self, peer: NodeId) -> Callable[[], str]:
        return lambda: self._node.book.peer(peer)

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
        for waiting in [one for one in self._unproved if one.done == link.welcome]:
            self._unproved.remove(waiting)
        for peer, known in list(self._welcome.items()):
            if known is link:
                del self._welcome[peer]

    def received_repair(self, peer: NodeId, message: Ask | Answer) -> None:
        """Hand a request or an answer about repair to the node."""
        self._node.received_repair(peer, message)

    def received_gossip(self, peer: NodeId, gossip: Gossip) -> None:
        """Hand a peer's report to the node."""
        self._node.received_gossip(peer, gossip)

    def received_forwarded(self, peer: NodeId, message: Forwarded) -> None:
        """Hand a message between groups, or the answer to one, to the node."""
        self._node.received_forwarded(peer, message)

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""
        return self._node.member_name(node)

    def unreachable(self, peer: NodeId) -> None:
        """Tell the node that the connection to a peer was lost."""
        self._node.unreachable(peer)

    def hello_to(self, target: NodeId) -> PeerHello:
        """Returns this node's hello for the peer `target`, with a fresh nonce."""
        node = self._node
        return PeerHello(
            cluster_id=node.cluster_id,
            node_id=self._id,
            name=node.name,
            target=target,
            client_address=node.client_address_of(self._id),
            groups=node.peer_groups(),
            nonce=self._entropy(NONCE_BYTES),
            wall_ms=node.wall_ms(),
            release=__version__,
        )

    def transcript(self) -> Transcript:
        """Returns an empty transcript with the cluster's secrets, for one handshake."""
        return Transcript(self._secrets)

    def challenge(self) -> Challenge:
        """Returns the challenge for a peer that dialled: a fresh nonce and this node's incarnations."""
        return Challenge(self._entropy(NONCE_BYTES), _incarnations(self._node.peer_groups()))

    def check_hello(self, hello: PeerHello, certificate_names: tuple[str, ...] | None) -> NodeId:
        """Who a peer is. Raises `WrongCluster` for one that does not belong here, and `WrongVersion` when one of the
        two does not run what the cluster runs."""
        here, peer = self._node, NodeId(hello.node_id)
        if hello.cluster_id != here.cluster_id:
            raise WrongCluster(
                f"{hello.name} belongs to cluster {hello.cluster_id}, this node to {here.cluster_id}: the nodes were "
                "given different member lists or cluster names"
            )
        if hello.target != self._id:
            raise WrongCluster(f"{hello.name} looks for node {hello.target} here, but this is node {self._id}")
        if peer not in here.book.ids() or peer == self._id:
            raise WrongCluster(f"{hello.name} says it is node {peer}, which is not one of the other members")
        for own, theirs in zip(here.peer_groups(), hello.groups, strict=False):  # how many is checked below
            self._check_group(hello, own, theirs)
        self._check_certificate(peer, certificate_names)
        here.incarnation_checks.check(peer, hello)
        return peer

    def _check_group(self, hello: PeerHello, own: PeerGroup, peers: PeerGroup) -> None:
        name = hello.name
        if peers.machine != own.machine:
            raise WrongCluster(f"{name} runs the machine {peers.machine!r}, this node {own.machine!r}")
        self._check_versions(hello, own, peers)
        if peers.settings_digest != own.settings_digest:
            raise WrongCluster(
                f"{name} was given other bounds than this node in [machine.{own.machine}], or in [limits] "
                "for sessions and apply_work_limit, or it runs a release with other fixed bounds: they decide what "
                "every replica does, so all nodes need the same"
            )
        self._check_constants(name, own, peers)

    def _check_constants(self, name: str, own: PeerGroup, peers: PeerGroup) -> None:
        """Raises `WrongCluster` if the constants of a version that both run differ. The cluster may run that version
        later."""
        for version, digest in own.constants_digests.items():
            theirs = peers.constants_digests.get(version, digest)
            if theirs != digest:
                raise WrongCluster(
                    f"{name} runs another release of the machine {own.machine!r}, whose constants for "
                    f"machine_version {version} differ from those of this node (digest {theirs}, here {digest}): "
                    "replicas would differ. Install the same release on both nodes"
                )

    def _check_versions(self, hello: PeerHello, own: PeerGroup, peers: PeerGroup) -> None:
        """Raises `WrongVersion` unless each node runs the versions that the other's log requires."""
        here, there = (own.machine_version, own.log_version), (peers.machine_version, peers.log_version)
        check_supported(f"{hello.name} (release {hello.release or 'unknown'})", supported_by(peers), here)
        check_supported(f"this node (release {__version__})", supported_by(own), there, hello.name)

    def meet(self, peer: NodeId, hello: PeerHello, is_proved: bool, done: Done) -> None:
        """The schedule that is prevented: an impostor claims to be a member that has not started yet, and is recorded.
        Then the member itself is refused for ever. So a new member whose connection proves nothing waits until we have
        dialled its address and found it there."""
        is_known = self._node.incarnation_checks.has_met(peer)
        if is_proved or is_known or self._at_address.get(peer) == _incarnations(hello.groups):
            self._meet(peer, hello, done)
        else:
            self._unproved.append(Unproved(peer, hello, done))

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
            self._node.incarnation_checks.check(peer, hello)
        except WrongCluster as error:
            self.refused(self._node.book.peer(peer), str(error))
            done(False)
            return
        self._learn(peer, hello)
        self._node.incarnation_checks.meet(peer, hello, done)

    def _learn(self, peer: NodeId, hello: PeerHello) -> None:
        self._node.book.learn(peer, hello)
        self._node.heard_clock(peer, hello.wall_ms)

    def welcomed(self, peer: NodeId, hello: PeerHello, done: Done) -> None:
        """Learn what the member says of itself, and record that it has welcomed this node."""
        self._learn(peer, hello)
        self._node.incarnation_checks.welcomed(peer, hello, done)

    def _check_certificate(self, peer: NodeId, names: tuple[str, ...] | None) -> None:
        """One of the proved names has to name the member, and none of them another member. Otherwise the other member
        could be the holder (storage-rules 18)."""
        if names is None:
            return
        book = self._node.book
        if not names:
            raise WrongCluster(
                f"the certificate of node {peer} has no name, neither a DNS name nor a common name nor an IP address: "
                f"any member could be its holder. Issue one for {book.name(peer)!r}"
            )
        named = [one for one in book.ids() if self._is_named(one, names)]
        if named == [peer]:
            return
        if peer in named:
            raise WrongCluster(
                f"the certificate names {self._names_of(named)}: any of them could be its holder. Issue one for each "
                "member"
            )
        host = _host(book.peer(peer))
        if host in names and not named:
            raise WrongCluster(
                f"the certificate is for {host!r}, and {self._names_of(self._members_at(host))} are all at that host: "
                f"any of them could be its holder. Issue one with the DNS name {book.name(peer)!r}"
            )
        raise WrongCluster(f"the certificate is for {_listed(names)}, node {peer} is {book.name(peer)!r} at {host!r}")

    def _is_named(self, member: NodeId, names: tuple[str, ...]) -> bool:
        """Whether the certificate names the member: its name, or its host if no other member is at that host."""
        host = _host(self._node.book.peer(member))
        return self._node.book.name(member) in names or (host in names and self._members_at(host) == [member])

    def _members_at(self, host: str) -> list[NodeId]:
        book = self._node.book
        return [one for one in book.ids() if _host(book.peer(one)) == host]

    def _names_of(self, members: list[NodeId]) -> str:
        return ", ".join(self._node.book.name(one) for one in members)

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


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - MAX_NAMES_SHOWN
    return ", ".join(map(repr, names[:MAX_NAMES_SHOWN])) + (f" and {more} other names" if more > 0 else "")
