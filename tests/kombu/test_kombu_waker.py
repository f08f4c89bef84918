"""A thread wakes another one, whatever the other one does at that moment."""

from __future__ import annotations

import select

from disheap_kombu.reading.waker import Waker


class ReaderWokenMeanwhile:
    """A socket whose reading is preceded by a wake of another thread."""

    def __init__(self, waker: Waker) -> None:
        self._waker, self._reader = waker, waker._reader

    def recv(self, size: int) -> bytes:
        self._waker.wake()
        return self._reader.recv(size)

    def close(self) -> None:
        self._reader.close()


def test_a_wake_during_a_reset_does_not_silence_later_ones() -> None:
    waker = Waker()
    waker._reader = ReaderWokenMeanwhile(waker)  # type: ignore[assignment]
    reader = waker._reader._reader  # type: ignore[attr-defined]
    waker.wake()
    waker.reset()
    waker.wake()
    assert select.select([reader], [], [], 0)[0]
    waker.close()
