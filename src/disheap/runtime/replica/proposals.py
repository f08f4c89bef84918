"""What a leader puts into the log beside the commands of clients: changes of the members, marks for snapshots, and
empty entries. Each gets an entry of its own. Owns the conditions under which the leader may propose it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from disheap.errors import ChangeInProgress, NotLeader, RequestError
from disheap.kernel.raft import Raft
from disheap.kernel.types import NOBODY, EntryKind, Index, Membership

MAX_NOOPS_AT_ONCE = 256
"""Empty entries that a leader writes, at most, each time that a peer reports an ambiguous end of its log."""


class ProposingGroup(Protocol):
    """What is asked of the group."""

    raft: Raft

    @property
    def leads(self) -> bool:
        """Whether this node leads the group."""

    @property
    def is_running(self) -> bool:
        """Whether the replica takes part."""

    def now_ms(self) -> int:
        """Returns log time, in milliseconds."""

    def wake(self) -> None:
        """The kernel has a `Ready`: run the pump."""


class Proposals:
    """For the group that this node leads."""

    def __init__(self, group: ProposingGroup) -> None:
        self._group = group

    def mark_snapshot(self) -> None:
        """Have every node snapshot the same index. Raises `NotLeader`, `Overloaded`."""
        group = self._group
        group.raft.propose(EntryKind.SNAPSHOT_MARK, group.now_ms(), b"")
        group.wake()

    def change_members(self, members: Membership) -> Index:
        """Put a membership into the log, one voter apart at most from the one in force. Returns its index. Raises
        `NotLeader`, `InvalidArgument`, and `ChangeInProgress` while an earlier change is not committed."""
        group = self._group
        if not group.leads:
            raise NotLeader()
        if not self.is_change_possible:
            raise ChangeInProgress("an earlier change of the members is not committed yet; repeat in a moment")
        index = group.raft.propose_change(members, group.now_ms())
        group.wake()
        return index

    @property
    def is_change_possible(self) -> bool:
        """Whether the leader has committed in its term, and every change before."""
        raft = self._group.raft
        return raft.has_committed_in_term and raft.membership_index <= raft.commit and raft.transferee == NOBODY

    def fill_until(self, index: int) -> None:
        """Propose empty entries up to `index` + 1, if this node leads. The end of a peer's log is ambiguous. The peer
        does not vote until it has an entry behind `index`."""
        group, raft = self._group, self._group.raft
        missing = min(index + 1 - raft.last_index, MAX_NOOPS_AT_ONCE)
        if not index or missing <= 0 or not (group.leads and group.is_running):
            return
        with suppress(RequestError):  # leadership is being handed over, or more is under way than may be
            for _ in range(missing):
                raft.propose(EntryKind.NOOP, group.now_ms(), b"")
        group.wake()
