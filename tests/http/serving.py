"""A service `http` on free ports, with a context that has no node behind it, and requests over plain sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from disheap.testing.conformance.test_service import Context
from disheap_http.service import HttpService
from disheap_http.settings import HttpSettings

ANSWER_S = 5.0


class Response(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def serving(context: Any = None, **settings: Any) -> AsyncIterator[HttpService]:
    """Started, on two free ports."""
    addresses = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"}
    service = HttpService(HttpSettings(**{**addresses, **settings}), context or Context())
    try:
        await service.start()
        yield service
    finally:
        await service.stop()


def port(service: HttpService, place: int = 0) -> int:
    return int(service.addresses[place].rpartition(":")[2])


class Browser:
    """One connection to a service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode("latin-1") if isinstance(text, str) else text)

    async def read(self, has_body: bool = True) -> Response:
        async with asyncio.timeout(ANSWER_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers["content-length"])) if has_body else b""
            return Response(int(first.split(" ")[1]), headers, body)

    async def get(self, target: str, method: str = "GET", host: str = "localhost", more: str = "") -> Response:
        self.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
        return await self.read(method != "HEAD")

    async def is_closed(self) -> bool:
        """Waits for the other end to close. What it still says is left out."""
        async with asyncio.timeout(ANSWER_S):
            try:
                return await self.reader.read() is not None
            except ConnectionError:
                return True


@asynccontextmanager
async def browsing(service: HttpService, place: int = 0, **tls: Any) -> AsyncIterator[Browser]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(service, place), **tls)
    try:
        yield Browser(reader, writer)
    finally:
        writer.transport.abort()


async def get(service: HttpService, target: str, place: int = 0, **more: Any) -> Response:
    async with browsing(service, place) as browser:
        return await browser.get(target, **more)
