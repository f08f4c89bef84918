"""Values under keys, sessions that watch keys, and barriers that wait for parts."""

from __future__ import annotations

import pytest

from disheap.errors import BarrierClosed, InvalidArgument, PayloadTooLarge
from disheap.protocol.broker import (
    STAGE_FINAL,
    STAGE_INTERIM,
    Ack,
    Batch,
    Batched,
    CloseBarrier,
    CreateTopic,
    DeleteValues,
    GetParts,
    GetStats,
    GetValues,
    NewMessage,
    Part,
    Peek,
    Pop,
    Publish,
    Removed,
    SetBarrier,
    SetValue,
    Stored,
    Subscribe,
    TopicSettings,
    Unwatch,
    Values,
    ValueSet,
    Watch,
    encode,
)
from disheap_heap.commands import values
from disheap_heap.settings import PUSHED_VALUE_BYTES_MAX

from .driver import PLENTY, Driver

DONE_MESSAGE = Publish("", "jobs", NewMessage(b"all parts are there", 7))


@pytest.fixture
def driver() -> Driver:
    driver = Driver(sessions=3)
    driver.do(CreateTopic("jobs"))
    return driver


def value_of(driver: Driver, key: str) -> bytes | None:
    found = driver.ask(GetValues([key])).values
    return found[0].value if found else None


def waiting(driver: Driver) -> list[bytes]:
    return [one.payload for one in driver.ask(Peek("jobs", 100)).messages]


# --- values ---


def test_a_value_is_stored_replaced_and_dropped(driver: Driver) -> None:
    assert driver.do(SetValue("a", b"one")) == Stored(True)
    assert driver.do(SetValue("a", b"two"), session=2) == Stored(True)
    assert driver.ask(GetValues(["b", "a"])) == Values([ValueSet("a", b"two", 1)], [])
    assert driver.do(DeleteValues(["a", "b"])) == Removed(1)
    assert value_of(driver, "a") is None
    assert driver.ask(GetStats()).value_bytes == 0


def test_a_final_value_is_never_replaced(driver: Driver) -> None:
    driver.do(SetValue("a", b"success", stage=STAGE_FINAL))
    assert driver.do(SetValue("a", b"failure")) == Stored(False)
    assert driver.do(SetValue("a", b"success too", stage=STAGE_FINAL)) == Stored(False)
    assert value_of(driver, "a") == b"success"
    driver.do(DeleteValues(["a"]))
    assert driver.do(SetValue("a", b"failure")) == Stored(True)


def test_a_value_is_dropped_at_its_time(driver: Driver) -> None:
    driver.do(SetValue("a", b"x", 100))
    driver.do(SetValue("b", b"x"))
    driver.do(SetValue("c", b"x", 50))
    driver.do(SetValue("c", b"y", 200))
    driver.wait(99)
    assert value_of(driver, "a") == b"x"
    assert driver.machine.next_deadline() == 100
    driver.wait(1)
    assert [value_of(driver, key) for key in "abc"] == [None, b"x", b"y"]
    driver.wait(100)
    assert value_of(driver, "c") is None
    assert driver.machine.next_deadline() is None


def test_many_values_that_expire_together_do_so_in_slices(driver: Driver) -> None:
    for number in range(1000):
        driver.do(SetValue(f"{number}", b"x", 100))
    assert driver.wait(100, 300) == 300
    assert driver.machine.backlog()
    assert driver.ask(GetStats()).values == 700
    driver.work_off(300)
    assert driver.ask(GetStats()).values == 0


def test_a_value_that_is_too_large_is_refused_with_its_size() -> None:
    driver = Driver(payload_bytes=100)
    driver.do(SetValue("a", b"x" * 100))
    with pytest.raises(PayloadTooLarge, match=r"101 bytes is over the limit of 100 \(`payload_bytes`"):
        driver.do(SetValue("a", b"x" * 101))
    assert value_of(driver, "a") == b"x" * 100


def test_the_number_of_values_is_bounded() -> None:
    driver = Driver(values=2)
    driver.do(SetValue("a", b""))
    driver.do(SetValue("b", b""))
    with pytest.raises(InvalidArgument, match="`values`"):
        driver.do(SetValue("c", b""))
    driver.do(SetValue("b", b"replaced"))


def test_an_answer_has_as_many_values_as_fit_and_names_the_others(driver: Driver) -> None:
    for key in "abc":
        driver.do(SetValue(key, key.encode() * 700_000))
    found = driver.ask(GetValues(["a", "missing", "b", "c"]))
    assert [one.key for one in found.values] == ["a"]
    assert found.left == ["b", "c"]


def test_values_of_a_topics_name_do_not_touch_the_topic(driver: Driver) -> None:
    driver.do(SetValue("jobs", b"value", 100))
    assert waiting(driver) == []
    driver.do(Publish("", "jobs", NewMessage(b"message", expires_ms=100)))
    driver.do(DeleteValues(["jobs"]))
    assert waiting(driver) == [b"message"]
    driver.wait(100)
    assert waiting(driver) == []


# --- watches ---


def test_who_watches_a_key_is_pushed_its_values_up_to_the_outcome(driver: Driver) -> None:
    assert driver.do(Watch(["a", "b"])) == Values([], [])
    driver.do(Watch(["a"]), session=3)
    driver.do(SetValue("a", b"half", stage=STAGE_INTERIM), session=2)
    driver.do(SetValue("a", b"whole"), session=2)
    driver.do(SetValue("a", b"again"), session=2)
    half, whole = ValueSet("a", b"half", 0), ValueSet("a", b"whole", 1)
    assert driver.pushed == [(1, half), (3, half), (1, whole), (3, whole)]
    assert driver.ask(GetStats()).watches == 1


def test_a_watch_answers_with_what_is_there_and_does_not_watch_an_outcome(driver: Driver) -> None:
    driver.do(SetValue("a", b"done"))
    driver.do(SetValue("b", b"begun", stage=STAGE_INTERIM))
    reply = driver.do(Watch(["b", "a"]), session=2)
    assert reply == Values([ValueSet("b", b"begun", 0), ValueSet("a", b"done", 1)], [])
    driver.do(SetValue("a", b"replaced"))
    driver.do(SetValue("b", b"done", stage=STAGE_FINAL))
    assert driver.taken(2) == [ValueSet("b", b"done", 2)]


def test_a_watch_that_is_repeated_is_one_watch(driver: Driver) -> None:
    driver.do(Watch(["a", "a"]))
    driver.do(Watch(["a"]))
    assert driver.ask(GetStats()).watches == 1
    driver.do(SetValue("a", b"x"))
    assert driver.taken(1) == [ValueSet("a", b"x", 1)]


def test_unwatch_ends_a_watch(driver: Driver) -> None:
    driver.do(Watch(["a", "b"]))
    driver.do(Unwatch(["a", "never watched"]))
    driver.do(SetValue("a", b"x"))
    driver.do(SetValue("b", b"x"))
    assert [push.key for push in driver.taken(1)] == ["b"]


def test_watches_end_with_their_session(driver: Driver) -> None:
    driver.do(Watch(["a"]), session=2)
    driver.do(Watch(["a"]), session=1)
    driver.expire(2)
    assert driver.ask(GetStats()).watches == 1
    driver.do(SetValue("a", b"x"))
    assert [session for session, _ in driver.taken_with_sessions()] == [1]


def test_a_session_with_many_watches_ends_in_slices(driver: Driver) -> None:
    for first in range(0, 10_000, 1000):
        driver.do(Watch([f"{number}" for number in range(first, first + 1000)]), session=2)
    driver.do(Watch(["0"]))
    driver.expire(2)
    assert driver.machine.backlog()
    left = driver.ask(GetStats()).watches
    assert left > 8000
    twin = driver.restored()
    assert twin.machine.state_hash() == driver.machine.state_hash()
    assert driver.work_off(250) == twin.work_off(250) > 5
    assert driver.ask(GetStats()).watches == twin.ask(GetStats()).watches == 1


def test_a_session_without_a_connection_is_not_pushed_and_its_watch_ends(driver: Driver) -> None:
    driver.do(Watch(["a", "b"]), session=2)
    driver.detach(2)
    driver.do(SetValue("a", b"x"))
    assert driver.taken(2) == []
    driver.attach(2)
    assert value_of(driver, "a") == b"x"
    driver.do(SetValue("b", b"x"))
    assert driver.taken(2) == [ValueSet("b", b"x", 1)]


def test_a_long_value_is_announced_and_not_pushed(driver: Driver) -> None:
    driver.do(Watch(["a", "b"]))
    driver.do(SetValue("a", b"x" * PUSHED_VALUE_BYTES_MAX))
    driver.do(SetValue("b", b"x" * (PUSHED_VALUE_BYTES_MAX + 1)))
    first, second = driver.taken(1)
    assert first.value == b"x" * PUSHED_VALUE_BYTES_MAX
    assert second == ValueSet("b", None, 1)


def test_a_value_for_many_is_announced_if_the_pushes_would_be_large(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "MAX_PUSH_BYTES_PER_CALL", 250)
    for session in (1, 2, 3):
        driver.do(Watch(["a", "b"]), session=session)
    driver.do(SetValue("a", b"x" * 83))
    assert [push.value for push in driver.taken()] == [b"x" * 83] * 3
    driver.do(SetValue("b", b"x" * 84))
    assert [push.value for push in driver.taken()] == [None] * 3


@pytest.mark.parametrize(
    ("limits", "named"),
    [({"session_watches": 2}, "session_watches"), ({"watches": 3}, "watches"), ({"key_watches": 1}, "key_watches")],
)
def test_the_number_of_watches_is_bounded(limits: dict[str, int], named: str) -> None:
    driver = Driver(**limits)
    driver.do(Watch(["a", "b"]), session=1)
    with pytest.raises(InvalidArgument, match=f"`{named}`"):
        driver.do(Watch(["a", "c", "d"]), session=2)
    assert driver.ask(GetStats()).watches == 2


# --- barriers ---


def test_the_last_part_publishes_the_message_once(driver: Driver) -> None:
    driver.do(SetBarrier("group", message=DONE_MESSAGE))
    driver.do(SetBarrier("group", 2))
    assert driver.do(SetValue("a", b"A", barrier="group", order=1)) == Stored(True, 1, 2)
    assert waiting(driver) == []
    assert driver.do(SetValue("b", b"B", barrier="group", order=0)) == Stored(True, 2, 2)
    assert waiting(driver) == [b"all parts are there"]
    driver.do(SetValue("c", b"C", barrier="group", order=2))
    driver.do(SetBarrier("group", 2, message=DONE_MESSAGE))
    assert waiting(driver) == [b"all parts are there"]


def test_a_part_that_arrives_twice_counts_once(driver: Driver) -> None:
    driver.do(SetBarrier("group", 2, message=DONE_MESSAGE))
    for _ in range(3):
        assert driver.do(SetValue("a", b"A", barrier="group", order=1)).arrived == 1
    assert waiting(driver) == []
    assert driver.do(SetValue("a", b"A", barrier="group", order=2)).arrived == 2
    assert waiting(driver) == [b"all parts are there"]


def test_a_part_arrives_though_its_value_is_final(driver: Driver) -> None:
    driver.do(SetBarrier("group", 1, message=DONE_MESSAGE))
    driver.do(SetValue("a", b"A", stage=STAGE_FINAL))
    assert driver.do(SetValue("a", b"B", barrier="group")) == Stored(False, 1, 1)
    assert waiting(driver) == [b"all parts are there"]


def test_a_barrier_whose_size_comes_last_is_complete_then(driver: Driver) -> None:
    driver.do(SetBarrier("group", message=DONE_MESSAGE))
    driver.do(SetValue("a", b"A", barrier="group"))
    driver.do(SetValue("b", b"B", barrier="group"))
    assert waiting(driver) == []
    assert driver.do(SetBarrier("group", 2)).is_complete
    assert waiting(driver) == [b"all parts are there"]


def test_a_barrier_that_waits_for_more_is_complete_later(driver: Driver) -> None:
    driver.do(SetBarrier("group", more=1))
    driver.do(SetBarrier("group", 1, message=DONE_MESSAGE))
    driver.do(SetValue("a", b"A", barrier="group"))
    assert waiting(driver) == []
    driver.do(SetValue("b", b"B", barrier="group"))
    assert waiting(driver) == [b"all parts are there"]


def test_parts_are_read_in_pages_in_the_order_of_arrival(driver: Driver) -> None:
    driver.do(SetBarrier("group", 3))
    for key, order in (("c", 2), ("a", 0), ("b", 1)):
        driver.do(SetValue(key, key.encode(), 100 if key == "a" else 0, barrier="group", order=order))
    page = driver.ask(GetParts("group", 0, 2))
    assert (page.parts, page.left) == ([Part("c", 2, b"c"), Part("a", 0, b"a")], 1)
    assert page.info.is_complete
    driver.wait(100)
    rest = driver.ask(GetParts("group", 1))
    assert (rest.parts, rest.left) == ([Part("a", 0, None), Part("b", 1, b"b")], 0)
    assert driver.ask(GetParts("unknown")).parts == []


def test_a_page_of_parts_is_bounded_in_bytes(driver: Driver) -> None:
    driver.do(SetBarrier("group", 3))
    for key in "abc":
        driver.do(SetValue(key, b"x" * 700_000, barrier="group"))
    page = driver.ask(GetParts("group"))
    assert (len(page.parts), page.left) == (1, 2)


def test_of_several_attempts_to_close_a_barrier_one_gets_through(driver: Driver) -> None:
    driver.do(SetBarrier("group", 1, lifetime_ms=1000))
    driver.do(SetValue("a", b"A", barrier="group"))
    attempt = Batch([CloseBarrier("group"), Publish("", "jobs", NewMessage(b"body"))])
    assert driver.do(attempt) == Batched([1, 1])
    with pytest.raises(BarrierClosed, match="was closed before"):
        driver.do(attempt, session=2)
    with pytest.raises(BarrierClosed):
        driver.do(CloseBarrier("group"), session=2)
    assert waiting(driver) == [b"body"]


def test_a_batch_that_is_refused_closes_no_barrier(driver: Driver) -> None:
    driver.do(SetBarrier("group", 1))
    with pytest.raises(Exception, match="Nothing of the batch was done"):
        driver.do(Batch([CloseBarrier("group"), Ack([(99, 1)])]))
    with pytest.raises(BarrierClosed, match="by another part of the batch"):
        driver.do(Batch([CloseBarrier("group"), CloseBarrier("group")]))
    assert driver.do(CloseBarrier("group")) == Removed(0)


def test_a_part_that_comes_late_does_not_begin_a_barrier_again(driver: Driver) -> None:
    driver.do(SetBarrier("group", 1, message=DONE_MESSAGE, lifetime_ms=1000))
    driver.do(SetValue("a", b"A", barrier="group"))
    driver.do(CloseBarrier("group"))
    assert driver.do(SetValue("a", b"A", barrier="group")) == Stored(True)
    assert driver.do(SetBarrier("group", 1, message=DONE_MESSAGE)).is_closed
    assert waiting(driver) == [b"all parts are there"]


def test_a_closed_barrier_begins_anew_where_that_is_asked_for(driver: Driver) -> None:
    for _ in range(2):
        driver.do(SetBarrier("group", 1, 0, DONE_MESSAGE, 1000, reopens=True))
        driver.do(SetBarrier("group", 1, reopens=True))
        assert driver.do(SetValue("a", b"A", barrier="group")) == Stored(True, 1, 1)
        assert driver.do(CloseBarrier("group")) == Removed(1)
    assert waiting(driver) == [b"all parts are there"] * 2


def test_a_barrier_is_dropped_after_its_lifetime(driver: Driver) -> None:
    driver.do(SetBarrier("group", 2, lifetime_ms=100))
    driver.wait(90)
    driver.do(SetValue("a", b"A", barrier="group"))
    driver.wait(90)
    assert driver.ask(GetParts("group")).info.arrived == 1
    driver.wait(10)
    assert driver.ask(GetStats()).barriers == 0
    assert driver.do(SetValue("b", b"B", barrier="group")) == Stored(True)


def test_a_full_topic_takes_the_message_of_a_barrier(driver: Driver) -> None:
    driver.do(CreateTopic("small", TopicSettings(max_messages=1)))
    driver.do(Publish("", "small", NewMessage(b"first")))
    driver.do(SetBarrier("group", 1, message=Publish("", "small", NewMessage(b"second"))))
    driver.do(SetValue("a", b"A", barrier="group"))
    assert [one.payload for one in driver.ask(Peek("small", 9)).messages] == [b"first", b"second"]


def test_a_message_that_leads_nowhere_refuses_no_part(driver: Driver) -> None:
    driver.do(SetBarrier("group", 1, message=Publish("unknown exchange", "", NewMessage(b"lost"))))
    assert driver.do(SetValue("a", b"A", barrier="group")).arrived == 1


def test_the_message_of_a_barrier_is_delivered_at_once(driver: Driver) -> None:
    driver.do(Subscribe("jobs", 5), session=2)
    driver.do(SetBarrier("group", 1, message=DONE_MESSAGE))
    driver.do(SetValue("a", b"A", barrier="group"))
    assert [one.payload for one in driver.deliveries(2)] == [b"all parts are there"]


def test_the_parts_of_a_barrier_are_bounded() -> None:
    driver = Driver(barrier_parts=2)
    with pytest.raises(InvalidArgument, match="`barrier_parts`"):
        driver.do(SetBarrier("group", 3))
    with pytest.raises(InvalidArgument, match="`barrier_parts`"):
        driver.do(SetBarrier("group", 2, 1))
    driver.do(SetBarrier("group", 2))
    driver.do(SetBarrier("group", 1))
    driver.do(SetBarrier("group", 2))
    for key in "ab":
        driver.do(SetValue(key, b"", barrier="group"))
    with pytest.raises(InvalidArgument, match="`barrier_parts`"):
        driver.do(SetValue("c", b"", barrier="group"))
    assert value_of(driver, "c") is None


def test_the_number_of_barriers_is_bounded() -> None:
    driver = Driver(barriers=1)
    driver.do(SetBarrier("a"))
    driver.do(SetBarrier("a", 1))
    with pytest.raises(InvalidArgument, match="`barriers`"):
        driver.do(SetBarrier("b"))


def test_the_message_of_a_barrier_is_checked_when_it_is_set() -> None:
    driver = Driver(payload_bytes=10)
    with pytest.raises(PayloadTooLarge):
        driver.do(SetBarrier("group", message=Publish("", "jobs", NewMessage(b"x" * 11))))
    assert driver.ask(GetStats()).barriers == 0


# --- all of it ---


def filled() -> Driver:
    driver = Driver(sessions=3)
    driver.do(CreateTopic("jobs"))
    driver.do(SetBarrier("group", 3, message=DONE_MESSAGE, lifetime_ms=5000))
    for number in range(1500):
        driver.do(SetValue(f"v{number}", b"%d" % number, 10_000 + number % 7, number % 3))
    driver.do(SetValue("a", b"A", barrier="group", order=1))
    driver.do(Watch(["w", "x"]), session=2)
    driver.do(Watch(["w"]), session=1)
    return driver


def test_a_snapshot_has_values_watches_and_barriers() -> None:
    driver = filled()
    twin = driver.restored()
    assert twin.machine.state_hash() == driver.machine.state_hash()
    for one in (driver, twin):
        one.do(SetValue("w", b"W"))
        assert one.taken_with_sessions() == [(1, ValueSet("w", b"W", 1)), (2, ValueSet("w", b"W", 1))]
        assert one.do(SetValue("b", b"B", barrier="group", order=2)) == Stored(True, 2, 3)
        one.do(SetValue("c", b"C", barrier="group"))
        assert waiting(one) == [b"all parts are there"]
        assert value_of(one, "v7") == b"7"
    assert twin.machine.memory_bytes() == driver.machine.memory_bytes()
    for one in (driver, twin):
        one.wait(20_000)
        one.work_off(PLENTY)
        assert (one.ask(GetStats()).values, one.ask(GetStats()).barriers) == (1 + 3, 0)


def test_an_open_view_shows_the_values_of_its_moment() -> None:
    driver = filled()
    expected, view = b"".join(driver.machine.snapshot()), driver.machine.snapshot()
    pieces = [next(view)]
    for number in range(0, 1500, 2):
        driver.do(DeleteValues([f"v{number}"]))
    for number in range(100):
        driver.do(SetValue(f"v{number}", b"replaced"))
    driver.do(SetValue("w", b"W"))
    driver.do(SetValue("b", b"B", barrier="group"))
    driver.do(CloseBarrier("group"))
    driver.expire(2)
    pieces += view
    assert b"".join(pieces) == expected


def test_a_value_that_is_dropped_counts_while_a_view_has_it(driver: Driver) -> None:
    driver.do(SetValue("a", b"x" * 50_000))
    before, view = driver.machine.memory_bytes(), driver.machine.snapshot()
    driver.do(DeleteValues(["a"]))
    assert before - 1000 < driver.machine.memory_bytes() <= before + 1000
    del view
    driver.work_off(PLENTY)
    assert driver.machine.memory_bytes() < before - 50_000


def test_dropped_values_are_freed_within_the_bound_of_a_call(driver: Driver) -> None:
    for number in range(8):
        driver.do(SetValue(f"{number}", b"x" * (8 << 20)))
    driver.do(DeleteValues([f"{number}" for number in range(8)]))
    assert driver.machine.backlog()
    assert driver.machine.memory_bytes() > 30 << 20
    driver.work_off(PLENTY)
    assert driver.machine.memory_bytes() < 1 << 20


def test_values_are_held_back_while_memory_is_short_and_may_be_deleted(driver: Driver) -> None:
    held_back = (SetValue("a", b"x"), SetBarrier("b"), Watch(["a"]))
    assert not any(driver.machine.allowed_when_full(encode(command)) for command in held_back)
    allowed = (DeleteValues(["a"]), Unwatch(["a"]), CloseBarrier("b"))
    assert all(driver.machine.allowed_when_full(encode(command)) for command in allowed)


def test_values_do_not_hold_back_a_pop(driver: Driver) -> None:
    driver.do(SetValue("a", b"x", 10))
    driver.do(Pop("jobs", 1, 10), session=2)
    driver.wait(10)
    assert len(driver.taken(2)) == 1
