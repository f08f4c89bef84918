"""Carries a message from the leader of one group to the leader of another, on this node or on a peer.

Owns which messages were sent to peers and not answered, and for how long. Such a message can be lost with its
connection, with its leader, or with the answer. Then its sender is told so and sends it again. Does not keep a message,
and does not send it a second time by itself.

A message comes from the member whose connection it arrives on, because that member has proved who it is. The target's
machine gets it with session 0, so no client can pass for a group.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from disheap.errors import InvalidArgument, LimitReached, NotLeader, ProtocolError, RequestError, UnknownGroup
from disheap.kernel.types import NOBODY, NodeId
from disheap.protocol.forwarding import Forward, ForwardAnswer, Forwarded
from disheap.protocol.frames import FAULT_CHARACTERS
from disheap.runtime.replica.forwarding import Done
from disheap.runtime.replica.node_commands import NodeCommands

ANSWER_S = 5.0
"""After so long a message without an answer counts as lost. A commit takes milliseconds, an election about a second."""


class ForwardingReplica(Protocol):
    """This node's part of a group."""

    node_commands: NodeCommands

    def known_leader(self) -> NodeId | None:
        """Returns who leads the group, or `NOBODY`; None if this replica takes no part and cannot tell."""


class ForwardingReplicas(Protocol):
    """The replicas of this node."""

    def has(self, group: int) -> bool:
        """Whether this node hosts the group."""

    def of(self, group: int) -> ForwardingReplica:
        """Returns this node's part of a group that it hosts."""


class Members(Protocol):
    """The members of the cluster."""

    def others(self) -> list[NodeId]:
        """Returns all members but this node."""

    def label(self, node: NodeId) -> str:
        """Returns the member's name for messages."""


Send = Callable[[NodeId, Forwarded], str]
"""Hands a frame to the connection to a member. Returns "", or why it was not sent."""


class _Sent(NamedTuple):
    """A message that a peer has not answered."""

    peer: NodeId
    until_s: float
    done: Done


class ForwardingRouter:
    """`now` gives seconds of a monotonic clock. A command has at most `command_bytes`."""

    def __init__(
        self,
        replicas: ForwardingReplicas,
        members: Members,
        send: Send,
        own: NodeId,
        now: Callable[[], float],
        command_bytes: int,
    ) -> None:
        self._replicas = replicas
        self._members = members
        self._send_frame = send
        self._own = own
        self._now = now
        self._command_bytes = command_bytes
        self._sent: dict[tuple[int, int, int], _Sent] = {}  # by source, target and number; the oldest first
        self._hints: dict[int, NodeId] = {}  # who may lead a group of which this node's own replica cannot tell

    def routes_of(self, group: int, node_commands: NodeCommands) -> GroupRoutes:
        """Returns the `Routes` of a group that this node hosts."""
        return GroupRoutes(self, group, node_commands)

    # --- what this node sends ----------------------------------------------------------------------------------------

    def send(self, source: int, group: int, number: int, command: bytes, done: Done) -> None:
        """See `Routes.send`."""
        if not self._replicas.has(group):
            done(f"the cluster has no group {group}")
            return
        if len(command) > self._command_bytes:
            done(f"message {number} has {len(command)} bytes; a command has at most {self._command_bytes}")
            return
        leader = self._leader_of(group)
        if leader == self._own:
            self._replicas.of(group).node_commands.take(command, lambda error: done(_text_of(error)))
        elif leader == NOBODY:
            done(f"no leader of group {group} is known")
        else:
            self._send_to(leader, Forward(group, source, number, command), done)

    def _send_to(self, peer: NodeId, message: Forward, done: Done) -> None:
        problem = self._send_frame(peer, message)
        if problem:
            self._hints.pop(message.group, None)
            done(problem)
            return
        key = (message.source, message.group, message.number)
        self._sent.pop(key, None)  # of an earlier attempt; the new one is the newest
        self._sent[key] = _Sent(peer, self._now() + ANSWER_S, done)

    def _leader_of(self, group: int) -> NodeId:
        """Returns the member to send to. A replica that takes no part does not know the leader. Then another member is
        asked."""
        known = self._replicas.of(group).known_leader()
        if known is not None:
            return known
        others = self._members.others()
        if group not in self._hints and others:
            self._hints[group] = others[int(self._now()) % len(others)]  # another one in another second
        return self._hints.get(group, NOBODY)

    def answered(self, peer: NodeId, answer: ForwardAnswer) -> None:
        """The answer of the peer that a message was sent to. An answer of another peer belongs to an earlier attempt,
        and is ignored."""
        key = (answer.source, answer.group, answer.number)
        sent = self._sent.get(key)
        if sent is None or sent.peer != peer:
            return
        del self._sent[key]
        self._note_hint(peer, answer)
        sent.done(f"{self._members.label(peer)}: {answer.message}" if answer.code else "")

    def _note_hint(self, peer: NodeId, answer: ForwardAnswer) -> None:
        """Who takes messages for the group, or who is said to."""
        hint = NodeId(answer.leader) if answer.code == NotLeader.code else peer
        if hint in self._members.others():
            self._hints[answer.group] = hint
        else:
            self._hints.pop(answer.group, None)

    def tick(self) -> None:
        """Reports messages as failed that have no answer in time, or that were sent to a node that no longer leads."""
        if not self._sent:
            return
        now = self._now()
        self._give_up(lambda sent, group: now >= sent.until_s, f"no answer within {ANSWER_S:g} s")
        self._give_up(self._has_moved, "another node leads the group now")

    def peer_lost(self, peer: NodeId) -> None:
        """The peer's connection has ended, or too much is unsent to it."""
        self._give_up(lambda sent, _: sent.peer == peer, f"{self._members.label(peer)} cannot be reached")

    def drop(self, source: int) -> None:
        """Nobody waits for the answers to this group's messages any more."""
        for key in [key for key in self._sent if key[0] == source]:
            del self._sent[key]

    def _has_moved(self, sent: _Sent, group: int) -> bool:
        return self._replicas.of(group).known_leader() not in (None, NOBODY, sent.peer)

    def _give_up(self, is_lost: Callable[[_Sent, int], bool], reason: str) -> None:
        for key in [key for key, sent in self._sent.items() if is_lost(sent, key[1])]:
            self._sent.pop(key).done(reason)

    # --- what peers send ---------------------------------------------------------------------------------------------

    def received(self, peer: NodeId, message: Forwarded) -> None:
        """A frame of that member. A message that cannot be taken is answered with the reason, and changes nothing."""
        if isinstance(message, ForwardAnswer):
            self.answered(peer, message)
            return
        answer = partial(self._answer, peer, message.group, message.source, message.number)
        refusal = self._refusal(message)
        if refusal is not None:
            answer(refusal)
        else:
            self._replicas.of(message.group).node_commands.take(message.command, answer)

    def _refusal(self, message: Forward) -> RequestError | ProtocolError | None:
        if not (self._replicas.has(message.group) and self._replicas.has(message.source)):
            return UnknownGroup(f"this node does not have both group {message.source} and group {message.group}")
        if message.source == message.group:
            return InvalidArgument(f"group {message.group} sends a message to itself through another node")
        size, limit = len(message.command), self._command_bytes
        if size > limit:
            return LimitReached(f"a forwarded command of {size} bytes is over the limit of {limit}")
        return None

    def _answer(
        self, peer: NodeId, group: int, source: int, number: int, error: RequestError | ProtocolError | None
    ) -> None:
        """A lost answer costs its sender `ANSWER_S` and another try, so whether it has left does not matter here."""
        leader = NOBODY
        if isinstance(error, NotLeader):
            leader = self._replicas.of(group).known_leader() or NOBODY
        code = error.code if error is not None else ""
        text = _text_of(error)[:FAULT_CHARACTERS]
        self._send_frame(peer, ForwardAnswer(group, source, number, code, text, leader))


class GroupRoutes:
    """The `Routes` of one group."""

    def __init__(self, router: ForwardingRouter, group: int, node_commands: NodeCommands) -> None:
        self._router = router
        self._group = group
        self._node_commands = node_commands

    def send(self, group: int, number: int, command: bytes, done: Done) -> None:
        """Has the leader of the other group apply the command."""
        self._router.send(self._group, group, number, command, done)

    def apply(self, command: bytes, done: Done) -> None:
        """Has this group apply the command."""
        self._node_commands.propose(command, lambda error: done(_text_of(error)))

    def drop(self) -> None:
        """Nobody waits for an answer any more."""
        self._router.drop(self._group)


def _text_of(error: RequestError | ProtocolError | None) -> str:
    return "" if error is None else str(error) or error.code
