"""Every exception of disheap, in one tree.

The tree has four branches, because four kinds of people act on an error. They are whoever starts a node
(`ConfigError`), owns its disk (`StorageError`), whoever wrote the peer (`ProtocolError`) and whoever sent a request
(`RequestError`). A message says what happened, what it means, and what to do next.

`RequestError`s travel: a node sends `(code, message)` and the client raises the class that owns the code. The text of a
`CommandRefused` is part of the replicated reply. So it is built from the command and the state alone, never from a
clock or a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, TypeVar


class DisheapError(Exception):
    """Whatever disheap raises on purpose. `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = 1


# --- whoever starts a node -------------------------------------------------------------------------------------------


class ConfigError(DisheapError):
    """A setting, a URL, a plugin or an address is wrong. Nothing was started."""

    exit_code = 2


class UrlError(ConfigError):
    """A broker URL that cannot be read."""


class PluginError(ConfigError):
    """A plugin is unknown, broken or registered twice; says which, and from which distribution."""


class AddressInUse(ConfigError):
    """Another process listens on the address."""


class UnsafeListen(ConfigError):
    """Listening beyond loopback without TLS and authentication needs an explicit `--insecure`, and between nodes the
    cluster's secret."""


class VersionUnsupported(ConfigError):
    """This release does not run the `machine_version` or `log_version` of the cluster or of a stored state. Or a file
    has a newer format. The node stops, nothing is changed."""


# --- whoever owns the disk -------------------------------------------------------------------------------------------

RESTORE = (
    "Restore it from a copy of this node's own directory, made after the node last ran. Do not start it on an empty "
    "directory: it would have forgotten its votes and its data. Other nodes refuse it and go on without it. "
    "Nothing was changed"
)
"""The way out where a file is lost for good. A node whose disk was wiped must not vote under its old identity."""


class StorageError(DisheapError):
    """The storage cannot be used. The node stops; nothing is retried after a failed fsync."""

    exit_code = 3


class LogDamaged(StorageError):
    """A block that was once durable cannot be read. Says file, offset (bytes) and the way out."""

    def __init__(self, file: str, offset: int, reason: str, remedy: str) -> None:
        super().__init__(f"{file}: damaged at byte {offset}: {reason}. {remedy}")
        self.file = file
        self.offset = offset


class StorageLocked(StorageError):
    """Another process has the data directory open."""


class WrongDirectory(StorageError):
    """The data directory belongs to another node or another cluster."""


class DiskFailed(StorageError):
    """A write, an fsync or a close failed; what is on the disk is unknown until the node is restarted."""


class StorageGone(DiskFailed):
    """The files of a running node were removed, moved or replaced. What it would confirm from here on is in no
    directory that it finds again."""

    exit_code = 11


class StorageFull(StorageError):
    """There was no room for a write. Nothing of it is left, and the same call may be made again when there is."""


class RepairIneffective(StorageError):
    """A repair from the other nodes has changed nothing several times, and the storage still lacks something."""


class SnapshotDamaged(StorageError):
    """A snapshot's checksum does not match. A bad snapshot never means an empty state."""


class BackupDamaged(StorageError):
    """A backup cannot be read, or is none. Says file, offset (bytes) and what is wrong. Nothing was changed."""


class BackupTruncated(BackupDamaged):
    """A backup ends before its trailer. It was cut off when it was written or copied."""


class CodecError(StorageError):
    """Stored bytes that a codec cannot decode, or that exceed the raw limit."""


class WrongCodec(CodecError):
    """The data were written with another codec than the one that is set. Nothing was changed."""

    exit_code = 2


# --- whoever wrote the peer ------------------------------------------------------------------------------------------


class ProtocolError(DisheapError):
    """The other side broke the protocol. Its own connection is closed, and nothing else. `code` is what it is told."""

    exit_code = 4
    code: ClassVar[str] = "protocol-error"


class MalformedFrame(ProtocolError):
    """A frame that cannot be read."""

    code = "malformed-frame"


class FrameTooLarge(ProtocolError):
    """A frame over the limit; refused before memory is taken for it."""

    code = "frame-too-large"


class WrongVersion(ProtocolError):
    """The two sides share no version of the protocol, or one of two nodes does not run what the cluster runs."""

    code = "wrong-version"


class WrongCluster(ProtocolError):
    """The other side belongs to a different cluster."""

    code = "wrong-cluster"


class UnknownGroup(ProtocolError):
    """The node hosts no group of this number."""

    code = "unknown-group"


class UnknownMechanism(ProtocolError):
    """The node does not offer the mechanism that the client wants to authenticate with. The message lists those that
    it offers."""

    code = "unknown-mechanism"


class CredentialsRefused(ProtocolError):
    """The mechanism is known, and what the client sent for it does not prove a name."""

    code = "credentials-refused"


class MemberRemoved(ProtocolError):
    """The cluster has removed the other node. Its id is never used again: it may come back under a new one."""

    code = "removed"


class NotProved(ProtocolError):
    """The other node does not know the cluster's secret, or was given none, or another one."""

    code = "not-proved"


def protocol_error(code: str, message: str) -> ProtocolError | None:
    """The exception that owns `code`, with the text a node sent; None for the code of no `ProtocolError`."""
    owner = _owners(ProtocolError).get(code)
    return None if owner is None else owner(message)


def protocol_codes() -> tuple[str, ...]:
    """The codes of all `ProtocolError`s."""
    return tuple(_owners(ProtocolError))


# --- the command line ------------------------------------------------------------------------------------------------


class MigrationStopped(DisheapError):
    """`disheap migrate`: the other broker or the cluster does not answer, or refuses. Each message is still at one of
    them, and the command may be repeated."""

    exit_code = 5


# --- whoever sent a request ------------------------------------------------------------------------------------------


class RequestError(DisheapError):
    """A request was refused, or its outcome is not known. `code` is what travels on the wire."""

    exit_code = 5
    code: ClassVar[str] = "refused"


class CommandRefused(RequestError):
    """The state machine refused a command; the state is as it was. The same on every replica."""

    code = "command-refused"


class UnknownCommand(CommandRefused):
    """A command this version does not know, or one whose fields do not fit."""

    code = "unknown-command"


class VersionTooOld(CommandRefused):
    """The command does not exist at the `machine_version` that the cluster runs. It may exist at a later one, which the
    leader sets when every member supports it."""

    code = "version-too-old"


class InvalidArgument(CommandRefused):
    """A field of a command is out of its bounds."""

    code = "invalid-argument"


class PriorityOutOfRange(InvalidArgument):
    """Priorities are signed 64-bit integers."""

    code = "priority-out-of-range"


class PayloadTooLarge(InvalidArgument):
    """The payload is over the topic's or the node's limit."""

    code = "payload-too-large"


class InvalidHeaders(InvalidArgument):
    """Headers are too large, too many, nested, named twice, or not encoded as they must be. Nothing was done."""

    code = "invalid-headers"


class InvalidKey(InvalidArgument):
    """A key is text of a bounded length. Nothing was done."""

    code = "invalid-key"


class BatchTooLarge(InvalidArgument):
    """A batch has more parts than one command may do. Nothing was done: send fewer messages and acks in each batch."""

    code = "batch-too-large"


class TopicNotFound(CommandRefused):
    """No such topic. Create it first: `disheap topic create NAME`."""

    code = "topic-not-found"


class TopicMismatch(CommandRefused):
    """The topic exists with other settings."""

    code = "topic-mismatch"


class TopicLocked(CommandRefused):
    """The topic is exclusive to a session that is connected (AMQP's 405)."""

    code = "topic-locked"


class TopicInUse(CommandRefused):
    """The topic has consumers or messages, and the request said only-if-not."""

    code = "topic-in-use"


class TopicFull(CommandRefused):
    """The topic is at its limit."""

    code = "topic-full"


class TopicPaused(CommandRefused):
    """The topic takes no messages for now, because somebody has paused it. Nothing was done. Try again later, or let it
    go on: `disheap topic resume NAME`."""

    code = "topic-paused"


class ExchangeNotFound(CommandRefused):
    """No such exchange."""

    code = "exchange-not-found"


class ExchangeMismatch(CommandRefused):
    """The exchange exists with another type."""

    code = "exchange-mismatch"


class ConsumerNotFound(CommandRefused):
    """No such consumer in this session."""

    code = "consumer-not-found"


class TransactionNotFound(CommandRefused):
    """No such transaction: it was never prepared, or it ended so long ago that its outcome is forgotten."""

    code = "transaction-not-found"


class TransactionOver(CommandRefused):
    """The transaction has ended otherwise: a commit after its abort, an abort after its commit, or a late prepare."""

    code = "transaction-over"


class BarrierClosed(CommandRefused):
    """The barrier was closed before, by whoever was first, or it is unknown: it was dropped, or never created."""

    code = "barrier-closed"


class GroupNotFound(CommandRefused):
    """A transaction names a group that the cluster does not have, or whose machine takes no messages of other groups.
    Nothing was done."""

    code = "group-not-found"


class WrongEpoch(CommandRefused):
    """The transaction has another epoch. Nothing was done: a later attempt has replaced the sender's, or has to wait
    for the decision on an earlier one."""

    code = "wrong-epoch"


class LeaseLost(CommandRefused):
    """The lease is no longer held under this token: acknowledged, expired or given back. Nothing was changed."""

    code = "lease-lost"


class InternalError(CommandRefused):
    """The state machine failed on a command. The state is as it was; the node's log has the traceback."""

    code = "internal-error"


class NotLeader(RequestError):
    """This node does not lead. `leader` is the client address to go to, or "" while there is none."""

    code = "not-leader"

    def __init__(self, leader: str = "") -> None:
        super().__init__(f"this node does not lead; {'ask ' + leader if leader else 'no leader is known yet'}")
        self.leader = leader


class OutcomeUnknown(RequestError):
    """The request may or may not have been carried out. It is not known to have failed: look before repeating it."""

    code = "outcome-unknown"


class SessionExpired(RequestError):
    """The session lapsed; what it held was given back."""

    code = "session-expired"


class WrongSecret(RequestError):
    """The session belongs to another client: it was opened with another secret, or under another certificate name.
    Nothing was changed."""

    code = "wrong-secret"


class WrongMachine(RequestError):
    """The cluster runs another state machine than the one that the request is for. Nothing was sent to it."""

    code = "wrong-machine"


class Unauthorized(RequestError):
    """The client is who it says it is, and may not do this. Nothing was done."""

    code = "unauthorized"


class WindowExceeded(RequestError):
    """More commands unanswered than `session_window` allows."""

    code = "window-exceeded"


class Overloaded(RequestError):
    """The node takes no more for now. Nothing was done; repeat under the same sequence number."""

    code = "overloaded"


class ChangeInProgress(Overloaded):
    """An earlier change of the members is not committed yet, or the leader has committed nothing in its term. Members
    change one at a time. Nothing was done; repeat in a moment."""

    code = "change-in-progress"


class UnknownMember(RequestError):
    """The cluster has no member of this name or id. Nothing was done."""

    code = "unknown-member"


class NameTaken(RequestError):
    """A member of this name exists. A node that has lost its data comes back under a new id, after `disheap node
    replace NAME`. Nothing was done."""

    code = "name-taken"


class LastVoter(RequestError):
    """The change would leave the cluster without a voter. Nothing was done."""

    code = "last-voter"


class QuorumAtRisk(RequestError):
    """After the change, no majority of the voters would be in touch with the leader, and nothing could be written.
    Nothing was done. `force` does it all the same."""

    code = "quorum-at-risk"


class NotCaughtUp(RequestError):
    """A learner is too far behind to become a voter: until it has caught up, commits would wait for it. Nothing was
    done. `force` does it all the same."""

    code = "not-caught-up"


class MemberAlive(RequestError):
    """A member that is to be replaced is in touch with the leader. Remove it, or stop it first. Nothing was done.
    `force` does it all the same."""

    code = "member-alive"


class LimitReached(Overloaded):
    """A limit of connections or sessions is reached. The message names the limit and its setting. To repeat the request
    does not help until an operator raises the limit or somebody closes a connection."""

    code = "limit-reached"


class BackupLost(RequestError):
    """The node has ended a backup before it was whole, or has none of that number. Nothing was changed; take the backup
    again."""

    code = "backup-lost"


class DiskFull(RequestError):
    """The nodes' disks are nearly full, and the command would add to them. Nothing was done; make room, then repeat."""

    code = "disk-full"


class MemoryFull(RequestError):
    """A node's memory is used up to its mark, and the command would add to it. Nothing was done; have queues drained,
    then repeat."""

    code = "memory-full"


class ConnectionLost(RequestError):
    """No node could be reached, or the connection ended before an answer came. `found` has the code of what was found
    at each address, where a search for a node has failed. The code is `connection-lost` if nobody answered there."""

    code = "connection-lost"
    exit_code = 6
    found: Mapping[str, str] = MappingProxyType({})


class NotSent(ConnectionLost):
    """No node could be reached in time, and the command was taken back: nothing was done, and nothing will be."""

    code = "not-sent"


class RequestTimeout(RequestError):
    """No answer within the time given. Like `OutcomeUnknown`, it is not a failure."""

    code = "timeout"
    exit_code = 7


Coded = TypeVar("Coded", RequestError, ProtocolError)
Raised = TypeVar("Raised", bound=BaseException)


def renewed(error: Raised) -> Raised:
    """A copy without a traceback. Whoever keeps an error raises a copy: a traceback holds frames, and through them the
    keeper, which nothing but the garbage collector would free."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy


def reworded(error: Raised, text: str) -> Raised:
    """A copy with another text, without a traceback."""
    copy = type(error).__new__(type(error), text)
    copy.__dict__.update(error.__dict__)
    copy.args = (text,)
    return copy


def request_error(code: str, message: str) -> RequestError:
    """The exception that owns `code`, with the text a node sent; `RequestError` itself for a code not known here."""
    owner = _owners(RequestError).get(code)
    if owner is None:
        return RequestError(f"{code}: {message}")
    error = owner.__new__(owner)
    Exception.__init__(error, message)
    if isinstance(error, NotLeader):
        error.leader = ""
    return error


def _owners(root: type[Coded]) -> dict[str, type[Coded]]:
    owners = {root.code: root} if "code" in vars(root) else {}  # an heir without a code of its own owns none
    for child in root.__subclasses__():
        owners |= _owners(child)
    return owners
