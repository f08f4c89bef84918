"""Transport `tcp`: addresses, socket options and what the operating system refuses."""

from __future__ import annotations

import asyncio
import doctest
import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from wires import Door, Wire

from disheap.errors import AddressInUse, ConfigError, ConnectionLost
from disheap.interfaces import TransportContext
from disheap.testing.sockets import connected
from disheap_tcp import address, sockets
from disheap_tcp.address import Address, parse, parse_remote
from disheap_tcp.link import GATHER_BYTES, Link
from disheap_tcp.options import TcpSettings, tune
from disheap_tcp.tcp import TcpTransport

WAIT_S = 10.0


def transport(**settings: Any) -> TcpTransport:
    return TcpTransport(TcpSettings(**settings), TransportContext(asyncio.get_running_loop()))


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), WAIT_S)


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:8400", "localhost", 8400),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:8400", "::1", 8400),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        (":8300", "", 8300),
        (" n1.example:65535 ", "n1.example", 65535),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, host: str, port: int) -> None:
    assert parse(text) == Address(host, port)
    assert str(parse(text)) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "8400", "localhost", "localhost:", "a:b", "a:65536", "a:-1", "a:²", "::1:8400", "[::1]"]
)
def test_an_unreadable_address_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an address: (write host:port|an IPv6 host goes in brackets)"):
        parse(text)


@pytest.mark.parametrize("text", [":8400", "localhost:0"])
def test_one_cannot_connect_to_everywhere_or_to_port_zero(text: str) -> None:
    with pytest.raises(ConfigError, match="needs a host and a port"):
        parse_remote(text)


def test_the_examples_of_addresses_are_true() -> None:
    assert doctest.testmod(address) == (0, 2)


async def test_ipv6_in_brackets_works_at_both_ends() -> None:
    door, wire = Door(echo=True), Wire()
    listener = await transport().listen("[::1]:0", door)
    assert listener.address.startswith("[::1]:")
    connection = await transport().connect(listener.address, wire, WAIT_S)
    connection.write(b"six")
    await wait(wire.got)
    assert door.wires[0].connection.remote.startswith("[::1]:")
    connection.close()
    await listener.close()


async def test_an_empty_host_listens_on_every_interface_in_both_families() -> None:
    listener = await transport().listen(":0", Door(echo=True))
    port = listener.address.rpartition(":")[2]
    for host in ("127.0.0.1", "[::1]"):
        wire = Wire()
        connection = await transport().connect(f"{host}:{port}", wire, WAIT_S)
        connection.write(b"x")
        await wait(wire.got)
        connection.close()
    await listener.close()


async def test_localhost_listens_on_one_port_in_every_family_it_stands_for() -> None:
    listener = await transport().listen("localhost:0", Door(echo=True))
    assert listener.address.startswith("localhost:")
    port = int(listener.address.rpartition(":")[2])
    families = {family for family, *_ in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    for family in sorted(families):
        with socket.socket(family) as sock:
            sock.connect(("127.0.0.1" if family == socket.AF_INET else "::1", port))
    await listener.close()


# --- what the operating system refuses -------------------------------------------------------------------------------


async def test_a_port_in_use_says_how_to_find_who_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*`ss -ltnp sport = :{port}`"):
            await transport().listen(f"127.0.0.1:{port}", Door())


async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigError, match="this machine has no such address"):
        await transport().listen("192.0.2.1:0", Door())


async def test_a_host_that_does_not_exist_is_said_at_both_ends() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on nowhere\.invalid:1: the host's name cannot be resolved"):
        await transport().listen("nowhere.invalid:1", Door())
    with pytest.raises(ConnectionLost, match=r"nowhere\.invalid:1: the host's name cannot be resolved"):
        await transport().connect("nowhere.invalid:1", Wire(), WAIT_S)
    with pytest.raises(ConnectionLost, match=r"nowhere\.invalid:1: the host's name cannot be resolved"):
        TcpTransport.start_connecting(TcpSettings(), "nowhere.invalid:1")


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EACCES, "ports below 1024 need a privilege"), (errno.ENOMEM, "cannot allocate memory")]
)
async def test_other_refusals_are_said_too(monkeypatch: pytest.MonkeyPatch, number: int, said: str) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sockets, "_bind", refuse)
    with pytest.raises(ConfigError, match=said):
        await transport().listen("127.0.0.1:0", Door())


async def test_nobody_who_accepts_is_a_timeout_that_says_how_long() -> None:
    """A listener whose backlog is full drops what comes, as a host behind a firewall does."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        target = f"127.0.0.1:{full.getsockname()[1]}"
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        wire = Wire()
        with pytest.raises(ConnectionLost, match=r"did not answer within 0\.2 s"):
            await transport().connect(target, wire, 0.2)
        with pytest.raises(ConnectionLost, match=r"no connection within 0\.2 s"):
            connected(TcpTransport.start_connecting(TcpSettings(), target), 0.2)
        assert not wire.made.is_set()
        for filler in fillers:
            filler.close()


# --- options and writing ---------------------------------------------------------------------------------------------


def test_small_frames_leave_at_once_and_a_vanished_host_is_noticed() -> None:
    with socket.socket() as sock:
        tune(sock, TcpSettings(keepalive_s=7, keepalive_probes=4))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        if hasattr(socket, "TCP_KEEPIDLE"):
            options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
            assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [7, 7, 4]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has this option")
def test_a_link_on_which_bytes_vanish_ends_in_time() -> None:
    with socket.socket() as sock:
        tune(sock, TcpSettings(unanswered_ms=7000))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


def test_keepalive_can_be_turned_off() -> None:
    with socket.socket() as sock:
        tune(sock, TcpSettings(keepalive_s=0))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: Any) -> None:
        self.sent.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return SimpleNamespace(family=socket.AF_UNIX) if name == "socket" else default

    def close(self) -> None: ...

    def abort(self) -> None: ...


async def made_link() -> tuple[Link, FakeTransport]:
    link = Link(asyncio.get_running_loop(), Wire, TcpSettings())
    fake = FakeTransport()
    link.connection_made(fake)
    return link, fake


async def test_small_writes_of_one_callback_leave_together() -> None:
    link, fake = await made_link()
    for piece in (b"a", bytearray(b"b"), memoryview(b"c"), b""):
        link.write(piece)
    assert fake.sent == []
    assert link.buffered() == 3
    await asyncio.sleep(0)
    assert fake.sent == [b"abc"]
    assert link.buffered() == 0


async def test_what_was_gathered_can_be_sent_at_once_and_later_writes_leave_too() -> None:
    link, fake = await made_link()
    link.write(b"a")
    link.write_now(b"b")
    assert fake.sent == [b"ab"] and link.buffered() == 0
    link.write(b"c")
    await asyncio.sleep(0)
    assert fake.sent == [b"ab", b"c"]
    link.write(b"d")
    await asyncio.sleep(0)
    assert fake.sent == [b"ab", b"c", b"d"]
    link.write_now(b"e")
    assert fake.sent[3:] == [b"e"]
    link.connection_lost(None)
    link.write_now(b"f")
    assert fake.sent[3:] == [b"e"]


async def test_writes_over_the_gathering_limit_do_not_wait() -> None:
    link, fake = await made_link()
    link.write(b"a")
    link.write(bytes(GATHER_BYTES))
    assert [len(data) for data in fake.sent] == [GATHER_BYTES + 1]
    link.write(b"b")
    await asyncio.sleep(0)
    assert fake.sent[1:] == [b"b"]


async def test_an_accept_that_fails_costs_the_connection_and_nothing_else() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    doors = [Wire(echo=True)]
    listener = await transport().listen("127.0.0.1:0", lambda: doors.pop())
    first, second = Wire(), Wire()
    good = await transport().connect(listener.address, first, WAIT_S)
    good.write(b"one")
    await wait(first.got)
    await transport().connect(listener.address, second, WAIT_S)
    await wait(second.lost)
    first.got.clear()
    good.write(b"two")
    await wait(first.got)
    assert first.data == b"onetwo"
    assert isinstance(reported[0]["exception"], IndexError)
    good.close()
    await listener.close()
