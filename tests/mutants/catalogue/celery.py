"""The result backend for Celery: results, waits and chords."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

BACKEND = "tests/kombu/test_celery_backend.py::"

MUTANTS = (
    Mutant(
        "chord-member-not-counted",
        "the body of a chord is never sent, because its members are not counted",
        (
            Patch(
                "disheap_celery:DisheapBackend._set_result",
                "barrier, order = self.barrier_of(member.group), _order(member)",
                "order = _order(member)",
            ),
        ),
        (BACKEND + "test_members_are_counted_once_and_the_last_one_publishes",),
        simulated=False,
    ),
    Mutant(
        "chord-body-sent-again",
        "a task that finishes a chord and is delivered again sends the body again",
        (
            Patch(
                "disheap_celery:_close_with",
                "broker.Batch([broker.CloseBarrier(barrier), *commands])",
                "broker.Batch([*commands])",
            ),
            Patch("disheap_celery:finish", "        if info.is_closed:\n            return\n", ""),
        ),
        (BACKEND + "test_the_body_is_sent_once_with_the_results_in_the_order_of_the_header",),
        simulated=False,
    ),
    Mutant(
        "chord-results-in-the-order-of-arrival",
        "the body of a chord gets its results in another order at each run",
        (
            Patch(
                "disheap_celery:_joined",
                'sorted(parts, key=attrgetter("order"))',
                "parts",
            ),
        ),
        (BACKEND + "test_the_body_is_sent_once_with_the_results_in_the_order_of_the_header",),
        simulated=False,
    ),
    Mutant(
        "chord-header-is-unrolled-first",
        "the first task of a chord from a generator is sent when the generator has made the last one",
        (Patch("disheap_celery:DisheapBackend.apply_chord", "if not is_generator and any(", "if any("),),
        (BACKEND + "test_a_header_from_a_generator_is_not_read_before_its_tasks_are_sent",),
        simulated=False,
    ),
    Mutant(
        "body-is-the-child-of-a-stranger",
        "the parent of a chord's body is a task that the application has never sent",
        (
            Patch(
                "disheap_celery:_as_member",
                "request.id = backend._strip_prefix(parts[-1].key) if parts else own",
                "pass",
            ),
        ),
        (BACKEND + "test_the_parent_of_a_body_is_the_member_that_ended_last",),
        simulated=False,
    ),
    Mutant(
        "success-is-not-final",
        "a second attempt that fails replaces the result of the first",
        (
            Patch(
                "disheap_celery:DisheapBackend._set_result",
                "broker.STAGE_FINAL if state == states.SUCCESS else broker.STAGE_DONE",
                "broker.STAGE_DONE",
            ),
        ),
        (BACKEND + "test_a_success_is_not_replaced_by_what_comes_later",),
        simulated=False,
    ),
    Mutant(
        "results-without-expiry",
        "results stay in the memory of the nodes for ever",
        (
            Patch(
                "disheap_celery:DisheapBackend._set_result",
                "broker.SetValue(key, value, _milliseconds(expires_s), stage",
                "broker.SetValue(key, value, 0, stage",
            ),
        ),
        (BACKEND + "test_results_expire",),
        simulated=False,
    ),
    Mutant(
        "new-session-watches-nothing",
        "a client whose session lapsed waits for a result without end",
        (
            Patch(
                "disheap_celery:ResultConsumer._note_ready", "        self._must_watch_again = True\n", "        pass\n"
            ),
        ),
        (BACKEND + "test_a_new_session_watches_again_what_is_awaited",),
        simulated=False,
    ),
    Mutant(
        "state-on-the-way-is-an-outcome",
        "whoever waits for a task is no longer told after its first report of progress",
        (
            Patch(
                "disheap_celery:DisheapBackend._set_result",
                "        stage = broker.STAGE_INTERIM\n",
                "        stage = broker.STAGE_DONE\n",
            ),
        ),
        (BACKEND + "test_states_on_the_way_are_pushed_too",),
        simulated=False,
    ),
    Mutant(
        "idle-time-counts-as-outage",
        "a wait for a result fails at once, because nobody waited for the minute before and the session has lapsed",
        (
            Patch(
                "disheap_celery.consumer",
                "max(0.0, min(now - self._looked_at, limit_s / LOOKS_AT_LEAST))",
                "max(0.0, now - self._looked_at)",
            ),
        ),
        ("tests/kombu/test_celery_backend.py::test_time_in_which_nobody_waits_is_not_time_without_a_broker",),
        simulated=False,
    ),
)
