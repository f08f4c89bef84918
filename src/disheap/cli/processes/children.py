"""Child processes that never outlive the command that started them.

Each is the head of a process group of its own. So a Ctrl-C at the terminal reaches the command alone, which then ends
the children in its own order. What a child forked, such as a Celery worker's pool, is ended with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from disheap.cli.processes.interrupts import Interrupts

KILLED_WITHIN_S = 10.0
"""A SIGKILL takes effect at once, unless the process is stuck in the kernel on a dying disk."""
TAIL_BYTES = 16 << 10


class Child:
    """One process, whose output goes to the end of `log`."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self.name, self.log = name, log
        self._command, self._environ = command, environ
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Raises `OSError` if the command cannot be run."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self._environ),
                cwd=self.log.parent,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """0 before the start."""
        return self._process.pid if self._process is not None else 0

    def exit_code(self) -> int | None:
        """None while it runs, or was never started; negative for a signal."""
        return self._process.poll() if self._process is not None else None

    def kill(self) -> None:
        """SIGKILL, to all that it forked too. Returns when it is gone. May be called twice."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):  # gone already; macOS says EPERM of a zombie
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(KILLED_WITHIN_S)

    def stop(self, within_s: float) -> int:
        """SIGTERM, and SIGKILL for what is left of it after that time. Its exit code."""
        assert self._process is not None, "stop() before start()"
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        self.kill()
        return self._process.returncode

    def tail(self, lines: int) -> str:
        """The end of its log."""
        try:
            data = self.log.read_bytes()[-TAIL_BYTES:]
        except OSError:
            return ""
        return "\n".join(data.decode(errors="replace").splitlines()[-lines:])


class Children:
    """All children of one command."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._children: list[Child] = []

    def start(self, child: Child) -> Child:
        """Start `child` and remember it. A signal cannot come in between."""
        with self._interrupts.held():
            self._children.append(child)
            child.start()
        return child

    def kill(self) -> None:
        """Each, and what it forked; waits until they are gone, whatever signal comes meanwhile."""
        with self._interrupts.held():
            for child in self._children:
                child.kill()
