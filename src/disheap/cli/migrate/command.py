"""`migrate`: the command line. kombu is loaded when the command runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from disheap.cli.offline import interruptible, show_progress
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json
from disheap.errors import ConfigError, MigrationStopped

BATCH_MAX = 1000
REDIS_SCHEMES = ("redis", "rediss", "sentinel", "redis+socket")
CONNECT_RETRIES = 2


def options_of_source(value: str) -> dict[str, Any]:
    """An object in JSON. click shows the `ValueError` of anything else as an error of usage."""
    options = json.loads(value)
    if not isinstance(options, dict):
        raise ValueError(f"{value} is no object")  # noqa: TRY004  (click shows a ValueError)
    return options


options_of_source.__name__ = "JSON object"


@click.command()
@click.option("--from", "source_url", required=True, metavar="URL", help="amqp://..., redis://..., as in Celery.")
@click.option("--to", "target_url", metavar="URL", help="disheap://...; --url and DISHEAP_URL do the same.")
@click.option("--queue", "queues", type=text, multiple=True, required=True, metavar="NAME", help="May repeat.")
@click.option(
    "--batch", type=click.IntRange(1, BATCH_MAX), default=200, show_default=True, metavar="N", help="Messages at once."
)
@click.option(
    "--priority-order",
    type=click.Choice(("amqp", "redis")),
    help="Which priority goes first: amqp the larger, redis the smaller. As in the application; the default is the "
    "source's.",
)
@click.option(
    "--from-options",
    type=options_of_source,
    default="{}",
    metavar="JSON",
    help='The source\'s broker_transport_options, such as {"global_keyprefix": "shop"}.',
)
@click.option("--unacked/--no-unacked", default=True, help="Redis: also what workers held, such as tasks with an eta.")
@click.option("--dry-run", is_flag=True, help="Count what waits, and move nothing.")
@click.option("--force", is_flag=True, help="Also while consumers are connected to the source.")
@client_options
@pass_invocation
def migrate(
    invocation: Invocation,
    /,
    source_url: str,
    target_url: str | None,
    queues: tuple[str, ...],
    batch: int,
    priority_order: str | None,
    from_options: dict[str, Any],
    unacked: bool,
    dry_run: bool,
    force: bool,
) -> None:
    """Move the waiting messages of queues from RabbitMQ, Redis or another broker of kombu.

    Stop the workers first. Each message keeps its priority and its headers, and a task with an eta waits in disheap. A
    message leaves its source when a majority of the nodes has it on disk. So a command that is killed loses none, and
    is simply repeated. Messages of its last batch may then be there twice.

    Example: disheap migrate --from redis://localhost/0 --to disheap://localhost --queue celery
    """
    target_url = target_url or invocation.broker_url
    if target_url.partition(":")[0] not in ("disheap", "disheaps"):
        raise ConfigError(f"--to {target_url!r} is no URL of disheap; give disheap://HOST or disheaps://HOST")
    is_redis = source_url.partition(":")[0] in REDIS_SCHEMES
    order = priority_order or ("redis" if is_redis else "amqp")
    with interruptible(), _connected(source_url, "source", from_options) as source, _naming_source(source):
        sources = {queue: _source(source, queue, is_redis, unacked) for queue in dict.fromkeys(queues)}
        waiting = {queue: one.count() for queue, one in sources.items()}
        if dry_run:
            _tell(invocation, {queue: {"waiting_messages": count} for queue, count in waiting.items()})
            return
        if not force:
            _check_consumers(sources)
        with _connected(target_url, "target", {"priority_order": order}) as target:
            rows = _move(sources, waiting, target, batch, invocation.json)
    _tell(invocation, rows)


def _move(
    sources: dict[str, Any], waiting: dict[str, int], target: Any, batch: int, as_json: bool
) -> dict[str, dict[str, int]]:
    from disheap.cli.migrate.moving import Target, move

    channel, rows = Target(target), {}
    with show_progress(as_json) as show:
        for queue, source in sources.items():
            show.stage(f"moving {queue}", waiting[queue])
            moved = move(source, channel, batch, waiting[queue], show.at)
            if moved.taken_meanwhile:
                show.note(f"{moved.taken_meanwhile} of {queue} were taken by a worker meanwhile and may run twice")
            rows[queue] = {
                "moved_messages": moved.messages,
                "with_eta": moved.delayed,
                "taken_meanwhile": moved.taken_meanwhile,
                "left_messages": source.count(),
            }
    return rows


def _source(connection: Any, queue: str, is_redis: bool, unacked: bool) -> Any:
    from disheap.cli.migrate.redis_source import RedisSource
    from disheap.cli.migrate.sources import ChannelSource

    channel = connection.channel()
    return RedisSource(channel, queue, unacked) if is_redis else ChannelSource(channel, queue)


def _check_consumers(sources: dict[str, Any]) -> None:
    for queue, source in sources.items():
        consumers = source.consumers()
        if consumers:
            raise ConfigError(
                f"queue {queue!r} has consumers at the source ({consumers}), which would take messages meanwhile. "
                "Stop the workers, or insist with --force; nothing was moved"
            )


@contextmanager
def _connected(url: str, what: str, options: dict[str, Any]) -> Iterator[Any]:
    """A connection of kombu. Raises `ConfigError` without kombu or the broker's library, and `MigrationStopped`."""
    try:
        kombu, exceptions = import_module("kombu"), import_module("kombu.exceptions")
    except ImportError:
        raise ConfigError("migrate needs kombu, which is not installed; install it: pip install kombu") from None
    lost: tuple[type[BaseException], ...] = (exceptions.OperationalError, OSError)
    try:
        connection = kombu.Connection(url, transport_options=options)
        shown = connection.as_uri()  # without the password
        lost += connection.connection_errors + connection.channel_errors
        connection.ensure_connection(max_retries=CONNECT_RETRIES, interval_start=0.5)
    except lost as error:
        raise MigrationStopped(f"the {what} {shown} takes no connection: {error}. Nothing was moved") from error
    except (ImportError, AttributeError, KeyError, ValueError) as error:
        raise ConfigError(
            f"the {what}'s URL cannot be used: {error}. Write it as Celery's broker_url; for Redis install redis (pip "
            "install redis)"
        ) from error
    with connection:
        yield connection


@contextmanager
def _naming_source(connection: Any) -> Iterator[None]:
    """Raises `MigrationStopped` for what the source raises. `moving.Target` tells its own errors."""
    try:
        yield
    except (*connection.connection_errors, *connection.channel_errors, OSError) as error:
        raise MigrationStopped(
            f"the source {connection.as_uri()} failed: {error}. What was moved is at the target; repeat the command to "
            "go on"
        ) from error


def _tell(invocation: Invocation, rows: dict[str, dict[str, int]]) -> None:
    if invocation.json:
        emit_json({"queues": rows})
        return
    for queue, row in rows.items():
        if "waiting_messages" in row:
            click.echo(f"{queue}: {row['waiting_messages']} messages wait")
        else:
            left = f"; {row['left_messages']} have come meanwhile" if row["left_messages"] else ""
            click.echo(f"{queue}: {row['moved_messages']} messages moved, {row['with_eta']} of them with an eta{left}")
