"""A node runs without the garbage collector, so whatever comes and goes must free itself by its reference counts.

Each test does one thing many times and counts the objects of every type in the process, at both ends of the connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from tests.support.leftovers import LOG, grown_by
from tests.support.nodes import FAST, Cluster
from tests.support.wire import WireClient, wait_until

from disheap.cli.processes.local_cluster import free_ports
from disheap.cli.processes.loops import free_closed_transports
from disheap.config.node_config import Limits
from disheap.errors import CommandRefused, ConnectionLost, LogDamaged
from disheap.interfaces import Transport, TransportContext
from disheap.kernel.types import Index, NodeId
from disheap.plugins.registry import Registry
from disheap.protocol import broker, frames
from disheap.protocol.frames import Kind
from disheap.protocol.repair import AskEntries
from disheap.testing.certificates import Authority

pytestmark = pytest.mark.proof

FEW, MANY = 150, 1000
LONG = [pytest.mark.long, pytest.mark.timeout(0)]
SLOW = [FEW, pytest.param(MANY, marks=LONG)]
"""Rounds of things that take long, such as a handshake with TLS: some 5 ms at both ends."""
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """pytest keeps every record."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class Site:
    """A node that is reached over one transport, and what its tests do to it again and again."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.node = cluster.nodes["n1"]
        self.address = self.node.client_address

    async def connect(self) -> WireClient:
        client = WireClient()
        await self.cluster.transport.connect(self.address, client, 5.0)
        return client

    async def leave(self, client: WireClient) -> None:
        client.close()
        await client.lost.wait()

    async def connection(self) -> None:
        await self.leave(await self.connect())

    async def greeting(self) -> None:
        await self.leave(await WireClient.connected(self.cluster.transport, self.address))

    async def session(self) -> None:
        client = await WireClient.opened(self.cluster.transport, self.address)
        await client.call(b"+1")
        client.connection.write(frames.envelope(Kind.CLOSE, 0, client.session, 2, 0))
        await client.take(lambda kind, frame: kind == Kind.REPLY and frames.open_reply(frame)[1] == 2)
        await self.leave(client)

    async def garbage(self) -> None:
        client = await self.connect()
        client.connection.write(b"GET / HTTP/1.1\r\n\r\n")
        await client.lost.wait()

    async def questions(self) -> None:
        client = await WireClient.connected(self.cluster.transport, self.address)
        await client.query(b"")
        await client.query(b"wrong")
        await client.admin(op="status")
        await client.query(msgspec.msgpack.encode({"op": "wrong"}), Kind.ADMIN)
        await self.leave(client)

    async def silence(self) -> None:
        """The node ends it, when its handshake is overdue."""
        await (await self.connect()).lost.wait()

    def _raw(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)))

    async def half_open(self) -> None:
        """With TLS that is a handshake which fails."""
        with self._raw():
            await asyncio.sleep(0)

    async def rubbish(self) -> None:
        with self._raw() as raw:
            raw.sendall(b"x" * 20)
            raw.setblocking(False)
            while True:
                try:
                    if not await asyncio.get_running_loop().sock_recv(raw, 4096):
                        return
                except OSError:
                    return


Work = Callable[[Site], Coroutine[Any, Any, None]]


def run(directory: Path, transport: str, work: Work, *, loop: str = "asyncio", limits: Limits | None = None) -> None:
    tables = {"transport": {"tls": Authority(directory).issue("n1")}} if transport == "tls" else None
    addresses = None
    if transport != "inproc":
        peer, client = free_ports(2)
        addresses = [(f"127.0.0.1:{peer}", f"127.0.0.1:{client}")]

    async def main() -> None:
        async with Cluster(
            directory, nodes=1, transport=transport, tables=tables, addresses=addresses, limits=limits
        ) as cluster:
            await work(Site(cluster))

    free_closed_transports()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


OVER = [
    ("inproc", "asyncio", MANY),
    ("tcp", "asyncio", MANY),
    ("tcp", "uvloop", MANY),
    ("tls", "asyncio", FEW),
    ("tls", "uvloop", FEW),
    pytest.param("tls", "asyncio", MANY, marks=LONG),
    pytest.param("tls", "uvloop", MANY, marks=LONG),
]


@pytest.mark.parametrize(("transport", "loop", "rounds"), OVER)
@pytest.mark.parametrize("thing", ["connection", "greeting", "session", "garbage", "questions"])
def test_a_connection_that_ended_leaves_nothing(
    tmp_path: Path, transport: str, loop: str, rounds: int, thing: str
) -> None:
    async def work(site: Site) -> None:
        assert await grown_by(rounds, getattr(site, thing)) == {}

    run(tmp_path, transport, work, loop=loop)


@pytest.mark.parametrize(("transport", "loop", "rounds"), OVER[1:])
@pytest.mark.parametrize("thing", ["half_open", "rubbish"])
def test_a_socket_that_never_became_a_connection_leaves_nothing(
    tmp_path: Path, transport: str, loop: str, rounds: int, thing: str
) -> None:
    async def work(site: Site) -> None:
        assert await grown_by(rounds, getattr(site, thing)) == {}

    run(tmp_path, transport, work, loop=loop)


@pytest.mark.parametrize(("transport", "loop", "rounds"), OVER)
def test_a_connection_that_the_node_ended_leaves_nothing(
    tmp_path: Path, transport: str, loop: str, rounds: int
) -> None:
    async def work(site: Site) -> None:
        assert await grown_by(rounds, site.silence) == {}

    run(tmp_path, transport, work, loop=loop, limits=Limits(handshake_timeout_s=0.005))


@pytest.mark.parametrize(("transport", "loop", "rounds"), OVER)
def test_a_connection_that_was_refused_leaves_nothing(tmp_path: Path, transport: str, loop: str, rounds: int) -> None:
    async def work(site: Site) -> None:
        first = await WireClient.connected(site.cluster.transport, site.address)  # the only place is taken
        assert await grown_by(rounds, site.silence) == {}
        await site.leave(first)

    run(tmp_path, transport, work, loop=loop, limits=Limits(connections=1, reserved_connections=0))


def test_questions_on_one_connection_leave_nothing(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        client = await WireClient.connected(site.cluster.transport, site.address)

        async def ask() -> None:
            await client.query(b"")
            await client.admin(op="status")
            await client.admin(op="hash")

        assert await grown_by(1000, ask) == {}
        await site.leave(client)

    run(tmp_path, "inproc", work)


def test_a_command_that_is_refused_in_the_node_s_own_session_leaves_nothing(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        async def refused() -> None:
            try:
                await site.node.apply(b"wrong")
            except CommandRefused:
                return
            raise AssertionError("it was carried out")

        assert await grown_by(1000, refused) == {}

    run(tmp_path, "inproc", work)


@pytest.mark.parametrize("rounds", SLOW)
def test_a_snapshot_leaves_nothing(tmp_path: Path, rounds: int) -> None:
    async def work(site: Site) -> None:
        async def snapshot() -> None:
            await site.node.apply(b"+1")
            site.node.group.snapshotter.take()
            await wait_until(lambda: not site.node.group.snapshotter.running, "the snapshot is taken")

        assert await grown_by(rounds, snapshot) == {}

    run(tmp_path, "inproc", work)


@pytest.mark.parametrize("transport", ["inproc", "tcp"])
def test_sessions_that_lapse_leave_nothing(tmp_path: Path, transport: str) -> None:
    """Their clients close the connection without a word; the sessions end soon afterwards, many at a time."""

    async def work(site: Site) -> None:
        sessions = site.node.group.sessions

        async def lapse() -> None:
            client = await WireClient.opened(site.cluster.transport, site.address)
            await client.call(b"+1")
            await site.leave(client)

        assert await grown_by(MANY, lapse) == {}
        await wait_until(lambda: not sessions.table, "every session has lapsed")
        assert sessions.reply_bytes == 0

    run(tmp_path, transport, work, limits=Limits(reattach_timeout_ms=1))


@pytest.mark.parametrize("rounds", SLOW)
def test_sessions_whose_clients_fall_silent_leave_nothing(tmp_path: Path, rounds: int) -> None:
    """Their connections stand, and hear of it when they speak again."""

    async def work(site: Site) -> None:
        sessions = site.node.group.sessions
        silent: list[WireClient] = []

        async def fall_silent() -> None:
            silent.append(await WireClient.opened(site.cluster.transport, site.address, timeout_ms=1))
            if len(silent) == 10:
                await wait_until(lambda: not sessions.table, "they have lapsed")
                for client in silent:
                    await site.leave(client)
                silent.clear()

        assert await grown_by(rounds, fall_silent) == {}

    run(tmp_path, "inproc", work, limits=Limits(session_timeout_min_ms=1))


BLOCKS = ("disheap_filelog.segments.blocks.Block", "disheap_filelog.segments.index.Located")
"""The index of the log, which grows with the log."""
SMALL_FILES = {"storage": {"file": {"segment_bytes": 64 << 10}}}
PADDING = b" " * 20_000
"""A file of the log ends when it is filled by an eighth, and goes with the snapshot."""


@pytest.mark.parametrize("rounds", SLOW)
@pytest.mark.parametrize("storage", ["memory", "file"])
async def test_a_leaders_snapshot_that_was_installed_leaves_nothing(tmp_path: Path, storage: str, rounds: int) -> None:
    """The state that it replaced went, with what consumers, topics and exchanges hold of each other."""
    raft = msgspec.structs.replace(FAST, election_timeout_ms=1000, trailing_entries=0, trailing_bytes=0)
    tables = SMALL_FILES if storage == "file" else None
    async with Cluster(tmp_path, storage=storage, raft=raft, tables=tables, machine="heap") as cluster:
        leader = await cluster.wait_leader()
        follower = cluster.followers()[0]
        number = NodeId(follower.group.raft.id)
        link = leader._peering._outgoing[number]
        client = await cluster.client()
        for command in STATE:
            assert (await client.call(broker.encode(command)))[0] == 0, command

        async def install() -> None:
            """The follower misses what the leader's snapshot then stands for."""
            before = weakref.ref(follower.group.sessions)
            link.send = lambda group, message: None  # type: ignore[method-assign]
            missing = follower.group.applied.index + 1
            for _ in range(2):  # a file of the log goes with the snapshot after the one that ended it
                await client.call(
                    broker.encode(broker.Enqueue("padding", broker.NewMessage(PADDING))), confirmed=client.seq
                )
                await client.call(broker.encode(broker.Purge("padding")), confirmed=client.seq)
                leader.group.snapshotter.take()
                await wait_until(lambda: not leader.group.snapshotter.running, "the snapshot is taken")
            await wait_until(lambda: leader.group.raft.first_index > missing, "the log behind the snapshot is gone")
            del link.send  # type: ignore[method-assign]
            leader.messages.unreachable(number)
            await wait_until(lambda: follower.group.sessions is not before(), "the follower has the snapshot")
            await cluster.wait_equal()

        assert await grown_by(rounds, install, (*LOG, *BLOCKS)) == {}
        assert leader.group.leads


STATE: list[broker.Command] = [
    broker.CreateTopic("padding"),
    *(broker.CreateTopic(f"t{number}", broker.TopicSettings(exclusive=number == 2)) for number in range(3)),
    *(broker.CreateExchange(kind, kind) for kind in ("direct", "fanout", "topic")),
    *(broker.Bind(kind, f"t{number}", "a.b") for kind in ("direct", "fanout", "topic") for number in range(3)),
    *(broker.Enqueue(f"t{number % 3}", broker.NewMessage(b"job")) for number in range(12)),
    broker.Subscribe("t0", 2),
    broker.Subscribe("t1", 2, group=7),
    broker.Subscribe("t2", 2, group=7),
]
"""Every kind of record, with those that hold each other."""


@pytest.mark.parametrize("rounds", SLOW)
async def test_damage_that_was_mended_leaves_nothing(tmp_path: Path, rounds: int) -> None:
    raft = msgspec.structs.replace(FAST, trailing_entries=0, trailing_bytes=0)
    async with Cluster(tmp_path, storage="file", raft=raft) as cluster:
        leader = await cluster.wait_leader()
        await leader.apply(b"+1")
        await cluster.wait_equal()
        victim = cluster.followers()[0]

        async def mend() -> None:
            """A bit of a block flips, and somebody notices it."""
            group = weakref.ref(victim.group)  # its address may be the next group's
            storage: Any = victim.storage()
            located, _ = next(storage._log.index.backwards())
            path = Path(located.segment.path)
            spoil(path, located.block.end - 3)
            victim.replicas[0].damage_found(LogDamaged(str(path), located.block.offset, "a bit has flipped", ""))
            await wait_until(lambda: victim.group is not group() and victim.group.is_running, "it takes part again")
            victim.group.snapshotter.take()  # the files of the log go; each opening begins another
            await wait_until(lambda: not victim.group.snapshotter.running, "the snapshot is taken")
            await leader.apply(b"+1")
            await cluster.wait_equal()

        assert await grown_by(rounds, mend, (*LOG, *BLOCKS)) == {}


def spoil(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("rounds", SLOW)
async def test_a_link_that_broke_and_was_dialled_again_leaves_nothing(tmp_path: Path, rounds: int) -> None:
    async with Cluster(tmp_path, nodes=3) as cluster:
        node = cluster.nodes["n1"]
        outgoing = list(node._peering._outgoing.values())

        async def broken() -> None:
            for link in outgoing:
                link.abort()
            await wait_until(lambda: not any(link.up for link in outgoing), "the links are broken")
            await wait_until(lambda: all(link.up for link in outgoing), "the peers are dialled again")

        assert await grown_by(rounds, broken) == {}


@pytest.mark.parametrize("transport", ["inproc", "tcp", "tls"])
async def test_a_peer_that_cannot_be_reached_leaves_nothing(tmp_path: Path, transport: str) -> None:
    """Two kinds: nobody listens there, and the other end hangs up in the handshake."""
    free_closed_transports()
    (closed,) = free_ports(1)
    table = {"tls": Authority(tmp_path).issue("n1")}
    dialler: Transport = Registry.load().build(
        "transport", transport, table if transport == "tls" else {}, TransportContext(asyncio.get_running_loop())
    )

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    rude = server.sockets[0].getsockname()[1]

    async def dial() -> None:
        with pytest.raises(ConnectionLost):
            await dialler.connect(f"127.0.0.1:{closed}", WireClient(), 5.0)
        client = WireClient()
        try:
            await dialler.connect(f"127.0.0.1:{rude}", client, 5.0)
        except ConnectionLost:
            return
        await client.lost.wait()

    assert await grown_by(MANY, dial) == {}
    server.close()


async def test_what_a_node_asks_of_others_for_its_repair_leaves_nothing(tmp_path: Path) -> None:
    async with Cluster(tmp_path, storage="file") as cluster:
        leader = await cluster.wait_leader()
        await leader.apply(b"+1")
        await cluster.wait_equal()
        asking = cluster.followers()[0].maintenance.repairing

        async def ask() -> None:
            await asking._ask_all([NodeId(leader.group.raft.id)])
            assert await asking._request(NodeId(leader.group.raft.id), AskEntries(0, Index(1), Index(2))) is not None

        assert await grown_by(MANY, ask) == {}
