"""Decides where to connect, and when. Attempts overlap until one node accepts (RFC 8305 does so with addresses).

Owns the addresses, the order, the pauses, and which attempts are under way. It knows no clock and no socket: drivers
give the time, make the attempts it names, and tell it how each ended.

A search goes in rounds. A round tries each address once. The next attempt starts `OVERLAP_S` after the one before, or
at once when that one has failed. An attempt that hangs is not cancelled by this. A node that names the leader makes
that the next address. After a round comes a pause, which grows from round to round. An address with an attempt still
under way is left out of a round: a frozen host gets one connection, however long the search takes.

A session that waits for a connection lapses after its timeout. While there is one, an attempt and a pause each take a
part of that timeout at most. A packet that was lost to a short cut is sent again by TCP after 1 s, 3 s and 7 s. A new
attempt does not wait for that.

A wrong address among several does not end a search: what answers there is no node, or a node of another cluster or
release. If every address is wrong, waiting longer is of no use.

The first address is the one where this process had its last session for the same URL. The others follow in random
order, so that clients do not all come to the same node. Nodes that were lost come last.
"""

from __future__ import annotations

import random
from math import inf
from typing import NamedTuple, TypeVar

from disheap.errors import ConnectionLost, ProtocolError

T = TypeVar("T")

OVERLAP_S = 0.25
"""How long an attempt is alone before the next one starts. RFC 8305 recommends 250 ms: longer than nearly every round
trip, short enough that three dead hosts cost less than a second."""
PAUSE_FIRST_S = 0.02
"""The first pause between two rounds: an election takes a second or two, so be there early."""
PAUSE_MAX_S = 0.5
"""The longest pause: the price of a dead cluster is two rounds a second."""
ATTEMPT_PARTS = 4
"""An attempt takes this part of the timeout of a session that waits, at most."""
PAUSE_PARTS = 6
"""A pause likewise. So an attempt that hangs, a pause, and the next attempt fit into half of the timeout."""
FAULTS_MAX = 8
"""Reasons kept for the error message."""
REMEMBERED_MAX = 256
"""URLs whose last node a process remembers; the oldest is forgotten."""


class LastNodes:
    """For each set of addresses, the one that took the last session, and the members that a node named last. Shared by
    the clients of one process."""

    def __init__(self) -> None:
        self._address: dict[frozenset[str], str] = {}
        self._members: dict[frozenset[str], list[str]] = {}

    def get(self, addresses: tuple[str, ...]) -> str:
        """Returns "" if there is none."""
        return self._address.get(frozenset(addresses), "")

    def remember(self, addresses: tuple[str, ...], address: str) -> None:
        """The node at `address` has taken a session."""
        _put(self._address, frozenset(addresses), address)

    def forget(self, addresses: tuple[str, ...], address: str) -> None:
        """The node at `address` was lost."""
        if self.get(addresses) == address:
            self._address.pop(frozenset(addresses), None)

    def members(self, addresses: tuple[str, ...]) -> list[str]:
        """Returns the client addresses of all members, as a node has named them last; [] if none has."""
        return self._members.get(frozenset(addresses), [])

    def learned(self, addresses: tuple[str, ...], members: list[str]) -> None:
        """A node has named the members."""
        _put(self._members, frozenset(addresses), members)

    def clear(self) -> None:
        """Forget all of it: every address may belong to another cluster now."""
        self._address.clear()
        self._members.clear()


def _put(known: dict[frozenset[str], T], key: frozenset[str], value: T) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > REMEMBERED_MAX:
        known.pop(next(iter(known)), None)


class Finding(NamedTuple):
    """What was found at an address: the code of an error, and its text."""

    code: str
    text: str


class Route:
    """`budget_s` bounds one attempt, from the dialing to the node's answer. Times are the caller's, in seconds.
    `session_s` is the timeout of a session that waits for a connection; infinite without one."""

    def __init__(
        self,
        addresses: tuple[str, ...],
        generator: random.Random,
        budget_s: float = 5.0,
        last_nodes: LastNodes | None = None,
    ) -> None:
        self._seeds = addresses
        self._known = list(addresses)
        self._random = generator
        self._budget_s = budget_s
        self._last_nodes = last_nodes or LastNodes()
        self._under_way: dict[str, float] = {}  # address -> when its attempt is given up
        self._round: list[str] | None = None  # not tried yet in this round; None before the first
        self._next_at = -inf
        self._pause_s = 0.0
        self._hops = 0
        self._lost: dict[str, None] = {}  # where a session stood and was lost
        self._faults: dict[str, Finding] = {}
        self._wrong: set[str] = set()  # where the last attempt found no node of ours

    # --- what to do ---

    def due(self, now: float, session_s: float = inf) -> str | None:
        """The address of an attempt to start now. It counts as under way from here on. Call it until it is None."""
        if now < self._next_at:
            return None
        if self._round is None:
            self._round = self._order()
        elif not self._round:
            self._round = self._order()
            self._next_at = now + self._grow_pause(session_s)
            return None
        if not self._round:
            return None
        address = self._round.pop(0)
        self._under_way[address] = now + self.attempt_s(session_s)
        self._next_at = now + OVERLAP_S
        return address

    def attempt_s(self, session_s: float) -> float:
        """How long an attempt may take."""
        return min(self._budget_s, session_s / ATTEMPT_PARTS)

    def overdue(self, now: float) -> list[str]:
        """The attempts to give up: tell `failed` of each."""
        return [address for address, until in self._under_way.items() if until <= now]

    def wait_s(self, now: float) -> float:
        """Seconds until there is something to do, unless an attempt ends before."""
        return max(0.0, min([self._next_at, *self._under_way.values()]) - now)

    # --- what happened ---

    def failed(self, address: str, reason: str, now: float, code: str = ConnectionLost.code) -> None:
        """An attempt did not get a session's connection: the next one may start at once. `code` is what a node
        answered."""
        self._under_way.pop(address, None)
        self._wrong.discard(address)
        self._note(address, reason, code)
        self._next_at = min(self._next_at, now)

    def rejected(self, address: str, error: ProtocolError) -> ProtocolError | None:
        """Notes an attempt that has `failed`, because what answered is no node of ours. Returns the error that ends the
        client if every address is wrong; otherwise None."""
        self._wrong.add(address)
        self._note(address, str(error), error.code)
        if not self._wrong.issuperset(self._known):
            return None
        return type(error)(self.why() if len(self._known) == 1 else f"no address is right: {self.why()}")

    def moved(self, leader: str, now: float) -> None:
        """A node named the leader. Two that name each other must not keep us hopping without a pause."""
        if not leader:
            return
        self._hops += 1
        if leader in self._under_way or self._hops > len(self._known):
            return
        waiting = self._order() if self._round is None else self._round
        self._round = [leader, *(address for address in waiting if address != leader)]
        self._next_at = min(self._next_at, now)

    def won(self) -> None:
        """An attempt has become the connection. The others are over."""
        self._under_way.clear()

    def lost(self, address: str, reason: str, now: float, code: str = ConnectionLost.code) -> None:
        """The connection is gone: a search begins, and comes to this address last."""
        self._note(address, reason, code)
        self._lost[address] = None
        self._last_nodes.forget(self._seeds, address)
        self._next_at = now

    def arrived(self, address: str) -> None:
        """A session stands; the next search starts afresh."""
        self._round, self._pause_s, self._hops = None, 0.0, 0
        self._faults.clear()
        self._wrong.clear()
        self._lost.pop(address, None)
        self._last_nodes.remember(self._seeds, address)

    def learned(self, members: list[str]) -> None:
        """The addresses of all members, as a node names them. Those of the URL stay: they may be names that outlive
        nodes. The other clients of the process learn them, too."""
        self._last_nodes.learned(self._seeds, [address for address in dict.fromkeys(members) if address])
        self._follow()

    def known(self) -> list[str]:
        """Returns the addresses of the URL, and those of all members that are known."""
        self._follow()
        return list(self._known)

    def why(self) -> str:
        """What was found at each address, as text."""
        return "; ".join(f"{address}: {found.text}" for address, found in self._findings().items()) or "no answer yet"

    def no_session(self) -> ConnectionLost:
        """The error of a search that took too long. It says what was found at each address."""
        error = ConnectionLost(f"no node takes a session: {self.why()}")
        error.found = {address: found.code for address, found in self._findings().items()}
        return error

    # --- below ---

    def _follow(self) -> None:
        """Take over what this client, or another one of this process, has learned last."""
        members = self._last_nodes.members(self._seeds)
        self._known = list(dict.fromkeys((*self._seeds, *members)))
        for address in [one for one in self._lost if one not in self._known]:
            del self._lost[address]

    def _order(self) -> list[str]:
        addresses = self.known()
        self._random.shuffle(addresses)
        last = self._last_nodes.get(self._seeds)
        if last and last not in addresses:  # a member that another client of this process learned
            addresses.append(last)
        addresses.sort(key=lambda address: (address in self._lost, address != last))
        return [address for address in addresses if address not in self._under_way]

    def _findings(self) -> dict[str, Finding]:
        hanging = Finding(ConnectionLost.code, "no answer yet")
        return self._faults | {address: hanging for address in self._under_way if address not in self._faults}

    def _note(self, address: str, reason: str, code: str) -> None:
        """Transports name the address in their errors; here it stands before each."""
        reason = reason.removeprefix(f"cannot connect to {address}: ").removeprefix(f"{address}: ")
        self._faults.pop(address, None)
        self._faults[address] = Finding(code, reason)
        while len(self._faults) > FAULTS_MAX:
            del self._faults[next(iter(self._faults))]

    def _grow_pause(self, session_s: float) -> float:
        self._pause_s = min(PAUSE_MAX_S, session_s / PAUSE_PARTS, self._pause_s * 2 or PAUSE_FIRST_S)
        self._hops = 0
        return self._pause_s * (0.5 + self._random.random() / 2)
