"""Runs children and judges: first without any bug, when all has to be silent, then with one bug at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

from tests.mutants import child
from tests.mutants.mutant import Mutant
from tests.mutants.verdict import Seen, Verdict

CONTROL = "-"
IMPORTED_ONCE = (
    "pytest", "_hypothesis_pytestplugin", "hypothesis.strategies", "pytest_asyncio.plugin", "pytest_timeout",
    "xdist.plugin", "celery.app", "celery.worker", "kombu.transport.virtual", "click", "cryptography.x509", "msgspec",
    "rich.table", "structlog", "trustme", "uvloop", "zstandard",
)  # fmt: skip
"""None of these imports the product, so a bug can still be planted in all of it."""
TESTS_LIMIT_S = 150.0
CONTROL_LIMIT_S = 900.0
PARTS_PER_JOB = 4


class Plan(NamedTuple):
    """`seeds`: how many the simulator runs against each mutant, 0 for none; `seconds`: or as many as fit."""

    seeds: int = 80
    seconds: float = 60.0
    first_seed: int = 1
    jobs: int = 1


def control(mutants: Sequence[Mutant], plan: Plan) -> list[Seen]:
    """Every target once and the same seeds, no bug planted. There are more parts than jobs, because some take long."""
    targets = {target for mutant in mutants for target in mutant.tests}
    with ThreadPoolExecutor(plan.jobs) as pool:
        parts = shares(targets, PARTS_PER_JOB * plan.jobs)
        seen = list(pool.map(lambda part: _child(CONTROL_LIMIT_S, "tests", CONTROL, *part), parts))
    asked = {mutant.groups for mutant in mutants if mutant.is_asked and plan.seeds}
    return seen + [_seeds(CONTROL, groups, plan) for groups in sorted(asked)]


def shares(targets: Iterable[str], count: int) -> list[list[str]]:
    """At most `count` parts of about one size. The targets of one file stay together, because they share its setup."""
    by_file: dict[str, list[str]] = {}
    for target in sorted(targets):
        by_file.setdefault(target.partition("::")[0], []).append(target)
    parts: list[list[str]] = [[] for _ in range(count)]
    for of_one_file in sorted(by_file.values(), key=len, reverse=True):
        min(parts, key=len).extend(of_one_file)
    return [part for part in parts if part]


def verdicts(mutants: Sequence[Mutant], plan: Plan, told: Callable[[Mutant], None]) -> Iterator[Verdict]:
    """In the catalogue's order, each as soon as it is known."""

    def judge(mutant: Mutant) -> Verdict:
        told(mutant)
        tests = _child(TESTS_LIMIT_S, "tests", mutant.name, *mutant.tests)
        is_asked = mutant.is_asked and plan.seeds
        return Verdict(mutant, tests, _seeds(mutant.name, mutant.groups, plan) if is_asked else None)

    with ThreadPoolExecutor(plan.jobs) as pool:
        yield from pool.map(judge, mutants)


def _seeds(name: str, groups: int, plan: Plan) -> Seen:
    limit_s = 2 * plan.seconds + 60
    numbers = (plan.first_seed, plan.seeds, plan.seconds, groups)
    return _child(limit_s, "seeds", name, *map(str, numbers))


def _child(limit_s: float, what: str, name: str, *arguments: str) -> Seen:
    with tempfile.TemporaryDirectory(prefix="disheap-mutants-") as directory:
        result, output = Path(directory) / "seen.json", Path(directory) / "output"
        process = _server().Process(
            target=child.forked, args=(directory, output, [what, str(result), name, *arguments])
        )
        process.start()
        process.join(limit_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            return Seen(broken=f"no end within {limit_s:.0f} s", seconds=limit_s)
        if not result.exists():
            said = output.read_text(errors="replace") if output.exists() else ""
            return Seen(broken=f"the process ended with {process.exitcode}: {said.strip()[-300:]}")
        return Seen(**json.loads(result.read_text()))


@cache
def _server() -> ForkServerContext:
    """Forks children that have imported what is not the product: else each would spend most of its second on that.
    They have one seed of hashes, so that a run can be repeated."""
    os.environ["PYTHONHASHSEED"] = "0"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED_ONCE])
    return context
