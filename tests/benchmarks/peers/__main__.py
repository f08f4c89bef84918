"""The command: rounds over the brokers, then the idle workers, then the page.

python -m tests.benchmarks.peers [--rounds N] [--seconds S] [--only WORKLOAD] [--broker BROKER] [--output DIR]

Exit codes: 0 after a run, whatever its figures; 2 if a program is missing, with the command that installs it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from disheap.cli.processes.interrupts import Interrupts
from tests.benchmarks.peers import idle, report, with_celery, with_kombu
from tests.benchmarks.peers.brokers import Running, is_installed, running, what_to_install
from tests.benchmarks.peers.figures import CELERY, WORKLOAD_NAMES, WORKLOADS, Figures
from tests.benchmarks.peers.settings import BROKERS, BY_NAME, Setting

FILL_FOR_A_SECOND = {"disheap": 60_000, "rabbitmq": 15_000, "redis": 3_000}
"""Messages that a consumer cannot empty much faster."""
TASKS_FOR_A_SECOND = 1500


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    options = parse(arguments)
    missing = [name for name in options.broker if not is_installed(name)]
    if missing:
        print(f"{', '.join(missing)}: a program is missing. {what_to_install(missing)}", file=sys.stderr)
        print("Or name the brokers that you have, with --broker", file=sys.stderr)
        return 2
    figures, load = Figures(), os.getloadavg()[0]
    with Interrupts() as interrupts:
        for number in range(options.rounds):
            for broker in options.broker:
                say(f"round {number + 1} of {options.rounds}: {broker}")
                run_broker(broker, options, figures, interrupts)
        if "idle" in options.only:
            run_idle(options, figures, interrupts)
    counts = {"low": f"{options.low:,}", "urgent": options.urgent, "idle": options.idle_seconds}
    counts |= {"rounds": options.rounds, "load": load}
    command = " ".join(["python -m tests.benchmarks.peers", *arguments])
    print(report.targets(figures), report.table(figures), sep="\n\n")
    if options.output is not None:
        write(options.output, figures, report.page(figures, command, counts))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5, help="each broker once a round (default 5)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each kombu workload (default 1.5)")
    parser.add_argument("--low", type=int, default=100_000, help="tasks before the urgent ones (default 100000)")
    parser.add_argument("--urgent", type=int, default=100, help="urgent tasks (default 100)")
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="of the idle workers (default 30)")
    parser.add_argument("--only", action="append", choices=WORKLOAD_NAMES, help="a workload; may be repeated")
    parser.add_argument("--broker", action="append", choices=BROKERS, help="a broker; may be repeated")
    parser.add_argument("--output", type=Path, help="a directory for the page, the charts and the samples")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds <= 0 or options.low < 1 or options.urgent < 1 or options.idle_seconds <= 0:
        parser.error("numbers are larger than 0")
    options.only = options.only or list(WORKLOAD_NAMES)
    options.broker = options.broker or list(BROKERS)
    return options


def run_broker(name: str, options: argparse.Namespace, figures: Figures, interrupts: Interrupts) -> None:
    """One round of one broker: all workloads of all its settings."""
    runs = [
        (workload.name, BY_NAME[setting])
        for workload in WORKLOADS
        if workload.name in options.only
        for setting in workload.settings
        if BY_NAME[setting].broker == name
    ]
    if not runs:
        return
    with running(name, interrupts, say) as broker:
        for workload, setting in runs:
            began = time.monotonic()
            sample = run_one(workload, setting, broker, options, interrupts)
            figures.add(workload, setting.name, sample)
            say(f"  {workload:10} {setting.name:28} {sample:12,.1f}   ({time.monotonic() - began:.1f} s)")


def run_one(
    workload: str, setting: Setting, broker: Running, options: argparse.Namespace, interrupts: Interrupts
) -> float:
    """One sample."""
    seconds = options.seconds
    runs: dict[str, Callable[[], float]] = {
        "publish": lambda: with_kombu.publish(setting, broker.url, seconds),
        "pipelined": lambda: with_kombu.publish(setting, broker.url, seconds),
        "receive": lambda: with_kombu.receive(setting, broker.url, seconds, fill_of(setting, seconds)),
        "noop": lambda: with_celery.noop(setting, broker, interrupts, int(TASKS_FOR_A_SECOND * seconds)),
        "urgent": lambda: with_celery.urgent(setting, broker, interrupts, options.low, options.urgent),
    }
    return runs[workload]()


def fill_of(setting: Setting, seconds: float) -> int:
    """How many messages a consumer may find."""
    return max(2 * with_kombu.WARM_UP, int(FILL_FOR_A_SECOND[setting.broker.split("-")[0]] * seconds))


def run_idle(options: argparse.Namespace, figures: Figures, interrupts: Interrupts) -> None:
    """All brokers at once, with an idle worker each."""
    settings = [BY_NAME[name] for name in CELERY if BY_NAME[name].broker in options.broker]
    if not settings:
        return
    say(f"idle workers, for {options.idle_seconds:g} s")
    with ExitStack() as stack:
        places = {
            setting.name: (setting, stack.enter_context(running(setting.broker, interrupts, say)))
            for setting in settings
        }
        for name, found in idle.measure(places, interrupts, options.idle_seconds).items():
            figures.add("idle-written", name, found.written)
            figures.add("idle-broker", name, found.broker_ms)
            figures.add("idle-worker", name, found.worker_ms)
            figures.add("idle-cpu", name, found.broker_ms + found.worker_ms)


def write(directory: Path, figures: Figures, page: str) -> None:
    """The page, the samples, and the charts if matplotlib is there."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "index.md").write_text(page)
    samples = [{"workload": w, "broker": s, "samples": found} for (w, s), found in figures.samples.items()]
    (directory / "samples.json").write_text(json.dumps(samples, indent=1) + "\n")
    try:
        from tests.benchmarks.peers.chart import draw

        draw(figures, directory)
    except ImportError as error:
        say(f"no chart: {error}. `tox -e peers` installs matplotlib")


def say(text: str) -> None:
    """For whoever waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
