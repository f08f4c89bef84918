"""Runs pytest in a folder of downloaded tests, beside a cluster of three `disheap serve` processes on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from disheap.cli.processes.children import Child
from disheap.cli.processes.local_cluster import HOST, LocalCluster, free_ports

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAMS = Path(sys.executable).parent
"""Where `celery` is, which the tests start by its name."""
START_S = 20.0


def run_pytest(folder: Path, environ: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Runs pytest in `folder` with our settings. Returns its exit code. Ends what it started, however it ends."""
    command = [sys.executable, "-m", "pytest", "-c", str(HERE / "pytest.ini"), "--rootdir", str(folder), *arguments]
    paths = {"PYTHONPATH": _joined(ROOT, environ, "PYTHONPATH"), "PATH": _joined(PROGRAMS, environ, "PATH")}
    process = subprocess.Popen(command, cwd=folder, env={**environ, **paths}, start_new_session=True)
    try:
        return process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _joined(first: Path, environ: Mapping[str, str], name: str) -> str:
    return os.pathsep.join(part for part in (str(first), environ.get(name)) if part)


def start_redis(cluster: LocalCluster) -> str:
    """Starts a redis-server that ends with the cluster. Returns its URL when it answers."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("redis-server is needed: apt-get install redis-server")
    (port,) = free_ports(1)
    directory = cluster.directory / "redis"
    directory.mkdir()
    options = ("--port", str(port), "--bind", HOST, "--dir", str(directory), "--save", "", "--appendonly", "no")
    server = cluster.children.start(Child("redis", [binary, *options], directory / "redis.log", cluster.environment()))
    deadline = time.monotonic() + START_S
    while not _answers(port):
        if server.exit_code() is not None or time.monotonic() > deadline:
            raise SystemExit(f"redis-server does not answer; it said: {server.tail(5)}")
        time.sleep(0.02)
    return f"redis://{HOST}:{port}/0"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
