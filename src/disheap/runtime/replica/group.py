"""A group drives one kernel, one storage and one replicated state (docs/explanation/architecture.md). Owns the order in
which commands are proposed, written, sent, applied and answered, all on the loop's thread in `_pump`. Does not know
sockets (it gets a callback to send), clients (it gets envelopes) and the machine's commands.

Group commit needs no timer. While a write is in flight, commands are gathered. When it is durable, they go into the log
together. A leader's followers write in parallel with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from disheap.errors import (
    MalformedFrame,
    Overloaded,
    ProtocolError,
)
from disheap.interfaces import Histogram, MemoryEstimating
from disheap.kernel import membership
from disheap.kernel.raft import Raft
from disheap.kernel.types import (
    NOBODY,
    Entry,
    EntryKind,
    Index,
    Membership,
    Message,
    NodeId,
    Ready,
    SnapshotMeta,
    Write,
    new_record,
)
from disheap.logs import get_logger
from disheap.protocol import frames
from disheap.protocol.frames import Kind
from disheap.runtime.clocks.timekeeping import Timekeeper
from disheap.runtime.disk.thread import WatchedDisk
from disheap.runtime.replica.applying import Applier
from disheap.runtime.replica.backups import Backups
from disheap.runtime.replica.catching_up import CatchUp
from disheap.runtime.replica.commit_times import CommitTimes
from disheap.runtime.replica.contact import Contact
from disheap.runtime.replica.counters import Counters
from disheap.runtime.replica.gathering import Gathering
from disheap.runtime.replica.idle_flush import IdleFlush
from disheap.runtime.replica.proposals import Proposals
from disheap.runtime.replica.reads import OnRead, Reads
from disheap.runtime.replica.recovery import Found
from disheap.runtime.replica.snapshots import Snapshotter
from disheap.runtime.replica.wiring import GroupCallbacks, GroupLimits, GroupParts
from disheap.runtime.replica.writer import Writer
from disheap.runtime.state.hash_requests import StateHasher
from disheap.runtime.state.sessions import Sessions

log = get_logger(__name__)

MAX_WRITE_S = 5.0
"""A leader whose write takes longer transfers leadership: this is more than a slow sync."""
MAX_TERM_JUMP = 1 << 32
"""A message that is further ahead is refused: that many elections take a century, at one a second. A term never
decreases. A term close to the largest number would leave none for later elections."""


class Group:
    """Does nothing unless its `lifecycle` is running. When a log was repaired, another group takes its place."""

    def __init__(
        self,
        number: int,
        raft: Raft,
        found: Found,
        parts: GroupParts,
        limits: GroupLimits,
        callbacks: GroupCallbacks,
    ) -> None:
        loop, clock, storage = parts.loop, parts.clock, parts.storage
        self.number = number
        self.raft = raft
        self.sessions = found.sessions
        self.applied = found.applied
        """Where the machine stands: index, term, time and membership of the last entry applied."""
        self.counters = Counters()
        self._lifecycle = parts.lifecycle
        self._comparing = parts.comparing
        self._storage = storage
        self._loop = loop
        self._disk = disk = WatchedDisk(parts.disk, self.fail)
        self._limits = limits
        self._on = callbacks
        self._send, self._flush, self._on_applied = callbacks.send, callbacks.flush, callbacks.applied
        self._time = Timekeeper(clock, loop, parts.clock_check, found.log_time_ms, self._continue, number)
        self._membership = raft.membership
        self._leader = NodeId(0)
        self._leads = False
        self.gathering = Gathering(limits.entry_bytes, limits.gather_bytes)
        self._finished: list[Entry] = []  # applied, and not yet told to the kernel
        self.commit_times = CommitTimes(clock)
        self.write_seconds = Histogram()
        self._writer = Writer(
            storage, disk, loop=loop, clock=clock, written=self._written, failed=self.fail,
            took=self.write_seconds.observe, group=number,
        )  # fmt: skip
        self.contact = Contact(raft, loop.time, limits.contact_s)
        self.proposals = Proposals(self)
        self._ambiguous = raft.is_ambiguous
        self._pump_due = self._is_pumping = False
        self._idle_flush = IdleFlush(clock)
        self._reads = Reads(raft)
        self.applier = Applier(clock, self._steps, callbacks.worked)
        self.hasher = StateHasher(loop, self._view_state)
        self.snapshotter = Snapshotter(self, storage, disk, limits.snapshots)
        self._catch_up = CatchUp(self, storage, disk, limits.chunk_bytes, parts.fresh_sessions)
        self.backups = Backups(self, storage, disk, limits.chunk_bytes, loop)

    # --- what goes in ------------------------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether this node leads the group, as the server and the machine were told."""
        return self._leads

    @property
    def leader(self) -> NodeId:
        """The leader of the present term; `NOBODY` if it is not known."""
        return self.raft.leader

    @property
    def is_running(self) -> bool:
        """Whether the replica takes part. Otherwise nothing carries out the kernel's `Ready`."""
        return self._lifecycle.is_running

    def submit(self, envelopes: bytes) -> None:
        """Put one or more whole envelopes into the log. They are dropped when this node does not lead (any more).
        Clients notice because their connections are closed, and send them again under the same numbers."""
        self.gathering.add(envelopes)
        self.wake()

    def log_bytes(self) -> int:
        """The memory, in bytes, of the commands that wait, the end of the log, and what the storage holds."""
        storage = self._storage
        stored = storage.memory_bytes() if isinstance(storage, MemoryEstimating) else 0
        return self.gathering.size_bytes + self.raft.log_cache_bytes + stored

    def full(self) -> bool:
        """Whether the server should stop reading from clients for now."""
        return self.gathering.is_full

    def read(self, answer: OnRead) -> None:
        """`answer(True)` when the state is at least as new as this call (ReadIndex, dissertation §6.4), `answer(False)`
        when leadership was lost first."""
        if not self.is_running:
            answer(False)
            return
        self._reads.add(answer)
        self.wake()

    def step(self, message: Message) -> None:
        """Raises `ProtocolError` for a message that cannot be read, before it has changed anything."""
        if not self.is_running:
            return
        raft = self.raft
        if message.term - raft.term > MAX_TERM_JUMP:
            raise MalformedFrame(f"a message of term {message.term}, where the term is {raft.term}")
        try:
            raft.step(message)
        except ProtocolError:
            raise
        except BaseException as error:
            self.fail(error)
        if self._leads and message.term == raft.term:
            self.contact.heard(message)
        if not self._pump_due and raft.has_ready():
            self.wake()

    def unreachable(self, peer: NodeId) -> None:
        """The connection to a peer was lost: the kernel probes it before it sends more entries."""
        if not self.is_running:
            return
        self.raft.unreachable(peer)
        self.wake()

    def transfer(self, target: NodeId) -> None:
        """Raises `NotLeader`, `InvalidArgument`."""
        self.raft.transfer_leadership(target)
        self.wake()

    def tick(self) -> None:
        """Every `tick_ms`."""
        if not self.is_running:
            return
        self.raft.hold_back(not self._time.judge_clock(membership.voters_of(self.raft.membership)))
        self.backups.sweep()
        try:
            self.raft.tick()
        except BaseException as error:
            self.fail(error)
        self._hand_over_if_disk_hangs()
        if self._idle_flush.is_due():
            self._disk.submit(self._storage.flush, self._flushed)
        self._note_membership()
        self.wake()

    @property
    def clock_objection(self) -> str:
        """Why this node does not ask to lead, once that has lasted; "" otherwise."""
        return self._time.objection

    def _hand_over_if_disk_hangs(self) -> None:
        """A leader applies and answers only what is durable here. With a disk that hangs it would hold up everyone, and
        no error would end it (pitfall 26). The followers have the log; one of them is asked to lead."""
        if not self.raft.is_leader or self.raft.transferee != NOBODY:
            return
        waited_s = self._writer.busy_s()
        if waited_s > MAX_WRITE_S and len(membership.voters_of(self.raft.membership)) > 1:
            seconds = round(waited_s, 1)
            log.warning("the disk does not answer; another node is asked to lead", group=self.number, seconds=seconds)
            self.raft.transfer_leadership(NOBODY)

    def begin(self) -> None:
        """The replica is running from now on."""
        self.wake()

    def now_ms(self) -> int:
        """Log time: the leader's own; elsewhere that of the last entry applied."""
        return self._time.now_ms() if self._leads else self.applied.time_ms

    def close(self) -> None:
        """Stop for good: the replica does not run with this group again. Reads that wait are answered with False."""
        self._leads = False
        self._time.end()
        self._reads.end()
        self.hasher.end()
        self.backups.close()
        self._writer.close()

    def close_files(self) -> None:
        """Before the storage is closed, on the disk's thread."""
        self._catch_up.close_files()

    def release(self) -> None:
        """After `close_files`, when another group has taken over. These parts hold the group by its methods; with them
        it would keep its whole state in memory, because no garbage collector runs."""
        del self._disk, self._time, self._writer, self.applier, self.hasher, self.snapshotter, self._catch_up
        del self.backups, self.proposals

    # --- the pump: proposes, writes, sends, applies -------------------------------------------------------------------

    def wake(self) -> None:
        """Run the pump in the loop's next turn, once."""
        if not self._pump_due and self.is_running:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        if not self.is_running:
            return
        raft, applier, is_applied = self.raft, self.applier, False
        self._is_pumping = True
        try:
            if not raft.is_led_by(self._leader, self._leads):
                self._note_role()
            if self._ambiguous:
                self._note_certainty()
            if applier.is_busy:
                self._apply_some()
            if self.gathering.size_bytes:
                self._propose()
            self._reads.ask()
            while not is_applied and self.is_running and raft.has_ready():
                ready = raft.ready()
                if not raft.is_led_by(self._leader, self._leads):
                    self._note_role()
                is_applied = self._carry_out(ready)
            if applier.is_busy or (is_applied and raft.has_ready()):
                self.wake()  # the rest after the loop has looked at its sockets
        except BaseException as error:
            self.fail(error)
        finally:
            self._is_pumping = False

    def _carry_out(self, ready: Ready) -> bool:
        """Returns whether entries were applied."""
        send = self._send
        for message in ready.messages:
            send(message)
        has_left = not ready.messages or self._flush()
        if ready.write is not None:
            self._write(ready.write, ready.held, has_left)
            if not self.is_running:  # it was made at once, and failed
                return False
        for fetch in ready.fetches:
            self._catch_up.fetch(fetch)
        for chunk_read in ready.chunk_reads:
            self._catch_up.read_chunk(chunk_read)
        for chunk in ready.chunk_writes:
            self._catch_up.write_chunk(chunk)
        for read in ready.reads:
            self._reads.ready(read, self.applied.index)
        if ready.committed:
            self.commit_times.committed(ready.committed[-1].index)
            self._apply(ready.committed)
        return bool(ready.committed)

    def fail(self, error: BaseException) -> None:
        """Stop the group: the disk failed, the log or the state cannot be read, or there is a bug. `on_failure` decides
        whether the replica fails or begins a repair."""
        if self.is_running:
            self._on.failed(error)

    def _note_certainty(self) -> None:
        """Clear the mark of an ambiguous end on the disk, so that a restart does not find it again."""
        if not self.raft.is_ambiguous:
            self._ambiguous = False
            self._disk.submit(self._storage.clear_ambiguity, self._flushed)

    # --- proposing ---------------------------------------------------------------------------------------------------

    def _propose(self) -> None:
        if self._writer.is_busy:
            return
        gathering = self.gathering
        if not self._leads:
            gathering.clear()
            return
        time_ms = self._time.now_ms()
        while gathering.size_bytes:
            batch = gathering.take()
            try:
                index = self.raft.propose(EntryKind.COMMANDS, time_ms, batch)
            except Overloaded:  # too much is uncommitted, or leadership is on its way out
                gathering.put_back(batch)
                break
            self.commit_times.proposed(index)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write(self, write: Write, held: tuple[Message, ...], may_block: bool) -> None:
        """Write what the kernel handed out. `may_block`: all messages were sent, so the followers write meanwhile and
        the loop may wait."""
        if write.entries:
            self._time.appended(write.entries[-1].time_ms)
            if self.raft.membership is not self._membership:
                self._note_membership()
        self._writer.start(write, held, may_block)

    def _note_membership(self) -> None:
        """A membership is in force when it is appended, and none any more when it is overwritten."""
        if self.raft.membership is not self._membership:
            self._membership = self.raft.membership
            self._on.membership_in_force()

    def _written(self, write: Write, held: tuple[Message, ...]) -> None:
        if not self.is_running:
            return
        if write.entries:
            self._idle_flush.appended(write.entries)
        self.raft.persisted(write.number)
        for message in held:
            self._send(message)
        if held:
            self._flush()
        if not (self._is_pumping or self._pump_due):  # a pump that has written on the loop goes on by itself
            self._pump()

    def _flushed(self, _: None, error: BaseException | None) -> None:
        self._failed(error)

    def _failed(self, error: BaseException | None) -> bool:
        if error is not None:
            self.fail(error)
        return not self.is_running

    # --- applying ----------------------------------------------------------------------------------------------------

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        self.applier.add(entries)
        self._apply_some()

    def _apply_some(self) -> None:
        """Apply entries for one slice. The results of finished entries wait while an entry is partly applied."""
        self._finished += self.applier.run()
        self._on_applied()
        if self.applier.is_midway or not self._finished:
            return
        entries, self._finished = tuple(self._finished), []
        self.counters.raft_applied_entries_total += len(entries)
        self.raft.applied_to(entries[-1].index)
        self._reads.applied(self.applied.index)
        self.snapshotter.applied(entries)
        self.applier.call_waiting()
        if self._leads:
            self._time.applied(self.sessions.machine)

    def _steps(self, entry: Entry) -> Iterator[None]:
        """Apply one entry, with a pause at each yield."""
        if entry.index <= self.applied.index:
            return  # the snapshot that was installed meanwhile holds it
        if entry.kind == EntryKind.COMMANDS:
            failed_before = self.sessions.failed_commands
            yield from self.sessions.applying(entry)
            if self.sessions.failed_commands > failed_before:
                self.counters.raft_failed_entries_total += 1
        else:
            yield from self.sessions.applying(entry._replace(data=b""))  # to the machine only its time matters
            self._apply_own(entry)
        fields = (entry.index, entry.term, entry.time_ms, self.applied.membership)
        self.applied = new_record(SnapshotMeta, fields)
        if entry.time_ms >= self._comparing.due_ms:
            self._comparing.begin(self.applied, self.sessions)

    def _view_state(self, call: Callable[[Index, Sessions], None]) -> None:
        self.applier.when_whole(lambda: call(self.applied.index, self.sessions))

    def _apply_own(self, entry: Entry) -> None:
        """Act on an entry that is not a command: a membership change or a mark for a snapshot."""
        if entry.kind == EntryKind.MEMBERSHIP:
            self._set_membership(membership.decode(entry.data))
            self._on.membership_changed(entry.index, self.applied.membership)
        elif entry.kind == EntryKind.SNAPSHOT_MARK:
            self.snapshotter.take()  # at the end of this entry, with which the slice ends

    def _set_membership(self, members: Membership) -> None:
        self.applied = self.applied._replace(membership=members)

    def _continue(self) -> None:
        if self.is_running:
            self.submit(frames.envelope(Kind.CONTINUE, 0, 0, 0, 0))

    # --- leadership --------------------------------------------------------------------------------------------------

    def _note_role(self) -> None:
        leader, leads = self.raft.leader, self.raft.is_leader
        changed = leader != self._leader
        if changed:
            self._leader = leader
            self.counters.raft_leader_changes_total += leader != NOBODY
        if leads != self._leads:
            self._leads = leads
            if leads:
                self._begin_leading()
            else:
                self._end_leading()
            self._on.lead(leads)
        if changed:
            self._on.leader()

    def _begin_leading(self) -> None:
        self.contact.begin()
        jump_ms = self._time.begin(membership.voters_of(self.raft.membership))
        if jump_ms > self._limits.max_clock_jump_ms:
            log.warning(
                "log time jumps: the cluster was down, or nothing was written for so long",
                group=self.number,
                jump_ms=jump_ms,
            )

    def _end_leading(self) -> None:
        self.commit_times.forget()
        self.gathering.clear()
        self._reads.end()
        self._time.end()

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def install(self, meta: SnapshotMeta, sessions: Sessions) -> None:
        """Continue with the state of the leader's snapshot. It is durable, and the log that it replaces is deleted."""
        before, self.sessions, self.applied = self.sessions, sessions, meta
        self._time.appended(meta.time_ms)
        self._finished.clear()
        self.snapshotter.installed(meta)
        self.applier.drop()
        self._on.replaced(before)
        self._comparing.moved(meta.time_ms)
        log.info("snapshot installed", group=self.number, index=meta.index, term=meta.term)
        self._reads.applied(meta.index)

    def snapshot_taken(self, meta: SnapshotMeta, first_index: Index, size_bytes: int) -> None:
        """The snapshotter is done: our own snapshot is durable, and the log begins at `first_index`."""
        self.counters.raft_snapshots_total += 1
        self.raft.snapshot_taken(meta, first_index)
        self._on.snapshot_taken(meta.index, size_bytes)
        self.wake()
