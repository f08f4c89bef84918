"""`disheap`: the group of all commands, and the one place where an error becomes a line and an exit code.

Commands are imported when they are called, so that `disheap --help` is quick and a client loads no server. The table
below is therefore also what the help shows.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

import disheap
from disheap.cli.terminal import failures
from disheap.cli.terminal.options import URL_VARIABLE, Invocation, client_options

COMMANDS = {
    "demo": ("disheap.cli.demo.command:demo", "Three nodes, a Celery worker, and a leader that is killed: watch."),
    "dev": ("disheap.cli.nodes:dev", "One node for development, in memory unless --data DIR."),
    "serve": ("disheap.cli.nodes:serve", "Run a node of a cluster."),
    "status": ("disheap.cli.cluster:status", "The nodes, who leads, and what they hold."),
    "transfer": ("disheap.cli.cluster:transfer", "Hand leadership over."),
    "node": ("disheap.cli.members:node", "List the members, and let nodes join and leave."),
    "cluster": ("disheap.cli.cluster:cluster", "Hand leadership over."),
    "session": ("disheap.cli.sessions:session", "List the sessions of clients, and end one."),
    "topic": ("disheap.cli.topics:topic", "Create, list, show and remove topics."),
    "purge": ("disheap.cli.topics:purge", "Drop the waiting messages of a topic."),
    "dlq": ("disheap.cli.dead_letters:dlq", "List, show, replay, purge and export dead letters."),
    "tx": ("disheap.cli.transactions:tx", "List, show and abort transactions that wait."),
    "enqueue": ("disheap.cli.messages:enqueue", "Put messages into a topic."),
    "exchange": ("disheap.cli.routing.exchanges:exchange", "Create, list and remove exchanges."),
    "binding": ("disheap.cli.routing.bindings:binding", "Add, list and remove bindings of exchanges to topics."),
    "publish": ("disheap.cli.routing.publishing:publish", "Publish a message through an exchange."),
    "sub": ("disheap.cli.consuming:sub", "Print the messages of a topic as they come."),
    "pop": ("disheap.cli.messages:pop", "Take messages from a topic."),
    "peek": ("disheap.cli.looking.peeking:peek", "Look at the next messages of a topic."),
    "search": ("disheap.cli.looking.searching:search", "Find messages of a topic by a filter."),
    "explain": ("disheap.cli.looking.explaining:explain", "Say why a message is not delivered."),
    "export": ("disheap.cli.files.exporting:export", "Write the messages of a topic to a file."),
    "import": ("disheap.cli.files.importing:import_", "Enqueue messages from such a file."),
    "backup": ("disheap.cli.backup:backup", "Write a backup of the running cluster."),
    "restore": ("disheap.cli.restore:restore", "Make a new cluster of a backup."),
    "recover": ("disheap.cli.recover:recover", "Make a new cluster of what one node has left."),
    "verify": ("disheap.cli.verifying:verify", "Read a backup, and say whether it is sound."),
    "migrate": ("disheap.cli.migrate.command:migrate", "Move waiting messages from RabbitMQ or Redis."),
    "plugins": ("disheap.cli.plugins:plugins", "What is installed, and what can be set."),
    "secret": ("disheap.cli.secret:secret", "Make the secret that the nodes of a cluster share."),
    "bench": ("disheap.cli.bench.command:bench", "Measure throughput and latency."),
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command. Returns None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the name that is most like what was written."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"there is no command {args[0]!r}.{f' Did you mean {near[0]!r}?' if near else ''}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and ctx.ensure_object(Invocation).url and not _takes_url(command):
            ctx.fail(f"`{name}` talks to no cluster; leave --url out")
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. A reader of standard output that has gone away is no error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _nobody_reads()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands into the help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _takes_url(command: click.Command) -> bool:
    return any("--url" in parameter.opts for parameter in command.params)


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(disheap.__version__, prog_name="disheap", message="%(prog)s %(version)s")
@client_options
@click.pass_context
def cli(context: click.Context, /) -> None:
    """disheap: a replicated priority message broker.

    `disheap dev` starts a node to play with; `disheap COMMAND --help` says more of each command.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Never raises."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to fail
    invocation = Invocation(environment_url=os.environ.get(URL_VARIABLE) or None)
    try:
        result = cli.main(words, prog_name="disheap", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
        return result if isinstance(result, int) else failures.EXIT_OK
    except (click.Abort, KeyboardInterrupt):
        return failures.EXIT_INTERRUPTED
    except click.ClickException as error:
        return _complain(failures.USAGE, _usage(error), error.exit_code, _as_json(invocation, words))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else failures.EXIT_BUG
    except Exception as error:
        if invocation.verbose:
            traceback.print_exc()
        code, text = failures.code(error), failures.line(error)
        return _complain(code, text, failures.exit_code(error), _as_json(invocation, words))


def _as_json(invocation: Invocation, words: list[str]) -> bool:
    """The words themselves count too: the parser may have stopped before it came to `--json`."""
    return invocation.json or "--json" in (words[: words.index("--")] if "--" in words else words)


def _complain(code: str, text: str, exit_code: int, as_json: bool) -> int:
    sys.stdout.flush()
    print(failures.told(code, text, as_json), file=sys.stderr, flush=True)
    return exit_code


_PLAINER = {"a valid integer range": "a whole number", "a valid float range": "a number"}
"""What click calls the types of values, and what people do."""


def _usage(error: click.ClickException) -> str:
    """What click found, with the way to the help where the message has no better one."""
    message = failures.one_line(error.format_message()).rstrip(".")
    message = message[:1].lower() + message[1:]
    for clicks, plain in _PLAINER.items():
        message = message.replace(clicks, plain)
    if "; " in message:
        return message
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.NoSuchOption) and context is not None and _takes_arguments(context.command):
        message += "; write -- before a name that begins with -"
    return f"{failures.joined(message)}`{context.command_path if context else 'disheap'} --help` shows what there is"


def _takes_arguments(command: click.Command) -> bool:
    return any(isinstance(parameter, click.Argument) for parameter in command.params)


def _nobody_reads() -> int:
    """The reader of our output has gone (`disheap peek ... | head`). Nothing more can be said there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return failures.EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
