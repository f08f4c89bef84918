"""The order of things in a node: disk, machine and time (classes 2, 15, 16, 25, 26, 28, 30). Also what happens when
leadership or the disk is lost."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

CLUSTER = "tests/runtime/test_cluster.py::"
CLOCKS = "tests/runtime/test_clocks.py::"
CHECK = "tests/runtime/test_clock_check.py::"
SESSIONS = "tests/runtime/test_sessions.py::"
CONTRACT = "tests/plugins/test_contract_check.py::"
GROUP = "tests/runtime/test_order.py::"
BUFFERS = "tests/runtime/test_buffers.py::"
MEMORY = "tests/runtime/test_memory.py::"
ROOM = "tests/runtime/test_disk_space.py::"
FAILURES = "tests/runtime/test_failures.py::"
COMPARING = "tests/runtime/test_comparing.py::"
GROUPS = "tests/runtime/test_groups.py"
LOOP_WRITES = "tests/runtime/test_loop_writes.py::"
CLOCK_CHECK = "tests/runtime/test_clock_check.py::"

MUTANTS = (
    Mutant(
        "loop-writes-on-a-slow-disk",
        "a slow disk stops the loop for each command: no ping is answered and no other client is served meanwhile",
        (Patch("disheap:LoopWrites.took", "        if seconds < QUICK_S:\n", "        if True:\n"),),
        (LOOP_WRITES + "test_the_loop_writes_after_a_number_of_quick_writes_in_a_row",),
        simulated=False,
    ),
    Mutant(
        "stall-of-the-loop-is-forgotten",
        "a disk that is slow now and then stops the loop again and again",
        (Patch("disheap:LoopWrites.took", "            self._rest()\n", "            pass\n"),),
        (LOOP_WRITES + "test_a_stall_sends_writes_to_the_thread_for_a_time_that_doubles",),
        simulated=False,
    ),
    Mutant(
        "gathered-frames-not-flushed",
        "what a machine pushes stays in the node until the session's next reply, and for ever if none is due",
        (
            Patch(
                "disheap:Sessions._push",
                "                if not queue:\n                    self._reply_sink.pending.append(number)\n",
                "",
            ),
        ),
        (CLUSTER + "test_a_timer_rings_though_nobody_sends_anything",),
        fast=False,
    ),
    Mutant(
        "gossip-sent-once",
        "a node says once how it is: a minute later nobody knows its clock, and its shortage of memory is forgotten",
        (
            Patch(
                "disheap:GossipTimer.begin",
                "        self._timer = self._loop.call_later(GOSSIP_S, self.begin)\n",
                "",
            ),
        ),
        ("tests/runtime/test_gossip.py",),
    ),
    Mutant(
        "messages-of-every-group-reach-group-0",
        "the kernel of one group is stepped with the messages of another",
        (Patch("disheap:PeerMessages.received", "self._replicas[group].group.step", "self._replicas[0].group.step"),),
        (GROUPS,),
        fast=False,
        simulated=False,
    ),
    Mutant(
        "batches-written-on-the-loop",
        "many clients at once wait for the disk one after another, and nobody is read meanwhile",
        (
            Patch(
                "disheap:is_single_command",
                "    return bool(ENVELOPE.unpack_from(entry.data)[0] + LENGTH_BYTES == size)\n",
                "    return True\n",
            ),
        ),
        (LOOP_WRITES + "test_only_a_single_command_is_written_on_the_loop",),
        simulated=False,
    ),
    Mutant(
        "write-on-the-loop-overtakes-the-disk-thread",
        "an append on the loop runs while the disk's thread is in the middle of another call of the storage",
        (Patch("disheap:DiskThread.run_now", "if self._under_way or self._closed:", "if self._closed:"),),
        (LOOP_WRITES + "test_a_job_runs_at_once_only_while_no_other_is_under_way",),
        simulated=False,
    ),
    Mutant(
        "leader-writes-before-its-messages-leave",
        "followers are sent an entry after the leader has written it, and every commit waits for two disks in a row",
        (
            Patch(
                "disheap:Group._carry_out",
                "has_left = not ready.messages or self._flush()",
                "has_left = True\n        if ready.messages:\n            self._loop.call_soon(self._flush)",
            ),
        ),
        (LOOP_WRITES + "test_what_has_not_left_for_the_followers_keeps_the_write_off_the_loop",),
        simulated=False,
    ),
    Mutant(
        "append-on-the-loop-without-fsync",
        "a command that is written on the loop is acknowledged while it is in the page cache alone",
        (
            Patch(
                "disheap_filelog:FileStorage.append_on_loop",
                "        self.append(entries)\n",
                "        segment = self._log.active\n"
                "        file = segment._file\n\n"
                "        class Unsynced:\n"
                "            def __getattr__(self, name):\n"
                "                return (lambda: None) if name == 'sync' else getattr(file, name)\n\n"
                "        segment._file = Unsynced()\n"
                "        self.append(entries)\n"
                "        segment._file = file\n",
            ),
        ),
        ("disheap.testing.conformance.test_storage_faults::test_an_append_on_the_loop_that_returned_is_synced",),
        pitfall=14,
    ),
    Mutant(
        "hard-state-after-entries",
        "entries reach the disk before the term that they belong to",
        (
            Patch(
                "disheap:Writer._submit",
                "            if write.hard_state is not None:\n"
                "                storage.save_hard_state(write.hard_state)\n"
                "            save_new_voters(storage, write.entries)\n"
                "            if write.entries:\n"
                "                storage.append(write.entries)\n",
                "            save_new_voters(storage, write.entries)\n"
                "            if write.entries:\n"
                "                storage.append(write.entries)\n"
                "            if write.hard_state is not None:\n"
                "                storage.save_hard_state(write.hard_state)\n",
            ),
        ),
        (GROUP + "test_term_and_vote_are_saved_before_the_entries_of_their_write",),
        pitfall=2,
    ),
    Mutant(
        "held-messages-leave-with-the-write",
        "messages that wait for a write are sent when it is begun",
        (
            Patch(
                "disheap:Group._write",
                "        if write.entries:\n            self._time.",
                "        for message in held:\n            self._send(message)\n        self._held = ()\n"
                "        if write.entries:\n            self._time.",
            ),
        ),
        (GROUP + "test_messages_that_wait_for_a_write_leave_only_when_it_is_durable",),
        pitfall=1,
    ),
    Mutant(
        "failed-write-counts-as-done",
        "a write that failed is reported to the kernel as durable, and the node goes on",
        (
            Patch(
                "disheap:FailStopDisk._heard",
                "                self._failed(error)\n",
                "                pass\n",
            ),
            Patch(
                "disheap:Writer._finished",
                "        elif error is not None:\n            self._failed(error)\n        else:\n",
                "        else:\n",
            ),
        ),
        (GROUP + "test_a_leader_whose_disk_fails_is_at_its_end_and_acknowledges_nothing",),
        pitfall=26,
    ),
    Mutant(
        "leader-keeps-a-disk-that-hangs",
        "a leader whose disk does not answer, and reports no error, holds everyone up for ever",
        (
            Patch(
                "disheap:Group._hand_over_if_disk_hangs",
                "            self.raft.transfer_leadership(NOBODY)\n",
                "            return\n",
            ),
        ),
        ("tests/runtime/test_failures.py::test_a_leader_whose_disk_hangs_hands_leadership_over",),
        pitfall=26,
        fast=False,
    ),
    Mutant(
        "void-snapshot-is-told-to-the-kernel",
        "what comes back for a snapshot that was given up is taken for the one that was begun after it",
        (
            Patch(
                "disheap:Snapshotter._committed",
                "        if self._is_over(run, error) or run.is_void:\n            return\n        self._run,",
                "        if self._is_over(run, error):\n            return\n        self._run,",
            ),
        ),
        ("tests/runtime/test_snapshots.py::test_a_snapshot_that_ends_behind_an_installed_one_is_nobodys",),
    ),
    Mutant(
        "full-buffer-told-from-within-a-send",
        "a leader whose peer takes nothing in sends to it for ever, and does nothing else",
        (
            Patch(
                "disheap:OutgoingLink._drop",
                "            self._loop.call_soon(self._owner.unreachable, self.peer)\n",
                "            self._owner.unreachable(self.peer)\n",
            ),
        ),
        ("tests/runtime/test_links.py::test_a_peer_that_takes_nothing_in_is_reported_once_and_not_within_a_send",),
        simulated=False,
    ),
    Mutant(
        "one-node-is-asked-to-lead-for-ever",
        "a leader without room hands over to the same node again and again, though it cannot lead",
        (
            Patch(
                "disheap:DiskSpace._transfer_leadership",
                "(voter not in active, self._transfers.get(voter, 0), voter)",
                "voter",
            ),
        ),
        (ROOM + "test_a_node_that_does_not_take_leadership_is_not_the_only_one_asked",),
        simulated=False,
    ),
    Mutant(
        "snapshot-filed-under-an-earlier-index",
        "a snapshot holds one entry more than the index it is filed under: after a restart that entry is applied twice",
        (
            Patch(
                "disheap:Snapshotter._take",
                "        meta = self._group.applied\n        run =",
                "        meta = self._group.applied._replace(index=Index(self._group.applied.index - 1))\n"
                "        run =",
            ),
        ),
        (GROUP + "test_a_snapshot_is_of_the_state_at_its_index",),
        pitfall=15,
    ),
    Mutant(
        "log-trimmed-before-the-snapshot-is-durable",
        "the log is cut off while the snapshot that stands for it may still be lost",
        (
            Patch(
                "disheap:Snapshotter._commit",
                "        writer.commit()\n        return self._storage.compact(first)\n",
                "        kept = self._storage.compact(first)\n        writer.commit()\n        return kept\n",
            ),
        ),
        (GROUP + "test_the_log_is_trimmed_only_behind_a_durable_snapshot",),
    ),
    Mutant(
        "read-answered-before-it-is-applied",
        "a read that is confirmed is answered from a state that lacks what it has to show",
        (
            Patch(
                "disheap:Reads.ready",
                "if not read.ok or read.index <= applied:",
                "if not read.ok or read.index >= 0:",
            ),
        ),
        ("tests/runtime/test_reads.py::test_a_read_waits_until_the_machine_has_applied_its_index",),
        pitfall=16,
    ),
    Mutant(
        "reads-forgotten-with-the-leadership",
        "whoever waits for a read when leadership is lost waits for ever",
        (
            Patch(
                "disheap:Reads.end",
                "        for group in answers:\n            _answer(group, False)\n",
                "        del answers\n",
            ),
        ),
        ("tests/runtime/test_reads.py::test_every_read_is_answered_when_leadership_is_lost",),
        pitfall=28,
    ),
    Mutant(
        "clients-kept-by-a-former-leader",
        "a node that lost its leadership neither answers its clients nor sends them away",
        (
            Patch(
                "disheap:Redirecting.begin",
                "        self._timer = self._loop.call_later(REDIRECT_S, self.redirect)\n",
                "        self._leaving = []\n",
            ),
        ),
        (
            CLUSTER + "test_requests_under_way_end_as_unknown_when_leadership_is_lost",
            CLUSTER + "test_the_leader_sends_its_clients_to_the_next_one_when_it_hands_over",
        ),
        pitfall=28,
        fast=False,
    ),
    Mutant(
        "all-clients-sent-away-in-one-turn",
        "a former leader of thousands of clients stops its loop while it sends them away",
        (
            Patch(
                "disheap:Redirecting._redirect_some", "self._leaving[:REDIRECTS_AT_ONCE]", "self._leaving[:1_000_000]"
            ),
        ),
        (CLUSTER + "test_a_former_leader_sends_a_bounded_number_of_clients_away_in_one_turn",),
        simulated=False,
    ),
    Mutant(
        "log-time-is-the-wall-clock",
        "a wall clock that is set takes every deadline with it",
        (
            Patch(
                "disheap:LogClock.now_ms",
                "self._time_ms += elapsed_ms + min(max(behind_ms, -most), most)",
                "self._time_ms += elapsed_ms + max(behind_ms, -elapsed_ms)",
            ),
        ),
        (
            CLOCKS + "test_a_wall_clock_that_jumps_ahead_is_followed_by_a_tenth_at_most",
            CLOCKS + "test_log_time_keeps_within_a_tenth_of_the_monotonic_clock",
        ),
        pitfall=25,
    ),
    Mutant(
        "log-time-goes-back-with-a-new-leader",
        "a leader whose clock is behind begins its term before the end of the log",
        (
            Patch(
                "disheap:LogClock.begin_term",
                "float(max(last_time_ms, self._clock.wall_ms() if follows_wall else first_ms))",
                "float(self._clock.wall_ms() if follows_wall else first_ms)",
            ),
        ),
        (CLOCKS + "test_a_term_begins_at_the_wall_clock_or_the_log_whichever_is_later",),
        pitfall=25,
    ),
    Mutant(
        "empty-log-begins-at-a-wrong-clock",
        "the clock of a node jumps just before it is elected for the first time, and log time begins years ahead",
        (Patch("disheap:LogClock.begin_term", "others_ms if not", "self._clock.wall_ms() if not"),),
        (CHECK + "test_a_log_begins_at_the_clock_of_the_members",),
        simulated=False,
    ),
    Mutant(
        "time-stands-still-without-commands",
        "nobody proposes that time passes: leases and delays end with the next command, if one comes",
        (
            Patch(
                "disheap:Timekeeper._wait_for",
                "            self._timer = self._loop.call_later(wait_s, self._due)\n",
                "            del wait_s\n",
            ),
        ),
        (CLUSTER + "test_a_timer_rings_though_nobody_sends_anything",),
        fast=False,
    ),
    Mutant(
        "cut-off-leader-ends-sessions",
        "a leader that is cut off ends sessions in its log, and the end counts if it is elected again",
        (
            Patch(
                "disheap:Server.sweep",
                "        if self.group.contact.quorum_silence_s() > self.limits.contact_s:\n",
                "        if False:\n",
            ),
        ),
        ("tests/runtime/test_liveness.py::test_a_leader_that_is_cut_off_ends_no_session_and_gives_all_their_time",),
    ),
    Mutant(
        "silence-of-a-cut-off-leader-counts",
        "a leader that was cut off for a moment ends sessions as soon as it is back",
        (Patch("disheap:Server.sweep", " or self._was_out_of_touch:", ":"),),
        ("tests/runtime/test_liveness.py::test_a_leader_that_is_cut_off_ends_no_session_and_gives_all_their_time",),
    ),
    Mutant(
        "new-leader-does-not-wait-for-clients-of-the-old",
        "a short session lapses while its client is still with a leader that was cut off and does not know it yet",
        (
            Patch(
                "disheap:Liveness._allowed_s",
                "        return max(facts.timeout_ms / 1000, self._takeover_s)",
                "        return facts.timeout_ms / 1000",
            ),
        ),
        ("tests/runtime/test_liveness.py::test_a_new_leader_waits_for_the_clients_of_one_that_was_cut_off",),
    ),
    Mutant(
        "no-grace-from-a-new-leader",
        "a new leader counts the silence before its election, and ends sessions that it never heard of",
        (
            Patch(
                "disheap:Liveness.begin",
                "        self._heard = dict.fromkeys(sessions, self._led_since)\n",
                "        self._heard = dict.fromkeys(sessions, 0.0)\n",
            ),
        ),
        ("tests/runtime/test_liveness.py::test_a_new_leader_gives_every_session_its_whole_timeout",),
    ),
    Mutant(
        "deafness-of-our-own-counts-as-silence",
        "a client that was not read from while the log was full is taken for dead as soon as there is room",
        (
            Patch(
                "disheap:ClientConnection._settle_reading",
                "            self.heard = self._acceptor.loop.time()\n            self._connection.resume_reading()\n",
                "            self._connection.resume_reading()\n",
            ),
        ),
        ("tests/runtime/test_liveness.py::test_a_client_that_was_not_listened_to_has_its_whole_timeout_from_then_on",),
        simulated=False,
    ),
    Mutant(
        "reader-cut-off-for-what-waits",
        "a client that reads loses its connection, and with each new one again, because much waits for it",
        (
            Patch(
                "disheap:ClientConnection.check_slow_reader",
                "if self.unsent_bytes > self._acceptor.limits.write_buffer_bytes and now - self.took_at > UNREAD_S:",
                "if self.unsent_bytes > self._acceptor.limits.write_buffer_bytes:",
            ),
        ),
        ("tests/runtime/test_liveness.py::test_a_client_that_reads_keeps_its_session_however_much_waits_for_it",),
        simulated=False,
    ),
    Mutant(
        "machine-bug-ends-every-replica",
        "a command that the machine cannot carry out crashes each node, again at each start",
        (
            Patch(
                "disheap:Sessions._carry_out",
                "        except Exception:\n            if self._may_log_failure(",
                "        except ArithmeticError:\n            if self._may_log_failure(",
            ),
        ),
        (SESSIONS + "test_a_bug_in_the_machine_becomes_a_fixed_reply_and_nothing_stops",),
        pitfall=30,
        simulated=False,
    ),
    Mutant(
        "unknown-version-applied",
        "a node goes on under a machine version that it does not know",
        (Patch("disheap:check_versions", "if version > highest:", "if version > highest + 100:"),),
        (SESSIONS + "test_a_version_beyond_this_release_stops_the_replica_before_it_is_applied",),
        pitfall=30,
        simulated=False,
    ),
    Mutant(
        "old-log-applied-as-a-later-version",
        "a release that no longer runs version 1 carries out commands of version 1 as those of its lowest version",
        (Patch("disheap:check_first_kind", "if kind != Kind.RAISE_VERSION:", "if False:"),),
        ("tests/runtime/test_sessions.py::test_a_log_that_begins_at_version_1_is_refused_by_a_release_without_it",),
        pitfall=30,
        simulated=False,
    ),
    Mutant(
        "version-that-was-left-out-applied",
        "a log begins at a version that the release has left out, and the node goes on at another one",
        (Patch("disheap:check_versions", "if version < lowest:", "if False:"),),
        ("tests/runtime/test_sessions.py::test_a_log_that_begins_at_version_1_is_refused_by_a_release_without_it",),
        pitfall=30,
        simulated=False,
    ),
    Mutant(
        "new-log-does-not-say-its-version",
        "a release that no longer runs version 1 cannot begin a new cluster, and takes its log for one of version 1",
        (Patch("disheap:Versions.new_term", "if group.leads and not sessions.is_version_known:", "if False:"),),
        (
            "tests/runtime/test_versions.py::test_a_release_without_version_1_states_its_lowest_in_front_of_a_new_log",
            "tests/simulator/test_sim_upgrade.py::test_a_new_cluster_of_a_release_without_version_1_says_so_in_its_log",
        ),
        pitfall=30,
        simulated=False,
    ),
    Mutant(
        "version-raised-while-a-member-is-old",
        "the leader raises the version when one member supports it, and the others stop",
        (Patch("disheap:Versions._supported_by_all", "machine, log = min(", "machine, log = max("),),
        (
            "tests/runtime/test_versions.py::test_no_version_is_raised_while_a_member_is_old_or_unknown",
            "tests/simulator/test_sim_upgrade.py::test_old_and_new_nodes_agree_and_each_can_go_back_before_the_raise",
        ),
        pitfall=30,
    ),
    Mutant(
        "version-raised-while-a-member-is-away",
        "the leader goes by what a member said before it was stopped and rolled back",
        (Patch("disheap:Versions._supported_by_all", " or not group.contact.hears_all_members()", ""),),
        (
            "tests/runtime/test_versions.py::test_no_version_is_raised_while_a_member_does_not_answer",
            "tests/simulator/test_sim_upgrade.py::test_a_member_that_is_away_keeps_the_version_down",
        ),
        pitfall=30,
    ),
    Mutant(
        "version-raised-on-an-old-answer",
        "the leader counts an answer that a member gave before the last one was upgraded",
        (Patch("disheap:Versions.raise_if_due", " and self._ticks >= self._settle_ticks", ""),),
        (
            "tests/runtime/test_versions.py::test_every_member_has_to_answer_after_the_last_one_was_upgraded",
            "tests/simulator/test_sim_upgrade.py::test_a_member_that_is_away_keeps_the_version_down",
        ),
        pitfall=30,
    ),
    Mutant(
        "state-begins-at-the-newest-version",
        "an upgraded node replays a log of the older version as one of its own newest version",
        (
            Patch(
                "disheap:Sessions.__init__",
                "self.machine_version = machine.versions[0]",
                "self.machine_version = machine.versions[1]",
            ),
        ),
        ("tests/simulator/test_sim_upgrade.py::test_old_and_new_nodes_agree_and_each_can_go_back_before_the_raise",),
        pitfall=30,
    ),
    Mutant(
        "version-asked-for-in-one-term-alone",
        "a raise that was lost with its leader is not asked for again by the same node, and comes only after a restart",
        (
            Patch(
                "disheap:Versions.new_term",
                "        self._asked = (0, 0)\n",
                "",
            ),
        ),
        ("tests/runtime/test_versions.py::test_the_version_is_the_highest_of_every_member_and_asked_for_once_a_term",),
        pitfall=30,
    ),
    Mutant(
        "snapshot-loses-the-version",
        "a node that starts from a snapshot goes on with the machine's lowest version",
        (
            Patch(
                "disheap:Sessions.snapshot",
                "state_format.FORMAT, self.machine_version,",
                "state_format.FORMAT, self.machine.versions[0],",
            ),
        ),
        ("tests/simulator/test_sim_upgrade.py::test_the_version_outlives_restarts_snapshots_and_new_leaders",),
        pitfall=30,
    ),
    Mutant(
        "full-disk-refuses-acks",
        "a broker that is short of room takes no acknowledgements either, and stays so",
        (
            Patch(
                "disheap:Server.filter_when_full",
                "if is_repeated or self._is_allowed",
                "if is_repeated or False and self._is_allowed",
            ),
        ),
        (ROOM + "test_a_node_that_is_short_of_room_refuses_only_what_brings_something_in",),
    ),
    Mutant(
        "full-disk-believes-the-client",
        "a flag that the client sets passes a command by a full disk",
        (
            Patch(
                "disheap:Server.filter_when_full",
                "if is_repeated or self._is_allowed",
                "if is_repeated or envelopes[start + 5] & 1 or self._is_allowed",
            ),
        ),
        (ROOM + "test_a_node_that_is_short_of_room_refuses_only_what_brings_something_in",),
        simulated=False,
    ),
    Mutant(
        "refused-though-carried-out",
        "a command that was carried out is refused when it is sent again, because the disk filled up meanwhile",
        (
            Patch(
                "disheap:Server.filter_when_full",
                "is_repeated = session is not None and session.knows(seq)",
                "is_repeated = False",
            ),
        ),
        (ROOM + "test_a_node_that_is_short_of_room_refuses_only_what_brings_something_in",),
    ),
    Mutant(
        "refusal-of-a-repetition-is-final",
        "a client reports a command as refused that an earlier leader may have carried out",
        (
            Patch(
                "disheap:Session._reply",
                "later = error.code in faults.SHORTAGES and seq <= self._sent_before",
                "later = False",
            ),
        ),
        ("tests/client/test_session.py::test_a_refusal_for_want_of_room_decides_nothing_sent_on_another_connection",),
    ),
    Mutant(
        "unfinished-frames-without-bound",
        "a few hundred connections with half a frame each take all memory",
        (Patch("disheap:Buffers.hold_input", "while self.input_bytes > self._input_max_bytes:", "while False:"),),
        (BUFFERS + "test_unfinished_frames_of_all_connections_take_no_more_than_the_limit",),
        simulated=False,
    ),
    Mutant(
        "unfinished-frame-counted-for-ever",
        "frames that were finished use up the room of those that are not",
        (
            Patch(
                "disheap:ClientConnection.data_received",
                "if held > UNCOUNTED_BYTES or buffers.holds_input(self):",
                "if held > UNCOUNTED_BYTES:",
            ),
        ),
        (BUFFERS + "test_unfinished_frames_of_all_connections_take_no_more_than_the_limit",),
        simulated=False,
    ),
    Mutant(
        "answers-made-for-whoever-reads-nothing",
        "a thousand unread answers take a gigabyte",
        (
            Patch(
                "disheap:WaitingAnswers.make",
                "if unsent > self._write_buffer_bytes * ROOM_SHARE:",
                "if False:",
            ),
        ),
        (BUFFERS + "test_answers_are_made_only_when_they_are_read_and_come_in_order",),
        simulated=False,
    ),
    Mutant(
        "answers-of-lost-connections-keep-their-places",
        "clients that leave before they have read their answers leave no place for other questions",
        (
            Patch(
                "disheap:WaitingAnswers.drop",
                "        while self._waiting:\n            self._waiting.popleft()()\n",
                "        while False:\n            self._waiting.popleft()()\n",
            ),
        ),
        (BUFFERS + "test_questions_of_a_connection_that_is_gone_leave_their_places",),
        simulated=False,
    ),
    Mutant(
        "questions-of-lost-connections-keep-their-places",
        "clients that leave before the leader may read leave no place for other questions",
        (
            Patch(
                "disheap:ClientConnection.answer",
                "        if self.closed:\n            self._answers.drop()\n",
                "        if False:\n            self._answers.drop()\n",
            ),
        ),
        (BUFFERS + "test_a_question_whose_connection_ends_before_the_read_leaves_its_place",),
        simulated=False,
    ),
    Mutant(
        "unread-output-without-bound",
        "many consumers that read nothing take all memory, each within its own bound",
        (
            Patch(
                "disheap:Buffers.check_output",
                "        if self.output_bytes <= self._output_max_bytes:\n            return\n",
                "        return\n",
            ),
        ),
        (BUFFERS + "test_over_all_connections_no_more_waits_than_the_limit",),
        simulated=False,
    ),
    Mutant(
        "full-memory-ignored",
        "a node takes messages in until the kernel ends it",
        (
            Patch(
                "disheap:Server.note_shortage",
                "self.short = next((reason for reason, _ in self._shortages.values()), None)",
                "self.short = self._shortages.get(DiskFull, (None, True))[0]",
            ),
            Patch("disheap.runtime.clients.server", "    NotLeader,\n", "    DiskFull,\n    NotLeader,\n"),
        ),
        (MEMORY + "test_a_node_that_is_short_of_memory_refuses_only_what_brings_something_in",),
    ),
    Mutant(
        "memory-looked-at-by-the-clock-alone",
        "a leader that takes hundreds of megabytes a second is far above its mark before it looks",
        (Patch("disheap:Server.submit", "            self._directory.check_memory()\n", ""),),
        (MEMORY + "test_a_leader_that_takes_much_in_looks_before_its_time",),
        simulated=False,
    ),
    Mutant(
        "first-size-of-the-process-kept",
        "a node that started in a large process refuses messages for ever, though the process has become small",
        (
            Patch(
                "disheap:MemoryWatch.check_usage",
                "self._base_bytes = min(self._base_bytes, self._resident_bytes)",
                "pass",
            ),
        ),
        (MEMORY + "test_a_process_that_was_large_when_the_node_started_may_become_small",),
    ),
    Mutant(
        "full-memory-never-over",
        "a node that was short of memory once takes nothing any more",
        (
            Patch(
                "disheap:MemoryWatch._note_shortage",
                "self._open_below() if was_short else self.high_water_bytes",
                "0 if was_short else self.high_water_bytes",
            ),
        ),
        (MEMORY + "test_commands_are_taken_again_an_eighth_below_the_mark",),
    ),
    Mutant(
        "memory-of-followers-ignored",
        "a leader with much memory drives a follower with little into its end",
        (Patch("disheap:MemoryWatch.heard", "        if gossip.memory_is_short:\n", "        if False:\n"),),
        (MEMORY + "test_one_node_that_is_short_is_enough_and_a_silent_one_holds_nobody_up",),
    ),
    Mutant(
        "silent-node-keeps-the-leader-refusing",
        "a node that was short of memory and died holds everybody up for ever",
        (Patch("disheap:MemoryWatch.settle", "if now - said[0] < GOSSIP_VALID_S}", "if True}"),),
        (MEMORY + "test_one_node_that_is_short_is_enough_and_a_silent_one_holds_nobody_up",),
    ),
    Mutant(
        "real-size-ignored",
        "what nobody counts takes no memory",
        (
            Patch(
                "disheap:MemoryWatch._used",
                "return max(self._resident_bytes - self._reusable_bytes, expected)",
                "return expected",
            ),
        ),
        (MEMORY + "test_a_machine_that_says_nothing_is_believed_nothing",),
        simulated=False,
    ),
    Mutant(
        "freed-memory-kept",
        "freed memory never goes back to the system, and a drained node stays full",
        (Patch("disheap:MemoryWatch._trim", "self._source.return_free_memory()", "0.0"),),
        (MEMORY + "test_what_was_freed_is_given_back_to_the_system",),
        simulated=False,
    ),
    Mutant(
        "reusable-memory-without-bound",
        "all that cannot go back counts as free: the process grows to twice its mark",
        (
            Patch(
                "disheap:MemoryWatch._trim_if_due",
                "self._reusable_bytes = min(max(0, resident - expected), int(self.high_water_bytes * REUSABLE_SHARE))",
                "self._reusable_bytes = max(0, resident - expected)",
            ),
        ),
        (MEMORY + "test_what_counts_as_reusable_has_a_bound",),
        simulated=False,
    ),
    Mutant(
        "memory-limit-of-the-parent-ignored",
        "a limit of a cgroup above the process's own does not count",
        (
            Patch(
                "disheap:ProcessMemory._up_the_hierarchy",
                "for length in range(len(parts), -1, -1):",
                "for length in range(len(parts), len(parts) - 1, -1):",
            ),
        ),
        ("tests/runtime/test_process_memory.py::test_the_smallest_limit_holds_wherever_it_is_set",),
        simulated=False,
    ),
    Mutant(
        "full-disk-ends-the-node",
        "a write that finds no room ends the node, instead of waiting for some",
        (Patch("disheap:Writer._finished", "if isinstance(error, StorageFull):", "if False:"),),
        (ROOM + "test_a_node_whose_disk_is_full_confirms_nothing_until_there_is_room",),
    ),
    Mutant(
        "partial-append-kept",
        "what a full disk took of an append stays behind the log, and a smaller one does not cover it",
        (
            Patch(
                "disheap_filelog:Segment.append",
                "with needs_room(self.path, self._cut_unused):",
                "with needs_room(self.path, lambda: None):",
            ),
        ),
        (
            "tests/storage/test_file_failures.py::test_an_append_without_room_leaves_nothing_and_works_when_there_is_some",
        ),
    ),
    Mutant(
        "failed-fsync-counts-as-no-room",
        "an fsync that found no room is tried again, though what it could not write is gone from the cache",
        (
            Patch(
                "disheap_filelog:Segment.append",
                '            self._file.write(b"".join(parts), self.end)\n',
                '            self._file.write(b"".join(parts), self.end)\n            self._file.sync()\n',
            ),
        ),
        ("tests/storage/test_file_failures.py::test_no_room_at_an_fsync_is_an_error_like_any_other",),
    ),
    Mutant(
        "quarantined-node-leads",
        "a node that knows its state to be wrong goes on serving it",
        (Patch("disheap:Replica.quarantine", "        self.lifecycle.change(State.QUARANTINED, reason)\n", ""),),
        (COMPARING + "test_a_replica_whose_state_rots_serves_nothing_and_the_others_go_on",),
    ),
    Mutant(
        "quarantine-of-the-many",
        "one node with another state is enough to put a sound one in quarantine",
        (Patch("disheap:StateComparison._judge", "agreeing >= majority(len(voters))", "agreeing"),),
        (COMPARING + "test_a_node_takes_itself_out_where_a_majority_agrees_on_another_state",),
    ),
    Mutant(
        "quarantined-node-hands-out-snapshots",
        "a state that is known to be wrong is given to others that ask for a snapshot",
        (Patch("disheap:Responder._piece", "if self._host.lifecycle.state is State.QUARANTINED:", "if False:"),),
        (COMPARING + "test_a_quarantined_node_hands_out_no_snapshot",),
    ),
    Mutant(
        "disk-failure-told-to-the-asker-alone",
        "only a caller that waits is told that the disk failed, and the node goes on if nobody waits any more",
        (
            Patch(
                "disheap:FailStopDisk._heard",
                "            if isinstance(error, DiskFailed):\n                self._failed(error)\n",
                "",
            ),
        ),
        (
            FAILURES + "test_a_disk_that_fails_is_heard_of_though_nobody_waits_for_the_answer",
            FAILURES + "test_a_question_that_hits_a_failed_disk_ends_the_node",
        ),
        pitfall=26,
    ),
    Mutant(
        "error-of-closing-passed-over",
        "a node whose disk fails while it stops ends as if all were well, with exit code 0",
        (
            Patch(
                "disheap:Member.stop",
                "        if not failed_before and self.failure is not None:\n            raise self.failure\n",
                "",
            ),
        ),
        (
            FAILURES + "test_an_error_of_closing_is_raised_by_stop_once_and_everything_is_closed",
            "tests/cli/test_hosting.py::test_an_error_of_closing_after_a_signal_is_the_processs_error",
            "tests/simulator/test_sim_fail_stop.py",
        ),
        pitfall=26,
    ),
    Mutant(
        "log-opened-anew-after-a-failed-disk",
        "a repair under way closes the storage that has failed, opens it again, and the node goes on",
        (
            Patch(
                "disheap:Replica.recover_again",
                "        self._raise_failure()  # opened anew, it would be tried again\n",
                "",
            ),
        ),
        (FAILURES + "test_after_an_error_of_the_disk_the_log_is_not_opened_anew",),
        pitfall=26,
    ),
    Mutant(
        "signal-hides-a-failure",
        "a node that fails in the moment in which it is told to stop ends with exit code 0",
        (
            Patch(
                "disheap:_host",
                "        if node.failure is not None:\n"
                "            raise node.failure  # it failed and was told to stop at the same time\n",
                "",
            ),
        ),
        ("tests/cli/test_hosting.py::test_a_node_that_fails_and_is_told_to_stop_at_the_same_time_has_failed",),
        pitfall=26,
        simulated=False,
    ),
    Mutant(
        "entry-applied-without-a-pause",
        "an entry of thousands of commands stops the loop for as long as they take",
        (
            Patch(
                "disheap:Applier.run",
                "if now >= until:\n                    break",
                "pass",
            ),
        ),
        ("tests/runtime/test_applying.py::test_a_slice_ends_in_the_midst_of_an_entry_when_its_time_is_over",),
        simulated=False,
    ),
    Mutant(
        "view-in-the-midst-of-an-entry",
        "a snapshot holds half of the entry behind the one it names, and that half is applied again after a restart",
        (
            Patch(
                "disheap:Applier.when_whole",
                "if self._steps is None:\n            call()",
                "if True:\n            call()",
            ),
        ),
        ("tests/runtime/test_applying.py::test_who_needs_a_whole_state_waits_for_the_end_of_the_entry",),
    ),
    Mutant(
        "view-of-a-later-entry",
        "the nodes store their snapshots of a mark in the log at different indexes, and who waits may wait for a batch",
        (
            Patch(
                "disheap:Applier.run",
                "if self._waiting or now >= until:",
                "if now >= until:",
            ),
        ),
        (
            "tests/runtime/test_applying.py::test_a_slice_ends_with_the_entry_whose_end_somebody_waits_for",
            "tests/runtime/test_applying.py::test_a_mark_in_the_log_has_the_state_of_its_own_index_stored",
        ),
        simulated=False,
    ),
    Mutant(
        "hash-older-than-the-request",
        "an operator who asks for the hash gets that of a state from before the request",
        (Patch("disheap:StateHasher.hash_state", "future = self._next\n", "future = self._next or self._made\n"),),
        ("tests/runtime/test_state_hashes.py::test_a_hash_is_never_of_a_state_older_than_the_request",),
        simulated=False,
    ),
    Mutant(
        "hash-of-another-entry",
        "a hash is told of an entry that was applied while it was made, and replicas that are equal seem to differ",
        (
            Patch(
                "disheap:admin",
                'return {"applied_index": index, "state_hash": digest.hex()}',
                'return {"applied_index": node.group.applied.index, "state_hash": digest.hex()}',
            ),
        ),
        ("tests/runtime/test_operators.py::test_a_hash_is_of_the_entry_that_it_names_and_commands_go_on_meanwhile",),
        simulated=False,
    ),
    Mutant(
        "view-taken-with-its-first-piece",
        "the view of a machine with a generator function shows entries that were applied after it was asked for",
        (
            Patch(
                "disheap:Sessions.snapshot",
                "map(_row, self._view()), _begin(self.machine.snapshot()))",
                "map(_row, self._view()), self.machine.snapshot())",
            ),
        ),
        (SESSIONS + "test_the_view_of_a_machine_with_generator_functions_is_of_the_call",),
    ),
    Mutant(
        "class-without-a-method-is-registered",
        "a plugin that lacks a method of its contract is loaded, and raises at every tick of the node",
        (
            Patch(
                "disheap:_method_faults",
                "        if not callable(found) or",
                "        if False and not callable(found) or",
            ),
        ),
        (CONTRACT + "test_a_method_that_is_missing_is_named",),
    ),
    Mutant(
        "snapshot-takes-the-last-bytes",
        "a snapshot fills the disk, and nothing is left for the acknowledgements that would free it",
        (
            Patch(
                "disheap:Snapshotter._piece_written",
                "run.max_bytes is None and free_bytes is not None and free_bytes < self._policy.reserve_bytes",
                "run.max_bytes is None and free_bytes is not None and free_bytes < 0",
            ),
        ),
        ("tests/runtime/test_disk_space.py::test_a_snapshot_that_is_due_is_given_up_before_it_takes_the_last_bytes",),
        simulated=False,
    ),
    Mutant(
        "short-disk-drops-remote-control",
        "while a disk is short no remote control passes, though it leaves nothing behind",
        (
            Patch(
                "disheap:Server.submit_transient",
                "not (self.takes_transient or self._is_allowed_when_full(envelope.body))",
                "not self._is_allowed_when_full(envelope.body)",
            ),
        ),
        (
            "tests/runtime/test_disk_space.py::test_a_transient_command_passes_while_only_messages_that_stay_are_refused",
        ),
        simulated=False,
    ),
    Mutant(
        "wrong-clock-may-lead",
        "a node whose clock is ten years ahead leads, and fires every delay and expiry that there is",
        (
            Patch(
                "disheap:ClockCheck.objection",
                'return "" if self.ahead_ms() <= self._max_clock_jump_ms else self._find_objection(voters)',
                'return ""',
            ),
        ),
        (CLOCK_CHECK + "test_a_node_ten_years_ahead_does_not_lead_and_says_why",),
        pitfall=25,
    ),
    Mutant(
        "clock-of-a-lost-member-agrees",
        "a wrong clock that was set right while its node was down agrees with another one that is wrong now",
        (Patch("disheap:MemberClocks.lost", "        self._others.pop(peer, None)\n", "        pass\n"),),
        (CLOCK_CHECK + "test_the_clock_of_a_member_that_is_lost_agrees_with_nobody",),
        pitfall=25,
        simulated=False,
    ),
    Mutant(
        "one-clock-that-agrees-is-enough",
        "two nodes with one wrong clock outvote the others' clocks",
        (
            Patch(
                "disheap:ClockCheck._find_objection",
                "if len(agreeing) >= majority(len(voters)):",
                "if len(agreeing) >= 1:",
            ),
        ),
        (CLOCK_CHECK + "test_a_majority_of_the_clocks_decides",),
        pitfall=25,
    ),
    Mutant(
        "leaders-clock-drags-log-time",
        "a leader whose clock jumps by years has log time run a tenth too fast for as long as it leads",
        (
            Patch(
                "disheap:LogClock.now_ms",
                "if self.follows_wall else 0.0",
                "if self._time_ms else 0.0",
            ),
        ),
        (CLOCK_CHECK + "test_log_time_keeps_the_monotonic_pace_when_the_clock_is_not_believed",),
        pitfall=25,
        masked="its runs are too short for a tenth to add up to a minute",
    ),
    Mutant(
        "confirmed-messages-wait-for-the-late-flush",
        "a crash within seconds of a confirmed message, and damage of its block, drop it as torn",
        (
            Patch(
                "disheap:IdleFlush.is_due",
                "if self._entries and is_transient(self._entries):",
                "if self._entries:",
            ),
        ),
        ("tests/runtime/test_idle_flush.py",),
        simulated=False,
    ),
    Mutant(
        "frames-do-not-follow-the-payload",
        "whoever raises the payload's limit has to know of two more settings, or large messages are refused",
        (Patch("disheap:fitted", "max(FRAME_BYTES, max_command_bytes + ENVELOPE.size)", "FRAME_BYTES"),),
        ("tests/runtime/test_large_commands.py::test_frames_follow_the_machines_largest_command",),
        simulated=False,
    ),
)
