"""How many sessions one client may have, decided by the leader before an OPEN goes into the log.

Each session holds a record on every node, so one client must not take all of them. A client is recognised by its
address and by the name of its certificate. Both stand in the session table, so every leader counts the same. The counts
have no part in how the log is applied, so limits may differ from node to node.

The last `reserved_sessions` are for clients with few sessions, such as an operator's. So other clients cannot lock them
out. The node's own sessions are not limited.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from disheap.errors import LimitReached
from disheap.runtime.state.session_table import HINT, SessionCounts, owner_of_address

FEW = 10
"""Sessions of a client that may use the reserve: an operator's commands, and a worker with its producers."""


class PendingOpens:
    """Counts the OPENs without an answer. Their sessions are not in the table yet."""

    def __init__(self) -> None:
        self.owners: Counter[str] = Counter()
        self.principals: Counter[str] = Counter()
        self.total = 0

    def add(self, address: str, principal: str, count: int = 1) -> None:
        """Count an OPEN. A `count` of -1 removes one that has its answer, or whose connection is gone."""
        self.total += count
        for counter, key in ((self.owners, owner_of_address(address)), (self.principals, principal)):
            counter[key] += count
            if not counter[key]:
                del counter[key]


class AdmissionLimits(msgspec.Struct, frozen=True):
    """From `[limits]`: how many sessions there may be in all, and from one address or one certificate name."""

    sessions: int = 10_000
    max_sessions_per_address: int = 2_500
    max_sessions_per_principal: int = 5_000
    reserved_sessions: int = 500

    def check(self, counts: SessionCounts, under_way: PendingOpens, address: str, principal: str) -> None:
        """Raises `LimitReached` if the client may not have another session now."""
        owner = owner_of_address(address)
        here = counts.by_address[owner] + under_way.owners[owner]
        if here >= self.max_sessions_per_address:
            raise _too_many(f"{owner} has {here} sessions", "max_sessions_per_address")
        if principal:
            named = counts.by_principal[principal] + under_way.principals[principal]
            if named >= self.max_sessions_per_principal:
                raise _too_many(f"the certificate {principal!r} has {named} sessions", "max_sessions_per_principal")
        total = counts.total() + under_way.total
        if total >= self.sessions - self.reserved_sessions and here >= FEW:
            raise _too_many(
                f"the cluster has {total} sessions, and the rest is for clients with less than {FEW}",
                "reserved_sessions",
            )


def _too_many(what: str, setting: str) -> LimitReached:
    return LimitReached(f"{what}, which is the limit (limits.{setting}); close some first: {HINT}")


def host_of(remote: str) -> str:
    """The address without the port, where there is one: `10.0.0.7:51234`, `[::1]:51234`."""
    host, colon, port = remote.rpartition(":")
    return host if colon and port.isdigit() else remote
