"""`serve` and `dev`: a node in this process.

`serve` reads its settings from a file, the environment and flags, in that order. `dev` reads its own flags alone, so
that it does the same wherever it is typed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from disheap.cli.options import Invocation, pass_invocation, shared_options
from disheap.cli.output import emit_json

if TYPE_CHECKING:
    from disheap.config.node_config import NodeConfig
    from disheap.plugins.settings import Text
    from disheap.runtime.member import Member

F = TypeVar("F", bound=Callable[..., Any])

DEV_PORT = 8400
DEV_HOST = "127.0.0.1"
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
    (("--join", "--join-addresses", "join_addresses"), "HOST:PORT,...", "Peer addresses, where there are no members."),
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
    ("--bootstrap", "Understood, of no effect: members are a static list."),
    ("--insecure", "Listen beyond loopback without TLS, knowing what it means."),
    ("--log-json", "Log in JSON."),
)


def node_options(command: F) -> F:
    """A flag for each setting that is often given; None where it was not."""
    for switch, text in reversed(_SWITCHES):
        command = click.option(switch, is_flag=True, default=None, help=text)(command)
    for names, metavar, text in reversed(_FLAGS):
        command = click.option(*names, metavar=metavar, default=None, help=text)(command)
    return command


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="DISHEAP_CONFIG",
    metavar="FILE",
    help="A TOML file; else DISHEAP_CONFIG, else none.",
)
@node_options
@click.option(
    "--member", "--members", "members", multiple=True, metavar="NAME=PEER/CLIENT", help="Each node, in order."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting: raft.heartbeat_ms=100.")
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
    from disheap.cli import hosting
    from disheap.cli.reloading import Reloading
    from disheap.config.node_config import load

    if members:
        flags["members"] = ",".join(members)

    def read() -> NodeConfig:
        return load(file, os.environ, {**flags, **_settings(settings)})

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
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting: raft.heartbeat_ms=100.")
@shared_options
@pass_invocation
def dev(invocation: Invocation, /, port: int, data: str | None, settings: tuple[str, ...]) -> None:
    """Run one node for development, on loopback. Nothing is kept unless --data DIR.

    Example: disheap dev
    """
    from disheap.cli import hosting
    from disheap.config.node_config import load

    flags: dict[str, Any] = {
        "log_level": "warning",
        "cluster": "dev",
        "name": "dev",
        "alone": True,
        "client_listen": f"{DEV_HOST}:{port}",
        "storage": "file" if data else "memory",
        "codec": "zstd" if data else "none",
        "data_dir": data or "",
    }
    config = load(None, {}, {**flags, **_settings(settings)})
    if config.storage == "file" and not config.data_dir:
        raise click.UsageError("storage `file` keeps everything in a directory; say where with --data DIR.")
    _log(config, invocation)

    async def announce(node: Member) -> None:
        await node.wait_for_leader(READY_TIMEOUT_S)
        _say_dev_ready(node.client_address, config.data_dir if config.storage != "memory" else "", invocation.json)

    hosting.host(config, announce)


def _log(config: NodeConfig, invocation: Invocation) -> None:
    from disheap.cli import logs

    logs.configure("debug" if invocation.verbose else config.log_level, config.log_json or invocation.json)


async def _say_ready(node: Member) -> None:
    from disheap.logs import get_logger

    config = node.config
    peers = {"peers": config.advertised_peer()} if len(config.member_list()) > 1 else {}
    get_logger(__name__).info("ready", node=node.name, clients=node.client_address, **peers, pid=os.getpid())


def _say_dev_ready(address: str, data_dir: str, as_json: bool) -> None:
    host, _, port = address.rpartition(":")
    url = f"disheap://{'localhost' if host == DEV_HOST else host}:{port}"
    if as_json:
        emit_json({"broker_url": url, "client_address": address, "data_dir": data_dir or None})
        return
    kept = f"kept in {data_dir}" if data_dir else "in memory, gone when it stops"
    click.echo(f'disheap is ready ({kept}).\n\n    broker_url = "{url}"\n\nCtrl-C stops it.')


def _settings(pairs: tuple[str, ...]) -> dict[str, Text]:
    from disheap.plugins.settings import Text

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE, such as raft.heartbeat_ms=100.", param_hint="--set")
        key = key.strip()
        settings[key] = Text(value, f"--set {key}")
    return settings
