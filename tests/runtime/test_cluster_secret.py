"""The cluster's secret between whole nodes, and what is remembered of a member without one."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.support.nodes import Cluster
from tests.support.wire import wait_until

from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError, UnsafeListen
from disheap.interfaces import Connection
from disheap.kernel.types import Heartbeat, Index, NodeId, Term
from disheap.protocol import frames, handshake, peers, proofs
from disheap.protocol.frames import Kind
from disheap.protocol.peers import PeerHello
from disheap.protocol.proofs import Challenge, Part, Transcript
from disheap.testing.inspected import InspectedMember as Node

OLD, NEW = "0123456789abcdef" * 4, "fedcba9876543210" * 4


class Stranger:
    """Says what it is given, remembers what it hears, and answers a challenge as the test wants."""

    def __init__(self, *said: bytes, answer: Callable[[bytes], bytes] | None = None) -> None:
        self.said = said
        self.answer = answer
        self.heard = b""
        self.is_lost = False

    def connection_made(self, connection: Connection) -> None:
        self.connection = connection
        connection.write(b"".join(self.said))

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if self.answer is not None and data[4] in (Kind.PEER_CHALLENGE, Kind.PEER_HELLO):
            self.connection.write(self.answer(data))

    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True

    @property
    def kinds(self) -> list[int]:
        return [kind for kind, _ in frames.FrameReader().frames(self.heard)]


def forged(cluster: Cluster, node: int, incarnation: int = 99, target: int = 1) -> PeerHello:
    """A hello that says all that a member would, except its incarnation."""
    real = next(iter(cluster.nodes.values()))._peering.hello_to(NodeId(target))
    group = msgspec.structs.replace(real.groups[0], incarnation=incarnation)
    return msgspec.structs.replace(real, node_id=node, name=f"n{node}", groups=(group,), peer_address="")


async def stopped(cluster: Cluster) -> None:
    for name in list(cluster.nodes):
        await cluster.stop(name)


async def test_a_cluster_with_a_secret_works_as_one_without(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file", secret=NEW) as cluster:
        assert await (await cluster.wait_leader()).apply(b"+1") == b"1"
        await cluster.wait_equal()
        await cluster.restart(cluster.followers()[0].name)
        assert await (await cluster.wait_leader()).apply(b"+1") == b"2"


async def test_a_forged_heartbeat_moves_no_term(tmp_path: Path) -> None:
    async with Cluster(tmp_path, secret=NEW) as cluster:
        leader = await cluster.wait_leader()
        term, own = leader.group.raft.term, leader.group.raft.id
        other = NodeId(own % 3 + 1)
        heartbeat = peers.encode(0, Heartbeat(other, own, Term(term + 1001), Index(0), 0))
        hello = handshake.hello(Kind.PEER_HELLO, forged(cluster, other, cluster.nodes[f"n{other}"].incarnation, own))
        for proof in (frames.plain(Kind.PEER_PROOF), frames.plain(Kind.PEER_PROOF, bytes(32)), b""):
            stranger = Stranger(hello, proof, heartbeat)
            await cluster.transport.connect(f"n{own}:8300", stranger, 1.0)
            await wait_until(lambda stranger=stranger: stranger.is_lost, "it is refused")
            assert stranger.kinds == [Kind.PEER_CHALLENGE, Kind.GOODBYE]
        assert leader.group.raft.term == term


async def test_who_binds_a_stopped_members_port_is_not_welcomed(tmp_path: Path) -> None:
    """One who sends the dialler's own proof back is refused as well."""
    async with Cluster(tmp_path, secret=NEW) as cluster:
        await cluster.wait_leader()
        incarnation = cluster.nodes["n3"].incarnation
        await cluster.stop("n3")
        welcome = handshake.welcome(Kind.PEER_WELCOME, 2, forged(cluster, 3, incarnation, 1))
        challenge = proofs.challenge(Challenge(bytes(32), (incarnation,)))
        strangers: list[Stranger] = []

        def accept() -> Stranger:
            strangers.append(Stranger(answer=lambda _: challenge + welcome + frames.plain(Kind.PEER_PROOF, bytes(32))))
            return strangers[-1]

        listener = await cluster.transport.listen("n3:8300", accept)
        await wait_until(lambda: sum(one.is_lost for one in strangers) >= 3, "it is left again and again")
        assert not any(node.is_connected(NodeId(3)) for node in cluster.nodes.values())
        assert not any(Kind.PEER_MESSAGE in one.kinds for one in strangers)
        await listener.close()


@pytest.mark.parametrize("secrets", [("", NEW), (NEW, ""), (OLD, NEW)], ids=["lacking", "extra", "another"])
async def test_a_node_with_another_secret_is_refused_and_both_say_why(tmp_path: Path, secrets: tuple[str, str]) -> None:
    ours, theirs = secrets
    async with Cluster(tmp_path, storage="file", secret=ours) as cluster:
        await cluster.stop("n3")
        node = await cluster.start("n3", cluster_secret=theirs)
        others = [cluster.nodes[name] for name in ("n1", "n2")]
        await wait_until(lambda: all(one.refusals() for one in others), "both refuse it")
        assert all("cluster secret" in reason for one in others for reason in one.refusals())
        assert not any(one.is_connected(NodeId(3)) for one in others)
        assert not any(node.is_connected(NodeId(other)) for other in (1, 2))


async def test_a_secret_is_replaced_node_by_node_while_the_cluster_serves(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file", secret=OLD) as cluster:
        await cluster.wait_leader()
        for step in (f"{OLD} {NEW}", f"{NEW} {OLD}", NEW):
            for name in list(cluster.configs):
                await cluster.stop(name, hand_over=True)
                node = await cluster.start(name, cluster_secret=step)
                await wait_until(
                    lambda node=node: all(map(node.is_connected, (NodeId(1), NodeId(2), NodeId(3)))), "it is back"
                )
                await (await cluster.wait_leader()).apply(b"+1")
        assert await (await cluster.wait_leader()).apply(b"+1") == b"10"


# --- before the first start ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["", NEW], ids=["plain", "secret"])
async def test_a_forged_hello_before_a_members_first_start_blocks_nothing(tmp_path: Path, secret: str) -> None:
    """It names a member that has not started yet; were it remembered, the member itself would be refused for ever."""
    cluster = Cluster(tmp_path, storage="file", secret=secret)
    try:
        one = await cluster.start("n1")
        await cluster.start("n2")
        cluster.transport = one._parts.transport("transport", asyncio.get_running_loop())
        strangers = []
        for _ in range(3):
            hello = handshake.hello(Kind.PEER_HELLO, forged(cluster, 3))
            strangers.append(Stranger(hello, frames.plain(Kind.PEER_PROOF)))
            await cluster.transport.connect("n1:8300", strangers[-1], 1.0)
        await wait_until(lambda: all(one.heard or one.is_lost for one in strangers), "they are heard")
        await cluster.start("n3")
        await cluster.wait_leader()
        await wait_until(
            lambda: not any(node.maintenance.repair_status() for node in cluster.nodes.values()), "all take part"
        )
        assert all(Kind.PEER_WELCOME not in stranger.kinds for stranger in strangers)
        assert one.book.client(NodeId(3)) == "n3:8400"
    finally:
        await stopped(cluster)


async def test_what_waits_for_a_members_address_is_bounded(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, storage="file")
    try:
        one = await cluster.start("n1")
        transport = one._parts.transport("transport", asyncio.get_running_loop())
        strangers = [
            Stranger(handshake.hello(Kind.PEER_HELLO, forged(cluster, 3, n)), frames.plain(Kind.PEER_PROOF))
            for n in range(1, 100)
        ]
        for stranger in strangers:
            await transport.connect("n1:8300", stranger, 1.0)
        await wait_until(lambda: bool(strangers[-1].heard), "the last one is heard")
        assert 0 < len(one._peering._unproved) <= 64
        for stranger in strangers:
            stranger.connection.abort()
        await wait_until(lambda: not one._peering._unproved, "nothing of them is kept")
    finally:
        await stopped(cluster)


async def test_a_wiped_member_is_still_refused_where_its_address_is_its_proof(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        await cluster.stop("n3")
        shutil.rmtree(tmp_path / "n3")
        await cluster.start("n3")
        await wait_until(
            lambda: all("without the data" in "".join(cluster.nodes[name].refusals()) for name in ("n1", "n2")),
            "it is refused",
        )


async def test_who_waited_for_an_address_is_checked_against_who_was_met_meanwhile(tmp_path: Path) -> None:
    """n3 is met, wiped and started again, and the hello of its second life is read before the welcome of its first."""
    cluster = Cluster(tmp_path, storage="file")
    try:
        one = await cluster.start("n1")
        peering, three = one._peering, NodeId(3)
        first, second = forged(cluster, 3, 1), forged(cluster, 3, 2)
        outcomes: list[tuple[int, bool]] = []
        peering.meet(three, second, False, lambda is_kept: outcomes.append((2, is_kept)))
        peering.welcomed(three, first, lambda is_kept: outcomes.append((1, is_kept)))
        await wait_until(lambda: outcomes == [(1, True)], "the first life is remembered")
        peering.answered(three, (second.groups[0].incarnation,))
        assert outcomes == [(1, True), (2, False)]
        assert "without the data" in one.refusals()[-1]
        one.membership.incarnation_checks.check(three, first)
    finally:
        await stopped(cluster)


# --- configuration ---------------------------------------------------------------------------------------------------


def config(tmp_path: Path, **changes: object) -> NodeConfig:
    made = Cluster(tmp_path, transport="tcp", storage="file").configs["n1"]
    return msgspec.structs.replace(made, peer_listen="0.0.0.0:0", client_listen="127.0.0.1:0", **changes)


async def test_beyond_loopback_without_tls_a_secret_is_required(tmp_path: Path) -> None:
    """`--insecure` is about who reads along, and not about who belongs to the cluster."""
    with pytest.raises(UnsafeListen, match="disheap secret new"):
        await Node(config(tmp_path, insecure=True), registry=Cluster(tmp_path).registry).start()
    assert list(tmp_path.iterdir()) == []
    node = Node(config(tmp_path, insecure=True, cluster_secret=NEW), registry=Cluster(tmp_path).registry)
    await node.start()
    await node.stop()


async def test_a_bad_secret_file_stops_the_start_and_leaves_nothing_behind(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(ConfigError, match="missing"):
        await Node(config(tmp_path, cluster_secret_file=missing), registry=Cluster(tmp_path).registry).start()
    assert list(tmp_path.iterdir()) == []


def test_an_acceptors_proof_covers_its_welcome() -> None:
    """Else somebody between two nodes could change what the one that answers says of itself."""
    transcripts = [Transcript((NEW.encode(),)), Transcript((NEW.encode(),))]
    for welcome, transcript in zip((b"one", b"two"), transcripts, strict=True):
        transcript.add(b"hello")
        transcript.add(welcome)
    assert transcripts[0].proof(Part.ACCEPTOR) != transcripts[1].proof(Part.ACCEPTOR)
