"""`disheap topic edit|pause|resume`, and the calls of the clients behind them, against a node of its own."""

from __future__ import annotations

import asyncio

import pytest

import disheap
from disheap import sync
from disheap.errors import TopicMismatch, TopicPaused
from tests.cli.conftest import Ask


def test_an_edit_shows_the_difference_and_a_dry_run_changes_nothing(ask: Ask, topic: str) -> None:
    words = ("topic", "edit", topic, "--max-messages", "7", "--overflow", "drop")
    dry = ask(*words, "--dry-run")
    assert dry.code == 1
    assert dry.text.splitlines() == [
        "- max_messages = 0",
        "+ max_messages = 7",
        "- overflow = 'reject'",
        "+ overflow = 'drop'",
    ]
    assert ask("topic", "info", topic, "--json").json["max_messages"] == 0
    done = ask(*words, "--json")
    assert (done.code, done.json["revision"], done.json["changes"]["max_messages"]) == (0, 2, {"old": 0, "new": 7})
    assert ask(*words, "--dry-run").code == 0, "no difference is left"
    assert ask("topic", "edit", topic, "--max-messages", "8", "--revision", "1").code == 5
    assert ask("topic", "edit", topic, "--dead-letter-topic", topic).code == 5
    assert ask("topic", "edit", topic).code == 2


def test_a_topic_is_paused_and_goes_on(ask: Ask, topic: str) -> None:
    assert ask("topic", "pause", topic, "--json").json == {"topic": topic, "paused": "both"}
    refused = ask("enqueue", topic, "x")
    assert refused.code == 5
    assert f"disheap topic resume {topic}" in refused.err
    assert ask("topic", "resume", topic, "--enqueues").text == f"topic {topic}: paused: deliveries\n"
    assert ask("enqueue", topic, "x").code == 0
    assert ask("pop", topic).code == 9
    rows = ask("topic", "ls", "--prefix", topic, "--json").json["topics"]
    assert [one["paused"] for one in rows] == ["deliveries"]
    ask("topic", "resume", topic)
    assert ask("pop", topic).code == 0


def test_both_clients_change_and_pause_a_topic(url: str, topic: str) -> None:
    with sync.connect(url) as client:
        assert client.update_topic(topic, max_messages=3).revision == 2
        client.set_paused(topic, enqueues=True)
        with pytest.raises(TopicPaused):
            client.topic(topic).enqueue(b"x")

    async def again() -> None:
        async with disheap.connect(url) as client:
            with pytest.raises(TopicMismatch):
                await client.update_topic(topic, revision=1, max_messages=4)
            assert (await client.update_topic(topic, revision=2, max_messages=4)).revision == 3
            await client.set_paused(topic, enqueues=False)
            await client.topic(topic).enqueue(b"x")

    asyncio.run(again())


def test_explain_says_that_a_topic_is_paused(ask: Ask, topic: str) -> None:
    assert ask("enqueue", topic, "x").code == 0
    (number,) = [one["id"] for one in ask("search", topic, "--json").json["messages"]]
    ask("topic", "pause", topic, "--deliveries")
    assert "deliveries of the topic are paused" in ask("explain", topic, str(number)).text
    assert ask("explain", topic, str(number), "--json").json["deliveries_paused"]
    ask("topic", "resume", topic)
    assert "are paused" not in ask("explain", topic, str(number)).text
