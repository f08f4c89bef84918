"""How many sessions one client may have, and who gets in nevertheless."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.support.nodes import Cluster
from tests.support.wire import WireClient

from disheap.config.node_config import Limits
from disheap.errors import Overloaded
from disheap.interfaces import TransportContext
from disheap.protocol import frames
from disheap.protocol.frames import Fault, Kind, SessionOptions, Status
from disheap.runtime.clients.admission import FEW, AdmissionLimits, PendingOpens, host_of
from disheap.runtime.state.session_table import Session, SessionCounts, SessionFacts
from disheap.testing.certificates import Authority
from disheap_tcp.tls import TlsTransport
from disheap_tcp.trust import TlsSettings

LIMITS = AdmissionLimits(sessions=100, max_sessions_per_address=40, max_sessions_per_principal=60, reserved_sessions=20)


LOOPBACK = ("127.0.0.1:0", "127.0.0.1:0")


NOBODY = PendingOpens()


def counts(**addresses: int) -> SessionCounts:
    """Counts so many sessions at each address, all of one name."""
    facts = SessionFacts(1, 1000, 500, "", "fleet", 0, bytes(32))
    return SessionCounts(Session(facts, address) for address, count in addresses.items() for _ in range(count))


def test_an_address_has_a_limit_and_the_error_says_what_to_do() -> None:
    LIMITS.check(counts(a=39), NOBODY, "a", "")
    with pytest.raises(Overloaded, match=r"a has 40 sessions.*max_sessions_per_address.*disheap session ls"):
        LIMITS.check(counts(a=40), NOBODY, "a", "")
    LIMITS.check(counts(a=40), NOBODY, "b", "")


def test_a_network_of_ipv6_addresses_is_one_client() -> None:
    facts = SessionFacts(1, 1000, 500, "", "", 0, bytes(32))
    there = SessionCounts(Session(facts, f"[2001:db8::{number:x}]") for number in range(1, 41))
    with pytest.raises(Overloaded, match="2001:db8::/64 has 40 sessions"):
        LIMITS.check(there, NOBODY, "[2001:db8::ffff]", "")
    LIMITS.check(there, NOBODY, "[2001:db8:0:1::1]", "")


def test_those_that_are_under_way_count() -> None:
    under_way = PendingOpens()
    for _ in range(10):
        under_way.add("a", "")
    with pytest.raises(Overloaded):
        LIMITS.check(counts(a=30), under_way, "a", "")
    LIMITS.check(counts(b=30), under_way, "b", "")
    for _ in range(10):
        under_way.add("a", "", -1)
    LIMITS.check(counts(a=30), under_way, "a", "")
    assert (under_way.total, len(under_way.owners)) == (0, 0)


def test_a_certificate_has_a_limit_over_all_addresses() -> None:
    with pytest.raises(Overloaded, match="'fleet' has 60 sessions"):
        LIMITS.check(counts(a=30, b=30), NOBODY, "c", "fleet")
    LIMITS.check(counts(a=30, b=30), NOBODY, "c", "other")


def test_clients_with_many_sessions_do_not_get_the_last_ones() -> None:
    full = counts(a=38, b=32, c=FEW)
    for greedy in ("a", "b", "c"):
        with pytest.raises(Overloaded, match="reserved_sessions"):
            LIMITS.check(full, NOBODY, greedy, "")
    LIMITS.check(full, NOBODY, "an operator", "")


@pytest.mark.parametrize(
    ("remote", "host"),
    [("10.0.0.7:51234", "10.0.0.7"), ("[::1]:80", "[::1]"), ("this process", "this process")],
)
def test_the_port_is_no_part_of_an_address(remote: str, host: str) -> None:
    assert host_of(remote) == host


async def test_one_client_is_stopped_at_its_own_limit_and_the_node_goes_on(tmp_path: Path) -> None:
    async with Cluster(
        tmp_path, nodes=1, transport="tcp", addresses=[LOOPBACK], limits=Limits(max_sessions_per_address=3)
    ) as cluster:
        node = cluster.nodes["n1"]
        clients = [await cluster.client() for _ in range(3)]
        one_too_many = await WireClient.connected(cluster.transport, node.client_address)
        options = msgspec.msgpack.encode(SessionOptions(5000))
        one_too_many.connection.write(frames.envelope(Kind.OPEN, 0, 0, 1, 0, options))
        _, status, body = await one_too_many.reply_to(1)
        fault = msgspec.msgpack.decode(body, type=Fault)
        assert (status, fault.code) == (Status.ERROR, "limit-reached")
        assert "max_sessions_per_address" in fault.message
        assert await node.apply(b"+1") == b"1", "the node's own sessions are not asked about"
        assert (await one_too_many.admin(op="status"))["sessions"] == 4
        clients[0].connection.write(frames.envelope(Kind.CLOSE, 0, clients[0].session, 9, 0))
        await clients[0].reply_to(9)
        assert (await cluster.client()).session


async def test_a_session_belongs_to_the_name_of_its_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tables = {"transport": {"tls": authority.issue("n1")}}
    limits = Limits(max_sessions_per_principal=2)
    async with Cluster(
        tmp_path, nodes=1, transport="tls", tables=tables, addresses=[LOOPBACK], limits=limits
    ) as cluster:
        node = cluster.nodes["n1"]

        def over(name: str) -> TlsTransport:
            return TlsTransport(TlsSettings(**authority.issue(name)), TransportContext(asyncio.get_running_loop()))

        worker = await WireClient.opened(over("worker"), node.client_address)
        (listed,) = (await worker.admin(op="sessions"))["sessions"]
        assert (listed["principal"], listed["address"]) == ("worker", "127.0.0.1")
        thief = await WireClient.connected(over("thief"), node.client_address)
        status, body = await thief.attach(worker.session, worker.secret)
        assert (status, msgspec.msgpack.decode(body, type=Fault).code) == (Status.ERROR, "wrong-secret")
        again = await WireClient.connected(over("worker"), node.client_address)
        assert (await again.attach(worker.session, worker.secret))[0] == Status.OK
        await WireClient.opened(over("worker"), node.client_address)
        one_too_many = await WireClient.connected(over("worker"), node.client_address)
        one_too_many.connection.write(
            frames.envelope(Kind.OPEN, 0, 0, 1, 0, msgspec.msgpack.encode(SessionOptions(5000)))
        )
        _, status, body = await one_too_many.reply_to(1)
        assert status == Status.ERROR
        assert "max_sessions_per_principal" in msgspec.msgpack.decode(body, type=Fault).message
