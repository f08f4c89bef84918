"""Where to connect next: the leader that a node named, then everything known, in turn, with a growing pause.

Owns addresses and the backoff; refuses to know clocks and sockets. Randomness is injected: clients that lost the same
leader must not come back in step.
"""

from __future__ import annotations

import random

PAUSE_FIRST_S = 0.02
"""The first pause after every known address has been tried: an election takes a second or two, so be there early."""
PAUSE_MAX_S = 0.5
"""The longest pause: the price of a dead cluster is two attempts a second."""
FAULTS_KEPT = 8
"""Reasons kept for the error message."""


class Route:
    def __init__(self, addresses: tuple[str, ...], generator: random.Random) -> None:
        self._seeds = addresses
        self._known = list(addresses)
        self._random = generator
        self._turn = 0
        self._leader = ""
        self._pause_s = 0.0
        self._tried = 0
        self._hops = 0
        self._faults: dict[str, str] = {}

    def next(self) -> tuple[str, float]:
        """The address to try, and the pause (seconds) to make before."""
        if self._leader:
            address, self._leader = self._leader, ""
            return address, 0.0
        pause_s = 0.0
        if self._tried >= len(self._known):
            self._tried = 0
            pause_s = self._grow()
        address = self._known[self._turn % len(self._known)]
        self._turn += 1
        self._tried += 1
        return address, pause_s

    def learned(self, members: list[str]) -> None:
        """All members' addresses, from a welcome; the URL's stay in, for they may be a name that outlives nodes."""
        fresh = [address for address in members if address and address not in self._known]
        self._known += fresh
        gone = [a for a in self._known if a not in self._seeds and a not in members]
        for address in gone:
            self._known.remove(address)

    def moved(self, leader: str) -> None:
        """A node named the leader. Two that name each other must not keep us hopping without a pause."""
        self._hops += 1
        if self._hops <= len(self._known):
            self._leader = leader

    def failed(self, address: str, reason: str) -> None:
        """Transports name the address in their errors; here it stands before each."""
        reason = reason.removeprefix(f"cannot connect to {address}: ").removeprefix(f"{address}: ")
        self._faults.pop(address, None)
        self._faults[address] = reason
        while len(self._faults) > FAULTS_KEPT:
            del self._faults[next(iter(self._faults))]

    def arrived(self) -> None:
        """A session stands; the next search starts afresh."""
        self._pause_s, self._tried, self._hops = 0.0, 0, 0
        self._faults.clear()

    def why(self) -> str:
        return "; ".join(f"{address}: {reason}" for address, reason in self._faults.items()) or "no answer yet"

    def _grow(self) -> float:
        self._pause_s = min(PAUSE_MAX_S, self._pause_s * 2 or PAUSE_FIRST_S)
        self._hops = 0
        return self._pause_s * (0.5 + self._random.random() / 2)
