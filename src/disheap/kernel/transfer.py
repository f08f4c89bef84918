"""Leadership transfer (dissertation §3.10). One at a time. It lasts an election timeout at most, and then proposals
flow again (pitfall 23). The target is brought up to date first. Then the voters are told of the transfer, and the
target is told to campaign. Voters let it through only while the leader's last heartbeat names it.
"""

from __future__ import annotations

from disheap.errors import InvalidArgument
from disheap.kernel import replication
from disheap.kernel.state import State
from disheap.kernel.types import NOBODY, NodeId, TimeoutNow


def begin(state: State, target: NodeId) -> None:
    """Start to hand leadership to `target`. Raises an error if that is not possible."""
    target = target if target != NOBODY else _most_caught_up(state)
    if target not in state.members.voters:
        raise InvalidArgument(f"node {target} is no voter and cannot lead")
    if target in (state.id, state.transferee):
        return
    state.transferee = target
    state.transfer_elapsed = 0
    state.transfer_sent = False


def send(state: State) -> None:
    """The target holds the whole log: it may campaign."""
    progress = state.progress.get(state.transferee)
    if progress is not None and not state.transfer_sent and progress.match == state.log.last_index:
        state.transfer_sent = True
        replication.broadcast_heartbeats(state)
        _ask(state)


def tick(state: State) -> None:
    """Give the transfer up after an election timeout."""
    if state.transferee == NOBODY:
        return
    state.transfer_elapsed += 1
    if state.transfer_elapsed >= state.config.election_ticks:
        state.transfer_failed = state.transferee
        state.transferee = NOBODY
        state.transfer_sent = False
        replication.broadcast_heartbeats(state)  # nobody is to be let through any more
    elif state.transfer_sent and state.transfer_elapsed % state.config.heartbeat_ticks == 0:
        _ask(state)  # a voter may have heard of the target before it heard of the transfer


def _ask(state: State) -> None:
    state.send(TimeoutNow(state.id, state.transferee, state.term))


def _most_caught_up(state: State) -> NodeId:
    others = [voter for voter in state.members.voters if voter != state.id]
    if not others:
        raise InvalidArgument("there is no other voter to hand leadership to")
    return max(others, key=lambda voter: _fitness(state, voter))


def _fitness(state: State, voter: NodeId) -> tuple[bool, bool, int, int]:
    """Who did not take leadership when asked comes after those who may: a node can be up to date and not be able to."""
    progress = state.progress[voter]
    return progress.active, voter != state.transfer_failed, progress.match, -voter
