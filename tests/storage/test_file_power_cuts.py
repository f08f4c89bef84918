"""Power goes at any moment, and whatever `FileStorage` acknowledged is there afterwards, and nothing that nobody wrote.

The lives are those of the conformance suite, and many more of them.
"""

from __future__ import annotations

import pytest

from disheap.testing.conformance.storage_life import Life
from disheap.testing.crashing_disk import CrashingDisk
from disheap_filelog.storage import FileStorage
from tests.storage.parts import build

pytestmark = pytest.mark.proof

LIVES = 320


def built(disk: CrashingDisk, seed: int) -> FileStorage:
    return build(disk, seed=seed)


@pytest.mark.parametrize("block", range(8))
def test_what_was_acknowledged_survives_and_nothing_is_invented(block: int) -> None:
    for seed in range(block * LIVES // 8, (block + 1) * LIVES // 8):
        try:
            Life(seed, built).live()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
