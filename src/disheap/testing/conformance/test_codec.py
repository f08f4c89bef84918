"""The conformance suite of codecs (`interfaces.Codec`).

`disheap.testing.fixtures` runs it over each codec. The docstring of each test says what the contract demands, then when
the test fails.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import pytest

from disheap.errors import CodecError
from disheap.interfaces import Codec, StreamContext
from disheap.plugins.chain import GROWTH_BYTES, GROWTH_SHARE

PREAMBLE_BYTES = 4096
SEED = 5
CONTEXTS = [StreamContext("segment", "1"), StreamContext("snapshot", "s-1"), StreamContext("connection", "n1-n2")]
RAWS = [
    b"",
    b"x",
    b"a" * 100_000,
    bytes(range(256)) * 16,
    random.Random(1).randbytes(70_000),
    b"".join(random.Random(2).choice([b"task", b"queue", b"retry"]) for _ in range(5000)),
]


POSITIONS = [0, 1, 255, 1 << 16, (1 << 32) - 1, 1 << 32, (1 << 62) + 1]
"""A position is an offset into a stream, which may be long."""
BOMB_BYTES = 64 << 20
SMALL_BYTES = 4 << 20
"""Memory that refusing a block may take, and that a stream may keep."""


def is_same(got: object, expected: object) -> bool:
    """Compares two blocks. The tests use it in place of `==`, because pytest compares large blocks line by line if `CI`
    is set, which takes minutes."""
    return got == expected


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.purpose)
def test_what_is_encoded_is_decoded_by_the_same_stream(
    codec_factory: Callable[[], Codec], context: StreamContext
) -> None:
    """A stream decodes what it encoded, for every purpose, also empty and large blocks. It fails if the codec loses or
    changes bytes."""
    _, stream = codec_factory().new_stream(context)
    for position, raw in enumerate(RAWS):
        assert is_same(stream.decode(stream.encode(raw, position), position, len(raw)), raw)


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.purpose)
def test_another_instance_reads_a_stream_by_its_preamble(
    codec_factory: Callable[..., Codec], context: StreamContext
) -> None:
    """Another instance of the codec opens a stream with the preamble alone. It fails if the codec keeps something in
    the object that belongs into the preamble, because after a restart only the preamble is left."""
    preamble, stream = codec_factory().new_stream(context)
    stored = [stream.encode(raw, position * 1000) for position, raw in enumerate(RAWS)]
    again = codec_factory(SEED + 1).open_stream(preamble, context)
    assert is_same([again.decode(item, number * 1000, 1 << 20) for number, item in enumerate(stored)], RAWS)


def test_blocks_are_read_in_any_order(codec_factory: Callable[[], Codec]) -> None:
    """A block is decoded without the blocks before it. It fails if the codec carries state from block to block, because
    a node reads its log from any place."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    stored = {position: stream.encode(raw, position) for position, raw in enumerate(RAWS)}
    for position in sorted(stored, reverse=True):
        assert is_same(stream.decode(stored[position], position, len(RAWS[position])), RAWS[position])


def test_streams_of_one_codec_do_not_disturb_each_other(codec_factory: Callable[[], Codec]) -> None:
    """Two streams of one codec object are used at the same time. It fails if streams share state, because a node
    encodes a log, a snapshot and a connection at once."""
    codec = codec_factory()
    first, second = codec.new_stream(CONTEXTS[0])[1], codec.new_stream(CONTEXTS[1])[1]
    one, two = first.encode(RAWS[3], 0), second.encode(RAWS[5], 0)
    assert is_same(first.decode(one, 0, len(RAWS[3])), RAWS[3])
    assert is_same(second.decode(two, 0, len(RAWS[5])), RAWS[5])


def test_a_preamble_is_at_most_four_kibibytes(codec_factory: Callable[[], Codec]) -> None:
    """A preamble has at most 4 KiB, because a storage has no more space for it. It fails if the codec puts too much
    into it, such as a large dictionary."""
    assert len(codec_factory().new_stream(CONTEXTS[0])[0]) <= PREAMBLE_BYTES


@pytest.mark.parametrize(
    "raw", [b"a" * 100_000, random.Random(3).randbytes(5000), b"tiny"], ids=["runs", "noise", "tiny"]
)
def test_a_block_over_the_raw_limit_is_refused(codec_factory: Callable[[], Codec], raw: bytes) -> None:
    """A block that decodes to one byte more than `raw_limit` raises `CodecError`, and the message names the limit. It
    fails if `decode` ignores `raw_limit`."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    stored = stream.encode(raw, 7)
    with pytest.raises(CodecError, match=r"limit|exceed"):
        stream.decode(stored, 7, len(raw) - 1)


def test_a_preamble_that_is_not_the_codecs_own_is_refused(codec_factory: Callable[[], Codec]) -> None:
    """`open_stream` raises `CodecError` for the preamble of another codec. It fails if the codec does not check every
    byte of the preamble, and so decodes a foreign stream to wrong bytes."""
    codec = codec_factory()
    for foreign in (b"\xff" * 40, codec.new_stream(CONTEXTS[0])[0] + b"\x00tail"):
        with pytest.raises(CodecError) as caught:
            codec.open_stream(foreign, CONTEXTS[0])
        assert str(caught.value)


def test_damage_is_an_error_or_changes_bytes_but_never_exceeds_the_limit(codec_factory: Callable[[], Codec]) -> None:
    """A damaged block raises `CodecError`, or decodes to other bytes within the limit. It fails if `decode` raises
    another error or exceeds `raw_limit`. (A codec needs no checksums, because a storage has its own.)"""
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
    """An empty block decodes to `b""` or raises `CodecError`. It fails if `decode` raises another error, such as
    `IndexError`."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    try:
        assert stream.decode(b"", 0, 10) == b""
    except CodecError as error:
        assert str(error)


def test_what_comes_out_is_bytes(codec_factory: Callable[[], Codec]) -> None:
    """Preamble, stored block and raw block are `bytes`. It fails if the codec returns a `bytearray` or a `memoryview`,
    which somebody could change later."""
    preamble, stream = codec_factory().new_stream(CONTEXTS[0])
    assert type(preamble) is bytes
    for raw in RAWS:
        stored = stream.encode(raw, 0)
        assert type(stored) is bytes
        assert type(stream.decode(stored, 0, len(raw))) is bytes


def test_a_position_may_be_any_offset(codec_factory: Callable[[], Codec]) -> None:
    """Positions grow beyond 2**62, have gaps, and come in any order. It fails if the codec cuts a position off, for
    example to make a nonce from it."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    stored = {position: stream.encode(RAWS[5], position) for position in POSITIONS}
    for position in reversed(POSITIONS):
        assert is_same(stream.decode(stored[position], position, len(RAWS[5])), RAWS[5])


def test_a_block_may_be_encoded_again_at_its_position(codec_factory: Callable[[], Codec]) -> None:
    """Two blocks may be encoded at one position, because superseded entries leave their position to others. It fails if
    the codec refuses or mixes them. A codec whose secrecy needs every position once must add something of its own, such
    as random bytes in each block."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    one, other = stream.encode(RAWS[3], 7), stream.encode(RAWS[5], 7)
    assert is_same(stream.decode(one, 7, len(RAWS[3])), RAWS[3])
    assert is_same(stream.decode(other, 7, len(RAWS[5])), RAWS[5])


def test_equal_generators_give_equal_bytes(codec_factory: Callable[[], Codec]) -> None:
    """Codecs with equal `CodecContext.random` give equal bytes. It fails if the codec takes entropy from elsewhere,
    because then a simulated cluster cannot be run again from its seed."""
    written = []
    for _ in range(2):
        preamble, stream = codec_factory().new_stream(CONTEXTS[0])
        written.append((preamble, [stream.encode(raw, position) for position, raw in enumerate(RAWS)]))
    assert is_same(*written)


def test_a_block_with_something_behind_it_is_refused(codec_factory: Callable[[], Codec]) -> None:
    """`decode` raises `CodecError` for a block with extra bytes behind it. It fails if the codec ignores these
    bytes."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    for raw in RAWS:
        stored = stream.encode(raw, 3)
        for rubbish in (b"\x00", b"\xff" * 40, stored):
            if rubbish:
                with pytest.raises(CodecError):
                    stream.decode(stored + rubbish, 3, len(raw))


def test_a_block_that_was_cut_is_not_taken_for_whole(codec_factory: Callable[[], Codec]) -> None:
    """`decode` raises `CodecError` for a block without its end, or returns less than was encoded. It fails if the codec
    makes up the missing bytes."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    for raw in RAWS:
        stored = stream.encode(raw, 3)
        for cut in {cut for cut in (0, 1, len(stored) // 2, len(stored) - 1) if 0 <= cut < len(stored)}:
            try:
                assert len(stream.decode(stored[:cut], 3, len(raw))) < len(raw)
            except CodecError as error:
                assert str(error)


def test_a_block_grows_by_little(codec_factory: Callable[[], Codec]) -> None:
    """A block grows by at most a sixty-fourth and 1,024 bytes. It fails if the codec has no way to store a block that
    it cannot compress. A chain of codecs relies on this bound."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    for raw in RAWS:
        assert len(stream.encode(raw, 0)) <= len(raw) + len(raw) // GROWTH_SHARE + GROWTH_BYTES


def test_a_bomb_is_refused_before_it_takes_memory(codec_factory: Callable[[], Codec]) -> None:
    """A small block that stands for a large one is refused without taking memory. It fails if `decode` decodes first
    and checks `raw_limit` afterwards."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    stored = stream.encode(bytes(BOMB_BYTES), 0)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            stream.decode(stored, 0, 1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < SMALL_BYTES, f"a block that was refused took {peak} bytes"


def test_a_stream_keeps_nothing_of_its_blocks(codec_factory: Callable[[], Codec]) -> None:
    """A stream keeps no memory for the blocks that it has handled. It fails if the codec remembers something of each
    block, because a segment has hundreds of thousands of them."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    raw = RAWS[4]
    tracemalloc.start()
    try:
        for position in range(400):
            stream.decode(stream.encode(raw, position), position, len(raw))
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < SMALL_BYTES, f"{kept} bytes are left of {400 * len(raw)}"
