"""A node without a cluster yet, among other nodes.

While a node asks to be let in, others may ask the same of it. It tells them that it has no cluster, and whether it may
found one. That is what lets a node with `bootstrap` and `join_addresses` found a cluster: every address has to say so.
One that does not answer may belong to a cluster that is only down.

The answer is a welcome with the id 0, proved by the cluster's secret if there is one. Owns the connections of others
until then. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from disheap.errors import ProtocolError, WrongCluster
from disheap.interfaces import Connection
from disheap.kernel.types import NOBODY
from disheap.protocol import frames, handshake, proofs
from disheap.protocol.frames import FrameReader, Kind
from disheap.protocol.handshake import Versions
from disheap.protocol.peers import MembershipAnswer, PeerHello
from disheap.protocol.proofs import NONCE_BYTES, Challenge, Part, Transcript
from disheap.runtime.peers.asking import expect

HANDSHAKE_TIMEOUT_S = 5.0
MAX_LINKS = 64
"""Connections at a time. The oldest is closed for a newer one."""


class Blank(NamedTuple):
    """What a node without a cluster says of itself. `hello` lacks its nonce."""

    hello: PeerHello
    founds: bool  # it has `bootstrap`
    secrets: Sequence[bytes]
    entropy: Callable[[int], bytes]
    versions: Versions


class BlankNode:
    """Makes the receivers of the connections that come meanwhile."""

    def __init__(self, says: Blank, loop: asyncio.AbstractEventLoop) -> None:
        self._says = says
        self._loop = loop
        self._links: dict[BlankLink, None] = {}

    def accept(self) -> BlankLink:
        """Returns the receiver of a connection that a node dialled."""
        link = BlankLink(self._says, self._loop, self._lost)
        self._links[link] = None
        if len(self._links) > MAX_LINKS:
            next(iter(self._links)).close()
        return link

    def close(self) -> None:
        """Close all connections. The node has a cluster, or stops."""
        for link in list(self._links):
            link.close()

    def _lost(self, link: BlankLink) -> None:
        self._links.pop(link, None)


class BlankLink:
    """One connection: a hello with a request, our challenge, its proof, and then the answer."""

    def __init__(self, says: Blank, loop: asyncio.AbstractEventLoop, lost: Callable[[BlankLink], None]) -> None:
        self._says = says
        self._lost = lost
        self._transcript = Transcript(says.secrets)
        self._reader = FrameReader(frames.HANDSHAKE_FRAME_BYTES)
        self._connection: Connection | None = None
        self._hello: PeerHello | None = None
        self._version = 0
        self._deadline = loop.call_later(HANDSHAKE_TIMEOUT_S, self.close)

    def connection_made(self, connection: Connection) -> None:
        """Wait for the hello."""
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        """Handle the handshake. What is not understood closes the connection with its error."""
        try:
            for kind, frame in self._reader.frames(data):
                if self._connection is not None:
                    self._greet(self._connection, kind, frame)
        except ProtocolError as error:
            if self._connection is not None:
                self._connection.write(handshake.goodbye(error.code, str(error)))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection."""
        self._connection = None
        self.close()

    def writing_paused(self) -> None:
        """Ignored: a few small frames are written."""

    def writing_resumed(self) -> None:
        """Ignored, likewise."""

    def close(self) -> None:
        """Close the connection after what is unsent. May be called twice."""
        self._deadline.cancel()
        self._lost(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _greet(self, connection: Connection, kind: int, frame: bytes) -> None:
        says, transcript = self._says, self._transcript
        if self._hello is None:
            expect(kind, Kind.PEER_HELLO)
            self._version, self._hello = handshake.open_hello(frames.open_plain(frame), PeerHello, says.versions)
            transcript.add(frame)
            incarnations = tuple(group.incarnation for group in says.hello.groups)
            challenge = Challenge(says.entropy(NONCE_BYTES), incarnations)
            connection.write(transcript.add(proofs.challenge(challenge)))
            return
        expect(kind, Kind.PEER_PROOF)
        transcript.check(Part.DIALLER, frame)
        transcript.add(frame)
        self._check(self._hello)
        answer = msgspec.msgpack.encode(MembershipAnswer(NOBODY, 0, says.founds))
        hello = msgspec.structs.replace(says.hello, nonce=says.entropy(NONCE_BYTES), request=b"", answer=answer)
        welcome = transcript.add(handshake.welcome(Kind.PEER_WELCOME, self._version, hello))
        connection.write(welcome + transcript.proof(Part.ACCEPTOR))
        self.close()

    def _check(self, hello: PeerHello) -> None:
        """Raises `WrongCluster` for a member of a cluster, and for a node that wants another one."""
        own = self._says.hello
        if not hello.request or hello.node_id:
            raise WrongCluster(f"{own.name} has no cluster yet: its data directory is empty")
        if hello.cluster != own.cluster:
            raise WrongCluster(
                f"{hello.name} wants to join a cluster called {hello.cluster!r}, and {own.name} one called "
                f"{own.cluster!r}. Set `cluster` to the same name, or ask at other addresses"
            )
