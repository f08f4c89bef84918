"""A state machine that counts, to prove that the runtime knows no heaps.

    b"+N"    adds N (a decimal number, perhaps negative): replies the total and pushes it to the session
    any query is answered with the total

The total is decimal text, everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import ClassVar

import msgspec

from disheap.errors import SnapshotDamaged, UnknownCommand
from disheap.interfaces import Effects, MachineContext

_ADD = re.compile(rb"\+(-?[0-9]{1,18})")
_SNAPSHOT = re.compile(rb"counter (-?[0-9]{1,40});")


class CounterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class CounterMachine:
    name: ClassVar[str] = "counter"
    api: ClassVar[int] = 1
    versions: ClassVar[tuple[int, int]] = (1, 1)
    Settings: ClassVar[type[msgspec.Struct]] = CounterSettings

    def __init__(self, settings: CounterSettings, context: MachineContext) -> None:
        self._total = 0

    def set_version(self, version: int) -> None:
        pass

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        found = _ADD.fullmatch(command)
        if found is None:
            raise UnknownCommand("the counter knows +N alone")
        self._total += int(found.group(1))
        return self._text(), ((session, self._text()),)

    def advance(self, time_ms: int, limit: int) -> tuple[int, Effects]:
        return 0, ()

    def backlog(self) -> bool:
        return False

    def next_deadline(self) -> int | None:
        return None

    def session_opened(self, session: int) -> None:
        pass

    def session_attached(self, session: int, held: bytes) -> tuple[bytes, Effects]:
        return b"", ()

    def session_detached(self, session: int) -> Effects:
        return ()

    def session_expired(self, session: int) -> Effects:
        return ()

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        return self._text()

    def snapshot(self) -> Iterator[bytes]:
        return iter([b"counter %d;" % self._total])

    def restore(self, chunks: Iterable[bytes]) -> None:
        found = _SNAPSHOT.fullmatch(b"".join(chunks))
        if found is None:
            raise SnapshotDamaged("not a counter's snapshot")
        self._total = int(found.group(1))

    def state_hash(self) -> bytes:
        return blake2b(self._text(), digest_size=16).digest()

    def stats(self) -> dict[str, int]:
        return {"total": self._total}

    def sample_commands(self) -> list[bytes]:
        return [b"+1", b"+-20", b"+300"]

    def _text(self) -> bytes:
        return b"%d" % self._total
