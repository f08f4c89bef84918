"""What comes over the wire, and from whom: frames, what they may say, and who is let in."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

SECRET = "tests/runtime/test_cluster_secret.py::"
LINKS = "tests/runtime/test_links.py::"
WRONG = "tests/protocol/test_frames.py::test_what_no_node_that_does_its_work_says_is_refused_when_it_is_read"
SNAPSHOTS = "tests/runtime/test_snapshots.py::"
TRUST = "tests/transports/test_tls_trust.py::"
LIVENESS = "tests/runtime/test_liveness.py::"
BAD_INPUT = "tests/runtime/test_bad_input.py::"
VERSIONS = "tests/runtime/test_protocol_versions.py::"
FIRST_FRAMES = "tests/protocol/test_handshake.py::"

MUTANTS = (
    Mutant(
        "version-that-was-not-offered-is-spoken",
        "a client goes on with a node that chose a version which the client does not speak",
        (
            Patch(
                "disheap.protocol:open_welcome",
                "if not offered.lowest <= version <= offered.highest:",
                "if version == 0:",
            ),
        ),
        (
            FIRST_FRAMES + "test_a_welcome_with_a_version_that_was_not_offered_is_refused",
            "tests/client/test_session.py::test_a_node_that_is_none_is_an_error",
        ),
        simulated=False,
    ),
    Mutant(
        "version-that-one-side-lacks-is-chosen",
        "a node chooses a version below those that the client speaks",
        (
            Patch(
                "disheap.protocol:open_hello",
                "if version < max(offered.lowest, supported.lowest):",
                "if version < supported.lowest:",
            ),
        ),
        (FIRST_FRAMES + "test_ranges_that_do_not_meet_are_refused_with_both",),
        simulated=False,
    ),
    Mutant(
        "node-offers-versions-that-it-does-not-speak",
        "a node dials its peers with the versions of its release, and not with those that it speaks",
        (
            Patch(
                "disheap:OutgoingLink.connection_made",
                "hello_to(self.peer), self._owner.versions)",
                "hello_to(self.peer))",
            ),
        ),
        (VERSIONS + "test_nodes_speak_the_highest_version_of_both_or_refuse_each_other",),
        simulated=False,
    ),
    Mutant(
        "every-group-is-group-0",
        "a client that asks for a group which the node does not have is given another group's data",
        (Patch("disheap:Acceptor.find_server", "servers.get(hello.group)", "servers[0]"),),
        (BAD_INPUT + "test_a_bad_first_frame_is_refused_with_its_reason",),
        simulated=False,
    ),
    Mutant(
        "anonymous-client-sheds-its-certificate",
        "a client with a certificate escapes the limits of its name by saying that it is anonymous",
        (Patch("disheap.runtime:_anonymous", "return name", 'return ""'),),
        (FIRST_FRAMES + "test_the_first_name_of_a_certificate_is_the_principals",),
        simulated=False,
    ),
    Mutant(
        "long-frame-copied-for-every-piece",
        "a long frame is copied whole for each piece of it that is read, and holds up the loop for seconds",
        (
            Patch(
                "disheap:FrameReader._join",
                "        if type(held) is bytes:\n"
                "            self._unfinished = held = bytearray(held)\n"
                "        held += data\n"
                '        return b""\n',
                '        self._unfinished = b"".join((held, data))\n        return b""\n',
            ),
        ),
        (
            "tests/protocol/test_frames.py::test_a_piece_of_a_long_frame_costs_no_copy_of_the_pieces_before_it",
            BAD_INPUT + "test_a_piece_of_a_long_command_costs_no_copy_of_the_pieces_before_it",
        ),
        simulated=False,
    ),
    Mutant(
        "command-that-confirms-itself-is-taken",
        "a command that says its own reply has come, and every later one, is dropped without a word",
        (Patch("disheap:FrameReader.cut", "or confirmed >= seq  #", "or not seq  #"),),
        (BAD_INPUT + "test_a_command_that_confirms_itself_is_refused",),
        simulated=False,
    ),
    Mutant(
        "transient-command-confirms-what-it-likes",
        "after one transient command, those that follow in its session count as answered and are dropped",
        (
            Patch(
                "disheap:Server.submit_transient",
                "confirmed = envelope.confirmed if session is not None and session.knows(envelope.confirmed) else 0",
                "confirmed = envelope.confirmed",
            ),
        ),
        (BAD_INPUT + "test_a_transient_command_confirms_no_command_that_is_still_to_come",),
        simulated=False,
    ),
    Mutant(
        "nameless-certificate-is-any-member",
        "whoever has a certificate of the authority without a name in it may say that it is any member",
        (
            Patch(
                "disheap:CertificateChecks.check_member",
                "        if names is None:\n            return\n",
                "        if not names:\n            return\n",
            ),
        ),
        (LINKS + "test_a_member_proves_its_name_where_anything_is_proved",),
        simulated=False,
    ),
    Mutant(
        "common-hosts-certificate-is-any-member",
        "whoever has the certificate of the one machine that all members run on may say that it is any of them",
        (
            Patch(
                "disheap:CertificateChecks._is_named",
                "(host in names and is_alone)",
                "host in names",
            ),
        ),
        (LINKS + "test_a_certificate_for_the_members_common_host_is_nobodys",),
        simulated=False,
    ),
    Mutant(
        "certificate-of-two-members-is-either",
        "whoever has a certificate with the names of two members may say that it is either of them",
        (Patch("disheap:CertificateChecks.check_member", "if named == [peer]:", "if peer in named:"),),
        (LINKS + "test_a_member_proves_its_name_where_anything_is_proved",),
        simulated=False,
    ),
    Mutant(
        "certificate-counts-by-its-first-name",
        "a member whose certificate begins with another name, as authorities often order them, is refused",
        (
            Patch(
                "disheap_tcp:_certificate_names",
                "tuple(dict.fromkeys((names or common) + addresses))",
                "tuple((names + common + addresses)[:1])",
            ),
        ),
        ("tests/runtime/test_links.py::test_members_have_certificates_of_several_names",),
        simulated=False,
    ),
    Mutant(
        "client-is-known-by-any-name-of-its-certificate",
        "a client with several names in its certificate has the limits of several clients",
        (
            Patch(
                "disheap.runtime:authenticate",
                "name = certificate_principal(certificate_names)",
                "asked = hello.credentials.decode()\n"
                "    name = asked if asked in (certificate_names or ()) else certificate_principal(certificate_names)",
            ),
        ),
        (FIRST_FRAMES + "test_credentials_that_prove_nothing_are_refused",),
        simulated=False,
    ),
    Mutant(
        "unproved-hello-is-remembered",
        "one forged hello before a member's first start keeps that member outside for ever",
        (
            Patch(
                "disheap:Peering.meet",
                "if is_proved or is_known or self._at_address.get(peer) == _incarnations(hello.groups):",
                "if True:",
            ),
        ),
        (SECRET + "test_a_forged_hello_before_a_members_first_start_blocks_nothing",),
        simulated=False,
    ),
    Mutant(
        "met-without-a-second-look",
        "a wiped member is welcomed whose hello waited until an earlier life of it was remembered",
        (
            Patch(
                "disheap:Peering._meet",
                "            done(False)\n            return\n        self._learn(peer, hello)",
                "        self._learn(peer, hello)",
            ),
        ),
        (SECRET + "test_who_waited_for_an_address_is_checked_against_who_was_met_meanwhile",),
        simulated=False,
    ),
    Mutant(
        "proof-of-the-acceptor-is-not-looked-at",
        "whoever binds a stopped member's port is welcomed as that member, without the cluster's secret",
        (
            Patch(
                "disheap:Handshaking._check_secret",
                "        self._transcript.check(part, frame)\n",
                "        if part is Part.DIALLER:\n            self._transcript.check(part, frame)\n",
            ),
        ),
        (SECRET + "test_who_binds_a_stopped_members_port_is_not_welcomed",),
        simulated=False,
    ),
    Mutant(
        "proof-of-the-dialler-is-not-looked-at",
        "whoever says that he is a member is welcomed as that member, without the cluster's secret",
        (
            Patch(
                "disheap:Handshaking._check_secret",
                "        self._transcript.check(part, frame)\n",
                "        if part is Part.ACCEPTOR:\n            self._transcript.check(part, frame)\n",
            ),
        ),
        (SECRET + "test_a_forged_heartbeat_moves_no_term",),
    ),
    Mutant(
        "empty-proof-is-enough",
        "a node with the cluster's secret welcomes one that was given none",
        (Patch("disheap:Transcript.check", "if not self._secrets and not proof:", "if not proof:"),),
        (SECRET + "test_a_forged_heartbeat_moves_no_term",),
    ),
    Mutant(
        "proof-without-its-role",
        "a node's own proof, sent back to it, proves that the sender knows the cluster's secret",
        (Patch("disheap:Transcript._digest", 'part.value + b"\\0" + self._frames', "self._frames"),),
        ("tests/protocol/test_proofs.py::test_a_proof_sent_back_is_none",),
        simulated=False,
    ),
    Mutant(
        "entries-with-a-hole-are-taken",
        "entries that do not follow each other reach the log, and end the node that applies them",
        (Patch("disheap:_append", "if index != expected or not newest", "if not newest"),),
        (WRONG,),
        simulated=False,
    ),
    Mutant(
        "what-is-no-command-reaches-the-log",
        "bytes that are no commands are written down, and end every node that applies them, again at each start",
        (Patch("disheap:_entry", "        frames.check_envelopes(entry.data)\n", "        pass\n"),),
        (WRONG,),
        simulated=False,
    ),
    Mutant(
        "term-without-bounds",
        "a message with a term close to the largest is believed, and there is no room for another election",
        (
            Patch(
                "disheap:Group.step",
                "        if message.term - raft.term > MAX_TERM_JUMP:\n",
                "        if message.term > 1 << 63:\n",
            ),
        ),
        (LINKS + "test_a_message_that_no_member_sends_costs_its_connection_and_nothing_else",),
        simulated=False,
    ),
    Mutant(
        "snapshot-tried-after-it-replaced-the-log",
        "a leader's snapshot that nobody can read takes the place of a good log, and the node never starts again",
        (
            Patch(
                "disheap:Installer._write",
                "        if not isinstance(writer, Rereadable):\n",
                "        if True:\n",
            ),
        ),
        (SNAPSHOTS + "test_a_sent_snapshot_that_is_none_costs_neither_log_nor_state",),
        simulated=False,
    ),
    Mutant(
        "silent-sockets-hold-every-place",
        "as many sockets as there are places for handshakes say nothing, and no member is let in",
        (
            Patch(
                "disheap_tcp:TlsListener._wait_for_room",
                "        while self._is_full() and self._stalled() is None:\n",
                "        while self._is_full():\n",
            ),
        ),
        (TRUST + "test_of_more_connections_than_allowed_the_oldest_that_says_nothing_goes",),
        simulated=False,
    ),
    Mutant(
        "idle-connections-stay",
        "whoever greets and then says nothing keeps a place for ever, until no client is let in",
        (
            Patch(
                "disheap:ClientConnection._handshake",
                "        self._start_idle_timer(self._acceptor.limits.idle_timeout_s)\n",
                "",
            ),
        ),
        (LIVENESS + "test_whoever_has_no_session_and_says_nothing_keeps_no_place",),
        simulated=False,
    ),
    Mutant(
        "idle-while-it-waits-for-an-answer",
        "a client is sent away while the node is still at work on what it asked",
        (Patch("disheap:ClientConnection._close_if_idle", "or self.asked or self.queries or", "or self.asked or"),),
        (LIVENESS + "test_whoever_waits_for_an_answer_keeps_its_place_until_it_is_there",),
        simulated=False,
    ),
)
