"""The port under strangers: malformed HTTP/2, requests that are huge or no messages, slow readers, and too many."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from serving import PATIENCE_S, Site, enqueue, info_of, renew_topic, serving, until

from disheap_grpc.v1 import broker_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SEED = 20_261_129
CASES = 150
GROWTH_BYTES = 64 << 20
"""How much the server's process may grow, over all cases. What they send is more than that."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow() -> AsyncIterator[Site]:
    """A node that serves few."""
    async with serving(connections=3, requests=2, message_bytes=256 << 10) as site:
        yield site


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """RFC 9113, section 4.1."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4, 0, 0)
FIXED: dict[str, bytes] = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a wrong preface": PREFACE.replace(b"SM", b"XX") + SETTINGS,
    "a frame that says it is huge": PREFACE + SETTINGS + frame(0, 0, 1, b"x" * 100, length=(1 << 24) - 1),
    "settings of a wrong length": PREFACE + frame(4, 0, 0, b"12345"),
    "a window of nothing": PREFACE + SETTINGS + frame(8, 0, 0, bytes(4)),
    "headers that no table has": PREFACE + SETTINGS + frame(1, 5, 1, b"\xff\xff\xff\xff\x7f"),
    "a continuation without an end": PREFACE + SETTINGS + frame(1, 0, 1) + frame(9, 0, 1, b"\0" * 8000) * 200,
    "streams that are ended at once": PREFACE + SETTINGS + b"".join(
        frame(1, 4, 2 * n + 1, b"\x83\x86\x84") + frame(3, 0, 2 * n + 1, bytes(4)) for n in range(5000)
    ),
    "pings": PREFACE + SETTINGS + frame(6, 0, 0, bytes(8)) * 5000,
    "empty settings": PREFACE + SETTINGS * 20_000,
    "data for no stream": PREFACE + SETTINGS + frame(0, 0, 99, b"x" * 16_000) * 50,
}  # fmt: skip


async def knock(address: str, said: bytes) -> None:
    """Sends bytes, reads a little, and goes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(said)
        async with asyncio.timeout(0.2):
            while await reader.read(65_536):
                pass
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


def memory_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


async def unharmed(site: Site, pid: int, before: int) -> None:
    """Checks that the same process still serves, and that its memory has grown by less than the bound."""
    assert site.service.pid == pid
    await enqueue(site, b"still here")
    assert memory_of(pid) - before < GROWTH_BYTES


@pytest.mark.parametrize("name", FIXED)
async def test_malformed_http2_harms_nobody(site: Site, name: str) -> None:
    pid = site.service.pid
    before = memory_of(pid)
    await asyncio.gather(*(knock(site.service.address, FIXED[name]) for _ in range(3)))
    await unharmed(site, pid, before)


async def test_mutated_http2_harms_nobody(site: Site) -> None:
    generator = random.Random(SEED)
    whole = list(FIXED.values())
    pid = site.service.pid
    before = memory_of(pid)
    for start in range(0, CASES, 10):
        cases = [mutated(generator, generator.choice(whole)[:4000]) for _ in range(start, start + 10)]
        await asyncio.gather(*(knock(site.service.address, case) for case in cases))
    await unharmed(site, pid, before)


def mutated(generator: random.Random, whole: bytes) -> bytes:
    """Some bytes changed, cut out or repeated, behind the preface."""
    body = bytearray(whole.removeprefix(PREFACE))
    changes: list[Callable[[int], None]] = [
        lambda at: body.__setitem__(at, generator.randrange(256)),
        lambda at: body.__delitem__(slice(at, at + generator.randrange(1, 20))),
        lambda at: body.__setitem__(slice(at, at), body[at : at + 30] * generator.randrange(1, 9)),
    ]
    for _ in range(generator.randrange(1, 12)):
        if body:
            generator.choice(changes)(generator.randrange(len(body)))
    return PREFACE + bytes(body)


async def test_bytes_that_are_no_message_are_refused_by_name(site: Site) -> None:
    generator = random.Random(SEED)
    codes = set()
    for method in ("Enqueue", "Pop", "Ack", "Nack", "Extend", "Peek", "CreateTopic", "ListTopics"):
        call = site.channel.unary_unary(f"/disheap.v1.Broker/{method}")
        for size in (1, 10, 300):
            try:
                await call(generator.randbytes(size), timeout=PATIENCE_S)
            except grpc.aio.AioRpcError as error:
                codes.add(error.code())
                assert info_of(error).reason
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    await enqueue(site, b"still here")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (pb.Message(headers={"a": pb.HeaderValue()}), "invalid-headers"),
        (pb.Message(headers={"": pb.HeaderValue(text="x")}), "invalid-headers"),
        (pb.Message(headers={"a": pb.HeaderValue(text="x" * 20_000)}), "invalid-headers"),
        (pb.Message(key="x" * 256), "invalid-key"),
        (pb.Message(delay_ms=2**63), "invalid-argument"),
        (pb.Message(expires_ms=2**64 - 1), "invalid-argument"),
    ],
    ids=["no value", "no name", "large", "key", "delay", "expiry"],
)
async def test_fields_out_of_bounds_are_refused(site: Site, message: pb.Message, reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.broker.Enqueue(pb.EnqueueRequest(topic="jobs", message=message), timeout=PATIENCE_S)
    assert (caught.value.code(), info_of(caught.value).reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_a_request_that_is_too_large_is_refused(narrow: Site) -> None:
    await renew_topic(narrow)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await enqueue(narrow, b"x" * (300 << 10))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        request = pb.PeekRequest(topic="jobs")
        await narrow.broker.Peek(request, metadata=(("large", "x" * 40_000),), timeout=PATIENCE_S)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await enqueue(narrow, b"still here")


async def test_more_requests_than_allowed_are_refused_at_once(narrow: Site) -> None:
    await renew_topic(narrow)
    waiting = [narrow.broker.Pop(pb.PopRequest(topic="jobs", wait_ms=60_000)) for _ in range(2)]
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await narrow.broker.Peek(pb.PeekRequest(topic="jobs"))
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                break
    for call in waiting:
        call.cancel()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await narrow.broker.Peek(pb.PeekRequest(topic="jobs"))
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)


async def test_more_connections_than_allowed_are_closed_and_the_others_are_served(narrow: Site) -> None:
    host, _, port = narrow.service.address.rpartition(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
    for _, writer in opened:
        writer.write(PREFACE + SETTINGS)
    closed = 0
    for reader, _ in opened:
        try:
            async with asyncio.timeout(0.3):
                while await reader.read(4096):
                    pass
            closed += 1
        except TimeoutError:
            pass
        except ConnectionError:
            closed += 1
    assert closed >= 4, "one is the channel's, of three"
    await renew_topic(narrow)
    for _, writer in opened:
        writer.transport.abort()


async def test_slow_readers_do_not_grow_the_server(site: Site) -> None:
    """Each has a window of 64 KiB at the HTTP/2 level, and 1 MiB of credit."""
    await enqueue(site, *[b"x" * 50_000] * 200)
    pid = site.service.pid
    before = memory_of(pid)
    calls = [site.broker.Consume() for _ in range(10)]
    for call in calls:
        await call.write(pb.ConsumeRequest(start=pb.ConsumeStart(topic="jobs", credit=10_000)))
    info = await until(site, consumers=10)
    await asyncio.sleep(0.2)
    assert info.leased <= 10 * 22
    assert memory_of(pid) - before < GROWTH_BYTES
    for call in calls:
        call.cancel()
    await until(site, ready=200, leased=0, consumers=0)


async def test_a_client_that_says_nothing_is_cut_off(site: Site) -> None:
    host, _, port = site.service.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(PATIENCE_S):
        while await reader.read(4096):  # the server's own settings
            pass
    writer.transport.abort()
