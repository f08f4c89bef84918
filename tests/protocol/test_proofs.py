"""Nodes prove that they know the cluster's secret: what a proof covers, and for what it is of no use."""

from __future__ import annotations

from itertools import pairwise

import pytest

from disheap.errors import MalformedFrame, NotProved
from disheap.protocol import frames, handshake, proofs
from disheap.protocol.frames import Kind
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.protocol.proofs import Challenge, Part, Transcript

OLD, NEW = b"old" * 16, b"new" * 16


def transcript(
    *secrets: bytes, nonce: bytes = bytes(32), incarnation: int = 5, node: int = 2, target: int = 1, cluster: str = "c"
) -> Transcript:
    """A hello and a challenge."""
    made = Transcript(secrets)
    hello = PeerHello(cluster, node, f"n{node}", target, "", (PeerGroup(7, "heap", (1, 1)),), nonce=nonce)
    made.add(handshake.hello(Kind.PEER_HELLO, hello))
    made.add(proofs.challenge(Challenge(bytes(32), (incarnation,))))
    return made


def is_accepted(by: Transcript, proof: bytes, part: Part = Part.DIALLER) -> bool:
    try:
        by.check(part, proof)
    except NotProved:
        return False
    return True


def test_who_knows_the_secret_is_accepted() -> None:
    assert is_accepted(transcript(NEW), transcript(NEW).proof(Part.DIALLER))
    assert not is_accepted(transcript(NEW), transcript(OLD).proof(Part.DIALLER))


def test_without_a_secret_nothing_is_proved_and_nothing_asked_for() -> None:
    assert is_accepted(transcript(), transcript().proof(Part.DIALLER))


def test_a_proof_sent_back_is_none() -> None:
    assert not is_accepted(transcript(NEW), transcript(NEW).proof(Part.DIALLER), Part.ACCEPTOR)


@pytest.mark.parametrize(
    "other",
    [{"nonce": bytes([1]) * 32}, {"incarnation": 6}, {"node": 3}, {"target": 3}, {"cluster": "d"}],
    ids=lambda other: next(iter(other)),
)
def test_a_proof_is_of_no_use_in_another_handshake(other: dict[str, object]) -> None:
    proof = transcript(NEW).proof(Part.DIALLER)
    assert not is_accepted(transcript(NEW, **other), proof)  # type: ignore[arg-type]


def test_two_secrets_are_accepted_while_one_replaces_the_other() -> None:
    """Old; old and new on every node; new and old; new. At each step neighbours understand each other."""
    steps = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
    for one, two in pairwise(steps):
        assert is_accepted(transcript(*one), transcript(*two).proof(Part.DIALLER))
        assert is_accepted(transcript(*two), transcript(*one).proof(Part.DIALLER))
    assert not is_accepted(transcript(NEW), transcript(OLD, NEW).proof(Part.DIALLER))


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        ((), (NEW,), "this one was not"),
        ((NEW,), (), "was not given the cluster secret"),
        ((NEW,), (OLD,), "another cluster secret"),
    ],
)
def test_a_refusal_says_who_lacks_what_and_repeats_no_secret(
    here: tuple[bytes, ...], there: tuple[bytes, ...], words: str
) -> None:
    with pytest.raises(NotProved, match=words) as refusal:
        transcript(*here).check(Part.DIALLER, transcript(*there).proof(Part.DIALLER))
    assert "DISHEAP_CLUSTER_SECRET" in str(refusal.value)
    assert not any(secret.decode() in str(refusal.value) for secret in (*here, *there))


@pytest.mark.parametrize("body", [b"", bytes(39), bytes(41)])
def test_a_challenge_of_another_length_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedFrame, match="challenge"):
        proofs.open_challenge(frames.plain(Kind.PEER_CHALLENGE, body))
