"""The command line at a cluster that runs another machine than `heap`: one clear error, and nothing is sent to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import pytest

from disheap.cli import asking
from disheap.cli.main import cli
from disheap.cli.processes.local_cluster import free_ports
from tests.cli.command_line import Ended, run
from tests.cli.conftest import Ask
from tests.support.nodes import Cluster

NEED_HEAP = {
    "topic create": ("jobs",),
    "topic info": ("jobs",),
    "topic ls": (),
    "topic edit": ("jobs", "--max-messages", "3"),
    "topic pause": ("jobs",),
    "topic resume": ("jobs",),
    "topic rm": ("jobs", "--yes"),
    "purge": ("jobs", "--yes"),
    "dlq ls": (),
    "dlq show": ("jobs.dead",),
    "dlq replay": ("jobs.dead",),
    "dlq purge": ("jobs.dead", "--yes"),
    "dlq export": ("jobs.dead",),
    "tx ls": (),
    "tx show": ("order-7",),
    "tx commit": ("order-7", "--yes"),
    "tx abort": ("order-7", "--yes"),
    "enqueue": ("jobs", "+1"),
    "pop": ("jobs",),
    "peek": ("jobs",),
    "search": ("jobs",),
    "explain": ("jobs", "1"),
    "export": ("jobs",),
    "import": ("jobs",),
    "sub": ("jobs",),
    "exchange create": ("mail",),
    "exchange ls": (),
    "exchange rm": ("mail",),
    "binding add": ("mail", "jobs"),
    "binding ls": (),
    "binding rm": ("mail", "jobs"),
    "publish": ("mail", "key", "+1"),
    "bench": ("--seconds", "0.1"),
}
NEED_NONE = {
    "demo", "dev", "serve", "status", "transfer", "session end", "session ls", "plugins", "secret new", "backup",
    "restore", "verify", "recover", "cluster transfer", "node ls", "node join", "node leave", "node promote",
    "node demote", "node replace", "node rm", "migrate",
}  # fmt: skip


def verbs(group: click.Group = cli, before: str = "") -> set[str]:
    found: set[str] = set()
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        path = f"{before} {name}".strip()
        found |= verbs(command, path) if isinstance(command, click.Group) else {path}
    return found


def test_every_verb_says_whether_it_needs_the_machine_heap() -> None:
    assert verbs() == NEED_HEAP.keys() | NEED_NONE


async def asked(tmp_path: Path, *words: str, stdin: bytes = b"") -> tuple[Ended, int]:
    """What was said, and what the counter stands at afterwards."""
    peer, client = free_ports(2)
    addresses = [(f"127.0.0.1:{peer}", f"127.0.0.1:{client}")]
    async with Cluster(tmp_path, nodes=1, transport="tcp", machine="counter", addresses=addresses) as cluster:
        await (await cluster.wait_leader()).apply(b"+7")
        url = f"disheap://127.0.0.1:{client}"
        ended = await asyncio.to_thread(run, *words, "--url", url, stdin=stdin)
        return ended, int(await (await cluster.wait_leader()).query(b"total"))


@pytest.mark.parametrize("verb", NEED_HEAP)
async def test_a_verb_of_the_heap_says_that_the_cluster_runs_another_machine(tmp_path: Path, verb: str) -> None:
    """`topic ls` said: Expected `array`, got `int`."""
    ended, total = await asked(tmp_path, *verb.split(), *NEED_HEAP[verb])
    assert (ended.code, ended.out) == (5, b"")
    for words in ("the machine 'counter'", f"disheap {verb}`", "speaks to the machine 'heap'", "opaque=True", "--url"):
        assert words in ended.err
    assert len(ended.err.splitlines()) == 1
    assert total == 7, "nothing was done"


async def test_a_message_from_standard_input_is_not_read_for_another_machine(tmp_path: Path) -> None:
    ended, total = await asked(tmp_path, "enqueue", "jobs", stdin=b"+1")
    assert (ended.code, total) == (5, 7)
    assert "the machine 'counter'" in ended.err


async def test_the_verbs_of_every_machine_work_with_a_counter(tmp_path: Path) -> None:
    for words in (("status",), ("session", "ls"), ("transfer",)):
        ended, _ = await asked(tmp_path / words[0], *words)
        assert "wrong-machine" not in ended.err and "the machine 'heap'" not in ended.err


def test_a_machine_of_another_name_that_knows_what_the_heap_knows_is_served(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "HEAP", "another")
    assert ask("topic", "ls").code == 0
