"""Codec `zstd` against bombs (storage rule 14), and what it chooses to compress."""

from __future__ import annotations

import random
import threading
import tracemalloc

import msgspec
import pytest
import zstandard

from disheap.errors import CodecError
from disheap.interfaces import CodecContext, StreamContext
from disheap_codecs.zstd import FRAME, PLAIN, WINDOW_BYTES, ZstdCodec, ZstdSettings, ZstdStream

CONTEXT = StreamContext("connection", "n1-n2")
BOMB_BYTES = 256 << 20


def stream(level: int = 1) -> ZstdStream:
    return ZstdCodec(ZstdSettings(level=level), CodecContext(random.Random(1))).new_stream(CONTEXT)[1]


def unsized(raw: bytes, window_log: int = 0) -> bytes:
    """A frame that declares no size."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window_log or 20)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return writer.compress(raw) + writer.flush()


def peak_bytes_while_refusing(frame: bytes, raw_limit: int) -> int:
    codec = stream()
    codec.decode(codec.encode(bytes(1000), 0), 0, 1000)  # the contexts exist
    tracemalloc.start()
    with pytest.raises(CodecError, match=r"exceeds the limit"):
        codec.decode(FRAME + frame, 0, raw_limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_bomb_that_declares_its_size_is_refused_before_memory_is_taken() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(BOMB_BYTES))
    assert len(bomb) < 32 << 10
    assert peak_bytes_while_refusing(bomb, 1 << 20) < 1 << 20


def test_a_bomb_that_declares_nothing_is_given_up_at_the_limit() -> None:
    bomb = unsized(bytes(BOMB_BYTES))
    assert zstandard.frame_content_size(bomb) == -1
    assert peak_bytes_while_refusing(bomb, 1 << 20) < 8 << 20


def test_a_frame_that_declares_nothing_is_read_up_to_the_limit_and_not_beyond() -> None:
    raw = random.Random(1).randbytes(1000) * 300
    assert stream().decode(FRAME + unsized(raw), 0, len(raw)) == raw
    with pytest.raises(CodecError, match="exceeds the limit"):
        stream().decode(FRAME + unsized(raw), 0, len(raw) - 1)


@pytest.mark.parametrize("window_log", [24, 27])
def test_a_window_over_eight_mebibytes_is_refused(window_log: int) -> None:
    frame = unsized(bytes(20 << 20), window_log)
    assert zstandard.get_frame_parameters(frame).window_size > WINDOW_BYTES
    with pytest.raises(CodecError, match=f"window of {1 << window_log} bytes exceeds the limit of {WINDOW_BYTES}"):
        stream().decode(FRAME + frame, 0, 1 << 30)


@pytest.mark.parametrize("level", [1, 3, 12, 19])
def test_what_any_level_writes_can_be_read(level: int) -> None:
    raw = random.Random(2).randbytes(5000) * 500
    stored = stream(level).encode(raw, 0)
    assert len(stored) < len(raw) // 10
    assert stream().decode(stored, 0, len(raw)) == raw


@pytest.mark.parametrize("level", [0, -1, 20, 22])
def test_levels_are_bounded(level: int) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"level": level}, ZstdSettings)


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(range(100)) * 5))
    assert zstandard.frame_content_size(bytes(frame)) == 500
    size_at = bytes(frame).index((500 - 256).to_bytes(2, "little"))
    frame[size_at : size_at + 2] = (400 - 256).to_bytes(2, "little")
    assert zstandard.frame_content_size(bytes(frame)) == 400
    with pytest.raises(CodecError, match="cannot be decompressed"):
        stream().decode(FRAME + bytes(frame), 0, 1 << 20)


@pytest.mark.parametrize("build", [unsized, zstandard.ZstdCompressor().compress], ids=["unsized", "sized"])
@pytest.mark.parametrize("change", ["cut", "extra bytes", "a second frame"])
def test_a_frame_that_does_not_end_where_the_block_ends_is_refused(build, change: str) -> None:  # type: ignore[no-untyped-def]
    frame = build(random.Random(3).randbytes(3000))
    changed = {"cut": frame[:-3], "extra bytes": frame + b"extra", "a second frame": frame + frame}[change]
    with pytest.raises(CodecError):
        stream().decode(FRAME + changed, 0, 1 << 20)


def test_a_frame_that_needs_a_dictionary_is_refused() -> None:
    samples = [b"task %d of queue %d" % (number, number % 7) * 5 for number in range(2000)]
    dictionary = zstandard.train_dictionary(4000, samples)
    frame = zstandard.ZstdCompressor(dict_data=dictionary).compress(samples[0] * 20)
    with pytest.raises(CodecError):
        stream().decode(FRAME + frame, 0, 1 << 20)


@pytest.mark.parametrize("stored", [b"", b"\x02abc", b"\xff", FRAME, FRAME + b"no frame at all"])
def test_what_is_no_block_is_refused(stored: bytes) -> None:
    with pytest.raises(CodecError):
        stream().decode(stored, 0, 1 << 20)


def test_small_and_incompressible_blocks_are_stored_plain() -> None:
    for raw in (b"", b"a" * 1023, random.Random(4).randbytes(50_000)):
        stored = stream().encode(raw, 0)
        assert stored == PLAIN + raw
        assert stream().decode(stored, 0, len(raw)) == raw
    assert stream().encode(b"a" * 1024, 0)[:1] == FRAME


def test_streams_work_from_several_threads_at_once() -> None:
    """zstandard releases the interpreter's lock, and its contexts belong to one thread at a time."""
    codec, results = stream(), []

    def work(seed: int) -> None:
        generator = random.Random(seed)
        for position in range(100):
            raw = generator.randbytes(200) * 50
            results.append(codec.decode(codec.encode(raw, position), position, len(raw)) == raw)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 400
