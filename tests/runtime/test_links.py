"""The connections between nodes, where one side is slow, silent, a stranger, or was configured otherwise."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.nodes import FAST, Cluster, Tables
from tests.support.wire import wait_until

from disheap.cli.processes.local_cluster import free_ports
from disheap.config.node_config import GIB, Limits, NodeConfig
from disheap.errors import WrongCluster
from disheap.interfaces import Connection
from disheap.kernel.types import AppendRequest, Entry, EntryKind, Heartbeat, Index, Message, NodeId, Term
from disheap.protocol import frames, handshake, peers, proofs
from disheap.protocol.frames import Kind
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.protocol.proofs import Challenge, Transcript
from disheap.runtime import tuning
from disheap.runtime.peers import links, peering
from disheap.runtime.peers.links import OutgoingLink
from disheap.testing.certificates import Authority
from disheap.testing.inspected import InspectedMember as Node

BUFFER_BYTES = 1000
HELLO = PeerHello("c", 2, "n2", 1, "", (PeerGroup(5, "heap", (1, 1)),))
MESSAGE = Heartbeat(NodeId(1), NodeId(2), Term(1), Index(0), 0)
MIB = 1 << 20


class Wire:
    """A `Connection` with as much unsent as the test says."""

    remote = "test"
    certificate_names = None

    def __init__(self) -> None:
        self.unsent = 0
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def buffered(self) -> int:
        return self.unsent


class Owner:
    """Sends at once to whoever it is told of, as a kernel that probes does."""

    versions = handshake.SUPPORTED

    def __init__(self, welcome: PeerHello = HELLO) -> None:
        self.link = OutgoingLink(
            self,  # type: ignore[arg-type]
            BUFFER_BYTES,
            NodeId(2),
            lambda: ["n2:8300"],
            None,  # type: ignore[arg-type]
            asyncio.get_running_loop(),
        )
        self.wire = Wire()
        self.told: list[NodeId] = []
        self.welcomes: list[NodeId] = []
        self.removals: list[str] = []
        self.link.connection_made(self.wire)  # type: ignore[arg-type]
        self.link.data_received(proofs.challenge(Challenge(bytes(32), (5,))))
        self.link.data_received(handshake.welcome(Kind.PEER_WELCOME, 2, welcome) + frames.plain(Kind.PEER_PROOF))
        self.wire.sent.clear()

    def hello_to(self, target: NodeId) -> PeerHello:
        return HELLO

    def check_hello(self, hello: PeerHello, certificate_names: tuple[str, ...] | None) -> NodeId:
        return NodeId(hello.node_id)

    def transcript(self) -> Transcript:
        return Transcript(())

    def answered(self, peer: NodeId, incarnations: tuple[int, ...]) -> None: ...

    def welcomed(self, peer: NodeId, hello: PeerHello, done: Any) -> None:
        self.welcomes.append(peer)
        done(True)

    def removed(self, peer: NodeId, reason: str) -> None:
        self.removals.append(reason)

    def member_name(self, node: NodeId) -> str:
        return f"n{node}"

    def unreachable(self, peer: NodeId) -> None:
        self.told.append(peer)
        self.link.send(0, MESSAGE)


async def test_a_peer_that_takes_nothing_in_is_reported_once_and_not_within_a_send() -> None:
    """A kernel that is told within its own sending sends another message at once, for ever."""
    owner = Owner()
    owner.wire.unsent = BUFFER_BYTES + 1
    owner.link.send(0, MESSAGE)
    assert owner.told == []
    for _ in range(3):
        owner.link.send(0, MESSAGE)
        await asyncio.sleep(0)
    assert owner.told == [2]
    assert owner.wire.sent == []


async def test_a_welcome_with_a_removal_is_none() -> None:
    """The schedule that is prevented: a wiped node counts the welcomes of all members, and takes part. Each one goes on
    to say that it was removed, and all connections end before that arrives."""
    owner = Owner(msgspec.structs.replace(HELLO, removal="node 1 was removed"))
    assert (owner.welcomes, owner.removals) == ([], ["node 1 was removed"])
    assert Owner().welcomes == [2]


async def test_messages_of_one_turn_leave_in_one_write_and_count_until_then() -> None:
    owner = Owner()
    size = len(peers.encode(0, MESSAGE))
    for _ in range(BUFFER_BYTES // size + 1):
        owner.link.send(0, MESSAGE)
    assert owner.wire.sent == []
    owner.link.send(0, MESSAGE)
    await asyncio.sleep(0)
    assert owner.told == [2], "the buffer is full of what has not left yet"
    assert owner.link.flush()
    assert [len(data) for data in owner.wire.sent] == [(BUFFER_BYTES // size + 1) * size]
    owner.link.send(0, MESSAGE)
    owner.link.connection_lost(None)
    owner.link.flush()
    assert len(owner.wire.sent) == 1, "what was for an earlier connection does not go to the next one"


async def test_what_is_sent_flows_again_when_half_of_the_buffer_is_gone() -> None:
    owner = Owner()
    owner.wire.unsent = BUFFER_BYTES + 1
    owner.link.send(0, MESSAGE)
    owner.wire.unsent = BUFFER_BYTES // 2 + 1
    owner.link.send(0, MESSAGE)
    assert owner.wire.sent == []
    owner.wire.unsent = BUFFER_BYTES // 2
    owner.link.send(0, MESSAGE)
    owner.link.flush()
    assert len(owner.wire.sent) == 1
    owner.wire.unsent = BUFFER_BYTES + 1
    owner.link.send(0, MESSAGE)
    await asyncio.sleep(0)
    assert owner.told == [2, 2], "it is a new time"


def test_the_buffer_for_a_peer_holds_what_the_kernel_may_have_under_way() -> None:
    class Config:
        raft = msgspec.structs.replace(FAST, inflight_bytes=GIB)
        limits = Limits()

    assert tuning.send_buffer_bytes(Config()) > GIB  # type: ignore[arg-type]


class Mute:
    """Somebody who says nothing."""

    def __init__(self) -> None:
        self.connection: Connection
        self.is_lost = False

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection

    def data_received(self, data: bytes) -> None: ...

    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True


async def test_a_connection_on_which_nobody_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else listens where a member should: it is dialled again when the member is back."""
    monkeypatch.setattr(links, "HANDSHAKE_TIMEOUT_S", 0.3)
    async with Cluster(tmp_path, storage="file") as cluster:
        await cluster.stop("n3")
        mutes: list[Mute] = []
        listener = await cluster.transport.listen("n3:8300", lambda: mutes.append(Mute()) or mutes[-1])
        await wait_until(lambda: len(mutes) >= 2, "both dial it")
        await listener.close()
        await cluster.start("n3")
        others = [cluster.nodes[name] for name in ("n1", "n2")]
        await wait_until(lambda: all(node.is_connected(NodeId(3)) for node in others), "both have found it")


async def test_strangers_do_not_take_the_peers_port(tmp_path: Path) -> None:
    """The oldest of them goes; members are let in as before."""
    async with Cluster(tmp_path, storage="file") as cluster:
        strangers = [Mute() for _ in range(3 * peering.MAX_UNIDENTIFIED_LINKS)]
        for stranger in strangers:
            await cluster.transport.connect("n1:8300", stranger, 1.0)
        await wait_until(
            lambda: sum(not one.is_lost for one in strangers) <= peering.MAX_UNIDENTIFIED_LINKS, "the others are closed"
        )
        assert not strangers[-1].is_lost
        await cluster.stop("n3")
        await cluster.start("n3")
        await wait_until(lambda: cluster.nodes["n3"].is_connected(NodeId(1)), "a member is let in")
        assert any("too many connections" in reason for reason in cluster.nodes["n1"].refusals())


async def test_a_reason_is_said_however_many_others_were_before_it(tmp_path: Path) -> None:
    """Whoever knocks with rubbish does not hide from an operator why a real node is turned away."""
    async with Cluster(tmp_path) as cluster:
        node = cluster.nodes["n1"]
        for number in range(2 * peering.REFUSALS_REMEMBERED):
            node._peering.refused("remote", f"rubbish {number}")
        node._peering.refused("remote", "another cluster")
        assert node.refusals()[-1] == "another cluster"
        assert len(node.refusals()) == peering.REFUSALS_REMEMBERED


@pytest.mark.parametrize(
    ("names", "refusal"),
    [
        (None, ""),
        (("n2",), ""),
        (("broker2.example.org", "n2", "10.0.0.2"), ""),
        (("n2", "10.0.0.2", "n1"), "the certificate names n1, n2: any of them could be its holder"),
        (("n3", "n2"), "the certificate names n2, n3: any of them could be its holder"),
        (("n1",), "the certificate is for 'n1', node 2 is 'n2'"),
        (("worker",), "the certificate is for 'worker', node 2 is 'n2'"),
        (("worker", "w2"), "the certificate is for 'worker', 'w2', node 2 is 'n2'"),
        (tuple(f"w{number}" for number in range(900)), "'w4' and 895 other names, node 2 is 'n2'"),
        (("n2.example.org", "*.n2", "n"), "node 2 is 'n2'"),
        ((), "has no name, neither a DNS name nor a common name nor an IP address"),
    ],
)
async def test_a_member_proves_its_name_where_anything_is_proved(
    tmp_path: Path, names: tuple[str, ...] | None, refusal: str
) -> None:
    """A worker's certificate is of the same authority, and may have no name at all."""
    async with Cluster(tmp_path) as cluster:
        one, two = cluster.nodes["n1"]._peering, cluster.nodes["n2"]._peering
        hello = two.hello_to(NodeId(1))
        if refusal:
            with pytest.raises(WrongCluster, match=re.escape(refusal)):
                one.check_hello(hello, names)
        else:
            assert one.check_hello(hello, names) == 2


@pytest.mark.parametrize(
    ("names", "is_taken"),
    [(("n2",), True), (("n2", "host"), True), (("host", "n2"), True), (("host",), False), (("n1", "host"), False)],
)
async def test_a_certificate_for_the_members_common_host_is_nobodys(
    tmp_path: Path, names: tuple[str, ...], is_taken: bool
) -> None:
    addresses = [(f"host:{8300 + number}", f"host:{8400 + number}") for number in range(3)]
    async with Cluster(tmp_path, addresses=addresses) as cluster:
        one, two = cluster.nodes["n1"]._peering, cluster.nodes["n2"]._peering
        hello = two.hello_to(NodeId(1))
        if is_taken:
            assert one.check_hello(hello, names) == 2
        else:
            with pytest.raises(WrongCluster, match=r"any of them could be its holder|node 2 is 'n2'"):
                one.check_hello(hello, names)


@pytest.mark.parametrize(
    ("names", "is_taken"),
    [(("h2",), True), (("other", "h2"), True), (("h2", "n2"), True), (("h2", "h3"), False), (("n2", "h1"), False)],
)
async def test_a_certificate_for_a_members_own_host_is_that_members(
    tmp_path: Path, names: tuple[str, ...], is_taken: bool
) -> None:
    addresses = [(f"h{number}:8300", f"h{number}:8400") for number in (1, 2, 3)]
    async with Cluster(tmp_path, addresses=addresses) as cluster:
        one, two = cluster.nodes["n1"]._peering, cluster.nodes["n2"]._peering
        hello = two.hello_to(NodeId(1))
        if is_taken:
            assert one.check_hello(hello, names) == 2
        else:
            with pytest.raises(WrongCluster, match="any of them could be its holder"):
                one.check_hello(hello, names)


async def test_members_have_certificates_of_several_names(tmp_path: Path) -> None:
    """In any order, as authorities put them. A member with the certificate of another one is refused."""
    authority = Authority(tmp_path)
    ports = free_ports(6)
    addresses = [
        (f"127.0.0.1:{peer}", f"127.0.0.1:{client}") for peer, client in zip(ports[:3], ports[3:], strict=True)
    ]
    issued = {
        name: authority.issue(f"{name}.example.org", ["localhost", name, "127.0.0.1"]) for name in ("n1", "n2", "n3")
    }

    def tables(name: str) -> Tables:
        return {"transport": {"tls": issued[name]}}

    async with Cluster(tmp_path, transport="tls", tables=tables, addresses=addresses, storage="file") as cluster:
        await (await cluster.wait_leader()).apply(b"+1")
        await cluster.wait_equal()
        await cluster.stop("n3")
        await cluster.start("n3", plugins={"transport": {"tls": issued["n2"]}})
        others = [cluster.nodes[name] for name in ("n1", "n2")]
        await wait_until(lambda: all("node 3 is 'n3'" in str(one.refusals()) for one in others), "both refuse it")
        assert not any(one.is_connected(NodeId(3)) for one in others)


async def test_a_member_has_one_connection(tmp_path: Path) -> None:
    """Its second one tells that the first is broken."""
    async with Cluster(tmp_path) as cluster:
        one, two = cluster.nodes["n1"], cluster.nodes["n2"]
        await wait_until(lambda: two.is_connected(NodeId(1)), "it is connected")

        class Again(Mute):
            def connection_made(self, connection: Connection) -> None:
                hello = handshake.hello(Kind.PEER_HELLO, two._peering.hello_to(NodeId(1)))
                connection.write(hello + frames.plain(Kind.PEER_PROOF))

        again = Again()
        await cluster.transport.connect("n1:8300", again, 1.0)
        await wait_until(lambda: again.is_lost, "the node itself has dialled again, and this one is the broken one")
        assert len(one._peering._welcome) == 2


HOLE = (Entry(Term(1), Index(9), EntryKind.NOOP, 1, b""),)


@pytest.mark.parametrize(
    "message",
    [
        Heartbeat(NodeId(2), NodeId(1), Term(1 << 63), Index(0), 0),
        Heartbeat(NodeId(2), NodeId(1), Term(1 << 40), Index(0), 0),
        AppendRequest(NodeId(2), NodeId(1), Term(1), Index(1), Term(1), HOLE, Index(0)),
    ],
)
async def test_a_message_that_no_member_sends_costs_its_connection_and_nothing_else(
    tmp_path: Path, message: Message
) -> None:
    async with Cluster(tmp_path) as cluster:
        one, two = cluster.nodes["n1"], cluster.nodes["n2"]
        await cluster.wait_leader()
        term = one.group.raft.term

        class Wrong(Mute):
            def connection_made(self, connection: Connection) -> None:
                self.connection = connection
                hello = handshake.hello(Kind.PEER_HELLO, two._peering.hello_to(NodeId(1)))
                connection.write(hello + frames.plain(Kind.PEER_PROOF))

            def data_received(self, data: bytes) -> None:
                if Kind.PEER_WELCOME in [kind for kind, _ in frames.FrameReader().frames(data)]:
                    self.connection.write(peers.encode(0, message))

        wrong = Wrong()
        await cluster.transport.connect("n1:8300", wrong, 1.0)
        await wait_until(lambda: wrong.is_lost, "it is refused")
        await wait_until(lambda: bool(one.refusals()), "and said why")
        assert one.group.raft.term == term
        await (await cluster.wait_leader()).apply(b"+1")
        await cluster.wait_equal()


async def test_an_entry_that_is_larger_than_this_nodes_own_limit_is_taken(tmp_path: Path) -> None:
    """The limit was raised on the others, or lowered here after the entry was taken."""
    async with Cluster(tmp_path, storage="file", limits=Limits(frame_bytes=8 * MIB)) as cluster:
        name = cluster.followers()[0].name
        await cluster.stop(name)
        await cluster.start(name, limits=Limits())
        leader = await cluster.wait_leader()
        assert leader.name != name
        await leader.apply(b"+1" + b" " * 5 * MIB)
        await cluster.wait_equal()


async def test_a_frame_of_a_member_over_the_limit_is_refused_and_the_setting_named(tmp_path: Path) -> None:
    """A member's unfinished frame was counted and had no bound below 1 GiB. The entry waits for a higher limit."""
    async with Cluster(tmp_path, storage="file", limits=Limits(frame_bytes=16 * MIB)) as cluster:
        name = cluster.followers()[0].name
        await cluster.stop(name)
        await cluster.start(name, limits=Limits(max_peer_frame_bytes=4096))
        leader = await cluster.wait_leader()
        await leader.apply(b"+1" + b" " * 9 * MIB)
        await wait_until(lambda: "limits.max_peer_frame_bytes" in refusal_by(leader, name), "the leader says why")
        assert any("limits.max_peer_frame_bytes" in reason for reason in cluster.nodes[name].refusals())
        await cluster.stop(name)
        await cluster.start(name, limits=Limits())
        await cluster.wait_equal()
        await wait_until(lambda: refusal_by(leader, name) == "", "it is no longer refused")


def refusal_by(node: Node, name: str) -> str:
    return node.refusal_by(next(one for one in node.book.ids() if node.book.name(one) == name))


def test_a_member_may_send_what_this_node_could_send_and_four_times_that() -> None:
    def limit(frame_bytes: int, set_bytes: int = 0) -> int:
        limits = Limits(frame_bytes=frame_bytes, max_peer_frame_bytes=set_bytes)
        return tuning.fitted(NodeConfig(name="n1", limits=limits), 0).limits.max_peer_frame_bytes

    assert limit(2 * MIB) == 64 * MIB
    assert limit(32 * MIB) == 128 * MIB
    assert limit(2 * MIB, 8 * MIB) == 8 * MIB
    assert 32 * MIB < limit(32 * MIB, 8 * MIB) < 35 * MIB, "what this node may take from its clients"


async def test_a_restarted_follower_reaches_its_peers_while_strangers_knock(tmp_path: Path) -> None:
    """Thirty connections a second send the first bytes of a TLS handshake to every peer port, and no more."""
    authority = Authority(tmp_path)
    ports = free_ports(6)
    addresses = [
        (f"127.0.0.1:{peer}", f"127.0.0.1:{client}") for peer, client in zip(ports[:3], ports[3:], strict=True)
    ]
    knocking: list[asyncio.StreamWriter] = []

    async def knock() -> None:
        for port in ports[:3]:
            with suppress(ConnectionRefusedError):  # the follower is down
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"\x16\x03\x01\x02\x00\x01" + bytes(14))
                knocking.append(writer)

    def tables(name: str) -> Tables:
        return {"transport": {"tls": {**authority.issue(name), "handshakes": 64}}}

    async with Cluster(tmp_path, transport="tls", tables=tables, addresses=addresses, storage="file") as cluster:
        for _ in range(70):  # more strangers than a port has places
            await knock()
        node = await cluster.restart(cluster.followers()[0].name)
        others = [peer for peer in node.book.ids() if node.book.name(peer) != node.name]
        for _ in range(60):  # two seconds, told by the strangers: on a slow machine they are as late as the node
            if all(node.is_connected(peer) for peer in others):
                break
            await knock()
            await asyncio.sleep(1 / 30)
        assert all(node.is_connected(peer) for peer in others), "it has reached its peers"
        for writer in knocking:
            writer.close()
