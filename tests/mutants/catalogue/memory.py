"""Memory: what is counted, what is bounded, and what goes back when it is no longer needed."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

SESSIONS = "tests/runtime/test_sessions.py::"
LOG = "tests/kernel/test_log.py::"
MEMORY = "tests/runtime/test_memory.py::"
DISCARDING = "tests/runtime/test_discarding.py::"

MUTANTS = (
    Mutant(
        "replies-of-all-sessions-without-bound",
        "many sessions, each within its own bound, have every node keep gigabytes of replies",
        (
            Patch(
                "disheap:Sessions._execute",
                " or self.reply_bytes >= limits.max_reply_bytes):",
                "):",
            ),
        ),
        (SESSIONS + "test_the_replies_of_all_sessions_together_are_bounded",),
    ),
    Mutant(
        "full-replies-stop-everybody",
        "a few clients that confirm nothing keep all others from doing anything",
        (
            Patch(
                "disheap:Sessions._execute",
                "        is_next = seq <= session.confirmed + 1 ",
                "        is_next = seq == 0 ",
            ),
        ),
        (SESSIONS + "test_the_replies_of_all_sessions_together_are_bounded",),
    ),
    Mutant(
        "refusals-counted-by-their-text",
        "two releases word a refusal differently, count it differently, and refuse different commands",
        (Patch("disheap:memory_of", "(len(body) if status == Status.OK else REFUSAL_BYTES)", "len(body)"),),
        (SESSIONS + "test_a_refusal_counts_the_same_whatever_its_text_says",),
        simulated=False,
    ),
    Mutant(
        "cache-counts-wire-bytes",
        "a cache full of small entries takes three times its bound",
        (
            Patch(
                "disheap:memory_of",
                "return len(entry.data) + ENTRY_MEMORY_BYTES",
                "return len(entry.data) + ENTRY_OVERHEAD_BYTES",
            ),
        ),
        (
            "tests/runtime/test_memory_estimate.py::"
            "test_the_estimate_of_the_log_in_memory_is_right_for_entries_of_every_size",
        ),
        simulated=False,
    ),
    Mutant(
        "restored-tail-without-bound",
        "a node that starts holds as many small entries as their data allow, overhead aside",
        (
            Patch(
                "disheap:Log._restore",
                "        self._evict()  # storage counted data alone\n",
                "",
            ),
        ),
        (LOG + "test_a_restored_tail_stays_within_its_bound",),
        simulated=False,
    ),
    Mutant(
        "frame-of-a-member-without-bound",
        "one member that has gone wrong has every other node hold gigabytes of a frame that never ends",
        (
            Patch(
                "disheap:IncomingLink._greet",
                "self._reader.set_limit(self._frame_bytes,",
                "self._reader.set_limit(1 << 30,",
            ),
        ),
        ("tests/runtime/test_links.py::test_a_frame_of_a_member_over_the_limit_is_refused_and_the_setting_named",),
        simulated=False,
    ),
    Mutant(
        "refusal-after-the-welcome-unread",
        "a member that is refused in the middle of its work never learns why",
        (
            Patch(
                "disheap:OutgoingLink.data_received",
                "                if kind == Kind.GOODBYE:\n",
                "                if kind == Kind.GOODBYE and not self._greeted:\n",
            ),
        ),
        ("tests/runtime/test_links.py::test_a_frame_of_a_member_over_the_limit_is_refused_and_the_setting_named",),
        simulated=False,
    ),
    Mutant(
        "half-a-power-is-no-power",
        "a plugin with all methods of an optional power but one is loaded, and the node silently does without",
        (Patch("disheap.plugins.contract_check", "    for power in POWERS[kind]:\n", "    for power in ():\n"),),
        ("tests/plugins/test_contract_check.py::test_half_of_an_optional_power_is_refused_and_the_rest_named",),
        simulated=False,
    ),
    Mutant(
        "heap-commands-for-any-machine",
        "`disheap enqueue` sends a message to a machine that takes it for a command of its own",
        (
            Patch(
                "disheap.cli.asking",
                "    if welcome.machine == HEAP:\n",
                "    if welcome.machine:\n",
            ),
        ),
        ("tests/cli/test_other_machines.py::test_a_verb_of_the_heap_says_that_the_cluster_runs_another_machine",),
        simulated=False,
    ),
    Mutant(
        "replaced-state-stays-in-memory",
        "a follower that takes over a leader's snapshot keeps the state that it replaced",
        (
            Patch("disheap_heap.state.state", "    def __del__(self) -> None:\n", "    def _untie(self) -> None:\n"),
            Patch("disheap_heap:HeapMachine.discarding", "return discarding(self._state)", "return iter(())"),
        ),
        ("tests/runtime/test_leftovers.py::test_a_leaders_snapshot_that_was_installed_leaves_nothing",),
        simulated=False,
    ),
    Mutant(
        "replaced-group-stays-in-memory",
        "each repair while the node runs leaves a whole group with its state behind",
        (Patch("disheap.runtime.hosted_replica", "        before.release()\n", ""),),
        ("tests/runtime/test_leftovers.py::test_damage_that_was_mended_leaves_nothing",),
        fast=False,
        simulated=False,
    ),
    Mutant(
        "closed-client-stays-in-memory",
        "a program that opens a client for each piece of work grows by all of them",
        (
            Patch(
                "disheap.client.io.asyncio_driver",
                "            self._runner = None  # a task that was cancelled",
                "            # a task that was cancelled",
            ),
        ),
        ("tests/client/test_leftovers.py::test_an_asyncio_client_that_ended_frees_itself",),
        simulated=False,
    ),
    Mutant(
        "refused-pending-stays-in-memory",
        "each refusal of a command under way stays in memory with the frames that saw it",
        (
            Patch(
                "disheap.client.api.synchronous",
                "                self._box[:] = [renewed(error)]\n",
                "                pass\n",
            ),
        ),
        ("tests/client/test_leftovers.py::test_a_blocking_client_and_what_it_waited_for_free_themselves",),
        simulated=False,
    ),
    Mutant(
        "freed-memory-goes-back-once-a-second",
        "after a purge of 800 MiB all of them go back to the system in one step, which stops the loop for 90 ms",
        (Patch("disheap:MemoryWatch._wait_s", "return 0.0 if self._has_shrunk() else self._trim_s", "return TRIM_S"),),
        (MEMORY + "test_what_is_freed_at_once_goes_back_in_steps",),
        simulated=False,
    ),
    Mutant(
        "freed-memory-looked-at-by-the-tick-alone",
        "a gigabyte is freed between two ticks, and goes back to the system in one step",
        (Patch("disheap:Applier.run", "                    self._worked()\n", ""),),
        (
            "tests/runtime/test_applying.py::test_work_is_told_of_once_in_a_while",
            MEMORY + "test_a_node_looks_at_freed_memory_while_it_applies",
        ),
        simulated=False,
    ),
    Mutant(
        "slow-trims-at-any-time",
        "free memory in a hundred thousand places is looked through again and again, for 80 ms each time",
        (Patch("disheap:MemoryWatch._trim_if_due", "<= TRIM_BOUND_S", ">= 0.0"),),
        (
            MEMORY + "test_a_trim_that_would_be_slow_is_left_out_until_the_state_has_halved",
            MEMORY + "test_a_trim_is_quick_again_when_free_blocks_have_merged",
        ),
        simulated=False,
    ),
    Mutant(
        "slow-trims-within-commands",
        "a trim that takes 160 ms is done while a purge is applied",
        (Patch("disheap:MemoryWatch._trim_if_due", "elif in_tick and", "elif"),),
        (MEMORY + "test_a_trim_that_would_be_slow_is_left_out_until_the_state_has_halved",),
        simulated=False,
    ),
    Mutant(
        "allocator-returns-memory-by-itself",
        "the call that frees the last block returns 1.6 GiB, and takes 205 ms",
        (Patch("disheap:MemoryWatch.__init__", "            source.keep_free_memory()\n", "            pass\n"),),
        (MEMORY + "test_the_allocator_returns_nothing_by_itself_where_the_watch_trims",),
        simulated=False,
    ),
    Mutant(
        "storage-memory-uncounted",
        "what the storage holds of the log in memory is counted by nobody",
        (
            Patch(
                "disheap:Group.log_bytes",
                "stored = storage.memory_bytes() if isinstance(storage, MemoryEstimating) else 0",
                "stored = 0",
            ),
        ),
        ("tests/runtime/test_memory.py::test_the_estimate_of_a_node_holds_its_state_its_log_and_its_replies",),
        simulated=False,
    ),
    Mutant(
        "replaced-state-freed-at-once",
        "a follower with a million messages that takes over a snapshot stands still for 140 ms",
        (Patch("disheap:Group.install", "        self._on.replaced(before)\n", ""),),
        (DISCARDING + "test_the_state_that_a_leaders_snapshot_replaced_is_freed_in_slices",),
        simulated=False,
    ),
    Mutant(
        "discarded-state-freed-under-a-view",
        "a hash of a state that was replaced meanwhile is of half of it, and a sound node goes into quarantine",
        (Patch("disheap_heap:discarding", "    while state.views:\n        yield\n", ""),),
        ("tests/heap/test_discarding.py::test_nothing_is_freed_while_a_view_is_open",),
        simulated=False,
    ),
    Mutant(
        "what-views-keep-does-not-count",
        "a million messages that are settled while a snapshot is written are not seen by the high-water mark",
        (
            Patch(
                "disheap_heap:HeapMachine.memory_bytes",
                "footprint.memory_bytes(self._state) + kept_bytes(self._state)",
                "footprint.memory_bytes(self._state)",
            ),
        ),
        ("tests/heap/test_memory_estimate.py::test_what_an_open_view_keeps_is_counted",),
        simulated=False,
    ),
    Mutant(
        "what-views-kept-freed-at-once",
        "the end of a snapshot, during which a million messages were settled, stops the loop for 100 ms",
        (Patch("disheap_heap.snapshots.snapshot", '    yield from (b"" for _ in view.freeing())\n', ""),),
        ("tests/heap/test_views.py::test_what_a_view_kept_is_freed_in_portions_when_it_is_written",),
        simulated=False,
    ),
)
