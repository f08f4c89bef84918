"""`backup`: a copy of a running cluster in one file.

Each group is asked at its leader. First all groups begin a snapshot, the one with the highest number first. So the
moments of the groups are milliseconds apart, and the coordinator's group of a transaction is not older than its
participants. When all are written, they are read page by page. A file is written under a temporary name, and gets its
own when it is whole and on the disk. So a backup that fails leaves nothing that looks like one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import disheap
from disheap.cli.asking import asked_leader
from disheap.cli.offline import MIB, PIPE, interruptible, show_progress
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation
from disheap.cli.terminal.output import emit_json, size
from disheap.errors import BackupLost, MalformedFrame, StorageError

if TYPE_CHECKING:
    from disheap.backup.layout import GroupHead
    from disheap.backup.writing import BackupWriter
    from disheap.cli.terminal.progress import Show
    from disheap.client.core.url import BrokerUrl
    from disheap.sync import Client

CODEC = "zstd"
PAGE_TIMEOUT_S = 30.0
"""For one page: a busy disk takes a while."""
KEEP_EVERY_S = 15.0
"""A node gives up a snapshot that nobody reads for a minute. So those that wait for their turn are read a little."""


@click.command()
@click.argument("file", required=False)
@click.option("--to", metavar="FILE", help="The same as FILE; - writes to standard output.")
@click.option("--overwrite", is_flag=True, help="Replace FILE, if there is one.")
@client_options
@pass_invocation
def backup(invocation: Invocation, /, file: str | None, to: str | None, overwrite: bool) -> None:
    """Write a backup of the whole cluster to FILE, while it runs. - writes to standard output.

    The backup holds every message that was confirmed before. `disheap verify` reads it, `disheap restore` makes a new
    cluster of it. It holds all messages in the clear: keep it as you keep the data.

    Example: disheap backup orders.backup
    """
    if (file is None) == (to is None):
        raise click.UsageError("name one FILE to write, or - for standard output")
    target = file or to or PIPE
    with interruptible(), _opened(target, overwrite) as put, show_progress(invocation.json) as show:
        written = _write(invocation, put, show)
    if target == PIPE:
        return
    if invocation.json:
        emit_json({"file": target, **written})
    else:
        groups = "1 group" if written["groups"] == 1 else f"{written['groups']} groups"
        click.echo(f"{target} holds {groups} of cluster {written['cluster_id']}, {size(written['file_bytes'])}")


@contextmanager
def _opened(target: str, overwrite: bool) -> Iterator[Callable[[bytes], object]]:
    """Where the bytes go. A file is there only if all went well."""
    if target == PIPE:
        if sys.stdout.isatty():
            raise click.UsageError("standard output is a terminal; write the backup to a file, or into a pipe")
        try:
            yield sys.stdout.buffer.write
            sys.stdout.buffer.flush()
        except OSError as error:
            raise StorageError(
                f"standard output was closed ({error.strerror}): what was written is no backup"
            ) from None
        return
    path = Path(target)
    if path.exists() and not overwrite:
        raise click.UsageError(f"{target} exists; give another name, or --overwrite")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"{target} cannot be written ({error.strerror}); name another file") from None
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out.write
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
        _sync_directory(path.absolute().parent)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise click.ClickException(
                f"{target} cannot be written ({error.strerror}); nothing is left of it"
            ) from None
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(invocation: Invocation, put: Callable[[bytes], object], show: Show) -> dict[str, Any]:
    """Write all groups. Returns what is told of the backup."""
    from disheap.backup.layout import BackupHead
    from disheap.backup.writing import BackupWriter
    from disheap.cli.offline import offline_parts
    from disheap.client.core.url import parse

    codec = offline_parts(None, (), {}).codec(CODEC)
    with ExitStack() as clients:
        taken = _take_all(parse(invocation.broker_url), clients, show)
        cluster_id = taken[0].cluster_id
        head = BackupHead(cluster_id, disheap.__version__, time.time_ns() // 1_000_000, len(taken), CODEC)
        writer = BackupWriter(put, head, codec)
        for number, snapshot in enumerate(taken):
            _copy(snapshot, taken[number + 1 :], writer, show)
    writer.finish()
    return {"cluster_id": cluster_id, "groups": len(taken), "file_bytes": writer.file_bytes}


class _Snapshot:
    """The snapshot of one group, which its node holds until it was read."""

    def __init__(self, client: Client, begun: dict[str, Any]) -> None:
        self.client = client
        self.begun = begun
        self.group = int(begun["group"])
        self.cluster_id = str(begun["cluster_id"])
        self.has_begun = bool(begun.get("begun", False))
        """What is confirmed from here on is not in it."""
        self._read_at = time.monotonic()

    def page(self, offset: int) -> dict[str, Any]:
        """Returns the bytes from `offset` on, or an answer that is not `ready`."""
        self._read_at = time.monotonic()
        request = {"op": "backup-read", "backup": self.begun["backup"], "offset": offset}
        page: dict[str, Any] = self.client.driver.admin(request, PAGE_TIMEOUT_S)
        self.has_begun = bool(page["ready"] or page.get("begun", False))
        return page

    def renew(self) -> None:
        """Has the node hold the snapshot. To be called often."""
        if time.monotonic() - self._read_at > KEEP_EVERY_S:
            self.page(0)

    def end(self) -> None:
        """It was read to its end."""
        self.client.driver.admin({"op": "backup-end", "backup": self.begun["backup"]})


def _take_all(url: BrokerUrl, clients: ExitStack, show: Show) -> list[_Snapshot]:
    """Has every group begin a snapshot, before the group below does, and waits for all of them. Returns them in the
    order of the groups."""
    client, status = asked_leader(replace(url, group=0), {"op": "status"})
    client.close()
    taken: list[_Snapshot] = []
    for group in reversed(range(len(status["groups"]))):
        client, begun = asked_leader(replace(url, group=group), {"op": "backup"})
        clients.enter_context(client)
        snapshot = _Snapshot(client, begun)
        if taken and snapshot.cluster_id != taken[0].cluster_id:
            raise BackupLost(
                f"group {group} is of cluster {snapshot.cluster_id}, and the ones before of {taken[0].cluster_id}"
            )
        show.stage(f"group {group}: waiting for its snapshot")
        while not snapshot.has_begun:  # the node answers within a second
            snapshot.page(0)
            _renew(taken)
        taken.append(snapshot)
    for snapshot in taken:
        show.stage(f"group {snapshot.group}: waiting for its snapshot")
        while not snapshot.page(0)["ready"]:
            _renew(taken)
    return taken[::-1]


def _renew(snapshots: list[_Snapshot]) -> None:
    for one in snapshots:
        one.renew()


def _copy(snapshot: _Snapshot, later: list[_Snapshot], writer: BackupWriter, show: Show) -> None:
    page = snapshot.page(0)
    size_bytes, offset = int(page["size_bytes"]), 0
    show.stage(f"group {snapshot.group} (MiB)", size_bytes // MIB)
    writer.begin_group(_head(snapshot.begun, page))
    while True:
        writer.write(page["data"])
        offset += len(page["data"])
        show.at(offset // MIB)
        if page["is_last"]:
            break
        if not page["data"]:
            raise MalformedFrame("the node sends a page of a backup without data")
        _renew(later)
        page = snapshot.page(offset)
    if offset != size_bytes:
        raise BackupLost(f"the node has sent {offset} bytes of a snapshot of {size_bytes}; take it again")
    writer.end_group()
    snapshot.end()


def _head(begun: dict[str, Any], page: dict[str, Any]) -> GroupHead:
    from disheap.backup.layout import GroupHead

    return GroupHead(
        begun["group"], begun["node"], begun["machine"], page["machine_version"], page["log_version"],
        page["index"], page["term"], page["time_ms"], begun["members"],
    )  # fmt: skip
