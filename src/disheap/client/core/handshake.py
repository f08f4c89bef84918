"""The first frames on a connection, before it carries a session.

Several attempts to connect may be under way at once, and the session takes over only one of them. So the HELLO and the
answer to it are handled here, for each attempt by itself. No I/O: bytes go in, an `Answer` comes out.
"""

from __future__ import annotations

from typing import NamedTuple

from disheap.client.core import faults
from disheap.errors import MalformedFrame, NotLeader
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind
from disheap.protocol.handshake import SUPPORTED, Hello, Versions


class Answer(NamedTuple):
    """What a node answered to a HELLO. `is_accepted`: it takes the session. Otherwise `reason` and `code` say why not,
    and `leader` is the address that it names, or ""."""

    is_accepted: bool
    leader: str = ""
    reason: str = ""
    code: str = ""


class Handshake:
    """`received` keeps every byte, for the session that takes the connection over."""

    def __init__(self, hello: Hello, any_node: bool, versions: Versions = SUPPORTED) -> None:
        """`any_node`: a node that does not lead will do, too. `versions` of the protocol are offered."""
        self.hello = handshake.hello(Kind.HELLO, hello, versions)
        self._versions = versions
        self.received = b""
        self._hello = hello
        self._any_node = any_node
        self._reader = frames.FrameReader()

    def receive(self, data: bytes) -> Answer | None:
        """None while the answer is incomplete. Raises `ProtocolError`: this is no node, or not of our cluster."""
        self.received += data
        for kind, frame in self._reader.frames(data):
            return self._answer(kind, frames.open_plain(frame))
        return None

    def _answer(self, kind: int, body: bytes) -> Answer:
        if kind == Kind.WELCOME:
            welcome = faults.read_welcome(body, self._hello, self._versions)
            if welcome.leads or self._any_node:
                return Answer(True)
            return Answer(False, welcome.leader, NotLeader.code, NotLeader.code)
        if kind == Kind.GOODBYE:
            goodbye = faults.read_goodbye(body)
            return Answer(False, goodbye.leader, goodbye.message or goodbye.code, goodbye.code)
        raise MalformedFrame(f"the node answered a HELLO with a frame of kind {kind}")
