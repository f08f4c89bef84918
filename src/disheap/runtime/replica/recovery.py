"""Recovers a group from its data directory: restores the newest snapshot and gives the log to the kernel.

Blocking; runs on the disk's thread at start. What is found is never changed here beyond what `Storage.open` does. Only
the record of the voters is brought up to the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from disheap.errors import RESTORE, LogDamaged, SnapshotDamaged
from disheap.interfaces import Identity, IdentityStore, KnownPeers, PeerStore, Recovered, Repairable, Storage
from disheap.kernel import membership
from disheap.kernel.types import Entry, EntryKind, Index, Membership, NodeId, Restored, SnapshotMeta
from disheap.logs import get_logger
from disheap.runtime.state.sessions import Sessions
from disheap.runtime.state.snapshot_source import pieces

log = get_logger(__name__)


class Found(NamedTuple):
    """What `recover` found in a data directory."""

    identity: Identity
    restored: Restored
    sessions: Sessions
    applied: SnapshotMeta
    log_time_ms: int
    needs_repair: bool = False  # then the rest is empty
    voters: tuple[NodeId, ...] = ()
    met: KnownPeers | None = None  # where storage keeps it
    is_damaged: bool = False


def recover(
    storage: Storage,
    identity: Identity,
    first_state: SnapshotMeta,
    fresh_sessions: Callable[[], Sessions],
    *,
    tail_bytes: int,
    chunk_bytes: int,
    follow: bool = False,
    group: int = 0,
) -> Found:
    """`follow`: a leader settles an ambiguous end of the log, not a repair before. Raises what
    `Storage.open` raises, `SnapshotDamaged`, and `VersionUnsupported` for a state that this release does not run."""
    recovered = storage.open(identity, tail_bytes, alone=is_alone(storage, identity, first_state))
    sessions = fresh_sessions()
    met = storage.known_peers() if isinstance(storage, PeerStore) else None
    is_ambiguous = recovered.ambiguous_after is not None and not follow
    voters = membership.voters_of(_newest_membership(recovered, first_state))
    if met is not None and met.voters and (recovered.is_damaged or is_ambiguous):
        voters = tuple(NodeId(voter) for voter in met.voters)  # what the log says may be what it has lost
    if isinstance(storage, Repairable) and (recovered.is_damaged or is_ambiguous):
        nothing = Restored(recovered.hard_state, first_state, Index(1), Index(0), (), (), ())
        return Found(recovered.identity, nothing, sessions, first_state, 0, True, voters, met, recovered.is_damaged)
    if recovered.ambiguous_after is None and (recovered.memberships or recovered.snapshot is not None):
        save_voters(storage, _newest_membership(recovered, first_state))  # a repair may have brought a newer one
    if recovered.snapshot is not None:
        _restore(storage, recovered.snapshot, sessions, chunk_bytes)
    applied = recovered.snapshot or first_state
    _check_reach(recovered, applied)
    if not recovered.fresh:
        log.info(
            "recovered",
            group=group,
            snapshot=applied.index,
            first=recovered.first_index,
            last=recovered.last_index,
        )
    tail = recovered.tail or _last_entry(storage, recovered)
    restored = _restored(recovered, applied, tail)
    last_time_ms = tail[-1].time_ms if tail else applied.time_ms
    return Found(recovered.identity, restored, sessions, applied, last_time_ms, voters=voters, met=met)


def _restored(recovered: Recovered, applied: SnapshotMeta, tail: tuple[Entry, ...]) -> Restored:
    return Restored(
        hard_state=recovered.hard_state,
        snapshot=applied,
        first_index=recovered.first_index,
        last_index=recovered.last_index,
        runs=recovered.runs,
        memberships=recovered.memberships,
        tail=tail,
        ambiguous_after=recovered.ambiguous_after,
        applied=applied.index,
    )


def is_alone(storage: Storage, identity: Identity, first_state: SnapshotMeta) -> bool:
    """Whether the cluster has no other voter, as far as this node has ever known. The schedule that is prevented: a
    node founds a cluster and another one joins. The block with that change is torn, and was acknowledged. As a node
    alone it would drop the block, vote, and lose what the two have confirmed."""
    stored = storage.stored() if isinstance(storage, IdentityStore) else None
    voters = stored.peers.voters if stored is not None else ()
    return tuple(voters or membership.voters_of(first_state.membership)) == (identity.node_id,)


def _newest_membership(recovered: Recovered, first_state: SnapshotMeta) -> Membership:
    if recovered.memberships:
        return membership.decode(recovered.memberships[-1][1])
    return (recovered.snapshot or first_state).membership


def save_voters(storage: Storage, members: Membership) -> None:
    """Record the voters beside the log, before a membership is appended or a snapshot with it is taken over. Durable
    when it returns. Called on the disk's thread. Raises `StorageFull` and `DiskFailed`."""
    if not isinstance(storage, PeerStore):
        return
    known, voters = storage.known_peers(), tuple(map(int, membership.voters_of(members)))
    if known.voters != voters:
        storage.save_known_peers(known._replace(voters=voters))


def save_new_voters(storage: Storage, entries: Sequence[Entry]) -> None:
    """Record the voters of the memberships among entries that are to be appended. See `save_voters`."""
    for entry in entries:
        if entry.kind is EntryKind.MEMBERSHIP:
            save_voters(storage, membership.decode(entry.data))


def _last_entry(storage: Storage, recovered: Recovered) -> tuple[Entry, ...]:
    """Reads the last entry, however large it is. A leader's log time starts from it, and must not go back."""
    if recovered.last_index < recovered.first_index:
        return ()
    return storage.read(recovered.last_index, recovered.last_index, 0)


def _restore(storage: Storage, meta: SnapshotMeta, sessions: Sessions, chunk_bytes: int) -> None:
    reader = storage.open_snapshot(meta.index)
    if reader is None:
        raise SnapshotDamaged(f"the snapshot at index {meta.index} is named in the log and cannot be found")
    try:
        sessions.restore(pieces(reader, chunk_bytes))
    finally:
        reader.close()


def _check_reach(recovered: Recovered, applied: SnapshotMeta) -> None:
    """Raises `LogDamaged` unless the log continues where the state ends."""
    if recovered.first_index > applied.index + 1:
        raise LogDamaged(
            "the log",
            0,
            f"it begins at entry {recovered.first_index}, but the newest snapshot ends at {applied.index}",
            RESTORE,
        )
