"""Run the simulator: `python -m disheap.testing.simulate --seeds 1000 --minutes 5`, or one seed with its trace.

    python -m disheap.testing.simulate --seeds 1000 --first-seed 1 --minutes 5
    python -m disheap.testing.simulate --seed 4711 --trace
    python -m disheap.testing.simulate --seed 4711 --nodes 5
    python -m disheap.testing.simulate --seeds 100 --groups 3
    python -m disheap.testing.simulate --seed 4711 --no-change-members

Ends with 0 when nothing was found, 1 with the failing seeds otherwise. A seed's run is the same everywhere; its hash is
printed with `--seed`.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import msgspec

from disheap.plugins.registry import Registry
from disheap.testing.simulator.run import Plan, Result, simulate

SHOWN = 60
"""The last lines of a failing run's trace, where not all were asked for."""
PROGRESS_S = 5.0
COLLECT_EVERY = 20
"""Runs between two garbage collections; a run's objects are cycles, and collecting them in the middle costs a third."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the seeds that the command line asks for. Returns the exit code, 1 if a check failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    shape = (
        options.nodes, options.groups, options.change_members, options.move_all, options.change_releases,
    )  # fmt: skip
    if options.seed is not None:
        return _one(Plan(options.seed, *shape, options.trace), options.trace)
    if options.trace:
        parser.error("--trace is of one run: say which with --seed")
    first = _first_seed(options)
    print(f"seeds from {first}", flush=True)
    seeds = range(first, first + options.seeds)
    return _many((Plan(seed, *shape) for seed in seeds), options.minutes)


def _first_seed(options: argparse.Namespace) -> int:
    if options.draw:
        return int.from_bytes(blake2b(options.draw.encode(), digest_size=4).digest(), "big")
    return int(time.time()) if options.fresh else int(options.first_seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m disheap.testing.simulate", description="Simulate whole clusters.")
    parser.add_argument("--seeds", type=int, default=1000, help="how many, at most")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="seeds that nobody has run: the first is the time of day")
    parser.add_argument("--draw", default="", metavar="TEXT", help="the first seed: the same text draws the same one")
    parser.add_argument("--minutes", type=float, default=5.0, help="of real time, at most")
    parser.add_argument("--nodes", type=int, choices=(0, 3, 5), default=0, help="0: the seed chooses")
    parser.add_argument("--groups", type=int, choices=(1, 3), default=1, help="3: a counter and two heaps")
    parser.add_argument(
        "--change-members",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="nodes join, leave, move and are removed meanwhile",
    )
    parser.add_argument(
        "--move-all",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="all members of a static list move at once, again and again; without it in a share of the runs",
    )
    parser.add_argument(
        "--change-releases",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="in some of the runs nodes are upgraded and rolled back",
    )
    parser.add_argument("--seed", type=int, help="one seed alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: every line of what happened")
    return parser


def _one(plan: Plan, trace: bool) -> int:
    result = simulate(plan)
    if trace or result.violation:
        print("\n".join(result.lines if trace else result.lines[-SHOWN:]))
    print(_report([result]))
    print(f"hash {result.digest}")
    if result.violation:
        print(f"VIOLATION: {result.violation}")
    return 1 if result.violation else 0


def _many(plans: Iterable[Plan], minutes: float) -> int:
    registry, started = Registry.load(), time.monotonic()
    said_at = started
    results: list[Result] = []
    failed: list[Result] = []
    gc.disable()
    for plan in plans:
        result = simulate(plan, registry)
        if result.violation:
            failed.append(result)
            _show(result)
        results.append(msgspec.structs.replace(result, lines=[]))
        if len(results) % COLLECT_EVERY == 0:
            gc.collect()
        now = time.monotonic()
        if now - said_at > PROGRESS_S:
            said_at = now
            print(f"{len(results)} seeds, {len(failed)} failed, {now - started:.0f} s", file=sys.stderr, flush=True)
        if now - started > minutes * 60:
            break
    print(_report(results))
    if failed:
        print("failed seeds: " + " ".join(str(result.seed) for result in failed))
    return 1 if failed else 0


def _show(result: Result) -> None:
    print("\n".join(result.lines[-SHOWN:]))
    print(f"seed {result.seed}: VIOLATION: {result.violation}", flush=True)


def _report(results: list[Result]) -> str:
    simulated, real = sum(one.simulated_s for one in results), sum(one.real_s for one in results)
    rows = [
        f"{len(results)} runs, {sum(bool(one.violation) for one in results)} with a violation",
        f"simulated {simulated:.0f} s in {real:.0f} s: {simulated / max(real, 1e-9):.0f} times real time",
        f"operations {_sum(results, 'operations')}, of which without success {_sum(results, 'failed_operations')}",
        f"entries {_sum(results, 'entries')}, elections {_sum(results, 'elections')}, pushes to clients "
        f"{_sum(results, 'deliveries')}, callbacks {_sum(results, 'steps')}, checks {_sum(results, 'checks')}",
        f"sessions were not allowed to lapse for {sum(one.watched_s for one in results):.0f} s",
        "faults: " + _counts(one.faults for one in results),
        "operations: " + _counts(one.by_kind for one in results),
        "rarer ways: " + _counts(one.rare for one in results),
    ]
    return "\n".join(rows)


def _sum(results: list[Result], field: str) -> int:
    return sum(getattr(one, field) for one in results)


def _counts(counts: Iterable[dict[str, int]]) -> str:
    total: dict[str, int] = {}
    for one in counts:
        for kind, number in one.items():
            total[kind] = total.get(kind, 0) + number
    return ", ".join(f"{kind} {number}" for kind, number in sorted(total.items(), key=lambda item: -item[1])) or "none"


if __name__ == "__main__":
    logging.getLogger("disheap").setLevel(logging.CRITICAL)
    sys.exit(main())
