"""Headers exchanges: which bindings match, what a walk may cost, and what stays behind."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

HEADERS = "tests/heap/test_header_exchanges.py::"

EXCHANGES = "tests/kombu/test_kombu_exchanges.py::"

MUTANTS = (
    Mutant(
        "headers-of-kombu-stay-in-the-payload",
        "a message of kombu for a headers exchange goes nowhere, because the broker does not see its headers",
        (Patch("disheap_kombu:ExchangeKinds.routing_headers", "return flat_headers(headers)", 'return b""'),),
        (EXCHANGES + "test_messages_go_where_their_headers_lead",),
        simulated=False,
    ),
    Mutant(
        "nested-headers-of-celery-are-refused",
        "no task can be sent to a headers exchange, because Celery's own headers have lists and None among them",
        (Patch("disheap_kombu:flat_headers", "if type(value) in FLAT and", "if"),),
        (EXCHANGES + "test_values_that_are_not_flat_take_no_part",),
        simulated=False,
    ),
    Mutant(
        "every-message-carries-its-headers-twice",
        "each task of each application takes a third more memory in the broker",
        (Patch("disheap_kombu:ExchangeKinds.routing_headers", 'if kind == "headers":', "if kind:"),),
        (EXCHANGES + "test_only_a_headers_exchange_is_sent_the_headers_apart",),
        simulated=False,
    ),
    Mutant(
        "any-header-wants-all",
        "a binding that wants any of several headers gets only the messages that have all of them",
        (
            Patch(
                "disheap_heap:conditions_of",
                'return conditions, match.startswith("any")',
                "return conditions, False",
            ),
        ),
        (HEADERS + "test_the_index_finds_what_the_definition_finds",),
    ),
    Mutant(
        "header-that-has-to-exist-has-to-be-nil",
        "a binding that asks only for the name of a header gets no message",
        (
            Patch(
                "disheap_heap:kinds_of",
                "return (type(value), value), EXISTS",
                "return (type(value), value), (int, None)",
            ),
        ),
        (HEADERS + "test_the_index_finds_what_the_definition_finds",),
    ),
    Mutant(
        "reserved-arguments-always-count",
        "a binding with an argument `x-...` that is no condition gets no message without such a header",
        (Patch("disheap_heap:conditions_of", "if with_reserved or not name.startswith(RESERVED)", "if True"),),
        (HEADERS + "test_the_index_finds_what_the_definition_finds",),
    ),
    Mutant(
        "header-of-another-type-matches",
        "a message with the number 1 goes to who wants the truth value true",
        (
            Patch("disheap_heap:kinds_of", "return (type(value), value), EXISTS", "return (object, value), EXISTS"),
            Patch("disheap_heap:conditions_of", "(name, type(value), value)", "(name, object, value)"),
        ),
        (HEADERS + "test_a_binding_matches_by_its_arguments",),
        simulated=False,
    ),
    Mutant(
        "routes-by-headers-are-cached",
        "a message goes where the last message with its key went, whatever its headers are",
        (Patch("disheap_heap:_route", 'if exchange.kind != "headers":', "if True:"),),
        (HEADERS + "test_a_binding_matches_by_its_arguments",),
    ),
    Mutant(
        "routing-by-headers-without-a-bound",
        "one publish to a headers exchange with 100,000 bindings stops every node",
        (Patch("disheap_heap:ConditionIndex._take_steps", "if self.steps > max_steps:", "if False:"),),
        (HEADERS + "test_a_message_that_too_many_bindings_match_is_refused",),
        simulated=False,
    ),
    Mutant(
        "conditions-keep-what-was-unbound",
        "nodes of arguments that are gone stay, and a restored replica, which has none of them, refuses other messages",
        (
            Patch(
                "disheap_heap:ConditionIndex.remove",
                "while conditions and not path[-1].children and",
                "while False and",
            ),
        ),
        (HEADERS + "test_the_steps_follow_from_the_bindings_alone",),
        simulated=False,
    ),
    Mutant(
        "arguments-in-another-order-are-another-binding",
        "an unbind that names its arguments in another order leaves the binding",
        (
            Patch(
                "disheap_heap:_checked_arguments",
                "return encode_arguments(decode_arguments(given))",
                "decode_arguments(given)\n    return given",
            ),
        ),
        (HEADERS + "test_a_binding_is_told_by_key_and_arguments_in_any_order",),
        simulated=False,
    ),
    Mutant(
        "long-bindings-count-as-one",
        "deleting a topic whose 5,000 bindings have 15 arguments each stops every node for 100 ms",
        (Patch("disheap_heap:binding_units", "return 1 + words // WORDS_PER_UNIT", "return 1"),),
        (HEADERS + "test_a_binding_that_is_long_to_remove_counts_as_several",),
        simulated=False,
    ),
)
