"""What a node counts of its own memory against what CPython really allocates: log, replies, sessions."""

from __future__ import annotations

import msgspec
import pytest
from tests.support.memory import held_bytes

from disheap.interfaces import MachineContext
from disheap.kernel.log import Log
from disheap.kernel.types import Entry, EntryKind, HardState, Index, Membership, NodeId, Restored, SnapshotMeta, Term
from disheap.protocol import frames
from disheap.protocol.frames import Kind, Opening
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import SESSION_BYTES, SessionLimits, proof_of
from disheap.runtime.state.sessions import Sessions
from disheap.testing.counter import CounterMachine, CounterSettings

ROUNDS = 4000
FACTOR = 1.5


def check(real: int, estimate: int) -> None:
    assert real / FACTOR < estimate < real * FACTOR, f"{real // ROUNDS} bytes each, estimated {estimate // ROUNDS}"


def entry(index: int, *envelopes: bytes) -> Entry:
    return Entry(Term(1000), Index(index), EntryKind.COMMANDS, 1_700_000_000_000 + index, b"".join(envelopes))


def command(session: int, seq: int, body: bytes, confirmed: int = 0) -> bytes:
    return frames.envelope(Kind.COMMAND, 0, session, seq, confirmed, body)


@pytest.mark.parametrize("size", [0, 100, 4000])
def test_the_estimate_of_the_log_in_memory_is_right_for_entries_of_every_size(size: int) -> None:
    """25,000 small entries took three times what was counted for them, and more with the storage's index of them."""
    empty = SnapshotMeta(Index(0), Term(0), 0, Membership(()))
    log = Log(Restored(HardState(Term(0), NodeId(0)), empty, Index(1), Index(0), (), (), ()), 1 << 30)

    def grow() -> None:
        for index in range(1, ROUNDS + 1):
            log.append([entry(index, command(10**9 + index, index, bytes(size)))])

    check(held_bytes(grow), log.cache_bytes)


def sessions() -> Sessions:
    limits = SessionLimits(window=1 << 20, reply_bytes=1 << 30)
    return Sessions(CounterMachine(CounterSettings(), MachineContext()), limits, ReplySink())


def opening(attachment: int) -> bytes:
    content = Opening(5000, "a worker on one of many hosts", "", "10.0.0.7", proof_of(b"%016d" % attachment))
    return frames.envelope(Kind.OPEN, 0, 0, attachment, 0, msgspec.msgpack.encode(content))


def test_the_estimate_of_a_session_is_right() -> None:
    state = sessions()

    def grow() -> None:
        for index in range(1, ROUNDS + 1):
            state.apply(entry(index, opening(index)))

    check(held_bytes(grow), SESSION_BYTES * ROUNDS)


@pytest.mark.parametrize("body", [b"+1", b"refused", b"echo" * 250])
def test_the_estimate_of_a_kept_reply_is_right(body: bytes) -> None:
    state = sessions()
    state.apply(entry(1, opening(1)))
    [session] = state.table

    def grow() -> None:
        for seq in range(1, ROUNDS + 1):
            state.apply(entry(1 + seq, command(session, seq, body)))

    check(held_bytes(grow), state.reply_bytes)
