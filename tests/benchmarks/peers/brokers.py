"""The brokers of one run: each a process of this machine, with ports and a directory of its own.

Every broker ends with the block that it was started in, and so does all that it forked. Data are in the temporary
directory, which has to be on a disk.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from disheap.cli.processes.children import Child, Children
from disheap.cli.processes.interrupts import Interrupts
from disheap.cli.processes.local_cluster import HOST, LocalCluster, free_ports

START_S = 60.0
STOP_S = 20.0
ANSWER_S = 1.0
LOG_CHARACTERS = 2000
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""The program of the package. `/usr/sbin/rabbitmq-server` changes the user, and then cannot write to our directory."""
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


class Needs(NamedTuple):
    """A program, the package of Debian and Ubuntu that has it, and the Python module that speaks to it."""

    program: str
    package: str
    module: str

    def missing(self) -> list[str]:
        """The commands that install what is missing."""
        commands = [] if shutil.which(self.program) else [f"apt-get install {self.package}"]
        return commands + ([] if find_spec(self.module) else [f"pip install {self.module}"])


NEEDS = {
    "rabbitmq": Needs(RABBITMQ, "rabbitmq-server", "amqp"),
    "redis": Needs("redis-server", "redis-server", "redis"),
}
"""What the families of brokers need. disheap needs nothing more than itself."""


class BrokerFailed(Exception):
    """A broker did not start."""


class Running(NamedTuple):
    """A broker that answers."""

    url: str
    pids: tuple[int, ...]
    directory: Path


def is_installed(name: str) -> bool:
    """Whether the programs of this broker are on the machine."""
    needs = NEEDS.get(family(name))
    return needs is None or not needs.missing()


def what_to_install(names: list[str]) -> str:
    """The commands that install what these brokers need, or ""."""
    commands: dict[str, dict[str, None]] = {}
    for name in names:
        if family(name) in NEEDS:
            for command in NEEDS[family(name)].missing():
                start, _, what = command.rpartition(" ")
                commands.setdefault(start, {})[what] = None
    return "; ".join(f"{start} {' '.join(wanted)}" for start, wanted in commands.items())


def family(name: str) -> str:
    """disheap, rabbitmq or redis."""
    return name.split("-")[0]


@contextmanager
def running(name: str, interrupts: Interrupts, log: Callable[[str], None]) -> Iterator[Running]:
    """Starts a broker, and ends it. `log` gets what its log said if it failed. Raises `BrokerFailed`."""
    if family(name) == "disheap":
        with LocalCluster(int(name.split("-")[1]), interrupts, prefix="disheap-peers-") as cluster:
            cluster.wait_ready()
            yield Running(cluster.url, tuple(cluster.pid(place) for place in cluster.places), cluster.directory)
        return
    children = Children(interrupts)
    with interrupts.held():
        place = Path(tempfile.mkdtemp(prefix="disheap-peers-"))
    try:
        start = _start_rabbitmq if family(name) == "rabbitmq" else _start_redis
        url, server = start(name, place, children)
        yield Running(url, (server.pid,), place)
        server.stop(STOP_S)
    except BrokerFailed:
        for file in sorted(place.rglob("*.log")):
            log(file.read_text(errors="replace")[-LOG_CHARACTERS:])
        raise
    finally:
        children.kill()
        shutil.rmtree(place, ignore_errors=True)


def environment(directory: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a child: this process's, without settings of disheap, and with a temporary directory that goes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DISHEAP_")}
    return {**kept, "TMPDIR": str(directory), **(extra or {})}


def _start_redis(name: str, place: Path, children: Children) -> tuple[str, Child]:
    (port,) = free_ports(1)
    options = ["--port", str(port), "--bind", HOST, "--dir", str(place)]
    if name == "redis-always":
        options += ["--appendonly", "yes", "--appendfsync", "always"]
    program = shutil.which(NEEDS["redis"].program) or ""
    server = children.start(Child("redis", [program, *options], place / "redis.log", environment(place)))
    _wait_answer(server, port, b"PING\r\n", b"+PONG")
    return f"redis://{HOST}:{port}/0", server


def _start_rabbitmq(name: str, place: Path, children: Children) -> tuple[str, Child]:
    """Its own epmd runs in the foreground, so it ends with the children."""
    port, dist_port, epmd_port = free_ports(3)
    for file in ("env.conf", "rabbitmq.conf", "enabled_plugins"):
        (place / file).write_text("[].\n" if file == "enabled_plugins" else "")
    environ = environment(
        place,
        {
            "HOME": str(place),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"peers{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_MNESIA_BASE": str(place / "mnesia"),
            "RABBITMQ_LOG_BASE": str(place / "log"),
            "RABBITMQ_CONF_ENV_FILE": str(place / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "enabled_plugins"),
            "RUNNING_UNDER_SYSTEMD": "1",  # so that the process is the server, and not a shell that waits for it
        },
    )
    epmd = shutil.which("epmd")
    if epmd is None:
        raise BrokerFailed("epmd is not on the PATH; it comes with Erlang")
    children.start(Child("epmd", [epmd, "-port", str(epmd_port)], place / "epmd.log", environ))
    server = children.start(Child("rabbitmq", [RABBITMQ], place / "rabbitmq.log", environ))
    _wait_answer(server, port, PROTOCOL_HEADER, b"\x01")
    return f"amqp://guest:guest@{HOST}:{port}//", server


def _wait_answer(server: Child, port: int, says: bytes, answers: bytes) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with socket.create_connection((HOST, port), timeout=ANSWER_S) as connection:
                connection.settimeout(ANSWER_S)
                connection.sendall(says)
                if connection.recv(64).startswith(answers):
                    return
        except OSError:
            pass
        if server.exit_code() is not None or time.monotonic() > deadline:
            raise BrokerFailed(f"{server.name} does not answer; it said: {server.tail(5)}")
        time.sleep(0.05)
