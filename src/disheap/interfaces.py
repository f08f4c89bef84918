"""The four contracts: Transport, Storage, Codec, StateMachine.

A plugin class has `name`, `api = 1` and `Settings`, a frozen msgspec struct with bounds. `Settings` is filled from the
plugin's own table of the configuration. The class is built as `cls(settings, context)`. Plugins take values and return
values: they never call back into the kernel. A class with the right methods fits; nothing needs to be inherited. The
registry refuses a class that lacks one.

An optional power is an interface of its own (`BlockingConnect`, `Screening`), found with `isinstance`, never a flag.

Each method says what is durable when it returns, which order it keeps, who owns the bytes, and which errors it raises.
An error that it does not name is a bug of the plugin, and in most calls the end of the node. The page
`docs/reference/contracts.md` is made from this module.
"""

from __future__ import annotations

import asyncio
import bisect
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import msgspec

from disheap.kernel.types import Entry, HardState, Index, SnapshotMeta, Term, TermRun

API = 1
"""The version of the contracts. A plugin that says another is refused."""

KINDS = ("transport", "storage", "codec", "machine")


class Plugin(Protocol):
    """What every plugin class carries."""

    name: ClassVar[str]  # by which the configuration chooses it; without '+' and '.'
    api: ClassVar[int]  # the version of the contracts that it was written for
    Settings: ClassVar[type[msgspec.Struct]]  # an empty struct where there is nothing to set


class Clock(Protocol):
    """Time, injected. Nothing reads it behind the owner's back."""

    def monotonic(self) -> float:
        """Seconds that never go back (pitfall 25: deadlines use this)."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch; may jump."""


# --- transport -------------------------------------------------------------------------------------------------------


class Connection(Protocol):
    """One end of an ordered, reliable stream of bytes between two nodes or a client and a node.

    The bytes are frames of `protocol.frames`; a transport does not look inside, so that one parser exists, and a run of
    frames can go from the socket into the log as one slice. All calls are made on the loop's thread.
    """

    remote: str  # the other end, for people to read
    certificate_name: str | None
    """The name that the other end proved; "" where it proved to belong here and has none, and None where the transport
    does not authenticate."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes behind those of earlier calls. Never blocks, and never raises. `data` stays the caller's, who may
        change it when the call returns. Bytes that are written after `close`, `abort` or the end are dropped."""

    def buffered(self) -> int:
        """Bytes queued and not yet handed to the operating system; 0 after the end."""

    def pause_reading(self) -> None:
        """Deliver no bytes from now on until `resume_reading`, also when called inside `data_received`. The end of the
        connection waits behind bytes that came before it. May be called twice, and after the end."""

    def resume_reading(self) -> None:
        """Deliver again, beginning with what came meanwhile. May be called twice, and after the end."""

    def close(self) -> None:
        """Flush what is queued, then close. Returns at once; `connection_lost(None)` follows exactly once, and no data
        before it. May be called twice."""

    def abort(self) -> None:
        """Close at once; what is queued is lost. `connection_lost` follows exactly once, and no data before it."""


class Receiver(Protocol):
    """Whoever owns a connection. The transport calls it on the loop's thread, `connection_made` first, once, and
    `connection_lost` last, once. It may write, pause and close in each of these calls."""

    def connection_made(self, connection: Connection) -> None:
        """The connection is there. For the end that connects this comes before `Transport.connect` returns."""

    def data_received(self, data: bytes) -> None:
        """Bytes in the order in which they were written, each once, cut anywhere. The receiver owns `data`."""

    def writing_paused(self) -> None:
        """More is queued than the transport wants to hold. Advice: `write` still takes everything."""

    def writing_resumed(self) -> None:
        """Enough of it has left. Comes after each `writing_paused` of a connection that goes on."""

    def connection_lost(self, error: Exception | None) -> None:
        """The end. `error` is None where either end closed in order. Nothing is called after it, and the transport
        lets go of the receiver: a node has no garbage collector that would free two objects that know each other."""


class Listener(Protocol):
    """An address that connections come in at."""

    address: str  # the address bound, with the port that was chosen where 0 was asked for

    async def close(self) -> None:
        """Stop accepting. The address is free when it returns; connections already made go on."""


class TransportContext(NamedTuple):
    """What a transport is built with: the loop that all its calls are made on."""

    loop: asyncio.AbstractEventLoop


class Transport(Plugin, Protocol):
    """Opens every socket there is, for peers and clients alike. Addresses are `host:port`, or what the plugin says."""

    secure: ClassVar[bool]  # both ends proved who they are and nobody reads along

    def __init__(self, settings: Any, context: TransportContext) -> None: ...

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> Listener:
        """Clients can connect when it returns. `accept` is called once for each connection, on the loop's thread.
        Raises `AddressInUse`, or `ConfigError` for an address that cannot be read or bound."""

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Connection:
        """The connection, of which `receiver` has heard `connection_made`. Raises `ConnectionLost` when nobody answers
        within `timeout_s`, and `ConfigError` for an unreadable address; then `receiver` hears nothing. Both name the
        address."""


@runtime_checkable
class Reloading(Protocol):
    """Optional power of a transport: while it runs, it reads the files again that its settings name."""

    def reload(self) -> None:
        """Connections made from now on use what the files say now; those that stand go on. Raises `ConfigError` for a
        file that cannot be used, and then everything stays as it was."""


class BlockingSocket(Protocol):
    """The part of a connected `socket.socket` (or `ssl.SSLSocket`) that the blocking client uses."""

    def send(self, data: bytes | memoryview, /) -> int:
        """How many bytes of `data` were taken. Raises `OSError`."""

    def recv(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" at the end. Raises `OSError`, and `TimeoutError` where a timeout is set."""

    def setblocking(self, flag: bool, /) -> None:
        """As of `socket.socket`."""

    def settimeout(self, seconds: float | None, /) -> None:
        """As of `socket.socket`."""

    def fileno(self) -> int:
        """For `select`; -1 after `close`."""

    def close(self) -> None:
        """May be called twice."""


class PendingSocket(Protocol):
    """A connection that is being made. Several may be under way at once, so no method waits."""

    @property
    def wants_write(self) -> bool:
        """Wait until `fileno` is ready for writing; otherwise for reading."""

    def fileno(self) -> int:
        """Another one after each `advance`, perhaps."""

    def advance(self) -> BlockingSocket | None:
        """The connected socket, which does not block yet; None while more has to come. Raises `ConnectionLost`."""

    def explain(self, error: OSError | None) -> str:
        """What it means that a connected socket ended (None: was closed) before the node had said anything."""

    def close(self) -> None:
        """Give up. Not after `advance` has returned the socket: that is the caller's."""


@runtime_checkable
class BlockingConnect(Protocol):
    """Optional power of a transport: sockets for clients in processes that fork. Needs no loop."""

    @classmethod
    def start_connecting(cls, settings: Any, address: str) -> PendingSocket:
        """Waits for nothing but the resolution of a host's name. Raises `ConnectionLost`, and `ConfigError` for
        settings or an address that are of no use."""


# --- codec -----------------------------------------------------------------------------------------------------------


class StreamContext(NamedTuple):
    """What a stream is: `purpose` is "segment", "snapshot" or "connection"; `label` names it within its node."""

    purpose: str
    label: str


class Stream(Protocol):
    """One segment, snapshot or connection. `position` is that of the block in it. It is below 2^62; positions have gaps
    and come in any order. A position is encoded again when the entries that were there are superseded. So a stream
    whose secrecy needs a nonce once must not make it of the position alone. Called on the disk's thread, one call at a
    time."""

    def encode(self, raw: bytes, position: int) -> bytes:
        """What is stored: at most a sixty-fourth and 1,024 bytes longer than `raw`. The caller owns the result. Raises
        nothing."""

    def decode(self, stored: bytes, position: int, raw_limit: int) -> bytes:
        """Raises `CodecError` when `stored` is damaged or would exceed `raw_limit` bytes; memory is taken after that
        check, never before."""


class CodecContext(NamedTuple):
    """What a codec is built with. All its entropy comes from `random`: equal generators give equal bytes, so that a
    simulated cluster can be run again. A node gives it the system's entropy."""

    random: random.Random


class Codec(Plugin, Protocol):
    """What is done to blocks on their way to a storage, such as compression or encryption."""

    def __init__(self, settings: Any, context: CodecContext) -> None: ...

    def new_stream(self, context: StreamContext) -> tuple[bytes, Stream]:
        """A preamble (what is needed to read the stream again; at most 4 KiB) and the stream."""

    def open_stream(self, preamble: bytes, context: StreamContext) -> Stream:
        """The stream again, by its preamble alone: the codec that wrote it may have run in another process, with other
        settings. Raises `WrongCodec`, a `CodecError`, when the preamble is not this codec's."""


# --- storage ---------------------------------------------------------------------------------------------------------


class Identity(msgspec.Struct, frozen=True):
    """Whose data these are. `incarnation` is drawn when the data directory is made, and never again."""

    cluster_id: str
    node_id: int
    name: str
    incarnation: int


class Acquaintances(NamedTuple):
    """Which members a node has met, and whether it has taken part since its directory was made."""

    takes_part: bool
    incarnations: tuple[tuple[int, int], ...]  # (member, incarnation), by member


class Damage(NamedTuple):
    """Entries that were durable, or may have been, and cannot be read: all of one term, in one place of one file."""

    first: Index
    last: Index
    term: Term
    file: str
    offset: int  # bytes


class LostSnapshot(NamedTuple):
    """No snapshot can be read that the log goes on from. One at `needed` or later makes up for it."""

    needed: Index
    reason: str


class Recovered(NamedTuple):
    """What `Storage.open` found. Field by field as `kernel.types.Restored`; `snapshot` is None where there is none."""

    identity: Identity
    fresh: bool  # the storage was empty and is now initialised
    hard_state: HardState
    snapshot: SnapshotMeta | None
    first_index: Index
    last_index: Index
    runs: tuple[TermRun, ...]
    memberships: tuple[tuple[Index, bytes], ...]
    tail: tuple[Entry, ...]
    ambiguous_after: Index | None  # entries behind it may be lost; what those superseded, before it, shows again
    damaged: tuple[Damage, ...] = ()  # by index; only from a `Repairable` storage that is not alone
    lost_snapshot: LostSnapshot | None = None

    @property
    def is_damaged(self) -> bool:
        """Then `tail` and `memberships` say nothing, and the storage takes no entries before it is repaired and opened
        anew."""
        return bool(self.damaged) or self.lost_snapshot is not None


class Holding(NamedTuple):
    """What a node's storage holds, readable or not: the terms are known of damaged entries too."""

    hard_state: HardState
    snapshot: Index
    snapshot_term: Term
    first: Index
    last: Index  # first - 1 when the log is empty
    runs: tuple[TermRun, ...]
    damaged: tuple[Damage, ...]
    ambiguous: bool  # entries behind `last` may have been lost
    lost_snapshot: LostSnapshot | None

    @property
    def is_damaged(self) -> bool:
        return bool(self.damaged) or self.lost_snapshot is not None

    def term_at(self, index: int) -> Term | None:
        """None where the log does not reach."""
        if not self.first <= index <= self.last:
            return None
        return self.runs[bisect.bisect_right(self.runs, index, key=lambda run: run.first) - 1].term

    def is_damaged_at(self, index: int) -> bool:
        return any(place.first <= index <= place.last for place in self.damaged)


class SnapshotWriter(Protocol):
    """A snapshot on its way to the disk. Nobody sees it before `commit` returns. Appends go on between its calls."""

    def write(self, chunk: bytes) -> None:
        """Append raw bytes, at most 1 MiB. Bounded work: it syncs as it goes, so that no call waits long. Raises
        `StorageFull`, after which only `abort` is called, and `DiskFailed`."""

    def commit(self) -> None:
        """Contents and name are durable when it returns. Older snapshots beyond two are removed. Raises `StorageFull`,
        and `DiskFailed`."""

    def abort(self) -> None:
        """Leaves nothing behind. May be called after a failed `write` or `commit`."""


class SnapshotReader(Protocol):
    """A snapshot that is read. It goes on to its end although newer snapshots remove it meanwhile."""

    meta: SnapshotMeta

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` raw bytes from raw `offset`. Fewer only where the snapshot ends, and b"" behind its end.
        Sequential offsets are cheap. Raises `SnapshotDamaged`, and `DiskFailed`."""

    def close(self) -> None:
        """May be called twice. Called before the storage is closed."""


@runtime_checkable
class Rereadable(Protocol):
    """Optional power of a `SnapshotWriter`: a leader's snapshot is tried before it takes the place of a log that was
    good. Without it, a node that is sent what it cannot read ends, and has neither."""

    def reread(self) -> SnapshotReader:
        """What was written, before `commit`. Nothing is written until it is closed."""


class StorageUsage(NamedTuple):
    """How much a storage holds, and how much room there is."""

    log_bytes: int  # on disk, all segments
    snapshot_bytes: int  # on disk, all snapshots
    log_bytes_since_snapshot: int  # on disk, for deciding when the next is due
    free_bytes: int | None = None  # room left where it is kept; None where that is not bounded by a disk


class StorageContext(NamedTuple):
    """`directory` is the group's own: `<data>/groups/<group>`; a storage without files ignores it."""

    directory: str
    codec: Codec
    codec_name: str
    clock: Clock
    random: random.Random


class Storage(Plugin, Protocol):
    """Keeps the log, the term and the vote, and the snapshots of one group. Blocking, and called from one thread at a
    time. What it returns belongs to the caller.

    A write for which there is no room raises `StorageFull`: nothing of it counts, and the storage goes on. Any other
    error of a write, a sync or a close is a `DiskFailed`. After that every call but `close` raises `DiskFailed`, and
    nothing more is written: a sync that failed is never tried again. Every block passes through the codec of the
    context; a stream's preamble is kept with it.

    A storage whose data can be taken away under it (files removed or moved) raises `StorageGone`, a `DiskFailed`, from
    `append`, `save_hard_state` and the commit of a snapshot instead of confirming them, and from `usage`.
    """

    durable: ClassVar[bool]  # survives the end of the process; then it is `Remembering`, too

    def __init__(self, settings: Any, context: StorageContext) -> None: ...

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        """Lock, check and recover. An empty storage takes `identity` for its own, durably. The incarnation given is
        ignored where one is stored. `tail_bytes` bounds the data of `Recovered.tail`. `alone` says that the cluster has
        no other voter: then an ambiguous last block is dropped, and damage is refused.

        Raises `StorageLocked` when it is open already, here or in another process. Raises `WrongDirectory` when
        cluster, node id or name are others than those stored, and `WrongCodec` when another codec wrote it. Raises
        `LogDamaged` and `SnapshotDamaged` for damage that is not told by `Recovered`. Whatever it refuses is as it was
        before. Raises `StorageFull`, and `DiskFailed`."""

    def save_hard_state(self, state: HardState) -> None:
        """Durable when it returns. Survives any truncation or loss of log files. Called before entries of its term are
        appended. Raises `DiskFailed`; on a full disk, too, it has the room that it needs, or raises `StorageFull`."""

    def append(self, entries: Sequence[Entry]) -> None:
        """Contiguous entries, all durable when it returns. The first index is at most last_index + 1. Where it is less,
        the stored entries from there on are superseded, and never come back. A crash inside the call leaves the first
        entries of it, or none.

        Raises `StorageFull` when there is no room: then nothing of the call counts, what was there before is as it was,
        and the same call may succeed later. Raises `DiskFailed`."""

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `first` on, in order, up to `last` and `max_bytes` of data, but at least one. () where the log
        does not hold `first`. The caller owns them. Raises `LogDamaged`, and `DiskFailed`."""

    def compact(self, first_index: Index) -> Index:
        """Entries below `first_index` are no longer needed, and may go when it suits the storage. Returns the oldest
        index that can still be read, at most `first_index`. Called behind a snapshot that is durable. Raises
        `DiskFailed`."""

    def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> SnapshotWriter:
        """A writer. With `replaces_log` (a snapshot from the leader) its commit drops the whole log, which goes on at
        meta.index + 1. That is atomic: after a crash there is either the old log and no snapshot, or the snapshot and
        an empty log. Raises `StorageFull`, and `DiskFailed`."""

    def open_snapshot(self, index: Index | None = None) -> SnapshotReader | None:
        """The snapshot at `index`, or the newest; None where there is none. The caller closes it. Raises
        `SnapshotDamaged`, and `DiskFailed`."""

    def clear_ambiguity(self) -> None:
        """The node has caught up past `Recovered.ambiguous_after`: forget it, durably. Until this is called, every
        `open` reports it again, so that a second crash does not hide what the first one may have lost. Raises
        `DiskFailed`."""

    def flush(self) -> None:
        """Called after 100 ms without an append, or after three seconds if the last append held only transient
        commands. Write down what would otherwise ride on the next append. Nothing depends on it. Raises `StorageFull`,
        and `DiskFailed`."""

    def usage(self) -> StorageUsage:
        """Of this moment. Cheap: called many times a second. It is also where a storage notices that its data are gone
        while nothing is written. Raises `DiskFailed`."""

    def close(self) -> None:
        """Flush and unlock. May be called twice, and after an error. After it every other call raises
        `StorageError`."""


@runtime_checkable
class Repairable(Protocol):
    """Optional power of a storage: damage is told instead of refused, and good entries can be put in its place. After
    an `open` that found damage, nothing but these, `read`, `save_hard_state`, snapshots and `close` is called."""

    def holding(self) -> Holding:
        """What is there, readable or not. Raises `DiskFailed`."""

    def mend(self, entries: Sequence[Entry]) -> None:
        """Good entries in the place of damaged ones, of the same index and term. Durable when all of a file's are
        there; nothing that is good is ever cut off. Raises `StorageFull`, and `DiskFailed`."""

    def cut(self, first: Index) -> None:
        """Entries from `first` on never were a majority's: drop them, durably. All damage before it is mended.
        Raises `DiskFailed`."""


class Scrubbed(NamedTuple):
    """One piece was read. `cursor` is where to go on, () at the end; `mended` says what was damaged and needs nobody's
    help: it was written again from memory, or removed because something newer stands for it."""

    cursor: tuple[int, ...]
    bytes: int
    mended: str = ""


@runtime_checkable
class Scrubbable(Protocol):
    """Optional power of a storage: what it holds can be read and compared with its checksums, a piece at a time."""

    def scrub(self, cursor: tuple[int, ...], max_bytes: int) -> Scrubbed:
        """From `cursor` on, () for the beginning, about `max_bytes`, from the disk itself where that is possible. A
        cursor stays good while the log grows and is trimmed. Raises `LogDamaged` and `SnapshotDamaged` for what is
        needed, `StorageFull` when there is no room to write something again, and `DiskFailed`."""


@runtime_checkable
class Remembering(Protocol):
    """Required of a storage whose `durable` is True; no other has it. It keeps whom its node has met, so that a member
    that was wiped is known by its new incarnation. A storage that was just made has met nobody and takes no part."""

    def acquaintances(self) -> Acquaintances:
        """What was remembered last. Allowed while the storage is damaged. Raises `DiskFailed`."""

    def remember(self, acquaintances: Acquaintances) -> None:
        """Durable when it returns, as a whole. Allowed while the storage is damaged. Raises `StorageFull`, and
        `DiskFailed`."""


@runtime_checkable
class OnFilesystem(Protocol):
    """Optional power of a storage, for tests: it runs on a filesystem that it is given. With it the conformance suite
    can cut the power, fill the disk and let it fail. Without it the suite cannot tell whether the storage syncs."""

    @classmethod
    def on_filesystem(cls, context: StorageContext, filesystem: Any) -> Storage:
        """A storage that keeps all its files there; `disheap.testing.crashing_disk` has the methods. It is built with
        small files, so that a short test sees the storage begin and drop some."""


# --- state machine ---------------------------------------------------------------------------------------------------

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
class MemoryEstimating(Protocol):
    """Optional power of a machine or a storage: it knows about how much memory it takes. Without it, the node relies on
    the real size of its process, which is late to grow and slow to shrink."""

    def memory_bytes(self) -> int:
        """About how many bytes of memory it takes, all overhead included. A machine's state grows with every command
        that stores something, and falls to what an empty state takes when everything is removed and postponed work is
        done. A storage counts what it holds of the log and of snapshots. Asked many times a second: in constant time,
        without a change; of a storage also while another thread is in a call. May differ between replicas."""


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


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a plugin came from, for `disheap plugins` and for error messages."""

    distribution: str
    version: str
    entry_point: str
