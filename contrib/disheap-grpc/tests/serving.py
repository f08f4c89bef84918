"""A node with the service `grpc` on free ports, and a client that was generated from `broker.proto`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from disheap.config.node_config import MemberConfig, NodeConfig, RaftConfig
from disheap.runtime.member import Member
from disheap_grpc.service import GrpcService
from disheap_grpc.v1 import broker_pb2 as pb
from disheap_grpc.v1 import broker_pb2_grpc as rpc

FAST = RaftConfig(tick_ms=10, heartbeat_ms=20, election_timeout_ms=150, commit_timeout_ms=10)
PATIENCE_S = 20.0


class Site(NamedTuple):
    """A node, its service, and a client of it."""

    node: Member
    service: GrpcService
    channel: grpc.aio.Channel
    broker: Any
    cluster: Any


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Site]:
    """A node that is alone and leads, with a topic "jobs"."""
    node, service = make_node(**settings)
    await node.start()
    try:
        await node.wait_for_leader(PATIENCE_S)
        async with grpc.aio.insecure_channel(service().address) as channel:
            site = Site(node, service(), channel, rpc.BrokerStub(channel), rpc.ClusterStub(channel))
            await renew_topic(site)
            yield site
    finally:
        await node.stop()


async def renew_topic(site: Site) -> None:
    """An empty topic "jobs", and no other topic."""
    for topic in (await site.broker.ListTopics(pb.ListTopicsRequest(), timeout=PATIENCE_S)).topics:
        await site.broker.DeleteTopic(pb.DeleteTopicRequest(topic=topic.name), timeout=PATIENCE_S)
    await site.broker.CreateTopic(pb.CreateTopicRequest(topic="jobs"), timeout=PATIENCE_S)


def make_node(config: dict[str, Any] | None = None, **settings: Any) -> tuple[Member, Any]:
    """A node that is not started, and a function that returns its service."""
    table = {"listen": "127.0.0.1:0", **settings}
    given: dict[str, Any] = {
        "name": "n1", "alone": True, "storage": "memory", "transport": "tcp", "machine": "heap", "raft": FAST,
        "client_listen": "127.0.0.1:0", "services": ("grpc",), "plugins": {"service": {"grpc": table}},
        **(config or {}),
    }  # fmt: skip
    node = Member(NodeConfig(**given))

    def service() -> GrpcService:
        ((_, found),) = node._services._running
        assert isinstance(found, GrpcService)
        return found

    return node, service


def members(count: int, ports: list[int]) -> tuple[MemberConfig, ...]:
    """Returns so many members on these ports, two for each."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return tuple(MemberConfig(f"n{n + 1}", addresses[2 * n], addresses[2 * n + 1]) for n in range(count))


async def enqueue(site: Site, *payloads: bytes, topic: str = "jobs", **message: Any) -> list[int]:
    """Puts messages into a topic. Returns their ids."""
    ids = []
    for payload in payloads:
        request = pb.EnqueueRequest(topic=topic, message=pb.Message(payload=payload, **message))
        ids.append((await site.broker.Enqueue(request, timeout=PATIENCE_S)).id)
    return ids


async def describe(site: Site, topic: str = "jobs") -> Any:
    """Counts of a topic."""
    return await site.broker.DescribeTopic(pb.DescribeTopicRequest(topic=topic), timeout=PATIENCE_S)


async def until(site: Site, topic: str = "jobs", **counts: int) -> Any:
    """Waits until a topic has these counts."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            info = await describe(site, topic)
            if all(getattr(info, name) == count for name, count in counts.items()):
                return info
            await asyncio.sleep(0.01)


def info_of(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """The ErrorInfo in the details of a status."""
    packed = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "disheap"
    return info
