"""Tables into structs: strict from files, by the field's type from words, and always with the name of what is wrong."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from disheap.errors import ConfigError
from disheap.plugins.settings import Text, check_bounds, convert, describe


class Level(Enum):
    LOW = "low"
    HIGH = "high"


class Inner(msgspec.Struct, frozen=True):
    depth: Annotated[int, Meta(gt=0, multiple_of=2)] = 2


class Sample(msgspec.Struct, frozen=True):
    url: Annotated[str, Meta(min_length=1, pattern="^x", description="where")]
    count: Annotated[int, Meta(ge=1, le=5)] = 1
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    hosts: tuple[str, ...] = ("a",)
    mode: Literal["fast", "safe"] = "safe"
    level: Level = Level.LOW
    limit: int | None = None
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.count == 5 and self.mode == "fast":
            raise ValueError("five is not fast")


def text(words: str) -> Text:
    return Text(words, "$VAR")


def test_words_take_the_type_of_their_field() -> None:
    table = {
        "url": text("x1"),
        "count": text("4"),
        "share": text("0.25"),
        "hosts": text("a, b ,,c"),
        "mode": text("fast"),
        "level": text("high"),
        "limit": text("9"),
        "inner": {"depth": text("4")},
    }
    expected = Sample("x1", 4, 0.25, ("a", "b", "c"), "fast", Level.HIGH, 9, Inner(4))
    assert convert(Sample, table, "storage.x", "file") == expected


def test_words_that_look_like_a_number_stay_words_where_words_are_wanted() -> None:
    class Secret(msgspec.Struct):
        password: str

    assert convert(Secret, {"password": text("1234")}, "x", "file").password == "1234"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, r"file: \[storage\.x\] url is missing, and has no default"),
        ({"url": "x", "count": True}, r"file: \[storage\.x\] count = True does not fit"),
        ({"url": "x", "count": "1"}, r"count = '1' does not fit: Expected `int`, got `str`"),
        ({"url": "x", "count": text("six")}, r"\$VAR: \[storage\.x\] count = six does not fit"),
        ({"url": "y"}, r"url = 'y' does not fit: Expected `str` matching"),
        ({"url": "x", "share": 1.0}, r"share = 1\.0 does not fit: Expected `float` < 1"),
        ({"url": "x", "mode": "slow"}, r"mode = 'slow' does not fit: .*; one of 'fast' \| 'safe'"),
        ({"url": "x", "hosts": [1]}, r"hosts = \[1\] does not fit"),
        ({"url": "x", "inner": {"depth": 3}}, r"\[storage\.x\.inner\] depth = 3 does not fit"),
        ({"url": "x", "inner": {"deep": 3}}, r"unknown setting 'deep' in \[storage\.x\.inner\]"),
        ({"url": "x", "cuont": 3}, r"unknown setting 'cuont' in \[storage\.x\]\. Did you mean count\?"),
        ({"url": "x", "extra": {"a": text("1")}}, r"^\$VAR: unknown setting 'extra'"),
        ({"url": "x", "count": 5, "mode": "fast"}, r"file: \[storage\.x\]: five is not fast"),
    ],
)
def test_what_does_not_fit_is_named(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        convert(Sample, table, "storage.x", "file")


def test_a_description_has_type_default_and_bounds_of_every_setting() -> None:
    assert [tuple(row) for row in describe(Sample)] == [
        ("url", "str", "", "length >= 1, matches ^x", "where"),
        ("count", "int", "1", ">= 1, <= 5", ""),
        ("share", "float", "0.5", "> 0, < 1", ""),
        ("hosts", "list of str", '["a"]', "", ""),
        ("mode", "'fast' | 'safe'", '"safe"', "", ""),
        ("level", "Level", '"low"', "", ""),
        ("limit", "int | none", "null", "", ""),
        ("inner", "Inner", '{"depth":2}', "", ""),
    ]


def test_a_struct_built_in_python_is_checked_against_the_same_bounds() -> None:
    check_bounds(Sample("x"), "x")
    with pytest.raises(ConfigError, match=r"given in Python: \[x\] count = 6 does not fit"):
        check_bounds(Sample("x", count=6), "x")
