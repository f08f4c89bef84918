"""`disheap export` and `import`: nothing is lost on the way, and a damaged file changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from disheap import sync
from disheap.cli.files.lines import BadLine, read, written
from disheap.protocol.broker import DURATION_MAX_MS, NewMessage, PeekedMessage, encode_headers
from tests.cli.conftest import Ask

HEADERS = some.dictionaries(
    some.text(min_size=1, max_size=20),
    some.one_of(
        some.text(max_size=20),
        some.integers(-(1 << 63), (1 << 63) - 1),
        some.floats(),
        some.booleans(),
        some.binary(max_size=20),
    ),
    max_size=5,
)
UNDER_WAY_MS = 30_000
"""A time is sent as the time until then, so it is later by what the command takes."""
PRIORITIES = some.integers(-(1 << 63), (1 << 63) - 1)
TIMES = some.one_of(some.just(0), some.integers(1, DURATION_MAX_MS))


def same(one: Any, other: Any) -> bool:
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


@given(some.binary(max_size=50), PRIORITIES, HEADERS, some.text(max_size=20), TIMES, TIMES)
def test_a_message_comes_back_from_its_line(
    payload: bytes, priority: int, headers: dict[str, Any], key: str, due_ms: int, expires_at_ms: int
) -> None:
    encoded = encode_headers(headers)
    message = PeekedMessage(7, priority, 3, 5, "ready", due_ms, payload, encoded, key, 0, 0, expires_at_ms)
    text = written(message)
    assert text.isprintable() and text.isascii()
    line = read(text)
    assert (line.new.payload, line.new.priority, line.new.key) == (payload, priority, key)
    assert (line.due_ms, line.expires_at_ms) == (due_ms, expires_at_ms)
    assert list(line.new.headers) == list(headers)
    assert all(same(line.new.headers[name], value) for name, value in headers.items())


@pytest.mark.parametrize(
    ("now_ms", "expected"),
    [
        (1000, NewMessage(b"x", 0, 500, 1000)),
        (1500, NewMessage(b"x", 0, 0, 500)),
        (1999, NewMessage(b"x", 0, 0, 1)),
        (2000, None),
    ],
)
def test_times_count_from_the_moment_of_the_import(now_ms: int, expected: NewMessage | None) -> None:
    assert read('{"payload": "x", "due_ms": 1500, "expires_at_ms": 2000}').at(now_ms) == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "no JSON"),
        ('{"payload": "x", "prioritty": 1}', "a field that no message has: 'prioritty'"),
        ("{}", "one of payload and payload_base64"),
        ('{"payload": "x", "payload_base64": ""}', "one of payload and payload_base64"),
        ('{"payload": 5}', "payload is no text"),
        ('{"payload": "\\ud800"}', "UTF-8 has no form"),
        ('{"payload_base64": "!!"}', "no base64"),
        ('{"payload_base64": 5}', "no base64"),
        ('{"payload": "x", "priority": 1.5}', "priority is no whole number"),
        ('{"payload": "x", "priority": true}', "priority is no whole number"),
        ('{"payload": "x", "priority": 9223372036854775808}', "priority is no whole number"),
        ('{"payload": "x", "due_ms": -1}', "due_ms is no whole number"),
        ('{"payload": "x", "expires_at_ms": "soon"}', "expires_at_ms is no whole number"),
        ('{"payload": "x", "key": 5}', "key is no text"),
        ('{"payload": "x", "key": "' + "k" * 256 + '"}', "key"),
        ('{"payload": "x", "headers": []}', "headers are no object"),
        ('{"payload": "x", "headers": {"a": [1]}}', "header 'a'"),
        ('{"payload": "x", "headers": {"a": {"b": 1}}}', "neither base64 nor a float"),
        ('{"payload": "x", "headers": {"a": {"base64": "!"}}}', "no base64"),
        ('{"payload": "x", "headers": {"a": {"float": "1"}}}', "neither base64 nor a float"),
        ('{"payload": "x", "headers": {"a": NaN}}', "NaN is no number of JSON"),
        ('{"payload": "x", "headers": {"": 1}}', "name of a header"),
    ],
)
def test_a_line_that_is_no_message_says_why(line: str, problem: str) -> None:
    with pytest.raises(BadLine, match=problem):
        read(line)


@given(some.one_of(some.text(max_size=80), some.binary(max_size=80)))
def test_any_line_is_a_message_or_an_error(line: str | bytes) -> None:
    try:
        read(line)
    except BadLine as error:
        assert str(error)


def shown(ask: Ask, topic: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ask("search", topic, "--count", "100000", "--json").json["messages"]
    return [{name: row[name] for name in ("priority", "key", "headers", "payload", "state")} for row in rows]


def test_what_is_exported_is_imported_into_another_topic(ask: Ask, topic: str, url: str, tmp_path: Path) -> None:
    with sync.connect(url) as client:
        jobs = client.topic(topic)
        jobs.enqueue(b"urgent", priority=9, headers={"shop": "north", "raw": b"\x00\xff"}, key="customer 1")
        jobs.enqueue(b"later", delay_ms=3_600_000)
        jobs.enqueue(b"brief", expires_ms=3_600_000)
        (held,) = jobs.pop()
        exported = ask("export", topic)
        held.nack()
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(exported.out)
    states = [json.loads(line)["state"] for line in exported.text.splitlines()]
    assert (exported.code, states) == (0, ["leased", "delayed", "ready"])
    other = f"{topic}.other"
    ask("topic", "create", other)
    assert ask("import", other, str(file), "--dry-run").text == f"3 messages would go into {other}\n"
    assert ask("search", other).code == 9
    assert ask("import", other, str(file)).text == f"3 messages went into {other}\n"
    assert shown(ask, other) == shown(ask, topic)
    (late,) = ask("search", other, "--where", "state = delayed", "--json").json["messages"]
    lines = [json.loads(line) for line in exported.text.splitlines()]
    was_due_ms, was_over_ms = lines[1]["due_ms"], lines[2]["expires_at_ms"]
    assert 0 <= late["due_ms"] - was_due_ms < UNDER_WAY_MS
    (brief,) = ask("search", other, "--where", "payload = brief", "--json").json["messages"]
    assert 0 <= brief["expires_at_ms"] - was_over_ms < UNDER_WAY_MS


def test_a_filter_and_a_count_say_what_is_exported(ask: Ask, topic: str, url: str) -> None:
    with sync.connect(url) as client:
        client.topic(topic).enqueue_many([NewMessage(b"%d" % number, number % 2) for number in range(6)])
    lines = ask("export", topic, "--where", "priority = 1", "--count", "2").text.splitlines()
    assert [json.loads(line)["payload"] for line in lines] == ["1", "3"]
    assert ask("export", topic, "--where", "priority = 7").code == 9


def test_messages_come_from_standard_input_in_several_commands(ask: Ask, topic: str) -> None:
    lines = "".join(json.dumps({"payload": f"{n}", "headers": {"n": n}}) + "\n" for n in range(1200))
    ended = ask("import", topic, "--json", stdin=lines.encode())
    assert ended.json == {"topic": topic, "enqueued_messages": 1200, "expired_messages": 0, "dry_run": False}
    assert [row["payload"] for row in shown(ask, topic)] == [f"{n}" for n in range(1200)]


def test_a_damaged_line_imports_nothing_and_is_named(ask: Ask, topic: str) -> None:
    lines = b'{"payload": "good"}\n' * 1000 + b'{"payload": "bad\n'
    ended = ask("import", topic, stdin=lines)
    assert ended.code == 2 and "line 1001 is no message: it is no JSON" in ended.err
    assert "nothing was imported" in ended.err
    assert ask("search", topic).code == 9


def test_messages_that_have_expired_are_left_out(ask: Ask, topic: str) -> None:
    ended = ask("import", topic, stdin=b'{"payload": "old", "expires_at_ms": 1000}\n{"payload": "new"}\n')
    assert ended.text == f"1 message went into {topic}\n1 had expired and was left out\n"
    assert [row["payload"] for row in shown(ask, topic)] == ["new"]


def test_an_import_that_is_refused_says_where_to_go_on(ask: Ask, topic: str) -> None:
    bounded = f"{topic}.bounded"
    ask("topic", "create", bounded, "--max-messages", "700")
    lines = b'{"payload": "x"}\n' * 1200
    ended = ask("import", bounded, stdin=lines)
    assert ended.code == 5 and "lines up to 500 are imported, go on with --from-line 501" in ended.err
    assert len(shown(ask, bounded)) == 500
    ask("purge", bounded, "--yes")
    ended = ask("import", bounded, "--from-line", "701", stdin=lines)
    assert ended.text == f"500 messages went into {bounded}\n"


def test_many_headers_are_sent_in_commands_that_hold_them(ask: Ask, topic: str) -> None:
    one = json.dumps({"payload": "x", "headers": {f"h{n}": n for n in range(250)}}).encode()
    ended = ask("import", topic, stdin=b"\n".join([one] * 100))
    assert ended.text == f"100 messages went into {topic}\n"
