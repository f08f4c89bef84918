"""Sends what a `Forwarding` machine has in its outbox to the other groups, while this node leads.

Owns what is under way: which messages were sent and not answered, and which confirmations the machine was not told of.
All of it can be lost. The outbox is the machine's, so a new leader begins with the first message that waits, and the
target answers again what it took before. Opens no connection: it is given `Routes`. Does not know what a message says.

Two schedules are prevented. A message is lost and the next one arrives. The target refuses it, because the numbers have
a gap, and all from the first unconfirmed one on are sent again. An answer comes back to a node that has ceased to lead
and leads again. It changes the record of an earlier term, which nobody reads any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from disheap.interfaces import Forwarding, StateMachine
from disheap.logs import get_logger

log = get_logger(__name__)

WINDOW = 64
"""Messages for one group without an answer. It hides a round trip, and bounds what is sent again after a loss."""
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 5.0
"""Between a failure and the next try. An election takes about a second."""

Done = Callable[[str], None]
"""Called once, with "" or what went wrong."""


class Routes(Protocol):
    """The way to the other groups, and to this group's log."""

    def send(self, group: int, command: bytes, done: Done) -> None:
        """Has the leader of that group apply the command. `done("")` when it was answered with a reply. When it was
        refused, or the outcome is not known, `done` is called with the reason. Keeps the order of its calls."""

    def apply(self, command: bytes, done: Done) -> None:
        """Has this group apply the command."""


class _Target:
    """One group that messages go to. All up to `forgotten` are not in the outbox any more."""

    def __init__(self, forgotten: int) -> None:
        self.sent = forgotten  # the highest number that was handed over
        self.confirmed = forgotten  # and answered
        self.forgotten = forgotten  # and told to the machine
        self.is_forgetting = False
        self.attempt = 0  # answers to earlier ones may confirm, and do not fail this one
        self.wait_s = RETRY_FIRST_S
        self.retry_at = 0.0


class Forwarder:
    """`now` gives seconds of a monotonic clock."""

    def __init__(self, routes: Routes, now: Callable[[], float]) -> None:
        self._routes = routes
        self._now = now
        self._targets: dict[int, _Target] = {}
        self._term = 0  # in which this node leads; 0 while it does not

    def lead(self, term: int) -> None:
        """This node leads in `term`, or, with 0, no more."""
        if term != self._term:
            self._term = term
            self._targets.clear()

    def pump(self, machine: StateMachine) -> None:
        """Sends what waits, and has forgotten what was confirmed. Called after entries were applied, and at each
        tick."""
        if not self._term or not isinstance(machine, Forwarding):
            return
        waiting = machine.targets()
        for group in [known for known in self._targets if known not in waiting]:
            del self._targets[group]  # all was forgotten
        for group in waiting:
            target = self._targets.get(group)
            if target is None:
                ((first, _),) = machine.outbox(group, 0, 1)
                target = self._targets[group] = _Target(first - 1)
            self._send(machine, group, target)
            self._forget(machine, group, target)

    def _send(self, machine: Forwarding, group: int, target: _Target) -> None:
        target.sent = max(target.sent, target.confirmed)  # an earlier attempt may have been answered meanwhile
        room = WINDOW - (target.sent - target.confirmed)
        if self._now() < target.retry_at or room <= 0:
            return
        for number, command in machine.outbox(group, target.sent, room):
            target.sent = number
            self._routes.send(group, command, self._answer_to(group, target, number))

    def _answer_to(self, group: int, target: _Target, number: int) -> Done:
        attempt = target.attempt

        def done(problem: str) -> None:
            if not problem:
                target.confirmed = max(target.confirmed, number)
                target.wait_s = RETRY_FIRST_S
            elif attempt == target.attempt:
                self._send_again(group, target, problem)

        return done

    def _send_again(self, group: int, target: _Target, problem: str) -> None:
        """From the first unconfirmed message on, after a while."""
        target.attempt += 1
        target.sent = target.confirmed
        target.retry_at = self._now() + target.wait_s
        if target.wait_s >= RETRY_MAX_S / 2:
            log.warning("messages for another group wait", group=group, after=target.confirmed, reason=problem)
        target.wait_s = min(2 * target.wait_s, RETRY_MAX_S)

    def _forget(self, machine: Forwarding, group: int, target: _Target) -> None:
        if target.is_forgetting or target.confirmed <= target.forgotten:
            return
        number, target.is_forgetting = target.confirmed, True

        def done(problem: str) -> None:
            target.is_forgetting = False
            if not problem:
                target.forgotten = number

        self._routes.apply(machine.forget(group, number), done)
