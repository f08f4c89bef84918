"""The bounds of what clients may do, from `[limits]`: of one connection, of one session, and of all together."""

from __future__ import annotations

import msgspec

from disheap.protocol import frames
from disheap.protocol.handshake import ClientLimits
from disheap.runtime.clients.admission import AdmissionLimits
from disheap.runtime.clients.places import PlaceLimits


class ServerLimits(msgspec.Struct, frozen=True):
    """The bounds of a node's client side, from `[limits]` and `[raft]`. Units are in the names."""

    frame_bytes: int
    session_window: int
    handshake_timeout_s: float
    idle_timeout_s: float
    write_buffer_bytes: int
    queries: int
    admission: AdmissionLimits = AdmissionLimits()
    queries_per_connection: int = 128
    input_bytes: int = 64 << 20
    output_bytes: int = 256 << 20
    places: PlaceLimits = PlaceLimits()
    contact_s: float = 1.0  # a leader that has heard no majority for so long does not end sessions
    takeover_s: float = 0.0  # from the election of a leader until the clients of the one before have come over
    session_timeout_min_ms: int = 1000
    session_timeout_max_ms: int = 86_400_000
    reattach_timeout_ms: int = 3000

    def for_clients(self) -> ClientLimits:
        """What a WELCOME says of them."""
        return ClientLimits(
            frame_bytes=self.frame_bytes,
            command_bytes=self.frame_bytes - frames.ENVELOPE_REST,
            node_frame_bytes=frames.NODE_FRAME_BYTES,
            session_window=self.session_window,
            session_timeout_min_ms=self.session_timeout_min_ms,
            session_timeout_max_ms=self.session_timeout_max_ms,
            reattach_timeout_ms=self.reattach_timeout_ms,
            idle_timeout_ms=int(self.idle_timeout_s * 1000),
            queries=self.queries_per_connection,
        )
