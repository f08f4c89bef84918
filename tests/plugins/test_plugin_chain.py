"""Chains of codecs, spelled `zstd+aesgcm`: the first named sees the raw bytes."""

from __future__ import annotations

import random

import pytest
from made_plugins import MakeDistribution, codec_source

from disheap.errors import CodecError, PluginError
from disheap.interfaces import CodecContext, StreamContext
from disheap.plugins.chain import GROWTH_BYTES, GROWTH_SHARE, PREAMBLE_BYTES, ChainedCodec, ChainedStream
from disheap.plugins.registry import Registry

CONTEXT = CodecContext(random.Random(1))
SEGMENT = StreamContext("segment", "one")


@pytest.fixture
def registry(make_distribution: MakeDistribution) -> Registry:
    return Registry.load(
        [
            make_distribution("red", {"red": "red_hooks"}, red_hooks=codec_source("red")),
            make_distribution("blue", {"blue": "blue_hooks"}, blue_hooks=codec_source("blue")),
        ]
    )


def test_one_name_is_the_codec_itself(registry: Registry) -> None:
    assert registry.codec("red", {}, CONTEXT).name == "red"


def test_a_chain_encodes_from_left_to_right_and_decodes_back(registry: Registry) -> None:
    codec = registry.codec("red+blue", {}, CONTEXT)
    assert codec.name == "red+blue"
    _, stream = codec.new_stream(SEGMENT)
    assert stream.encode(b"raw", 0) == b"blueredraw"
    assert stream.decode(b"blueredraw", 0, 100) == b"raw"


def test_each_part_has_settings_of_its_own(registry: Registry) -> None:
    preamble, _ = registry.codec("red+blue", {"red": {"level": 2}, "blue": {"level": 9}}, CONTEXT).new_stream(SEGMENT)
    assert preamble == b"\x04\x00red\x02" + b"\x05\x00blue\x09"


def test_a_chain_opens_what_it_wrote(registry: Registry) -> None:
    codec = registry.codec("red+blue", {}, CONTEXT)
    preamble, stream = codec.new_stream(SEGMENT)
    assert codec.open_stream(preamble, SEGMENT).decode(stream.encode(b"raw", 5), 5, 3) == b"raw"


@pytest.mark.parametrize("preamble", [b"", b"\x04", b"\x09\x00red\x03", b"\x00\x00\x00\x00more"])
def test_a_preamble_of_something_else_is_refused(registry: Registry, preamble: bytes) -> None:
    with pytest.raises(CodecError, match="not written by codec 'red\\+blue'"):
        registry.codec("red+blue", {}, CONTEXT).open_stream(preamble, SEGMENT)


@pytest.mark.parametrize("spec", ["red+green", "red+", "+red", ""])
def test_a_chain_with_an_unknown_part_is_refused(registry: Registry, spec: str) -> None:
    with pytest.raises(PluginError, match=r"there is no codec '(green)?'"):
        registry.codec(spec, {}, CONTEXT)


class Talker:
    """A codec with a long preamble, and a stream that remembers the limits it was given."""

    def __init__(self) -> None:
        self.limits: list[int] = []

    def new_stream(self, context: StreamContext) -> tuple[bytes, Talker]:
        return bytes(PREAMBLE_BYTES // 2), self

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        self.limits.append(raw_limit)
        return stored


def test_preambles_that_are_too_long_together_are_refused() -> None:
    with pytest.raises(CodecError, match="4100 bytes together, over the 4096"):
        ChainedCodec("a+b", [Talker(), Talker()]).new_stream(SEGMENT)  # type: ignore[list-item]


def test_each_part_is_held_to_what_the_parts_before_it_can_have_made() -> None:
    parts = [Talker(), Talker(), Talker()]
    ChainedStream(parts).decode(b"stored", 0, 6400)  # type: ignore[arg-type]
    once = 6400 + 6400 // GROWTH_SHARE + GROWTH_BYTES
    twice = once + once // GROWTH_SHARE + GROWTH_BYTES
    assert [part.limits for part in parts] == [[6400], [once], [twice]]


def test_shipped_and_strange_codecs_chain(registry: Registry) -> None:
    codec = Registry.load().codec("zstd+none", {"zstd": {"level": 1}}, CONTEXT)
    preamble, stream = codec.new_stream(SEGMENT)
    raw = b"the same words " * 1000
    stored = stream.encode(raw, 1)
    assert len(stored) < len(raw) // 10
    assert codec.open_stream(preamble, SEGMENT).decode(stored, 1, len(raw)) == raw
    with pytest.raises(CodecError):
        stream.decode(stored, 1, len(raw) - 1)
