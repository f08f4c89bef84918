"""Command lines for tests: in this process, with its streams in memory, or as a process of its own.

Whatever is started is bounded in time and stopped by the one who started it.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple
from unittest import mock

from disheap.cli.main import main

COMMAND = (sys.executable, "-m", "disheap")
PROCESS_TIMEOUT_S = 30.0
"""For anything that a process is waited for; some hundred times what it takes on an idle machine."""


class Ended(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        return self.out.decode()


def run(
    *words: str,
    stdin: bytes | io.RawIOBase = b"",
    environ: Mapping[str, str] | None = None,
    terminal: bool = False,
    screen: bool = False,
) -> Ended:
    """One command line in this process. With `terminal` its standard input is one, with `screen` its standard
    output."""
    out, err = Stream(b"", screen), Stream(b"", False)
    with (
        mock.patch.object(sys, "stdin", Stream(stdin, terminal)),
        mock.patch.dict(os.environ, environ or {}, clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = main(list(words))
        out.flush(), err.flush()
        return Ended(code, _content(out), _content(err).decode())


def run_process(*words: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Ended:
    """One command line as a process."""
    done = subprocess.run(
        [*COMMAND, *words], input=stdin, capture_output=True, timeout=PROCESS_TIMEOUT_S, env=environment(environ)
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode())


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This one's, without what would tell disheap anything."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DISHEAP_", "RAFT_", "NODE_ID", "BOOTSTRAP"))}
    return kept | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | dict(more or {})


class Running:
    """A process whose lines are read as they come."""

    def __init__(
        self,
        *words: str,
        environ: Mapping[str, str] | None = None,
        open_files: int = 0,
        cgroup: Path | None = None,
    ) -> None:
        """With `open_files` it may have no more, whatever it does. It runs in `cgroup`, if that is given."""
        limits = [f"ulimit -n {open_files}"] * bool(open_files)
        limits += [f"echo $$ > {shlex.quote(str(cgroup / 'cgroup.procs'))}"] if cgroup else []
        limited = ("sh", "-c", f'{" && ".join(limits)} && exec "$@"', "sh") if limits else ()
        self._process = subprocess.Popen(
            [*limited, *COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(environ),
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        self.out, self.err = _Lines(self._process.stdout), _Lines(self._process.stderr)

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code; everything that was written can be read afterwards."""
        code = self._process.wait(PROCESS_TIMEOUT_S)
        self.out.finish()
        self.err.finish()
        return code

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()


@contextmanager
def running(
    *words: str,
    environ: Mapping[str, str] | None = None,
    open_files: int = 0,
    cgroup: Path | None = None,
) -> Iterator[Running]:
    process = Running(*words, environ=environ, open_files=open_files, cgroup=cgroup)
    try:
        yield process
    finally:
        process.stop()


def serve_alone(directory: Path, *words: str, name: str = "n1") -> tuple[str, ...]:
    """The words for a node of one, on a free port, that logs in JSON."""
    return (*serve_member(directory, name), "--alone", *words)


def serve_member(directory: Path, name: str) -> tuple[str, ...]:
    """The words for a node whose cluster is still to be said."""
    listen = ("--client-listen", "127.0.0.1:0")
    return ("serve", "--name", name, "--data", str(directory), *listen, "--log-json")


def ready(node: Running) -> dict[str, Any]:
    """The log line that says so."""
    return logged(node, "ready")


def logged(node: Running, event: str) -> dict[str, Any]:
    """The next log line about `event`."""
    while True:
        found: dict[str, Any] = json.loads(node.err.next())
        if found["event"] == event:
            return found


class Stream(io.TextIOWrapper):
    """A standard stream in memory."""

    def __init__(self, content: bytes | io.RawIOBase, terminal: bool) -> None:
        super().__init__(io.BytesIO(content) if isinstance(content, bytes) else content, "utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class _Lines:
    """The lines of a pipe, read by a thread so that a wait for the next one can be bounded."""

    def __init__(self, stream: Any) -> None:
        self.seen: list[str] = []
        self._stream = stream
        self._queue: Queue[str | None] = Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self) -> str:
        try:
            line = self._queue.get(timeout=PROCESS_TIMEOUT_S)
        except Empty:
            raise AssertionError(f"no further line came; so far: {self.seen}") from None
        assert line is not None, f"the process has ended; it wrote: {self.seen}"
        self.seen.append(line)
        return line

    def rest(self) -> list[str]:
        """What came and was not taken; complete after `wait`."""
        lines = []
        while not self._queue.empty():
            line = self._queue.get()
            if line is not None:
                lines.append(line)
        return lines

    def finish(self) -> None:
        self._thread.join(PROCESS_TIMEOUT_S)
        self._stream.close()

    def _read(self) -> None:
        for line in self._stream:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)


def _content(stream: io.TextIOWrapper) -> bytes:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue()
