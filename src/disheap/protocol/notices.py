"""What a node tells the others about itself, unasked, once a second: a NOTICE frame between nodes.

Beside Raft's own messages, which know nothing of disks. Each notice stands for itself, the newest counts, and none is
missed. The body is a MessagePack array.
"""

from __future__ import annotations

import msgspec

from disheap.errors import MalformedFrame
from disheap.protocol import frames
from disheap.protocol.frames import Kind


class Notice(msgspec.Struct, array_like=True, frozen=True):
    group: int
    is_short: bool  # of room on its disk
    free_bytes: int  # there; 0 where it is not known


_notice = msgspec.msgpack.Decoder(Notice)


def encode(notice: Notice) -> bytes:
    """One whole frame."""
    return frames.plain(Kind.NOTICE, msgspec.msgpack.encode(notice))


def decode(frame: bytes) -> Notice:
    """Raises `MalformedFrame`."""
    try:
        return _notice.decode(frames.open_plain(frame))
    except frames.UNREADABLE as error:
        raise MalformedFrame(f"a notice cannot be read: {error}") from error
