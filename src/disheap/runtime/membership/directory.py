"""The members: their records, the first membership, and their addresses.

The kernel knows ids and who votes. The rest of a member is an opaque record in its membership: name, incarnation, the
addresses for peers and for clients. A client address that the configuration did not give is learned at the handshake.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from disheap.config.node_config import MemberConfig
from disheap.errors import ConfigError
from disheap.kernel.types import NOBODY, Index, Member, Membership, NodeId, SnapshotMeta, Term
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.runtime.replica.versions import Supported


class MemberRecord(msgspec.Struct, array_like=True, frozen=True):
    """What the membership in the log holds of each member. Addresses are HOST:PORT."""

    name: str
    peer: str
    client: str
    incarnation: int = 0


def first_membership(members: Sequence[MemberConfig]) -> Membership:
    """The static list as the state before the first entry: ids 1, 2, ... in the order of the list, all of them voters.
    Every node derives the same."""
    return Membership(
        tuple(
            Member(NodeId(number), True, msgspec.msgpack.encode(MemberRecord(m.name, m.peer, m.client)))
            for number, m in enumerate(members, 1)
        )
    )


def first_state(members: Sequence[MemberConfig]) -> SnapshotMeta:
    """The snapshot that a group of these members begins with."""
    return SnapshotMeta(Index(0), Term(0), 0, first_membership(members))


def own_id(members: Sequence[MemberConfig], name: str, peer: str) -> NodeId:
    """The id of the member with this name, or, where names are addresses, with this peer address."""
    for number, member in enumerate(members, 1):
        if member.name == name or (member.name == member.peer and member.peer == peer):
            return NodeId(number)
    names = ", ".join(member.name for member in members)
    raise ConfigError(f"this node is called {name!r}, but the members are {names}; set NODE_ID to one of them")


def supported_by(group: PeerGroup) -> Supported:
    """The versions that a hello names for a group."""
    return Supported(group.machine_versions, group.log_versions)


class AddressBook:
    """The members by id, with what peers have reported of themselves."""

    def __init__(self, members: Membership, own: NodeId = NOBODY, own_name: str = "") -> None:
        self._own, self._own_name = own, own_name
        self._records = _records(members)
        self._learned: dict[NodeId, PeerHello] = {}

    def learn(self, node: NodeId, hello: PeerHello) -> None:
        """What a peer says of itself at a handshake."""
        self._learned[node] = hello

    def learned(self, node: NodeId) -> PeerHello | None:
        """What the member said of itself when it connected last; None if it has not been heard of."""
        return self._learned.get(node)

    def versions(self, own: NodeId, group: int) -> list[Supported] | None:
        """What all other members run in a group; None while one of them has not been heard of."""
        others = [self._learned.get(node) for node in self._records if node != own]
        return None if None in others else [supported_by(hello.groups[group]) for hello in others if hello is not None]

    def ids(self) -> list[NodeId]:
        """The ids of the members, in ascending order."""
        return list(self._records)

    def name(self, node: NodeId) -> str:
        """The member's name, empty if there is no such member."""
        record = self._records.get(node)
        return record.name if record else ""

    def label(self, node: NodeId) -> str:
        """Returns the name for people: the name in the record or, if that is only the address, the name from the
        handshake. That name is not proved."""
        name = self.name(node)
        if name != self.peer(node):
            return name
        if node == self._own:
            return self._own_name or name
        learned = self._learned.get(node)
        return (learned.name if learned else "") or name

    def peer(self, node: NodeId) -> str:
        """The address for peers, empty if it is not known."""
        record = self._records.get(node)
        return record.peer if record else ""

    def client(self, node: NodeId) -> str:
        """The address for clients: the record's, else what the member said of itself, else empty."""
        record, learned = self._records.get(node), self._learned.get(node)
        return (record.client if record else "") or (learned.client_address if learned else "")

    def find(self, name: str) -> NodeId:
        """Finds a member by name, by id, or by a unique label. Raises `ConfigError` if there is none."""
        for node, record in self._records.items():
            if record.name == name or str(node) == name:
                return node
        labelled = [node for node in self._records if self.label(node) == name]
        if len(labelled) == 1:
            return labelled[0]
        raise ConfigError(f"no member is called {name!r}; the members are {', '.join(map(self.label, self._records))}")


def _records(members: Membership) -> dict[NodeId, MemberRecord]:
    return {m.id: msgspec.msgpack.decode(m.record, type=MemberRecord) for m in members.members}
