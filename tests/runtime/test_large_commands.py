"""How large a command may be: one setting, the machine's, and the node's limits follow it."""

from __future__ import annotations

from pathlib import Path

import pytest

import disheap
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
