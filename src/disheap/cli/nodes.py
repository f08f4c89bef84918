"""`serve` and `dev`: a node in this process.

`serve` reads its settings from a file, the environment and flags, in that order. `dev` reads its own flags alone, so
that it does the same wherever it is typed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from disheap.cli.terminal.options import Invocation, pass_invocation, shared_options
from disheap.cli.terminal.output import emit_json

if TYPE_CHECKING:
    from disheap.config.node_config import NodeConfig
    from disheap.plugins.settings import Text
    from disheap.runtime.member import Member

F = TypeVar("F", bound=Callable[..., Any])

DEV_PORT = 8400
DEV_HOST = "127.0.0.1"
HTTP_PORT = 8080
READY_TIMEOUT_S = 10.0
"""A node alone leads at its first tick; longer than this means that something is wrong."""

_FLAGS = (
    (("--cluster",), "NAME", "The cluster's name; nodes of different clusters never mix."),
    (("--name",), "NAME", "This node's name, one of the members'."),
    (("--data", "--data-dir", "data_dir"), "DIR", "Where the log and snapshots are."),
    (("--peer-listen",), "HOST:PORT", "Where other nodes connect."),
    (("--peer-advertise",), "HOST:PORT", "Where other nodes are told to connect."),
    (("--client-listen",), "HOST:PORT", "Where clients connect."),
    (("--client-advertise",), "HOST:PORT", "Where clients are told to connect."),
    (("--join", "--join-addresses", "join_addresses"), "HOST:PORT,...", "Peers of a cluster that lets this node in."),
    (("--http-listen",), "HOST:PORT", "Serve health, status, statistics and metrics over HTTP there."),
    (
        ("--metrics-listen",),
        "HOST:PORT",
        "Serve /stats and /metrics there too; none: nowhere. Default: 127.0.0.1:9090.",
    ),
    (("--storage",), "NAME", "The storage plugin."),
    (("--codec",), "NAME", "The codec, or a chain of them: zstd."),
    (("--transport",), "NAME", "The transport plugin."),
    (("--client-transport",), "NAME", "The transport for clients, where it is another one."),
    (("--machine",), "NAME", "The state machine."),
    (("--cluster-secret-file",), "FILE", "The secret that the nodes share; see `disheap secret`."),
    (("--log-level",), "LEVEL", "debug, info, warning or error."),
)
_SWITCHES = (
    ("--alone", "This node is a cluster of its own."),
    ("--bootstrap", "Found a cluster that others join."),
    ("--insecure", "Listen beyond loopback without TLS, knowing what it means."),
    ("--log-json", "Log in JSON."),
)


_ORIGINS = ("--join", "--alone", "--bootstrap")
"""Where a node's cluster comes from. A node that is told to join needs none of them."""


def node_options(*without: str) -> Callable[[F], F]:
    """A flag for each setting that is often given, but for those in `without`; None if it was not. `--config` and
    `--set` for all the others."""

    def decorate(command: F) -> F:
        command = click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting: raft.heartbeat_ms=100."
        )(command)
        for switch, text in reversed(_SWITCHES):
            if switch not in without:
                command = click.option(switch, is_flag=True, default=None, help=text)(command)
        for names, metavar, text in reversed(_FLAGS):
            if names[0] not in without:
                command = click.option(*names, metavar=metavar, default=None, help=text)(command)
        return click.option(
            "--config",
            "file",
            type=click.Path(dir_okay=False, path_type=Path),
            envvar="DISHEAP_CONFIG",
            metavar="FILE",
            help="A TOML file; else DISHEAP_CONFIG, else none.",
        )(command)

    return decorate


@click.command()
@node_options()
@click.option(
    "--member", "--members", "members", multiple=True, metavar="NAME=PEER/CLIENT", help="Each node, in order."
)
@shared_options
@pass_invocation
def serve(
    invocation: Invocation, /, file: Path | None, members: tuple[str, ...], settings: tuple[str, ...], **flags: Any
) -> None:
    """Run a node until SIGTERM or Ctrl-C.

    Settings come from FILE, then the environment (DISHEAP_..., NODE_ID, RAFT_BIND and the like), then flags. The first
    signal hands leadership over and stops; a second one stops at once. SIGHUP reads certificates and log settings
    again. The log goes to standard error.

    Example: disheap serve --config /etc/disheap/disheap.toml --name n1
    """
    if members:
        flags["members"] = ",".join(members)
    _serve(invocation, file, settings, flags)


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--learner", is_flag=True, help="Stay without a vote, until somebody promotes this node.")
@node_options(*_ORIGINS)
@shared_options
@pass_invocation
def join(
    invocation: Invocation, /, addresses: tuple[str, ...], learner: bool, file: Path | None, settings: tuple[str, ...],
    **flags: Any,
) -> None:  # fmt: skip
    """Run a node that joins a running cluster, until SIGTERM or Ctrl-C.

    ADDRESS is the peer address, HOST:PORT, of a member. Several are better. The node asks them until it is let in. It
    gets a copy of everything, and then a vote. Started again, it goes on as the member that it is. Everything else is
    as for `disheap serve`.

    Example: disheap node join 10.0.0.1:8300,10.0.0.2:8300 --name n4 --data /var/lib/disheap
    """
    origin: dict[str, Any] = {"join_addresses": ",".join(addresses), "bootstrap": False}
    if learner:
        origin["join_as_learner"] = True
    _serve(invocation, file, settings, {**flags, **origin})


def _serve(invocation: Invocation, file: Path | None, settings: tuple[str, ...], flags: dict[str, Any]) -> None:
    from disheap.cli.processes import hosting
    from disheap.cli.processes.reloading import Reloading
    from disheap.config.node_config import load

    def read() -> NodeConfig:
        return load(file, os.environ, {**flags, **read_settings(settings)})

    config = read()
    _log(config, invocation)
    hosting.host(config, _say_ready, Reloading(config, read, lambda fresh: _log(fresh, invocation)))


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEV_PORT,
    show_default=True,
    metavar="N",
    help="The port for clients; 0 takes a free one.",
)
@click.option("--data", metavar="DIR", help="Keep everything in DIR; without it, in memory.")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help=f"The port for HTTP; 0 takes a free one. Default: {HTTP_PORT}, or a free one if that is taken.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting: raft.heartbeat_ms=100.")
@shared_options
@pass_invocation
def dev(
    invocation: Invocation, /, port: int, data: str | None, http_port: int | None, settings: tuple[str, ...]
) -> None:
    """Run one node for development, on loopback. Nothing is kept unless --data DIR.

    Example: disheap dev
    """
    from disheap.cli.processes import hosting
    from disheap.config.node_config import load

    http_address = f"{DEV_HOST}:{_find_http_port(http_port, port)}"
    flags: dict[str, Any] = {
        "log_level": "warning",
        "cluster": "dev",
        "name": "dev",
        "alone": True,
        "client_listen": f"{DEV_HOST}:{port}",
        "storage": "file" if data else "memory",
        "codec": "zstd" if data else "none",
        "data_dir": data or "",
        "http_listen": http_address,
        "metrics_listen": "none",
    }
    config = load(None, {}, {**flags, **read_settings(settings)})
    if config.storage == "file" and not config.data_dir:
        raise click.UsageError("storage `file` keeps everything in a directory; say where with --data DIR.")
    _log(config, invocation)

    async def announce(node: Member) -> None:
        await node.wait_for_leader(READY_TIMEOUT_S)
        data_dir = config.data_dir if config.storage != "memory" else ""
        _say_dev_ready(node.client_address, http_address, data_dir, invocation.json)

    hosting.host(config, announce)


def _log(config: NodeConfig, invocation: Invocation) -> None:
    from disheap.cli.terminal import logs

    logs.configure("debug" if invocation.verbose else config.log_level, config.log_json or invocation.json)


async def _say_ready(node: Member) -> None:
    from disheap.logs import get_logger, log_fields

    config = node.config
    peers = config.advertised_peer() if config.has_peers() else None
    with log_fields(node.log_fields):
        get_logger(__name__).info("ready", clients=node.client_address, peers=peers, pid=os.getpid())


def _find_http_port(wanted: int | None, client_port: int) -> int:
    """What was asked for. By default the usual port, or a free one: other tools for development take 8080, too."""
    from disheap.cli.processes.local_cluster import free_ports

    if wanted:
        return wanted
    if wanted is None and client_port:
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((DEV_HOST, HTTP_PORT))
            return HTTP_PORT
    return free_ports(1)[0]


def _say_dev_ready(address: str, http_address: str, data_dir: str, as_json: bool) -> None:
    host, _, port = address.rpartition(":")
    url = f"disheap://{'localhost' if host == DEV_HOST else host}:{port}"
    if as_json:
        facts = {"broker_url": url, "client_address": address, "http_address": http_address}
        emit_json({**facts, "data_dir": data_dir or None})
        return
    kept = f"kept in {data_dir}" if data_dir else "in memory, gone when it stops"
    http_url = f"http://{http_address.replace(DEV_HOST, 'localhost')}"
    told = f'    broker_url = "{url}"\n    statistics: {http_url}/stats and {http_url}/metrics'
    click.echo(f"disheap is ready ({kept}).\n\n{told}\n\nCtrl-C stops it.")


def read_settings(pairs: tuple[str, ...]) -> dict[str, Text]:
    """The values of `--set`, by key. Raises `click.BadParameter`."""
    from disheap.plugins.settings import Text

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE, such as raft.heartbeat_ms=100.", param_hint="--set")
        key = key.strip()
        settings[key] = Text(value, f"--set {key}")
    return settings
