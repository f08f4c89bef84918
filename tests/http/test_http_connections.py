"""HTTP connections: what is malformed, huge, slow or too much is answered, ended, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from disheap.cli.processes.loops import free_closed_transports
from disheap.errors import AddressInUse, ConfigError, UnsafeListen
from disheap.testing.certificates import Authority
from disheap.testing.conformance.test_service import Context
from disheap_http.connection import HttpConnection
from disheap_http.listeners import Listeners
from disheap_http.pages import NodePages, Site
from disheap_http.service import HttpService
from disheap_http.settings import HttpSettings
from tests.http.serving import browsing, get, port, serving
from tests.support.leftovers import ROUNDS_MIN, grown_by

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


async def test_one_connection_takes_many_requests_also_at_once() -> None:
    async with serving() as service, browsing(service) as browser:
        for _ in range(3):
            assert (await browser.get("/health")).json == {"status": "ok", "node": "n1"}
        browser.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert [(await browser.read()).status for _ in range(2)] == [200, 404]


async def test_head_has_the_headers_alone() -> None:
    async with serving() as service, browsing(service) as browser:
        answer = await browser.get("/health", method="HEAD")
        assert (answer.status, answer.body, int(answer.headers["content-length"]) > 10) == (200, b"", True)
        assert (await browser.get("/health")).status == 200, "the connection is still in step"


async def test_nothing_is_kept_by_caches_or_guessed_by_browsers() -> None:
    async with serving() as service:
        headers = (await get(service, "/health")).headers
    assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
    assert headers["content-type"] == "application/json" and "server" not in headers


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", 413),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"name: value\r\n" * 4000 + b"\r\n", 431),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        (b"DELETE /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405),
        (b"GET /%00%ff?a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (b"GET /ready?x=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /ready?%ff=%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /raft/status?group=99 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /raft/status?group=0&group=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
    ],
)
async def test_a_request_that_is_wrong_is_told_so(sent: bytes, status: int) -> None:
    async with serving() as service, browsing(service) as browser:
        browser.send(sent)
        answer = await browser.read()
        assert (answer.status, "error" in answer.json) == (status, status != 200)
        if status in (400, 413, 431) and b"Connection" not in sent:
            assert await browser.is_closed()


async def test_a_wrong_method_says_which_are_right() -> None:
    async with serving() as service:
        assert (await get(service, "/health", method="PUT")).headers["allow"] == "get, head"


async def test_a_request_that_does_not_end_is_given_up() -> None:
    async with serving(request_timeout_s=0.05) as service:
        async with browsing(service) as browser:
            browser.send("GET /health HTTP/1.1\r\nHost: local")
            assert (await browser.read()).status == 408
            assert await browser.is_closed()
        async with browsing(service) as browser:
            assert await browser.is_closed(), "one that says nothing is closed without a word"


class Endless(Context):
    """Its status never comes, as with a disk that hangs; or is large."""

    size = 0

    async def status(self, group: int = 0) -> dict[str, Any]:
        if not self.size:
            await asyncio.Event().wait()
        return {"much": "x" * self.size}


async def test_an_answer_that_takes_too_long_ends_with_its_connection() -> None:
    async with serving(Endless(), request_timeout_s=0.05) as service, browsing(service) as browser:
        browser.send("GET /raft/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await browser.is_closed()
        assert service.connections() == 0


async def test_a_status_that_hangs_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disheap_http.pages.STATUS_S", 0.01)
    async with serving(Endless()) as service:
        answer = await get(service, "/raft/status")
        assert answer.status == 503 and "did not answer in time" in answer.json["error"]


async def test_a_client_that_does_not_read_is_cut_off_and_holds_little() -> None:
    context = Endless()
    context.size = 32 << 20
    async with serving(context, request_timeout_s=0.2) as service, browsing(service) as browser:
        browser.writer.transport.pause_reading()  # type: ignore[attr-defined]
        browser.send("GET /raft/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(5):
            while not service.connections():
                await asyncio.sleep(0)
            while service.connections():
                await asyncio.sleep(0.01)


async def test_the_longest_idle_connection_gives_way() -> None:
    async with serving(connections=2) as service, browsing(service) as first, browsing(service) as second:
        assert (await first.get("/health")).status == (await second.get("/health")).status == 200
        assert (await get(service, "/health")).status == 200
        assert await first.is_closed()
        assert (await second.get("/health")).status == 200


async def test_one_connection_too_many_is_refused_while_all_are_busy() -> None:
    async with serving(Endless(), connections=1) as service, browsing(service) as busy:
        busy.send("GET /raft/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not service.connections():
            await asyncio.sleep(0)
        async with browsing(service) as refused:
            assert (await refused.read()).status == 503
            assert await refused.is_closed()
        assert service.connections() == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8080", 200), ("[::1]", 200), ("LOCALHOST:1", 200), ("evil.example", 421), ("127.0.0.1.evil.com", 421)],
)
async def test_a_loopback_address_serves_no_other_name(host: str, status: int) -> None:
    """A page of evil.example whose name points to 127.0.0.1 must not read what is here."""
    async with serving() as service:
        assert (await get(service, "/health", host=host)).status == status


@pytest.mark.parametrize("loop", LOOPS)
def test_no_request_leaves_work_for_the_garbage_collector(loop: str) -> None:
    """A node runs without one."""
    requests = [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /no HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /raft/status?group=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /stats?limit=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -3\r\n\r\n",
        b"GET /" + b"x" * 20_000,
    ]

    async def ask(number: int, sent: bytes) -> None:
        """Without asyncio's streams, which leave cycles of their own."""
        with socket.create_connection(("127.0.0.1", number)) as sock:
            sock.setblocking(False)
            running = asyncio.get_running_loop()
            await running.sock_sendall(sock, sent)
            while await running.sock_recv(sock, 65536):
                pass

    async def main() -> dict[str, float]:
        async with serving() as service:

            async def ask_all() -> None:
                for sent in requests:
                    await ask(port(service), sent)
                while service.connections():
                    await asyncio.sleep(0)

            return await grown_by(ROUNDS_MIN, ask_all)

    free_closed_transports()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        assert runner.run(main()) == {}


class Wire(asyncio.Transport):
    """What a connection writes to. It takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.is_closed = b"", False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


PARTS = [
    b"GET /health HTTP/1.1\r\n",
    b"HEAD /stats?limit=",
    b"POST / HTTP/1.0\r\n",
    b" HTTP/1.1\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"Host: localhost\r\n",
    b"Host: \xff\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Expect: 100-continue\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b" folded\r\n",
    b"0\r\n\r\n",
    b"\x00",
    b"GET http://[ HTTP/1.1\r\n",
    b"GET /?a=%zz&&= HTTP/1.1\r\n",
    b"Accept: ;q=1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=40)), max_size=12), st.booleans())
def test_no_bytes_of_a_client_raise_or_leave_anything(pieces: list[bytes], ends: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        failed: list[Any] = []
        loop.set_exception_handler(lambda _, context: failed.append(context))
        pages = NodePages(Context()).pages()
        listeners = Listeners(loop, HttpSettings(), None, lambda status: None)
        wire, connection = Wire(), HttpConnection(listeners, Site(pages))
        connection.connection_made(wire)
        for piece in pieces:
            if not wire.is_closed:
                connection.data_received(piece)
            await asyncio.sleep(0)
        if ends:
            connection.eof_received()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not wire.sent or wire.sent.startswith(b"HTTP/1.1 ")
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert listeners.open_connections() == 0 and failed == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


# --- addresses and certificates --------------------------------------------------------------------------------------


async def test_a_port_in_use_is_told_and_the_first_listener_is_closed() -> None:
    async with serving() as service:
        taken = f"127.0.0.1:{port(service)}"
        other = HttpService(HttpSettings(listen="127.0.0.1:0", metrics_listen=taken), Context())
        with pytest.raises(AddressInUse, match=f"cannot listen for HTTP on {taken}: another process does"):
            await other.start()
        (first,) = other.addresses
        await other.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(first.rpartition(":")[2]))


@pytest.mark.parametrize(
    ("given_settings", "error", "says"),
    [
        ({"listen": "8080"}, ConfigError, "write HOST:PORT"),
        ({"listen": "::1:8080"}, ConfigError, "write HOST:PORT"),
        ({"listen": "127.0.0.1:65536"}, ConfigError, "write HOST:PORT"),
        ({"listen": "0.0.0.0:0"}, UnsafeListen, "open to other machines"),
        ({"metrics_listen": ":9090"}, UnsafeListen, "open to other machines"),
        ({"keyfile": "k.pem"}, ConfigError, "no certfile"),
        ({"certfile": "missing.pem"}, ConfigError, "no such file"),
        ({"certfile": __file__}, ConfigError, "not PEM"),
    ],
)
async def test_settings_that_cannot_be_used_are_told(
    given_settings: dict[str, str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        HttpService(HttpSettings(**given_settings), Context())


@pytest.mark.parametrize("is_one_file", [False, True])
async def test_a_key_that_others_can_read_is_refused(tmp_path: Path, is_one_file: bool) -> None:
    files = Authority(tmp_path).issue("n1")
    used = {"certfile": files["certfile"], "keyfile": files["keyfile"]}
    if is_one_file:
        both = tmp_path / "both.pem"
        both.write_text("".join(Path(file).read_text() for file in used.values()))
        used = {"certfile": str(both)}
    key = Path(used.get("keyfile", used["certfile"]))
    key.chmod(0o644)
    with pytest.raises(ConfigError, match=rf"\[service.http\] (key|cert)file = .* Run `chmod 600 {key}`"):
        HttpService(HttpSettings(**used), Context())
    HttpService(HttpSettings(**used, shared_keyfile=True), Context())
    key.chmod(0o600)
    async with serving(**used) as service:
        key.chmod(0o604)
        with pytest.raises(ConfigError, match="could read it"):
            service.reload()


async def test_the_metrics_address_serves_numbers_alone_or_nothing() -> None:
    async with serving() as service:
        assert [(await get(service, path, 1)).status for path in ("/health", "/ready", "/")] == [404] * 3
        assert (await get(service, "/", 0)).body.startswith(b"/health\n")
    async with serving(metrics_listen="none") as service:
        assert len(service.addresses) == 1


async def test_with_a_cafile_only_a_client_with_a_certificate_gets_in(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "another")
    async with serving(**authority.issue("n1")) as service:
        assert (await ask_over_tls(service, authority, authority.issue("prometheus"))) == 200
        for certificate in (None, stranger.issue("prometheus")):
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await ask_over_tls(service, authority, certificate)
        async with browsing(service) as plain:
            plain.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await plain.is_closed()
        while service.connections():
            await asyncio.sleep(0)


async def test_a_handshake_that_never_ends_gives_way(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(**authority.issue("n1"), connections=1) as service, browsing(service) as silent:
        while not service.connections():
            await asyncio.sleep(0)
        assert (await ask_over_tls(service, authority, authority.issue("prometheus"))) == 200
        assert await silent.is_closed()


async def test_renewed_certificates_are_used_after_a_reload(tmp_path: Path) -> None:
    authority, new = Authority(tmp_path), Authority(tmp_path, "new")
    files = authority.issue("n1")
    async with serving(**files) as service:
        for name, file in new.issue("n1").items():
            Path(files[name]).write_bytes(Path(file).read_bytes())
        service.reload()
        assert (await ask_over_tls(service, new, new.issue("prometheus"))) == 200
        Path(files["certfile"]).write_text("damaged")
        with pytest.raises(ConfigError, match="not PEM"):
            service.reload()
        assert (await ask_over_tls(service, new, new.issue("prometheus"))) == 200


async def ask_over_tls(service: HttpService, authority: Authority, certificate: dict[str, str] | None) -> int:
    context = ssl.create_default_context(cafile=str(authority.cafile))
    if certificate is not None:
        context.load_cert_chain(certificate["certfile"], certificate["keyfile"])
    async with browsing(service, ssl=context, server_hostname="localhost") as browser:
        return (await browser.get("/health")).status
