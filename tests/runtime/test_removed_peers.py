"""A node that was removed is welcomed, so that it believes what it is told then, and is not heard."""

from __future__ import annotations

from tests.fuzz.targets import HELLO, Owner, StillLoop, Wire

from disheap.kernel.types import Heartbeat, Index, NodeId, Term
from disheap.protocol import frames, handshake, peers
from disheap.protocol.frames import FrameReader, Kind
from disheap.runtime.peers.links import IncomingLink

TERM_AHEAD = Heartbeat(NodeId(2), NodeId(1), Term(99), Index(0), 0)


class Removing(Owner):
    def removal_of(self, peer: NodeId) -> str:
        return f"node {peer} was removed"


class Written(Wire):
    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def test_nothing_counts_that_a_removed_node_sends_behind_its_hello() -> None:
    owner, wire = Removing(), Written()
    link = IncomingLink(owner, 1 << 16, StillLoop())
    link.connection_made(wire)
    hello = handshake.hello(Kind.PEER_HELLO, HELLO) + frames.plain(Kind.PEER_PROOF)
    link.data_received(hello + peers.encode(0, TERM_AHEAD))
    said = dict(FrameReader(1 << 16).frames(wire.data))
    assert list(said)[-1] == Kind.GOODBYE
    _, welcome = handshake.open_welcome(frames.open_plain(said[Kind.PEER_WELCOME]), peers.PeerHello)
    assert welcome.removal == "node 2 was removed"
    assert owner.messages == []
    link.data_received(peers.encode(0, TERM_AHEAD))
    assert owner.messages == []
