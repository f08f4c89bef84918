"""Reading the log when it is opened (Alagappan et al., FAST'18). Changes nothing: it says what is there, and `storage`
acts on it. So a log that is refused is left exactly as it was.

A block that cannot be read, or bytes that are no block, mean one of two things. **Damaged**: the block was durable.
That is certain if its identity (or a later block's) is written. It is certain, too, if a block of a later append or a
later segment follows. Then nothing may be cut off. **Ambiguous**: it is the last append, and it was torn by the crash
or was durable and is lost, and nothing tells which. Zeros are no exception if a mark says that a block was begun there
(`identities`). Without a mark, zeros up to the end of the file are unused space, and the log ends before them.

Where other nodes may hold the same entries (`salvage`), a damaged block is skipped if its header or its slot tells its
range and term. It keeps its place in the index, marked, until good entries are put there. The last block is treated
so too where its header shows all that may be lost. What cannot be placed is `LogDamaged`. If a block is known by its
identity alone, and nothing readable follows, nobody knows how long it was. One more append may have stood behind it, so
the end of the log is ambiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from zlib import crc32

from disheap.errors import LogDamaged
from disheap.interfaces import Codec
from disheap.kernel.types import Index
from disheap.logs import get_logger
from disheap_filelog.filesystem import Filesystem
from disheap_filelog.segments import blocks
from disheap_filelog.segments.blocks import HAS_MEMBERSHIP, HEADER_BYTES, LAST_OF_APPEND, Block
from disheap_filelog.segments.identities import Slots
from disheap_filelog.segments.index import Located, LogIndex
from disheap_filelog.segments.segment import DURABLE, PREFIX, Segment, file_name

WINDOW_BYTES = 1 << 20
"""Read at once while scanning."""

_log = get_logger(__name__)


class Tail(NamedTuple):
    """Bytes behind the last good block. They are not a good block, and do not prove that one was durable."""

    path: str
    offset: int
    size: int
    reason: str


class ScanResult(NamedTuple):
    """What a scan of all segments has found."""

    segments: list[Segment]  # in force, oldest first
    log: LogIndex
    append: int  # number of the last append
    unidentified: list[Block]  # at the end of the last segment, good, and without identity
    tail: Tail | None
    void: list[str]  # names of files that no longer count


def scan(
    filesystem: Filesystem,
    directory: str,
    codec: Codec,
    codec_name: str,
    names: Sequence[str],
    oldest: int,
    salvage: bool,
) -> ScanResult:
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
        return _scan_all(segments, numbers, salvage)
    except BaseException:
        for segment in segments:
            segment.close()
        raise


def _scan_all(segments: list[Segment], numbers: list[int], salvage: bool) -> ScanResult:
    in_force = {segment.number for segment in segments}
    index, tail = LogIndex(), None
    found: list[Block] = []
    damaged: list[Block] = []
    append = segments[0].head.append - 1 if segments else 0
    if segments:
        index.reset(Index(segments[0].head.first))
    for position, segment in enumerate(segments):
        following = segments[position + 1] if position + 1 < len(segments) else None
        scan = _Scan(segment, following, index, salvage)
        found, tail = scan.run()
        append, damaged = max(append, scan.append), scan.damaged
    unidentified = _without_identity(segments[-1].slots(), found) if segments else []
    unidentified = [] if any(block in damaged for block in unidentified) else unidentified
    void = [file_name(number) for number in sorted(numbers) if number not in in_force]
    return ScanResult(segments, index, append, unidentified, tail, void)


class _Scan:
    """Scans one segment from front to back. `following` says where it ends. The last segment ends where its file does,
    or where unused space begins."""

    def __init__(self, segment: Segment, following: Segment | None, index: LogIndex, salvage: bool) -> None:
        self._segment, self._following, self._index, self._salvage = segment, following, index, salvage
        self.append = segment.head.append - 1  # number of the last one seen
        self._is_append_whole = True  # its last block was seen
        self._slots = segment.slots()
        self._size = segment.size()
        is_limited = following is not None and not segment.head.is_repaired
        self._limit = following.head.previous_end if following and is_limited else self._size
        self._window = (0, b"")
        self._ambiguous_block: tuple[int, str] | None = None  # where a lost block may have been, and why
        self._found: list[Block] = []  # damaged ones too
        self.damaged: list[Block] = []

    def run(self) -> tuple[list[Block], Tail | None]:
        reason = self._next()
        while not reason or self._skip_damaged(reason):
            if not reason and self._is_at_end:
                break
            reason = self._next()
        if self._following:
            self._check_end(self._following, reason)
            return self._found, None
        return self._found, self._judge_end(reason)

    def _next(self) -> str:
        """Takes the block at the segment's end. Returns a reason if there is no good one, else ""."""
        offset = self._segment.end
        if self._is_at_end:
            missing = self._salvage and self._slots.proves(self._segment.count)
            return "blocks that were durable are missing" if missing else ""
        block = blocks.parse_header(self._read(HEADER_BYTES, offset), offset)
        if block is None and self._is_unused(offset):
            self._size = self._limit = offset
            return self._next()
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

    def _is_unused(self, offset: int) -> bool:
        """Whether nothing was ever written from `offset` on: zeros, and no mark of a block. A slot that is damaged may
        have been a mark, or never written: then the end is ambiguous."""
        number = self._segment.count
        is_begun = not self._is_append_whole or self._slots.is_sound(number)
        if self._following or not self._segment.head.has_marks or is_begun or not self._is_zero_from(offset):
            return False
        if not self._slots.is_empty(number):
            self._ambiguous_block = (offset, "the mark of a block that may have been begun is damaged")
        return True

    def _is_zero_from(self, offset: int) -> bool:
        while offset < self._size:
            data = self._read(min(WINDOW_BYTES, self._size - offset), offset)
            if data.count(0) < len(data):
                return False
            offset += WINDOW_BYTES
        return True

    def _take(self, block: Block, stored: bytes) -> None:
        number = self._segment.count
        if number >= self._slots.count or self._slots.contradicts(number, block):
            raise self._damaged(block.offset, "the block is a good one, and not the one that its identity names")
        if block.first > self._index.last + 1:
            raise self._damaged(block.offset, f"entries {self._index.last + 1} to {block.first - 1} are missing")
        entries = self._segment.decode_block(block, stored) if block.flags & HAS_MEMBERSHIP else ()
        self._segment.accept(block)
        self._index.add(Located(self._segment, block), entries)
        self._note(block)

    def _note(self, block: Block) -> None:
        self._found.append(block)
        self.append, self._is_append_whole = block.append, bool(block.flags & LAST_OF_APPEND)

    # --- damage ---

    def _skip_damaged(self, reason: str) -> bool:
        """Whether the damaged block at the end of what was read is known well enough to leave it where it is."""
        segment = self._segment
        if not self._salvage:
            return False
        block = self._known_by_header() or self._known_by_slot()
        is_told = block is not None and bool(block.flags & LAST_OF_APPEND)  # all that may be lost is known
        if not is_told and not self._was_durable():
            return False
        if block is None or block.first > self._index.last + 1:
            return False
        _log.warning(
            "a block of the log is damaged", file=segment.path, offset=block.offset, reason=reason,
            first=block.first, last=block.last, term=block.term,
        )  # fmt: skip
        end = self._end_of(block)
        if end >= self._size and self._may_be_followed(block):
            self._ambiguous_block = (block.offset, "a block may have followed the damaged one")
        segment.skip(block, end)
        self._index.add(Located(segment, block, is_damaged=True), ())
        self.damaged.append(block)
        self._note(block)
        return True

    def _may_be_followed(self, block: Block) -> bool:
        """An append of which nothing is left may follow the block. Either the block's length is not known. Or the file
        ends inside it, though it was durable, and the next append may have said so. Nothing follows a block that has a
        mark: the next append would have written its identity."""
        number = self._segment.count
        is_cut_short = block.end > self._size and self._slots.hints(number)
        return is_cut_short or (not block.stored_bytes and not self._slots.is_mark(number))

    def _known_by_header(self) -> Block | None:
        offset = self._segment.end
        block = blocks.parse_header(self._read(HEADER_BYTES, offset), offset)
        is_ours = block is not None and block.segment_id == self._segment.head.id
        if block is None or not is_ours or block.previous != self._segment.checksum:
            return None
        return None if self._slots.contradicts(self._segment.count, block) else block

    def _known_by_slot(self) -> Block | None:
        """The slot does not say which append: the next one after the last that was seen whole."""
        segment = self._segment
        block = self._slots.block(segment.count, segment.end, segment.head.id, segment.checksum)
        return block and block._replace(append=self.append + self._is_append_whole)

    def _end_of(self, block: Block) -> int:
        """Returns where the block behind a damaged one begins. Its own header says so, or the next identity, or the
        next header that names this block as the one before it."""
        if block.stored_bytes:
            return min(block.end, self._limit)
        following = self._slots.offset(self._segment.count + 1)
        return following if following is not None else self._find(lambda later: later.previous == block.checksum)

    def _was_durable(self) -> bool:
        segment, slots = self._segment, self._slots
        is_proven = slots.proves(segment.count) or (not self._is_at_end and slots.hints(segment.count))
        return bool(self._following) or is_proven or self._later_append_follows()

    @property
    def _is_at_end(self) -> bool:
        return self._segment.end >= self._limit

    def _check_end(self, following: Segment, reason: str) -> None:
        segment = self._segment
        if reason:
            raise self._damaged(segment.end, reason)
        named = (following.head.previous_end, following.head.previous_checksum)
        if segment.end != self._limit or segment.known_end != named:
            raise self._damaged(segment.end, f"this is not the end that {following.path} follows")

    def _judge_end(self, reason: str) -> Tail | None:
        """The last segment: is what it lacks damaged or ambiguous? A damaged slot may have been a mark or an identity.
        So its block is ambiguous for a member, and a node that is alone does not drop it."""
        segment, missing = self._segment, reason or "blocks that were durable are missing"
        hinting = segment.count + 1 if self._salvage else segment.count
        if segment.is_sealed():
            raise self._damaged(segment.end, "a further segment was begun and its file is missing")
        if self._slots.proves(segment.count) or (reason and self._slots.hints(hinting)):
            raise self._damaged(segment.end, missing)
        if not reason:
            if self._ambiguous_block is not None:
                offset, why = self._ambiguous_block
                return Tail(segment.path, offset, max(0, self._size - offset), why)
            if self._slots.hints(segment.count):
                _log.warning("an unused block identity is damaged; the log is whole", file=segment.path)
            return None
        if self._later_append_follows():
            raise self._damaged(segment.end, f"{reason}, and a later one follows")
        return Tail(segment.path, segment.end, self._size - segment.end, reason)

    def _later_append_follows(self) -> bool:
        """A later append was begun only after the ambiguous one was durable."""
        expected = self.append + self._is_append_whole
        return self._find(lambda later: later.append > expected) < self._size

    def _find(self, wanted: Callable[[Block], bool]) -> int:
        """Offset of the next header in this segment that is wanted; the file's size where there is none."""
        offset = self._segment.end
        while offset < self._size:
            data = self._read(WINDOW_BYTES + HEADER_BYTES, offset)
            at = data.find(blocks.MAGIC)
            while at >= 0:
                block = blocks.parse_header(data[at : at + HEADER_BYTES], offset + at)
                if block and block.segment_id == self._segment.head.id and wanted(block):
                    return offset + at
                at = data.find(blocks.MAGIC, at + 1)
            offset += WINDOW_BYTES
        return self._size

    def _read(self, size: int, offset: int) -> bytes:
        start, data = self._window
        if not start <= offset <= offset + size <= start + len(data):
            start, data = offset, self._segment.read_raw(max(size, WINDOW_BYTES), offset)
            self._window = (start, data)
        return data[offset - start : offset - start + size]

    def _damaged(self, offset: int, reason: str) -> LogDamaged:
        return LogDamaged(self._segment.path, offset, reason, DURABLE)


def _without_identity(slots: Slots, found: list[Block]) -> list[Block]:
    number = len(found)
    while number > 0 and not slots.is_identity(number - 1):
        number -= 1
    for earlier in range(number):
        if not slots.is_identity(earlier):
            _log.warning("a block's identity is damaged; the block is whole", offset=found[earlier].offset)
    return found[number:]
