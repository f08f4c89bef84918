"""Transport `tls`: both ends prove who they are; who cannot is refused, with a reason."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from wires import Door, Wire

from disheap.errors import ConfigError, ConnectionLost
from disheap.interfaces import TransportContext
from disheap.testing.certificates import LOOPBACK, Authority
from disheap.testing.sockets import connected
from disheap_tcp.listener import TlsListener
from disheap_tcp.options import TcpSettings
from disheap_tcp.tcp import TcpTransport
from disheap_tcp.tls import TlsTransport
from disheap_tcp.trust import TlsSettings, explain, explain_lost

WAIT_S = 10.0
EXPIRED = timedelta(days=-1)
TWENTY_BYTES = b"\x16\x03\x01\x02\x00\x01" + bytes(14)
"""How a handshake begins."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "another authority")


def transport(files: dict[str, str], **settings: Any) -> TlsTransport:
    return TlsTransport(TlsSettings(**{**files, **settings}), TransportContext(asyncio.get_running_loop()))


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), WAIT_S)


async def wait_until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():
            await asyncio.sleep(0.001)


async def wait_refusal(caplog: pytest.LogCaptureFixture) -> str:
    async with asyncio.timeout(WAIT_S):
        while not caplog.messages:
            await asyncio.sleep(0.001)
    return caplog.messages[0]


async def test_both_ends_know_the_name_that_the_other_proved(authority: Authority) -> None:
    door, wire = Door(echo=True), Wire()
    listener = await transport(authority.issue("n1")).listen("127.0.0.1:0", door)
    connection = await transport(authority.issue("n2")).connect(listener.address, wire, WAIT_S)
    connection.write(b"hello")
    await wait(wire.got)
    assert connection.certificate_names == ("n1", *LOOPBACK)
    assert door.wires[0].connection.certificate_names == ("n2", *LOOPBACK)
    connection.close()
    await wait(door.wires[0].lost)
    await listener.close()


async def test_a_certificate_without_dns_names_goes_by_its_common_name(authority: Authority) -> None:
    wire = Wire()
    listener = await transport(authority.issue("", ["127.0.0.1"])).listen("127.0.0.1:0", Door())
    connection = await transport(authority.issue("n2")).connect(listener.address, wire, WAIT_S)
    assert connection.certificate_names == ("nobody", "127.0.0.1")
    connection.close()
    await listener.close()


@pytest.mark.parametrize("hosts", [[], ["::1", "10.0.0.1"]])
async def test_a_certificate_without_a_name_goes_by_its_addresses(authority: Authority, hosts: list[str]) -> None:
    """Which is not the same as no certificate."""
    door, wire = Door(echo=True), Wire()
    listener = await transport(authority.issue("n1")).listen("127.0.0.1:0", door)
    connection = await transport(authority.issue_nameless(hosts)).connect(listener.address, wire, WAIT_S)
    connection.write(b"hello")
    await wait(wire.got)
    assert door.wires[0].connection.certificate_names == tuple(hosts)
    connection.close()
    await listener.close()


# --- servers that a client refuses -----------------------------------------------------------------------------------


async def refused_server(server: dict[str, str], client: dict[str, str], said: str, **settings: Any) -> None:
    door, wire = Door(), Wire()
    listener = await transport(server).listen("127.0.0.1:0", door)
    with pytest.raises(ConnectionLost, match=said):
        await transport(client, **settings).connect(listener.address, wire, WAIT_S)
    with pytest.raises(ConnectionLost, match=said):
        pending = TlsTransport.start_connecting(TlsSettings(**{**client, **settings}), listener.address)
        await asyncio.to_thread(connected, pending, WAIT_S)
    assert not wire.made.is_set()
    assert door.wires == []
    await listener.close()


async def test_a_client_refuses_a_server_of_an_unknown_authority(authority: Authority, stranger: Authority) -> None:
    said = r"certificate is refused: .*authority is unknown here; compare cafile"
    await refused_server(stranger.issue("n1"), authority.issue("n2"), said)


async def test_a_client_refuses_an_expired_server(authority: Authority) -> None:
    said = r"certificate is refused: certificate has expired; renew it"
    await refused_server(authority.issue("n1", valid_for=EXPIRED), authority.issue("n2"), said)


async def test_a_client_refuses_a_server_of_another_name(authority: Authority) -> None:
    said = r"certificate is refused: .*connect by a name in it, or set server_name"
    await refused_server(authority.issue("n1", ["10.9.8.7"]), authority.issue("n2"), said)
    await refused_server(authority.issue("n1"), authority.issue("n2"), said, server_name="n9")


async def test_server_name_stands_in_for_the_host_of_the_address(authority: Authority) -> None:
    wire = Wire()
    listener = await transport(authority.issue("n1", ["10.9.8.7"])).listen("127.0.0.1:0", Door())
    client = transport(authority.issue("n2"), server_name="n1")
    connection = await client.connect(listener.address, wire, WAIT_S)
    assert connection.certificate_names == ("n1", "10.9.8.7")
    connection.close()
    await listener.close()


async def test_a_client_says_when_the_server_speaks_no_tls(authority: Authority) -> None:
    context = TransportContext(asyncio.get_running_loop())
    listener = await TcpTransport(TcpSettings(), context).listen("127.0.0.1:0", Door(echo=True))
    with pytest.raises(ConnectionLost, match="the other side does not speak TLS; both sides need transport tls"):
        await transport(authority.issue("n2")).connect(listener.address, Wire(), WAIT_S)
    await listener.close()


async def test_a_client_gives_up_on_a_server_that_says_nothing(authority: Authority) -> None:
    context = TransportContext(asyncio.get_running_loop())
    door, wire = Door(), Wire()
    listener = await TcpTransport(TcpSettings(), context).listen("127.0.0.1:0", door)
    client = authority.issue("n2")
    with pytest.raises(ConnectionLost, match=r"did not answer within 0\.2 s|handshake is taking longer"):
        await transport(client).connect(listener.address, wire, 0.2)
    with pytest.raises(ConnectionLost, match=r"no connection within 0\.2 s"):
        await asyncio.to_thread(connected, TlsTransport.start_connecting(TlsSettings(**client), listener.address), 0.2)
    assert not wire.made.is_set()
    await wait(door.wires[0].lost)
    await listener.close()


# --- clients that a server refuses -----------------------------------------------------------------------------------


async def refused_client(
    server: dict[str, str], client: dict[str, str], caplog: pytest.LogCaptureFixture, said: str
) -> None:
    door, wire = Door(), Wire()
    listener = await transport(server).listen("127.0.0.1:0", door)
    with caplog.at_level(logging.WARNING, "disheap.disheap_tcp.listener"):
        await transport(client).connect(listener.address, wire, WAIT_S)  # TLS 1.3: through before it is judged
        await wait(wire.lost)
        assert said in await wait_refusal(caplog)
    assert isinstance(wire.error, ConnectionLost)
    assert "certificate" in str(wire.error)
    assert door.wires == []
    await listener.close()


async def test_a_server_refuses_a_client_of_an_unknown_authority(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    client = {**stranger.issue("n2"), "cafile": str(authority.cafile)}
    await refused_client(authority.issue("n1"), client, caplog, "its authority is unknown here; compare cafile")


async def test_a_server_refuses_an_expired_client(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    client = authority.issue("n2", valid_for=EXPIRED)
    await refused_client(authority.issue("n1"), client, caplog, "certificate has expired; renew it")


async def talk(address: str, sent: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    async with asyncio.timeout(WAIT_S):
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"\x00\x01\x00\x00not tls", "does not speak TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "speaks HTTP; this port needs TLS"),
    ],
)
async def test_a_plain_client_on_a_tls_port_is_refused_and_said(
    authority: Authority, caplog: pytest.LogCaptureFixture, sent: bytes, said: str
) -> None:
    door = Door()
    listener = await transport(authority.issue("n1")).listen("127.0.0.1:0", door)
    with caplog.at_level(logging.WARNING, "disheap.disheap_tcp.listener"):
        await talk(listener.address, sent)
        assert said in await wait_refusal(caplog)
    assert door.wires == []
    await listener.close()


async def test_a_client_without_a_certificate_is_refused(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door()
    listener = await transport(authority.issue("n1")).listen("localhost:0", door)
    context = ssl.create_default_context(cafile=str(authority.cafile))
    host, _, port = listener.address.rpartition(":")
    with caplog.at_level(logging.WARNING, "disheap.disheap_tcp.listener"):
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        assert "the client has no certificate" in await wait_refusal(caplog)
        writer.transport.abort()
    assert door.wires == []
    await listener.close()


async def test_tls_1_2_is_refused(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    listener = await transport(authority.issue("n1")).listen("localhost:0", Door())
    context = ssl.create_default_context(cafile=str(authority.cafile))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host, _, port = listener.address.rpartition(":")
    with caplog.at_level(logging.WARNING, "disheap.disheap_tcp.listener"):
        with pytest.raises(OSError):  # a reset, or TLS's own alert
            await asyncio.open_connection(host, int(port), ssl=context)
        assert "speaks no TLS 1.3" in await wait_refusal(caplog)
    await listener.close()


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_who_says_nothing_is_closed_after_the_handshake_timeout(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    listener = await transport(authority.issue("n1"), handshake_timeout_s=0.1).listen("127.0.0.1:0", Door())
    with caplog.at_level(logging.WARNING, "disheap.disheap_tcp.listener"):
        assert await talk(listener.address, b"") == b""
        assert "'remote': '127.0.0.1:" in await wait_refusal(caplog)
    await listener.close()


async def test_more_handshakes_than_allowed_wait_their_turn(authority: Authority) -> None:
    door, wire = Door(), Wire()
    server = transport(authority.issue("n1"), handshakes=1, handshake_timeout_s=0.2)
    listener = await server.listen("127.0.0.1:0", door)
    host, _, port = listener.address.rpartition(":")
    _, slow = await asyncio.open_connection(host, int(port))
    slow.write(b"\x16\x03\x01")  # the first bytes of a handshake, and no more
    await wait_until(lambda: _handshakes(listener) == 1)
    started = asyncio.get_running_loop().time()
    connection = await transport(authority.issue("n2")).connect(listener.address, wire, WAIT_S)
    assert asyncio.get_running_loop().time() - started >= 0.1
    connection.close()
    slow.close()
    await listener.close()


def _handshakes(listener: TlsListener) -> int:
    return sum(guest.link is not None for guest in listener._guests)


def _silent(listener: TlsListener) -> int:
    return sum(guest.link is None for guest in listener._guests)


async def test_of_more_connections_than_allowed_the_oldest_that_says_nothing_goes(authority: Authority) -> None:
    """They took every place for as long as a handshake may take, and kept the members out."""
    wire = Wire()
    listener = await transport(authority.issue("n1"), handshakes=4).listen("127.0.0.1:0", Door())
    host, _, port = listener.address.rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(12)]
    await wait_until(lambda: _silent(listener) == 4)
    connection = await transport(authority.issue("n2")).connect(listener.address, wire, WAIT_S)
    for reader, _ in silent[:9]:
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
    assert _silent(listener) == 3, "only as many as there was no place for"
    connection.close()
    await listener.close()
    for reader, writer in silent[9:]:
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b"", "they go with the listener"
        writer.close()


async def test_a_handshake_that_has_stalled_gives_its_place_to_the_next(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first bytes of a handshake, and no more: they kept the place until the handshake timed out."""
    monkeypatch.setattr("disheap_tcp.listener.SLOW_S", 0.05)
    listener = await transport(authority.issue("n1"), handshakes=4).listen("127.0.0.1:0", Door())
    host, _, port = listener.address.rpartition(":")
    slow = [await asyncio.open_connection(host, int(port)) for _ in range(12)]
    for _, writer in slow:
        writer.write(TWENTY_BYTES)
    await wait_until(lambda: _handshakes(listener) == 4)
    async with asyncio.timeout(WAIT_S):  # half of a handshake's own timeout would do
        connection = await transport(authority.issue("n2")).connect(listener.address, Wire(), WAIT_S)
    connection.close()
    for _, writer in slow:
        writer.close()
    await listener.close()


async def test_thirty_strangers_a_second_keep_no_newcomer_out(authority: Authority) -> None:
    """With the settings as they are. Each newcomer gets in within a second."""
    loop = asyncio.get_running_loop()
    listener = await transport(authority.issue("n1")).listen("127.0.0.1:0", Door())
    host, _, port = listener.address.rpartition(":")
    strangers: list[asyncio.StreamWriter] = []

    async def flood() -> None:
        while True:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(TWENTY_BYTES)
            strangers.append(writer)
            await asyncio.sleep(1 / 30)

    flooding = asyncio.create_task(flood())
    client = transport(authority.issue("n2"))
    await wait_until(lambda: len(strangers) > 80)  # 64 were enough
    for _ in range(5):
        started = loop.time()
        connection = await client.connect(listener.address, Wire(), WAIT_S)
        assert loop.time() - started < 1.0
        connection.close()
    flooding.cancel()
    await listener.close()
    for writer in strangers:
        writer.close()


async def test_one_address_keeps_few_places_with_handshakes_that_stalled(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("disheap_tcp.listener.SILENCE_S", 0.0)
    server = transport(authority.issue("n1"), handshakes=100, handshakes_per_address=3)
    listener = await server.listen("127.0.0.1:0", Door())
    host, _, port = listener.address.rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(10)]
    for reader, _ in silent[:7]:
        assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
    assert _silent(listener) == 3
    for _, writer in silent:
        writer.close()
    await listener.close()


async def test_refusals_of_a_flood_are_counted_and_few_are_written(
    authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("disheap.logs.INTERVAL_S", 0.2)
    listener = await transport(authority.issue("n1")).listen("127.0.0.1:0", Door())
    with caplog.at_level(logging.WARNING, "disheap.disheap_tcp.listener"):
        for _ in range(50):
            await talk(listener.address, b"x" * 20)
        await wait_until(lambda: "left_out" in caplog.text)
    await listener.close()
    assert len(caplog.records) < 50


async def test_many_who_speak_at_once_are_all_let_in(authority: Authority) -> None:
    """As after a failover: nobody is taken for silent whose first bytes are there."""
    listener = await transport(authority.issue("n1"), handshakes=2).listen("127.0.0.1:0", Door())
    client = transport(authority.issue("n2"))
    links = await asyncio.gather(*(client.connect(listener.address, Wire(), WAIT_S) for _ in range(20)))
    assert all(link.certificate_names == ("n1", *LOOPBACK) for link in links)
    for link in links:
        link.close()
    await listener.close()


async def test_closing_a_listener_ends_the_handshakes_under_way(authority: Authority) -> None:
    listener = await transport(authority.issue("n1")).listen("127.0.0.1:0", Door())
    host, _, port = listener.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await asyncio.sleep(0)
    await listener.close()
    async with asyncio.timeout(WAIT_S):
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
    writer.close()
    assert [task for task in asyncio.all_tasks() if "_shake" in repr(task) or "_accept" in repr(task)] == []


async def test_running_out_of_descriptors_is_waited_out(
    authority: Authority, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, [OSError(24, "Too many open files")]

    async def short_of_descriptors(sock: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return await accept(sock)

    monkeypatch.setattr(loop, "sock_accept", short_of_descriptors)
    monkeypatch.setattr("disheap_tcp.listener.ACCEPT_RETRY_S", 0.01)
    wire = Wire()
    with caplog.at_level(logging.ERROR, "disheap.disheap_tcp.listener"):
        listener = await transport(authority.issue("n1")).listen("127.0.0.1:0", Door())
        connection = await transport(authority.issue("n2")).connect(listener.address, wire, WAIT_S)
    assert "Too many open files" in caplog.text
    connection.close()
    await listener.close()


# --- files -----------------------------------------------------------------------------------------------------------


async def test_files_that_cannot_be_used_are_named_before_anything_starts(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    good = authority.issue("n1")
    junk = tmp_path / "junk.pem"
    junk.write_text("this is no certificate")
    for changed, said in (
        ({"cafile": "/nowhere/ca.pem"}, r"cafile = /nowhere/ca\.pem cannot be used: no such file"),
        ({"certfile": "/nowhere/n1.pem"}, r"certfile = /nowhere/n1\.pem .* cannot be used: no such file"),
        ({"cafile": str(junk)}, r"cafile = .*junk\.pem cannot be used: it is not PEM, or damaged"),
        ({"certfile": str(junk)}, r"certfile = .*junk\.pem .* cannot be used: it is not PEM, or damaged"),
        ({"keyfile": stranger.issue("x")["keyfile"]}, r"the key does not belong to the certificate"),
    ):
        with pytest.raises(ConfigError, match=said):
            transport({**good, **changed})


@pytest.mark.parametrize(("mode", "word"), [(0o644, "read"), (0o640, "read"), (0o620, "change")])
async def test_a_key_that_others_can_read_is_refused(authority: Authority, mode: int, word: str) -> None:
    files = authority.issue("n1")
    Path(files["keyfile"]).chmod(mode)
    with pytest.raises(ConfigError, match=rf"{word} it, and act as its holder. Run `chmod 600 {files['keyfile']}`"):
        transport(files)
    transport(files, shared_keyfile=True)
    Path(files["keyfile"]).chmod(0o400)
    transport(files)


async def test_new_connections_use_the_files_as_they_are_after_a_reload(authority: Authority, tmp_path: Path) -> None:
    used = {key: str(tmp_path / key) for key in ("cafile", "certfile", "keyfile")}
    Path(used["keyfile"]).touch(mode=0o600)

    def put(files: dict[str, str]) -> None:
        for key, file in files.items():
            Path(used[key]).write_bytes(Path(file).read_bytes())

    put(authority.issue("before"))
    door, server = Door(), transport(used)
    listener = await server.listen("127.0.0.1:0", door)
    client = transport(authority.issue("client"))
    old = await client.connect(listener.address, Wire(), WAIT_S)
    put(authority.issue("after"))
    server.reload()
    new = await client.connect(listener.address, Wire(), WAIT_S)
    assert (old.certificate_names[0], new.certificate_names[0]) == ("before", "after")
    Path(used["certfile"]).write_text("no certificate")
    with pytest.raises(ConfigError):
        server.reload()
    again = await client.connect(listener.address, Wire(), WAIT_S)
    assert again.certificate_names == ("after", *LOOPBACK), "what cannot be used leaves the old one in use"
    dialled = await server.connect(listener.address, Wire(), WAIT_S)
    for link in (old, new, again, dialled):
        link.close()
    await listener.close()


async def test_an_encrypted_key_is_refused_and_never_asks_at_the_terminal(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    good = authority.issue("n1")
    key = serialization.load_pem_private_key(Path(good["keyfile"]).read_bytes(), None)
    sealed = tmp_path / "sealed.key"
    sealed.touch(mode=0o600)
    sealed.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigError, match="keyfile is encrypted"):
        transport({**good, "keyfile": str(sealed)})


def test_errors_that_are_not_of_tls_are_the_operating_systems_words() -> None:
    assert explain(OSError(113, "No route to host")) == "no route to host"
    assert "may speak no TLS" in explain(ConnectionResetError(104, "Connection reset by peer"))
    assert explain_lost(BrokenPipeError(32, "Broken pipe")).startswith("broken pipe; right after connecting")
