"""The log between nodes: what is sent, accepted, counted, and replaced by snapshots (classes 4, 9 to 13, 17, 18)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

PITFALLS = "tests/kernel/test_pitfalls.py::"
SNAPSHOTS = "tests/kernel/test_snapshots.py::"

MUTANTS = (
    Mutant(
        "leader-rests-while-a-peer-lacks-entries",
        "a window that an answer has opened stays empty until the next tick",
        (
            Patch(
                "disheap:_has_nothing_to_do",
                "progress.poke or progress.next <= last",
                "progress.poke",
            ),
        ),
        ("tests/kernel/test_replication.py::test_a_leader_that_has_nothing_ready_would_do_nothing",),
        simulated=False,
    ),
    Mutant(
        "leader-rests-while-entries-are-committed",
        "what an answer has committed is applied with the next command, or at the next tick",
        (Patch("disheap:_has_nothing_to_do", "log.handed < log.commit and log.handed < log.stable", "False"),),
        ("tests/kernel/test_replication.py::test_a_second_answer_to_what_is_committed_is_nothing_to_do",),
        simulated=False,
    ),
    Mutant(
        "follower-rests-while-entries-are-committed",
        "a follower applies what its own write has made durable with the next message of the leader",
        (
            Patch(
                "disheap:_has_nothing_to_do",
                "    if state.outbox.has_something or (log.handed",
                "    if state.role is Role.FOLLOWER and state.leader != NOBODY and not state.outbox.has_something:\n"
                "        return state.receiving is None\n"
                "    if state.outbox.has_something or (log.handed",
            ),
        ),
        ("tests/kernel/test_replication.py::test_a_follower_that_has_nothing_ready_would_do_nothing",),
        simulated=False,
    ),
    Mutant(
        "earlier-terms-committed-by-counting",
        "a leader counts replicas of an earlier leader's entry, which a third may still overwrite (Figure 8)",
        (
            Patch(
                "disheap:commit",
                "if state.log.term_at(index) != state.term or not state.log.commit_to(index):",
                "if not state.log.commit_to(index):",
            ),
        ),
        (PITFALLS + "test_an_entry_of_an_earlier_term_is_not_committed_by_counting",),
        pitfall=4,
    ),
    Mutant(
        "append-truncates-without-a-conflict",
        "a delayed append cuts off what came after it, though it conflicts with nothing",
        (
            Patch(
                "disheap:Log.new_in",
                "if entry.index > self.last_index or self.term_at(entry.index) != entry.term:",
                "if entry.index > self.commit:",
            ),
        ),
        (
            PITFALLS + "test_a_delayed_append_does_not_cut_off_what_came_after_it",
            "tests/kernel/test_log.py::test_what_is_there_already_is_not_new",
        ),
        pitfall=9,
    ),
    Mutant(
        "append-accepted-over-a-gap",
        "a follower takes entries although the one before them differs from the leader's",
        (
            Patch(
                "disheap:on_append",
                "elif log.term_at(previous) != message.previous_term:",
                "elif log.term_at(previous) is None:",
            ),
        ),
        ("tests/kernel/test_replication.py::test_a_follower_accepts_only_what_continues_its_log",),
        pitfall=9,
    ),
    Mutant(
        "commit-beyond-what-was-verified",
        "a follower commits to the leader's index over entries that this message said nothing of",
        (
            Patch(
                "disheap:on_append",
                "log.commit_to(min(message.commit, verified))",
                "log.commit_to(min(message.commit, log.last_index))",
            ),
        ),
        (PITFALLS + "test_a_follower_commits_no_further_than_the_message_verified",),
        pitfall=10,
    ),
    Mutant(
        "commit-index-goes-back",
        "a message that was overtaken moves the commit index back",
        (Patch("disheap:Log.commit_to", "if index <= self.commit:", "if index == self.commit:"),),
        (PITFALLS + "test_the_commit_index_never_goes_back",),
        pitfall=10,
    ),
    Mutant(
        "heartbeat-promises-the-leaders-commit",
        "a heartbeat carries a commit index over entries that the follower may hold otherwise",
        (Patch("disheap:broadcast_heartbeats", "bounded = min(log.commit, progress.match)", "bounded = log.commit"),),
        (PITFALLS + "test_a_heartbeat_promises_no_more_than_the_follower_is_known_to_hold",),
        pitfall=10,
    ),
    Mutant(
        "heartbeat-trusted-with-an-ambiguous-end",
        "a follower that may have lost its end commits there what its lost write had superseded",
        (
            Patch(
                "disheap:on_heartbeat",
                "state.log.last_index if state.ambiguous_after is None else state.verified",
                "state.log.last_index",
            ),
        ),
        (PITFALLS + "test_with_an_ambiguous_end_a_follower_commits_only_what_its_leader_sent",),
        pitfall=10,
    ),
    Mutant(
        "verified-by-an-earlier-leader",
        "what one leader has sent counts, with an ambiguous end, as the log of the next",
        (Patch("disheap.kernel.state", "        self.verified = Index(0)\n\n    def _leave", "\n    def _leave"),),
        (PITFALLS + "test_what_one_leader_sent_says_nothing_about_the_log_of_the_next",),
        pitfall=10,
    ),
    Mutant(
        "idle-leader-asks-once",
        "a peer that lost the end of its log stays short and ambiguous until somebody proposes",
        (
            Patch(
                "disheap:Progress.heard",
                "if self.match < last_index or self.phase is Phase.PROBE:",
                "if self.match < last_index:",
            ),
        ),
        (PITFALLS + "test_a_peer_that_lost_its_end_is_asked_again_though_nothing_is_proposed",),
        pitfall=11,
    ),
    Mutant(
        "late-reply-moves-match-back",
        "an acknowledgement that was overtaken makes the leader forget a later one",
        (Patch("disheap:Progress.accepted", "self.match = max(self.match, index)", "self.match = index"),),
        (PITFALLS + "test_late_replies_move_nothing_back",),
        pitfall=11,
    ),
    Mutant(
        "reply-of-an-earlier-term-counts",
        "an acknowledgement given to this node's earlier leadership counts for this one",
        (
            Patch(
                "disheap:Raft.step",
                "        if message.term < state.term:\n",
                "        if message.term < state.term and not isinstance(message, AppendReply):\n",
            ),
        ),
        (PITFALLS + "test_a_reply_of_an_earlier_term_moves_nothing_forward",),
        pitfall=11,
    ),
    Mutant(
        "late-fsync-counts-overwritten-entries",
        "the end of a write counts entries that took the place of those it wrote",
        (Patch("disheap:Log._truncate", "        self.written = min(self.written, self.last_index)\n", ""),),
        (
            PITFALLS + "test_a_late_confirmation_does_not_count_entries_that_were_overwritten",
            PITFALLS + "test_entries_that_replace_durable_ones_are_not_durable_yet",
        ),
        pitfall=12,
    ),
    Mutant(
        "held-acknowledgement-survives-its-term",
        "an acknowledgement that waited for the disk goes out after its entries were overwritten",
        (
            Patch(
                "disheap:Outbox.set_hard_state",
                "            self._held.clear()\n            self._waiting.clear()\n",
                "            pass\n",
            ),
        ),
        (PITFALLS + "test_an_acknowledgement_held_for_overwritten_entries_is_never_sent",),
        pitfall=12,
    ),
    Mutant(
        "leader-counts-its-own-disk-early",
        "a leader counts entries of its own that are not durable yet; alone, it acknowledges before its fsync",
        (Patch("disheap:commit", "held[state.id] = state.log.stable\n", "held[state.id] = state.log.last_index\n"),),
        (
            PITFALLS + "test_a_single_node_commits_only_after_its_own_fsync",
            "tests/kernel/test_machine.py",
        ),
        pitfall=13,
    ),
    Mutant(
        "acknowledged-before-the-fsync",
        "a follower acknowledges entries that are still on the way to its disk",
        (
            Patch(
                "disheap:_acknowledge",
                "state.outbox.send(new_record(AppendReply, fields), index)",
                "state.outbox.send(new_record(AppendReply, fields))",
            ),
        ),
        (PITFALLS + "test_an_acknowledgement_leaves_only_when_its_entries_are_durable",),
        pitfall=1,
    ),
    Mutant(
        "applied-before-it-is-committed",
        "entries are applied and answered as soon as they are in the log",
        (
            Patch(
                "disheap:_last",
                "return min(state.log.commit, state.log.stable)",
                "return state.log.stable",
            ),
        ),
        ("tests/kernel/test_machine.py", "tests/kernel/test_replication.py"),
    ),
    Mutant(
        "applied-before-it-is-durable-here",
        "a node applies what it does not hold yet: its snapshot can say more than its log",
        (
            Patch(
                "disheap:_last",
                "return min(state.log.commit, state.log.stable)",
                "return state.log.commit",
            ),
        ),
        ("tests/kernel/test_replication.py", "tests/kernel/test_snapshots.py", "tests/kernel/test_machine.py"),
    ),
    Mutant(
        "snapshot-leaves-a-conflicting-tail",
        "a log left over from before an installed snapshot is taken for its continuation",
        (
            Patch(
                "disheap:_continues",
                "return runs[bisect_right(runs, snapshot.index, key=_first_of) - 1].term == snapshot.term",
                "return True",
            ),
        ),
        (PITFALLS + "test_a_conflicting_tail_on_the_disk_is_not_restored",),
        pitfall=17,
        masked="storage `file` makes the old log void with the snapshot's own name",
    ),
    Mutant(
        "old-snapshot-cuts-off-a-good-log",
        "a snapshot of what the log holds already replaces the log with what it held back then",
        (
            Patch(
                "disheap:_is_held",
                "return meta.index <= state.log.commit or state.log.term_at(meta.index) == meta.term",
                "return False",
            ),
        ),
        (PITFALLS + "test_an_old_snapshot_cuts_nothing_off_a_good_log",),
        pitfall=17,
    ),
    Mutant(
        "snapshot-without-its-membership",
        "a node that installed a snapshot goes on with the membership it had before",
        (
            Patch(
                "disheap:State.install",
                "self.members.reset(meta.index, meta.membership)",
                "self.members.reset(meta.index, self.members.current)",
            ),
        ),
        (SNAPSHOTS + "test_the_membership_comes_with_the_snapshot",),
        pitfall=17,
        simulated=False,
    ),
    Mutant(
        "failed-installation-is-not-told",
        "the sender of a snapshot never learns that the receiver could not take it",
        (
            Patch(
                "disheap:on_chunk_written",
                "        _reply(state, receiving.source, meta, failed=True)\n",
                "        pass\n",
            ),
        ),
        (
            SNAPSHOTS + "test_an_installation_that_fails_is_said_and_changes_nothing",
            PITFALLS + "test_the_sender_learns_of_every_end",
        ),
        pitfall=18,
        masked="after three seconds the chunk is sent again, and the transfer begins anew",
    ),
    Mutant(
        "lost-chunk-is-not-sent-again",
        "a snapshot whose chunk got lost is on its way for ever",
        (
            Patch(
                "disheap:tick",
                "if sending.elapsed >= state.config.chunk_timeout_ticks:",
                "if sending.elapsed < 0:",
            ),
        ),
        (
            SNAPSHOTS + "test_a_chunk_that_nobody_answers_is_sent_again",
            SNAPSHOTS + "test_a_transfer_goes_on_after_a_lost_chunk",
        ),
        pitfall=18,
    ),
    Mutant(
        "refusal-where-it-agreed-is-ignored",
        "a peer that lost the end of its log, and not its connection, counts for what it lost until the next heartbeat",
        (
            Patch(
                "disheap:Progress.refused",
                "self.phase is Phase.REPLICATE and index >= self.match",
                "self.phase is Phase.REPLICATE and index > self.match",
            ),
        ),
        ("tests/kernel/test_replication.py::test_a_peer_that_lost_its_end_without_its_connection_is_asked_at_once",),
        pitfall=11,
        masked="nodes lose ends only with their connections, and the next message after it is refused as well",
    ),
    Mutant(
        "late-answer-leaves-the-snapshot-pending",
        "a peer whose late answer shows that the log suffices is kept waiting for a snapshot",
        (
            Patch(
                "disheap:Progress.accepted",
                "is_enough = is_installed or (self.phase is Phase.SNAPSHOT and moved and can_go_on)",
                "is_enough = is_installed",
            ),
        ),
        (SNAPSHOTS + "test_a_snapshot_answered_late_ends_the_one_that_replaced_it",),
        pitfall=18,
        masked="after three seconds the chunk is sent again, and is answered at once",
    ),
    Mutant(
        "installed-snapshot-stays-pending",
        "a peer waits for ever: its snapshot is installed, and the leader's log begins behind it",
        (
            Patch(
                "disheap:Progress.accepted",
                "is_enough = is_installed or (self.phase is Phase.SNAPSHOT and moved and can_go_on)",
                "is_enough = self.phase is Phase.SNAPSHOT and moved and can_go_on",
            ),
        ),
        (SNAPSHOTS + "test_a_peer_gets_a_newer_snapshot_where_the_log_has_gone_on_without_it",),
        pitfall=18,
    ),
    Mutant(
        "chunks-of-two-snapshots-mixed",
        "the rest of a snapshot is taken from another sender, whose bytes need not be the same",
        (
            Patch(
                "disheap:on_request",
                "if receiving is None or (receiving.meta, receiving.source) != (meta, message.source):",
                "if receiving is None or receiving.meta != meta:",
            ),
        ),
        (SNAPSHOTS + "test_chunks_of_two_senders_are_never_mixed",),
        pitfall=17,
        masked="all nodes of a simulated cluster write the same bytes for one index",
    ),
)
