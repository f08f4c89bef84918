"""`python -m tests.chaos --minutes 5 --nodes 3 [--seed N] [--only FAULT] [--json]`. Exit code 1 where it fails."""

from __future__ import annotations

import argparse
import json
import signal
import sys

from tests.chaos import faults
from tests.chaos.run import new_seed, run, say_to_stderr


def main() -> int:
    known = {fault.__name__: fault for fault in (*faults.PLAIN, *faults.SHIMMED, faults.disk_full)}
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Real processes under real faults.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--nodes", type=int, default=3, choices=(3, 5))
    parser.add_argument("--seed", type=int, default=None, help="which faults, in which order")
    parser.add_argument("--only", action="append", choices=sorted(known), help="this fault alone; may be repeated")
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that every node is ended
    kinds = [known[name] for name in options.only] if options.only else None
    seed = new_seed() if options.seed is None else options.seed
    report = run(nodes=options.nodes, seconds=options.minutes * 60, seed=seed, kinds=kinds, say=say_to_stderr)
    print(json.dumps(report.as_dict()) if options.json else report.text())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
