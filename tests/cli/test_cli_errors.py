"""Each error is one line that says what happened and what to do next, and has a documented exit code."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest

import disheap
from disheap import errors
from disheap.cli.main import COMMANDS
from disheap.cli.processes.local_cluster import free_ports
from disheap.cli.terminal import failures
from disheap.config.node_config import Limits
from disheap.errors import DisheapError
from disheap.testing.certificates import Authority
from tests.cli.command_line import COMMAND, environment, run, running
from tests.support.nodes import Cluster

NOBODY = "disheap://127.0.0.1:1?timeout_s=0.01"

BAD_LINES = [
    # words, exit code, what has to be said
    (["serv"], 2, "Did you mean 'serve'? `disheap --help`"),
    (["topic", "creat"], 2, "`disheap topic --help`"),
    (["topic"], 2, "missing command"),
    (["session"], 2, "missing command; `disheap session --help`"),
    (["secret"], 2, "missing command; `disheap secret --help`"),
    (["topic", "create", "-dash"], 2, "write -- before a name that begins with -"),
    (["enqueue", "-9", "x"], 2, "write -- before a name that begins with -"),
    (["enqueue"], 2, "missing argument 'TOPIC'"),
    (["pop", "jobs", "--cuont", "3"], 2, "--count"),
    (["pop", "jobs", "--count", "few"], 2, "'few' is not a whole number"),
    (["bench", "--seconds", "few"], 2, "'few' is not a number"),
    (["pop", "jobs", "--count", "0"], 2, "1<=x<=10000"),
    (["pop", "jobs", "--wait", "5 years"], 2, "'5 years' is not a duration; write milliseconds, or 250ms"),
    (["enqueue", "jobs", "x", "--priority", str(1 << 63)], 2, "--priority"),
    (["enqueue", "jobs", "x", "--priority", str(-(1 << 63) - 1)], 2, "--priority"),
    (["enqueue", "jobs", "x", "--lines"], 2, "leave PAYLOAD and --count out"),
    (["topic", "create", ""], 2, "a topic's name has 1 to 255 characters, not 0"),
    (["topic", "create", "x" * 256], 2, "a topic's name has 1 to 255 characters, not 256"),
    (["topic", "create", "jobs", "--mode", "mid"], 2, "'max', 'min'"),
    (["topic", "ls", "--url", "http://localhost"], 2, "starts with disheap://"),
    (["topic", "ls", "--url", "disheap://localhost:x"], 2, "'x' is not a port"),
    (["status", "--url", "disheap://localhost?nope=1"], 2, "unknown parameter 'nope'"),
    (["status", "--url", "disheap://localhost?nope=1"], 2, "keyfile, server_name, transport.KEY"),
    (["status", "--url", "disheap://me:secret@localhost"], 2, "disheaps:// with a client certificate"),
    (["status", "--url", NOBODY], 6, "`disheap dev` starts one"),
    (["pop", "jobs", "--url", NOBODY], 6, "`disheap dev` starts one"),
    (["plugins", "nope"], 2, "installed are"),
    (["plugins", "storage.nope"], 2, "Installed: "),
    (["plugins", "nope.file"], 2, "there are no plugins of kind 'nope'; the kinds are"),
    (["serve", "--set", "heartbeat"], 2, "KEY=VALUE"),
    (["serve", "--nmae", "n1"], 2, "--name"),
    (["serve", "--name", "n1", "--set", "raft.heartbaet_ms=1"], 2, "Did you mean heartbeat_ms?"),
    (["serve", "--name", "n1", "--set", "raft.heartbeat_ms=fast"], 2, "heartbeat_ms = fast"),
    (["serve", "--name", "n1", "--set", "raft.heartbeat_ms=0"], 2, ">= 1"),
    (["serve", "--name", "n9", "--member", "n1=127.0.0.1:1/127.0.0.1:2"], 2, "--name"),
    (["serve", "--name", "n1", "--member", "n1"], 2, "NAME=PEER/CLIENT"),
    (["serve", "--name", "n1", "--log-level", "loud"], 2, "'warning'"),
    (["serve", "--alone", "--name", "n1", "--storage", "tape"], 2, "there is no storage 'tape'. Installed: "),
    (["serve", "--alone", "--name", "n1", "--codec", "zstd+rot13"], 2, "there is no codec 'rot13'"),
    (["serve"], 2, "say so: --alone (DISHEAP_ALONE=1)"),
    (["serve", "--name", "n1", "--peer-listen", "127.0.0.1:1"], 2, "DISHEAP_MEMBERS"),
    (["serve", "--alone", "--bootstrap"], 2, "alone and bootstrap are set. Keep one"),
    (["serve", "--alone", "--join", "127.0.0.1:1"], 2, "alone and join_addresses are set. Keep one"),
    (["serve", "--alone", "--name", "n1", "--member", "n1=127.0.0.1:1/127.0.0.1:2"], 2, "A node alone has no others"),
    (["serve", "--alone", "--join", "127.0.0.1:1"], 2, "A node alone has no others"),
    (["serve", "--set", "foo=1"], 2, "--set foo: unknown setting"),
    (["serve", "--config", "nowhere.toml"], 2, "nowhere.toml: cannot be read"),
    (["dev", "--port", "65536"], 2, "0<=x<=65535"),
    (["dev", "--set", "storage=file"], 2, "say where with --data DIR"),
    (["--url", "nonsense", "dev"], 2, "`dev` talks to no cluster; leave --url out"),
    (["--url", "nonsense", "plugins"], 2, "`plugins` talks to no cluster; leave --url out"),
    (["topic", "--url", "http://localhost", "ls"], 2, "starts with disheap://"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD_LINES, ids=[" ".join(words) for words, _, _ in BAD_LINES])
def test_a_bad_command_line_is_answered_in_one_line(
    words: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run(*words)
    assert (ended.code, ended.out) == (code, b"")
    assert ended.err.startswith("disheap: ") and ended.err.count("\n") == 1 and ended.err.endswith("\n")
    assert said in ended.err
    assert list(tmp_path.iterdir()) == [], "nothing was started, so nothing is left behind"


@pytest.mark.parametrize(("words", "code", "said"), BAD_LINES, ids=[" ".join(words) for words, _, _ in BAD_LINES])
@pytest.mark.parametrize("place", ["before", "after"])
def test_with_json_the_same_is_an_object(
    words: list[str], code: int, said: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("--json", *words) if place == "before" else run(*words, "--json")
    assert (ended.code, ended.out) == (code, b"")
    told = json.loads(ended.err)
    assert list(told) == ["error", "message"] and said in told["message"]


def test_a_password_in_a_url_is_never_repeated() -> None:
    assert "secret" not in run("status", "--url", "disheap://me:secret@localhost").err


def every_error(root: type[DisheapError] = DisheapError) -> Iterator[type[DisheapError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from every_error(child)


def made(kind: type[DisheapError], message: str) -> DisheapError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


@pytest.mark.parametrize("kind", list(every_error()), ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_is_one_line_and_its_own_exit_code(kind: type[DisheapError]) -> None:
    ended = failing_with(made(kind, "it broke.\nAnd how:\n  badly."))
    assert ended.code == kind.exit_code
    assert ended.err.startswith("disheap: it broke. And how: badly") and ended.err.count("\n") == 1


def test_errors_have_words_of_their_own_for_programs() -> None:
    words = {failures.code(made(kind, "")) for kind in every_error()}
    assert len(words) == len(list(every_error()))
    assert {"config-error", "topic-not-found", "address-in-use", "disk-failed"} <= words


def test_a_cluster_without_a_leader_is_told_apart_from_one_that_is_not_there() -> None:
    error = errors.ConnectionLost("no node takes a session: 10.0.0.1:8400: not-leader")
    error.found = {"10.0.0.1:8400": "not-leader"}
    said = failing_with(error).err
    assert "nodes answer, and none leads" in said and "disheap dev" not in said


def test_a_bug_is_exit_code_1_and_asks_for_a_report() -> None:
    ended = failing_with(RuntimeError("a\nb"))
    assert ended.code == 1
    assert ended.err == "disheap: internal error: RuntimeError: a b; report what -v shows\n"


def test_verbose_shows_the_traceback() -> None:
    ended = failing_with(errors.TopicNotFound("no such topic"), "-v")
    assert "Traceback" in ended.err and ended.err.splitlines()[-1] == "disheap: no such topic"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_is_quiet(interruption: type[BaseException]) -> None:
    ended = failing_with(interruption())
    assert (ended.code, ended.out, ended.err.strip()) == (130, b"", ""), "at most the line feed after ^C"


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run([*COMMAND, "plugins"], stdout=gone, stderr=subprocess.PIPE, env=environment(), timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


def failing_with(error: BaseException, *words: str) -> Any:
    """What comes of a command that raises `error`."""

    @click.command()
    def failing() -> None:
        raise error

    home = mock.Mock(failing=failing)
    with (
        mock.patch.dict(COMMANDS, failing=("disheap.cli.failing:failing", "")),
        mock.patch.dict("sys.modules", {"disheap.cli.failing": home}),
    ):
        return run(*words, "failing")


# --- while nobody answers ---


def test_a_command_says_what_it_waits_for() -> None:
    ended = run("enqueue", "jobs", "x", "--url", "disheap://127.0.0.1:1?timeout_s=1.2")
    notice, error = ended.err.splitlines()
    assert ended.code == errors.ConnectionLost.exit_code
    assert notice.startswith("disheap: no node takes a session: 127.0.0.1:1: connection refused; trying for 1.2 s")
    assert "is a node running there" in error


def test_with_json_the_error_is_the_only_thing_on_standard_error() -> None:
    ended = run("--json", "enqueue", "jobs", "x", "--url", "disheap://127.0.0.1:1?timeout_s=1.2")
    assert json.loads(ended.err)["error"] == "connection-lost"


async def test_a_reached_limit_is_named_as_the_reason(tmp_path: Path) -> None:
    peer, port = (f"127.0.0.1:{number}" for number in free_ports(2))
    url, limits = f"disheap://{port}", Limits(max_sessions_per_address=1)
    async with (
        Cluster(tmp_path, 1, machine="heap", transport="tcp", addresses=[(peer, port)], limits=limits),
        disheap.connect(url, timeout_s=10),
    ):
        ended = await asyncio.to_thread(run, "topic", "ls", "--url", url)
    assert ended.code == errors.ConnectionLost.exit_code
    assert "limits.max_sessions_per_address" in ended.err and "`disheap session ls`" in ended.err
    assert "is a node running there" not in ended.err, ended.err
    assert "trying for" not in ended.err, "a limit does not go away while somebody waits at a terminal"


async def test_a_node_without_places_for_connections_is_not_waited_for(tmp_path: Path) -> None:
    peer, port = (f"127.0.0.1:{number}" for number in free_ports(2))
    url, limits = f"disheap://{port}", Limits(max_connections_per_address=1)
    async with (
        Cluster(tmp_path, 1, machine="heap", transport="tcp", addresses=[(peer, port)], limits=limits),
        disheap.connect(url),
    ):
        ended = await asyncio.to_thread(run, "enqueue", "jobs", "x", "--url", url)
    (line,) = ended.err.splitlines()
    assert ended.code == errors.ConnectionLost.exit_code
    assert "limits.connections" in line or "limits.max_connections_per_address" in line


@pytest.fixture
def stranger() -> Iterator[str]:
    """The address of a server that is no node: it says what an SSH server says."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            held = []
            with suppress(OSError):  # the listener was closed
                while True:
                    held.append(listener.accept()[0])
                    held[-1].sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            for connection in held:
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize("words", [("enqueue", "jobs", "x"), ("status",)], ids=" ".join)
def test_the_error_says_what_was_found_at_each_address(stranger: str, words: tuple[str, ...]) -> None:
    ended = run(*words, "--url", f"disheap://{stranger},127.0.0.1:1?timeout_s=1")
    error = ended.err.splitlines()[-1]
    assert ended.code == errors.ConnectionLost.exit_code
    assert f"{stranger}: what came first is no frame" in error and "127.0.0.1:1: connection refused" in error
    assert f"correct the URL: {stranger} is not of this cluster's nodes" in error
    assert error.endswith("is a node running at 127.0.0.1:1?")


def test_a_single_wrong_address_is_named(stranger: str) -> None:
    ended = run("enqueue", "jobs", "x", "--url", f"disheap://{stranger}?timeout_s=1")
    assert ended.code == errors.MalformedFrame.exit_code
    assert ended.err.startswith(f"disheap: {stranger}: what came first is no frame")


def test_a_wrong_address_beside_a_right_one_does_not_hide_the_status(stranger: str) -> None:
    with running("dev", "--port", "0", "--json") as node:
        address = json.loads(node.out.next())["broker_url"].removeprefix("disheap://")
        ended = run("status", "--json", "--url", f"disheap://{stranger},{address}")
    assert ended.code == 0, ended.err
    assert ended.json["leader"] == "dev"


@pytest.mark.parametrize("stranger", ["client", "node"])
async def test_a_certificate_of_another_authority_is_named_as_the_reason(tmp_path: Path, stranger: str) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    client, node = (theirs, ours) if stranger == "client" else (ours, theirs)
    files = {**client.issue("client"), "cafile": ours.issue("n1")["cafile"]}
    node_files = {**node.issue("n1"), "cafile": ours.issue("n1")["cafile"]}
    peer, port = (f"127.0.0.1:{number}" for number in free_ports(2))
    tables: dict[str, dict[str, dict[str, Any]]] = {"transport": {"tls": dict(node_files)}}
    async with Cluster(tmp_path, 1, machine="heap", transport="tls", addresses=[(peer, port)], tables=tables):
        url = f"disheaps://{port}?timeout_s=0.8&" + "&".join(f"{key}={value}" for key, value in files.items())
        for words in (("topic", "ls"), ("status",)):
            ended = await asyncio.to_thread(run, *words, "--url", url)
            assert ended.code == errors.ConnectionLost.exit_code
            assert "certificate" in ended.err and "is a node running there" not in ended.err, ended.err
