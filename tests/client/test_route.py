"""Where to connect, and when."""

from __future__ import annotations

import itertools
import random

import pytest

from disheap.client.core.route import (
    FAULTS_MAX,
    OVERLAP_S,
    PAUSE_FIRST_S,
    PAUSE_MAX_S,
    PAUSE_PARTS,
    REMEMBERED_MAX,
    LastNodes,
    Route,
)
from disheap.errors import LimitReached, MalformedFrame

ABC = ("a", "b", "c")


def route(*addresses: str, seed: int = 1, last_nodes: LastNodes | None = None) -> Route:
    return Route(addresses, random.Random(seed), 5.0, last_nodes)


def start(search: Route, now: float) -> list[str]:
    """What is started now."""
    started = []
    while (address := search.due(now)) is not None:
        started.append(address)
    return started


def walk(
    search: Route, seconds: float, fails: frozenset[str] = frozenset(), step_s: float = 0.01
) -> list[tuple[float, str]]:
    """Every start, where the addresses of `fails` refuse at once and all others hang."""
    starts = []
    for number in range(round(seconds / step_s)):
        now = number * step_s
        for address in search.overdue(now):
            search.failed(address, "no answer", now)
        while (address := search.due(now)) is not None:
            starts.append((now, address))
            if address in fails:
                search.failed(address, "refused", now)
    return starts


def test_attempts_overlap_and_none_is_cancelled_by_the_next() -> None:
    starts = walk(route(*ABC), 1.0)
    assert [now for now, _ in starts] == [0.0, OVERLAP_S, 2 * OVERLAP_S]
    assert sorted(address for _, address in starts) == list(ABC)


def test_after_a_failure_the_next_one_starts_at_once() -> None:
    search = route(*ABC)
    (first,) = start(search, 0.0)
    search.failed(first, "refused", 0.01)
    assert len(start(search, 0.01)) == 1


def test_a_hanging_attempt_is_given_up_at_the_end_of_its_budget_and_not_before() -> None:
    search = route("a")
    assert start(search, 0.0) == ["a"]
    assert search.overdue(4.9) == [] and search.overdue(5.0) == ["a"]


def test_a_host_that_hangs_gets_one_attempt_while_others_are_tried_again() -> None:
    starts = walk(route(*ABC), 4.0, fails=frozenset("ab"))
    tried = [address for _, address in starts]
    assert tried.count("c") == 1 and min(tried.count("a"), tried.count("b")) >= 5


def test_pauses_between_rounds_grow_up_to_a_bound_and_differ_between_clients() -> None:
    def pauses(seed: int) -> list[float]:
        times = [now for now, _ in walk(route("a", seed=seed), 10.0, fails=frozenset("a"), step_s=0.001)]
        return [later - now for now, later in itertools.pairwise(times)]

    first = pauses(1)
    assert PAUSE_FIRST_S / 2 <= first[0] <= PAUSE_FIRST_S + 0.002
    assert PAUSE_MAX_S / 2 <= first[-1] <= PAUSE_MAX_S + 0.002
    assert first != pauses(2)


def test_a_session_that_waits_makes_pauses_shorter() -> None:
    search, now, starts = route("a"), 0.0, []
    while now < 5.0:
        if search.due(now, session_s=1.0) is not None:
            starts.append(now)
            search.failed("a", "refused", now)
        now += 0.001
    assert starts[-1] - starts[-2] <= 1.0 / PAUSE_PARTS + 0.002


def test_the_order_is_random_whatever_the_url_says() -> None:
    firsts = {start(route(*ABC, seed=seed), 0.0)[0] for seed in range(40)}
    assert firsts == set(ABC)


def test_the_leader_that_a_node_named_is_next_and_at_once() -> None:
    search = route(*ABC)
    (first,) = start(search, 0.0)
    search.failed(first, "not-leader", 0.1)
    search.moved("z", 0.1)
    assert start(search, 0.1) == ["z"]


def test_a_leader_that_is_tried_already_is_not_tried_twice() -> None:
    search = route("a", "b")
    first, second = (address for _, address in walk(search, 0.4))
    search.failed(second, "not-leader", 0.4)
    search.moved(first, 0.4)
    assert first not in start(search, 0.4)


def test_two_nodes_that_name_each_other_do_not_make_the_client_spin() -> None:
    search = route("a", "b")
    starts = 0
    for number in range(100):
        now = 0.01 * number
        while (address := search.due(now)) is not None:
            starts += 1
            search.failed(address, "not-leader", now)
            search.moved("b" if address == "a" else "a", now)
    assert starts < 40


def test_the_node_that_was_lost_comes_last_in_the_next_search() -> None:
    for seed in range(10):
        search = route(*ABC, seed=seed)
        (first,) = start(search, 0.0)
        search.won()
        search.arrived(first)
        search.lost(first, "silent", 9.0)
        tried = [address for _, address in walk_from(search, 9.0)]
        assert tried[-1] == first and len(tried) == 3


def walk_from(search: Route, begin: float) -> list[tuple[float, str]]:
    starts = []
    for number in range(100):
        now = begin + 0.01 * number
        starts += [(now, address) for address in start(search, now)]
    return starts


def test_the_next_client_of_the_process_begins_where_the_last_session_stood() -> None:
    last_nodes = LastNodes()
    for seed in range(10):
        search = route(*ABC, seed=seed, last_nodes=last_nodes)
        search.arrived("c")
        assert start(route("c", "b", "a", seed=seed, last_nodes=last_nodes), 0.0) == ["c"]
        search.lost("c", "silent", 1.0)
        assert last_nodes.get(ABC) == ""


def test_a_process_remembers_so_many_urls_and_no_more() -> None:
    last_nodes = LastNodes()
    for number in range(REMEMBERED_MAX + 1):
        last_nodes.remember((f"h{number}",), "leader")
    assert last_nodes.get(("h0",)) == "" and last_nodes.get(("h1",)) == "leader"


def test_members_are_learned_and_forgotten_but_the_urls_stay() -> None:
    search = route("name")
    search.learned(["n1", "", "n2"])
    search.learned(["n2", "n3"])
    assert {address for _, address in walk(search, 2.0)} == {"name", "n2", "n3"}


def test_the_next_client_of_the_process_knows_the_members_that_were_learned() -> None:
    last_nodes = LastNodes()
    search, other = route("a", last_nodes=last_nodes), route("a", seed=2, last_nodes=last_nodes)
    search.learned(["n1", "n2"])
    assert other.known() == ["a", "n1", "n2"] == route("a", last_nodes=last_nodes).known()
    search.learned(["n2"])
    assert {address for _, address in walk(other, 2.0)} == {"a", "n2"}
    assert route("b", last_nodes=last_nodes).known() == ["b"], "of another cluster"


def test_a_session_that_stands_ends_the_search() -> None:
    search = route("a")
    for _, address in walk(search, 3.0, fails=frozenset("a")):
        assert address == "a"
    search.arrived("a")
    assert search.why() == "no answer yet"
    search.lost("a", "closed", 9.0)
    assert start(search, 9.0) == ["a"], "without a pause"


@pytest.mark.parametrize("said", ["cannot connect to a:1: refused", "a:1: refused", "refused"])
def test_an_address_is_told_once(said: str) -> None:
    search = route("a:1")
    search.failed("a:1", said, 0.0)
    assert search.why() == "a:1: refused"


def test_what_hangs_is_told_too() -> None:
    search = route("a:1")
    start(search, 0.0)
    assert search.why() == "a:1: no answer yet"


def test_the_reasons_are_told_by_address_up_to_a_bound() -> None:
    search = route("a")
    for number in range(FAULTS_MAX + 3):
        search.failed(f"h{number}", "refused", 0.0)
    assert "h0:" not in search.why() and f"h{FAULTS_MAX + 2}: refused" in search.why()


def test_the_error_of_a_search_has_the_code_of_what_was_found_at_each_address() -> None:
    search = route(*ABC, "d")
    assert set(start(search, 0.0) + start(search, 1.0) + start(search, 2.0) + start(search, 3.0)) == {*ABC, "d"}
    search.failed("a", "its limit of 3 connections", 3.0, LimitReached.code)
    search.failed("b", "refused", 3.0)
    assert search.rejected("c", MalformedFrame("no frame")) is None
    error = search.no_session()
    assert error.found == {"a": "limit-reached", "b": "connection-lost", "c": "malformed-frame", "d": "connection-lost"}
    assert str(error) == (
        "no node takes a session: a: its limit of 3 connections; b: refused; c: no frame; d: no answer yet"
    )


def test_what_a_process_remembers_can_be_forgotten() -> None:
    last_nodes = LastNodes()
    last_nodes.remember(ABC, "b")
    last_nodes.learned(ABC, ["d", "e"])
    last_nodes.clear()
    assert last_nodes.get(ABC) == "" and last_nodes.members(ABC) == []
    assert sorted(route(*ABC, last_nodes=last_nodes).known()) == sorted(ABC)
