"""Whether there is memory left, and what is refused during a shortage (docs/explanation/decisions/a-full-memory.md).

Owns the high-water mark. Each node compares its use of memory with the mark and tells the others. While any node is
above its mark, the leader refuses commands that add data. The state is the same on all nodes. A node that was killed
for want of memory would be killed again when it has restored it. Acknowledgements, deliveries and elections go on, so
queues can be drained. Does not know how a refusal reaches a client.

Works as `disk.free_space` does for the disk, with one difference. The node's own estimate and its real size both count,
because each of them is wrong at times. The real size falls late, the estimate misses what nobody counts.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from disheap.errors import MemoryFull, RequestError
from disheap.interfaces import Clock
from disheap.kernel.types import NodeId
from disheap.logs import get_logger
from disheap.protocol.gossip import Gossip
from disheap.runtime.memory.process import FreeBlocks, MemorySource

log = get_logger(__name__)

CHECK_S = 0.1
"""Between two checks, each of about 20 microseconds. A leader that receives much checks more often."""
TRANSIENT_SHARE = 1 / 8
"""Transient messages are accepted up to so much above the mark: workers need remote control to start and to drain
queues."""
LEAVE_SHARE = 1 / 8
"""This share of the mark has to be free before commands are accepted again. So the state does not change all the
time."""
GOSSIP_VALID_S = 5.0
"""A node reports once a second. One that is silent for longer is down, and does not count."""
LEARN_FROM_BYTES = 32 << 20
"""An estimate below says nothing about the ratio of the real size to it."""
LEARN_SHARE = 0.1
"""Each look at a growing state moves the ratio by this share: it follows within a second."""
RATIO_MIN, RATIO_MAX = 0.8, 2.0
"""The ratio stays in these bounds. Part of the process may be swapped out, and freed memory counts as used."""
TRIM_SHARE, TRIM_MAX_BYTES = 1 / 16, 32 << 20
"""Freed memory is given back if it comes to this share of the mark, or to so many bytes if that is less. While the
state becomes smaller, that is after each such step. At 0.1 ms for each MiB the loop then stands still for 3 to 6 ms."""
TRIM_S, TRIM_MAX_S = 1.0, 60.0
"""Between two trims, if the state has not become smaller meanwhile. One that returns little doubles the time."""
TRIM_BOUND_S = 0.04
"""A trim that would take longer is left out: free memory lies in too many places. It is used again instead."""
BLOCK_BYTES, BLOCK_S, SMALL_BLOCK_S, BYTE_S = 4096, 0.4e-6, 20e-9, 0.1e-3 / (1 << 20)
"""A trim looks at each free block of a page and more, also if its pages went back before. It takes these times for each
such block, for each block of any size, and for each byte that goes back."""
SLOW_TRIM_SHARE = 1 / 2
"""A node keeps what a trim beyond the bound would return, until its state has shrunk to this share. Then it is done in
a tick, a minute after the last one at the earliest."""
REUSABLE_SHARE = 0.3
"""Freed memory that the allocator cannot give back is used again first. At most this share of the mark counts so. It is
more than `TRANSIENT_SHARE` and `LEAVE_SHARE` together, so a drained node is not short of memory."""
MIB = 1 << 20


class Estimate(NamedTuple):
    """`total_bytes`: state, log, kept replies and buffers. `has_state`: the machine said what its state takes."""

    total_bytes: int
    has_state: bool


class Host(Protocol):
    """What the watch asks of its node."""

    def memory_estimate(self) -> Estimate:
        """Returns the node's own estimate of the memory that it uses."""

    def send_gossip(self) -> None:
        """Tell all peers this node's state now."""

    def refuse(self, kind: type[RequestError], reason: RequestError | None, takes_transient: bool) -> None:
        """Refuse commands that add data, for this kind of reason. None ends that kind of refusal."""

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""


class MemoryWatch:
    """`tick` looks once in a while. A mark of 0 refuses nothing."""

    def __init__(self, host: Host, own: NodeId, mark_bytes: int, clock: Clock, source: MemorySource) -> None:
        self.is_short = False
        self.is_exhausted = False  # takes no transient messages either
        self.used_bytes = 0
        self._host = host
        self._own = own
        self.high_water_bytes = mark_bytes
        self._clock = clock
        self._source = source
        if mark_bytes:  # otherwise nobody trims
            source.keep_free_memory()
        self._base_bytes = source.resident_bytes() or 0  # of the process before it has a state
        self._resident_bytes: int | None = None
        self._estimated_bytes = 0
        self._ratio = 1.0  # of the real growth to the estimate
        self._reusable_bytes = 0
        self._checked_at = float("-inf")
        self._trimmed_at = float("-inf")
        self._trim_s = TRIM_S
        self._look_s = 0.0  # that the last trim spent on looking at free blocks
        self._slow_trim_at = float("-inf")
        self._kept_from = 0  # the largest state since a slow trim
        self._blocks_left: FreeBlocks | None = None  # by the last trim
        self._trimmed_from = 0  # the highest use expected since
        self._others: dict[NodeId, tuple[float, bool]] = {}  # that are short: when they said so, whether exhausted
        self._reason = ""
        self._takes_transient = True

    def tick(self) -> None:
        """Compare the use with the mark once in `CHECK_S`. Called on every tick."""
        now = self._clock.monotonic()
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            self.check_usage(in_tick=True)

    def check_usage(self, in_tick: bool = False) -> None:
        """Compare the use with the mark now. Refuses or takes commands, and tells peers of a change."""
        if not self.high_water_bytes:
            self.settle()
            return
        estimate = self._host.memory_estimate()
        self._resident_bytes = self._source.resident_bytes()
        if self._resident_bytes is not None:
            self._base_bytes = min(self._base_bytes, self._resident_bytes)  # what the process held has become less
        self._learn(estimate)
        self._estimated_bytes = estimate.total_bytes
        self._trim_if_due(estimate.has_state, in_tick)
        self.used_bytes = self._used()
        self._note_shortage()
        self.settle()

    def freed(self) -> None:
        """Work was done that may have freed memory: return it, before there is more than one step should return.
        Called a thousand times a second at most. Takes about 10 microseconds."""
        if not self.high_water_bytes:
            return
        estimate = self._host.memory_estimate()
        self._estimated_bytes = estimate.total_bytes
        self._trimmed_from = max(self._trimmed_from, self._expected())
        if self._has_shrunk():
            self._resident_bytes = self._source.resident_bytes()
            self._trim_if_due(estimate.has_state)

    def heard(self, peer: NodeId, gossip: Gossip) -> None:
        """Take in what another node reports of its memory."""
        if gossip.memory_is_short:
            self._others[peer] = self._clock.monotonic(), gossip.memory_is_exhausted
        else:
            self._others.pop(peer, None)
        self.settle()

    def settle(self) -> None:
        """Refuse or accept commands. This matters only on the leader."""
        now = self._clock.monotonic()
        self._others = {node: said for node, said in self._others.items() if now - said[0] < GOSSIP_VALID_S}
        short = sorted([*self._others, *([self._own] if self.is_short else [])])
        reason = self._explain(short) if short else ""
        takes_transient = not (self.is_exhausted or any(exhausted for _, exhausted in self._others.values()))
        if (reason, takes_transient) != (self._reason, self._takes_transient):
            self._reason, self._takes_transient = reason, takes_transient
            self._host.refuse(MemoryFull, MemoryFull(reason) if reason else None, takes_transient)

    def status(self) -> dict[str, Any]:
        """Returns the `memory` part of `disheap status`."""
        return {
            "used_bytes": self.used_bytes,
            "high_water_bytes": self.high_water_bytes,
            "resident_bytes": self._resident_bytes,
            "estimated_bytes": self._estimated_bytes,
            "is_short": self.is_short,
            "refuses": self._reason,
        }

    # --- how much is used ---

    def _expected(self) -> int:
        """The bytes that the process should use, by its own estimate."""
        return self._base_bytes + int(self._ratio * self._estimated_bytes)

    def _used(self) -> int:
        """The larger of the real size and the expected size."""
        expected = self._expected()
        if self._resident_bytes is None:
            return expected
        self._reusable_bytes = min(self._reusable_bytes, max(0, self._resident_bytes - expected))
        return max(self._resident_bytes - self._reusable_bytes, expected)

    def _learn(self, estimate: Estimate) -> None:
        """Adjust the ratio, while the state grows. A state that shrinks leaves free memory behind, which tells
        nothing."""
        if self._resident_bytes is None or estimate.total_bytes < max(LEARN_FROM_BYTES, self._estimated_bytes + 1):
            return
        ratio = (self._resident_bytes - self._reusable_bytes - self._base_bytes) / estimate.total_bytes
        self._ratio += (min(max(ratio, RATIO_MIN), RATIO_MAX) - self._ratio) * LEARN_SHARE

    def _trim_if_due(self, has_state: bool, in_tick: bool = False) -> None:
        """Return freed memory to the operating system. The rest is reusable for new messages, if the machine estimates
        its state."""
        now, expected = self._clock.monotonic(), self._expected()
        before = self._resident_bytes or 0
        free = before - self._reusable_bytes - expected
        self._trimmed_from = max(self._trimmed_from, expected)
        self._kept_from = max(self._kept_from, self._estimated_bytes)
        if free < self._worth_it() or now - self._trimmed_at < self._wait_s():
            return
        if self._trim_would_take_s(before - expected) <= TRIM_BOUND_S:
            self._trim()
        elif in_tick and self._slow_trim_is_due(now):
            self._trim()
            self._slow_trim_at, self._kept_from = now, self._estimated_bytes
        self._trimmed_at, self._trimmed_from = now, expected
        resident = self._resident_bytes or 0
        self._trim_s = TRIM_S if before - resident >= free // 4 else min(2 * self._trim_s, TRIM_MAX_S)
        if self.is_short and has_state and expected < self._open_below():
            self._reusable_bytes = min(max(0, resident - expected), int(self.high_water_bytes * REUSABLE_SHARE))

    def _trim(self) -> None:
        before, took_s = self._resident_bytes or 0, self._source.return_free_memory()
        self._resident_bytes = self._source.resident_bytes()
        self._look_s = max(0.0, took_s - BYTE_S * (before - (self._resident_bytes or 0)))
        self._blocks_left = self._source.free_blocks()

    def _slow_trim_is_due(self, now: float) -> bool:
        return now - self._slow_trim_at >= TRIM_MAX_S and self._estimated_bytes <= self._kept_from * SLOW_TRIM_SHARE

    def _trim_would_take_s(self, free_bytes: int) -> float:
        """The seconds that a trim takes now at most, if so many bytes go back. It looks as long as the last one did,
        and longer for the blocks that were freed since. It looks no longer than if every block were large."""
        blocks, last = self._source.free_blocks(), self._blocks_left or FreeBlocks(0, 0)
        if blocks is None:
            return self._look_s + BYTE_S * free_bytes
        freed_bytes = max(blocks.size_bytes - last.size_bytes, self._trimmed_from - self._expected())
        free_bytes = min(free_bytes, freed_bytes)  # what the last trim left cannot go back
        if blocks.number < last.number:  # freed blocks that lie side by side have become one
            look_s = self._look_s * blocks.number / last.number
        else:
            look_s = self._look_s + BLOCK_S * min(blocks.number - last.number, freed_bytes // BLOCK_BYTES)
        large = min(blocks.number, blocks.size_bytes // BLOCK_BYTES)
        return min(look_s, BLOCK_S * large + SMALL_BLOCK_S * blocks.number) + BYTE_S * free_bytes

    def _worth_it(self) -> float:
        return min(self.high_water_bytes * TRIM_SHARE, TRIM_MAX_BYTES)

    def _has_shrunk(self) -> bool:
        return self._trimmed_from - self._expected() >= self._worth_it()

    def _wait_s(self) -> float:
        """The seconds that have to lie between the last trim and the next."""
        return 0.0 if self._has_shrunk() else self._trim_s

    # --- what follows ---

    def _open_below(self) -> int:
        return self.high_water_bytes - int(self.high_water_bytes * LEAVE_SHARE)

    def _note_shortage(self) -> None:
        was_short, was_exhausted = self.is_short, self.is_exhausted
        self.is_exhausted = self.used_bytes >= self.high_water_bytes * (1 + TRANSIENT_SHARE)
        self.is_short = self.used_bytes >= (self._open_below() if was_short else self.high_water_bytes)
        if self.is_exhausted != was_exhausted:
            self._host.send_gossip()
        if self.is_short == was_short:
            return
        if self.is_short:
            self._trim_s = TRIM_S
            log.error(
                "the node is short of memory: nothing new is taken",
                used_bytes=self.used_bytes, high_water_bytes=self.high_water_bytes,
                estimated_bytes=self._estimated_bytes, resident_bytes=self._resident_bytes or 0,
            )  # fmt: skip
        else:
            log.warning("there is memory again", used_bytes=self.used_bytes, high_water_bytes=self.high_water_bytes)
        self._host.send_gossip()

    def _explain(self, short: list[NodeId]) -> str:
        """Returns the reason for clients. It has no figures, because they change all the time."""
        names = ", ".join(self._host.member_name(node) for node in short)
        return (
            f"the memory of {names} is used up to the mark (limits.memory_high_water): nothing new is taken until "
            "there is more. Have what is stored consumed or removed, or give the node more memory"
        )


def mark_bytes(share: float, absolute_bytes: int, limit_bytes: int | None) -> int:
    """Returns the mark in bytes: the setting, or that share of the limit. 0 (no mark) if the limit is not known."""
    return absolute_bytes or int(share * (limit_bytes or 0))
