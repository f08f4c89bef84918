"""Constants of the heap machine that decide what a replica does: they belong to a version of the machine.

A change of one is a change of behaviour, as a new command is. The replicas of two nodes that differ would diverge. So a
change needs a new `machine_version`, below which the old value stays in use.
"""

from __future__ import annotations

import importlib
import pkgutil

import disheap_heap
from disheap.protocol import broker
from disheap_heap.constants import CONSTANTS
from disheap_heap.machine import HeapMachine
from tests.support.constants import int_constants

VALUES = {
    1: {
        "MAX_ANSWER_BYTES": 1 << 20,
        "BATCH_HEADERS_MAX": 20_000,
        "BATCH_MAX": 10_000,
        "BATCH_PARTS_MAX": 1_500,
        "CONSUMERS_PER_UNIT": 16,
        "CREDIT_BYTES_MAX": 1 << 40,
        "CREDIT_GROUP_CONSUMERS_MAX": 256,
        "CREDIT_GROUP_MAX": (1 << 31) - 1,
        "CREDIT_MAX": 65_535,
        "DURATION_MAX_MS": (1 << 47) - 1,
        "MAX_END_UNITS_PER_CALL": 250,
        "EPOCH_MAX": (1 << 62) - 1,
        "GROUPS_MAX": 64,
        "HEADERS_BYTES_MAX": 16 << 10,
        "HEADERS_MAX": 256,
        "HEADERS_PER_BATCH_UNIT": 4,
        "HELD_MAX": 50_000,
        "KEY_BYTES_MAX": 255,
        "INQUIRE_AFTER_MS": 5000,
        "INQUIRE_PAUSE_MAX_MS": 60_000,
        "INQUIRY": 5,
        "LEASE": 1,
        "LEASES_PER_UNIT": 8,
        "MAX_ALTERNATES": 4,
        "MESSAGE": 0,
        "MESSAGES_PER_ABORT_UNIT": 16,
        "NAMED_MAX": 200_000,
        "NAME_CHARACTERS": 255,
        "NO_GROUP": -1,
        "POP": 2,
        "POP_MAX": 10_000,
        "PRIORITY_MAX": (1 << 63) - 1,
        "PRIORITY_MIN": -(1 << 63),
        "MAX_RESENT_PER_REPLY": 5_000,
        "MAX_RETURNS_PER_CALL": 250,
        "MAX_SCANNED_PER_CALL": 20_000,
        "MAX_DELIVERIES_PER_CALL": 512,
        "MAX_PUSH_BYTES_PER_CALL": 8 << 20,
        "TOKENS_MAX": 2_500,
        "TOPIC": 3,
        "TRANSACTION": 4,
        "UNITS_PER_PART": 4,
        "ARGUMENTS_BYTES_MAX": 4096,
        "ARGUMENTS_MAX": 16,
        "WORDS_PER_UNIT": 4,
        "ATTEMPTS": (1 << 32) - 1,
        "DEAD_LETTER_UNITS": 4,
        "DELIVERY_LIMIT_MAX": (1 << 31) - 1,
        "ERROR_CHARACTERS": 1024,
        "HISTORY_MAX": 10,
        "MAX_DEAD_LETTER_UNITS_PER_CALL": 250,
        "MAX_PASSED": 16,
        "CHANGES_MAX": 64,
        "MAX_TRIMMED_PER_CALL": 250,
        "RELEASED": 1 << 32,
        "TALLY_MAX": (1 << 63) - (1 << 32) - 1,
        "BARRIER": 7,
        "KEYS_MAX": 1000,
        "KEYS_PER_UNIT": 4,
        "NO_TOPIC": 0,
        "PARTS_PAGE": 1000,
        "PARTS_PER_UNIT": 64,
        "PUSHED_VALUE_BYTES_MAX": 65536,
        "STAGE_DONE": 1,
        "STAGE_FINAL": 2,
        "STAGE_INTERIM": 0,
        "VALUE": 6,
    }
}
"""By version, written down once more: a change of a constant must not go unnoticed."""

DECIDES_NOTHING = {
    "ARGUMENTS_PER_ANSWER",
    "ARGUMENT_COPIES",
    "ARMED_BYTES",
    "DYING_BYTES",
    "BARRIER_BYTES",
    "BINDING_BYTES",
    "BLOCK_BYTES_MAX",
    "BLOCK_ROWS",
    "BYTES_PER_RECORD",
    "CHUNK",
    "CHUNKS_SWEPT",
    "COMMAND_OVERHEAD_BYTES",
    "CONSUMER_AT",
    "CONSUMER_BYTES",
    "CONTENT_BYTES",
    "DELIVERED",
    "DELIVERIES_PER_SWEEP",
    "DROPPED_AT_ONCE",
    "DROPPED_BYTES",
    "ENTRY_BYTES_MAX",
    "EXCHANGE_BYTES",
    "FEW",
    "FINISHED_BYTES",
    "FORMAT",
    "IDS_PER_PAGE",
    "ID_MAX",
    "FREED_AT_ONCE",
    "FREED_BYTES_PER_CALL",
    "FROZEN_BYTES",
    "HEADERS_PER_UNIT",
    "HOLDERS_MAX",
    "IDS_PER_PAUSE",
    "IDS_PER_RECORD",
    "ID_BYTES",
    "LARGE_BYTES",
    "LEASE_BYTES",
    "LOOK_MASK",
    "MAX_CACHED_KEYS",
    "MAX_CACHED_TOPICS",
    "MAX_CHUNK",
    "MERGED_MAX",
    "MESSAGE_BYTES",
    "ORDER_SPAN",
    "OUTBOX_BYTES",
    "PAGE_ROWS",
    "PARTITION_MAX",
    "PART_BYTES",
    "PATTERN_NODE_BYTES",
    "PIECE_BYTES",
    "PLACE_BYTES",
    "PREPARED_BYTES",
    "PRIORITIES_MAX",
    "PUBLISH_TAG",
    "READY_AT_ONCE",
    "RECORDS_AT_ONCE",
    "RELAYED",
    "RESEND_BYTES",
    "ROW_BYTES",
    "SERIES_MAX",
    "SESSION_BYTES",
    "SHARDS",
    "SPARE_BYTES",
    "STEPS_PER_UNIT",
    "TAIL_MIN",
    "TIMER_BYTES",
    "TOKENS_FREED_AT_ONCE",
    "TOLD_BYTES",
    "TOPIC_BYTES",
    "TRANSACTION_BYTES",
    "TUPLE_BYTES",
    "UNITS_AT_ONCE",
    "UNITS_PER_CHUNK",
    "VALUE_BYTES",
    "WATCH_BYTES",
}
"""The constants of estimates, of caches, of pauses, of queries and of files."""


def test_constants_that_decide_what_a_replica_does_belong_to_the_version() -> None:
    modules = [
        importlib.import_module(one.name)
        for package in (disheap_heap, broker)
        for one in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    constants = int_constants(*modules)
    deciding = {name: value for name, value in constants.items() if name not in DECIDES_NOTHING}
    assert deciding == CONSTANTS[HeapMachine.versions[1]], "a node does not tell the others of all its constants"
    assert deciding == VALUES[HeapMachine.versions[1]]
    assert constants.keys() >= DECIDES_NOTHING
