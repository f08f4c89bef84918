"""Reading the log when it is opened (Alagappan et al., FAST'18). Changes nothing: it says what is there, and `storage`
acts on it. So a log that is refused is left exactly as it was.

A block that cannot be read, or bytes that are no block, mean one of two things. **Damaged**: the block was durable.
That is certain if its identity (or a later block's) is written, if a block of a later append follows, or if a later
segment exists; then nothing may be cut off, and `LogDamaged` says which file. **Ambiguous**: it is the last append,
and it was torn by the crash or was durable and is lost, and nothing tells which. Zeros are no exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

import structlog

from disheap.errors import LogDamaged
from disheap.interfaces import Codec
from disheap.kernel.types import Index
from disheap_filelog import blocks
from disheap_filelog.blocks import HAS_MEMBERSHIP, HEADER_BYTES, LAST_OF_APPEND, SEVERAL_TERMS, Block
from disheap_filelog.filesystem import Filesystem
from disheap_filelog.identities import Slots
from disheap_filelog.index import Located, LogIndex
from disheap_filelog.segment import PREFIX, RESTORE, Segment, file_name

WINDOW_BYTES = 1 << 20
"""Read at once while scanning."""

_log = structlog.get_logger(__name__)


class Tail(NamedTuple):
    """Bytes behind the last good block that are no good block, and prove nothing."""

    path: str
    offset: int
    size: int
    reason: str


class Found(NamedTuple):
    segments: list[Segment]  # in force, oldest first
    log: LogIndex
    append: int  # number of the last append
    unidentified: list[Block]  # at the end of the last segment, good, and without identity
    tail: Tail | None
    void: list[str]  # names of files that no longer count


def scan(
    filesystem: Filesystem, directory: str, codec: Codec, codec_name: str, names: Sequence[str], oldest: int
) -> Found:
    """Segments below number `oldest` are void: a snapshot replaced them."""
    numbers = [int(name[len(PREFIX) :]) for name in names if name.startswith(PREFIX) and name[len(PREFIX) :].isdigit()]
    segments: list[Segment] = []
    try:
        for number in sorted(numbers, reverse=True):
            if number < oldest or (segments and number != segments[0].number - 1):
                break
            segments.insert(0, Segment.load(filesystem, directory, codec, codec_name, number))
            if segments[0].head.starts_anew:
                break
        return _scan_all(segments, numbers)
    except BaseException:
        for segment in segments:
            segment.close()
        raise


def _scan_all(segments: list[Segment], numbers: list[int]) -> Found:
    in_force = {segment.number for segment in segments}
    index, tail = LogIndex(), None
    found: list[Block] = []
    append = segments[0].head.append - 1 if segments else 0
    if segments:
        index.reset(Index(segments[0].head.first))
    for position, segment in enumerate(segments):
        following = segments[position + 1] if position + 1 < len(segments) else None
        found, tail = _Scan(segment, following, index).run()
        append = found[-1].append if found else append
    unidentified = _without_identity(segments[-1].slots(), found) if segments else []
    void = [file_name(number) for number in sorted(numbers) if number not in in_force]
    return Found(segments, index, append, unidentified, tail, void)


class _Scan:
    """One segment, front to back. `following` says where it ends; the last segment ends where its file does."""

    def __init__(self, segment: Segment, following: Segment | None, index: LogIndex) -> None:
        self._segment, self._following, self._index = segment, following, index
        self._slots = segment.slots()
        self._size = segment.size()
        self._limit = following.head.previous_end if following else self._size
        self._window = (0, b"")
        self._found: list[Block] = []

    def run(self) -> tuple[list[Block], Tail | None]:
        segment, reason = self._segment, ""
        while not reason and segment.end < self._limit:
            reason = self._next()
        if self._following:
            self._check_end(self._following, reason)
            return self._found, None
        return self._found, self._judge(reason)

    def _next(self) -> str:
        """Take the block at the segment's end; a reason if there is no good one."""
        offset = self._segment.end
        block = blocks.parse_header(self._read(HEADER_BYTES, offset), offset)
        if block is None:
            return "the block's header cannot be read"
        if block.segment_id != self._segment.head.id or block.previous != self._segment.checksum:
            return "the block does not belong behind the one before it"
        if block.end > self._limit:
            return "the file ends in the middle of the block"
        stored = self._read(block.stored_bytes, offset + HEADER_BYTES)
        if crc32(stored) != block.payload_checksum:
            return "the block's checksum does not match"
        self._take(block, stored)
        return ""

    def _take(self, block: Block, stored: bytes) -> None:
        number = self._segment.count
        if number >= self._slots.count or self._slots.contradicts(number, block):
            raise self._damaged(block.offset, "the block is a good one, and not the one that its identity names")
        if block.first > self._index.last + 1:
            raise self._damaged(block.offset, f"entries {self._index.last + 1} to {block.first - 1} are missing")
        needs_entries = block.flags & (SEVERAL_TERMS | HAS_MEMBERSHIP)
        entries = self._segment.decode_block(block, stored) if needs_entries else ()
        self._segment.accept(block)
        self._index.add(Located(self._segment, block), entries)
        self._found.append(block)

    def _check_end(self, following: Segment, reason: str) -> None:
        segment = self._segment
        if reason:
            raise self._damaged(segment.end, reason)
        if segment.end != self._limit or segment.checksum != following.head.previous_checksum:
            raise self._damaged(segment.end, f"this is not the end that {following.path} follows")

    def _judge(self, reason: str) -> Tail | None:
        """The last segment: is what it lacks damaged or ambiguous?"""
        segment, missing = self._segment, reason or "blocks that were durable are missing"
        if segment.is_sealed():
            raise self._damaged(segment.end, "a further segment was begun and its file is missing")
        if self._slots.proves(segment.count) or (reason and self._slots.hints(segment.count)):
            raise self._damaged(segment.end, missing)
        if not reason:
            if self._slots.hints(segment.count):
                _log.warning("an unused block identity is damaged; the log is whole", file=segment.path)
            return None
        if self._later_append_follows():
            raise self._damaged(segment.end, f"{reason}, and a later one follows")
        return Tail(segment.path, segment.end, self._size - segment.end, reason)

    def _later_append_follows(self) -> bool:
        """A later append was begun only after the one in doubt was durable."""
        expected = self._segment.head.append
        if self._found:
            expected = self._found[-1].append + (self._found[-1].flags & LAST_OF_APPEND)
        offset = self._segment.end
        while offset < self._size:
            data = self._read(WINDOW_BYTES + HEADER_BYTES, offset)
            at = data.find(blocks.MAGIC)
            while at >= 0:
                block = blocks.parse_header(data[at : at + HEADER_BYTES], offset + at)
                if block and block.segment_id == self._segment.head.id and block.append > expected:
                    return True
                at = data.find(blocks.MAGIC, at + 1)
            offset += WINDOW_BYTES
        return False

    def _read(self, size: int, offset: int) -> bytes:
        start, data = self._window
        if not start <= offset <= offset + size <= start + len(data):
            start, data = offset, self._segment.read_raw(max(size, WINDOW_BYTES), offset)
            self._window = (start, data)
        return data[offset - start : offset - start + size]

    def _damaged(self, offset: int, reason: str) -> LogDamaged:
        return LogDamaged(self._segment.path, offset, reason, RESTORE)


def _without_identity(slots: Slots, found: list[Block]) -> list[Block]:
    number = len(found)
    while number > 0 and not slots.is_sound(number - 1):
        number -= 1
    for earlier in range(number):
        if not slots.is_sound(earlier):
            _log.warning("a block's identity is damaged; the block is whole", offset=found[earlier].offset)
    return found[number:]
