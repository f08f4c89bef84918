"""Processes for the kombu tests: nodes that can be killed and started again, Celery workers and commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import disheap.sync
from disheap.cli.processes.local_cluster import free_ports

HERE = Path(__file__).parent
TIMEOUT_S = 30.0


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Poll a condition that another process fulfils. Fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class NodeProcess:
    """One node process. It is a cluster of one unless `members` names several."""

    def __init__(
        self, directory: Path, storage: str = "memory", name: str = "n1", members: tuple[str, ...] = ()
    ) -> None:
        self.directory, self.storage, self.name = directory, storage, name
        self.members = members or describe(name)
        self.address = next(text.split("=")[2] for text in self.members if text.startswith(name + "="))
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"disheap://{self.address}"

    def start(self) -> None:
        program = [sys.executable, str(HERE / "kombu_node.py")]
        arguments = [self.storage, str(self.directory / self.name), self.name, *self.members]
        self._process = subprocess.Popen(
            [*program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == self.address:
                return
        raise AssertionError("the node did not start")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process is not None and self._process.stdout is not None and self._process.stdin is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        self._process.stdout.close()
        self._process.stdin.close()


class Cluster:
    """Three nodes."""

    def __init__(self, directory: Path, storage: str = "memory") -> None:
        members = describe("n1", "n2", "n3")
        self.nodes = [NodeProcess(directory, storage, name, members) for name in ("n1", "n2", "n3")]

    @property
    def url(self) -> str:
        return "disheap://" + ",".join(node.address for node in self.nodes)

    def leader(self) -> NodeProcess:
        with disheap.sync.connect(self.url) as client:
            name = client.status()["leader"]
        return next(node for node in self.nodes if node.name == name)

    def freeze_followers(self) -> None:
        leader = self.leader()
        for node in self.nodes:
            if node is not leader:
                node.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        for node in self.nodes:
            node.signal(signal.SIGCONT)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


def describe(*names: str) -> tuple[str, ...]:
    """The members of a cluster, with ports that are all different."""
    ports = iter(free_ports(2 * len(names)))
    return tuple(f"{name}=127.0.0.1:{next(ports)}=127.0.0.1:{next(ports)}" for name in names)


class Worker:
    """`celery -A ... worker` on `kombu_app`, with `variables` in its environment."""

    def __init__(self, url: str, log: Path, *options: str, **variables: str) -> None:
        self.url, self.log = url, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*celery(), "worker", "-l", "INFO", "-c", "1", *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(url) | variables,
                cwd=HERE,
                start_new_session=True,
            )

    def wait_ready(self, times: int = 1) -> None:
        wait_until(
            lambda: self.log_text().count(" ready.") >= times or self.ended, f"the worker is ready:\n{self.log_text()}"
        )
        assert not self.ended, self.log_text()

    def log_text(self) -> str:
        """What the worker has logged so far."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> int:
        """Warm shutdown. Returns the exit code."""
        if not self.ended:
            self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        try:
            return self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the worker did not end:\n{self.log_text()}") from None


def celery() -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "kombu_app"]


def command(url: str, *arguments: str) -> str:
    """Run `celery ...` to its end; returns what it printed."""
    done = subprocess.run(
        [*celery(), *arguments], env=environment(url), cwd=HERE, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "BROKER": url, "PYTHONWARNINGS": "ignore", "C_FORCE_ROOT": "1"}
