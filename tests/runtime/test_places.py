"""Who gets a place for a client's connection when there are too few."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tests.support.nodes import Cluster
from tests.support.wire import WireClient, wait_until

from disheap.config.node_config import Limits
from disheap.errors import LimitReached, Overloaded
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind, SessionOptions
from disheap.protocol.handshake import Hello
from disheap.runtime.clients.places import SILENCE_S, PlaceLimits, Places

REMOTE = "10.0.0.{}:5000"


class Guest:
    def __init__(self) -> None:
        self.refusal: Overloaded | None = None

    def refuse(self, error: Overloaded) -> None:
        self.refusal = error


class Door:
    """An places whose time stands still until it is told otherwise."""

    def __init__(self, **limits: int | tuple[str, ...]) -> None:
        self.now = 0.0
        self.places = Places(msgspec.convert(limits, PlaceLimits), lambda: self.now)

    def enter(self, remote: str, principal: str = "", greets: bool = True) -> tuple[Guest, str]:
        """The guest, and why it has no place; "" if it has one."""
        guest = Guest()
        refusal = self.places.enter(guest, remote, principal)
        if refusal is None and greets:
            self.places.greeted(guest)
        return guest, str(refusal or "")


def test_there_are_as_many_places_as_the_limit_says() -> None:
    door = Door(connections=2)
    first, _ = door.enter(REMOTE.format(1))
    door.enter(REMOTE.format(2))
    assert "limit of 2 connections (limits.connections)" in door.enter(REMOTE.format(3))[1]
    door.places.leave(first)
    assert door.enter(REMOTE.format(3))[1] == ""


def test_an_address_has_a_limit_of_its_own() -> None:
    door = Door(max_connections_per_address=2)
    for _ in range(2):
        first, why = door.enter(REMOTE.format(1))
        assert why == ""
    assert "10.0.0.1 has its limit of 2" in door.enter(REMOTE.format(1))[1]
    assert door.enter(REMOTE.format(2))[1] == ""
    door.places.leave(first)
    assert door.enter(REMOTE.format(1))[1] == ""


def test_an_ipv6_network_is_one_address() -> None:
    door = Door(max_connections_per_address=1)
    assert door.enter("[2001:db8::1]:5")[1] == ""
    assert "2001:db8::/64 has its limit" in door.enter("[2001:db8::2]:5")[1]


def test_a_certificate_name_has_a_limit_of_its_own() -> None:
    door = Door(max_connections_per_principal=1)
    assert door.enter(REMOTE.format(1), "worker")[1] == ""
    assert "certificate name 'worker' has its limit of 1" in door.enter(REMOTE.format(2), "worker")[1]
    assert door.enter(REMOTE.format(2), "other")[1] == ""


def test_who_has_said_nothing_gives_way_to_a_newcomer() -> None:
    door = Door(connections=2)
    greeted, _ = door.enter(REMOTE.format(1))
    silent, _ = door.enter(REMOTE.format(2), greets=False)
    assert "its limit" in door.enter(REMOTE.format(3))[1], "it may only just have come"
    door.now = SILENCE_S
    assert door.enter(REMOTE.format(3))[1] == ""
    assert "sent no HELLO" in str(silent.refusal)
    assert greeted.refusal is None
    assert "its limit" in door.enter(REMOTE.format(4))[1]


def test_an_operator_gets_in_when_every_place_is_taken() -> None:
    door = Door(connections=1, reserved_connections=2, operator_names=("admin",))
    door.enter(REMOTE.format(1))
    local, why = door.enter("127.0.0.1:5")
    assert (why, door.places.is_reserved(local)) == ("", True)
    named, why = door.enter(REMOTE.format(2), "admin")
    assert (why, door.places.is_reserved(named)) == ("", True)
    assert "its limit" in door.enter(REMOTE.format(2), "worker")[1]
    _, why = door.enter("127.0.0.1:6")
    assert why == ""
    assert "its oldest connection" in str(local.refusal), "the reserve is never full"
    assert named.refusal is None


def test_an_operator_takes_no_place_of_the_reserve_while_there_are_others() -> None:
    door = Door(connections=1, reserved_connections=1)
    assert not door.places.is_reserved(door.enter("127.0.0.1:5")[0])


async def test_an_operator_asks_for_the_status_of_a_full_node_and_opens_no_session(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, limits=Limits(connections=3)) as cluster:
        node = cluster.nodes["n1"]
        held = [await WireClient.connected(cluster.transport, node.client_address) for _ in range(3)]
        operator = await WireClient.connected(cluster.transport, node.client_address)
        assert (await operator.admin(op="status"))["node"] == "n1"
        options = msgspec.msgpack.encode(SessionOptions(60_000))
        operator.connection.write(frames.envelope(Kind.OPEN, 0, 0, 1, 0, options))
        goodbye = await operator.goodbye()
        assert (goodbye.code, "carry no session" in goodbye.message) == (LimitReached.code, True)
        assert await node.apply(b"+1") == b"1", "the node's own session needs no place"
        for client in held:
            client.close()


async def test_a_connection_that_gets_no_place_is_told_why(tmp_path: Path) -> None:
    limits = Limits(connections=1, reserved_connections=0)
    async with Cluster(tmp_path, nodes=1, limits=limits) as cluster:
        node = cluster.nodes["n1"]
        held = await WireClient.connected(cluster.transport, node.client_address)
        refused = WireClient()
        await cluster.transport.connect(node.client_address, refused, 5.0)
        refused.connection.write(handshake.hello(Kind.HELLO, Hello(client="test")))
        goodbye = await refused.goodbye()
        assert "limits.connections" in goodbye.message
        held.close()
        await wait_until(lambda: not node.clients._connections, "its place is free")
        again = await WireClient.connected(cluster.transport, node.client_address)
        again.close()
