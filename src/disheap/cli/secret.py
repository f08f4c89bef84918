"""`secret`: the secret that the nodes of one cluster share."""

from __future__ import annotations

from pathlib import Path

import click

from disheap.cli.terminal.options import Invocation, pass_invocation, shared_options
from disheap.cli.terminal.output import emit_json


@click.group(no_args_is_help=False)
@shared_options
def secret() -> None:
    """Make the secret that the nodes of one cluster share."""


@secret.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@shared_options
@pass_invocation
def new(invocation: Invocation, /, file: Path | None) -> None:
    """Make a new secret, and write it to FILE or print it.

    FILE must not exist, and only its owner may read it. Copy it to every node and set cluster_secret_file to it.

    Example: disheap secret new cluster.secret
    """
    from disheap.config.cluster_secret import new_secret, write_new

    if file is not None:
        write_new(file)
        if invocation.json:
            emit_json({"file": str(file)})
        else:
            click.echo(f"{file} holds a new secret. Copy it to every node, and set cluster_secret_file to it.")
    elif invocation.json:
        emit_json({"secret": new_secret()})
    else:
        click.echo(new_secret())
