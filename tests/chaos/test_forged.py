"""Forged frames against node processes on loopback. With a cluster secret they have no effect. Without one they have
the effects that `docs/how-to/run-a-cluster.md` states for plain loopback, and no others."""

from __future__ import annotations

import signal
from typing import Any

import pytest

import disheap
from disheap.protocol import frames
from disheap.protocol.frames import Kind
from disheap.protocol.peers import PeerGroup, PeerHello
from tests.chaos.forger import (
    NO_PROOF,
    TERM_JUMP,
    ZERO_PROOF,
    StolenPort,
    acceptor,
    as_member,
    forged_messages,
    hello,
    incarnation_at,
    say,
    wait_until,
)
from tests.chaos.nodes import ChaosCluster, ChaosNode, wait_ended

pytestmark = pytest.mark.timeout(120)
SETTINGS = """
[raft]
election_timeout_ms = 3000
heartbeat_ms = 200
[limits]
min_free_bytes = 1048576
"""
"""A busy machine starts no election within these timeouts, so a new term is the forger's work."""
ENDS_S = 20.0
NAMES = ("n1", "n2", "n3")
LACKS, WRONG = "the other node was not given the cluster secret", "the other node has another cluster secret"


def cluster_of_three(secret: bool) -> ChaosCluster:
    return ChaosCluster(3, settings=SETTINGS, secret=secret, proxies=False)


class Scene:
    """A cluster that serves, one follower that is stopped, and what somebody could learn at its port."""

    def __init__(self, cluster: ChaosCluster) -> None:
        self.cluster = cluster
        self.leader = self.follower = self.stopped = ""
        self.hellos: dict[int, PeerHello] = {}
        self.incarnations: dict[str, int] = {}

    async def set(self) -> None:
        await wait_until(self._serves, "no leader that all follow")
        await self.enqueue(b"before")
        self.leader = await self.cluster.leader()
        self.follower, self.stopped = [name for name in NAMES if name != self.leader]
        anybody = PeerHello("", 0, "", 0, "", (PeerGroup(0, "", (1, 1)),))
        self.incarnations = {name: await incarnation_at(self.address(name), anybody) for name in NAMES}
        self.node(self.stopped).signal(signal.SIGTERM)
        wait_ended(self.node(self.stopped), ENDS_S)
        async with StolenPort(self.address(self.stopped)) as port:
            running = [number(self.leader), number(self.follower)]
            self.hellos = {who: said for who, (said, _) in (await port.wait_hellos(running)).items()}

    async def _serves(self) -> bool:
        found = [await self.cluster.status(name) for name in NAMES]
        return all(status and status["leader"] and not status["repair"] for status in found)

    def node(self, name: str) -> ChaosNode:
        return self.cluster.nodes[name]

    def address(self, name: str) -> str:
        return self.node(name).members_peer

    def as_(self, member: str, target: str) -> PeerHello:
        """What that member would say to the target."""
        known = next(iter(self.hellos.values()))
        return as_member(known, number(member), self.incarnations[member], number(target))

    async def status(self, name: str) -> dict[str, Any]:
        found = await self.cluster.status(name)
        assert found is not None, self.cluster.logs()
        return found

    async def facts(self) -> dict[str, tuple[Any, ...]]:
        """Returns for each node that runs: term, leader, members and the end of its log."""
        facts = {}
        for name in (self.leader, self.follower):
            status = await self.status(name)
            members = [
                (member["name"], member["peer_address"], member["client_address"]) for member in status["members"]
            ]
            facts[name] = (status["term"], status["leader"], status["last_index"], status["commit_index"], members)
        return facts

    async def enqueue(self, *payloads: bytes) -> None:
        async with disheap.connect(self.cluster.url, timeout_s=ENDS_S) as client:
            await client.create_topic("jobs")
            for payload in payloads:
                await client.topic("jobs").enqueue(payload)

    async def content(self) -> list[bytes]:
        async with disheap.connect(self.cluster.url, timeout_s=ENDS_S) as client:
            return [message.payload for message in await client.topic("jobs").peek(10)]

    async def come_back(self) -> None:
        """The real member starts again, and takes part."""
        self.cluster.start(self.stopped)

        async def is_equal() -> bool:
            hashes = await self.cluster.hashes()
            return len(hashes) == len(NAMES) and len(set(hashes.values())) == 1

        await wait_until(is_equal, "the nodes do not hold the same")

    def log_lines(self, name: str, words: str) -> list[str]:
        return [line for line in self.node(name).said(1000).splitlines() if words in line]


def number(name: str) -> int:
    return NAMES.index(name) + 1


async def test_with_a_secret_nothing_forged_changes_a_node_and_it_says_so_once() -> None:
    with cluster_of_three(secret=True) as cluster:
        scene = Scene(cluster)
        await scene.set()
        before = await scene.facts()
        for name in (scene.leader, scene.follower):
            term, _, last_index, *_ = before[name]
            for member in set(NAMES) - {name}:
                forged = forged_messages(number(member), number(name), term, last_index)
                for script in ((NO_PROOF,), (ZERO_PROOF,), ()):
                    for message in forged.values():
                        said = await say(scene.address(name), hello(scene.as_(member, name)), *script, message)
                        await said.wait_lost()
                        assert said.kinds == [Kind.PEER_CHALLENGE, Kind.GOODBYE]
            for words in (LACKS, WRONG):
                assert len(scene.log_lines(name, words)) == 1, scene.node(name).said(50)
        assert await scene.facts() == before
        await scene.enqueue(b"after")
        await scene.come_back()
        assert await scene.content() == [b"before", b"after"]


async def test_with_a_secret_who_binds_a_stopped_members_port_is_no_member() -> None:
    with cluster_of_three(secret=True) as cluster:
        scene = Scene(cluster)
        await scene.set()
        before = await scene.facts()
        running = [number(scene.leader), number(scene.follower)]
        for proof in (NO_PROOF, ZERO_PROOF):
            answers = acceptor(scene.as_(scene.stopped, scene.leader), proof)
            async with StolenPort(scene.address(scene.stopped), answers) as port:
                met = await port.wait_hellos(running)
                for _, dialler in met.values():
                    await dialler.wait_lost()
                    assert dialler.kinds == [Kind.PEER_HELLO, Kind.PEER_PROOF], "it proves itself, and sends no message"
        recorded = {who: b"".join(frame for _, frame in dialler.heard) for who, (_, dialler) in met.items()}
        assert await scene.facts() == before
        assert len(scene.log_lines(scene.leader, f"peer={scene.stopped}")) <= 4
        await scene.come_back()
        for who, handshake in recorded.items():
            said = await say(scene.address(scene.stopped), handshake)
            await said.wait_lost()
            assert said.kinds == [Kind.PEER_CHALLENGE, Kind.GOODBYE], f"the handshake of n{who} is good a second time"
        own_proof_back = await say(scene.address(scene.leader), recorded[number(scene.leader)])
        await own_proof_back.wait_lost()
        assert Kind.PEER_WELCOME not in own_proof_back.kinds
        assert (await scene.facts())[scene.leader][:2] == before[scene.leader][:2]


async def test_without_a_secret_a_process_that_claims_to_be_a_member_is_believed() -> None:
    """That is what the docs say of plain loopback. What was confirmed is there afterwards."""
    with cluster_of_three(secret=False) as cluster:
        scene = Scene(cluster)
        await scene.set()
        term, _, last_index, *_ = (await scene.facts())[scene.leader]
        said = await say(scene.address(scene.leader), hello(scene.as_(scene.stopped, scene.leader)), NO_PROOF)
        await said.wait_frame(Kind.PEER_WELCOME)
        messages = forged_messages(number(scene.stopped), number(scene.leader), term, last_index)
        said.connection.write(messages["heartbeat"])

        async def has_moved() -> bool:
            status = await cluster.status(scene.leader)
            return status is not None and status["term"] >= term + TERM_JUMP

        await wait_until(has_moved, "the term does not move, and the docs say that it does")
        said.connection.abort()
        await scene.enqueue(b"after")
        await scene.come_back()
        assert await scene.content() == [b"before", b"after"]


async def test_without_a_secret_no_one_else_than_a_member_of_the_cluster_is_believed() -> None:
    """The cases: an id that nobody has, another cluster, another incarnation of a member, another member on one link.
    Also a frame before the welcome, and a term that no election reaches."""
    with cluster_of_three(secret=False) as cluster:
        scene = Scene(cluster)
        await scene.set()
        before = await scene.facts()
        leader, stopped = scene.leader, scene.stopped
        term, _, last_index, *_ = before[leader]
        good = scene.as_(stopped, leader)
        known = next(iter(scene.hellos.values()))
        others = {
            "another process answers at that node's address": as_member(known, 9, 1, number(leader)),
            "is not one of the other members": as_member(known, number(leader), 1, number(leader)),
            "looks for node": scene.as_(stopped, scene.follower),
            "belongs to cluster": PeerHello("another", *_fields(good)[1:]),
            "without the data": as_member(known, number(stopped), 1, number(leader)),
        }
        for reason, content in others.items():
            said = await say(scene.address(leader), hello(content), NO_PROOF)
            await said.wait_lost()
            assert Kind.PEER_WELCOME not in said.kinds, reason
            assert scene.log_lines(leader, reason), scene.node(leader).said(20)
        early = await say(scene.address(leader), forged_messages(number(stopped), number(leader), term, 0)["heartbeat"])
        await early.wait_lost()
        third = forged_messages(number(scene.follower), number(leader), term, last_index)["heartbeat"]
        far = forged_messages(number(stopped), number(leader), 1 << 40, last_index)["heartbeat"]
        for message in (third, far, frames.plain(Kind.HELLO)):
            said = await say(scene.address(leader), hello(good), NO_PROOF)
            await said.wait_frame(Kind.PEER_WELCOME)
            said.connection.write(message)
            await said.wait_lost()
        assert await scene.facts() == before


async def test_without_a_secret_a_stranger_on_a_members_port_does_not_keep_it_out() -> None:
    """Somebody at the port with another incarnation than the member's is refused, and nothing of it is remembered."""
    with cluster_of_three(secret=False) as cluster:
        scene = Scene(cluster)
        await scene.set()
        before = await scene.facts()
        known = next(iter(scene.hellos.values()))
        stranger = as_member(known, number(scene.stopped), 99, number(scene.leader))
        async with StolenPort(scene.address(scene.stopped), acceptor(stranger, NO_PROOF)) as port:
            for _, dialler in (await port.wait_hellos([number(scene.leader), number(scene.follower)])).values():
                await dialler.wait_lost()
                assert Kind.PEER_MESSAGE not in dialler.kinds
        assert await scene.facts() == before
        await scene.come_back()
        assert await scene.content() == [b"before"]


def _fields(content: PeerHello) -> tuple[Any, ...]:
    return tuple(getattr(content, name) for name in content.__struct_fields__)
