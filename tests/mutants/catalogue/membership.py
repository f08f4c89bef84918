"""Who belongs to the cluster (classes 5 to 8)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

PITFALLS = "tests/kernel/test_pitfalls.py::"
MEMBERSHIP = "tests/kernel/test_membership.py::"

MUTANTS = (
    Mutant(
        "change-before-the-leaders-own-no-op",
        "a membership is proposed while an earlier leader's may be in the log of others",
        (
            Patch(
                "disheap:propose_change",
                "if not state.has_committed_in_term or state.members.index > state.log.commit:",
                "if state.members.index > state.log.commit:",
            ),
        ),
        (PITFALLS + "test_no_change_is_taken_before_the_leaders_own_no_op_is_committed",),
        pitfall=5,
        simulated=False,
    ),
    Mutant(
        "two-changes-at-once",
        "a second change is taken before the first is committed",
        (
            Patch(
                "disheap:propose_change",
                "if not state.has_committed_in_term or state.members.index > state.log.commit:",
                "if not state.has_committed_in_term:",
            ),
        ),
        (MEMBERSHIP + "test_one_change_waits_for_the_one_before",),
        pitfall=5,
        simulated=False,
    ),
    Mutant(
        "change-in-force-when-committed",
        "a follower goes by the last committed membership instead of the last one in its log",
        (
            Patch(
                "disheap:State.append",
                "            self.members.append(index, change)\n",
                "            if self.role is Role.LEADER:\n                self.members.append(index, change)\n",
            ),
        ),
        (PITFALLS + "test_a_change_is_in_force_at_a_follower_before_it_is_committed",),
        pitfall=6,
        simulated=False,
    ),
    Mutant(
        "candidate-asks-the-committed-members",
        "a candidate that holds a newer membership asks the voters of the older one",
        (
            Patch(
                "disheap:_request_votes",
                "for voter in state.members.voters:",
                "for voter in [one.id for one in state.members.at(state.log.commit).members if one.voter]:",
            ),
        ),
        (PITFALLS + "test_a_candidate_asks_by_the_last_membership_in_its_log",),
        pitfall=6,
        simulated=False,
    ),
    Mutant(
        "overwritten-change-stays-in-force",
        "a membership whose entry was truncated is still gone by",
        (
            Patch(
                "disheap:State.append",
                "        self.members.roll_back(entries[0].index)\n",
                "        self.members.roll_back(Index(self.log.last_index + 1))\n",
            ),
        ),
        (PITFALLS + "test_a_change_that_is_overwritten_is_no_longer_in_force",),
        pitfall=7,
        simulated=False,
    ),
    Mutant(
        "change-forgotten-at-a-restart",
        "a membership in the log behind the snapshot is not in force after a restart",
        (
            Patch(
                "disheap:State.__init__",
                "for index, data in restored.memberships:",
                "for index, data in restored.memberships[:0]:",
            ),
        ),
        (
            PITFALLS + "test_a_change_in_the_log_is_in_force_after_a_restart",
            MEMBERSHIP + "test_a_membership_survives_a_restart_before_and_after_a_snapshot",
        ),
        pitfall=7,
        simulated=False,
    ),
    Mutant(
        "voter-goes-by-its-own-membership",
        "a voter refuses a candidate that its own, stale, membership does not know",
        (
            Patch(
                "disheap:on_vote_request",
                "granted = _may_vote(state, message)",
                "granted = _may_vote(state, message) and message.source in state.members.ids",
            ),
        ),
        (
            PITFALLS + "test_a_node_votes_whatever_its_own_membership_says",
            PITFALLS + "test_a_node_without_any_membership_votes_and_follows",
        ),
        pitfall=8,
        simulated=False,
    ),
    Mutant(
        "two-voters-at-a-time",
        "a change of two voters at once is taken, and two majorities need not share a node",
        (Patch("disheap:check_change", "if len(changed) > 1:", "if len(changed) > 2:"),),
        (MEMBERSHIP + "test_more_than_one_voter_at_a_time_or_nonsense_is_refused",),
        pitfall=5,
        simulated=False,
    ),
)
