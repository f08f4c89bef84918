"""Backups for tests, made without a cluster."""

from __future__ import annotations

import io
from collections.abc import Sequence
from random import Random

from disheap.backup.layout import BackupHead, GroupHead
from disheap.backup.reading import BackupReader
from disheap.backup.writing import BackupWriter
from disheap.interfaces import Codec, CodecContext
from disheap_codecs.zstd import ZstdCodec, ZstdSettings

CLUSTER = "0123456789abcdef"


def zstd(_name: str = "zstd") -> Codec:
    return ZstdCodec(ZstdSettings(), CodecContext(Random(1)))


def group_head(group: int = 0, machine: str = "heap") -> GroupHead:
    return GroupHead(group, "n1", machine, 1, 1, 120, 7, 1_700_000_000_000, ["n1", "n2", "n3"])


def backup_of(groups: Sequence[Sequence[bytes]], heads: Sequence[GroupHead] = (), cluster_id: str = CLUSTER) -> bytes:
    """The pieces of each group's snapshot, in a backup."""
    out = io.BytesIO()
    head = BackupHead(cluster_id, "0.1", 1_700_000_000_500, len(groups), "zstd")
    writer = BackupWriter(out.write, head, zstd())
    for number, pieces in enumerate(groups):
        writer.begin_group(heads[number] if heads else group_head(number))
        for piece in pieces:
            writer.write(piece)
        writer.end_group()
    writer.finish()
    return out.getvalue()


def read_all(data: bytes, step: int = 1 << 20) -> list[tuple[GroupHead, bytes]]:
    """All groups of a backup. `step`: bytes that a read gives at most, as a pipe might."""
    stream = io.BytesIO(data)
    reader = BackupReader(lambda size: stream.read(min(size, step)), "x.backup", zstd)
    return [(head, b"".join(reader.pieces())) for head in reader.groups()]
