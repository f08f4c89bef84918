"""`verify`: reads a backup or a data directory, and says what it holds and whether it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from disheap.cli.offline import MIB, PIPE, moment, offline_parts, opened_backup, part_options, show_progress
from disheap.cli.restore import halves_json, print_halves
from disheap.cli.terminal.failures import EXIT_HALF, EXIT_OK
from disheap.cli.terminal.options import Invocation, pass_invocation, shared_options
from disheap.cli.terminal.output import emit_json, emit_pairs, emit_table, printable, size
from disheap.errors import StorageError

if TYPE_CHECKING:
    from disheap.runtime.offline.states import Contents, OfflineParts
    from disheap.runtime.offline.verifying import VerifiedBackup, VerifiedDirectory


@click.command()
@click.argument("path", metavar="FILE|DIR")
@part_options
@shared_options
@pass_invocation
def verify(invocation: Invocation, /, path: str, config_file: Path | None, settings: tuple[str, ...]) -> int:
    """Read a backup, or the data directory of a node that is stopped, and say what it holds. - is standard input.

    Every checksum is compared and every state is built, in memory. Nothing is changed. The exit code is 0 if it is
    sound and 3 if it is not. It is 12 if it is sound, and has transactions over groups in part only. It is 2 if a
    plugin is missing or a newer release wrote it.

    Example: disheap verify orders.backup
    """
    parts = offline_parts(config_file, settings, {})
    if path != PIPE and Path(path).is_dir():
        return _verify_directory(parts, Path(path), invocation.json)
    return _verify_backup(parts, path, invocation.json)


def _verify_backup(parts: OfflineParts, path: str, as_json: bool) -> int:
    from disheap.runtime.offline.verifying import verify_backup

    name = "standard input" if path == PIPE else path
    with opened_backup(path) as (read, file_bytes), show_progress(as_json) as show:
        show.stage("reading (MiB)", file_bytes // MIB)
        found = verify_backup(parts, read, name, lambda done: show.at(done // MIB))
    if as_json:
        emit_json(_as_json(found))
    else:
        _print(found, name)
    return EXIT_HALF if found.halves else EXIT_OK


def _as_json(found: VerifiedBackup) -> dict[str, Any]:
    head = found.head
    return {
        "sound": True,
        "cluster_id": head.cluster_id,
        "release": head.release,
        "created_ms": head.created_ms,
        "file_bytes": found.file_bytes,
        "groups": [
            {
                "group": one.head.group,
                "node": one.head.node,
                "machine": one.head.machine,
                "machine_version": one.head.machine_version,
                "log_version": one.head.log_version,
                "index": one.head.index,
                "term": one.head.term,
                "time_ms": one.head.time_ms,
                "members": one.head.members,
                **contents_json(one.contents),
            }
            for one in found.groups
        ],
        "half_transactions": halves_json(found.halves),
    }


def contents_json(contents: Contents) -> dict[str, Any]:
    """What a state holds, as a part of a JSON document."""
    return {"sessions": contents.sessions, "machine_stats": contents.machine_stats}


def _print(found: VerifiedBackup, name: str) -> None:
    head = found.head
    emit_pairs(
        [
            ("backup", name),
            ("cluster", head.cluster_id),
            ("written", f"{moment(head.created_ms)} by disheap {head.release}"),
            ("size", size(found.file_bytes)),
        ]
    )
    click.echo()
    stats = list(dict.fromkeys(key for one in found.groups for key in one.contents.machine_stats))
    headers = ["group", "machine", "node", "index", "term", "log time", "members", "sessions"]
    rows = [
        [
            one.head.group,
            f"{one.head.machine} {one.head.machine_version}",
            one.head.node,
            one.head.index,
            one.head.term,
            moment(one.head.time_ms),
            ",".join(one.head.members),
            one.contents.sessions,
            *(one.contents.machine_stats.get(key, "-") for key in stats),
        ]
        for one in found.groups
    ]
    emit_table([*headers, *(key.replace("_", " ") for key in stats)], rows)
    print_halves(found.halves)
    click.echo("\nIt is sound: every checksum holds, and every state could be built.")


# --- a data directory ------------------------------------------------------------------------------------------------


def _verify_directory(parts: OfflineParts, data_dir: Path, as_json: bool) -> int:
    from disheap.runtime.offline.verifying import verify_directory

    with show_progress(as_json) as show:
        show.stage("reading (entries)")
        found = verify_directory(parts, data_dir, show.at)
    is_sound = not any(one.problems or one.spare_problems for one in found)
    if as_json:
        emit_json({"sound": is_sound, "data_dir": str(data_dir), "groups": [_group_json(one) for one in found]})
    else:
        _print_directory(found, data_dir, is_sound)
    return EXIT_OK if is_sound else StorageError.exit_code


def _group_json(one: VerifiedDirectory) -> dict[str, Any]:
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(one)
    contents = fields.pop("contents")
    return fields | (contents or {"sessions": None, "machine_stats": {}})


def _print_directory(found: list[VerifiedDirectory], data_dir: Path, is_sound: bool) -> None:
    from disheap.runtime.offline.surviving import REMOVED

    first = next((one for one in found if one.cluster_id), found[0])
    owner = f"node {first.node_id} ({first.name}) of cluster {first.cluster_id}" if first.cluster_id else "not known"
    emit_pairs(
        [("directory", data_dir), ("belongs to", owner), ("members", ", ".join(first.members) or "not in the log")]
    )
    click.echo()
    stats = list(dict.fromkeys(key for one in found if one.contents for key in one.contents.machine_stats))
    headers = ["group", "term", "snapshots", "log from", "to", "last term", "state of", "log time", "sessions"]
    rows = [
        [
            one.group,
            one.term,
            ", ".join(map(str, one.snapshots)) or "-",
            one.first_index,
            one.last_index,
            one.last_term,
            one.rebuilt_index,
            moment(one.time_ms) if one.time_ms else "-",
            one.contents.sessions if one.contents else "-",
            *(one.contents.machine_stats.get(key, "-") if one.contents else "-" for key in stats),
        ]
        for one in found
    ]
    emit_table([*headers, *(key.replace("_", " ") for key in stats)], rows)
    click.echo()
    for one in found:
        for problem in one.problems + one.spare_problems:
            click.echo(printable(f"group {one.group}: {problem}"))
        if one.is_removed:
            click.echo(f"group {one.group}: {REMOVED}")
        if one.note:
            click.echo(printable(f"group {one.group}: the end of the log is torn, which its node settles ({one.note})"))
    if is_sound:
        click.echo("It is sound: every checksum holds, and every state could be built.")
    elif not any(one.problems for one in found):
        click.echo("It is damaged where nothing is lost: the state of each group could be built up to its last entry.")
    else:
        click.echo("It is damaged. The other nodes of its cluster can repair it, if they are a majority.")
