"""Connections: what they leave behind, how many there may be, and who keeps whom out."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

TRUST = "tests/transports/test_tls_trust.py::"
LEFTOVERS = "tests/runtime/test_leftovers.py::"

MUTANTS = (
    Mutant(
        "closed-connection-keeps-its-receiver",
        "a connection that ended and its receiver hold each other in memory for ever",
        (
            Patch(
                "disheap_tcp.link",
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
                "disheap_tcp.listener",
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
                "disheap_tcp.listener",
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
        (Patch("disheap_tcp.listener", "if owner and self._owners[owner] >= most and", "if False and"),),
        (TRUST + "test_one_address_keeps_few_places_with_handshakes_that_stalled",),
        simulated=False,
    ),
)
