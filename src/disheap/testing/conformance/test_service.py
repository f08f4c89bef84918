"""The contract of services (`disheap.interfaces.Service`), with a context that has no node behind it.

Each test runs in asyncio's own loop and in uvloop's.
"""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from disheap.errors import NotLeader, Unauthorized, UnsafeListen
from disheap.interfaces import Histogram, Metric, Principal, Service

MAX_TURN_S = 0.5
"""A service must not stop its node's loop. The contract says milliseconds; a slow machine gets half a second."""
STOP_S = 5.0
SETTLE_TURNS = 10
"""Turns of the loop in which a connection that was closed is gone."""


class Context:
    """A `ServiceContext` that answers, or refuses as a node without a leader does."""

    def __init__(self, leads: bool = True) -> None:
        self.loop = asyncio.get_running_loop()
        self.node = "n1"
        self.leads = leads

    async def status(self, group: int = 0) -> dict[str, Any]:
        """Returns the status of a node, by the keys that services read."""
        return {"node": self.node, "role": "leader" if self.leads else "follower", "counters": self.metrics()}

    def metrics(self) -> dict[str, int | float]:
        """Returns one counter."""
        return {"raft_applied_entries_total": 1}

    def unready(self) -> list[str]:
        """Returns why the node takes no part, if it does not lead."""
        return [] if self.leads else ["no leader is known"]

    async def measure(self) -> list[Metric]:
        """Returns a counter by topic and a histogram."""
        counter = Metric("disheap_enqueued_total", "counter", "Enqueued.", ("group", "topic"), [(("0", "jobs"), 3)])
        return [counter, Metric("raft_commit_seconds", "histogram", "Commits.", (), [((), Histogram().read())])]

    def list_stats(self, group: int, prefix: str, after: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Returns one row."""
        return ([{"name": "jobs", "ready": 3}] if not after else [])[:limit], 1

    def check_listen(self, address: str, is_secure: bool) -> None:
        """Raises `UnsafeListen` for an address that is not this machine's own."""
        if not is_secure and not address.startswith(("127.", "localhost:", "[::1]:")):
            raise UnsafeListen(f"{address} is open to other machines")

    async def apply(self, command: bytes, timeout_s: float) -> bytes:
        """Returns the command itself. Raises `NotLeader` if the context does not lead."""
        self._need_leader()
        return command

    async def query(self, request: bytes, timeout_s: float) -> bytes:
        """Returns the request itself. Raises `NotLeader` if the context does not lead."""
        self._need_leader()
        return request

    def check_operator(self, principal: Principal, remote: str) -> None:
        """Raises `Unauthorized` for everybody."""
        raise Unauthorized("nobody is an operator here")

    def _need_leader(self) -> None:
        if not self.leads:
            raise NotLeader()


Build = Callable[[Context], Service]


def other_tasks() -> list[asyncio.Task[Any]]:
    """Returns the tasks of the loop besides the present one."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def settle() -> None:
    """Give the loop the turns in which a closed connection ends."""
    for _ in range(SETTLE_TURNS):
        await asyncio.sleep(0)


async def longest_turn(run: Awaitable[None]) -> float:
    """Seconds between two turns of the loop while `run` is awaited."""
    longest, over = 0.0, False

    async def watch() -> None:
        nonlocal longest
        before = time.monotonic()
        while not over:
            await asyncio.sleep(0.001)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()

    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    try:
        await run
    finally:
        over = True
        await watching
    return longest


def test_building_a_service_starts_nothing(runner: asyncio.Runner, service_factory: Build) -> None:
    """The constructor may only take note of its settings: a node builds its services before it opens its data."""

    async def main() -> None:
        service_factory(Context())
        await settle()
        assert other_tasks() == []

    runner.run(main())


@pytest.mark.parametrize("leads", [True, False])
def test_a_service_starts_and_stops_whether_or_not_there_is_a_leader(
    runner: asyncio.Runner, service_factory: Build, leads: bool
) -> None:
    """`start` must not wait for a leader: a cluster's first node would never finish its own start."""

    async def main() -> None:
        service = service_factory(Context(leads))
        async with asyncio.timeout(10):
            await service.start()
            await service.stop()

    runner.run(main())


def test_nothing_runs_after_stop(runner: asyncio.Runner, service_factory: Build) -> None:
    """Every task of the service has ended when `stop` returns, or in the turns of the loop that follow at once."""

    async def main() -> None:
        service = service_factory(Context())
        await service.start()
        await service.stop()
        await settle()
        assert other_tasks() == []

    runner.run(main())


def test_stop_without_a_start_raises_nothing(runner: asyncio.Runner, service_factory: Build) -> None:
    """A node that fails while it starts stops every service, also one whose `start` failed half-way."""

    async def main() -> None:
        await service_factory(Context()).stop()
        await settle()
        assert other_tasks() == []

    runner.run(main())


def test_a_second_instance_starts_where_the_first_has_stopped(runner: asyncio.Runner, service_factory: Build) -> None:
    """What the first one took, such as a port, is free again when `stop` has returned."""

    async def main() -> None:
        for _ in range(3):
            service = service_factory(Context())
            await service.start()
            await service.stop()

    runner.run(main())


def test_a_start_that_is_cancelled_can_be_stopped(runner: asyncio.Runner, service_factory: Build) -> None:
    """A node that is told to stop during its start cancels `start` and calls `stop`. What the service took, such as a
    port, is free again."""

    async def main() -> None:
        service = service_factory(Context())
        starting = asyncio.ensure_future(service.start())
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await service.stop()
        await settle()
        assert other_tasks() == []
        another = service_factory(Context())
        await another.start()
        await another.stop()

    runner.run(main())


def test_start_and_stop_let_the_loop_go_on(runner: asyncio.Runner, service_factory: Build) -> None:
    """The node's loop serves clients meanwhile: what blocks belongs into a thread."""

    async def main() -> None:
        service = service_factory(Context())

        async def both() -> None:
            await service.start()
            await service.stop()

        assert await longest_turn(both()) < MAX_TURN_S

    runner.run(main())


def test_two_services_of_one_plugin_share_nothing(runner: asyncio.Runner, service_factory: Build) -> None:
    """Several nodes may run in one process. The end of one service is not the end of the other."""

    async def main() -> None:
        first, second = service_factory(Context()), service_factory(Context())
        await first.start()
        await first.stop()
        await second.start()
        await second.stop()

    runner.run(main())


def test_stop_returns_in_the_time_that_a_node_gives_it(runner: asyncio.Runner, service_factory: Build) -> None:
    """A node gives up a service that has not stopped after five seconds, and whatever it held is lost."""

    async def main() -> None:
        service = service_factory(Context())
        await service.start()
        async with asyncio.timeout(STOP_S):
            await service.stop()

    runner.run(main())


def test_many_rounds_leave_no_descriptor_open(runner: asyncio.Runner, service_factory: Build) -> None:
    """A node that is restarted within one process must not run out of files."""

    async def main() -> None:
        async def one_round() -> None:
            service = service_factory(Context())
            await service.start()
            await service.stop()
            await settle()

        await one_round()  # what is opened once for the whole process is open now
        before = open_descriptors()
        for _ in range(5):
            await one_round()
        gc.collect()
        assert open_descriptors() <= before

    runner.run(main())


def open_descriptors() -> int:
    """Returns the file descriptors that this process has open."""
    directory = Path("/proc/self/fd")
    return len(list((directory if directory.is_dir() else Path("/dev/fd")).iterdir()))


def test_nothing_is_left_to_the_garbage_collector_to_close(runner: asyncio.Runner, service_factory: Build) -> None:
    """A socket or a coroutine that only the collector ends is a warning of Python, and an error here."""

    async def main() -> None:
        service = service_factory(Context())
        await service.start()
        await service.stop()
        await settle()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runner.run(main())
        gc.collect()
    assert [str(one.message) for one in caught if issubclass(one.category, ResourceWarning | RuntimeWarning)] == []
