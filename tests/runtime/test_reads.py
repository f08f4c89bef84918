"""Who waits for which index (ReadIndex, dissertation §6.4), over a kernel that says what the test tells it to."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.errors import NotLeader
from disheap.kernel.types import Index, Read
from disheap.runtime.replica.reads import Reads


class Kernel:
    def __init__(self) -> None:
        self.asked: list[int] = []
        self.leads = True

    def read_index(self, context: int) -> None:
        if not self.leads:
            raise NotLeader("")
        self.asked.append(context)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def reads(kernel: Any) -> Reads:
    return Reads(kernel)


def test_a_read_waits_until_the_machine_has_applied_its_index(reads: Reads, kernel: Kernel) -> None:
    told: list[bool] = []
    reads.add(told.append)
    reads.ask()
    reads.ready(Read(kernel.asked[0], Index(7), True), Index(5))
    reads.applied(Index(6))
    assert told == []
    reads.applied(Index(7))
    assert told == [True]


def test_a_read_whose_index_is_applied_already_is_answered_at_once(reads: Reads, kernel: Kernel) -> None:
    told: list[bool] = []
    reads.add(told.append)
    reads.ask()
    reads.ready(Read(kernel.asked[0], Index(7), True), Index(7))
    assert told == [True]


def test_reads_that_come_together_share_a_round_and_no_number_is_used_again(reads: Reads, kernel: Kernel) -> None:
    told: list[bool] = []
    for _ in range(2):
        reads.add(told.append)
        reads.add(told.append)
        reads.ask()
        reads.ask()
    assert kernel.asked == [1, 2]
    reads.ready(Read(1, Index(0), True), Index(0))
    assert told == [True, True]


def test_every_read_is_answered_when_leadership_is_lost(reads: Reads, kernel: Kernel) -> None:
    """Pitfall 28: whether it is new, asked for, or waits for the machine."""
    told: list[bool] = []
    reads.add(told.append)
    reads.ask()
    reads.ready(Read(1, Index(7), True), Index(5))
    reads.add(told.append)
    reads.ask()
    reads.add(told.append)
    reads.end()
    assert told == [False] * 3
    reads.applied(Index(9))
    reads.ready(Read(2, Index(1), True), Index(9))
    assert told == [False] * 3


def test_a_kernel_that_does_not_lead_and_one_that_lost_its_leadership_are_a_no(reads: Reads, kernel: Kernel) -> None:
    told: list[bool] = []
    reads.add(told.append)
    reads.ask()
    reads.ready(Read(1, Index(3), False), Index(9))
    kernel.leads = False
    reads.add(told.append)
    reads.ask()
    assert told == [False, False]
