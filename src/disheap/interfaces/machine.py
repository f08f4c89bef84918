"""The contract of state machines: what the committed commands mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import msgspec

from disheap.interfaces.plugin import Plugin

Effect = tuple[int, bytes]
"""(session, push): bytes to be pushed to a session's current attachment, by the leader only."""

Effects = Sequence[Effect]


class MachineContext(NamedTuple):
    """A machine has no clock, no entropy and no files. Everything else that it knows arrives through the log."""

    group: int = 0  # the machine's own group, the source of what it forwards


class Principal(msgspec.Struct, frozen=True):
    """The identity that a client has proved."""

    name: str = ""  # of its certificate; "" if the transport does not authenticate, or the certificate has no name


class StateMachine(Plugin, Protocol):
    """Deterministic: the same calls give the same replies, effects and hash on every replica. A machine uses no I/O, no
    clock, no entropy, no set in hash order and no memory address. Time arrives as `time_ms`, which never goes back.

    A call does everything or nothing. It raises `CommandRefused` (or a subclass) for a command that is wrong or does
    not fit the state, before it has changed anything. Any other error ends the node. All calls are made on the loop's
    thread, one at a time. None may take longer than a few milliseconds. A machine stores nothing durably, because the
    log does.
    """

    versions: ClassVar[tuple[int, int]]
    """The lowest and highest `machine_version` it can run. A new log begins at the lowest. A later release may leave
    out old versions. It refuses a log that begins with one of them, and a snapshot of one."""

    def __init__(self, settings: Any, context: MachineContext) -> None: ...

    def set_version(self, version: int) -> None:
        """From here on the cluster runs this version, in what is applied and in what `snapshot` writes. A command that
        does not exist at this version is refused with `VersionTooOld`, whether this release knows it or not. Old and
        new releases must give the same replies while a cluster is upgraded. Raises `VersionUnsupported` for a version
        that is not in `versions`; a stored state may be of one."""

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        """Applies one command of a session. With session 0 it is a command that a leader proposed by itself: a message
        of another group, or what `Forwarding.forget` returned. Returns the reply and the pushes, in that order. The
        reply is kept with the session, so that a repeated command is answered and not applied again. Work beyond a
        bound is postponed to `advance`. Raises `CommandRefused`, of which `VersionTooOld` is one."""

    def advance(self, time_ms: int, limit: int) -> tuple[int, Effects]:
        """Time has come to `time_ms`. Fires due timers in the order of their deadlines, then does postponed work, at
        most `limit` units of it. Returns the units done, and the pushes. Called before the commands of each entry.
        Called again for the same entry while `backlog` is true and the node's limit lasts. Raises nothing."""

    def backlog(self) -> bool:
        """Whether due timers or postponed work remain from the last `advance`. Then the leader proposes a Continue.
        Replicas may differ only if the work that remains changes nothing that anybody can notice."""

    def next_deadline(self) -> int | None:
        """`time_ms` of the earliest timer. The leader proposes the passing of time for it when nothing else is
        proposed."""

    def session_opened(self, session: int, principal: Principal) -> None:
        """A new session of that client. A client that attaches to it later has proved the same name and its secret."""

    def session_attached(self, session: int, held: bytes) -> tuple[bytes, Effects]:
        """The session has a new connection. `held` says which deliveries it holds. The reply carries every lease of the
        session that it does not hold. The effects are the pushes that start now. Raises `CommandRefused` for a `held`
        that cannot be read."""

    def session_detached(self, session: int) -> Effects:
        """The session has no connection for now. Nothing new is assigned to it until `session_attached`."""

    def session_expired(self, session: int) -> Effects:
        """The session has ended. What it held goes back, and what it owned is deleted. Nothing is pushed to it any
        more. A session that did nothing leaves the state as it found it. Raises nothing."""

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        """Answers a read. Changes nothing that a later call could notice. Called only on the leader, when every
        confirmed command is applied. `session` is 0 for the node itself. Raises `CommandRefused`."""

    def snapshot(self) -> Iterator[bytes]:
        """Returns a view of the state at the moment of this call, cheap to take. Iterating over it gives pieces of at
        most 1 MiB, each in at most about 2 ms. Other calls go on meanwhile, and do not show in the view. Do not write a
        generator function, because it takes its view at the first `next`. Write a function that takes the view and
        returns an iterator. The caller owns the pieces."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replaces the whole state by what `snapshot` wrote. `chunks` can be read once, and may be cut at other places.
        The version is set again after it. Raises `SnapshotDamaged`, or `VersionUnsupported` for a format that this
        release does not read, and has changed nothing then."""

    def state_hash(self) -> bytes:
        """A hash of all that decides a later reply, in a canonical order; 16 bytes. Equal at equal index on all
        replicas, whether they were restored in between or not."""

    def stats(self) -> dict[str, int]:
        """Counters for `disheap status`. They are not part of the state. The call is cheap and changes nothing. When it
        raises, the status shows the error and no counters."""


@runtime_checkable
class CommandSizing(Protocol):
    """Optional power of a machine: the node's limits grow with the largest command that its settings allow. Without it
    a command has at most 2 MiB, unless `limits.frame_bytes` says otherwise."""

    @classmethod
    def max_command_bytes(cls, settings: Any) -> int:
        """The size of the largest encoded command with these settings of the machine. Called once, before the machine
        is made."""


@runtime_checkable
class FixedConstants(Protocol):
    """Optional power of a machine: it names the constants in its code that decide what a replica does. Nodes compare
    them, and refuse each other if a version has other constants in the two releases. Without it, such nodes find that
    their states differ only when they compare the state hashes."""

    @classmethod
    def constants(cls, version: int) -> Mapping[str, int]:
        """Names and values for this `machine_version`, one of `versions`. Two releases that run a version in the same
        way give the same names and values. Called when the node starts, before the machine is made."""


@runtime_checkable
class Screening(Protocol):
    """Optional power of a machine: the leader asks before it logs a command flagged TRANSIENT."""

    def admits(self, command: bytes) -> bool:
        """False when the command would do nothing in the present state, such as a message for an exchange without
        bindings."""


@runtime_checkable
class Relaying(Protocol):
    """Optional power of a machine: some commands flagged TRANSIENT pass by the leader's memory alone. They are written
    to no log, and no other node learns of them."""

    def relay(self, time_ms: int, command: bytes) -> Effects | None:
        """The pushes of the command, if to send them is all that it would do. The leader sends them, and the command is
        done with: a push to a session without a connection is dropped. None if the command has to go through the log,
        because it would change the state or be refused. Changes nothing that a later call could notice. Called on the
        leader for each transient command, before `Screening.admits`. Raises nothing, for bytes that are no command
        either."""


@runtime_checkable
class SessionReporting(Protocol):
    """Optional power of a machine: `disheap session ls` shows what a session holds."""

    def session_stats(self, session: int) -> dict[str, int]:
        """A few named counts, such as leases. The names are the same for every session, also for an unknown one. Called
        up to 1,000 times for one answer."""


@runtime_checkable
class AllowedWhenFull(Protocol):
    """Optional power of a machine: it says which commands the leader accepts while disk or memory is short. Without it,
    the leader then refuses every new command."""

    def allowed_when_full(self, command: bytes) -> bool:
        """Whether the command brings nothing in, such as an acknowledgement. The kind of the command decides, never the
        state. False for bytes that are not a command. Never raises. Called for each command while disk or memory is
        short."""


@runtime_checkable
class Hashing(Protocol):
    """Optional power of a machine: its state is hashed in slices, so that the hash does not stop the loop."""

    def hashing(self) -> Iterator[bytes]:
        """Gives all that decides a later reply, at the moment of this call. The order is the same on every replica and
        after any restore. The view is taken now. Each slice is made on demand, in at most 2 ms."""


@runtime_checkable
class Discarding(Protocol):
    """Optional power of a machine: a large state that another replaced is freed in slices. Without it, the state is
    freed in one step, which stops the loop: 300 ms for a million records."""

    def discarding(self) -> Iterator[None]:
        """Frees the state, a part at each step, in at most 2 ms. Ends when what is left is freed in one step.
        Called when a leader's snapshot or a repair has replaced the state. Nothing is called afterwards, but views
        that were taken before may still be read. They show what they would have shown."""


@runtime_checkable
class Forwarding(Protocol):
    """Optional power of a machine: its commands put messages for other groups into an outbox, which is a part of the
    state. The leader sends each message as a command to its group, again and again until that group has confirmed it.
    Then a command of this machine forgets it.

    Messages from one group to another are numbered 1, 2, 3, ... without gaps, for ever. A message is a command of the
    target's machine. It names its source group and its number. The target's machine takes number n + 1 after n, and
    keeps the highest number that it took from each source. A number that it took before changes nothing and is
    answered with a reply. A number too high raises `CommandRefused` and changes nothing. What a message says is never a
    reason to refuse it: a refused message is sent again, and all later ones wait behind it.

    The target's machine has this power, too, also if it sends nothing: it says that a message may come again. A message
    and a `forget` are applied with session 0. A client's session is never 0, so the machine can refuse a client that
    passes for a group.
    """

    def waiting(self) -> Mapping[int, int]:
        """How many messages wait, by the group that they are for; the groups in ascending order. A group for which none
        waits is left out. Cheap: called after each batch of entries and at every tick."""

    def outbox(self, group: int, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """(number, command) of the messages that wait for `group`, in the order of their numbers: those above `after`,
        at most `limit`. Changes nothing. Takes at most 2 ms for a limit of 64."""

    def forget(self, group: int, number: int) -> bytes:
        """A command of this machine. Applied, it removes the messages for `group` up to `number`, however often it is
        applied. Changes nothing by itself."""

    def renumber(self) -> None:
        """Every group of a new cluster begins with a restored state, and the states are not of one moment. So the
        numbers of two groups need not fit. What waits is numbered from 1 again, and nothing counts as taken. The other
        group may get a message that it had taken, so what it says must change nothing then. Called outside of a node,
        once, before the new cluster starts."""


@runtime_checkable
class GroupKnowing(Protocol):
    """Optional power of a `Forwarding` machine: it knows which groups take messages, and so it can refuse a command
    that names another one. A machine in its first state knows itself alone."""

    def know_groups(self, groups: Sequence[int]) -> bytes | None:
        """A command of this machine. Applied, with session 0, it makes exactly these groups known, in ascending order.
        Returns None if they are. Called when this node begins to lead. Changes nothing by itself."""


@runtime_checkable
class CrossChecking(Protocol):
    """Optional power of a `Forwarding` machine: it finds what is done in one group and can never be done in another.
    That happens when the states of all groups are put together, and are not of one moment. Called outside of a node,
    before `renumber`."""

    def told(self) -> Iterable[tuple[int, bytes]]:
        """(group, message) of what this group has told other groups to do, as far as it remembers. It has messages of
        the outbox, and others that were confirmed and forgotten there."""

    def lacks(self, message: bytes) -> str:
        """Whether this group has not done what a message of another group says, and cannot do it. Then a command that
        came before it is missing. Returns a name, such as that of a transaction; "" if all is well."""


@runtime_checkable
class WorkCounting(Protocol):
    """Optional power of a machine: it counts the cost of its calls. The node then pauses after costly commands. Without
    it, the node checks the clock after eight commands."""

    def work_done(self) -> int:
        """Units of work of all calls so far, of 1 to 5 us each. Only the growth counts. Not part of the state. Called
        after each command."""


@runtime_checkable
class Sampling(Protocol):
    """Optional power of a machine, for tests: it names commands that are valid for it."""

    def sample_commands(self) -> Sequence[bytes]:
        """Commands of every kind, mostly valid ones. The suite sends them again and again, in any order and from
        several sessions."""


@runtime_checkable
class SamplingQueries(Protocol):
    """Optional power of a machine, for tests: it names queries that are valid for it."""

    def sample_queries(self) -> Sequence[bytes]:
        """Queries of every kind. The suite sends them in any state, so some of them may be refused."""
