"""Transport `inproc`: one address space for each loop, and nothing but the loop's own order."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from wires import Door, Wire

from disheap.errors import ConnectionLost
from disheap.interfaces import TransportContext
from disheap_memory.inproc import FIRST_PORT, READ_BYTES, InprocSettings, InprocTransport


def transport(**settings: int) -> InprocTransport:
    return InprocTransport(InprocSettings(**settings), TransportContext(asyncio.get_running_loop()))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_two_loops_do_not_see_each_other() -> None:
    one, two = asyncio.Runner(), asyncio.Runner()

    async def listen() -> str:
        return (await transport().listen("n1:0", Door())).address

    async def connect(address: str) -> None:
        await transport().connect(address, Wire(), 1.0)

    with one, two:
        address = one.run(listen())
        assert address == two.run(listen()) == f"n1:{FIRST_PORT}"
        three = asyncio.Runner()
        with three, pytest.raises(ConnectionLost, match="nobody in this process listens on n1:"):
            three.run(connect(address))
        one.run(connect(address))


def test_a_hub_goes_with_its_loop() -> None:
    with asyncio.Runner() as runner:

        async def touch() -> None:
            await (await transport().listen("a", Door())).close()

        runner.run(touch())
        loop = weakref.ref(runner.get_loop())
    del runner
    gc.collect()
    assert loop() is None


async def test_any_name_is_an_address_and_a_port_is_chosen_where_none_was() -> None:
    door = Door(echo=True)
    names = [(await transport().listen(name, door)).address for name in ("n1", "host:0", "host:0", "host:7")]
    assert names == ["n1", f"host:{FIRST_PORT}", f"host:{FIRST_PORT + 1}", "host:7"]


async def test_bytes_arrive_in_a_later_callback_than_the_one_that_wrote_them() -> None:
    door = Door(echo=True)
    listener = await transport().listen("n1", door)
    wire = Wire()
    connection = await transport().connect("n1", wire, 1.0)
    connection.write(b"ping")
    assert door.wires == []
    await settle()
    assert (door.wires[0].data, wire.data) == (b"ping", b"ping")
    await listener.close()


async def test_a_flood_is_delivered_in_bounded_pieces() -> None:
    sizes: list[int] = []

    class Counter(Wire):
        def data_received(self, data: bytes) -> None:
            sizes.append(len(data))

    await transport().listen("n1", Counter)
    connection = await transport(write_buffer_bytes=1 << 30).connect("n1", Wire(), 1.0)
    for _ in range(100):
        connection.write(bytes(10_000))
    await settle()
    assert sum(sizes) == 1_000_000
    assert max(sizes) < READ_BYTES + 10_000
    assert len(sizes) > 1


async def test_the_writer_pauses_at_its_own_setting_and_goes_on_at_a_quarter() -> None:
    door = Door()
    await transport().listen("n1", door)
    wire = Wire()
    connection = await transport(write_buffer_bytes=1024).connect("n1", wire, 1.0)
    await settle()
    door.wires[0].connection.pause_reading()
    connection.write(bytes(1024))
    assert not wire.paused.is_set()
    connection.write(b"x")
    assert wire.paused.is_set()
    assert connection.buffered() == 1025
    door.wires[0].connection.resume_reading()
    await settle()
    assert not wire.paused.is_set()
    assert connection.buffered() == 0


async def test_a_receiver_that_fails_costs_its_own_connection() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    class Failing(Wire):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a bug")

    await transport().listen("n1", Failing)
    wire = Wire()
    connection = await transport().connect("n1", wire, 1.0)
    connection.write(b"x")
    await settle()
    assert wire.lost.is_set()
    assert isinstance(wire.error, ConnectionLost)
    assert [str(error) for error in reported] == ["a bug"]


async def test_a_listener_that_ends_before_it_accepted_breaks_the_connection_off() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def fail() -> Wire:
        raise RuntimeError("no more")

    closing = await transport().listen("n1", Door())
    await transport().listen("n2", fail)
    wires = [Wire(), Wire()]
    for name, wire in zip(("n1", "n2"), wires, strict=True):
        await transport().connect(name, wire, 1.0)
    await closing.close()
    await closing.close()
    await settle()
    assert [type(wire.error) for wire in wires] == [ConnectionLost, ConnectionLost]
    assert [str(error) for error in reported] == ["no more"]
