"""Starts a redis-server on a free port and ends it. As a command it runs another command with such a server:

    python contrib/disheap-redis/tests/redis_process.py pytest ... --disheap-set storage.redis.url=URL

`URL` in an argument becomes the server's URL.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from disheap.cli.processes.local_cluster import free_ports

START_S = 20.0


class RedisProcess:
    """A server with these settings; `with` starts and ends it."""

    def __init__(self, directory: Path, **settings: str) -> None:
        found = shutil.which("redis-server")
        assert found, "redis-server is needed: apt-get install redis-server"
        self._binary, self._directory = found, directory
        self._settings = {"appendonly": "yes", "appendfsync": "always", "save": "", **settings}
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(self._directory), "daemonize": "no",
            **self._settings,
        }  # fmt: skip
        arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
        self._process = subprocess.Popen([self._binary, *arguments], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while self.command("PING") != "+PONG":
            assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def command(self, *words: str) -> str:
        """The first line of the answer to an inline command; "" without one."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(" ".join(words).encode() + b"\r\n")
                return connection.recv(65_536).decode().splitlines()[0]
        except (OSError, IndexError):
            return ""

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, and returns when it has ended."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_S)
            self._process = None


def main() -> int:
    with tempfile.TemporaryDirectory() as directory, RedisProcess(Path(directory)) as server:
        return subprocess.run([word.replace("URL", server.url) for word in sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
