"""Runs Celery's `t/integration` against clusters of three nodes.

python -m tests.suites.celery_suite DIRECTORY [--broker B] [--backend B] [--jobs N] [arguments of pytest]

The tests are those of the installed Celery. They are unpacked into DIRECTORY. Results are kept in disheap, or in a
redis-server of this run. `--broker redis` shows which tests fail on a broker other than disheap too. Without a module
among the arguments, those of `RUNS` are run. `celery_listed.toml` names the tests that do not pass, with the reasons.

A third of Celery's tests skip themselves unless the URL of the backend begins with `redis`. Most of them ask nothing of
Redis but a place to count in. `admit_backend` lets them run with disheap too.

The tests of one process share a queue, a worker and keys in Redis. So each of the N jobs has a cluster and a
redis-server of its own. Most tests wait most of the time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlparse

from disheap.cli.processes.interrupts import Interrupts
from disheap.cli.processes.local_cluster import LocalCluster
from tests.suites.places import PLACES
from tests.suites.sdist import fetch_tests
from tests.suites.suite import HERE, run_pytest, start_redis

RUNS = (("test_inspect", "test_tasks", "test_canvas"), ("test_worker",))
"""Modules that share processes. Tests of `test_worker` leave a process in which no other test may wait for a result."""
MODULES = tuple(name for run in RUNS for name in run)
LISTED = HERE / "celery_listed.toml"
KINDS = ("disheap", "redis")
ONLY_REDIS = re.compile(r"""(?<=result_backend\.startswith)\(\(?(['"]redis['"](?:, ['"]\w+['"])*)\)?\)""")
"""How a test asks whether it is for its backend."""


def main(arguments: list[str]) -> int:
    """Returns pytest's exit code, the larger one of two runs."""
    options, more = parse(arguments)
    folder = fetch_tests("celery", options.directory)
    admit_backend(folder / "t" / "integration")
    with Interrupts() as interrupts, ExitStack() as stack:
        clusters = [
            stack.enter_context(LocalCluster(3, interrupts, prefix="disheap-celery-")) for _ in range(options.jobs)
        ]
        for cluster in clusters:
            cluster.wait_ready()
        places = [environment(cluster, options.broker, options.backend) for cluster in clusters]
        environ = clusters[0].environment({PLACES: json.dumps(places), "C_FORCE_ROOT": "1"})
        return max(run_pytest(folder, environ, [*run, *more]) for run in runs(options, more))


def runs(options: argparse.Namespace, more: list[str]) -> list[list[str]]:
    """The arguments of each run of pytest."""
    listed = ["--listed", str(LISTED), "--listed-broker", options.broker, "--listed-backend", options.backend]
    plugins = ["-p", "tests.suites.places", "-p", "celery.contrib.pytest", "-p", "tests.suites.listed"]
    jobs = ["-n", str(options.jobs), "--dist", "load", "--maxschedchunk", "1"] if options.jobs > 1 else []
    shared = [*plugins, *listed]
    if any(".py" in argument for argument in more):
        return [[*shared, *jobs]]
    first, last = ([f"t/integration/{name}.py" for name in run] for run in RUNS)
    return [[*shared, *jobs, *first], [*shared, *last]]


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own options, and what is left for pytest."""
    parser = argparse.ArgumentParser(prog="celery_suite", allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--broker", choices=KINDS, default="disheap")
    parser.add_argument("--backend", choices=KINDS, default="disheap")
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_known_args(arguments)


def admit_backend(folder: Path) -> None:
    """Lets the tests that are for Redis as the backend run with disheap as well. Raises `LookupError` if none asks."""
    found = 0
    for path in folder.glob("test_*.py"):
        text, count = ONLY_REDIS.subn(_with_disheap, path.read_text())
        path.write_text(text)
        found += count
    if not found:
        raise LookupError(f"no test in {folder} asks for Redis as its backend; is this another Celery?")


def _with_disheap(found: re.Match[str]) -> str:
    kinds = found[1] if "disheap" in found[1] else f"{found[1]}, 'disheap'"
    return f"(({kinds}))"


def environment(cluster: LocalCluster, broker: str, backend: str) -> dict[str, str]:
    """What Celery's suite reads: where the broker and the backend are, and the Redis that its own tasks count in."""
    redis = start_redis(cluster)
    urls = {"disheap": cluster.url, "redis": redis}
    return {
        "TEST_BROKER": urls[broker],
        "TEST_BACKEND": urls[backend],
        "REDIS_HOST": urlparse(redis).hostname or "",
        "REDIS_PORT": str(urlparse(redis).port),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
