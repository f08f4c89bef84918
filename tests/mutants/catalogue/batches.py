"""Batches: all of their parts or none, in bounded work."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

BATCH = "tests/heap/test_batch.py::"
CLIENT = "tests/client/test_batching.py::"

MUTANTS = (
    Mutant(
        "refused-batch-carried-out-in-part",
        "the parts of a batch before the one that is refused are carried out",
        (
            Patch(
                "disheap_heap:check_items",
                "                raise type(refusal)(",
                "                break\n                raise type(refusal)(",
            ),
        ),
        (BATCH + "test_a_refused_item_refuses_the_batch_and_is_named",),
    ),
    Mutant(
        "batch-overfills-a-topic",
        "each message of a batch fits into a topic by itself, and together they exceed its limit",
        (
            Patch(
                "disheap_heap:_Checks._check_capacity",
                "check_capacity(topic, messages + 1)",
                "check_capacity(topic, 1)",
            ),
        ),
        (BATCH + "test_a_batch_does_not_exceed_the_limit_of_a_topic",),
    ),
    Mutant(
        "batch-settles-leases-of-others",
        "a client settles what another one is working on, if it does so in a batch",
        (
            Patch(
                "disheap_heap:_Checks._held",
                " or lease.consumer.session.number != self._session",
                "",
            ),
        ),
        (BATCH + "test_a_lease_of_another_session_is_not_settled",),
        simulated=False,
    ),
    Mutant(
        "batch-settles-a-lease-twice",
        "a batch that names a lease twice ends every node",
        (Patch("disheap_heap:_Checks._held", "        if number in self._settled:", "        if False:"),),
        (BATCH + "test_a_refused_item_refuses_the_batch_and_is_named",),
        simulated=False,
    ),
    Mutant(
        "batch-with-any-number-of-parts",
        "one batch with 10,000 publishes to thousands of topics stops every node for seconds",
        (
            Patch(
                "disheap_heap:_Checks._check_work",
                "        if units > UNITS_PER_PART * BATCH_PARTS_MAX:",
                "        if False:",
            ),
        ),
        (BATCH + "test_a_batch_has_a_bounded_number_of_parts",),
        simulated=False,
    ),
    Mutant(
        "bound-of-a-batch-depends-on-a-cache",
        "a replica that has just been restored refuses a batch that the others carry out",
        (
            Patch(
                "disheap_heap:check_items", "routes, state.routes = state.routes, RouteCache()", "routes = state.routes"
            ),
        ),
        (BATCH + "test_walks_through_patterns_count_as_parts_whatever_is_cached",),
        simulated=False,
    ),
    Mutant(
        "batch-delivered-before-it-is-whole",
        "a consumer is given a message of a batch before a more urgent one of the same batch is in its place",
        (
            Patch(
                "disheap_heap:_carry_out",
                "step.message, step.body, kind)\n",
                "step.message, step.body, kind)\n        serve_all(state, [topic])\n",
            ),
        ),
        (BATCH + "test_all_messages_have_their_places_before_one_is_delivered",),
    ),
    Mutant(
        "batch-sent-after-an-exception",
        "the messages of a block that ended with an exception are enqueued all the same",
        (Patch("disheap:Gathered._end", "        if error is not None:", "        if False:"),),
        (CLIENT + "test_an_exception_in_the_block_discards_the_batch",),
        simulated=False,
    ),
    Mutant(
        "leases-of-a-batch-held-for-ever",
        "a client that acknowledges in batches names every lease that it ever had when it attaches",
        (
            Patch(
                "disheap:BrokerSession._gives_back",
                "            return [token for item in settling for token in item.tokens]",
                "            return [token for item in settling[1:] for token in item.tokens]",
            ),
        ),
        ("tests/client/test_broker_session.py::test_a_lease_is_held_until_the_reply_to_the_batch_that_settles_it",),
        simulated=False,
    ),
    Mutant(
        "kombu-batch-goes-on-after-an-error",
        "a batch of kombu whose outcome is not known takes further messages, and nobody learns which of them arrived",
        (
            Patch(
                "disheap_kombu:PublishBatch.flush",
                '            self._is_over = "a part of it was refused, or its outcome is not known"\n',
                "",
            ),
        ),
        ("tests/kombu/test_kombu_batch.py::test_after_an_error_nothing_more_goes_through_the_batch",),
        simulated=False,
    ),
)
