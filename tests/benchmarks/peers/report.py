"""The page with the figures of a run: the machine, the command, what is compared, and which targets are met."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks.peers.figures import TARGETS, WORKLOADS, Figures, Target
from tests.benchmarks.peers.settings import SETTINGS

TITLE = "# disheap beside RabbitMQ and Redis"
INTRODUCTION = """
One command runs the same kombu and Celery programs against each broker, on this machine, in this run. In one round
each broker is started once, does all its workloads, and is stopped. Only one broker runs at a time. A figure is the
median over the rounds. A ratio is the median of the ratios within the rounds. So a machine that gets slower on the way
changes the figures, and hardly the ratios.

`tox -e peers` writes this page. [What the misses are made of](profiles.md) has a profile for each target that was
missed.
"""
WHAT = """
- **kombu: publish, one by one.** `Producer.publish` of 256 bytes, persistent. The next begins when it has returned.
- **kombu: publish, not waiting.** The same, without waiting for each message. disheap has at most 1000 messages without
  confirmation under way, and the time ends when all are confirmed. RabbitMQ confirms nothing, and the time ends when it
  answers a question on the same channel. Redis has no such way: every publish waits for its answer.
- **kombu: receive and ack.** The queue was filled before. One consumer, prefetch 64, an ack for each message.
- **Celery: tasks that do nothing.** A worker with two processes (prefork) and a prefetch multiplier of 4 empties a
  queue. The time is that from the first task to the last. "count" is the option `{{"prefetch": "count"}}`, with
  which urgent tasks do not overtake those that the worker has taken.
- **Celery: wait of an urgent task.** {low} tasks of 20 ms wait in the queue, with the lowest priority. An urgent task
  is sent every 30 to 70 ms. The figure is the 99th percentile of {urgent} waits, from `apply_async` to the task's first
  line.
- **Idle worker.** `--without-gossip --without-mingle --without-heartbeat`, nothing to do, {idle:g} s, measured once.
  `write_bytes` of the broker, and processor time of broker and worker in ms for each second.
"""


def page(figures: Figures, command: str, counts: dict[str, object]) -> str:
    """The whole page, in Markdown."""
    parts = [TITLE, INTRODUCTION.strip(), "## Targets", targets(figures), "![Figures of each broker](chart.svg)"]
    parts += ["## Figures", table(figures), "## What a confirmation is worth", durability(figures)]
    parts += ["## What is measured", WHAT.strip().format(**counts), "## The run", machine(command, counts)]
    return "\n\n".join(parts) + "\n"


def targets(figures: Figures) -> str:
    """A row for each target whose two sides were measured."""
    lines = ["| workload | ours | compared with | ratio | target | |", "|---|---|---|---|---|---|"]
    for target in TARGETS:
        ratio = figures.ratio(target.ours, target.theirs)
        if ratio is not None:
            title = next(one.title for one in WORKLOADS if one.name == target.ours[0])
            goal = f"at {'most' if target.is_at_most else 'least'} {target.goal:g}"
            verdict = "met" if is_met(target, ratio) else "**missed**"
            lines.append(f"| {title} | {target.ours[1]} | {target.theirs[1]} | {ratio:.2f} | {goal} | {verdict} |")
    written = figures.median("idle-written", "disheap-1")
    if written is not None:
        verdict = "**missed**" if written else "met"
        lines.append(
            f"| idle worker: written by the broker | disheap-1 | | {written:.0f} bytes | 0 bytes | {verdict} |"
        )
    return "\n".join(lines)


def is_met(target: Target, ratio: float) -> bool:
    """Whether a ratio is what it is to be."""
    return ratio <= target.goal if target.is_at_most else ratio >= target.goal


def table(figures: Figures) -> str:
    """A row for each workload and setting: median, smallest and largest sample."""
    lines = ["| workload | broker | median | smallest | largest |", "|---|---|---|---|---|"]
    for workload in WORKLOADS:
        for setting in workload.settings:
            middle, spread = figures.median(workload.name, setting), figures.spread(workload.name, setting)
            if middle is not None and spread is not None:
                low, high = map(number, spread)
                lines.append(f"| {workload.title} | {setting} | {number(middle)} {workload.unit} | {low} | {high} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """With thousands apart, and decimals for small ones."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}"


def durability(figures: Figures) -> str:
    """What a publish that has returned is worth, for each setting that was measured."""
    measured = {setting for _, setting in figures.samples}
    rows = [f"| {one.name} | {one.confirm} |" for one in SETTINGS if one.name in measured]
    return "\n".join(["| broker | when a publish has returned, its message is |", "|---|---|", *rows])


def machine(command: str, counts: dict[str, object]) -> str:
    """The machine, the versions, the command and the day."""
    lines = [
        f"- Command: `{command}`",
        "- Rounds: {rounds}. Load of the machine before the run: {load:.1f} processes that want to run".format(
            **counts
        ),
        f"- Day: {datetime.now(UTC):%Y-%m-%d}",
        f"- Machine: {os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.release()}",
        f"- CPython {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in ("disheap", "kombu", "celery", "amqp", "redis", "uvloop")),
        f"- RabbitMQ {_rabbitmq()}; {_said('redis-server', '--version')}",
    ]
    return "\n".join(lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _rabbitmq() -> str:
    folders = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return folders[-1].name.partition("-")[2] if folders else "not installed"


def _said(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        return f"{program} not installed"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=10, check=False)
    return " ".join(done.stdout.split()[:3])
