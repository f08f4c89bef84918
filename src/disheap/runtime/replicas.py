"""The replicas of a node, in the order of their groups' numbers.

Owns what is asked of all of them at once: who runs, which one has failed, who serves a group. What concerns one group
is asked of its replica.
"""

from __future__ import annotations

from disheap.errors import UnknownGroup
from disheap.protocol.peers import PeerGroup
from disheap.runtime.clients.server import Server
from disheap.runtime.hosted_replica import Replica


class Replicas(list[Replica]):
    """Empty until the node starts."""

    def of(self, group: int) -> Replica:
        """This node's part of a group. Raises `UnknownGroup`."""
        if not self.has(group):
            raise UnknownGroup(f"this node has no group {group}; it has 0 to {len(self) - 1}")
        return self[group]

    def has(self, group: int) -> bool:
        """Whether this node hosts the group."""
        return 0 <= group < len(self)

    def running(self) -> list[Replica]:
        """Returns those that take part."""
        return [replica for replica in self if replica.lifecycle.is_running]

    def servers(self) -> dict[int, Server]:
        """Returns the server of each group, by the group's number."""
        return {replica.number: replica.server for replica in self}

    def describe(self) -> tuple[PeerGroup, ...]:
        """Returns what peers are told of each replica when they meet."""
        return tuple(replica.describe() for replica in self)

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the node, if one did."""
        return next((one.lifecycle.error for one in self if one.lifecycle.error is not None), None)

    def fail(self, error: BaseException) -> None:
        """The node ends with `error`: no replica goes on."""
        for replica in self:
            replica.fail(error)
