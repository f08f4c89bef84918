"""The changes that an operator or a leader may make, as pure functions from one membership to the next.

Each is one server at a time (dissertation §4.1). Owns what is refused: a name that is taken, the last voter, a change
after which no majority would be in touch. Proposes nothing.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from disheap.errors import LastVoter, NameTaken, QuorumAtRisk, UnknownMember
from disheap.kernel.membership import last_id_of, voters_of
from disheap.kernel.quorum import majority
from disheap.kernel.types import Member, Membership, NodeId
from disheap.runtime.membership.directory import MemberRecord, member_of, record_of


def add(old: Membership, record: MemberRecord) -> tuple[NodeId, Membership]:
    """Returns the id of a new learner, and the members with it. Raises `NameTaken`."""
    for member in old.members:
        other = record_of(member)
        if record.name == other.name:
            raise NameTaken(
                f"the cluster has a member called {record.name!r}: node {member.id} at {other.peer}. Give this node "
                f"another name. If it is the same one and has lost its data: disheap node replace {record.name}"
            )
        if record.peer == other.peer:
            raise NameTaken(
                f"node {member.id} ({other.name}) has the peer address {record.peer}. Give this node another one, or "
                f"remove that member: disheap node rm {other.name}"
            )
    node = NodeId(last_id_of(old) + 1)
    return node, insert(old, member_of(node, record, False))


def insert(old: Membership, member: Member) -> Membership:
    """Returns the members with this one, in the order of their ids."""
    return Membership(tuple(sorted((*old.members, member), key=lambda one: one.id)), last_id_of(old))


def remove(old: Membership, node: NodeId) -> Membership:
    """Returns the members without this one. Raises `UnknownMember` and `LastVoter`."""
    find(old, node)
    return _with_voters(old, tuple(one for one in old.members if one.id != node))


def promote(old: Membership, node: NodeId) -> Membership:
    """Returns the members with this one as a voter. Raises `UnknownMember`."""
    record = msgspec.structs.replace(record_of(find(old, node)), is_joining=False)
    return replaced(old, member_of(node, record, True))


def demote(old: Membership, node: NodeId) -> Membership:
    """Returns the members with this one as a learner that stays one. Raises `UnknownMember` and `LastVoter`."""
    record = msgspec.structs.replace(record_of(find(old, node)), is_joining=False)
    return replaced(old, member_of(node, record, False))


def move(old: Membership, node: NodeId, peer: str, client: str) -> Membership:
    """Returns the members with this one's addresses; "" leaves one as it is. Raises `UnknownMember`, and `NameTaken`
    for the peer address of another member."""
    member = find(old, node)
    for other in old.members:
        if peer and other.id != node and record_of(other).peer == peer:
            raise NameTaken(f"node {other.id} ({record_of(other).name}) has the peer address {peer}. Nothing was done")
    record = record_of(member)
    moved = msgspec.structs.replace(record, peer=peer or record.peer, client=client or record.client)
    return replaced(old, member_of(node, moved, member.voter))


def find(old: Membership, node: NodeId) -> Member:
    """Returns the member of this id. Raises `UnknownMember`."""
    for member in old.members:
        if member.id == node:
            return member
    raise UnknownMember(f"the cluster has no member of id {node}. Nothing was done")


def check_quorum(new: Membership, in_touch: Collection[NodeId]) -> None:
    """Raises `QuorumAtRisk` unless a majority of the voters is in touch with the leader."""
    voters = voters_of(new)
    silent = [record_of(one).name or str(one.id) for one in new.members if one.voter and one.id not in in_touch]
    needed = majority(len(voters))
    if len(voters) - len(silent) < needed:
        raise QuorumAtRisk(
            f"after the change {needed} of {len(voters)} voters must be in touch to write anything, and "
            f"{', '.join(silent)} are not. Nothing was done. Start or remove them first. With --force it is done all "
            "the same. Then nothing can be written until they are back. If they never come back the cluster is lost"
        )


def check_other_group(group: int, members: Membership, node: NodeId, in_touch: Collection[NodeId]) -> None:
    """Another group follows when this node has gone from group 0, or has lost its vote there. `members` are those of
    that group. Raises `QuorumAtRisk` unless a majority of its other voters is in touch, to elect a leader that does it.
    """
    voters = [one for one in voters_of(members) if one != node]
    heard = sum(one in in_touch for one in voters)
    if 2 * heard <= len(voters):
        raise QuorumAtRisk(
            f"group {group} has not followed the last changes of the members yet: it has {len(voters)} other voters, "
            f"and {heard} of them are in touch. Nothing was done. Repeat in a moment. With --force it is done all the "
            "same: then nothing may ever be written in that group again"
        )


def replaced(old: Membership, member: Member) -> Membership:
    """Returns the members with this one in the place of the one of its id. Raises `LastVoter`."""
    return _with_voters(old, tuple(member if one.id == member.id else one for one in old.members))


def _with_voters(old: Membership, members: tuple[Member, ...]) -> Membership:
    new = Membership(members, last_id_of(old))
    if not voters_of(new):
        raise LastVoter(
            "the cluster would have no voter. Nothing was done. Promote another member first; to end a cluster, stop "
            "its nodes"
        )
    return new
