"""The event loop of the simulator: virtual time, and processes that die, stand still and have clocks of their own."""

from __future__ import annotations

import asyncio

import pytest

from disheap.testing.simulator.world.loop import OWNER, Livelock, Process, SimLoop


def test_time_jumps_to_the_next_timer() -> None:
    loop = SimLoop()
    loop.run_until_complete(asyncio.sleep(86_400))
    assert loop.now == pytest.approx(86_400)
    assert loop.steps < 10


def test_timers_fire_in_the_order_of_their_times_and_then_of_their_making() -> None:
    loop, fired = SimLoop(), []
    for name, delay in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
        loop.call_later(delay, fired.append, name)
    loop.run_until(lambda: len(fired) == 3)
    assert fired == ["first", "second", "late"]


def test_asyncio_knows_the_loop_it_runs_in() -> None:
    loop = SimLoop()

    async def ask() -> tuple[object, bool]:
        async with asyncio.timeout(1.0):
            await asyncio.sleep(0.5)
        done, late = await asyncio.wait([asyncio.ensure_future(asyncio.sleep(9))], timeout=1.0)
        return asyncio.get_running_loop(), not done and len(late) == 1

    assert loop.run_until_complete(ask()) == (loop, True)


def test_a_timeout_cuts_off_in_virtual_time() -> None:
    loop = SimLoop()

    async def wait() -> None:
        async with asyncio.timeout(5.0):
            await loop.create_future()

    with pytest.raises(TimeoutError):
        loop.run_until_complete(wait())
    assert loop.now == pytest.approx(5.0)


def test_what_a_process_starts_belongs_to_it() -> None:
    loop = SimLoop()
    process, owners = Process(loop, "a"), []

    async def work() -> None:
        owners.append(OWNER.get())
        loop.call_soon(lambda: owners.append(OWNER.get()))
        await asyncio.sleep(1.0)
        owners.append(OWNER.get())

    loop.run_until(process.start(work()).done)
    assert owners == [process] * 3
    assert OWNER.get() is None


def test_a_killed_process_does_nothing_more() -> None:
    loop = SimLoop()
    process, done = Process(loop, "a"), []
    process.later(1.0, done.append, "early")
    process.later(3.0, done.append, "late")
    loop.call_later(2.0, process.kill)
    loop.run_until_complete(asyncio.sleep(5.0))
    assert done == ["early"]


def test_a_frozen_process_finds_everything_waiting_when_it_goes_on() -> None:
    loop = SimLoop()
    process, done = Process(loop, "a"), []
    for delay in (1.0, 3.0, 4.0):
        process.later(delay, lambda: done.append(loop.now))
    loop.call_later(2.0, process.freeze)
    loop.call_later(10.0, process.thaw)
    loop.run_until_complete(asyncio.sleep(11.0))
    assert done == [1.0, 10.0, 10.0]


def test_a_fast_clock_makes_timers_short() -> None:
    loop = SimLoop()
    process = Process(loop, "a", rate=2.0, skew_s=100.0)

    async def work() -> tuple[float, float]:
        before = loop.time()
        await asyncio.sleep(10.0)
        return before, loop.time()

    task = process.start(work())
    loop.run_until(task.done)
    assert task.result() == (100.0, pytest.approx(110.0))
    assert loop.now == pytest.approx(5.0)


def test_callbacks_without_end_are_a_livelock() -> None:
    loop = SimLoop()

    def again() -> None:
        loop.call_soon(again)

    again()
    with pytest.raises(Livelock, match=r"callbacks at 0\.0"):
        loop.run_until(lambda: False)


def test_waiting_for_what_cannot_come_is_said() -> None:
    loop = SimLoop()
    with pytest.raises(Livelock, match="nothing is left to do"):
        loop.run_until_complete(loop.create_future())


def test_an_exception_in_a_callback_is_kept() -> None:
    loop = SimLoop()
    loop.call_soon(lambda: 1 // 0)
    loop.run_until_complete(asyncio.sleep(0))
    assert [type(one["exception"]) for one in loop.errors] == [ZeroDivisionError]
