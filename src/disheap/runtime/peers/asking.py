"""Asks a cluster for a change of its members: a node that joins, or one that leaves.

A node that is asked may have no cluster itself (`blank`).

The request is in the hello of a connection of its own (`protocol.peers.MembershipRequest`). The answer is the welcome,
and comes when the change is committed. Owns one such connection at a time, and the search for the leader. Does not
decide anything about members.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from disheap.errors import (
    ConnectionLost,
    DisheapError,
    MalformedFrame,
    NotLeader,
    ProtocolError,
    RequestTimeout,
    WrongCluster,
    protocol_error,
    request_error,
)
from disheap.interfaces import Connection, Transport
from disheap.logs import get_logger
from disheap.protocol import frames, handshake, proofs
from disheap.protocol.frames import FrameReader, Kind
from disheap.protocol.handshake import Versions
from disheap.protocol.peers import MembershipAnswer, PeerHello
from disheap.protocol.proofs import NONCE_BYTES, Part, Transcript

log = get_logger(__name__)

DIAL_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 15.0
"""A leader answers when the change is committed, or refuses it, within less than that."""
ASK_AGAIN_S = 1.0
"""Between two rounds over all addresses."""
REDIRECTS_MAX = 4
"""How often one round follows the name of a leader: leadership may change meanwhile."""


class Answered(NamedTuple):
    """What a cluster has answered."""

    hello: PeerHello  # of the leader
    answer: MembershipAnswer


class Asker:
    """`hello` makes the hello with the request, all but its nonce. `entropy` returns random bytes."""

    def __init__(
        self,
        transport: Transport,
        hello: PeerHello,
        secrets: Sequence[bytes],
        entropy: Callable[[int], bytes],
        versions: Versions,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._hello = hello
        self._secrets = secrets
        self._entropy = entropy
        self._versions = versions
        self._loop = loop
        self._logged: dict[str, str] = {}  # by address: why it has refused

    async def ask_until_answered(self, addresses: Sequence[str], founds: bool = False) -> Answered | None:
        """Ask at these addresses, again and again. Logs each reason once. Never gives up by itself. With `founds`
        it returns None when this node is to found the cluster. Then each address has answered in one round that it has
        no cluster. And no node there that may found one has a smaller name."""
        while True:
            blank: list[Answered] = []
            for address in addresses:
                try:
                    answered = await self.ask(address)
                except DisheapError as error:
                    self._log(address, str(error))
                    continue
                if answered.answer.node_id:
                    return answered
                blank.append(answered)
                if not self._is_own(answered):
                    self._log(address, f"{answered.hello.name} has no cluster yet, either")
            if founds and len(blank) == len(addresses) and not any(map(self._founds_first, blank)):
                return None
            await asyncio.sleep(ASK_AGAIN_S)

    def _is_own(self, answered: Answered) -> bool:
        """Whether this node has asked itself. All nodes may have the same list."""
        own = [group.incarnation for group in self._hello.groups]
        return [group.incarnation for group in answered.hello.groups] == own

    def _founds_first(self, answered: Answered) -> bool:
        """Two nodes may have `bootstrap`, and only one of them founds the cluster."""
        is_first = answered.hello.name < self._hello.name
        return answered.answer.founds and is_first and not self._is_own(answered)

    async def ask(self, address: str) -> Answered:
        """Ask at one address, and where it says that the leader is. Raises `ProtocolError` and `RequestError`."""
        for _ in range(REDIRECTS_MAX):
            try:
                return await self._ask_once(address)
            except NotLeader as error:
                if error.leader in ("", address):
                    raise
                address = error.leader
        raise NotLeader()

    async def _ask_once(self, address: str) -> Answered:
        hello = msgspec.structs.replace(self._hello, nonce=self._entropy(NONCE_BYTES))
        link = AskingLink(hello, Transcript(self._secrets), self._versions, self._loop.create_future())
        try:
            await self._transport.connect(address, link, DIAL_TIMEOUT_S)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await link.answered
        except TimeoutError:
            raise RequestTimeout(f"{address} has not answered within {ANSWER_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise ConnectionLost(f"{address} cannot be reached: {error}") from error
        finally:
            link.close()

    def _log(self, address: str, reason: str) -> None:
        if self._logged.get(address) != reason:
            self._logged[address] = reason
            log.warning("the cluster does not let this node in yet; it asks again", address=address, reason=reason)


class AskingLink:
    """The connection: hello, challenge, proof, and then the welcome with the answer, and the other side's proof."""

    def __init__(
        self, hello: PeerHello, transcript: Transcript, versions: Versions, answered: asyncio.Future[Answered]
    ) -> None:
        self.answered = answered
        self._hello = hello
        self._transcript = transcript
        self._versions = versions
        self._reader = FrameReader(frames.HANDSHAKE_FRAME_BYTES)
        self._connection: Connection | None = None
        self._has_proved = False
        self._welcome: PeerHello | None = None

    def connection_made(self, connection: Connection) -> None:
        """Send the hello."""
        self._connection = connection
        hello = handshake.hello(Kind.PEER_HELLO, self._hello, self._versions)
        connection.write(self._transcript.add(hello))

    def data_received(self, data: bytes) -> None:
        """Handle the handshake."""
        try:
            for kind, frame in self._reader.frames(data):
                self._greet(kind, frame)
        except DisheapError as error:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Give up, unless the answer has come."""
        self._connection = None
        self._end(ConnectionLost("the connection ended before an answer came"))

    def writing_paused(self) -> None:
        """Ignored: a few small frames are written."""

    def writing_resumed(self) -> None:
        """Ignored, likewise."""

    def close(self) -> None:
        """Close the connection. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self.answered.done() and not self.answered.cancelled():
            self.answered.exception()  # it was seen, or nobody waits for it any more
        self.answered.cancel()

    def _greet(self, kind: int, frame: bytes) -> None:
        if self._connection is None:
            return
        if kind == Kind.GOODBYE:
            raise _refusal(frame)
        if not self._has_proved:
            expect(kind, Kind.PEER_CHALLENGE)
            proofs.open_challenge(self._transcript.add(frame))
            self._has_proved = True
            self._connection.write(self._transcript.add(self._transcript.proof(Part.DIALLER)))
        elif self._welcome is None:
            expect(kind, Kind.PEER_WELCOME)
            _, self._welcome = handshake.open_welcome(frames.open_plain(frame), PeerHello, self._versions)
            self._transcript.add(frame)
        else:
            expect(kind, Kind.PEER_PROOF)
            self._transcript.check(Part.ACCEPTOR, frame)
            self._take(self._welcome)

    def _take(self, welcome: PeerHello) -> None:
        if not welcome.answer:
            raise WrongCluster(f"{welcome.name} runs a release that knows no changes of members. Install a newer one")
        try:
            answer = msgspec.msgpack.decode(welcome.answer, type=MembershipAnswer)
        except frames.UNREADABLE as error:
            raise MalformedFrame(f"an answer about members that cannot be read: {error}") from error
        if not self.answered.done():
            self.answered.set_result(Answered(welcome, answer))

    def _end(self, error: DisheapError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)


def expect(kind: int, expected: Kind) -> None:
    """Raises `MalformedFrame` for another kind of frame."""
    if kind != expected:
        raise MalformedFrame(
            f"a frame of kind {kind} came, where {expected.name} should. Is this a port for clients, not for peers?"
        )


def _refusal(frame: bytes) -> DisheapError:
    """Returns the error that a GOODBYE names. `NotLeader` has the leader's peer address."""
    goodbye = handshake.open_goodbye(frames.open_plain(frame))
    if goodbye.code == NotLeader.code:
        return NotLeader(goodbye.leader)
    refusal: ProtocolError | None = protocol_error(goodbye.code, goodbye.message)
    return refusal or request_error(goodbye.code, goodbye.message)
