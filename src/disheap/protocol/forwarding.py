"""Messages of one group for another, between two nodes: a FORWARD frame and its FORWARD_ANSWER.

The leader of the source group sends a FORWARD to the node that leads the target group. The command in it is a message
of the source's outbox (`interfaces.Forwarding`). An answer names the same groups and the same number. Its success holds
for ever: the target has committed the message with this number. So an answer that comes late, or after a restart of
either node, confirms nothing that is not so. Both bodies are MessagePack arrays.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from disheap.errors import MalformedFrame
from disheap.protocol import frames
from disheap.protocol.frames import FAULT_CHARACTERS, Kind
from disheap.protocol.handshake import GROUP_MAX
from disheap.protocol.repair import MAX_NUMBER

MAX_CODE_CHARACTERS = 64


class Forward(msgspec.Struct, array_like=True, frozen=True):
    """A message for the group `group`."""

    group: int  # the target
    source: int  # the group whose outbox holds the message
    number: int  # of the message, among those from `source` to `group`; from 1 on
    command: bytes  # of the target's machine


class ForwardAnswer(msgspec.Struct, array_like=True, frozen=True):
    """What became of a FORWARD."""

    group: int
    source: int
    number: int
    code: str = ""  # of the error; "" when the target's machine has taken the message, now or before
    message: str = ""  # of the error, for people; at most `FAULT_CHARACTERS`
    leader: int = 0  # with `not-leader`: the id of the node that leads the target group; 0 if it is not known


Forwarded = Forward | ForwardAnswer
_Struct = TypeVar("_Struct", Forward, ForwardAnswer)


def encode(message: Forwarded) -> bytes:
    """One whole frame."""
    kind = Kind.FORWARD if isinstance(message, Forward) else Kind.FORWARD_ANSWER
    return frames.plain(kind, msgspec.msgpack.encode(message))


def decode(kind: int, frame: bytes) -> Forwarded:
    """The message in a FORWARD or FORWARD_ANSWER frame. Raises `MalformedFrame`."""
    if kind == Kind.FORWARD:
        return _checked(_decode(frame, Forward))
    answer = _checked(_decode(frame, ForwardAnswer))
    if len(answer.code) > MAX_CODE_CHARACTERS or len(answer.message) > FAULT_CHARACTERS:
        raise MalformedFrame("the answer to a forwarded message has too long a text")
    if not 0 <= answer.leader <= MAX_NUMBER:
        raise MalformedFrame(f"the answer to a forwarded message names node {answer.leader}")
    return answer


def _decode(frame: bytes, content: type[_Struct]) -> _Struct:
    try:
        return msgspec.msgpack.decode(frames.open_plain(frame), type=content)
    except frames.UNREADABLE as error:
        raise MalformedFrame(f"a forwarded message between groups cannot be read: {error}") from error


def _checked(message: _Struct) -> _Struct:
    if not (0 <= message.group <= GROUP_MAX and 0 <= message.source <= GROUP_MAX):
        raise MalformedFrame(f"a message from group {message.source} to group {message.group}")
    if not 1 <= message.number <= MAX_NUMBER:
        raise MalformedFrame(f"a message between groups with the number {message.number}")
    return message
