"""How a client finds a node, and when it leaves one."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

ROUTE = "tests/client/test_route.py::"
KEEPALIVE = "tests/client/test_keepalive.py::"

MUTANTS = (
    Mutant(
        "attempts-do-not-overlap",
        "a frozen or unreachable host keeps a client out until its whole budget is spent",
        (
            Patch(
                "disheap:Route.due",
                "        self._next_at = now + OVERLAP_S\n",
                "        self._next_at = now + self._budget_s\n",
            ),
        ),
        (ROUTE + "test_attempts_overlap_and_none_is_cancelled_by_the_next",),
        simulated=False,
    ),
    Mutant(
        "hanging-host-is-tried-in-each-round",
        "a search fills the backlog of a frozen host with connections",
        (
            Patch(
                "disheap:Route._order",
                "        return [address for address in addresses if address not in self._under_way]\n",
                "        return addresses\n",
            ),
        ),
        (ROUTE + "test_a_host_that_hangs_gets_one_attempt_while_others_are_tried_again",),
        simulated=False,
    ),
    Mutant(
        "lost-node-is-tried-first",
        "a client that left a silent node comes back to it before it has tried the others",
        (
            Patch(
                "disheap:Route.lost",
                "        self._lost[address] = None\n        self._last_nodes.forget(self._seeds, address)\n",
                "",
            ),
        ),
        (ROUTE + "test_the_node_that_was_lost_comes_last_in_the_next_search",),
        simulated=False,
    ),
    Mutant(
        "own-busy-time-is-the-nodes-silence",
        "an application that kept its loop busy loses a connection that was sound",
        (
            Patch(
                "disheap:KeepAlive.check",
                "        listened_s = min(now - self._checked_at, self.silence_s / 2)\n",
                "        listened_s = now - self._checked_at\n",
            ),
        ),
        (KEEPALIVE + "test_time_in_which_nobody_listened_is_not_the_nodes_silence",),
        simulated=False,
    ),
    Mutant(
        "idle-client-says-nothing",
        "the session of a client that has nothing to ask lapses, although its node and the way to it are sound",
        (
            Patch(
                "disheap.client.core.keepalive",
                "        if now - self._heard_at >= self.ping_every_s or now - self._wrote_at >= self._keep_s:\n",
                "        if False:\n",
            ),
        ),
        (KEEPALIVE + "test_a_ping_is_due_when_nothing_was_heard_for_a_while",),
    ),
    Mutant(
        "silence-does-not-scale-with-the-session",
        "a session with a short timeout lapses before its client has given the node up",
        (
            Patch(
                "disheap:KeepAlive.set_timeout",
                "        self.silence_s = min(SILENCE_MAX_S, timeout_s / PARTS_OF_TIMEOUT)\n",
                "        self.silence_s = SILENCE_MAX_S\n",
            ),
        ),
        (KEEPALIVE + "test_a_silent_node_is_given_up_in_a_time_that_scales_with_the_session",),
        simulated=False,
    ),
    Mutant(
        "attempt-outlasts-the-session",
        "a client of a short session waits for an attempt that a short cut has caught, until its session has lapsed",
        (
            Patch(
                "disheap:Route.attempt_s",
                "        return min(self._budget_s, session_s / ATTEMPT_PARTS)\n",
                "        return self._budget_s\n",
            ),
        ),
        ("tests/client/test_connection.py::test_an_attempt_to_save_a_session_takes_a_part_of_its_timeout",),
        simulated=False,
    ),
    Mutant(
        "pause-outlasts-the-session",
        "a client of a short session is still pausing in its search when its session lapses",
        (
            Patch(
                "disheap:Route._grow_pause",
                "min(PAUSE_MAX_S, session_s / PAUSE_PARTS, self._pause_s * 2 or PAUSE_FIRST_S)\n",
                "min(PAUSE_MAX_S, self._pause_s * 2 or PAUSE_FIRST_S)\n",
            ),
        ),
        ("tests/client/test_route.py::test_a_session_that_waits_makes_pauses_shorter",),
        simulated=False,
    ),
    Mutant(
        "unread-client-hears-nothing",
        "a client leaves a leader whose log is full for a while, because its pings are not read",
        (
            Patch(
                "disheap:Server.sweep",
                "            connection.send_keepalive()\n",
                "            pass\n",
            ),
        ),
        ("tests/runtime/test_liveness.py::test_a_client_that_is_not_read_from_hears_that_its_node_lives",),
        simulated=False,
    ),
    Mutant(
        "publish-without-a-leader-waits-for-a-request",
        "a publish of kombu without a quorum fails after half a minute",
        (
            Patch(
                "disheap_kombu:Connection.call",
                "                    self._wait_leader(timeout_s)\n",
                "                    pass\n",
            ),
        ),
        ("tests/kombu/test_kombu_channel.py::test_without_a_session_a_publish_fails_after_the_time_for_a_connection",),
        simulated=False,
    ),
    Mutant(
        "silent-leader-is-trusted-for-long",
        "a client waits for a silent leader while the others have elected another one",
        (
            Patch(
                "disheap:KeepAlive.set_timeout",
                "        self.ping_every_s = min(PING_EVERY_S, timeout_s / PARTS_OF_TIMEOUT)\n",
                "        self.ping_every_s = timeout_s / 3\n",
            ),
        ),
        (KEEPALIVE + "test_a_silent_node_is_given_up_in_a_time_that_scales_with_the_session",),
    ),
    Mutant(
        "wrong-address-ends-the-client",
        "a client with one wrong host in its URL ends, although the other hosts are right",
        (
            Patch(
                "disheap:Route.rejected",
                "        if not self._wrong.issuperset(self._known):\n            return None\n",
                "",
            ),
        ),
        ("tests/client/test_blocking.py::test_a_wrong_address_among_others_does_not_end_a_client",),
        simulated=False,
    ),
    Mutant(
        "named-address-ends-the-client",
        "a node that names an unusable address as the leader's ends its clients",
        (
            Patch(
                "disheap:Driver._connect",
                "            if link.address in self.url.addresses:\n",
                "            if True:\n",
            ),
        ),
        (
            "tests/client/test_asynchronous.py::"
            "test_an_address_that_a_node_names_and_that_is_none_does_not_end_a_client",
        ),
        simulated=False,
    ),
    Mutant(
        "question-over-the-frame-is-sent",
        "a query over the node's frame limit ends the client, and not that query alone",
        (Patch("disheap:Session.ask", "        self._check_size(body)\n", ""),),
        ("tests/client/test_session.py::test_a_question_over_the_nodes_limit_is_refused_before_it_is_sent",),
        simulated=False,
    ),
    Mutant(
        "search-forgets-what-a-node-said",
        "the command line cannot tell a reached limit from a dead node",
        (
            Patch(
                "disheap:Route._note",
                "        self._faults[address] = Finding(code, reason)\n",
                "        self._faults[address] = Finding(ConnectionLost.code, reason)\n",
            ),
        ),
        (ROUTE + "test_the_error_of_a_search_has_the_code_of_what_was_found_at_each_address",),
        simulated=False,
    ),
)
