"""The service `http` of real nodes: who is ready, when, and why not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from disheap.config.node_config import MemberConfig, NodeConfig, load
from disheap.errors import AddressInUse, ConfigError, UnsafeListen
from disheap.kernel.types import Index
from disheap.plugins.settings import Text
from disheap.testing.inspected import InspectedMember as Node
from disheap_http.service import HttpService
from tests.http.serving import Response, browsing, get, port, serving
from tests.support.nodes import FAST, TestRegistry

HTTP = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0"}


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[HttpService]:
    """The services that nodes have built, in this order."""
    built: list[HttpService] = []
    original = HttpService.__init__

    def noted(self: HttpService, settings: Any, context: Any) -> None:
        original(self, settings, context)
        built.append(self)

    monkeypatch.setattr(HttpService, "__init__", noted)
    return built


def node(name: str = "n1", members: tuple[MemberConfig, ...] = (), **changes: Any) -> Node:
    own = next((member for member in members if member.name == name), None)
    given: dict[str, Any] = {
        "name": name, "alone": not members, "members": members, "storage": "memory", "transport": "inproc",
        "client_listen": own.client if own else "http-node:1", "machine": "heap", "raft": FAST, "services": ("http",),
        "plugins": {"service": {"http": HTTP}}, **({"peer_listen": own.peer} if own else {}), **changes,
    }  # fmt: skip
    return Node(NodeConfig(**given), registry=TestRegistry.load())


async def reasons(service: HttpService) -> list[str]:
    answer = await get(service, "/ready")
    assert (answer.status == 200) == answer.json["ready"] == (not answer.json["reasons"])
    return list(answer.json["reasons"])


async def until_ready(service: HttpService) -> Response:
    async with asyncio.timeout(10):
        while (answer := await get(service, "/ready")).status != 200:
            await asyncio.sleep(0.01)
        return answer


async def test_a_node_alone_is_ready_when_it_leads(services: list[HttpService]) -> None:
    async with node():
        assert (await until_ready(services[0])).json == {"ready": True, "node": "n1", "reasons": []}
        status = (await get(services[0], "/raft/status")).json
        assert (status["role"], status["leader"], status["machine"]) == ("leader", "n1", "heap")
        assert (await get(services[0], "/raft/status?group=1")).json["error"].startswith("this node has no group 1")


async def test_a_member_without_a_leader_lives_and_is_not_ready(services: list[HttpService]) -> None:
    members = tuple(MemberConfig(f"n{n}", f"ready{n}:8300", f"ready{n}:8400") for n in (1, 2))
    async with node("n1", members):
        assert (await get(services[0], "/health")).status == 200
        (reason,) = await reasons(services[0])
        assert "group 0: " in reason
        assert (await get(services[0], "/raft/status")).json["leader"] == ""
        async with node("n2", members):
            await asyncio.gather(*(until_ready(service) for service in services))
        async with asyncio.timeout(10):
            while await reasons(services[0]) != ["group 0: no leader is known"]:
                await asyncio.sleep(0.01)


async def test_a_follower_that_is_behind_is_not_ready(services: list[HttpService]) -> None:
    async with node() as one:
        await until_ready(services[0])
        raft = one.replicas[0].group.raft
        raft._state.become_follower(raft.term, raft.id)
        assert await reasons(services[0]) == ["group 0: it is not known yet what is committed"]
        raft._state.verified = raft.last_index
        raft._state.commit_heard = Index(raft.commit + 1000)
        assert await reasons(services[0]) == []
        raft._state.commit_heard = Index(raft.commit + 1001)
        assert await reasons(services[0]) == ["group 0: the replica is 1001 entries behind"]


async def test_a_node_whose_disk_is_short_is_not_ready(services: list[HttpService]) -> None:
    async with node() as one:
        await until_ready(services[0])
        one.replicas[0].maintenance.disk_space.is_short = True
        assert await reasons(services[0]) == ["group 0: the disk is short of room"]


async def test_a_node_in_quarantine_is_not_ready(services: list[HttpService]) -> None:
    async with node() as one:
        await until_ready(services[0])
        one.replicas[0].quarantine("the state differs")
        assert await reasons(services[0]) == ["group 0: the replica is quarantined: the state differs"]


async def test_a_node_that_stops_is_not_ready_while_it_hands_over(
    services: list[HttpService], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node() as one:
        await until_ready(services[0])
        seen: list[list[str]] = []

        async def hand_over() -> None:
            seen.append(await reasons(services[0]))

        monkeypatch.setattr(one.replicas[0], "hand_over", hand_over)
        await one.stop()
    assert seen == [["the node is stopping"]]


async def test_a_port_in_use_keeps_the_node_from_starting_and_from_writing(
    services: list[HttpService], tmp_path: Path
) -> None:
    async with serving() as other:
        taken = f"127.0.0.1:{port(other)}"
        table = {"service": {"http": {**HTTP, "metrics_listen": taken}}}
        broken = node(storage="file", data_dir=str(tmp_path / "data"), plugins=table)
        with pytest.raises(AddressInUse, match="another process does"):
            await broken.start()
    assert not (tmp_path / "data").exists(), "nothing is left behind"
    assert len(asyncio.all_tasks()) == 1


async def test_other_machines_are_served_over_tls_or_if_somebody_insists() -> None:
    table = {"service": {"http": {**HTTP, "listen": "0.0.0.0:0"}}}
    with pytest.raises(UnsafeListen, match=r"without TLS and clients' certificates.*--insecure"):
        await node(plugins=table).start()
    async with node(plugins=table, insecure=True):
        pass


async def test_a_connection_that_is_open_does_not_delay_the_stop(services: list[HttpService]) -> None:
    async with node() as one, browsing(services[0]) as browser:
        assert (await browser.get("/health")).status == 200
        async with asyncio.timeout(5):
            await one.stop()
        assert await browser.is_closed()


# --- settings --------------------------------------------------------------------------------------------------------


def test_http_listen_is_short_for_the_service_and_its_address() -> None:
    config = load(None, {"DISHEAP_HTTP_LISTEN": ":8080", "DISHEAP_SERVICES": "grpc"}, {"metrics_listen": "none"})
    assert config.services == ("grpc", "http")
    assert config.table("service") == {"http": {"listen": ":8080", "metrics_listen": "none"}}
    assert load(None, {}, {}).services == ()


def test_http_listen_leaves_other_settings_of_the_service_alone(tmp_path: Path) -> None:
    file = tmp_path / "disheap.toml"
    file.write_text('services = ["http"]\nhttp_listen = ":1"\n[service.http]\nconnections = 5\n')
    config = load(file, {}, {"http_listen": Text("127.0.0.1:2", "--http-listen")})
    assert config.services == ("http",)
    assert config.table("service") == {"http": {"connections": 5, "listen": "127.0.0.1:2"}}


def test_a_service_table_that_is_wrong_is_told_beside_http_listen() -> None:
    with pytest.raises(ConfigError, match="services = "):
        load(None, {"DISHEAP_SERVICE": "grpc"}, {"http_listen": ":1"})
