"""Transactions: nothing is seen before the decision, nobody decides alone, and no decision counts twice."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

TX = "tests/heap/test_transactions.py::"

MUTANTS = (
    Mutant(
        "abort-is-not-counted",
        "an entry of aborts that each drop 1,500 prepared messages is applied in one go",
        (Patch("disheap_heap:_undo", "    state.units += _held_units(transaction)\n", ""),),
        ("tests/heap/test_transactions.py::test_the_work_of_an_abort_is_counted",),
        simulated=False,
    ),
    Mutant(
        "participant-decides-alone",
        "a participant whose coordinator is silent for a second aborts what the others have committed",
        (
            Patch(
                "disheap_heap:prepare",
                "state.now_ms + command.timeout_ms if command.timeout_ms else 0",
                "state.now_ms + (command.timeout_ms or 1000)",
            ),
        ),
        (TX + "test_a_participant_never_decides_alone",),
    ),
    Mutant(
        "coordinator-never-aborts",
        "a transaction whose client has died holds its messages for ever",
        (Patch("disheap_heap:prepare", "    if deadline_ms:\n", "    if False:\n"),),
        (TX + "test_a_coordinators_transaction_is_aborted_when_its_time_is_over",),
    ),
    Mutant(
        "prepared-messages-without-room",
        "a commit puts more messages into a topic than its limit allows",
        (
            Patch(
                "disheap_heap:_hold_back",
                "            topic.reserve(step.message.delay_ms > 0)\n",
                "            pass\n",
            ),
            Patch("disheap_heap:_enqueue", "        topic.unreserve(is_delayed)\n", ""),
        ),
        (TX + "test_prepared_messages_have_room_in_their_topics",),
    ),
    Mutant(
        "room-of-an-aborted-transaction-stays-taken",
        "a topic takes no more messages after some transactions were aborted",
        (Patch("disheap_heap:_unreserve", "        topic.unreserve(is_delayed)\n", "        pass\n"),),
        (TX + "test_an_abort_gives_the_room_up",),
    ),
    Mutant(
        "frozen-message-lost-by-an-abort",
        "the message that an aborted transaction would have acknowledged is gone",
        (
            Patch(
                "disheap_heap:_undo",
                "        put_back(state, topic, frozen.message, ABORTED)\n",
                "        drop_message(state, frozen.message)\n",
            ),
        ),
        (TX + "test_an_abort_gives_a_frozen_message_back_to_its_place",),
    ),
    Mutant(
        "frozen-message-keeps-its-epoch",
        "a message that an abort gives back is delivered under the lease that it had before",
        (Patch("disheap_heap:_freeze", "lease.message.after(lease.epoch)", "lease.message"),),
        (TX + "test_an_abort_gives_a_frozen_message_back_to_its_place",),
    ),
    Mutant(
        "outcome-is-not-remembered",
        "a commit that is repeated because its answer was lost is refused as unknown",
        (Patch("disheap_heap:Transactions.finish", "        self.remember(transaction.name, outcome, limit)\n", ""),),
        (TX + "test_a_repeated_decision_is_answered_as_the_first_one_was",),
    ),
    Mutant(
        "early-abort-is-not-remembered",
        "a prepare that was overtaken by its abort waits for ever",
        (
            Patch(
                "disheap_heap:abort",
                "        state.transactions.remember(name, outcome, state.settings.finished_transactions)\n",
                "        pass\n",
            ),
        ),
        (TX + "test_an_abort_before_its_prepare_refuses_the_prepare",),
    ),
    Mutant(
        "any-epoch-decides",
        "a driver that was replaced commits the attempt of its successor",
        (Patch("disheap_heap:_require_epoch", "    if known != epoch:", "    if known < epoch:"),),
        (TX + "test_another_epoch_is_refused",),
    ),
    Mutant(
        "commit-after-an-abort-counts",
        "a transaction that was aborted by its time is committed in some of its groups",
        (Patch("disheap_heap:commit", "        if not finished.is_committed:", "        if False:"),),
        (TX + "test_a_decision_against_the_first_one_is_refused",),
    ),
    Mutant(
        "outcomes-without-bound",
        "the memory of a node grows with every transaction that it ever had",
        (Patch("disheap_heap:Transactions.remember", "        if len(self.finished) > limit:", "        if False:"),),
        (TX + "test_outcomes_are_remembered_within_a_bound",),
        simulated=False,
    ),
    Mutant(
        "transactions-of-a-session-without-bound",
        "one client uses up all transactions of a group",
        (Patch("disheap_heap:_check_limits", "    if of_session >= settings.session_transactions:", "    if False:"),),
        (TX + "test_open_transactions_are_bounded",),
        simulated=False,
    ),
    Mutant(
        "prepared-bytes-without-bound",
        "prepared messages take all the memory of a node",
        (
            Patch(
                "disheap_heap:_check_bytes",
                "    if state.transactions.prepared_bytes + size > limit:",
                "    if False:",
            ),
        ),
        (TX + "test_prepared_bytes_are_bounded",),
        simulated=False,
    ),
    Mutant(
        "snapshot-loses-frozen-messages",
        "a replica that was restored has lost the messages whose acks are prepared",
        (Patch("disheap_heap:View.frozen", "                yield one, frozen", "                yield from ()"),),
        (TX + "test_a_restored_replica_decides_alike",),
    ),
    Mutant(
        "restored-topics-have-no-room-reserved",
        "a replica that was restored takes a message that the others refuse",
        (Patch("disheap_heap:_Restorer._reserve", "            topic.reserve(is_delayed)", "            pass"),),
        (TX + "test_a_restored_topic_keeps_the_room_of_open_transactions",),
    ),
    Mutant(
        "view-shows-a-frozen-message-twice",
        "a snapshot has a message both in its transaction and in its topic",
        (Patch("disheap_heap:_undo", "        if state.views:\n", "        if False:\n"),),
        (TX + "test_a_view_shows_a_frozen_message_where_it_was",),
    ),
    Mutant(
        "topic-of-an-open-transaction-is-empty",
        "a message whose ack is prepared is lost with its topic, which was deleted because it seemed to be empty",
        (Patch("disheap_heap:delete_topic", "command.if_empty and topic.reserved:", "False:"),),
        (TX + "test_a_topic_with_messages_of_an_open_transaction_is_not_empty",),
        simulated=False,
    ),
    Mutant(
        "abort-by-time-counts-one-unit",
        "a hundred transactions that end at one moment stop a node while they give their messages back",
        (
            Patch(
                "disheap_heap:time_out",
                "return 1 + _held_units(transaction) + len(transaction.participants)",
                "return 1 + len(transaction.participants)",
            ),
        ),
        (TX + "test_an_abort_by_time_counts_its_work",),
        simulated=False,
    ),
    Mutant(
        "id-of-a-frozen-message-forgotten",
        "a snapshot lacks a message that an abort gave back, because its id was removed meanwhile",
        (
            Patch(
                "disheap_heap:needed_ids",
                "    if state.transactions.frozen:\n",
                "    if False:\n",
            ),
        ),
        (TX + "test_a_snapshot_after_an_abort_has_what_was_frozen_long",),
    ),
)
