"""Snapshot files (Raft §7). Owns their layout, writing and checking; when one is due is the runtime's business.

Written under a temporary name, synced every few MiB so that no call waits long (log and snapshot share the disk's one
thread). Then fsync, rename, fsync of the directory. Numbers are big-endian, checksums CRC-32.

    file `snapshot-<index, 20 digits>-<term, 20 digits>`: head, chunks, trailer

    offset  size  head
    0       4     magic, "DHS1"
    4       1     version, 1
    5       1     reserved, 0
    6       2     length of the codec's name
    8       8     index of the last entry it stands for
    16      8     that entry's term
    24      8     that entry's time_ms, signed
    32      4     length of the membership
    36      4     length of the codec's preamble
    40      n     the codec's name, the membership (as the kernel encodes it), the preamble
    40 + n  4     checksum of all before it

    offset  size  chunk
    0       4     magic, "DHC1"
    4       4     raw length
    8       8     raw offset
    16      4     stored length
    20      4     checksum of the stored bytes
    24      4     checksum of the chunk's first 24 bytes
    28      n     stored bytes: the raw ones through the snapshot's codec stream, whose position is the chunk's offset

    offset  size  trailer, the last 60 bytes
    0       4     magic, "DHT1"
    4       4     number of chunks
    8       8     raw size
    16      8     0, or the number of the oldest log segment that counts: this snapshot replaced those before
    24      32    BLAKE2b of the raw bytes
    56      4     checksum of the trailer's first 56 bytes
"""

from __future__ import annotations

import bisect
import hashlib
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from disheap.errors import RESTORE, CodecError, ProtocolError, SnapshotDamaged
from disheap.interfaces import Codec, Stream, StreamContext
from disheap.kernel import membership
from disheap.kernel.types import Index, SnapshotMeta, Term
from disheap_filelog.codec import check_codec
from disheap_filelog.filesystem import TEMPORARY, File, Filesystem, create_file, needs_room
from disheap_filelog.formats import check_version
from disheap_filelog.guard import Guard

PREFIX = "snapshot-"
VERSION = 1
CHUNK_BYTES = 256 << 10
"""Small writes are gathered to chunks of at least this: a chunk costs 28 bytes, and reading one byte costs a chunk."""
SYNC_BYTES = 4 << 20
"""Written between two syncs: some 40 ms on a disk of 100 MB/s, well within an election timeout."""
HEAD_LIMIT = 8 << 20
"""What is read of a file to find its head: far more than any membership."""
DIGEST_BYTES = 32

_HEAD = struct.Struct(">4sBBHQQqII")
_CHUNK = struct.Struct(">4sIQII")
_TRAILER = struct.Struct(">4sIQQ32s")
_CHECKSUM = struct.Struct(">I")
_CHUNK_BYTES = _CHUNK.size + _CHECKSUM.size
_TRAILER_BYTES = _TRAILER.size + _CHECKSUM.size


class Chunk(NamedTuple):
    """Where a chunk is, in the file and in the raw bytes."""

    offset: int  # in the file, of the chunk's header
    raw_offset: int
    raw_bytes: int
    stored_bytes: int
    checksum: int


class Stored(NamedTuple):
    """A whole snapshot file, and how to read it."""

    path: str
    meta: SnapshotMeta
    codec: str
    preamble: bytes
    chunks: tuple[Chunk, ...]
    raw_bytes: int
    oldest_segment: int
    digest: bytes
    file_bytes: int


class FileSnapshotWriter:
    """`number` tells it from others that are under way: a node's own and its leader's may be of the same entry.
    `oldest_segment` is asked when the trailer is written, for a segment may have been begun since the snapshot was;
    `committed` is called when it is durable."""

    def __init__(
        self, filesystem: Filesystem, guard: Guard, directory: str, codec: Codec, codec_name: str, meta: SnapshotMeta,
        number: int, oldest_segment: Callable[[], int], committed: Callable[[Stored], None],
    ) -> None:  # fmt: skip
        self._filesystem, self._guard, self._directory = filesystem, guard, directory
        self._oldest_segment, self._committed = oldest_segment, committed
        self._codec = codec
        name = file_name(meta)
        preamble, self._stream = codec.new_stream(StreamContext("snapshot", name))
        self._stored = Stored(f"{directory}/{name}", meta, codec_name, preamble, (), 0, 0, b"", 0)
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._chunks: list[Chunk] = []
        self._raw_bytes = self._end = self._synced = 0
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._is_done = False
        self._temporary = f"{self._stored.path}.{number}{TEMPORARY}"
        self._file = create_file(filesystem, self._temporary)
        with needs_room(self._temporary, self._discard):
            self._put(_encode_head(self._stored))

    def write(self, chunk: bytes) -> None:
        """Gathers bytes and writes full chunks. Not durable before `commit`."""
        with self._guard:
            self._gathered.append(chunk)
            self._gathered_bytes += len(chunk)
            if self._gathered_bytes >= CHUNK_BYTES:
                self._write_chunk()

    def reread(self) -> FileSnapshotReader:
        """A reader of everything that was written so far."""
        with self._guard:
            if self._gathered_bytes:
                self._write_chunk()
            written = self._stored._replace(
                path=self._temporary, chunks=tuple(self._chunks), raw_bytes=self._raw_bytes, digest=self._hash.digest()
            )
            return FileSnapshotReader(self._filesystem, self._guard, self._codec, written)

    def commit(self) -> None:
        """Writes the trailer, syncs the file, renames it into place and syncs the directory."""
        with self._guard:
            if self._gathered_bytes:
                self._write_chunk()
            oldest = self._oldest_segment()
            digest = self._hash.digest()
            body = _TRAILER.pack(b"DHT1", len(self._chunks), self._raw_bytes, oldest, digest)
            with needs_room(self._stored.path, self._discard):
                self._put(body + _CHECKSUM.pack(crc32(body)))
            self._file.sync()
            self._file.close()
            self._is_done = True
            self._filesystem.rename(self._temporary, self._stored.path)
            self._filesystem.sync_directory(self._directory)
            self._committed(
                self._stored._replace(
                    chunks=tuple(self._chunks),
                    raw_bytes=self._raw_bytes,
                    oldest_segment=oldest,
                    digest=digest,
                    file_bytes=self._end,
                )
            )

    def abort(self) -> None:
        """Removes the unfinished file."""
        if self._is_done or self._guard.has_failed:
            return
        with self._guard:
            self._discard()

    @property
    def is_done(self) -> bool:
        """Whether the snapshot was committed or aborted."""
        return self._is_done

    def close(self) -> None:
        """The storage goes, and what was not committed with it: its name says that it is not true."""
        if not self._is_done:
            self._is_done = True
            self._file.close()

    def _discard(self) -> None:
        if not self._is_done:
            self._is_done = True
            self._file.close()
            self._filesystem.remove(self._temporary)

    def _write_chunk(self) -> None:
        raw = b"".join(self._gathered)
        self._gathered, self._gathered_bytes = [], 0
        self._hash.update(raw)
        stored = self._stream.encode(raw, self._end)
        chunk = Chunk(self._end, self._raw_bytes, len(raw), len(stored), crc32(stored))
        body = _CHUNK.pack(b"DHC1", len(raw), self._raw_bytes, len(stored), chunk.checksum)
        self._chunks.append(chunk)
        self._raw_bytes += len(raw)
        with needs_room(self._stored.path, self._discard):
            self._put(b"".join((body, _CHECKSUM.pack(crc32(body)), stored)))
        if self._end - self._synced >= SYNC_BYTES:
            self._file.sync()
            self._synced = self._end

    def _put(self, data: bytes) -> None:
        self._file.write(data, self._end)
        self._end += len(data)


class FileSnapshotReader:
    """Checks each chunk as it goes, and the whole when it was read from the front to the end."""

    def __init__(self, filesystem: Filesystem, guard: Guard, codec: Codec, stored: Stored) -> None:
        self.meta = stored.meta
        self._guard, self._stored = guard, stored
        self._starts = [chunk.raw_offset for chunk in stored.chunks]
        self._stream = open_stream(codec, stored)
        self._file: File | None = filesystem.open(stored.path)
        self._decoded = (-1, b"")
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._hashed = 0

    def read(self, offset: int, size: int) -> bytes:
        """Returns up to `size` raw bytes from `offset`, fewer at the end. Raises `SnapshotDamaged` if a checksum does
        not hold."""
        parts: list[bytes] = []
        with self._guard:
            while size > 0 and offset < self._stored.raw_bytes:
                number = bisect.bisect_right(self._starts, offset) - 1
                start = offset - self._starts[number]
                parts.append(self._chunk(number)[start : start + size])
                offset, size = offset + len(parts[-1]), size - len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None and not self._guard.has_failed:
            with self._guard:
                file, self._file = self._file, None
                file.close()

    def _chunk(self, number: int) -> bytes:
        if self._decoded[0] != number:
            assert self._file is not None, "read after close"
            raw = _read_chunk(self._file, self._stored, self._stored.chunks[number], self._stream)
            self._decoded = (number, raw)
            self._check_whole(number, raw)
        return self._decoded[1]

    def _check_whole(self, number: int, raw: bytes) -> None:
        if self._starts[number] != self._hashed:
            return
        self._hash.update(raw)
        self._hashed += len(raw)
        if self._hashed == self._stored.raw_bytes and self._hash.digest() != self._stored.digest:
            raise damaged(self._stored.path, "every chunk is whole, and together they are not what was written")


def file_name(meta: SnapshotMeta) -> str:
    """The name of the snapshot with this meta."""
    return f"{PREFIX}{meta.index:020d}-{meta.term:020d}"


def parse_name(name: str) -> tuple[int, int] | None:
    """(index, term) of a file name; None for other names."""
    index, _, term = name.removeprefix(PREFIX).partition("-")
    return (int(index), int(term)) if name.startswith(PREFIX) and index.isdigit() and term.isdigit() else None


def damaged(path: str, reason: str) -> SnapshotDamaged:
    """The error to raise for a snapshot that cannot be read."""
    return SnapshotDamaged(f"{path}: the snapshot is damaged: {reason}. It is not taken for an empty state. {RESTORE}")


def load(filesystem: Filesystem, directory: str, name: str, codec_name: str) -> Stored:
    """Read a whole file and check every checksum in it. Raises `SnapshotDamaged`; `CodecError` for another codec's."""
    path = f"{directory}/{name}"
    file = filesystem.open(path)
    try:
        stored, position = _read_head(file, path)
        check_codec(path, stored.codec, codec_name)
        return _read_chunks(file, stored, position)
    finally:
        file.close()


def check(filesystem: Filesystem, path: str, position: int, max_bytes: int) -> tuple[int, int]:
    """Compare checksums from byte `position` on, 0 for the beginning: (where to go on, or 0 at the end; bytes read).
    Raises `SnapshotDamaged`."""
    file = filesystem.open(path)
    try:
        file.drop_cached(max_bytes if position else 0, position)  # 0 bytes: all of it
        stored, first = _read_head(file, path)
        start = position = position or first
        end = stored.file_bytes - _TRAILER_BYTES
        while position < end and position - start < max_bytes:
            chunk = _read_chunk_header(file, path, position)
            _read_stored(file, stored, chunk)
            position += _CHUNK_BYTES + chunk.stored_bytes
        if position >= end:
            _read_trailer(file, stored, position)
        return (position if position < end else 0), position - start
    finally:
        file.close()


def open_stream(codec: Codec, stored: Stored) -> Stream:
    """Opens the codec's stream of a stored snapshot."""
    return codec.open_stream(stored.preamble, StreamContext("snapshot", file_name(stored.meta)))


def _encode_head(stored: Stored) -> bytes:
    meta, codec, members = stored.meta, stored.codec.encode(), membership.encode(stored.meta.membership)
    fixed = _HEAD.pack(
        b"DHS1", VERSION, 0, len(codec), meta.index, meta.term, meta.time_ms, len(members), len(stored.preamble)
    )
    data = fixed + codec + members + stored.preamble
    return data + _CHECKSUM.pack(crc32(data))


def _read_head(file: File, path: str) -> tuple[Stored, int]:
    """The head without the chunks, and the offset behind it."""
    data = file.read(_HEAD.size, 0)
    if len(data) < _HEAD.size or data[:4] != b"DHS1":
        raise damaged(path, "its head cannot be read")
    _, _, _, codec_bytes, index, term, time_ms, member_bytes, preamble_bytes = _HEAD.unpack(data)
    size = _HEAD.size + codec_bytes + member_bytes + preamble_bytes
    data = file.read(size + _CHECKSUM.size, 0) if size <= HEAD_LIMIT else b""
    if len(data) < size + _CHECKSUM.size or _CHECKSUM.unpack_from(data, size)[0] != crc32(data[:size]):
        raise damaged(path, "its head's checksum does not match")
    check_version(path, data[4], VERSION)
    codec_end, members_end = _HEAD.size + codec_bytes, _HEAD.size + codec_bytes + member_bytes
    try:
        members = membership.decode(data[codec_end:members_end])
    except ProtocolError as error:
        raise damaged(path, str(error)) from error
    meta = SnapshotMeta(Index(index), Term(term), time_ms, members)
    codec = data[_HEAD.size : codec_end].decode(errors="replace")
    return Stored(path, meta, codec, data[members_end:size], (), 0, 0, b"", file.size()), size + _CHECKSUM.size


def _read_chunks(file: File, stored: Stored, position: int) -> Stored:
    end = stored.file_bytes - _TRAILER_BYTES
    _, count, raw_bytes, oldest, digest = _TRAILER.unpack_from(_read_trailer(file, stored, position))
    chunks: list[Chunk] = []
    raw_offset = 0
    while position < end:
        chunk = _read_chunk_header(file, stored.path, position)
        if chunk.raw_offset != raw_offset or position + _CHUNK_BYTES + chunk.stored_bytes > end:
            raise damaged(stored.path, f"the chunk at byte {position} is out of place")
        _read_stored(file, stored, chunk)
        chunks.append(chunk)
        position += _CHUNK_BYTES + chunk.stored_bytes
        raw_offset += chunk.raw_bytes
    if len(chunks) != count or raw_offset != raw_bytes:
        raise damaged(stored.path, f"it has {len(chunks)} chunks and says {count}")
    return stored._replace(chunks=tuple(chunks), raw_bytes=raw_bytes, oldest_segment=oldest, digest=digest)


def _read_trailer(file: File, stored: Stored, position: int) -> bytes:
    end = stored.file_bytes - _TRAILER_BYTES
    trailer = file.read(_TRAILER_BYTES, end) if end >= position else b""
    if trailer[:4] != b"DHT1" or _CHECKSUM.unpack_from(trailer, _TRAILER.size)[0] != crc32(trailer[: _TRAILER.size]):
        raise damaged(stored.path, "its end is missing or cannot be read")
    return trailer


def _read_chunk_header(file: File, path: str, position: int) -> Chunk:
    data = file.read(_CHUNK_BYTES, position)
    if len(data) < _CHUNK_BYTES or _CHECKSUM.unpack_from(data, _CHUNK.size)[0] != crc32(data[: _CHUNK.size]):
        raise damaged(path, f"the header of the chunk at byte {position} cannot be read")
    magic, raw_bytes, raw_offset, stored_bytes, checksum = _CHUNK.unpack_from(data)
    if magic != b"DHC1":
        raise damaged(path, f"there is no chunk at byte {position}")
    return Chunk(position, raw_offset, raw_bytes, stored_bytes, checksum)


def _read_stored(file: File, stored: Stored, chunk: Chunk) -> bytes:
    data = file.read(chunk.stored_bytes, chunk.offset + _CHUNK_BYTES)
    if len(data) != chunk.stored_bytes or crc32(data) != chunk.checksum:
        raise damaged(stored.path, f"the checksum of the chunk at byte {chunk.offset} does not match")
    return data


def _read_chunk(file: File, stored: Stored, chunk: Chunk, stream: Stream) -> bytes:
    try:
        raw = stream.decode(_read_stored(file, stored, chunk), chunk.offset, chunk.raw_bytes)
    except CodecError as error:
        raise damaged(
            stored.path, f"codec '{stored.codec}' cannot read the chunk at byte {chunk.offset}: {error}"
        ) from error
    if len(raw) != chunk.raw_bytes:
        raise damaged(stored.path, f"the chunk at byte {chunk.offset} has {len(raw)} bytes and says {chunk.raw_bytes}")
    return raw


if TYPE_CHECKING:
    from disheap.interfaces import Rereadable

    _rereads: type[Rereadable] = FileSnapshotWriter
