"""What the simulator knows of each machine: what its clients say, and a sequential reference of what it does.

Owns the two machines that simulated groups run, the heap and the counter. Sessions and the log belong to `replay`.
"""

from __future__ import annotations

from typing import Any, Protocol

from disheap.errors import UnknownCommand
from disheap.protocol import broker
from disheap.testing.simulator.checks.reference import Reference
from disheap.testing.simulator.checks.reference_exchanges import Refused

BRINGS_IN = (
    broker.Enqueue,
    broker.EnqueueMany,
    broker.Publish,
    broker.Batch,
    broker.Prepare,
    broker.SetValue,
    broker.SetBarrier,
    broker.Watch,
)
"""Nothing else is refused while there is no room."""


class ReferenceMachine(Protocol):
    """A machine by plain lists: carries out one command after another, and reads what clients and nodes say."""

    def advance(self, now_ms: int) -> None:
        """Log time has come to `now_ms`. Everything that is due by then happens."""

    def carry_out(self, body: bytes, session: int) -> bytes:
        """Returns the encoded reply. Raises `Refused`."""

    def ask(self, body: bytes, now_ms: int) -> bytes:
        """Returns the encoded answer to a query. Raises `Refused`."""

    def settle(self) -> None:
        """After each envelope of an entry."""

    def prune(self) -> None:
        """Forgets what has no effect any more."""

    def take_pushes(self) -> list[tuple[int, bytes]]:
        """What was pushed since the last call, as (session, encoded push)."""

    def open(self, session: int) -> None:
        """A session begins, with a connection."""

    def attach(self, session: int, held: bytes) -> bytes:
        """A session is back on a connection. Returns what the client is told."""

    def detach(self, session: int) -> None:
        """A session has lost its connection."""

    def expire(self, session: int) -> None:
        """A session is over."""

    def brings_in(self, body: bytes) -> bool:
        """Whether a command brings something in, so that it is refused while there is no room."""

    def consumer_of(self, push: bytes) -> int:
        """To which consumer of the session a push goes. Pushes to one consumer keep their order within an entry."""

    def message_cast(self, body: bytes) -> bytes | None:
        """The payload of a transient command that may be relayed, so that it passes without the log."""

    def message_relayed(self, push: bytes) -> tuple[int, bytes] | None:
        """(consumer, payload) of a push that came without the log. None for any other."""

    def listens(self, session: int, consumer: int) -> bool:
        """Whether a message may be relayed to this consumer of the session now."""

    def logged(self) -> set[bytes]:
        """The payloads of all messages that came by the log."""

    def show(self, body: bytes) -> str:
        """A reply or an answer in words."""

    def show_query(self, body: bytes) -> str:
        """A query in words."""

    def show_push(self, body: bytes) -> str:
        """A push in words."""

    def rare(self) -> dict[str, int]:
        """How often the rarer ways through the machine were taken."""


class HeapReference:
    """The heap, by `testing.heap_model`."""

    def __init__(self, group: int = 0) -> None:
        self.commands = Reference(group)
        self._model = self.commands.model

    @property
    def messages(self) -> dict[int, tuple[str, broker.NewMessage]]:
        """Every message there ever was, by its number, with its topic."""
        return self.commands.messages

    def advance(self, now_ms: int) -> None:
        self._model.advance(now_ms)
        self.commands.note_dead_letters()

    def carry_out(self, body: bytes, session: int) -> bytes:
        return broker.encode(self.commands.do(broker.decode_command.decode(body), session))

    def ask(self, body: bytes, now_ms: int) -> bytes:
        return broker.encode(self.commands.ask(broker.decode_query.decode(body), now_ms))

    def settle(self) -> None:
        self._model.serve_freed_groups()
        self.commands.note_dead_letters()

    def prune(self) -> None:
        self.commands.prune()

    def take_pushes(self) -> list[tuple[int, bytes]]:
        pushed, self._model.pushed = self._model.pushed, []
        return [(session, broker.encode(push)) for session, push in pushed]

    def open(self, session: int) -> None:
        self._model.attached[session] = True

    def attach(self, session: int, held: bytes) -> bytes:
        deliveries, ended = self._model.attach(session, broker.decode_held.decode(held) if held else broker.Held([]))
        return broker.encode(broker.Resumed(deliveries, ended))

    def detach(self, session: int) -> None:
        self._model.detach(session)

    def expire(self, session: int) -> None:
        self._model.expire(session)

    def brings_in(self, body: bytes) -> bool:
        return isinstance(broker.decode_command.decode(body), BRINGS_IN)

    def consumer_of(self, push: bytes) -> int:
        decoded = broker.decode_push.decode(push)
        return 0 if isinstance(decoded, broker.ValueSet) else decoded.consumer

    def message_cast(self, body: bytes) -> bytes | None:
        command = broker.decode_command.decode(body)
        return command.message.payload if isinstance(command, broker.Publish) else None

    def message_relayed(self, push: bytes) -> tuple[int, bytes] | None:
        decoded = broker.decode_push.decode(push)
        if not isinstance(decoded, broker.Deliver) or decoded.id:
            return None
        return decoded.consumer, decoded.payload

    def listens(self, session: int, consumer: int) -> bool:
        found = [one for one in self._model.consumers if one.number == consumer and one.session == session]
        return any(
            one.no_ack and not one.ended and not one.limit and len(self._model.active(one.topic)) == 1 for one in found
        )

    def logged(self) -> set[bytes]:
        return {message.payload for _, message in self.messages.values()}

    def show(self, body: bytes) -> str:
        return repr(broker.decode_reply.decode(body)) if body else repr(body)

    def show_query(self, body: bytes) -> str:
        return str(broker.decode_query.decode(body))

    def show_push(self, body: bytes) -> str:
        return repr(broker.decode_push.decode(body))

    def rare(self) -> dict[str, int]:
        return {**self.commands.seen, "dropped": self._model.dropped}


class CounterReference:
    """The counter of `testing.counter`, with its total and its timers."""

    def __init__(self, group: int = 0) -> None:
        self.total = 0
        self.rung = 0
        self._now_ms = 0
        self._timers: list[tuple[int, int]] = []  # (due, session)
        self._pushes: list[tuple[int, bytes]] = []

    def advance(self, now_ms: int) -> None:
        self._now_ms = now_ms
        due = sorted(timer for timer in self._timers if timer[0] <= now_ms)
        self._timers = [timer for timer in self._timers if timer[0] > now_ms]
        self._pushes += [(session, b"ring") for _, session in due]
        self.rung += len(due)

    def carry_out(self, body: bytes, session: int) -> bytes:
        sign, digits = body[:1], body[1:]
        if sign not in (b"+", b"-", b"@") or not digits.isdigit():
            raise Refused(UnknownCommand.code)
        number = int(digits)
        if sign == b"@":
            self._timers.append((self._now_ms + number, session))
            return b"set"
        self.total += number if sign == b"+" else -number
        total = b"%d" % self.total
        self._pushes.append((session, total))
        return total

    def ask(self, body: bytes, now_ms: int) -> bytes:
        if body != b"total":
            raise Refused(UnknownCommand.code)
        return b"%d" % self.total

    def settle(self) -> None:
        """Nothing waits for the end of a command."""

    def prune(self) -> None:
        """Nothing is kept."""

    def take_pushes(self) -> list[tuple[int, bytes]]:
        pushes, self._pushes = self._pushes, []
        return pushes

    def open(self, session: int) -> None:
        """A counter does not ask who is there."""

    def attach(self, session: int, held: bytes) -> bytes:
        return b"welcome back " + held

    def detach(self, session: int) -> None:
        """As `open`."""

    def expire(self, session: int) -> None:
        self._timers = [timer for timer in self._timers if timer[1] != session]

    def brings_in(self, body: bytes) -> bool:
        return body[:1] != b"-"

    def consumer_of(self, push: bytes) -> int:
        return 0

    def message_cast(self, body: bytes) -> bytes | None:
        return None

    def message_relayed(self, push: bytes) -> tuple[int, bytes] | None:
        return None

    def listens(self, session: int, consumer: int) -> bool:
        return False

    def logged(self) -> set[bytes]:
        return set()

    def show(self, body: bytes) -> str:
        return repr(body)

    show_query = show_push = show

    def rare(self) -> dict[str, int]:
        return {"timers": self.rung}


REFERENCES: dict[str, Any] = {"heap": HeapReference, "counter": CounterReference}
"""By the name of the machine."""


def reference_of(machine: str, group: int) -> ReferenceMachine:
    """A fresh reference. Of a machine that the simulator does not know it is the heap's, and nothing is replayed."""
    reference: ReferenceMachine = REFERENCES.get(machine, HeapReference)(group)
    return reference
