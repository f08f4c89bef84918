"""What must hold of the memberships of one group (Raft §6; dissertation §4.1 to §4.3).

Knows every membership that was ever written to a log, and which of them are committed. It says by itself which one is
in force for a kernel, and does not take the kernel's word for it:

- the last membership in a log is in force, committed or not; so who is outside of it has no say
- a leader changes the membership when the change before is committed, and an entry of its own term
- any two majorities of neighbouring memberships share a node
- an id that was removed is never a member again
- a node leads only if it votes, or if the change that takes its vote is not committed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from disheap.kernel import membership as memberships
from disheap.kernel.raft import Raft
from disheap.kernel.types import Entry, Index, Membership

Require = Callable[[bool, str], None]


class Change(NamedTuple):
    """A membership in a log. The first one stands at index 0."""

    index: int  # type: ignore[assignment]  # a field; tuple.index is not used
    term: int
    ids: frozenset[int]
    voters: tuple[int, ...]


class MembershipChecks:
    """`committed` has (term, term in which it was seen committed) of each committed index. `require` fails the run."""

    def __init__(self, first: Membership, committed: Mapping[int, tuple[int, int]], require: Require) -> None:
        self.number = 0
        """Grows with each membership that is written or committed."""
        self.removed: dict[int, int] = {}
        """The index at which each former member was removed."""
        self._require = require
        self._committed = committed
        self._changes = [_change(0, 0, first)]  # by index, then by term
        self._last = self._changes[0]  # that is committed
        self._led: dict[int, Change] = {}  # by term: the membership that its leader was last seen to go by
        self._looked: dict[int, tuple[int, int]] = {}  # by term: what was known when its leader was looked at

    # --- what is seen ---

    def appended(self, entry: Entry) -> None:
        """A node writes a membership to its log. The leader has made it, and others may write it first."""
        self._add(_change(entry.index, entry.term, memberships.decode(entry.data)))

    def _add(self, change: Change) -> None:
        if change not in self._changes:
            self._changes.append(change)
            self._changes.sort(key=lambda one: (one.index, one.term))
            self.number += 1

    def committed_at(self, index: int, term: int) -> None:
        """The membership of that index and term is committed."""
        change = next(one for one in self._changes if (one.index, one.term) == (index, term))
        self._check_step(self._last, change)
        for node in self._last.ids - change.ids:
            self.removed[node] = index
        self._last = change
        self.number += 1

    # --- what others ask ---

    @property
    def ids(self) -> frozenset[int]:
        """The members by the last membership that is committed."""
        return self._last.ids

    @property
    def voters(self) -> tuple[int, ...]:
        """The voters by the last membership that is committed."""
        return self._last.voters

    def voter_sets(self) -> list[tuple[int, ...]]:
        """The voters by the last committed membership, and by each one that may still be committed."""
        open_changes = (one for one in reversed(self._changes) if one.index > self._last.index)
        return [self._last.voters, *(one.voters for one in open_changes if one.index not in self._committed)]

    def added_at(self, node: int) -> int:
        """The index of the first membership in a log that has the node."""
        return min(one.index for one in self._changes if node in one.ids)

    def voters_in_force(self, raft: Raft) -> tuple[int, ...]:
        """By the last membership in the log of this kernel."""
        return self._in_force(raft).voters

    # --- what is checked ---

    def check_leader(self, node: int, raft: Raft) -> None:
        """After each step of a leader."""
        term, now = int(raft.term), (self.number, int(raft._state.members.index))
        if self._looked.get(term) == now:
            return
        change = self._in_force(raft)
        self._looked[term] = self.number, now[1]
        if self._led.get(term) == change:
            if change.index <= raft.commit:
                self._require(node in change.voters, f"node {node}: leads term {term}, and has no vote any more")
            return
        before = self._led.get(term)
        self._led[term] = change
        if before is None:
            may_lead = node in change.voters or (change.index > raft.commit and node in self._before(change, raft))
            self._require(may_lead, f"node {node}: leads term {term}, and has no vote in it")
            return
        self._require(
            before.index <= raft.commit and raft.term_at(raft.commit) == raft.term,
            f"node {node}: changes the membership at {change.index}, and that of {before.index} is not committed yet",
        )
        self._check_step(before, change)

    def _check_step(self, before: Change, after: Change) -> None:
        one, other = set(before.voters), set(after.voters)
        shares = len(one) // 2 + 1 + len(other) // 2 + 1 > len(one | other)
        self._require(
            shares, f"entry {after.index} changes voters {sorted(one)} to {sorted(other)}: majorities share no node"
        )
        again = sorted(node for node in after.ids - before.ids if node in self.removed)
        self._require(not again, f"entry {after.index} makes members of {again} again, who were removed")

    def _in_force(self, raft: Raft) -> Change:
        """Also requires that the kernel goes by it. A leader's newest may not have been written anywhere yet. Behind a
        snapshot the kernel knows the oldest by the snapshot's index, and not by that of its entry."""
        newest = raft._state.members.index
        term = int(raft.term_at(newest) or 0) if newest > raft.snapshot_index else 0
        if term and all((one.index, one.term) != (newest, term) for one in self._changes):
            self._add(_change(newest, term, raft.membership))
        change = next(one for one in reversed(self._changes) if self._holds(raft, one))
        known = tuple(int(member.id) for member in raft.membership.members if member.voter)
        self._require(
            known == change.voters,
            f"node {raft.id}: goes by the voters {known}, and the last membership in its log has {change.voters}",
        )
        return change

    def _before(self, change: Change, raft: Raft) -> tuple[int, ...]:
        """The voters by the membership in front of this one."""
        earlier = (one for one in reversed(self._changes) if one.index < change.index)
        return next(one for one in earlier if self._holds(raft, one)).voters

    def _holds(self, raft: Raft, change: Change) -> bool:
        """Whether it is in the log of this kernel, or in the snapshot in front of it."""
        if change.index > raft.last_index:
            return False
        term = raft.term_at(Index(change.index)) if change.index else None
        if term is None:  # at index 0, or behind what the log still holds: only what is committed stands there
            return change.index == 0 or self._committed.get(change.index, (0, 0))[0] == change.term
        return int(term) == change.term


def _change(index: int, term: int, membership: Membership) -> Change:
    voters = tuple(int(member.id) for member in membership.members if member.voter)
    return Change(int(index), int(term), frozenset(int(member.id) for member in membership.members), voters)
