"""The page on log events is what the code logs, and each event has a name, a level and fields."""

from __future__ import annotations

import pytest
from logs_page import MARK, OF_A_GROUP, PAGE, PARTS, LogCall, calls_in, find_calls, meanings, render

OUTSIDE = {"payload", "body", "headers", "secret", "password", "token", "credentials", "proof"}
"""Fields that may hold what is not for a log."""


@pytest.fixture(scope="module")
def calls() -> list[LogCall]:
    return find_calls()


def test_the_tables_are_made_from_the_code(calls: list[LogCall]) -> None:
    """`python -m tests.docs.logs_page` makes them anew."""
    page = PAGE.read_text()
    is_made = page.partition(MARK)[2].strip() == render(calls, meanings(page)).strip()
    assert is_made, "a log event has changed: run python -m tests.docs.logs_page, and write what it means"


def test_the_page_says_what_each_event_means(calls: list[LogCall]) -> None:
    meant = meanings(PAGE.read_text())
    assert [call.event for call in calls if not meant.get(call.event or "")] == []


def test_every_event_has_a_literal_name(calls: list[LogCall]) -> None:
    assert len(calls) > 80
    assert [call.place for call in calls if call.event is None] == []


def test_every_event_has_one_level_and_stands_in_one_part(calls: list[LogCall]) -> None:
    by_event: dict[str | None, set[tuple[str, str]]] = {}
    for call in calls:
        by_event.setdefault(call.event, set()).add((call.level, call.part))
    assert {event: found for event, found in by_event.items() if len(found) > 1} == {}
    assert {call.place for call in calls if call.part not in PARTS} == set()


def test_every_field_has_a_literal_name(calls: list[LogCall]) -> None:
    assert [call.place for call in calls if "**" in call.fields] == []


def test_every_event_of_a_group_names_it(calls: list[LogCall]) -> None:
    assert [call.place for call in calls if call.place.startswith(OF_A_GROUP) and "group" not in call.fields] == []


def test_no_event_has_a_field_that_may_hold_a_payload_or_a_secret(calls: list[LogCall]) -> None:
    assert [call.place for call in calls if OUTSIDE.intersection(call.fields)] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('log.info("done", size=1)', [("done", "info", ("size",), False)]),
        ('self._log.exception("failed")', [("failed", "error", (), False)]),
        ('get_logger(__name__).warning("late", exc_info=error)', [("late", "warning", (), False)]),
        ('lines.write(log.warning, "refused", remote=1)', [("refused", "warning", ("remote",), True)]),
        ("log.info(text, **fields)", [(None, "info", ("**",), False)]),
        ('math.log("x"); parser.error("no"); file.write("x")', []),
    ],
)
def test_calls_of_loggers_are_found(source: str, expected: list[tuple[object, ...]]) -> None:
    assert [tuple(call[:4]) for call in calls_in(source, "x.py")] == expected
