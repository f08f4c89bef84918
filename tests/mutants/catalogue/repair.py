"""Repair of what a disk lost (storage's rules 3 and 4). It is copied from a node that has it, dropped if nobody can
have counted on it, and waited for otherwise."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

REPAIR = "tests/runtime/test_repair.py::"
SWEEP = REPAIR + "test_no_combination_of_damage_drops_what_was_acknowledged"
LIFECYCLE = "tests/runtime/test_lifecycle.py::"
REPAIRING = "tests/runtime/test_repairing.py::"

MUTANTS = (
    Mutant(
        "damaged-entry-dropped-on-one-denial",
        "a damaged entry is cut off because one node never had it, though others may have",
        (
            Patch(
                "disheap:_never_committed",
                "return len(denying) == len(others) or moved_on >= majority(len(others) + 1)",
                "return len(denying) >= 1",
            ),
        ),
        (SWEEP, REPAIR + "test_a_majority_is_not_enough_while_the_old_leader_may_count_us"),
    ),
    Mutant(
        "damaged-entry-dropped-under-its-leader",
        "a damaged entry is cut off while the leader of its term may count the acknowledgement given before",
        (
            Patch(
                "disheap:_never_committed",
                "return len(denying) == len(others) or moved_on >= majority(len(others) + 1)",
                "return len(denying) >= majority(len(others) + 1) or moved_on >= majority(len(others) + 1)",
            ),
        ),
        (REPAIR + "test_a_majority_is_not_enough_while_the_old_leader_may_count_us",),
    ),
    Mutant(
        "ambiguous-end-settled-by-those-who-answer",
        "a node takes the end of its log for whole although a node that may know better was not heard",
        (
            Patch(
                "disheap:_settle",
                "    if ambiguous:\n        return Wait(f",
                "    if ambiguous and not standings:\n        return Wait(f",
            ),
        ),
        (REPAIR + "test_an_ambiguous_end_is_settled_by_every_other_voter",),
    ),
    Mutant(
        "node-with-an-ambiguous-end-votes",
        "a node whose log may have lost its end helps a candidate to win that lacks what was lost",
        (
            Patch(
                "disheap:_may_vote",
                "    if state.ambiguous_after is not None:\n        return False\n",
                "",
            ),
        ),
        ("tests/kernel/test_election.py::test_a_node_that_may_have_lost_its_end_takes_no_part_until_it_is_past_it",),
        pitfall=14,
    ),
    Mutant(
        "ambiguity-ends-with-a-snapshot",
        "a node with an ambiguous end installs a snapshot and votes, though it may have acknowledged more",
        (
            Patch(
                "disheap:State.install",
                "        self.applying = Index(0)\n        self.receiving = None\n",
                "        self.applying = Index(0)\n        self.receiving = None\n"
                "        if self.ambiguous_after is not None and meta.index > self.ambiguous_after:\n"
                "            self.ambiguous_after = None\n",
            ),
        ),
        ("tests/kernel/test_snapshots.py::test_a_snapshot_beyond_an_ambiguous_end_does_not_end_the_ambiguity",),
    ),
    Mutant(
        "node-with-an-ambiguous-end-denies-what-it-lost",
        "what a lost write had superseded counts as proof that the entry never was, and another node cuts its own",
        (
            Patch(
                "disheap:Standing.verdict",
                "is_sure = not self.ambiguous or index <= self.commit",
                "is_sure = True",
            ),
        ),
        (REPAIR + "test_with_an_ambiguous_end_a_node_denies_only_what_is_superseded",),
    ),
    Mutant(
        "ambiguity-for-ever-where-nobody-writes",
        "a node with an ambiguous end under an idle leader never votes again, and the loss of another is an outage",
        (
            Patch(
                "disheap:Replica.received_report",
                "        self.group.proposals.fill_until(report.ambiguous_until)\n",
                "",
            ),
        ),
        (REPAIR + "test_an_ambiguous_end_is_sure_again_though_nobody_writes",),
        fast=False,
    ),
    Mutant(
        "node-in-repair-takes-part",
        "a node follows and acknowledges while its log is being repaired",
        (
            Patch(
                "disheap:Group.is_running",
                "        return self._lifecycle.is_running\n",
                "        return not self._lifecycle.is_over\n",
            ),
        ),
        ("tests/runtime/test_order.py::test_a_node_in_repair_neither_votes_nor_accepts",),
    ),
    Mutant(
        "lifecycle-takes-any-change",
        "a change that the table does not have is made: a replica in quarantine takes part again",
        (Patch("disheap:Lifecycle._enter", "        if to not in TRANSITIONS[before]:\n", "        if False:\n"),),
        (LIFECYCLE + "test_a_change_is_made_or_refused_as_the_table_says",),
    ),
    Mutant(
        "leader-in-repair-keeps-its-clients",
        "a leader whose log is read anew answers its clients no more, and does not send them to the next leader",
        (Patch("disheap:Replica._end_group", "            self._on_lead(False)\n", "            pass\n"),),
        (REPAIR + "test_a_leader_that_has_to_repair_its_log_sends_its_clients_away",),
        fast=False,
    ),
    Mutant(
        "new-directory-takes-part-at-once",
        "a member whose disk was wiped votes before the others have looked at it",
        (
            Patch(
                "disheap:Replica._take_up",
                "        elif not self.maintenance.incarnation_check.all_met:\n",
                "        elif False:\n",
            ),
        ),
        ("tests/runtime/test_incarnation_check.py",),
    ),
    Mutant(
        "answers-about-repair-believed-unread",
        "a peer's answer is acted on before anybody has looked whether it makes sense",
        (Patch("disheap:decode", "        _check(message)\n", ""),),
        ("tests/protocol/test_repair_messages.py",),
        simulated=False,
    ),
    Mutant(
        "undelivered-snapshot-asked-for-for-ever",
        "a node asks one source again and again for a snapshot that never comes, and never another",
        (Patch("disheap:Repairer._note_no_snapshot", "self._snapshot_refusals[source] = MAX_SNAPSHOT_ROUNDS", "pass"),),
        (REPAIRING + "test_a_source_whose_snapshot_does_not_come_whole_is_passed_over",),
        simulated=False,
    ),
    Mutant(
        "bug-in-repair-unheard-of",
        "an exception nobody foresaw leaves the node in repair for ever, and no line in the log",
        (
            Patch(
                "disheap:Repairer._run",
                "        except Exception as error:  # nobody else would ever hear of it\n",
                "        except LogDamaged as error:\n",
            ),
        ),
        (REPAIRING + "test_a_bug_in_repair_ends_the_node_instead_of_leaving_it_waiting",),
        simulated=False,
    ),
    Mutant(
        "damaged-snapshot-repaired-with-nothing",
        "a node that lost its snapshot says it is whole, and goes on from an empty state",
        (
            Patch(
                "disheap:decide",
                "    if own.lost_snapshot is not None:\n",
                "    if own.lost_snapshot is not None and own.lost_snapshot.needed < 0:\n",
            ),
        ),
        ("tests/simulator/test_sim_damage.py",),
        simulated=False,
    ),
    Mutant(
        "repair-without-progress-has-no-bound",
        "a repair and a storage that do not agree on what is missing read the log again for ever",
        (Patch("disheap:Progress.repair_ended", "if self._ineffective >= MAX_INEFFECTIVE_REPAIRS:", "if False:"),),
        (REPAIRING + "test_a_repair_that_changes_nothing_is_not_tried_for_ever",),
        simulated=False,
    ),
)
