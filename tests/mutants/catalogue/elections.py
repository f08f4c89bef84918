"""Terms, votes, leadership, and reads that rest on it (classes 1 to 3, 16, 19 to 24, 27, 28)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

PITFALLS = "tests/kernel/test_pitfalls.py::"
ELECTION = "tests/kernel/test_election.py::"
READS = "tests/kernel/test_reads.py::"
TRANSFER = "tests/kernel/test_transfer.py::"

MUTANTS = (
    Mutant(
        "vote-leaves-before-its-fsync",
        "a vote is sent while its term is still on the way to the disk",
        (
            Patch(
                "disheap:Outbox.send",
                "if self.hard_state != self._written or claims > self._log.written:",
                "if claims > self._log.written:",
            ),
            Patch(
                "disheap:Outbox.send",
                "elif self.in_flight and (self._written != self.durable or claims > self._log.stable):",
                "elif self.in_flight and claims > self._log.stable:",
            ),
        ),
        (PITFALLS + "test_a_vote_leaves_only_when_it_is_durable",),
        pitfall=1,
    ),
    Mutant(
        "candidate-counts-its-own-vote-at-once",
        "a candidate wins with a vote of its own that a power cut takes back",
        (
            Patch(
                "disheap:_campaign_in_new_term",
                "_request_votes(state, state.term, pre=False, transfer=transfer)",
                "_request_votes(state, state.term, pre=False, transfer=transfer)\n"
                "    _count(state, state.id, granted=True)",
            ),
        ),
        (PITFALLS + "test_a_candidate_counts_its_own_vote_only_after_its_own_fsync",),
        pitfall=1,
    ),
    Mutant(
        "entries-written-before-their-term",
        "a write carries entries, and the term that they belong to comes with the next write",
        (
            Patch(
                "disheap:Outbox.take_write",
                "changed = self.hard_state if self.hard_state != self._written else None\n"
                "        self._written = self.hard_state",
                "behind = self._log.written < self._log.last_index\n"
                "        changed = self.hard_state if self.hard_state != self._written and not behind else None\n"
                "        self._written = self._written if behind else self.hard_state",
            ),
        ),
        (
            PITFALLS + "test_a_write_never_holds_entries_of_a_term_that_is_not_made_durable",
            "tests/kernel/test_machine.py",
        ),
        pitfall=2,
    ),
    Mutant(
        "request-to-lead-is-followed-once",
        "a transfer comes to nothing where voters hear of the target before they hear of the transfer",
        (
            Patch(
                "disheap:on_timeout_now",
                "_request_votes(state, Term(state.term + 1), pre=True, transfer=True)\n        return",
                "return",
            ),
        ),
        (TRANSFER + "test_voters_that_hear_of_a_transfer_late_are_asked_again_in_its_round",),
        masked="a transfer that comes to nothing is given up after an election timeout",
    ),
    Mutant(
        "step-down-forgets-the-vote",
        "a node that steps down within its term votes a second time in it",
        (Patch("disheap:State.become_follower", "if term > self.term:", "if term >= self.term:"),),
        (
            PITFALLS + "test_a_candidate_that_steps_down_within_its_term_keeps_its_vote",
            PITFALLS + "test_a_leader_that_loses_its_quorum_keeps_its_vote",
        ),
        pitfall=3,
    ),
    Mutant(
        "shorter-log-wins-the-vote",
        "a candidate is elected whose log lacks committed entries",
        (
            Patch(
                "disheap:_may_vote",
                "return state.log.is_not_ahead_of(message.last_index, message.last_term)",
                "return True",
            ),
        ),
        (ELECTION + "test_a_voter_refuses_a_candidate_whose_log_is_behind",),
    ),
    Mutant(
        "read-before-the-leaders-own-no-op",
        "a fresh leader answers a read before it knows what is committed",
        (
            Patch(
                "disheap:_send_as_leader",
                "if state.reads.has_arrived and state.has_committed_in_term:",
                "if state.reads.has_arrived:",
            ),
        ),
        (PITFALLS + "test_a_read_waits_for_the_leaders_own_no_op",),
        pitfall=16,
    ),
    Mutant(
        "read-confirmed-by-an-old-round",
        "heartbeats that were answered before a read came in confirm it",
        (Patch("disheap:ReadRounds.open", "self.round += 1\n", "self.round = self.round or 1\n"),),
        (
            READS + "test_an_answer_to_an_earlier_round_confirms_no_later_read",
            PITFALLS + "test_a_reused_context_is_not_confirmed_by_an_old_round",
        ),
        pitfall=16,
    ),
    Mutant(
        "read-without-a-quorum",
        "a leader that was replaced and does not know it answers reads from its old state",
        (
            Patch(
                "disheap:_confirmed_by",
                "return progress.read if progress is not None else 0",
                "return state.reads.round",
            ),
        ),
        (
            READS + "test_a_read_is_answered_when_a_majority_still_follows",
            PITFALLS + "test_a_leader_that_was_replaced_during_a_transfer_answers_no_read",
        ),
        pitfall=16,
    ),
    Mutant(
        "pre-vote-is-a-vote",
        "a granted pre-vote is recorded as the vote of the term",
        (Patch("disheap:on_vote_request", "if granted and not message.pre:", "if granted:"),),
        (ELECTION + "test_pre_vote_changes_neither_term_nor_vote_on_either_side",),
        pitfall=19,
    ),
    Mutant(
        "pre-vote-refused-in-the-askers-term",
        "the refusal of a pre-vote carries the term asked for, so a stale asker never learns the real one",
        (
            Patch(
                "disheap:on_vote_request",
                "term = message.term if granted and message.pre else state.term",
                "term = message.term if message.pre else state.term",
            ),
        ),
        (
            PITFALLS + "test_a_pre_vote_refused_names_our_term_and_one_granted_the_term_asked_for",
            PITFALLS + "test_a_pre_vote_refused_in_a_later_term_brings_the_asker_up_to_it",
        ),
        pitfall=19,
    ),
    Mutant(
        "stickiness-blocks-a-transfer",
        "followers of a live leader refuse the very candidate that it hands over to",
        (
            Patch(
                "disheap:Raft.step",
                "if isinstance(message, VoteRequest) and election.is_held_back(state, message):",
                "if isinstance(message, VoteRequest) and election.is_leader_alive(state):",
            ),
        ),
        (PITFALLS + "test_pre_vote_and_stickiness_do_not_hold_back_a_transfer",),
        pitfall=19,
    ),
    Mutant(
        "timeout-now-is-permission",
        "whoever says that the leader asked for its campaign is let through, long after the transfer was given up",
        (
            Patch(
                "disheap:is_held_back",
                "return is_leader_alive(state) and not (message.transfer and message.source == _successor(state))",
                "return is_leader_alive(state) and not message.transfer",
            ),
        ),
        (
            TRANSFER + "test_a_removed_member_that_reads_timeout_now_late_deposes_nobody",
            TRANSFER + "test_a_lease_is_given_up_for_the_named_node_alone",
        ),
        pitfall=27,
    ),
    Mutant(
        "transfer-without-a-pre-vote",
        "the target of a transfer enters a new term at once, and deposes the leader that has given the transfer up",
        (
            Patch(
                "disheap:on_timeout_now",
                "        _ask_first(state, transfer=True)\n",
                "        _campaign_in_new_term(state, transfer=True)\n",
            ),
        ),
        (TRANSFER + "test_a_member_that_reads_timeout_now_late_deposes_nobody",),
        pitfall=27,
    ),
    Mutant(
        "late-pre-vote-is-counted",
        "the answer to an earlier pre-vote of the same term counts for a later one",
        (Patch("disheap:on_vote_reply", "is_current = message.round == state.campaign_round", "is_current = True"),),
        (ELECTION + "test_an_answer_to_an_earlier_pre_vote_is_not_counted",),
        pitfall=19,
    ),
    Mutant(
        "later-term-in-a-heartbeats-reply-ignored",
        "a leader that was replaced goes on although its followers tell it of a later term",
        (
            Patch(
                "disheap:Raft.step",
                "if message.term > state.term and not _speaks_of_a_future_term(message):",
                "if (\n            message.term > state.term\n            and not _speaks_of_a_future_term(message)\n"
                "            and not isinstance(message, HeartbeatReply)\n        ):",
            ),
        ),
        (PITFALLS + "test_a_leader_steps_down_at_a_later_term_in_a_heartbeats_reply",),
        pitfall=20,
        masked="a stale heartbeat is refused with an append's refusal, so no node sends such a reply",
    ),
    Mutant(
        "leader-without-a-quorum-stays",
        "a leader that hears no majority any more never steps down",
        (Patch("disheap:_keeps_its_quorum", "if not state.config.check_quorum:", "if state.config.check_quorum:"),),
        (
            PITFALLS + "test_a_leader_that_only_one_node_still_hears_makes_way",
            PITFALLS + "test_a_leader_that_hears_nobody_steps_down_though_it_can_send",
        ),
        pitfall=21,
    ),
    Mutant(
        "rejected-append-is-no-sign-of-life",
        "a follower that refuses an append does not restart its timer, and campaigns against a live leader",
        (
            Patch(
                "disheap:_follow",
                "    state.hear_leader(message.source)\n",
                "    log = state.log\n"
                "    known = not isinstance(message, AppendRequest)"
                " or log.term_at(message.previous_index) == message.previous_term\n"
                "    if known or state.leader != message.source:\n"
                "        state.hear_leader(message.source)\n",
            ),
        ),
        (PITFALLS + "test_a_rejected_append_restarts_the_timer",),
        pitfall=22,
    ),
    Mutant(
        "transfer-never-given-up",
        "a transfer that fails holds back proposals for ever",
        (
            Patch(
                "disheap:tick",
                "if state.transfer_elapsed >= state.config.election_ticks:",
                "if state.transfer_elapsed < 0:",
            ),
        ),
        (
            TRANSFER + "test_a_transfer_that_fails_ends_after_an_election_timeout",
            PITFALLS + "test_a_transfer_ends_with_its_leadership_and_with_its_timeout",
        ),
        pitfall=23,
    ),
    Mutant(
        "transfer-outlives-the-leadership",
        "a leader that comes back still believes that it is handing over",
        (
            Patch(
                "disheap:State._clear_leadership",
                "        self.transferee = NOBODY\n",
                '        self.transferee = getattr(self, "transferee", NOBODY)\n',
            ),
        ),
        (
            PITFALLS + "test_the_mark_of_a_transfer_does_not_outlive_it",
            PITFALLS + "test_a_transfer_ends_with_its_leadership_and_with_its_timeout",
        ),
        pitfall=23,
    ),
    Mutant(
        "transfer-to-a-learner",
        "leadership is handed to a node that may not lead",
        (
            Patch(
                "disheap:begin",
                "if target not in state.members.voters:",
                "if target not in state.members.ids:",
            ),
        ),
        (
            TRANSFER + "test_a_node_without_a_vote_is_refused",
            PITFALLS + "test_a_learner_is_no_target_of_a_transfer",
        ),
        pitfall=23,
        simulated=False,
    ),
    Mutant(
        "half-of-an-even-cluster-is-a-majority",
        "two of four nodes commit, and so do the other two",
        (Patch("disheap:majority", "return size // 2 + 1", "return (size + 1) // 2"),),
        (
            "tests/kernel/test_quorum.py",
            PITFALLS + "test_half_of_an_even_cluster_commits_nothing",
        ),
        pitfall=24,
    ),
    Mutant(
        "learners-counted",
        "nodes without a vote count towards a majority",
        (
            Patch(
                "disheap:voters_of",
                "return tuple(member.id for member in membership.members if member.voter)",
                "return tuple(member.id for member in membership.members)",
            ),
        ),
        (
            "tests/kernel/test_membership.py::test_a_learner_neither_campaigns_nor_counts",
            PITFALLS + "test_learners_and_strangers_confirm_no_read",
        ),
        pitfall=24,
        simulated=False,
    ),
    Mutant(
        "removed-node-campaigns-a-leader-away",
        "a node that was removed and still runs raises the term of a cluster that has a live leader",
        (
            Patch(
                "disheap:Raft.step",
                "            return  # a live leader is not campaigned away",
                "            pass  # a live leader is not campaigned away",
            ),
        ),
        (
            ELECTION + "test_a_follower_of_a_live_leader_ignores_candidates",
            PITFALLS + "test_a_removed_node_that_still_runs_disturbs_nobody",
        ),
        pitfall=27,
    ),
    Mutant(
        "read-never-answered-after-leadership",
        "a read that waited when leadership was lost is forgotten",
        (
            Patch(
                "disheap:ReadRounds.lose",
                "outbox.reads += [Read(context, Index(0), False) for context in self._arrived]",
                "pass",
            ),
        ),
        (
            READS + "test_every_read_is_answered_badly_when_leadership_is_lost",
            PITFALLS + "test_a_read_that_waits_for_the_no_op_is_answered_when_leadership_is_lost",
        ),
        pitfall=28,
        masked="the runtime answers every read itself when leadership is lost",
    ),
)
