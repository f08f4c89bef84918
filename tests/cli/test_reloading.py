"""SIGHUP, the modes of files, and too few descriptors: what a node's process makes of its surroundings."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import sys
from pathlib import Path

import pytest

from disheap import sync
from disheap.testing.certificates import Authority
from tests.cli.command_line import Running, logged, ready, run_process, running, serve_alone

TLS = """
log_level = "{level}"
[transport]
use = "tls"
[transport.tls]
cafile = "{cafile}"
certfile = "{certfile}"
keyfile = "{keyfile}"
"""


class Files:
    """A configuration and certificates that can be put in the place of others."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.client = self.authority.issue("client")
        self.config = directory / "disheap.toml"
        self.used = {key: str(directory / f"used-{key}.pem") for key in ("cafile", "certfile", "keyfile")}
        Path(self.used["keyfile"]).touch(mode=0o600)
        self.renew("before.example")
        self.set_level("info")

    def renew(self, name: str) -> None:
        for key, file in self.authority.issue(name).items():
            Path(self.used[key]).write_bytes(Path(file).read_bytes())

    def set_level(self, level: str, **more: str) -> None:
        self.config.write_text(TLS.format(level=level, **self.used))

    def name_at(self, address: str) -> str:
        """The first name in the certificate of whoever listens there."""
        host, _, port = address.rpartition(":")
        context = ssl.create_default_context(cafile=self.client["cafile"])
        context.load_cert_chain(self.client["certfile"], self.client["keyfile"])
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            certificate = connection.getpeercert()
        assert certificate is not None
        return str(certificate["subjectAltName"][0][1])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def hang_up(node: Running, event: str) -> dict[str, object]:
    node.signal(signal.SIGHUP)
    return logged(node, event)


def serve(directory: Path, files: Files) -> tuple[str, ...]:
    return serve_alone(directory / "data", "--config", str(files.config))


def test_new_connections_use_the_certificate_that_is_there_after_a_sighup(tmp_path: Path, files: Files) -> None:
    with running(*serve(tmp_path, files)) as node:
        address = ready(node)["clients"]
        files.renew("after.example")
        assert files.name_at(address) == "before.example"
        hang_up(node, "settings and certificates were read again")
        assert files.name_at(address) == "after.example"


def test_a_certificate_that_cannot_be_used_leaves_the_old_one_in_use(tmp_path: Path, files: Files) -> None:
    with running(*serve(tmp_path, files)) as node:
        address = ready(node)["clients"]
        Path(files.used["certfile"]).write_text("no certificate")
        said = hang_up(node, "the certificates cannot be read again; those in use stay")
        assert "it is not PEM, or damaged" in str(said["reason"])
        assert files.name_at(address) == "before.example"


def test_the_log_changes_at_once_and_other_settings_are_named(tmp_path: Path, files: Files) -> None:
    with running(*serve(tmp_path, files)) as node:
        ready(node)
        files.config.write_text("[limits]\nconnections = 77\n" + "[raft]\ntick_ms = 20\n")
        said = hang_up(node, "these settings have changed and need a restart")
        assert {"limits.connections", "raft.tick_ms", "transport"} <= set(said["settings"])  # type: ignore[call-overload]
        files.set_level("error")
        hang_up(node, "settings and certificates were read again")  # the first one's; the second writes none
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
        assert not [line for line in node.err.rest() if "node stopped" in line]


def test_settings_that_cannot_be_read_leave_everything_as_it_was(tmp_path: Path, files: Files) -> None:
    with running(*serve(tmp_path, files)) as node:
        address = ready(node)["clients"]
        files.config.write_text("log_level = 7\n")
        said = hang_up(node, "the settings cannot be read again; those in use stay")
        assert "log_level" in str(said["reason"])
        logged(node, "the certificates were read again")
        assert files.name_at(address) == "before.example"


OPEN_DIRECTORY = "the data directory is open to other users of this machine"


# --- modes -----------------------------------------------------------------------------------------------------------


def test_a_key_that_others_can_read_is_refused(tmp_path: Path, files: Files) -> None:
    Path(files.used["keyfile"]).chmod(0o644)
    ended = run_process(*serve(tmp_path, files))
    assert ended.code != 0
    assert f"chmod 600 {files.used['keyfile']}" in ended.err


def test_a_data_directory_that_is_open_to_others_is_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    with running(*serve_alone(data)) as node:
        said = logged(node, OPEN_DIRECTORY)
        assert said["remedy"] == f"chmod 700 {data}"
    assert all(path.stat().st_mode & 0o077 == 0 for path in data.rglob("*"))


def test_a_data_directory_that_the_node_makes_is_its_owners_alone(tmp_path: Path) -> None:
    with running(*serve_alone(tmp_path / "new" / "data")) as node:
        ready(node)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "new").rglob("*"))


# --- descriptors -----------------------------------------------------------------------------------------------------

OPEN_FILES = 64
MESSAGES = 5
"""Each begins a file of its own, which stays open."""


def _without_uvloop(directory: Path) -> str:
    (directory / "uvloop.py").write_text("raise ImportError\n")
    return os.pathsep.join([str(directory), *sys.path])


def _knock(address: tuple[str, int], held: list[socket.socket]) -> None:
    """Connect, and stay for as long as the node allows."""
    raw = socket.socket()
    raw.setblocking(False)
    raw.connect_ex(address)
    held.append(raw)
    if len(held) > 2 * OPEN_FILES:
        held.pop(0).close()


LOWERED = "limits.connections is lowered: the limit of open files allows no more"


def test_a_small_limit_of_open_files_lowers_the_number_of_connections(tmp_path: Path) -> None:
    held: list[socket.socket] = []
    with running(*serve_alone(tmp_path / "data"), open_files=128) as node:
        said = logged(node, LOWERED)
        assert (said["asked_for"], said["connections"], said["open_files"]) == (4096, 48, 128)
        host, _, port = ready(node)["clients"].rpartition(":")
        for _ in range(100):  # all of them stay connected, or are told to go
            held.append(socket.create_connection((host, int(port)), timeout=10))
        ended = run_process("status", "--url", f"disheap://{host}:{port}")
        assert ended.code == 0, ended.err
        for raw in held:
            raw.close()
        node.signal(signal.SIGTERM)
        assert node.wait() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limit of another process can be set on Linux alone")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_node_without_descriptors_goes_on(tmp_path: Path, loop: str) -> None:
    """A flood takes every descriptor that there is, while the log begins a new file with each message."""
    environ = {"PYTHONPATH": _without_uvloop(tmp_path)} if loop == "asyncio" else {}
    words = serve_alone(tmp_path / "data", "--set", "storage.file.segment_bytes=65536", "--codec", "none")
    held: list[socket.socket] = []
    with running(*words, environ=environ) as node:
        host, _, port = ready(node)["clients"].rpartition(":")
        with sync.connect(f"disheap://{host}:{port}") as client:
            topic = client.create_topic("jobs")
            resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
            for number in range(MESSAGES * 50):
                _knock((host, int(port)), held)
                if number % 50 == 49:
                    topic.enqueue(bytes(70_000))
            for raw in held:
                raw.close()
            assert topic.stats().ready == MESSAGES
        with sync.connect(f"disheap://{host}:{port}", timeout_s=20) as client:
            assert client.topic("jobs").stats().ready == MESSAGES
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
