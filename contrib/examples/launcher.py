"""Starts the processes of an example, and stops all of them at its end.

Each line that a process prints is shown with the name of the process in front. The broker is `disheap dev`, a node for
development that keeps its data in memory. If `DISHEAP_URL` is set, the example uses that broker, and starts none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

STOP_S = 20.0
"""The longest time that a process has to end. A worker ends when its tasks have ended."""


class Example:
    """A context manager: the processes of one example. All run in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[subprocess.Popen[str]] = []
        self._printers: list[threading.Thread] = []
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}

    def __enter__(self) -> Example:
        self.environment["DISHEAP_URL"] = self.environment.get("DISHEAP_URL") or self._start_broker()
        print(f"broker_url = {self.environment['DISHEAP_URL']!r}", flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):  # the broker was started first, and ends last
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for printer in self._printers:
            printer.join(STOP_S)

    def start(self, name: str, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Starts `python WORDS...`, and shows what it prints."""
        process = self._popen(words, {**self.environment, **(environment or {})}, subprocess.STDOUT)
        self._show(name, process)
        return process

    def run(self, name: str, *words: str) -> None:
        """Runs `python WORDS...` to its end. Ends the example if it fails."""
        process = self.start(name, *words)
        if code := process.wait():
            sys.exit(f"{name} ended with exit code {code}: see its lines above")

    def check_running(self) -> None:
        """Ends the example if one of its processes has ended."""
        for process in self._processes:
            if process.poll():
                sys.exit(f"{process.args!r} ended with exit code {process.returncode}: see its lines above")

    def _start_broker(self) -> str:
        words = ("-m", "disheap", "dev", "--port", "0", "--http-port", "0", "--json")
        process = self._popen(words, self.environment, None)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            sys.exit("the broker did not start; is disheap installed in this environment?")
        self._show("broker", process)
        return str(json.loads(line)["broker_url"])

    def _popen(self, words: tuple[str, ...], environment: dict[str, str], errors: int | None) -> subprocess.Popen[str]:
        command = [sys.executable, *words]
        process = subprocess.Popen(
            command,
            cwd=self._directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the others in order
        )
        self._processes.append(process)
        return process

    def _show(self, name: str, process: subprocess.Popen[str]) -> None:
        def show_lines() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                print(f"{name:>9} | {line}", end="", flush=True)

        printer = threading.Thread(target=show_lines, daemon=True)
        printer.start()
        self._printers.append(printer)
