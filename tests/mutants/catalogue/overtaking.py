"""Messages beyond the credit of a group, for a worker that waits for something more urgent."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

OVERTAKING = "tests/heap/test_overtaking.py::"

TOPICS = "tests/heap/test_topics.py::"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "batch-ignores-the-bound-of-priorities",
        "messages of a batch overtake all others of a queue with x-max-priority",
        (
            Patch(
                "disheap_heap:_add_slice",
                "topic.rank_of(new.priority) if clamps else new.priority * sign",
                "new.priority * sign",
            ),
        ),
        (TOPICS + "test_priorities_stay_within_the_bound_of_the_topic",),
        simulated=False,
    ),
    Mutant(
        "negative-priorities-are-not-clamped",
        "a negative priority comes after 0 in a queue with x-max-priority",
        (
            Patch(
                "disheap_heap:Topic.rank_of",
                "min(max(priority, lowest), highest)",
                "min(priority, highest)",
            ),
        ),
        (TOPICS + "test_priorities_stay_within_the_bound_of_the_topic",),
        simulated=False,
    ),
    Mutant(
        "request-for-urgent-messages-is-never-used-up",
        "a worker that asked once for something more urgent is sent every urgent message that there is",
        (
            Patch(
                "disheap_heap:_serve_overtaking",
                "        overtaking.disarm(state, consumer.group)\n",
                "        if len(consumer.group.consumers) > 9:\n            overtaking.disarm(state, consumer.group)\n",
            ),
        ),
        (OVERTAKING + "test_a_full_group_is_sent_one_message_that_is_more_urgent",),
    ),
    Mutant(
        "equal-messages-overtake",
        "messages of the same priority overtake each other, and go back and forth between broker and workers",
        (
            Patch(
                "disheap_heap.delivery.overtaking",
                "    return consumer if -first.rank > above else None\n",
                "    return consumer if -first.rank >= above else None\n",
            ),
        ),
        (OVERTAKING + "test_a_full_group_is_sent_one_message_that_is_more_urgent",),
    ),
    Mutant(
        "urgent-messages-come-before-the-request-only",
        "an urgent message waits behind the tasks of a worker whose request came after it",
        (
            Patch(
                "disheap_heap:overtake",
                "    serve_overtaking_group(state, group)\n",
                "",
            ),
        ),
        (OVERTAKING + "test_a_message_that_is_ready_is_sent_at_once",),
    ),
    Mutant(
        "urgent-message-goes-to-the-first-topic",
        "of several urgent messages the one of the first queue is sent, and not the most urgent one",
        (
            Patch(
                "disheap_heap.delivery.overtaking",
                "if first is None or (best is not None and first.rank >= least):",
                "if first is None or best is not None:",
            ),
        ),
        (OVERTAKING + "test_a_message_that_is_ready_is_sent_at_once",),
        simulated=False,
    ),
    Mutant(
        "request-lost-with-the-connection",
        "after a change of leader workers are sent nothing urgent any more while they are busy",
        (
            Patch(
                "disheap_heap:_leave_turns",
                "        overtaking.update_group(group)\n",
                "        overtaking.disarm(state, group)\n",
            ),
        ),
        (OVERTAKING + "test_a_session_without_connection_gets_it_when_it_is_back",),
    ),
    Mutant(
        "snapshot-without-requests-for-urgent-messages",
        "a restored node forgets which groups wait for something more urgent, and falls out of step",
        (Patch("disheap_heap:_tables", "for key, above in view.armed", "for key, above in view.armed[:0]"),),
        (OVERTAKING + "test_a_restored_node_knows_who_asked_and_in_which_order",),
    ),
    Mutant(
        "urgent-message-waits-when-the-group-fills-up",
        "a worker gets a message of one queue with its last credit, and the urgent one of another queue waits",
        (
            Patch(
                "disheap_heap:serve_next_freed_group",
                "    serve_overtaking_group(state, group)\n",
                "",
            ),
        ),
        (OVERTAKING + "test_a_freed_group_that_fills_up_elsewhere_gets_what_it_asked_for",),
        simulated=False,
    ),
)
