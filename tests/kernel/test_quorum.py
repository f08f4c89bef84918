"""Quorum arithmetic as tables (Raft §5.2, §5.3; dissertation §4.3; pitfall 24)."""

from __future__ import annotations

import itertools

import pytest

from disheap.kernel.quorum import Outcome, agreed, has_quorum, majority, outcome
from disheap.kernel.types import NodeId


def sets(*groups: tuple[int, ...]) -> tuple[tuple[NodeId, ...], ...]:
    return tuple(tuple(NodeId(node) for node in group) for group in groups)


@pytest.mark.parametrize(("size", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4), (8, 5)])
def test_a_majority_is_more_than_half_for_even_sizes_too(size: int, needed: int) -> None:
    assert majority(size) == needed


@pytest.mark.parametrize(
    ("voters", "match", "index"),
    [
        (sets((1,)), {1: 7}, 7),
        (sets((1, 2)), {1: 7, 2: 5}, 5),
        (sets((1, 2)), {1: 7}, 0),
        (sets((1, 2, 3)), {1: 9, 2: 5, 3: 1}, 5),
        (sets((1, 2, 3)), {1: 9, 2: 9, 3: 1}, 9),
        (sets((1, 2, 3, 4)), {1: 9, 2: 9, 3: 4, 4: 1}, 4),
        (sets((1, 2, 3, 4)), {1: 9, 2: 9}, 0),
        (sets((1, 2, 3, 4, 5)), {1: 9, 2: 8, 3: 7, 4: 1, 5: 1}, 7),
        (sets((1, 2, 3)), {1: 9, 7: 99, 8: 99}, 0),
        (sets((1, 2, 3), (3, 4, 5)), {1: 9, 2: 9, 3: 6, 4: 5, 5: 1}, 5),
        (sets((1, 2, 3), (4,)), {1: 9, 2: 9, 3: 9}, 0),
        (sets(), {1: 9}, 0),
        (sets(()), {1: 9}, 0),
    ],
)
def test_agreed_is_what_a_majority_of_every_set_has_reached(
    voters: tuple[tuple[NodeId, ...], ...], match: dict[NodeId, int], index: int
) -> None:
    assert agreed(voters, lambda node: match.get(node, 0)) == index


@pytest.mark.parametrize(
    ("voters", "votes", "expected"),
    [
        (sets((1,)), {1: True}, Outcome.WON),
        (sets((1,)), {}, Outcome.PENDING),
        (sets((1, 2)), {1: True}, Outcome.PENDING),
        (sets((1, 2)), {1: True, 2: False}, Outcome.LOST),
        (sets((1, 2, 3)), {1: True, 2: True}, Outcome.WON),
        (sets((1, 2, 3)), {1: True, 2: False}, Outcome.PENDING),
        (sets((1, 2, 3)), {1: True, 2: False, 3: False}, Outcome.LOST),
        (sets((1, 2, 3, 4)), {1: True, 2: True}, Outcome.PENDING),
        (sets((1, 2, 3, 4)), {1: True, 2: True, 3: False, 4: False}, Outcome.LOST),
        (sets((1, 2, 3, 4)), {1: True, 2: True, 3: True}, Outcome.WON),
        (sets((1, 2, 3)), {1: True, 8: True, 9: True}, Outcome.PENDING),
        (sets((1, 2, 3), (4, 5)), {1: True, 2: True, 4: True}, Outcome.PENDING),
        (sets((1, 2, 3), (4, 5)), {1: True, 2: True, 4: True, 5: False}, Outcome.LOST),
        (sets(), {1: True}, Outcome.LOST),
        (sets(()), {1: True}, Outcome.LOST),
    ],
)
def test_a_vote_is_won_in_every_set_or_lost_in_one(
    voters: tuple[tuple[NodeId, ...], ...], votes: dict[NodeId, bool], expected: Outcome
) -> None:
    assert outcome(voters, votes) is expected


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_two_quorums_always_share_a_voter(size: int) -> None:
    voters = tuple(NodeId(node) for node in range(1, size + 1))
    subsets = [set(c) for n in range(size + 1) for c in itertools.combinations(voters, n)]
    quorums = [subset for subset in subsets if has_quorum((voters,), lambda node, s=subset: node in s)]
    assert quorums
    assert all(first & second for first, second in itertools.product(quorums, quorums))
