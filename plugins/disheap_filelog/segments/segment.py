"""Segments: files of blocks, written front to back, never in place. Owns one open file of the log; decides nothing
about what a bad one means (`recovery` does).

    offset     size   file `log-<number, 20 digits>`
    0          8192   head: see below
    8192       4096   seal: zeros, or "DHE1", number of the segment that follows (8), checksum of the 12 bytes (4)
    12288      32 n   identity slots, n as the head says (see `identities`), up to the next multiple of 4096
    ...               blocks (see `blocks`), each directly behind the last
    ...               zeros up to the end of the file: space that is allocated and not used yet

    offset  size  head
    0       4     magic, "DHL1"
    4       1     version, 2
    5       1     1 if the log begins anew here, and every segment before this one is void
    6       2     length of the codec's name
    8       8     number
    16      8     id, drawn at random: no block of another file passes for one of this
    24      8     index of the first entry
    32      8     number of the first append
    40      8     end of the segment before (bytes); what lies behind it there does not count. 0: there is none
    48      4     checksum of the last block before
    52      4     number of identity slots
    56      4     length of the codec's preamble
    60      8     0; or, in a segment that was repaired, the end (bytes) of the one in whose place it stands
    68      4     that one's last checksum: both are what the next segment's head names
    72      n     the codec's name, its preamble
    72 + n  4     checksum of all before it

**Space is allocated ahead** (`preallocate`), by writing zeros and syncing them, never by an append. An append into such
space changes no size and no extent of the file, so its fdatasync waits for no commit of the filesystem's journal. An
append that does not fit makes the file grow.

**The end of the log** is where the file ends, or where unused space begins. Zeros alone prove nothing: they may be a
durable block that was lost. So each append also writes a mark into the slot of its first block (`identities`). The mark
lies away from the block, and one fdatasync covers both. Zeros behind the last block are unused space if no mark says
that a block was begun there. Everything else is an append in progress or a lost block. Where an append made the file
grow, the file's size takes the place of the mark. The filesystem keeps the size away from the block, checksummed or
journaled. Version 1 had no marks, so zeros at the end of such a segment are ambiguous.

**Identity slots** are in the head so that one fdatasync covers a block and the identity of the one before it. The
region is written once when the segment is made, so that slots never change the file's size.

**A repaired segment** is written anew beside the damaged one, with its live entries alone, every identity and the seal.
It takes the other's name with one rename. Nothing is ever added to it.

**A new segment** is begun when one is full, and whenever a log is opened. So nothing is ever cut off or written twice
at one position (a codec may use the position as a nonce). A torn tail stays where it is, as evidence, behind the end
that the next segment's head records. The order is: the new one under a temporary name, fsync, rename, fsync of the
directory. Then the seal and the last identities of the old one, fsync. The seal also frees unused space. A sealed
segment that is the last one says that a file is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple
from zlib import crc32

from disheap.errors import RESTORE, CodecError, LogDamaged, StorageFull
from disheap.interfaces import Codec, Stream, StreamContext
from disheap.kernel.types import Entry
from disheap_filelog.codec import check_codec
from disheap_filelog.filesystem import TEMPORARY, File, Filesystem, create_file, needs_room
from disheap_filelog.formats import check_version
from disheap_filelog.segments import blocks, identities
from disheap_filelog.segments.blocks import Block
from disheap_filelog.segments.identities import SLOT_BYTES, Slots

MAGIC = b"DHL1"
VERSION = 2
MARKS_SINCE = 2
"""The first version in which zeros behind the last block can be unused space."""
PREFIX = "log-"
SEAL_AT = 8192
SLOTS_AT = 12288
ALIGN = 4096
SLOT_SHARE = 4096
"""One identity slot for so many bytes of segment: a segment of blocks smaller than this is full when its slots are."""
SLOTS_MIN = 64
PIECE_BYTES = 16 << 10
"""Space is written in pieces of this size. Linux keeps a larger write in large folios. Each later fdatasync looks at
all of a folio to write one page of it. That takes 20 to 30 us for each page (ext4, Linux 6.18)."""

DURABLE = f"This was durable before. {RESTORE}"

_HEAD = struct.Struct(">4sBBHQQQQQIIIQI")
_SEAL = struct.Struct(">4sQ")
_CHECKSUM = struct.Struct(">I")


class Head(NamedTuple):
    """The fields of a segment's head."""

    starts_anew: bool
    number: int
    id: int
    first: int
    append: int
    previous_end: int
    previous_checksum: int
    slots: int
    codec: str
    preamble: bytes
    replaced_end: int = 0
    replaced_checksum: int = 0
    version: int = VERSION

    @property
    def is_repaired(self) -> bool:
        """Whether this segment replaces one that was damaged."""
        return self.replaced_end > 0

    @property
    def has_marks(self) -> bool:
        """Whether each append into this segment leaves a mark."""
        return self.version >= MARKS_SINCE


class Segment:
    """One open file of the log."""

    def __init__(self, file: File, path: str, head: Head, stream: Stream, checksum: int) -> None:
        self._file, self._stream = file, stream
        self.path, self.head, self.number = path, head, head.number
        self.start = data_start(head.slots)
        self.end = self.start  # behind the last good block
        self.allocated = self.start  # the size of the file
        self.count = 0  # blocks, superseded ones too
        self.checksum = checksum  # of the last block, or of the head: the next block names it
        self.highest = 0  # index that any block in it holds, superseded ones too
        self._unidentified: list[Block] = []  # durable blocks whose identity is not written

    @classmethod
    def create(cls, filesystem: Filesystem, directory: str, codec: Codec, head: Head) -> Segment:
        """Durable under its name when it returns. The head's preamble is made here."""
        name = file_name(head.number)
        preamble, stream = codec.new_stream(StreamContext("segment", name))
        head = head._replace(preamble=preamble)
        data = _encode_head(head)
        temporary = f"{directory}/{name}{TEMPORARY}"
        file = create_file(filesystem, temporary)
        with needs_room(temporary, lambda: _discard(filesystem, file, temporary)):
            _write_pieces(file, data.ljust(data_start(head.slots), b"\0"), 0)
        file.sync()
        filesystem.rename(temporary, f"{directory}/{name}")
        filesystem.sync_directory(directory)
        return cls(file, f"{directory}/{name}", head, stream, crc32(data[: -_CHECKSUM.size]))

    @classmethod
    def load(cls, filesystem: Filesystem, directory: str, codec: Codec, codec_name: str, number: int) -> Segment:
        """Open an existing one; its blocks are read by `recovery`. Raises `LogDamaged` and `CodecError`."""
        name = file_name(number)
        path = f"{directory}/{name}"
        file = filesystem.open(path)
        try:
            head, checksum = _decode_head(file, path, number)
            check_codec(path, head.codec, codec_name)
            stream = codec.open_stream(head.preamble, StreamContext("segment", name))
        except BaseException:
            file.close()
            raise
        segment = cls(file, path, head, stream, checksum)
        segment.allocated = file.size()
        return segment

    @classmethod
    def rewrite(
        cls, filesystem: Filesystem, directory: str, codec: Codec, head: Head,
        groups: Iterable[tuple[int, Sequence[Entry]]], next_number: int,
    ) -> tuple[Segment, list[Block]]:  # fmt: skip
        """Replaces the segment that has the number in `head`. Durable when it returns. `groups` are (append number,
        entries of one block). `next_number` is 0 if none follows. A crash leaves the old one or the new one."""
        name = file_name(head.number)
        temporary = f"{directory}/{name}{TEMPORARY}"
        preamble, stream = codec.new_stream(StreamContext("segment", name))
        head = head._replace(preamble=preamble)
        data = _encode_head(head)
        file = create_file(filesystem, temporary)
        segment = cls(file, f"{directory}/{name}", head, stream, crc32(data[: -_CHECKSUM.size]))
        with needs_room(temporary, lambda: _discard(filesystem, file, temporary)):
            _write_pieces(file, data.ljust(data_start(head.slots), b"\0"), 0)
            written = [segment._put(group, append) for append, group in groups]
        segment._unidentified = written
        if next_number:
            segment.seal(next_number)
        else:
            segment.identify()
        file.sync()
        filesystem.rename(temporary, segment.path)
        filesystem.sync_directory(directory)
        return segment, written

    def _put(self, group: Sequence[Entry], append: int) -> Block:
        place = (self._stream, self.end, self.head.id, append, self.checksum)
        block, header, stored = blocks.build(group, *place, is_last=True)
        self._file.write(header + stored, self.end)
        self.accept(block)
        return block

    def append(self, groups: Sequence[Sequence[Entry]], append: int) -> list[Block]:
        """Write each group as a block, all of them with one write, and sync once. Durable when it returns. Raises
        `StorageFull`, with nothing of it in the file. So the mark is written last."""
        written: list[Block] = []
        parts: list[bytes] = []
        offset, checksum = self.end, self.checksum
        for group in groups:
            is_last = group is groups[-1]
            block, header, stored = blocks.build(group, self._stream, offset, self.head.id, append, checksum, is_last)
            written.append(block)
            parts += (header, stored)
            offset, checksum = block.end, block.checksum
        with needs_room(self.path, self._cut_unused):
            self._file.write(b"".join(parts), self.end)
        self._write_slots(identities.encode_mark(written[0]))
        self._file.sync()
        for block in written:
            self.accept(block)
        self._unidentified = written
        return written

    def accept(self, block: Block) -> None:
        """The next good block, written or found."""
        self.skip(block, block.end)

    def skip(self, block: Block, end: int) -> None:
        """The next block, damaged: the one behind it begins at `end`."""
        self.end, self.checksum, self.count = end, block.checksum, self.count + 1
        if end > self.allocated:
            self.allocated = end
        if (last := block.last) > self.highest:
            self.highest = last

    @property
    def can_be_continued(self) -> bool:
        """Whether blocks may be added. Not to a repaired segment, and not to one of an earlier version."""
        return not self.head.is_repaired and self.head.version == VERSION

    @property
    def known_end(self) -> tuple[int, int]:
        """End and last checksum as the next segment's head names them."""
        head = self.head
        return (head.replaced_end, head.replaced_checksum) if head.is_repaired else (self.end, self.checksum)

    def holds(self, least_bytes: int) -> bool:
        """Whether the segment has at least so many bytes of blocks."""
        return self.end - self.start >= least_bytes

    def has_room(self, groups: int, segment_bytes: int) -> bool:
        """Whether `groups` more blocks fit, by the size of the file and by the number of identity slots."""
        return self.end < segment_bytes and self.count + groups <= self.head.slots

    def preallocate(self, until: int) -> None:
        """Write zeros up to `until`, durable when it returns. Allocates nothing if there is no room."""
        with suppress(StorageFull), needs_room(self.path, lambda: self._file.truncate(self.allocated)):
            _write_pieces(self._file, bytes(until - self.allocated), self.allocated)
            self.allocated = until
        self._file.sync()

    def _cut_unused(self) -> None:
        self._file.truncate(self.end)
        self.allocated = self.end

    def identify(self) -> None:
        """The identities that are due, durable when it returns."""
        if self._unidentified:
            self._write_slots()
            self._file.sync()
            self._unidentified = []

    def rewrite_unidentified(self, found: list[Block]) -> None:
        """Good blocks that the last run may not have made durable. After a failed fsync they can be in the page cache
        and nowhere else, marked clean. Written again they are dirty again, and this fsync is not that one retried."""
        for block in found:
            self._file.write(self._file.read(block.end - block.offset, block.offset), block.offset)
        self._file.sync()
        self._unidentified = found

    def seal(self, next_number: int, frees_unused: bool = False) -> None:
        """Another segment follows, and says where this one ends. The identities that are due ride along.
        `frees_unused` cuts off what lies behind the last block."""
        if frees_unused and self.allocated > self.end:
            self._cut_unused()
        self._write_slots()
        body = _SEAL.pack(b"DHE1", next_number)
        self._file.write(body + _CHECKSUM.pack(crc32(body)), SEAL_AT)
        self._file.sync()
        self._unidentified = []

    def is_sealed(self) -> bool:
        """Whether the seal says that a further segment exists."""
        data = self._file.read(_SEAL.size + _CHECKSUM.size, SEAL_AT)
        return data[_SEAL.size :] == _CHECKSUM.pack(crc32(data[: _SEAL.size]))

    def slots(self) -> Slots:
        """The identity slots as they are on the disk."""
        return Slots(self._file.read(self.head.slots * SLOT_BYTES, SLOTS_AT))

    def read_raw(self, size: int, offset: int) -> bytes:
        """Reads bytes of the file without any check."""
        return self._file.read(size, offset)

    def size(self) -> int:
        """The size of the file in bytes."""
        return self._file.size()

    def read_block(self, block: Block) -> tuple[Entry, ...]:
        """Raises `LogDamaged`: this block was good before."""
        return self.decode_block(block, self._stored(block))

    def renew(self) -> str:
        """What a scrub asks (`scrub.Small`), of the head."""
        head = _encode_head(self.head)
        self._file.drop_cached(len(head), 0)
        if self._file.read(len(head), 0) == head:
            return ""
        self._file.write(head, 0)
        self._file.sync()
        return f"{self.path}: the head had rotted; written again"

    def check_block(self, block: Block) -> None:
        """What is on the disk itself, header and payload. Raises `LogDamaged`."""
        self._file.drop_cached(block.end - block.offset, block.offset)
        header = self._file.read(blocks.HEADER_BYTES, block.offset)
        if blocks.parse_header(header, block.offset) is None:
            raise LogDamaged(self.path, block.offset, "the block's header cannot be read any more", DURABLE)
        self._stored(block)

    def _stored(self, block: Block) -> bytes:
        stored = self._file.read(block.stored_bytes, block.end - block.stored_bytes)
        if len(stored) != block.stored_bytes or crc32(stored) != block.payload_checksum:
            raise LogDamaged(self.path, block.offset, "the block's checksum does not match any more", DURABLE)
        return stored

    def decode_block(self, block: Block, stored: bytes) -> tuple[Entry, ...]:
        """Checksums hold: what fails now was written so, or the codec's key is not the one it was written with."""
        try:
            raw = self._stream.decode(stored, block.offset, block.raw_bytes)
            return blocks.decode_entries(raw, block.first, block.entries)
        except CodecError as error:
            reason = f"the checksum matches, but codec '{self.head.codec}' cannot read the block ({error})"
            raise LogDamaged(self.path, block.offset, reason, DURABLE) from error

    def is_linked(self) -> bool:
        """Whether the file still has its name."""
        return self._file.is_linked()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write_slots(self, mark: bytes = b"") -> None:
        """The identities that are due, until a sync has returned, and the mark of the append that follows them."""
        slots = identities.encode(self._unidentified) + mark
        if slots:
            number = self.count - len(self._unidentified)
            self._file.write(slots, SLOTS_AT + number * SLOT_BYTES)


def _write_pieces(file: File, data: bytes, offset: int) -> None:
    for start in range(0, len(data), PIECE_BYTES):
        file.write(data[start : start + PIECE_BYTES], offset + start)


def _discard(filesystem: Filesystem, file: File, path: str) -> None:
    file.close()
    filesystem.remove(path)


def file_name(number: int) -> str:
    """The name of the segment with this number."""
    return f"{PREFIX}{number:020d}"


def data_start(slots: int) -> int:
    """Where the first block is in a segment with this number of identity slots."""
    return SLOTS_AT + -(-slots * SLOT_BYTES // ALIGN) * ALIGN


def slots_for(segment_bytes: int) -> int:
    """How many identity slots a segment of this size has."""
    return max(SLOTS_MIN, segment_bytes // SLOT_SHARE)


def _encode_head(head: Head) -> bytes:
    codec = head.codec.encode()
    fixed = _HEAD.pack(
        MAGIC, VERSION, head.starts_anew, len(codec), head.number, head.id, head.first, head.append,
        head.previous_end, head.previous_checksum, head.slots, len(head.preamble),
        head.replaced_end, head.replaced_checksum,
    )  # fmt: skip
    data = fixed + codec + head.preamble
    assert len(data) + _CHECKSUM.size <= SEAL_AT, "a codec's preamble is at most 4 KiB"
    return data + _CHECKSUM.pack(crc32(data))


def _decode_head(file: File, path: str, number: int) -> tuple[Head, int]:
    """The head, and the checksum that its first block names."""
    data = file.read(SEAL_AT, 0)
    head = _parse_head(data, path)
    if head is None or head[0].number != number:
        reason = "the segment's head cannot be read" if head is None else f"this is segment {head[0].number}"
        raise LogDamaged(path, 0, reason, RESTORE)
    if data_start(head[0].slots) > file.size():  # before memory is taken for them
        raise LogDamaged(path, 0, f"the file ends before the {head[0].slots} identity slots of its head do", RESTORE)
    return head


def _parse_head(data: bytes, path: str) -> tuple[Head, int] | None:
    """None for a head that is not sound. Raises `VersionUnsupported`."""
    if len(data) < SEAL_AT or data[:4] != MAGIC:
        return None
    fields = _HEAD.unpack_from(data)
    codec_length, preamble_length = fields[3], fields[11]
    size = _HEAD.size + codec_length + preamble_length
    if size + _CHECKSUM.size > len(data) or _CHECKSUM.unpack_from(data, size)[0] != crc32(data[:size]):
        return None
    check_version(path, data[4], VERSION)
    codec = data[_HEAD.size : _HEAD.size + codec_length].decode(errors="replace")
    preamble = data[_HEAD.size + codec_length : size]
    head = Head._make((bool(fields[2]), *fields[4:11], codec, preamble, *fields[12:], data[4]))
    return head, crc32(data[:size])
