"""Requests over gRPC, by a client that was generated from `broker.proto`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import msgspec
import pytest
from serving import PATIENCE_S, Site, describe, enqueue, info_of, serving, until

from disheap_grpc.v1 import broker_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_message_comes_back_as_it_was_sent(site: Site) -> None:
    headers = {
        "text": pb.HeaderValue(text="é"), "int": pb.HeaderValue(integer=-7), "real": pb.HeaderValue(real=0.5),
        "yes": pb.HeaderValue(boolean=True), "blob": pb.HeaderValue(blob=b"\0\xff"),
    }  # fmt: skip
    (number,) = await enqueue(site, b"one", priority=-(2**63), key="customer", headers=headers)
    (got,) = (await site.broker.Pop(pb.PopRequest(topic="jobs"))).deliveries
    assert (got.id, got.payload, got.priority, got.key, got.attempts) == (number, b"one", -(2**63), "customer", 1)
    assert dict(got.headers) == headers
    assert got.lease_until_ms > got.enqueued_ms > 0


async def test_the_largest_priority_comes_first(site: Site) -> None:
    for priority in (1, 5, 3):
        await enqueue(site, b"%d" % priority, priority=priority)
    popped = await site.broker.Pop(pb.PopRequest(topic="jobs", count=10))
    assert [one.payload for one in popped.deliveries] == [b"5", b"3", b"1"]


async def test_what_is_acknowledged_is_gone_and_what_is_given_back_comes_again(site: Site) -> None:
    await enqueue(site, b"a", b"b")
    first, second = (await site.broker.Pop(pb.PopRequest(topic="jobs", count=2))).deliveries
    assert (await site.broker.Ack(pb.AckRequest(leases=[first.lease]))).settled == 1
    assert (await site.broker.Nack(pb.NackRequest(leases=[second.lease]))).settled == 1
    (again,) = (await site.broker.Pop(pb.PopRequest(topic="jobs", count=2))).deliveries
    assert (again.payload, again.attempts) == (b"b", 2)
    assert (await site.broker.Nack(pb.NackRequest(leases=[again.lease], discard=True))).settled == 1
    assert (await describe(site)).leased == 0


async def test_a_lease_that_is_over_is_lost_and_nothing_is_done(site: Site) -> None:
    await enqueue(site, b"a")
    (got,) = (await site.broker.Pop(pb.PopRequest(topic="jobs"))).deliveries
    forged = got.lease[:-1] + bytes([got.lease[-1] ^ 1])
    assert list((await site.broker.Ack(pb.AckRequest(leases=[forged]))).lost) == [forged]
    assert (await describe(site)).leased == 1
    assert (await site.broker.Extend(pb.ExtendRequest(leases=[got.lease], lease_ms=5000))).settled == 1
    assert (await site.broker.Ack(pb.AckRequest(leases=[got.lease, got.lease]))).settled == 1
    answer = await site.broker.Ack(pb.AckRequest(leases=[got.lease]))
    assert (answer.settled, list(answer.lost)) == (0, [got.lease])


async def test_a_lease_ends_after_its_time(site: Site) -> None:
    await enqueue(site, b"a")
    await site.broker.Pop(pb.PopRequest(topic="jobs", lease_ms=50))
    await until(site, ready=1, leased=0)


async def test_a_pop_waits_for_what_comes(site: Site) -> None:
    popping = asyncio.ensure_future(_pop(site, wait_ms=10_000))
    await asyncio.sleep(0)
    await enqueue(site, b"late")
    assert [one.payload for one in (await popping).deliveries] == [b"late"]
    assert list((await _pop(site, wait_ms=1)).deliveries) == []


async def _pop(site: Site, **fields: int) -> pb.PopResponse:
    response: pb.PopResponse = await site.broker.Pop(pb.PopRequest(topic="jobs", **fields), timeout=PATIENCE_S)
    return response


async def test_a_pop_with_no_ack_has_settled_what_it_returns(site: Site) -> None:
    await enqueue(site, b"a", b"b")
    got = (await site.broker.Pop(pb.PopRequest(topic="jobs", no_ack=True))).deliveries
    assert [(one.payload, one.lease) for one in got] == [(b"a", b"")]
    info = await describe(site)
    assert (info.ready, info.leased) == (1, 0)


async def test_a_pop_that_is_cancelled_takes_nothing(site: Site) -> None:
    popping = site.broker.Pop(pb.PopRequest(topic="jobs", wait_ms=60_000))
    await asyncio.sleep(0.05)
    popping.cancel()
    await enqueue(site, b"a")
    info = await until(site, ready=1)
    assert info.leased == 0


async def test_a_deadline_that_passes_takes_nothing(site: Site) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.broker.Pop(pb.PopRequest(topic="jobs", wait_ms=60_000), timeout=0.1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await enqueue(site, b"a")
    assert (await until(site, ready=1)).leased == 0


async def test_a_stream_enqueues_in_order(site: Site) -> None:
    async def requests() -> AsyncIterator[pb.EnqueueRequest]:
        for number in range(1000):
            yield pb.EnqueueRequest(topic="jobs", message=pb.Message(payload=b"%d" % number))

    assert (await site.broker.EnqueueStream(requests(), timeout=PATIENCE_S)).enqueued == 1000
    peeked = await site.broker.Peek(pb.PeekRequest(topic="jobs", count=1000))
    assert [one.payload for one in peeked.messages] == [b"%d" % number for number in range(1000)]


async def test_a_stream_ends_at_the_first_refusal_and_says_how_many_were_taken(site: Site) -> None:
    async def requests() -> AsyncIterator[pb.EnqueueRequest]:
        for number in range(10):
            topic = "jobs" if number < 4 else "nowhere"
            yield pb.EnqueueRequest(topic=topic, message=pb.Message(payload=b"%d" % number))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.broker.EnqueueStream(requests(), timeout=PATIENCE_S)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    info = info_of(caught.value)
    assert (info.reason, dict(info.metadata)) == ("topic-not-found", {"enqueued": "4"})
    assert (await describe(site)).ready == 4


async def test_peek_shows_and_changes_nothing(site: Site) -> None:
    await enqueue(site, b"a", priority=2)
    await enqueue(site, b"later", delay_ms=60_000)
    await site.broker.Pop(pb.PopRequest(topic="jobs"))
    await enqueue(site, b"b")
    seen = await site.broker.Peek(pb.PeekRequest(topic="jobs", count=10, delayed=True, leased=True))
    assert [(one.payload, one.state) for one in seen.messages] == [
        (b"b", "ready"), (b"later", "delayed"), (b"a", "leased"),
    ]  # fmt: skip
    assert not seen.truncated


async def test_answers_stay_within_the_size_and_nothing_is_lost() -> None:
    async with serving(message_bytes=64 << 10) as site:
        await enqueue(site, *[bytes([number]) * 20_000 for number in range(5)])
        seen = await site.broker.Peek(pb.PeekRequest(topic="jobs", count=5))
        assert (len(seen.messages), seen.truncated) == (3, True)
        for no_ack in (False, True):
            got = (await site.broker.Pop(pb.PopRequest(topic="jobs", count=5, no_ack=no_ack))).deliveries
            assert [one.payload[0] for one in got] == ([0, 1, 2] if not no_ack else [3, 4])
        info = await until(site, ready=0)
        assert info.leased == 3


async def test_topics_are_made_listed_changed_and_deleted(site: Site) -> None:
    settings = pb.TopicSettings(mode="min", max_messages=7, overflow="drop", message_ttl_ms=9)
    made = await site.broker.CreateTopic(pb.CreateTopicRequest(topic="other", settings=settings))
    assert (made.name, made.settings, made.created) == ("other", settings, True)
    assert not (await site.broker.CreateTopic(pb.CreateTopicRequest(topic="other", settings=settings))).created
    page = await site.broker.ListTopics(pb.ListTopicsRequest(limit=1))
    assert ([one.name for one in page.topics], page.total) == (["jobs"], 2)
    page = await site.broker.ListTopics(pb.ListTopicsRequest(after="jobs"))
    assert [one.name for one in page.topics] == ["other"]
    await enqueue(site, b"a", b"b")
    assert (await site.broker.PurgeTopic(pb.PurgeTopicRequest(topic="jobs"))).messages == 2
    await enqueue(site, b"a")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.broker.DeleteTopic(pb.DeleteTopicRequest(topic="jobs", if_empty=True))
    assert (caught.value.code(), info_of(caught.value).reason) == (
        grpc.StatusCode.FAILED_PRECONDITION, "topic-in-use",
    )  # fmt: skip
    assert (await site.broker.DeleteTopic(pb.DeleteTopicRequest(topic="jobs"))).messages == 1


async def test_the_status_is_that_of_the_node(site: Site) -> None:
    status = await site.cluster.GetStatus(pb.GetStatusRequest())
    assert (status.node, status.role, status.leader, list(status.unready)) == ("n1", "leader", "n1", [])
    assert [(one.name, one.role) for one in status.members] == [("n1", "voter")]
    assert msgspec.json.decode(status.json)["cluster_id"] == status.cluster_id
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.cluster.GetStatus(pb.GetStatusRequest(group=3))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
