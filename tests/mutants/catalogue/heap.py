"""The heap machine: order, leases, credit, turns, time, and snapshots of one moment (class 29)."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

DELIVERY = "tests/heap/test_delivery.py::"
FOOTPRINT = "tests/heap/test_footprint.py::"
LEASES = "tests/heap/test_leases.py::"
SESSIONS = "tests/heap/test_sessions.py::"
SNAPSHOTS = "tests/heap/test_snapshots.py::"
WORK = "tests/heap/test_work.py::"
SESSION_SLICES = "tests/heap/test_session_slices.py::"
VIEWS = "tests/heap/test_views.py::"

TOPICS = "tests/heap/test_topics.py::"
ROUTING = "tests/heap/test_routing.py::"
TRIES_EACH_WAY = """\
        self.steps = 0

        def ways(node, at):
            self.steps += 1
            if self.steps > max_steps:
                raise TooManySteps
            if node.any_words is not None:
                yield from ways(node.any_words, at)
            if at == len(words):
                yield node
                return
            if node.repeats:
                yield from ways(node, at + 1)
            if node.star is not None:
                yield from ways(node.star, at + 1)
            if node.words is not None and words[at] in node.words:
                yield from ways(node.words[words[at]], at + 1)

        return list(dict.fromkeys(ways(self._root, 0)))
        reached = {}
"""
GROUPS = "tests/heap/test_credit_groups.py::"

MUTANTS = (
    Mutant(
        "topic-taken-over-by-another-name",
        "a stranger takes an exclusive topic over as soon as its owner has no connection",
        (
            Patch(
                "disheap_heap:require_free",
                "(owner.attached or taker is None or taker.principal != owner.principal)",
                "(owner.attached or taker is None)",
            ),
        ),
        (TOPICS + "test_an_exclusive_topic_is_not_taken_over_by_another_name",),
        simulated=False,
    ),
    Mutant(
        "session-owns-any-number-of-topics",
        "the end of one session deletes 100,000 topics in one step of two seconds",
        (Patch("disheap_heap:_owner_with_capacity", "len(owner.owned) >= state.settings.session_topics", "False"),),
        (TOPICS + "test_a_session_owns_no_more_topics_than_may_be_deleted_at_its_end",),
        simulated=False,
    ),
    Mutant(
        "bindings-of-a-session-without-a-bound",
        "the end of one session removes 100,000 bindings in one step",
        (
            Patch(
                "disheap_heap:check_bindings_of_owner", "if count + more > state.settings.topic_bindings:", "if False:"
            ),
        ),
        (TOPICS + "test_the_exclusive_topics_of_a_session_share_the_bindings_of_one_topic",),
        simulated=False,
    ),
    Mutant(
        "full-topic-drops-the-most-urgent",
        "a full topic drops the message of the highest priority",
        (
            Patch(
                "disheap_heap:ReadyMessages.take_lowest",
                "        dropped = self.take_last_rank(count)\n",
                "        dropped = [self.pop() for _ in range(count)]\n",
            ),
        ),
        ("tests/heap/test_overflow.py::test_the_lowest_priority_is_dropped_first",),
    ),
    Mutant(
        "one-full-topic-refuses-for-all",
        "a publish to ten topics reaches none of them because one is full",
        (Patch("disheap_heap:_with_capacity", "    if not taking:", "    if refusal is not None:"),),
        ("tests/heap/test_refusals.py::test_a_full_topic_refuses_a_publish_for_itself_alone",),
    ),
    Mutant(
        "deliveries-without-a-bound-in-bytes",
        "one command pushes 512 MiB at once",
        (Patch("disheap_heap:_deliver", "    state.push_bytes_left -= size\n", ""),),
        ("tests/heap/test_work.py::test_one_call_pushes_a_bounded_number_of_bytes",),
        simulated=False,
    ),
    Mutant(
        "topic-with-any-number-of-bindings",
        "deleting a topic with 100,000 bindings stops every node for 400 ms",
        (Patch("disheap_heap:bind", "topic.binding_units + units > state.settings.topic_bindings", "False"),),
        ("tests/heap/test_refusals.py::test_what_ends_with_a_topic_or_a_session_is_bounded",),
        simulated=False,
    ),
    Mutant(
        "exchanges-cut-off-after-a-page",
        "a list of the bindings of an exchange ends after 1,000 of them, and nothing says so",
        (
            Patch(
                "disheap_heap:list_exchanges",
                "first = max(0, skip - 1)",
                "first = 0",
            ),
        ),
        ("tests/heap/test_queries.py::test_exchanges_and_bindings_are_listed_in_pages",),
        simulated=False,
    ),
    Mutant(
        "peek-names-another-holder",
        "a peek at a leased message names the number of the consumer as its session",
        (Patch("disheap_heap:_peeked", "(holder.session.number, holder.number)", "(holder.number, holder.number)"),),
        ("tests/heap/test_queries.py::test_a_topic_names_the_consumers_that_hold_its_messages_when_asked",),
        simulated=False,
    ),
    Mutant(
        "idle-consumers-named-as-holders",
        "a topic names consumers that hold nothing, and with many of them nobody that does",
        (Patch("disheap_heap:describe_topic", " if one.leases)", ")"),),
        ("tests/heap/test_queries.py::test_a_topic_names_the_consumers_that_hold_its_messages_when_asked",),
        simulated=False,
    ),
    Mutant(
        "last-of-a-chunk-not-updated",
        "a message is looked for in the wrong chunk after the last one of a chunk was removed",
        (
            Patch(
                "disheap_heap:OrderedRecords._update_last",
                "            self._lasts[place] = chunk[-1]\n",
                "            pass\n",
            ),
        ),
        ("tests/heap/test_ordered.py::test_it_gives_what_a_sorted_list_gives",),
        simulated=False,
    ),
    Mutant(
        "chunk-grows-without-bound",
        "a queue of mixed priorities moves all of its messages for each new one",
        (
            Patch(
                "disheap_heap:OrderedRecords.push",
                "            if len(chunk) > MAX_CHUNK:\n",
                "            if False:\n",
            ),
        ),
        ("tests/heap/test_ordered.py::test_it_gives_what_a_sorted_list_gives",),
        simulated=False,
    ),
    Mutant(
        "expired-session-is-served",
        "a message that a session gives back when it expires goes to a no-ack consumer of that session, and is lost",
        (
            Patch(
                "disheap_heap:expire_session",
                "    _leave_turns(state, session)\n    credit.end_groups(state, session)\n",
                "    credit.end_groups(state, session)\n",
            ),
        ),
        (SESSIONS + "test_a_session_that_expires_is_given_nothing_of_what_it_gives_back",),
    ),
    Mutant(
        "session-ends-at-once",
        "the end of a session with 100,000 topics of its own stops every node for a second",
        (Patch("disheap_heap:end_some", "until = state.units + limit\n", "until = limit = 1 << 30\n"),),
        (SESSION_SLICES + "test_a_session_that_has_much_ends_in_slices",),
        simulated=False,
    ),
    Mutant(
        "leases-are-sent-again-after-they-were-settled",
        "a client that came back is sent a message that it has acknowledged since",
        (
            Patch(
                "disheap_heap:_push_leases",
                "if lease is not None and lease.epoch == epoch and not lease.consumer.returning:",
                "if lease is not None:",
            ),
        ),
        (SESSION_SLICES + "test_a_lease_that_is_being_given_back_is_not_sent_again",),
        simulated=False,
    ),
    Mutant(
        "purge-is-not-counted",
        "a purge frees every message at once, and one of a million messages stops every node for a second",
        (
            Patch(
                "disheap_heap:drop_all_waiting",
                "            state.unfreed.append(purged)\n",
                "            while topic.ready.drain() is not None:\n                pass\n",
            ),
        ),
        ("tests/heap/test_work.py::test_purged_messages_are_invisible_at_once_and_freed_in_slices",),
        simulated=False,
    ),
    Mutant(
        "routing-is-not-counted",
        "an entry of publishes that each take 10,000 steps of routing is applied in one go",
        (Patch("disheap_heap:_route", "1 + exchange.index.steps // STEPS_PER_UNIT", "0"),),
        (WORK + "test_work_that_was_done_is_counted_in_units",),
        simulated=False,
    ),
    Mutant(
        "trie-keeps-what-was-unbound",
        "nodes of patterns that are gone stay, and a restored replica, which has none of them, refuses other keys",
        (
            Patch(
                "disheap_heap:PatternIndex.remove",
                "while parts and path.pop().is_unused():",
                "while parts and not path.pop():",
            ),
        ),
        ("tests/heap/test_routing.py::test_the_steps_follow_from_the_bindings_alone",),
        simulated=False,
    ),
    Mutant(
        "routing-without-a-bound",
        "one publish through thousands of patterns made of wildcards stops every node",
        (Patch("disheap_heap:PatternIndex.walk", "if self.steps > max_steps:", "if self.steps > 1 << 60:"),),
        ("tests/heap/test_exchanges.py::test_a_key_that_would_cost_too_many_steps_is_refused",),
        simulated=False,
    ),
    Mutant(
        "trie-backtracks",
        "one publish tries each way through a pattern of many wildcards by itself, and takes millions of steps",
        (
            Patch(
                "disheap_heap:PatternIndex.walk",
                "        reached: dict[Node[T], None] = {}\n"
                "        _reach(reached, self._root)\n"
                "        self.steps = 0\n",
                TRIES_EACH_WAY,
            ),
        ),
        (ROUTING + "test_a_walk_takes_no_more_steps_than_words_times_nodes",),
    ),
    Mutant(
        "any-words-are-one-word",
        "a `#` in a pattern stands for one word at most, and a message with a long key goes nowhere",
        (Patch("disheap_heap:PatternIndex.walk", "                if node.repeats:\n", "                if False:\n"),),
        (ROUTING + "test_an_index_finds_what_the_definition_finds",),
    ),
    Mutant(
        "alternate-is-not-tried",
        "a message that leads nowhere in an exchange is lost, although the exchange has an alternate",
        (Patch("disheap_heap:find_topics", "    if topics or not exchange.alternate:\n", "    if True:\n"),),
        ("tests/heap/test_exchanges.py::test_a_message_without_a_route_goes_to_the_alternate",),
    ),
    Mutant(
        "alternate-of-the-alternate-is-not-tried",
        "a message that leads nowhere in the alternate either is lost, although that one has an alternate, too",
        (Patch("disheap_heap:find_topics", "    while not topics and exchange.alternate:\n", "    if True:\n"),),
        ("tests/heap/test_exchanges.py::test_a_message_without_a_route_goes_to_the_alternate",),
    ),
    Mutant(
        "delayed-messages-fill-a-topic-that-drops",
        "a topic that drops takes delayed messages without a bound, and drops none of them",
        (Patch("disheap_heap:check_delayed_capacity", "    if topic.drops and count and ", "    if False and "),),
        ("tests/heap/test_overflow.py::test_delayed_messages_are_bounded_by_themselves",),
    ),
    Mutant(
        "stranger-reads-an-exclusive-topic",
        "whoever knows the name of an exclusive topic can look at its messages",
        (
            Patch(
                "disheap_heap:peek",
                "    require_access(topic, session)\n    messages",
                "    require_access(topic, topic.owner.number if topic.owner else session)\n    messages",
            ),
        ),
        (TOPICS + "test_an_exclusive_topic_is_locked_while_its_owner_is_connected",),
        simulated=False,
    ),
    Mutant(
        "stranger-purges-an-exclusive-topic",
        "whoever knows the name of an exclusive topic can empty it",
        (
            Patch(
                "disheap_heap:purge",
                "    require_access(topic, session)\n    return encode(Removed(drop_all_waiting",
                "    return encode(Removed(drop_all_waiting",
            ),
        ),
        (TOPICS + "test_an_exclusive_topic_is_locked_while_its_owner_is_connected",),
        simulated=False,
    ),
    Mutant(
        "smallest-priority-first",
        "the sign of the priority is lost: mode max is served like mode min",
        (Patch("disheap_heap:Topic.__init__", 'self.sign = -1 if settings.mode == "max" else 1', "self.sign = 1"),),
        (DELIVERY + "test_the_largest_priority_comes_first_and_equals_in_order_of_enqueueing",),
    ),
    Mutant(
        "returned-message-loses-its-place",
        "a message that comes back goes behind those of its priority",
        (
            Patch(
                "disheap_heap:_end_attempt",
                "    message = lease.message.after(lease.epoch)\n",
                "    message = lease.message.after(lease.epoch)._replace(rank=lease.message.rank + 1)\n",
            ),
        ),
        (DELIVERY + "test_a_message_that_is_given_back_keeps_its_place",),
    ),
    Mutant(
        "delivered-before-all-of-a-batch-is-in-place",
        "the first message of a batch goes out before a better one of the same batch is there",
        (
            Patch(
                "disheap_heap:enqueue_many",
                "    add_many(state, topic, command.messages, bodies)\n",
                "    for message, body in zip(command.messages, bodies, strict=True):\n"
                "        add_many(state, topic, [message], [body])\n        serve(state, topic)\n",
            ),
        ),
        (DELIVERY + "test_a_batch_is_in_place_before_any_of_it_is_delivered",),
    ),
    Mutant(
        "delayed-message-ready-at-once",
        "a delay is forgotten",
        (Patch("disheap_heap:delay_message", "    due_ms = state.now_ms + delay_ms\n", "    due_ms = state.now_ms\n"),),
        (DELIVERY + "test_a_delayed_message_waits_and_then_ranks_by_when_it_was_enqueued",),
    ),
    Mutant(
        "nacked-message-ready-at-once",
        "the delay of a nack is forgotten",
        (
            Patch(
                "disheap_heap:requeue_delayed",
                "    due_ms = state.now_ms + nack.delay_ms\n",
                "    due_ms = state.now_ms\n",
            ),
        ),
        (LEASES + "test_a_nack_with_a_delay_keeps_the_message_back",),
    ),
    Mutant(
        "deliveries-to-freed-groups-are-not-counted",
        "one command delivers a message to every consumer of every credit group that it freed",
        (
            Patch(
                "disheap_heap:serve_freed_groups",
                "        units = serve_next_freed_group(state)\n        state.deliveries_left -= units",
                "        state.deliveries_left -= serve_next_freed_group(state)",
            ),
        ),
        ("tests/heap/test_credit_groups.py::test_groups_that_have_credit_again_share_the_deliveries_of_one_call",),
    ),
    Mutant(
        "expired-message-delivered",
        "a message that nobody took in time is delivered all the same",
        (
            Patch(
                "disheap_heap:fire_message_timer",
                "        message = topic.ready.remove(number)\n"
                "        assert message is not None\n"
                "        expire_ready(state, topic, message)\n",
                "",
            ),
        ),
        (DELIVERY + "test_a_message_not_delivered_in_time_is_dropped",),
    ),
    Mutant(
        "stale-token-acks",
        "an ack from before an expiry settles the lease of who holds the message now",
        (
            Patch(
                "disheap_heap:_ack_one",
                "    if lease is None or lease.epoch != token[1] or lease.consumer.session.number != session:\n",
                "    if lease is None or lease.consumer.session.number != session:\n",
            ),
        ),
        (LEASES + "test_a_token_of_an_earlier_epoch_is_stale",),
    ),
    Mutant(
        "another-sessions-token-acks",
        "a session settles what another one holds",
        (
            Patch(
                "disheap_heap:_ack_one",
                "    if lease is None or lease.epoch != token[1] or lease.consumer.session.number != session:\n",
                "    if lease is None or lease.epoch != token[1]:\n",
            ),
        ),
        (LEASES + "test_a_token_is_good_for_the_session_that_holds_the_lease_alone",),
    ),
    Mutant(
        "epoch-not-bumped",
        "a message that is leased again has the token it had before",
        (
            Patch(
                "disheap_heap:_end_attempt",
                "    message = lease.message.after(lease.epoch)\n",
                "    message = lease.message\n",
            ),
        ),
        (
            LEASES + "test_a_token_of_an_earlier_epoch_is_stale",
            LEASES + "test_attempts_count_leases_granted",
        ),
    ),
    Mutant(
        "lease-never-ends",
        "a lease has no deadline: what a hanging consumer holds never comes back",
        (
            Patch(
                "disheap_heap:_lease",
                "    if until_ms:\n        state.timers.arm_lease(number, until_ms)\n",
                "",
            ),
        ),
        (LEASES + "test_a_lease_ends_at_its_deadline_and_the_message_goes_to_whoever_is_next",),
    ),
    Mutant(
        "extension-forgotten",
        "a lease that was extended ends when it would have ended before",
        (
            Patch(
                "disheap_heap:extend",
                "            state.timers.arm(timers.LEASE, number, until_ms)\n",
                "            pass\n",
            ),
        ),
        (LEASES + "test_an_extended_lease_ends_later_and_with_zero_at_the_sessions_end",),
    ),
    Mutant(
        "lease-survives-its-session",
        "what a session held when it ended is never given back",
        (
            Patch(
                "disheap_heap:_end_consumer",
                "    if consumer.leases:\n        requeue_all(state, consumer)\n",
                "",
            ),
        ),
        (SESSIONS + "test_an_expired_session_gives_back_what_it_held_in_order",),
    ),
    Mutant(
        "resumed-session-gets-what-it-holds",
        "a client that resumes its session is delivered again what it said that it holds",
        (
            Patch(
                "disheap_heap:_scan_next",
                "resend.tokens += [token for token in tokens if token not in held] if held else tokens",
                "resend.tokens += tokens",
            ),
        ),
        (SESSIONS + "test_an_attach_sends_the_missing_leases_and_then_new_messages",),
    ),
    Mutant(
        "detached-session-is-served",
        "messages are leased to a session that has no connection",
        (
            Patch(
                "disheap_heap:Consumer.can_receive",
                "if self.ended or self.returning or not self.session.is_served:",
                "if self.ended or self.returning:",
            ),
            Patch(
                "disheap_heap:detach_session",
                "    stop_resending(state, session)\n    _leave_turns(state, session)\n    state",
                "    stop_resending(state, session)\n    state",
            ),
        ),
        (
            SESSIONS + "test_a_detached_session_keeps_its_leases_and_gets_no_new_messages",
            SESSIONS + "test_while_one_session_is_detached_the_others_are_served",
        ),
    ),
    Mutant(
        "credit-not-given-back",
        "a consumer whose credit was used up once gets nothing more, whatever it settles",
        (
            Patch(
                "disheap_heap:release_taken",
                "        credit.join_turns(state, consumer)\n    if consumer.ended",
                "        pass\n    if consumer.ended",
            ),
        ),
        (DELIVERY + "test_credit_bounds_what_a_consumer_holds", LEASES + "test_an_expired_lease_gives_its_credit_back"),
    ),
    Mutant(
        "credit-in-bytes-not-given-back",
        "the bytes of a settled delivery count against its consumer for ever",
        (Patch("disheap_heap:release_taken", "    consumer.held_bytes -= body_bytes\n", ""),),
        (DELIVERY + "test_credit_in_bytes_stops_at_the_bound_and_lets_one_large_message_pass",),
    ),
    Mutant(
        "expired-lease-keeps-its-credit",
        "a lease that ran out still counts against its consumer",
        (
            Patch(
                "disheap_heap:expire_lease",
                "    serve_later(state, requeue(state, state.leases[number], LEASE_OVER))\n",
                "    consumer = state.leases[number].consumer\n"
                "    topic = requeue(state, state.leases[number], LEASE_OVER)\n"
                "    topic.turns.leave(consumer)\n    serve_later(state, topic)\n",
            ),
        ),
        (LEASES + "test_an_expired_lease_gives_its_credit_back",),
    ),
    Mutant(
        "one-delivery-over-the-credit",
        "a consumer is given one message more than it asked for",
        (
            Patch(
                "disheap_heap:Consumer.can_receive",
                "(len(self.leases) < self.credit and",
                "(len(self.leases) <= self.credit and",
            ),
        ),
        (DELIVERY + "test_credit_bounds_what_a_consumer_holds",),
    ),
    Mutant(
        "first-consumer-takes-all",
        "whose turn it is does not move on: one consumer gets everything",
        (
            Patch(
                "disheap_heap:Turns.end",
                "            self._ring.move_to_end(consumer.number)\n",
                "            pass\n",
            ),
        ),
        (DELIVERY + "test_consumers_take_turns",),
    ),
    Mutant(
        "pop-takes-too-much",
        "a pop with a limit is served beyond it",
        (
            Patch(
                "disheap_heap:Consumer.can_receive",
                "        if self.limit and self.delivered >= self.limit:\n            return False\n",
                "",
            ),
            Patch(
                "disheap_heap:_deliver", "consumer.delivered >= consumer.limit", "consumer.delivered > consumer.limit"
            ),
        ),
        (
            DELIVERY + "test_a_pop_that_waits_takes_what_comes_until_it_has_enough",
            DELIVERY + "test_a_pop_that_does_not_wait_ends_at_once_with_what_there_is",
        ),
    ),
    Mutant(
        "each-topic-has-a-share-of-its-own",
        "one command sets off as many deliveries as there are topics that it touches, and holds up the node",
        (
            Patch(
                "disheap_heap:serve",
                "    state.deliveries_left -= serve_some(state, topic, state.deliveries_left)\n",
                "    serve_some(state, topic, state.deliveries_left)\n",
            ),
        ),
        (WORK + "test_a_message_for_many_topics_is_delivered_in_slices",),
        simulated=False,
    ),
    Mutant(
        "large-pop-ends-with-its-first-slice",
        "a pop that does not wait ends before what there is for it has been worked off",
        (
            Patch(
                "disheap_heap:pop",
                "    served_later = topic.number in state.unserved and consumer in topic.turns\n",
                "    served_later = False\n",
            ),
        ),
        (WORK + "test_a_large_pop_is_served_in_slices_and_ends_when_it_has_what_there_was",),
        simulated=False,
    ),
    Mutant(
        "postponed-deliveries-forgotten",
        "what is put off because there is too much of it is never taken up again",
        (
            Patch(
                "disheap_heap:advance",
                "(state.dying or state.unserved or state.freed) and left > 0",
                "state.unserved and left < 0",
            ),
        ),
        (WORK + "test_a_subscription_is_served_in_slices",),
        simulated=False,
        fast=False,
    ),
    Mutant(
        "work-limit-ignored",
        "a million delays that fall due together hold up the node in one entry",
        (
            Patch(
                "disheap_heap.work",
                "            left -= _fire(state, *state.timers.pop())\n",
                "            _fire(state, *state.timers.pop())\n",
            ),
        ),
        (WORK + "test_messages_that_fall_due_together_are_worked_off_in_slices",),
        simulated=False,
    ),
    Mutant(
        "snapshot-reads-the-live-queue",
        "a snapshot shows messages that came or went while it was written",
        (
            Patch(
                "disheap_heap:_deliver",
                "        keep_place(state, topic, number, message)\n        keep_consumer(state, consumer)\n",
                "        keep_consumer(state, consumer)\n",
            ),
        ),
        (VIEWS + "test_a_view_shows_nothing_of_what_happens_after_it",),
        pitfall=29,
    ),
    Mutant(
        "snapshot-reads-the-live-leases",
        "a snapshot shows leases that were granted or settled while it was written",
        (
            Patch(
                "disheap_heap:release_taken",
                "    if state.views:\n        keep_lease(state, lease)\n",
                "",
            ),
        ),
        (SNAPSHOTS + "test_a_view_does_not_show_what_happens_while_it_is_written",),
        pitfall=29,
    ),
    Mutant(
        "snapshot-without-postponed-work",
        "a restored node forgets which topics wait to be served, and falls out of step",
        (
            Patch(
                "disheap_heap:_tables",
                "((number,) for number in view.unserved)",
                "((number,) for number in ())",
            ),
        ),
        (WORK + "test_a_replica_restored_amid_postponed_work_goes_on_in_step",),
        simulated=False,
    ),
    Mutant(
        "snapshot-without-turns",
        "a restored node does not know whose turn it is, and assigns messages to others than the rest does",
        (
            Patch(
                "disheap_heap:View.rings",
                "            for number in kept or ():\n",
                "            for number in sorted(kept or ()):\n",
            ),
        ),
        (SNAPSHOTS + "test_a_restored_replica_knows_whose_turn_it_is",),
    ),
    Mutant(
        "lease-timers-not-armed-again",
        "leases that a node restored from a snapshot never end there",
        (
            Patch(
                "disheap_heap:_Restorer._leases",
                "            state.timers.arm(timers.LEASE, message.id, until_ms)\n",
                "            pass\n",
            ),
        ),
        (SNAPSHOTS + "test_a_restored_replica_goes_on_in_step",),
    ),
    Mutant(
        "shared-payload-written-for-each-message",
        "a payload that 500 topics hold is 500 times in the snapshot",
        (
            Patch(
                "disheap_heap:_MessageRows.row",
                "        if type(message) is not SharedMessage:\n",
                "        if type(message) is not None:\n",
            ),
        ),
        (FOOTPRINT + "test_a_payload_that_many_topics_hold_is_stored_once_everywhere",),
        simulated=False,
    ),
    Mutant(
        "restored-payload-copied",
        "a node that was restarted holds a copy of a shared payload for each topic",
        (
            Patch(
                "disheap_heap:_Restorer._shared_body",
                "            return self._shared[form]\n",
                "            return bytes(bytearray(self._shared[form]))\n",
            ),
        ),
        (FOOTPRINT + "test_a_payload_that_many_topics_hold_is_stored_once_everywhere",),
        simulated=False,
    ),
    Mutant(
        "purged-messages-weigh-nothing",
        "the memory of purged messages is not counted while they are still there",
        (
            Patch(
                "disheap_heap:drop_all_waiting",
                "        state.purged_bytes += topic.ready_bytes + topic.delayed_bytes\n",
                "        state.purged_messages -= count\n",
            ),
        ),
        (FOOTPRINT + "test_the_estimate_falls_to_what_an_empty_state_takes",),
        simulated=False,
    ),
    Mutant(
        "shared-credit-counts-for-each-consumer",
        "what one consumer of a group holds does not count for the others: a worker of five queues holds five tasks",
        (
            Patch(
                "disheap_heap.delivery.credit",
                "    if group.is_full():\n        _leave_turns_of_group(state, group)\n\n\ndef refund",
                "\n\ndef refund",
            ),
            Patch(
                "disheap_heap:Consumer.can_receive",
                "            return not self.group.is_full()\n",
                "            return True\n",
            ),
        ),
        (GROUPS + "test_a_group_holds_no_more_than_its_credit_over_all_topics",),
    ),
    Mutant(
        "topic-of-the-settled-message-goes-first",
        "the topics of a group take no turns: as long as one has messages the others get nothing",
        (Patch("disheap_heap:charge", "    group.consumers.move_to_end(consumer.number)\n    if", "    if"),),
        (GROUPS + "test_topics_of_a_group_take_turns_with_the_longest_unserved_first",),
    ),
    Mutant(
        "credit-of-leases-given-back-in-slices-stays-used",
        "a group whose leases go back in slices gets nothing more",
        (
            Patch(
                "disheap_heap:release_taken",
                "        credit.refund(state, consumer.group, body_bytes)\n",
                "        group = consumer.group\n"
                "        if consumer.returning:\n"
                "            group.held, group.held_bytes = group.held - 1, group.held_bytes - body_bytes\n"
                "        else:\n"
                "            credit.refund(state, group, body_bytes)\n",
            ),
        ),
        (GROUPS + "test_leases_that_go_back_in_slices_free_their_group_at_once",),
        simulated=False,
    ),
    Mutant(
        "routes-cached-without-bound",
        "publishes that lead nowhere fill the memory with the routes of their keys",
        (Patch("disheap_heap:RouteCache.store", "len(self._routes) >= MAX_CACHED_KEYS or ", ""),),
        ("tests/heap/test_exchanges.py::test_all_exchanges_share_one_cache_of_routes",),
        simulated=False,
    ),
    Mutant(
        "snapshot-without-freed-groups",
        "a restored node forgets which groups wait to be served, and falls out of step",
        (Patch("disheap_heap:_tables", "_sized(view.freed)", "_sized([])"),),
        (GROUPS + "test_many_freed_groups_are_served_in_slices_and_in_step",),
        simulated=False,
    ),
    Mutant(
        "cancelled-consumer-keeps-its-place-in-the-group",
        "a worker that changes its queues while tasks run is refused a consumer, though it has few",
        (
            Patch(
                "disheap_heap.commands.consumers",
                "    elif len(group.consumers) >= CREDIT_GROUP_CONSUMERS_MAX:\n",
                "    elif sum(one.group is group for one in state.sessions[session].consumers.values()) >= 256:\n",
            ),
        ),
        (GROUPS + "test_an_ended_consumer_that_holds_something_takes_no_place_in_its_group",),
        simulated=False,
    ),
    Mutant(
        "group-of-ended-consumers-is-forgotten-early",
        "what a cancelled consumer holds no longer counts once its group has no other",
        (
            Patch(
                "disheap_heap.delivery.credit",
                " and not group.consumers and not group.held:",
                " and not group.consumers:",
            ),
        ),
        (GROUPS + "test_a_group_lasts_as_long_as_an_ended_consumer_of_it_holds_something",),
        simulated=False,
    ),
    Mutant(
        "view-copies-every-record",
        "a snapshot of 100,000 topics stops the loop for 60 to 240 ms when it is begun",
        (
            Patch(
                "disheap_heap.state.view",
                "        self._topic_rows: dict[Topic, Row] = {}\n",
                "        self._topic_rows: dict[Topic, Row] = {one: _topic_row(one) for one in self._topics}\n",
            ),
        ),
        (VIEWS + "test_taking_a_view_calls_as_much_whatever_the_state_holds",),
        simulated=False,
    ),
    Mutant(
        "view-looks-without-a-pause",
        "a snapshot looks at a million ids of messages in one piece, and finds few rows to write",
        (
            Patch(
                "disheap_heap:View._waiting",
                "            if self._is_pause_due(1 + len(chunk)):\n                yield None\n",
                "",
            ),
        ),
        (VIEWS + "test_a_piece_in_which_little_is_found_is_cut_short",),
        simulated=False,
    ),
    Mutant(
        "view-counts-the-ids-of-each-topic-alone",
        "a snapshot looks at the ids of thousands of topics in one piece, because no topic has many",
        (
            Patch(
                "disheap_heap:View._waiting",
                "        kept, last = self._kept, self._last_message\n",
                "        kept, last, self._looked = self._kept, self._last_message, 0\n",
            ),
        ),
        (VIEWS + "test_a_piece_is_cut_short_when_many_topics_have_nothing_to_show",),
        simulated=False,
    ),
    Mutant(
        "view-looks-at-later-leases-without-a-pause",
        "a snapshot passes over millions of leases that were granted while it was written, in one piece",
        (
            Patch(
                "disheap_heap:View.leases",
                "self._is_pause_due(1 + len(consumer.leases))",
                "self._is_pause_due(1)",
            ),
        ),
        (VIEWS + "test_a_piece_is_cut_short_when_consumers_have_only_later_leases",),
        simulated=False,
    ),
    Mutant(
        "view-copies-the-leases-of-a-consumer",
        "the first ack under a view copies all leases of the consumer, and a batch those of thousands of consumers",
        (
            Patch(
                "disheap_heap:View.keep_lease",
                "            self._leases.add(lease)\n",
                "            self._leases.add(lease)\n"
                "            self._copies = getattr(self, '_copies', {})\n"
                "            self._copies.setdefault(lease.consumer, list(lease.consumer.leases))\n",
            ),
        ),
        (
            VIEWS + "test_a_change_under_a_view_copies_no_other_lease_of_the_consumer",
            VIEWS + "test_a_batch_under_a_view_copies_no_leases_that_it_does_not_settle",
        ),
        simulated=False,
    ),
    Mutant(
        "view-forgets-the-order-of-leases",
        "a restored node gives the messages of a consumer back in another order, and falls out of step",
        (
            Patch(
                "disheap_heap:KeptLeases.merged",
                "sorted(present[first:end] + spans[number], key=order_of)",
                "[*present[first:end], *spans[number]]",
            ),
        ),
        (VIEWS + "test_a_view_shows_nothing_of_what_happens_after_it",),
        simulated=False,
    ),
    Mutant(
        "restored-leases-are-all-the-first",
        "a view of a restored node shows the leases of a consumer in another order, and leaves some out",
        (Patch("disheap_heap:_Restorer._leases", "consumer, len(consumer.leases))", "consumer, 0)"),),
        (VIEWS + "test_a_restored_consumer_counts_its_leases_anew",),
        simulated=False,
    ),
    Mutant(
        "resend-freed-at-once",
        "the end of an attach with millions of leases stops the loop for 200 ms",
        (
            Patch(
                "disheap_heap:stop_resending", "        free_resend(state, resend)\n", "        resend.tokens.clear()\n"
            ),
        ),
        (VIEWS + "test_the_tokens_of_a_long_resend_are_freed_in_slices",),
        simulated=False,
    ),
    Mutant(
        "resend-freed-under-a-view",
        "a snapshot does not show which leases were still to be sent again",
        (
            Patch(
                "disheap_heap:free_resend",
                "(state.resends_in_views if state.views else state.unfreed)",
                "state.unfreed",
            ),
        ),
        (VIEWS + "test_the_tokens_of_a_resend_stay_while_a_view_reads_them",),
        simulated=False,
    ),
    Mutant(
        "purged-messages-freed-under-a-view",
        "a snapshot misses messages that were purged and freed while it was written",
        (
            Patch(
                "disheap_heap.delivery.dropping",
                "        if state.views and keep_purged(state, topic, purged):\n",
                "        if state.views and keep_purged(state, topic, purged) and False:\n",
            ),
        ),
        (VIEWS + "test_purged_messages_are_freed_when_no_view_reads_them",),
        simulated=False,
    ),
    Mutant(
        "ids-of-gone-messages-pile-up",
        "a topic holds the ids of all messages that it ever had",
        (
            Patch(
                "disheap_heap.tables.arrivals",
                "        kept = keep_needed(chunks[at])\n",
                "        kept = chunks[at]\n",
            ),
        ),
        (VIEWS + "test_ids_of_messages_that_are_gone_are_swept_up",),
        simulated=False,
    ),
    Mutant(
        "attach-compares-all-at-once",
        "a session that holds a million leases stops the loop for 200 ms when it attaches",
        (
            Patch(
                "disheap_heap.commands.sessions",
                "    while not resend.is_scanned() and looked < MAX_SCANNED_PER_CALL:\n",
                "    while not resend.is_scanned():\n",
            ),
        ),
        (SESSION_SLICES + "test_an_attach_compares_leases_in_slices_before_new_deliveries",),
        simulated=False,
    ),
    Mutant(
        "messages-flow-before-all-leases-are-compared",
        "a client that attaches is sent a new message twice: once as new, and once as one that it does not hold",
        (
            Patch(
                "disheap_heap.commands.sessions",
                "    session.attached, session.is_served = True, False\n",
                "    session.attached = session.is_served = True\n",
            ),
        ),
        (SESSION_SLICES + "test_an_attach_compares_leases_in_slices_before_new_deliveries",),
        simulated=False,
    ),
    Mutant(
        "attach-names-without-bound",
        "an ATTACH of 2 MB that names consumers which never were is answered with 21 MB",
        (Patch("disheap_heap:attach_session", "    _check_held(state, held)\n", ""),),
        ("tests/heap/test_refusals.py::test_an_attach_with_too_many_consumers_is_refused_and_changes_nothing",),
        simulated=False,
    ),
    Mutant(
        "attach-of-leases-without-bound",
        "an ATTACH that names 300,000 leases stops the loop for 140 ms",
        (
            Patch(
                "disheap.protocol.broker.commands",
                "    tokens: Annotated[list[Token], Meta(max_length=HELD_MAX)]\n",
                "    tokens: list[Token]\n",
            ),
        ),
        ("tests/heap/test_refusals.py::test_an_attach_that_names_too_many_leases_is_refused_and_changes_nothing",),
        simulated=False,
    ),
    Mutant(
        "answer-of-peek-without-bound",
        "a Peek at large messages is answered with all that it asked for, a thousand of 8 MiB",
        (Patch("disheap_heap:peek", "        if room < 0 and messages:\n            break\n", ""),),
        ("tests/heap/test_bytes.py::test_one_call_creates_a_bounded_number_of_bytes",),
        simulated=False,
    ),
    Mutant(
        "gate-looks-at-its-own-version",
        "a machine takes the commands of its own latest version, whatever the cluster runs",
        (
            Patch(
                "disheap_heap:HeapMachine.set_version",
                "_use_commands_of(version)",
                "_use_commands_of(self.versions[1])",
            ),
        ),
        (
            "tests/heap/test_versions.py::test_below_a_version_old_and_new_code_answer_alike",
            "tests/heap/test_versions.py::test_a_command_exists_from_its_version_on",
            "tests/simulator/test_sim_upgrade.py::test_old_and_new_nodes_agree_and_each_can_go_back_before_the_raise",
        ),
        simulated=False,
    ),
    Mutant(
        "delayed-message-never-expires",
        "a message that was delayed has no expiry any more when it becomes ready",
        (
            Patch(
                "disheap_heap:fire_message_timer",
                "    if message.expires_at_ms:\n"
                "        state.timers.arm_message(number, message.expires_at_ms, topic.number)\n",
                "",
            ),
        ),
        (DELIVERY + "test_a_delayed_message_expires_after_it_became_ready",),
    ),
    Mutant(
        "delayed-message-outlives-its-expiry",
        "a delayed message that expires before it is due becomes ready all the same",
        (
            Patch(
                "disheap_heap:first_event_ms",
                "return expires_at_ms if 0 < expires_at_ms < due_ms else due_ms",
                "return due_ms",
            ),
        ),
        (DELIVERY + "test_a_delayed_message_that_expires_first_never_becomes_ready",),
    ),
    Mutant(
        "first-timer-of-a-batch-forgotten",
        "the messages of a batch become ready only when a later message of the topic does",
        (
            Patch(
                "disheap_heap:Timers.arm_messages",
                "        self._later_count += len(numbers)\n        self._choose_first(topic)\n",
                "        self._later_count += len(numbers)\n",
            ),
        ),
        ("tests/heap/test_timers.py::test_timers_behave_as_a_sorted_list",),
    ),
    Mutant(
        "timers-of-dropped-messages-stay",
        "the timer of a message that a full topic dropped fires, and the node stops",
        (
            Patch(
                "disheap_heap:drop_excess",
                "    state.timers.disarm_messages(expiring, topic.number)\n",
                "",
            ),
        ),
        ("tests/heap/test_overflow.py::test_a_batch_drops_what_single_messages_would_have_dropped",),
    ),
    Mutant(
        "timers-of-purged-messages-stay",
        "timers of messages that are gone are found due, and the node stops at the first of them",
        (Patch("disheap_heap:drop_all_waiting", "state.timers.disarm_topic(topic.number)", "None"),),
        (WORK + "test_timers_of_purged_messages_are_never_found_due",),
        simulated=False,
    ),
    Mutant(
        "half-built-state-freed-in-one-step",
        "a damaged snapshot stops the node while what was built of it is freed",
        (Patch("disheap_heap:restore", "            restorer.discard()\n", "            pass\n"),),
        ("tests/heap/test_discarding.py::test_what_was_built_of_a_damaged_snapshot_is_not_freed_in_one_step",),
        simulated=False,
    ),
    Mutant(
        "dropped-payloads-are-freed-at-once",
        "one command that drops gigabytes from a full topic stops the loop for 240 ms",
        (Patch("disheap_heap:free_within_bound", "        if state.free_bytes_left <= 0:\n", "        if False:\n"),),
        ("tests/heap/test_dropped.py::test_a_call_frees_a_bounded_number_of_bytes",),
        simulated=False,
    ),
    Mutant(
        "dropped-bytes-counted-twice",
        "a node that dropped gigabytes believes that it still holds them, and takes nothing any more",
        (Patch("disheap_heap:free_within_bound", "        size -= one_size\n", ""),),
        ("tests/heap/test_dropped.py::test_what_was_dropped_is_not_counted_any_more",),
        simulated=False,
    ),
    Mutant(
        "purged-payloads-are-freed-by-number",
        "a slice of a purge frees 500 messages of 8 MiB and stops the loop for 156 ms",
        (Patch("disheap_heap:free_some", " and state.free_bytes_left > 0:\n", ":\n"),),
        ("tests/heap/test_dropped.py::test_a_call_frees_a_bounded_number_of_bytes",),
        simulated=False,
    ),
    Mutant(
        "payloads-in-a-view-are-freed-by-number",
        "the end of a snapshot frees 1,000 large messages in one step",
        (
            Patch(
                "disheap_heap:Kept.free",
                "units += 1 + _payload_bytes(table.popitem()) // BYTES_PER_RECORD",
                "units += len((table.popitem(),))",
            ),
        ),
        ("tests/heap/test_dropped.py::test_what_a_view_kept_is_freed_in_slices_of_bounded_bytes",),
        simulated=False,
    ),
    Mutant(
        "freeing-is-no-work",
        "the freeing of purged messages is not counted as work, and nobody sees how long it takes",
        (Patch("disheap_heap:free_some", "    state.units += done\n", ""),),
        ("tests/heap/test_work.py::test_what_is_freed_counts_as_work",),
        simulated=False,
    ),
)
