"""Batches over three groups on whole nodes: all or nothing, whoever dies at whichever step, and decided in time."""

from __future__ import annotations

import asyncio

import pytest

from disheap.client.api import gathered
from disheap.errors import CommandRefused, DisheapError, OutcomeUnknown, TransactionOver
from disheap.runtime.replica.forwarding import RETRY_MAX_S
from disheap.testing.simulator.clients.group_batches import ABORTED, COMMITTED, UNKNOWN, GroupBatcher, told_outcome
from tests.simulator.transaction_groups import TransactionCluster

TIMEOUT_S = 3.0
"""The timeout of a transaction here. It is 30 s in the product."""
BOUND_S = TIMEOUT_S + RETRY_MAX_S + 1.0
"""Once all groups have leaders, everything is decided within this time. It is the rest of the timeout, the longest
pause before a decision is sent again, and two rounds through the log."""
STEPS = [
    ("Prepare", 0),
    ("Prepare", 1),
    ("Prepare", 2),
    ("Commit", 0),
    ("ListTransactions", 1),
    ("ListTransactions", 2),
]
"""The commands of a batch and its questions, with the group that each goes to, in their order."""
VICTIMS = {"coordinator": (0,), "participant": (1,), "both": (0, 1), "all": (0, 1, 2), "client": ()}
"""Whose leaders die. Without one the client does."""
SUDDEN_S = (0.0, 0.003, 0.012)
"""After the client has sent the command. A message takes some milliseconds, and a write as well."""


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "TRANSACTION_TIMEOUT_MS", int(TIMEOUT_S * 1000))


def kill_at(step: tuple[str, int], victims: tuple[int, ...], delay_s: float, seed: int) -> TransactionCluster:
    """The third batch meets the fault. Others come after it, if the client lives."""
    cluster = TransactionCluster(seed)
    killed: list[str] = []

    def kill(batcher: GroupBatcher) -> None:
        for group in victims:
            host = cluster.serves(group)
            if host is not None and host.state == "up":
                cluster.kill(host, power=seed % 2 == 0)
        if not victims:
            batcher.kill()

    def on_step(batcher: GroupBatcher, name: str, group: int) -> None:
        if (name, group) == step and len(cluster.ledger.attempts) >= 3 and not killed:
            killed.append(name)
            cluster.loop.call_later(delay_s, kill, batcher)

    async def life() -> None:
        await cluster.begin()
        batcher = cluster.batcher("b", always_all=True, pace_s=0.05)
        batcher.on_step = on_step
        await cluster.wait(lambda: bool(killed), "the step does not come")
        await asyncio.sleep(1.0)
        for host in cluster.hosts:
            if host.state == "down":
                cluster.start(host)
        await cluster.wait(cluster.are_led, "a group has no leader")
        await asyncio.sleep(0.3)
        batcher.stop()
        await cluster.wait(cluster.are_led, "a group has no leader")
        led_at = cluster.loop.now
        await cluster.wait(cluster.is_decided, "a transaction is open, or a decision is not told")
        assert cluster.loop.now - led_at <= BOUND_S, f"decided after {cluster.loop.now - led_at:.1f} s"
        await cluster.end()

    cluster.run(life())
    cluster.judge()
    return cluster


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("step", STEPS[:1] + STEPS[2:5], ids=lambda step: f"{step[0]} in {step[1]}")
def test_a_batch_is_whole_whoever_dies_at_a_step(step: tuple[str, int], victim: str) -> None:
    cluster = kill_at(step, VICTIMS[victim], SUDDEN_S[1], seed=1)
    assert len(cluster.ledger.attempts) >= 3


@pytest.mark.long
@pytest.mark.parametrize("seed", (1, 2))
@pytest.mark.parametrize("delay_s", SUDDEN_S)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]} in {step[1]}")
def test_a_batch_is_whole_at_every_step_and_moment(
    step: tuple[str, int], victim: str, delay_s: float, seed: int
) -> None:
    cluster = kill_at(step, VICTIMS[victim], delay_s, seed)
    assert len(cluster.ledger.attempts) >= 3


def disturbed(seed: int, seconds: float) -> tuple[TransactionCluster, dict[str, int]]:
    cluster = TransactionCluster(seed)

    async def kill_clients() -> None:
        while not cluster.is_over:
            await asyncio.sleep(cluster.rng.seconds(1.0, 6.0))
            batcher = cluster.rng.pick(cluster.batchers)
            if batcher.process.alive and not cluster.is_over:
                batcher.kill()
                batcher.start()

    async def life() -> None:
        await cluster.begin()
        for name in ("b1", "b2", "b3"):
            cluster.batcher(name)
        tasks = [cluster.start_task(work) for work in (cluster.disturb(), kill_clients())]
        await asyncio.sleep(seconds)
        cluster.is_over = True
        for task in tasks:
            await task
        await cluster.end()

    cluster.run(life())
    return cluster, cluster.judge()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (CommandRefused("group 1: refused"), ABORTED),
        (TransactionOver("group 1: no answer. The batch is aborted in all groups"), ABORTED),
        (OutcomeUnknown("no answer to COMMIT. It is committed or aborted in all groups"), UNKNOWN),
        (DisheapError("the client is closed"), UNKNOWN),
    ],
)
def test_a_batch_counts_as_aborted_only_if_its_error_says_so(error: DisheapError, outcome: str) -> None:
    assert told_outcome(error) == outcome


def test_batches_over_groups_are_whole_under_faults() -> None:
    cluster, _ = disturbed(1, 12.0)
    assert cluster.ledger.count()[COMMITTED] > 5 and cluster.faults


@pytest.mark.parametrize("seed", [2, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 12))])
def test_batches_over_groups_are_whole_for_many_seeds(seed: int) -> None:
    cluster, rare = disturbed(seed, 60.0)
    counts = cluster.ledger.count()
    assert counts[COMMITTED] > 20 and counts[ABORTED] + counts[""] > 3, counts
    assert sum(cluster.faults.values()) >= 8, cluster.faults
    assert rare["commit"] > 20 and rare["prepared ack"] > 5, rare
