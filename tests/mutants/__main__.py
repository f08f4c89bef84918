"""`python -m tests.mutants`: see the package's page."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from tests.mutants import harness, report
from tests.mutants.catalogue import BY_NAME, CATALOGUE
from tests.mutants.mutant import Mutant, Unplantable
from tests.mutants.verdict import Verdict


def main() -> int:
    options = _options()
    chosen = _chosen(options)
    if options.list:
        print("\n".join(map(report.listed, chosen)))
        return 0
    plan = harness.Plan(0 if options.fast else options.seeds, options.seconds, options.first_seed, options.jobs)
    started = time.monotonic()
    if moved := _unplantable(chosen):
        print("\n".join(moved))
        return 1
    for seen in harness.control(chosen, plan):
        if seen.by or seen.broken:
            print(f"no bug is planted, and {seen.by or 'nothing can be said'}: {seen.says or seen.broken}")
            return 1
        print(f"no bug planted: {seen.ran} tests or seeds are silent ({seen.seconds:.0f} s)", flush=True)
    verdicts: list[Verdict] = []
    for verdict in harness.verdicts(chosen, plan, lambda mutant: None):
        verdicts.append(verdict)
        print(report.line(verdict), flush=True)
    if options.markdown:
        options.markdown.write_text(report.markdown(verdicts) + "\n")
    print(f"{report.summary(verdicts)} ({time.monotonic() - started:.0f} s)")
    return 0 if all(verdict.caught for verdict in verdicts) else 1


def _unplantable(mutants: list[Mutant]) -> list[str]:
    """What is wrong with the catalogue: the code has moved since."""
    found = []
    for mutant in mutants:
        try:
            mutant.check()
        except (Unplantable, SyntaxError) as error:
            found.append(f"{mutant.name}: {error}")
    return found


def _chosen(options: argparse.Namespace) -> list[Mutant]:
    unknown = [name for name in options.run or () if name not in BY_NAME]
    if unknown:
        sys.exit(f"no such planted bug: {', '.join(unknown)} (--list names them)")
    chosen = [BY_NAME[name] for name in options.run] if options.run else list(CATALOGUE)
    chosen = [mutant for mutant in chosen if mutant.fast or not options.fast]
    return sample(chosen, options.sample, options.draw) if options.sample else chosen


def sample(mutants: list[Mutant], count: int, draw: str) -> list[Mutant]:
    """Returns at most `count` of them, in their order. The same `draw` gives the same ones."""
    drawn = set(random.Random(draw).sample(range(len(mutants)), min(count, len(mutants))))
    return [mutant for number, mutant in enumerate(mutants) if number in drawn]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Planted bugs have to be caught.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="name them, one a line")
    what.add_argument("--run", nargs="*", metavar="NAME", help="plant these, or all, one at a time")
    parser.add_argument("--fast", action="store_true", help="only those that tests catch in seconds; no simulator")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="only N of these, drawn at random")
    parser.add_argument("--draw", default="", metavar="TEXT", help="which ones: the same text draws the same ones")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (default 1)")
    parser.add_argument(
        "--seeds", type=int, default=harness.Plan().seeds, help="seeds against each (default %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=harness.Plan().seconds, help="or as many as fit (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=1, metavar="N")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
