"""What the replicas of a node have in common, and what they ask of their node. Owns nothing: the node makes it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from disheap.config.node_config import NodeConfig
from disheap.interfaces import Clock
from disheap.kernel.types import Index, Membership, NodeId
from disheap.runtime.clients.acceptor import Acceptor
from disheap.runtime.clocks.member_clocks import MemberClocks
from disheap.runtime.disk.thread import Disk
from disheap.runtime.membership.directory import AddressBook
from disheap.runtime.observers import Observers
from disheap.runtime.parts import Parts
from disheap.runtime.peers.forwarding import ForwardingRouter
from disheap.runtime.peers.peering import Peering


class ReplicaMembership(Protocol):
    """This node as a member of its cluster, as its replicas see it."""

    is_removed: bool
    """Whether the cluster has removed this node."""

    def changed(self) -> None:
        """Another membership of a group is in force, or committed."""

    def applied(self, group: int, index: Index, members: Membership) -> None:
        """A membership of a group is committed and applied."""

    def led(self, group: int, leads: bool) -> None:
        """This node starts or stops leading a group."""


class Shared(NamedTuple):
    """What the replicas of a node have in common."""

    config: NodeConfig
    own: NodeId
    first: Membership  # before the first entry of each group
    needs_welcome: bool  # of all other members, for a directory that is new
    incarnations: tuple[int, ...]  # that were told to the cluster before there were directories; () for others
    loop: asyncio.AbstractEventLoop
    clock: Clock
    member_clocks: MemberClocks
    random: random.Random
    entropy: Callable[[int], bytes]  # for secrets, which the generator's numbers would give away
    make_disk: Callable[[asyncio.AbstractEventLoop], Disk]
    parts: Parts
    book: AddressBook
    membership: ReplicaMembership
    peering: Peering
    acceptor: Acceptor
    observers: Observers
    forwarding: ForwardingRouter


class ReplicaNode(Protocol):
    """What a replica asks of its node."""

    cluster_id: str

    def failed(self, error: BaseException) -> None:
        """End the node with this error."""

    def send_gossip(self) -> None:
        """Tell all peers this node's state now."""

    def check_memory(self) -> None:
        """Compare the use of memory with the mark now."""

    def freed_memory(self) -> None:
        """Work was done that may have freed memory. It goes back to the system."""

    async def admin(self, request: dict[str, Any], group: int) -> dict[str, Any]:
        """Carry out an operator's request about a group. Raises `RequestError`."""
