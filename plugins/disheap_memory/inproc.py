"""Transport `inproc`: connections between receivers of one event loop, without sockets.

For tests, for a single node inside an application, and for simulation. Nothing here reads a clock, draws a number or
leaves the loop. So the order of everything is the order of the loop's callbacks. Bytes arrive in a later callback than
the one that wrote them, as they would from a socket. A receiver that pauses makes its writer's buffer grow.

An address is any name; `anything:0` chooses a port. The listeners of a loop form a `Hub`, kept for as long as the loop
is. Two loops never see each other, and no state outlives its loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Meta

from disheap.errors import AddressInUse, ConfigError, ConnectionLost

if TYPE_CHECKING:
    from disheap.interfaces import Receiver, TransportContext

READ_BYTES = 256 << 10
"""Handed to a receiver in one callback; what asyncio reads from a socket at once. Others get their turn between."""

FIRST_PORT = 49152
"""The first port that is tried for port 0: the range of unregistered ports."""

RESUME_SHARE = 4
"""A paused writer resumes when the buffer has shrunk to this part of `write_buffer_bytes`, as in asyncio."""


class InprocSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the transport `inproc`, from the table `[transport.inproc]`."""

    write_buffer_bytes: Annotated[
        int,
        Meta(ge=1024, le=1 << 30, description="undelivered bytes of a connection before its writer is told to pause"),
    ] = 4 << 20  # what tcp has, so that a test meets the same backpressure


class Hub:
    """The address space of one loop."""

    def __init__(self) -> None:
        self.listeners: dict[str, InprocListener] = {}
        self._clients = itertools.count(1)

    def client_name(self) -> str:
        """A new name for the end that connects."""
        return f"inproc client {next(self._clients)}"

    def free(self, address: str) -> str:
        """The address itself, or with a free port if it asks for port 0."""
        host, separator, port = address.rpartition(":")
        if not (separator and port == "0"):
            return address
        ports = itertools.count(FIRST_PORT)
        return next(name for name in (f"{host}:{port}" for port in ports) if name not in self.listeners)


class InprocTransport:
    """The transport `inproc`: connections within one event loop."""

    name: ClassVar[str] = "inproc"
    api: ClassVar[int] = 1
    secure: ClassVar[bool] = True  # the bytes never leave the process
    Settings: ClassVar[type[msgspec.Struct]] = InprocSettings

    hubs: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]] = WeakKeyDictionary()

    def __init__(self, settings: InprocSettings, context: TransportContext) -> None:
        self._loop = context.loop
        self._limit = settings.write_buffer_bytes
        self._hub = self.hubs.setdefault(context.loop, Hub())

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> InprocListener:
        """Listens on a name. Raises `AddressInUse` if this loop has such a listener."""
        if not address:
            raise ConfigError("an inproc address is a name; it cannot be empty")
        bound = self._hub.free(address)
        if bound in self._hub.listeners:
            raise AddressInUse(f"{bound}: something in this process listens there already. Choose another name.")
        listener = self._hub.listeners[bound] = InprocListener(self._hub, bound, accept, self._limit)
        return listener

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> InprocConnection:
        """Connects to a listener of this loop. Raises `ConnectionLost` if there is none."""
        if not address:
            raise ConfigError("an inproc address is a name; it cannot be empty")
        listener = self._hub.listeners.get(address)
        if listener is None:
            raise ConnectionLost(f"nobody in this process listens on {address}")
        near = InprocConnection(self._loop, address, self._limit)
        far = InprocConnection(self._loop, self._hub.client_name(), listener.limit)
        near.other, far.other = far, near
        self._loop.call_soon(_answer, listener, far)
        near.open(receiver)
        return near


class InprocListener:
    """A name on which a receiver is made for each connection."""

    def __init__(self, hub: Hub, address: str, accept: Callable[[], Receiver], limit: int) -> None:
        self.address = address
        self.accept = accept
        self.limit = limit
        self._hub = hub

    @property
    def closed(self) -> bool:
        """Whether the name is free again."""
        return self._hub.listeners.get(self.address) is not self

    async def close(self) -> None:
        """Frees the name. Connections go on."""
        if not self.closed:
            del self._hub.listeners[self.address]


class InprocConnection:
    """One end of a connection. Written bytes wait in the other end's inbox until the loop delivers them."""

    other: InprocConnection

    def __init__(self, loop: asyncio.AbstractEventLoop, remote: str, limit: int) -> None:
        self.remote = remote
        self.certificate_names: tuple[str, ...] | None = None
        self._loop = loop
        self._limit = limit
        self._receiver: Receiver | None = None
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._reading = True
        self._scheduled = False
        self._writer_paused = False
        self._closing = False  # `close` or `abort` was called here
        self._ended = False  # the other end wrote its last byte
        self._lost = False

    def open(self, receiver: Receiver) -> None:
        """Gives the connection its receiver and calls `connection_made`."""
        self._receiver = receiver
        receiver.connection_made(self)
        self._schedule()

    # --- Connection ---

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Puts a copy of `data` into the other end's inbox."""
        if self._closing or self._lost or not data:
            return
        self.other._take(bytes(data))
        if not self._writer_paused and self.buffered() > self._limit and self._receiver is not None:
            self._writer_paused = True
            self._receiver.writing_paused()

    def buffered(self) -> int:
        """How many bytes the other end has not been given yet."""
        return 0 if self._lost else self.other._inbox_bytes

    def pause_reading(self) -> None:
        """Keeps arriving data in the inbox."""
        self._reading = False

    def resume_reading(self) -> None:
        """Delivers the inbox again."""
        self._reading = True
        self._schedule()

    def close(self) -> None:
        """Ends the connection behind the data that was written. This end gets no more data."""
        if self._closing or self._lost:
            return
        self._closing = True
        self._drop_inbox()
        self.other._end()

    def abort(self) -> None:
        """Ends both ends at once, and drops what was not delivered."""
        if self._lost:
            return
        self._closing = True
        self._drop_inbox()
        self.other._drop_inbox()
        self.other._lose_soon(ConnectionLost(f"{self.other.remote} broke the connection off"))
        self._lose_soon(None)

    # --- the way of the bytes ---

    def _take(self, data: bytes) -> None:
        if self._closing or self._lost:
            return
        self._inbox.append(data)
        self._inbox_bytes += len(data)
        self._schedule()

    def _end(self) -> None:
        self._ended = True
        self._schedule()

    def _schedule(self) -> None:
        due = self._inbox or self._ended
        if due and self._reading and self._receiver is not None and not (self._scheduled or self._lost):
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self._lost or self._receiver is None or not self._reading:
            return
        data = self._next()
        if data:
            self._hand_over(self._receiver, data)
            self.other._written()
        if self._ended and not self._inbox:
            self.other._lose_soon(None)
            self._lose(None)
        self._schedule()

    def _hand_over(self, receiver: Receiver, data: bytes) -> None:
        try:
            receiver.data_received(data)
        except Exception as error:  # the receiver's bug costs its own connection, as it would with asyncio's
            self._loop.call_exception_handler({"message": "a receiver failed on data", "exception": error})
            self.abort()

    def _next(self) -> bytes:
        size, pieces = 0, []
        while self._inbox and size < READ_BYTES:
            pieces.append(self._inbox.popleft())
            size += len(pieces[-1])
        self._inbox_bytes -= size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _written(self) -> None:
        """The other end took some of what this one wrote."""
        if self._writer_paused and self.buffered() <= self._limit // RESUME_SHARE:
            self._writer_paused = False
            if self._receiver is not None and not self._lost:
                self._receiver.writing_resumed()

    def _drop_inbox(self) -> None:
        self._inbox.clear()
        self._inbox_bytes = 0

    def _lose_soon(self, error: Exception | None) -> None:
        self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._drop_inbox()
        receiver, self._receiver = self._receiver, None
        del self.other  # the two ends refer to each other, and a node runs without the garbage collector
        if receiver is not None:
            receiver.connection_lost(error)


def _answer(listener: InprocListener, connection: InprocConnection) -> None:
    if listener.closed:
        connection.abort()
        return
    try:
        receiver = listener.accept()
    except Exception as error:
        asyncio.get_running_loop().call_exception_handler({"message": "accept failed", "exception": error})
        connection.abort()
        return
    connection.open(receiver)


if TYPE_CHECKING:
    from disheap.interfaces import Transport

    _fits: type[Transport] = InprocTransport
