"""The conformance suite of transports (`interfaces.Transport`), between two ends of one plugin in one loop.

Tests wait for events, and each scenario has a bound in time. So a transport that loses something fails by a timeout.
The docstring of each test says what the contract demands, then when the test fails.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from disheap.errors import AddressInUse, ConfigError, ConnectionLost
from disheap.interfaces import BlockingConnect, Connection, Flushing, Listener, Transport
from disheap.testing.sockets import connected

CONNECT_S = 5.0
SETTLE_S = 0.05
"""For what should not come, such as a second `connection_lost`."""
BLOCKED_S = 2.0
"""Beyond the bound of a scenario: then the loop itself stands still."""
SEED = 6
PIECES = 400
FLOOD_PIECE = bytes(64 << 10)
AFTER_PAUSE_PIECES = 256
FLOOD_LIMIT = 1 << 30
"""A writer that is not told to pause before this much is never told."""


class Recorder:
    """A receiver that keeps all events and data in order, and lets a test wait for them."""

    def __init__(self, on_data: Callable[[Recorder, bytes], None] | None = None) -> None:
        self.events: list[str] = []
        self.threads: set[int] = set()
        self.data = bytearray()
        self.error: Exception | None = None
        self.connection: Connection
        self._on_data = on_data
        self._changed = asyncio.Event()

    def connection_made(self, connection: Connection) -> None:
        """Keeps the connection and notes the event."""
        self.connection = connection
        self._note("made")

    def data_received(self, data: bytes) -> None:
        """Appends the data, notes the event, and calls `on_data`."""
        assert type(data) is bytes, "the receiver owns the data, so they are bytes"
        self.data += data
        self._note("data")
        if self._on_data is not None:
            self._on_data(self, data)

    def writing_paused(self) -> None:
        """Notes the event."""
        self._note("paused")

    def writing_resumed(self) -> None:
        """Notes the event."""
        self._note("resumed")

    def connection_lost(self, error: Exception | None) -> None:
        """Keeps the error and notes the event."""
        self.error = error
        self._note("lost")

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())
        self._changed.set()

    async def wait(self, condition: Callable[[Recorder], bool]) -> None:
        """Waits until `condition` holds. Checks it again after each event."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    async def wait_for(self, event: str) -> None:
        """Waits until the event with this name has come."""
        await self.wait(lambda self: event in self.events)

    async def wait_events(self, count: int) -> None:
        """Waits until at least `count` events have come."""
        await self.wait(lambda self: len(self.events) >= count)

    async def wait_bytes(self, count: int) -> None:
        """Waits until at least `count` bytes have come."""
        await self.wait(lambda self: len(self.data) >= count)


class Pair:
    """A listener, and a connection to it seen from both ends."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.accepted: asyncio.Queue[Recorder] = asyncio.Queue()
        self.near = Recorder()
        self.far: Recorder

    async def open(self, address: str, on_data: Callable[[Recorder, bytes], None] | None = None) -> None:
        """Listens on `address` and connects to it. Returns when both ends have had `connection_made`."""

        def accept() -> Recorder:
            recorder = Recorder(on_data)
            self.accepted.put_nowait(recorder)
            return recorder

        self.listener = await self.transport.listen(address, accept)
        made = await self.transport.connect(self.listener.address, self.near, CONNECT_S)
        assert self.near.events[:1] == ["made"], "connection_made comes before connect returns"
        assert made is self.near.connection
        self.far = await self.accepted.get()
        await self.far.wait_for("made")

    async def shut(self) -> None:
        """Closes both ends, waits until both have had `connection_lost`, and closes the listener."""
        for end in (self.near, self.far):
            end.connection.close()
        for end in (self.near, self.far):
            end.connection.resume_reading()
            await end.wait_for("lost")
        await self.listener.close()


Build = Callable[[asyncio.AbstractEventLoop], Transport]
Run = Callable[[Callable[[Transport], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def wait_s(pytestconfig: pytest.Config) -> float:
    """The bound of one scenario in seconds, from the option `--disheap-wait`."""
    return float(pytestconfig.getoption("--disheap-wait"))


@pytest.fixture
def run(runner: asyncio.Runner, transport_factory: Build, wait_s: float) -> Run:
    """Builds the transport inside the loop and bounds the scenario in time, also if a call blocks the loop."""

    def run(scenario: Callable[[Transport], Coroutine[Any, Any, None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(wait_s):
                await scenario(transport_factory(asyncio.get_running_loop()))

        with unblocked(wait_s + BLOCKED_S):
            runner.run(bounded())

    return run


@contextmanager
def unblocked(after_s: float) -> Iterator[None]:
    """Raises `TimeoutError` in the main thread if the block inside takes longer than this. Works for a blocking call
    too."""

    def interrupt(*_: object) -> None:
        raise TimeoutError("a call of the transport blocks the loop")

    main = threading.main_thread()
    if threading.current_thread() is not main or main.ident is None:
        yield
        return
    before = signal.signal(signal.SIGUSR2, interrupt)
    timer = threading.Timer(after_s, signal.pthread_kill, (main.ident, signal.SIGUSR2))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGUSR2, before)


def echo(recorder: Recorder, data: bytes) -> None:
    """Writes the received data back. A callback for `Recorder`."""
    recorder.connection.write(data)


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_bytes_arrive_whole_and_in_order_in_both_directions(run: Run, listen_address: str) -> None:
    """Every byte arrives once and in order, on the loop's thread, as `bytes`. It fails if the transport loses, doubles
    or reorders bytes, or calls the receiver from another thread."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        source = random.Random(SEED)
        there = [source.randbytes(source.randrange(1, 9000)) for _ in range(PIECES)]
        back = [source.randbytes(source.randrange(1, 9000)) for _ in range(PIECES)]
        for one, other in zip(there, back, strict=True):
            pair.near.connection.write(one)
            pair.far.connection.write(other)
            if source.random() < 0.1:
                await asyncio.sleep(0)
        await pair.far.wait_bytes(sum(map(len, there)))
        await pair.near.wait_bytes(sum(map(len, back)))
        assert bytes(pair.far.data) == b"".join(there)
        assert bytes(pair.near.data) == b"".join(back)
        await pair.shut()
        assert pair.near.threads | pair.far.threads == {threading.get_ident()}, "calls come on the loop's thread alone"

    run(scenario)


def test_a_buffer_may_be_used_again_as_soon_as_write_returns(run: Run, listen_address: str) -> None:
    """The caller owns the buffer that it passes to `write`. It fails if the transport keeps a reference and sends the
    bytes later, without a copy."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        buffer = bytearray(b"first")
        pair.near.connection.write(buffer)
        buffer[:] = b"third"
        pair.near.connection.write(memoryview(buffer))
        buffer[:] = b"never"
        await pair.far.wait_bytes(10)
        assert bytes(pair.far.data) == b"firstthird"
        await pair.shut()

    run(scenario)


def test_a_receiver_may_write_and_close_from_inside_data_received(run: Run, listen_address: str) -> None:
    """A receiver may write an answer and close the connection inside `data_received`. It fails if the transport is not
    ready for calls from its own callback."""

    def answer_and_close(recorder: Recorder, data: bytes) -> None:
        recorder.connection.write(b"answer")
        recorder.connection.close()

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address, answer_and_close)
        pair.near.connection.write(b"question")
        await pair.near.wait_for("lost")
        assert bytes(pair.near.data) == b"answer"
        await pair.shut()

    run(scenario)


def test_a_receiver_may_write_from_inside_connection_made(run: Run, listen_address: str) -> None:
    """Either end may write inside `connection_made`. It fails if the transport calls `connection_made` before the
    connection can send."""

    class Eager(Recorder):
        def connection_made(self, connection: Connection) -> None:
            super().connection_made(connection)
            connection.write(b"hello")

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        pair.near = Eager()
        await pair.open(listen_address)
        await pair.far.wait_bytes(5)
        assert bytes(pair.far.data) == b"hello"
        await pair.shut()

    run(scenario)


# --- the ends of a connection ----------------------------------------------------------------------------------------


def test_made_comes_first_and_lost_last_and_once_at_both_ends(run: Run, listen_address: str) -> None:
    """Both ends get `connection_made` first and `connection_lost` last, each once, however often a connection is
    closed. It fails if a callback is missing or comes twice, or if an orderly close has an error."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        pair.near.connection.write(b"x")
        await pair.far.wait_bytes(1)
        pair.near.connection.close()
        pair.near.connection.close()
        await pair.far.wait_for("lost")
        await pair.near.wait_for("lost")
        pair.far.connection.close()
        pair.far.connection.abort()
        await asyncio.sleep(SETTLE_S)
        assert pair.near.events == ["made", "lost"]
        assert pair.far.events == ["made", "data", "lost"]
        assert (pair.near.error, pair.far.error) == (None, None)
        await pair.shut()

    run(scenario)


def test_close_flushes_what_was_written_before(run: Run, listen_address: str) -> None:
    """The other end gets everything that was written before `close`. It fails if `close` drops bytes that are still in
    a buffer."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        sent = random.Random(SEED).randbytes(8 << 20)
        pair.near.connection.write(sent)
        pair.near.connection.close()
        await pair.far.wait_for("lost")
        assert bytes(pair.far.data) == sent
        await pair.shut()

    run(scenario)


def test_what_is_queued_can_be_sent_at_once(run: Run, listen_address: str) -> None:
    """After `write_now` nothing small is queued any more, and everything arrives once and in order. It fails if it
    leaves bytes for later, sends them twice or before others, or raises after the end."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        connection = pair.far.connection
        if not isinstance(connection, Flushing):
            await pair.shut()
            return
        for number in range(50):
            connection.write(b"%3d," % number)
            connection.write_now(b"%3d;" % number)
            assert connection.buffered() == 0, "it hands over what a socket takes at once"
            if number % 7 == 0:
                await asyncio.sleep(0)
        expected = b"".join(b"%3d,%3d;" % (number, number) for number in range(50))
        await pair.near.wait_bytes(len(expected))
        assert pair.near.data == expected
        for number in range(50, 60):
            connection.write_now(b"%3d." % number)
            assert connection.buffered() == 0, "nothing was queued before it, and it goes at once"
        expected += b"".join(b"%3d." % number for number in range(50, 60))
        await pair.near.wait_bytes(len(expected))
        assert pair.near.data == expected
        connection.close()
        connection.write_now(b"too late")
        await pair.shut()
        connection.write_now(b"too late")

    run(scenario)


def test_what_is_written_after_close_is_dropped_without_an_error(run: Run, listen_address: str) -> None:
    """A connection that has ended raises nothing, and drops later writes. It fails if `write` or `close` raises after
    the end."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        pair.near.connection.write(b"before")
        pair.near.connection.close()
        pair.near.connection.write(b"after")
        await pair.far.wait_for("lost")
        await pair.near.wait_for("lost")
        pair.near.connection.write(b"long after")
        pair.near.connection.pause_reading()
        pair.near.connection.resume_reading()
        assert bytes(pair.far.data) == b"before"
        await pair.shut()

    run(scenario)


def test_abort_ends_both_ends_at_once_and_nothing_is_delivered_after_it(run: Run, listen_address: str) -> None:
    """`abort` ends both ends, and the end that called it gets no more data. It fails if the transport delivers buffered
    data after it."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        pair.far.connection.write(b"x" * 1000)
        pair.near.connection.abort()
        await pair.near.wait_for("lost")
        await pair.far.wait_for("lost")
        await asyncio.sleep(SETTLE_S)
        assert pair.near.events == ["made", "lost"]
        assert pair.far.events[-1] == "lost" and pair.far.events.count("lost") == 1
        await pair.shut()

    run(scenario)


def test_no_data_are_delivered_to_who_closed(run: Run, listen_address: str) -> None:
    """The end that called `close` gets `connection_lost` next, and no data. It fails if the transport delivers data
    after `close`."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address, echo)
        pair.near.connection.write(b"x" * 1000)
        pair.near.connection.close()
        await pair.near.wait_for("lost")
        await pair.far.wait_for("lost")
        assert pair.near.data == b""
        await pair.shut()

    run(scenario)


# --- backpressure ----------------------------------------------------------------------------------------------------


def test_a_paused_reader_pauses_the_writer_and_loses_nothing(run: Run, listen_address: str) -> None:
    """The writer gets `writing_paused` if the reader pauses, while `write` neither blocks nor drops anything. It fails
    if the transport buffers without a bound, or never tells the writer."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        pair.far.connection.pause_reading()
        pair.far.connection.pause_reading()
        sent = 0
        while "paused" not in pair.near.events and sent < FLOOD_LIMIT:
            pair.near.connection.write(FLOOD_PIECE)
            sent += len(FLOOD_PIECE)
            await asyncio.sleep(0)
        assert pair.near.events == ["made", "paused"]
        assert pair.near.connection.buffered() > 0
        for _ in range(AFTER_PAUSE_PIECES):
            pair.near.connection.write(FLOOD_PIECE)
        pair.near.connection.write(b"the end")
        sent += AFTER_PAUSE_PIECES * len(FLOOD_PIECE) + len(b"the end")
        pair.far.connection.resume_reading()
        pair.far.connection.resume_reading()
        await pair.far.wait_bytes(sent)
        await pair.near.wait_for("resumed")
        assert len(pair.far.data) == sent
        assert pair.far.data.endswith(b"the end")
        assert pair.near.events == ["made", "paused", "resumed"]
        assert pair.near.connection.buffered() == 0
        await pair.shut()

    run(scenario)


def test_a_paused_reader_hears_nothing_until_it_resumes(run: Run, listen_address: str) -> None:
    """No data come between `pause_reading` and `resume_reading`. It fails if the transport delivers data that it had
    already read."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address, echo)
        pair.near.connection.pause_reading()
        pair.near.connection.write(b"ping")
        await pair.far.wait_bytes(4)
        for _ in range(20):
            await asyncio.sleep(0)
        assert pair.near.events == ["made"]
        pair.near.connection.resume_reading()
        await pair.near.wait_bytes(4)
        assert bytes(pair.near.data) == b"ping"
        await pair.shut()

    run(scenario)


def test_a_receiver_that_pauses_in_data_received_hears_no_more_in_that_call(run: Run, listen_address: str) -> None:
    """`pause_reading` takes effect at once, also inside a callback. It fails if the transport goes on delivering pieces
    of one read."""

    def pause(recorder: Recorder, data: bytes) -> None:
        recorder.connection.pause_reading()

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address, pause)
        sent = random.Random(SEED).randbytes(1 << 20)
        pair.near.connection.write(sent)
        deliveries = 0
        while len(pair.far.data) < len(sent):
            await pair.far.wait_events(deliveries + 2)  # "made" was the first
            for _ in range(5):
                await asyncio.sleep(0)
            deliveries += 1
            assert pair.far.events.count("data") == deliveries
            pair.far.connection.resume_reading()
        assert bytes(pair.far.data) == sent
        await pair.shut()

    run(scenario)


def test_a_paused_reader_gets_what_was_written_before_the_other_end_closed(run: Run, listen_address: str) -> None:
    """A paused reader gets `connection_lost` only behind the data before it. It fails if the transport reports the end
    while reading is paused, or drops the data."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        pair.far.connection.pause_reading()
        sent = random.Random(SEED).randbytes(100_000)
        pair.near.connection.write(sent)
        pair.near.connection.close()
        for _ in range(20):
            await asyncio.sleep(0)
        assert pair.far.data == b""
        pair.far.connection.resume_reading()
        await pair.far.wait_for("lost")
        assert bytes(pair.far.data) == sent
        await pair.shut()

    run(scenario)


# --- addresses -------------------------------------------------------------------------------------------------------


def test_the_listener_tells_the_address_that_it_bound(run: Run, listen_address: str) -> None:
    """`Listener.address` names the port that was chosen for port 0. It fails if the transport returns the address that
    was asked for."""

    async def scenario(transport: Transport) -> None:
        first = await transport.listen(listen_address, Recorder)
        second = await transport.listen(listen_address, Recorder)
        assert first.address != second.address
        assert not first.address.endswith(":0")
        await first.close()
        await second.close()

    run(scenario)


def test_an_address_in_use_is_said_and_is_free_again_after_close(run: Run, listen_address: str) -> None:
    """`listen` raises `AddressInUse` with the address, and a closed listener frees its address. It fails if the
    transport raises another error, or if `close` leaves the socket bound."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        with pytest.raises(AddressInUse) as caught:
            await transport.listen(pair.listener.address, Recorder)
        assert pair.listener.address in str(caught.value)
        await pair.listener.close()
        again = await transport.listen(pair.listener.address, Recorder)
        assert again.address == pair.listener.address
        await again.close()
        await pair.shut()

    run(scenario)


def test_a_listener_that_closes_leaves_its_connections_alone(run: Run, listen_address: str) -> None:
    """Connections continue after their listener is closed, and new ones are refused. It fails if closing the listener
    closes the connections too."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address, echo)
        await pair.listener.close()
        with pytest.raises(ConnectionLost):
            await transport.connect(pair.listener.address, Recorder(), CONNECT_S)
        pair.near.connection.write(b"still there")
        await pair.near.wait_bytes(len(b"still there"))
        await pair.shut()

    run(scenario)


def test_a_connection_that_was_lost_lets_go_of_its_receiver(run: Run, listen_address: str) -> None:
    """A transport drops its reference to the receiver after `connection_lost`. It fails if connection and receiver
    still refer to each other. A node runs without the garbage collector, so they would stay in memory for ever."""

    async def scenario(transport: Transport) -> None:
        receivers: list[weakref.ref[Recorder]] = []
        freed = asyncio.Event()

        def see_who_is_left(_: weakref.ref[Recorder]) -> None:
            if all(known() is None for known in receivers):
                freed.set()

        def receiver() -> Recorder:
            made = Recorder()
            receivers.append(weakref.ref(made, see_who_is_left))
            return made

        async def come_and_go(listener: Listener) -> None:
            near = receiver()
            await transport.connect(listener.address, near, CONNECT_S)
            near.connection.write(b"hello")
            near.connection.close()
            await near.wait_for("lost")

        listener = await transport.listen(listen_address, receiver)
        gc.collect()
        gc.disable()
        try:
            await come_and_go(listener)
            await freed.wait()
        finally:
            gc.enable()
        assert len(receivers) == 2
        await listener.close()

    run(scenario)


def test_connecting_to_nobody_is_a_lost_connection_that_names_the_address(run: Run, listen_address: str) -> None:
    """`connect` raises `ConnectionLost` with the address if no connection can be made, and calls no method of the
    receiver. It fails if the transport raises another error or calls `connection_lost`."""

    async def scenario(transport: Transport) -> None:
        listener = await transport.listen(listen_address, Recorder)
        await listener.close()
        recorder = Recorder()
        with pytest.raises(ConnectionLost) as caught:
            await transport.connect(listener.address, recorder, CONNECT_S)
        assert listener.address in str(caught.value)
        assert recorder.events == []

    run(scenario)


def test_an_unreadable_address_is_a_configuration_error(run: Run) -> None:
    """`listen` and `connect` raise `ConfigError` for a string that is no address. It fails if the transport raises
    `ValueError` or `OSError`."""

    async def scenario(transport: Transport) -> None:
        with pytest.raises(ConfigError):
            await transport.listen("", Recorder)
        with pytest.raises(ConfigError):
            await transport.connect("", Recorder(), CONNECT_S)

    run(scenario)


def test_both_ends_have_names_and_a_secure_transport_proves_them(run: Run, listen_address: str) -> None:
    """`remote` is a text for people. `certificate_names` is None if the transport proves nothing, and else a tuple of
    texts. It fails if a transport that is not `secure` gives names, if one is empty or comes twice, or if they are one
    text. A part of a name would then count as a name."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address)
        for end in (pair.near, pair.far):
            assert end.connection.remote
            proved = end.connection.certificate_names
            if proved is not None:
                assert transport.secure and type(proved) is tuple and all(proved)
                assert len(set(proved)) == len(proved)
        assert pair.near.connection.remote == pair.listener.address
        await pair.shut()

    run(scenario)


def test_many_connections_at_once_do_not_mix(run: Run, listen_address: str) -> None:
    """The bytes of one connection arrive on that connection only. It fails if connections share a buffer."""

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address, echo)
        others = [Recorder() for _ in range(40)]
        await asyncio.gather(*(transport.connect(pair.listener.address, other, CONNECT_S) for other in others))
        for number, other in enumerate(others):
            other.connection.write(b"%04d" % number * 100)
        for number, other in enumerate(others):
            await other.wait_bytes(400)
            assert bytes(other.data) == b"%04d" % number * 100
            other.connection.close()
            await other.wait_for("lost")
        await pair.shut()

    run(scenario)


# --- the blocking power ----------------------------------------------------------------------------------------------


def test_a_blocking_socket_where_there_is_one_reaches_the_same_listener(
    run: Run, listen_address: str, disheap_registry: Any, disheap_tables: Any, transport_name: str, wait_s: float
) -> None:
    """The socket of a `BlockingConnect` transport speaks to the same listener, and raises `ConnectionLost` too. It
    fails if the blocking and the asynchronous side differ."""
    plugin = disheap_registry.get("transport", transport_name)
    table = disheap_tables["transport"].get(transport_name, {})
    settings = disheap_registry.settings("transport", transport_name, table, "--disheap-set")

    def talk(address: str) -> bytes:
        sock = connected(plugin.start_connecting(settings, address), CONNECT_S)
        try:
            sock.setblocking(True)
            sock.settimeout(wait_s)
            assert sock.send(b"ping") == 4
            answer: bytes = sock.recv(4)
            return answer
        finally:
            sock.close()

    async def scenario(transport: Transport) -> None:
        pair = Pair(transport)
        await pair.open(listen_address, echo)
        if isinstance(plugin, BlockingConnect):
            assert await asyncio.to_thread(talk, pair.listener.address) == b"ping"
            await pair.listener.close()
            with pytest.raises(ConnectionLost):
                connected(plugin.start_connecting(settings, pair.listener.address), CONNECT_S)
        else:
            assert not hasattr(plugin, "start_connecting")
        await pair.shut()

    run(scenario)
