"""`disheap bench`: how fast it is here. Owns the command, the cluster to measure and the topics; the workloads are in
`native` and `with_kombu`, the depths of `--backlog` in `backlog`, the arithmetic in `figures`.

The client is this process, and has the machine's cores in common with the nodes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
import msgspec

from disheap.cli.asking import check_machine
from disheap.cli.processes.loops import loop_factory
from disheap.cli.terminal.options import Invocation, pass_invocation, url_option
from disheap.cli.terminal.output import emit_json
from disheap.errors import ConfigError

if TYPE_CHECKING:
    from disheap.cli.bench.backlog import Depth, Recovery
    from disheap.cli.bench.figures import Meter, Result
    from disheap.cli.processes.local_cluster import LocalCluster
    from disheap.client.api.asynchronous import Client

PAYLOAD_BYTES = 256
WINDOW = 2000
SECONDS = 5.0
PAYLOAD_MAX_BYTES = 64 << 20
"""The most that any cluster may be told to take. What this one takes is asked before anything is measured."""
UNANSWERED_BYTES = 64 << 20
"""The payload of enqueues under way, at most: with large payloads the window is smaller. This process holds all of
them."""
FILL_BYTES = 256 << 20
"""Put there before, at most: what is stored is in the memory of every node."""
WINDOW_MAX = 8192  # a session's, by default
SECONDS_MAX = 3600.0
BACKLOG_MAX = 100_000_000
FILL_PER_SECOND = {"pop": 70_000, "kombu-consume": 25_000}
"""Messages put there before, for each second and for one node: above the fastest that was seen, for two cores. More
nodes share the cores, so they need no more. A run that empties the topic earlier is measured up to there."""
WARM = 1.2
UNUSED_S = 600
"""A topic that is not deleted goes so long after the last use that it could have had."""


class Run(NamedTuple):
    """What is measured, on what."""

    url: str
    payload: bytes
    window: int
    seconds: float

    def waiting(self, workload: str) -> int:
        """How many messages are put into the topic before `workload` empties it."""
        most = max(1, FILL_BYTES // max(1, len(self.payload)))
        return min(most, int(FILL_PER_SECOND[workload] * self.seconds * WARM))


T = TypeVar("T")
Workload = Callable[[Run, str], "tuple[Meter, int]"]
"""Given a topic; returns the meter, and the most that was under way at once."""


@click.command()
@click.option(
    "--workload",
    type=click.Choice(("all", "enqueue", "pop", "round-trip", "kombu-publish", "kombu-consume")),
    default="all",
    show_default=True,
    help="What to do, again and again.",
)
@click.option("--nodes", type=click.Choice(("1", "3")), default="1", show_default=True, help="Of the cluster to start.")
@click.option(
    "--payload",
    type=click.IntRange(0, PAYLOAD_MAX_BYTES),
    default=PAYLOAD_BYTES,
    show_default=True,
    metavar="BYTES",
    help="Of one message.",
)
@click.option(
    "--window",
    type=click.IntRange(1, WINDOW_MAX),
    default=WINDOW,
    show_default=True,
    metavar="COUNT",
    help="Unanswered enqueues at once (workload enqueue).",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, SECONDS_MAX),
    default=SECONDS,
    show_default=True,
    metavar="N",
    help="Measured, for each workload, after a warm-up.",
)
@click.option(
    "--backlog",
    type=click.IntRange(1, BACKLOG_MAX),
    metavar="COUNT",
    help="Measure while more and more messages wait in the topic, up to COUNT.",
)
@click.option(
    "--chart",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Draw latency and rates against the backlog, as .svg, .png or .pdf.",
)
@url_option("A cluster that runs, disheap://HOST,HOST. Without it: nodes of its own.")
@pass_invocation
def bench(
    invocation: Invocation,
    /,
    workload: str,
    nodes: str,
    payload: int,
    window: int,
    seconds: float,
    backlog: int | None,
    chart: Path | None,
) -> None:
    """Measure throughput and latency.

    On nodes of its own, on loopback, storage `file`, every commit fsynced on a majority. With --url on a cluster that
    runs, in topics of its own that are deleted afterwards. Say --url: DISHEAP_URL alone loads no cluster.

    With --backlog it measures enqueues and pops at several depths of one topic. Nodes of its own are then killed and
    started again, and one more joins.

    Example: disheap bench --workload enqueue --nodes 3 --json
    """
    if backlog is None and chart is not None:
        raise ConfigError("--chart draws what --backlog measures; add --backlog COUNT, such as 1000000")
    if backlog is not None and workload != "all":
        raise ConfigError("--backlog measures enqueues and pops in one run; leave out --workload")
    names = _installed(list(WORKLOADS)) if workload == "all" else [workload]
    if workload != "all" and not _installed(names):
        raise ConfigError(f"workload {workload} needs kombu, which is not installed; install it: pip install kombu")
    with _cluster(invocation.url, int(nodes)) as (broker_url, count, cluster):
        run = Run(broker_url, os.urandom(payload), min(window, max(1, UNANSWERED_BYTES // max(1, payload))), seconds)
        _check_payload(run)
        if backlog is not None:
            grow(run, cluster, count, backlog, chart, is_json=invocation.json)
            return
        if not invocation.json:
            click.echo(_heading(run, count))
        for name in names:
            result = measure(name, run, count)
            if invocation.json:
                emit_json(msgspec.to_builtins(result))
            else:
                click.echo(_line(result))


def _installed(names: list[str]) -> list[str]:
    """Those that can run here: without kombu its workloads are left out, and a line on standard error says so."""
    if _version("kombu"):
        return names
    left_out = [name for name in names if name.startswith("kombu-")]
    if left_out and len(names) > 1:
        click.echo(f"disheap: kombu is not installed (pip install kombu): {', '.join(left_out)} left out", err=True)
    return [name for name in names if name not in left_out]


def measure(name: str, run: Run, nodes: int) -> Result:
    """One workload, from its warm-up on."""
    from disheap.cli.bench.figures import Result

    with _unpaused(), _topic(run) as topic:
        meter, window = WORKLOADS[name](run, topic)
    return Result(
        workload=name,
        nodes=nodes,
        payload_bytes=len(run.payload),
        window=window,
        cores=os.cpu_count() or 0,
        python=platform.python_version(),
        uvloop=_version("uvloop"),
        **meter.figures(),  # type: ignore[arg-type]
    )


def grow(
    run: Run, cluster: LocalCluster | None, nodes: int, backlog: int, chart: Path | None, *, is_json: bool
) -> None:
    """Prints one line for each depth up to `backlog`, and one for restart and join if the nodes are our own."""
    from disheap.cli.bench import backlog as growing

    draw = chart_of(chart) if chart is not None else None
    if not is_json:
        click.echo(_backlog_heading(run, nodes))
    found: list[Depth] = []
    with _topic(run) as topic, _unpaused():

        async def go(client: Client) -> None:
            topic_grows = growing.Backlog(run.url, topic, run.payload, run.seconds, run.window, nodes)
            for depth in growing.depths(backlog):
                found.append(await topic_grows.measure(client, depth))
                _print(found[-1], _depth_line(found[-1]), is_json=is_json)

        _with_client(run, go)
        if cluster is not None:
            restart_s = growing.restart(cluster, topic, backlog)
            join_s, latencies_ns = _with_client(run, lambda client: growing.join(cluster, client, topic, run.payload))
            recovered = growing.recovered(nodes, backlog, restart_s, join_s, latencies_ns)
            _print(recovered, _recovery_lines(recovered), is_json=is_json)
    if draw is not None:
        draw(found)


def chart_of(file: Path) -> Callable[[list[Depth]], None]:
    """What draws into that file. Raises `ConfigError` if nothing can, before anything is measured."""
    if file.suffix not in (".svg", ".png", ".pdf"):
        raise ConfigError(f"--chart {file} is no picture that can be drawn; call it FILE.svg, FILE.png or FILE.pdf")
    if not _version("matplotlib"):
        raise ConfigError("--chart needs matplotlib, which is not installed; install it: pip install matplotlib")
    from disheap.cli.bench.chart import draw

    return lambda found: draw(found, file)


@contextmanager
def _unpaused() -> Iterator[None]:
    """Without the collector: its pauses would be the client's own."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# --- the workloads ---------------------------------------------------------------------------------------------------


def _enqueue(run: Run, topic: str) -> tuple[Meter, int]:
    from disheap.cli.bench import native

    return _with_client(run, lambda c: native.enqueue(c, topic, run.payload, run.window, run.seconds)), run.window


def _pop(run: Run, topic: str) -> tuple[Meter, int]:
    from disheap.cli.bench import native

    async def go(client: Client) -> Meter:
        await native.fill(client, topic, run.payload, run.waiting("pop"))
        return await native.pop(client, topic, run.waiting("pop"), run.seconds)

    return _with_client(run, go), native.CREDIT


def _round_trip(run: Run, topic: str) -> tuple[Meter, int]:
    from disheap.cli.bench import native

    return _with_client(run, lambda client: native.round_trip(client, topic, run.payload, run.seconds)), 1


def _kombu_publish(run: Run, topic: str) -> tuple[Meter, int]:
    from disheap.cli.bench import with_kombu

    return with_kombu.publish(run.url, topic, run.payload, run.seconds), 1


def _kombu_consume(run: Run, topic: str) -> tuple[Meter, int]:
    """The queue is filled with copies of one message that came through kombu: the same bytes, only sooner."""
    from disheap.cli.bench import native, with_kombu

    messages = run.waiting("kombu-consume")
    with_kombu.publish_sample(run.url, topic, run.payload)

    async def go(client: Client) -> None:
        (sample,) = await client.topic(topic).peek()
        await native.fill(client, topic, sample.payload, messages - 1)

    _with_client(run, go)
    return with_kombu.consume(run.url, topic, messages, run.seconds), with_kombu.PREFETCH


WORKLOADS: dict[str, Workload] = {
    "enqueue": _enqueue,
    "pop": _pop,
    "round-trip": _round_trip,
    "kombu-publish": _kombu_publish,
    "kombu-consume": _kombu_consume,
}


def _with_client(run: Run, go: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """On uvloop where it is installed: this process is our own."""
    import disheap

    async def run_it() -> T:
        async with disheap.connect(run.url) as client:
            return await go(client)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(run_it())


# --- what is measured ------------------------------------------------------------------------------------------------


@contextmanager
def _cluster(url: str | None, nodes: int) -> Iterator[tuple[str, int, LocalCluster | None]]:
    """URL, number of nodes, and the cluster if it is one of our own. None for the one that was given."""
    import disheap.sync
    from disheap.cli.processes.local_cluster import local_cluster

    if url is not None:
        with disheap.sync.connect(url, observer=True) as client:
            check_machine(client)
            count = len(client.status()["members"])
        yield url, count, None
        return
    with local_cluster(nodes, prefix="disheap-bench-") as cluster:
        yield cluster.url, nodes, cluster


def _check_payload(run: Run) -> None:
    """Raises `PayloadTooLarge` for more than the nodes take in one message."""
    import disheap.sync

    with _topic(run) as topic, disheap.sync.connect(run.url) as client:
        client.topic(topic).enqueue(run.payload)


@contextmanager
def _topic(run: Run) -> Iterator[str]:
    """The name of a topic that nobody else has, for as long as it is needed. It goes by itself if we are killed."""
    import disheap.sync

    name = f"disheap-bench-{uuid.uuid4().hex}"
    with disheap.sync.connect(run.url) as client:
        client.create_topic(name, expires_ms=int((run.seconds * 3 + UNUSED_S) * 1000))
    try:
        yield name
    finally:
        with disheap.sync.connect(run.url) as client:
            client.delete_topic(name)


def _version(package: str) -> str:
    """The version of an installed package; "" when it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


# --- for people ------------------------------------------------------------------------------------------------------


def _print(result: Depth | Recovery, text: str, *, is_json: bool) -> None:
    if is_json:
        emit_json(msgspec.to_builtins(result))
    else:
        click.echo(text)


def _heading(run: Run, nodes: int) -> str:
    columns = f"{'workload':<14} {'operations/s':>12} {'p50 µs':>10} {'p99 µs':>10} {'p99.9 µs':>10} {'window':>7}"
    return f"{_machine(run, nodes)}\n\n{columns}"


def _backlog_heading(run: Run, nodes: int) -> str:
    columns = f"{'waiting':>11} {'filled/s':>9} {'enqueued/s':>10} {'popped/s':>9} {'p50 µs':>8} {'p99 µs':>8}"
    return f"{_machine(run, nodes)}\n\n{columns} {'longest ms':>10} {'MiB':>7} {'bytes each':>10}"


def _depth_line(depth: Depth) -> str:
    rates = f"{depth.fill_per_second:>9,.0f} {depth.enqueue_per_second:>10,.0f} {depth.pop_per_second:>9,.0f}"
    latencies = f"{depth.p50_us:>8,.0f} {depth.p99_us:>8,.0f} {depth.longest_us / 1000:>10,.1f}"
    memory = f"{depth.resident_bytes / (1 << 20):>7,.0f} {depth.bytes_per_message:>10,}"
    return f"{depth.backlog:>11,} {rates} {latencies} {memory}"


def _recovery_lines(recovered: Recovery) -> str:
    latencies = (
        f"{recovered.p50_us:,.0f} µs, p99 {recovered.p99_us:,.0f} µs, longest {recovered.longest_us / 1000:,.1f} ms"
    )
    return (
        f"\nkilled and started again: serves after {recovered.restart_s:.1f} s\n"
        f"one more node joined with an empty directory: {recovered.join_s:.1f} s; enqueues meanwhile: p50 {latencies}"
    )


def _machine(run: Run, nodes: int) -> str:
    uvloop = f"uvloop {_version('uvloop')}" if _version("uvloop") else "no uvloop"
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {uvloop}, {platform.system()}"
    return f"{nodes} node{'s' * (nodes > 1)}, {len(run.payload)} bytes; {machine}"


def _line(result: Result) -> str:
    latencies = f"{result.p50_us:>10,.0f} {result.p99_us:>10,.0f} {result.p999_us:>10,.0f}"
    return f"{result.workload:<14} {result.operations_per_second:>12,.0f} {latencies} {result.window:>7}"
