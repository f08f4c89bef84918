"""How two nodes prove to each other that they know the cluster's secret: challenge and response with HMAC-SHA256.

The handshake of one connection (the dialler is the node that opened it):

| frame          | from     | content                                                                       |
|----------------|----------|-------------------------------------------------------------------------------|
| PEER_HELLO     | dialler  | who it is and whom it looks for, with a nonce                                  |
| PEER_CHALLENGE | acceptor | 6-37 a nonce, 38-45 the acceptor's incarnation                                 |
| PEER_PROOF     | dialler  | 32 bytes, or none without a secret                                             |
| PEER_WELCOME   | acceptor | who it is; sent when the dialler has proved the secret and is remembered       |
| PEER_PROOF     | acceptor | 32 bytes, or none without a secret                                             |

A proof is the HMAC of the prover's role and of every frame of the handshake before it. So it covers the nonces of both
sides, the cluster's id, the ids of both nodes and the protocol's version. It is of no use in another handshake, in the
other direction, or against another node. The dialler proves first: an acceptor tells a stranger nothing of value.

A proof says who opened the connection. It does not protect what follows. Only `tls` protects it against those who can
change packets on their way.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from enum import Enum
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from disheap.errors import MalformedFrame, NotProved
from disheap.protocol import frames
from disheap.protocol.frames import Kind

NONCE_BYTES = 32
_INCARNATION = Struct("<Q")


class Part(Enum):
    """Whose proof it is. Without it, an acceptor's proof could be its dialler's, sent back."""

    DIALLER = b"disheap-dialler"
    ACCEPTOR = b"disheap-acceptor"


class Challenge(NamedTuple):
    """What an acceptor asks a dialler to prove the secret with."""

    nonce: bytes
    incarnations: tuple[int, ...]  # of the process that answers at this address: one for each group


class Transcript:
    """The frames of one handshake, in order. `secrets`: the first proves, each of them is accepted."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets
        self._frames = b""

    @property
    def has_secret(self) -> bool:
        """Whether this node was given a secret."""
        return bool(self._secrets)

    def add(self, frame: bytes) -> bytes:
        """A frame that was sent or received. Returns it."""
        self._frames += frame
        return frame

    def proof(self, part: Part) -> bytes:
        """The PEER_PROOF frame for all that was added."""
        return frames.plain(Kind.PEER_PROOF, self._digest(self._secrets[0], part) if self._secrets else b"")

    def check(self, part: Part, frame: bytes) -> None:
        """Raises `NotProved` for a PEER_PROOF frame that does not show one of our secrets."""
        proof = frames.open_plain(frame)
        if not self._secrets and not proof:
            return
        if not self._secrets:
            raise NotProved(f"the other node was given a cluster secret, and this one was not. {GIVE_SECRET}")
        if not proof:
            raise NotProved(f"the other node was not given the cluster secret that this one has. {GIVE_SECRET}")
        if not any(hmac.compare_digest(proof, self._digest(secret, part)) for secret in self._secrets):
            raise NotProved(f"the other node has another cluster secret than this one. {GIVE_SECRET}")

    def _digest(self, secret: bytes, part: Part) -> bytes:
        return hmac.digest(secret, part.value + b"\0" + self._frames, "sha256")


GIVE_SECRET = "Give all nodes the same secret (cluster_secret_file or DISHEAP_CLUSTER_SECRET)"


def challenge(content: Challenge) -> bytes:
    """One whole frame."""
    return frames.plain(Kind.PEER_CHALLENGE, content.nonce + b"".join(map(_INCARNATION.pack, content.incarnations)))


def open_challenge(frame: bytes) -> Challenge:
    """Raises `MalformedFrame`."""
    try:
        body = frames.open_plain(frame)
        incarnations = tuple(number for (number,) in _INCARNATION.iter_unpack(body[NONCE_BYTES:]))
        if not incarnations:
            raise MalformedFrame("a node's challenge names no incarnation")
        return Challenge(body[:NONCE_BYTES], incarnations)
    except StructError as error:
        raise MalformedFrame(f"a node's challenge cannot be read: {error}") from error
