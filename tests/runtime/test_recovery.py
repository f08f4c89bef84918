"""What a node makes of what its storage holds."""

from __future__ import annotations

import random

from disheap.config.node_config import MemberConfig
from disheap.interfaces import Identity, MachineContext, StorageContext
from disheap.kernel.types import Entry, EntryKind, HardState, Index, NodeId, Term
from disheap.plugins.registry import Registry
from disheap.runtime.clocks.log_clock import SystemClock
from disheap.runtime.membership.directory import first_membership, first_state
from disheap.runtime.replica.recovery import Found, recover
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import SessionLimits
from disheap.runtime.state.sessions import Sessions
from disheap.testing.counter import CounterMachine

TAIL_BYTES = 4096
IDENTITY = Identity("cluster", 1, "n1", 7)


def recovered(sizes: list[int]) -> Found:
    """A node that comes back to entries of these sizes, entry n of time 1000 * n."""
    registry = Registry.load()
    codec = registry.codec("none", {}, None)  # type: ignore[arg-type]
    context = StorageContext("nowhere", codec, "none", SystemClock(), random.Random(1))
    storage = registry.build("storage", "memory", {}, context)
    storage.open(IDENTITY, TAIL_BYTES, False)
    storage.save_hard_state(HardState(Term(1), NodeId(0)))
    storage.append(
        [Entry(Term(1), Index(n), EntryKind.COMMANDS, 1000 * n, b"x" * size) for n, size in enumerate(sizes, 1)]
    )
    storage.close()
    return recover(
        storage,
        IDENTITY,
        first_state(first_membership([MemberConfig(f"n{number}", f"{number}:1") for number in (1, 2, 3)])),
        lambda: Sessions(CounterMachine(None, MachineContext()), SessionLimits(), ReplySink()),  # type: ignore[arg-type]
        tail_bytes=TAIL_BYTES,
        chunk_bytes=TAIL_BYTES,
    )


def test_log_time_goes_on_from_the_last_entry() -> None:
    assert recovered([10, 10, 10]).log_time_ms == 3000


def test_log_time_goes_on_from_a_last_entry_larger_than_the_kept_tail() -> None:
    """Time went back for the next leader, and the numbers of its sessions with it (found by the simulator)."""
    found = recovered([10, 10, TAIL_BYTES + 1])
    assert found.log_time_ms == 3000
    assert [entry.index for entry in found.restored.tail] == [3]


def test_an_empty_log_begins_at_no_time() -> None:
    assert recovered([]).log_time_ms == 0
