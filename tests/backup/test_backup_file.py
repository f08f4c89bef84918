"""The file of a backup: what is written comes back, and whatever is wrong with it has its own error."""

from __future__ import annotations

import io
from zlib import crc32

import pytest

from disheap.backup.layout import (
    BLOCK,
    BLOCK_BYTES,
    CHECKSUM,
    DATA,
    HEADER,
    RAW_BYTES_MAX,
    TRAILER,
    TRAILER_BYTES,
    TRAILER_MAGIC,
    new_digest,
)
from disheap.backup.reading import BackupReader
from disheap.errors import BackupDamaged, BackupTruncated, VersionUnsupported
from tests.support.backups import backup_of, group_head, read_all, zstd

TWO_GROUPS = [[b"first " * 1000, b"piece"], [bytes(range(256)) * 3000] * 4]


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_what_is_written_comes_back_however_a_pipe_cuts_it(step: int) -> None:
    groups = [[b"one", b"two"], []] if step == 1 else TWO_GROUPS
    found = read_all(backup_of(groups), step)
    assert [head for head, _ in found] == [group_head(0), group_head(1)]
    assert [data for _, data in found] == [b"".join(pieces) for pieces in groups]


def test_memory_is_bounded_by_a_block_whatever_the_pieces_are() -> None:
    pieces = [bytes(RAW_BYTES_MAX), b"x", bytes(RAW_BYTES_MAX), *[b"small"] * 1000]
    stream = io.BytesIO(backup_of([pieces]))
    reader = BackupReader(stream.read, "x.backup", zstd)
    for _ in reader.groups():
        read = list(reader.pieces())
    assert b"".join(read) == b"".join(pieces)
    assert max(map(len, read)) <= RAW_BYTES_MAX


def test_a_file_that_was_cut_anywhere_is_called_cut_off() -> None:
    whole = backup_of([[b"piece" * 100], [b"more"]])
    for length in range(len(whole)):
        with pytest.raises(BackupTruncated, match=f"ends at byte {length}, within"):
            read_all(whole[:length])


def test_a_flipped_bit_anywhere_is_found_and_never_read_as_data() -> None:
    groups = [[b"piece" * 100], [b"more"]]
    whole = backup_of(groups)
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        with pytest.raises(BackupDamaged):
            read_all(bytes(broken))


def test_a_block_that_is_missing_twice_or_in_another_place_is_found() -> None:
    whole = backup_of([[b"a" * 300_000, b"b" * 300_000]])
    (head_bytes,) = (HEADER.unpack_from(whole)[3],)
    start = HEADER.size + head_bytes + CHECKSUM.size
    blocks, at = [], start
    while at < len(whole) - TRAILER_BYTES:
        stored = BLOCK.unpack_from(whole, at)[3]
        blocks.append(whole[at : at + BLOCK_BYTES + stored])
        at += BLOCK_BYTES + stored
    group, first, second, end = blocks
    for wrong in ([group, first, end], [group, first, first, second, end], [group, second, first, end], [group, first]):
        body = whole[:start] + b"".join(wrong)
        trailer = TRAILER.pack(TRAILER_MAGIC, 1, len(body), new_digest_of(body))
        with pytest.raises(BackupDamaged):
            read_all(body + trailer + CHECKSUM.pack(crc32(trailer)))


def new_digest_of(data: bytes) -> bytes:
    digest = new_digest()
    digest.update(data)
    return digest.digest()


def test_a_newer_format_is_refused_and_not_taken_for_damage() -> None:
    whole = bytearray(backup_of([[b"x"]]))
    whole[9] = 2
    end = HEADER.size + HEADER.unpack_from(whole)[3]
    whole[end : end + CHECKSUM.size] = CHECKSUM.pack(crc32(whole[:end]))
    with pytest.raises(VersionUnsupported, match="has backup format 2, and this release reads up to 1"):
        read_all(bytes(whole))


def test_something_else_and_nothing_at_all_are_refused() -> None:
    with pytest.raises(BackupDamaged, match="is no backup of disheap"):
        read_all(b"SQLite format 3\0" * 10)
    with pytest.raises(BackupTruncated, match="ends at byte 0"):
        read_all(b"")
    with pytest.raises(BackupDamaged, match="something follows the end"):
        read_all(backup_of([[b"x"]]) + b"x")


def test_a_block_that_decompresses_to_more_than_it_says_is_refused() -> None:
    stored = zstd().new_stream(None)[1].encode(bytes(1 << 20), 0)  # type: ignore[arg-type]
    whole = backup_of([[b"a" * 300_000]])
    start = HEADER.size + HEADER.unpack_from(whole)[3] + CHECKSUM.size
    group_end = start + BLOCK_BYTES + BLOCK.unpack_from(whole, start)[3]
    head = BLOCK.pack(b"DHBK", DATA, 300_000, len(stored), crc32(stored))
    with pytest.raises(BackupDamaged, match="exceeds the limit"):
        read_all(whole[:group_end] + head + CHECKSUM.pack(crc32(head)) + stored)
