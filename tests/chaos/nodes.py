"""Nodes as processes. Each is started with its own configuration, which names the addresses of proxies for the others.
It has ended when the `with` block ends, however that ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import disheap
from disheap.cli.processes.children import Child
from disheap.cli.processes.local_cluster import OURS, OURS_TOO, free_ports
from disheap.config.cluster_secret import write_new
from disheap.errors import DisheapError
from tests.chaos import shim
from tests.chaos.shim import Control

HOST = "127.0.0.1"
ASK_S = 2.0
TMPFS_BYTES = 24 << 20
SETTINGS = """
[raft]
snapshot_log_bytes = 262144
snapshot_threshold = 3000
trailing_entries = 300
trailing_bytes = 65536
chunk_bytes = 8192
[limits]
min_free_bytes = 1048576
[storage.file]
segment_bytes = 131072
"""
"""Small, so that snapshots, compaction and catching up by snapshot happen within a minute."""


class ChaosNode:
    """One node: its ports (proxy and own, for peers and for clients), its data and its process."""

    def __init__(self, name: str, ports: tuple[int, int, int, int], directory: Path, prefix: tuple[str, ...]) -> None:
        self.name, self.directory = name, directory
        self.peer_proxy, self.peer_port, self.client_proxy, self.client_port = ports
        self.host = HOST
        self.members_peer = f"{HOST}:{self.peer_proxy}"
        self.members_client = f"{HOST}:{self.client_proxy}"
        self.prefix = prefix  # of the command: to enter a namespace
        self.data = directory / "data"
        self.control: Control | None = None
        self.child: Child | None = None
        self.stopped = False

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.exit_code() is None

    @property
    def exit_code(self) -> int | None:
        return self.child.exit_code() if self.child else None

    def signal(self, number: int) -> None:
        assert self.child is not None
        os.kill(self.child.pid, number)
        self.stopped = number == signal.SIGSTOP

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()

    def said(self, lines: int = 1) -> str:
        return self.child.tail(lines) if self.child else ""


class ChaosCluster:
    """`with ChaosCluster(3) as cluster`: started, not yet led. With `tmpfs`, the last node's data lie on one."""

    def __init__(
        self, count: int, *, tmpfs: bool = False, settings: str = SETTINGS, secret: bool = False, proxies: bool = True
    ) -> None:
        """Beyond loopback there is always a secret. Without `proxies` the members know each other's own ports."""
        self._count, self._tmpfs, self._settings = count, tmpfs, settings
        self._has_secret, self._has_proxies = secret, proxies
        self._mounted: list[Path] = []
        self._library: Path | None = None
        self.directory: Path
        self.nodes: dict[str, ChaosNode] = {}

    def __enter__(self) -> ChaosCluster:
        self.directory = Path(tempfile.mkdtemp(prefix="disheap-chaos-"))
        try:
            self._library = None if shim.why_not() else shim.build(self.directory)
            ports = free_ports(4 * self._count)
            for number in range(self._count):
                self._place(f"n{number + 1}", tuple(ports[4 * number : 4 * number + 4]))
            if self._tmpfs:
                self._mount(list(self.nodes.values())[-1].data)
            for name in self.nodes:
                self.start(name)
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and isinstance(error, Exception):
            print(self.logs(), file=sys.stderr)
        self._clear()

    # --- nodes ---

    def start(self, name: str) -> None:
        node = self.nodes[name]
        file = node.directory / "disheap.toml"
        file.write_text(self._toml(node))
        command = (*node.prefix, sys.executable, "-m", "disheap", "serve", "--config", str(file))
        node.child = Child(name, command, node.directory / "node.log", self._environment(node))
        node.stopped = False
        node.child.start()

    def revive(self) -> list[str]:
        """Whatever was done to nodes is undone; the names of those that had ended."""
        ended = []
        for node in self.nodes.values():
            if node.control is not None:
                node.control.heal()
            if node.stopped and node.alive:
                node.signal(signal.SIGCONT)
            if not node.alive:
                ended.append(node.name)
                self.start(node.name)
        return ended

    def live(self) -> list[ChaosNode]:
        return [node for node in self.nodes.values() if node.alive and not node.stopped]

    @property
    def url(self) -> str:
        """Through the proxies."""
        return "disheap://" + ",".join(node.members_client for node in self.nodes.values())

    def majority(self) -> int:
        return self._count // 2 + 1

    # --- questions, past the proxies ---

    async def status(self, name: str, op: str = "status") -> dict[str, Any] | None:
        node = self.nodes[name]
        if not node.alive or node.stopped:
            return None
        address = f"disheap://{node.host}:{node.client_port}"
        try:
            async with disheap.connect(address, observer=True, timeout_s=ASK_S) as client:
                return await client.driver.admin({"op": op})
        except DisheapError:
            return None

    async def leader(self) -> str:
        """The node that leads in the newest term; "" while none says so."""
        found = [status for name in self.nodes if (status := await self.status(name)) and status["role"] == "leader"]
        return str(max(found, key=lambda status: int(status["term"]))["node"]) if found else ""

    async def hashes(self) -> dict[str, tuple[int, str]]:
        answers = {name: await self.status(name, "hash") for name in self.nodes}
        return {name: (found["applied_index"], found["state_hash"]) for name, found in answers.items() if found}

    def logs(self, lines: int = 12) -> str:
        return "\n".join(f"--- {node.name}\n{node.said(lines)}" for node in self.nodes.values())

    # --- files ---

    def _place(self, name: str, ports: Any) -> None:
        if not self._has_proxies:
            ports = (ports[1], ports[1], ports[3], ports[3])
        directory = self.directory / name
        directory.mkdir()
        self.nodes[name] = node = ChaosNode(name, ports, directory, ())
        if self._library is not None:
            node.control = Control(directory / "control")
        self.placed(node)

    def placed(self, node: ChaosNode) -> None:
        """For whoever puts nodes elsewhere."""

    def _environment(self, node: ChaosNode) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS) and key not in OURS_TOO}
        kept["TMPDIR"] = str(self.directory)
        if self._library is not None and node.control is not None:
            kept |= {"LD_PRELOAD": str(self._library), "CHAOS_CONTROL": str(node.control.path)}
            kept["CHAOS_PARENT"] = str(os.getpid())
        return kept

    def _toml(self, node: ChaosNode) -> str:
        own = {
            "cluster": "chaos",
            "name": node.name,
            "data_dir": str(node.data),
            "peer_listen": f"{node.host}:{node.peer_port}",
            "client_listen": f"{node.host}:{node.client_port}",
            "client_advertise": node.members_client,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
        if node.host != HOST:
            lines.append("insecure = true")
        if node.host != HOST or self._has_secret:
            lines.append(f"cluster_secret_file = {json.dumps(str(self._secret()))}")
        lines.append(self._settings)
        for other in self.nodes.values():
            member = {"name": other.name, "peer": other.members_peer, "client": other.members_client}
            lines += ["[[members]]", *(f"{key} = {json.dumps(value)}" for key, value in member.items())]
        return "\n".join(lines) + "\n"

    def _secret(self) -> Path:
        """One file for all nodes: they are on one machine."""
        path = self.directory / "cluster.secret"
        if not path.exists():
            write_new(path)
        return path

    def _mount(self, path: Path) -> None:
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(path)], check=True)
        self._mounted.append(path)

    def _clear(self) -> None:
        for node in self.nodes.values():
            node.kill()
        for node in self.nodes.values():
            if node.control is not None:
                node.control.close()
        for path in self._mounted:
            subprocess.run(["umount", str(path)], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def fill(path: Path) -> Path:
    """A file that takes all room there is, which may be none."""
    filler = path / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def wait_ended(node: ChaosNode, within_s: float) -> int:
    """Its exit code. Raises `TimeoutError`."""
    deadline = time.monotonic() + within_s
    while (code := node.exit_code) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{node.name} still runs after {within_s} s")
        time.sleep(0.02)
    return code


def last_lines(nodes: Iterable[ChaosNode]) -> str:
    return "\n".join(f"{node.name}: {node.said()}" for node in nodes)
