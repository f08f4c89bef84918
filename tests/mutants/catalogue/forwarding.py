"""Messages between groups: what would lose one, deliver it twice, or let it overtake another."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

FORWARDER = "tests/runtime/test_forwarding.py::"
COMMANDS = "tests/runtime/test_node_commands.py::"
NODES = "tests/runtime/test_forwarding_nodes.py::"
SIMULATED = "tests/simulator/test_sim_forwarding.py::test_every_message_to_another_group_arrives_once_and_in_order"

MUTANTS = (
    Mutant(
        "message-forgotten-before-it-is-confirmed",
        "a message for another group is dropped from the outbox when it was sent, and is lost with its connection",
        (
            Patch(
                "disheap:Forwarder._forget", "target.confirmed <= target.forgotten", "target.sent <= target.forgotten"
            ),
            Patch("disheap:Forwarder._forget", " = target.confirmed, True", " = target.sent, True"),
        ),
        (
            FORWARDER + "test_messages_go_in_order_each_once_and_are_forgotten_when_confirmed",
            SIMULATED,
        ),
        simulated=False,
    ),
    Mutant(
        "lost-message-is-not-sent-again",
        "a message that is lost on its way to another group holds up all later ones for as long as the leader leads",
        (Patch("disheap:_Target.begin_again", "        self.sent = self.confirmed\n", ""),),
        (
            FORWARDER + "test_all_from_a_lost_message_on_are_sent_again_after_a_while",
            SIMULATED,
        ),
        simulated=False,
    ),
    Mutant(
        "former-leader-goes-on-forwarding",
        "a node that leads no more sends its old outbox to other groups, and does not begin anew when it leads again",
        (Patch("disheap:Forwarder.lead", "if term != self._term:", "if term and not self._term:"),),
        (FORWARDER + "test_a_new_leader_begins_with_what_waits_and_the_target_answers_again",),
        simulated=False,
    ),
    Mutant(
        "message-overtakes-one-that-failed-at-once",
        "the target group has a leader again between two messages, and gets the second one without the first",
        (Patch("disheap:Forwarder._send", "target.attempt != attempt or ", ""),),
        (FORWARDER + "test_what_fails_at_once_is_not_followed_by_the_next_message",),
        simulated=False,
    ),
    Mutant(
        "bytes-under-way-without-bound",
        "a leader sends 64 of the largest messages at once, and again after each loss",
        (
            Patch(
                "disheap:Forwarder._send",
                " or target.under_way_bytes >= WINDOW_BYTES:\n            return\n",
                ":\n            return\n",
            ),
            Patch(
                "disheap:Forwarder._send",
                " or target.under_way_bytes >= WINDOW_BYTES:\n                return",
                ":\n                return",
            ),
        ),
        (FORWARDER + "test_the_bytes_under_way_are_bounded_and_one_large_message_goes",),
        simulated=False,
    ),
    Mutant(
        "forwarded-message-confirmed-before-it-is-committed",
        "a message is forgotten by its group when the other leader has it in memory, and is lost with that leader",
        (Patch("disheap:NodeCommands.propose", "self._waiting[number] = done", "done(None)"),),
        (COMMANDS + "test_an_outcome_is_told_when_the_command_is_applied_and_not_before", SIMULATED),
        simulated=False,
    ),
    Mutant(
        "unknown-outcome-taken-for-success",
        "a message that is dropped with its leader's queue counts as taken, and is lost",
        (Patch("disheap:NodeCommands.end", "done(OutcomeUnknown(", "done(None and OutcomeUnknown("),),
        (COMMANDS + "test_what_is_under_way_when_leadership_is_lost_has_an_unknown_outcome", SIMULATED),
        simulated=False,
    ),
    Mutant(
        "command-of-an-earlier-life-answers-for-a-new-one",
        "a restarted leader takes an old entry of its log for the message that it has just proposed, and loses it",
        (Patch("disheap:NodeCommands.propose", "number = self._draw()", "number = len(self._waiting) + 1"),),
        (COMMANDS + "test_an_entry_of_an_earlier_life_answers_for_nothing",),
        simulated=False,
    ),
    Mutant(
        "any-member-confirms-a-forwarded-message",
        "a message counts as taken when a node says so that it was not sent to",
        (Patch("disheap:ForwardingRouter.answered", "sent is None or sent.peer != peer", "sent is None"),),
        (NODES + "test_an_answer_of_another_peer_confirms_nothing",),
        simulated=False,
    ),
    Mutant(
        "refusal-confirms-a-forwarded-message",
        "a message that the other group has refused, for one in front of it is missing, counts as taken and is lost",
        (Patch("disheap:ForwardingRouter.answered", '" if answer.code else "")', '" if not answer else "")'),),
        (SIMULATED,),
        simulated=False,
    ),
    Mutant(
        "lost-answer-is-waited-for-for-ever",
        "one answer that is lost on its way holds up all messages to that group for as long as the leader leads",
        (Patch("disheap:ForwardingRouter.tick", "if not self._sent:", "if True:"),),
        (SIMULATED,),
        simulated=False,
    ),
    Mutant(
        "message-for-a-machine-without-the-power",
        "a machine that does not know repeated messages is sent them, and carries them out twice",
        (
            Patch(
                "disheap:NodeCommands._refusal",
                "if not isinstance(host.group.sessions.machine, Forwarding):",
                "if False:",
            ),
        ),
        (NODES + "test_a_machine_without_the_power_is_sent_nothing",),
        simulated=False,
    ),
    Mutant(
        "older-peer-is-sent-forwarded-messages",
        "in a rolling upgrade an older node closes the connection that also carries the log",
        (Patch("disheap:OutgoingLink.send_forwarded", "since > self._version", "False"),),
        (NODES + "test_an_older_peer_is_not_sent_the_frame_and_the_status_says_so",),
        simulated=False,
    ),
    Mutant(
        "quarantined-leader-goes-on-forwarding",
        "a replica whose state is wrong sends messages from it to other groups",
        (Patch("disheap:Replica._end_leading", "self.forwarder.lead(0)", "pass"),),
        (NODES + "test_a_quarantined_source_sends_nothing_more_and_its_successor_goes_on",),
        simulated=False,
    ),
)
