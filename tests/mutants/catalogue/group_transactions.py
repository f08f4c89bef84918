"""Transactions over several groups: one decision, told to all, taken once, and nothing left of it."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

TX = "tests/heap/test_group_transactions.py::"
VIEWS = "tests/heap/test_views.py::"
CLIENT = "tests/client/test_two_phase.py::"
GROUPS = 3

MUTANTS = (
    Mutant(
        "participants-are-not-told",
        "a decision is carried out in the coordinator's group alone, and the others wait for ever",
        (
            Patch(
                "disheap_heap:_finish",
                "for group in transaction.participants)",
                "for group in ())",
            ),
        ),
        (TX + "test_a_commit_is_told_to_all_participants_and_leaves_nothing",),
        groups=GROUPS,
    ),
    Mutant(
        "one-participant-is-told",
        "with three groups the last one waits until it asks",
        (Patch("disheap_heap:_finish", "in transaction.participants)", "in transaction.participants[:1])"),),
        (TX + "test_a_commit_is_told_to_all_participants_and_leaves_nothing",),
        groups=GROUPS,
    ),
    Mutant(
        "participants-are-told-commit-whatever-was-decided",
        "an aborted transaction is carried out by the participants",
        (Patch("disheap_heap:_finish", "transaction.epoch, outcome.is_committed)", "transaction.epoch, True)"),),
        (TX + "test_an_abort_is_told_to_all_participants",),
        groups=GROUPS,
    ),
    Mutant(
        "confirmation-forgets-all-decisions",
        "a group that has confirmed the first decision never gets the others",
        (Patch("disheap_heap:Outbox.confirm", "min(number, queue.last)", "queue.last"),),
        (TX + "test_a_confirmation_forgets_no_later_message",),
        groups=GROUPS,
    ),
    Mutant(
        "message-of-a-group-taken-again",
        "a decision that arrives late a second time moves the count back, and the next one is taken for a repeated one",
        (
            Patch(
                "disheap_heap:take_message",
                "if command.number == taken + 1:",
                "if command.number <= taken + 1:",
            ),
        ),
        (TX + "test_a_message_that_comes_again_changes_nothing",),
        groups=GROUPS,
    ),
    Mutant(
        "message-of-a-group-taken-before-its-turn",
        "a decision that was lost is never taken, because a later one was taken before it",
        (
            Patch("disheap_heap:take_message", "if command.number > taken + 1:", "if False:"),
            Patch("disheap_heap:take_message", "if command.number == taken + 1:", "if command.number > taken:"),
        ),
        (TX + "test_a_message_before_the_one_in_front_of_it_is_refused",),
        groups=GROUPS,
    ),
    Mutant(
        "client-passes-for-a-group",
        "any client can commit the transactions of others half, or have decisions forgotten",
        (Patch("disheap_heap:_require_leader", "    if session:\n", "    if False:\n"),),
        (TX + "test_a_client_cannot_pass_for_a_group",),
        simulated=False,
    ),
    Mutant(
        "client-aborts-a-participant",
        "any client drops in one group what the others have committed",
        (Patch("disheap_heap:abort", "        _require_decider(transaction, command.force)\n", ""),),
        (TX + "test_a_client_aborts_a_participant_by_force_alone",),
        simulated=False,
    ),
    Mutant(
        "client-commits-a-participant",
        "any client carries out in one group what the coordinator's group then aborts in all others",
        (Patch("disheap_heap:commit", "    _require_decider(transaction, command.force)\n", ""),),
        (TX + "test_a_client_commits_a_participant_by_force_alone",),
        simulated=False,
    ),
    Mutant(
        "any-group-decides",
        "a group that is not the coordinator's ends a transaction that was prepared under the same name",
        (Patch("disheap_heap:_decide", " and transaction.coordinator == source", ""),),
        (TX + "test_a_decision_of_another_group_than_the_coordinators_changes_nothing",),
        simulated=False,
    ),
    Mutant(
        "decision-on-another-attempt-counts",
        "a late decision on the first attempt ends the second one",
        (Patch("disheap_heap:_decide", "transaction.epoch == decision.epoch and ", ""),),
        (TX + "test_a_decision_on_another_attempt_changes_no_transaction",),
        simulated=False,
    ),
    Mutant(
        "early-abort-of-the-coordinator-forgotten",
        "a PREPARE that comes after the abort holds its messages until it asks",
        (Patch("disheap_heap:_decide", "if not decision.is_committed and (", "if False and ("),),
        (TX + "test_an_abort_that_comes_before_its_prepare_refuses_it",),
        groups=GROUPS,
    ),
    Mutant(
        "question-about-an-open-transaction-answered-with-abort",
        "a participant that asks early drops what the others commit",
        (Patch("disheap_heap:_answer", "if is_open or ", "if "),),
        (TX + "test_a_question_about_an_open_transaction_is_not_answered_yet",),
        groups=GROUPS,
    ),
    Mutant(
        "unknown-transaction-answered-with-commit",
        "a participant carries out what its coordinator's group never began, or has lost",
        (
            Patch(
                "disheap_heap:_answer",
                "is_committed = finished is not None and",
                "is_committed = finished is None or",
            ),
        ),
        (TX + "test_a_transaction_that_the_coordinator_does_not_know_is_aborted",),
        groups=GROUPS,
    ),
    Mutant(
        "presumed-abort-forgotten",
        "a group is told to abort what its coordinator's group then prepares, and commits in all the others",
        (
            Patch(
                "disheap_heap:_answer",
                "if transaction is None and (finished is None or finished.epoch < epoch):",
                "if False:",
            ),
        ),
        (TX + "test_a_prepare_that_comes_after_a_presumed_abort_is_refused",),
        simulated=False,
    ),
    Mutant(
        "later-attempt-aborted-while-an-earlier-one-is-open",
        "a participant is told to abort an attempt that its coordinator's group then prepares and commits",
        (Patch("disheap_heap:_answer", "transaction.epoch <= epoch", "transaction.epoch == epoch"),),
        (TX + "test_a_question_about_a_later_attempt_waits_for_the_end_of_the_earlier_one",),
        simulated=False,
    ),
    Mutant(
        "decisions-by-time-cost-nothing",
        "a thousand transactions over 64 groups that end at one moment stop a node for a third of a second",
        (Patch("disheap_heap:time_out", " + len(transaction.participants)", ""),),
        (TX + "test_an_abort_by_time_counts_its_participants_as_work",),
        simulated=False,
    ),
    Mutant(
        "decisions-for-participants-cost-nothing",
        "a group takes so many decisions in one step that it stops, because their messages are not counted",
        (
            Patch(
                "disheap_heap:_finish",
                "    state.units += len(transaction.participants)\n",
                "",
            ),
        ),
        (TX + "test_a_decision_counts_its_participants_as_work",),
        simulated=False,
    ),
    Mutant(
        "committed-transaction-answered-with-abort",
        "a participant that was restored from an earlier moment drops what the others have",
        (Patch("disheap_heap:_answer", " and finished.is_committed", " and False"),),
        (TX + "test_a_question_about_a_committed_transaction_is_answered_with_commit",),
        groups=GROUPS,
    ),
    Mutant(
        "participant-asks-without-end",
        "each open transaction of a group whose coordinator is away adds a question every five seconds",
        (
            Patch(
                "disheap_heap:inquire",
                "if not state.outbox.is_waiting(transaction.coordinator, inquiry):",
                "if True:",
            ),
        ),
        (TX + "test_a_participant_asks_and_asks_again_only_after_a_confirmation",),
        groups=GROUPS,
    ),
    Mutant(
        "questions-without-a-growing-pause",
        "a thousand transactions of a long timeout ask two hundred times a second, and fill two logs with it",
        (Patch("disheap_heap:inquire", "min(2 * pause_ms, INQUIRE_PAUSE_MAX_MS)", "pause_ms"),),
        (TX + "test_the_pause_between_questions_grows_up_to_a_bound",),
        simulated=False,
    ),
    Mutant(
        "pause-between-questions-without-bound",
        "a participant asks after days, and its messages are out of reach until then",
        (Patch("disheap_heap:inquire", "min(2 * pause_ms, INQUIRE_PAUSE_MAX_MS)", "2 * pause_ms"),),
        (TX + "test_the_pause_between_questions_grows_up_to_a_bound",),
        simulated=False,
    ),
    Mutant(
        "participant-never-asks",
        "a transaction whose decision was lost with a backup is open for ever",
        (
            Patch("disheap_heap:prepare", "    if command.coordinator != NO_GROUP:\n", "    if False:\n"),
            Patch("disheap_heap:_finish", "    if transaction.coordinator != NO_GROUP:\n", "    if False:\n"),
        ),
        (TX + "test_a_transaction_that_the_coordinator_does_not_know_is_aborted",),
        simulated=False,
    ),
    Mutant(
        "any-group-coordinates",
        "two groups can both have the record of one transaction, and decide differently",
        (Patch("disheap_heap:_check_roles", " or groups[0] <= own", ""),),
        (TX + "test_the_lowest_group_is_the_coordinators",),
        simulated=False,
    ),
    Mutant(
        "unknown-group-takes-part",
        "a typing error in a group's number leaves a decision that nobody takes, and fills the bound of that group",
        (Patch("disheap_heap:_check_roles", "if group not in state.groups:", "if False:"),),
        (TX + "test_a_group_that_is_not_there_is_refused",),
        groups=GROUPS,
    ),
    Mutant(
        "snapshot-without-the-groups",
        "a replica that was restored refuses every transaction over groups, and its state is another one",
        (Patch("disheap_heap:_Restorer._machine", "transaction, tuple(groups)", "transaction, state.groups"),),
        (TX + "test_a_group_that_is_not_there_is_refused",),
        groups=GROUPS,
    ),
    Mutant(
        "client-names-the-groups",
        "any client has all transactions over groups refused",
        (Patch("disheap_heap:set_groups", "    _require_leader(session)\n", ""),),
        (TX + "test_a_client_cannot_pass_for_a_group",),
        simulated=False,
    ),
    Mutant(
        "groups-are-not-told",
        "no transaction over groups is ever taken",
        (Patch("disheap:NodeCommands.tell_groups", "if command is not None:", "if False:"),),
        ("tests/client/test_group_batches.py::test_a_transaction_with_a_group_that_takes_no_messages_is_refused",),
        simulated=False,
    ),
    Mutant(
        "decisions-wait-without-bound",
        "a group without a leader fills the memory of every group that has transactions with it",
        (Patch("disheap_heap:_check_outbox", "if waiting >= state.settings.outbox_messages:", "if False:"),),
        (TX + "test_what_waits_for_a_group_is_bounded",),
        simulated=False,
    ),
    Mutant(
        "snapshot-without-the-outbox",
        "a leader that was restored from a snapshot does not tell the decisions of before",
        (
            Patch(
                "disheap_heap:_tables",
                '    yield "outbox", _sized(row for queue in view.queues for row in queue.rows())\n',
                "",
            ),
        ),
        (TX + "test_a_restored_replica_goes_on_with_messages_and_questions",),
        groups=GROUPS,
    ),
    Mutant(
        "view-loses-messages-that-are-confirmed",
        "a snapshot has other messages for a group than its moment had, and its reader sends some under wrong numbers",
        (Patch("disheap_heap:_Queue.queued", "list(self.chunks)", "self.chunks"),),
        (VIEWS + "test_messages_that_are_confirmed_under_a_view_are_counted_and_freed",),
        simulated=False,
    ),
    Mutant(
        "snapshot-without-what-was-taken",
        "a restored participant takes the decisions of before a second time, or refuses all later ones",
        (Patch("disheap_heap:_tables", '    yield "numbers", _sized(view.numbers)\n', ""),),
        (TX + "test_a_restored_participant_takes_the_next_message",),
        groups=GROUPS,
    ),
    Mutant(
        "restored-groups-keep-what-they-took",
        "a group of a restored cluster passes over the first decisions, because it took as many in the old one",
        (Patch("disheap_heap:Outbox.renumber", "self._last, self._taken, ", "self._last, _, "),),
        (TX + "test_all_groups_begin_anew_after_a_restore",),
        simulated=False,
    ),
    Mutant(
        "client-commits-what-a-participant-has-refused",
        "a batch is carried out in those groups that could",
        (
            Patch(
                "disheap:TwoPhase._prepare", "        if not errors:\n", "        if not errors or not participants:\n"
            ),
        ),
        (CLIENT + "test_what_a_participant_refuses_is_aborted",),
        groups=GROUPS,
    ),
    Mutant(
        "ended-client-aborts-nothing",
        "the client of one group is refused for good, and the others hold the batch for half a minute",
        (Patch("disheap:Batch._call", "except DisheapError as error:", "except RequestError as error:"),),
        (CLIENT + "test_a_client_that_ends_for_good_aborts_the_others",),
        simulated=False,
    ),
    Mutant(
        "shortage-taken-for-unknown",
        "deliveries stay settled in the client, and leased in the cluster, because a disk was full for a moment",
        (Patch("disheap:TwoPhase._prepare", "faults.NOTHING_DONE", "faults.NOTHING_DONE[:2]"),),
        (CLIENT + "test_a_shortage_leaves_the_leases_as_they_were",),
        simulated=False,
    ),
    Mutant(
        "lost-answer-to-a-prepare-taken-for-unknown",
        "an application does not repeat a batch that is aborted for certain, and work is left undone",
        (Patch("disheap:_in_group", "not isinstance(error, UNANSWERED)", "True"),),
        (CLIENT + "test_a_first_prepare_without_an_answer_is_aborted",),
        simulated=False,
    ),
    Mutant(
        "cancelled-batch-holds-its-leases",
        "each request that a web server cancels keeps messages out of reach for half a minute",
        (Patch("disheap:TwoPhase.left_over", "if not self._has_begun or", "if True or"),),
        (CLIENT + "test_a_batch_that_is_cancelled_is_aborted_at_once",),
        simulated=False,
    ),
    Mutant(
        "cancelled-after-the-decision-looks-aborted",
        "an application that was cancelled late does again what is committed",
        (Patch("disheap:Gathered._fail_transaction", "if transaction.decided is not None:", "if False:"),),
        (CLIENT + "test_a_batch_that_is_cancelled_after_the_decision_has_results",),
        simulated=False,
    ),
    Mutant(
        "participants-prepare-first",
        "a participant that asks before the coordinator's group has the record is told to abort",
        (
            Patch(
                "disheap:TwoPhase.steps",
                "        yield from self._prepare([coordinator], participants)\n"
                "        yield from self._prepare(participants, [])\n",
                "        yield from self._prepare(participants, [])\n"
                "        yield from self._prepare([coordinator], participants)\n",
            ),
        ),
        (CLIENT + "test_the_lowest_group_prepares_first_and_decides",),
        groups=GROUPS,
    ),
    Mutant(
        "unanswered-commit-taken-for-aborted",
        "an application does again what was done, because the answer to its commit was lost",
        (Patch("disheap:TwoPhase._decide", 'if outcome == "aborted":', 'if outcome != "committed":'),),
        (CLIENT + "test_a_commit_without_an_answer_is_asked_for",),
        groups=GROUPS,
    ),
)
