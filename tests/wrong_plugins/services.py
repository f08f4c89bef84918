"""Services that break one rule each, made from `Desk`, which keeps all of them."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, ClassVar

import msgspec

from disheap.cli.processes.local_cluster import free_ports
from disheap.interfaces import ServiceContext

(PORT,) = free_ports(1)
"""One for the whole process, as an operator would set it."""


class Desk:
    """Listens on one port, and has a clerk at work as long as it runs."""

    name: ClassVar[str] = "desk"
    api: ClassVar[int] = 1

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        pass

    def __init__(self, settings: Any, context: ServiceContext) -> None:
        self.settings = settings
        self.context = context
        self.socket: socket.socket | None = None
        self.server: asyncio.Server | None = None
        self.clerk: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.socket = listening()
        self.clerk = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        self.server = await asyncio.start_server(hang_up, sock=self.socket)

    async def stop(self) -> None:
        await self.end_work()
        self.end_listening()

    async def end_work(self) -> None:
        if self.clerk is not None:
            self.clerk.cancel()
            await asyncio.gather(self.clerk, return_exceptions=True)

    def end_listening(self) -> None:
        if self.server is not None:
            self.server.close()
        if self.socket is not None:
            self.socket.close()


def listening() -> socket.socket:
    taken = socket.socket()
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", PORT))
        taken.listen()
    except OSError:
        taken.close()
        raise
    return taken


async def work() -> None:
    await asyncio.Event().wait()


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


# --- starting --------------------------------------------------------------------------------------------------------


class WorksWhenItIsBuilt(Desk):
    def __init__(self, settings: Any, context: ServiceContext) -> None:
        super().__init__(settings, context)
        self.clerk = asyncio.ensure_future(work())


class NeedsALeader(Desk):
    async def start(self) -> None:
        await super().start()
        await self.context.apply(b"here I am", 5.0)


class ReadsAnUndeclaredSetting(Desk):
    async def start(self) -> None:
        assert self.settings.listen, "it is in every example"
        await super().start()


class Blocks(Desk):
    async def start(self) -> None:
        time.sleep(0.7)
        await super().start()


class ForgetsTheClerkOfAHalfStart(Desk):
    async def start(self) -> None:
        clerk = asyncio.ensure_future(work())
        await super().start()
        await self.end_work()
        self.clerk = clerk


class KeepsThePortOfAHalfStart(Desk):
    def end_listening(self) -> None:
        if self.server is not None:
            super().end_listening()


# --- stopping --------------------------------------------------------------------------------------------------------


class KeepsListening(Desk):
    def end_listening(self) -> None:
        OPEN.append((self.socket, self.server))


class KeepsTheClerk(Desk):
    async def end_work(self) -> None:
        pass


class StopsOnlyAfterAStart(Desk):
    async def stop(self) -> None:
        assert self.server is not None
        await super().stop()


class NeverStops(Desk):
    async def stop(self) -> None:
        await super().stop()
        await asyncio.Event().wait()


class StopsForAll(Desk):
    is_over = False

    async def start(self) -> None:
        assert not self.is_over
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        type(self).is_over = True


class KeepsADescriptor(Desk):
    async def start(self) -> None:
        await super().start()
        OPEN.append(socket.socket())


class LeavesASocketToTheCollector(Desk):
    async def start(self) -> None:
        await super().start()
        loop = [socket.socket()]
        loop.append(loop)  # type: ignore[arg-type]


OPEN: list[Any] = []
"""Keeps what a service forgot."""

RIGHT = Desk
MEANT: dict[type[Any], str] = {
    WorksWhenItIsBuilt: "test_building_a_service_starts_nothing",
    NeedsALeader: "test_a_service_starts_and_stops_whether_or_not_there_is_a_leader",
    ReadsAnUndeclaredSetting: "test_a_service_starts_and_stops_whether_or_not_there_is_a_leader",
    Blocks: "test_start_and_stop_let_the_loop_go_on",
    ForgetsTheClerkOfAHalfStart: "test_a_start_that_is_cancelled_can_be_stopped",
    KeepsThePortOfAHalfStart: "test_a_start_that_is_cancelled_can_be_stopped",
    KeepsListening: "test_a_second_instance_starts_where_the_first_has_stopped",
    KeepsTheClerk: "test_nothing_runs_after_stop",
    StopsOnlyAfterAStart: "test_stop_without_a_start_raises_nothing",
    NeverStops: "test_stop_returns_in_the_time_that_a_node_gives_it",
    StopsForAll: "test_two_services_of_one_plugin_share_nothing",
    KeepsADescriptor: "test_many_rounds_leave_no_descriptor_open",
    LeavesASocketToTheCollector: "test_nothing_is_left_to_the_garbage_collector_to_close",
}
