"""Bugs in what passes by the leader without the log."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

HEAP = "tests/heap/test_relaying.py::"
RUNTIME = "tests/runtime/test_relay.py::"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "relayed-to-who-takes-leases",
        "a transient message for a consumer with leases comes without one, and is lost with its connection",
        (Patch("disheap_heap.commands.relaying", "consumer.no_ack and ", ""),),
        (HEAP + "test_whoever_takes_leases_is_served_by_the_log",),
    ),
    Mutant(
        "relayed-past-those-that-take-turns",
        "of several consumers of one queue the first one gets every transient message",
        (Patch("disheap_heap.commands.relaying", "len(topic.consumers) != 1", "not topic.consumers"),),
        (HEAP + "test_several_consumers_take_turns_which_the_log_has_to_know",),
    ),
    Mutant(
        "answers-before-their-reader-are-lost",
        "the answers to a broadcast that come before its sender consumes them are dropped",
        (
            Patch(
                "disheap_heap.commands.relaying",
                "        if consumer is None or topic.holds_back or topic.is_closed:\n            return None\n",
                "        if consumer is None:\n            continue\n",
            ),
        ),
        (HEAP + "test_a_message_waits_in_the_log_where_nobody_consumes_yet",),
        simulated=False,
    ),
    Mutant(
        "relayed-past-those-that-wait",
        "an event overtakes those that wait for the same consumer",
        (Patch("disheap_heap.commands.relaying", "topic.ready.chunks or ", ""),),
        (HEAP + "test_a_message_does_not_overtake_those_that_wait",),
        simulated=False,
    ),
    Mutant(
        "delay-lost-on-the-way",
        "a transient message with a delay comes at once",
        (Patch("disheap_heap.commands.relaying", "if message.delay_ms:", "if False:"),),
        (HEAP + "test_what_waits_or_is_refused_goes_by_the_log",),
        simulated=False,
    ),
    Mutant(
        "monitor-that-does-not-read-fills-the-memory",
        "events for a client that does not read are kept without bound",
        (
            Patch(
                "disheap:Relay.send", "connection.closed or connection.unsent() > UNSENT_BYTES_MAX", "connection.closed"
            ),
        ),
        (RUNTIME + "test_a_client_that_is_gone_or_reads_too_slowly_loses_pushes",),
        simulated=False,
    ),
    Mutant(
        "overtaken-by-the-log",
        "a transient message waits for others, and a later one that went through the log comes before it",
        (Patch("disheap:ClientConnection.flush", "queue[:0] = self.gathered", "queue += self.gathered"),),
        ("tests/client/test_real_nodes.py::test_a_message_of_the_log_does_not_overtake_a_transient_one",),
        simulated=False,
    ),
    Mutant(
        "relayed-and-logged",
        "a transient message that was passed on goes into the log as well, and comes twice",
        (
            Patch(
                "disheap:Server.submit_transient",
                "            self.relay.send(self.group.applied.index, pushes)\n            return\n",
                "            self.relay.send(self.group.applied.index, pushes)\n",
            ),
        ),
        ("tests/client/test_real_nodes.py::test_a_transient_message_passes_without_the_log",),
    ),
    Mutant(
        "dropped-messages-not-counted",
        "transient messages for a client without a connection vanish from the metrics",
        (
            Patch(
                "disheap_heap.commands.relaying",
                "        if session.attached and (",
                "        if not session.attached:\n            continue\n        if (",
            ),
        ),
        ("tests/heap/test_relaying.py::test_a_message_for_a_consumer_without_a_connection_is_pushed_nevertheless",),
        simulated=False,
    ),
)
