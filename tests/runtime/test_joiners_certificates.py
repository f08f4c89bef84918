"""Whom a certificate lets in, of nodes that are no members yet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.runtime.test_membership import Growing
from tests.support.nodes import Node
from tests.support.wire import wait_until

from disheap.cli.processes.local_cluster import free_ports
from disheap.errors import WrongCluster
from disheap.protocol.peers import PeerHello
from disheap.testing.certificates import Authority

HERE = "127.0.0.1"


class Secured(Growing):
    """All nodes are on one machine, as `host`. Each has a certificate of one authority."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, storage="memory")
        self.authority = Authority(directory)
        self.base = msgspec.structs.replace(self.base, transport="tls")
        self.ports = {name: free_ports(2) for name in ("n1", "n2")}

    def changes(self, name: str, *names: str) -> dict[str, Any]:
        peer, client = self.ports[name]
        ways = {} if name == "n1" else {"join_addresses": (f"{HERE}:{self.ports['n1'][0]}",)}
        issued = self.authority.issue(names[0], names[1:])
        own = {"peer_listen": f"{HERE}:{peer}", "client_listen": f"{HERE}:{client}"}
        return {**own, **ways, "plugins": {"transport": {"tls": issued}}}


async def test_a_joiner_is_let_in_by_its_name_and_no_other_one_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker's certificate is of the same authority. So is that of the machine, which is nobody's."""
    cluster = Secured(tmp_path)
    try:
        await cluster.start("n1", **cluster.changes("n1", "n1", HERE))
        leader = await cluster.wait_leader()
        for names, reason in (
            (("worker", HERE), "the certificate is for 'worker', '127.0.0.1', and the node is 'n2'"),
            (("n1", HERE), "names n1, and the node is 'n2'"),
            ((HERE,), "the node is 'n2' at '127.0.0.1'"),
        ):
            caplog.clear()
            node = Node(cluster.config("n2", **cluster.changes("n2", *names)), registry=cluster.registry)
            task = asyncio.create_task(node.start())
            await wait_until(lambda reason=reason: reason in caplog.text, "it is told why")  # type: ignore[misc]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await node.stop()
            assert len(leader.group.raft.membership.members) == 1
        await cluster.start("n2", **cluster.changes("n2", "n2", HERE))
        await cluster.wait_voters("n1", "n2")
    finally:
        await asyncio.gather(*(node.stop(hand_over=False) for node in cluster.nodes.values()))


@pytest.mark.parametrize(
    ("address", "names", "is_let_in"),
    [
        ("h2:8300", ("n2",), True),
        ("h2:8300", ("h2",), True),
        ("h2:8300", ("n1", "n2"), False),
        ("h2:8300", ("n2", "h1"), False),
        ("n1:8300", ("n2", "n1"), False),
        ("h2:8300", (), False),
        ("h1:8301", ("n2", "h1"), True),
        ("h1:8301", ("h1",), False),
    ],
)
async def test_a_certificate_is_a_joiners_if_it_names_it_and_nobody_else(
    address: str, names: tuple[str, ...], is_let_in: bool, tmp_path: Path
) -> None:
    """n1 is at h1."""
    cluster = Growing(tmp_path, storage="memory")
    try:
        node = await cluster.start("n1", peer_listen="h1:8300")
        hello = PeerHello("", 0, "n2", 0, "", node.peer_groups(), cluster="disheap", peer_address=address, request=b"x")
        if is_let_in:
            node._peering.check_request(hello, names)
        else:
            with pytest.raises(WrongCluster, match="the node is 'n2'"):
                node._peering.check_request(hello, names)
    finally:
        await cluster.stop("n1")
