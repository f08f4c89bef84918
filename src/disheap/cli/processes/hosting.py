"""One node in this process, from its configuration to its end: the loop, the signals and the log of what it can see.

The first SIGTERM or SIGINT hands leadership over and stops; the second ends the process at once, which loses nothing
that was acknowledged. SIGHUP reads certificates and log settings again. A node that fails ends here with the error that
ended it.

Refuses to know where the configuration came from and what is printed for it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from disheap.cli.processes.loops import loop_factory
from disheap.cli.processes.reloading import Reloading
from disheap.cli.processes.service_manager import ServiceManager
from disheap.config.node_config import NodeConfig
from disheap.errors import RequestTimeout
from disheap.logs import get_logger, log_fields
from disheap.runtime.member import Member

log = get_logger(__name__)

NO_LEADER_S = 3.0
"""Longer than an election takes (twice the shortest timeout, and a vote); then a missing leader is worth a line."""
NO_LEADER_AGAIN_S = 30.0
"""Between two such lines."""
LEADER_LOOK_S = 0.5
"""Between two looks at who leads."""
OTHER_OPEN_FILES = 1024
"""Descriptors beside the connections that have a place. They are for 512 unfinished TLS handshakes on two ports, a
burst of refused connections, peers, segments, snapshots, and the interpreter."""
OF_OTHERS, WRITABLE_BY_OTHERS = 0o077, 0o022
SWITCH_INTERVAL_S = 0.0005
"""How long the loop may keep the interpreter from the disk's thread; Python's own 5 ms is ten times an fsync. On one
loaded node it brought the p99 of a synchronous enqueue from some 4 ms to 0.7 ms, and cost no throughput."""

STOPPING = (signal.SIGTERM, signal.SIGINT)

Announce = Callable[[Member], Awaitable[None]]


def host(config: NodeConfig, announce: Announce, reloading: Reloading | None = None) -> None:
    """Run until a signal. `announce` is called when clients can connect. SIGHUP is for `reloading`; without one it
    stops the node as SIGTERM does. Raises what stopped the node."""
    if reloading is not None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = fit_open_files(config)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_host(config, announce, reloading))


def fit_open_files(config: NodeConfig) -> NodeConfig:
    """Raise the limit of open files as far as the connections need it, and lower the connections to what there is.

    The soft limit is ours to raise, up to the hard one, which is the administrator's. Up to a half of the descriptors
    is kept for files and for connections that have no place yet.
    """
    limits = config.limits
    wanted = limits.connections + limits.reserved_connections + OTHER_OPEN_FILES
    allowed = _raise_limit(wanted)
    if allowed >= wanted:
        return config
    places = allowed - min(OTHER_OPEN_FILES, allowed // 2)
    reserved = min(limits.reserved_connections, places // 4)
    log.warning(
        "limits.connections is lowered: the limit of open files allows no more",
        advice="raise the hard limit of open files",
        asked_for=limits.connections, connections=places - reserved, open_files=allowed,
    )  # fmt: skip
    fitting = msgspec.structs.replace(limits, connections=places - reserved, reserved_connections=reserved)
    return msgspec.structs.replace(config, limits=fitting)


def _raise_limit(wanted: int) -> int:
    """The soft limit of open files, after it was raised towards `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= reachable:
        return wanted if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    return reachable


async def _host(config: NodeConfig, announce: Announce, reloading: Reloading | None) -> None:
    node, loop = Member(config), asyncio.get_running_loop()
    with (
        _stopped_by_signals(STOPPING if reloading else (*STOPPING, signal.SIGHUP)) as stopping,
        closing(ServiceManager(loop)) as manager,
        log_fields(node.log_fields),
    ):
        if reloading is not None:
            loop.add_signal_handler(signal.SIGHUP, _reload, reloading, node, manager)
        if await _first(node.start(), stopping):
            if node.has_data_directory:
                _warn_if_open_to_others(Path(config.data_dir))
            await _serve_until(stopping, node, announce, manager)
        if node.failure is not None:
            raise node.failure  # it failed and was told to stop at the same time
        log.info("node stopped")


def _warn_if_open_to_others(data_dir: Path) -> None:
    """A directory that the node makes is its owner's alone, and so is every file. One that was there stays as it is: it
    may be a directory that others need, such as /srv."""
    mode = stat.S_IMODE(data_dir.stat().st_mode)
    if mode & OF_OTHERS:
        log.warning(
            "the data directory is open to other users of this machine",
            directory=str(data_dir), mode=f"{mode:04o}", remedy=f"chmod 700 {data_dir}",
            allows="removing files" if mode & WRITABLE_BY_OTHERS else "reading the names of files",
        )  # fmt: skip


def _reload(reloading: Reloading, node: Member, manager: ServiceManager) -> None:
    manager.reloading()
    reloading.reload(node)
    manager.ready()


async def _serve_until(stopping: asyncio.Event, node: Member, announce: Announce, manager: ServiceManager) -> None:
    watch = asyncio.ensure_future(_watch_leader(node, manager))
    try:
        freeze_garbage()
        manager.ready()
        await _first(_serve(node, announce), stopping)
    finally:
        manager.stopping()
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await node.stop()


def freeze_garbage() -> None:
    """Switch automatic collection off for this process. A collection over millions of records stops the loop for more
    than a second, and what comes and goes leaves no cycles (docs/explanation/decisions/no-garbage-collector.md)."""
    gc.collect()
    gc.freeze()
    gc.disable()


async def _serve(node: Member, announce: Announce) -> None:
    """Announced, for as long as the node lasts. What ended it is raised, also while it is being announced."""
    announced = asyncio.ensure_future(announce(node))
    failed = asyncio.ensure_future(node.wait_failed())
    try:
        await asyncio.wait([announced, failed], return_when=asyncio.FIRST_COMPLETED)
        if not failed.done():
            await announced
        raise await failed
    finally:
        for task in (announced, failed):
            task.cancel()
        await asyncio.gather(announced, failed, return_exceptions=True)


async def _first(work: Awaitable[None], stopping: asyncio.Event) -> bool:
    """Whether `work` ended before somebody wanted to stop. It is cancelled otherwise, and its errors are raised."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
            return True
        return False
    finally:
        stop.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError):
            if not task.done():
                await task


@contextmanager
def _stopped_by_signals(numbers: tuple[signal.Signals, ...] = STOPPING) -> Iterator[asyncio.Event]:
    """An event that the first of these signals sets. A second signal ends the process.

    Signals are counted by Python's own handlers. uvloop may call the function given to `add_signal_handler` twice for
    one signal. This happens when the signal arrives while the loop handles another one (`_invoke_signals` in its
    loop.pyx, 0.23).
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    arrived: list[int] = []

    def stop(number: int) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stopping.set()

    def count(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)
        if len(arrived) > 1:
            os._exit(128 + number)
        loop.call_soon_threadsafe(stop, number)

    before = {number: signal.signal(number, count) for number in numbers}
    for number in numbers:
        signal.siginterrupt(number, False)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _watch_leader(node: Member, manager: ServiceManager) -> None:
    """Say so when nobody can lead, and when somebody can again."""
    silent = False
    while True:
        try:
            leader = await node.wait_for_leader(NO_LEADER_AGAIN_S if silent else NO_LEADER_S)
        except RequestTimeout:
            await _warn_of_no_leader(node)
            manager.status("no leader")
            silent = True
            continue
        manager.status(f"{leader} leads")
        if silent:
            log.info("a majority is found again", leader=leader)
        silent = False
        await asyncio.sleep(LEADER_LOOK_S)


async def _warn_of_no_leader(node: Member) -> None:
    members: list[dict[str, Any]] = (await node.status())["members"]
    reached = [member["name"] for member in members if member["connected"]]
    missing = [member["name"] for member in members if not member["connected"]]
    if missing:
        log.warning(
            "no leader: nodes are missing",
            advice="start them; if they run, the lines above say why they are not reached",
            reached=reached, missing=missing,
        )  # fmt: skip
    else:
        log.warning("no leader yet: all nodes are reached, and one will be elected", reached=reached)
