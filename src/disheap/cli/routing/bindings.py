"""`binding add|ls|rm`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from disheap.cli.asking import connect_broker
from disheap.cli.terminal.options import Invocation, client_options, header, pass_invocation, text
from disheap.cli.terminal.output import emit_json, emit_table, header_fields

if TYPE_CHECKING:
    from disheap.protocol.broker import Arguments


@click.group(no_args_is_help=False)
@client_options
def binding() -> None:
    """Add, list and remove bindings of exchanges to topics."""


def argument(words: str) -> tuple[str, str]:
    """Use it as `type=argument`."""
    try:
        return header(words)
    except click.BadParameter:
        raise click.BadParameter(f"{words!r} is no argument; write NAME=VALUE.") from None


def named_once(arguments: tuple[tuple[str, str], ...]) -> Arguments:
    """The arguments as a map. Fails if a name is given twice."""
    found: dict[str, str] = {}
    for name, value in arguments:
        if name in found:
            raise click.UsageError(f"--argument {name!r} is given twice; a binding has each argument once.")
        found[name] = value
    return found


ARGUMENT = click.option(
    "--argument", "arguments", type=argument, multiple=True, metavar="NAME=VALUE",
    help="A header to match, as text; of an exchange of the kind headers. May repeat.",
)  # fmt: skip
KEY = click.option("--routing-key", "key", type=text, default="", metavar="KEY", help="Or a pattern.")


@binding.command()
@click.argument("exchange", type=text)
@click.argument("topic", type=text)
@KEY
@ARGUMENT
@client_options
@pass_invocation
def add(invocation: Invocation, /, exchange: str, topic: str, key: str, arguments: tuple[tuple[str, str], ...]) -> None:
    """Route messages of EXCHANGE into TOPIC. The same binding again is fine.

    Example: disheap binding add mail urgent --routing-key 'mail.urgent.#'
    """
    matched = named_once(arguments)
    with connect_broker(invocation) as client:
        client.bind(exchange, topic, key, matched)
    _emit(invocation, exchange, topic, key, matched, "is there")


@binding.command()
@click.option("--exchange", type=text, default="", metavar="NAME", help="Of this exchange alone.")
@click.option("--topic", type=text, default="", metavar="NAME", help="To this topic alone.")
@client_options
@pass_invocation
def ls(invocation: Invocation, /, exchange: str, topic: str) -> None:
    """List the bindings, exchange by exchange, the oldest first.

    Example: disheap binding ls --topic urgent
    """
    from disheap.protocol.broker import decode_arguments

    with connect_broker(invocation) as client:
        found = client.exchanges(exchange)
    rows = [
        (source, target, key, header_fields(decode_arguments(encoded)))
        for source, target, key, encoded in found.bindings
        if topic in ("", target)
    ]
    if invocation.json:
        names = ("exchange", "topic", "routing_key", "arguments")
        emit_json({"bindings": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    emit_table(["exchange", "topic", "routing key", "arguments"], [(*row[:3], _told(row[3])) for row in rows])


@binding.command()
@click.argument("exchange", type=text)
@click.argument("topic", type=text)
@KEY
@ARGUMENT
@client_options
@pass_invocation
def rm(invocation: Invocation, /, exchange: str, topic: str, key: str, arguments: tuple[tuple[str, str], ...]) -> None:
    """Remove a binding. It is named by the same words with which it was added.

    Example: disheap binding rm mail urgent --routing-key 'mail.urgent.#'
    """
    matched = named_once(arguments)
    with connect_broker(invocation) as client:
        client.unbind(exchange, topic, key, matched)
    _emit(invocation, exchange, topic, key, matched, "is gone")


def _emit(invocation: Invocation, exchange: str, topic: str, key: str, arguments: Arguments, what: str) -> None:
    if invocation.json:
        emit_json({"exchange": exchange, "topic": topic, "routing_key": key, "arguments": dict(arguments)})
    else:
        click.echo(f"the binding of {exchange} to {topic} {what}")


def _told(arguments: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in arguments.items()
    )
