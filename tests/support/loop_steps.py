"""How much one step of the event loop does: the most calls of functions, and the longest time, of one callback.

Calls are the same on every machine, so tests bound them. Times are for people to read.
"""

from __future__ import annotations

import asyncio
import sys
import time
from types import TracebackType
from typing import Any
from unittest.mock import patch


class LoopSteps:
    """`with LoopSteps() as steps: await ...`; then `steps.most_calls` and `steps.longest_s` of the processor. Counting
    makes a step take longer, so `counts=False` is for times."""

    def __init__(self, counts: bool = True) -> None:
        self.most_calls = 0
        self.longest_s = 0.0
        self._counts = counts
        self._calls = 0
        self._run = asyncio.Handle._run

    def __enter__(self) -> LoopSteps:
        steps, run = self, self._run

        def measured(handle: asyncio.Handle) -> None:
            steps._calls, began = 0, time.process_time()
            if steps._counts:
                sys.setprofile(steps._count)
            try:
                run(handle)
            finally:
                if steps._counts:
                    sys.setprofile(None)
                steps.longest_s = max(steps.longest_s, time.process_time() - began)
                steps.most_calls = max(steps.most_calls, steps._calls)

        self._patch = patch.object(asyncio.Handle, "_run", measured)
        self._patch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._patch.stop()

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        self._calls += event in ("call", "c_call")
