"""One node in this process, from its configuration to its end: the loop, the signals and the log of what it can see.

The first SIGTERM or SIGINT hands leadership over and stops; the second ends the process at once, which loses nothing
that was acknowledged. A node that fails ends here with the error that ended it.

Refuses to know where the configuration came from and what is printed for it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from disheap.cli.loops import loop_factory
from disheap.config import NodeConfig
from disheap.errors import RequestTimeout
from disheap.logs import get_logger
from disheap.runtime.node import Node, freeze_garbage

log = get_logger(__name__)

NO_LEADER_S = 3.0
"""Longer than an election takes (twice the shortest timeout, and a vote); then a missing leader is worth a line."""
NO_LEADER_AGAIN_S = 30.0
"""Between two such lines."""
LEADER_LOOK_S = 0.5
"""Between two looks at who leads."""
OTHER_OPEN_FILES = 256
"""Beside clients' connections: peers, segments, snapshots, the interpreter's own."""
SWITCH_INTERVAL_S = 0.0005
"""How long the loop may keep the interpreter from the disk's thread; Python's own 5 ms is ten times an fsync. On one
loaded node it brought the p99 of a synchronous enqueue from some 4 ms to 0.7 ms, and cost no throughput."""

Announce = Callable[[Node], Awaitable[None]]


def host(config: NodeConfig, announce: Announce) -> None:
    """Run until a signal. `announce` is called when clients can connect. Raises what stopped the node."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    allow_open_files(config.limits.connections + OTHER_OPEN_FILES)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_host(config, announce))


def allow_open_files(wanted: int) -> None:
    """Raise the soft limit towards `wanted`; the hard one is the administrator's word."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    if reachable < wanted:
        log.warning("fewer open files than limits.connections asks for; raise the hard limit", wanted=wanted, hard=hard)


async def _host(config: NodeConfig, announce: Announce) -> None:
    stopping = _stop_on_signals()
    node = Node(config)
    if await _first(node.start(), stopping):
        await _serve_until(stopping, node, announce)
    if node.failure is not None:
        raise node.failure  # it failed and was told to stop at the same time
    log.info("node stopped", node=node.name)


async def _serve_until(stopping: asyncio.Event, node: Node, announce: Announce) -> None:
    watch = asyncio.ensure_future(_watch_leader(node))
    try:
        freeze_garbage()
        await _first(_serve(node, announce), stopping)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await node.stop()


async def _serve(node: Node, announce: Announce) -> None:
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


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        log.info("stopping", signal=signal.Signals(number).name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping


async def _watch_leader(node: Node) -> None:
    """Say so when nobody can lead, and when somebody can again."""
    silent = False
    while True:
        try:
            leader = await node.wait_for_leader(NO_LEADER_AGAIN_S if silent else NO_LEADER_S)
        except RequestTimeout:
            await _warn_of_no_leader(node)
            silent = True
            continue
        if silent:
            log.info("a majority is found again", leader=leader)
        silent = False
        await asyncio.sleep(LEADER_LOOK_S)


async def _warn_of_no_leader(node: Node) -> None:
    members: list[dict[str, Any]] = (await node.status())["members"]
    reached = [member["name"] for member in members if member["connected"]]
    missing = [member["name"] for member in members if not member["connected"]]
    if missing:
        text = "no leader: start the missing nodes, or look above for why they are not reached, or refuse this one"
    else:
        text = "no leader yet: all nodes are reached, and one will be elected"
    log.warning(text, reached=reached, missing=missing)
