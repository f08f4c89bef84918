"""The file `members`: which other members this node has met, and their incarnations (storage-rules 11). By it a node
that lost its data is recognised for ever.

Owns the file. Does not know what it means (`runtime.membership`). It is written anew at each change: temporary name,
fsync, rename. So it is never a mix of two versions. It holds the same twice, so that no single damage makes it
unreadable. Without it a member that was wiped would pass for a new one. So a file is refused if neither copy can be
read.

offset   size  each copy; the second one at 4096
0        4     magic, "DHA1"
4        4     length of the rest without the checksum
8        n     MessagePack of (whether this node takes part, ((member, incarnation), ...), by member, the voters of
               the newest membership, whether this node was removed, the members of its static list)
8 + n    4     checksum of all before it
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

import msgspec

from disheap.errors import RESTORE, LogDamaged
from disheap.interfaces import KnownPeers
from disheap.protocol.frames import UNREADABLE
from disheap_filelog.filesystem import Filesystem, read_file, write_file

NAME = "members"
MAGIC = b"DHA1"
COPY_AT = (0, 4096)
"""More than two hundred members fit."""

_HEAD = struct.Struct(">4sI")
_CHECKSUM = struct.Struct(">I")


class _Body(msgspec.Struct, array_like=True, frozen=True):
    takes_part: bool
    incarnations: tuple[tuple[int, int], ...]
    voters: tuple[int, ...] = ()
    is_removed: bool = False
    listed: int = 0


_decode = msgspec.msgpack.Decoder(_Body).decode


class Members:
    """`state` is what is durable."""

    def __init__(self, filesystem: Filesystem, directory: str, state: KnownPeers, is_whole: bool) -> None:
        self._filesystem, self._directory = filesystem, directory
        self.state, self._is_whole = state, is_whole

    @classmethod
    def load(cls, filesystem: Filesystem, directory: str, names: Sequence[str]) -> Members:
        """Reads the file. A directory without one was written by an earlier release, and its node has taken part
        already."""
        if NAME not in names:
            return cls(filesystem, directory, KnownPeers(True, ()), True)
        copies = _copies(filesystem, directory)
        found = [copy for copy in copies if copy is not None]
        if not found:
            raise LogDamaged(
                f"{directory}/{NAME}", 0, "neither copy of the list of members that this node has met can be read",
                f"Without it a node that has lost its data, and with them its votes, could vote again. {RESTORE}",
            )  # fmt: skip
        return cls(filesystem, directory, found[0], len(found) == len(COPY_AT))

    def save(self, state: KnownPeers) -> None:
        """Replaces the file with these members. Durable when it returns."""
        write(self._filesystem, self._directory, state)
        self.state, self._is_whole = state, True

    def repair(self) -> None:
        """Writes both copies again if one could not be read."""
        if not self._is_whole:
            self.save(self.state)

    def renew(self) -> str:
        """Compares both copies with the state in memory, and writes them again if one differs (`scrub.Small`)."""
        if all(copy == self.state for copy in _copies(self._filesystem, self._directory)):
            return ""
        self.save(self.state)
        return f"{self._directory}/{NAME}: a copy of whom this node has met had rotted; written again"


def write(filesystem: Filesystem, directory: str, state: KnownPeers) -> None:
    """Writes both copies into a new file and renames it into place. Durable when it returns."""
    body = msgspec.msgpack.encode(_Body(*state))
    copy = _HEAD.pack(MAGIC, len(body)) + body
    copy += _CHECKSUM.pack(crc32(copy))
    assert len(copy) <= COPY_AT[1], "more members than there can be"
    write_file(filesystem, directory, NAME, copy.ljust(COPY_AT[1], b"\0") + copy)


def _copies(filesystem: Filesystem, directory: str) -> list[KnownPeers | None]:
    data = read_file(filesystem, directory, NAME, COPY_AT[1] * len(COPY_AT))
    return [_read(data[offset : offset + COPY_AT[1]]) for offset in COPY_AT]


def _read(data: bytes) -> KnownPeers | None:
    if len(data) < _HEAD.size:
        return None
    magic, length = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    if magic != MAGIC or data[end : end + _CHECKSUM.size] != _CHECKSUM.pack(crc32(data[:end])):
        return None
    try:
        body = _decode(data[_HEAD.size : end])
    except UNREADABLE:
        return None
    return KnownPeers(*msgspec.structs.astuple(body))
