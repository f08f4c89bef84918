"""Recognises members that have lost their data, and decides whether this node may take part (storage-rules 11).

A node whose disk was wiped has forgotten its votes and its acknowledgements. It must not come back under its old name,
even if all other members were restarted meanwhile. So each node keeps on disk the incarnation of every member that it
has met, and never another one. It is written before that member is welcomed. And a node takes part only after every
other member has welcomed it once.

Why that is enough. Let X have taken part as x1. Then every other member had x1 on disk, before that. Now a minority is
wiped, X among it. X, as x2, has to be welcomed by every other member. One of them was not wiped and still has x1. So X
is refused, and never takes part as x2. What was wiped counts as lost for good, which a minority may be (Raft §2).

A node that has joined needs no welcome. Its id is new, and its incarnation stands in the log, which is committed before
the node is told its id. A node that founds a cluster has nobody to ask.

What it costs: a cluster's very first start needs all its members up at once, in any order. If a directory is removed
before that, the others may have met it already. Then all start from empty directories again.

Storage that does not outlive its process (`memory`) cannot keep the rule. There the others know an incarnation until
they stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from disheap.errors import StorageError, StorageFull, WrongCluster
from disheap.interfaces import KnownPeers, PeerStore, Storage
from disheap.kernel.membership import last_id_of
from disheap.kernel.types import Membership, NodeId
from disheap.logs import get_logger
from disheap.runtime.disk.thread import Disk

log = get_logger(__name__)

LOG_AGAIN_S = 30.0
"""Between two log lines about the members that are waited for."""

Done = Callable[[bool], None]


class Host(Protocol):
    """What an `IncarnationCheck` asks of its replica."""

    number: int

    def storage(self) -> Storage:
        """Returns the open storage."""

    def disk(self) -> Disk:
        """Returns the thread that reads and writes the directory."""

    def member_name(self, node: NodeId) -> str:
        """Returns the member's name for messages."""

    def all_members_met(self) -> None:
        """Every other member has welcomed this directory, and that is durable."""

    def failed(self, error: BaseException) -> None:
        """End the node with this error."""


class IncarnationCheck:
    """Call `recall` before any other method."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.all_met = False  # every other member has welcomed this directory once, and the disk says so
        self._host = host
        self._loop = loop
        self._is_durable = False
        self._known: dict[NodeId, int] = {}
        self._durable: dict[NodeId, int] = {}
        self._missing: dict[NodeId, None] = {}
        self._listed = 0  # members of the static list that the directory was made with
        self._logged_at = loop.time()
        self._is_recording = False
        self._is_unsaved = False  # that it takes part
        self._has_ended = False

    def recall(self, others: Sequence[NodeId], kept: KnownPeers | None) -> None:
        """Load what storage has recorded. `kept` is None if it records nothing. `others` have to welcome this node, if
        its directory is new. A node that is alone, has founded its cluster, or has joined it has none to wait for."""
        self._is_durable = kept is not None
        if kept is not None:
            self._durable = {NodeId(node): incarnation for node, incarnation in kept.incarnations}
            self._known = dict(self._durable)
        self.all_met = kept is None or kept.takes_part or not others
        self._missing = {} if self.all_met else dict.fromkeys(others)
        self._is_unsaved = kept is not None and not kept.takes_part and self.all_met
        self._listed = len(others) + 1 if self._missing else kept.listed if kept is not None else 0

    def end(self) -> None:
        """Ignore the write that is under way: the storage is closed for good."""
        self._has_ended = True

    def check(self, node: NodeId, name: str, incarnation: int, joined: int = 0) -> None:
        """Raises `WrongCluster` for a member that was recorded under another incarnation: it has lost its data.
        `joined` is the incarnation with which it has joined; 0 for a member of a static list."""
        known = self._known.get(node, joined)
        if known and known != incarnation:
            raise WrongCluster(
                f"node {node} ({name}) comes back without the data that it had. It has forgotten its votes and "
                "what it acknowledged, so it must not take part under its old identity. Give it back its data "
                "directory (docs/how-to/recover-a-node.md). If they are lost, let it come back under a new id: disheap "
                f"node replace {name}"
            )

    def follow(self, applied: Membership, restored: Membership) -> None:
        """A change of the members is applied. Nobody waits for the welcome of a member that is gone for good.
        `restored` is the membership of the newest snapshot, with which a restart begins. A restart takes a node for a
        member while that one has it. Its incarnation is kept until then, or it would be welcomed without its data."""
        for node in [one for one in self._missing if _is_gone(one, applied)]:
            del self._missing[node]
        gone = [node for node in self._known if _is_gone(node, restored)]
        for node in gone:
            del self._known[node]
        was_kept = [node for node in gone if self._durable.pop(node, None) is not None]
        if self._is_durable and was_kept:
            self._save(self.all_met, lambda is_kept: None)

    def has_met(self, node: NodeId) -> bool:
        """Whether the member's incarnation is recorded. `check` compares with it."""
        return node in self._known

    def meet(self, node: NodeId, incarnation: int, done: Done) -> None:
        """Record the incarnation, which was checked. `done(True)` is called when it is durable. `done(False)` is called
        if it could not be written now; then the two nodes have to connect again."""
        self._known[node] = incarnation
        if not self._is_durable or node in self._durable:
            done(True)
        else:
            self._save(self.all_met, done)

    def welcomed(self, node: NodeId, incarnation: int, done: Done) -> None:
        """The member has recorded this node. Record the member as `meet` does."""

        def met(is_kept: bool) -> None:
            if is_kept and node in self._missing:
                del self._missing[node]
                self._record_if_all_met()
            done(is_kept)

        self.meet(node, incarnation, met)

    def tick(self) -> None:
        """Retry a record that could not be written, and log who is waited for."""
        self._record_if_all_met()
        if self._missing and self._loop.time() - self._logged_at > LOG_AGAIN_S:
            self.log_waiting()

    def log_waiting(self) -> None:
        """Log which members have not welcomed this node yet, if any."""
        if self._missing:
            self._logged_at = self._loop.time()
            log.warning(
                "this node's data directory is new: it takes no part before every other member has welcomed it once",
                group=self._host.number,
                waiting_for=self._names(),
            )

    def status(self) -> dict[str, Any]:
        """Returns whose welcome is missing. Empty for a node that takes part."""
        if self.all_met:
            return {}
        missing = "the welcome of every other member, which a node with a new data directory needs once"
        return {"missing": missing, "waiting_for": self._names()}

    def _names(self) -> list[str]:
        return [self._host.member_name(node) for node in self._missing]

    def _record_if_all_met(self) -> None:
        is_due = self._is_unsaved if self.all_met else not self._missing
        if is_due and not self._is_recording:
            self._is_recording = True
            self._save(True, self._recorded)

    def _recorded(self, is_kept: bool) -> None:
        self._is_recording = False
        if is_kept and self.all_met:
            self._is_unsaved = False
        elif is_kept:
            self.all_met = True
            log.info("every other member has welcomed this node: it takes part from now on", group=self._host.number)
            self._host.all_members_met()

    def _save(self, takes_part: bool, done: Done) -> None:
        storage = self._host.storage()
        assert isinstance(storage, PeerStore)
        met = tuple(sorted((int(node), incarnation) for node, incarnation in self._known.items()))
        state = KnownPeers(takes_part, met, listed=self._listed)

        def written(_: None, error: BaseException | None) -> None:
            if self._has_ended:
                return
            if error is None:
                self._durable.update((NodeId(node), incarnation) for node, incarnation in state.incarnations)
            elif isinstance(error, StorageFull):
                log.warning(
                    "the disk is full: who has met this node is not recorded yet",
                    group=self._host.number,
                    reason=str(error),
                )
            elif not isinstance(error, StorageError):
                self._host.failed(error)
            done(error is None)  # else later: there is no room, or the storage is being opened anew

        def save() -> None:
            kept = storage.known_peers()  # the voters in it are not ours to change
            storage.save_known_peers(state._replace(voters=kept.voters, is_removed=kept.is_removed))

        self._host.disk().submit(save, written)


def _is_gone(node: NodeId, members: Membership) -> bool:
    """Whether the node was a member, and is none any more. Its id is never used again."""
    return node <= last_id_of(members) and all(one.id != node for one in members.members)
