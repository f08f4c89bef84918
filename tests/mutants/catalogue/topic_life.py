"""Changes of the settings of a topic, and pauses."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

LIFE = "tests/heap/test_topic_life.py::"


def planted(name: str, what: str, target: str, right: str, wrong: str, test: str) -> Mutant:
    return Mutant(name, what, (Patch(f"disheap_heap:{target}", right, wrong),), (LIFE + test,), simulated=False)


MUTANTS: tuple[Mutant, ...] = (
    planted(
        "edit-of-a-stale-revision",
        "of two operators who edit a topic at once, the later one undoes the change of the other unseen",
        "update_topic",
        "command.revision and command.revision != topic.revision",
        "False",
        "test_a_change_of_settings_that_were_changed_meanwhile_is_refused",
    ),
    planted(
        "edit-does-not-raise-the-revision",
        "a change of settings is not noticed by whoever has read them before",
        "_use",
        "topic.revision += 1",
        "topic.revision += 0",
        "test_only_the_named_settings_change_and_the_revision_grows",
    ),
    planted(
        "edit-is-not-checked",
        "a topic is told to send its dead letters to itself",
        "update_topic",
        "    check_settings(topic.name, settings)\n",
        "",
        "test_changes_that_do_not_fit_change_nothing",
    ),
    planted(
        "stranger-edits-an-exclusive-topic",
        "a client changes the topic for replies of another one",
        "update_topic",
        "    require_access(topic, session)\n",
        "",
        "test_only_its_owner_changes_or_pauses_an_exclusive_topic",
    ),
    planted(
        "lowered-limit-drops-nothing",
        "a topic keeps a million messages after its limit was lowered to a thousand",
        "_use",
        "    trim_later(state, topic)\n",
        "",
        "test_what_is_too_much_is_dropped_in_slices_also_after_a_restart",
    ),
    planted(
        "lowered-limit-drops-all-at-once",
        "a lower limit stops the loop of every node until a million messages are dropped",
        "trim_later",
        "trim_some(state, MAX_TRIMMED_PER_CALL)",
        "trim_some(state, 1 << 40)",
        "test_what_is_too_much_is_dropped_in_slices_also_after_a_restart",
    ),
    planted(
        "new-message-drops-all-the-rest",
        "an enqueue after a lower limit stops the loop until a million messages are dropped",
        "drop_excess",
        "min(limit, len(topic.ready) - topic.settings.max_messages)",
        "len(topic.ready) - topic.settings.max_messages",
        "test_what_is_too_much_is_dropped_in_slices_also_after_a_restart",
    ),
    planted(
        "snapshot-forgets-what-is-too-much",
        "a replica that restarts keeps messages that the others drop",
        "_Restorer._trimming",
        "self._state.trimming[number] = self._state.topics_by_number[number]",
        "pass",
        "test_what_is_too_much_is_dropped_in_slices_also_after_a_restart",
    ),
    planted(
        "expiry-outlives-its-setting",
        "a topic whose expiry was taken away is deleted all the same",
        "_use",
        "            state.timers.disarm(timers.TOPIC, topic.number)\n",
        "",
        "test_an_expiry_of_the_topic_begins_and_ends_with_the_change",
    ),
    planted(
        "paused-topic-takes-messages",
        "a topic that is paused for maintenance still fills up",
        "check_capacity",
        "topic.is_closed",
        "False",
        "test_a_closed_topic_refuses_messages_and_says_what_to_do",
    ),
    planted(
        "paused-topic-without-a-limit-takes-messages",
        "only a topic with a limit can be paused",
        "Topic._update_limits",
        " or self.is_closed",
        "",
        "test_a_closed_topic_refuses_messages_and_says_what_to_do",
    ),
    planted(
        "paused-topic-hands-out-messages",
        "consumers get messages of a topic whose deliveries are paused",
        "serve_some",
        "topic.holds_back",
        "False",
        "test_a_topic_whose_deliveries_are_paused_hands_out_nothing_new",
    ),
    planted(
        "resumed-topic-waits-for-the-next-message",
        "a topic that goes on hands out nothing until something new comes",
        "pause_topic",
        "        serve(state, topic)\n",
        "        pass\n",
        "test_a_topic_whose_deliveries_are_paused_hands_out_nothing_new",
    ),
    planted(
        "paused-topic-holds-its-group",
        "a worker learns of no urgent message while one of its queues is paused",
        "next_consumer",
        " or topic.holds_back",
        "",
        "test_a_paused_topic_does_not_stop_the_other_topics_of_a_group",
    ),
    planted(
        "snapshot-forgets-the-pause",
        "a replica that restarts takes messages that the others refuse",
        "_Restorer._topics",
        "topic.pause(holds_back, is_closed)",
        "topic.pause(holds_back, False)",
        "test_a_closed_topic_refuses_messages_and_says_what_to_do",
    ),
    planted(
        "view-shows-a-later-pause",
        "a snapshot that is written during a pause differs among replicas",
        "pause_topic",
        "        keep_topic(state, topic)\n",
        "        pass\n",
        "test_a_pause_is_kept_by_an_open_view_and_shown_in_figures",
    ),
    planted(
        "transient-message-passes-a-pause",
        "a transient message reaches a consumer whose topic is paused",
        "relay",
        " or topic.holds_back or topic.is_closed",
        "",
        "test_a_transient_message_does_not_pass_a_paused_topic",
    ),
)
