"""Backups, and what is made of them: a copy that is not whole must not pass for one."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

FILE = "tests/backup/test_backup_file.py::"
TAKEN = "tests/runtime/test_backups.py::"
RECOVERED = "tests/cli/test_cli_recover.py::"
TOLD = "tests/cli/test_cli_backup.py::"
HALF = "tests/backup/test_transactions_begin_anew.py::"

MUTANTS = (
    Mutant(
        "backup-without-an-end-passes",
        "a backup that was cut off behind its last group passes for a whole one",
        (
            Patch(
                "disheap:BackupReader.groups",
                "        if self._next_block() is not None:\n",
                "        if self._read(1) and self._next_block() is not None:\n",
            ),
        ),
        (FILE + "test_a_file_that_was_cut_anywhere_is_called_cut_off",),
        simulated=False,
    ),
    Mutant(
        "backup-whose-group-lacks-a-block",
        "a backup that has lost a block of a group is restored without the messages in it",
        (
            Patch(
                "disheap:BackupReader.pieces",
                "        if (end.raw_bytes, end.digest) != (size, digest.digest()):\n",
                "        if False:\n",
            ),
        ),
        (FILE + "test_a_block_that_is_missing_twice_or_in_another_place_is_found",),
        simulated=False,
    ),
    Mutant(
        "newer-backup-taken-for-damage",
        "an operator throws a good backup away, because it is called damaged where a newer release is needed",
        (
            Patch(
                "disheap:BackupReader._read_header",
                "            raise VersionUnsupported(\n",
                "            raise BackupDamaged(\n",
            ),
        ),
        (FILE + "test_a_newer_format_is_refused_and_not_taken_for_damage",),
        simulated=False,
    ),
    Mutant(
        "backup-older-than-the-request",
        "a backup lacks messages that were confirmed before it began, because a snapshot was being written",
        (
            Patch(
                "disheap:Snapshotter._tell",
                "            if taken.meta.index >= wanted:\n",
                "            if taken.meta.index >= 0:\n",
            ),
        ),
        (TAKEN + "test_a_backup_holds_everything_that_was_confirmed_before",),
        simulated=False,
    ),
    Mutant(
        "backup-of-an-old-snapshot",
        "a backup is of the newest snapshot, however much was confirmed since",
        (
            Patch(
                "disheap:Snapshotter.take_for",
                "        if self._newest is not None and self._newest.meta.index >= wanted:\n",
                "        if self._newest is not None:\n",
            ),
        ),
        (TAKEN + "test_a_backup_holds_everything_that_was_confirmed_before",),
        simulated=False,
    ),
    Mutant(
        "older-snapshot-counts-as-begun",
        "a group begins its snapshot while another one is at an older one, and transactions are there by half",
        (Patch("disheap:Snapshotter.has_begun", "index >= wanted", "index"),),
        ("tests/runtime/test_snapshots.py::test_a_snapshot_for_a_backup_has_begun_when_its_moment_is_over",),
        simulated=False,
    ),
    Mutant(
        "next-group-does-not-wait",
        "the coordinator's group of a transaction is older than its participants in a backup",
        (Patch("disheap.cli.backup", "        while not snapshot.has_begun:", "        while False:"),),
        (TOLD + "test_the_next_group_waits_until_the_moment_of_this_one_is_over",),
        simulated=False,
    ),
    Mutant(
        "backup-waits-for-a-snapshot-that-was-given-up",
        "an operator waits for ever for a snapshot that a leader's has replaced",
        (
            Patch(
                "disheap:Snapshotter.installed",
                '        self._give_up("a leader\'s snapshot has replaced the state")\n',
                "",
            ),
        ),
        (TAKEN + "test_a_backup_of_a_snapshot_that_is_given_up_ends_with_the_reason",),
        simulated=False,
    ),
    Mutant(
        "backup-that-nobody-reads-is-kept",
        "two operators that went away keep everybody from taking a backup until the node is restarted",
        (
            Patch(
                "disheap:Backups.sweep",
                "            if now_s - backup.used_at > IDLE_S and not backup.is_reading:\n",
                "            if False:\n",
            ),
        ),
        (TAKEN + "test_what_nobody_reads_ends_and_frees_its_place",),
        simulated=False,
    ),
    Mutant(
        "backup-loses-its-snapshot-to-newer-ones",
        "a backup of a busy cluster never ends, because two newer snapshots remove the one that it reads",
        (
            Patch(
                "disheap:Backups.begin",
                "is_held=True",
                "is_held=False",
            ),
        ),
        (TAKEN + "test_a_backup_goes_on_when_another_node_leads_and_takes_snapshots",),
        simulated=False,
    ),
    Mutant(
        "half-a-backup-is-left",
        "a backup that failed leaves a file that grows old beside the good ones",
        (
            Patch(
                "disheap.cli.backup",
                "            temporary.unlink()\n",
                "            pass\n",
            ),
        ),
        (TOLD + "test_a_backup_that_fails_leaves_no_file",),
        simulated=False,
    ),
    Mutant(
        "older-snapshot-is-not-verified",
        "the snapshot that a node falls back to is damaged for months, and nobody is told",
        (Patch("disheap:Survivor.check_spare", "self.found.snapshots:", "self.found.snapshots[:0]:"),),
        ("tests/cli/test_cli_recover.py::test_each_snapshot_of_a_directory_is_read",),
        simulated=False,
    ),
    Mutant(
        "half-transactions-are-not-found",
        "an order is paid in one group and never delivered in another, and whoever restored the backup does not know",
        (Patch("disheap:HalfSearch.add", "            if name:\n", "            if False:\n"),),
        (HALF + "test_what_a_participant_of_an_earlier_moment_lacks_is_found",),
        simulated=False,
    ),
    Mutant(
        "told-decisions-are-not-in-the-snapshot",
        "a restore finds only those half transactions whose decision was still on its way",
        (
            Patch(
                "disheap_heap:_Restorer._finished",
                "is_committed, first, messages, decisions)",
                "is_committed, first, messages)",
            ),
        ),
        (HALF + "test_what_a_participant_of_an_earlier_moment_lacks_is_found",),
        groups=3,
    ),
    Mutant(
        "done-and-forgotten-counts-as-missing",
        "a restore lists thousands of whole transactions, and the one that is half is not seen",
        (Patch("disheap_heap:lacks", " or was_taken", ""),),
        (HALF + "test_what_a_participant_has_done_and_forgotten_is_not_half",),
        simulated=False,
    ),
    Mutant(
        "restored-sessions-keep-their-leases",
        "messages that were leased when a backup was made are kept for clients that can never come back",
        (
            Patch(
                "disheap:restore_backup",
                "begin_anew(state, head.time_ms)",
                "len(state.table)",
            ),
        ),
        ("tests/cli/test_cli_restore.py::test_a_cluster_that_has_lost_every_node_lives_on_as_a_new_one",),
        simulated=False,
    ),
    Mutant(
        "sessions-that-end-together-serve-each-other",
        "a message uses up its attempts while the sessions of a restored state end one after another",
        (
            Patch(
                "disheap:Sessions.end_all",
                "            self.machine.session_detached(number)\n",
                "            pass\n",
            ),
        ),
        ("tests/backup/test_ended_sessions.py::test_no_session_gets_what_another_one_gives_back",),
        simulated=False,
    ),
    Mutant(
        "restored-over-data",
        "a restore in the wrong directory replaces the data of a node that was sound",
        (
            Patch(
                "disheap:check_empty",
                "    if groups.exists() and any(groups.iterdir()):\n",
                "    if False:\n",
            ),
        ),
        ("tests/cli/test_cli_restore.py::test_a_directory_with_data_is_refused_and_left_as_it_is",),
        simulated=False,
    ),
    Mutant(
        "restored-under-the-old-id",
        "a node without data that has the same settings is taken for a member of the restored cluster",
        (
            Patch(
                "disheap:new_cluster_id",
                "    if not config.members:\n",
                "    if not config.members:\n        return config.cluster_id()\n    if False:\n",
            ),
        ),
        ("tests/cli/test_cli_restore.py::test_a_new_cluster_never_has_the_id_of_another_one",),
        simulated=False,
    ),
    Mutant(
        "old-backup-whose-node-never-leads",
        "a node alone that was restored from an old backup does not believe its own clock, and serves nothing",
        (
            Patch(
                "disheap:log_time_of",
                "    return time_ms + age_ms if confirm(age_ms) else None\n",
                "    return time_ms if confirm(age_ms) else None\n",
            ),
        ),
        ("tests/cli/test_cli_restore.py::test_a_backup_of_years_ago_is_restored_after_a_question_and_its_node_leads",),
        simulated=False,
    ),
    Mutant(
        "recovered-sessions-keep-their-leases",
        "messages that were leased when a cluster was lost are kept for clients that can never come back",
        (
            Patch(
                "disheap:recover_groups",
                "begin_anew(state, at.time_ms)",
                "len(state.table)",
            ),
        ),
        (RECOVERED + "test_a_majority_that_is_lost_for_good_is_given_up_and_one_survivor_goes_on",),
        simulated=False,
    ),
    Mutant(
        "recovery-gives-up-at-damage-too-early",
        "a survivor with one damaged block is recovered without the good entries before it",
        (
            Patch(
                "disheap:Survivor.last_readable",
                "        damaged = [one.first - 1 for one in found.damaged if one.last > at.index]\n",
                "        damaged: list[int] = []\n",
            ),
        ),
        (RECOVERED + "test_a_log_that_is_damaged_is_recovered_up_to_the_damage",),
        simulated=False,
    ),
    Mutant(
        "recovered-without-the-log",
        "a survivor is recovered from its snapshot alone, and everything behind it is lost",
        (
            Patch(
                "disheap:Survivor.rebuild",
                "        while at.index < end:\n",
                "        while False:\n",
            ),
        ),
        (RECOVERED + "test_a_majority_that_is_lost_for_good_is_given_up_and_one_survivor_goes_on",),
        simulated=False,
    ),
    Mutant(
        "damaged-directory-passes-for-sound",
        "an operator trusts a directory whose damage was seen and not counted",
        (
            Patch(
                "disheap:Survivor.problems",
                "            for one in found.damaged\n",
                "            for one in found.damaged[:0]\n",
            ),
        ),
        (RECOVERED + "test_a_log_that_is_damaged_is_recovered_up_to_the_damage",),
        simulated=False,
    ),
    Mutant(
        "backup-of-a-leader-that-was-deposed",
        "a node that was cut off makes a backup without what the others have confirmed since",
        (Patch("disheap:begin_backup", "    group.read(answer)\n", "    answer(True)\n"),),
        ("tests/simulator/test_sim_backups.py::test_a_leader_that_was_cut_off_begins_no_backup",),
        simulated=False,
    ),
)
