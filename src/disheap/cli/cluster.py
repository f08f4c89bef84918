"""`status`, `transfer` and `cluster`: the cluster as a whole.

`status` asks every node by itself, because a node that is cut off may know something else than the leader. A node that
does not answer is shown as such. It opens no session, so that it works where nobody leads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from disheap.cli.asking import connect
from disheap.cli.terminal import failures
from disheap.cli.terminal.failures import EXIT_DEGRADED, EXIT_NO_LEADER, EXIT_OK
from disheap.cli.terminal.options import Invocation, client_options, duration, pass_invocation, text
from disheap.cli.terminal.output import emit_json, emit_table, size
from disheap.errors import ConnectionLost, ProtocolError, RequestError

if TYPE_CHECKING:
    from disheap.client.core.url import BrokerUrl
    from disheap.client.io.dialing import Dial
    from disheap.interfaces import BlockingSocket, PendingSocket

NODE_TIMEOUT_S = 2.0
"""For one node's answer: a node that takes longer is not in a state to lead anything."""
ASKED_AT_ONCE = 16
WATCH_MIN_MS = 100
"""The shortest pause of `status --watch`: each look is a connection to each node."""
VOTER = "voter"
"""The role of a member that has a vote."""

Row = dict[str, Any]
"""One node's own status, or {"node", "client_address", "error"} where there was none."""


@click.command()
@click.option(
    "--watch", type=duration, is_flag=False, flag_value="2s", metavar="[TIME]", help="Again and again, each TIME (2s)."
)
@client_options
@pass_invocation
def status(invocation: Invocation, /, watch: int | None) -> int:
    """Show the nodes, who leads, and what they hold.

    The exit code is 0 when all nodes do their part. It is 10 when there is a leader and a node is missing or in
    trouble. It is 8 when nodes answer and none leads, and 6 when nobody answers. With --watch it goes on until Ctrl-C.

    Example: disheap status --url disheap://10.0.0.1,10.0.0.2,10.0.0.3
    """
    from disheap.client.core.url import parse

    url = parse(invocation.broker_url)
    if watch is None:
        return _show(invocation, _ask_all(url))
    if watch < WATCH_MIN_MS:
        raise click.UsageError(f"--watch looks each {WATCH_MIN_MS} ms at most, not each {watch} ms.")
    while True:
        _show_again(invocation, url)
        time.sleep(watch / 1000)


def _show_again(invocation: Invocation, url: BrokerUrl) -> None:
    """Shows the status in place of the one before. Says so if nobody answers."""
    try:
        rows = _ask_all(url)
    except ConnectionLost as error:
        click.echo(f"disheap: {failures.line(error)}", err=True)
        return
    if not invocation.json:
        click.clear()  # on a terminal only
        click.echo(time.strftime("%H:%M:%S"))
    _show(invocation, rows)
    sys.stdout.flush()


def _show(invocation: Invocation, rows: list[Row]) -> int:
    """Shows a status. Returns the exit code."""
    leader = _leader(rows)
    if invocation.json:
        tolerated = max(0, _spare(rows)) if leader else 0
        emit_json({"cluster_id": _cluster_id(rows), "leader": leader, "failures_tolerated": tolerated, "nodes": rows})
    else:
        _print(rows, leader)
    if leader is None:
        return EXIT_NO_LEADER
    return EXIT_DEGRADED if any(True for row in rows for _ in _troubles(row)) else EXIT_OK


@click.command()
@click.argument("node", type=text, required=False, default="")
@client_options
@pass_invocation
def transfer(invocation: Invocation, /, node: str) -> None:
    """Hand leadership to NODE, or to whichever node is best up to date.

    Example: disheap transfer n2
    """
    _transfer(invocation, node)


@click.group(no_args_is_help=False)
@client_options
def cluster() -> None:
    """What concerns the cluster as a whole."""


@cluster.command("transfer")
@click.argument("node", type=text, required=False, default="")
@client_options
@pass_invocation
def transfer_in_cluster(invocation: Invocation, /, node: str) -> None:
    """Hand leadership to NODE, or to whichever node is best up to date. The same as `disheap transfer`.

    Example: disheap cluster transfer n2
    """
    _transfer(invocation, node)


def _transfer(invocation: Invocation, node: str) -> None:
    with connect(invocation) as client:
        leader = str(client.transfer(node)["leader"])
    if invocation.json:
        emit_json({"leader": leader})
    else:
        click.echo(f"{leader} leads")


# --- asking ----------------------------------------------------------------------------------------------------------


def _ask_all(url: BrokerUrl) -> list[Row]:
    """First the addresses of the URL, then those that the nodes name. Raises `ConnectionLost` when nobody answers."""
    answers = _ask_each(url, url.addresses)
    found = {row["node_id"]: row for row in answers.values() if "error" not in row}
    if not found:
        raise _nobody(answers)
    members = {member["id"]: member for member in _best_informed(list(found.values()))["members"]}
    missing = {number: member for number, member in members.items() if number not in found}
    asked = _ask_each(url, [member["client_address"] for member in missing.values() if member["client_address"]])
    found |= {row["node_id"]: row for row in asked.values() if "error" not in row and row["node_id"] in missing}
    rows = [found[number] if number in found else _absent(members[number], asked) for number in members]
    return [*rows, *(row for number, row in found.items() if number not in members)]  # removed ones that still run


def _best_informed(answering: list[Row]) -> Row:
    """The newest leader, or else who has the longest committed log: a node that was removed knows old members."""
    return max(answering, key=lambda row: (row["role"] == "leader", int(row["term"]), int(row["commit_index"])))


def _nobody(answers: dict[str, Row]) -> ConnectionLost:
    error = ConnectionLost("; ".join(f"{address}: {row['error']}" for address, row in answers.items()))
    error.found = {address: row["error_code"] for address, row in answers.items()}
    return error


def _ask_each(url: BrokerUrl, addresses: Iterable[str]) -> dict[str, Row]:
    wanted = list(dict.fromkeys(addresses))
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return dict(zip(wanted, pool.map(lambda address: _ask(url, address), wanted), strict=True))


def _ask(url: BrokerUrl, address: str) -> Row:
    from disheap import sync

    alone = replace(url, addresses=(address,), connect_timeout_s=min(url.connect_timeout_s, NODE_TIMEOUT_S))
    try:
        with sync.connect(alone, observer=True, timeout_s=NODE_TIMEOUT_S, dial=_dial_once(alone)) as client:
            answer = client.status()
    except (RequestError, ProtocolError, _NoAnswer) as error:
        text = str(error).rpartition(f"{address}: ")[2]  # without what the row says already
        return {"error": text, "error_code": _code(error, address)}
    own = next((member for member in answer["members"] if member["id"] == answer["node_id"]), None)
    known = own["client_address"] if own is not None else ""
    return answer | {"client_address": known or address, "votes": own is not None and _votes(own)}


def _votes(member: Row) -> bool:
    """A node of a release that knows no learners names no role: all members vote there."""
    return bool(member.get("role", VOTER) == VOTER)


def _code(error: RequestError | ProtocolError | _NoAnswer, address: str) -> str:
    """The code of what was found at the address."""
    if isinstance(error, ConnectionLost):
        return error.found.get(address, error.code)
    return ConnectionLost.code if isinstance(error, _NoAnswer) else error.code


class _NoAnswer(Exception):
    """Nobody listens there. Not a `ConnectionLost`, after which a client would try again."""


def _dial_once(url: BrokerUrl) -> Dial:
    """A status is of this moment: a node that refuses now is not waited for."""
    from disheap.client.io.dialing import blocking_dial

    dial = blocking_dial(url)

    def once(address: str) -> PendingSocket:
        try:
            return _Once(dial(address))
        except (ConnectionLost, OSError) as error:
            raise _NoAnswer(str(error)) from None

    return once


class _Once:
    """A connection that is being made, whose failure ends the search."""

    def __init__(self, pending: PendingSocket) -> None:
        self._pending = pending
        self.fileno, self.explain, self.close = pending.fileno, pending.explain, pending.close

    @property
    def wants_write(self) -> bool:
        return self._pending.wants_write

    def advance(self) -> BlockingSocket | None:
        try:
            return self._pending.advance()
        except (ConnectionLost, OSError) as error:
            raise _NoAnswer(str(error)) from None


def _absent(member: Row, asked: dict[str, Row]) -> Row:
    address = member["client_address"]
    error = asked.get(address, {}).get("error", "its client address is not known" if not address else "another answers")
    return {"node": member["name"], "client_address": address, "error": error, "votes": _votes(member)}


def _leader(rows: list[Row]) -> str | None:
    """Whoever says that it leads, in the highest term: an old leader that is cut off steps down in time."""
    leading = [row for row in rows if row.get("role") == "leader"]
    return max(leading, key=lambda row: int(row["term"]))["node"] if leading else None


def _cluster_id(rows: list[Row]) -> str:
    return next(str(row["cluster_id"]) for row in rows if "error" not in row)


# --- showing ---------------------------------------------------------------------------------------------------------

_BROKER_STATS = ("ready", "delayed", "leased")
"""Statistics of a machine that have a column of their own, where the machine is a broker."""


def _print(rows: list[Row], leader: str | None) -> None:
    answering = [row for row in rows if "error" not in row]
    commit = max(row["commit_index"] for row in answering)
    stats = [name for name in _BROKER_STATS if any(name in row["machine_stats"] for row in answering)]
    columns = ["node", "role", "term", "commit", "applied", "lag", "sessions", *stats, "disk", "clients"]
    emit_table(columns, [_cells(row, commit, stats) for row in rows], title=f"cluster {_cluster_id(rows)}")
    _print_versions(answering)
    _print_groups(answering)
    _print_forwarding(answering)
    _print_by_node("machine stat", answering, "machine_stats", stats)
    _print_by_node("counter", answering, "counters")
    for row in answering:
        if row["machine_stats_error"]:
            click.echo(f"\n{row['node']} shows no statistics of its machine: {row['machine_stats_error']}")
    for row in rows:
        for line in _troubles(row):
            click.echo(f"\n{row['node']} {line}")
    if leader is None:
        click.echo(f"\n{_without_leader(rows)}")
    elif sum(map(_is_voter, rows)) > sum(map(_serves, rows)):
        click.echo(f"\n{_margin(rows)}")


def _without_leader(rows: list[Row]) -> str:
    voters = sum(map(_is_voter, rows))
    needed, serving = voters // 2 + 1, sum(map(_serves, rows))
    if serving >= needed:
        return "There is no leader: wait for the election to end."
    return f"There is no leader: {serving} of {_nodes(rows)} do their part, and {needed} must."


def _is_voter(row: Row) -> bool:
    return bool(row["votes"])


def _serves(row: Row) -> bool:
    """Whether the node counts for the majority now."""
    return _is_voter(row) and row.get("role") in ("leader", "follower", "candidate", "precandidate")


def _spare(rows: list[Row]) -> int:
    """How many more nodes may fail before no majority is left."""
    return sum(map(_serves, rows)) - (sum(map(_is_voter, rows)) // 2 + 1)


def _nodes(rows: list[Row]) -> str:
    """How many count, and what they are called where not all of them do."""
    voters = sum(map(_is_voter, rows))
    return f"{voters} nodes" if voters == len(rows) else f"{voters} voters"


def _margin(rows: list[Row]) -> str:
    serving, spare = sum(map(_serves, rows)), _spare(rows)
    begin = f"{serving} of {_nodes(rows)} do their part"
    if spare > 0:
        return f"{begin}: {spare} more may fail before the cluster stops."
    return f"{begin}: when one more fails, no majority is left and the cluster stops until one is back."


def _troubles(row: Row) -> Iterator[str]:
    """What keeps a node from doing its part, in words."""
    if "error" in row:
        yield f"does not answer: {row['error']}"
        return
    if row.get("removed"):
        yield f"was removed from the cluster and takes no part: {row['removed']}; stop it"
        return
    repair, disk, memory = row["repair"], row["disk"], row["memory"]
    differs_from = row["comparison"]["differs_from"]
    refused_by = {member["name"]: member["refusal"] for member in row["members"] if member["refusal"]}
    if refused_by:
        what = "takes no part" if repair.get("missing") else "is not let in everywhere"
        yield f"{what}: {', '.join(refused_by)} refused it: {next(iter(refused_by.values()))}"
    elif repair.get("missing"):
        waiting_for = ", ".join(repair["waiting_for"]) or "nobody"
        yield f"takes no part: it waits for {waiting_for}; missing: {repair['missing']}"
    if row["quarantine"]:
        yield f"is in quarantine: {row['quarantine']}; restart it"
    if differs_from:
        yield f"holds another state than {', '.join(differs_from)}, and no majority says whose is right"
    if row["clock"]["objection"]:
        yield f"does not ask to lead: {row['clock']['objection']}"
    if disk["is_short"]:
        yield f"is short of room: {size(disk['free_bytes'])} are free on its disk"
    if memory["is_short"]:
        used, mark = size(memory["used_bytes"]), size(memory["high_water_bytes"])
        yield f"is short of memory: {used} are used, and the mark is {mark}"
    for reason in (disk["refuses"], memory["refuses"]):
        if row["role"] == "leader" and reason:
            yield f"refuses new messages: {reason}"


def _cells(row: Row, commit: int, stats: list[str]) -> list[object]:
    if "error" in row:
        return [row["node"], "no answer", *["-"] * (6 + len(stats)), row["client_address"] or "-"]
    held = [row["machine_stats"].get(name, "-") for name in stats]
    disk = size(row["log_bytes"] + row["snapshot_bytes"])
    lag = max(0, commit - row["applied_index"])
    indexes = [row["term"], row["commit_index"], row["applied_index"], lag]
    return [row["node"], _role(row), *indexes, row["sessions"], *held, disk, row["client_address"]]


def _role(row: Row) -> str:
    """A follower without a vote is called what the members call it: learner, or joining. One that has not heard yet
    that it is a member is joining."""
    own: Row = next((member for member in row["members"] if member["id"] == row["node_id"]), {})
    return str(row["role"] if _is_voter(row) or row["role"] != "follower" else own.get("role", "joining"))


def _print_groups(answering: list[Row]) -> None:
    """Where there are several: each group as each node sees it."""
    rows = [(row["node"], group) for row in answering for group in row.get("groups", ())]
    if len({group["group"] for _, group in rows}) < 2:
        return
    columns = ["group", "machine", "node", "role", "term", "leader", "commit", "applied", "sessions"]
    keys = ["role", "term", "leader", "commit_index", "applied_index", "sessions"]
    rows.sort(key=lambda found: (found[1]["group"], found[0]))
    cells = [[group["group"], group["machine"], node, *(group[key] for key in keys)] for node, group in rows]
    click.echo()
    emit_table(columns, cells)


def _print_forwarding(answering: list[Row]) -> None:
    """What waits for other groups, as the leader of each group sees it. It knows why it waits."""
    leading = [group for row in answering for group in row.get("groups", ()) if group["role"] == "leader"]
    cells = [
        [group["group"], waiting["group"], waiting["waiting"], waiting["reason"] or "-"]
        for group in sorted(leading, key=lambda one: int(one["group"]))
        for waiting in group.get("forwarding", ())
    ]
    if cells:
        click.echo()
        emit_table(["from_group", "to_group", "waiting", "reason"], cells)


def _print_versions(rows: list[Row]) -> None:
    """What the cluster runs, and which members support more or less."""
    newest = max(rows, key=lambda row: int(row["applied_index"]))
    machine, log = newest["machine_version"], newest["log_version"]
    click.echo(f"\nThe cluster runs machine_version {machine} ({newest['machine']}) and log_version {log}.")
    members = {member["name"]: member for row in rows for member in row["members"] if member["machine_versions"]}
    known = members | {row["node"]: row for row in rows}  # a node knows best what it supports
    columns = {name: (one["machine_versions"], one["log_versions"]) for name, one in known.items()}
    if any(highest != (machine, log) for highest in ((one[1], other[1]) for one, other in columns.values())):
        cells = [
            [kind, *(f"{one[at][0]} to {one[at][1]}" for one in columns.values())]
            for at, kind in enumerate(("machine_version", "log_version"))
        ]
        emit_table(["supported"], cells, names=list(columns))
        click.echo("The leader raises a version when every member supports it and answers.")


def _print_by_node(header: str, rows: list[Row], key: str, shown: Iterable[str] = ()) -> None:
    """One line for each name under `key` that is not shown above, and one column for each node."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row[key]) if name not in shown]
    if names:
        click.echo()
        cells = [[name, *(row[key].get(name, "-") for row in rows)] for name in names]
        emit_table([header], cells, names=[row["node"] for row in rows])
