"""How many bytes one call may create: of its reply and pushes, and of records. They are counted, not measured.

Each case of `worst_case` is the state that is worst for one command, query or session event within the default limits.
"""

from __future__ import annotations

from typing import get_args

import pytest

from disheap.protocol import broker
from disheap_heap.settings import MAX_PUSH_BYTES_PER_CALL, MAX_SCANNED_PER_CALL, HeapSettings
from disheap_heap.state.footprint import RESEND_BYTES

from .worst_case import CASES, Case, bytes_of, carry_out

pytestmark = pytest.mark.proof

SENT_BYTES_MAX = MAX_PUSH_BYTES_PER_CALL + HeapSettings().payload_bytes + (1 << 20)
"""Payloads that one call pushes, one message more, and 1 MiB for all that comes with them and for a reply."""

RECORD_BYTES_MAX = 6_000_000
"""10,000 messages that are delayed and expire, with headers: each takes a timer and one record more."""

RECORD_BYTES_MAX_BY_NAME = {"ATTACH": (broker.HELD_MAX + broker.CREDIT_MAX + MAX_SCANNED_PER_CALL) * RESEND_BYTES}
"""The records, in the cases that need more. Until all leases are sent again, the state has those that the client named,
and those to be sent that are found so far."""

SENT_BYTES_MAX_BY_NAME = {
    "Enqueue": 64,
    "EnqueueMany": 16,
    "Batch": 32 << 10,
    "Prepare": 100 << 10,
    "Commit": 16,
    "Abort": 16 << 10,
    "GroupMessage": 16,
    "Confirm": 16,
    "SetGroups": 16,
    "ListTransactions": 200 << 10,
    "Publish": 16,
    "SetCredit": 16 << 10,
    "Overtake": 1 << 10,
    "Ack": 200 << 10,
    "Nack": 200 << 10,
    "Extend": 200 << 10,
    "Recover": 16 << 10,
    "Cancel": 16 << 10,
    "Purge": 16,
    "CreateTopic": 1 << 10,
    "UpdateTopic": 1 << 10,
    "DeleteTopic": 1 << 20,
    "CreateExchange": 16,
    "DeleteExchange": 16,
    "Bind": 16,
    "Unbind": 16,
    "DescribeTopic": 1 << 10,
    "GetStats": 1 << 10,
    "ListTopics": 1 << 20,
    "ListExchanges": 1 << 20,
    "Peek": 2 << 20,
    "Browse": 2 << 20,
    "Explain": 2 << 20,
    "ATTACH": 2 << 20,
    "DETACH": 0,
    "EXPIRE": 0,
}
"""Bytes of the reply and the pushes, where they are fewer than `SENT_BYTES_MAX`."""


def test_every_command_query_and_event_has_a_case() -> None:
    asked = {kind.__name__ for kind in (*get_args(broker.Command), *get_args(broker.Query))}
    assert asked | {"ATTACH", "DETACH", "EXPIRE"} <= {case.name for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, {case.state}")
def test_one_call_creates_a_bounded_number_of_bytes(case: Case) -> None:
    driver = case.build()
    before, brought = driver.machine.memory_bytes(), _payload_bytes(case)
    sent = bytes_of(carry_out(driver, case))
    assert sent <= min(SENT_BYTES_MAX, SENT_BYTES_MAX_BY_NAME.get(case.name, SENT_BYTES_MAX))
    allowed = RECORD_BYTES_MAX_BY_NAME.get(case.name, RECORD_BYTES_MAX)
    assert driver.machine.memory_bytes() - before <= allowed + brought


def _payload_bytes(case: Case) -> int:
    match case.asked:
        case broker.Enqueue(message=message) | broker.Publish(message=message):
            return _bytes_of(message)
        case broker.EnqueueMany(messages=messages):
            return sum(map(_bytes_of, messages))
        case broker.Batch(items=items) | broker.Prepare(items=items):
            return sum(_bytes_of(one.message) for one in items if isinstance(one, broker.Enqueue | broker.Publish))
    return 0


def _bytes_of(message: broker.NewMessage) -> int:
    return len(message.payload) + len(message.encoded_headers) + len(message.key)
