"""The contract of transports: ordered, reliable streams of bytes between nodes, and to clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from disheap.interfaces.plugin import Plugin


class Connection(Protocol):
    """One end of an ordered, reliable stream of bytes between two nodes or a client and a node.

    The bytes are frames of `protocol.frames`; a transport does not look inside, so that one parser exists, and a run of
    frames can go from the socket into the log as one slice. All calls are made on the loop's thread.
    """

    remote: str  # the other end, for people to read
    certificate_name: str | None
    """The name that the other end proved; "" where it proved to belong here and has none, and None where the transport
    does not authenticate."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes behind those of earlier calls. Never blocks, and never raises. `data` stays the caller's, who may
        change it when the call returns. Bytes that are written after `close`, `abort` or the end are dropped."""

    def buffered(self) -> int:
        """Bytes queued and not yet handed to the operating system; 0 after the end."""

    def pause_reading(self) -> None:
        """Deliver no bytes from now on until `resume_reading`, also when called inside `data_received`. The end of the
        connection waits behind bytes that came before it. May be called twice, and after the end."""

    def resume_reading(self) -> None:
        """Deliver again, beginning with what came meanwhile. May be called twice, and after the end."""

    def close(self) -> None:
        """Flush what is queued, then close. Returns at once; `connection_lost(None)` follows exactly once, and no data
        before it. May be called twice."""

    def abort(self) -> None:
        """Close at once; what is queued is lost. `connection_lost` follows exactly once, and no data before it."""


class Receiver(Protocol):
    """Whoever owns a connection. The transport calls it on the loop's thread, `connection_made` first, once, and
    `connection_lost` last, once. It may write, pause and close in each of these calls."""

    def connection_made(self, connection: Connection) -> None:
        """The connection is there. For the end that connects this comes before `Transport.connect` returns."""

    def data_received(self, data: bytes) -> None:
        """Bytes in the order in which they were written, each once, cut anywhere. The receiver owns `data`."""

    def writing_paused(self) -> None:
        """More is queued than the transport wants to hold. Advice: `write` still takes everything."""

    def writing_resumed(self) -> None:
        """Enough of it has left. Comes after each `writing_paused` of a connection that goes on."""

    def connection_lost(self, error: Exception | None) -> None:
        """The end. `error` is None where either end closed in order. Nothing is called after it, and the transport
        lets go of the receiver: a node has no garbage collector that would free two objects that know each other."""


class Listener(Protocol):
    """An address that connections come in at."""

    address: str  # the address bound, with the port that was chosen where 0 was asked for

    async def close(self) -> None:
        """Stop accepting. The address is free when it returns; connections already made go on."""


class TransportContext(NamedTuple):
    """What a transport is built with: the loop that all its calls are made on."""

    loop: asyncio.AbstractEventLoop


class Transport(Plugin, Protocol):
    """Opens every socket there is, for peers and clients alike. Addresses are `host:port`, or what the plugin says."""

    secure: ClassVar[bool]  # both ends proved who they are and nobody reads along

    def __init__(self, settings: Any, context: TransportContext) -> None: ...

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> Listener:
        """Clients can connect when it returns. `accept` is called once for each connection, on the loop's thread.
        Raises `AddressInUse`, or `ConfigError` for an address that cannot be read or bound."""

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Connection:
        """The connection, of which `receiver` has heard `connection_made`. Raises `ConnectionLost` when nobody answers
        within `timeout_s`, and `ConfigError` for an unreadable address; then `receiver` hears nothing. Both name the
        address."""


@runtime_checkable
class Reloading(Protocol):
    """Optional power of a transport: while it runs, it reads the files again that its settings name."""

    def reload(self) -> None:
        """Connections made from now on use what the files say now; those that stand go on. Raises `ConfigError` for a
        file that cannot be used, and then everything stays as it was."""


class BlockingSocket(Protocol):
    """The part of a connected `socket.socket` (or `ssl.SSLSocket`) that the blocking client uses."""

    def send(self, data: bytes | memoryview, /) -> int:
        """How many bytes of `data` were taken. Raises `OSError`."""

    def recv(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" at the end. Raises `OSError`, and `TimeoutError` where a timeout is set."""

    def setblocking(self, flag: bool, /) -> None:
        """As of `socket.socket`."""

    def settimeout(self, seconds: float | None, /) -> None:
        """As of `socket.socket`."""

    def fileno(self) -> int:
        """For `select`; -1 after `close`."""

    def close(self) -> None:
        """May be called twice."""


class PendingSocket(Protocol):
    """A connection that is being made. Several may be under way at once, so no method waits."""

    @property
    def wants_write(self) -> bool:
        """Wait until `fileno` is ready for writing; otherwise for reading."""

    def fileno(self) -> int:
        """Another one after each `advance`, perhaps."""

    def advance(self) -> BlockingSocket | None:
        """The connected socket, which does not block yet; None while more has to come. Raises `ConnectionLost`."""

    def explain(self, error: OSError | None) -> str:
        """What it means that a connected socket ended (None: was closed) before the node had said anything."""

    def close(self) -> None:
        """Give up. Not after `advance` has returned the socket: that is the caller's."""


@runtime_checkable
class BlockingConnect(Protocol):
    """Optional power of a transport: sockets for clients in processes that fork. Needs no loop."""

    @classmethod
    def start_connecting(cls, settings: Any, address: str) -> PendingSocket:
        """Waits for nothing but the resolution of a host's name. Raises `ConnectionLost`, and `ConfigError` for
        settings or an address that are of no use."""
