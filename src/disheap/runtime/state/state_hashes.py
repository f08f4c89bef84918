"""Compares the states of the replicas. Each hashes its state at the same entries and receives the others' hashes
(storage-rules 10).

Owns when a state is hashed, and the comparison. The entries are found by the log's own time, once in each interval, so
every replica takes the same ones without communication. A view is taken between two entries and hashed in slices, so
that neither the loop nor the commands wait. Hashes travel in the gossip of the nodes.

If a majority agrees and this node differs, the state here is wrong. The cause may be memory, a bug, or a release that
computes something else. The node puts itself in quarantine. If no majority agrees, the difference is only logged.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Protocol

from disheap.kernel.quorum import majority
from disheap.kernel.types import Index, NodeId, SnapshotMeta
from disheap.logs import get_logger
from disheap.runtime.state.sessions import Sessions

log = get_logger(__name__)

PAUSE_S = 0.005
"""Between two slices of at most 2 ms: hashing takes less than a third of the loop's time."""
MAX_HASHES = 8
"""Hashes remembered of each node: a node that lags by so many intervals is not compared."""
NEVER_MS = 1 << 62
DIGEST_BYTES = 16


class Host(Protocol):
    """What comparing asks of its replica."""

    number: int

    def voters(self) -> tuple[NodeId, ...]:
        """Returns the voters of the membership that was applied last."""

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""

    def quarantine(self, reason: str) -> None:
        """Stop serving: the state here differs from a majority's."""


class StateComparison:
    """Hashes the state once in each `interval_s` of log time. 0 switches it off."""

    def __init__(self, host: Host, own: NodeId, interval_s: int, loop: asyncio.AbstractEventLoop) -> None:
        self.due_ms = NEVER_MS  # of log time: the first entry from here on is one to hash behind
        self.newest: tuple[Index, bytes] = (Index(0), b"")
        self._host = host
        self._own = own
        self._interval_ms = interval_s * 1000
        self._loop = loop
        self._hashes: dict[NodeId, dict[Index, bytes]] = {}
        self._slices: Iterator[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._compared = 0
        self._differing: dict[NodeId, None] = {}  # said so already

    def moved(self, time_ms: int) -> None:
        """The state has reached `time_ms` of log time: find the next moment to hash."""
        if self._interval_ms:
            self.due_ms = (time_ms // self._interval_ms + 1) * self._interval_ms

    def begin(self, applied: SnapshotMeta, sessions: Sessions) -> None:
        """Hash the state of this moment. Does nothing while another hash is under way."""
        self.moved(applied.time_ms)
        if self._slices is None:
            self._slices = sessions.hashing()
            self._step(applied.index, blake2b(digest_size=DIGEST_BYTES))

    def _give_up(self, index: Index) -> None:
        """A machine that cannot hash its state is not compared; it may be sound all the same."""
        log.exception("the state cannot be hashed, and is not compared", group=self._host.number, index=index)
        self._slices = self._timer = None

    def heard(self, peer: NodeId, index: int, digest: bytes) -> None:
        """Another node has hashed its state behind entry `index`. At 0 it has not hashed any yet."""
        if index and self._remember(peer, Index(index), digest):
            self._judge(Index(index))

    def end(self) -> None:
        """Stop hashing. A hash that is under way is dropped."""
        if self._timer is not None:
            self._timer.cancel()

    def status(self) -> dict[str, Any]:
        """Returns the `comparison` part of `disheap status`."""
        return {
            "index": self.newest[0],
            "compared": self._compared,
            "differs_from": [self._host.member_name(node) for node in self._differing],
        }

    def _step(self, index: Index, digest: Any) -> None:
        assert self._slices is not None
        try:
            piece = next(self._slices, None)
        except Exception:
            self._give_up(index)
            return
        if piece is not None:
            digest.update(piece)
            self._timer = self._loop.call_later(PAUSE_S, self._step, index, digest)
            return
        self._slices = self._timer = None
        self.newest = (index, digest.digest())
        self._remember(self._own, *self.newest)
        self._judge(index)

    def _remember(self, node: NodeId, index: Index, digest: bytes) -> bool:
        """Whether it is new."""
        hashes = self._hashes.setdefault(node, {})
        if index in hashes:
            return False
        hashes[index] = digest
        while len(hashes) > MAX_HASHES:
            del hashes[min(hashes)]
        return True

    def _judge(self, index: Index) -> None:
        own = self._hashes.get(self._own, {}).get(index)
        if own is None:
            return
        found = {node: hashes[index] for node, hashes in sorted(self._hashes.items()) if index in hashes}
        self._compared += len(found) > 1
        differing = [node for node, digest in found.items() if digest != own]
        for node in found:
            if node not in differing:
                self._differing.pop(node, None)
        if not differing:
            return
        voters = self._host.voters()
        agreeing = max(Counter(found[node] for node in differing if node in voters).values(), default=0)
        names = ", ".join(self._host.member_name(node) for node in differing)
        if agreeing >= majority(len(voters)):
            self._host.quarantine(f"the state here behind entry {index} is not that of {names}, which are a majority")
        elif new := [node for node in differing if node not in self._differing]:
            self._differing.update(dict.fromkeys(new))
            log.error(
                "states differ, and neither is a majority's",
                group=self._host.number,
                index=index,
                differs_from=names,
            )
