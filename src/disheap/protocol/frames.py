"""Frames: what travels between a client and a node, and what of it goes into the log (docs/reference/wire-protocol.md).

A frame is opaque bytes in a small header. A *command envelope* is a frame that goes into the log exactly as it came
from the socket. Leader and followers store and send it without decoding its body. This module knows nothing of brokers.

Every frame (all integers little-endian, unsigned unless said otherwise):

| bytes | field  | meaning                                              |
|-------|--------|------------------------------------------------------|
| 0-3   | length | of all that follows this field; checked before use   |
| 4     | kind   | `Kind`                                               |
| 5     | flags  | `Flags` on envelopes, `Status` on replies, otherwise 0 |

Envelope (`COMMAND` to `NODE_COMMAND`), header of 30 bytes, then the body:

| bytes | field     | meaning                                                                |
|-------|-----------|------------------------------------------------------------------------|
| 6-13  | session   | 0 if there is none yet                                                 |
| 14-21 | seq       | of the command in its session; 0 for a transient one: at most once, unanswered |
| 22-29 | confirmed | every reply up to this seq has been received; below the seq of a command     |

`REPLY` (to an envelope) and `ANSWER` (to a query or admin request), header of 22 bytes: 6-13 seq or request number,
14-21 log index, then the body. That of an OPEN is a `GRANT`: the session in 8 bytes, its timeout in ms in 4, its secret
in 16. The body of an ATTACH begins with that secret.

An OPEN and an ATTACH are the two envelopes that do not go into the log as they came. The leader puts an `Opening` or an
`Attaching` in the place of the body, with who the client is and a hash of the secret. `PUSH`: 6-13 log index, then the
body. `QUERY` and `ADMIN`: 6-13 request number, then the body. `HELLO`, `WELCOME`, `GOODBYE`, `PING`, `PONG`, `MEMBERS`:
the body follows at 6. The bodies of `HELLO`, `WELCOME`, `GOODBYE` and `MEMBERS` are in `handshake`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.errors import FrameTooLarge, MalformedFrame, RequestError, WrongVersion
from disheap.kernel.types import quick_members

LENGTH_BYTES = 4
SHORTEST = 2  # kind and flags
FAULT_CHARACTERS = 1000
NOT_DISHEAP = "the other side does not speak the disheap protocol; check the address and the port"
HANDSHAKE_FRAME_BYTES = 4096  # storage-rules 13: small until the other side has said who it is
NODE_FRAME_BYTES = 1 << 28
"""The longest frame from a node to a client. The reply to an ATTACH brings every lease of the session in one piece."""
FRAME_BYTES = 2 << 20  # of a client's frame, at most, until a WELCOME says more: no limit is below it by default

_PREFIX = Struct("<IBB")
ENVELOPE = Struct("<IBBQQQ")  # length, kind, flags, session, seq, confirmed
ENVELOPE_REST = ENVELOPE.size - LENGTH_BYTES  # what `length` counts besides the body
REPLY = Struct("<IBBQQ")  # length, kind, status, seq, index
NUMBERED = Struct("<IBBQ")  # length, kind, flags, number
REPLY_REST = REPLY.size - LENGTH_BYTES
NUMBERED_REST = NUMBERED.size - LENGTH_BYTES
GRANT = Struct("<QI16s")  # session, timeout_ms, secret
SECRET_BYTES = 16  # 128 bits, drawn by the leader
PROOF_BYTES = 32
RAISED = Struct("<BB")  # machine_version, log_version
_LENGTH_AND_KIND = Struct("<IB")


@quick_members
class Kind(IntEnum):
    """What a frame is. The first nine are envelopes and may stand in the log; the client sends the first four."""

    COMMAND = 1  # a command of the state machine
    OPEN = 2  # a new session; body: SessionOptions from the client, Opening in the log
    ATTACH = 3  # a session on this connection from now on; body: secret and what it holds, Attaching in the log
    CLOSE = 4  # the session ends of its own will
    DETACH = 5  # the leader lost the session's connection
    EXPIRE = 6  # the leader did not hear of the session in time
    CONTINUE = 7  # time passes, postponed work goes on
    RAISE_VERSION = 8  # body: two bytes, the machine_version and the log_version from here on
    NODE_COMMAND = 9  # a command of the state machine from a leader and not from a client; session 0, seq: who waits

    HELLO = 16
    WELCOME = 17
    GOODBYE = 18
    PING = 19
    PONG = 20
    QUERY = 21
    ADMIN = 22
    REPLY = 23
    ANSWER = 24
    PUSH = 25
    MEMBERS = 26

    PEER_HELLO = 32
    PEER_WELCOME = 33
    PEER_MESSAGE = 34
    REPAIR_ASK = 35
    REPAIR_ANSWER = 36
    GOSSIP = 37
    PEER_CHALLENGE = 38
    PEER_PROOF = 39
    FORWARD = 40
    FORWARD_ANSWER = 41


KINDS = frozenset(map(int, Kind))

COMMAND_KIND, REPLY_KIND, PUSH_KIND = int(Kind.COMMAND), int(Kind.REPLY), int(Kind.PUSH)
"""For the paths of every command: to name a member of an enum takes 0.1 us under CPython 3.11."""
RUN = 256
"""What `FrameReader.cut` calls a run of commands. No frame is of this kind: a kind has one byte."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding unreadable bytes raises. They are msgspec's own errors, and two that it lets through: a text that is no
UTF-8, and arrays nested too deep for the stack."""

LOG_VERSIONS = (1, 1)
"""The lowest and highest `log_version` that this release runs: which envelope kinds may stand in the log."""

ENVELOPES_SINCE: dict[int, int] = {
    Kind.COMMAND: 1,
    Kind.OPEN: 1,
    Kind.ATTACH: 1,
    Kind.CLOSE: 1,
    Kind.DETACH: 1,
    Kind.EXPIRE: 1,
    Kind.CONTINUE: 1,
    Kind.RAISE_VERSION: 1,
    Kind.NODE_COMMAND: 1,
}
"""The `log_version` since which each envelope kind exists. A leader proposes none that the cluster's is below."""

PEER_FRAMES_SINCE: dict[int, int] = {
    Kind.PEER_MESSAGE: 2,
    Kind.REPAIR_ASK: 2,
    Kind.REPAIR_ANSWER: 2,
    Kind.GOSSIP: 2,
    Kind.FORWARD: 2,
    Kind.FORWARD_ANSWER: 2,
}
"""The protocol version since which each frame between nodes exists. None is sent on a connection of a lower version."""

CLIENT_ENVELOPES = frozenset({Kind.COMMAND, Kind.OPEN, Kind.ATTACH, Kind.CLOSE})


TRANSIENT = 2


class Flags:
    """Flags of a COMMAND."""

    NONE = 0
    TRANSIENT = TRANSIENT  # seq 0: never answered, dropped by the leader where the machine does not admit it


class Status:
    """The status of a REPLY or an ANSWER."""

    OK = 0
    ERROR = 1  # the body is a Fault


class Fault(msgspec.Struct, array_like=True, frozen=True):
    """The body of a reply with `Status.ERROR`."""

    code: str
    message: str


def fault(error: RequestError) -> bytes:
    """The body of a refusal. It is kept for each command that was refused, and its text may repeat what the client
    sent. So only the beginning of a long text is kept."""
    text = str(error)
    if len(text) > FAULT_CHARACTERS:
        text = text[: FAULT_CHARACTERS - 4] + " ..."
    return msgspec.msgpack.encode(Fault(error.code, text))


class SessionOptions(msgspec.Struct, frozen=True):
    """The body of an OPEN from a client."""

    timeout_ms: int  # the session timeout: how long the client may say nothing while its connection stands
    label: Annotated[str, Meta(max_length=255)] = ""  # for people to read, at most 255 characters; kept on every node


class Opening(msgspec.Struct, array_like=True, frozen=True):
    """The body of an OPEN in the log."""

    timeout_ms: int
    label: str
    principal: str
    address: str
    proof: Annotated[bytes, Meta(min_length=PROOF_BYTES, max_length=PROOF_BYTES)]


class Attaching(msgspec.Struct, array_like=True, frozen=True):
    """The body of an ATTACH in the log."""

    principal: str
    address: str
    proof: Annotated[bytes, Meta(min_length=PROOF_BYTES, max_length=PROOF_BYTES)]
    held: bytes = b""


_LOGGED_BODIES: dict[int, type[msgspec.Struct]] = {Kind.OPEN: Opening, Kind.ATTACH: Attaching}


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """One envelope, taken apart. The fast paths use `ENVELOPE.unpack_from` directly."""

    kind: int
    flags: int
    session: int
    seq: int
    confirmed: int
    body: bytes


def envelope(kind: int, flags: int, session: int, seq: int, confirmed: int, body: bytes = b"") -> bytes:
    """A whole envelope."""
    return ENVELOPE.pack(ENVELOPE_REST + len(body), kind, flags, session, seq, confirmed) + body


def reply(kind: int, status: int, seq: int, index: int, body: bytes) -> bytes:
    """A whole REPLY or ANSWER."""
    return REPLY.pack(REPLY_REST + len(body), kind, status, seq, index) + body


def push(index: int, body: bytes) -> bytes:
    """A whole PUSH."""
    return NUMBERED.pack(NUMBERED_REST + len(body), PUSH_KIND, 0, index) + body


def request(kind: int, number: int, body: bytes) -> bytes:
    """A whole QUERY or ADMIN."""
    return NUMBERED.pack(NUMBERED_REST + len(body), kind, 0, number) + body


def plain(kind: int, body: bytes = b"") -> bytes:
    """A whole frame with a plain header."""
    return _PREFIX.pack(2 + len(body), kind, 0) + body


def checked_length(buffer: bytes, position: int, limit: int, setting: str = "") -> int:
    """Returns the length that the frame at `position` announces. Raises `FrameTooLarge` over `limit`, which `setting`
    sets, and `MalformedFrame`."""
    length = int.from_bytes(buffer[position : position + LENGTH_BYTES], "little")
    if length > limit == HANDSHAKE_FRAME_BYTES:
        raise FrameTooLarge(f"what came first is no frame of at most {limit} bytes: {NOT_DISHEAP}")
    if length > limit:
        origin = f" ({setting})" if setting else ""
        raise FrameTooLarge(f"a frame of {length} bytes is over the limit of {limit}{origin}")
    if length < SHORTEST:
        raise MalformedFrame(f"a frame of {length} bytes is too short to be one")
    return length


class FrameReader:
    """Cuts a stream into frames. Feed it bytes as they come. It keeps a frame that is not whole.

    `limit` bounds a frame (bytes after the length field). A handshake can raise it with `set_limit`. Errors are raised
    as soon as a header shows them, before the body has arrived, and after every frame before it was yielded. The reader
    is of no use after an error.
    """

    __slots__ = ("_needed", "_unfinished", "limit", "setting")

    def __init__(self, limit: int = HANDSHAKE_FRAME_BYTES) -> None:
        self.limit = limit
        self.setting = ""
        self._unfinished: bytes | bytearray = b""
        self._needed = 0  # bytes of the frame whose beginning is kept

    def set_limit(self, limit: int, setting: str = "") -> None:
        """Bound each frame from the next one on. `setting` names what sets the limit, for the error."""
        self.limit, self.setting = limit, setting

    @property
    def held_bytes(self) -> int:
        """The bytes held of a frame that is not whole."""
        return len(self._unfinished)

    def clear(self) -> None:
        """Forget the frame that is not whole."""
        self._unfinished = b""

    def cut(self, data: bytes, session: int = 0) -> Iterator[tuple[int, bytes, int, int]]:
        """Yields (kind, buffer, start, end) for each frame that is whole, its length field included.

        Commands of `session` that follow each other come together as one `RUN`. Their headers are checked, so a leader
        may write the run to the log as it is. Each has a seq, confirms only seqs before its own, and is not transient.
        Every other frame comes by itself. Without a `session` there are no runs. Raises `FrameTooLarge` and
        `MalformedFrame`.
        """
        buffer, limit, unpack = self._join(data) if self._unfinished else data, self.limit, ENVELOPE.unpack_from
        size, position, run = len(buffer), 0, 0
        while size - position >= ENVELOPE.size:
            length, kind, flags, number, seq, confirmed = unpack(buffer, position)
            end = position + LENGTH_BYTES + length
            if end > size or not SHORTEST <= length <= limit:
                break
            if (
                kind != COMMAND_KIND
                or number != session
                or not number
                or confirmed >= seq  # and so every seq of 0
                or flags & TRANSIENT
                or length < ENVELOPE_REST
            ):
                if run < position:
                    yield RUN, buffer, run, position
                yield kind, buffer, position, end
                run, limit = end, self.limit
            position = end
        if run < position:
            yield RUN, buffer, run, position
        needed = LENGTH_BYTES
        while size - position >= LENGTH_BYTES:  # frames shorter than an envelope, and what is not whole
            end = position + LENGTH_BYTES + checked_length(buffer, position, self.limit, self.setting)
            if end > size:
                needed = end - position
                break
            yield buffer[position + LENGTH_BYTES], buffer, position, end
            position = end
        if position < size:
            self._unfinished, self._needed = buffer[position:], needed

    def frames(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields (kind, whole frame)."""
        for kind, buffer, start, end in self.cut(data):
            yield kind, buffer[start:end]

    def _join(self, data: bytes) -> bytes:
        """Everything from the beginning of the unfinished frame on; b"" until that frame is whole. The pieces are
        gathered and copied once: copied for every piece, a frame of 60 MiB would stop the loop for longer than an
        election."""
        held = self._unfinished
        if not held:
            return data
        if len(held) + len(data) >= self._needed:
            self._unfinished = b""
            return b"".join((held, data))
        if type(held) is bytes:
            self._unfinished = held = bytearray(held)
        held += data
        return b""


def open_envelope(frame: bytes) -> Envelope:
    """Returns the parts of a whole envelope. Raises `MalformedFrame`."""
    if len(frame) < ENVELOPE.size:
        raise MalformedFrame(f"an envelope of {len(frame)} bytes is shorter than its header of {ENVELOPE.size}")
    _, kind, flags, session, seq, confirmed = ENVELOPE.unpack_from(frame)
    return Envelope(kind, flags, session, seq, confirmed, frame[ENVELOPE.size :])


def spans(envelopes: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (start, end, seq) of each envelope in a run of whole ones."""
    position = 0
    while position < len(envelopes):
        length, _, _, _, seq, _ = ENVELOPE.unpack_from(envelopes, position)
        end = position + LENGTH_BYTES + length
        yield position, end, seq
        position = end


def check_envelopes(data: bytes) -> None:
    """Checks that `data` is a run of whole envelopes, and that the bodies which the leader makes can be read. Raises
    `MalformedFrame`, and `WrongVersion` for a kind that this release does not know."""
    position, size, unpack, command = 0, len(data), _LENGTH_AND_KIND.unpack_from, Kind.COMMAND
    unknown: int | None = None
    while size - position >= ENVELOPE.size:
        length, kind = unpack(data, position)
        if length < ENVELOPE_REST:
            break
        if kind != command:
            if kind not in ENVELOPES_SINCE:
                unknown = kind
            _check_control(kind, data[position + ENVELOPE.size : position + LENGTH_BYTES + length])
        position += LENGTH_BYTES + length
    if position != size:
        raise MalformedFrame(f"{size} bytes of commands are no run of whole envelopes")
    if unknown is not None:  # told last: rubbish is no newer release
        raise WrongVersion(
            f"an entry holds an envelope of kind {unknown}, and this release knows those of log_version "
            f"{LOG_VERSIONS[0]} to {LOG_VERSIONS[1]}. The sender runs a newer release; install that release here, too"
        )


def _check_control(kind: int, body: bytes) -> None:
    if kind == Kind.RAISE_VERSION and len(body) != RAISED.size:
        raise MalformedFrame(f"a RAISE_VERSION has {len(body)} bytes, not the two that name the versions")
    content = _LOGGED_BODIES.get(kind)
    if content is not None:
        try:
            msgspec.msgpack.decode(body, type=content)
        except UNREADABLE as error:
            raise MalformedFrame(f"an {Kind(kind).name} that cannot be read: {error}") from error


def open_reply(frame: bytes) -> tuple[int, int, int, bytes]:
    """Returns (status, seq or number, log index, body) of a REPLY or an ANSWER. Raises `MalformedFrame`."""
    if len(frame) < REPLY.size:
        raise MalformedFrame(f"a reply of {len(frame)} bytes is shorter than its header of {REPLY.size}")
    _, _, status, seq, index = REPLY.unpack_from(frame)
    return status, seq, index, frame[REPLY.size :]


def open_numbered(frame: bytes) -> tuple[int, bytes]:
    """Returns (number or log index, body) of a QUERY, ADMIN or PUSH. Raises `MalformedFrame`."""
    if len(frame) < NUMBERED.size:
        raise MalformedFrame(f"a frame of {len(frame)} bytes is shorter than its header of {NUMBERED.size}")
    return NUMBERED.unpack_from(frame)[3], frame[NUMBERED.size :]


def open_plain(frame: bytes) -> bytes:
    """Returns the body of a frame with a plain header."""
    return frame[_PREFIX.size :]
