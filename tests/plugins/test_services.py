"""Services: a node starts them after it serves, stops them before it ends, and survives what is wrong with them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.nodes import Cluster
from watching_plugin import Echo, Unstartable, Watcher, registry_with

from disheap.config.node_config import Limits, NodeConfig, load
from disheap.errors import ConfigError, PluginError, Unauthorized
from disheap.interfaces import Principal
from disheap.runtime.services import Context
from disheap.testing.inspected import InspectedMember as Node

HERE = Path(__file__).parent


def node_with(*services: str, **changes: Any) -> Node:
    config = NodeConfig(
        name="n1", alone=True, storage="memory", transport="inproc", client_listen="services:1", machine="counter",
        services=services, **changes,
    )  # fmt: skip
    return Node(config, registry=registry_with(Watcher()))


async def ask(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"?\n")
    answer = await reader.read()
    writer.close()
    return answer.decode()


async def test_a_service_answers_while_its_node_runs_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Echo] = []
    monkeypatch.setattr(Echo, "start", record(Echo.start, built))
    node = node_with("echo", plugins={"service": {"echo": {"greeting": "good morning"}}})
    async with node:
        await node.wait_for_leader()
        assert await ask(built[0].port) == "good morning from n1, leader\n"
    with pytest.raises(ConnectionRefusedError):
        await ask(built[0].port)


def record(start: Any, built: list[Echo]) -> Any:
    async def recorded(self: Echo) -> None:
        built.append(self)
        await start(self)

    return recorded


async def test_a_service_that_cannot_start_is_stopped_and_the_node_does_not_start() -> None:
    before = Unstartable.stopped
    node = node_with("echo", "unstartable")
    with pytest.raises(ConfigError, match="choose another port"):
        await node.start()
    assert Unstartable.stopped == before + 1
    assert len(asyncio.all_tasks()) == 1, "nothing is left running"


async def test_a_service_that_fails_while_it_stops_is_logged_and_the_node_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with node_with("unstoppable", "echo"):
        pass
    assert [text for text in caplog.messages if "a service failed while it stopped" in text]


@pytest.mark.parametrize(
    ("services", "tables", "error", "says"),
    [
        (("nothing",), {}, PluginError, "there is no service 'nothing'. Installed: echo"),
        (("echo", "echo"), {}, ConfigError, "named twice"),
        (("echo",), {"echo": {"greting": "x"}}, ConfigError, "greting"),
        ((), {"nothing": {"x": 1}}, PluginError, "there is no service 'nothing'"),
    ],
)
async def test_what_is_wrong_with_services_is_told_before_the_node_starts(
    services: tuple[str, ...], tables: dict[str, Any], error: type[Exception], says: str
) -> None:
    node = node_with(*services, plugins={"service": tables})
    with pytest.raises(error, match=says):
        await node.start()


def test_one_service_is_given_as_a_list_too(tmp_path: Path) -> None:
    assert load(None, {"DISHEAP_SERVICES": "http,grpc"}, {}).services == ("http", "grpc")
    for given in ({"DISHEAP_SERVICE": "http"}, {"DISHEAP_SERVICE__USE": "http"}):
        with pytest.raises(ConfigError, match="services = "):
            load(None, given, {})


async def test_a_service_uses_the_machine_through_a_session_of_the_node(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        context = Context(cluster.nodes["n1"], asyncio.get_running_loop())
        assert await context.apply(b"+3", 10) == b"3"
        assert await context.query(b"total", 10) == b"3"
        assert context.metrics()["disheap_commands_applied_total"] == 1
        assert (await context.status())["counters"] == context.metrics()


async def test_only_operators_pass_the_check(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, limits=Limits(operator_names=("ops",))) as cluster:
        context = Context(cluster.nodes["n1"], asyncio.get_running_loop())
        context.check_operator(Principal(), "127.0.0.1:5000")
        context.check_operator(Principal("ops"), "10.0.0.9:5000")
        for principal in (Principal(), Principal("worker")):
            with pytest.raises(Unauthorized, match=r"limits\.operator_names"):
                context.check_operator(principal, "10.0.0.9:5000")


@pytest.mark.proof
def test_the_conformance_suite_tells_a_right_service_from_one_that_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, is_right in (("echo", True), ("leaky", False)):
        suite = subprocess.run(
            [
                sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "watching_fixtures", "--pyargs",
                "disheap.testing.conformance.test_service", "--disheap-service", name,
            ],
            capture_output=True, text=True, cwd=tmp_path, check=False,
            env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent.parent}"},
        )  # fmt: skip
        assert (suite.returncode == 0) == is_right, suite.stdout[-3000:] + suite.stderr[-1000:]
        assert is_right or "test_nothing_runs_after_stop" in suite.stdout
