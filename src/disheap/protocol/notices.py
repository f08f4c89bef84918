"""What a node tells the others about itself, unasked, once a second: a NOTICE frame between nodes.

Beside Raft's own messages, which know nothing of disks. Each notice stands for itself, the newest counts, and none is
missed. The body is a MessagePack array.
"""

from __future__ import annotations

import msgspec

from disheap.errors import MalformedFrame
from disheap.protocol import frames
from disheap.protocol.frames import Kind

HASH_BYTES_MOST = 64


class Notice(msgspec.Struct, array_like=True, frozen=True):
    group: int
    is_short: bool  # of room on its disk
    free_bytes: int  # there; 0 where it is not known
    hashed_index: int = 0  # the newest entry behind which the state was hashed; 0 where none was
    state_hash: bytes = b""  # there, 16 bytes
    doubt_until: int = (
        0  # in doubt about the end of its log, until entries behind this one are in it; 0 where it is sure
    )
    memory_is_short: bool = False  # above its high-water mark
    memory_is_exhausted: bool = False  # so much above it that transient messages are refused, too
    wall_ms: int = 0  # its wall clock when it said so


_notice = msgspec.msgpack.Decoder(Notice)


def encode(notice: Notice) -> bytes:
    """One whole frame."""
    return frames.plain(Kind.NOTICE, msgspec.msgpack.encode(notice))


def decode(frame: bytes) -> Notice:
    """Raises `MalformedFrame`."""
    try:
        notice = _notice.decode(frames.open_plain(frame))
    except frames.UNREADABLE as error:
        raise MalformedFrame(f"a notice cannot be read: {error}") from error
    numbers = (notice.hashed_index, notice.free_bytes, notice.doubt_until, notice.wall_ms)
    if not all(0 <= number < 1 << 64 for number in numbers) or len(notice.state_hash) > HASH_BYTES_MOST:
        raise MalformedFrame(f"a notice that cannot be: {notice}")
    return notice
