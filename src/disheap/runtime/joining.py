"""How a node finds out who it is: from its directory, from its settings, or from the cluster that lets it in.

Owns the search at the start, and what other nodes are told meanwhile. Makes no directory.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError
from disheap.interfaces import IdentityStore, Receiver, Transport
from disheap.kernel.types import NOBODY, NodeId
from disheap.logs import get_logger
from disheap.protocol.handshake import Versions
from disheap.protocol.peers import MembershipRequest, PeerGroup, PeerHello
from disheap.runtime.listeners import RefusingReceiver
from disheap.runtime.membership.directory import AddressBook
from disheap.runtime.membership.origin import NOBODY_YET, Origin, founder, origin_of
from disheap.runtime.parts import Parts
from disheap.runtime.peers.asking import Asker
from disheap.runtime.peers.blank import Blank, BlankNode
from disheap.version import __version__

log = get_logger(__name__)


class JoiningNode(Protocol):
    """What is asked of the node."""

    cluster_id: str
    cluster_name: str
    name: str
    book: AddressBook

    @property
    def peer_address(self) -> str:
        """Where peers reach this node."""

    def wall_ms(self) -> int:
        """Returns this node's wall clock, in milliseconds since the epoch."""


class Joining:
    """`find_origin` once, at the start. `accept` makes the receivers of peers that connect meanwhile. `asker` asks the
    cluster for something later, too. `own` is the id of the node; NOBODY before it has one."""

    def __init__(
        self,
        node: JoiningNode,
        config: NodeConfig,
        parts: Parts,
        secrets: Sequence[bytes],
        entropy: Callable[[int], bytes],
        generator: random.Random,
        versions: Versions,
    ) -> None:
        self.incarnations: tuple[int, ...] = ()
        """The incarnations of the directories that this start makes, by group, if the cluster has let the node in."""
        self._node = node
        self._config = config
        self._parts = parts
        self._secrets = secrets
        self._entropy = entropy
        self._random = generator
        self._versions = versions
        self._blank: BlankNode | None = None  # while this node has no cluster

    async def find_origin(self, transport: Transport) -> Origin:
        """What the data directory says, or the settings, or the cluster that lets this node in. Raises `ConfigError`
        and `WrongDirectory`."""
        config, storage = self._config, self._parts.storage(0)
        stored = storage.stored() if isinstance(storage, IdentityStore) else None
        if storage.durable and not isinstance(storage, IdentityStore) and not (config.members or config.alone):
            raise ConfigError(
                f"the storage {config.storage!r} lacks the power IdentityStore: a node that founds or joins a cluster "
                "learns from it who it is. Use another storage, or a static list (members)"
            )
        return origin_of(config, stored, self._entropy) or await self._join(transport)

    def accept(self) -> Receiver:
        """A peer connects before this node serves."""
        return self._blank.accept() if self._blank is not None else RefusingReceiver()

    def asker(
        self, transport: Transport, request: MembershipRequest, own: NodeId, groups: tuple[PeerGroup, ...]
    ) -> Asker:
        """Returns who asks the cluster for this. `groups` are those of this node."""
        hello = self._hello(request, own, groups)
        loop = asyncio.get_running_loop()
        return Asker(transport, hello, self._secrets, self._entropy, self._versions, loop)

    async def _join(self, transport: Transport) -> Origin:
        """Ask the cluster until it lets this node in."""
        config = self._config
        first = self._first_incarnation()
        self.incarnations = tuple(first + group for group in range(config.groups))
        groups = tuple(map(self._parts.describe, range(config.groups), self.incarnations))
        request = MembershipRequest("join", config.join_as_learner)
        log.info("this node asks to join a cluster", addresses=list(config.join_addresses))
        hello = self._hello(request, NOBODY, groups)
        says = Blank(hello, config.bootstrap, self._secrets, self._entropy, self._versions)
        self._blank = BlankNode(says, asyncio.get_running_loop())
        asker = self.asker(transport, request, NOBODY, groups)
        try:
            answered = await asker.ask_until_answered(config.join_addresses, config.bootstrap)
        finally:
            self._blank.close()
            self._blank = None
        if answered is None:
            log.info("no node at these addresses has a cluster, so this one founds it")
            return founder(config, self._entropy)
        own, cluster_id = NodeId(answered.answer.node_id), answered.hello.cluster_id
        log.info("this node has joined the cluster", id=own, cluster=cluster_id)
        return Origin(cluster_id, own, NOBODY_YET)

    def _first_incarnation(self) -> int:
        """The incarnation of the directories that are made when this node is let in. Group 0 gets its own last. If some
        were made and that one was not, the node broke off between. It asks again with the same incarnations, and gets
        the same id."""
        for group in range(1, self._config.groups):
            storage = self._parts.storage(group)
            stored = storage.stored() if isinstance(storage, IdentityStore) else None
            if stored is not None:
                return stored.identity.incarnation - group
        return self._random.getrandbits(62) | 1

    def _hello(self, request: MembershipRequest, own: NodeId, groups: tuple[PeerGroup, ...]) -> PeerHello:
        node = self._node
        return PeerHello(
            cluster_id=node.cluster_id,
            node_id=own,
            name=node.name,
            target=0,
            client_address=node.book.client(own),
            groups=groups,
            wall_ms=node.wall_ms(),
            release=__version__,
            cluster=node.cluster_name,
            peer_address=node.peer_address,
            request=msgspec.msgpack.encode(request),
        )
