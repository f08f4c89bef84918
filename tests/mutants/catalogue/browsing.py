"""Pages of a topic, and the filters of a search."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

HEAP = "tests/heap/test_browsing.py::"
EXPLAIN = "tests/heap/test_explaining.py::"
FILES = "tests/cli/test_cli_files.py::"
FILTERS = "tests/cli/test_filters.py::"

MUTANTS = (
    Mutant(
        "page-without-an-end",
        "a page looks at a whole topic, however few of its messages are shown",
        (Patch("disheap_heap:browse", "if looked >= IDS_PER_PAGE:", "if False:"),),
        (HEAP + "test_a_page_looks_at_a_bounded_number_of_messages",),
        simulated=False,
    ),
    Mutant(
        "page-of-large-messages-without-bound",
        "a page has all that was asked for, a thousand messages of 8 MiB",
        (Patch("disheap_heap:browse", "(room < 0 or len(messages) == query.limit)", "len(messages) == query.limit"),),
        (HEAP + "test_a_page_of_large_messages_ends_where_the_answer_would_not_fit",),
        simulated=False,
    ),
    Mutant(
        "page-begins-with-the-message-before",
        "the last message of a page comes on the next one as well",
        (Patch("disheap_heap:_chunks", "rest = chunk[bisect_right(chunk, after) :]", "rest = chunk"),),
        (HEAP + "test_a_page_has_no_more_than_was_asked_for_and_says_where_the_next_goes_on",),
        simulated=False,
    ),
    Mutant(
        "page-leaves-out-the-rest-of-a-chunk",
        "the messages between the end of a page and the next chunk of ids are on no page",
        (
            Patch(
                "disheap_heap:browse",
                "return encode(Browsed(messages, messages[-1].id))",
                "return encode(Browsed(messages, chunk[-1]))",
            ),
        ),
        (HEAP + "test_what_stays_comes_once_while_others_come_and_go",),
        simulated=False,
    ),
    Mutant(
        "newest-messages-on-no-page",
        "a page shows nothing of the messages that came last",
        (
            Patch(
                "disheap_heap:_chunks", "[*topic.arrivals.chunks, topic.arrivals.tail]", "[*topic.arrivals.chunks, []]"
            ),
        ),
        (HEAP + "test_messages_of_each_state_come_in_the_order_of_their_ids",),
        simulated=False,
    ),
    Mutant(
        "leased-message-without-its-holder",
        "a page shows a leased message as one that is ready, with too few attempts",
        (
            Patch(
                "disheap_heap:_in_chunk",
                '_peeked(topic, lease.message.after(lease.epoch), "leased", 0, lease.consumer)',
                '_peeked(topic, lease.message, "leased")',
            ),
        ),
        (HEAP + "test_messages_of_each_state_come_in_the_order_of_their_ids",),
        simulated=False,
    ),
    Mutant(
        "page-shown-to-strangers",
        "anybody reads the messages of an exclusive topic",
        (Patch("disheap_heap:browse", "    require_access(topic, session)\n", ""),),
        (HEAP + "test_an_exclusive_topic_is_shown_to_its_owner_only",),
        simulated=False,
    ),
    Mutant(
        "or-binds-more-closely-than-and",
        "a filter with both finds other messages than its reader expects",
        (
            Patch("disheap.cli.looking.filters", 'while self._takes("and"):', 'while self._takes("or"):'),
            Patch(
                "disheap.cli.looking.filters",
                'while self._takes("or"):\n            parts.append(self._all())',
                'while self._takes("and"):\n            parts.append(self._all())',
            ),
        ),
        (FILTERS + "test_what_a_message_has_not_or_has_of_another_kind_is_not_equal", FILTERS + "test_a_filter_holds"),
        simulated=False,
    ),
    Mutant(
        "missing-header-differs",
        "a message without a header is found by `!=`",
        (
            Patch(
                "disheap.cli.looking.filters",
                "            return False\n",
                '            return sign == "!="\n',
            ),
        ),
        (FILTERS + "test_what_a_message_has_not_or_has_of_another_kind_is_not_equal",),
        simulated=False,
    ),
    Mutant(
        "rest-of-a-filter-ignored",
        "what follows a filter is left out, and more messages are found",
        (Patch("disheap.cli.looking.filters", 'self._next.kind != "end"', "False"),),
        (FILTERS + "test_a_filter_that_cannot_be_read_is_refused_with_its_place",),
        simulated=False,
    ),
    Mutant(
        "filter-nested-without-bound",
        "a filter of many parentheses ends the command with a RecursionError",
        (Patch("disheap.cli.looking.filters", "self._depth > NESTED_MAX", "False"),),
        (FILTERS + "test_a_filter_that_cannot_be_read_is_refused_with_its_place",),
        simulated=False,
    ),
    Mutant(
        "rank-within-its-chunk",
        "a message that a million others precede is said to be among the next ones",
        (Patch("disheap_heap.tables.ordered", "sum(map(len, self.chunks[:place])) + bisect_left", "bisect_left"),),
        (EXPLAIN + "test_a_ready_message_knows_how_many_are_ahead_of_it",),
        simulated=False,
    ),
    Mutant(
        "consumers-without-credit-could-take-it",
        "a message waits because every consumer is full, and the operator is told that they could take it",
        (Patch("disheap_heap:explain", "sum(one.can_receive() for one in active)", "len(active)"),),
        (EXPLAIN + "test_consumers_count_with_those_that_can_receive",),
        simulated=False,
    ),
    Mutant(
        "lease-of-another-topic-explained",
        "a message of another topic is shown, although its reader may not read that one",
        (Patch("disheap_heap:explain", " and lease.consumer.topic is topic", ""),),
        (EXPLAIN + "test_what_is_not_in_the_topic_is_said_not_to_be_there",),
        simulated=False,
    ),
    Mutant(
        "explained-to-strangers",
        "anybody reads a message of an exclusive topic",
        (Patch("disheap_heap:explain", "    require_access(topic, session)\n", ""),),
        (EXPLAIN + "test_only_who_may_read_a_topic_is_told",),
        simulated=False,
    ),
    Mutant(
        "import-begins-before-it-has-checked",
        "the lines before a damaged one are imported, and once more with the corrected file",
        (Patch("disheap.cli.files.importing", "total = sum(1 for _ in _lines(stream))", "total = 0"),),
        (FILES + "test_a_damaged_line_imports_nothing_and_is_named",),
        simulated=False,
    ),
    Mutant(
        "imported-message-is-due-at-once",
        "a message that waits for its time is delivered when it has been imported",
        (Patch("disheap.cli.files.lines", "delay_ms = max(0, self.due_ms - now_ms)", "delay_ms = 0"),),
        (FILES + "test_times_count_from_the_moment_of_the_import",),
        simulated=False,
    ),
    Mutant(
        "infinite-header-becomes-text",
        "a header that is no finite number comes back as text",
        (Patch("disheap.cli.files.lines", '{"float": str(value)} if', "str(value) if"),),
        (FILES + "test_a_message_comes_back_from_its_line",),
        simulated=False,
    ),
)
