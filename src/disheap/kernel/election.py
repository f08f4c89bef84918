"""Leader election (Raft §5.2, §5.4.1; pre-vote and leader stickiness: dissertation §4.2.3, §9.6). Decides votes.

A node votes by what the candidate's log holds, never by its own idea of who is a member. That idea may be stale
(pitfall 8). Whose votes count is the candidate's business. A node whose log may have lost its end takes no part.
"""

from __future__ import annotations

from disheap.kernel import quorum
from disheap.kernel.quorum import Outcome
from disheap.kernel.state import State
from disheap.kernel.types import NOBODY, HardState, NodeId, Role, Term, TimeoutNow, VoteReply, VoteRequest


def tick(state: State) -> None:
    """A follower's or candidate's clock. A node that is the only voter has nobody to wait for."""
    state.elapsed += 1
    is_alone = state.role is Role.FOLLOWER and state.leader == NOBODY and state.members.voters == (state.id,)
    if (state.elapsed >= state.timeout or is_alone) and state.may_campaign:
        campaign(state)


def campaign(state: State) -> None:
    """Start an election: with a pre-vote if the configuration asks for one (dissertation §9.6)."""
    if state.config.pre_vote:
        _ask_first(state, transfer=False)
    else:
        _campaign_in_new_term(state, transfer=False)


def on_vote_request(state: State, message: VoteRequest) -> None:
    """Answer a vote or a pre-vote. A granted vote is durable before its answer is sent (§5.2, §5.4.1)."""
    granted = _may_vote(state, message)
    if granted and not message.pre:
        state.outbox.set_hard_state(state.term, message.source)
        state.restart_timer()
    # A granted pre-vote answers in the term that was asked for, a refusal in ours, to bring a stale asker up to it.
    term = message.term if granted and message.pre else state.term
    state.send(VoteReply(state.id, message.source, term, granted, message.pre, message.round))


def refuse_stale(state: State, message: VoteRequest) -> None:
    """Refuse a request of an older term, and let the sender know the term of this node."""
    state.send(VoteReply(state.id, message.source, state.term, granted=False, pre=message.pre, round=message.round))


def on_vote_reply(state: State, message: VoteReply) -> None:
    """A pre-vote does not change the term, so its round tells a late answer from one that is asked for."""
    if message.pre:
        is_current = message.round == state.campaign_round
        is_for_us = not message.granted or message.term == state.term + 1
        expected = state.role is Role.PRECANDIDATE and is_current and is_for_us
    else:
        expected = state.role is Role.CANDIDATE
    if expected:
        _count(state, message.source, message.granted)


def on_timeout_now(state: State, message: TimeoutNow) -> None:
    """The leader hands over (dissertation §3.10).

    The dissertation goes to a new term at once. Here a pre-vote comes first. The schedule that it prevents: the
    message waits unread, the leader gives the transfer up, and then a target in a new term deposes it. It costs a round
    trip and no write.

    The leader repeats the message, since voters may have heard of the target before they heard of the transfer. Then
    they are asked again in the same round, so that answers under way still count."""
    if state.role is Role.PRECANDIDATE and state.is_asked_to_lead:
        _request_votes(state, Term(state.term + 1), pre=True, transfer=True)
        return
    is_voter = state.id in state.members.voters
    if state.role is Role.FOLLOWER and message.source == state.leader and is_voter and state.may_campaign:
        _ask_first(state, transfer=True)


def on_persisted(state: State) -> None:
    """Our own vote counts once it is durable, like any other (pitfall 1)."""
    if state.role is Role.CANDIDATE and state.outbox.durable == HardState(state.term, state.id):
        _count(state, state.id, granted=True)


def is_leader_alive(state: State) -> bool:
    """Whether a leader was heard within the shortest election timeout: then nobody else is let through (§4.2.3)."""
    return state.config.check_quorum and state.leader != NOBODY and state.elapsed < state.config.election_ticks


def is_held_back(state: State, message: VoteRequest) -> bool:
    """While a leader is alive only the node that it hands over to is let through, and only as long as it does."""
    return is_leader_alive(state) and not (message.transfer and message.source == _successor(state))


def _successor(state: State) -> NodeId:
    """The node that leadership is handed to, as the leader knows it and as the others heard it last."""
    if state.role is Role.LEADER:
        return state.transferee if state.transfer_sent else NOBODY
    return state.handing_over_to


def _may_vote(state: State, message: VoteRequest) -> bool:
    if state.ambiguous_after is not None:
        return False
    is_free = state.vote == NOBODY and state.leader == NOBODY
    if not (state.vote == message.source or is_free or (message.pre and message.term > state.term)):
        return False
    return state.log.is_not_ahead_of(message.last_index, message.last_term)


def _ask_first(state: State, transfer: bool) -> None:
    state.become_precandidate(transfer)
    _request_votes(state, Term(state.term + 1), pre=True, transfer=transfer)
    _count(state, state.id, granted=True)  # it makes no promise, so nothing has to be durable


def _campaign_in_new_term(state: State, transfer: bool) -> None:
    state.become_candidate()
    _request_votes(state, state.term, pre=False, transfer=transfer)


def _request_votes(state: State, term: Term, pre: bool, transfer: bool) -> None:
    last_index, last_term = state.log.last_index, state.log.last_term
    for voter in state.members.voters:
        if voter != state.id:
            round = state.campaign_round if pre else 0
            state.send(VoteRequest(state.id, voter, term, last_index, last_term, pre, transfer, round))


def _count(state: State, voter: NodeId, granted: bool) -> None:
    """The first answer of each counts; only voters do."""
    state.votes.setdefault(voter, granted)
    match quorum.outcome(state.members.voter_sets, state.votes):
        case Outcome.WON if state.role is Role.PRECANDIDATE:
            _campaign_in_new_term(state, transfer=state.is_asked_to_lead)
        case Outcome.WON:
            state.become_leader()
        case Outcome.LOST:
            state.become_follower(state.term, NOBODY)
        case Outcome.PENDING:
            pass
