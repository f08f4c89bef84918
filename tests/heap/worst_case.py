"""Measures the worst cost of each command, query and session event: `python -m tests.heap.worst_case`.

Each row builds the state that is worst for it within the default limits, then measures one call. The first two
columns are the processor's time, without and with an open view for a snapshot. Then come the bytes of the reply and of
what is pushed, and the memory that the call left allocated. A time is the median of `RUNS` calls, each in a new state.
Figures of one machine: docs/explanation/cost-of-commands.md. The bytes are the same on every machine: `test_bytes.py`
holds them to their bound.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from disheap.errors import CommandRefused
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage, TopicSettings
from disheap_heap.settings import HeapSettings

from .driver import PLENTY, Driver

LIMITS = HeapSettings()
TOPICS = 10_000
RUNS = 5
MANY = broker.BATCH_MAX


WITH_HEADERS = NewMessage(b"x", 0, 1000, 5000, broker.encode_headers({f"name-{n}": "value" for n in range(2)}), "key")
LARGEST = NewMessage(
    b"x" * LIMITS.payload_bytes, encoded_headers=broker.encode_headers({f"name-{n}": "x" * 50 for n in range(256)})
)


def many_topics(count: int = TOPICS, bound: int = 0) -> Driver:
    driver, settings = Driver(), TopicSettings(max_messages=bound, overflow="drop" if bound else "reject")
    driver.do(broker.CreateExchange("all", "fanout"))
    for number in range(count):
        driver.do(broker.CreateTopic(f"t{number}", settings))
        driver.do(broker.Bind("all", f"t{number}"))
    return driver


def reached_topics(*before: NewMessage, bound: int = 0) -> Driver:
    """As many topics as one publish may reach, with some messages in each."""
    driver = many_topics(LIMITS.fanout, bound)
    for message in before:
        driver.do(broker.Publish("all", "", message))
    return driver


def full_topic(expires_ms: int = 0) -> Driver:
    driver = Driver()
    driver.do(broker.CreateTopic("q", TopicSettings(max_messages=MANY, overflow="drop")))
    driver.do(broker.EnqueueMany("q", [NewMessage(b"x", number % 7, 0, expires_ms) for number in range(MANY)]))
    return driver


def many_patterns(topic_patterns: int = 1000) -> Driver:
    """2,000 patterns of fifteen words: twice what one topic may have."""
    driver = Driver()
    driver.do(broker.CreateExchange("e", "topic"))
    for number in range(2000):
        parts = ["a" if number >> place & 1 else "*" for place in range(11)]
        topic = f"t{number // topic_patterns}"
        if not number % topic_patterns:
            driver.do(broker.CreateTopic(topic))
        driver.do(broker.Bind("e", topic, ".".join(["#", *parts, "a", "#", "b"])))
    return driver


def full_of_large(count: int, payload_bytes: int) -> Driver:
    driver = Driver()
    driver.do(broker.CreateTopic("q", TopicSettings(max_messages=count, overflow="drop")))
    for number in range(count):
        driver.do(broker.Enqueue("q", NewMessage(bytes([number % 256]) * payload_bytes, number % 7)))
    return driver


def purged_large(count: int, payload_bytes: int) -> Driver:
    driver = full_of_large(count, payload_bytes)
    driver.do(broker.Purge("q"))
    return driver


def bound_by_headers(match: str, count: int, size: int) -> Driver:
    """Bindings of one topic with so many arguments. They share none of them."""
    driver = Driver()
    driver.do(broker.CreateTopic("q"))
    driver.do(broker.CreateExchange("h", "headers"))
    for number in range(count):
        driver.do(broker.Bind("h", "q", "", arguments_of(number, match, size)))
    return driver


def arguments_of(number: int, match: str, size: int) -> bytes:
    names = (f"argument-{place}" for place in range(size - 1))
    return broker.encode_arguments({"x-match": match, **dict.fromkeys(names, number)})


def bound_by_some_headers() -> Driver:
    """All nodes of the trie are reached by one message, until the steps are used up."""
    driver = Driver()
    driver.do(broker.CreateTopic("q"))
    driver.do(broker.CreateExchange("h", "headers"))
    for number in range(1 << 10):
        wanted = {f"n{place}": place for place in range(10) if number >> place & 1}
        driver.do(broker.Bind("h", "q", "", broker.encode_arguments(wanted)))
    return driver


MATCHING = broker.Publish(
    "h", "", NewMessage(b"x", encoded_headers=broker.encode_headers({f"n{n}": n for n in range(broker.HEADERS_MAX)}))
)
"""A publish to the exchange of `bound_by_some_headers`."""

LARGE = (
    (490, 8 << 20, "490 messages of 8 MiB"),
    (3000, 1 << 20, "3,000 messages of 1 MiB"),
    (10_000, 200_000, "10,000 messages of 200 KB"),
)


def filled(count: int = MANY, payload_bytes: int = 1) -> Driver:
    driver = Driver()
    driver.do(broker.CreateTopic("q"))
    for first in range(0, count, MANY):
        batch = range(first, min(count, first + MANY))
        driver.do(broker.EnqueueMany("q", [NewMessage(b"x" * payload_bytes, number % 7) for number in batch]))
    return driver


def trimmed() -> Driver:
    """A topic whose limit was lowered. Most of what is too much is still there."""
    driver = filled()
    driver.machine.apply(1, 1, 1, broker.encode(broker.UpdateTopic("q", {"max_messages": 1, "overflow": "drop"})))
    return driver


def held_back() -> Driver:
    """A topic whose deliveries are paused, with a consumer of much credit."""
    driver = filled()
    driver.do(broker.PauseTopic("q", deliveries=True))
    driver.do(broker.Subscribe("q", broker.CREDIT_MAX))
    return driver


def leased(count: int = MANY) -> Driver:
    driver = filled(count)
    driver.do(broker.Subscribe("q", broker.CREDIT_MAX))
    driver.work_off(PLENTY)
    driver.taken()
    return driver


def bound_often(count: int = LIMITS.topic_bindings) -> Driver:
    driver = Driver()
    driver.do(broker.CreateTopic("q"))
    driver.do(broker.CreateExchange("e", "topic"))
    for number in range(count):
        driver.do(broker.Bind("e", "q", f"user.{number}.#"))
    return driver


def many_consumers(topics: int = 1, group: int = 0, count: int = LIMITS.session_consumers) -> Driver:
    driver = Driver()
    for number in range(topics):
        driver.do(broker.CreateTopic(f"q{number}"))
    for number in range(count):
        driver.do(broker.Subscribe(f"q{number % topics}", 1, group=group))
    driver.taken()
    return driver


def many_owned() -> Driver:
    driver = Driver()
    driver.do(broker.CreateExchange("e", "topic"))
    for number in range(LIMITS.session_topics):
        driver.do(broker.CreateTopic(f"t{number}", TopicSettings(exclusive=True)))
        for key in range(LIMITS.topic_bindings // LIMITS.session_topics):
            driver.do(broker.Bind("e", f"t{number}", f"user.{key}.#"))
    return driver


def attached_group() -> Driver:
    driver = many_consumers(broker.CREDIT_GROUP_CONSUMERS_MAX, 1, broker.CREDIT_GROUP_CONSUMERS_MAX)
    for number in range(broker.CREDIT_GROUP_CONSUMERS_MAX):
        driver.do(broker.EnqueueMany(f"q{number}", [NewMessage(b"x")] * 100))
    driver.taken()
    return driver


def overtaking_groups(sessions: int = 39) -> Driver:
    """Full groups of 256 consumers of the same topics. All have asked for something more urgent."""
    count = broker.CREDIT_GROUP_CONSUMERS_MAX
    driver = Driver(sessions=sessions)
    for number in range(count):
        driver.do(broker.CreateTopic(f"q{number}"))
    for session in range(1, sessions + 1):
        for number in range(count):
            driver.do(broker.Subscribe(f"q{number}", 1, group=1), session)
        driver.do(broker.SetCredit(0, 0, 0, 1), session)
        driver.do(broker.Overtake(1, session % 7), session)
    driver.do(broker.Overtake(1, -1))
    for number in range(count):
        driver.do(broker.Enqueue(f"q{number}", NewMessage(b"x", -1)))
    return driver


def held_by_many() -> Driver:
    """Every consumer that a session may have holds 10 messages."""
    driver = many_consumers(10)
    for number in range(1, LIMITS.session_consumers + 1):
        driver.do(broker.SetCredit(number, 10))
    for number in range(10):
        driver.do(broker.EnqueueMany(f"q{number}", [NewMessage(b"x")] * MANY))
    driver.work_off(PLENTY)
    driver.taken()
    return driver


def leased_in_topics(count: int = broker.TOKENS_MAX) -> Driver:
    """Each lease is in another topic and has a deadline. Each message expires, and every credit group is full."""
    driver, group_size = Driver(), broker.CREDIT_GROUP_CONSUMERS_MAX
    for number in range(count):
        driver.do(broker.CreateTopic(f"q{number}"))
        driver.do(broker.Subscribe(f"q{number}", group_size, lease_ms=60_000, group=1 + number // group_size))
        driver.do(broker.Enqueue(f"q{number}", NewMessage(b"x", 0, 0, 90_000)))
    driver.work_off(PLENTY)
    driver.taken()
    return driver


MORTAL = TopicSettings(
    max_messages=MANY, overflow="drop", delivery_limit=2, dead_letter_topic="dead", retry_delay_ms=1000
)
SPREAD = TopicSettings(delivery_limit=1, dead_letter_exchange="all")


def mortal(settings: TopicSettings = MORTAL, expires_ms: int = 0, driver: Driver | None = None) -> Driver:
    """A full topic with a place for dead letters. Each message is a dead letter already, with 240 headers."""
    driver = driver or Driver()
    driver.do(broker.CreateTopic("q", settings))
    driver.do(broker.CreateTopic("dead", TopicSettings(message_ttl_ms=90_000)))
    headers = broker.encode_headers(
        {f"name-{number}": number for number in range(239)} | {broker.DEATH_HEADERS[0]: "expired"}
    )
    for _ in range(MANY // 50):
        message = NewMessage(b"x", 0, 0, expires_ms, headers, "key")
        driver.do(broker.EnqueueMany("q", [message] * 50))
    driver.work_off(PLENTY)
    driver.now += expires_ms
    return driver


def mortal_leases(settings: TopicSettings = MORTAL, count: int = MANY) -> Driver:
    """Leases of a consumer that was cancelled and takes nothing more."""
    driver = mortal(settings)
    consumer = driver.do(broker.Subscribe("q", count)).consumer
    driver.work_off(PLENTY)
    driver.do(broker.Cancel(consumer))
    driver.taken()
    return driver


def spread(expires_ms: int = 1000) -> Driver:
    """Each dead letter goes into 2,500 topics. Some messages wait to be dead-lettered."""
    driver = mortal(SPREAD, expires_ms, reached_topics())
    driver.wait(0, 100)
    return driver


def held_by_thousands() -> Driver:
    """As many consumers as an ack names tokens, with 100 leases each. The ids of one consumer follow each other."""
    driver = Driver()
    driver.do(broker.CreateTopic("q"))
    for _ in range(broker.TOKENS_MAX):
        driver.do(broker.Subscribe("q", 100))
        driver.do(broker.EnqueueMany("q", [NewMessage(b"x")] * 100))
    driver.taken()
    return driver


ONE_OF_EACH = [(1 + 100 * (number * 7 % broker.TOKENS_MAX), 1) for number in range(broker.TOKENS_MAX)]


def coming_back() -> Driver:
    """A session that is being sent all its leases again."""
    driver = leased(broker.CREDIT_MAX)
    driver.detach(1)
    driver.attach(1)
    driver.taken()
    return driver


TOKENS = [(1 + number * 7 % broker.TOKENS_MAX, 1) for number in range(broker.TOKENS_MAX)]
"""In no order."""


HELD = broker.Held([(number, 1) for number in range(1, broker.HELD_MAX + 1)])


PARTS = broker.BATCH_PARTS_MAX
ENQUEUES = [broker.Enqueue(f"t{number}", NewMessage(b"x" * 1000, 1, 0, 4000)) for number in range(PARTS)]
PUBLISH_ALL = broker.Publish("all", "", NewMessage(b"x" * 1000, 1, 0, 4000))
WITH_16_HEADERS = broker.Enqueue(
    "q", NewMessage(b"x", 0, 1000, 5000, broker.encode_headers({f"name-{n}": "value" for n in range(16)}), "key")
)
WALKS = [broker.Publish("e", ".".join(["a"] * 8 + [f"w{number}"]), NewMessage(b"x")) for number in range(PARTS // 18)]


def full_for_batch() -> Driver:
    return reached_topics(*[NewMessage(b"x", number % 2, 0, 5000) for number in range(20)], bound=20)


def reached_by_batch() -> Driver:
    driver = many_topics(720, 20)
    for number in range(20):
        driver.do(broker.Publish("all", "", NewMessage(b"x", number % 2, 0, 5000)))
    return driver


def prepared_acks(timeout_ms: int) -> broker.Prepare:
    return broker.Prepare("a", 1, timeout_ms, [broker.Ack(TOKENS[:PARTS])])


def prepared_enqueues() -> Driver:
    driver = full_for_batch()
    driver.do(broker.Prepare("a", 1, 0, ENQUEUES))
    return driver


def prepared_leases() -> Driver:
    driver = leased()
    driver.do(prepared_acks(0))
    driver.work_off(PLENTY)
    driver.taken()
    return driver


def many_transactions() -> Driver:
    driver = filled(1)
    for number in range(LIMITS.transactions):
        items = [broker.Enqueue("q", NewMessage(b"x"))] * 100
        driver.do(broker.Prepare(f"{number}", 1, 0, items), session=number + 1)
    return driver


def many_timeouts() -> Driver:
    """All transactions that may be open, over all groups that there may be, and their time is over."""
    driver, groups = filled(1), list(range(1, broker.GROUPS_MAX))
    for number in range(LIMITS.transactions):
        command = broker.Prepare(f"{number}", 1, 10, [broker.Enqueue("q", NewMessage(b"x"))], groups)
        driver.do(command, session=number + 1)
    driver.now += 10
    return driver


def prepared_for_a_group() -> Driver:
    """A participant of group 1."""
    driver = full_for_batch()
    driver.machine._state.group = driver.group = 1
    driver.do(broker.Prepare("a", 1, 0, ENQUEUES, coordinator=0))
    return driver


def many_decisions() -> Driver:
    """As many as may wait for another group: twice as many transactions were begun before the bound was reached."""
    driver = filled(1)
    for number in range(2 * LIMITS.outbox_messages - 1):
        if number == LIMITS.outbox_messages - 1:
            driver.wait(10)
        command = broker.Prepare(f"{number}", 1, 10, [broker.Enqueue("q", NewMessage(b"x"))], [1])
        driver.do(command, session=number + 1)
    driver.wait(10)
    return driver


def many_watches(sessions: int = 1, keys: int = LIMITS.session_watches) -> Driver:
    driver = Driver(sessions)
    names = [f"celery-task-meta-{number:036}" for number in range(keys)]
    for session in range(1, sessions + 1):
        for first in range(0, keys, broker.KEYS_MAX):
            driver.do(broker.Watch(names[first : first + broker.KEYS_MAX]), session)
    driver.taken()
    return driver


def many_values(count: int, value_bytes: int = 100, expires_ms: int = 0) -> Driver:
    driver = filled(1)
    for number in range(count):
        driver.do(broker.SetValue(f"v{number}", bytes([number % 256]) * value_bytes, expires_ms))
    driver.now += expires_ms
    return driver


def many_parts(expires_ms: int = 0) -> Driver:
    """A barrier with as many parts as it may have. Its last part is missing."""
    driver = reached_topics()
    message = broker.Publish("all", "", NewMessage(b"x" * 1000, 1, 0, 4000))
    driver.do(broker.SetBarrier("b", LIMITS.barrier_parts, 0, message, expires_ms))
    for number in range(LIMITS.barrier_parts - 1):
        driver.do(broker.SetValue(f"v{number}", b"x", barrier="b", order=number))
    driver.now += expires_ms
    return driver


KEYS = [f"v{number}" for number in range(broker.KEYS_MAX)]
WATCHED = [f"celery-task-meta-{number:036}" for number in range(broker.KEYS_MAX)]


class Case(NamedTuple):
    """`asked` is a command, a query, the body of an ATTACH, or the name of what else happens to session 1."""

    state: str
    build: Callable[[], Driver]
    asked: Any

    @property
    def name(self) -> str:
        if isinstance(self.asked, broker.Held):
            return "ATTACH"
        return self.asked if isinstance(self.asked, str) else type(self.asked).__name__


CASES = [
    Case("an empty topic", lambda: filled(1), broker.Enqueue("q", broker.NewMessage(b"x" * LIMITS.payload_bytes))),
    Case("2,500 topics", reached_topics, broker.Publish("all", "", NewMessage(b"x" * 1000, 0, 1000, 5000))),
    Case(
        "2,500 topics with a delayed message each",
        lambda: reached_topics(NewMessage(b"x", 0, 9000)),
        broker.Publish("all", "", NewMessage(b"x" * 1000, 0, 1000, 5000)),
    ),
    Case(
        "2,500 full topics that drop",
        lambda: reached_topics(*[NewMessage(b"x", number % 2, 0, 5000) for number in range(20)], bound=20),
        broker.Publish("all", "", NewMessage(b"x" * 1000, 1, 0, 4000)),
    ),
    Case(
        "2,000 patterns of wildcards",
        many_patterns,
        broker.Publish("e", ".".join(["a"] * 120), broker.NewMessage(b"x")),
    ),
    Case("an empty topic", lambda: filled(1), broker.EnqueueMany("q", [NewMessage(b"x", 0, 1000, 5000)] * MANY)),
    Case(
        "an empty topic, earlier and earlier",
        lambda: filled(1),
        broker.EnqueueMany("q", [NewMessage(b"x", 0, 20_000 - number, 30_000) for number in range(MANY)]),
    ),
    Case("a full topic that drops", full_topic, broker.EnqueueMany("q", [NewMessage(b"x", 9)] * MANY)),
    Case(
        "a full topic that drops, and all expire",
        lambda: full_topic(5000),
        broker.EnqueueMany("q", [NewMessage(b"x", 9, 0, 20_000 - number) for number in range(MANY)]),
    ),
    *(
        Case(
            f"a full topic that drops {name}",
            partial(full_of_large, count, payload_bytes),
            broker.EnqueueMany("q", [NewMessage(b"x", 9)] * count),
        )
        for count, payload_bytes, name in LARGE
    ),
    Case("an empty topic, with 20,000 headers", lambda: filled(1), broker.EnqueueMany("q", [WITH_HEADERS] * MANY)),
    Case("an empty topic, with 256 headers of 16 KiB", lambda: filled(1), broker.Enqueue("q", LARGEST)),
    Case("1,500 full topics that drop", full_for_batch, broker.Batch(ENQUEUES)),
    Case("10,000 leases, of which 1,500 are acknowledged", leased, broker.Batch([broker.Ack(TOKENS[:PARTS])])),
    Case("10,000 leases, of which 1,500 come back later", leased, broker.Batch([broker.Nack(TOKENS[:PARTS], 1000)])),
    Case("720 full topics that drop, two publishes to all", reached_by_batch, broker.Batch([PUBLISH_ALL] * 2)),
    Case(
        "an empty topic, 750 messages with 16 headers",
        lambda: filled(1),
        broker.Batch([WITH_16_HEADERS] * (PARTS // 2)),
    ),
    Case("2,000 patterns of wildcards, different keys", many_patterns, broker.Batch(WALKS)),
    Case("10,000 leases, of which 1,500 are frozen", leased, prepared_acks(0)),
    Case("1,500 messages for full topics that drop", full_for_batch, broker.Prepare("a", 1, 0, ENQUEUES)),
    Case("1,500 messages for full topics that drop", prepared_enqueues, broker.Commit("a", 1)),
    Case("1,500 frozen messages", prepared_leases, broker.Abort("a", 1)),
    Case(
        "1,500 messages for full topics that drop",
        prepared_for_a_group,
        broker.GroupMessage(0, 1, broker.Decision("a", 1, True)),
    ),
    Case("1,999 decisions for one group", many_decisions, broker.Confirm(1, 2 * LIMITS.outbox_messages)),
    Case("64 groups", lambda: filled(1), broker.SetGroups(list(range(broker.GROUPS_MAX)))),
    Case("1,000 transactions with 100 messages each", many_transactions, broker.ListTransactions()),
    Case("10,000 messages", filled, broker.Subscribe("q", broker.CREDIT_MAX)),
    Case("2,000 messages of 8 KiB", lambda: filled(2000, 8 << 10), broker.Subscribe("q", broker.CREDIT_MAX, 1 << 40)),
    Case("20 messages of 1 MiB", lambda: filled(20, 1 << 20), broker.Subscribe("q", broker.CREDIT_MAX, 1 << 40)),
    Case("20 messages of 1 MiB", lambda: filled(20, 1 << 20), broker.Peek("q", 1000)),
    Case("20 messages of 1 MiB", lambda: filled(20, 1 << 20), broker.Browse("q")),
    Case("10,000 messages", filled, broker.Pop("q", MANY)),
    Case("10,000 messages", filled, broker.Purge("q")),
    *(
        Case(name, partial(purged_large, count, payload_bytes), "free by 500 units")
        for count, payload_bytes, name in LARGE
    ),
    Case("a group of 256 consumers", attached_group, broker.SetCredit(0, broker.CREDIT_MAX, 0, 1)),
    *(
        Case("256 topics, whose 39 full groups wait for something more urgent", overtaking_groups, command)
        for command in (
            broker.SetCredit(0, broker.CREDIT_MAX, 0, 1),
            broker.Overtake(1, -2),
            broker.Enqueue("q0", NewMessage(b"x")),
        )
    ),
    *(
        Case(state, build, command)
        for command in (
            broker.Ack(TOKENS),
            broker.Nack(TOKENS),
            broker.Nack(TOKENS, 1000),
            broker.Nack(TOKENS, 0, True),
            broker.Extend(TOKENS, 1000),
        )
        for state, build in (("10,000 leases", leased), ("2,500 topics with a lease each", leased_in_topics))
    ),
    Case("2,500 consumers with 100 leases each, one is named of each", held_by_thousands, broker.Ack(ONE_OF_EACH)),
    Case("2,500 consumers with 100 leases each, one is named of each", held_by_thousands, broker.Nack(ONE_OF_EACH, 1)),
    Case("a full topic that drops into another", mortal, broker.EnqueueMany("q", [NewMessage(b"x", 9)] * MANY)),
    *(
        Case("10,000 leases of messages that died before", mortal_leases, command)
        for command in (broker.Nack(TOKENS), broker.Nack(TOKENS, 1000), broker.Nack(TOKENS, 0, True), "EXPIRE")
    ),
    Case("10,000 leases of messages that die for 2,500 topics", lambda: mortal_leases(SPREAD), broker.Nack(TOKENS)),
    Case("10,000 messages that die again", lambda: mortal(expires_ms=1000), "advance by 500 units"),
    Case("10,000 messages that die for 2,500 topics", spread, "advance by 500 units"),
    Case("10,000 consumers with 10 leases each", held_by_many, broker.Recover(list(range(1, MANY + 1)))),
    Case("10,000 leases", leased, broker.Cancel(1, True)),
    Case("4,999 bindings", lambda: bound_often(4999), broker.Bind("e", "q", ".".join(["*"] * 120))),
    Case("5,000 bindings", bound_often, broker.Unbind("e", "q", "user.0.#")),
    Case("5,000 bindings", bound_often, broker.DeleteTopic("q")),
    Case("5,000 bindings", bound_often, broker.DeleteExchange("e")),
    *(
        Case(
            f"{shape[1]:,} bindings by {shape[0]} of {shape[2] - 1} headers",
            partial(bound_by_headers, *shape),
            asked,
        )
        for shape in (("all", 5000, 3), ("any", 5000, 3), ("all", 1000, 16), ("any", 1000, 16))
        for asked in (
            broker.DeleteTopic("q"),
            broker.DeleteExchange("h"),
            broker.Unbind("h", "q", "", arguments_of(7, shape[0], shape[2])),
            broker.ListExchanges("h"),
        )
    ),
    Case("1,024 bindings by headers, and all match", bound_by_some_headers, MATCHING),
    Case("10,000 consumers", many_consumers, broker.DeleteTopic("q0")),
    Case("10,000 messages", filled, broker.UpdateTopic("q", {"max_messages": 1, "overflow": "drop"})),
    Case(
        "10,000 messages that die",
        filled,
        broker.UpdateTopic("q", {"max_messages": 1, "overflow": "drop", "dead_letter_topic": "dead"}),
    ),
    Case("10,000 messages", trimmed, "advance by 500 units"),
    Case("10,000 messages and a consumer", held_back, broker.PauseTopic("q", deliveries=False)),
    Case("10,000 topics", many_topics, broker.CreateTopic("a")),
    Case("10,000 topics", many_topics, broker.CreateExchange("a")),
    Case("10,000 topics", many_topics, broker.GetStats()),
    Case("10,000 topics", many_topics, broker.ListTopics()),
    Case("10,000 topics", many_topics, broker.ListExchanges("all")),
    Case("10,000 messages", filled, broker.DescribeTopic("q")),
    Case("10,000 messages", filled, broker.Peek("q", 1000)),
    Case("10,000 messages", filled, broker.Browse("q")),
    Case("100,000 messages", lambda: filled(100_000), broker.Explain("q", 99_999)),
    Case("10,000 consumers with 10 leases each", held_by_many, broker.Explain("q0", 1)),
    Case("100,000 messages, of which none is shown", lambda: filled(100_000), broker.Browse("q", ready=False)),
    Case("10,000 consumers with 10 leases each", held_by_many, broker.Peek("q0", 1000, leased=True)),
    Case("10,000 consumers with 10 leases each", held_by_many, broker.DescribeTopic("q0", holders=broker.HOLDERS_MAX)),
    Case("10,000 consumers with 10 leases each", held_by_many, broker.Held([])),
    Case("65,535 leases, of which 50,000 are named", lambda: leased(broker.CREDIT_MAX), HELD),
    Case("10,000 consumers with 10 leases each, of which 50,000 are named", held_by_many, HELD),
    Case("10,000 consumers with 10 leases each", held_by_many, "DETACH"),
    Case("65,535 leases that are sent again", coming_back, "DETACH"),
    Case("10,000 consumers with 10 leases each", held_by_many, "EXPIRE"),
    Case("1,000 exclusive topics with 5 bindings each", many_owned, "EXPIRE"),
    Case("10,000 messages", filled, "advance by 500 units"),
    Case(
        "1,000 sessions watch the key",
        lambda: many_watches(LIMITS.key_watches, 1),
        broker.SetValue(WATCHED[0], b"x" * 8000),
    ),
    Case("a value of 8 MiB", lambda: many_values(1, 8 << 20), broker.SetValue("v0", b"x" * LIMITS.payload_bytes)),
    Case("the last of 100,000 parts, a message for 2,500 topics", many_parts, broker.SetValue("v", b"x", barrier="b")),
    Case("complete now, a message for 2,500 topics", many_parts, broker.SetBarrier("b", LIMITS.barrier_parts - 1)),
    Case("99,999 parts", many_parts, broker.CloseBarrier("b")),
    Case("99,999 parts", many_parts, broker.Batch([broker.CloseBarrier("b")])),
    Case("99,999 parts", many_parts, broker.GetParts("b", 90_000)),
    Case("99,999 parts whose time is over", lambda: many_parts(1000), "advance by 500 units"),
    Case("10,000 values", lambda: many_values(MANY), broker.DeleteValues(KEYS)),
    Case("1,000 values of 1 MiB", lambda: many_values(1000, 1 << 20), broker.DeleteValues(KEYS)),
    Case("10,000 values", lambda: many_values(MANY), broker.GetValues(KEYS)),
    Case("1,000 values of 1 MiB", lambda: many_values(1000, 1 << 20), broker.GetValues(KEYS)),
    Case("10,000 values", lambda: many_values(MANY), broker.Watch(KEYS)),
    Case("19,000 watches", lambda: many_watches(1, 19_000), broker.Watch(KEYS)),
    Case("20,000 watches", many_watches, broker.Unwatch(WATCHED)),
    Case("20,000 watches", many_watches, "EXPIRE"),
    Case("10,000 values whose time is over", lambda: many_values(MANY, 100, 1000), "advance by 500 units"),
    Case("1,000 transactions over 64 groups whose time is over", many_timeouts, "advance by 500 units"),
]


def carry_out(driver: Driver, case: Case) -> tuple[bytes, Any]:
    """The reply and the pushes. Both are empty if the call is refused."""
    machine = driver.machine
    try:
        match case.asked:
            case broker.Held():
                return machine.session_attached(1, broker.encode(case.asked))
            case "DETACH":
                return b"", machine.session_detached(1)
            case "EXPIRE":
                return b"", machine.session_expired(1)
            case "free by 500 units":
                return b"", machine.advance(driver.now, 500)[1]
            case "advance by 500 units":
                if "q" in machine._state.topics:
                    driver.do(broker.Subscribe("q", broker.CREDIT_MAX))
                return b"", machine.advance(driver.now, 500)[1]
        body = broker.encode(case.asked)
        if isinstance(case.asked, broker.Query):
            return machine.query(0, 1, body), ()
        session = 0 if isinstance(case.asked, broker.GroupMessage | broker.Confirm | broker.SetGroups) else 1
        return machine.apply(driver.index + 1, driver.now, session, body)
    except CommandRefused:
        return b"", ()


def bytes_of(result: tuple[bytes, Any]) -> int:
    reply, pushes = result
    return len(reply) + sum(len(body) for _, body in pushes)


class Cost(NamedTuple):
    milliseconds: float
    milliseconds_with_view: float
    bytes_sent: int
    bytes_left: int


def measure(case: Case) -> Cost:
    """Measures each call in a new state."""
    without, with_view = (median(milliseconds(case, is_open) for _ in range(RUNS)) for is_open in (False, True))
    driver = case.build()
    tracemalloc.start()
    result = carry_out(driver, case)
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return Cost(without, with_view, bytes_of(result), left)


def milliseconds(case: Case, with_view: bool) -> float:
    """The processor's time of the call. As in a node, no garbage collector runs."""
    driver = case.build()
    view = driver.machine.snapshot() if with_view else None
    gc.collect()
    gc.disable()
    began = time.process_time()
    result = carry_out(driver, case)
    taken = (time.process_time() - began) * 1000
    gc.enable()
    del view, result
    return taken


if __name__ == "__main__":
    print("| call | state | ms | ms while a view is open | bytes sent | bytes left |")
    print("|---|---|---|---|---|---|")
    for one in CASES:
        cost = measure(one)
        print(
            f"| `{one.name}` | {one.state} | {cost.milliseconds:.1f} | {cost.milliseconds_with_view:.1f} "
            f"| {cost.bytes_sent:,} | {cost.bytes_left:,} |",
            flush=True,
        )
