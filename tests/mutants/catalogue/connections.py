"""Connections: what they leave behind, how many there may be, and who keeps whom out."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

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
                "disheap_tcp.tls",
                "            accepted.close()\n            forget_frames(error)\n",
                "            accepted.close()\n",
            ),
        ),
        (LEFTOVERS + "test_a_socket_that_never_became_a_connection_leaves_nothing",),
        simulated=False,
    ),
)
