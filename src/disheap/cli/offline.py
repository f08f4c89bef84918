"""What `verify`, `restore` and `recover` have in common: their settings, and how they read a backup."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from disheap.cli.nodes import read_settings
from disheap.cli.processes.interrupts import Interrupts

if TYPE_CHECKING:
    from disheap.cli.terminal.progress import Show
    from disheap.runtime.offline.states import OfflineParts

F = TypeVar("F", bound=Callable[..., Any])

PIPE = "-"
MIB = 1 << 20
DAY_MS = 86_400_000


def part_options(command: F) -> F:
    """`--config` and `--set`, which say how plugins are built."""
    command = click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting: codec=zstd, machine=heap."
    )(command)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="DISHEAP_CONFIG",
        metavar="FILE",
        help="The node's TOML file; else DISHEAP_CONFIG, else none.",
    )(command)


def new_node_options(command: F) -> F:
    """Who the node is in the new cluster. `node_flags` reads them."""
    for option in reversed(
        (
            click.option("--cluster", metavar="NAME", help="The name of the new cluster."),
            click.option("--name", metavar="NAME", help="This node's name."),
            click.option("--data", "data_dir", metavar="DIR", help="The new data directory; it must hold no data."),
            click.option("--bootstrap", is_flag=True, default=None, help="Other nodes join this one later."),
            click.option("--alone", is_flag=True, default=None, help="The new cluster has this node only."),
            click.option("--member", "members", multiple=True, metavar="NAME=PEER/CLIENT", help="Each node, in order."),
        )
    ):
        command = option(command)
    return command


def node_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags of `new_node_options`, as `config.load` takes them."""
    return {**flags, "members": ",".join(flags["members"]) or None}


def offline_parts(config_file: Path | None, settings: tuple[str, ...], flags: dict[str, Any]) -> OfflineParts:
    """The plugins by file, environment and flags, as `serve` would read them. Raises `ConfigError`."""
    from disheap.config.node_config import load
    from disheap.plugins.registry import Registry
    from disheap.runtime.offline.states import OfflineParts

    return OfflineParts(load(config_file, os.environ, {**flags, **read_settings(settings)}), Registry.load())


def interruptible() -> AbstractContextManager[object]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, so that it removes what is not finished."""
    is_main = threading.current_thread() is threading.main_thread()  # only there can signals be handled
    return Interrupts() if is_main else nullcontext()


@contextmanager
def opened_backup(name: str) -> Iterator[tuple[Callable[[int], bytes], int]]:
    """How to read a backup, and its size in bytes, 0 if it comes through a pipe. Raises `BackupDamaged` if it cannot be
    opened."""
    from disheap.errors import BackupDamaged

    if name == PIPE:
        yield sys.stdin.buffer.read, 0
        return
    try:
        file: BinaryIO = Path(name).open("rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise BackupDamaged(
            f"{name} cannot be read ({error.strerror}); name a file that `disheap backup` wrote"
        ) from None
    with file:
        yield file.read, os.fstat(file.fileno()).st_size


def confirm_clock(yes: bool, is_silent: bool) -> Callable[[int, int], bool]:
    """Asks whether this machine's clock is right, where a log ended long ago. `is_silent`: nobody can be asked."""

    def confirm(time_ms: int, age_ms: int) -> bool:
        if yes:
            return True
        text = (
            f"By this machine's clock, the log ends {age_ms // DAY_MS} days ago (at {moment(time_ms)}). Messages whose "
            "lifetime has ended since will be dropped, and delays that have ended will be over."
        )
        if is_silent or not sys.stdin.isatty():
            raise click.UsageError(f"{text} If the clock is right, repeat the command with --yes")
        click.echo(text, err=True)
        return click.confirm("Is the clock of this machine right?", err=True)

    return confirm


def show_progress(as_json: bool) -> Show:
    """On standard error; nothing with `--json`, because only an error may stand there then."""
    from disheap.cli.terminal import progress

    return progress.Silent() if as_json else progress.show(sys.stderr)


def moment(time_ms: int) -> str:
    """A time of a clock, for people."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
