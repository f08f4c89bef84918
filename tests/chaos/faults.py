"""The catalogue of faults. Each is done to a running cluster, lasts for a while, and is then undone. A minority may be
broken in any way. A majority is broken only in ways that end by themselves."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import shim
from tests.chaos.network import CLIENT, Network, Road
from tests.chaos.nodes import ChaosCluster, ChaosNode, fill

DISK_EXIT = 3
GONE_EXIT = 11
GONE = "was removed, moved or replaced while the node ran"
NOTICED_S = 5.0
"""A node looks for its files once a second, and before it confirms anything. The rest is for a busy machine."""
ENDS_S = 30.0
FAULT_S = (1.0, 4.0)


class FaultFailed(AssertionError):
    """A node did not do what it has to under a fault."""


@dataclass
class Scene:
    """What a fault may touch."""

    cluster: ChaosCluster
    network: Network
    random: random.Random
    with_tmpfs: bool = False

    def some(self, count: int = 1) -> list[ChaosNode]:
        return self.random.sample(list(self.cluster.nodes.values()), count)

    async def leader_or_other(self) -> ChaosNode:
        """The leader in two of three cases: that is where faults hurt."""
        leader = await self.cluster.leader()
        if leader and self.random.random() < 2 / 3:
            return self.cluster.nodes[leader]
        return self.some()[0]

    def minority(self) -> list[ChaosNode]:
        most = len(self.cluster.nodes) - self.cluster.majority()
        return self.some(self.random.randint(1, most))

    async def last(self) -> None:
        await asyncio.sleep(self.random.uniform(*FAULT_S))


Fault = Callable[[Scene], Awaitable[None]]


# --- processes ---


async def kill_leader(scene: Scene) -> None:
    (await scene.leader_or_other()).kill()
    await scene.last()


async def kill_minority(scene: Scene) -> None:
    for node in scene.minority():
        node.kill()
    await scene.last()


async def kill_all(scene: Scene) -> None:
    for node in scene.some(len(scene.cluster.nodes)):
        node.kill()


async def kill_one_after_another(scene: Scene) -> None:
    for node in scene.some(len(scene.cluster.nodes)):
        node.kill()
        scene.cluster.start(node.name)
        await asyncio.sleep(scene.random.uniform(0.5, 2.0))


async def stop_leader(scene: Scene) -> None:
    """Past every timeout; then it wakes and believes that it leads."""
    node = await scene.leader_or_other()
    node.signal(signal.SIGSTOP)
    await asyncio.sleep(scene.random.uniform(2.5, 5.0))
    node.signal(signal.SIGCONT)


async def stop_all(scene: Scene) -> None:
    for node in scene.cluster.live():
        node.signal(signal.SIGSTOP)
    await scene.last()


async def restart_politely(scene: Scene) -> None:
    """SIGTERM: leadership is handed over."""
    node = await scene.leader_or_other()
    node.signal(signal.SIGTERM)
    await _ended(node, 0)


# --- the network ---


async def isolate(scene: Scene) -> None:
    node = await scene.leader_or_other()
    await _blocked(scene, scene.network.around(node.name))


async def isolate_minority(scene: Scene) -> None:
    inside = [node.name for node in scene.minority()]
    outside = [name for name in scene.network.names if name not in inside]
    await _blocked(scene, scene.network.roads(inside, outside) + scene.network.roads(outside, inside))


async def mute(scene: Scene) -> None:
    """One way: it hears everybody, and nobody hears it."""
    node = await scene.leader_or_other()
    await _blocked(scene, scene.network.roads([node.name], scene.network.names))


async def deafen(scene: Scene) -> None:
    """The other way."""
    node = await scene.leader_or_other()
    await _blocked(scene, scene.network.roads(scene.network.names, [node.name]))


async def bridge(scene: Scene) -> None:
    """Two halves that see each other only by one node between them."""
    names = [node.name for node in scene.some(len(scene.network.names))]
    half = len(names) // 2
    left, right = names[:half], names[half + 1 :]
    await _blocked(scene, scene.network.roads(left, right) + scene.network.roads(right, left))


async def reset_peers(scene: Scene) -> None:
    node = await scene.leader_or_other()
    for _ in range(5):
        for road in scene.network.around(node.name):
            road.reset()
        await asyncio.sleep(scene.random.uniform(0.1, 0.6))


async def reset_clients(scene: Scene) -> None:
    for _ in range(5):
        for road in scene.network.roads([CLIENT], scene.network.names):
            road.reset()
        await asyncio.sleep(scene.random.uniform(0.1, 0.6))


async def lose_clients(scene: Scene) -> None:
    """A black hole between all clients and the leader; sometimes long enough for sessions to lapse."""
    node = await scene.leader_or_other()
    road = scene.network.road(CLIENT, node.name)
    road.block(back=scene.random.random() < 0.5)
    await asyncio.sleep(scene.random.choice((1.0, 5.0)))
    road.heal()
    road.reset()


async def delay(scene: Scene) -> None:
    for road in scene.network.between_nodes() + scene.network.roads([CLIENT], scene.network.names):
        road.delay_s, road.jitter_s = scene.random.uniform(0, 0.05), 0.05
    await scene.last()


async def slow_one(scene: Scene) -> None:
    """One node is behind a line so slow that it is late for elections."""
    node = await scene.leader_or_other()
    for road in scene.network.around(node.name):
        road.delay_s, road.jitter_s = 0.6, 0.6
    await scene.last()


async def lose_frames(scene: Scene) -> None:
    for road in scene.network.between_nodes():
        road.loss = scene.random.uniform(0.02, 0.3)
    await scene.last()


async def double_frames(scene: Scene) -> None:
    for road in scene.network.between_nodes():
        road.doubled = 0.3
    await scene.last()


async def reorder_frames(scene: Scene) -> None:
    for road in scene.network.between_nodes():
        road.overtaken = 0.2
    await scene.last()


async def garble_frames(scene: Scene) -> None:
    for road in scene.network.between_nodes():
        road.loss, road.doubled, road.overtaken, road.jitter_s = 0.05, 0.1, 0.1, 0.02
    await scene.last()


async def flap(scene: Scene) -> None:
    """A line that comes and goes."""
    node = await scene.leader_or_other()
    for _ in range(6):
        roads = scene.network.around(node.name)
        for road in roads:
            road.block(back=True)
        await asyncio.sleep(scene.random.uniform(0.1, 1.5))
        for road in roads:
            road.heal()
        await asyncio.sleep(scene.random.uniform(0.1, 0.8))


async def isolate_and_kill(scene: Scene) -> None:
    """What the isolated leader wrote last must not come back."""
    node = await scene.leader_or_other()
    roads = scene.network.around(node.name)
    for road in roads:
        road.block(back=True)
    await asyncio.sleep(scene.random.uniform(0.5, 3.0))
    node.kill()


# --- disks and clocks, through the shim ---


async def fsync_error(scene: Scene) -> None:
    await _disk_error(scene, await scene.leader_or_other(), "fsync_errno", errno.EIO)


async def write_error(scene: Scene) -> None:
    await _disk_error(scene, await scene.leader_or_other(), "write_errno", errno.EIO)


async def slow_disk(scene: Scene) -> None:
    node = await scene.leader_or_other()
    assert node.control is not None
    node.control.set(fsync_delay_ms=scene.random.choice((20, 100, 400)))
    await scene.last()


async def disk_full(scene: Scene) -> None:
    """A small tmpfs that something else fills. The node waits for room, and goes on when there is some."""
    node = list(scene.cluster.nodes.values())[-1]
    filler = fill(node.data)
    try:
        await scene.last()
    finally:
        filler.unlink(missing_ok=True)
    if node.exit_code is not None:
        raise FaultFailed(f"{node.name} ended on a full disk: {node.said()}")


async def move_files(scene: Scene) -> None:
    """The node ends within a second. What was moved back is the whole of what it confirmed."""
    node = await scene.leader_or_other()
    files = node.data / "groups"
    files.rename(files.with_name("moved"))
    await _ended(node, GONE_EXIT, NOTICED_S)
    check_last_words(node, GONE)
    if files.exists():
        raise FaultFailed(f"{node.name} made files where its own had been moved away: {sorted(files.iterdir())}")
    files.with_name("moved").rename(files)


async def jump_clock(scene: Scene) -> None:
    node = await scene.leader_or_other()
    assert node.control is not None
    node.control.set(clock_offset_ms=scene.random.choice((-1, 1)) * scene.random.choice((900, 60_000, 86_400_000)))
    await scene.last()


async def jump_all_clocks(scene: Scene) -> None:
    """Each its own way, and the leader gives its place away in the middle of it."""
    for node in scene.cluster.nodes.values():
        assert node.control is not None
        node.control.set(clock_offset_ms=scene.random.randint(-3_600_000, 3_600_000))
    await asyncio.sleep(0.5)
    (await scene.leader_or_other()).kill()
    await scene.last()


async def _blocked(scene: Scene, roads: Sequence[Road]) -> None:
    """Either what was held back arrives late, or the connections are found dead."""
    back = scene.random.random() < 0.5
    for road in roads:
        road.block(back=back)
    await scene.last()
    if scene.random.random() < 0.5:
        for road in roads:
            road.reset()


async def _disk_error(scene: Scene, node: ChaosNode, what: str, number: int) -> None:
    assert node.control is not None
    node.control.set(**{what: number})
    await _ended(node, DISK_EXIT)
    check_last_words(node, os.strerror(number))
    node.control.heal()


async def _ended(node: ChaosNode, expected: int, within_s: float = ENDS_S) -> None:
    """Within its time, with that exit code."""
    try:
        async with asyncio.timeout(within_s):
            while (code := node.exit_code) is None:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise FaultFailed(f"{node.name} still runs {within_s} s after the fault; it said: {node.said(3)}") from None
    if code != expected:
        raise FaultFailed(f"{node.name} ended with {code}, not {expected}; it said: {node.said(5)}")


def check_last_words(node: ChaosNode, reason: str) -> None:
    """One clear line: what happened, and what to do; nothing of the program's inside."""
    said = node.said(40)
    last = said.splitlines()[-1]
    if not last.startswith("disheap: ") or reason not in last or "start the node again" not in last:
        raise FaultFailed(f"{node.name} ended without saying why in its last line: {said}")
    if "Traceback" in said:
        raise FaultFailed(f"{node.name} showed a traceback to its operator: {said}")


PLAIN: tuple[Fault, ...] = (
    kill_leader,
    kill_minority,
    kill_all,
    kill_one_after_another,
    stop_leader,
    stop_all,
    restart_politely,
    isolate,
    isolate_minority,
    mute,
    deafen,
    bridge,
    reset_peers,
    reset_clients,
    lose_clients,
    delay,
    slow_one,
    lose_frames,
    double_frames,
    reorder_frames,
    garble_frames,
    flap,
    isolate_and_kill,
    move_files,
)
SHIMMED: tuple[Fault, ...] = (fsync_error, write_error, slow_disk, jump_clock, jump_all_clocks)


def available(tmpfs: bool) -> tuple[list[Fault], dict[str, str]]:
    """The faults that this machine allows, and for the others the reason."""
    found, missing = list(PLAIN), {}
    if reason := shim.why_not():
        missing |= {fault.__name__: reason for fault in SHIMMED}
    else:
        found += SHIMMED
    if tmpfs:
        found.append(disk_full)
    else:
        missing[disk_full.__name__] = why_no_tmpfs() or "not asked for"
    return found, missing


def why_no_tmpfs() -> str:
    if os.geteuid() != 0:
        return "mounting a tmpfs needs root"
    return "" if Path("/proc/filesystems").exists() else "mounting a tmpfs is done on Linux"
