"""What is in the keys. Each key is the prefix, a hash of the group's directory in braces, and a name.

| key | type | field -> value |
|---|---|---|
| `meta` | hash | `format`: 1; `owner`: who has it open; `identity`, `hard`, `peers`: MessagePack; see below |
| `index` | hash | number of a block -> `Block`, in MessagePack |
| `blocks` | hash | number of a block -> the entries of one append, in MessagePack, encoded by the codec |
| `streams` | hash | number of a stream -> its preamble |
| `snapshots` | hash | index of a snapshot -> `Snapshot`, in MessagePack |
| `parts` | set | the ids of all snapshots that have parts, unfinished ones included |
| `part:ID` | hash | number of a part -> a piece of the snapshot, encoded by the codec |

In `meta`, `codec` is the name of the codec. `base` is the index at which an empty log continues. `run_id` is the
server's when the storage was opened last. `ambiguous` is the last index behind which entries may have been lost, or
absent.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from disheap.interfaces import Identity, KnownPeers
from disheap.kernel.types import Entry, EntryKind, HardState, Index, Member, Membership, NodeId, SnapshotMeta, Term

FORMAT = 1


class Block(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The entries of one append. `position` is its place in the stream `stream`, and its number."""

    position: int
    first: int
    last: int
    raw_bytes: int
    stored_bytes: int
    checksum: int  # CRC-32 of what is stored
    stream: int
    runs: tuple[tuple[int, int], ...]  # (first index, term)
    memberships: tuple[tuple[int, bytes], ...]

    @property
    def memory_bytes(self) -> int:
        """An estimate."""
        return 250 + sum(len(data) for _, data in self.memberships)


class Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """A committed snapshot. Its parts are in `part:ID`. `starts`: raw offset of each part, and the size of all."""

    id: str
    index: int
    term: int
    time_ms: int
    membership: tuple[tuple[tuple[int, bool, bytes], ...], int]
    preamble: bytes
    starts: tuple[int, ...]
    checksums: tuple[int, ...]
    stored_bytes: int

    @property
    def meta(self) -> SnapshotMeta:
        """As the kernel knows it."""
        members, last_id = self.membership
        membership = Membership(tuple(Member(NodeId(one), voter, data) for one, voter, data in members), last_id)
        return SnapshotMeta(Index(self.index), Term(self.term), self.time_ms, membership)


encode = msgspec.msgpack.Encoder().encode
decode_block = msgspec.msgpack.Decoder(Block).decode
decode_snapshot = msgspec.msgpack.Decoder(Snapshot).decode
decode_entries = msgspec.msgpack.Decoder(tuple[Entry, ...]).decode
decode_identity = msgspec.msgpack.Decoder(Identity).decode
decode_hard = msgspec.msgpack.Decoder(HardState).decode
decode_peers = msgspec.msgpack.Decoder(KnownPeers).decode
UNREADABLE = (msgspec.MsgspecError, RecursionError)


def membership_of(meta: SnapshotMeta) -> tuple[tuple[tuple[int, bool, bytes], ...], int]:
    """For `Snapshot.membership`."""
    return tuple(tuple(member) for member in meta.membership.members), meta.membership.last_id  # type: ignore[misc]


def runs_of(entries: Any) -> tuple[tuple[int, int], ...]:
    """The table of terms of some entries."""
    runs: list[tuple[int, int]] = []
    for entry in entries:
        if not runs or runs[-1][1] != entry.term:
            runs.append((entry.index, entry.term))
    return tuple(runs)


def memberships_of(entries: Any) -> tuple[tuple[int, bytes], ...]:
    """The membership entries among them."""
    return tuple((entry.index, entry.data) for entry in entries if entry.kind == EntryKind.MEMBERSHIP)


checksum_of = zlib.crc32
