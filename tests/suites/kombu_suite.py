"""Runs every class of kombu's `t/integration/common.py` against a cluster of three nodes.

python -m tests.suites.kombu_suite DIRECTORY [arguments of pytest]

The tests are those of the installed kombu. They are unpacked into DIRECTORY.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from disheap.cli.processes.local_cluster import local_cluster
from tests.suites.sdist import fetch_tests
from tests.suites.suite import HERE, run_pytest

ADAPTER = "t/integration/test_disheap.py"


def main(directory: str, *arguments: str) -> int:
    """Returns pytest's exit code."""
    folder = fetch_tests("kombu", Path(directory))
    shutil.copy(HERE / "kombu_adapter.py", folder / ADAPTER)
    with local_cluster(3, prefix="disheap-kombu-") as cluster:
        leader = cluster.places[cluster.leader()].url
        environ = cluster.environment({"SUITE_BROKER": cluster.url, "SUITE_LEADER": leader})
        return run_pytest(folder, environ, [ADAPTER, *arguments])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
