"""`recover`: a new cluster made of one survivor's data, after a majority is lost for good."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from disheap.cli.offline import (
    confirm_clock,
    interruptible,
    moment,
    offline_parts,
    part_options,
    show_progress,
)
from disheap.cli.restore import groups_json, halves_json, print_groups, print_halves
from disheap.cli.terminal.failures import EXIT_HALF, EXIT_INTERRUPTED, EXIT_OK
from disheap.cli.terminal.options import Invocation, pass_invocation, shared_options
from disheap.cli.terminal.output import emit_json, printable

if TYPE_CHECKING:
    from disheap.runtime.offline.halves import Half
    from disheap.runtime.offline.restoring import RestoredGroup
    from disheap.runtime.offline.surviving import Survivor

SUFFIX = ".recovered"


@click.command()
@click.option("--force-new-cluster", is_flag=True, help="Make a new cluster. There is no other way to recover.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help=f"The new data directory; else DIR{SUFFIX}.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
@part_options
@shared_options
@pass_invocation
def recover(
    invocation: Invocation,
    /,
    directory: Path,
    force_new_cluster: bool,
    to: Path | None,
    yes: bool,
    config_file: Path | None,
    settings: tuple[str, ...],
) -> int:
    """Make a new cluster of DIR, the data directory of a node whose cluster has lost its majority for good.

    Confirmed messages that this node has not are lost. DIR stays as it is. The new cluster has this node only, in a
    directory of its own. It has another id, so the old members can never join it.

    Example: disheap recover --force-new-cluster /var/lib/disheap
    """
    from disheap.runtime.offline.founding import Founding
    from disheap.runtime.offline.recovering import config_of_survivor, recover_groups, survivors_in
    from disheap.runtime.offline.states import OfflineParts

    if not force_new_cluster:
        raise click.UsageError(
            "this makes a new cluster, and gives up what the lost nodes had. If you mean that, add --force-new-cluster"
        )
    target = to or directory.with_name(directory.name + SUFFIX)
    parts = offline_parts(config_file, settings, {})
    is_silent = invocation.json or not sys.stdin.isatty()
    with interruptible(), survivors_in(parts, directory) as survivors:
        config = config_of_survivor(parts.config, survivors)
        alone = OfflineParts(config, parts.registry)
        with Founding(alone, target) as founding:
            if not invocation.json:
                _print_what_is_lost(survivors, directory)
            if not yes and not _is_wanted(is_silent):
                return EXIT_INTERRUPTED
            with show_progress(invocation.json) as show:
                show.stage("rebuilding (entries)")
                done = recover_groups(survivors, founding, show.at, confirm_clock(yes, is_silent))
        old_id = survivors[0].found.identity.cluster_id
    if done is None:
        return EXIT_INTERRUPTED
    ids = {"cluster_id": founding.cluster_id, "from_cluster_id": old_id}
    _tell(invocation.json, {"data_dir": str(target), "name": config.name, **ids}, *done)
    return EXIT_HALF if done[1] else EXIT_OK


def _tell(as_json: bool, new: dict[str, str], groups: list[RestoredGroup], halves: list[Half]) -> None:
    """What the new cluster begins with."""
    if as_json:
        emit_json({**new, "groups": groups_json(groups), "half_transactions": halves_json(halves)})
        return
    click.echo(f"\n{new['data_dir']} belongs to the new cluster {new['cluster_id']}\n")
    print_groups(groups)
    print_halves(halves)
    click.echo(
        f"\nStart the node with --bootstrap --name {new['name']} --data {new['data_dir']}. Others can join it then."
    )


def _print_what_is_lost(survivors: list[Survivor], directory: Path) -> None:
    from disheap.runtime.offline.surviving import REMOVED

    identity = survivors[0].found.identity
    click.echo(printable(f"{directory} belongs to node {identity.node_id} ({identity.name}) of {identity.cluster_id}."))
    for survivor in survivors:
        found = survivor.found
        last, readable = max(found.last_index, found.snapshot.index if found.snapshot else 0), survivor.last_readable
        click.echo(f"\ngroup {survivor.group}: it has entries up to {last}, the last one of term {found.last_term}")
        click.echo("  Entries behind that may have been confirmed by the others. They are lost.")
        click.echo("  The last entries may have been confirmed or not. They are kept and count as confirmed.")
        if found.is_removed:
            click.echo(f"  {REMOVED[0].upper()}{REMOVED[1:]}.")
        if readable < last:
            click.echo(f"  Entries from {readable + 1} on cannot be used, because this node's data are damaged:")
            for problem in survivor.problems():
                click.echo(printable(f"  - {problem}"))
        if found.torn:
            click.echo(printable(f"  The end of the log is torn, and entries may be lost there ({found.torn})."))
        if found.snapshot:
            click.echo(f"  Its snapshot is of entry {found.snapshot.index}, {moment(found.snapshot.time_ms)}.")
        dropped = [name for name in survivor.members() if name != found.identity.name]
        names = ", ".join(dropped) or "all that the old configuration names"
        click.echo(printable(f"  Members that are dropped, and can never come back: {names}"))
    click.echo(
        "\nStop every node of the old cluster first, and keep them stopped. If a majority of them is left somewhere, "
        "start them instead: nothing is lost then."
    )


def _is_wanted(is_silent: bool) -> bool:
    if is_silent:
        raise click.UsageError("nobody can be asked here: repeat the command with --yes if you want a new cluster")
    return click.confirm("Make a new cluster of what this node has?", err=True)
