"""Where replies and pushes go while entries are applied. Owns the frames that are gathered for each session.

What is replied and pushed is decided by `sessions`, on all nodes alike. Only a leader has somebody to send it to.
"""

from __future__ import annotations


class ReplySink:
    """Where replies and pushes go: frames gathered for each attached session. Empty on all nodes but the leader."""

    def __init__(self) -> None:
        self.queues: dict[int, list[bytes]] = {}
        self.pending: list[int] = []
        """Sessions whose queue was empty, and got something since the sink was flushed."""

    def attach(self, session: int, attachment: int) -> None:
        """From here on the session's frames go to the connection that asked under the number `attachment`."""

    def detach(self, session: int) -> None:
        """The session has ended or lost its attachment."""

    def detached(self, session: int) -> None:
        """The log says that the session's connection has ended."""

    def expired(self, session: int, label: str) -> None:
        """Nobody heard of the session in time. `detach` follows."""

    def grant(self, attachment: int, index: int, session: int, timeout_ms: int) -> None:
        """The reply to an OPEN that succeeded. The secret is added by who drew it."""

    def answer(self, attachment: int, status: int, index: int, body: bytes) -> None:
        """The reply to an ATTACH or CLOSE, or to an OPEN that failed. It belongs to a connection, not to a session."""

    def node_command(self, number: int, status: int, body: bytes) -> None:
        """The reply to a NODE_COMMAND. Whoever proposed it drew the number."""
