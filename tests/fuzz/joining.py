"""A node without a cluster, for what others send it: nodes that ask it to be let in, and whoever it asks itself."""

from __future__ import annotations

from typing import Any

import msgspec

from disheap.errors import DisheapError
from disheap.kernel.types import NOBODY
from disheap.protocol import frames, handshake, proofs
from disheap.protocol.frames import FrameReader, Kind
from disheap.protocol.peers import MembershipAnswer, MembershipRequest, PeerGroup, PeerHello
from disheap.protocol.proofs import Challenge, Transcript
from disheap.runtime.peers.asking import Answered, AskingLink
from disheap.runtime.peers.blank import Blank, BlankLink, BlankNode
from tests.fuzz.doubles import NONCE, StillLoop, Wire

SECRETS = (b"secret" * 8,)
OWN = PeerHello("", 0, "n1", 0, "n1:8400", (PeerGroup(4, "heap", (1, 1)),), cluster="orders", peer_address="n1:8300")
OTHER = msgspec.structs.replace(OWN, name="n2", nonce=NONCE, request=msgspec.msgpack.encode(MembershipRequest("join")))
ASKS = [handshake.hello(Kind.PEER_HELLO, OTHER), frames.plain(Kind.PEER_PROOF)]
"""What a node that joins sends."""
ANSWERS = [
    proofs.challenge(Challenge(NONCE, (5,))),
    handshake.welcome(
        Kind.PEER_WELCOME,
        2,
        msgspec.structs.replace(
            OTHER,
            cluster_id="c0ffee0123456789",
            node_id=2,
            request=b"",
            answer=msgspec.msgpack.encode(MembershipAnswer(3, 9)),
        ),
    ),
    frames.plain(Kind.PEER_PROOF),
]
"""What a leader answers it."""
WRONG_PROOF = frames.plain(Kind.PEER_PROOF, bytes(32))


class BlankAmongOthers:
    """Takes one connection. With `secrets`, the other side does not know them."""

    def __init__(self, secrets: tuple[bytes, ...] = ()) -> None:
        says = Blank(OWN, True, secrets, bytes, handshake.SUPPORTED)
        self._node = BlankNode(says, StillLoop())  # type: ignore[arg-type]
        self.link: BlankLink = self._node.accept()

    def check(self, wire: Wire) -> None:
        """It says a challenge, and then that it has no cluster, or a goodbye. Then it has forgotten the connection."""
        assert not self._node._links
        sent = [frame for data in wire.sent for frame in FrameReader().frames(data)]
        kinds = [kind for kind, _ in sent]
        greets, ends = [Kind.PEER_CHALLENGE], ([Kind.GOODBYE], [Kind.PEER_WELCOME, Kind.PEER_PROOF])
        assert kinds in ([], greets, *ends[:1], *(greets + end for end in ends)), kinds
        for kind, frame in sent:
            if kind == Kind.PEER_WELCOME:
                assert not self._node._says.secrets, "somebody is answered who does not know the secret"
                _, welcome = handshake.open_welcome(frames.open_plain(frame), PeerHello)
                answer = msgspec.msgpack.decode(welcome.answer, type=MembershipAnswer)
                assert answer == MembershipAnswer(NOBODY, 0, True) and not welcome.cluster_id


class _Answer:
    """A future that nobody waits for."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []

    def done(self) -> bool:
        return bool(self.outcomes)

    def cancelled(self) -> bool:
        return False

    def exception(self) -> None: ...

    def cancel(self) -> None: ...

    def set_result(self, result: Answered) -> None:
        self.outcomes.append(result)

    set_exception = set_result


class AskingNode:
    """Asks somebody. With `secrets`, the other side does not know them."""

    def __init__(self, secrets: tuple[bytes, ...] = ()) -> None:
        self._secrets = secrets
        self._answer = _Answer()
        hello = msgspec.structs.replace(OTHER, name="n1", nonce=NONCE)
        self.link = AskingLink(hello, Transcript(secrets), handshake.SUPPORTED, self._answer)  # type: ignore[arg-type]

    def check(self) -> None:
        """It has one answer: what the cluster says, or the error. Without the secret it is the error."""
        (outcome,) = self._answer.outcomes
        assert isinstance(outcome, Answered | DisheapError)
        assert not self._secrets or isinstance(outcome, DisheapError), "an answer is taken from anybody"
