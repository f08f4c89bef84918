"""How often strangers can make a node write a line."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from disheap.addresses import is_loopback, owner_of
from disheap.logs import LINES_AT_ONCE, LineLimiter


async def test_lines_beyond_the_limit_are_counted_and_the_count_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disheap.logs.INTERVAL_S", 0.05)
    written: list[tuple[str, dict[str, Any]]] = []
    counted = asyncio.Event()

    def log(event: str, **values: Any) -> None:
        written.append((event, values))
        if "left_out" in values:
            counted.set()

    limiter = LineLimiter(asyncio.get_running_loop())
    for number in range(LINES_AT_ONCE + 7):
        limiter.write(log, "refused", number=number)
    assert [values["number"] for _, values in written] == list(range(LINES_AT_ONCE))
    await asyncio.wait_for(counted.wait(), 5)
    assert written[-1] == ("refused: further lines were left out", {"left_out": 7})
    limiter.write(log, "refused", number=99)
    assert written[-1] == ("refused", {"number": 99}), "a new interval has begun"


@pytest.mark.parametrize(
    ("remote", "owner", "loopback"),
    [
        ("127.0.0.1:5", "127.0.0.1", True),
        ("[::1]:5", "::1", True),
        ("[::ffff:127.0.0.1]:5", "127.0.0.1", True),
        ("[2001:db8:0:1:2:3:4:5]:5", "2001:db8:0:1::/64", False),
        ("[fe80::1%eth0]:5", "fe80::/64", False),
        ("10.1.2.3:5", "10.1.2.3", False),
        ("inproc client 7", "", True),
    ],
)
def test_an_ipv4_address_and_an_ipv6_network_are_one_owner(remote: str, owner: str, loopback: bool) -> None:
    assert (owner_of(remote), is_loopback(remote)) == (owner, loopback)
