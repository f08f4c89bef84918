"""The demo's figures, counted from what the tasks wrote down and what the publisher was told. No other source.

Pure: lines and records in, numbers out. What each number means is said where it is counted.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

URGENT_WAIT_MAX = 2
"""The task that runs when an urgent one comes in, and the one that the worker holds already: prefetch 1."""
OVERTAKING_WAIT_MAX = 1
"""The task that runs. Those that the worker holds beside it go back when an urgent one comes in."""
LEADERLESS_MAX_S = 3.0
LATE_MAX_S = 3.0


class Published(msgspec.Struct, frozen=True):
    """One task, in the order of publishing. `confirmed_ns` is 0 if no confirmation came, and `due_ns` if it may run at
    once."""

    number: int
    priority: int
    confirmed_ns: int
    urgent: bool = False
    due_ns: int = 0


class Execution(msgspec.Struct, frozen=True):
    """One line of the record; times by the machine's monotonic clock, which its processes share."""

    number: int
    priority: int
    started_ns: int
    finished_ns: int


class Figures(msgspec.Struct, frozen=True):
    """What `disheap demo --json` prints; the units stand last."""

    published: int
    confirmed: int
    executed: int
    executed_twice: int
    lost: int
    priority_inversions: int
    urgent_tasks: int
    urgent_wait_tasks: int
    leaderless_seconds: float
    tasks_per_second: float
    disk_bytes: int
    nodes: int
    state_hashes_equal: bool
    seconds: float
    delayed_tasks: int
    delayed_early: int
    delayed_late_seconds: float
    prefetched_tasks: int
    overtaking_wait_tasks: int
    chord_tasks: int
    chord_right: bool
    passed: bool = False


def passed(figures: Figures) -> bool:
    """Nothing lost, doubled, out of order, early, wrong or unequal. An urgent task that waited for more than prefetch
    explains was overtaken: out of order. Speed is shown, and fails nothing: it is the machine's as much as ours."""
    in_order = figures.priority_inversions == 0 and figures.urgent_wait_tasks <= URGENT_WAIT_MAX
    overtakes = figures.prefetched_tasks > OVERTAKING_WAIT_MAX >= figures.overtaking_wait_tasks
    once = figures.executed_twice == 0 and figures.lost == 0
    is_right = figures.delayed_early == 0 and figures.chord_right and figures.state_hashes_equal
    return once and in_order and overtakes and is_right


def read_record(text: str) -> list[Execution]:
    """A line that is not whole yet is left out: its task is about to be done."""
    whole = text[: text.rfind("\n") + 1]
    return [Execution(*map(int, line.split())) for line in whole.splitlines()]


def executed_twice(executions: Iterable[Execution]) -> int:
    """Tasks that ran more than once."""
    return sum(times > 1 for times in Counter(execution.number for execution in executions).values())


def lost(published: Iterable[Published], executions: Iterable[Execution]) -> int:
    """Tasks that were confirmed and did not run. One without a confirmation may be missing: nobody promised it."""
    ran = {execution.number for execution in executions}
    return sum(bool(task.confirmed_ns) and task.number not in ran for task in published)


def priority_inversions(waiting: Sequence[Published], executions: Iterable[Execution]) -> int:
    """Pairs of waiting tasks that started in the wrong order. One started while the other still waited, which has a
    higher priority, or the same priority and was published earlier.

    `waiting` are the tasks that were there before the first one started, in the order of publishing. All of them could
    be chosen, so exactly one order is right. The pairs are the inversions of the order that was against that one: each
    start counts the worse-ranked tasks that started before it. A second run of a task is not a start.
    """
    in_order = sorted(waiting, key=lambda task: -task.priority)  # stable: within a priority as published
    rank = {task.number: place for place, task in enumerate(in_order)}
    before: list[int] = []  # ranks that have started, sorted
    inversions = 0
    for number in first_starts(executions):
        if number in rank:
            inversions += len(before) - bisect_right(before, rank[number])
            insort(before, rank[number])
    return inversions


def urgent_wait_tasks(published: Iterable[Published], executions: Sequence[Execution]) -> int:
    """How many other tasks an urgent one waited for, at most. These are tasks that are not urgent. They still ran when
    it was confirmed, or started between that moment and its own start."""
    urgent = {task.number: task.confirmed_ns for task in published if task.urgent and task.confirmed_ns}
    others = [execution for execution in executions if execution.number not in urgent]
    starts = first_starts(executions)
    return max(
        (
            sum(other.finished_ns > confirmed_ns and other.started_ns < starts[number] for other in others)
            for number, confirmed_ns in urgent.items()
            if number in starts
        ),
        default=0,
    )


def early(published: Iterable[Published], executions: Sequence[Execution]) -> int:
    """Tasks with a countdown that started before they were due."""
    starts = first_starts(executions)
    return sum(starts.get(task.number, task.due_ns) < task.due_ns for task in published if task.due_ns)


def late_seconds(published: Iterable[Published], executions: Sequence[Execution]) -> float:
    """The longest time from when a task with a countdown was due to its start. Infinite if one did not start."""
    starts = first_starts(executions)
    due = {task.number: task.due_ns for task in published if task.due_ns}
    return max(((starts[one] - due[one]) / 1e9 if one in starts else float("inf") for one in due), default=0.0)


def leaderless_seconds(published: Iterable[Published], killed_ns: int) -> float:
    """From the SIGKILL of the leader to the first publish that was confirmed after it, as the publisher saw both. The
    urgent tasks are under way from the moment of the kill, so one of them is that publish. The time includes the
    detection, the election, and the clients' search for the new leader."""
    confirmed = [task.confirmed_ns for task in published if task.confirmed_ns > killed_ns]
    return (min(confirmed) - killed_ns) / 1e9 if confirmed else float("inf")


def tasks_per_second(executions: Sequence[Execution]) -> float:
    """Over the time from the first start to the last finish, the outage included."""
    if not executions:
        return 0.0
    span_ns = max(e.finished_ns for e in executions) - min(e.started_ns for e in executions)
    return len({e.number for e in executions}) / (span_ns / 1e9) if span_ns else 0.0


def hashes_equal(hashes: Mapping[str, tuple[int, str]], nodes: int) -> bool | None:
    """None while nodes are missing or at different indexes, where their hashes cannot be compared."""
    if len(hashes) < nodes or len({index for index, _ in hashes.values()}) > 1:
        return None
    return len({digest for _, digest in hashes.values()}) == 1


def first_starts(executions: Iterable[Execution]) -> dict[int, int]:
    """When each task first started, in the order of starting."""
    starts: dict[int, int] = {}
    for execution in sorted(executions, key=lambda execution: execution.started_ns):
        starts.setdefault(execution.number, execution.started_ns)
    return starts
