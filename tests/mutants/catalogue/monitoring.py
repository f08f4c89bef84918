"""What a node tells about itself: over HTTP, and in its metrics."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

CONNECTIONS = "tests/http/test_http_connections.py"
NODES = "tests/http/test_http_nodes.py"
NUMBERS = "tests/http/test_http_numbers.py"
MEASURING = "tests/heap/test_measuring.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "ready-while-it-stops",
        "a node that hands leadership over still calls itself ready, so clients are sent to it",
        (Patch("disheap:Member.stop", "        self.is_stopping = True\n", ""),),
        (f"{NODES}::test_a_node_that_stops_is_not_ready_while_it_hands_over",),
        simulated=False,
    ),
    Mutant(
        "ready-before-it-caught-up",
        "a follower calls itself ready although its leader has committed much that it lacks",
        (Patch("disheap.runtime.readiness", "0 if raft.is_leader else raft.commit_heard", "0"),),
        (f"{NODES}::test_a_follower_that_is_behind_is_not_ready",),
        simulated=False,
    ),
    Mutant(
        "http-request-without-deadline",
        "a client that sends half a request keeps its connection for ever",
        (Patch("disheap_http:HttpConnection._begin_waiting", "        self._start_timer(self._stop_waiting)\n", ""),),
        (f"{CONNECTIONS}::test_a_request_that_does_not_end_is_given_up",),
        simulated=False,
    ),
    Mutant(
        "http-answers-any-host",
        "a page of another site reads a node on loopback, under a name that points there",
        (Patch("disheap_http:HttpConnection._make_answer", "self._site.only_local and not", "False and not"),),
        (f"{CONNECTIONS}::test_a_loopback_address_serves_no_other_name",),
        simulated=False,
    ),
    Mutant(
        "http-error-keeps-its-frames",
        "each malformed request leaves a cycle of an error and its frames, which nobody frees",
        (Patch("disheap_http:HttpConnection._advance", "                _forget_frames(error)\n", ""),),
        (f"{CONNECTIONS}::test_no_request_leaves_work_for_the_garbage_collector",),
        simulated=False,
    ),
    Mutant(
        "metrics-in-one-step",
        "all samples of a metric are written at once, and 1,000 topics stop the loop",
        (Patch("disheap_http:Exposition._write", "SAMPLES_AT_ONCE)", "1 << 30)"),),
        (f"{NUMBERS}::test_many_topics_are_summed_paged_and_never_stop_the_loop",),
        simulated=False,
    ),
    Mutant(
        "temporary-topics-have-series",
        "every reply queue gets time series of its own, and their number grows for ever",
        (Patch("disheap_heap:Series.add", "if is_temporary or len", "if len"),),
        (f"{MEASURING}::test_topics_beyond_the_bound_and_temporary_ones_are_summed",),
        simulated=False,
    ),
    Mutant(
        "wait-counts-redeliveries",
        "the time to the first delivery counts a message again each time that it is delivered",
        (
            Patch(
                "disheap_heap:_deliver",
                "        counts.redelivered += 1\n    elif not tally:\n        state",
                "        counts.redelivered += 1\n    if True:\n        state",
            ),
        ),
        (f"{MEASURING}::test_the_wait_is_measured_once_for_each_message",),
        simulated=False,
    ),
)
