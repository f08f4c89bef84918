"""What a node tells systemd: sd_notify(3), received by a socket of the test."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from disheap.cli.processes import hosting
from disheap.cli.processes.reloading import Reloading
from disheap.cli.processes.service_manager import ServiceManager
from disheap.config.node_config import NodeConfig
from disheap.testing.inspected import InspectedMember as Node
from tests.cli.test_hosting import CONFIG, process_is_left_as_it_was  # noqa: F401

WAIT_S = 10.0


class Manager:
    """The other end of the socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(WAIT_S)

    def next(self) -> list[str]:
        """The lines of the next message."""
        return self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    name = f"disheap-test-{os.getpid()}"
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path if request.param == "path" else f"@{name}")
    manager = Manager(path if request.param == "path" else f"\0{name}")
    yield manager
    manager.close()


def test_a_node_says_when_it_is_ready_who_leads_and_that_it_stops(manager: Manager) -> None:
    said: list[list[str]] = []

    async def announce(node: Node) -> None:
        said.append(manager.next())
        said.append(await asyncio.to_thread(manager.next))
        os.kill(os.getpid(), signal.SIGTERM)

    hosting.host(CONFIG, announce)
    assert [*said, manager.next()] == [["READY=1"], ["STATUS=n1 leads"], ["STOPPING=1"]]


def test_a_reload_is_announced_and_its_end_too(manager: Manager) -> None:
    reloaded: list[list[str]] = []

    def read() -> NodeConfig:
        return CONFIG

    async def announce(node: Node) -> None:
        assert manager.next() == ["READY=1"]
        os.kill(os.getpid(), signal.SIGHUP)
        while ["READY=1"] not in reloaded:
            reloaded.append(await asyncio.to_thread(manager.next))
        os.kill(os.getpid(), signal.SIGTERM)

    hosting.host(CONFIG, announce, Reloading(CONFIG, read, lambda config: None))
    (first, second), ready = [lines for lines in reloaded if not lines[0].startswith("STATUS=")]
    assert first == "RELOADING=1" and second.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert ready == ["READY=1"]


@pytest.mark.parametrize("is_named", [False, True])
async def test_the_watchdog_is_told_twice_in_its_time(is_named: bool, manager: Manager) -> None:
    environment = {**os.environ, "WATCHDOG_USEC": "100000", **({"WATCHDOG_PID": str(os.getpid())} if is_named else {})}
    loop = asyncio.get_running_loop()
    to_manager, begin = ServiceManager(loop, environment), loop.time()
    to_manager.ready()
    said = [await asyncio.to_thread(manager.next) for _ in range(4)]
    to_manager.close()
    assert said == [["READY=1"], ["WATCHDOG=1"], ["WATCHDOG=1"], ["WATCHDOG=1"]]
    assert loop.time() - begin >= 0.09, "two halves of 100 ms, less the clock's resolution"


@pytest.mark.parametrize(
    "wrong",
    [{"WATCHDOG_PID": "1", "WATCHDOG_USEC": "100000"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}],
)
async def test_a_watchdog_of_another_process_or_none_is_not_told(wrong: dict[str, str], manager: Manager) -> None:
    to_manager = ServiceManager(asyncio.get_running_loop(), {**os.environ, **wrong})
    to_manager.ready()
    to_manager.stopping()
    to_manager.close()
    assert [manager.next(), manager.next()] == [["READY=1"], ["STOPPING=1"]]


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "relative"])
async def test_nothing_is_opened_where_there_is_no_socket(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(socket, "socket", lambda *kind: opened.append(kind))
    to_manager = ServiceManager(asyncio.get_running_loop(), {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000"})
    to_manager.ready(), to_manager.status("x"), to_manager.reloading(), to_manager.stopping(), to_manager.close()
    to_manager.close()
    assert opened == []


async def test_a_manager_that_is_gone_ends_no_node_and_may_come_back(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    to_manager = ServiceManager(asyncio.get_running_loop(), {"NOTIFY_SOCKET": path})
    to_manager.ready()
    manager = Manager(path)
    to_manager.stopping()
    assert manager.next() == ["STOPPING=1"]
    to_manager.close(), manager.close()
