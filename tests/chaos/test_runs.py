"""Whole runs, and the faults of one process. `--chaos-minutes` says how long the runs take together."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import disheap
from disheap.errors import DisheapError
from tests.chaos import faults
from tests.chaos.faults import DISK_EXIT, GONE, GONE_EXIT, NOTICED_S, check_last_words
from tests.chaos.history import Enqueue, Outcome, judge
from tests.chaos.namespaces import Namespaces, SpreadCluster
from tests.chaos.network import Network
from tests.chaos.nodes import ChaosCluster, ChaosNode, fill, wait_ended
from tests.chaos.run import READY_S, new_seed, run, say_to_stderr
from tests.chaos.workload import TOPIC, Workload

pytestmark = pytest.mark.timeout(0)
ENDS_S = 30.0
QUICK_COMMANDS = 200
"""After so many, one at a time, the leader writes on its loop."""
HANGS_MS, SERVED_S = 15_000, 10.0
"""Service is back well before the write returns."""
THREE, FIVE = 0.6, 0.4
"""How the time is shared."""


@pytest.mark.parametrize(("nodes", "share"), [(3, THREE), (5, FIVE)])
def test_nothing_is_lost_or_doubled_whatever_is_done_to_a_cluster(
    nodes: int, share: float, chaos_seconds: float, chaos_seed: int | None
) -> None:
    seed = new_seed() if chaos_seed is None else chaos_seed
    report = run(nodes=nodes, seconds=chaos_seconds * share, seed=seed, say=say_to_stderr)
    print(report.text())
    assert report.ok, report.text()
    assert report.faults
    assert report.operations > 0


def test_the_command_line_reports_in_json_and_leaves_no_process_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--minutes", "0.05", "--seed", "1", "--only", "delay", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] and report["replicas_equal"]
    assert (report["lost"], report["doubled"], set(report["faults"])) == (0, 0, {"delay"})
    assert list(tmp_path.iterdir()) == []


def test_nodes_end_with_a_run_that_is_killed(tmp_path: Path, needs_shim: None) -> None:
    program = (
        "from tests.chaos.nodes import ChaosCluster\n"
        "import sys, time\n"
        "with ChaosCluster(1) as cluster:\n"
        "    print(cluster.nodes['n1'].child.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        watch = os.pidfd_open(pid)
        child.kill()
    signalled = asyncio.run(_wait_readable(watch))
    os.close(watch)
    assert signalled, f"node {pid} outlived the run that started it"


async def _wait_readable(descriptor: int) -> bool:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        return await asyncio.wait_for(ended.wait(), ENDS_S)
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)


Scenario = Callable[[ChaosCluster, Workload, ChaosNode], Awaitable[None]]


async def with_load(cluster: ChaosCluster, scenario: Scenario) -> Workload:
    """Serve, let the scenario happen to the leader, serve again; then everything is drained and judged."""
    nodes = cluster.nodes.values()
    peers = {node.name: (node.peer_proxy, node.peer_port) for node in nodes}
    clients = {node.name: (node.client_proxy, node.client_port) for node in nodes}
    async with Network(peers, clients, random.Random(1)):
        load = Workload(cluster.url, random.Random(1))
        await load.start()
        await load.wait_service(READY_S)
        while not (leader := await cluster.leader()):
            await asyncio.sleep(0.1)
        await scenario(cluster, load, cluster.nodes[leader])
        cluster.revive()
        await load.wait_service(READY_S)
        await load.stop()
        await load.drain()
    assert judge(load.history).complaints() == []
    return load


@pytest.mark.parametrize(
    ("what", "number"), [("fsync_errno", errno.EIO), ("fsync_errno", errno.ENOSPC), ("write_errno", errno.EIO)]
)
def test_a_node_whose_disk_fails_says_so_in_one_line_and_the_cluster_goes_on(
    what: str, number: int, needs_shim: None
) -> None:
    async def fail(cluster: ChaosCluster, load: Workload, leader: ChaosNode) -> None:
        assert leader.control is not None
        leader.control.set(**{what: number})
        assert await asyncio.to_thread(wait_ended, leader, ENDS_S) == DISK_EXIT
        check_last_words(leader, os.strerror(number))
        assert leader.control.get("failures") == 1, "after a failure of the disk it was asked again"
        await load.wait_service(READY_S)

    with ChaosCluster(3) as cluster:
        asyncio.run(with_load(cluster, fail))


async def _is_silent(cluster: ChaosCluster, name: str) -> bool:
    """A write on the disk's thread leaves the loop free to answer."""
    return await cluster.status(name) is None


def test_a_leader_whose_disk_hangs_on_the_loop_is_replaced_without_loss(
    needs_shim: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single client on a quick disk has its commands written on the loop. The hung write returns in the end."""
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")

    async def hang(cluster: ChaosCluster) -> None:
        async with disheap.connect(cluster.url, timeout_s=READY_S) as client:
            await client.create_topic(TOPIC)
            topic = client.topic(TOPIC)
            sent = [b"%d" % number for number in range(QUICK_COMMANDS + 1)]
            for payload in sent[:-1]:
                await topic.enqueue(payload)
            leader = cluster.nodes[await cluster.leader()]
            assert leader.control is not None
            leader.control.set(fsync_delay_ms=HANGS_MS)
            last = asyncio.ensure_future(topic.enqueue(sent[-1]))
            await _until_status_is(lambda: _is_silent(cluster, leader.name), "the write hangs elsewhere")
            async with asyncio.timeout(SERVED_S):
                await last
            assert await _is_silent(cluster, leader.name), "the service is not back because the write has returned"
            leader.control.heal()
            await _until_status_is(lambda: _are_equal(cluster), "the old leader does not follow")
            assert await cluster.leader() != leader.name
            assert [message.payload for message in await topic.peek(2 * len(sent))] == sent

    with ChaosCluster(3, proxies=False) as cluster:
        asyncio.run(hang(cluster))


async def _are_equal(cluster: ChaosCluster) -> bool:
    hashes = await cluster.hashes()
    return len(hashes) == len(cluster.nodes) and len(set(hashes.values())) == 1


async def _until_status_is(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + ENDS_S
    while not await holds():
        assert asyncio.get_running_loop().time() < deadline, f"not within {ENDS_S} s: {what}"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_node_whose_files_are_removed_stops_and_comes_back_as_a_stranger(who: str) -> None:
    """A broker whose files were gone confirmed 200 more messages, and was silently empty after its restart."""

    async def remove(cluster: ChaosCluster, load: Workload, leader: ChaosNode) -> None:
        followers = [one for one in cluster.nodes.values() if one is not leader]
        node = leader if who == "leader" else followers[0]
        shutil.rmtree(node.data / "groups")
        assert await asyncio.to_thread(wait_ended, node, NOTICED_S) == GONE_EXIT
        check_last_words(node, GONE)
        assert not (node.data / "groups").exists(), "it made nothing anew"
        await load.wait_service(READY_S)
        cluster.start(node.name)
        await _until_status(cluster, node.name, _is_refused_by_all, "the others refuse it")
        found = await cluster.status(node.name)
        assert found and (found["role"], found["term"], found["applied_index"], found["sessions"]) == ("new", 0, 0, 0)
        with pytest.raises(DisheapError):
            async with disheap.connect(f"disheap://{node.host}:{node.client_port}", timeout_s=1.0) as client:
                await client.topics()
        await load.wait_service(READY_S)

    with ChaosCluster(3) as cluster:
        asyncio.run(with_load(cluster, remove))


def _is_refused_by_all(status: dict[str, Any]) -> bool:
    others = [member for member in status["members"] if member["name"] != status["node"]]
    return len(others) == 2 and all(member["refusal"] for member in others)


async def _until_status(
    cluster: ChaosCluster, name: str, condition: Callable[[dict[str, Any]], bool], what: str
) -> None:
    deadline = asyncio.get_running_loop().time() + ENDS_S
    while (status := await cluster.status(name)) is None or not condition(status):
        assert asyncio.get_running_loop().time() < deadline, f"not within {ENDS_S} s: {what}"
        await asyncio.sleep(0.1)


def test_a_node_on_a_full_disk_waits_for_room_and_goes_on_without_a_restart(needs_tmpfs: None) -> None:
    async def fill_up(cluster: ChaosCluster, load: Workload, leader: ChaosNode) -> None:
        node = list(cluster.nodes.values())[-1]
        before = await cluster.status(node.name)
        filler = fill(node.data)
        await _until(lambda: "waits for room" in node.said(50), "the node finds no room for its log")
        await load.wait_service(READY_S)
        filler.unlink()
        await _until(lambda: "the node goes on" in node.said(50), "the node goes on")
        after = await cluster.status(node.name)
        assert before and after and after["uptime_s"] > before["uptime_s"], "it was not restarted"

    with ChaosCluster(3, tmpfs=True) as cluster:
        asyncio.run(with_load(cluster, fill_up))


async def _until(condition: Callable[[], bool], what: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ENDS_S
    while not condition():
        assert loop.time() < deadline, f"not within {ENDS_S} s: {what}"
        await asyncio.sleep(0.05)


def test_the_drain_takes_what_is_still_delayed() -> None:
    """A message that a nack holds back while the drain begins is not lost."""

    async def hold_back(cluster: ChaosCluster) -> Workload:
        load = Workload(cluster.url, random.Random(1))
        async with disheap.connect(cluster.url, timeout_s=READY_S) as client:
            await client.create_topic(TOPIC)
            entry = Enqueue(b"late", 0, 0.0, outcome=Outcome.OK, id=await client.topic(TOPIC).enqueue(b"late", 0))
            load.history.enqueues.append(entry)
            (delivery,) = await client.topic(TOPIC).pop()
            await delivery.nack(delay_ms=500)
        await load.drain()
        return load

    with ChaosCluster(1) as cluster:
        address = cluster.nodes["n1"]
        address.members_client = f"{address.host}:{address.client_port}"
        load = asyncio.run(hold_back(cluster))
    assert judge(load.history).complaints() == []
    assert [got.payload for got in load.history.deliveries] == [b"late"]


@pytest.mark.parametrize("jump_ms", [86_400_000, -86_400_000])
def test_a_wall_clock_that_jumps_moves_no_deadline(jump_ms: int, needs_shim: None) -> None:
    """Time in the log follows the monotonic clock: what was leased for minutes is still leased after a day's jump."""

    async def jump(cluster: ChaosCluster, load: Workload, leader: ChaosNode) -> None:
        before = await cluster.status(leader.name)
        assert before is not None and leader.control is not None
        leader.control.set(clock_offset_ms=jump_ms)
        begin = asyncio.get_running_loop().time()
        await load.wait_service(READY_S)
        after = await cluster.status(leader.name)
        passed_ms = (asyncio.get_running_loop().time() - begin) * 1000
        assert after is not None
        assert 0 <= after["log_time_ms"] - before["log_time_ms"] <= 2 * passed_ms + 5000

    with ChaosCluster(3) as cluster:
        asyncio.run(with_load(cluster, jump))


def test_links_that_are_pulled_and_routes_that_swallow_cost_nothing_but_time(needs_namespaces: None) -> None:
    with Namespaces(["n1", "n2", "n3"]) as net, SpreadCluster(net) as cluster:
        failures: list[BaseException] = []

        def inside() -> None:
            try:
                net.enter()
                asyncio.run(_pull_and_swallow(net, cluster))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert net.hub not in names


async def _pull_and_swallow(net: Namespaces, cluster: ChaosCluster) -> None:
    load = Workload(cluster.url, random.Random(1))
    await load.start()
    await load.wait_service(READY_S)
    for begin, end in ((_pull, _plug), (_mute, _unmute), (_deafen, _undeafen)):
        while not (leader := await cluster.leader()):
            await asyncio.sleep(0.1)
        begin(net, leader)
        await asyncio.sleep(4.0)  # past every election timeout: what is measured is that it is over afterwards
        end(net, leader)
        await load.wait_service(READY_S)
    await load.stop()
    await load.drain()
    assert judge(load.history).complaints() == []


def _others(net: Namespaces, name: str) -> list[str]:
    return [other for other in net.of if other != name]


def _pull(net: Namespaces, name: str) -> None:
    net.pull(name)


def _plug(net: Namespaces, name: str) -> None:
    net.plug(name)


def _mute(net: Namespaces, name: str) -> None:
    for other in _others(net, name):
        net.swallow(name, other)


def _unmute(net: Namespaces, name: str) -> None:
    for other in _others(net, name):
        net.let_through(name, other)


def _deafen(net: Namespaces, name: str) -> None:
    for other in _others(net, name):
        net.swallow(other, name)


def _undeafen(net: Namespaces, name: str) -> None:
    for other in _others(net, name):
        net.let_through(other, name)


def test_every_fault_of_the_catalogue_is_possible_here_or_says_why_not() -> None:
    found, missing = faults.available(tmpfs=not faults.why_no_tmpfs())
    named = {fault.__name__ for fault in (*faults.PLAIN, *faults.SHIMMED, faults.disk_full)}
    assert {fault.__name__ for fault in found} | set(missing) == named
    assert all(missing.values())
    if os.environ.get("DISHEAP_REQUIRE_ALL", "") not in ("", "0"):
        assert missing == {}


def test_a_stopped_process_is_one_that_hangs_and_not_one_that_ended(needs_shim: None) -> None:
    with ChaosCluster(1) as cluster:
        node = cluster.nodes["n1"]
        node.signal(signal.SIGSTOP)
        assert node.alive and not cluster.live()
        assert cluster.revive() == []
        assert cluster.live() == [node]
