"""What travels of an error: its code, which is one class's own, and its text."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from disheap.cli.terminal import failures
from disheap.errors import DisheapError, OutcomeUnknown, ProtocolError, RequestError, protocol_error, request_error
from disheap.kernel.types import NodeId
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind
from disheap.protocol.proofs import Transcript
from disheap.runtime.peers.links import IncomingLink


def tree(root: type[Any]) -> list[type[Any]]:
    """Without what others derive from it."""
    kinds = [root, *(kind for child in root.__subclasses__() for kind in tree(child))]
    return [kind for kind in kinds if kind.__module__ == DisheapError.__module__]


def test_every_code_is_one_classs_own() -> None:
    codes = [kind.code for root in (RequestError, ProtocolError) for kind in tree(root)]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", tree(RequestError) + tree(ProtocolError))
def test_an_error_is_found_again_by_its_code(kind: type[RequestError | ProtocolError]) -> None:
    lookup = request_error if issubclass(kind, RequestError) else protocol_error
    found = lookup(kind.code, "why")
    assert type(found) is kind and "why" in str(found)


def test_who_derives_from_an_error_does_not_take_its_code_over() -> None:
    class Mine(OutcomeUnknown):
        pass

    assert type(request_error(Mine.code, "why")) is OutcomeUnknown


def test_an_unknown_code_is_a_refusal_that_names_it_and_no_protocol_error() -> None:
    assert str(request_error("new-in-2040", "why")) == "new-in-2040: why"
    assert protocol_error("new-in-2040", "why") is None


class Owner:
    def dialled(self, link: IncomingLink) -> None: ...

    def refused(self, remote: str, reason: str) -> None: ...

    def transcript(self) -> Transcript:
        return Transcript(())

    def check_hello(self, hello: object, certificate_names: tuple[str, ...] | None) -> NodeId:
        raise AssertionError("there was no hello")


class Wire:
    remote, certificate_names = "test", None

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("said", "code"), [(b"GET / HTTP/1.1\r\n\r\n", "frame-too-large"), (frames.plain(Kind.PING), "malformed-frame")]
)
async def test_a_peer_is_told_by_code_too(said: bytes, code: str) -> None:
    wire = Wire()
    link = IncomingLink(Owner(), 1 << 20, asyncio.get_running_loop())  # type: ignore[arg-type]
    link.connection_made(wire)  # type: ignore[arg-type]
    link.data_received(said)
    assert handshake.open_goodbye(frames.open_plain(wire.sent)).code == code


def test_whatever_is_raised_on_purpose_has_a_word_for_programs() -> None:
    words = [failures.code(kind.__new__(kind)) for kind in tree(DisheapError)]
    assert all(word == word.lower() for word in words)
    assert len(set(words)) == len(words)
