"""Hard state: the term and the vote, in a file of their own (Raft §5.1). No loss of log files can lose it.

Two slots, each in its own 4 KiB. A save writes the slots in turn, each with an fsync, and returns after both. So at
rest both say the same, and any single one may rot. A crash leaves at least one whole. If the first was torn, the other
holds the state before, and nobody has been told of the new one. The higher generation counts.

A save costs two fsyncs. There is one for each term or vote, not for each append.

    offset  size  slot
    0       4     magic, "DHM1"
    4       1     version, 1
    5       1     1 if the end of the log is ambiguous
    6       2     reserved, 0
    8       8     generation
    16      8     term
    24      8     vote
    32      8     the last index that is certain, where the end of the log is ambiguous
    40      4     checksum of the first 40 bytes
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from disheap.errors import RESTORE, LogDamaged
from disheap.kernel.types import HardState, Index, NodeId, Term
from disheap_filelog.filesystem import File, Filesystem, write_file
from disheap_filelog.formats import check_version

NAME = "meta"
MAGIC = b"DHM1"
VERSION = 1
SLOT_AT = (0, 4096)

_SLOT = struct.Struct(">4sBBHQQQQ")
_CHECKSUM = struct.Struct(">I")
_SLOT_BYTES = _SLOT.size + _CHECKSUM.size


class State(NamedTuple):
    """What the file `meta` holds."""

    generation: int
    hard_state: HardState
    ambiguous_after: Index | None  # kept here because a second crash must not hide what the first may have lost


class Meta:
    """The open file. `state` is what is durable."""

    def __init__(self, file: File, path: str) -> None:
        self._file, self._path = file, path
        slots = self._read()
        found = [slot for slot in slots if slot is not None]
        if not found:
            raise LogDamaged(
                path, 0, "neither copy of the term and the vote can be read",
                f"Without them the node could vote twice in one term. {RESTORE}",
            )  # fmt: skip
        self.state = max(found, key=lambda slot: slot.generation)
        self._compare(slots)

    @classmethod
    def create(cls, filesystem: Filesystem, directory: str) -> None:
        """Writes a new file with term 0, no vote and no ambiguity. Durable when it returns."""
        first = _encode(State(1, HardState(Term(0), NodeId(0)), None))
        write_file(filesystem, directory, NAME, first.ljust(SLOT_AT[1], b"\0") + first)

    @classmethod
    def load(cls, filesystem: Filesystem, directory: str) -> Meta:
        """Opens the file and reads the newer sound slot. Raises `LogDamaged` if neither is sound."""
        path = f"{directory}/{NAME}"
        file = filesystem.open(path)
        try:
            return cls(file, path)
        except BaseException:
            file.close()
            raise

    @classmethod
    def peek(cls, filesystem: Filesystem, directory: str) -> HardState:
        """What a directory that is not known to be this node's says."""
        meta = cls.load(filesystem, directory)
        meta.close()
        return meta.state.hard_state

    def repair(self) -> None:
        """Make both slots say the same again."""
        if not self.is_whole:
            self._write(self.state.hard_state, self.state.ambiguous_after)

    def renew(self) -> str:
        """What a scrub asks (`scrub.Small`)."""
        self._file.drop_cached(0, 0)
        self._compare(self._read())
        if self.is_whole:
            return ""
        self.repair()
        return f"{self._path}: a copy of the term and the vote had rotted; written again"

    def save_hard_state(self, hard_state: HardState) -> None:
        """Saves term and vote in both slots. Durable when it returns."""
        self._write(hard_state, self.state.ambiguous_after)

    def save_ambiguity(self, after: Index | None) -> None:
        """Saves the last index that is certain, or None to end the ambiguity. Durable when it returns."""
        if after != self.state.ambiguous_after:
            self._write(self.state.hard_state, after)

    @property
    def path(self) -> str:
        """The path of the file, for messages."""
        return self._path

    def is_linked(self) -> bool:
        """Whether the file still has its name."""
        return self._file.is_linked()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _read(self) -> list[State | None]:
        return [_decode(self._file.read(_SLOT_BYTES, offset), self._path) for offset in SLOT_AT]

    def _compare(self, slots: list[State | None]) -> None:
        self.is_whole = all(slot == self.state for slot in slots)
        self._order = (1, 0) if slots[0] == self.state else (0, 1)  # the only good slot is never written first

    def _write(self, hard_state: HardState, ambiguous_after: Index | None) -> None:
        state = State(self.state.generation + 1, hard_state, ambiguous_after)
        for number in self._order:
            self._file.write(_encode(state), SLOT_AT[number])
            self._file.sync()
        self.state, self.is_whole = state, True


def _encode(state: State) -> bytes:
    generation, (term, vote), after = state
    body = _SLOT.pack(MAGIC, VERSION, after is not None, 0, generation, term, vote, after or 0)
    return body + _CHECKSUM.pack(crc32(body))


def _decode(data: bytes, path: str) -> State | None:
    """None for a slot that is not sound. Raises `VersionUnsupported`."""
    if len(data) < _SLOT_BYTES or _CHECKSUM.unpack_from(data, _SLOT.size)[0] != crc32(data[: _SLOT.size]):
        return None
    magic, version, is_ambiguous, _, generation, term, vote, after = _SLOT.unpack_from(data)
    if magic != MAGIC:
        return None
    check_version(path, version, VERSION)
    return State(generation, HardState(Term(term), NodeId(vote)), Index(after) if is_ambiguous else None)
