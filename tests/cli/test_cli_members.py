"""`node ls|join|leave|promote|demote|replace|rm` and `cluster transfer`, against nodes that run in processes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import click
import pytest

from disheap.cli import members
from disheap.cli.cluster import _best_informed, _margin, _role, _troubles
from disheap.cli.main import cli
from disheap.cli.processes.local_cluster import free_ports
from tests.cli.command_line import Ended, Running, logged, ready, run, running

BOUND_S = 20.0
"""For what takes a second on an idle machine."""
QUICK = ("--set", "raft.election_timeout_ms=600", "--set", "raft.heartbeat_ms=100", "--set", "raft.tick_ms=50")
KEYS = [
    "id", "name", "role", "peer_address", "client_address", "is_self", "connected", "refusal", "lag", "match_index",
    "progress", "last_contact_s", "incarnations", "release", "machine_versions", "log_versions", "disk", "groups",
]  # fmt: skip


class Nodes:
    """A founder and the nodes that joined it. Their ports are fixed when they are first named."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.peers: dict[str, int] = {}

    def words(self, name: str, verb: tuple[str, ...]) -> list[str]:
        (self.peers[name],) = free_ports(1)
        listen = ("--peer-listen", f"127.0.0.1:{self.peers[name]}", "--client-listen", "127.0.0.1:0")
        data = str(self.directory / f"{name}-{self.peers[name]}")
        return [*verb, "--name", name, "--data", data, *listen, "--log-json", *QUICK]

    def founder(self) -> Any:
        return running(*self.words("n1", ("serve", "--bootstrap")))

    def joiner(self, name: str, *more: str) -> Any:
        return running(*self.words(name, ("node", "join", f"127.0.0.1:{self.peers['n1']}", *more)))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Nodes:
    return Nodes(tmp_path_factory.mktemp("members"))


@pytest.fixture(scope="module")
def url(nodes: Nodes) -> Iterator[str]:
    with nodes.founder() as founder:
        yield f"disheap://{ready(founder)['clients']}"


def ask(url: str, *words: str, **how: Any) -> Ended:
    return run(*words, environ={"DISHEAP_URL": url}, **how)


def rows(url: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in ask(url, "node", "ls", "--json").json["members"]}


def wait(url: str, holds: Callable[[dict[str, Any]], bool]) -> None:
    over_at = monotonic() + BOUND_S
    while not holds(found := rows(url)):
        assert monotonic() < over_at, found
        sleep(0.05)


def wait_role(url: str, name: str, role: str) -> None:
    wait(url, lambda found: name in found and found[name]["role"] == role)


def refused(ended: Ended, code: str) -> str:
    """The message of an error of the cluster."""
    error = json.loads(ended.err)
    assert (ended.code, error["error"], ended.out) == (5, code, b"")
    return str(error["message"])


PAGE = (Path(__file__).parents[2] / "docs/how-to/change-members.md").read_text()
LINES = re.findall(r"^ *(disheap .*)$", "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)), re.M)
WALK = LINES[: next(place for place, line in enumerate(LINES) if "10.0.0.1" in line)]
"""The commands for one machine. The others have addresses that are not here."""


@pytest.mark.parametrize("line", dict.fromkeys(LINES))
def test_each_command_of_the_how_to_is_one(line: str) -> None:
    found: click.Command = cli
    words = line.split()[1:]
    while isinstance(found, click.Group):
        command = found.get_command(click.Context(found), words.pop(0))
        assert command is not None, line
        found = command
    found.make_context(line, words)


def test_the_commands_of_the_how_to_do_what_it_says(tmp_path: Path) -> None:
    ports = dict(zip(sorted(set(re.findall(r"127\.0\.0\.1:(\d+)", PAGE))), map(str, free_ports(6)), strict=True))
    on = lambda line: re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{ports[found[1]]}", line)  # noqa: E731
    url = on("disheap://127.0.0.1:8401,127.0.0.1:8402,127.0.0.1:8403")
    with ExitStack() as started:
        nodes: list[Running] = []
        for line in WALK:
            words = re.sub(r"--data (\w+)", rf"--data {tmp_path}/\1", on(line)).split()[1:]
            if "--data" in words:
                nodes.append(started.enter_context(running(*words, "--log-json", *QUICK)))
                ready(nodes[-1])
                continue
            if words == ["node", "ls"]:
                _are_shown(url)
            assert ask(url, *words).code == 0, line
        assert set(rows(url)) == {"n1", "n2"}
        assert logged(nodes[2], _REMOVED)["node"] == "n3"
    assert len(nodes) == 3 and {"leave", "demote", "promote", "transfer"} <= {
        word for line in WALK for word in line.split()
    }


def _are_shown(url: str) -> None:
    for name in ("n1", "n2", "n3"):
        wait_role(url, name, "voter")
    wait(url, lambda found: all(row["disk"] for row in found.values()))  # nodes tell each other once a second
    wait(url, lambda found: all(row["lag"] == 0 for row in found.values()))
    row = rows(url)["n2"]
    assert set(KEYS) <= set(row)
    assert row["last_contact_s"] < BOUND_S and row["incarnations"] and row["disk"]["free_bytes"] > 0
    header, first, second, _ = ask(url, "node", "ls").text.splitlines()
    assert header.split()[:4] == ["NODE", "ID", "ROLE", "LAG"]
    assert (first.split()[:3], second.split()[:3]) == (["n1", "1", "voter"], ["n2", "2", "voter"])


def test_what_cannot_be_done_is_refused_and_changes_nothing(url: str) -> None:
    assert "n1" in refused(ask(url, "node", "rm", "n9", "--json"), "unknown-member")
    assert "n1" in refused(ask(url, "node", "leave", "n9", "--json"), "unknown-member")
    for verb in ("rm", "demote", "leave"):
        assert "no voter" in refused(ask(url, "node", verb, "n1", "--json"), "last-voter")
    assert {name: row["role"] for name, row in rows(url).items()} == {"n1": "voter"}


_REMOVED = "this node was removed from the cluster, and takes no part any more"


def test_a_node_that_is_gone_is_replaced_under_its_name_with_another_id(nodes: Nodes, url: str) -> None:
    with nodes.joiner("n3", "--learner") as joiner:
        ready(joiner)
        wait_role(url, "n3", "learner")
        before = rows(url)["n3"]["id"]
        status = ask(url, "status", "--json").json
        assert [row["votes"] for row in status["nodes"]] == [True, False] and status["failures_tolerated"] == 0
        while "learner" not in (text := ask(url, "status").text):
            assert "joining" in text, "it has not heard yet that it is a member"
        assert "disheap node rm n3" in refused(ask(url, "node", "replace", "n3", "--json"), "member-alive")
    said = ask(url, "node", "replace", "n3", "--force", "--yes").text
    assert f"n3 (id {before}) is removed" in said and "disheap node join HOST:8300,... --name n3 --data DIR" in said
    with nodes.joiner("n3") as joiner:
        ready(joiner)
        wait_role(url, "n3", "voter")
        assert rows(url)["n3"]["id"] > before
        ask(url, "node", "leave", "n3")


def test_force_says_what_it_risks_and_asks(url: str) -> None:
    for words in (("promote", "n7"), ("demote", "n7"), ("rm", "n7"), ("replace", "n7")):
        ended = ask(url, "node", *words, "--force")
        assert ended.code == 2 and "n7" in ended.err and "insist with --force --yes" in ended.err
        ended = ask(url, "node", *words, "--force", stdin=b"n\n", terminal=True)
        assert ended.code == 130 and "Go on?" in ended.err
    assert "--yes answers the question that --force asks" in ask(url, "node", "rm", "n7", "--yes").err


@pytest.mark.parametrize("op", members._RISKS)
def test_each_risk_names_the_node_and_is_one_line(op: str) -> None:
    risk = members._RISKS[op].format(node="n7")
    assert "n7" in risk and "{" not in risk and "\n" not in risk


# --- what `status` makes of members that do not vote -----------------------------------------------------------------


def row(name: str, role: str, votes: bool = True, **more: Any) -> dict[str, Any]:
    return {"node": name, "node_id": int(name[1:]), "role": role, "votes": votes, "members": [], **more}


def test_only_voters_count_for_the_margin() -> None:
    learners = [row("n4", "follower", False), row("n5", "follower", False)]
    voters = [row("n1", "leader"), row("n2", "follower"), row("n3", "quarantined")]
    assert _margin([*voters, *learners]).startswith("2 of 3 voters do their part: when one more fails")


def test_a_follower_without_a_vote_is_shown_as_what_it_is() -> None:
    known = [{"id": 2, "role": "joining"}]
    assert _role(row("n2", "follower", False, members=known)) == "joining"
    assert _role(row("n2", "repairing", False, members=known)) == "repairing"
    assert _role(row("n2", "follower", True, members=[{"id": 2, "role": "voter"}])) == "follower"


def test_who_is_a_member_is_said_by_the_leader_and_not_by_a_removed_node() -> None:
    removed = row("n3", "follower", term=9, commit_index=900)
    leader = row("n1", "leader", term=3, commit_index=40)
    assert _best_informed([removed, leader]) is leader
    behind = row("n2", "follower", term=3, commit_index=30)
    assert _best_informed([behind, row("n4", "follower", term=3, commit_index=31)])["node"] == "n4"


def test_a_removed_node_that_runs_is_named() -> None:
    (line,) = _troubles(row("n3", "removed", False, removed="n1 says so"))
    assert "was removed from the cluster" in line and "n1 says so" in line and "stop it" in line
