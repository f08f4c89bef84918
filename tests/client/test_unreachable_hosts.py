"""Hosts that are frozen, drop packets or are dead keep no client out while another host lets it in.

A frozen process completes the TCP handshake all the same, for its kernel does that. A listener whose backlog is full
drops what comes, as a host without power or behind a firewall does.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import disheap
from disheap import sync
from disheap.cli.processes.local_cluster import free_ports
from disheap.client.core.url import BrokerUrl
from disheap.errors import ConnectionLost
from disheap.testing.certificates import Authority
from tests.support.nodes import Cluster

from .fake_node import FakeCluster, SocketNode

BUDGET_S = 20.0
"""How long one attempt may take. A client that waits for one to end before it starts the next fails these tests by
far."""
WITHIN_S = 5.0
"""Three hosts that hang cost 0.75 s; the rest is for a slow machine."""


@contextmanager
def frozen() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def dropping() -> Iterator[str]:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def dead() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    yield address


@pytest.fixture
def leader() -> Iterator[SocketNode]:
    node = SocketNode(FakeCluster())
    yield node
    node.close()


def url(*addresses: str, **changes: Any) -> BrokerUrl:
    return BrokerUrl(addresses, connect_timeout_s=BUDGET_S, timeout_s=BUDGET_S, **changes)


def connect_blocking(where: BrokerUrl) -> None:
    with sync.connect(where) as client:
        assert client.driver.ready


def connect_asyncio(where: BrokerUrl) -> None:
    async def connect() -> None:
        async with disheap.connect(where) as client:
            assert client.driver.welcome is not None

    asyncio.run(connect())


BOTH = pytest.mark.parametrize("connect", [connect_blocking, connect_asyncio])


@BOTH
@pytest.mark.parametrize("places", list(itertools.permutations([frozen, dropping, dead])))
def test_a_client_gets_in_whichever_hosts_of_the_url_are_silent(
    connect: Callable[[BrokerUrl], None], places: Any, leader: SocketNode
) -> None:
    with ExitStack() as stack:
        addresses = [stack.enter_context(place()) for place in places]
        began = time.monotonic()
        connect(url(*addresses, leader.address))
        connect(url(leader.address, *addresses))
    assert time.monotonic() - began < 2 * WITHIN_S


@BOTH
def test_a_leader_that_is_named_and_frozen_does_not_end_the_search(
    connect: Callable[[BrokerUrl], None], leader: SocketNode
) -> None:
    """Its followers name it until they have elected another one."""
    followers = FakeCluster()
    followers.leads = False
    follower = SocketNode(followers)
    with frozen() as followers.leader:
        began = time.monotonic()
        connect(url(follower.address, followers.leader, leader.address))
    follower.close()
    assert time.monotonic() - began < WITHIN_S


@BOTH
def test_every_host_that_did_not_answer_is_named_in_the_error(connect: Callable[[BrokerUrl], None]) -> None:
    with frozen() as one, dropping() as two, dead() as three:
        where = BrokerUrl((one, two, three), connect_timeout_s=BUDGET_S, timeout_s=1.5)
        with pytest.raises(ConnectionLost) as raised:
            connect(where)
    assert f"{one}: no answer yet" in str(raised.value) and f"{two}: no answer yet" in str(raised.value)
    assert f"{three}: connection refused" in str(raised.value)


def test_a_host_that_hangs_gets_one_connection_at_a_time() -> None:
    """However long the search takes: a frozen host's backlog is not filled by it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        where = BrokerUrl((f"127.0.0.1:{listener.getsockname()[1]}",), connect_timeout_s=BUDGET_S, timeout_s=1.0)
        with pytest.raises(ConnectionLost):
            sync.connect(where)
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """One node over TLS: its address, and a client's files."""
    authority = Authority(tmp_path)
    port, peer = free_ports(2)
    files = authority.issue("n1")
    async with Cluster(
        tmp_path,
        1,
        machine="heap",
        transport="tls",
        addresses=[(f"127.0.0.1:{peer}", f"127.0.0.1:{port}")],
        tables={"transport": {"tls": dict(files)}},
    ):
        yield f"127.0.0.1:{port}", authority.issue("client")


@BOTH
async def test_over_tls_a_silent_host_keeps_nobody_out_either(
    connect: Callable[[BrokerUrl], None], tls: tuple[str, dict[str, str]]
) -> None:
    address, files = tls
    with frozen() as one, dropping() as two:
        began = time.monotonic()
        where = url(one, two, address, transport="tls", transport_table=files)
        await asyncio.to_thread(connect, where)
    assert time.monotonic() - began < WITHIN_S
