"""A replicated state to which a sequence of steps is applied, each measured by the calls of functions that it makes.

A step is an entry of the log, a query, or an admin request. An entry is a command, an event of a session, the passing
of time, or a new term. The loop has its turn within an entry and within a hash, so the calls are counted
from one pause to the next. `Large` steps fill the state, and are not measured.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import msgspec

from disheap.errors import CommandRefused, RequestError
from disheap.interfaces import MachineContext
from disheap.kernel.types import Entry, EntryKind, Index, Term
from disheap.protocol import broker, frames
from disheap.protocol.frames import Attaching, Kind, Opening
from disheap.runtime.clients.session_admin import list_sessions, read_page
from disheap.runtime.state.machine_stats import read_stats
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import SessionLimits, proof_of
from disheap.runtime.state.sessions import Sessions
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings

STEP_BYTES = 30
"""The input of a step that brings nothing: a header."""
PROOF = proof_of(bytes(frames.SECRET_BYTES))


class Call(NamedTuple):
    """A command or a query of one of the sessions."""

    asked: Any
    session: int = 0


class Open(NamedTuple):
    label: str


class Attach(NamedTuple):
    """Names `held` leases, from number `first` on, and as many consumers."""

    session: int
    first: int
    held: int


class Leave(NamedTuple):
    """`kind` is DETACH, EXPIRE or CLOSE."""

    kind: Kind
    session: int


class Advance(NamedTuple):
    milliseconds: int


class NewTerm(NamedTuple):
    pass


class Admin(NamedTuple):
    """`op` is hash, status or sessions."""

    op: str


class Large(NamedTuple):
    """Many topics that are bound to the exchange `f`, consumers of topic `a`, or sessions."""

    what: str
    count: int


Step = Call | Open | Attach | Leave | Advance | NewTerm | Admin | Large


class Cost(NamedTuple):
    """What was done from one pause of the loop to the next. `size` counts the bytes of the step and of its answer."""

    step: Step
    calls: int
    units: int
    size: int
    seconds: float


class _Sink(ReplySink):
    """Every session is attached; what it is sent is counted."""

    def attach(self, session: int, attachment: int) -> None:
        self.queues[session] = []

    def detach(self, session: int) -> None:
        self.queues.pop(session, None)

    def answer(self, attachment: int, status: int, index: int, body: bytes) -> None:
        self.queues.setdefault(0, []).append(body)

    def taken_bytes(self) -> int:
        size = sum(len(frame) for queue in self.queues.values() for frame in queue)
        for queue in self.queues.values():
            queue.clear()
        return size


class World:
    """`group` and `server` of an admin request are this object."""

    def __init__(self) -> None:
        self.machine = HeapMachine(HeapSettings(), MachineContext())
        self.sink = _Sink()
        self.sessions = Sessions(self.machine, SessionLimits(), self.sink)
        self.loop = self
        self.input_bytes = 0
        self._index, self._term, self._now_ms = 0, 1, 0
        self._made = 0
        self._fill(Large("sessions", 1))

    def run(self, steps: list[Step]) -> Iterator[Cost]:
        """The costs of all steps, from pause to pause, and at the end of the work that they have put off."""
        for step in steps:
            self.input_bytes += STEP_BYTES
            yield from self._take(step)
        while self.machine.backlog():
            yield from self._entry(Advance(0), b"")

    # --- for `list_sessions` ---

    def time(self) -> float:
        return 0.0

    def now_ms(self) -> int:
        return self._now_ms

    def is_attached(self, session: int) -> bool:
        return True

    def silent_s(self, session: int) -> float:
        return 0.0

    # --- steps ---

    def _take(self, step: Step) -> Iterator[Cost]:
        match step:
            case Call(asked, session) if isinstance(asked, broker.Query):
                yield self._measured(step, lambda: self._ask(asked, session), len(broker.encode(asked)))
            case Call(command, session):
                body = broker.encode(command)
                yield from self._entry(step, frames.envelope(Kind.COMMAND, 0, self._number(session), 0, 0, body))
            case Open(label):
                opening = msgspec.msgpack.encode(Opening(86_400_000, label, "", "127.0.0.1", PROOF))
                yield from self._entry(step, frames.envelope(Kind.OPEN, 0, 0, self._drawn(), 0, opening))
            case Attach(session, first, held):
                numbers = range(first, first + held)
                claim = broker.encode(broker.Held([(number, 1) for number in numbers], [], list(numbers)))
                body = msgspec.msgpack.encode(Attaching("", "127.0.0.1", PROOF, claim))
                number = self._number(session)
                yield from self._entry(step, frames.envelope(Kind.ATTACH, 0, number, self._drawn(), 0, body))
            case Leave(kind, session):
                number = self._number(session)
                there = self.sessions.table.get(number)
                attachment = there.attachment if there is not None else 0
                yield from self._entry(step, frames.envelope(kind, 0, number, attachment, 0))
            case Advance(milliseconds):
                self._now_ms += milliseconds
                yield from self._entry(step, b"")
            case NewTerm():
                self._term += 1
                yield from self._entry(step, b"")
            case Admin("hash"):
                yield from self._pieces(step)
            case Admin("status"):
                yield self._measured(step, lambda: len(str(read_stats(self.machine.stats))), 0)
            case Admin():
                request = read_page({"op": "sessions", "limit": 500})
                coroutine = list_sessions(self, self, request)  # type: ignore[arg-type]
                yield self._measured(step, lambda: len(msgspec.msgpack.encode(_result(coroutine))), 0)
            case Large():
                self._fill(step)

    def _entry(self, step: Step, data: bytes) -> Iterator[Cost]:
        self._index += 1
        entry = Entry(Term(self._term), Index(self._index), EntryKind.COMMANDS, self._now_ms, data)
        slices, is_over = self.sessions.applying(entry), False
        self.input_bytes += len(data)

        def advance() -> int:
            nonlocal is_over
            is_over = next(slices, self) is self
            return 0

        while not is_over:
            yield self._measured(step, advance, len(data))

    def _pieces(self, step: Step) -> Iterator[Cost]:
        pieces: list[Iterator[bytes]] = []

        def begin() -> int:
            pieces.append(self.sessions.hashing())
            return 0

        yield self._measured(step, begin, 0)
        is_over = False

        def advance() -> int:
            nonlocal is_over
            piece = next(pieces[0], None)
            is_over = piece is None
            return len(piece or b"")

        while not is_over:
            yield self._measured(step, advance, 0)

    def _ask(self, query: Any, session: int) -> int:
        return len(self.machine.query(self._now_ms, self._number(session), broker.encode(query)))

    def _measured(self, step: Step, call: Callable[[], int], size: int) -> Cost:
        calls, answer_bytes = 0, 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        units, before, began = self.machine.work_done(), sys.getprofile(), time.perf_counter()
        collects = gc.isenabled()
        gc.disable()  # as in a node; it would free an earlier world in the midst of a step of this one
        sys.setprofile(count)
        try:
            answer_bytes = call()
        except (CommandRefused, RequestError):
            pass
        finally:
            sys.setprofile(before)
            if collects:
                gc.enable()
        seconds = time.perf_counter() - began
        size += answer_bytes + self.sink.taken_bytes()
        return Cost(step, calls, self.machine.work_done() - units, size, seconds)

    # --- what there is ---

    def _number(self, session: int) -> int:
        numbers = list(self.sessions.table)
        return numbers[session % len(numbers)] if numbers else 0

    def _drawn(self) -> int:
        self._made += 1
        return self._made

    def _fill(self, large: Large) -> None:
        for _ in range(large.count):
            made = self._drawn()
            match large.what:
                case "topics":
                    self._quietly(broker.CreateExchange("f", "fanout"))
                    self._quietly(broker.CreateTopic(f"t{made}"))
                    self._quietly(broker.Bind("f", f"t{made}"))
                case "consumers":
                    self._quietly(broker.Subscribe("a", 1 + made % 3, group=made % 50))
                case _:
                    opening = msgspec.msgpack.encode(Opening(86_400_000, "", "", "127.0.0.1", PROOF))
                    data = frames.envelope(Kind.OPEN, 0, 0, made, 0, opening)
                    self._index += 1
                    entry = Entry(Term(self._term), Index(self._index), EntryKind.COMMANDS, self._now_ms, data)
                    self.sessions.apply(entry)
        self.sink.taken_bytes()

    def _quietly(self, command: broker.Command) -> None:
        try:
            self.machine.apply(self._index, self._now_ms, self._number(0), broker.encode(command))
        except CommandRefused:
            pass


def _result(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that only pauses. All of it is measured as one step."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as done:
            return done.value
