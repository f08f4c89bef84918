"""Commands that a leader proposes by itself, without a client: messages of other groups, and confirmations for its own
machine. Owns the callbacks that wait for their outcome. Such a command has no session: the machine is called with
session 0, which no client has. So no session number keeps it from being applied twice. It must be idempotent.

The number in the envelope is drawn at random, because the log outlives this process. A small number that counts up
would be used again after a restart. Then an old entry, applied late, would answer for a new command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from disheap.errors import NotLeader, OutcomeUnknown, Overloaded, RequestError, WrongMachine, request_error
from disheap.interfaces import Forwarding, GroupKnowing
from disheap.protocol import frames
from disheap.protocol.frames import Fault, Kind, Status
from disheap.runtime.replica.group import Group

MAX_WAITING = 4096
"""The bound for commands without an outcome. Each takes some 300 bytes besides its own, which count as those of
clients."""

OnOutcome = Callable[[RequestError | None], None]
"""Called once, with None when the machine has replied, or with the error."""


class CommandHost(Protocol):
    """The replica that the commands are for."""

    machine_name: str

    @property
    def group(self) -> Group:
        """The group there is now."""

    def leads(self) -> bool:
        """Whether this node leads the group."""

    def refusal_when_short(self, command: bytes) -> RequestError | None:
        """Returns the shortage for which commands that add data are refused, or None."""


class NodeCommands:
    """`draw` gives a 63-bit number that nobody draws twice."""

    def __init__(self, host: CommandHost, draw: Callable[[], int]) -> None:
        self._host = host
        self._draw = draw
        self._waiting: dict[int, OnOutcome] = {}

    def take(self, command: bytes, done: OnOutcome) -> None:
        """A message of another group. Refused with `NotLeader`, `WrongMachine`, `Overloaded`, or the error of a
        shortage. `OutcomeUnknown` when leadership is lost before it is applied."""
        refusal = self._refusal(command)
        if refusal is not None:
            done(refusal)
            return
        self.propose(command, done)

    def tell_groups(self, groups: Sequence[int]) -> None:
        """This node leads. Its machine gets to know which groups take messages, before a client names one. If the
        command is lost, this node leads no more, and the next leader tells its own machine."""
        machine = self._host.group.sessions.machine
        command = machine.know_groups(groups) if isinstance(machine, GroupKnowing) else None
        if command is not None:
            self.propose(command, lambda error: None)

    def propose(self, command: bytes, done: OnOutcome) -> None:
        """A command that adds no data. Refused with `NotLeader` only."""
        if not self._host.leads():
            done(NotLeader())
            return
        number = self._draw()
        self._waiting[number] = done
        self._host.group.submit(frames.envelope(Kind.NODE_COMMAND, 0, 0, number, 0, command))

    def applied(self, number: int, status: int, body: bytes) -> None:
        """The machine has answered a command. Another node may have proposed it, or this one in an earlier term."""
        done = self._waiting.pop(number, None)
        if done is None:
            return
        if status == Status.OK:
            done(None)
            return
        fault = msgspec.msgpack.decode(body, type=Fault)
        done(request_error(fault.code, fault.message))

    def end(self) -> None:
        """Leadership is lost, or the replica ends: what is in the log may still be carried out."""
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(OutcomeUnknown("the group's leader lost its leadership; the command may or may not be carried out"))

    def _refusal(self, command: bytes) -> RequestError | None:
        host = self._host
        if not host.leads():
            return NotLeader()
        if not isinstance(host.group.sessions.machine, Forwarding):
            return WrongMachine(
                f"the machine {host.machine_name!r} lacks the power Forwarding: it would not recognise a message that "
                "comes again. Nothing was done"
            )
        if len(self._waiting) >= MAX_WAITING or host.group.full():
            return Overloaded("the group has too many commands under way; the message is sent again")
        return host.refusal_when_short(command)
