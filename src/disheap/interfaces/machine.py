"""The contract of state machines: what the committed commands mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import msgspec

from disheap.interfaces.plugin import Plugin

Effect = tuple[int, bytes]
"""(session, push): bytes to be pushed to a session's current attachment, by the leader only."""

Effects = Sequence[Effect]


class MachineContext(NamedTuple):
    """Nothing yet: a machine has no clock, no entropy and no files. All it knows arrives through the log."""


class Principal(msgspec.Struct, frozen=True):
    """Who a client proved to be."""

    name: str = ""  # of its certificate; "" where the transport does not authenticate, or the certificate has no name


class StateMachine(Plugin, Protocol):
    """Deterministic: the same calls give the same replies, effects and hash on every replica. No I/O, no clock, no
    entropy, no set in hash order, no place in memory. Time arrives as `time_ms`, which never goes back.

    A call either does all or nothing. It raises `CommandRefused` (or a subclass) for a command that is wrong in itself
    or does not fit the state, before it has changed anything. Any other error ends the node. All calls are made on the
    loop's thread, one at a time, and none may take longer than a few milliseconds. Nothing is durable in a machine: the
    log is.
    """

    versions: ClassVar[tuple[int, int]]  # the lowest and highest `machine_version` it can run

    def __init__(self, settings: Any, context: MachineContext) -> None: ...

    def set_version(self, version: int) -> None:
        """The cluster runs this version from here on; commands beyond it are refused with `VersionTooOld`. Raises
        `VersionUnsupported` for one below `versions`: a stored state may be that old."""

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        """Carry out one command of a session: the reply, and what is pushed to whom, in that order. The reply is kept
        with the session, so that a command that is sent again is answered and not carried out again. Work beyond a
        bound is postponed and done by `advance`. Raises `CommandRefused`, and `VersionTooOld`."""

    def advance(self, time_ms: int, limit: int) -> tuple[int, Effects]:
        """Time has come to `time_ms`: do due timers in order of their deadlines, then postponed work, at most `limit`
        units of it. Returns the units done, and what is pushed. Called before the commands of each entry, and again for
        the same entry while `backlog` is true and the node's limit lasts. Raises nothing."""

    def backlog(self) -> bool:
        """Whether due timers or postponed work remain from the last `advance`; the leader then proposes a Continue.
        True on one replica and false on another only for work that changes nothing that anybody can notice."""

    def next_deadline(self) -> int | None:
        """`time_ms` of the earliest timer, so that the leader can propose the passing of time when nothing else
        does."""

    def session_opened(self, session: int, principal: Principal) -> None:
        """A new session of that client. Whoever attaches to it later has proved the same name and its secret."""

    def session_attached(self, session: int, held: bytes) -> tuple[bytes, Effects]:
        """The session has a new connection and says in `held` which deliveries it holds. The reply carries every lease
        of the session that it does not hold; the effects are for what starts to flow now. Raises `CommandRefused` for a
        `held` that cannot be read."""

    def session_detached(self, session: int) -> Effects:
        """The session has no connection for now; nothing new is assigned to it until `session_attached`."""

    def session_expired(self, session: int) -> Effects:
        """The session is over: what it held goes back, what it owned is deleted. Nothing is pushed to it any more, and
        a session that did nothing leaves the state as it found it. Raises nothing."""

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        """Read only: it changes nothing that a later call could notice. On the leader alone, when every command that
        was confirmed before is applied. `session` is 0 for the node itself. Raises `CommandRefused`."""

    def snapshot(self) -> Iterator[bytes]:
        """A view of the moment of this call, cheap to take. Iterating it makes pieces of at most 1 MiB, each in at most
        about 2 ms. Meanwhile other calls go on, and do not show in it. A generator function takes its view at the first
        `next`: write a function that takes the view and returns an iterator. The caller owns the pieces."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state by what `snapshot` wrote. `chunks` can be read once, and may be cut elsewhere. The
        version is set again after it. Raises `SnapshotDamaged`, and has changed nothing then."""

    def state_hash(self) -> bytes:
        """Of all that decides a later reply, in a canonical order; 16 bytes. Equal at equal index on all replicas,
        whatever of them was restored in between."""

    def stats(self) -> dict[str, int]:
        """Counters for `disheap status`; not part of the state. Cheap, and without a change. When it raises, the status
        shows the error and no counters."""


@runtime_checkable
class CommandSizing(Protocol):
    """Optional power of a machine: the node's limits grow with the largest command that its settings allow. Without it
    a command has at most 2 MiB, unless `limits.frame_bytes` says otherwise."""

    @classmethod
    def max_command_bytes(cls, settings: Any) -> int:
        """Of one encoded command, with these settings of the machine's own. Called once, before the machine is made."""


@runtime_checkable
class Screening(Protocol):
    """Optional power of a machine: the leader asks before it logs a command flagged TRANSIENT."""

    def admits(self, command: bytes) -> bool:
        """False when the command would do nothing in the present state, such as a message that nobody is bound for."""


@runtime_checkable
class SessionReporting(Protocol):
    """Optional power of a machine: `disheap session ls` shows what a session has."""

    def session_stats(self, session: int) -> dict[str, int]:
        """Few named counts, such as leases; the same names for every session, also for one that it does not know.
        Called up to 1,000 times for one answer."""


@runtime_checkable
class AllowedWhenFull(Protocol):
    """Optional power of a machine: it says which commands the leader takes while disk or memory is short. Without it,
    the leader then refuses every new command."""

    def allowed_when_full(self, command: bytes) -> bool:
        """Whether the command brings nothing in, such as an acknowledgement. Decided by the kind of the command, never
        by the state. False for what is no command. Never raises; called for each command while room is short."""


@runtime_checkable
class Hashing(Protocol):
    """Optional power of a machine: its state is hashed without a pause."""

    def hashing(self) -> Iterator[bytes]:
        """All that decides what it will reply, of this moment, in an order that is the same on every replica and after
        any restore. The view is taken now, each slice is made as it is asked for, in at most 2 ms."""


@runtime_checkable
class WorkCounting(Protocol):
    """Optional power of a machine: it counts what its calls cost. The node then pauses after costly commands. Without
    it, the node looks at the clock after eight commands."""

    def work_done(self) -> int:
        """Units of work of all calls so far, of 1 to 5 us each; only the growth counts. No part of the state. Called
        after each command."""


@runtime_checkable
class Sampling(Protocol):
    """Optional power of a machine, for tests: it names commands that mean something to it."""

    def sample_commands(self) -> Sequence[bytes]:
        """Of every kind, good ones first and foremost; sent again and again, in any order and from several sessions."""


@runtime_checkable
class SamplingQueries(Protocol):
    """Optional power of a machine, for tests: it names queries that mean something to it."""

    def sample_queries(self) -> Sequence[bytes]:
        """Of every kind. They are sent in any state, so some of them may be refused."""
