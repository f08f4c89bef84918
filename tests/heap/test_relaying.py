"""What of transient messages passes without the log, and to whom."""

from __future__ import annotations

import pytest

from disheap.protocol import broker
from disheap.protocol.broker import Bind, Cancel, CreateExchange, CreateTopic, NewMessage, Publish, Subscribe

from .driver import PLENTY, Driver

Pushes = list[tuple[int, broker.Deliver]]


def fanned(*topics: str, sessions: int = 3, **settings: object) -> Driver:
    """An exchange `e` to which these topics are bound. Nobody consumes."""
    driver = Driver(sessions, **settings)
    driver.do(CreateExchange("e", "topic"))
    for topic in topics:
        driver.do(CreateTopic(topic))
        driver.do(Bind("e", topic, "#"))
    return driver


def listen(driver: Driver, topic: str, session: int = 1, **options: object) -> int:
    options = {"no_ack": True} | options
    return driver.do(Subscribe(topic, 10, 1 << 20, **options), session).consumer  # type: ignore[arg-type]


def relay(driver: Driver, exchange: str = "e", routing_key: str = "k", **options: object) -> Pushes | None:
    """The pushes; the machine is as it was before."""
    before = driver.machine.state_hash()
    message = NewMessage(b"event", **options)  # type: ignore[arg-type]
    pushes = driver.machine.relay(driver.now, broker.encode(Publish(exchange, routing_key, message)))
    assert driver.machine.state_hash() == before
    return None if pushes is None else [(session, broker.decode_push.decode(body)) for session, body in pushes]


def test_each_consumer_without_leases_is_sent_the_message() -> None:
    driver = fanned("a", "b")
    first, second = listen(driver, "a", 1), listen(driver, "b", 2)
    driver.now = 5000
    pushes = relay(driver, priority=3)
    assert pushes is not None
    assert [(session, push.consumer) for session, push in pushes] == [(1, first), (2, second)]
    assert {
        (push.id, push.epoch, push.payload, push.priority, push.enqueued_ms, push.attempts) for _, push in pushes
    } == {(0, 0, b"event", 3, 5000, 1)}


def test_headers_and_key_come_along() -> None:
    driver = fanned("a")
    listen(driver, "a")
    headers = broker.encode_headers({"x": 1})
    ((_, push),) = relay(driver, encoded_headers=headers, key="shop") or ()
    assert (push.encoded_headers, push.key) == (headers, "shop")


def test_the_exchange_without_a_name_relays_too() -> None:
    driver = fanned("a")
    listen(driver, "a")
    assert len(relay(driver, "", "a") or ()) == 1


def test_a_message_that_leads_nowhere_is_done_with() -> None:
    assert relay(fanned()) == []


def test_whoever_takes_leases_is_served_by_the_log() -> None:
    driver = fanned("a")
    listen(driver, "a", no_ack=False)
    assert relay(driver) is None


def test_a_message_waits_in_the_log_where_nobody_consumes_yet() -> None:
    """The answers to a broadcast come before its sender consumes them."""
    driver = fanned("a", "b")
    listen(driver, "a")
    assert relay(driver) is None


def test_a_message_for_a_consumer_without_a_connection_is_pushed_nevertheless() -> None:
    """The leader counts it among those that were dropped. Waiting messages of that topic hold up no other topic."""
    driver = fanned("a", "b")
    listen(driver, "a", 1)
    listen(driver, "b", 2)
    driver.detach(1)
    driver.do(broker.Enqueue("a", NewMessage(b"waits")))
    assert [session for session, _ in relay(driver) or ()] == [1, 2]


def test_several_consumers_take_turns_which_the_log_has_to_know() -> None:
    driver = fanned("a")
    listen(driver, "a", 1)
    second = listen(driver, "a", 2)
    assert relay(driver) is None
    driver.do(Cancel(second), 2)
    assert len(relay(driver) or ()) == 1


def test_a_message_does_not_overtake_those_that_wait() -> None:
    """A call delivers a bounded number. What is left waits, and the consumer can receive."""
    driver = fanned("a")
    for _ in range(1000):
        driver.do(broker.Enqueue("a", NewMessage(b"waits")))
    listen(driver, "a", 1)
    assert driver.info("a").ready > 0
    assert relay(driver) is None
    driver.work_off(PLENTY)
    assert driver.info("a").ready == 0
    assert len(relay(driver) or ()) == 1


def test_a_consumer_that_is_not_served_again_yet_is_sent_nothing() -> None:
    driver = fanned("a")
    consumer = listen(driver, "a", 1)
    driver.detach(1)
    driver.do(broker.Enqueue("a", NewMessage(b"missed")))
    driver.machine._state.sessions[1].attached = True  # as while many consumers begin again
    assert driver.machine._state.consumers[consumer].session.is_served is False
    assert relay(driver) is None


@pytest.mark.parametrize(
    "options", [{"delay_ms": 1}, {"delay_ms": -1}, {"expires_ms": -1}, {"priority": 1 << 63}, {"key": "k" * 300}]
)
def test_what_waits_or_is_refused_goes_by_the_log(options: dict[str, object]) -> None:
    driver = fanned("a")
    listen(driver, "a")
    assert relay(driver, **options) is None


def test_more_topics_than_one_message_may_have_are_refused_by_the_log() -> None:
    driver = fanned("a", "b", fanout=1)
    listen(driver, "a", 1)
    listen(driver, "b", 2)
    assert relay(driver) is None


@pytest.mark.parametrize(
    "command",
    [b"", b"garbage", broker.encode(broker.Ack([(1, 1)])), broker.encode(broker.Enqueue("a", NewMessage(b"")))],
)
def test_only_a_publish_is_relayed(command: bytes) -> None:
    driver = fanned("a")
    listen(driver, "a")
    assert driver.machine.relay(0, command) is None


def test_a_pop_is_served_by_the_log() -> None:
    driver = fanned("a")
    driver.do(broker.Pop("a", 1, 0, 10_000, True))
    assert relay(driver) is None


def test_the_priority_is_that_which_the_topic_would_give() -> None:
    driver = Driver()
    driver.do(CreateTopic("a", broker.TopicSettings(priority_max=5)))
    listen(driver, "a")
    ((_, push),) = relay(driver, "", "a", priority=9) or ()
    assert push.priority == 5
