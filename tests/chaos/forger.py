"""Somebody on the machine who speaks the protocol of peers and is no member.

Learns what a node tells everybody who connects or listens: the cluster's id, the ids, the incarnations and the digests
of the settings. Knows no secret. Owns the frames that such a one can send, and what is heard back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from disheap.interfaces import Connection, TransportContext
from disheap.kernel.types import (
    AppendRequest,
    Entry,
    EntryKind,
    Heartbeat,
    Index,
    Message,
    NodeId,
    Term,
    TimeoutNow,
    VoteRequest,
)
from disheap.protocol import frames, gossip, handshake, peers, proofs
from disheap.protocol.frames import FrameReader, Kind
from disheap.protocol.gossip import Gossip, GroupReport
from disheap.protocol.peers import PeerHello
from disheap.protocol.proofs import Challenge
from disheap_tcp.options import TcpSettings
from disheap_tcp.tcp import TcpTransport

BOUND_S = 20.0
TERM_JUMP = 1001
NO_PROOF = frames.plain(Kind.PEER_PROOF)
ZERO_PROOF = frames.plain(Kind.PEER_PROOF, bytes(32))


class Forger:
    """One connection. `script` is said at once, and one of `answers` for each frame that comes."""

    def __init__(self, *script: bytes, answers: Iterable[bytes] = ()) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.is_lost = False
        self.connection: Connection
        self._script = script
        self._answers = iter(answers)
        self._reader = FrameReader(1 << 20)
        self._changed = asyncio.Event()

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        connection.write(b"".join(self._script))

    def data_received(self, data: bytes) -> None:
        for kind, frame in self._reader.frames(data):
            self.heard.append((kind, frame))
            self.connection.write(next(self._answers, b""))
        self._changed.set()

    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._changed.set()

    @property
    def kinds(self) -> list[int]:
        return [kind for kind, _ in self.heard]

    async def wait_frame(self, kind: Kind) -> bytes:
        await self.wait(lambda: kind in self.kinds or self.is_lost, f"no {kind.name}")
        assert kind in self.kinds, f"no {kind.name}; heard {self.kinds}"
        return next(frame for found, frame in self.heard if found == kind)

    async def wait_lost(self) -> None:
        await self.wait(lambda: self.is_lost, "the connection stays")

    async def wait(self, holds: Callable[[], bool], otherwise: str) -> None:
        try:
            async with asyncio.timeout(BOUND_S):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{otherwise}; heard {self.kinds}") from None


def transport() -> TcpTransport:
    return TcpTransport(TcpSettings(), TransportContext(asyncio.get_running_loop()))


async def say(address: str, *script: bytes) -> Forger:
    forger = Forger(*script)
    await transport().connect(address, forger, BOUND_S)
    return forger


def hello(content: PeerHello) -> bytes:
    return handshake.hello(Kind.PEER_HELLO, content)


async def incarnation_at(address: str, any_hello: PeerHello) -> int:
    """A node tells it to whoever says hello, before any proof."""
    forger = await say(address, hello(any_hello))
    found = proofs.open_challenge(await forger.wait_frame(Kind.PEER_CHALLENGE)).incarnations[0]
    forger.connection.abort()
    return found


class StolenPort:
    """The port of a stopped member. Each node that dials it says its hello, and gets `answers`."""

    def __init__(self, address: str, answers: tuple[bytes, ...] = ()) -> None:
        self.dialled: list[Forger] = []
        self._address = address
        self._answers = answers
        self._came = asyncio.Event()

    async def __aenter__(self) -> StolenPort:
        self._listener = await transport().listen(self._address, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.close()
        for forger in self.dialled:
            forger.connection.abort()

    def _accept(self) -> Forger:
        self.dialled.append(Forger(answers=self._answers))
        self._came.set()
        return self.dialled[-1]

    async def wait_hellos(self, sources: Iterable[int]) -> dict[int, tuple[PeerHello, Forger]]:
        """By node id: what it said, and on which connection."""
        missing, found = set(sources), {}
        async with asyncio.timeout(BOUND_S):
            while missing:
                for forger in list(self.dialled):
                    if forger.heard or not forger.is_lost:
                        frame = await forger.wait_frame(Kind.PEER_HELLO)
                        said = read_hello(frame)
                        found[said.node_id] = (said, forger)
                        missing.discard(said.node_id)
                if missing:
                    self._came.clear()
                    await self._came.wait()
        return found


def read_hello(frame: bytes) -> PeerHello:
    return handshake.open_hello(frames.open_plain(frame), PeerHello)[1]


def acceptor(content: PeerHello, proof: bytes) -> tuple[bytes, bytes]:
    """What the member would answer to a hello and to a proof, as far as somebody without the secret can."""
    challenge = proofs.challenge(Challenge(bytes(32), tuple(group.incarnation for group in content.groups)))
    return challenge, handshake.welcome(Kind.PEER_WELCOME, handshake.SUPPORTED.highest, content) + proof


def as_member(known: PeerHello, member: int, incarnation: int, target: int) -> PeerHello:
    group = msgspec.structs.replace(known.groups[0], incarnation=incarnation)
    return msgspec.structs.replace(
        known, node_id=member, name=f"n{member}", groups=(group,), target=target, nonce=bytes(32)
    )


def forged_messages(source: int, target: int, term: int, index: int) -> dict[str, bytes]:
    """What would move a term, a leader, a log, or what a node believes of another one."""
    one, other = NodeId(source), NodeId(target)
    later = Term(term + TERM_JUMP)
    entry = Entry(later, Index(index + 1), EntryKind.NOOP, 1, b"")
    messages: dict[str, Message] = {
        "heartbeat": Heartbeat(one, other, later, Index(index), 0),
        "append": AppendRequest(one, other, later, Index(index), Term(term), (entry,), Index(index + 1)),
        "timeout now": TimeoutNow(one, other, Term(term)),
        "vote": VoteRequest(one, other, later, Index(index), Term(term), False, True),
    }
    short = gossip.encode(Gossip((GroupReport(0, is_short=True, free_bytes=0),), memory_is_short=True))
    return {name: peers.encode(0, message) for name, message in messages.items()} | {"gossip": short}


async def wait_until(holds: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    """Asks a node again and again. It has no way to tell by itself."""
    try:
        async with asyncio.timeout(BOUND_S):
            while not await holds():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(otherwise) from None
