"""Before a node takes part, it repairs what its disk has lost, from the other nodes (storage-rules 4).

Owns the repair phase. In each round the node asks all voters what they hold, and does the step that `plan.decide`
returns. During the phase the node does not vote, accept, apply or serve. The lifecycle says when the phase begins.
Damage found at run time begins it again. What other nodes ask is answered by `responder`.

After each repair the storage is closed and opened again. So the node continues with what a restart would find.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from disheap.errors import LogDamaged, SnapshotDamaged
from disheap.interfaces import Holding, Repairable, Storage
from disheap.kernel import membership
from disheap.kernel.raft import Raft
from disheap.kernel.types import HardState, Index, NodeId, SnapshotMeta, Term
from disheap.logs import get_logger
from disheap.protocol import repair as wire
from disheap.protocol.repair import (
    Answer,
    Ask,
    AskEntries,
    AskSnapshot,
    AskStanding,
    Entries,
    SnapshotPiece,
    Standing,
)
from disheap.runtime.disk.thread import Disk, retry_while_full, run_on
from disheap.runtime.repair import plan
from disheap.runtime.repair.progress import Progress

T = TypeVar("T")
log = get_logger(__name__)

STANDINGS_TIMEOUT_S = 0.5
"""How long a round waits for standings before it asks again: several round trips, but less than an election takes."""
ANSWER_TIMEOUT_S = 5.0
"""How long a request for entries or a piece of a snapshot waits: the other node may have a slow disk."""
LOG_AGAIN_S = 30.0
"""Between two log lines about the same condition."""
AMBIGUOUS_TIMEOUTS = 6
"""A node whose end of the log is ambiguous asks the others again after so many election timeouts without a leader."""
MAX_SNAPSHOT_ROUNDS = 60
"""After so many answers that the snapshot is being made, a source counts as one without a snapshot. That is half a
minute."""
MAX_RETRIES = 3
"""If damage shows at run time so often, and is not found when the log is read again, the node stops."""


class Group(Protocol):
    """The group whose log is repaired."""

    raft: Raft

    @property
    def is_running(self) -> bool:
        """Whether the replica takes part."""


class Found(Protocol):
    """What was found when the storage was opened."""

    @property
    def needs_repair(self) -> bool:
        """Whether the log is damaged, or its end is ambiguous."""

    @property
    def voters(self) -> tuple[NodeId, ...]:
        """The voters of the newest membership in the log."""


class Host(Protocol):
    """What repairing asks of its node."""

    @property
    def group(self) -> Group:
        """The present group of the replica."""

    def storage(self) -> Storage:
        """Returns the open storage."""

    def disk(self) -> Disk:
        """Returns the thread that reads and writes the directory."""

    def send_repair(self, target: NodeId, message: Ask) -> None:
        """Send a request about repair. Dropped while there is no connection."""

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""

    async def recover_again(self, follow: bool) -> Found:
        """Close the storage and open it again. `follow`: a leader settles an ambiguous end of the log."""

    def repair(self, reason: str) -> None:
        """End the group and start the repair phase."""

    def failed(self, error: BaseException) -> None:
        """End the node with this error."""


class Repairer:
    """Runs the repair phase of one replica."""

    def __init__(
        self,
        host: Host,
        group: int,
        own: NodeId,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._host = host
        self._group = group
        self._own = own
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._voters: tuple[NodeId, ...] = ()
        self._standings: dict[NodeId, Standing] = {}
        self._undelivered: dict[NodeId, list[tuple[int, int]]] = {}  # said to be held, and not delivered
        self._snapshot_refusals: dict[NodeId, int] = {}  # how often one was promised, and did not come
        self._answers: dict[NodeId, asyncio.Future[Entries | SnapshotPiece]] = {}
        self._standing_received = asyncio.Event()
        self._waiting: plan.Wait | None = None
        self._logged_at = 0.0
        self._ticks_ambiguous = 0
        self._retries = 0
        self._progress = Progress(group)

    # --- the node's side ---------------------------------------------------------------------------------------------

    def begin(self, found: Found) -> None:
        """Repair what `found` lacks, if anything."""
        self._voters = found.voters
        if found.needs_repair:
            self._task = self._loop.create_task(self._run(found), name="repair")

    def can_repair(self, error: BaseException) -> bool:
        """Whether `error` says that the log or a snapshot cannot be read (any more), and others may have it."""
        is_damage = isinstance(error, LogDamaged | SnapshotDamaged)
        voters = membership.voters_of(self._host.group.raft.membership)
        return is_damage and len({*voters, self._own}) > 1 and self._retries < MAX_RETRIES

    def count_retry(self) -> None:
        """Damage has shown at run time."""
        self._retries += 1

    def begin_again(self) -> None:
        """The replica is repairing again: its storage is opened anew, and what it lacks is repaired."""
        self._task = self._loop.create_task(self._run_again(), name="repair")

    def reset_retries(self) -> None:
        """Forget the retries: a scrub has found the damage, and the next scrub is far away."""
        self._retries = 0

    def tick(self, election_ticks: int) -> None:
        """Repair again if the end of the log is ambiguous and nobody leads for long. The other nodes may be in the same
        state."""
        raft = self._host.group.raft
        if not raft.is_ambiguous or raft.leader or not self._host.group.is_running:
            self._ticks_ambiguous = 0
            return
        self._ticks_ambiguous += 1
        if self._ticks_ambiguous > AMBIGUOUS_TIMEOUTS * election_ticks:
            self._ticks_ambiguous = 0
            self._host.repair("the end of the log is ambiguous, and nobody leads")

    def cancel(self) -> None:
        """Cancel the repair. It does nothing more."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Cancel the repair and wait until its task has ended."""
        self.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def status(self) -> dict[str, Any]:
        """Returns what is missing, and whose answers are waited for."""
        waiting = self._waiting
        names = [self._host.member_name(node) for node in waiting.on] if waiting else []
        return {"missing": waiting.missing if waiting else "", "waiting_for": names}

    # --- the phase ---------------------------------------------------------------------------------------------------

    async def _run(self, found: Found) -> None:
        self._progress.begin()
        try:
            while found.needs_repair:
                self._voters = found.voters  # they may be others than at the start
                follow = await retry_while_full(self._repair, self._group)
                self._progress.repair_ended()
                found = await retry_while_full(lambda follow=follow: self._host.recover_again(follow), self._group)  # type: ignore[misc]
            self._waiting = None
        except Exception as error:  # nobody else would ever hear of it
            self._host.failed(error)

    async def _run_again(self) -> None:
        try:
            found = await retry_while_full(lambda: self._host.recover_again(follow=False), self._group)
        except Exception as error:
            self._host.failed(error)
        else:
            if found.needs_repair:
                self._retries = 0  # the damage is found, and can be mended
            await self._run(found)

    async def _repair(self) -> bool:
        """Repair until the storage can be opened again. Returns whether a leader has to settle the ambiguous end."""
        storage = self._host.storage()
        assert isinstance(storage, Repairable)
        others = [voter for voter in self._voters if voter != self._own]
        fetched: set[int] = set()  # indexes of damaged entries that storage was given; only ever looked up
        was_damaged = is_begun = False
        while True:
            held = await self._on_disk(storage.holding)
            if not is_begun:
                self._progress.repair_began(held)
                is_begun = True
            if was_damaged and not held.is_damaged:
                return False  # an ambiguous end is settled when the files are opened again; nothing is appended before
            was_damaged = held.is_damaged
            own = plan.without(held, fetched)
            await self._ask_all(others)
            match plan.decide(own, others, self._trusted()):
                case plan.Done():
                    return False
                case plan.Follow():
                    return True
                case plan.Settled():
                    await self._on_disk(self._host.storage().clear_ambiguity)
                    return False
                case plan.Wait() as wait:
                    self._log_waiting(wait)
                    self._undelivered.clear()
                    self._snapshot_refusals.clear()
                    await asyncio.sleep(STANDINGS_TIMEOUT_S)
                case plan.TakeSnapshot(source, needed):
                    if await self._fetch_snapshot(own, source, needed):
                        return False
                case plan.Take(source, first, last):
                    fetched.update(await self._fetch(storage, own, source, first, last))
                case plan.Adopt(source, first, last):
                    await self._adopt(own, source, first, last)
                case plan.Cut(first):
                    log.warning(
                        "entries that no majority ever had are dropped", group=self._group, first=first, last=own.last
                    )
                    await self._on_disk(lambda: storage.cut(first))

    async def _ask_all(self, others: list[NodeId]) -> None:
        """Ask all voters in every round, because earlier answers may be stale."""
        self._standings = {}
        for node in others:
            self._host.send_repair(node, AskStanding(self._group))
        try:
            async with asyncio.timeout(STANDINGS_TIMEOUT_S):
                while len(self._standings) < len(others):
                    self._standing_received.clear()
                    await self._standing_received.wait()
        except TimeoutError:
            pass

    def _trusted(self) -> dict[NodeId, Standing]:
        """Returns the standings in the order of ids. Entries that a node did not deliver count as damaged there."""
        trusted = {}
        for node, standing in sorted(self._standings.items()):
            damaged = (*standing.damaged, *self._undelivered.get(node, ()))
            standing = wire.with_damage(standing, damaged)
            has_failed = self._snapshot_refusals.get(node, 0) >= MAX_SNAPSHOT_ROUNDS
            trusted[node] = wire.without_snapshot(standing) if has_failed else standing
        return trusted

    def _note_undelivered(self, source: NodeId, first: Index, last: Index) -> None:
        name = self._host.member_name(source)
        log.warning(
            "a node did not deliver entries that it reported", group=self._group, source=name, first=first, last=last
        )
        self._undelivered.setdefault(source, []).append((first, last))

    def _note_no_snapshot(self, source: NodeId) -> None:
        log.warning(
            "a node's snapshot did not come, or is incomplete", group=self._group, source=self._host.member_name(source)
        )
        self._snapshot_refusals[source] = MAX_SNAPSHOT_ROUNDS

    def _log_waiting(self, wait: plan.Wait) -> None:
        now = self._loop.time()
        if wait != self._waiting or now - self._logged_at > LOG_AGAIN_S:
            names = [self._host.member_name(node) for node in wait.on]
            log.warning(
                "this node takes no part: it waits for the other nodes",
                group=self._group,
                missing=wait.missing,
                waiting_for=names,
            )
            self._logged_at = now
        self._waiting = wait

    async def _fetch(self, storage: Repairable, own: Holding, source: NodeId, first: Index, last: Index) -> list[Index]:
        """Returns what was fetched."""
        answer = await self._request(source, AskEntries(self._group, first, last))
        entries = answer.decoded() if isinstance(answer, Entries) else ()
        good = [entry for entry in entries if first <= entry.index <= last and own.term_at(entry.index) == entry.term]
        if not good:
            self._note_undelivered(source, first, last)
            return []
        log.info(
            "entries repaired",
            group=self._group,
            first=good[0].index,
            last=good[-1].index,
            source=self._host.member_name(source),
        )
        await self._on_disk(lambda: storage.mend(good))
        return [entry.index for entry in good]

    async def _adopt(self, own: Holding, source: NodeId, first: Index, last: Index) -> None:
        """Append entries of another node to the log. Their term is made durable before them, as with any append."""
        answer = await self._request(source, AskEntries(self._group, first, last))
        entries = answer.decoded() if isinstance(answer, Entries) else ()
        if not entries or entries[0].index != first or entries[0].term < self._term_before(own, first):
            self._note_undelivered(source, first, last)
            return
        storage = self._host.storage()
        if entries[-1].term > own.hard_state.term:
            state = HardState(Term(entries[-1].term), NodeId(0))
            await self._on_disk(lambda: storage.save_hard_state(state))
        log.info(
            "entries adopted",
            group=self._group,
            first=first,
            last=entries[-1].index,
            source=self._host.member_name(source),
        )
        await self._on_disk(lambda: storage.append(entries))

    def _term_before(self, own: Holding, first: Index) -> Term:
        return own.term_at(first - 1) or own.snapshot_term

    # --- snapshots ---------------------------------------------------------------------------------------------------

    async def _fetch_snapshot(self, own: Holding, source: NodeId, needed: Index) -> bool:
        """Returns whether a snapshot was installed. Our log is kept if it continues the snapshot."""
        piece = await self._request(source, AskSnapshot(self._group, 0, 0, needed))
        if not isinstance(piece, SnapshotPiece):
            self._note_no_snapshot(source)
            return False
        if piece.index < max(needed, 1):  # 0: there is none
            self._snapshot_refusals[source] = self._snapshot_refusals.get(source, 0) + 1
            self._log_waiting(plan.Wait(f"a snapshot at {needed} or later, which is being made", (source,)))
            await asyncio.sleep(STANDINGS_TIMEOUT_S)
            return False
        meta = SnapshotMeta(Index(piece.index), Term(piece.term), piece.time_ms, membership.decode(piece.membership))
        goes_on = own.first == meta.index + 1 or own.term_at(meta.index) == meta.term
        writer = await self._on_disk(lambda: self._host.storage().begin_snapshot(meta, replaces_log=not goes_on))
        offset = 0
        try:
            while isinstance(piece, SnapshotPiece) and piece.index == meta.index and piece.offset == offset:
                data = piece.data
                if data:
                    await self._on_disk(lambda data=data: writer.write(data))  # type: ignore[misc]
                offset += len(data)
                if piece.done:
                    await self._on_disk(writer.commit)
                    log.info("snapshot taken from another node", group=self._group, index=meta.index, log_kept=goes_on)
                    return True
                piece = await self._request(source, AskSnapshot(self._group, meta.index, offset, needed))
        except BaseException:
            self._host.disk().submit(writer.abort, lambda _, error: None)
            raise
        await self._on_disk(writer.abort)
        self._note_no_snapshot(source)
        return False

    # --- requests and answers ---------------------------------------------------------------------------------------

    async def _request(self, node: NodeId, request: Ask) -> Entries | SnapshotPiece | None:
        answer: asyncio.Future[Entries | SnapshotPiece] = self._loop.create_future()
        self._answers[node] = answer
        self._host.send_repair(node, request)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            self._answers.pop(node, None)

    def received(self, node: NodeId, message: Answer) -> None:
        """Handle an answer of the member `node`."""
        match message:
            case Standing():
                self._standings[node] = message
                self._standing_received.set()
            case Entries() | SnapshotPiece():
                answer = self._answers.get(node)
                if answer is not None and not answer.done():
                    answer.set_result(message)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        return await run_on(self._host.disk(), work)
