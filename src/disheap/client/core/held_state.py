"""The interface through which a session reads the machine's state in the client. A session does not know the
machine."""

from __future__ import annotations

from typing import Protocol


class HeldState(Protocol):
    """What a client holds at the machine, encoded. The session only sends it."""

    def encode_held(self) -> bytes:
        """The body of an ATTACH."""

    def is_empty(self) -> bool:
        """Whether nothing would be lost with the session."""

    def clear(self) -> None:
        """Everything is lost with the session."""


class NothingHeld:
    """Holds nothing, for a machine whose clients have nothing to hold."""

    def encode_held(self) -> bytes:
        """An empty body."""
        return b""

    def is_empty(self) -> bool:
        """Always: nothing is held."""
        return True

    def clear(self) -> None:
        """Nothing is lost."""
