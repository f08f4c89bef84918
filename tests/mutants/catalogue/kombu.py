"""Kombu: when a message counts as acknowledged, and what becomes of it otherwise. The simulator has no kombu in it."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

CHANNEL = "tests/kombu/test_kombu_channel.py::"
TRANSPORT = "tests/kombu/test_kombu_transport.py::"
LOOP = "tests/kombu/test_kombu_eventloop.py::"
UNCONFIRMED = "tests/kombu/test_kombu_unconfirmed.py::"
DELAYS = "tests/kombu/test_kombu_delays.py::"

MUTANTS = (
    Mutant(
        "acknowledged-before-the-callback",
        "a message is acknowledged when it is handed over: a worker that dies loses it",
        (
            Patch(
                "disheap_kombu:Channel.incoming",
                "            self._unacked[delivery_tag] = (push.id, push.epoch)\n",
                "            self._unacked[delivery_tag] = (push.id, push.epoch)\n"
                "            self._open_connection.ack([(push.id, push.epoch)])\n",
            ),
        ),
        (CHANNEL + "test_a_message_is_not_acknowledged_before_somebody_says_so",),
        simulated=False,
    ),
    Mutant(
        "ack-lost-at-the-close",
        "acks that wait for company are dropped when the connection closes: those messages come again",
        (
            Patch(
                "disheap_kombu:Connection.close",
                "                self.flush()\n                self._wait_window()\n                self._clear()\n",
                "                self._wait_window()\n                self._clear()\n",
            ),
        ),
        (CHANNEL + "test_closing_the_connection_sends_the_acks_that_wait",),
        simulated=False,
    ),
    Mutant(
        "acks-wait-for-ever",
        "acks that gather are not sent before the event loop sleeps",
        (
            Patch(
                "disheap_kombu:SessionEvents.flush",
                "        with self._lock:\n            self._send_acks()\n            self._outbox.flush()\n",
                "        with self._lock:\n            self._outbox.flush()\n",
            ),
        ),
        (
            CHANNEL + "test_acks_inside_a_callback_go_together",
            LOOP + "test_acks_of_one_turn_go_together_and_before_the_loop_sleeps",
        ),
        simulated=False,
    ),
    Mutant(
        "reject-drops-what-should-come-back",
        "a reject with requeue throws the message away",
        (Patch("disheap_kombu:Channel.basic_reject", "discard=not requeue)", "discard=True)"),),
        (CHANNEL + "test_reject_gives_back_or_drops",),
        simulated=False,
    ),
    Mutant(
        "multiple-acknowledges-one-too-many",
        "an ack of everything up to a tag takes a later message along",
        (
            Patch(
                "disheap_kombu:Channel._take_up_to",
                "            if delivery_tag and tag > delivery_tag:\n",
                "            if delivery_tag and tag > delivery_tag + 1:\n",
            ),
        ),
        (CHANNEL + "test_multiple_acknowledges_everything_up_to_the_tag",),
        simulated=False,
    ),
    Mutant(
        "multiple-is-ignored",
        "an ack of everything up to a tag settles that one alone",
        (
            Patch(
                "disheap_kombu:Channel.basic_ack",
                "        if multiple:\n",
                "        if multiple and not delivery_tag:\n",
            ),
        ),
        (CHANNEL + "test_multiple_acknowledges_everything_up_to_the_tag",),
        simulated=False,
    ),
    Mutant(
        "delivery-after-a-cancel-vanishes",
        "a message that was on its way when its consumer was cancelled is held by nobody and never given back",
        (
            Patch(
                "disheap_kombu:SessionEvents._buffer",
                "            self.release(strays)\n",
                "            pass\n",
            ),
        ),
        (CHANNEL + "test_deliveries_to_an_ended_consumer_go_back_unseen",),
        simulated=False,
    ),
    Mutant(
        "closed-channel-keeps-its-messages",
        "what a channel held when it was closed stays leased until the session ends",
        (
            Patch(
                "disheap_kombu:Connection.release_channel",
                "            self._outbox.send_nacks(tokens)  # before the rest goes back, which no callback has had\n",
                "",
            ),
        ),
        (CHANNEL + "test_a_closed_channel_gives_back_what_it_held",),
        simulated=False,
    ),
    Mutant(
        "publish-not-confirmed",
        "a publish returns before the message is on any disk",
        (
            Patch(
                "disheap_kombu:Channel.basic_publish",
                'if message.properties.get("delivery_mode") == TRANSIENT or',
                'if message.properties.get("delivery_mode") != 0 or',
            ),
        ),
        (CHANNEL + "test_a_publish_waits_for_its_confirm",),
        simulated=False,
    ),
    Mutant(
        "lapsed-session-goes-unnoticed",
        "a session lapses, and the worker goes on waiting for deliveries that cannot come",
        (
            Patch(
                "disheap_kombu:SessionEvents._dispatch",
                "        elif type(push) is SessionLost:\n            self._raise_session_lost()\n",
                "        elif type(push) is SessionLost:\n            pass\n",
            ),
        ),
        (
            CHANNEL + "test_a_lapsed_session_is_a_recoverable_error_and_ends_the_connection",
            LOOP + "test_a_lapsed_session_leaves_the_loop_with_a_recoverable_error",
        ),
        simulated=False,
    ),
    Mutant(
        "remote-control-waits-for-its-confirm",
        "remote control is published as persistent: a worker that starts ends with a refusal or an unknown outcome",
        (Patch("disheap_kombu:Channel.basic_publish", " or command.exchange.endswith(REMOTE_CONTROL)", ""),),
        (CHANNEL + "test_remote_control_is_transient_whatever_its_messages_say",),
        simulated=False,
    ),
    Mutant(
        "no-ack-message-cannot-be-acknowledged",
        "a program that acknowledges what came from a no-ack consumer is told that the tag is unknown",
        (
            Patch(
                "disheap_kombu:Channel.basic_consume",
                "            self.no_ack_consumers.add(tag)\n",
                "            pass\n",
            ),
        ),
        (CHANNEL + "test_acknowledging_a_message_of_a_no_ack_consumer_does_nothing",),
        simulated=False,
    ),
    Mutant(
        "unknown-publish-ends-the-worker",
        "a worker ends for good where the outcome of what it published is not known",
        (
            Patch(
                "disheap_kombu.failures",
                "    OSError,\n    PublishOutcomeUnknown,\n    BrokerFull,\n",
                "    OSError,\n",
            ),
        ),
        (TRANSPORT + "test_a_worker_starts_its_consumer_again_where_a_publish_failed",),
        simulated=False,
    ),
    Mutant(
        "transport-options-ignored",
        "what `broker_transport_options` say has no effect",
        (
            Patch(
                "disheap_kombu:broker_url",
                "{**_transport_options(owner.transport_options or {}), **_tls_options(owner.ssl)}",
                "_tls_options(owner.ssl)",
            ),
        ),
        (TRANSPORT + "test_the_clients_url_is_the_whole_of_what_kombu_was_given",),
        simulated=False,
    ),
    Mutant(
        "chatter-is-acknowledged-in-the-log",
        "every heartbeat costs an entry for each worker that hears it",
        (
            Patch(
                "disheap_kombu:Declarations.add_binding",
                "            self._temporary[queue] = True\n",
                "            pass\n",
            ),
        ),
        (CHANNEL + "test_only_transient_queues_are_consumed_without_leases",),
        simulated=False,
    ),
    Mutant(
        "length-of-zero-is-no-limit",
        "a queue that shall hold nothing (`x-max-length` 0) holds everything",
        (
            Patch(
                "disheap_kombu:topic_settings", '_count(given, "x-max-length", 1)', '_count(given, "x-max-length", 0)'
            ),
        ),
        (CHANNEL + "test_a_length_of_zero_is_refused_and_not_taken_for_no_limit",),
        simulated=False,
    ),
    Mutant(
        "argument-of-a-queue-is-ignored-in-silence",
        "a queue is declared with what no queue here does, and nobody is told",
        (
            Patch(
                "disheap_kombu:_warn_of_ignored",
                "for name in given if name not in SUPPORTED and name not in STORAGE_ARGUMENTS]",
                "for name in given if name in UNSUPPORTED and given[name]]",
            ),
        ),
        (CHANNEL + "test_an_argument_without_effect_warns",),
        simulated=False,
    ),
    Mutant(
        "publish-waits-as-long-as-any-request",
        "a publish that left and lost its quorum says so after half a minute only",
        (
            Patch(
                "disheap_kombu:Connection._limit_s",
                "self.driver.url.confirm_s if timeout_s is None and not self._deliveries.has_consumers else timeout_s",
                "timeout_s",
            ),
        ),
        (UNCONFIRMED + "test_a_publish_and_what_it_declares_wait_no_longer_than_for_a_confirm",),
        simulated=False,
    ),
    Mutant(
        "repeated-publish-runs-twice",
        "a publish without an answer that is said again is sent again: the task runs twice",
        (
            Patch(
                "disheap_kombu:Unconfirmed.publish",
                "                self._add(command, box)\n",
                "                pass\n",
            ),
        ),
        (UNCONFIRMED + "test_a_repetition_waits_for_the_answer_to_the_first_and_sends_nothing",),
        simulated=False,
    ),
    Mutant(
        "new-connection-forgets-the-publish-under-way",
        "kombu's own retry of a publish opens another session, and the task runs twice",
        (
            Patch(
                "disheap_kombu:Transport._collect",
                "            connection.suspend_or_collect()\n",
                "            connection.collect()\n",
            ),
        ),
        (UNCONFIRMED + "test_the_next_connection_continues_a_session_with_an_unconfirmed_publish",),
        simulated=False,
    ),
    Mutant(
        "lapsed-publish-is-never-sent-again",
        "a publish whose session is over is refused for ever, however often it is said",
        (
            Patch(
                "disheap_kombu:Unconfirmed._take",
                "        return None if box and isinstance(box[0], OutcomeUnknown) else box\n",
                "        return box\n",
            ),
        ),
        (UNCONFIRMED + "test_a_publish_of_an_ended_session_is_sent_again",),
        simulated=False,
    ),
    Mutant(
        "unsent-publish-counts-as-under-way",
        "a publish that never left is waited for when it is said again: it is lost",
        (
            Patch(
                "disheap_kombu:Unconfirmed.publish",
                "                box = []\n                reply",
                "                reply",
            ),
            Patch(
                "disheap_kombu:Unconfirmed.publish",
                "            if box is None:\n                driver",
                "            if box is None:\n                box = []\n                driver",
            ),
        ),
        (UNCONFIRMED + "test_a_publish_that_was_never_sent_is_sent_by_its_repetition",),
        simulated=False,
    ),
    Mutant(
        "closed-connection-forgets-the-node-it-switched-to",
        "a connection that was closed shows the port of the dead host again",
        (Patch("disheap_kombu.node_address", ' or (noted if noted_for == hostname else "")', ""),),
        (TRANSPORT + "test_a_closed_connection_keeps_its_port_until_it_gets_another_url",),
        simulated=False,
    ),
    Mutant(
        "unreachable-broker-is-no-oserror",
        "a program that catches OSError, as it did with other brokers, ends when the broker is down",
        (Patch("disheap_kombu.failures", "    errors.ConnectionLost: BrokerUnreachable,\n", ""),),
        (TRANSPORT + "test_a_dead_address_is_a_connection_error_that_may_be_retried",),
        simulated=False,
    ),
    Mutant(
        "eta-left-in-the-headers",
        "a task waits in the broker, and a worker whose clock is behind holds it once more",
        (
            Patch(
                "disheap_kombu:take_due_time",
                "headers.update({ETA: None, ",
                "headers.update({",
            ),
        ),
        (DELAYS + "test_a_task_with_an_eta_waits_and_reaches_the_worker_without_it",),
        simulated=False,
    ),
    Mutant(
        "eta-kept-for-the-next-task",
        "a retry or a task of the same canvas shows the time of an earlier task as its own",
        (
            Patch(
                "disheap_kombu:take_due_time",
                "    headers.pop(KEPT, None)  # of the task that this one repeats or follows\n",
                "",
            ),
        ),
        (DELAYS + "test_a_task_that_follows_one_with_a_time_does_not_keep_that_time",),
        simulated=False,
    ),
    Mutant(
        "repetition-with-a-shorter-delay-is-sent",
        "the confirm of a task with a countdown is late, kombu publishes it again, and the task runs twice",
        (
            Patch(
                "disheap_kombu:_digest",
                "broker.encode(_without_delays(command))",
                "broker.encode(command)",
            ),
        ),
        (DELAYS + "test_a_repetition_is_recognized_though_its_delay_is_shorter",),
        simulated=False,
    ),
    Mutant(
        "redis-order-is-not-told-back",
        "with priorities in Redis' order, a retry copies the negated priority, and is as late as it was urgent",
        (Patch("disheap_kombu:to_message", "push.priority * priority_sign", "push.priority"),),
        ("tests/kombu/test_kombu_node.py::test_in_redis_order_the_smaller_priority_goes_first",),
        simulated=False,
    ),
    Mutant(
        "acks-after-the-hubs-end-stay-gathered",
        "a warm shutdown of an older Celery gathers the ack of the pool's last task for a turn that never comes",
        (Patch("disheap_kombu:HubAdapter._on_close", "        self.turns = False\n", "        pass\n"),),
        (LOOP + "test_acks_are_sent_that_a_hub_runs_when_it_ends",),
        simulated=False,
    ),
    Mutant(
        "session-lapses-after-the-hubs-end",
        "while a warm shutdown waits for the pool's last task, nothing keeps the session alive",
        (Patch("disheap_kombu:HubAdapter._on_close", "        self.keep_alive()\n", ""),),
        (LOOP + "test_a_session_is_kept_alive_when_its_hub_has_ended",),
        simulated=False,
    ),
    Mutant(
        "task-does-not-see-its-eta",
        "a task that waited in the broker reads None as its own eta",
        (Patch("disheap_kombu:restore_eta", "        request.eta = kept\n", "        pass\n"),),
        (DELAYS + "test_a_task_that_runs_sees_its_eta_again",),
        simulated=False,
    ),
    Mutant(
        "virtual-host-shares-the-default-exchange",
        "a task that is published in one virtual host goes to the queue of that name in none",
        (
            Patch(
                "disheap_kombu:Namespace.inward",
                'field = "exchange" if command.exchange else "routing_key"',
                'field = "exchange"',
            ),
        ),
        ("tests/kombu/test_kombu_namespaces.py::test_names_go_in_and_come_out",),
        simulated=False,
    ),
    Mutant(
        "batch-leaves-its-virtual-host",
        "what `Producer.batch` publishes goes to the queues of no virtual host",
        (
            Patch(
                "disheap_kombu:Namespace.inward",
                "broker.Batch([self.inward(item) for item in command.items])",
                "command",
            ),
        ),
        ("tests/kombu/test_kombu_namespaces.py::test_names_go_in_and_come_out",),
        simulated=False,
    ),
    Mutant(
        "migrated-before-it-is-confirmed",
        "a message leaves the other broker before the cluster has confirmed it, and is lost when the command is killed",
        (
            Patch(
                "disheap.cli.migrate.moving",
                "        target.publish(taken)\n        missing = source.remove([message for _, message in taken])\n",
                "        missing = source.remove([message for _, message in taken])\n        target.publish(taken)\n",
            ),
        ),
        ("tests/cli/test_cli_migrate.py::test_a_command_that_is_killed_loses_nothing",),
        simulated=False,
    ),
    Mutant(
        "revoke-is-forgotten-by-the-broker",
        "a task that waits in the broker for a day runs although it was revoked",
        (
            Patch(
                "disheap_kombu:Channel.basic_publish",
                "            self._open_connection.mark_revoked(message)\n",
                "            pass\n",
            ),
        ),
        ("tests/kombu/test_kombu_revocations.py::test_a_broadcast_is_sent_when_its_marks_are_on_disk",),
        simulated=False,
    ),
    Mutant(
        "mark-of-a-revoke-is-not-read",
        "the broker remembers a revoke, and nobody asks it",
        (Patch("disheap_kombu:Connection._before_callback", "if is_revoked:", "if False:"),),
        ("tests/kombu/test_kombu_revocations.py::test_the_worker_learns_of_a_mark_before_it_gets_the_task",),
        simulated=False,
    ),
    Mutant(
        "revoke-for-one-worker-holds-for-all",
        "a task that one worker has to leave alone is run by none",
        (Patch("disheap_kombu:revoked_by", "if destination:", "if False:"),),
        ("tests/kombu/test_kombu_revocations.py::test_what_is_no_revoke_for_all_leaves_none",),
        simulated=False,
    ),
)
