"""Requests about topics and about the cluster."""

from __future__ import annotations

from typing import Any

import msgspec

from disheap.protocol import broker
from disheap_grpc import translation
from disheap_grpc.calls import Call
from disheap_grpc.translation import count_of
from disheap_grpc.v1 import broker_pb2 as pb

PAGE = 100


async def list_topics(call: Call, request: Any) -> Any:
    """One page."""
    page = await call.query(broker.ListTopics(request.prefix, request.after, count_of(request.limit, PAGE, "limit")))
    return pb.ListTopicsResponse(topics=[translation.topic(info) for info in page.topics], total=page.total)


async def describe_topic(call: Call, request: Any) -> Any:
    """One topic."""
    return translation.topic(await call.query(broker.DescribeTopic(request.topic)))


async def create_topic(call: Call, request: Any) -> Any:
    """Idempotent for the same settings."""
    settings = translation.topic_settings(request.settings)
    return translation.topic(await call.request(broker.CreateTopic(request.topic, settings)))


async def delete_topic(call: Call, request: Any) -> Any:
    """The topic and its messages."""
    reply = await call.request(broker.DeleteTopic(request.topic, request.if_unused, request.if_empty))
    return pb.RemovedResponse(messages=reply.count)


async def purge_topic(call: Call, request: Any) -> Any:
    """Its ready and delayed messages."""
    return pb.RemovedResponse(messages=(await call.request(broker.Purge(request.topic))).count)


async def get_status(call: Call, request: Any) -> Any:
    """This node's own view. Asks nobody else."""
    status = await call.site.node.status(request.group)
    members = [
        pb.Member(
            id=row["id"], name=row["name"], role=row["role"], client_address=row["client_address"],
            connected=row["connected"],
        )
        for row in status.get("members", ())
    ]  # fmt: skip
    return pb.GetStatusResponse(
        node=status["node"],
        cluster_id=status.get("cluster_id", ""),
        version=status.get("version", ""),
        role=status["role"],
        leader=status.get("leader", ""),
        term=status.get("term", 0),
        commit_index=status.get("commit_index", 0),
        applied_index=status.get("applied_index", 0),
        members=members,
        unready=call.site.node.unready(),
        json=msgspec.json.encode(status).decode(),
    )
