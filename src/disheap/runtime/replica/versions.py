"""When the cluster's machine_version goes up: once every member can run a newer one, the leader has the log say so.

Owns that decision alone. What a version means is the machine's; that all replicas change at the same entry, the log's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.protocol import frames
from disheap.protocol.frames import Kind

if TYPE_CHECKING:
    from disheap.runtime.node import Node


class Versions:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._raised_to = 0  # asked of the log already in this term

    def new_term(self) -> None:
        self._raised_to = 0

    def raise_if_due(self) -> None:
        node = self._node
        sessions = node.group.sessions
        mine = sessions.machine.versions[1]
        if not node.group.leads or mine <= sessions.machine_version or self._raised_to == mine:
            return
        others = node.book.versions(node.group.raft.id)
        if others is None:
            return
        common = min([mine, *(highest for _, highest in others)])
        if common > max(sessions.machine_version, self._raised_to):
            self._raised_to = common
            node.group.submit(frames.envelope(Kind.RAISE_VERSION, 0, 0, 0, 0, bytes([common])))
