"""`restore`: the data directory of a node of a new cluster, made of a backup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from disheap.cli.offline import (
    MIB,
    PIPE,
    confirm_clock,
    interruptible,
    moment,
    new_node_options,
    node_flags,
    offline_parts,
    opened_backup,
    part_options,
    show_progress,
)
from disheap.cli.terminal.failures import EXIT_HALF, EXIT_INTERRUPTED, EXIT_OK
from disheap.cli.terminal.options import Invocation, pass_invocation, shared_options
from disheap.cli.terminal.output import emit_json, emit_table

if TYPE_CHECKING:
    from disheap.runtime.offline.halves import Half
    from disheap.runtime.offline.restoring import Restored, RestoredGroup

HALVES_SHOWN = 100
"""Rows of a table that a person still reads."""


@click.command()
@click.argument("file")
@new_node_options
@click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
@part_options
@shared_options
@pass_invocation
def restore(
    invocation: Invocation,
    /,
    file: str,
    config_file: Path | None,
    settings: tuple[str, ...],
    yes: bool,
    **flags: Any,
) -> int:
    """Make a new cluster of a backup: the data directory of this node. - reads from standard input.

    The settings are those of `disheap serve`. With `--bootstrap` other nodes join this one. Members of a static list
    restore the same FILE on each node, before any of them starts. A directory with data is refused.

    Example: disheap restore orders.backup --bootstrap --name n1 --data /var/lib/disheap
    """
    from disheap.runtime.offline.founding import Founding
    from disheap.runtime.offline.restoring import restore_backup

    parts = offline_parts(config_file, settings, node_flags(flags))
    data_dir = Path(parts.config.data_dir)
    name = "standard input" if file == PIPE else file

    confirm = confirm_clock(yes, is_silent=file == PIPE or invocation.json)
    with (
        interruptible(),
        opened_backup(file) as (read, file_bytes),
        Founding(parts, data_dir) as founding,
        show_progress(invocation.json) as show,
    ):
        show.stage("restoring (MiB)", file_bytes // MIB)
        done = restore_backup(parts, founding, read, name, lambda size: show.at(size // MIB), confirm)
    if done is None:
        return EXIT_INTERRUPTED
    if invocation.json:
        emit_json({"data_dir": str(data_dir), **_as_json(done)})
    else:
        _print(done, data_dir, not parts.config.members)
    return EXIT_HALF if done.halves else EXIT_OK


def _as_json(done: Restored) -> dict[str, Any]:
    return {
        "cluster_id": done.cluster_id,
        "from_cluster_id": done.from_cluster_id,
        "groups": groups_json(done.groups),
        "half_transactions": halves_json(done.halves),
    }


def halves_json(halves: list[Half]) -> list[dict[str, Any]]:
    """Transactions that are there in part only."""
    return [{"transaction": one.transaction, "done": one.done, "missing": one.missing} for one in halves]


def print_halves(halves: list[Half]) -> None:
    """A table of the transactions that are there in part only, if there are any."""
    if not halves:
        return
    click.echo(
        f"\nDone by half: {len(halves)} parts of transactions over groups are missing. They were committed while the "
        "states of the groups were taken, one after the other. Do what is missing, or undo the rest:\n"
    )
    rows = [[one.transaction, one.done, one.missing] for one in halves[:HALVES_SHOWN]]
    emit_table(["transaction", "done in group", "missing in group"], rows)
    if len(halves) > HALVES_SHOWN:
        click.echo(f"... and {len(halves) - HALVES_SHOWN} more; --json has all of them")


def groups_json(groups: list[RestoredGroup]) -> list[dict[str, Any]]:
    """What the groups of a new cluster begin with."""
    return [
        {
            "group": one.group,
            "index": one.index,
            "term": one.term,
            "time_ms": one.time_ms,
            "ended_sessions": one.ended_sessions,
            "machine_stats": one.contents.machine_stats,
        }
        for one in groups
    ]


def _print(done: Restored, data_dir: Path, is_alone: bool) -> None:
    click.echo(f"{data_dir} belongs to the new cluster {done.cluster_id}, made of a backup of {done.from_cluster_id}\n")
    print_groups(done.groups)
    print_halves(done.halves)
    if is_alone:
        click.echo("\nStart the node now, with the same settings.")
    else:
        click.echo("\nRestore the same file on every other member. Then start all of them, with the same settings.")


def print_groups(groups: list[RestoredGroup]) -> None:
    """A table of what the groups of a new cluster begin with."""
    stats = list(dict.fromkeys(key for one in groups for key in one.contents.machine_stats))
    rows = [
        [
            one.group,
            one.index,
            one.term,
            moment(one.time_ms),
            one.ended_sessions,
            *(one.contents.machine_stats.get(key, "-") for key in stats),
        ]
        for one in groups
    ]
    emit_table(
        ["group", "index", "term", "log time", "ended sessions", *(key.replace("_", " ") for key in stats)], rows
    )
