"""When the cluster's machine_version goes up: once every member can run a newer one, the leader has the log say so.

Owns that decision alone. What a version means is the machine's; that all replicas change at the same entry, the log's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from disheap.protocol import frames
from disheap.protocol.frames import Kind
from disheap.runtime.state.sessions import Sessions


class VersionedGroup(Protocol):
    """The group whose version is raised."""

    sessions: Sessions

    @property
    def leads(self) -> bool: ...
    def submit(self, envelopes: bytes) -> None: ...


class Versions:
    """`others` gives the machine versions, lowest and highest, of all other members; None while one is not known."""

    def __init__(self, others: Callable[[], Sequence[tuple[int, int]] | None]) -> None:
        self._others = others
        self._raised_to = 0  # asked of the log already in this term

    def new_term(self) -> None:
        self._raised_to = 0

    def raise_if_due(self, group: VersionedGroup) -> None:
        sessions = group.sessions
        mine = sessions.machine.versions[1]
        if not group.leads or mine <= sessions.machine_version or self._raised_to == mine:
            return
        others = self._others()
        if others is None:
            return
        common = min([mine, *(highest for _, highest in others)])
        if common > max(sessions.machine_version, self._raised_to):
            self._raised_to = common
            group.submit(frames.envelope(Kind.RAISE_VERSION, 0, 0, 0, 0, bytes([common])))
