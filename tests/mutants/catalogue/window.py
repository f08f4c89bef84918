"""kombu's publishes that return before their confirm. The simulator has no kombu in it."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

WINDOW = "tests/kombu/test_kombu_window.py::"

MUTANTS = (
    Mutant(
        "window-without-a-bound",
        "publishes that wait for no confirm pile up in the memory of a program while no node answers",
        (
            Patch(
                "disheap_kombu:Window._is_full",
                "        return len(self._under_way) >= self.limit or self._bytes + size > WINDOW_BYTES_MAX\n",
                "        return False\n",
            ),
        ),
        (
            WINDOW + "test_a_window_that_stays_full_refuses_what_was_not_sent",
            WINDOW + "test_the_window_bounds_bytes_as_well",
        ),
        simulated=False,
    ),
    Mutant(
        "window-keeps-its-connection",
        "a kombu connection that published in a window is never freed, and a program that opens many grows",
        (Patch("disheap_kombu:Window._release", "            self._driver = None\n", "            pass\n"),),
        (WINDOW + "test_a_connection_that_has_ended_is_freed_with_its_window",),
        simulated=False,
    ),
    Mutant(
        "window-hides-a-refusal",
        "a message in the window is refused, and nobody hears of it",
        (
            Patch(
                "disheap_kombu:Window.raise_failed",
                "            raise EarlierPublishesFailed(failed)\n",
                "            pass\n",
            ),
        ),
        (WINDOW + "test_a_failure_is_raised_by_whatever_comes_next",),
        simulated=False,
    ),
    Mutant(
        "failure-in-the-window-is-published-over",
        "kombu takes the failure of an earlier message for one of the present one, publishes that again, and hides it",
        (
            Patch(
                "disheap_kombu.failures",
                "class EarlierPublishesFailed(OperationalError):",
                "class EarlierPublishesFailed(PublishOutcomeUnknown):",
            ),
        ),
        (WINDOW + "test_kombu_does_not_publish_again_after_the_failure_of_another_message",),
        simulated=False,
    ),
    Mutant(
        "close-does-not-wait-for-the-window",
        "a connection that is closed says nothing of the messages that got no confirm",
        (
            Patch(
                "disheap_kombu:Connection.close",
                "            self._window.lose()\n            self._raise_failed()\n",
                "            pass\n",
            ),
        ),
        (WINDOW + "test_closing_reports_what_got_no_confirmation",),
        simulated=False,
    ),
    Mutant(
        "window-ends-with-its-connection",
        "kombu connects again while messages have no confirm, and their session is left: they may be lost",
        (
            Patch(
                "disheap_kombu:Connection.suspend_or_collect",
                "        is_owed = self._unconfirmed or self._is_confirming\n",
                "        is_owed = self._unconfirmed\n",
            ),
        ),
        (WINDOW + "test_a_session_with_unconfirmed_messages_waits_for_the_next_connection",),
        simulated=False,
    ),
    Mutant(
        "window-of-the-parent-in-its-child",
        "the child of a fork waits for the confirms of its parent's messages, and reports them as failed",
        (
            Patch(
                "disheap_kombu:Connection.abort_in_child",
                "            self._window.forget()\n",
                "            pass\n",
            ),
        ),
        (WINDOW + "test_in_the_child_of_a_fork_nothing_is_under_way",),
        simulated=False,
    ),
    Mutant(
        "idle-program-loses-its-window",
        "a program publishes and then sleeps: its session lapses with messages that a failed leader has not passed on",
        (
            Patch(
                "disheap_kombu:Connection._has_something_to_lose",
                "        return self._is_confirming or super()._has_something_to_lose()\n",
                "        return super()._has_something_to_lose()\n",
            ),
        ),
        (WINDOW + "test_the_session_of_an_idle_program_lives_until_the_window_is_empty",),
        simulated=False,
    ),
    Mutant(
        "exit-without-the-window",
        "a program ends with failed messages in the window, and says nothing",
        (
            Patch(
                "disheap_kombu:flush_at_exit",
                "    flush_publishes(EXIT_TIMEOUT_S)\n",
                "    pass\n",
            ),
        ),
        (WINDOW + "test_the_end_of_a_process_raises_what_has_failed",),
        simulated=False,
    ),
)
