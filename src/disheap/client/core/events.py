"""What a session says: frozen events, handed to whoever owns the socket (h11's way of parting protocol from I/O)."""

from __future__ import annotations

from typing import Any, final

import msgspec

from disheap.errors import ProtocolError, RequestError


class Said(msgspec.Struct, frozen=True, gc=False):
    """Something that a driver acts upon, in the order given."""


@final
class Ready(Said, frozen=True):
    """The session is attached to this connection: commands flow. `resumed` tells an old session from a new one; `body`
    is then the machine's answer to what the client holds."""

    resumed: bool
    index: int = 0
    body: bytes = b""


class Moved(Said, frozen=True):
    """Nothing more comes from this connection: close it and go to `leader`, or look for it where that is ""."""

    leader: str
    code: str = "not-leader"
    message: str = ""


@final
class Answered(Said, frozen=True):
    """`waiter` is what was given with the request; `body` is the answer, unless `error` says why there is none."""

    waiter: Any
    index: int
    body: bytes
    error: RequestError | None = None


@final
class Pushed(Said, frozen=True):
    index: int
    body: bytes


class Postponed(Said, frozen=True):
    """The node takes no more for now: call `Session.retry()` after a short while."""


@final
class Lapsed(Said, frozen=True):
    """The old session is over, and what it held went back; a new one is on its way."""


class Alive(Said, frozen=True):
    """A PONG."""


class Broken(Said, frozen=True, gc=True):
    """The other side is no node, not ours, or speaks otherwise: nothing more can be done with it. Always the last.

    Its error remembers the frames that it came through, and they this event: a cycle, for the collector to find."""

    error: ProtocolError


class Closed(Said, frozen=True):
    """The session has ended of our own will."""


Event = Ready | Moved | Answered | Pushed | Postponed | Lapsed | Alive | Broken | Closed
"""What the opaque session says."""
