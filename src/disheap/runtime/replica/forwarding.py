"""Sends what a `Forwarding` machine has in its outbox to the other groups, while this node leads.

Owns what is under way: messages without an answer, and confirmations that the machine has not received. All of it can
be lost. The outbox is the machine's, so a new leader begins with the first message that waits, and the target answers
again what it took before. Opens no connection: it is given `Routes`. Does not know what a message says.

Two schedules are prevented. A message is lost and the next one arrives. The target refuses it, because the numbers have
a gap, and all from the first unconfirmed one on are sent again. An answer comes back to a node that has ceased to lead
and leads again. It changes the record of an earlier term, which nobody reads any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from disheap.interfaces import Forwarding, StateMachine
from disheap.logs import get_logger

log = get_logger(__name__)

WINDOW = 64
"""Messages for one group without an answer. It hides a round trip, and bounds what is sent again after a loss."""
WINDOW_BYTES = 1 << 20
"""The bytes of messages without an answer. One message more may be under way, however large it is."""
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 5.0
"""Between a failure and the next try. An election takes about a second."""
JITTER = 0.5
"""A pause is shorter by up to this share, so that the leaders of several groups do not all try at once."""

Done = Callable[[str], None]
"""Called once, with "" or what went wrong."""


class Routes(Protocol):
    """The way to the other groups, and to this group's log."""

    def send(self, group: int, number: int, command: bytes, done: Done) -> None:
        """Has the leader of that group apply the command. `done("")` when it was answered with a reply. When it was
        refused, or the outcome is not known, `done` is called with the reason. Keeps the order of its calls."""

    def apply(self, command: bytes, done: Done) -> None:
        """Has this group apply the command."""

    def drop(self) -> None:
        """Nobody waits for an answer any more."""


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
        self.reason = ""  # why it does not go on; "" while it does
        self.is_stuck = False  # for so long that it was logged
        self.under_way_bytes = 0
        self._under_way: deque[tuple[int, int]] = deque()  # (number, bytes) of what was sent and not answered

    def note_sent(self, number: int, size_bytes: int) -> None:
        """It is on its way."""
        self.sent = number
        self._under_way.append((number, size_bytes))
        self.under_way_bytes += size_bytes

    def confirm(self, number: int) -> None:
        """The target has this number, and so all before it."""
        self.confirmed = max(self.confirmed, number)
        self.sent = max(self.sent, self.confirmed)  # an earlier attempt may be answered after a later one began
        while self._under_way and self._under_way[0][0] <= self.confirmed:
            self.under_way_bytes -= self._under_way.popleft()[1]
        self.wait_s, self.reason = RETRY_FIRST_S, ""

    def begin_again(self) -> None:
        """Unconfirmed messages count as not sent. Late answers to them do not affect messages that are sent from now
        on."""
        self.attempt += 1
        self.sent = self.confirmed
        self._under_way.clear()
        self.under_way_bytes = 0


class Forwarder:
    """`machine` gives the group's machine: another one when a snapshot was installed. One without the power
    `Forwarding` has nothing to send. `now` gives seconds of a monotonic clock, `random` a number between 0 and 1.
    `wake` has `pump` called in a later turn of the loop."""

    def __init__(
        self,
        machine: Callable[[], StateMachine],
        routes: Routes,
        now: Callable[[], float],
        random: Callable[[], float],
        wake: Callable[[], object],
        group: int = 0,
    ) -> None:
        self._group = group
        self._machine = machine
        self._routes = routes
        self._now = now
        self._random = random
        self._wake = wake
        self._is_pump_due = False
        self._targets: dict[int, _Target] = {}
        self._term = 0  # in which this node leads; 0 while it does not, and for a machine without the power

    def lead(self, term: int) -> None:
        """This node leads in `term`, or, with 0, no more."""
        if term and not isinstance(self._machine(), Forwarding):
            return
        if term != self._term:
            self._term = term
            self._targets.clear()
            self._routes.drop()

    def pump(self) -> None:
        """Sends what waits, and has forgotten what was confirmed. Called after entries were applied, at each tick, and
        soon after an answer."""
        self._is_pump_due = False
        if not self._term:
            return
        machine = cast("Forwarding", self._machine())  # `lead` has looked
        waiting = machine.waiting()
        if not waiting and not self._targets:
            return
        for group in [known for known in self._targets if known not in waiting]:
            del self._targets[group]  # all was forgotten
        for group in waiting:
            target = self._targets.get(group)
            if target is None:
                ((first, _),) = machine.outbox(group, 0, 1)
                target = self._targets[group] = _Target(first - 1)
            self._send(machine, group, target)
            self._forget(machine, group, target)

    def status(self) -> list[dict[str, Any]]:
        """For each group that messages wait for: `group`, `waiting` and `reason`, which says why they do not move. Only
        the leader knows a reason."""
        machine, targets = self._machine(), self._targets
        waiting = machine.waiting() if isinstance(machine, Forwarding) else {}
        return [
            {"group": group, "waiting": count, "reason": targets[group].reason if group in targets else ""}
            for group, count in waiting.items()
        ]

    def _send(self, machine: Forwarding, group: int, target: _Target) -> None:
        room = WINDOW - (target.sent - target.confirmed)
        if self._now() < target.retry_at or room <= 0 or target.under_way_bytes >= WINDOW_BYTES:
            return
        attempt = target.attempt
        for number, command in machine.outbox(group, target.sent, room):
            target.note_sent(number, len(command))
            self._routes.send(group, number, command, self._answer_to(group, target, number))
            if target.attempt != attempt or target.under_way_bytes >= WINDOW_BYTES:
                return  # it failed at once, so that the next one would come out of order; or it is enough

    def _answer_to(self, group: int, target: _Target, number: int) -> Done:
        attempt = target.attempt

        def done(problem: str) -> None:
            if not problem:
                self._confirm(group, target, number)
            elif attempt == target.attempt:
                self._send_again(group, target, problem)

        return done

    def _confirm(self, group: int, target: _Target, number: int) -> None:
        if target.is_stuck:
            target.is_stuck = False
            log.info("messages for another group move again", group=self._group, target=group)
        target.confirm(number)
        if not self._is_pump_due:
            self._is_pump_due = True
            self._wake()

    def _send_again(self, group: int, target: _Target, problem: str) -> None:
        """Send again from the first unconfirmed message on, after a pause."""
        target.begin_again()
        target.retry_at = self._now() + target.wait_s * (1 - JITTER * self._random())
        target.reason = problem
        if target.wait_s >= RETRY_MAX_S / 2 and not target.is_stuck:
            target.is_stuck = True
            log.warning(
                "messages for another group wait",
                group=self._group,
                target=group,
                after=target.confirmed,
                reason=problem,
            )
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
