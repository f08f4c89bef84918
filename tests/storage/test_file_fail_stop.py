"""Every operation of a storage's life fails once (storage rule 6). The call in which it happens says so, and nothing
more is written. What was acknowledged is found again, with and without a power cut.

The disk is as bad as disks are. A write that fails leaves a part. What a failed fsync should have written passes for
written without being there.
"""

from __future__ import annotations

import errno
import random

import pytest

from disheap.errors import DiskFailed
from disheap.interfaces import KnownPeers
from disheap.kernel.types import HardState, Index, NodeId, Term
from disheap.testing.crashing_disk import CrashingDisk
from disheap_filelog.storage import FileStorage
from tests.storage.life import Life, Promises, reopened
from tests.storage.parts import IDENTITY, entries, meta

pytestmark = pytest.mark.proof

POWER_CUTS = 3
"""Different ones after each failure."""


class Failing:
    """The `at`-th change fails, with or without having been made. What comes after it is counted."""

    def __init__(self, disk: CrashingDisk, at: int, is_made: bool = False) -> None:
        self.at, self.is_made = at, is_made
        self.seen = 0
        self.failed = ""
        self.written_after: list[str] = []
        self._disk = disk
        self._due = ""
        self._happened = disk.happened
        disk.watch = self._watch
        disk.happened = self._made  # type: ignore[method-assign]

    def fail_query_at(self, at: int) -> None:
        """The `at`-th operation that changes nothing."""
        left = at

        def fail_query(operation: str, path: str) -> None:
            nonlocal left
            left -= 1
            if left == -1:
                self._due = f"{operation} of {path}"
                self._fail()

        self._disk.on_query = fail_query

    def _watch(self, operation: str, path: str, offset: int) -> None:
        if self.failed:
            if operation != "close":
                self.written_after.append(f"{operation} of {path}")
            return
        if self.seen == self.at:
            self._due = f"{operation} of {path}"
            if not self.is_made or operation in ("sync", "close"):
                self._fail()
        self.seen += 1

    def _made(self) -> None:
        self._happened()
        if self._due and not self.failed:
            self._fail()

    def _fail(self) -> None:
        self.failed = self._due
        raise OSError(errno.EIO, "Input/output error", self.failed)


def live_until_it_fails(life: Life, failing: Failing) -> str:
    """Returns the step in which it failed; "" if the life was too short for it."""
    for name, step in life.steps():
        try:
            step()
        except DiskFailed as error:
            assert failing.failed, f"{name} says {error}, and nothing has failed"
            assert failing.failed in str(error)
            return name
        assert not failing.failed, f"{failing.failed} failed in '{name}', and nobody was told"
    return ""


def check_nothing_goes_on(storage: FileStorage, failing: Failing) -> None:
    """Whatever is called, and closed."""
    calls = (
        lambda: storage.append(entries(60, 60)),
        lambda: storage.save_hard_state(HardState(Term(99), NodeId(3))),
        lambda: storage.save_known_peers(KnownPeers(True, ())),
        lambda: storage.begin_snapshot(meta(2), False),
        lambda: storage.known_peers(),
        lambda: storage.compact(Index(5)),
        lambda: storage.cut(Index(5)),
        lambda: storage.mend(entries(1, 1)),
        lambda: storage.clear_ambiguity(),
        lambda: storage.scrub((), 100),
        lambda: storage.flush(),
        lambda: storage.open(IDENTITY, 0, alone=False),
    )
    for call in calls:
        with pytest.raises(DiskFailed):
            call()
        storage.close()
    assert failing.written_after == []


def check_found(disk: CrashingDisk, promises: Promises) -> None:
    """It can be opened, holds what was promised, and works."""
    storage = reopened(disk, promises)
    last = storage.holding().last
    term = storage.holding().hard_state.term + 1
    storage.save_hard_state(HardState(Term(term), NodeId(1)))
    storage.append(entries(last + 1, last + 2, term))
    storage.close()


def sweep(is_made: bool) -> int:
    """Returns how many operations there are."""
    for at in range(10_000):
        disk = CrashingDisk()
        disk.generator = random.Random(at)
        life = Life(disk)
        failing = Failing(disk, at, is_made)
        if not live_until_it_fails(life, failing):
            return at
        check_nothing_goes_on(life.storage, failing)
        check_all_that_may_follow(disk, life.promises, at)
    raise AssertionError("a life has fewer operations")


def check_all_that_may_follow(disk: CrashingDisk, promises: Promises, seed: int) -> None:
    """Either the power goes at once. Or the node starts again. Or it starts again and then the power goes, after the
    cluster has built on what it was found to hold."""
    for number in range(POWER_CUTS):
        generator = random.Random(f"{seed}-{number}")
        check_found(disk.after_power_cut(generator), promises.copy())
        next_process, built_on = disk.killed(), promises.copy()
        next_process.generator = generator
        reopened(next_process, built_on)
        check_found(next_process.after_power_cut(generator), built_on)
    check_found(disk.killed(), promises.copy())


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made all the same"])
def test_whatever_operation_fails_ends_the_storage_and_loses_nothing(is_made: bool) -> None:
    assert sweep(is_made) > 250


def test_whatever_cannot_be_read_ends_the_storage_and_nothing_is_written() -> None:
    """An error of reading is no damage: what is there is not known."""
    for at in range(10_000):
        disk = CrashingDisk()
        life = Life(disk)
        failing = Failing(disk, -1)
        failing.fail_query_at(at)
        if not live_until_it_fails(life, failing):
            break
        check_nothing_goes_on(life.storage, failing)
        check_found(disk.killed(), life.promises)
    assert at > 300


def test_a_second_failure_while_the_storage_is_reopened_loses_nothing() -> None:
    tried = 0
    for seed in range(300):
        generator = random.Random(seed)
        disk = CrashingDisk()
        disk.generator = generator
        life = Life(disk)
        live_until_it_fails(life, Failing(disk, generator.randrange(280), generator.random() < 0.5))
        disk = generator.choice((disk.killed(), disk.after_power_cut(generator)))
        disk.generator = generator
        failing = Failing(disk, generator.randrange(30), generator.random() < 0.5)
        try:
            reopened(disk, life.promises)
        except DiskFailed:
            tried += 1
            assert failing.written_after == []
        disk = generator.choice((disk.killed(), disk.after_power_cut(generator)))
        check_found(disk, life.promises)
    assert tried > 100
