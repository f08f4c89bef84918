"""What a leader knows of each peer (Raft Figure 2, nextIndex and matchIndex; dissertation §10.2.1).

Owns the peer's phase and its window; sends nothing. Three phases:

    PROBE      one message, then wait. It is not known yet where the logs agree.
    REPLICATE  messages stream within a window of messages and bytes. `next` runs ahead of `match`.
    SNAPSHOT   the log no longer has what the peer needs. Entries wait until the snapshot has ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from disheap.kernel.types import Index, KernelConfig, SnapshotMeta, quick_members


@quick_members
class Phase(Enum):
    """How the leader sends to a peer. The module's docstring describes the phases."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class SnapshotSend:
    """A snapshot on its way to one peer, one chunk at a time. `reading` while our storage is being asked for it."""

    meta: SnapshotMeta
    offset: int = 0
    reading: bool = False
    elapsed: int = 0


class Progress:
    """What the leader knows of one peer's log, and what is on its way there."""

    __slots__ = (
        "active",
        "fetching",
        "inflight",
        "inflight_bytes",
        "match",
        "next",
        "paused",
        "phase",
        "poke",
        "read",
        "sending",
    )

    def __init__(self, next_index: int) -> None:
        self.match = Index(0)
        self.next = Index(next_index)
        self.active = False  # heard from since the last check of the quorum
        self.read = 0  # the highest number of a read round that it confirmed
        self._enter(Phase.PROBE)

    def become_probe(self) -> None:
        """Go back to the last index that is known to match, and send one message at a time."""
        self.next = Index(self.match + 1)
        self._enter(Phase.PROBE)

    def lost_touch(self) -> None:
        """A probe that nobody answered is asked again where it was: that the peer holds nothing is not known."""
        if self.phase is Phase.PROBE:
            self._enter(Phase.PROBE)
        else:
            self.become_probe()

    def become_replicate(self) -> None:
        """The logs agree up to `match`. Send entries without waiting for each answer."""
        self.next = Index(self.match + 1)
        self._enter(Phase.REPLICATE)

    def become_snapshot(self, meta: SnapshotMeta) -> None:
        """Send no entries until the snapshot `meta` has arrived or failed."""
        self._enter(Phase.SNAPSHOT, SnapshotSend(meta))

    def may_send(self, config: KernelConfig) -> bool:
        """Whether a message with entries may go to the peer now."""
        if self.phase is Phase.REPLICATE:
            return not self.fetching and (self.poke or not self.is_full(config))
        return self.phase is Phase.PROBE and not self.paused and not self.fetching

    def is_full(self, config: KernelConfig) -> bool:
        """Whether the window of unanswered messages, or of their bytes, is used up."""
        return len(self.inflight) >= config.inflight_messages or self.inflight_bytes >= config.inflight_bytes

    def sent(self, last: Index, size: int) -> None:
        """A message went out that ends at `last`; in REPLICATE the next one continues from there."""
        self.poke = False
        if self.phase is Phase.PROBE:
            self.paused = True
        elif size:
            self.next = Index(last + 1)
            self.inflight.append((last, size))
            self.inflight_bytes += size

    def accepted(self, index: Index, can_go_on: bool) -> bool:
        """The peer holds all up to `index`; `can_go_on`: our log reaches back to there. A reply that came late moves
        nothing back (pitfall 11). It ends a probe, and a snapshot that was installed or is not needed any more. Where
        our log has been compacted beyond an installed snapshot, another one is sent."""
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]
        moved = index > self.match
        self.match = max(self.match, index)
        is_found = self.phase is Phase.PROBE and (moved or index >= self.next - 1)
        is_installed = self.sending is not None and self.match >= self.sending.meta.index
        is_enough = is_installed or (self.phase is Phase.SNAPSHOT and moved and can_go_on)
        if is_found or is_enough:
            self.become_replicate()
            self.poke = is_enough  # it cannot know what else is committed, and perhaps there is nothing to send
        if self.next <= self.match:
            self.next = Index(self.match + 1)
        return moved

    def refused(self, index: Index, agreed: Index) -> None:
        """The peer lacks `index` and may agree at `agreed`. Late refusals are recognized and ignored.

        A refusal at `match` may be late, or the peer may have lost the end of its log. The probe there finds out."""
        if self.phase is Phase.REPLICATE and index >= self.match:
            self.become_probe()
        elif self.phase is Phase.PROBE and index == self.next - 1:
            # Refused where it once agreed: the peer lost the end of its log and says so. It no longer counts there.
            self.match = min(self.match, agreed)
            self.next = Index(max(min(index, agreed + 1), self.match + 1))
            self.paused = False
            self.poke = True

    def heard(self, last_index: Index) -> None:
        """A heartbeat was answered: a message that got lost is made up for. In PROBE the peer may hold less than
        `match` says: it may have lost the end of its log with its process."""
        if self.match < last_index or self.phase is Phase.PROBE:
            self.paused = False
            self.poke = True

    def _enter(self, phase: Phase, sending: SnapshotSend | None = None) -> None:
        self.phase = phase
        self.paused = False  # PROBE: the one message is out
        self.poke = phase is Phase.PROBE  # send, even if there is no entry to send
        self.fetching = Index(0)  # storage was asked for entries from here on
        self.inflight: deque[tuple[Index, int]] = deque()
        self.inflight_bytes = 0
        self.sending = sending
