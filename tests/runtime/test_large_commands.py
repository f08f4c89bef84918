"""How large a command may be: one setting, the machine's, and the node's limits follow it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import disheap
from disheap import sync
from disheap.config.node_config import Limits, NodeConfig
from disheap.errors import PayloadTooLarge
from disheap.runtime import tuning

MIB = 1 << 20


def test_frames_follow_the_machines_largest_command() -> None:
    config = NodeConfig(name="n1")
    assert tuning.fitted(config, 0).limits.frame_bytes == 2 * MIB
    fitted = tuning.fitted(config, 32 * MIB).limits
    assert 32 * MIB < fitted.frame_bytes < 33 * MIB
    assert fitted.gather_bytes == fitted.frame_bytes
    assert fitted.input_bytes == 4 * fitted.frame_bytes
    assert fitted.entry_bytes == config.limits.entry_bytes


def test_a_limit_that_is_set_counts() -> None:
    config = NodeConfig(name="n1", limits=Limits(frame_bytes=64 << 10, gather_bytes=32 << 10))
    fitted = tuning.fitted(config, 32 * MIB).limits
    assert (fitted.frame_bytes, fitted.gather_bytes) == (64 << 10, 64 << 10)


@pytest.mark.parametrize("payload_bytes", [0, 20 * MIB])
async def test_a_message_of_the_largest_size_is_stored_and_delivered(tmp_path: Path, payload_bytes: int) -> None:
    """In files, over a restart, with nothing set but the payload's limit."""
    table = {"payload_bytes": payload_bytes} if payload_bytes else {}
    largest = payload_bytes or 8 * MIB
    config = NodeConfig(
        name="n1",
        data_dir=str(tmp_path),
        client_listen="127.0.0.1:0",
        alone=True,
        plugins={"machine": {"heap": table}},
    )
    async with disheap.Node(config) as node, disheap.connect(f"disheap://{node.client_address}") as client:
        topic = await client.create_topic("jobs")
        await topic.enqueue(bytes(largest))
        with pytest.raises(PayloadTooLarge, match="payload_bytes"):
            await topic.enqueue(bytes(largest + 1))
        with pytest.raises(PayloadTooLarge, match="over the node's limit"):
            await topic.enqueue(bytes(largest + MIB))
    async with disheap.Node(config) as node, disheap.connect(f"disheap://{node.client_address}") as client:
        (delivery,) = await client.topic("jobs").pop()
        assert len(delivery.payload) == largest


SMALL_FRAME = 64 << 10
OVER_THE_FRAME = r"is over the node's limit of 65536 bytes for a frame \(`frame_bytes` in \[limits\]"
"""What names the limit and its setting."""


@pytest.fixture
async def small_frames(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a node that takes no frame over `SMALL_FRAME`."""
    config = NodeConfig(
        name="n1",
        data_dir=str(tmp_path),
        client_listen="127.0.0.1:0",
        alone=True,
        limits=Limits(frame_bytes=SMALL_FRAME, gather_bytes=SMALL_FRAME),
    )
    async with disheap.Node(config) as node:
        yield f"disheap://{node.client_address}"


async def test_a_frame_over_the_limit_is_a_typed_error_of_the_asyncio_client(small_frames: str) -> None:
    async with disheap.connect(small_frames) as client:
        topic = await client.create_topic("jobs")
        with pytest.raises(PayloadTooLarge, match=OVER_THE_FRAME):
            await topic.enqueue(bytes(SMALL_FRAME))
        with pytest.raises(PayloadTooLarge, match=OVER_THE_FRAME):
            await client.driver.query_opaque(bytes(SMALL_FRAME))
        assert await topic.enqueue(b"goes on") == 1


async def test_a_frame_over_the_limit_is_a_typed_error_of_the_blocking_client(small_frames: str) -> None:
    def use() -> int:
        with sync.connect(small_frames) as client:
            topic = client.create_topic("jobs")
            with pytest.raises(PayloadTooLarge, match=OVER_THE_FRAME):
                topic.enqueue(bytes(SMALL_FRAME))
            with pytest.raises(PayloadTooLarge, match=OVER_THE_FRAME):
                client.driver.query_opaque(bytes(SMALL_FRAME))
            return topic.enqueue(b"goes on")

    assert await asyncio.to_thread(use) == 1


@pytest.mark.parametrize("delivery_mode", ["persistent", "transient"])
async def test_a_frame_over_the_limit_is_a_406_of_kombu(small_frames: str, delivery_mode: str) -> None:
    kombu = pytest.importorskip("kombu")
    from amqp.exceptions import PreconditionFailed

    def use() -> str:
        with kombu.Connection(small_frames) as connection:
            queue = kombu.Queue("jobs", channel=connection, auto_delete=False)
            queue.declare()
            producer = connection.Producer()
            with pytest.raises(PreconditionFailed, match=OVER_THE_FRAME):
                producer.publish("x" * SMALL_FRAME, routing_key="jobs", delivery_mode=delivery_mode)
            producer.publish("goes on", routing_key="jobs", delivery_mode=delivery_mode)
            return str(queue.get(no_ack=True).payload)

    assert await asyncio.to_thread(use) == "goes on"
