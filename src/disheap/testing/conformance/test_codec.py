"""What every codec holds to: `interfaces.Codec`. Run over each codec by `disheap.testing.fixtures`."""

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
    """Called in place of `==`: pytest compares two large blocks line by line where `CI` is set, which takes minutes."""
    return got == expected


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.purpose)
def test_what_is_encoded_is_decoded_by_the_same_stream(
    codec_factory: Callable[[], Codec], context: StreamContext
) -> None:
    """A stream gives back what it encoded, for every purpose, also of empty and of large blocks."""
    _, stream = codec_factory().new_stream(context)
    for position, raw in enumerate(RAWS):
        assert is_same(stream.decode(stream.encode(raw, position), position, len(raw)), raw)


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.purpose)
def test_another_instance_reads_a_stream_by_its_preamble(
    codec_factory: Callable[..., Codec], context: StreamContext
) -> None:
    """The preamble is all that another instance needs: nothing else of the first one is left after a restart."""
    preamble, stream = codec_factory().new_stream(context)
    stored = [stream.encode(raw, position * 1000) for position, raw in enumerate(RAWS)]
    again = codec_factory(SEED + 1).open_stream(preamble, context)
    assert is_same([again.decode(item, number * 1000, 1 << 20) for number, item in enumerate(stored)], RAWS)


def test_blocks_are_read_in_any_order(codec_factory: Callable[[], Codec]) -> None:
    """A block is decoded without those before it: a node reads its log from anywhere."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    stored = {position: stream.encode(raw, position) for position, raw in enumerate(RAWS)}
    for position in sorted(stored, reverse=True):
        assert is_same(stream.decode(stored[position], position, len(RAWS[position])), RAWS[position])


def test_streams_of_one_codec_do_not_disturb_each_other(codec_factory: Callable[[], Codec]) -> None:
    """A log, a snapshot and a connection are encoded at the same time."""
    codec = codec_factory()
    first, second = codec.new_stream(CONTEXTS[0])[1], codec.new_stream(CONTEXTS[1])[1]
    one, two = first.encode(RAWS[3], 0), second.encode(RAWS[5], 0)
    assert is_same(first.decode(one, 0, len(RAWS[3])), RAWS[3])
    assert is_same(second.decode(two, 0, len(RAWS[5])), RAWS[5])


def test_a_preamble_is_at_most_four_kibibytes(codec_factory: Callable[[], Codec]) -> None:
    """A storage has 4 KiB for a preamble."""
    assert len(codec_factory().new_stream(CONTEXTS[0])[0]) <= PREAMBLE_BYTES


@pytest.mark.parametrize(
    "raw", [b"a" * 100_000, random.Random(3).randbytes(5000), b"tiny"], ids=["runs", "noise", "tiny"]
)
def test_a_block_over_the_raw_limit_is_refused(codec_factory: Callable[[], Codec], raw: bytes) -> None:
    """One byte over `raw_limit` is a `CodecError` that says so."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    stored = stream.encode(raw, 7)
    with pytest.raises(CodecError, match=r"limit|exceed"):
        stream.decode(stored, 7, len(raw) - 1)


def test_a_preamble_that_is_not_the_codecs_own_is_refused(codec_factory: Callable[[], Codec]) -> None:
    """Another codec's stream is refused when it is opened, before a block of it is taken for something else."""
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
    """An empty block is no reason for another error than `CodecError`."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    try:
        assert stream.decode(b"", 0, 10) == b""
    except CodecError as error:
        assert str(error)


def test_what_comes_out_is_bytes(codec_factory: Callable[[], Codec]) -> None:
    """Preamble, stored block and raw block are `bytes`: their owner keeps them, and nobody changes them later."""
    preamble, stream = codec_factory().new_stream(CONTEXTS[0])
    assert type(preamble) is bytes
    for raw in RAWS:
        stored = stream.encode(raw, 0)
        assert type(stored) is bytes
        assert type(stream.decode(stored, 0, len(raw))) is bytes


def test_a_position_may_be_any_offset(codec_factory: Callable[[], Codec]) -> None:
    """Positions grow to 2**62, have gaps, and come in any order. A nonce that is made of one has room for all bits."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    stored = {position: stream.encode(RAWS[5], position) for position in POSITIONS}
    for position in reversed(POSITIONS):
        assert is_same(stream.decode(stored[position], position, len(RAWS[5])), RAWS[5])


def test_a_block_may_be_encoded_again_at_its_position(codec_factory: Callable[[], Codec]) -> None:
    """Entries that were superseded leave their position to others. Both blocks can be decoded; a codec whose secrecy
    needs every position once has to add something of its own, such as random bytes in each block."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    one, other = stream.encode(RAWS[3], 7), stream.encode(RAWS[5], 7)
    assert is_same(stream.decode(one, 7, len(RAWS[3])), RAWS[3])
    assert is_same(stream.decode(other, 7, len(RAWS[5])), RAWS[5])


def test_equal_generators_give_equal_bytes(codec_factory: Callable[[], Codec]) -> None:
    """All entropy comes from `CodecContext.random`, so that a simulated cluster can be run again from its seed."""
    written = []
    for _ in range(2):
        preamble, stream = codec_factory().new_stream(CONTEXTS[0])
        written.append((preamble, [stream.encode(raw, position) for position, raw in enumerate(RAWS)]))
    assert is_same(*written)


def test_a_block_with_something_behind_it_is_refused(codec_factory: Callable[[], Codec]) -> None:
    """What is behind a block is no part of it, and is not passed over in silence."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    for raw in RAWS:
        stored = stream.encode(raw, 3)
        for rubbish in (b"\x00", b"\xff" * 40, stored):
            if rubbish:
                with pytest.raises(CodecError):
                    stream.decode(stored + rubbish, 3, len(raw))


def test_a_block_that_was_cut_is_not_taken_for_whole(codec_factory: Callable[[], Codec]) -> None:
    """Where the end of a block is missing, `decode` raises `CodecError` or gives less than there was."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    for raw in RAWS:
        stored = stream.encode(raw, 3)
        for cut in {cut for cut in (0, 1, len(stored) // 2, len(stored) - 1) if 0 <= cut < len(stored)}:
            try:
                assert len(stream.decode(stored[:cut], 3, len(raw))) < len(raw)
            except CodecError as error:
                assert str(error)


def test_a_block_grows_by_little(codec_factory: Callable[[], Codec]) -> None:
    """A block that cannot be made smaller grows by at most a sixty-fourth and 1,024 bytes: the codecs before it in a
    chain are held to that."""
    _, stream = codec_factory().new_stream(CONTEXTS[0])
    for raw in RAWS:
        assert len(stream.encode(raw, 0)) <= len(raw) + len(raw) // GROWTH_SHARE + GROWTH_BYTES


def test_a_bomb_is_refused_before_it_takes_memory(codec_factory: Callable[[], Codec]) -> None:
    """A small block that stands for a large one is refused by what it announces, and is not decoded first."""
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
    """A segment has hundreds of thousands of blocks: what a stream remembers of each would fill the memory."""
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
