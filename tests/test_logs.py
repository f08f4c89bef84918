"""How often strangers can make a node write a line, and the fields that all of its lines have."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

import pytest

from disheap.addresses import is_loopback, owner_of
from disheap.logs import LINES_AT_ONCE, LineLimiter, get_logger, log_fields
from disheap.runtime.disk.thread import DiskThread, run_on


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


def fields_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.msg.items() if k not in ("timestamp", "level")} for record in caplog.records]


async def test_what_is_scheduled_within_has_the_fields_and_nothing_else_has(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "disheap")
    log, loop, done = get_logger("test"), asyncio.get_running_loop(), asyncio.Event()
    fields = {"node": "n1"}

    def late() -> None:
        log.info("late", node="its own")
        done.set()

    with log_fields(fields):
        loop.call_soon(log.info, "soon")
        loop.call_later(0.01, late)
        disk = DiskThread(loop)
    fields["cluster"] = "c1"
    log.info("outside")
    await run_on(disk, lambda: log.info("on the disk"))
    await disk.close()
    await asyncio.wait_for(done.wait(), 5)
    assert sorted(fields_of(caplog), key=lambda one: one["event"]) == [
        {"event": "late", "node": "its own", "cluster": "c1"},
        {"event": "on the disk", "node": "n1", "cluster": "c1"},
        {"event": "outside"},
        {"event": "soon", "node": "n1", "cluster": "c1"},
    ]


def test_a_coroutine_may_be_given_up_in_another_context() -> None:
    async def waits() -> None:
        with log_fields({"node": "n1"}):
            await asyncio.sleep(0)

    given_up = waits()
    copy_context().run(given_up.send, None)
    given_up.close()  # raises if the fields cannot be given back
    with pytest.raises(RuntimeError):
        given_up.send(None)
