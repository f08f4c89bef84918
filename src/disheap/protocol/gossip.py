"""Gossip: what a node tells the others about itself once a second, in a GOSSIP frame.

It is separate from Raft's own messages, which know nothing of disks and memory. Each frame stands for itself. Only the
newest counts, so a lost one does no harm. The body is a MessagePack array.
"""

from __future__ import annotations

import msgspec

from disheap.errors import MalformedFrame
from disheap.protocol import frames
from disheap.protocol.frames import Kind

MAX_HASH_BYTES = 64


class GroupReport(msgspec.Struct, array_like=True, frozen=True):
    """How a node's replica of one group is."""

    group: int
    is_short: bool  # of room on the disk of its directory
    free_bytes: int  # there; 0 if it is not known
    hashed_index: int = 0  # the newest entry behind which the state was hashed; 0 if none was
    state_hash: bytes = b""  # there, 16 bytes
    ambiguous_until: int = 0  # the end of its log is ambiguous until it has an entry behind this one; 0 if it is not


class Gossip(msgspec.Struct, array_like=True, frozen=True):
    """What one node tells the others about itself."""

    groups: tuple[GroupReport, ...] = ()
    memory_is_short: bool = False  # above its high-water mark
    memory_is_exhausted: bool = False  # so much above it that transient messages are refused, too
    wall_ms: int = 0  # its wall clock when it said so
    members_at: int = 0  # the entry of group 0 up to which it knows the members
    members: tuple[int, ...] = ()  # their ids, as it has applied them; () where it knows none
    last_id: int = 0  # the highest id that was ever given there


_decoder = msgspec.msgpack.Decoder(Gossip)


def encode(gossip: Gossip) -> bytes:
    """One whole frame."""
    return frames.plain(Kind.GOSSIP, msgspec.msgpack.encode(gossip))


def decode(frame: bytes) -> Gossip:
    """Raises `MalformedFrame`."""
    try:
        gossip = _decoder.decode(frames.open_plain(frame))
    except frames.UNREADABLE as error:
        raise MalformedFrame(f"a gossip frame cannot be read: {error}") from error
    for report in gossip.groups:
        _check(report)
    if not 0 <= gossip.wall_ms < 1 << 64:
        raise MalformedFrame(f"a gossip frame with a clock out of bounds: {gossip.wall_ms}")
    if not all(0 <= number < 1 << 64 for number in (gossip.members_at, gossip.last_id, *gossip.members)):
        raise MalformedFrame("a gossip frame with a member's id or an index out of bounds")
    return gossip


def _check(report: GroupReport) -> None:
    numbers = (report.group, report.hashed_index, report.free_bytes, report.ambiguous_until)
    if not all(0 <= number < 1 << 64 for number in numbers) or len(report.state_hash) > MAX_HASH_BYTES:
        raise MalformedFrame(f"a gossip frame with a number or hash out of bounds: {report}")
