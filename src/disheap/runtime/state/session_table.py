"""One session as every replica knows it, and how many of them an address and a certificate name have.

Owns the record and the proof that a client owns the session. Does not decide when a session begins or ends: `sessions`
does that, as entries are applied. A record is never changed while a view of the table holds it: `sessions` copies it
first.

The secret itself is in no log and no snapshot. The leader draws it and gives it to the client; the record has its hash.
So a copied log or a backup does not give access to a session.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable

import msgspec

from disheap.addresses import owner_of
from disheap.errors import WrongSecret
from disheap.protocol.frames import Attaching, Opening, Status

Kept = tuple[int, int, bytes]
"""A kept reply: log index, status, body."""

HINT = "`disheap session ls` shows them, `disheap session end` ends them"
REPLY_BYTES = 200
"""The memory of a kept reply besides its body: a tuple, two numbers, an entry in a dict, a header."""

REFUSAL_BYTES = 200
"""Counted for the body of a refusal, whatever its text says. The text may come from a library, and releases may word it
differently. The count decides whether a command is applied, so it has to be the same on every replica."""

SESSION_BYTES = 750
"""The memory of a session besides its replies: two objects, a dict, its proof and label, entries in five dicts."""

_PURPOSE = b"disheap session"  # a hash made for anything else is no proof here


def memory_of(kept: Kept) -> int:
    """What a kept reply counts, in bytes."""
    _, status, body = kept
    return REPLY_BYTES + (len(body) if status == Status.OK else REFUSAL_BYTES)


class SessionLimits(msgspec.Struct, frozen=True):
    """The bounds of the session table, from `[limits]`. All nodes have to have the same."""

    window: int = 8192
    reply_bytes: int = 16 << 20
    max_reply_bytes: int = 128 << 20  # over all sessions; and one reply more for each
    sessions: int = 10_000
    timeout_min_ms: int = 1_000
    timeout_max_ms: int = 86_400_000
    reattach_timeout_ms: int = 3_000
    work: int = 10_000


def proof_of(secret: bytes) -> bytes:
    """Returns 32 bytes. A secret of 128 random bits cannot be computed from them, so no salt and no slow hash are
    needed."""
    return hashlib.blake2b(secret, digest_size=32, person=_PURPOSE).digest()


class SessionFacts(msgspec.Struct, array_like=True, frozen=True):
    """The fields of a session that never change."""

    id: int
    timeout_ms: int  # of silence on a connection that stands
    reattach_ms: int  # without a connection, after the client closed its last one
    label: str  # for people to read
    principal: str  # the name that the client's certificate proved; "" without one
    opened_ms: int  # log time
    proof: bytes


class Session:
    """One session. `attachment` is 0 while it has no connection. `address` is where it attached last. `view` numbers
    the newest view of the table that does not hold this object."""

    __slots__ = ("address", "attachment", "confirmed", "facts", "id", "replies", "reply_bytes", "view")

    def __init__(self, facts: SessionFacts, address: str = "", view: int = 0) -> None:
        self.id = facts.id
        self.facts = facts
        self.address = address
        self.attachment = 0
        self.confirmed = 0
        self.replies: dict[int, Kept] = {}
        self.reply_bytes = 0  # of memory, for the replies kept
        self.view = view

    def copied(self, view: int) -> Session:
        """Returns a copy that may change, while the view `view` holds this object."""
        copy = Session(self.facts, self.address, view)
        copy.attachment, copy.confirmed, copy.replies = self.attachment, self.confirmed, self.replies.copy()
        copy.reply_bytes = self.reply_bytes
        return copy

    def knows(self, seq: int) -> bool:
        """Whether the command was carried out."""
        return seq <= self.confirmed or seq in self.replies

    def belongs_to(self, claim: Attaching) -> bool:
        """Whether the claim proves the secret, under the name that opened the session. Takes the same time for every
        wrong secret."""
        is_secret = hmac.compare_digest(claim.proof, self.facts.proof)
        return is_secret and claim.principal == self.facts.principal

    def keep(self, seq: int, kept: Kept) -> int:
        """Keep a reply. Returns the bytes of memory that it takes."""
        self.replies[seq] = kept
        size = memory_of(kept)
        self.reply_bytes += size
        return size

    def confirm(self, confirmed: int) -> int:
        """Forget the replies that the client has. Returns the bytes of memory that they took."""
        replies, before, freed_bytes = self.replies, self.reply_bytes, 0
        if confirmed - self.confirmed > len(replies):
            self.replies = {seq: kept for seq, kept in replies.items() if seq > confirmed}
            self.reply_bytes = sum(map(memory_of, self.replies.values()))
        else:
            for seq in range(self.confirmed + 1, confirmed + 1):
                kept = replies.pop(seq, None)
                if kept is not None:
                    freed_bytes += memory_of(kept)
            self.reply_bytes = before - freed_bytes
        self.confirmed = confirmed
        return before - self.reply_bytes


def granted(opening: Opening, number: int, opened_ms: int, limits: SessionLimits) -> SessionFacts:
    """Returns the facts of a new session, with the timeouts in their bounds. A short session timeout shortens the time
    for a new attach as well."""
    timeout_ms = min(max(opening.timeout_ms, limits.timeout_min_ms), limits.timeout_max_ms)
    reattach_ms = min(limits.reattach_timeout_ms, max(1, timeout_ms // 2))
    return SessionFacts(number, timeout_ms, reattach_ms, opening.label, opening.principal, opened_ms, opening.proof)


def owner_of_address(address: str) -> str:
    """Returns under which owner sessions of this address are counted. For IPv6 it is the network, because a client has
    many addresses."""
    return owner_of(f"{address}:0") or address


class SessionCounts:
    """How many sessions each owner of an address and each principal has. Follows from the table, so it is in no
    snapshot."""

    def __init__(self, sessions: Iterable[Session] = ()) -> None:
        self.by_address: Counter[str] = Counter()
        self.by_principal: Counter[str] = Counter()
        self._total = 0
        for session in sessions:
            self.opened(session)

    def total(self) -> int:
        """Returns how many sessions there are."""
        return self._total

    def opened(self, session: Session) -> None:
        """Count a new session."""
        self._total += 1
        self.by_address[owner_of_address(session.address)] += 1
        self.by_principal[session.facts.principal] += 1

    def ended(self, session: Session) -> None:
        """Stop counting a session that has ended."""
        self._total -= 1
        _take_one(self.by_address, owner_of_address(session.address))
        _take_one(self.by_principal, session.facts.principal)

    def moved(self, session: Session, address: str) -> None:
        """The session attached from `address`."""
        if address != session.address:
            _take_one(self.by_address, owner_of_address(session.address))
            self.by_address[owner_of_address(address)] += 1


def _take_one(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


def wrong_secret(number: int) -> WrongSecret:
    """Returns the error for an ATTACH whose secret is not that of the session."""
    return WrongSecret(
        f"session {number} was opened with another secret or under another certificate name; it is unchanged. Open a "
        "new session"
    )
