"""`disheap demo`: the main job, watched. Owns the command and the table; what happens is in `run`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click
import msgspec

from disheap.cli.terminal.options import Invocation, pass_invocation, shared_options
from disheap.cli.terminal.output import emit_json

if TYPE_CHECKING:
    from disheap.cli.demo.counting import Figures
    from disheap.cli.demo.run import Demo
    from disheap.cli.processes.local_cluster import LocalCluster
    from disheap.cli.terminal.progress import Show

Row = tuple[str, str, str, bool]
"""What it is, what was measured, what it should be, and whether it is so."""
TASKS = 2000
TASKS_MAX = 100_000
"""The record is read again and again while the demo runs; so many lines are 6 MB."""


@click.command()
@click.option(
    "--tasks",
    type=click.IntRange(2, TASKS_MAX),
    default=TASKS,
    show_default=True,
    metavar="N",
    help="How many to publish.",
)
@shared_options
@pass_invocation
def demo(invocation: Invocation, /, tasks: int) -> int:
    """Three nodes, a Celery worker, and a leader that is killed half-way.

    Meanwhile tasks with a countdown wait in the broker. Then an urgent task overtakes those that a worker has
    prefetched, and a chord has its result in the broker. Everything is on loopback and in a temporary directory,
    and is gone afterwards. Needs Celery (pip install celery). Exit code 1 if a task was lost, ran twice, too early
    or out of order. Likewise if the chord's result is wrong, or the nodes end with different states.

    Example: disheap demo --tasks 500
    """
    figures = _run(tasks)
    if invocation.json:
        emit_json(msgspec.to_builtins(figures))
    else:
        _print_table(figures)
    return 0 if figures.passed else 1


def _run(tasks: int) -> Figures:
    from disheap.cli.demo import run
    from disheap.cli.processes.interrupts import Interrupts
    from disheap.cli.processes.local_cluster import LocalCluster
    from disheap.cli.terminal.progress import show

    run.application()  # without Celery it ends here, before anything was started
    began = time.monotonic()
    with (
        Interrupts() as interrupts,
        show(sys.stderr) as shown,
        LocalCluster(run.NODES, interrupts, prefix="disheap-demo-") as cluster,
    ):
        return _in_cluster(cluster, tasks, shown, began)


def _in_cluster(cluster: LocalCluster, tasks: int, shown: Show, began: float) -> Figures:
    from disheap.cli.demo import run

    shown.stage(f"starting {run.NODES} nodes")
    demo = run.Demo(cluster, tasks, shown)
    try:
        shown.note(f"{cluster.wait_ready()} leads; broker_url = {cluster.url!r}")
        figures = run.count(demo.run(), time.monotonic() - began)
    except Exception:
        _show_logs(demo, cluster)
        raise
    if not figures.passed:
        _show_logs(demo, cluster)
    return figures


def _show_logs(demo: Demo, cluster: LocalCluster) -> None:
    from disheap.cli.demo.run import WORKER_LINES

    click.echo(f"--- worker\n{demo.worker.tail(WORKER_LINES)}\n{cluster.logs()}", err=True)


def _print_table(figures: Figures) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for label, value, want, good in _rows(figures):
        table.add_row(label, value, want, style="" if good else "bold red")
    console = Console()
    console.print(table)
    console.print(
        "everything held" if figures.passed else "NOT everything held: see the rows in red, and the log above"
    )


def _rows(figures: Figures) -> list[Row]:
    from disheap.cli.demo.counting import LATE_MAX_S, LEADERLESS_MAX_S, OVERTAKING_WAIT_MAX, URGENT_WAIT_MAX

    all_tasks, f = figures.published, figures
    prefetched, chord = f.prefetched_tasks, f"result of a chord of {f.chord_tasks} tasks"
    return [
        ("published", f"{f.published:,}", "", True),
        ("confirmed", f"{f.confirmed:,}", f"{all_tasks:,}", f.confirmed == all_tasks),
        ("executed", f"{f.executed:,}", f"{all_tasks:,}", f.executed == all_tasks),
        ("executed twice", f"{f.executed_twice:,}", "0", not f.executed_twice),
        ("lost", f"{f.lost:,}", "0", not f.lost),
        ("priority inversions", f"{f.priority_inversions:,}", "0", not f.priority_inversions),
        _at_most("other tasks an urgent one waited for", f.urgent_wait_tasks, URGENT_WAIT_MAX),
        _at_most("seconds without a leader", f.leaderless_seconds, LEADERLESS_MAX_S),
        (f"of {f.delayed_tasks} tasks with a countdown, too early", f"{f.delayed_early}", "0", not f.delayed_early),
        _at_most("seconds that one of them was late", f.delayed_late_seconds, LATE_MAX_S),
        ("tasks with the worker when an urgent one comes", f"{prefetched}", "", prefetched > OVERTAKING_WAIT_MAX),
        _at_most("other tasks that one waited for", f.overtaking_wait_tasks, OVERTAKING_WAIT_MAX),
        (chord, "right" if f.chord_right else "WRONG", "right", f.chord_right),
        ("state hashes of the nodes", "equal" if f.state_hashes_equal else "UNEQUAL", "equal", f.state_hashes_equal),
        ("tasks per second, the outage included", f"{f.tasks_per_second:,.0f}", "", True),
        ("bytes on disk, all nodes", f"{f.disk_bytes:,}", "", True),
        ("seconds in all", f"{f.seconds:.1f}", "", True),
    ]


def _at_most(label: str, value: float, most: float) -> Row:
    shown = f"{value:.2f}" if isinstance(value, float) else f"{value}"
    return label, shown, f"at most {most:g}", value <= most
