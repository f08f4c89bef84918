"""The commands of the page on the seed do what it says, against the two nodes that it starts."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.cli.command_line import environment, logged, ready, running

from disheap.cli.processes.local_cluster import free_ports
from disheap.kernel.types import EntryKind

pytestmark = pytest.mark.proof
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/the-seed.md").read_text()
COMMAND_S = 90.0
CONSOLE = re.compile(r"^\$ (.*)$", re.MULTILINE)
ROW = re.compile(r"^\| (?!in the document|---)(.+) \| (.+) \| `(.+)` \| `(.+)` \|$", re.MULTILINE)
PORTS = ("8300", "8301", "8400", "8401", "8080", "9090")
ROWS = [(what, command, prints) for what, _, command, prints in ROW.findall(PAGE)]
HEADINGS = (
    "Overview", "Key features", "Architecture", "Components", "Core files", "Test files", "Log entry types", "Usage",
    "Basic Setup", "Applying Operations", "Cluster Management", "Configuration", "Environment variables",
    "Docker Compose Example", "Performance", "Benchmarks", "Tuning parameters", "Monitoring", "Metrics",
    "Health checks", "Testing", "Contributing", "License", "Dependencies",
)  # fmt: skip
OF_THE_DOCUMENT = (
    "Distributed Consensus", "State Machine Replication", "Transactional Support", "Snapshot Management",
    "Cluster Management", "gRPC Service", "Raft FSM", "Storage", "Raft Consensus (Leader)",
    *(f"`{name}.go`" for name in ("node", "fsm", "log", "snapshot", "cluster", "transport", "compaction", "recovery")),
    *(f"`{name}_test.go`" for name in ("fsm", "node", "recovery")),
    *(f"`Entry{name}`" for name in ("Enqueue", "Ack", "Nack", "LeaseExtend", "BatchPrepare", "BatchCommit")),
    *(f"`Entry{name}`" for name in ("BatchAbort", "ConfigUpdate", "SnapshotMark")),
    "`NODE_ID`", "`RAFT_BIND`", "`RAFT_ADVERTISE`", "`BOOTSTRAP`", "`RAFT_JOIN_ADDRESSES`",
    "`BenchmarkHeapFSM_ApplyEnqueue`", "`BenchmarkHeapFSM_Snapshot`", "`BenchmarkNode_Apply`",
    "Heartbeat Timeout", "Election Timeout", "Commit Timeout", "Snapshot Threshold",
    "`raft_applied_entries_total`", "`raft_failed_entries_total`", "`raft_snapshots_total`", "`raft_cluster_size`",
    "`raft_leader_changes_total`", "Check node health", "Check Raft status", "Check cluster statistics",
    "Run the test suite", "Run benchmarks", "HashiCorp Raft", "BadgerDB", "Zap", "gRPC",
)  # fmt: skip
"""Its rows of tables, its kinds of entries, benchmarks and metrics, and what its lists name."""
BY_TOX = "tox -e "
"""Such a command makes an environment and takes minutes. CI runs it, or another test runs what is in it."""


class Here:
    """Where the page's commands run: its addresses with free ports, and a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))

    def placed(self, text: str) -> str:
        return re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{self._ports[found[1]]}", text)

    def run(self, command: str) -> str:
        """What it prints on both streams, after its exit code if that is not 0."""
        words = shlex.split(self.placed(command))
        if words[0] == "disheap":
            words = [sys.executable, "-m", "disheap", *words[1:]]
        elif words[0] == "python":
            words[0] = sys.executable
        url = self.placed("disheap://127.0.0.1:8400,127.0.0.1:8401")
        path = os.pathsep.join((str(ROOT), *sys.path))
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=COMMAND_S, cwd=self.directory,
            env=environment({"DISHEAP_URL": url, "COLUMNS": "300", "PYTHONPATH": path}),
        )  # fmt: skip
        said = done.stdout + done.stderr
        return said if done.returncode == 0 else f"exit code {done.returncode}: {said}"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    here = Here(tmp_path_factory.mktemp("seed"))
    for name in ("tests", "contrib", "pyproject.toml", "CONTRIBUTING.md", "LICENSE"):
        (here.directory / name).symlink_to(ROOT / name)
    with ExitStack() as stack:
        for line in (line for line in CONSOLE.findall(PAGE) if "disheap serve" in line):
            words = shlex.split(here.placed(line))
            variables = dict(word.split("=", 1) for word in words[: words.index("disheap")])
            options = [str(here.directory / word) if word.startswith("node-") else word for word in words]
            if "--http-listen" in options:  # to set it alone would serve HTTP at its usual port, which may be taken
                variables["DISHEAP_METRICS_LISTEN"] = here.placed("127.0.0.1:9090")
            node = stack.enter_context(
                running(
                    *options[options.index("disheap") + 1 :], "--log-json",
                    environ=variables,
                )
            )  # fmt: skip
            ready(node)
            if "RAFT_JOIN_ADDRESSES" in variables:
                logged(node, "leader")
        yield here


def test_the_page_has_a_row_for_each_heading_and_row_of_the_document() -> None:
    rows = [what for what, _, _ in ROWS]
    assert [row for row in OF_THE_DOCUMENT if not any(row in what for what in rows)] == []
    headings = "".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE)).lower()
    assert [one for one in HEADINGS if one.lower() not in headings and not any(one in what for what in rows)] == []


def test_the_page_names_each_kind_of_entry_of_the_kernel_as_it_is() -> None:
    """A row that says that there is none of a kind is checked by nothing else."""
    (here,) = re.findall(r"^\| `EntrySnapshotMark` \| (.*?) \|", PAGE, re.MULTILINE)
    assert EntryKind.SNAPSHOT_MARK.name in here


@pytest.mark.timeout(300)
def test_every_command_prints_what_the_page_says(here: Here) -> None:
    """In the order of the page: one makes the topic that another one reads."""
    assert shutil.which("curl") is not None
    said: dict[str, str] = {}
    wrong = []
    for what, command, prints in ROWS:
        if command.startswith(BY_TOX):
            continue
        if command not in said:
            said[command] = here.run(command)
        if said[command].startswith("exit code") or here.placed(prints) not in said[command]:
            wrong.append(f"{what}: {command} does not print {prints}: {said[command][-500:]}")
    assert wrong == []


def test_every_environment_of_tox_that_the_page_names_is_there() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "tox.ini")
    named = {command.removeprefix(BY_TOX) for _, command, _ in ROWS if command.startswith(BY_TOX)}
    there = {section.removeprefix("testenv:") for section in config.sections()} | {"unit"}
    assert named and named - there == set()
    in_ci = set(re.findall(r"[\w-]+", " ".join(re.findall(r"tox .*?-e (\S+)", (ROOT / ".ci/run").read_text()))))
    assert named - in_ci - set(config["tox"]["env_list"].split()) == set(), "CI runs what this test leaves out"


def test_the_program_of_the_page_prints_what_it_says() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    expected = re.findall(r"^# prints (.*)$", program, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    assert done.stdout.split() == expected, done.stderr
