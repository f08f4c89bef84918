"""What both ends of a connection between nodes share: a handshake that has to end in time (storage-rules 13 and 18).

Owns the checks of what the other side says of itself. `links` has the order of the frames.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from disheap.errors import MalformedFrame, ProtocolError, WrongCluster, protocol_error
from disheap.interfaces import Connection
from disheap.kernel.types import NodeId
from disheap.protocol import frames, handshake
from disheap.protocol.frames import FrameReader, Kind
from disheap.protocol.handshake import Goodbye, Versions
from disheap.protocol.peers import PeerHello
from disheap.protocol.proofs import Part, Transcript

HANDSHAKE_TIMEOUT_S = 5.0


class HandshakeOwner(Protocol):
    """What a handshake asks of its node. `versions` are those of the protocol that the node speaks."""

    versions: Versions

    def transcript(self) -> Transcript:
        """Returns an empty transcript with the cluster's secrets, for one handshake."""

    def check_hello(self, hello: PeerHello, certificate_names: tuple[str, ...] | None) -> NodeId:
        """Returns which member the hello is from. Raises `WrongCluster` and `WrongVersion`."""


def _stranger(kind: int, expected: Kind) -> str:
    if kind == Kind.HELLO:
        return "this port is for nodes; clients have one of their own (`client_listen`, 8400 unless told otherwise)"
    return f"a frame of kind {kind} came, where {expected.name} should; is this a client's port, or another release?"


class Handshaking:
    """What both ends share: a frame reader, and a handshake that has to end in time."""

    def __init__(self, owner: HandshakeOwner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._reader = FrameReader(frames.HANDSHAKE_FRAME_BYTES)
        self._connection: Connection | None = None
        self._greeted = False
        self._transcript: Transcript
        self._version = 0  # of the protocol, that both sides speak
        self._hello: PeerHello | None = None  # the other side's; not proved before `_greeted`
        self._deadline: asyncio.TimerHandle | None = None

    def _start_handshake(self, connection: Connection) -> None:
        self._connection = connection
        self._transcript = self._owner.transcript()
        self._hello = None
        self._deadline = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self._late)

    def _stop_handshake_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self.abort()

    def held_bytes(self) -> int:
        """The unsent bytes, and those of an unfinished frame."""
        unsent = self._connection.buffered() if self._connection is not None else 0
        return unsent + self._reader.held_bytes

    def abort(self) -> None:
        """End the connection at once."""
        if self._connection is not None:
            self._connection.abort()

    def writing_paused(self) -> None:
        """Called by the transport. What does not fit the buffer is dropped."""

    def writing_resumed(self) -> None:
        """Called by the transport."""

    def _read_hello(self, frame: bytes) -> None:
        self._version, self._hello = handshake.open_hello(frames.open_plain(frame), PeerHello, self._owner.versions)
        self._transcript.add(frame)

    def _read_welcome(self, frame: bytes) -> None:
        self._version, self._hello = handshake.open_welcome(frames.open_plain(frame), PeerHello, self._owner.versions)
        self._transcript.add(frame)

    def _check_proof(self, part: Part, frame: bytes) -> tuple[NodeId, PeerHello]:
        """Check that the other side is a member and knows the secret, if there is one. Raises `ProtocolError`."""
        assert self._connection is not None and self._hello is not None
        self._check_secret(part, frame)
        peer = self._owner.check_hello(self._hello, self._connection.certificate_names)
        self._greeted = True
        return peer, self._hello

    def _check_secret(self, part: Part, frame: bytes) -> None:
        self._transcript.check(part, frame)
        self._transcript.add(frame)


def expect(kind: int, expected: Kind, frame: bytes) -> None:
    """Raises `MalformedFrame` for a frame that is not expected at this point of the handshake."""
    if kind == Kind.GOODBYE:
        raise read_refusal(frame)[1]
    if kind != expected:
        raise MalformedFrame(_stranger(kind, expected))


def read_refusal(frame: bytes) -> tuple[str, ProtocolError]:
    """Returns the text of a GOODBYE and the error of its code. The error is `WrongCluster` for an unknown code."""
    try:
        goodbye = handshake.open_goodbye(frames.open_plain(frame))
    except MalformedFrame:
        goodbye = Goodbye("", "it gave no reason that could be read")
    says = f"the other node refused the connection: {goodbye.message}"
    return goodbye.message, protocol_error(goodbye.code, says) or WrongCluster(says)
