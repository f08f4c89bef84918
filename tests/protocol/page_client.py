"""A client written from docs/reference/wire-protocol.md alone, with nothing of disheap in it.

One thread, one socket, one command at a time. It finds the leader, attaches its session again when a connection is
lost, and sends again what has no reply.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import msgpack

COMMAND, OPEN, ATTACH, CLOSE = 1, 2, 3, 4
HELLO, WELCOME, GOODBYE, PING, QUERY, REPLY, ANSWER, PUSH, MEMBERS = 16, 17, 18, 19, 21, 23, 24, 25, 26
PREFIX, ENVELOPE = struct.Struct("<IBB"), struct.Struct("<IBBQQQ")
NUMBERED, REPLIED = struct.Struct("<IBBQ"), struct.Struct("<IBBQQ")
VERSIONS, GRANT = struct.Struct("<7sHH"), struct.Struct("<QI16s")
ENTRY = 1 << 62  # the seq of OPEN, ATTACH and CLOSE
PING_AFTER_S, SILENCE_S = 0.75, 1.0
DELIVER, POP_DONE, CONSUMER_ENDED = 96, 97, 98
LATER = ("overloaded", "window-exceeded")


class Refused(Exception):
    """A request was refused. `args` are the code and the message."""


class Gone(Exception):
    """This connection is over. `args[0]` is the address of the leader, or ""."""


def frame(header: struct.Struct, kind: int, *fields: int, body: bytes = b"") -> bytes:
    return header.pack(header.size - 4 + len(body), kind, 0, *fields) + body


class PageClient:
    def __init__(self, addresses: list[str], timeout_s: float = 20.0) -> None:
        self.given, self.addresses, self.timeout_s = addresses, list(addresses), timeout_s
        self.cluster_id, self.session, self.secret = "", 0, b""
        self.seq = self.confirmed = self.number = 0
        self.replies: dict[tuple[int, int], tuple[int, bytes]] = {}  # (kind, number): status and body
        self.held: dict[tuple[int, int], int] = {}  # token: consumer
        self.consumers: set[int] = set()
        self.deliveries: list[list[Any]] = []
        self.visited: list[str] = []  # the addresses, for whoever wants to see the way
        self.socket = socket.socket()
        self.buffer, self.pinged = b"", False

    # --- connections ---

    def connect(self, leader: str = "") -> None:
        """Find the leader. Open a session there, or attach the one that stands."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            address = leader or self.addresses[0]
            self.addresses.append(self.addresses.pop(0))
            try:
                self.greet(address)
                self.enter()
                return
            except (OSError, Gone) as error:
                leader = str(error.args[0]) if isinstance(error, Gone) else ""
                if time.monotonic() > deadline:
                    raise
                if not leader:
                    time.sleep(0.05)

    def greet(self, address: str) -> None:
        self.visited.append(address)
        host, _, port = address.rpartition(":")
        self.socket.close()
        self.socket = socket.create_connection((host.strip("[]"), int(port)), 5.0)
        self.buffer, self.pinged, self.replies = b"", False, {}
        hello = {"cluster_id": self.cluster_id, "client": "page-client", "follows_members": True}
        self.send(frame(PREFIX, HELLO, body=VERSIONS.pack(b"disheap", 2, 2) + msgpack.packb(hello)))
        while (found := self.read())[0] != WELCOME:
            self.handle(*found)
        (version,) = struct.unpack_from("<H", found[2], PREFIX.size)
        welcome = msgpack.unpackb(found[2][PREFIX.size + 2 :])
        assert version == 2 and welcome["machine"] == "heap"
        self.cluster_id = welcome["cluster_id"]
        self.addresses = list(dict.fromkeys([*self.given, *welcome["members"]]))
        if not welcome["leads"]:
            raise Gone(welcome["leader"])

    def enter(self) -> None:
        if not self.session:
            options = msgpack.packb({"timeout_ms": 30_000, "label": "page-client"})
            grant = self.wait_reply(REPLY, ENTRY, frame(ENVELOPE, OPEN, 0, ENTRY, 0, body=options))
            self.session, _, self.secret = GRANT.unpack(grant)
            return
        held = msgpack.packb([[list(token) for token in self.held], [], list(self.consumers)])
        request = frame(ENVELOPE, ATTACH, self.session, ENTRY, 0, body=self.secret + held)
        _, deliveries, ended = msgpack.unpackb(self.wait_reply(REPLY, ENTRY, request))
        for push in [*deliveries, *ended]:
            self.pushed(push)

    def close(self) -> None:
        self.wait_reply(REPLY, ENTRY, frame(ENVELOPE, CLOSE, self.session, ENTRY, 0))
        self.socket.close()

    # --- requests ---

    def command(self, *record: Any) -> list[Any]:
        """The reply to a command, however many connections it takes. Raises `Refused`."""
        self.seq += 1
        request = frame(ENVELOPE, COMMAND, self.session, self.seq, self.confirmed, body=msgpack.packb(record))
        try:
            return list(msgpack.unpackb(self.persist(lambda: self.wait_reply(REPLY, self.seq, request))))
        finally:
            self.confirmed = self.seq

    def query(self, *record: Any) -> list[Any]:
        self.number += 1
        request = frame(NUMBERED, QUERY, self.number, body=msgpack.packb(record))
        return list(msgpack.unpackb(self.persist(lambda: self.wait_reply(ANSWER, self.number, request))))

    def persist(self, act: Callable[[], Any]) -> Any:
        while True:
            try:
                return act()
            except (OSError, Gone) as error:
                self.connect(str(error.args[0]) if isinstance(error, Gone) else "")

    def subscribe(self, topic: str, credit: int) -> None:
        self.consumers.add(self.command(4, topic, credit)[1])

    def take(self) -> list[Any]:
        """The next delivery: [tag, consumer, id, epoch, priority, enqueued_ms, payload, ...]."""
        while not self.deliveries:
            self.persist(lambda: self.handle(*self.read()))
        return self.deliveries.pop(0)

    def ack(self, push: list[Any]) -> bool:
        """Whether the lease was ours. It is held until the reply is here."""
        token = (push[2], push[3])
        stale = self.command(8, [token])[2]
        del self.held[token]
        return not stale

    # --- frames ---

    def wait_reply(self, kind: int, number: int, request: bytes) -> bytes:
        self.send(request)
        while True:
            while (found := self.replies.pop((kind, number), None)) is None:
                self.handle(*self.read())
            status, body = found
            if not status:
                return body
            code, message = msgpack.unpackb(body)
            if code not in LATER:
                raise Refused(code, message)
            time.sleep(0.05)
            self.send(request)

    def handle(self, kind: int, status: int, whole: bytes) -> None:
        if kind in (REPLY, ANSWER):
            number = REPLIED.unpack_from(whole)[3]
            self.replies[kind, number] = status, whole[REPLIED.size :]
        elif kind == PUSH:
            self.pushed(msgpack.unpackb(whole[NUMBERED.size :]))
        elif kind == MEMBERS:
            self.addresses = list(dict.fromkeys([*self.given, *msgpack.unpackb(whole[PREFIX.size :])["members"]]))
        elif kind == GOODBYE:
            raise Gone(msgpack.unpackb(whole[PREFIX.size :]).get("leader", ""))

    def pushed(self, push: list[Any]) -> None:
        if push[0] in (POP_DONE, CONSUMER_ENDED):
            self.consumers.discard(push[1])
        elif push[0] == DELIVER and (push[2], push[3]) not in self.held:
            self.held[push[2], push[3]] = push[1]
            self.deliveries.append(push)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> tuple[int, int, bytes]:
        """The next frame: kind, flags, and all its bytes. Pings a silent node, and gives it up if it stays silent."""
        while len(self.buffer) < 4 or len(self.buffer) < 4 + int.from_bytes(self.buffer[:4], "little"):
            self.socket.settimeout(SILENCE_S if self.pinged else PING_AFTER_S)
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                if self.pinged:
                    raise
                self.pinged = True
                self.send(frame(PREFIX, PING))
                continue
            if not data:
                raise ConnectionError("the node closed the connection")
            self.buffer, self.pinged = self.buffer + data, False
        end = 4 + int.from_bytes(self.buffer[:4], "little")
        whole, self.buffer = self.buffer[:end], self.buffer[end:]
        return whole[4], whole[5], whole
