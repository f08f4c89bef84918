"""Sample commands and queries of every kind, for tests that know no machine: the conformance suite, the simulator.

They may be sent in any order and by several sessions. Some are refused and most change something. Together they bring
messages into every state.
"""

from __future__ import annotations

from disheap.protocol.broker import (
    Abort,
    Ack,
    Batch,
    Bind,
    Browse,
    Cancel,
    CloseBarrier,
    Command,
    Commit,
    Confirm,
    CreateExchange,
    CreateTopic,
    Decision,
    DeleteExchange,
    DeleteTopic,
    DeleteValues,
    DescribeTopic,
    Enqueue,
    EnqueueMany,
    Explain,
    Extend,
    GetParts,
    GetStats,
    GetValues,
    GroupMessage,
    Inquiry,
    ListExchanges,
    ListTopics,
    ListTransactions,
    Nack,
    NewMessage,
    Overtake,
    PauseTopic,
    Peek,
    Pop,
    Prepare,
    Publish,
    Purge,
    Query,
    Recover,
    SetBarrier,
    SetCredit,
    SetGroups,
    SetValue,
    Subscribe,
    TopicSettings,
    Unbind,
    Unwatch,
    UpdateTopic,
    Watch,
    encode_arguments,
    encode_headers,
)
from disheap_heap.encoding import encode

HEADERS = encode_headers({"tenant": "blue", "retries": 3, "share": 0.5, "paid": True, "raw": b"\x00\xff"})
ARGUMENTS = encode_arguments({"tenant": "blue", "paid": True, "share": 0.5, "x-match": "all"})

_TOPICS: list[Command] = [
    CreateTopic("t"),
    CreateTopic("t"),
    CreateTopic("least", TopicSettings("min", 50, 400, priority_max=3)),
    CreateTopic("brief", TopicSettings(expires_ms=300, auto_delete=True)),
    CreateTopic("mine", TopicSettings(exclusive=True)),
    DeleteTopic("brief", if_unused=True),
    Purge("least"),
    UpdateTopic("least", {"max_messages": 2, "overflow": "drop"}),
    UpdateTopic("least", {"priority_max": 0, "message_ttl_ms": 0}, 2),
    UpdateTopic("t", {"dead_letter_topic": "t"}),
    PauseTopic("least", deliveries=True),
    PauseTopic("brief", enqueues=True),
    PauseTopic("least", False, False),
    PauseTopic("brief", False, False),
    CreateExchange("e", "topic"),
    CreateExchange("f", "fanout", auto_delete=True),
    CreateExchange("g", "direct", alternate="e"),
    DeleteExchange("f", if_unused=True),
    Bind("e", "t", "a.*"),
    Bind("e", "least", "#"),
    Bind("f", "mine"),
    Bind("f", "t"),
    Unbind("f", "mine"),
    CreateExchange("h", "headers"),
    Bind("h", "t", "", ARGUMENTS),
    Bind("h", "least", "k", encode_arguments({"tenant": None, "x-match": "any"})),
    Unbind("h", "least", "k", encode_arguments({"tenant": None, "x-match": "any"})),
]

_MESSAGES: list[Command] = [
    Enqueue("t", NewMessage(b"plain", 3)),
    Enqueue("t", NewMessage(b"urgent", 1 << 40)),
    Enqueue("t", NewMessage(b"delayed", 1, delay_ms=120)),
    Enqueue("brief", NewMessage(b"short-lived", 0, expires_ms=60)),
    EnqueueMany("t", [NewMessage(b"one", -1), NewMessage(b"two", 5, 80, 500), NewMessage(b"three" * 100, 5)]),
    Publish("e", "a.b", NewMessage(b"routed", 2)),
    Publish("f", "", NewMessage(b"to all", -2)),
    Publish("g", "a.b", NewMessage(b"by the alternate", 1)),
    Publish("h", "k", NewMessage(b"by headers", 1, encoded_headers=HEADERS)),
    Publish("", "mine", NewMessage(b"direct")),
    Enqueue("t", NewMessage(b"with headers", 2, encoded_headers=HEADERS, key="customer-7")),
    Publish("e", "a.b", NewMessage(b"with a key", 1, key="customer-8")),
    EnqueueMany("t", [NewMessage(b"", 0, 30, 0, HEADERS), NewMessage(b"none"), NewMessage(b"", key="k")]),
    Enqueue("t", NewMessage(b"refused", encoded_headers=HEADERS[:-1])),
]

_BATCHES: list[Command] = [
    Batch([Enqueue("t", NewMessage(b"first of two", 1)), Publish("e", "a.b", NewMessage(b"second of two", 2))]),
    Batch([Enqueue("least", NewMessage(b"later", 1, 60, 300)), Enqueue("least", NewMessage(b"now", key="k"))]),
    Batch([Enqueue("t", NewMessage(b"not to be seen")), Enqueue("not there", NewMessage(b""))]),
    *(Batch([Ack([(number, 1)]), Enqueue("t", NewMessage(b"done"))]) for number in range(12, 16)),
    *(Batch([Nack([(number, 1)], 30 * (number % 2)), Ack([(number + 2, 1)])]) for number in range(16, 18)),
]

_TRANSACTIONS: list[Command] = [
    Prepare("one", 1, 0, [Enqueue("t", NewMessage(b"prepared", 1)), Publish("e", "a.b", NewMessage(b"", 2, key="k"))]),
    Prepare("two", 1, 300, [Enqueue("least", NewMessage(b"coordinated", 0, 20))]),
    Prepare("three", 5, 0, [Enqueue("t", NewMessage(b"aborted"))]),
    *(Prepare(f"ack {number}", 1, 200 * (number % 2), [Ack([(number, 1)])]) for number in range(1, 8)),
    Commit("ack 1", 1),
    Abort("ack 2", 1),
    Commit("three", 4),
    Abort("three", 5),
    Commit("three", 5),
    Commit("unknown", 1),
    Abort("early", 2),
    Prepare("early", 2, 0, [Enqueue("t", NewMessage(b"late"))]),
    *(Prepare(f"far {number}", 1, 9 * number, [Enqueue("t", NewMessage(b"far"))], [1, 2]) for number in range(1, 13)),
    *(Prepare(f"long {number}", 1, 900_000, [Enqueue("t", NewMessage(b"far"))], [1, 2]) for number in range(16)),
    Prepare("ends far", 1, 10, [Enqueue("t", NewMessage(b""))], [2, 5]),
]

_DECISIONS: list[Command] = [
    Commit("one", 1),
    Commit("one", 1),
    *(Commit(f"ack {number}", 1) for number in (3, 4)),
    *(Commit(f"far {number}", 1) for number in range(1, 4)),
    *(Commit(f"long {number}", 1) for number in range(16)),
    *(Abort(f"far {number}", 1) for number in range(3, 7)),
]

_GROUPS: list[Command] = [
    GroupMessage(1, 1, Decision("one", 1, True)),
    GroupMessage(1, 2, Inquiry("far 1", 1)),
    GroupMessage(2, 1, Inquiry("nobody knows it", 1)),
    Confirm(2, 1),
    SetGroups([0, 1, 2]),
]

_CONSUMERS: list[Command] = [
    Subscribe("t", 3, lease_ms=90),
    Subscribe("t", 2, 10),
    Subscribe("least", 1, no_ack=True),
    Subscribe("brief", 5),
    Subscribe("t", 1, group=1),
    Subscribe("least", 2, group=1),
    SetCredit(0, 1, 0, 1),
    Overtake(1, 2),
    Pop("t", 2, wait_ms=200),
    Pop("mine", 1),
    *(SetCredit(number, 1 + number % 3) for number in range(1, 4)),
    *(Cancel(number, give_back=number % 2 == 0) for number in range(3, 6)),
    Recover([1, 2]),
]

_SETTLING: list[Command] = [
    *(Ack([(number, epoch)]) for number in range(1, 12) for epoch in (1, 2)),
    *(Nack([(number, 1)], delay_ms=40 * (number % 2)) for number in range(1, 12)),
    Nack([(4, 1), (5, 1), (6, 2)], discard=True),
    Extend([(1, 1), (2, 1), (3, 2)], 250),
]

_DEATHS: list[Command] = [
    CreateTopic("mortal", TopicSettings("max", 3, 50, overflow="drop", delivery_limit=1, dead_letter_topic="dead")),
    CreateTopic("failing", TopicSettings(delivery_limit=2, dead_letter_exchange="e", dead_letter_key="a.b")),
    CreateTopic("slow", TopicSettings(retry_delay_ms=20, retry_delay_max_ms=90, delivery_limit=3)),
    EnqueueMany("mortal", [NewMessage(b"many", number % 3, 0, 0, HEADERS) for number in range(30)]),
    *(Enqueue(topic, NewMessage(b"dies", 1)) for topic in ("failing", "slow", "mortal")),
    *(Pop(topic, 1, lease_ms=40) for topic in ("failing", "slow", "mortal", "dead")),
    *(Nack([(number, 1)], release=True) for number in range(40, 60, 2)),
    *(Nack([(number, 1)], error="failed") for number in range(41, 60, 2)),
    Nack([(1, 1)], release=True, discard=True),
    Cancel(9, give_back=True, release=True),
]

_VALUES: list[Command] = [
    SetBarrier("gate", message=Publish("", "t", NewMessage(b"all are here", 2)), lifetime_ms=400),
    SetBarrier("gate", 2),
    Watch(["a", "b", "a"]),
    SetValue("a", b"half done", stage=0),
    SetValue("a", b"result", 200, 2, "gate", 1),
    SetValue("a", b"result of another attempt", 200, 1, "gate", 1),
    Unwatch(["b"]),
    Watch(["b", "c"]),
    SetValue("b", b"x" * 1000, 0, 1, "gate", 0),
    Batch([CloseBarrier("gate"), Publish("", "t", NewMessage(b"after the gate"))]),
    CloseBarrier("gate"),
    SetBarrier("brief", 1, 1, Publish("e", "a.b", NewMessage(b"of two", delay_ms=50)), 30),
    SetValue("c", b"", 60, 1, "brief", -1),
    SetBarrier("open"),
    CloseBarrier("open"),
    DeleteValues(["a", "never set"]),
]


def sample_commands() -> list[bytes]:
    """Valid commands of every kind, encoded."""
    kinds = (_TOPICS, _MESSAGES, _CONSUMERS, _BATCHES, _TRANSACTIONS, _SETTLING, _DECISIONS, _GROUPS, _VALUES, _DEATHS)
    return [encode(command) for commands in kinds for command in commands]


_QUERIES: list[Query] = [
    GetStats(),
    ListTopics(),
    ListTopics("", "least", 1),
    DescribeTopic("t"),
    DescribeTopic("t", False, 3),
    Peek("t", 5, delayed=True, leased=True),
    Browse("t"),
    Explain("t", 1),
    Explain("t", 1 << 40),
    Browse("t", 2, 1, ready=False),
    ListExchanges(),
    ListExchanges("e"),
    ListExchanges("", 1, 2),
    ListTransactions(),
    ListTransactions("one"),
    ListTransactions("three"),
    GetValues(["a", "b", "c", "never set"]),
    GetParts("gate"),
    GetParts("brief", 0, 1),
]


def sample_queries() -> list[bytes]:
    """Valid queries of every kind, encoded."""
    return [encode(query) for query in _QUERIES]
