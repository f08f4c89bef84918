"""The entry points. A target takes any bytes and returns; whatever else it does is a bug.

Each knows which errors its parser may raise, and checks more than that nothing breaks. What was cut can be put together
again. What was decoded is the same when it is encoded. A refusal changes nothing. What goes into the log can be
applied. `seeds` are good inputs, from which mutations start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from disheap.cli.terminal.output import header_fields, json_text
from disheap.client.core.broker_session import Arrived, BrokerSession, OpaqueReply, Replied
from disheap.client.core.session import State
from disheap.client.core.url import parse
from disheap.errors import (
    BackupDamaged,
    CodecError,
    CommandRefused,
    FrameTooLarge,
    InvalidHeaders,
    MalformedFrame,
    ProtocolError,
    SnapshotDamaged,
    UrlError,
    VersionUnsupported,
    WrongVersion,
)
from disheap.interfaces import CodecContext, Damage, Holding, LostSnapshot, MachineContext, Principal
from disheap.kernel import membership
from disheap.kernel.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Index,
    Member,
    Membership,
    Message,
    NodeId,
    SnapshotMeta,
    SnapshotReply,
    SnapshotRequest,
    Term,
    TermRun,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from disheap.protocol import broker, forwarding, frames, handshake, peers, proofs, repair
from disheap.protocol.forwarding import Forward, ForwardAnswer
from disheap.protocol.frames import SECRET_BYTES, FrameReader, Kind, SessionOptions, Status
from disheap.protocol.handshake import Hello, Versions, Welcome
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.protocol.proofs import Challenge
from disheap.runtime.peers.links import IncomingLink, OutgoingLink
from disheap.runtime.repair import plan
from disheap_codecs.zstd import ZstdCodec, ZstdSettings
from disheap_heap.machine import HeapMachine
from disheap_heap.samples import HEADERS, sample_commands
from disheap_heap.settings import HeapSettings
from disheap_heap.state.state import Topic
from disheap_heap.tables.patterns import PatternIndex, split
from disheap_kombu.publishing import messages
from tests.fuzz import joining, transactions
from tests.fuzz.doubles import CLUSTER, NONCE, Owner, ServedNode, StillLoop, Wire
from tests.fuzz.files import FILE_SEEDS, open_mangled
from tests.fuzz.forwarding import ForwardingNode
from tests.heap.test_consistency import check_all_served, check_consistency
from tests.kernel.solo import Solo
from tests.support import backups

RAW_LIMIT = 1 << 16
CUTS = (1, 3, 7, 64, 1 << 20)


@dataclass(frozen=True)
class Target:
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """The first byte says into how large pieces the rest is cut, as a socket might."""
    step, rest = CUTS[data[0] % len(CUTS)] if data else 1, data[1:]
    return rest, [rest[at : at + step] for at in range(0, len(rest), step)]


# --- backups ---


def backup_file(data: bytes) -> None:
    """The first byte says how many bytes a read gives at most. What is taken was written so, group by group."""
    step = CUTS[data[0] % len(CUTS)] if data else 1
    try:
        found = backups.read_all(data[1:], max(step, 64))
    except (BackupDamaged, VersionUnsupported):
        return
    assert len(backups.backup_of([[piece] for _, piece in found])) > 0, "it cannot be written again"


# --- frames and messages between nodes ---


def frame_reader(data: bytes) -> None:
    whole, chunks = pieces(data)
    reader, got = FrameReader(), b""
    try:
        for chunk in chunks:
            got += b"".join(frame for _, frame in reader.frames(chunk))
            assert reader.held_bytes <= frames.LENGTH_BYTES + reader.limit, "more is kept than the limit allows"
    except (MalformedFrame, FrameTooLarge):
        return
    assert got + bytes(reader._unfinished) == whole, "what was cut does not make up what came"


def peer_message(data: bytes) -> None:
    """Whatever is taken can be acted on: by a follower and by a leader, who write it down and apply what is
    committed."""
    try:
        group, message = peers.decode(data)
    except ProtocolError:
        return
    assert peers.decode(peers.encode(group, message)) == (group, message), "it says something else when sent on"
    for leads in (False, True):
        node = Solo((1, 1, 2, 2), term=2)
        if leads:
            node.lead()
        node.hear(message._replace(source=NodeId(2), target=NodeId(1)))
        for each in node.applied:
            if each.kind is EntryKind.COMMANDS and each.data:
                _apply(each)


def _apply(entry: Entry) -> None:
    try:
        ServedNode().sessions.apply(entry)
    except VersionUnsupported:
        pass  # the node stops, as it should


def forwarded_message(data: bytes) -> None:
    """The first byte says whether it is an answer. A node with two groups can act on whatever is accepted: it
    applies it, or answers with an error. A bad one changes nothing else."""
    kind = Kind.FORWARD if data[:1] < b"\x80" else Kind.FORWARD_ANSWER
    try:
        message = forwarding.decode(kind, data[1:])
    except ProtocolError:
        return
    assert forwarding.decode(kind, forwarding.encode(message)) == message, "it says something else when sent on"
    node = ForwardingNode()
    node.router.received(NodeId(2), message)
    node.check(message)


def repair_message(data: bytes) -> None:
    """The first byte says whether it is a question. Whatever is accepted can be acted on. A next step is found
    for every state of our own log, in bounded time. Answers to it are entries and members that can be stored."""
    kind = Kind.REPAIR_ASK if data[:1] < b"\x80" else Kind.REPAIR_ANSWER
    try:
        message = repair.decode(kind, data[1:])
    except ProtocolError:
        return
    assert repair.decode(kind, repair.encode(message)) == message, "it says something else when sent on"
    match message:
        case repair.Standing():
            for own in _HOLDINGS:
                for others in ({NodeId(2): message}, {NodeId(2): message, NodeId(3): _STANDINGS[0]}):
                    plan.decide(own, [NodeId(2), NodeId(3)], others)
        case repair.Entries():
            for entry in message.decoded():
                if entry.kind is EntryKind.MEMBERSHIP:
                    membership.decode(entry.data)
        case repair.SnapshotPiece() if message.index:
            membership.decode(message.membership)


_STANDINGS = [
    repair.Standing(0, 3, False, 4, 2, 0, 0, 1, 6, ((1, 1), (4, 2), (6, 3)), ((2, 3), (5, 5)), False),
    repair.Standing(0, 3, True, 0, 0, 4, 2, 5, 4, (), (), True),
]
_PLACES = (Damage(Index(3), Index(4), Term(2), "log", 100),)
_HOLDINGS = [
    Holding(
        HardState(Term(3), NodeId(0)),
        Index(first - 1),
        Term(min(first - 1, 1)),
        Index(first),
        Index(last),
        runs,
        places,
        ambiguity,
        lost,
    )
    for first, last, runs in ((1, 6, (TermRun(Index(1), Term(1)), TermRun(Index(3), Term(2)))), (3, 2, ()))
    for places in ((), _PLACES)
    for ambiguity in (False, True)
    for lost in (None, LostSnapshot(Index(2), "bad"))
    if last > 2 or not places
]
_ABOUT_REPAIR: list[repair.Ask | repair.Answer] = [
    repair.AskStanding(0),
    repair.AskEntries(0, 3, 5),
    repair.AskSnapshot(0, 9, 64, 3),
    *_STANDINGS,
    repair.Entries(0, 5, ((3, 5, 1, 9, frames.envelope(Kind.COMMAND, 0, 7, 1, 0, b"body")), (3, 6, 2, 9, b""))),
    repair.SnapshotPiece(0, 0, 0, 0, b"", 0, b"", True),
]


def members(data: bytes) -> None:
    try:
        found = membership.decode(data)
    except ProtocolError:
        return
    assert membership.decode(membership.encode(found)) == found


MEMBERS = Membership((Member(NodeId(1), True, b"n1"), Member(NodeId(2), True, b"n2"), Member(NodeId(3), False, b"")))
_ENVELOPE = frames.envelope(Kind.COMMAND, 0, 7, 1, 0, b"body")
_ENDS = (NodeId(2), NodeId(1), Term(3))
MESSAGES: list[Message] = [
    VoteRequest(*_ENDS, Index(4), Term(2), True, False, 6),
    VoteReply(*_ENDS, True, False, 6),
    AppendRequest(*_ENDS, Index(4), Term(2), (), Index(3)),
    AppendRequest(
        *_ENDS, Index(4), Term(2),
        (Entry(Term(3), Index(5), EntryKind.COMMANDS, 9, _ENVELOPE), Entry(Term(3), Index(6), EntryKind.NOOP, 9, b"")),
        Index(4),
    ),
    AppendReply(*_ENDS, False, Index(4), Index(2), Term(1)),
    Heartbeat(*_ENDS, Index(4), 17, NodeId(3)),
    HeartbeatReply(*_ENDS, 17),
    SnapshotRequest(*_ENDS, SnapshotMeta(Index(9), Term(3), 99, MEMBERS), 64, b"piece", True),
    SnapshotReply(*_ENDS, Index(9), 69, True, False),
    TimeoutNow(*_ENDS),
]  # fmt: skip
_ABOUT_REPAIR += [
    repair.Entries(0, 5, ((3, 5, EntryKind.MEMBERSHIP, 9, membership.encode(MEMBERS)),)),
    repair.SnapshotPiece(0, 9, 3, 99, membership.encode(MEMBERS), 64, b"piece", False),
]
HELLO = PeerHello(CLUSTER, 2, "n2", 1, "n2:8400", (PeerGroup(5, "heap", (1, 1)),), nonce=NONCE)
_HELLO_FRAME = handshake.hello(Kind.PEER_HELLO, HELLO)
_WELCOME_FRAMES = [
    proofs.challenge(Challenge(NONCE, (5,))),
    handshake.welcome(Kind.PEER_WELCOME, 2, HELLO),
    frames.plain(Kind.PEER_PROOF),
]
_WRONG_PROOF = frames.plain(Kind.PEER_PROOF, bytes(32))


def incoming_link(data: bytes) -> None:
    """What a peer sends, before and after its handshake. One byte says whether it greets first."""
    link = IncomingLink(Owner(), 1 << 16, StillLoop())
    _receive(link, data, _HELLO_FRAME + frames.plain(Kind.PEER_PROOF))


def unproved_link(data: bytes) -> None:
    """What somebody sends who does not know the cluster's secret: nothing of it is heard."""
    owner = Owner((b"secret" * 8,))
    link = IncomingLink(owner, 1 << 16, StillLoop())
    _receive(link, data, _HELLO_FRAME)
    assert not (owner.messages or owner.repairs or owner.forwarded or owner.met)


def outgoing_link(data: bytes) -> None:
    link = OutgoingLink(Owner(), 1 << 16, NodeId(2), lambda: ["n2:8300"], None, StillLoop())  # type: ignore[arg-type]
    _receive(link, data, b"".join(_WELCOME_FRAMES))


def undecided_link(data: bytes) -> None:
    """Somebody answers at a member's address who does not know the cluster's secret: he is not welcomed as it."""
    owner = Owner((b"secret" * 8,))
    link = OutgoingLink(owner, 1 << 16, NodeId(2), lambda: ["n2:8300"], None, StillLoop())  # type: ignore[arg-type]
    _receive(link, data, b"".join(_WELCOME_FRAMES[:2]))
    assert not owner.met


def blank_link(data: bytes) -> None:
    """What a node sends that asks one without a cluster to be let in."""
    node = joining.BlankAmongOthers()
    node.check(_receive(node.link, data, joining.ASKS[0]))


def unproved_blank_link(data: bytes) -> None:
    """Somebody asks it who does not know the secret: he does not hear whether there is a cluster."""
    node = joining.BlankAmongOthers(joining.SECRETS)
    node.check(_receive(node.link, data, joining.ASKS[0]))


def asking_link(data: bytes) -> None:
    """What is answered to a node that asks to be let in."""
    node = joining.AskingNode()
    _receive(node.link, data, b"".join(joining.ANSWERS[:2]))
    node.check()


def unproved_asking_link(data: bytes) -> None:
    """Somebody answers it who does not know the secret: it joins nothing of his."""
    node = joining.AskingNode(joining.SECRETS)
    _receive(node.link, data, b"".join(joining.ANSWERS[:2]))
    node.check()


def _receive(link: Any, data: bytes, greeting: bytes) -> Wire:
    """A bad frame ends its own connection; until then nothing but `data_received` is called."""
    wire = Wire()
    link.connection_made(wire)
    if data[:1] > b"\x40":
        link.data_received(greeting)
    for chunk in pieces(data)[1]:
        if wire.closed:
            break
        link.data_received(chunk)
    link.connection_lost(None)
    return wire


def hello(data: bytes) -> None:
    """The first two bytes say which versions are spoken here. Whatever is taken says the same when sent again."""
    here = _versions(data)
    for content in (Hello, PeerHello):
        try:
            version, found = handshake.open_hello(data[2:], content, here)
        except (MalformedFrame, WrongVersion):
            continue
        assert here.lowest <= version <= here.highest, "a version that is not spoken here"
        again = frames.open_plain(handshake.hello(Kind.HELLO, found, Versions(version, version)))
        assert handshake.open_hello(again, content, here) == (version, found), "it says something else when sent on"


def welcome(data: bytes) -> None:
    """The answer is read back as it was written, as in `hello`."""
    here = _versions(data)
    for content in (Welcome, PeerHello):
        try:
            version, found = handshake.open_welcome(data[2:], content, here)
        except (MalformedFrame, WrongVersion):
            continue
        assert here.lowest <= version <= here.highest, "a version that was not offered"
        again = frames.open_plain(handshake.welcome(Kind.WELCOME, version, found))
        assert handshake.open_welcome(again, content, here) == (version, found), "it says something else when sent on"


def _versions(data: bytes) -> Versions:
    low, high = sorted((data[:2] + bytes(2))[:2])
    return Versions(low, high)


# --- what clients send ---


def client_connection(data: bytes) -> None:
    """To a node that leads: what is taken goes into the log, and everything in the log can be applied."""
    node = ServedNode()
    wire = node.connect()
    if data[:1] > b"\x40":
        node.greet(wire)
    if data[:1] > b"\x80":
        node.open(wire)
    for chunk in pieces(data)[1]:
        if wire.closed:
            break
        wire.receiver.data_received(chunk)
    wire.receiver.connection_lost(None)
    node.check_bystander()


def heap_command(data: bytes) -> None:
    """A command of one session, and of another group's leader, in a machine where something is in every state."""
    for session in (1, 0):
        machine = _busy_machine()
        before = machine.state_hash()
        try:
            machine.apply(1000, 1000, session, data)
        except CommandRefused:
            assert machine.state_hash() == before, "refused, and the state is another"
            continue
        restored = HeapMachine(HeapSettings(), MachineContext())
        restored.restore(iter([b"".join(machine.snapshot())]))
        assert restored.state_hash() == machine.state_hash(), "its snapshot is another state"


def headers(data: bytes) -> None:
    """Whatever is taken can be shown, says the same when it is encoded anew, and passes a machine unchanged."""
    try:
        found = broker.decode_headers(data)
    except InvalidHeaders:
        return
    again = broker.encode_headers(found)
    assert repr(broker.decode_headers(again)) == repr(found), "they say something else when encoded"
    json_text(header_fields(found))
    machine = HeapMachine(HeapSettings(), MachineContext())
    machine.apply(1, 0, 1, broker.encode(broker.CreateTopic("t")))
    machine.apply(2, 0, 1, broker.encode(broker.Enqueue("t", broker.NewMessage(b"x", encoded_headers=data))))
    (peeked,) = broker.decode_reply.decode(machine.query(0, 1, broker.encode(broker.Peek("t")))).messages
    assert peeked.encoded_headers == data, "they are not stored as they came"


def heap_groups(data: bytes) -> None:
    """Commands of two sessions whose consumers share their credit: one for each pair of bytes, which say which and with
    what numbers. Work is put off and carried on in between. No credit is lost, and a restored state goes on as well."""
    machine = HeapMachine(HeapSettings(), MachineContext())
    machine.restore(iter([GROUPS]))
    for index, (which, number) in enumerate(zip(data[::2], data[1::2], strict=False)):
        kind = _GROUP_STEPS[which % len(_GROUP_STEPS)]
        try:
            machine.apply(index, index, 1 + which // 128, broker.encode(kind(number)))
        except CommandRefused:
            pass
        machine.advance(index, number % 4)
    restored = HeapMachine(HeapSettings(), MachineContext())
    restored.restore(machine.snapshot())
    for one in (machine, restored):
        one.advance(len(data), 3)
        while one.backlog():
            one.advance(len(data), 3)
        check_consistency(one._state)
        check_all_served(one._state)
    assert restored.state_hash() == machine.state_hash()


_GROUP_STEPS: tuple[Callable[[int], broker.Command], ...] = (
    lambda n: broker.Enqueue("tu"[n % 2], broker.NewMessage(b"x" * (n % 5), n % 3, n % 7 // 6, n % 11 // 10)),
    lambda n: broker.Ack([(n % 32, 1 + n // 64)]),
    lambda n: broker.Nack([(n % 32, 1), (n % 16, 2)], n // 128, n % 3 == 0),
    lambda n: broker.Subscribe("tu"[n % 2], 1 + n % 4, n % 3, False, n % 5, group=1 + n % 2),
    lambda n: broker.SetCredit(0, n % 5, n % 3, 1 + n // 128),
    lambda n: broker.Overtake(1 + n // 128, n % 4 - 1),
    lambda n: broker.Cancel(1 + n % 16, n >= 128),
    lambda n: broker.Recover([1 + n % 8, 1 + n // 16]),
    lambda n: broker.Purge("tu"[n % 2]),
    lambda n: broker.UpdateTopic("tu"[n % 2], {"max_messages": n % 5, "overflow": ("drop", "reject")[n % 2]}),
    lambda n: broker.PauseTopic("tu"[n % 2], (None, False, True)[n % 3], (None, False, True, False)[n % 4]),
)


def _groups_snapshot() -> bytes:
    machine = HeapMachine(HeapSettings(), MachineContext())
    for session in (1, 2):
        machine.session_opened(session, Principal())
        machine.session_attached(session, b"")
    for name in ("t", "u"):
        machine.apply(1, 0, 1, broker.encode(broker.CreateTopic(name)))
        for session in (1, 2):
            machine.apply(2, 0, session, broker.encode(broker.Subscribe(name, 2, group=1)))
    return b"".join(machine.snapshot())


GROUPS = _groups_snapshot()


def trie_patterns(data: bytes) -> None:
    """Lines: a key, then patterns. The trie finds those that fit, within its stated bound, and is empty when all of
    them are gone."""
    key, *found = data.decode("latin-1").split("\n")
    patterns = list(dict.fromkeys(pattern[:255] for pattern in found[:50]))
    index = PatternIndex()
    for order, pattern in enumerate(patterns):
        index.add(pattern, Topic(order, pattern, broker.TopicSettings(), None), order)
    words = split(key[:255])
    fit = [pattern for pattern in patterns if _fits(split(pattern), words)]
    steps = (len(words) + 1) * (index.nodes + 1)
    assert [topic.name for topic in index.find(key[:255], steps)] == fit
    for order, pattern in enumerate(patterns):
        index.remove(pattern, Topic(order, pattern, broker.TopicSettings(), None))
    assert index.nodes == 0 and not index.find(key[:255], steps)


def _fits(pattern: list[str], words: list[str]) -> bool:
    """By a table over both, row by row: whether the pattern so far fits the first n words."""
    row = [True, *(False for _ in words)]
    for part in pattern:
        if part == "#":
            first = row.index(True) if True in row else len(row)
            row = [place >= first for place in range(len(row))]
        else:
            row = [False, *(row[n] and part in ("*", word) for n, word in enumerate(words))]
    return row[-1]


def heap_query(data: bytes) -> None:
    machine = _busy_machine()
    before = machine.state_hash()
    try:
        broker.decode_reply.decode(machine.query(5000, 1, data))
    except CommandRefused:
        pass
    assert machine.state_hash() == before


def heap_attach(data: bytes) -> None:
    try:
        reply, _ = _busy_machine().session_attached(1, data)
    except CommandRefused:
        return
    broker.decode_reply.decode(reply)


def _busy_machine() -> HeapMachine:
    machine = HeapMachine(HeapSettings(), MachineContext())
    machine.restore(iter([BUSY]))
    return machine


def _busy_snapshot() -> bytes:
    machine = HeapMachine(HeapSettings(), MachineContext())
    for session in (1, 2):
        machine.session_opened(session, Principal())
        machine.session_attached(session, b"")
    for index, command in enumerate(sample_commands(), 1):
        try:
            machine.apply(index, 1000, 1 + index % 2, command)
        except CommandRefused:
            pass
        machine.advance(1000, 10_000)
    return b"".join(machine.snapshot())


BUSY = _busy_snapshot()
_QUERIES = [
    broker.Peek("t", 10, True, True),
    broker.DescribeTopic("t", True, 3),
    broker.ListTopics(),
    broker.GetStats(),
]
_HELD = [broker.Held([(1, 1), (2, 1)], [1], [1, 2]), broker.Held([])]


# --- what a node sends to clients ---


def client_session(data: bytes) -> None:
    """`receive` never raises, and no waiter is answered twice."""
    session = BrokerSession(SessionOptions(5000))
    session.connected()
    number = (1 << 62) + 1
    if data[:1] > b"\x40":
        session.receive(handshake.welcome(Kind.WELCOME, 2, _WELCOME))
    if data[:1] > b"\x80":
        session.receive(frames.reply(Kind.REPLY, Status.OK, number, 1, (7).to_bytes(8, "little") + bytes(4)))
        session.send(broker.Enqueue("t", broker.NewMessage(b"x")), "enqueue")
        session.send(broker.Subscribe("t", 5), "subscribe")
        session.send(broker.Pop("t"), "pop")
        session.query(broker.GetStats(), "stats")
        session.admin({"op": "status"}, "status")
    answered: list[Any] = []
    for chunk in pieces(data)[1]:
        if session.session.state is State.OFFLINE:
            break  # it has said that nothing more is to be taken from this connection
        for event in session.receive(chunk):
            if isinstance(event, Replied | OpaqueReply):
                answered.append(event.waiter)
            if isinstance(event, Arrived):
                assert isinstance(event.push, broker.Deliver | broker.PopDone | broker.ConsumerEnded)
    session.disconnected()
    assert len(answered) == len(set(answered)), "one request, two answers"


_LIMITS = handshake.ClientLimits(1 << 20, (1 << 20) - 26, 1 << 28, 64, 1, 86_400_000, 3000, 60_000, 128)
_WELCOME = handshake.Welcome(CLUSTER, 0, "n1", True, "", ["n1:8400"], "heap", 1, _LIMITS)
_RESUMED = broker.Resumed([broker.Deliver(1, 1, 1, 0, 9, b"x")], [broker.PopDone(3, 0)])
_FROM_NODE = [
    handshake.welcome(Kind.WELCOME, 2, _WELCOME),
    handshake.goodbye("not-leader", "go", "n2:8400"),
    frames.plain(Kind.PING),
    frames.plain(Kind.PONG),
    handshake.members(["n1:8400", "n2:8400"]),
    frames.reply(Kind.REPLY, Status.OK, (1 << 62) + 1, 1, (7).to_bytes(8, "little") + (5000).to_bytes(4, "little")),
    frames.reply(Kind.REPLY, Status.OK, 1, 5, broker.encode(broker.Enqueued(1))),
    frames.reply(Kind.REPLY, Status.OK, 2, 6, broker.encode(broker.Subscribed(2))),
    frames.reply(Kind.REPLY, Status.OK, 3, 7, broker.encode(broker.Subscribed(3))),
    frames.reply(Kind.REPLY, Status.ERROR, 1, 5, msgspec.msgpack.encode(frames.Fault("overloaded", "later"))),
    frames.reply(Kind.ANSWER, Status.OK, 1, 5, broker.encode(broker.Stats(*range(9)))),
    frames.reply(Kind.ANSWER, Status.OK, 2, 5, msgspec.msgpack.encode({"role": "leader"})),
    frames.push(8, broker.encode(broker.Deliver(2, 1, 1, -3, 99, b"payload", 500, 1, HEADERS, "k"))),
    frames.push(9, broker.encode(broker.PopDone(3, 1))),
    frames.push(9, broker.encode(broker.ConsumerEnded(2, "deleted"))),
    frames.reply(Kind.REPLY, Status.OK, (1 << 62) + 2, 1, broker.encode(_RESUMED)),
]


def kombu_payload(data: bytes) -> None:
    """Whatever another client has put into a topic."""
    found = messages.decode(data)
    assert found.body == data or messages.decode(msgspec.msgpack.encode(found)) == found


_KOMBU = messages.encode(
    messages.Outgoing(b"body", 3, "application/json", "utf-8", {"id": "1"}, {"reply_to": "q"}), "", "q"
)


def url(data: bytes) -> None:
    try:
        found = parse(data.decode("utf-8", "replace"))
    except UrlError:
        return
    assert found.addresses
    assert all(address.rpartition(":")[2].isdigit() for address in found.addresses)


# --- what lies on the disk ---


def heap_snapshot(data: bytes) -> None:
    machine = HeapMachine(HeapSettings(), MachineContext())
    try:
        machine.restore(iter([data[at : at + 100] for at in range(0, len(data), 100)]))
    except (SnapshotDamaged, VersionUnsupported):
        pass


def session_table(data: bytes) -> None:
    """The whole state, as it comes out of a snapshot."""
    try:
        ServedNode().sessions.restore(iter([data]))
    except (SnapshotDamaged, VersionUnsupported):
        pass


def zstd(data: bytes) -> None:
    try:
        raw = _ZSTD.open_stream(b"\x01", None).decode(data, 0, RAW_LIMIT)  # type: ignore[arg-type]
    except CodecError:
        return
    assert len(raw) <= RAW_LIMIT


_ZSTD = ZstdCodec(ZstdSettings(), CodecContext(Random(1)))
_COMPRESSED = [
    ZstdCodec(ZstdSettings(level=level, plain_bytes=0), CodecContext(Random(1))).new_stream(None)[1].encode(raw, 0)  # type: ignore[arg-type]
    for level in (1, 19)
    for raw in (b"", b"a" * 5000, bytes(range(256)) * 40)
]


def _streams(*found: bytes) -> list[bytes]:
    """Each alone and all in a row, behind the byte that says how they are cut and what was said before."""
    return [bytes([first]) + data for first in (4, 0x54, 0x92) for data in (*found, b"".join(found))]


_PEER_FRAMES = [peers.encode(0, message) for message in MESSAGES]
_FORWARDED_FRAMES = [
    forwarding.encode(message)
    for message in (
        Forward(1, 0, 1, b"<0:1:word"),
        Forward(0, 1, 7, b"<1:7:word"),
        ForwardAnswer(0, 1, 1),
        ForwardAnswer(0, 1, 1, "not-leader", "this node does not lead", 3),
    )
]
_REPAIR_FRAMES = [repair.encode(message) for message in _ABOUT_REPAIR]
_CLIENT_FRAMES = [
    handshake.hello(Kind.HELLO, Hello(CLUSTER, client="fuzz")),
    frames.envelope(Kind.OPEN, 0, 0, 1, 0, msgspec.msgpack.encode(SessionOptions(5000, "label"))),
    frames.envelope(Kind.ATTACH, 0, ServedNode.SESSION, 1, 0, bytes(SECRET_BYTES) + broker.encode(_HELD[0])),
    frames.envelope(Kind.ATTACH, 0, ServedNode.SESSION - 1, 1, 0, bytes(SECRET_BYTES) + broker.encode(_HELD[0])),
    *(frames.envelope(Kind.COMMAND, 0, ServedNode.SESSION, 1 + n, n, c) for n, c in enumerate(sample_commands())),
    frames.envelope(
        Kind.COMMAND, 2, ServedNode.SESSION, 0, 0, broker.encode(broker.Enqueue("t", broker.NewMessage(b"transient")))
    ),
    *(frames.request(Kind.QUERY, 5, broker.encode(query)) for query in _QUERIES),
    frames.request(Kind.ADMIN, 6, msgspec.msgpack.encode({"op": "status"})),
    frames.plain(Kind.PING),
    frames.envelope(Kind.CLOSE, 1, ServedNode.SESSION, 9, 0),
]
_STATE = b"".join(ServedNode().sessions.snapshot())

TARGETS: dict[str, Target] = {
    "backup_file": Target(
        backup_file, [b"\x04" + backups.backup_of(groups) for groups in ([[]], [[b"piece" * 500], [b"x", bytes(3000)]])]
    ),
    "frame_reader": Target(frame_reader, _streams(*_PEER_FRAMES[:4], frames.plain(Kind.PING))),
    "peer_message": Target(peer_message, _PEER_FRAMES),
    "forwarded_message": Target(
        forwarded_message, [b"\xff"[: n > 1] + b"\0"[: n < 2] + f for n, f in enumerate(_FORWARDED_FRAMES)]
    ),
    "repair_message": Target(
        repair_message, [b"\xff"[: n > 2] + b"\0"[: n < 3] + f for n, f in enumerate(_REPAIR_FRAMES)]
    ),
    "kombu_payload": Target(kombu_payload, [_KOMBU, _KOMBU[:-4], b"hello"]),
    "members": Target(members, [membership.encode(MEMBERS), membership.encode(Membership(()))]),
    "incoming_link": Target(
        incoming_link,
        _streams(_HELLO_FRAME, frames.plain(Kind.PEER_PROOF), *_PEER_FRAMES, *_REPAIR_FRAMES, *_FORWARDED_FRAMES),
    ),
    "unproved_link": Target(unproved_link, _streams(_HELLO_FRAME, _WRONG_PROOF, *_PEER_FRAMES)),
    "outgoing_link": Target(outgoing_link, _streams(*_WELCOME_FRAMES, _FROM_NODE[1], frames.plain(Kind.PING))),
    "undecided_link": Target(undecided_link, _streams(*_WELCOME_FRAMES, _WRONG_PROOF)),
    "blank_link": Target(blank_link, _streams(*joining.ASKS, frames.plain(Kind.PING))),
    "unproved_blank_link": Target(unproved_blank_link, _streams(*joining.ASKS, joining.WRONG_PROOF)),
    "asking_link": Target(asking_link, _streams(*joining.ANSWERS, frames.plain(Kind.PING))),
    "unproved_asking_link": Target(unproved_asking_link, _streams(*joining.ANSWERS, joining.WRONG_PROOF)),
    "hello": Target(hello, [b"\2\2" + frames.open_plain(each) for each in (_CLIENT_FRAMES[0], _HELLO_FRAME)]),
    "welcome": Target(welcome, [b"\2\2" + frames.open_plain(each) for each in (_FROM_NODE[0], _WELCOME_FRAMES[1])]),
    "client_connection": Target(client_connection, _streams(*_CLIENT_FRAMES)),
    "heap_command": Target(heap_command, sample_commands()),
    "headers": Target(headers, [HEADERS, b"\xde\x00\x02" + HEADERS[1:9] * 2, b"\x82\xa1n\x01\xa1n\x02", b"\x80"]),
    "heap_groups": Target(heap_groups, [bytes(range(0, 256, step)) * 2 for step in (3, 7, 11)]),
    "transactions": Target(transactions.between_groups, transactions.SEEDS),
    "trie_patterns": Target(
        trie_patterns, [b"a.b.c\na.*.c\n#\na.#.c\n*.*\n#.*.#\na.b.c", b"\n#\n*\n", b"a.a.a.a\n#.a.#.a\n*.#.a"]
    ),
    "heap_query": Target(heap_query, [broker.encode(query) for query in _QUERIES]),
    "heap_attach": Target(heap_attach, [broker.encode(held) for held in _HELD]),
    "client_session": Target(client_session, _streams(*_FROM_NODE)),
    "url": Target(
        url,
        [
            b"disheap://a,b:8400?session_timeout_ms=5000&label=x",
            b"disheaps://[::1]:1/?cafile=/a;disheaps://h",
            b"disheap://",
        ],
    ),
    "heap_snapshot": Target(heap_snapshot, [BUSY, BUSY[: len(BUSY) // 2]]),
    "session_table": Target(session_table, [_STATE, _STATE[:20]]),
    "zstd": Target(zstd, _COMPRESSED),
    "files": Target(open_mangled, FILE_SEEDS),
}
