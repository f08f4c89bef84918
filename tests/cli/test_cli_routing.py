"""`exchange`, `binding`, `publish` and `sub`, against a node that runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from disheap import sync
from tests.cli.conftest import Ask


@pytest.fixture
def exchange(ask: Ask, topic: str) -> Iterator[str]:
    name = f"{topic}.exchange"
    ask("exchange", "create", name, "--kind", "topic")
    yield name
    ask("exchange", "rm", name)


def listed(ask: Ask, exchange: str) -> list[tuple[str, str, dict[str, object]]]:
    found = ask("binding", "ls", "--exchange", exchange, "--json").json["bindings"]
    assert all(list(one) == ["exchange", "topic", "routing_key", "arguments"] for one in found)
    return [(one["topic"], one["routing_key"], one["arguments"]) for one in found]


def test_an_exchange_is_created_listed_with_its_bindings_and_removed(ask: Ask, topic: str) -> None:
    name, other = f"{topic}.e", f"{topic}.other"
    made = ask("exchange", "create", name, "--kind", "fanout", "--alternate", other, "--json").json
    assert made == {"exchange": name, "kind": "fanout", "auto_delete": False, "alternate": other}
    assert ask("exchange", "create", name, "--kind", "fanout", "--alternate", other).code == 0
    ask("binding", "add", name, topic)
    rows = [one for one in ask("exchange", "ls", "--json").json["exchanges"] if one["exchange"] == name]
    assert rows == [{"exchange": name, "kind": "fanout", "bindings": 1, "alternate": other}]
    assert name in ask("exchange", "ls").text
    assert ask("exchange", "rm", name, "--if-unused").code == 5
    assert ask("exchange", "rm", name).text == f"exchange {name} is removed, and 1 binding with it\n"
    assert ask("topic", "info", topic).code == 0


def test_the_exchange_without_a_name_is_not_removed(ask: Ask, topic: str, exchange: str) -> None:
    ask("binding", "add", exchange, topic)
    ended = ask("exchange", "rm", "")
    assert ended.code == 2 and "an exchange's name has 1 to 255 characters" in ended.err


def test_an_exchange_of_another_kind_is_a_mismatch(ask: Ask, exchange: str) -> None:
    ended = ask("exchange", "create", exchange, "--kind", "direct", "--json")
    assert (ended.code, json.loads(ended.err)["error"]) == (5, "exchange-mismatch")


def test_a_binding_is_added_once_listed_and_removed(ask: Ask, topic: str, exchange: str) -> None:
    for _ in range(2):
        assert ask("binding", "add", exchange, topic, "--routing-key", "mail.#").code == 0
    assert listed(ask, exchange) == [(topic, "mail.#", {})]
    assert "mail.#" in ask("binding", "ls", "--topic", topic).text
    assert ask("binding", "ls", "--topic", f"{topic}.none", "--json").json == {"bindings": []}
    assert ask("binding", "rm", exchange, topic, "--routing-key", "mail.*").code == 0
    assert listed(ask, exchange) == [(topic, "mail.#", {})]
    assert ask("binding", "rm", exchange, topic, "--routing-key", "mail.#").code == 0
    assert listed(ask, exchange) == []


def test_a_binding_of_a_headers_exchange_has_arguments(ask: Ask, topic: str) -> None:
    name = f"{topic}.headers"
    ask("exchange", "create", name, "--kind", "headers")
    words = ("--argument", "x-match=any", "--argument", "tenant=blue")
    assert ask("binding", "add", name, topic, *words).code == 0
    assert listed(ask, name) == [(topic, "", {"tenant": "blue", "x-match": "any"})]
    assert ask("publish", name, "", "x", "--header", "tenant=blue", "--json").json["topics"] == 1
    assert ask("publish", name, "", "x", "--header", "tenant=red").code == 9
    assert ask("binding", "rm", name, topic, *words).code == 0
    ask("exchange", "rm", name)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--argument", "tenant"), "'tenant' is no argument; write NAME=VALUE"),
        (("--argument", "a=1", "--argument", "a=2"), "'a' is given twice"),
    ],
)
def test_wrong_arguments_of_a_binding_are_refused(
    ask: Ask, topic: str, exchange: str, words: tuple[str, ...], says: str
) -> None:
    ended = ask("binding", "add", exchange, topic, *words)
    assert ended.code == 2
    assert says in ended.err
    assert listed(ask, exchange) == []


def test_arguments_for_another_kind_of_exchange_are_refused(ask: Ask, topic: str, exchange: str) -> None:
    ended = ask("binding", "add", exchange, topic, "--argument", "tenant=blue")
    assert ended.code == 5
    assert "only those of a headers exchange have" in ended.err


def test_a_message_is_published_by_its_key_and_one_for_nobody_says_so(ask: Ask, topic: str, exchange: str) -> None:
    ask("binding", "add", exchange, topic, "--routing-key", "mail.#")
    published = ask("publish", exchange, "mail.now", "hurry", "--priority", "7", "--key", "ada")
    assert published.text == "the message is in 1 topic\n"
    peeked = ask("peek", topic, "--json").json["messages"][0]
    assert (peeked["payload"], peeked["priority"], peeked["key"]) == ("hurry", 7, "ada")
    ended = ask("publish", exchange, "post.now", "hurry", "--json")
    assert (ended.code, json.loads(ended.text)["topics"]) == (9, 0)
    assert ask("publish", exchange, "mail.now", stdin=b"from a pipe").code == 0
    assert [one["payload"] for one in ask("peek", topic, "--json").json["messages"]] == ["hurry", "from a pipe"]


def test_a_publish_to_an_unknown_exchange_says_what_to_do(ask: Ask, topic: str) -> None:
    ended = ask("publish", f"{topic}.none", "key", "x")
    assert ended.code == 5
    assert "create it first" in ended.err


def test_sub_prints_and_acknowledges_until_it_has_enough(ask: Ask, topic: str) -> None:
    for number in range(3):
        ask("enqueue", topic, f"m{number}")
    assert ask("sub", topic, "--count", "2").text == "m0\nm1\n"
    assert ask("topic", "info", topic, "--json").json["ready"] == 1
    lines = ask("sub", topic, "--idle", "300ms", "--json").text.splitlines()
    assert [json.loads(line)["payload"] for line in lines] == ["m2"]
    assert json.loads(lines[0])["topic"] == topic
    assert ask("topic", "info", topic, "--json").json["ready"] == 0


def test_sub_that_gives_back_leaves_every_message(ask: Ask, topic: str) -> None:
    for number in range(3):
        ask("enqueue", topic, f"m{number}")
    assert ask("sub", topic, "--nack", "--count", "2").text == "m0\nm1\n"
    assert ask("topic", "info", topic, "--json").json["ready"] == 3
    ended = ask("sub", topic, "--nack")
    assert ended.code == 2
    assert "say how many with --count" in ended.err


def test_sub_prints_what_comes_later_and_ends_with_its_topic(url: str, topic: str) -> None:
    command = [sys.executable, "-m", "disheap", "sub", topic, "--url", url]
    with (
        sync.connect(url) as client,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        client.topic(topic).enqueue(b"the first")
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "the first\n"
        client.topic(topic).enqueue(b"the second")
        assert process.stdout.readline() == "the second\n"
        while client.topic(topic).stats().leased:
            pass  # it is acknowledged after it was printed
        client.delete_topic(topic)
        assert process.wait(20) == 0
        assert "has no more messages" in process.stderr.read()
