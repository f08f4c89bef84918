"""`serve` and `dev` as processes: what they say, how they end, and what keeps them from starting."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from disheap import errors
from disheap.cli.processes import hosting
from disheap.cli.processes.local_cluster import free_ports
from disheap.cli.processes.loops import loop_factory
from disheap.config.node_config import NodeConfig
from tests.cli.command_line import (
    COMMAND,
    PROCESS_TIMEOUT_S,
    environment,
    logged,
    ready,
    run,
    run_process,
    running,
    serve_alone,
    serve_member,
)

BOOT = 3.0
"""Seconds of a processor, however many others use it; an idle machine takes half a second."""


# --- dev -------------------------------------------------------------------------------------------------------------


def test_dev_prints_the_url_to_paste_and_ctrl_c_ends_it_quietly() -> None:
    with running("dev", "--port", "0") as node:
        lines = [node.out.next() for _ in range(6)]
        assert lines[0] == "disheap is ready (in memory, gone when it stops)." and lines[5] == "Ctrl-C stops it."
        assert re.fullmatch(r"    statistics: (http://localhost:\d+)/stats and \1/metrics", lines[3])
        url = lines[2].partition("broker_url = ")[2].strip('"')
        assert run("topic", "create", "jobs", "--url", url).code == 0
        node.signal(signal.SIGINT)
        assert (node.wait(), node.out.rest(), node.err.rest()) == (0, [], [])


def test_dev_leads_as_soon_as_it_says_so() -> None:
    """It waits for no election timeout: this one is longer than anybody here waits for a line."""
    before = processor_s()
    with running(
        "dev", "--port", "0", "--json", "--set", f"raft.election_timeout_ms={2 * PROCESS_TIMEOUT_S:.0f}000"
    ) as node:
        told = json.loads(node.out.next())
        assert list(told) == ["broker_url", "client_address", "http_address", "data_dir"] and told["data_dir"] is None
        (status,) = run("status", "--json", "--url", told["broker_url"]).json["nodes"]
        assert status["role"] == "leader"
    assert processor_s() - before < BOOT


def processor_s() -> float:
    """What the processes that this one has started and waited for have used of the processors, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_dev_listens_where_nobody_else_can_reach_it() -> None:
    with running("dev", "--port", "0", "--json", environ={"DISHEAP_CLIENT_LISTEN": "0.0.0.0:0"}) as node:
        assert json.loads(node.out.next())["client_address"].startswith("127.0.0.1:")


def test_dev_keeps_what_it_is_given_a_directory_for(tmp_path: Path) -> None:
    for expected in (0, 1):
        with running("dev", "--port", "0", "--data", str(tmp_path / "d"), "--json") as node:
            url = json.loads(node.out.next())["broker_url"]
            assert run("topic", "create", "jobs", "--url", url).code == 0
            assert run("topic", "info", "jobs", "--json", "--url", url).json["ready"] == expected
            assert run("enqueue", "jobs", "x", "--url", url).code == 0
            node.signal(signal.SIGTERM)
            assert node.wait() == 0


def test_dev_logs_as_it_is_told() -> None:
    with running("dev", "--port", "0", "--set", "log_level=debug", "--set", "log_json=true") as node:
        assert logged(node, "node started")["node"] == "dev"
    with running("dev", "--port", "0", "--json", "-v") as node:
        assert logged(node, "node started")["node"] == "dev"


def test_dev_takes_a_directory_as_a_setting_too_and_says_so(tmp_path: Path) -> None:
    set_data_dir = ("--set", f"data_dir={tmp_path}")
    with running("dev", "--port", "0", "--json", "--set", "storage=file", *set_data_dir) as node:
        assert json.loads(node.out.next())["data_dir"] == str(tmp_path)
    with running("dev", "--port", "0", "--json", *set_data_dir) as node:
        assert json.loads(node.out.next())["data_dir"] is None, "nothing is kept"


def test_a_url_in_the_environment_keeps_no_node_from_starting() -> None:
    with running("dev", "--port", "0", "--json", environ={"DISHEAP_URL": "nonsense"}) as node:
        assert json.loads(node.out.next())["client_address"]


# --- serve -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_says_ready_and_a_signal_ends_it_with_0(number: signal.Signals, tmp_path: Path) -> None:
    with running(*serve_alone(tmp_path / "n1")) as node:
        said = ready(node)
        assert said["node"] == "n1" and int(said["clients"].rpartition(":")[2]) > 0
        node.signal(number)
        assert logged(node, "stopping")["signal"] == number.name
        assert logged(node, "node stopped")["node"] == "n1"
        assert (node.wait(), node.out.rest()) == (0, [])
        events = [json.loads(line) for line in node.err.seen]
        assert {event["node"] for event in events if event["event"] != "stopping"} == {"n1"}
        assert {event["cluster"] for event in events if event["event"] in ("ready", "leader", "node stopped")} != set()
        assert [event["event"] for event in events if "cluster" not in event] in ([], ["stopping"])


def test_the_log_is_for_people_unless_json_is_asked_for(tmp_path: Path) -> None:
    words = [word for word in serve_alone(tmp_path / "n1") if word != "--log-json"]
    with running(*words) as node:
        line = node.err.next()
        assert "[info" in line and "node started" in line and "\x1b" not in line


def test_file_environment_and_flags_are_read_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "disheap.toml"
    file.write_text(
        'name = "file"\ncluster = "file"\nclient_listen = "127.0.0.1:1"\nstorage = "memory"\nlog_json = true\n'
    )
    environ = {"DISHEAP_CONFIG": str(file), "NODE_ID": "environment", "DISHEAP_CLUSTER": "environment"}
    with running("serve", "--alone", "--client-listen", "127.0.0.1:0", "--cluster", "flag", environ=environ) as node:
        said = logged(node, "node started")
    expected = NodeConfig(name="environment", cluster="flag").cluster_id()
    assert (said["node"], said["cluster"]) == ("environment", expected)


def test_a_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(hosting.os, "_exit", ended.append)

    async def main() -> None:
        with hosting._stopped_by_signals() as stopping:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(stopping.wait(), 10)
            assert ended == []
            os.kill(os.getpid(), signal.SIGINT)
            while not ended:
                await asyncio.sleep(0)

    before = [signal.getsignal(number) for number in hosting.STOPPING]
    asyncio.run(main())
    assert ended == [128 + signal.SIGINT]
    assert [signal.getsignal(number) for number in hosting.STOPPING] == before


def test_a_signal_that_comes_with_another_one_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop calls the handler of `add_signal_handler` twice for a signal that arrives while it handles another."""
    ended: list[int] = []
    monkeypatch.setattr(hosting.os, "_exit", ended.append)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiting = threading.main_thread().ident  # it waits in the loop, so the loop is what handles the signal
        with hosting._stopped_by_signals() as stopping:
            await loop.run_in_executor(None, int)  # the executor's thread runs from here on
            await loop.run_in_executor(None, signal.pthread_kill, waiting, signal.SIGUSR1)
            await asyncio.wait_for(stopping.wait(), 10)
            for _ in range(3):  # rounds of the loop, in which it reads what is left in its pipe
                seen = asyncio.Event()
                await asyncio.gather(loop.run_in_executor(None, loop.call_soon_threadsafe, seen.set), seen.wait())

    def stop_as_well(_number: int, _frame: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGUSR1, stop_as_well)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended == []


def test_a_signal_while_a_node_starts_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class SlowNode:
        name, failure = "n1", None
        log_fields: ClassVar[dict[str, str]] = {}

        def __init__(self, config: NodeConfig) -> None: ...

        async def start(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

    monkeypatch.setattr(hosting, "Member", SlowNode)

    async def announce(node: object) -> None:
        log.append("announced")

    hosting.host(NodeConfig(name="n1"), announce)
    assert log == ["cancelled"]


# --- what keeps it from starting -------------------------------------------------------------------------------------


def refused(*words: str, code: int, error: str, environ: dict[str, str] | None = None) -> str:
    """The one line with which a node does not start."""
    ended = run_process(*words, environ=environ)
    lines = [line for line in ended.err.splitlines() if not line.startswith('{"')]
    assert (ended.code, ended.out, len(lines)) == (code, b"", 1), ended.err
    assert lines[0].startswith("disheap: ") and "Traceback" not in ended.err
    told = json.loads(run_process("--json", *words, environ=environ).err.splitlines()[-1])
    assert told["error"] == error
    return lines[0]


def test_a_port_that_is_taken_is_named_with_a_way_to_find_who_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("dev", "--port", str(port), code=2, error="address-in-use")
        assert f"127.0.0.1:{port}" in line and "choose another port" in line
        words = (*serve_alone(tmp_path / "n1"), "--client-listen", f"127.0.0.1:{port}")
        assert "choose another port" in refused(*words, code=2, error="address-in-use")


def test_a_directory_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    with running(*serve_alone(tmp_path / "n1")) as node:
        ready(node)
        line = refused(*serve_alone(tmp_path / "n1"), code=3, error="storage-locked")
        assert str(tmp_path / "n1") in line and "Stop that node first" in line
        node.signal(signal.SIGTERM)
        assert node.wait() == 0


def test_a_directory_of_another_node_is_left_alone(tmp_path: Path) -> None:
    with running(*serve_alone(tmp_path / "n1")) as node:
        ready(node)
        node.signal(signal.SIGTERM)
        node.wait()
    line = refused(*serve_alone(tmp_path / "n1", name="n2"), code=3, error="wrong-directory")
    assert "belongs to node 1 (n1)" in line and "nothing was changed" in line


def test_a_damaged_log_is_told_with_file_and_way_out(tmp_path: Path) -> None:
    with running(*serve_alone(tmp_path / "n1")) as node:
        ready(node)
        node.signal(signal.SIGTERM)
        node.wait()
    (meta,) = tmp_path.rglob("meta")
    meta.write_bytes(b"\xff" * meta.stat().st_size)
    line = refused(*serve_alone(tmp_path / "n1"), code=3, error="log-damaged")
    assert str(meta) in line and "Restore" in line


def test_a_setting_that_nobody_reads_is_named_with_its_source(tmp_path: Path) -> None:
    file = tmp_path / "disheap.toml"
    file.write_text("[raft]\nheartbeet_ms = 100\n")
    line = refused("serve", "--config", str(file), code=2, error="config-error")
    assert str(file) in line and "Did you mean heartbeat_ms?" in line
    environ = {"DISHEAP_RAFT__HEARTBEET_MS": "1"}
    assert "DISHEAP_RAFT__HEARTBEET_MS" in refused("serve", code=2, error="config-error", environ=environ)


def test_a_plugins_setting_that_nobody_reads_is_named(tmp_path: Path) -> None:
    words = (*serve_alone(tmp_path / "n1"), "--set", "storage.file.segment_size=1")
    assert "segment_bytes" in refused(*words, code=2, error="config-error")


def test_listening_to_the_world_in_the_clear_has_to_be_insisted_on(tmp_path: Path) -> None:
    words = (*serve_alone(tmp_path / "n1"), "--client-listen", "0.0.0.0:0")
    assert "--insecure" in refused(*words, code=2, error="unsafe-listen")
    with running(*words, environ={"DISHEAP_INSECURE": "1"}) as node:
        assert ready(node)["clients"]


# --- what ends it ----------------------------------------------------------------------------------------------------


def test_a_disk_that_fails_ends_the_node_with_its_own_exit_code(tmp_path: Path) -> None:
    limit = 2 << 20  # bytes of a file: a write past it fails as one on a full disk does

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    node = subprocess.Popen(
        [*COMMAND, *serve_alone(tmp_path / "n1"), "--codec", "none"],
        stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=limited,
    )  # fmt: skip
    try:
        assert node.stderr is not None
        said = next(json.loads(line) for line in node.stderr if '"ready"' in line)
        url = f"disheap://{said['clients']}?timeout_s=2"
        run("topic", "create", "jobs", "--url", url)
        for _ in range(2 * limit // (1 << 19)):
            if run("enqueue", "jobs", "-", "--url", url, stdin=bytes(1 << 19)).code:
                break
        rest = node.stderr.read()
        assert node.wait(30) == errors.DiskFailed.exit_code
        line = rest.splitlines()[-1]
        assert line.startswith("disheap: ") and "Traceback" not in rest
    finally:
        node.kill()
        node.wait()
        assert node.stderr is not None
        node.stderr.close()


# --- three nodes -----------------------------------------------------------------------------------------------------


def test_a_node_says_that_it_sees_no_majority_and_when_it_does_again(tmp_path: Path) -> None:
    ports = free_ports(6)
    members = [f"n{n}=127.0.0.1:{ports[2 * n - 2]}/127.0.0.1:{ports[2 * n - 1]}" for n in (1, 2, 3)]
    url = f"disheap://127.0.0.1:{ports[1]}"

    def words(number: int) -> tuple[str, ...]:
        peer, _, client = members[number - 1].partition("=")[2].partition("/")
        listen = ("--peer-listen", peer, "--client-listen", client, *(f"--member={member}" for member in members))
        return (
            *serve_member(tmp_path / f"n{number}", name=f"n{number}"),
            *listen,
            "--set",
            "raft.election_timeout_ms=300",
        )

    with running(*words(1)) as first, running(*words(2)) as second, running(*words(3)) as third:
        for node in (first, second, third):
            assert logged(node, "every other member has welcomed this node: it takes part from now on")
    with running(*words(1)) as first:
        assert ready(first)["peers"] == f"127.0.0.1:{ports[0]}"
        warned = next(said for said in iter(lambda: json.loads(first.err.next()), None) if "no leader" in said["event"])
        assert (warned["reached"], warned["missing"], warned["level"]) == (["n1"], ["n2", "n3"], "warning")
        assert_no_leader(url)
        with running(*words(2)) as second:
            assert logged(first, "a majority is found again")["leader"] in ("n1", "n2")
            assert_handed_over(url)
            second.signal(signal.SIGTERM)
            assert second.wait() == 0
        first.signal(signal.SIGTERM)
        assert first.wait() == 0


def assert_no_leader(url: str) -> None:
    ended = run("status", "--json", "--url", url)
    assert ended.code == 8 and ended.json["leader"] is None
    assert [node.get("error") for node in ended.json["nodes"]] == [None, "connection refused", "connection refused"]
    text = run("status", "--url", url).text
    assert "There is no leader" in text and "n3 does not answer: connection refused" in text
    refused = run("topic", "ls", "--url", f"{url}?timeout_s=0.5")
    assert refused.code == 6 and "nodes answer, and none leads" in refused.err


def assert_handed_over(url: str) -> None:
    for target in ("n1", "n2", "n1"):
        assert run("transfer", target, "--json", "--url", url).json == {"leader": target}
        ended = run("status", "--json", "--url", url)
        assert (ended.code, ended.json["leader"], ended.json["failures_tolerated"]) == (10, target, 0)
    assert "2 of 3 nodes do their part: when one more fails, no majority is left" in run("status", "--url", url).text


@pytest.mark.parametrize(
    ("open_files", "raised_to", "connections", "reserved"),
    [
        ((1024, 8192), 5184, 4096, 64),
        ((8192, 8192), None, 4096, 64),
        ((1024, resource.RLIM_INFINITY), 5184, 4096, 64),
        ((1024, 2048), 2048, 960, 64),
        ((128, 128), None, 48, 16),
    ],
)
def test_there_are_as_many_connections_as_files_may_be_open(
    open_files: tuple[int, int],
    raised_to: int | None,
    connections: int,
    reserved: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: open_files)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: given.append(pair))
    limits = hosting.fit_open_files(NodeConfig(name="n1")).limits
    assert given == ([(raised_to, open_files[1])] if raised_to else [])
    assert (limits.connections, limits.reserved_connections) == (connections, reserved)


def test_nodes_configured_by_the_environment_are_called_by_their_node_id(tmp_path: Path) -> None:
    """One founds the cluster, the others join it."""
    ports = free_ports(6)
    peers, clients = (sorted(f"127.0.0.1:{port}" for port in half) for half in (ports[:3], ports[3:]))

    def environ(number: int) -> dict[str, str]:
        return {
            "NODE_ID": f"n{number}",
            "RAFT_BIND": peers[number - 1],
            "RAFT_ADVERTISE": peers[number - 1],
            "BOOTSTRAP": "true" if number == 1 else "false",
            "RAFT_JOIN_ADDRESSES": "" if number == 1 else peers[0],
            "DISHEAP_CLIENT_LISTEN": clients[number - 1],
            "DISHEAP_DATA_DIR": str(tmp_path / f"n{number}"),
            "DISHEAP_LOG_JSON": "true",
        }

    with ExitStack() as stack:
        nodes = [stack.enter_context(running("serve", environ=environ(1)))]
        assert logged(nodes[0], "leader")["leader"] == "n1"
        for number in (2, 3):
            nodes.append(stack.enter_context(running("serve", environ=environ(number))))
            assert logged(nodes[0], "a learner has caught up")["member"] == f"n{number}"
        url = f"disheap://{clients[0]}"
        assert run("transfer", "n2", "--url", f"disheap://{','.join(clients)}").text == "n2 leads\n"
        ended = run("status", "--json", "--url", url)
        shown = ended.json
        assert (ended.code, shown["failures_tolerated"]) == (0, 1)
        assert (shown["leader"], [row["node"] for row in shown["nodes"]]) == ("n2", ["n1", "n2", "n3"])
        assert [row["client_address"] for row in shown["nodes"]] == clients
        assert "this port is for nodes" in run("status", "--url", f"disheap://{peers[0]}").err
        nodes[2].stop()
        rows = run("status", "--json", "--url", url).json["nodes"]
        assert [(row["node"], "error" in row) for row in rows] == [("n1", False), ("n2", False), ("n3", True)]


def test_a_node_whose_files_are_removed_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    with running(*serve_alone(tmp_path / "n1")) as node:
        address = ready(node)["clients"]
        assert run("topic", "create", "jobs", "--url", f"disheap://{address}").code == 0
        shutil.rmtree(tmp_path / "n1")
        assert node.wait() == 11
        assert any("was removed, moved or replaced while the node ran" in line for line in node.err.rest())


def test_no_second_node_starts_on_a_directory_whose_lock_was_removed(tmp_path: Path) -> None:
    """By no path: with the lock alone, two nodes would each confirm messages in the same files."""
    (tmp_path / "linked").symlink_to(tmp_path / "n1")
    with running(*serve_alone(tmp_path / "n1")) as node:
        ready(node)
        node.signal(signal.SIGSTOP)  # else it stops as soon as it notices
        (tmp_path / "n1" / "groups" / "0" / "lock").unlink()
        for path in ("n1", "linked"):
            second = run_process(*serve_alone(tmp_path / path))
            assert second.code == errors.StorageLocked.exit_code
            assert "is in use by another process" in second.err and "Stop that node first" in second.err
        node.signal(signal.SIGCONT)
        assert node.wait() == 11


# --- secret ----------------------------------------------------------------------------------------------------------


def test_a_new_secret_is_written_once_and_starts_a_node_beyond_loopback(tmp_path: Path) -> None:
    file = tmp_path / "cluster.secret"
    assert run("secret", "new", str(file)).code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("secret", "new", str(file)).code == 2
    ports = free_ports(2)
    words = ("--peer-listen", "0.0.0.0:0", "--insecure", "--member", f"n1=127.0.0.1:{ports[0]}")
    words = (*serve_member(tmp_path / "n1", "n1"), *words, "--member", f"n2=127.0.0.1:{ports[1]}")
    assert "disheap secret new" in refused(*words, code=2, error="unsafe-listen")
    with running(*words, "--cluster-secret-file", str(file)) as node:
        ready(node)


def test_a_new_secret_is_printed_where_no_file_is_named() -> None:
    printed = run("secret", "new").text.strip()
    assert len(printed) == 64 and printed != run("secret", "new").text.strip()
    assert len(run("secret", "new", "--json").json["secret"]) == 64
