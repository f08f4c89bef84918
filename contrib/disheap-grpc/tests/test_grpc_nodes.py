"""The service on real nodes: clusters, ends of processes, TLS, and wrong settings."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving import PATIENCE_S, Site, enqueue, info_of, make_node, members, renew_topic, serving, until

from disheap.cli.processes.local_cluster import free_ports
from disheap.errors import AddressInUse, ConfigError, UnsafeListen
from disheap.logs import LINES_AT_ONCE
from disheap.testing.certificates import Authority
from disheap_grpc.settings import GrpcSettings
from disheap_grpc.v1 import broker_pb2 as pb
from disheap_grpc.v1 import broker_pb2_grpc as rpc


@asynccontextmanager
async def cluster(count: int = 3) -> AsyncIterator[list[Site]]:
    """Nodes that have a leader."""
    given = members(count, free_ports(2 * count))
    async with AsyncExitStack() as stack:
        nodes = []
        for one in given:
            config = {
                "name": one.name, "alone": False, "members": given, "peer_listen": one.peer,
                "client_listen": one.client,
            }  # fmt: skip
            nodes.append(make_node(config))
        for node, _ in nodes:
            stack.push_async_callback(node.stop)
        await asyncio.gather(*(node.start() for node, _ in nodes))
        await nodes[0][0].wait_for_leader(PATIENCE_S)
        sites = []
        for node, service in nodes:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(service().address))
            sites.append(Site(node, service(), channel, rpc.BrokerStub(channel), rpc.ClusterStub(channel)))
        await renew_topic(sites[0])
        yield sites


async def test_every_node_of_a_cluster_serves_and_a_new_leader_too() -> None:
    async with cluster() as sites:
        for number, site in enumerate(sites):
            await enqueue(site, b"%d" % number)
        leader = next(site for site in sites if site.node.replicas[0].server.leads)
        others = [site for site in sites if site is not leader]
        (lease,) = [one.lease for one in (await others[0].broker.Pop(pb.PopRequest(topic="jobs"))).deliveries]
        lost = await others[1].broker.Ack(pb.AckRequest(leases=[lease]))
        assert list(lost.lost) == [lease], "a lease is settled at the node that gave it"
        await leader.node.stop()
        await enqueue(others[0], b"after", topic="jobs")
        assert (await others[0].broker.Ack(pb.AckRequest(leases=[lease]), timeout=PATIENCE_S)).settled == 1
        assert (await until(others[1], ready=3, leased=0)).ready == 3


async def test_without_a_leader_a_request_says_that_nothing_was_done() -> None:
    given = members(2, free_ports(4))
    config = {
        "alone": False, "members": given, "peer_listen": given[0].peer, "client_listen": given[0].client,
    }  # fmt: skip
    node, service = make_node(config, timeout_s=0.5)
    await node.start()
    try:
        async with grpc.aio.insecure_channel(service().address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rpc.BrokerStub(channel).Pop(pb.PopRequest(topic="jobs"), timeout=PATIENCE_S)
            assert (caught.value.code(), info_of(caught.value).reason) == (grpc.StatusCode.UNAVAILABLE, "not-sent")
            status = await rpc.ClusterStub(channel).GetStatus(pb.GetStatusRequest(), timeout=PATIENCE_S)
            assert (status.leader, len(status.unready)) == ("", 1)
            health = health_pb2_grpc.HealthStub(channel)
            said = await health.Check(health_pb2.HealthCheckRequest(service="disheap.v1.Broker"), timeout=PATIENCE_S)
            assert said.status == health_pb2.HealthCheckResponse.NOT_SERVING
            said = await health.Check(health_pb2.HealthCheckRequest(service="disheap.v1.Cluster"), timeout=PATIENCE_S)
            assert said.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        await node.stop()


async def test_a_node_that_stops_ends_its_streams_and_says_so() -> None:
    async with serving() as site:
        call = site.broker.Consume()
        await call.write(pb.ConsumeRequest(start=pb.ConsumeStart(topic="jobs")))
        await call.read()
        watching = health_pb2_grpc.HealthStub(site.channel).Watch(health_pb2.HealthCheckRequest())
        while (await watching.read()).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        reading = asyncio.ensure_future(read(watching))
        pid = site.service.pid
        await site.node.stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert (caught.value.code(), info_of(caught.value).reason) == (grpc.StatusCode.UNAVAILABLE, "not-sent")
        last = await reading  # a client of grpc.aio drops what it has not read when the end of the stream is there
        assert last is grpc.aio.EOF or last.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def read(call: Any) -> Any:
    return await call.read()


async def test_a_server_process_that_dies_is_started_again_on_its_port() -> None:
    async with serving() as site:
        before, address = site.service.pid, site.service.address
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while site.service.pid == before or not site.service.is_serving:
                await asyncio.sleep(0.02)
        assert site.service.address == address
        await enqueue(site, b"a")


async def test_a_server_process_ends_when_its_node_is_gone() -> None:
    node, service = make_node()
    await node.start()
    pid = service().pid
    server = service()._server
    server._writer.transport.abort()  # what the kernel does for a node that was killed
    async with asyncio.timeout(PATIENCE_S):
        while server._process.poll() is None:
            await asyncio.sleep(0.01)
    assert pid
    await node.stop()


async def test_requests_that_fail_write_a_bounded_number_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    """A client that has found a fault may repeat it."""
    caplog.set_level("ERROR", "disheap")
    async with serving() as site:
        server: Any = site.service._server
        server._reader.feed_data(b'{"failed_request":"ValueError: no such thing"}\n' * (LINES_AT_ONCE + 20))
        await site.broker.ListTopics(pb.ListTopicsRequest(), timeout=PATIENCE_S)
        await site.cluster.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE_S)  # asks the node on the same way
    lines = [one.msg for one in caplog.records if one.msg["event"] == "a gRPC request failed"]
    assert [(one["error"], one["node"], one["level"]) for one in lines] == [
        ("ValueError: no such thing", "n1", "error")
    ] * LINES_AT_ONCE


async def test_reflection_lists_the_services() -> None:
    async with serving() as site:
        stub = reflection_pb2_grpc.ServerReflectionStub(site.channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        assert {one.name for one in answer.list_services_response.service} == {
            "disheap.v1.Broker", "disheap.v1.Cluster", "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }  # fmt: skip
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="disheap.v1.Broker"))
        assert (await call.read()).file_descriptor_response.file_descriptor_proto
        await call.done_writing()


async def test_tls_wants_a_certificate_and_leases_belong_to_its_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("node")
    async with AsyncExitStack() as stack:
        node, service = make_node(**files)
        stack.push_async_callback(node.stop)
        await node.start()
        await node.wait_for_leader(PATIENCE_S)
        address = service().address
        ann, bob = [
            rpc.BrokerStub(await stack.enter_async_context(secure_channel(address, authority.issue(name))))
            for name in ("ann", "bob")
        ]
        await ann.CreateTopic(pb.CreateTopicRequest(topic="jobs"), timeout=PATIENCE_S)
        await ann.Enqueue(pb.EnqueueRequest(topic="jobs"), timeout=PATIENCE_S)
        (got,) = (await ann.Pop(pb.PopRequest(topic="jobs"), timeout=PATIENCE_S)).deliveries
        assert list((await bob.Ack(pb.AckRequest(leases=[got.lease]), timeout=PATIENCE_S)).lost) == [got.lease]
        assert (await ann.Ack(pb.AckRequest(leases=[got.lease]), timeout=PATIENCE_S)).settled == 1
        nobody = await stack.enter_async_context(secure_channel(address, {"cafile": files["cafile"]}))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.BrokerStub(nobody).Pop(pb.PopRequest(topic="jobs"), timeout=2)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_certificates_are_read_again(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    files = Authority(tmp_path / "old").issue("node")
    async with AsyncExitStack() as stack:
        node, service = make_node(certfile=files["certfile"], keyfile=files["keyfile"])
        stack.push_async_callback(node.stop)
        await node.start()
        newer = Authority(tmp_path / "new").issue("node")
        for name in ("certfile", "keyfile"):
            Path(files[name]).write_bytes(Path(newer[name]).read_bytes())
        service().reload()
        channel = await stack.enter_async_context(secure_channel(service().address, {"cafile": newer["cafile"]}))
        health = health_pb2_grpc.HealthStub(channel)
        said = await health.Check(
            health_pb2.HealthCheckRequest(service="disheap.v1.Cluster"), timeout=PATIENCE_S, wait_for_ready=True
        )
        assert said.status == health_pb2.HealthCheckResponse.SERVING
        Path(files["keyfile"]).write_text("damaged")
        with pytest.raises(ConfigError, match="cannot be used"):
            service().reload()


async def test_a_key_that_others_can_read_keeps_the_node_from_starting(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("node")
    Path(files["keyfile"]).chmod(0o644)
    node, _ = make_node(certfile=files["certfile"], keyfile=files["keyfile"])
    with pytest.raises(ConfigError, match=rf"\[service.grpc\] keyfile = .* Run `chmod 600 {files['keyfile']}`"):
        await node.start()
    await node.stop()
    node, _ = make_node(certfile=files["certfile"], keyfile=files["keyfile"], shared_keyfile=True)
    await node.start()
    await node.stop()


def secure_channel(address: str, files: Any) -> grpc.aio.Channel:
    read = {name: Path(path).read_bytes() for name, path in files.items()}
    credentials = grpc.ssl_channel_credentials(read["cafile"], read.get("keyfile"), read.get("certfile"))
    return grpc.aio.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "node")])


async def test_a_port_in_use_keeps_the_node_from_starting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node, _ = make_node({"data_dir": str(tmp_path / "data"), "storage": "file"}, listen=f"127.0.0.1:{port}")
        with pytest.raises(AddressInUse, match=f"cannot listen for gRPC on 127.0.0.1:{port}"):
            await node.start()
        await node.stop()
    assert not (tmp_path / "data" / "groups").exists()


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"listen": "0.0.0.0:1"}, UnsafeListen, "refusing to listen"),
        ({"listen": "nothing"}, ConfigError, "is not an address"),
        ({"listen": "127.0.0.1:99999"}, ConfigError, "is not an address"),
        ({"keyfile": "there"}, ConfigError, "no certfile"),
        ({"certfile": "/nowhere.pem"}, ConfigError, "no such file"),
        ({"message_bytes": 1}, ConfigError, "message_bytes"),
        ({"wrong": 1}, ConfigError, "wrong"),
    ],
)
async def test_wrong_settings_keep_the_node_from_starting(
    settings: dict[str, Any], kind: type[Exception], words: str
) -> None:
    node, _ = make_node(**settings)
    with pytest.raises(kind, match=words):
        await node.start()
    await node.stop()


def test_every_setting_says_what_it_is() -> None:
    import msgspec

    schema = msgspec.json.schema(GrpcSettings)["$defs"]["GrpcSettings"]["properties"]
    assert all(field.get("description") for field in schema.values())
