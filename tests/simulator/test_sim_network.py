"""The simulated network: streams in order, cuts that stall or break, machines without power that say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from disheap.errors import AddressInUse, ConnectionLost
from disheap.kernel.types import Heartbeat, Index, NodeId, Term
from disheap.protocol import peers
from disheap.testing.simulator.world.loop import Process, SimLoop
from disheap.testing.simulator.world.network import SILENCE_S, STALL_S, Network, SimConnection, SimTransport
from disheap.testing.simulator.world.rng import Rng


class End:
    def __init__(self) -> None:
        self.connection: Any = None
        self.received = b""
        self.pieces = 0
        self.lost: list[Exception | None] = []

    def connection_made(self, connection: Any) -> None:
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.pieces += 1

    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)


class Pair:
    """A client on host `a`, a server on host `b`."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = SimLoop()
        self.network = Network(self.loop, Rng(seed))
        self.client, self.server = Process(self.loop, "client"), Process(self.loop, "server")
        self.near, self.far = End(), End()
        self.connection: SimConnection

    def run(self, work: Coroutine[Any, Any, Any], process: Process | None = None) -> Any:
        task = (process or self.client).start(work)
        self.loop.run_until(task.done)
        return task.result()

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def listen(self) -> Pair:
        transport = SimTransport(self.network, self.server, "b")
        self.run(transport.listen("b:1", lambda: self.far), self.server)
        return self

    def connect(self, timeout_s: float = 2.0) -> Pair:
        transport = SimTransport(self.network, self.client, "a")
        self.connection = self.run(transport.connect("b:1", self.near, timeout_s))
        self.wait(0.1)
        return self


def test_bytes_arrive_in_order_and_later() -> None:
    pair = Pair().listen().connect()
    before = pair.loop.now
    for number in range(200):
        pair.connection.write(bytes([number]))
    assert pair.far.received == b""
    pair.wait(1.0)
    assert pair.far.received == bytes(range(200))
    assert pair.loop.now > before
    assert pair.connection.buffered() == 0


def test_bytes_are_cut_anywhere() -> None:
    pair = Pair().listen().connect()
    for _ in range(300):
        pair.connection.write(b"0123456789")
    pair.wait(1.0)
    assert pair.far.received == b"0123456789" * 300
    assert pair.far.pieces > 300


def test_a_cut_holds_bytes_back_until_it_heals() -> None:
    pair = Pair().listen().connect()
    pair.network.cut("a", "b", reset=0.0)
    pair.connection.write(b"one")
    pair.far.connection.write(b"two")
    pair.wait(1.0)
    assert (pair.far.received, pair.near.received) == (b"", b"two")
    pair.network.heal("a", "b")
    pair.wait(1.0)
    assert pair.far.received == b"one"


def test_bytes_that_stall_too_long_break_the_connection() -> None:
    pair = Pair().listen().connect()
    pair.network.cut("a", "b", reset=0.0)
    pair.connection.write(b"one")
    pair.wait(STALL_S + 1.0)
    assert len(pair.near.lost) == len(pair.far.lost) == 1
    pair.network.heal("a", "b")
    pair.wait(1.0)
    assert pair.far.received == b""


def test_nobody_can_connect_through_a_cut() -> None:
    pair = Pair().listen()
    pair.network.cut("b", "a")
    with pytest.raises(ConnectionLost, match="did not answer"):
        pair.connect(timeout_s=3.0)
    assert pair.loop.now == pytest.approx(3.0)


def test_nobody_listening_is_said_at_once() -> None:
    pair = Pair()
    with pytest.raises(ConnectionLost, match="nobody listens"):
        pair.connect()
    assert pair.loop.now < 0.1


def test_an_address_is_taken_once() -> None:
    pair = Pair().listen()
    with pytest.raises(AddressInUse):
        pair.listen()


def test_a_close_comes_behind_the_bytes() -> None:
    pair = Pair().listen().connect()
    pair.connection.write(b"last words")
    pair.connection.close()
    pair.connection.write(b"not sent")
    pair.wait(1.0)
    assert pair.far.received == b"last words"
    assert pair.far.lost == [None]
    assert pair.near.lost == [None]


def test_a_killed_process_resets_its_connections() -> None:
    pair = Pair().listen().connect()
    pair.server.kill()
    pair.network.killed(pair.server, "b", silently=False)
    pair.wait(1.0)
    assert [type(error) for error in pair.near.lost] == [ConnectionLost]
    assert pair.far.lost == []


def test_a_machine_without_power_says_nothing_for_a_while() -> None:
    pair = Pair().listen().connect()
    pair.server.kill()
    pair.network.killed(pair.server, "b", silently=True)
    pair.wait(SILENCE_S / 2 - 1)
    assert pair.near.lost == []
    pair.wait(SILENCE_S / 2 + 2)
    assert len(pair.near.lost) == 1


def test_a_machine_that_is_back_resets_what_it_does_not_know() -> None:
    pair = Pair().listen().connect()
    pair.server.kill()
    pair.network.killed(pair.server, "b", silently=True)
    pair.network.started("b")
    pair.wait(3.0)
    assert len(pair.near.lost) == 1


def test_a_receiver_that_pauses_makes_its_writers_buffer_grow() -> None:
    pair = Pair().listen().connect()
    pair.far.connection.pause_reading()
    pair.connection.write(b"x" * 1000)
    pair.wait(1.0)
    assert (pair.far.received, pair.connection.buffered()) == (b"", 1000)
    pair.far.connection.resume_reading()
    pair.wait(1.0)
    assert (len(pair.far.received), pair.connection.buffered()) == (1000, 0)


def test_a_lossy_link_drops_doubles_and_reorders_whole_messages_between_nodes() -> None:
    pair = Pair().listen().connect()
    link = pair.network.link("a", "b")
    link.drop = link.double = link.reorder = 0.2
    for number in range(200):
        pair.connection.write(peers.encode(0, Heartbeat(NodeId(1), NodeId(2), Term(1), Index(0), number)))
    pair.wait(5.0)
    size = len(peers.encode(0, Heartbeat(NodeId(1), NodeId(2), Term(1), Index(0), 0)))
    messages = [peers.decode(pair.far.received[at : at + size])[1] for at in range(0, len(pair.far.received), size)]
    numbers = [message.read for message in messages if isinstance(message, Heartbeat)]
    assert len(numbers) == len(messages)
    assert len(set(numbers)) < 200
    assert len(numbers) > len(set(numbers))
    assert numbers != sorted(numbers)


def test_a_lossy_link_leaves_other_frames_alone() -> None:
    pair = Pair().listen().connect()
    pair.network.link("a", "b").drop = 1.0
    pair.connection.write(b"a client's frame")
    pair.wait(1.0)
    assert pair.far.received == b"a client's frame"


def test_a_look_at_all_links_may_use_others() -> None:
    """As the watch over sessions does, which asks for the way back."""
    network = Network(SimLoop(), Rng(1))
    network.link("a", "b")
    for source, target, _ in network.links():
        network.link(target, source)
    assert [link[:2] for link in network.links()] == [("a", "b"), ("b", "a")]
