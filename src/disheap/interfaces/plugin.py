"""What every plugin class carries, and what is shared by all contracts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import msgspec

API = 1
"""The version of the contracts. A plugin that says another is refused."""

KINDS = ("transport", "storage", "codec", "machine")


class Plugin(Protocol):
    """What every plugin class carries."""

    name: ClassVar[str]  # by which the configuration chooses it; without '+' and '.'
    api: ClassVar[int]  # the version of the contracts that it was written for
    Settings: ClassVar[type[msgspec.Struct]]  # an empty struct where there is nothing to set


class Clock(Protocol):
    """Time, injected. Nothing reads it behind the owner's back."""

    def monotonic(self) -> float:
        """Seconds that never go back (pitfall 25: deadlines use this)."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch; may jump."""


@runtime_checkable
class MemoryEstimating(Protocol):
    """Optional power of a machine or a storage: it knows about how much memory it takes. Without it, the node relies on
    the real size of its process, which is late to grow and slow to shrink."""

    def memory_bytes(self) -> int:
        """About how many bytes of memory it takes, all overhead included. A machine's state grows with every command
        that stores something, and falls to what an empty state takes when everything is removed and postponed work is
        done. A storage counts what it holds of the log and of snapshots. Asked many times a second: in constant time,
        without a change; of a storage also while another thread is in a call. May differ between replicas."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a plugin came from, for `disheap plugins` and for error messages."""

    distribution: str
    version: str
    entry_point: str
