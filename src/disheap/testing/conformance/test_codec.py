"""What every codec holds to: `interfaces.Codec`. Run over each codec by the pytest plugin."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from disheap.errors import CodecError
from disheap.interfaces import Codec, StreamContext

PREAMBLE_BYTES = 4096
CONTEXTS = [StreamContext("segment", "1"), StreamContext("snapshot", "s-1"), StreamContext("connection", "n1-n2")]
RAWS = [
    b"",
    b"x",
    b"a" * 100_000,
    bytes(range(256)) * 16,
    random.Random(1).randbytes(70_000),
    b"".join(random.Random(2).choice([b"task", b"queue", b"retry"]) for _ in range(5000)),
]


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.purpose)
def test_what_is_encoded_is_decoded_by_the_same_stream(
    codec_factory: Callable[[], Codec], context: StreamContext
) -> None:
    _, stream = codec_factory().new_stream(context)
    for position, raw in enumerate(RAWS):
        assert stream.decode(stream.encode(raw, position), position, len(raw)) == raw


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.purpose)
def test_another_instance_reads_a_stream_by_its_preamble(
    codec_factory: Callable[[], Codec], context: StreamContext
) -> None:
    preamble, stream = codec_factory().new_stream(context)
    stored = [stream.encode(raw, position * 1000) for position, raw in enumerate(RAWS)]
    again = codec_factory().open_stream(preamble, context)
    assert [again.decode(item, number * 1000, 1 << 20) for number, item in enumerate(stored)] == RAWS


def test_blocks_are_read_in_any_order(codec_factory: Callable[[], Codec]) -> None:
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    stored = {position: stream.encode(raw, position) for position, raw in enumerate(RAWS)}
    for position in sorted(stored, reverse=True):
        assert stream.decode(stored[position], position, len(RAWS[position])) == RAWS[position]


def test_streams_of_one_codec_do_not_disturb_each_other(codec_factory: Callable[[], Codec]) -> None:
    codec = codec_factory()
    first, second = codec.new_stream(CONTEXTS[0])[1], codec.new_stream(CONTEXTS[1])[1]
    one, two = first.encode(RAWS[3], 0), second.encode(RAWS[5], 0)
    assert first.decode(one, 0, len(RAWS[3])) == RAWS[3]
    assert second.decode(two, 0, len(RAWS[5])) == RAWS[5]


def test_a_preamble_is_at_most_four_kibibytes(codec_factory: Callable[[], Codec]) -> None:
    assert len(codec_factory().new_stream(CONTEXTS[0])[0]) <= PREAMBLE_BYTES


@pytest.mark.parametrize(
    "raw", [b"a" * 100_000, random.Random(3).randbytes(5000), b"tiny"], ids=["runs", "noise", "tiny"]
)
def test_a_block_over_the_raw_limit_is_refused(codec_factory: Callable[[], Codec], raw: bytes) -> None:
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    stored = stream.encode(raw, 7)
    with pytest.raises(CodecError, match=r"limit|exceed"):
        stream.decode(stored, 7, len(raw) - 1)


def test_a_preamble_that_is_not_the_codecs_own_is_refused(codec_factory: Callable[[], Codec]) -> None:
    codec = codec_factory()
    for foreign in (b"\xff" * 40, codec.new_stream(CONTEXTS[0])[0] + b"\x00tail"):
        with pytest.raises(CodecError) as caught:
            codec.open_stream(foreign, CONTEXTS[0])
        assert str(caught.value)


def test_damage_is_an_error_or_changes_bytes_but_never_exceeds_the_limit(codec_factory: Callable[[], Codec]) -> None:
    """A storage has checksums of its own. A codec must only not fail otherwise, nor exceed the limit."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    raw, generator = RAWS[5], random.Random(4)
    stored = stream.encode(raw, 0)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(stored)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        try:
            outcomes.add(len(stream.decode(bytes(damaged), 0, len(raw))) <= len(raw))
        except CodecError:
            outcomes.add(True)
    assert outcomes == {True}


def test_nothing_at_all_is_refused_or_decodes_to_nothing(codec_factory: Callable[[], Codec]) -> None:
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    try:
        assert stream.decode(b"", 0, 10) == b""
    except CodecError as error:
        assert str(error)
