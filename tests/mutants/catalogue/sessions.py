"""Sessions: each command applied once, each reply kept as long as it is wanted, each attachment the newest."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

TESTS = "tests/runtime/test_sessions.py::"
CLUSTER = "tests/runtime/test_cluster.py::"
MODULE = "disheap.runtime.state.sessions"
LIVENESS = "tests/runtime/test_liveness.py::"
ADMISSION = "tests/runtime/test_admission.py::"

MUTANTS = (
    Mutant(
        "attach-needs-no-secret",
        "whoever guesses the number of a session takes it over, with what it holds",
        (
            Patch(
                "disheap:Session.belongs_to",
                "is_secret = hmac.compare_digest(claim.proof, self.facts.proof)",
                "is_secret = True",
            ),
        ),
        (TESTS + "test_an_attach_without_the_secret_or_name_is_refused_and_changes_nothing",),
        simulated=False,
    ),
    Mutant(
        "secret-opens-under-any-name",
        "a secret that was read somewhere is good for another certificate",
        (
            Patch(
                "disheap:Session.belongs_to",
                "return is_secret and claim.principal == self.facts.principal",
                "return is_secret",
            ),
        ),
        (TESTS + "test_an_attach_without_the_secret_or_name_is_refused_and_changes_nothing",),
        simulated=False,
    ),
    Mutant(
        "secret-in-log-and-snapshot",
        "whoever reads a backup has every session's secret",
        (
            Patch(
                "disheap:proof_of",
                "return hashlib.blake2b(secret, digest_size=32, person=_PURPOSE).digest()",
                'return hashlib.blake2b(secret).digest()[:0] + secret[:32].ljust(32, b"!")',
            ),
        ),
        (TESTS + "test_a_snapshot_holds_no_secret",),
        simulated=False,
    ),
    Mutant(
        "closed-connection-counts-as-silence",
        "the tasks of a worker that was killed wait for the whole session timeout",
        (Patch("disheap:Liveness.lost", "        if was_dropped:\n", "        if False:\n"),),
        (LIVENESS + "test_a_session_whose_client_closed_its_connection_lapses_soon",),
        simulated=False,
    ),
    Mutant(
        "goodbye-counts-as-death",
        "a client that goes to another node loses its session if that takes more than a few seconds",
        (Patch("disheap:ClientConnection._other", "            self._has_left = True\n", ""),),
        (LIVENESS + "test_a_connection_that_closes_without_a_word_leaves_the_whole_timeout",),
        simulated=False,
    ),
    Mutant(
        "client-leaves-without-a-word",
        "a node that a client gives up takes the client for dead, and gives its tasks to others after a few seconds",
        (
            Patch(
                "disheap:Session.farewell",
                'return _LEAVES if self.state in (_READY, _ENTERING) else b""',
                'return b""',
            ),
        ),
        (
            "tests/client/test_blocking.py::test_a_ping_after_a_silence_without_an_answer_ends_the_connection",
            "tests/client/test_asynchronous.py::test_a_silent_node_is_left",
        ),
        simulated=False,
    ),
    Mutant(
        "new-leader-believes-old-closes",
        "a leader that leads again ends sessions for connections that were closed in its earlier term",
        (Patch("disheap:Liveness.begin", "        self._dropped.clear()\n", ""),),
        (LIVENESS + "test_a_new_leader_gives_clients_with_closed_connections_the_whole_timeout",),
        simulated=False,
    ),
    Mutant(
        "address-without-a-limit",
        "one client opens all the sessions that there may be, and shuts every other out",
        (
            Patch(
                "disheap:AdmissionLimits.check",
                "if here >= self.max_sessions_per_address:",
                "if here > 100 * self.max_sessions_per_address:",
            ),
        ),
        (ADMISSION + "test_an_address_has_a_limit_and_the_error_says_what_to_do",),
        simulated=False,
    ),
    Mutant(
        "duplicate-applied-twice",
        "a command that is sent again is carried out again",
        (Patch("disheap:Sessions._apply_commands", "kept = session.replies.get(seq)\n", "kept = None\n"),),
        (TESTS + "test_a_command_sent_twice_is_applied_once_and_answered_twice_alike",),
    ),
    Mutant(
        "refusal-is-not-kept",
        "a command that was refused and is sent again may be carried out, and answered otherwise",
        (
            Patch(
                "disheap:Sessions._execute",
                "        if seq:\n            self.reply_bytes += session.keep(seq, kept)\n",
                "        if seq and kept[1] == Status.OK:\n            self.reply_bytes += session.keep(seq, kept)\n",
            ),
        ),
        (TESTS + "test_a_refusal_is_kept_and_repeated_like_any_reply",),
    ),
    Mutant(
        "confirmed-command-applied-again",
        "a late copy of a command whose reply is confirmed is carried out a second time",
        (Patch("disheap:Sessions._apply_commands", "elif seq and seq <= session.confirmed:", "elif seq and seq < 0:"),),
        (TESTS + "test_a_command_up_to_the_confirmed_number_is_a_duplicate_and_not_answered",),
    ),
    Mutant(
        "confirmed-prunes-too-much",
        "a reply that the client has not confirmed is forgotten with those before it",
        (
            Patch(
                "disheap:Session.confirm",
                "for seq in range(self.confirmed + 1, confirmed + 1):",
                "for seq in range(self.confirmed + 1, confirmed + 2):",
            ),
        ),
        (TESTS + "test_confirmed_replies_are_forgotten_and_the_others_kept",),
    ),
    Mutant(
        "confirmed-prunes-nothing",
        "replies are kept for ever, in memory and in every snapshot",
        (
            Patch(
                "disheap:Session.confirm",
                "                kept = replies.pop(seq, None)\n",
                "                kept = None\n",
            ),
        ),
        (TESTS + "test_confirmed_replies_are_forgotten_and_the_others_kept",),
    ),
    Mutant(
        "window-ignored",
        "a client may leave any number of replies unconfirmed",
        (Patch("disheap:Sessions._execute", "if seq - session.confirmed > self._limits.window:", "if seq < 0:"),),
        (TESTS + "test_holes_are_allowed_up_to_the_window_and_no_number_beyond_it_is_used",),
        simulated=False,
    ),
    Mutant(
        "kept-replies-without-bound",
        "a client that confirms nothing has a node keep gigabytes of replies",
        (
            Patch(
                "disheap:Sessions._execute",
                "(session.reply_bytes >= limits.reply_bytes or self",
                "(self",
            ),
        ),
        (TESTS + "test_replies_that_are_not_confirmed_are_bounded_in_bytes_too",),
        simulated=False,
    ),
    Mutant(
        "observer-is-told-of-every-end",
        "a session that its client closed is told to observers as one that expired",
        (
            Patch(
                "disheap:Sessions._control",
                "                self._end(index, number)\n"
                '                self._reply_sink.answer(seq, Status.OK, index, b"")\n',
                '                self._reply_sink.expired(number, "")\n                self._end(index, number)\n'
                '                self._reply_sink.answer(seq, Status.OK, index, b"")\n',
            ),
        ),
        ("tests/plugins/test_observers.py::test_a_session_that_its_client_closes_has_not_expired",),
        simulated=False,
    ),
    Mutant(
        "raising-observer-is-called-again",
        "an observer that raises stays in the list, and fails at each fact",
        (Patch("disheap:Observers._call", "            self._by_hook[observer.hook].remove(observer)\n", ""),),
        ("tests/plugins/test_observers.py::test_an_observer_that_raises_is_logged_and_not_called_again",),
        simulated=False,
    ),
    Mutant(
        "service-outlives-its-node",
        "a node that stops leaves its services running",
        (Patch("disheap:Member.stop", "        await self._services.stop()\n", ""),),
        ("tests/plugins/test_services.py::test_a_service_answers_while_its_node_runs_and_not_after",),
        simulated=False,
    ),
    Mutant(
        "expiry-ignores-a-later-attach",
        "an expiry that was proposed before the client came back ends its session under its hands",
        (
            Patch(
                "disheap:Sessions._control",
                "if session is not None and session.attachment == seq:\n",
                "if session is not None:\n",
            ),
        ),
        (TESTS + "test_an_expiry_proposed_before_the_client_came_back_does_nothing",),
    ),
    Mutant(
        "detach-of-an-earlier-connection-counts",
        "the end of an old connection takes a session off its new one",
        (
            Patch(
                "disheap:Sessions._detach",
                "if session is not None and session.attachment == attachment:\n            self._to_change",
                "if session is not None:\n            self._to_change",
            ),
        ),
        (TESTS + "test_a_detach_of_an_earlier_connection_does_nothing",),
    ),
    Mutant(
        "attachment-is-not-recorded",
        "an attach is answered and is not in the replicated state: an older expiry or detach still finds its mark",
        (
            Patch(
                "disheap:Sessions._attach",
                "        session.attachment, session.address = attachment, claim.address\n",
                "        session.address = claim.address\n",
            ),
        ),
        (
            TESTS + "test_an_expiry_proposed_before_the_client_came_back_does_nothing",
            TESTS + "test_a_detach_of_an_earlier_connection_does_nothing",
        ),
    ),
    Mutant(
        "attachments-outlive-their-term",
        "after a failover, messages are assigned to sessions whose connections went with the leader",
        (
            Patch(
                MODULE,
                "            self._push(index, self.machine.session_detached(session.id))\n\n    def _control",
                "\n    def _control",
            ),
        ),
        (TESTS + "test_a_new_term_ends_every_attachment",),
    ),
    Mutant(
        "attach-lists-no-leases",
        "deliveries that were lost with a connection are not told again to who resumes its session",
        (
            Patch(
                "disheap_heap:_take_deliveries",
                "        deliveries.append(_delivery(lease))\n",
                "        pass\n",
            ),
        ),
        ("tests/heap/test_sessions.py::test_an_attach_sends_the_missing_leases_and_then_new_messages",),
    ),
    Mutant(
        "pushes-to-the-connection-before",
        "a session that was attached elsewhere is still pushed to where it was",
        (
            Patch(
                "disheap:Server.attach",
                "        before = self._attached.pop(session, None)\n        self.queues.pop(session, None)\n",
                "        before = self._attached.pop(session, None)\n",
            ),
            Patch(
                "disheap:Server.attach",
                "        self.queues[session] = connection.queue\n",
                "        self.queues.setdefault(session, connection.queue)\n",
            ),
        ),
        ("tests/runtime/test_bad_input.py::test_a_session_attached_elsewhere_leaves_its_first_connection",),
        fast=False,
    ),
    Mutant(
        "push-before-the-reply",
        "a push that names a consumer arrives before the reply that tells its number",
        (
            Patch(
                "disheap:Sessions._apply_commands",
                "            if seq:\n                queue = queues.get(number)\n",
                "            if effects:\n                self._push(index, effects)\n                effects = ()\n"
                "            if seq:\n                queue = queues.get(number)\n",
            ),
        ),
        (TESTS + "test_a_reply_goes_before_the_pushes_of_its_command",),
        simulated=False,
    ),
    Mutant(
        "snapshot-without-replies",
        "a node that starts from a snapshot carries out again what is sent to it again",
        (
            Patch(
                "disheap:Sessions.restore",
                "            for seq, kept in row.replies:\n",
                "            for seq, kept in ():\n",
            ),
        ),
        (TESTS + "test_a_snapshot_at_any_moment_goes_on_exactly_as_the_original",),
    ),
    Mutant(
        "session-number-used-twice",
        "a cluster in memory that starts anew gives out a number that an older client still holds",
        (
            Patch(
                "disheap:Sessions._open",
                "number = max(self._next_session, time_ms << SESSION_TIME_SHIFT)",
                "number = self._next_session",
            ),
        ),
        (TESTS + "test_a_cluster_that_starts_anew_gives_out_no_number_of_its_earlier_life",),
    ),
    Mutant(
        "time-passes-after-the-commands",
        "a lease that is over when a command comes is still settled by it",
        (
            Patch(
                "disheap:Sessions.applying",
                "        yield from self._pass_time(index, entry.time_ms)\n"
                "        if entry.data:\n"
                "            yield from self._apply_commands(index, entry.time_ms, entry.data)\n",
                "        if entry.data:\n"
                "            yield from self._apply_commands(index, entry.time_ms, entry.data)\n"
                "        yield from self._pass_time(index, entry.time_ms)\n",
            ),
        ),
        (TESTS + "test_time_passes_before_the_commands_of_an_entry",),
    ),
    Mutant(
        "postponed-work-in-one-call",
        "10,000 units of postponed work stop the loop for 40 ms",
        (Patch("disheap:Sessions._pass_time", "portion = min(left, UNITS_AT_ONCE)", "portion = left"),),
        (TESTS + "test_postponed_work_is_done_in_portions_between_turns_of_the_loop",),
        simulated=False,
    ),
    Mutant(
        "view-of-the-table-changes",
        "a snapshot holds replies and confirmations from after the entry that it is said to be of",
        (
            Patch(
                "disheap:Sessions._apply_commands",
                "            if session.view != views:\n                session = self._to_change(session)\n",
                "",
            ),
        ),
        (TESTS + "test_a_snapshot_does_not_show_what_was_applied_after_it_was_taken",),
    ),
    Mutant(
        "term-detaches-sessions-at-once",
        "a change of leader stops the loop for as long as the sessions have consumers",
        (
            Patch(
                "disheap:Sessions._begin_term",
                "            if count >= DETACHED_AT_ONCE or self._work_done() - worked >= UNITS_AT_ONCE:\n",
                "            if count >= DETACHED_AT_ONCE:\n",
            ),
        ),
        (TESTS + "test_a_new_term_pauses_after_a_session_with_many_consumers",),
        simulated=False,
    ),
    Mutant(
        "constants-outside-the-digest",
        "nodes of two releases with other fixed bounds form one cluster, and their replicas part",
        (
            Patch(
                "disheap:shared_settings_digest",
                "shared = [limits, bounds, sessions.DECIDES_REPLIES]",
                "shared = [limits, bounds]",
            ),
        ),
        ("tests/runtime/test_constants.py::test_nodes_with_another_constant_have_another_digest",),
        simulated=False,
    ),
    Mutant(
        "constants-of-the-machine-not-compared",
        "nodes of two releases whose machines have other constants form one cluster, and their replicas part",
        (Patch("disheap:_check_group", "    _check_constants(name, own, peers)\n", ""),),
        ("tests/runtime/test_constants.py::test_a_node_refuses_one_with_other_constants_in_a_version_of_both",),
        simulated=False,
    ),
    Mutant(
        "sessions-listed-in-one-step",
        "`disheap session ls` stops the loop for as long as all consumers of a page of sessions take to count",
        (
            Patch(
                "disheap:list_sessions",
                "            await asyncio.sleep(0)\n",
                "",
            ),
        ),
        ("tests/runtime/test_admin_costs.py::test_one_admin_request_takes_bounded_steps_and_bytes",),
        simulated=False,
    ),
)
