"""What a replica gives to its group: parts, bounds and callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from disheap.interfaces import Clock, Storage
from disheap.kernel.types import Index, Membership, Message
from disheap.runtime.clocks.clock_check import ClockCheck
from disheap.runtime.disk.thread import Disk
from disheap.runtime.replica.lifecycle import Lifecycle
from disheap.runtime.replica.snapshots import SnapshotPolicy
from disheap.runtime.state.sessions import Sessions
from disheap.runtime.state.state_hashes import StateComparison


class GroupParts(NamedTuple):
    """What the group works with and does not own. The disk is the thread that the storage runs on."""

    loop: asyncio.AbstractEventLoop
    clock: Clock
    storage: Storage
    disk: Disk
    fresh_sessions: Callable[[], Sessions]
    clock_check: ClockCheck
    comparing: StateComparison
    lifecycle: Lifecycle


class GroupLimits(msgspec.Struct, frozen=True):
    """The bounds of one group, from `[raft]` and `[limits]`. Units are in the names."""

    snapshots: SnapshotPolicy
    entry_bytes: int
    gather_bytes: int
    max_clock_jump_ms: int
    chunk_bytes: int
    contact_s: float = 1.0  # a member that has not answered for so long is out of touch


class GroupCallbacks(NamedTuple):
    """Called on the loop, in the order of what happens."""

    send: Callable[[Message], None]
    """A message to a peer."""
    flush: Callable[[], bool]
    """Hand the queued frames to the network. Returns whether all of them were written."""
    lead: Callable[[bool], None]
    """This node starts (True) or stops leading."""
    leader: Callable[[], None]
    """Another node leads, or nobody is known to."""
    applied: Callable[[], None]
    """A batch is applied."""
    worked: Callable[[], None]
    """Part of a batch is applied, and may have freed memory."""
    failed: Callable[[BaseException], None]
    """Called once, with the error that ends the group."""
    snapshot_taken: Callable[[Index, int], None]
    """A snapshot is durable: its index and size in bytes."""
    membership_changed: Callable[[Index, Membership], None]
    """A change of the members is applied."""
    membership_in_force: Callable[[], None]
    """Another membership is in force: it was appended, overwritten, or came with a snapshot."""
    replaced: Callable[[Sessions], None]
    """An installed snapshot has replaced this state."""
