"""A node of wax: speaks the client protocol over any bytes, keeps a session table, and knows just enough of topics.

`FakeCluster` is what all nodes agree on (sessions, replies, a list for each topic); `FakePeer` is one connection's end.
Faults are switched on from outside: `overloaded`, `leads`, `hold_replies`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

import msgspec

from disheap.protocol import broker, frames, handshake
from disheap.protocol.frames import Fault, Kind, Status

GRANT = Struct("<QI16s")
SECRET = b"0123456789abcdef"


@dataclass
class FakeSession:
    confirmed: int = 0
    replies: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    leases: dict[tuple[int, int], tuple[str, broker.Deliver]] = field(default_factory=dict)
    tickets: dict[int, int] = field(default_factory=dict)  # ticket -> delivered, of those still open
    consumers: dict[int, tuple[str, int]] = field(default_factory=dict)


class FakeCluster:
    def __init__(self, cluster_id: str = "wax", window: int = 64, timeout_ms: int = 9000) -> None:
        self.cluster_id, self.window, self.timeout_ms = cluster_id, window, timeout_ms
        self.frame_bytes = 1 << 16
        self.leads = True
        self.leader = ""
        self.name = "wax"  # of the node that leads
        self.hands_over_to: str | None = None  # a transfer ends the connection, and this one leads then
        self.members = ["wax:1"]
        self.overloaded = 0  # so many envelopes are put off
        self.sessions: dict[int, FakeSession] = {}
        self.attached: dict[int, FakePeer] = {}
        self.applied: list[tuple[int, int, Any]] = []  # (session, seq, command)
        self.transients: list[Any] = []
        self.topics: dict[str, list[broker.Deliver]] = {}
        self.index = 0
        self.numbers = iter(range(1, 1 << 30))
        self.session_numbers = iter(range(700, 1 << 30))
        self.hold_replies = False
        self.pings = 0
        self.hellos: list[handshake.Hello] = []

    def expire(self, session: int) -> None:
        for topic, push in self.sessions.pop(session).leases.values():
            self._back(topic, push)

    # --- the machine ---

    def execute(self, number: int, seq: int, body: bytes) -> tuple[bytes, list[broker.Push]]:
        session = self.sessions[number]
        try:
            command: Any = broker.decode_command.decode(body)
        except msgspec.DecodeError:
            command = body
        self.applied.append((number, seq, command))
        pushes: list[broker.Push] = []
        match command:
            case bytes():
                return b"echo " + command, pushes
            case broker.Enqueue():
                message = next(self.numbers)
                self._back(command.topic, _waiting(message, command.message))
                reply: Any = broker.Enqueued(message)
                pushes = self._feed(session, command.topic)
            case broker.EnqueueMany():
                ids = [next(self.numbers) for _ in command.messages]
                for message, new in zip(ids, command.messages, strict=True):
                    self._back(command.topic, _waiting(message, new))
                reply = broker.EnqueuedMany(ids[0], len(ids))
                pushes = self._feed(session, command.topic)
            case broker.Publish():
                reply = broker.Published(1)
            case broker.Subscribe():
                consumer = next(self.numbers)
                session.consumers[consumer] = (command.topic, command.credit)
                reply = broker.Subscribed(consumer)
                pushes = self._feed(session, command.topic)
            case broker.Pop():
                reply, pushes = self._pop(session, command)
            case broker.Ack() | broker.Nack() | broker.Extend():
                reply, pushes = self._settle(session, command)
            case broker.Batch(items=items):
                results = []
                for item in items:
                    part, more = self.execute(number, seq, broker.encode(item))
                    results.append(getattr(broker.decode_reply.decode(part), "id", 1))
                    pushes += more
                reply = broker.Batched(results)
            case broker.Cancel():
                session.consumers.pop(command.consumer, None)
                session.tickets.pop(command.consumer, None)
                reply = broker.Done()
            case broker.DeleteTopic():
                reply = broker.Removed(len(self.topics.pop(command.topic, [])))
                for consumer, (topic, _) in list(session.consumers.items()):
                    if topic == command.topic:
                        del session.consumers[consumer]
                        pushes.append(broker.ConsumerEnded(consumer, "the topic was deleted"))
            case broker.CreateTopic():
                self.topics.setdefault(command.topic, [])
                reply = broker.TopicInfo(command.topic, command.settings, 0, 0, 0, 0, 0, True)
            case _:
                reply = broker.Done()
        return broker.encode(reply), pushes

    def _back(self, topic: str, push: broker.Deliver) -> None:
        ready = self.topics.setdefault(topic, [])
        ready.append(push)
        ready.sort(key=lambda each: (-each.priority, each.id))

    def _lease(self, session: FakeSession, topic: str, consumer: int) -> broker.Deliver:
        old = self.topics[topic].pop(0)
        push = msgspec.structs.replace(old, consumer=consumer, epoch=old.epoch + 1, attempts=old.epoch + 1)
        session.leases[(push.id, push.epoch)] = (topic, push)
        return push

    def _feed(self, session: FakeSession, topic: str) -> list[broker.Push]:
        pushes: list[broker.Push] = []
        for consumer, (wanted, credit) in session.consumers.items():
            while wanted == topic and self.topics.get(topic):
                if sum(push.consumer == consumer for _, push in session.leases.values()) >= credit:
                    break
                pushes.append(self._lease(session, topic, consumer))
        return pushes

    def _pop(self, session: FakeSession, command: broker.Pop) -> tuple[broker.Reply, list[broker.Push]]:
        ticket = next(self.numbers)
        pushes: list[broker.Push] = []
        while len(pushes) < command.count and self.topics.get(command.topic):
            pushes.append(self._lease(session, command.topic, ticket))
        if len(pushes) == command.count or not command.wait_ms:
            pushes.append(broker.PopDone(ticket, len(pushes)))
        else:
            session.tickets[ticket] = len(pushes)
        return broker.Subscribed(ticket), pushes

    def _settle(self, session: FakeSession, command: Any) -> tuple[broker.Reply, list[broker.Push]]:
        stale = [token for token in command.tokens if tuple(token) not in session.leases]
        pushes: list[broker.Push] = []
        if not isinstance(command, broker.Extend):
            for token in command.tokens:
                topic, push = session.leases.pop(tuple(token), ("", None))
                if push is not None and isinstance(command, broker.Nack) and not command.discard:
                    self._back(topic, push)
                if topic:
                    pushes += self._feed(session, topic)
        return broker.Settled(len(command.tokens) - len(stale), stale), pushes

    def resumed(self, number: int, body: bytes) -> bytes:
        session = self.sessions[number]
        if not body:
            return b""
        held = broker.decode_held.decode(body)
        tokens = {tuple(token) for token in held.tokens}
        deliveries = [push for token, (_, push) in session.leases.items() if token not in tokens]
        ended: list[Any] = [broker.PopDone(t, 0) for t in held.tickets if t not in session.tickets]
        ended += [broker.ConsumerEnded(c, "gone") for c in held.consumers if c not in session.consumers]
        return broker.encode(broker.Resumed(deliveries, ended))


def limits_of(frame_bytes: int, window: int) -> handshake.ClientLimits:
    """With bounds on everything else that no test reaches."""
    command_bytes = frame_bytes - frames.ENVELOPE_REST
    times = (1, 86_400_000, 3000, 60_000)
    return handshake.ClientLimits(frame_bytes, command_bytes, frames.NODE_FRAME_BYTES, window, *times, queries=128)


class FakePeer:
    """`receive` takes what the client sent and returns what the node says."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.closed = False
        self.session = 0
        self.reader = frames.FrameReader(1 << 20)
        self.held_back: list[bytes] = []

    def receive(self, data: bytes) -> bytes:
        out: list[bytes] = []
        for kind, frame in self.reader.frames(data):
            if self.closed:
                break
            self._frame(kind, frame, out)
        return b"".join(out)

    def goodbye(self, code: str = "not-leader", leader: str = "") -> bytes:
        self.closed = True
        return handshake.goodbye(code, "a reason", leader)

    def release(self) -> bytes:
        out, self.held_back = self.held_back, []
        return b"".join(out)

    def _frame(self, kind: int, frame: bytes, out: list[bytes]) -> None:
        cluster = self.cluster
        match kind:
            case Kind.HELLO:
                out.append(self._welcome(frame))
            case Kind.PING:
                cluster.pings += 1
                out.append(frames.plain(Kind.PONG))
            case Kind.ADMIN if cluster.hands_over_to is not None and cluster.name != cluster.hands_over_to:
                cluster.name = cluster.hands_over_to
                out.append(self.goodbye())
            case Kind.QUERY | Kind.ADMIN:
                number, body = frames.open_numbered(frame)
                self._say(frames.reply(Kind.ANSWER, Status.OK, number, cluster.index, self._answer(kind, body)), out)
            case Kind.COMMAND:
                self._command(frames.open_envelope(frame), out)
            case _:
                self._enter(frames.open_envelope(frame), out)

    def _welcome(self, frame: bytes) -> bytes:
        cluster = self.cluster
        version, hello = handshake.open_hello(frames.open_plain(frame), handshake.Hello)
        cluster.hellos.append(hello)
        if hello.cluster_id not in ("", cluster.cluster_id):
            return self.goodbye("wrong-cluster")
        content = handshake.Welcome(
            cluster.cluster_id,
            hello.group,
            cluster.name,
            cluster.leads,
            cluster.leader,
            cluster.members,
            "heap",
            1,
            limits_of(cluster.frame_bytes, cluster.window),
        )
        return handshake.welcome(Kind.WELCOME, version, content)

    def _answer(self, kind: int, body: bytes) -> bytes:
        if kind == Kind.ADMIN:
            request = msgspec.msgpack.decode(body)
            if request["op"] == "transfer":
                return msgspec.msgpack.encode({"leader": request.get("target", "")})
            leads = {} if self.cluster.hands_over_to is None else {"leader": self.cluster.name}
            return msgspec.msgpack.encode({"said": request, **leads})
        match broker.decode_query.decode(body):
            case broker.ListTopics():
                return broker.encode(broker.TopicInfos([], 0))
            case broker.DescribeTopic() as query:
                ready = len(self.cluster.topics.get(query.topic, ()))
                return broker.encode(broker.TopicInfo(query.topic, broker.TopicSettings(), ready, 0, 0, 0, 0))
            case broker.ListExchanges() as query:
                return broker.encode(broker.ExchangeInfos([(query.exchange, "fanout")], []))
            case broker.Peek() as query:
                ready_now = self.cluster.topics.get(query.topic, [])[: query.count]
                return broker.encode(
                    broker.Peeked(
                        [
                            broker.PeekedMessage(
                                m.id, m.priority, m.epoch, 5, "ready", 0, m.payload, m.encoded_headers, m.key
                            )
                            for m in ready_now
                        ]
                    )
                )
            case _:
                return broker.encode(broker.Stats(1, 0, 0, 0, 0, 0, 0, 0, 0))

    def _enter(self, envelope: frames.Envelope, out: list[bytes]) -> None:
        cluster = self.cluster
        if self.session and envelope.kind != Kind.CLOSE:
            out.append(self.goodbye("malformed-frame"))
        elif envelope.kind == Kind.OPEN:
            self.session = next(cluster.session_numbers)
            cluster.sessions[self.session] = FakeSession()
            cluster.attached[self.session] = self
            self._say(self._reply(envelope, GRANT.pack(self.session, cluster.timeout_ms, SECRET)), out)
        elif envelope.kind == Kind.CLOSE:
            cluster.expire(self.session)
            self.session = 0
            out.append(self._reply(envelope, b""))
        elif envelope.session not in cluster.sessions:
            out.append(self._refusal(envelope.seq, "session-expired"))
        elif envelope.body[:16] != SECRET:
            out.append(self._refusal(envelope.seq, "wrong-secret"))
        else:
            self.session = envelope.session
            cluster.attached[self.session] = self
            self._say(self._reply(envelope, cluster.resumed(self.session, envelope.body[16:])), out)

    def _command(self, envelope: frames.Envelope, out: list[bytes]) -> None:
        cluster = self.cluster
        session = cluster.sessions.get(envelope.session)
        if session is None:
            out.append(self.goodbye("session-expired"))
        elif not envelope.seq:
            cluster.transients.append(broker.decode_command.decode(envelope.body))
        elif cluster.overloaded:
            cluster.overloaded -= 1
            out.append(self._refusal(envelope.seq, "overloaded"))
        else:
            self._apply(session, envelope, out)

    def _apply(self, session: FakeSession, envelope: frames.Envelope, out: list[bytes]) -> None:
        cluster, seq = self.cluster, envelope.seq
        assert envelope.session == self.session, "a command of a session that is not attached here"
        assert envelope.confirmed >= session.confirmed, "confirmed went back"
        assert seq - envelope.confirmed <= cluster.window, "the window was exceeded"
        session.confirmed = envelope.confirmed
        for old in [each for each in session.replies if each <= envelope.confirmed]:
            del session.replies[old]
        assert seq > envelope.confirmed, "a command that was confirmed came again"
        pushes: list[broker.Push] = []
        if seq not in session.replies:
            cluster.index += 1
            body, pushes = cluster.execute(envelope.session, seq, envelope.body)
            session.replies[seq] = (Status.OK, cluster.index, body)
        status, index, body = session.replies[seq]
        self._say(frames.reply(Kind.REPLY, status, seq, index, body), out)
        for push in pushes:
            self._say(frames.push(index, broker.encode(push)), out)

    def _say(self, frame: bytes, out: list[bytes]) -> None:
        (self.held_back if self.cluster.hold_replies else out).append(frame)

    def _reply(self, envelope: frames.Envelope, body: bytes) -> bytes:
        return frames.reply(Kind.REPLY, Status.OK, envelope.seq, self.cluster.index, body)

    def _refusal(self, seq: int, code: str) -> bytes:
        return frames.reply(Kind.REPLY, Status.ERROR, seq, 0, msgspec.msgpack.encode(Fault(code, "not now")))


class FakeReceiver:
    """The node's end of an asyncio connection."""

    def __init__(self, cluster: FakeCluster, connections: list[FakeReceiver]) -> None:
        self.peer = FakePeer(cluster)
        self.connection: Any = None
        self._connections = connections

    def connection_made(self, connection: Any) -> None:
        self.connection = connection
        self._connections.append(self)

    def data_received(self, data: bytes) -> None:
        self.say(self.peer.receive(data))

    def say(self, data: bytes) -> None:
        if data:
            self.connection.write(data)
        if self.peer.closed:
            self.connection.close()

    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._connections:
            self._connections.remove(self)


class SocketNode:
    """A fake node behind a loopback socket, in a thread, for the blocking driver."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.lock = threading.Lock()
        self.peers: list[tuple[FakePeer, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def drop_all(self) -> None:
        """Cut every connection."""
        with self.lock:
            for _, connection in self.peers:
                _shut(connection)

    def say(self, data: bytes) -> None:
        """Say something on the newest connection."""
        with self.lock:
            self.peers[-1][1].sendall(data)

    def close(self) -> None:
        _shut(self._listener)
        self._listener.close()
        self.drop_all()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                peer = FakePeer(self.cluster)
                self.peers.append((peer, connection))
            thread = threading.Thread(target=self._serve, args=(peer, connection), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: FakePeer, connection: socket.socket) -> None:
        with connection:
            while not peer.closed:
                try:
                    data = connection.recv(65536)
                    if not data:
                        return
                    with self.lock:
                        answer = peer.receive(data)
                    connection.sendall(answer)
                except OSError:
                    return


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Made:
    """A connection that is there as soon as somebody asks."""

    wants_write = False

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def fileno(self) -> int:
        return int(self.connection.fileno())

    def advance(self) -> Any:
        return self.connection

    def explain(self, error: OSError | None) -> str:
        return str(error or "closed")

    def close(self) -> None:
        self.connection.close()


def dial(address: str) -> Made:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), 5.0)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return Made(connection)


async def serve(cluster: FakeCluster, transport: Any, address: str) -> tuple[Any, list[FakeReceiver]]:
    connections: list[FakeReceiver] = []
    listener = await transport.listen(address, lambda: FakeReceiver(cluster, connections))
    return listener, connections


def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _waiting(number: int, new: broker.NewMessage) -> broker.Deliver:
    """A message in its topic, which nobody was given yet."""
    return broker.Deliver(0, number, 0, new.priority, 5, new.payload, encoded_headers=new.encoded_headers, key=new.key)
