"""Stands in for the surroundings of a parser. The wire remembers, the time of the loop stands still, and the group
commits every command at once. The server, the session table and the machine behind it are the real ones."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from disheap.errors import CommandRefused, InvalidArgument
from disheap.interfaces import Effects, MachineContext
from disheap.kernel.types import Entry, EntryKind, Index, Message, NodeId, Term
from disheap.protocol import broker, frames, handshake
from disheap.protocol.forwarding import Forwarded
from disheap.protocol.frames import Kind, SessionOptions, Status
from disheap.protocol.handshake import Hello
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.protocol.proofs import Challenge, Transcript
from disheap.protocol.repair import Answer, Ask
from disheap.runtime.clients.acceptor import Acceptor
from disheap.runtime.clients.connection import ClientConnection
from disheap.runtime.clients.limits import ServerLimits
from disheap.runtime.clients.server import Server
from disheap.runtime.state.session_table import SessionLimits
from disheap.runtime.state.sessions import Sessions
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings

CLUSTER = "c0ffee0123456789"
NONCE = bytes(32)
LIMITS = ServerLimits(1 << 16, 64, 5.0, 60.0, 1 << 20, 4)


class Wire:
    """A `Connection`."""

    remote = "fuzz"
    certificate_names = None

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False
        self.receiver: Any = None

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def buffered(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.closed = True

    abort = close


class _Handle:
    def cancel(self) -> None: ...


class StillLoop:
    """Timers never fire; a task runs at once, and may not wait."""

    def time(self) -> float:
        return 1.0

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> Any:
        return _Handle()

    def create_task(self, work: Coroutine[Any, Any, None]) -> Any:
        try:
            work.send(None)
        except StopIteration:
            pass
        return _Task()


class _Task(_Handle):
    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)


class Owner:
    """A `LinkOwner` that takes everybody of its cluster in."""

    def __init__(self, secrets: tuple[bytes, ...] = ()) -> None:
        self.secrets = secrets
        self.versions = handshake.SUPPORTED
        self.met: list[NodeId] = []
        self.messages: list[Message] = []
        self.repairs: list[Ask | Answer] = []
        self.forwarded: list[Forwarded] = []

    def hello_to(self, target: NodeId) -> PeerHello:
        return PeerHello(CLUSTER, 1, "n1", target, "n1:8400", (PeerGroup(4, "heap", (1, 1)),))

    def check_hello(self, hello: PeerHello, certificate_names: tuple[str, ...] | None) -> NodeId:
        return NodeId(hello.node_id)

    def transcript(self) -> Transcript:
        return Transcript(self.secrets)

    def challenge(self) -> Challenge:
        return Challenge(NONCE, (5,))

    def removal_of(self, peer: NodeId) -> str:
        return ""

    def answered(self, peer: NodeId, incarnations: tuple[int, ...]) -> None: ...

    def meet(self, peer: NodeId, hello: PeerHello, is_proved: bool, done: Callable[[bool], None]) -> None:
        self.met.append(peer)
        done(True)

    def welcomed(self, peer: NodeId, hello: PeerHello, done: Callable[[bool], None]) -> None:
        self.met.append(peer)
        done(True)

    def has_group(self, group: int) -> bool:
        return group == 0

    def received(self, group: int, message: Message) -> None:
        self.messages.append(message)

    def received_repair(self, peer: NodeId, message: Ask | Answer) -> None:
        self.repairs.append(message)

    def received_forwarded(self, peer: NodeId, message: Forwarded) -> None:
        self.forwarded.append(message)

    def member_name(self, node: NodeId) -> str:
        return f"n{node}"

    def unreachable(self, peer: NodeId) -> None: ...

    def refused(self, remote: str, reason: str) -> None: ...

    def dialled(self, link: Any) -> None: ...

    def welcomes(self, link: Any, peer: NodeId) -> None: ...

    def link_lost(self, link: Any) -> None: ...


class WatchedMachine(HeapMachine):
    """Says what the runtime would turn into an answer: an exception that is no refusal."""

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        try:
            return super().apply(index, time_ms, session, command)
        except CommandRefused:
            raise
        except Exception as error:
            self.failures.append(f"{command!r}: {error!r}")
            raise

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        try:
            return super().query(time_ms, session, request)
        except CommandRefused:
            raise
        except Exception as error:
            self.failures.append(f"{request!r}: {error!r}")
            raise

    failures: list[str]


class ServedNode:
    """A server that leads, with a bystander whose session has to stand whatever others send."""

    SESSION = (1000 << 16) + 1
    """The session of the first client after the bystander."""
    cluster_id, name, machine_name, number = CLUSTER, "n1", "heap", 0

    def __init__(self) -> None:
        self.machine = WatchedMachine(HeapSettings(), MachineContext())
        self.machine.failures = []
        self.servers: dict[int, Server] = {}
        acceptor = Acceptor(self, LIMITS, StillLoop())  # type: ignore[arg-type]
        self.server = self.servers[0] = Server(self, acceptor, draw=self._drawn, entropy=self._secret)
        self.sessions = Sessions(self.machine, SessionLimits(64, 8), self.server)
        self.applied = Entry(Term(1), Index(0), EntryKind.NOOP, 1000, b"")
        self._number = 0
        self.server.serve(self)  # type: ignore[arg-type]
        self.server.leads = True
        self.bystander = self.connect()
        self.greet(self.bystander)
        self.open(self.bystander)
        self._send(self.bystander, broker.CreateTopic("t"), 1)

    # --- a group ---

    def submit(self, envelopes: bytes) -> None:
        index = Index(self.applied.index + 1)
        self.applied = Entry(Term(1), index, EntryKind.COMMANDS, 1000, envelopes)
        self.sessions.apply(self.applied)
        self.server.flush()

    def full(self) -> bool:
        return False

    def read(self, answer: Callable[[bool], None]) -> None:
        answer(True)

    def now_ms(self) -> int:
        return 1000

    # --- a directory ---

    def check_memory(self) -> None: ...

    def leader_address(self) -> str:
        return "n1:8400"

    def client_addresses(self) -> list[str]:
        return ["n1:8400"]

    async def admin(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("op") != "status":
            raise InvalidArgument("no such op")
        return {"role": "leader"}

    # --- clients ---

    def connect(self) -> Wire:
        wire = Wire()
        wire.receiver = self.server.acceptor.accept()
        wire.receiver.connection_made(wire)
        return wire

    def greet(self, wire: Wire) -> None:
        wire.receiver.data_received(handshake.hello(Kind.HELLO, Hello(CLUSTER)))

    def open(self, wire: Wire) -> None:
        options = msgspec.msgpack.encode(SessionOptions(5000))
        wire.receiver.data_received(frames.envelope(Kind.OPEN, 0, 0, 1, 0, options))

    def check_bystander(self) -> None:
        """It is still attached, and is served: nobody else knows its secret."""
        assert not self.machine.failures, self.machine.failures
        assert not self.bystander.closed, "another client's input ended the bystander's connection"
        self.bystander.sent.clear()
        self._send(self.bystander, broker.CreateTopic("bystander"), 2)
        answers = b"".join(self.bystander.sent)
        reader = frames.FrameReader(1 << 20)
        replies = [frames.open_reply(frame) for kind, frame in reader.frames(answers) if kind == Kind.REPLY]
        assert [(status, seq) for status, seq, _, _ in replies] == [(Status.OK, 2)], "the bystander is not served"

    def _send(self, wire: Wire, command: Any, seq: int) -> None:
        receiver: ClientConnection = wire.receiver
        receiver.data_received(frames.envelope(Kind.COMMAND, 0, receiver.session, seq, seq - 1, broker.encode(command)))

    def _secret(self, size: int) -> bytes:
        """The bystander's is its own, all later ones are zeros, which inputs can attach with."""
        return bytes(size) if self.sessions.table else b"the bystander's."

    def _drawn(self) -> int:
        self._number += 1
        return self._number
