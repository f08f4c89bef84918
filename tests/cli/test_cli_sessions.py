"""`session ls` and `session end`, against a node that runs in a process of its own."""

from __future__ import annotations

import json

from disheap import sync
from disheap.errors import OutcomeUnknown
from tests.cli.conftest import Ask

KEYS = [
    "session", "label", "address", "principal", "age_ms", "timeout_ms", "attached", "silent_ms", "unconfirmed_replies",
    "machine_stats", "machine_stats_error",
]  # fmt: skip


def test_sessions_are_listed_with_their_labels_and_what_they_hold(ask: Ask, url: str, topic: str) -> None:
    with sync.connect(url, label="mailer") as client:
        client.topic(topic).enqueue(b"x")
        held = client.topic(topic).pop(1)
        (found,) = ask("session", "ls", "--label", "mail", "--json").json["sessions"]
        assert list(found) == KEYS
        assert (found["label"], found["address"], found["attached"]) == ("mailer", "127.0.0.1", True)
        assert found["machine_stats"]["leases"] == len(held) == 1
        header, row = ask("session", "ls", "--label", "mail").text.splitlines()
        assert header.split()[:4] == ["SESSION", "LABEL", "ADDRESS", "PRINCIPAL"]
        assert row.split()[:4] == [str(found["session"]), "mailer", "127.0.0.1", "-"]


def test_the_holder_of_a_leased_message_is_named(ask: Ask, url: str, topic: str) -> None:
    with sync.connect(url, label="mailer") as client:
        client.topic(topic).enqueue(b"x")
        client.topic(topic).pop(1)
        session = client.driver.session_id
        (holder,) = ask("topic", "info", topic, "--json").json["holders"]
        assert (holder["session"], holder["label"], holder["leased"]) == (session, "mailer", 1)
        (message,) = ask("peek", topic, "--leased", "--json").json["messages"]
        assert (message["session"], message["label"], message["consumer"]) == (session, "mailer", holder["consumer"])
        assert ask("topic", "info", topic).text.splitlines()[-1].split()[:2] == [str(session), "mailer"]
        assert ask("peek", topic, "--leased").text.splitlines()[-1].split()[4:6] == [str(session), "mailer"]


def test_sessions_come_in_pages(ask: Ask, url: str) -> None:
    clients = [sync.connect(url, label="paged") for _ in range(3)]
    words = ("session", "ls", "--label", "paged", "--limit", "2")
    first = ask(*words, "--json").json
    assert len(first["sessions"]) == 2 and first["total"] >= 3
    after = str(first["next_after"])
    last = ask(*words, "--after", after, "--json").json
    assert len(last["sessions"]) == 1 and last["next_after"] is None
    assert f"disheap session ls --after {after}" in ask(*words).text
    for client in clients:
        client.close()


def test_an_ended_session_gives_back_what_it_holds_and_its_client_goes_on(ask: Ask, url: str, topic: str) -> None:
    with sync.connect(url, label="stuck") as client:
        client.topic(topic).enqueue(b"x")
        assert client.topic(topic).pop(1)
        (found,) = ask("session", "ls", "--label", "stuck", "--json").json["sessions"]
        number = str(found["session"])
        assert ask("session", "end", number).text == f"session {number} (stuck) is ended\n"
        assert ask("topic", "info", topic, "--json").json["leased"] == 0
        assert ask("session", "ls", "--label", "stuck", "--json").json["sessions"] == []
        try:
            client.topic(topic).enqueue(b"y")
        except OutcomeUnknown:  # it was on its way when the session ended
            client.topic(topic).enqueue(b"y")
        assert ask("topic", "info", topic, "--json").json["ready"] == 2


def test_what_is_wrong_with_a_number_is_said(ask: Ask) -> None:
    ended = ask("session", "end", "99", "--json")
    error = json.loads(ended.err)
    assert (ended.code, error["error"]) == (5, "invalid-argument")
    assert "disheap session ls" in error["message"]
