"""Repair of what a disk lost (storage's rules 3 and 4): taken where it is, dropped where nobody can have counted on it,
and waited for otherwise."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

REPAIR = "tests/runtime/test_repair.py::"
SWEEP = REPAIR + "test_over_every_combination_of_damage_nothing_acknowledged_is_dropped_and_what_can_be_recovered_is"
DECISIONS = "disheap.runtime.repair"

MUTANTS = (
    Mutant(
        "damaged-entry-dropped-on-one-denial",
        "a damaged entry is cut off because one node never had it, though others may have",
        (
            Patch(
                DECISIONS,
                "return len(denying) == len(others) or moved_on >= majority(len(others) + 1)",
                "return len(denying) >= 1",
            ),
        ),
        (SWEEP, REPAIR + "test_a_majority_without_the_entry_is_not_enough_while_its_old_leader_may_still_count_us"),
    ),
    Mutant(
        "damaged-entry-dropped-under-its-leader",
        "a damaged entry is cut off while the leader of its term may count the acknowledgement given before",
        (
            Patch(
                DECISIONS,
                "return len(denying) == len(others) or moved_on >= majority(len(others) + 1)",
                "return len(denying) >= majority(len(others) + 1) or moved_on >= majority(len(others) + 1)",
            ),
        ),
        (REPAIR + "test_a_majority_without_the_entry_is_not_enough_while_its_old_leader_may_still_count_us",),
    ),
    Mutant(
        "doubtful-end-settled-by-those-who-answer",
        "a node takes the end of its log for whole although a node that may know better was not heard",
        (
            Patch(
                DECISIONS,
                "    if unsure:\n        return Wait(f",
                "    if unsure and not standings:\n        return Wait(f",
            ),
        ),
        (REPAIR + "test_an_end_in_doubt_is_settled_by_every_other_voter_and_not_by_those_who_answer",),
    ),
    Mutant(
        "node-in-doubt-votes",
        "a node whose log may have lost its end helps a candidate to win that lacks what was lost",
        (
            Patch(
                "disheap.kernel.election",
                "    if state.ambiguous_after is not None:\n        return False\n",
                "",
            ),
        ),
        (
            "tests/kernel/test_election.py"
            "::test_a_node_whose_log_may_have_lost_its_end_takes_no_part_until_it_is_past_it",
        ),
        pitfall=14,
    ),
    Mutant(
        "node-in-repair-takes-part",
        "a node follows and acknowledges while its log is being repaired",
        (
            Patch(
                "disheap.runtime.group",
                '        """Raises `ProtocolError` for a message that cannot be read, before it'
                ' has changed anything."""\n        if self.asleep:\n            return\n',
                '        """Raises `ProtocolError` for a message that cannot be read, before it'
                ' has changed anything."""\n',
            ),
            Patch("disheap.runtime.group", "self.failure is None and not self.asleep:", "self.failure is None:"),
        ),
        ("tests/runtime/test_order.py::test_a_node_in_repair_neither_votes_nor_accepts",),
    ),
)
