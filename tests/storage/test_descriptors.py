"""The storage's reserve of file descriptors: to open is tried again, and a sync is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from disheap_filelog import descriptors
from disheap_filelog.descriptors import SPARE, Descriptors


def devices() -> int:
    """Descriptors of this process that are of /dev/null."""
    found = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found += os.readlink(f"/proc/self/fd/{name}") == os.devnull  # noqa: PTH115
        except OSError:  # of the listing itself
            continue
    return found


class Opening:
    """Fails so many times for want of a descriptor."""

    def __init__(self, path: Path, failures: int, number: int = errno.EMFILE) -> None:
        self.path, self.failures, self.number = path, failures, number
        self.tries = 0

    def __call__(self) -> int:
        self.tries += 1
        if self.tries <= self.failures:
            raise OSError(self.number, os.strerror(self.number))
        return os.open(self.path, os.O_RDWR | os.O_CREAT)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_file_is_opened_with_a_descriptor_of_the_reserve(tmp_path: Path, number: int) -> None:
    before, reserve = devices(), Descriptors()
    descriptor = reserve.open(Opening(tmp_path / "file", 3, number))
    assert devices() == before + SPARE - 3
    reserve.close(descriptor)
    assert devices() == before + SPARE - 2, "the descriptor of a closed file is one of the reserve at once"
    os.close(reserve.open(Opening(tmp_path / "file", 0)))
    assert devices() == before + SPARE, "and the reserve is filled up when there is room"


def test_the_disk_waits_where_no_descriptor_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "RETRY_S", 0.0)
    opening = Opening(tmp_path / "file", SPARE + 5)
    os.close(Descriptors().open(opening))
    assert opening.tries == SPARE + 6


def test_another_error_is_not_tried_again(tmp_path: Path) -> None:
    opening = Opening(tmp_path / "file", 1, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        Descriptors().open(opening)
    assert opening.tries == 1
