"""`disheap dlq`, against a node that runs in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from disheap import sync
from tests.cli.conftest import Ask


@pytest.fixture
def client(url: str) -> Iterator[sync.Client]:
    with sync.connect(url) as connected:
        yield connected
        for one in connected.topics():
            connected.delete_topic(one.topic)


def die(client: sync.Client, *payloads: bytes, jobs: str = "mail", **settings: object) -> None:
    """Enqueues messages, and discards them in the order of delivery."""
    topic = client.create_topic(jobs, dead_letter_topic=f"{jobs}.dead", **settings)  # type: ignore[arg-type]
    for priority, payload in enumerate(payloads):
        topic.enqueue(payload, priority, headers={"n": priority}, key="k")
    for one in topic.pop(len(payloads)):
        one.nack(discard=True, error=f"no {one.payload.decode(errors='replace')}")


def test_dead_letters_are_listed_and_shown(ask: Ask, client: sync.Client) -> None:
    die(client, b"one", b"two")
    listed = ask("dlq", "ls", "--json").json["topics"]
    assert [(one["topic"], one["ready"], one["origins"]) for one in listed] == [("mail.dead", 2, ["mail"])]
    assert "mail.dead" in ask("dlq", "ls").text
    shown = ask("dlq", "show", "mail.dead", "--json").json["messages"]
    assert [(one["payload"], one["death"]["reason"], one["death"]["error"]) for one in shown] == [
        ("two", "rejected", "no two"),
        ("one", "rejected", "no one"),
    ]
    assert "rejected" in ask("dlq", "show", "mail.dead", "--count", "1").text


def test_an_exchange_of_dead_letters_is_listed(ask: Ask, client: sync.Client) -> None:
    client.create_topic("work", dead_letter_exchange="dlx")
    assert ask("dlq", "ls", "--json").json["exchanges"] == [{"exchange": "dlx", "origins": ["work"]}]
    assert "exchange dlx" in ask("dlq", "ls").text


def test_dead_letters_are_replayed_to_where_they_came_from(ask: Ask, client: sync.Client) -> None:
    die(client, b"one", b"two", b"three")
    dry = ask("dlq", "replay", "mail.dead", "--dry-run", "--json").json
    assert dry == {"topic": "mail.dead", "replayed_messages": {"mail": 3}, "kept_messages": 0, "dry_run": True}
    assert [one.attempts for one in client.topic("mail.dead").peek(9)] == [0, 0, 0], "a look does not count"
    done = ask("dlq", "replay", "mail.dead", "--count", "2", "--priority", "7", "--rate", "50", "--json").json
    assert (done["replayed_messages"], done["kept_messages"]) == ({"mail": 2}, 0)
    (first, second) = client.topic("mail").peek(9)
    assert (first.payload, first.priority, first.headers, first.key) == (b"three", 7, {"n": 2}, "k")
    assert (second.payload, second.attempts) == (b"two", 0)
    ended = ask("dlq", "replay", "mail.dead")
    assert ended.text == "1 message went to mail\n"
    assert client.topic("mail").peek(9)[-1].priority == 0, "its own"
    assert ask("dlq", "replay", "mail.dead").text == "0 messages stayed in mail.dead\n"


def test_what_is_not_chosen_stays(ask: Ask, client: sync.Client) -> None:
    die(client, b"one")
    client.topic("mail.dead").enqueue(b"by hand")
    done = ask("dlq", "replay", "mail.dead", "--reason", "expired", "--json").json
    assert (done["replayed_messages"], done["kept_messages"]) == ({}, 2)
    done = ask("dlq", "replay", "mail.dead", "--json").json
    assert (done["replayed_messages"], done["kept_messages"]) == ({"mail": 1}, 1)
    client.create_topic("other")
    assert ask("dlq", "replay", "mail.dead", "--to", "other", "--json").json["replayed_messages"] == {"other": 1}


def test_a_topic_that_refuses_ends_a_replay_and_loses_nothing(ask: Ask, client: sync.Client) -> None:
    die(client, b"one", b"two")
    client.delete_topic("mail")
    ended = ask("dlq", "replay", "mail.dead", "--json")
    assert ended.code == 5
    error = json.loads(ended.err.splitlines()[-1])
    assert error["error"] == "topic-not-found" and "0 messages went before" in error["message"]
    assert client.topic("mail.dead").stats().ready == 2


def test_dead_letters_are_exported_as_lines_and_stay(ask: Ask, client: sync.Client) -> None:
    die(client, b"one", b"\xff\n")
    lines = [json.loads(line) for line in ask("dlq", "export", "mail.dead").text.splitlines()]
    assert [one.get("payload") or one["payload_base64"] for one in lines] == ["/wo=", "one"]
    assert (lines[1]["headers"], lines[1]["key"], lines[1]["death"]["topic"]) == ({"n": 0}, "k", "mail")
    assert len(ask("dlq", "export", "mail.dead", "--count", "1").text.splitlines()) == 1
    (one,) = ask(
        "dlq", "export", "mail.dead", "--where", "payload = one and exists header.disheap-death-reason"
    ).text.splitlines()
    assert json.loads(one)["payload"] == "one"
    assert [one.attempts for one in client.topic("mail.dead").peek(9)] == [0, 0]


def test_dead_letters_are_purged(ask: Ask, client: sync.Client) -> None:
    die(client, b"one")
    assert ask("dlq", "purge", "mail.dead", "--yes").text == "1 message purged from mail.dead\n"


def test_a_limit_without_a_place_for_dead_letters_is_noted(ask: Ask) -> None:
    assert "will be dropped" in ask("topic", "create", "limited", "--delivery-limit", "3").err
    ended = ask("topic", "create", "kept", "--delivery-limit", "3", "--dead-letter-topic", "kept.dead")
    assert ended.err == ""
    found = ask("topic", "info", "kept").text
    assert "topic kept.dead" in found and "delivery limit" in found
