"""What a machine counts, for operators. A plugin's error must not make the status request fail."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

COUNTERS_MAX = 100
"""How many counters one call may return: the answer of `session ls` holds those of 500 sessions."""
ERROR_CHARACTERS = 200
_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1


def read_stats(stats: Callable[[], Any]) -> tuple[dict[str, int], str]:
    """The counters, and why there are none ("" if `stats` worked). Never raises."""
    try:
        found = stats()
        wrong = _find_wrong(found)
    except Exception as error:
        wrong = "".join(traceback.format_exception_only(error)).strip()
    return ({}, wrong[:ERROR_CHARACTERS]) if wrong else (found, "")


def _find_wrong(found: Any) -> str:
    """Why these are no counters, or ""."""
    if not isinstance(found, dict):
        return f"it returned {type(found).__name__}, not a dict of counters"
    if len(found) > COUNTERS_MAX:
        return f"it returned {len(found)} counters; at most {COUNTERS_MAX} are shown"
    for name, count in found.items():
        if not isinstance(name, str) or not isinstance(count, int) or not _SMALLEST <= count <= _LARGEST:
            return f"it returned {type(count).__name__} under {name!r:.50}; a counter is a name and a 64-bit integer"
    return ""
