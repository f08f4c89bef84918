"""Retries, released leases, and dead letters."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

DEAD = "tests/heap/test_dead_letters.py::"
DEMAND = "tests/kombu/test_kombu_demand.py::"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "released-delivery-counts",
        "a message that no worker has begun uses up its attempts, and says that it is redelivered",
        (Patch("disheap_heap:give_back_unbegun", "_end_release(state, lease)", "_end_attempt(state, lease)"),),
        (DEAD + "test_a_released_message_is_not_redelivered",),
    ),
    Mutant(
        "released-message-keeps-its-epoch",
        "a token of a lease that was released settles the lease of who holds the message now",
        (
            Patch(
                "disheap_heap:Message.released",
                "(RELEASED if self.tally <= TALLY_MAX else 1)",
                "0",
            ),
        ),
        (DEAD + "test_a_released_message_is_not_redelivered",),
    ),
    Mutant(
        "releases-overflow-the-epoch",
        "a message that is released for ever gets an epoch that no reply can hold",
        (Patch("disheap_heap:Message.released", "(RELEASED if self.tally <= TALLY_MAX else 1)", "RELEASED"),),
        (DEAD + "test_releases_never_make_an_epoch_too_large",),
        simulated=False,
    ),
    Mutant(
        "cancel-forgets-that-it-releases",
        "what a cancelled consumer had not begun counts as an attempt if it goes back in a later slice",
        (
            Patch(
                "disheap_heap:requeue_all",
                "    if not consumer.returning:\n        consumer.releases = releases\n",
                "    consumer.releases = releases and len(consumer.leases) <= state.returns_left\n",
            ),
        ),
        (DEAD + "test_a_cancel_that_releases_does_so_in_slices_and_in_a_snapshot",),
        simulated=False,
    ),
    Mutant(
        "snapshot-forgets-that-a-cancel-releases",
        "a restored replica counts the rest of the leases of a cancel that releases",
        (
            Patch(
                "disheap_heap:_Restorer._returning",
                "consumer.returning, consumer.releases = True, releases",
                "consumer.returning = True",
            ),
        ),
        (DEAD + "test_a_cancel_that_releases_does_so_in_slices_and_in_a_snapshot",),
        simulated=False,
    ),
    Mutant(
        "delivery-limit-allows-one-more",
        "a message is delivered once more than the delivery limit of its topic says",
        (
            Patch(
                "disheap_heap:_goes_back",
                "0 < topic.settings.delivery_limit <= message.attempts",
                "0 < topic.settings.delivery_limit < message.attempts",
            ),
        ),
        (DEAD + "test_a_message_whose_attempts_are_used_up_is_dead_lettered",),
    ),
    Mutant(
        "dead-letter-lost-on-a-full-topic",
        "a dead letter is gone if the topic for dead letters is full",
        (
            Patch(
                "disheap_heap:_find_topics",
                "    passed = _passed(note)\n",
                "    found = tuple(\n"
                "        one for one in found\n"
                "        if one.drops or not 0 < one.settings.max_messages <= one.messages()\n"
                "    )\n"
                "    passed = _passed(note)\n",
            ),
        ),
        (DEAD + "test_a_full_topic_takes_a_dead_letter_nevertheless",),
    ),
    Mutant(
        "dead-letters-are-not-in-a-snapshot",
        "messages that wait to be dead-lettered are gone after a restart",
        (
            Patch(
                "disheap_heap:_tables",
                "rows.row(note.message, *note[1:]) for note in view.dying.notes()",
                "rows.row(note.message, *note[1:]) for note in view.dying.notes() if not view",
            ),
        ),
        (DEAD + "test_dead_letters_of_one_call_are_bounded_and_the_rest_comes_later",),
        simulated=False,
    ),
    Mutant(
        "view-misses-dead-letters-made-meanwhile",
        "a snapshot lacks the messages that were dead-lettered while it was written",
        (
            Patch(
                "disheap_heap:View.__init__",
                "self.dying = state.dying.waiting()",
                "self.dying = state.dying  # type: ignore[assignment]\n"
                "        self.dying.notes = lambda: state.dying.waiting().notes()  # type: ignore[attr-defined]",
            ),
            Patch(
                "disheap_heap.state.dying",
                '("_begin", "_chunks", "_end", "_first")',
                '("_begin", "_chunks", "_end", "_first", "notes")',
            ),
        ),
        (DEAD + "test_a_view_shows_messages_that_waited_to_be_dead_lettered",),
        simulated=False,
    ),
    Mutant(
        "jitter-depends-on-the-replica",
        "the pause before a retry differs among replicas, and so do their states",
        (
            Patch(
                "disheap_heap:_draw",
                "(number * _MIX_1 + attempts) & _64_BITS",
                "(number * _MIX_1 + attempts + id(object())) & _64_BITS",
            ),
        ),
        (DEAD + "test_pauses_double_up_to_their_bound_and_are_the_same_on_every_replica",),
    ),
    Mutant(
        "retries-come-back-together",
        "messages that failed together come back together, and fail together",
        (Patch("disheap_heap:retry_delay_ms", " - _draw(message.id, message.attempts) % (delay // 2 + 1)", ""),),
        (DEAD + "test_pauses_double_up_to_their_bound_and_are_the_same_on_every_replica",),
    ),
    Mutant(
        "message-dies-twice",
        "a message that is discarded is dead-lettered twice",
        (
            Patch(
                "disheap_heap:_note",
                "        add(new(DeathNote, (message, *rest)))\n",
                "        add(new(DeathNote, (message, *rest)))\n"
                "        if reason == deaths.REJECTED:\n"
                "            state.message_bytes += len(message.body)\n"
                "            add(new(DeathNote, (message, *rest)))\n",
            ),
        ),
        (DEAD + "test_a_discarded_message_is_dead_lettered_with_its_error",),
    ),
    Mutant(
        "dead-letters-circle-for-ever",
        "a message that expires goes round between two topics that nobody reads",
        (Patch("disheap_heap:_find_topics", "topic.number not in passed", "topic.number"),),
        (DEAD + "test_a_message_that_expires_in_a_circle_is_dropped",),
    ),
    Mutant(
        "rejected-message-may-not-come-back",
        "a message that waits in another topic after each rejection is dropped the second time",
        (
            Patch(
                "disheap_heap:_passed",
                "    if note.reason in (deaths.REJECTED, deaths.DELIVERY_LIMIT):\n        return ()\n",
                "    if note.reason in (deaths.REJECTED, deaths.DELIVERY_LIMIT) and not note.topic_number:\n"
                "        return ()\n",
            ),
        ),
        (DEAD + "test_a_message_may_wait_in_a_circle_if_a_consumer_rejects_it_each_time",),
    ),
    Mutant(
        "dead-letter-keeps-its-expiry",
        "a dead letter expires in the topic for dead letters, before anybody has looked at it",
        (
            Patch(
                "disheap_heap:_publish",
                'NewMessage(b"", message.rank * note.sign)',
                'NewMessage(b"", message.rank * note.sign, 0, max(0, message.expires_at_ms - state.now_ms))',
            ),
        ),
        (DEAD + "test_a_message_whose_attempts_are_used_up_is_dead_lettered",),
    ),
    Mutant(
        "dead-letters-counted-under-one-reason",
        "the counter of dead letters names the first reason for all of them",
        (
            Patch(
                "disheap_heap:_publish",
                "counts.dead_lettered[note.reason] = counts.dead_lettered.get(note.reason, 0) + 1",
                "counts.dead_lettered[deaths.REASONS[0]] = counts.dead_lettered.get(note.reason, 0) + 1",
            ),
        ),
        (DEAD + "test_dead_letters_are_counted_by_topic_and_reason",),
        simulated=False,
    ),
    Mutant(
        "dead-letter-loses-its-headers",
        "a dead letter has the headers of its death instead of its own",
        (Patch("disheap_heap:_dead_body", "own, before = content.encoded_headers, None", "own, before = b'', None"),),
        (DEAD + "test_a_message_whose_attempts_are_used_up_is_dead_lettered",),
    ),
    Mutant(
        "headers-of-a-dead-letter-grow-too-large",
        "a client cannot read a dead letter, because its headers are over the limit",
        (Patch("disheap_heap:_joined", "len(pair) <= room and", "room and"),),
        (DEAD + "test_what_is_least_needed_is_left_out_first",),
        simulated=False,
    ),
    Mutant(
        "all-dead-letters-at-once",
        "a large batch into a full topic holds the node up until all that it drops is dead-lettered",
        (Patch("disheap_heap:_publish_waiting", "while state.dying and done < limit:", "while state.dying:"),),
        (DEAD + "test_dead_letters_of_one_call_are_bounded_and_the_rest_comes_later",),
        simulated=False,
    ),
    Mutant(
        "worker-counts-what-it-gives-back-unseen",
        "each urgent task makes the least urgent one of a worker look redelivered, and brings it nearer to its end",
        (
            Patch(
                "disheap_kombu:SessionEvents._settle_demand",
                "self._outbox.send_nacks(given_back, release=True)",
                "self._outbox.send_nacks(given_back)",
            ),
        ),
        (DEMAND + "test_what_overtakes_sends_the_least_urgent_message_back",),
        simulated=False,
    ),
    Mutant(
        "place-for-dead-letters-without-its-virtual-host",
        "the dead letters of one application go to the queue of another one",
        (
            Patch(
                "disheap_kombu:Namespace.inward",
                'changes["settings"] = self._with_places(command.settings)',
                "pass",
            ),
        ),
        ("tests/kombu/test_kombu_namespaces.py::test_places_for_dead_letters_are_translated",),
        simulated=False,
    ),
    Mutant(
        "queue-with-a-delivery-limit-has-one-attempt-less",
        "a queue with x-delivery-limit dead-letters a message one delivery earlier than RabbitMQ",
        (
            Patch(
                "disheap_kombu:_dead_letters",
                "_count(given, DELIVERY_LIMIT, 0) + 1",
                "_count(given, DELIVERY_LIMIT, 0)",
            ),
        ),
        ("tests/kombu/test_kombu_channel.py::test_arguments_for_dead_letters_are_honoured",),
        simulated=False,
    ),
)
