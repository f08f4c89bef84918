"""What a call costs in memory: a copy that should not be made shows here, on the slowest machine as on the fastest."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that was allocated at any moment of it."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def held_bytes(call: Callable[[], object]) -> int:
    """What it allocated and did not free."""
    gc.collect()  # the lists of free tuples and floats are emptied, too
    tracemalloc.start()
    try:
        call()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
