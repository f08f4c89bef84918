"""The handshake: HELLO, WELCOME and GOODBYE, and which version of the protocol a connection speaks.

Owns the first two frames of a connection and the last one. It does not know what is sent between them.

The dialler offers a range of versions, and the other side chooses the highest that both speak. So that any two releases
can tell each other which versions they speak, these parts are the same in every version:

| frame   | bytes of the body | field                                                                        |
|---------|-------------------|------------------------------------------------------------------------------|
| HELLO   | 0-6               | magic: `disheap`                                                             |
|         | 7-8               | the lowest version that the dialler speaks                                   |
|         | 9-10              | the highest                                                                  |
|         | 11-               | a msgpack map: `Hello`; fields that are not known are ignored                |
| WELCOME | 0-1               | the version chosen: both sides speak it from here on                         |
|         | 2-                | a msgpack map: `Welcome`; fields that are not known are ignored              |
| GOODBYE | 0-                | a msgpack map: `Goodbye`                                                     |

PEER_HELLO and PEER_WELCOME have the same form, with a `PeerHello` as the map.
"""

from __future__ import annotations

from struct import Struct
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from disheap.errors import MalformedFrame, WrongVersion
from disheap.protocol import frames

MAGIC = b"disheap"
BEFORE_RANGES = 1
"""The version whose HELLO carried one number and not a range. No release spoke it."""
GROUP_MAX = (1 << 32) - 1
TEXT_CHARACTERS = 255
MEMBERS_MAX = 1000
"""Addresses that a MEMBERS names at most. A client keeps them, and tries each."""
ANONYMOUS = "anonymous"
"""The mechanism of a client that sends no credentials. Its first message is empty. If its connection has a certificate,
the certificate's name counts all the same."""
EXTERNAL = "external"
"""The mechanism of a client that wants to be known by its certificate, and else not to be served. Its first message is
empty, or the certificate's name."""
MECHANISMS = (ANONYMOUS, EXTERNAL)

_HEAD = Struct("<7sHH")
_VERSION = Struct("<H")


class Versions(NamedTuple):
    """A range of protocol versions."""

    lowest: int
    highest: int

    def __str__(self) -> str:
        if self.lowest == self.highest:
            return f"version {self.lowest}"
        return f"versions {self.lowest} to {self.highest}"


SUPPORTED = Versions(2, 2)
"""What this release speaks."""

Text = Annotated[str, Meta(max_length=TEXT_CHARACTERS)]
GroupNumber = Annotated[int, Meta(ge=0, le=GROUP_MAX)]


class Hello(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client says first."""

    cluster_id: str = ""  # of the cluster that the client wants, as an earlier WELCOME has named it; "" for any
    group: GroupNumber = 0  # the number of the group that the connection speaks to
    client: Text = ""  # the name of the client's library or program, for people to read; at most 255 characters
    client_version: Text = ""  # its version; at most 255 characters
    mechanism: Text = ANONYMOUS  # how the client authenticates
    credentials: bytes = b""  # the first message of the mechanism
    follows_members: bool = False  # whether the client takes a MEMBERS when the members have changed


class ClientLimits(msgspec.Struct, frozen=True):
    """What a node allows its clients. The limits hold for as long as the connection lasts."""

    frame_bytes: int  # the longest frame from the client, after its length field
    command_bytes: int  # the longest body of a COMMAND: what is left of such a frame
    node_frame_bytes: int  # the longest frame from the node; a client has to be able to take it
    session_window: int  # commands of a session without a reply, at most
    session_timeout_min_ms: int  # the shortest session timeout; an OPEN that asks for less gets this
    session_timeout_max_ms: int  # the longest; an OPEN that asks for more gets this
    reattach_timeout_ms: int  # how long a session lasts after its connection ended without a GOODBYE
    idle_timeout_ms: int  # how long a connection without a session may be silent
    queries: int  # QUERY and ADMIN requests of a connection without an answer, at most


class Welcome(msgspec.Struct, frozen=True):
    """The answer to a HELLO."""

    cluster_id: str  # of the node's cluster
    group: GroupNumber  # the group that the HELLO named
    node: str  # the node's name
    leads: bool  # whether the node leads the group: only then it takes sessions, commands and queries
    leader: str  # the client address of the leader, if another node leads; "" while there is none
    members: list[str]  # the client addresses of all nodes, this node's first
    machine: str  # the state machine of the group, such as `heap`
    machine_version: int  # the version of its commands that the cluster has agreed on
    limits: ClientLimits  # what a client has to keep to


class Goodbye(msgspec.Struct, frozen=True):
    """The last frame before a side closes the connection."""

    code: str  # why; a client that goes on at another node says `leaves`
    message: str  # for people
    leader: str = ""  # with `not-leader`: the client address of the leader, if it is known


class Members(msgspec.Struct, frozen=True):
    """What a node sends when the members have changed, to clients that said `follows_members`."""

    members: Annotated[list[Text], Meta(max_length=MEMBERS_MAX)]  # the client addresses, as in a WELCOME


T = TypeVar("T")


def wrong_version(what: str, version: int) -> WrongVersion:
    """The refusal of something that does not exist in the version that a connection speaks."""
    return WrongVersion(
        f"a {what} does not exist in protocol version {version}, which this connection speaks; this release speaks "
        f"{SUPPORTED}. The other node runs another release: install the same one on both"
    )


def hello(kind: int, content: msgspec.Struct, versions: Versions = SUPPORTED) -> bytes:
    """A whole HELLO or PEER_HELLO."""
    return frames.plain(kind, _HEAD.pack(MAGIC, *versions) + msgspec.msgpack.encode(content))


def open_hello(body: bytes, content: type[T], supported: Versions = SUPPORTED) -> tuple[int, T]:
    """(the version to speak, the content) of a hello's body. Raises `MalformedFrame` if it is none, and `WrongVersion`
    if there is no version that both sides speak."""
    offered = _read_versions(body)
    version = min(offered.highest, supported.highest)
    if version < max(offered.lowest, supported.lowest):
        raise WrongVersion(
            f"the other side speaks protocol {offered}, this one {supported}; use releases that have a version in "
            "common"
        )
    return version, _decode(body[_HEAD.size :], content, "HELLO")


def _read_versions(body: bytes) -> Versions:
    """What a hello offers. Version 1 wrote one number, and after it the map."""
    if body[: len(MAGIC)] != MAGIC or len(body) < len(MAGIC) + _VERSION.size:
        raise MalformedFrame(frames.NOT_DISHEAP)
    (lowest,) = _VERSION.unpack_from(body, len(MAGIC))
    if lowest <= BEFORE_RANGES:
        return Versions(lowest, lowest)
    if len(body) < _HEAD.size:
        raise MalformedFrame(f"a HELLO of {len(body)} bytes is too short to offer a range of versions")
    offered = Versions(*_HEAD.unpack_from(body)[1:])
    if offered.lowest > offered.highest:
        raise MalformedFrame(f"a HELLO offers protocol versions from {offered.lowest} to {offered.highest}")
    return offered


def welcome(kind: int, version: int, content: msgspec.Struct) -> bytes:
    """A whole WELCOME or PEER_WELCOME."""
    return frames.plain(kind, _VERSION.pack(version) + msgspec.msgpack.encode(content))


def open_welcome(body: bytes, content: type[T], offered: Versions = SUPPORTED) -> tuple[int, T]:
    """(the version that the other side chose, the content) of a welcome's body. Raises `WrongVersion` for a version
    that was not `offered`, and `MalformedFrame`."""
    if len(body) < _VERSION.size:
        raise MalformedFrame(f"a WELCOME of {len(body)} bytes is too short to name a version")
    (version,) = _VERSION.unpack_from(body)
    if not offered.lowest <= version <= offered.highest:
        raise WrongVersion(
            f"the other side chose protocol version {version}, and this one offered {offered}; use releases that "
            "have a version in common"
        )
    return version, _decode(body[_VERSION.size :], content, "WELCOME")


def goodbye(code: str, message: str, leader: str = "") -> bytes:
    """A whole GOODBYE."""
    return frames.plain(frames.Kind.GOODBYE, msgspec.msgpack.encode(Goodbye(code, message, leader)))


def open_goodbye(body: bytes) -> Goodbye:
    """Raises `MalformedFrame`."""
    return _decode(body, Goodbye, "GOODBYE")


def members(addresses: list[str]) -> bytes:
    """A whole MEMBERS."""
    return frames.plain(frames.Kind.MEMBERS, msgspec.msgpack.encode(Members(addresses[:MEMBERS_MAX])))


def open_members(body: bytes) -> list[str]:
    """Returns the client addresses of all nodes. Raises `MalformedFrame`."""
    return _decode(body, Members, "MEMBERS").members


def _decode(body: bytes, content: type[T], name: str) -> T:
    try:
        return msgspec.msgpack.decode(body, type=content)
    except frames.UNREADABLE as error:
        raise MalformedFrame(f"a {name} that cannot be read: {error}") from error
