"""What clients saw, and whether it can have been a broker that keeps its word. Knows nothing of nodes and faults.

Each operation is noted with the time before it was sent and the time after it was answered. The outcome of one without
an answer is *unknown*: it may have happened at any time from then on, or never. A lease is (message id, epoch), and the
epochs of a message grow. From that alone follows what must never be seen:

- **lost**: an enqueue was acknowledged, and nobody ever tried to acknowledge or discard the message. The drain at the
  end does not find it.
- **doubled**: a message was delivered under a later epoch than one whose ack was confirmed. Or one payload went in once
  and came out under two ids.
- **two leases**: one (id, epoch) was given to two sessions. Or an ack was confirmed for an epoch, and a later one had
  been delivered before that ack was sent.
- **order**: one enqueue was answered before another was sent, and has the larger id. Or the drain, which is alone with
  the topic, does not come by priority, then id.
- **wrong**: a delivery has another priority or payload than what its id was enqueued with. Or an enqueue that was
  refused was delivered.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise


class Outcome(Enum):
    OK = "ok"
    REFUSED = "refused"  # certain: nothing was done
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Enqueue:
    payload: bytes
    priority: int
    sent: float
    answered: float = 0.0
    outcome: Outcome = Outcome.UNKNOWN
    id: int = 0


@dataclass(slots=True)
class Delivered:
    """`holder` names the session. `place` is the place in the drain, -1 outside of it."""

    holder: str
    id: int
    epoch: int
    priority: int
    payload: bytes
    at: float
    place: int = -1


@dataclass(slots=True)
class Settle:
    """An ack, or a discarding nack: after it the message is gone."""

    id: int
    epoch: int
    sent: float
    answered: float = 0.0
    outcome: Outcome = Outcome.UNKNOWN


@dataclass(slots=True)
class History:
    enqueues: list[Enqueue] = field(default_factory=list)
    deliveries: list[Delivered] = field(default_factory=list)
    settles: list[Settle] = field(default_factory=list)
    others: int = 0  # nacks, extensions, queries: counted, and judged by what follows them

    @property
    def operations(self) -> int:
        return len(self.enqueues) + len(self.deliveries) + len(self.settles) + self.others

    def longest_gap_s(self, begin: float, end: float) -> tuple[float, float]:
        """The longest time without a confirmed enqueue or ack, and when it began."""
        answered = [entry.answered for entry in self.enqueues if entry.outcome is Outcome.OK]
        answered += [entry.answered for entry in self.settles if entry.outcome is Outcome.OK]
        times = sorted([begin, *(at for at in answered if begin <= at <= end), end])
        return max((after - before, before) for before, after in pairwise(times))


@dataclass(slots=True)
class Verdict:
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    two_leases: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        return [*self.lost, *self.doubled, *self.two_leases, *self.order, *self.wrong]


def judge(history: History) -> Verdict:
    """The history must be whole: everything healed, then drained until nothing is left."""
    verdict = Verdict()
    _check_kept(history, verdict)
    _check_contents(history, verdict)
    _check_leases(history, verdict)
    _check_enqueue_order(history, verdict)
    _check_drain_order(history, verdict)
    return verdict


def _check_kept(history: History, verdict: Verdict) -> None:
    settled = {entry.id for entry in history.settles if entry.outcome is not Outcome.REFUSED}
    for entry in history.enqueues:
        if entry.outcome is Outcome.OK and entry.id not in settled:
            verdict.lost.append(f"message {entry.id} {entry.payload!r} was acknowledged at {entry.answered:.3f}")


def _check_contents(history: History, verdict: Verdict) -> None:
    by_payload = {entry.payload: entry for entry in history.enqueues}
    ids: dict[bytes, int] = {entry.payload: entry.id for entry in history.enqueues if entry.outcome is Outcome.OK}
    for got in history.deliveries:
        entry = by_payload.get(got.payload)
        if entry is None or entry.priority != got.priority or entry.sent > got.at:
            verdict.wrong.append(f"message {got.id} came as {got.payload!r} of priority {got.priority}")
        elif entry.outcome is Outcome.REFUSED:
            verdict.wrong.append(f"the refused {got.payload!r} was delivered as message {got.id}")
        elif ids.setdefault(got.payload, got.id) != got.id:
            verdict.doubled.append(f"{got.payload!r} is there as message {ids[got.payload]} and as {got.id}")


def _check_leases(history: History, verdict: Verdict) -> None:
    granted: dict[int, list[Delivered]] = defaultdict(list)
    holders: dict[tuple[int, int], str] = {}
    for got in history.deliveries:
        granted[got.id].append(got)
        holder = holders.setdefault((got.id, got.epoch), got.holder)
        if holder != got.holder:
            verdict.two_leases.append(f"lease {(got.id, got.epoch)} is held by {holder} and by {got.holder}")
    for entry in history.settles:
        if entry.outcome is not Outcome.OK:
            continue
        for got in granted[entry.id]:
            if got.epoch <= entry.epoch:
                continue
            verdict.doubled.append(f"message {entry.id} came in epoch {got.epoch} after its ack in {entry.epoch}")
            if got.at < entry.sent:
                verdict.two_leases.append(f"lease {(entry.id, entry.epoch)} was acked while {got.epoch} was live")


def _check_enqueue_order(history: History, verdict: Verdict) -> None:
    """Going through the enqueues as they were sent: none may have an id below one that was answered before."""
    confirmed = [entry for entry in history.enqueues if entry.outcome is Outcome.OK]
    answers = sorted(confirmed, key=lambda entry: entry.answered)
    highest, place = 0, 0
    for entry in sorted(confirmed, key=lambda entry: entry.sent):
        while answers[place].answered < entry.sent:
            highest = max(highest, answers[place].id)
            place += 1
        if entry.id <= highest:
            verdict.order.append(f"message {entry.id} was sent after {highest} was acknowledged")


def _check_drain_order(history: History, verdict: Verdict) -> None:
    drained = sorted((got for got in history.deliveries if got.place >= 0), key=lambda got: got.place)
    for before, after in pairwise(drained):
        if (-before.priority, before.id) >= (-after.priority, after.id):
            verdict.order.append(
                f"the drain gave message {before.id} of priority {before.priority} before {after.id} of "
                f"{after.priority}"
            )
