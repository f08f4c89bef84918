"""What a client should not send: each gets its reason and loses its own connection, and nothing else happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.memory import peak_bytes
from tests.support.nodes import Cluster
from tests.support.wire import WireClient, wait_until

from disheap.config.node_config import Limits
from disheap.errors import AddressInUse, UnsafeListen
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Fault, Flags, Kind, SessionOptions, Status
from disheap.protocol.handshake import Hello
from disheap.runtime.clients import connection
from disheap.testing.inspected import InspectedMember as Node

SMALL = Limits(
    frame_bytes=65_536, entry_bytes=16_384, gather_bytes=131_072, handshake_timeout_s=0.2, connections=8,
    reserved_connections=0,
)  # fmt: skip


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, nodes=1, limits=SMALL) as cluster:
        yield cluster


@pytest.fixture
async def bystander(cluster: Cluster) -> AsyncIterator[WireClient]:
    """A client that has done nothing wrong, and that everything still works for afterwards."""
    client = await cluster.client()
    await client.call(b"+1")
    yield client
    assert (await client.call(b"+1"))[0] == Status.OK
    assert not client.lost.is_set()


async def raw(cluster: Cluster) -> WireClient:
    client = WireClient()
    await cluster.transport.connect(cluster.nodes["n1"].client_address, client, 5)
    return client


HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
OTHER_VERSION = handshake.hello(Kind.HELLO, Hello(), handshake.Versions(999, 1002))
VERSION_1 = frames.plain(Kind.HELLO, b"disheap\x01\x00\x81\xa6client\xa2me")


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        (HTTP, "frame-too-large", "does not speak the disheap protocol"),
        (frames.plain(Kind.HELLO, b"HTTP/1.1 and so on"), "malformed-frame", "does not speak the disheap protocol"),
        (OTHER_VERSION, "wrong-version", "speaks protocol versions 999 to 1002, this one version 2"),
        (VERSION_1, "wrong-version", "speaks protocol version 1, this one version 2"),
        (handshake.hello(Kind.HELLO, Hello(group=7)), "unknown-group", "no group 7; it has 0"),
        (handshake.hello(Kind.HELLO, Hello(mechanism="scram")), "unknown-mechanism", "has anonymous, external"),
        (handshake.hello(Kind.HELLO, Hello(mechanism="external")), "credentials-refused", "has none; connect with TLS"),
        (handshake.hello(Kind.HELLO, Hello(credentials=b"x")), "credentials-refused", "takes no credentials"),
        (frames.plain(Kind.PING), "malformed-frame", "not a HELLO"),
        (b"\x00\x00\x00\x00", "malformed-frame", "too short"),
        (b"\xff\xff\xff\xff", "frame-too-large", "at most 4096 bytes"),
        (handshake.hello(Kind.HELLO, Hello(cluster_id="f" * 16)), "wrong-cluster", "belongs to cluster"),
        (frames.plain(Kind.HELLO, b"disheap\x02\x00\x02\x00\xc1\xc1"), "malformed-frame", "cannot be read"),
    ],
)
async def test_a_bad_first_frame_is_refused_with_its_reason(
    cluster: Cluster, bystander: WireClient, sent: bytes, code: str, says: str
) -> None:
    client = await raw(cluster)
    client.connection.write(sent)
    goodbye = await client.goodbye()
    assert goodbye.code == code
    assert says in goodbye.message


async def test_a_client_that_says_nothing_is_not_waited_for(cluster: Cluster, bystander: WireClient) -> None:
    goodbye = await (await raw(cluster)).goodbye()
    assert "no HELLO within 0.2 s" in goodbye.message


async def test_connections_beyond_the_limit_are_refused(cluster: Cluster, bystander: WireClient) -> None:
    others = [await WireClient.connected(cluster.transport, cluster.nodes["n1"].client_address) for _ in range(7)]
    goodbye = await (await raw(cluster)).goodbye()
    assert goodbye.code == "limit-reached"
    others[0].close()
    await others[0].lost.wait()
    await WireClient.connected(cluster.transport, cluster.nodes["n1"].client_address)


def _options() -> bytes:
    return msgspec.msgpack.encode(SessionOptions(5000))


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        (frames.envelope(Kind.COMMAND, 0, 4711, 1, 0, b"+1"), "malformed-frame", "not attached"),
        (frames.envelope(Kind.COMMAND, 0, 0, 1, 0, b"+1"), "malformed-frame", "not attached"),
        (frames.envelope(Kind.EXPIRE, 0, 1, 1, 0), "malformed-frame", "do not come from clients"),
        (frames.envelope(Kind.RAISE_VERSION, 0, 0, 0, 0, b"\x09"), "malformed-frame", "do not come from clients"),
        (frames.envelope(Kind.NODE_COMMAND, 0, 0, 7, 0, b"+1"), "malformed-frame", "do not come from clients"),
        (frames.plain(200), "malformed-frame", "kind 200"),
        (frames.envelope(Kind.OPEN, 0, 0, 1, 0, b"\xc1"), "malformed-frame", "OPEN that cannot be read"),
        (frames.plain(Kind.QUERY, b"x"), "malformed-frame", "shorter than its header"),
        (frames.envelope(Kind.CLOSE, 0, 9, 1, 0), "malformed-frame", "one session"),
        ((70_000).to_bytes(4, "little") + b"\x01\x00" + bytes(30), "frame-too-large", "limits.frame_bytes"),
        ((1).to_bytes(4, "little") + bytes(30), "malformed-frame", "too short"),
    ],
)
async def test_a_bad_frame_after_the_handshake_is_refused_with_its_reason(
    cluster: Cluster, bystander: WireClient, sent: bytes, code: str, says: str
) -> None:
    client = await WireClient.connected(cluster.transport, cluster.nodes["n1"].client_address)
    client.connection.write(sent)
    goodbye = await client.goodbye()
    assert goodbye.code == code
    assert says in goodbye.message


@pytest.mark.parametrize(
    ("seq", "flags", "says"), [(0, 0, "sequence numbers begin at 1"), (5, Flags.TRANSIENT, "sequence numbers")]
)
async def test_a_command_with_a_number_that_does_not_fit_its_flags_is_refused(
    cluster: Cluster, bystander: WireClient, seq: int, flags: int, says: str
) -> None:
    client = await cluster.client()
    client.send(b"+1", seq, flags=flags)
    assert says in (await client.goodbye()).message


async def test_a_command_that_confirms_itself_is_refused(cluster: Cluster, bystander: WireClient) -> None:
    """It would count as one that was answered before, and with a large enough number every later one, too."""
    client = await cluster.client()
    client.send(b"+1", seq=2, confirmed=2)
    assert "its own among them" in (await client.goodbye()).message


@pytest.mark.parametrize("confirmed", [5, (1 << 64) - 1])
async def test_a_transient_command_confirms_no_command_that_is_still_to_come(
    cluster: Cluster, bystander: WireClient, confirmed: int
) -> None:
    client = await cluster.client()
    client.send(b"+1", seq=0, flags=Flags.TRANSIENT, confirmed=confirmed)
    assert (await client.call(b"+1", seq=1))[0] == Status.OK


async def test_a_second_session_on_one_connection_is_refused(cluster: Cluster, bystander: WireClient) -> None:
    client = await cluster.client()
    client.connection.write(frames.envelope(Kind.OPEN, 0, 0, 2, 0, _options()))
    assert "one session" in (await client.goodbye()).message


async def test_a_command_unknown_to_the_machine_is_answered_and_the_connection_stays(
    cluster: Cluster, bystander: WireClient
) -> None:
    client = await cluster.client()
    status, body = await client.call(b"what?")
    assert (status, msgspec.msgpack.decode(body, type=Fault).code) == (Status.ERROR, "unknown-command")
    assert (await client.call(b"+1"))[0] == Status.OK


async def test_a_query_that_the_machine_does_not_know_is_answered(cluster: Cluster, bystander: WireClient) -> None:
    client = await cluster.client()
    status, body = await client.query(b"what?")
    assert (status, msgspec.msgpack.decode(body, type=Fault).code) == (Status.ERROR, "unknown-command")


@pytest.mark.parametrize("body", [b"\xc1", b"\x01", msgspec.msgpack.encode({"op": "explode"}), b""])
async def test_an_admin_request_that_cannot_be_read_is_answered(
    cluster: Cluster, bystander: WireClient, body: bytes
) -> None:
    client = await WireClient.connected(cluster.transport, cluster.nodes["n1"].client_address)
    status, answer = await client.query(body, Kind.ADMIN)
    assert (status, msgspec.msgpack.decode(answer, type=Fault).code) == (Status.ERROR, "invalid-argument")


async def test_commands_before_a_bad_frame_in_the_same_chunk_are_carried_out(cluster: Cluster) -> None:
    client = await cluster.client()
    good = frames.envelope(Kind.COMMAND, 0, client.session, 1, 0, b"+7")
    client.connection.write(good + frames.plain(200) + b"rubbish behind it")
    await client.goodbye()
    other = await cluster.client()
    assert await other.query(b"total") == (Status.OK, b"7")


async def test_frames_cut_at_every_byte_are_put_together_again(cluster: Cluster, bystander: WireClient) -> None:
    client = await cluster.client()
    stream = b"".join(frames.envelope(Kind.COMMAND, 0, client.session, seq, 0, b"+1") for seq in (1, 2))
    for byte in stream + frames.plain(Kind.PING):
        client.connection.write(bytes([byte]))
    await client.frame(Kind.PONG)
    assert (await client.reply_to(2))[1] == Status.OK


async def test_a_piece_of_a_long_command_costs_no_copy_of_the_pieces_before_it(tmp_path: Path) -> None:
    size, piece = 32 << 20, bytes(64 << 10)
    async with Cluster(tmp_path, nodes=1, limits=Limits(frame_bytes=2 * size, gather_bytes=2 * size)) as cluster:
        client = await cluster.client()
        (port,) = cluster.nodes["n1"].clients._connections
        command = frames.envelope(Kind.COMMAND, 0, client.session, 1, 0, b"+1" + bytes(size))
        port.data_received(command[: size // 2])
        port.data_received(piece)
        assert peak_bytes(lambda: port.data_received(piece)) < size // 8
        port.data_received(command[size // 2 + 2 * len(piece) :])
        assert (await client.reply_to(1))[1] == Status.ERROR, "the machine, which knows no such command, was given it"


async def test_a_session_is_attached_with_its_secret_alone(cluster: Cluster) -> None:
    first, node = await cluster.client(), cluster.nodes["n1"]
    assert (await first.call(b"+1"))[0] == Status.OK
    stranger = await WireClient.connected(cluster.transport, node.client_address)
    for guess in (b"", bytes(16), first.secret[::-1]):
        status, body = await stranger.attach(first.session, guess)
        assert (status, msgspec.msgpack.decode(body, type=Fault).code) == (Status.ERROR, "wrong-secret")
    assert (await first.call(b"+1"))[0] == Status.OK, "the first client notices nothing"
    assert (await node.status())["counters"]["disheap_wrong_secrets_total"] == 3
    other = await cluster.client()
    assert other.secret != first.secret


async def test_a_session_attached_elsewhere_leaves_its_first_connection(cluster: Cluster) -> None:
    first = await cluster.client()
    second = await WireClient.connected(cluster.transport, cluster.nodes["n1"].client_address)
    assert (await second.attach(first.session, first.secret))[0] == Status.OK
    assert (await first.goodbye()).code == "session-expired"
    assert (await second.call(b"+1", seq=1))[0] == Status.OK


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rubbish=st.binary(min_size=1, max_size=200), greeted=st.booleans())
async def test_no_rubbish_ends_the_node(cluster: Cluster, rubbish: bytes, greeted: bool) -> None:
    if greeted:
        client = await WireClient.connected(cluster.transport, cluster.nodes["n1"].client_address)
    else:
        client = await raw(cluster)
    client.connection.write(rubbish)
    client.close()
    await client.lost.wait()
    node = cluster.nodes["n1"]
    assert node.failure is None
    assert await node.query(b"total") == b"%d" % int(await node.query(b"total"))


async def test_a_client_that_does_not_read_is_cut_off_and_costs_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD_S", 0.5)
    limits = Limits(frame_bytes=65_536, gather_bytes=131_072, write_buffer_bytes=16_384)
    async with Cluster(tmp_path, nodes=1, limits=limits) as cluster:
        client = await cluster.client()
        client.connection.pause_reading()
        for seq in range(1, 8000):
            client.send(b"+1", seq)
        node = cluster.nodes["n1"]
        await wait_until(lambda: not any(s.attachment for s in node.group.sessions.table.values()), "cut off")
        assert node.failure is None


async def test_an_address_in_use_is_named(tmp_path: Path, cluster: Cluster) -> None:
    with pytest.raises(AddressInUse, match="n1:8400"):
        await Cluster(tmp_path / "other", nodes=1, limits=SMALL).__aenter__()


async def test_listening_beyond_loopback_in_the_clear_is_refused(tmp_path: Path) -> None:
    addresses = [("0.0.0.0:0", "0.0.0.0:0")]
    with pytest.raises(UnsafeListen, match="insist with --insecure"):
        await Cluster(tmp_path, nodes=1, transport="tcp", addresses=addresses).__aenter__()


@pytest.mark.parametrize(
    "addresses", [[("127.0.0.1:0", "0.0.0.0:0")], [("0.0.0.0:0", "127.0.0.1:0"), ("127.0.0.1:3", "127.0.0.1:4")]]
)
async def test_an_unsafe_address_is_refused_before_anything_is_made(
    tmp_path: Path, addresses: list[tuple[str, str]]
) -> None:
    config = Cluster(tmp_path, nodes=len(addresses), transport="tcp", storage="file", addresses=addresses).configs["n1"]
    with pytest.raises(UnsafeListen):
        await Node(config).start()
    assert list(tmp_path.iterdir()) == []
