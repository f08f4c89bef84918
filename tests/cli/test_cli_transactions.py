"""`tx ls`, `tx show`, `tx commit` and `tx abort`, against a node that runs in a process of its own."""

from __future__ import annotations

import json
import uuid

import pytest

from disheap import sync
from disheap.errors import InvalidArgument
from disheap.protocol import broker
from tests.cli.command_line import run, running
from tests.cli.conftest import Ask


def prepared(client: sync.Client, topic: str, timeout_ms: int = 0) -> str:
    """A transaction with an enqueue and an ack."""
    name = f"order-{uuid.uuid4().hex[:8]}"
    client.topic(topic).enqueue(b"in")
    (delivery,) = client.topic(topic).pop()
    items = [broker.Enqueue(topic, broker.NewMessage(b"out")), broker.Ack([delivery.token])]
    client.driver.request(broker.Prepare(name, 3, timeout_ms, items))
    return name


def test_transactions_are_listed_and_shown_until_they_are_decided(ask: Ask, url: str, topic: str) -> None:
    with sync.connect(url) as client:
        name = prepared(client, topic, 600_000)
        (found,) = [one for one in ask("tx", "ls", "--json").json["transactions"] if one["transaction"] == name]
        assert (found["epoch"], found["session"], found["messages"], found["bytes"], found["frozen"]) == (
            3, client.driver.session_id, 1, 3, 1,
        )  # fmt: skip
        assert found["deadline_ms"] - found["prepared_ms"] == 600_000
        header, *rows = ask("tx", "ls").text.splitlines()
        assert header.split()[:3] == ["TRANSACTION", "EPOCH", "SESSION"]
        assert [row.split()[1] for row in rows if row.startswith(name)] == ["3"]
        assert ask("tx", "show", name, "--json").json == found | {"state": "prepared"}
        client.driver.request(broker.Commit(name, 3))
        assert ask("tx", "show", name, "--json").json == {"transaction": name, "state": "committed"}
        assert "committed" in ask("tx", "show", name).text
        ended = ask("tx", "abort", name, "--yes")
        assert ended.code == 5 and "is committed already; nothing was done" in ended.err


def test_transactions_come_in_pages(ask: Ask, url: str, topic: str) -> None:
    with sync.connect(url) as client:
        names = [prepared(client, topic) for _ in range(2)]
        page = ask("tx", "ls", "--limit", "1")
        assert "disheap tx ls --skip 1" in page.text
        total = ask("tx", "ls", "--json").json["total"]
        last = ask("tx", "ls", "--skip", str(total - 1), "--json").json["transactions"]
        assert [one["transaction"] for one in last] == names[1:]
        for name in names:
            client.driver.request(broker.Abort(name, 3))


def test_an_operator_aborts_a_transaction(ask: Ask, url: str, topic: str) -> None:
    with sync.connect(url) as client:
        name = prepared(client, topic)
        refused = ask("tx", "abort", name)
        assert refused.code == 2 and "holds 1 messages, which would be lost; insist with --yes" in refused.err
        done = ask("tx", "abort", name, "--yes", "--json").json
        assert done == {"transaction": name, "epoch": 3, "messages": 1, "frozen": 1}
        assert client.topic(topic).stats().ready == 1, "what was frozen is back"


def test_an_operator_commits_a_transaction(ask: Ask, url: str, topic: str) -> None:
    with sync.connect(url) as client:
        name = prepared(client, topic)
        refused = ask("tx", "commit", name)
        assert refused.code == 2 and "holds 1 messages, which would be enqueued; insist with --yes" in refused.err
        done = ask("tx", "commit", name, "--yes", "--json").json
        assert done == {"transaction": name, "epoch": 3, "messages": 1, "frozen": 1}
        assert client.topic(topic).stats().ready == 1, "the frozen message is gone, and the other one is there"


def test_a_participant_is_decided_by_force_alone() -> None:
    items = [broker.Enqueue("jobs", broker.NewMessage(b"out"))]
    with running("dev", "--port", "0", "--json", "--set", "groups=2") as node:
        url = json.loads(node.out.next())["broker_url"]
        mine = (url, f"{url}?group=1")
        with sync.connect(mine[0]) as first, sync.connect(mine[1]) as second:
            for client in (first, second):
                client.create_topic("jobs")
            first.driver.request(broker.Prepare("a", 1, 600_000, items, [1]))
            second.driver.request(broker.Prepare("a", 1, 0, items, coordinator=0))
            rows = [run("tx", "ls", "--url", one).text.splitlines()[1] for one in mine]
            assert rows[0].endswith("tells 1") and rows[1].endswith("told by 0")
            (found,) = run("tx", "ls", "--url", mine[1], "--json").json["transactions"]
            assert (found["participants"], found["coordinator"]) == ([], 0)
            for word in ("commit", "abort"):
                refused = run("tx", word, "a", "--yes", "--url", mine[1])
                assert refused.code == 2 and "group 0 decides a, and tells this one" in refused.err
            refused = run("tx", "commit", "a", "--yes", "--url", mine[0])
            assert refused.code == 2 and "a takes part in the groups 1, too" in refused.err
            with pytest.raises(InvalidArgument, match="group 0 decides transaction 'a'"):
                second.driver.request(broker.Commit("a", 1))
            assert second.stats().transactions == 1
            done = run("tx", "abort", "a", "--yes", "--url", mine[0])
            assert done.code == 0, done.err
            while second.stats().transactions:
                pass
            assert second.transaction_outcome("a") == first.transaction_outcome("a") == "aborted"
            second.driver.request(broker.Prepare("b", 1, 0, items, coordinator=0))
            assert run("tx", "abort", "b", "--yes", "--force", "--url", mine[1]).code == 0
            assert second.transaction_outcome("b") == "aborted"
            second.driver.request(broker.Prepare("c", 1, 0, items, coordinator=0))
            assert run("tx", "commit", "c", "--yes", "--force", "--url", mine[1]).code == 0
            assert second.transaction_outcome("c") == "committed"


def test_an_unknown_transaction_is_an_error(ask: Ask) -> None:
    for words in (("tx", "show", "nothing"), ("tx", "commit", "nothing", "--yes"), ("tx", "abort", "nothing", "--yes")):
        ended = ask(*words)
        assert ended.code == 5 and "there is no transaction 'nothing'; `disheap tx ls` shows" in ended.err
