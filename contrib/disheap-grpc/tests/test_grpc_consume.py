"""Consume: credit, settling, and what becomes of leases however the stream ends."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from serving import PATIENCE_S, Site, describe, enqueue, info_of, serving, until

from disheap_grpc.v1 import broker_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def begin(site: Site, timeout: float | None = PATIENCE_S, **start: Any) -> Any:
    call = site.broker.Consume(timeout=timeout)
    await call.write(pb.ConsumeRequest(start=pb.ConsumeStart(**{"topic": "jobs", **start})))
    assert (await call.read()).WhichOneof("kind") == "started"
    return call


async def take(call: Any, count: int = 1) -> list[pb.Delivery]:
    async with asyncio.timeout(PATIENCE_S):
        responses = [await call.read() for _ in range(count)]
    assert all(one.WhichOneof("kind") == "delivery" for one in responses), responses
    return [one.delivery for one in responses]


async def fails(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            while await call.read() is not grpc.aio.EOF:
                pass
    return caught.value


async def test_credit_bounds_what_comes_and_acks_make_room(site: Site) -> None:
    call = await begin(site, credit=2)
    await enqueue(site, b"a", b"b", b"c")
    first, second = await take(call, 2)
    assert (first.payload, second.payload, first.lease_until_ms) == (b"a", b"b", 0)
    info = await describe(site)
    assert (info.ready, info.leased, info.consumers) == (1, 2, 1)
    await call.write(pb.ConsumeRequest(ack=pb.AckRequest(leases=[first.lease])))
    kinds = {one.WhichOneof("kind"): one for one in [await call.read(), await call.read()]}
    assert kinds["settled"].settled.settled == 1
    assert kinds["delivery"].delivery.payload == b"c"
    await call.write(pb.ConsumeRequest(nack=pb.NackRequest(leases=[second.lease], delay_ms=60_000)))
    assert (await call.read()).settled.settled == 1
    await until(site, delayed=1, leased=1)
    call.cancel()


async def test_more_credit_brings_more(site: Site) -> None:
    call = await begin(site, credit=1)
    await enqueue(site, b"a", b"b", b"c")
    await take(call)
    await call.write(pb.ConsumeRequest(credit=pb.ConsumeCredit(credit=5)))
    assert [one.payload for one in await take(call, 2)] == [b"b", b"c"]
    call.cancel()


async def test_a_stream_that_is_cancelled_gives_its_leases_back_at_once(site: Site) -> None:
    await enqueue(site, b"a", b"b", b"c")
    call = await begin(site)
    await take(call, 2)
    call.cancel()
    info = await until(site, ready=3, leased=0, consumers=0)
    assert info.ready == 3
    peeked = (await site.broker.Peek(pb.PeekRequest(topic="jobs", count=3))).messages
    assert [one.payload for one in peeked] == [b"a", b"b", b"c"]


async def test_a_deadline_ends_the_stream_and_its_leases(site: Site) -> None:
    await enqueue(site, b"a")
    call = await begin(site, timeout=1.0)
    await take(call)
    assert (await fails(call)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await until(site, ready=1, leased=0, consumers=0)).ready == 1


async def test_a_client_that_is_done_ends_the_stream_in_order(site: Site) -> None:
    await enqueue(site, b"a", b"b")
    call = await begin(site)
    first, _ = await take(call, 2)
    await call.write(pb.ConsumeRequest(ack=pb.AckRequest(leases=[first.lease])))
    await call.done_writing()
    assert (await call.read()).settled.settled == 1
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK
    assert (await until(site, ready=1, leased=0, consumers=0)).ready == 1


async def test_a_lost_connection_gives_the_leases_back(site: Site) -> None:
    await enqueue(site, b"a")
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(site.service.address, options) as channel:
        call = await begin(site._replace(broker=type(site.broker)(channel)))
        await take(call)
    assert (await until(site, ready=1, leased=0, consumers=0)).ready == 1


async def test_a_topic_that_is_deleted_ends_its_streams_with_a_reason(site: Site) -> None:
    call = await begin(site)
    await site.broker.DeleteTopic(pb.DeleteTopicRequest(topic="jobs"))
    assert "deleted" in (await call.read()).ended.reason
    assert await call.read() is grpc.aio.EOF


async def test_what_is_refused_says_why(site: Site) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await begin(site, topic="nowhere")
    assert (caught.value.code(), info_of(caught.value).reason) == (grpc.StatusCode.NOT_FOUND, "topic-not-found")
    with pytest.raises(grpc.aio.AioRpcError, match="credit is at most"):
        await begin(site, credit=100_000)
    exclusive = await begin(site, exclusive=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await begin(site)
    assert info_of(caught.value).reason == "topic-in-use"
    exclusive.cancel()


@pytest.mark.parametrize(
    "request_",
    [
        pb.ConsumeRequest(),
        pb.ConsumeRequest(start=pb.ConsumeStart(topic="jobs")),
        pb.ConsumeRequest(ack=pb.AckRequest()),
        pb.ConsumeRequest(ack=pb.AckRequest(leases=[b"short"])),
        pb.ConsumeRequest(ack=pb.AckRequest(leases=[b"x" * 28] * 1001)),
    ],
    ids=["empty", "second start", "no lease", "short lease", "too many"],
)
async def test_a_wrong_request_ends_the_stream_and_its_leases(site: Site, request_: pb.ConsumeRequest) -> None:
    await enqueue(site, b"a")
    call = await begin(site)
    await take(call)
    await call.write(request_)
    assert (await fails(call)).code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (await until(site, ready=1, leased=0, consumers=0)).ready == 1


async def test_a_client_that_reads_nothing_holds_a_bounded_number_of_bytes(site: Site) -> None:
    await enqueue(site, *[b"x" * 100_000] * 40)
    call = await begin(site, credit=10_000, no_ack=False)
    await asyncio.sleep(0.3)
    info = await describe(site)
    assert 1 <= info.leased <= 11, "consume_bytes is 1 MiB"
    assert len(await take(call, 10)) == 10
    call.cancel()
    await until(site, ready=40, leased=0)


async def test_a_message_that_no_answer_has_room_for_is_given_back_with_an_error() -> None:
    async with serving(message_bytes=8 << 10) as site:
        large = await site.node.apply(_enqueue(b"x" * 10_000), 10.0)
        assert large
        call = await begin(site)
        error = await fails(call)
        assert info_of(error).reason == "payload-too-large"
        await until(site, ready=1, leased=0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await site.broker.Pop(pb.PopRequest(topic="jobs"))
        assert info_of(caught.value).reason == "payload-too-large"
        await until(site, ready=1, leased=0)


def _enqueue(payload: bytes) -> bytes:
    from disheap.protocol import broker

    return broker.encode(broker.Enqueue("jobs", broker.NewMessage(payload)))


async def test_more_streams_than_allowed_are_refused() -> None:
    async with serving(consumers=1) as site:
        first = await begin(site)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await begin(site)
        assert (caught.value.code(), info_of(caught.value).reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED, "limit-reached",
        )  # fmt: skip
        first.cancel()
        await until(site, consumers=0)
        (await begin(site)).cancel()
