"""What an admin request costs: calls of functions in one step of the loop, and bytes of the answer. Counted, not timed.

Each case of `worst_admin` is the state that is worst for one request within the default limits.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.worst_admin import CASES, Case, measure

from disheap.runtime.admin import OPS

CALLS_MAX = 60_000
"""6 ms. The look for sessions that lapsed, which comes every 250 ms, makes 50,000 calls for 10,000 sessions."""

ANSWER_BYTES_MAX = {
    "status": 16 << 10,
    "members": 4 << 10,
    "promote": 256,
    "demote": 256,
    "remove": 256,
    "replace": 256,
    "move": 256,
    "leave": 256,
    "hash": 128,
    "transfer": 1 << 10,
    "snapshot": 64,
    "sessions": 1_200_000,
    "end-session": 2 << 10,
    "backup": 1 << 10,
    "backup-read": (256 << 10) + 512,
    "backup-end": 64,
}


def test_every_admin_request_has_a_case() -> None:
    assert {case.name for case in CASES} == set(OPS) == set(ANSWER_BYTES_MAX)


@pytest.mark.proof
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, {case.state}")
async def test_one_admin_request_takes_bounded_steps_and_bytes(tmp_path: Path, case: Case) -> None:
    cost = await measure(case, tmp_path, counts=True)
    assert cost.most_calls <= CALLS_MAX
    assert cost.answer_bytes <= ANSWER_BYTES_MAX[case.name]
