"""A state machine that knows no heaps: it adds, and proves that nothing in the runtime knows them either.

| command   | what it does                                                                    |
|-----------|---------------------------------------------------------------------------------|
| `+N` `-N` | adds or subtracts; the total is the reply, and is pushed to the session         |
| `@MS`     | pushes `ring` to the session, MS milliseconds from now                          |
| `wN`      | postpones N units of work                                                       |
| `boom`    | fails as a bug would                                                            |
| others    | are refused                                                                     |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import ClassVar

import msgspec

from disheap.errors import SnapshotDamaged, UnknownCommand
from disheap.interfaces import Effects, MachineContext, Principal

State = tuple[int, int, int, list[tuple[int, int]], list[int]]
"""total, time_ms, work, timers, attached sessions"""


class CounterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counter has no settings."""


class TimedMachine:
    """What small machines share: attached sessions, timers that push `ring` to a session, and postponed work.
    A subclass has the commands, the queries and the snapshot."""

    def __init__(self) -> None:
        self.time_ms = 0
        self.work = 0
        self.timers: list[tuple[int, int]] = []  # (due, session), sorted
        self.attached: list[int] = []

    def set_timer(self, due_ms: int, session: int) -> None:
        """Pushes `ring` to the session at that time."""
        self.timers = sorted([*self.timers, (due_ms, session)])

    def advance(self, time_ms: int, limit: int) -> tuple[int, Effects]:
        """Fires at most `limit` timers that are due, and does postponed work with what is left of the limit."""
        self.time_ms = time_ms
        due = [timer for timer in self.timers if timer[0] <= time_ms][:limit]
        self.timers = self.timers[len(due) :]
        done = min(self.work, limit - len(due))
        self.work -= done
        return len(due) + done, [(session, b"ring") for _, session in due]

    def backlog(self) -> bool:
        """Whether a timer is due, or work is postponed."""
        return self.work > 0 or (bool(self.timers) and self.timers[0][0] <= self.time_ms)

    def next_deadline(self) -> int | None:
        """When the next timer is due, or None."""
        return self.timers[0][0] if self.timers else None

    def session_opened(self, session: int, principal: Principal) -> None:
        """Counts the session as attached."""
        self.attached.append(session)

    def session_attached(self, session: int, held: bytes) -> tuple[bytes, Effects]:
        """Counts the session as attached, once. The reply is empty."""
        self.attached = [*(one for one in self.attached if one != session), session]
        return b"", ()

    def session_detached(self, session: int) -> Effects:
        """Counts the session as attached no longer."""
        self.attached = [one for one in self.attached if one != session]
        return ()

    def session_expired(self, session: int) -> Effects:
        """Removes the session and its timers."""
        self.attached = [one for one in self.attached if one != session]
        self.timers = [timer for timer in self.timers if timer[1] != session]
        return ()


class CounterMachine(TimedMachine):
    """A state machine that counts. Commands: `+N` and `-N` change the total and push it, `@N` sets a timer in N ms, and
    `wN` postpones N units of work."""

    name: ClassVar[str] = "counter"
    api: ClassVar[int] = 1
    Settings: ClassVar[type[msgspec.Struct]] = CounterSettings
    versions: ClassVar[tuple[int, int]] = (1, 1)

    def __init__(self, settings: CounterSettings, context: MachineContext) -> None:
        super().__init__()
        self.version = 1
        self.total = 0

    def set_version(self, version: int) -> None:
        self.version = version

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        text = command.decode("ascii", "replace")
        if text == "boom":
            raise RuntimeError("a bug")
        number = _number(text)
        match text[:1]:
            case "+" | "-":
                self.total += number if text[0] == "+" else -number
                return b"%d" % self.total, [(session, b"%d" % self.total)]
            case "@":
                self.set_timer(time_ms + number, session)
                return b"set", ()
            case "w":
                self.work += number
                return b"postponed", ()
        raise UnknownCommand(f"{text[:20]!r} is no command of a counter")

    def session_attached(self, session: int, held: bytes) -> tuple[bytes, Effects]:
        super().session_attached(session, held)
        return b"welcome back " + held, ()

    def allowed_when_full(self, command: bytes) -> bool:
        return command[:1] == b"-"

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        if request != b"total":
            raise UnknownCommand(f"{request[:20]!r} is no query of a counter")
        return b"%d" % self.total

    def snapshot(self) -> Iterator[bytes]:
        return iter([msgspec.msgpack.encode(self._state())])

    def restore(self, chunks: Iterable[bytes]) -> None:
        try:
            state = msgspec.msgpack.decode(b"".join(chunks), type=State)
        except msgspec.DecodeError as error:
            raise SnapshotDamaged(f"not a counter's snapshot: {error}") from error
        self.total, self.time_ms, self.work, self.timers, self.attached = state

    def state_hash(self) -> bytes:
        return hashlib.blake2b(msgspec.msgpack.encode(self._state()), digest_size=16).digest()

    def stats(self) -> dict[str, int]:
        return {"total": self.total}

    def sample_commands(self) -> list[bytes]:
        return [b"+1", b"-20", b"@300", b"w7"]

    def _state(self) -> State:
        return self.total, self.time_ms, self.work, list(self.timers), list(self.attached)


def _number(text: str) -> int:
    try:
        return int(text[1:])
    except ValueError:
        raise UnknownCommand(f"{text[:20]!r} is no command of a counter") from None
