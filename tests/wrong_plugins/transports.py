"""Transports that break one rule each, made from `Wire`, which keeps all of them: a thin layer around `inproc`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from disheap.errors import AddressInUse, ConnectionLost
from disheap.interfaces import Connection, Listener, Receiver, TransportContext
from disheap_memory.inproc import InprocSettings, InprocTransport

LET_GO_S = 0.1


class End:
    """One end: what the transport says goes through here to the receiver, what the receiver does to the connection."""

    def __init__(self, wire: Wire, receiver: Receiver) -> None:
        self.wire = wire
        self.receiver = receiver
        self.inner: Connection

    # --- as the inner connection's receiver ---

    def connection_made(self, connection: Connection) -> None:
        self.inner = connection
        self.remote, self.certificate_names = connection.remote, connection.certificate_names
        self.wire.ends.append(self)
        self.receiver.connection_made(self)

    def data_received(self, data: bytes) -> None:
        self.receiver.data_received(data)

    def writing_paused(self) -> None:
        self.receiver.writing_paused()

    def writing_resumed(self) -> None:
        self.receiver.writing_resumed()

    def connection_lost(self, error: Exception | None) -> None:
        self.receiver.connection_lost(error)
        self.wire.loop.call_later(LET_GO_S, self.release_storage)

    def release_storage(self) -> None:
        """Releases the storage of the receiver, which knows this end. The wrong ends may still have called it."""
        self.__dict__.pop("receiver", None)

    # --- as the receiver's connection ---

    remote: str
    certificate_names: tuple[str, ...] | None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.inner.write(data)

    def buffered(self) -> int:
        return self.inner.buffered()

    def pause_reading(self) -> None:
        self.inner.pause_reading()

    def resume_reading(self) -> None:
        self.inner.resume_reading()

    def close(self) -> None:
        self.inner.close()

    def abort(self) -> None:
        self.inner.abort()


class Wire:
    name: ClassVar[str] = "wire"
    api: ClassVar[int] = 1
    secure: ClassVar[bool] = False
    end: ClassVar[type[End]] = End

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        pass

    def __init__(self, settings: Any, context: TransportContext) -> None:
        self.loop = context.loop
        self.ends: list[End] = []
        self.inner = InprocTransport(InprocSettings(), context)

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> Listener:
        return await self.inner.listen(address, lambda: self.end(self, accept()))

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Connection:
        end = self.end(self, receiver)
        await self.inner.connect(address, end, timeout_s)
        return end


# --- bytes -----------------------------------------------------------------------------------------------------------


class ReorderingEnd(End):
    held: bytes | None = None
    count = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.count += 1
        if self.count % 7 == 3:
            self.held = bytes(data)
            return
        super().write(data)
        if self.held is not None:
            held, self.held = self.held, None
            super().write(held)


class Reordering(Wire):
    """Some writes overtake others."""

    end = ReorderingEnd


class DuplicatingEnd(End):
    count = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.count += 1
        if self.count % 5 == 0:
            super().data_received(data)


class Duplicating(Wire):
    """Some data come twice."""

    end = DuplicatingEnd


class MutableEnd(End):
    def data_received(self, data: bytes) -> None:
        super().data_received(bytearray(data))  # type: ignore[arg-type]


class MutableData(Wire):
    """Hands out a buffer that can be changed."""

    end = MutableEnd


class KeepingEnd(End):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.wire.loop.call_soon(super().write, data)

    def close(self) -> None:
        self.wire.loop.call_soon(super().close)


class KeptBuffer(Wire):
    """Reads the caller's buffer after `write` has returned."""

    end = KeepingEnd


class ThreadedEnd(End):
    def data_received(self, data: bytes) -> None:
        thread = threading.Thread(target=super().data_received, args=(data,))
        thread.start()
        thread.join()


class OtherThread(Wire):
    """Delivers data on a thread of its own."""

    end = ThreadedEnd


# --- the end of a connection -----------------------------------------------------------------------------------------


class AbortingEnd(End):
    def close(self) -> None:
        self.inner.abort()


class LostTail(Wire):
    """What was written just before `close` is lost."""

    end = AbortingEnd


class SwallowingEnd(End):
    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            super().connection_lost(error)


class SwallowedLoss(Wire):
    """Says nothing of a connection that was closed in order."""

    end = SwallowingEnd


class LostTwiceEnd(End):
    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.wire.loop.call_later(0.01, super().connection_lost, error)


class LostTwice(Wire):
    """Says a little later again that the connection is lost."""

    end = LostTwiceEnd


class LateDataEnd(End):
    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.wire.loop.call_soon(super().data_received, b"late")


class DataAfterLost(Wire):
    """Delivers what was left in a buffer after the end."""

    end = LateDataEnd


class BlamingEnd(End):
    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error or ConnectionLost("it was closed"))


class BlamedClose(Wire):
    """Calls an orderly end an error."""

    end = BlamingEnd


class DeafEnd(End):
    def close(self) -> None:
        self.wire.loop.call_later(0.01, super().close)


class LateClose(Wire):
    """Closes a little later, and delivers what comes until then."""

    end = DeafEnd


class RaisingEnd(End):
    is_closed = False

    def close(self) -> None:
        self.is_closed = True
        super().close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closed:
            raise ConnectionLost("this connection is closed")
        super().write(data)


class RaisingWrite(Wire):
    """Raises in `write` after the end."""

    end = RaisingEnd


class ForgettingEnd(End):
    is_paused = False
    is_ended = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def data_received(self, data: bytes) -> None:
        if not self.is_paused:
            super().data_received(data)


class LostInThePause(Wire):
    """Drops what comes while the reader pauses."""

    end = ForgettingEnd


# --- backpressure ----------------------------------------------------------------------------------------------------


class RestlessEnd(End):
    def pause_reading(self) -> None: ...


class IgnoredPause(Wire):
    """Goes on delivering to a reader that pauses."""

    end = RestlessEnd


class UnpausedEnd(End):
    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...


class UnboundedWriter(Wire):
    """Does not tell its writer to pause."""

    end = UnpausedEnd


class BlockingEnd(End):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        while self.inner.buffered() > 6 << 20:
            threading.Event().wait(0.05)


class BlockingWrite(Wire):
    """Waits in `write` until the other end has read."""

    end = BlockingEnd


# --- addresses -------------------------------------------------------------------------------------------------------


class SilentRefusal(Wire):
    """Gives a connection although nobody is there."""

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Connection:
        try:
            return await super().connect(address, receiver, timeout_s)
        except ConnectionLost:
            return self.end(self, receiver)


class EndlessConnect(Wire):
    """Tries for ever."""

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Connection:
        while True:
            try:
                return await super().connect(address, receiver, timeout_s)
            except ConnectionLost:
                await asyncio.sleep(0.01)


class LateMade(Wire):
    """`connect` returns before the connection is there."""

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> Connection:
        end = self.end(self, receiver)
        self.loop.call_soon(lambda: self.loop.create_task(self.inner.connect(address, end, timeout_s)))
        return end


class TakenAddress(Wire):
    """Takes an address from whoever listens there."""

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> Listener:
        try:
            return await super().listen(address, accept)
        except AddressInUse:
            del self.inner._hub.listeners[address]
            return await super().listen(address, accept)


class ClosingListener:
    def __init__(self, wire: Wire, inner: Listener) -> None:
        self.wire, self.inner, self.address = wire, inner, inner.address

    async def close(self) -> None:
        await self.inner.close()
        for end in self.wire.ends:
            end.close()


class FatalListener(Wire):
    """A listener that closes takes its connections with it."""

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> Listener:
        return ClosingListener(self, await super().listen(address, accept))


class NamedEnd(End):
    def connection_made(self, connection: Connection) -> None:
        connection.certificate_names = ("n1",)
        super().connection_made(connection)


class UnprovedName(Wire):
    """Says a name that nobody has proved."""

    end = NamedEnd


class TextNameEnd(End):
    def connection_made(self, connection: Connection) -> None:
        connection.certificate_names = "n1"  # type: ignore[assignment]
        super().connection_made(connection)


class NameAsText(Wire):
    """Gives one text for the tuple of names: a node that looks for a name in it finds parts of it, too."""

    secure = True
    end = TextNameEnd


class TwiceNamedEnd(End):
    def connection_made(self, connection: Connection) -> None:
        connection.certificate_names = ("n1", "n1")
        super().connection_made(connection)


class NameTwice(Wire):
    """Gives a name twice."""

    secure = True
    end = TwiceNamedEnd


class KeepingReceiverEnd(End):
    def release_storage(self) -> None: ...


class KeptReceiver(Wire):
    """A connection and its receiver know each other when it is lost, and stay in memory."""

    end = KeepingReceiverEnd


class LateFlushEnd(End):
    """Gathers until the next turn of the loop, whatever is asked."""

    gathered: bytes = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.gathered += bytes(data)
        self.wire.loop.call_soon(self.send)

    def send(self) -> None:
        gathered, self.gathered = self.gathered, b""
        self.inner.write(gathered)

    def buffered(self) -> int:
        return len(self.gathered) + self.inner.buffered()

    def close(self) -> None:
        self.send()
        super().close()

    def write_now(self, data: bytes) -> None:
        self.write(data)


class LateFlush(Wire):
    end = LateFlushEnd


RIGHT = Wire
MEANT: dict[type[Wire], str] = {
    Reordering: "test_bytes_arrive_whole_and_in_order_in_both_directions",
    Duplicating: "test_bytes_arrive_whole_and_in_order_in_both_directions",
    MutableData: "test_bytes_arrive_whole_and_in_order_in_both_directions",
    OtherThread: "test_bytes_arrive_whole_and_in_order_in_both_directions",
    KeptBuffer: "test_a_buffer_may_be_used_again_as_soon_as_write_returns",
    LateFlush: "test_what_is_queued_can_be_sent_at_once",
    LostTail: "test_close_flushes_what_was_written_before",
    SwallowedLoss: "test_made_comes_first_and_lost_last_and_once_at_both_ends",
    LostTwice: "test_made_comes_first_and_lost_last_and_once_at_both_ends",
    DataAfterLost: "test_made_comes_first_and_lost_last_and_once_at_both_ends",
    BlamedClose: "test_made_comes_first_and_lost_last_and_once_at_both_ends",
    LateMade: "test_made_comes_first_and_lost_last_and_once_at_both_ends",
    LateClose: "test_no_data_are_delivered_to_who_closed",
    RaisingWrite: "test_what_is_written_after_close_is_dropped_without_an_error",
    LostInThePause: "test_a_paused_reader_gets_what_was_written_before_the_other_end_closed",
    IgnoredPause: "test_a_paused_reader_hears_nothing_until_it_resumes",
    UnboundedWriter: "test_a_paused_reader_pauses_the_writer_and_loses_nothing",
    BlockingWrite: "test_a_paused_reader_pauses_the_writer_and_loses_nothing",
    KeptReceiver: "test_a_connection_that_was_lost_lets_go_of_its_receiver",
    SilentRefusal: "test_connecting_to_nobody_is_a_lost_connection_that_names_the_address",
    EndlessConnect: "test_connecting_to_nobody_is_a_lost_connection_that_names_the_address",
    TakenAddress: "test_an_address_in_use_is_said_and_is_free_again_after_close",
    FatalListener: "test_a_listener_that_closes_leaves_its_connections_alone",
    UnprovedName: "test_both_ends_have_names_and_a_secure_transport_proves_them",
    NameAsText: "test_both_ends_have_names_and_a_secure_transport_proves_them",
    NameTwice: "test_both_ends_have_names_and_a_secure_transport_proves_them",
}
