"""The client: at most once over any number of connections, and never an ack for what it does not hold."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

SESSION = "tests/client/test_session.py::"
CONNECTION = "tests/client/test_connection.py::"
BROKER = "tests/client/test_broker_session.py::"

MUTANTS = (
    Mutant(
        "client-repeats-under-new-numbers",
        "after a lost connection unanswered commands are sent again under new numbers, and carried out twice",
        (
            Patch(
                "disheap:Session.disconnected",
                "        self._postponed = []\n",
                "        self._postponed = []\n"
                "        self._commands = dict(enumerate(self._commands.values(), self._next_seq))\n"
                "        self.confirmed = self._next_seq - 1\n"
                "        self._next_seq += len(self._commands)\n",
            ),
        ),
        (SESSION + "test_an_unanswered_command_is_sent_again_with_its_seq_and_applied_once",),
    ),
    Mutant(
        "client-repeats-nothing",
        "commands that were under way when the connection was lost are never answered",
        (
            Patch(
                "disheap:Session._become_ready",
                "            self._cursor = self.confirmed + 1\n",
                "            self._cursor = max(self._ever_sent, self.confirmed) + 1\n",
            ),
        ),
        (SESSION + "test_an_unanswered_command_is_sent_again_with_its_seq_and_applied_once",),
    ),
    Mutant(
        "confirmed-over-holes",
        "the client confirms a reply that it has not got, and the nodes forget it",
        (
            Patch(
                "disheap:Session._confirm",
                "            self._ahead.add(seq)\n            return\n",
                "            self.confirmed = max(self.confirmed, seq)\n            return\n",
            ),
        ),
        (
            SESSION + "test_confirmed_grows_only_over_a_contiguous_prefix",
            SESSION + "test_confirmed_is_the_length_of_the_answered_prefix_in_any_order",
        ),
    ),
    Mutant(
        "client-ignores-the-window",
        "the client has more commands unanswered than the nodes keep replies for",
        (
            Patch(
                "disheap:Session.call",
                "if self.state is _READY and self._cursor == seq and seq - self.confirmed <= self.window:",
                "if self.state is _READY and self._cursor == seq:",
            ),
        ),
        (SESSION + "test_the_window_holds_back_what_would_exceed_it",),
        simulated=False,
    ),
    Mutant(
        "replies-taken-before-the-attach",
        "what a connection says before it carries the session is taken for the session's",
        (
            Patch(
                "disheap:Session._reply",
                "if command is None or self.state is _ENTERING:",
                "if command is None:",
            ),
        ),
        (SESSION + "test_replies_before_the_attach_are_answered_are_not_taken",),
        simulated=False,
    ),
    Mutant(
        "frames-heard-after-goodbye",
        "what follows a goodbye on a connection that is over is still acted upon",
        (
            Patch(
                "disheap:Session._frames",
                "            if self.state is _OFFLINE:\n                break\n",
                "",
            ),
        ),
        (SESSION + "test_a_goodbye_moves_the_client_and_what_follows_it_is_not_heard",),
        simulated=False,
    ),
    Mutant(
        "unknown-outcome-tried-again",
        "commands that a lapsed session may have carried out are sent again in the next",
        (
            Patch(
                "disheap:Session._lapse",
                "for seq, command in self._commands.items() if seq <= self._ever_sent]",
                "for seq, command in self._commands.items() if seq < 0]",
            ),
            Patch(
                "disheap:Session._lapse",
                "kept = [command for seq, command in self._commands.items() if seq > self._ever_sent]",
                "kept = [command for seq, command in self._commands.items() if seq > 0]",
            ),
        ),
        (SESSION + "test_a_lapsed_session_reports_only_what_was_sent_as_unknown",),
    ),
    Mutant(
        "lapse-is-silent",
        "a session that held leases lapses, and its client is not told",
        (
            Patch(
                "disheap:Session._lapse",
                "silent = not sent and self._held.is_empty()",
                "silent = not sent",
            ),
        ),
        (SESSION + "test_a_lapsed_session_that_held_something_says_so",),
    ),
    Mutant(
        "lease-let-go-with-its-ack",
        "a lease counts as settled when its ack is sent: an attach in between brings the message back",
        (
            Patch(
                "disheap.client.core.broker_session",
                "        return self.session.call(broker.encode(command), waiter, flags)\n\n    def send_transient",
                "        if isinstance(command, broker.Ack):\n            self.held.settled(command.tokens)\n"
                "        return self.session.call(broker.encode(command), waiter, flags)\n\n    def send_transient",
            ),
        ),
        (
            BROKER + "test_a_delivery_is_held_until_the_reply_to_its_ack",
            BROKER + "test_an_ack_that_never_arrived_does_not_bring_the_message_back_either",
        ),
    ),
    Mutant(
        "delivery-told-twice",
        "a delivery that an attach repeats is handed to the application a second time",
        (
            Patch(
                "disheap:BrokerState.delivered",
                "        if token in self.tokens:\n            return False\n",
                "",
            ),
        ),
        ("tests/client/test_session_machine.py", BROKER + "test_a_delivery_that_is_held_is_not_delivered_again"),
        masked="an ATTACH names what the client holds, and no node repeats that",
    ),
    Mutant(
        "stale-lease-kept",
        "the client goes on claiming a lease that it was told it has lost",
        (
            Patch(
                "disheap:BrokerSession._note",
                "        held.settled(note.tokens)\n        if isinstance(reply, broker.Settled):\n"
                "            held.settled(reply.stale)\n",
                "        if isinstance(reply, broker.Settled):\n"
                "            held.settled([token for token in note.tokens if token not in reply.stale])\n",
            ),
        ),
        (BROKER + "test_a_stale_token_is_let_go",),
        simulated=False,
    ),
    Mutant(
        "early-command-over-the-limit-ends-the-connection",
        "a command that was given before any node said its limit is sent, and the connection is closed over and over",
        (Patch("disheap:Session._welcomed", "        self._refuse_too_large(events)\n", ""),),
        ("tests/client/test_session.py::test_what_was_given_before_a_node_said_its_limit_is_refused_when_it_does",),
        simulated=False,
    ),
    Mutant(
        "attempts-that-lost-stay-open",
        "the attempts to connect that were not the first stay connected, each in a node's place for a client",
        (Patch("disheap:Connector._adopt", "        self._end_attempts()\n", ""),),
        (CONNECTION + "test_the_first_attempt_that_is_let_in_ends_the_others",),
        simulated=False,
    ),
    Mutant(
        "put-off-and-sent-again-without-end",
        "a client sends what an overloaded node puts off a hundred times a second",
        (
            Patch(
                "disheap:Connector._put_off",
                "        self._retry_s = min(self._retry_s * 2, keepalive.RETRY_MAX_S)\n",
                "",
            ),
        ),
        (CONNECTION + "test_the_pause_before_a_new_attempt_doubles_and_begins_anew_after_a_while",),
        simulated=False,
    ),
)
