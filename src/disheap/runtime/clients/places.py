"""Bounds the client connections of a node, in all and for each client.

There are places for everybody (`limits.connections`), bounded for each address and for each certificate name. When all
are taken, the oldest connection without a HELLO is closed. Beside them there is a reserve
(`limits.reserved_connections`) for operators. A connection from this machine, or with a certificate name among
`limits.operator_names`, gets a place there when it gets no other. It may send queries (`disheap status`), and carries
no session. When the reserve is full, its oldest connection is closed. So an operator can always connect.

Peers have a port of their own, and nothing here counts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from disheap.addresses import is_loopback, owner_of
from disheap.errors import LimitReached, Overloaded

SILENCE_S = 0.2
"""A client sends its HELLO as soon as it is connected. One that has not after this time may be closed when places are
short."""
NO_SESSION = (
    "every place for connections is taken. This one has a place of the reserve for operators, and those carry no "
    "session; try again later, or raise limits.connections"
)


class PlacedConnection(Protocol):
    """What is asked of a connection."""

    def refuse(self, error: Overloaded) -> None:
        """Send a GOODBYE with the reason, and close."""


class PlaceLimits(msgspec.Struct, frozen=True):
    """From `[limits]`."""

    connections: int = 4096
    max_connections_per_address: int = 1024
    max_connections_per_principal: int = 2048
    reserved_connections: int = 64
    operator_names: tuple[str, ...] = ()


class _Place(NamedTuple):
    owner: str  # of the address; "" if it has none
    principal: str  # the name that the certificate proves; "" if there is none
    is_reserved: bool


class Places:
    """`enter` when a connection is made, `greeted` at its HELLO, `leave` when it is lost."""

    def __init__(self, limits: PlaceLimits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._places: dict[PlacedConnection, _Place] = {}
        self._reserve: dict[PlacedConnection, None] = {}  # the oldest first
        self._silent: dict[PlacedConnection, float] = {}  # since when; the oldest first
        self._owners: Counter[str] = Counter()
        self._principals: Counter[str] = Counter()

    def enter(self, connection: PlacedConnection, remote: str, principal: str) -> Overloaded | None:
        """Give the connection a place. Returns None, or why it gets none."""
        place = _Place(owner_of(remote), principal, is_reserved=False)
        refusal = self._refusal(place)
        if refusal is not None:
            if not self._is_operator(remote, place.principal):
                return refusal
            place = place._replace(is_reserved=True)
            self._make_room_in_reserve()
        self._add(connection, place)
        return None

    def greeted(self, connection: PlacedConnection) -> None:
        """The connection has sent its HELLO, and no longer gives way as a silent one."""
        self._silent.pop(connection, None)

    def is_reserved(self, connection: PlacedConnection) -> bool:
        """Whether the connection has a place of the operators' reserve."""
        return connection in self._reserve

    def leave(self, connection: PlacedConnection) -> None:
        """Free the connection's place. May be called twice, and for a connection without one."""
        place = self._places.pop(connection, None)
        if place is None:
            return
        self._silent.pop(connection, None)
        if place.is_reserved:
            del self._reserve[connection]
            return
        for counter, key in ((self._owners, place.owner), (self._principals, place.principal)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def _refusal(self, place: _Place) -> Overloaded | None:
        limits = self._limits
        if place.owner and self._owners[place.owner] >= limits.max_connections_per_address:
            return _full(f"{place.owner} has", limits.max_connections_per_address, "max_connections_per_address")
        if place.principal and self._principals[place.principal] >= limits.max_connections_per_principal:
            who, limit = f"the certificate name {place.principal!r} has", limits.max_connections_per_principal
            return _full(who, limit, "max_connections_per_principal")
        if len(self._places) - len(self._reserve) < limits.connections or self._oldest_silent_gives_way():
            return None
        return _full("the node has", limits.connections, "connections")

    def _oldest_silent_gives_way(self) -> bool:
        oldest = next((connection for connection in self._silent if connection not in self._reserve), None)
        if oldest is None or self._now() - self._silent[oldest] < SILENCE_S:
            return False
        self._give_way(oldest, "every place for connections is taken, and this one has sent no HELLO")
        return True

    def _make_room_in_reserve(self) -> None:
        if len(self._reserve) >= self._limits.reserved_connections:
            oldest = next(iter(self._reserve))
            self._give_way(oldest, "the reserve for operators is full, and this is its oldest connection")

    def _give_way(self, connection: PlacedConnection, reason: str) -> None:
        self.leave(connection)
        connection.refuse(LimitReached(reason))

    def _is_operator(self, remote: str, principal: str) -> bool:
        return self._limits.reserved_connections > 0 and (
            is_loopback(remote) or principal in self._limits.operator_names
        )

    def _add(self, connection: PlacedConnection, place: _Place) -> None:
        self._places[connection] = place
        self._silent[connection] = self._now()
        if place.is_reserved:
            self._reserve[connection] = None
            return
        self._owners[place.owner] += 1
        self._principals[place.principal] += 1


def _full(who: str, limit: int, setting: str) -> LimitReached:
    return LimitReached(f"{who} its limit of {limit} connections (limits.{setting}); close some, or raise the limit")
