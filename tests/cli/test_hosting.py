"""What ends a node's process: what it raises becomes the exit code (`disheap.cli.main`)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from disheap.cli.processes import hosting
from disheap.cli.processes.reloading import Reloading
from disheap.config.node_config import NodeConfig
from disheap.errors import DiskFailed, RequestTimeout
from disheap.plugins.registry import Registry
from disheap.runtime.hosted_replica import Replica
from disheap.testing.inspected import InspectedMember as Node
from disheap_memory.storage import MemoryStorage

CONFIG = NodeConfig(name="n1", alone=True, storage="memory", transport="inproc", client_listen="n1:8400")


class FailsToClose(MemoryStorage):
    def close(self) -> None:
        super().close()
        raise DiskFailed("close: the disk is gone")


class Replaced(Registry):
    def get(self, kind: str, name: str) -> type[Any]:
        return FailsToClose if (kind, name) == ("storage", "memory") else super().get(kind, name)


@pytest.fixture(autouse=True)
def process_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hosting, "freeze_garbage", lambda: None)
    interval, hang_up = sys.getswitchinterval(), signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, hang_up)
    sys.setswitchinterval(interval)


def with_storage_that_fails_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "Member", lambda config: Node(config, registry=Replaced.load()))


async def stop_by_signal(node: Node) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_ends_a_node_without_an_error() -> None:
    hosting.host(CONFIG, stop_by_signal)


def test_an_error_of_closing_after_a_signal_is_the_processs_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with_storage_that_fails_to_close(monkeypatch)
    with pytest.raises(DiskFailed, match="close: the disk is gone"):
        hosting.host(CONFIG, stop_by_signal)


def test_a_signal_while_a_node_starts_hides_no_error_of_its_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_storage_that_fails_to_close(monkeypatch)
    recover = Replica._recover

    async def recover_and_stop(replica: Replica, follow: bool) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return await recover(replica, follow)

    async def announce(node: Node) -> None:
        """It may have started before the signal is seen. A second one would end this process."""

    monkeypatch.setattr(Replica, "_recover", recover_and_stop)
    with pytest.raises(DiskFailed, match="close: the disk is gone"):
        hosting.host(CONFIG, announce)


def test_what_ends_the_node_is_raised_also_while_it_is_being_announced() -> None:
    """The error of the announcement, such as that there is no leader, is not raised."""

    async def announce(node: Node) -> None:
        node.failed(DiskFailed("append: the disk is gone"))
        await node.wait_for_another_leader()

    with pytest.raises(DiskFailed, match="append: the disk is gone"):
        hosting.host(CONFIG, announce)


def test_a_node_that_fails_and_is_told_to_stop_at_the_same_time_has_failed() -> None:
    async def announce(node: Node) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        node.failed(DiskFailed("append: the disk is gone"))

    with pytest.raises(DiskFailed, match="append: the disk is gone"):
        hosting.host(CONFIG, announce)


def test_an_error_of_announcing_is_raised_and_the_node_stopped() -> None:
    async def announce(node: Node) -> None:
        raise RequestTimeout("no leader")

    with pytest.raises(RequestTimeout, match="no leader"):
        hosting.host(CONFIG, announce)


def test_a_sighup_reloads_and_ends_nothing() -> None:
    read: list[NodeConfig] = []
    logged: list[NodeConfig] = []

    def read_again() -> NodeConfig:
        read.append(CONFIG)
        return CONFIG

    async def announce(node: Node) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(10):
            while not logged:
                await asyncio.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    hosting.host(CONFIG, announce, Reloading(CONFIG, read_again, logged.append))
    assert read == logged == [CONFIG]


def test_a_sighup_stops_a_node_that_has_nothing_to_reload() -> None:
    async def announce(node: Node) -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    hosting.host(CONFIG, announce)
