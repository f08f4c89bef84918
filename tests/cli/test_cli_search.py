"""`disheap search`, against a node that runs in a process of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from disheap import sync
from disheap.cli.looking.filters import parse
from tests.cli.conftest import Ask

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "filters.md"


@pytest.fixture
def filled(ask: Ask, topic: str, url: str) -> str:
    """A message that is leased, one that is delayed, and two that are ready."""
    with sync.connect(url) as client:
        jobs = client.topic(topic)
        jobs.enqueue(b"urgent", priority=9, headers={"shop": "north"})
        jobs.enqueue(b"later", delay_ms=3_600_000)
        jobs.enqueue(b"first", priority=5, key="customer 1")
        jobs.enqueue(b"second", priority=-5)
    return topic


def found(ask: Ask, topic: str, *words: str) -> list[str]:
    return [one["payload"] for one in ask("search", topic, *words, "--json").json["messages"]]


def test_messages_are_found_in_the_order_of_their_ids(ask: Ask, filled: str) -> None:
    shown = ask("search", filled, "--json").json
    assert (shown["topic"], shown["looked_at"]) == (filled, 4)
    assert [one["payload"] for one in shown["messages"]] == ["urgent", "later", "first", "second"]
    assert [one["state"] for one in shown["messages"]] == ["ready", "delayed", "ready", "ready"]
    assert {one["task"] for one in shown["messages"]} == {None}


@pytest.mark.parametrize(
    ("where", "payloads"),
    [
        ("priority > 0", ["urgent", "first"]),
        ("state = delayed and due > 50m", ["later"]),
        ("header.shop = north or key ~ customer", ["urgent", "first"]),
        ('payload ~ "s" and not exists key', ["second"]),
    ],
)
def test_a_filter_says_which_are_found(ask: Ask, filled: str, where: str, payloads: list[str]) -> None:
    assert found(ask, filled, "--where", where) == payloads


def test_a_leased_message_shows_who_holds_it(ask: Ask, filled: str, url: str) -> None:
    with sync.connect(url + "?label=billing") as client:
        (held,) = client.topic(filled).pop()
        (row,) = ask("search", filled, "--where", "state = leased", "--json").json["messages"]
        assert (row["payload"], row["label"], row["session"] > 0) == ("urgent", "billing", True)
        assert "billing" in ask("search", filled, "--where", "attempts = 1").text
        held.ack()


def test_a_search_ends_when_it_has_found_enough(ask: Ask, filled: str) -> None:
    ended = ask("search", filled, "--where", "state = ready", "--count", "2")
    assert ended.code == 0 and "second" not in ended.text
    assert "--count 2 was reached after 3 messages" in ended.err


def test_a_search_that_finds_nothing_says_how_many_it_looked_at(ask: Ask, filled: str) -> None:
    ended = ask("search", filled, "--where", "priority > 9")
    assert (ended.code, ended.text) == (9, "")
    assert f"none of 4 messages in {filled} is like that" in ended.err
    assert ask("search", filled, "--where", "priority > 9", "--json").json["messages"] == []


def test_a_long_search_shows_how_far_it_is(ask: Ask, topic: str, url: str) -> None:
    with sync.connect(url) as client:
        for _ in range(3):
            client.topic(topic).enqueue_many([b"x"] * 10_000)
    ended = ask("search", topic, "--where", "priority = 1")
    assert ended.code == 9 and "messages: 0 of 30000" in ended.err
    assert ask("search", topic, "--where", "priority = 1", "--json").err == ""


def test_a_wrong_filter_is_shown_with_a_mark_under_the_place(ask: Ask, topic: str) -> None:
    ended = ask("search", topic, "--where", "state = ready and priority > high")
    filter_line, mark, said = ended.err.splitlines()
    assert ended.code == 2
    assert filter_line[mark.index("^") :] == "high"
    assert said.startswith("disheap: --where, character 30: expected a number, not 'high'; ")
    told = json.loads(ask("search", topic, "--where", "id", "--json").err)
    assert told["error"] == "usage" and "character 3" in told["message"]


def test_a_message_is_explained_in_each_state(ask: Ask, filled: str, url: str) -> None:
    ids = {one["payload"]: one["id"] for one in ask("search", filled, "--json").json["messages"]}

    def explained(payload: str) -> str:
        return ask("explain", filled, str(ids[payload])).text

    assert "ready: 2 of 3 ready messages are ahead of it\n  the topic has no consumer" in explained("second")
    assert "ready: the next one" in explained("urgent")
    assert "priority 0, enqueued" in explained("later") and "delayed: it is due in 59 min" in explained("later")
    with sync.connect(url + "?label=billing") as client:
        (held,) = client.topic(filled).pop(lease_ms=600_000)
        assert "(billing) holds it until" in explained("urgent") and "1 attempt\n" in explained("urgent")
        shown = ask("explain", filled, str(held.id), "--json").json
        assert (shown["state"], shown["connected"], shown["message"]["payload"]) == ("leased", True, "urgent")
        held.ack()
    with sync.connect(url) as client, client.topic(filled).consume(credit=1) as consumer:
        next(consumer)
        assert "1 consumer, and none can take more now" in explained("second")


def test_a_message_that_is_gone_is_not_explained(ask: Ask, topic: str) -> None:
    ended = ask("explain", topic, "17")
    assert ended.code == 9 and "is not there: it was acknowledged, dropped, expired or moved" in ended.text
    assert ask("explain", topic, "17", "--json").json["state"] is None


def test_a_topic_that_is_not_there_is_named(ask: Ask) -> None:
    ended = ask("search", "nowhere")
    assert ended.code == 5 and "there is no topic 'nowhere'" in ended.err


def test_a_task_of_celery_shows_its_name_and_its_arguments(ask: Ask, topic: str, url: str) -> None:
    celery = pytest.importorskip("celery")
    with celery.Celery("shop", broker=url, set_as_current=False) as app:
        sent = app.send_task("shop.pay", (17,), {"fast": True}, queue=topic, priority=3)
    (row,) = ask("search", topic, "--where", "task = shop.pay and task_args ~ 17", "--json").json["messages"]
    assert (row["task"]["id"], row["task"]["kwargsrepr"], row["priority"]) == (sent.id, "{'fast': True}", 3)
    for verb in ("search", "peek"):
        shown = ask(verb, topic).text
        assert all(text in shown for text in ("shop.pay", sent.id, "(17,) {'fast': True}"))


def test_every_filter_on_the_page_can_be_read() -> None:
    examples = re.findall(r"^    disheap search .*--where '(.*)'$", PAGE.read_text(), re.MULTILINE)
    assert len(examples) > 5
    for example in examples:
        assert callable(parse(example))
