"""A cluster on this machine, for as long as a command runs: each node a process, its data in a directory that goes.

Owns ports, configuration files and the nodes' processes; asks nodes by their client protocol, as any operator would.
Refuses to know what the cluster is used for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import disheap.sync
from disheap.cli.processes.children import Child, Children
from disheap.cli.processes.interrupts import Interrupts
from disheap.errors import DisheapError, RequestError

HOST = "127.0.0.1"
PORTS = range(12_000, 32_000)
"""Below the range from which systems take the ports of outgoing connections (32768 up on Linux, 49152 up elsewhere). A
port from that range could be taken by a client while its node is down. Worse, a client that keeps dialling a dead
node's port on loopback may get that port as its own. TCP then connects it to itself."""
PORT_TRIES = 1000
READY_S = 30.0
ASK_S = 2.0
"""For one question to one node, connecting included."""
POLL_S = 0.05
SERVE = (sys.executable, "-m", "disheap", "serve")
OURS = ("DISHEAP_", "RAFT_")
OURS_TOO = ("NODE_ID", "BOOTSTRAP")
LOG_LINES = 25


class ClusterFailed(DisheapError):
    """A node of a command's own cluster ended, or did not become ready."""


class Place(NamedTuple):
    """Where one node is."""

    name: str
    peer: str
    client: str
    directory: Path

    @property
    def url(self) -> str:
        """The broker URL of this node alone."""
        return f"disheap://{self.client}"


class LocalCluster:
    """A context manager: nodes n1, n2, ... with storage `file`, codec `zstd`, every commit fsynced.

    `serve` is the command that becomes a node when `--config FILE` is added to it.
    """

    def __init__(
        self, nodes: int, interrupts: Interrupts, *, serve: Sequence[str] = SERVE, prefix: str = "disheap-"
    ) -> None:
        self._interrupts = interrupts
        self._serve = serve
        self._prefix = prefix
        self._count = self._founders = nodes
        self._nodes: dict[str, Child] = {}
        self._directory: Path | None = None
        self.places: dict[str, Place] = {}
        self.children = Children(interrupts)

    def __enter__(self) -> LocalCluster:
        try:
            with self._interrupts.held():
                self._directory = Path(tempfile.mkdtemp(prefix=self._prefix))
            self.places = {place.name: place for place in _places(self._count, self.directory)}
            for name in self.places:
                self.start(name)
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    @property
    def directory(self) -> Path:
        """For the command's own files too; it goes with the cluster."""
        assert self._directory is not None, "the cluster was not entered"
        return self._directory

    @property
    def url(self) -> str:
        """What a client or a Celery application is given."""
        return "disheap://" + ",".join(place.client for place in self.places.values())

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """For a child: this process's, without settings that were meant for another node. What a child puts into the
        temporary directory lies in ours, for one that is killed (a Celery worker) does not tidy up."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS) and key not in OURS_TOO}
        return {**kept, "TMPDIR": str(self.directory), **(extra or {})}

    # --- nodes ---

    def start(self, name: str) -> None:
        """For the first time, or again on the same data."""
        place = self.places[name]
        place.directory.mkdir(exist_ok=True)
        file = place.directory / "disheap.toml"
        founders = list(self.places.values())[: self._founders]
        file.write_text(_toml(place, founders))
        command = (*self._serve, "--config", str(file))
        self._nodes[name] = Child(name, command, place.directory / "node.log", self.environment())
        self.children.start(self._nodes[name])

    def add(self) -> str:
        """Starts one more node, with an empty directory, which joins the others. Returns its name."""
        self._count += 1
        ports = free_ports(2)
        self.places[f"n{self._count}"] = _place(self._count, ports, self.directory)
        self.start(f"n{self._count}")
        return f"n{self._count}"

    def kill(self, name: str) -> int:
        """SIGKILL. The time just before it, by the monotonic clock, in ns."""
        at_ns = time.monotonic_ns()
        self._nodes[name].kill()
        return at_ns

    def pid(self, name: str) -> int:
        """The process id of the node."""
        return self._nodes[name].pid

    def wait_ready(self, within_s: float = READY_S) -> str:
        """Waits until every node answers and all name the same leader. Returns its name. Raises `ClusterFailed`."""
        deadline = time.monotonic() + within_s
        while not (leader := self._agreed_leader()):
            self.check_alive()
            if time.monotonic() > deadline:
                raise ClusterFailed(f"the nodes agreed on no leader within {within_s:g} s")
            time.sleep(POLL_S)
        return leader

    def leader(self, within_s: float = READY_S) -> str:
        """The name of the node that leads now, by its own word. Raises `ClusterFailed`."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for name, status in self.statuses().items():
                if status.get("role") == "leader":
                    return name
            time.sleep(POLL_S)
        raise ClusterFailed(f"no node led within {within_s:g} s")

    # --- questions ---

    def statuses(self) -> dict[str, dict[str, Any]]:
        """The status of each node that answers."""
        return self._ask_all("status")

    def status(self, name: str) -> dict[str, Any]:
        """The status of one node. Raises `RequestError` if it does not answer."""
        return _ask(self.places[name], "status")

    def state_hashes(self) -> dict[str, tuple[int, str]]:
        """(applied index, hash) of each node that answers."""
        answers = self._ask_all("hash")
        return {name: (answer["applied_index"], answer["state_hash"]) for name, answer in answers.items()}

    def disk_bytes(self) -> int:
        """What the nodes' data take on the disk, as `du` counts."""
        data = [place.directory / "data" for place in self.places.values()]
        return sum(file.stat().st_blocks * 512 for root in data for file in root.rglob("*") if file.is_file())

    def logs(self) -> str:
        """The end of each node's log, for people."""
        return "\n".join(f"--- {name}\n{node.tail(LOG_LINES)}" for name, node in self._nodes.items())

    def _agreed_leader(self) -> str:
        named = [status.get("leader") or "" for status in self.statuses().values()]
        return named[0] if len(named) == self._count and len(set(named)) == 1 else ""

    def _ask_all(self, op: str) -> dict[str, dict[str, Any]]:
        answers = {}
        for name, place in self.places.items():
            if self._nodes[name].exit_code() is None:
                with suppress(RequestError):
                    answers[name] = _ask(place, op)
        return answers

    def check_alive(self) -> None:
        """Raises `ClusterFailed` if a node has ended by itself."""
        for name, node in self._nodes.items():
            if (code := node.exit_code()) is not None:
                raise ClusterFailed(f"node {name} ended with exit code {code}; it said: {node.tail(1)}")

    def _clear(self) -> None:
        with self._interrupts.held():
            self.children.kill()
            directory, self._directory = self._directory, None
            if directory is not None:
                shutil.rmtree(directory)


@contextmanager
def local_cluster(nodes: int, *, prefix: str, serve: Sequence[str] = SERVE) -> Iterator[LocalCluster]:
    """A cluster that is ready, in a command that knows how to be interrupted. Shows the logs of one that is not."""
    with Interrupts() as interrupts, LocalCluster(nodes, interrupts, serve=serve, prefix=prefix) as cluster:
        try:
            cluster.wait_ready()
        except ClusterFailed:
            print(cluster.logs(), file=sys.stderr)
            raise
        yield cluster


def free_ports(count: int, generator: random.Random | None = None) -> list[int]:
    """On loopback, from `PORTS`; free a moment ago, and all different. Raises `ClusterFailed`."""
    candidates = (generator or random.SystemRandom()).sample(PORTS, PORT_TRIES)
    found: list[int] = []
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ClusterFailed(f"of {PORT_TRIES} ports tried on {HOST}, {count} free ones were not to be found")


def _places(count: int, directory: Path) -> list[Place]:
    ports = free_ports(2 * count)
    return [_place(i + 1, ports[2 * i : 2 * i + 2], directory) for i in range(count)]


def _place(number: int, ports: Sequence[int], directory: Path) -> Place:
    peer, client = (f"{HOST}:{port}" for port in ports)
    return Place(f"n{number}", peer, client, directory / f"n{number}")


def _toml(place: Place, founders: Sequence[Place]) -> str:
    """What `serve` reads: the founders are members from the start, and any other node joins them. A JSON string is a
    TOML string, escapes and all."""
    settings = {
        "cluster": "local",
        "name": place.name,
        "data_dir": str(place.directory / "data"),
        "peer_listen": place.peer,
        "client_listen": place.client,
        "transport": "tcp",
        "storage": "file",
        "codec": "zstd",
        "machine": "heap",
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    if place not in founders:
        lines.append(f"join_addresses = {json.dumps([other.peer for other in founders])}")
    elif len(founders) == 1:
        lines.append("bootstrap = true")  # so that others may join it later
    else:
        for other in founders:
            member = {"name": other.name, "peer": other.peer, "client": other.client}
            lines += ["", "[[members]]", *(f"{key} = {json.dumps(value)}" for key, value in member.items())]
    return "\n".join(lines) + "\n"


def _ask(place: Place, op: str) -> dict[str, Any]:
    with disheap.sync.connect(place.url, observer=True, timeout_s=ASK_S) as client:
        return client.driver.admin({"op": op})
