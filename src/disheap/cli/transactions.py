"""`tx ls|show|commit|abort`: transactions that wait for their decision."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from disheap.cli.asking import connect_broker
from disheap.cli.terminal.options import Invocation, client_options, pass_invocation, text
from disheap.cli.terminal.output import emit_json, emit_pairs, emit_table, size
from disheap.errors import TransactionNotFound, TransactionOver

if TYPE_CHECKING:
    from disheap.protocol.broker import TransactionInfo
    from disheap.sync import Client

PAGE = 100


@click.group(no_args_is_help=False)
@client_options
def tx() -> None:
    """List, show, commit and abort transactions that wait for their decision."""


@tx.command()
@click.option("--skip", type=click.IntRange(0), default=0, metavar="N", help="Leave so many out.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=PAGE, show_default=True, metavar="N", help="At most so many."
)
@client_options
@pass_invocation
def ls(invocation: Invocation, /, skip: int, limit: int) -> None:
    """List the transactions that are prepared and not decided, the oldest first.

    Example: disheap tx ls
    """
    from disheap.protocol import broker

    with connect_broker(invocation) as client:
        page = client.driver.query(broker.ListTransactions("", skip, limit))
        now_ms = client.stats().time_ms
    if invocation.json:
        emit_json({"transactions": [_described(one) for one in page.transactions], "total": page.total})
        return
    headers = ["transaction", "epoch", "session", "age", "aborts in", "messages", "bytes", "frozen", "groups"]
    emit_table(headers, [_cells(one, now_ms) for one in page.transactions])
    shown = skip + len(page.transactions)
    if shown < page.total:
        click.echo(f"\nThere are more, {page.total} in all: disheap tx ls --skip {shown}")


@tx.command()
@click.argument("name", type=text, metavar="TRANSACTION")
@client_options
@pass_invocation
def show(invocation: Invocation, /, name: str) -> None:
    """Show one transaction, or how it ended.

    Example: disheap tx show order-7
    """
    from disheap.protocol import broker

    with connect_broker(invocation) as client:
        page = client.driver.query(broker.ListTransactions(name))
        now_ms = client.stats().time_ms
    if not page.transactions and not page.outcome:
        raise _unknown(name)
    state = page.outcome or "prepared"
    if invocation.json:
        found = _described(page.transactions[0]) if page.transactions else {"transaction": name}
        emit_json(found | {"state": state})
        return
    pairs: list[tuple[str, object]] = [("transaction", name), ("state", state)]
    for one in page.transactions:
        headers = ["epoch", "session", "age", "aborts in", "messages", "bytes", "frozen", "groups"]
        pairs += zip(headers, _cells(one, now_ms)[1:], strict=True)
    emit_pairs(pairs)


@tx.command()
@click.argument("name", type=text, metavar="TRANSACTION")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Commit, although other groups take part.")
@client_options
@pass_invocation
def commit(invocation: Invocation, /, name: str, yes: bool, force: bool) -> None:
    """Commit a transaction: its messages are enqueued, and those that it froze are dropped. Asks unless --yes.

    If other groups take part, it needs --force. In the coordinator's group all of them have to be prepared, or the
    transaction is done by half. In another group the coordinator's has to have committed. Find out before.

    Example: disheap tx commit order-7 --yes
    """
    from disheap.protocol import broker

    with connect_broker(invocation) as client:
        found = _find(client, name)
        if not force:
            _require_alone(found)
        if not yes:
            _confirm(found, "enqueued", "Commit")
        reply = client.driver.request(broker.Commit(name, found.epoch, force))
    if invocation.json:
        emit_json({"transaction": name, "epoch": found.epoch, "messages": reply.count, "frozen": found.frozen})
    else:
        click.echo(f"transaction {name} is committed: {reply.count} messages enqueued, {found.frozen} acknowledged")


def _require_alone(found: TransactionInfo) -> None:
    """Raises `UsageError` if other groups take part."""
    name = found.transaction
    if found.coordinator >= 0:
        raise click.UsageError(
            f"group {found.coordinator} decides {name}, and tells this one. See there how it ended: disheap tx show "
            f"{name} --url '...?group={found.coordinator}'. If it is committed and that group is lost, insist with "
            "--force."
        )
    if found.participants:
        groups = ", ".join(map(str, found.participants))
        raise click.UsageError(
            f"{name} takes part in the groups {groups}, too. See whether it is prepared in each: disheap tx show "
            f"{name} --url '...?group={found.participants[0]}'. If it is, insist with --force."
        )


@tx.command()
@click.argument("name", type=text, metavar="TRANSACTION")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Abort in this group alone, although another group decides.")
@client_options
@pass_invocation
def abort(invocation: Invocation, /, name: str, yes: bool, force: bool) -> None:
    """Abort a transaction: its messages are dropped, and those that it froze go back. Asks unless --yes.

    In the coordinator's group, all groups that take part are told. In another group it needs --force: the others may
    have committed, and then the transaction is done by half. The same holds for other systems. Find out before.

    Example: disheap tx abort order-7 --yes
    """
    from disheap.protocol import broker

    with connect_broker(invocation) as client:
        found = _find(client, name)
        if found.coordinator >= 0 and not force:
            raise click.UsageError(
                f"group {found.coordinator} decides {name}, and tells this one. Abort it there: "
                f"disheap tx abort {name} --url '...?group={found.coordinator}'. If that group is lost, insist with "
                "--force."
            )
        if not yes:
            _confirm(found, "lost", "Abort")
        client.driver.request(broker.Abort(name, found.epoch, force))
    if invocation.json:
        emit_json({"transaction": name, "epoch": found.epoch, "messages": found.messages, "frozen": found.frozen})
    else:
        click.echo(f"transaction {name} is aborted: {found.messages} messages dropped, {found.frozen} given back")


def _find(client: Client, name: str) -> TransactionInfo:
    """The open transaction. Raises `TransactionNotFound`, or `TransactionOver` if it has ended."""
    from disheap.protocol import broker

    page: broker.TransactionInfos = client.driver.query(broker.ListTransactions(name))
    if page.transactions:
        return page.transactions[0]
    if page.outcome:
        raise TransactionOver(f"transaction {name!r} is {page.outcome} already; nothing was done")
    raise _unknown(name)


def _unknown(name: str) -> TransactionNotFound:
    return TransactionNotFound(
        f"there is no transaction {name!r}; `disheap tx ls` shows those that wait. It may have ended so long ago that "
        "its outcome is forgotten"
    )


def _confirm(found: TransactionInfo, fate: str, question: str) -> None:
    """Where nobody can answer, --yes has to have been said."""
    what = f"{found.transaction} holds {found.messages} messages, which would be {fate}"
    if not sys.stdin.isatty():
        raise click.UsageError(f"{what}; insist with --yes.")
    click.confirm(f"{what}. {question} it?", abort=True, err=True)


def _described(one: TransactionInfo) -> dict[str, Any]:
    return {
        "transaction": one.transaction,
        "epoch": one.epoch,
        "session": one.session,
        "prepared_ms": one.prepared_ms,
        "deadline_ms": one.deadline_ms,
        "messages": one.messages,
        "bytes": one.bytes,
        "frozen": one.frozen,
        "participants": one.participants,
        "coordinator": one.coordinator if one.coordinator >= 0 else None,
    }


def _cells(one: TransactionInfo, now_ms: int) -> list[object]:
    aborts_in = _seconds(one.deadline_ms - now_ms) if one.deadline_ms else "never"
    times = (_seconds(now_ms - one.prepared_ms), aborts_in)
    return [one.transaction, one.epoch, one.session, *times, one.messages, size(one.bytes), one.frozen, _groups(one)]


def _groups(one: TransactionInfo) -> str:
    """Which other groups take part: those that this one tells, or the one that it is told by."""
    if one.coordinator >= 0:
        return f"told by {one.coordinator}"
    return f"tells {', '.join(map(str, one.participants))}" if one.participants else "-"


def _seconds(milliseconds: int) -> str:
    return f"{max(0, milliseconds) / 1000:.1f}s"
