"""Whose data these are: the file `identity`. Written once, last of all when the directory is made.

offset  size
0       4     magic, "DHI1"
4       4     length of the rest without the checksum
8       n     MessagePack of (cluster_id, node_id, name, incarnation)
8 + n   4     checksum of all before it
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from zlib import crc32

import msgspec

from disheap.errors import RESTORE, LogDamaged, WrongDirectory
from disheap.interfaces import Identity
from disheap.protocol.frames import UNREADABLE
from disheap_filelog.filesystem import TEMPORARY, Filesystem, read_file, write_file
from disheap_filelog.segments import segment
from disheap_filelog.small_files import meta
from disheap_filelog.small_files.meta import Meta
from disheap_filelog.snapshots import snapshot

NAME = "identity"
MAGIC = b"DHI1"
_HEAD = struct.Struct(">4sI")
_CHECKSUM = struct.Struct(">I")
_LIMIT_BYTES = 64 << 10  # a name and a cluster id are short


class Owner:
    """`identity` is what the file said when the directory was opened."""

    def __init__(self, filesystem: Filesystem, directory: str) -> None:
        self._filesystem, self._directory = filesystem, directory
        self.identity = read(filesystem, directory)

    def renew(self) -> str:
        """What a scrub asks (`scrub.Small`)."""
        if read_file(self._filesystem, self._directory, NAME, _LIMIT_BYTES) == _encode(self.identity):
            return ""
        write(self._filesystem, self._directory, self.identity)
        return f"{self._directory}/{NAME}: what says whose data these are had rotted; written again"


def write(filesystem: Filesystem, directory: str, identity: Identity) -> None:
    """Writes the file `identity`. Durable when it returns."""
    write_file(filesystem, directory, NAME, _encode(identity))


def read(filesystem: Filesystem, directory: str) -> Identity:
    """Reads the file `identity`. Raises `LogDamaged` if its checksum does not hold."""
    path = f"{directory}/{NAME}"
    data = read_file(filesystem, directory, NAME, _LIMIT_BYTES)
    body, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
    sound = len(data) >= _HEAD.size + _CHECKSUM.size and _CHECKSUM.pack(crc32(body)) == checksum
    fields = _fields(body[_HEAD.size :]) if sound and body[:4] == MAGIC else None
    if fields is None:
        raise LogDamaged(
            path, 0, "the file that says whose data these are cannot be read",
            RESTORE,
        )  # fmt: skip
    return Identity(*fields)


def check_unused(filesystem: Filesystem, directory: str, names: Sequence[str], empty_bytes: int) -> None:
    """Raises `WrongDirectory` if there is no identity and yet somebody's data. Data are a term, a snapshot, a second
    file of the log, or a first one larger than an empty one."""
    first = segment.file_name(1)
    kept = (segment.PREFIX, snapshot.PREFIX)
    held = [name for name in names if name.startswith(kept) and name != first and not name.endswith(TEMPORARY)]
    if meta.NAME in names and Meta.peek(filesystem, directory).term:
        held.append(meta.NAME)
    if first in names:
        file = filesystem.open(f"{directory}/{first}")
        held += [first] if file.size() > empty_bytes else []
        file.close()
    if held:
        raise WrongDirectory(
            f"{directory} holds {held[0]} and no file '{NAME}' that says whose data these are. Restore that file from "
            "a copy, or point data_dir at an empty directory; nothing was changed"
        )


def _encode(identity: Identity) -> bytes:
    fields = (identity.cluster_id, identity.node_id, identity.name, identity.incarnation)
    body = msgspec.msgpack.encode(fields)
    data = _HEAD.pack(MAGIC, len(body)) + body
    return data + _CHECKSUM.pack(crc32(data))


def _fields(packed: bytes) -> tuple[str, int, str, int] | None:
    try:
        return msgspec.msgpack.decode(packed, type=tuple[str, int, str, int])
    except UNREADABLE:
        return None


def check(stored: Identity, given: Identity, directory: str) -> None:
    """The incarnation given is ignored: it was drawn for a directory that turned out to exist."""
    if (stored.cluster_id, stored.node_id, stored.name) == (given.cluster_id, given.node_id, given.name):
        return
    remedy = "Point data_dir at this node's own directory"
    if (stored.node_id, stored.name) == (given.node_id, given.name):
        remedy = (
            "The directory was made with another cluster name, or with other names, peer addresses or another order of "
            "the members. Set them back, here and on the other nodes"
        )
    raise WrongDirectory(
        f"{directory} belongs to node {stored.node_id} ({stored.name}) of cluster {stored.cluster_id}, and this is "
        f"node {given.node_id} ({given.name}) of cluster {given.cluster_id}. {remedy}; nothing was changed"
    )
