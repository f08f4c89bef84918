"""A member has an incarnation in each group: that of its directory there. It is met when all groups have recorded it.

Combines the results of the groups. Each group has an `IncarnationCheck` of its own. Peers meet as nodes, on one
connection for all groups. So a member that has lost one of its directories is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from disheap.errors import WrongCluster
from disheap.kernel.types import NodeId
from disheap.protocol.peers import PeerHello
from disheap.runtime.membership.incarnations import Done, IncarnationCheck


class IncarnationChecks:
    """`checks` gives the check of each group, in the order of the groups' numbers. `joined` gives the incarnations with
    which a member has joined, by group; () for a member of a static list, and for a stranger."""

    def __init__(
        self,
        checks: Callable[[], Sequence[IncarnationCheck]],
        joined: Callable[[NodeId], tuple[int, ...]] = lambda node: (),
    ) -> None:
        self._checks = checks
        self._joined = joined

    def check(self, node: NodeId, hello: PeerHello) -> None:
        """Raises `WrongCluster` for a member that comes back without the data of a group."""
        checks = self._checks()
        if len(hello.groups) != len(checks):
            raise WrongCluster(
                f"{hello.name} hosts {len(hello.groups)} groups, this node {len(checks)}: set `groups` to the same "
                "number on all nodes"
            )
        joined = self._joined(node) or (0,) * len(checks)
        for check, group, recorded in zip(checks, hello.groups, joined, strict=False):
            check.check(node, hello.name, group.incarnation, recorded)

    def has_met(self, node: NodeId) -> bool:
        """Whether the member is recorded in every group."""
        return all(check.has_met(node) for check in self._checks())

    def meet(self, node: NodeId, hello: PeerHello, done: Done) -> None:
        """Record the member in every group. `done(True)` is called when all are durable, `done(False)` if one could not
        write."""
        join = _Join(len(hello.groups), done)
        for check, group in zip(self._checks(), hello.groups, strict=True):
            check.meet(node, group.incarnation, join.add)

    def welcomed(self, node: NodeId, hello: PeerHello, done: Done) -> None:
        """The member has recorded this node in every group. Record the member as `meet` does."""
        join = _Join(len(hello.groups), done)
        for check, group in zip(self._checks(), hello.groups, strict=True):
            check.welcomed(node, group.incarnation, join.add)


class _Join:
    """Calls `done` once, when `count` answers have come."""

    def __init__(self, count: int, done: Done) -> None:
        self._left = count
        self._are_kept = True
        self._done = done

    def add(self, is_kept: bool) -> None:
        self._left -= 1
        self._are_kept &= is_kept
        if not self._left:
            self._done(self._are_kept)
