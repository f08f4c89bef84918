"""The events of a session. They are frozen, and the owner of the socket handles them (h11 separates protocol and I/O in
this way)."""

from __future__ import annotations

from typing import Any, final

import msgspec

from disheap.errors import ProtocolError, RequestError


class SessionEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of a session. A driver handles events in their order."""


@final
class Ready(SessionEvent, frozen=True):
    """The session is attached to this connection: commands flow. `resumed` tells an old session from a new one; `body`
    is then the machine's answer to what the client holds."""

    resumed: bool
    index: int = 0
    body: bytes = b""


class Moved(SessionEvent, frozen=True):
    """This connection is of no more use: close it and go to `leader`. If that is "", look for the leader."""

    leader: str
    code: str = "not-leader"
    message: str = ""


@final
class Answered(SessionEvent, frozen=True):
    """`waiter` is what was given with the request; `body` is the answer, unless `error` says why there is none."""

    waiter: Any
    index: int
    body: bytes
    error: RequestError | None = None


@final
class Pushed(SessionEvent, frozen=True):
    """A push of the machine, not decoded."""

    index: int
    body: bytes


class Postponed(SessionEvent, frozen=True):
    """The node takes no more for now: call `Session.retry()` after a short while."""


@final
class Lapsed(SessionEvent, frozen=True):
    """The old session is over, and what it held went back; a new one is on its way."""


class MembersChanged(SessionEvent, frozen=True):
    """The cluster has other members. `addresses` are the client addresses of all nodes."""

    addresses: list[str]


class Alive(SessionEvent, frozen=True):
    """A PONG."""


class Broken(SessionEvent, frozen=True, gc=True):
    """The other side is no node, or one of another cluster or version: nothing more can be done with it. Always the
    last event.

    Its error refers to the frames that it came through, and they refer to this event. So only the garbage collector
    frees it."""

    error: ProtocolError


class Closed(SessionEvent, frozen=True):
    """The session has ended, as the client asked."""


Event = Ready | Moved | Answered | Pushed | Postponed | Lapsed | MembersChanged | Alive | Broken | Closed
"""What the opaque session says."""
