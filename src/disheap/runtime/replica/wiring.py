"""What a replica gives to its group beside the parts: bounds and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from disheap.kernel.types import Index, Membership, Message
from disheap.runtime.state.sessions import Sessions


class GroupLimits(msgspec.Struct, frozen=True):
    """The bounds of one group, from `[raft]` and `[limits]`. Units are in the names."""

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
    failed: Callable[[BaseException], None]
    """Called once, with the error that ends the group."""
    snapshot_taken: Callable[[Index, int], None]
    """A snapshot is durable: its index and size in bytes."""
    membership_changed: Callable[[Index, Membership], None]
    """A change of the members is applied."""
    replaced: Callable[[Sessions], None]
    """An installed snapshot has replaced this state."""
