"""A node with two groups whose machines forward, for what a peer sends about messages between groups."""

from __future__ import annotations

from disheap.errors import RequestError
from disheap.interfaces import MachineContext
from disheap.kernel.types import NodeId
from disheap.protocol.forwarding import Forward, ForwardAnswer, Forwarded
from disheap.protocol.frames import FAULT_CHARACTERS
from disheap.runtime.peers.forwarding import ForwardingRouter
from disheap.runtime.replica.forwarding import Done
from disheap.runtime.replica.node_commands import OnOutcome
from tests.support.relay import Relay

OWN, PEER, THIRD = NodeId(1), NodeId(2), NodeId(3)
COMMAND_BYTES = 1 << 12


class _Group:
    """Its log is the machine itself: a command is applied at once."""

    def __init__(self, number: int) -> None:
        self.machine = Relay(Relay.Settings(), MachineContext(number))
        self.node_commands = self

    def known_leader(self) -> NodeId | None:
        return OWN

    def take(self, command: bytes, done: OnOutcome) -> None:
        try:
            self.machine.apply(1, 0, 0, command)
        except RequestError as error:
            done(error)
        else:
            done(None)

    propose = take


class ForwardingNode:
    """The replicas and the members of a router. One message is on its way to the peer."""

    def __init__(self) -> None:
        self.groups = (_Group(0), _Group(1))
        self.sent: list[tuple[NodeId, Forwarded]] = []
        self.told: list[str] = []
        self.router = ForwardingRouter(self, self, self.send_forwarded, OWN, lambda: 0.0, COMMAND_BYTES)  # type: ignore[arg-type]
        self.groups[0].known_leader = lambda: PEER  # type: ignore[method-assign]
        tell: Done = self.told.append
        self.router.send(1, 0, 1, b"<1:1:word", tell)
        self.groups[0].known_leader = lambda: OWN  # type: ignore[method-assign]

    def has(self, group: int) -> bool:
        return 0 <= group < len(self.groups)

    def of(self, group: int) -> _Group:
        return self.groups[group]

    def others(self) -> list[NodeId]:
        return [PEER, THIRD]

    def label(self, node: NodeId) -> str:
        return f"n{node}"

    def send_forwarded(self, target: NodeId, message: Forwarded) -> str:
        self.sent.append((target, message))
        return ""

    def check(self, message: Forwarded) -> None:
        """A FORWARD has one answer, and changed the state of its own group at most. An answer has none."""
        answers = self.sent[1:]
        if isinstance(message, ForwardAnswer):
            is_expected = (message.group, message.source, message.number) == (0, 1, 1)
            assert not answers and len(self.told) == is_expected
            assert not self.told or (self.told[0] == "") == (not message.code)
            return
        ((target, answer),) = answers
        assert target == PEER and isinstance(answer, ForwardAnswer) and not self.told
        assert (answer.group, answer.source, answer.number) == (message.group, message.source, message.number)
        assert len(answer.message) <= FAULT_CHARACTERS
        changed = [number for number, group in enumerate(self.groups) if group.machine.taken or group.machine.last]
        assert changed in ([], [message.group]) and not (changed and answer.code)
        assert isinstance(message, Forward)
