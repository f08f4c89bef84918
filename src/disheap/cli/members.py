"""`node`: the members of a cluster, listed and changed while it runs.

`node join` runs a node, as `serve` does; it is in `nodes`. The others ask a node that runs. The leader of group 0
carries a change out and checks it. Here are the words for what `--force` risks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import click

from disheap.cli.asking import ask_any, ask_leader, ask_node
from disheap.cli.nodes import join
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json, emit_table, size
from disheap.errors import RequestError, UnknownMember

F = TypeVar("F", bound=Callable[..., Any])
Row = dict[str, Any]
"""One member, as a node knows it."""

_RISKS = {
    "promote": "{node} counts for the majority at once. If it does not answer or is far behind, the cluster may stop "
    "until it has caught up.",
    "demote": "{node} has no vote any more. If the other voters do not answer, the cluster stops until they do, and "
    "what only {node} holds is lost if they never do.",
    "remove": "{node} is a member no more, and never again under its id. If the other voters do not answer, the "
    "cluster stops until they do, and what only {node} holds is lost if they never do.",
    "replace": "{node} may still run. It is a member no more, and never again under its id. What only {node} holds is "
    "lost.",
}
"""What a change risks that the leader would refuse without `--force`."""


@click.group(no_args_is_help=False)
@client_options
def node() -> None:
    """List the members of the cluster, and change who is one."""


node.add_command(join)


@node.command()
@client_options
@pass_invocation
def ls(invocation: Invocation, /) -> None:
    """List the members: role, lag, versions, incarnation, last contact and disk.

    The leader answers. Without a leader any node answers, and shows what it knows.

    Example: disheap node ls
    """
    found = _ask_members(invocation)
    if invocation.json:
        emit_json(found)
        return
    headers = ["node", "id", "role", "lag", "last contact", "disk free", "release", "versions", "incarnation"]
    emit_table([*headers, "peers", "clients"], [_cells(row) for row in found["members"]])
    if not found["leader"]:
        click.echo(f"\nThere is no leader: this is what {found['node']} knows. `disheap status` shows why.")
    elif not found["is_committed"]:
        click.echo("\nThe last change is not committed yet.")


@node.command()
@click.argument("node", type=text, metavar="NODE")
@client_options
@pass_invocation
def leave(invocation: Invocation, /, node: str) -> None:
    """Have NODE leave the cluster by itself. It hands over what it leads first.

    NODE must run, and answer. `disheap node rm` removes a node that does not. Stop the process afterwards.

    Example: disheap node leave n4
    """
    row = _find(invocation, node)
    if not row["client_address"]:
        raise UnknownMember(
            f"the client address of {node!r} is not known; nothing was done. Remove it with: disheap node rm {node}"
        )
    _say(invocation, ask_node(invocation, row["client_address"], {"op": "leave"}))


def _options(command: F) -> F:
    """The member, and what lets a change go ahead that the leader refuses."""
    command = click.argument("node", type=text, metavar="NODE")(command)
    command = click.option("--yes", is_flag=True, help="With --force: do not ask.")(command)
    return click.option("--force", is_flag=True, help="Do it at a risk, which is named. Asks first.")(command)


@node.command()
@_options
@client_options
@pass_invocation
def promote(invocation: Invocation, /, node: str, force: bool, yes: bool) -> None:
    """Give NODE, a learner, a vote. Refused while it is far behind.

    A node that joined is promoted by itself, unless it joined with --learner.

    Example: disheap node promote n4
    """
    _change(invocation, "promote", node, force, yes)


@node.command()
@_options
@client_options
@pass_invocation
def demote(invocation: Invocation, /, node: str, force: bool, yes: bool) -> None:
    """Take the vote of NODE. It stays a member, and holds a copy of everything.

    Refused when the voters that are left and answer would be no majority, and for the last voter.

    Example: disheap node demote n4
    """
    _change(invocation, "demote", node, force, yes)


@node.command()
@_options
@client_options
@pass_invocation
def rm(invocation: Invocation, /, node: str, force: bool, yes: bool) -> None:
    """Remove NODE, whether it runs or not. Its id is never used again.

    Refused when the voters that are left and answer would be no majority, and for the last voter.

    Example: disheap node rm n3
    """
    _change(invocation, "remove", node, force, yes)


@node.command()
@_options
@client_options
@pass_invocation
def replace(invocation: Invocation, /, node: str, force: bool, yes: bool) -> None:
    """Remove NODE, which has lost its disk or its host, and let a new node have its name.

    The new node starts with an empty data directory and `disheap node join`. It gets a new id.

    Example: disheap node replace n3
    """
    _change(invocation, "replace", node, force, yes)


# --- asking ----------------------------------------------------------------------------------------------------------


def _change(invocation: Invocation, op: str, name: str, force: bool, yes: bool) -> None:
    if yes and not force:
        raise click.UsageError("--yes answers the question that --force asks; leave it out, or give both.")
    if force and not yes:
        _confirm(_RISKS[op].format(node=name))
    changed = ask_leader(invocation, {"op": op, "target": name, "force": force}, group=0)
    _say(invocation, changed)
    if op == "replace" and not invocation.json:
        click.echo(
            f"The name {changed['name']} is free. Start the new node with an empty data directory:\n"
            f"    disheap node join HOST:8300,... --name {changed['name']} --data DIR"
        )


def _confirm(risk: str) -> None:
    """Say what `--force` risks, and ask. Where nobody can answer, --yes has to have been said."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{risk.rstrip('.')}; insist with --force --yes.")
    click.echo(risk, err=True)
    click.confirm("Go on?", abort=True, err=True)


def _ask_members(invocation: Invocation) -> dict[str, Any]:
    """The leader's answer to `members`, which knows the lag of each; else that of whoever answers."""
    found = ask_any(invocation, {"op": "members"}, group=0)
    leader = next((row for row in found["members"] if row["name"] == found["leader"] != found["node"]), None)
    if leader is not None and leader["client_address"]:
        with suppress(RequestError):
            return ask_node(invocation, leader["client_address"], {"op": "members"})
    return found


def _find(invocation: Invocation, name: str) -> Row:
    rows: list[Row] = _ask_members(invocation)["members"]
    for row in rows:
        if name in (row["name"], str(row["id"])):
            return row
    raise UnknownMember(f"no member is called {name!r}; the members are {', '.join(row['name'] for row in rows)}")


# --- showing ---------------------------------------------------------------------------------------------------------


def _say(invocation: Invocation, changed: dict[str, Any]) -> None:
    if invocation.json:
        emit_json(changed)
        return
    became = {"voter": "is a voter", "learner": "is a learner", "removed": "is removed"}
    click.echo(f"{changed['name']} (id {changed['id']}) {became[changed['role']]}")


def _cells(row: Row) -> list[object]:
    disk, incarnations = row["disk"], row["incarnations"]
    return [
        row["name"],
        row["id"],
        row["role"],
        "-" if row["lag"] is None else row["lag"],
        _contact(row),
        "-" if disk is None else size(disk["free_bytes"]),
        row["release"] or "-",
        _versions(row),
        f"{incarnations[0]:x}" if incarnations else "-",
        row["peer_address"] or "-",
        row["client_address"] or "-",
    ]


def _contact(row: Row) -> str:
    if row["is_self"]:
        return "-"
    seconds = row["last_contact_s"]
    if seconds is None:
        return "never"
    return f"{seconds:.1f}s" if seconds < 60 else f"{seconds / 60:.0f}m"


def _versions(row: Row) -> str:
    """The highest versions that it supports, of the machine and of the log."""
    highest = [str(versions[1]) if versions else "-" for versions in (row["machine_versions"], row["log_versions"])]
    return "/".join(highest)
