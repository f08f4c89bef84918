"""How many sessions one client may have, and who gets in nevertheless."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from tests.support.nodes import Cluster
from tests.support.wire import WireClient

from disheap.config import Limits
from disheap.errors import Overloaded
from disheap.protocol import frames
from disheap.protocol.frames import Fault, Kind, SessionOptions, Status
from disheap.runtime.admission import FEW, AdmissionLimits, host_of
from disheap.runtime.session_table import Session, SessionCounts, SessionFacts

LIMITS = AdmissionLimits(sessions=100, max_sessions_per_address=40, max_sessions_per_principal=60, reserved_sessions=20)


LOOPBACK = ("127.0.0.1:0", "127.0.0.1:0")


class Asking(NamedTuple):
    address: str
    principal: str = ""


def counts(**addresses: int) -> SessionCounts:
    """So many sessions at each address, all of one name."""
    facts = SessionFacts(1, 1000, 500, "", "fleet", 0, bytes(32))
    return SessionCounts(Session(facts, address) for address, count in addresses.items() for _ in range(count))


def test_an_address_has_a_limit_and_the_error_says_what_to_do() -> None:
    LIMITS.check(counts(a=39), (), "a", "")
    with pytest.raises(Overloaded, match=r"a has 40 sessions.*max_sessions_per_address.*disheap session ls"):
        LIMITS.check(counts(a=40), (), "a", "")
    LIMITS.check(counts(a=40), (), "b", "")


def test_those_that_are_under_way_count() -> None:
    with pytest.raises(Overloaded):
        LIMITS.check(counts(a=30), [Asking("a")] * 10, "a", "")
    LIMITS.check(counts(a=30), [Asking("b")] * 10, "a", "")


def test_a_certificate_has_a_limit_over_all_addresses() -> None:
    with pytest.raises(Overloaded, match="'fleet' has 60 sessions"):
        LIMITS.check(counts(a=30, b=30), (), "c", "fleet")
    LIMITS.check(counts(a=30, b=30), (), "c", "other")


def test_clients_with_many_sessions_do_not_get_the_last_ones() -> None:
    full = counts(a=38, b=32, c=FEW)
    for greedy in ("a", "b", "c"):
        with pytest.raises(Overloaded, match="reserved_sessions"):
            LIMITS.check(full, (), greedy, "")
    LIMITS.check(full, (), "an operator", "")


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
        assert (status, fault.code) == (Status.ERROR, "overloaded")
        assert "max_sessions_per_address" in fault.message
        assert await node.apply(b"+1") == b"1", "the node's own sessions are not asked about"
        assert (await one_too_many.admin(op="status"))["sessions"] == 4
        clients[0].connection.write(frames.envelope(Kind.CLOSE, 0, clients[0].session, 9, 0))
        await clients[0].reply_to(9)
        assert (await cluster.client()).session
