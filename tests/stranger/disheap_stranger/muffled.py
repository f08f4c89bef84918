"""Transport `muffled`: plain asyncio sockets that read a few bytes at a time, so that every frame arrives in pieces."""

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta

from disheap.errors import AddressInUse, ConfigError, ConnectionLost


class MuffledSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    piece_bytes: Annotated[int, Meta(ge=1, le=65536, description="bytes in one delivery")] = 4093


class MuffledTransport:
    name = "muffled"
    api = 1
    secure = False
    Settings = MuffledSettings

    def __init__(self, settings, context):
        self._piece = settings.piece_bytes
        self._loop = context.loop

    async def listen(self, address, accept):
        host, port = _parse(address)
        try:
            server = await self._loop.create_server(lambda: Muffled(accept(), self._piece, ""), host, port)
        except OSError as error:
            raise AddressInUse(f"{address}: {error.strerror}") from error
        return MuffledListener(server)

    async def connect(self, address, receiver, timeout_s):
        host, port = _parse(address)
        try:
            async with asyncio.timeout(timeout_s):
                _, link = await self._loop.create_connection(
                    lambda: Muffled(receiver, self._piece, address), host, port
                )
        except OSError as error:  # a timeout too
            raise ConnectionLost(f"cannot connect to {address}: {error}") from error
        return link


class MuffledListener:
    def __init__(self, server):
        self._server = server
        self.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])

    async def close(self):
        self._server.close()


class Muffled(asyncio.Protocol):
    certificate_names = None

    def __init__(self, receiver, piece, remote):
        self.remote = remote
        self._receiver = receiver
        self._piece = piece
        self._closed = self._paused = self._ended = False
        self._held = bytearray()

    def connection_made(self, transport):
        self._transport = transport
        self.remote = self.remote or str(transport.get_extra_info("peername"))
        self._receiver.connection_made(self)

    def data_received(self, data):
        self._held += data
        self._deliver()

    def _deliver(self):
        while self._held and not (self._paused or self._closed):
            piece = bytes(self._held[: self._piece])
            del self._held[: self._piece]
            self._receiver.data_received(piece)
        if self._ended and not self._held:
            self._transport.close()

    def eof_received(self):
        """Keeps the connection until a paused receiver has had what was still held back for it."""
        self._ended = True
        self._deliver()
        return True

    def pause_writing(self):
        self._receiver.writing_paused()

    def resume_writing(self):
        self._receiver.writing_resumed()

    def connection_lost(self, error):
        self._closed = True
        receiver, self._receiver = self._receiver, None  # the receiver knows this object: a cycle would stay for ever
        receiver.connection_lost(error)

    def write(self, data):
        if not self._closed:
            self._transport.write(bytes(data))

    def buffered(self):
        return self._transport.get_write_buffer_size()

    def pause_reading(self):
        self._paused = True
        if not self._closed:
            self._transport.pause_reading()

    def resume_reading(self):
        if self._paused and not self._closed:
            self._paused = False
            self._transport.resume_reading()
            asyncio.get_running_loop().call_soon(self._deliver)

    def close(self):
        self._closed = True
        self._transport.close()

    def abort(self):
        self._closed = True
        self._transport.abort()


def _parse(address):
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError(f"{address!r} is not host:port")
    return host, int(port)
