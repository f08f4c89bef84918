"""What a message carries: headers, the key, and how often it was delivered."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

CODEC = "tests/protocol/test_headers.py::"
HEADERS = "tests/heap/test_headers.py::"
CLIENTS = "tests/client/test_headers.py::"
FOOTPRINT = "tests/heap/test_footprint.py::"

MUTANTS = (
    Mutant(
        "snapshot-loses-headers",
        "a message that was written into a snapshot has no headers after the restart",
        (
            Patch(
                "disheap_heap:_body",
                "msgspec.convert(form, Content)",
                'msgspec.convert((form[0], b"", form[2]), Content)',
            ),
        ),
        (
            HEADERS + "test_headers_need_no_key_and_a_key_no_headers",
            FOOTPRINT + "test_what_is_counted_is_what_is_held_also_in_a_restored_state",
        ),
    ),
    Mutant(
        "headers-mixed-between-the-messages-of-a-batch",
        "every message of a batch gets the headers and the key of the first",
        (
            Patch(
                "disheap_heap:enqueue_many",
                "    bodies = [check_message(state, message) for message in command.messages]\n",
                "    one = command.messages[0]\n"
                "    mixed = [\n"
                "        type(one)(each.payload, 0, 0, 0, one.encoded_headers, one.key) for each in command.messages\n"
                "    ]\n"
                "    bodies = [check_message(state, message) for message in mixed]\n",
            ),
        ),
        (HEADERS + "test_each_message_of_a_batch_has_its_own_headers_and_key",),
    ),
    Mutant(
        "key-lost-by-a-nack",
        "a message that comes back from a lease has lost its headers and its key",
        (
            Patch(
                "disheap_heap:Message.after",
                "expires_at_ms, body))",
                'expires_at_ms, getattr(body, "payload", body)))',
            ),
        ),
        (HEADERS + "test_a_key_survives_all_ways_back_into_the_topic_and_to_the_client",),
    ),
    Mutant(
        "key-not-delivered",
        "a delivery has the headers of its message and no key",
        (Patch("disheap_heap:deliver", "attempts + 1, headers, key", "attempts + 1, headers"),),
        (HEADERS + "test_headers_and_key_come_with_the_message_as_they_were_sent",),
    ),
    Mutant(
        "no-ack-delivery-is-always-the-first",
        "a no-ack consumer is not told that the message was delivered before",
        (
            Patch("disheap_heap:_deliver", "body, until_ms, attempts + 1)", "body, until_ms, max(1, epoch))"),
            Patch("disheap_heap:deliver", "attempts + 1, headers, key", "max(1, epoch), headers, key"),
        ),
        (HEADERS + "test_a_no_ack_delivery_says_whether_it_is_the_first",),
    ),
    Mutant(
        "headers-count-for-no-credit",
        "a consumer with a credit in bytes is sent a gigabyte of headers",
        (
            Patch(
                "disheap_heap:Content.__len__",
                "len(self.payload) + len(self.encoded_headers) + key_bytes",
                "len(self.payload)",
            ),
        ),
        (
            HEADERS + "test_headers_and_key_count_as_bytes_wherever_payload_does",
            HEADERS + "test_the_credit_in_bytes_bounds_headers",
        ),
    ),
    Mutant(
        "memory-of-headers-is-not-given-back",
        "the estimate of the memory grows with each message with headers that is gone",
        (Patch("disheap_heap:uncount_extras", "        state.contents -= 1\n", "        pass\n"),),
        (HEADERS + "test_the_estimate_of_headers_falls_when_their_messages_are_gone",),
        simulated=False,
    ),
    Mutant(
        "headers-of-a-foreign-client-are-not-checked",
        "the machine stores any bytes as headers, which no consumer can read",
        (Patch("disheap_heap:check_message", "        message.check_headers()\n", "        pass\n"),),
        (HEADERS + "test_what_a_foreign_client_sends_is_refused_and_changes_nothing",),
        simulated=False,
    ),
    Mutant(
        "header-named-twice-is-taken",
        "of a header that is there twice the last one counts for one reader, and the first one for another",
        (Patch("disheap.protocol:decode_headers", "if len(headers) != count:", "if False:"),),
        (CODEC + "test_bytes_that_are_no_headers_are_refused",),
        simulated=False,
    ),
    Mutant(
        "nested-headers-are-taken",
        "a header may be a list, which replicas with another stack read or refuse",
        (
            Patch(
                "disheap.protocol:decode_headers",
                "if headers is None or not _VALUE_TYPES.issuperset(map(type, headers.values())):",
                "if headers is None:",
            ),
        ),
        (CODEC + "test_bytes_that_are_no_headers_are_refused",),
        simulated=False,
    ),
    Mutant(
        "headers-of-a-batch-without-bound",
        "10,000 messages with 250 headers each stop a node for a second",
        (Patch("disheap.protocol:check_batch", "if count > BATCH_HEADERS_MAX:", "if False:"),),
        (HEADERS + "test_a_batch_with_too_many_headers_is_refused_before_they_are_decoded",),
        simulated=False,
    ),
    Mutant(
        "batch-sent-unchecked",
        "a client sends a batch with bad headers, and learns of it from the node",
        (Patch("disheap.client:new_batch", "        message.check_headers()\n", ""),),
        (CLIENTS + "test_the_blocking_client_sends_and_delivers_headers_and_key",),
        simulated=False,
    ),
)
