"""Nodes and clients that speak different versions of the protocol: they agree on one, or both are told why not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.nodes import Cluster
from tests.support.wire import WireClient, wait_until

from disheap.client.core.handshake import Answer, Handshake
from disheap.errors import WrongVersion
from disheap.protocol.handshake import Hello, Versions
from disheap.runtime.member import Member

OLD, BOTH, NEW = Versions(2, 2), Versions(2, 3), Versions(3, 3)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, versions={"n1": OLD, "n2": BOTH, "n3": NEW}) as cluster:
        yield cluster


def spoken(node: Member) -> dict[str, int]:
    """The version that a node speaks on each connection that it dialled and that stands."""
    links = node._peering._outgoing.values()
    return {node.member_name(link.peer): link._version for link in links if link.up}


def refusals(node: Member) -> dict[str, str]:
    return {node.member_name(one): node.refusal_by(one) for one in node.book.ids() if node.refusal_by(one)}


async def test_nodes_speak_the_highest_version_of_both_or_refuse_each_other(cluster: Cluster) -> None:
    old, both, new = (cluster.nodes[name] for name in ("n1", "n2", "n3"))
    await wait_until(lambda: spoken(both) == {"n1": 2, "n3": 3}, "the middle node speaks to both")
    await wait_until(lambda: spoken(old) == {"n2": 2} and spoken(new) == {"n2": 3}, "and both to it")
    await wait_until(lambda: bool(refusals(old) and refusals(new)), "the other two have refused each other")
    assert refusals(both) == {}
    ((peer, reason),) = refusals(old).items()
    assert peer == "n3" and "the other side speaks protocol version 2, this one version 3; use releases" in reason
    ((peer, reason),) = refusals(new).items()
    assert peer == "n1" and "the other side speaks protocol version 3, this one version 2; use releases" in reason
    for refused in (old, new):
        assert any(each.startswith("the other side speaks protocol") for each in refused._peering.refusals), "logged"


async def test_nodes_that_refuse_each_other_end_nothing_else(cluster: Cluster) -> None:
    """Each of them and the one between them are a majority."""
    old, new = cluster.nodes["n1"], cluster.nodes["n3"]
    await wait_until(lambda: bool(refusals(old) and refusals(new)), "two have refused each other")
    assert await (await cluster.wait_leader()).apply(b"+1")
    assert old.failure is None and new.failure is None


async def greet(cluster: Cluster, node: str, versions: Versions) -> Answer:
    """What a client that speaks `versions` makes of the node's answer."""
    greeting = Handshake(Hello(), True, versions)
    client = WireClient()
    await cluster.transport.connect(cluster.nodes[node].client_address, client, 5)
    client.connection.write(greeting.hello)
    await wait_until(lambda: bool(client.inbox), "an answer")
    answer = greeting.receive(client.inbox[0][1])
    assert answer is not None
    return answer


@pytest.mark.parametrize(("node", "versions"), [("n1", Versions(2, 9)), ("n2", OLD), ("n2", NEW), ("n3", BOTH)])
async def test_a_client_is_let_in_by_a_node_with_a_version_in_common(
    cluster: Cluster, node: str, versions: Versions
) -> None:
    assert (await greet(cluster, node, versions)).is_accepted


@pytest.mark.parametrize(
    ("node", "versions", "says"),
    [
        ("n1", NEW, "speaks protocol version 3, this one version 2"),
        ("n2", Versions(4, 6), "speaks protocol versions 4 to 6, this one versions 2 to 3"),
        ("n3", OLD, "speaks protocol version 2, this one version 3"),
    ],
)
async def test_a_client_without_a_version_in_common_is_told_both_ranges(
    cluster: Cluster, node: str, versions: Versions, says: str
) -> None:
    with pytest.raises(WrongVersion, match=says):
        await greet(cluster, node, versions)
    assert await (await cluster.wait_leader()).apply(b"+1"), "nothing else ends"
