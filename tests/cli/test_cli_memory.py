"""The memory high-water mark of a real process: what it holds, what it refuses, and that it recovers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import disheap.sync
from disheap.errors import MemoryFull
from tests.cli.command_line import ready, running, serve_alone
from tests.support.cgroups import memory_cgroup, why_no_memory_cgroup

MIB = 1 << 20
MARK = 96 * MIB
PAYLOAD = 16 << 10
BATCH = 32
BEYOND = 24 * MIB
"""What may still come in while the node looks, and what it takes to write a snapshot."""
PATIENCE_S = 30.0
NO_CGROUP = why_no_memory_cgroup()
CGROUP_BYTES = 256 * MIB
SHORT_S = 3.0
"""For so long a node is sent messages after its first refusal. With 60 s, it was the same."""


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the real size of a process is read from /proc")
def test_a_queue_without_a_consumer_stops_at_the_mark_until_it_is_drained(tmp_path: Path) -> None:
    limits = ("--set", f"limits.memory_high_water_bytes={MARK}")
    with running(*serve_alone(tmp_path / "d", *limits)) as node:
        told = ready(node)
        with disheap.sync.connect(f"disheap://{told['clients']}") as client:
            jobs = client.create_topic("jobs")
            accepted = 0
            with pytest.raises(MemoryFull, match=r"memory of n1 .* \(limits.memory_high_water\)"):
                while accepted * PAYLOAD < 2 * MARK:
                    jobs.enqueue_many([accepted.to_bytes(4, "big") * (PAYLOAD // 4)] * BATCH)
                    accepted += BATCH
            assert accepted * PAYLOAD > MARK // 8
            assert resident(told["pid"]) < MARK + BEYOND
            assert client.status()["memory"]["is_short"]
            taken = 0
            while deliveries := jobs.pop(64):
                for delivery in deliveries:
                    assert len(delivery.payload) == PAYLOAD
                    delivery.ack()
                taken += len(deliveries)
            assert taken == accepted, "nothing that was accepted is lost"
            until = time.monotonic() + PATIENCE_S
            while client.status()["memory"]["refuses"]:
                assert time.monotonic() < until, "a drained node takes messages again"
            jobs.enqueue(b"again")


@pytest.mark.skipif(bool(NO_CGROUP), reason=NO_CGROUP)
def test_a_node_in_a_cgroup_keeps_below_the_limit_of_the_group_above_it(tmp_path: Path) -> None:
    """Before there was a mark, the kernel killed the node. The limit stands one group above the node's own."""
    with memory_cgroup(CGROUP_BYTES) as group, running(*serve_alone(tmp_path / "d"), cgroup=group.inner) as node:
        told = ready(node)
        with disheap.sync.connect(f"disheap://{told['clients']}") as client:
            assert client.status()["memory"]["high_water_bytes"] == int(0.4 * CGROUP_BYTES)
            jobs = client.create_topic("jobs")
            accepted = refused = 0
            until = time.monotonic() + PATIENCE_S
            while time.monotonic() < until:
                try:
                    jobs.enqueue_many([accepted.to_bytes(4, "big") * (PAYLOAD // 4)] * BATCH)
                    accepted += BATCH
                except MemoryFull:
                    if not refused:
                        until = time.monotonic() + SHORT_S
                    refused += 1
            assert refused and accepted * PAYLOAD > 0.05 * CGROUP_BYTES
            assert resident(told["pid"]) < 0.4 * CGROUP_BYTES + BEYOND
            assert jobs.stats().ready == accepted, "it is the same process, and it answers"
            assert group.oom_kills() == 0
