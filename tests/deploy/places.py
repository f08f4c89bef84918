"""A place for each container: a network with its own address, the names of the others, one volume, a read-only root.

A process in a place sees what a container of the deployment would see. What it cannot show: the image's own files,
another user, and the limits of the container runtime. Needs root, and leaves nothing behind.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.chaos.namespaces import Namespaces

VOLUME = "/var/lib/disheap"
WAIT_S = 60.0
"""For a node to become healthy, or to end: some twenty times what it takes on an idle machine."""
POLL_S = 0.2


class Places:
    """`domain` is appended to each name, as a headless service of Kubernetes does."""

    def __init__(self, names: Sequence[str], directory: Path, domain: str = "") -> None:
        self.net = Namespaces(names)
        self._directory = directory
        lines = ["127.0.0.1 localhost", *(f"{self.net.address[name]} {name}{domain}" for name in names)]
        self._hosts = directory / "hosts"
        self._hosts.write_text("\n".join(lines) + "\n")
        self._running: list[subprocess.Popen[bytes]] = []
        for name in names:
            (directory / name / Path(VOLUME).name).mkdir(parents=True)

    def __enter__(self) -> Places:
        self.net.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.net.__exit__(kind, error, trace)

    def start(self, name: str, words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A process that stays. Its log goes to a file."""
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(self._inside(name, words), env=_environment(environment), stdout=log, stderr=log)
        self._running.append(process)
        return process

    def run(
        self, name: str, words: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[bytes]:
        """A process that ends, such as a health check."""
        return subprocess.run(
            self._inside(name, words), env=_environment(environment), capture_output=True, timeout=WAIT_S, check=False
        )

    def wait_healthy(self, name: str, check: Sequence[str], environment: Mapping[str, str]) -> None:
        """Runs the check again and again, as a container runtime does, only more often."""
        end = time.monotonic() + WAIT_S
        while (done := self.run(name, check, environment)).returncode != 0:
            if time.monotonic() > end:
                log = (self._directory / f"{name}.log").read_text(errors="replace")
                raise AssertionError(f"{name} is not healthy after {WAIT_S} s: {done.stderr.decode()}\n{log}")
            time.sleep(POLL_S)

    def stop(self, process: subprocess.Popen[bytes], within_s: float) -> int:
        """SIGTERM, as container runtimes send it first. Returns the exit code."""
        process.send_signal(signal.SIGTERM)
        return process.wait(within_s)

    def _inside(self, name: str, words: Sequence[str]) -> list[str]:
        volumes = self._directory / name
        steps = (
            f"mount --bind {shlex.quote(str(self._hosts))} /etc/hosts",
            f"mount --bind {shlex.quote(str(volumes))} {Path(VOLUME).parent}",
            "mount -o remount,bind,ro /",
            'exec "$@"',
        )
        namespace = ("ip", "netns", "exec", self.net.of[name])
        return [*namespace, "unshare", "--mount", "--", "sh", "-c", " && ".join(steps), "sh", *words]


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Exactly what the deployment gives. The programs are those of this environment instead of the image's."""
    system = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
    return {**given, "PATH": os.pathsep.join((str(Path(sys.executable).parent), *system))}
