"""The members: their records, the first membership, and their addresses.

The kernel knows ids and who votes. The rest of a member is an opaque record in its membership. A client address that
the record does not have is learned at the handshake, and so are new addresses of a member that has moved. Owns what the
node knows of the members, in memory. Changes no membership.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from disheap.config.node_config import MemberConfig
from disheap.errors import ConfigError, UnknownMember
from disheap.kernel.membership import last_id_of
from disheap.kernel.types import NOBODY, Index, Member, Membership, NodeId, SnapshotMeta, Term
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.runtime.replica.versions import Supported

Role = Literal["voter", "joining", "learner"]
"""A node that is joining is a learner that the leader promotes when it is close. A learner stays one."""


class MemberRecord(msgspec.Struct, array_like=True, frozen=True):
    """What the membership in the log holds of each member. Addresses are HOST:PORT. The groups of a node hold the same
    record. Only a node that has joined has incarnations and versions here. Those of a static list are met."""

    name: str
    peer: str
    client: str
    incarnations: tuple[int, ...] = ()  # of its directories, by group
    is_joining: bool = False
    machine_versions: tuple[tuple[int, int], ...] = ()  # the lowest and highest that it ran when it joined, by group
    log_versions: tuple[int, int] = (0, 0)
    release: str = ""  # for people


_decode_record = msgspec.msgpack.Decoder(MemberRecord).decode


def record_of(member: Member) -> MemberRecord:
    """Returns the record. The bytes of an unknown form give a record without a name. Old releases and tests have
    them."""
    try:
        return _decode_record(member.record)
    except msgspec.MsgspecError:
        return MemberRecord("", "", "")


def member_of(node: NodeId, record: MemberRecord, is_voter: bool) -> Member:
    """Returns the member with this record, as the kernel wants it."""
    return Member(node, is_voter, msgspec.msgpack.encode(record))


def role_of(member: Member) -> Role:
    """Returns what the member is, or is to become."""
    if member.voter:
        return "voter"
    return "joining" if record_of(member).is_joining else "learner"


def first_membership(members: Sequence[MemberConfig]) -> Membership:
    """The static list as the state before the first entry: ids 1, 2, ... in the order of the list, all of them voters.
    Every node derives the same."""
    return Membership(
        tuple(
            member_of(NodeId(number), MemberRecord(one.name, one.peer, one.client), True)
            for number, one in enumerate(members, 1)
        )
    )


def first_state(first: Membership) -> SnapshotMeta:
    """The snapshot that a group with this first membership begins with."""
    return SnapshotMeta(Index(0), Term(0), 0, first)


def own_id(members: Sequence[MemberConfig], name: str) -> NodeId:
    """The id of the member with this name. Raises `ConfigError` if there is none."""
    for number, member in enumerate(members, 1):
        if member.name == name:
            return NodeId(number)
    names = ", ".join(member.name for member in members)
    raise ConfigError(f"this node is called {name!r}, but the members are {names}; set NODE_ID to one of them")


def supported_by(group: PeerGroup) -> Supported:
    """The versions that a hello names for a group."""
    return Supported(group.machine_versions, group.log_versions)


class AddressBook:
    """The members by id, this node among them, with what peers have reported of themselves. `follow` it with each
    change."""

    def __init__(
        self,
        members: Membership,
        own: NodeId = NOBODY,
        own_name: str = "",
        configured: Sequence[MemberConfig] = (),
    ) -> None:
        self._own, self._own_name = own, own_name
        self._own_client = ""
        self._configured = {one.name: one.peer for one in configured}
        self._listed = {NodeId(number): one.peer for number, one in enumerate(configured, 1)}
        self._learned: dict[NodeId, PeerHello] = {}
        self._members: dict[NodeId, Member] = {}
        self._records: dict[NodeId, MemberRecord] = {}
        self._last_id = 0
        self.follow((members,), (members,))

    def belongs_to(self, own: NodeId, members: Membership) -> None:
        """This node has found out which member it is, and with which members its log begins."""
        self._own = own
        self.follow((members,), (members,))

    def serves_at(self, client_address: str) -> None:
        """Where clients find this node. It is known when the node listens."""
        self._own_client = client_address

    def follow(self, in_force: Iterable[Membership], committed: Iterable[Membership]) -> None:
        """Take over the memberships of all groups, that of group 0 first. A node is a member while one of them has it.
        Only what is committed tells which ids were given: what is in force may be overwritten, and the id be given to
        another node. A group that lags behind may not have a member yet, so each group has to have given the id. A
        group whose membership is not known counts as one with an empty one."""
        members: dict[NodeId, Member] = {}
        committed = tuple(committed)
        self._last_id = min(map(last_id_of, committed), default=0)
        for membership in (*in_force, *committed):
            for member in membership.members:
                members.setdefault(member.id, member)
        self._members = dict(sorted(members.items()))
        before, self._records = self._records, {node: record_of(one) for node, one in self._members.items()}
        for node, record in self._records.items():
            if node in before and before[node].peer != record.peer:
                self._forget_address(node)
        for node in [one for one in self._learned if self.is_removed(one)]:
            del self._learned[node]

    def learn(self, node: NodeId, hello: PeerHello) -> None:
        """What a peer says of itself at a handshake."""
        self._learned[node] = hello

    def forget_stranger(self, node: NodeId) -> None:
        """The connection of a node is lost. It is dialled no more, unless it is a member."""
        if node not in self._records:
            self._learned.pop(node, None)

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

    def others(self) -> list[NodeId]:
        """The ids of all members but this node."""
        return [node for node in self._records if node != self._own]

    def peers(self) -> list[NodeId]:
        """The ids of all that this node keeps a connection to: the other members, and nodes that have proved that they
        belong to the cluster. This node's own membership may be the one that is stale (pitfall 8).

        A node whose only snapshot is damaged knows no member. It looks for those of its list of members. If it has
        moved as well, nobody would find it otherwise, and it would wait for the others for ever."""
        known = self._records or self._listed
        return sorted({*known, *self._learned} - {self._own})

    def strangers(self) -> list[NodeId]:
        """The ids of those that have proved that they belong to the cluster, and are no members as far as is known."""
        return [node for node in self._learned if node not in self._records]

    def members(self) -> list[Member]:
        """The members, by id."""
        return list(self._members.values())

    def record(self, node: NodeId) -> MemberRecord | None:
        """What the membership holds of the member; None if there is no such member."""
        return self._records.get(node)

    def is_removed(self, node: NodeId) -> bool:
        """Whether every group has had a member of this id or a later one, and none has it any more. Then it never
        comes back."""
        return bool(self._records) and node not in self._records and 0 < node <= self._last_id

    def name(self, node: NodeId) -> str:
        """The member's name, empty if there is no such member."""
        record = self._records.get(node)
        return record.name if record else ""

    def label(self, node: NodeId) -> str:
        """Returns the name for people: the name in the record, or the one from the handshake."""
        if name := self.name(node):
            return name
        if node == self._own:
            return self._own_name
        learned = self._learned.get(node)
        return learned.name if learned else ""

    def peer(self, node: NodeId) -> str:
        """The address for peers: what the member said of itself last, else the record's, else empty."""
        record, learned = self._records.get(node), self._learned.get(node)
        return (learned.peer_address if learned else "") or (record.peer if record else "")

    def peer_addresses(self, node: NodeId) -> list[str]:
        """The addresses at which to look for the member: that of `peer`, and the one in this node's own settings. The
        log may hold old addresses of all members, and then no handshake tells the new ones."""
        listed = self._configured.get(self.name(node), "") if self._records else self._listed.get(node, "")
        found = (self.peer(node), listed)
        return list(dict.fromkeys(address for address in found if address)) or [""]

    def client(self, node: NodeId) -> str:
        """The address for clients: what the member said of itself last, else the record's, else empty."""
        if node == self._own and self._own_client:
            return self._own_client
        record, learned = self._records.get(node), self._learned.get(node)
        return (learned.client_address if learned else "") or (record.client if record else "")

    def clients(self) -> list[str]:
        """The addresses for clients of all members that are known, this node's first."""
        own = "" if self.is_removed(self._own) else self.client(self._own)
        return [address for address in (own, *map(self.client, self.others())) if address]

    def find(self, name: str) -> NodeId:
        """Finds a member by name or by id. Raises `UnknownMember` if there is none."""
        for node, record in self._records.items():
            if record.name == name or str(node) == name:
                return node
        members = ", ".join(map(self.label, self._records))
        raise UnknownMember(f"no member is called {name!r}; the members are {members}. Nothing was done")

    def _forget_address(self, node: NodeId) -> None:
        """The record has a newer address than the handshake."""
        learned = self._learned.get(node)
        if learned is not None:
            self._learned[node] = msgspec.structs.replace(learned, peer_address="", client_address="")
