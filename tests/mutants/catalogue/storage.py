"""The disk: what is durable when, and what is believed of what is found there (class 14, and storage's own rules)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

DAMAGE = "tests/storage/test_file_damage.py::"
FAILURES = "tests/storage/test_file_failures.py::"
POWER = "tests/storage/test_file_power_cuts.py"
PREALLOCATION = "tests/storage/test_file_preallocation.py::"

MUTANTS = (
    Mutant(
        "file-made-where-all-were-removed",
        "a node whose files were removed makes a new one there, and its next start says that others are lost",
        (
            Patch(
                "disheap_filelog:LogFiles.rotate",
                "        self._guard.check_directory()\n        old = self.active",
                "        old = self.active",
            ),
        ),
        ("tests/storage/test_file_gone.py::test_no_file_is_made_where_the_files_are_gone",),
        simulated=False,
    ),
    Mutant(
        "no-fsync-of-the-directory",
        "a new segment's name is lost with the power, and every entry in it",
        (
            Patch(
                "disheap_filelog:Segment.create",
                '        filesystem.rename(temporary, f"{directory}/{name}")\n'
                "        filesystem.sync_directory(directory)\n",
                '        filesystem.rename(temporary, f"{directory}/{name}")\n',
            ),
        ),
        (POWER,),
        pitfall=14,
        fast=False,
    ),
    Mutant(
        "append-without-fsync",
        "an append returns while its block is in the page cache alone",
        (
            Patch(
                "disheap_filelog:Segment.append",
                "        self._write_slots(identities.encode_mark(written[0]))\n        self._file.sync()\n",
                "        self._write_slots(identities.encode_mark(written[0]))\n",
            ),
        ),
        ("tests/storage/test_file_directory.py::test_an_append_is_one_write_of_blocks_and_one_fsync",),
        pitfall=14,
    ),
    Mutant(
        "zeros-behind-the-last-block-prove-nothing",
        "space that was allocated ahead is taken for a lost append: no node votes after a crash",
        (
            Patch(
                "disheap_filelog:_Scan._next",
                "        if block is None and self._is_unused(offset):\n",
                "        if offset < 0:\n",
            ),
        ),
        (PREALLOCATION + "test_zeros_behind_the_last_block_are_no_lost_block_if_no_mark_says_so",),
        pitfall=14,
        simulated=False,
    ),
    Mutant(
        "zeros-are-the-end-of-the-log",
        "a block that was begun, and may have been durable, is taken for space that was never used",
        (
            Patch(
                "disheap_filelog:_Scan._is_unused",
                "        is_begun = not self._is_append_whole or self._slots.is_sound(number)\n",
                "        is_begun = False\n",
            ),
        ),
        (
            PREALLOCATION + "test_a_lost_block_is_damage_for_a_member_and_dropped_by_a_node_alone",
            PREALLOCATION + "test_an_append_of_several_blocks_that_lost_its_end_is_ambiguous",
        ),
        pitfall=14,
        simulated=False,
    ),
    Mutant(
        "append-without-a-mark",
        "nothing says that a block was begun in space that was allocated before: it is lost without a word",
        (
            Patch(
                "disheap_filelog:Segment.append",
                "self._write_slots(identities.encode_mark(written[0]))",
                "self._write_slots()",
            ),
        ),
        (PREALLOCATION + "test_a_lost_block_is_damage_for_a_member_and_dropped_by_a_node_alone",),
        pitfall=14,
        simulated=False,
    ),
    Mutant(
        "mark-taken-for-an-identity",
        "a torn append is called damage, and a node that is alone refuses to start",
        (
            Patch(
                "disheap_filelog:Slots.is_identity",
                "        return self.is_sound(number) and not self._entries(number) & MARK\n",
                "        return self.is_sound(number)\n",
            ),
        ),
        (DAMAGE + "test_a_single_node_drops_an_ambiguous_tail_and_says_so",),
        pitfall=14,
        simulated=False,
    ),
    Mutant(
        "mark-before-the-blocks",
        "an append that found no room leaves a mark, and the next start says that a block is lost",
        (
            Patch(
                "disheap_filelog:Segment.append",
                "        with needs_room(self.path, self._cut_unused):\n",
                "        self._write_slots(identities.encode_mark(written[0]))\n"
                "        with needs_room(self.path, self._cut_unused):\n",
            ),
        ),
        (PREALLOCATION + "test_an_append_without_room_behind_the_allocated_space_leaves_nothing",),
        simulated=False,
    ),
    Mutant(
        "damaged-mark-is-not-ambiguous",
        "zeros whose mark rotted are taken for space that was never used",
        (Patch("disheap_filelog:_Scan._is_unused", "if not self._slots.is_empty(number):", "if number < 0:"),),
        (PREALLOCATION + "test_zeros_whose_mark_is_damaged_are_ambiguous",),
        simulated=False,
    ),
    Mutant(
        "full-disk-while-space-is-allocated-ends-the-node",
        "space that no append needs yet is not there, and the node stops",
        (
            Patch(
                "disheap_filelog:Segment.preallocate",
                "        with suppress(StorageFull), needs_room(self.path, lambda: "
                "self._file.truncate(self.allocated)):\n",
                "        if True:\n",
            ),
        ),
        (PREALLOCATION + "test_a_disk_without_room_allocates_nothing_and_goes_on",),
        simulated=False,
    ),
    Mutant(
        "space-allocated-in-a-shortage",
        "a node that is short of space allocates more for its log than it needs",
        (
            Patch(
                "disheap:DiskSpace.check_usage",
                "may_allocate = not self.is_short",
                "may_allocate = True",
            ),
        ),
        ("tests/runtime/test_disk_space.py::test_space_is_allocated_ahead_unless_the_disk_is_short_of_it",),
        simulated=False,
    ),
    Mutant(
        "torn-tail-taken-for-damage",
        "a node whose last append was torn by a power cut refuses to start",
        (
            Patch(
                "disheap_filelog:_Scan._judge_end",
                "        return Tail(segment.path, segment.end, self._size - segment.end, reason)\n",
                "        raise self._damaged(segment.end, reason)\n",
            ),
        ),
        (
            DAMAGE + "test_a_member_of_a_cluster_reports_an_ambiguous_tail_until_told_otherwise",
            DAMAGE + "test_a_single_node_drops_an_ambiguous_tail_and_says_so",
        ),
        pitfall=14,
    ),
    Mutant(
        "damage-taken-for-a-torn-tail",
        "a block that was durable and rotted is cut off, with the acknowledged entries in it",
        (
            Patch(
                "disheap_filelog:Slots.proves",
                "        return self.is_identity(number) or any(self.is_sound(later) for later in "
                "range(number + 1, self.used))\n",
                "        return False\n",
            ),
            Patch(
                "disheap_filelog:Slots.hints",
                "        return self.used > number + 1 or (self.used > number and not self.is_mark(number))\n",
                "        return False\n",
            ),
        ),
        (
            DAMAGE + "test_a_damaged_block_with_an_identity_stops_a_single_node",
            DAMAGE + "test_a_missing_end_that_was_durable_is_damage",
        ),
        pitfall=14,
    ),
    Mutant(
        "end-behind-a-damaged-block-believed",
        "nothing tells how long the damaged block was, and the log is taken for whole behind it",
        (Patch("disheap_filelog:_Scan._judge_end", "if self._ambiguous_block is not None:", "if self._size < 0:"),),
        (DAMAGE + "test_what_lay_behind_a_damaged_block_whose_end_nothing_tells_is_ambiguous",),
        pitfall=14,
    ),
    Mutant(
        "ambiguity-forgotten-at-a-restart",
        "a member whose last block was torn votes as if its log were whole",
        (
            Patch(
                "disheap_filelog:FileStorage._settle_tail",
                "        self._meta.save_ambiguity(None if alone else after)\n",
                "        self._meta.save_ambiguity(None)\n",
            ),
        ),
        (
            DAMAGE + "test_a_member_of_a_cluster_reports_an_ambiguous_tail_until_told_otherwise",
            DAMAGE + "test_a_second_ambiguity_lies_behind_the_first",
        ),
        pitfall=14,
    ),
    Mutant(
        "identity-before-the-fsync",
        "a block is said to be durable in the very write that makes it so: a torn one is then taken for damage",
        (
            Patch(
                "disheap_filelog:Segment.append",
                "self._write_slots(identities.encode_mark(written[0]))",
                "self._write_slots(identities.encode(written))",
            ),
        ),
        (DAMAGE + "test_identities_are_written_only_after_the_fsync_of_their_block",),
    ),
    Mutant(
        "found-blocks-are-believed",
        "a block that may be in the page cache alone, after a failed fsync, is not written again at open",
        (
            Patch(
                "disheap_filelog:FileStorage._repair_files",
                "            self._log.active.rewrite_unidentified(found.unidentified)\n",
                "            pass\n",
            ),
        ),
        (DAMAGE + "test_good_blocks_without_identity_are_written_again_at_open",),
    ),
    Mutant(
        "checksum-not-verified-at-open",
        "a block that rotted is taken as it is",
        (
            Patch(
                "disheap_filelog:_Scan._next",
                "        if crc32(stored) != block.payload_checksum:\n"
                '            return "the block\'s checksum does not match"\n',
                "",
            ),
        ),
        (
            DAMAGE + "test_a_damaged_block_with_an_identity_stops_a_single_node",
            DAMAGE + "test_no_flipped_bit_ever_leads_to_wrong_data",
        ),
    ),
    Mutant(
        "checksum-not-verified-at-read",
        "a block that rots while the node runs is sent to other nodes",
        (
            Patch(
                "disheap_filelog:Segment._stored",
                "if len(stored) != block.stored_bytes or crc32(stored) != block.payload_checksum:",
                "if len(stored) != block.stored_bytes:",
            ),
        ),
        (DAMAGE + "test_a_block_that_rots_while_the_node_runs_is_noticed_by_read",),
    ),
    Mutant(
        "one-copy-of-the-hard-state",
        "one rotten sector takes the term and the vote along",
        (Patch("disheap_filelog:Meta._write", "for number in self._order:", "for number in self._order[:1]:"),),
        (DAMAGE + "test_either_copy_of_the_hard_state_may_rot",),
    ),
    Mutant(
        "hard-state-without-fsync",
        "a vote is given while it is in the page cache alone",
        (
            Patch(
                "disheap_filelog:Meta._write",
                "            self._file.write(_encode(state), SLOT_AT[number])\n            self._file.sync()\n",
                "            self._file.write(_encode(state), SLOT_AT[number])\n",
            ),
        ),
        (DAMAGE + "test_a_hard_state_that_was_saved_survives_a_power_cut",),
        pitfall=1,
    ),
    Mutant(
        "snapshot-without-fsync",
        "a snapshot has its name before its bytes, and the log before it is dropped",
        (
            Patch(
                "disheap_filelog:FileSnapshotWriter.commit",
                "            self._file.sync()\n            self._file.close()\n            self._is_done = True\n",
                "            self._file.close()\n            self._is_done = True\n",
            ),
        ),
        (POWER,),
        fast=False,
    ),
    Mutant(
        "log-cut-beyond-the-snapshot",
        "compaction drops entries that no snapshot stands for",
        (
            Patch(
                "disheap_filelog:FileStorage.compact",
                "self._log.drop_entries_before(Index(min(first_index, self._snapshots.index + 1)))",
                "self._log.drop_entries_before(first_index)",
            ),
        ),
        ("tests/storage/test_file_compaction.py::test_compaction_never_goes_beyond_the_newest_snapshot",),
        simulated=False,
    ),
    Mutant(
        "log-kept-behind-a-leaders-snapshot",
        "a snapshot from the leader is taken in, and the log that it replaces stays",
        (
            Patch(
                "disheap_filelog:FileStorage.begin_snapshot",
                "            if replaces_log:\n                self._log.replace_by(",
                "            if replaces_log and self._log.index.last < meta.index:\n"
                "                self._log.replace_by(",
            ),
        ),
        ("disheap.testing.conformance.test_storage::test_a_snapshot_from_the_leader_also_drops_the_entries_behind_it",),
        pitfall=17,
    ),
    Mutant(
        "damaged-snapshot-is-an-empty-one",
        "a node whose snapshot rotted starts with what is left, and says nothing",
        (
            Patch(
                "disheap_filelog:SnapshotFiles._choose",
                "                self._bad.append(DamagedSnapshot(name, Index(index), term, error))\n",
                "                del index, term, error\n",
            ),
        ),
        (DAMAGE + "test_a_damaged_snapshot_without_a_substitute_stops_only_a_single_node",),
    ),
    Mutant(
        "one-snapshot-kept",
        "the snapshot that a follower is still fetching goes when a newer one comes",
        (Patch("disheap_filelog.snapshots.snapshot_files", "GENERATIONS = 2", "GENERATIONS = 1"),),
        (
            "disheap.testing.conformance.test_storage::test_two_snapshots_are_kept_and_the_newest_counts",
            DAMAGE + "test_a_damaged_snapshot_gives_way_to_the_older_one_and_the_log",
        ),
        masked="it costs a second transfer, and nothing else",
    ),
    Mutant(
        "failed-fsync-tried-again",
        "after an error of the disk the next append is accepted, on pages that the kernel has marked clean",
        (
            Patch(
                "disheap_filelog:Guard.__enter__",
                "        if self._failure:\n            raise DiskFailed(self._failure)\n        if self._is_closed:",
                "        if self._is_closed:",
            ),
        ),
        (FAILURES + "test_after_an_error_every_call_raises_and_nothing_is_written",),
        pitfall=26,
        masked="the runtime ends the node before it gives the storage anything more to do",
    ),
    Mutant(
        "names-found-at-open-are-believed",
        "what the last run renamed and could not make durable is acted upon, and the next power cut takes it back",
        (
            Patch(
                "disheap_filelog:FileStorage._open",
                "        self._filesystem.sync_directory(self._directory)  # the last run may have ended between a "
                "rename and its sync\n",
                "",
            ),
        ),
        (FAILURES + "test_what_open_finds_is_durable_when_it_returns",),
        pitfall=14,
        simulated=False,
    ),
    Mutant(
        "directory-that-is-there-is-believed",
        "a data directory whose name never became durable is lost with everything in it",
        (
            Patch(
                "disheap_filelog:OsFilesystem.make_directory",
                "            with contextlib.suppress(PermissionError):\n                self.sync_directory(parent)\n",
                "",
            ),
        ),
        (FAILURES + "test_a_directory_whose_name_is_not_durable_is_synced_at_the_next_start",),
        pitfall=14,
        simulated=False,
    ),
    Mutant(
        "failed-close-is-nothing",
        "an error of close, which may be the first word of a lost write, is passed over",
        (
            Patch(
                "disheap_filelog:FileStorage._release",
                "                failure = failure or error\n",
                "                _log.warning('not closed', reason=str(error))\n",
            ),
        ),
        (
            FAILURES + "test_a_failed_close_is_an_error_and_unlocks_all_the_same",
            "tests/storage/test_file_fail_stop.py",
        ),
        pitfall=26,
        simulated=False,
    ),
    Mutant(
        "writes-to-removed-files-are-confirmed",
        "a node whose files were removed goes on confirming what no restart will find",
        (
            Patch(
                "disheap_filelog:FileStorage.append",
                "            self._check_in_place(self._log.active)\n",
                "            pass\n",
            ),
        ),
        ("tests/storage/test_file_gone.py::test_an_append_to_files_that_are_gone_is_not_confirmed",),
    ),
    Mutant(
        "removed-files-are-noticed-at-a-write-alone",
        "a node that writes nothing never notices that its files were removed",
        (Patch("disheap_filelog:FileStorage.usage", "            self._check_all_in_place()\n", ""),),
        ("tests/storage/test_file_gone.py::test_a_node_that_only_looks_notices_it_too",),
    ),
    Mutant(
        "the-lock-is-its-file-alone",
        "a second node starts on a directory in use, once somebody has removed its lock file",
        (Patch("disheap_filelog:OsLock.__init__", "            _lock_directory(self._directory)\n", ""),),
        ("tests/storage/test_file_gone.py::test_nobody_else_starts_where_the_lock_was_removed",),
        simulated=False,
    ),
)
