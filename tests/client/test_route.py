"""Where to connect next."""

from __future__ import annotations

import random

import pytest

from disheap.client.route import FAULTS_KEPT, PAUSE_FIRST_S, PAUSE_MAX_S, Route


def route(*addresses: str) -> Route:
    return Route(addresses, random.Random(1))


def test_every_address_is_tried_before_the_first_pause() -> None:
    search = route("a", "b", "c")
    tried = [search.next() for _ in range(4)]
    assert [address for address, _ in tried] == ["a", "b", "c", "a"]
    assert [bool(pause) for _, pause in tried] == [False, False, False, True]


def test_pauses_grow_up_to_a_bound_and_differ_between_clients() -> None:
    search, other = route("a"), Route(("a",), random.Random(2))
    pauses = [search.next()[1] for _ in range(20)]
    assert pauses[0] == 0 and PAUSE_FIRST_S / 2 <= pauses[1] <= PAUSE_FIRST_S
    assert PAUSE_MAX_S / 2 <= pauses[-1] <= PAUSE_MAX_S
    assert pauses != [other.next()[1] for _ in range(20)]


def test_the_leader_that_a_node_named_is_next_and_at_once() -> None:
    search = route("a", "b")
    search.next()
    search.moved("z")
    assert search.next() == ("z", 0.0)
    assert search.next()[0] == "b"


def test_two_nodes_that_name_each_other_do_not_make_the_client_spin() -> None:
    search = route("a", "b")
    pauses = []
    for _ in range(20):
        address, pause = search.next()
        pauses.append(pause)
        search.moved("b" if address == "a" else "a")
    assert sum(pause > 0 for pause in pauses) >= 4


def test_members_are_learned_and_forgotten_but_the_urls_stay() -> None:
    search = route("name")
    search.learned(["n1", "", "n2"])
    search.learned(["n2", "n3"])
    assert {search.next()[0] for _ in range(6)} == {"name", "n2", "n3"}


def test_a_session_that_stands_ends_the_search() -> None:
    search = route("a")
    search.failed("a", "refused")
    for _ in range(9):
        search.next()
    search.arrived()
    assert search.next() == ("a", 0.0)
    assert search.why() == "no answer yet"


@pytest.mark.parametrize("said", ["cannot connect to a:1: refused", "a:1: refused", "refused"])
def test_an_address_is_told_once(said: str) -> None:
    search = route("a:1")
    search.failed("a:1", said)
    assert search.why() == "a:1: refused"


def test_the_reasons_are_told_by_address_up_to_a_bound() -> None:
    search = route("a")
    for number in range(FAULTS_KEPT + 3):
        search.failed(f"h{number}", "refused")
    assert "h0:" not in search.why() and f"h{FAULTS_KEPT + 2}: refused" in search.why()
