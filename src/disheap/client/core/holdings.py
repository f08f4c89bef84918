"""What the session below asks of whoever knows the machine above: the door between the opaque part and the rest."""

from __future__ import annotations

from typing import Protocol


class Holdings(Protocol):
    """What a client holds of the machine's; the session only carries it."""

    def claim(self) -> bytes:
        """The body of an ATTACH."""

    def idle(self) -> bool:
        """Nothing would be lost with the session."""

    def lapsed(self) -> None:
        """Everything is lost with the session."""


class NoHoldings:
    """For a machine of which a client holds nothing."""

    def claim(self) -> bytes:
        return b""

    def idle(self) -> bool:
        return True

    def lapsed(self) -> None: ...
