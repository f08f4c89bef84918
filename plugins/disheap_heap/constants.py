"""Constants of the heap machine that decide a reply, a push, or the order of what is done.

They belong to a `machine_version`. A change of one is a change of behaviour, as a new command is. It needs a new
version, below which the old value stays in use. Nodes compare the constants of each version that both run, and refuse
each other if they differ (`interfaces.FixedConstants`).
"""

from __future__ import annotations

from disheap.protocol.broker import deaths, fields
from disheap_heap import settings
from disheap_heap.commands import dead_letters, exchanges
from disheap_heap.delivery import credit
from disheap_heap.state import messages, prepared
from disheap_heap.tables import timers

CONSTANTS: dict[int, dict[str, int]] = {
    1: {
        "ARGUMENTS_BYTES_MAX": fields.ARGUMENTS_BYTES_MAX,
        "ARGUMENTS_MAX": fields.ARGUMENTS_MAX,
        "MAX_ANSWER_BYTES": settings.MAX_ANSWER_BYTES,
        "BATCH_HEADERS_MAX": fields.BATCH_HEADERS_MAX,
        "BATCH_MAX": fields.BATCH_MAX,
        "BATCH_PARTS_MAX": fields.BATCH_PARTS_MAX,
        "CONSUMERS_PER_UNIT": credit.CONSUMERS_PER_UNIT,
        "CHANGES_MAX": fields.CHANGES_MAX,
        "CREDIT_BYTES_MAX": fields.CREDIT_BYTES_MAX,
        "CREDIT_GROUP_CONSUMERS_MAX": fields.CREDIT_GROUP_CONSUMERS_MAX,
        "CREDIT_GROUP_MAX": fields.CREDIT_GROUP_MAX,
        "CREDIT_MAX": fields.CREDIT_MAX,
        "DURATION_MAX_MS": fields.DURATION_MAX_MS,
        "MAX_END_UNITS_PER_CALL": settings.MAX_END_UNITS_PER_CALL,
        "EPOCH_MAX": fields.EPOCH_MAX,
        "GROUPS_MAX": fields.GROUPS_MAX,
        "HEADERS_BYTES_MAX": fields.HEADERS_BYTES_MAX,
        "HEADERS_MAX": fields.HEADERS_MAX,
        "HEADERS_PER_BATCH_UNIT": settings.HEADERS_PER_BATCH_UNIT,
        "HELD_MAX": fields.HELD_MAX,
        "KEY_BYTES_MAX": fields.KEY_BYTES_MAX,
        "INQUIRE_AFTER_MS": settings.INQUIRE_AFTER_MS,
        "INQUIRE_PAUSE_MAX_MS": settings.INQUIRE_PAUSE_MAX_MS,
        "INQUIRY": timers.INQUIRY,
        "LEASE": timers.LEASE,
        "LEASES_PER_UNIT": settings.LEASES_PER_UNIT,
        "MAX_ALTERNATES": exchanges.MAX_ALTERNATES,
        "MESSAGE": timers.MESSAGE,
        "MESSAGES_PER_ABORT_UNIT": settings.MESSAGES_PER_ABORT_UNIT,
        "NAMED_MAX": fields.NAMED_MAX,
        "NAME_CHARACTERS": fields.NAME_CHARACTERS,
        "NO_GROUP": prepared.NO_GROUP,
        "POP": timers.POP,
        "POP_MAX": settings.POP_MAX,
        "PRIORITY_MAX": fields.PRIORITY_MAX,
        "PRIORITY_MIN": fields.PRIORITY_MIN,
        "MAX_RESENT_PER_REPLY": settings.MAX_RESENT_PER_REPLY,
        "MAX_RETURNS_PER_CALL": settings.MAX_RETURNS_PER_CALL,
        "MAX_SCANNED_PER_CALL": settings.MAX_SCANNED_PER_CALL,
        "MAX_DELIVERIES_PER_CALL": settings.MAX_DELIVERIES_PER_CALL,
        "MAX_PUSH_BYTES_PER_CALL": settings.MAX_PUSH_BYTES_PER_CALL,
        "TOKENS_MAX": fields.TOKENS_MAX,
        "TOPIC": timers.TOPIC,
        "TRANSACTION": timers.TRANSACTION,
        "UNITS_PER_PART": settings.UNITS_PER_PART,
        "BARRIER": timers.BARRIER,
        "VALUE": timers.VALUE,
        "NO_TOPIC": timers.NO_TOPIC,
        "KEYS_PER_UNIT": settings.KEYS_PER_UNIT,
        "PARTS_PER_UNIT": settings.PARTS_PER_UNIT,
        "PUSHED_VALUE_BYTES_MAX": settings.PUSHED_VALUE_BYTES_MAX,
        "KEYS_MAX": fields.KEYS_MAX,
        "ATTEMPTS": messages.ATTEMPTS,
        "DEAD_LETTER_UNITS": settings.DEAD_LETTER_UNITS,
        "DELIVERY_LIMIT_MAX": fields.DELIVERY_LIMIT_MAX,
        "ERROR_CHARACTERS": fields.ERROR_CHARACTERS,
        "HISTORY_MAX": deaths.HISTORY_MAX,
        "MAX_DEAD_LETTER_UNITS_PER_CALL": settings.MAX_DEAD_LETTER_UNITS_PER_CALL,
        "MAX_TRIMMED_PER_CALL": settings.MAX_TRIMMED_PER_CALL,
        "MAX_PASSED": dead_letters.MAX_PASSED,
        "RELEASED": messages.RELEASED,
        "TALLY_MAX": messages.TALLY_MAX,
        "PARTS_PAGE": fields.PARTS_PAGE,
        "STAGE_INTERIM": fields.STAGE_INTERIM,
        "STAGE_DONE": fields.STAGE_DONE,
        "STAGE_FINAL": fields.STAGE_FINAL,
        "WORDS_PER_UNIT": settings.WORDS_PER_UNIT,
    }
}
"""By the version since which they hold."""
