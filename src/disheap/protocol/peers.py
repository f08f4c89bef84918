"""Messages between nodes: the kernel's vocabulary as bytes.

A node dials each of its peers and sends on the connection it dialled; what it receives arrives on connections that the
peers dialled. After the handshake (`proofs`) every frame is a `PEER_MESSAGE`:

| bytes | field  | meaning                                                       |
|-------|--------|---------------------------------------------------------------|
| 0-3   | length | of all that follows                                           |
| 4     | kind   | `Kind.PEER_MESSAGE`                                           |
| 5     | type   | which message: `Type`                                         |
| 6-9   | group  | the Raft instance                                             |
| 10-33 | source, target, term | 8 bytes each                                    |
| 34-   | the message's own fields in the order of `kernel.types`; flags are one byte each |

Entries: term 8, index 8, kind 1, time_ms 8 (signed), length 4, data. A snapshot's membership is length-prefixed (4).

A message that no correct node sends is refused here. It costs its connection, and nothing reaches the log. Examples are
numbers beyond `MAX_NUMBER`, entries that do not follow each other, and commands that are no envelopes.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from struct import error as StructError
from typing import Literal

import msgspec

from disheap.errors import MalformedFrame, ProtocolError, WrongVersion
from disheap.kernel import membership
from disheap.kernel.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    Message,
    NodeId,
    SnapshotMeta,
    SnapshotReply,
    SnapshotRequest,
    Term,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    new_record,
    quick_members,
)
from disheap.protocol import frames
from disheap.protocol.frames import Kind
from disheap.protocol.handshake import SUPPORTED, wrong_version
from disheap.protocol.repair import MAX_NUMBER

MAX_TIME_MS = (1 << 47) - 1
"""The largest log time, in the year 6429. A session's number is made of log time, and has no room for more."""

_HEADER = Struct("<IBBIQQQ")  # length, kind, type, group, source, target, term
_REST = _HEADER.size - 4
_KIND = int(Kind.PEER_MESSAGE)
_VOTE_REQUEST = Struct("<QQ??Q")
_VOTE_REPLY = Struct("<??Q")
_APPEND = Struct("<QQQI")  # previous index and term, commit, number of entries
_ENTRY = Struct("<QQBqI")
_APPEND_REPLY = Struct("<?QQQ")
_HEARTBEAT = Struct("<QQQ")
_HEARTBEAT_REPLY = Struct("<Q")
_SNAPSHOT = Struct("<QQqQ?II")  # index, term, time_ms, offset, done, membership bytes, data bytes
_SNAPSHOT_REPLY = Struct("<QQ??")


@quick_members
class Type(IntEnum):
    """Which message it is, on the wire."""

    VOTE_REQUEST = 1
    VOTE_REPLY = 2
    APPEND_REQUEST = 3
    APPEND_REPLY = 4
    HEARTBEAT = 5
    HEARTBEAT_REPLY = 6
    SNAPSHOT_REQUEST = 7
    SNAPSHOT_REPLY = 8
    TIMEOUT_NOW = 9


MESSAGES_SINCE: dict[int, int] = dict.fromkeys(Type, 2)
"""The protocol version since which each message exists. A later one goes in here with its own version."""

_TOO_LARGE = f"a number is not between 0 and {MAX_NUMBER}"
_ENTRY_KINDS = {int(kind): kind for kind in EntryKind}
"""To call the enum costs ten times as much as to look here, for each entry."""
_TYPES = {
    VoteRequest: Type.VOTE_REQUEST,
    VoteReply: Type.VOTE_REPLY,
    AppendRequest: Type.APPEND_REQUEST,
    AppendReply: Type.APPEND_REPLY,
    Heartbeat: Type.HEARTBEAT,
    HeartbeatReply: Type.HEARTBEAT_REPLY,
    SnapshotRequest: Type.SNAPSHOT_REQUEST,
    SnapshotReply: Type.SNAPSHOT_REPLY,
    TimeoutNow: Type.TIMEOUT_NOW,
}


class PeerGroup(msgspec.Struct, array_like=True, frozen=True):
    """A node's part of one group."""

    incarnation: int  # of its directory
    machine: str
    machine_versions: tuple[int, int]  # the lowest and highest that the sender runs
    settings_digest: str = ""  # of the settings that every replica must share
    constants_digests: dict[int, str] = {}  # by machine_version: of the machine's constants, where it names them
    log_versions: tuple[int, int] = frames.LOG_VERSIONS  # the lowest and highest that the sender runs
    machine_version: int = 0  # what the group runs, as far as the sender has applied the log; 0: not known
    log_version: int = 0


class PeerHello(msgspec.Struct, frozen=True):
    """Both sides' first frame. Checked before the first Raft message: cluster, ids, and for each group incarnation,
    machine and settings. Settings that decide what a replica does have to be the same on both."""

    cluster_id: str
    node_id: int
    name: str
    target: int  # the node id that the sender believes it talks to
    client_address: str
    groups: tuple[PeerGroup, ...]  # in the order of their numbers
    nonce: bytes = b""  # new for each handshake
    wall_ms: int = 0  # the sender's wall clock
    release: str = ""  # of the sender, for people
    cluster: str = ""  # the cluster's name, as the sender was told
    peer_address: str = ""  # where the sender is reached by peers
    request: bytes = b""  # a `MembershipRequest`; "" for a connection that is kept
    answer: bytes = b""  # to the request: a `MembershipAnswer`
    removal: str = ""  # in a welcome: why the cluster has no such member any more; older releases read a GOODBYE alone


class MembershipRequest(msgspec.Struct, array_like=True, frozen=True):
    """What a node asks of the cluster in its hello: to be let in, or to be removed. A node that joins has no id yet:
    `PeerHello.node_id` and `PeerHello.target` are 0. The leader of group 0 does it. Others refuse with the leader's
    address."""

    op: Literal["join", "leave"]
    is_learner: bool = False  # a node that joins is to stay a learner


class MembershipAnswer(msgspec.Struct, array_like=True, frozen=True):
    """The leader's answer, in its welcome, when the change is committed. A node that has no cluster yet answers with
    the id 0."""

    node_id: int  # of the node that asked
    index: int  # of the entry with the change
    founds: bool = False  # with the id 0: whether the node may found a cluster


def exists(message: Message, version: int) -> bool:
    """Whether the message exists in this version of the protocol."""
    return MESSAGES_SINCE[_TYPES[type(message)]] <= version


def encode(group: int, message: Message) -> bytes:
    """One whole frame."""
    body = _body(message)
    source, target, term = message[:3]
    return _HEADER.pack(_REST + len(body), _KIND, _TYPES[type(message)], group, source, target, term) + body


def decode(frame: bytes, version: int = SUPPORTED.highest) -> tuple[int, Message]:
    """(group, message) of a frame on a connection of this version. Raises `MalformedFrame`, and `WrongVersion` for a
    message that does not exist in it."""
    try:
        _, _, number, group, source, target, term = _HEADER.unpack_from(frame)
        if MESSAGES_SINCE.get(number, version + 1) > version:
            raise wrong_version(f"message of type {number}", version)
        if source | target | term > MAX_NUMBER:
            raise ValueError(_TOO_LARGE)
        message = _message(number, NodeId(source), NodeId(target), Term(term), frame, _HEADER.size)
    except WrongVersion:
        raise
    except (StructError, ValueError, ProtocolError) as error:
        raise MalformedFrame(f"a message between nodes cannot be read: {error}") from error
    return group, message


def _body(message: Message) -> bytes:
    match message:
        case AppendRequest():
            return _append_body(message)
        case AppendReply():
            return _APPEND_REPLY.pack(message.success, message.index, message.hint_index, message.hint_term)
        case Heartbeat():
            return _HEARTBEAT.pack(message.commit, message.read, message.transferee)
        case HeartbeatReply():
            return _HEARTBEAT_REPLY.pack(message.read)
        case VoteRequest():
            return _VOTE_REQUEST.pack(
                message.last_index, message.last_term, message.pre, message.transfer, message.round
            )
        case VoteReply():
            return _VOTE_REPLY.pack(message.granted, message.pre, message.round)
        case SnapshotRequest():
            return _snapshot_body(message)
        case SnapshotReply():
            return _SNAPSHOT_REPLY.pack(message.index, message.offset, message.installed, message.failed)
        case TimeoutNow():
            return b""


def _append_body(message: AppendRequest) -> bytes:
    pieces = [_APPEND.pack(message.previous_index, message.previous_term, message.commit, len(message.entries))]
    for term, index, kind, time_ms, data in message.entries:
        pieces.append(_ENTRY.pack(term, index, kind, time_ms, len(data)))
        pieces.append(data)
    return b"".join(pieces)


def _snapshot_body(message: SnapshotRequest) -> bytes:
    meta = message.snapshot
    members = membership.encode(meta.membership)
    head = _SNAPSHOT.pack(
        meta.index, meta.term, meta.time_ms, message.offset, message.done, len(members), len(message.data)
    )
    return head + members + message.data


def _message(number: int, source: NodeId, target: NodeId, term: Term, frame: bytes, at: int) -> Message:
    match number:  # the most frequent first
        case Type.APPEND_REQUEST:
            return _append(source, target, term, frame, at)
        case Type.APPEND_REPLY:
            success, index, hint_index, hint_term = _APPEND_REPLY.unpack_from(frame, at)
            if index | hint_index | hint_term > MAX_NUMBER:
                raise ValueError(_TOO_LARGE)
            return new_record(AppendReply, (source, target, term, success, index, hint_index, hint_term))
        case Type.HEARTBEAT:
            commit, read, transferee = _HEARTBEAT.unpack_from(frame, at)
            _bound(commit | read | transferee)
            return Heartbeat(source, target, term, commit, read, NodeId(transferee))
        case Type.HEARTBEAT_REPLY:
            (read,) = _HEARTBEAT_REPLY.unpack_from(frame, at)
            _bound(read)
            return HeartbeatReply(source, target, term, read)
        case Type.VOTE_REQUEST:
            last_index, last_term, pre, transfer, round = _VOTE_REQUEST.unpack_from(frame, at)
            _bound(last_index | last_term | round)
            return VoteRequest(source, target, term, last_index, last_term, pre, transfer, round)
        case Type.VOTE_REPLY:
            granted, pre, round = _VOTE_REPLY.unpack_from(frame, at)
            _bound(round)
            return VoteReply(source, target, term, granted, pre, round)
        case Type.SNAPSHOT_REQUEST:
            return _snapshot(source, target, term, frame, at)
        case Type.SNAPSHOT_REPLY:
            index, offset, installed, failed = _SNAPSHOT_REPLY.unpack_from(frame, at)
            _bound(index | offset)
            return SnapshotReply(source, target, term, index, offset, installed, failed)
        case Type.TIMEOUT_NOW:
            return TimeoutNow(source, target, term)
        case _:
            raise ValueError(f"type {number} is not known")


def _append(source: NodeId, target: NodeId, term: Term, frame: bytes, at: int) -> AppendRequest:
    """Its entries follow `previous`, one by one, with terms that never fall and are none after the leader's."""
    previous_index, previous_term, commit, count = _APPEND.unpack_from(frame, at)
    if previous_index + count | previous_term | commit > MAX_NUMBER:
        raise ValueError(_TOO_LARGE)
    at += _APPEND.size
    if count * _ENTRY.size > len(frame) - at:
        raise ValueError(f"{count} entries do not fit in a frame of {len(frame)} bytes")
    entries = []
    newest = max(previous_term, 1)
    for expected in range(previous_index + 1, previous_index + 1 + count):
        entry_term, index, kind, time_ms, length = _ENTRY.unpack_from(frame, at)
        if index != expected or not newest <= entry_term <= term:
            raise ValueError(
                f"entry ({index}, {entry_term}) stands where entry {expected} of a term from {newest} to {term} should"
            )
        newest = entry_term
        at += _ENTRY.size
        data = _slice(frame, at, length)
        at += length
        if kind not in _ENTRY_KINDS:
            raise ValueError(f"an entry of kind {kind}")
        entries.append(_entry(new_record(Entry, (entry_term, index, _ENTRY_KINDS[kind], time_ms, data))))
    fields = (source, target, term, previous_index, previous_term, tuple(entries), commit)
    return new_record(AppendRequest, fields)


def _entry(entry: Entry) -> Entry:
    """One whose time and data can be read when it is applied."""
    _bound_time(entry.time_ms)
    if entry.kind is EntryKind.COMMANDS:
        frames.check_envelopes(entry.data)
    elif entry.kind is EntryKind.MEMBERSHIP:
        membership.decode(entry.data)
    return entry


def _snapshot(source: NodeId, target: NodeId, term: Term, frame: bytes, at: int) -> SnapshotRequest:
    index, snapshot_term, time_ms, offset, done, members, size = _SNAPSHOT.unpack_from(frame, at)
    _bound(index | offset)
    _bound_time(time_ms)
    if not (index and 1 <= snapshot_term <= term):
        raise ValueError(f"a snapshot of entry ({index}, {snapshot_term}) from a leader of term {term}")
    at += _SNAPSHOT.size
    meta = SnapshotMeta(index, snapshot_term, time_ms, membership.decode(_slice(frame, at, members)))
    if not membership.voters_of(meta.membership):
        raise ValueError("a snapshot of a group in which nobody votes")
    data = _slice(frame, at + members, size)
    if not (data or done):
        raise ValueError("a piece of nothing, and more to come")
    return SnapshotRequest(source, target, term, meta, offset, data, done)


def _bound(numbers: int) -> None:
    """Raises `ValueError` if a number is too large. `numbers` has the bits of several numbers, to check them at
    once."""
    if numbers > MAX_NUMBER:
        raise ValueError(_TOO_LARGE)


def _bound_time(time_ms: int) -> None:
    if not 0 <= time_ms <= MAX_TIME_MS:
        raise ValueError(f"a log time of {time_ms} ms")


def _slice(frame: bytes, at: int, length: int) -> bytes:
    if length > len(frame) - at:
        raise ValueError(f"{length} bytes announced, {max(0, len(frame) - at)} there")
    return frame[at : at + length]
