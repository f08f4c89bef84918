"""`exchange create|ls|rm`."""

from __future__ import annotations

from collections import Counter

import click

from disheap.cli.asking import connect_broker
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json, emit_table
from disheap.protocol.broker import EXCHANGE_KINDS, NAME_CHARACTERS


@click.group(no_args_is_help=False)
@client_options
def exchange() -> None:
    """Create, list and remove exchanges, which route messages into topics."""


def exchange_name(words: str) -> str:
    """The name of an exchange, which is not empty. Use it as `type=exchange_name`."""
    if not 1 <= len(text(words)) <= NAME_CHARACTERS:
        raise click.BadParameter(f"an exchange's name has 1 to {NAME_CHARACTERS} characters, not {len(words)}.")
    return words


@exchange.command()
@click.argument("name", type=exchange_name)
@click.option("--kind", type=click.Choice(EXCHANGE_KINDS), default="direct", show_default=True, help="How it matches.")
@click.option("--auto-delete", is_flag=True, help="Delete it when its last binding is gone.")
@click.option("--alternate", type=text, default="", metavar="NAME", help="Where messages go that match no binding.")
@client_options
@pass_invocation
def create(invocation: Invocation, /, name: str, kind: str, auto_delete: bool, alternate: str) -> None:
    """Create an exchange. The same kind again is fine.

    Example: disheap exchange create mail --kind topic
    """
    with connect_broker(invocation) as client:
        client.create_exchange(name, kind=kind, auto_delete=auto_delete, alternate=alternate)
    if invocation.json:
        emit_json({"exchange": name, "kind": kind, "auto_delete": auto_delete, "alternate": alternate})
    else:
        click.echo(f"exchange {name} is there")


@exchange.command()
@client_options
@pass_invocation
def ls(invocation: Invocation, /) -> None:
    """List the exchanges, the oldest first.

    Example: disheap exchange ls
    """
    with connect_broker(invocation) as client:
        found = client.exchanges()
    bindings = Counter(binding[0] for binding in found.bindings)
    rows = [(name, kind, bindings[name], found.alternates.get(name, "")) for name, kind in found.exchanges]
    if invocation.json:
        names = ("exchange", "kind", "bindings", "alternate")
        emit_json({"exchanges": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    emit_table(["exchange", "kind", "bindings", "alternate"], [(*row[:3], row[3] or "-") for row in rows])


@exchange.command()
@click.argument("name", type=exchange_name)
@click.option("--if-unused", is_flag=True, help="Refuse when it has bindings.")
@client_options
@pass_invocation
def rm(invocation: Invocation, /, name: str, if_unused: bool) -> None:
    """Remove an exchange and its bindings. The topics and their messages stay.

    Example: disheap exchange rm mail --if-unused
    """
    with connect_broker(invocation) as client:
        bindings = len(client.exchanges(name).bindings)
        client.delete_exchange(name, if_unused=if_unused)
    if invocation.json:
        emit_json({"exchange": name, "removed_bindings": bindings})
    else:
        click.echo(f"exchange {name} is removed, and {bindings} binding{'' if bindings == 1 else 's'} with it")
