"""Connections between nodes (storage-rules 13 and 18). Owns dialling, the order of frames, and what a slow or absent
peer costs.

A node sends on connections that it dialled and receives on those that were dialled to it. Before the first Raft message
both ends prove that they know the cluster's secret, if there is one (`protocol.proofs`). They check protocol version,
cluster, ids, incarnation and machine. Nothing of a peer is recorded before that. A message that cannot be sent is
dropped. The kernel is told that the peer is unreachable, and sends it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from disheap.errors import (
    DisheapError,
    MalformedFrame,
    MemberRemoved,
    NotLeader,
    ProtocolError,
    WrongCluster,
)
from disheap.interfaces import Connection, Flushing, Transport
from disheap.kernel.types import Message, NodeId
from disheap.logs import get_logger
from disheap.protocol import forwarding, frames, gossip, handshake, peers, proofs, repair
from disheap.protocol.forwarding import Forwarded
from disheap.protocol.frames import FrameReader, Kind
from disheap.protocol.gossip import Gossip
from disheap.protocol.peers import MembershipAnswer, PeerHello
from disheap.protocol.proofs import Challenge, Part
from disheap.protocol.repair import Answer, Ask
from disheap.runtime.peers.handshaking import HANDSHAKE_TIMEOUT_S, HandshakeOwner, Handshaking, expect, read_refusal

log = get_logger(__name__)

DIAL_TIMEOUT_S = 2.0
_RAFT = int(Kind.PEER_MESSAGE)
RETRY_FIRST_S, MAX_RETRY_S = 0.05, 1.0  # between dials; the most is well below the longest election timeout


class LinkOwner(HandshakeOwner, Protocol):
    """What links ask of their node."""

    def challenge(self) -> Challenge:
        """Returns the challenge for a peer that dialled: a nonce and this node's incarnations."""

    def hello_to(self, target: NodeId) -> PeerHello:
        """Returns what this node says of itself to the peer that it dials."""

    def answered(self, peer: NodeId, incarnations: tuple[int, ...]) -> None:
        """The member that was dialled answers with these incarnations."""

    def meet(self, peer: NodeId, hello: PeerHello, is_proved: bool, done: Callable[[bool], None]) -> None:
        """Record the incarnation of a member that dialled. `done(True)` is called when it is durable."""

    def welcomed(self, peer: NodeId, hello: PeerHello, done: Callable[[bool], None]) -> None:
        """The member that was dialled welcomes this node. `done(True)` is called when that is recorded."""

    def check_request(self, hello: PeerHello, certificate_names: tuple[str, ...] | None) -> None:
        """Whether a node may ask for a change of the members. Raises `WrongCluster` and `WrongVersion`."""

    def requested(
        self, hello: PeerHello, answered: Callable[[MembershipAnswer | None, DisheapError | None], None]
    ) -> None:
        """A node that has proved itself asks for a change of the members. `answered` is called once."""

    def removal_of(self, peer: NodeId) -> str:
        """Returns what a node is told that the cluster has removed; "" for every other node."""

    def removed(self, peer: NodeId, reason: str) -> None:
        """A member that has proved itself says that the cluster has removed this node."""

    def has_group(self, group: int) -> bool:
        """Whether this node hosts the group."""

    def received(self, group: int, message: Message) -> None:
        """A Raft message of a peer. Raises `ProtocolError` if it cannot be read."""

    def received_repair(self, peer: NodeId, message: Ask | Answer) -> None:
        """A request or an answer about repair."""

    def received_gossip(self, peer: NodeId, report: Gossip) -> None:
        """A peer's report about itself."""

    def received_forwarded(self, peer: NodeId, message: Forwarded) -> None:
        """A message of one group for another, or the answer to one."""

    def unreachable(self, peer: NodeId) -> None:
        """The connection to the peer was lost: messages on it may be lost too."""

    def refused(self, remote: str, reason: str) -> None:
        """A peer's connection is refused: log the reason."""

    def dialled(self, link: IncomingLink) -> None:
        """A peer has connected, and has not identified itself yet."""

    def welcomes(self, link: IncomingLink, peer: NodeId) -> None:
        """The link is the member's connection from now on."""

    def link_lost(self, link: IncomingLink) -> None:
        """The incoming link is closed."""

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""


class IncomingLink(Handshaking):
    """A connection that a peer dialled: its messages arrive here."""

    def __init__(self, owner: LinkOwner, frame_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(owner, loop)
        self._owner: LinkOwner = owner
        self._frame_bytes = frame_bytes
        self._peer = NodeId(0)
        self._is_welcome = False

    def connection_made(self, connection: Connection) -> None:
        """Wait for the peer's hello."""
        self._start_handshake(connection)
        self._owner.dialled(self)

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete. A bad frame closes the link with its error."""
        if self._connection is None:
            return
        try:
            for kind, buffer, start, end in self._reader.cut(data):
                if self._connection is None:
                    return  # closed by the frame before, as of a removed member: what follows counts no more
                if self._greeted:
                    self._message(kind, buffer[start:end])
                else:
                    self._greet(kind, buffer[start:end])
        except ProtocolError as error:
            self._owner.refused(self._connection.remote, str(error))
            self._connection.write(handshake.goodbye(error.code, str(error)))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the owner that the link is closed."""
        self._stop_handshake_timer()
        self._connection = None
        self._owner.link_lost(self)

    def close(self) -> None:
        """Close the connection after what is unsent. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @property
    def remote(self) -> str:
        """The other end's address; "" when the link is closed."""
        return self._connection.remote if self._connection is not None else ""

    def _greet(self, kind: int, frame: bytes) -> None:
        connection = self._connection
        assert connection is not None
        if self._hello is None:
            expect(kind, Kind.PEER_HELLO, frame)
            self._read_hello(frame)
            connection.write(self._transcript.add(proofs.challenge(self._owner.challenge())))
        else:
            expect(kind, Kind.PEER_PROOF, frame)
            if self._hello.request:
                self._take_request(self._hello, frame)
                return
            self._peer, hello = self._check_proof(Part.DIALLER, frame)
            self._reader.set_limit(self._frame_bytes, "limits.max_peer_frame_bytes")
            is_proved = self._transcript.has_secret or connection.certificate_names is not None
            self._owner.meet(self._peer, hello, is_proved, self.welcome)

    def _take_request(self, hello: PeerHello, frame: bytes) -> None:
        """A node asks for a change of the members. The answer is the welcome, and the connection ends with it."""
        assert self._connection is not None
        self._check_secret(Part.DIALLER, frame)
        self._owner.check_request(hello, self._connection.certificate_names)
        self._greeted = True
        self._stop_handshake_timer()
        self._owner.requested(hello, self._answered)

    def _answered(self, answer: MembershipAnswer | None, error: DisheapError | None) -> None:
        if self._connection is None or self._hello is None:
            return
        if answer is None:
            leader = error.leader if isinstance(error, NotLeader) else ""
            code = getattr(error, "code", WrongCluster.code)
            self._connection.write(handshake.goodbye(code, str(error), leader))
        else:
            content = msgspec.structs.replace(
                self._owner.hello_to(NodeId(answer.node_id)), answer=msgspec.msgpack.encode(answer)
            )
            self._write_welcome(content)
        self.close()

    def welcome(self, is_kept: bool) -> None:
        """The peer's incarnation was recorded: welcome it. If it could not be recorded, close the link."""
        if self._connection is None:
            return
        if not is_kept:
            self.close()
            return
        self._stop_handshake_timer()
        self._is_welcome = True
        removal = self._owner.removal_of(self._peer)
        if not removal:
            self._owner.welcomes(self, self._peer)
        self._write_welcome(msgspec.structs.replace(self._owner.hello_to(self._peer), removal=removal))
        if removal:  # after our proof, so that it believes it; an older release knows no removal in a welcome
            self._connection.write(handshake.goodbye(MemberRemoved.code, removal))
            self.close()

    def _write_welcome(self, content: PeerHello) -> None:
        assert self._connection is not None
        transcript = self._transcript
        welcome = transcript.add(handshake.welcome(Kind.PEER_WELCOME, self._version, content))
        self._connection.write(welcome + transcript.proof(Part.ACCEPTOR))

    def _message(self, kind: int, frame: bytes) -> None:
        if not self._is_welcome:
            raise MalformedFrame(f"a frame of kind {kind} before the welcome")
        if kind == _RAFT and frames.PEER_FRAMES_SINCE[kind] <= self._version:
            group, message = peers.decode(frame, self._version)
            if message.source != self._peer or not self._owner.has_group(group):
                raise MalformedFrame(
                    f"a message of group {group} from node {message.source} on the link of {self._peer}"
                )
            self._owner.received(group, message)
            return
        if kind == Kind.GOODBYE:
            reason, error = read_refusal(frame)
            if isinstance(error, MemberRemoved):
                self._owner.removed(self._peer, reason)
            self.close()
            return
        _check_kind(kind, self._version)
        if kind in (Kind.REPAIR_ASK, Kind.REPAIR_ANSWER):
            about = repair.decode(kind, frame)
            if not self._owner.has_group(about.group):
                raise MalformedFrame(f"a question about repair of group {about.group}")
            self._owner.received_repair(self._peer, about)
            return
        if kind == Kind.GOSSIP:
            report = gossip.decode(frame)
            if not all(self._owner.has_group(one.group) for one in report.groups):
                raise MalformedFrame(f"a gossip frame about groups {[one.group for one in report.groups]}")
            self._owner.received_gossip(self._peer, report)
            return
        self._owner.received_forwarded(self._peer, forwarding.decode(kind, frame))


def _check_kind(kind: int, version: int) -> None:
    """Raises `WrongVersion` for a frame that does not exist in this version, `MalformedFrame` for a client's."""
    if kind in frames.PEER_FRAMES_SINCE or kind not in frames.KINDS:
        if frames.PEER_FRAMES_SINCE.get(kind, version + 1) > version:
            raise handshake.wrong_version(f"frame of kind {kind} between nodes", version)
        return
    raise MalformedFrame(f"a frame of kind {kind} between nodes")


def _write_nowhere(data: bytes) -> None: ...


class OutgoingLink(Handshaking):
    """The connection to one peer, dialled again and again by a task that its owner cancels."""

    def __init__(
        self,
        owner: LinkOwner,
        buffer_bytes: int,
        peer: NodeId,
        addresses: Callable[[], list[str]],
        transport: Transport,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(owner, loop)
        self._owner: LinkOwner = owner
        self.peer = peer
        self._buffer_bytes = buffer_bytes
        self._write_now: Callable[[bytes], None] = _write_nowhere  # of a connection that gathers; else its `write`
        self._queued: list[bytes] = []  # messages of the kernel, until `flush`
        self._queued_bytes = 0
        self._is_full = False
        self._addresses = addresses  # the last one that worked is dialled again, else they take turns
        self._address = addresses()[0]
        self._failed = 0  # dials in a row
        self._transport = transport
        self._down = asyncio.Event()
        self._has_proved = False  # our part of the handshake
        self._was_up = False
        self._is_refused_later = False  # the peer refused something after its welcome, such as a frame too large
        self._reasons: dict[str, str] = {}  # by address, as they were logged
        self.refusal = ""
        """Why the peer refused the last connection; "" once it has welcomed one."""

    @property
    def up(self) -> bool:
        """Whether the peer has welcomed this node on the present connection."""
        return self._greeted

    def send(self, group: int, message: Message) -> None:
        """Send a Raft message of a group with the next `flush`. Dropped while the link is down, or when too much is
        unsent."""
        if self._greeted and peers.exists(message, self._version) and self._has_room():
            frame = peers.encode(group, message)
            self._queued.append(frame)
            self._queued_bytes += len(frame)

    def flush(self) -> bool:
        """Hand the queued frames to the network. Returns whether all of them were written."""
        queued = self._queued
        if queued:
            data = queued[0] if len(queued) == 1 else b"".join(queued)
            queued.clear()
            self._queued_bytes = 0
            self._write_now(data)
        return self._connection is None or not self._connection.buffered()

    def send_repair(self, message: Ask | Answer) -> None:
        """Send a request or an answer about repair. Dropped while the link is down."""
        if self._greeted and frames.PEER_FRAMES_SINCE[Kind.REPAIR_ASK] <= self._version and self._has_room():
            self._write(repair.encode(message))

    def send_gossip(self, report: Gossip) -> None:
        """Send a report about this node. Dropped while the link is down."""
        if self._greeted and frames.PEER_FRAMES_SINCE[Kind.GOSSIP] <= self._version and self._has_room():
            self._write(gossip.encode(report))

    def send_forwarded(self, message: Forwarded) -> str:
        """Returns "", or why it was not sent."""
        name, since = self._owner.member_name(self.peer), frames.PEER_FRAMES_SINCE[Kind.FORWARD]
        if not self.up:
            return f"{name} cannot be reached"
        if since > self._version:
            return (
                f"{name} and this node speak protocol version {self._version}, and messages between groups exist since "
                f"version {since}; install the newest release on both"
            )
        if not self._has_room():
            return f"too much waits to be sent to {name}"
        self._write(forwarding.encode(message))
        return ""

    def say_removed(self, reason: str) -> None:
        """Tell the peer that the cluster has removed it. `close` follows."""
        if self._greeted:
            self._write(handshake.goodbye(MemberRemoved.code, reason))

    def _write(self, frame: bytes) -> None:
        if self._connection is not None:
            self._connection.write(frame)

    def _has_room(self) -> bool:
        """Whether the buffer has room for another frame. Otherwise the frame is dropped."""
        unsent = self._queued_bytes + (self._connection.buffered() if self._connection is not None else 0)
        if unsent > (self._buffer_bytes // 2 if self._is_full else self._buffer_bytes):
            self._drop()
            return False
        self._is_full = False
        return True

    def _drop(self) -> None:
        """Reports the peer as unreachable once, in the loop's next turn. The kernel sends a message at once then, which
        would be dropped here."""
        if not self._is_full:
            self._is_full = True
            self._loop.call_soon(self._owner.unreachable, self.peer)

    async def keep_up(self) -> None:
        """Dial, wait until the connection is lost, dial again. Never ends by itself."""
        wait_s = RETRY_FIRST_S
        while True:
            self._down.clear()
            self._was_up = False
            self._reader = FrameReader(frames.HANDSHAKE_FRAME_BYTES)
            try:
                addresses = self._addresses()
                self._address = addresses[self._failed % len(addresses)]
                await self._transport.connect(self._address, self, DIAL_TIMEOUT_S)
                await self._down.wait()
            except Exception as error:  # whatever a transport has not foreseen: the peer is dialled again
                self._say(str(error) or type(error).__name__)
            self._failed += not self._was_up
            wait_s = RETRY_FIRST_S if self._was_up else min(wait_s * 2, MAX_RETRY_S)
            await asyncio.sleep(wait_s)

    def connection_made(self, connection: Connection) -> None:
        """Send the hello."""
        self._start_handshake(connection)
        self._is_full = self._has_proved = False
        self._write_now = connection.write_now if isinstance(connection, Flushing) else connection.write
        hello = handshake.hello(Kind.PEER_HELLO, self._owner.hello_to(self.peer), self._owner.versions)
        connection.write(self._transcript.add(hello))

    def data_received(self, data: bytes) -> None:
        """Handle the handshake. After it, the peer may send a GOODBYE only."""
        if self._connection is None:
            return
        try:
            for kind, frame in self._reader.frames(data):
                if kind == Kind.GOODBYE:
                    self.refusal, error = read_refusal(frame)
                    self._is_refused_later = self._greeted
                    if self._greeted and isinstance(error, MemberRemoved):
                        self._owner.removed(self.peer, self.refusal)
                    raise error
                if self._greeted:
                    raise MalformedFrame(f"a frame of kind {kind} on a connection that only sends")
                self._greet(kind, frame)
        except ProtocolError as error:
            self._say(str(error))
            self._connection.abort()

    def _greet(self, kind: int, frame: bytes) -> None:
        assert self._connection is not None
        if not self._has_proved:
            expect(kind, Kind.PEER_CHALLENGE, frame)
            incarnations = proofs.open_challenge(self._transcript.add(frame)).incarnations
            self._has_proved = True
            self._connection.write(self._transcript.add(self._transcript.proof(Part.DIALLER)))
            self._owner.answered(self.peer, incarnations)
        elif self._hello is None:
            expect(kind, Kind.PEER_WELCOME, frame)
            self._read_welcome(frame)
        else:
            expect(kind, Kind.PEER_PROOF, frame)
            self._welcomed(*self._check_proof(Part.ACCEPTOR, frame))

    def _welcomed(self, peer: NodeId, hello: PeerHello) -> None:
        if peer != self.peer:
            raise WrongCluster(f"node {peer} answers at {self._address}, where node {self.peer} should")
        self.refusal = ""
        if not self._is_refused_later:  # else its reason was logged, and may come again on this connection
            self._reasons.clear()
        self._stop_handshake_timer()
        if hello.removal:  # it does not count as a welcome, also if the connection ends before the GOODBYE
            self._owner.removed(peer, hello.removal)
        else:
            self._owner.welcomed(peer, hello, self._is_kept)

    def connection_lost(self, error: Exception | None) -> None:
        """Report the peer as unreachable, and dial it again."""
        self._stop_handshake_timer()
        greeted, self._greeted, self._connection = self._greeted, False, None
        self._write_now = _write_nowhere
        self._queued.clear()
        self._queued_bytes = 0
        self._was_up = greeted and not self.refusal
        self._down.set()
        if greeted:
            self._owner.unreachable(self.peer)

    def close(self) -> None:
        """Close the connection after what is unsent."""
        if self._connection is not None:
            self._connection.close()

    def _late(self) -> None:
        self._say(f"no welcome within {HANDSHAKE_TIMEOUT_S:g} s")
        super()._late()

    def _is_kept(self, is_kept: bool) -> None:
        """Close the link if the incarnation could not be recorded. The two nodes connect again."""
        if not is_kept:
            self.close()

    def _say(self, reason: str) -> None:
        """Log why the peer cannot be reached, once for each address and reason."""
        if self._reasons.get(self._address) != reason:
            self._reasons[self._address] = reason
            log.warning(
                "a peer cannot be reached",
                peer=self._owner.member_name(self.peer), address=self._address, reason=reason,
            )  # fmt: skip
