"""Which frames about sessions a connection may send, and in which state.

Pure rules: a connection carries one session, which it opens or attaches once and closes once. What `FrameReader.cut`
has checked does not come here.
"""

from __future__ import annotations

import msgspec

from disheap.errors import MalformedFrame
from disheap.protocol import frames
from disheap.protocol.frames import Envelope, Flags, Kind, SessionOptions

_CONFIRMS_ITSELF = (
    "command {} says that every reply up to {} has been received, its own among them; it would never be carried out"
)


def check_request(envelope: Envelope, session: int, is_asking: bool) -> None:
    """Raises `MalformedFrame` for an OPEN, ATTACH or CLOSE out of turn. `session` is attached to the connection, or 0.
    `is_asking`: an earlier one has no reply yet."""
    is_close = envelope.kind == Kind.CLOSE
    if is_asking or (session != 0) != is_close:
        raise MalformedFrame("a connection carries one session: OPEN or ATTACH it once, then CLOSE it once")
    if is_close and envelope.session != session:
        raise MalformedFrame(f"a CLOSE of session {envelope.session}, which is not attached to this connection")


def check_transient(envelope: Envelope, session: int) -> None:
    """A command that the fast path did not take has to be a transient one of the attached session. Raises
    `MalformedFrame`."""
    if envelope.session != session or session == 0:
        raise MalformedFrame(f"a command of session {envelope.session}, which is not attached to this connection")
    if not envelope.flags & Flags.TRANSIENT or envelope.seq != 0:
        if envelope.confirmed >= envelope.seq > 0:
            raise MalformedFrame(_CONFIRMS_ITSELF.format(envelope.seq, envelope.confirmed))
        raise MalformedFrame("sequence numbers begin at 1; only transient commands carry 0")


def read_options(body: bytes) -> SessionOptions:
    """Decodes the options of an OPEN. Only decoded fields go into the log. Unknown fields could be nested so deep that
    one node can skip them and another cannot. Raises `MalformedFrame`."""
    try:
        return msgspec.msgpack.decode(body, type=SessionOptions)
    except frames.UNREADABLE as error:
        raise MalformedFrame(f"an OPEN that cannot be read: {error}") from error
