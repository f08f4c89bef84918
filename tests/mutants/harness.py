"""Runs children and judges: first without any bug, when all has to be silent, then with one bug at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutants.mutant import Mutant
from tests.mutants.verdict import Seen, Verdict

ROOT = Path(__file__).parent.parent.parent
CONTROL = "-"
TESTS_LIMIT_S = 150.0
CONTROL_LIMIT_S = 900.0


class Plan(NamedTuple):
    """`seeds`: how many the simulator runs against each mutant, 0 for none; `seconds`: or as many as fit."""

    seeds: int = 80
    seconds: float = 60.0
    first_seed: int = 1
    jobs: int = 1


def control(mutants: Sequence[Mutant], plan: Plan) -> list[Seen]:
    """Every target once and the same seeds, no bug planted."""
    targets = {target for mutant in mutants for target in mutant.tests}
    with ThreadPoolExecutor(plan.jobs) as pool:
        parts = shares(targets, plan.jobs)
        seen = list(pool.map(lambda part: _child(CONTROL_LIMIT_S, "tests", CONTROL, *part), parts))
    if plan.seeds and any(mutant.is_asked for mutant in mutants):
        seen.append(_seeds(CONTROL, plan))
    return seen


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
        return Verdict(mutant, tests, _seeds(mutant.name, plan) if mutant.is_asked and plan.seeds else None)

    with ThreadPoolExecutor(plan.jobs) as pool:
        yield from pool.map(judge, mutants)


def _seeds(name: str, plan: Plan) -> Seen:
    limit_s = 2 * plan.seconds + 60
    return _child(limit_s, "seeds", name, str(plan.first_seed), str(plan.seeds), str(plan.seconds))


def _child(limit_s: float, what: str, name: str, *arguments: str) -> Seen:
    with tempfile.TemporaryDirectory(prefix="disheap-mutants-") as directory:
        result = Path(directory) / "seen.json"
        command = [sys.executable, "-m", "tests.mutants.child", what, str(result), name, *arguments]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "TMPDIR": directory, "PYTEST_ADDOPTS": ""}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Seen(broken=f"no end within {limit_s:.0f} s", seconds=limit_s)
        if not result.exists():
            return Seen(broken=f"the process ended with {process.returncode}: {output.strip()[-300:]}")
        return Seen(**json.loads(result.read_text()))
