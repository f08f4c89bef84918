"""What every plugin class carries, and what is shared by all contracts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import msgspec

API = 1
"""The version of the contracts. A plugin that says another is refused."""

KINDS = ("transport", "storage", "codec", "machine", "service")
CHOSEN_KINDS = KINDS[:4]
"""A node has exactly one plugin of each of these. Of services it runs as many as `services` names."""


class Plugin(Protocol):
    """The attributes of every plugin class."""

    name: ClassVar[str]  # by which the configuration chooses it; without '+' and '.'
    api: ClassVar[int]  # the version of the contracts that it was written for
    Settings: ClassVar[type[msgspec.Struct]]  # an empty struct where there is nothing to set


class Clock(Protocol):
    """The time, as a constructor argument. Code reads the time only through it."""

    def monotonic(self) -> float:
        """Seconds that never go back (pitfall 25: deadlines use this)."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch; may jump."""


@runtime_checkable
class MemoryEstimating(Protocol):
    """Optional power of a machine or a storage: it estimates how much memory it takes. Without it, the node relies on
    the real size of its process. That size grows late and shrinks slowly."""

    def memory_bytes(self) -> int:
        """About how many bytes of memory it takes, including all overhead. The estimate of a machine grows with every
        command that stores something. It falls to that of an empty state when everything is removed and postponed work
        is done. It falls as well while the state is discarded. A storage counts its part of the log and of snapshots.
        The node asks many times a second, so the method takes constant time and changes nothing. A storage is also
        asked while another thread is in a call. The estimate may differ between replicas."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a plugin came from, for `disheap plugins` and for error messages."""

    distribution: str
    version: str
    entry_point: str
