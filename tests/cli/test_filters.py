"""The language of `disheap search --where`: what holds, and where a wrong filter is wrong."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from disheap.cli.looking.fields import FIELDS, Shown
from disheap.cli.looking.filters import FILTER_CHARACTERS, NESTED_MAX, FilterError, parse
from disheap.protocol.broker import PeekedMessage, encode_headers

HEADERS = {
    "shop": "north",
    "retries": 3,
    "ratio": 0.5,
    "paid": True,
    "raw": b"\x00x",
    "two words": "yes",
    "order": "17",
}
NOW_MS = 1_000_000
PLAIN = Shown(
    PeekedMessage(
        7, -5, 2, NOW_MS - 600_000, "leased", 0, b'{"total": 12}', encode_headers(HEADERS), "customer 1", 4, 9
    ),
    NOW_MS,
)
LATE = Shown(PeekedMessage(8, 1 << 62, 0, NOW_MS - 1, "delayed", NOW_MS + 90_000, b"\xff", b"", ""), NOW_MS)
TASK = {"task": "shop.pay", "id": "3f2c", "argsrepr": "(17,)", "kwargsrepr": "{'fast': True}", "stamp": "blue"}
KOMBU = msgspec.msgpack.encode(["k1", b"body", None, None, "", "celery", TASK, {}])
CELERY = Shown(PeekedMessage(9, 0, 0, NOW_MS, "ready", 0, KOMBU, b"", ""), NOW_MS)


@pytest.mark.parametrize(
    "filter_text",
    [
        "id = 7",
        "priority < 0 and priority >= -5",
        "attempts != 3",
        "age = 10m",
        "age > 9.5m and age < 601s and age <= 600000",
        "size = 13 and size < 1KiB",
        "state = leased",
        "state != ready",
        "state in (ready, leased)",
        'key = "customer 1"',
        "key ~ customer",
        "session = 4",
        'payload ~ "total"',
        "header.shop = north",
        'header.shop in ("south", "north")',
        "header.shop > a and header.shop < o",
        "header.retries >= 3 and header.retries = 3.0",
        "header.ratio < 1",
        "header.paid = true",
        "header.paid != false",
        'header.raw = "\x00x"',
        'header."two words" = yes',
        "header.order = 17",
        "exists header.shop and not exists header.none",
        "not header.none = 1",
        "not (priority > 0 or state = ready)",
        "priority > 0 or priority < 0 and state = leased",
        "(priority > 0 or priority < 0) and state = leased",
        "not not id = 7",
        "not exists due and not exists task",
    ],
)
def test_a_filter_holds(filter_text: str) -> None:
    assert parse(filter_text)(PLAIN)
    assert not parse(f"not ({filter_text})")(PLAIN)


@pytest.mark.parametrize(
    "filter_text",
    [
        "header.none = 1",
        "header.none != 1",
        "header.none ~ a",
        "header.shop = 1",
        "header.retries = north",
        "header.retries ~ 3",
        "header.paid = 1",
        "header.retries = true",
        'header.retries = "3"',
        "due < 1d",
        "task != pay",
        "state = ready and header.shop = north",
    ],
)
def test_what_a_message_has_not_or_has_of_another_kind_is_not_equal(filter_text: str) -> None:
    assert not parse(filter_text)(PLAIN)


def test_a_delayed_message_has_the_time_until_it_is_due() -> None:
    assert parse("due = 90s and state = delayed and priority = 4611686018427387904")(LATE)
    assert parse("not exists key and not exists session and size = 1")(LATE)


@pytest.mark.parametrize(
    "filter_text",
    [
        "task = shop.pay",
        "task ~ shop. and task_id = 3f2c",
        "task_args ~ 17",
        'task_kwargs ~ "fast"',
        "header.stamp = blue and header.task = shop.pay",
    ],
)
def test_a_filter_reads_what_celery_says_of_a_task(filter_text: str) -> None:
    assert parse(filter_text)(CELERY)
    assert CELERY.task()["task"] == "shop.pay"


@pytest.mark.parametrize("payload", [b"", b"\x98\xa2k1", b"\x98\xa2k1\xff\xff", b"\x91\x01"])
def test_a_payload_that_is_no_message_of_kombu_has_no_task(payload: bytes) -> None:
    shown = Shown(PeekedMessage(1, 0, 0, 0, "ready", 0, payload, b"\xc1", ""), 0)
    assert (shown.task(), shown.kombu, shown.headers) == ({}, {}, {})


@pytest.mark.parametrize(
    ("filter_text", "place", "problem"),
    [
        ("", 0, "expected the name of a field, not the end"),
        ("   ", 3, "expected the name of a field, not the end"),
        ("priorty > 5", 0, "there is no field 'priorty'; did you mean 'priority'?"),
        ("zzz = 1", 0, "there are id, priority,"),
        ("priority >> 5", 10, "expected a value, not '>'"),
        ("priority > high", 11, "expected a number, not 'high'"),
        ('priority > "5"', 11, "expected a number, not '5'"),
        ("age > 5 parsecs", 8, "expected `and`, `or` or the end, not 'parsecs'"),
        ("age > 5y", 6, "expected a duration, such as"),
        ("size > 1m", 7, "expected a size, such as"),
        ("priority 5", 9, "expected =, !=, <, <=, >, >=, ~ or in (...), not '5'"),
        ("priority", 8, "expected =, !="),
        ("priority ~ 5", 9, "~ compares texts"),
        ("state = gone", 8, "a state is one of ready, delayed, leased"),
        ("state > ready", 6, "a state is compared by ="),
        ("state in ready", 9, "expected (, not 'ready'"),
        ("state in (ready", 15, "expected ), not the end"),
        ("(id = 1", 7, "expected ), not the end"),
        ("id = 1)", 6, "expected `and`"),
        ("id = 1 and", 10, "expected the name of a field, not the end"),
        ('key = "open', 6, "has no closing"),
        ("key ! 5", 4, "! is only part of !="),
        ("header. = 5", 0, "there is no field 'header.'"),
        ("and id = 1", 0, "there is no field 'and'"),
        ("not " * (NESTED_MAX + 1) + "id = 1", 4 * NESTED_MAX, "nested at most"),
        ("(" * (NESTED_MAX + 1) + "id = 1", NESTED_MAX, "nested at most"),
        ("x" * (FILTER_CHARACTERS + 1), FILTER_CHARACTERS, "at most 10000 characters"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused_with_its_place(filter_text: str, place: int, problem: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(filter_text)
    assert problem in str(caught.value)
    assert caught.value.place == place


def test_a_long_filter_takes_no_deep_stack() -> None:
    many = " or ".join(["id = 1"] * 600)
    assert not parse(many)(PLAIN)
    assert parse(f"{many} or id = 7")(PLAIN)


SIGNS = ("(", ")", "and", "or", "not", "in", "exists", "=", "<", "~", ",")
PIECES = (*SIGNS, '"a"', "5", "10m", "ready", "header.x", *FIELDS)


@given(some.one_of(some.text(max_size=60), some.lists(some.sampled_from(PIECES), max_size=12).map(" ".join)))
def test_any_text_is_a_filter_or_an_error_within_the_text(text: str) -> None:
    try:
        holds = parse(text)
    except FilterError as error:
        assert 0 <= error.place <= len(text)
    else:
        for shown in (PLAIN, LATE, CELERY):
            assert parse(f"not ({text})")(shown) is not holds(shown)
