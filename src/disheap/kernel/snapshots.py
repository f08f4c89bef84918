"""Snapshots in chunks (Raft §7; dissertation §5). One chunk at a time, each answered, in both directions.

Owns the transfer. The sender always learns how it ended (pitfall 18), because a chunk is answered, refused, timed out
or cut off by a lost connection. Never touches a snapshot's bytes; storage reads and writes them when asked.
"""

from __future__ import annotations

from disheap.kernel.progress import Progress, SnapshotSend
from disheap.kernel.state import SnapshotReceive, State
from disheap.kernel.types import (
    ChunkRead,
    ChunkWrite,
    Index,
    NodeId,
    Role,
    SnapshotMeta,
    SnapshotReply,
    SnapshotRequest,
)

# --- the sender ------------------------------------------------------------------------------------------------------


def begin(state: State, peer: NodeId) -> None:
    """The log no longer has what the peer needs; the newest snapshot stands in for it."""
    progress = state.progress[peer]
    progress.become_snapshot(state.log.snapshot)
    assert progress.sending is not None
    _read(state, peer, progress.sending)


def on_chunk_read(state: State, target: NodeId, index: Index, offset: int, data: bytes, done: bool) -> None:
    """Our storage has read a chunk. Send it if the peer still needs it."""
    sending = _sending(state, target, index)
    if sending is not None and sending.reading and sending.offset == offset:
        sending.reading = False
        sending.elapsed = 0
        state.send(SnapshotRequest(state.id, target, state.term, sending.meta, offset, data, done))


def on_chunk_read_failed(state: State, target: NodeId, index: Index) -> None:
    """That snapshot is gone. A newer one is tried at once, the same one when the peer is next heard."""
    if _sending(state, target, index) is None:
        return
    if state.log.snapshot.index > index:
        begin(state, target)
    else:
        _pause(state.progress[target])


def on_reply(state: State, message: SnapshotReply) -> None:
    """The peer has stored a chunk, installed the snapshot, or failed to."""
    progress = state.progress[message.source]
    progress.active = True
    sending = _sending(state, message.source, message.index)
    if message.installed:
        index = min(message.index, state.log.last_index)
        progress.accepted(index, can_go_on=state.log.term_at(index) is not None)
    elif sending is None:
        return
    elif message.failed:
        _pause(progress)
    elif not sending.reading:
        sending.offset = message.offset
        _read(state, message.source, sending)


def tick(state: State) -> None:
    """A chunk that nobody answered is read and sent again."""
    for peer, progress in state.progress.items():
        sending = progress.sending
        if sending is not None and not sending.reading:
            sending.elapsed += 1
            if sending.elapsed >= state.config.chunk_timeout_ticks:
                _read(state, peer, sending)


def _sending(state: State, peer: NodeId, index: Index) -> SnapshotSend | None:
    progress = state.progress.get(peer)
    sending = progress.sending if progress is not None else None
    return sending if sending is not None and sending.meta.index == index else None


def _read(state: State, peer: NodeId, sending: SnapshotSend) -> None:
    sending.reading = True
    sending.elapsed = 0
    state.outbox.chunk_reads.append(ChunkRead(peer, sending.meta.index, sending.offset))


def _pause(progress: Progress) -> None:
    progress.become_probe()
    progress.paused = True  # until a heartbeat is answered, so that a failing disk is not tried in a circle


# --- the receiver ----------------------------------------------------------------------------------------------------


def on_request(state: State, message: SnapshotRequest) -> None:
    """A chunk of the leader's snapshot has arrived. Store it, or answer which offset is expected."""
    meta = message.snapshot
    receiving = state.receiving
    if receiving is not None and receiving.writing and (receiving.final is None or receiving.installing):
        return  # answered when the outcome is known
    if _is_held(state, meta):
        _end_as_held(state, message.source, meta)
        return
    if receiving is None or (receiving.meta, receiving.source) != (meta, message.source):
        # Two nodes' snapshots of one index need not be the same bytes: the chunks of one never continue the other's.
        receiving = state.receiving = SnapshotReceive(meta, message.source)
    if receiving.writing:
        return
    if message.offset == receiving.offset:
        _write(state, receiving, message.data, message.done)
    else:
        _reply(state, message.source, meta, offset=receiving.offset)


def on_chunk_written(state: State, meta: SnapshotMeta, offset: int, ok: bool) -> None:
    """Our storage has stored a chunk, or the last one with the whole snapshot. `ok` is False if it could not."""
    receiving = state.receiving
    if receiving is None or receiving.meta != meta or receiving.offset != offset or not receiving.writing:
        return
    if not ok:
        state.receiving = None
        _reply(state, receiving.source, meta, failed=True)
    elif receiving.installing:
        state.install(meta)
        _reply(state, receiving.source, meta, installed=True)
    else:
        receiving.writing = False
        receiving.offset += receiving.chunk_bytes
        _reply(state, receiving.source, meta, offset=receiving.offset)


def release_final(state: State) -> None:
    """The last chunk replaces log and machine. It goes out when nothing is being written or applied: a write or an
    entry that arrives after it would be of the old log."""
    receiving = state.receiving
    if receiving is None or receiving.final is None or receiving.installing or state.role is not Role.FOLLOWER:
        return
    if _is_held(state, receiving.meta):
        _end_as_held(state, receiving.source, receiving.meta)  # the log has caught up meanwhile
        return
    if state.outbox.is_settled and state.log.handed == state.log.applied:
        receiving.installing = True
        state.outbox.chunk_writes.append(ChunkWrite(receiving.meta, receiving.offset, receiving.final, done=True))


def _end_as_held(state: State, source: NodeId, meta: SnapshotMeta) -> None:
    """Our log holds it all. Nothing is cut off (pitfall 17); the snapshot only tells that it is committed."""
    state.receiving = None
    state.log.commit_to(meta.index)
    _reply(state, source, meta, installed=True)


def _is_held(state: State, meta: SnapshotMeta) -> bool:
    return meta.index <= state.log.commit or state.log.term_at(meta.index) == meta.term


def _write(state: State, receiving: SnapshotReceive, data: bytes, done: bool) -> None:
    receiving.writing = True
    receiving.chunk_bytes = len(data)
    if done:
        receiving.final = data
    else:
        state.outbox.chunk_writes.append(ChunkWrite(receiving.meta, receiving.offset, data, done=False))


def _reply(
    state: State, target: NodeId, meta: SnapshotMeta, offset: int = 0, installed: bool = False, failed: bool = False
) -> None:
    claims = meta.index if installed else Index(0)
    state.send(SnapshotReply(state.id, target, state.term, meta.index, offset, installed, failed), claims)
