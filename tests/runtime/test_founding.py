"""A node with `bootstrap` and `join_addresses` founds a cluster only if each address says that it has none."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fuzz.targets import HELLO
from tests.runtime.test_membership import SECRET, Growing
from tests.support.nodes import Node
from tests.support.wire import wait_until

from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind
from disheap.protocol.peers import MembershipAnswer, PeerHello
from disheap.runtime.peers import asking, blank
from disheap.runtime.peers.blank import BlankNode

NAMES = ("n1", "n2", "n3")
ALL = tuple(f"{name}:8300" for name in NAMES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "ASK_AGAIN_S", 0.02)


class Founding(Growing):
    """Nodes that start together, and may all have the same settings."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        super().__init__(directory, **changes)
        self.starting: dict[str, asyncio.Task[None]] = {}

    def begin(self, name: str, **changes: Any) -> Node:
        own = {"bootstrap": name == "n1", "join_addresses": ALL, **changes}
        node = self.nodes[name] = Node(self.config(name, **own), registry=self.registry)
        self.starting[name] = asyncio.create_task(node.start())
        return node

    async def end(self) -> None:
        for task in self.starting.values():
            task.cancel()
        await asyncio.gather(*self.starting.values(), return_exceptions=True)
        await asyncio.gather(*(node.stop(hand_over=False) for node in self.nodes.values()))

    def clusters(self) -> set[str]:
        return {node.cluster_id for node in self.nodes.values()} - {""}


@pytest.mark.parametrize("founders", [("n1",), NAMES], ids=["one has bootstrap", "all have it"])
@pytest.mark.parametrize("secret", ["", SECRET], ids=["no secret", "secret"])
async def test_nodes_that_start_together_become_one_cluster(
    founders: tuple[str, ...], secret: str, tmp_path: Path
) -> None:
    cluster = Founding(tmp_path, cluster_secret=secret)
    try:
        for name in reversed(NAMES):
            cluster.begin(name, bootstrap=name in founders)
        await wait_until(lambda: all(task.done() for task in cluster.starting.values()), "all nodes have started")
        await cluster.wait_voters(*NAMES)
        assert len(cluster.clusters()) == 1
        assert await (await cluster.wait_leader()).apply(b"+1") == b"1"
    finally:
        await cluster.end()


async def test_a_founder_that_lost_its_data_founds_no_second_cluster(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks the others, and goes on asking while one of them is down. Its operator replaces it."""
    cluster = Founding(tmp_path)
    try:
        for name in NAMES:
            cluster.begin(name)
        await wait_until(lambda: all(task.done() for task in cluster.starting.values()), "all nodes have started")
        await cluster.wait_voters(*NAMES)
        (first,) = cluster.clusters()
        for name in NAMES:
            await cluster.stop(name)
        shutil.rmtree(tmp_path / "n1")
        caplog.clear()
        wiped = cluster.begin("n1")
        await wait_until(lambda: caplog.text.count("the cluster does not let this node in yet") >= 2, "it asks both")
        assert not wiped.cluster_id, "nobody answers, so there may be a cluster"
        for name in ("n2", "n3"):
            cluster.begin(name)
        await wait_until(lambda: "has a member called 'n1'" in caplog.text, "it is told that its name is taken")
        others = [cluster.nodes[name] for name in ("n2", "n3")]
        await wait_until(lambda: sum(node.group.leads for node in others) == 1, "the others have a leader")
        (leader,) = (node for node in others if node.group.leads)
        await leader.membership.change("replace", "n1")
        await wait_until(lambda: cluster.starting["n1"].done(), "it is let in under a new id")
        assert cluster.clusters() == {first} and wiped._id == 4
    finally:
        await cluster.end()


async def test_a_founder_waits_for_every_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """n3 is down, and may belong to a cluster that n1 and n2 have forgotten."""
    cluster = Founding(tmp_path)
    try:
        founder = cluster.begin("n1")
        cluster.begin("n2")
        await wait_until(lambda: "n2 has no cluster yet, either" in caplog.text, "n2 has answered")
        await wait_until(lambda: caplog.text.count("n3:8300") >= 2, "n3 was asked")
        assert not founder.cluster_id
        cluster.begin("n3")
        await wait_until(lambda: all(task.done() for task in cluster.starting.values()), "all nodes have started")
        assert len(cluster.clusters()) == 1
    finally:
        await cluster.end()


async def test_of_nodes_that_may_found_a_cluster_the_one_with_the_smallest_name_does() -> None:
    """n2 goes on asking while n1 says that it may found one, and founds it itself if n1 may not."""
    assert (await told("n2", {"n1": True, "n3": True}).ask_until_answered(("n1", "n3"), founds=True)) is not None
    assert (await told("n2", {"n1": False, "n3": True}).ask_until_answered(("n1", "n3"), founds=True)) is None
    assert (await told("n1", {"n1": True, "n3": True}).ask_until_answered(("n1", "n3"), founds=True)) is None
    assert (await told("n0", {"n1": True}).ask_until_answered(("n1",))) is not None, "it may not found any"


class Told(asking.Asker):
    """An asker that is told in its first round that nobody has a cluster, and is let in later."""

    said: dict[str, bool]
    asked = 0

    async def ask(self, address: str) -> asking.Answered:
        self.asked += 1
        hello = msgspec.structs.replace(HELLO, name=address)
        if self.asked > 2 * len(self.said):
            return asking.Answered(hello, MembershipAnswer(7, 9))
        return asking.Answered(_of(hello), MembershipAnswer(0, 0, self.said[address]))


def told(name: str, said: dict[str, bool]) -> Told:
    hello = _of(msgspec.structs.replace(HELLO, name=name))
    asker = Told(None, hello, (), bytes, handshake.SUPPORTED, None)  # type: ignore[arg-type]
    asker.said = said
    return asker


def _of(hello: PeerHello) -> PeerHello:
    """With an incarnation of its own."""
    number = int(hello.name[1:])
    return msgspec.structs.replace(hello, groups=(msgspec.structs.replace(hello.groups[0], incarnation=number),))


async def test_a_node_of_another_cluster_name_is_no_reason_to_found_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Founding(tmp_path)
    try:
        founder = cluster.begin("n1", join_addresses=("n2:8300",))
        cluster.begin("n2", cluster="another", join_addresses=("n1:8300",))
        await wait_until(lambda: "is called 'another'" in caplog.text or "called 'disheap'" in caplog.text, "refused")
        await asyncio.sleep(0)
        assert not founder.cluster_id
    finally:
        await cluster.end()


def test_a_node_without_a_cluster_holds_a_bounded_number_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blank, "MAX_LINKS", 2)
    loop = asyncio.new_event_loop()
    try:
        node = BlankNode(says(), loop)
        links = [(node.accept(), Wire()) for _ in range(3)]
        for link, wire in links:
            link.connection_made(wire)  # type: ignore[arg-type]
        assert len(node._links) == 2
        node.close()
        assert not node._links and all(wire.closed for _, wire in links[1:])
    finally:
        loop.close()


def says() -> blank.Blank:
    return blank.Blank(HELLO, True, (), lambda count: bytes(count), handshake.SUPPORTED)


class Wire:
    """The transport's end of a connection."""

    remote = "somebody:1"
    certificate_names = None

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def buffered(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def test_a_node_without_a_cluster_refuses_the_link_of_a_member() -> None:
    loop = asyncio.new_event_loop()
    try:
        link, wire = BlankNode(says(), loop).accept(), Wire()
        link.connection_made(wire)  # type: ignore[arg-type]
        link.data_received(handshake.hello(Kind.PEER_HELLO, HELLO) + frames.plain(Kind.PEER_PROOF))
        found = list(frames.FrameReader().frames(wire.written))
        assert [kind for kind, _ in found] == [Kind.PEER_CHALLENGE, Kind.GOODBYE] and wire.closed
        assert "has no cluster yet" in handshake.open_goodbye(frames.open_plain(found[-1][1])).message
    finally:
        loop.close()
