"""Values, watches and barriers: told once, counted once, and published once."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

VALUES = "tests/heap/test_values.py::"

MUTANTS = (
    Mutant(
        "value-never-expires",
        "results stay for ever, and fill the memory",
        (Patch("disheap_heap:_add", "        state.timers.arm_value(number, expires_at_ms)\n", "        pass\n"),),
        (VALUES + "test_a_value_is_dropped_at_its_time",),
        simulated=False,
    ),
    Mutant(
        "final-value-replaced",
        "a task that ran a second time and failed hides the result of the first",
        (Patch("disheap_heap:set_value", "before.stage != STAGE_FINAL", "True"),),
        (VALUES + "test_a_final_value_is_never_replaced",),
        simulated=False,
    ),
    Mutant(
        "watch-is-not-told",
        "a client waits for a result that is there",
        (Patch("disheap_heap:_tell_watchers", "        state.push(watching, body)\n", "        pass\n"),),
        (VALUES + "test_who_watches_a_key_is_pushed_its_values_up_to_the_outcome",),
        simulated=False,
    ),
    Mutant(
        "watch-outlives-the-outcome",
        "a client is told a result again with each repetition, and its watches add up",
        (Patch("disheap_heap:_tell_watchers", "        if command.stage != STAGE_INTERIM:\n", "        if False:\n"),),
        (VALUES + "test_who_watches_a_key_is_pushed_its_values_up_to_the_outcome",),
        simulated=False,
    ),
    Mutant(
        "watch-outlives-its-session",
        "the watches of clients that are gone add up until no other may watch",
        (
            Patch(
                "disheap_heap:end_some", "        end_watches(state, session, until - state.units)\n", "        pass\n"
            ),
            Patch("disheap_heap:end_some", " and not session.watches:", ":"),
        ),
        (VALUES + "test_watches_end_with_their_session",),
        simulated=False,
    ),
    Mutant(
        "part-counted-twice",
        "a group of tasks is complete while one of them still runs, because another was carried out twice",
        (Patch("disheap_heap:arrive", "    if not barrier.has(part):", "    if True:"),),
        (VALUES + "test_a_part_that_arrives_twice_counts_once",),
        simulated=False,
    ),
    Mutant(
        "barrier-message-published-twice",
        "what follows a group of tasks is carried out twice",
        (
            Patch(
                "disheap_heap:_release",
                ', barrier.is_released = barrier.message, b"", True',
                ", _ = barrier.message, barrier.message, True",
            ),
        ),
        (VALUES + "test_the_last_part_publishes_the_message_once",),
        simulated=False,
    ),
    Mutant(
        "closed-barrier-closed-again",
        "two workers that read the parts of one barrier both send what follows",
        (Patch("disheap_heap:find_open", "if barrier is None or barrier.is_closed:", "if barrier is None:"),),
        (VALUES + "test_of_several_attempts_to_close_a_barrier_one_gets_through",),
        simulated=False,
    ),
    Mutant(
        "late-part-begins-a-barrier-again",
        "a part that comes late begins a barrier anew, and what follows is carried out twice",
        (Patch("disheap_heap:close", "    if barrier.lifetime_ms:", "    if False:"),),
        (VALUES + "test_a_part_that_comes_late_does_not_begin_a_barrier_again",),
        simulated=False,
    ),
    Mutant(
        "value-missing-in-a-snapshot",
        "a node that restarts has lost all results",
        (Patch("disheap_heap:_tables", '    yield "values", view.values()\n', ""),),
        (VALUES + "test_a_snapshot_has_values_watches_and_barriers",),
        simulated=False,
    ),
    Mutant(
        "dropped-value-missing-in-a-view",
        "a value that is dropped while a snapshot is written is missing in it, and replicas differ",
        (Patch("disheap_heap:View.keep_value", "        self._kept_values.put(value.number, value)\n", ""),),
        (VALUES + "test_an_open_view_shows_the_values_of_its_moment",),
        simulated=False,
    ),
    Mutant(
        "long-value-pushed",
        "a result of 8 MiB for a thousand clients fills 8 GiB of buffers",
        (
            Patch(
                "disheap_heap:_tell_watchers",
                "    is_long = size > PUSHED_VALUE_BYTES_MAX or size * len(watchers) > MAX_PUSH_BYTES_PER_CALL\n",
                "    is_long = False\n",
            ),
        ),
        (VALUES + "test_a_long_value_is_announced_and_not_pushed",),
        simulated=False,
    ),
)
