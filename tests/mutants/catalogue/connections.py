"""Connections: what they leave behind, how many there may be, and who keeps whom out."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

TRUST = "tests/transports/test_tls_trust.py::"
HTTP = "tests/http/test_http_connections.py::"
PLACES = "tests/runtime/test_places.py::"
DESCRIPTORS = "tests/storage/test_descriptors.py::"
HOSTING = "tests/cli/test_hosting.py::"
SERVICE_MANAGER = "tests/cli/test_service_manager.py::"
LEFTOVERS = "tests/runtime/test_leftovers.py::"

MUTANTS = (
    Mutant(
        "closed-connection-keeps-its-receiver",
        "a connection that ended and its receiver hold each other in memory for ever",
        (
            Patch(
                "disheap_tcp:Link.connection_lost",
                "        receiver, self._receiver = self._receiver, None\n",
                "        receiver = self._receiver\n",
            ),
        ),
        (LEFTOVERS + "test_a_connection_that_ended_leaves_nothing",),
        simulated=False,
    ),
    Mutant(
        "failed-handshake-keeps-its-frames",
        "a TLS handshake that failed stays in memory with its buffers",
        (
            Patch(
                "disheap_tcp:TlsListener._shake_hands",
                "            forget_frames(error)\n            self._say(guest, trust.explain(error))\n",
                "            self._say(guest, trust.explain(error))\n",
            ),
        ),
        (LEFTOVERS + "test_a_socket_that_never_became_a_connection_leaves_nothing",),
        simulated=False,
    ),
    Mutant(
        "stalled-handshakes-hold-every-place",
        "whoever sends the first bytes of a handshake and no more keeps a place until the handshake times out",
        (
            Patch(
                "disheap_tcp:_Guest.has_stalled",
                "        return now - self.since >= SLOW_S and not self.link.made\n",
                "        return False\n",
            ),
        ),
        (TRUST + "test_a_handshake_that_has_stalled_gives_its_place_to_the_next",),
        simulated=False,
    ),
    Mutant(
        "one-address-holds-every-handshake",
        "one address may take every place for handshakes with connections that say nothing",
        (Patch("disheap_tcp:TlsListener._make_room", "if owner and self._owners[owner] >= most and", "if False and"),),
        (TRUST + "test_one_address_keeps_few_places_with_handshakes_that_stalled",),
        simulated=False,
    ),
    Mutant(
        "operators-find-no-place",
        "clients that take every place for connections keep the operator out",
        (
            Patch(
                "disheap:Places.enter",
                "            if not self._is_operator(remote, place.principal):\n",
                "            if True:\n",
            ),
        ),
        (PLACES + "test_an_operator_gets_in_when_every_place_is_taken",),
        simulated=False,
    ),
    Mutant(
        "full-reserve-keeps-operators-out",
        "whoever fills the reserve from the node's own machine keeps the operator out",
        (Patch("disheap:Places.enter", "            self._make_room_in_reserve()\n", ""),),
        (PLACES + "test_an_operator_gets_in_when_every_place_is_taken",),
        simulated=False,
    ),
    Mutant(
        "one-address-takes-every-place",
        "one address may have every connection that there is room for",
        (
            Patch(
                "disheap:Places._refusal",
                "        if place.owner and self._owners",
                "        if False and self._owners",
            ),
        ),
        (PLACES + "test_an_address_has_a_limit_of_its_own",),
        simulated=False,
    ),
    Mutant(
        "no-descriptor-ends-the-node",
        "a node that has no file descriptor left for its log ends as if its disk had failed",
        (Patch("disheap_filelog:Descriptors.open", "if error.errno not in NO_DESCRIPTOR:", "if True:"),),
        (DESCRIPTORS + "test_a_file_is_opened_with_a_descriptor_of_the_reserve",),
        simulated=False,
    ),
    Mutant(
        "reserve-of-descriptors-is-used-up",
        "the descriptor of a closed file goes to whoever connects next, and the reserve is empty after a while",
        (Patch("disheap_filelog:Descriptors.close", "if 0 < len(self._spare) < self._wanted:", "if False:"),),
        (DESCRIPTORS + "test_a_file_is_opened_with_a_descriptor_of_the_reserve",),
        simulated=False,
    ),
    Mutant(
        "sighup-stops-the-node",
        "SIGHUP, which log rotation and certificate tools send, stops the node",
        (
            Patch(
                "disheap:_host",
                "add_signal_handler(signal.SIGHUP, _reload, reloading, node, manager)",
                "add_signal_handler(signal.SIGHUP, stopping.set)",
            ),
        ),
        (HOSTING + "test_a_sighup_reloads_and_ends_nothing",),
        simulated=False,
    ),
    Mutant(
        "reload-never-ends-for-systemd",
        "systemd is told that a reload begins and never that it is over, and ends the node",
        (
            Patch(
                "disheap:_reload", "    reloading.reload(node)\n    manager.ready()\n", "    reloading.reload(node)\n"
            ),
        ),
        (SERVICE_MANAGER + "test_a_reload_is_announced_and_its_end_too",),
        simulated=False,
    ),
    Mutant(
        "key-that-everybody-reads-is-taken",
        "a private key that every user of the machine can read is used without a word",
        (Patch("disheap:load_certificate", "    if not shared_keyfile:\n", "    if False:\n"),),
        (TRUST + "test_a_key_that_others_can_read_is_refused", HTTP + "test_a_key_that_others_can_read_is_refused"),
        simulated=False,
    ),
)
