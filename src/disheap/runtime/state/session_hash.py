"""The part of a state's hash that is the session table's. Equal at equal index on all replicas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from disheap.protocol.frames import Fault, Status
from disheap.runtime.state import state_format
from disheap.runtime.state.session_table import Kept, Session

_encode = msgspec.msgpack.encode


def hashed_sessions(sessions: Iterable[Session]) -> Iterator[bytes]:
    """Bytes to be hashed, in pieces of so many records that each is made in a millisecond. Of a refusal only the code
    counts: its text may come from a library, whose next release may word it differently."""
    gathered: list[bytes] = []
    for s in sessions:
        gathered.append(_encode((s.facts, s.address, s.attachment, s.confirmed, len(s.replies))))
        for seq, kept in s.replies.items():
            gathered.append(_encode((seq, _without_text(kept))))
            if len(gathered) >= state_format.RECORDS_AT_ONCE:
                yield b"".join(gathered)
                gathered.clear()
        if len(gathered) >= state_format.RECORDS_AT_ONCE:
            yield b"".join(gathered)
            gathered.clear()
    yield b"".join(gathered)


def _without_text(kept: Kept) -> Kept:
    index, status, body = kept
    if status == Status.OK:
        return kept
    return index, status, msgspec.msgpack.decode(body, type=Fault).code.encode()
