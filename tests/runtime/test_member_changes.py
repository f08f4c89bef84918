"""The rules of changes, as pure functions; when a learner is close; which cluster a node belongs to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from disheap.config.node_config import MemberConfig, NodeConfig
from disheap.errors import LastVoter, NameTaken, QuorumAtRisk, UnknownMember, WrongDirectory
from disheap.interfaces import Identity, KnownPeers, StoredIdentity
from disheap.kernel.membership import voters_of
from disheap.kernel.raft import PeerStatus
from disheap.kernel.types import Index, Membership, NodeId
from disheap.protocol.gossip import Gossip
from disheap.protocol.peers import PeerHello
from disheap.runtime.membership import changes
from disheap.runtime.membership.directory import (
    AddressBook,
    MemberRecord,
    first_membership,
    member_of,
    record_of,
    role_of,
)
from disheap.runtime.membership.origin import origin_of
from disheap.runtime.membership.rounds import Rounds
from disheap.runtime.membership.steering import Steering

THREE = first_membership([MemberConfig(f"n{number}", f"n{number}:8300") for number in (1, 2, 3)])
ONE, TWO, LAST = NodeId(1), NodeId(2), NodeId(3)


def joining(name: str, peer: str = "") -> MemberRecord:
    return MemberRecord(name, peer or f"{name}:8300", "", (7,), is_joining=True)


def test_a_new_member_is_a_learner_with_an_id_that_nobody_had() -> None:
    gone = changes.remove(THREE, LAST)
    node, members = changes.add(gone, joining("n4"))
    assert node == 4, "3 was given before"
    assert [role_of(one) for one in members.members] == ["voter", "voter", "joining"]


@pytest.mark.parametrize("record", [joining("n2", "elsewhere:8300"), joining("n4", "n2:8300")])
def test_a_name_and_an_address_belong_to_one_member(record: MemberRecord) -> None:
    with pytest.raises(NameTaken, match="n2"):
        changes.add(THREE, record)


def test_roles_change_and_the_rest_of_a_record_stays() -> None:
    node, members = changes.add(THREE, joining("n4"))
    promoted = changes.find(changes.promote(members, node), node)
    assert (role_of(promoted), record_of(promoted).incarnations) == ("voter", (7,))
    assert role_of(changes.find(changes.demote(members, node), node)) == "learner", "it is not promoted by itself"
    moved = record_of(changes.find(changes.move(members, node, "there:8300", ""), node))
    assert (moved.peer, moved.name, moved.is_joining) == ("there:8300", "n4", True)


def test_what_cannot_be_is_refused() -> None:
    alone = changes.remove(changes.remove(THREE, LAST), TWO)
    for change in (changes.remove, changes.demote):
        with pytest.raises(LastVoter):
            change(alone, ONE)
        with pytest.raises(UnknownMember):
            change(alone, LAST)
    with pytest.raises(NameTaken):
        changes.move(THREE, ONE, "n2:8300", "")


@pytest.mark.parametrize(("in_touch", "is_safe"), [((1, 2), True), ((1, 3), False), ((1, 2, 3), True)])
def test_a_majority_of_what_remains_has_to_be_in_touch(in_touch: tuple[int, ...], is_safe: bool) -> None:
    left = changes.remove(THREE, LAST)
    if is_safe:
        changes.check_quorum(left, {NodeId(one) for one in in_touch})
    else:
        with pytest.raises(QuorumAtRisk, match="n2 are not"):
            changes.check_quorum(left, {NodeId(one) for one in in_touch})


def test_a_learner_is_close_when_it_ends_a_round_in_time() -> None:
    rounds = Rounds(longest_s=1.0)
    assert not rounds.is_close(LAST, Index(0), Index(100), 0.0)
    assert not rounds.is_close(LAST, Index(60), Index(150), 4.0)
    assert not rounds.is_close(LAST, Index(100), Index(200), 5.0), "that round took five seconds"
    assert rounds.is_close(LAST, Index(200), Index(210), 5.5)


def test_a_learner_that_holds_nothing_is_never_close() -> None:
    rounds = Rounds(longest_s=1.0)
    assert not any(rounds.is_close(LAST, Index(0), Index(0), at / 10) for at in range(5))


# --- the directory of members ----------------------------------------------------------------------------------------


def hello(node: int, peer: str) -> PeerHello:
    return PeerHello("c", node, f"n{node}", 1, "", (), peer_address=peer)


def test_an_id_is_removed_only_when_that_is_committed_and_no_group_has_it() -> None:
    book = AddressBook(THREE, ONE, "n1")
    _, four = changes.add(THREE, joining("n4"))
    left = changes.remove(THREE, LAST)
    book.follow([four], [THREE])
    assert not book.is_removed(NodeId(4))
    book.follow([left], [THREE])
    assert not book.is_removed(LAST), "not committed yet"
    book.follow([left, THREE], [left, THREE])
    assert not book.is_removed(LAST), "another group has it"
    book.follow([left, left], [left, left])
    assert book.is_removed(LAST)
    book.follow([changes.remove(four, NodeId(4))] * 2, [THREE] * 2)
    assert not book.is_removed(NodeId(4)), "an id that was never committed may still be given"


def test_an_id_is_not_removed_while_a_group_may_still_have_it() -> None:
    """A node that has just joined knows the members of one group before those of another one. A group may lag behind,
    and be repaired."""
    book = AddressBook(THREE, ONE, "n1")
    left = changes.remove(THREE, LAST)
    book.follow([left, Membership(())], [left, Membership(())])
    assert not book.is_removed(LAST), "the members of the other group are not known yet"
    _, grown = changes.add(THREE, joining("n4"))
    shrunk = changes.remove(grown, NodeId(4))
    book.follow([shrunk, THREE], [shrunk, THREE])
    assert not book.is_removed(NodeId(4)), "the other group has not added it yet"
    book.follow([left, left], [left, left])
    assert book.is_removed(LAST)
    book.follow([left], [left, Membership(())])
    assert not book.is_removed(LAST), "the other group is read anew"


def test_a_group_hears_of_an_id_that_came_and_went_in_group_0_meanwhile() -> None:
    """It has never had that member. Without the number nobody would know that the id is over in every group."""
    _, grown = changes.add(THREE, joining("n4"))
    wanted = changes.remove(grown, NodeId(4))
    first = SimpleNamespace(number=0, group=SimpleNamespace(applied=SimpleNamespace(membership=wanted)))
    raft = SimpleNamespace(membership=THREE, peers=list)
    group = SimpleNamespace(raft=raft, contact=SimpleNamespace(members_in_touch=lambda: {ONE, TWO, LAST}))
    second = SimpleNamespace(number=1, group=group)
    steering = Steering(SimpleNamespace(steered=lambda: [first, second]), ONE, None, 1.0, 1.0)  # type: ignore[arg-type]
    new = steering._next_to_follow(second)  # type: ignore[arg-type]
    assert new == Membership(THREE.members, 4)
    raft.membership = new
    assert steering._next_to_follow(second) is None  # type: ignore[arg-type]


ALONE = changes.demote(changes.demote(THREE, TWO), LAST)


def group_of(members: Membership) -> Any:
    """A group that n1 leads. Its members are in touch, and hold all that there is."""
    peers = [PeerStatus(node, Index(9), Index(10), "replicate", True) for node in (TWO, LAST)]
    return SimpleNamespace(
        raft=SimpleNamespace(membership=members, peers=lambda: peers, last_index=Index(9)),
        applied=SimpleNamespace(membership=members),
        contact=SimpleNamespace(members_in_touch=lambda: {ONE, TWO, LAST}),
    )


def steering_of(*groups: Any) -> tuple[Steering, list[Any]]:
    """That of n1, and its replicas."""
    replicas = [SimpleNamespace(number=number, group=group) for number, group in enumerate(groups)]

    def create_task(work: Any, name: str) -> Any:
        work.close()
        return SimpleNamespace(done=lambda: False)

    loop = SimpleNamespace(time=lambda: 1.0, create_task=create_task)

    async def hand_over_group(number: int) -> None: ...

    host: Any = SimpleNamespace(steered=lambda: replicas, hand_over_group=hand_over_group)
    return Steering(host, ONE, loop, 1.0, 1.0), replicas  # type: ignore[arg-type]


@pytest.mark.parametrize("op", ["remove", "demote", "replace"])
@pytest.mark.parametrize("voters", [Membership(()), ALONE], ids=["unknown", "it alone"])
def test_who_is_needed_in_another_group_may_not_go(op: Any, voters: Membership) -> None:
    """The schedule that is prevented: group 0 removes the only voter of a group that does not follow it yet. Who is
    left has no vote there, and the group serves nobody any more."""
    group = group_of(THREE)
    steering, _ = steering_of(group, group_of(THREE), group_of(voters))
    with pytest.raises(QuorumAtRisk, match="group 2 has not followed"):
        steering._changed(op, THREE, ONE, group, force=False)
    assert steering._changed(op, THREE, ONE, group, force=True) != THREE
    with pytest.raises(QuorumAtRisk, match="2 other voters, and 1 of them"):
        changes.check_other_group(2, THREE, ONE, {ONE, TWO})
    steering, _ = steering_of(group, group_of(THREE), group_of(THREE))
    assert steering._changed(op, THREE, ONE, group, force=False) != THREE


@pytest.mark.parametrize("is_told", [True, False])
def test_the_only_voter_of_a_group_makes_another_one_before_it_goes(is_told: bool) -> None:
    """Group 0 has removed it, which its gossip tells, or has taken its vote. It could hand over to nobody."""
    wanted = THREE if is_told else changes.demote(THREE, ONE)
    steering, (_, second) = steering_of(group_of(wanted), group_of(ALONE))
    if is_told:
        steering.heard(Gossip(members_at=9, members=(2, 3), last_id=3))
    assert steering._next_to_follow(second) is None, "a round of the learners begins"
    new = steering._next_to_follow(second)
    assert new is not None and voters_of(new) == (ONE, TWO)
    second.group.raft.membership = new
    assert steering._next_to_follow(second) is None, "the new voter leads next"


def test_a_stranger_is_dialled_while_its_connection_lasts() -> None:
    book = AddressBook(THREE, ONE, "n1")
    book.learn(NodeId(5), hello(5, "n5:8300"))
    assert (book.peers(), book.peer(NodeId(5))) == ([2, 3, 5], "n5:8300")
    book.forget_stranger(NodeId(5))
    assert book.peers() == [2, 3]


def test_a_member_is_looked_for_where_it_was_last_until_the_log_says_otherwise() -> None:
    book = AddressBook(THREE, ONE, "n1")
    book.learn(TWO, hello(2, "there:8300"))
    assert book.peer(TWO) == "there:8300"
    moved = changes.move(THREE, TWO, "elsewhere:8300", "")
    book.follow([moved], [moved])
    assert book.peer(TWO) == "elsewhere:8300"


def test_a_record_of_another_form_has_no_name() -> None:
    assert record_of(member_of(ONE, joining("n1"), True)._replace(record=b"v1")).name == ""


# --- which cluster a node belongs to ---------------------------------------------------------------------------------

STATIC: dict[str, Any] = {"members": tuple(MemberConfig(f"n{n}", f"n{n}:8300") for n in (1, 2, 3))}
DRAWN = "ab" * 16


def origin(stored: StoredIdentity | None, name: str = "n1", **ways: Any) -> Any:
    return origin_of(NodeConfig(name=name, **ways), stored, lambda size: b"\xab" * size)


def kept(cluster_id: str, node: int, name: str = "n1", voters: tuple[int, ...] = ()) -> StoredIdentity:
    return StoredIdentity(Identity(cluster_id, node, name, 7), KnownPeers(True, (), voters))


def test_an_empty_directory_takes_its_cluster_from_the_settings() -> None:
    static = origin(None, "n2", **STATIC)
    assert (static.own, static.first, static.needs_welcome) == (2, THREE, True)
    founder = origin(None, bootstrap=True)
    assert (founder.cluster_id, founder.own, founder.needs_welcome) == (DRAWN, 1, False)
    assert len(founder.first.members) == 1
    assert origin(None, join_addresses=("n2:8300",)) is None


def test_what_a_directory_says_counts_and_not_the_settings() -> None:
    for ways in ({"bootstrap": True}, {"join_addresses": ("n9:8300",)}, STATIC):
        joined = origin(kept(DRAWN, 4), **ways)
        assert (joined.cluster_id, joined.own, joined.first) == (DRAWN, 4, Membership(()))
        assert len(origin(kept(DRAWN, 1), **ways).first.members) == 1, "the founder, whatever its log says"


def test_a_node_that_joined_a_static_list_starts_before_its_log_has_members() -> None:
    first_id = NodeConfig(name="n1", **STATIC).cluster_id()
    joined = origin(kept(first_id, 4, "n4"), "n4", join_addresses=("n1:8300",))
    assert (joined.cluster_id, joined.own, joined.first) == (first_id, 4, Membership(()))


def test_a_changed_list_is_obeyed_neither_before_nor_after_a_change() -> None:
    first_id = NodeConfig(name="n1", **STATIC).cluster_id()
    other: dict[str, Any] = {"members": (*STATIC["members"], MemberConfig("n4", "n4:8300"))}
    with pytest.raises(WrongDirectory, match="Set them back"):
        origin(kept(first_id, 1), **other)
    grown = origin(kept(first_id, 1, voters=(1, 2, 3)), **other)
    assert (grown.cluster_id, grown.first) == (first_id, Membership(()))


def test_a_list_with_other_addresses_is_obeyed_while_members_never_changed() -> None:
    first_id = NodeConfig(name="n1", **STATIC).cluster_id()
    met = KnownPeers(True, ((2, 20), (3, 30)), listed=3)
    stored = StoredIdentity(Identity(first_id, 1, "n1", 7), met)
    moved: dict[str, Any] = {"members": tuple(MemberConfig(f"n{n}", f"m{n}:8300") for n in (1, 2, 3))}
    found = origin(stored, **moved)
    assert (found.cluster_id, found.own, found.needs_welcome) == (first_id, 1, True)
    assert [record_of(one).peer for one in found.first.members] == ["m1:8300", "m2:8300", "m3:8300"]
    fewer, more = moved["members"][:2], (*moved["members"], MemberConfig("n4", "m4:8300"))
    for members in (fewer, more, moved["members"][::-1]):
        with pytest.raises(WrongDirectory, match="Set them back"):
            origin(stored, members=members)
    with pytest.raises(WrongDirectory, match="Set them back"):
        origin(stored._replace(peers=met._replace(takes_part=False)), **moved)


def test_a_list_with_other_addresses_is_obeyed_by_a_node_that_missed_a_change() -> None:
    """Seed 7023: the node has met a member that joined, and has no membership in its log yet."""
    first_id = NodeConfig(name="n1", **STATIC).cluster_id()
    stored = StoredIdentity(Identity(first_id, 1, "n1", 7), KnownPeers(True, ((2, 20), (3, 30), (4, 40)), listed=3))
    moved = {"members": tuple(MemberConfig(f"n{n}", f"m{n}:8300") for n in (1, 2, 3))}
    assert origin(stored, **moved).own == 1


def test_a_member_is_looked_for_at_its_logged_and_its_configured_address() -> None:
    configured = [MemberConfig(f"n{n}", f"m{n}:8300") for n in (1, 2)]
    book = AddressBook(THREE, ONE, "n1", configured)
    assert book.peer_addresses(NodeId(2)) == ["n2:8300", "m2:8300"]
    assert book.peer_addresses(NodeId(3)) == ["n3:8300"]
    book.learn(NodeId(2), hello(2, "m2:8300"))
    assert book.peer_addresses(NodeId(2)) == ["m2:8300"]


def test_a_node_that_knows_no_member_looks_for_those_of_its_list() -> None:
    """The schedule that is prevented: a node has moved, and its only snapshot is damaged. The members are in there. The
    others look for it where it was, and it waits for them for ever."""
    book = AddressBook(Membership(()), ONE, "n1", [MemberConfig(f"n{n}", f"m{n}:8300") for n in (1, 2, 3)])
    assert book.peers() == [TWO, LAST]
    assert book.peer_addresses(TWO) == ["m2:8300"]
    book.learn(TWO, hello(2, "n2:8300"))
    assert book.peer_addresses(TWO) == ["n2:8300", "m2:8300"]
    assert book.strangers() == [TWO]
    book.follow([changes.remove(THREE, LAST)], [THREE])
    assert book.peers() == [TWO, LAST] and book.strangers() == []
    book.follow([changes.remove(THREE, LAST)], [changes.remove(THREE, LAST)])
    assert book.peers() == [TWO]


def test_a_directory_of_another_name_is_refused() -> None:
    with pytest.raises(WrongDirectory, match="belongs to node 4"):
        origin(kept(DRAWN, 4, "n4"), bootstrap=True)
