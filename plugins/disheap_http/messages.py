"""A request and an answer, as the pages see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from disheap.errors import InvalidArgument
from disheap_http.settings import QUERY_FIELDS_MAX

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """A GET or HEAD. `query` is what stands behind the question mark, decoded by nobody yet."""

    path: str
    query: str
    accept: str

    def fields(self, *known: str) -> Mapping[str, str]:
        """The fields of the query. Raises `InvalidArgument` for a field that is not `known`, or is given twice."""
        try:
            pairs = parse_qsl(
                self.query, keep_blank_values=True, strict_parsing=bool(self.query), max_num_fields=QUERY_FIELDS_MAX,
                errors="strict",
            )  # fmt: skip
        except ValueError:
            raise InvalidArgument(
                f"the query is not NAME=VALUE, joined by &; {self.path} knows {_names(known)}"
            ) from None
        fields = dict(pairs)
        unknown = [name for name in fields if name not in known]
        if unknown:
            raise InvalidArgument(f"{self.path} knows no field {unknown[0]!r}; it knows {_names(known)}")
        if len(fields) < len(pairs):
            raise InvalidArgument("a field of the query is given twice; give each once")
        return fields


class Answer(NamedTuple):
    """Status, body and type. `allow` is the header of that name, for a wrong method."""

    status: int
    body: bytes
    content_type: str = JSON
    allow: str = ""


def as_json(status: int, content: Mapping[str, Any]) -> Answer:
    """One JSON object and a line feed, for people at a terminal."""
    return Answer(status, msgspec.json.encode(content) + b"\n")


def refusal(status: int, reason: str, **more: Any) -> Answer:
    """Says what is wrong with a request."""
    return as_json(status, {"error": reason, **more})


def read_number(fields: Mapping[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    """The whole number of that field. Raises `InvalidArgument`."""
    text = fields.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and lowest <= int(text) <= highest):
        raise InvalidArgument(f"{name} = {text[:40]!r} is not a whole number from {lowest} to {highest}")
    return int(text)


def _names(known: tuple[str, ...]) -> str:
    return ", ".join(known) or "none"
