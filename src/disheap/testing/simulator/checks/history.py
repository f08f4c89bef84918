"""What clients saw, taken from the wire of their connections, and what must hold of it.

Two judgements, independent of each other. At once: real time. Whatever is asked now is answered from a place in the log
behind everything that was committed when it was asked. This is linearizability: for commands strictly behind, for reads
at least there. At the end: content. Each reply, each answer and each push is compared with what the sequential
reference says at its index. The pushes of a connection are the reference's pushes of that session, in order, without a
gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from disheap.errors import DiskFull, MemoryFull
from disheap.kernel.types import Entry
from disheap.protocol import frames
from disheap.protocol.frames import Fault, FrameReader, Kind, Status
from disheap.testing.simulator.checks.machines import ReferenceMachine
from disheap.testing.simulator.checks.reference_exchanges import Refused
from disheap.testing.simulator.checks.replay import Replay

ENTRY_NUMBER = 1 << 62
"""OPEN, ATTACH and CLOSE are numbered from here."""
NODE_FRAME_BYTES = 1 << 28

REFUSED_EARLY = (DiskFull.code, MemoryFull.code)
"""Refused before the log, so the sequence number stays unused."""
PUT_OFF = "window-exceeded"
"""The code of a refusal after which the same number may be sent again."""
Pushes = list[tuple[int, bytes]]
"""(index, encoded push), in order."""
Fail = Callable[[str], None]
Tables = dict[int, dict[int, tuple[int, list[int]]]]
"""By index of the log, then by session: what is confirmed, and which replies are kept."""


class Reply(NamedTuple):
    """A reply that a client received."""

    session: int
    seq: int
    status: int
    index: int  # type: ignore[assignment]  # a field; tuple.index is not used
    body: bytes


class Entered(NamedTuple):
    """A connection got its session: by an OPEN (no `body` to compare) or an ATTACH."""

    session: int
    index: int  # type: ignore[assignment]  # a field; tuple.index is not used
    status: int
    body: bytes
    opened: bool
    pushes: list[tuple[int, bytes]]  # what came on this connection
    heard: list[int]  # the index of the newest reply that did: what was pushed before it has come too


class Asked(NamedTuple):
    """A query of a client and its answer."""

    session: int
    body: bytes
    status: int
    index: int  # type: ignore[assignment]  # a field; tuple.index is not used
    answer: bytes


class Relayed(NamedTuple):
    """A message that a leader passed on without the log. It was made from the state after entry `index`."""

    session: int
    consumer: int
    payload: bytes


class History:
    """Everything that clients of a group sent and received, and the checks of it. `machine` reads what they say."""

    def __init__(self, machine: ReferenceMachine, last_committed: Callable[[], int], fail: Fail) -> None:
        self.replies: list[Reply] = []
        self.entered: list[Entered] = []
        self.asked: list[Asked] = []
        self.sent: dict[tuple[int, int], int] = {}  # (session, seq) -> what was committed when it was first sent
        self.sendings: dict[tuple[int, int], int] = {}
        self.refused: list[tuple[int, int]] = []  # for want of room, before the log; in the order of the refusals
        self.bodies: dict[tuple[int, int], bytes] = {}
        self.had: dict[tuple[int, int], None] = {}  # commands that were answered in some way
        self.prefixes: dict[int, int] = {}  # session -> up to here every command was answered
        self.deliveries = 0
        self.cast: dict[bytes, None] = {}  # payloads of transient messages
        self.relayed: dict[Relayed, int] = {}  # and the index
        self.last_committed = last_committed
        self.fail = fail
        self._machine = machine

    def tap(self, address: str) -> ClientTap:
        """A tap for one connection of a client."""
        return ClientTap(self)

    # --- the judgement in real time ---

    def commands_sent(self, session: int, seq: int, body: bytes) -> None:
        """Notes a command and the last entry that was committed when it was first sent."""
        key = (session, seq)
        if key not in self.sent and seq <= self.prefixes.get(session, 0):
            self.fail(f"a client sends seq {seq} of session {session}, which it has told to be over")
        known = self.bodies.setdefault(key, body)
        if known != body:
            self.fail(f"a client sends two commands under seq {seq} of session {session}")
        self.sent.setdefault(key, self.last_committed())
        self.sendings[key] = self.sendings.get(key, 0) + 1

    def casts(self, body: bytes) -> None:
        """Notes a command without a number."""
        payload = self._machine.message_cast(body)
        if payload is not None:
            self.cast[payload] = None

    def confirms(self, session: int, confirmed: int) -> None:
        """A client tells up to where it has every reply, and the nodes forget those."""
        prefix = self.prefixes.get(session, 0)
        while (session, prefix + 1) in self.had:
            prefix += 1
        self.prefixes[session] = prefix
        if confirmed > prefix:
            self.fail(f"a client confirms {confirmed} of session {session}, and {prefix + 1} was not answered")

    def was_relayed(self, session: int, index: int, push: bytes) -> bool:
        """Whether a push came without the log. Each such message was cast, and reaches a consumer at most once."""
        found = self._machine.message_relayed(push)
        if found is None:
            return False
        relayed = Relayed(session, *found)
        if relayed.payload not in self.cast:
            self.fail(f"{relayed} came without the log, and nobody has cast it")
        if relayed in self.relayed:
            self.fail(f"{relayed} came twice")
        self.relayed[relayed] = index
        return True

    def replied(self, reply: Reply) -> None:
        """Notes a reply, and checks that it comes from behind all entries that were committed when the command was
        sent."""
        self.had[reply.session, reply.seq] = None
        if reply.status == Status.ERROR and _content(reply.status, reply.body) in REFUSED_EARLY:
            self._refused(reply)
            return
        self.replies.append(reply)
        floor = self.sent.get((reply.session, reply.seq))
        if floor is None:
            self.fail(f"a reply to seq {reply.seq} of session {reply.session}, which nobody sent")
        elif reply.index <= floor:
            self.fail(
                f"seq {reply.seq} of session {reply.session} took place at {reply.index}; entry {floor} was committed "
                "before it was sent"
            )

    def _refused(self, reply: Reply) -> None:
        self.refused.append((reply.session, reply.seq))
        body = self.bodies.get((reply.session, reply.seq))
        if body is not None and not self._machine.brings_in(body):
            self.fail(f"seq {reply.seq} of session {reply.session} brings nothing in, and is refused for want of room")
        if reply.index:
            self.fail(f"seq {reply.seq} of session {reply.session} is refused for want of room, at {reply.index}")

    def answered(self, asked: Asked, floor: int) -> None:
        """Notes an answer, and checks that it is not older than `floor`, the last entry committed when it was asked."""
        self.asked.append(asked)
        if asked.index < floor and asked.index:
            self.fail(f"a stale read: answered from entry {asked.index}, and {floor} was committed when it was asked")

    # --- the judgement of content ---

    def check(self, log: list[Entry], replay: Replay, tables: Tables) -> None:
        """Replay the log and compare. `replay` is fresh; `tables` are session tables as nodes had them."""
        by_index: dict[int, list[Asked]] = {}
        for asked in self.asked:
            if asked.index:
                by_index.setdefault(asked.index, []).append(asked)
        listeners: dict[int, list[Relayed]] = {}
        for relayed, index in self.relayed.items():
            listeners.setdefault(index, []).append(relayed)
        early: list[Relayed] = []  # made from a state in which a part of the next entry was applied
        for entry in log:
            replay.feed(entry)
            for relayed in early:
                if not replay.machine.listens(relayed.session, relayed.consumer):
                    self.fail(f"{relayed} came without the log to who is no such consumer after entry {entry.index}")
            here = listeners.pop(entry.index, [])
            early = [one for one in here if not replay.machine.listens(one.session, one.consumer)]
            if replay.objection:
                self.fail(replay.objection)
            if tables.get(entry.index, replay.table) != replay.table:
                self.fail(f"sessions after entry {entry.index} are {tables[entry.index]}, not {replay.table}")
            for asked in by_index.get(entry.index, ()):
                self._check_answer(replay, asked)
        for key, times in replay.applied.items():
            if times != 1:
                self.fail(f"seq {key[1]} of session {key[0]} was carried out {times} times")
        logged = replay.machine.logged() if self.relayed else set()
        for relayed in self.relayed:
            if relayed.payload in logged:
                self.fail(f"{relayed} came without the log, and is in it")
        for reply in self.replies:
            self._check_reply(replay, reply)
        for key in self.refused:
            if self.sendings[key] == 1 and key in replay.answers:
                self.fail(f"seq {key[1]} of session {key[0]} was refused for want of room, and is in the log")
        for entered in self.entered:
            self._check_entered(replay, entered)

    def _check_reply(self, replay: Replay, reply: Reply) -> None:
        expected = replay.answers.get((reply.session, reply.seq))
        what = f"seq {reply.seq} of session {reply.session}"
        if (reply.session, reply.seq, reply.index) in replay.put_off:
            if _content(reply.status, reply.body) != PUT_OFF:
                self.fail(f"{what} was answered {self._show(reply.status, reply.body)} at {reply.index}, not {PUT_OFF}")
            return
        if expected is None:
            self.fail(f"{what} was answered at {reply.index}, and is not in the log")
        elif expected.index != reply.index or expected.body != _content(reply.status, reply.body):
            self.fail(f"{what} was answered {self._show(reply.status, reply.body)} at {reply.index}, not {expected}")

    def _check_answer(self, replay: Replay, asked: Asked) -> None:
        try:
            expected: bytes | str = replay.machine.ask(asked.body, replay.now_ms)
        except Refused as refusal:
            expected = str(refusal)
        if expected != _content(asked.status, asked.answer):
            shown = self._machine.show(expected) if isinstance(expected, bytes) else expected
            said, query = self._show(asked.status, asked.answer), self._machine.show_query(asked.body)
            self.fail(f"{query} after entry {asked.index} was answered {said}, not {shown}")

    def _check_entered(self, replay: Replay, entered: Entered) -> None:
        what = f"the connection that entered session {entered.session} at {entered.index}"
        known = replay.attached.get((entered.session, entered.index))
        if known is None:
            self.fail(f"{what}: nothing of it is in the log")
            return
        start, expected = known
        if not entered.opened and expected.body != _content(entered.status, entered.body):
            self.fail(f"{what} was answered {self._show(entered.status, entered.body)}, not {expected}")
        pushes = replay.pushes.get(entered.session, [])[start:]
        if not self._agree(pushes, entered.pushes, entered.heard[0]):
            self.fail(f"{what}: {self._first_difference(pushes, entered.pushes)}")

    def _show(self, status: int, body: bytes) -> str:
        content = _content(status, body)
        return self._machine.show(content) if isinstance(content, bytes) else repr(content)

    def _agree(self, expected: Pushes, seen: Pushes, heard: int) -> bool:
        """Whether what was seen begins what was expected, and is whole up to the reply that was heard. Within one index
        the order is promised to each consumer by itself. Which of two topics is served first, when timers of both fall
        due together, is not promised."""
        last = max(seen[-1][0] if seen else 0, heard)
        wanted, found = self._by_consumer(expected, last), self._by_consumer(seen, last)
        if any(key[0] < last and wanted[key] != found.get(key) for key in wanted):
            return False
        return all(wanted.get(key, [])[: len(pushes)] == pushes for key, pushes in found.items())

    def _by_consumer(self, pushes: Pushes, last: int) -> dict[tuple[int, int], list[bytes]]:
        groups: dict[tuple[int, int], list[bytes]] = {}
        for index, push in pushes:
            if index <= last:
                groups.setdefault((index, self._machine.consumer_of(push)), []).append(push)
        return groups

    def _first_difference(self, expected: Pushes, seen: Pushes) -> str:
        for place, (one, other) in enumerate(_together(expected, seen)):
            if one != other:
                return f"push {place} was {self._push(other)}, not {self._push(one)}"
        return "the pushes differ"

    def _push(self, one: tuple[int, bytes] | None) -> str:
        return "nothing" if one is None else f"{self._machine.show_push(one[1])} at {one[0]}"


class ClientTap:
    """One connection, from the client's side."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._out = FrameReader(NODE_FRAME_BYTES)
        self._in = FrameReader(NODE_FRAME_BYTES)
        self._session = 0
        self._entering = (0, 0)  # number, session asked for
        self._entered: Entered | None = None
        self._questions: dict[int, tuple[bytes, int]] = {}
        self._over = False

    def sent(self, data: bytes) -> None:
        """Reads the frames that the client sends."""
        for kind, frame in self._out.frames(data):
            if kind == Kind.COMMAND:
                envelope = frames.open_envelope(frame)
                self._history.confirms(envelope.session, envelope.confirmed)
                if envelope.seq:
                    self._history.commands_sent(envelope.session, envelope.seq, envelope.body)
                else:
                    self._history.casts(envelope.body)
            elif kind in (Kind.OPEN, Kind.ATTACH):
                envelope = frames.open_envelope(frame)
                self._entering = (envelope.seq, envelope.session)
            elif kind == Kind.QUERY:
                number, body = frames.open_numbered(frame)
                self._questions.setdefault(number, (body, self._history.last_committed()))

    def received(self, data: bytes) -> None:
        """Reads the frames that the client receives."""
        if self._over:
            return
        for kind, frame in self._in.frames(data):
            if kind == Kind.REPLY:
                self._reply(*frames.open_reply(frame))
            elif kind == Kind.PUSH and self._entered is not None:
                self._history.deliveries += 1
                index, push = frames.open_numbered(frame)
                if not self._history.was_relayed(self._session, index, push):
                    self._entered.pushes.append((index, push))
            elif kind == Kind.ANSWER:
                status, number, index, body = frames.open_reply(frame)
                asked = self._questions.get(number)
                if asked is not None:
                    self._history.answered(Asked(self._session, asked[0], status, index, body), asked[1])
            elif kind == Kind.GOODBYE:
                self._over = True

    def _reply(self, status: int, seq: int, index: int, body: bytes) -> None:
        if seq < ENTRY_NUMBER:
            self._history.replied(Reply(self._session, seq, status, index, body))
            if self._entered is not None:
                self._entered.heard[0] = max(self._entered.heard[0], index)
        elif seq == self._entering[0]:
            self._enter(status, index, body)

    def _enter(self, status: int, index: int, body: bytes) -> None:
        _, session = self._entering
        if not session and status == Status.OK:
            session = frames.GRANT.unpack_from(body)[0]
            self._entered = Entered(session, index, status, body, True, [], [0])
        elif session:
            self._entered = Entered(session, index, status, body, False, [], [0])
        else:
            return  # no room for another session: nothing is in the state
        if status == Status.OK:
            self._session = session
        self._history.entered.append(self._entered)


def _content(status: int, body: bytes) -> bytes | str:
    return body if status == Status.OK else msgspec.msgpack.decode(body, type=Fault).code


def _together(expected: Pushes, seen: Pushes) -> Iterator[tuple[tuple[int, bytes] | None, tuple[int, bytes] | None]]:
    for place in range(max(len(expected), len(seen))):
        yield (
            expected[place] if place < len(expected) else None,
            seen[place] if place < len(seen) else None,
        )
