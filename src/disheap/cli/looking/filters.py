"""A small language that says which messages are meant: `priority >= 5 and header.shop = "north" and age > 10m`.

    filter  = all { "or" all }
    all     = one { "and" one }
    one     = "not" one | "(" filter ")" | "exists" field | field test
    test    = ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) value | "in" "(" value { "," value } ")"
    field   = a name of `FIELDS` | "header." name
    value   = a word | text in double quotes

A comparison with a field that the message has not is false, `!=` as well. `~` asks whether a text contains another. The
language is parsed by recursive descent over a list of tokens. `FilterError` knows the place of what is wrong.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from disheap.cli.looking.fields import FIELDS, HEADER, STATES, Field, Shown, header_field

Predicate = Callable[[Shown], bool]

FILTER_CHARACTERS = 10_000
NESTED_MAX = 50
"""Parentheses and `not` inside one another. Each costs the parser some frames of the stack."""
_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign>!=|<=|>=|[=<>~(),])|(?P<word>[^\s"=!<>~(),]+)|(?P<end>$))'
)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_DURATIONS = {"": 1, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_UNITS: dict[str, dict[str, int]] = {"duration": _DURATIONS, "size": _SIZES, "number": {"": 1}, "any": {"": 1}}
_WANTED = {
    "number": "a number",
    "duration": "a duration, such as 500ms, 10s, 5m, 2h or 1d",
    "size": "a size, such as 100 or 4KiB",
}
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)([A-Za-z]*)", re.ASCII)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class FilterError(ValueError):
    """Text that is no filter. `place` counts characters from 0."""

    def __init__(self, place: int, problem: str) -> None:
        super().__init__(problem)
        self.place = place


class Token(NamedTuple):
    """A piece of the text. `kind`: "text", "sign", "word" or "end"."""

    kind: str
    value: str
    start: int
    end: int


def parse(text: str) -> Predicate:
    """The filter that the text describes. Raises `FilterError`."""
    if len(text) > FILTER_CHARACTERS:
        raise FilterError(FILTER_CHARACTERS, f"a filter has at most {FILTER_CHARACTERS} characters")
    return Parser(_tokens(text)).whole()


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    place = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(text, place)
        if match is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            problem = 'the text that begins here has no closing "' if text[start] == '"' else "! is only part of !="
            raise FilterError(start, problem)
        kind = str(match.lastgroup)
        value = match[kind]
        value = _ESCAPED.sub(r"\1", value[1:-1]) if kind == "text" else value
        found.append(Token(kind, value, match.start(kind), match.end(kind)))
        place = match.end()
    return found


class Parser:
    """Reads tokens from the first to the last."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Predicate:
        """The whole text. Raises `FilterError`."""
        found = self._any()
        if self._next.kind != "end":
            self._wrong(f"expected `and`, `or` or the end, not {self._next.value!r}")
        return found

    # --- rules ---

    def _any(self) -> Predicate:
        parts = [self._all()]
        while self._takes("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else lambda shown: any(part(shown) for part in parts)

    def _all(self) -> Predicate:
        parts = [self._one()]
        while self._takes("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda shown: all(part(shown) for part in parts)

    def _one(self) -> Predicate:
        self._depth += 1
        if self._depth > NESTED_MAX:
            self._wrong(f"a filter is nested at most {NESTED_MAX} deep")
        found = self._nested()
        self._depth -= 1
        return found

    def _nested(self) -> Predicate:
        if self._takes("not"):
            part = self._one()
            return lambda shown: not part(shown)
        if self._takes_sign("("):
            part = self._any()
            self._expect(")")
            return part
        if self._takes("exists"):
            read = self._field().read
            return lambda shown: read(shown) is not None
        return self._test(self._field())

    def _field(self) -> Field:
        token = self._take()
        if token.kind != "word":
            self._wrong(f"expected the name of a field, not {_named(token)}", token)
        name = token.value
        if name == HEADER and self._next.kind == "text" and self._next.start == token.end:
            return header_field(self._take().value)
        if name.startswith(HEADER) and len(name) > len(HEADER):
            return header_field(name.removeprefix(HEADER))
        if name not in FIELDS:
            near = difflib.get_close_matches(name, [*FIELDS, HEADER], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(FIELDS)} and header.NAME"
            self._wrong(f"there is no field {name!r}; {hint}", token)
        return FIELDS[name]

    def _test(self, field: Field) -> Predicate:
        if self._takes("in"):
            self._expect("(")
            tests = [self._compared(field, "=")]
            while self._takes_sign(","):
                tests.append(self._compared(field, "="))
            self._expect(")")
            return lambda shown: any(test(shown) for test in tests)
        token = self._take()
        if token.kind != "sign" or token.value in "(),":
            self._wrong(f"expected =, !=, <, <=, >, >=, ~ or in (...), not {_named(token)}", token)
        if token.value == "~" and field.kind not in ("text", "any"):
            self._wrong("~ compares texts, and this field is none", token)
        if field.kind == "state" and token.value not in ("=", "!="):
            self._wrong("a state is compared by =, != or in (...)", token)
        return self._compared(field, token.value)

    def _compared(self, field: Field, sign: str) -> Predicate:
        token = self._take()
        if token.kind not in ("text", "word"):
            self._wrong(f"expected a value, not {_named(token)}", token)
        if field.kind == "state" and token.value not in STATES:
            self._wrong(f"a state is one of {', '.join(STATES)}", token)
        read, text = field.read, token.value
        if sign == "~":
            return lambda shown: isinstance(actual := read(shown), str) and text in actual
        number = _number(token, field.kind)
        if number is None and field.kind in _WANTED:
            self._wrong(f"expected {_WANTED[field.kind]}, not {text!r}", token)
        truth = {"true": True, "false": False}.get(text) if token.kind == "word" else None
        order = _ORDER[sign]

        def holds(shown: Shown) -> bool:
            match read(shown):
                case bool(actual):
                    return truth is not None and order(actual, truth)
                case int(actual) | float(actual):
                    return number is not None and order(actual, number)
                case str(actual):
                    return order(actual, text)
                case bytes(actual):
                    return order(actual, text.encode())
            return False

        return holds

    # --- tokens ---

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _takes(self, word: str) -> bool:
        return self._takes_if(self._next.kind == "word" and self._next.value == word)

    def _takes_sign(self, sign: str) -> bool:
        return self._takes_if(self._next.kind == "sign" and self._next.value == sign)

    def _takes_if(self, is_it: bool) -> bool:
        self._at += is_it
        return is_it

    def _expect(self, sign: str) -> None:
        if not self._takes_sign(sign):
            self._wrong(f"expected {sign}, not {_named(self._next)}")

    def _wrong(self, problem: str, token: Token | None = None) -> NoReturn:
        raise FilterError((token or self._next).start, problem)


def _named(token: Token) -> str:
    return "the end" if token.kind == "end" else repr(token.value)


def _number(token: Token, kind: str) -> int | float | None:
    """The number in a value, in the field's unit; None if it is none."""
    match = _NUMBER.fullmatch(token.value) if token.kind == "word" else None
    units = _UNITS.get(kind, {})
    if match is None or match[2] not in units:
        return None
    return (float(match[1]) if "." in match[1] else int(match[1])) * units[match[2]]
