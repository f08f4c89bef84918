"""Decides how to repair damage, from the standings of all nodes (Alagappan et al., FAST'18; storage-rules 3 and 4).

Sans-IO: `decide` is a pure function from our own holding and the others' standings to one next step; `repairing`
carries it out and asks again. The rules, for a damaged entry (index, term):

* one node has it: take it. By log matching it is the same entry.
* a snapshot of another node stands for it: take that.
* it can never be committed: drop it, and what follows. There are three such cases. A node knows that another entry is
  committed in its place, or one of a later term in a log without it. Or *all* other voters never had it. Or a majority
  never had it and is in a later term already. The paper has a leader repair itself, and so a majority is enough. We
  repair before there is one. A majority of five without the entry may leave out a leader that has it and still counts
  the acknowledgement we gave before.
* otherwise wait, and say for whom.

If the end of the log is ambiguous, nobody can name what was lost. Then all other voters are asked for what they hold.
The log that is most up to date among them has everything that can be committed with our acknowledgement (§5.4.1). That
holds whoever leads, so that log is taken over. Where somebody leads already, that leader's log will do, in the ordinary
way.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from disheap.interfaces import Damage, Holding
from disheap.kernel.quorum import majority
from disheap.kernel.types import Index, NodeId, Term
from disheap.protocol.repair import Standing, Verdict

Standings = Mapping[NodeId, Standing]

MAX_ADOPTED_ENTRIES = 1000
"""The bound for entries adopted in one step. An answer holds fewer. It also bounds the work for a peer that claims to
have 2⁶⁰ entries."""


class Take(NamedTuple):
    """Fetch entries from `source` that replace damaged ones."""

    source: NodeId
    first: Index
    last: Index


class Cut(NamedTuple):
    """Drop the log from `first` on: no majority ever had those entries."""

    first: Index


class TakeSnapshot(NamedTuple):
    """Fetch a snapshot from `source` that reaches `needed` or further."""

    source: NodeId
    needed: Index


class Adopt(NamedTuple):
    """Replace our log from `first` on by the entries of `source`."""

    source: NodeId
    first: Index
    last: Index


class Settled(NamedTuple):
    """Nothing that was acknowledged is missing at the end of our log."""


class Follow(NamedTuple):
    """Somebody leads: catch up in the ordinary way. The end of the log stays ambiguous until then."""


class Done(NamedTuple):
    """Nothing is damaged."""


class Wait(NamedTuple):
    """Nothing can be decided yet. `missing` says for people what is waited for."""

    missing: str
    on: tuple[NodeId, ...]  # whose answer is missing or is no help


Step = Take | Cut | TakeSnapshot | Adopt | Settled | Follow | Done | Wait


def decide(own: Holding, others: Sequence[NodeId], standings: Standings) -> Step:
    """`others` are the voters besides us; `standings` what those who answered said."""
    if own.lost_snapshot is not None:
        return _find_snapshot(own.lost_snapshot.needed, "a snapshot", own, others, standings)
    if own.damaged:
        return _mend(own, others, standings)
    if own.ambiguous:
        return _settle(own, others, standings)
    return Done()


def without(own: Holding, taken: Container[int]) -> Holding:
    """Returns the holding without the damaged entries that were fetched already. A file is written anew when all its
    entries are there. Until then storage still counts them as damaged."""
    left: list[Damage] = []
    for place in own.damaged:
        for index in range(place.first, place.last + 1):
            if index in taken:
                continue
            if left and left[-1].file == place.file and left[-1].offset == place.offset and left[-1].last == index - 1:
                left[-1] = left[-1]._replace(last=Index(index))
            else:
                left.append(place._replace(first=Index(index), last=Index(index)))
    return own._replace(damaged=tuple(left))


# --- damaged entries -------------------------------------------------------------------------------------------------


def _mend(own: Holding, others: Sequence[NodeId], standings: Standings) -> Step:
    """Returns the next step: fetch what a node has, else handle the first damage that no node can repair."""
    for place in own.damaged:
        step = _take(place, standings)
        if step is not None:
            return step
    place = own.damaged[0]
    if _never_committed(place.first, place.term, others, standings):
        return Cut(place.first)
    which = f"entries {place.first} to {place.last}" if place.last > place.first else f"entry {place.first}"
    missing = f"{which} of term {place.term} ({place.file}, byte {place.offset})"
    if any(_verdict(place, standing) is Verdict.COMPACTED for standing in standings.values()):
        return _find_snapshot(place.first, missing, own, others, standings)
    return Wait(missing, tuple(node for node in others if not _denies(place, standings.get(node))))


def _take(place: Damage, standings: Standings) -> Take | None:
    """The first run of entries in this place that one node has."""
    for index in range(place.first, place.last + 1):
        for node, standing in standings.items():
            last = index - 1
            while last < place.last and standing.verdict(last + 1, place.term) is Verdict.HAVE:
                last += 1
            if last >= index:
                return Take(node, Index(index), Index(last))
    return None


def _verdict(place: Damage, standing: Standing) -> Verdict:
    return standing.verdict(place.first, place.term)


def _denies(place: Damage, standing: Standing | None) -> bool:
    return standing is not None and _verdict(place, standing) is Verdict.NEVER_HAD


def _never_committed(index: Index, term: Term, others: Sequence[NodeId], standings: Standings) -> bool:
    denying = [
        standings[node]
        for node in others
        if node in standings and standings[node].verdict(index, term) is Verdict.NEVER_HAD
    ]
    if any(standing.commit >= index or standing.commit_term > term for standing in denying):
        return True
    moved_on = sum(standing.term > term for standing in denying)
    return len(denying) == len(others) or moved_on >= majority(len(others) + 1)


# --- snapshots -------------------------------------------------------------------------------------------------------


def _find_snapshot(
    needed: Index, missing: str, own: Holding, others: Sequence[NodeId], standings: Standings
) -> TakeSnapshot | Wait:
    """Returns the source of the newest snapshot, which must reach the beginning of our log. A node that knows the entry
    as committed takes a snapshot when it is asked."""
    needed = Index(max(needed, own.first - 1))
    found = [(max(standing.snapshot, standing.commit), node) for node, standing in standings.items()]
    best = max((item for item in found if item[0] >= needed), default=None)
    if best is not None:
        return TakeSnapshot(best[1], needed)
    return Wait(f"{missing}, for which a snapshot at {needed} or later would do", tuple(others))


# --- an ambiguous end ------------------------------------------------------------------------------------------------


def _settle(own: Holding, others: Sequence[NodeId], standings: Standings) -> Step:
    if any(standing.has_leader for standing in standings.values()):
        return Follow()
    ambiguous = tuple(node for node in others if node not in standings or standings[node].ambiguous)
    if ambiguous:
        return Wait(f"whether there was anything behind entry {own.last}", ambiguous)
    best = max(standings.values(), key=_up_to_date)
    if _up_to_date(best) <= (own.runs[-1].term if own.runs else own.snapshot_term, own.last):
        return Settled()
    agreed = _agreed(own, best)
    if agreed is None:
        return _find_snapshot(Index(best.first - 1), "what others have compacted", own, others, standings)
    return _adopt(agreed + 1, best, others, standings)


def _up_to_date(standing: Standing) -> tuple[int, int]:
    return (standing.runs[-1][1] if standing.runs else standing.snapshot_term, standing.last)


def _agreed(own: Holding, other: Standing) -> int | None:
    """Returns the last index at which both logs have the same entry, or None if that is not known."""
    for index in range(min(own.last, other.last), max(own.first, other.first) - 1, -1):
        if own.term_at(index) == other.term_at(index):
            return index
    if other.first <= own.snapshot + 1:
        return own.snapshot
    return None


def _adopt(first: int, best: Standing, others: Sequence[NodeId], standings: Standings) -> Step:
    term = best.term_at(first)
    if term is None:  # the more up-to-date log goes on where the two agree, unless it is not as it was told
        return Wait(f"a log that goes on from entry {first}, where one was promised", tuple(others))
    for node, standing in standings.items():
        last, reach = first - 1, min(best.last, first + MAX_ADOPTED_ENTRIES)
        while last < reach and standing.verdict(last + 1, best.term_at(last + 1) or 0) is Verdict.HAVE:
            last += 1
        if last >= first:
            return Adopt(node, Index(first), Index(last))
    return Wait(
        f"entry {first} of term {term}, which is behind the end of our log and damaged elsewhere", tuple(others)
    )
