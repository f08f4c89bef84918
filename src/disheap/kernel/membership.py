"""Who belongs to the group (Raft §6; dissertation §4.1 to §4.4).

Single-server changes: a membership is in force from the moment its entry is appended, and out of force again when that
entry is truncated. Owns the history of memberships since the last snapshot and the encoding of one. Does not decide
whether this node may propose a change. Replication does, which knows what is committed.

Ids are never reused. An acknowledgement of a removed member that comes late would count for another node otherwise, if
both had one id in one term. So a membership remembers the highest id that was ever given.

Encoding, big-endian. Version 2 is written only if the member with the highest id is gone:

    offset  size  field
    0       1     version, 1 or 2
    1       4     number of members
    5       8     in version 2: the highest id that was ever given
    then for each member, by ascending id:
    0       8     id
    8       1     1 for a voter, 0 for a learner
    9       4     length of the record
    13      n     record
"""

from __future__ import annotations

import struct

from disheap.errors import InvalidArgument, ProtocolError
from disheap.kernel.quorum import VoterSets
from disheap.kernel.types import Index, Member, Membership, NodeId

VERSION, VERSION_WITH_LAST_ID = 1, 2
_HEAD = struct.Struct(">BI")
_LAST_ID = struct.Struct(">Q")
_MEMBER = struct.Struct(">QBI")


class Memberships:
    """The memberships by the index that brought them, the oldest being the snapshot's, the last one in force."""

    def __init__(self, index: Index, membership: Membership) -> None:
        self.reset(index, membership)

    def reset(self, index: Index, membership: Membership) -> None:
        """A snapshot replaced the log, and every membership in it."""
        self._history = [(index, membership)]
        self._came_into_force()

    def append(self, index: Index, membership: Membership) -> None:
        """A membership was appended at `index`. It is in force at once (dissertation §4.1)."""
        self._history.append((index, membership))
        self._came_into_force()

    def roll_back(self, index: Index) -> None:
        """The log was truncated at `index`; what was appended there or later is out of force."""
        if self.index < index:
            return
        while self._history[-1][0] >= index:
            self._history.pop()
        self._came_into_force()

    def forget_before(self, index: Index) -> None:
        """A snapshot stands at `index`: what was in force there is the oldest that can be asked for."""
        while len(self._history) > 1 and self._history[1][0] <= index:
            self._history.pop(0)

    def at(self, index: Index) -> Membership:
        """The membership in force at `index`."""
        for start, membership in reversed(self._history):
            if start <= index:
                return membership
        return self._history[0][1]

    def may_lead(self, node: NodeId, commit: Index) -> bool:
        """A voter, or one that an uncommitted change takes the vote from. It may be the only one that has the change,
        and then nobody else can win (dissertation §4.2.2)."""
        return node in self.voters or (self.index > commit and node in voters_of(self._history[-2][1]))

    def _came_into_force(self) -> None:
        self.index, self.current = self._history[-1]
        self.voters = voters_of(self.current)
        self.voter_sets: VoterSets = (self.voters,)
        self.ids = frozenset(member.id for member in self.current.members)  # to look up in, never to walk


def voters_of(membership: Membership) -> tuple[NodeId, ...]:
    """The ids of the voters, in ascending order."""
    return tuple(member.id for member in membership.members if member.voter)


def last_id_of(membership: Membership) -> int:
    """The highest id that was ever given to a member; 0 if there was none."""
    return max((membership.last_id, *(member.id for member in membership.members)))


def check_change(old: Membership, new: Membership) -> None:
    """Refuse a membership that is no single-server step from the last (dissertation §4.1). Any two majorities of
    neighbouring memberships share a member only if one voter at most differs. Refuse an id that was given before."""
    ids = [member.id for member in new.members]
    if ids != sorted(set(ids)) or (ids and ids[0] <= 0):
        raise InvalidArgument("members must have distinct positive ids, in ascending order")
    changed = set(voters_of(old)) ^ set(voters_of(new))
    if len(changed) > 1:
        raise InvalidArgument(f"{len(changed)} voters change at once; change one, wait until it is committed, repeat")
    if not voters_of(new):
        raise InvalidArgument("a group needs at least one voter")
    known, last_id = {member.id for member in old.members}, last_id_of(old)
    reused = [one for one in ids if one not in known and one <= last_id]
    if reused:
        raise InvalidArgument(f"ids are never reused: a new member gets an id above {last_id}")


def encode(membership: Membership) -> bytes:
    """The bytes of a membership as the log and the snapshots hold them."""
    count, highest = len(membership.members), max((member.id for member in membership.members), default=0)
    if membership.last_id > highest:
        parts = [_HEAD.pack(VERSION_WITH_LAST_ID, count), _LAST_ID.pack(membership.last_id)]
    else:
        parts = [_HEAD.pack(VERSION, count)]
    for member in membership.members:
        parts.append(_MEMBER.pack(member.id, member.voter, len(member.record)))
        parts.append(member.record)
    return b"".join(parts)


def decode(data: bytes) -> Membership:
    """Raises `ProtocolError` for bytes that `encode` never makes."""
    try:
        version, count = _HEAD.unpack_from(data, 0)
        if version not in (VERSION, VERSION_WITH_LAST_ID):
            known = f"{VERSION} and {VERSION_WITH_LAST_ID}"
            raise ProtocolError(f"membership of version {version}; this node reads versions {known}")
        members, offset, last_id = [], _HEAD.size, 0
        if version == VERSION_WITH_LAST_ID:
            (last_id,) = _LAST_ID.unpack_from(data, offset)
            offset += _LAST_ID.size
        for _ in range(count):
            member, offset = _decode_member(data, offset)
            members.append(member)
    except struct.error as error:
        raise ProtocolError(f"membership ends early: {error}") from error
    if offset != len(data):
        raise ProtocolError(f"membership has {len(data) - offset} bytes too many")
    return Membership(tuple(members), last_id)


def _decode_member(data: bytes, offset: int) -> tuple[Member, int]:
    identity, voter, length = _MEMBER.unpack_from(data, offset)
    start = offset + _MEMBER.size
    record = data[start : start + length]
    if len(record) != length or voter > 1:
        raise ProtocolError(f"member {identity} cannot be read")
    return Member(NodeId(identity), bool(voter), record), start + length
