"""The contract of transports: ordered, reliable streams of bytes between nodes, and to clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from disheap.interfaces.plugin import Plugin


class Connection(Protocol):
    """One end of an ordered, reliable stream of bytes between two nodes or a client and a node.

    The bytes are frames of `protocol.frames`, but a transport does not look inside. So there is one parser, and a run
    of frames can go from the socket into the log as one slice. All calls are made on the loop's thread.
    """

    remote: str  # the other end, for people to read
    certificate_names: tuple[str, ...] | None
    """The names that the other end proved, each once. Empty if it proved to belong here and has no name. None if the
    transport does not authenticate. The first name stands for a client: its sessions and limits are bound to it."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queues bytes behind those of earlier calls. Never blocks, and never raises. The caller owns `data` and may
        change it when the call returns. Bytes that are written after `close`, `abort` or the end are dropped."""

    def buffered(self) -> int:
        """Bytes that are queued and not yet passed to the operating system; 0 after the end."""

    def pause_reading(self) -> None:
        """Delivers no bytes from now on until `resume_reading`, also when called inside `data_received`. The end of the
        connection waits behind the bytes that came before it. May be called twice, and after the end."""

    def resume_reading(self) -> None:
        """Delivers again, beginning with the bytes that came meanwhile. May be called twice, and after the end."""

    def close(self) -> None:
        """Sends the queued bytes, then closes. Returns at once. `connection_lost(None)` follows exactly once, and no
        data before it. May be called twice."""

    def abort(self) -> None:
        """Closes at once. Queued bytes are lost. `connection_lost` follows exactly once, and no data before it."""


@runtime_checkable
class Flushing(Protocol):
    """Optional power of a `Connection` that gathers writes, to send many small ones together."""

    def write_now(self, data: bytes) -> None:
        """As `write`. `data`, and all that was queued before it, goes to the operating system before this returns, as
        far as that takes it. The loop has nothing more to do for it. After the end, `data` is dropped."""


class Receiver(Protocol):
    """The owner of a connection. The transport calls it on the loop's thread: `connection_made` first, once, and
    `connection_lost` last, once. It may write, pause and close in each of these calls."""

    def connection_made(self, connection: Connection) -> None:
        """The connection is open. For the end that connects, this comes before `Transport.connect` returns."""

    def data_received(self, data: bytes) -> None:
        """Bytes in the order in which they were written, each once, cut anywhere. The receiver owns `data`."""

    def writing_paused(self) -> None:
        """More is queued than the transport wants to hold. This is advice: `write` still accepts everything."""

    def writing_resumed(self) -> None:
        """Enough of the queue was sent. Comes after each `writing_paused`, unless the connection ends."""

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended. `error` is None if either end closed it in order. Nothing is called after it. The
        transport drops its reference to the receiver, because a node has no garbage collector that would free two
        objects with references to each other."""


class Listener(Protocol):
    """An address that accepts connections."""

    address: str  # the address bound, with the port that was chosen where 0 was asked for

    async def close(self) -> None:
        """Stops accepting. The address is free when it returns. Open connections continue."""


class TransportContext(NamedTuple):
    """What a transport is built with: the loop for all its calls."""

    loop: asyncio.AbstractEventLoop


class Transport(Plugin, Protocol):
    """Opens every socket, for peers and clients. Addresses are `host:port`, or what the plugin defines."""

    secure: ClassVar[bool]  # both ends proved who they are and nobody reads along

    def __init__(self, settings: Any, context: TransportContext) -> None: ...

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> Listener:
        """Clients can connect when it returns. `accept` is called once for each connection, on the loop's thread.
        Raises `AddressInUse`, or `ConfigError` for an address that cannot be read or bound."""

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Connection:
        """Returns the connection, after `receiver.connection_made`. Raises `ConnectionLost` when nobody answers within
        `timeout_s`, and `ConfigError` for an unreadable address. Then no method of `receiver` is called. Both errors
        name the address."""


@runtime_checkable
class Reloading(Protocol):
    """Optional power of a transport or a service: while it runs, it can read the files that its settings name again."""

    def reload(self) -> None:
        """New connections use the present content of the files. Open connections continue. Raises `ConfigError` for a
        file that cannot be used. Then nothing changes."""


class BlockingSocket(Protocol):
    """The part of a connected `socket.socket` (or `ssl.SSLSocket`) that the blocking client uses."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Returns how many bytes of `data` were accepted. Raises `OSError`."""

    def recv(self, size: int, /) -> bytes:
        """Returns at most `size` bytes; b"" at the end. Raises `OSError`, and `TimeoutError` if a timeout is set."""

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
        """Whether to wait until `fileno` is ready for writing. Otherwise wait until it is ready for reading."""

    def fileno(self) -> int:
        """The descriptor to wait for. It may change after each `advance`."""

    def advance(self) -> BlockingSocket | None:
        """Returns the connected socket, which does not block yet, or None while the connection is not complete. Raises
        `ConnectionLost`."""

    def explain(self, error: OSError | None) -> str:
        """Explains why a connected socket ended before the node had sent anything. `error` is None if it was closed."""

    def close(self) -> None:
        """Gives up. Not called after `advance` has returned the socket, because the caller owns it then."""


@runtime_checkable
class BlockingConnect(Protocol):
    """Optional power of a transport: sockets for clients in processes that fork. Needs no loop."""

    @classmethod
    def start_connecting(cls, settings: Any, address: str) -> PendingSocket:
        """Begins a connection. Waits only for the resolution of a host's name. Raises `ConnectionLost`, and
        `ConfigError` for settings or an address that cannot be used."""
