"""What a kernel makes of the messages that it hears, looked at one by one (Raft Figure 2; dissertation §6.2, §9.6).

The rules for all servers and for leaders that a wrong kernel may break for a long time before anybody sees a wrong log:

- a later term is entered, and an answer of an earlier one changes nothing
- any message of this term's leader starts the follower's timer again. Under a live leader a vote request raises the
  term only if the leader's newest heartbeat names the candidate as transfer target
- what a leader believes of a peer's log is on that peer's disk
- a leader that no majority was heard by, or is heard from, for two election timeouts leads no more
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from disheap.kernel.raft import Raft
from disheap.kernel.types import (
    AppendReply,
    AppendRequest,
    Heartbeat,
    HeartbeatReply,
    Message,
    Role,
    SnapshotReply,
    SnapshotRequest,
    VoteReply,
    VoteRequest,
)
from disheap.testing.simulator.checks.durable_model import DurableModel

Require = Callable[[bool, str], None]
_FROM_A_LEADER = (AppendRequest, Heartbeat, SnapshotRequest)
_TO_A_LEADER = (AppendReply, HeartbeatReply, SnapshotReply)


class Before(NamedTuple):
    """How a kernel stood when a message came."""

    term: int
    match: int  # what a leader believes the sender to hold
    led_by_another: bool  # it follows somebody, and heard of it within the least election timeout
    leads: bool


class MessageChecker:
    """For one incarnation of one node. `before` and `after` each message, `ticked` after each tick."""

    def __init__(self, node: int, raft: Raft, election_ticks: int, require: Require) -> None:
        self._node = node
        self._raft = raft
        self._election_ticks = election_ticks
        self._require = require
        self._ticks = 0
        self._leader_heard_at = -election_ticks
        self._successor: tuple[int, int] = (0, 0)  # (term, node that its leader hands over to), by the newest heartbeat
        self._heard: dict[int, int] = {}  # by peer, in ticks: an answer in this term
        self._led_since = 0
        self._led: tuple[int, list[int]] = (0, [])  # (term, voters) since then

    def before(self, message: Message) -> Before:
        """Notes what a message could change, before the kernel takes it."""
        raft = self._raft
        match = _match(raft, message.source) if isinstance(message, AppendReply) else 0
        fresh = self._ticks - self._leader_heard_at < self._election_ticks
        led_by_another = raft.role is Role.FOLLOWER and raft.leader != 0 and fresh
        return Before(int(raft.term), match, led_by_another, raft.is_leader)

    def after(self, message: Message, before: Before, durable: DurableModel | None) -> None:
        """`durable` is of the sender's disk; None if it may have lost something."""
        raft, what = self._raft, f"node {self._node}: {type(message).__name__} of term {message.term}"
        if isinstance(message, VoteRequest):
            self._check_lease(message, before, what)
            return
        if isinstance(message, Heartbeat) and message.term == raft.term:  # an earlier leader's may come late
            self._successor = (int(message.term), int(message.transferee))
        if not (isinstance(message, VoteReply) and message.pre):
            self._require(raft.term >= message.term, f"{what} leaves it in term {raft.term}")
        if isinstance(message, _FROM_A_LEADER) and message.term == raft.term and raft.role is Role.FOLLOWER:
            self._leader_heard_at = self._ticks
            self._require(raft._state.elapsed == 0, f"{what} does not start its timer again")
        elif isinstance(message, _TO_A_LEADER) and message.term == raft.term:
            self._heard[message.source] = self._ticks
        if isinstance(message, AppendReply):
            self._check_match(message, before, durable, what)

    def _check_lease(self, message: VoteRequest, before: Before, what: str) -> None:
        """A leader knows by itself whom it hands over to; what it said of it is the least that others know."""
        is_meant = message.transfer and (before.leads or self._successor == (before.term, message.source))
        if (before.led_by_another or before.leads) and not is_meant:
            self._require(int(self._raft.term) == before.term, f"{what} raises its term under a live leader")

    def _check_match(self, message: AppendReply, before: Before, durable: DurableModel | None, what: str) -> None:
        raft = self._raft
        match = _match(raft, message.source)
        if message.term < before.term:
            self._require(match == before.match, f"{what} counts in term {before.term}")
        elif message.success and before.term == raft.term and raft.is_leader:
            self._require(match >= before.match, f"{what} moves what it knows of the sender back to {match}")
        term = raft.term_at(match) if match and raft.is_leader else None  # type: ignore[arg-type]
        if durable is not None and term is not None and durable.hard_state.term <= raft.term:
            # in a later term it may have overwritten since what it held when it answered: to a leader that was frozen
            self._require(durable.holds(match, term), f"{what}: believes the sender to hold {match}, which it does not")

    def ticked(self) -> None:
        """Checks after each tick that a leader still hears a majority."""
        raft = self._raft
        self._ticks += 1
        if not raft.is_leader:
            return
        voters = [int(member.id) for member in raft.membership.members if member.voter]
        if self._led != (raft.term, voters):
            self._led, self._led_since = (int(raft.term), voters), self._ticks
        recently = self._ticks - 2 * self._election_ticks - 1
        if recently < self._led_since:
            return
        heard = [one for one in voters if one == self._node or self._heard.get(one, 0) >= recently]
        self._require(
            2 * len(heard) > len(voters),
            f"node {self._node}: leads term {raft.term}, and has heard {heard} of {voters} only for two timeouts",
        )


def _match(raft: Raft, peer: int) -> int:
    progress = raft._state.progress.get(peer)  # type: ignore[call-overload]
    return int(progress.match) if progress is not None else 0
